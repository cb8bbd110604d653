//! Questions about content nodes and their field values.

use annals_domain::{
    Caller, ContentFieldId, ContentId, ContentStatus, DatatypeId, FieldId, Permission, Realm, RouteId, Timestamp,
    UserId,
};
use annals_eventstore::Database;
use sqlx::FromRow;
use uuid::Uuid;

use super::StoredValue;
use crate::error::{QueryError, known};
use crate::page::{Listed, MOST_ROWS, Page};
use crate::rows::Moment;

/// One content node, with its neighbours. Nodes without a parent have no siblings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContentRow {
    /// Its id.
    pub content_id: ContentId,
    /// Where it lives.
    pub realm: Realm,
    /// What kind of node it is.
    pub datatype_id: Option<DatatypeId>,
    /// The route it is delivered under.
    pub route_id: Option<RouteId>,
    /// The node it hangs under.
    pub parent_id: Option<ContentId>,
    /// The first of the nodes under it.
    pub first_child_id: Option<ContentId>,
    /// The next under the same parent.
    pub next_sibling_id: Option<ContentId>,
    /// The previous under the same parent.
    pub prev_sibling_id: Option<ContentId>,
    /// How far it is from being public.
    pub status: ContentStatus,
    /// Who is named as its author.
    pub author_id: Option<UserId>,
    /// As the client said.
    pub date_created: Option<Timestamp>,
    /// As the client said.
    pub date_modified: Option<Timestamp>,
    /// The stream version that the row shows.
    pub version: u64,
}

/// One value of a content node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContentFieldRow {
    /// Names the value.
    pub content_field_id: ContentFieldId,
    /// Where its node lives.
    pub realm: Realm,
    /// The node.
    pub content_id: ContentId,
    /// The definition it follows; absent when it was not said or was deleted.
    pub field_id: Option<FieldId>,
    /// The route it is delivered under, as the client said.
    pub route_id: Option<RouteId>,
    /// The text, whatever the definition's kind.
    pub value: String,
    /// Who is named as its author.
    pub author_id: Option<UserId>,
    /// As the client said.
    pub date_created: Option<Timestamp>,
    /// As the client said.
    pub date_modified: Option<Timestamp>,
}

#[derive(FromRow)]
struct Linked {
    content_id: Uuid,
    realm: String,
    datatype_id: Option<Uuid>,
    route_id: Option<Uuid>,
    parent_id: Option<Uuid>,
    first_child_id: Option<Uuid>,
    next_sibling_id: Option<Uuid>,
    prev_sibling_id: Option<Uuid>,
    status: String,
    author_id: Option<Uuid>,
    date_created: Option<Moment>,
    date_modified: Option<Moment>,
    version: i64,
}

impl TryFrom<Linked> for ContentRow {
    type Error = QueryError;

    fn try_from(row: Linked) -> Result<Self, QueryError> {
        Ok(Self {
            content_id: row.content_id.into(),
            realm: known("contents.realm", row.realm)?,
            datatype_id: row.datatype_id.map(Into::into),
            route_id: row.route_id.map(Into::into),
            parent_id: row.parent_id.map(Into::into),
            first_child_id: row.first_child_id.map(Into::into),
            next_sibling_id: row.next_sibling_id.map(Into::into),
            prev_sibling_id: row.prev_sibling_id.map(Into::into),
            status: known("contents.status", row.status)?,
            author_id: row.author_id.map(Into::into),
            date_created: row.date_created.map(Into::into),
            date_modified: row.date_modified.map(Into::into),
            version: row.version.cast_unsigned(),
        })
    }
}

impl TryFrom<StoredValue> for ContentFieldRow {
    type Error = QueryError;

    fn try_from(row: StoredValue) -> Result<Self, QueryError> {
        Ok(Self {
            content_field_id: row.content_field_id.into(),
            realm: known("content_fields.realm", row.realm)?,
            content_id: row.content_id.into(),
            field_id: row.field_id.map(Into::into),
            route_id: row.route_id.map(Into::into),
            value: row.value,
            author_id: row.author_id.map(Into::into),
            date_created: row.date_created.map(Into::into),
            date_modified: row.date_modified.map(Into::into),
        })
    }
}

/// A statement that links the nodes of the subquery `c` to their neighbours, each by one look into the index of siblings.
macro_rules! linked {
    ($nodes:literal, $order:literal) => {
        concat!(
            "
select c.content_id, c.realm, c.datatype_id, c.route_id, c.parent_id,
       (select n.content_id
          from view.contents n
         where n.parent_id = c.content_id
         order by n.order_key, n.content_id
         limit 1) as first_child_id,
       (select n.content_id
          from view.contents n
         where n.parent_id = c.parent_id
           and (n.order_key, n.content_id) > (c.order_key, c.content_id)
         order by n.order_key, n.content_id
         limit 1) as next_sibling_id,
       (select n.content_id
          from view.contents n
         where n.parent_id = c.parent_id
           and (n.order_key, n.content_id) < (c.order_key, c.content_id)
         order by n.order_key desc, n.content_id desc
         limit 1) as prev_sibling_id,
       c.status, c.author_id, c.date_created, c.date_modified, c.version
  from (select *
          from view.contents",
            $nodes,
            ") c",
            $order
        )
    };
}

const BY_ID: &str = linked!(
    "
         where content_id = $1",
    ""
);

const CHILDREN: &str = linked!(
    "
         where parent_id = $1
         order by order_key, content_id
         limit $2",
    "
 order by c.order_key, c.content_id"
);

const LIST: &str = linked!(
    "
         where realm = $1
         order by content_id
         limit $2
        offset $3",
    "
 order by c.content_id"
);

const COUNT: &str = "
select count(*)
  from view.contents
 where realm = $1";

const FIELD_BY_ID: &str = "
select content_field_id, realm, content_id, field_id, route_id, value, author_id, date_created, date_modified
  from view.content_fields
 where content_field_id = $1";

const FIELDS: &str = "
select content_field_id, realm, content_id, field_id, route_id, value, author_id, date_created, date_modified
  from view.content_fields
 where content_id = $1
 order by content_field_id
 limit $2";

const LIST_FIELDS: &str = "
select content_field_id, realm, content_id, field_id, route_id, value, author_id, date_created, date_modified
  from view.content_fields
 where realm = $1
 order by content_field_id
 limit $2
offset $3";

const COUNT_FIELDS: &str = "
select count(*)
  from view.content_fields
 where realm = $1";

/// One content node; absent when there is none of that id.
///
/// # Errors
/// [`QueryError::Denied`] without `content.read`.
pub async fn by_id(caller: &Caller, database: &Database, id: ContentId) -> Result<Option<ContentRow>, QueryError> {
    caller.require(Permission::ContentRead)?;
    let stored: Option<Linked> = sqlx::query_as(BY_ID)
        .bind(id.as_uuid())
        .fetch_optional(database.pool())
        .await?;
    stored.map(TryInto::try_into).transpose()
}

/// The nodes under a node in their order; the first [`MOST_ROWS`].
///
/// # Errors
/// [`QueryError::Denied`] without `content.read`.
pub async fn children_of(
    caller: &Caller,
    database: &Database,
    parent: ContentId,
) -> Result<Vec<ContentRow>, QueryError> {
    caller.require(Permission::ContentRead)?;
    let stored: Vec<Linked> = sqlx::query_as(CHILDREN)
        .bind(parent.as_uuid())
        .bind(i64::from(MOST_ROWS))
        .fetch_all(database.pool())
        .await?;
    stored.into_iter().map(TryInto::try_into).collect()
}

/// The content nodes of a realm by id.
///
/// # Errors
/// [`QueryError::Denied`] without `content.read`.
pub async fn list(
    caller: &Caller,
    database: &Database,
    realm: Realm,
    page: Option<Page>,
) -> Result<Listed<ContentRow>, QueryError> {
    caller.require(Permission::ContentRead)?;
    let page = page.unwrap_or(Page::WHOLE);
    let stored: Vec<Linked> = sqlx::query_as(LIST)
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

/// One field value; absent when there is none of that id.
///
/// # Errors
/// [`QueryError::Denied`] without `content.read`.
pub async fn field_by_id(
    caller: &Caller,
    database: &Database,
    id: ContentFieldId,
) -> Result<Option<ContentFieldRow>, QueryError> {
    caller.require(Permission::ContentRead)?;
    let stored: Option<StoredValue> = sqlx::query_as(FIELD_BY_ID)
        .bind(id.as_uuid())
        .fetch_optional(database.pool())
        .await?;
    stored.map(TryInto::try_into).transpose()
}

/// The values of one node by id; the first [`MOST_ROWS`].
///
/// # Errors
/// [`QueryError::Denied`] without `content.read`.
pub async fn fields(
    caller: &Caller,
    database: &Database,
    content: ContentId,
) -> Result<Vec<ContentFieldRow>, QueryError> {
    caller.require(Permission::ContentRead)?;
    let stored: Vec<StoredValue> = sqlx::query_as(FIELDS)
        .bind(content.as_uuid())
        .bind(i64::from(MOST_ROWS))
        .fetch_all(database.pool())
        .await?;
    stored.into_iter().map(TryInto::try_into).collect()
}

/// The field values of a realm by id.
///
/// # Errors
/// [`QueryError::Denied`] without `content.read`.
pub async fn list_fields(
    caller: &Caller,
    database: &Database,
    realm: Realm,
    page: Option<Page>,
) -> Result<Listed<ContentFieldRow>, QueryError> {
    caller.require(Permission::ContentRead)?;
    let page = page.unwrap_or(Page::WHOLE);
    let stored: Vec<StoredValue> = sqlx::query_as(LIST_FIELDS)
        .bind(realm.as_str())
        .bind(page.limit())
        .bind(page.offset())
        .fetch_all(database.pool())
        .await?;
    let total = sqlx::query_scalar(COUNT_FIELDS)
        .bind(realm.as_str())
        .fetch_one(database.pool())
        .await?;
    Listed::read(stored, total)
}
