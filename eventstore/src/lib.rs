//! What has happened: one append-only log in PostgreSQL, and everything that must be kept exactly beside it.
//!
//! [`EventStore`] is the way in: [`EventStore::append`] commits, [`EventStore::load`] brings an aggregate to its present
//! state, the `read` functions go through the log in order. Positions are dense and given in commit order; whoever has
//! seen position n has seen everything up to n. This is the only crate that names a table of schema `log` or `vault`.

mod admission;
pub mod answers;
pub mod append;
pub mod chain;
pub mod checkpoint;
mod claims;
pub mod database;
pub mod doctor;
pub mod embedded;
pub mod error;
mod expectation;
pub mod export;
pub mod length;
mod liveness;
pub mod load;
pub mod mails;
pub mod position;
mod prepare;
pub mod read;
pub mod snapshot;
mod subscription;
pub mod vault;
mod writer;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};
use uuid::Uuid;

use annals_domain::{Actor, ClaimKey, ClaimScope, EventSourced, LinkId, LinkNonce, SessionId, Timestamp, UserId};

pub use answers::{Answer, AnsweredCommit, KeptAnswer, Known, RequestParts};
pub use append::{
    Append, AppendError, Appended, Condition, Idempotency, StreamAppend, StreamId, StreamIdError, Version,
};
pub use chain::{VerifyFault, VerifyProgress, VerifyReport};
pub use checkpoint::{Checkpoint, CheckpointStatus, Divergence};
pub use database::Database;
pub use error::StoreError;
pub use expectation::Expectation;
pub use length::StreamLength;
pub use load::{CommitScope, Loaded, LogRepository};
pub use position::{Hash, Head, Position};
pub use read::{EventFilter, Record, Selection};
pub use snapshot::{SnapshotOptions, Snapshotter};
pub use vault::{MasterKey, Vault, VaultError};
pub use writer::WriterOptions;

use length::LengthAlarm;
use liveness::Liveness;
use writer::WriterHandle;

/// The log of one database. Cheap to clone; all clones share one writer, which ends with the last of them or with
/// [`EventStore::close`].
#[derive(Debug, Clone)]
pub struct EventStore {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    database: Database,
    vault: Vault,
    writer: WriterHandle,
    head: Arc<watch::Sender<Position>>,
    lengths: LengthAlarm,
    liveness: Liveness,
    following: CancellationToken,
    _until_dropped: DropGuard,
}

impl EventStore {
    /// Starts the writer and the watch on the head, in the present Tokio runtime. Nothing is connected before it is
    /// needed. On a standby ([`Database::is_standby`]) there is nothing to write: every append is refused, and the head
    /// is looked at every second.
    #[must_use]
    pub fn start(database: Database, vault: Vault, options: WriterOptions) -> Self {
        let head = Arc::new(watch::Sender::new(Position::START));
        let writer = WriterHandle::start(database.clone(), vault.clone(), options, Arc::clone(&head));
        let following = CancellationToken::new();
        subscription::follow(&database, &head, &following);
        let until_dropped = following.clone().drop_guard();
        let liveness = Liveness::new(database.clone());
        Self {
            inner: Arc::new(Inner {
                database,
                vault,
                writer,
                head,
                lengths: LengthAlarm::default(),
                liveness,
                following,
                _until_dropped: until_dropped,
            }),
        }
    }

    /// Commits: when this returns [`Appended`], the events are durable and in the log exactly once, at consecutive
    /// positions, and claims and stream versions agree with them. A commit that was accepted is carried out even if
    /// the caller stops waiting. When sessions or users ended with it, no process takes them for live any more.
    ///
    /// # Errors
    /// [`AppendError`]; unless it is [`AppendError::OutcomeUnknown`], nothing was written. On a standby it is always
    /// [`AppendError::Unavailable`] with [`StoreError::Standby`].
    pub async fn append(&self, append: Append) -> Result<Appended, AppendError> {
        if self.inner.database.is_standby() {
            return Err(StoreError::Standby.into());
        }
        let grown: Vec<(StreamId, Version)> = append
            .streams
            .iter()
            .filter_map(|grown| Some((grown.stream, length::passed(grown.expected, grown.events.len())?)))
            .collect();
        let outlook = self.inner.liveness.outlook(&append.streams);
        let prepared = prepare::prepare(&self.inner.vault, append).await?;
        let appended = self.inner.writer.append(prepared).await?;
        self.inner.liveness.carried_out(outlook, appended.last_position).await;
        if !appended.duplicate {
            for (stream, passed) in grown {
                self.inner.lengths.tell(stream, passed);
            }
        }
        Ok(appended)
    }

    /// The present state of an aggregate, from its snapshot and the events after it, or from all its events; the
    /// default state at version 0 when there are none.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn load<A: EventSourced>(&self, id: impl Into<Uuid>) -> Result<Loaded<A>, StoreError> {
        load::load(self.repository(), id.into()).await
    }

    /// How many events each of `streams` has now, in their order, in one statement.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn versions_of(&self, streams: &[StreamId]) -> Result<Vec<Version>, StoreError> {
        load::versions_of(self.pool(), streams).await
    }

    /// The version of the snapshot that a load of `stream` would begin with; absent when it would read all events.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn snapshot_of(&self, stream: StreamId) -> Result<Option<Version>, StoreError> {
        let found = snapshot::find(self.pool(), &self.inner.vault, stream).await?;
        Ok(found.and_then(|found| match found.judgement {
            snapshot::Judgement::Usable(snapshot) => Some(snapshot.version),
            _ => None,
        }))
    }

    /// The longest streams among those of at least [`length::LONG_STREAM`] events, longest first, at most `limit`.
    ///
    /// When more than a hundred are long, one that is left out may be longer than one that is listed, by less than
    /// half.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn longest_streams(&self, limit: usize) -> Result<Vec<StreamLength>, StoreError> {
        length::longest(self.pool(), limit).await
    }

    /// The same log as a repository for cqrs-es.
    #[must_use]
    pub fn repository(&self) -> LogRepository {
        LogRepository::new(self.clone())
    }

    /// At most `limit` events after `position`, in order and without holes. A page ends before an event that cannot be
    /// read; reading on from there gives its error.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn read_after(&self, position: Position, limit: usize) -> Result<Vec<Record>, StoreError> {
        read::after(self.pool(), &self.inner.vault, position, limit).await
    }

    /// At most `limit` events of `stream` after `version`, in order.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn read_stream(
        &self,
        stream: &StreamId,
        version: Version,
        limit: usize,
    ) -> Result<Vec<Record>, StoreError> {
        read::of_stream(self.pool(), &self.inner.vault, stream, version, limit).await
    }

    /// At most `limit` events after `after` that pass `filter`, in order, and how far the log was looked through. One
    /// call looks through a bounded part of the log, so fewer events than `limit` do not mean that there are no more:
    /// the end is reached when `scanned_to` is the head.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn read_filtered(
        &self,
        filter: &EventFilter,
        after: Position,
        limit: usize,
    ) -> Result<Selection, StoreError> {
        read::filtered(self.pool(), &self.inner.vault, filter, after, limit).await
    }

    /// The end of the log, as the database has it now.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn head(&self) -> Result<Head, StoreError> {
        position::head(self.pool()).await
    }

    /// The last known end of the log, and every later one. It may lag behind the database by a second when
    /// notifications are lost, and starts from 0 until first heard of. It goes down only when the log itself was set
    /// back, by a restored backup or a failover that lost the last commits.
    #[must_use]
    pub fn head_changes(&self) -> watch::Receiver<Position> {
        self.inner.head.subscribe()
    }

    /// The end of the log, as the database has it now, told to those who watch the head as well.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn look_at_head(&self) -> Result<Position, StoreError> {
        subscription::look(&self.inner.database, &self.inner.head).await
    }

    /// The entry hash at `position`, by which a reader recognises its log: zeros at the start, absent beyond the end.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn entry_hash_at(&self, position: Position) -> Result<Option<Hash>, StoreError> {
        position::entry_hash(self.pool(), position).await
    }

    /// The last position recorded at or before `moment`; the start when there is none.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn position_at(&self, moment: Timestamp) -> Result<Position, StoreError> {
        position::position_at(self.pool(), moment).await
    }

    /// The stream that holds a claim, if any.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn owner_of(&self, scope: ClaimScope, key: &ClaimKey) -> Result<Option<Uuid>, StoreError> {
        let owners = self.owners_of(&[(scope, key.clone())]).await?;
        Ok(owners.into_iter().next().flatten())
    }

    /// The streams that hold claims, in the order asked, in one statement.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn owners_of(&self, keys: &[(ClaimScope, ClaimKey)]) -> Result<Vec<Option<Uuid>>, StoreError> {
        claims::owners_of(self.pool(), &self.inner.vault, keys).await
    }

    /// The claims of `scope` whose stored keys start with `prefix`, by key, with their owners; at most 10,000.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn claims_with_prefix(
        &self,
        scope: ClaimScope,
        prefix: &[u8],
    ) -> Result<Vec<(Vec<u8>, Uuid)>, StoreError> {
        claims::with_prefix(self.pool(), scope, prefix).await
    }

    /// Whether the session has not ended and its user may sign in, by the claims of both: from memory, once this process
    /// remembers who is live ([`EventStore::remember_the_live`]), or else in one statement. Says nothing about the
    /// session's time running out.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn session_is_live(&self, user: UserId, session: SessionId) -> Result<bool, StoreError> {
        let liveness = &self.inner.liveness;
        if liveness.remembers(user, session) {
            return Ok(true);
        }
        let generation = liveness.generation();
        let is_live = claims::session_is_live(self.pool(), &self.inner.vault, user, session).await?;
        if is_live {
            liveness.learn(generation, user, session);
        }
        Ok(is_live)
    }

    /// Keeps in memory who is live from now on, until [`EventStore::close`]: for processes that answer requests. Others
    /// then wait for this one before they answer that a session has ended. Does nothing on a standby.
    pub fn remember_the_live(&self) {
        self.inner.liveness.follow();
    }

    /// The hash by which a request under a client's idempotency key is known again. Keyed, so that nothing in the
    /// request can be guessed from it, and covering the key.
    #[must_use]
    pub fn request_hash(&self, key: &str, request: &RequestParts<'_>) -> Hash {
        answers::request_hash(&self.inner.vault, key, request)
    }

    /// A request of `actor` under `key`, as [`Append::idempotency`] takes it. Of nobody known, each request is a
    /// principal of its own.
    #[must_use]
    pub fn idempotency(&self, actor: &Actor, key: &str, request_hash: Hash) -> Idempotency {
        answers::idempotency(&self.inner.vault, actor, key, request_hash)
    }

    /// What is known of a request under an idempotency key. Answers older than `retention` count as gone.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn first_answer(&self, request: &Idempotency, retention: Duration) -> Result<Known, StoreError> {
        answers::look_up(self.pool(), &self.inner.vault, request, retention).await
    }

    /// Keeps the answer to a request that was carried out; durable on return. Nothing is kept when there is an answer
    /// already, or about a subject that was erased.
    ///
    /// # Errors
    /// [`StoreError::Database`], [`StoreError::Vault`].
    pub async fn keep_answer(
        &self,
        request: &Idempotency,
        commit: &AnsweredCommit,
        answer: &Answer,
    ) -> Result<(), StoreError> {
        answers::keep(self.pool(), &self.inner.vault, request, commit, answer).await
    }

    /// The token of the mailed link that `nonce` was drawn for in the stream `link`: 256 bits that follow from both under
    /// a key of the vault, so that the token itself need be stored nowhere.
    #[must_use]
    pub fn link_token(&self, link: LinkId, nonce: &LinkNonce) -> [u8; 32] {
        self.inner.vault.link_token(link, nonce)
    }

    /// Deletes a small batch of the answers older than `retention`, oldest first: how many, and whether there may be
    /// more.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn sweep_answers(&self, retention: Duration) -> Result<(u64, bool), StoreError> {
        answers::sweep(self.pool(), retention).await
    }

    /// Checks the log from `from` to its end; see [`chain::verify`].
    ///
    /// # Errors
    /// The first [`VerifyFault`].
    pub async fn verify(
        &self,
        from: Position,
        progress: impl FnMut(VerifyProgress) + Send,
    ) -> Result<VerifyReport, VerifyFault> {
        chain::verify(&self.inner.database, &self.inner.vault, from, progress).await
    }

    /// The database the log is in.
    #[must_use]
    pub fn database(&self) -> &Database {
        &self.inner.database
    }

    /// The vault that seals and opens its personal data.
    #[must_use]
    pub fn vault(&self) -> &Vault {
        &self.inner.vault
    }

    /// Refuses new commits, carries out those accepted, and ends the writer and the watch on the head. The database
    /// stays open.
    pub async fn close(&self) {
        self.inner.writer.close().await;
        self.inner.liveness.stop().await;
        self.inner.following.cancel();
    }

    fn pool(&self) -> &sqlx::PgPool {
        self.inner.database.pool()
    }
}
