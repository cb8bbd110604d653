//! Every route refuses what it cannot take: 4xx with a code, the member named where there is one, nothing appended.
//!
//! The routes and the members of their bodies come from the OpenAPI document, so that a new route is tested unasked.

use annals_tests::{Caller, TestApp};
use reqwest::{Method, StatusCode};
use serde_json::{Map, Value, json};

/// An id that nothing has, in both forms.
const UNKNOWN: [&str; 2] = ["01890a5d-ac96-774b-bcce-b302099a8057", "01H4558V4PEX5VSKNK084SN02Q"];

/// One operation of the document.
struct Operation {
    method: Method,
    path: String,
    parameters: Vec<Value>,
    body: Option<Map<String, Value>>,
}

impl Operation {
    /// All operations, with the members of their JSON bodies.
    fn all() -> Vec<Self> {
        let document = serde_json::to_value(annals_api::openapi::document()).unwrap();
        let mut all = Vec::new();
        for (path, item) in document["paths"].as_object().unwrap() {
            for (method, operation) in item.as_object().unwrap() {
                let Ok(method) = method.to_uppercase().parse::<Method>() else {
                    continue;
                };
                if ![Method::GET, Method::POST, Method::PUT, Method::DELETE].contains(&method) {
                    continue;
                }
                let schema = &operation["requestBody"]["content"]["application/json"]["schema"];
                all.push(Self {
                    method,
                    path: path.clone(),
                    parameters: operation["parameters"].as_array().cloned().unwrap_or_default(),
                    body: (!schema.is_null()).then(|| members(&document, schema)),
                });
            }
        }
        assert!(all.len() > 40, "the document has the routes: {}", all.len());
        all
    }

    /// The path with every parameter of it set to `value`.
    fn with(&self, value: &str) -> String {
        let mut path = self.path.clone();
        while let (Some(open), Some(close)) = (path.find('{'), path.find('}')) {
            // A stream is named by its type first, which has to be a known one for the id to be looked at.
            let name = path[open + 1..close].trim_start_matches('*');
            let value = if name == "type" { "content" } else { value };
            path = format!("{}{value}{}", &path[..open], &path[close + 1..]);
        }
        path
    }

    fn writes(&self) -> bool {
        self.method != Method::GET
    }

    fn is_django(&self) -> bool {
        self.path.starts_with("/api/auth/") && self.path.ends_with('/')
    }

    fn has_id(&self) -> bool {
        self.path.contains("{id}") || self.parameters.iter().any(|parameter| parameter["name"] == "q")
    }
}

/// The members of an object schema, following references and unions.
fn members(document: &Value, schema: &Value) -> Map<String, Value> {
    let mut all = Map::new();
    if let Some(reference) = schema["$ref"].as_str() {
        let target = document
            .pointer(reference.trim_start_matches('#'))
            .expect("references lead somewhere");
        all.append(&mut members(document, target));
    }
    for union in ["allOf", "anyOf", "oneOf"] {
        for part in schema[union].as_array().into_iter().flatten() {
            all.append(&mut members(document, part));
        }
    }
    for (name, member) in schema["properties"].as_object().into_iter().flatten() {
        all.insert(name.clone(), member.clone());
    }
    all
}

/// The answer to one bad request, judged.
struct Judge<'a> {
    app: &'a TestApp,
    caller: &'a Caller,
}

impl Judge<'_> {
    async fn refuse(&self, method: &Method, path: &str, media_type: Option<&str>, body: Vec<u8>, what: &str) -> Value {
        let before = self.app.head().await;
        let mut request = self
            .app
            .client()
            .request(method.clone(), self.app.url(path))
            .bearer_auth(self.caller.token());
        if let Some(media_type) = media_type {
            request = request.header("content-type", media_type);
        }
        let answer = request.body(body).send().await.expect("an answer");
        let status = answer.status();
        let text = answer.text().await.expect("a body");
        let named = format!("{method} {path} with {what}: {status} {text}");
        assert!(status.is_client_error(), "{named}");
        assert_eq!(self.app.head().await, before, "something was appended by {named}");
        let body: Value = serde_json::from_str(&text).unwrap_or_else(|_| panic!("no JSON from {named}"));
        let django = path.starts_with("/api/auth/") && path.split('?').next().is_some_and(|path| path.ends_with('/'));
        if !django {
            assert!(body["error"]["code"].is_string(), "no code from {named}");
            assert!(body["request_id"].is_string(), "no request id from {named}");
        }
        body
    }
}

#[tokio::test]
async fn bodies_that_are_no_json_are_refused_everywhere() {
    let app = TestApp::new().await;
    let caller = app.administrator().await;
    let judge = Judge {
        app: &app,
        caller: &caller,
    };
    for operation in Operation::all().iter().filter(|operation| operation.body.is_some()) {
        let path = operation.with(UNKNOWN[0]);
        for body in ["{", "{\"a\":}", "nonsense", "[1,2", "\u{feff}{}x"] {
            judge
                .refuse(&operation.method, &path, Some("application/json"), body.into(), body)
                .await;
        }
        for body in ["[]", "\"text\"", "17", "true"] {
            judge
                .refuse(&operation.method, &path, Some("application/json"), body.into(), body)
                .await;
        }
        let deep = format!("{}1{}", "[".repeat(10_000), "]".repeat(10_000));
        judge
            .refuse(
                &operation.method,
                &path,
                Some("application/json"),
                deep.into_bytes(),
                "deep nesting",
            )
            .await;
        judge
            .refuse(
                &operation.method,
                &path,
                Some("text/plain"),
                b"{\"a\":1}".to_vec(),
                "text/plain",
            )
            .await;
    }
    app.finish().await;
}

#[tokio::test]
async fn members_of_the_wrong_type_are_refused_and_named() {
    let app = TestApp::new().await;
    let caller = app.administrator().await;
    let judge = Judge {
        app: &app,
        caller: &caller,
    };
    for operation in Operation::all() {
        let Some(members) = &operation.body else { continue };
        let path = operation.with(UNKNOWN[0]);
        for name in members.keys() {
            let wrong = json!({ name.as_str(): { "$no": ["such", "type"] } });
            let body = judge
                .refuse(
                    &operation.method,
                    &path,
                    Some("application/json"),
                    wrong.to_string().into_bytes(),
                    name,
                )
                .await;
            if !operation.is_django() {
                assert!(
                    body["error"]["field"].is_string() || body["error"]["details"].is_object(),
                    "{} {path} does not say what is wrong with {name}: {body}",
                    operation.method
                );
            }
            for (what, value) in [("NUL", "a\u{0}b".to_owned()), ("too much", "x".repeat(2 << 20))] {
                let body = json!({ name.as_str(): value }).to_string().into_bytes();
                judge
                    .refuse(
                        &operation.method,
                        &path,
                        Some("application/json"),
                        body,
                        &format!("{what} in {name}"),
                    )
                    .await;
            }
        }
    }
    app.finish().await;
}

#[tokio::test]
async fn ids_of_nothing_are_refused_in_both_forms() {
    let app = TestApp::new().await;
    let caller = app.administrator().await;
    let judge = Judge {
        app: &app,
        caller: &caller,
    };
    for operation in Operation::all().iter().filter(|operation| operation.has_id()) {
        for id in [
            UNKNOWN[0],
            UNKNOWN[1],
            "1",
            "%00",
            "not-an-id",
            "01890a5d-ac96-774b-bcce-b302099a805Z",
        ] {
            let mut path = operation.with(id);
            if !operation.path.contains("{id}") {
                path = format!("{path}?q={id}");
            }
            let body = if operation.body.is_some() {
                b"{}".to_vec()
            } else {
                Vec::new()
            };
            let media_type = operation.body.is_some().then_some("application/json");
            judge.refuse(&operation.method, &path, media_type, body, id).await;
        }
    }
    app.finish().await;
}

#[tokio::test]
async fn methods_that_a_path_lacks_are_405_with_what_it_has() {
    let app = TestApp::new().await;
    let caller = app.administrator().await;
    for operation in Operation::all() {
        let path = operation.with(UNKNOWN[0]);
        let answer = app
            .client()
            .request(Method::PATCH, app.url(&path))
            .bearer_auth(caller.token())
            .send()
            .await
            .expect("an answer");
        assert_eq!(answer.status(), StatusCode::METHOD_NOT_ALLOWED, "PATCH {path}");
        let allow = answer.headers()["allow"].to_str().unwrap().to_owned();
        assert!(allow.contains(operation.method.as_str()), "PATCH {path}: {allow}");
    }
    app.finish().await;
}

#[tokio::test]
async fn nobody_writes_without_an_account() {
    /// What an account is made or used with needs none.
    const OPEN: &[&str] = &["/register", "/login", "/refresh", "/logout", "/verify"];
    let app = TestApp::new().await;
    for operation in Operation::all().iter().filter(|operation| operation.writes()) {
        if OPEN
            .iter()
            .any(|open| operation.path.trim_end_matches('/').ends_with(open))
        {
            continue;
        }
        let before = app.head().await;
        let answer = app
            .client()
            .request(operation.method.clone(), app.url(&operation.with(UNKNOWN[0])))
            .header("content-type", "application/json")
            .body("{}")
            .send()
            .await
            .expect("an answer");
        assert_eq!(
            answer.status(),
            StatusCode::UNAUTHORIZED,
            "{} {}",
            operation.method,
            operation.path
        );
        assert_eq!(app.head().await, before);
    }
    app.finish().await;
}
