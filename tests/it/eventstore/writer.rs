//! The writer when things go wrong around it.

use std::time::Duration;

use annals_domain::User;
use annals_eventstore::{AppendError, Position, StoreError, WriterOptions};

use super::*;

#[tokio::test]
async fn a_connection_lost_while_committing_is_made_good() {
    let log = TestLog::new().await;
    let lock = log.hold_lock().await;
    let waiting = tokio::spawn(append(&log.store, created(new_content())));
    log.until_waiting(1).await;
    log.cut_waiting().await;
    log.until_waiting(1).await;
    lock.give_back().await;
    let appended = waiting.await.unwrap().unwrap();
    assert!(!appended.duplicate);
    assert_eq!(appended.last_position, Position(1));
    assert_eq!(log.count("log.events").await, 1);
}

#[tokio::test]
async fn a_commit_whose_answer_was_lost_is_found_by_its_id() {
    let log = TestLog::new().await;
    let other = log.another().await;
    let once = created(new_content());
    let lock = log.hold_lock().await;
    let waiting = tokio::spawn(append(&log.store, once.clone()));
    log.until_waiting(1).await;
    // Stands for the commit that reached the server: it is before the repetition in the queue for the lock.
    let reached = tokio::spawn(append(&other, once));
    log.until_waiting(2).await;
    let mut superuser = log.test.superuser().await;
    sqlx::query(
        "select pg_terminate_backend(pid) from pg_stat_activity
         where datname = current_database() and wait_event_type = 'Lock' order by query_start limit 1",
    )
    .execute(&mut superuser)
    .await
    .unwrap();
    tokio::time::sleep(Duration::from_millis(300)).await;
    lock.give_back().await;
    let (answer, reached) = (waiting.await.unwrap().unwrap(), reached.await.unwrap().unwrap());
    assert_eq!(answer, reached);
    assert!(!answer.duplicate, "to its caller it was the first time");
    assert_eq!(log.count("log.events").await, 1);
}

#[tokio::test]
async fn keys_lost_in_a_crash_are_put_back_before_what_they_seal_is_written() {
    let log = TestLog::new().await;
    let ada = new_user();
    let lock = log.hold_lock().await;
    let waiting = tokio::spawn(append(&log.store, registered(ada, "ada@example.org", "ada")));
    log.until_waiting(1).await;
    assert_eq!(log.tamper("delete from vault.subject_keys").await, 1);
    log.cut_waiting().await;
    log.until_waiting(1).await;
    lock.give_back().await;
    waiting.await.unwrap().unwrap();
    let loaded = log.another().await.load::<User>(ada).await.unwrap();
    assert_eq!(loaded.state.email.unwrap().get().unwrap().as_str(), "ada@example.org");
}

#[tokio::test]
async fn what_was_sealed_with_a_key_that_is_gone_is_not_written() {
    let log = TestLog::new().await;
    let ada = new_user();
    let lock = log.hold_lock().await;
    let waiting = tokio::spawn(append(&log.store, registered(ada, "ada@example.org", "ada")));
    log.until_waiting(1).await;
    log.store.vault().erase(ada.as_uuid()).await.unwrap();
    log.cut_waiting().await;
    assert!(matches!(waiting.await.unwrap(), Err(AppendError::OutcomeUnknown)));
    lock.give_back().await;
    log.store.append(created(new_content())).await.unwrap();
    assert_eq!(log.count("log.events").await, 1);
}

#[tokio::test]
async fn a_database_that_cannot_be_reached_is_said_to_be_so() {
    let options = WriterOptions {
        connect_within: Duration::from_millis(200),
        resolve_within: Duration::from_millis(400),
        ..one_lane()
    };
    let log = TestLog::with_options(options).await;
    let mut elsewhere = sqlx::ConnectOptions::connect(&log.test.connect_options().database("postgres"))
        .await
        .unwrap();
    let name = log.test.name();
    let close = format!("alter database {name} with allow_connections false");
    sqlx::query(&close).execute(&mut elsewhere).await.unwrap();
    let answer = log.store.append(created(new_content())).await;
    assert!(matches!(answer, Err(AppendError::Unavailable(_))), "{answer:?}");
    let open = format!("alter database {name} with allow_connections true");
    sqlx::query(&open).execute(&mut elsewhere).await.unwrap();
    log.store.append(created(new_content())).await.unwrap();

    // Now with a connection that dies under a commit and cannot be had again.
    let lock = log.hold_lock().await;
    let waiting = tokio::spawn(append(&log.store, created(new_content())));
    log.until_waiting(1).await;
    sqlx::query(&close).execute(&mut elsewhere).await.unwrap();
    let cut = "select pg_terminate_backend(pid) from pg_stat_activity where datname = $1 and wait_event_type = 'Lock'";
    sqlx::query(cut).bind(name).execute(&mut elsewhere).await.unwrap();
    assert!(matches!(waiting.await.unwrap(), Err(AppendError::OutcomeUnknown)));
    sqlx::query(&open).execute(&mut elsewhere).await.unwrap();
    lock.give_back().await;
    log.store.append(created(new_content())).await.unwrap();
    log.verify().await.unwrap();
}

#[tokio::test]
async fn a_full_queue_says_when_to_come_back() {
    let log = TestLog::with_options(WriterOptions {
        queue_commands: 4,
        ..one_lane()
    })
    .await;
    let lock = log.hold_lock().await;
    let mut waiting = vec![tokio::spawn(append(&log.store, created(new_content())))];
    log.until_waiting(1).await;
    waiting.extend((0..20).map(|_| tokio::spawn(append(&log.store, created(new_content())))));
    tokio::time::sleep(Duration::from_millis(200)).await;
    lock.give_back().await;
    let (mut done, mut refused) = (0, 0);
    for answer in waiting {
        match answer.await.unwrap() {
            Ok(_) => done += 1,
            Err(AppendError::Overloaded { retry_after }) => {
                assert!(retry_after > Duration::ZERO);
                refused += 1;
            }
            Err(error) => panic!("{error}"),
        }
    }
    assert_eq!((done, refused), (5, 16));
    assert_eq!(log.count("log.events").await, 5);
}

#[tokio::test]
async fn a_caller_that_goes_away_cancels_nothing() {
    let log = TestLog::new().await;
    let lock = log.hold_lock().await;
    let plug = tokio::spawn(append(&log.store, created(new_content())));
    log.until_waiting(1).await;
    let abandoned = tokio::spawn(append(&log.store, created(new_content())));
    tokio::time::sleep(Duration::from_millis(100)).await;
    abandoned.abort();
    assert!(abandoned.await.unwrap_err().is_cancelled());
    lock.give_back().await;
    plug.await.unwrap().unwrap();
    log.store.close().await;
    assert_eq!(log.count("log.events").await, 2);
}

#[tokio::test]
async fn closing_carries_out_what_was_accepted_and_accepts_nothing_more() {
    let log = TestLog::new().await;
    let lock = log.hold_lock().await;
    let waiting: Vec<_> = (0..6)
        .map(|_| tokio::spawn(append(&log.store, created(new_content()))))
        .collect();
    log.until_waiting(1).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    let store = log.store.clone();
    let closing = tokio::spawn(async move { store.close().await });
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(!closing.is_finished());
    lock.give_back().await;
    for answer in waiting {
        answer.await.unwrap().unwrap();
    }
    closing.await.unwrap();
    log.store.close().await;
    let late = log.store.append(created(new_content())).await;
    let Err(AppendError::Unavailable(source)) = late else {
        panic!("{late:?}")
    };
    assert!(matches!(*source, StoreError::Closed));
    assert_eq!(log.count("log.events").await, 6);
}

#[tokio::test]
async fn one_spoilt_command_does_not_spoil_its_batch() {
    let log = TestLog::new().await;
    // A row that only somebody with all rights could have written: the version of a stream the list knows nothing of.
    let (node, spoilt) = (new_content(), new_content());
    log.store.append(created(spoilt)).await.unwrap();
    log.tamper(&format!("delete from log.streams where aggregate_id = '{spoilt}'"))
        .await;
    let answers = log
        .in_one_batch(vec![created(node), created(spoilt), created(new_content())])
        .await;
    assert!(answers[0].is_ok() && answers[2].is_ok(), "{answers:?}");
    assert!(
        matches!(answers[1], Err(AppendError::Unavailable(_) | AppendError::Taken { .. })),
        "{:?}",
        answers[1]
    );
}

#[tokio::test]
async fn a_large_batch_is_sent_while_another_one_waits_for_the_log() {
    let log = TestLog::with_options(WriterOptions::default()).await;
    let lock = log.hold_lock().await;
    let first = tokio::spawn(append(&log.store, created(new_content())));
    log.until_waiting(1).await;
    let few: Vec<_> = (0..8)
        .map(|_| tokio::spawn(append(&log.store, created(new_content()))))
        .collect();
    let many: Vec<_> = (0..64)
        .map(|_| tokio::spawn(append(&log.store, created(new_content()))))
        .collect();
    // The second sending: enough are waiting for it, whatever becomes of the first.
    log.until_waiting(2).await;
    lock.give_back().await;
    let mut positions = vec![first.await.unwrap().unwrap().last_position];
    for answer in few.into_iter().chain(many) {
        positions.push(answer.await.unwrap().unwrap().last_position);
    }
    positions.sort_unstable();
    assert_eq!(positions, (1..=73).map(Position).collect::<Vec<_>>());
    log.verify().await.unwrap();
}
