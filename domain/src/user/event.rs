//! What has happened to an account.

use cqrs_es::persist::EventUpcaster;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::claims::{ClaimChange, ClaimKey, ClaimScope};
use crate::permission::Role;
use crate::personal::Personal;
use crate::registry::Event;
use crate::values::{EmailAddress, Timestamp, Username};

/// A fact about one account. Stored for good: add variants and versions, never edit or reuse them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type")]
pub enum UserEvent {
    /// The account was created.
    #[serde(rename = "user.registered")]
    Registered {
        /// Where mail reaches the person.
        email: Personal<EmailAddress>,
        /// The name they sign in with, as they wrote it.
        username: Personal<Username>,
        /// The name for people to read, possibly empty.
        name: Personal<String>,
        /// What they may do.
        role: Role,
        /// When it happened.
        at: Timestamp,
    },
    /// The person's name was changed.
    #[serde(rename = "user.profile_changed")]
    ProfileChanged {
        /// The new name, possibly empty.
        name: Personal<String>,
        /// When it happened.
        at: Timestamp,
    },
    /// The person has proven that the address is theirs.
    #[serde(rename = "user.email_verified")]
    EmailVerified {
        /// When it happened.
        at: Timestamp,
    },
    /// The person has finished the first steps.
    #[serde(rename = "user.onboarding_completed")]
    OnboardingCompleted {
        /// When it happened.
        at: Timestamp,
    },
    /// The person may no longer sign in.
    #[serde(rename = "user.disabled")]
    Disabled {
        /// Why.
        reason: String,
        /// When it happened.
        at: Timestamp,
    },
    /// The person may sign in again.
    #[serde(rename = "user.enabled")]
    Enabled {
        /// When it happened.
        at: Timestamp,
    },
}

event_kinds!(UserEvent of "user" {
    Registered: "user.registered", "1";
    ProfileChanged: "user.profile_changed", "1";
    Disabled: "user.disabled", "1";
    Enabled: "user.enabled", "1";
    EmailVerified: "user.email_verified", "1";
    OnboardingCompleted: "user.onboarding_completed", "1";
});

impl Event for UserEvent {
    fn claims(&self, stream: Uuid) -> Vec<ClaimChange> {
        match self {
            Self::Registered { email, username, .. } => {
                // Once erased, the keys cannot be known any more; what is left is that the user exists.
                let email = email.get().map(|email| {
                    let key = ClaimKey::Personal(email.as_str().to_owned());
                    ClaimChange::take(ClaimScope::Email, key)
                });
                let username = username
                    .get()
                    .map(|username| ClaimChange::take(ClaimScope::Username, ClaimKey::Personal(username.key())));
                let user = ClaimChange::take(ClaimScope::User, ClaimKey::id(stream));
                email.into_iter().chain(username).chain([user]).collect()
            }
            Self::ProfileChanged { .. } | Self::OnboardingCompleted { .. } => Vec::new(),
            Self::EmailVerified { .. } => vec![ClaimChange::take(ClaimScope::VerifiedUser, ClaimKey::id(stream))],
            Self::Disabled { .. } => vec![ClaimChange::release_all(ClaimScope::User)],
            Self::Enabled { .. } => {
                vec![ClaimChange::take(ClaimScope::User, ClaimKey::id(stream))]
            }
        }
    }
}

/// Oldest first; each lifts a stored payload by one version.
#[must_use]
pub(crate) fn upcasters() -> Vec<Box<dyn EventUpcaster>> {
    Vec::new()
}
