//! What is appended, what is refused, and that both are whole.

use std::collections::HashSet;

use annals_domain::{ClaimKey, ClaimScope, ContentEvent, ContentFieldId};
use annals_eventstore::{AppendError, Condition, Position};
use proptest::prelude::{prop, prop_oneof};
use proptest::strategy::{Just, Strategy, ValueTree};
use proptest::test_runner::TestRunner;
use uuid::Uuid;

use super::*;

#[tokio::test]
async fn a_commit_says_where_it_is() {
    let log = TestLog::new().await;
    let id = new_content();
    let first = log.store.append(created(id)).await.unwrap();
    let second = log
        .store
        .append(command(vec![events(
            content(id),
            1,
            vec![
                ContentEvent::Published { at: at() }.into(),
                ContentEvent::Archived { at: at() }.into(),
            ],
        )]))
        .await
        .unwrap();
    assert_eq!((first.first_position, first.last_position), (Position(1), Position(1)));
    assert_eq!(
        (second.first_position, second.last_position),
        (Position(2), Position(3))
    );
    assert!(!first.duplicate && !second.duplicate);
    let head = log.store.head().await.unwrap();
    assert_eq!(
        (head.position, head.entry_hash, head.recorded_at),
        (Position(3), second.entry_hash, Some(second.recorded_at))
    );
    let records = log.store.read_after(Position::START, 10).await.unwrap();
    assert_eq!(
        records.iter().map(|record| record.version).collect::<Vec<_>>(),
        [1, 2, 3]
    );
    assert_eq!(records[0].metadata.command_id, first.command_id);
    assert_eq!(records[2].event, ContentEvent::Archived { at: at() }.into());
}

#[tokio::test]
async fn of_twenty_appends_to_one_version_one_is_carried_out() {
    let log = TestLog::new().await;
    let id = new_content();
    log.store.append(created(id)).await.unwrap();
    let other = log.another().await;
    let racing: Vec<_> = (0..20)
        .map(|number| {
            tokio::spawn(append(
                if number % 2 == 0 { &log.store } else { &other },
                published(id, 1),
            ))
        })
        .collect();
    let mut done = 0;
    for racer in racing {
        match racer.await.unwrap() {
            Ok(_) => done += 1,
            Err(AppendError::Conflict {
                stream,
                expected,
                actual,
            }) => {
                assert_eq!((stream, expected, actual), (content(id), 1, 2));
            }
            Err(error) => panic!("{error}"),
        }
    }
    assert_eq!(done, 1);
    assert_eq!(log.count("log.events").await, 2);
    log.verify().await.unwrap();
}

#[tokio::test]
async fn of_ninety_six_that_want_one_name_one_gets_it() {
    let log = TestLog::new().await;
    let other = log.another().await;
    let racing: Vec<_> = (0..96)
        .map(|number| {
            let store = if number % 2 == 0 { &log.store } else { &other };
            tokio::spawn(append(
                store,
                registered(new_user(), "ada@example.org", &format!("ada{number}")),
            ))
        })
        .collect();
    let mut done = Vec::new();
    for racer in racing {
        match racer.await.unwrap() {
            Ok(appended) => done.push(appended),
            Err(AppendError::Taken { scopes }) => assert_eq!(scopes, [ClaimScope::Email]),
            Err(error) => panic!("{error}"),
        }
    }
    assert_eq!(done.len(), 1);
    // The losers' other claims were not taken either.
    assert_eq!(log.count("log.claims").await, 3);
    assert_eq!(log.count("log.events").await, 1);
    log.verify().await.unwrap();
}

#[tokio::test]
async fn every_command_of_a_batch_is_judged_by_itself() {
    let log = TestLog::new().await;
    // One of each for every command, so that all may go together.
    let (ada, grace, alan) = (new_user(), new_user(), new_user());
    let (keyed_node, stale_node) = (new_content(), new_content());
    let first = log
        .store
        .append(registered(ada, "ada@example.org", "ada"))
        .await
        .unwrap();
    log.store
        .append(registered(grace, "grace@example.org", "grace"))
        .await
        .unwrap();
    log.store
        .append(registered(alan, "alan@example.org", "alan"))
        .await
        .unwrap();
    log.store.append(created(stale_node)).await.unwrap();
    let keyed = Append {
        idempotency: Some(idempotency("key", 1)),
        ..created(keyed_node)
    };
    let keyed_first = log.store.append(keyed.clone()).await.unwrap();
    let used = Append {
        idempotency: Some(idempotency("used", 1)),
        ..created(new_content())
    };
    log.store.append(used).await.unwrap();

    let unknown = ClaimKey::id(Uuid::from_u128(7));
    let alan_is_there = held(ClaimScope::User, ClaimKey::id(alan));
    let alan_is_at = |version| Condition::Version {
        stream: user(alan),
        version,
    };
    let with = |conditions| Append {
        conditions,
        ..created(new_content())
    };
    let before = log.count("log.events").await;
    let answers = log
        .in_one_batch(vec![
            with(vec![alan_is_there.clone(), alan_is_at(1)]),
            Append {
                command_id: first.command_id,
                ..registered(ada, "ada@example.org", "ada")
            },
            Append {
                command_id: Uuid::now_v7(),
                ..keyed.clone()
            },
            Append {
                idempotency: Some(idempotency("used", 2)),
                ..created(new_content())
            },
            registered(new_user(), "grace@example.org", "GRACE"),
            with(vec![alan_is_there, held(ClaimScope::Route, unknown.clone())]),
            published(stale_node, 3),
            with(vec![alan_is_at(2)]),
            registered(new_user(), "edsger@example.org", "edsger"),
        ])
        .await;

    let duplicate = answers[1].as_ref().unwrap();
    assert_eq!(
        *duplicate,
        Appended {
            duplicate: true,
            ..first
        }
    );
    let duplicate = answers[2].as_ref().unwrap();
    assert_eq!(
        *duplicate,
        Appended {
            duplicate: true,
            ..keyed_first
        }
    );
    assert!(
        matches!(answers[3], Err(AppendError::IdempotencyKeyReused)),
        "{:?}",
        answers[3]
    );
    let Err(AppendError::Taken { scopes }) = &answers[4] else {
        panic!("{:?}", answers[4])
    };
    assert_eq!(*scopes, [ClaimScope::Email, ClaimScope::Username]);
    let Err(AppendError::Missing { scope, key }) = &answers[5] else {
        panic!("{:?}", answers[5])
    };
    assert_eq!((*scope, key), (ClaimScope::Route, &unknown));
    let Err(AppendError::Conflict {
        stream,
        expected,
        actual,
    }) = answers[6]
    else {
        panic!("{:?}", answers[6])
    };
    assert_eq!((stream, expected, actual), (content(stale_node), 3, 1));
    let Err(AppendError::Conflict {
        stream,
        expected,
        actual,
    }) = answers[7]
    else {
        panic!("{:?}", answers[7])
    };
    assert_eq!((stream, expected, actual), (user(alan), 2, 1));
    let (fine, fine_too) = (answers[0].as_ref().unwrap(), answers[8].as_ref().unwrap());
    assert_eq!(fine.recorded_at, fine_too.recorded_at, "they were in one batch");
    assert_eq!(fine.last_position.next(), fine_too.first_position);
    // The plug of the batch, and the two that were fine.
    assert_eq!(log.count("log.events").await, before + 3);
    log.verify().await.unwrap();
}

#[tokio::test]
async fn a_refused_commit_leaves_no_event_and_no_claim() {
    let log = TestLog::new().await;
    let (ada, id) = (new_user(), new_content());
    log.store.append(created(id)).await.unwrap();
    let claims = log.count("log.claims").await;
    let refused = command(vec![
        events(user(ada), 0, vec![user_registered(ada, "ada@example.org", "ada")]),
        events(content(id), 5, vec![ContentEvent::Published { at: at() }.into()]),
    ]);
    assert!(matches!(
        log.store.append(refused.clone()).await,
        Err(AppendError::Conflict { actual: 1, .. })
    ));
    assert_eq!(log.count("log.events").await, 1);
    assert_eq!(log.count("log.claims").await, claims);
    assert_eq!(log.count("log.commands").await, 1);
    assert_eq!(log.count("log.streams").await, 1);
    // A refused command may be tried again under its own id.
    let mended = Append {
        streams: vec![
            refused.streams[0].clone(),
            events(content(id), 1, vec![ContentEvent::Published { at: at() }.into()]),
        ],
        ..refused
    };
    assert!(!log.store.append(mended).await.unwrap().duplicate);
}

#[tokio::test]
async fn repeating_a_command_gives_the_first_answer() {
    let log = TestLog::new().await;
    let once = created(new_content());
    let first = log.store.append(once.clone()).await.unwrap();
    log.store.append(created(new_content())).await.unwrap();
    let again = log.store.append(once.clone()).await.unwrap();
    assert_eq!(
        again,
        Appended {
            duplicate: true,
            ..first
        }
    );
    let elsewhere = log.another().await.append(once).await.unwrap();
    assert_eq!(elsewhere, again);
    assert_eq!(log.count("log.events").await, 2);
}

#[tokio::test]
async fn the_same_command_twice_at_once_happens_once() {
    let log = TestLog::new().await;
    let once = created(new_content());
    let answers = log.in_one_batch(vec![once.clone(), once]).await;
    let (first, second) = (answers[0].as_ref().unwrap(), answers[1].as_ref().unwrap());
    assert_eq!(first.first_position, second.first_position);
    assert!(!first.duplicate && second.duplicate);
}

#[tokio::test]
async fn a_command_sees_what_those_before_it_did() {
    let log = TestLog::new().await;
    let (ada, id) = (new_user(), new_content());
    log.store
        .append(registered(ada, "ada@example.org", "ada"))
        .await
        .unwrap();
    let disabled = command(vec![events(
        user(ada),
        1,
        vec![
            UserEvent::Disabled {
                reason: "asked for".to_owned(),
                at: at(),
            }
            .into(),
        ],
    )]);
    let mut needs_user = created(new_content());
    needs_user.conditions = vec![held(ClaimScope::User, ClaimKey::id(ada))];
    let answers = log
        .in_one_batch(vec![created(id), published(id, 1), disabled, needs_user])
        .await;
    let (created, published) = (answers[0].as_ref().unwrap(), answers[1].as_ref().unwrap());
    assert!(created.last_position < published.first_position);
    answers[2].as_ref().unwrap();
    assert!(
        matches!(
            answers[3],
            Err(AppendError::Missing {
                scope: ClaimScope::User,
                ..
            })
        ),
        "{:?}",
        answers[3]
    );
}

#[tokio::test]
async fn malformed_commits_are_refused_in_words() {
    let log = TestLog::new().await;
    let (id, ada) = (new_content(), new_user());
    let refusals = [
        (command(vec![]), "at least one stream"),
        (command(vec![events(content(id), 0, vec![])]), "no events"),
        (
            command(vec![events(user(ada), 0, vec![content_created(id)])]),
            "does not belong",
        ),
        (
            command(vec![
                events(content(id), 0, vec![content_created(id)]),
                events(content(id), 1, vec![content_created(id)]),
            ]),
            "there twice",
        ),
        (
            Append {
                idempotency: Some(idempotency("", 1)),
                ..created(id)
            },
            "idempotency key",
        ),
        (
            Append {
                actor: Actor::System("a\0b".to_owned()),
                ..created(id)
            },
            "zero byte",
        ),
    ];
    for (append, words) in refusals {
        let Err(AppendError::Refused(text)) = log.store.append(append).await else {
            panic!("{words}")
        };
        assert!(text.contains(words), "{text}");
    }
    assert_eq!(log.count("log.events").await, 0);
}

#[derive(Debug, Clone)]
struct Change {
    node: usize,
    set: Vec<u8>,
    removed: Vec<u8>,
    deletes: bool,
}

fn change() -> impl Strategy<Value = Change> {
    let keys = || prop::collection::vec(0_u8..6, 0..3);
    (
        0_usize..4,
        keys(),
        keys(),
        prop_oneof![6 => Just(false), 1 => Just(true)],
    )
        .prop_map(|(node, set, removed, deletes)| Change {
            node,
            set,
            removed,
            deletes,
        })
}

/// Random histories of claims, against the rule in its plainest form: one change after the other on a map.
#[tokio::test]
async fn claims_follow_the_events_in_their_order() {
    let log = TestLog::new().await;
    let nodes: Vec<_> = (0..4).map(|_| new_content()).collect();
    let mut versions = [0_u64; 4];
    let mut owners: std::collections::HashMap<u8, usize> = std::collections::HashMap::new();
    let key = |number: u8| ContentFieldId::new(Uuid::from_u128(u128::from(number) + 1));
    let mut runner = TestRunner::deterministic();
    let histories = prop::collection::vec(prop::collection::vec(change(), 1..4), 120);
    let (mut done, mut refused) = (0, 0);
    for commands in histories.new_tree(&mut runner).unwrap().current() {
        let mut trial = owners.clone();
        let mut allowed = true;
        let mut streams: Vec<StreamAppend> = Vec::new();
        let mut touched = HashSet::new();
        // One stream of a commit has all its events together.
        let mut commands = commands;
        commands.sort_by_key(|change| change.node);
        for change in commands {
            let event: AnyEvent = if change.deletes {
                trial.retain(|_, owner| *owner != change.node);
                ContentEvent::Deleted { at: at() }.into()
            } else {
                for removed in &change.removed {
                    if trial.get(removed) == Some(&change.node) {
                        trial.remove(removed);
                    }
                }
                for set in &change.set {
                    allowed &= *trial.entry(*set).or_insert(change.node) == change.node;
                }
                ContentEvent::FieldsChanged {
                    set: change.set.iter().map(|number| field_value(key(*number))).collect(),
                    removed: change.removed.iter().map(|number| key(*number)).collect(),
                    at: at(),
                }
                .into()
            };
            if touched.insert(change.node) {
                streams.push(events(content(nodes[change.node]), versions[change.node], vec![event]));
            } else {
                streams.last_mut().unwrap().events.push(event);
            }
        }
        let lengths: Vec<_> = streams
            .iter()
            .map(|stream| (stream.stream, stream.events.len() as u64))
            .collect();
        match log.store.append(command(streams)).await {
            Ok(_) => {
                assert!(allowed);
                owners = trial;
                for (stream, length) in lengths {
                    versions[nodes.iter().position(|node| content(*node) == stream).unwrap()] += length;
                }
                done += 1;
            }
            Err(AppendError::Taken { scopes }) => {
                assert!(!allowed);
                assert_eq!(scopes, [ClaimScope::ContentField]);
                refused += 1;
            }
            Err(error) => panic!("{error}"),
        }
        let asked: Vec<_> = (0..6)
            .map(|number| (ClaimScope::ContentField, ClaimKey::id(key(number))))
            .collect();
        let found = log.store.owners_of(&asked).await.unwrap();
        let expected: Vec<_> = (0..6)
            .map(|number| owners.get(&number).map(|node| nodes[*node].as_uuid()))
            .collect();
        assert_eq!(found, expected);
    }
    assert!(done > 20 && refused > 20, "{done} done, {refused} refused");
    log.verify().await.unwrap();
}
