//! Who is live, remembered by every process: no statement for the check of a session, and no session that goes on anywhere
//! once its end was answered (SE-3).

use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpListener};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use annals_tests::{Caller, Neighbour, PASSWORD, TestApp};
use reqwest::StatusCode;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;

/// Sessions that are ended in one process and used in the other; `ANNALS_TEST_REVOCATION_ROUNDS` asks for more.
const DEFAULT_ROUNDS: usize = 25;
/// Requests in a row that must cost nothing.
const REQUESTS: usize = 50;
/// Runs of so many requests; a machine that stands still for a second spoils one.
const RUNS: usize = 20;
/// A request that is authenticated and then refused before it asks the database anything.
const NOTHING: &str = "/api/v1/auth/sessions?include_expired=perhaps";
/// A start on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

async fn used_at(caller: &Caller, url: &str, app: &TestApp) -> StatusCode {
    let request = app.client().get(url).bearer_auth(caller.token());
    request.send().await.expect("an answer").status()
}

/// How many statements the process has sent for requests to [`NOTHING`], of those whose answers are known. A request that
/// does ask the database, sent after them, tells that all of them are counted.
async fn statements_for_nothing(process: &Process, caller: &Caller, app: &TestApp) -> usize {
    let me = format!("http://{}/api/v1/auth/me", process.address);
    assert_eq!(used_at(caller, &me, app).await, StatusCode::OK);
    let mut count = 0;
    loop {
        let line = process
            .log
            .recv_timeout(PATIENCE)
            .expect("the process logs its statements");
        if !line.contains("sqlx::query") || !line.contains("request{") {
            continue;
        }
        if line.contains("path=\"/api/v1/auth/me\"") {
            return count;
        }
        count += usize::from(line.contains("path=\"/api/v1/auth/sessions\""));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_authenticated_request_costs_no_statement() {
    let app = TestApp::new().await;
    let ada = app.register().await;
    let process = Process::start(&app, "warn,annals_api=info,sqlx::query=debug");
    process.ready(&app).await;
    let url = format!("http://{}{NOTHING}", process.address);
    let mut free = false;
    for run in 0..RUNS {
        let first = used_at(&ada, &url, &app).await;
        assert_eq!(first, StatusCode::UNPROCESSABLE_ENTITY);
        let cost = statements_for_nothing(&process, &ada, &app).await;
        if run == 0 {
            assert_eq!(
                cost, 1,
                "the first request to a process that has not heard of the session is seen"
            );
        }
        for _ in 0..REQUESTS {
            used_at(&ada, &url, &app).await;
        }
        free = statements_for_nothing(&process, &ada, &app).await == 0;
        if free {
            break;
        }
    }
    assert!(free, "{REQUESTS} requests in a row without a statement");
    drop(process);
    app.finish().await;
}

/// Ways for a session to end, and what must be true of it elsewhere when the answer has come.
async fn end(app: &TestApp, caller: &Caller, way: usize) {
    let answer = match way {
        0 => caller.post("/api/v1/auth/logout", &json!({})).await,
        1 => {
            let everywhere = json!({ "revoke_all_sessions": true });
            caller.post("/api/v1/auth/logout", &everywhere).await
        }
        _ => {
            let body = json!({ "current_password": PASSWORD, "new_password": format!("{PASSWORD}x") });
            caller.post("/api/v1/auth/password", &body).await
        }
    };
    answer.assert_status(StatusCode::OK);
    let again = used_at(caller, &app.url("/api/v1/auth/me"), app).await;
    assert_eq!(again, StatusCode::UNAUTHORIZED, "in the process that ended it");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_ended_in_one_process_is_refused_in_the_other_at_once() {
    let rounds = std::env::var("ANNALS_TEST_REVOCATION_ROUNDS")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(DEFAULT_ROUNDS);
    let app = TestApp::new().await;
    let second = Neighbour::of(&app).await;
    let ada = app.register().await;
    let url = second.url(NOTHING);
    let mut accepted = Vec::new();
    for round in 0..rounds {
        // A change of password is for somebody who will not sign in again.
        let way = round % 12;
        let caller = if way == 11 {
            app.register().await
        } else {
            app.sign_in(ada.email(), PASSWORD).await
        };
        // Twice, so that the second process has it in memory.
        for _ in 0..2 {
            assert_eq!(used_at(&caller, &url, &app).await, StatusCode::UNPROCESSABLE_ENTITY);
        }
        end(&app, &caller, if way == 11 { 2 } else { way % 2 }).await;
        if used_at(&caller, &url, &app).await != StatusCode::UNAUTHORIZED {
            accepted.push(round);
        }
    }
    assert!(accepted.is_empty(), "accepted after its end in rounds {accepted:?}");
    second.finish().await;
    app.finish().await;
}

/// `annals serve` as a process of its own on the test's database.
struct Process {
    child: Child,
    address: SocketAddr,
    log: Receiver<String>,
}

impl Process {
    fn start(app: &TestApp, log: &str) -> Self {
        let data = &app.state().config().data_dir;
        let address = TcpListener::bind("127.0.0.1:0")
            .and_then(|free| free.local_addr())
            .expect("a free port");
        let mut command = Command::new(env!("CARGO_BIN_EXE_annals-under-test"));
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("ANNALS_") {
                command.env_remove(name);
            }
        }
        let mut child = command
            .arg("serve")
            .current_dir(data)
            .env("ANNALS_DATA_DIR", data)
            .env("DATABASE_URL", app.database().url())
            .env("ANNALS_LISTEN", address.to_string())
            .env("ANNALS_LOG", log)
            .env("NO_COLOR", "1")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("a second server starts");
        let stderr = child.stderr.take().expect("stderr is piped");
        let (lines, log) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                // Nobody may be listening; the pipe is emptied all the same.
                drop(lines.send(line));
            }
        });
        Self { child, address, log }
    }

    fn signal(&self, signal: Signal) {
        let id = i32::try_from(self.child.id()).expect("a process id");
        kill_process(Pid::from_raw(id).expect("a process id"), signal).expect("the process is signalled");
    }

    async fn ready(&self, app: &TestApp) {
        let begin = Instant::now();
        let url = format!("http://{}/health/ready", self.address);
        while !matches!(app.client().get(&url).send().await, Ok(answer) if answer.status() == StatusCode::OK) {
            assert!(begin.elapsed() < PATIENCE, "the second server was not ready in time");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

async fn watchers(app: &TestApp) -> i64 {
    sqlx::query_scalar("select count(*) from log.watchers")
        .fetch_one(app.state().database().pool())
        .await
        .expect("the watchers are counted")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_that_stood_still_does_not_believe_what_it_remembers() {
    let app = TestApp::new().await;
    let ada = app.register().await;
    let process = Process::start(&app, "warn");
    process.ready(&app).await;
    let url = format!("http://{}{NOTHING}", process.address);
    for _ in 0..3 {
        assert_eq!(used_at(&ada, &url, &app).await, StatusCode::UNPROCESSABLE_ENTITY);
    }
    process.signal(Signal::STOP);
    // It cannot confirm, so the answer waits until it must have ceased to believe; and no longer.
    let begin = Instant::now();
    ada.post("/api/v1/auth/logout", &json!({}))
        .await
        .assert_status(StatusCode::OK);
    assert!(
        begin.elapsed() < PATIENCE,
        "a process that stands still holds nobody up for good"
    );
    process.signal(Signal::CONT);
    assert_eq!(used_at(&ada, &url, &app).await, StatusCode::UNAUTHORIZED);

    // Struck off or not, it takes part again: what is ended now is ended there too.
    let again = app.sign_in(ada.email(), PASSWORD).await;
    for _ in 0..3 {
        assert_eq!(used_at(&again, &url, &app).await, StatusCode::UNPROCESSABLE_ENTITY);
    }
    again
        .post("/api/v1/auth/logout", &json!({}))
        .await
        .assert_status(StatusCode::OK);
    assert_eq!(used_at(&again, &url, &app).await, StatusCode::UNAUTHORIZED);

    // One that is gone for good is waited for once or twice, and then struck off.
    process.signal(Signal::KILL);
    let begin = Instant::now();
    while watchers(&app).await > 1 {
        assert!(begin.elapsed() < PATIENCE, "a dead process stays registered");
        let caller = app.sign_in(ada.email(), PASSWORD).await;
        caller
            .post("/api/v1/auth/logout", &json!({}))
            .await
            .assert_status(StatusCode::OK);
    }
    app.finish().await;
}

#[tokio::test]
async fn a_process_that_is_struck_off_asks_the_database_until_it_has_registered_again() {
    let app = TestApp::new().await;
    let second = Neighbour::of(&app).await;
    let ada = app.register().await;
    let url = second.url(NOTHING);
    assert_eq!(used_at(&ada, &url, &app).await, StatusCode::UNPROCESSABLE_ENTITY);
    let pool = app.state().database().pool();
    let struck: Vec<uuid::Uuid> = sqlx::query_scalar("update log.watchers set lapsed = true returning watcher_id")
        .fetch_all(pool)
        .await
        .expect("all are struck off");
    ada.post("/api/v1/auth/logout", &json!({}))
        .await
        .assert_status(StatusCode::OK);
    assert_eq!(used_at(&ada, &url, &app).await, StatusCode::UNAUTHORIZED);
    let begin = Instant::now();
    loop {
        let present: Vec<uuid::Uuid> = sqlx::query_scalar("select watcher_id from log.watchers where not lapsed")
            .fetch_all(pool)
            .await
            .expect("the watchers are listed");
        if present.len() >= 2 && present.iter().all(|watcher| !struck.contains(watcher)) {
            break;
        }
        assert!(begin.elapsed() < PATIENCE, "they register again");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    second.finish().await;
    app.finish().await;
}

#[tokio::test]
async fn a_disabled_user_is_refused_in_the_other_process_at_once() {
    let app = TestApp::new().await;
    let second = Neighbour::of(&app).await;
    let ada = app.register().await;
    let url = second.url(NOTHING);
    for _ in 0..2 {
        assert_eq!(used_at(&ada, &url, &app).await, StatusCode::UNPROCESSABLE_ENTITY);
    }
    let cx = annals_domain::Caller::system("test", uuid::Uuid::now_v7());
    let user: annals_domain::UserId = ada.user_id().parse().expect("an id");
    annals_commands::user::disable(&app.state().on_behalf_of(&cx), user, "test".to_owned(), None)
        .await
        .expect("the user is disabled");
    assert_eq!(used_at(&ada, &url, &app).await, StatusCode::UNAUTHORIZED);
    second.finish().await;
    app.finish().await;
}
