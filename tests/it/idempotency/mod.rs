//! `Idempotency-Key`: a repeated write gets the first answer, byte for byte, and happens once.

mod every_write;
mod identity;
mod keeping;
mod racing;
mod replay;

use std::sync::Arc;

use annals_api::App;
use annals_commands::SystemClock;
use annals_tests::{Answer, Caller, TestApp};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use sqlx::{Executor as _, Row as _};
use tokio::net::TcpListener;

const KEY: &str = "idempotency-key";
const ROUTES: &str = "/api/v1/routes";

fn is_replay(answer: &Answer) -> bool {
    answer.header("idempotency-replayed") == "true"
}

/// The same answer again, to the last byte; only what names the request and its moment may differ.
#[track_caller]
fn assert_replays(again: &Answer, first: &Answer) {
    assert!(is_replay(again) && !is_replay(first), "{} {}", again.text, first.text);
    assert_eq!((again.status, &again.text), (first.status, &first.text));
    let part = |answer: &Answer| {
        let mut headers = answer.headers.clone();
        for name in ["x-request-id", "date", "idempotency-replayed"] {
            headers.remove(name);
        }
        headers
    };
    assert_eq!(part(again), part(first));
}

fn route(slug: &str) -> Value {
    json!({ "slug": slug, "title": "Page", "status": 1 })
}

async fn create_route(caller: &Caller, key: &str, body: &Value) -> Answer {
    caller
        .request(Method::POST, ROUTES)
        .header(KEY, key)
        .json(body)
        .send()
        .await
}

/// How many answers are kept.
async fn kept(app: &TestApp) -> i64 {
    let mut superuser = app.database().superuser().await;
    let row = superuser.fetch_one("select count(*) from log.answers").await.unwrap();
    row.get(0)
}

/// An application that gives up early on answers that are not there.
async fn impatient() -> TestApp {
    TestApp::with(|config| config.read_your_writes.timeout_ms = 1000).await
}

/// Another application on the same database, as a second process would be.
struct Other {
    app: App,
    address: std::net::SocketAddr,
    stop: tokio::sync::oneshot::Sender<()>,
    server: tokio::task::JoinHandle<std::io::Result<()>>,
}

impl Other {
    async fn beside(app: &TestApp) -> Self {
        let database = app.database().database().with_options(Default::default());
        let other = App::start_on(database, app.state().config().clone(), Arc::new(SystemClock))
            .await
            .unwrap();
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let server = tokio::spawn(other.clone().serve(listener, async move {
            let _ = stopped.await;
        }));
        Self {
            app: other,
            address,
            stop,
            server,
        }
    }

    /// The body of the answer, and whether it was given before.
    async fn create_route(&self, app: &TestApp, caller: &Caller, key: &str, body: &Value) -> (String, bool) {
        let response = app
            .client()
            .post(format!("http://{}{ROUTES}", self.address))
            .bearer_auth(caller.token())
            .header(KEY, key)
            .json(body)
            .send()
            .await
            .unwrap();
        assert_eq!(response.status(), StatusCode::CREATED);
        let replayed = response.headers().contains_key("idempotency-replayed");
        (response.text().await.unwrap(), replayed)
    }

    async fn stop(self) {
        let _ = self.stop.send(());
        self.server.await.unwrap().unwrap();
        self.app.stop().await.unwrap();
    }
}
