//! Appending without knowing the version, and what may not be written at all.

use annals_domain::{ClaimKey, ClaimScope, ContentEvent};
use annals_eventstore::{AppendError, Condition, Expectation, Hash, Idempotency};

use super::*;

#[tokio::test]
async fn any_version_will_do_and_nobody_is_lost() {
    let log = TestLog::new().await;
    let id = new_content();
    let other = log.another().await;
    log.store
        .append_expecting(created(id), &[Expectation::Any])
        .await
        .unwrap();
    let racing: Vec<_> = (0..20)
        .map(|number| {
            let store = if number % 2 == 0 { &log.store } else { &other }.clone();
            tokio::spawn(async move {
                // The version is looked up, so the one that is given here is not.
                store
                    .append_expecting(published(id, 77), &[Expectation::StreamExists])
                    .await
            })
        })
        .collect();
    for racer in racing {
        racer.await.unwrap().unwrap();
    }
    assert_eq!(log.count("log.events").await, 21);
    log.verify().await.unwrap();
}

#[tokio::test]
async fn a_stream_that_must_exist_or_must_not() {
    let log = TestLog::new().await;
    let (here, nowhere) = (new_content(), new_content());
    let first = created(here);
    let done = log
        .store
        .append_expecting(first.clone(), &[Expectation::NoStream])
        .await
        .unwrap();
    let refused = log
        .store
        .append_expecting(published(nowhere, 0), &[Expectation::StreamExists])
        .await;
    assert!(matches!(refused, Err(AppendError::NoStream { stream }) if stream == content(nowhere)));
    let refused = log
        .store
        .append_expecting(published(here, 0), &[Expectation::NoStream])
        .await;
    assert!(matches!(
        refused,
        Err(AppendError::Conflict {
            expected: 0,
            actual: 1,
            ..
        })
    ));
    let refused = log
        .store
        .append_expecting(published(here, 0), &[Expectation::Exactly(2)])
        .await;
    assert!(matches!(
        refused,
        Err(AppendError::Conflict {
            expected: 2,
            actual: 1,
            ..
        })
    ));
    // The same command once more is the same command, whatever it expects.
    for expectation in [Expectation::NoStream, Expectation::Any, Expectation::Exactly(0)] {
        let again = log.store.append_expecting(first.clone(), &[expectation]).await.unwrap();
        assert!(again.duplicate);
        assert_eq!(
            (again.command_id, again.last_position),
            (done.command_id, done.last_position)
        );
    }
    let refused = log.store.append_expecting(created(nowhere), &[]).await;
    assert!(matches!(refused, Err(AppendError::Refused(_))));
    assert_eq!(log.count("log.events").await, 1);
}

#[tokio::test]
async fn retired_events_are_not_written_alone_or_among_others() {
    let log = TestLog::new().await;
    let (first, second) = (new_content(), new_content());
    log.store.append(created(first)).await.unwrap();
    log.store.append(created(second)).await.unwrap();
    let retired = log
        .tamper("update log.event_schemas set retired_at = now() where event_type = 'content.published'")
        .await;
    assert_eq!(retired, 1);
    let is_refused = |answer: &Result<Appended, AppendError>| {
        matches!(
            answer,
            Err(AppendError::Unregistered {
                event_type: "content.published",
                event_version: "1"
            })
        )
    };
    assert!(is_refused(&log.store.append(published(first, 1)).await));
    let answers = log
        .in_one_batch(vec![
            created(new_content()),
            published(first, 1),
            created(new_content()),
            published(second, 1),
        ])
        .await;
    assert!(answers[0].is_ok() && answers[2].is_ok(), "{answers:?}");
    assert!(is_refused(&answers[1]) && is_refused(&answers[3]), "{answers:?}");
    log.verify().await.unwrap();
    // Announcing them again, as every start does, does not bring them back.
    log.test.database().migrate().await.unwrap();
    assert!(is_refused(&log.store.append(published(first, 1)).await));
}

/// Rows of the tables that an append writes, without what differs from run to run.
async fn rows(log: &TestLog) -> Vec<String> {
    let mut connection = log.test.superuser().await;
    sqlx::query_scalar(
        "select concat_ws(' ', 'event', position, sequence, command_id, correlation_id, causation_id, aggregate_type,
            aggregate_id, event_type, event_version, actor, payload) from log.events
         union all select concat_ws(' ', 'stream', aggregate_type, aggregate_id, version, first_position, last_position)
            from log.streams
         union all select concat_ws(' ', 'claim', scope, encode(key, 'hex'), owner_type, owner_id, taken_at_position)
            from log.claims
         union all select concat_ws(' ', 'command', command_id, first_position, last_position, principal,
            idempotency_key, encode(request_hash, 'hex')) from log.commands
         order by 1",
    )
    .fetch_all(&mut connection)
    .await
    .unwrap()
}

/// Alone, commands are written row by row; together, by one statement for all. Both must come to the same.
#[tokio::test]
async fn a_lone_command_is_written_as_in_a_batch() {
    let (alone, together) = (TestLog::new().await, TestLog::new().await);
    let node = |number: u128| ContentId::new(Uuid::from_u128(number));
    let named = |mut command: Append, number: u128| {
        command.command_id = Uuid::from_u128(1000 + number);
        command.correlation_id = Uuid::from_u128(2000 + number);
        command.causation_id = Uuid::from_u128(3000 + number);
        command
    };
    let plug = named(created(node(96)), 96);
    let mut several = command(vec![
        events(
            content(node(1)),
            0,
            vec![content_created(node(1)), ContentEvent::Published { at: at() }.into()],
        ),
        events(content(node(2)), 0, vec![content_created(node(2))]),
    ]);
    several.idempotency = Some(Idempotency {
        principal: "user:1".to_owned(),
        key: "key".to_owned(),
        request_hash: Hash([7; 32]),
    });
    let deleted = command(vec![events(
        content(node(99)),
        1,
        vec![ContentEvent::Deleted { at: at() }.into()],
    )]);
    let mut bound = created(node(3));
    bound.conditions = vec![
        Condition::Held {
            scope: ClaimScope::Content,
            key: ClaimKey::id(node(98)),
        },
        Condition::Version {
            stream: content(node(97)),
            version: 0,
        },
    ];
    let commands: Vec<_> = [several, deleted, bound]
        .into_iter()
        .zip(1..)
        .map(|(command, number)| named(command, number))
        .collect();
    for log in [&alone, &together] {
        for number in [98, 99] {
            log.store.append(named(created(node(number)), number)).await.unwrap();
        }
    }
    alone.store.append(plug.clone()).await.unwrap();
    for command in commands.clone() {
        alone.store.append(command).await.unwrap();
    }
    for answer in together.in_one_batch_behind(plug, commands).await {
        answer.unwrap();
    }
    assert_eq!(rows(&alone).await, rows(&together).await);
    alone.verify().await.unwrap();
    together.verify().await.unwrap();
}
