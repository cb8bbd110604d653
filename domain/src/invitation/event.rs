//! What has happened to an invitation.

use cqrs_es::persist::EventUpcaster;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::claims::{ClaimChange, ClaimKey, ClaimScope};
use crate::ids::{OrganizationId, UserId};
use crate::organization::OrganizationRole;
use crate::personal::Personal;
use crate::registry::Event;
use crate::values::{EmailAddress, Timestamp};

/// A fact about one invitation. Stored for good: add variants and versions, never edit or reuse them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type")]
pub enum InvitationEvent {
    /// Somebody was invited into an organization.
    #[serde(rename = "invitation.issued")]
    Issued {
        /// Into which.
        organization_id: OrganizationId,
        /// Who, by the address that the invitation is mailed to.
        email: Personal<EmailAddress>,
        /// As what.
        role: OrganizationRole,
        /// By whom.
        invited_by: UserId,
        /// When it lapses.
        expires_at: Timestamp,
        /// When it happened.
        at: Timestamp,
    },
    /// The person has joined.
    #[serde(rename = "invitation.accepted")]
    Accepted {
        /// As which user.
        user_id: UserId,
        /// When it happened.
        at: Timestamp,
    },
    /// Nobody accepted it in time.
    #[serde(rename = "invitation.lapsed")]
    Lapsed {
        /// When it was noticed.
        at: Timestamp,
    },
}

event_kinds!(InvitationEvent of "invitation" {
    Issued: "invitation.issued", "1";
    Accepted: "invitation.accepted", "1";
    Lapsed: "invitation.lapsed", "1";
});

/// The key of a pending invitation: one address is invited into one organization once at a time.
#[must_use]
pub fn pending_key(organization: OrganizationId, email: &EmailAddress) -> ClaimKey {
    ClaimKey::Personal(format!("{organization} {email}"))
}

impl Event for InvitationEvent {
    fn claims(&self, _stream: Uuid) -> Vec<ClaimChange> {
        match self {
            Self::Issued {
                organization_id, email, ..
            } => {
                let key = email.get().map(|email| pending_key(*organization_id, email));
                let taken = key.map(|key| ClaimChange::take(ClaimScope::PendingInvitation, key));
                taken.into_iter().collect()
            }
            Self::Accepted { .. } | Self::Lapsed { .. } => {
                vec![ClaimChange::release_all(ClaimScope::PendingInvitation)]
            }
        }
    }
}

/// Oldest first; each lifts a stored payload by one version.
#[must_use]
pub(crate) fn upcasters() -> Vec<Box<dyn EventUpcaster>> {
    Vec::new()
}
