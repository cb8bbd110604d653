//! What has happened to a user's second factor.

use cqrs_es::persist::EventUpcaster;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::claims::ClaimChange;
use crate::ids::SessionId;
use crate::personal::Personal;
use crate::registry::Event;
use crate::values::{PasswordHash, Timestamp, TotpSecret};

/// A sign-in that waits for its second factor. It lies in the hands of the client, as a signed token; nothing is stored
/// of it before a code is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ChallengeRef {
    /// Names it alone.
    pub id: Uuid,
    /// When its token ends; nothing needs to be remembered of it afterwards.
    pub expires_at: Timestamp,
}

/// A fact about a second factor. Stored for good: add variants and versions, never edit or reuse them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type")]
pub enum MfaEvent {
    /// A secret was offered; it counts for nothing until a code of it was shown.
    #[serde(rename = "mfa.setup_begun")]
    SetupBegun {
        /// The secret.
        totp_secret: Personal<TotpSecret>,
        /// When it happened.
        at: Timestamp,
    },
    /// The offered secret came into force.
    #[serde(rename = "mfa.enabled")]
    Enabled {
        /// The time step of the code that proved it.
        step: u64,
        /// When it happened.
        at: Timestamp,
    },
    /// Backup codes were made; all earlier ones are void.
    #[serde(rename = "mfa.backup_codes_made")]
    BackupCodesMade {
        /// Their hashes, all with one salt.
        backup_codes: Personal<Vec<PasswordHash>>,
        /// When it happened.
        at: Timestamp,
    },
    /// A code of the authenticator was accepted; neither it nor an earlier one is accepted again.
    #[serde(rename = "mfa.code_accepted")]
    CodeAccepted {
        /// Its time step (RFC 6238): 30-second spans since 1970.
        step: u64,
        /// The sign-in that it completed, if that had two parts.
        challenge: Option<ChallengeRef>,
        /// The session that it opened, if it opened one.
        session_id: Option<SessionId>,
        /// When it happened.
        at: Timestamp,
    },
    /// A backup code was accepted; it is not accepted again.
    #[serde(rename = "mfa.backup_code_used")]
    BackupCodeUsed {
        /// Which one of the present set, from 0.
        index: u8,
        /// The sign-in that it completed, if that had two parts.
        challenge: Option<ChallengeRef>,
        /// The session that it opened, if it opened one.
        session_id: Option<SessionId>,
        /// When it happened.
        at: Timestamp,
    },
    /// A wrong code was shown.
    #[serde(rename = "mfa.code_refused")]
    CodeRefused {
        /// The sign-in that it was to complete, if that has two parts.
        challenge: Option<ChallengeRef>,
        /// Where the attempt came from.
        address: Option<Personal<String>>,
        /// When it happened.
        at: Timestamp,
    },
    /// The second factor was taken away.
    #[serde(rename = "mfa.disabled")]
    Disabled {
        /// When it happened.
        at: Timestamp,
    },
}

event_kinds!(MfaEvent of "mfa" {
    SetupBegun: "mfa.setup_begun", "1";
    Enabled: "mfa.enabled", "1";
    BackupCodesMade: "mfa.backup_codes_made", "1";
    CodeAccepted: "mfa.code_accepted", "1";
    BackupCodeUsed: "mfa.backup_code_used", "1";
    CodeRefused: "mfa.code_refused", "1";
    Disabled: "mfa.disabled", "1";
});

impl Event for MfaEvent {
    fn claims(&self, _stream: Uuid) -> Vec<ClaimChange> {
        match self {
            Self::SetupBegun { .. }
            | Self::Enabled { .. }
            | Self::BackupCodesMade { .. }
            | Self::CodeAccepted { .. }
            | Self::BackupCodeUsed { .. }
            | Self::CodeRefused { .. }
            | Self::Disabled { .. } => Vec::new(),
        }
    }
}

/// Oldest first; each lifts a stored payload by one version.
#[must_use]
pub(crate) fn upcasters() -> Vec<Box<dyn EventUpcaster>> {
    Vec::new()
}
