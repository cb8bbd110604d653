//! Read model `sessions`: sign-ins with their device and address, ended ones included.
//!
//! Whether a request may go on is never decided here but by the log's claims; this is for showing.

use annals_domain::{
    AnyEvent, Caller, Device, Permission, Personal, SessionEvent, SessionId, SessionStatus, Timestamp, UserId,
};
use annals_eventstore::{Database, Record};
use futures::future::BoxFuture;
use serde::Serialize;
use sqlx::{FromRow, PgConnection};
use uuid::Uuid;

use crate::engine::{Projection, ProjectionError};
use crate::error::{QueryError, known};
use crate::page::{MOST_ROWS, Page};
use crate::rows::{Moment, Row, Rows};

/// Keeps `view.sessions`.
#[derive(Debug, Clone, Copy)]
pub struct Sessions;

const LIVE: &str = "live";
const REVOKED: &str = "revoked";
const EXPIRED: &str = "expired";

#[derive(Serialize, FromRow)]
struct Stored {
    session_id: Uuid,
    user_id: Uuid,
    status: String,
    device_id: Option<String>,
    device_name: Option<String>,
    device_kind: Option<String>,
    user_agent: Option<String>,
    address: Option<String>,
    created_at: Moment,
    last_used_at: Moment,
    expires_at: Moment,
    ended_at: Option<Moment>,
    end_reason: Option<String>,
    refresh_count: i64,
    version: i64,
}

impl Row for Stored {
    const TABLE: &'static str = "sessions";
    const READ: &'static str = "
select session_id, user_id, status, device_id, device_name, device_kind, user_agent, address, created_at,
       last_used_at, expires_at, ended_at, end_reason, refresh_count, version
  from sessions
 where session_id = any($1)";
    const WRITE: &'static str = "
insert into sessions
select * from json_populate_recordset(null::sessions, $1::json)
    on conflict (session_id) do update
   set user_id = excluded.user_id,
       status = excluded.status,
       device_id = excluded.device_id,
       device_name = excluded.device_name,
       device_kind = excluded.device_kind,
       user_agent = excluded.user_agent,
       address = excluded.address,
       created_at = excluded.created_at,
       last_used_at = excluded.last_used_at,
       expires_at = excluded.expires_at,
       ended_at = excluded.ended_at,
       end_reason = excluded.end_reason,
       refresh_count = excluded.refresh_count,
       version = excluded.version";
    const DELETE: &'static str = "
delete from sessions
 where session_id = any($1)";

    fn key(&self) -> Uuid {
        self.session_id
    }
}

impl Projection for Sessions {
    fn name(&self) -> &'static str {
        "sessions"
    }

    fn version(&self) -> i32 {
        1
    }

    fn tables(&self) -> &'static [&'static str] {
        &["sessions"]
    }

    fn definition(&self) -> &'static str {
        include_str!("../../migrations/view/0002_sessions.sql")
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
            AnyEvent::Session(event) => Some((record, event)),
            _ => None,
        })
    };
    let known = facts().filter(|(_, event)| !matches!(event, SessionEvent::Started { .. }));
    let mut rows = Rows::<Stored>::read(connection, known.map(|(record, _)| record.stream.id).collect()).await?;
    for (record, event) in facts() {
        let version = record.version.cast_signed();
        match event {
            SessionEvent::Started {
                user_id,
                refresh_digest: _,
                device,
                address,
                expires_at,
                at,
            } => {
                let device = device.get();
                rows.put(Stored {
                    session_id: record.stream.id,
                    user_id: (*user_id).into(),
                    status: LIVE.to_owned(),
                    device_id: device.and_then(|device| device.id.clone()),
                    device_name: device.and_then(|device| device.name.clone()),
                    device_kind: device.map(|device| device.kind.clone()),
                    user_agent: device.and_then(|device| device.user_agent.clone()),
                    address: text_of(address.as_ref()),
                    created_at: (*at).into(),
                    last_used_at: (*at).into(),
                    expires_at: (*expires_at).into(),
                    ended_at: None,
                    end_reason: None,
                    refresh_count: 0,
                    version,
                });
            }
            SessionEvent::Refreshed {
                refresh_digest: _,
                expires_at,
                address,
                at,
            } => {
                let row = rows.change(record.stream.id, record.position)?;
                // A refresh without an address says nothing about where the session is; an erased one says it is erased.
                if address.is_some() {
                    row.address = text_of(address.as_ref());
                }
                row.expires_at = (*expires_at).into();
                row.last_used_at = (*at).into();
                row.refresh_count += 1;
                row.version = version;
            }
            SessionEvent::Revoked { reason, at } => {
                let row = rows.change(record.stream.id, record.position)?;
                row.status = REVOKED.to_owned();
                row.ended_at = Some((*at).into());
                row.end_reason = Some(reason.as_str().to_owned());
                row.version = version;
            }
            SessionEvent::Expired { at } => {
                let row = rows.change(record.stream.id, record.position)?;
                row.status = EXPIRED.to_owned();
                row.ended_at = Some((*at).into());
                row.version = version;
            }
        }
    }
    rows.write(connection).await
}

fn text_of(text: Option<&Personal<String>>) -> Option<String> {
    text.and_then(Personal::get).cloned()
}

/// One sign-in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionRow {
    /// Its id.
    pub session_id: SessionId,
    /// Whose it is.
    pub user_id: UserId,
    /// Whether it can be used, as of the moment that was asked for.
    pub status: SessionStatus,
    /// What the client said about itself; all unknown once erased.
    pub device: Device,
    /// Where it was last refreshed from, or else started; absent when unknown or erased.
    pub address: Option<String>,
    /// When it started.
    pub created_at: Timestamp,
    /// When it was last refreshed, or else started.
    pub last_used_at: Timestamp,
    /// When it ends unless refreshed.
    pub expires_at: Timestamp,
    /// When it was ended, on purpose or by being found past its time.
    pub ended_at: Option<Timestamp>,
    /// Why it was ended on purpose, such as `user_logout`.
    pub end_reason: Option<String>,
    /// How often it was refreshed.
    pub refresh_count: u64,
    /// The stream version that the row shows.
    pub version: u64,
}

impl SessionRow {
    fn read(row: Stored, at: Timestamp) -> Result<Self, QueryError> {
        let expires_at = row.expires_at.into();
        let status = match known("sessions.status", row.status)? {
            SessionStatus::Live if at >= expires_at => SessionStatus::Expired,
            status => status,
        };
        let kind = row.device_kind.unwrap_or_else(|| Device::default().kind);
        Ok(Self {
            session_id: row.session_id.into(),
            user_id: row.user_id.into(),
            status,
            device: Device {
                id: row.device_id,
                name: row.device_name,
                kind,
                user_agent: row.user_agent,
            },
            address: row.address,
            created_at: row.created_at.into(),
            last_used_at: row.last_used_at.into(),
            expires_at,
            ended_at: row.ended_at.map(Into::into),
            end_reason: row.end_reason,
            refresh_count: row.refresh_count.cast_unsigned(),
            version: row.version.cast_unsigned(),
        })
    }
}

const OF_USER: &str = "
select session_id, user_id, status, device_id, device_name, device_kind, user_agent, address, created_at,
       last_used_at, expires_at, ended_at, end_reason, refresh_count, version
  from view.sessions
 where user_id = $1
   and ($2 or (status = 'live' and expires_at > $3))
 order by last_used_at desc, session_id
 limit $4";

const BY_ID: &str = "
select session_id, user_id, status, device_id, device_name, device_kind, user_agent, address, created_at,
       last_used_at, expires_at, ended_at, end_reason, refresh_count, version
  from view.sessions
 where session_id = $1";

/// A user's sessions, latest use first: those live at `at`, and with `include_ended` the expired and revoked ones too;
/// the first [`MOST_ROWS`]. One's own need no permission.
///
/// # Errors
/// [`QueryError::Denied`] without `user.read` for somebody else's.
pub async fn live_of(
    caller: &Caller,
    database: &Database,
    user: UserId,
    include_ended: bool,
    at: Timestamp,
) -> Result<Vec<SessionRow>, QueryError> {
    if caller.user_id() != Some(user) {
        caller.require(Permission::UserRead)?;
    }
    let stored: Vec<Stored> = sqlx::query_as(OF_USER)
        .bind(user.as_uuid())
        .bind(include_ended)
        .bind(at.to_offset())
        .bind(i64::from(MOST_ROWS))
        .fetch_all(database.pool())
        .await?;
    stored.into_iter().map(|row| SessionRow::read(row, at)).collect()
}

const LIVE_OF_ALL: &str = "
select session_id, user_id, status, device_id, device_name, device_kind, user_agent, address, created_at,
       last_used_at, expires_at, ended_at, end_reason, refresh_count, version
  from view.sessions
 where status = 'live'
   and expires_at > $1
 order by last_used_at desc, session_id
 limit $2
offset $3";

const COUNTS: &str = "
select count(*) filter (where status = 'live' and expires_at > $1),
       count(*) filter (where status = 'live' and expires_at <= $1),
       count(*) filter (where status = 'expired'),
       count(*) filter (where status = 'revoked')
  from view.sessions";

const PAST: &str = "
select session_id
  from view.sessions
 where status = 'live'
   and expires_at <= $1
 order by expires_at, session_id
 limit $2";

/// How many sessions there are, by what became of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SessionCounts {
    /// Usable at the moment that was asked for.
    pub live: u64,
    /// Past their time, which is not recorded yet.
    pub past: u64,
    /// Ended by time.
    pub expired: u64,
    /// Ended on purpose.
    pub revoked: u64,
}

/// Everybody's sessions that are live at `at`, latest use first.
///
/// # Errors
/// [`QueryError::Denied`] without `user.read`.
pub async fn live_of_all(
    caller: &Caller,
    database: &Database,
    at: Timestamp,
    page: Page,
) -> Result<Vec<SessionRow>, QueryError> {
    caller.require(Permission::UserRead)?;
    let stored: Vec<Stored> = sqlx::query_as(LIVE_OF_ALL)
        .bind(at.to_offset())
        .bind(page.limit())
        .bind(page.offset())
        .fetch_all(database.pool())
        .await?;
    stored.into_iter().map(|row| SessionRow::read(row, at)).collect()
}

/// Everybody's sessions, counted as of `at`.
///
/// # Errors
/// [`QueryError::Denied`] without `user.read`.
pub async fn counts(caller: &Caller, database: &Database, at: Timestamp) -> Result<SessionCounts, QueryError> {
    caller.require(Permission::UserRead)?;
    let (live, past, expired, revoked): (i64, i64, i64, i64) = sqlx::query_as(COUNTS)
        .bind(at.to_offset())
        .fetch_one(database.pool())
        .await?;
    Ok(SessionCounts {
        live: live.cast_unsigned(),
        past: past.cast_unsigned(),
        expired: expired.cast_unsigned(),
        revoked: revoked.cast_unsigned(),
    })
}

/// At most `limit` sessions whose time is over at `at` without that being recorded, longest over first.
///
/// # Errors
/// [`QueryError::Denied`] without `user.read`.
pub async fn past(
    caller: &Caller,
    database: &Database,
    at: Timestamp,
    limit: u32,
) -> Result<Vec<SessionId>, QueryError> {
    caller.require(Permission::UserRead)?;
    let ids: Vec<Uuid> = sqlx::query_scalar(PAST)
        .bind(at.to_offset())
        .bind(i64::from(limit.min(MOST_ROWS)))
        .fetch_all(database.pool())
        .await?;
    Ok(ids.into_iter().map(SessionId::new).collect())
}

/// One session, its status as of `at`; absent when there is none of that id, or when it is somebody else's and the
/// caller may not see other people's.
///
/// # Errors
/// [`QueryError::Denied`] when nobody is signed in.
pub async fn by_id(
    caller: &Caller,
    database: &Database,
    id: SessionId,
    at: Timestamp,
) -> Result<Option<SessionRow>, QueryError> {
    let sees_all = caller.can(Permission::UserRead);
    if !sees_all {
        caller.require_user()?;
    }
    let stored: Option<Stored> = sqlx::query_as(BY_ID)
        .bind(id.as_uuid())
        .fetch_optional(database.pool())
        .await?;
    stored
        .filter(|row| sees_all || caller.user_id() == Some(row.user_id.into()))
        .map(|row| SessionRow::read(row, at))
        .transpose()
}
