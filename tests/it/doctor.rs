//! `annals doctor`: a sound database has nothing to tell, and everything that would break a guarantee is told.

use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::time::Duration;

use annals_eventstore::database::{Database, DatabaseError, DatabaseOptions};
use annals_eventstore::doctor::{Finding, Limits, Severity, TRIGGERS, examine, examine_settings, examine_with};
use annals_eventstore::embedded::{Cluster, ClusterOptions};
use annals_tests::TestDatabase;
use serde_json::json;
use sqlx::postgres::PgSslMode;
use sqlx::{ConnectOptions, Connection, Executor, PgConnection};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixStream};

use super::cli::Annals;

/// What the server of the tests does without, for nobody will miss its data.
const OF_THE_TEST_SERVER: [&str; 3] = ["data_checksums_off", "fsync_off", "full_page_writes_off"];

fn told(findings: &[Finding]) -> Vec<(&str, &str)> {
    findings
        .iter()
        .filter(|finding| !OF_THE_TEST_SERVER.contains(&finding.code))
        .map(|finding| (finding.code, finding.what.as_str()))
        .collect()
}

async fn change(test: &TestDatabase, statements: &[&str]) {
    let mut connection = test.tamperer().await;
    for statement in statements {
        let statement = statement.replace("NAME", test.name());
        if let Err(error) = connection.execute(&*statement).await {
            panic!("{statement}: {error}");
        }
    }
    connection.close().await.unwrap();
}

#[tokio::test]
async fn a_sound_database_has_nothing_to_tell() {
    let test = TestDatabase::new().await;
    let findings = examine(&test.database()).await.unwrap();
    assert_eq!(told(&findings), []);
    assert_eq!(told(&examine_settings(&test.database()).await.unwrap()), []);
}

#[tokio::test]
async fn every_trigger_of_the_log_is_known_to_the_doctor() {
    let test = TestDatabase::new().await;
    let mut there: Vec<(String, String)> = sqlx::query_as(
        "select c.relname::text, t.tgname::text from pg_trigger t join pg_class c on c.oid = t.tgrelid
         where c.relnamespace = 'log'::regnamespace and not t.tgisinternal",
    )
    .fetch_all(&mut test.superuser().await)
    .await
    .unwrap();
    let mut known: Vec<(String, String)> = TRIGGERS
        .iter()
        .map(|(table, name)| ((*table).to_owned(), (*name).to_owned()))
        .collect();
    there.sort();
    known.sort();
    assert_eq!(there, known);
}

#[tokio::test]
async fn settings_are_told_with_the_place_they_are_made_at() {
    let test = TestDatabase::new().await;
    let name = test.name().to_owned();
    change(
        &test,
        &[
            "alter database NAME set synchronous_commit = off",
            "alter role annals_app in database NAME set synchronous_commit = off",
            "alter database NAME set default_transaction_isolation = 'serializable'",
            "alter database NAME set default_transaction_read_only = on",
            "alter database NAME set session_replication_role = replica",
            "alter database NAME connection limit 20",
        ],
    )
    .await;
    let in_database = |what: &str| format!("{what} for database {name}");
    let expected = [
        (
            "isolation_not_read_committed",
            in_database("default_transaction_isolation is serializable"),
        ),
        (
            "max_connections_low",
            format!("20 connections may be made to database {name}; the pool and what is beside it take 21"),
        ),
        (
            "read_only_by_default",
            in_database("default_transaction_read_only is on"),
        ),
        (
            "session_replication_role_replica",
            in_database("session_replication_role is replica"),
        ),
        ("synchronous_commit_off", in_database("synchronous_commit is off")),
        (
            "synchronous_commit_off",
            format!("synchronous_commit is off for role annals_app in database {name}"),
        ),
    ];
    let expected: Vec<(&str, &str)> = expected.iter().map(|(code, what)| (*code, what.as_str())).collect();
    let database = test.database().with_options(DatabaseOptions::default());
    let findings = examine(&database).await.unwrap();
    assert_eq!(told(&findings), expected);
    assert!(
        findings
            .iter()
            .all(|finding| finding.severity == Severity::Fault || OF_THE_TEST_SERVER.contains(&finding.code))
    );
    // A server sees the same at its start, through sessions that override half of it.
    assert_eq!(told(&examine_settings(&database).await.unwrap()), expected);
}

#[tokio::test]
async fn rights_that_are_missing_or_too_many_are_told() {
    let test = TestDatabase::new().await;
    change(
        &test,
        &[
            "revoke select on log.streams from annals_app",
            "revoke delete on log.checkpoints from annals_app",
            "revoke execute on all functions in schema log from annals_app",
            "revoke insert on vault.subject_keys from annals_app",
            "grant insert on log.events to annals_app",
            "grant update (actor) on log.events to public",
            "grant truncate on log.claims to pg_monitor",
        ],
    )
    .await;
    let findings = examine(&test.database()).await.unwrap();
    assert_eq!(
        told(&findings),
        [
            ("right_excessive", "annals_app may insert on log.events"),
            ("right_excessive", "everybody (PUBLIC) may update on log.events"),
            ("right_excessive", "pg_monitor may truncate on log.claims"),
            ("right_missing", "annals_app may not delete on log.checkpoints"),
            ("right_missing", "annals_app may not execute log.append"),
            ("right_missing", "annals_app may not execute log.append_single"),
            ("right_missing", "annals_app may not execute log.position_at"),
            ("right_missing", "annals_app may not execute log.register_schemas"),
            ("right_missing", "annals_app may not insert on vault.subject_keys"),
            ("right_missing", "annals_app may not select on log.streams"),
        ]
    );
}

#[tokio::test]
async fn triggers_and_functions_that_were_changed_are_told() {
    let test = TestDatabase::new().await;
    change(
        &test,
        &[
            "alter table log.events disable trigger events_only_grow",
            "alter table log.streams enable replica trigger streams_stay",
            "drop trigger claims_stay on log.claims",
            "do $$ begin execute format('alter function %s security invoker',
                (select oid::regprocedure from pg_proc where proname = 'append' and pronamespace = 'log'::regnamespace)); end $$",
            "do $$ begin execute format('alter function %s reset search_path',
                (select oid::regprocedure from pg_proc where proname = 'append' and pronamespace = 'log'::regnamespace)); end $$",
            "create or replace function log.refuse_write() returns trigger language plpgsql
                set search_path = pg_catalog, pg_temp as $$ begin return null; end $$",
            "alter function log.refuse_change() owner to annals_app",
        ],
    )
    .await;
    let expected = [
        (
            "function_changed",
            "log.append does not run as its owner (security definer)",
        ),
        (
            "function_changed",
            "log.append runs with the search_path of whoever calls it",
        ),
        (
            "function_changed",
            "log.refuse_change belongs to annals_app, who does not own log.events",
        ),
        (
            "function_changed",
            "the text of log.refuse_write is not that of a migration",
        ),
        (
            "trigger_disabled",
            "trigger events_only_grow on log.events does not fire",
        ),
        ("trigger_disabled", "trigger streams_stay on log.streams does not fire"),
        ("trigger_missing", "trigger claims_stay on log.claims is not there"),
    ];
    assert_eq!(told(&examine(&test.database()).await.unwrap()), expected);
    assert_eq!(told(&examine_settings(&test.database()).await.unwrap()), expected);
}

#[tokio::test]
async fn migrations_and_readers_that_do_not_fit_are_told() {
    let test = TestDatabase::new().await;
    change(
        &test,
        &[
            "insert into log._sqlx_migrations values (999999, 'newer', now(), true, '', 0)",
            "update view._sqlx_migrations set checksum = '\\x00' where version = 1",
            "delete from view._sqlx_migrations where version = 2",
            "insert into log.events
                select 1, 1, now(), gen_random_uuid(), gen_random_uuid(), gen_random_uuid(), gen_random_uuid(), 'user',
                    gen_random_uuid()::text, 'user.registered', '1', 'system:test', '{}', '{}', sha256('leaf'), sha256('entry')",
            "insert into log.checkpoints (projection, version, position, entry_hash) values
                ('contents', 1, 1, sha256('entry')), ('routes', 1, 1, sha256('another')), ('users', 1, 9, sha256('later'))",
            "insert into log.checkpoints (projection, version, entry_hash, owner, lease_until, heartbeat_at)
                values ('fields', 1, sha256(''), 'process 7', now() - interval '1 hour', '2026-02-15T12:00:00Z')",
            "alter table log.claims set (autovacuum_enabled = false)",
        ],
    )
    .await;
    let findings = examine(&test.database()).await.unwrap();
    assert_eq!(
        told(&findings),
        [
            ("checkpoint_beyond_head", "read model users: log diverged at position 9"),
            ("log_diverged", "read model routes: log diverged at position 1"),
            ("migration_changed", "migration 1 of schema view is another one"),
            ("migration_missing", "migration 2 of schema view has not been applied"),
            (
                "migration_unknown",
                "this program does not know migration 999999 of schema log"
            ),
            ("autovacuum_off_for_table", "autovacuum is switched off for log.claims"),
            (
                "lease_holder_gone",
                "read model fields was led by process 7, which has given no sign of life since 2026-02-15T12:00:00Z"
            ),
        ]
    );
}

async fn pid(connection: &mut PgConnection) -> i32 {
    sqlx::query_scalar("select pg_backend_pid()")
        .fetch_one(connection)
        .await
        .unwrap()
}

#[tokio::test]
async fn sessions_that_hold_others_back_are_told() {
    let test = TestDatabase::new().await;
    let mut idle = test.superuser().await;
    idle.execute("begin; select 1").await.unwrap();
    let mut holder = test.superuser().await;
    holder.execute("select pg_advisory_lock(1634627169, 1)").await.unwrap();
    let (idle_pid, holder_pid) = (pid(&mut idle).await, pid(&mut holder).await);
    // Others share the server; what they do is not looked at.
    let of = |findings: &[Finding], pid: i32| -> Vec<&'static str> {
        let start = format!("session {pid} ");
        findings
            .iter()
            .filter(|finding| finding.what.starts_with(&start))
            .map(|finding| finding.code)
            .collect()
    };
    let database = test.database();
    let strict = Limits {
        idle_in_transaction: Duration::ZERO,
        append_lock: Duration::ZERO,
        ..Limits::default()
    };
    let findings = examine_with(&database, &strict).await.unwrap();
    assert_eq!(of(&findings, idle_pid), ["idle_in_transaction"]);
    assert_eq!(of(&findings, holder_pid), ["append_lock_held"]);
    let strict = Limits {
        long_transaction: Duration::ZERO,
        ..Limits::default()
    };
    let findings = examine_with(&database, &strict).await.unwrap();
    assert_eq!(of(&findings, idle_pid), ["long_transaction"]);
    assert_eq!(told(&examine(&database).await.unwrap()), []);
    idle.execute("commit").await.unwrap();
    let findings = examine_with(&database, &strict).await.unwrap();
    assert_eq!(of(&findings, idle_pid), [] as [&str; 0]);
}

#[tokio::test]
async fn what_the_server_runs_out_of_is_told() {
    let test = TestDatabase::new().await;
    let mut connection = test.superuser().await;
    let slot = format!("slot_{}", test.name());
    connection
        .execute(&*format!("select pg_create_physical_replication_slot('{slot}', true)"))
        .await
        .unwrap();
    let strict = Limits {
        slot_bytes: 0,
        transaction_age: 0,
        free_bytes: u64::MAX,
        ..Limits::default()
    };
    let findings = examine_with(&test.database(), &strict).await;
    connection
        .execute(&*format!("select pg_drop_replication_slot('{slot}')"))
        .await
        .unwrap();
    let findings = findings.unwrap();
    let has = |code: &str, start: &str| {
        findings
            .iter()
            .any(|finding| finding.code == code && finding.what.starts_with(start))
    };
    assert!(
        has(
            "replication_slot_holds_wal",
            &format!("replication slot {slot}, which is not in use, holds back ")
        ),
        "{findings:#?}"
    );
    let of_database = format!("the oldest row of database {} that is not frozen is ", test.name());
    assert!(has("transaction_ids_old", &of_database), "{findings:#?}");
    // Where the server is on another machine its disk is not ours to look at.
    let is_local = test.connect_options().get_socket().is_some();
    assert_eq!(has("disk_space_low", ""), is_local, "{findings:#?}");
}

/// Hands everything on but notifications, as a pooler does whose sessions change with every transaction.
async fn without_notifications(test: &TestDatabase) -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let connect = test.connect_options();
    tokio::spawn(async move {
        loop {
            let Ok((client, _)) = listener.accept().await else {
                return;
            };
            let connect = connect.clone();
            tokio::spawn(async move {
                match connect.get_socket() {
                    Some(folder) => {
                        let path = folder.join(format!(".s.PGSQL.{}", connect.get_port()));
                        pass(client, UnixStream::connect(path).await.unwrap()).await;
                    }
                    None => {
                        let server = TcpStream::connect((connect.get_host(), connect.get_port())).await;
                        pass(client, server.unwrap()).await;
                    }
                }
            });
        }
    });
    port
}

async fn pass(client: TcpStream, server: impl AsyncRead + AsyncWrite) {
    const NOTIFICATION: u8 = b'A';
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = tokio::io::split(server);
    let there = async { tokio::io::copy(&mut from_client, &mut to_server).await.map(drop) };
    let back = async {
        let mut head = [0; 5];
        while from_server.read_exact(&mut head).await? > 0 {
            let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]);
            let mut body = vec![0; length as usize - 4];
            from_server.read_exact(&mut body).await?;
            if head[0] != NOTIFICATION {
                to_client.write_all(&head).await?;
                to_client.write_all(&body).await?;
            }
        }
        Ok(())
    };
    let _: Result<((), ()), std::io::Error> = tokio::try_join!(there, back);
}

#[tokio::test]
async fn a_connection_that_loses_notifications_is_told() {
    let test = TestDatabase::new().await;
    let port = without_notifications(&test).await;
    let connect = sqlx::postgres::PgConnectOptions::new_without_pgpass()
        .host("127.0.0.1")
        .port(port)
        .username(test.connect_options().get_username())
        .database(test.name())
        .ssl_mode(PgSslMode::Disable);
    let database = Database::connect_with(connect, DatabaseOptions::default())
        .await
        .unwrap();
    let what = format!(
        "a notification did not arrive from one connection to 127.0.0.1:{port}/{} on another",
        test.name()
    );
    assert_eq!(
        told(&examine(&database).await.unwrap()),
        [("notifications_lost", what.as_str())]
    );
}

#[tokio::test]
async fn refusals_to_open_are_findings_too() {
    let code = |error: DatabaseError| Finding::of_refusal(&error).map(|finding| finding.code);
    let (address, text) = ("db:5432/annals".to_owned(), "14.11".to_owned());
    assert_eq!(
        code(DatabaseError::ServerTooOld(address.clone(), text)),
        Some("server_too_old")
    );
    assert_eq!(
        code(DatabaseError::Encoding(address.clone(), "LATIN1".to_owned())),
        Some("encoding_not_utf8")
    );
    assert_eq!(code(DatabaseError::Standby(address.clone())), Some("standby"));
    let away = sqlx::Error::PoolTimedOut;
    assert_eq!(code(DatabaseError::Connect(address, away)), None);
}

#[test]
fn a_database_of_another_encoding_is_a_finding() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let test = runtime.block_on(TestDatabase::unmigrated());
    let latin = format!("{}_latin", test.name());
    runtime.block_on(async {
        let statement = format!("create database {latin} encoding 'LATIN1' locale 'C' template template0");
        test.superuser().await.execute(&*statement).await.unwrap();
    });
    let annals = Annals {
        database_url: Some(test.url().replace(test.name(), &latin)),
        ..Annals::new()
    };
    let ended = annals.run(&["doctor", "--json"]);
    runtime.block_on(async {
        let statement = format!("drop database {latin} with (force)");
        test.superuser().await.execute(&*statement).await.unwrap();
    });
    assert_eq!(ended.code, 1, "{}", ended.stderr);
    let told = ended.json();
    assert_eq!(
        (&told["faults"], &told["findings"][0]["code"]),
        (&json!(1), &json!("encoding_not_utf8"))
    );
    drop(runtime);
}

#[test]
fn the_command_tells_the_same_alone_and_beside_a_server() {
    let annals = Annals::new();
    let ended = annals.run(&["doctor"]);
    assert_eq!(ended.code, 1);
    assert!(ended.stderr.contains("holds no database"), "{}", ended.stderr);
    annals.run(&["migrate"]).good();
    let sound = |database: &serde_json::Value| json!({ "ok": true, "database": database, "faults": 0, "warnings": 0, "findings": [] });
    let alone = annals.run(&["doctor", "--json"]).good().json();
    assert_eq!(alone, sound(&alone["database"]));
    assert!(alone["database"].as_str().unwrap().starts_with("embedded PostgreSQL 1"));
    let text = annals.run(&["doctor"]).good().stdout;
    assert!(text.ends_with("\n\nnothing here breaks a guarantee\n"), "{text}");

    let server = annals.serve();
    let beside = annals.run(&["doctor", "--json"]).good().json();
    assert_eq!(beside, sound(&alone["database"]));

    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let cluster = Cluster::open(&annals.data_dir(), ClusterOptions::default())
            .await
            .unwrap();
        let mut connection = cluster.connect_options().connect().await.unwrap();
        connection
            .execute("alter database annals set synchronous_commit = off")
            .await
            .unwrap();
        connection
            .execute("alter table log.claims set (autovacuum_enabled = false)")
            .await
            .unwrap();
        connection.close().await.unwrap();
        cluster.close().await.unwrap();
    });
    let ended = annals.run(&["doctor", "--json"]);
    assert_eq!(ended.code, 1, "{}", ended.stderr);
    assert_eq!(
        ended.json(),
        json!({
            "ok": false,
            "database": alone["database"],
            "faults": 1,
            "warnings": 1,
            "findings": [
                {
                    "code": "synchronous_commit_off",
                    "severity": "fault",
                    "what": "synchronous_commit is off for database annals",
                    "breaks": "A commit counts as done before it is on disk. Annals and log.append override it for their \
                        own sessions; commits of all others can vanish in a crash.",
                    "advice": "Reset synchronous_commit where it is set.",
                },
                {
                    "code": "autovacuum_off_for_table",
                    "severity": "warning",
                    "what": "autovacuum is switched off for log.claims",
                    "breaks": "Dead rows of that table pile up and its statistics grow old.",
                    "advice": "Alter table ... reset (autovacuum_enabled).",
                },
            ],
        })
    );
    let ended = annals.run(&["doctor"]);
    assert_eq!(ended.code, 1);
    assert!(
        ended
            .stdout
            .contains("\nFAULT    synchronous_commit_off: synchronous_commit is off for database annals\n")
            && ended.stdout.ends_with("\n1 fault, 1 warning\n"),
        "{}",
        ended.stdout
    );
    drop(server);

    // The next start says it too, and starts.
    let mut child = annals.command(&["serve"]).stderr(Stdio::piped()).spawn().unwrap();
    let stderr = child.stderr.take().unwrap();
    let mut stdout = BufReader::new(child.stdout.take().unwrap()).lines();
    let listening = stdout
        .by_ref()
        .map_while(Result::ok)
        .any(|line| line.contains("is listening on"));
    // However it ends, it is ended and waited for.
    let _server = super::cli::Server {
        child,
        address: String::new(),
    };
    assert!(listening);
    let warned = BufReader::new(stderr)
        .lines()
        .map_while(Result::ok)
        .find(|line| line.contains("synchronous_commit_off"));
    let warned = warned.expect("the fault is logged");
    assert!(
        warned.contains("WARN") && warned.contains("synchronous_commit is off for database annals. A commit counts"),
        "{warned}"
    );
    std::thread::spawn(move || stdout.for_each(drop));
}
