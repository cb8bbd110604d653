//! What a commit consists of and what comes of it.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use serde::{Serialize, Serializer};
use uuid::Uuid;

use annals_domain::ids::{IdError, parse_uuid};
use annals_domain::{Actor, AnyEvent, ClaimKey, ClaimScope, Timestamp, registry};

use crate::error::StoreError;
use crate::position::{Hash, Position};

/// How many events a stream has; 0 for one that does not exist.
pub type Version = u64;

/// One stream of the log: the life of one aggregate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamId {
    /// Such as `content`.
    pub aggregate_type: &'static str,
    /// The aggregate's id.
    pub id: Uuid,
}

/// Why a text names no stream.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StreamIdError {
    /// Not of the form `<aggregate>/<id>`.
    #[error("a stream is written <aggregate>/<id>")]
    Form,
    /// No such aggregate.
    #[error("unknown aggregate {0:?}")]
    UnknownAggregate(String),
    /// The part after the slash.
    #[error(transparent)]
    Id(#[from] IdError),
}

impl StreamId {
    /// The stream of one aggregate.
    #[must_use]
    pub fn new(aggregate_type: &'static str, id: impl Into<Uuid>) -> Self {
        Self {
            aggregate_type,
            id: id.into(),
        }
    }

    /// Reads `<aggregate>/<id>`, the id in either form.
    ///
    /// # Errors
    /// [`StreamIdError`] naming the part that does not fit.
    pub fn parse(text: &str) -> Result<Self, StreamIdError> {
        let (aggregate_type, id) = text.split_once('/').ok_or(StreamIdError::Form)?;
        let aggregate_type = aggregate_type_of(aggregate_type)
            .ok_or_else(|| StreamIdError::UnknownAggregate(aggregate_type.to_owned()))?;
        Ok(Self {
            aggregate_type,
            id: parse_uuid(id)?,
        })
    }
}

/// The one spelling of an aggregate's name, if there is such an aggregate.
pub(crate) fn aggregate_type_of(name: &str) -> Option<&'static str> {
    registry::aggregate_types().iter().copied().find(|known| *known == name)
}

impl fmt::Display for StreamId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.aggregate_type, self.id.as_hyphenated())
    }
}

impl FromStr for StreamId {
    type Err = StreamIdError;

    fn from_str(text: &str) -> Result<Self, StreamIdError> {
        Self::parse(text)
    }
}

impl Serialize for StreamId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// A client's promise that requests under one key are one request.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Idempotency {
    /// Whose key it is; keys of different principals never meet.
    pub principal: String,
    /// The key itself.
    pub key: String,
    /// Tells a repeated request from another one under the same key.
    pub request_hash: Hash,
}

/// The new events of one stream.
#[derive(Debug, Clone, PartialEq)]
pub struct StreamAppend {
    /// Which stream.
    pub stream: StreamId,
    /// The version that the events follow from; 0 for a new stream.
    pub expected: Version,
    /// At least one, all of the stream's aggregate.
    pub events: Vec<AnyEvent>,
}

/// Something that must hold at the moment of the commit, besides the expected versions.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Condition {
    /// A stream that is not written is still at a version.
    Version {
        /// Which stream.
        stream: StreamId,
        /// The version it was read at; 0 when it must not exist.
        version: Version,
    },
    /// Some stream holds a claim: what the key identifies exists. Judged by the log before this commit.
    Held {
        /// What the key identifies.
        scope: ClaimScope,
        /// The key itself.
        key: ClaimKey,
    },
}

/// One command's commit: all of it happens or none. Claims are taken from the events.
#[derive(Debug, Clone, PartialEq)]
pub struct Append {
    /// Names the command; the same id is carried out at most once.
    pub command_id: Uuid,
    /// Who caused the events.
    pub actor: Actor,
    /// Shared by everything that one request set off.
    pub correlation_id: Uuid,
    /// The message that directly set this off.
    pub causation_id: Uuid,
    /// Absent when the client promised nothing.
    pub idempotency: Option<Idempotency>,
    /// At least one stream, none twice. Events take their positions in this order.
    pub streams: Vec<StreamAppend>,
    /// What must hold besides.
    pub conditions: Vec<Condition>,
}

/// A commit that is durable and in the log exactly once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Appended {
    /// The command that wrote the events: the first one, when this was a repetition under an idempotency key.
    pub command_id: Uuid,
    /// Position of its first event.
    pub first_position: Position,
    /// Position of its last event; the events in between are all its own.
    pub last_position: Position,
    /// Entry hash at the last position.
    pub entry_hash: Hash,
    /// When it was recorded, by the database's clock.
    pub recorded_at: Timestamp,
    /// Whether it had been carried out before and nothing was written now.
    pub duplicate: bool,
}

/// Why a commit was refused, or why nobody knows. Nothing was written except, perhaps, under
/// [`AppendError::OutcomeUnknown`].
#[derive(Debug, Clone, thiserror::Error)]
pub enum AppendError {
    /// A stream is not at the expected version: load it again and decide again.
    #[error("{stream} is at version {actual}, not {expected}")]
    Conflict {
        /// The first such stream.
        stream: StreamId,
        /// The version demanded.
        expected: Version,
        /// The version found.
        actual: Version,
    },
    /// Other streams hold claims that the events take.
    #[error("already taken: {}", names(.scopes))]
    Taken {
        /// Every scope with such a claim, in the order of [`ClaimScope`], none twice.
        scopes: Vec<ClaimScope>,
    },
    /// A claim that must be held is held by nobody.
    #[error("there is no such {scope}")]
    Missing {
        /// What the key identifies.
        scope: ClaimScope,
        /// The key itself.
        key: ClaimKey,
    },
    /// The idempotency key was used before, for another request.
    #[error("the idempotency key belongs to another request")]
    IdempotencyKeyReused,
    /// A stream that has to exist does not.
    #[error("{stream} does not exist")]
    NoStream {
        /// Which stream.
        stream: StreamId,
    },
    /// Events of this type and version may not be written: no program has announced them, or they were retired. A
    /// newer program has taken over, and this one should be stopped.
    #[error("{event_type} of version {event_version} may not be written any more")]
    Unregistered {
        /// The type.
        event_type: &'static str,
        /// The version that this program writes.
        event_version: &'static str,
    },
    /// Too many commands are waiting.
    #[error("too many commands are waiting")]
    Overloaded {
        /// When to try again.
        retry_after: Duration,
    },
    /// The connection was lost while committing and could not be had again in time. Repeating under the same
    /// command id is safe.
    #[error("the connection was lost while committing")]
    OutcomeUnknown,
    /// The database cannot be reached, or is too busy. Nothing was written.
    #[error("the log cannot be written now")]
    Unavailable(#[source] Arc<StoreError>),
    /// The commit is malformed: the caller's mistake, which repeating does not mend.
    #[error("refused: {0}")]
    Refused(String),
}

fn names(scopes: &[ClaimScope]) -> String {
    scopes.iter().map(|scope| scope.as_str()).collect::<Vec<_>>().join(", ")
}

impl From<StoreError> for AppendError {
    fn from(error: StoreError) -> Self {
        Self::Unavailable(Arc::new(error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_is_read_in_both_forms_of_its_id() {
        let stream = StreamId::new("user", Uuid::from_u128(0x0190_0000_0000_7000_8000_0000_0000_0001));
        assert_eq!(StreamId::parse(&stream.to_string()), Ok(stream));
        let ulid = annals_domain::ids::ulid_text(stream.id);
        assert_eq!(StreamId::parse(&format!("user/{ulid}")), Ok(stream));
    }

    #[test]
    fn what_names_no_stream_is_refused() {
        assert_eq!(StreamId::parse("user"), Err(StreamIdError::Form));
        assert_eq!(
            StreamId::parse("robot/00000000-0000-0000-0000-000000000001"),
            Err(StreamIdError::UnknownAggregate("robot".to_owned()))
        );
        assert!(matches!(StreamId::parse("user/7"), Err(StreamIdError::Id(_))));
    }
}
