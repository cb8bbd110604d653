//! One node of the content tree: its place, its datatype, its field values and its publication state.
//! Stream `content/<ContentId>`. Commands: [`ContentCommand`]; facts: [`ContentEvent`].
//!
//! A node knows its parent, but neither its siblings nor its children: their order is the read models' business.

mod command;
mod error;
pub(crate) mod event;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use cqrs_es::Aggregate;
use cqrs_es::event_sink::EventSink;
use serde::{Deserialize, Serialize};

pub use command::ContentCommand;
pub use error::ContentError;
pub use event::{ContentEvent, ContentStatus, FieldValue, Place, UnknownContentStatus};

use crate::ids::{ContentFieldId, ContentId, DatatypeId, RouteId, UserId};
use crate::lifecycle::Lifecycle;
use crate::registry::EventSourced;
use crate::values::{Realm, Timestamp, is_storable};

/// The node.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Content {
    /// Whether it exists.
    pub lifecycle: Lifecycle,
    /// Its own identifier; absent before creation.
    pub content_id: Option<ContentId>,
    /// Where it lives; never changes.
    pub realm: Realm,
    /// What kind of node it is.
    pub datatype_id: Option<DatatypeId>,
    /// The route it is delivered under.
    pub route_id: Option<RouteId>,
    /// The node it hangs under; it may have been deleted since.
    pub parent_id: Option<ContentId>,
    /// How far it is from being public.
    pub status: ContentStatus,
    /// Who is named as its author.
    pub author_id: Option<UserId>,
    /// As the client says.
    pub date_created: Option<Timestamp>,
    /// As the client says.
    pub date_modified: Option<Timestamp>,
    /// Its values, none once deleted.
    pub fields: BTreeMap<ContentFieldId, FieldValue>,
}

impl Aggregate for Content {
    const TYPE: &'static str = "content";
    type Command = ContentCommand;
    type Event = ContentEvent;
    type Error = ContentError;
    type Services = ();

    async fn handle(&mut self, command: ContentCommand, (): &(), sink: &EventSink<Self>) -> Result<(), ContentError> {
        for event in self.decide(command)? {
            sink.write(event, self).await;
        }
        Ok(())
    }

    fn apply(&mut self, event: ContentEvent) {
        match event {
            ContentEvent::Created {
                content_id,
                realm,
                datatype_id,
                route_id,
                parent_id,
                place: _,
                status,
                author_id,
                date_created,
                date_modified,
                at: _,
            } => {
                *self = Self {
                    lifecycle: Lifecycle::Live,
                    content_id: Some(content_id),
                    realm,
                    datatype_id,
                    route_id,
                    parent_id,
                    status,
                    author_id,
                    date_created,
                    date_modified,
                    fields: BTreeMap::new(),
                };
            }
            ContentEvent::FieldsChanged { set, removed, at: _ } => {
                for id in removed {
                    self.fields.remove(&id);
                }
                self.fields
                    .extend(set.into_iter().map(|value| (value.content_field_id, value)));
            }
            ContentEvent::Moved { parent_id, .. } => self.parent_id = parent_id,
            ContentEvent::DetailsChanged {
                route_id,
                datatype_id,
                author_id,
                date_created,
                date_modified,
                at: _,
            } => {
                self.route_id = route_id;
                self.datatype_id = datatype_id;
                self.author_id = author_id;
                self.date_created = date_created;
                self.date_modified = date_modified;
            }
            ContentEvent::Published { .. } => self.status = ContentStatus::Published,
            ContentEvent::Archived { .. } => self.status = ContentStatus::Archived,
            ContentEvent::Submitted { .. } => self.status = ContentStatus::Pending,
            ContentEvent::Withdrawn { .. } => self.status = ContentStatus::Draft,
            ContentEvent::Deleted { .. } => {
                self.lifecycle = Lifecycle::Deleted;
                self.fields.clear();
            }
        }
    }
}

impl EventSourced for Content {
    type Id = ContentId;

    fn decide(&self, command: ContentCommand) -> Result<Vec<ContentEvent>, ContentError> {
        match command {
            ContentCommand::Create {
                content_id,
                realm,
                datatype_id,
                route_id,
                parent_id,
                place,
                status,
                author_id,
                date_created,
                date_modified,
                at,
            } => {
                self.must_be_new()?;
                must_hang_elsewhere(content_id, parent_id, place)?;
                Ok(vec![ContentEvent::Created {
                    content_id,
                    realm,
                    datatype_id,
                    route_id,
                    parent_id,
                    place,
                    status,
                    author_id,
                    date_created,
                    date_modified,
                    at,
                }])
            }
            ContentCommand::ChangeFields { set, removed, at } => {
                self.must_be_live()?;
                self.change_fields(set, removed, at)
            }
            ContentCommand::Move { parent_id, place, at } => {
                must_hang_elsewhere(self.must_be_live()?, parent_id, place)?;
                Ok(vec![ContentEvent::Moved { parent_id, place, at }])
            }
            ContentCommand::ChangeDetails {
                route_id,
                datatype_id,
                author_id,
                date_created,
                date_modified,
                at,
            } => {
                self.must_be_live()?;
                let present = (self.route_id, self.datatype_id, self.author_id);
                let dates = (self.date_created, self.date_modified);
                if present == (route_id, datatype_id, author_id) && dates == (date_created, date_modified) {
                    return Ok(vec![]);
                }
                Ok(vec![ContentEvent::DetailsChanged {
                    route_id,
                    datatype_id,
                    author_id,
                    date_created,
                    date_modified,
                    at,
                }])
            }
            ContentCommand::SetStatus { status, at } => {
                self.must_be_live()?;
                if status == self.status {
                    return Ok(vec![]);
                }
                Ok(vec![match status {
                    ContentStatus::Draft => ContentEvent::Withdrawn { at },
                    ContentStatus::Published => ContentEvent::Published { at },
                    ContentStatus::Archived => ContentEvent::Archived { at },
                    ContentStatus::Pending => ContentEvent::Submitted { at },
                }])
            }
            ContentCommand::Delete { at } => {
                self.must_be_live()?;
                Ok(vec![ContentEvent::Deleted { at }])
            }
        }
    }
}

impl Content {
    fn must_be_new(&self) -> Result<(), ContentError> {
        match self.lifecycle {
            Lifecycle::Absent => Ok(()),
            Lifecycle::Live => Err(ContentError::AlreadyExists),
            Lifecycle::Deleted => Err(ContentError::NotFound),
        }
    }

    fn must_be_live(&self) -> Result<ContentId, ContentError> {
        match (self.lifecycle, self.content_id) {
            (Lifecycle::Live, Some(content_id)) => Ok(content_id),
            _ => Err(ContentError::NotFound),
        }
    }

    fn change_fields(
        &self,
        set: Vec<FieldValue>,
        removed: Vec<ContentFieldId>,
        at: Timestamp,
    ) -> Result<Vec<ContentEvent>, ContentError> {
        let mut named = BTreeSet::new();
        let ids = set
            .iter()
            .map(|value| value.content_field_id)
            .chain(removed.iter().copied());
        for id in ids {
            if !named.insert(id) {
                return Err(ContentError::FieldRepeated);
            }
        }
        if removed.iter().any(|id| !self.fields.contains_key(id)) {
            return Err(ContentError::FieldNotFound);
        }
        if set.iter().any(|value| !is_storable(&value.value)) {
            return Err(ContentError::FieldValueInvalid);
        }
        let set: Vec<FieldValue> = set
            .into_iter()
            .filter(|value| self.fields.get(&value.content_field_id) != Some(value))
            .collect();
        if set.is_empty() && removed.is_empty() {
            return Ok(vec![]);
        }
        Ok(vec![ContentEvent::FieldsChanged { set, removed, at }])
    }
}

fn must_hang_elsewhere(content_id: ContentId, parent_id: Option<ContentId>, place: Place) -> Result<(), ContentError> {
    if parent_id == Some(content_id) || place.neighbour() == Some(content_id) {
        return Err(ContentError::OwnParent);
    }
    Ok(())
}
