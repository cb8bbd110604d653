//! Forgotten passwords: contract section 4 and the rows EN-5, PH-5, RS-1 to RS-5 and TH-13 of the security reference.

use annals_eventstore::Position;
use annals_tests::{Answer, PASSWORD, TestApp};
use futures::future::join_all;
use reqwest::StatusCode;
use serde_json::json;

const FORGOT: &str = "/api/v1/auth/password/forgot";
const RESET: &str = "/api/v1/auth/password/reset";
const NEW: &str = "Another!Horse8";
/// How many use one link at once, and how often that is tried.
const PARALLEL: usize = 20;
const ROUNDS: usize = 10;

async fn forgotten(app: &TestApp, email: &str) -> String {
    app.post(FORGOT, &json!({"email": email}))
        .await
        .assert_status(StatusCode::OK);
    app.token_for(email, "password_reset").await
}

async fn reset(app: &TestApp, token: &str) -> Answer {
    app.post(RESET, &json!({"token": token, "new_password": NEW})).await
}

fn assert_refused(answer: &Answer, code: &str, message: &str) {
    answer.assert_problem(400, code);
    assert_eq!(answer.body["detail"], message);
    assert_eq!(answer.body["error"]["field"], "token");
}

#[tokio::test]
async fn a_forgotten_password_is_reset_by_mail() {
    let app = TestApp::new().await;
    let person = app.register().await;
    let asked = app.post(FORGOT, &json!({"email": person.email().to_uppercase()})).await;
    let message = "If an account with that email exists, a password reset link has been sent.";
    assert_eq!(
        asked.assert_status(StatusCode::OK).body,
        json!({
            "success": true, "message": message, "email": person.email(),
            "data": {"message": message, "email": person.email()},
        })
    );
    let token = app.token_for(person.email(), "password_reset").await;
    assert_eq!(token.len(), 43, "256 bits");
    let answer = reset(&app, &token).await.assert_status(StatusCode::OK);
    let message = "Password has been reset successfully. Please log in with your new password.";
    // RS-3: nobody is signed in by it.
    assert_eq!(
        answer.body,
        json!({
            "success": true, "message": message, "sessions_invalidated": true,
            "data": {"message": message, "sessions_invalidated": true},
        })
    );
    assert!(!answer.headers.contains_key("set-cookie"));
    // RS-3: all sessions are over, the old password too, and a notice was mailed.
    assert_eq!(person.get("/api/v1/auth/me").await.status, StatusCode::UNAUTHORIZED);
    let login = |password: &str| json!({"email": person.email(), "password": password});
    let old = app.post("/api/v1/auth/login", &login(PASSWORD)).await;
    assert_eq!(old.status, StatusCode::UNAUTHORIZED);
    app.post("/api/v1/auth/login", &login(NEW))
        .await
        .assert_status(StatusCode::OK);
    let notices = app.mails_to(person.email()).await;
    let notices: Vec<_> = notices
        .iter()
        .filter(|mail| mail.name.ends_with("password_changed"))
        .collect();
    assert_eq!(notices.len(), 1);
    assert_eq!(notices[0].header("Subject"), "Your password was changed");
    // RS-1: it is used up.
    assert_refused(
        &reset(&app, &token).await,
        "RESET_TOKEN_USED",
        "Reset token has already been used",
    );
    app.finish().await;
}

/// EN-5: the answer tells nothing, and nothing is mailed to somebody unknown.
#[tokio::test]
async fn known_and_unknown_addresses_get_one_answer() {
    let app = TestApp::new().await;
    let person = app.register().await;
    for path in [FORGOT, "/api/v1/auth/forgot-password", "/api/auth/password/forgot"] {
        let known = app.post(path, &json!({"email": person.email()})).await;
        let unknown = app.post(path, &json!({"email": "nobody@example.com"})).await;
        let swapped = unknown.text.replace("nobody@example.com", person.email());
        assert_eq!((known.status, known.text), (unknown.status, swapped));
        let names = |answer: &Answer| -> Vec<String> { answer.headers.keys().map(ToString::to_string).collect() };
        assert_eq!(
            names(&app.post(path, &json!({"email": person.email()})).await),
            names(&unknown)
        );
    }
    assert!(app.mails_to("nobody@example.com").await.is_empty());
    app.finish().await;
}

/// TH-13: further wishes are answered alike, and neither mailed nor harmful to the links that were.
#[tokio::test]
async fn an_address_gets_at_most_three_links_an_hour() {
    let app = TestApp::new().await;
    let person = app.register().await;
    for _ in 0..20 {
        let asked = app.post(FORGOT, &json!({"email": person.email()})).await;
        asked.assert_status(StatusCode::OK);
        app.mailed().await;
    }
    let mails = app.mails_to(person.email()).await;
    let links: Vec<_> = mails
        .iter()
        .filter(|mail| mail.name.ends_with("password_reset"))
        .collect();
    assert_eq!(links.len(), 3);
    // RS-1: the newest link voids the older ones.
    for older in &links[..2] {
        let answer = reset(&app, older.token()).await;
        assert_refused(&answer, "RESET_TOKEN_INVALID", "Invalid or expired reset token");
    }
    reset(&app, links[2].token()).await.assert_status(StatusCode::OK);
    app.finish().await;
}

/// RS-1: of many uses of one link at once, one passes.
#[tokio::test]
async fn of_parallel_uses_of_a_link_one_wins() {
    let app = TestApp::new().await;
    for _ in 0..ROUNDS {
        let person = app.register().await;
        let token = forgotten(&app, person.email()).await;
        let answers = join_all((0..PARALLEL).map(|_| reset(&app, &token))).await;
        let won = answers.iter().filter(|answer| answer.status == StatusCode::OK).count();
        assert_eq!(won, 1);
        for answer in answers.iter().filter(|answer| answer.status != StatusCode::OK) {
            assert_refused(answer, "RESET_TOKEN_USED", "Reset token has already been used");
        }
    }
    app.finish().await;
}

/// RS-2: with the password, and with the account being disabled, outstanding links die.
#[tokio::test]
async fn a_link_dies_with_the_password_it_was_for_and_with_the_account() {
    let app = TestApp::new().await;
    let person = app.register().await;
    let token = forgotten(&app, person.email()).await;
    let change = json!({"current_password": PASSWORD, "new_password": "Third!Horse99"});
    let changed = person.post("/api/v1/auth/password", &change).await;
    changed.assert_status(StatusCode::OK);
    let answer = reset(&app, &token).await;
    assert_refused(&answer, "RESET_TOKEN_INVALID", "Invalid or expired reset token");

    let other = app.register().await;
    let token = forgotten(&app, other.email()).await;
    let system = annals_domain::Caller::system("test", uuid::Uuid::now_v7());
    let cx = app.state().on_behalf_of(&system);
    let id = other.user_id().parse().unwrap();
    annals_commands::user::disable(&cx, id, "gone".to_owned(), None)
        .await
        .unwrap();
    annals_commands::user::enable(&cx, id, None).await.unwrap();
    let answer = reset(&app, &token).await;
    assert_refused(&answer, "RESET_TOKEN_INVALID", "Invalid or expired reset token");
    app.finish().await;
}

#[tokio::test]
async fn a_link_ends_with_its_time() {
    let app = TestApp::with(|config| {
        config.link.password_reset_lifetime_s = 3;
        config.link.email_verification_lifetime_s = 3;
    })
    .await;
    let person = app.register().await;
    let token = forgotten(&app, person.email()).await;
    // Made after it and lasting as long: when it has ended, so has the one before. Looking uses nothing up.
    let later = person.post("/api/v1/auth/email-verification/send", &json!({})).await;
    later.assert_status(StatusCode::OK);
    let later = app.token_for(person.email(), "email_verification").await;
    let look = format!("/api/v1/auth/email-verification/verify?token={later}");
    while app.get(&look).await.status == StatusCode::OK {}
    app.get(&look).await.assert_problem(400, "VERIFICATION_TOKEN_EXPIRED");
    let answer = reset(&app, &token).await;
    assert_refused(&answer, "RESET_TOKEN_EXPIRED", "Reset token has expired");
    app.finish().await;
}

/// RS-5: mail goes to the address that is stored, and the link alone says whose password it is.
#[tokio::test]
async fn tricks_with_bodies_are_refused() {
    let app = TestApp::new().await;
    let person = app.register().await;
    let token = forgotten(&app, person.email()).await;
    let before = app.head().await;
    for email in [
        json!([person.email(), "eve@example.com"]),
        json!({"$ne": null}),
        json!(format!("{},eve@example.com", person.email())),
        json!(format!("{}\r\nBcc: eve@example.com", person.email())),
        json!(""),
        json!(null),
    ] {
        let answer = app.post(FORGOT, &json!({"email": email})).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{email}: {}", answer.text);
        assert_eq!(answer.body["error"]["field"], "email", "{email}");
    }
    let extra = json!({"token": token, "new_password": NEW, "email": "eve@example.com"});
    app.post(RESET, &extra).await.assert_problem(422, "VALIDATION_ERROR");
    for (body, message) in [
        (json!({"new_password": NEW}), "Reset token is required"),
        (json!({"token": "", "new_password": NEW}), "Reset token is required"),
        (
            json!({"token": "x", "new_password": NEW}),
            "Invalid or expired reset token",
        ),
        (
            json!({"token": "A".repeat(43), "new_password": NEW}),
            "Invalid or expired reset token",
        ),
    ] {
        let answer = app.post(RESET, &body).await;
        assert_eq!(
            (answer.status, &answer.body["detail"]),
            (StatusCode::BAD_REQUEST, &json!(message))
        );
    }
    let weak = app.post(RESET, &json!({"token": token, "new_password": "short"})).await;
    assert_eq!(
        (weak.status, &weak.body["error"]["field"]),
        (StatusCode::BAD_REQUEST, &json!("new_password"))
    );
    app.mailed().await;
    assert_eq!(app.head().await, before);
    assert!(app.mails_to("eve@example.com").await.is_empty());
    app.finish().await;
}

/// A token of one purpose opens nothing of another, and none is in the log or in the database.
#[tokio::test]
async fn tokens_are_for_one_purpose_and_are_stored_nowhere() {
    let app = TestApp::new().await;
    let person = app.register().await;
    let verification = app.token_for(person.email(), "email_verification").await;
    let answer = reset(&app, &verification).await;
    assert_refused(&answer, "RESET_TOKEN_INVALID", "Invalid or expired reset token");
    let token = forgotten(&app, person.email()).await;
    let records = app.store().read_after(Position::START, 1000).await.unwrap();
    for record in &records {
        let shown = format!(
            "{record:?} {}",
            serde_json::to_string(&record.event.payload().unwrap()).unwrap()
        );
        assert!(
            !shown.contains(&token) && !shown.contains(&verification),
            "{}",
            record.position
        );
    }
    let administrator = app.administrator().await;
    let trail = administrator.get("/api/v1/audit?limit=200").await;
    assert!(!trail.text.contains(&token));
    app.finish().await;
}
