//! Mails that events ask for: which wait, when each is tried next, and how many an address got lately.
//!
//! A row says only that the event at a position asks for a mail. Text and address are made from the event each time
//! that it is tried, so nothing personal lies here but a keyed hash of the address once a mail has left.

use std::time::Duration;

use sqlx::{PgPool, Row};

use crate::checkpoint;
use crate::error::StoreError;
use crate::position::{Hash, Position};

/// Longest text kept of a failure, in characters.
const ERROR_CHARACTERS: usize = 500;
/// Finished mails deleted in one statement.
const SWEPT_MAILS: i64 = 500;

const ENQUEUE: &str = "
    insert into log.mails (position)
    select unnest($1::bigint[])
    on conflict (position) do nothing
";

const DUE: &str = "
    select position, attempts
    from log.mails
    where status = 'waiting' and next_attempt_at <= clock_timestamp() and position <> all($2)
    order by next_attempt_at, position
    limit $1
";

const NEXT_DUE: &str = "
    select extract(epoch from min(next_attempt_at) - clock_timestamp())::float8
    from log.mails
    where status = 'waiting' and position <> all($1)
";

const FINISH: &str = "
    update log.mails
    set status = $2, recipient = $3, last_error = $4, attempts = attempts + 1, finished_at = clock_timestamp()
    where position = $1 and status = 'waiting'
";

const PUT_OFF: &str = "
    update log.mails
    set attempts = attempts + $2, last_error = $3, next_attempt_at = clock_timestamp() + make_interval(secs => $4)
    where position = $1 and status = 'waiting'
";

const LATELY: &str = "
    select count(*) as mails,
        extract(epoch from min(finished_at) + make_interval(secs => $2) - clock_timestamp())::float8 as wait_s
    from (
        select finished_at
        from log.mails
        where status = 'sent' and recipient = $1
            and finished_at > clock_timestamp() - make_interval(secs => $2)
        order by finished_at desc
        limit $3
    ) as latest
";

const SWEEP: &str = "
    delete from log.mails m
    using (
        select position
        from log.mails
        where status <> 'waiting' and finished_at <= clock_timestamp() - make_interval(secs => $1)
        order by finished_at
        limit $2
    ) as old
    where m.position = old.position
";

const STATUS: &str = "
    select status, attempts, last_error
    from log.mails
    where position = $1
";

/// A mail whose time has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DueMail {
    /// Of the event that asks for it.
    pub position: Position,
    /// How often it was tried.
    pub attempts: u32,
}

/// What is known of one mail.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MailStatus {
    /// `waiting`, `sent` or `dropped`.
    pub status: String,
    /// How often it was tried.
    pub attempts: u32,
    /// What the last failure said, or why it was dropped.
    pub last_error: Option<String>,
}

/// A move of the checkpoint of the reader that notes mails.
#[derive(Debug, Clone, Copy)]
pub struct Move<'a> {
    /// Its name.
    pub checkpoint: &'a str,
    /// The epoch of its lease.
    pub epoch: u64,
    /// Where it stands.
    pub from: Position,
    /// Where it will stand.
    pub to: Position,
    /// The entry hash there.
    pub entry_hash: Hash,
}

/// Moves the checkpoint, and notes in the same transaction that the events at these positions ask for mails. False, and
/// nothing is done, when somebody else has the checkpoint.
///
/// # Errors
/// [`StoreError::Database`].
pub async fn note(pool: &PgPool, moved: Move<'_>, positions: &[Position]) -> Result<bool, StoreError> {
    let Move {
        checkpoint,
        epoch,
        from,
        to,
        entry_hash,
    } = moved;
    let mut transaction = pool.begin().await?;
    if !checkpoint::advance(&mut transaction, checkpoint, from, to, entry_hash, epoch).await? {
        return Ok(false);
    }
    let positions: Vec<i64> = positions.iter().map(|position| position.as_i64()).collect();
    sqlx::query(ENQUEUE).bind(positions).execute(&mut *transaction).await?;
    transaction.commit().await?;
    Ok(true)
}

/// At most `limit` mails whose time has come, longest waiting first, without those `under_way`.
///
/// # Errors
/// [`StoreError::Database`].
pub async fn due(pool: &PgPool, limit: usize, under_way: &[Position]) -> Result<Vec<DueMail>, StoreError> {
    let under_way: Vec<i64> = under_way.iter().map(|position| position.as_i64()).collect();
    let rows = sqlx::query(DUE)
        .bind(i64::try_from(limit).unwrap_or(i64::MAX))
        .bind(under_way)
        .fetch_all(pool)
        .await?;
    let mails = rows.iter().map(|row| {
        Ok(DueMail {
            position: Position::from_i64(row.try_get("position")?),
            attempts: attempts(row)?,
        })
    });
    mails.collect()
}

fn attempts(row: &sqlx::postgres::PgRow) -> Result<u32, sqlx::Error> {
    Ok(u32::try_from(row.try_get::<i32, _>("attempts")?).unwrap_or(0))
}

/// How long until the time of the next waiting mail comes that is not `under_way`, by the database's clock; zero when it
/// has come; absent when none waits.
///
/// # Errors
/// [`StoreError::Database`].
pub async fn next_due(pool: &PgPool, under_way: &[Position]) -> Result<Option<Duration>, StoreError> {
    let under_way: Vec<i64> = under_way.iter().map(|position| position.as_i64()).collect();
    let seconds: Option<f64> = sqlx::query_scalar(NEXT_DUE).bind(under_way).fetch_one(pool).await?;
    Ok(seconds.map(span))
}

fn span(seconds: f64) -> Duration {
    Duration::try_from_secs_f64(seconds.max(0.0)).unwrap_or(Duration::ZERO)
}

/// Notes that a mail has left, for an address of this keyed hash.
///
/// # Errors
/// [`StoreError::Database`].
pub async fn sent(pool: &PgPool, position: Position, recipient: &[u8]) -> Result<(), StoreError> {
    finish(pool, position, "sent", Some(recipient), None).await
}

/// Notes that a mail is of no use any more, and why.
///
/// # Errors
/// [`StoreError::Database`].
pub async fn dropped(pool: &PgPool, position: Position, reason: &str) -> Result<(), StoreError> {
    finish(pool, position, "dropped", None, Some(reason)).await
}

async fn finish(
    pool: &PgPool,
    position: Position,
    status: &str,
    recipient: Option<&[u8]>,
    error: Option<&str>,
) -> Result<(), StoreError> {
    sqlx::query(FINISH)
        .bind(position.as_i64())
        .bind(status)
        .bind(recipient)
        .bind(error.map(shortened))
        .execute(pool)
        .await?;
    Ok(())
}

/// Lets a mail wait for `delay`: after a failure, which counts as an attempt, or because its address got enough.
///
/// # Errors
/// [`StoreError::Database`].
pub async fn put_off(
    pool: &PgPool,
    position: Position,
    delay: Duration,
    failure: Option<&str>,
) -> Result<(), StoreError> {
    sqlx::query(PUT_OFF)
        .bind(position.as_i64())
        .bind(i32::from(failure.is_some()))
        .bind(failure.map(shortened))
        .bind(delay.as_secs_f64())
        .execute(pool)
        .await?;
    Ok(())
}

/// PostgreSQL texts hold no zero byte.
fn shortened(text: &str) -> String {
    text.chars()
        .filter(|character| *character != '\0')
        .take(ERROR_CHARACTERS)
        .collect()
}

/// How long an address of this keyed hash has to wait, when it got `most` mails within `window`; absent when it got
/// fewer.
///
/// # Errors
/// [`StoreError::Database`].
pub async fn wait_of(
    pool: &PgPool,
    recipient: &[u8],
    window: Duration,
    most: u32,
) -> Result<Option<Duration>, StoreError> {
    let row = sqlx::query(LATELY)
        .bind(recipient)
        .bind(window.as_secs_f64())
        .bind(i64::from(most))
        .fetch_one(pool)
        .await?;
    let mails: i64 = row.try_get("mails")?;
    let wait: Option<f64> = row.try_get("wait_s")?;
    Ok(wait.filter(|_| mails >= i64::from(most)).map(span))
}

/// Deletes a small batch of mails that were finished longer than `retention` ago; how many.
///
/// # Errors
/// [`StoreError::Database`].
pub async fn sweep(pool: &PgPool, retention: Duration) -> Result<u64, StoreError> {
    let swept = sqlx::query(SWEEP)
        .bind(retention.as_secs_f64())
        .bind(SWEPT_MAILS)
        .execute(pool)
        .await?;
    Ok(swept.rows_affected())
}

/// What is known of the mail that the event at `position` asks for; absent when it asks for none, or it was swept.
///
/// # Errors
/// [`StoreError::Database`].
pub async fn status(pool: &PgPool, position: Position) -> Result<Option<MailStatus>, StoreError> {
    let row = sqlx::query(STATUS).bind(position.as_i64()).fetch_optional(pool).await?;
    row.map(|row| {
        Ok(MailStatus {
            status: row.try_get("status")?,
            attempts: attempts(&row)?,
            last_error: row.try_get("last_error")?,
        })
    })
    .transpose()
}
