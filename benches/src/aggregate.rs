//! Loading an aggregate with a long life: from all its events, and through its snapshot.

use std::time::{Duration, Instant};

use annals_commands::SystemClock;
use annals_domain::ids::{ContentFieldId, ContentId};
use annals_domain::{Actor, AnyEvent, Clock, Content, ContentEvent, ContentStatus, FieldValue, Place, Realm};
use annals_eventstore::{Append, StreamAppend, StreamId};
use anyhow::{Context, Result, ensure};
use cqrs_es::Aggregate;
use serde::Serialize;
use uuid::Uuid;

use crate::load::{Measured, Round};
use crate::report::say;
use crate::server::{Log, Server};

/// Events of the stream.
const EVENTS: u64 = 10_000;
/// Field values that the node has in the end; each is replaced again and again.
const FIELDS: u64 = 20;
/// Events of one command.
const COMMAND_EVENTS: u64 = 1000;
/// Loads of each kind that are timed, after one that is not.
const LOADS: usize = 30;
/// The longest that a snapshot is waited for.
const SNAPSHOT_WITHIN: Duration = Duration::from_secs(10);
const SNAPSHOT_PAUSE: Duration = Duration::from_millis(50);

const FORGET_SNAPSHOTS: &str = "delete from log.snapshots";

const SNAPSHOT: &str = "
    select last_sequence
    from log.snapshots
    where aggregate_type = $1 and aggregate_id = $2
";

/// What loading costs.
#[derive(Debug, Serialize)]
pub(crate) struct Figures {
    /// Events of the stream.
    pub(crate) events: u64,
    /// Loads without a snapshot.
    pub(crate) from_events: Measured,
    /// Loads through the snapshot; absent when none came.
    pub(crate) through_snapshot: Option<Snapshot>,
    /// How long a snapshot was waited for, in seconds.
    pub(crate) waited_s: f64,
}

/// Loads through a snapshot.
#[derive(Debug, Serialize)]
pub(crate) struct Snapshot {
    /// Version that the snapshot shows.
    pub(crate) version: i64,
    /// What loading took.
    pub(crate) measured: Measured,
}

/// Writes the stream and loads it.
///
/// # Errors
/// Anything that keeps the measurement from being one, and a load with another outcome.
pub(crate) async fn run(server: &Server) -> Result<Figures> {
    say(&format!("loading: a stream of {EVENTS} events"));
    let log = server.log("load").await?;
    let id = ContentId::new(Uuid::now_v7());
    write(&log, id).await?;
    let whole = log.store.load::<Content>(id).await?;
    ensure!(whole.version == EVENTS, "loaded version {}", whole.version);

    let mut from_events = Vec::with_capacity(LOADS);
    for _ in 0..LOADS {
        // Whoever writes snapshots may have done so since the last load.
        sqlx::query(FORGET_SNAPSHOTS).execute(log.owner.pool()).await?;
        from_events.push(load(&log, id, &whole.state).await?);
    }

    let begin = Instant::now();
    let version = snapshot(&log, id).await?;
    let waited_s = begin.elapsed().as_secs_f64();
    let through_snapshot = match version {
        None => None,
        Some(version) => {
            let mut loads = Vec::with_capacity(LOADS);
            for _ in 0..LOADS {
                loads.push(load(&log, id, &whole.state).await?);
            }
            Some(Snapshot {
                version,
                measured: Measured::of(&[Round::of_latencies(loads)?])?,
            })
        }
    };
    log.close().await?;
    Ok(Figures {
        events: EVENTS,
        from_events: Measured::of(&[Round::of_latencies(from_events)?])?,
        through_snapshot,
        waited_s,
    })
}

async fn load(log: &Log, id: ContentId, expected: &Content) -> Result<Duration> {
    let begin = Instant::now();
    let loaded = log.store.load::<Content>(id).await?;
    let elapsed = begin.elapsed();
    ensure!(
        loaded.version == EVENTS && loaded.state == *expected,
        "loads of one stream differ"
    );
    Ok(elapsed)
}

/// The version of the stream's snapshot, once there is one. A load may be what has it made, so they go on meanwhile.
async fn snapshot(log: &Log, id: ContentId) -> Result<Option<i64>> {
    let begin = Instant::now();
    while begin.elapsed() < SNAPSHOT_WITHIN {
        log.store.load::<Content>(id).await?;
        let found = sqlx::query_scalar(SNAPSHOT)
            .bind(Content::TYPE)
            .bind(id.to_string())
            .fetch_optional(log.owner.pool())
            .await?;
        if found.is_some() {
            return Ok(found);
        }
        tokio::time::sleep(SNAPSHOT_PAUSE).await;
    }
    Ok(None)
}

/// One node, created and changed until it has its events.
async fn write(log: &Log, id: ContentId) -> Result<()> {
    let fields: Vec<ContentFieldId> = (0..FIELDS).map(|_| ContentFieldId::new(Uuid::now_v7())).collect();
    let mut version = 0;
    while version < EVENTS {
        let next = (version + COMMAND_EVENTS).min(EVENTS);
        let events = (version..next).map(|number| match number {
            0 => AnyEvent::from(created(id)),
            _ => AnyEvent::from(changed(fields[(number % FIELDS) as usize], number)),
        });
        let command_id = Uuid::now_v7();
        let append = Append {
            command_id,
            actor: Actor::System("benches".to_owned()),
            correlation_id: command_id,
            causation_id: command_id,
            idempotency: None,
            streams: vec![StreamAppend {
                stream: StreamId::new(Content::TYPE, id),
                expected: version,
                events: events.collect(),
            }],
            conditions: Vec::new(),
        };
        log.store.append(append).await.context("writing a long stream")?;
        version = next;
    }
    Ok(())
}

/// The first event of a node of its own.
pub(crate) fn created(content_id: ContentId) -> ContentEvent {
    ContentEvent::Created {
        content_id,
        realm: Realm::Site,
        datatype_id: None,
        route_id: None,
        parent_id: None,
        place: Place::Last,
        status: ContentStatus::Draft,
        author_id: None,
        date_created: None,
        date_modified: None,
        at: SystemClock.now(),
    }
}

fn changed(content_field_id: ContentFieldId, number: u64) -> ContentEvent {
    let value = FieldValue {
        content_field_id,
        field_id: None,
        route_id: None,
        value: format!("the text of this field as it was written for the {number}th time"),
        author_id: None,
        date_created: None,
        date_modified: None,
    };
    ContentEvent::FieldsChanged {
        set: vec![value],
        removed: Vec::new(),
        at: SystemClock.now(),
    }
}
