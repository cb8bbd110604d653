//! Work that is done behind the answer, so that the time of the answer does not tell what there was to do.

use std::future::Future;
use std::sync::Arc;

use annals_domain::Caller;
use tokio::sync::Semaphore;
use tokio_util::task::TaskTracker;

use crate::{CommandError, Commands};

/// Pieces of work that may be waiting; more are not taken on, for the database is in trouble then.
const PENDING: usize = 256;

/// The pieces of work under way.
pub(crate) struct Afterwards {
    tasks: TaskTracker,
    places: Arc<Semaphore>,
}

impl Afterwards {
    pub(crate) fn new() -> Self {
        Self {
            tasks: TaskTracker::new(),
            places: Arc::new(Semaphore::new(PENDING)),
        }
    }

    /// Does `work` in a task of its own. What fails is logged under `what` and done no more; the work is lost with the
    /// process, and its client asks again.
    ///
    /// # Errors
    /// [`CommandError::Overloaded`] when too much is waiting; whether it is does not depend on what is asked for.
    pub(crate) fn spawn<F>(
        &self,
        what: &'static str,
        commands: &Commands,
        caller: &Caller,
        work: impl FnOnce(Commands, Caller) -> F,
    ) -> Result<(), CommandError>
    where
        F: Future<Output = Result<(), CommandError>> + Send + 'static,
    {
        let Ok(place) = Arc::clone(&self.places).try_acquire_owned() else {
            return Err(CommandError::Overloaded {
                retry_after: std::time::Duration::from_secs(1),
            });
        };
        // What happens behind the answer is not what the client promised to ask for once.
        let caller = Caller {
            promise: None,
            ..caller.clone()
        };
        let work = work(commands.clone(), caller);
        self.tasks.spawn(async move {
            if let Err(error) = work.await {
                tracing::warn!(what, %error, "work behind an answer failed");
            }
            drop(place);
        });
        Ok(())
    }

    pub(crate) async fn quiesce(&self) {
        self.tasks.close();
        self.tasks.wait().await;
        self.tasks.reopen();
    }
}
