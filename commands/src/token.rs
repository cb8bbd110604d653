//! Commands about tokens as such: what one is good for, and ending what it stands for.

use annals_domain::{
    Actor, Permission, Personal, RevocationReason, Role, Session, SessionCommand, SessionId, Timestamp, User, UserId,
};
use annals_eventstore::Position;
use tracing::instrument;

use crate::executor::Staged;
use crate::services::refresh;
use crate::services::token::{OpaqueToken, TokenFault};
use crate::{CommandContext, CommandError, UnitOfWork};

/// What a token is shown for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenUse {
    /// As the bearer of requests.
    Access,
    /// To continue a session.
    Refresh,
}

/// A token that would be accepted where its kind is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LiveToken {
    /// Its kind.
    pub token_use: TokenUse,
    /// Who shows it.
    pub user_id: UserId,
    /// Of which session.
    pub session_id: SessionId,
    /// The name to sign in with; absent once erased.
    pub username: Option<String>,
    /// What its user may do now, whatever the token says.
    pub role: Role,
    /// When its time is over.
    pub expires_at: Timestamp,
}

/// Whose a token is, whether or not it still works.
struct Named {
    token_use: TokenUse,
    user_id: Option<UserId>,
    session_id: SessionId,
    /// Absent for an opaque token, which ends with its session.
    expires_at: Option<Timestamp>,
}

fn named(cx: &CommandContext<'_>, token: &str) -> Option<Named> {
    let now = cx.now();
    if let Some((session_id, _)) = refresh::read(cx.store().vault(), token) {
        return Some(Named {
            token_use: TokenUse::Refresh,
            user_id: None,
            session_id,
            expires_at: None,
        });
    }
    match cx.commands.tokens().verify_access(token, now) {
        Ok(access) => Some(Named {
            token_use: TokenUse::Access,
            user_id: Some(access.identity.user_id),
            session_id: access.identity.session_id,
            expires_at: Some(access.expires_at),
        }),
        Err(TokenFault::WrongType) => {
            let signed = cx.commands.tokens().verify_refresh(token, now).ok()?;
            Some(Named {
                token_use: TokenUse::Refresh,
                user_id: Some(signed.user_id),
                session_id: signed.session_id,
                expires_at: Some(signed.expires_at),
            })
        }
        Err(_) => None,
    }
}

/// What a token of either kind is good for now, asked of the log (RFC 7662). Absent when it is good for nothing, and
/// when it is somebody else's and the caller may not see other people's accounts: nobody learns which.
///
/// # Errors
/// [`CommandError::Denied`] when nobody is signed in; [`CommandError::Unavailable`].
#[instrument(name = "token.introspect", skip_all)]
pub async fn introspect(cx: &CommandContext<'_>, token: &str) -> Result<Option<LiveToken>, CommandError> {
    let asking = cx.caller.user_id();
    if asking.is_none() {
        cx.caller.require(Permission::UserRead)?;
    }
    let Some(named) = named(cx, token) else {
        return Ok(None);
    };
    let unit = UnitOfWork::new(cx);
    let session: Staged<Session> = unit.load(named.session_id).await?;
    let (Some(user_id), Some(ends)) = (session.state.user_id, session.state.expires_at) else {
        return Ok(None);
    };
    let is_current = named.expires_at.is_some()
        || OpaqueToken::digest_of(token).is_some_and(|digest| session.state.refresh_digest == Some(digest));
    if !session.state.is_live(cx.now()) || !is_current || named.user_id.is_some_and(|user| user != user_id) {
        return Ok(None);
    }
    if asking != Some(user_id) && !cx.caller.can(Permission::UserRead) {
        return Ok(None);
    }
    let user: Staged<User> = unit.load(user_id).await?;
    let Some(role) = user.state.role.filter(|_| !user.state.disabled) else {
        return Ok(None);
    };
    Ok(Some(LiveToken {
        token_use: named.token_use,
        user_id,
        session_id: named.session_id,
        username: user
            .state
            .username
            .as_ref()
            .and_then(Personal::get)
            .map(ToString::to_string),
        role,
        expires_at: named.expires_at.unwrap_or(ends).min(ends),
    }))
}

/// Ends the session that a token of either kind belongs to, with all of its tokens, in every process (RFC 7009). Anybody
/// may ask: who holds the token could use it. Absent when there was nothing to end, which is as good.
///
/// # Errors
/// What the commit reports.
#[instrument(name = "token.revoke", skip_all)]
pub async fn revoke(cx: &CommandContext<'_>, token: &str) -> Result<Option<Position>, CommandError> {
    let Some(named) = named(cx, token) else {
        return Ok(None);
    };
    let mut retry = cx.retry();
    loop {
        let attempt = async {
            let mut unit = UnitOfWork::new(cx);
            let session: Staged<Session> = unit.load(named.session_id).await?;
            let at = cx.now();
            let Some(user_id) = session.state.user_id.filter(|_| session.state.is_live(at)) else {
                return Ok(None);
            };
            unit.act_as(Actor::User(user_id));
            let reason = RevocationReason::UserRevoke;
            unit.stage(session, [SessionCommand::Revoke { reason, at }])?;
            Ok(Some(unit.commit().await?.position))
        };
        match attempt.await {
            Ok(position) => return Ok(position),
            Err(error) => retry.after(error).await?,
        }
    }
}
