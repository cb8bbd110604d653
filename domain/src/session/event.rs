//! What has happened to a session.

use std::fmt;

use cqrs_es::persist::EventUpcaster;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::caller::Device;
use crate::claims::{ClaimChange, ClaimKey, ClaimScope, session_key};
use crate::ids::{SessionId, UserId};
use crate::personal::Personal;
use crate::registry::Event;
use crate::values::{Timestamp, TokenDigest};

/// Why a session was ended on purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RevocationReason {
    /// Its user signed out of it.
    UserLogout,
    /// Its user signed out everywhere.
    UserLogoutAll,
    /// Its user ended it from another session.
    UserRevoke,
    /// Its user's password was changed.
    PasswordChanged,
    /// Its user was disabled.
    UserDisabled,
    /// Its user's second factor was set up or taken away.
    MfaChanged,
    /// A refresh token was used again that had been exchanged before: one of two holders is a thief.
    RefreshReuse,
    /// Its user has signed in so often that the session in least use had to go.
    SessionLimitExceeded,
}

impl RevocationReason {
    /// The stored name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::UserLogout => "user_logout",
            Self::UserLogoutAll => "user_logout_all",
            Self::UserRevoke => "user_revoke",
            Self::PasswordChanged => "password_changed",
            Self::UserDisabled => "user_disabled",
            Self::MfaChanged => "mfa_changed",
            Self::RefreshReuse => "refresh_reuse",
            Self::SessionLimitExceeded => "session_limit_exceeded",
        }
    }
}

impl fmt::Display for RevocationReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A fact about one session. Stored for good: add variants and versions, never edit or reuse them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type")]
pub enum SessionEvent {
    /// A user signed in.
    #[serde(rename = "session.started")]
    Started {
        /// Who.
        user_id: UserId,
        /// The digest of the opaque refresh token; absent when the session has none.
        refresh_digest: Option<TokenDigest>,
        /// What the client said about itself.
        device: Personal<Device>,
        /// Where the user signed in from.
        address: Option<Personal<String>>,
        /// When the session ends unless refreshed.
        expires_at: Timestamp,
        /// When it happened.
        at: Timestamp,
    },
    /// The session was continued; the old refresh token is void.
    #[serde(rename = "session.refreshed")]
    Refreshed {
        /// The digest of the refresh token accepted next.
        refresh_digest: Option<TokenDigest>,
        /// When the session ends unless refreshed again.
        expires_at: Timestamp,
        /// Where the request came from.
        address: Option<Personal<String>>,
        /// When it happened.
        at: Timestamp,
    },
    /// The session was ended on purpose.
    #[serde(rename = "session.revoked")]
    Revoked {
        /// Why.
        reason: RevocationReason,
        /// When it happened.
        at: Timestamp,
    },
    /// The session was found past its time.
    #[serde(rename = "session.expired")]
    Expired {
        /// When it was found, not when the time ran out.
        at: Timestamp,
    },
}

event_kinds!(SessionEvent of "session" {
    Started: "session.started", "1";
    Refreshed: "session.refreshed", "1";
    Revoked: "session.revoked", "1";
    Expired: "session.expired", "1";
});

impl Event for SessionEvent {
    fn claims(&self, stream: Uuid) -> Vec<ClaimChange> {
        let take_token = |digest: &TokenDigest| {
            let key = ClaimKey::Public(digest.as_bytes().to_vec());
            ClaimChange::take(ClaimScope::RefreshToken, key)
        };
        match self {
            Self::Started {
                user_id,
                refresh_digest,
                ..
            } => {
                let key = session_key(*user_id, SessionId::new(stream));
                let mut changes = vec![ClaimChange::take(ClaimScope::Session, key)];
                changes.extend(refresh_digest.as_ref().map(take_token));
                changes
            }
            Self::Refreshed { refresh_digest, .. } => {
                let mut changes = vec![ClaimChange::release_all(ClaimScope::RefreshToken)];
                changes.extend(refresh_digest.as_ref().map(take_token));
                changes
            }
            Self::Revoked { .. } | Self::Expired { .. } => vec![
                ClaimChange::release_all(ClaimScope::Session),
                ClaimChange::release_all(ClaimScope::RefreshToken),
            ],
        }
    }
}

/// Oldest first; each lifts a stored payload by one version.
#[must_use]
pub(crate) fn upcasters() -> Vec<Box<dyn EventUpcaster>> {
    Vec::new()
}
