//! What other event stores got wrong, tried on this one: a test for each, named after what happened there.

use std::time::Duration;

use annals_domain::{Realm, Route, RouteEvent, Slug, User};
use annals_eventstore::database::{DatabaseOptions, Timeouts};
use annals_eventstore::{Head, Position, Record, checkpoint};
use annals_projections::{Engine, EngineOptions, read_models};
use annals_tests::kit::proxy::{Aim, Cut, Proxy};
use sqlx::Executor;

use super::cuts::until;
use super::*;

const PATIENCE: Duration = Duration::from_secs(20);

/// What `log.append` is called with for one `content.published`, by a session that has its own ideas of transactions.
const APPEND_PUBLISHED: &str = "
    select coalesce(outcomes[1], 'ok')
    from log.append(
        array[$1], array[null::text], array[null::text], array[null::bytea],
        array['content'], array['content.published'], array['1'],
        array[1], array['content'], array[$2], array[$3::bigint], array[1], array[1],
        '{}', '{}', '{}',
        '{}', '{}', '{}', '{}', '{}', '{}', '{}',
        array['content'], array[$2::text], array[$3::bigint + 1], array['content.published'], array['1'],
        array[$4], array['{}'], array[$1], array[1], array['system:tests'], array[$1], array[$1],
        array[sha256('')]
    )
";

async fn append_by_hand(connection: &mut PgConnection, node: ContentId, expected: i64) -> Result<String, sqlx::Error> {
    let event: AnyEvent = ContentEvent::Published { at: at() }.into();
    sqlx::query_scalar(APPEND_PUBLISHED)
        .bind(Uuid::now_v7())
        .bind(node.as_uuid())
        .bind(expected)
        .bind(event.payload().unwrap().to_string())
        .fetch_one(connection)
        .await
}

async fn read_all(store: &EventStore, page: usize) -> Vec<Record> {
    let mut records: Vec<Record> = Vec::new();
    loop {
        let after = records.last().map_or(Position::START, |record| record.position);
        let more = store.read_after(after, page).await.unwrap();
        if more.is_empty() {
            return records;
        }
        records.extend(more);
    }
}

fn route_on(id: Uuid, expected: Version, event: RouteEvent) -> Append {
    command(vec![events(StreamId::new("route", id), expected, vec![event.into()])])
}

fn route_created(slug: &str) -> RouteEvent {
    RouteEvent::Created {
        realm: Realm::Site,
        slug: Slug::parse(slug).unwrap(),
        title: String::new(),
        status: 0,
        author_id: None,
        date_created: None,
        date_modified: None,
        at: at(),
    }
}

fn route_changed(slug: &str) -> RouteEvent {
    RouteEvent::Changed {
        realm: Realm::Site,
        slug: Slug::parse(slug).unwrap(),
        title: String::new(),
        status: 0,
        author_id: None,
        date_created: None,
        date_modified: None,
        at: at(),
    }
}

/// Marten #4964: a trigger on the table of events hid the row of one event from the statement that inserted it, and
/// the append went through with one event fewer.
#[tokio::test]
async fn a_trigger_that_hides_one_events_row_is_noticed() {
    let log = TestLog::new().await;
    let node = new_content();
    log.store.append(created(node)).await.unwrap();
    let mut superuser = log.test.superuser().await;
    superuser
        .execute(
            "create function public.hide() returns trigger language plpgsql as
                 $$ begin if new.event_type = 'content.archived' then return null; end if; return new; end $$;
             create trigger hide before insert on log.events for each row execute function public.hide()",
        )
        .await
        .unwrap();
    let change = command(vec![events(
        content(node),
        1,
        vec![
            ContentEvent::Published { at: at() }.into(),
            ContentEvent::Archived { at: at() }.into(),
            ContentEvent::Submitted { at: at() }.into(),
        ],
    )]);
    let hidden = change.clone();
    let answer = log.store.append(change).await;
    assert!(matches!(answer, Err(AppendError::Unavailable(_))), "{answer:?}");
    // Nor among others, which lose nothing by it.
    let others = [new_content(), new_content()];
    let answers = log
        .in_one_batch(vec![created(others[0]), hidden, created(others[1])])
        .await;
    assert!(answers[0].is_ok() && answers[2].is_ok(), "{answers:?}");
    assert!(matches!(answers[1], Err(AppendError::Unavailable(_))), "{answers:?}");
    assert_eq!(log.count("log.events").await, 4);
    log.verify().await.unwrap();
}

/// Eventuous #582: of 20 parallel appends to one stream half were lost, because lock and check were one statement.
#[tokio::test]
async fn of_twenty_parallel_appends_that_try_again_none_is_lost() {
    let log = TestLog::new().await;
    let other = log.another().await;
    let node = new_content();
    log.store.append(created(node)).await.unwrap();
    let appending: Vec<_> = (0..20)
        .map(|number| {
            let store = if number % 2 == 0 {
                log.store.clone()
            } else {
                other.clone()
            };
            tokio::spawn(async move {
                let mut expected = 1;
                loop {
                    match store.append(published(node, expected)).await {
                        Ok(appended) => return appended.last_position,
                        Err(AppendError::Conflict { actual, .. }) => expected = actual,
                        Err(error) => panic!("{error}"),
                    }
                }
            })
        })
        .collect();
    let mut positions = Vec::new();
    for appending in appending {
        positions.push(appending.await.unwrap().get());
    }
    positions.sort_unstable();
    assert_eq!(positions, (2..=21).collect::<Vec<u64>>());
    let versions: Vec<Version> = log
        .store
        .read_stream(&content(node), 0, 100)
        .await
        .unwrap()
        .iter()
        .map(|record| record.version)
        .collect();
    assert_eq!(versions, (1..=21).collect::<Vec<u64>>());
    log.verify().await.unwrap();
}

/// Zitadel #12703: a slow transaction committed events with an older stamp than those that readers had already seen,
/// and readers never saw them.
#[tokio::test]
async fn a_slow_transaction_with_an_older_stamp_comes_after_what_was_read() {
    let log = TestLog::new().await;
    let (fast, slow) = (new_content(), new_content());
    log.store.append(created(slow)).await.unwrap();
    let mut late = log.test.superuser().await;
    late.execute("begin; select now()").await.unwrap();
    log.store.append(created(fast)).await.unwrap();
    let seen = read_all(&log.store, 10).await;
    assert_eq!(seen.len(), 2);
    assert_eq!(append_by_hand(&mut late, slow, 1).await.unwrap(), "ok");
    assert_eq!(read_all(&log.store, 10).await.len(), 2, "not before it is committed");
    late.execute("commit").await.unwrap();
    let after = log.store.read_after(seen[1].position, 10).await.unwrap();
    assert_eq!(after.len(), 1);
    assert_eq!((after[0].position, after[0].stream), (Position(3), content(slow)));
    assert!(after[0].recorded_at >= seen[1].recorded_at, "time goes with positions");
}

/// Zitadel #10710: events with equal timestamps were skipped or repeated by readers whose cursor was the time.
#[tokio::test]
async fn equal_timestamps_hide_and_repeat_nothing() {
    let log = TestLog::new().await;
    let answers = log.in_one_batch((0..6).map(|_| created(new_content())).collect()).await;
    let moment = answers[0].as_ref().unwrap().recorded_at;
    assert!(answers.iter().flatten().all(|answer| answer.recorded_at == moment));
    for page in [1, 2, 5] {
        let positions: Vec<u64> = read_all(&log.store, page)
            .await
            .iter()
            .map(|record| record.position.get())
            .collect();
        assert_eq!(positions, (1..=7).collect::<Vec<u64>>(), "in pages of {page}");
    }
    assert_eq!(log.store.position_at(moment).await.unwrap(), Position(7));
}

/// disintegrate #205: events were written first and checked afterwards; a crash in between left unchecked ones.
#[tokio::test]
async fn a_crash_within_the_commit_leaves_nothing_of_it() {
    let log = TestLog::new().await;
    log.store.append(created(new_content())).await.unwrap();
    let mut superuser = log.test.superuser().await;
    // Stops the commit after its events are inserted and before its command is.
    superuser
        .execute("begin; lock table log.commands in share mode")
        .await
        .unwrap();
    let waiting = tokio::spawn(append(&log.store, created(new_content())));
    let mut watcher = log.test.superuser().await;
    let halfway = "select pid from pg_locks where relation = 'log.commands'::regclass and not granted";
    let mut halves = 0;
    // Its repetition gets no further.
    while halves < 2 {
        let mut pid: Option<i32> = None;
        until("a commit that is half done", async || {
            pid = sqlx::query_scalar(halfway).fetch_optional(&mut watcher).await.unwrap();
            pid.is_some()
        })
        .await;
        assert_eq!(log.store.head().await.unwrap().position, Position(1));
        let cut = sqlx::query("select pg_terminate_backend($1, 5000)").bind(pid);
        cut.execute(&mut watcher).await.unwrap();
        assert_eq!(log.count("log.events").await, 1);
        halves += 1;
    }
    superuser.execute("rollback").await.unwrap();
    let answer = waiting.await.unwrap().unwrap();
    assert_eq!((answer.last_position, answer.duplicate), (Position(2), false));
    log.verify().await.unwrap();
}

/// Marten #5304: a lease holder that died hard kept its lease, and nobody took over.
#[tokio::test]
async fn a_lease_holder_that_dies_hard_is_succeeded_and_moves_nothing_more() {
    let log = TestLog::new().await;
    let database = log.test.database();
    let pool = database.pool();
    let appended = log.store.append(created(new_content())).await.unwrap();
    let dead = checkpoint::acquire(pool, "users", 1, "dead", Duration::from_millis(200))
        .await
        .unwrap()
        .unwrap();
    let mut heir = None;
    until("a successor", async || {
        heir = checkpoint::acquire(pool, "users", 1, "heir", Duration::from_secs(60))
            .await
            .unwrap();
        heir.is_some()
    })
    .await;
    let heir = heir.unwrap();
    assert!(heir.epoch > dead.epoch);
    // It was only asleep, and is still sure of its lease.
    let mut connection = pool.acquire().await.unwrap();
    let advance = async |connection: &mut PgConnection, epoch| {
        let (from, to) = (Position::START, appended.last_position);
        checkpoint::advance(connection, "users", from, to, appended.entry_hash, epoch)
            .await
            .unwrap()
    };
    assert!(!advance(&mut connection, dead.epoch).await);
    assert!(
        checkpoint::renew(pool, "dead", &["users"], PATIENCE)
            .await
            .unwrap()
            .is_empty()
    );
    assert!(advance(&mut connection, heir.epoch).await);
}

/// Marten #2519: with zero events the daemon waited for ever for something to be there.
#[tokio::test]
async fn zero_events_are_waited_for_no_longer_than_for_any_number() {
    let log = TestLog::new().await;
    assert_eq!(log.store.head().await.unwrap(), Head::EMPTY);
    assert_eq!(read_all(&log.store, 10).await, []);
    assert_eq!(log.verify().await.unwrap().events, 0);
    let engine = Engine::start(log.store.clone(), read_models(), EngineOptions::default());
    let names: Vec<&str> = read_models().iter().map(|model| model.name()).collect();
    engine.wait(&names, Position::START, PATIENCE).await.unwrap();
    // And the first event finds it awake.
    let first = log.store.append(created(new_content())).await.unwrap();
    engine.wait(&names, first.last_position, PATIENCE).await.unwrap();
    engine.stop().await;
}

/// Marten #5062: an empty batch was committed, and failed or moved things that had nothing to move.
#[tokio::test]
async fn an_empty_batch_moves_nothing() {
    let log = TestLog::new().await;
    let (node, once) = (new_content(), created(new_content()));
    log.store.append(created(node)).await.unwrap();
    log.store.append(once.clone()).await.unwrap();
    let head = log.store.head().await.unwrap();
    // A commit without events, and a batch in which none is left: repeated, stale, both.
    assert!(matches!(
        log.store.append(command(vec![])).await,
        Err(AppendError::Refused(_))
    ));
    let lock = log.hold_lock().await;
    let asked = [once, published(node, 5), published(node, 0)].map(|command| tokio::spawn(append(&log.store, command)));
    log.until_waiting(1).await;
    lock.give_back().await;
    let mut answers = Vec::new();
    for asked in asked {
        answers.push(asked.await.unwrap());
    }
    assert!(answers[0].as_ref().unwrap().duplicate);
    assert!(matches!(answers[1], Err(AppendError::Conflict { actual: 1, .. })));
    assert!(matches!(answers[2], Err(AppendError::Conflict { actual: 1, .. })));
    assert_eq!(log.store.head().await.unwrap(), head);
    let next = log.store.append(published(node, 1)).await.unwrap();
    assert_eq!(next.first_position, head.position.next());
    log.verify().await.unwrap();
}

/// Marten #5234: masking one subject's data changed that of others, of other tenants even.
#[tokio::test]
async fn erasing_one_subject_leaves_every_other_untouched() {
    let log = TestLog::new().await;
    let people: Vec<UserId> = (0..5).map(|_| new_user()).collect();
    for (number, person) in people.iter().enumerate() {
        let email = format!("p{number}@example.org");
        log.store
            .append(registered(*person, &email, &format!("p{number}")))
            .await
            .unwrap();
    }
    let before = read_all(&log.store, 10).await;
    log.store.vault().erase(people[2].as_uuid()).await.unwrap();
    // By a process that has nothing of it in memory.
    let other = log.another().await;
    for (number, person) in people.iter().enumerate() {
        let loaded = other.load::<User>(*person).await.unwrap();
        let email = loaded.state.email.unwrap();
        let expected = (number != 2).then(|| format!("p{number}@example.org"));
        assert_eq!(email.get().map(|email| email.as_str().to_owned()), expected);
    }
    let after = read_all(&other, 10).await;
    for (number, (before, after)) in before.iter().zip(&after).enumerate() {
        assert_eq!(before.entry_hash, after.entry_hash);
        assert_eq!(before == after, number != 2);
    }
    log.verify().await.unwrap();
}

/// Marten #5344: a second stream took a natural key, and the first one's owner lost it without a word.
#[tokio::test]
async fn a_natural_key_cannot_be_stolen() {
    let log = TestLog::new().await;
    let (first, second) = (Uuid::now_v7(), Uuid::now_v7());
    let key = annals_domain::claims::slug_key(Realm::Site, &Slug::parse("/home").unwrap());
    let owner = async || log.store.owner_of(ClaimScope::Slug, &key).await.unwrap();
    let taken = |answer: Result<Appended, AppendError>| {
        assert!(
            matches!(&answer, Err(AppendError::Taken { scopes }) if *scopes == [ClaimScope::Slug]),
            "{answer:?}"
        );
    };
    log.store
        .append(route_on(first, 0, route_created("/home")))
        .await
        .unwrap();
    taken(log.store.append(route_on(second, 0, route_created("/home"))).await);
    log.store
        .append(route_on(second, 0, route_created("/away")))
        .await
        .unwrap();
    taken(log.store.append(route_on(second, 1, route_changed("/home"))).await);
    // Not by way of a commit that gives it back at once either.
    let borrowed = command(vec![events(
        StreamId::new("route", second),
        1,
        vec![route_changed("/home").into(), route_changed("/else").into()],
    )]);
    taken(log.store.append(borrowed).await);
    assert_eq!(owner().await, Some(first));
    // The owner's own writes keep it, and what it gives up is free for others, and then no longer its own.
    log.store
        .append(route_on(first, 1, route_changed("/home")))
        .await
        .unwrap();
    assert_eq!(owner().await, Some(first));
    log.store
        .append(route_on(first, 2, route_changed("/left")))
        .await
        .unwrap();
    log.store
        .append(route_on(second, 1, route_changed("/home")))
        .await
        .unwrap();
    assert_eq!(owner().await, Some(second));
    taken(log.store.append(route_on(first, 3, route_changed("/home"))).await);
    // The end of who once held it takes nothing from who holds it now.
    let end = RouteEvent::Deleted { at: at() };
    log.store.append(route_on(first, 3, end)).await.unwrap();
    assert_eq!(owner().await, Some(second));
    assert!(log.store.load::<Route>(second).await.unwrap().version > 0);
    log.verify().await.unwrap();
}

/// Marten #5090: a session that was left idle in its transaction kept the lock that the daemon needed, for ever.
#[tokio::test]
async fn a_session_left_idle_in_its_transaction_is_ended() {
    let log = TestLog::new().await;
    let node = new_content();
    log.store.append(created(node)).await.unwrap();
    assert!(Timeouts::APPEND.idle_in_transaction > Duration::ZERO);
    assert!(Timeouts::POOL.idle_in_transaction > Duration::ZERO);
    let forgetful = log.test.database().with_options(DatabaseOptions {
        timeouts: Timeouts {
            idle_in_transaction: Duration::from_millis(300),
            ..Timeouts::POOL
        },
        ..DatabaseOptions::default()
    });
    // One holds a reader's checkpoint, the other has appended and with that holds the lock of the log.
    checkpoint::acquire(forgetful.pool(), "users", 1, "forgetful", Duration::from_millis(1))
        .await
        .unwrap()
        .unwrap();
    let mut reader = forgetful.pool().begin().await.unwrap();
    checkpoint::lock(&mut reader, "users").await.unwrap().unwrap();
    let mut writer = forgetful.pool().begin().await.unwrap();
    assert_eq!(append_by_hand(&mut writer, node, 1).await.unwrap(), "ok");

    let appended = log.store.append(created(new_content())).await.unwrap();
    assert_eq!(
        appended.last_position,
        Position(2),
        "what was never committed is not there"
    );
    let heir = checkpoint::acquire(log.test.database().pool(), "users", 1, "heir", PATIENCE)
        .await
        .unwrap();
    assert!(heir.is_some());
    log.verify().await.unwrap();
}

/// Marten #5262: a commit of unknown outcome was retried, and happened twice.
#[tokio::test]
async fn a_commit_of_unknown_outcome_that_is_retried_happens_once() {
    let log = TestLog::new().await;
    let proxy = Proxy::start(log.test.connect_options()).await.unwrap();
    let database = annals_eventstore::Database::connect_with(proxy.connect_options(), DatabaseOptions::default())
        .await
        .unwrap();
    let vault = Vault::open(&database, &master_key()).await.unwrap();
    let store = EventStore::start(
        database,
        vault,
        WriterOptions {
            connect_within: Duration::from_millis(100),
            resolve_within: Duration::from_millis(100),
            ..one_lane()
        },
    );
    store.append(created(new_content())).await.unwrap();
    let once = created(new_content());
    // The commit happens, its answer is lost, and nobody can be asked.
    let mut fired = proxy.fired();
    proxy.arm(Cut::BeforeAnswer, Aim::Append);
    proxy.refuse(true);
    let answer = store.append(once.clone()).await;
    assert!(matches!(answer, Err(AppendError::OutcomeUnknown)), "{answer:?}");
    assert!(fired.borrow_and_update().to_owned() == 1);
    assert_eq!(log.count("log.events").await, 2);
    proxy.refuse(false);
    let again = store.append(once).await.unwrap();
    assert!(again.duplicate);
    assert_eq!(again.last_position, Position(2));
    assert_eq!(log.count("log.events").await, 2);
    log.verify().await.unwrap();
}

/// Marten #4961: after an outage of the database under LISTEN nobody listened any more, and readers stood still.
#[tokio::test]
async fn an_outage_under_listen_ends_with_the_outage() {
    let log = TestLog::new().await;
    let proxy = Proxy::start(log.test.connect_options()).await.unwrap();
    let database = annals_eventstore::Database::connect_with(proxy.connect_options(), DatabaseOptions::default())
        .await
        .unwrap();
    let vault = Vault::open(&database, &master_key()).await.unwrap();
    let store = EventStore::start(database, vault, one_lane());
    let mut head = store.head_changes();
    let mut arrives = async |position: u64| {
        tokio::time::timeout(PATIENCE, head.wait_for(|head| head.get() >= position))
            .await
            .unwrap()
            .unwrap();
    };
    log.store.append(created(new_content())).await.unwrap();
    arrives(1).await;
    proxy.refuse(true);
    proxy.cut_all();
    log.store.append(created(new_content())).await.unwrap();
    proxy.refuse(false);
    arrives(2).await;
    // Not by looking every second alone: somebody listens again.
    let mut superuser = log.test.superuser().await;
    until("a new listener beside that of the other store", async || {
        let listening: i64 = sqlx::query_scalar(
            "select count(*) from pg_stat_activity
             where datname = current_database() and query ilike 'listen %' and client_addr is null",
        )
        .fetch_one(&mut superuser)
        .await
        .unwrap();
        listening >= 2
    })
    .await;
    log.store.append(created(new_content())).await.unwrap();
    arrives(3).await;
    assert_eq!(read_all(&store, 2).await.len(), 3);
}
