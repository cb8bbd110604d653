//! The engine: following, leases and fencing, failures, rebuilds beside a running daemon.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use annals_domain::{AnyEvent, Caller, ContentEvent, ContentId, Denied, Place, Realm, Role, UserId};
use annals_eventstore::{Position, Record, checkpoint};
use annals_projections::{
    Engine, EngineOptions, Projection, ProjectionError, ProjectionState, RebuildError, RebuildOptions, compare,
    content, engine::status, read_models, rebuild, user,
};
use futures::future::BoxFuture;
use sqlx::{Executor, PgConnection};

use super::{Log, PATIENCE, at, content_created, fresh, registered, route_created, system, user as signed_in, value};

/// Leases short enough for a test to see them run out.
pub(super) fn hasty(owner: &str) -> EngineOptions {
    EngineOptions {
        lease: Duration::from_millis(600),
        retry_first: Duration::from_millis(5),
        retry_longest: Duration::from_millis(50),
        owner: owner.to_owned(),
        ..EngineOptions::default()
    }
}

pub(super) async fn until(what: &str, mut done: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !done().await {
        assert!(Instant::now() < deadline, "in vain: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

pub(super) fn state_of(engine: &Engine, name: &str) -> (ProjectionState, Position) {
    let status = engine
        .statuses()
        .into_iter()
        .find(|status| status.name == name)
        .unwrap();
    (status.state, status.position)
}

/// A read model of the tests: counts events, and can be told to fail.
#[derive(Default)]
struct Tally {
    version: i32,
    broken: AtomicBool,
    calls: AtomicU32,
}

const MAKE_TALLY: &str = "
create table view.tally (
    event_type text primary key,
    events bigint not null
)";

impl Tally {
    fn new(version: i32) -> Arc<Self> {
        Arc::new(Self {
            version,
            ..Self::default()
        })
    }

    async fn count(log: &Log) -> i64 {
        sqlx::query_scalar("select coalesce(sum(events), 0)::bigint from view.tally")
            .fetch_one(log.database().pool())
            .await
            .unwrap()
    }
}

impl Projection for Tally {
    fn name(&self) -> &'static str {
        "tally"
    }

    fn version(&self) -> i32 {
        self.version
    }

    fn tables(&self) -> &'static [&'static str] {
        &["tally"]
    }

    fn definition(&self) -> &'static str {
        MAKE_TALLY
    }

    fn apply<'a>(
        &'a self,
        connection: &'a mut PgConnection,
        batch: &'a [Record],
    ) -> BoxFuture<'a, Result<(), ProjectionError>> {
        Box::pin(async move {
            self.calls.fetch_add(1, Ordering::Relaxed);
            for record in batch {
                if self.broken.load(Ordering::Relaxed) && matches!(record.event, AnyEvent::Route(_)) {
                    // A statement that fails, so that the transaction is lost too.
                    connection.execute("select 1 / 0").await?;
                }
                sqlx::query(
                    "insert into tally values ($1, 1) on conflict (event_type) do update set events = tally.events + 1",
                )
                .bind(record.event.event_type())
                .execute(&mut *connection)
                .await?;
            }
            Ok(())
        })
    }
}

async fn log_with_tally() -> Log {
    let log = Log::new().await;
    log.database().pool().execute(MAKE_TALLY).await.unwrap();
    log
}

#[tokio::test]
async fn a_write_is_shown_as_soon_as_it_was_waited_for() {
    let log = Log::new().await;
    let engine = log.engine();
    for number in 0..50 {
        let id: UserId = fresh();
        let position = log.write(id, [registered(id, &format!("user{number}"))]).await;
        engine
            .wait(&["users", "audit_trail"], position, PATIENCE)
            .await
            .unwrap();
        assert!(user::by_id(&system(), log.database(), id).await.unwrap().is_some());
    }
    for status in engine.statuses() {
        assert!(status.failures == 0 && status.error.is_none(), "{status:?}");
    }
    let beyond = engine
        .wait(&["users"], Position(51), Duration::from_millis(20))
        .await
        .unwrap_err();
    assert_eq!(
        (beyond.projection.as_str(), beyond.position, beyond.wanted),
        ("users", Position(50), Position(51))
    );
    engine.stop().await;
    engine.stop().await;
    assert_eq!(
        engine.wait(&["users"], Position(51), PATIENCE).await.unwrap_err().state,
        ProjectionState::Stopped
    );
}

/// Counts the statements that insert into each table of schema `view`, or delete from it.
const COUNT_STATEMENTS: &str = "
create table public.statements (table_name text not null);
grant insert on public.statements to public;
create function public.count_statement() returns trigger
    language plpgsql
as $$
begin
    insert into public.statements values (tg_table_name);
    return null;
end
$$;
do $$
declare
    name text;
begin
    for name in select tablename from pg_tables where schemaname = 'view' and tablename <> '_sqlx_migrations' loop
        execute format('create trigger count_statement after insert or delete on view.%I
                            for each statement execute function public.count_statement()', name);
    end loop;
end
$$";

#[tokio::test]
async fn a_batch_of_hundreds_costs_a_handful_of_statements() {
    let log = Log::new().await;
    let parent: ContentId = fresh();
    log.write(parent, [content_created(parent, None, Place::Last)]).await;
    for number in 0..100 {
        let id: ContentId = fresh();
        let set = vec![value(fresh(), None, "one"), value(fresh(), None, "two")];
        let changed = ContentEvent::FieldsChanged {
            set,
            removed: vec![fresh()],
            at: at(1),
        };
        let moved = ContentEvent::Moved {
            parent_id: Some(parent),
            place: Place::Before { content_id: parent },
            at: at(1),
        };
        let created = content_created(id, Some(parent), Place::First);
        log.write(id, [created, changed, moved, ContentEvent::Published { at: at(1) }])
            .await;
        let id: UserId = fresh();
        log.write(id, [registered(id, &format!("user{number}"))]).await;
    }
    let mut connection = log.test.superuser().await;
    connection.execute(COUNT_STATEMENTS).await.unwrap();
    let engine = log.engine_of(
        read_models(),
        EngineOptions {
            batch_events: 501,
            ..EngineOptions::default()
        },
    );
    log.wait_for(&engine).await;
    engine.stop().await;
    let statements: Vec<(String, i64)> =
        sqlx::query_as("select table_name, count(*) from public.statements group by 1 order by 1")
            .fetch_all(&mut connection)
            .await
            .unwrap();
    let expected = [("audit_trail", 1), ("content_fields", 2), ("contents", 1), ("users", 1)];
    assert_eq!(statements, expected.map(|(table, count)| (table.to_owned(), count)));
    assert_eq!(
        content::children_of(&system(), log.database(), parent)
            .await
            .unwrap()
            .len(),
        100
    );
}

#[tokio::test]
async fn of_two_daemons_one_applies_and_the_other_knows() {
    let log = log_with_tally().await;
    let (one, two) = (Tally::new(1), Tally::new(1));
    let first = log.engine_of(vec![one.clone()], hasty("one"));
    until("the first leads", async || {
        state_of(&first, "tally").0 == ProjectionState::Following
    })
    .await;
    let second = log.engine_of(vec![two.clone()], hasty("two"));
    for number in 0..20 {
        let id: UserId = fresh();
        let position = log.write(id, [registered(id, &format!("user{number}"))]).await;
        // Whoever leads, both can be asked to wait.
        first.wait(&["tally"], position, PATIENCE).await.unwrap();
        second.wait(&["tally"], position, PATIENCE).await.unwrap();
        assert_eq!(Tally::count(&log).await, number + 1);
    }
    assert_eq!(two.calls.load(Ordering::Relaxed), 0);
    assert_eq!(state_of(&second, "tally"), (ProjectionState::Standby, Position(20)));

    first.stop().await;
    let id: UserId = fresh();
    let position = log.write(id, [registered(id, "after")]).await;
    second.wait(&["tally"], position, PATIENCE).await.unwrap();
    assert_eq!(Tally::count(&log).await, 21);
    assert!(two.calls.load(Ordering::Relaxed) > 0);
    second.stop().await;
}

#[tokio::test]
async fn a_leader_that_lost_its_lease_moves_nothing() {
    let log = log_with_tally().await;
    let tally = Tally::new(1);
    let engine = log.engine_of(
        vec![tally.clone()],
        EngineOptions {
            owner: "one".to_owned(),
            ..EngineOptions::default()
        },
    );
    let id: UserId = fresh();
    let position = log.write(id, [registered(id, "one")]).await;
    engine.wait(&["tally"], position, PATIENCE).await.unwrap();

    // Its lease is taken behind its back, as happens to a process that was paused for too long.
    let pool = log.database().pool();
    sqlx::query("update log.checkpoints set lease_until = clock_timestamp() - interval '1 s'")
        .execute(pool)
        .await
        .unwrap();
    let taken = checkpoint::acquire(pool, "tally", 1, "two", Duration::from_millis(600))
        .await
        .unwrap()
        .unwrap();
    let id: UserId = fresh();
    let position = log.write(id, [registered(id, "two")]).await;
    let behind = engine
        .wait(&["tally"], position, Duration::from_millis(200))
        .await
        .unwrap_err();
    assert_eq!((behind.state, behind.position), (ProjectionState::Standby, Position(1)));
    assert_eq!(Tally::count(&log).await, 1);
    let now = checkpoint::load(pool, "tally").await.unwrap().unwrap();
    assert_eq!(
        (now.epoch, now.owner.as_deref(), now.position),
        (taken.epoch, Some("two"), Position(1))
    );

    // The other one dies; its lease runs out.
    engine.wait(&["tally"], position, PATIENCE).await.unwrap();
    assert_eq!(Tally::count(&log).await, 2);
    engine.stop().await;
}

#[tokio::test]
async fn a_model_that_fails_keeps_nobody_else_and_says_where() {
    let log = log_with_tally().await;
    let tally = Tally::new(1);
    tally.broken.store(true, Ordering::Relaxed);
    for number in 0..20 {
        let id: UserId = fresh();
        log.write(id, [registered(id, &format!("user{number}"))]).await;
    }
    log.write(fresh::<annals_domain::RouteId>(), [route_created("/bad")])
        .await;
    for number in 20..40 {
        let id: UserId = fresh();
        log.write(id, [registered(id, &format!("user{number}"))]).await;
    }
    let mut models = read_models();
    models.push(tally.clone());
    let engine = log.engine_of(models.clone(), hasty("one"));
    log.wait_for(&engine).await;
    until("the failure shows", async || {
        state_of(&engine, "tally") == (ProjectionState::Failing, Position(20))
    })
    .await;
    assert_eq!(Tally::count(&log).await, 20);
    until("waiting is given up", async || {
        engine.wait(&["tally"], Position(41), PATIENCE).await.unwrap_err().state == ProjectionState::Failing
    })
    .await;
    let error = engine
        .statuses()
        .into_iter()
        .find(|status| status.name == "tally")
        .unwrap()
        .error
        .unwrap();
    assert!(
        error.contains("position 21") && error.contains("division by zero"),
        "{error}"
    );

    let stored = status(&system(), &log.store, &models).await.unwrap();
    let stored = stored.iter().find(|status| status.name == "tally").unwrap();
    assert_eq!(
        (stored.state, stored.position, stored.lag_events),
        (ProjectionState::Failing, Position(20), 21)
    );
    assert!(stored.failures > 0 && stored.error.as_ref().is_some_and(|error| error.contains("position 21")));

    let id: UserId = fresh();
    let position = log.write(id, [registered(id, "after")]).await;
    engine
        .wait(&["users", "audit_trail"], position, PATIENCE)
        .await
        .unwrap();
    tally.broken.store(false, Ordering::Relaxed);
    until("it goes on", async || {
        state_of(&engine, "tally") == (ProjectionState::Following, position)
    })
    .await;
    assert_eq!(Tally::count(&log).await, 42);
    assert_eq!(
        checkpoint::load(log.database().pool(), "tally")
            .await
            .unwrap()
            .unwrap()
            .failures,
        0
    );
    engine.stop().await;
}

#[tokio::test]
async fn a_new_version_is_built_anew_before_it_follows() {
    let log = log_with_tally().await;
    for number in 0..10 {
        let id: UserId = fresh();
        log.write(id, [registered(id, &format!("user{number}"))]).await;
    }
    let old = log.engine_of(vec![Tally::new(1)], hasty("one"));
    old.wait(&["tally"], Position(10), PATIENCE).await.unwrap();
    old.stop().await;
    // What the old version left is not what the new one would have made.
    log.database()
        .pool()
        .execute("update view.tally set events = 1000")
        .await
        .unwrap();
    let new = log.engine_of(vec![Tally::new(2)], hasty("two"));
    new.wait(&["tally"], Position(10), PATIENCE).await.unwrap();
    assert_eq!(Tally::count(&log).await, 10);
    let id: UserId = fresh();
    let position = log.write(id, [registered(id, "after")]).await;
    new.wait(&["tally"], position, PATIENCE).await.unwrap();
    assert_eq!(Tally::count(&log).await, 11);
    let now = checkpoint::load(log.database().pool(), "tally").await.unwrap().unwrap();
    assert_eq!((now.version, now.position), (2, position));
    new.stop().await;

    // An old program leaves the tables of a newer one alone.
    let older = Tally::new(1);
    let stale = log.engine_of(vec![older.clone()], hasty("three"));
    let id: UserId = fresh();
    let position = log.write(id, [registered(id, "later")]).await;
    stale
        .wait(&["tally"], position, Duration::from_millis(300))
        .await
        .unwrap_err();
    assert_eq!((older.calls.load(Ordering::Relaxed), Tally::count(&log).await), (0, 11));
    stale.stop().await;
}

#[tokio::test]
async fn a_new_version_does_not_cover_up_another_log() {
    let log = log_with_tally().await;
    let id: UserId = fresh();
    log.write(id, [registered(id, "one")]).await;
    let old = log.engine_of(vec![Tally::new(1)], hasty("one"));
    old.wait(&["tally"], Position(1), PATIENCE).await.unwrap();
    old.stop().await;
    // As after restoring a log that had gone on differently.
    let pool = log.database().pool();
    pool.execute("update view.tally set events = 77").await.unwrap();
    sqlx::query("update log.checkpoints set position = 9, entry_hash = sha256('another log')")
        .execute(pool)
        .await
        .unwrap();
    let tally = Tally::new(2);
    let engine = log.engine_of(vec![tally.clone()], hasty("two"));
    until("it has noticed", async || {
        state_of(&engine, "tally") == (ProjectionState::Diverged, Position(9))
    })
    .await;
    assert_eq!((tally.calls.load(Ordering::Relaxed), Tally::count(&log).await), (0, 77));
    rebuild(&system(), &log.store, tally.as_ref(), RebuildOptions::default(), |_| {})
        .await
        .unwrap();
    until("it goes on", async || {
        state_of(&engine, "tally") == (ProjectionState::Following, Position(1))
    })
    .await;
    assert_eq!(Tally::count(&log).await, 1);
    engine.stop().await;
}

#[tokio::test]
async fn a_sign_of_life_is_given_though_nothing_moves() {
    let log = log_with_tally().await;
    let engine = log.engine_of(vec![Tally::new(1)], hasty("one"));
    let load = async || checkpoint::load(log.database().pool(), "tally").await.unwrap();
    until("it leads", async || load().await.is_some()).await;
    let first = load().await.unwrap();
    // Longer than the lease, so that it was renewed and not just taken.
    until("several signs", async || {
        let now = load().await.unwrap();
        now.heartbeat_at > first.lease_until.unwrap()
    })
    .await;
    let now = load().await.unwrap();
    assert_eq!(
        (now.epoch, now.owner.as_deref(), now.position, now.moved_at),
        (first.epoch, Some("one"), Position(0), first.moved_at)
    );

    // Nor does a model that cannot go on look dead.
    let tally = Tally::new(1);
    tally.broken.store(true, Ordering::Relaxed);
    engine.stop().await;
    let engine = log.engine_of(vec![tally.clone()], hasty("two"));
    log.write(fresh::<annals_domain::RouteId>(), [route_created("/bad")])
        .await;
    until("it fails", async || load().await.unwrap().failures > 0).await;
    let failing = load().await.unwrap();
    until("signs of a failing model", async || {
        load().await.unwrap().lease_until > failing.lease_until
    })
    .await;
    engine.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rebuild_beside_a_running_daemon_loses_and_repeats_nothing() {
    let log = Arc::new(Log::new().await);
    let parent: ContentId = fresh();
    log.write(parent, [content_created(parent, None, Place::Last)]).await;
    let engine = log.engine();
    let going = Arc::new(AtomicBool::new(true));
    let writer = tokio::spawn({
        let (log, going, engine) = (log.clone(), going.clone(), engine.clone());
        async move {
            let mut written = 0;
            while going.load(Ordering::Relaxed) {
                let id: ContentId = fresh();
                let position = log.write(id, [content_created(id, Some(parent), Place::First)]).await;
                engine.wait(&["contents"], position, PATIENCE).await.unwrap();
                // Never stale, also in the moment of the switch.
                let row = content::by_id(&system(), log.database(), parent)
                    .await
                    .unwrap()
                    .unwrap();
                assert_eq!(row.first_child_id, Some(id));
                written += 1;
            }
            written
        }
    });
    for round in 0..6 {
        for model in read_models() {
            let options = RebuildOptions {
                verify: round % 2 == 0,
                dry: false,
            };
            let report = rebuild(&system(), &log.store, model.as_ref(), options, |_| {})
                .await
                .unwrap();
            assert!(report.switched && report.is_equal(), "{report:#?}");
            assert_eq!(report.compared, options.verify);
        }
    }
    going.store(false, Ordering::Relaxed);
    let written: usize = writer.await.unwrap();
    log.wait_for(&engine).await;
    let children = content::children_of(&system(), log.database(), parent).await.unwrap();
    assert_eq!(children.len(), written);
    engine.stop().await;
    log.assert_rebuild_equal().await;
}

#[tokio::test]
async fn a_rebuild_reports_its_progress_and_what_differs() {
    let log = Log::new().await;
    for number in 0..2500 {
        let id: UserId = fresh();
        let name = format!("user{number}");
        log.write(id, [registered(id, &name)]).await;
    }
    log.project().await;
    let users = read_models().remove(0);
    let seen = std::sync::Mutex::new(Vec::new());
    let verify = RebuildOptions {
        verify: true,
        dry: false,
    };
    let report = rebuild(&system(), &log.store, users.as_ref(), verify, |progress| {
        seen.lock().unwrap().push(progress);
    })
    .await
    .unwrap();
    assert!(report.switched && report.compared && report.is_equal(), "{report:?}");
    assert_eq!((report.events, report.position), (2500, Position(2500)));
    let live = report.tables[0].live.as_ref().unwrap();
    assert_eq!((live.rows, report.tables[0].rebuilt_rows), (2500, 2500));
    assert_eq!(live.digest, report.tables[0].rebuilt_digest);
    assert_eq!(live.digest.len(), 32);
    let seen = seen.into_inner().unwrap();
    assert!(seen.len() >= 4 && seen.is_sorted_by_key(|progress| progress.events_done));
    assert!(seen.iter().all(|progress| progress.events_total == 2500));
    assert!(seen.last().unwrap().events_per_second > 0.0);

    // One row changed, one removed, one added by somebody who should not.
    for statement in [
        "update view.users set name = 'Mallory' where username = 'user7'",
        "delete from view.users where username = 'user8'",
        "insert into view.users select gen_random_uuid(), null, null, null, role, verified, disabled, null, created_at,
                updated_at, version from view.users limit 1",
    ] {
        log.database().pool().execute(statement).await.unwrap();
    }
    let report = rebuild(&system(), &log.store, users.as_ref(), verify, |_| {})
        .await
        .unwrap();
    assert!(!report.is_equal() && !report.switched);
    let live = report.tables[0].live.as_ref().unwrap();
    assert_eq!((live.only_live, live.only_rebuilt), (2, 2));
    assert_ne!(live.digest, report.tables[0].rebuilt_digest);
    // Without comparing, the log has the last word.
    let report = rebuild(&system(), &log.store, users.as_ref(), RebuildOptions::default(), |_| {})
        .await
        .unwrap();
    assert!(report.switched && !report.compared);
    log.assert_rebuild_equal().await;
}

#[tokio::test]
async fn a_switch_keeps_indexes_and_grants_and_leaves_no_schema() {
    let log = Log::new().await;
    let id: UserId = fresh();
    log.write(id, [registered(id, "one")]).await;
    log.project().await;
    let mut connection = log.test.superuser().await;
    let reader = format!("reader_{}", log.test.name());
    connection
        .execute(&*format!(
            "create role {reader}; grant select on view.sessions to {reader}"
        ))
        .await
        .unwrap();
    let shape = async |connection: &mut PgConnection| -> Vec<(String,)> {
        sqlx::query_as(
            "select indexname || ' ' || indexdef from pg_indexes where schemaname = 'view'
             union all select conname || ' ' || pg_get_constraintdef(oid) from pg_constraint where connamespace = 'view'::regnamespace
             union all select relname || ' ' || coalesce(relacl::text, '') || relowner::regrole from pg_class
                        where relnamespace = 'view'::regnamespace and relkind = 'r' and relname <> '_sqlx_migrations'
             order by 1",
        )
        .fetch_all(connection)
        .await
        .unwrap()
    };
    let before = shape(&mut connection).await;
    for model in read_models() {
        rebuild(&system(), &log.store, model.as_ref(), RebuildOptions::default(), |_| {})
            .await
            .unwrap();
    }
    let granted: bool = sqlx::query_scalar("select has_table_privilege($1, 'view.sessions', 'select')")
        .bind(&reader)
        .fetch_one(&mut connection)
        .await
        .unwrap();
    assert!(granted);
    connection
        .execute(&*format!("drop owned by {reader}; drop role {reader}"))
        .await
        .unwrap();
    let after = shape(&mut connection).await;
    let names = |shape: &[(String,)]| shape.iter().map(|row| row.0.replace(&reader, "")).collect::<Vec<_>>();
    assert_eq!(names(&after).len(), names(&before).len());
    for (before, after) in before.iter().zip(&after) {
        if !before.0.starts_with("sessions ") {
            assert_eq!(after.0, before.0);
        }
    }
    let left: i64 = sqlx::query_scalar("select count(*) from pg_namespace where nspname like 'rebuild%'")
        .fetch_one(&mut connection)
        .await
        .unwrap();
    assert_eq!(left, 0);
}

#[tokio::test]
async fn tables_that_were_dropped_come_back() {
    let log = Log::new().await;
    let id: ContentId = fresh();
    let set = vec![value(fresh(), None, "kept")];
    let changed = ContentEvent::FieldsChanged {
        set,
        removed: vec![],
        at: at(1),
    };
    log.write(id, [content_created(id, None, Place::Last), changed]).await;
    log.project().await;
    let contents = read_models()
        .into_iter()
        .find(|model| model.name() == "contents")
        .unwrap();

    log.database()
        .pool()
        .execute("drop table view.content_fields")
        .await
        .unwrap();
    let report = rebuild(
        &system(),
        &log.store,
        contents.as_ref(),
        RebuildOptions::default(),
        |_| {},
    )
    .await
    .unwrap();
    assert!(report.switched && !report.compared);
    log.project().await;
    log.assert_rebuild_equal().await;

    // The daemon sees to it as well when it takes the lead.
    log.database()
        .pool()
        .execute("drop table view.content_fields, view.contents")
        .await
        .unwrap();
    log.project().await;
    assert_eq!(
        content::fields(&system(), log.database(), id).await.unwrap()[0].value,
        "kept"
    );
    log.assert_rebuild_equal().await;
}

#[tokio::test]
async fn of_two_rebuilds_of_one_model_the_second_is_refused() {
    let log = Log::new().await;
    let id: UserId = fresh();
    log.write(id, [registered(id, "one")]).await;
    log.project().await;
    let users = read_models().remove(0);
    let mut connection = log.test.superuser().await;
    connection
        .execute("select pg_advisory_lock(hashtextextended('annals rebuild users', 0))")
        .await
        .unwrap();
    let refused = compare(&system(), &log.store, users.as_ref()).await;
    assert!(matches!(refused, Err(RebuildError::Busy("users"))), "{refused:?}");
    drop(connection);
}

#[tokio::test]
async fn a_rebuild_that_cannot_go_on_leaves_the_served_rows() {
    let log = log_with_tally().await;
    let tally = Tally::new(1);
    log.write(fresh::<annals_domain::RouteId>(), [route_created("/bad")])
        .await;
    let engine = log.engine_of(vec![tally.clone()], hasty("one"));
    engine.wait(&["tally"], Position(1), PATIENCE).await.unwrap();
    engine.stop().await;
    tally.broken.store(true, Ordering::Relaxed);
    let failed = rebuild(&system(), &log.store, tally.as_ref(), RebuildOptions::default(), |_| {}).await;
    let Err(RebuildError::Fold { from, to, .. }) = failed else {
        panic!("{failed:?}")
    };
    assert_eq!((from, to), (Position(1), Position(1)));
    assert_eq!(Tally::count(&log).await, 1);
    tally.broken.store(false, Ordering::Relaxed);
    let report = compare(&system(), &log.store, tally.as_ref()).await.unwrap();
    assert!(report.compared && report.is_equal() && !report.switched);
}

#[tokio::test]
async fn status_and_rebuild_take_permission() {
    let log = Log::new().await;
    let models = read_models();
    for caller in [signed_in(fresh(), Role::Editor), Caller::anonymous(fresh())] {
        assert!(status(&caller, &log.store, &models).await.is_err());
        let refused = rebuild(
            &caller,
            &log.store,
            models[0].as_ref(),
            RebuildOptions::default(),
            |_| {},
        )
        .await;
        assert!(matches!(
            refused,
            Err(RebuildError::Denied(Denied::Forbidden(_) | Denied::Unauthenticated))
        ));
    }
    let administrator = signed_in(fresh(), Role::Administrator);
    let statuses = status(&administrator, &log.store, &models).await.unwrap();
    assert!(
        statuses
            .iter()
            .all(|status| status.state == ProjectionState::Standby && status.lag_events == 0)
    );
    assert_eq!(statuses.len(), models.len());
    // Nothing was built yet, and nothing is what the log says.
    for model in &models {
        let report = rebuild(
            &administrator,
            &log.store,
            model.as_ref(),
            RebuildOptions::default(),
            |_| {},
        )
        .await;
        assert!(report.unwrap().switched);
    }
    log.assert_rebuild_equal().await;
    assert_eq!(
        content::list(&administrator, log.database(), Realm::Site, None)
            .await
            .unwrap()
            .total,
        0
    );
}
