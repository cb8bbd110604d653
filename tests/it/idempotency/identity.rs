//! Keys of strangers, and of sessions that the request itself begins or ends.

use annals_domain::Role;
use annals_tests::{Caller, PASSWORD, TestApp};
use reqwest::{Method, StatusCode};
use serde_json::json;

use super::{KEY, assert_replays, is_replay};

#[tokio::test]
async fn strangers_get_their_own_answer_again_and_nobody_elses() {
    let app = TestApp::new().await;
    let register = |path: &str, email: &str| {
        let body = json!({ "email": email, "password": PASSWORD, "name": "Ada" });
        app.request(Method::POST, path).header(KEY, "register").json(&body)
    };
    let path = "/api/v1/auth/register";
    let first = register(path, "ada@example.com")
        .send()
        .await
        .assert_status(StatusCode::CREATED);
    assert!(first.text.contains("access_token"));
    assert_replays(&register(path, "ada@example.com").send().await, &first);
    // A token that came along does not make a stranger's request somebody's.
    let editor = app.person(Role::Editor).await;
    let along = register(path, "ada@example.com").bearer(editor.token()).send().await;
    assert_replays(&along, &first);
    // The same key under another request is another stranger's: it learns nothing, and nothing is in its way.
    let second = register(path, "grace@example.com")
        .send()
        .await
        .assert_status(StatusCode::CREATED);
    assert!(!is_replay(&second));
    let guess = json!({ "email": "ada@example.com", "password": "Correct!Horse8", "name": "Ada" });
    let guessed = app
        .request(Method::POST, path)
        .header(KEY, "register")
        .json(&guess)
        .send()
        .await;
    guessed.assert_problem(409, "AUTH_EMAIL_EXISTS");
    // The unversioned alias is another path, so the same wish is not the same request.
    let alias = register("/api/auth/register", "alan@example.com");
    let alias = alias.send().await.assert_status(StatusCode::CREATED);
    assert_replays(&register("/api/auth/register", "alan@example.com").send().await, &alias);
    app.finish().await;
}

#[tokio::test]
async fn tokens_are_given_again_to_whoever_asks_with_the_same_proof() {
    let app = TestApp::new().await;
    let person = app.register().await;
    let sign_in = || {
        let body = json!({ "email": person.email(), "password": PASSWORD });
        app.request(Method::POST, "/api/v1/auth/login")
            .header(KEY, "in")
            .json(&body)
    };
    let first = sign_in().send().await.assert_status(StatusCode::OK);
    assert!(
        first.headers.contains_key("set-cookie"),
        "browsers get their cookie again too"
    );
    let head = app.head().await;
    assert_replays(&sign_in().send().await, &first);
    let refresh = || {
        let body = json!({ "refresh_token": first.body["refresh_token"] });
        app.request(Method::POST, "/api/v1/auth/refresh")
            .header(KEY, "on")
            .json(&body)
    };
    let refreshed = refresh().send().await.assert_status(StatusCode::OK);
    // The token shown is void by now; the answer to its use is still its bearer's.
    assert_replays(&refresh().send().await, &refreshed);
    assert_eq!(app.head().await.get(), head.get() + 1);
    app.finish().await;
}

#[tokio::test]
async fn an_answer_after_a_commit_is_kept_even_when_it_is_a_refusal() {
    let app = TestApp::with(|config| config.token.refresh_lifetime_s = 1).await;
    let person = app.register().await;
    tokio::time::sleep(std::time::Duration::from_millis(1100)).await; // the session has to be past its time
    let refresh = |key: &str| {
        let body = json!({ "refresh_token": person.refresh_token() });
        let request = app.request(Method::POST, "/api/v1/auth/refresh").header(KEY, key);
        request.header("accept", "application/problem+json").json(&body)
    };
    let head = app.head().await;
    let first = refresh("late").send().await.assert_status(StatusCode::UNAUTHORIZED);
    assert_eq!(
        app.head().await.get(),
        head.get() + 1,
        "the end of the session is recorded"
    );
    assert_eq!(first.header("content-type"), "application/problem+json");
    assert_eq!(first.body["request_id"], first.header("x-request-id"));
    assert_replays(&refresh("late").send().await, &first);
    app.finish().await;
}

#[tokio::test]
async fn signing_out_is_answered_again_although_it_has_ended_the_session() {
    let app = TestApp::new().await;
    let person = app.register().await;
    let sign_out = |caller: &Caller, key: &str| {
        let request = caller.request(Method::POST, "/api/v1/auth/logout").header(KEY, key);
        request.json(&json!({ "all_sessions": false }))
    };
    let renamed = person
        .request(Method::PUT, "/api/v1/users/me")
        .header(KEY, "rename")
        .json(&json!({ "full_name": "Grace Example" }))
        .send()
        .await
        .assert_status(StatusCode::OK);
    let first = sign_out(&person, "out").send().await.assert_status(StatusCode::OK);
    let head = app.head().await;
    assert_replays(&sign_out(&person, "out").send().await, &first);
    // The token is good for that one answer alone.
    let other = sign_out(&person, "another").send().await;
    assert_eq!(other.status, StatusCode::UNAUTHORIZED, "{}", other.text);
    let rename = person.request(Method::PUT, "/api/v1/users/me").header(KEY, "rename");
    let refused = rename.json(&json!({ "full_name": "Grace Example" })).send().await;
    assert_eq!(refused.status, StatusCode::UNAUTHORIZED, "{}", refused.text);
    // Nor does a session of the same person that goes on by itself open it to one that has ended otherwise.
    let second = app.sign_in(person.email(), PASSWORD).await;
    let rename = second.request(Method::PUT, "/api/v1/users/me").header(KEY, "rename");
    assert_replays(
        &rename.json(&json!({ "full_name": "Grace Example" })).send().await,
        &renamed,
    );
    assert!(app.head().await.get() <= head.get() + 1, "nothing but a sign-in");
    app.finish().await;
}

#[tokio::test]
async fn the_contract_of_django_replays_in_its_own_words() {
    let app = TestApp::new().await;
    let register = || {
        let body = json!({
            "username": "ada", "email": "ada@example.com", "password": PASSWORD, "password_confirm": PASSWORD,
        });
        app.request(Method::POST, "/api/auth/register/")
            .header(KEY, "d")
            .json(&body)
    };
    let first = register().send().await.assert_status(StatusCode::CREATED);
    let head = app.head().await;
    assert_replays(&register().send().await, &first);
    let form = || {
        let body = format!("first_credential=ada&password={PASSWORD}");
        let request = app.request(Method::POST, "/api/auth/login/").header(KEY, "f");
        request.body("application/x-www-form-urlencoded", body)
    };
    let signed_in = form().send().await.assert_status(StatusCode::OK);
    assert_replays(&form().send().await, &signed_in);
    assert_eq!(app.head().await.get(), head.get() + 1);
    let malformed = app
        .request(Method::POST, "/api/auth/login/")
        .header(KEY, "a b")
        .send()
        .await;
    assert_eq!(malformed.status, StatusCode::BAD_REQUEST);
    assert!(
        malformed.body["detail"]
            .as_str()
            .unwrap()
            .starts_with("Idempotency-Key"),
        "{}",
        malformed.text
    );
    app.finish().await;
}
