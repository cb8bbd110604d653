//! What keeps everything but the append function from writing the log.

use annals_domain::Content;
use annals_eventstore::database::Database;
use cqrs_es::persist::{PersistedEventRepository, PersistenceError, SerializedEvent};
use postgres_es::PostgresEventRepository;
use serde_json::json;
use sqlx::Executor;

use super::*;

fn stock(database: &Database) -> PostgresEventRepository {
    PostgresEventRepository::new(database.pool().clone()).with_tables("log.events", "log.snapshots")
}

fn smuggled() -> SerializedEvent {
    SerializedEvent::new(
        new_content().to_string(),
        1,
        "content".to_owned(),
        "content.published".to_owned(),
        "1".to_owned(),
        json!({}),
        json!({}),
    )
}

fn reason(error: PersistenceError) -> String {
    match error {
        PersistenceError::UnknownError(source) => source.to_string(),
        error => panic!("{error}"),
    }
}

#[tokio::test]
async fn the_persist_of_postgres_es_lacks_the_right() {
    let log = TestLog::new().await;
    let refused = stock(&log.test.database())
        .persist::<Content>(&[smuggled()], None)
        .await
        .unwrap_err();
    assert!(reason(refused).contains("permission denied for table events"));
    assert_eq!(log.count("log.events").await, 0);
}

#[tokio::test]
async fn the_persist_of_postgres_es_is_refused_to_a_superuser_too() {
    let log = TestLog::new().await;
    let refused = stock(&log.test.owner())
        .persist::<Content>(&[smuggled()], None)
        .await
        .unwrap_err();
    let reason = reason(refused);
    assert!(reason.contains("only log.append writes the log"), "{reason}");
    assert_eq!(log.count("log.events").await, 0);
}

#[tokio::test]
async fn nobody_changes_what_has_happened() {
    let log = TestLog::new().await;
    log.store
        .append(registered(new_user(), "ada@example.org", "ada"))
        .await
        .unwrap();
    let mut superuser = log.test.superuser().await;
    // The setting by which the append function passes opens nothing for changes to events.
    for statement in [
        "update log.events set actor = 'nobody'",
        "delete from log.events",
        "truncate log.events",
        "truncate log.events, log.streams, log.claims, log.commands",
        "set annals.appending = 'on'; update log.events set actor = 'nobody'",
        "set annals.appending = 'on'; delete from log.events",
        "set annals.appending = 'on'; truncate log.commands",
        "reset annals.appending; update log.streams set version = 7",
        "delete from log.streams",
        "delete from log.claims",
        "update log.claims set owner_id = gen_random_uuid()",
        "insert into log.commands (command_id, first_position, last_position) values (gen_random_uuid(), 1, 1)",
        "delete from log.commands",
    ] {
        let error = superuser.execute(statement).await.unwrap_err();
        let code = error
            .as_database_error()
            .and_then(|error| error.code())
            .map(|code| code.into_owned());
        assert_eq!(code.as_deref(), Some("42501"), "{statement}: {error}");
    }
    log.verify().await.unwrap();
}

#[tokio::test]
async fn a_fixed_snapshot_may_not_append() {
    let log = TestLog::new().await;
    let mut superuser = log.test.superuser().await;
    let call = "begin isolation level repeatable read; select * from log.append(
        '{}','{}','{}','{}','{}','{}','{}','{}','{}','{}','{}','{}','{}','{}','{}','{}','{}','{}','{}','{}','{}',
        '{}','{}','{}','{}','{}','{}','{}','{}','{}','{}','{}','{}','{}','{}','{}')";
    let error = superuser.execute(call).await.unwrap_err();
    assert!(error.to_string().contains("read committed"), "{error}");
}

#[tokio::test]
async fn the_application_role_cannot_open_the_gate() {
    let log = TestLog::new().await;
    let mut connection = log.test.database().pool().acquire().await.unwrap();
    connection.execute("set annals.appending = 'on'").await.unwrap();
    let insert =
        "insert into log.commands (command_id, first_position, last_position) values (gen_random_uuid(), 1, 1)";
    let error = connection.execute(insert).await.unwrap_err();
    assert!(error.to_string().contains("permission denied"), "{error}");
}
