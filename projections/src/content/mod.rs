//! Read model `contents`: content nodes as they are now, their order among siblings, and their field values.
//!
//! Who is first, next and previous is not stored. It follows from `parent_id` and `order_key` whenever it is asked,
//! so no history of moves and deletions can leave a pointer to nowhere.

mod query;
mod siblings;

use std::collections::{BTreeMap, BTreeSet};

use annals_domain::{
    AnyEvent, ContentEvent, ContentId, ContentStatus, DatatypeEvent, FieldEvent, FieldValue, Place, RouteEvent,
};
use annals_eventstore::{Position, Record};
use futures::future::BoxFuture;
use serde::Serialize;
use sqlx::{FromRow, PgConnection};
use uuid::Uuid;

pub use query::{ContentFieldRow, ContentRow, by_id, children_of, field_by_id, fields, list, list_fields};

use self::siblings::Siblings;
use crate::engine::{Projection, ProjectionError};
use crate::rows::{Moment, Row, Rows, write_rows};

/// Keeps `view.contents` and `view.content_fields`.
#[derive(Debug, Clone, Copy)]
pub struct Contents;

#[derive(Serialize, FromRow)]
struct StoredNode {
    content_id: Uuid,
    realm: String,
    datatype_id: Option<Uuid>,
    route_id: Option<Uuid>,
    parent_id: Option<Uuid>,
    order_key: String,
    status: String,
    author_id: Option<Uuid>,
    date_created: Option<Moment>,
    date_modified: Option<Moment>,
    version: i64,
}

impl Row for StoredNode {
    const TABLE: &'static str = "contents";
    const READ: &'static str = "
select content_id, realm, datatype_id, route_id, parent_id, order_key, status, author_id, date_created,
       date_modified, version
  from contents
 where content_id = any($1)";
    const WRITE: &'static str = "
insert into contents
select * from json_populate_recordset(null::contents, $1::json)
    on conflict (content_id) do update
   set realm = excluded.realm,
       datatype_id = excluded.datatype_id,
       route_id = excluded.route_id,
       parent_id = excluded.parent_id,
       order_key = excluded.order_key,
       status = excluded.status,
       author_id = excluded.author_id,
       date_created = excluded.date_created,
       date_modified = excluded.date_modified,
       version = excluded.version";
    const DELETE: &'static str = "
delete from contents
 where content_id = any($1)";

    fn key(&self) -> Uuid {
        self.content_id
    }
}

#[derive(Serialize, FromRow)]
struct StoredValue {
    content_field_id: Uuid,
    realm: String,
    content_id: Uuid,
    field_id: Option<Uuid>,
    route_id: Option<Uuid>,
    value: String,
    author_id: Option<Uuid>,
    date_created: Option<Moment>,
    date_modified: Option<Moment>,
}

impl Row for StoredValue {
    const TABLE: &'static str = "content_fields";
    const READ: &'static str = "
select content_field_id, realm, content_id, field_id, route_id, value, author_id, date_created, date_modified
  from content_fields
 where content_field_id = any($1)";
    const WRITE: &'static str = "
insert into content_fields
select * from json_populate_recordset(null::content_fields, $1::json)
    on conflict (content_field_id) do update
   set realm = excluded.realm,
       content_id = excluded.content_id,
       field_id = excluded.field_id,
       route_id = excluded.route_id,
       value = excluded.value,
       author_id = excluded.author_id,
       date_created = excluded.date_created,
       date_modified = excluded.date_modified";
    const DELETE: &'static str = "
delete from content_fields
 where content_field_id = any($1)";

    fn key(&self) -> Uuid {
        self.content_field_id
    }
}

#[derive(Serialize)]
struct NewKey {
    content_id: Uuid,
    order_key: String,
}

const RENUMBER: &str = "
update contents c
   set order_key = new.order_key
  from json_to_recordset($1::json) as new(content_id uuid, order_key text)
 where c.content_id = new.content_id";

const DELETE_VALUES_OF: &str = "
delete from content_fields
 where content_id = any($1)";

/// Children of a deleted node stay, without a parent.
const ORPHAN: &str = "
update contents
   set parent_id = null
 where parent_id = any($1)";

const UNROUTE: &str = "
update contents
   set route_id = null
 where route_id = any($1)";

const UNROUTE_VALUES: &str = "
update content_fields
   set route_id = null
 where route_id = any($1)";

const UNTYPE: &str = "
update contents
   set datatype_id = null
 where datatype_id = any($1)";

const UNDEFINE_VALUES: &str = "
update content_fields
   set field_id = null
 where field_id = any($1)";

impl Projection for Contents {
    fn name(&self) -> &'static str {
        "contents"
    }

    fn version(&self) -> i32 {
        1
    }

    fn tables(&self) -> &'static [&'static str] {
        &["contents", "content_fields"]
    }

    fn definition(&self) -> &'static str {
        include_str!("../../../migrations/view/0007_contents.sql")
    }

    fn apply<'a>(
        &'a self,
        connection: &'a mut PgConnection,
        batch: &'a [Record],
    ) -> BoxFuture<'a, Result<(), ProjectionError>> {
        Box::pin(fold(connection, batch))
    }
}

/// What a batch does to both tables.
struct Batch {
    nodes: Rows<StoredNode>,
    values: Rows<StoredValue>,
    siblings: Siblings,
    /// Keys for nodes that no fact of the batch is about.
    renumbered: BTreeMap<Uuid, String>,
    gone: Gone,
}

/// What was deleted, and may be named by rows that the batch did not read.
#[derive(Default)]
struct Gone {
    contents: BTreeSet<Uuid>,
    routes: BTreeSet<Uuid>,
    datatypes: BTreeSet<Uuid>,
    fields: BTreeSet<Uuid>,
}

async fn fold(connection: &mut PgConnection, batch: &[Record]) -> Result<(), ProjectionError> {
    let known = batch
        .iter()
        .filter(|record| {
            matches!(&record.event, AnyEvent::Content(event) if !matches!(event, ContentEvent::Created { .. }))
        })
        .map(|record| record.stream.id)
        .collect();
    let mut state = Batch {
        nodes: Rows::read(connection, known).await?,
        values: Rows::read(connection, Vec::new()).await?,
        siblings: Siblings::read(connection, batch).await?,
        renumbered: BTreeMap::new(),
        gone: Gone::default(),
    };
    for record in batch {
        let id = record.stream.id;
        match &record.event {
            AnyEvent::Content(event) => state.fold(id, record, event)?,
            AnyEvent::Route(RouteEvent::Deleted { at: _ }) => state.route_deleted(id),
            AnyEvent::Datatype(DatatypeEvent::Deleted { at: _ }) => state.datatype_deleted(id),
            AnyEvent::Field(FieldEvent::Deleted { at: _ }) => state.field_deleted(id),
            _ => {}
        }
    }
    // The whole tables first; then the rows of this batch, which already show it.
    state.gone.write(connection).await?;
    let renumbered: Vec<NewKey> = state
        .renumbered
        .into_iter()
        .map(|(content_id, order_key)| NewKey { content_id, order_key })
        .collect();
    write_rows(connection, RENUMBER, &renumbered).await?;
    state.nodes.write(connection).await?;
    state.values.write(connection).await
}

impl Batch {
    fn fold(&mut self, content_id: Uuid, record: &Record, event: &ContentEvent) -> Result<(), ProjectionError> {
        let position = record.position;
        if let ContentEvent::Created {
            content_id: _,
            realm,
            datatype_id,
            route_id,
            parent_id,
            place,
            status,
            author_id,
            date_created,
            date_modified,
            at: _,
        } = event
        {
            let parent_id = parent_id.map(Uuid::from);
            self.nodes.put(StoredNode {
                content_id,
                realm: realm.as_str().to_owned(),
                datatype_id: datatype_id.map(Into::into),
                route_id: route_id.map(Into::into),
                parent_id,
                order_key: String::new(),
                status: status.as_str().to_owned(),
                author_id: author_id.map(Into::into),
                date_created: date_created.map(Into::into),
                date_modified: date_modified.map(Into::into),
                version: record.version.cast_signed(),
            });
            return self.place(content_id, parent_id, *place, position);
        }
        let node = self.nodes.change(content_id, position)?;
        node.version = record.version.cast_signed();
        match event {
            ContentEvent::Created { .. } => {} // told above: it is what makes the node
            ContentEvent::FieldsChanged { set, removed, at: _ } => {
                for value in removed {
                    self.values.remove((*value).into());
                }
                for value in set {
                    self.values.put(stored(content_id, &node.realm, value));
                }
            }
            ContentEvent::Moved {
                parent_id,
                place,
                at: _,
            } => {
                let before = node.parent_id;
                self.siblings.leave(before, content_id);
                self.place(content_id, parent_id.map(ContentId::into), *place, position)?;
            }
            ContentEvent::DetailsChanged {
                route_id,
                datatype_id,
                author_id,
                date_created,
                date_modified,
                at: _,
            } => {
                node.route_id = route_id.map(Into::into);
                node.datatype_id = datatype_id.map(Into::into);
                node.author_id = author_id.map(Into::into);
                node.date_created = date_created.map(Into::into);
                node.date_modified = date_modified.map(Into::into);
            }
            ContentEvent::Published { at: _ } => ContentStatus::Published.as_str().clone_into(&mut node.status),
            ContentEvent::Archived { at: _ } => ContentStatus::Archived.as_str().clone_into(&mut node.status),
            ContentEvent::Submitted { at: _ } => ContentStatus::Pending.as_str().clone_into(&mut node.status),
            ContentEvent::Withdrawn { at: _ } => ContentStatus::Draft.as_str().clone_into(&mut node.status),
            ContentEvent::Deleted { at: _ } => {
                self.siblings.leave(node.parent_id, content_id);
                self.siblings.forget(content_id);
                self.nodes.remove(content_id);
                for child in self.nodes.each().filter(|child| child.parent_id == Some(content_id)) {
                    child.parent_id = None;
                }
                self.values.remove_where(|value| value.content_id == content_id);
                self.gone.contents.insert(content_id);
            }
        }
        Ok(())
    }

    /// Hangs a node that is among no siblings under a parent.
    fn place(
        &mut self,
        content_id: Uuid,
        parent_id: Option<Uuid>,
        place: Place,
        position: Position,
    ) -> Result<(), ProjectionError> {
        let placed = self.siblings.place(parent_id, place, position);
        for (sibling, key) in placed.renumbered {
            self.siblings.enter(parent_id, sibling, &key);
            if self.nodes.get(sibling).is_some() {
                self.nodes.change(sibling, position)?.order_key = key;
            } else {
                self.renumbered.insert(sibling, key);
            }
        }
        self.siblings.enter(parent_id, content_id, &placed.key);
        let node = self.nodes.change(content_id, position)?;
        node.parent_id = parent_id;
        node.order_key = placed.key;
        Ok(())
    }

    fn route_deleted(&mut self, route_id: Uuid) {
        for node in self.nodes.each().filter(|node| node.route_id == Some(route_id)) {
            node.route_id = None;
        }
        for value in self.values.each().filter(|value| value.route_id == Some(route_id)) {
            value.route_id = None;
        }
        self.gone.routes.insert(route_id);
    }

    fn datatype_deleted(&mut self, datatype_id: Uuid) {
        for node in self.nodes.each().filter(|node| node.datatype_id == Some(datatype_id)) {
            node.datatype_id = None;
        }
        self.gone.datatypes.insert(datatype_id);
    }

    fn field_deleted(&mut self, field_id: Uuid) {
        for value in self.values.each().filter(|value| value.field_id == Some(field_id)) {
            value.field_id = None;
        }
        self.gone.fields.insert(field_id);
    }
}

fn stored(content_id: Uuid, realm: &str, value: &FieldValue) -> StoredValue {
    StoredValue {
        content_field_id: value.content_field_id.into(),
        realm: realm.to_owned(),
        content_id,
        field_id: value.field_id.map(Into::into),
        route_id: value.route_id.map(Into::into),
        value: value.value.clone(),
        author_id: value.author_id.map(Into::into),
        date_created: value.date_created.map(Into::into),
        date_modified: value.date_modified.map(Into::into),
    }
}

impl Gone {
    async fn write(self, connection: &mut PgConnection) -> Result<(), ProjectionError> {
        let statements = [
            (DELETE_VALUES_OF, &self.contents),
            (ORPHAN, &self.contents),
            (UNROUTE, &self.routes),
            (UNROUTE_VALUES, &self.routes),
            (UNTYPE, &self.datatypes),
            (UNDEFINE_VALUES, &self.fields),
        ];
        for (statement, gone) in statements {
            if !gone.is_empty() {
                let gone: Vec<Uuid> = gone.iter().copied().collect();
                sqlx::query(statement).bind(gone).execute(&mut *connection).await?;
            }
        }
        Ok(())
    }
}
