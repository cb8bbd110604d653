//! Rows of one table, folded in memory and written by few statements, whatever the number of events.

use std::collections::BTreeMap;

use annals_domain::Timestamp;
use annals_eventstore::Position;
use serde::{Serialize, Serializer};
use sqlx::postgres::PgRow;
use sqlx::{FromRow, PgConnection};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::engine::ProjectionError;

/// The most bytes of JSON sent in one statement; one row larger than this is sent alone. Field values may be megabytes.
const STATEMENT_BYTES: usize = 4 << 20;

/// A row with a single id as its key. Its JSON members are named as the columns are.
pub(crate) trait Row: Serialize + for<'r> FromRow<'r, PgRow> + Send + Sync + Unpin {
    /// The table, for messages.
    const TABLE: &'static str;
    /// Reads the rows whose ids are in `$1`.
    const READ: &'static str;
    /// Writes the rows in the JSON array `$1`, replacing those that are there.
    const WRITE: &'static str;
    /// Deletes the rows whose ids are in `$1`.
    const DELETE: &'static str;

    /// The id.
    fn key(&self) -> Uuid;
}

/// The rows of one table that a batch touches.
pub(crate) struct Rows<R> {
    slots: BTreeMap<Uuid, Slot<R>>,
}

enum Slot<R> {
    Read(R),
    Changed(R),
    Removed,
}

impl<R: Row> Rows<R> {
    /// Reads what the table holds under `keys`; keys of rows that this batch will create may be left out.
    pub(crate) async fn read(connection: &mut PgConnection, keys: Vec<Uuid>) -> Result<Self, ProjectionError> {
        if keys.is_empty() {
            return Ok(Self { slots: BTreeMap::new() });
        }
        let rows: Vec<R> = sqlx::query_as(R::READ).bind(keys).fetch_all(connection).await?;
        Ok(Self {
            slots: rows.into_iter().map(|row| (row.key(), Slot::Read(row))).collect(),
        })
    }

    /// The row to change, for a fact about something that must be there.
    pub(crate) fn change(&mut self, key: Uuid, position: Position) -> Result<&mut R, ProjectionError> {
        let absent = ProjectionError::Absent {
            table: R::TABLE,
            key,
            position,
        };
        let Some(slot) = self.slots.get_mut(&key) else {
            return Err(absent);
        };
        *slot = match std::mem::replace(slot, Slot::Removed) {
            Slot::Read(row) | Slot::Changed(row) => Slot::Changed(row),
            Slot::Removed => Slot::Removed,
        };
        match slot {
            Slot::Read(row) | Slot::Changed(row) => Ok(row),
            Slot::Removed => Err(absent),
        }
    }

    /// The row as it is at this point of the batch, if it was read or written by it.
    pub(crate) fn get(&self, key: Uuid) -> Option<&R> {
        match self.slots.get(&key) {
            Some(Slot::Read(row) | Slot::Changed(row)) => Some(row),
            Some(Slot::Removed) | None => None,
        }
    }

    /// Every row that was read or written, to be changed without being counted as changed: for what a statement
    /// of its own does to the whole table, these rows included.
    pub(crate) fn each(&mut self) -> impl Iterator<Item = &mut R> {
        self.slots.values_mut().filter_map(|slot| match slot {
            Slot::Read(row) | Slot::Changed(row) => Some(row),
            Slot::Removed => None,
        })
    }

    /// Adds a row, or replaces the one under the same key.
    pub(crate) fn put(&mut self, row: R) {
        self.slots.insert(row.key(), Slot::Changed(row));
    }

    /// Removes a row, whether or not it was read.
    pub(crate) fn remove(&mut self, key: Uuid) {
        self.slots.insert(key, Slot::Removed);
    }

    /// Removes every row read or written so far for which `gone` holds.
    pub(crate) fn remove_where(&mut self, gone: impl Fn(&R) -> bool) {
        for slot in self.slots.values_mut() {
            if let Slot::Read(row) | Slot::Changed(row) = slot
                && gone(row)
            {
                *slot = Slot::Removed;
            }
        }
    }

    /// Writes what changed, removed rows first.
    pub(crate) async fn write(self, connection: &mut PgConnection) -> Result<(), ProjectionError> {
        let mut removed = Vec::new();
        let mut changed = Vec::new();
        for (key, slot) in self.slots {
            match slot {
                Slot::Read(_) => {}
                Slot::Changed(row) => changed.push(row),
                Slot::Removed => removed.push(key),
            }
        }
        if !removed.is_empty() {
            sqlx::query(R::DELETE).bind(removed).execute(&mut *connection).await?;
        }
        write_rows(connection, R::WRITE, &changed).await
    }
}

/// Sends rows to a statement that takes a JSON array as `$1`; more than one statement only when they are large.
pub(crate) async fn write_rows<R: Serialize>(
    connection: &mut PgConnection,
    statement: &'static str,
    rows: &[R],
) -> Result<(), ProjectionError> {
    let mut array = String::new();
    for row in rows {
        let row = serde_json::to_string(row)?;
        if !array.is_empty() && array.len() + row.len() > STATEMENT_BYTES {
            array.push(']');
            sqlx::query(statement)
                .bind(std::mem::take(&mut array))
                .execute(&mut *connection)
                .await?;
        }
        array.push(if array.is_empty() { '[' } else { ',' });
        array.push_str(&row);
    }
    if !array.is_empty() {
        array.push(']');
        sqlx::query(statement).bind(array).execute(&mut *connection).await?;
    }
    Ok(())
}

/// A moment as a column holds it. In JSON it is text that PostgreSQL reads, which has no year 0 but calls it 1 BC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, sqlx::Type)]
#[sqlx(transparent)]
pub(crate) struct Moment(OffsetDateTime);

impl From<Timestamp> for Moment {
    fn from(moment: Timestamp) -> Self {
        Self(moment.to_offset())
    }
}

impl From<Moment> for Timestamp {
    fn from(moment: Moment) -> Self {
        Self::from_offset(moment.0)
    }
}

impl Serialize for Moment {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let text = Timestamp::from_offset(self.0).to_string();
        match text.strip_prefix("0000-") {
            Some(rest) => serializer.collect_str(&format_args!("0001-{rest} BC")),
            None => serializer.serialize_str(&text),
        }
    }
}
