//! Rebuilding the read model of content, against reading the same rows of the log raw.

use std::time::{Duration, Instant};

use annals_api::App;
use annals_domain::ids::ContentId;
use annals_domain::{Actor, AnyEvent, Caller, Content};
use annals_eventstore::{Append, StreamAppend, StreamId};
use annals_projections::content::Contents;
use annals_projections::{Projection, RebuildOptions};
use anyhow::{Context, Result};
use cqrs_es::Aggregate;
use futures::stream::{self, StreamExt, TryStreamExt};
use serde::Serialize;
use uuid::Uuid;

use crate::aggregate::created;
use crate::load::rate;
use crate::report::say;

/// Rows of one read, as many as a rebuild reads at once.
const PAGE: i64 = 1000;
/// Commands under way while the log is filled.
const FILLING: usize = 256;

/// The longest that the live model may need for the events that fill the log.
const CATCHING_UP: Duration = Duration::from_secs(600);

const READ: &str = "
    select position, aggregate_type, aggregate_id, sequence, event_type, event_version, payload::text, metadata::text
    from log.events
    where position > $1
    order by position
    limit $2
";

/// How fast a read model is built.
#[derive(Debug, Serialize)]
pub(crate) struct Row {
    /// Events of the log.
    pub(crate) events: u64,
    /// Events folded into the read model a second.
    pub(crate) rebuilt_per_second: f64,
    /// Rows read a second, and dropped.
    pub(crate) read_per_second: f64,
    /// The one over the other.
    pub(crate) to_read: f64,
}

/// Fills the log to `events`, reads it raw, and rebuilds `contents` from it.
///
/// # Errors
/// Anything that keeps the measurement from being one.
pub(crate) async fn run(app: &App, events: u64) -> Result<Row> {
    say(&format!("rebuild: filling a log with {events} events"));
    let store = app.store();
    let head = store.head().await?.position.get();
    stream::iter(head..events.max(head))
        .map(|_| async { store.append(command()).await.map(drop) })
        .buffer_unordered(FILLING)
        .try_collect::<()>()
        .await
        .context("filling the log")?;
    let head = store.head().await?.position;
    let events = head.get();
    // A rebuild goes as far as the live model stands, and neither it nor the raw read is to share the machine with it.
    app.state()
        .engine()
        .wait(&[Contents.name()], head, CATCHING_UP)
        .await
        .context("the live model catches up")?;

    say("rebuild: reading and rebuilding");
    let begin = Instant::now();
    let mut position = 0_i64;
    let mut read = 0_u64;
    loop {
        let rows = sqlx::query_as::<_, (i64, String, String, i64, String, String, String, String)>(READ)
            .bind(position)
            .bind(PAGE)
            .fetch_all(store.database().pool())
            .await?;
        let Some(last) = rows.last() else { break };
        position = last.0;
        read += rows.len() as u64;
    }
    let read_per_second = rate(read, begin.elapsed());

    let caller = Caller::system("benches", Uuid::now_v7());
    let begin = Instant::now();
    annals_projections::rebuild(&caller, store, &Contents, RebuildOptions::default(), |_| {}).await?;
    let rebuilt_per_second = rate(events, begin.elapsed());
    Ok(Row {
        events,
        rebuilt_per_second,
        read_per_second,
        to_read: rebuilt_per_second / read_per_second,
    })
}

/// A node of its own.
fn command() -> Append {
    let id = ContentId::new(Uuid::now_v7());
    let command_id = Uuid::now_v7();
    Append {
        command_id,
        actor: Actor::System("benches".to_owned()),
        correlation_id: command_id,
        causation_id: command_id,
        idempotency: None,
        streams: vec![StreamAppend {
            stream: StreamId::new(Content::TYPE, id),
            expected: 0,
            events: vec![AnyEvent::from(created(id))],
        }],
        conditions: Vec::new(),
    }
}
