//! What can be asked of a session.

use crate::caller::Device;
use crate::ids::UserId;
use crate::personal::Personal;
use crate::session::RevocationReason;
use crate::values::{Timestamp, TokenDigest};

/// A request about one session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SessionCommand {
    /// Opens the session.
    Start {
        /// Who signed in.
        user_id: UserId,
        /// The digest of the opaque refresh token; absent when the session has none.
        refresh_digest: Option<TokenDigest>,
        /// What the client said about itself.
        device: Personal<Device>,
        /// Where the user signed in from.
        address: Option<Personal<String>>,
        /// When the session ends unless refreshed.
        expires_at: Timestamp,
        /// When this is asked.
        at: Timestamp,
    },
    /// Continues the session. Past its time this yields [`crate::SessionEvent::Expired`] instead, which the one who
    /// asks must store and then refuse the client; likewise [`crate::SessionEvent::Revoked`] when the token was used before.
    /// Nothing follows when a token is shown again whose answer may have been lost: its successor is the current one.
    Refresh {
        /// The digest of the token shown; absent for a signed token, which was verified before.
        presented: Option<TokenDigest>,
        /// How many refreshes had gone before when the token shown was made, which its maker vouches for; absent when
        /// nobody can say.
        generation: Option<u32>,
        /// How long a token may be shown again after its use while its successor was not used, in seconds.
        grace_seconds: u32,
        /// The digest of the token given out in its place.
        next: Option<TokenDigest>,
        /// When the session ends now unless refreshed again.
        expires_at: Timestamp,
        /// Where the request came from.
        address: Option<Personal<String>>,
        /// When this is asked.
        at: Timestamp,
    },
    /// Ends the session on purpose.
    Revoke {
        /// Why.
        reason: RevocationReason,
        /// When this is asked.
        at: Timestamp,
    },
    /// Notes that the session is past its time; nothing happens when it has ended already.
    Expire {
        /// When this is asked.
        at: Timestamp,
    },
}
