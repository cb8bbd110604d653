//! Read model `users`: accounts as they are now. Passwords are no part of it.

use annals_domain::{AnyEvent, Caller, Permission, Role, Timestamp, UserEvent, UserId};
use annals_eventstore::{Database, Record};
use futures::future::BoxFuture;
use serde::Serialize;
use sqlx::{FromRow, PgConnection};
use uuid::Uuid;

use crate::engine::{Projection, ProjectionError};
use crate::error::{QueryError, known};
use crate::page::MOST_ROWS;
use crate::rows::{Moment, Row, Rows};

/// Keeps `view.users`.
#[derive(Debug, Clone, Copy)]
pub struct Users;

#[derive(Serialize, FromRow)]
struct Stored {
    user_id: Uuid,
    email: Option<String>,
    username: Option<String>,
    name: Option<String>,
    role: String,
    verified: bool,
    disabled: bool,
    disabled_reason: Option<String>,
    created_at: Moment,
    updated_at: Moment,
    version: i64,
}

impl Row for Stored {
    const TABLE: &'static str = "users";
    const READ: &'static str = "
select user_id, email, username, name, role, verified, disabled, disabled_reason, created_at, updated_at, version
  from users
 where user_id = any($1)";
    const WRITE: &'static str = "
insert into users
select * from json_populate_recordset(null::users, $1::json)
    on conflict (user_id) do update
   set email = excluded.email,
       username = excluded.username,
       name = excluded.name,
       role = excluded.role,
       verified = excluded.verified,
       disabled = excluded.disabled,
       disabled_reason = excluded.disabled_reason,
       created_at = excluded.created_at,
       updated_at = excluded.updated_at,
       version = excluded.version";
    const DELETE: &'static str = "
delete from users
 where user_id = any($1)";

    fn key(&self) -> Uuid {
        self.user_id
    }
}

impl Projection for Users {
    fn name(&self) -> &'static str {
        "users"
    }

    fn version(&self) -> i32 {
        1
    }

    fn tables(&self) -> &'static [&'static str] {
        &["users"]
    }

    fn definition(&self) -> &'static str {
        include_str!("../../migrations/view/0001_users.sql")
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
            AnyEvent::User(event) => Some((record, event)),
            _ => None,
        })
    };
    let known = facts().filter(|(_, event)| !matches!(event, UserEvent::Registered { .. }));
    let mut rows = Rows::<Stored>::read(connection, known.map(|(record, _)| record.stream.id).collect()).await?;
    for (record, event) in facts() {
        let version = record.version.cast_signed();
        match event {
            UserEvent::Registered {
                email,
                username,
                name,
                role,
                at,
            } => rows.put(Stored {
                user_id: record.stream.id,
                email: email.get().map(ToString::to_string),
                username: username.get().map(ToString::to_string),
                name: name.get().cloned(),
                role: role.as_str().to_owned(),
                verified: false,
                disabled: false,
                disabled_reason: None,
                created_at: (*at).into(),
                updated_at: (*at).into(),
                version,
            }),
            UserEvent::ProfileChanged { name, at } => {
                let row = rows.change(record.stream.id, record.position)?;
                row.name = name.get().cloned();
                row.updated_at = (*at).into();
                row.version = version;
            }
            UserEvent::EmailVerified { at } => {
                let row = rows.change(record.stream.id, record.position)?;
                row.verified = true;
                row.updated_at = (*at).into();
                row.version = version;
            }
            UserEvent::OnboardingCompleted { .. } => {
                rows.change(record.stream.id, record.position)?.version = version;
            }
            UserEvent::Disabled { reason, at } => {
                let row = rows.change(record.stream.id, record.position)?;
                row.disabled = true;
                row.disabled_reason = Some(reason.clone());
                row.updated_at = (*at).into();
                row.version = version;
            }
            UserEvent::Enabled { at } => {
                let row = rows.change(record.stream.id, record.position)?;
                row.disabled = false;
                row.disabled_reason = None;
                row.updated_at = (*at).into();
                row.version = version;
            }
        }
    }
    rows.write(connection).await
}

/// One account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UserRow {
    /// Its id.
    pub user_id: UserId,
    /// The mail address, lower-case; absent once erased.
    pub email: Option<String>,
    /// The name to sign in with, as it was written; absent once erased.
    pub username: Option<String>,
    /// The name for people to read; absent once erased.
    pub name: Option<String>,
    /// What the person may do.
    pub role: Role,
    /// Whether the mail address was proven.
    pub verified: bool,
    /// Whether the person is kept from signing in.
    pub disabled: bool,
    /// Why, if so.
    pub disabled_reason: Option<String>,
    /// When the account was created.
    pub created_at: Timestamp,
    /// When it was last changed.
    pub updated_at: Timestamp,
    /// The stream version that the row shows.
    pub version: u64,
}

impl TryFrom<Stored> for UserRow {
    type Error = QueryError;

    fn try_from(row: Stored) -> Result<Self, QueryError> {
        Ok(Self {
            user_id: row.user_id.into(),
            email: row.email,
            username: row.username,
            name: row.name,
            role: known("users.role", row.role)?,
            verified: row.verified,
            disabled: row.disabled,
            disabled_reason: row.disabled_reason,
            created_at: row.created_at.into(),
            updated_at: row.updated_at.into(),
            version: row.version.cast_unsigned(),
        })
    }
}

const BY_IDS: &str = "
select user_id, email, username, name, role, verified, disabled, disabled_reason, created_at, updated_at, version
  from view.users
 where user_id = any($1)
 order by user_id
 limit $2";

/// One account; absent when there is none of that id. One's own needs no permission.
///
/// # Errors
/// [`QueryError::Denied`] without `user.read` for somebody else's.
pub async fn by_id(caller: &Caller, database: &Database, id: UserId) -> Result<Option<UserRow>, QueryError> {
    if caller.user_id() != Some(id) {
        caller.require(Permission::UserRead)?;
    }
    Ok(read(database, vec![id.into()]).await?.pop())
}

/// The accounts of these ids that exist, by id; of more than [`MOST_ROWS`], the first.
///
/// # Errors
/// [`QueryError::Denied`] without `user.read`.
pub async fn by_ids(caller: &Caller, database: &Database, ids: &[UserId]) -> Result<Vec<UserRow>, QueryError> {
    caller.require(Permission::UserRead)?;
    read(database, ids.iter().map(|id| id.as_uuid()).collect()).await
}

const ADMINISTRATORS: &str = "
select user_id, email, username, name, role, verified, disabled, disabled_reason, created_at, updated_at, version
  from view.users
 where role = 'administrator'
   and not disabled
 order by user_id
 limit $1";

/// The administrators who may sign in, by id; of more than [`MOST_ROWS`], the first.
///
/// # Errors
/// [`QueryError::Denied`] without `user.read`.
pub async fn administrators(caller: &Caller, database: &Database) -> Result<Vec<UserRow>, QueryError> {
    caller.require(Permission::UserRead)?;
    let stored: Vec<Stored> = sqlx::query_as(ADMINISTRATORS)
        .bind(i64::from(MOST_ROWS))
        .fetch_all(database.pool())
        .await?;
    stored.into_iter().map(TryInto::try_into).collect()
}

async fn read(database: &Database, ids: Vec<Uuid>) -> Result<Vec<UserRow>, QueryError> {
    let stored: Vec<Stored> = sqlx::query_as(BY_IDS)
        .bind(ids)
        .bind(i64::from(MOST_ROWS))
        .fetch_all(database.pool())
        .await?;
    stored.into_iter().map(TryInto::try_into).collect()
}
