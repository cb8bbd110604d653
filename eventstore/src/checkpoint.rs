//! How far each reader of the log has come, and who may move it.
//!
//! A checkpoint carries the entry hash of its position, by which a reader notices that it looks at another log, or at
//! one that was set back. A lease says whose turn it is; its epoch, which grows with every change of hands, is what
//! really keeps two holders apart: whoever moves a checkpoint names the epoch.

use std::time::Duration;

use serde::Serialize;
use sqlx::postgres::PgRow;
use sqlx::{PgConnection, PgPool, Row};
use time::OffsetDateTime;

use annals_domain::Timestamp;

use crate::error::StoreError;
use crate::position::{Hash, Position};

const ACQUIRE: &str = "
    insert into log.checkpoints as c (projection, version, position, entry_hash, epoch, owner, lease_until)
    values ($1, $2, 0, $3, 1, $4, clock_timestamp() + make_interval(secs => $5))
    on conflict (projection) do update
    set epoch = c.epoch + 1, owner = excluded.owner, lease_until = excluded.lease_until,
        heartbeat_at = clock_timestamp()
    where c.lease_until is null or c.lease_until < clock_timestamp() or c.owner = excluded.owner
    returning *
";

const RENEW: &str = "
    update log.checkpoints
    set lease_until = clock_timestamp() + make_interval(secs => $3), heartbeat_at = clock_timestamp()
    where owner = $1 and projection = any($2) and lease_until > clock_timestamp()
    returning projection
";

const RELEASE_ALL: &str = "
    update log.checkpoints
    set owner = null, lease_until = null
    where owner is not null
";

const RELEASE: &str = "
    update log.checkpoints
    set owner = null, lease_until = null
    where owner = $1
";

const RELEASE_SOME: &str = "
    update log.checkpoints
    set owner = null, lease_until = null
    where owner = $1 and projection = any($2)
";

const LOAD: &str = "
    select *
    from log.checkpoints
    where projection = $1
";

const LOCK: &str = "
    select *
    from log.checkpoints
    where projection = $1
    for update
";

const LIST: &str = "
    select *
    from log.checkpoints
    order by projection
    limit 10000
";

const DIVERGED: &str = "
    select c.projection, c.position
    from log.checkpoints c
    where c.position > 0
        and not exists (
            select
            from log.events e
            where e.position = c.position and e.entry_hash = c.entry_hash
        )
    order by c.projection
    limit 10000
";

const ADVANCE: &str = "
    update log.checkpoints c
    set position = $4, entry_hash = $5, status = 'live', failures = 0, last_error = null, failed_at = null,
        moved_at = clock_timestamp(), heartbeat_at = clock_timestamp()
    from unnest($1::text[], $2::bigint[]) as m(projection, epoch)
    where c.projection = m.projection and c.epoch = m.epoch and c.position = $3
        and (
            c.position = 0
            or exists (
                select
                from log.events e
                where e.position = c.position and e.entry_hash = c.entry_hash
            )
        )
";

const FAIL: &str = "
    update log.checkpoints
    set status = 'failing', failures = failures + 1, last_error = left($3, 2000), failed_at = clock_timestamp(),
        heartbeat_at = clock_timestamp()
    where projection = $1 and epoch = $2
";

const MEND: &str = "
    update log.checkpoints
    set status = 'live', failures = 0, last_error = null, failed_at = null, heartbeat_at = clock_timestamp()
    where projection = $1 and epoch = $2
";

const REPLACE: &str = "
    insert into log.checkpoints as c (projection, version, position, entry_hash, epoch)
    values ($1, $2, $3, $4, 1)
    on conflict (projection) do update
    set version = excluded.version, position = excluded.position, entry_hash = excluded.entry_hash,
        epoch = c.epoch + 1, owner = null, lease_until = null, status = 'live', failures = 0, last_error = null,
        failed_at = null, moved_at = clock_timestamp(), heartbeat_at = clock_timestamp()
    returning epoch
";

const FORGET: &str = "delete from log.checkpoints where projection = $1";

/// What a reader took in is not what the log says now: the log was restored from an older backup, or is another one.
/// Nothing may be added to what it has; it is built anew, or the right log brought back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, thiserror::Error)]
#[error("log diverged at position {position}")]
pub struct Divergence {
    /// Name of the reader.
    pub projection: String,
    /// Where it stands: the log ends before, or has another history up to there.
    pub position: Position,
}

/// Whether a reader gets on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum CheckpointStatus {
    /// It follows the log.
    Live,
    /// It stands at an event that it cannot get past; it is tried again and again.
    Failing,
}

/// Where one reader stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Checkpoint {
    /// Name of the reader.
    pub projection: String,
    /// Version of the reader that the state belongs to.
    pub version: i32,
    /// Everything up to here has been taken in.
    pub position: Position,
    /// Entry hash at that position; zeros at the start.
    pub entry_hash: Hash,
    /// Grows with every change of hands.
    pub epoch: u64,
    /// Who holds the lease; absent when nobody does.
    pub owner: Option<String>,
    /// By the database's clock.
    pub lease_until: Option<Timestamp>,
    /// Whether it gets on.
    pub status: CheckpointStatus,
    /// Failures in a row.
    pub failures: u32,
    /// What the last failure said; absent while it gets on.
    pub last_error: Option<String>,
    /// When it last failed; absent while it gets on.
    pub failed_at: Option<Timestamp>,
    /// The last sign of life of its owner.
    pub heartbeat_at: Timestamp,
    /// When it last moved.
    pub moved_at: Timestamp,
}

impl Checkpoint {
    fn from_row(row: &PgRow) -> Result<Self, StoreError> {
        let moment = |name| {
            row.try_get::<Option<OffsetDateTime>, _>(name)
                .map(|at| at.map(Timestamp::from_offset))
        };
        let status: &str = row.try_get("status")?;
        let failures: i32 = row.try_get("failures")?;
        Ok(Self {
            projection: row.try_get("projection")?,
            version: row.try_get("version")?,
            position: Position::from_i64(row.try_get("position")?),
            entry_hash: Hash::from_column(row, "entry_hash")?,
            epoch: row.try_get::<i64, _>("epoch")?.cast_unsigned(),
            owner: row.try_get("owner")?,
            lease_until: moment("lease_until")?,
            status: if status == "failing" {
                CheckpointStatus::Failing
            } else {
                CheckpointStatus::Live
            },
            failures: u32::try_from(failures).unwrap_or(0),
            last_error: row.try_get("last_error")?,
            failed_at: moment("failed_at")?,
            heartbeat_at: Timestamp::from_offset(row.try_get("heartbeat_at")?),
            moved_at: Timestamp::from_offset(row.try_get("moved_at")?),
        })
    }
}

/// Takes the lease on `projection` for `owner`, a name unique to the process, if it is free, run out or its own.
/// Raises the epoch, so that whoever held it before moves nothing any more. Makes the checkpoint, at the start of the
/// log and with `version`, when there is none. Absent when somebody else holds it.
///
/// # Errors
/// [`StoreError::Database`].
pub async fn acquire(
    pool: &PgPool,
    projection: &str,
    version: i32,
    owner: &str,
    lease: Duration,
) -> Result<Option<Checkpoint>, StoreError> {
    let row = sqlx::query(ACQUIRE)
        .bind(projection)
        .bind(version)
        .bind(Hash::ZERO.0.as_slice())
        .bind(owner)
        .bind(lease.as_secs_f64())
        .fetch_optional(pool)
        .await?;
    row.as_ref().map(Checkpoint::from_row).transpose()
}

/// Prolongs the leases of `owner` and gives a sign of life. Returns the projections whose leases it still holds.
///
/// # Errors
/// [`StoreError::Database`].
pub async fn renew(
    pool: &PgPool,
    owner: &str,
    projections: &[&str],
    lease: Duration,
) -> Result<Vec<String>, StoreError> {
    Ok(sqlx::query_scalar(RENEW)
        .bind(owner)
        .bind(projections)
        .bind(lease.as_secs_f64())
        .fetch_all(pool)
        .await?)
}

/// Gives all leases of `owner` back.
///
/// # Errors
/// [`StoreError::Database`].
pub async fn release(pool: &PgPool, owner: &str) -> Result<(), StoreError> {
    sqlx::query(RELEASE).bind(owner).execute(pool).await?;
    Ok(())
}

/// Gives the leases of `owner` on `projections` back, as far as it holds them.
///
/// # Errors
/// [`StoreError::Database`].
pub async fn release_some(pool: &PgPool, owner: &str, projections: &[&str]) -> Result<(), StoreError> {
    sqlx::query(RELEASE_SOME)
        .bind(owner)
        .bind(projections)
        .execute(pool)
        .await?;
    Ok(())
}

/// Gives everybody's leases back. Only for whoever knows that no other process uses this database, such as the one that
/// has just started its server: leases found there belong to the dead.
///
/// # Errors
/// [`StoreError::Database`].
pub async fn release_all(pool: &PgPool) -> Result<(), StoreError> {
    sqlx::query(RELEASE_ALL).execute(pool).await?;
    Ok(())
}

/// The checkpoint of `projection`, if there is one.
///
/// # Errors
/// [`StoreError::Database`].
pub async fn load(pool: &PgPool, projection: &str) -> Result<Option<Checkpoint>, StoreError> {
    let row = sqlx::query(LOAD).bind(projection).fetch_optional(pool).await?;
    row.as_ref().map(Checkpoint::from_row).transpose()
}

/// The checkpoint of `projection` as the transaction of `connection` sees it, if there is one.
///
/// # Errors
/// [`StoreError::Database`].
pub async fn load_in(connection: &mut PgConnection, projection: &str) -> Result<Option<Checkpoint>, StoreError> {
    let row = sqlx::query(LOAD).bind(projection).fetch_optional(connection).await?;
    row.as_ref().map(Checkpoint::from_row).transpose()
}

/// The checkpoint of `projection`, which nobody else can move before the transaction of `connection` ends.
///
/// # Errors
/// [`StoreError::Database`].
pub async fn lock(connection: &mut PgConnection, projection: &str) -> Result<Option<Checkpoint>, StoreError> {
    let row = sqlx::query(LOCK).bind(projection).fetch_optional(connection).await?;
    row.as_ref().map(Checkpoint::from_row).transpose()
}

/// All checkpoints by name.
///
/// # Errors
/// [`StoreError::Database`].
pub async fn list(pool: &PgPool) -> Result<Vec<Checkpoint>, StoreError> {
    let rows = sqlx::query(LIST).fetch_all(pool).await?;
    rows.iter().map(Checkpoint::from_row).collect()
}

/// Moves a checkpoint within the transaction that moves its rows. False when it is not at `from` or not in `epoch`,
/// for then somebody else has it, or when the log has another entry hash there than the checkpoint, for then it belongs
/// to another log. The transaction must be rolled back.
///
/// # Errors
/// [`StoreError::Database`].
pub async fn advance(
    connection: &mut PgConnection,
    projection: &str,
    from: Position,
    to: Position,
    entry_hash: Hash,
    epoch: u64,
) -> Result<bool, StoreError> {
    advance_all(connection, &[(projection, epoch)], from, to, entry_hash).await
}

/// Moves several checkpoints, named with their epochs, in one statement, as [`advance`] does one. False when one of
/// them did not move.
///
/// # Errors
/// [`StoreError::Database`].
pub async fn advance_all(
    connection: &mut PgConnection,
    projections: &[(&str, u64)],
    from: Position,
    to: Position,
    entry_hash: Hash,
) -> Result<bool, StoreError> {
    let names: Vec<&str> = projections.iter().map(|(name, _)| *name).collect();
    let epochs: Vec<i64> = projections.iter().map(|(_, epoch)| epoch.cast_signed()).collect();
    let moved = sqlx::query(ADVANCE)
        .bind(names)
        .bind(epochs)
        .bind(from.as_i64())
        .bind(to.as_i64())
        .bind(entry_hash.0.as_slice())
        .execute(connection)
        .await?
        .rows_affected();
    Ok(moved == projections.len() as u64)
}

/// The readers whose state belongs to another log than this one, by name: the log has another entry hash at their
/// position, or ends before it.
///
/// # Errors
/// [`StoreError::Database`].
pub async fn diverged(pool: &PgPool) -> Result<Vec<Divergence>, StoreError> {
    let rows = sqlx::query(DIVERGED).fetch_all(pool).await?;
    rows.iter()
        .map(|row| {
            Ok(Divergence {
                projection: row.try_get("projection")?,
                position: Position::from_i64(row.try_get("position")?),
            })
        })
        .collect()
}

/// Notes that what kept `projection` from going on is over, without moving it. False when the epoch is no longer its
/// own.
///
/// # Errors
/// [`StoreError::Database`].
pub async fn mend(pool: &PgPool, projection: &str, epoch: u64) -> Result<bool, StoreError> {
    let mended = sqlx::query(MEND)
        .bind(projection)
        .bind(epoch.cast_signed())
        .execute(pool)
        .await?;
    Ok(mended.rows_affected() == 1)
}

/// Notes that `projection` could not take in what comes next. False when the epoch is no longer its own.
///
/// # Errors
/// [`StoreError::Database`].
pub async fn fail(pool: &PgPool, projection: &str, epoch: u64, error: &str) -> Result<bool, StoreError> {
    // PostgreSQL texts hold no zero byte.
    let error = error.replace('\0', "");
    let noted = sqlx::query(FAIL)
        .bind(projection)
        .bind(epoch.cast_signed())
        .bind(error)
        .execute(pool)
        .await?;
    Ok(noted.rows_affected() == 1)
}

/// Sets a checkpoint to what a rebuild has arrived at, within the transaction that switches its tables. Takes the
/// lease from whoever holds it and returns the new epoch.
///
/// # Errors
/// [`StoreError::Database`].
pub async fn replace(
    connection: &mut PgConnection,
    projection: &str,
    version: i32,
    position: Position,
    entry_hash: Hash,
) -> Result<u64, StoreError> {
    let epoch: i64 = sqlx::query_scalar(REPLACE)
        .bind(projection)
        .bind(version)
        .bind(position.as_i64())
        .bind(entry_hash.0.as_slice())
        .fetch_one(connection)
        .await?;
    Ok(epoch.cast_unsigned())
}

/// Removes the checkpoint of a projection that is no more.
///
/// # Errors
/// [`StoreError::Database`].
pub async fn forget(pool: &PgPool, projection: &str) -> Result<(), StoreError> {
    sqlx::query(FORGET).bind(projection).execute(pool).await?;
    Ok(())
}
