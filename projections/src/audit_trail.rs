//! Read model `audit_trail`: who did what, when and why; one row per event of the log, without its payload.

use annals_domain::{Actor, Caller, Permission, Timestamp};
use annals_eventstore::{Database, Position, Record, StreamId};
use futures::future::BoxFuture;
use sqlx::{FromRow, PgConnection};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::engine::{Projection, ProjectionError};
use crate::error::QueryError;
use crate::rows::Moment;

/// The most rows that one question returns.
pub const MOST_ENTRIES: u32 = 1_000;

/// Keeps `view.audit_trail`.
#[derive(Debug, Clone, Copy)]
pub struct AuditTrail;

const WRITE: &str = "
insert into audit_trail (position, recorded_at, event_id, actor, aggregate_type, stream_id, version, event_type,
                         command_id, correlation_id, causation_id)
select *
  from unnest($1::bigint[], $2::timestamptz[], $3::uuid[], $4::text[], $5::text[], $6::uuid[], $7::bigint[],
              $8::text[], $9::uuid[], $10::uuid[], $11::uuid[])";

impl Projection for AuditTrail {
    fn name(&self) -> &'static str {
        "audit_trail"
    }

    fn version(&self) -> i32 {
        1
    }

    fn tables(&self) -> &'static [&'static str] {
        &["audit_trail"]
    }

    fn definition(&self) -> &'static str {
        include_str!("../../migrations/view/0008_audit_trail.sql")
    }

    fn apply<'a>(
        &'a self,
        connection: &'a mut PgConnection,
        batch: &'a [Record],
    ) -> BoxFuture<'a, Result<(), ProjectionError>> {
        Box::pin(append(connection, batch))
    }
}

async fn append(connection: &mut PgConnection, batch: &[Record]) -> Result<(), ProjectionError> {
    if batch.is_empty() {
        return Ok(());
    }
    let uuids = |id: fn(&Record) -> Uuid| batch.iter().map(id).collect::<Vec<Uuid>>();
    let positions: Vec<i64> = batch.iter().map(|record| record.position.0.cast_signed()).collect();
    let moments: Vec<OffsetDateTime> = batch.iter().map(|record| record.recorded_at.to_offset()).collect();
    let actors: Vec<String> = batch.iter().map(|record| record.metadata.actor.to_string()).collect();
    let aggregates: Vec<&str> = batch.iter().map(|record| record.stream.aggregate_type).collect();
    let versions: Vec<i64> = batch.iter().map(|record| record.version.cast_signed()).collect();
    let types: Vec<&str> = batch.iter().map(|record| record.event.event_type()).collect();
    sqlx::query(WRITE)
        .bind(positions)
        .bind(moments)
        .bind(uuids(|record| record.metadata.event_id))
        .bind(actors)
        .bind(aggregates)
        .bind(uuids(|record| record.stream.id))
        .bind(versions)
        .bind(types)
        .bind(uuids(|record| record.metadata.command_id))
        .bind(uuids(|record| record.metadata.correlation_id))
        .bind(uuids(|record| record.metadata.causation_id))
        .execute(connection)
        .await?;
    Ok(())
}

/// One event, by everything but its payload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditEntry {
    /// Its place in the log.
    pub position: Position,
    /// When it was written.
    pub recorded_at: Timestamp,
    /// Its own id.
    pub event_id: Uuid,
    /// Who caused it.
    pub actor: Actor,
    /// The kind of its stream, such as `content`.
    pub aggregate_type: String,
    /// The id of its stream.
    pub stream_id: Uuid,
    /// Its place in the stream.
    pub version: u64,
    /// What happened, such as `content.published`.
    pub event_type: String,
    /// The command that caused it.
    pub command_id: Uuid,
    /// Shared by everything that one request set off.
    pub correlation_id: Uuid,
    /// The message that set it off.
    pub causation_id: Uuid,
}

#[derive(FromRow)]
struct Stored {
    position: i64,
    recorded_at: Moment,
    event_id: Uuid,
    actor: String,
    aggregate_type: String,
    stream_id: Uuid,
    version: i64,
    event_type: String,
    command_id: Uuid,
    correlation_id: Uuid,
    causation_id: Uuid,
}

impl TryFrom<Stored> for AuditEntry {
    type Error = QueryError;

    fn try_from(row: Stored) -> Result<Self, QueryError> {
        let actor = row.actor.parse().map_err(|_| QueryError::Unreadable {
            column: "audit_trail.actor",
            value: row.actor,
        })?;
        Ok(Self {
            position: Position(row.position.cast_unsigned()),
            recorded_at: row.recorded_at.into(),
            event_id: row.event_id,
            actor,
            aggregate_type: row.aggregate_type,
            stream_id: row.stream_id,
            version: row.version.cast_unsigned(),
            event_type: row.event_type,
            command_id: row.command_id,
            correlation_id: row.correlation_id,
            causation_id: row.causation_id,
        })
    }
}

/// Which entries to show. No condition means all; conditions are combined by "and".
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AuditFilter {
    /// Caused by this actor.
    pub actor: Option<Actor>,
    /// In streams of this kind.
    pub aggregate_type: Option<String>,
    /// In this stream.
    pub stream: Option<StreamId>,
    /// Of one of these types; empty means of any.
    pub types: Vec<String>,
    /// Set off by this request.
    pub correlation_id: Option<Uuid>,
    /// Written at this moment or later.
    pub from: Option<Timestamp>,
    /// Written before this moment.
    pub to: Option<Timestamp>,
    /// Behind this position; the last one of a page leads to the next page.
    pub after: Option<Position>,
    /// The most entries wanted; more than [`MOST_ENTRIES`], or none said, means [`MOST_ENTRIES`].
    pub limit: Option<u32>,
}

const QUERY: &str = "
select position, recorded_at, event_id, actor, aggregate_type, stream_id, version, event_type, command_id,
       correlation_id, causation_id
  from view.audit_trail
 where position > $1
   and ($2::text is null or actor = $2)
   and ($3::text is null or aggregate_type = $3)
   and ($4::uuid is null or stream_id = $4)
   and ($5::text[] is null or event_type = any($5))
   and ($6::uuid is null or correlation_id = $6)
   and ($7::timestamptz is null or recorded_at >= $7)
   and ($8::timestamptz is null or recorded_at < $8)
 order by position
 limit $9";

/// Entries in the order of the log. Users may ask about what they did themselves; more takes `audit.read`.
///
/// # Errors
/// [`QueryError::Denied`] without `audit.read`, unless `filter.actor` is the caller.
pub async fn query(caller: &Caller, database: &Database, filter: &AuditFilter) -> Result<Vec<AuditEntry>, QueryError> {
    let about_self = caller
        .user_id()
        .is_some_and(|user| filter.actor == Some(Actor::User(user)));
    if !about_self {
        caller.require(Permission::AuditRead)?;
    }
    // A stream and a kind of stream that do not agree have no entries in common.
    let of_stream = filter.stream.as_ref().map(|stream| stream.aggregate_type);
    if let (Some(wanted), Some(of_stream)) = (filter.aggregate_type.as_deref(), of_stream)
        && wanted != of_stream
    {
        return Ok(Vec::new());
    }
    let stored: Vec<Stored> = sqlx::query_as(QUERY)
        // Planned for the values at hand: a plan for any values could use none of the indexes.
        .persistent(false)
        .bind(
            filter
                .after
                .map_or(0, |position| i64::try_from(position.0).unwrap_or(i64::MAX)),
        )
        .bind(filter.actor.as_ref().map(ToString::to_string))
        .bind(of_stream.or(filter.aggregate_type.as_deref()))
        .bind(filter.stream.as_ref().map(|stream| stream.id))
        .bind((!filter.types.is_empty()).then_some(&filter.types))
        .bind(filter.correlation_id)
        .bind(filter.from.map(|from| from.to_offset()))
        .bind(filter.to.map(|to| to.to_offset()))
        .bind(i64::from(filter.limit.unwrap_or(MOST_ENTRIES).min(MOST_ENTRIES)))
        .fetch_all(database.pool())
        .await?;
    stored.into_iter().map(TryInto::try_into).collect()
}
