//! A public path that content hangs under.
//! Stream `route/<RouteId>`. Commands: [`RouteCommand`]; facts: [`RouteEvent`].

mod command;
mod error;
pub(crate) mod event;
#[cfg(test)]
mod tests;

use cqrs_es::Aggregate;
use cqrs_es::event_sink::EventSink;
use serde::{Deserialize, Serialize};

pub use command::RouteCommand;
pub use error::RouteError;
pub use event::RouteEvent;

use crate::ids::{RouteId, UserId};
use crate::lifecycle::Lifecycle;
use crate::registry::EventSourced;
use crate::values::{Realm, Slug, Timestamp, is_storable};

/// The path and its title.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    /// Whether it exists.
    pub lifecycle: Lifecycle,
    /// Where it lives; never changes.
    pub realm: Realm,
    /// The path, unique within the realm; absent before creation.
    pub slug: Option<Slug>,
    /// The name for people to read.
    pub title: String,
    /// A number whose meaning is the client's.
    pub status: i64,
    /// Who is named as its author.
    pub author_id: Option<UserId>,
    /// As the client says.
    pub date_created: Option<Timestamp>,
    /// As the client says.
    pub date_modified: Option<Timestamp>,
}

impl Aggregate for Route {
    const TYPE: &'static str = "route";
    type Command = RouteCommand;
    type Event = RouteEvent;
    type Error = RouteError;
    type Services = ();

    async fn handle(&mut self, command: RouteCommand, (): &(), sink: &EventSink<Self>) -> Result<(), RouteError> {
        for event in self.decide(command)? {
            sink.write(event, self).await;
        }
        Ok(())
    }

    fn apply(&mut self, event: RouteEvent) {
        match event {
            RouteEvent::Created {
                realm,
                slug,
                title,
                status,
                author_id,
                date_created,
                date_modified,
                at: _,
            }
            | RouteEvent::Changed {
                realm,
                slug,
                title,
                status,
                author_id,
                date_created,
                date_modified,
                at: _,
            } => {
                *self = Self {
                    lifecycle: Lifecycle::Live,
                    realm,
                    slug: Some(slug),
                    title,
                    status,
                    author_id,
                    date_created,
                    date_modified,
                };
            }
            RouteEvent::Deleted { .. } => self.lifecycle = Lifecycle::Deleted,
        }
    }
}

impl EventSourced for Route {
    type Id = RouteId;

    fn decide(&self, command: RouteCommand) -> Result<Vec<RouteEvent>, RouteError> {
        match command {
            RouteCommand::Create {
                realm,
                slug,
                title,
                status,
                author_id,
                date_created,
                date_modified,
                at,
            } => {
                self.must_be_new()?;
                must_be_storable(&title)?;
                Ok(vec![RouteEvent::Created {
                    realm,
                    slug,
                    title,
                    status,
                    author_id,
                    date_created,
                    date_modified,
                    at,
                }])
            }
            RouteCommand::Change {
                slug,
                title,
                status,
                author_id,
                date_created,
                date_modified,
                at,
            } => {
                self.must_be_live()?;
                must_be_storable(&title)?;
                Ok(self.unless_so_already(RouteEvent::Changed {
                    realm: self.realm,
                    slug,
                    title,
                    status,
                    author_id,
                    date_created,
                    date_modified,
                    at,
                }))
            }
            RouteCommand::Delete { at } => {
                self.must_be_live()?;
                Ok(vec![RouteEvent::Deleted { at }])
            }
        }
    }
}

impl Route {
    fn must_be_new(&self) -> Result<(), RouteError> {
        match self.lifecycle {
            Lifecycle::Absent => Ok(()),
            Lifecycle::Live => Err(RouteError::AlreadyExists),
            Lifecycle::Deleted => Err(RouteError::NotFound),
        }
    }

    fn must_be_live(&self) -> Result<(), RouteError> {
        if self.lifecycle.is_live() {
            Ok(())
        } else {
            Err(RouteError::NotFound)
        }
    }

    /// The event, unless it would leave everything as it is.
    fn unless_so_already(&self, event: RouteEvent) -> Vec<RouteEvent> {
        let mut next = self.clone();
        next.apply(event.clone());
        if next == *self { vec![] } else { vec![event] }
    }
}

fn must_be_storable(title: &str) -> Result<(), RouteError> {
    if is_storable(title) {
        Ok(())
    } else {
        Err(RouteError::TextInvalid("title"))
    }
}
