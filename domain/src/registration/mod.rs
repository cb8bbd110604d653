//! A wish for an account whose address is not proven yet. No user exists before it is.
//! Stream `registration/<RegistrationId>`. Commands: [`RegistrationCommand`]; facts: [`RegistrationEvent`].

mod command;
mod error;
pub(crate) mod event;
#[cfg(test)]
mod tests;

use cqrs_es::Aggregate;
use cqrs_es::event_sink::EventSink;
use serde::{Deserialize, Serialize};

pub use command::RegistrationCommand;
pub use error::RegistrationError;
pub use event::RegistrationEvent;

use crate::ids::{InvitationId, RegistrationId, UserId};
use crate::personal::Personal;
use crate::registry::EventSourced;
use crate::values::{EmailAddress, PasswordHash, Timestamp, is_storable};

/// How far a registration is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RegistrationStatus {
    /// Waiting for the address to be proven; it may be past its time.
    Pending,
    /// An account.
    Verified,
    /// Given up.
    Lapsed,
}

/// What the account will be made of.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Registration {
    /// The user it will become; absent before it was asked for.
    pub user_id: Option<UserId>,
    /// Where mail reaches the person.
    pub email: Option<Personal<EmailAddress>>,
    /// The hash of the chosen password.
    pub password: Option<Personal<PasswordHash>>,
    /// The name for people to read.
    pub name: Option<Personal<String>>,
    /// The organization to found with the account.
    pub organization_name: Option<String>,
    /// The invitation to accept with it.
    pub invitation_id: Option<InvitationId>,
    /// When it lapses.
    pub expires_at: Option<Timestamp>,
    /// How far it is; absent before it was asked for.
    pub status: Option<RegistrationStatus>,
}

impl Aggregate for Registration {
    const TYPE: &'static str = "registration";
    type Command = RegistrationCommand;
    type Event = RegistrationEvent;
    type Error = RegistrationError;
    type Services = ();

    async fn handle(
        &mut self,
        command: RegistrationCommand,
        (): &(),
        sink: &EventSink<Self>,
    ) -> Result<(), RegistrationError> {
        for event in self.decide(command)? {
            sink.write(event, self).await;
        }
        Ok(())
    }

    fn apply(&mut self, event: RegistrationEvent) {
        match event {
            RegistrationEvent::Requested {
                user_id,
                email,
                password,
                name,
                organization_name,
                invitation_id,
                expires_at,
                ..
            } => {
                self.user_id = Some(user_id);
                self.email = Some(email);
                self.password = Some(password);
                self.name = Some(name);
                self.organization_name = organization_name;
                self.invitation_id = invitation_id;
                self.expires_at = Some(expires_at);
                self.status = Some(RegistrationStatus::Pending);
            }
            RegistrationEvent::Verified { .. } => self.status = Some(RegistrationStatus::Verified),
            RegistrationEvent::Lapsed { .. } => self.status = Some(RegistrationStatus::Lapsed),
        }
    }
}

impl EventSourced for Registration {
    type Id = RegistrationId;

    fn decide(&self, command: RegistrationCommand) -> Result<Vec<RegistrationEvent>, RegistrationError> {
        match command {
            RegistrationCommand::Request {
                user_id,
                email,
                password,
                name,
                organization_name,
                invitation_id,
                expires_at,
                at,
            } => {
                if self.status.is_some() {
                    return Err(RegistrationError::AlreadyRequested);
                }
                if name.get().is_some_and(|text| !is_storable(text)) {
                    return Err(RegistrationError::TextInvalid("name"));
                }
                if organization_name.as_ref().is_some_and(|text| !is_storable(text)) {
                    return Err(RegistrationError::TextInvalid("organization_name"));
                }
                Ok(vec![RegistrationEvent::Requested {
                    user_id,
                    email,
                    password,
                    name,
                    organization_name,
                    invitation_id,
                    expires_at,
                    at,
                }])
            }
            RegistrationCommand::Verify { at } => match self.status {
                None => Err(RegistrationError::NotFound),
                Some(RegistrationStatus::Pending) if !self.is_past(at) => Ok(vec![RegistrationEvent::Verified { at }]),
                Some(_) => Err(RegistrationError::NotPending),
            },
            RegistrationCommand::Lapse { at } => match self.status {
                None => Err(RegistrationError::NotFound),
                Some(RegistrationStatus::Pending) if self.is_past(at) => Ok(vec![RegistrationEvent::Lapsed { at }]),
                Some(RegistrationStatus::Pending) => Err(RegistrationError::NotExpired),
                Some(_) => Ok(vec![]),
            },
        }
    }
}

impl Registration {
    /// Whether the address can still be proven at this moment.
    #[must_use]
    pub fn is_pending(&self, at: Timestamp) -> bool {
        self.status == Some(RegistrationStatus::Pending) && !self.is_past(at)
    }

    fn is_past(&self, at: Timestamp) -> bool {
        self.expires_at.is_some_and(|expires_at| at >= expires_at)
    }
}
