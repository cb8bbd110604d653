//! What holds for every write, by the OpenAPI document and by a valid request of each kind.

use std::collections::BTreeSet;

use annals_domain::Role;
use annals_tests::{Caller, PASSWORD, Request, TestApp};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use super::{KEY, ROUTES, assert_replays, is_replay, route};

/// Every write of the OpenAPI document, with an id that nothing has.
fn writes() -> Vec<(Method, String, Value)> {
    let document = serde_json::to_value(annals_api::openapi::document()).unwrap();
    let mut all = Vec::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let Ok(method) = method.to_uppercase().parse::<Method>() else {
                continue;
            };
            if [Method::POST, Method::PUT, Method::PATCH, Method::DELETE].contains(&method) {
                all.push((method, path.clone(), operation.clone()));
            }
        }
    }
    assert!(all.len() > 40, "the document has the writes: {}", all.len());
    all
}

#[tokio::test]
async fn every_write_takes_a_key_and_refuses_one_that_is_none() {
    let app = TestApp::new().await;
    let administrator = app.administrator().await;
    let head = app.head().await;
    for (method, path, operation) in writes() {
        let name = format!("{method} {path}");
        let parameters = operation["parameters"].as_array().unwrap();
        let declared = parameters
            .iter()
            .filter(|parameter| parameter["name"] == "Idempotency-Key");
        let declared: Vec<_> = declared.collect();
        assert_eq!(declared.len(), 1, "{name}");
        assert_eq!(
            (&declared[0]["in"], &declared[0]["required"]),
            (&json!("header"), &json!(false)),
            "{name}"
        );
        for (status, code) in [("409", "IDEMPOTENCY_ANSWER_GONE"), ("422", "IDEMPOTENCY_KEY_REUSED")] {
            let description = operation["responses"][status]["description"]
                .as_str()
                .unwrap_or_default();
            assert!(description.contains(code), "{name} {status}: {description}");
        }
        let concrete = path.replace(['{', '}'], "");
        let long = "k".repeat(256);
        for key in ["", "two words", "\"open", &long] {
            let answer = administrator.request(method.clone(), &concrete).header(KEY, key);
            let answer = answer.json(&json!({})).send().await;
            assert_eq!(
                answer.status,
                StatusCode::BAD_REQUEST,
                "{name} {key:?}: {}",
                answer.text
            );
            if !path.ends_with('/') || path.starts_with("/api/v1/") {
                assert_eq!(
                    answer.body["error"]["field"], "Idempotency-Key",
                    "{name} {key:?}: {}",
                    answer.text
                );
            }
        }
        let twice = administrator
            .request(method.clone(), &concrete)
            .header(KEY, "a")
            .header(KEY, "b");
        assert_eq!(twice.send().await.status, StatusCode::BAD_REQUEST, "{name}");
    }
    assert_eq!(app.head().await, head);
    app.finish().await;
}

/// Requests that write, on things made for each of them.
async fn valid_writes(app: &TestApp, editor: &Caller) -> Vec<(&'static str, Request)> {
    let post = async |path: &str, body: Value, id: &str| -> String {
        let answer = editor.post(path, &body).await.assert_status(StatusCode::CREATED);
        answer.body[id].as_str().unwrap().to_owned()
    };
    let datatype = |label: &str| json!({ "label": label, "type": "ROOT" });
    let field = |label: &str| json!({ "label": label, "type": "text" });
    let page = post("/api/v1/datatype", datatype("Page"), "datatype_id").await;
    let title = post("/api/v1/fields", field("Title"), "field_id").await;
    let attachment = json!({ "datatype_id": page, "field_id": title, "sort_order": 1 });
    let attached = post("/api/v1/datatypefields", attachment.clone(), "id").await;
    let node = post(
        "/api/v1/contentdata",
        json!({ "datatype_id": page, "status": "draft" }),
        "content_data_id",
    )
    .await;
    let value = json!({ "content_data_id": node, "field_id": title, "field_value": "Hello" });
    let held = post("/api/v1/contentfields", value.clone(), "content_field_id").await;
    let site = post(ROUTES, route("/site"), "route_id").await;
    let content = editor.get(&format!("/api/v1/contentdata/{node}")).await.body;
    let request = |method: Method, path: &str| editor.request(method, path);
    let person = app.register().await;
    let leaving = app.register().await;
    let second_factor = crate::mfa::sound_requests(app).await.into_iter();
    let second_factor = second_factor.map(|(method, path, body, caller)| {
        let request = match &caller {
            Some(caller) => caller.request(method, path),
            None => app.request(method, path),
        };
        (path, request.json(&body))
    });
    let mut writes = vec![
        (
            "create datatype",
            request(Method::POST, "/api/v1/datatype").json(&datatype("New")),
        ),
        (
            "create field",
            request(Method::POST, "/api/v1/fields").json(&field("New")),
        ),
        (
            "attach field",
            request(Method::POST, "/api/v1/datatypefields").json(&attachment),
        ),
        (
            "create content",
            request(Method::POST, "/api/v1/contentdata").json(&json!({ "datatype_id": page, "status": "draft" })),
        ),
        (
            "create value",
            request(Method::POST, "/api/v1/contentfields").json(&value),
        ),
        ("create route", request(Method::POST, ROUTES).json(&route("/new"))),
        (
            "change datatype",
            request(Method::PUT, &format!("/api/v1/datatype/{page}")).json(&datatype("Sheet")),
        ),
        (
            "change field",
            request(Method::PUT, &format!("/api/v1/fields/{title}")).json(&field("Heading")),
        ),
        (
            "change attachment",
            request(Method::PUT, &format!("/api/v1/datatypefields/{attached}"))
                .json(&json!({ "datatype_id": page, "field_id": title, "sort_order": 9 })),
        ),
        (
            "change content",
            request(Method::PUT, &format!("/api/v1/contentdata/{node}")).json(&{
                let mut content = content;
                content["status"] = json!("published");
                content
            }),
        ),
        (
            "change value",
            request(Method::PUT, &format!("/api/v1/contentfields/{held}"))
                .json(&json!({ "content_data_id": node, "field_id": title, "field_value": "Bye" })),
        ),
        (
            "change route",
            request(Method::PUT, &format!("{ROUTES}/{site}")).json(&route("/moved")),
        ),
        (
            "delete value",
            request(Method::DELETE, &format!("/api/v1/contentfields/{held}")),
        ),
        (
            "delete content",
            request(Method::DELETE, &format!("/api/v1/contentdata/{node}")),
        ),
        (
            "detach field",
            request(Method::DELETE, &format!("/api/v1/datatypefields/{attached}")),
        ),
        ("delete route", request(Method::DELETE, &format!("{ROUTES}/{site}"))),
        (
            "change profile",
            person
                .request(Method::PUT, "/api/v1/users/me")
                .json(&json!({ "full_name": "Grace Example" })),
        ),
        (
            "change password and go on",
            person
                .request(Method::PUT, "/api/v1/users/me/password")
                .json(&json!({ "current_password": PASSWORD, "new_password": "Another!Horse8" })),
        ),
        (
            "change password and sign out",
            leaving
                .request(Method::POST, "/api/v1/auth/password")
                .json(&json!({ "current_password": PASSWORD, "new_password": "Another!Horse8" })),
        ),
    ];
    writes.extend(second_factor);
    writes
}

#[tokio::test]
async fn every_kind_of_write_replays() {
    let app = TestApp::new().await;
    let editor = app.person(Role::Editor).await;
    let mut names = BTreeSet::new();
    for (name, request) in valid_writes(&app, &editor).await {
        assert!(names.insert(name), "{name} twice");
        let request = request.header(KEY, &name.replace([' ', '/'], "-"));
        let again = request.again();
        let before = app.head().await;
        let first = request.send().await;
        assert!(first.status.is_success(), "{name}: {}", first.text);
        let after = app.head().await;
        assert!(after > before, "{name} writes");
        let again = again.send().await;
        assert!(is_replay(&again), "{name}: {}", again.text);
        assert_replays(&again, &first);
        assert_eq!(app.head().await, after, "{name}");
    }
    app.finish().await;
}
