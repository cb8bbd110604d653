//! Commands about forgotten passwords: asking for a mailed link, setting a new password by it.

use annals_domain::{
    Actor, Auth, AuthCommand, Caller, ClaimKey, ClaimScope, EmailAddress, LinkPurpose, PasswordHash, Personal,
    RevocationReason, User, UserId,
};
use secrecy::{ExposeSecret, SecretString};
use tracing::instrument;

use crate::auth::{PasswordChanged, in_field, revoke_older};
use crate::executor::Reference;
use crate::services::password::normalise;
use crate::session::stage_revocations;
use crate::settings::PasswordPolicy;
use crate::{CommandContext, CommandError, Commands, UnitOfWork, link};

/// Asks for a link by which the password of the account with this address is reset. Anybody may ask.
///
/// Nothing is looked up before this returns: the answer and its time are the same whether or not there is such an
/// account, whether it may sign in, and whether enough links were made for it within the hour.
///
/// # Errors
/// [`CommandError::Overloaded`] when too much work waits behind answers.
#[instrument(name = "password_reset.request", skip_all)]
pub fn request(cx: &CommandContext<'_>, email: EmailAddress) -> Result<(), CommandError> {
    cx.commands.afterwards().spawn(
        "password_reset.request",
        cx.commands,
        cx.caller,
        move |commands, caller| async move { issue(&commands, &caller, &email).await },
    )
}

async fn issue(commands: &Commands, caller: &Caller, email: &EmailAddress) -> Result<(), CommandError> {
    let cx = commands.on_behalf_of(caller);
    let key = ClaimKey::Personal(email.to_string());
    let Some(user_id) = commands.store().owner_of(ClaimScope::Email, &key).await? else {
        return Ok(());
    };
    let mut retry = cx.retry();
    loop {
        let attempt = async {
            let mut unit = UnitOfWork::new(&cx);
            let user = unit.load::<User>(UserId::new(user_id)).await?;
            // Mail goes to the address that is stored, never to what was typed.
            let Some(email) = user.state.email.clone().filter(|_| !user.state.disabled) else {
                return Ok(());
            };
            unit.rely_on(&user);
            match link::stage_next(&mut unit, LinkPurpose::PasswordReset, user_id, email).await? {
                Ok(_) => unit.commit().await.map(drop),
                Err(_) => {
                    tracing::debug!(user.id = %user_id, "no link is made: enough were within the hour");
                    Ok(())
                }
            }
        };
        match attempt.await {
            Ok(()) => return Ok(()),
            Err(error) => retry.after(error).await?,
        }
    }
}

/// Sets a new password by the token of a mailed link, and ends all sessions of the account in the same commit. Nobody
/// is signed in by it. Anybody may ask: the token is the proof, and it is used up.
///
/// # Errors
/// `link.invalid`, `link.expired`, `link.already_used`; `password.*` of member `new_password`;
/// [`CommandError::Overloaded`] when too many passwords wait to be hashed.
#[instrument(name = "password_reset.redeem", skip_all)]
pub async fn redeem(
    cx: &CommandContext<'_>,
    token: &str,
    new: &SecretString,
    policy: PasswordPolicy,
) -> Result<PasswordChanged, CommandError> {
    const NEW: &str = "new_password";
    let wanted = normalise(new.expose_secret()).map_err(|error| in_field(error.into(), NEW))?;
    policy.check(&wanted, NEW)?;
    let mut hash: Option<PasswordHash> = None;
    let mut retry = cx.retry();
    loop {
        let opened = link::open(cx, LinkPurpose::PasswordReset, token).await?;
        let user_id = UserId::new(opened.subject);
        let hash = match &hash {
            Some(hash) => hash.clone(),
            None => {
                let made = cx.commands.passwords().hash(new).await;
                let made = made.map_err(|error| in_field(error.into(), NEW))?;
                hash.insert(made).clone()
            }
        };
        let attempt = async {
            let mut unit = UnitOfWork::new(cx);
            unit.act_as(Actor::User(user_id));
            opened.stage_use(&mut unit)?;
            let auth = unit.load::<Auth>(user_id).await?;
            let (hash, at) = (Personal::new(user_id, hash), unit.now());
            let command = if auth.state.password.is_some() {
                AuthCommand::ChangePassword { hash, at }
            } else {
                AuthCommand::SetPassword { hash, at }
            };
            unit.stage(auth, [command])?;
            unit.require([Reference {
                scope: ClaimScope::User,
                key: ClaimKey::id(user_id),
                field: None,
            }]);
            let revoked = stage_revocations(&mut unit, user_id, None, RevocationReason::PasswordChanged).await?;
            Ok((revoked, unit.commit().await?.position))
        };
        match attempt.await {
            Ok((revoked, position)) => {
                let late = revoke_older(cx, user_id, None, position, RevocationReason::PasswordChanged).await;
                return Ok(PasswordChanged {
                    sessions_revoked: revoked + late,
                    position,
                });
            }
            // Disabled meanwhile: the link has died with it.
            Err(CommandError::Missing {
                scope: ClaimScope::User,
                ..
            }) => {
                return Err(CommandError::rule(
                    link::INVALID,
                    Some("token"),
                    "the link is not valid",
                ));
            }
            Err(error) => retry.after(error).await?,
        }
    }
}
