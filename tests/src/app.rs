//! The whole application for one test: its own database, a server on a free port, an HTTP client, people who can sign in.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use annals_api::{App, AppState, Config};
use annals_commands::user::Register;
use annals_commands::{Clock, PasswordPolicy, SystemClock};
use annals_domain::{Caller as DomainCaller, EmailAddress, Role};
use annals_eventstore::{EventStore, Position};
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use reqwest::{Client, Method, RequestBuilder, StatusCode};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use uuid::Uuid;

use crate::TestDatabase;
use crate::mail::{self, Mail};

/// Longest wait for read models at the end of a test.
const CATCH_UP: Duration = Duration::from_secs(30);

/// The password of everybody that the harness makes. Keeps every contract's rule.
pub const PASSWORD: &str = "Correct!Horse7";

/// A running application. End every test with [`TestApp::finish`], which checks what must hold whatever the test did.
pub struct TestApp {
    app: Option<App>,
    address: SocketAddr,
    client: Client,
    stop: Option<oneshot::Sender<()>>,
    server: Option<JoinHandle<std::io::Result<()>>>,
    people: AtomicU32,
    // Dropped after everything that uses them.
    _keys: TempDir,
    database: TestDatabase,
}

impl TestApp {
    /// With the default configuration, but for cheap password hashes.
    pub async fn new() -> Self {
        Self::with(|_| {}).await
    }

    /// With a configuration of the test's own.
    pub async fn with(change: impl FnOnce(&mut Config)) -> Self {
        Self::on_clock(Arc::new(SystemClock), change).await
    }

    /// The same by another clock.
    pub async fn on_clock(clock: Arc<dyn Clock>, change: impl FnOnce(&mut Config)) -> Self {
        let database = TestDatabase::new().await;
        let keys = tempfile::tempdir().expect("a folder for the keys");
        let mut config = Config::defaults();
        config.data_dir = keys.path().to_owned();
        // The least that argon2 takes: hashing is not what these tests are about.
        config.password.memory_kib = 8;
        config.password.iterations = 1;
        config.password.queue = 4096;
        change(&mut config);
        let app = App::start_on(database.database(), config, clock)
            .await
            .expect("the application starts");
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a free port");
        let address = listener.local_addr().expect("a bound socket has an address");
        let (stop, stopped) = oneshot::channel();
        let server = tokio::spawn(app.clone().serve(listener, async move {
            let _ = stopped.await;
        }));
        let client = crate::client()
            .redirect(reqwest::redirect::Policy::none())
            .timeout(Duration::from_secs(60))
            .build()
            .expect("a client");
        Self {
            app: Some(app),
            address,
            client,
            stop: Some(stop),
            server: Some(server),
            people: AtomicU32::new(0),
            _keys: keys,
            database,
        }
    }

    /// Address of a path.
    #[must_use]
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// Where the server listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The client that all callers share. It follows no redirects.
    #[must_use]
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// What the application's handlers work with.
    #[must_use]
    pub fn state(&self) -> &AppState {
        self.app
            .as_ref()
            .expect("the application runs until the test ends")
            .state()
    }

    /// The log.
    #[must_use]
    pub fn store(&self) -> &EventStore {
        self.state().store()
    }

    /// The test's database.
    #[must_use]
    pub fn database(&self) -> &TestDatabase {
        &self.database
    }

    /// The position of the last event.
    pub async fn head(&self) -> Position {
        self.store().head().await.expect("the log has a head").position
    }

    /// The mails that have left for this address, once every mail that is asked for so far has been tried.
    pub async fn mails_to(&self, email: &str) -> Vec<Mail> {
        self.mailed().await;
        let mails = mail::outbox(&self.state().config().outbox_dir());
        mails.into_iter().filter(|mail| mail.header("To") == email).collect()
    }

    /// The token of the newest link that was mailed to this address for a purpose, such as `password_reset`.
    pub async fn token_for(&self, email: &str, purpose: &str) -> String {
        let mails = self.mails_to(email).await;
        let newest = mails.iter().rev().find(|mail| mail.name.ends_with(purpose));
        newest.expect("a link was mailed").token().to_owned()
    }

    /// Waits until every mail that is asked for so far has been tried.
    pub async fn mailed(&self) {
        self.state().commands().quiesce().await;
        let head = self.head().await;
        let tried = tokio::time::timeout(CATCH_UP, self.state().mailer().caught_up(head)).await;
        tried.expect("mails leave");
    }

    /// A request without credentials.
    pub fn request(&self, method: Method, path: &str) -> Request {
        Request(self.client.request(method, self.url(path)))
    }

    /// `GET` without credentials.
    pub async fn get(&self, path: &str) -> Answer {
        self.request(Method::GET, path).send().await
    }

    /// `POST` of JSON without credentials.
    pub async fn post(&self, path: &str, body: &Value) -> Answer {
        self.request(Method::POST, path).json(body).send().await
    }

    /// An address that nobody has yet.
    #[must_use]
    pub fn new_email(&self) -> String {
        format!("person{}@example.com", self.people.fetch_add(1, Ordering::Relaxed))
    }

    /// Somebody who has registered as a stranger may, with an organization, and signed in.
    pub async fn register(&self) -> Caller {
        let email = self.new_email();
        let body = json!({
            "email": email,
            "password": PASSWORD,
            "full_name": "Ada Example",
            "organization_name": "Example & Co",
        });
        self.post("/api/v1/auth/register", &body)
            .await
            .assert_status(StatusCode::CREATED);
        self.sign_in(&email, PASSWORD).await
    }

    /// Somebody who may do everything.
    pub async fn administrator(&self) -> Caller {
        self.person(Role::Administrator).await
    }

    /// Somebody with a role of choice, as an administrator on the server's machine makes them.
    pub async fn person(&self, role: Role) -> Caller {
        let email = self.new_email();
        let register = Register {
            email: EmailAddress::parse(&email).expect("a valid address"),
            password: PASSWORD.into(),
            policy: PasswordPolicy::NONE,
            name: role.as_str().to_owned(),
            username: None,
            organization_name: None,
            role,
            sign_in: None,
        };
        let system = DomainCaller::system("test", Uuid::now_v7());
        let context = self.state().on_behalf_of(&system);
        annals_commands::user::register(&context, register)
            .await
            .expect("the person is new");
        self.sign_in(&email, PASSWORD).await
    }

    /// A new session of somebody who has an account.
    pub async fn sign_in(&self, email: &str, password: &str) -> Caller {
        let answer = self
            .post("/api/v1/auth/login", &json!({ "email": email, "password": password }))
            .await;
        let body = answer.assert_status(StatusCode::OK).body;
        let text = |path: &str| {
            body.pointer(path)
                .and_then(Value::as_str)
                .map(str::to_owned)
                .unwrap_or_default()
        };
        Caller {
            client: self.client.clone(),
            base: self.url(""),
            token: text("/token"),
            refresh_token: text("/refresh_token"),
            user_id: text("/user/id"),
            email: email.to_owned(),
        }
    }

    /// Checks that every read model is what the log says, row for row, and that the log is whole; then stops everything.
    pub async fn finish(mut self) {
        let system = DomainCaller::system("test", Uuid::now_v7());
        self.state().commands().quiesce().await;
        let models = annals_projections::read_models();
        let names: Vec<&str> = models.iter().map(|model| model.name()).collect();
        let head = self.head().await;
        self.state()
            .engine()
            .wait(&names, head, CATCH_UP)
            .await
            .expect("the read models follow the log");
        for model in &models {
            let begun = Instant::now();
            // Over an empty log there is nothing to wait for, and a model may still be being set up.
            let report = loop {
                let report = annals_projections::compare(&system, self.store(), model.as_ref()).await;
                let report = report.expect("the read model can be rebuilt");
                if report.compared || begun.elapsed() > CATCH_UP {
                    break report;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            };
            assert!(
                report.compared && report.is_equal(),
                "a rebuild differs from what is served: {report:#?}"
            );
        }
        self.end().await;
    }

    async fn end(&mut self) {
        if let Some(stop) = self.stop.take() {
            let _ = stop.send(());
        }
        if let Some(server) = self.server.take() {
            server
                .await
                .expect("the server does not panic")
                .expect("the server had a listener");
        }
        if let Some(app) = self.app.take() {
            app.stop().await.expect("the application stops");
        }
    }
}

impl Drop for TestApp {
    fn drop(&mut self) {
        // A forgotten check must fail the test; a panic in `drop` does that when none is under way already.
        let is_forgotten = self.app.is_some() && !std::thread::panicking();
        assert!(!is_forgotten, "a test ended without TestApp::finish");
    }
}

/// Somebody who is signed in.
#[derive(Debug, Clone)]
pub struct Caller {
    client: Client,
    base: String,
    token: String,
    refresh_token: String,
    user_id: String,
    email: String,
}

impl Caller {
    /// The access token.
    #[must_use]
    pub fn token(&self) -> &str {
        &self.token
    }

    /// The refresh token.
    #[must_use]
    pub fn refresh_token(&self) -> &str {
        &self.refresh_token
    }

    /// The account's id, as a UUID.
    #[must_use]
    pub fn user_id(&self) -> &str {
        &self.user_id
    }

    /// The mail address.
    #[must_use]
    pub fn email(&self) -> &str {
        &self.email
    }

    /// A request with the bearer token.
    pub fn request(&self, method: Method, path: &str) -> Request {
        Request(
            self.client
                .request(method, format!("{}{path}", self.base))
                .bearer_auth(&self.token),
        )
    }

    /// `GET` with the bearer token.
    pub async fn get(&self, path: &str) -> Answer {
        self.request(Method::GET, path).send().await
    }

    /// `POST` of JSON with the bearer token.
    pub async fn post(&self, path: &str, body: &Value) -> Answer {
        self.request(Method::POST, path).json(body).send().await
    }

    /// `PUT` of JSON with the bearer token.
    pub async fn put(&self, path: &str, body: &Value) -> Answer {
        self.request(Method::PUT, path).json(body).send().await
    }

    /// `DELETE` with the bearer token.
    pub async fn delete(&self, path: &str) -> Answer {
        self.request(Method::DELETE, path).send().await
    }
}

/// A request under construction.
#[derive(Debug)]
pub struct Request(RequestBuilder);

impl Request {
    /// Adds a header.
    #[must_use]
    pub fn header(self, name: &str, value: &str) -> Self {
        let name: HeaderName = name.parse().expect("a valid header name");
        let value = HeaderValue::from_str(value).expect("a valid header value");
        Self(self.0.header(name, value))
    }

    /// With this bearer token.
    #[must_use]
    pub fn bearer(self, token: &str) -> Self {
        Self(self.0.bearer_auth(token))
    }

    /// With a JSON body.
    #[must_use]
    pub fn json(self, body: &Value) -> Self {
        Self(self.0.json(body))
    }

    /// With a body of any type.
    #[must_use]
    pub fn body(self, media_type: &str, body: impl Into<reqwest::Body>) -> Self {
        Self(self.0.header("content-type", media_type).body(body))
    }

    /// The same request once more.
    ///
    /// # Panics
    /// When its body is a stream.
    #[must_use]
    pub fn again(&self) -> Self {
        Self(self.0.try_clone().expect("the body is in memory"))
    }

    /// The answer.
    ///
    /// # Panics
    /// When there is none, or its body is neither JSON nor empty nor text.
    pub async fn send(self) -> Answer {
        let response = self.0.send().await.expect("the server answers");
        let (status, headers) = (response.status(), response.headers().clone());
        let text = response.text().await.expect("the body is text");
        let body = serde_json::from_str(&text).unwrap_or(Value::Null);
        Answer {
            status,
            headers,
            text,
            body,
        }
    }
}

/// An answer, read to its end.
#[derive(Debug, Clone)]
pub struct Answer {
    /// Status.
    pub status: StatusCode,
    /// Headers.
    pub headers: HeaderMap,
    /// Body as it came.
    pub text: String,
    /// Body as JSON; null when it is none.
    pub body: Value,
}

impl Answer {
    /// The same answer, if it has this status.
    ///
    /// # Panics
    /// When it has another.
    #[track_caller]
    pub fn assert_status(self, status: StatusCode) -> Self {
        assert_eq!(self.status, status, "{}", self.text);
        self
    }

    /// A header's text; empty when it is absent.
    #[must_use]
    pub fn header(&self, name: &str) -> &str {
        self.headers
            .get(name)
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default()
    }

    /// Checks status and code of a refusal in the shape of `/api/v1`.
    ///
    /// # Panics
    /// When it is another answer, or the shape is not whole.
    #[track_caller]
    pub fn assert_problem(&self, status: u16, code: &str) {
        let body = &self.body;
        assert_eq!(self.status.as_u16(), status, "{}", self.text);
        assert_eq!(body["error"]["code"], code, "{}", self.text);
        assert_eq!(body["success"], false, "{}", self.text);
        assert_eq!(body["detail"], body["error"]["message"], "{}", self.text);
        assert_eq!(body["request_id"], self.header("x-request-id"), "{}", self.text);
        if status == 401 {
            assert_eq!(self.header("www-authenticate"), "Bearer");
        }
    }

    /// The body with the members at these paths replaced by `"[…]"`, for comparing the rest as a whole. A path that leads
    /// nowhere is a fault of the test, or of the answer.
    ///
    /// # Panics
    /// When a path leads nowhere or to null.
    #[track_caller]
    #[must_use]
    pub fn redacted(&self, paths: &[&str]) -> Value {
        let mut body = self.body.clone();
        for path in paths {
            match body.pointer_mut(path) {
                Some(value) if !value.is_null() => *value = Value::String("[…]".to_owned()),
                _ => panic!("nothing at {path} of {}", self.text),
            }
        }
        body
    }
}
