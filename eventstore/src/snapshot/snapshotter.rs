//! The worker that keeps snapshots: follows the log behind everybody else, one process at a time.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use sqlx::{PgPool, Row};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use annals_domain::registry;

use super::{Compared, Found, Judgement, compare, drop_it, find, fold, is_no_state, store, stream_of};
use crate::EventStore;
use crate::append::{StreamId, Version};
use crate::checkpoint::{self, Checkpoint};
use crate::error::StoreError;
use crate::position::{Hash, Position};

/// Name of the worker's checkpoint.
const NAME: &str = "snapshots";

/// Positions looked through at a time.
const WINDOW: u64 = 10_000;
/// Streams of one page of a sweep.
const SWEEP_PAGE: i64 = 1000;

/// A stream has grown by so many events since it was last due exactly when it has such an event: its versions are
/// dense.
const DUE: &str = "
    select aggregate_type, aggregate_id, max(sequence) as version
    from log.events
    where position > $1 and position <= $2 and sequence % $3 = 0
    group by aggregate_type, aggregate_id
    order by aggregate_type, aggregate_id
";

const STREAMS: &str = "
    select aggregate_type, aggregate_id, version
    from log.streams
    where (aggregate_type, aggregate_id) > ($1, $2)
    order by aggregate_type, aggregate_id
    limit $3
";

/// A checkpoint that is lost with the server's last moments costs a look at what has been seen already.
const RELAXED: &str = "set local synchronous_commit = off";

/// How snapshots are kept.
#[derive(Debug, Clone)]
pub struct SnapshotOptions {
    /// A stream gets a new snapshot when it has grown by so many events. At least 1.
    pub every_events: u64,
    /// One in so many snapshots is compared with the events right after it was kept. At least 1: all.
    pub check_every: u64,
    /// The rest after each look at the log, so that a busy log is followed in few steps.
    pub pause: Duration,
    /// How long a lease is good for without being renewed: how long nobody keeps snapshots after the process that did
    /// has died. It is renewed three times as often.
    pub lease: Duration,
    /// The wait after a fault of the database.
    pub retry: Duration,
    /// Names this process. Made up when empty.
    pub owner: String,
}

impl Default for SnapshotOptions {
    fn default() -> Self {
        Self {
            every_events: 200,
            check_every: 100,
            pause: Duration::from_secs(1),
            lease: Duration::from_secs(10),
            retry: Duration::from_secs(1),
            owner: String::new(),
        }
    }
}

/// The worker of this process. Ends when it is dropped or told to stop; what it was about to keep is then kept another
/// time.
#[derive(Debug)]
pub struct Snapshotter {
    reached: watch::Receiver<Position>,
    end: CancellationToken,
    task: Mutex<Option<JoinHandle<()>>>,
}

impl Drop for Snapshotter {
    fn drop(&mut self) {
        self.end.cancel();
    }
}

impl Snapshotter {
    /// Starts to follow the log, in the present Tokio runtime. While another process keeps snapshots, this one waits for
    /// its turn.
    #[must_use]
    pub fn start(store: EventStore, mut options: SnapshotOptions) -> Self {
        if options.owner.is_empty() {
            options.owner = format!("process {} ({})", std::process::id(), Uuid::now_v7());
        }
        options.every_events = options.every_events.max(1);
        options.check_every = options.check_every.max(1);
        let (raise, reached) = watch::channel(Position::START);
        let end = CancellationToken::new();
        let worker = Worker {
            head: store.head_changes(),
            store,
            options,
            reached: raise,
            end: end.clone(),
            kept: 0,
        };
        Self {
            reached,
            end,
            task: Mutex::new(Some(tokio::spawn(worker.run()))),
        }
    }

    /// Returns once this process has kept what was due up to `position`. Never returns while another process does it, or
    /// after the end.
    pub async fn reached(&self, position: Position) {
        let mut reached = self.reached.clone();
        if reached.wait_for(|at| *at >= position).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Gives the lease back after the stream at hand, and returns when that is done; doing it twice is no error.
    pub async fn stop(&self) {
        self.end.cancel();
        let task = self.task.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(task) = task
            && let Err(error) = task.await
        {
            tracing::error!(
                error = &error as &dyn std::error::Error,
                "the keeper of snapshots had come to an end"
            );
        }
    }
}

/// The schema of states as a checkpoint can note it.
fn schema_version() -> i32 {
    let hash = u64::from_str_radix(registry::STATE_SCHEMA, 16).unwrap_or(0);
    i32::try_from(hash >> 33).unwrap_or(0)
}

struct Worker {
    store: EventStore,
    options: SnapshotOptions,
    head: watch::Receiver<Position>,
    reached: watch::Sender<Position>,
    end: CancellationToken,
    /// Snapshots kept since the start.
    kept: u64,
}

/// A lease in force, and when to renew it.
struct Turn {
    epoch: u64,
    position: Position,
    renew_at: Instant,
}

impl Worker {
    async fn run(mut self) {
        let end = self.end.clone();
        let mut is_away = false;
        while !end.is_cancelled() {
            let wait = match self.take_turn().await {
                Ok(()) => {
                    is_away = false;
                    self.options.lease / 3
                }
                Err(error) => {
                    // Once for each time that the database goes away, not once a second.
                    if !std::mem::replace(&mut is_away, true) {
                        tracing::warn!(
                            error = &error as &dyn std::error::Error,
                            "snapshots cannot be kept for now"
                        );
                    }
                    self.options.retry
                }
            };
            tokio::select! {
                () = end.cancelled() => {}
                () = sleep(wait) => {}
            }
        }
        // It runs out by itself otherwise.
        let _ = checkpoint::release_some(self.pool(), &self.options.owner, &[NAME]).await;
    }

    fn pool(&self) -> &PgPool {
        self.store.database().pool()
    }

    /// Follows the log for as long as this process holds the lease; not at all when another one does.
    async fn take_turn(&mut self) -> Result<(), StoreError> {
        let Some(checkpoint) = self.acquire().await? else {
            return Ok(());
        };
        let Some(mut turn) = self.begin(checkpoint).await? else {
            return Ok(());
        };
        while !self.end.is_cancelled() {
            self.head.mark_unchanged();
            let head = *self.head.borrow();
            if head > turn.position && !self.advance(&mut turn, head).await? {
                return Ok(());
            }
            if !self.keep_turn(&mut turn).await? {
                return Ok(());
            }
            if turn.position >= *self.head.borrow() {
                self.rest(&turn).await;
            }
        }
        Ok(())
    }

    async fn acquire(&self) -> Result<Option<Checkpoint>, StoreError> {
        let (owner, lease) = (&self.options.owner, self.options.lease);
        checkpoint::acquire(self.pool(), NAME, schema_version(), owner, lease).await
    }

    /// Where to go on: where the last holder stopped, if it kept states by the same rules and of the same log; else
    /// behind a look at all streams.
    async fn begin(&mut self, checkpoint: Checkpoint) -> Result<Option<Turn>, StoreError> {
        let mut turn = Turn {
            epoch: checkpoint.epoch,
            position: checkpoint.position,
            renew_at: Instant::now() + self.options.lease / 3,
        };
        let known = checkpoint.position > Position::START
            && checkpoint.version == schema_version()
            && self.store.entry_hash_at(checkpoint.position).await? == Some(checkpoint.entry_hash);
        if known {
            self.reached.send_replace(turn.position);
            return Ok(Some(turn));
        }
        let head = self.store.head().await?;
        if !self.sweep(&mut turn).await? {
            return Ok(None);
        }
        let mut connection = self.pool().acquire().await?;
        checkpoint::replace(&mut connection, NAME, schema_version(), head.position, head.entry_hash).await?;
        drop(connection);
        // Replacing gives the lease up.
        let Some(checkpoint) = self.acquire().await? else {
            return Ok(None);
        };
        turn.epoch = checkpoint.epoch;
        turn.position = checkpoint.position;
        self.reached.send_replace(turn.position);
        Ok(Some(turn))
    }

    /// Goes over all streams. False when the turn was lost, or the end has come.
    async fn sweep(&mut self, turn: &mut Turn) -> Result<bool, StoreError> {
        let mut after = (String::new(), Uuid::nil());
        loop {
            let rows = sqlx::query(STREAMS)
                .bind(&after.0)
                .bind(after.1)
                .bind(SWEEP_PAGE)
                .fetch_all(self.pool())
                .await?;
            let Some(last) = rows.last() else { return Ok(true) };
            after = (last.try_get("aggregate_type")?, last.try_get("aggregate_id")?);
            for row in &rows {
                let version = row.try_get::<i64, _>("version")?.cast_unsigned();
                if version < self.options.every_events {
                    continue;
                }
                let due = version - version % self.options.every_events;
                let id: Uuid = row.try_get("aggregate_id")?;
                let stream = stream_of(row.try_get("aggregate_type")?, &id.to_string());
                if let Some(stream) = stream
                    && !self.keep_in_turn(turn, stream, due).await?
                {
                    return Ok(false);
                }
            }
            if !self.keep_turn(turn).await? {
                return Ok(false);
            }
        }
    }

    /// Looks through the next part of the log. False when the turn was lost, or the end has come.
    async fn advance(&mut self, turn: &mut Turn, head: Position) -> Result<bool, StoreError> {
        let to = Position(turn.position.0.saturating_add(WINDOW)).min(head);
        let rows = sqlx::query(DUE)
            .bind(turn.position.as_i64())
            .bind(to.as_i64())
            .bind(i64::try_from(self.options.every_events).unwrap_or(i64::MAX))
            .fetch_all(self.pool())
            .await?;
        for row in rows {
            let version = row.try_get::<i64, _>("version")?.cast_unsigned();
            // Streams of a newer program are left to it.
            let stream = stream_of(row.try_get("aggregate_type")?, row.try_get("aggregate_id")?);
            if let Some(stream) = stream
                && !self.keep_in_turn(turn, stream, version).await?
            {
                return Ok(false);
            }
        }
        let Some(hash) = self.store.entry_hash_at(to).await? else {
            return Err(StoreError::damaged(format!("position {to}"), "it is missing"));
        };
        if !self.move_checkpoint(turn, to, hash).await? {
            return Ok(false);
        }
        turn.position = to;
        self.reached.send_replace(to);
        Ok(true)
    }

    async fn move_checkpoint(&self, turn: &Turn, to: Position, hash: Hash) -> Result<bool, StoreError> {
        let mut transaction = self.pool().begin().await?;
        sqlx::query(RELAXED).execute(&mut *transaction).await?;
        let moved = checkpoint::advance(&mut transaction, NAME, turn.position, to, hash, turn.epoch).await?;
        if moved {
            transaction.commit().await?;
        }
        Ok(moved)
    }

    /// Renews the lease when it is time. False when it is somebody else's by now.
    async fn keep_turn(&self, turn: &mut Turn) -> Result<bool, StoreError> {
        let now = Instant::now();
        if now < turn.renew_at {
            return Ok(true);
        }
        let (owner, lease) = (&self.options.owner, self.options.lease);
        let held = checkpoint::renew(self.pool(), owner, &[NAME], lease).await?;
        turn.renew_at = now + lease / 3;
        Ok(!held.is_empty())
    }

    /// Sleeps until there is more to look at, but no longer than the lease allows.
    async fn rest(&mut self, turn: &Turn) {
        let end = self.end.clone();
        let awake = async {
            sleep(self.options.pause).await;
            if self.head.changed().await.is_err() {
                std::future::pending::<()>().await; // the store has ended, and soon this will
            }
        };
        tokio::select! {
            () = end.cancelled() => {}
            () = awake => {}
            () = sleep_until(turn.renew_at) => {}
        }
    }

    async fn keep_in_turn(&mut self, turn: &mut Turn, stream: StreamId, due: Version) -> Result<bool, StoreError> {
        if self.end.is_cancelled() {
            return Ok(false);
        }
        match self.keep(stream, due).await {
            Ok(()) => {}
            Err(error @ (StoreError::Database(_) | StoreError::Closed)) => return Err(error),
            Err(error) => {
                // Its loads will say the same, and that is where it matters.
                tracing::error!(%stream, error = &error as &dyn std::error::Error, "no snapshot can be kept");
            }
        }
        self.keep_turn(turn).await
    }

    /// Sees to it that the stream has a snapshot of at least `due` events.
    async fn keep(&mut self, stream: StreamId, due: Version) -> Result<(), StoreError> {
        let vault = self.store.vault();
        let mut connection = self.pool().acquire().await?;
        let mut base = None;
        if let Some(Found { version, judgement }) = find(&mut *connection, vault, stream).await? {
            match judgement {
                Judgement::Usable(snapshot) if version >= due => {
                    drop(snapshot);
                    return Ok(());
                }
                Judgement::Usable(snapshot) => base = Some(snapshot),
                Judgement::OtherSchema => {}
                Judgement::Erased => drop_it(&mut *connection, stream, version).await?,
                Judgement::Damaged(what) => {
                    tracing::error!(%stream, version, what, "a snapshot was damaged; it is made anew");
                    drop_it(&mut *connection, stream, version).await?;
                }
            }
        }
        let begun_at = base.as_ref().map(|base| base.version);
        let folded = match fold(&mut connection, vault, stream, base, Version::MAX).await {
            Err(error) if is_no_state(&error) && begun_at.is_some() => {
                let version = begun_at.unwrap_or(0);
                tracing::error!(%stream, version, "a snapshot holds no state; it is made anew");
                drop_it(&mut *connection, stream, version).await?;
                fold(&mut connection, vault, stream, None, Version::MAX).await?
            }
            other => other?,
        };
        let Some(folded) = folded else { return Ok(()) };
        if store(&mut *connection, vault, stream, folded).await? {
            self.kept += 1;
            if self.kept.is_multiple_of(self.options.check_every) {
                let (version, compared) = compare(&mut connection, self.store.vault(), stream).await?;
                if compared == Compared::Different {
                    tracing::error!(%stream, version, "a snapshot is not what its events lead to; it is deleted");
                    drop_it(&mut *connection, stream, version).await?;
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::schema_version;

    #[test]
    fn the_schema_fits_a_checkpoint() {
        assert!(schema_version() > 0);
    }
}
