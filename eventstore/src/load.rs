//! The repository under cqrs-es: loads streams through postgres-es, opens what is sealed, and sends commits to the
//! writer instead of inserting rows.
//!
//! cqrs-es 0.5.0 applies events twice to the snapshots that it writes, so nothing here lets it: it is told to write
//! one after `usize::MAX` events, and what it hands to `persist` is left aside. Those that it reads are ours, see
//! [`crate::snapshot`].

use std::collections::{BTreeSet, HashMap};
use std::error::Error;
use std::future::Future;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use cqrs_es::persist::{
    PersistedEventRepository, PersistedEventStore, PersistenceError, ReplayFeed, ReplayStream, SerializedEvent,
    SerializedSnapshot,
};
use cqrs_es::{Aggregate, AggregateError, EventStore as _};
use postgres_es::PostgresEventRepository;
use serde_json::Value;
use sqlx::postgres::PgRow;
use sqlx::{PgPool, Row};
use uuid::Uuid;

use annals_domain::ids::parse_uuid;
use annals_domain::{Actor, AnyEvent, EventSourced, registry};

use crate::EventStore;
use crate::append::{
    Append, AppendError, Appended, Condition, Idempotency, StreamAppend, StreamId, Version, aggregate_type_of,
};
use crate::error::StoreError;
use crate::snapshot::{self, Judgement};
use crate::vault::{self, SealPlace, Vault};

const EVENTS_TABLE: &str = "log.events";
const SNAPSHOTS_TABLE: &str = "log.snapshots";

/// Events of one page of a replay, and of the channel behind it.
const REPLAY_PAGE: i64 = 500;
const REPLAY_QUEUE: usize = 500;

/// The snapshot of a stream and all events after it, in one round trip: nearly every stream has no snapshot, and is not
/// to pay for those that have. One of more events than the stream has, or of other rules, counts as none.
const SNAPSHOT_AND_AFTER: &str = "
    with snapshot as (
        select s.last_sequence, s.current_snapshot, s.payload
        from log.snapshots s
        join log.streams t on t.aggregate_type = s.aggregate_type and t.aggregate_id = $3
        where s.aggregate_type = $1 and s.aggregate_id = $2
            and t.version >= s.last_sequence and s.payload ->> 'schema' = $4
    )
    select true as is_snapshot, last_sequence as sequence, current_snapshot, $1 as aggregate_type,
        $2 as aggregate_id, '' as event_type, '' as event_version, payload, null::json as metadata
    from snapshot
    union all
    select false, e.sequence, null, e.aggregate_type, e.aggregate_id, e.event_type, e.event_version, e.payload,
        e.metadata
    from log.events e
    where e.aggregate_type = $1 and e.aggregate_id = $2
        and e.sequence > coalesce((select last_sequence from snapshot), 0)
    order by is_snapshot desc, sequence
";

const VERSIONS: &str = "
    select coalesce(t.version, 0) as version
    from unnest($1::text[], $2::uuid[]) with ordinality as s(aggregate_type, aggregate_id, number)
    left join log.streams t on t.aggregate_type = s.aggregate_type and t.aggregate_id = s.aggregate_id
    order by s.number
";

const EVENTS_AFTER: &str = "
    select position, aggregate_type, aggregate_id, sequence, event_type, event_version, payload, metadata
    from log.events
    where aggregate_type = $1 and aggregate_id = $2 and sequence > $3
    order by sequence
    limit $4
";

const TYPE_AFTER: &str = "
    select position, aggregate_type, aggregate_id, sequence, event_type, event_version, payload, metadata
    from log.events
    where aggregate_type = $1 and position > $2
    order by position
    limit $3
";

/// The state of one aggregate and the version that it was read at.
#[derive(Debug, Clone)]
pub struct Loaded<A> {
    /// The default state when the stream does not exist.
    pub state: A,
    /// 0 when the stream does not exist.
    pub version: Version,
}

/// What a commit through cqrs-es carries besides its events, for which its traits have no place.
#[derive(Debug, Clone, Default)]
pub struct CommitScope {
    /// As in [`Append::idempotency`].
    pub idempotency: Option<Idempotency>,
    /// As in [`Append::conditions`].
    pub conditions: Vec<Condition>,
}

struct Scope {
    carried: CommitScope,
    receipt: Arc<OnceLock<Appended>>,
}

tokio::task_local! {
    static SCOPE: Scope;
}

/// Runs `commit`, which commits through a [`LogRepository`] in this very task, with `scope`, and returns where the
/// events went besides its answer. A task that `commit` spawns is outside the scope.
pub async fn with_receipt<T>(scope: CommitScope, commit: impl Future<Output = T>) -> (T, Option<Appended>) {
    let receipt = Arc::new(OnceLock::new());
    let answer = SCOPE
        .scope(
            Scope {
                carried: scope,
                receipt: Arc::clone(&receipt),
            },
            commit,
        )
        .await;
    (answer, receipt.get().copied())
}

/// Why the writer refused a commit that came through cqrs-es; absent for errors of another origin. A version conflict
/// is [`AggregateError::AggregateConflict`] instead.
pub fn append_error<E: Error>(error: &AggregateError<E>) -> Option<&AppendError> {
    match error {
        AggregateError::UnexpectedError(source) => source.downcast_ref(),
        _ => None,
    }
}

/// The events of the log for cqrs-es. Cheap to clone.
#[derive(Clone)]
pub struct LogRepository {
    store: EventStore,
    stock: Arc<PostgresEventRepository>,
    ahead: Option<Arc<Mutex<Option<Ahead>>>>,
}

/// Events that were read together with a snapshot, before cqrs-es asks for them.
struct Ahead {
    id: String,
    /// The version of the snapshot that they follow.
    after: i64,
    events: Vec<SerializedEvent>,
}

impl LogRepository {
    pub(crate) fn new(store: EventStore) -> Self {
        let pool = store.database().pool().clone();
        let stock = PostgresEventRepository::new(pool).with_tables(EVENTS_TABLE, SNAPSHOTS_TABLE);
        Self {
            store,
            stock: Arc::new(stock),
            ahead: None,
        }
    }

    /// A repository for the load of one stream: asked for the snapshot, it reads the events after it as well.
    fn reading_ahead(mut self) -> Self {
        self.ahead = Some(Arc::default());
        self
    }

    /// Reads the snapshot of a stream, if it has one, and what follows it; absent when it has one of no use.
    async fn snapshot_and_after(
        &self,
        stream: StreamId,
        id: &str,
    ) -> Result<Option<(Option<SerializedSnapshot>, Vec<SerializedEvent>)>, StoreError> {
        let rows = sqlx::query(SNAPSHOT_AND_AFTER)
            .bind(stream.aggregate_type)
            .bind(id)
            .bind(stream.id)
            .bind(registry::STATE_SCHEMA)
            .fetch_all(self.store.database().pool())
            .await?;
        let mut rows = rows.as_slice();
        let mut snapshot = None;
        if let Some((first, rest)) = rows.split_first()
            && first.try_get("is_snapshot")?
        {
            rows = rest;
            let version: i64 = first.try_get("sequence")?;
            match snapshot::judge(
                self.store.vault(),
                stream,
                version.cast_unsigned(),
                first.try_get("payload")?,
            )
            .await?
            {
                Judgement::Usable(usable) => {
                    let current: i64 = first.try_get("current_snapshot")?;
                    snapshot = Some(SerializedSnapshot {
                        aggregate_id: id.to_owned(),
                        aggregate: usable.state,
                        current_sequence: sequence(version)?,
                        current_snapshot: sequence(current)?,
                    });
                }
                unusable => {
                    tracing::debug!(%stream, version, ?unusable, "a snapshot is not used");
                    return Ok(None);
                }
            }
        }
        let after = snapshot.as_ref().map_or(0, |snapshot| snapshot.current_sequence);
        let events = self.readable(rows, after).await?;
        Ok(Some((snapshot, events)))
    }

    /// Events of one stream that follow version `after` without a hole, opened and lifted to the present version.
    async fn readable(&self, rows: &[PgRow], after: usize) -> Result<Vec<SerializedEvent>, StoreError> {
        let mut events = rows.iter().map(serialized).collect::<Result<Vec<_>, _>>()?;
        must_follow(&events, after)?;
        open(self.store.vault(), &mut events).await?;
        lift(&mut events)?;
        Ok(events)
    }

    async fn events_after(
        &self,
        aggregate_type: &str,
        id: &str,
        after: i64,
        limit: i64,
    ) -> Result<Vec<SerializedEvent>, StoreError> {
        let rows = sqlx::query(EVENTS_AFTER)
            .bind(aggregate_type)
            .bind(id)
            .bind(after)
            .bind(limit)
            .fetch_all(self.store.database().pool())
            .await?;
        self.readable(&rows, sequence(after)?).await
    }

    async fn type_after(&self, aggregate_type: &str, after: i64) -> Result<(Vec<SerializedEvent>, i64), StoreError> {
        let rows = sqlx::query(TYPE_AFTER)
            .bind(aggregate_type)
            .bind(after)
            .bind(REPLAY_PAGE)
            .fetch_all(self.store.database().pool())
            .await?;
        let last = rows
            .last()
            .map(|row| row.try_get("position"))
            .transpose()?
            .unwrap_or(after);
        let mut events = rows.iter().map(serialized).collect::<Result<Vec<_>, _>>()?;
        open(self.store.vault(), &mut events).await?;
        lift(&mut events)?;
        Ok((events, last))
    }

    /// What was read ahead, if it is what is asked for; once.
    fn take_ahead(&self, id: &str, after: i64) -> Option<Vec<SerializedEvent>> {
        let mut ahead = self.ahead.as_ref()?.lock().unwrap_or_else(PoisonError::into_inner);
        let found = ahead.take()?;
        (found.id == id && found.after == after).then_some(found.events)
    }

    async fn replay_stream(self, aggregate_type: &'static str, id: String, mut feed: ReplayFeed) {
        let mut after = 0;
        loop {
            let page = self.events_after(aggregate_type, &id, after, REPLAY_PAGE).await;
            let last = page
                .as_ref()
                .ok()
                .and_then(|events| events.last())
                .map(|event| event.sequence);
            if !push_all(&mut feed, page).await {
                return;
            }
            match last.and_then(|last| i64::try_from(last).ok()) {
                Some(last) => after = last,
                None => return,
            }
        }
    }

    async fn replay_type(self, aggregate_type: &'static str, mut feed: ReplayFeed) {
        let mut after = 0;
        loop {
            let page = self.type_after(aggregate_type, after).await;
            let last = page.as_ref().ok().map(|(_, last)| *last).filter(|last| *last > after);
            if !push_all(&mut feed, page.map(|(events, _)| events)).await {
                return;
            }
            match last {
                Some(last) => after = last,
                None => return,
            }
        }
    }
}

/// False when there is nobody left to push to, or nothing more to push after an error.
async fn push_all(feed: &mut ReplayFeed, page: Result<Vec<SerializedEvent>, StoreError>) -> bool {
    match page {
        Ok(events) => {
            for event in events {
                if feed.push(Ok(event)).await.is_err() {
                    return false;
                }
            }
            true
        }
        Err(error) => {
            // A receiver that has gone away does not care.
            let _ = feed.push(Err(persistence(error))).await;
            false
        }
    }
}

fn sequence(column: i64) -> Result<usize, StoreError> {
    usize::try_from(column).map_err(|error| StoreError::damaged("a sequence", error))
}

fn must_follow(events: &[SerializedEvent], after: usize) -> Result<(), StoreError> {
    match events
        .iter()
        .zip(after + 1..)
        .find(|(event, expected)| event.sequence != *expected)
    {
        None => Ok(()),
        Some((event, expected)) => Err(StoreError::damaged(
            format!("{}/{} version {expected}", event.aggregate_type, event.aggregate_id),
            "it is missing",
        )),
    }
}

/// Gives events of older versions the form of the present one. One of a newer version is refused: cqrs-es itself would
/// read it as far as it looks familiar.
fn lift(events: &mut [SerializedEvent]) -> Result<(), StoreError> {
    for event in events {
        let payload = std::mem::take(&mut event.payload);
        let (aggregate_type, event_type) = (&event.aggregate_type, &event.event_type);
        let (payload, version) =
            registry::lift(aggregate_type, event_type, &event.event_version, payload).map_err(|source| {
                StoreError::Decode {
                    place: format!("{aggregate_type}/{} version {}", event.aggregate_id, event.sequence),
                    source: Box::new(source),
                }
            })?;
        event.payload = payload;
        if event.event_version != version {
            version.clone_into(&mut event.event_version);
        }
    }
    Ok(())
}

fn serialized(row: &PgRow) -> Result<SerializedEvent, StoreError> {
    Ok(SerializedEvent::new(
        row.try_get("aggregate_id")?,
        sequence(row.try_get("sequence")?)?,
        row.try_get("aggregate_type")?,
        row.try_get("event_type")?,
        row.try_get("event_version")?,
        row.try_get("payload")?,
        row.try_get("metadata")?,
    ))
}

fn place_of(event: &SerializedEvent) -> Result<SealPlace, StoreError> {
    let name = || {
        format!(
            "{}/{} version {}",
            event.aggregate_type, event.aggregate_id, event.sequence
        )
    };
    let aggregate_type =
        aggregate_type_of(&event.aggregate_type).ok_or_else(|| StoreError::damaged(name(), "unknown aggregate"))?;
    let id = Uuid::try_parse(&event.aggregate_id).map_err(|error| StoreError::damaged(name(), error))?;
    Ok(SealPlace {
        stream: StreamId { aggregate_type, id },
        version: event.sequence as u64,
    })
}

async fn open(vault: &Vault, events: &mut [SerializedEvent]) -> Result<(), StoreError> {
    let mut subjects = BTreeSet::new();
    for event in events.iter() {
        subjects.extend(vault::sealed_subjects(&event.payload)?);
    }
    if subjects.is_empty() {
        return Ok(());
    }
    let keys = vault.keys_for_opening(&subjects).await?;
    for event in events {
        let place = place_of(event)?;
        vault::open(&mut event.payload, place, &keys)
            .map_err(|error| StoreError::damaged(format!("{} version {}", place.stream, place.version), error))?;
    }
    Ok(())
}

fn persistence(error: impl Error + Send + Sync + 'static) -> PersistenceError {
    PersistenceError::UnknownError(Box::new(error))
}

impl PersistedEventRepository for LogRepository {
    async fn get_events<A: Aggregate>(&self, aggregate_id: &str) -> Result<Vec<SerializedEvent>, PersistenceError> {
        let mut events = self.stock.get_events::<A>(aggregate_id).await?;
        must_follow(&events, 0).map_err(persistence)?;
        open(self.store.vault(), &mut events).await.map_err(persistence)?;
        lift(&mut events).map_err(persistence)?;
        Ok(events)
    }

    async fn get_last_events<A: Aggregate>(
        &self,
        aggregate_id: &str,
        last_sequence: usize,
    ) -> Result<Vec<SerializedEvent>, PersistenceError> {
        let after = i64::try_from(last_sequence).unwrap_or(i64::MAX);
        if let Some(events) = self.take_ahead(aggregate_id, after) {
            return Ok(events);
        }
        self.events_after(A::TYPE, aggregate_id, after, i64::MAX)
            .await
            .map_err(persistence)
    }

    async fn get_snapshot<A: Aggregate>(
        &self,
        aggregate_id: &str,
    ) -> Result<Option<SerializedSnapshot>, PersistenceError> {
        let stream = parse_uuid(aggregate_id)
            .ok()
            .zip(aggregate_type_of(A::TYPE))
            .map(|(id, aggregate_type)| StreamId { aggregate_type, id });
        let Some(stream) = stream else { return Ok(None) };
        let read = self.snapshot_and_after(stream, aggregate_id).await;
        let Some((snapshot, events)) = read.map_err(persistence)? else {
            return Ok(None);
        };
        if let Some(ahead) = &self.ahead {
            let after = snapshot.as_ref().map_or(0, |snapshot| snapshot.current_sequence);
            *ahead.lock().unwrap_or_else(PoisonError::into_inner) = Some(Ahead {
                id: aggregate_id.to_owned(),
                after: i64::try_from(after).unwrap_or(i64::MAX),
                events,
            });
        }
        Ok(snapshot)
    }

    async fn persist<A: Aggregate>(
        &self,
        events: &[SerializedEvent],
        _snapshot_update: Option<(String, Value, usize)>,
    ) -> Result<(), PersistenceError> {
        let Some(first) = events.first() else { return Ok(()) };
        let mut append = to_append(first, events).map_err(persistence)?;
        let carried = SCOPE.try_with(|scope| scope.carried.clone()).unwrap_or_default();
        append.idempotency = carried.idempotency;
        append.conditions = carried.conditions;
        match self.store.append(append).await {
            Ok(appended) => {
                // Outside a scope nobody asked for a receipt.
                let _ = SCOPE.try_with(|scope| scope.receipt.set(appended));
                Ok(())
            }
            Err(AppendError::Conflict { .. }) => Err(PersistenceError::OptimisticLockError),
            Err(error) => Err(persistence(error)),
        }
    }

    async fn stream_events<A: Aggregate>(&self, aggregate_id: &str) -> Result<ReplayStream, PersistenceError> {
        let (feed, stream) = ReplayStream::new(REPLAY_QUEUE);
        tokio::spawn(self.clone().replay_stream(A::TYPE, aggregate_id.to_owned(), feed));
        Ok(stream)
    }

    async fn stream_all_events<A: Aggregate>(&self) -> Result<ReplayStream, PersistenceError> {
        let (feed, stream) = ReplayStream::new(REPLAY_QUEUE);
        tokio::spawn(self.clone().replay_type(A::TYPE, feed));
        Ok(stream)
    }
}

/// Actor, command and request come from the metadata, which cqrs-es gives to all events of a commit alike. Event ids
/// are made anew for that very reason.
fn to_append(first: &SerializedEvent, events: &[SerializedEvent]) -> Result<Append, AppendError> {
    let refused = |text: String| AppendError::Refused(text);
    let metadata: HashMap<String, String> =
        serde_json::from_value(first.metadata.clone()).map_err(|error| refused(error.to_string()))?;
    let text = |name: &str| {
        metadata
            .get(name)
            .ok_or_else(|| refused(format!("metadata lacks {name}")))
    };
    let id = |name: &str| {
        text(name)?
            .parse::<Uuid>()
            .map_err(|_| refused(format!("metadata entry {name} is malformed")))
    };
    let actor: Actor = text("actor")?
        .parse()
        .map_err(|_| refused("metadata entry actor is malformed".to_owned()))?;
    let aggregate_type = aggregate_type_of(&first.aggregate_type)
        .ok_or_else(|| refused(format!("unknown aggregate {:?}", first.aggregate_type)))?;
    let stream = parse_uuid(&first.aggregate_id).map_err(|error| refused(error.to_string()))?;
    let events = events
        .iter()
        .map(|event| {
            registry::decode(
                &event.aggregate_type,
                &event.event_type,
                &event.event_version,
                event.payload.clone(),
            )
            .map_err(|error| refused(error.to_string()))
        })
        .collect::<Result<Vec<AnyEvent>, _>>()?;
    Ok(Append {
        command_id: id("command_id")?,
        actor,
        correlation_id: id("correlation_id")?,
        causation_id: id("causation_id")?,
        idempotency: None,
        streams: vec![StreamAppend {
            stream: StreamId {
                aggregate_type,
                id: stream,
            },
            expected: first.sequence.saturating_sub(1) as u64,
            events,
        }],
        conditions: Vec::new(),
    })
}

/// How many events each of `streams` has.
pub(crate) async fn versions_of(pool: &PgPool, streams: &[StreamId]) -> Result<Vec<Version>, StoreError> {
    let (types, ids): (Vec<&str>, Vec<Uuid>) = streams.iter().map(|stream| (stream.aggregate_type, stream.id)).unzip();
    let versions: Vec<i64> = sqlx::query_scalar(VERSIONS)
        .bind(types)
        .bind(ids)
        .fetch_all(pool)
        .await?;
    Ok(versions.into_iter().map(i64::cast_unsigned).collect())
}

/// Loads an aggregate as cqrs-es does. When a snapshot turns out to be no state, cqrs-es asks for all events instead.
pub(crate) async fn load<A: EventSourced>(repository: LogRepository, id: Uuid) -> Result<Loaded<A>, StoreError> {
    let store = PersistedEventStore::<LogRepository, A>::new_snapshot_store(repository.reading_ahead(), usize::MAX);
    let id = id.as_hyphenated().to_string();
    match store.load_aggregate(&id).await {
        Ok(context) => Ok(Loaded {
            state: context.aggregate,
            version: context.current_sequence as u64,
        }),
        Err(error) => Err(store_error(format!("{}/{id}", A::TYPE), error)),
    }
}

fn store_error<E: Error>(place: String, error: AggregateError<E>) -> StoreError {
    match error {
        AggregateError::DatabaseConnectionError(source) | AggregateError::UnexpectedError(source) => {
            let source = match source.downcast::<StoreError>() {
                Ok(error) => return *error,
                Err(source) => source,
            };
            match source.downcast::<sqlx::Error>() {
                Ok(error) => StoreError::Database(*error),
                Err(source) => StoreError::Decode { place, source },
            }
        }
        AggregateError::DeserializationError(source) => StoreError::Decode { place, source },
        AggregateError::AggregateConflict => StoreError::damaged(place, "a load cannot conflict"),
        AggregateError::UserError(error) => StoreError::damaged(place, error),
    }
}
