//! Commands about credentials: signing in, proving a token, changing a password.
//!
//! Signing in answers strangers, so its cost must not tell what it found: whatever the identifier, its claims are
//! looked up, three streams are read and exactly one hash is computed, and a failure is recorded behind the answer. What
//! differs is small beside a hash: the streams of somebody unknown are empty, and the personal key of a known user is
//! fetched when this process has not had it for a minute. Users are found by claims, which are as old as the last
//! commit, never by a read model that may lag.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use annals_domain::{
    Actor, Auth, AuthCommand, Caller, ClaimKey, ClaimScope, Device, EmailAddress, LinkPurpose, Mfa, OrganizationId,
    PasswordHash, Personal, RevocationReason, Role, Session, SessionCommand, SessionId, Timestamp, User, UserId,
    Username,
};
use annals_eventstore::{Position, StreamId};
use cqrs_es::Aggregate;
use moka::sync::Cache;
use secrecy::{ExposeSecret, SecretString};
use subtle::ConstantTimeEq;
use tokio::sync::Semaphore;
use tokio_util::task::TaskTracker;
use tracing::instrument;
use uuid::Uuid;

use crate::executor::{Reference, Staged};
use crate::mfa::{self, Guess, SecondFactorWanted};
use crate::services::password::{PasswordError, normalise};
use crate::services::token::TokenFault;
use crate::session::limit;
use crate::session::{IssuedTokens, Opening, address_of, identify, live_sessions, stage_revocations};
use crate::settings::{PasswordPolicy, SignInOptions};
use crate::{CommandContext, CommandError, Commands, UnitOfWork, link};

/// The code of every refused sign-in, whatever the reason was.
pub const INVALID_CREDENTIALS: &str = "auth.invalid_credentials";
/// The code of a sign-in with the right password for a user who may not sign in.
pub const USER_DISABLED: &str = "user.disabled";
/// The code of a password change with a wrong present password.
pub const CURRENT_PASSWORD_INCORRECT: &str = "auth.current_password_incorrect";
/// The code of a password change to the present password.
pub const PASSWORD_UNCHANGED: &str = "password.unchanged";

/// Failures that may be waiting to be recorded; more are not, for the database is in trouble then.
const PENDING_FAILURES: usize = 256;
/// Wrong passwords recorded of one user since their password was set; more are refused all the same, but not written,
/// for every sign-in reads them all.
pub const MOST_FAILURES_RECORDED: u32 = 100;
/// Users whose recent failures are counted.
const COUNTED_USERS: u64 = 10_000;

/// What somebody signs in with, as they typed it.
#[derive(Debug, Clone, Copy)]
pub enum Credential<'a> {
    /// A mail address.
    Email(&'a str),
    /// A mail address or a username; the two cannot be confused, for no username has an `@`.
    EmailOrUsername(&'a str),
}

impl Credential<'_> {
    /// The claims that could belong to it. Never none, so that nonsense costs the same look-up.
    fn keys(self) -> Vec<(ClaimScope, ClaimKey)> {
        let (text, by_name) = match self {
            Self::Email(text) => (text, false),
            Self::EmailOrUsername(text) => (text, true),
        };
        // No address and no name can be the zero character.
        let nobody = || "\0".to_owned();
        let email = EmailAddress::parse(text).map_or_else(|_| nobody(), |email| email.to_string());
        let mut keys = vec![(ClaimScope::Email, ClaimKey::Personal(email))];
        if by_name {
            let name = Username::parse(text).map_or_else(|_| nobody(), |name| name.key());
            keys.push((ClaimScope::Username, ClaimKey::Personal(name)));
        }
        keys
    }
}

/// A user who has signed in.
#[derive(Debug, Clone)]
pub struct SignedIn {
    /// Who.
    pub user_id: UserId,
    /// The user, as it is now.
    pub user: User,
    /// The new session.
    pub session_id: SessionId,
    /// What its client keeps.
    pub tokens: IssuedTokens,
    /// The organization they founded at registration, if they did.
    pub organization_id: Option<OrganizationId>,
    /// Where the start of the session lies in the log.
    pub position: Position,
}

/// What a right password leads to.
#[derive(Debug)]
pub enum SignIn {
    /// A session.
    Opened(Box<SignedIn>),
    /// A second factor is asked for; there is no session yet.
    SecondFactor(SecondFactorWanted),
}

/// Opens a session for whoever knows the password and is asked for nothing else. Anybody may ask.
///
/// # Errors
/// As [`sign_in_in_parts`]; `mfa.required` where a second factor is asked for.
pub async fn sign_in(
    cx: &CommandContext<'_>,
    credential: Credential<'_>,
    password: &SecretString,
    options: SignInOptions,
) -> Result<SignedIn, CommandError> {
    match sign_in_in_parts(cx, credential, password, None, options).await? {
        SignIn::Opened(signed_in) => Ok(*signed_in),
        SignIn::SecondFactor(_) => Err(CommandError::rule(mfa::REQUIRED, None, "MFA verification required")),
    }
}

/// Opens a session for whoever knows the password and shows a code of the second factor, if there is one. Without the
/// code, the right password gets a token to go on with, and nothing is written. Anybody may ask.
///
/// # Errors
/// `auth.invalid_credentials`, the same for every reason that a stranger could use; only after the right password:
/// `user.disabled`, `mfa.code_invalid`, [`CommandError::TooManyAttempts`]; [`CommandError::Overloaded`] when too many
/// passwords wait to be hashed.
#[instrument(name = "auth.sign_in", skip_all)]
pub async fn sign_in_in_parts(
    cx: &CommandContext<'_>,
    credential: Credential<'_>,
    password: &SecretString,
    code: Option<&str>,
    options: SignInOptions,
) -> Result<SignIn, CommandError> {
    let owners = cx.store().owners_of(&credential.keys()).await?;
    let found = owners.into_iter().flatten().next();
    // A stranger's streams are read too, and are empty.
    let user_id = UserId::new(found.unwrap_or_else(Uuid::now_v7));
    let mut verified: Option<PasswordHash> = None;
    let mut guess = code.map(Guess::new);
    let mut retry = cx.retry();
    loop {
        let mut unit = UnitOfWork::new(cx);
        let (auth, user, mfa) = tokio::try_join!(
            unit.load::<Auth>(user_id),
            unit.load::<User>(user_id),
            unit.load::<Mfa>(user_id)
        )?;
        let stored = auth.state.password.as_ref().and_then(Personal::get);
        // A retry does not hash again, unless the password was changed under our feet.
        if verified.is_none() || verified.as_ref() != stored {
            if !check(cx, password, stored).await? {
                cx.commands.failures().record(cx, &auth, user_id);
                return Err(CommandError::rule(INVALID_CREDENTIALS, None, "Invalid credentials"));
            }
            verified = stored.cloned();
        }
        let attempt = async {
            let opened = open_session(cx, &mut unit, &auth, user, options).await?;
            if !mfa.state.is_enabled() {
                // Set up in between, it must be asked for.
                unit.rely_on(&mfa);
            } else if let Some(guess) = &mut guess {
                let accept = guess.look_at(cx, &mfa, None, Some(opened.session_id)).await?;
                unit.stage(mfa, [accept])?;
            } else if let Some(password) = &verified {
                return Ok(SignIn::SecondFactor(mfa::want_second_factor(cx, user_id, password)?));
            }
            let commit = unit.commit().await.map_err(gone_is_disabled)?;
            limit::evict(cx, user_id, opened.session_id).await;
            Ok(SignIn::Opened(Box::new(opened.at(commit.position))))
        };
        match attempt.await {
            Ok(done) => return Ok(done),
            Err(error) => retry.after(error).await?,
        }
    }
}

/// To whoever knows the password, a user who is gone at the moment of the commit was disabled.
pub(crate) fn gone_is_disabled(error: CommandError) -> CommandError {
    match error {
        CommandError::Missing {
            scope: ClaimScope::User,
            ..
        } => disabled(),
        other => other,
    }
}

/// Whether the password is the stored one; exactly one hash, except for a password so long that no user can have it.
pub(crate) async fn check(
    cx: &CommandContext<'_>,
    password: &SecretString,
    stored: Option<&PasswordHash>,
) -> Result<bool, CommandError> {
    match cx.commands.passwords().verify(password, stored).await {
        Err(PasswordError::TooLong) => Ok(false),
        other => Ok(other?),
    }
}

fn disabled() -> CommandError {
    CommandError::rule(USER_DISABLED, None, "User account is disabled")
}

/// A session that is staged, with everything that its client gets: nothing that can fail is left for after the commit.
pub(crate) struct Opened {
    user_id: UserId,
    user: User,
    pub(crate) session_id: SessionId,
    tokens: IssuedTokens,
    organization_id: Option<OrganizationId>,
}

/// Stages the start of a session. The commit depends on the user being enabled, and on the credentials being those
/// that were checked: a password changed in between is asked for again.
pub(crate) async fn open_session(
    cx: &CommandContext<'_>,
    unit: &mut UnitOfWork<'_>,
    auth: &Staged<Auth>,
    user: Staged<User>,
    options: SignInOptions,
) -> Result<Opened, CommandError> {
    let user_id = user.id;
    if user.state.disabled {
        return Err(disabled());
    }
    let opening = Opening::prepare(cx, user_id, options)?;
    unit.act_as(Actor::User(user_id));
    unit.create::<Session>(opening.session_id, [opening.command.clone()])?;
    unit.require([Reference {
        scope: ClaimScope::User,
        key: ClaimKey::id(user_id),
        field: None,
    }]);
    unit.rely_on(auth);
    let identity = identify(cx, user_id, &user.state, opening.session_id).await?;
    Ok(Opened {
        user_id,
        user: user.state,
        session_id: opening.session_id,
        tokens: opening.tokens(cx, &identity)?,
        organization_id: identity.organization_id,
    })
}

impl Opened {
    pub(crate) fn at(self, position: Position) -> SignedIn {
        SignedIn {
            user_id: self.user_id,
            user: self.user,
            session_id: self.session_id,
            tokens: self.tokens,
            organization_id: self.organization_id,
            position,
        }
    }
}

/// Who a request comes from, proven by its token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Authenticated {
    /// Who.
    pub user_id: UserId,
    /// By which sign-in; it was live when asked.
    pub session_id: SessionId,
    /// Where mail reaches them, as of the token.
    pub email: Option<String>,
    /// What they may do.
    pub role: Role,
    /// The organization they founded at registration, if they did.
    pub organization_id: Option<OrganizationId>,
    /// When the token ends.
    pub expires_at: Timestamp,
}

impl Authenticated {
    /// The caller of a request.
    #[must_use]
    pub fn caller(&self, address: Option<IpAddr>, device: Device, correlation_id: Uuid, causation_id: Uuid) -> Caller {
        Caller {
            actor: Actor::User(self.user_id),
            session_id: Some(self.session_id),
            role: Some(self.role),
            organization_id: self.organization_id,
            address,
            device,
            correlation_id,
            causation_id,
            promise: None,
        }
    }
}

/// Why a request is not authenticated.
#[derive(Debug, Clone, thiserror::Error)]
pub enum AuthFailure {
    /// No token was shown.
    #[error("no token was shown")]
    Missing,
    /// What was shown has not the form of a token.
    #[error("Token is malformed")]
    Malformed,
    /// The token's time is over.
    #[error("Token is expired")]
    Expired,
    /// A refresh token was shown for access.
    #[error("Token has wrong type")]
    WrongType,
    /// Not signed by us as it is, or its session has ended.
    #[error("Token is invalid")]
    Invalid,
    /// The user was disabled, or is no more.
    #[error("User not found for given token")]
    UserGone,
    /// The log could not be asked: nothing is known about the token, and nobody is signed out by that.
    #[error("the token could not be checked")]
    Unchecked(#[source] Box<CommandError>),
}

impl From<TokenFault> for AuthFailure {
    fn from(fault: TokenFault) -> Self {
        match fault {
            TokenFault::Malformed => Self::Malformed,
            TokenFault::Invalid => Self::Invalid,
            TokenFault::Expired => Self::Expired,
            TokenFault::WrongType => Self::WrongType,
        }
    }
}

impl From<CommandError> for AuthFailure {
    fn from(error: CommandError) -> Self {
        match error {
            CommandError::Token(fault) => fault.into(),
            other => Self::Unchecked(Box::new(other)),
        }
    }
}

/// Whom an access token proves, asked of the log: a revoked session ends with the commit that revokes it.
///
/// # Errors
/// [`AuthFailure`].
pub async fn authenticate(commands: &Commands, token: Option<&str>) -> Result<Authenticated, AuthFailure> {
    let token = token.ok_or(AuthFailure::Missing)?;
    let accepted = commands.tokens().verify_access(token, commands.now())?;
    let identity = accepted.identity;
    must_be_live(commands, identity.user_id, identity.session_id).await?;
    Ok(Authenticated {
        user_id: identity.user_id,
        session_id: identity.session_id,
        email: identity.email,
        role: identity.role,
        organization_id: identity.organization_id,
        expires_at: accepted.expires_at,
    })
}

/// Whom and which session an access token names, whether or not the session has ended since; absent unless we signed it
/// and its time is not over. It proves nothing about the present: use it only for what the session did itself.
#[must_use]
pub fn named_by(commands: &Commands, token: &str) -> Option<(UserId, SessionId)> {
    let accepted = commands.tokens().verify_access(token, commands.now()).ok()?;
    Some((accepted.identity.user_id, accepted.identity.session_id))
}

/// Whether a signed token, of either kind, would be accepted where its kind is asked for.
///
/// # Errors
/// [`AuthFailure`].
pub async fn verify(commands: &Commands, token: &str) -> Result<(), AuthFailure> {
    let now = commands.now();
    let (user_id, session_id) = match commands.tokens().verify_access(token, now) {
        Err(TokenFault::WrongType) => {
            let refresh = commands.tokens().verify_refresh(token, now)?;
            (refresh.user_id, refresh.session_id)
        }
        other => {
            let identity = other?.identity;
            (identity.user_id, identity.session_id)
        }
    };
    must_be_live(commands, user_id, session_id).await
}

async fn must_be_live(commands: &Commands, user_id: UserId, session_id: SessionId) -> Result<(), AuthFailure> {
    let store = commands.store();
    let failed = |error| AuthFailure::from(CommandError::from(error));
    if store.session_is_live(user_id, session_id).await.map_err(failed)? {
        return Ok(());
    }
    let user = store
        .owner_of(ClaimScope::User, &ClaimKey::id(user_id))
        .await
        .map_err(failed)?;
    Err(if user.is_some() {
        AuthFailure::Invalid
    } else {
        AuthFailure::UserGone
    })
}

/// A wish for a new password.
#[derive(Debug)]
pub struct ChangePassword {
    /// The present password, as proof.
    pub current: SecretString,
    /// The new one.
    pub new: SecretString,
    /// What the contract demands of it.
    pub policy: PasswordPolicy,
    /// Whether the session of the request goes on; all others end.
    pub keep_current_session: bool,
}

/// A password that was changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PasswordChanged {
    /// How many sessions ended with it.
    pub sessions_revoked: u64,
    /// Where the change lies in the log.
    pub position: Position,
}

/// Changes the caller's own password and ends their sessions in the same commit.
///
/// # Errors
/// `password.*` for what the policy demands, `password.too_long`, `password.unchanged`, all of member `new_password`;
/// `auth.current_password_incorrect` of member `current_password`.
#[instrument(name = "auth.change_password", skip_all)]
pub async fn change_password(cx: &CommandContext<'_>, change: ChangePassword) -> Result<PasswordChanged, CommandError> {
    let user_id = cx.caller.require_user()?;
    const NEW: &str = "new_password";
    let wanted = normalise(change.new.expose_secret()).map_err(|error| in_field(error.into(), NEW))?;
    change.policy.check(&wanted, NEW)?;
    let keep = cx.caller.session_id.filter(|_| change.keep_current_session);
    let mut verified: Option<PasswordHash> = None;
    let mut hash: Option<Personal<PasswordHash>> = None;
    let mut retry = cx.retry();
    loop {
        let mut unit = UnitOfWork::new(cx);
        let auth = unit.load::<Auth>(user_id).await?;
        let stored = auth.state.password.as_ref().and_then(Personal::get).cloned();
        if verified.is_none() || verified != stored {
            if !check(cx, &change.current, stored.as_ref()).await? {
                cx.commands.failures().record(cx, &auth, user_id);
                let message = "The current password you entered is incorrect.";
                return Err(CommandError::rule(
                    CURRENT_PASSWORD_INCORRECT,
                    Some("current_password"),
                    message,
                ));
            }
            verified = stored;
        }
        if change.policy.differs {
            let current = normalise(change.current.expose_secret())?;
            if bool::from(current.as_bytes().ct_eq(wanted.as_bytes())) {
                let message = "The new password cannot be the same as your current password.";
                return Err(CommandError::rule(PASSWORD_UNCHANGED, Some(NEW), message));
            }
        }
        let hash = match &hash {
            Some(hash) => hash.clone(),
            None => {
                let made = cx
                    .commands
                    .passwords()
                    .hash(&change.new)
                    .await
                    .map_err(|error| in_field(error.into(), NEW))?;
                hash.insert(Personal::new(user_id, made)).clone()
            }
        };
        let attempt = async {
            unit.stage(auth, [AuthCommand::ChangePassword { hash, at: cx.now() }])?;
            link::stage_void(&mut unit, LinkPurpose::PasswordReset, user_id.as_uuid()).await?;
            let revoked = stage_revocations(&mut unit, user_id, keep, RevocationReason::PasswordChanged).await?;
            Ok((revoked, unit.commit().await?.position))
        };
        match attempt.await {
            Ok((revoked, position)) => {
                let reason = RevocationReason::PasswordChanged;
                let late = revoke_older(cx, user_id, keep, position, reason).await;
                return Ok(PasswordChanged {
                    sessions_revoked: revoked + late,
                    position,
                });
            }
            Err(error) => retry.after(error).await?,
        }
    }
}

/// Ends sessions that were opened with the old credentials between the listing of the sessions and the commit. Those
/// opened later have proven the new ones, for their start depends on the credentials' version. They are changed already,
/// so that a failure is only logged. Returns how many ended.
pub(crate) async fn revoke_older(
    cx: &CommandContext<'_>,
    user_id: UserId,
    keep: Option<SessionId>,
    changed_at: Position,
    reason: RevocationReason,
) -> u64 {
    let sessions = match live_sessions(cx, user_id).await {
        Ok(sessions) => sessions,
        Err(error) => {
            tracing::error!(user.id = %user_id, %error, "sessions opened with the old credentials may go on");
            return 0;
        }
    };
    let mut late = 0;
    for session_id in sessions {
        if keep == Some(session_id) {
            continue;
        }
        match revoke_if_older(cx, session_id, changed_at, reason).await {
            Ok(true) => late += 1,
            Ok(false) => {}
            Err(error) => {
                tracing::error!(session.id = %session_id, %error, "a session opened with the old credentials may go on");
            }
        }
    }
    late
}

async fn revoke_if_older(
    cx: &CommandContext<'_>,
    session_id: SessionId,
    changed_at: Position,
    reason: RevocationReason,
) -> Result<bool, CommandError> {
    let stream = StreamId::new(Session::TYPE, session_id);
    let started = cx.store().read_stream(&stream, 0, 1).await?;
    if started.first().is_none_or(|record| record.position >= changed_at) {
        return Ok(false);
    }
    let command = SessionCommand::Revoke { reason, at: cx.now() };
    match cx.execute::<Session>(session_id, command, None, Vec::new()).await {
        Ok(_) => Ok(true),
        Err(CommandError::Domain { .. }) => Ok(false), // it has ended by itself
        Err(error) => Err(error),
    }
}

/// The same refusal, of another member of the request.
pub(crate) fn in_field(error: CommandError, name: &'static str) -> CommandError {
    match error {
        CommandError::Domain { code, message, .. } => CommandError::rule(code, Some(name), message),
        other => other,
    }
}

/// Records wrong passwords behind the answer, so that the time of a commit does not tell that the user exists. The
/// rate within a minute is this process's own; what bounds a stream is [`MOST_FAILURES_RECORDED`].
pub(crate) struct FailureRecorder {
    tasks: TaskTracker,
    places: Arc<Semaphore>,
    recent: Cache<UserId, Arc<AtomicU32>>,
    limit: u32,
}

impl FailureRecorder {
    pub(crate) fn new(per_minute: u32) -> Self {
        Self {
            tasks: TaskTracker::new(),
            places: Arc::new(Semaphore::new(PENDING_FAILURES)),
            recent: Cache::builder()
                .max_capacity(COUNTED_USERS)
                .time_to_live(Duration::from_secs(60))
                .build(),
            limit: per_minute,
        }
    }

    /// Notes a wrong password for `user_id`, if there is such a user with a password.
    pub(crate) fn record(&self, cx: &CommandContext<'_>, auth: &Staged<Auth>, user_id: UserId) {
        if auth.state.password.is_none() {
            return;
        }
        if auth.state.failures >= MOST_FAILURES_RECORDED {
            tracing::debug!(user.id = %user_id, "a wrong password is not recorded: enough are");
            return;
        }
        let count = self.recent.get_with(user_id, Arc::default);
        if count.fetch_add(1, Ordering::Relaxed) >= self.limit {
            tracing::debug!(user.id = %user_id, "a wrong password is not recorded: too many within a minute");
            return;
        }
        let Ok(place) = Arc::clone(&self.places).try_acquire_owned() else {
            tracing::warn!(user.id = %user_id, "a wrong password is not recorded: the log does not keep up");
            return;
        };
        // What happens behind the answer is not what the client promised to ask for once: a repeated guess is a guess.
        let caller = Caller {
            promise: None,
            ..cx.caller.clone()
        };
        let commands = cx.commands.clone();
        self.tasks.spawn(async move {
            let cx = commands.on_behalf_of(&caller);
            let command = AuthCommand::RecordFailure {
                address: address_of(&caller, user_id),
                device: Some(Personal::new(user_id, caller.device.clone().capped())),
                at: cx.now(),
            };
            // Asked again of the present state, for others may have recorded since it was read.
            let plan = |auth: &Auth| {
                let more = auth.failures < MOST_FAILURES_RECORDED;
                Ok((more.then(|| command.clone()).into_iter().collect(), Vec::new()))
            };
            if let Err(error) = cx.execute_on::<Auth>(user_id, None, plan).await {
                tracing::warn!(user.id = %user_id, %error, "a wrong password could not be recorded");
            }
            drop(place);
        });
    }

    pub(crate) async fn quiesce(&self) {
        self.tasks.close();
        self.tasks.wait().await;
        self.tasks.reopen();
    }
}
