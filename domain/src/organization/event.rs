//! What has happened to an organization.

use std::fmt;
use std::str::FromStr;

use cqrs_es::persist::EventUpcaster;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::claims::{ClaimChange, ClaimKey, ClaimScope};
use crate::ids::UserId;
use crate::registry::Event;
use crate::values::Timestamp;

/// What a member is to the organization.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OrganizationRole {
    /// It is theirs.
    Owner,
    /// They run it.
    Admin,
    /// They take part.
    Member,
    /// They look on.
    Viewer,
}

impl OrganizationRole {
    /// Every role there is.
    pub const ALL: &'static [Self] = &[Self::Owner, Self::Admin, Self::Member, Self::Viewer];

    /// The stored name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Owner => "owner",
            Self::Admin => "admin",
            Self::Member => "member",
            Self::Viewer => "viewer",
        }
    }
}

impl fmt::Display for OrganizationRole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A name that is no role in an organization.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown organization role {0:?}")]
pub struct UnknownOrganizationRole(pub String);

impl FromStr for OrganizationRole {
    type Err = UnknownOrganizationRole;

    fn from_str(text: &str) -> Result<Self, UnknownOrganizationRole> {
        Self::ALL
            .iter()
            .copied()
            .find(|role| role.as_str() == text)
            .ok_or_else(|| UnknownOrganizationRole(text.to_owned()))
    }
}

/// A fact about one organization. Stored for good: add variants and versions, never edit or reuse them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type")]
pub enum OrganizationEvent {
    /// The organization was created.
    #[serde(rename = "organization.founded")]
    Founded {
        /// The name for people to read.
        name: String,
        /// The short name for addresses.
        slug: String,
        /// When it happened.
        at: Timestamp,
    },
    /// A user joined.
    #[serde(rename = "organization.member_added")]
    MemberAdded {
        /// Who.
        user_id: UserId,
        /// As what.
        role: OrganizationRole,
        /// When it happened.
        at: Timestamp,
    },
}

event_kinds!(OrganizationEvent of "organization" {
    Founded: "organization.founded", "1";
    MemberAdded: "organization.member_added", "1";
});

impl Event for OrganizationEvent {
    fn claims(&self, stream: Uuid) -> Vec<ClaimChange> {
        match self {
            Self::Founded { slug, .. } => {
                let slug = ClaimKey::Public(slug.as_bytes().to_vec());
                vec![
                    ClaimChange::take(ClaimScope::Organization, ClaimKey::id(stream)),
                    ClaimChange::take(ClaimScope::OrganizationSlug, slug),
                ]
            }
            Self::MemberAdded { .. } => Vec::new(),
        }
    }
}

/// Oldest first; each lifts a stored payload by one version.
#[must_use]
pub(crate) fn upcasters() -> Vec<Box<dyn EventUpcaster>> {
    Vec::new()
}
