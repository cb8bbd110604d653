//! A person with an account.
//! Stream `user/<UserId>`. Commands: [`UserCommand`]; facts: [`UserEvent`]. Credentials are in [`crate::auth`].

mod command;
mod error;
pub(crate) mod event;
#[cfg(test)]
mod tests;

use cqrs_es::Aggregate;
use cqrs_es::event_sink::EventSink;
use serde::{Deserialize, Serialize};

pub use command::UserCommand;
pub use error::UserError;
pub use event::UserEvent;

use crate::ids::UserId;
use crate::permission::Role;
use crate::personal::Personal;
use crate::registry::EventSourced;
use crate::values::{EmailAddress, Timestamp, Username, is_storable};

/// Who the person is and what they may do.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    /// Where mail reaches them; absent before registration.
    pub email: Option<Personal<EmailAddress>>,
    /// The name they sign in with; absent before registration.
    pub username: Option<Personal<Username>>,
    /// The name for people to read, possibly empty; absent before registration.
    pub name: Option<Personal<String>>,
    /// What they may do; absent before registration.
    pub role: Option<Role>,
    /// Whether they have proven that the address is theirs.
    pub verified: bool,
    /// When they proved it.
    pub verified_at: Option<Timestamp>,
    /// When they finished the first steps.
    pub onboarded_at: Option<Timestamp>,
    /// Whether they are kept from signing in.
    pub disabled: bool,
    /// When they registered.
    pub registered_at: Option<Timestamp>,
    /// When anything here last changed; registration counts.
    pub changed_at: Option<Timestamp>,
}

impl Aggregate for User {
    const TYPE: &'static str = "user";
    type Command = UserCommand;
    type Event = UserEvent;
    type Error = UserError;
    type Services = ();

    async fn handle(&mut self, command: UserCommand, (): &(), sink: &EventSink<Self>) -> Result<(), UserError> {
        for event in self.decide(command)? {
            sink.write(event, self).await;
        }
        Ok(())
    }

    fn apply(&mut self, event: UserEvent) {
        match event {
            UserEvent::Registered {
                email,
                username,
                name,
                role,
                at,
            } => {
                self.email = Some(email);
                self.username = Some(username);
                self.name = Some(name);
                self.role = Some(role);
                self.registered_at = Some(at);
                self.changed_at = Some(at);
            }
            UserEvent::ProfileChanged { name, at } => {
                self.name = Some(name);
                self.changed_at = Some(at);
            }
            UserEvent::EmailVerified { at } => {
                self.verified = true;
                self.verified_at = Some(at);
                self.changed_at = Some(at);
            }
            UserEvent::OnboardingCompleted { at } => self.onboarded_at = Some(at),
            UserEvent::Disabled { at, .. } => {
                self.disabled = true;
                self.changed_at = Some(at);
            }
            UserEvent::Enabled { at } => {
                self.disabled = false;
                self.changed_at = Some(at);
            }
        }
    }
}

impl EventSourced for User {
    type Id = UserId;

    fn decide(&self, command: UserCommand) -> Result<Vec<UserEvent>, UserError> {
        match command {
            UserCommand::Register {
                email,
                username,
                name,
                role,
                at,
            } => {
                if self.is_registered() {
                    return Err(UserError::AlreadyRegistered);
                }
                let name = storable_name(name)?;
                Ok(vec![UserEvent::Registered {
                    email,
                    username,
                    name,
                    role,
                    at,
                }])
            }
            UserCommand::ChangeProfile { name, at } => {
                self.must_be_registered()?;
                if self.disabled {
                    return Err(UserError::Disabled);
                }
                let name = storable_name(name)?;
                if self.name.as_ref() == Some(&name) {
                    return Ok(vec![]);
                }
                Ok(vec![UserEvent::ProfileChanged { name, at }])
            }
            UserCommand::VerifyEmail { at } => {
                self.must_be_registered()?;
                if self.disabled {
                    return Err(UserError::Disabled);
                }
                if self.verified {
                    return Ok(vec![]);
                }
                Ok(vec![UserEvent::EmailVerified { at }])
            }
            UserCommand::CompleteOnboarding { at } => {
                self.must_be_registered()?;
                if self.onboarded_at.is_some() {
                    return Ok(vec![]);
                }
                Ok(vec![UserEvent::OnboardingCompleted { at }])
            }
            UserCommand::Disable { reason, at } => {
                self.must_be_registered()?;
                if self.disabled {
                    return Ok(vec![]);
                }
                if !is_storable(&reason) {
                    return Err(UserError::TextInvalid("reason"));
                }
                Ok(vec![UserEvent::Disabled { reason, at }])
            }
            UserCommand::Enable { at } => {
                self.must_be_registered()?;
                if !self.disabled {
                    return Ok(vec![]);
                }
                Ok(vec![UserEvent::Enabled { at }])
            }
        }
    }
}

impl User {
    /// Whether anybody has registered under this identifier.
    #[must_use]
    pub const fn is_registered(&self) -> bool {
        self.registered_at.is_some()
    }

    fn must_be_registered(&self) -> Result<(), UserError> {
        if self.is_registered() {
            Ok(())
        } else {
            Err(UserError::NotFound)
        }
    }
}

fn storable_name(name: Personal<String>) -> Result<Personal<String>, UserError> {
    match name.get() {
        Some(text) if !is_storable(text) => Err(UserError::TextInvalid("name")),
        _ => Ok(name),
    }
}
