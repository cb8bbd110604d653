//! Commands about accounts: registering, changing the profile, disabling and enabling.

use annals_domain::{
    Actor, Auth, AuthCommand, ClaimScope, EmailAddress, LinkPurpose, Organization, OrganizationCommand, OrganizationId,
    PasswordHash, Permission, Personal, RevocationReason, Role, Session, Timestamp, User, UserCommand, UserId,
    Username,
};
use annals_eventstore::{Position, Version};
use secrecy::{ExposeSecret, SecretString};
use tracing::instrument;
use uuid::Uuid;

use crate::auth::SignedIn;
use crate::services::password::normalise;
use crate::services::token::Identity;
use crate::session::{Opening, stage_revocations};
use crate::settings::{PasswordPolicy, SignInOptions};
use crate::{CommandContext, CommandError, Committed, UnitOfWork, link, organization};

/// How often a derived name is tried with another ending before giving up.
const NAME_ATTEMPTS: u32 = 8;
/// Characters of the ending that tells derived names apart.
const ENDING_CHARACTERS: usize = 6;
/// Longest start of a derived username, in characters.
const DERIVED_CHARACTERS: usize = 100;

/// A wish for an account.
#[derive(Debug)]
pub struct Register {
    /// Where mail reaches the person.
    pub email: EmailAddress,
    /// The password, as typed.
    pub password: SecretString,
    /// What the contract demands of it.
    pub policy: PasswordPolicy,
    /// The name for people to read, possibly empty.
    pub name: String,
    /// The name to sign in with; derived from the address when absent, and then never refused as taken.
    pub username: Option<Username>,
    /// Founds an organization of this name, with the person as its owner.
    pub organization_name: Option<String>,
    /// What the person may do. Anything but the role of self-registration takes the right to manage users.
    pub role: Role,
    /// Signs the person in within the same commit.
    pub sign_in: Option<SignInOptions>,
}

/// An account that was registered.
#[derive(Debug, Clone)]
pub struct Registered {
    /// Who.
    pub user_id: UserId,
    /// The user.
    pub user: User,
    /// The organization they founded, if they did.
    pub organization: Option<(OrganizationId, Organization)>,
    /// Their first session, if one was wished for.
    pub signed_in: Option<SignedIn>,
    /// Where the registration lies in the log.
    pub position: Position,
}

/// Registers an account with its password, and its organization when one is named, in one commit. Anybody may ask
/// for the role of self-registration.
///
/// Of registrations of one address, in whatever spelling and however many at once, one succeeds. Whoever registers
/// themselves is mailed a link that proves the address.
///
/// # Errors
/// [`CommandError::Taken`] with `Email`, `Username` or both; `password.*`; `organization.name_invalid` of member
/// `organization_name`; `user.text_invalid`; [`CommandError::Denied`] for a role that may not be chosen;
/// [`CommandError::Overloaded`] when too many passwords wait to be hashed.
#[instrument(name = "user.register", skip_all)]
pub async fn register(cx: &CommandContext<'_>, register: Register) -> Result<Registered, CommandError> {
    if register.role != cx.commands.settings().registration_role {
        cx.caller.require(Permission::UserManage)?;
    }
    let password = normalise(register.password.expose_secret())?;
    register.policy.check(&password, "password")?;
    let user_id = UserId::new(Uuid::now_v7());
    let at = cx.now();
    let draft = UserCommand::Register {
        email: Personal::new(user_id, register.email.clone()),
        username: Personal::new(user_id, username(&register.email, register.username.as_ref(), None)?),
        name: Personal::new(user_id, register.name.clone()),
        role: register.role,
        at,
    };
    // What breaks a rule is refused before it costs a hash.
    let mut unit = UnitOfWork::new(cx);
    unit.create::<User>(user_id, [draft])?;
    stage_organization(&mut unit, register.organization_name.as_deref(), user_id, None)?;

    let hash = Personal::new(user_id, cx.commands.passwords().hash(&register.password).await?);
    // Whoever makes an account for somebody else knows the address already.
    let proves_address = cx.caller.actor == Actor::Anonymous;
    let account = Account {
        user_id,
        email: &register.email,
        name: &register.name,
        username: register.username.as_ref(),
        organization_name: register.organization_name.as_deref(),
        role: register.role,
        sign_in: register.sign_in,
        hash,
        verified: false,
        at,
    };
    create_account(cx, &account, &|unit| {
        if proves_address {
            let email = Personal::new(user_id, register.email.clone());
            link::stage_first(unit, LinkPurpose::EmailVerification, user_id.as_uuid(), email)?;
        }
        Ok(())
    })
    .await
}

/// An account to be made, with its password hashed.
pub(crate) struct Account<'a> {
    pub(crate) user_id: UserId,
    pub(crate) email: &'a EmailAddress,
    pub(crate) name: &'a str,
    /// Derived from the address when absent.
    pub(crate) username: Option<&'a Username>,
    pub(crate) organization_name: Option<&'a str>,
    pub(crate) role: Role,
    pub(crate) sign_in: Option<SignInOptions>,
    pub(crate) hash: Personal<PasswordHash>,
    /// Whether the address is proven already.
    pub(crate) verified: bool,
    pub(crate) at: Timestamp,
}

/// Makes an account, and what `beside` stages, in one commit. Names that are derived are tried with other endings until
/// they are free.
///
/// # Errors
/// [`CommandError::Taken`] with `Email`, `Username` or both; [`CommandError::Conflict`] when no derived name was free, or
/// when what `beside` staged has moved.
pub(crate) async fn create_account(
    cx: &CommandContext<'_>,
    account: &Account<'_>,
    beside: &(dyn Fn(&mut UnitOfWork<'_>) -> Result<(), CommandError> + Sync),
) -> Result<Registered, CommandError> {
    let Account { user_id, at, .. } = *account;
    let mut ending = None;
    let mut attempt = 0;
    loop {
        let mut unit = UnitOfWork::new(cx);
        if cx.caller.actor == Actor::Anonymous {
            unit.act_as(Actor::User(user_id));
        }
        let register = UserCommand::Register {
            email: Personal::new(user_id, account.email.clone()),
            username: Personal::new(user_id, username(account.email, account.username, ending.as_deref())?),
            name: Personal::new(user_id, account.name.to_owned()),
            role: account.role,
            at,
        };
        let verify = account.verified.then_some(UserCommand::VerifyEmail { at });
        let user = unit
            .create::<User>(user_id, std::iter::once(register).chain(verify))?
            .state;
        let set = AuthCommand::SetPassword {
            hash: account.hash.clone(),
            at,
        };
        unit.create::<Auth>(user_id, [set])?;
        let organization = stage_organization(&mut unit, account.organization_name, user_id, ending.as_deref())?;
        let opening = account
            .sign_in
            .map(|options| Opening::prepare(cx, user_id, options))
            .transpose()?;
        if let Some(opening) = &opening {
            unit.create::<Session>(opening.session_id, [opening.command.clone()])?;
        }
        beside(&mut unit)?;
        let commit = match unit.commit().await {
            Ok(commit) => commit,
            Err(CommandError::Taken { scopes }) => {
                attempt += 1;
                let blamed = chosen(account, scopes);
                if !blamed.is_empty() || attempt >= NAME_ATTEMPTS {
                    return Err(if blamed.is_empty() {
                        CommandError::Conflict
                    } else {
                        CommandError::Taken { scopes: blamed }
                    });
                }
                ending = Some(random_ending()?);
                continue;
            }
            Err(error) => return Err(error),
        };
        let position = commit.position;
        let organization_id = organization.as_ref().map(|(id, _)| *id);
        let signed_in = match opening {
            None => None,
            Some(opening) => {
                let identity = Identity {
                    user_id,
                    session_id: opening.session_id,
                    email: Some(account.email.to_string()),
                    organization_id,
                    role: account.role,
                };
                let tokens = opening.tokens(cx, &identity)?;
                let session_id = opening.session_id;
                Some(SignedIn {
                    user_id,
                    user: user.clone(),
                    session_id,
                    tokens,
                    organization_id,
                    position,
                })
            }
        };
        return Ok(Registered {
            user_id,
            user,
            organization,
            signed_in,
            position,
        });
    }
}

/// What the person has asked for by name, among what is taken; names that we derive are ours to change.
fn chosen(account: &Account<'_>, scopes: Vec<ClaimScope>) -> Vec<ClaimScope> {
    scopes
        .into_iter()
        .filter(|scope| match scope {
            ClaimScope::Email => true,
            ClaimScope::Username => account.username.is_some(),
            _ => false,
        })
        .collect()
}

fn username(email: &EmailAddress, chosen: Option<&Username>, ending: Option<&str>) -> Result<Username, CommandError> {
    if let Some(username) = chosen {
        return Ok(username.clone());
    }
    let local = email.as_str().rsplit_once('@').map_or("", |(local, _)| local);
    let start: String = local
        .chars()
        .filter(|character| *character != '@')
        .take(DERIVED_CHARACTERS)
        .collect();
    let derived =
        |start: &str| Username::parse(&ending.map_or_else(|| start.to_owned(), |ending| format!("{start}-{ending}")));
    derived(&start)
        .or_else(|_| derived("user"))
        .map_err(|error| CommandError::Internal(format!("no username can be derived: {error}")))
}

fn stage_organization(
    unit: &mut UnitOfWork<'_>,
    name: Option<&str>,
    user_id: UserId,
    ending: Option<&str>,
) -> Result<Option<(OrganizationId, Organization)>, CommandError> {
    let Some(name) = name else {
        return Ok(None);
    };
    let command = OrganizationCommand::Found {
        name: name.to_owned(),
        slug: organization::slug_from(name, ending),
        owner: user_id,
        at: unit.now(),
    };
    let id = organization::founded_by(user_id);
    let staged = unit
        .create::<Organization>(id, [command])
        .map_err(|error| match error {
            CommandError::Domain { code, message, .. } => CommandError::rule(code, Some("organization_name"), message),
            other => other,
        })?;
    Ok(Some((id, staged.state)))
}

/// Six random characters of a-z and 2-7.
pub(crate) fn random_ending() -> Result<String, CommandError> {
    const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
    let mut random = [0; ENDING_CHARACTERS];
    getrandom::fill(&mut random)?;
    Ok(random
        .iter()
        .map(|byte| char::from(ALPHABET[usize::from(byte % 32)]))
        .collect())
}

/// Changes the name that people read; one's own, or anybody's with the right to manage users.
///
/// # Errors
/// `user.not_found`, `user.disabled`, `user.text_invalid`; [`CommandError::Stale`]; [`CommandError::Denied`].
#[instrument(name = "user.change_profile", skip_all, fields(user.id = %id))]
pub async fn change_profile(
    cx: &CommandContext<'_>,
    id: UserId,
    name: String,
    expected: Option<Version>,
) -> Result<Committed<User>, CommandError> {
    if cx.caller.require_user() != Ok(id) {
        cx.caller.require(Permission::UserManage)?;
    }
    let command = UserCommand::ChangeProfile {
        name: Personal::new(id, name),
        at: cx.now(),
    };
    cx.execute::<User>(id, command, expected, Vec::new()).await
}

/// Notes that the caller has finished the first steps; nothing happens when it is so already.
///
/// # Errors
/// `user.not_found`; [`CommandError::Denied`] when nobody is signed in.
#[instrument(name = "user.complete_onboarding", skip_all)]
pub async fn complete_onboarding(cx: &CommandContext<'_>) -> Result<Committed<User>, CommandError> {
    let user_id = cx.caller.require_user()?;
    let command = UserCommand::CompleteOnboarding { at: cx.now() };
    cx.execute::<User>(user_id, command, None, Vec::new()).await
}

/// When the caller has finished the first steps, by the log itself; absent when they have not.
///
/// # Errors
/// [`CommandError::Denied`] when nobody is signed in.
#[instrument(name = "user.onboarded_at", skip_all)]
pub async fn onboarded_at(cx: &CommandContext<'_>) -> Result<Option<Timestamp>, CommandError> {
    let user_id = cx.caller.require_user()?;
    Ok(UnitOfWork::new(cx).load::<User>(user_id).await?.state.onboarded_at)
}

/// Keeps a user from signing in, and ends all their sessions in the same commit.
///
/// # Errors
/// `user.not_found`, `user.text_invalid`; [`CommandError::Stale`]; [`CommandError::Denied`].
#[instrument(name = "user.disable", skip_all, fields(user.id = %id))]
pub async fn disable(
    cx: &CommandContext<'_>,
    id: UserId,
    reason: String,
    expected: Option<Version>,
) -> Result<Committed<User>, CommandError> {
    cx.caller.require(Permission::UserManage)?;
    let done = switch(cx, id, UserCommand::Disable { reason, at: cx.now() }, expected).await?;
    // A session that was opened between the listing and the commit is dead already, for its user's claim is gone;
    // this gives it its end in the log. No other can be opened any more. The user is disabled whatever comes of it.
    let late = async {
        let mut unit = UnitOfWork::new(cx);
        if stage_revocations(&mut unit, id, None, RevocationReason::UserDisabled).await? > 0 {
            unit.commit().await?;
        }
        Ok::<(), CommandError>(())
    };
    if let Err(error) = late.await {
        tracing::error!(%error, "sessions of a disabled user are left to their enabling");
    }
    Ok(done)
}

/// Lets a user sign in again. Sessions from before stay ended.
///
/// # Errors
/// `user.not_found`; [`CommandError::Stale`]; [`CommandError::Denied`].
#[instrument(name = "user.enable", skip_all, fields(user.id = %id))]
pub async fn enable(
    cx: &CommandContext<'_>,
    id: UserId,
    expected: Option<Version>,
) -> Result<Committed<User>, CommandError> {
    cx.caller.require(Permission::UserManage)?;
    switch(cx, id, UserCommand::Enable { at: cx.now() }, expected).await
}

/// Disables or enables, and ends every session that is still listed: while a user is disabled none can be opened,
/// so that none from before comes to life again.
async fn switch(
    cx: &CommandContext<'_>,
    id: UserId,
    command: UserCommand,
    expected: Option<Version>,
) -> Result<Committed<User>, CommandError> {
    let mut retry = cx.retry();
    loop {
        let attempt = async {
            let mut unit = UnitOfWork::new(cx);
            let read = unit.load::<User>(id).await?;
            read.must_be_at(expected)?;
            let before = read.version;
            let staged = unit.stage(read, [command.clone()])?;
            if staged.version > before {
                stage_revocations(&mut unit, id, None, RevocationReason::UserDisabled).await?;
                link::stage_void(&mut unit, LinkPurpose::PasswordReset, id.as_uuid()).await?;
            }
            let commit = unit.commit().await?;
            Ok(staged.committed(commit))
        };
        match attempt.await {
            Ok(committed) => return Ok(committed),
            Err(error) => retry.after(error).await?,
        }
    }
}

#[cfg(test)]
mod tests {
    use annals_domain::{EmailAddress, Role, Username};
    use secrecy::SecretString;

    use super::{Register, random_ending, username};
    use crate::settings::PasswordPolicy;

    fn wish(email: &str) -> Register {
        Register {
            email: EmailAddress::parse(email).unwrap(),
            password: SecretString::from("secret".to_owned()),
            policy: PasswordPolicy::NONE,
            name: String::new(),
            username: None,
            organization_name: None,
            role: Role::Viewer,
            sign_in: None,
        }
    }

    #[test]
    fn a_username_is_derived_from_the_address_unless_given() {
        let name = |email: &str, chosen: Option<&str>, ending| {
            let chosen = chosen.map(|name| Username::parse(name).unwrap());
            let email = EmailAddress::parse(email).unwrap();
            username(&email, chosen.as_ref(), ending).unwrap().to_string()
        };
        assert_eq!(name("Ada.Lovelace@example.org", None, None), "ada.lovelace");
        assert_eq!(name("ada@example.org", None, Some("k3x7qp")), "ada-k3x7qp");
        assert_eq!(name("ada@example.org", Some("Ada L"), Some("x")), "Ada L");
    }

    #[test]
    fn a_wish_does_not_print_its_password() {
        assert!(!format!("{:?}", wish("ada@example.org")).contains("secret"));
    }

    #[test]
    fn endings_differ() {
        let endings: std::collections::BTreeSet<_> = (0..100).map(|_| random_ending().unwrap()).collect();
        assert!(endings.len() > 95);
        assert!(endings.iter().all(|ending| ending.len() == 6));
    }
}
