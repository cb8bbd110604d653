//! The check of the log finds every kind of change, and names it.

use annals_domain::{ClaimKey, ClaimScope, ContentEvent};
use annals_eventstore::{Position, VerifyFault};

use super::*;

/// A user, a content node with three events, another node: five events.
async fn history() -> (TestLog, UserId, ContentId) {
    let log = TestLog::new().await;
    let (ada, node) = (new_user(), new_content());
    log.store
        .append(registered(ada, "ada@example.org", "ada"))
        .await
        .unwrap();
    log.store.append(created(node)).await.unwrap();
    log.store.append(published(node, 1)).await.unwrap();
    log.store.append(created(new_content())).await.unwrap();
    let archived = ContentEvent::Archived { at: at() };
    log.store
        .append(command(vec![events(content(node), 2, vec![archived.into()])]))
        .await
        .unwrap();
    (log, ada, node)
}

#[tokio::test]
async fn an_untouched_log_is_in_order() {
    let (log, ..) = history().await;
    let report = log.verify().await.unwrap();
    assert_eq!(
        (
            report.events,
            report.streams,
            report.claims,
            report.claims_not_computable
        ),
        (5, 3, 5, 0)
    );
    assert_eq!(report.head, log.store.head().await.unwrap());
    let part = log.store.verify(Position(3), |_| {}).await.unwrap();
    assert_eq!(
        (part.from, part.events, part.streams, part.claims),
        (Position(3), 3, 2, 0)
    );
    assert_eq!(part.head, report.head);
}

#[tokio::test]
async fn an_empty_log_is_in_order() {
    let log = TestLog::new().await;
    let report = log.verify().await.unwrap();
    assert_eq!((report.events, report.streams, report.claims), (0, 0, 0));
}

#[tokio::test]
async fn one_changed_byte_of_a_payload_is_found() {
    let (log, ..) = history().await;
    let flip = "update log.events set payload = replace(payload::text, 'draft', 'dr4ft')::json where position = 2";
    assert_eq!(log.tamper(flip).await, 1);
    let fault = log.verify().await.unwrap_err();
    assert!(
        matches!(
            fault,
            VerifyFault::Leaf {
                position: Position(2),
                ..
            }
        ),
        "{fault}"
    );
}

#[tokio::test]
async fn space_that_means_nothing_is_found_too() {
    let (log, ..) = history().await;
    log.tamper("update log.events set metadata = (metadata::text || ' ')::json where position = 4")
        .await;
    let fault = log.verify().await.unwrap_err();
    assert!(
        matches!(
            fault,
            VerifyFault::Leaf {
                position: Position(4),
                ..
            }
        ),
        "{fault}"
    );
}

#[tokio::test]
async fn a_changed_time_breaks_the_chain() {
    let (log, ..) = history().await;
    log.tamper("update log.events set recorded_at = recorded_at + interval '1 microsecond' where position = 5")
        .await;
    let fault = log.verify().await.unwrap_err();
    assert!(
        matches!(
            fault,
            VerifyFault::Entry {
                position: Position(5),
                ..
            }
        ),
        "{fault}"
    );
}

#[tokio::test]
async fn time_that_goes_back_is_found() {
    let (log, ..) = history().await;
    log.tamper("update log.events set recorded_at = recorded_at - interval '1 day' where position = 3")
        .await;
    let fault = log.verify().await.unwrap_err();
    assert!(matches!(fault, VerifyFault::Time(Position(3))), "{fault}");
}

#[tokio::test]
async fn a_missing_position_is_found() {
    let (log, ..) = history().await;
    log.tamper("delete from log.events where position = 3").await;
    let fault = log.verify().await.unwrap_err();
    assert!(matches!(fault, VerifyFault::MissingPosition(Position(3))), "{fault}");
}

#[tokio::test]
async fn a_missing_end_is_found() {
    let (log, ..) = history().await;
    log.tamper("delete from log.events where position >= 4").await;
    let fault = log.verify().await.unwrap_err();
    assert!(matches!(fault, VerifyFault::MissingPosition(Position(4))), "{fault}");
}

#[tokio::test]
async fn a_changed_stream_version_is_found() {
    let (log, _, node) = history().await;
    log.tamper(&format!(
        "update log.streams set version = 2 where aggregate_id = '{node}'"
    ))
    .await;
    let fault = log.verify().await.unwrap_err();
    let VerifyFault::StreamVersion { stream, events, listed } = fault else {
        panic!("{fault}")
    };
    assert_eq!((stream, events, listed), (content(node), 3, 2));
}

#[tokio::test]
async fn a_stream_that_is_not_listed_is_found() {
    let (log, ada, _) = history().await;
    log.tamper(&format!("delete from log.streams where aggregate_id = '{ada}'"))
        .await;
    let fault = log.verify().await.unwrap_err();
    let VerifyFault::StreamVersion { stream, events, listed } = fault else {
        panic!("{fault}")
    };
    assert_eq!((stream, events, listed), (user(ada), 1, 0));
}

#[tokio::test]
async fn an_event_renumbered_within_its_stream_is_found() {
    let (log, ..) = history().await;
    log.tamper("update log.events set sequence = 9 where position = 3")
        .await;
    let fault = log.verify().await.unwrap_err();
    assert!(
        matches!(
            fault,
            VerifyFault::Leaf {
                position: Position(3),
                ..
            }
        ),
        "{fault}"
    );
}

#[tokio::test]
async fn a_stolen_claim_is_found() {
    let (log, ada, _) = history().await;
    let thief = new_user();
    log.tamper(&format!(
        "update log.claims set owner_id = '{thief}' where scope = 'email'"
    ))
    .await;
    let fault = log.verify().await.unwrap_err();
    let stored = log
        .store
        .vault()
        .claim_key(ClaimScope::Email, &ClaimKey::Personal("ada@example.org".to_owned()));
    let VerifyFault::Claim {
        scope,
        key,
        owner,
        listed,
    } = fault
    else {
        panic!("{fault}")
    };
    assert_eq!((scope, key), (ClaimScope::Email, hex::encode(stored)));
    assert_eq!((owner, listed), (Some(user(ada)), Some(user(thief))));
}

#[tokio::test]
async fn a_lost_and_an_invented_claim_are_found() {
    let (log, ada, _) = history().await;
    log.tamper("delete from log.claims where scope = 'username'").await;
    let fault = log.verify().await.unwrap_err();
    let VerifyFault::Claim {
        scope, owner, listed, ..
    } = fault
    else {
        panic!("{fault}")
    };
    assert_eq!((scope, owner, listed), (ClaimScope::Username, Some(user(ada)), None));

    let (log, ada, _) = history().await;
    log.tamper(&format!(
        "insert into log.claims (scope, key, owner_type, owner_id, taken_at_position) values ('slug', '\\x2f', 'user', '{ada}', 1)"
    ))
    .await;
    let fault = log.verify().await.unwrap_err();
    let VerifyFault::Claim {
        scope,
        key,
        owner,
        listed,
    } = fault
    else {
        panic!("{fault}")
    };
    assert_eq!(
        (scope, key.as_str(), owner, listed),
        (ClaimScope::Slug, "2f", None, Some(user(ada)))
    );
}

#[tokio::test]
async fn a_changed_actor_is_found() {
    let (log, ..) = history().await;
    log.tamper("update log.events set actor = 'anonymous' where position = 1")
        .await;
    let fault = log.verify().await.unwrap_err();
    assert!(
        matches!(
            fault,
            VerifyFault::Leaf {
                position: Position(1),
                ..
            }
        ),
        "{fault}"
    );
}
