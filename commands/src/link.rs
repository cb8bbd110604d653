//! Mailed links: making them, finding them by their token, using them up.
//!
//! A token is never stored: it follows from the link's stream and a random nonce under a key of the vault, so that the
//! reaction that mails it can make it again, and nobody who reads the log can (decision 0010). What is stored is its
//! digest, as a claim by which the token leads back to its link.

use std::fmt;

use annals_domain::{
    ClaimKey, ClaimScope, EmailAddress, Link, LinkCommand, LinkId, LinkNonce, LinkPurpose, Personal, Timestamp,
    TokenDigest,
};
use annals_eventstore::EventStore;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest, Sha256};
use uuid::{Builder, Uuid};
use zeroize::Zeroizing;

use crate::executor::Staged;
use crate::{CommandContext, CommandError, UnitOfWork};

/// The code of a token that opens nothing.
pub const INVALID: &str = "link.invalid";
/// The code of a token whose time is over.
pub const EXPIRED: &str = "link.expired";
/// The code of a token that was used before.
pub const ALREADY_USED: &str = "link.already_used";
/// The code of a link that is not made, because enough were made lately.
pub const TOO_MANY: &str = "link.too_many";

/// Characters of a token: 32 bytes in URL-safe base 64.
const TOKEN_CHARACTERS: usize = 43;

/// The secret of a mailed link. `Debug` never shows it.
#[derive(Clone)]
pub struct LinkToken(Zeroizing<String>);

impl fmt::Debug for LinkToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LinkToken(redacted)")
    }
}

impl LinkToken {
    /// The token that belongs to a link of this stream and nonce.
    #[must_use]
    pub fn of(store: &EventStore, link: LinkId, nonce: &LinkNonce) -> Self {
        let secret = Zeroizing::new(store.link_token(link, nonce));
        Self(Zeroizing::new(URL_SAFE_NO_PAD.encode(*secret)))
    }

    /// As it stands in the link.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    #[cfg(test)]
    pub(crate) fn for_tests(text: &str) -> Self {
        Self(Zeroizing::new(text.to_owned()))
    }

    fn digest(&self) -> TokenDigest {
        TokenDigest::new(Sha256::digest(self.0.as_bytes()).into())
    }
}

/// The digest of what somebody shows; absent when no token of ours looks so.
fn digest_of(text: &str) -> Option<TokenDigest> {
    let well_formed = text.len() == TOKEN_CHARACTERS && URL_SAFE_NO_PAD.decode(text).is_ok();
    well_formed.then(|| TokenDigest::new(Sha256::digest(text.as_bytes()).into()))
}

/// A link that is made within a unit of work.
#[derive(Debug, Clone)]
pub struct IssuedLink {
    /// Its secret; for the mail, and for a development server that shows it.
    pub token: LinkToken,
    /// When it ends.
    pub expires_at: Timestamp,
}

/// The stream of the links of one purpose for one subject. It follows from both, so that no look-up is needed.
#[must_use]
pub(crate) fn id_of(purpose: LinkPurpose, subject: Uuid) -> LinkId {
    let mut hash = Sha256::new();
    hash.update(b"annals mailed link\0");
    hash.update(purpose.as_str().as_bytes());
    hash.update([0]);
    hash.update(subject.as_bytes());
    let digest = hash.finalize();
    let mut bytes = [0; 16];
    bytes[..6].copy_from_slice(&subject.as_bytes()[..6]);
    bytes[6..].copy_from_slice(&digest[..10]);
    let id = Builder::from_bytes(bytes)
        .with_version(uuid::Version::SortRand)
        .with_variant(uuid::Variant::RFC4122);
    LinkId::new(id.into_uuid())
}

fn issue(
    cx: &CommandContext<'_>,
    purpose: LinkPurpose,
    subject: Uuid,
    email: Personal<EmailAddress>,
) -> Result<(LinkId, LinkCommand, IssuedLink), CommandError> {
    let settings = cx.commands.settings().links;
    let id = id_of(purpose, subject);
    let mut random = [0; 16];
    getrandom::fill(&mut random)?;
    let nonce = LinkNonce::new(random);
    let token = LinkToken::of(cx.store(), id, &nonce);
    let at = cx.now();
    let expires_at = at.plus_seconds(settings.seconds(purpose).into());
    let command = LinkCommand::Issue {
        purpose,
        subject,
        email,
        nonce,
        digest: token.digest(),
        expires_at,
        most: settings.most_per_hour,
        at,
    };
    Ok((id, command, IssuedLink { token, expires_at }))
}

/// Stages the first link for a subject that is made in the same unit.
pub(crate) fn stage_first(
    unit: &mut UnitOfWork<'_>,
    purpose: LinkPurpose,
    subject: Uuid,
    email: Personal<EmailAddress>,
) -> Result<IssuedLink, CommandError> {
    let (id, command, issued) = issue(unit.context(), purpose, subject, email)?;
    unit.create::<Link>(id, [command])?;
    Ok(issued)
}

/// Stages a link that voids the one before it, or says when the next one can be made.
pub(crate) async fn stage_next(
    unit: &mut UnitOfWork<'_>,
    purpose: LinkPurpose,
    subject: Uuid,
    email: Personal<EmailAddress>,
) -> Result<Result<IssuedLink, Timestamp>, CommandError> {
    let (id, command, issued) = issue(unit.context(), purpose, subject, email)?;
    let read = unit.load::<Link>(id).await?;
    let most = unit.context().commands.settings().links.most_per_hour;
    if let Some(next_at) = read.state.next_issue_at(most, unit.now()) {
        return Ok(Err(next_at));
    }
    unit.stage(read, [command])?;
    Ok(Ok(issued))
}

/// Voids whatever link of this purpose is open, and makes the commit depend on no other being made meanwhile.
pub(crate) async fn stage_void(
    unit: &mut UnitOfWork<'_>,
    purpose: LinkPurpose,
    subject: Uuid,
) -> Result<(), CommandError> {
    let read = unit.load::<Link>(id_of(purpose, subject)).await?;
    let (before, at) = (read.version, unit.now());
    let staged = unit.stage(read, [LinkCommand::Void { at }])?;
    if staged.version == before {
        unit.rely_on(&staged);
    }
    Ok(())
}

/// A link that a token opens, and for whom.
#[derive(Debug, Clone)]
pub(crate) struct Opened {
    pub(crate) link: Staged<Link>,
    pub(crate) subject: Uuid,
    digest: TokenDigest,
}

impl Opened {
    /// Stages its use; of several uses at once the commit lets one pass.
    pub(crate) fn stage_use(self, unit: &mut UnitOfWork<'_>) -> Result<(), CommandError> {
        let command = LinkCommand::Redeem {
            presented: self.digest,
            at: unit.now(),
        };
        unit.stage(self.link, [command])?;
        Ok(())
    }
}

/// What a token opens at this moment. Nothing is used up.
///
/// # Errors
/// `link.invalid`, also for a token of another purpose; `link.already_used`, `link.expired`.
pub(crate) async fn open(cx: &CommandContext<'_>, purpose: LinkPurpose, token: &str) -> Result<Opened, CommandError> {
    let invalid = || CommandError::rule(INVALID, Some("token"), "the link is not valid");
    let digest = digest_of(token).ok_or_else(invalid)?;
    let key = ClaimKey::Public(digest.as_bytes().to_vec());
    let owner = cx.store().owner_of(ClaimScope::LinkToken, &key).await?;
    let id = LinkId::new(owner.ok_or_else(invalid)?);
    let link = UnitOfWork::new(cx).load::<Link>(id).await?;
    let subject = link.state.subject.filter(|_| link.state.purpose == Some(purpose));
    let subject = subject.ok_or_else(invalid)?;
    link.state
        .must_open(digest, cx.now())
        .map_err(|error| CommandError::broken(&error))?;
    Ok(Opened { link, subject, digest })
}

#[cfg(test)]
mod tests {
    use annals_domain::LinkPurpose;
    use uuid::Uuid;

    use super::{digest_of, id_of};

    #[test]
    fn links_of_different_purposes_have_different_streams() {
        let subject = Uuid::now_v7();
        let mut seen = std::collections::BTreeSet::new();
        for purpose in LinkPurpose::ALL {
            assert!(seen.insert(id_of(*purpose, subject)));
            assert_eq!(id_of(*purpose, subject), id_of(*purpose, subject));
            assert_ne!(id_of(*purpose, subject), id_of(*purpose, Uuid::now_v7()));
        }
    }

    #[test]
    fn only_what_looks_like_a_token_has_a_digest() {
        assert!(digest_of(&"A".repeat(43)).is_some());
        for text in [
            "",
            "A",
            &"A".repeat(42),
            &"A".repeat(44),
            &"+".repeat(43),
            &"\0".repeat(43),
        ] {
            assert!(digest_of(text).is_none(), "{text:?}");
        }
    }
}
