//! Kept states of long streams: a load takes the state and the events after it, instead of all events.
//!
//! A snapshot is a convenience and never the truth. It is written by [`Snapshotter`], behind the log and not on the
//! way of any request; it can be deleted at any time; and it is used only if all of this holds, else the stream is
//! folded from its first event:
//!
//! - it was folded by the rules of this very program ([`registry::STATE_SCHEMA`]);
//! - the stream has at least as many events as it claims to be made of;
//! - every personal value in it opens. Personal values are sealed like those of events, under the key of their subject
//!   and for this place alone. Once a subject is erased, what was folded before is worth nothing: it might hold what
//!   follows from a value that can no longer be known.
//!
//! A row of `log.snapshots` holds `{"schema": ..., "state": ...}`; there is one for each stream at most.

mod snapshotter;

use std::fmt;

use serde_json::{Value, json};
use sqlx::postgres::PgConnection;
use sqlx::{PgExecutor, Row};
use uuid::Uuid;

use annals_domain::{AnyEvent, DecodeError, registry};

use crate::append::{StreamId, Version, aggregate_type_of};
use crate::error::StoreError;
use crate::read;
use crate::vault::{self, SealPlace, Vault, VaultError};

pub use snapshotter::{SnapshotOptions, Snapshotter};

/// Events folded at a time.
const FOLD_PAGE: usize = 1000;

const FIND: &str = "
    select s.last_sequence, s.payload::text as payload, t.version
    from log.snapshots s
    left join log.streams t on t.aggregate_type = s.aggregate_type and t.aggregate_id = $3
    where s.aggregate_type = $1 and s.aggregate_id = $2
";

/// Only a newer one takes the place of another, unless the other is of no use any more.
const STORE: &str = "
    insert into log.snapshots as s (aggregate_type, aggregate_id, last_sequence, current_snapshot, payload)
    values ($1, $2, $3, 1, $4::text::json)
    on conflict (aggregate_type, aggregate_id) do update
    set last_sequence = excluded.last_sequence, current_snapshot = s.current_snapshot + 1, payload = excluded.payload
    where s.last_sequence < excluded.last_sequence
        or s.payload ->> 'schema' is distinct from excluded.payload ->> 'schema'
";

const DROP: &str = "
    delete from log.snapshots
    where aggregate_type = $1 and aggregate_id = $2 and last_sequence = $3
";

const LIST: &str = "
    select s.aggregate_type, s.aggregate_id
    from log.snapshots s
    where (s.aggregate_type, s.aggregate_id) > ($1, $2)
    order by s.aggregate_type, s.aggregate_id
    limit $3
";

/// A state of a stream and how many of its events are in it. `Debug` does not show the state.
#[derive(Clone, PartialEq)]
pub(crate) struct Snapshot {
    pub(crate) version: Version,
    /// As [`registry::fold_state`] gives it, personal values open.
    pub(crate) state: Value,
}

impl fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Snapshot")
            .field("version", &self.version)
            .finish_non_exhaustive()
    }
}

/// What a row of `log.snapshots` is worth.
#[derive(Debug, PartialEq)]
pub(crate) enum Judgement {
    /// A load may begin with it.
    Usable(Snapshot),
    /// Folded by the rules of another version of this program, which may be running beside this one.
    OtherSchema,
    /// Holds data of somebody who was erased since.
    Erased,
    /// Not what was stored, or not of this stream.
    Damaged(String),
}

/// A row that was judged.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) version: Version,
    pub(crate) judgement: Judgement,
}

/// Decides what a stored `payload`, which claims to be the state of `stream` after `version` events, is worth.
///
/// # Errors
/// Those of the vault, when the keys cannot be had.
pub(crate) async fn judge(
    vault: &Vault,
    stream: StreamId,
    version: Version,
    mut payload: Value,
) -> Result<Judgement, StoreError> {
    let schema = payload.get("schema").and_then(Value::as_str);
    if schema != Some(registry::STATE_SCHEMA) {
        return Ok(Judgement::OtherSchema);
    }
    let Some(mut state) = payload.get_mut("state").map(Value::take) else {
        return Ok(Judgement::Damaged("it holds no state".to_owned()));
    };
    let subjects = match vault::sealed_subjects(&state) {
        Ok(subjects) => subjects,
        Err(error) => return Ok(Judgement::Damaged(error.to_string())),
    };
    if subjects.is_empty() {
        return Ok(Judgement::Usable(Snapshot { version, state }));
    }
    let keys = vault.keys_for_opening(&subjects).await?;
    let opened = vault::count_sealed(&state).and_then(|sealed| {
        vault::open(&mut state, SealPlace::of_snapshot(stream, version), &keys)?;
        Ok(vault::count_open(&state)? == sealed)
    });
    Ok(match opened {
        Ok(true) => Judgement::Usable(Snapshot { version, state }),
        Ok(false) => Judgement::Erased,
        Err(error) => Judgement::Damaged(error.to_string()),
    })
}

/// The snapshot of a stream, if there is one, and what it is worth.
pub(crate) async fn find(
    executor: impl PgExecutor<'_>,
    vault: &Vault,
    stream: StreamId,
) -> Result<Option<Found>, StoreError> {
    let row = sqlx::query(FIND)
        .bind(stream.aggregate_type)
        .bind(stream.id.as_hyphenated().to_string())
        .bind(stream.id)
        .fetch_optional(executor)
        .await?;
    let Some(row) = row else { return Ok(None) };
    let version = row.try_get::<i64, _>("last_sequence")?.cast_unsigned();
    let of_stream = row.try_get::<Option<i64>, _>("version")?.unwrap_or(0).cast_unsigned();
    let judgement = if of_stream < version {
        Judgement::Damaged(format!("the stream has {of_stream} events, not {version}"))
    } else {
        match serde_json::from_str(row.try_get("payload")?) {
            Ok(payload) => judge(vault, stream, version, payload).await?,
            Err(error) => Judgement::Damaged(error.to_string()),
        }
    };
    Ok(Some(Found { version, judgement }))
}

/// Keeps a state, unless a newer one is kept already, or a value in it belongs to somebody who has been erased. Returns
/// whether it was kept.
pub(crate) async fn store(
    executor: impl PgExecutor<'_>,
    vault: &Vault,
    stream: StreamId,
    snapshot: Snapshot,
) -> Result<bool, StoreError> {
    let Snapshot { version, mut state } = snapshot;
    let subjects = vault::personal_subjects(&state)?;
    // Never makes a key: data that has none was not to be kept.
    let keys = vault.keys_for_opening(&subjects).await?;
    match vault::seal(&mut state, SealPlace::of_snapshot(stream, version), &keys) {
        Ok(()) => {}
        Err(VaultError::Erased(_)) => return Ok(false),
        Err(error) => return Err(error.into()),
    }
    let payload = json!({ "schema": registry::STATE_SCHEMA, "state": state });
    let kept = sqlx::query(STORE)
        .bind(stream.aggregate_type)
        .bind(stream.id.as_hyphenated().to_string())
        .bind(i64::try_from(version).unwrap_or(i64::MAX))
        .bind(payload.to_string())
        .execute(executor)
        .await?;
    Ok(kept.rows_affected() == 1)
}

/// Deletes the snapshot of a stream, unless another version of it has taken its place.
pub(crate) async fn drop_it(
    executor: impl PgExecutor<'_>,
    stream: StreamId,
    version: Version,
) -> Result<(), StoreError> {
    sqlx::query(DROP)
        .bind(stream.aggregate_type)
        .bind(stream.id.as_hyphenated().to_string())
        .bind(i64::try_from(version).unwrap_or(i64::MAX))
        .execute(executor)
        .await?;
    Ok(())
}

/// Folds a stream up to version `to`, from `base` or from its first event. Ends earlier when the stream does; absent
/// when it has no events.
///
/// # Errors
/// [`StoreError::Decode`] for events this program cannot read, and for a base that is no state; [`StoreError::Damaged`]
/// when an event is missing.
pub(crate) async fn fold(
    connection: &mut PgConnection,
    vault: &Vault,
    stream: StreamId,
    base: Option<Snapshot>,
    to: Version,
) -> Result<Option<Snapshot>, StoreError> {
    let mut folded = base;
    loop {
        let at = folded.as_ref().map_or(0, |folded| folded.version);
        let wanted = usize::try_from(to.saturating_sub(at))
            .unwrap_or(usize::MAX)
            .min(FOLD_PAGE);
        if wanted == 0 {
            return Ok(folded);
        }
        let records = read::of_stream(&mut *connection, vault, &stream, at, wanted).await?;
        let Some(last) = records.last().map(|record| record.version) else {
            return Ok(folded);
        };
        if last != at + records.len() as Version {
            return Err(StoreError::damaged(
                format!("{stream} after version {at}"),
                "an event is missing",
            ));
        }
        let state = folded.map(|folded| folded.state);
        let events = records.into_iter().map(|record| record.event);
        folded = Some(Snapshot {
            version: last,
            state: fold_page(stream, at, state, events)?,
        });
    }
}

fn fold_page(
    stream: StreamId,
    at: Version,
    state: Option<Value>,
    events: impl Iterator<Item = AnyEvent>,
) -> Result<Value, StoreError> {
    registry::fold_state_from(stream.aggregate_type, state, events).map_err(|source| StoreError::Decode {
        place: format!("{stream} after version {at}"),
        source: Box::new(source),
    })
}

/// Whether a fold failed because what it began with is no state of this program.
fn is_no_state(error: &StoreError) -> bool {
    match error {
        StoreError::Decode { source, .. } => {
            matches!(source.downcast_ref::<DecodeError>(), Some(DecodeError::State { .. }))
        }
        _ => false,
    }
}

/// What came of comparing a snapshot with the events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Compared {
    /// It is what the events lead to.
    Equal,
    /// It is not.
    Different,
    /// There is none, or none that a load would use.
    Unused,
}

/// Folds a stream from its first event and compares its snapshot, if a load would use it.
pub(crate) async fn compare(
    connection: &mut PgConnection,
    vault: &Vault,
    stream: StreamId,
) -> Result<(Version, Compared), StoreError> {
    // Whoever is erased between the two looks makes them differ, and the next look unusable.
    const LOOKS: usize = 2;
    let mut compared = (0, Compared::Unused);
    for _ in 0..LOOKS {
        let found = find(&mut *connection, vault, stream).await?;
        compared = match found {
            None => return Ok((0, Compared::Unused)),
            Some(Found { version, judgement }) => match judgement {
                Judgement::OtherSchema | Judgement::Erased => return Ok((version, Compared::Unused)),
                Judgement::Damaged(_) => (version, Compared::Different),
                Judgement::Usable(kept) => {
                    let folded = fold(&mut *connection, vault, stream, None, version).await?;
                    if folded.as_ref() == Some(&kept) {
                        return Ok((version, Compared::Equal));
                    }
                    (version, Compared::Different)
                }
            },
        };
    }
    Ok(compared)
}

/// The streams that have snapshots, after `after`, in the order of the table, by the texts of their columns.
pub(crate) async fn list(
    connection: &mut PgConnection,
    after: (&str, &str),
    limit: i64,
) -> Result<Vec<(String, String)>, StoreError> {
    let rows = sqlx::query(LIST)
        .bind(after.0)
        .bind(after.1)
        .bind(limit)
        .fetch_all(connection)
        .await?;
    rows.iter()
        .map(|row| Ok((row.try_get("aggregate_type")?, row.try_get("aggregate_id")?)))
        .collect()
}

/// The stream that columns name; absent when this program has no such aggregate.
pub(crate) fn stream_of(aggregate_type: &str, aggregate_id: &str) -> Option<StreamId> {
    Some(StreamId {
        aggregate_type: aggregate_type_of(aggregate_type)?,
        id: Uuid::try_parse(aggregate_id).ok()?,
    })
}
