//! A server with an administrator signed in, and short words for what the tests of content resources say to it.

use annals_tests::TestApp;
use reqwest::header::{CONTENT_TYPE, HeaderMap};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

/// An id of the right form that nothing has.
pub(crate) const NOBODY: &str = "01890000000000000000000000";

/// A moment in the form of the contract.
pub(crate) const MOMENT: &str = "2026-02-15T12:00:00Z";

/// A request that must be refused: method, path, body; status, code, field.
pub(crate) type Refusal<'a> = (Method, &'a str, Option<Value>, u16, &'a str, Option<&'a str>);

pub(crate) struct Site {
    app: TestApp,
    token: String,
}

/// What came back; the body is null when there is none.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Value,
}

impl Answer {
    /// The body of an answer with this status.
    #[track_caller]
    pub(crate) fn with(self, status: u16) -> Value {
        assert_eq!(self.status.as_u16(), status, "{}", self.body);
        self.body
    }

    /// The code and field of a refusal with this status.
    #[track_caller]
    pub(crate) fn refused(self, status: u16) -> (String, Option<String>) {
        let body = self.with(status);
        assert_eq!(body["success"], false, "{body}");
        assert_eq!(body["detail"], body["error"]["message"], "{body}");
        let code = body["error"]["code"].as_str().unwrap_or_default().to_owned();
        (code, body["error"]["field"].as_str().map(str::to_owned))
    }

    #[track_caller]
    pub(crate) fn position(&self) -> u64 {
        self.headers["event-position"].to_str().unwrap().parse().unwrap()
    }
}

impl Site {
    pub(crate) async fn new() -> Self {
        let app = TestApp::new().await;
        let token = app.administrator().await.token().to_owned();
        Self { app, token }
    }

    pub(crate) const fn app(&self) -> &TestApp {
        &self.app
    }

    pub(crate) async fn finish(self) {
        self.app.finish().await;
    }

    /// Says it as somebody else, or as nobody.
    pub(crate) async fn say(&self, token: Option<&str>, method: Method, path: &str, body: Option<&Value>) -> Answer {
        let mut request = self.app.client().request(method, self.app.url(path));
        if let Some(token) = token {
            request = request.bearer_auth(token);
        }
        if let Some(body) = body {
            request = request.header(CONTENT_TYPE, "application/json").body(body.to_string());
        }
        let answer = request.send().await.expect("an answer");
        let (status, headers) = (answer.status(), answer.headers().clone());
        let bytes = answer.bytes().await.expect("a body");
        let body = if bytes.is_empty() {
            Value::Null
        } else {
            serde_json::from_slice(&bytes).expect("JSON")
        };
        Answer { status, headers, body }
    }

    pub(crate) async fn call(&self, method: Method, path: &str, body: Option<&Value>) -> Answer {
        self.say(Some(&self.token), method, path, body).await
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.call(Method::GET, path, None).await
    }

    pub(crate) async fn post(&self, path: &str, body: Value) -> Answer {
        self.call(Method::POST, path, Some(&body)).await
    }

    pub(crate) async fn put(&self, path: &str, body: Value) -> Answer {
        self.call(Method::PUT, path, Some(&body)).await
    }

    pub(crate) async fn delete(&self, path: &str) -> Answer {
        self.call(Method::DELETE, path, None).await
    }

    /// How many events there are.
    pub(crate) async fn head(&self) -> u64 {
        self.app.head().await.get()
    }

    /// Each of these requests is refused with this status, code and field, and leaves no trace in the log.
    pub(crate) async fn refuses(&self, refusals: &[Refusal<'_>]) {
        let before = self.head().await;
        for (method, path, body, status, code, field) in refusals {
            let answer = self.call(method.clone(), path, body.as_ref()).await;
            let context = format!("{method} {path} {body:?}: {}", answer.body);
            assert_eq!(answer.status.as_u16(), *status, "{context}");
            let (actual_code, actual_field) = answer.refused(*status);
            assert_eq!(
                (actual_code.as_str(), actual_field.as_deref()),
                (*code, *field),
                "{context}"
            );
        }
        assert_eq!(self.head().await, before, "a refusal has left events behind");
    }

    /// The caller's own id, as the content resources print it.
    pub(crate) async fn user_id(&self) -> String {
        let me = self.get("/api/v1/auth/me").await.with(200);
        me["user_id"].as_str().expect("an id").to_owned()
    }

    pub(crate) async fn datatype(&self, label: &str, kind: &str) -> String {
        self.made("/api/v1/datatype", "datatype_id", json!({"label": label, "type": kind}))
            .await
    }

    pub(crate) async fn field(&self, datatype: &str, label: &str, kind: &str) -> String {
        self.made(
            "/api/v1/fields",
            "field_id",
            json!({"parent_id": datatype, "label": label, "type": kind}),
        )
        .await
    }

    pub(crate) async fn route(&self, slug: &str) -> String {
        self.made(
            "/api/v1/routes",
            "route_id",
            json!({"slug": slug, "title": slug, "status": 1}),
        )
        .await
    }

    pub(crate) async fn content(&self, body: Value) -> String {
        self.made("/api/v1/contentdata", "content_data_id", body).await
    }

    pub(crate) async fn made(&self, path: &str, id: &str, body: Value) -> String {
        let made = self.post(path, body).await.with(201);
        made[id].as_str().expect("an id").to_owned()
    }
}

/// The other form of an id, as UUID.
pub(crate) fn uuid(ulid: &str) -> String {
    ulid.parse::<annals_domain::ContentId>().expect("an id").to_string()
}
