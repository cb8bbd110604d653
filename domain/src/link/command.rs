//! What can be asked of mailed links.

use uuid::Uuid;

use crate::link::LinkPurpose;
use crate::personal::Personal;
use crate::values::{EmailAddress, LinkNonce, Timestamp, TokenDigest};

/// A request about the links of one purpose for one subject.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LinkCommand {
    /// Makes a link and voids the one before it.
    Issue {
        /// What it is good for; the same for all of a stream.
        purpose: LinkPurpose,
        /// For which user, registration or invitation; the same for all of a stream.
        subject: Uuid,
        /// Where it is mailed to.
        email: Personal<EmailAddress>,
        /// What its token is derived from.
        nonce: LinkNonce,
        /// The digest of its token.
        digest: TokenDigest,
        /// When it ends.
        expires_at: Timestamp,
        /// Links that may be made within [`crate::link::WINDOW_SECONDS`].
        most: u32,
        /// When this is asked.
        at: Timestamp,
    },
    /// Uses a link.
    Redeem {
        /// The digest of the token that was shown.
        presented: TokenDigest,
        /// When this is asked.
        at: Timestamp,
    },
    /// Voids the present link; nothing happens when there is none.
    Void {
        /// When this is asked.
        at: Timestamp,
    },
}
