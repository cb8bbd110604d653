//! Kept states: used when they may be, never trusted further, and gone with the people in them.

use std::time::Instant;

use annals_domain::{Content, User, UserEvent};
use annals_eventstore::length::LONG_STREAM;
use annals_eventstore::{Loaded, SnapshotOptions, Snapshotter, StoreError};

use super::*;

/// Longer than anything here takes, so that it ends only what hangs.
const PATIENCE: Duration = Duration::from_secs(60);

/// A snapshot every ten events, each of them checked, without rest.
fn often() -> SnapshotOptions {
    SnapshotOptions {
        every_events: 10,
        check_every: 1,
        pause: Duration::ZERO,
        lease: Duration::from_secs(2),
        retry: Duration::from_millis(10),
        owner: String::new(),
    }
}

/// Keeps what is due now, and ends.
async fn keep(log: &TestLog) {
    keep_with(log, often()).await;
}

async fn keep_with(log: &TestLog, options: SnapshotOptions) {
    let snapshotter = Snapshotter::start(log.store.clone(), options);
    until_kept(log, &snapshotter).await;
    snapshotter.stop().await;
}

async fn until_kept(log: &TestLog, snapshotter: &Snapshotter) {
    let head = log.store.head().await.unwrap().position;
    tokio::time::timeout(PATIENCE, snapshotter.reached(head)).await.unwrap();
}

/// Adds `count` events to a node that is at version `from`; the last one leaves it published when their number is odd.
async fn grow(log: &TestLog, id: ContentId, from: Version, count: u64) {
    let mut at_version = from;
    while at_version < from + count {
        let some = (from + count - at_version).min(4000);
        let facts = (at_version..at_version + some).map(|version| {
            if version == 0 {
                content_created(id)
            } else if version % 2 == 0 {
                ContentEvent::Published { at: at() }.into()
            } else {
                ContentEvent::Archived { at: at() }.into()
            }
        });
        let append = command(vec![events(content(id), at_version, facts.collect())]);
        log.store.append(append).await.unwrap();
        at_version += some;
    }
}

/// Renames a user who is at version `from`, so many times.
async fn rename(log: &TestLog, id: UserId, from: Version, count: u64) {
    let facts = (from..from + count).map(|version| {
        UserEvent::ProfileChanged {
            name: Personal::new(id, format!("Ada the {version}th")),
            at: at(),
        }
        .into()
    });
    let append = command(vec![events(user(id), from, facts.collect())]);
    log.store.append(append).await.unwrap();
}

/// Shuts a user who is at version `from` out and lets them in again, so many times.
async fn switch(log: &TestLog, id: UserId, from: Version, times: u64) {
    let facts = (0..times).flat_map(|_| {
        let reason = "a pause".to_owned();
        [
            UserEvent::Disabled { reason, at: at() }.into(),
            UserEvent::Enabled { at: at() }.into(),
        ]
    });
    let append = command(vec![events(user(id), from, facts.collect())]);
    log.store.append(append).await.unwrap();
}

/// The state by all events, whatever is kept.
async fn from_events(log: &TestLog, id: ContentId) -> Loaded<Content> {
    log.tamper("delete from log.snapshots").await;
    log.store.load::<Content>(id).await.unwrap()
}

async fn kept(log: &TestLog, stream: StreamId) -> Option<Version> {
    log.store.snapshot_of(stream).await.unwrap()
}

async fn stored(log: &TestLog) -> Vec<(String, i64, i64)> {
    let mut connection = log.test.superuser().await;
    sqlx::query_as("select payload::text, last_sequence, current_snapshot from log.snapshots order by aggregate_id")
        .fetch_all(&mut connection)
        .await
        .unwrap()
}

/// Makes every kept content node a pending one.
const DOCTOR: &str = r#"
    update log.snapshots
    set payload = jsonb_set(payload::jsonb, '{state,status}', '"pending"')::json
"#;

#[tokio::test]
async fn a_stream_that_has_grown_gets_a_snapshot_and_loads_the_same() {
    let log = TestLog::new().await;
    let (long, short) = (new_content(), new_content());
    grow(&log, long, 0, 25).await;
    grow(&log, short, 0, 9).await;
    keep(&log).await;
    assert_eq!(kept(&log, content(long)).await, Some(25));
    assert_eq!(kept(&log, content(short)).await, None);
    grow(&log, long, 25, 3).await;
    let loaded = log.store.load::<Content>(long).await.unwrap();
    assert_eq!(loaded.version, 28);
    let plain = from_events(&log, long).await;
    assert_eq!((loaded.state, loaded.version), (plain.state, plain.version));
}

#[tokio::test]
async fn snapshots_follow_the_log_while_it_grows() {
    let log = TestLog::new().await;
    let snapshotter = Snapshotter::start(log.store.clone(), often());
    let id = new_content();
    let mut seen = Vec::new();
    for round in 0..5 {
        grow(&log, id, round * 10, 10).await;
        until_kept(&log, &snapshotter).await;
        seen.push(kept(&log, content(id)).await);
    }
    assert_eq!(seen, [10, 20, 30, 40, 50].map(Some));
    let rows = stored(&log).await;
    assert_eq!(rows.len(), 1, "one row for a stream");
    assert_eq!((rows[0].1, rows[0].2), (50, 5));
    snapshotter.stop().await;
}

#[tokio::test]
async fn ten_thousand_events_are_loaded_in_under_five_milliseconds() {
    let log = TestLog::new().await;
    let id = new_content();
    grow(&log, id, 0, 10_000).await;
    keep_with(
        &log,
        SnapshotOptions {
            every_events: 200,
            ..often()
        },
    )
    .await;
    grow(&log, id, 10_000, 20).await;
    let mut quickest = Duration::MAX;
    for _ in 0..50 {
        let start = Instant::now();
        let loaded = log.store.load::<Content>(id).await.unwrap();
        quickest = quickest.min(start.elapsed());
        assert_eq!(loaded.version, 10_020);
    }
    assert!(quickest < Duration::from_millis(5), "{quickest:?}");
}

#[tokio::test]
async fn a_load_begins_with_the_snapshot_and_verify_finds_one_that_lies() {
    let log = TestLog::new().await;
    let id = new_content();
    grow(&log, id, 0, 20).await;
    keep(&log).await;
    let report = log.verify().await.unwrap();
    assert_eq!((report.snapshots, report.snapshots_unused), (1, 0));
    assert_eq!(log.tamper(DOCTOR).await, 1);
    let loaded = log.store.load::<Content>(id).await.unwrap();
    assert_eq!(loaded.state.status, ContentStatus::Pending);
    let fault = log.verify().await.unwrap_err();
    assert!(
        matches!(&fault, VerifyFault::Snapshot { stream, version: 20 } if *stream == content(id)),
        "{fault}"
    );
}

#[tokio::test]
async fn a_snapshot_that_lies_is_found_by_the_check_after_the_next_one_and_deleted() {
    let log = TestLog::new().await;
    let (id, other) = (new_content(), new_content());
    grow(&log, id, 0, 20).await;
    keep(&log).await;
    log.tamper(r#"update log.snapshots set payload = jsonb_set(payload::jsonb, '{state,realm}', '"admin"')::json"#)
        .await;
    // Unchecked, the lie is carried on.
    grow(&log, id, 20, 10).await;
    keep_with(
        &log,
        SnapshotOptions {
            check_every: 2,
            ..often()
        },
    )
    .await;
    assert_eq!(log.store.load::<Content>(id).await.unwrap().state.realm, Realm::Admin);
    grow(&log, id, 30, 10).await;
    grow(&log, other, 0, 10).await;
    keep(&log).await;
    assert_eq!(kept(&log, content(id)).await, None);
    assert_eq!(kept(&log, content(other)).await, Some(10));
    assert_eq!(log.store.load::<Content>(id).await.unwrap().state.realm, Realm::Site);
    // And the next one is right.
    grow(&log, id, 40, 10).await;
    keep(&log).await;
    assert_eq!(kept(&log, content(id)).await, Some(50));
    log.verify().await.unwrap();
}

#[tokio::test]
async fn what_must_not_be_trusted_is_not_used_and_made_anew() {
    let log = TestLog::new().await;
    let id = new_content();
    grow(&log, id, 0, 25).await;
    keep(&log).await;
    let truth = log.store.load::<Content>(id).await.unwrap();
    let mut version = 25;
    for spoil in [
        // Folded by other rules.
        r#"update log.snapshots set payload = (payload::jsonb || '{"schema": "0123456789abcdef"}')::json"#,
        // Of more events than there are.
        "update log.snapshots set last_sequence = 1000",
        // No state at all, and one of another shape.
        r#"update log.snapshots set payload = (payload::jsonb || '{"state": "gone"}')::json"#,
        r#"update log.snapshots set payload = (payload::jsonb || '{"state": {"status": 7}}')::json"#,
        r#"update log.snapshots set payload = (payload::jsonb - 'state')::json"#,
        r#"update log.snapshots set payload = '[]'"#,
    ] {
        assert_eq!(log.tamper(spoil).await, 1, "{spoil}");
        let loaded = log.store.load::<Content>(id).await.unwrap();
        assert_eq!(loaded.version, version, "{spoil}");
        assert_eq!(loaded.state.lifecycle, truth.state.lifecycle, "{spoil}");
        grow(&log, id, version, 10).await;
        version += 10;
        keep(&log).await;
        assert_eq!(kept(&log, content(id)).await, Some(version), "{spoil}");
        log.verify().await.unwrap();
    }
}

#[tokio::test]
async fn other_rules_make_all_snapshots_anew_without_any_growth() {
    let log = TestLog::new().await;
    let id = new_content();
    grow(&log, id, 0, 15).await;
    keep(&log).await;
    log.tamper(r#"update log.snapshots set payload = (payload::jsonb || '{"schema": "0123456789abcdef"}')::json"#)
        .await;
    log.tamper("update log.checkpoints set version = version - 1 where projection = 'snapshots'")
        .await;
    let report = log.verify().await.unwrap();
    assert_eq!((report.snapshots, report.snapshots_unused), (0, 1));
    keep(&log).await;
    assert_eq!(kept(&log, content(id)).await, Some(15));
    let report = log.verify().await.unwrap();
    assert_eq!((report.snapshots, report.snapshots_unused), (1, 0));
}

#[tokio::test]
async fn what_is_newer_stays() {
    let log = TestLog::new().await;
    let id = new_content();
    grow(&log, id, 0, 15).await;
    keep(&log).await;
    let before = stored(&log).await;
    // Looked through from the start again.
    log.tamper("delete from log.checkpoints").await;
    keep(&log).await;
    assert_eq!(stored(&log).await, before);
}

#[tokio::test]
async fn nothing_of_a_person_is_kept_in_clear_and_all_of_it_opens() {
    let log = TestLog::new().await;
    let ada = new_user();
    log.store
        .append(registered(ada, "ada@example.org", "ada"))
        .await
        .unwrap();
    rename(&log, ada, 1, 19).await;
    keep(&log).await;
    let rows = stored(&log).await;
    assert!(rows[0].0.contains("$sealed"), "{}", rows[0].0);
    for clear in ["ada@example.org", "Ada the", "$personal"] {
        assert!(!rows[0].0.contains(clear), "{clear}: {}", rows[0].0);
    }
    for store in [&log.store, &log.another().await] {
        assert_eq!(store.snapshot_of(user(ada)).await.unwrap(), Some(20));
        let loaded = store.load::<User>(ada).await.unwrap();
        assert_eq!(loaded.state.name.unwrap().get().unwrap(), "Ada the 19th");
        assert_eq!(loaded.state.email.unwrap().get().unwrap().as_str(), "ada@example.org");
    }
}

#[tokio::test]
async fn who_is_erased_is_gone_from_snapshots_too() {
    let log = TestLog::new().await;
    let (ada, grace) = (new_user(), new_user());
    for (id, name) in [(ada, "ada"), (grace, "grace")] {
        let email = format!("{name}@example.org");
        log.store.append(registered(id, &email, name)).await.unwrap();
        rename(&log, id, 1, 19).await;
    }
    keep(&log).await;
    log.store.vault().erase(ada.as_uuid()).await.unwrap();
    for store in [&log.store, &log.another().await] {
        assert_eq!(store.snapshot_of(user(ada)).await.unwrap(), None);
        let loaded = store.load::<User>(ada).await.unwrap();
        assert_eq!(loaded.version, 20);
        assert_eq!(loaded.state.name.unwrap().get(), None);
        assert_eq!(loaded.state.email.unwrap().get(), None);
        assert_eq!(store.snapshot_of(user(grace)).await.unwrap(), Some(20));
    }
    let report = log.verify().await.unwrap();
    assert_eq!((report.snapshots, report.snapshots_unused), (1, 1));

    // What the events lead to now is kept again, and holds nothing that could be opened.
    switch(&log, ada, 20, 5).await;
    keep(&log).await;
    assert_eq!(kept(&log, user(ada)).await, Some(30));
    let kept_state = log.store.load::<User>(ada).await.unwrap();
    log.tamper("delete from log.snapshots").await;
    let plain = log.store.load::<User>(ada).await.unwrap();
    assert_eq!(kept_state.state, plain.state);
    assert_eq!(kept_state.version, plain.version);
}

#[tokio::test]
async fn sealed_values_that_belong_elsewhere_do_not_open() {
    let log = TestLog::new().await;
    let (ada, grace) = (new_user(), new_user());
    for (id, name) in [(ada, "ada"), (grace, "grace")] {
        let email = format!("{name}@example.org");
        log.store.append(registered(id, &email, name)).await.unwrap();
        switch(&log, id, 1, 5).await;
    }
    keep(&log).await;
    // One's state as the other's.
    log.tamper(&format!(
        "update log.snapshots set payload = (select payload from log.snapshots where aggregate_id = '{ada}')"
    ))
    .await;
    assert_eq!(kept(&log, user(ada)).await, Some(11));
    assert_eq!(kept(&log, user(grace)).await, None);
    let loaded = log.store.load::<User>(grace).await.unwrap();
    assert_eq!(loaded.state.email.unwrap().get().unwrap().as_str(), "grace@example.org");
    // A value of an event as a value of the state.
    log.tamper(&format!(
        "update log.snapshots s
         set payload = jsonb_set(s.payload::jsonb, '{{state,name}}', e.payload::jsonb -> 'name')::json
         from log.events e
         where s.aggregate_id = '{ada}' and e.aggregate_id = s.aggregate_id and e.sequence = 1"
    ))
    .await;
    assert_eq!(kept(&log, user(ada)).await, None);
    let loaded = log.store.load::<User>(ada).await.unwrap();
    assert_eq!(loaded.state.name.unwrap().get().unwrap(), "Ada Lovelace");
}

#[tokio::test]
async fn one_process_keeps_snapshots_at_a_time_and_the_next_goes_on() {
    let log = TestLog::new().await;
    let id = new_content();
    let first = Snapshotter::start(log.store.clone(), often());
    grow(&log, id, 0, 10).await;
    until_kept(&log, &first).await;
    let second = Snapshotter::start(log.another().await, often());
    let owners = || async {
        let mut connection = log.test.superuser().await;
        sqlx::query_scalar::<_, i64>("select count(*) from log.checkpoints where projection = 'snapshots'")
            .fetch_one(&mut connection)
            .await
            .unwrap()
    };
    grow(&log, id, 10, 10).await;
    until_kept(&log, &first).await;
    assert_eq!((kept(&log, content(id)).await, owners().await), (Some(20), 1));
    first.stop().await;
    grow(&log, id, 20, 10).await;
    until_kept(&log, &second).await;
    assert_eq!((kept(&log, content(id)).await, owners().await), (Some(30), 1));
    second.stop().await;
}

#[tokio::test]
async fn a_stream_that_cannot_be_read_does_not_stop_the_others() {
    let log = TestLog::new().await;
    let (broken, sound) = (new_content(), new_content());
    grow(&log, broken, 0, 20).await;
    log.tamper("update log.events set payload = '{}' where position = 7")
        .await;
    grow(&log, sound, 0, 20).await;
    keep(&log).await;
    assert_eq!(kept(&log, content(broken)).await, None);
    assert_eq!(kept(&log, content(sound)).await, Some(20));
}

#[tokio::test]
async fn a_load_refuses_events_of_a_newer_program() {
    let log = TestLog::new().await;
    let id = new_content();
    grow(&log, id, 0, 3).await;
    log.tamper("update log.events set event_version = '2' where position = 3")
        .await;
    let error = log.store.load::<Content>(id).await.unwrap_err();
    assert!(matches!(error, StoreError::Decode { .. }), "{error}");
}

#[tokio::test]
async fn the_longest_streams_are_listed_longest_first() {
    let log = TestLog::new().await;
    let [longest, long, short] = [new_content(), new_content(), new_content()];
    grow(&log, long, 0, LONG_STREAM).await;
    grow(&log, short, 0, LONG_STREAM - 1).await;
    assert_eq!(log.store.longest_streams(20).await.unwrap().len(), 1);
    grow(&log, longest, 0, 4 * LONG_STREAM + 1).await;
    let listed = log.store.longest_streams(20).await.unwrap();
    let listed: Vec<_> = listed.iter().map(|long| (long.stream, long.events)).collect();
    assert_eq!(
        listed,
        [(content(longest), 4 * LONG_STREAM + 1), (content(long), LONG_STREAM)]
    );
    assert_eq!(log.store.longest_streams(1).await.unwrap().len(), 1);
    let versions = log
        .store
        .versions_of(&[content(short), content(new_content()), content(long)])
        .await
        .unwrap();
    assert_eq!(versions, [LONG_STREAM - 1, 0, LONG_STREAM]);
}
