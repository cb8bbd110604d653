//! Read model `organizations`: organizations and their members.

use std::collections::BTreeMap;

use annals_domain::{
    AnyEvent, Caller, OrganizationEvent, OrganizationId, OrganizationRole, Permission, Timestamp, UserId,
};
use annals_eventstore::{Database, Record};
use futures::future::BoxFuture;
use serde::Serialize;
use sqlx::{FromRow, PgConnection};
use uuid::Uuid;

use crate::engine::{Projection, ProjectionError};
use crate::error::{QueryError, known};
use crate::page::MOST_ROWS;
use crate::rows::{Moment, Row, Rows, write_rows};

/// Keeps `view.organizations` and `view.organization_members`.
#[derive(Debug, Clone, Copy)]
pub struct Organizations;

#[derive(Serialize, FromRow)]
struct Stored {
    organization_id: Uuid,
    name: String,
    slug: String,
    created_at: Moment,
    version: i64,
}

impl Row for Stored {
    const TABLE: &'static str = "organizations";
    const READ: &'static str = "
select organization_id, name, slug, created_at, version
  from organizations
 where organization_id = any($1)";
    const WRITE: &'static str = "
insert into organizations
select * from json_populate_recordset(null::organizations, $1::json)
    on conflict (organization_id) do update
   set name = excluded.name,
       slug = excluded.slug,
       created_at = excluded.created_at,
       version = excluded.version";
    const DELETE: &'static str = "
delete from organizations
 where organization_id = any($1)";

    fn key(&self) -> Uuid {
        self.organization_id
    }
}

#[derive(Serialize)]
struct StoredMember {
    organization_id: Uuid,
    user_id: Uuid,
    role: &'static str,
    joined_at: Moment,
}

/// Who is already a member keeps the day of joining and takes the new role.
const WRITE_MEMBERS: &str = "
insert into organization_members
select * from json_populate_recordset(null::organization_members, $1::json)
    on conflict (organization_id, user_id) do update
   set role = excluded.role";

impl Projection for Organizations {
    fn name(&self) -> &'static str {
        "organizations"
    }

    fn version(&self) -> i32 {
        1
    }

    fn tables(&self) -> &'static [&'static str] {
        &["organizations", "organization_members"]
    }

    fn definition(&self) -> &'static str {
        include_str!("../../migrations/view/0003_organizations.sql")
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
    let facts = || {
        batch.iter().filter_map(|record| match &record.event {
            AnyEvent::Organization(event) => Some((record, event)),
            _ => None,
        })
    };
    let known = facts().filter(|(_, event)| !matches!(event, OrganizationEvent::Founded { .. }));
    let mut rows = Rows::<Stored>::read(connection, known.map(|(record, _)| record.stream.id).collect()).await?;
    let mut members: BTreeMap<(Uuid, Uuid), StoredMember> = BTreeMap::new();
    for (record, event) in facts() {
        let organization_id = record.stream.id;
        match event {
            OrganizationEvent::Founded { name, slug, at } => rows.put(Stored {
                organization_id,
                name: name.clone(),
                slug: slug.clone(),
                created_at: (*at).into(),
                version: record.version.cast_signed(),
            }),
            OrganizationEvent::MemberAdded { user_id, role, at } => {
                rows.change(organization_id, record.position)?.version = record.version.cast_signed();
                let user_id = user_id.as_uuid();
                members
                    .entry((organization_id, user_id))
                    .and_modify(|member| member.role = role.as_str())
                    .or_insert(StoredMember {
                        organization_id,
                        user_id,
                        role: role.as_str(),
                        joined_at: (*at).into(),
                    });
            }
        }
    }
    rows.write(connection).await?;
    let members: Vec<StoredMember> = members.into_values().collect();
    write_rows(connection, WRITE_MEMBERS, &members).await
}

/// One organization.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OrganizationRow {
    /// Its id.
    pub organization_id: OrganizationId,
    /// The name for people to read.
    pub name: String,
    /// The short name for addresses.
    pub slug: String,
    /// When it was founded.
    pub created_at: Timestamp,
    /// The stream version that the row shows.
    pub version: u64,
}

/// An organization, and what a user is to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MembershipRow {
    /// The organization.
    pub organization: OrganizationRow,
    /// The user's part in it.
    pub role: OrganizationRole,
    /// Since when.
    pub joined_at: Timestamp,
}

impl From<Stored> for OrganizationRow {
    fn from(row: Stored) -> Self {
        Self {
            organization_id: row.organization_id.into(),
            name: row.name,
            slug: row.slug,
            created_at: row.created_at.into(),
            version: row.version.cast_unsigned(),
        }
    }
}

#[derive(FromRow)]
struct StoredMembership {
    #[sqlx(flatten)]
    organization: Stored,
    role: String,
    joined_at: Moment,
}

impl TryFrom<StoredMembership> for MembershipRow {
    type Error = QueryError;

    fn try_from(row: StoredMembership) -> Result<Self, QueryError> {
        Ok(Self {
            organization: row.organization.into(),
            role: known("organization_members.role", row.role)?,
            joined_at: row.joined_at.into(),
        })
    }
}

const BY_ID: &str = "
select organization_id, name, slug, created_at, version
  from view.organizations
 where organization_id = $1
   and ($2 or exists (select from view.organization_members
                       where organization_id = $1
                         and user_id = $3))";

const OF_USER: &str = "
select organization_id, o.name, o.slug, o.created_at, o.version, m.role, m.joined_at
  from view.organization_members m
  join view.organizations o using (organization_id)
 where m.user_id = $1
 order by m.joined_at, organization_id
 limit $2";

/// One organization; absent when there is none of that id, or when the caller is no member and may not see
/// other people's.
///
/// # Errors
/// [`QueryError::Denied`] when nobody is signed in.
pub async fn by_id(
    caller: &Caller,
    database: &Database,
    id: OrganizationId,
) -> Result<Option<OrganizationRow>, QueryError> {
    let sees_all = caller.can(Permission::UserRead);
    if !sees_all {
        caller.require_user()?;
    }
    let stored: Option<Stored> = sqlx::query_as(BY_ID)
        .bind(id.as_uuid())
        .bind(sees_all)
        .bind(caller.user_id().map(Uuid::from))
        .fetch_optional(database.pool())
        .await?;
    Ok(stored.map(Into::into))
}

/// The organizations of a user, longest membership first; the first [`MOST_ROWS`]. One's own need no permission.
///
/// # Errors
/// [`QueryError::Denied`] without `user.read` for somebody else's.
pub async fn of_user(caller: &Caller, database: &Database, user: UserId) -> Result<Vec<MembershipRow>, QueryError> {
    if caller.user_id() != Some(user) {
        caller.require(Permission::UserRead)?;
    }
    let stored: Vec<StoredMembership> = sqlx::query_as(OF_USER)
        .bind(user.as_uuid())
        .bind(i64::from(MOST_ROWS))
        .fetch_all(database.pool())
        .await?;
    stored.into_iter().map(TryInto::try_into).collect()
}
