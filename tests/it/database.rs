//! The database as such: connecting, roles, timeouts and migrations. What is in it is tested by the other modules.

use std::time::{Duration, Instant};

use annals_eventstore::database::{Database, DatabaseError, DatabaseOptions, DatabaseRole, Timeouts};
use annals_tests::TestDatabase;
use sqlx::{Connection, Executor};

const INSUFFICIENT_PRIVILEGE: &str = "42501";

fn code(error: sqlx::Error) -> String {
    let error = error.into_database_error().expect("an error of the database");
    error.code().expect("a code").into_owned()
}

#[tokio::test]
async fn migrating_twice_changes_nothing() {
    let test = TestDatabase::unmigrated().await;
    let first = test.database().migrate().await.unwrap();
    assert!(first.log > 0 && first.view > 0 && first.application_role, "{first:?}");
    let second = test.database().migrate().await.unwrap();
    assert_eq!((second.log, second.view), (0, 0));
}

#[tokio::test]
async fn processes_that_migrate_at_once_take_turns() {
    let test = TestDatabase::unmigrated().await;
    let processes: Vec<Database> = (0..4)
        .map(|_| test.database().with_options(DatabaseOptions::default()))
        .collect();
    let all = tokio::join!(
        processes[0].migrate(),
        processes[1].migrate(),
        processes[2].migrate(),
        processes[3].migrate()
    );
    let done = [all.0.unwrap(), all.1.unwrap(), all.2.unwrap(), all.3.unwrap()];
    assert_eq!(
        done.iter().filter(|done| done.log > 0 && done.view > 0).count(),
        1,
        "{done:?}"
    );
    assert_eq!(
        done.iter().filter(|done| done.log == 0 && done.view == 0).count(),
        3,
        "{done:?}"
    );
}

#[tokio::test]
async fn connections_made_before_the_migration_take_the_role_after_it() {
    let test = TestDatabase::unmigrated().await;
    let database = test.database();
    sqlx::query("select 1").execute(database.pool()).await.unwrap();
    database.migrate().await.unwrap();
    assert!(database.acts_as_application().await.unwrap());
}

#[tokio::test]
async fn the_application_reads_the_log_but_cannot_write_it() {
    let test = TestDatabase::new().await;
    let database = test.database();
    assert!(database.acts_as_application().await.unwrap());
    sqlx::query("select * from log.events")
        .execute(database.pool())
        .await
        .unwrap();
    for forbidden in [
        "insert into log.claims (scope, key, owner_type, owner_id, taken_at_position) values ('email', '\\x01', 'user', gen_random_uuid(), 1)",
        "insert into log.events select * from log.events",
        "update log.events set actor = 'nobody'",
        "delete from log.streams",
        "truncate log.commands",
        "drop table log.events",
        "update log._sqlx_migrations set success = false",
    ] {
        let refused = sqlx::query(forbidden).execute(database.pool()).await.unwrap_err();
        assert_eq!(code(refused), INSUFFICIENT_PRIVILEGE, "{forbidden}");
    }
}

#[tokio::test]
async fn the_application_owns_the_read_models_and_may_make_schemas_to_rebuild_them_in() {
    let test = TestDatabase::new().await;
    let database = test.database();
    let foreign: i64 = sqlx::query_scalar(
        "select count(*) from pg_class where relnamespace = 'view'::regnamespace and relowner <> 'annals_app'::regrole",
    )
    .fetch_one(database.pool())
    .await
    .unwrap();
    assert_eq!(foreign, 0);
    database
        .pool()
        .execute("create schema rebuild_users; create table rebuild_users.users (like view.users including all)")
        .await
        .unwrap();
}

#[tokio::test]
async fn read_models_made_without_the_role_are_handed_over() {
    let test = TestDatabase::unmigrated().await;
    test.superuser()
        .await
        .execute("create schema view; create table view.early (id int)")
        .await
        .unwrap();
    test.database().migrate().await.unwrap();
    test.database()
        .pool()
        .execute("insert into view.early values (1); drop table view.early")
        .await
        .unwrap();
}

#[tokio::test]
async fn rights_lost_by_a_dump_are_given_again() {
    let test = TestDatabase::new().await;
    test.superuser()
        .await
        .execute("revoke all on schema log from annals_app; revoke all on all tables in schema log from annals_app")
        .await
        .unwrap();
    let query = || async {
        sqlx::query("select * from log.events")
            .execute(test.database().pool())
            .await
            .map(drop)
    };
    assert!(query().await.is_err());
    test.database().migrate().await.unwrap();
    query().await.unwrap();
}

#[tokio::test]
async fn a_schema_of_a_newer_annals_is_refused() {
    let test = TestDatabase::new().await;
    let newer = "insert into log._sqlx_migrations values (999999, 'newer', now(), true, '', 0)";
    test.tamperer().await.execute(newer).await.unwrap();
    let error = test.database().migrate().await.unwrap_err();
    assert!(
        matches!(
            error,
            DatabaseError::NewerSchema {
                schema: "log",
                version: 999_999
            }
        ),
        "{error}"
    );
    assert!(error.to_string().contains("newer"));
}

#[tokio::test]
async fn a_changed_migration_is_refused() {
    let test = TestDatabase::new().await;
    test.tamperer()
        .await
        .execute("update view._sqlx_migrations set checksum = '\\x00' where version = 1")
        .await
        .unwrap();
    let error = test.database().migrate().await.unwrap_err();
    assert!(
        matches!(
            error,
            DatabaseError::ChangedMigration {
                schema: "view",
                version: 1
            }
        ),
        "{error}"
    );
}

#[tokio::test]
async fn sessions_have_their_timeouts_and_wait_for_their_commits() {
    const SETTINGS: &str = "select current_setting('statement_timeout'), current_setting('lock_timeout'),
        current_setting('idle_in_transaction_session_timeout'), current_setting('synchronous_commit'), current_user::text";
    type Settings = (String, String, String, String, String);
    let test = TestDatabase::new().await;
    test.superuser()
        .await
        .execute(&*format!("alter database {} set synchronous_commit = off", test.name()))
        .await
        .unwrap();
    let database = test.database().with_options(DatabaseOptions::default());
    let text = |settings: [&str; 5]| -> Settings { settings.map(str::to_owned).into() };

    let pooled: Settings = sqlx::query_as(SETTINGS).fetch_one(database.pool()).await.unwrap();
    assert_eq!(pooled, text(["30s", "5s", "30s", "on", "annals_app"]));
    let mut writer = database.connect_dedicated(Timeouts::APPEND).await.unwrap();
    let dedicated: Settings = sqlx::query_as(SETTINGS).fetch_one(&mut writer).await.unwrap();
    assert_eq!(dedicated, text(["5s", "2s", "5s", "on", "annals_app"]));
    writer.close().await.unwrap();
    let owner: (String,) = sqlx::query_as("select (current_user <> 'annals_app')::text")
        .fetch_one(test.owner().pool())
        .await
        .unwrap();
    assert_eq!(owner.0, "true");
}

#[tokio::test]
async fn nobody_waits_longer_for_a_connection_than_was_agreed() {
    let options = DatabaseOptions {
        max_connections: 1,
        acquire_timeout: Duration::from_millis(300),
        ..DatabaseOptions::default()
    };
    let test = TestDatabase::with_options(options).await;
    let database = test.database();
    let held = database.pool().acquire().await.unwrap();
    let started = Instant::now();
    assert!(matches!(
        database.pool().acquire().await,
        Err(sqlx::Error::PoolTimedOut)
    ));
    assert!(started.elapsed() < Duration::from_secs(2));
    drop(held);
    database.pool().acquire().await.unwrap();
}

#[tokio::test]
async fn a_listener_hears_what_a_pooled_connection_says() {
    let test = TestDatabase::new().await;
    let mut listener = test.database().listener().await.unwrap();
    listener.listen("annals_log").await.unwrap();
    test.database()
        .pool()
        .execute("select pg_notify('annals_log', '7')")
        .await
        .unwrap();
    let heard = tokio::time::timeout(Duration::from_secs(2), listener.recv())
        .await
        .unwrap()
        .unwrap();
    assert_eq!(heard.payload(), "7");
}

#[tokio::test]
async fn a_server_that_does_not_answer_is_named_without_its_password() {
    let url = "postgres://annals:secret@127.0.0.1:1/annals".into();
    let error = Database::connect(&url, DatabaseOptions::default()).await.unwrap_err();
    assert_eq!(error.to_string(), "cannot connect to 127.0.0.1:1/annals");
    let error = Database::connect(&"not an address".into(), DatabaseOptions::default())
        .await
        .unwrap_err();
    assert!(matches!(error, DatabaseError::Address(_)));
}

#[tokio::test]
async fn the_start_log_tells_which_server_is_used() {
    let test = TestDatabase::new().await;
    let url = test.url().into();
    let options = DatabaseOptions {
        role: DatabaseRole::Owner,
        ..DatabaseOptions::default()
    };
    let database = Database::connect(&url, options).await.unwrap();
    let text = database.kind().to_string();
    assert!(
        text.starts_with("PostgreSQL 1") && text.ends_with(test.name()),
        "{text}"
    );
    database.close().await.unwrap();
    assert!(database.pool().is_closed());
}
