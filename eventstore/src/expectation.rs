//! Appending to streams whose version the caller does not know.
//!
//! The version of a stream is part of what is sealed and hashed, so it has to be known before the commit is sent. It is
//! looked up, and when somebody else was quicker, looked up again; the append function has the last word as always.

use sqlx::{PgPool, Row};

use crate::EventStore;
use crate::append::{Append, AppendError, Appended, StreamId, Version};
use crate::error::StoreError;

/// How often the versions are looked up before the commit is given up as a conflict. Whoever appends to a stream this
/// busy without knowing its state should split the stream.
const MOST_LOOKS: usize = 64;

const VERSIONS: &str = "
    select coalesce(s.version, 0) as version
    from unnest($1::text[], $2::uuid[]) with ordinality as k(type, id, number)
    left join log.streams s on s.aggregate_type = k.type and s.aggregate_id = k.id
    order by k.number
";

/// What a commit takes for granted about a stream that it writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Expectation {
    /// It has exactly so many events; the only one under which a decision may depend on the stream's state.
    Exactly(Version),
    /// It does not exist.
    NoStream,
    /// It has at least one event.
    StreamExists,
    /// Nothing.
    Any,
}

impl Expectation {
    /// The version to demand, given the present one.
    fn resolve(self, stream: StreamId, present: Version) -> Result<Version, AppendError> {
        match self {
            Self::Exactly(version) => Ok(version),
            Self::NoStream => Ok(0),
            Self::StreamExists if present == 0 => Err(AppendError::NoStream { stream }),
            Self::StreamExists | Self::Any => Ok(present),
        }
    }

    fn is_open(self) -> bool {
        matches!(self, Self::StreamExists | Self::Any)
    }
}

impl EventStore {
    /// Commits like [`EventStore::append`], with `expectations` in place of the expected versions: one for each of
    /// `append.streams`, in their order. The same promises hold; a repeated command id is carried out once.
    ///
    /// # Errors
    /// As [`EventStore::append`]; [`AppendError::NoStream`]; [`AppendError::Conflict`] under [`Expectation::Any`] or
    /// [`Expectation::StreamExists`] only when the stream kept moving through 64 attempts.
    pub async fn append_expecting(
        &self,
        mut append: Append,
        expectations: &[Expectation],
    ) -> Result<Appended, AppendError> {
        if expectations.len() != append.streams.len() {
            return Err(AppendError::Refused(
                "there is one expectation for each stream".to_owned(),
            ));
        }
        let mut looks = 0;
        loop {
            let versions = versions(self.database().pool(), &append).await?;
            looks += 1;
            for ((appended, expectation), version) in append.streams.iter_mut().zip(expectations).zip(versions) {
                appended.expected = expectation.resolve(appended.stream, version)?;
            }
            match self.append(append.clone()).await {
                Err(AppendError::Conflict { stream, .. })
                    if looks < MOST_LOOKS && is_open(&append, expectations, stream) => {}
                answer => return answer,
            }
        }
    }
}

fn is_open(append: &Append, expectations: &[Expectation], stream: StreamId) -> bool {
    let mut written = append.streams.iter().zip(expectations);
    written.any(|(appended, expectation)| appended.stream == stream && expectation.is_open())
}

/// Of each stream that is written, how many events it has.
async fn versions(pool: &PgPool, append: &Append) -> Result<Vec<Version>, StoreError> {
    let streams = || append.streams.iter().map(|appended| appended.stream);
    let rows = sqlx::query(VERSIONS)
        .bind(streams().map(|stream| stream.aggregate_type).collect::<Vec<_>>())
        .bind(streams().map(|stream| stream.id).collect::<Vec<_>>())
        .fetch_all(pool)
        .await?;
    rows.iter()
        .map(|row| Ok(row.try_get::<i64, _>("version")?.cast_unsigned()))
        .collect()
}
