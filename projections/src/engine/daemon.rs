//! The daemon: takes leases, reads batches, folds them into the models it leads.

use std::collections::BTreeMap;
use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use annals_domain::Caller;
use annals_eventstore::checkpoint::{self, Checkpoint, Divergence};
use annals_eventstore::database::Timeouts;
use annals_eventstore::{Database, EventStore, Hash, Position, Record, StoreError};
use sqlx::{Connection, Executor, PgConnection};
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::projection::{Projection, ProjectionError};
use super::rebuild::{RebuildError, RebuildOptions, rebuild, tables_exist};
use super::status::ProjectionState;
use super::wait::Board;
use super::{CHANNEL, EngineOptions, NOTIFY};

/// The wait after the database could not be reached.
const RECONNECT: Duration = Duration::from_millis(250);

/// Statements name tables without a schema. What is lost with the server's last moments is in the log, so
/// nothing waits for the disk here.
const SESSION: &str = "set search_path = view; set synchronous_commit = off";

pub(super) struct Daemon {
    store: EventStore,
    models: Vec<Model>,
    options: EngineOptions,
    board: Arc<Board>,
    end: CancellationToken,
    head: watch::Receiver<Position>,
    /// The head when it was last looked at; lower than that only after the log was set back.
    known_head: Position,
    /// Of this engine alone; made anew after every loss.
    connection: Option<PgConnection>,
    /// Since it was last reached, the database has not answered.
    is_away: bool,
    /// Another process has moved a model that it leads.
    elsewhere: Arc<Elsewhere>,
    rebuilt: (mpsc::UnboundedSender<Rebuilt>, mpsc::UnboundedReceiver<Rebuilt>),
}

type Rebuilt = (usize, Result<(), RebuildError>);

#[derive(Default)]
struct Elsewhere {
    moved: Notify,
    /// Whether anybody needs to know.
    watched: AtomicBool,
}

struct Model {
    projection: Arc<dyn Projection>,
    role: Role,
    /// Of the last event it shows, as far as this process knows.
    position: Position,
    /// Entry hash at that position; what comes next must follow from it.
    entry_hash: Hash,
    /// The log may not be the one it was built from: its checkpoint is looked at before it goes on.
    is_suspect: bool,
    /// The log is not the one it was built from.
    is_diverged: bool,
    /// The most events of its next batch: fewer while it is narrowed down which event it fails at.
    limit: usize,
    failures: u32,
    retry_at: Instant,
    /// This program cannot read the event that comes next, so it does not lead before `retry_at`: a newer program on
    /// the same database may be able to.
    is_unreadable: bool,
}

enum Role {
    /// Another process leads, or nobody yet.
    Standby,
    /// This process does, under this epoch.
    Leading(u64),
    /// This process does, but follows only once it is built anew.
    Rebuilding(JoinHandle<()>),
}

/// Why a batch did not go through.
enum Fault {
    /// The database is away; no model is to blame.
    Away(sqlx::Error),
    /// Somebody else moved a model, or took it over.
    Overtaken,
    /// This model cannot be moved.
    Model(usize, ProjectionError),
    /// The database would not move any, for a reason that has to do with none of them alone.
    Database(StoreError),
}

impl Model {
    fn name(&self) -> &'static str {
        self.projection.name()
    }

    fn epoch(&self) -> Option<u64> {
        match self.role {
            Role::Leading(epoch) => Some(epoch),
            Role::Standby | Role::Rebuilding(_) => None,
        }
    }

    /// Whether this process leads it, and the log is known to be its own.
    fn may_move(&self) -> bool {
        self.epoch().is_some() && !self.is_suspect && !self.is_diverged
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        for model in &self.models {
            if let Role::Rebuilding(task) = &model.role {
                task.abort();
            }
        }
    }
}

impl Daemon {
    pub(super) fn new(
        store: EventStore,
        projections: Vec<Arc<dyn Projection>>,
        mut options: EngineOptions,
        board: Arc<Board>,
        end: CancellationToken,
    ) -> Self {
        if options.owner.is_empty() {
            options.owner = format!("process {} ({})", std::process::id(), Uuid::now_v7());
        }
        options.batch_events = options.batch_events.max(1);
        let models = projections
            .into_iter()
            .map(|projection| Model {
                projection,
                role: Role::Standby,
                position: Position::START,
                entry_hash: Hash::ZERO,
                is_suspect: false,
                is_diverged: false,
                limit: options.batch_events,
                failures: 0,
                retry_at: Instant::now(),
                is_unreadable: false,
            })
            .collect();
        let head = store.head_changes();
        Self {
            store,
            models,
            options,
            board,
            end,
            head,
            known_head: Position::START,
            connection: None,
            is_away: false,
            elsewhere: Arc::default(),
            rebuilt: mpsc::unbounded_channel(),
        }
    }

    pub(super) async fn run(mut self) {
        let listening = tokio::spawn(listen(
            self.store.database().clone(),
            self.elsewhere.clone(),
            self.end.clone(),
        ));
        let end = self.end.clone();
        let mut head = self.head.clone();
        let renew_every = self.options.lease / 3;
        let mut renew_at = Instant::now();
        while !end.is_cancelled() {
            head.mark_unchanged();
            let now = Instant::now();
            if self.readmit(now) || now >= renew_at {
                renew_at = now + renew_every;
                match self.tend_leases().await {
                    Ok(()) => self.back(),
                    Err(error) => {
                        self.away(&error);
                        renew_at = now + RECONNECT.min(renew_every);
                    }
                }
            }
            if let Err(error) = self.look_into_suspects().await {
                self.away(&error);
            }
            if self.step().await {
                continue;
            }
            let wake_at = self.next_retry().map_or(renew_at, |retry_at| retry_at.min(renew_at));
            tokio::select! {
                () = end.cancelled() => {}
                changed = head.changed() => {
                    if changed.is_err() {
                        break; // the event store has ended; nothing will come any more
                    }
                }
                () = self.elsewhere.moved.notified() => {
                    if let Err(error) = self.look_elsewhere().await {
                        self.away(&error);
                    }
                }
                Some((model, outcome)) = self.rebuilt.1.recv() => {
                    self.rebuilt(model, outcome);
                    renew_at = Instant::now();
                }
                () = sleep_until(wake_at) => {}
            }
        }
        self.leave().await;
        listening.abort();
    }

    /// One batch for every group of models that stand at the same position. Returns whether anything moved.
    async fn step(&mut self) -> bool {
        let head = *self.head.borrow();
        let now = Instant::now();
        let mut groups: BTreeMap<Position, Vec<usize>> = BTreeMap::new();
        let mut troubled = Vec::new();
        for (index, model) in self.models.iter().enumerate() {
            if !model.may_move() || model.position >= head || model.retry_at > now {
                continue;
            }
            if model.failures > 0 || model.limit < self.options.batch_events {
                troubled.push((model.position, vec![index]));
            } else {
                groups.entry(model.position).or_default().push(index);
            }
        }
        // A batch ends where the next group stands, so that those behind join those ahead.
        let places: Vec<Position> = groups.keys().copied().collect();
        let mut moved = false;
        for (from, group) in groups.into_iter().chain(troubled) {
            let next = places.iter().find(|place| **place > from);
            let room = next.map_or(u64::MAX, |next| next.0 - from.0);
            let limit = group.iter().map(|index| self.models[*index].limit).min().unwrap_or(1);
            let limit = limit.min(usize::try_from(room).unwrap_or(usize::MAX));
            moved |= self.move_group(&group, from, limit).await;
            if self.end.is_cancelled() {
                return false;
            }
        }
        moved
    }

    /// Moves models that stand at `from` by one batch: all at once, and when that fails, each by itself.
    async fn move_group(&mut self, group: &[usize], from: Position, limit: usize) -> bool {
        let batch = match self.store.read_after(from, limit).await {
            Ok(batch) if batch.is_empty() => {
                // The head promised more than there is: the log was set back. It must not be asked without a pause.
                self.suspect(group);
                self.pause(group);
                return false;
            }
            Ok(batch) => batch,
            Err(StoreError::Database(error)) => {
                self.away(&error.into());
                self.pause(group);
                return false;
            }
            Err(error) => {
                // The first event after `from` cannot be read, so nobody gets past it.
                for index in group {
                    self.failed(*index, 1, from.next(), &error).await;
                }
                if matches!(error, StoreError::Decode { .. }) {
                    self.let_go(group).await;
                }
                return false;
            }
        };
        let (group, strays): (Vec<usize>, Vec<usize>) = group.iter().partition(|index| {
            let previous = self.models[**index].entry_hash;
            batch.first().is_some_and(|first| first.follows(previous))
        });
        let group = group.as_slice();
        self.lost_the_thread(&strays, from).await;
        if group.is_empty() {
            return false;
        }
        match self.apply(group, from, &batch).await {
            Ok(()) => true,
            Err(Fault::Model(index, error)) if group.len() == 1 => {
                self.failed(index, batch.len(), from.next(), &error).await;
                // Smaller batches are tried at once; they lead to the event.
                batch.len() > 1
            }
            Err(Fault::Model(..)) => {
                let mut moved = false;
                for index in group {
                    moved |= Box::pin(self.move_alone(*index, from, &batch)).await;
                }
                moved
            }
            Err(fault) => {
                self.unmoved(group, fault).await;
                false
            }
        }
    }

    async fn move_alone(&mut self, index: usize, from: Position, batch: &[Record]) -> bool {
        match self.apply(&[index], from, batch).await {
            Ok(()) => true,
            Err(Fault::Model(_, error)) => {
                self.failed(index, batch.len(), from.next(), &error).await;
                batch.len() > 1
            }
            Err(fault) => {
                self.unmoved(&[index], fault).await;
                false
            }
        }
    }

    /// What to do when a batch failed for no fault of a model.
    async fn unmoved(&mut self, group: &[usize], fault: Fault) {
        match fault {
            Fault::Away(error) => self.away(&error.into()),
            Fault::Database(error) => self.away(&error),
            Fault::Overtaken => {
                // A rebuild has switched, or another process has taken over: the lease tells which.
                if let Err(error) = self.take(group).await {
                    self.away(&error);
                } else {
                    return;
                }
            }
            Fault::Model(..) => {}
        }
        self.pause(group);
    }

    /// Rows and checkpoints of all models in one transaction.
    async fn apply(&mut self, group: &[usize], from: Position, batch: &[Record]) -> Result<(), Fault> {
        let Some(last) = batch.last() else { return Ok(()) };
        let guards: Vec<(&str, u64)> = group
            .iter()
            .filter_map(|index| Some((self.models[*index].name(), self.models[*index].epoch()?)))
            .collect();
        let connection = connect(self.store.database(), &mut self.connection)
            .await
            .map_err(Fault::Away)?;
        let mut transaction = connection.begin().await.map_err(Fault::Away)?;
        // The checkpoints first: whoever is no leader any more stops here, and locks are always taken in the order
        // checkpoint, then tables, which is what a switch after a rebuild does too.
        let moved = checkpoint::advance_all(&mut transaction, &guards, from, last.position, last.entry_hash)
            .await
            .map_err(Fault::of_store)?;
        if !moved {
            transaction.rollback().await.map_err(Fault::Away)?;
            return Err(Fault::Overtaken);
        }
        for index in group {
            if let Err(error) = self.models[*index].projection.apply(&mut transaction, batch).await {
                return match error {
                    // The transaction goes with its connection.
                    ProjectionError::Statement(error) if is_away(&error) => Err(Fault::Away(error)),
                    error => {
                        transaction.rollback().await.map_err(Fault::Away)?;
                        Err(Fault::Model(*index, error))
                    }
                };
            }
        }
        sqlx::query(NOTIFY)
            .execute(&mut *transaction)
            .await
            .map_err(Fault::Away)?;
        transaction.commit().await.map_err(Fault::Away)?;
        for index in group {
            self.moved(*index, last);
        }
        Ok(())
    }

    fn moved(&mut self, index: usize, last: &Record) {
        let position = last.position;
        let model = &mut self.models[index];
        if model.failures > 0 {
            tracing::info!(projection = model.name(), %position, "the read model goes on");
        }
        model.position = position;
        model.entry_hash = last.entry_hash;
        model.failures = 0;
        model.limit = (model.limit * 2).min(self.options.batch_events);
        self.board.update(model.name(), |seen| {
            seen.position = position;
            seen.state = ProjectionState::Following;
            seen.failures = 0;
            seen.error = None;
        });
    }

    /// What follows in the log at `from` does not follow from what these models show. Either the log was set back and
    /// went on differently, which their checkpoints tell; or the event itself is damaged.
    async fn lost_the_thread(&mut self, group: &[usize], from: Position) {
        if group.is_empty() {
            return;
        }
        let found = match self.store.entry_hash_at(from).await {
            Ok(found) => found,
            Err(error) => {
                self.away(&error);
                self.pause(group);
                return;
            }
        };
        let damaged = StoreError::Damaged {
            place: format!("position {}", from.next()),
            what: format!("it does not follow from the event at position {from}"),
        };
        for index in group {
            if found == Some(self.models[*index].entry_hash) {
                self.failed(*index, 1, from.next(), &damaged).await;
            } else {
                self.models[*index].is_suspect = true;
            }
        }
    }

    fn suspect(&mut self, group: &[usize]) {
        for index in group {
            self.models[*index].is_suspect = true;
        }
    }

    /// Looks at the checkpoints of models of which it is in doubt whether they belong to this log.
    async fn look_into_suspects(&mut self) -> Result<(), StoreError> {
        let head = *self.head.borrow();
        let is_set_back = head < self.known_head;
        self.known_head = head;
        let now = Instant::now();
        let mut suspects = Vec::new();
        for (index, model) in self.models.iter_mut().enumerate() {
            model.is_suspect |= is_set_back;
            if model.is_suspect && model.epoch().is_some() && model.retry_at <= now {
                suspects.push(index);
            }
        }
        if suspects.is_empty() {
            return Ok(());
        }
        let looked = self.take(&suspects).await;
        if looked.is_err() {
            self.pause(&suspects);
        }
        looked
    }

    /// Looks which models, whoever leads them, belong to another log than this one.
    async fn look_for_divergence(&mut self) -> Result<(), StoreError> {
        let diverged = checkpoint::diverged(self.store.database().pool()).await?;
        for model in &mut self.models {
            let found = diverged.iter().find(|diverged| diverged.projection == model.name());
            match model.role {
                Role::Rebuilding(_) => {}
                Role::Leading(_) => model.is_suspect |= found.is_some() != model.is_diverged,
                Role::Standby => {
                    model.is_diverged = found.is_some();
                    let error = found.map(Divergence::to_string);
                    self.board.update(model.name(), |seen| {
                        seen.state = idle_state(error.is_some());
                        seen.error = error;
                    });
                }
            }
        }
        Ok(())
    }

    /// The checkpoint that this process leads is none of this log. What the model shows stays as it is.
    async fn diverged(&mut self, index: usize, checkpoint: &Checkpoint) -> Result<(), StoreError> {
        let divergence = Divergence {
            projection: checkpoint.projection.clone(),
            position: checkpoint.position,
        };
        let text = divergence.to_string();
        let model = &mut self.models[index];
        let is_news = !model.is_diverged;
        model.role = Role::Leading(checkpoint.epoch);
        model.position = checkpoint.position;
        model.entry_hash = checkpoint.entry_hash;
        model.is_suspect = false;
        model.is_diverged = true;
        let name = model.name();
        self.board.update(name, |seen| {
            seen.position = checkpoint.position;
            seen.state = ProjectionState::Diverged;
            seen.error = Some(text.clone());
        });
        if is_news {
            tracing::error!(
                projection = name,
                position = %checkpoint.position,
                "{text}: the read model was built from another log and stands still; bring that log back, or run annals rebuild {name}"
            );
            checkpoint::fail(self.store.database().pool(), name, checkpoint.epoch, &text).await?;
        }
        Ok(())
    }

    /// A model could not take a batch of `events` from `at` on. Until it is known which event it is, the batch is
    /// halved; then the model waits, longer each time, and the others go on.
    async fn failed(&mut self, index: usize, events: usize, at: Position, error: &(dyn Error + Sync)) {
        let model = &mut self.models[index];
        if events > 1 {
            model.limit = events / 2;
            return;
        }
        let wait = self.options.retry_first.saturating_mul(1 << model.failures.min(16));
        model.failures = model.failures.saturating_add(1);
        model.limit = 1;
        model.retry_at = Instant::now() + wait.min(self.options.retry_longest);
        let text = format!("event at position {at}: {}", chain(error));
        let (name, failures, epoch) = (model.name(), model.failures, model.epoch());
        tracing::error!(projection = name, failures, error = text, "the read model cannot go on");
        self.board.update(name, |seen| {
            seen.state = ProjectionState::Failing;
            seen.failures = failures;
            seen.error = Some(text.clone());
        });
        if let Some(epoch) = epoch
            && let Err(error) = checkpoint::fail(self.store.database().pool(), name, epoch, &text).await
        {
            self.away(&error);
        }
    }

    /// The database is away. The connection is given up, since nobody knows what state it is in. Told once, however
    /// long it lasts.
    fn away(&mut self, error: &StoreError) {
        self.connection = None;
        if !self.is_away && !self.end.is_cancelled() {
            tracing::warn!(
                error = chain(error),
                "read models stand still: the database does not answer"
            );
        }
        self.is_away = true;
    }

    fn back(&mut self) {
        if self.is_away {
            tracing::info!("the database answers again");
        }
        self.is_away = false;
    }

    fn pause(&mut self, group: &[usize]) {
        let retry_at = Instant::now() + RECONNECT;
        for index in group {
            self.models[*index].retry_at = retry_at;
        }
    }

    fn next_retry(&self) -> Option<Instant> {
        let head = *self.head.borrow();
        self.models
            .iter()
            .filter(|model| {
                model.is_unreadable
                    || model.may_move() && model.position < head
                    || model.is_suspect && model.epoch().is_some()
            })
            .map(|model| model.retry_at)
            .min()
    }

    /// Gives back the leases of models whose next event this program cannot read.
    async fn let_go(&mut self, group: &[usize]) {
        for index in group {
            let model = &mut self.models[*index];
            model.role = Role::Standby;
            model.is_unreadable = true;
        }
        let names: Vec<&str> = group.iter().map(|index| self.models[*index].name()).collect();
        let database = self.store.database().clone();
        // Not given back, they run out: nobody renews them.
        let released = match checkpoint::release_some(database.pool(), &self.options.owner, &names).await {
            Ok(()) => self.look_elsewhere().await,
            Err(error) => Err(error),
        };
        if let Err(error) = released {
            self.away(&error);
        }
    }

    /// Lets models try for their leases again whose wait is over. Returns whether there are any.
    fn readmit(&mut self, now: Instant) -> bool {
        let mut any = false;
        for model in &mut self.models {
            if model.is_unreadable && model.retry_at <= now {
                model.is_unreadable = false;
                any = true;
            }
        }
        any
    }

    /// Renews what this process leads and tries to take what nobody does.
    async fn tend_leases(&mut self) -> Result<(), StoreError> {
        let database = self.store.database().clone();
        let held: Vec<&str> = self
            .models
            .iter()
            .filter(|model| !matches!(model.role, Role::Standby))
            .map(Model::name)
            .collect();
        let renewed = if held.is_empty() {
            Vec::new()
        } else {
            checkpoint::renew(database.pool(), &self.options.owner, &held, self.options.lease).await?
        };
        let lost: Vec<usize> = (0..self.models.len())
            .filter(|index| match self.models[*index].role {
                Role::Standby => !self.models[*index].is_unreadable,
                // Its own switch gives the lease back, and then it reports.
                Role::Rebuilding(_) => false,
                Role::Leading(_) => !renewed.iter().any(|name| name == self.models[*index].name()),
            })
            .collect();
        self.take(&lost).await?;
        self.look_for_divergence().await
    }

    /// Tries to take the leases of these models, for the first time or again.
    async fn take(&mut self, wanted: &[usize]) -> Result<(), StoreError> {
        if wanted.is_empty() {
            return self.look_elsewhere().await;
        }
        let database = self.store.database().clone();
        let checkpoints = checkpoint::list(database.pool()).await?;
        for index in wanted {
            let (name, version) = (self.models[*index].name(), self.models[*index].projection.version());
            let found = checkpoints.iter().find(|checkpoint| checkpoint.projection == name);
            // Tables of a newer version are not for this program, whoever leads them.
            if found.is_some_and(|checkpoint| checkpoint.version > version) {
                self.stand_by(*index);
                continue;
            }
            let owner = &self.options.owner;
            match checkpoint::acquire(database.pool(), name, version, owner, self.options.lease).await? {
                Some(checkpoint) if checkpoint.version <= version => self.lead(*index, &checkpoint).await?,
                _ => self.stand_by(*index),
            }
        }
        self.look_elsewhere().await
    }

    /// Takes up a lease, or goes on with one: follows from where the checkpoint stands, or builds the model anew.
    async fn lead(&mut self, index: usize, checkpoint: &Checkpoint) -> Result<(), StoreError> {
        let model = &self.models[index];
        match model.role {
            Role::Rebuilding(_) => return Ok(()),
            Role::Leading(epoch)
                if !model.is_suspect && epoch == checkpoint.epoch && model.position == checkpoint.position =>
            {
                return Ok(());
            }
            Role::Leading(_) | Role::Standby => {}
        }
        let (name, version) = (model.name(), model.projection.version());
        if model.retry_at > Instant::now() {
            return Ok(());
        }
        // Before everything else: not even a new version may cover up that the log is another one.
        if self.store.entry_hash_at(checkpoint.position).await? != Some(checkpoint.entry_hash) {
            return self.diverged(index, checkpoint).await;
        }
        let connection = connect(self.store.database(), &mut self.connection).await?;
        let complete = tables_exist(connection, self.models[index].projection.as_ref()).await?;
        let model = &mut self.models[index];
        let was_diverged = std::mem::take(&mut model.is_diverged);
        model.is_suspect = false;
        if checkpoint.version == version && complete {
            tracing::info!(projection = name, position = %checkpoint.position, epoch = checkpoint.epoch, "following the log");
            model.role = Role::Leading(checkpoint.epoch);
            model.position = checkpoint.position;
            model.entry_hash = checkpoint.entry_hash;
            self.board.update(name, |seen| {
                seen.position = checkpoint.position;
                if was_diverged {
                    seen.error = None;
                }
                seen.state = if seen.failures > 0 {
                    ProjectionState::Failing
                } else {
                    ProjectionState::Following
                };
            });
            if was_diverged {
                checkpoint::mend(self.store.database().pool(), name, checkpoint.epoch).await?;
            }
            return Ok(());
        }
        if !complete {
            tracing::warn!(projection = name, "tables of the read model are gone; building it anew");
        } else {
            tracing::info!(
                projection = name,
                from = checkpoint.version,
                to = version,
                "the read model has a new version; building it anew"
            );
        }
        self.board.update(name, |seen| {
            // What it shows is of no use to those who wait for a position in this version.
            seen.position = Position::START;
            seen.state = ProjectionState::Rebuilding;
        });
        let task = tokio::spawn(rebuild_in_background(
            self.store.clone(),
            self.models[index].projection.clone(),
            index,
            self.rebuilt.0.clone(),
        ));
        self.models[index].role = Role::Rebuilding(task);
        Ok(())
    }

    /// Somebody else leads the model.
    fn stand_by(&mut self, index: usize) {
        let model = &mut self.models[index];
        if let Role::Rebuilding(task) = &model.role {
            task.abort();
        }
        if !matches!(model.role, Role::Standby) {
            tracing::warn!(projection = model.name(), "another process leads the read model now");
        }
        model.role = Role::Standby;
        model.is_unreadable = false;
        model.is_suspect = false;
        model.failures = 0;
        model.limit = self.options.batch_events;
        let is_diverged = model.is_diverged;
        self.board.update(model.name(), |seen| {
            seen.state = idle_state(is_diverged);
            seen.failures = 0;
            if !is_diverged {
                seen.error = None;
            }
        });
    }

    fn rebuilt(&mut self, index: usize, outcome: Result<(), RebuildError>) {
        let model = &mut self.models[index];
        model.role = Role::Standby; // the lease is still ours: tending it leads on from the new checkpoint
        let Err(error) = outcome else {
            model.failures = 0;
            self.board.update(model.name(), |seen| {
                seen.failures = 0;
                seen.error = None;
            });
            return;
        };
        let wait = self.options.retry_first.saturating_mul(1 << model.failures.min(16));
        model.failures = model.failures.saturating_add(1);
        model.retry_at = Instant::now() + wait.min(self.options.retry_longest);
        // The lease runs out meanwhile.
        model.is_unreadable = matches!(error, RebuildError::Log(StoreError::Decode { .. }));
        let text = chain(&error);
        tracing::error!(
            projection = model.name(),
            error = text,
            "the read model could not be built anew"
        );
        let failures = model.failures;
        self.board.update(model.name(), |seen| {
            seen.state = ProjectionState::Failing;
            seen.failures = failures;
            seen.error = Some(text);
        });
    }

    /// How far models have come that others lead.
    async fn look_elsewhere(&mut self) -> Result<(), StoreError> {
        let watched = self.models.iter().any(|model| matches!(model.role, Role::Standby));
        self.elsewhere.watched.store(watched, Ordering::Relaxed);
        if !watched {
            return Ok(());
        }
        let checkpoints = checkpoint::list(self.store.database().pool()).await?;
        for model in self
            .models
            .iter_mut()
            .filter(|model| matches!(model.role, Role::Standby))
        {
            let Some(checkpoint) = checkpoints
                .iter()
                .find(|checkpoint| checkpoint.projection == model.name())
            else {
                continue;
            };
            model.position = checkpoint.position;
            self.board
                .update(model.name(), |seen| seen.position = checkpoint.position);
        }
        Ok(())
    }

    /// Gives everything back.
    async fn leave(&mut self) {
        for model in &mut self.models {
            if let Role::Rebuilding(task) = &model.role {
                task.abort();
            }
            self.board
                .update(model.name(), |seen| seen.state = ProjectionState::Stopped);
        }
        if let Err(error) = checkpoint::release(self.store.database().pool(), &self.options.owner).await {
            tracing::debug!(
                error = chain(&error),
                "leases were not given back; they run out by themselves"
            );
        }
        if let Some(connection) = self.connection.take() {
            // The server notices a closed socket as well.
            drop(connection.close().await);
        }
    }
}

impl Fault {
    fn of_store(error: StoreError) -> Self {
        match error {
            StoreError::Database(error) => Self::Away(error),
            error => Self::Database(error),
        }
    }
}

/// Of a model that this process does not lead.
fn idle_state(is_diverged: bool) -> ProjectionState {
    if is_diverged {
        ProjectionState::Diverged
    } else {
        ProjectionState::Standby
    }
}

async fn connect<'a>(
    database: &Database,
    connection: &'a mut Option<PgConnection>,
) -> Result<&'a mut PgConnection, sqlx::Error> {
    if connection.is_none() {
        let mut fresh = database.connect_dedicated(Timeouts::POOL).await?;
        fresh.execute(SESSION).await?;
        *connection = Some(fresh);
    }
    Ok(connection.as_mut().expect("a connection was put there just now"))
}

async fn rebuild_in_background(
    store: EventStore,
    projection: Arc<dyn Projection>,
    index: usize,
    done: mpsc::UnboundedSender<Rebuilt>,
) {
    let caller = Caller::system("projections", Uuid::now_v7());
    let outcome = rebuild(&caller, &store, projection.as_ref(), RebuildOptions::default(), |_| {}).await;
    if let Ok(report) = &outcome {
        tracing::info!(
            projection = report.projection,
            events = report.events,
            "the read model is built anew"
        );
    }
    // The daemon may have ended meanwhile; then nobody needs to know.
    drop(done.send((index, outcome.map(drop))));
}

/// Hears of models that other processes move.
async fn listen(database: Database, elsewhere: Arc<Elsewhere>, end: CancellationToken) {
    let hear = async {
        loop {
            if let Err(error) = hear(&database, &elsewhere).await {
                tracing::debug!(
                    error = &error as &dyn Error,
                    "not listening to other processes; leases tell too"
                );
            }
            tokio::time::sleep(RECONNECT * 4).await;
        }
    };
    end.run_until_cancelled(hear).await;
}

async fn hear(database: &Database, elsewhere: &Elsewhere) -> Result<(), sqlx::Error> {
    let mut listener = database.listener().await?;
    listener.listen(CHANNEL).await?;
    loop {
        // Nothing heard means reconnected, and what was said in between is lost.
        listener.try_recv().await?;
        if elsewhere.watched.load(Ordering::Relaxed) {
            elsewhere.moved.notify_one();
        }
    }
}

/// Whether an error means that the server or the connection is gone, or that a lock was in the way.
fn is_away(error: &sqlx::Error) -> bool {
    match error {
        // 08 is connection trouble, 57P a server on its way down or up, 40 a deadlock, 55P03 a lock not had in time.
        sqlx::Error::Database(error) => error.code().is_some_and(|code| {
            ["08", "57P", "40", "55P03", "53"]
                .iter()
                .any(|class| code.starts_with(class))
        }),
        sqlx::Error::Io(_)
        | sqlx::Error::Tls(_)
        | sqlx::Error::Protocol(_)
        | sqlx::Error::PoolTimedOut
        | sqlx::Error::PoolClosed
        | sqlx::Error::WorkerCrashed => true,
        _ => false,
    }
}

/// An error with all its causes in one line.
fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
