//! A real streaming standby: everything that reads works on it, everything that writes says why it does not.

#![allow(clippy::print_stderr, reason = "a test that cannot be run here must say so and why")]

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::process::Child;
use std::time::{Duration, Instant};

use annals_domain::{Caller, ContentEvent, ContentId, ContentStatus, Place, Realm};
use annals_eventstore::database::{Database, DatabaseError, DatabaseOptions};
use annals_eventstore::embedded::{Account, BinariesSearch, Cluster, ClusterOptions, Installation};
use annals_eventstore::{
    Append, AppendError, EventStore, MasterKey, Position, StoreError, StreamAppend, StreamId, Vault, WriterOptions,
};
use annals_projections::{ProjectionState, engine::status, read_models};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;
use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions, Connection};
use tempfile::TempDir;
use uuid::Uuid;

use super::cli::Annals;

const PATIENCE: Duration = Duration::from_secs(60);

/// A server that follows another one. Stopped when dropped.
struct Standby {
    server: Child,
    connect: PgConnectOptions,
    _folder: TempDir,
}

impl Standby {
    /// Copies the running cluster and follows it. None where PostgreSQL came without `pg_basebackup`.
    async fn of(primary: &Cluster) -> Option<Self> {
        let binaries = BinariesSearch::from_environment().find().expect("PostgreSQL");
        let copy = binaries.program("pg_basebackup");
        if !copy.exists() {
            eprintln!("SKIPPED: there is no {}, so no standby can be made", copy.display());
            return None;
        }
        let folder = annals_tests::reachable_folder();
        let data_dir = folder.path().canonicalize().expect("a folder").join("data");
        fs::create_dir(&data_dir).expect("a folder");
        fs::set_permissions(&data_dir, Permissions::from_mode(0o711)).expect("its permissions");
        let account = Account::for_folder(&data_dir.join("postgres")).expect("an account");
        account.give(&data_dir).expect("the folder is given away");
        let connect = primary.connect_options();
        let copied = account
            .command(&copy)
            .args([
                "--write-recovery-conf",
                "--wal-method=stream",
                "--checkpoint=fast",
                "--no-sync",
            ])
            .arg("--pgdata")
            .arg(data_dir.join("postgres"))
            .arg("--host")
            .arg(connect.get_socket().expect("the embedded cluster has a socket"))
            .args(["--port", &connect.get_port().to_string()])
            .args(["--username", connect.get_username()])
            .output()
            .expect("pg_basebackup starts");
        assert!(
            copied.status.success(),
            "pg_basebackup: {}",
            String::from_utf8_lossy(&copied.stderr)
        );
        let installation =
            Installation::prepare(&data_dir, binaries, &ClusterOptions::default()).expect("the copy is a cluster");
        let server = installation
            .server(&[])
            .and_then(|mut command| {
                command
                    .spawn()
                    .map_err(|source| annals_eventstore::embedded::ClusterError::Spawn {
                        program: "postgres".into(),
                        source,
                    })
            })
            .expect("the standby starts");
        let standby = Self {
            server,
            connect: installation.connect_options("annals"),
            _folder: folder,
        };
        let deadline = Instant::now() + PATIENCE;
        loop {
            match standby.connect.connect().await {
                Ok(connection) => {
                    connection.close().await.expect("the end");
                    return Some(standby);
                }
                Err(error) => assert!(Instant::now() < deadline, "the standby does not answer: {error}"),
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    fn url(&self) -> String {
        let socket = self
            .connect
            .get_socket()
            .expect("a socket")
            .to_string_lossy()
            .into_owned();
        format!(
            "postgres://{}@{}:{}/annals",
            self.connect.get_username(),
            utf8_percent_encode(&socket, NON_ALPHANUMERIC),
            self.connect.get_port()
        )
    }
}

impl Drop for Standby {
    fn drop(&mut self) {
        let pid = i32::try_from(self.server.id()).ok().and_then(Pid::from_raw);
        if let Some(pid) = pid {
            let _ = kill_process(pid, Signal::INT);
        }
        let _ = self.server.wait();
    }
}

fn created() -> (StreamId, Append) {
    let (id, command_id) = (ContentId::new(Uuid::now_v7()), Uuid::now_v7());
    let at = annals_domain::Timestamp::parse_rfc3339("2026-02-15T12:00:00Z").expect("a moment");
    let stream = StreamId::new("content", id);
    let event = ContentEvent::Created {
        content_id: id,
        realm: Realm::Site,
        datatype_id: None,
        route_id: None,
        parent_id: None,
        place: Place::Last,
        status: ContentStatus::Draft,
        author_id: None,
        date_created: None,
        date_modified: None,
        at,
    };
    let append = Append {
        command_id,
        actor: annals_domain::Actor::System("test".to_owned()),
        correlation_id: command_id,
        causation_id: command_id,
        idempotency: None,
        streams: vec![StreamAppend {
            stream,
            expected: 0,
            events: vec![event.into()],
        }],
        conditions: Vec::new(),
    };
    (stream, append)
}

async fn until_at(store: &EventStore, position: Position) {
    let mut head = store.head_changes();
    tokio::time::timeout(PATIENCE, head.wait_for(|head| *head >= position))
        .await
        .expect("the standby follows")
        .expect("the store is open");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_standby_is_read_and_followed_and_not_written() {
    let annals = Annals::new();
    let admin = annals.create_admin("keeper@example.com").good().json();
    let server = annals.serve();
    let primary = Cluster::open(&annals.data_dir(), ClusterOptions::default())
        .await
        .expect("the server's cluster is joined");
    let Some(standby) = Standby::of(&primary).await else {
        return;
    };

    let key = || MasterKey::load_or_create(&annals.data_dir().join("keys/master.key")).expect("the key");
    let database = Database::embedded(primary, DatabaseOptions::default())
        .await
        .expect("the primary");
    assert!(!database.is_standby());
    let vault = Vault::open(&database, &key()).await.expect("the vault");
    let writer = EventStore::start(database.clone(), vault, WriterOptions::default());

    // Who means to write is turned away; who reads is not.
    let refused = Database::connect_with(standby.connect.clone(), DatabaseOptions::default()).await;
    let refused = refused.map(drop).expect_err("a standby");
    assert!(matches!(refused, DatabaseError::Standby(_)));
    assert!(
        refused.to_string().starts_with("this database is a standby"),
        "{refused}"
    );
    let options = DatabaseOptions {
        accept_standby: true,
        ..DatabaseOptions::default()
    };
    let copy = Database::connect_with(standby.connect.clone(), options)
        .await
        .expect("the standby");
    assert!(copy.is_standby());
    assert!(matches!(copy.migrate().await, Err(DatabaseError::Standby(_))));
    let vault = Vault::open(&copy, &key()).await.expect("the vault of the standby");
    let reader = EventStore::start(copy.clone(), vault, WriterOptions::default());

    let mut streams = Vec::new();
    for _ in 0..20 {
        let (stream, append) = created();
        let position = writer
            .append(append)
            .await
            .expect("the primary is written")
            .last_position;
        streams.push((stream, position));
    }
    let (stream, last) = *streams.last().expect("twenty of them");
    until_at(&reader, last).await;
    assert_eq!(
        reader.head().await.expect("a head"),
        writer.head().await.expect("a head")
    );
    let all = reader.read_after(Position::START, 1000).await.expect("the log");
    assert_eq!(all, writer.read_after(Position::START, 1000).await.expect("the log"));
    assert_eq!(all.len() as u64, last.0);
    let of_stream = reader.read_stream(&stream, 0, 10).await.expect("the stream");
    assert_eq!(of_stream.len(), 1);

    // Nobody notifies a standby; it looks by itself.
    let (_, append) = created();
    let next = writer
        .append(append)
        .await
        .expect("the primary is written")
        .last_position;
    until_at(&reader, next).await;
    let tail = reader.read_after(last, 10).await.expect("the tail");
    assert_eq!(tail.len(), 1);

    let (_, append) = created();
    let refused = reader.append(append).await.expect_err("a standby");
    assert!(
        matches!(&refused, AppendError::Unavailable(error) if matches!(**error, StoreError::Standby)),
        "{refused:?}"
    );
    let head = reader.verify(Position(1), |_| {}).await.expect("the log is sound").head;
    assert_eq!(head.position, next);
    let deadline = Instant::now() + PATIENCE;
    loop {
        let caller = Caller::system("test", Uuid::nil());
        let statuses = status(&caller, &reader, &read_models()).await.expect("the status");
        if statuses
            .iter()
            .all(|status| status.state == ProjectionState::Following && status.position == next)
        {
            break;
        }
        assert!(Instant::now() < deadline, "{statuses:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    writer.close().await;
    reader.close().await;
    copy.close().await.expect("the pool is closed");
    database.close().await.expect("the cluster is left");

    commands_on(&annals, &standby, &admin);
    drop(standby);
    drop(server);
}

/// What the command line does on the standby: the same folder of keys, another address.
fn commands_on(annals: &Annals, standby: &Standby, admin: &serde_json::Value) {
    let url = standby.url();
    let run = |arguments: &[&str]| {
        let child = annals.command(arguments).env("DATABASE_URL", &url).spawn();
        Annals::ended(child.expect("the program starts"))
    };
    let here = |arguments: &[&str]| annals.run(arguments).good();
    let status = run(&["status", "--json"]).good().json();
    assert_eq!(status["head"], here(&["status", "--json"]).json()["head"]);
    assert_eq!(run(&["verify"]).good().stdout, here(&["verify"]).stdout);
    let (there, written) = (
        run(&["export", "--output", "-"]).good(),
        here(&["export", "--output", "-"]),
    );
    assert_eq!(there.stdout, written.stdout);
    let stream = format!("user/{}", admin["user_id"].as_str().expect("an id"));
    let replay = ["replay", "--stream", stream.as_str(), "--personal", "--json"];
    let replayed = run(&replay).good().json();
    assert_eq!(replayed["state"], here(&replay).json()["state"]);
    assert_eq!(replayed["events"][0]["payload"]["email"], json!("keeper@example.com"));

    let doctor = run(&["doctor", "--json"]);
    assert_eq!(doctor.code, 1, "{}", doctor.stderr);
    let doctor = doctor.json();
    let codes: Vec<&str> = doctor["findings"]
        .as_array()
        .expect("a list")
        .iter()
        .filter_map(|finding| finding["code"].as_str())
        .collect();
    assert_eq!(codes, ["standby"], "{doctor}");

    for writing in [
        &["rebuild", "users"][..],
        &["migrate"],
        &["serve"],
        &["admin", "create", "--email", "other@example.com", "--password-stdin"],
    ] {
        let refused = run(writing);
        assert_eq!(refused.code, 3, "{writing:?}: {}", refused.stdout);
        assert!(
            refused.stderr.contains("this database is a standby"),
            "{writing:?}: {}",
            refused.stderr
        );
    }
}
