//! Places in the log: positions, the hash that stands for everything up to one, and the head.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use sqlx::postgres::PgRow;
use sqlx::{PgPool, Row};

use annals_domain::Timestamp;

use crate::error::StoreError;

/// The number of an event in the log, dense from 1 and given in commit order; 0 is the place before the first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Position(pub u64);

impl Position {
    /// The place before the first event.
    pub const START: Self = Self(0);

    /// The number by itself.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The place right after this one.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }

    /// As PostgreSQL stores it; a number too great for that is beyond every position there can be.
    #[must_use]
    pub const fn as_i64(self) -> i64 {
        if self.0 > i64::MAX as u64 {
            i64::MAX
        } else {
            self.0.cast_signed()
        }
    }

    pub(crate) const fn from_i64(number: i64) -> Self {
        if number < 0 {
            Self::START
        } else {
            Self(number.cast_unsigned())
        }
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for Position {
    type Err = std::num::ParseIntError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().map(Self)
    }
}

impl From<u64> for Position {
    fn from(number: u64) -> Self {
        Self(number)
    }
}

/// A SHA-256 value; text and JSON are 64 lower-case hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Hash(pub [u8; 32]);

/// A text that is not 64 hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a hash has 64 hexadecimal digits")]
pub struct HashError;

impl Hash {
    /// What the chain starts from.
    pub const ZERO: Self = Self([0; 32]);

    /// The 32 bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    pub(crate) fn from_column(row: &PgRow, name: &'static str) -> Result<Self, sqlx::Error> {
        let bytes: &[u8] = row.try_get(name)?;
        bytes.try_into().map(Self).map_err(|source| sqlx::Error::ColumnDecode {
            index: name.to_owned(),
            source: Box::new(source),
        })
    }
}

impl fmt::Display for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Hash {
    type Err = HashError;

    fn from_str(text: &str) -> Result<Self, HashError> {
        let mut bytes = [0; 32];
        hex::decode_to_slice(text, &mut bytes).map_err(|_| HashError)?;
        Ok(Self(bytes))
    }
}

impl Serialize for Hash {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Hash {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

/// The last event of the log, in brief.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Head {
    /// How many events there are, and the number of the last; 0 for an empty log.
    pub position: Position,
    /// Stands for every event up to the head; zeros for an empty log.
    pub entry_hash: Hash,
    /// When the last event was recorded; absent for an empty log.
    pub recorded_at: Option<Timestamp>,
}

impl Head {
    /// Of a log that nothing has happened in.
    pub const EMPTY: Self = Self {
        position: Position::START,
        entry_hash: Hash::ZERO,
        recorded_at: None,
    };
}

const HEAD: &str = "
    select position, entry_hash, recorded_at
    from log.events
    order by position desc
    limit 1
";

const ENTRY_HASH: &str = "
    select entry_hash
    from log.events
    where position = $1
";

const POSITION_AT: &str = "select log.position_at($1)";

/// The end of the log, as the database has it now. Needs no keys.
///
/// # Errors
/// [`StoreError::Database`].
pub async fn head(pool: &PgPool) -> Result<Head, StoreError> {
    let Some(row) = sqlx::query(HEAD).fetch_optional(pool).await? else {
        return Ok(Head::EMPTY);
    };
    Ok(Head {
        position: Position::from_i64(row.try_get("position")?),
        entry_hash: Hash::from_column(&row, "entry_hash")?,
        recorded_at: Some(Timestamp::from_offset(row.try_get("recorded_at")?)),
    })
}

pub(crate) async fn entry_hash(pool: &PgPool, position: Position) -> Result<Option<Hash>, StoreError> {
    if position == Position::START {
        return Ok(Some(Hash::ZERO));
    }
    let row = sqlx::query(ENTRY_HASH)
        .bind(position.as_i64())
        .fetch_optional(pool)
        .await?;
    Ok(row
        .as_ref()
        .map(|row| Hash::from_column(row, "entry_hash"))
        .transpose()?)
}

pub(crate) async fn position_at(pool: &PgPool, moment: Timestamp) -> Result<Position, StoreError> {
    let position: i64 = sqlx::query_scalar(POSITION_AT)
        .bind(moment.to_offset())
        .fetch_one(pool)
        .await?;
    Ok(Position::from_i64(position))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_reads_back_from_its_text() {
        let hash = Hash([0xab; 32]);
        assert_eq!(hash.to_string().parse(), Ok(hash));
        assert_eq!(serde_json::to_value(hash).unwrap(), "ab".repeat(32));
        assert_eq!("ab".parse::<Hash>(), Err(HashError));
    }

    #[test]
    fn a_position_beyond_the_database_stays_beyond_it() {
        assert_eq!(Position(u64::MAX).as_i64(), i64::MAX);
        assert_eq!(Position(7).as_i64(), 7);
    }
}
