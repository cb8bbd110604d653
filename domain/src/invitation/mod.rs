//! An invitation of one address into one organization.
//! Stream `invitation/<InvitationId>`. Commands: [`InvitationCommand`]; facts: [`InvitationEvent`].

mod command;
mod error;
pub(crate) mod event;
#[cfg(test)]
mod tests;

use cqrs_es::Aggregate;
use cqrs_es::event_sink::EventSink;
use serde::{Deserialize, Serialize};

pub use command::InvitationCommand;
pub use error::InvitationError;
pub use event::{InvitationEvent, pending_key};

use crate::ids::{InvitationId, OrganizationId, UserId};
use crate::organization::OrganizationRole;
use crate::personal::Personal;
use crate::registry::EventSourced;
use crate::values::{EmailAddress, Timestamp};

/// How far an invitation is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum InvitationStatus {
    /// Waiting; it may be past its time.
    Pending,
    /// Accepted.
    Accepted,
    /// Given up.
    Lapsed,
}

/// Who is invited, by whom, and as what.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Invitation {
    /// Into which organization; absent before it was issued.
    pub organization_id: Option<OrganizationId>,
    /// Who.
    pub email: Option<Personal<EmailAddress>>,
    /// As what.
    pub role: Option<OrganizationRole>,
    /// By whom.
    pub invited_by: Option<UserId>,
    /// When it lapses.
    pub expires_at: Option<Timestamp>,
    /// How far it is; absent before it was issued.
    pub status: Option<InvitationStatus>,
}

impl Aggregate for Invitation {
    const TYPE: &'static str = "invitation";
    type Command = InvitationCommand;
    type Event = InvitationEvent;
    type Error = InvitationError;
    type Services = ();

    async fn handle(
        &mut self,
        command: InvitationCommand,
        (): &(),
        sink: &EventSink<Self>,
    ) -> Result<(), InvitationError> {
        for event in self.decide(command)? {
            sink.write(event, self).await;
        }
        Ok(())
    }

    fn apply(&mut self, event: InvitationEvent) {
        match event {
            InvitationEvent::Issued {
                organization_id,
                email,
                role,
                invited_by,
                expires_at,
                ..
            } => {
                self.organization_id = Some(organization_id);
                self.email = Some(email);
                self.role = Some(role);
                self.invited_by = Some(invited_by);
                self.expires_at = Some(expires_at);
                self.status = Some(InvitationStatus::Pending);
            }
            InvitationEvent::Accepted { .. } => self.status = Some(InvitationStatus::Accepted),
            InvitationEvent::Lapsed { .. } => self.status = Some(InvitationStatus::Lapsed),
        }
    }
}

impl EventSourced for Invitation {
    type Id = InvitationId;

    fn decide(&self, command: InvitationCommand) -> Result<Vec<InvitationEvent>, InvitationError> {
        match command {
            InvitationCommand::Issue {
                organization_id,
                email,
                role,
                invited_by,
                expires_at,
                at,
            } => {
                if self.status.is_some() {
                    return Err(InvitationError::AlreadyIssued);
                }
                if role == OrganizationRole::Owner {
                    return Err(InvitationError::RoleInvalid);
                }
                Ok(vec![InvitationEvent::Issued {
                    organization_id,
                    email,
                    role,
                    invited_by,
                    expires_at,
                    at,
                }])
            }
            InvitationCommand::Accept { user_id, email, at } => {
                self.must_be_pending(at)?;
                if self.email.as_ref().and_then(Personal::get) != Some(&email) {
                    return Err(InvitationError::OtherAddress);
                }
                Ok(vec![InvitationEvent::Accepted { user_id, at }])
            }
            InvitationCommand::Lapse { at } => match self.must_be_pending(at) {
                Ok(()) => Err(InvitationError::NotExpired),
                Err(InvitationError::NotFound) => Err(InvitationError::NotFound),
                Err(_) if self.status == Some(InvitationStatus::Pending) => Ok(vec![InvitationEvent::Lapsed { at }]),
                Err(_) => Ok(vec![]),
            },
        }
    }
}

impl Invitation {
    /// Whether it can be accepted at this moment.
    ///
    /// # Errors
    /// [`InvitationError::NotFound`], [`InvitationError::AlreadyUsed`], [`InvitationError::Expired`].
    pub fn must_be_pending(&self, at: Timestamp) -> Result<(), InvitationError> {
        match self.status {
            None => Err(InvitationError::NotFound),
            Some(InvitationStatus::Accepted) => Err(InvitationError::AlreadyUsed),
            Some(InvitationStatus::Lapsed) => Err(InvitationError::Expired),
            Some(InvitationStatus::Pending) if self.expires_at.is_some_and(|expires_at| at >= expires_at) => {
                Err(InvitationError::Expired)
            }
            Some(InvitationStatus::Pending) => Ok(()),
        }
    }
}
