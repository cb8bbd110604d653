//! Commands about proving that the address of an account is its owner's.

use std::time::Duration;

use annals_domain::{
    Actor, Caller, ClaimKey, ClaimScope, EmailAddress, Link, LinkPurpose, Personal, Timestamp, User, UserCommand,
    UserId,
};
use annals_eventstore::Position;
use tracing::instrument;

use crate::{CommandContext, CommandError, Commands, UnitOfWork, link};

/// What came of asking for a mail.
#[derive(Debug, Clone)]
pub enum Asked {
    /// A link will be mailed.
    Sent {
        /// When it ends.
        expires_at: Timestamp,
        /// Where it lies in the log.
        position: Position,
    },
    /// There is nothing to prove any more.
    AlreadyVerified,
    /// Enough links were made within the hour.
    TooMany {
        /// When the next one can be.
        retry_after: Duration,
    },
}

/// How far the caller's address is proven.
#[derive(Debug, Clone)]
pub struct VerificationStatus {
    /// The address; absent once erased.
    pub email: Option<EmailAddress>,
    /// When it was proven, if it was.
    pub verified_at: Option<Timestamp>,
    /// Whether it was proven.
    pub is_verified: bool,
    /// When the link that is open now ends; absent when none is.
    pub open_until: Option<Timestamp>,
}

/// Mails the caller a link that proves their own address; the one before it is void.
///
/// # Errors
/// `user.not_found`; [`CommandError::Denied`] when nobody is signed in.
#[instrument(name = "email_verification.send", skip_all)]
pub async fn send(cx: &CommandContext<'_>) -> Result<Asked, CommandError> {
    let user_id = cx.caller.require_user()?;
    issue(cx, user_id).await
}

async fn issue(cx: &CommandContext<'_>, user_id: UserId) -> Result<Asked, CommandError> {
    let mut retry = cx.retry();
    loop {
        let attempt = async {
            let mut unit = UnitOfWork::new(cx);
            let user = unit.load::<User>(user_id).await?;
            let Some(email) = user.state.email.clone() else {
                return Err(CommandError::not_found(ClaimScope::User));
            };
            if user.state.verified {
                return Ok(Asked::AlreadyVerified);
            }
            unit.rely_on(&user);
            let purpose = LinkPurpose::EmailVerification;
            match link::stage_next(&mut unit, purpose, user_id.as_uuid(), email).await? {
                Ok(issued) => Ok(Asked::Sent {
                    expires_at: issued.expires_at,
                    position: unit.commit().await?.position,
                }),
                Err(next_at) => {
                    let micros = next_at.unix_micros().saturating_sub(cx.now().unix_micros());
                    Ok(Asked::TooMany {
                        retry_after: Duration::from_micros(micros.max(0).cast_unsigned()),
                    })
                }
            }
        };
        match attempt.await {
            Ok(asked) => return Ok(asked),
            Err(error) => retry.after(error).await?,
        }
    }
}

/// Mails a link to the account of this address, behind an answer that does not tell whether there is one. Used for
/// whoever cannot sign in yet.
pub(crate) async fn send_to(commands: &Commands, caller: &Caller, email: &EmailAddress) -> Result<(), CommandError> {
    let key = ClaimKey::Personal(email.to_string());
    let Some(user_id) = commands.store().owner_of(ClaimScope::Email, &key).await? else {
        return Ok(());
    };
    issue(&commands.on_behalf_of(caller), UserId::new(user_id)).await?;
    Ok(())
}

/// An address that was proven.
#[derive(Debug, Clone)]
pub struct Verified {
    /// Whose.
    pub user_id: UserId,
    /// The user, as it is now.
    pub user: User,
    /// Where the proof lies in the log.
    pub position: Position,
}

/// Notes that the address is proven, by the token of a mailed link. Anybody may ask: the token is the proof, and it is
/// used up.
///
/// # Errors
/// `link.invalid`, `link.expired`, `link.already_used`.
#[instrument(name = "email_verification.verify", skip_all)]
pub async fn verify(cx: &CommandContext<'_>, token: &str) -> Result<Verified, CommandError> {
    let mut retry = cx.retry();
    loop {
        let opened = link::open(cx, LinkPurpose::EmailVerification, token).await?;
        let user_id = UserId::new(opened.subject);
        let attempt = async {
            let mut unit = UnitOfWork::new(cx);
            unit.act_as(Actor::User(user_id));
            let mailed_to = opened.link.state.email.clone();
            opened.stage_use(&mut unit)?;
            let user = unit.load::<User>(user_id).await?;
            // A link proves the address that it was mailed to, and no other.
            if user.state.disabled || user.state.email.is_none() || user.state.email != mailed_to {
                return Err(CommandError::rule(
                    link::INVALID,
                    Some("token"),
                    "the link is not valid",
                ));
            }
            let at = unit.now();
            let before = user.version;
            let user = unit.stage(user, [UserCommand::VerifyEmail { at }])?;
            if user.version == before {
                unit.rely_on(&user);
            }
            let position = unit.commit().await?.position;
            Ok(Verified {
                user_id,
                user: user.state,
                position,
            })
        };
        match attempt.await {
            Ok(verified) => return Ok(verified),
            Err(error) => retry.after(error).await?,
        }
    }
}

/// When the link that a token opens ends. Nothing is used up: scanners of mails follow links too. Anybody may ask.
///
/// # Errors
/// `link.invalid`, `link.expired`, `link.already_used`.
#[instrument(name = "email_verification.look", skip_all)]
pub async fn look(cx: &CommandContext<'_>, token: &str) -> Result<Option<Timestamp>, CommandError> {
    let opened = link::open(cx, LinkPurpose::EmailVerification, token).await?;
    Ok(opened.link.state.expires_at)
}

/// How far the caller's own address is proven, by the log itself.
///
/// # Errors
/// [`CommandError::Denied`] when nobody is signed in.
#[instrument(name = "email_verification.status", skip_all)]
pub async fn status(cx: &CommandContext<'_>) -> Result<VerificationStatus, CommandError> {
    let user_id = cx.caller.require_user()?;
    let unit = UnitOfWork::new(cx);
    let id = link::id_of(LinkPurpose::EmailVerification, user_id.as_uuid());
    let (user, link) = tokio::try_join!(unit.load::<User>(user_id), unit.load::<Link>(id))?;
    let open = link.state.is_open(cx.now());
    Ok(VerificationStatus {
        email: user.state.email.as_ref().and_then(Personal::get).cloned(),
        verified_at: user.state.verified_at,
        is_verified: user.state.verified,
        open_until: link.state.expires_at.filter(|_| open),
    })
}

/// Whether a user's address is proven, by the log itself.
///
/// # Errors
/// [`CommandError::Unavailable`].
pub async fn is_verified(commands: &Commands, user_id: UserId) -> Result<bool, CommandError> {
    let held = commands
        .store()
        .owner_of(ClaimScope::VerifiedUser, &ClaimKey::id(user_id))
        .await?;
    Ok(held.is_some())
}
