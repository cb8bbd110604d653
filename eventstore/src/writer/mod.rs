//! What writes the log, one for each process.
//!
//! Commands wait in a bounded queue. An idle writer takes what is there and writes at once; while a batch is being
//! written the next one gathers, and is sent over a second connection once it is large: the server then reads it while
//! the first one holds the log's lock. Which of two batches comes first is decided by that lock. A command that was accepted is carried out whether or not its caller waits.
//!
//! When the connection is lost under a batch, nobody knows whether it was committed. The same batch is then sent
//! again: the append function knows commands that it has carried out by their ids and repeats its answer. The session
//! of the lost connection is ended first, or what was sent over it might arrive after a refusal that was given here,
//! and be carried out when nothing stands in its way any more.

mod call;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use sqlx::{Connection, Executor, PgConnection};
use tokio::sync::{Mutex, Notify, mpsc, oneshot, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::admission::{self, Bounds};
use crate::append::{AppendError, Appended};
use crate::database::{Database, Session, Timeouts};
use crate::error::{StoreError, is_lost_connection};
use crate::position::Position;
use crate::prepare::Prepared;
use crate::vault::{SubjectKey, Vault};

/// Told to clients when the queue is full; it empties much faster than that.
const RETRY_AFTER: Duration = Duration::from_secs(1);
/// Callers that were just answered get this many chances to come back before the next batch is closed.
const MOST_YIELDS: usize = 8;
/// So many waiting commands are sent while another batch is on its way. Fewer wait for its end and are joined by others:
/// small batches cost more than they hide.
const PIPELINED_COMMANDS: usize = 32;
/// After so many batches, and then whenever their number has doubled, the database makes its plans anew.
const FIRST_NEW_PLANS: u64 = 32;
/// How often a batch is repeated after the database gave it up by itself.
const MOST_ROLLBACKS: usize = 3;
const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// How the writer behaves. The defaults are meant for everybody.
#[derive(Debug, Clone)]
pub struct WriterOptions {
    /// Commands that may wait; beyond that, callers are told to come back.
    pub queue_commands: usize,
    /// The most commands of one batch.
    pub batch_commands: usize,
    /// The most bytes of payload of one batch, unless a single command has more.
    pub batch_bytes: usize,
    /// Connections that carry batches: at least 1. With a second one the next batch is on its way, and read by the
    /// server, while the last one still holds the log's lock; more have nothing to add.
    pub connections: usize,
    /// How long to try for a connection before commands are refused.
    pub connect_within: Duration,
    /// How long to try to find out what became of a batch whose connection was lost.
    pub resolve_within: Duration,
    /// How long to wait for the answer to a batch before the connection counts as lost.
    pub answer_within: Duration,
}

impl Default for WriterOptions {
    fn default() -> Self {
        Self {
            queue_commands: 1024,
            batch_commands: 128,
            batch_bytes: 1 << 20,
            connections: 2,
            connect_within: Duration::from_secs(5),
            resolve_within: Duration::from_secs(20),
            answer_within: Duration::from_secs(15),
        }
    }
}

type Answer = Result<Appended, AppendError>;

struct Request {
    prepared: Prepared,
    answer: oneshot::Sender<Answer>,
}

impl Request {
    fn answer(self, answer: Answer) {
        // A caller that has gone away wanted no answer.
        let _ = self.answer.send(answer);
    }
}

/// The callers' end of the writer's queue.
#[derive(Debug, Clone)]
pub(crate) struct WriterHandle {
    requests: mpsc::Sender<Request>,
    plenty: Arc<Notify>,
    closing: CancellationToken,
    closed: CancellationToken,
}

impl std::fmt::Debug for Request {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Request")
            .field("command_id", &self.prepared.command_id)
            .finish_non_exhaustive()
    }
}

impl WriterHandle {
    /// Starts the writer. It raises `head` with every batch, and ends when asked to or when all handles are gone.
    pub(crate) fn start(
        database: Database,
        vault: Vault,
        options: WriterOptions,
        head: Arc<watch::Sender<Position>>,
    ) -> Self {
        let (sender, requests) = mpsc::channel(options.queue_commands.max(1));
        let (closing, closed) = (CancellationToken::new(), CancellationToken::new());
        let (lanes, plenty) = (options.connections.max(1), Arc::new(Notify::new()));
        let shared = Arc::new(Shared {
            queue: Mutex::new(Queue {
                requests,
                waiting: VecDeque::new(),
            }),
            plenty: Arc::clone(&plenty),
            database,
            vault,
            options,
            head,
            closing: closing.clone(),
        });
        // Ends `close` even if a lane should panic.
        let ended = Arc::new(closed.clone().drop_guard());
        for number in 0..lanes {
            let lane = Lane {
                shared: Arc::clone(&shared),
                connection: None,
                carried: 0,
                session: None,
            };
            let ended = Arc::clone(&ended);
            tokio::spawn(async move {
                if number == 0 {
                    lane.take_all().await;
                } else {
                    lane.take_plenty().await;
                }
                drop(ended);
            });
        }
        Self {
            requests: sender,
            plenty,
            closing,
            closed,
        }
    }

    /// Hands a commit over and waits for what becomes of it.
    pub(crate) async fn append(&self, prepared: Prepared) -> Answer {
        let (answer, answered) = oneshot::channel();
        self.requests
            .try_send(Request { prepared, answer })
            .map_err(|error| match error {
                mpsc::error::TrySendError::Full(_) => AppendError::Overloaded {
                    retry_after: RETRY_AFTER,
                },
                mpsc::error::TrySendError::Closed(_) => StoreError::Closed.into(),
            })?;
        if self.requests.max_capacity() - self.requests.capacity() >= PIPELINED_COMMANDS {
            self.plenty.notify_one();
        }
        // Accepted, and then the writer vanished without a word: only a panic does that.
        answered.await.unwrap_or(Err(AppendError::OutcomeUnknown))
    }

    /// Accepts nothing more, carries out what was accepted, and returns when that is done.
    pub(crate) async fn close(&self) {
        self.closing.cancel();
        self.closed.cancelled().await;
    }
}

/// What the lanes of a writer have in common.
struct Shared {
    queue: Mutex<Queue>,
    /// Told when [`PIPELINED_COMMANDS`] are waiting.
    plenty: Arc<Notify>,
    database: Database,
    vault: Vault,
    options: WriterOptions,
    head: Arc<watch::Sender<Position>>,
    closing: CancellationToken,
}

/// Commands that no lane has taken yet.
struct Queue {
    requests: mpsc::Receiver<Request>,
    waiting: VecDeque<Request>,
}

/// One connection of the writer: takes a batch, carries it out, answers it, takes the next.
struct Lane {
    shared: Arc<Shared>,
    connection: Option<PgConnection>,
    /// Batches that the connection has carried.
    carried: u64,
    /// Of the connection, or of the one that was lost.
    session: Option<Session>,
}

/// What came of sending a batch.
enum Sent {
    Answered(Vec<Answer>),
    /// The connection is gone, and with it the answer.
    Lost(sqlx::Error),
    /// The database refused the whole batch and wrote nothing.
    Failed(sqlx::Error),
}

impl Queue {
    /// Waits for a batch. None when there will be no more.
    async fn next_batch(&mut self, shared: &Shared) -> Option<Vec<Request>> {
        if shared.closing.is_cancelled() {
            self.requests.close();
        }
        if self.waiting.is_empty() {
            let first = tokio::select! {
                biased;
                first = self.requests.recv() => first,
                () = shared.closing.cancelled(), if !self.requests.is_closed() => {
                    self.requests.close();
                    self.requests.recv().await
                }
            };
            self.waiting.push_back(first?);
        }
        self.await_company(&shared.options).await;
        Some(self.choose(&shared.options))
    }

    /// Gives callers that were just answered the chance to come back.
    async fn await_company(&mut self, options: &WriterOptions) {
        let mut seen = self.requests.len();
        for _ in 0..MOST_YIELDS {
            tokio::task::yield_now().await;
            let now = self.requests.len();
            if now == seen {
                break;
            }
            seen = now;
        }
        self.take_requests(options);
    }

    /// What waits here for the next batch counts against the queue's bound as what waits there does.
    fn take_requests(&mut self, options: &WriterOptions) {
        while self.waiting.len() < options.queue_commands.max(1) {
            match self.requests.try_recv() {
                Ok(request) => self.waiting.push_back(request),
                Err(_) => break,
            }
        }
    }

    fn choose(&mut self, options: &WriterOptions) -> Vec<Request> {
        let bounds = Bounds {
            commands: options.batch_commands.max(1),
            bytes: options.batch_bytes,
        };
        let waiting = self
            .waiting
            .iter()
            .map(|request| (&request.prepared.footprint, request.prepared.size));
        let mut chosen = admission::choose(waiting, bounds).into_iter();
        let (batch, rest) = std::mem::take(&mut self.waiting)
            .into_iter()
            .partition::<Vec<_>, _>(|_| chosen.next().unwrap_or(false));
        self.waiting = rest.into();
        batch
    }
}

impl Lane {
    /// Takes whatever waits, until there will be no more.
    async fn take_all(mut self) {
        let shared = Arc::clone(&self.shared);
        loop {
            let Some(batch) = shared.queue.lock().await.next_batch(&shared).await else {
                break;
            };
            self.commit(batch).await;
        }
        self.hang_up().await;
    }

    /// Takes only what is plenty, while the first lane is under way with other commands.
    async fn take_plenty(mut self) {
        let shared = Arc::clone(&self.shared);
        loop {
            tokio::select! {
                biased;
                () = shared.closing.cancelled() => break,
                () = shared.plenty.notified() => {}
            }
            loop {
                // The first lane does not give the queue away while it waits for more itself.
                let Ok(mut queue) = shared.queue.try_lock() else { break };
                queue.take_requests(&shared.options);
                if queue.waiting.len() < PIPELINED_COMMANDS {
                    break;
                }
                let batch = queue.choose(&shared.options);
                drop(queue);
                self.commit(batch).await;
            }
        }
        self.hang_up().await;
    }

    async fn hang_up(self) {
        if let Some(connection) = self.connection {
            // Everything is answered; how the session ends does not matter.
            let _ = connection.close().await;
        }
    }

    /// Sees to it that every command of the batch is answered.
    async fn commit(&mut self, batch: Vec<Request>) {
        let mut attempts = VecDeque::from([Attempt { batch, in_doubt: false }]);
        while let Some(attempt) = attempts.pop_front() {
            if let Some(Attempt { batch, in_doubt }) = self.attempt(attempt).await {
                // One of them spoils it for all, and the database does not say which.
                attempts.extend(batch.into_iter().map(|request| Attempt {
                    batch: vec![request],
                    in_doubt,
                }));
            }
        }
    }

    /// Answers a batch, or gives it back when its commands must be tried one by one.
    async fn attempt(&mut self, mut attempt: Attempt) -> Option<Attempt> {
        let mut rollbacks = 0;
        let mut pause = Duration::ZERO;
        let mut give_up = Instant::now() + self.shared.options.connect_within;
        loop {
            if let Err(error) = self.connect(give_up).await {
                self.refuse_all(attempt, error);
                return None;
            }
            let sent = match self.replant(&mut attempt).await {
                Ok(()) if attempt.batch.is_empty() => return None,
                Ok(()) => self.send(&attempt.batch).await,
                Err(error) => Sent::Failed(error),
            };
            let error = match sent {
                Sent::Answered(answers) => {
                    deliver(attempt, answers, &self.shared.head);
                    return None;
                }
                Sent::Lost(error) => {
                    self.disconnect(&error);
                    if !attempt.in_doubt {
                        attempt.in_doubt = true;
                        give_up = Instant::now() + self.shared.options.resolve_within;
                    }
                    error
                }
                Sent::Failed(error) if is_lost_connection(&error) => {
                    self.disconnect(&error);
                    error
                }
                Sent::Failed(error) => match verdict(&error) {
                    Verdict::Repeat if rollbacks < MOST_ROLLBACKS => {
                        rollbacks += 1;
                        continue;
                    }
                    // Whether it was carried out before can still be found out.
                    Verdict::Repeat | Verdict::Busy if attempt.in_doubt => error,
                    Verdict::OneByOne if attempt.batch.len() > 1 => {
                        tracing::error!(
                            commands = attempt.batch.len(),
                            error = &error as &dyn std::error::Error,
                            "a batch was refused as a whole; its commands are tried one by one"
                        );
                        return Some(attempt);
                    }
                    Verdict::Repeat | Verdict::Busy | Verdict::OneByOne => {
                        attempt.fail(error);
                        return None;
                    }
                },
            };
            // A connection that can be had but does not last, or a lock that is never had, must not keep everybody
            // waiting for ever.
            if Instant::now() + pause >= give_up {
                attempt.fail(error);
                return None;
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).clamp(FIRST_PAUSE, LONGEST_PAUSE);
        }
    }

    /// A connection, within a bounded time.
    async fn connect(&mut self, give_up: Instant) -> Result<(), StoreError> {
        let mut pause = FIRST_PAUSE;
        while self.connection.is_none() {
            match self
                .shared
                .database
                .connect_replacing(Timeouts::APPEND, self.session)
                .await
            {
                Ok((connection, session)) => {
                    self.connection = Some(connection);
                    self.carried = 0;
                    self.session = Some(session);
                    // A crash before this connection, of which it says nothing, may have lost keys. Once for each
                    // connection: what waits is replanted with its first batch, what comes later is sealed anew.
                    self.shared.vault.distrust_keys();
                }
                Err(error) if Instant::now() + pause >= give_up => return Err(error.into()),
                Err(error) => {
                    tracing::warn!(
                        error = &error as &dyn std::error::Error,
                        "the log's writer cannot connect; trying again"
                    );
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
            }
        }
        Ok(())
    }

    fn disconnect(&mut self, error: &sqlx::Error) {
        tracing::warn!(
            error = error as &dyn std::error::Error,
            "the log's writer lost its connection"
        );
        self.connection = None;
        self.shared.vault.distrust_keys();
    }

    /// Nobody can connect, so those that wait behind the batch need not try.
    fn refuse_all(&mut self, attempt: Attempt, error: StoreError) {
        tracing::error!(error = &error as &dyn std::error::Error, "the log cannot be reached");
        let error = Arc::new(error);
        attempt.answer(&error);
        // Where another lane has the queue, it finds out by itself.
        if let Ok(mut queue) = self.shared.queue.try_lock() {
            while let Ok(request) = queue.requests.try_recv() {
                queue.waiting.push_back(request);
            }
            let batch = queue.waiting.drain(..).collect();
            Attempt { batch, in_doubt: false }.answer(&error);
        }
    }

    /// Puts back the keys that commands were sealed with before the connection was made, and refuses commands
    /// whose keys are no longer the stored ones: what they would write could never be opened.
    async fn replant(&mut self, attempt: &mut Attempt) -> Result<(), sqlx::Error> {
        let generation = self.shared.vault.generation();
        let stale = |request: &Request| request.prepared.generation != generation && !request.prepared.keys.is_empty();
        let keys: Vec<(Uuid, SubjectKey)> = attempt
            .batch
            .iter()
            .filter(|request| stale(request))
            .flat_map(|request| request.prepared.keys.iter())
            .map(|(subject, key)| (*subject, key.clone()))
            .collect();
        let Some(connection) = &mut self.connection else {
            return Err(sqlx::Error::PoolClosed);
        };
        if keys.is_empty() {
            return Ok(());
        }
        let stored = self.shared.vault.replant(connection, &keys).await?;
        let (mut good, mut spoiled) = (Vec::new(), Vec::new());
        for mut request in std::mem::take(&mut attempt.batch) {
            let prepared = &mut request.prepared;
            let is_stored =
                |(subject, key): (&Uuid, &SubjectKey)| key.is(stored.get(subject).and_then(|stored| stored.as_deref()));
            if prepared.generation == generation || prepared.keys.iter().all(is_stored) {
                prepared.generation = generation;
                good.push(request);
            } else {
                spoiled.push(request);
            }
        }
        attempt.batch = good;
        if !spoiled.is_empty() {
            let spoiled = Attempt {
                batch: spoiled,
                in_doubt: attempt.in_doubt,
            };
            spoiled.answer(&Arc::new(StoreError::KeysLost));
        }
        Ok(())
    }

    async fn send(&mut self, batch: &[Request]) -> Sent {
        let Some(connection) = &mut self.connection else {
            return Sent::Lost(sqlx::Error::PoolClosed);
        };
        // The plans of the append functions are made once, and those that suit a log of a few streams read whole indexes
        // of a log that has grown since.
        self.carried += 1;
        if self.carried >= FIRST_NEW_PLANS
            && self.carried.is_power_of_two()
            && let Err(error) = connection.execute("discard plans").await
        {
            return Sent::Failed(error);
        }
        let answered = tokio::time::timeout(self.shared.options.answer_within, call::append(connection, batch));
        match answered.await {
            Ok(Ok(answers)) => Sent::Answered(answers),
            Ok(Err(error)) if is_lost_connection(&error) => Sent::Lost(error),
            Ok(Err(error)) => Sent::Failed(error),
            Err(elapsed) => Sent::Lost(sqlx::Error::Io(elapsed.into())),
        }
    }
}

fn deliver(attempt: Attempt, answers: Vec<Answer>, head: &watch::Sender<Position>) {
    let last = answers
        .iter()
        .flatten()
        .filter(|appended| !appended.duplicate || attempt.in_doubt)
        .map(|appended| appended.last_position)
        .max();
    // First, so that whoever waits for the position of an answer finds it reached.
    if let Some(last) = last {
        crate::subscription::raise(head, last);
    }
    for (request, mut answer) in attempt.batch.into_iter().zip(answers) {
        if let Ok(appended) = &mut answer
            && attempt.in_doubt
            && appended.command_id == request.prepared.command_id
        {
            appended.duplicate = false; // it was this very attempt that had been carried out
        }
        request.answer(answer);
    }
}

/// A batch on its way.
struct Attempt {
    batch: Vec<Request>,
    /// Whether it was sent over a connection that was then lost, so that it may have been carried out.
    in_doubt: bool,
}

impl Attempt {
    /// The database refused, and wrote nothing this time.
    fn fail(self, error: sqlx::Error) {
        tracing::error!(error = &error as &dyn std::error::Error, "the log could not be written");
        if is_callers_mistake(&error) && !self.in_doubt {
            for request in self.batch {
                request.answer(Err(AppendError::Refused("the database cannot store this".to_owned())));
            }
        } else {
            self.answer(&Arc::new(StoreError::from(error)));
        }
    }

    fn answer(self, error: &Arc<StoreError>) {
        for request in self.batch {
            request.answer(Err(unavailable(self.in_doubt, error)));
        }
    }
}

fn unavailable(in_doubt: bool, error: &Arc<StoreError>) -> AppendError {
    if in_doubt {
        AppendError::OutcomeUnknown
    } else {
        AppendError::Unavailable(Arc::clone(error))
    }
}

/// What to do about a batch that the database rolled back.
enum Verdict {
    /// It had to choose between transactions, and chose another one.
    Repeat,
    /// A lock or a resource was not to be had in time.
    Busy,
    /// A command among them cannot be stored, or somebody has written past the append function.
    OneByOne,
}

fn verdict(error: &sqlx::Error) -> Verdict {
    let code = error
        .as_database_error()
        .and_then(|error| error.code())
        .unwrap_or_default();
    match &*code {
        "40001" | "40P01" => Verdict::Repeat,
        // Lock not available, query cancelled, and the classes of resources and of the system.
        "55P03" | "57014" => Verdict::Busy,
        code if code.starts_with("53") || code.starts_with("58") => Verdict::Busy,
        _ => Verdict::OneByOne,
    }
}

/// Data that cannot be represented (class 22) or a check on the row itself (23514).
fn is_callers_mistake(error: &sqlx::Error) -> bool {
    error
        .as_database_error()
        .and_then(|error| error.code())
        .is_some_and(|code| code.starts_with("22") || code == "23514")
}
