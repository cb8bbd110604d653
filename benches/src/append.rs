//! Appending: ours against stock postgres-es, one autocommitted INSERT a command, and one durable commit alone.
//!
//! All write to the same server with pools of one size and the same payloads. Only ours keeps one order, the hash chain,
//! claims and command ids; the baselines keep none of them.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use annals_domain::caller::Actor;
use annals_domain::content::{Content, ContentEvent, ContentStatus, Place};
use annals_domain::ids::ContentId;
use annals_domain::registry::AnyEvent;
use annals_domain::values::{Realm, Timestamp};
use annals_eventstore::{Append, EventStore, StreamAppend, StreamId};
use anyhow::{Context, Result};
use cqrs_es::persist::{PersistedEventRepository, SerializedEvent};
use cqrs_es::{Aggregate, DomainEvent};
use postgres_es::PostgresEventRepository;
use serde::Serialize;
use sqlx::PgPool;
use uuid::Uuid;

use crate::load::{Measured, closed_loop};

/// The tables of the baselines: what the init script of postgres-es 0.5.0 creates, twice.
const BASELINE: &str = "
    create schema baseline;
    create table baseline.events (
        aggregate_type text not null,
        aggregate_id   text not null,
        sequence       bigint check (sequence >= 0) not null,
        event_type     text not null,
        event_version  text not null,
        payload        json not null,
        metadata       json not null,
        primary key (aggregate_type, aggregate_id, sequence)
    );
    create table baseline.snapshots (
        aggregate_type   text not null,
        aggregate_id     text not null,
        last_sequence    bigint not null,
        current_snapshot bigint not null,
        payload          json not null,
        primary key (aggregate_type, aggregate_id, last_sequence)
    );
    create table baseline.inserted (like baseline.events including all);
";

const INSERT: &str = "
    insert into baseline.inserted (
        aggregate_type, aggregate_id, sequence, event_type, event_version, payload, metadata
    )
    values ($1, $2, $3, $4, $5, $6::json, $7::json)
";

/// Appends of one event each to a new stream, by one way of writing.
#[derive(Debug, Serialize)]
pub(crate) struct Row {
    /// Callers at once.
    pub(crate) callers: usize,
    /// `log.append` through the writer.
    pub(crate) annals: Measured,
    /// `PostgresEventRepository::persist`.
    pub(crate) stock: Measured,
    /// One autocommitted INSERT a command.
    pub(crate) inserts: Measured,
    /// Throughput of ours over that of stock postgres-es.
    pub(crate) to_stock: f64,
    /// Throughput of ours over that of autocommitted INSERTs.
    pub(crate) to_inserts: f64,
    /// Our median latency over that of one INSERT.
    pub(crate) p50_to_insert: f64,
}

/// An event of some 200 bytes in a stream of its own.
fn created() -> (ContentId, ContentEvent) {
    let id = ContentId::new(Uuid::now_v7());
    let event = ContentEvent::Created {
        content_id: id,
        realm: Realm::Site,
        datatype_id: None,
        route_id: None,
        parent_id: None,
        place: Place::Last,
        status: ContentStatus::Draft,
        author_id: None,
        date_created: Timestamp::parse_rfc3339("2026-02-15T12:00:00Z").ok(),
        date_modified: None,
        at: Timestamp::from_unix_micros(0),
    };
    (id, event)
}

/// One command with one event.
pub(crate) fn command() -> Append {
    let (id, event) = created();
    let command_id = Uuid::now_v7();
    Append {
        command_id,
        actor: Actor::System("benches".to_owned()),
        correlation_id: command_id,
        causation_id: command_id,
        idempotency: None,
        streams: vec![StreamAppend {
            stream: StreamId::new(Content::TYPE, id.as_uuid()),
            expected: 0,
            events: vec![AnyEvent::from(event)],
        }],
        conditions: Vec::new(),
    }
}

fn serialized() -> Result<SerializedEvent> {
    let (id, event) = created();
    let metadata: HashMap<String, String> = ["event_id", "command_id", "correlation_id", "causation_id"]
        .into_iter()
        .map(|name| (name.to_owned(), Uuid::now_v7().to_string()))
        .chain([("actor".to_owned(), "system:benches".to_owned())])
        .collect();
    Ok(SerializedEvent::new(
        id.to_string(),
        1,
        Content::TYPE.to_owned(),
        event.event_type(),
        event.event_version(),
        serde_json::to_value(&event)?,
        serde_json::to_value(metadata)?,
    ))
}

/// Measures all ways of appending with each number of callers.
///
/// # Errors
/// Anything that keeps the measurement from being one.
pub(crate) async fn run(store: &EventStore, owner: &PgPool, callers: &[usize], seconds: u64) -> Result<Vec<Row>> {
    sqlx::raw_sql(BASELINE)
        .execute(owner)
        .await
        .context("tables of the baselines")?;
    let warm_up = Duration::from_secs(1);
    let duration = Duration::from_secs(seconds);
    let stock =
        Arc::new(PostgresEventRepository::new(owner.clone()).with_tables("baseline.events", "baseline.snapshots"));
    let mut rows = Vec::with_capacity(callers.len());
    for &callers in callers {
        let annals = closed_loop(callers, warm_up, duration, |_| {
            let store = store.clone();
            move || {
                let store = store.clone();
                async move {
                    store.append(command()).await?;
                    Ok(())
                }
            }
        })
        .await
        .context("appends of ours")?;
        let stock = closed_loop(callers, warm_up, duration, |_| {
            let stock = Arc::clone(&stock);
            move || {
                let stock = Arc::clone(&stock);
                async move { Ok(stock.persist::<Content>(&[serialized()?], None).await?) }
            }
        })
        .await
        .context("stock postgres-es")?;
        let inserts = closed_loop(callers, warm_up, duration, |_| {
            let pool = owner.clone();
            move || {
                let pool = pool.clone();
                async move {
                    let event = serialized()?;
                    sqlx::query(INSERT)
                        .bind(event.aggregate_type)
                        .bind(event.aggregate_id)
                        .bind(1_i64)
                        .bind(event.event_type)
                        .bind(event.event_version)
                        .bind(event.payload.to_string())
                        .bind(event.metadata.to_string())
                        .execute(&pool)
                        .await?;
                    Ok(())
                }
            }
        })
        .await
        .context("autocommitted inserts")?;
        rows.push(Row {
            callers,
            to_stock: annals.per_second / stock.per_second,
            to_inserts: annals.per_second / inserts.per_second,
            #[expect(clippy::cast_precision_loss, reason = "microseconds of seconds")]
            p50_to_insert: annals.p50_us as f64 / inserts.p50_us as f64,
            annals,
            stock,
            inserts,
        });
    }
    Ok(rows)
}
