//! Keys of people who are signed in: what is the same request, and what takes a key.

use annals_domain::Role;
use annals_tests::{PASSWORD, TestApp};
use reqwest::{Method, StatusCode};
use serde_json::json;

use super::{KEY, ROUTES, assert_replays, create_route, is_replay, kept, route};

#[tokio::test]
async fn a_repeated_write_gets_the_first_answer_and_appends_nothing() {
    let app = TestApp::new().await;
    let editor = app.person(Role::Editor).await;
    let first = create_route(&editor, "k1", &route("/one"))
        .await
        .assert_status(StatusCode::CREATED);
    let head = app.head().await;
    // The quoted form of the draft is the same key.
    for key in ["k1", "\"k1\""] {
        assert_replays(&create_route(&editor, key, &route("/one")).await, &first);
    }
    let path = format!("{ROUTES}/{}", first.body["route_id"].as_str().unwrap());
    let change = || {
        editor
            .request(Method::PUT, &path)
            .header(KEY, "k2")
            .json(&route("/two"))
    };
    let changed = change().send().await.assert_status(StatusCode::OK);
    assert!(app.head().await > head);
    let delete = || editor.request(Method::DELETE, &path).header(KEY, "k3");
    let deleted = delete().send().await.assert_status(StatusCode::OK);
    let head = app.head().await;
    assert_replays(&delete().send().await, &deleted);
    // What was answered then, whatever has become of it since.
    assert_replays(&change().send().await, &changed);
    assert_replays(&create_route(&editor, "k1", &route("/one")).await, &first);
    assert_eq!(app.head().await, head);
    app.finish().await;
}

#[tokio::test]
async fn a_key_used_for_another_request_is_refused() {
    let app = TestApp::new().await;
    let editor = app.person(Role::Editor).await;
    let first = create_route(&editor, "k", &route("/one"))
        .await
        .assert_status(StatusCode::CREATED);
    let item = format!("{ROUTES}/{}", first.body["route_id"].as_str().unwrap());
    let text = route("/one").to_string();
    let others = [
        editor.request(Method::POST, ROUTES).json(&route("/other")),
        editor.request(Method::POST, "/api/v1/routes?x=1").json(&route("/one")),
        editor.request(Method::PUT, &item).json(&route("/one")),
        editor.request(Method::DELETE, &item),
        editor
            .request(Method::POST, ROUTES)
            .body("application/json; charset=utf-8", text),
    ];
    let head = app.head().await;
    for other in others {
        let answer = other.header(KEY, "k").send().await;
        answer.assert_problem(422, "IDEMPOTENCY_KEY_REUSED");
        assert_eq!(answer.body["error"]["field"], "Idempotency-Key");
    }
    assert_eq!(app.head().await, head);
    app.finish().await;
}

#[tokio::test]
async fn two_principals_with_one_key_do_not_meet() {
    let app = TestApp::new().await;
    let (one, other) = (app.person(Role::Editor).await, app.person(Role::Editor).await);
    let first = create_route(&one, "same", &route("/one"))
        .await
        .assert_status(StatusCode::CREATED);
    let second = create_route(&other, "same", &route("/two"))
        .await
        .assert_status(StatusCode::CREATED);
    assert!(!is_replay(&second) && first.text != second.text);
    // Not even with the very same request: the slug is taken, which is what the other one has to be told.
    create_route(&other, "else", &route("/one"))
        .await
        .assert_problem(409, "route.slug_taken");
    // Another session of the same account is the same principal.
    let again = app.sign_in(one.email(), PASSWORD).await;
    assert_replays(&create_route(&again, "same", &route("/one")).await, &first);
    app.finish().await;
}

#[tokio::test]
async fn a_refusal_leaves_the_key_free() {
    let app = TestApp::new().await;
    let editor = app.person(Role::Editor).await;
    create_route(&editor, "other", &route("/taken"))
        .await
        .assert_status(StatusCode::CREATED);
    create_route(&editor, "k", &json!({}))
        .await
        .assert_problem(400, "VALIDATION_ERROR");
    create_route(&editor, "k", &route("/taken"))
        .await
        .assert_problem(409, "route.slug_taken");
    let unknown = "/api/v1/routes/01890a5d-ac96-774b-bcce-b302099a8057";
    let missing = editor.request(Method::DELETE, unknown).header(KEY, "k").send().await;
    missing.assert_problem(404, "route.not_found");
    assert_eq!(kept(&app).await, 1);
    let created = create_route(&editor, "k", &route("/free"))
        .await
        .assert_status(StatusCode::CREATED);
    assert!(!is_replay(&created));
    assert_replays(&create_route(&editor, "k", &route("/free")).await, &created);
    // Nor does a failed sign-in take it, though it is recorded behind the answer.
    let sign_in = |password: &str| {
        let body = json!({ "email": editor.email(), "password": password });
        app.request(Method::POST, "/api/v1/auth/login")
            .header(KEY, "k")
            .json(&body)
            .send()
    };
    for _ in 0..2 {
        let refused = sign_in("Wrong!Horse7").await;
        assert_eq!(refused.status, StatusCode::UNAUTHORIZED, "{}", refused.text);
        assert!(!is_replay(&refused));
    }
    app.finish().await;
}

#[tokio::test]
async fn a_write_that_changes_nothing_keeps_nothing() {
    let app = TestApp::new().await;
    let person = app.register().await;
    let rename = |key: &str| {
        let request = person.request(Method::PUT, "/api/v1/users/me").header(KEY, key);
        request.json(&json!({ "full_name": "Grace Example" })).send()
    };
    rename("first").await.assert_status(StatusCode::OK);
    let before = kept(&app).await;
    let again = rename("second").await.assert_status(StatusCode::OK);
    assert!(!is_replay(&again));
    assert_eq!(kept(&app).await, before);
    app.finish().await;
}

#[tokio::test]
async fn reads_ignore_the_header() {
    let app = TestApp::new().await;
    let editor = app.person(Role::Editor).await;
    for key in ["k", "not a key"] {
        let answer = editor.request(Method::GET, ROUTES).header(KEY, key).send().await;
        assert!(!is_replay(&answer.assert_status(StatusCode::OK)));
    }
    app.get("/no-such-page").await.assert_problem(404, "route.not_found");
    app.finish().await;
}

#[tokio::test]
async fn browsers_may_send_the_key_and_read_that_an_answer_is_old() {
    let app = TestApp::with(|config| config.cors.origins = vec!["https://app.example.com".to_owned()]).await;
    let editor = app.person(Role::Editor).await;
    let origin = "https://app.example.com";
    let preflight = app
        .request(Method::OPTIONS, ROUTES)
        .header("origin", origin)
        .header("access-control-request-method", "POST")
        .header("access-control-request-headers", KEY)
        .send()
        .await;
    assert!(preflight.header("access-control-allow-headers").contains(KEY));
    let send = |origin: Option<&str>| {
        let request = editor.request(Method::POST, ROUTES).header(KEY, "k");
        let request = match origin {
            Some(origin) => request.header("origin", origin),
            None => request,
        };
        request.json(&route("/one")).send()
    };
    let first = send(None).await.assert_status(StatusCode::CREATED);
    let again = send(Some(origin)).await.assert_status(StatusCode::CREATED);
    assert!(is_replay(&again) && again.text == first.text);
    // Headers of CORS are of the request at hand, not of the first one.
    assert_eq!(again.header("access-control-allow-origin"), origin);
    assert!(
        again
            .header("access-control-expose-headers")
            .contains("idempotency-replayed")
    );
    app.finish().await;
}

#[tokio::test]
async fn a_body_beyond_the_limit_is_refused_before_its_key_is_looked_at() {
    let app = TestApp::new().await;
    let editor = app.person(Role::Editor).await;
    let chunks = (0..300).map(|_| Ok::<_, std::io::Error>(vec![b'x'; 4096]));
    let large = reqwest::Body::wrap_stream(futures::stream::iter(chunks));
    let answer = editor
        .request(Method::POST, ROUTES)
        .header(KEY, "k")
        .body("application/json", large);
    answer.send().await.assert_problem(413, "PAYLOAD_TOO_LARGE");
    app.finish().await;
}
