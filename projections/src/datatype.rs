//! Read model `datatypes`: datatypes, and the fields attached to them.

use std::collections::BTreeSet;

use annals_domain::{
    AnyEvent, Caller, DatatypeEvent, DatatypeFieldId, DatatypeId, FieldEvent, FieldId, Permission, Realm, Timestamp,
    UserId,
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

/// Keeps `view.datatypes` and `view.datatype_fields`.
#[derive(Debug, Clone, Copy)]
pub struct Datatypes;

#[derive(Serialize, FromRow)]
struct Stored {
    datatype_id: Uuid,
    realm: String,
    parent_id: Option<Uuid>,
    label: String,
    kind: String,
    author_id: Option<Uuid>,
    date_created: Option<Moment>,
    date_modified: Option<Moment>,
    version: i64,
}

impl Row for Stored {
    const TABLE: &'static str = "datatypes";
    const READ: &'static str = "
select datatype_id, realm, parent_id, label, kind, author_id, date_created, date_modified, version
  from datatypes
 where datatype_id = any($1)";
    const WRITE: &'static str = "
insert into datatypes
select * from json_populate_recordset(null::datatypes, $1::json)
    on conflict (datatype_id) do update
   set realm = excluded.realm,
       parent_id = excluded.parent_id,
       label = excluded.label,
       kind = excluded.kind,
       author_id = excluded.author_id,
       date_created = excluded.date_created,
       date_modified = excluded.date_modified,
       version = excluded.version";
    const DELETE: &'static str = "
delete from datatypes
 where datatype_id = any($1)";

    fn key(&self) -> Uuid {
        self.datatype_id
    }
}

#[derive(Serialize, FromRow)]
struct StoredAttachment {
    datatype_field_id: Uuid,
    realm: String,
    datatype_id: Uuid,
    field_id: Uuid,
    sort_order: i64,
}

impl Row for StoredAttachment {
    const TABLE: &'static str = "datatype_fields";
    const READ: &'static str = "
select datatype_field_id, realm, datatype_id, field_id, sort_order
  from datatype_fields
 where datatype_field_id = any($1)";
    const WRITE: &'static str = "
insert into datatype_fields
select * from json_populate_recordset(null::datatype_fields, $1::json)
    on conflict (datatype_field_id) do update
   set realm = excluded.realm,
       datatype_id = excluded.datatype_id,
       field_id = excluded.field_id,
       sort_order = excluded.sort_order";
    const DELETE: &'static str = "
delete from datatype_fields
 where datatype_field_id = any($1)";

    fn key(&self) -> Uuid {
        self.datatype_field_id
    }
}

/// A deleted datatype leaves those below it at the top.
const ORPHAN: &str = "
update datatypes
   set parent_id = null
 where parent_id = any($1)";

/// Attachments go with their datatype, and with their field.
const DETACH: &str = "
delete from datatype_fields
 where datatype_id = any($1)
    or field_id = any($2)";

impl Projection for Datatypes {
    fn name(&self) -> &'static str {
        "datatypes"
    }

    fn version(&self) -> i32 {
        1
    }

    fn tables(&self) -> &'static [&'static str] {
        &["datatypes", "datatype_fields"]
    }

    fn definition(&self) -> &'static str {
        include_str!("../../migrations/view/0004_datatypes.sql")
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
    datatypes: Rows<Stored>,
    attachments: Rows<StoredAttachment>,
    datatypes_gone: BTreeSet<Uuid>,
    fields_gone: BTreeSet<Uuid>,
}

async fn fold(connection: &mut PgConnection, batch: &[Record]) -> Result<(), ProjectionError> {
    let known = batch
        .iter()
        .filter(|record| {
            matches!(&record.event, AnyEvent::Datatype(event)
                if !matches!(event, DatatypeEvent::Created { .. } | DatatypeEvent::Deleted { .. }))
        })
        .map(|record| record.stream.id)
        .collect();
    let mut state = Batch {
        datatypes: Rows::read(connection, known).await?,
        attachments: Rows::read(connection, Vec::new()).await?,
        datatypes_gone: BTreeSet::new(),
        fields_gone: BTreeSet::new(),
    };
    for record in batch {
        match &record.event {
            AnyEvent::Datatype(event) => state.fold(record, event)?,
            AnyEvent::Field(FieldEvent::Deleted { at: _ }) => {
                state.fields_gone.insert(record.stream.id);
                state.attachments.remove_where(|row| row.field_id == record.stream.id);
            }
            _ => {}
        }
    }
    // The whole tables first; then the rows of this batch, which already show it and may be younger.
    if !state.datatypes_gone.is_empty() {
        let gone: Vec<Uuid> = state.datatypes_gone.iter().copied().collect();
        sqlx::query(ORPHAN).bind(gone).execute(&mut *connection).await?;
    }
    if !state.datatypes_gone.is_empty() || !state.fields_gone.is_empty() {
        let datatypes: Vec<Uuid> = state.datatypes_gone.into_iter().collect();
        let fields: Vec<Uuid> = state.fields_gone.into_iter().collect();
        sqlx::query(DETACH)
            .bind(datatypes)
            .bind(fields)
            .execute(&mut *connection)
            .await?;
    }
    state.datatypes.write(connection).await?;
    state.attachments.write(connection).await
}

impl Batch {
    fn fold(&mut self, record: &Record, event: &DatatypeEvent) -> Result<(), ProjectionError> {
        let datatype_id = record.stream.id;
        let version = record.version.cast_signed();
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
            } => self.datatypes.put(Stored {
                datatype_id,
                realm: realm.as_str().to_owned(),
                parent_id: parent_id.map(Into::into),
                label: label.clone(),
                kind: kind.clone(),
                author_id: author_id.map(Into::into),
                date_created: date_created.map(Into::into),
                date_modified: date_modified.map(Into::into),
                version,
            }),
            DatatypeEvent::Changed {
                parent_id,
                label,
                kind,
                author_id,
                date_created,
                date_modified,
                at: _,
            } => {
                let row = self.datatypes.change(datatype_id, record.position)?;
                row.parent_id = parent_id.map(Into::into);
                row.label.clone_from(label);
                row.kind.clone_from(kind);
                row.author_id = author_id.map(Into::into);
                row.date_created = date_created.map(Into::into);
                row.date_modified = date_modified.map(Into::into);
                row.version = version;
            }
            DatatypeEvent::Deleted { at: _ } => {
                self.datatypes.remove(datatype_id);
                self.datatypes_gone.insert(datatype_id);
                for row in self.datatypes.each().filter(|row| row.parent_id == Some(datatype_id)) {
                    row.parent_id = None;
                }
                self.attachments.remove_where(|row| row.datatype_id == datatype_id);
            }
            DatatypeEvent::FieldAttached {
                datatype_field_id,
                field_id,
                sort_order,
                at: _,
            }
            | DatatypeEvent::FieldAttachmentChanged {
                datatype_field_id,
                field_id,
                sort_order,
                at: _,
            } => {
                let row = self.datatypes.change(datatype_id, record.position)?;
                row.version = version;
                self.attachments.put(StoredAttachment {
                    datatype_field_id: (*datatype_field_id).into(),
                    realm: row.realm.clone(),
                    datatype_id,
                    field_id: (*field_id).into(),
                    sort_order: *sort_order,
                });
            }
            DatatypeEvent::FieldDetached {
                datatype_field_id,
                at: _,
            } => {
                self.datatypes.change(datatype_id, record.position)?.version = version;
                self.attachments.remove((*datatype_field_id).into());
            }
        }
        Ok(())
    }
}

/// One datatype.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DatatypeRow {
    /// Its id.
    pub datatype_id: DatatypeId,
    /// Where it lives.
    pub realm: Realm,
    /// The datatype it belongs under.
    pub parent_id: Option<DatatypeId>,
    /// The name for people to read.
    pub label: String,
    /// Free text; `ROOT` marks page roots.
    pub kind: String,
    /// Who is named as its author.
    pub author_id: Option<UserId>,
    /// As the client said.
    pub date_created: Option<Timestamp>,
    /// As the client said.
    pub date_modified: Option<Timestamp>,
    /// The stream version that the row shows.
    pub version: u64,
}

/// A field attached to a datatype.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DatatypeFieldRow {
    /// Names the attachment.
    pub datatype_field_id: DatatypeFieldId,
    /// Where its datatype lives.
    pub realm: Realm,
    /// The datatype.
    pub datatype_id: DatatypeId,
    /// The field.
    pub field_id: FieldId,
    /// Its place among the fields.
    pub sort_order: i64,
}

impl TryFrom<Stored> for DatatypeRow {
    type Error = QueryError;

    fn try_from(row: Stored) -> Result<Self, QueryError> {
        Ok(Self {
            datatype_id: row.datatype_id.into(),
            realm: known("datatypes.realm", row.realm)?,
            parent_id: row.parent_id.map(Into::into),
            label: row.label,
            kind: row.kind,
            author_id: row.author_id.map(Into::into),
            date_created: row.date_created.map(Into::into),
            date_modified: row.date_modified.map(Into::into),
            version: row.version.cast_unsigned(),
        })
    }
}

impl TryFrom<StoredAttachment> for DatatypeFieldRow {
    type Error = QueryError;

    fn try_from(row: StoredAttachment) -> Result<Self, QueryError> {
        Ok(Self {
            datatype_field_id: row.datatype_field_id.into(),
            realm: known("datatype_fields.realm", row.realm)?,
            datatype_id: row.datatype_id.into(),
            field_id: row.field_id.into(),
            sort_order: row.sort_order,
        })
    }
}

const BY_ID: &str = "
select datatype_id, realm, parent_id, label, kind, author_id, date_created, date_modified, version
  from view.datatypes
 where datatype_id = $1";

const LIST: &str = "
select datatype_id, realm, parent_id, label, kind, author_id, date_created, date_modified, version
  from view.datatypes
 where realm = $1
 order by datatype_id
 limit $2
offset $3";

const COUNT: &str = "
select count(*)
  from view.datatypes
 where realm = $1";

const FIELD_BY_ID: &str = "
select datatype_field_id, realm, datatype_id, field_id, sort_order
  from view.datatype_fields
 where datatype_field_id = $1";

const FIELDS: &str = "
select datatype_field_id, realm, datatype_id, field_id, sort_order
  from view.datatype_fields
 where realm = $1
   and ($2::uuid is null or datatype_id = $2)
   and ($3::uuid is null or field_id = $3)
 order by datatype_field_id
 limit $4
offset $5";

const COUNT_FIELDS: &str = "
select count(*)
  from view.datatype_fields
 where realm = $1
   and ($2::uuid is null or datatype_id = $2)
   and ($3::uuid is null or field_id = $3)";

/// One datatype; absent when there is none of that id.
///
/// # Errors
/// [`QueryError::Denied`] without `datatype.read`.
pub async fn by_id(caller: &Caller, database: &Database, id: DatatypeId) -> Result<Option<DatatypeRow>, QueryError> {
    caller.require(Permission::DatatypeRead)?;
    let stored: Option<Stored> = sqlx::query_as(BY_ID)
        .bind(id.as_uuid())
        .fetch_optional(database.pool())
        .await?;
    stored.map(TryInto::try_into).transpose()
}

/// The datatypes of a realm by id.
///
/// # Errors
/// [`QueryError::Denied`] without `datatype.read`.
pub async fn list(
    caller: &Caller,
    database: &Database,
    realm: Realm,
    page: Option<Page>,
) -> Result<Listed<DatatypeRow>, QueryError> {
    caller.require(Permission::DatatypeRead)?;
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

/// One attachment; absent when there is none of that id.
///
/// # Errors
/// [`QueryError::Denied`] without `datatype.read`.
pub async fn field_by_id(
    caller: &Caller,
    database: &Database,
    id: DatatypeFieldId,
) -> Result<Option<DatatypeFieldRow>, QueryError> {
    caller.require(Permission::DatatypeRead)?;
    let stored: Option<StoredAttachment> = sqlx::query_as(FIELD_BY_ID)
        .bind(id.as_uuid())
        .fetch_optional(database.pool())
        .await?;
    stored.map(TryInto::try_into).transpose()
}

/// Which attachments to list; no condition means all of the realm.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DatatypeFieldFilter {
    /// Those of one datatype.
    pub datatype_id: Option<DatatypeId>,
    /// Those of one field.
    pub field_id: Option<FieldId>,
}

/// The attachments of a realm by id.
///
/// # Errors
/// [`QueryError::Denied`] without `datatype.read`.
pub async fn fields(
    caller: &Caller,
    database: &Database,
    realm: Realm,
    filter: DatatypeFieldFilter,
    page: Option<Page>,
) -> Result<Listed<DatatypeFieldRow>, QueryError> {
    caller.require(Permission::DatatypeRead)?;
    let page = page.unwrap_or(Page::WHOLE);
    let datatype_id = filter.datatype_id.map(Uuid::from);
    let field_id = filter.field_id.map(Uuid::from);
    let stored: Vec<StoredAttachment> = sqlx::query_as(FIELDS)
        .bind(realm.as_str())
        .bind(datatype_id)
        .bind(field_id)
        .bind(page.limit())
        .bind(page.offset())
        .fetch_all(database.pool())
        .await?;
    let total = sqlx::query_scalar(COUNT_FIELDS)
        .bind(realm.as_str())
        .bind(datatype_id)
        .bind(field_id)
        .fetch_one(database.pool())
        .await?;
    Listed::read(stored, total)
}
