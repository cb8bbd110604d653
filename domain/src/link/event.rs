//! What has happened to a link that was mailed.

use cqrs_es::persist::EventUpcaster;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::claims::{ClaimChange, ClaimKey, ClaimScope};
use crate::personal::Personal;
use crate::registry::Event;
use crate::values::{EmailAddress, LinkNonce, Timestamp, TokenDigest};

/// What a mailed link is good for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LinkPurpose {
    /// Setting a new password without the old one.
    PasswordReset,
    /// Proving that the address of an account is its owner's.
    EmailVerification,
    /// Turning a pending registration into an account.
    SignUp,
    /// Joining an organization.
    Invitation,
}

impl LinkPurpose {
    /// Every purpose there is.
    pub const ALL: &'static [Self] = &[
        Self::PasswordReset,
        Self::EmailVerification,
        Self::SignUp,
        Self::Invitation,
    ];

    /// The stored name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::PasswordReset => "password_reset",
            Self::EmailVerification => "email_verification",
            Self::SignUp => "sign_up",
            Self::Invitation => "invitation",
        }
    }
}

/// A fact about the links of one purpose for one subject. Stored for good: add variants and versions, never edit or
/// reuse them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type")]
pub enum LinkEvent {
    /// A link was made, and is to be mailed. The one before it is void.
    #[serde(rename = "link.issued")]
    Issued {
        /// What it is good for.
        purpose: LinkPurpose,
        /// For which user, registration or invitation.
        subject: Uuid,
        /// Where it is mailed to.
        email: Personal<EmailAddress>,
        /// What its token is derived from, together with a key that is stored nowhere near.
        nonce: LinkNonce,
        /// The digest of its token.
        digest: TokenDigest,
        /// The digest of the token that it replaces, if one is still known.
        replaces: Option<TokenDigest>,
        /// When it ends.
        expires_at: Timestamp,
        /// When it happened.
        at: Timestamp,
    },
    /// The link was used; it is good for nothing any more.
    #[serde(rename = "link.redeemed")]
    Redeemed {
        /// When it happened.
        at: Timestamp,
    },
    /// What the link was good for is no longer wanted.
    #[serde(rename = "link.voided")]
    Voided {
        /// The digest of its token.
        digest: TokenDigest,
        /// When it happened.
        at: Timestamp,
    },
}

event_kinds!(LinkEvent of "link" {
    Issued: "link.issued", "1";
    Redeemed: "link.redeemed", "1";
    Voided: "link.voided", "1";
});

fn key(digest: &TokenDigest) -> ClaimKey {
    ClaimKey::Public(digest.as_bytes().to_vec())
}

impl Event for LinkEvent {
    fn claims(&self, _stream: Uuid) -> Vec<ClaimChange> {
        match self {
            Self::Issued { digest, replaces, .. } => {
                let former = replaces.map(|former| ClaimChange::release(ClaimScope::LinkToken, key(&former)));
                let taken = ClaimChange::take(ClaimScope::LinkToken, key(digest));
                former.into_iter().chain([taken]).collect()
            }
            // The claim stays, so that whoever uses the link again is told that it has been used.
            Self::Redeemed { .. } => Vec::new(),
            Self::Voided { digest, .. } => vec![ClaimChange::release(ClaimScope::LinkToken, key(digest))],
        }
    }
}

/// Oldest first; each lifts a stored payload by one version.
#[must_use]
pub(crate) fn upcasters() -> Vec<Box<dyn EventUpcaster>> {
    Vec::new()
}
