//! The definition of a field: what it is called, what kind of value it holds and how it is checked.
//! Stream `field/<FieldId>`. Commands: [`FieldCommand`]; facts: [`FieldEvent`].

mod command;
mod error;
pub(crate) mod event;
#[cfg(test)]
mod tests;

use cqrs_es::Aggregate;
use cqrs_es::event_sink::EventSink;
use serde::{Deserialize, Serialize};

pub use command::FieldCommand;
pub use error::FieldError;
pub use event::{FieldEvent, FieldKind, UnknownFieldKind};

use crate::ids::{DatatypeId, FieldId, UserId};
use crate::lifecycle::Lifecycle;
use crate::registry::EventSourced;
use crate::values::{Realm, Timestamp, is_storable};

/// The field's definition.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Field {
    /// Whether it exists.
    pub lifecycle: Lifecycle,
    /// Where it lives; never changes.
    pub realm: Realm,
    /// The datatype it was made for.
    pub parent_id: Option<DatatypeId>,
    /// The name for people to read; delivered documents derive their keys from it.
    pub label: String,
    /// Free text.
    pub data: String,
    /// JSON as text.
    pub validation: String,
    /// JSON as text.
    pub ui_config: String,
    /// What kind of value it holds.
    pub kind: FieldKind,
    /// Who is named as its author.
    pub author_id: Option<UserId>,
    /// As the client says.
    pub date_created: Option<Timestamp>,
    /// As the client says.
    pub date_modified: Option<Timestamp>,
}

impl Aggregate for Field {
    const TYPE: &'static str = "field";
    type Command = FieldCommand;
    type Event = FieldEvent;
    type Error = FieldError;
    type Services = ();

    async fn handle(&mut self, command: FieldCommand, (): &(), sink: &EventSink<Self>) -> Result<(), FieldError> {
        for event in self.decide(command)? {
            sink.write(event, self).await;
        }
        Ok(())
    }

    fn apply(&mut self, event: FieldEvent) {
        match event {
            FieldEvent::Created {
                realm,
                parent_id,
                label,
                data,
                validation,
                ui_config,
                kind,
                author_id,
                date_created,
                date_modified,
                at: _,
            } => {
                *self = Self {
                    lifecycle: Lifecycle::Live,
                    realm,
                    parent_id,
                    label,
                    data,
                    validation,
                    ui_config,
                    kind,
                    author_id,
                    date_created,
                    date_modified,
                };
            }
            FieldEvent::Changed {
                parent_id,
                label,
                data,
                validation,
                ui_config,
                kind,
                author_id,
                date_created,
                date_modified,
                at: _,
            } => {
                *self = Self {
                    lifecycle: self.lifecycle,
                    realm: self.realm,
                    parent_id,
                    label,
                    data,
                    validation,
                    ui_config,
                    kind,
                    author_id,
                    date_created,
                    date_modified,
                };
            }
            FieldEvent::Deleted { .. } => self.lifecycle = Lifecycle::Deleted,
        }
    }
}

impl EventSourced for Field {
    type Id = FieldId;

    fn decide(&self, command: FieldCommand) -> Result<Vec<FieldEvent>, FieldError> {
        match command {
            FieldCommand::Create {
                realm,
                parent_id,
                label,
                data,
                validation,
                ui_config,
                kind,
                author_id,
                date_created,
                date_modified,
                at,
            } => {
                self.must_be_new()?;
                must_be_storable(&label, &data, &validation, &ui_config)?;
                Ok(vec![FieldEvent::Created {
                    realm,
                    parent_id,
                    label,
                    data,
                    validation: or_empty_object(validation),
                    ui_config: or_empty_object(ui_config),
                    kind,
                    author_id,
                    date_created,
                    date_modified,
                    at,
                }])
            }
            FieldCommand::Change {
                parent_id,
                label,
                data,
                validation,
                ui_config,
                kind,
                author_id,
                date_created,
                date_modified,
                at,
            } => {
                self.must_be_live()?;
                must_be_storable(&label, &data, &validation, &ui_config)?;
                Ok(self.unless_so_already(FieldEvent::Changed {
                    parent_id,
                    label,
                    data,
                    validation: or_empty_object(validation),
                    ui_config: or_empty_object(ui_config),
                    kind,
                    author_id,
                    date_created,
                    date_modified,
                    at,
                }))
            }
            FieldCommand::Delete { at } => {
                self.must_be_live()?;
                Ok(vec![FieldEvent::Deleted { at }])
            }
        }
    }
}

impl Field {
    fn must_be_new(&self) -> Result<(), FieldError> {
        match self.lifecycle {
            Lifecycle::Absent => Ok(()),
            Lifecycle::Live => Err(FieldError::AlreadyExists),
            Lifecycle::Deleted => Err(FieldError::NotFound),
        }
    }

    fn must_be_live(&self) -> Result<(), FieldError> {
        if self.lifecycle.is_live() {
            Ok(())
        } else {
            Err(FieldError::NotFound)
        }
    }

    /// The event, unless it would leave everything as it is.
    fn unless_so_already(&self, event: FieldEvent) -> Vec<FieldEvent> {
        let mut next = self.clone();
        next.apply(event.clone());
        if next == *self { vec![] } else { vec![event] }
    }
}

/// ModulaCMS clients parse these texts as JSON and send an empty one for "nothing".
fn or_empty_object(json: String) -> String {
    if json.is_empty() { "{}".to_owned() } else { json }
}

fn must_be_storable(label: &str, data: &str, validation: &str, ui_config: &str) -> Result<(), FieldError> {
    let texts = [
        ("label", label),
        ("data", data),
        ("validation", validation),
        ("ui_config", ui_config),
    ];
    for (field, text) in texts {
        if !is_storable(text) {
            return Err(FieldError::TextInvalid(field));
        }
    }
    Ok(())
}
