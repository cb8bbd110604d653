//! What a token is good for, and ending what it stands for.

use annals_domain::Role;
use annals_tests::{Answer, Neighbour, PASSWORD, TestApp};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

const INTROSPECT: &str = "/api/v1/auth/introspect";
const REVOKE: &str = "/api/v1/auth/revoke";
const ME: &str = "/api/v1/auth/me";
const FORM: &str = "application/x-www-form-urlencoded";

#[track_caller]
fn assert_inactive(answer: &Answer) {
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.text);
    assert_eq!(answer.body, json!({ "active": false }));
}

#[tokio::test] // TK-1
async fn a_live_token_says_what_it_is_and_every_other_one_nothing() {
    let app = TestApp::new().await;
    let ada = app.register().await;
    let eve = app.register().await;
    let admin = app.administrator().await;
    let ask = |token: &str| json!({ "token": token });
    app.post(INTROSPECT, &ask(ada.token()))
        .await
        .assert_problem(401, "UNAUTHORIZED");

    let access = ada
        .post(INTROSPECT, &ask(ada.token()))
        .await
        .assert_status(StatusCode::OK);
    assert_eq!(access.header("cache-control"), "no-store");
    assert_eq!(
        access.redacted(&["/sid", "/username", "/exp"]),
        json!({
            "active": true, "token_type": "Bearer", "sub": ada.user_id(), "sid": "[…]", "username": "[…]",
            "scope": "editor", "exp": "[…]",
        })
    );
    let form = format!("token={}&token_type_hint=access_token", ada.refresh_token());
    let refresh = ada.request(Method::POST, INTROSPECT).body(FORM, form).send().await;
    assert_eq!(
        (&refresh.body["active"], &refresh.body["token_type"]),
        (&json!(true), &json!("refresh_token"))
    );
    assert_eq!(refresh.body["sid"], access.body["sid"]);
    let seen = admin.post(INTROSPECT, &ask(ada.token())).await;
    assert_eq!(seen.body["sub"], ada.user_id());

    assert_inactive(&eve.post(INTROSPECT, &ask(ada.token())).await);
    let forged = format!("{}A", ada.token());
    for token in ["", "garbage", "a.b.c", &forged, &ada.refresh_token()[1..]] {
        assert_inactive(&ada.post(INTROSPECT, &ask(token)).await);
    }
    // Exchanged, then ended.
    app.post("/api/v1/auth/refresh", &json!({ "refresh_token": ada.refresh_token() }))
        .await
        .assert_status(StatusCode::OK);
    assert_inactive(&admin.post(INTROSPECT, &ask(ada.refresh_token())).await);
    ada.post("/api/v1/auth/logout", &json!({}))
        .await
        .assert_status(StatusCode::OK);
    assert_inactive(&admin.post(INTROSPECT, &ask(ada.token())).await);
    // A user who was disabled.
    let cx = annals_domain::Caller::system("test", uuid::Uuid::now_v7());
    let user = eve.user_id().parse().unwrap();
    annals_commands::user::disable(&app.state().on_behalf_of(&cx), user, "test".to_owned(), None)
        .await
        .unwrap();
    assert_inactive(&admin.post(INTROSPECT, &ask(eve.token())).await);
    for body in [json!({}), json!({ "token": 7 }), json!([])] {
        let answer = admin.post(INTROSPECT, &body).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{}", answer.text);
    }
    app.finish().await;
}

#[tokio::test] // TK-2
async fn a_token_is_revoked_with_its_session_in_every_process() {
    let app = TestApp::new().await;
    let second = Neighbour::of(&app).await;
    let ada = app.register().await;
    let elsewhere = app.sign_in(ada.email(), PASSWORD).await;
    let at_second = async |token: &str| {
        let answer = app.client().get(second.url(ME)).bearer_auth(token).send().await;
        answer.expect("an answer").status()
    };
    assert_eq!(at_second(ada.token()).await, StatusCode::OK);
    let form = format!("token={}&token_type_hint=access_token", ada.refresh_token());
    for _ in 0..2 {
        let answer = app
            .request(Method::POST, REVOKE)
            .body(FORM, form.clone())
            .send()
            .await
            .assert_status(StatusCode::OK);
        assert_eq!(answer.body["message"], "Token revoked successfully");
        assert_eq!(at_second(ada.token()).await, StatusCode::UNAUTHORIZED);
    }
    app.post("/api/v1/auth/refresh", &json!({ "refresh_token": ada.refresh_token() }))
        .await
        .assert_problem(401, "AUTH_INVALID_REFRESH_TOKEN");
    elsewhere.get(ME).await.assert_status(StatusCode::OK);

    let head = app.head().await;
    for token in ["unknown", "a.b.c", &"A".repeat(86)] {
        app.post(REVOKE, &json!({ "token": token }))
            .await
            .assert_status(StatusCode::OK);
    }
    assert_eq!(app.head().await, head);
    // Without a token it is the one of the request.
    app.post(REVOKE, &json!({})).await.assert_problem(401, "UNAUTHORIZED");
    elsewhere.post(REVOKE, &json!({})).await.assert_status(StatusCode::OK);
    elsewhere.get(ME).await.assert_problem(401, "UNAUTHORIZED");
    for (media_type, body) in [
        (FORM, ""),
        (FORM, "token"),
        (FORM, "token=a&token=b"),
        (FORM, "token=%ff"),
    ] {
        let answer = app.request(Method::POST, REVOKE).body(media_type, body).send().await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{body}: {}", answer.text);
    }
    second.finish().await;
    app.finish().await;
}

#[tokio::test]
async fn a_signed_refresh_token_is_known_and_revoked_too() {
    let app = TestApp::new().await;
    let admin = app.person(Role::Administrator).await;
    let body = json!({ "first_credential": admin.email(), "password": PASSWORD });
    let django = app
        .post("/api/auth/login/", &body)
        .await
        .assert_status(StatusCode::OK)
        .body;
    let refresh = django["refresh"].as_str().unwrap();
    let token = json!({ "token": refresh });
    let found = admin.post(INTROSPECT, &token).await;
    assert_eq!(
        (&found.body["active"], &found.body["token_type"]),
        (&json!(true), &json!("refresh_token"))
    );
    app.post(REVOKE, &token).await.assert_status(StatusCode::OK);
    assert_inactive(&admin.post(INTROSPECT, &token).await);
    let verify = app.post("/api/auth/token/verify/", &token).await;
    assert_eq!(verify.status, StatusCode::UNAUTHORIZED);
    app.finish().await;
}

#[tokio::test]
async fn identity_says_that_it_is_served() {
    let app = TestApp::new().await;
    for path in ["/api/v1/auth/health", "/api/auth/health"] {
        let answer = app.get(path).await.assert_status(StatusCode::OK);
        assert_eq!(
            answer.redacted(&["/timestamp"]),
            json!({ "status": "ok", "timestamp": "[…]" })
        );
        assert!(answer.header("cache-control").contains("no-store"));
        assert_ne!(answer.body["timestamp"], Value::Null);
    }
    app.finish().await;
}
