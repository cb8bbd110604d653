//! What has happened to a user's credentials.

use cqrs_es::persist::EventUpcaster;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::caller::Device;
use crate::claims::ClaimChange;
use crate::personal::Personal;
use crate::registry::Event;
use crate::values::{PasswordHash, Timestamp};

/// A fact about credentials. Stored for good: add variants and versions, never edit or reuse them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type")]
pub enum AuthEvent {
    /// The first password was set.
    #[serde(rename = "auth.password_set")]
    PasswordSet {
        /// Its hash.
        password: Personal<PasswordHash>,
        /// When it happened.
        at: Timestamp,
    },
    /// The password was replaced.
    #[serde(rename = "auth.password_changed")]
    PasswordChanged {
        /// The hash of the new one.
        password: Personal<PasswordHash>,
        /// When it happened.
        at: Timestamp,
    },
    /// A wrong password was given.
    #[serde(rename = "auth.password_failed")]
    PasswordFailed {
        /// Where the attempt came from.
        address: Option<Personal<String>>,
        /// What the client said about itself.
        device: Option<Personal<Device>>,
        /// When it happened.
        at: Timestamp,
    },
}

event_kinds!(AuthEvent of "auth" {
    PasswordSet: "auth.password_set", "1";
    PasswordChanged: "auth.password_changed", "1";
    PasswordFailed: "auth.password_failed", "1";
});

impl Event for AuthEvent {
    fn claims(&self, _stream: Uuid) -> Vec<ClaimChange> {
        match self {
            Self::PasswordSet { .. } | Self::PasswordChanged { .. } | Self::PasswordFailed { .. } => Vec::new(),
        }
    }
}

/// Oldest first; each lifts a stored payload by one version.
#[must_use]
pub(crate) fn upcasters() -> Vec<Box<dyn EventUpcaster>> {
    Vec::new()
}
