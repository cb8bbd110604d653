//! Commands about sessions: continuing them, ending one, ending all of a user's.
//!
//! A session is opened by [`crate::auth::sign_in`] or [`crate::user::register`]. It lives as long as the log holds
//! its claim; ending it takes effect with the commit, on every process.

pub(crate) mod limit;
mod sweep;

use std::fmt;

use annals_domain::claims::session_key;
use annals_domain::registry::DomainError;
use annals_domain::{
    Actor, Caller, ClaimKey, ClaimScope, Permission, Personal, RevocationReason, Session, SessionCommand, SessionError,
    SessionId, SessionStatus, Timestamp, TokenDigest, User, UserId,
};
use annals_eventstore::Position;
use tracing::instrument;
use uuid::Uuid;

pub use sweep::expire_past;

use crate::executor::{Reference, Staged};
use crate::services::token::{Identity, OpaqueToken, TokenFault};
use crate::settings::{Lifetimes, RefreshKind, SignInOptions};
use crate::{CommandContext, CommandError, Committed, UnitOfWork, organization, services};

/// Sessions that end in one commit at most.
const SESSIONS_OF_A_COMMIT: usize = 1000;

/// In whose name a session is ended of which a used token was shown.
const GUARD: &str = "session_guard";

/// The tokens of one session, for its one client. `Debug` shows none.
#[derive(Clone, PartialEq, Eq)]
pub struct IssuedTokens {
    /// A signed token that names the session.
    pub access_token: String,
    /// When the access token ends.
    pub access_expires_at: Timestamp,
    /// What continues the session, opaque or signed; absent when nothing does, or when the one shown stays valid.
    pub refresh_token: Option<String>,
    /// When the session ends unless continued.
    pub session_expires_at: Timestamp,
}

impl fmt::Debug for IssuedTokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IssuedTokens")
            .field("access_expires_at", &self.access_expires_at)
            .field("session_expires_at", &self.session_expires_at)
            .finish_non_exhaustive()
    }
}

/// A session that was continued.
#[derive(Debug, Clone)]
pub struct Refreshed {
    /// Whose session it is.
    pub user_id: UserId,
    /// The user, as it is now.
    pub user: User,
    /// Which session.
    pub session_id: SessionId,
    /// The new tokens.
    pub tokens: IssuedTokens,
    /// Where the renewal lies in the log.
    pub position: Position,
}

/// Sessions that were ended together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Revoked {
    /// How many could still be used until now.
    pub sessions: u64,
    /// Where the end lies in the log; its head when there was none to end.
    pub position: Position,
}

/// Continues a session by its opaque refresh token, which is exchanged for its successor. Of several uses at once, one
/// renews the session; all get the same successor, and so does who shows the token again within the grace, as long as
/// the successor was not used itself. A token that was exchanged before that ends the session: one of two holders has
/// stolen it.
///
/// Anybody may ask: the token is the proof.
///
/// # Errors
/// [`CommandError::Token`]: `Malformed` or `Invalid` for a token that is not, or no longer, one of a live session of an
/// enabled user; `Expired` when the session is past its time, which is then recorded.
/// `session.refresh_limit` when it was continued too often.
#[instrument(name = "session.refresh", skip_all)]
pub async fn refresh(cx: &CommandContext<'_>, token: &str) -> Result<Refreshed, CommandError> {
    let presented = OpaqueToken::digest_of(token).ok_or(TokenFault::Malformed)?;
    let mut retry = cx.retry();
    loop {
        match refresh_once(cx, token, presented).await {
            Ok(refreshed) => return Ok(refreshed),
            Err(error) => retry.after(error).await?,
        }
    }
}

async fn refresh_once(cx: &CommandContext<'_>, token: &str, presented: TokenDigest) -> Result<Refreshed, CommandError> {
    let (session_id, generation) = match services::refresh::read(cx.store().vault(), token) {
        Some((session_id, generation)) => (session_id, Some(generation)),
        // Tokens of sessions that began before tokens named them.
        None => {
            let key = ClaimKey::Public(presented.as_bytes().to_vec());
            let owner = cx.store().owner_of(ClaimScope::RefreshToken, &key).await?;
            (SessionId::new(owner.ok_or(TokenFault::Invalid)?), None)
        }
    };
    let lifetimes = cx.commands.settings().opaque_sessions;
    let renewal = Renewal {
        session_id,
        user_id: None,
        presented: Some(presented),
        generation,
        expires_at: Some(cx.now().plus_seconds(lifetimes.refresh_seconds.into())),
        lifetimes,
    };
    renew(cx, &renewal).await
}

/// Continues a session by its signed refresh token, which stays valid until the session ends.
///
/// Anybody may ask: the token is the proof.
///
/// # Errors
/// [`CommandError::Token`]: what is wrong with the token; `Invalid` also when its session has been ended, `Expired`
/// when the session is past its time. `session.refresh_limit` when it was continued too often.
#[instrument(name = "session.refresh_signed", skip_all)]
pub async fn refresh_signed(cx: &CommandContext<'_>, token: &str) -> Result<Refreshed, CommandError> {
    let shown = cx.commands.tokens().verify_refresh(token, cx.now())?;
    let renewal = Renewal {
        session_id: shown.session_id,
        user_id: Some(shown.user_id),
        presented: None,
        generation: None,
        expires_at: None,
        lifetimes: cx.commands.settings().signed_sessions,
    };
    let mut retry = cx.retry();
    loop {
        match renew(cx, &renewal).await {
            Ok(refreshed) => return Ok(refreshed),
            Err(error) => retry.after(error).await?,
        }
    }
}

struct Renewal {
    session_id: SessionId,
    /// Whom the token names, if it names somebody.
    user_id: Option<UserId>,
    /// The digest of an opaque token.
    presented: Option<TokenDigest>,
    generation: Option<u32>,
    /// The session's new end; absent when it stays.
    expires_at: Option<Timestamp>,
    lifetimes: Lifetimes,
}

async fn renew(cx: &CommandContext<'_>, renewal: &Renewal) -> Result<Refreshed, CommandError> {
    let now = cx.now();
    let mut unit = UnitOfWork::new(cx);
    let read = unit.load::<Session>(renewal.session_id).await?;
    let (Some(user_id), Some(ends)) = (read.state.user_id, read.state.expires_at) else {
        return Err(TokenFault::Invalid.into());
    };
    if renewal.user_id.is_some_and(|named| named != user_id) {
        return Err(TokenFault::Invalid.into());
    }
    let user = unit.load::<User>(user_id).await?.state;
    let successor = |generation| services::refresh::token_of(cx.store().vault(), renewal.session_id, generation);
    let next = renewal
        .presented
        .map(|_| successor(read.state.refresh_count.saturating_add(1)).digest());
    let command = SessionCommand::Refresh {
        presented: renewal.presented,
        generation: renewal.generation,
        grace_seconds: cx.commands.settings().refresh_grace_seconds,
        next,
        expires_at: renewal.expires_at.unwrap_or(ends),
        address: address_of(cx.caller, user_id),
        at: now,
    };
    unit.act_as(Actor::User(user_id));
    let staged = unit.stage(read, [command]).map_err(refused)?;
    let ended = match staged.state.status {
        Some(SessionStatus::Expired) => Some(TokenFault::Expired),
        Some(SessionStatus::Revoked) => {
            tracing::warn!(session.id = %renewal.session_id, user.id = %user_id, "a used refresh token was shown again");
            unit.act_as(Actor::System(GUARD.to_owned()));
            Some(TokenFault::Invalid)
        }
        _ => None,
    };
    if ended.is_none() {
        // Where nothing is written, the commit demands nothing.
        if user.disabled {
            return Err(TokenFault::Invalid.into());
        }
        unit.require([Reference {
            scope: ClaimScope::User,
            key: ClaimKey::id(user_id),
            field: None,
        }]);
    }
    // Before the commit: once the token shown is void, nothing may keep its bearer from the next one.
    let expires_at = staged.state.expires_at.unwrap_or(ends);
    let tokens = if ended.is_some() {
        None
    } else {
        let identity = identify(cx, user_id, &user, renewal.session_id).await?;
        let mut tokens = access_only(cx, &identity, renewal.lifetimes, now, expires_at)?;
        let current = renewal.presented.map(|_| successor(staged.state.refresh_count));
        tokens.refresh_token = current.map(|token| token.as_str().to_owned());
        Some(tokens)
    };
    let commit = match unit.commit().await {
        // The user was disabled: to the bearer of the token that is the end of the session.
        Err(CommandError::Missing {
            scope: ClaimScope::User,
            ..
        }) => return Err(TokenFault::Invalid.into()),
        other => other?,
    };
    let tokens = tokens.ok_or(ended.unwrap_or(TokenFault::Invalid))?;
    Ok(Refreshed {
        user_id,
        user,
        session_id: renewal.session_id,
        tokens,
        position: commit.position,
    })
}

/// What the bearer of a refresh token is told of the session's refusal.
fn refused(error: CommandError) -> CommandError {
    let ended = [
        SessionError::NotLive,
        SessionError::RefreshTokenUnknown,
        SessionError::NotFound,
    ];
    if ended.iter().any(|known| known.code() == error.code()) {
        TokenFault::Invalid.into()
    } else {
        error
    }
}

/// Ends one session of the caller's own; `reason` says whether it is the one the caller signs out of.
///
/// # Errors
/// `session.not_found` when it is unknown, has ended, or is somebody else's: nobody learns which.
#[instrument(name = "session.revoke", skip_all, fields(session.id = %id))]
pub async fn revoke(
    cx: &CommandContext<'_>,
    id: SessionId,
    reason: RevocationReason,
) -> Result<Committed<Session>, CommandError> {
    let user_id = cx.caller.require_user()?;
    let held = cx
        .store()
        .owner_of(ClaimScope::Session, &session_key(user_id, id))
        .await?;
    if held.is_none() {
        return Err(CommandError::not_found(ClaimScope::Session));
    }
    let command = SessionCommand::Revoke { reason, at: cx.now() };
    let done = cx.execute::<Session>(id, command, None, Vec::new()).await;
    match done {
        // Somebody else ended it in between.
        Err(error) if error.code() == SessionError::NotLive.code() => Err(CommandError::not_found(ClaimScope::Session)),
        other => other,
    }
}

/// Ends every session of a user, in one commit; their own as themselves, anybody's with the right to manage users.
///
/// # Errors
/// [`CommandError::Denied`].
#[instrument(name = "session.revoke_all", skip_all, fields(user.id = %user_id))]
pub async fn revoke_all(
    cx: &CommandContext<'_>,
    user_id: UserId,
    reason: RevocationReason,
) -> Result<Revoked, CommandError> {
    if cx.caller.require_user() != Ok(user_id) {
        cx.caller.require(Permission::UserManage)?;
    }
    let mut retry = cx.retry();
    loop {
        let attempt = async {
            let mut unit = UnitOfWork::new(cx);
            let sessions = stage_revocations(&mut unit, user_id, None, reason).await?;
            Ok(Revoked {
                sessions,
                position: unit.commit().await?.position,
            })
        };
        match attempt.await {
            Ok(revoked) => return Ok(revoked),
            Err(error) => retry.after(error).await?,
        }
    }
}

/// Records that a session is past its time. For the program itself.
///
/// # Errors
/// `session.not_found`, `session.not_expired`; [`CommandError::Denied`].
#[instrument(name = "session.expire", skip_all, fields(session.id = %id))]
pub async fn expire(cx: &CommandContext<'_>, id: SessionId) -> Result<Committed<Session>, CommandError> {
    cx.caller.require(Permission::UserManage)?;
    cx.execute::<Session>(id, SessionCommand::Expire { at: cx.now() }, None, Vec::new())
        .await
}

/// A session about to be opened: what is written of it, and what its client gets.
pub(crate) struct Opening {
    pub(crate) session_id: SessionId,
    pub(crate) command: SessionCommand,
    options: SignInOptions,
    opaque: Option<OpaqueToken>,
    starts_at: Timestamp,
    ends_at: Timestamp,
}

impl Opening {
    pub(crate) fn prepare(
        cx: &CommandContext<'_>,
        user_id: UserId,
        options: SignInOptions,
    ) -> Result<Self, CommandError> {
        let starts_at = cx.now();
        let ends_at = starts_at.plus_seconds(options.lifetimes.refresh_seconds.into());
        let session_id = SessionId::new(Uuid::now_v7());
        let opaque = match options.refresh {
            RefreshKind::Opaque => Some(services::refresh::token_of(cx.store().vault(), session_id, 0)),
            RefreshKind::Signed | RefreshKind::None => None,
        };
        let command = SessionCommand::Start {
            user_id,
            refresh_digest: opaque.as_ref().map(OpaqueToken::digest),
            device: Personal::new(user_id, cx.caller.device.clone().capped()),
            address: address_of(cx.caller, user_id),
            expires_at: ends_at,
            at: starts_at,
        };
        Ok(Self {
            session_id,
            command,
            options,
            opaque,
            starts_at,
            ends_at,
        })
    }

    /// The tokens, good for something once the session is written.
    pub(crate) fn tokens(&self, cx: &CommandContext<'_>, identity: &Identity) -> Result<IssuedTokens, CommandError> {
        let mut tokens = access_only(cx, identity, self.options.lifetimes, self.starts_at, self.ends_at)?;
        tokens.refresh_token = match self.options.refresh {
            RefreshKind::Opaque => self.opaque.as_ref().map(|token| token.as_str().to_owned()),
            RefreshKind::Signed => Some(cx.commands.tokens().sign_refresh(
                identity.user_id,
                identity.session_id,
                self.starts_at,
                self.ends_at,
            )?),
            RefreshKind::None => None,
        };
        Ok(tokens)
    }
}

fn access_only(
    cx: &CommandContext<'_>,
    identity: &Identity,
    lifetimes: Lifetimes,
    now: Timestamp,
    session_expires_at: Timestamp,
) -> Result<IssuedTokens, CommandError> {
    let access_expires_at = now
        .plus_seconds(lifetimes.access_seconds.into())
        .min(session_expires_at);
    let access_token = cx.commands.tokens().sign_access(identity, now, access_expires_at)?;
    Ok(IssuedTokens {
        access_token,
        access_expires_at,
        refresh_token: None,
        session_expires_at,
    })
}

/// What an access token of this session says.
pub(crate) async fn identify(
    cx: &CommandContext<'_>,
    user_id: UserId,
    user: &User,
    session_id: SessionId,
) -> Result<Identity, CommandError> {
    let organization_id = organization::founded_by(user_id);
    let founded = cx
        .store()
        .owner_of(ClaimScope::Organization, &ClaimKey::id(organization_id))
        .await?;
    let email = user.email.as_ref().and_then(Personal::get).map(ToString::to_string);
    let role = user
        .role
        .ok_or_else(|| CommandError::Internal(format!("user {user_id} has no role")))?;
    Ok(Identity {
        user_id,
        session_id,
        email,
        organization_id: founded.map(|_| organization_id),
        role,
    })
}

pub(crate) fn address_of(caller: &Caller, user_id: UserId) -> Option<Personal<String>> {
    caller
        .address
        .map(|address| Personal::new(user_id, address.to_string()))
}

/// Stages the end of a user's sessions, as the log lists them now; the commit conflicts when one of them moves. When
/// they are too many for one commit, the first of them end in commits of their own. Returns how many sessions could
/// still be used.
pub(crate) async fn stage_revocations(
    unit: &mut UnitOfWork<'_>,
    user_id: UserId,
    except: Option<SessionId>,
    reason: RevocationReason,
) -> Result<u64, CommandError> {
    let cx = unit.context();
    let mut count = 0;
    loop {
        let mut sessions = live_sessions(cx, user_id).await?;
        sessions.retain(|session_id| except != Some(*session_id));
        if sessions.len() <= SESSIONS_OF_A_COMMIT {
            return Ok(count + stage_each(unit, &sessions, reason).await?);
        }
        let mut first = UnitOfWork::beforehand(cx);
        count += stage_each(&mut first, &sessions[..SESSIONS_OF_A_COMMIT], reason).await?;
        first.commit().await?;
    }
}

async fn stage_each(
    unit: &mut UnitOfWork<'_>,
    sessions: &[SessionId],
    reason: RevocationReason,
) -> Result<u64, CommandError> {
    let at = unit.now();
    let mut count = 0;
    for session_id in sessions {
        let read: Staged<Session> = unit.load(*session_id).await?;
        if read.state.is_live(at) {
            unit.stage(read, [SessionCommand::Revoke { reason, at }])?;
            count += 1;
        } else if read.state.status == Some(SessionStatus::Live) {
            unit.stage(read, [SessionCommand::Expire { at }])?;
        }
    }
    Ok(count)
}

/// The sessions of a user that have not ended, as the log lists them.
pub(crate) async fn live_sessions(cx: &CommandContext<'_>, user_id: UserId) -> Result<Vec<SessionId>, CommandError> {
    let held = cx
        .store()
        .claims_with_prefix(ClaimScope::Session, user_id.as_uuid().as_bytes())
        .await?;
    Ok(held.into_iter().map(|(_, stream)| SessionId::new(stream)).collect())
}
