//! Reading in order, by filter and by time, while others write.

use std::time::Duration;

use annals_domain::{ContentEvent, registry};
use annals_eventstore::export::{ExportedEvent, export};
use annals_eventstore::{EventFilter, Position, Record, StoreError};

use super::*;

async fn tail(store: EventStore, until: u64, page: usize) -> Vec<Record> {
    let mut seen: Vec<Record> = Vec::new();
    let mut head = store.head_changes();
    while (seen.len() as u64) < until {
        let after = seen.last().map_or(Position::START, |record| record.position);
        let records = store.read_after(after, page).await.unwrap();
        if records.is_empty() {
            let _ = tokio::time::timeout(Duration::from_secs(10), head.wait_for(|head| *head > after))
                .await
                .unwrap();
        }
        seen.extend(records);
    }
    seen
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_see_every_position_in_order_while_sixteen_write() {
    const WRITERS: u64 = 16;
    const EACH: u64 = 15;
    let log = TestLog::new().await;
    let other = log.another().await;
    let readers: Vec<_> = [(&log.store, 1), (&other, 7), (&log.store, 500)]
        .map(|(store, page)| tokio::spawn(tail(store.clone(), WRITERS * EACH * 2, page)))
        .into();
    let writers: Vec<_> = (0..WRITERS)
        .map(|number| {
            let store = if number % 2 == 0 {
                log.store.clone()
            } else {
                other.clone()
            };
            tokio::spawn(async move {
                for _ in 0..EACH {
                    let id = new_content();
                    let both = vec![content_created(id), ContentEvent::Published { at: at() }.into()];
                    store.append(command(vec![events(content(id), 0, both)])).await.unwrap();
                }
            })
        })
        .collect();
    for writer in writers {
        writer.await.unwrap();
    }
    let mut all = Vec::new();
    for reader in readers {
        let seen = tokio::time::timeout(Duration::from_secs(30), reader)
            .await
            .unwrap()
            .unwrap();
        for (record, position) in seen.iter().zip(1..) {
            assert_eq!(record.position, Position(position));
        }
        assert!(seen.windows(2).all(|pair| pair[0].recorded_at <= pair[1].recorded_at));
        all.push(seen);
    }
    assert!(all[0] == all[1] && all[1] == all[2]);
    log.verify().await.unwrap();
}

#[tokio::test]
async fn the_head_of_another_process_is_heard_of() {
    let log = TestLog::new().await;
    let other = log.another().await;
    let mut head = other.head_changes();
    let appended = log.store.append(created(new_content())).await.unwrap();
    let heard = tokio::time::timeout(
        Duration::from_secs(5),
        head.wait_for(|head| *head >= appended.last_position),
    )
    .await;
    assert_eq!(*heard.unwrap().unwrap(), appended.last_position);
    assert_eq!(*log.store.head_changes().borrow(), appended.last_position);
}

#[tokio::test]
async fn a_filter_leaves_out_what_does_not_match() {
    let log = TestLog::new().await;
    let (first, second) = (new_content(), new_content());
    log.store.append(created(first)).await.unwrap();
    let traced = created(second);
    log.store.append(traced.clone()).await.unwrap();
    log.store.append(published(first, 1)).await.unwrap();
    log.store
        .append(registered(new_user(), "ada@example.org", "ada"))
        .await
        .unwrap();
    let positions = async |filter: EventFilter, after: u64, limit: usize| {
        let found = log.store.read_filtered(&filter, Position(after), limit).await.unwrap();
        (
            found.records.iter().map(|record| record.position.0).collect::<Vec<_>>(),
            found.scanned_to.0,
        )
    };
    let all = EventFilter::default();
    assert_eq!(positions(all.clone(), 0, 10).await, (vec![1, 2, 3, 4], 4));
    assert_eq!(positions(all.clone(), 1, 2).await, (vec![2, 3], 3));
    assert_eq!(positions(all.clone(), 4, 2).await, (vec![], 4));
    assert_eq!(positions(all, 0, 0).await, (vec![], 0));
    let types = EventFilter {
        types: vec!["content.created".to_owned()],
        ..EventFilter::default()
    };
    assert_eq!(positions(types, 0, 10).await, (vec![1, 2], 4));
    let stream = EventFilter {
        stream: Some(content(first)),
        ..EventFilter::default()
    };
    assert_eq!(positions(stream.clone(), 0, 10).await, (vec![1, 3], 4));
    assert_eq!(positions(stream, 1, 1).await, (vec![3], 3));
    let users = EventFilter {
        aggregate_type: Some("user".to_owned()),
        ..EventFilter::default()
    };
    assert_eq!(positions(users, 0, 10).await, (vec![4], 4));
    let request = EventFilter {
        correlation_id: Some(traced.correlation_id),
        ..EventFilter::default()
    };
    assert_eq!(positions(request, 0, 10).await, (vec![2], 4));
    let nobody = EventFilter {
        actor: Some(Actor::Anonymous),
        ..EventFilter::default()
    };
    assert_eq!(positions(nobody, 0, 10).await, (vec![], 4));
}

#[tokio::test]
async fn a_moment_names_the_last_position_before_it() {
    let log = TestLog::new().await;
    assert_eq!(log.store.position_at(Timestamp::MAX).await.unwrap(), Position::START);
    let mut appended = Vec::new();
    for _ in 0..5 {
        appended.push(log.store.append(created(new_content())).await.unwrap());
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    assert_eq!(log.store.position_at(Timestamp::MIN).await.unwrap(), Position::START);
    assert_eq!(log.store.position_at(Timestamp::MAX).await.unwrap(), Position(5));
    for one in appended {
        assert_eq!(log.store.position_at(one.recorded_at).await.unwrap(), one.last_position);
        let just_before = Timestamp::from_unix_micros(one.recorded_at.unix_micros() - 1);
        assert_eq!(
            log.store.position_at(just_before).await.unwrap().next(),
            one.first_position
        );
        assert_eq!(
            log.store.entry_hash_at(one.last_position).await.unwrap(),
            Some(one.entry_hash)
        );
    }
    assert_eq!(log.store.entry_hash_at(Position(6)).await.unwrap(), None);
}

#[tokio::test]
async fn a_page_ends_before_an_event_that_cannot_be_read() {
    let log = TestLog::new().await;
    for _ in 0..3 {
        log.store.append(created(new_content())).await.unwrap();
    }
    log.tamper("update log.events set event_version = '99' where position = 2")
        .await;
    let page = log.store.read_after(Position::START, 10).await.unwrap();
    assert_eq!(
        page.iter().map(|record| record.position).collect::<Vec<_>>(),
        [Position(1)]
    );
    let error = log.store.read_after(Position(1), 10).await.unwrap_err();
    let StoreError::Decode { place, source } = &error else {
        panic!("{error}")
    };
    assert_eq!(place, "position 2");
    assert!(matches!(
        source.downcast_ref(),
        Some(registry::DecodeError::NewerVersion { .. })
    ));
    assert_eq!(log.store.read_after(Position(2), 10).await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_hole_stops_a_reader() {
    let log = TestLog::new().await;
    for _ in 0..3 {
        log.store.append(created(new_content())).await.unwrap();
    }
    log.tamper("delete from log.events where position = 2").await;
    let error = log.store.read_after(Position::START, 10).await.unwrap_err();
    assert!(
        matches!(&error, StoreError::Damaged { place, .. } if place == "position 2"),
        "{error}"
    );
}

#[tokio::test]
async fn an_export_can_be_checked_without_the_database() {
    let log = TestLog::new().await;
    log.store
        .append(registered(new_user(), "ada@example.org", "ada"))
        .await
        .unwrap();
    for _ in 0..3 {
        log.store.append(created(new_content())).await.unwrap();
    }
    let mut lines = Vec::new();
    let last = export(
        log.store.database(),
        Position::START,
        Position(u64::MAX),
        &mut lines,
        |_| {},
    )
    .await
    .unwrap();
    assert_eq!(last, Position(4));
    let text = String::from_utf8(lines).unwrap();
    assert!(!text.contains("ada@example.org"));
    let mut previous = Hash::ZERO;
    let mut count = 0;
    for line in text.lines() {
        let event: ExportedEvent = serde_json::from_str(line).unwrap();
        assert!(event.follows(previous));
        let changed = ExportedEvent {
            actor: "system:somebody".to_owned(),
            ..event.clone()
        };
        assert!(!changed.follows(previous));
        previous = event.entry_hash;
        count += 1;
    }
    assert_eq!(count, 4);
    assert_eq!(previous, log.store.head().await.unwrap().entry_hash);
    let mut part = Vec::new();
    export(log.store.database(), Position(1), Position(3), &mut part, |_| {})
        .await
        .unwrap();
    assert_eq!(part.iter().filter(|byte| **byte == b'\n').count(), 2);
}
