//! What can be asked of a content node.

use crate::content::{ContentStatus, FieldValue, Place};
use crate::ids::{ContentFieldId, ContentId, DatatypeId, RouteId, UserId};
use crate::values::{Realm, Timestamp};

/// A request about one content node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ContentCommand {
    /// Creates the node.
    Create {
        /// The node's own identifier, the same as its stream's.
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
        /// As the client says.
        date_created: Option<Timestamp>,
        /// As the client says.
        date_modified: Option<Timestamp>,
        /// When this is asked.
        at: Timestamp,
    },
    /// Sets and removes values, all or none; values that are so already are left out, and nothing may be left.
    ChangeFields {
        /// Values to add or replace, by their identifier; each at most once.
        set: Vec<FieldValue>,
        /// Values to remove; each at most once, and none that is set.
        removed: Vec<ContentFieldId>,
        /// When this is asked.
        at: Timestamp,
    },
    /// Hangs the node elsewhere. That no cycle arises further up must have been checked.
    Move {
        /// The node it hangs under from now on.
        parent_id: Option<ContentId>,
        /// Its place among its siblings.
        place: Place,
        /// When this is asked.
        at: Timestamp,
    },
    /// Replaces what is neither place, status nor value; nothing happens when it is so already.
    ChangeDetails {
        /// The route it is delivered under.
        route_id: Option<RouteId>,
        /// What kind of node it is.
        datatype_id: Option<DatatypeId>,
        /// Who is named as its author.
        author_id: Option<UserId>,
        /// As the client says.
        date_created: Option<Timestamp>,
        /// As the client says.
        date_modified: Option<Timestamp>,
        /// When this is asked.
        at: Timestamp,
    },
    /// Brings the node nearer to or further from the public; nothing happens when it is there already.
    SetStatus {
        /// The new status.
        status: ContentStatus,
        /// When this is asked.
        at: Timestamp,
    },
    /// Deletes the node with its values; its children stay, without a parent.
    Delete {
        /// When this is asked.
        at: Timestamp,
    },
}
