//! What is stored beside every event: who caused it, and which request and command it belongs to.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::caller::Actor;

/// The origin of one event. Stored as a flat object of strings, which is all that cqrs-es can carry.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Metadata {
    /// Names this event alone.
    pub event_id: Uuid,
    /// Shared by all events of one append; asking by it tells whether that append happened.
    pub command_id: Uuid,
    /// Who caused the event.
    pub actor: Actor,
    /// Shared by everything that one request set off.
    pub correlation_id: Uuid,
    /// The message that directly set this off.
    pub causation_id: Uuid,
}

/// Why stored metadata cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MetadataError {
    /// An entry is not there.
    #[error("metadata lacks {0}")]
    Missing(&'static str),
    /// An entry is there but cannot be read.
    #[error("metadata entry {0} is malformed")]
    Malformed(&'static str),
}

impl Metadata {
    /// The five entries as cqrs-es wants them.
    #[must_use]
    pub fn to_map(&self) -> HashMap<String, String> {
        HashMap::from([
            ("event_id".to_owned(), self.event_id.to_string()),
            ("command_id".to_owned(), self.command_id.to_string()),
            ("actor".to_owned(), self.actor.to_string()),
            ("correlation_id".to_owned(), self.correlation_id.to_string()),
            ("causation_id".to_owned(), self.causation_id.to_string()),
        ])
    }

    /// Reads the five entries; others are ignored.
    ///
    /// # Errors
    /// [`MetadataError`] naming the entry that is missing or malformed.
    pub fn from_map(map: &HashMap<String, String>) -> Result<Self, MetadataError> {
        let text = |name| map.get(name).ok_or(MetadataError::Missing(name));
        let id = |name| text(name)?.parse::<Uuid>().map_err(|_| MetadataError::Malformed(name));
        Ok(Self {
            event_id: id("event_id")?,
            command_id: id("command_id")?,
            actor: text("actor")?.parse().map_err(|_| MetadataError::Malformed("actor"))?,
            correlation_id: id("correlation_id")?,
            causation_id: id("causation_id")?,
        })
    }
}

impl From<&Metadata> for HashMap<String, String> {
    fn from(metadata: &Metadata) -> Self {
        metadata.to_map()
    }
}

impl TryFrom<&HashMap<String, String>> for Metadata {
    type Error = MetadataError;

    fn try_from(map: &HashMap<String, String>) -> Result<Self, MetadataError> {
        Self::from_map(map)
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::{Metadata, MetadataError};
    use crate::caller::Actor;

    fn metadata() -> Metadata {
        Metadata {
            event_id: Uuid::from_u128(1),
            command_id: Uuid::from_u128(2),
            actor: Actor::System("importer".to_owned()),
            correlation_id: Uuid::from_u128(3),
            causation_id: Uuid::from_u128(4),
        }
    }

    #[test]
    fn metadata_reads_back_from_its_map() {
        assert_eq!(Metadata::from_map(&metadata().to_map()), Ok(metadata()));
    }

    #[test]
    fn the_json_form_is_the_map() {
        let json = serde_json::to_value(metadata()).unwrap();
        assert_eq!(json, serde_json::to_value(metadata().to_map()).unwrap());
        assert_eq!(serde_json::from_value::<Metadata>(json).unwrap(), metadata());
    }

    #[test]
    fn a_refusal_names_the_entry() {
        let mut map = metadata().to_map();
        map.insert("actor".to_owned(), "robot".to_owned());
        assert_eq!(Metadata::from_map(&map), Err(MetadataError::Malformed("actor")));
        map.remove("causation_id");
        map.insert("actor".to_owned(), "anonymous".to_owned());
        assert_eq!(Metadata::from_map(&map), Err(MetadataError::Missing("causation_id")));
    }
}
