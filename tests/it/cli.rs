//! The command line, alone and beside a running server, on embedded databases of its own.

use std::io::{BufRead, BufReader, Write as _};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use annals_eventstore::embedded::{Cluster, ClusterOptions};
use annals_tests::TestDatabase;
use reqwest::StatusCode;
use serde_json::{Value, json};
use sqlx::{ConnectOptions, Connection, Executor};
use tempfile::TempDir;

const EMAIL: &str = "keeper@example.com";
const PASSWORD: &str = "keeper-of-records";

/// A folder with data of its own, and the program to use it.
pub(super) struct Annals {
    pub(super) folder: TempDir,
    /// A server of its own; absent: the embedded one.
    pub(super) database_url: Option<String>,
}

/// How a command ended.
pub(super) struct Ended {
    pub(super) code: i32,
    pub(super) stdout: String,
    pub(super) stderr: String,
}

impl Ended {
    #[track_caller]
    pub(super) fn good(self) -> Self {
        assert_eq!(self.code, 0, "stdout: {}\nstderr: {}", self.stdout, self.stderr);
        self
    }

    #[track_caller]
    pub(super) fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {}\n{}", self.stdout, self.stderr))
    }
}

impl Annals {
    pub(super) fn new() -> Self {
        Self {
            folder: annals_tests::reachable_folder(),
            database_url: None,
        }
    }

    pub(super) fn data_dir(&self) -> PathBuf {
        self.folder.path().join("annals-data")
    }

    pub(super) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_annals-under-test"));
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("ANNALS_") || name == "DATABASE_URL" {
                command.env_remove(name);
            }
        }
        command.envs(self.database_url.iter().map(|url| ("DATABASE_URL", url)));
        command
            .args(arguments)
            .current_dir(self.folder.path())
            .env("ANNALS_PASSWORD__MEMORY_KIB", "64")
            .env("ANNALS_PASSWORD__ITERATIONS", "1")
            .env("ANNALS_LISTEN", "127.0.0.1:0")
            .env("ANNALS_LOG", "warn")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    pub(super) fn run(&self, arguments: &[&str]) -> Ended {
        Self::ended(self.command(arguments).spawn().expect("the program starts"))
    }

    fn run_with_input(&self, arguments: &[&str], input: &str) -> Ended {
        let mut child = self
            .command(arguments)
            .stdin(Stdio::piped())
            .spawn()
            .expect("the program starts");
        child
            .stdin
            .take()
            .expect("stdin is piped")
            .write_all(input.as_bytes())
            .expect("the program reads");
        Self::ended(child)
    }

    pub(super) fn ended(child: Child) -> Ended {
        let output = child.wait_with_output().expect("the program ends");
        Ended {
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8(output.stdout).expect("text"),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    pub(super) fn create_admin(&self, email: &str) -> Ended {
        let arguments = ["admin", "create", "--email", email, "--password-stdin", "--json"];
        self.run_with_input(&arguments, &format!("{PASSWORD}\n"))
    }

    pub(super) fn serve(&self) -> Server {
        let mut child = self
            .command(&["serve"])
            .stderr(Stdio::inherit())
            .spawn()
            .expect("the server starts");
        let mut lines = BufReader::new(child.stdout.take().expect("stdout is piped")).lines();
        let address = lines
            .by_ref()
            .map_while(Result::ok)
            .find_map(|line| {
                let (_, rest) = line.split_once("http://127.0.0.1:")?;
                let port: String = rest.chars().take_while(char::is_ascii_digit).collect();
                Some(format!("http://127.0.0.1:{port}"))
            })
            .expect("the server says where it listens");
        // Whatever else it says must not fill the pipe.
        std::thread::spawn(move || lines.for_each(drop));
        Server { child, address }
    }
}

/// A running server. Stopped as by a terminal when dropped.
pub(super) struct Server {
    pub(super) child: Child,
    pub(super) address: String,
}

impl Drop for Server {
    fn drop(&mut self) {
        let pid = i32::try_from(self.child.id())
            .ok()
            .and_then(rustix::process::Pid::from_raw)
            .expect("a process id");
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        let _ = self.child.wait();
    }
}

/// Everything that reads agrees with the log of the folder, and with each other.
fn everything_agrees(annals: &Annals) {
    let status = annals.run(&["status", "--json"]).good().json();
    let position = status["head"]["position"].as_u64().expect("a position");
    assert!(position > 0);
    assert!(
        !status["projections"].as_array().expect("a list").is_empty(),
        "{status}"
    );

    assert_eq!(status["long_streams"], json!([]));

    let verified = annals.run(&["verify", "--json"]).good().json();
    assert_eq!(verified["ok"], json!(true));
    assert_eq!(
        (&verified["snapshots"], &verified["snapshots_unused"]),
        (&json!(0), &json!(0))
    );
    assert_eq!(verified["position"], json!(position));
    assert_eq!(verified["entry_hash"], status["head"]["entry_hash"]);

    let exported = annals.run(&["export", "--output", "-"]).good();
    assert_eq!(exported.stdout.lines().count() as u64, position);
    for (line, expected) in exported.stdout.lines().zip(1_u64..) {
        let line: Value = serde_json::from_str(line).expect("each line is JSON");
        assert_eq!(line["position"], json!(expected));
    }
    assert!(!exported.stdout.contains(EMAIL), "personal values stay sealed");
    annals.run(&["export", "--output", "log.ndjson"]).good();
    let file = std::fs::read_to_string(annals.folder.path().join("log.ndjson")).expect("the export");
    assert_eq!(file, exported.stdout);

    let rebuilt = annals.run(&["rebuild", "--all", "--verify", "--json"]).good();
    let reports: Vec<Value> = rebuilt
        .stdout
        .lines()
        .map(|line| serde_json::from_str(line).expect("each line is JSON"))
        .collect();
    assert_eq!(reports.len(), status["projections"].as_array().expect("a list").len());
    for report in reports {
        assert_eq!(report["equal"], json!(true), "{report}");
    }
}

#[test]
fn alone_the_commands_start_the_database_and_stop_it_again() {
    let annals = Annals::new();
    annals.run(&["migrate"]).good();
    let created = annals.create_admin(EMAIL).good().json();
    assert_eq!(created["email"], json!(EMAIL));
    assert_eq!(created["role"], json!("administrator"));

    let again = annals.create_admin("KEEPER@example.com");
    assert_eq!(again.code, 1, "{}", again.stderr);
    let again: Value = serde_json::from_str(again.stderr.lines().last().expect("a reason")).expect("JSON");
    assert!(
        again["error"]["message"]
            .as_str()
            .expect("a message")
            .contains("address"),
        "{again}"
    );

    let unheard_of = annals.run(&["rebuild", "--all", "--verify", "--json"]).good();
    assert!(
        unheard_of.stdout.contains(r#""equal":null"#),
        "no server has made rows yet: {}",
        unheard_of.stdout
    );
    everything_agrees(&annals);

    let id = created["user_id"].as_str().expect("an id");
    let stream = format!("user/{id}");
    let replayed = annals.run(&["replay", "--stream", &stream, "--json"]).good().json();
    assert_eq!(replayed["version"], json!(1));
    assert_eq!(replayed["events"][0]["type"], json!("user.registered"));
    assert_eq!(replayed["events"][0]["payload"]["email"], json!("[personal]"));
    assert_eq!(replayed["state"]["role"], json!("administrator"));
    let shown = annals
        .run(&["replay", "--stream", &stream, "--json", "--personal"])
        .good()
        .json();
    assert_eq!(shown["state"]["email"], json!(EMAIL));

    let before = annals.run(&["replay", "--stream", &stream, "--until", "2001-01-01T00:00:00Z"]);
    assert_eq!(before.code, 1, "nothing had happened by then");
    assert!(
        annals
            .run(&["replay", "--stream", &stream])
            .good()
            .stdout
            .contains("user.registered")
    );

    let pid_file = annals.data_dir().join("postgres/postmaster.pid");
    assert!(
        !pid_file.exists(),
        "the database was stopped with the command that started it"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn beside_a_running_server_the_commands_join_its_embedded_database() {
    beside_a_running_server(Annals::new()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn beside_a_running_server_the_commands_use_the_database_of_database_url() {
    let database = TestDatabase::unmigrated().await;
    let annals = Annals {
        database_url: Some(database.url()),
        ..Annals::new()
    };
    let unused = annals.run(&["verify"]);
    assert_eq!(unused.code, 1);
    assert!(unused.stderr.contains("has no log"), "{}", unused.stderr);
    beside_a_running_server(annals).await;
}

async fn beside_a_running_server(annals: Annals) {
    let server = annals.serve();
    let client = annals_tests::client()
        .timeout(Duration::from_secs(30))
        .build()
        .expect("a client");
    let registered = client
        .post(format!("{}/api/v1/auth/register", server.address))
        .json(&json!({ "email": "ada@example.com", "password": "engine-1843", "name": "Ada" }))
        .send()
        .await
        .expect("an answer");
    assert_eq!(registered.status(), StatusCode::CREATED);

    annals.create_admin(EMAIL).good();
    everything_agrees(&annals);

    let signed_in = client
        .post(format!("{}/api/v1/auth/login", server.address))
        .json(&json!({ "email": EMAIL, "password": PASSWORD }))
        .send()
        .await
        .expect("an answer");
    assert_eq!(
        signed_in.status(),
        StatusCode::OK,
        "what a command wrote is there for the server"
    );
    let ready = client
        .get(format!("{}/health/ready", server.address))
        .send()
        .await
        .expect("an answer");
    assert_eq!(ready.status(), StatusCode::OK, "the database outlived the commands");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flipped_byte_is_found_and_its_position_named() {
    let annals = Annals::new();
    annals.create_admin(EMAIL).good();
    let cluster = Cluster::open(&annals.data_dir(), ClusterOptions::default())
        .await
        .expect("the cluster starts");
    let mut owner = cluster
        .connect_options()
        .connect()
        .await
        .expect("the superuser gets in");
    owner
        .execute("set session_replication_role = replica")
        .await
        .expect("a superuser may switch triggers off");
    let changed = owner
        .execute("update log.events set payload = replace(payload::text, '\"administrator\"', '\"administratos\"')::json where event_type = 'user.registered'")
        .await
        .expect("the row is changed");
    assert_eq!(changed.rows_affected(), 1);
    let position: i64 = sqlx::query_scalar("select position from log.events where event_type = 'user.registered'")
        .fetch_one(&mut owner)
        .await
        .expect("the position");
    owner.close().await.expect("the connection closes");

    let verified = annals.run(&["verify"]);
    assert_eq!(verified.code, 1, "{}\n{}", verified.stdout, verified.stderr);
    assert!(
        verified.stdout.contains(&format!("position {position}")),
        "{}",
        verified.stdout
    );
    let verified = annals.run(&["verify", "--json"]);
    assert_eq!(verified.code, 1);
    assert_eq!(verified.json()["ok"], json!(false));
    assert_eq!(verified.json()["fault"]["position"], json!(position));
    cluster.close().await.expect("the cluster stops");
}

#[test]
fn a_folder_without_data_is_not_filled_by_reading_it() {
    let annals = Annals::new();
    for arguments in [
        &["verify"][..],
        &["status"],
        &["export", "--output", "-"],
        &["rebuild", "--all"],
    ] {
        let ended = annals.run(arguments);
        assert_eq!(ended.code, 1, "{arguments:?}: {}", ended.stderr);
        assert!(ended.stderr.contains("holds no database"), "{}", ended.stderr);
        assert!(ended.stdout.is_empty());
    }
    assert!(!annals.data_dir().exists());
}

#[test]
fn wrong_arguments_and_settings_exit_with_2() {
    let annals = Annals::new();
    assert_eq!(annals.run(&["rebuild"]).code, 2);
    assert_eq!(annals.run(&["rebuild", "--all", "users"]).code, 2);
    assert_eq!(annals.run(&["rebuild", "unheard_of"]).code, 2);
    assert_eq!(annals.run(&["replay", "--stream", "nobody/1"]).code, 2);
    assert_eq!(
        annals
            .run(&["admin", "create", "--email", EMAIL, "--password", PASSWORD])
            .code,
        2
    );
    assert_eq!(annals.run(&["status", "--config", "absent.toml"]).code, 2);
    std::fs::write(annals.folder.path().join("annals.toml"), "lisen = 1\n").expect("our own folder");
    let misspelt = annals.run(&["status"]);
    assert_eq!(misspelt.code, 2);
    assert!(misspelt.stderr.contains("lisen"), "{}", misspelt.stderr);
}

#[test]
fn a_reader_that_goes_away_is_not_a_panic() {
    let annals = Annals::new();
    let mut child = annals.command(&["openapi"]).spawn().expect("the program starts");
    drop(child.stdout.take());
    let ended = Annals::ended(child);
    assert_eq!(ended.code, 141, "{}", ended.stderr);
    assert!(ended.stderr.is_empty(), "{}", ended.stderr);
}

#[test]
fn openapi_needs_neither_settings_nor_database() {
    let annals = Annals::new();
    let document = annals.run(&["openapi", "--config", "absent.toml"]).good().json();
    assert!(document["paths"]["/api/v1/auth/login"]["post"].is_object());
}
