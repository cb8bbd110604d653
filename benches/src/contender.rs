//! Four ways of making one fact durable, on one server with pools of one size.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use annals_domain::Datatype;
use annals_eventstore::{AppendError, EventStore};
use anyhow::{Context, Result, ensure};
use cqrs_es::persist::{PersistedEventRepository, PersistenceError};
use postgres_es::PostgresEventRepository;
use serde::Serialize;
use uuid::Uuid;

use crate::filled::fill;
use crate::load::{Answer, Round, closed_loop};
use crate::sample::{Sample, register_author};
use crate::server::{Log, Server};

/// The tables of the others: what the init script of postgres-es 0.5.0 creates, twice, and the least that can be
/// committed.
const TABLES: &str = "
    create schema baseline;
    create table baseline.events (
        aggregate_type text not null,
        aggregate_id   text not null,
        sequence       bigint check (sequence >= 0) not null,
        event_type     text not null,
        event_version  text not null,
        payload        json not null,
        metadata       json not null,
        primary key (aggregate_type, aggregate_id, sequence)
    );
    create table baseline.snapshots (
        aggregate_type   text not null,
        aggregate_id     text not null,
        last_sequence    bigint not null,
        current_snapshot bigint not null,
        payload          json not null,
        primary key (aggregate_type, aggregate_id, last_sequence)
    );
    create table baseline.inserted (like baseline.events including all);
    create table baseline.committed (value bigint);
";

const INSERT: &str = "
    insert into baseline.inserted (
        aggregate_type, aggregate_id, sequence, event_type, event_version, payload, metadata
    )
    values ($1, $2, $3, $4, $5, $6::json, $7::json)
";

const COMMIT: &str = "insert into baseline.committed (value) values ($1)";

/// Rows whose payload is not of the size in question. The driver sends the payloads of stock postgres-es as jsonb, which
/// the server writes with blanks between members, so those are compared in that form with one of ours.
const OTHER_SIZES: &str = "
    select count(*)
    from (
        select octet_length(payload::text) as bytes, $1 as wanted
        from log.events
        where event_type = 'datatype.created' and position > $2
        union all
        select octet_length(payload::text), $1
        from baseline.inserted
        union all
        select octet_length(payload::jsonb::text), (
            select octet_length(payload::jsonb::text)
            from baseline.inserted
            limit 1
        )
        from baseline.events
    ) as stored
    where bytes is distinct from wanted
";

/// Bytes of the payloads that a log begins with.
const FIRST_PAYLOAD_BYTES: usize = 200;

/// A way of making a fact durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Contender {
    /// `EventStore::append`: one order, versions, chain, claims, command id and idempotency key.
    Annals,
    /// `PostgresEventRepository::persist` of postgres-es, as it comes.
    Stock,
    /// One autocommitted INSERT of the same row.
    Inserts,
    /// One autocommitted INSERT into a table of one number without an index: the commit and nothing else.
    Commit,
}

impl Contender {
    /// All of them; ours first.
    pub(crate) const ALL: [Self; 4] = [Self::Annals, Self::Stock, Self::Inserts, Self::Commit];
}

impl fmt::Display for Contender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Annals => "annals",
            Self::Stock => "stock persist",
            Self::Inserts => "insert",
            Self::Commit => "bare commit",
        })
    }
}

/// A log and the tables of the others in one database. Clones share them.
#[derive(Clone)]
pub(crate) struct Arena {
    log: Arc<Log>,
    stock: Arc<PostgresEventRepository>,
    author: Uuid,
    /// The last position of what the log began with.
    begin: i64,
}

impl Arena {
    /// A fresh database for all of them. Its log begins with `events` of [`FIRST_PAYLOAD_BYTES`], and then the tables
    /// are analysed: see `--begin-with`.
    ///
    /// # Errors
    /// What the server says.
    pub(crate) async fn open(server: &Server, name: &str, events: u64) -> Result<Self> {
        let log = server.log(name).await?;
        sqlx::raw_sql(TABLES)
            .execute(log.owner.pool())
            .await
            .context("tables of the others")?;
        let stock =
            PostgresEventRepository::new(log.owner.pool().clone()).with_tables("baseline.events", "baseline.snapshots");
        let author = register_author(&log.store).await?;
        if events > 0 {
            fill(&log.store, &Sample::new(FIRST_PAYLOAD_BYTES, author)?, events).await?;
            log.settle().await?;
        }
        let begin = i64::try_from(log.store.head().await?.position.get()).context("a position")?;
        Ok(Self {
            log: Arc::new(log),
            stock: Arc::new(stock),
            author,
            begin,
        })
    }

    /// The log.
    pub(crate) fn log(&self) -> &Log {
        &self.log
    }

    /// Events of one size for this log.
    ///
    /// # Errors
    /// No payload is that small.
    pub(crate) fn sample(&self, payload_bytes: usize) -> Result<Sample> {
        Sample::new(payload_bytes, self.author)
    }

    /// Makes one fact durable. Done means that it is.
    ///
    /// # Errors
    /// Anything but too much to do.
    pub(crate) async fn ask(&self, contender: Contender, sample: &Sample) -> Result<Answer> {
        let pool = self.log.owner.pool();
        match contender {
            Contender::Annals => append(&self.log.store, sample).await,
            Contender::Stock => match self.stock.persist::<Datatype>(&[sample.serialized()?], None).await {
                Err(PersistenceError::UnknownError(error)) if is_pool_timeout(&*error) => Ok(Answer::Refused),
                answer => Ok(answer.map(|()| Answer::Done)?),
            },
            Contender::Inserts => {
                let event = sample.serialized()?;
                let insert = sqlx::query(INSERT)
                    .bind(event.aggregate_type)
                    .bind(event.aggregate_id)
                    .bind(1_i64)
                    .bind(event.event_type)
                    .bind(event.event_version)
                    .bind(event.payload.to_string())
                    .bind(event.metadata.to_string());
                answer_of(insert.execute(pool).await)
            }
            Contender::Commit => answer_of(sqlx::query(COMMIT).bind(1_i64).execute(pool).await),
        }
    }

    /// One closed-loop round of one of them.
    ///
    /// # Errors
    /// Anything that keeps the measurement from being one.
    pub(crate) async fn round(
        &self,
        contender: Contender,
        sample: &Sample,
        callers: usize,
        duration: Duration,
    ) -> Result<Round> {
        let (arena, sample) = (self.clone(), sample.clone());
        closed_loop(callers, duration, move |_| {
            let (arena, sample) = (arena.clone(), sample.clone());
            async move { arena.ask(contender, &sample).await }
        })
        .await
        .with_context(|| format!("{contender}, {callers} callers"))
    }

    /// Makes sure that all have stored payloads of the same size.
    ///
    /// # Errors
    /// They have not.
    pub(crate) async fn must_have_stored(&self, sample: &Sample) -> Result<()> {
        let bytes = i32::try_from(sample.payload_bytes).context("a payload of a size that fits")?;
        let others: i64 = sqlx::query_scalar(OTHER_SIZES)
            .bind(bytes)
            .bind(self.begin)
            .fetch_one(self.log.owner.pool())
            .await?;
        ensure!(
            others == 0,
            "{others} stored payloads do not have {bytes} bytes: unequal work was compared"
        );
        Ok(())
    }
}

/// Appends one event to a stream of its own.
///
/// # Errors
/// Anything but too much to do.
pub(crate) async fn append(store: &EventStore, sample: &Sample) -> Result<Answer> {
    match store.append(sample.command()).await {
        Err(AppendError::Overloaded { .. }) => Ok(Answer::Refused),
        answer => {
            ensure!(!answer?.duplicate, "a new command is no repetition");
            Ok(Answer::Done)
        }
    }
}

fn is_pool_timeout(error: &(dyn std::error::Error + 'static)) -> bool {
    matches!(error.downcast_ref::<sqlx::Error>(), Some(sqlx::Error::PoolTimedOut))
        || error.source().is_some_and(is_pool_timeout)
}

fn answer_of<T>(answer: Result<T, sqlx::Error>) -> Result<Answer> {
    match answer {
        Err(sqlx::Error::PoolTimedOut) => Ok(Answer::Refused),
        answer => Ok(answer.map(|_| Answer::Done)?),
    }
}
