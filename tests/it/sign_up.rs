//! Sign-up: contract section 4.4, and what of rows PH-1 and PH-2 of the security reference agrees with it.

use annals_tests::{Answer, PASSWORD, TestApp};
use futures::future::join_all;
use reqwest::StatusCode;
use serde_json::{Value, json};

const SIGN_UP: &str = "/api/v1/auth/signup";
const VERIFY: &str = "/api/v1/auth/verify-email";
const EMAIL: &str = "ada@example.com";
const PARALLEL: usize = 20;
const ROUNDS: usize = 10;

fn wish(email: &str) -> Value {
    json!({"email": email, "password": PASSWORD, "name": "Ada Lovelace"})
}

async fn sign_up(app: &TestApp, body: &Value) -> Answer {
    app.post(SIGN_UP, body).await
}

#[tokio::test]
async fn an_account_exists_once_its_address_is_proven() {
    let app = TestApp::new().await;
    let answer = sign_up(&app, &wish(" Ada@Example.com "))
        .await
        .assert_status(StatusCode::OK);
    let message = "Verification email sent";
    assert_eq!(
        answer.body,
        json!({"success": true, "message": message, "data": {"message": message, "email": EMAIL, "expires_in": 86400}}),
        "and no token"
    );
    let login = json!({"email": EMAIL, "password": PASSWORD});
    assert_eq!(
        app.post("/api/v1/auth/login", &login).await.status,
        StatusCode::UNAUTHORIZED
    );
    let token = app.token_for(EMAIL, "sign_up").await;
    let verified = app
        .post(VERIFY, &json!({"token": token}))
        .await
        .assert_status(StatusCode::OK);
    let message = "Email verified successfully";
    assert_eq!(
        verified.redacted(&["/data/user_id", "/data/access_token", "/data/refresh_token"]),
        json!({"success": true, "message": message, "data": {
            "message": message, "user_id": "[…]", "email": EMAIL, "name": "Ada Lovelace", "access_token": "[…]",
            "refresh_token": "[…]", "token_type": "Bearer", "needs_org_setup": true, "organization_id": null,
        }})
    );
    let token = verified.body["data"]["access_token"].as_str().unwrap();
    let me = app
        .request(reqwest::Method::GET, "/api/v1/auth/me")
        .bearer(token)
        .send()
        .await;
    assert_eq!(me.assert_status(StatusCode::OK).body["user"]["is_verified"], true);
    app.post("/api/v1/auth/login", &login)
        .await
        .assert_status(StatusCode::OK);
    app.finish().await;
}

#[tokio::test]
async fn a_company_is_founded_with_the_account() {
    let app = TestApp::new().await;
    let mut body = wish(EMAIL);
    body["company_name"] = json!("Analytical Engines");
    sign_up(&app, &body).await.assert_status(StatusCode::OK);
    let token = app.token_for(EMAIL, "sign_up").await;
    let verified = app
        .post(VERIFY, &json!({"token": token}))
        .await
        .assert_status(StatusCode::OK)
        .body;
    assert_eq!(verified["data"]["needs_org_setup"], false);
    let owner = app.sign_in(EMAIL, PASSWORD).await;
    let me = owner.get("/api/v1/auth/me").await.body;
    assert_eq!(me["organization"]["id"], verified["data"]["organization_id"]);
    assert_eq!(me["organizations"][0]["role"], "owner");
    app.finish().await;
}

#[tokio::test]
async fn a_pending_and_a_taken_address_are_409() {
    let app = TestApp::new().await;
    sign_up(&app, &wish(EMAIL)).await.assert_status(StatusCode::OK);
    let before = app.head().await;
    let pending = sign_up(&app, &wish("ADA@example.com")).await;
    pending.assert_problem(409, "EMAIL_PENDING_VERIFICATION");
    assert_eq!(pending.body["detail"], "Email already pending verification");
    assert_eq!(app.head().await, before);
    let known = app.register().await;
    sign_up(&app, &wish(known.email()))
        .await
        .assert_problem(409, "AUTH_EMAIL_EXISTS");
    app.finish().await;
}

/// PH-1, as far as the contract lets: a pending registration keeps nobody from the address, and dies when somebody else
/// has proven to be quicker.
#[tokio::test]
async fn a_pending_registration_does_not_reserve_the_account() {
    let app = TestApp::new().await;
    sign_up(&app, &wish(EMAIL)).await.assert_status(StatusCode::OK);
    let token = app.token_for(EMAIL, "sign_up").await;
    let own = json!({"email": EMAIL, "password": "Victims!Horse9", "name": "Ada"});
    app.post("/api/v1/auth/register", &own)
        .await
        .assert_status(StatusCode::CREATED);
    app.post(VERIFY, &json!({"token": token}))
        .await
        .assert_problem(409, "AUTH_EMAIL_EXISTS");
    let login = |password: &str| json!({"email": EMAIL, "password": password});
    assert_eq!(
        app.post("/api/v1/auth/login", &login(PASSWORD)).await.status,
        StatusCode::UNAUTHORIZED
    );
    app.sign_in(EMAIL, "Victims!Horse9").await;
    app.finish().await;
}

/// PH-2: one wish for an address is taken, and one use of its link makes the account.
#[tokio::test]
async fn of_parallel_wishes_and_of_parallel_uses_one_wins() {
    let app = TestApp::new().await;
    for _ in 0..ROUNDS {
        let email = app.new_email();
        let body = wish(&email);
        let wishes = join_all((0..PARALLEL).map(|_| sign_up(&app, &body))).await;
        assert_eq!(
            wishes.iter().filter(|answer| answer.status == StatusCode::OK).count(),
            1
        );
        for answer in wishes.iter().filter(|answer| answer.status != StatusCode::OK) {
            answer.assert_problem(409, "EMAIL_PENDING_VERIFICATION");
        }
        let token = json!({"token": app.token_for(&email, "sign_up").await});
        let uses = join_all((0..PARALLEL).map(|_| app.post(VERIFY, &token))).await;
        assert_eq!(uses.iter().filter(|answer| answer.status == StatusCode::OK).count(), 1);
        for answer in uses.iter().filter(|answer| answer.status != StatusCode::OK) {
            answer.assert_problem(400, "VERIFICATION_TOKEN_INVALID");
            assert_eq!(answer.body["detail"], "Invalid or expired token");
        }
    }
    app.finish().await;
}

#[tokio::test]
async fn a_link_is_mailed_again_and_nobody_is_told_whether() {
    let app = TestApp::new().await;
    sign_up(&app, &wish(EMAIL)).await.assert_status(StatusCode::OK);
    let first = app.token_for(EMAIL, "sign_up").await;
    for path in ["/api/v1/auth/resend-verification", "/api/v1/auth/verify-email/resend"] {
        let known = app
            .post(path, &json!({"email": EMAIL}))
            .await
            .assert_status(StatusCode::OK);
        let unknown = app.post(path, &json!({"email": "nobody@example.com"})).await;
        assert_eq!((known.status, known.text), (unknown.status, unknown.text));
        app.mailed().await;
    }
    let newest = app.token_for(EMAIL, "sign_up").await;
    assert_ne!(newest, first);
    app.post(VERIFY, &json!({"token": first}))
        .await
        .assert_problem(400, "VERIFICATION_TOKEN_INVALID");
    app.post(VERIFY, &json!({"token": newest}))
        .await
        .assert_status(StatusCode::OK);
    assert!(app.mails_to("nobody@example.com").await.is_empty());
    app.finish().await;
}

#[tokio::test]
async fn a_developer_may_see_the_token() {
    let app = TestApp::with(|config| config.development.reveal_tokens = true).await;
    let answer = sign_up(&app, &wish(EMAIL)).await.assert_status(StatusCode::OK);
    assert_eq!(
        answer.body["data"]["verification_token"],
        app.token_for(EMAIL, "sign_up").await
    );
    app.finish().await;
}
