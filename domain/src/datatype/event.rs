//! What has happened to a datatype.

use cqrs_es::persist::EventUpcaster;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::claims::{ClaimChange, ClaimKey, ClaimScope};
use crate::ids::{DatatypeFieldId, DatatypeId, FieldId, UserId};
use crate::registry::Event;
use crate::values::{Realm, Timestamp};

/// A fact about one datatype. Stored for good: add variants and versions, never edit or reuse them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type")]
pub enum DatatypeEvent {
    /// The datatype was created.
    #[serde(rename = "datatype.created")]
    Created {
        /// Where it lives.
        realm: Realm,
        /// The datatype it belongs under.
        parent_id: Option<DatatypeId>,
        /// The name for people to read.
        label: String,
        /// Free text; `ROOT` marks page roots.
        kind: String,
        /// Who is named as its author.
        author_id: Option<UserId>,
        /// As the client said.
        date_created: Option<Timestamp>,
        /// As the client said.
        date_modified: Option<Timestamp>,
        /// When it happened.
        at: Timestamp,
    },
    /// All details were replaced.
    #[serde(rename = "datatype.changed")]
    Changed {
        /// The datatype it belongs under.
        parent_id: Option<DatatypeId>,
        /// The name for people to read.
        label: String,
        /// Free text; `ROOT` marks page roots.
        kind: String,
        /// Who is named as its author.
        author_id: Option<UserId>,
        /// As the client said.
        date_created: Option<Timestamp>,
        /// As the client said.
        date_modified: Option<Timestamp>,
        /// When it happened.
        at: Timestamp,
    },
    /// The datatype was deleted with its attachments.
    #[serde(rename = "datatype.deleted")]
    Deleted {
        /// When it happened.
        at: Timestamp,
    },
    /// A field was attached.
    #[serde(rename = "datatype.field_attached")]
    FieldAttached {
        /// Names the attachment.
        datatype_field_id: DatatypeFieldId,
        /// Which field.
        field_id: FieldId,
        /// Its place among the fields.
        sort_order: i64,
        /// When it happened.
        at: Timestamp,
    },
    /// Field and place of an attachment were replaced.
    #[serde(rename = "datatype.field_attachment_changed")]
    FieldAttachmentChanged {
        /// Names the attachment.
        datatype_field_id: DatatypeFieldId,
        /// Which field.
        field_id: FieldId,
        /// Its place among the fields.
        sort_order: i64,
        /// When it happened.
        at: Timestamp,
    },
    /// An attachment was removed.
    #[serde(rename = "datatype.field_detached")]
    FieldDetached {
        /// Names the attachment.
        datatype_field_id: DatatypeFieldId,
        /// When it happened.
        at: Timestamp,
    },
}

event_kinds!(DatatypeEvent of "datatype" {
    Created: "datatype.created", "1";
    Changed: "datatype.changed", "1";
    Deleted: "datatype.deleted", "1";
    FieldAttached: "datatype.field_attached", "1";
    FieldAttachmentChanged: "datatype.field_attachment_changed", "1";
    FieldDetached: "datatype.field_detached", "1";
});

impl Event for DatatypeEvent {
    fn claims(&self, stream: Uuid) -> Vec<ClaimChange> {
        match self {
            Self::Created { .. } => {
                vec![ClaimChange::take(ClaimScope::Datatype, ClaimKey::id(stream))]
            }
            Self::Changed { .. } | Self::FieldAttachmentChanged { .. } => Vec::new(),
            Self::Deleted { .. } => vec![
                ClaimChange::release_all(ClaimScope::Datatype),
                ClaimChange::release_all(ClaimScope::DatatypeField),
            ],
            Self::FieldAttached { datatype_field_id, .. } => {
                let key = ClaimKey::id(*datatype_field_id);
                vec![ClaimChange::take(ClaimScope::DatatypeField, key)]
            }
            Self::FieldDetached { datatype_field_id, .. } => {
                let key = ClaimKey::id(*datatype_field_id);
                vec![ClaimChange::release(ClaimScope::DatatypeField, key)]
            }
        }
    }
}

/// Oldest first; each lifts a stored payload by one version.
#[must_use]
pub(crate) fn upcasters() -> Vec<Box<dyn EventUpcaster>> {
    Vec::new()
}
