//! What is acknowledged survives `kill -9` of the server and of its PostgreSQL, exactly once and whole.
//!
//! The server runs as its own process with its embedded database, fsync on. Rounds: `ANNALS_TEST_KILL_ROUNDS`
//! (default [`DEFAULT_ROUNDS`]); even rounds kill the server, odd ones the database under it.

#![allow(
    clippy::print_stderr,
    reason = "what the server under test says is worth seeing when the test fails"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use reqwest::{Client, StatusCode};
use serde_json::{Value, json};

/// Rounds in an ordinary run: one of each kind.
const DEFAULT_ROUNDS: usize = 2;
/// Registrations and content writes under way when the kill comes.
const WRITES_PER_ROUND: usize = 500;
/// Acknowledgements to wait for before killing, so that the kill falls among work under way.
const ACKNOWLEDGED_BEFORE_KILL: usize = 60;
/// A start with crash recovery on a busy machine.
const START_TIMEOUT: Duration = Duration::from_secs(60);

const ADMIN_EMAIL: &str = "admin@example.com";
const ADMIN_PASSWORD: &str = "correct horse battery staple";

/// The server under test, as a process of its own. Killed when dropped.
struct Server {
    child: Child,
    address: SocketAddr,
}

impl Server {
    fn command(data: &Path) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_annals-under-test"));
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("ANNALS_") || name == "DATABASE_URL" {
                command.env_remove(name);
            }
        }
        command
            .current_dir(data)
            .env("ANNALS_DATA_DIR", data.join("annals-data"))
            .env("ANNALS_LOG", "warn")
            // Cheap hashes: the writes are to be many, not slow.
            .env("ANNALS_PASSWORD__MEMORY_KIB", "64")
            .env("ANNALS_PASSWORD__ITERATIONS", "1")
            .env("ANNALS_PASSWORD__QUEUE", "4096")
            .stdin(Stdio::null());
        command
    }

    fn start(data: &Path) -> Self {
        // Two processes could be given the same port between here and the server's own bind; then the start fails
        // and the test with it, which is better than a port that nobody knows.
        let address = TcpListener::bind("127.0.0.1:0")
            .and_then(|free| free.local_addr())
            .expect("a free port");
        let mut child = Self::command(data)
            .arg("serve")
            .env("ANNALS_LISTEN", address.to_string())
            .env("ANNALS_ADMIN_EMAIL", ADMIN_EMAIL)
            .env("ANNALS_ADMIN_PASSWORD", ADMIN_PASSWORD)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the server starts");
        let log = child.stderr.take().expect("stderr is piped");
        std::thread::spawn(move || {
            for line in BufReader::new(log).lines().map_while(Result::ok) {
                eprintln!("server: {line}");
            }
        });
        Self { child, address }
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    async fn ready(&mut self, client: &Client) {
        let begin = Instant::now();
        loop {
            if let Ok(answer) = client.get(self.url("/health/ready")).send().await
                && answer.status() == StatusCode::OK
            {
                return;
            }
            if let Ok(Some(status)) = self.child.try_wait() {
                panic!("the server ended: {status}");
            }
            assert!(begin.elapsed() < START_TIMEOUT, "the server was not ready in time");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    fn kill(&mut self) {
        self.child.kill().expect("the server is killed");
        self.child.wait().expect("the server is gone");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The process id of the embedded PostgreSQL, from its own pid file.
fn postmaster(data: &Path) -> i32 {
    let file = data.join("annals-data/postgres/data/postmaster.pid");
    let file = if file.exists() {
        file
    } else {
        find(&data.join("annals-data"), "postmaster.pid").expect("a pid file")
    };
    let text = std::fs::read_to_string(file).expect("the pid file is readable");
    text.lines()
        .next()
        .and_then(|line| line.trim().parse().ok())
        .expect("a process id")
}

fn find(folder: &Path, name: &str) -> Option<PathBuf> {
    for entry in std::fs::read_dir(folder).ok()?.flatten() {
        let path = entry.path();
        if path.is_dir() {
            if let Some(found) = find(&path, name) {
                return Some(found);
            }
        } else if entry.file_name() == name {
            return Some(path);
        }
    }
    None
}

/// Runs a subcommand to its end and gives its exit code and standard output.
fn run(data: &Path, arguments: &[&str]) -> (i32, String) {
    let output = Server::command(data)
        .args(arguments)
        .output()
        .expect("the subcommand runs");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.status.success() {
        eprintln!(
            "{arguments:?}: {}\n{}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
    }
    (output.status.code().unwrap_or(-1), text)
}

async fn sign_in(client: &Client, server: &Server) -> String {
    let answer = client
        .post(server.url("/api/v1/auth/login"))
        .json(&json!({ "email": ADMIN_EMAIL, "password": ADMIN_PASSWORD }))
        .send()
        .await
        .expect("the administrator can sign in");
    assert_eq!(answer.status(), StatusCode::OK);
    let body: Value = answer.json().await.expect("a JSON body");
    body["access_token"].as_str().expect("a token").to_owned()
}

/// Every event of the log, over the audit interface.
async fn events(client: &Client, server: &Server, token: &str) -> Vec<Value> {
    let mut all = Vec::new();
    let mut after = 0;
    loop {
        let answer = client
            .get(server.url(&format!("/api/v1/events?after={after}&limit=500")))
            .bearer_auth(token)
            .send()
            .await
            .expect("the log can be read");
        assert_eq!(answer.status(), StatusCode::OK);
        let body: Value = answer.json().await.expect("a JSON body");
        let page = body["data"].as_array().expect("a page").clone();
        let Some(last) = page.last() else { return all };
        after = last["position"].as_u64().expect("a position");
        all.extend(page);
    }
}

/// One write of a round, and how it is found again.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Write {
    Registration(String),
    Content(String),
}

impl Write {
    async fn send(&self, client: &Client, server: &str, token: &str) -> Option<StatusCode> {
        let request = match self {
            Self::Registration(email) => client.post(format!("{server}/api/v1/auth/register")).json(&json!({
                "email": email,
                "password": "a long enough password",
                "full_name": "Ada Example",
                "organization_name": "Example & Co",
            })),
            Self::Content(id) => client
                .post(format!("{server}/api/v1/datatype"))
                .bearer_auth(token)
                .json(&json!({
                    "datatype_id": id,
                    "label": "Page",
                    "type": "ROOT",
                })),
        };
        request.send().await.ok().map(|answer| answer.status())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn acknowledged_writes_survive_kills_exactly_once() {
    let rounds = std::env::var("ANNALS_TEST_KILL_ROUNDS")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(DEFAULT_ROUNDS);
    let folder = annals_tests::reachable_folder();
    let data = folder.path();
    let client = annals_tests::client()
        .timeout(Duration::from_secs(30))
        .pool_max_idle_per_host(64)
        .build()
        .expect("a client");
    let mut acknowledged: BTreeSet<Write> = BTreeSet::new();
    let mut sent: BTreeSet<Write> = BTreeSet::new();
    let mut server = Server::start(data);
    server.ready(&client).await;

    for round in 0..rounds {
        let token = sign_in(&client, &server).await;
        let done = Arc::new(AtomicUsize::new(0));
        let mut writes = Vec::with_capacity(WRITES_PER_ROUND);
        for number in 0..WRITES_PER_ROUND {
            let write = if number % 2 == 0 {
                Write::Registration(format!("ada.{round}.{number}@example.com"))
            } else {
                Write::Content(uuid::Uuid::now_v7().to_string())
            };
            sent.insert(write.clone());
            let (client, token, done) = (client.clone(), token.clone(), Arc::clone(&done));
            let base = format!("http://{}", server.address);
            writes.push(tokio::spawn(async move {
                let status = write.send(&client, &base, &token).await;
                if status == Some(StatusCode::CREATED) {
                    done.fetch_add(1, Ordering::Relaxed);
                    return Some(write);
                }
                None
            }));
        }
        let begin = Instant::now();
        while done.load(Ordering::Relaxed) < ACKNOWLEDGED_BEFORE_KILL {
            assert!(begin.elapsed() < START_TIMEOUT, "too few answers in time");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        if round % 2 == 0 {
            server.kill();
        } else {
            let pid = rustix::process::Pid::from_raw(postmaster(data)).expect("a process id");
            rustix::process::kill_process(pid, rustix::process::Signal::KILL).expect("the database is killed");
        }
        for write in writes {
            acknowledged.extend(write.await.expect("a write does not panic"));
        }
        if round % 2 == 0 {
            server = Server::start(data);
        }
        server.ready(&client).await;
    }

    let token = sign_in(&client, &server).await;
    let log = events(&client, &server, &token).await;
    check(&log, &acknowledged, &sent);

    let (code, text) = run(data, &["verify", "--json"]);
    assert_eq!(code, 0, "{text}");
    let (code, text) = run(data, &["rebuild", "--all", "--verify", "--json"]);
    assert_eq!(code, 0, "{text}");
    server.kill();
}

/// What a registration commits, all of it or nothing.
const REGISTRATION: [&str; 4] = [
    "user.registered",
    "auth.password_set",
    "organization.founded",
    "organization.member_added",
];

fn is_account(kinds: &[&str]) -> bool {
    REGISTRATION[..2].iter().all(|part| kinds.contains(part))
}

/// Exactly once, none half done, nothing that nobody sent.
fn check(log: &[Value], acknowledged: &BTreeSet<Write>, sent: &BTreeSet<Write>) {
    let mut found: BTreeMap<Write, usize> = BTreeMap::new();
    let mut by_command: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (index, event) in log.iter().enumerate() {
        assert_eq!(
            event["position"].as_u64(),
            Some(index as u64 + 1),
            "positions are dense"
        );
        let kind = event["event_type"].as_str().expect("a type");
        let command = event["command_id"]
            .as_str()
            .or_else(|| event["metadata"]["command_id"].as_str());
        by_command.entry(command.expect("a command id")).or_default().push(kind);
        let write = match kind {
            "user.registered" => {
                Write::Registration(event["payload"]["email"].as_str().expect("an address").to_owned())
            }
            "datatype.created" => {
                let stream = event["stream"].as_str().expect("a stream");
                Write::Content(stream.rsplit('/').next().expect("an id").to_owned())
            }
            _ => continue,
        };
        *found.entry(write).or_default() += 1;
    }
    for (write, count) in &found {
        assert_eq!(*count, 1, "{write:?} is in the log {count} times");
        assert!(
            sent.contains(write) || *write == Write::Registration(ADMIN_EMAIL.to_owned()),
            "{write:?} is in the log, but nobody sent it"
        );
    }
    for write in acknowledged {
        assert!(
            found.contains_key(write),
            "{write:?} was acknowledged and is not in the log"
        );
    }
    // The administrator is made without an organization; everybody else registers with one.
    let without = by_command
        .values()
        .filter(|kinds| is_account(kinds) && kinds.len() == 2)
        .count();
    assert_eq!(without, 1, "a registration lacks its organization");
    for (command, kinds) in &by_command {
        let parts = REGISTRATION.iter().filter(|part| kinds.contains(*part)).count();
        assert!(
            parts == 0 || parts == REGISTRATION.len() || is_account(kinds) && kinds.len() == 2,
            "registration {command} is half done: {kinds:?}"
        );
    }
    assert!(
        acknowledged.len() >= ACKNOWLEDGED_BEFORE_KILL,
        "the test has seen work under way"
    );
}
