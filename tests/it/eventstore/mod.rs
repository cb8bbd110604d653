//! The event store: what may be appended, what then holds, and what is noticed when somebody has been at the tables.

#![allow(clippy::unwrap_used, reason = "a fixture that fails fails its test")]

mod appending;
mod chain;
mod checkpoints;
mod claims;
mod cqrs;
mod cuts;
mod expectations;
mod model;
mod peers;
mod processes;
mod protection;
mod reading;
mod snapshots;
mod vault;
mod writer;

use std::time::Duration;

use annals_domain::{
    Actor, AnyEvent, ClaimKey, ClaimScope, ContentEvent, ContentFieldId, ContentId, ContentStatus, EmailAddress,
    FieldValue, Personal, Place, Realm, Role, Timestamp, UserEvent, UserId, Username,
};
use annals_eventstore::{
    Append, AppendError, Appended, Condition, EventStore, Hash, Idempotency, MasterKey, Position, StreamAppend,
    StreamId, Vault, VerifyFault, VerifyReport, Version, WriterOptions,
};
use annals_tests::TestDatabase;
use sqlx::{Connection, PgConnection};
use uuid::Uuid;

/// The lock that `log.append` takes.
const TAKE_APPEND_LOCK: &str = "select pg_advisory_lock(1634627169, 1)";
const GIVE_APPEND_LOCK: &str = "select pg_advisory_unlock(1634627169, 1)";

/// An empty log with a store on it.
struct TestLog {
    store: EventStore,
    test: TestDatabase,
}

impl TestLog {
    async fn new() -> Self {
        Self::with_options(one_lane()).await
    }

    async fn with_options(options: WriterOptions) -> Self {
        let test = TestDatabase::new().await;
        let store = start(&test, options).await;
        Self { store, test }
    }

    /// Another process on the same log, as far as the log can tell.
    async fn another(&self) -> EventStore {
        start(&self.test, one_lane()).await
    }

    /// Keeps every append waiting until given back.
    async fn hold_lock(&self) -> HeldLock {
        let mut connection = self.test.superuser().await;
        sqlx::query(TAKE_APPEND_LOCK).execute(&mut connection).await.unwrap();
        HeldLock(connection)
    }

    /// Fills one batch with `commands`: all are waiting when the writer next takes any.
    async fn in_one_batch(&self, commands: Vec<Append>) -> Vec<Result<Appended, AppendError>> {
        self.in_one_batch_behind(created(new_content()), commands).await
    }

    /// The same, with the command that keeps the writer busy meanwhile.
    async fn in_one_batch_behind(&self, plug: Append, commands: Vec<Append>) -> Vec<Result<Appended, AppendError>> {
        let lock = self.hold_lock().await;
        let plug = tokio::spawn(append(&self.store, plug));
        self.until_waiting(1).await;
        let mut waiting = Vec::new();
        for command in commands {
            waiting.push(tokio::spawn(append(&self.store, command)));
            // One at a time, so that they queue in this order.
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        lock.give_back().await;
        plug.await.unwrap().unwrap();
        let mut answers = Vec::new();
        for answer in waiting {
            answers.push(answer.await.unwrap());
        }
        answers
    }

    /// Waits until so many sessions wait for the lock of `log.append`.
    async fn until_waiting(&self, sessions: i64) {
        let mut connection = self.test.superuser().await;
        for _ in 0..500 {
            let waiting: i64 = sqlx::query_scalar(
                "select count(*) from pg_locks l join pg_database d on d.oid = l.database
                 where d.datname = current_database() and l.locktype = 'advisory' and l.classid = 1634627169 and not l.granted",
            )
            .fetch_one(&mut connection)
            .await
            .unwrap();
            if waiting >= sessions {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("nobody waits for the lock");
    }

    /// Ends the sessions that wait for the lock, as a crash or a cut would.
    async fn cut_waiting(&self) {
        let mut connection = self.test.superuser().await;
        sqlx::query(
            "select pg_terminate_backend(l.pid) from pg_locks l join pg_database d on d.oid = l.database
             where d.datname = current_database() and l.locktype = 'advisory' and l.classid = 1634627169 and not l.granted",
        )
        .execute(&mut connection)
        .await
        .unwrap();
    }

    async fn count(&self, table: &str) -> i64 {
        let mut connection = self.test.superuser().await;
        sqlx::query_scalar(&format!("select count(*) from {table}"))
            .fetch_one(&mut connection)
            .await
            .unwrap()
    }

    /// Runs a statement that no trigger holds back.
    async fn tamper(&self, statement: &str) -> u64 {
        let mut connection = self.test.tamperer().await;
        sqlx::query(statement)
            .execute(&mut connection)
            .await
            .unwrap()
            .rows_affected()
    }

    async fn verify(&self) -> Result<VerifyReport, VerifyFault> {
        self.store.verify(Position(1), |_| {}).await
    }
}

struct HeldLock(PgConnection);

impl HeldLock {
    async fn give_back(mut self) {
        sqlx::query(GIVE_APPEND_LOCK).execute(&mut self.0).await.unwrap();
        self.0.close().await.unwrap();
    }
}

fn master_key() -> MasterKey {
    MasterKey::from_bytes([7; 32])
}

/// One batch at a time, so that a test knows what is in it.
fn one_lane() -> WriterOptions {
    WriterOptions {
        connections: 1,
        ..WriterOptions::default()
    }
}

async fn start(test: &TestDatabase, options: WriterOptions) -> EventStore {
    let vault = Vault::open(&test.database(), &master_key()).await.unwrap();
    EventStore::start(test.database(), vault, options)
}

/// An owned future, so that it can be spawned.
fn append(store: &EventStore, command: Append) -> impl Future<Output = Result<Appended, AppendError>> + Send + 'static {
    let store = store.clone();
    async move { store.append(command).await }
}

fn at() -> Timestamp {
    Timestamp::parse_rfc3339("2026-02-15T12:00:00Z").unwrap()
}

/// One command with events for the streams given.
fn command(streams: Vec<StreamAppend>) -> Append {
    let id = Uuid::now_v7();
    Append {
        command_id: id,
        actor: Actor::System("tests".to_owned()),
        correlation_id: id,
        causation_id: id,
        idempotency: None,
        streams,
        conditions: Vec::new(),
    }
}

fn events(stream: StreamId, expected: Version, events: Vec<AnyEvent>) -> StreamAppend {
    StreamAppend {
        stream,
        expected,
        events,
    }
}

fn content(id: ContentId) -> StreamId {
    StreamId::new("content", id)
}

fn user(id: UserId) -> StreamId {
    StreamId::new("user", id)
}

fn content_created(id: ContentId) -> AnyEvent {
    ContentEvent::Created {
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
        at: at(),
    }
    .into()
}

/// Creates a content node.
fn created(id: ContentId) -> Append {
    command(vec![events(content(id), 0, vec![content_created(id)])])
}

/// Publishes a content node that is at `expected`.
fn published(id: ContentId, expected: Version) -> Append {
    command(vec![events(
        content(id),
        expected,
        vec![ContentEvent::Published { at: at() }.into()],
    )])
}

fn field_value(id: ContentFieldId) -> FieldValue {
    FieldValue {
        content_field_id: id,
        field_id: None,
        route_id: None,
        value: "a value".to_owned(),
        author_id: None,
        date_created: None,
        date_modified: None,
    }
}

fn user_registered(id: UserId, email: &str, username: &str) -> AnyEvent {
    UserEvent::Registered {
        email: Personal::new(id, EmailAddress::parse(email).unwrap()),
        username: Personal::new(id, Username::parse(username).unwrap()),
        name: Personal::new(id, "Ada Lovelace".to_owned()),
        role: Role::Viewer,
        at: at(),
    }
    .into()
}

/// Registers a user.
fn registered(id: UserId, email: &str, username: &str) -> Append {
    command(vec![events(user(id), 0, vec![user_registered(id, email, username)])])
}

fn new_content() -> ContentId {
    ContentId::new(Uuid::now_v7())
}

fn new_user() -> UserId {
    UserId::new(Uuid::now_v7())
}

fn held(scope: ClaimScope, key: ClaimKey) -> Condition {
    Condition::Held { scope, key }
}

fn idempotency(key: &str, request: u8) -> Idempotency {
    Idempotency {
        principal: "user:tests".to_owned(),
        key: key.to_owned(),
        request_hash: Hash([request; 32]),
    }
}
