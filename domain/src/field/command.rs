//! What can be asked of a field definition.

use crate::field::FieldKind;
use crate::ids::{DatatypeId, UserId};
use crate::values::{Realm, Timestamp};

/// A request about one field definition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FieldCommand {
    /// Creates the field.
    Create {
        /// Where it lives.
        realm: Realm,
        /// The datatype it is made for.
        parent_id: Option<DatatypeId>,
        /// The name for people to read.
        label: String,
        /// Free text.
        data: String,
        /// JSON as text; empty counts as `{}`.
        validation: String,
        /// JSON as text; empty counts as `{}`.
        ui_config: String,
        /// What kind of value it holds.
        kind: FieldKind,
        /// Who is named as its author.
        author_id: Option<UserId>,
        /// As the client says.
        date_created: Option<Timestamp>,
        /// As the client says.
        date_modified: Option<Timestamp>,
        /// When this is asked.
        at: Timestamp,
    },
    /// Replaces the definition; nothing happens when it is so already.
    Change {
        /// The datatype it is made for.
        parent_id: Option<DatatypeId>,
        /// The name for people to read.
        label: String,
        /// Free text.
        data: String,
        /// JSON as text; empty counts as `{}`.
        validation: String,
        /// JSON as text; empty counts as `{}`.
        ui_config: String,
        /// What kind of value it holds.
        kind: FieldKind,
        /// Who is named as its author.
        author_id: Option<UserId>,
        /// As the client says.
        date_created: Option<Timestamp>,
        /// As the client says.
        date_modified: Option<Timestamp>,
        /// When this is asked.
        at: Timestamp,
    },
    /// Deletes the definition; values of it stay.
    Delete {
        /// When this is asked.
        at: Timestamp,
    },
}
