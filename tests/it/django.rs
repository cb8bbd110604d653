//! The Django contract under `/api/auth/<x>/`: contract section 3, literal by literal.

use annals_tests::{Answer, TestApp};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

const REGISTER: &str = "/api/auth/register/";
const LOGIN: &str = "/api/auth/login/";
const REFRESH: &str = "/api/auth/token/refresh/";
const VERIFY: &str = "/api/auth/token/verify/";
const ME: &str = "/api/auth/me/";

fn john() -> Value {
    json!({ "username": "John", "email": " John@Email.com ", "password": "secret123", "password_confirm": "secret123" })
}

fn with(mut body: Value, member: &str, value: Value) -> Value {
    body[member] = value;
    body
}

#[track_caller]
fn assert_literal(answer: &Answer, status: u16, body: &Value) {
    assert_eq!(
        (answer.status.as_u16(), &answer.body),
        (status, body),
        "{}",
        answer.text
    );
    assert_eq!(answer.header("vary"), "Accept, origin");
    assert!(answer.header("allow").ends_with("OPTIONS"));
    assert!(!answer.headers.contains_key("set-cookie"));
}

#[track_caller]
fn text<'a>(answer: &'a Answer, member: &str) -> &'a str {
    answer.body[member]
        .as_str()
        .unwrap_or_else(|| panic!("no {member} in {}", answer.text))
}

#[tokio::test]
async fn the_documents_own_commands_run() {
    let app = TestApp::new().await;
    let registered = app.post(REGISTER, &john()).await;
    assert_literal(
        &Answer {
            body: registered.redacted(&["/user/id", "/user/created_at", "/access", "/refresh"]),
            ..registered.clone()
        },
        201,
        &json!({
            "user": { "id": "[…]", "username": "John", "email": "john@email.com", "created_at": "[…]" },
            "access": "[…]", "refresh": "[…]", "message": "User Created Successfully ...",
        }),
    );
    let created_at = registered.body["user"]["created_at"].as_str().unwrap();
    assert!(
        created_at.ends_with('Z') && created_at.len() == "2026-02-15T12:00:00.123456Z".len(),
        "{created_at}"
    );
    for credential in ["john@email.com", " JOHN@EMAIL.com ", "john", "John", " JOHN "] {
        let signed_in = app
            .post(
                LOGIN,
                &json!({ "first_credential": credential, "password": "secret123" }),
            )
            .await;
        assert_literal(
            &Answer {
                body: signed_in.redacted(&["/user/id", "/user/created_at", "/access", "/refresh"]),
                ..signed_in.clone()
            },
            200,
            &json!({
                "user": { "id": "[…]", "username": "John", "email": "john@email.com", "created_at": "[…]" },
                "access": "[…]", "refresh": "[…]",
            }),
        );
        assert_eq!(signed_in.body["user"]["id"], registered.body["user"]["id"]);
        let later = signed_in.body["user"]["created_at"].as_str().unwrap();
        assert_eq!(
            later,
            format!("{}Z", &created_at[..created_at.len() - 4]),
            "milliseconds afterwards"
        );
    }
    let refresh = text(&registered, "refresh");
    let mut seen = Vec::new();
    for _ in 0..3 {
        let refreshed = app.post(REFRESH, &json!({ "refresh": refresh })).await;
        let body = refreshed.redacted(&["/access"]);
        assert_literal(
            &Answer {
                body,
                ..refreshed.clone()
            },
            200,
            &json!({ "access": "[…]", "message": "Token refreshed successfully ..." }),
        );
        seen.push(text(&refreshed, "access").to_owned());
    }
    for token in [refresh, text(&registered, "access"), &seen[0], &seen[2]] {
        assert_literal(
            &app.post(VERIFY, &json!({ "token": token })).await,
            200,
            &json!({ "valid": true }),
        );
    }
    let me = app.request(Method::GET, ME).bearer(&seen[1]).send().await;
    assert_literal(
        &me,
        200,
        &json!({ "user": { "id": registered.body["user"]["id"], "username": "John",
        "email": "john@email.com", "created_at": format!("{}Z", &created_at[..created_at.len() - 4]) } }),
    );
    app.finish().await;
}

#[tokio::test]
async fn registration_refuses_in_the_origins_order() {
    let app = TestApp::new().await;
    app.post(REGISTER, &john()).await.assert_status(StatusCode::CREATED);
    let before = app.head().await;
    let missing = |fields: &[&str]| json!({ "message": "There is a Missing Field ...", "missing_fields": fields });
    let detail = |text: &str| json!({ "detail": text });
    let (taken_name, taken_mail) = (
        "User with that username already exists",
        "User with that email already exists",
    );
    let new = || {
        with(
            with(john(), "username", json!("jane")),
            "email",
            json!("jane@email.com"),
        )
    };
    for (body, expected) in [
        (
            json!({}),
            missing(&["username", "email", "password", "password_confirm"]),
        ),
        (
            json!({ "password": "x", "email": null }),
            missing(&["username", "password_confirm"]),
        ),
        (
            with(john(), "password_confirm", json!("other")),
            detail("Passwords do not match"),
        ),
        (john(), detail(taken_name)),
        (with(john(), "username", json!("JOHN")), detail(taken_name)),
        (with(john(), "email", json!("new@email.com")), detail(taken_name)),
        (with(john(), "email", json!("nonsense")), detail(taken_name)),
        (with(john(), "username", json!("jane")), detail(taken_mail)),
        (with(john(), "username", json!(null)), detail(taken_mail)),
        (with(new(), "email", json!("nonsense")), detail("Failed to create user")),
        (with(new(), "email", json!(7)), detail("Failed to create user")),
        (with(new(), "email", json!(null)), detail("Failed to create user")),
        (with(new(), "username", json!(null)), detail("Failed to create user")),
        (with(new(), "username", json!(7)), detail("Failed to create user")),
        (with(new(), "username", json!("a@b")), detail("Failed to create user")),
        (
            with(with(new(), "password", json!(null)), "password_confirm", json!(null)),
            detail("Failed to create user"),
        ),
        (
            with(with(new(), "password", json!("")), "password_confirm", json!("")),
            detail("Failed to create user"),
        ),
        (
            with(with(new(), "password", json!(7)), "password_confirm", json!(7)),
            detail("Failed to create user"),
        ),
    ] {
        let answer = app.post(REGISTER, &body).await;
        assert_literal(&answer, 400, &expected);
    }
    let long = json!("x".repeat(5000));
    let body = with(with(new(), "password", long.clone()), "password_confirm", long);
    assert_literal(&app.post(REGISTER, &body).await, 400, &detail("Failed to create user"));
    assert_eq!(app.head().await, before, "nothing was appended");
    app.finish().await;
}

#[tokio::test]
async fn sign_in_refuses_with_the_origins_words() {
    let app = TestApp::new().await;
    app.post(REGISTER, &john()).await.assert_status(StatusCode::CREATED);
    let body = |credential: Value, password: Value| json!({ "first_credential": credential, "password": password });
    for (body, status, expected) in [
        (
            json!({}),
            400,
            json!({ "message": "There is a Missing Field ...", "missing_fields": ["first_credential", "password"] }),
        ),
        (
            json!({ "password": "x" }),
            400,
            json!({ "message": "There is a Missing Field ...", "missing_fields": ["first_credential"] }),
        ),
        (
            body(json!(""), json!("")),
            400,
            json!({ "detail": "first_credential is required" }),
        ),
        (
            body(json!("  "), json!("x")),
            400,
            json!({ "detail": "first_credential is required" }),
        ),
        (
            body(json!(null), json!("x")),
            400,
            json!({ "detail": "first_credential is required" }),
        ),
        (
            body(json!("john"), json!("")),
            400,
            json!({ "detail": "password is required" }),
        ),
        (
            body(json!("john"), json!(null)),
            400,
            json!({ "detail": "password is required" }),
        ),
        (
            body(json!(7), json!("x")),
            400,
            json!({ "detail": "first_credential must be a string" }),
        ),
        (
            body(json!("john"), json!(7)),
            400,
            json!({ "detail": "password must be a string" }),
        ),
        (
            body(json!("john"), json!("wrong")),
            401,
            json!({ "detail": "Invalid credentials" }),
        ),
        (
            body(json!("nobody"), json!("secret123")),
            401,
            json!({ "detail": "Invalid credentials" }),
        ),
        (
            body(json!("nobody@email.com"), json!("secret123")),
            401,
            json!({ "detail": "Invalid credentials" }),
        ),
    ] {
        let answer = app.post(LOGIN, &body).await;
        assert_literal(&answer, status, &expected);
        assert!(
            !answer.headers.contains_key("www-authenticate"),
            "the view's own 401 does not challenge"
        );
    }
    app.finish().await;
}

#[tokio::test]
async fn refresh_and_verify_judge_both_kinds_of_token() {
    let app = TestApp::new().await;
    let registered = app.post(REGISTER, &john()).await.assert_status(StatusCode::CREATED);
    let (access, refresh) = (text(&registered, "access"), text(&registered, "refresh"));
    let required = json!({ "detail": "Refresh token is required" });
    for body in [
        json!({}),
        json!({ "refresh": "" }),
        json!({ "refresh": null }),
        json!({ "refresh": 0 }),
        json!([]),
    ] {
        assert_literal(&app.post(REFRESH, &body).await, 400, &required);
    }
    for (token, error) in [
        (json!("nonsense"), "Token is invalid"),
        (json!(7), "Token is invalid"),
        (json!("a.b.c"), "Token is invalid"),
        (json!(access), "Token has wrong type"),
    ] {
        let answer = app.post(REFRESH, &json!({ "refresh": token })).await;
        assert_literal(
            &answer,
            401,
            &json!({ "detail": "Invalid or expired refresh token", "error": error }),
        );
    }
    for body in [json!({}), json!({ "token": "" }), json!({ "token": null })] {
        assert_literal(
            &app.post(VERIFY, &body).await,
            400,
            &json!({ "detail": "Token is required" }),
        );
    }
    let invalid = json!({ "valid": false, "detail": "Token is invalid or expired" });
    for token in [json!("nonsense"), json!(7), json!(format!("{access}x"))] {
        assert_literal(&app.post(VERIFY, &json!({ "token": token })).await, 401, &invalid);
    }
    // Both are bound to a session, so its end reaches them.
    let out = app
        .request(Method::POST, "/api/v1/auth/logout")
        .bearer(access)
        .json(&json!({}))
        .send()
        .await;
    assert_eq!(out.status, StatusCode::OK);
    for token in [access, refresh] {
        assert_literal(&app.post(VERIFY, &json!({ "token": token })).await, 401, &invalid);
    }
    let gone = app.post(REFRESH, &json!({ "refresh": refresh })).await;
    assert_literal(
        &gone,
        401,
        &json!({ "detail": "Invalid or expired refresh token", "error": "Token is invalid" }),
    );
    app.finish().await;
}

#[tokio::test]
async fn the_framework_authenticates_before_everything_else() {
    let app = TestApp::new().await;
    let registered = app.post(REGISTER, &john()).await.assert_status(StatusCode::CREATED);
    let before = app.head().await;
    let not_valid = |message: &str| {
        json!({
            "detail": "Given token not valid for any token type",
            "code": "token_not_valid",
            "messages": [{ "token_class": "AccessToken", "token_type": "access", "message": message }],
        })
    };
    let bad_header = json!({ "detail": "Authorization header must contain two space-delimited values", "code": "bad_authorization_header" });
    let wrong_kind = format!("Bearer {}", text(&registered, "refresh"));
    for (method, path, body) in [
        (Method::POST, REGISTER, john()),
        (
            Method::POST,
            LOGIN,
            json!({ "first_credential": "john", "password": "secret123" }),
        ),
        (Method::POST, REFRESH, json!({})),
        (Method::POST, VERIFY, json!({})),
        (Method::GET, ME, Value::Null),
        (Method::DELETE, LOGIN, Value::Null),
    ] {
        for (header, expected) in [
            ("Bearer nonsense", not_valid("Token is invalid")),
            (wrong_kind.as_str(), not_valid("Token has wrong type")),
            ("Bearer", bad_header.clone()),
            ("Bearer a b", bad_header.clone()),
        ] {
            let request = app.request(method.clone(), path).header("authorization", header);
            let answer = request.json(&body).send().await;
            assert_literal(&answer, 401, &expected);
            assert_eq!(answer.header("www-authenticate"), "Bearer realm=\"api\"");
        }
    }
    let not_provided = json!({ "detail": "Authentication credentials were not provided." });
    let access = text(&registered, "access");
    for header in [None, Some("Token abc".to_owned()), Some(format!("bearer {access}"))] {
        let mut request = app
            .request(Method::GET, ME)
            .header("cookie", &format!("annals_session={access}"));
        if let Some(header) = &header {
            request = request.header("authorization", header);
        }
        let answer = request.send().await;
        assert_literal(&answer, 401, &not_provided);
        assert_eq!(answer.header("www-authenticate"), "Bearer realm=\"api\"");
    }
    // Another scheme counts as absent, so the view goes on.
    let other = app
        .request(Method::POST, VERIFY)
        .header("authorization", "Token abc")
        .json(&json!({}))
        .send()
        .await;
    assert_literal(&other, 400, &json!({ "detail": "Token is required" }));
    assert_eq!(app.head().await, before, "nothing was appended");
    app.finish().await;
}

#[tokio::test]
async fn an_expired_token_and_a_gone_user_have_words_of_their_own() {
    let app = TestApp::with(|config| {
        config.token.django_access_lifetime_s = 1;
        config.token.django_refresh_lifetime_s = 1;
    })
    .await;
    let registered = app.post(REGISTER, &john()).await.assert_status(StatusCode::CREATED);
    tokio::time::sleep(std::time::Duration::from_millis(1100)).await;
    let me = app
        .request(Method::GET, ME)
        .bearer(text(&registered, "access"))
        .send()
        .await;
    assert_eq!(me.status, StatusCode::UNAUTHORIZED);
    assert_eq!(me.body["messages"][0]["message"], "Token is expired");
    let refresh = app
        .post(REFRESH, &json!({ "refresh": text(&registered, "refresh") }))
        .await;
    assert_literal(
        &refresh,
        401,
        &json!({ "detail": "Invalid or expired refresh token", "error": "Token is expired" }),
    );
    app.finish().await;

    let app = TestApp::new().await;
    let registered = app.post(REGISTER, &john()).await.assert_status(StatusCode::CREATED);
    let system = annals_domain::Caller::system("test", uuid::Uuid::now_v7());
    let id = registered.body["user"]["id"].as_str().unwrap().parse().unwrap();
    let context = app.state().on_behalf_of(&system);
    annals_commands::user::disable(&context, id, "left".to_owned(), None)
        .await
        .unwrap();
    let me = app
        .request(Method::GET, ME)
        .bearer(text(&registered, "access"))
        .send()
        .await;
    assert_literal(&me, 401, &json!({ "detail": "User not found for given token" }));
    let again = app
        .post(LOGIN, &json!({ "first_credential": "john", "password": "secret123" }))
        .await;
    assert_literal(&again, 401, &json!({ "detail": "Invalid credentials" }));
    app.finish().await;
}

#[tokio::test]
async fn bodies_are_read_as_the_framework_reads_them() {
    let app = TestApp::new().await;
    let form = "username=Form&email=form%40email.com&password=secret123&password_confirm=secret123";
    let answer = app
        .request(Method::POST, REGISTER)
        .body("application/x-www-form-urlencoded", form)
        .send()
        .await;
    assert_eq!(
        (answer.status, &answer.body["user"]["username"]),
        (StatusCode::CREATED, &json!("Form"))
    );
    let multipart = "--b\r\nContent-Disposition: form-data; name=\"first_credential\"\r\n\r\nform@email.com\r\n\
                     --b\r\nContent-Disposition: form-data; name=\"password\"\r\n\r\nsecret123\r\n--b--\r\n";
    let answer = app
        .request(Method::POST, LOGIN)
        .body("multipart/form-data; boundary=b", multipart)
        .send()
        .await;
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.text);
    let before = app.head().await;
    for body in ["{", "", " ", "nonsense", "{\"a\": NaN}", "\u{feff}{}"] {
        let answer = app
            .request(Method::POST, LOGIN)
            .body("application/json", body)
            .send()
            .await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{body}");
        if body.is_empty() {
            assert_eq!(answer.body["missing_fields"], json!(["first_credential", "password"]));
        } else {
            assert!(
                text(&answer, "detail").starts_with("JSON parse error - "),
                "{body}: {}",
                answer.text
            );
        }
    }
    for falsy in ["null", "[]", "0", "false", "\"\""] {
        let answer = app
            .request(Method::POST, LOGIN)
            .body("application/json", falsy)
            .send()
            .await;
        assert_eq!(
            answer.body["missing_fields"],
            json!(["first_credential", "password"]),
            "{falsy}"
        );
    }
    let list = app.post(LOGIN, &json!([1])).await;
    assert_literal(
        &list,
        400,
        &json!({ "detail": "Invalid data. Expected a dictionary, but got list." }),
    );
    for media_type in ["text/plain", "application/xml; charset=utf-8"] {
        let answer = app.request(Method::POST, LOGIN).body(media_type, "{}").send().await;
        let detail = format!("Unsupported media type \"{media_type}\" in request.");
        assert_literal(&answer, 415, &json!({ "detail": detail }));
    }
    let broken = app
        .request(Method::POST, LOGIN)
        .body("multipart/form-data", "x")
        .send()
        .await;
    assert!(text(&broken, "detail").starts_with("Multipart form parse error - "));
    let large = app
        .request(Method::POST, LOGIN)
        .body("application/json", "x".repeat(2 << 20))
        .send()
        .await;
    assert_eq!(
        (large.status, &large.body),
        (
            StatusCode::PAYLOAD_TOO_LARGE,
            &json!({ "detail": "The request body is too large." })
        )
    );
    assert_eq!(app.head().await, before, "nothing was appended");
    app.finish().await;
}

#[tokio::test]
async fn methods_and_paths_are_the_frameworks() {
    let app = TestApp::new().await;
    for (path, allow) in [
        (REGISTER, "POST, OPTIONS"),
        (LOGIN, "POST, OPTIONS"),
        (REFRESH, "POST, OPTIONS"),
        (VERIFY, "POST, OPTIONS"),
    ] {
        for method in [Method::GET, Method::PUT, Method::PATCH, Method::DELETE] {
            let answer = app.request(method.clone(), path).send().await;
            assert_literal(
                &answer,
                405,
                &json!({ "detail": format!("Method \"{method}\" not allowed.") }),
            );
            assert_eq!(answer.header("allow"), allow);
        }
        let options = app.request(Method::OPTIONS, path).send().await;
        assert_eq!(options.status, StatusCode::OK);
        assert_eq!(options.body["parses"][0], "application/json");
    }
    // Permission is asked for before the method.
    let post = app.post(ME, &json!({})).await;
    assert_literal(
        &post,
        401,
        &json!({ "detail": "Authentication credentials were not provided." }),
    );
    let registered = app.post(REGISTER, &john()).await.assert_status(StatusCode::CREATED);
    let post = app
        .request(Method::POST, ME)
        .bearer(text(&registered, "access"))
        .send()
        .await;
    assert_literal(&post, 405, &json!({ "detail": "Method \"POST\" not allowed." }));
    assert_eq!(post.header("allow"), "GET, HEAD, OPTIONS");
    let head = app
        .request(Method::HEAD, ME)
        .bearer(text(&registered, "access"))
        .send()
        .await;
    assert_eq!((head.status, head.text.as_str()), (StatusCode::OK, ""));
    let unknown = app.get("/api/auth/nope/").await;
    assert_eq!(
        (unknown.status, &unknown.body),
        (StatusCode::NOT_FOUND, &json!({ "detail": "Not found." }))
    );
    // Without the slash it is the alias of /api/v1, and nobody is redirected.
    let alias = app.get("/api/auth/me").await;
    alias.assert_problem(401, "UNAUTHORIZED");
    app.finish().await;
}

#[tokio::test]
async fn the_contract_can_be_switched_off() {
    let app = TestApp::with(|config| config.contracts.django = false).await;
    for (method, path) in [
        (Method::POST, REGISTER),
        (Method::GET, LOGIN),
        (Method::GET, ME),
        (Method::OPTIONS, VERIFY),
    ] {
        let answer = app.request(method, path).json(&john()).send().await;
        assert_eq!(
            (answer.status, &answer.body),
            (StatusCode::NOT_FOUND, &json!({ "detail": "Not found." }))
        );
    }
    assert_eq!(app.head().await, annals_eventstore::Position::START);
    app.finish().await;
}
