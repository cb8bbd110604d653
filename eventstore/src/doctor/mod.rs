//! What about a database would break a guarantee of the log, found by looking at its settings, rights and state.
//!
//! Nothing is changed: every question is a `select` in a read-only transaction, and a notification on a channel that
//! nobody else listens to. What each finding means is in `rules.rs`.

mod activity;
mod log;
mod rights;
mod rules;
mod settings;

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use serde::Serialize;
use sqlx::{ConnectOptions, Connection, Executor, PgConnection};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::database::{Database, DatabaseError};
use crate::error::StoreError;

pub use log::TRIGGERS;

/// Connections of a server beside its pool: writer, projections, two listeners and one rebuild.
const CONNECTIONS_BESIDE_POOL: u32 = 5;

/// The longest that a notification may take from one session to another.
const NOTIFICATION_WITHIN: Duration = Duration::from_secs(2);

/// Nothing that is asked here takes long; what does is kept from doing so by somebody's lock.
const SESSION: &str = "set local statement_timeout = '20s'; set local lock_timeout = '5s'";

const DATABASE_TIME: &str = "select clock_timestamp()";

/// No row for a role that may not know.
const DATA_FOLDER: &str = "
    select setting
    from pg_catalog.pg_settings
    where name = 'data_directory'
";

const NOTIFY: &str = "select pg_notify($1, '')";

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// A guarantee does not hold, or the server cannot do its work.
    Fault,
    /// Everything holds, but something is about to hurt, or protects less than it could.
    Warning,
}

/// Something about the database that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Names the kind for good, such as `synchronous_commit_off`.
    pub code: &'static str,
    /// How bad it is.
    pub severity: Severity,
    /// What was found, and where.
    pub what: String,
    /// What comes of it.
    pub breaks: &'static str,
    /// What to do.
    pub advice: &'static str,
}

impl Finding {
    /// A finding of a kind that [`rules`] explains.
    fn of(code: &str, what: impl Into<String>) -> Option<Self> {
        let rule = rules::RULES.iter().find(|rule| rule.code == code);
        if rule.is_none() {
            tracing::error!(code, "a finding that nobody explains");
        }
        rule.map(|rule| Self {
            code: rule.code,
            severity: rule.severity,
            what: what.into(),
            breaks: rule.breaks,
            advice: rule.advice,
        })
    }

    /// The finding that a refusal to open the database stands for; absent when it says nothing about how the database
    /// is set up.
    #[must_use]
    pub fn of_refusal(error: &DatabaseError) -> Option<Self> {
        let code = match error {
            DatabaseError::ServerTooOld(..) => "server_too_old",
            DatabaseError::Encoding(..) => "encoding_not_utf8",
            DatabaseError::Standby(_) => "standby",
            DatabaseError::NewerSchema { .. } => "migration_unknown",
            DatabaseError::ChangedMigration { .. } => "migration_changed",
            DatabaseError::Address(_)
            | DatabaseError::Connect(..)
            | DatabaseError::Migration(..)
            | DatabaseError::Statement(..)
            | DatabaseError::Cluster(_) => return None,
        };
        Self::of(code, error.to_string())
    }
}

/// From where on something is worth a word. The defaults are meant for everybody.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Age of a transaction, in whatever database of the server.
    pub long_transaction: Duration,
    /// How long a session may sit idle in a transaction.
    pub idle_in_transaction: Duration,
    /// How long one session may hold the lock that every append takes.
    pub append_lock: Duration,
    /// How long a lease may have run out without being taken by somebody else.
    pub lease: Duration,
    /// Difference of the clocks of this machine and of the database.
    pub clock_difference: Duration,
    /// WAL that one replication slot may keep from being removed.
    pub slot_bytes: i64,
    /// Transactions since the oldest row that is not frozen; PostgreSQL stops at two billion.
    pub transaction_age: i64,
    /// Free space in the data folder, where that is on this machine.
    pub free_bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            long_transaction: Duration::from_mins(5),
            idle_in_transaction: Duration::from_mins(1),
            append_lock: Duration::from_secs(5),
            lease: Duration::from_mins(1),
            clock_difference: Duration::from_secs(1),
            slot_bytes: 1 << 30,
            transaction_age: 500_000_000,
            free_bytes: 2 << 30,
        }
    }
}

/// Looks at everything, with the default [`Limits`]; the worst first. The database's pool is taken to be that of the
/// server. Works beside a running server, and on a standby as far as that goes.
///
/// # Errors
/// [`StoreError::Database`] when the database does not answer.
pub async fn examine(database: &Database) -> Result<Vec<Finding>, StoreError> {
    examine_with(database, &Limits::default()).await
}

/// The same with other limits.
///
/// # Errors
/// [`StoreError::Database`] when the database does not answer.
pub async fn examine_with(database: &Database, limits: &Limits) -> Result<Vec<Finding>, StoreError> {
    // As the connecting role, which sees most, and without the settings that sessions of ours give themselves.
    let patience = database.options().acquire_timeout;
    let connecting = tokio::time::timeout(patience, database.connect_options().connect());
    let mut connection = connecting.await.unwrap_or(Err(sqlx::Error::PoolTimedOut))?;
    let mut findings = Vec::new();
    if database.is_standby() {
        findings.extend(Finding::of(
            "standby",
            format!("{} follows another server", database.address()),
        ));
    }
    let clock = clock_difference(&mut connection).await?;
    if clock.0 > limits.clock_difference {
        let what = format!(
            "the database's clock is {:.1} seconds {} the clock of this machine",
            clock.0.as_secs_f64(),
            if clock.1 { "ahead of" } else { "behind" }
        );
        findings.extend(Finding::of("clock_differs", what));
    }
    let folder = {
        let mut transaction = connection.begin_with("begin read only").await?;
        transaction.execute(SESSION).await?;
        findings.extend(settings::look(&mut transaction).await?);
        findings.extend(settings::connections(&mut transaction, demand(database)).await?);
        findings.extend(rights::look(&mut transaction).await?);
        findings.extend(log::look(&mut transaction, limits).await?);
        findings.extend(log::migrations(&mut transaction).await?);
        findings.extend(activity::look(&mut transaction, limits).await?);
        let folder = data_folder(database, &mut transaction).await?;
        transaction.rollback().await?;
        folder
    };
    findings.extend(folder.and_then(|folder| free_space(&folder, limits)));
    connection.close().await?;
    if !database.is_standby() && !hears_itself(database).await? {
        let what = format!(
            "a notification did not arrive from one connection to {} on another",
            database.address()
        );
        findings.extend(Finding::of("notifications_lost", what));
    }
    Ok(in_order(findings))
}

/// The part that costs a server nothing at its start: settings, rights, triggers and functions, by one connection of
/// the pool.
///
/// # Errors
/// [`StoreError::Database`] when the database does not answer.
pub async fn examine_settings(database: &Database) -> Result<Vec<Finding>, StoreError> {
    let mut connection = database.pool().acquire().await?;
    let mut findings = settings::look(&mut connection).await?;
    findings.extend(settings::connections(&mut connection, demand(database)).await?);
    findings.extend(rights::look(&mut connection).await?);
    findings.extend(log::protection(&mut connection).await?);
    Ok(in_order(findings))
}

fn in_order(mut findings: Vec<Finding>) -> Vec<Finding> {
    findings.sort_by(|one, other| (one.severity, one.code, &one.what).cmp(&(other.severity, other.code, &other.what)));
    findings.dedup();
    findings
}

fn demand(database: &Database) -> i64 {
    i64::from(database.options().max_connections) + i64::from(CONNECTIONS_BESIDE_POOL)
}

/// The pairs of code and description that a statement found.
fn explained(rows: Vec<(String, String)>) -> impl Iterator<Item = Finding> {
    rows.into_iter().filter_map(|(code, what)| Finding::of(&code, what))
}

/// How far the database's clock is from ours at least, and whether it is ahead. How long the question took is not held
/// against it.
async fn clock_difference(connection: &mut PgConnection) -> Result<(Duration, bool), sqlx::Error> {
    let before = OffsetDateTime::from(SystemTime::now());
    let there: OffsetDateTime = sqlx::query_scalar(DATABASE_TIME).fetch_one(connection).await?;
    let after = OffsetDateTime::from(SystemTime::now());
    let (difference, is_ahead) = if there > after {
        (there - after, true)
    } else if there < before {
        (before - there, false)
    } else {
        (time::Duration::ZERO, false)
    };
    Ok((difference.unsigned_abs(), is_ahead))
}

/// Where the database's files are, if they are on this machine and we may know.
async fn data_folder(database: &Database, connection: &mut PgConnection) -> Result<Option<PathBuf>, sqlx::Error> {
    if let Some(cluster) = database.cluster() {
        return Ok(Some(cluster.folder().to_owned()));
    }
    if database.connect_options().get_socket().is_none() {
        return Ok(None);
    }
    let folder: Option<String> = sqlx::query_scalar(DATA_FOLDER).fetch_optional(connection).await?;
    Ok(folder.map(PathBuf::from))
}

fn free_space(folder: &std::path::Path, limits: &Limits) -> Option<Finding> {
    const MIB: u64 = 1 << 20;
    // A folder that we may not look at tells nothing.
    let system = rustix::fs::statvfs(folder).ok()?;
    let free = system.f_bavail.saturating_mul(system.f_frsize);
    if free >= limits.free_bytes {
        return None;
    }
    Finding::of(
        "disk_space_low",
        format!("{} MiB are free in {}", free / MIB, folder.display()),
    )
}

/// Whether a notification from one connection arrives on another. Behind a pooler that hands out a connection for a
/// transaction only, the listening session is somebody else's a moment later.
async fn hears_itself(database: &Database) -> Result<bool, sqlx::Error> {
    let channel = format!("annals_doctor_{}", Uuid::now_v7().simple());
    let mut listener = match database.listener().await {
        Ok(listener) => listener,
        Err(sqlx::Error::Database(_) | sqlx::Error::Protocol(_)) => return Ok(false),
        Err(error) => return Err(error),
    };
    if listener.listen(&channel).await.is_err() {
        return Ok(false);
    }
    sqlx::query(NOTIFY).bind(&channel).execute(database.pool()).await?;
    let heard = tokio::time::timeout(NOTIFICATION_WITHIN, listener.try_recv()).await;
    Ok(matches!(heard, Ok(Ok(Some(_)))))
}
