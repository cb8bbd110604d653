//! What the read models are doing.

use std::fmt;

use annals_domain::{Caller, Permission, Timestamp};
use annals_eventstore::checkpoint::{self, Checkpoint};
use annals_eventstore::{EventStore, Position, StoreError};
use serde::Serialize;

use super::projection::Projection;

/// What a read model is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ProjectionState {
    /// Following the log, by this process.
    Following,
    /// Being built anew before it follows again, since its version has changed or its tables are gone.
    Rebuilding,
    /// An event, or the database, keeps it from going on; it is tried again.
    Failing,
    /// What it shows comes from another log than this one, which was restored from an older backup or is the wrong one.
    /// It stands still until it is rebuilt on demand, or the right log is back.
    Diverged,
    /// Left to another process, or nobody has begun.
    Standby,
    /// The engine has stopped.
    Stopped,
    /// There is no read model of that name.
    Unknown,
}

impl fmt::Display for ProjectionState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Following => "following",
            Self::Rebuilding => "rebuilding",
            Self::Failing => "failing",
            Self::Diverged => "diverged",
            Self::Standby => "on standby",
            Self::Stopped => "stopped",
            Self::Unknown => "unknown",
        })
    }
}

/// How one read model is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ProjectionStatus {
    /// Its name.
    pub name: &'static str,
    /// The version of this program.
    pub version: i32,
    /// What it is doing.
    pub state: ProjectionState,
    /// The last event it shows.
    pub position: Position,
    /// Events of the log that it does not show yet.
    pub lag_events: u64,
    /// Failures in a row.
    pub failures: u32,
    /// The last of them, with its causes; absent when there is none.
    pub error: Option<String>,
    /// Which process leads it; absent when nobody does, and in what the engine itself tells.
    pub owner: Option<String>,
    /// When its leader last gave a sign; absent in what the engine itself tells.
    pub heartbeat_at: Option<Timestamp>,
}

/// How the read models are according to the database, whoever leads them. In the order given.
///
/// # Errors
/// [`StatusError::Denied`] without `projection.read`; [`StatusError::Log`] when the database does not answer.
pub async fn status(
    caller: &Caller,
    store: &EventStore,
    projections: &[std::sync::Arc<dyn Projection>],
) -> Result<Vec<ProjectionStatus>, StatusError> {
    caller.require(Permission::ProjectionRead)?;
    let head = store.head().await?.position;
    let checkpoints = checkpoint::list(store.database().pool()).await?;
    let diverged = checkpoint::diverged(store.database().pool()).await?;
    let now = Timestamp::from_offset(time::OffsetDateTime::now_utc());
    Ok(projections
        .iter()
        .map(|projection| {
            let found = checkpoints
                .iter()
                .find(|checkpoint| checkpoint.projection == projection.name());
            let mut status = of_checkpoint(projection.as_ref(), found, head, now);
            let divergence = diverged
                .iter()
                .find(|diverged| diverged.projection == projection.name());
            if let Some(divergence) = divergence {
                status.state = ProjectionState::Diverged;
                status.error = Some(divergence.to_string());
            }
            status
        })
        .collect())
}

fn of_checkpoint(
    projection: &dyn Projection,
    checkpoint: Option<&Checkpoint>,
    head: Position,
    now: Timestamp,
) -> ProjectionStatus {
    let (name, version) = (projection.name(), projection.version());
    let Some(checkpoint) = checkpoint else {
        return ProjectionStatus {
            name,
            version,
            state: ProjectionState::Standby,
            position: Position::START,
            lag_events: head.0,
            failures: 0,
            error: None,
            owner: None,
            heartbeat_at: None,
        };
    };
    let owner = checkpoint
        .owner
        .clone()
        .filter(|_| checkpoint.lease_until.is_some_and(|until| until > now));
    let state = if checkpoint.failures > 0 {
        ProjectionState::Failing
    } else if owner.is_none() {
        ProjectionState::Standby
    } else if checkpoint.version < version {
        ProjectionState::Rebuilding
    } else {
        ProjectionState::Following
    };
    ProjectionStatus {
        name,
        version,
        state,
        position: checkpoint.position,
        lag_events: head.0.saturating_sub(checkpoint.position.0),
        failures: checkpoint.failures,
        error: checkpoint.last_error.clone(),
        owner,
        heartbeat_at: Some(checkpoint.heartbeat_at),
    }
}

/// Why the status cannot be told.
#[derive(Debug, thiserror::Error)]
pub enum StatusError {
    /// The caller may not see it.
    #[error(transparent)]
    Denied(#[from] annals_domain::Denied),
    /// The log could not be read.
    #[error("the log could not be read")]
    Log(#[from] StoreError),
}
