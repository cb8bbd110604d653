//! Checkpoints move in one pair of hands at a time.

use std::time::Duration;

use annals_eventstore::checkpoint::{self, CheckpointStatus};
use annals_eventstore::{Hash, Position};

use super::*;

const LEASE: Duration = Duration::from_secs(30);

#[tokio::test]
async fn whoever_was_superseded_moves_nothing() {
    let log = TestLog::new().await;
    let database = log.test.database();
    let pool = database.pool();
    let first = checkpoint::acquire(pool, "users", 1, "first", Duration::from_millis(50))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(
        (first.position, first.entry_hash, first.version, first.epoch),
        (Position::START, Hash::ZERO, 1, 1)
    );
    assert!(
        checkpoint::acquire(pool, "users", 1, "second", LEASE)
            .await
            .unwrap()
            .is_none()
    );
    tokio::time::sleep(Duration::from_millis(80)).await;
    assert!(
        checkpoint::renew(pool, "first", &["users"], LEASE)
            .await
            .unwrap()
            .is_empty(),
        "it has run out"
    );
    let second = checkpoint::acquire(pool, "users", 1, "second", LEASE)
        .await
        .unwrap()
        .unwrap();
    assert!(second.epoch > first.epoch);

    let mut connection = pool.acquire().await.unwrap();
    let hash = Hash([1; 32]);
    let late = checkpoint::advance(&mut connection, "users", Position(0), Position(3), hash, first.epoch)
        .await
        .unwrap();
    assert!(!late);
    let moved = checkpoint::advance(&mut connection, "users", Position(0), Position(3), hash, second.epoch)
        .await
        .unwrap();
    assert!(moved);
    let twice = checkpoint::advance(&mut connection, "users", Position(0), Position(3), hash, second.epoch)
        .await
        .unwrap();
    assert!(!twice, "it is no longer where this would move it from");
    assert!(!checkpoint::fail(pool, "users", first.epoch, "late").await.unwrap());
    let now = checkpoint::load(pool, "users").await.unwrap().unwrap();
    assert_eq!(
        (now.position, now.entry_hash, now.status),
        (Position(3), hash, CheckpointStatus::Live)
    );
}

#[tokio::test]
async fn several_move_together_or_it_is_noticed() {
    let log = TestLog::new().await;
    let database = log.test.database();
    let pool = database.pool();
    let users = checkpoint::acquire(pool, "users", 1, "me", LEASE)
        .await
        .unwrap()
        .unwrap();
    let routes = checkpoint::acquire(pool, "routes", 1, "me", LEASE)
        .await
        .unwrap()
        .unwrap();
    let both = [("users", users.epoch), ("routes", routes.epoch)];
    let mut connection = pool.acquire().await.unwrap();
    assert!(
        checkpoint::advance_all(&mut connection, &both, Position(0), Position(1), Hash::ZERO)
            .await
            .unwrap()
    );
    let stale = [("users", users.epoch), ("routes", routes.epoch + 1)];
    assert!(
        !checkpoint::advance_all(&mut connection, &stale, Position(1), Position(2), Hash::ZERO)
            .await
            .unwrap()
    );
    drop(connection);
    let mut held = checkpoint::renew(pool, "me", &["users", "routes", "contents"], LEASE)
        .await
        .unwrap();
    held.sort();
    assert_eq!(held, ["routes", "users"]);
    checkpoint::release(pool, "me").await.unwrap();
    assert!(
        checkpoint::acquire(pool, "users", 1, "you", LEASE)
            .await
            .unwrap()
            .is_some()
    );
    assert_eq!(checkpoint::list(pool).await.unwrap().len(), 2);
    checkpoint::forget(pool, "routes").await.unwrap();
    assert!(checkpoint::load(pool, "routes").await.unwrap().is_none());
}

#[tokio::test]
async fn a_failure_shows_until_it_is_overcome() {
    let log = TestLog::new().await;
    let database = log.test.database();
    let pool = database.pool();
    let lease = checkpoint::acquire(pool, "users", 1, "me", LEASE)
        .await
        .unwrap()
        .unwrap();
    for _ in 0..2 {
        assert!(
            checkpoint::fail(pool, "users", lease.epoch, "no such column\0")
                .await
                .unwrap()
        );
    }
    let failing = checkpoint::load(pool, "users").await.unwrap().unwrap();
    assert_eq!((failing.status, failing.failures), (CheckpointStatus::Failing, 2));
    assert_eq!(failing.last_error.as_deref(), Some("no such column"));
    let mut connection = pool.acquire().await.unwrap();
    assert!(
        checkpoint::advance(
            &mut connection,
            "users",
            Position(0),
            Position(1),
            Hash::ZERO,
            lease.epoch
        )
        .await
        .unwrap()
    );
    let live = checkpoint::load(pool, "users").await.unwrap().unwrap();
    assert_eq!(
        (live.status, live.failures, live.last_error),
        (CheckpointStatus::Live, 0, None)
    );
}

#[tokio::test]
async fn a_rebuild_takes_the_checkpoint_from_its_holder() {
    let log = TestLog::new().await;
    let database = log.test.database();
    let pool = database.pool();
    let lease = checkpoint::acquire(pool, "users", 1, "daemon", LEASE)
        .await
        .unwrap()
        .unwrap();
    let mut transaction = pool.begin().await.unwrap();
    let locked = checkpoint::lock(&mut transaction, "users").await.unwrap().unwrap();
    assert_eq!(locked.epoch, lease.epoch);
    let epoch = checkpoint::replace(&mut transaction, "users", 2, Position(9), Hash([9; 32]))
        .await
        .unwrap();
    transaction.commit().await.unwrap();
    assert!(epoch > lease.epoch);
    let mut connection = pool.acquire().await.unwrap();
    let fenced = checkpoint::advance(
        &mut connection,
        "users",
        Position(9),
        Position(10),
        Hash::ZERO,
        lease.epoch,
    )
    .await
    .unwrap();
    assert!(!fenced);
    let now = checkpoint::load(pool, "users").await.unwrap().unwrap();
    assert_eq!((now.version, now.position, now.owner), (2, Position(9), None));
}

#[tokio::test]
async fn a_checkpoint_of_another_log_is_told_and_not_moved() {
    let log = TestLog::new().await;
    let database = log.test.database();
    let pool = database.pool();
    let mut head = Hash::ZERO;
    for _ in 0..3 {
        log.store.append(created(new_content())).await.unwrap();
    }
    for (name, position) in [("before", 0), ("here", 2), ("elsewhere", 2), ("beyond", 9)] {
        let hash = match name {
            "before" => Hash::ZERO,
            "here" => log.store.entry_hash_at(Position(2)).await.unwrap().unwrap(),
            _ => Hash([9; 32]),
        };
        let mut transaction = pool.begin().await.unwrap();
        checkpoint::replace(&mut transaction, name, 1, Position(position), hash)
            .await
            .unwrap();
        transaction.commit().await.unwrap();
        head = log.store.head().await.unwrap().entry_hash;
    }
    let diverged = checkpoint::diverged(pool).await.unwrap();
    let told: Vec<(&str, String)> = diverged
        .iter()
        .map(|diverged| (diverged.projection.as_str(), diverged.to_string()))
        .collect();
    assert_eq!(
        told,
        [
            ("beyond", "log diverged at position 9".to_owned()),
            ("elsewhere", "log diverged at position 2".to_owned()),
        ]
    );
    let mut connection = pool.acquire().await.unwrap();
    for (name, position, moves) in [
        ("before", 0, true),
        ("here", 2, true),
        ("elsewhere", 2, false),
        ("beyond", 9, false),
    ] {
        let moved = checkpoint::advance(&mut connection, name, Position(position), Position(3), head, 1)
            .await
            .unwrap();
        assert_eq!(moved, moves, "{name}");
    }
    assert!(checkpoint::fail(pool, "beyond", 1, "log diverged").await.unwrap());
    assert!(!checkpoint::mend(pool, "beyond", 2).await.unwrap());
    assert!(checkpoint::mend(pool, "beyond", 1).await.unwrap());
    let mended = checkpoint::load(pool, "beyond").await.unwrap().unwrap();
    assert_eq!(
        (mended.status, mended.failures, mended.position),
        (CheckpointStatus::Live, 0, Position(9))
    );
}
