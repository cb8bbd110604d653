//! The credentials of one user.
//! Stream `auth/<UserId>`. Commands: [`AuthCommand`]; facts: [`AuthEvent`].

mod command;
mod error;
pub(crate) mod event;
#[cfg(test)]
mod tests;

use cqrs_es::Aggregate;
use cqrs_es::event_sink::EventSink;
use serde::{Deserialize, Serialize};

pub use command::AuthCommand;
pub use error::AuthError;
pub use event::AuthEvent;

use crate::ids::UserId;
use crate::personal::Personal;
use crate::registry::EventSourced;
use crate::values::PasswordHash;

/// What is needed to check a user's password.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Auth {
    /// The hash in force; absent while no password has been set.
    pub password: Option<Personal<PasswordHash>>,
    /// Wrong passwords since the present one was set.
    pub failures: u32,
}

impl Aggregate for Auth {
    const TYPE: &'static str = "auth";
    type Command = AuthCommand;
    type Event = AuthEvent;
    type Error = AuthError;
    type Services = ();

    async fn handle(&mut self, command: AuthCommand, (): &(), sink: &EventSink<Self>) -> Result<(), AuthError> {
        for event in self.decide(command)? {
            sink.write(event, self).await;
        }
        Ok(())
    }

    fn apply(&mut self, event: AuthEvent) {
        match event {
            AuthEvent::PasswordSet { password, .. } | AuthEvent::PasswordChanged { password, .. } => {
                self.password = Some(password);
                self.failures = 0;
            }
            AuthEvent::PasswordFailed { .. } => self.failures = self.failures.saturating_add(1),
        }
    }
}

impl EventSourced for Auth {
    type Id = UserId;

    fn decide(&self, command: AuthCommand) -> Result<Vec<AuthEvent>, AuthError> {
        match command {
            AuthCommand::SetPassword { hash, at } => {
                if self.password.is_some() {
                    return Err(AuthError::PasswordAlreadySet);
                }
                Ok(vec![AuthEvent::PasswordSet { password: hash, at }])
            }
            AuthCommand::ChangePassword { hash, at } => {
                self.must_have_password()?;
                Ok(vec![AuthEvent::PasswordChanged { password: hash, at }])
            }
            AuthCommand::RecordFailure { address, device, at } => {
                self.must_have_password()?;
                Ok(vec![AuthEvent::PasswordFailed { address, device, at }])
            }
        }
    }
}

impl Auth {
    fn must_have_password(&self) -> Result<(), AuthError> {
        if self.password.is_some() {
            Ok(())
        } else {
            Err(AuthError::NotFound)
        }
    }
}
