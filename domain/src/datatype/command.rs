//! What can be asked of a datatype.

use crate::ids::{DatatypeFieldId, DatatypeId, FieldId, UserId};
use crate::values::{Realm, Timestamp};

/// A request about one datatype.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DatatypeCommand {
    /// Creates the datatype.
    Create {
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
        /// As the client says.
        date_created: Option<Timestamp>,
        /// As the client says.
        date_modified: Option<Timestamp>,
        /// When this is asked.
        at: Timestamp,
    },
    /// Replaces all details; nothing happens when they are so already.
    Change {
        /// The datatype it belongs under.
        parent_id: Option<DatatypeId>,
        /// The name for people to read.
        label: String,
        /// Free text; `ROOT` marks page roots.
        kind: String,
        /// Who is named as its author.
        author_id: Option<UserId>,
        /// As the client says.
        date_created: Option<Timestamp>,
        /// As the client says.
        date_modified: Option<Timestamp>,
        /// When this is asked.
        at: Timestamp,
    },
    /// Deletes the datatype with its attachments; content of it stays.
    Delete {
        /// When this is asked.
        at: Timestamp,
    },
    /// Attaches a field.
    AttachField {
        /// Names the attachment.
        datatype_field_id: DatatypeFieldId,
        /// Which field.
        field_id: FieldId,
        /// Its place among the fields.
        sort_order: i64,
        /// When this is asked.
        at: Timestamp,
    },
    /// Replaces field and place of an attachment; nothing happens when they are so already.
    ChangeAttachment {
        /// Names the attachment.
        datatype_field_id: DatatypeFieldId,
        /// Which field.
        field_id: FieldId,
        /// Its place among the fields.
        sort_order: i64,
        /// When this is asked.
        at: Timestamp,
    },
    /// Removes an attachment.
    DetachField {
        /// Names the attachment.
        datatype_field_id: DatatypeFieldId,
        /// When this is asked.
        at: Timestamp,
    },
}
