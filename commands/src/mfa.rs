//! Commands about the second factor: setting it up, showing a code, taking it away.
//!
//! Who knows a password learns from a sign-in that a second factor is asked for, and gets a token that proves the
//! password and nothing else. A code is compared with what the second factor's stream holds, and the commit names the
//! version it was compared at: of any number of uses of one code, one commits, and the others decide again and are
//! refused. A wrong code is answered after it was recorded, so that nobody guesses faster than is counted.

use std::collections::BTreeSet;
use std::time::Duration;

use annals_domain::{
    Auth, ChallengeRef, EventSourced as _, Mfa, MfaCommand, MfaError, PasswordHash, Personal, RevocationReason,
    Session, SessionId, Timestamp, User, UserId,
};
use annals_domain::{ClaimScope, claims::session_key};
use annals_eventstore::Position;
use secrecy::SecretString;
use tracing::instrument;

use crate::auth::{self, SignedIn};
use crate::executor::{Reference, Staged};
use crate::services::token::TokenFault;
use crate::services::token::pending::PendingSignIn;
use crate::services::totp;
use crate::session::{address_of, limit, stage_revocations};
use crate::settings::SignInOptions;
use crate::{CommandContext, CommandError, UnitOfWork};

/// The code of a refused second factor, whatever the reason was.
pub const CODE_INVALID: &str = "mfa.code_invalid";
/// The code of a sign-in that cannot go on without a second factor.
pub const REQUIRED: &str = "mfa.required";
/// The code of a token that completes no sign-in: unknown, ended, used, or of a password that is no longer in force.
pub const PENDING_TOKEN_INVALID: &str = "mfa.pending_token_invalid";
/// The code of a wrong password that was to prove who asks.
pub const PASSWORD_INCORRECT: &str = "mfa.password_incorrect";
/// The code of a request whose sign-in is too long ago.
pub const SIGN_IN_NOT_FRESH: &str = "auth.sign_in_not_fresh";

/// Backup codes of a set.
pub const BACKUP_CODES: usize = 10;
/// Random bytes of a backup code; it shows them as hexadecimal digits.
const BACKUP_CODE_BYTES: usize = 4;

/// How somebody has proven to hold the second factor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// A code of their authenticator.
    Authenticator,
    /// One of their backup codes; so many are left.
    BackupCode {
        /// Codes of the set that can still be used.
        left: u8,
    },
}

/// A secret that was offered; it is in force once [`enable`] has seen a code of it. Shown this once.
#[derive(Debug)]
pub struct SetUp {
    /// The secret in base32.
    pub secret: SecretString,
    /// The same with issuer and account, for an authenticator.
    pub provisioning_uri: SecretString,
    /// Where the offer lies in the log.
    pub position: Position,
}

/// Offers the caller a new secret, in place of one offered before. The caller's sign-in must be fresh, or the password
/// be given: whoever finds an open session must not be able to lock its owner out.
///
/// # Errors
/// `mfa.already_enabled`; `auth.sign_in_not_fresh`; `mfa.password_incorrect` of member `password`.
#[instrument(name = "mfa.begin_setup", skip_all)]
pub async fn begin_setup(cx: &CommandContext<'_>, password: Option<&SecretString>) -> Result<SetUp, CommandError> {
    let user_id = cx.caller.require_user()?;
    match password {
        Some(password) => drop(prove_password(cx, user_id, password).await?),
        None => must_be_fresh(cx).await?,
    }
    let totp_secret = totp::new_secret()?;
    let mut retry = cx.retry();
    loop {
        let attempt = async {
            let mut unit = UnitOfWork::new(cx);
            let (user, mfa) = tokio::try_join!(unit.load::<User>(user_id), unit.load::<Mfa>(user_id))?;
            let command = MfaCommand::BeginSetup {
                totp_secret: Personal::new(user_id, totp_secret.clone()),
                at: cx.now(),
            };
            unit.stage(mfa, [command])?;
            demand_session(&mut unit, user_id);
            let email = user.state.email.as_ref().and_then(Personal::get);
            let account = email.map(ToString::to_string).unwrap_or_default();
            Ok((account, commit(unit).await?))
        };
        match attempt.await {
            Ok((account, position)) => {
                let issuer = &cx.commands.settings().mfa.issuer;
                return Ok(SetUp {
                    secret: SecretString::from(totp_secret.as_str()),
                    provisioning_uri: totp::provisioning_uri(&totp_secret, issuer, &account).into(),
                    position,
                });
            }
            Err(error) => retry.after(error).await?,
        }
    }
}

/// Backup codes as their owner gets them. Shown this once.
#[derive(Debug)]
pub struct BackupCodes {
    /// Eight hexadecimal digits each.
    pub codes: Vec<SecretString>,
    /// Where they lie in the log, as hashes.
    pub position: Position,
    /// How many other sessions of their owner ended with it.
    pub sessions_revoked: u64,
}

/// Puts the offered secret in force, proven by a code of it, and ends all other sessions of the caller: they were
/// opened without it.
///
/// # Errors
/// `mfa.already_enabled`, `mfa.not_set_up`; `mfa.code_invalid` of member `code`.
#[instrument(name = "mfa.enable", skip_all)]
pub async fn enable(cx: &CommandContext<'_>, code: &str) -> Result<BackupCodes, CommandError> {
    let user_id = cx.caller.require_user()?;
    let mut fresh: Option<FreshCodes> = None;
    let mut retry = cx.retry();
    loop {
        let mut unit = UnitOfWork::new(cx);
        let mfa = unit.load::<Mfa>(user_id).await?;
        if mfa.state.is_enabled() {
            return Err(CommandError::broken(&MfaError::AlreadyEnabled));
        }
        let offered = mfa.state.offered_totp_secret.as_ref();
        let offered = offered.ok_or_else(|| CommandError::broken(&MfaError::NotSetUp))?;
        let step = offered
            .get()
            .and_then(|secret| totp::matching_step(secret, code, cx.now()));
        let step = step.ok_or_else(|| CommandError::rule(CODE_INVALID, Some("code"), "Invalid verification code"))?;
        let command = MfaCommand::Enable {
            step,
            backup_codes: FreshCodes::once(&mut fresh, cx, user_id).await?,
            at: cx.now(),
        };
        let attempt = async {
            unit.stage(mfa, [command])?;
            demand_session(&mut unit, user_id);
            end_others(unit, user_id).await
        };
        match attempt.await {
            Ok((sessions_revoked, position)) => return FreshCodes::given(fresh, position, sessions_revoked),
            Err(error) => retry.after(error).await?,
        }
    }
}

/// Replaces the caller's backup codes, proven by a code of the authenticator or by one of the old ones.
///
/// # Errors
/// `mfa.not_enabled`; `mfa.code_invalid` of member `code`; [`CommandError::TooManyAttempts`].
#[instrument(name = "mfa.make_backup_codes", skip_all)]
pub async fn make_backup_codes(cx: &CommandContext<'_>, code: &str) -> Result<BackupCodes, CommandError> {
    let user_id = cx.caller.require_user()?;
    let mut guess = Guess::new(code);
    let mut fresh: Option<FreshCodes> = None;
    let mut retry = cx.retry();
    loop {
        let attempt = async {
            let mut unit = UnitOfWork::new(cx);
            let mfa = unit.load::<Mfa>(user_id).await?;
            let accept = guess.look_at(cx, &mfa, None, None).await?;
            let made = MfaCommand::MakeBackupCodes {
                backup_codes: FreshCodes::once(&mut fresh, cx, user_id).await?,
                at: cx.now(),
            };
            unit.stage(mfa, [accept, made])?;
            demand_session(&mut unit, user_id);
            commit(unit).await
        };
        match attempt.await {
            Ok(position) => return FreshCodes::given(fresh, position, 0),
            Err(error) => retry.after(error).await?,
        }
    }
}

/// What proves that somebody may take their second factor away.
#[derive(Debug, Clone, Copy)]
pub enum Proof<'a> {
    /// A code of the authenticator, or a backup code.
    Code(&'a str),
    /// The password.
    Password(&'a SecretString),
}

/// Takes the caller's second factor away, with its secret and its backup codes, and ends all other sessions.
///
/// # Errors
/// `mfa.not_enabled`; `mfa.code_invalid` of member `code`; `mfa.password_incorrect` of member `password`;
/// [`CommandError::TooManyAttempts`].
#[instrument(name = "mfa.disable", skip_all)]
pub async fn disable(cx: &CommandContext<'_>, proof: Proof<'_>) -> Result<Position, CommandError> {
    let user_id = cx.caller.require_user()?;
    let mut retry = cx.retry();
    let mut guess = match proof {
        Proof::Code(code) => Guess::new(code),
        Proof::Password(_) => Guess::new(""),
    };
    let mut proven: Option<Staged<Auth>> = None;
    loop {
        let attempt = async {
            let mut unit = UnitOfWork::new(cx);
            let mfa = unit.load::<Mfa>(user_id).await?;
            if !mfa.state.is_enabled() {
                return Err(CommandError::broken(&MfaError::NotEnabled));
            }
            let disable = MfaCommand::Disable { at: cx.now() };
            match proof {
                Proof::Code(_) => {
                    let accept = guess.look_at(cx, &mfa, None, None).await?;
                    unit.stage(mfa, [accept, disable])?;
                }
                Proof::Password(password) => {
                    // After a conflict the password may be another one, and is asked for again.
                    let auth = match proven.take() {
                        Some(auth) => auth,
                        None => prove_password(cx, user_id, password).await?,
                    };
                    unit.rely_on(&auth);
                    unit.stage(mfa, [disable])?;
                }
            }
            demand_session(&mut unit, user_id);
            end_others(unit, user_id).await
        };
        match attempt.await {
            Ok((_, position)) => return Ok(position),
            Err(error) => retry.after(error).await?,
        }
    }
}

/// A sign-in whose password was right, for the client to complete with [`verify`].
#[derive(Debug)]
pub struct SecondFactorWanted {
    /// Proves the password, until `expires_at`; good for nothing else.
    pub pending_token: SecretString,
    /// When it ends.
    pub expires_at: Timestamp,
}

/// The answer to a right password where a second factor is asked for. Nothing is written.
pub(crate) fn want_second_factor(
    cx: &CommandContext<'_>,
    user_id: UserId,
    password: &PasswordHash,
) -> Result<SecondFactorWanted, CommandError> {
    let now = cx.now();
    let pending = PendingSignIn::new(user_id, password, now)?;
    Ok(SecondFactorWanted {
        pending_token: cx.commands.tokens().sign_pending(&pending, now)?.into(),
        expires_at: pending.expires_at,
    })
}

/// A sign-in that was completed.
#[derive(Debug)]
pub struct Verified {
    /// The session and its tokens.
    pub signed_in: SignedIn,
    /// What completed it.
    pub method: Method,
}

/// Completes a sign-in with a code. Anybody may ask; the token proves the password.
///
/// # Errors
/// `mfa.pending_token_invalid`; `mfa.challenge_void` after too many wrong codes; `mfa.code_invalid` of member `code`;
/// `user.disabled`; [`CommandError::TooManyAttempts`].
#[instrument(name = "mfa.verify", skip_all)]
pub async fn verify(
    cx: &CommandContext<'_>,
    pending_token: &str,
    code: &str,
    options: SignInOptions,
) -> Result<Verified, CommandError> {
    let unusable = || {
        let message = "Invalid or expired pending token";
        CommandError::rule(PENDING_TOKEN_INVALID, Some("pending_token"), message)
    };
    let pending = cx.commands.tokens().verify_pending(pending_token, cx.now());
    let pending = pending.map_err(|_| unusable())?;
    let challenge = ChallengeRef {
        id: pending.challenge_id,
        expires_at: pending.expires_at,
    };
    let user_id = pending.user_id;
    let mut guess = Guess::new(code);
    let mut retry = cx.retry();
    loop {
        let attempt = async {
            let mut unit = UnitOfWork::new(cx);
            let (auth, user, mfa) = tokio::try_join!(
                unit.load::<Auth>(user_id),
                unit.load::<User>(user_id),
                unit.load::<Mfa>(user_id)
            )?;
            let password = auth.state.password.as_ref().and_then(Personal::get);
            if !mfa.state.is_enabled() || !password.is_some_and(|password| pending.is_of(password)) {
                return Err(unusable());
            }
            let opened = auth::open_session(cx, &mut unit, &auth, user, options).await?;
            let accept = guess
                .look_at(cx, &mfa, Some(challenge), Some(opened.session_id))
                .await?;
            let method = method_of(&accept, &unit.stage(mfa, [accept.clone()])?.state);
            let commit = unit.commit().await.map_err(auth::gone_is_disabled)?;
            limit::evict(cx, user_id, opened.session_id).await;
            Ok(Verified {
                signed_in: opened.at(commit.position),
                method,
            })
        };
        match attempt.await {
            Ok(verified) => return Ok(verified),
            Err(error) if error.code() == "mfa.challenge_spent" => return Err(unusable()),
            Err(error) => retry.after(error).await?,
        }
    }
}

fn method_of(command: &MfaCommand, after: &Mfa) -> Method {
    match command {
        MfaCommand::UseBackupCode { .. } => Method::BackupCode {
            left: after.backup_codes_left(),
        },
        _ => Method::Authenticator,
    }
}

/// What was given as a code, and what is known of it.
pub(crate) struct Guess<'a> {
    code: &'a str,
    /// The set that it was compared with, and what came of it: a retry does not hash again.
    compared: Option<(Personal<Vec<PasswordHash>>, Option<u8>)>,
}

impl<'a> Guess<'a> {
    pub(crate) const fn new(code: &'a str) -> Self {
        Self { code, compared: None }
    }

    /// The command that accepts the code, as the second factor is now. A wrong one is recorded before it is refused;
    /// what has not the form of a code is no guess, and a code that was used before is none either.
    pub(crate) async fn look_at(
        &mut self,
        cx: &CommandContext<'_>,
        mfa: &Staged<Mfa>,
        challenge: Option<ChallengeRef>,
        session_id: Option<SessionId>,
    ) -> Result<MfaCommand, CommandError> {
        let at = cx.now();
        mfa.state
            .must_take_a_code(challenge, at)
            .map_err(|error| refusal(error, at))?;
        let command = match self.form() {
            Form::Totp => self.step(&mfa.state, at).map(|step| MfaCommand::AcceptCode {
                step,
                challenge,
                session_id,
                at,
            }),
            Form::Backup => self
                .place(cx, &mfa.state)
                .await?
                .map(|index| MfaCommand::UseBackupCode {
                    index,
                    challenge,
                    session_id,
                    at,
                }),
            Form::Neither => return Err(wrong_code()),
        };
        let Some(command) = command else {
            record(cx, mfa.clone(), challenge).await?;
            return Err(wrong_code());
        };
        match mfa.state.decide(command.clone()) {
            Ok(_) => Ok(command),
            Err(MfaError::CodeUsed) => Err(wrong_code()),
            Err(error) => Err(refusal(error, at)),
        }
    }

    fn form(&self) -> Form {
        let code = self.code.as_bytes();
        if code.len() == usize::from(totp::DIGITS) && code.iter().all(u8::is_ascii_digit) {
            Form::Totp
        } else if code.len() == 2 * BACKUP_CODE_BYTES && code.iter().all(u8::is_ascii_hexdigit) {
            Form::Backup
        } else {
            Form::Neither
        }
    }

    fn step(&self, mfa: &Mfa, at: Timestamp) -> Option<u64> {
        let secret = mfa.totp_secret.as_ref().and_then(Personal::get)?;
        totp::matching_step(secret, self.code, at)
    }

    /// Which backup code it is; used ones are compared too.
    async fn place(&mut self, cx: &CommandContext<'_>, mfa: &Mfa) -> Result<Option<u8>, CommandError> {
        let Some(set) = &mfa.backup_codes else { return Ok(None) };
        if let Some((compared, place)) = &self.compared
            && compared == set
        {
            return Ok(*place);
        }
        let code = SecretString::from(self.code.to_ascii_lowercase());
        let hashes = set.get().map(Vec::as_slice).unwrap_or_default();
        let place = cx.commands.passwords().find(&code, hashes).await?;
        let place = place.and_then(|place| u8::try_from(place).ok());
        self.compared = Some((set.clone(), place));
        Ok(place)
    }
}

enum Form {
    Totp,
    Backup,
    Neither,
}

fn wrong_code() -> CommandError {
    CommandError::rule(CODE_INVALID, Some("code"), "Invalid MFA code")
}

/// A broken rule; where it is one of time, with the time that is left.
fn refusal(error: MfaError, at: Timestamp) -> CommandError {
    let MfaError::Locked { until } = error else {
        return CommandError::broken(&error);
    };
    let micros = until.unix_micros().saturating_sub(at.unix_micros());
    CommandError::TooManyAttempts {
        code: "mfa.locked",
        message: error.to_string(),
        retry_after: Duration::from_micros(u64::try_from(micros).unwrap_or(0)),
    }
}

/// Writes that a wrong code was shown. Not under the request's idempotency key: nothing was carried out.
async fn record(
    cx: &CommandContext<'_>,
    mfa: Staged<Mfa>,
    challenge: Option<ChallengeRef>,
) -> Result<(), CommandError> {
    let command = MfaCommand::RefuseCode {
        challenge,
        address: address_of(cx.caller, mfa.id),
        at: cx.now(),
    };
    let mut unit = UnitOfWork::beforehand(cx);
    unit.stage(mfa, [command])?;
    unit.commit().await?;
    Ok(())
}

/// Backup codes on their way to their owner and, as hashes, into the log.
struct FreshCodes {
    codes: Vec<SecretString>,
    hashes: Personal<Vec<PasswordHash>>,
}

impl FreshCodes {
    /// Makes and hashes a set, unless an earlier attempt has.
    async fn once(
        made: &mut Option<Self>,
        cx: &CommandContext<'_>,
        user_id: UserId,
    ) -> Result<Personal<Vec<PasswordHash>>, CommandError> {
        if let Some(made) = made {
            return Ok(made.hashes.clone());
        }
        let codes = fresh_codes()?;
        let hashes = Personal::new(user_id, cx.commands.passwords().hash_together(&codes).await?);
        *made = Some(Self {
            codes,
            hashes: hashes.clone(),
        });
        Ok(hashes)
    }

    fn given(made: Option<Self>, position: Position, sessions_revoked: u64) -> Result<BackupCodes, CommandError> {
        let made = made.ok_or_else(|| CommandError::Internal("backup codes were written but not made".to_owned()))?;
        Ok(BackupCodes {
            codes: made.codes,
            position,
            sessions_revoked,
        })
    }
}

/// A set of different codes.
fn fresh_codes() -> Result<Vec<SecretString>, getrandom::Error> {
    let mut seen = BTreeSet::new();
    while seen.len() < BACKUP_CODES {
        let mut bytes = [0; BACKUP_CODE_BYTES];
        getrandom::fill(&mut bytes)?;
        seen.insert(bytes);
    }
    // The order tells nothing: each is as likely as any other.
    Ok(seen
        .into_iter()
        .map(|bytes| SecretString::from(hex::encode(bytes)))
        .collect())
}

/// The caller's credentials, proven to be known. A wrong password is recorded.
async fn prove_password(
    cx: &CommandContext<'_>,
    user_id: UserId,
    password: &SecretString,
) -> Result<Staged<Auth>, CommandError> {
    let auth = UnitOfWork::new(cx).load::<Auth>(user_id).await?;
    let stored = auth.state.password.as_ref().and_then(Personal::get);
    if auth::check(cx, password, stored).await? {
        return Ok(auth);
    }
    cx.commands.failures().record(cx, &auth, user_id);
    Err(CommandError::rule(
        PASSWORD_INCORRECT,
        Some("password"),
        "Invalid password",
    ))
}

/// SE-5: whoever changes what opens an account has just opened it.
async fn must_be_fresh(cx: &CommandContext<'_>) -> Result<(), CommandError> {
    let limit = cx.commands.settings().mfa.fresh_sign_in_seconds;
    if limit == 0 {
        return Ok(());
    }
    let session = match cx.caller.session_id {
        Some(session_id) => UnitOfWork::new(cx).load::<Session>(session_id).await?.state,
        None => Session::default(),
    };
    let fresh = session
        .started_at
        .is_some_and(|started_at| cx.now() <= started_at.plus_seconds(limit.into()));
    if fresh {
        return Ok(());
    }
    let message = "Please sign in again, or give your password, to change the second factor.";
    Err(CommandError::rule(SIGN_IN_NOT_FRESH, None, message))
}

/// SE-4: a session that has ended since the request was authenticated changes nothing any more.
fn demand_session(unit: &mut UnitOfWork<'_>, user_id: UserId) {
    let session_id = unit.context().caller.session_id;
    unit.require(session_id.map(|session_id| Reference {
        scope: ClaimScope::Session,
        key: session_key(user_id, session_id),
        field: None,
    }));
}

/// Commits; that the demanded session is gone is said as it would be to the next request.
async fn commit(unit: UnitOfWork<'_>) -> Result<Position, CommandError> {
    match unit.commit().await {
        Ok(commit) => Ok(commit.position),
        Err(CommandError::Missing {
            scope: ClaimScope::Session,
            ..
        }) => Err(TokenFault::Invalid.into()),
        Err(error) => Err(error),
    }
}

/// Commits, and ends all sessions of the user but the caller's: those that are listed in the same commit, those that
/// were opened meanwhile right after it. Returns how many ended, and where the commit lies.
async fn end_others(mut unit: UnitOfWork<'_>, user_id: UserId) -> Result<(u64, Position), CommandError> {
    let cx = unit.context();
    let keep = cx.caller.session_id;
    let reason = RevocationReason::MfaChanged;
    let revoked = stage_revocations(&mut unit, user_id, keep, reason).await?;
    let position = commit(unit).await?;
    let late = auth::revoke_older(cx, user_id, keep, position, reason).await;
    Ok((revoked + late, position))
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret;

    use super::*;

    #[test]
    fn backup_codes_are_ten_different_ones_of_eight_digits() {
        let codes = fresh_codes().unwrap();
        let texts: BTreeSet<&str> = codes.iter().map(ExposeSecret::expose_secret).collect();
        assert_eq!(texts.len(), BACKUP_CODES);
        for text in texts {
            assert!(matches!(Guess::new(text).form(), Form::Backup), "{text}");
        }
    }

    /// MF-5
    #[test]
    fn what_has_not_the_form_of_a_code_is_no_guess() {
        for text in [
            "",
            "12345",
            "1234567",
            "123456 ",
            "１２３４５６",
            "0011aabg",
            "0011-aabb",
            "+12345",
        ] {
            assert!(matches!(Guess::new(text).form(), Form::Neither), "{text}");
        }
        assert!(matches!(Guess::new("000000").form(), Form::Totp));
        assert!(matches!(Guess::new("0011AABB").form(), Form::Backup));
    }
}
