//! Read model `fields`: field definitions.

use std::collections::BTreeSet;

use annals_domain::{
    AnyEvent, Caller, DatatypeEvent, DatatypeId, FieldEvent, FieldId, FieldKind, Permission, Realm, Timestamp, UserId,
};
use annals_eventstore::{Database, Record};
use futures::future::BoxFuture;
use serde::Serialize;
use sqlx::{FromRow, PgConnection};
use uuid::Uuid;

use crate::engine::{Projection, ProjectionError};
use crate::error::{QueryError, known};
use crate::page::{Listed, Page};
use crate::rows::{Moment, Row, Rows};

/// Keeps `view.fields`.
#[derive(Debug, Clone, Copy)]
pub struct Fields;

#[derive(Serialize, FromRow)]
struct Stored {
    field_id: Uuid,
    realm: String,
    parent_id: Option<Uuid>,
    label: String,
    data: String,
    validation: String,
    ui_config: String,
    kind: String,
    author_id: Option<Uuid>,
    date_created: Option<Moment>,
    date_modified: Option<Moment>,
    version: i64,
}

impl Row for Stored {
    const TABLE: &'static str = "fields";
    const READ: &'static str = "
select field_id, realm, parent_id, label, data, validation, ui_config, kind, author_id, date_created, date_modified,
       version
  from fields
 where field_id = any($1)";
    const WRITE: &'static str = "
insert into fields
select * from json_populate_recordset(null::fields, $1::json)
    on conflict (field_id) do update
   set realm = excluded.realm,
       parent_id = excluded.parent_id,
       label = excluded.label,
       data = excluded.data,
       validation = excluded.validation,
       ui_config = excluded.ui_config,
       kind = excluded.kind,
       author_id = excluded.author_id,
       date_created = excluded.date_created,
       date_modified = excluded.date_modified,
       version = excluded.version";
    const DELETE: &'static str = "
delete from fields
 where field_id = any($1)";

    fn key(&self) -> Uuid {
        self.field_id
    }
}

/// A deleted datatype leaves the fields made for it without one.
const ORPHAN: &str = "
update fields
   set parent_id = null
 where parent_id = any($1)";

impl Projection for Fields {
    fn name(&self) -> &'static str {
        "fields"
    }

    fn version(&self) -> i32 {
        1
    }

    fn tables(&self) -> &'static [&'static str] {
        &["fields"]
    }

    fn definition(&self) -> &'static str {
        include_str!("../../migrations/view/0005_fields.sql")
    }

    fn apply<'a>(
        &'a self,
        connection: &'a mut PgConnection,
        batch: &'a [Record],
    ) -> BoxFuture<'a, Result<(), ProjectionError>> {
        Box::pin(fold(connection, batch))
    }
}

async fn fold(connection: &mut PgConnection, batch: &[Record]) -> Result<(), ProjectionError> {
    let changed = batch
        .iter()
        .filter(|record| matches!(&record.event, AnyEvent::Field(FieldEvent::Changed { .. })))
        .map(|record| record.stream.id)
        .collect();
    let mut rows = Rows::<Stored>::read(connection, changed).await?;
    let mut parents_gone = BTreeSet::new();
    for record in batch {
        match &record.event {
            AnyEvent::Field(event) => fold_field(&mut rows, record, event)?,
            AnyEvent::Datatype(DatatypeEvent::Deleted { at: _ }) => {
                parents_gone.insert(record.stream.id);
                for row in rows.each().filter(|row| row.parent_id == Some(record.stream.id)) {
                    row.parent_id = None;
                }
            }
            _ => {}
        }
    }
    if !parents_gone.is_empty() {
        let parents: Vec<Uuid> = parents_gone.into_iter().collect();
        sqlx::query(ORPHAN).bind(parents).execute(&mut *connection).await?;
    }
    rows.write(connection).await
}

fn fold_field(rows: &mut Rows<Stored>, record: &Record, event: &FieldEvent) -> Result<(), ProjectionError> {
    let field_id = record.stream.id;
    let version = record.version.cast_signed();
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
        } => rows.put(Stored {
            field_id,
            realm: realm.as_str().to_owned(),
            parent_id: parent_id.map(Into::into),
            label: label.clone(),
            data: data.clone(),
            validation: validation.clone(),
            ui_config: ui_config.clone(),
            kind: kind.as_str().to_owned(),
            author_id: author_id.map(Into::into),
            date_created: date_created.map(Into::into),
            date_modified: date_modified.map(Into::into),
            version,
        }),
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
            let row = rows.change(field_id, record.position)?;
            row.parent_id = parent_id.map(Into::into);
            row.label.clone_from(label);
            row.data.clone_from(data);
            row.validation.clone_from(validation);
            row.ui_config.clone_from(ui_config);
            kind.as_str().clone_into(&mut row.kind);
            row.author_id = author_id.map(Into::into);
            row.date_created = date_created.map(Into::into);
            row.date_modified = date_modified.map(Into::into);
            row.version = version;
        }
        FieldEvent::Deleted { at: _ } => rows.remove(field_id),
    }
    Ok(())
}

/// One field definition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldRow {
    /// Its id.
    pub field_id: FieldId,
    /// Where it lives.
    pub realm: Realm,
    /// The datatype it was made for.
    pub parent_id: Option<DatatypeId>,
    /// The name for people to read.
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
    /// As the client said.
    pub date_created: Option<Timestamp>,
    /// As the client said.
    pub date_modified: Option<Timestamp>,
    /// The stream version that the row shows.
    pub version: u64,
}

impl TryFrom<Stored> for FieldRow {
    type Error = QueryError;

    fn try_from(row: Stored) -> Result<Self, QueryError> {
        Ok(Self {
            field_id: row.field_id.into(),
            realm: known("fields.realm", row.realm)?,
            parent_id: row.parent_id.map(Into::into),
            label: row.label,
            data: row.data,
            validation: row.validation,
            ui_config: row.ui_config,
            kind: known("fields.kind", row.kind)?,
            author_id: row.author_id.map(Into::into),
            date_created: row.date_created.map(Into::into),
            date_modified: row.date_modified.map(Into::into),
            version: row.version.cast_unsigned(),
        })
    }
}

const BY_ID: &str = "
select field_id, realm, parent_id, label, data, validation, ui_config, kind, author_id, date_created, date_modified,
       version
  from view.fields
 where field_id = $1";

const LIST: &str = "
select field_id, realm, parent_id, label, data, validation, ui_config, kind, author_id, date_created, date_modified,
       version
  from view.fields
 where realm = $1
 order by field_id
 limit $2
offset $3";

const COUNT: &str = "
select count(*)
  from view.fields
 where realm = $1";

/// One field definition; absent when there is none of that id.
///
/// # Errors
/// [`QueryError::Denied`] without `field.read`.
pub async fn by_id(caller: &Caller, database: &Database, id: FieldId) -> Result<Option<FieldRow>, QueryError> {
    caller.require(Permission::FieldRead)?;
    let stored: Option<Stored> = sqlx::query_as(BY_ID)
        .bind(id.as_uuid())
        .fetch_optional(database.pool())
        .await?;
    stored.map(TryInto::try_into).transpose()
}

/// The field definitions of a realm by id.
///
/// # Errors
/// [`QueryError::Denied`] without `field.read`.
pub async fn list(
    caller: &Caller,
    database: &Database,
    realm: Realm,
    page: Option<Page>,
) -> Result<Listed<FieldRow>, QueryError> {
    caller.require(Permission::FieldRead)?;
    let page = page.unwrap_or(Page::WHOLE);
    let stored: Vec<Stored> = sqlx::query_as(LIST)
        .bind(realm.as_str())
        .bind(page.limit())
        .bind(page.offset())
        .fetch_all(database.pool())
        .await?;
    let total = sqlx::query_scalar(COUNT)
        .bind(realm.as_str())
        .fetch_one(database.pool())
        .await?;
    Listed::read(stored, total)
}
