//! The hash chain, and the check that the log is what it was and that the tables kept beside it agree with it.
//!
//! The leaf of an event is the SHA-256 of its stored bytes; its entry hash is the SHA-256 of the entry hash before it
//! (32 bytes, zeros for the first event), the leaf (32), the position (8, big-endian) and the time of recording in
//! microseconds since 1970 (8, big-endian). Whoever can write to the database as its owner can also compute a new
//! chain: it proves something only against an entry hash that was kept elsewhere.

use std::collections::{HashMap, HashSet};

use serde::Serialize;
use sha2::{Digest, Sha256};
use sqlx::postgres::PgRow;
use sqlx::{Connection, PgConnection, Row};
use time::OffsetDateTime;
use uuid::Uuid;

use annals_domain::{ClaimScope, Metadata, Timestamp};

use crate::append::{StreamId, Version, aggregate_type_of};
use crate::claims::{Ledger, StoredChange};
use crate::database::{Database, Timeouts};
use crate::error::StoreError;
use crate::position::{Hash, Head, Position};
use crate::read;
use crate::snapshot::{self, Compared};
use crate::vault::{self, SealPlace, Vault};

/// Rows of one page of verification.
const PAGE: i64 = 1000;

/// Separates leaves from every other use of SHA-256; the number changes with the encoding.
const LEAF_TAG: &[u8] = b"annals/leaf/1";

const RAW_EVENTS: &str = "
    select position, sequence, recorded_at, event_id, command_id, correlation_id, causation_id, aggregate_type,
        aggregate_id, event_type, event_version, actor, payload::text as payload, metadata::text as metadata,
        leaf_hash, entry_hash
    from log.events
    where position > $1
    order by position
    limit $2
";

const STREAMS: &str = "
    select aggregate_type, aggregate_id, version, first_position, last_position
    from log.streams
    where (aggregate_type, aggregate_id) > ($1, $2)
    order by aggregate_type, aggregate_id
    limit $3
";

const CLAIMS: &str = "
    select scope, key, owner_type, owner_id, taken_at_position
    from log.claims
    where (scope, key) > ($1, $2)
    order by scope, key
    limit $3
";

const LAST_KNOWN: &str = "
    select greatest(
        (select max(last_position) from log.streams),
        (select max(last_position) from log.commands)
    )
";

const ENTRY_BEFORE: &str = "
    select entry_hash, recorded_at
    from log.events
    where position = $1
";

const ONE_VIEW: &str = "begin transaction isolation level repeatable read read only";

/// An event exactly as it is stored; all of it but position, time and entry hash goes into its leaf.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RawEvent<'a> {
    pub(crate) aggregate_type: &'a str,
    pub(crate) aggregate_id: &'a str,
    pub(crate) sequence: i64,
    pub(crate) event_type: &'a str,
    pub(crate) event_version: &'a str,
    pub(crate) event_id: Uuid,
    pub(crate) command_id: Uuid,
    pub(crate) actor: &'a str,
    pub(crate) correlation_id: Uuid,
    pub(crate) causation_id: Uuid,
    pub(crate) payload: &'a str,
    pub(crate) metadata: &'a str,
}

impl RawEvent<'_> {
    /// SHA-256 over the tag and, in this order, every part preceded by its length in 4 bytes, big-endian. Numbers are
    /// 8 bytes, big-endian; ids that are UUIDs are their 16 bytes; texts are UTF-8.
    pub(crate) fn leaf_hash(&self) -> Hash {
        let mut sha = Sha256::new();
        sha.update(LEAF_TAG);
        let mut part = |bytes: &[u8]| {
            sha.update(u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_be_bytes());
            sha.update(bytes);
        };
        part(self.aggregate_type.as_bytes());
        part(self.aggregate_id.as_bytes());
        part(&self.sequence.to_be_bytes());
        part(self.event_type.as_bytes());
        part(self.event_version.as_bytes());
        part(self.event_id.as_bytes());
        part(self.command_id.as_bytes());
        part(self.actor.as_bytes());
        part(self.correlation_id.as_bytes());
        part(self.causation_id.as_bytes());
        part(self.payload.as_bytes());
        part(self.metadata.as_bytes());
        Hash(sha.finalize().into())
    }
}

/// The entry hash of the event with `leaf` at `position`, following `previous`. The append function computes the same.
#[must_use]
pub fn entry_hash(previous: Hash, leaf: Hash, position: Position, recorded_at: Timestamp) -> Hash {
    let mut sha = Sha256::new();
    sha.update(previous.0);
    sha.update(leaf.0);
    sha.update(position.as_i64().to_be_bytes());
    sha.update(recorded_at.unix_micros().to_be_bytes());
    Hash(sha.finalize().into())
}

/// How far a verification has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct VerifyProgress {
    /// Everything up to here has been checked.
    pub position: Position,
    /// Where the log ended when the verification began.
    pub head: Position,
}

/// What was found to be in order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct VerifyReport {
    /// Position of the first event checked.
    pub from: Position,
    /// Events whose chain, order and stream versions are right.
    pub events: u64,
    /// Streams whose recorded version agrees with their events.
    pub streams: u64,
    /// Claims that follow from the events; 0 unless the check began at the first event.
    pub claims: u64,
    /// Claims of streams with erased data, which can no longer be computed.
    pub claims_not_computable: u64,
    /// Snapshots that are what their events lead to; 0 unless the check began at the first event.
    pub snapshots: u64,
    /// Snapshots that no load would use: of erased people, or of another version of this program.
    pub snapshots_unused: u64,
    /// The end of the chain: to be compared with one kept elsewhere.
    pub head: Head,
}

/// The first thing found that is not as it was written.
#[derive(Debug, thiserror::Error)]
pub enum VerifyFault {
    /// There is no event at a position that has been given.
    #[error("position {0} is missing")]
    MissingPosition(Position),
    /// An event's bytes are not those that were hashed.
    #[error("the event at position {position} was changed: leaf hash {computed} is stored as {stored}")]
    Leaf {
        /// Which event.
        position: Position,
        /// The hash of the bytes that are there.
        computed: Hash,
        /// The hash that was stored with them.
        stored: Hash,
    },
    /// An event does not follow from the one before it.
    #[error("the chain breaks at position {position}: entry hash {computed} is stored as {stored}")]
    Entry {
        /// Which event.
        position: Position,
        /// What follows from the entry before.
        computed: Hash,
        /// What is stored.
        stored: Hash,
    },
    /// An event was recorded before its predecessor.
    #[error("time goes back at position {0}")]
    Time(Position),
    /// The versions of a stream are not 1, 2, 3 ...
    #[error("position {position} is version {found} of {stream}, not {expected}")]
    Sequence {
        /// Which event.
        position: Position,
        /// Its stream.
        stream: StreamId,
        /// The version that is next.
        expected: Version,
        /// The version stored.
        found: Version,
    },
    /// The list of streams disagrees with the events.
    #[error("stream {stream} has {events} events, but is listed at version {listed}")]
    StreamVersion {
        /// Which stream.
        stream: StreamId,
        /// How many events it has.
        events: Version,
        /// What the list says; 0 when it is not listed.
        listed: Version,
    },
    /// The list of streams names other positions than the events have.
    #[error("stream {0} is listed with the wrong first or last position")]
    StreamPositions(StreamId),
    /// An event takes a claim that another stream holds.
    #[error("the event at position {position} takes a claim of scope {scope} that {owner} holds")]
    ClaimTakenTwice {
        /// Which event.
        position: Position,
        /// What the key identifies.
        scope: ClaimScope,
        /// Who holds it.
        owner: StreamId,
    },
    /// The table of claims does not follow from the events.
    #[error("claim {scope} {key} belongs to {}, but is listed under {}", owner_name(.owner), owner_name(.listed))]
    Claim {
        /// What the key identifies.
        scope: ClaimScope,
        /// The stored key, hexadecimal.
        key: String,
        /// The owner by the events; absent when nobody holds it.
        owner: Option<StreamId>,
        /// The owner by the table; absent when it is not listed.
        listed: Option<StreamId>,
    },
    /// A claim is listed with another position than that of the event that took it.
    #[error("claim {scope} {key} was taken at position {taken}, but is listed at {listed}")]
    ClaimPosition {
        /// What the key identifies.
        scope: ClaimScope,
        /// The stored key, hexadecimal.
        key: String,
        /// By the events.
        taken: Position,
        /// By the table.
        listed: Position,
    },
    /// A snapshot is not the state that the events lead to, or is damaged.
    #[error("the snapshot of {stream} at version {version} is not what its events lead to")]
    Snapshot {
        /// Which stream.
        stream: StreamId,
        /// How many events it claims to be made of.
        version: Version,
    },
    /// The columns beside an event and its metadata name different origins.
    #[error("the columns at position {0} disagree with the metadata")]
    Metadata(Position),
    /// The log could not be read, or an event in it not be understood.
    #[error(transparent)]
    Store(#[from] StoreError),
}

fn owner_name(owner: &Option<StreamId>) -> String {
    owner.map_or_else(|| "nobody".to_owned(), |owner| owner.to_string())
}

impl From<sqlx::Error> for VerifyFault {
    fn from(error: sqlx::Error) -> Self {
        Self::Store(error.into())
    }
}

/// Checks the log from position `from` to its end, as it is at this moment, in one read-only transaction: positions
/// dense, bytes unchanged, chain unbroken, time not going back, stream versions counting from 1, and the tables of
/// streams, claims and snapshots as the events make them. Claims need every event, so they and the snapshots are checked
/// only from position 1.
///
/// Keeps one entry per stream and claim in memory. `progress` is called after every thousand events.
///
/// # Errors
/// The first [`VerifyFault`].
pub async fn verify(
    database: &Database,
    vault: &Vault,
    from: Position,
    mut progress: impl FnMut(VerifyProgress) + Send,
) -> Result<VerifyReport, VerifyFault> {
    let mut connection = database.connect_dedicated(Timeouts::MAINTENANCE).await?;
    sqlx::query(ONE_VIEW).execute(&mut connection).await?;
    let mut check = Check::start(&mut connection, from.max(Position(1))).await?;
    let head: Option<i64> = sqlx::query_scalar("select max(position) from log.events")
        .fetch_one(&mut connection)
        .await?;
    let head = Position::from_i64(head.unwrap_or(0));
    loop {
        let rows = sqlx::query(RAW_EVENTS)
            .bind(check.last.position.as_i64())
            .bind(PAGE)
            .fetch_all(&mut connection)
            .await?;
        if rows.is_empty() {
            break;
        }
        check.page(vault, &rows).await?;
        progress(VerifyProgress {
            position: check.last.position,
            head,
        });
    }
    let last_known: Option<i64> = sqlx::query_scalar(LAST_KNOWN).fetch_one(&mut connection).await?;
    if last_known.is_some_and(|last| Position::from_i64(last) > check.last.position) {
        return Err(VerifyFault::MissingPosition(check.last.position.next()));
    }
    let streams = check.streams(&mut connection).await?;
    let (claims, claims_not_computable) = if check.is_whole() {
        check.claims(&mut connection).await?
    } else {
        (0, 0)
    };
    let (snapshots, snapshots_unused) = if check.is_whole() {
        compare_snapshots(&mut connection, vault).await?
    } else {
        (0, 0)
    };
    // Read-only and finished: nothing depends on how it ends.
    let _ = connection.close().await;
    Ok(VerifyReport {
        from: check.from,
        events: check.last.position.0.saturating_add(1).saturating_sub(check.from.0),
        streams,
        claims,
        claims_not_computable,
        snapshots,
        snapshots_unused,
        head: check.last,
    })
}

/// How many snapshots are what their events lead to, and how many no load would use.
async fn compare_snapshots(connection: &mut PgConnection, vault: &Vault) -> Result<(u64, u64), VerifyFault> {
    let mut after = (String::new(), String::new());
    let (mut equal, mut unused) = (0, 0);
    loop {
        let page = snapshot::list(connection, (&after.0, &after.1), PAGE).await?;
        let Some(last) = page.last().cloned() else {
            return Ok((equal, unused));
        };
        after = last;
        for (aggregate_type, id) in &page {
            let Some(stream) = snapshot::stream_of(aggregate_type, id) else {
                unused += 1;
                continue;
            };
            match snapshot::compare(connection, vault, stream).await? {
                (_, Compared::Equal) => equal += 1,
                (_, Compared::Unused) => unused += 1,
                (version, Compared::Different) => return Err(VerifyFault::Snapshot { stream, version }),
            }
        }
    }
}

#[derive(Debug, Clone, Copy)]
struct Extent {
    version: Version,
    first: Position,
    last: Position,
}

struct Check {
    from: Position,
    last: Head,
    extents: HashMap<StreamId, Extent>,
    ledger: Ledger,
    /// Streams with data that no longer opens, whose claims therefore cannot be computed.
    erased: HashSet<StreamId>,
}

impl Check {
    async fn start(connection: &mut PgConnection, from: Position) -> Result<Self, VerifyFault> {
        let mut last = Head {
            position: Position(from.0.saturating_sub(1)),
            ..Head::EMPTY
        };
        if last.position > Position::START {
            let row = sqlx::query(ENTRY_BEFORE)
                .bind(last.position.as_i64())
                .fetch_optional(connection)
                .await?
                .ok_or(VerifyFault::MissingPosition(last.position))?;
            last.entry_hash = Hash::from_column(&row, "entry_hash")?;
            last.recorded_at = Some(Timestamp::from_offset(row.try_get("recorded_at")?));
        }
        Ok(Self {
            from,
            last,
            extents: HashMap::new(),
            ledger: Ledger::default(),
            erased: HashSet::new(),
        })
    }

    fn is_whole(&self) -> bool {
        self.from == Position(1)
    }

    async fn page(&mut self, vault: &Vault, rows: &[PgRow]) -> Result<(), VerifyFault> {
        let mut payloads = Vec::with_capacity(rows.len());
        let mut subjects = std::collections::BTreeSet::new();
        for row in rows {
            let (stream, version) = self.chain(row)?;
            if self.is_whole() {
                let position = self.last_of(stream);
                let payload = serde_json::from_str(row.try_get("payload")?)
                    .map_err(|error| StoreError::damaged(format!("position {position}"), error))?;
                let of_event = vault::sealed_subjects(&payload).map_err(StoreError::from)?;
                subjects.extend(of_event.iter().copied());
                payloads.push((row, stream, version, position, payload, of_event));
            }
        }
        let keys = vault.keys_for_opening(&subjects).await.map_err(StoreError::from)?;
        for (row, stream, version, position, mut payload, of_event) in payloads {
            if of_event.iter().any(|subject| !keys.contains_key(subject)) {
                self.erased.insert(stream);
            }
            vault::open(&mut payload, SealPlace { stream, version }, &keys)
                .map_err(|error| StoreError::damaged(format!("position {position}"), error))?;
            let event = read::decode(
                &format!("position {position}"),
                stream.aggregate_type,
                row.try_get("event_type")?,
                row.try_get("event_version")?,
                payload,
            )?;
            for change in event.claims(stream.id) {
                let change = StoredChange::new(&change, vault);
                self.ledger
                    .apply(stream, position, change)
                    .map_err(|(scope, _, owner)| VerifyFault::ClaimTakenTwice { position, scope, owner })?;
            }
        }
        Ok(())
    }

    fn last_of(&self, stream: StreamId) -> Position {
        self.extents.get(&stream).map_or(Position::START, |extent| extent.last)
    }

    /// Order, bytes, chain, time and version of one event.
    fn chain(&mut self, row: &PgRow) -> Result<(StreamId, Version), VerifyFault> {
        let position = Position::from_i64(row.try_get("position")?);
        let expected = self.last.position.next();
        if position != expected {
            return Err(VerifyFault::MissingPosition(expected));
        }
        let raw = RawEvent {
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
            payload: row.try_get("payload")?,
            metadata: row.try_get("metadata")?,
        };
        let stored = Hash::from_column(row, "leaf_hash")?;
        let computed = raw.leaf_hash();
        if computed != stored {
            return Err(VerifyFault::Leaf {
                position,
                computed,
                stored,
            });
        }
        let recorded_at = Timestamp::from_offset(row.try_get::<OffsetDateTime, _>("recorded_at")?);
        if self.last.recorded_at.is_some_and(|before| recorded_at < before) {
            return Err(VerifyFault::Time(position));
        }
        let stored = Hash::from_column(row, "entry_hash")?;
        let computed = entry_hash(self.last.entry_hash, computed, position, recorded_at);
        if computed != stored {
            return Err(VerifyFault::Entry {
                position,
                computed,
                stored,
            });
        }
        self.last = Head {
            position,
            entry_hash: stored,
            recorded_at: Some(recorded_at),
        };

        let metadata: Metadata = serde_json::from_str(raw.metadata).map_err(|_| VerifyFault::Metadata(position))?;
        if (
            metadata.event_id,
            metadata.command_id,
            metadata.correlation_id,
            metadata.causation_id,
        ) != (raw.event_id, raw.command_id, raw.correlation_id, raw.causation_id)
            || metadata.actor.to_string() != raw.actor
        {
            return Err(VerifyFault::Metadata(position));
        }
        self.count(position, &raw)
    }

    fn count(&mut self, position: Position, raw: &RawEvent<'_>) -> Result<(StreamId, Version), VerifyFault> {
        let stream = aggregate_type_of(raw.aggregate_type)
            .zip(Uuid::try_parse(raw.aggregate_id).ok())
            .map(|(aggregate_type, id)| StreamId { aggregate_type, id })
            .ok_or_else(|| {
                let name = format!("{}/{}", raw.aggregate_type, raw.aggregate_id);
                StoreError::damaged(
                    format!("position {position}"),
                    format!("no stream can be called {name}"),
                )
            })?;
        let found = raw.sequence.cast_unsigned();
        let whole = self.is_whole();
        let extent = self.extents.entry(stream).or_insert(Extent {
            version: if whole { 0 } else { found.saturating_sub(1) },
            first: position,
            last: position,
        });
        let expected = extent.version + 1;
        if found != expected {
            return Err(VerifyFault::Sequence {
                position,
                stream,
                expected,
                found,
            });
        }
        extent.version = found;
        extent.last = position;
        Ok((stream, found))
    }

    async fn streams(&mut self, connection: &mut PgConnection) -> Result<u64, VerifyFault> {
        let mut after = (String::new(), Uuid::nil());
        let mut agreed = 0;
        loop {
            let rows = sqlx::query(STREAMS)
                .bind(&after.0)
                .bind(after.1)
                .bind(PAGE)
                .fetch_all(&mut *connection)
                .await?;
            let Some(last) = rows.last() else { break };
            after = (last.try_get("aggregate_type")?, last.try_get("aggregate_id")?);
            for row in &rows {
                let stream = listed_stream(row, "aggregate_type", "aggregate_id")?;
                let listed = row.try_get::<i64, _>("version")?.cast_unsigned();
                let Some(extent) = self.extents.remove(&stream) else {
                    if self.is_whole() {
                        return Err(VerifyFault::StreamVersion {
                            stream,
                            events: 0,
                            listed,
                        });
                    }
                    continue; // nothing of it since the check began
                };
                if extent.version != listed {
                    return Err(VerifyFault::StreamVersion {
                        stream,
                        events: extent.version,
                        listed,
                    });
                }
                let first = Position::from_i64(row.try_get("first_position")?);
                let last = Position::from_i64(row.try_get("last_position")?);
                if last != extent.last || self.is_whole() && first != extent.first {
                    return Err(VerifyFault::StreamPositions(stream));
                }
                agreed += 1;
            }
        }
        match self.extents.iter().min_by_key(|(stream, _)| **stream) {
            Some((stream, extent)) => Err(VerifyFault::StreamVersion {
                stream: *stream,
                events: extent.version,
                listed: 0,
            }),
            None => Ok(agreed),
        }
    }

    async fn claims(&mut self, connection: &mut PgConnection) -> Result<(u64, u64), VerifyFault> {
        let mut after = (String::new(), Vec::<u8>::new());
        let (mut agreed, mut not_computable) = (0, 0);
        loop {
            let rows = sqlx::query(CLAIMS)
                .bind(&after.0)
                .bind(&after.1)
                .bind(PAGE)
                .fetch_all(&mut *connection)
                .await?;
            let Some(last) = rows.last() else { break };
            after = (last.try_get("scope")?, last.try_get("key")?);
            for row in &rows {
                let scope: ClaimScope = row
                    .try_get::<&str, _>("scope")?
                    .parse()
                    .map_err(|error| StoreError::damaged("the table of claims", error))?;
                let key: &[u8] = row.try_get("key")?;
                let listed = listed_stream(row, "owner_type", "owner_id")?;
                let position = Position::from_i64(row.try_get("taken_at_position")?);
                let by_events = self.ledger.remove(scope, key);
                if by_events.is_none() && self.erased.contains(&listed) {
                    not_computable += 1;
                    continue;
                }
                match by_events {
                    Some((owner, taken)) if owner == listed => {
                        if taken != position {
                            let key = hex::encode(key);
                            return Err(VerifyFault::ClaimPosition {
                                scope,
                                key,
                                taken,
                                listed: position,
                            });
                        }
                    }
                    other => {
                        return Err(VerifyFault::Claim {
                            scope,
                            key: hex::encode(key),
                            owner: other.map(|(owner, _)| owner),
                            listed: Some(listed),
                        });
                    }
                }
                agreed += 1;
            }
        }
        match self.ledger.first() {
            Some((scope, key, owner)) => Err(VerifyFault::Claim {
                scope,
                key: hex::encode(key),
                owner: Some(owner),
                listed: None,
            }),
            None => Ok((agreed, not_computable)),
        }
    }
}

fn listed_stream(row: &PgRow, aggregate_type: &str, id: &str) -> Result<StreamId, VerifyFault> {
    let name: &str = row.try_get(aggregate_type)?;
    let aggregate_type = aggregate_type_of(name)
        .ok_or_else(|| StoreError::damaged("a table beside the log", format!("unknown aggregate {name:?}")))?;
    Ok(StreamId {
        aggregate_type,
        id: row.try_get(id)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raw() -> RawEvent<'static> {
        RawEvent {
            aggregate_type: "user",
            aggregate_id: "00000000-0000-0000-0000-000000000001",
            sequence: 1,
            event_type: "user.disabled",
            event_version: "1",
            event_id: Uuid::from_u128(2),
            command_id: Uuid::from_u128(3),
            actor: "system:test",
            correlation_id: Uuid::from_u128(4),
            causation_id: Uuid::from_u128(5),
            payload: "{}",
            metadata: "{}",
        }
    }

    #[test]
    fn the_encoding_of_a_leaf_never_changes() {
        let leaf = "bfb3a97531f3a1db7c6e6c261e4493b7de0955c13fbf7b243d256ada048520b4";
        assert_eq!(raw().leaf_hash().to_string(), leaf);
        let entry = entry_hash(
            Hash::ZERO,
            raw().leaf_hash(),
            Position(1),
            Timestamp::from_unix_micros(1_000_001),
        );
        assert_eq!(
            entry.to_string(),
            "b821107a2c897765501bfd971e9ac67bb9295143ff0f2a23292900fdd519c956"
        );
    }

    #[test]
    fn what_moves_from_one_field_to_the_next_changes_the_leaf() {
        let moved = RawEvent {
            payload: "{}{",
            metadata: "}",
            ..raw()
        };
        let other = RawEvent {
            payload: "{}",
            metadata: "{}",
            ..raw()
        };
        assert_ne!(moved.leaf_hash(), other.leaf_hash());
        assert_ne!(RawEvent { sequence: 2, ..raw() }.leaf_hash(), raw().leaf_hash());
    }
}
