//! Read model `routes`: slugs under which content is delivered.

use annals_domain::{AnyEvent, Caller, Permission, Realm, RouteEvent, RouteId, Slug, Timestamp, UserId};
use annals_eventstore::{Database, Record};
use futures::future::BoxFuture;
use serde::Serialize;
use sqlx::{FromRow, PgConnection};
use uuid::Uuid;

use crate::engine::{Projection, ProjectionError};
use crate::error::{QueryError, known};
use crate::page::{Listed, Page};
use crate::rows::{Moment, Row, Rows};

/// Keeps `view.routes`.
#[derive(Debug, Clone, Copy)]
pub struct Routes;

#[derive(Serialize, FromRow)]
struct Stored {
    route_id: Uuid,
    realm: String,
    slug: String,
    title: String,
    status: i64,
    author_id: Option<Uuid>,
    date_created: Option<Moment>,
    date_modified: Option<Moment>,
    version: i64,
}

impl Row for Stored {
    const TABLE: &'static str = "routes";
    const READ: &'static str = "
select route_id, realm, slug, title, status, author_id, date_created, date_modified, version
  from routes
 where route_id = any($1)";
    const WRITE: &'static str = "
insert into routes
select * from json_populate_recordset(null::routes, $1::json)
    on conflict (route_id) do update
   set realm = excluded.realm,
       slug = excluded.slug,
       title = excluded.title,
       status = excluded.status,
       author_id = excluded.author_id,
       date_created = excluded.date_created,
       date_modified = excluded.date_modified,
       version = excluded.version";
    const DELETE: &'static str = "
delete from routes
 where route_id = any($1)";

    fn key(&self) -> Uuid {
        self.route_id
    }
}

impl Projection for Routes {
    fn name(&self) -> &'static str {
        "routes"
    }

    fn version(&self) -> i32 {
        1
    }

    fn tables(&self) -> &'static [&'static str] {
        &["routes"]
    }

    fn definition(&self) -> &'static str {
        include_str!("../../migrations/view/0006_routes.sql")
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
    // Every fact about a route says all there is to say, so nothing has to be read.
    let mut rows = Rows::<Stored>::read(connection, Vec::new()).await?;
    for record in batch {
        let AnyEvent::Route(event) = &record.event else {
            continue;
        };
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
                rows.put(Stored {
                    route_id: record.stream.id,
                    realm: realm.as_str().to_owned(),
                    slug: slug.as_str().to_owned(),
                    title: title.clone(),
                    status: *status,
                    author_id: author_id.map(Into::into),
                    date_created: date_created.map(Into::into),
                    date_modified: date_modified.map(Into::into),
                    version: record.version.cast_signed(),
                });
            }
            RouteEvent::Deleted { at: _ } => rows.remove(record.stream.id),
        }
    }
    rows.write(connection).await
}

/// One route.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouteRow {
    /// Its id.
    pub route_id: RouteId,
    /// Where it lives.
    pub realm: Realm,
    /// The path.
    pub slug: Slug,
    /// The name for people to read.
    pub title: String,
    /// A number whose meaning is the client's.
    pub status: i64,
    /// Who is named as its author.
    pub author_id: Option<UserId>,
    /// As the client said.
    pub date_created: Option<Timestamp>,
    /// As the client said.
    pub date_modified: Option<Timestamp>,
    /// The stream version that the row shows.
    pub version: u64,
}

impl TryFrom<Stored> for RouteRow {
    type Error = QueryError;

    fn try_from(row: Stored) -> Result<Self, QueryError> {
        Ok(Self {
            route_id: row.route_id.into(),
            realm: known("routes.realm", row.realm)?,
            slug: known("routes.slug", row.slug)?,
            title: row.title,
            status: row.status,
            author_id: row.author_id.map(Into::into),
            date_created: row.date_created.map(Into::into),
            date_modified: row.date_modified.map(Into::into),
            version: row.version.cast_unsigned(),
        })
    }
}

const BY_ID: &str = "
select route_id, realm, slug, title, status, author_id, date_created, date_modified, version
  from view.routes
 where route_id = $1";

const BY_SLUG: &str = "
select route_id, realm, slug, title, status, author_id, date_created, date_modified, version
  from view.routes
 where realm = $1
   and slug = $2
 order by route_id
 limit 1";

const LIST: &str = "
select route_id, realm, slug, title, status, author_id, date_created, date_modified, version
  from view.routes
 where realm = $1
 order by slug, route_id
 limit $2
offset $3";

const COUNT: &str = "
select count(*)
  from view.routes
 where realm = $1";

/// One route; absent when there is none of that id.
///
/// # Errors
/// [`QueryError::Denied`] without `route.read`.
pub async fn by_id(caller: &Caller, database: &Database, id: RouteId) -> Result<Option<RouteRow>, QueryError> {
    caller.require(Permission::RouteRead)?;
    let stored: Option<Stored> = sqlx::query_as(BY_ID)
        .bind(id.as_uuid())
        .fetch_optional(database.pool())
        .await?;
    stored.map(TryInto::try_into).transpose()
}

/// The route of a path; absent when there is none. Everybody may ask about the site, since visitors do; what the
/// administration interface is made of takes `route.read`.
///
/// # Errors
/// [`QueryError::Denied`] without that permission.
pub async fn by_slug(
    caller: &Caller,
    database: &Database,
    realm: Realm,
    slug: &Slug,
) -> Result<Option<RouteRow>, QueryError> {
    if realm != Realm::Site {
        caller.require(Permission::RouteRead)?;
    }
    let stored: Option<Stored> = sqlx::query_as(BY_SLUG)
        .bind(realm.as_str())
        .bind(slug.as_str())
        .fetch_optional(database.pool())
        .await?;
    stored.map(TryInto::try_into).transpose()
}

/// The routes of a realm by slug.
///
/// # Errors
/// [`QueryError::Denied`] without `route.read`.
pub async fn list(
    caller: &Caller,
    database: &Database,
    realm: Realm,
    page: Option<Page>,
) -> Result<Listed<RouteRow>, QueryError> {
    caller.require(Permission::RouteRead)?;
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
