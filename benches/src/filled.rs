//! Appending to a log of millions of events against appending to one that has just begun, in turns.

use std::time::Instant;

use annals_domain::{AnyEvent, DatatypeEvent};
use annals_eventstore::EventStore;
use anyhow::{Context, Result};
use futures::stream::{self, StreamExt, TryStreamExt};
use serde::Serialize;

use crate::contender::{Arena, Contender};
use crate::load::{Measured, Pace, Ratio, rate, take_turns};
use crate::machine::{highest_resident_bytes, resident_bytes};
use crate::report::say;
use crate::sample::Sample;
use crate::server::Server;

/// Events of each stream of the filled log, written by one command.
const STREAM_EVENTS: u64 = 10;
/// Commands under way while the log is filled: two batches, so that one is prepared while the other is written.
const FILLING: usize = 512;
/// A line of progress after so many events.
const PROGRESS_EVENTS: u64 = 250_000;

const LOG_BYTES: &str = "
    select sum(pg_total_relation_size(c.oid))::bigint
    from pg_class c
    where c.relnamespace = 'log'::regnamespace and c.relkind = 'r'
";

/// What the size of the log does to appends.
#[derive(Debug, Serialize)]
pub(crate) struct Figures {
    /// Events of the filled log before the measurement.
    pub(crate) events: u64,
    /// Streams of it; each has taken one claim, by one command with an idempotency key.
    pub(crate) streams: u64,
    /// Bytes of its tables and indexes.
    pub(crate) log_bytes: i64,
    /// Events a second while it was filled through the store, vacuuming and analysing afterwards included.
    pub(crate) filled_per_second: f64,
    /// Memory that this process held after filling, where the system tells.
    pub(crate) resident_bytes: Option<u64>,
    /// The most that it has held so far.
    pub(crate) highest_resident_bytes: Option<u64>,
    /// Events of the other log after the measurement.
    pub(crate) empty_events: u64,
    /// Bytes of each payload appended.
    pub(crate) payload_bytes: usize,
    /// One line for each number of callers.
    pub(crate) rows: Vec<Row>,
}

/// Both logs with one number of callers.
#[derive(Debug, Serialize)]
pub(crate) struct Row {
    /// Callers at once.
    pub(crate) callers: usize,
    /// Appends to the log that has just begun.
    pub(crate) empty: Measured,
    /// Appends to the filled one.
    pub(crate) filled: Measured,
    /// Median latency on the filled log over that on the empty one.
    pub(crate) p50_cost: Ratio,
    /// Throughput on the empty log over that on the filled one: the time that a command takes, with all callers busy.
    pub(crate) time_cost: Ratio,
}

/// Fills a log to `events` and measures it against one that began with `begin_with`.
///
/// # Errors
/// Anything that keeps the measurement from being one.
pub(crate) async fn run(
    server: &Server,
    events: u64,
    begin_with: u64,
    callers: &[usize],
    payload_bytes: usize,
    pace: Pace,
) -> Result<Figures> {
    let begin = Instant::now();
    let filled = Arena::open(server, "filled", events).await?;
    let elapsed = begin.elapsed();
    let (resident, highest) = (resident_bytes(), highest_resident_bytes());
    let sample = filled.sample(payload_bytes)?;
    let events = filled.log().store.head().await?.position.get();
    say(&format!("{events} events in {:.0} s", elapsed.as_secs_f64()));
    let log_bytes: i64 = sqlx::query_scalar(LOG_BYTES)
        .fetch_one(filled.log().owner.pool())
        .await?;

    let empty = Arena::open(server, "empty", begin_with).await?;
    let empty_sample = empty.sample(payload_bytes)?;
    let mut rows = Vec::with_capacity(callers.len());
    for &callers in callers {
        say(&format!("filled and empty log: {callers} callers"));
        let rounds = take_turns(&[true, false], pace.rounds, |is_filled, _| {
            let (arena, sample) = if is_filled {
                (&filled, &sample)
            } else {
                (&empty, &empty_sample)
            };
            arena.round(Contender::Annals, sample, callers, pace.round)
        })
        .await?;
        rows.push(Row {
            callers,
            filled: Measured::of(&rounds[0])?,
            empty: Measured::of(&rounds[1])?,
            p50_cost: Ratio::of_p50s(&rounds[0], &rounds[1]),
            time_cost: Ratio::of_speeds(&rounds[1], &rounds[0]),
        });
    }
    let empty_events = empty.log().store.head().await?.position.get();
    filled.log().close().await?;
    empty.log().close().await?;
    Ok(Figures {
        events,
        streams: events / STREAM_EVENTS,
        log_bytes,
        filled_per_second: rate(events, elapsed),
        resident_bytes: resident,
        highest_resident_bytes: highest,
        empty_events,
        payload_bytes,
        rows,
    })
}

/// Appends streams of [`STREAM_EVENTS`] until there are `events`.
///
/// # Errors
/// What the log says.
pub(crate) async fn fill(store: &EventStore, sample: &Sample, events: u64) -> Result<()> {
    let streams = events.div_ceil(STREAM_EVENTS);
    let append = |_| {
        let (store, sample) = (store.clone(), sample.clone());
        // A task each: preparing is to use all processors.
        async move {
            tokio::spawn(async move { store.append(life(&sample)).await })
                .await
                .context("an append panicked")??;
            anyhow::Ok(())
        }
    };
    let begin = Instant::now();
    let mut done = 0;
    let mut appends = stream::iter(0..streams).map(append).buffer_unordered(FILLING);
    while appends.try_next().await.context("filling the log")?.is_some() {
        done += STREAM_EVENTS;
        if done % PROGRESS_EVENTS == 0 {
            let speed = rate(done, begin.elapsed());
            say(&format!("filling: {done} of {events} events, {speed:.0} a second"));
        }
    }
    Ok(())
}

/// One stream whole: created, and changed until it has its events.
fn life(sample: &Sample) -> annals_eventstore::Append {
    let mut events = vec![AnyEvent::from(sample.event())];
    events.extend((1..STREAM_EVENTS).map(|_| match sample.event() {
        DatatypeEvent::Created {
            parent_id,
            label,
            kind,
            author_id,
            date_created,
            date_modified,
            at,
            ..
        } => AnyEvent::from(DatatypeEvent::Changed {
            parent_id,
            label,
            kind,
            author_id,
            date_created,
            date_modified,
            at,
        }),
        other => AnyEvent::from(other),
    }));
    sample.command_of(events)
}
