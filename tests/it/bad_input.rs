//! Every route refuses what it cannot take: 4xx with a code, the member named where there is one, nothing appended.
//!
//! The routes and the members of their bodies come from the OpenAPI document, so that a new route is tested unasked.

use annals_tests::{Answer, Caller, PASSWORD, TestApp};
use reqwest::{Method, StatusCode};
use serde_json::{Map, Value, json};

use crate::site::Site;

/// An id that nothing has, in both forms.
const UNKNOWN: [&str; 2] = ["01890a5d-ac96-774b-bcce-b302099a8057", "01H4558V4PEX5VSKNK084SN02Q"];

/// One operation of the document.
struct Operation {
    method: Method,
    path: String,
    parameters: Vec<Value>,
    body: Option<Map<String, Value>>,
    /// Members that the body must have.
    required: Vec<String>,
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
                    required: required(&document, schema),
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

/// The members that an object schema demands.
fn required(document: &Value, schema: &Value) -> Vec<String> {
    let mut all: Vec<String> = schema["required"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|name| name.as_str().map(str::to_owned))
        .collect();
    if let Some(reference) = schema["$ref"].as_str() {
        all.extend(required(
            document,
            document
                .pointer(reference.trim_start_matches('#'))
                .expect("references lead somewhere"),
        ));
    }
    for part in schema["allOf"].as_array().into_iter().flatten() {
        all.extend(required(document, part));
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

/// One request that works, to be spoiled.
struct Sound {
    method: Method,
    /// As in the document, to find the members.
    template: &'static str,
    path: String,
    body: Value,
    caller: Option<Caller>,
}

/// A working request for every operation that takes a body; what is made or changed by it exists.
async fn sound_requests(site: &Site) -> Vec<Sound> {
    let app = site.app();
    let administrator = app.administrator().await;
    let (page, text) = (site.datatype("Page", "ROOT").await, site.datatype("Text", "NODE").await);
    let field = site.field(&page, "Title", "text").await;
    let route = site.route("/spoiled").await;
    let root = site
        .content(json!({"datatype_id": page, "route_id": route, "status": "draft"}))
        .await;
    let child = json!({"datatype_id": text, "parent_id": root, "route_id": route, "status": "draft"});
    let node = site.content(child.clone()).await;
    let value = json!({"content_data_id": root, "field_id": field, "field_value": "Hello"});
    let written = site
        .made("/api/v1/contentfields", "content_field_id", value.clone())
        .await;
    let other = site.field(&text, "Body", "text").await;
    let third = site.field(&text, "Lead", "text").await;
    let attached = json!({"datatype_id": page, "field_id": other, "sort_order": 1});
    let attachment = site.made("/api/v1/datatypefields", "id", attached.clone()).await;
    let datatype = json!({"label": "Changed", "type": "NODE"});
    let definition =
        json!({"parent_id": text, "label": "Changed", "type": "text", "data": "", "validation": "", "ui_config": ""});
    let moved = json!({"slug": "/changed", "title": "Changed", "status": 1});
    let resources = [
        ("contentdata", child.clone(), child, node),
        (
            "contentfields",
            json!({"content_data_id": root, "field_id": third, "field_value": "x"}),
            value,
            written,
        ),
        ("datatype", json!({"label": "New", "type": "NODE"}), datatype, text),
        (
            "datatypefields",
            json!({"datatype_id": page, "field_id": third, "sort_order": 2}),
            attached,
            attachment,
        ),
        ("fields", json!({"label": "New", "type": "text"}), definition, field),
        (
            "routes",
            json!({"slug": "/new", "title": "New", "status": 1}),
            moved,
            route,
        ),
    ];
    let mut sound = Vec::new();
    let mut add = |method: Method, template: &'static str, path: String, body: Value, caller: Option<Caller>| {
        sound.push(Sound {
            method,
            template,
            path,
            body,
            caller,
        });
    };
    for (noun, new, changed, id) in resources {
        let templates = Operation::all();
        for operation in templates.iter().filter(|operation| operation.body.is_some()) {
            let Some(rest) = operation.path.strip_prefix(&format!("/api/v1/{noun}")) else {
                continue;
            };
            let path = match rest {
                "" => operation.path.clone(),
                "/" if operation.method == Method::POST => operation.path.clone(),
                "/" => format!("/api/v1/{noun}/?q={id}"),
                "/{id}" => format!("/api/v1/{noun}/{id}"),
                _ => continue,
            };
            let body = if operation.method == Method::POST {
                &new
            } else {
                &changed
            };
            let template = operation.path.clone().leak();
            add(
                operation.method.clone(),
                template,
                path,
                body.clone(),
                Some(administrator.clone()),
            );
        }
    }
    let path = "/api/v1/auth/register";
    for body in [
        json!({"email": "fast@example.com", "password": PASSWORD, "full_name": "Ada", "organization_name": "Engines"}),
        json!({"email": "aragora@example.com", "password": PASSWORD, "name": "Ada", "organization": "Engines", "username": "aragora"}),
    ] {
        add(Method::POST, path, path.to_owned(), body, None);
    }
    let known = app.register().await;
    let path = "/api/v1/auth/login";
    add(
        Method::POST,
        path,
        path.to_owned(),
        json!({"email": known.email(), "password": PASSWORD}),
        None,
    );
    let path = "/api/v1/auth/refresh";
    add(
        Method::POST,
        path,
        path.to_owned(),
        json!({"refresh_token": known.refresh_token()}),
        None,
    );
    for (method, path) in [
        (Method::POST, "/api/v1/auth/password"),
        (Method::POST, "/api/v1/auth/reset"),
        (Method::PUT, "/api/v1/auth/users/me/password"),
        (Method::PUT, "/api/v1/users/me/password"),
    ] {
        let body = json!({"current_password": PASSWORD, "new_password": "Another!Horse8"});
        add(method, path, path.to_owned(), body, Some(app.register().await));
    }
    for path in ["/api/v1/auth/users/me", "/api/v1/users/me"] {
        add(
            Method::PUT,
            path,
            path.to_owned(),
            json!({"full_name": "Ada"}),
            Some(app.register().await),
        );
    }
    for path in ["/api/v1/auth/password/forgot", "/api/v1/auth/forgot-password"] {
        add(
            Method::POST,
            path,
            path.to_owned(),
            json!({"email": "nobody@example.com"}),
            None,
        );
    }
    for path in ["/api/v1/auth/password/reset", "/api/v1/auth/reset-password"] {
        let person = app.register().await;
        let asked = app
            .post("/api/v1/auth/password/forgot", &json!({"email": person.email()}))
            .await;
        asked.assert_status(StatusCode::OK);
        let token = app.token_for(person.email(), "password_reset").await;
        let body = json!({"token": token, "new_password": "Another!Horse8"});
        add(Method::POST, path, path.to_owned(), body, None);
    }
    for path in [
        "/api/v1/auth/email-verification/verify",
        "/api/v1/email-verification/verify",
    ] {
        let person = app.register().await;
        let token = app.token_for(person.email(), "email_verification").await;
        add(Method::POST, path, path.to_owned(), json!({"token": token}), None);
    }
    let owner = app.register().await;
    let invite = "/api/v1/auth/invite";
    let organization = owner.get("/api/v1/auth/me").await.body["organization"]["id"].clone();
    let invited = |email: &str| json!({"email": email, "organization_id": organization, "role": "member"});
    for email in ["invited@example.com", "joining@example.com"] {
        owner.post(invite, &invited(email)).await.assert_status(StatusCode::OK);
    }
    let body = invited("new@example.com");
    add(Method::POST, invite, invite.to_owned(), body, Some(owner.clone()));
    let path = "/api/v1/auth/setup-organization";
    let body = json!({"name": "Engines", "slug": "spoilt-engines"});
    add(Method::POST, path, path.to_owned(), body, Some(owner));
    let path = "/api/v1/auth/signup";
    let token = app.token_for("invited@example.com", "invitation").await;
    let body = json!({"email": "invited@example.com", "password": PASSWORD, "name": "Ada", "company_name": "Engines", "invite_token": token});
    add(Method::POST, path, path.to_owned(), body, None);
    let path = "/api/v1/auth/verify-email";
    let body = json!({"email": "pending@example.com", "password": PASSWORD, "name": "Ada"});
    app.post("/api/v1/auth/signup", &body)
        .await
        .assert_status(StatusCode::OK);
    let token = app.token_for("pending@example.com", "sign_up").await;
    add(Method::POST, path, path.to_owned(), json!({"token": token}), None);
    for path in ["/api/v1/auth/resend-verification", "/api/v1/auth/verify-email/resend"] {
        add(
            Method::POST,
            path,
            path.to_owned(),
            json!({"email": "nobody@example.com"}),
            None,
        );
    }
    let path = "/api/v1/auth/accept-invite";
    let body = json!({"email": "joining@example.com", "password": PASSWORD, "name": "Ada"});
    app.post("/api/v1/auth/register", &body)
        .await
        .assert_status(StatusCode::CREATED);
    let joining = app.sign_in("joining@example.com", PASSWORD).await;
    let token = app.token_for("joining@example.com", "invitation").await;
    add(
        Method::POST,
        path,
        path.to_owned(),
        json!({"token": token}),
        Some(joining),
    );
    for (method, path) in [
        (Method::PUT, "/api/v1/auth/me"),
        (Method::POST, "/api/v1/auth/me"),
        (Method::POST, "/api/v1/auth/profile"),
    ] {
        let body = json!({"name": "Ada"});
        add(method, path, path.to_owned(), body, Some(app.register().await));
    }
    for path in ["/api/v1/auth/introspect", "/api/v1/auth/revoke"] {
        let asking = app.register().await;
        let body = json!({"token": asking.token(), "token_type_hint": "access_token"});
        add(Method::POST, path, path.to_owned(), body, Some(asking));
    }
    let leaving = app.register().await;
    let path = "/api/v1/auth/logout";
    add(
        Method::POST,
        path,
        path.to_owned(),
        json!({"revoke_all_sessions": false, "session_id": null}),
        Some(leaving),
    );
    for (method, path, body, caller) in crate::mfa::sound_requests(app).await {
        add(method, path, path.to_owned(), body, caller);
    }
    let path = "/api/auth/register/";
    let body = json!({"email": "django@example.com", "username": "django", "password": PASSWORD, "password_confirm": PASSWORD});
    add(Method::POST, path, path.to_owned(), body.clone(), None);
    let known =
        json!({"email": "known@example.com", "username": "known", "password": PASSWORD, "password_confirm": PASSWORD});
    app.post(path, &known).await.assert_status(StatusCode::CREATED);
    let path = "/api/auth/login/";
    let login = json!({"first_credential": "known", "password": PASSWORD});
    let tokens = app.post(path, &login).await.assert_status(StatusCode::OK).body;
    add(Method::POST, path, path.to_owned(), login, None);
    let path = "/api/auth/token/verify/";
    add(
        Method::POST,
        path,
        path.to_owned(),
        json!({"token": tokens["access"]}),
        None,
    );
    let path = "/api/auth/token/refresh/";
    add(
        Method::POST,
        path,
        path.to_owned(),
        json!({"refresh": tokens["refresh"]}),
        None,
    );
    sound
}

/// Whether a refusal names the member, as the field or among the details.
fn names(body: &Value, member: &str) -> bool {
    body["error"]["field"] == member || body["error"]["details"].get(member).is_some()
}

/// Everything that is wrong for a member of this schema, in words and as a value; shorter than the body limit.
fn wrong_values(name: &str, schema: &Value) -> Vec<(&'static str, Value)> {
    let types: Vec<&str> = match &schema["type"] {
        Value::String(only) => vec![only],
        Value::Array(several) => several.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    };
    let mut wrong = vec![("an object", json!({"$no": ["such", "type"]})), ("a list", json!([1]))];
    if types.contains(&"string") {
        wrong.push(("NUL", json!("a\u{0}b")));
        wrong.push(("a truth value", json!(true)));
        // The text of a field is bounded by the body alone.
        if name != "field_value" {
            wrong.push(("too much", json!("x".repeat(900_000))));
        }
    } else {
        wrong.push(("text", json!("x")));
    }
    wrong
}

/// What is compared with a secret is wrong, not malformed, however long it is: 401, and no hint which part was wrong.
const CREDENTIALS: &[&str] = &[
    "first_credential",
    "password",
    "pending_token",
    "refresh",
    "refresh_token",
    "token",
];

impl Sound {
    async fn send(&self, site: &Site, body: &Value) -> Answer {
        let mut request = site.app().request(self.method.clone(), &self.path);
        if let Some(caller) = &self.caller {
            request = request.header("authorization", &format!("Bearer {}", caller.token()));
        }
        request.json(body).send().await
    }

    /// Spoils these members one after the other, each in every way. What was not refused as it should be is added to
    /// `faults`.
    async fn spoil(&self, site: &Site, operation: &Operation, members: &[&String], faults: &mut Vec<String>) {
        let schemas = operation.body.as_ref().expect("an operation with a body");
        let mut spoilt = Vec::new();
        for name in members {
            for (what, value) in wrong_values(name, &schemas[*name]) {
                let mut body = self.body.clone();
                body[*name] = value;
                spoilt.push((format!("{what} as {name}"), *name, body));
            }
            if operation.required.contains(name) {
                let mut body = self.body.clone();
                body.as_object_mut().unwrap().remove(*name);
                spoilt.push((format!("no {name}"), *name, body));
            }
        }
        // Wrong passwords are facts, recorded beside the answer; what they say is asserted with the sign-in itself.
        let records_failures = schemas.contains_key("current_password")
            || operation.path.trim_end_matches('/').ends_with("/login")
            || operation.path.contains("/mfa") && schemas.contains_key("password");
        site.app().state().commands().quiesce().await;
        let before = site.head().await;
        for (what, name, body) in spoilt {
            let answer = self.send(site, &body).await;
            let unknown = match answer.status {
                StatusCode::UNAUTHORIZED => CREDENTIALS.contains(&name.as_str()),
                // It is what is asked for, and there is no such thing.
                StatusCode::NOT_FOUND => name == "session_id",
                _ => false,
            };
            // The words of the Django contract are fixed, and compared by its own tests.
            let named = operation.is_django() || unknown || names(&answer.body, name);
            let coded = operation.is_django() || answer.body["error"]["code"].is_string();
            let is_trackless = records_failures || site.head().await == before;
            if !(answer.status.is_client_error() && coded && named && is_trackless) {
                let at = format!("{} {} with {what}", self.method, self.path);
                faults.push(format!(
                    "{at}: {} {}, trackless: {is_trackless}",
                    answer.status, answer.body
                ));
            }
        }
    }
}

#[tokio::test]
async fn one_spoiled_member_of_a_sound_request_is_refused_and_named() {
    let site = Site::new().await;
    let sound = sound_requests(&site).await;
    let mut faults = Vec::new();
    for operation in Operation::all() {
        let Some(schemas) = &operation.body else { continue };
        let requests: Vec<&Sound> = sound
            .iter()
            .filter(|sound| sound.method == operation.method && sound.template == operation.path)
            .collect();
        let mut unseen: Vec<&String> = schemas.keys().collect();
        for request in &requests {
            // Where a route takes two shapes, members of the other one are as unknown ones.
            let has_one_shape = requests.len() == 1;
            let members: Vec<&String> = schemas
                .keys()
                .filter(|name| has_one_shape || request.body.get(name.as_str()).is_some())
                .collect();
            unseen.retain(|name| !members.contains(name));
            request.spoil(&site, &operation, &members, &mut faults).await;
        }
        if !unseen.is_empty() {
            faults.push(format!(
                "{} {}: no sound request has {unseen:?}",
                operation.method, operation.path
            ));
        }
    }
    assert!(faults.is_empty(), "{faults:#?}");
    // Without this the refusals above might be about something else than what was spoiled.
    for sound in &sound {
        let answer = sound.send(&site, &sound.body).await;
        let at = format!("{} {}", sound.method, sound.path);
        assert!(answer.status.is_success(), "{at}: {} {}", answer.status, answer.body);
    }
    site.finish().await;
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
    const OPEN: &[&str] = &[
        "/register",
        "/login",
        "/refresh",
        "/logout",
        "/verify",
        "/password/forgot",
        "/forgot-password",
        "/password/reset",
        "/reset-password",
        "/signup",
        "/verify-email",
        "/resend-verification",
        "/verify-email/resend",
    ];
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
