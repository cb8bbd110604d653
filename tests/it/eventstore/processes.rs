//! Several processes on one database, each with a writer and a pool of its own.

use annals_eventstore::database::DatabaseOptions;
use annals_eventstore::{Record, StoreError};

use super::*;

const PROCESSES: usize = 3;
/// Commands of each process on streams of its own, and as many tries on the stream that all want.
const COMMANDS: u64 = 40;

async fn process(log: &TestLog) -> EventStore {
    let database = log.test.database().with_options(DatabaseOptions::default());
    let vault = Vault::open(&database, &master_key()).await.unwrap();
    EventStore::start(database, vault, WriterOptions::default())
}

/// What became of the tries of one process.
#[derive(Default)]
struct Tries {
    positions: Vec<Position>,
    won: u64,
    lost: u64,
}

/// Writes streams of its own, and in turn tries for the next version of the contended one.
async fn work(store: EventStore, contended: ContentId) -> Tries {
    let mut tries = Tries::default();
    let mut version = 1;
    for _ in 0..COMMANDS {
        let appended = store.append(created(new_content())).await.unwrap();
        tries.positions.push(appended.last_position);
        match store.append(published(contended, version)).await {
            Ok(appended) => {
                tries.positions.push(appended.last_position);
                tries.won += 1;
                version += 1;
            }
            Err(AppendError::Conflict {
                stream,
                expected,
                actual,
            }) => {
                assert_eq!((stream, expected), (content(contended), version));
                assert!(actual > version, "a conflict with what is not there: {actual}");
                tries.lost += 1;
                version = actual;
            }
            Err(error) => panic!("{error}"),
        }
    }
    tries
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn processes_that_write_at_once_make_one_dense_order() {
    let log = TestLog::new().await;
    let contended = new_content();
    log.store.append(created(contended)).await.unwrap();
    let mut stores = Vec::new();
    for _ in 0..PROCESSES {
        stores.push(process(&log).await);
    }
    let working: Vec<_> = stores
        .iter()
        .map(|store| tokio::spawn(work(store.clone(), contended)))
        .collect();
    let mut positions = vec![Position(1)];
    let (mut won, mut lost) = (0, 0);
    for work in working {
        let tries = work.await.unwrap();
        assert!(tries.positions.is_sorted(), "a later command has an earlier position");
        positions.extend(tries.positions);
        won += tries.won;
        lost += tries.lost;
    }
    positions.sort_unstable();
    let dense: Vec<Position> = (1..=positions.len() as u64).map(Position).collect();
    assert_eq!(
        positions, dense,
        "every answer names a position of its own, and none is left out"
    );
    assert_eq!(won + lost, COMMANDS * PROCESSES as u64);
    assert!(lost > 0, "nobody ever came too late");

    // Every process sees the same log, and one version of the contended stream for each command that won.
    let head = log.store.head().await.unwrap();
    assert_eq!(head.position.0, dense.len() as u64);
    let mut seen: Vec<Vec<Record>> = Vec::new();
    for store in &stores {
        seen.push(store.read_after(Position::START, dense.len() + 1).await.unwrap());
        let stream = store.read_stream(&content(contended), 0, 1000).await.unwrap();
        let versions: Vec<u64> = stream.iter().map(|record| record.version).collect();
        assert_eq!(versions, (1..=won + 1).collect::<Vec<_>>());
        let mut heard = store.head_changes();
        let heard = heard.wait_for(|heard| *heard == head.position);
        tokio::time::timeout(Duration::from_secs(10), heard)
            .await
            .unwrap()
            .unwrap();
    }
    assert!(seen.windows(2).all(|pair| pair[0] == pair[1]));
    let mut previous = Hash::ZERO;
    for record in &seen[0] {
        assert!(record.follows(previous), "position {}", record.position);
        previous = record.entry_hash;
    }
    assert!(!seen[0][1].follows(Hash::ZERO));
    log.verify().await.unwrap();
    for store in stores {
        store.close().await;
        let closed = store.append(created(new_content())).await.unwrap_err();
        assert!(matches!(&closed, AppendError::Unavailable(error) if matches!(**error, StoreError::Closed)));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_processes_that_take_one_name_one_wins() {
    let log = TestLog::new().await;
    let mut stores = Vec::new();
    for _ in 0..PROCESSES {
        stores.push(process(&log).await);
    }
    for round in 0..20 {
        let email = format!("ada{round}@example.org");
        let taking: Vec<_> = stores
            .iter()
            .enumerate()
            .map(|(number, store)| {
                let name = format!("ada{round}x{number}");
                tokio::spawn(append(store, registered(new_user(), &email, &name)))
            })
            .collect();
        let mut won = 0;
        for taking in taking {
            match taking.await.unwrap() {
                Ok(_) => won += 1,
                Err(AppendError::Taken { scopes }) => assert_eq!(scopes, [ClaimScope::Email]),
                Err(error) => panic!("{error}"),
            }
        }
        assert_eq!(won, 1, "round {round}");
    }
    log.verify().await.unwrap();
}
