//! Faults at named points of one commit: a connection cut before, within and after it, locks not to be had on the
//! repetition, keys lost before anything was written, notifications lost and false ones.

use std::time::Duration;

use annals_domain::User;
use annals_eventstore::{Database, EventStore, Position, WriterOptions};
use annals_tests::kit::proxy::{Aim, Cut, Proxy};

use super::*;

/// Longer than anything here takes, so that it ends only what hangs.
const PATIENCE: Duration = Duration::from_secs(20);

/// A log with a store of another process on it, whose connections can be cut.
struct Proxied {
    log: TestLog,
    proxy: Proxy,
    store: EventStore,
}

impl Proxied {
    async fn new() -> Self {
        Self::with_options(one_lane()).await
    }

    async fn with_options(options: WriterOptions) -> Self {
        let log = TestLog::new().await;
        let proxy = Proxy::start(log.test.connect_options()).await.unwrap();
        let database = Database::connect_with(proxy.connect_options(), log.test.database().options().clone())
            .await
            .unwrap();
        let vault = Vault::open(&database, &master_key()).await.unwrap();
        let store = EventStore::start(database, vault, options);
        Self { log, proxy, store }
    }
}

/// Looks until `done`.
pub(super) async fn until(what: &str, mut done: impl AsyncFnMut() -> bool) {
    let looking = async {
        while !done().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, looking)
        .await
        .unwrap_or_else(|_| panic!("in vain: {what}"));
}

#[tokio::test]
async fn a_commit_cut_at_any_point_happens_once() {
    let proxied = Proxied::new().await;
    // So that the writer has its connection and its statement.
    proxied.store.append(created(new_content())).await.unwrap();
    for (number, cut) in (2..).zip(Cut::ALL) {
        let mut fired = proxied.proxy.fired();
        fired.mark_unchanged();
        proxied.proxy.arm(cut, Aim::Append);
        let once = created(new_content());
        let answer = proxied.store.append(once.clone()).await.unwrap();
        assert!(fired.has_changed().unwrap(), "{cut:?} has not happened");
        assert!(!answer.duplicate, "{cut:?}: to its caller it was the first time");
        assert_eq!(answer.command_id, once.command_id);
        assert_eq!(answer.last_position, Position(number), "{cut:?}");
        // The caller's own repetition is known for what it is.
        let again = proxied.store.append(once).await.unwrap();
        assert_eq!(
            again,
            Appended {
                duplicate: true,
                ..answer
            }
        );
    }
    assert_eq!(proxied.log.count("log.events").await, 6);
    proxied.log.verify().await.unwrap();
}

#[tokio::test]
async fn a_refusal_survives_a_cut_at_any_point() {
    let proxied = Proxied::new().await;
    let node = new_content();
    proxied.store.append(created(node)).await.unwrap();
    for cut in Cut::ALL {
        proxied.proxy.arm(cut, Aim::Append);
        let answer = proxied.store.append(published(node, 7)).await;
        assert!(
            matches!(
                answer,
                Err(AppendError::Conflict {
                    expected: 7,
                    actual: 1,
                    ..
                })
            ),
            "{cut:?}: {answer:?}"
        );
    }
    assert_eq!(proxied.log.count("log.events").await, 1);
}

#[tokio::test]
async fn a_batch_in_doubt_that_cannot_get_the_lock_is_asked_about_again() {
    let proxied = Proxied::new().await;
    proxied.store.append(created(new_content())).await.unwrap();
    let lock = proxied.log.hold_lock().await;
    proxied.proxy.arm(Cut::AfterRequest, Aim::Append);
    let waiting = tokio::spawn(append(&proxied.store, created(new_content())));
    // First the sending that was cut off and its repetition, then a repetition after the lock was not to be had: one
    // session asks a second time.
    let mut superuser = proxied.log.test.superuser().await;
    let mut asked: std::collections::HashMap<i32, i64> = std::collections::HashMap::new();
    until("a session that asks for the lock a second time", async || {
        let waiting: Vec<(i32, i64)> = sqlx::query_as(
            "select pid, (extract(epoch from query_start) * 1000000)::bigint from pg_stat_activity
             where datname = current_database() and wait_event = 'advisory'",
        )
        .fetch_all(&mut superuser)
        .await
        .unwrap();
        waiting
            .into_iter()
            .any(|(pid, since)| *asked.entry(pid).or_insert(since) != since)
    })
    .await;
    assert!(
        !waiting.is_finished(),
        "whether it was carried out is still to be found out"
    );
    lock.give_back().await;
    let answer = waiting.await.unwrap().unwrap();
    assert!(!answer.duplicate);
    assert_eq!(proxied.log.count("log.events").await, 2);
    proxied.log.verify().await.unwrap();
}

#[tokio::test]
async fn a_lock_that_is_not_to_be_had_is_told_and_nothing_is_written() {
    let log = TestLog::new().await;
    let lock = log.hold_lock().await;
    let answer = log.store.append(created(new_content())).await;
    assert!(matches!(answer, Err(AppendError::Unavailable(_))), "{answer:?}");
    lock.give_back().await;
    log.store.append(created(new_content())).await.unwrap();
    assert_eq!(log.count("log.events").await, 1);
}

#[tokio::test]
async fn a_key_lost_before_the_writer_first_connects_is_put_back() {
    let proxied = Proxied::new().await;
    let ada = new_user();
    // The pool has its connection already, and makes the key; the writer has none and gets none yet.
    proxied.proxy.refuse(true);
    let waiting = tokio::spawn(append(&proxied.store, registered(ada, "ada@example.org", "ada")));
    until("a key for the subject", async || {
        proxied.log.count("vault.subject_keys").await == 1
    })
    .await;
    // As a crash would, which the writer cannot know of.
    assert_eq!(proxied.log.tamper("delete from vault.subject_keys").await, 1);
    proxied.proxy.refuse(false);
    waiting.await.unwrap().unwrap();
    let loaded = proxied.log.another().await.load::<User>(ada).await.unwrap();
    assert_eq!(loaded.state.email.unwrap().get().unwrap().as_str(), "ada@example.org");
}

/// Waits until somebody listens for new events, on `sessions` connections.
async fn until_listening(log: &TestLog, sessions: i64) {
    let mut superuser = log.test.superuser().await;
    until("somebody who listens", async || {
        let listening: i64 = sqlx::query_scalar(
            "select count(*) from pg_stat_activity where datname = current_database() and query ilike 'listen %'",
        )
        .fetch_one(&mut superuser)
        .await
        .unwrap();
        listening >= sessions
    })
    .await;
}

#[tokio::test]
async fn a_false_notification_moves_nothing() {
    let log = TestLog::new().await;
    until_listening(&log, 1).await;
    let mut head = log.store.head_changes();
    let mut superuser = log.test.superuser().await;
    for payload in [
        "1000000",
        "9223372036854775807",
        "18446744073709551616",
        "-1",
        "nonsense",
        "",
    ] {
        let notify = sqlx::query("select pg_notify('annals_log', $1)").bind(payload);
        notify.execute(&mut superuser).await.unwrap();
    }
    let other = log.another().await;
    other.append(created(new_content())).await.unwrap();
    let seen = *tokio::time::timeout(PATIENCE, head.wait_for(|head| *head > Position::START))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(seen, Position(1), "the first place that anybody heard of");
    other.append(created(new_content())).await.unwrap();
    let seen = *tokio::time::timeout(PATIENCE, head.wait_for(|head| *head > Position(1)))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(seen, Position(2));
}

#[tokio::test]
async fn a_lost_notification_delays_and_hides_nothing() {
    let proxied = Proxied::new().await;
    until_listening(&proxied.log, 2).await;
    proxied.proxy.lose_notifications(true);
    let mut head = proxied.store.head_changes();
    proxied.log.store.append(created(new_content())).await.unwrap();
    tokio::time::timeout(PATIENCE, head.wait_for(|head| *head == Position(1)))
        .await
        .unwrap()
        .unwrap();
    until("a notification that was lost", async || {
        proxied.proxy.lost_notifications() > 0
    })
    .await;
}

#[tokio::test]
async fn an_answer_that_does_not_come_is_asked_for_again() {
    let proxied = Proxied::with_options(WriterOptions {
        answer_within: Duration::from_millis(300),
        ..one_lane()
    })
    .await;
    proxied.store.append(created(new_content())).await.unwrap();
    proxied.proxy.stall(true);
    let waiting = tokio::spawn(append(&proxied.store, created(new_content())));
    // Twice the time that it waits: whether it has given up by then or not, the outcome must be the same.
    tokio::time::sleep(Duration::from_millis(600)).await;
    proxied.proxy.stall(false);
    let answer = waiting.await.unwrap().unwrap();
    assert!(!answer.duplicate);
    assert_eq!(proxied.log.count("log.events").await, 2);
    proxied.log.verify().await.unwrap();
}

#[tokio::test]
async fn what_was_refused_on_its_repetition_is_not_carried_out_when_the_first_sending_arrives_late() {
    let proxied = Proxied::with_options(WriterOptions {
        answer_within: Duration::from_millis(300),
        ..one_lane()
    })
    .await;
    proxied.store.append(created(new_content())).await.unwrap();
    let node = new_content();
    // It expects the node to be there, which it is not yet.
    let early = published(node, 1);
    let (mut fired, mut closed) = (proxied.proxy.fired(), proxied.proxy.closed());
    let before = *closed.borrow_and_update();
    proxied.proxy.arm(Cut::Held, Aim::Append);
    let waiting = tokio::spawn(append(&proxied.store, early));
    tokio::time::timeout(PATIENCE, fired.wait_for(|fired| *fired == 1))
        .await
        .unwrap()
        .unwrap();
    let answer = waiting.await.unwrap();
    assert!(
        matches!(answer, Err(AppendError::Conflict { actual: 0, .. })),
        "{answer:?}"
    );
    proxied.log.store.append(created(node)).await.unwrap();
    proxied.proxy.release();
    // It has been carried out, or its connection is no more.
    let arrived = async {
        tokio::select! {
            fired = fired.wait_for(|fired| *fired == 2) => drop(fired.unwrap()),
            closed = closed.wait_for(|closed| *closed > before) => drop(closed.unwrap()),
        }
    };
    tokio::time::timeout(PATIENCE, arrived).await.unwrap();
    let written = proxied.log.store.read_stream(&content(node), 0, 10).await.unwrap();
    assert_eq!(written.len(), 1, "refused, and carried out nevertheless");
}
