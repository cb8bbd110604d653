//! Records, behind the requests, that sessions are past their time. One process at a time does so, by a lease; were it two,
//! the log would still record each end once.

use std::time::Duration;

use annals_domain::Caller;
use annals_eventstore::checkpoint;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use uuid::Uuid;

use crate::app::AppState;
use crate::extract::Prefer;
use crate::problem::Problem;
use crate::settle::models;

/// The name of the lease, and of the actor.
const NAME: &str = "session_sweep";
/// Of the lease's form; raised when what it stands for changes.
const VERSION: i32 = 1;
/// Sessions looked for at once.
const BATCH: u32 = 1000;
/// Batches of one sweep at most; the rest is left for the next.
const MOST_BATCHES: usize = 100;
/// The lease runs on between sweeps, so that one process keeps at it, and ends this long after a sweep was due.
const LEASE_MARGIN: Duration = Duration::from_secs(30);

/// The sweep of one process.
#[derive(Debug)]
pub(crate) struct Sweeper {
    owner: String,
    running: TaskTracker,
    stop: CancellationToken,
}

impl Sweeper {
    /// One that does nothing yet.
    pub(crate) fn new() -> Self {
        Self {
            owner: format!("process {} ({})", std::process::id(), Uuid::now_v7()),
            running: TaskTracker::new(),
            stop: CancellationToken::new(),
        }
    }

    /// Sweeps from now on, until [`Sweeper::finish`].
    pub(crate) fn start(&self, app: &AppState) {
        if app.database().is_standby() {
            return;
        }
        let (app, stop, owner) = (app.clone(), self.stop.clone(), self.owner.clone());
        self.running.spawn(async move {
            stop.run_until_cancelled(run(&app, &owner)).await;
            if let Err(error) = checkpoint::release_some(app.database().pool(), &owner, &[NAME]).await {
                tracing::debug!(%error, "the lease of the sweep runs out by itself");
            }
        });
    }

    /// Ends it.
    pub(crate) async fn finish(&self) {
        self.stop.cancel();
        self.running.close();
        self.running.wait().await;
    }
}

async fn run(app: &AppState, owner: &str) {
    let every = Duration::from_secs(app.config().session.sweep_every_s.into());
    let mut tick = tokio::time::interval(every);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        let lease = checkpoint::acquire(app.database().pool(), NAME, VERSION, owner, every + LEASE_MARGIN).await;
        match lease {
            Ok(Some(_)) => {
                let caller = Caller::system(NAME, Uuid::now_v7());
                if let Err(problem) = sweep(app, &caller).await {
                    tracing::warn!(
                        code = problem.code(),
                        "sessions past their time were not recorded as expired; trying again later"
                    );
                }
            }
            Ok(None) => {}
            Err(error) => tracing::debug!(%error, "no lease for the sweep of sessions"),
        }
    }
}

/// Records the end of all sessions that are past their time, as far as the read model knows them. Returns how many.
///
/// # Errors
/// What the query and the command refuse.
pub(crate) async fn sweep(app: &AppState, caller: &Caller) -> Result<u64, Problem> {
    let mut count = 0;
    for _ in 0..MOST_BATCHES {
        let now = app.commands().now();
        let past = annals_projections::session::past(caller, app.database(), now, BATCH).await?;
        if past.is_empty() {
            break;
        }
        let done = annals_commands::session::expire_past(&app.on_behalf_of(caller), &past).await?;
        count += done.sessions;
        if done.sessions == 0 {
            break; // the read model lags behind what the log knows
        }
        // So that the next batch does not find the same ones again.
        let _settled = app.settle(models::SESSION, done.position, Prefer::default()).await;
    }
    Ok(count)
}
