//! What keeps read models in step with the log: one daemon in each process, of which one leads each model.
//!
//! Rows and checkpoint move in one transaction, guarded by position and epoch, so that a model is what the log says
//! however often a process dies, and a second leader changes nothing.

mod compare;
mod daemon;
mod projection;
mod rebuild;
mod status;
mod wait;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use annals_eventstore::{EventStore, Position};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

pub use compare::{LiveTable, TableReport};
pub use projection::{Projection, ProjectionError};
pub use rebuild::{Phase, Progress, RebuildError, RebuildOptions, RebuildReport, compare, rebuild};
pub use status::{ProjectionState, ProjectionStatus, StatusError, status};
pub use wait::Behind;

use self::daemon::Daemon;
use self::wait::Board;

/// Tells other processes that a model has moved; they look up how far.
const NOTIFY: &str = "select pg_notify('annals_view', '')";
/// The channel of [`NOTIFY`].
const CHANNEL: &str = "annals_view";

/// How the engine runs.
#[derive(Debug, Clone)]
pub struct EngineOptions {
    /// The most events folded in one transaction. Large batches cost fewer statements for each event, small ones are
    /// seen sooner.
    pub batch_events: usize,
    /// How long a lease is good for without being renewed: how long a model stands still after its leader has died.
    /// It is renewed three times as often.
    pub lease: Duration,
    /// The wait after the first failure of a model; each further one doubles it.
    pub retry_first: Duration,
    /// The longest wait between two tries.
    pub retry_longest: Duration,
    /// Names this process in status. Made up when empty.
    pub owner: String,
}

impl Default for EngineOptions {
    fn default() -> Self {
        Self {
            batch_events: 500,
            lease: Duration::from_secs(10),
            retry_first: Duration::from_millis(100),
            retry_longest: Duration::from_secs(30),
            owner: String::new(),
        }
    }
}

/// The daemon of this process, and what it knows. Cheap to clone; the daemon ends when the last clone is gone, or when
/// told to stop.
#[derive(Clone)]
pub struct Engine {
    inner: Arc<Inner>,
}

struct Inner {
    board: Arc<Board>,
    head: watch::Receiver<Position>,
    end: CancellationToken,
    task: Mutex<Option<JoinHandle<()>>>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.end.cancel();
    }
}

impl Engine {
    /// Starts to follow the log with these read models. Models that another process leads are watched, and taken over
    /// when its lease runs out.
    #[must_use]
    pub fn start(store: EventStore, projections: Vec<Arc<dyn Projection>>, options: EngineOptions) -> Self {
        let board = Arc::new(Board::new(
            projections.iter().map(|model| (model.name(), model.version())),
        ));
        let head = store.head_changes();
        let end = CancellationToken::new();
        let daemon = Daemon::new(store, projections, options, board.clone(), end.clone());
        let task = Mutex::new(Some(tokio::spawn(daemon.run())));
        Self {
            inner: Arc::new(Inner { board, head, end, task }),
        }
    }

    /// Returns once all of `names` show the event at `position`, whichever process leads them.
    ///
    /// # Errors
    /// [`Behind`] after `timeout`; at once when a model is unknown, stuck or stopped.
    pub async fn wait(&self, names: &[&str], position: Position, timeout: Duration) -> Result<(), Behind> {
        self.inner.board.wait(names, position, timeout).await
    }

    /// How the read models are, as this process knows, without asking the database. For health and metrics; it
    /// tells nothing of what the models hold.
    #[must_use]
    pub fn statuses(&self) -> Vec<ProjectionStatus> {
        let head = *self.inner.head.borrow();
        self.inner
            .board
            .entries()
            .map(|(name, version, seen)| ProjectionStatus {
                name,
                version,
                state: seen.state,
                position: seen.position,
                lag_events: head.0.saturating_sub(seen.position.0),
                failures: seen.failures,
                error: seen.error,
                owner: None,
                heartbeat_at: None,
            })
            .collect()
    }

    /// Finishes the batch at hand and gives the leases back, so that another process takes over at once. Returns when
    /// that is done; doing it twice is no error.
    pub async fn stop(&self) {
        self.inner.end.cancel();
        let task = self.inner.task.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(task) = task
            && let Err(error) = task.await
        {
            tracing::error!(
                error = &error as &dyn std::error::Error,
                "the projection engine had come to an end"
            );
        }
    }
}
