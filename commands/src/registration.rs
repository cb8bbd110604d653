//! Commands about signing up: no account exists before its address is proven.

use annals_domain::{
    Actor, ClaimKey, ClaimScope, EmailAddress, Invitation, InvitationId, LinkPurpose, Organization, OrganizationId,
    Personal, Registration, RegistrationCommand, RegistrationId, User, UserId,
};
use annals_eventstore::Position;
use secrecy::{ExposeSecret, SecretString};
use tracing::instrument;
use uuid::Uuid;

use crate::auth::SignedIn;
use crate::executor::Staged;
use crate::invitation::{self, Admission};
use crate::link::{self, IssuedLink};
use crate::services::password::normalise;
use crate::settings::PasswordPolicy;
use crate::user::{Account, create_account};
use crate::{CommandContext, CommandError, Commands, UnitOfWork, email_verification};

/// The code of an address that waits to be proven already.
pub const ALREADY_PENDING: &str = "registration.already_pending";
/// The code of an invitation that was made out to another address.
pub const OTHER_ADDRESS: &str = "invitation.other_address";

/// A wish for an account.
#[derive(Debug)]
pub struct SignUp {
    /// Where mail reaches the person.
    pub email: EmailAddress,
    /// The password, as typed.
    pub password: SecretString,
    /// What the contract demands of it.
    pub policy: PasswordPolicy,
    /// The name for people to read.
    pub name: String,
    /// Founds an organization of this name with the account.
    pub organization_name: Option<String>,
    /// The token of an invitation to accept with the account.
    pub invitation: Option<String>,
}

/// A registration that waits for its address to be proven.
#[derive(Debug)]
pub struct SignedUp {
    /// Which.
    pub registration_id: RegistrationId,
    /// The link that will be mailed.
    pub link: IssuedLink,
    /// Where it lies in the log.
    pub position: Position,
}

/// Asks for an account; a link that makes it is mailed. Anybody may ask. Of several wishes for one address at once,
/// one is taken.
///
/// # Errors
/// `password.*`; `registration.already_pending`; `invitation.other_address`, and what is wrong with the invitation's
/// token (`link.*`); [`CommandError::Taken`] with `Email`; [`CommandError::Overloaded`].
#[instrument(name = "registration.sign_up", skip_all)]
pub async fn sign_up(cx: &CommandContext<'_>, wish: SignUp) -> Result<SignedUp, CommandError> {
    let password = normalise(wish.password.expose_secret())?;
    wish.policy.check(&password, "password")?;
    let invitation_id = match &wish.invitation {
        None => None,
        Some(token) => Some(invited(cx, token, &wish.email).await?),
    };
    let key = ClaimKey::Personal(wish.email.to_string());
    if cx.store().owner_of(ClaimScope::Email, &key).await?.is_some() {
        return Err(CommandError::Taken {
            scopes: vec![ClaimScope::Email],
        });
    }
    let user_id = UserId::new(Uuid::now_v7());
    let registration_id = RegistrationId::new(Uuid::now_v7());
    let hash = Personal::new(user_id, cx.commands.passwords().hash(&wish.password).await?);
    let mut retry = cx.retry();
    loop {
        let attempt = async {
            let mut unit = UnitOfWork::new(cx);
            let at = unit.now();
            if let Some(pending) = pending_of(&unit, &key).await? {
                if pending.state.is_pending(at) {
                    return Err(CommandError::Taken {
                        scopes: vec![ClaimScope::PendingEmail],
                    });
                }
                unit.stage(pending, [RegistrationCommand::Lapse { at }])?;
            }
            let lifetime = cx.commands.settings().links.sign_up_seconds;
            let email = Personal::new(user_id, wish.email.clone());
            let request = RegistrationCommand::Request {
                user_id,
                email: email.clone(),
                password: hash.clone(),
                name: Personal::new(user_id, wish.name.clone()),
                organization_name: wish.organization_name.clone(),
                invitation_id,
                expires_at: at.plus_seconds(lifetime.into()),
                at,
            };
            unit.create::<Registration>(registration_id, [request])?;
            let link = link::stage_first(&mut unit, LinkPurpose::SignUp, registration_id.as_uuid(), email)?;
            let position = unit.commit().await?.position;
            Ok(SignedUp {
                registration_id,
                link,
                position,
            })
        };
        match attempt.await {
            Ok(signed_up) => return Ok(signed_up),
            Err(CommandError::Taken { .. }) => {
                return Err(CommandError::rule(
                    ALREADY_PENDING,
                    Some("email"),
                    "Email already pending verification",
                ));
            }
            Err(error) => retry.after(error).await?,
        }
    }
}

/// The invitation that a token opens, if it is for this address.
async fn invited(cx: &CommandContext<'_>, token: &str, email: &EmailAddress) -> Result<InvitationId, CommandError> {
    let opened = link::open(cx, LinkPurpose::Invitation, token).await?;
    let id = InvitationId::new(opened.subject);
    let invitation = UnitOfWork::new(cx).load::<Invitation>(id).await?.state;
    if invitation.email.as_ref().and_then(Personal::get) != Some(email) {
        return Err(CommandError::rule(
            OTHER_ADDRESS,
            Some("email"),
            "Email does not match invitation",
        ));
    }
    invitation
        .must_be_pending(cx.now())
        .map_err(|error| CommandError::broken(&error))?;
    Ok(id)
}

async fn pending_of(unit: &UnitOfWork<'_>, key: &ClaimKey) -> Result<Option<Staged<Registration>>, CommandError> {
    let owner = unit.context().store().owner_of(ClaimScope::PendingEmail, key).await?;
    match owner {
        None => Ok(None),
        Some(id) => Ok(Some(unit.load::<Registration>(RegistrationId::new(id)).await?)),
    }
}

/// An account that was made of a registration.
#[derive(Debug)]
pub struct Verified {
    /// Who.
    pub user_id: UserId,
    /// The user.
    pub user: User,
    /// Their first session.
    pub signed_in: Option<SignedIn>,
    /// The organization they founded or joined with it.
    pub organization_id: Option<OrganizationId>,
    /// Where it lies in the log.
    pub position: Position,
}

/// Makes the account of a registration by the token of a mailed link, with its organization or the acceptance of its
/// invitation, and signs the person in. Anybody may ask: the token is the proof, and it is used up. An invitation that
/// cannot be accepted any more keeps nobody from having the account.
///
/// # Errors
/// `link.invalid`, `link.expired`, `link.already_used`; [`CommandError::Taken`] with `Email` when another account has
/// the address by now.
#[instrument(name = "registration.verify", skip_all)]
pub async fn verify(cx: &CommandContext<'_>, token: &str) -> Result<Verified, CommandError> {
    let invalid = || CommandError::rule(link::INVALID, Some("token"), "the link is not valid");
    let mut retry = cx.retry();
    loop {
        let opened = link::open(cx, LinkPurpose::SignUp, token).await?;
        let id = RegistrationId::new(opened.subject);
        let registration = UnitOfWork::new(cx).load::<Registration>(id).await?;
        // Somebody else has used the link since it was read, or the registration has lapsed.
        if !registration.state.is_pending(cx.now()) {
            return Err(invalid());
        }
        let state = registration.state.clone();
        let parts = (state.user_id, state.email, state.password, state.name);
        let (Some(user_id), Some(email), Some(hash), Some(name)) = parts else {
            return Err(invalid());
        };
        // Erased in the meantime: there is nothing to make an account of.
        let (Some(email), Some(_)) = (email.into_value(), hash.get()) else {
            return Err(invalid());
        };
        let admission = match state.invitation_id {
            None => None,
            Some(invitation_id) => match invitation::admit(cx, invitation_id, user_id, &email).await {
                Ok(admission) => Some(admission),
                Err(CommandError::Domain { code, .. }) => {
                    tracing::info!(code, "an account is made without its invitation");
                    None
                }
                Err(error) => return Err(error),
            },
        };
        let settings = cx.commands.settings();
        let account = Account {
            user_id,
            email: &email,
            name: name.get().map_or("", String::as_str),
            username: None,
            organization_name: state.organization_name.as_deref(),
            role: settings.registration_role,
            sign_in: Some(settings.opaque_sign_in()),
            hash,
            verified: true,
            at: cx.now(),
        };
        let joined = admission.as_ref().map(Admission::organization_id);
        let made = create_account(cx, &account, &|unit| {
            let at = unit.now();
            opened.clone().stage_use(unit)?;
            unit.stage(registration.clone(), [RegistrationCommand::Verify { at }])?;
            if let Some(admission) = &admission {
                admission.clone().stage(unit)?;
            }
            Ok(())
        })
        .await;
        match made {
            Ok(made) => {
                return Ok(Verified {
                    user_id,
                    user: made.user,
                    organization_id: made.organization.map(|(id, _): (_, Organization)| id).or(joined),
                    signed_in: made.signed_in,
                    position: made.position,
                });
            }
            Err(error) => retry.after(error).await?,
        }
    }
}

/// Mails the link of a pending registration once more, or the one that proves the address of an account. Anybody may
/// ask, and nothing is looked up before this returns.
///
/// # Errors
/// [`CommandError::Overloaded`] when too much work waits behind answers.
#[instrument(name = "registration.resend", skip_all)]
pub fn resend(cx: &CommandContext<'_>, email: EmailAddress) -> Result<(), CommandError> {
    cx.commands.afterwards().spawn(
        "registration.resend",
        cx.commands,
        cx.caller,
        move |commands, caller| async move { send_again(&commands, &caller, &email).await },
    )
}

async fn send_again(
    commands: &Commands,
    caller: &annals_domain::Caller,
    email: &EmailAddress,
) -> Result<(), CommandError> {
    let cx = commands.on_behalf_of(caller);
    let key = ClaimKey::Personal(email.to_string());
    let mut retry = cx.retry();
    loop {
        let attempt = async {
            let mut unit = UnitOfWork::new(&cx);
            let Some(pending) = pending_of(&unit, &key).await? else {
                return Ok(false);
            };
            let Some(email) = pending
                .state
                .email
                .clone()
                .filter(|_| pending.state.is_pending(cx.now()))
            else {
                return Ok(false);
            };
            if let Some(user_id) = pending.state.user_id {
                unit.act_as(Actor::User(user_id));
            }
            unit.rely_on(&pending);
            let purpose = LinkPurpose::SignUp;
            if link::stage_next(&mut unit, purpose, pending.id.as_uuid(), email)
                .await?
                .is_ok()
            {
                unit.commit().await?;
            }
            Ok(true)
        };
        match attempt.await {
            Ok(true) => return Ok(()),
            Ok(false) => return email_verification::send_to(commands, caller, email).await,
            Err(error) => retry.after(error).await?,
        }
    }
}
