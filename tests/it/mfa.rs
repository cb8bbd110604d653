//! The second factor at `/api/v1/auth/mfa`: contract section 4.1, and rows MF-1 to MF-10, TH-9, SE-5 of the behaviours.

use std::collections::BTreeSet;
use std::process::Command;
use std::sync::Arc;

use annals_commands::{Clock as _, ManualClock, SystemClock};
use annals_domain::Role;
use annals_tests::{Answer, Caller, PASSWORD, TestApp};
use futures::future::join_all;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use totp_rs::{Builder, Secret};

const LOGIN: &str = "/api/v1/auth/login";
const ME: &str = "/api/v1/auth/me";
const SETUP: &str = "/api/v1/auth/mfa/setup";
const ENABLE: &str = "/api/v1/auth/mfa/enable";
const VERIFY: &str = "/api/v1/auth/mfa/verify";
const DISABLE: &str = "/api/v1/auth/mfa/disable";
const BACKUP_CODES: &str = "/api/v1/auth/mfa/backup-codes";
const COMPLIANCE: &str = "/api/v1/admin/mfa/compliance";

/// Length of a time step, in seconds.
const STEP: i64 = 30;
/// Rounds of parallel uses of one code.
const ROUNDS: usize = 50;
/// Uses of one code at once.
const PARALLEL: usize = 20;

/// The application by a clock that stands still, so that a test decides which code is the present one.
struct Stage {
    app: TestApp,
    clock: ManualClock,
}

impl Stage {
    async fn new() -> Self {
        let clock = ManualClock::new(SystemClock.now());
        // One person signs in hundreds of times here.
        let app = TestApp::on_clock(Arc::new(clock.clone()), |config| config.session.limit = 0).await;
        Self { app, clock }
    }

    /// The code that an authenticator shows so many steps from now.
    fn code(&self, secret: &str, steps: i64) -> String {
        let seconds = self.clock.now().unix_seconds() + steps * STEP;
        code_at(secret, seconds)
    }

    /// Somebody with a second factor in force, and all time steps up to now used up.
    async fn enrolled(&self) -> Enrolled {
        let caller = self.app.register().await;
        let setup = caller.post(SETUP, &json!({})).await.assert_status(StatusCode::OK);
        let secret = setup.body["secret"].as_str().unwrap().to_owned();
        let enabled = caller.post(ENABLE, &json!({ "code": self.code(&secret, 0) })).await;
        let enabled = enabled.assert_status(StatusCode::OK);
        Enrolled {
            caller,
            secret,
            backup_codes: texts(&enabled.body["backup_codes"]),
        }
    }

    async fn log_in(&self, who: &Enrolled) -> Answer {
        let body = json!({ "email": who.caller.email(), "password": PASSWORD });
        self.app.post(LOGIN, &body).await
    }

    async fn pending(&self, who: &Enrolled) -> String {
        let answer = self.log_in(who).await.assert_status(StatusCode::OK);
        answer.body["pending_token"].as_str().unwrap().to_owned()
    }

    async fn verify(&self, pending: &str, code: &str) -> Answer {
        let body = json!({ "pending_token": pending, "code": code });
        self.app.post(VERIFY, &body).await
    }

    /// A code of the right form that is none of the window's.
    fn wrong_code(&self, secret: &str) -> String {
        let right: BTreeSet<String> = (-2..=2).map(|steps| self.code(secret, steps)).collect();
        let mut candidates = (0..).map(|number| format!("{number:06}"));
        candidates.find(|code| !right.contains(code)).unwrap()
    }
}

/// A request that works for every operation that takes a body. Codes are backup codes where those will do, for they do
/// not age; that of the authenticator is the one after the present one, which is good for more than a minute.
pub(crate) async fn sound_requests(app: &TestApp) -> Vec<(Method, &'static str, Value, Option<Caller>)> {
    let soon = |secret: &str| code_at(secret, SystemClock.now().unix_seconds() + STEP);
    let enrolled = async || {
        let caller = app.register().await;
        let setup = caller.post(SETUP, &json!({})).await;
        let code = code_at(setup.body["secret"].as_str().unwrap(), SystemClock.now().unix_seconds());
        let enabled = caller
            .post(ENABLE, &json!({ "code": code }))
            .await
            .assert_status(StatusCode::OK);
        let backup_code = texts(&enabled.body["backup_codes"]).remove(0);
        (caller, backup_code)
    };
    let mut sound = Vec::new();
    for (method, path) in [(Method::POST, DISABLE), (Method::DELETE, "/api/v1/auth/mfa")] {
        let (caller, code) = enrolled().await;
        sound.push((
            method,
            path,
            json!({ "code": code, "password": PASSWORD }),
            Some(caller),
        ));
    }
    let (caller, code) = enrolled().await;
    sound.push((Method::POST, BACKUP_CODES, json!({ "code": code }), Some(caller)));
    let (caller, code) = enrolled().await;
    let body = json!({ "email": caller.email(), "password": PASSWORD });
    let pending = app.post(LOGIN, &body).await.body["pending_token"].clone();
    sound.push((
        Method::POST,
        VERIFY,
        json!({ "pending_token": pending, "code": code }),
        None,
    ));
    let beginner = app.register().await;
    sound.push((Method::POST, SETUP, json!({ "password": PASSWORD }), Some(beginner)));
    let caller = app.register().await;
    let setup = caller.post(SETUP, &json!({})).await;
    let code = soon(setup.body["secret"].as_str().unwrap());
    sound.push((Method::POST, ENABLE, json!({ "code": code }), Some(caller)));
    sound
}

struct Enrolled {
    caller: Caller,
    secret: String,
    backup_codes: Vec<String>,
}

fn code_at(secret: &str, seconds: i64) -> String {
    let secret = Secret::try_from_base32(secret).unwrap();
    let totp = Builder::new().with_secret(secret).build().unwrap();
    totp.generate(seconds.cast_unsigned()).to_string()
}

fn texts(list: &Value) -> Vec<String> {
    let list = list.as_array().unwrap().iter();
    list.map(|text| text.as_str().unwrap().to_owned()).collect()
}

#[track_caller]
fn assert_said(answer: &Answer, status: u16, code: &str, message: &str) {
    answer.assert_problem(status, code);
    assert_eq!(answer.body["detail"], message);
}

/// MF-2
#[tokio::test]
async fn a_second_factor_is_set_up_in_two_steps() {
    let stage = Stage::new().await;
    let ada = stage.app.register().await;
    let early = ada.post(ENABLE, &json!({ "code": "123456" })).await;
    let not_set_up = "MFA not set up. Call /api/auth/mfa/setup first";
    assert_said(&early, 400, "mfa.not_set_up", not_set_up);
    let first = ada
        .request(Method::POST, SETUP)
        .send()
        .await
        .assert_status(StatusCode::OK);
    assert_eq!(
        first.redacted(&["/secret", "/provisioning_uri"]),
        json!({
            "success": true, "secret": "[…]", "provisioning_uri": "[…]",
            "message": "Scan QR code or enter secret in your authenticator app, then call /api/auth/mfa/enable with verification code",
        })
    );
    let second = ada.post(SETUP, &json!({})).await.assert_status(StatusCode::OK);
    let secret = second.body["secret"].as_str().unwrap();
    assert_eq!(secret.len(), 32);
    assert_ne!(secret, first.body["secret"]);
    let account = ada.email().replace('@', "%40");
    assert_eq!(
        second.body["provisioning_uri"],
        format!("otpauth://totp/Annals:{account}?secret={secret}&issuer=Annals&algorithm=SHA1&digits=6&period=30")
    );
    // Abandoned set-ups are never asked for.
    stage.app.sign_in(ada.email(), PASSWORD).await;
    let replaced = stage.code(first.body["secret"].as_str().unwrap(), 0);
    for (body, code, message) in [
        (json!({}), "VALIDATION_ERROR", "Verification code is required"),
        (
            json!({ "code": " " }),
            "VALIDATION_ERROR",
            "Verification code is required",
        ),
        (
            json!({ "code": stage.wrong_code(secret) }),
            "mfa.code_invalid",
            "Invalid verification code",
        ),
        (
            json!({ "code": replaced }),
            "mfa.code_invalid",
            "Invalid verification code",
        ),
    ] {
        let before = stage.app.head().await;
        assert_said(&ada.post(ENABLE, &body).await, 400, code, message);
        assert_eq!(stage.app.head().await, before, "nothing was appended");
    }
    let other = stage.app.sign_in(ada.email(), PASSWORD).await;
    let enabled = ada.post(ENABLE, &json!({ "code": stage.code(secret, 0) })).await;
    let codes = texts(&enabled.assert_status(StatusCode::OK).body["backup_codes"]);
    assert_eq!(codes.iter().collect::<BTreeSet<_>>().len(), 10);
    assert!(
        codes
            .iter()
            .all(|code| code.len() == 8 && code.bytes().all(|digit| digit.is_ascii_hexdigit()))
    );
    let me = ada.get(ME).await;
    assert_eq!(me.status, StatusCode::OK, "the session that enabled it goes on");
    other.get(ME).await.assert_problem(401, "UNAUTHORIZED");
    for (path, body) in [(SETUP, json!({})), (ENABLE, json!({ "code": stage.code(secret, 1) }))] {
        assert_said(
            &ada.post(path, &body).await,
            400,
            "mfa.already_enabled",
            "MFA is already enabled",
        );
    }
    stage.app.finish().await;
}

#[tokio::test]
async fn enabling_answers_with_the_words_of_the_contract() {
    let stage = Stage::new().await;
    let ada = stage.app.register().await;
    let setup = ada.post(SETUP, &json!({})).await;
    let code = stage.code(setup.body["secret"].as_str().unwrap(), -1);
    // The alias without a version is the same route.
    let enabled = ada.post("/api/auth/mfa/enable", &json!({ "code": code })).await;
    assert_eq!(
        enabled.assert_status(StatusCode::OK).redacted(&["/backup_codes"]),
        json!({
            "success": true, "message": "MFA enabled successfully", "backup_codes": "[…]",
            "warning": "Save these backup codes securely. They cannot be shown again.", "sessions_invalidated": true,
        })
    );
    stage.app.finish().await;
}

/// MF-1
#[tokio::test]
async fn a_right_password_is_no_session_yet() {
    let stage = Stage::new().await;
    let ada = stage.enrolled().await;
    let before = stage.app.head().await;
    let answer = stage.log_in(&ada).await.assert_status(StatusCode::OK);
    assert_eq!(
        answer.redacted(&["/pending_token", "/data/pending_token"]),
        json!({
            "success": true, "mfa_required": true, "pending_token": "[…]", "pending_expires_in": 300,
            "message": "MFA verification required",
            "data": {
                "mfa_required": true, "pending_token": "[…]", "pending_expires_in": 300,
                "message": "MFA verification required",
            },
        })
    );
    assert!(!answer.headers.contains_key("set-cookie") && !answer.headers.contains_key("event-position"));
    assert_eq!(stage.app.head().await, before, "nothing was appended");
    let wrong = json!({ "email": ada.caller.email(), "password": "Wrong!Horse7" });
    let refused = stage.app.post(LOGIN, &wrong).await;
    assert_said(&refused, 401, "AUTH_INVALID_CREDENTIALS", "Invalid credentials");
    stage.app.finish().await;
}

/// MF-1, MF-10
#[tokio::test]
async fn a_pending_token_opens_nothing_else() {
    let stage = Stage::new().await;
    let ada = stage.enrolled().await;
    let pending = stage.pending(&ada).await;
    let document = serde_json::to_value(annals_api::openapi::document()).unwrap();
    let mut tried = 0;
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let wants_a_session = operation["security"]
                .as_array()
                .is_some_and(|ways| !ways.is_empty() && ways.iter().all(|way| way != &json!({})));
            if !wants_a_session {
                continue;
            }
            let method: Method = method.to_uppercase().parse().unwrap();
            let concrete = path
                .replace("{id}", "01890a5d-ac96-774b-bcce-b302099a8057")
                .replace("{type}", "user")
                .replace("{session_id}", "01890a5d-ac96-774b-bcce-b302099a8057");
            let request = stage.app.request(method.clone(), &concrete).bearer(&pending);
            let answer = request.json(&json!({})).send().await;
            assert_eq!(
                answer.status,
                StatusCode::UNAUTHORIZED,
                "{method} {path}: {}",
                answer.text
            );
            tried += 1;
        }
    }
    assert!(tried > 40, "the document has the routes: {tried}");
    let cookie = stage
        .app
        .request(Method::GET, ME)
        .header("cookie", &format!("annals_session={pending}"));
    cookie.send().await.assert_problem(401, "UNAUTHORIZED");
    let refresh = stage
        .app
        .post("/api/v1/auth/refresh", &json!({ "refresh_token": pending }))
        .await;
    assert_eq!(refresh.status, StatusCode::UNAUTHORIZED);
    for (path, member) in [
        ("/api/auth/token/refresh/", "refresh"),
        ("/api/auth/token/verify/", "token"),
    ] {
        let answer = stage.app.post(path, &json!({ member: pending })).await;
        assert_eq!(answer.status, StatusCode::UNAUTHORIZED, "{path}");
    }
    // And nothing else is a pending token.
    for token in [ada.caller.token(), ada.caller.refresh_token(), "nonsense"] {
        let answer = stage.verify(token, &stage.code(&ada.secret, 1)).await;
        assert_said(
            &answer,
            401,
            "mfa.pending_token_invalid",
            "Invalid or expired pending token",
        );
    }
    stage.app.finish().await;
}

#[tokio::test]
async fn a_code_completes_the_sign_in_once() {
    let stage = Stage::new().await;
    let ada = stage.enrolled().await;
    let pending = stage.pending(&ada).await;
    for (body, message) in [
        (json!({ "pending_token": pending }), "MFA code is required"),
        (json!({ "code": "123456" }), "Pending token is required"),
    ] {
        let answer = stage.app.post(VERIFY, &body).await;
        assert_said(&answer, 400, "VALIDATION_ERROR", message);
    }
    let wrong = stage.verify(&pending, &stage.wrong_code(&ada.secret)).await;
    assert_said(&wrong, 400, "mfa.code_invalid", "Invalid MFA code");
    let answer = stage.verify(&pending, &stage.code(&ada.secret, 1)).await;
    let answer = answer.assert_status(StatusCode::OK);
    assert!(answer.header("set-cookie").starts_with("annals_session=ey"));
    let bob = stage.app.register().await;
    let body = json!({ "email": bob.email(), "password": PASSWORD });
    let in_one_part = stage.app.post(LOGIN, &body).await;
    let members = |answer: &Answer| {
        answer
            .body
            .as_object()
            .unwrap()
            .keys()
            .cloned()
            .collect::<BTreeSet<_>>()
    };
    assert_eq!(
        members(&answer),
        members(&in_one_part),
        "the answer is that of a sign-in in one part"
    );
    assert_eq!(answer.body["message"], "MFA verification successful");
    assert_eq!(answer.body["user"]["email"], ada.caller.email());
    let token = answer.body["tokens"]["access_token"].as_str().unwrap();
    let me = stage.app.request(Method::GET, ME).bearer(token).send().await;
    assert_eq!(me.assert_status(StatusCode::OK).body["email"], ada.caller.email());
    stage.clock.advance_seconds(STEP);
    let again = stage.verify(&pending, &stage.code(&ada.secret, 1)).await;
    assert_said(
        &again,
        401,
        "mfa.pending_token_invalid",
        "Invalid or expired pending token",
    );
    stage.app.finish().await;
}

/// MF-3, MF-4
#[tokio::test]
async fn a_used_code_and_those_before_it_are_refused() {
    let stage = Stage::new().await;
    let ada = stage.enrolled().await;
    // The code that enabled the factor is used up as well, and none of these is a wrong one that would be counted.
    for steps in [0, -1] {
        let answer = stage
            .verify(&stage.pending(&ada).await, &stage.code(&ada.secret, steps))
            .await;
        assert_said(&answer, 400, "mfa.code_invalid", "Invalid MFA code");
    }
    stage.clock.advance_seconds(5 * STEP);
    let ahead = stage.code(&ada.secret, 1);
    stage
        .verify(&stage.pending(&ada).await, &ahead)
        .await
        .assert_status(StatusCode::OK);
    let before = stage.app.head().await;
    for steps in [1, 0, -1] {
        let answer = stage
            .verify(&stage.pending(&ada).await, &stage.code(&ada.secret, steps))
            .await;
        assert_said(&answer, 400, "mfa.code_invalid", "Invalid MFA code");
    }
    assert_eq!(stage.app.head().await, before, "a used code is no guess");
    stage.app.finish().await;
}

/// MF-4
#[tokio::test]
async fn a_code_may_be_one_step_off_and_no_more() {
    let stage = Stage::new().await;
    for (steps, status) in [(-2, 400), (-1, 200), (0, 200), (1, 200), (2, 400)] {
        let ada = stage.enrolled().await;
        stage.clock.advance_seconds(10 * STEP);
        let answer = stage
            .verify(&stage.pending(&ada).await, &stage.code(&ada.secret, steps))
            .await;
        assert_eq!(answer.status.as_u16(), status, "{steps}: {}", answer.text);
    }
    stage.app.finish().await;
}

/// MF-5
#[tokio::test]
async fn what_cannot_be_a_code_is_refused_and_not_counted() {
    let stage = Stage::new().await;
    let ada = stage.enrolled().await;
    let pending = stage.pending(&ada).await;
    let before = stage.app.head().await;
    for code in ["12345", "1234567", "123 456", "１２３４５６", "abcdefgh", "0011-aabb"] {
        assert_said(
            &stage.verify(&pending, code).await,
            400,
            "mfa.code_invalid",
            "Invalid MFA code",
        );
    }
    let long = stage.verify(&pending, &"1".repeat(65)).await;
    assert_said(&long, 400, "VALIDATION_ERROR", "code: must have at most 64 characters");
    assert_eq!(stage.app.head().await, before, "nothing was appended");
    stage
        .verify(&pending, &stage.code(&ada.secret, 1))
        .await
        .assert_status(StatusCode::OK);
    stage.app.finish().await;
}

#[tokio::test]
async fn a_sign_in_in_one_part_shows_the_code_at_once() {
    let stage = Stage::new().await;
    let ada = stage.enrolled().await;
    let log_in = async |code: &str| {
        let body = json!({ "email": ada.caller.email(), "password": PASSWORD, "mfa_code": code });
        stage.app.post(LOGIN, &body).await
    };
    let wrong = log_in(&stage.wrong_code(&ada.secret)).await;
    assert_said(&wrong, 401, "AUTH_INVALID_MFA_CODE", "Invalid MFA code");
    assert_eq!(wrong.body["error"]["field"], "mfa_code");
    assert!(!wrong.headers.contains_key("set-cookie"));
    let code = stage.code(&ada.secret, 1);
    let right = log_in(&code).await.assert_status(StatusCode::OK);
    assert_eq!(right.body["message"], "Login successful");
    assert!(right.body["token"].is_string());
    log_in(&code).await.assert_problem(401, "AUTH_INVALID_MFA_CODE");
    log_in(&ada.backup_codes[0]).await.assert_status(StatusCode::OK);
    log_in(&ada.backup_codes[0])
        .await
        .assert_problem(401, "AUTH_INVALID_MFA_CODE");
    assert_eq!(log_in("").await.body["mfa_required"], true);
    // Who has no second factor is asked for none.
    let bob = stage.app.register().await;
    let body = json!({ "email": bob.email(), "password": PASSWORD, "mfa_code": "123456" });
    stage.app.post(LOGIN, &body).await.assert_status(StatusCode::OK);
    stage.app.finish().await;
}

/// TH-9
#[tokio::test]
async fn five_wrong_codes_end_a_sign_in() {
    let stage = Stage::new().await;
    let ada = stage.enrolled().await;
    let pending = stage.pending(&ada).await;
    let wrong = stage.wrong_code(&ada.secret);
    for _ in 0..5 {
        stage
            .verify(&pending, &wrong)
            .await
            .assert_problem(400, "mfa.code_invalid");
    }
    let right = stage.code(&ada.secret, 1);
    for code in [&wrong, &right] {
        let answer = stage.verify(&pending, code).await;
        assert_said(
            &answer,
            410,
            "mfa.challenge_void",
            "Too many wrong codes. Please sign in again.",
        );
    }
    stage
        .verify(&stage.pending(&ada).await, &right)
        .await
        .assert_status(StatusCode::OK);
    stage.app.finish().await;
}

/// TH-9
#[tokio::test]
async fn ten_wrong_codes_lock_the_second_factor_for_a_while_and_nobody_else() {
    let stage = Stage::new().await;
    let ada = stage.enrolled().await;
    let bob = stage.enrolled().await;
    let wrong = stage.wrong_code(&ada.secret);
    for _ in 0..2 {
        let pending = stage.pending(&ada).await;
        for _ in 0..5 {
            stage
                .verify(&pending, &wrong)
                .await
                .assert_problem(400, "mfa.code_invalid");
        }
    }
    let pending = stage.pending(&ada).await;
    let before = stage.app.head().await;
    for code in [&wrong, &stage.code(&ada.secret, 1), &ada.backup_codes[0]] {
        let answer = stage.verify(&pending, code).await;
        assert_said(
            &answer,
            429,
            "mfa.locked",
            "Too many wrong codes. Please try again later.",
        );
        assert_eq!(answer.header("retry-after"), "900");
        let signing_in = json!({ "email": ada.caller.email(), "password": PASSWORD, "mfa_code": code });
        stage
            .app
            .post(LOGIN, &signing_in)
            .await
            .assert_problem(429, "mfa.locked");
        ada.caller
            .post(DISABLE, &json!({ "code": code }))
            .await
            .assert_problem(429, "mfa.locked");
    }
    assert_eq!(stage.app.head().await, before, "what is not looked at is not counted");
    stage
        .verify(&stage.pending(&bob).await, &stage.code(&bob.secret, 1))
        .await
        .assert_status(StatusCode::OK);
    ada.caller.get(ME).await.assert_status(StatusCode::OK);
    stage.clock.advance_seconds(900);
    stage
        .verify(&stage.pending(&ada).await, &stage.code(&ada.secret, 0))
        .await
        .assert_status(StatusCode::OK);
    stage.app.finish().await;
}

/// MF-6
#[tokio::test]
async fn a_backup_code_completes_one_sign_in() {
    let stage = Stage::new().await;
    let ada = stage.enrolled().await;
    for (index, code) in ada.backup_codes.iter().enumerate() {
        let left = 9 - index;
        let code = if index % 2 == 0 {
            code.to_uppercase()
        } else {
            code.clone()
        };
        let answer = stage
            .verify(&stage.pending(&ada).await, &code)
            .await
            .assert_status(StatusCode::OK);
        assert_eq!(answer.body["message"], "MFA verification successful (backup code used)");
        assert_eq!(answer.body["backup_codes_remaining"], left);
        let warning = (left < 5).then(|| format!("Backup code used. {left} remaining."));
        assert_eq!(answer.body.get("warning").and_then(Value::as_str), warning.as_deref());
        let again = stage.verify(&stage.pending(&ada).await, &code).await;
        assert_said(&again, 400, "mfa.code_invalid", "Invalid MFA code");
    }
    stage.app.finish().await;
}

/// MF-6
#[tokio::test]
async fn new_backup_codes_void_the_old_ones() {
    let stage = Stage::new().await;
    let ada = stage.enrolled().await;
    for (body, code, message) in [
        (json!({}), "VALIDATION_ERROR", "Current MFA code is required"),
        (
            json!({ "code": stage.wrong_code(&ada.secret) }),
            "mfa.code_invalid",
            "Invalid MFA code",
        ),
    ] {
        assert_said(&ada.caller.post(BACKUP_CODES, &body).await, 400, code, message);
    }
    let made = ada
        .caller
        .post(BACKUP_CODES, &json!({ "code": stage.code(&ada.secret, 1) }))
        .await;
    let made = made.assert_status(StatusCode::OK);
    assert_eq!(
        made.redacted(&["/backup_codes"]),
        json!({
            "success": true, "message": "Backup codes replaced", "backup_codes": "[…]",
            "warning": "Save these backup codes securely. They cannot be shown again.",
        })
    );
    let fresh = texts(&made.body["backup_codes"]);
    let old = stage.verify(&stage.pending(&ada).await, &ada.backup_codes[0]).await;
    old.assert_problem(400, "mfa.code_invalid");
    let new = stage.verify(&stage.pending(&ada).await, &fresh[0]).await;
    assert_eq!(new.assert_status(StatusCode::OK).body["backup_codes_remaining"], 9);
    let bob = stage.app.register().await;
    let none = bob.post(BACKUP_CODES, &json!({ "code": "123456" })).await;
    assert_said(&none, 400, "mfa.not_enabled", "MFA is not enabled");
    stage.app.finish().await;
}

/// MF-8
#[tokio::test]
async fn the_second_factor_is_taken_away_by_code_or_password() {
    let stage = Stage::new().await;
    let bob = stage.app.register().await;
    let none = bob.post(DISABLE, &json!({ "password": PASSWORD })).await;
    assert_said(&none, 400, "mfa.not_enabled", "MFA is not enabled");
    for way in ["code", "backup code", "password"] {
        let ada = stage.enrolled().await;
        let other = stage.verify(&stage.pending(&ada).await, &ada.backup_codes[1]).await;
        let other = other.body["token"].as_str().unwrap().to_owned();
        for (body, code, message) in [
            (
                json!({}),
                "VALIDATION_ERROR",
                "MFA code or password required to disable MFA",
            ),
            (
                json!({ "code": stage.wrong_code(&ada.secret) }),
                "mfa.code_invalid",
                "Invalid MFA code",
            ),
            (
                json!({ "password": "Wrong!Horse7" }),
                "mfa.password_incorrect",
                "Invalid password",
            ),
            (
                json!({ "code": stage.wrong_code(&ada.secret), "password": PASSWORD }),
                "mfa.code_invalid",
                "Invalid MFA code",
            ),
        ] {
            assert_said(&ada.caller.post(DISABLE, &body).await, 400, code, message);
        }
        let body = match way {
            "code" => json!({ "code": stage.code(&ada.secret, 1) }),
            "backup code" => json!({ "code": ada.backup_codes[0] }),
            _ => json!({ "password": PASSWORD }),
        };
        let request = match way {
            "backup code" => ada.caller.request(Method::DELETE, "/api/v1/auth/mfa"),
            _ => ada.caller.request(Method::POST, DISABLE),
        };
        let done = request.json(&body).send().await.assert_status(StatusCode::OK);
        assert_eq!(
            done.body,
            json!({ "success": true, "message": "MFA disabled successfully", "sessions_invalidated": true })
        );
        ada.caller.get(ME).await.assert_status(StatusCode::OK);
        let ended = stage.app.request(Method::GET, ME).bearer(&other).send().await;
        ended.assert_problem(401, "UNAUTHORIZED");
        stage
            .app
            .sign_in(ada.caller.email(), PASSWORD)
            .await
            .get(ME)
            .await
            .assert_status(StatusCode::OK);
    }
    stage.app.finish().await;
}

#[tokio::test]
async fn a_pending_token_ends_with_its_time_its_password_and_its_factor() {
    let stage = Stage::new().await;
    let refused = |answer: Answer| {
        assert_said(
            &answer,
            401,
            "mfa.pending_token_invalid",
            "Invalid or expired pending token",
        );
    };
    let ada = stage.enrolled().await;
    let pending = stage.pending(&ada).await;
    stage.clock.advance_seconds(300);
    refused(stage.verify(&pending, &stage.code(&ada.secret, 0)).await);
    let pending = stage.pending(&ada).await;
    let change = json!({ "current_password": PASSWORD, "new_password": "Another!Horse8" });
    let changed = ada
        .caller
        .request(Method::PUT, "/api/v1/users/me/password")
        .json(&change);
    changed.send().await.assert_status(StatusCode::OK);
    refused(stage.verify(&pending, &stage.code(&ada.secret, 0)).await);
    let bob = stage.enrolled().await;
    let pending = stage.pending(&bob).await;
    bob.caller
        .post(DISABLE, &json!({ "password": PASSWORD }))
        .await
        .assert_status(StatusCode::OK);
    refused(stage.verify(&pending, &stage.code(&bob.secret, 1)).await);
    stage.app.finish().await;
}

/// SE-5
#[tokio::test]
async fn an_old_sign_in_sets_nothing_up_without_the_password() {
    let stage = Stage::new().await;
    let ada = stage.app.register().await;
    stage.clock.advance_seconds(600);
    ada.post(SETUP, &json!({})).await.assert_status(StatusCode::OK);
    stage.clock.advance_seconds(1);
    let answer = ada.post(SETUP, &json!({})).await;
    assert_eq!(answer.status, StatusCode::UNAUTHORIZED);
    assert_eq!(answer.body["error"]["code"], "insufficient_user_authentication");
    assert_eq!(answer.body["error"]["details"], json!({ "max_age": 600 }));
    assert_eq!(
        answer.header("www-authenticate"),
        "Bearer error=\"insufficient_user_authentication\", max_age=\"600\""
    );
    let wrong = ada.post(SETUP, &json!({ "password": "Wrong!Horse7" })).await;
    assert_said(&wrong, 400, "mfa.password_incorrect", "Invalid password");
    ada.post(SETUP, &json!({ "password": PASSWORD }))
        .await
        .assert_status(StatusCode::OK);
    // A refresh is no sign-in.
    let refreshed = stage
        .app
        .post("/api/v1/auth/refresh", &json!({ "refresh_token": ada.refresh_token() }))
        .await;
    let token = refreshed.body["data"]["access_token"].as_str().unwrap();
    let answer = stage
        .app
        .request(Method::POST, SETUP)
        .bearer(token)
        .json(&json!({}))
        .send()
        .await;
    assert_eq!(answer.body["error"]["code"], "insufficient_user_authentication");
    let again = stage.app.sign_in(ada.email(), PASSWORD).await;
    again.post(SETUP, &json!({})).await.assert_status(StatusCode::OK);
    stage.app.finish().await;
}

#[tokio::test]
async fn the_django_contract_is_no_way_around() {
    let stage = Stage::new().await;
    let ada = stage.enrolled().await;
    let log_in = async |more: Value| {
        let mut body = json!({ "first_credential": ada.caller.email(), "password": PASSWORD });
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        stage.app.post("/api/auth/login/", &body).await
    };
    for (more, status, detail) in [
        (json!({}), 401, "MFA verification required: send mfa_code"),
        (
            json!({ "mfa_code": "" }),
            401,
            "MFA verification required: send mfa_code",
        ),
        (
            json!({ "mfa_code": stage.wrong_code(&ada.secret) }),
            401,
            "Invalid MFA code",
        ),
        (json!({ "mfa_code": 123_456 }), 400, "mfa_code must be a string"),
    ] {
        let answer = log_in(more).await;
        assert_eq!(
            (answer.status.as_u16(), &answer.body),
            (status, &json!({ "detail": detail }))
        );
    }
    let answer = log_in(json!({ "mfa_code": stage.code(&ada.secret, 1) })).await;
    let answer = answer.assert_status(StatusCode::OK);
    let me = stage
        .app
        .request(Method::GET, "/api/auth/me/")
        .bearer(answer.body["access"].as_str().unwrap());
    me.send().await.assert_status(StatusCode::OK);
    stage.app.finish().await;
}

/// MF-3
#[tokio::test]
async fn of_parallel_uses_of_one_code_one_succeeds() {
    let stage = Stage::new().await;
    let ada = stage.enrolled().await;
    for round in 0..ROUNDS {
        stage.clock.advance_seconds(STEP);
        let code = stage.code(&ada.secret, 0);
        // Half of them for one sign-in, half for sign-ins of their own; the code belongs to one all the same.
        let shared = stage.pending(&ada).await;
        let own: Vec<String> = join_all((0..PARALLEL / 2).map(|_| stage.pending(&ada))).await;
        let tokens = own.iter().chain(std::iter::repeat_n(&shared, PARALLEL / 2));
        let answers = join_all(tokens.map(|token| stage.verify(token, &code))).await;
        assert_one_succeeded(&answers, round);
    }
    stage.app.finish().await;
}

/// MF-6
#[tokio::test]
async fn of_parallel_uses_of_one_backup_code_one_succeeds() {
    let stage = Stage::new().await;
    let ada = stage.enrolled().await;
    let mut codes = ada.backup_codes.clone();
    for round in 0..ROUNDS {
        if codes.len() == 1 {
            // Each round uses one up; the last one buys the next ten.
            let made = ada.caller.post(BACKUP_CODES, &json!({ "code": codes[0] })).await;
            codes = texts(&made.assert_status(StatusCode::OK).body["backup_codes"]);
        }
        let code = codes.pop().unwrap();
        let tokens: Vec<String> = join_all((0..PARALLEL).map(|_| stage.pending(&ada))).await;
        let answers = join_all(tokens.iter().map(|token| stage.verify(token, &code))).await;
        assert_one_succeeded(&answers, round);
    }
    stage.app.finish().await;
}

#[track_caller]
fn assert_one_succeeded(answers: &[Answer], round: usize) {
    assert_eq!(answers.len(), PARALLEL);
    let succeeded = answers.iter().filter(|answer| answer.status == StatusCode::OK).count();
    let statuses: Vec<u16> = answers.iter().map(|answer| answer.status.as_u16()).collect();
    assert_eq!(succeeded, 1, "round {round}: {statuses:?}");
    assert!(
        statuses.iter().all(|status| matches!(status, 200 | 400 | 401)),
        "round {round}: {statuses:?}"
    );
}

/// TH-9: guessing in parallel is no faster.
#[tokio::test]
async fn parallel_guesses_for_one_sign_in_are_answered_five_times() {
    let stage = Stage::new().await;
    let ada = stage.enrolled().await;
    let pending = stage.pending(&ada).await;
    let wrong = stage.wrong_code(&ada.secret);
    let answers = join_all((0..PARALLEL).map(|_| stage.verify(&pending, &wrong))).await;
    let said_wrong = answers
        .iter()
        .filter(|answer| answer.status == StatusCode::BAD_REQUEST)
        .count();
    assert_eq!(said_wrong, 5);
    assert!(
        answers
            .iter()
            .all(|answer| matches!(answer.status.as_u16(), 400 | 409 | 410)),
        "the others learn nothing"
    );
    stage.app.finish().await;
}

/// A sign-in must not slip through while the factor is being set up, whichever comes first.
#[tokio::test]
async fn a_sign_in_beside_the_enabling_leaves_no_session_without_the_factor() {
    let stage = Stage::new().await;
    for _ in 0..10 {
        let ada = stage.app.register().await;
        let setup = ada.post(SETUP, &json!({})).await;
        let code = stage.code(setup.body["secret"].as_str().unwrap(), 0);
        let body = json!({ "email": ada.email(), "password": PASSWORD });
        let enable = json!({ "code": code });
        let (enabled, sign_ins) = tokio::join!(
            ada.post(ENABLE, &enable),
            join_all((0..6).map(|_| stage.app.post(LOGIN, &body)))
        );
        enabled.assert_status(StatusCode::OK);
        for answer in sign_ins {
            let answer = answer.assert_status(StatusCode::OK);
            if let Some(token) = answer.body["token"].as_str() {
                let me = stage.app.request(Method::GET, ME).bearer(token).send().await;
                assert_eq!(
                    me.status,
                    StatusCode::UNAUTHORIZED,
                    "opened without the factor, and lives on"
                );
            }
        }
        ada.get(ME).await.assert_status(StatusCode::OK);
    }
    stage.app.finish().await;
}

/// MF-7
#[tokio::test]
async fn secrets_and_codes_are_nowhere_in_clear() {
    let stage = Stage::new().await;
    let administrator = stage.app.administrator().await;
    let ada = stage.enrolled().await;
    let code = stage.code(&ada.secret, 1);
    let pending = stage.pending(&ada).await;
    stage.verify(&pending, &code).await.assert_status(StatusCode::OK);
    stage
        .verify(&stage.pending(&ada).await, &ada.backup_codes[0])
        .await
        .assert_status(StatusCode::OK);
    let pool = stage.app.database().database();
    let stored: Vec<String> = sqlx::query_scalar("select payload::text || metadata::text from log.events")
        .fetch_all(pool.pool())
        .await
        .unwrap();
    let stream = format!("/api/v1/streams/mfa/{}", ada.caller.user_id());
    let mut shown = Vec::new();
    for caller in [&administrator, &ada.caller] {
        for path in [
            format!("{stream}/events"),
            format!("{stream}/state"),
            stream.clone(),
            ME.to_owned(),
        ] {
            shown.push(caller.get(&path).await.text);
        }
    }
    assert!(
        shown.iter().any(|text| text.contains("mfa.enabled")),
        "the history is shown: {shown:?}"
    );
    let mut canaries = ada.backup_codes.clone();
    canaries.extend([ada.secret.clone(), code, pending]);
    for canary in canaries {
        // A code of six digits may stand in a time or a step by chance; as a JSON text it does not.
        let needle = if canary.len() == 6 {
            format!("\"{canary}\"")
        } else {
            canary
        };
        for text in stored.iter().chain(&shown) {
            assert!(!text.contains(&needle), "{needle} in {text}");
        }
    }
    assert!(shown.iter().all(|text| !text.contains("$argon2id$")), "{shown:?}");
    stage.app.finish().await;
}

#[tokio::test]
async fn administrators_see_who_of_them_has_a_second_factor() {
    let stage = Stage::new().await;
    let first = stage.app.administrator().await;
    let second = stage.app.administrator().await;
    let third = stage.app.administrator().await;
    stage.enrolled().await;
    let setup = second.post(SETUP, &json!({})).await;
    let code = stage.code(setup.body["secret"].as_str().unwrap(), 0);
    second
        .post(ENABLE, &json!({ "code": code }))
        .await
        .assert_status(StatusCode::OK);
    let without = |caller: &Caller| {
        json!({
            "user_id": caller.user_id(), "email": caller.email(), "role": "administrator", "in_grace_period": false,
        })
    };
    let answer = first.get(COMPLIANCE).await.assert_status(StatusCode::OK);
    assert_eq!(
        answer.body,
        json!({
            "total_admins": 3, "mfa_enabled_count": 1, "mfa_disabled_count": 2, "in_grace_period": 0,
            "compliance_pct": 33.33, "non_compliant_users": [without(&first), without(&third)],
        })
    );
    stage
        .app
        .person(Role::Editor)
        .await
        .get(COMPLIANCE)
        .await
        .assert_problem(403, "PERMISSION_DENIED");
    stage.app.get(COMPLIANCE).await.assert_problem(401, "UNAUTHORIZED");
    stage.app.finish().await;
}

/// RFC 6238 by somebody else's hand: an authenticator that knows nothing but our URI shows codes that we accept.
#[tokio::test]
async fn an_authenticator_of_another_make_shows_the_same_codes() {
    const PROGRAM: &str = "import pyotp, sys; print(pyotp.parse_uri(sys.argv[1]).at(int(sys.argv[2])))";
    let has_pyotp = Command::new("python3").args(["-c", "import pyotp"]).output();
    if !has_pyotp.is_ok_and(|output| output.status.success()) {
        use std::io::Write as _;
        let _ = writeln!(
            std::io::stderr(),
            "skipped: python3 with pyotp is not installed (pip install pyotp)"
        );
        return;
    }
    let stage = Stage::new().await;
    let ada = stage.app.register().await;
    let setup = ada.post(SETUP, &json!({})).await;
    let shown = |seconds: i64| {
        let uri = setup.body["provisioning_uri"].as_str().unwrap();
        let output = Command::new("python3")
            .args(["-c", PROGRAM, uri, &seconds.to_string()])
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    };
    let now = stage.clock.now().unix_seconds();
    let enabled = ada.post(ENABLE, &json!({ "code": shown(now) })).await;
    enabled.assert_status(StatusCode::OK);
    let body = json!({ "email": ada.email(), "password": PASSWORD, "mfa_code": shown(now + STEP) });
    stage.app.post(LOGIN, &body).await.assert_status(StatusCode::OK);
    stage.app.finish().await;
}
