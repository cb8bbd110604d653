//! What has happened to a registration that waits for its address to be proven.

use cqrs_es::persist::EventUpcaster;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::claims::{ClaimChange, ClaimKey, ClaimScope};
use crate::ids::{InvitationId, UserId};
use crate::personal::Personal;
use crate::registry::Event;
use crate::values::{EmailAddress, PasswordHash, Timestamp};

/// A fact about one registration. Stored for good: add variants and versions, never edit or reuse them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type")]
pub enum RegistrationEvent {
    /// Somebody wants an account; there is none yet.
    #[serde(rename = "registration.requested")]
    Requested {
        /// The user it will become.
        user_id: UserId,
        /// Where mail reaches the person.
        email: Personal<EmailAddress>,
        /// The hash of the chosen password.
        password: Personal<PasswordHash>,
        /// The name for people to read.
        name: Personal<String>,
        /// The organization to found with the account, if one was named.
        organization_name: Option<String>,
        /// The invitation to accept with it, if it came with one.
        invitation_id: Option<InvitationId>,
        /// When it lapses.
        expires_at: Timestamp,
        /// When it happened.
        at: Timestamp,
    },
    /// The address was proven and the account made.
    #[serde(rename = "registration.verified")]
    Verified {
        /// When it happened.
        at: Timestamp,
    },
    /// Nobody proved the address in time.
    #[serde(rename = "registration.lapsed")]
    Lapsed {
        /// When it was noticed.
        at: Timestamp,
    },
}

event_kinds!(RegistrationEvent of "registration" {
    Requested: "registration.requested", "1";
    Verified: "registration.verified", "1";
    Lapsed: "registration.lapsed", "1";
});

impl Event for RegistrationEvent {
    fn claims(&self, _stream: Uuid) -> Vec<ClaimChange> {
        match self {
            Self::Requested { email, .. } => {
                let email = email.get().map(|email| {
                    let key = ClaimKey::Personal(email.as_str().to_owned());
                    ClaimChange::take(ClaimScope::PendingEmail, key)
                });
                email.into_iter().collect()
            }
            Self::Verified { .. } | Self::Lapsed { .. } => vec![ClaimChange::release_all(ClaimScope::PendingEmail)],
        }
    }
}

/// Oldest first; each lifts a stored payload by one version.
#[must_use]
pub(crate) fn upcasters() -> Vec<Box<dyn EventUpcaster>> {
    Vec::new()
}
