//! What holds for every answer, whatever the route: ids, headers, shapes of refusals, limits, CORS, health.

use std::time::Duration;

use annals_tests::TestApp;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// Sends bytes as they are and returns everything that comes back.
async fn raw(app: &TestApp, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(app.address()).await.expect("listening");
    stream.write_all(bytes).await.expect("open");
    let mut text = Vec::new();
    tokio::time::timeout(Duration::from_secs(10), stream.read_to_end(&mut text))
        .await
        .expect("an end")
        .expect("no reset");
    String::from_utf8_lossy(&text).into_owned()
}

#[tokio::test]
async fn every_answer_is_named_and_hardened() {
    let app = TestApp::new().await;
    let id = "01890a5d-ac96-774b-bcce-b302099a8057";
    for path in [
        "/health/live",
        "/api/v1/auth/me",
        "/api/v1/nope",
        "/no-such-page",
        "/api/auth/nope/",
        "/api/v1/auth/login",
    ] {
        let answer = app.request(Method::GET, path).header("x-request-id", id).send().await;
        assert_eq!(
            answer.header("x-request-id"),
            id,
            "{path}: a UUID of the client's is taken over"
        );
        let answer = app
            .request(Method::GET, path)
            .header("x-request-id", "<script>")
            .send()
            .await;
        assert!(uuid::Uuid::parse_str(answer.header("x-request-id")).is_ok(), "{path}");
        for (name, value) in [
            ("x-content-type-options", "nosniff"),
            ("content-security-policy", "default-src 'none'; frame-ancestors 'none'"),
            ("referrer-policy", "no-referrer"),
            ("strict-transport-security", "max-age=31536000; includeSubDomains"),
        ] {
            assert_eq!(answer.header(name), value, "{path}");
        }
        if path.starts_with("/api") {
            assert_eq!(answer.header("cache-control"), "no-store", "{path}");
        }
        assert!(!answer.headers.contains_key("server") && !answer.headers.contains_key("access-control-allow-origin"));
    }
    app.finish().await;
}

#[tokio::test]
async fn refusals_of_the_framework_have_our_shape() {
    let app = TestApp::new().await;
    let login = "/api/v1/auth/login";
    app.get("/api/v1/nope").await.assert_problem(404, "NOT_FOUND");
    app.get("/api").await.assert_problem(404, "NOT_FOUND");
    app.get("/api/v1/auth/login/").await.assert_problem(404, "NOT_FOUND");
    let wrong_method = app.get(login).await;
    wrong_method.assert_problem(405, "METHOD_NOT_ALLOWED");
    assert_eq!(wrong_method.header("allow"), "POST");
    let several = app.request(Method::DELETE, "/api/v1/auth/users/me").send().await;
    several.assert_problem(405, "METHOD_NOT_ALLOWED");
    assert_eq!(several.header("allow"), "GET, HEAD, PUT");
    let page = app.post("/some-page", &json!({})).await;
    page.assert_problem(405, "METHOD_NOT_ALLOWED");
    assert_eq!(page.header("allow"), "GET, HEAD");
    for media_type in [
        "text/plain",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=b",
    ] {
        let answer = app.request(Method::POST, login).body(media_type, "{}").send().await;
        answer.assert_problem(415, "UNSUPPORTED_MEDIA_TYPE");
    }
    app.request(Method::POST, login)
        .send()
        .await
        .assert_problem(415, "UNSUPPORTED_MEDIA_TYPE");
    let large = format!("{{\"email\": \"{}\"}}", "x".repeat(1 << 20));
    app.request(Method::POST, login)
        .body("application/json", large.clone())
        .send()
        .await
        .assert_problem(413, "PAYLOAD_TOO_LARGE");
    let chunks = futures::stream::iter(
        large
            .into_bytes()
            .chunks(4096)
            .map(|chunk| Ok::<_, std::io::Error>(chunk.to_vec()))
            .collect::<Vec<_>>(),
    );
    let chunked = app
        .request(Method::POST, login)
        .body("application/json", reqwest::Body::wrap_stream(chunks))
        .send()
        .await;
    chunked.assert_problem(413, "PAYLOAD_TOO_LARGE");
    app.get(&format!("/api/v1/auth/me?{}", "x".repeat(9000)))
        .await
        .assert_problem(414, "URI_TOO_LONG");
    let heavy = app
        .request(Method::GET, "/api/v1/auth/me")
        .header("x-padding", &"x".repeat(20_000))
        .send()
        .await;
    heavy.assert_problem(431, "HEADERS_TOO_LARGE");
    for (body, code) in [
        ("{", "BAD_REQUEST"),
        ("{} {}", "BAD_REQUEST"),
        ("{\"email\": \"a\\u0000b\"}", "VALIDATION_ERROR"),
    ] {
        app.request(Method::POST, login)
            .body("application/json", body)
            .send()
            .await
            .assert_problem(400, code);
    }
    let deep = app
        .request(Method::POST, login)
        .body("application/json", "[".repeat(100_000))
        .send()
        .await;
    deep.assert_problem(400, "BAD_REQUEST");
    app.finish().await;
}

#[tokio::test]
async fn what_is_no_request_is_refused_in_our_shape_too() {
    let app = TestApp::new().await;
    let endless = "x".repeat(200_000);
    for (what, head, status, code, field) in [
        ("no HTTP", "nonsense\r\n\r\n".to_owned(), 400, "BAD_REQUEST", None),
        (
            "an unknown version",
            "GET / HTTP/3.7\r\nHost: x\r\n\r\n".to_owned(),
            400,
            "BAD_REQUEST",
            None,
        ),
        (
            "an endless target",
            format!("GET /{endless} HTTP/1.1\r\nHost: x\r\n\r\n"),
            431,
            "HEADERS_TOO_LARGE",
            None,
        ),
        (
            "an endless head",
            format!("GET / HTTP/1.1\r\nHost: x\r\nX-Padding: {endless}\r\n\r\n"),
            431,
            "HEADERS_TOO_LARGE",
            None,
        ),
        (
            "two lengths",
            "POST /api/v1/auth/login HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n{}"
                .to_owned(),
            400,
            "BAD_REQUEST",
            None,
        ),
        (
            "a folded header",
            "GET / HTTP/1.1\r\nHost: x\r\nX-Folded: a\r\n b\r\n\r\n".to_owned(),
            400,
            "BAD_REQUEST",
            None,
        ),
        (
            "NUL in a header",
            "GET / HTTP/1.1\r\nHost: x\r\nX-Nul: a\0b\r\n\r\n".to_owned(),
            400,
            "BAD_REQUEST",
            None,
        ),
        (
            "no Host",
            "GET / HTTP/1.1\r\nConnection: close\r\n\r\n".to_owned(),
            400,
            "VALIDATION_ERROR",
            Some("Host"),
        ),
        (
            "two Hosts",
            "GET / HTTP/1.1\r\nHost: x\r\nHost: y\r\nConnection: close\r\n\r\n".to_owned(),
            400,
            "VALIDATION_ERROR",
            Some("Host"),
        ),
    ] {
        let text = raw(&app, head.as_bytes()).await;
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{what}: {text}"));
        assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{what}: {head}");
        let head = head.to_ascii_lowercase();
        assert!(head.contains("connection: close"), "{what}: {head}");
        assert!(head.contains("x-content-type-options: nosniff"), "{what}: {head}");
        let body: Value = serde_json::from_str(body).unwrap_or_else(|error| panic!("{what}: {error} in {text}"));
        assert_eq!(
            (&body["success"], &body["error"]["code"]),
            (&json!(false), &json!(code)),
            "{what}: {body}"
        );
        assert_eq!(body["error"]["field"].as_str(), field, "{what}: {body}");
        let id = body["request_id"].as_str().expect("a request id");
        assert!(head.contains(&format!("x-request-id: {id}")), "{what}: {head}");
    }
    // A sound request before the spoiled one gets its own answer.
    let text = raw(&app, b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\nnonsense\r\n\r\n").await;
    assert!(
        text.starts_with("HTTP/1.1 200 OK\r\n") && text.contains("HTTP/1.1 400 Bad Request\r\n"),
        "{text}"
    );
    app.finish().await;
}

#[tokio::test]
async fn a_body_that_drips_is_408() {
    let app = TestApp::with(|config| config.server.body_timeout_s = 1).await;
    let head = b"POST /api/v1/auth/login HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{";
    let text = raw(&app, head).await;
    assert!(text.starts_with("HTTP/1.1 408 "), "{text}");
    assert!(text.contains("\"code\":\"TIMEOUT\""), "{text}");
    app.finish().await;
}

#[tokio::test]
async fn problem_details_are_for_clients_that_prefer_them() {
    let app = TestApp::new().await;
    let accept = "application/problem+json, application/json;q=0.9";
    let body = json!({ "email": "nonsense", "password": "x" });
    let answer = app
        .request(Method::POST, "/api/v1/auth/login")
        .header("accept", accept)
        .json(&body)
        .send()
        .await;
    assert_eq!(answer.header("content-type"), "application/problem+json");
    assert_eq!(
        answer.redacted(&["/request_id"]),
        json!({
            "type": "urn:annals:problem:VALIDATION_ERROR", "title": "Unprocessable Entity", "status": 422,
            "detail": "email: must be a valid mail address", "code": "VALIDATION_ERROR", "field": "email",
            "request_id": "[…]",
        })
    );
    let wrong_method = app
        .request(Method::GET, "/api/v1/auth/login")
        .header("accept", accept)
        .send()
        .await;
    assert_eq!(
        (&wrong_method.body["status"], wrong_method.header("allow")),
        (&json!(405), "POST")
    );
    let django = app
        .request(Method::GET, "/api/auth/login/")
        .header("accept", accept)
        .send()
        .await;
    assert_eq!(django.body, json!({ "detail": "Method \"GET\" not allowed." }));
    app.finish().await;
}

#[tokio::test]
async fn cors_is_for_configured_origins_only() {
    let app = TestApp::with(|config| config.cors.origins = vec!["https://app.example.com".to_owned()]).await;
    let preflight = |origin: &str| {
        app.request(Method::OPTIONS, "/api/v1/auth/login")
            .header("origin", origin)
            .header("access-control-request-method", "POST")
            .header("access-control-request-headers", "content-type")
            .send()
    };
    let allowed = preflight("https://app.example.com").await;
    assert!(allowed.status.is_success());
    assert_eq!(allowed.header("access-control-allow-origin"), "https://app.example.com");
    assert_eq!(allowed.header("access-control-allow-credentials"), "true");
    for foreign in [
        "https://evil.test",
        "null",
        "http://app.example.com",
        "https://app.example.com.evil.test",
        "https://app.example.com:8443",
    ] {
        let answer = preflight(foreign).await;
        assert!(!answer.headers.contains_key("access-control-allow-origin"), "{foreign}");
    }
    // Refusals carry the headers too, or the browser could not read them.
    let request = app
        .request(Method::GET, "/api/v1/auth/me")
        .header("origin", "https://app.example.com");
    let answer = request.send().await;
    answer.assert_problem(401, "UNAUTHORIZED");
    assert_eq!(answer.header("access-control-allow-origin"), "https://app.example.com");
    assert!(answer.header("vary").to_ascii_lowercase().contains("origin"));
    app.finish().await;
}

#[tokio::test]
async fn health_is_told_to_everybody() {
    let app = TestApp::new().await;
    for path in ["/health/live", "/health/ready"] {
        let answer = app.get(path).await;
        assert_eq!(
            (answer.status, &answer.body),
            (StatusCode::OK, &json!({ "status": "ok" })),
            "{path}"
        );
    }
    app.finish().await;
}

#[tokio::test]
async fn correlation_is_the_clients_or_the_requests_own() {
    let app = TestApp::new().await;
    let (request, correlation) = (
        "01890a5d-ac96-774b-bcce-b302099a8057",
        "01890a5d-ac96-774b-bcce-b302099a8058",
    );
    let body = |email: &str| json!({ "email": email, "password": "secret123", "full_name": "Ada Lovelace", "organization_name": "Engines" });
    let register = |email: &str| app.request(Method::POST, "/api/v1/auth/register").json(&body(email));
    register("a@example.com")
        .header("x-request-id", request)
        .send()
        .await
        .assert_status(StatusCode::CREATED);
    let request_alone = app
        .store()
        .read_after(annals_eventstore::Position::START, 100)
        .await
        .unwrap();
    for record in &request_alone {
        assert_eq!(record.metadata.correlation_id.to_string(), request);
        assert_eq!(record.metadata.causation_id.to_string(), request);
    }
    let with_both = register("b@example.com")
        .header("x-request-id", request)
        .header("x-correlation-id", correlation);
    with_both.send().await.assert_status(StatusCode::CREATED);
    let both = app
        .store()
        .read_after(request_alone.last().unwrap().position, 100)
        .await
        .unwrap();
    assert!(
        both.iter()
            .all(|record| record.metadata.correlation_id.to_string() == correlation)
    );
    app.finish().await;
}

#[tokio::test]
async fn the_document_lists_every_route_once() {
    let document = serde_json::to_value(annals_api::openapi::document()).unwrap();
    let mut operations = Vec::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            if let Some(id) = operation["operationId"].as_str() {
                operations.push((id.to_owned(), format!("{method} {path}")));
            }
        }
    }
    for path in [
        "/api/v1/auth/login",
        "/api/v1/users/me",
        "/api/auth/login/",
        "/health/ready",
    ] {
        assert!(document["paths"][path].is_object(), "{path}");
    }
    let aliased = |name: &str| name.contains("/api/v1/users/me") || name.contains("/api/v1/email-verification/");
    let mut ids: Vec<&String> = operations
        .iter()
        .filter(|(_, name)| !aliased(name))
        .map(|(id, _)| id)
        .collect();
    let count = ids.len();
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), count, "operation ids are unique: {operations:?}");
    assert_ne!(document["components"]["securitySchemes"]["bearer"], Value::Null);
}

#[tokio::test]
async fn a_panic_is_500_without_a_cause_and_the_server_lives() {
    let app = TestApp::new().await;
    let surround = axum::middleware::from_fn_with_state(app.state().clone(), annals_api::middleware::surround);
    let boom = axum::routing::get(|| async {
        if true {
            panic!("canary");
        }
        "never"
    });
    let router = axum::Router::new().route("/api/v1/boom", boom).layer(surround);
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = tokio::spawn(async move { axum::serve(listener, router).await });
    for _ in 0..2 {
        let answer = app
            .client()
            .get(format!("http://{address}/api/v1/boom"))
            .send()
            .await
            .unwrap();
        assert_eq!(answer.status(), StatusCode::INTERNAL_SERVER_ERROR);
        let id = answer.headers()["x-request-id"].to_str().unwrap().to_owned();
        let body: Value = answer.json().await.unwrap();
        assert_eq!(
            body,
            json!({
                "success": false,
                "error": { "code": "INTERNAL_SERVER_ERROR", "message": "Internal server error" },
                "detail": "Internal server error",
                "request_id": id,
            })
        );
    }
    server.abort();
    app.finish().await;
}

#[tokio::test]
async fn a_stuck_projection_is_not_ready_until_it_goes_on() {
    use sqlx::Executor as _;

    let app = TestApp::new().await;
    let ready = async |wanted: u16| -> Value {
        for _ in 0..200 {
            let answer = app.get("/health/ready").await;
            if answer.status.as_u16() == wanted {
                return answer.body;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("never {wanted}: {:#?}", app.state().engine().statuses());
    };
    // Followed once, so that the fault does not meet the models being set up.
    app.register().await;
    let mut superuser = app.database().superuser().await;
    superuser
        .execute("alter table view.users add constraint stuck check (username <> 'ada')")
        .await
        .unwrap();
    let body = json!({ "email": "ada@example.com", "password": "secret123", "full_name": "Ada", "organization_name": "Engines" });
    let registered = app
        .post("/api/v1/auth/register", &body)
        .await
        .assert_status(StatusCode::CREATED);
    assert_eq!(
        registered.body["data"]["email"], "ada@example.com",
        "the answer is built from what was committed"
    );
    assert_eq!(
        ready(503).await,
        json!({ "status": "unavailable", "faults": ["projection users"] })
    );
    assert_eq!(app.get("/health/live").await.status, StatusCode::OK);
    superuser
        .execute("alter table view.users drop constraint stuck")
        .await
        .unwrap();
    assert_eq!(ready(200).await, json!({ "status": "ok" }));
    app.finish().await;
}
