//! Read model `second_factors`: who has a second factor, since when, and how many backup codes are left.
//!
//! Whether one is asked for at sign-in is never decided here but by its stream; this is for showing.

use std::collections::BTreeMap;

use annals_domain::{AnyEvent, Caller, MfaEvent, Permission, Personal, Timestamp, UserId};
use annals_eventstore::{Database, Record};
use futures::future::BoxFuture;
use serde::Serialize;
use sqlx::{FromRow, PgConnection};
use uuid::Uuid;

use crate::engine::{Projection, ProjectionError};
use crate::error::QueryError;
use crate::page::MOST_ROWS;
use crate::rows::{Moment, Row, Rows};

/// Keeps `view.second_factors`.
#[derive(Debug, Clone, Copy)]
pub struct SecondFactors;

#[derive(Serialize, FromRow)]
struct Stored {
    user_id: Uuid,
    enabled_at: Option<Moment>,
    backup_codes_left: i64,
    version: i64,
}

impl Row for Stored {
    const TABLE: &'static str = "second_factors";
    const READ: &'static str = "
select user_id, enabled_at, backup_codes_left, version
  from second_factors
 where user_id = any($1)";
    const WRITE: &'static str = "
insert into second_factors
select * from json_populate_recordset(null::second_factors, $1::json)
    on conflict (user_id) do update
   set enabled_at = excluded.enabled_at,
       backup_codes_left = excluded.backup_codes_left,
       version = excluded.version";
    const DELETE: &'static str = "
delete from second_factors
 where user_id = any($1)";

    fn key(&self) -> Uuid {
        self.user_id
    }
}

impl Projection for SecondFactors {
    fn name(&self) -> &'static str {
        "second_factors"
    }

    fn version(&self) -> i32 {
        1
    }

    fn tables(&self) -> &'static [&'static str] {
        &["second_factors"]
    }

    fn definition(&self) -> &'static str {
        include_str!("../../migrations/view/0030_second_factors.sql")
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
            AnyEvent::Mfa(event) => Some((record, event)),
            _ => None,
        })
    };
    let mut rows = Rows::<Stored>::read(connection, facts().map(|(record, _)| record.stream.id).collect()).await?;
    for (record, event) in facts() {
        // Every stream begins with an offer.
        if record.version == 1 {
            rows.put(Stored {
                user_id: record.stream.id,
                enabled_at: None,
                backup_codes_left: 0,
                version: 0,
            });
        }
        let row = rows.change(record.stream.id, record.position)?;
        row.version = record.version.cast_signed();
        match event {
            MfaEvent::SetupBegun { .. } | MfaEvent::CodeAccepted { .. } | MfaEvent::CodeRefused { .. } => {}
            MfaEvent::Enabled { at, .. } => row.enabled_at = Some((*at).into()),
            MfaEvent::BackupCodesMade { backup_codes, .. } => row.backup_codes_left = count(backup_codes),
            MfaEvent::BackupCodeUsed { .. } => row.backup_codes_left -= 1,
            MfaEvent::Disabled { .. } => {
                row.enabled_at = None;
                row.backup_codes_left = 0;
            }
        }
    }
    rows.write(connection).await
}

/// Of an erased person nothing is left that could be used.
fn count<T>(set: &Personal<Vec<T>>) -> i64 {
    set.get().map_or(0, |set| i64::try_from(set.len()).unwrap_or(i64::MAX))
}

const OF_USERS: &str = "
select user_id, enabled_at, backup_codes_left, version
  from view.second_factors
 where user_id = any($1)
   and enabled_at is not null
 order by user_id
 limit $2";

/// Since when those of these users have a second factor who do; of more than [`MOST_ROWS`], the first.
///
/// # Errors
/// [`QueryError::Denied`] without `user.read`.
pub async fn enabled_of(
    caller: &Caller,
    database: &Database,
    users: &[UserId],
) -> Result<BTreeMap<UserId, Timestamp>, QueryError> {
    caller.require(Permission::UserRead)?;
    let stored: Vec<Stored> = sqlx::query_as(OF_USERS)
        .bind(users.iter().map(|id| id.as_uuid()).collect::<Vec<_>>())
        .bind(i64::from(MOST_ROWS))
        .fetch_all(database.pool())
        .await?;
    let enabled = stored
        .into_iter()
        .filter_map(|row| Some((row.user_id.into(), row.enabled_at?.into())));
    Ok(enabled.collect())
}
