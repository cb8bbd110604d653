//! Reading events in the order of the log, opened and typed.

use std::collections::BTreeSet;

use serde_json::Value;
use sqlx::postgres::PgRow;
use sqlx::{PgExecutor, PgPool, Row};
use time::OffsetDateTime;
use uuid::Uuid;

use annals_domain::{Actor, AnyEvent, Metadata, Timestamp, registry};

use crate::append::{StreamId, Version, aggregate_type_of};
use crate::chain;
use crate::error::StoreError;
use crate::position::{Hash, Position};
use crate::vault::{self, SealPlace, Vault};

/// The most events of one page, whatever was asked for.
const MAX_PAGE: usize = 10_000;
/// Positions that one statement looks through for events that pass a filter.
const WINDOW: u64 = 10_000;
/// Windows that one call looks through before it returns with what it has.
const MAX_WINDOWS: usize = 20;

const AFTER: &str = "
    select position, sequence, recorded_at, event_id, command_id, correlation_id, causation_id, aggregate_type,
        aggregate_id, event_type, event_version, actor, payload::text as payload, leaf_hash, entry_hash
    from log.events
    where position > $1
    order by position
    limit $2
";

const OF_STREAM: &str = "
    select position, sequence, recorded_at, event_id, command_id, correlation_id, causation_id, aggregate_type,
        aggregate_id, event_type, event_version, actor, payload::text as payload, leaf_hash, entry_hash
    from log.events
    where aggregate_type = $1 and aggregate_id = $2 and sequence > $3
    order by sequence
    limit $4
";

const FILTERED: &str = "
    select position, sequence, recorded_at, event_id, command_id, correlation_id, causation_id, aggregate_type,
        aggregate_id, event_type, event_version, actor, payload::text as payload, leaf_hash, entry_hash
    from log.events
    where position > $1 and position <= $2
        and ($3::text[] is null or event_type = any($3))
        and ($4::text is null or aggregate_type = $4)
        and ($5::text is null or actor = $5)
        and ($6::uuid is null or correlation_id = $6)
    order by position
    limit $7
";

const FILTERED_STREAM: &str = "
    select position, sequence, recorded_at, event_id, command_id, correlation_id, causation_id, aggregate_type,
        aggregate_id, event_type, event_version, actor, payload::text as payload, leaf_hash, entry_hash
    from log.events
    where aggregate_type = $1 and aggregate_id = $2 and position > $3
        and ($4::text[] is null or event_type = any($4))
        and ($5::text is null or aggregate_type = $5)
        and ($6::text is null or actor = $6)
        and ($7::uuid is null or correlation_id = $7)
    order by sequence
    limit $8
";

const HEAD: &str = "select coalesce(max(position), 0) from log.events";

/// One event of the log.
#[derive(Debug, Clone, PartialEq)]
pub struct Record {
    /// Its place in the log.
    pub position: Position,
    /// Whose event it is.
    pub stream: StreamId,
    /// Its number within the stream, from 1.
    pub version: Version,
    /// What happened; personal data of erased subjects is absent.
    pub event: AnyEvent,
    /// Who caused it, and how it came about.
    pub metadata: Metadata,
    /// By the database's clock; never decreases along positions.
    pub recorded_at: Timestamp,
    /// Hash of the stored event.
    pub leaf_hash: Hash,
    /// Stands for this event and all before it.
    pub entry_hash: Hash,
}

impl Record {
    /// Whether this event is the next one after the event whose entry hash is `previous`: of the same log, and with
    /// nothing in between.
    #[must_use]
    pub fn follows(&self, previous: Hash) -> bool {
        chain::entry_hash(previous, self.leaf_hash, self.position, self.recorded_at) == self.entry_hash
    }
}

/// Which events to read; what is absent does not matter, and an event must match all that is present.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EventFilter {
    /// Any of these types, such as `content.created`; empty for all.
    pub types: Vec<String>,
    /// Of this stream.
    pub stream: Option<StreamId>,
    /// Of streams of this aggregate.
    pub aggregate_type: Option<String>,
    /// Caused by this actor.
    pub actor: Option<Actor>,
    /// Set off by this request.
    pub correlation_id: Option<Uuid>,
}

/// Events that passed a filter, and how far the log was looked through for them.
#[derive(Debug, Clone, PartialEq)]
pub struct Selection {
    /// In the order of the log.
    pub records: Vec<Record>,
    /// To go on, read after this position. Nothing up to here was left out.
    pub scanned_to: Position,
}

fn page_size(limit: usize) -> i64 {
    i64::try_from(limit.min(MAX_PAGE)).unwrap_or(i64::MAX)
}

/// The next events after a position. A page ends before an event that cannot be read, unless it is the first one.
pub(crate) async fn after(
    pool: &PgPool,
    vault: &Vault,
    position: Position,
    limit: usize,
) -> Result<Vec<Record>, StoreError> {
    let rows = sqlx::query(AFTER)
        .bind(position.as_i64())
        .bind(page_size(limit))
        .fetch_all(pool)
        .await?;
    let records = records(vault, &rows).await?;
    let mut expected = position;
    for record in &records {
        expected = expected.next();
        if record.position != expected {
            return Err(StoreError::damaged(format!("position {expected}"), "it is missing"));
        }
    }
    Ok(records)
}

/// The next events of a stream after a version.
pub(crate) async fn of_stream(
    executor: impl PgExecutor<'_>,
    vault: &Vault,
    stream: &StreamId,
    version: Version,
    limit: usize,
) -> Result<Vec<Record>, StoreError> {
    let rows = sqlx::query(OF_STREAM)
        .bind(stream.aggregate_type)
        .bind(stream.id.as_hyphenated().to_string())
        .bind(i64::try_from(version).unwrap_or(i64::MAX))
        .bind(page_size(limit))
        .fetch_all(executor)
        .await?;
    records(vault, &rows).await
}

/// The next events after a position that pass a filter.
pub(crate) async fn filtered(
    pool: &PgPool,
    vault: &Vault,
    filter: &EventFilter,
    after: Position,
    limit: usize,
) -> Result<Selection, StoreError> {
    let limit = limit.min(MAX_PAGE);
    let head: i64 = sqlx::query_scalar(HEAD).fetch_one(pool).await?;
    let head = Position::from_i64(head);
    if limit == 0 || after >= head {
        return Ok(Selection {
            records: Vec::new(),
            scanned_to: after,
        });
    }
    if let Some(stream) = &filter.stream {
        let rows = select_of_stream(pool, stream, filter, after, limit).await?;
        let found = records(vault, &rows).await?;
        let complete = rows.len() < limit && found.len() == rows.len();
        let scanned_to = if complete {
            head
        } else {
            found.last().map_or(after, |record| record.position)
        };
        return Ok(Selection {
            records: found,
            scanned_to,
        });
    }
    let mut selection = Selection {
        records: Vec::new(),
        scanned_to: after,
    };
    for _ in 0..MAX_WINDOWS {
        let wanted = limit - selection.records.len();
        let end = Position(selection.scanned_to.0.saturating_add(WINDOW)).min(head);
        let rows = select(pool, filter, selection.scanned_to, end, wanted).await?;
        let found = match records(vault, &rows).await {
            Ok(found) => found,
            Err(_) if !selection.records.is_empty() => break, // it will come first in the next call
            Err(error) => return Err(error),
        };
        let complete = rows.len() < wanted && found.len() == rows.len();
        selection.scanned_to = if complete {
            end
        } else {
            found.last().map_or(selection.scanned_to, |record| record.position)
        };
        selection.records.extend(found);
        if !complete || end == head {
            break;
        }
    }
    Ok(selection)
}

fn types(filter: &EventFilter) -> Option<&[String]> {
    if filter.types.is_empty() {
        None
    } else {
        Some(&filter.types)
    }
}

async fn select(
    pool: &PgPool,
    filter: &EventFilter,
    after: Position,
    end: Position,
    limit: usize,
) -> Result<Vec<PgRow>, sqlx::Error> {
    sqlx::query(FILTERED)
        .bind(after.as_i64())
        .bind(end.as_i64())
        .bind(types(filter))
        .bind(filter.aggregate_type.as_deref())
        .bind(filter.actor.as_ref().map(ToString::to_string))
        .bind(filter.correlation_id)
        .bind(page_size(limit))
        .fetch_all(pool)
        .await
}

async fn select_of_stream(
    pool: &PgPool,
    stream: &StreamId,
    filter: &EventFilter,
    after: Position,
    limit: usize,
) -> Result<Vec<PgRow>, sqlx::Error> {
    sqlx::query(FILTERED_STREAM)
        .bind(stream.aggregate_type)
        .bind(stream.id.as_hyphenated().to_string())
        .bind(after.as_i64())
        .bind(types(filter))
        .bind(filter.aggregate_type.as_deref())
        .bind(filter.actor.as_ref().map(ToString::to_string))
        .bind(filter.correlation_id)
        .bind(page_size(limit))
        .fetch_all(pool)
        .await
}

/// What a row says, short of its payload being opened.
struct StoredEvent<'a> {
    row: &'a PgRow,
    position: Position,
    stream: StreamId,
    version: Version,
    payload: Value,
    subjects: BTreeSet<Uuid>,
}

impl<'a> StoredEvent<'a> {
    fn read(row: &'a PgRow) -> Result<Self, StoreError> {
        let position = Position::from_i64(row.try_get("position")?);
        let damaged = |what: &dyn ToString| StoreError::damaged(format!("position {position}"), what.to_string());
        let aggregate_type: &str = row.try_get("aggregate_type")?;
        let known = aggregate_type_of(aggregate_type).ok_or_else(|| StoreError::Decode {
            place: format!("position {position}"),
            source: Box::new(registry::DecodeError::UnknownAggregate(aggregate_type.to_owned())),
        })?;
        let id = Uuid::try_parse(row.try_get("aggregate_id")?).map_err(|error| damaged(&error))?;
        let payload: Value = serde_json::from_str(row.try_get("payload")?).map_err(|error| damaged(&error))?;
        let subjects = vault::sealed_subjects(&payload).map_err(|error| damaged(&error))?;
        Ok(Self {
            row,
            position,
            stream: StreamId {
                aggregate_type: known,
                id,
            },
            version: row.try_get::<i64, _>("sequence")?.cast_unsigned(),
            payload,
            subjects,
        })
    }

    fn into_record(mut self, keys: &vault::SubjectKeys) -> Result<Record, StoreError> {
        let (row, place) = (self.row, format!("position {}", self.position));
        vault::open(
            &mut self.payload,
            SealPlace {
                stream: self.stream,
                version: self.version,
            },
            keys,
        )
        .map_err(|error| StoreError::damaged(&place, error))?;
        let event = decode(
            &place,
            self.stream.aggregate_type,
            row.try_get("event_type")?,
            row.try_get("event_version")?,
            self.payload,
        )?;
        let actor: &str = row.try_get("actor")?;
        Ok(Record {
            position: self.position,
            stream: self.stream,
            version: self.version,
            event,
            metadata: Metadata {
                event_id: row.try_get("event_id")?,
                command_id: row.try_get("command_id")?,
                actor: actor.parse().map_err(|error| StoreError::damaged(&place, error))?,
                correlation_id: row.try_get("correlation_id")?,
                causation_id: row.try_get("causation_id")?,
            },
            recorded_at: Timestamp::from_offset(row.try_get::<OffsetDateTime, _>("recorded_at")?),
            leaf_hash: Hash::from_column(row, "leaf_hash")?,
            entry_hash: Hash::from_column(row, "entry_hash")?,
        })
    }
}

async fn records(vault: &Vault, rows: &[PgRow]) -> Result<Vec<Record>, StoreError> {
    let mut read = Vec::with_capacity(rows.len());
    let mut failed = None;
    for row in rows {
        match StoredEvent::read(row) {
            Ok(row) => read.push(row),
            Err(error) => {
                failed = Some(error);
                break;
            }
        }
    }
    let subjects: BTreeSet<Uuid> = read.iter().flat_map(|row| &row.subjects).copied().collect();
    let keys = vault.keys_for_opening(&subjects).await?;
    let mut records = Vec::with_capacity(read.len());
    for row in read {
        match row.into_record(&keys) {
            Ok(record) => records.push(record),
            Err(error) => {
                failed = Some(error);
                break;
            }
        }
    }
    match failed {
        Some(error) if records.is_empty() => Err(error),
        _ => Ok(records),
    }
}

pub(crate) fn decode(
    place: &str,
    aggregate_type: &str,
    event_type: &str,
    event_version: &str,
    payload: Value,
) -> Result<AnyEvent, StoreError> {
    registry::decode(aggregate_type, event_type, event_version, payload).map_err(|source| StoreError::Decode {
        place: place.to_owned(),
        source: Box::new(source),
    })
}
