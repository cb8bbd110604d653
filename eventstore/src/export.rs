//! The log as newline-delimited JSON, one event a line, for auditors and for moving it.
//!
//! `payload` and `metadata` are JSON texts inside JSON strings: the very bytes that were stored and hashed, which a
//! reader gets back by decoding the string once. Personal data stays sealed. With the fields of a line, in the order
//! and encoding of [`crate::chain`], leaf and entry hashes can be computed without a database.

use serde::{Deserialize, Serialize};
use sqlx::Row;
use sqlx::postgres::PgRow;
use time::OffsetDateTime;
use tokio::io::{AsyncWrite, AsyncWriteExt};
use uuid::Uuid;

use annals_domain::Timestamp;

use crate::chain::{self, RawEvent};
use crate::database::{Database, Timeouts};
use crate::error::StoreError;
use crate::position::{Hash, Position};

/// Events of one page.
const PAGE: i64 = 1000;

const RAW_EVENTS: &str = "
    select position, sequence, recorded_at, event_id, command_id, correlation_id, causation_id, aggregate_type,
        aggregate_id, event_type, event_version, actor, payload::text as payload, metadata::text as metadata,
        leaf_hash, entry_hash
    from log.events
    where position > $1 and position <= $2
    order by position
    limit $3
";

/// One exported event: every column of the log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExportedEvent {
    /// Place in the log.
    pub position: Position,
    /// Such as `content`.
    pub aggregate_type: String,
    /// The aggregate's id.
    pub aggregate_id: String,
    /// Number within the stream, from 1.
    pub sequence: i64,
    /// Such as `content.created`.
    pub event_type: String,
    /// Version of the type.
    pub event_version: String,
    /// Names the event.
    pub event_id: Uuid,
    /// The command that wrote it.
    pub command_id: Uuid,
    /// Who caused it.
    pub actor: String,
    /// The request that set it off.
    pub correlation_id: Uuid,
    /// The message that directly set it off.
    pub causation_id: Uuid,
    /// By the database's clock.
    pub recorded_at: Timestamp,
    /// The stored JSON text.
    pub payload: String,
    /// The stored JSON text.
    pub metadata: String,
    /// Hash of the fields above but position and time.
    pub leaf_hash: Hash,
    /// Stands for this event and all before it.
    pub entry_hash: Hash,
}

/// Why an export ended early.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// The log could not be read, or has a hole.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// What was read could not be written.
    #[error("the export could not be written")]
    Write(#[from] std::io::Error),
}

impl From<sqlx::Error> for ExportError {
    fn from(error: sqlx::Error) -> Self {
        Self::Store(error.into())
    }
}

impl ExportedEvent {
    fn from_row(row: &PgRow) -> Result<Self, sqlx::Error> {
        Ok(Self {
            position: Position::from_i64(row.try_get("position")?),
            aggregate_type: row.try_get("aggregate_type")?,
            aggregate_id: row.try_get("aggregate_id")?,
            sequence: row.try_get("sequence")?,
            event_type: row.try_get("event_type")?,
            event_version: row.try_get("event_version")?,
            event_id: row.try_get("event_id")?,
            command_id: row.try_get("command_id")?,
            actor: row.try_get("actor")?,
            correlation_id: row.try_get("correlation_id")?,
            causation_id: row.try_get("causation_id")?,
            recorded_at: Timestamp::from_offset(row.try_get::<OffsetDateTime, _>("recorded_at")?),
            payload: row.try_get("payload")?,
            metadata: row.try_get("metadata")?,
            leaf_hash: Hash::from_column(row, "leaf_hash")?,
            entry_hash: Hash::from_column(row, "entry_hash")?,
        })
    }

    /// Whether this event is unchanged and follows the one whose entry hash is `previous`.
    #[must_use]
    pub fn follows(&self, previous: Hash) -> bool {
        let leaf = RawEvent {
            aggregate_type: &self.aggregate_type,
            aggregate_id: &self.aggregate_id,
            sequence: self.sequence,
            event_type: &self.event_type,
            event_version: &self.event_version,
            event_id: self.event_id,
            command_id: self.command_id,
            actor: &self.actor,
            correlation_id: self.correlation_id,
            causation_id: self.causation_id,
            payload: &self.payload,
            metadata: &self.metadata,
        }
        .leaf_hash();
        leaf == self.leaf_hash && chain::entry_hash(previous, leaf, self.position, self.recorded_at) == self.entry_hash
    }
}

/// Writes the events after `after` up to and including `to`, or the end of the log if that comes first. Returns the
/// position of the last one; `progress` is called with it after every thousand events.
///
/// # Errors
/// [`ExportError`].
pub async fn export(
    database: &Database,
    after: Position,
    to: Position,
    out: &mut (impl AsyncWrite + Unpin + Send),
    mut progress: impl FnMut(Position) + Send,
) -> Result<Position, ExportError> {
    let mut connection = database.connect_dedicated(Timeouts::MAINTENANCE).await?;
    let mut last = after;
    loop {
        let rows = sqlx::query(RAW_EVENTS)
            .bind(last.as_i64())
            .bind(to.as_i64())
            .bind(PAGE)
            .fetch_all(&mut connection)
            .await?;
        if rows.is_empty() {
            break;
        }
        let mut page = Vec::new();
        for row in &rows {
            let event = ExportedEvent::from_row(row)?;
            if event.position != last.next() {
                return Err(StoreError::damaged(format!("position {}", last.next()), "it is missing").into());
            }
            last = event.position;
            serde_json::to_writer(&mut page, &event).map_err(std::io::Error::from)?;
            page.push(b'\n');
        }
        out.write_all(&page).await?;
        progress(last);
    }
    out.flush().await?;
    Ok(last)
}
