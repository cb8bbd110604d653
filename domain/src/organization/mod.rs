//! A group of users.
//! Stream `organization/<OrganizationId>`. Commands: [`OrganizationCommand`]; facts: [`OrganizationEvent`].

mod command;
mod error;
pub(crate) mod event;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use cqrs_es::Aggregate;
use cqrs_es::event_sink::EventSink;
use serde::{Deserialize, Serialize};

pub use command::OrganizationCommand;
pub use error::OrganizationError;
pub use event::{OrganizationEvent, OrganizationRole};

use crate::ids::{OrganizationId, UserId};
use crate::registry::EventSourced;
use crate::values::{Timestamp, is_storable};

/// Longest short name, in bytes.
pub const SLUG_LIMIT: usize = 64;

/// The group's names and members.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Organization {
    /// The name for people to read.
    pub name: String,
    /// The short name for addresses; no other organization's.
    pub slug: String,
    /// Everyone who belongs to it, and as what.
    pub members: BTreeMap<UserId, OrganizationRole>,
    /// When it was founded; absent before.
    pub founded_at: Option<Timestamp>,
    /// When anything here last changed; founding counts.
    pub changed_at: Option<Timestamp>,
}

impl Aggregate for Organization {
    const TYPE: &'static str = "organization";
    type Command = OrganizationCommand;
    type Event = OrganizationEvent;
    type Error = OrganizationError;
    type Services = ();

    async fn handle(
        &mut self,
        command: OrganizationCommand,
        (): &(),
        sink: &EventSink<Self>,
    ) -> Result<(), OrganizationError> {
        for event in self.decide(command)? {
            sink.write(event, self).await;
        }
        Ok(())
    }

    fn apply(&mut self, event: OrganizationEvent) {
        match event {
            OrganizationEvent::Founded { name, slug, at } => {
                self.name = name;
                self.slug = slug;
                self.founded_at = Some(at);
                self.changed_at = Some(at);
            }
            OrganizationEvent::MemberAdded { user_id, role, at } => {
                self.members.insert(user_id, role);
                self.changed_at = Some(at);
            }
        }
    }
}

impl EventSourced for Organization {
    type Id = OrganizationId;

    fn decide(&self, command: OrganizationCommand) -> Result<Vec<OrganizationEvent>, OrganizationError> {
        match command {
            OrganizationCommand::Found { name, slug, owner, at } => {
                if self.founded_at.is_some() {
                    return Err(OrganizationError::AlreadyExists);
                }
                if name.trim().is_empty() || !is_storable(&name) {
                    return Err(OrganizationError::NameInvalid);
                }
                if !is_slug(&slug) {
                    return Err(OrganizationError::SlugInvalid);
                }
                let role = OrganizationRole::Owner;
                Ok(vec![
                    OrganizationEvent::Founded { name, slug, at },
                    OrganizationEvent::MemberAdded {
                        user_id: owner,
                        role,
                        at,
                    },
                ])
            }
            OrganizationCommand::AddMember { user_id, role, at } => {
                if self.founded_at.is_none() {
                    return Err(OrganizationError::NotFound);
                }
                match self.members.get(&user_id) {
                    None => Ok(vec![OrganizationEvent::MemberAdded { user_id, role, at }]),
                    Some(present) if *present == role => Ok(vec![]),
                    Some(_) => Err(OrganizationError::AlreadyMember),
                }
            }
        }
    }
}

/// 1 to 64 of a-z, 0-9 and single hyphens, none at an end.
fn is_slug(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= SLUG_LIMIT
        && text
            .bytes()
            .all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-'))
        && !text.starts_with('-')
        && !text.ends_with('-')
        && !text.contains("--")
}
