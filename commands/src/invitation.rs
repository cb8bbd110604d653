//! Commands about invitations into organizations.

use annals_domain::invitation::pending_key;
use annals_domain::{
    ClaimScope, Denied, EmailAddress, Invitation, InvitationCommand, InvitationId, LinkPurpose, Organization,
    OrganizationCommand, OrganizationId, OrganizationRole, Permission, Personal, Timestamp, User, UserId,
};
use annals_eventstore::Position;
use tracing::instrument;
use uuid::Uuid;

use crate::executor::Staged;
use crate::link::{self, IssuedLink};
use crate::{CommandContext, CommandError, UnitOfWork};

/// The code of an invitation of an address that has been invited into the same organization already.
pub const ALREADY_PENDING: &str = "invitation.already_pending";
/// The code of an invitation that was made out to another address.
pub const OTHER_ADDRESS: &str = "invitation.other_address";
/// The code of an invitation by somebody who may not invite any more.
pub const INVITER_NOT_ALLOWED: &str = "invitation.inviter_not_allowed";

/// An invitation that was made.
#[derive(Debug)]
pub struct Invited {
    /// Which.
    pub invitation_id: InvitationId,
    /// The link that will be mailed.
    pub link: IssuedLink,
    /// Where it lies in the log.
    pub position: Position,
}

/// Invites an address into an organization; a link is mailed to it. For its owners and admins, and for those who may
/// invite into any.
///
/// # Errors
/// `organization.not_found`, also for those who do not belong to it; `invitation.already_pending`,
/// `invitation.role_invalid`; [`CommandError::Denied`].
#[instrument(name = "invitation.invite", skip_all, fields(organization.id = %organization_id))]
pub async fn invite(
    cx: &CommandContext<'_>,
    organization_id: OrganizationId,
    email: EmailAddress,
    role: OrganizationRole,
) -> Result<Invited, CommandError> {
    let invited_by = cx.caller.require_user()?;
    let invitation_id = InvitationId::new(Uuid::now_v7());
    let key = pending_key(organization_id, &email);
    let mut retry = cx.retry();
    loop {
        let attempt = async {
            let mut unit = UnitOfWork::new(cx);
            let organization = unit.load::<Organization>(organization_id).await?;
            must_invite(cx, &organization.state, invited_by)?;
            unit.rely_on(&organization);
            let at = unit.now();
            let pending = cx.store().owner_of(ClaimScope::PendingInvitation, &key).await?;
            if let Some(id) = pending {
                let pending = unit.load::<Invitation>(InvitationId::new(id)).await?;
                if pending.state.must_be_pending(at).is_ok() {
                    return Err(CommandError::Taken {
                        scopes: vec![ClaimScope::PendingInvitation],
                    });
                }
                unit.stage(pending, [InvitationCommand::Lapse { at }])?;
            }
            let lifetime = cx.commands.settings().links.invitation_seconds;
            let address = Personal::new(invitation_id, email.clone());
            let issue = InvitationCommand::Issue {
                organization_id,
                email: address.clone(),
                role,
                invited_by,
                expires_at: at.plus_seconds(lifetime.into()),
                at,
            };
            unit.create::<Invitation>(invitation_id, [issue])?;
            let link = link::stage_first(&mut unit, LinkPurpose::Invitation, invitation_id.as_uuid(), address)?;
            let position = unit.commit().await?.position;
            Ok(Invited {
                invitation_id,
                link,
                position,
            })
        };
        match attempt.await {
            Ok(invited) => return Ok(invited),
            Err(CommandError::Taken { .. }) => {
                let message = "Invitation already pending for this email";
                return Err(CommandError::rule(ALREADY_PENDING, Some("email"), message));
            }
            Err(error) => retry.after(error).await?,
        }
    }
}

fn must_invite(cx: &CommandContext<'_>, organization: &Organization, caller: UserId) -> Result<(), CommandError> {
    let exists = organization.founded_at.is_some();
    match organization.members.get(&caller) {
        _ if exists && cx.caller.can(Permission::OrganizationInvite) => Ok(()),
        Some(OrganizationRole::Owner | OrganizationRole::Admin) => Ok(()),
        Some(OrganizationRole::Member | OrganizationRole::Viewer) => {
            Err(Denied::Forbidden(Permission::OrganizationInvite).into())
        }
        // Who does not belong to it does not learn that it exists.
        None => Err(CommandError::not_found(ClaimScope::Organization)),
    }
}

/// What an invitation says, to whoever holds its token.
#[derive(Debug, Clone)]
pub struct InvitationView {
    /// Who is invited; absent once erased.
    pub email: Option<EmailAddress>,
    /// Into which organization.
    pub organization_id: OrganizationId,
    /// As what.
    pub role: OrganizationRole,
    /// When it ends.
    pub expires_at: Timestamp,
}

/// What the token of a mailed invitation is good for. Nothing is used up. Anybody may ask.
///
/// # Errors
/// `link.invalid`, `link.expired`, `link.already_used`; `invitation.already_used`, `invitation.expired`.
#[instrument(name = "invitation.look", skip_all)]
pub async fn look(cx: &CommandContext<'_>, token: &str) -> Result<InvitationView, CommandError> {
    let opened = link::open(cx, LinkPurpose::Invitation, token).await?;
    let id = InvitationId::new(opened.subject);
    let invitation = UnitOfWork::new(cx).load::<Invitation>(id).await?.state;
    invitation
        .must_be_pending(cx.now())
        .map_err(|error| CommandError::broken(&error))?;
    let parts = (invitation.organization_id, invitation.role, invitation.expires_at);
    let (Some(organization_id), Some(role), Some(expires_at)) = parts else {
        return Err(CommandError::Internal(format!("invitation {id} is not whole")));
    };
    Ok(InvitationView {
        email: invitation.email.and_then(Personal::into_value),
        organization_id,
        role,
        expires_at,
    })
}

/// An invitation that was accepted.
#[derive(Debug, Clone, Copy)]
pub struct Accepted {
    /// Into which organization.
    pub organization_id: OrganizationId,
    /// As what.
    pub role: OrganizationRole,
    /// Where it lies in the log.
    pub position: Position,
}

/// Accepts an invitation by its token. Only the account of the invited address may, and only while whoever invited it
/// still may invite. The token is used up.
///
/// # Errors
/// `link.*` of the token; `invitation.other_address`, `invitation.inviter_not_allowed`, `invitation.already_used`,
/// `invitation.expired`; `organization.already_member` in another role; [`CommandError::Denied`] when nobody is signed in.
#[instrument(name = "invitation.accept", skip_all)]
pub async fn accept(cx: &CommandContext<'_>, token: &str) -> Result<Accepted, CommandError> {
    let user_id = cx.caller.require_user()?;
    let mut retry = cx.retry();
    loop {
        let opened = link::open(cx, LinkPurpose::Invitation, token).await?;
        let id = InvitationId::new(opened.subject);
        let attempt = async {
            let mut unit = UnitOfWork::new(cx);
            let user = unit.load::<User>(user_id).await?;
            let Some(email) = user.state.email.as_ref().and_then(Personal::get).cloned() else {
                return Err(CommandError::not_found(ClaimScope::User));
            };
            unit.rely_on(&user);
            opened.stage_use(&mut unit)?;
            let admission = admit(cx, id, user_id, &email).await?;
            let (organization_id, role) = (admission.organization_id(), admission.role);
            admission.stage(&mut unit)?;
            let position = unit.commit().await?.position;
            Ok(Accepted {
                organization_id,
                role,
                position,
            })
        };
        match attempt.await {
            Ok(accepted) => return Ok(accepted),
            Err(error) => retry.after(error).await?,
        }
    }
}

/// Everything that the acceptance of an invitation depends on, as it was read.
#[derive(Debug, Clone)]
pub(crate) struct Admission {
    invitation: Staged<Invitation>,
    organization: Staged<Organization>,
    inviter: Staged<User>,
    user_id: UserId,
    email: EmailAddress,
    role: OrganizationRole,
}

/// Reads what the acceptance depends on, and refuses what can be refused now.
pub(crate) async fn admit(
    cx: &CommandContext<'_>,
    id: InvitationId,
    user_id: UserId,
    email: &EmailAddress,
) -> Result<Admission, CommandError> {
    let unit = UnitOfWork::new(cx);
    let invitation = unit.load::<Invitation>(id).await?;
    invitation
        .state
        .must_be_pending(cx.now())
        .map_err(|error| CommandError::broken(&error))?;
    if invitation.state.email.as_ref().and_then(Personal::get) != Some(email) {
        let message = "This invitation is for another address.";
        return Err(CommandError::rule(OTHER_ADDRESS, None, message));
    }
    let state = &invitation.state;
    let (Some(organization_id), Some(role), Some(invited_by)) = (state.organization_id, state.role, state.invited_by)
    else {
        return Err(CommandError::Internal(format!("invitation {id} is not whole")));
    };
    let (organization, inviter) = tokio::try_join!(
        unit.load::<Organization>(organization_id),
        unit.load::<User>(invited_by)
    )?;
    let runs_it = matches!(
        organization.state.members.get(&invited_by),
        Some(OrganizationRole::Owner | OrganizationRole::Admin)
    );
    let may_anywhere = inviter
        .state
        .role
        .is_some_and(|role| role.permits(Permission::OrganizationInvite));
    if inviter.state.disabled || !(runs_it || may_anywhere) {
        let message = "Whoever sent this invitation may not invite people any more.";
        return Err(CommandError::rule(INVITER_NOT_ALLOWED, None, message));
    }
    Ok(Admission {
        invitation,
        organization,
        inviter,
        user_id,
        email: email.clone(),
        role,
    })
}

impl Admission {
    pub(crate) const fn organization_id(&self) -> OrganizationId {
        self.organization.id
    }

    /// Stages the acceptance; the commit depends on all that was read.
    pub(crate) fn stage(self, unit: &mut UnitOfWork<'_>) -> Result<(), CommandError> {
        let at = unit.now();
        let Self {
            user_id, email, role, ..
        } = self;
        // A user who invites themselves is loaded twice, and relied on once.
        unit.rely_on(&self.inviter);
        unit.stage(self.invitation, [InvitationCommand::Accept { user_id, email, at }])?;
        let before = self.organization.version;
        let organization = unit.stage(
            self.organization,
            [OrganizationCommand::AddMember { user_id, role, at }],
        )?;
        if organization.version == before {
            unit.rely_on(&organization);
        }
        Ok(())
    }
}
