//! What has happened to a content node.

use std::fmt;
use std::str::FromStr;

use cqrs_es::persist::EventUpcaster;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::claims::{ClaimChange, ClaimKey, ClaimScope};
use crate::ids::{ContentFieldId, ContentId, DatatypeId, FieldId, RouteId, UserId};
use crate::registry::Event;
use crate::values::{Realm, Timestamp};

/// How far a node is from being public.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ContentStatus {
    /// Being worked on.
    #[default]
    Draft,
    /// Public.
    Published,
    /// No longer public, kept for reference.
    Archived,
    /// Waiting for somebody to publish it.
    Pending,
}

impl ContentStatus {
    /// Every status there is.
    pub const ALL: &'static [Self] = &[Self::Draft, Self::Published, Self::Archived, Self::Pending];

    /// The stored name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Draft => "draft",
            Self::Published => "published",
            Self::Archived => "archived",
            Self::Pending => "pending",
        }
    }
}

impl fmt::Display for ContentStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A name that is no content status.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown content status {0:?}")]
pub struct UnknownContentStatus(pub String);

impl FromStr for ContentStatus {
    type Err = UnknownContentStatus;

    fn from_str(text: &str) -> Result<Self, UnknownContentStatus> {
        Self::ALL
            .iter()
            .copied()
            .find(|status| status.as_str() == text)
            .ok_or_else(|| UnknownContentStatus(text.to_owned()))
    }
}

/// A place among siblings, said relative to them, so that nobody's number has to change.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(tag = "at", rename_all = "snake_case")]
pub enum Place {
    /// Before all others.
    First,
    /// After all others.
    #[default]
    Last,
    /// Directly after a sibling; last when it is none.
    After {
        /// The sibling.
        content_id: ContentId,
    },
    /// Directly before a sibling; last when it is none.
    Before {
        /// The sibling.
        content_id: ContentId,
    },
}

impl Place {
    /// The sibling that the place is relative to, if it is to one.
    #[must_use]
    pub const fn neighbour(self) -> Option<ContentId> {
        match self {
            Self::First | Self::Last => None,
            Self::After { content_id } | Self::Before { content_id } => Some(content_id),
        }
    }
}

/// One value of a content node.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct FieldValue {
    /// Names the value.
    pub content_field_id: ContentFieldId,
    /// The definition it follows; absent when that is not known.
    pub field_id: Option<FieldId>,
    /// The route it is delivered under, as the client says.
    pub route_id: Option<RouteId>,
    /// The text, whatever the definition's kind.
    pub value: String,
    /// Who is named as its author.
    pub author_id: Option<UserId>,
    /// As the client says.
    pub date_created: Option<Timestamp>,
    /// As the client says.
    pub date_modified: Option<Timestamp>,
}

/// A fact about one content node. Stored for good: add variants and versions, never edit or reuse them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type")]
pub enum ContentEvent {
    /// The node was created.
    #[serde(rename = "content.created")]
    Created {
        /// The node's own identifier.
        content_id: ContentId,
        /// Where it lives.
        realm: Realm,
        /// What kind of node it is.
        datatype_id: Option<DatatypeId>,
        /// The route it is delivered under.
        route_id: Option<RouteId>,
        /// The node it hangs under.
        parent_id: Option<ContentId>,
        /// Its place among its siblings.
        place: Place,
        /// How far it is from being public.
        status: ContentStatus,
        /// Who is named as its author.
        author_id: Option<UserId>,
        /// As the client said.
        date_created: Option<Timestamp>,
        /// As the client said.
        date_modified: Option<Timestamp>,
        /// When it happened.
        at: Timestamp,
    },
    /// Values were set and removed.
    #[serde(rename = "content.fields_changed")]
    FieldsChanged {
        /// Added and replaced ones, whole.
        set: Vec<FieldValue>,
        /// Removed ones.
        removed: Vec<ContentFieldId>,
        /// When it happened.
        at: Timestamp,
    },
    /// The node was hung elsewhere.
    #[serde(rename = "content.moved")]
    Moved {
        /// The node it hangs under from now on.
        parent_id: Option<ContentId>,
        /// Its place among its siblings.
        place: Place,
        /// When it happened.
        at: Timestamp,
    },
    /// What is neither place, status nor value was replaced.
    #[serde(rename = "content.details_changed")]
    DetailsChanged {
        /// The route it is delivered under.
        route_id: Option<RouteId>,
        /// What kind of node it is.
        datatype_id: Option<DatatypeId>,
        /// Who is named as its author.
        author_id: Option<UserId>,
        /// As the client said.
        date_created: Option<Timestamp>,
        /// As the client said.
        date_modified: Option<Timestamp>,
        /// When it happened.
        at: Timestamp,
    },
    /// The node became public.
    #[serde(rename = "content.published")]
    Published {
        /// When it happened.
        at: Timestamp,
    },
    /// The node was put away.
    #[serde(rename = "content.archived")]
    Archived {
        /// When it happened.
        at: Timestamp,
    },
    /// The node was handed in; its status is `pending`.
    #[serde(rename = "content.submitted")]
    Submitted {
        /// When it happened.
        at: Timestamp,
    },
    /// The node went back to its authors; its status is `draft`.
    #[serde(rename = "content.withdrawn")]
    Withdrawn {
        /// When it happened.
        at: Timestamp,
    },
    /// The node was deleted with its values.
    #[serde(rename = "content.deleted")]
    Deleted {
        /// When it happened.
        at: Timestamp,
    },
}

event_kinds!(ContentEvent of "content" {
    Created: "content.created", "1";
    FieldsChanged: "content.fields_changed", "1";
    Moved: "content.moved", "1";
    DetailsChanged: "content.details_changed", "1";
    Published: "content.published", "1";
    Archived: "content.archived", "1";
    Submitted: "content.submitted", "1";
    Withdrawn: "content.withdrawn", "1";
    Deleted: "content.deleted", "1";
});

impl Event for ContentEvent {
    fn claims(&self, stream: Uuid) -> Vec<ClaimChange> {
        match self {
            Self::Created { .. } => {
                vec![ClaimChange::take(ClaimScope::Content, ClaimKey::id(stream))]
            }
            Self::FieldsChanged { set, removed, .. } => {
                let released = removed
                    .iter()
                    .map(|id| ClaimChange::release(ClaimScope::ContentField, ClaimKey::id(*id)));
                let taken = set.iter().map(|value| {
                    let key = ClaimKey::id(value.content_field_id);
                    ClaimChange::take(ClaimScope::ContentField, key)
                });
                released.chain(taken).collect()
            }
            Self::Moved { .. }
            | Self::DetailsChanged { .. }
            | Self::Published { .. }
            | Self::Archived { .. }
            | Self::Submitted { .. }
            | Self::Withdrawn { .. } => Vec::new(),
            Self::Deleted { .. } => vec![
                ClaimChange::release_all(ClaimScope::Content),
                ClaimChange::release_all(ClaimScope::ContentField),
            ],
        }
    }
}

/// Oldest first; each lifts a stored payload by one version.
#[must_use]
pub(crate) fn upcasters() -> Vec<Box<dyn EventUpcaster>> {
    Vec::new()
}
