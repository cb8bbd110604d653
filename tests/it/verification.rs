//! Proof of a mail address: contract sections 2 and 6, and row PH-6 of the security reference.

use annals_tests::{PASSWORD, TestApp};
use futures::future::join_all;
use reqwest::{Method, StatusCode};
use serde_json::json;

const VERIFY: &str = "/api/v1/auth/email-verification/verify";
const STATUS: &str = "/api/v1/auth/email-verification/status";
const ME: &str = "/api/v1/auth/me";
const PARALLEL: usize = 20;
const ROUNDS: usize = 10;

#[tokio::test]
async fn an_address_is_proven_by_the_link_of_the_registration() {
    let app = TestApp::new().await;
    let person = app.register().await;
    let before = person.get(ME).await.body;
    assert_eq!(
        (&before["user"]["is_verified"], &before["user"]["email_verified"]),
        (&json!(false), &json!(false))
    );
    let token = app.token_for(person.email(), "email_verification").await;
    let answer = app
        .post(VERIFY, &json!({"token": token}))
        .await
        .assert_status(StatusCode::OK);
    let message = "Email verified successfully";
    assert_eq!(
        answer.redacted(&["/data/user/verified_at"]),
        json!({
            "success": true, "message": message,
            "data": {"status": "verified", "message": message, "user": {
                "id": person.user_id(), "email": person.email(), "is_verified": true, "verified_at": "[…]",
            }},
        })
    );
    let after = person.get(ME).await.body;
    assert_eq!(
        (&after["user"]["is_verified"], &after["data"]["email_verified"]),
        (&json!(true), &json!(true))
    );
    let login = app
        .post(
            "/api/v1/auth/login",
            &json!({"email": person.email(), "password": PASSWORD}),
        )
        .await;
    assert_eq!(login.body["user"]["is_verified"], true);
    let again = app.post(VERIFY, &json!({"token": token})).await;
    again.assert_problem(400, "VERIFICATION_TOKEN_USED");
    assert_eq!(again.body["detail"], "Verification token has already been used");
    let status = person.get(STATUS).await;
    assert_eq!(
        status.redacted(&["/data/verified_at"]),
        json!({"success": true, "data": {
            "is_verified": true, "email": person.email(), "verified_at": "[…]", "active_tokens_count": 0,
            "last_token_expires_at": null, "needs_reminder": false,
        }})
    );
    let sent = person.post("/api/v1/auth/email-verification/send", &json!({})).await;
    assert_eq!(
        sent.assert_status(StatusCode::OK).body["data"]["status"],
        "already_verified"
    );
    app.finish().await;
}

/// PH-6: scanners of mails follow links.
#[tokio::test]
async fn looking_at_a_link_consumes_nothing() {
    let app = TestApp::new().await;
    let person = app.register().await;
    let token = app.token_for(person.email(), "email_verification").await;
    let before = app.head().await;
    let path = format!("{VERIFY}?token={token}");
    for method in [Method::GET, Method::HEAD] {
        for accept in ["application/json", "text/html"] {
            for _ in 0..10 {
                let looked = app.request(method.clone(), &path).header("accept", accept).send().await;
                assert_eq!(looked.status, StatusCode::OK, "{}", looked.text);
                assert_eq!(looked.header("referrer-policy"), "no-referrer");
            }
        }
    }
    assert_eq!(app.head().await, before);
    // The page's form sends no body; the token stands in the address.
    let proven = app.request(Method::POST, &path).send().await;
    proven.assert_status(StatusCode::OK);
    app.finish().await;
}

#[tokio::test]
async fn of_parallel_uses_of_a_link_one_wins() {
    let app = TestApp::new().await;
    for _ in 0..ROUNDS {
        let person = app.register().await;
        let token = app.token_for(person.email(), "email_verification").await;
        let body = json!({"token": token});
        let answers = join_all((0..PARALLEL).map(|_| app.post(VERIFY, &body))).await;
        assert_eq!(
            answers.iter().filter(|answer| answer.status == StatusCode::OK).count(),
            1
        );
        for answer in answers.iter().filter(|answer| answer.status != StatusCode::OK) {
            answer.assert_problem(400, "VERIFICATION_TOKEN_USED");
        }
    }
    app.finish().await;
}

#[tokio::test]
async fn a_newer_link_voids_the_older_and_too_many_are_refused() {
    let app = TestApp::new().await;
    let person = app.register().await;
    let first = app.token_for(person.email(), "email_verification").await;
    for path in [
        "/api/v1/auth/email-verification/resend",
        "/api/v1/email-verification/send",
    ] {
        let sent = person.post(path, &json!({})).await.assert_status(StatusCode::OK);
        assert_eq!(sent.body["data"]["status"], "sent");
    }
    let refused = person.post("/api/v1/auth/email-verification/send", &json!({})).await;
    refused.assert_problem(429, "RATE_LIMITED");
    assert!(refused.header("retry-after").parse::<u64>().unwrap() > 3000);
    app.post(VERIFY, &json!({"token": first}))
        .await
        .assert_problem(400, "VERIFICATION_TOKEN_INVALID");
    let newest = app.token_for(person.email(), "email_verification").await;
    app.post(VERIFY, &json!({"token": newest}))
        .await
        .assert_status(StatusCode::OK);
    app.finish().await;
}

/// Contract section 6, row "verification".
#[tokio::test]
async fn where_proof_is_demanded_little_else_is_open_without_it() {
    let app = TestApp::with(|config| config.registration.require_verified = true).await;
    let person = app.register().await;
    for path in [ME, "/api/v1/users/me", "/api/v1/auth/sessions"] {
        let refused = person.get(path).await;
        refused.assert_problem(403, "EMAIL_NOT_VERIFIED");
        assert_eq!(refused.body["detail"], "Email verification required");
    }
    person.get(STATUS).await.assert_status(StatusCode::OK);
    person
        .post("/api/v1/auth/email-verification/resend", &json!({}))
        .await
        .assert_status(StatusCode::OK);
    let token = app.token_for(person.email(), "email_verification").await;
    app.post(VERIFY, &json!({"token": token}))
        .await
        .assert_status(StatusCode::OK);
    person.get(ME).await.assert_status(StatusCode::OK);
    let other = app.register().await;
    other
        .post("/api/v1/auth/logout", &json!({}))
        .await
        .assert_status(StatusCode::OK);
    app.administrator().await.get(ME).await.assert_status(StatusCode::OK);
    app.finish().await;
}
