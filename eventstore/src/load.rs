//! The repository under cqrs-es: loads streams through postgres-es, opens what is sealed, and sends commits to the
//! writer instead of inserting rows.
//!
//! The snapshot modes of cqrs-es 0.5.0 apply events twice and are never used; nothing here writes snapshots.

use std::collections::{BTreeSet, HashMap};
use std::error::Error;
use std::future::Future;
use std::sync::{Arc, OnceLock};

use cqrs_es::persist::{
    PersistedEventRepository, PersistedEventStore, PersistenceError, ReplayFeed, ReplayStream, SerializedEvent,
    SerializedSnapshot,
};
use cqrs_es::{Aggregate, AggregateError, EventStore as _};
use postgres_es::PostgresEventRepository;
use serde_json::Value;
use sqlx::Row;
use sqlx::postgres::PgRow;
use uuid::Uuid;

use annals_domain::ids::parse_uuid;
use annals_domain::{Actor, AnyEvent, EventSourced, registry};

use crate::EventStore;
use crate::append::{
    Append, AppendError, Appended, Condition, Idempotency, StreamAppend, StreamId, Version, aggregate_type_of,
};
use crate::error::StoreError;
use crate::vault::{self, SealPlace, Vault};

const EVENTS_TABLE: &str = "log.events";
const SNAPSHOTS_TABLE: &str = "log.snapshots";

/// Events of one page of a replay, and of the channel behind it.
const REPLAY_PAGE: i64 = 500;
const REPLAY_QUEUE: usize = 500;

/// A stream of more events than this is loaded, but complained of.
const LONG_STREAM: usize = 10_000;

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
}

impl LogRepository {
    pub(crate) fn new(store: EventStore) -> Self {
        let pool = store.database().pool().clone();
        let stock = PostgresEventRepository::new(pool).with_tables(EVENTS_TABLE, SNAPSHOTS_TABLE);
        Self {
            store,
            stock: Arc::new(stock),
        }
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
        let mut events = rows.iter().map(serialized).collect::<Result<Vec<_>, _>>()?;
        open(self.store.vault(), &mut events).await?;
        Ok(events)
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
        Ok((events, last))
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

fn serialized(row: &PgRow) -> Result<SerializedEvent, StoreError> {
    let sequence: i64 = row.try_get("sequence")?;
    Ok(SerializedEvent::new(
        row.try_get("aggregate_id")?,
        usize::try_from(sequence).map_err(|error| StoreError::damaged("a sequence", error))?,
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
        for (event, expected) in events.iter().zip(1..) {
            if event.sequence != expected {
                let place = format!("{}/{aggregate_id} version {expected}", A::TYPE);
                return Err(persistence(StoreError::damaged(place, "it is missing")));
            }
        }
        if events.len() > LONG_STREAM {
            tracing::warn!(
                aggregate_type = A::TYPE,
                aggregate_id,
                events = events.len(),
                "a stream has grown long"
            );
        }
        open(self.store.vault(), &mut events).await.map_err(persistence)?;
        Ok(events)
    }

    async fn get_last_events<A: Aggregate>(
        &self,
        aggregate_id: &str,
        last_sequence: usize,
    ) -> Result<Vec<SerializedEvent>, PersistenceError> {
        let after = i64::try_from(last_sequence).unwrap_or(i64::MAX);
        self.events_after(A::TYPE, aggregate_id, after, i64::MAX)
            .await
            .map_err(persistence)
    }

    async fn get_snapshot<A: Aggregate>(
        &self,
        aggregate_id: &str,
    ) -> Result<Option<SerializedSnapshot>, PersistenceError> {
        self.stock.get_snapshot::<A>(aggregate_id).await
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

/// Loads an aggregate as cqrs-es does.
pub(crate) async fn load<A: EventSourced>(repository: LogRepository, id: Uuid) -> Result<Loaded<A>, StoreError> {
    let store = PersistedEventStore::<LogRepository, A>::new_event_store(repository)
        .with_upcasters(registry::upcasters(A::TYPE));
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
