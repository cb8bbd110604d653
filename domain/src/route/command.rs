//! What can be asked of a route.

use crate::ids::UserId;
use crate::values::{Realm, Slug, Timestamp};

/// A request about one route.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RouteCommand {
    /// Creates the route.
    Create {
        /// Where it lives.
        realm: Realm,
        /// The path; no other route's in the realm.
        slug: Slug,
        /// The name for people to read.
        title: String,
        /// A number whose meaning is the client's.
        status: i64,
        /// Who is named as its author.
        author_id: Option<UserId>,
        /// As the client says.
        date_created: Option<Timestamp>,
        /// As the client says.
        date_modified: Option<Timestamp>,
        /// When this is asked.
        at: Timestamp,
    },
    /// Replaces everything but the realm; nothing happens when it is so already.
    Change {
        /// The path; no other route's in the realm.
        slug: Slug,
        /// The name for people to read.
        title: String,
        /// A number whose meaning is the client's.
        status: i64,
        /// Who is named as its author.
        author_id: Option<UserId>,
        /// As the client says.
        date_created: Option<Timestamp>,
        /// As the client says.
        date_modified: Option<Timestamp>,
        /// When this is asked.
        at: Timestamp,
    },
    /// Deletes the route; content under it stays.
    Delete {
        /// When this is asked.
        at: Timestamp,
    },
}
