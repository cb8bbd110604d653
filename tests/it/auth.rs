//! Registration, sign-in, refresh and sign-out at `/api/v1/auth`: contract sections 2 and 6, whole bodies compared.

use annals_tests::{Answer, PASSWORD, TestApp};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

const REGISTER: &str = "/api/v1/auth/register";
const LOGIN: &str = "/api/v1/auth/login";
const REFRESH: &str = "/api/v1/auth/refresh";
const LOGOUT: &str = "/api/v1/auth/logout";
const ME: &str = "/api/v1/auth/me";

/// The registration of the FastAPI document.
fn profile(email: &str) -> Value {
    json!({ "email": email, "password": "secret123", "full_name": "Ada Lovelace", "organization_name": "Engines" })
}

fn credentials(email: &str, password: &str) -> Value {
    json!({ "email": email, "password": password })
}

/// An account with its generated members replaced.
fn user(email: &str, name: &str, org: bool) -> Value {
    let username = email.split('@').next().expect("an address");
    json!({
        "id": "[id]", "email": email, "username": username, "name": name, "full_name": name, "role": "editor",
        "org_id": if org { json!("[id]") } else { Value::Null }, "is_active": true, "is_verified": false,
        "email_verified": false, "created_at": "[time]", "updated_at": "[time]",
    })
}

/// Ids, times and tokens replaced by what they are, after a look at their form.
fn redact(value: &Value) -> Value {
    fn walk(name: &str, value: &mut Value) {
        match value {
            Value::Object(members) => members.iter_mut().for_each(|(name, value)| walk(name, value)),
            Value::Array(items) => items.iter_mut().for_each(|item| walk(name, item)),
            Value::String(text) => {
                let kind = match name {
                    "user_id" if text.len() == 26 => "[ulid]",
                    "id" | "user_id" | "org_id" | "session_id" | "request_id" => {
                        assert!(uuid::Uuid::parse_str(text).is_ok(), "{name}: {text}");
                        "[id]"
                    }
                    "access_token" | "refresh_token" | "token" => {
                        let opaque = text.len() == 86 && !text.contains('.');
                        assert!(opaque || text.split('.').count() == 3, "{name}: {text}");
                        if opaque { "[opaque]" } else { "[jwt]" }
                    }
                    _ if name.ends_with("_at") || name == "last_activity" => {
                        assert!(text.ends_with('Z') && text.contains('T'), "{name}: {text}");
                        "[time]"
                    }
                    _ => return,
                };
                *value = json!(kind);
            }
            _ => {}
        }
    }
    let mut value = value.clone();
    walk("", &mut value);
    value
}

fn organization() -> Value {
    json!({ "id": "[id]", "name": "Engines", "slug": "engines", "created_at": "[time]" })
}

fn organizations() -> Value {
    json!([{
        "user_id": "[id]", "org_id": "[id]", "organization": organization(), "role": "owner", "is_default": true,
        "joined_at": "[time]",
    }])
}

fn tokens() -> Value {
    json!({
        "access_token": "[jwt]", "refresh_token": "[opaque]", "token_type": "Bearer", "expires_in": 86400,
        "expires_at": "[time]",
    })
}

async fn types_of_new_events(app: &TestApp, after: annals_eventstore::Position) -> Vec<&'static str> {
    let records = app.store().read_after(after, 100).await.expect("the log can be read");
    records.iter().map(|record| record.event.event_type()).collect()
}

#[tokio::test]
async fn registration_in_the_profile_shape_gives_a_profile_and_no_tokens() {
    let app = TestApp::new().await;
    let before = app.head().await;
    let answer = app.post(REGISTER, &profile("Ada@Example.COM")).await;
    assert_eq!(answer.status, StatusCode::CREATED);
    assert_eq!(
        redact(&answer.body),
        json!({
            "success": true,
            "data": user("ada@example.com", "Ada Lovelace", true),
            "message": "User registered successfully. Please check your email to verify your account.",
            "user": user("ada@example.com", "Ada Lovelace", true),
            "organization": organization(),
            "organizations": organizations(),
            "user_id": "[ulid]", "email": "ada@example.com", "username": "ada", "created_at": "[time]",
        })
    );
    assert!(!answer.headers.contains_key("set-cookie"));
    assert_eq!(answer.header("event-position"), app.head().await.to_string());
    let events = types_of_new_events(&app, before).await;
    assert_eq!(
        events,
        [
            "user.registered",
            "auth.password_set",
            "organization.founded",
            "organization.member_added",
            "link.issued"
        ],
        "one commit, no session"
    );
    app.finish().await;
}

#[tokio::test]
async fn registration_in_the_other_shape_gives_tokens_and_a_session() {
    let app = TestApp::new().await;
    let before = app.head().await;
    let body = json!({
        "email": "ada@example.com", "password": "a long enough one", "name": "Ada Lovelace",
        // Nobody chooses these.
        "role": "administrator", "is_verified": true, "id": "1", "password_hash": "x", "hash": "x",
    });
    let answer = app.post(REGISTER, &body).await.assert_status(StatusCode::CREATED);
    assert_eq!(
        redact(&answer.body),
        json!({
            "success": true,
            "data": user("ada@example.com", "Ada Lovelace", false),
            "message": "User registered successfully. Please check your email to verify your account.",
            "user": user("ada@example.com", "Ada Lovelace", false),
            "organization": null, "organizations": [],
            "user_id": "[ulid]", "email": "ada@example.com", "username": "ada", "created_at": "[time]",
            "access_token": "[jwt]", "refresh_token": "[opaque]", "token_type": "Bearer", "expires_in": 86400,
            "tokens": tokens(),
        })
    );
    assert_eq!(
        types_of_new_events(&app, before).await,
        ["user.registered", "auth.password_set", "session.started", "link.issued"]
    );
    let token = answer.body["access_token"].as_str().unwrap();
    let me = app.request(Method::GET, ME).bearer(token).send().await;
    assert_eq!((me.status, &me.body["role"]), (StatusCode::OK, &json!("editor")));
    // The least that this shape takes, with an organization under its name.
    let body = json!({ "email": "eve@example.com", "password": "a long enough one", "organization": "Engines" });
    let answer = app.post(REGISTER, &body).await.assert_status(StatusCode::CREATED);
    assert_eq!(redact(&answer.body["organizations"])[0]["role"], "owner");
    app.post(REGISTER, &credentials("joe@example.com", "a long enough one"))
        .await
        .assert_status(StatusCode::CREATED);
    app.finish().await;
}

#[tokio::test]
async fn a_taken_address_is_409_in_every_spelling_and_shape() {
    let app = TestApp::new().await;
    app.post(REGISTER, &profile("ada@example.com"))
        .await
        .assert_status(StatusCode::CREATED);
    let before = app.head().await;
    for body in [
        profile("ada@example.com"),
        profile(" ADA@Example.com "),
        credentials("ada@EXAMPLE.com", "a long enough one"),
    ] {
        let answer = app.post(REGISTER, &body).await;
        answer.assert_problem(409, "AUTH_EMAIL_EXISTS");
        assert_eq!(
            redact(&answer.body),
            json!({
                "success": false,
                "error": {
                    "code": "AUTH_EMAIL_EXISTS", "message": "A user with this email address already exists.",
                    "field": "email",
                },
                "detail": "A user with this email address already exists.",
                "request_id": "[id]",
            })
        );
    }
    assert_eq!(app.head().await, before, "nothing was appended");
    app.finish().await;
}

#[tokio::test]
async fn registration_says_what_is_wrong_with_the_status_of_its_shape() {
    let app = TestApp::new().await;
    let before = app.head().await;
    for (member, value) in [
        ("email", json!("no address")),
        ("email", json!("")),
        ("email", json!(7)),
        ("email", json!(null)),
        ("email", json!("a@b＠example.com")),
        ("password", json!("seven77")),
        ("password", json!(["secret123"])),
        ("full_name", json!("A")),
        ("full_name", json!({})),
        ("organization_name", json!("E")),
        ("organization_name", json!(null)),
    ] {
        let mut body = profile("ada@example.com");
        body[member] = value.clone();
        let answer = app.post(REGISTER, &body).await;
        answer.assert_problem(422, "VALIDATION_ERROR");
        assert_eq!(answer.body["error"]["field"], member, "{value}: {}", answer.text);
    }
    for member in ["email", "password", "full_name", "organization_name"] {
        let mut body = profile("ada@example.com");
        body.as_object_mut().unwrap().remove(member);
        let answer = app.post(REGISTER, &body).await;
        answer.assert_problem(422, "VALIDATION_ERROR");
        assert_eq!(answer.body["error"]["message"], format!("{member}: is required"));
    }
    for (body, field) in [
        (json!({}), "email"),
        (json!({ "email": "ada@example.com" }), "password"),
        (json!({ "email": "ada", "password": "a long enough one" }), "email"),
        (credentials("ada@example.com", "short"), "password"),
        (credentials("ada@example.com", "Password1"), "password"),
        (
            json!({ "email": "ada@example.com", "password": "a long enough one", "username": "a@b" }),
            "username",
        ),
        (
            json!({ "email": "ada@example.com", "password": "a long enough one", "name": 7 }),
            "name",
        ),
    ] {
        let answer = app.post(REGISTER, &body).await;
        answer.assert_problem(400, "VALIDATION_ERROR");
        assert_eq!(answer.body["error"]["field"], field, "{body}: {}", answer.text);
    }
    let answer = app.post(REGISTER, &json!({ "full_name": "" })).await;
    let fields: Vec<&Value> = answer.body["error"]["details"]["errors"]
        .as_array()
        .unwrap()
        .iter()
        .map(|error| &error["field"])
        .collect();
    assert_eq!(
        fields,
        ["email", "password", "full_name", "organization_name"],
        "all faults at once"
    );
    assert_eq!(app.head().await, before, "nothing was appended");
    app.finish().await;
}

#[tokio::test]
async fn signing_in_gives_the_union_of_the_documents_and_a_cookie() {
    let app = TestApp::new().await;
    app.post(REGISTER, &profile("ada@example.com"))
        .await
        .assert_status(StatusCode::CREATED);
    let before = app.head().await;
    let answer = app
        .post(LOGIN, &credentials("Ada@example.com", "secret123"))
        .await
        .assert_status(StatusCode::OK);
    let account = user("ada@example.com", "Ada Lovelace", true);
    assert_eq!(
        redact(&answer.body),
        json!({
            "success": true,
            "message": "Login successful",
            "token": "[jwt]",
            "tokens": tokens(),
            "access_token": "[jwt]", "refresh_token": "[opaque]", "token_type": "Bearer", "expires_in": 86400,
            "user": account,
            "organization": organization(),
            "organizations": organizations(),
            "data": {
                "token": { "access_token": "[jwt]", "refresh_token": "[opaque]", "token_type": "bearer" },
                "user": account,
            },
            "user_id": "[ulid]", "email": "ada@example.com", "username": "ada", "created_at": "[time]",
        })
    );
    let token = answer.body["token"].as_str().unwrap();
    let cookie = answer.header("set-cookie");
    assert_eq!(
        cookie,
        format!("annals_session={token}; Path=/; Max-Age=86400; HttpOnly; SameSite=Lax")
    );
    assert_eq!(types_of_new_events(&app, before).await, ["session.started"]);
    // Two in one second differ.
    let again = app.post(LOGIN, &credentials("ada@example.com", "secret123")).await;
    assert_ne!(again.body["token"], answer.body["token"]);
    assert_ne!(again.body["refresh_token"], answer.body["refresh_token"]);
    app.finish().await;
}

#[tokio::test]
async fn a_wrong_password_and_an_unknown_address_are_the_same_answer() {
    let app = TestApp::new().await;
    app.post(REGISTER, &profile("ada@example.com"))
        .await
        .assert_status(StatusCode::CREATED);
    let passwords = app.state().commands().passwords().clone();
    let mut answers = Vec::new();
    for body in [
        credentials("ada@example.com", "wrong"),
        credentials("nobody@example.com", "wrong"),
    ] {
        let hashes = passwords.hashes();
        let answer = app
            .request(Method::POST, LOGIN)
            .bearer("stale")
            .json(&body)
            .send()
            .await;
        answer.assert_problem(401, "AUTH_INVALID_CREDENTIALS");
        assert_eq!(passwords.hashes() - hashes, 1, "one hash, whoever it is");
        assert!(!answer.headers.contains_key("set-cookie"));
        answers.push(redact(&answer.body));
    }
    assert_eq!(answers[0], answers[1]);
    assert_eq!(
        answers[0],
        json!({
            "success": false,
            "error": { "code": "AUTH_INVALID_CREDENTIALS", "message": "Invalid credentials" },
            "detail": "Invalid credentials",
            "request_id": "[id]",
        })
    );
    app.finish().await;
}

#[tokio::test]
async fn sign_in_and_refresh_refuse_what_is_missing_or_malformed() {
    let app = TestApp::new().await;
    let before = app.head().await;
    for body in [
        json!({}),
        json!({ "email": "ada@example.com" }),
        json!({ "password": "x" }),
        credentials("", "x"),
        credentials("ada@example.com", ""),
        json!({ "email": null, "password": null }),
    ] {
        let answer = app.post(LOGIN, &body).await;
        answer.assert_problem(400, "VALIDATION_ERROR");
        assert_eq!(answer.body["detail"], "Email and password required", "{body}");
    }
    for body in [
        json!({ "email": 7, "password": "x" }),
        json!({ "email": "nonsense", "password": "x" }),
    ] {
        app.post(LOGIN, &body).await.assert_problem(422, "VALIDATION_ERROR");
    }
    for body in [
        json!({}),
        json!({ "refresh_token": null }),
        json!({ "refresh_token": 7 }),
        json!([]),
    ] {
        app.post(REFRESH, &body).await.assert_problem(422, "VALIDATION_ERROR");
    }
    for token in ["", "nonsense", &"x".repeat(86), &"x".repeat(10_000)] {
        let answer = app.post(REFRESH, &json!({ "refresh_token": token })).await;
        answer.assert_problem(401, "AUTH_INVALID_REFRESH_TOKEN");
        assert_eq!(answer.body["detail"], "Invalid or expired refresh token");
    }
    assert_eq!(app.head().await, before, "nothing was appended");
    app.finish().await;
}

#[tokio::test]
async fn a_refresh_rotates_the_token_and_keeps_the_session() {
    let app = TestApp::new().await;
    let ada = app.register().await;
    let answer = app
        .post(REFRESH, &json!({ "refresh_token": ada.refresh_token() }))
        .await;
    assert_eq!(answer.status, StatusCode::OK);
    assert_eq!(
        redact(&answer.body),
        json!({
            "success": true,
            "data": { "access_token": "[jwt]", "refresh_token": "[opaque]", "token_type": "bearer" },
            "message": "Token refreshed successfully",
            "access_token": "[jwt]", "refresh_token": "[opaque]", "token_type": "Bearer", "expires_in": 86400,
            "tokens": tokens(),
        })
    );
    assert!(!answer.headers.contains_key("set-cookie"), "nobody asked for a cookie");
    let next = answer.body["data"]["refresh_token"].as_str().unwrap().to_owned();
    assert_ne!(next, ada.refresh_token());
    // The session is the same one.
    ada.get(ME).await.assert_status(StatusCode::OK);
    let sessions = ada.get("/api/v1/auth/sessions").await;
    assert_eq!(sessions.body["total"], 1);
    app.post(REFRESH, &json!({ "refresh_token": next }))
        .await
        .assert_status(StatusCode::OK);
    app.finish().await;
}

#[tokio::test] // RF-2: the old one is refused, and whoever stole either of them has nothing of it
async fn an_exchanged_refresh_token_is_refused_and_ends_the_session() {
    let app = TestApp::with(|config| config.token.refresh_grace_s = 0).await;
    let ada = app.register().await;
    let old = json!({ "refresh_token": ada.refresh_token() });
    let next = app.post(REFRESH, &old).await.assert_status(StatusCode::OK);
    ada.get(ME).await.assert_status(StatusCode::OK);
    app.post(REFRESH, &old)
        .await
        .assert_problem(401, "AUTH_INVALID_REFRESH_TOKEN");
    ada.get(ME).await.assert_problem(401, "UNAUTHORIZED");
    let next = json!({ "refresh_token": next.body["refresh_token"] });
    app.post(REFRESH, &next)
        .await
        .assert_problem(401, "AUTH_INVALID_REFRESH_TOKEN");
    let other = app.sign_in(ada.email(), PASSWORD).await;
    let all = other.get("/api/v1/auth/sessions?include_expired=true").await;
    let statuses: Vec<_> = all.body["data"]
        .as_array()
        .unwrap()
        .iter()
        .map(|row| row["status"].as_str().unwrap())
        .collect();
    assert_eq!(statuses, ["ACTIVE", "REVOKED"]);
    app.finish().await;
}

/// Stampedes; `ANNALS_TEST_STAMPEDES` asks for more.
const STAMPEDES: usize = 5;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)] // RF-5
async fn a_stampede_of_refreshes_in_two_processes_makes_one_chain() {
    let rounds = std::env::var("ANNALS_TEST_STAMPEDES")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(STAMPEDES);
    let app = TestApp::new().await;
    let second = annals_tests::Neighbour::of(&app).await;
    let ada = app.register().await;
    let mut token = ada.refresh_token().to_owned();
    let start = app.head().await;
    for round in 0..rounds {
        let body = json!({ "refresh_token": token });
        let uses = (0..20).map(|number| {
            let url = if number % 2 == 0 {
                app.url(REFRESH)
            } else {
                second.url(REFRESH)
            };
            app.client().post(url).json(&body).send()
        });
        let mut successors = Vec::new();
        for answer in futures::future::join_all(uses).await {
            let answer = answer.expect("an answer");
            assert_eq!(answer.status(), StatusCode::OK, "round {round}");
            let body: Value = answer.json().await.expect("a body");
            successors.push(body["refresh_token"].as_str().unwrap().to_owned());
        }
        successors.sort_unstable();
        successors.dedup();
        assert_eq!(successors.len(), 1, "round {round}");
        token = successors.remove(0);
    }
    let recorded = app.head().await.get() - start.get();
    assert_eq!(recorded, rounds as u64, "one renewal a round");
    ada.get(ME).await.assert_status(StatusCode::OK);
    second.finish().await;
    app.finish().await;
}

#[tokio::test]
async fn signing_out_ends_the_session_at_once() {
    let app = TestApp::new().await;
    let ada = app.register().await;
    let elsewhere = app.sign_in(ada.email(), PASSWORD).await;
    let answer = ada.post(LOGOUT, &json!({})).await.assert_status(StatusCode::OK);
    assert_eq!(
        answer.body,
        json!({
            "success": true, "data": { "message": "Logged out successfully" }, "message": "Logged out successfully",
        })
    );
    assert_eq!(
        answer.header("set-cookie"),
        "annals_session=; Path=/; Max-Age=0; HttpOnly; SameSite=Lax"
    );
    let refused = ada.get(ME).await;
    refused.assert_problem(401, "UNAUTHORIZED");
    assert_eq!(refused.body["detail"], "Could not validate credentials");
    app.post(REFRESH, &json!({ "refresh_token": ada.refresh_token() }))
        .await
        .assert_status(StatusCode::UNAUTHORIZED);
    elsewhere.get(ME).await.assert_status(StatusCode::OK);
    // The token is no longer valid, so there is nobody to sign out.
    ada.post(LOGOUT, &json!({})).await.assert_problem(401, "UNAUTHORIZED");
    app.finish().await;
}

#[tokio::test]
async fn signing_out_takes_a_session_all_or_nothing() {
    let app = TestApp::new().await;
    let ada = app.register().await;
    let second = app.sign_in(ada.email(), PASSWORD).await;
    let eve = app.register().await;
    let id_of = |answer: &Answer| answer.body["data"][0]["session_id"].as_str().unwrap().to_owned();
    let eves = id_of(&eve.get("/api/v1/auth/sessions").await);
    let before = app.head().await;
    for foreign in [
        eves.as_str(),
        "01890a5d-ac96-774b-bcce-b302099a8057",
        "nonsense",
        &"x".repeat(300),
    ] {
        let answer = ada.post(LOGOUT, &json!({ "session_id": foreign })).await;
        answer.assert_problem(404, "session.not_found");
        assert_eq!(answer.body["detail"], "Session not found");
    }
    ada.post(LOGOUT, &json!({ "revoke_all_sessions": "yes" }))
        .await
        .assert_problem(422, "VALIDATION_ERROR");
    assert_eq!(app.head().await, before, "nothing was appended");
    // An empty body is {}, and without credentials nothing is done.
    let nobody = app
        .request(Method::POST, LOGOUT)
        .send()
        .await
        .assert_status(StatusCode::OK);
    assert_eq!(nobody.body["message"], "Logged out successfully");
    assert_eq!(app.head().await, before, "nothing was appended");
    let listed = ada.get("/api/v1/auth/sessions").await;
    let rows = listed.body["data"].as_array().unwrap();
    let other = rows.iter().find(|row| row["is_current"] == false).unwrap()["session_id"]
        .as_str()
        .unwrap();
    ada.post(LOGOUT, &json!({ "session_id": other }))
        .await
        .assert_status(StatusCode::OK);
    second.get(ME).await.assert_status(StatusCode::UNAUTHORIZED);
    let third = app.sign_in(ada.email(), PASSWORD).await;
    let answer = ada.post(LOGOUT, &json!({ "revoke_all_sessions": true })).await;
    assert_eq!(answer.body["data"]["message"], "Logged out from all 2 sessions");
    for gone in [&ada, &third] {
        gone.get(ME).await.assert_status(StatusCode::UNAUTHORIZED);
    }
    eve.get(ME).await.assert_status(StatusCode::OK);
    let signed_out = eve.request(Method::POST, LOGOUT).send().await;
    assert_eq!(signed_out.status, StatusCode::OK, "a bearer and no body");
    app.finish().await;
}

#[tokio::test]
async fn me_is_the_union_of_the_documents() {
    let app = TestApp::new().await;
    app.post(REGISTER, &profile("ada@example.com"))
        .await
        .assert_status(StatusCode::CREATED);
    let ada = app.sign_in("ada@example.com", "secret123").await;
    let answer = ada.get(ME).await.assert_status(StatusCode::OK);
    let account = user("ada@example.com", "Ada Lovelace", true);
    assert_eq!(
        redact(&answer.body),
        json!({
            "success": true, "data": account, "user": account,
            "organization": organization(), "organizations": organizations(),
            "user_id": "[ulid]", "email": "ada@example.com", "username": "ada", "created_at": "[time]",
            "name": "Ada Lovelace", "role": "editor",
        })
    );
    let nobody = app.get(ME).await;
    nobody.assert_problem(401, "UNAUTHORIZED");
    assert_eq!(nobody.body["detail"], "Not authenticated");
    for header in [
        "Bearer",
        "Bearer a b",
        "Bearer nonsense",
        "bearer a.b.c",
        &format!("Bearer {}", ada.refresh_token()),
    ] {
        let answer = app
            .request(Method::GET, ME)
            .header("authorization", header)
            .send()
            .await;
        answer.assert_problem(401, "UNAUTHORIZED");
        assert_eq!(answer.body["detail"], "Could not validate credentials", "{header}");
    }
    let other_scheme = app
        .request(Method::GET, ME)
        .header("authorization", "Basic YTpi")
        .send()
        .await;
    assert_eq!(other_scheme.body["detail"], "Not authenticated");
    app.finish().await;
}

#[tokio::test]
async fn an_expired_token_is_told_apart() {
    let app = TestApp::with(|config| config.token.access_lifetime_s = 1).await;
    let ada = app.register().await;
    tokio::time::sleep(std::time::Duration::from_millis(1100)).await;
    ada.get(ME).await.assert_problem(401, "AUTH_TOKEN_EXPIRED");
    app.post(REFRESH, &json!({ "refresh_token": ada.refresh_token() }))
        .await
        .assert_status(StatusCode::OK);
    app.finish().await;
}

#[tokio::test]
async fn a_cookie_signs_in_unless_a_foreign_page_sends_it() {
    let app = TestApp::new().await;
    let ada = app.register().await;
    let eve = app.register().await;
    let cookie = format!("other=1; annals_session={}", ada.token());
    let with_cookie = |method: Method, path: &str| app.request(method, path).header("cookie", &cookie);
    let me = with_cookie(Method::GET, ME).send().await.assert_status(StatusCode::OK);
    assert_eq!(me.body["email"], ada.email());
    // The bearer token beside it must speak for the same account.
    with_cookie(Method::GET, ME)
        .bearer(ada.token())
        .send()
        .await
        .assert_status(StatusCode::OK);
    with_cookie(Method::GET, ME)
        .bearer(eve.token())
        .send()
        .await
        .assert_problem(400, "AMBIGUOUS_CREDENTIALS");
    let before = app.head().await;
    for (name, value) in [
        ("sec-fetch-site", "cross-site"),
        ("sec-fetch-site", "same-site"),
        ("origin", "https://evil.test"),
        ("origin", "null"),
    ] {
        let answer = with_cookie(Method::POST, LOGOUT)
            .header(name, value)
            .json(&json!({}))
            .send()
            .await;
        answer.assert_problem(403, "CROSS_SITE_REQUEST");
        with_cookie(Method::GET, ME)
            .header(name, value)
            .send()
            .await
            .assert_status(StatusCode::OK);
    }
    let form = with_cookie(Method::PUT, "/api/v1/auth/users/me")
        .body("text/plain", "{\"full_name\":\"Eve\"}")
        .send()
        .await;
    form.assert_problem(415, "UNSUPPORTED_MEDIA_TYPE");
    assert_eq!(app.head().await, before, "nothing was appended");
    let refreshed = with_cookie(Method::POST, REFRESH)
        .json(&json!({ "refresh_token": ada.refresh_token() }))
        .send()
        .await;
    assert!(
        refreshed.header("set-cookie").starts_with("annals_session=ey"),
        "a browser's cookie is renewed"
    );
    let out = with_cookie(Method::POST, LOGOUT)
        .header("sec-fetch-site", "same-origin")
        .json(&json!({}))
        .send()
        .await;
    assert_eq!(out.status, StatusCode::OK);
    with_cookie(Method::GET, ME)
        .send()
        .await
        .assert_status(StatusCode::UNAUTHORIZED);
    assert_eq!(out.header("clear-site-data"), "\"cache\""); // CK-3
    // A dead cookie is cleared, not an error.
    let again = with_cookie(Method::POST, LOGOUT)
        .json(&json!({}))
        .send()
        .await
        .assert_status(StatusCode::OK);
    assert!(again.header("set-cookie").contains("Max-Age=0"));
    app.finish().await;
}

#[tokio::test]
async fn the_unversioned_alias_answers_alike() {
    let app = TestApp::new().await;
    let answer = app.post("/api/auth/register", &profile("ada@example.com")).await;
    assert_eq!(answer.status, StatusCode::CREATED);
    assert_eq!(answer.body["data"]["email"], "ada@example.com");
    let answer = app
        .post("/api/auth/login", &credentials("ada@example.com", "secret123"))
        .await;
    assert_eq!(answer.body["data"]["token"]["token_type"], "bearer");
    let token = answer.body["token"].as_str().unwrap();
    for path in ["/api/auth/me", "/api/auth/users/me", "/api/auth/sessions"] {
        app.request(Method::GET, path)
            .bearer(token)
            .send()
            .await
            .assert_status(StatusCode::OK);
    }
    let wrong = app.get("/api/auth/login").await;
    wrong.assert_problem(405, "METHOD_NOT_ALLOWED");
    assert_eq!(wrong.header("allow"), "POST");
    app.finish().await;
}

#[tokio::test]
async fn registration_can_conceal_that_an_address_is_taken() {
    let app = TestApp::with(|config| config.registration.conceal_existing = true).await;
    let mut bodies = Vec::new();
    for body in [
        profile("ada@example.com"),
        profile("Ada@example.com"),
        credentials("ada@example.com", "a long enough one"),
        credentials("eve@example.com", "a long enough one"),
    ] {
        let answer = app.post(REGISTER, &body).await.assert_status(StatusCode::ACCEPTED);
        assert!(!answer.headers.contains_key("event-position") && !answer.headers.contains_key("set-cookie"));
        bodies.push(answer.text);
    }
    bodies.dedup();
    assert_eq!(bodies.len(), 1);
    app.sign_in("ada@example.com", "secret123").await;
    app.sign_in("eve@example.com", "a long enough one").await;
    let django = |email: &str, name: &str| json!({ "username": name, "email": email, "password": "secret123", "password_confirm": "secret123" });
    for (email, name) in [("ada@example.com", "ada2"), ("new@example.com", "new")] {
        let answer = app.post("/api/auth/register/", &django(email, name)).await;
        assert_eq!(
            (answer.status, &answer.body),
            (
                StatusCode::ACCEPTED,
                &json!({ "message": "User Created Successfully ..." })
            )
        );
    }
    app.finish().await;
}

#[tokio::test]
async fn responding_asynchronously_does_not_wait_and_says_so() {
    let app = TestApp::new().await;
    let request = app.request(Method::POST, REGISTER).header("prefer", "respond-async");
    let answer = request
        .json(&profile("ada@example.com"))
        .send()
        .await
        .assert_status(StatusCode::CREATED);
    assert_eq!(answer.header("preference-applied"), "respond-async");
    let position: u64 = answer.header("event-position").parse().unwrap();
    let login = app.post(LOGIN, &credentials("ada@example.com", "secret123")).await;
    let token = login.body["token"].as_str().unwrap();
    let reached = app
        .request(Method::GET, ME)
        .bearer(token)
        .header("min-position", &position.to_string())
        .send()
        .await;
    assert_eq!(reached.status, StatusCode::OK);
    let early = app
        .request(Method::GET, ME)
        .bearer(token)
        .header("min-position", "soon")
        .send()
        .await;
    early.assert_problem(400, "VALIDATION_ERROR");
    app.finish().await;
}

#[tokio::test]
async fn a_read_that_demands_too_much_is_503() {
    let app = TestApp::with(|config| config.read_your_writes.timeout_ms = 50).await;
    let ada = app.register().await;
    let answer = ada
        .request(Method::GET, ME)
        .header("min-position", "1000000")
        .send()
        .await;
    answer.assert_problem(503, "READ_MODEL_BEHIND");
    assert_eq!(answer.header("retry-after"), "1");
    let head = app.head().await;
    assert_eq!(answer.body["error"]["details"], json!({ "head": head }));
    assert_eq!(
        answer.body["error"]["message"],
        format!(
            "The log ends at position {head}, before Min-Position: it was restored from a backup, or the position is \
             of another log."
        )
    );
    app.finish().await;
}

#[tokio::test] // CK-1
async fn behind_tls_the_cookie_is_bound_to_its_host() {
    let app = TestApp::with(|config| {
        config.cookie.name = "__Host-annals".to_owned();
        config.cookie.secure = true;
    })
    .await;
    let ada = app.register().await;
    let body = json!({ "email": ada.email(), "password": PASSWORD });
    let given = app.post("/api/v1/auth/login", &body).await;
    let cookie = given.header("set-cookie");
    let (value, attributes) = cookie.split_once("; ").unwrap();
    assert!(value.starts_with("__Host-annals=ey") && cookie.len() < 4096);
    assert_eq!(attributes, "Path=/; Max-Age=86400; HttpOnly; SameSite=Lax; Secure");
    app.request(Method::GET, ME)
        .header("cookie", value)
        .send()
        .await
        .assert_status(StatusCode::OK);
    app.finish().await;
}
