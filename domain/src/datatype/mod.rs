//! A kind of content node, and the fields that nodes of this kind have.
//! Stream `datatype/<DatatypeId>`. Commands: [`DatatypeCommand`]; facts: [`DatatypeEvent`].

mod command;
mod error;
pub(crate) mod event;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use cqrs_es::Aggregate;
use cqrs_es::event_sink::EventSink;
use serde::{Deserialize, Serialize};

pub use command::DatatypeCommand;
pub use error::DatatypeError;
pub use event::DatatypeEvent;

use crate::ids::{DatatypeFieldId, DatatypeId, FieldId, UserId};
use crate::lifecycle::Lifecycle;
use crate::registry::EventSourced;
use crate::values::{Realm, Timestamp, is_storable};

/// The kind of datatype whose nodes are roots of delivered trees.
pub const ROOT_KIND: &str = "ROOT";

/// The datatype and its attached fields.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Datatype {
    /// Whether it exists.
    pub lifecycle: Lifecycle,
    /// Where it lives; never changes.
    pub realm: Realm,
    /// The datatype it belongs under.
    pub parent_id: Option<DatatypeId>,
    /// The name for people to read.
    pub label: String,
    /// Free text; [`ROOT_KIND`] marks page roots.
    pub kind: String,
    /// Who is named as its author.
    pub author_id: Option<UserId>,
    /// As the client says.
    pub date_created: Option<Timestamp>,
    /// As the client says.
    pub date_modified: Option<Timestamp>,
    /// The fields that nodes of this datatype have.
    pub attachments: BTreeMap<DatatypeFieldId, Attachment>,
}

/// A field attached to a datatype.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Attachment {
    /// Which field.
    pub field_id: FieldId,
    /// Its place among the fields; equal ones are ordered by id.
    pub sort_order: i64,
}

impl Aggregate for Datatype {
    const TYPE: &'static str = "datatype";
    type Command = DatatypeCommand;
    type Event = DatatypeEvent;
    type Error = DatatypeError;
    type Services = ();

    async fn handle(&mut self, command: DatatypeCommand, (): &(), sink: &EventSink<Self>) -> Result<(), DatatypeError> {
        for event in self.decide(command)? {
            sink.write(event, self).await;
        }
        Ok(())
    }

    fn apply(&mut self, event: DatatypeEvent) {
        match event {
            DatatypeEvent::Created {
                realm,
                parent_id,
                label,
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
                    kind,
                    author_id,
                    date_created,
                    date_modified,
                    attachments: BTreeMap::new(),
                };
            }
            DatatypeEvent::Changed {
                parent_id,
                label,
                kind,
                author_id,
                date_created,
                date_modified,
                at: _,
            } => {
                self.parent_id = parent_id;
                self.label = label;
                self.kind = kind;
                self.author_id = author_id;
                self.date_created = date_created;
                self.date_modified = date_modified;
            }
            DatatypeEvent::Deleted { .. } => {
                self.lifecycle = Lifecycle::Deleted;
                self.attachments.clear();
            }
            DatatypeEvent::FieldAttached {
                datatype_field_id,
                field_id,
                sort_order,
                ..
            }
            | DatatypeEvent::FieldAttachmentChanged {
                datatype_field_id,
                field_id,
                sort_order,
                ..
            } => {
                self.attachments
                    .insert(datatype_field_id, Attachment { field_id, sort_order });
            }
            DatatypeEvent::FieldDetached { datatype_field_id, .. } => {
                self.attachments.remove(&datatype_field_id);
            }
        }
    }
}

impl EventSourced for Datatype {
    type Id = DatatypeId;

    fn decide(&self, command: DatatypeCommand) -> Result<Vec<DatatypeEvent>, DatatypeError> {
        match command {
            DatatypeCommand::Create {
                realm,
                parent_id,
                label,
                kind,
                author_id,
                date_created,
                date_modified,
                at,
            } => {
                self.must_be_new()?;
                must_be_storable(&label, &kind)?;
                Ok(vec![DatatypeEvent::Created {
                    realm,
                    parent_id,
                    label,
                    kind,
                    author_id,
                    date_created,
                    date_modified,
                    at,
                }])
            }
            DatatypeCommand::Change {
                parent_id,
                label,
                kind,
                author_id,
                date_created,
                date_modified,
                at,
            } => {
                self.must_be_live()?;
                must_be_storable(&label, &kind)?;
                Ok(self.unless_so_already(DatatypeEvent::Changed {
                    parent_id,
                    label,
                    kind,
                    author_id,
                    date_created,
                    date_modified,
                    at,
                }))
            }
            DatatypeCommand::Delete { at } => {
                self.must_be_live()?;
                Ok(vec![DatatypeEvent::Deleted { at }])
            }
            DatatypeCommand::AttachField {
                datatype_field_id,
                field_id,
                sort_order,
                at,
            } => {
                self.must_be_live()?;
                if self.attachments.contains_key(&datatype_field_id) {
                    return Err(DatatypeError::AttachmentAlreadyExists);
                }
                Ok(vec![DatatypeEvent::FieldAttached {
                    datatype_field_id,
                    field_id,
                    sort_order,
                    at,
                }])
            }
            DatatypeCommand::ChangeAttachment {
                datatype_field_id,
                field_id,
                sort_order,
                at,
            } => {
                self.must_have(datatype_field_id)?;
                Ok(self.unless_so_already(DatatypeEvent::FieldAttachmentChanged {
                    datatype_field_id,
                    field_id,
                    sort_order,
                    at,
                }))
            }
            DatatypeCommand::DetachField { datatype_field_id, at } => {
                self.must_have(datatype_field_id)?;
                Ok(vec![DatatypeEvent::FieldDetached { datatype_field_id, at }])
            }
        }
    }
}

impl Datatype {
    fn must_be_new(&self) -> Result<(), DatatypeError> {
        match self.lifecycle {
            Lifecycle::Absent => Ok(()),
            Lifecycle::Live => Err(DatatypeError::AlreadyExists),
            Lifecycle::Deleted => Err(DatatypeError::NotFound),
        }
    }

    fn must_be_live(&self) -> Result<(), DatatypeError> {
        if self.lifecycle.is_live() {
            Ok(())
        } else {
            Err(DatatypeError::NotFound)
        }
    }

    fn must_have(&self, attachment: DatatypeFieldId) -> Result<(), DatatypeError> {
        self.must_be_live()?;
        if self.attachments.contains_key(&attachment) {
            Ok(())
        } else {
            Err(DatatypeError::AttachmentNotFound)
        }
    }

    /// The event, unless it would leave everything as it is.
    fn unless_so_already(&self, event: DatatypeEvent) -> Vec<DatatypeEvent> {
        let mut next = self.clone();
        next.apply(event.clone());
        if next == *self { vec![] } else { vec![event] }
    }
}

fn must_be_storable(label: &str, kind: &str) -> Result<(), DatatypeError> {
    for (field, text) in [("label", label), ("type", kind)] {
        if !is_storable(text) {
            return Err(DatatypeError::TextInvalid(field));
        }
    }
    Ok(())
}
