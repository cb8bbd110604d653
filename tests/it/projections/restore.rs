//! A log that was set back under its read models: they stop and say so, and go on only when somebody decides.

use std::time::Duration;

use annals_domain::UserId;
use annals_eventstore::database::DatabaseOptions;
use annals_eventstore::{Database, EventStore, MasterKey, Position, Vault, WriterOptions, checkpoint};
use annals_projections::{
    Engine, EngineOptions, ProjectionState, RebuildOptions, engine::status, read_models, rebuild,
};
use annals_tests::TestDatabase;
use sqlx::{ConnectOptions, Connection, Executor, PgConnection};

use super::engine::{hasty, state_of, until};
use super::{Log, PATIENCE, fresh, registered, system};

/// Copies of a test's database, as backups are.
struct Backups {
    server: PgConnection,
    name: String,
}

impl Backups {
    async fn of(test: &TestDatabase) -> Self {
        Self {
            server: test.connect_options().database("postgres").connect().await.unwrap(),
            name: test.name().to_owned(),
        }
    }

    /// Its connections are cut for it, as a cold backup does.
    async fn take(&mut self, backup: &str) {
        let name = self.name.clone();
        self.copy(&name, &format!("{name}_{backup}")).await;
    }

    /// Under whoever uses it: their connections break, and the next ones find what was saved then.
    async fn restore(&mut self, backup: &str) {
        let name = self.name.clone();
        self.execute(&format!("alter database {name} allow_connections false"))
            .await;
        self.execute(&format!("drop database {name} with (force)")).await;
        self.copy(&format!("{name}_{backup}"), &name).await;
    }

    async fn forget(mut self, backup: &str) {
        let statement = format!("drop database {}_{backup} with (force)", self.name);
        self.execute(&statement).await;
    }

    async fn copy(&mut self, from: &str, to: &str) {
        self.execute(&format!("alter database {from} allow_connections false"))
            .await;
        sqlx::query("select pg_terminate_backend(pid) from pg_stat_activity where datname = $1")
            .bind(from)
            .execute(&mut self.server)
            .await
            .unwrap();
        self.execute(&format!("create database {to} template {from}")).await;
        self.execute(&format!("alter database {from} allow_connections true"))
            .await;
        self.execute(&format!(
            "grant connect, create, temporary on database {to} to annals_app"
        ))
        .await;
    }

    async fn execute(&mut self, statement: &str) {
        self.server.execute(statement).await.unwrap();
    }
}

/// Another process on the same database, which has seen nothing yet.
async fn another_process(test: &TestDatabase) -> EventStore {
    let database = Database::connect_with(test.connect_options(), DatabaseOptions::default())
        .await
        .unwrap();
    let vault = Vault::open(&database, &MasterKey::from_bytes([7; 32])).await.unwrap();
    EventStore::start(database, vault, WriterOptions::default())
}

/// Waits until no pooled connection is left of those that were cut.
async fn reconnected(log: &Log) {
    let pool = log.database().pool();
    until("every pooled connection works", async || {
        let mut held = Vec::new();
        let mut sound = true;
        for _ in 0..pool.size().max(1) {
            match pool.acquire().await {
                Ok(mut connection) => {
                    sound &= connection.ping().await.is_ok();
                    held.push(connection);
                }
                Err(_) => sound = false,
            }
        }
        sound
    })
    .await;
}

async fn write(log: &Log, users: std::ops::Range<u32>) -> Position {
    let mut position = Position::START;
    for number in users {
        let id: UserId = fresh();
        position = log.write(id, [registered(id, &format!("user{number}"))]).await;
    }
    position
}

async fn shown_users(log: &Log) -> i64 {
    sqlx::query_scalar("select count(*) from view.users")
        .fetch_one(log.database().pool())
        .await
        .unwrap()
}

async fn until_diverged(engine: &Engine) {
    until("every model has noticed", async || {
        engine
            .statuses()
            .iter()
            .all(|status| status.state == ProjectionState::Diverged)
    })
    .await;
}

#[tokio::test]
async fn models_ahead_of_a_restored_log_stop_and_stay_stopped() {
    let log = Log::new().await;
    let mut backups = Backups::of(&log.test).await;
    write(&log, 0..6).await;
    log.project().await;
    backups.take("before").await;
    reconnected(&log).await;

    let engine = log.engine_of(read_models(), hasty("one"));
    write(&log, 6..10).await;
    log.wait_for(&engine).await;
    let kept = checkpoint::list(log.database().pool()).await.unwrap();
    // What is restored is the log; the read models are kept as they were, for they are "only derived".
    let keep = async |log: &Log| {
        let mut owner = log.test.superuser().await;
        for checkpoint in &kept {
            sqlx::query("update log.checkpoints set position = $2, entry_hash = $3 where projection = $1")
                .bind(&checkpoint.projection)
                .bind(checkpoint.position.as_i64())
                .bind(checkpoint.entry_hash.as_bytes().as_slice())
                .execute(&mut owner)
                .await
                .unwrap();
        }
    };
    engine.stop().await;
    backups.restore("before").await;
    reconnected(&log).await;
    keep(&log).await;
    let shown = shown_users(&log).await;

    // The log ends before the checkpoints.
    let engine = log.engine_of(read_models(), hasty("two"));
    until_diverged(&engine).await;
    for status in engine.statuses() {
        assert_eq!(status.error.as_deref(), Some("log diverged at position 10"));
        assert_eq!(status.position, Position(10));
    }
    let behind = engine.wait(&["users"], Position(3), PATIENCE).await.unwrap_err();
    assert_eq!(
        (behind.state, behind.position),
        (ProjectionState::Diverged, Position(10))
    );
    for status in status(&system(), &log.store, &read_models()).await.unwrap() {
        assert_eq!(status.state, ProjectionState::Diverged, "{status:?}");
        assert_eq!(status.error.as_deref(), Some("log diverged at position 10"));
    }

    // It grows past them with another history.
    assert_eq!(write(&log, 20..27).await, Position(13));
    let other = another_process(&log.test).await;
    let second = Engine::start(other.clone(), read_models(), hasty("three"));
    until_diverged(&second).await;
    until_diverged(&engine).await;
    for checkpoint in checkpoint::list(log.database().pool()).await.unwrap() {
        assert_eq!(checkpoint.position, Position(10), "{checkpoint:?}");
    }
    assert_eq!(shown_users(&log).await, shown);

    // Only a rebuild that somebody asks for makes one go on, and no other.
    let users = read_models().remove(0);
    rebuild(&system(), &log.store, users.as_ref(), RebuildOptions::default(), |_| {})
        .await
        .unwrap();
    for engine in [&engine, &second] {
        until("it goes on", async || {
            let (state, position) = state_of(engine, "users");
            state != ProjectionState::Diverged && position == Position(13)
        })
        .await;
        engine.wait(&["users"], Position(13), PATIENCE).await.unwrap();
    }
    assert_eq!(shown_users(&log).await, 13);
    assert_eq!(state_of(&engine, "sessions").0, ProjectionState::Diverged);
    for model in read_models() {
        rebuild(&system(), &log.store, model.as_ref(), RebuildOptions::default(), |_| {})
            .await
            .unwrap();
    }
    until("all of them go on", async || {
        let stored = status(&system(), &log.store, &read_models()).await.unwrap();
        stored
            .iter()
            .all(|status| status.state == ProjectionState::Following && status.error.is_none())
    })
    .await;
    second.stop().await;
    engine.stop().await;
    other.close().await;
    log.assert_rebuild_equal().await;
    backups.forget("before").await;
}

#[tokio::test]
async fn models_of_another_history_stop_though_the_log_is_as_long() {
    let log = Log::new().await;
    let mut backups = Backups::of(&log.test).await;
    write(&log, 0..3).await;
    backups.take("before").await;
    reconnected(&log).await;
    write(&log, 3..8).await;
    log.project().await;
    let kept = checkpoint::load(log.database().pool(), "users").await.unwrap().unwrap();

    backups.restore("before").await;
    reconnected(&log).await;
    assert_eq!(write(&log, 30..35).await, Position(8));
    log.project().await;
    let mut owner = log.test.superuser().await;
    sqlx::query("update log.checkpoints set entry_hash = $1 where projection = 'users'")
        .bind(kept.entry_hash.as_bytes().as_slice())
        .execute(&mut owner)
        .await
        .unwrap();
    let engine = log.engine_of(read_models(), hasty("one"));
    until("it has noticed", async || {
        state_of(&engine, "users") == (ProjectionState::Diverged, Position(8))
    })
    .await;
    // The others have this history, and go on.
    let position = write(&log, 35..36).await;
    engine
        .wait(&["sessions", "audit_trail"], position, PATIENCE)
        .await
        .unwrap();
    assert_eq!(shown_users(&log).await, 8);

    // The right hash is back, as after restoring the right log.
    let right = log.store.entry_hash_at(Position(8)).await.unwrap().unwrap();
    sqlx::query("update log.checkpoints set entry_hash = $1 where projection = 'users'")
        .bind(right.as_bytes().as_slice())
        .execute(&mut owner)
        .await
        .unwrap();
    until("it goes on", async || {
        state_of(&engine, "users") == (ProjectionState::Following, position)
    })
    .await;
    let stored = status(&system(), &log.store, &read_models()).await.unwrap();
    assert!(stored.iter().all(|status| status.error.is_none()), "{stored:?}");
    engine.stop().await;
    log.assert_rebuild_equal().await;
    backups.forget("before").await;
}

#[tokio::test]
async fn a_running_engine_stops_when_the_log_goes_on_differently_under_it() {
    let log = Log::new().await;
    write(&log, 0..3).await;
    write(&log, 3..8).await;
    let engine = log.engine_of(read_models(), hasty("one"));
    log.wait_for(&engine).await;

    // As a backup of schema log does that is put back into place while the server runs.
    let mut connection = log.test.tamperer().await;
    connection
        .execute(
            "begin;
             delete from log.events where position > 3;
             delete from log.streams where first_position > 3;
             delete from log.claims where taken_at_position > 3;
             delete from log.commands where first_position > 3;
             commit",
        )
        .await
        .unwrap();
    // At once past the place where the models stand, perhaps before anybody has looked.
    assert_eq!(write(&log, 50..58).await, Position(11));
    until_diverged(&engine).await;
    for status in engine.statuses() {
        assert_eq!(status.error.as_deref(), Some("log diverged at position 8"));
    }
    assert_eq!(shown_users(&log).await, 8);
    for checkpoint in checkpoint::list(log.database().pool()).await.unwrap() {
        assert_eq!(checkpoint.position, Position(8), "{checkpoint:?}");
        assert_eq!(checkpoint.last_error.as_deref(), Some("log diverged at position 8"));
    }
    log.store.verify(Position(1), |_| {}).await.unwrap();
    for model in read_models() {
        rebuild(&system(), &log.store, model.as_ref(), RebuildOptions::default(), |_| {})
            .await
            .unwrap();
    }
    until("all of them go on", async || {
        engine
            .statuses()
            .iter()
            .all(|status| (status.state, status.position) == (ProjectionState::Following, Position(11)))
    })
    .await;
    engine.stop().await;
    log.assert_rebuild_equal().await;
}

#[tokio::test]
async fn a_database_restored_whole_under_a_running_process_goes_on() {
    let log = Log::new().await;
    let mut backups = Backups::of(&log.test).await;
    write(&log, 0..5).await;
    log.project().await;
    backups.take("before").await;
    reconnected(&log).await;

    let engine = log.engine_of(read_models(), hasty("one"));
    write(&log, 5..12).await;
    log.wait_for(&engine).await;
    let mut head = log.store.head_changes();
    assert_eq!(*head.borrow_and_update(), Position(12));

    backups.restore("before").await;
    reconnected(&log).await;
    tokio::time::timeout(PATIENCE, head.wait_for(|head| *head == Position(5)))
        .await
        .expect("the head goes down")
        .unwrap();
    until("the models are where the log is", async || {
        engine
            .statuses()
            .iter()
            .all(|status| (status.state, status.position) == (ProjectionState::Following, Position(5)))
    })
    .await;
    assert_eq!(shown_users(&log).await, 5);
    let beyond = engine
        .wait(&["users"], Position(12), Duration::from_millis(20))
        .await
        .unwrap_err();
    assert_eq!(beyond.position, Position(5));

    // The same positions again, with other events.
    assert_eq!(write(&log, 40..49).await, Position(14));
    log.wait_for(&engine).await;
    assert_eq!(shown_users(&log).await, 14);
    engine.stop().await;
    log.assert_rebuild_equal().await;
    log.store.verify(Position(1), |_| {}).await.unwrap();
    backups.forget("before").await;
}

#[tokio::test]
async fn an_event_that_does_not_follow_is_damage_and_no_divergence() {
    let log = Log::new().await;
    write(&log, 0..2).await;
    log.project().await;
    write(&log, 2..4).await;
    log.test
        .tamperer()
        .await
        .execute("update log.events set recorded_at = recorded_at + interval '1 hour' where position = 3")
        .await
        .unwrap();
    let engine = log.engine_of(
        read_models(),
        EngineOptions {
            owner: "one".to_owned(),
            ..EngineOptions::default()
        },
    );
    until("it fails there", async || {
        state_of(&engine, "users") == (ProjectionState::Failing, Position(2))
    })
    .await;
    let error = engine.statuses().remove(0).error.unwrap();
    assert!(
        error.contains("position 3 is damaged: it does not follow from the event at position 2"),
        "{error}"
    );
    assert_eq!(shown_users(&log).await, 2);
    engine.stop().await;
}
