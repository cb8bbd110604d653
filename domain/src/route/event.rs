//! What has happened to a route.

use cqrs_es::persist::EventUpcaster;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::claims::{ClaimChange, ClaimKey, ClaimScope, slug_key};
use crate::ids::UserId;
use crate::registry::Event;
use crate::values::{Realm, Slug, Timestamp};

/// A fact about one route. Stored for good: add variants and versions, never edit or reuse them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type")]
pub enum RouteEvent {
    /// The route was created.
    #[serde(rename = "route.created")]
    Created {
        /// Where it lives.
        realm: Realm,
        /// The path.
        slug: Slug,
        /// The name for people to read.
        title: String,
        /// A number whose meaning is the client's.
        status: i64,
        /// Who is named as its author.
        author_id: Option<UserId>,
        /// As the client said.
        date_created: Option<Timestamp>,
        /// As the client said.
        date_modified: Option<Timestamp>,
        /// When it happened.
        at: Timestamp,
    },
    /// Everything but the realm was replaced.
    #[serde(rename = "route.changed")]
    Changed {
        /// Where it lives, unchanged: the claim on the path needs it.
        realm: Realm,
        /// The path.
        slug: Slug,
        /// The name for people to read.
        title: String,
        /// A number whose meaning is the client's.
        status: i64,
        /// Who is named as its author.
        author_id: Option<UserId>,
        /// As the client said.
        date_created: Option<Timestamp>,
        /// As the client said.
        date_modified: Option<Timestamp>,
        /// When it happened.
        at: Timestamp,
    },
    /// The route was deleted.
    #[serde(rename = "route.deleted")]
    Deleted {
        /// When it happened.
        at: Timestamp,
    },
}

event_kinds!(RouteEvent of "route" {
    Created: "route.created", "1";
    Changed: "route.changed", "1";
    Deleted: "route.deleted", "1";
});

impl Event for RouteEvent {
    fn claims(&self, stream: Uuid) -> Vec<ClaimChange> {
        match self {
            Self::Created { realm, slug, .. } => vec![
                ClaimChange::take(ClaimScope::Route, ClaimKey::id(stream)),
                ClaimChange::take(ClaimScope::Slug, slug_key(*realm, slug)),
            ],
            Self::Changed { realm, slug, .. } => vec![
                ClaimChange::release_all(ClaimScope::Slug),
                ClaimChange::take(ClaimScope::Slug, slug_key(*realm, slug)),
            ],
            Self::Deleted { .. } => vec![
                ClaimChange::release_all(ClaimScope::Route),
                ClaimChange::release_all(ClaimScope::Slug),
            ],
        }
    }
}

/// Oldest first; each lifts a stored payload by one version.
#[must_use]
pub(crate) fn upcasters() -> Vec<Box<dyn EventUpcaster>> {
    Vec::new()
}
