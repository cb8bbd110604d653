//! Where the time of an append goes, for whoever makes it faster.
//!
//! Nothing here knows the parameters of `log.append`: the server itself counts the time inside the function
//! (`track_functions`) and in writing and flushing its write-ahead log (`track_wal_io_timing`). Preparing in the client
//! is timed with a store that is closed: it prepares a command in full and then refuses it.

use std::path::Path;
use std::time::{Duration, Instant};

use annals_eventstore::{AppendError, EventStore};
use anyhow::{Result, ensure};
use serde::Serialize;
use sqlx::PgPool;

use crate::contender::{Arena, Contender, append};
use crate::load::{Pace, Round, closed_loop};
use crate::report::say;
use crate::sample::Sample;
use crate::server::Server;

/// Calls that are timed one by one, where nothing is written.
const CALLS: usize = 2000;
/// A session's counters are sent to the server's when it ends, at the latest.
const COUNTED_WITHIN: Duration = Duration::from_secs(15);
const COUNTED_PAUSE: Duration = Duration::from_millis(100);
/// The last server version whose `pg_stat_wal` tells the time of flushes.
const WAL_TIMES_UNTIL: i32 = 179_999;

const TRACK_FUNCTIONS: &str = "alter database stages set track_functions = 'pl'";
const TRACK_WAL: &str = "alter system set track_wal_io_timing = on";
const UNTRACK_WAL: &str = "alter system reset track_wal_io_timing";
const RELOAD: &str = "select pg_reload_conf()";

const FUNCTION: &str = "
    select coalesce(sum(calls), 0)::bigint, coalesce(sum(total_time), 0)::float8
    from pg_stat_user_functions
    where schemaname = 'log' and funcname in ('append', 'append_single')
";

const VERSION: &str = "select current_setting('server_version_num')::integer";

const WAL: &str = "select (wal_write_time + wal_sync_time)::float8, wal_bytes::float8 from pg_stat_wal";

const WAL_BYTES: &str = "select wal_bytes::float8 from pg_stat_wal";

/// Whether the writer's session is still there.
const WRITING: &str = "
    select exists (
        select
        from pg_stat_activity
        where datname = current_database() and application_name = $1 and query like '%log.append%'
    )
";

/// Where the time goes.
#[derive(Debug, Serialize)]
pub(crate) struct Figures {
    /// Bytes of each payload.
    pub(crate) payload_bytes: usize,
    /// A lone command, in microseconds of mean time.
    pub(crate) lone: Lone,
    /// The function with as many commands a batch as come together.
    pub(crate) batches: Vec<Batch>,
}

/// A lone command. Times are means in microseconds.
#[derive(Debug, Serialize)]
pub(crate) struct Lone {
    /// Claims, sealing, leaf hashes: in the caller's task.
    pub(crate) prepare_us: f64,
    /// `select 1` on an open connection.
    pub(crate) round_trip_us: f64,
    /// Inside `log.append`, triggers included.
    pub(crate) function_us: f64,
    /// Writing and flushing the write-ahead log at the commit; absent when the server does not tell.
    pub(crate) flush_us: Option<f64>,
    /// What is left: encoding and decoding, binding the arrays, waking tasks, the commit but for its flush.
    pub(crate) rest_us: f64,
    /// All of it.
    pub(crate) whole_us: f64,
    /// The median of all of it.
    pub(crate) whole_p50_us: u64,
    /// The same with a server that flushes nothing.
    pub(crate) without_fsync_us: f64,
    /// One autocommitted INSERT of the same row.
    pub(crate) insert_us: f64,
    /// One durable commit alone.
    pub(crate) commit_us: f64,
    /// Bytes of write-ahead log for each command.
    pub(crate) wal_bytes: f64,
}

/// Batches as they come about with a number of callers. Times are means in microseconds.
#[derive(Debug, Serialize)]
pub(crate) struct Batch {
    /// Callers at once.
    pub(crate) callers: usize,
    /// Commands of a batch.
    pub(crate) commands: f64,
    /// Inside `log.append`, for a batch.
    pub(crate) function_us: f64,
    /// Inside `log.append`, for a command.
    pub(crate) function_per_command_us: f64,
    /// Writing and flushing the write-ahead log, for a batch.
    pub(crate) flush_us: Option<f64>,
    /// From the end of a batch to the end of the next, answering included.
    pub(crate) between_us: f64,
    /// Bytes of write-ahead log for each command.
    pub(crate) wal_bytes: f64,
}

/// Counters of the server.
#[derive(Debug, Clone, Copy, Default)]
struct Counted {
    /// Events of the log, one a command.
    commands: u64,
    calls: i64,
    function_ms: f64,
    wal_ms: Option<f64>,
    wal_bytes: f64,
}

/// Measures a lone command and batches.
///
/// # Errors
/// Anything that keeps the measurement from being one.
pub(crate) async fn run(
    server: &Server,
    folder: &Path,
    begin_with: u64,
    callers: &[usize],
    payload_bytes: usize,
    pace: Pace,
) -> Result<Figures> {
    let arena = Arena::open(server, "stages", begin_with).await?;
    let owner = arena.log().owner.pool();
    for statement in [TRACK_FUNCTIONS, TRACK_WAL, RELOAD] {
        sqlx::raw_sql(statement).execute(owner).await?;
    }
    let sample = arena.sample(payload_bytes)?;
    let whole_time = pace.round * u32::try_from(pace.rounds).unwrap_or(1);

    say("stages: a lone command");
    let prepare_us = prepare(server, &arena, &sample).await?.mean_us();
    let round_trip_us = round_trips(owner).await?.mean_us();
    let insert_us = arena.round(Contender::Inserts, &sample, 1, whole_time).await?.mean_us();
    let commit_us = arena.round(Contender::Commit, &sample, 1, whole_time).await?.mean_us();
    let without_fsync_us = without_fsync(folder, server, begin_with, payload_bytes, whole_time).await?;
    let (alone, counted) = counted_round(server, &arena, &sample, 1, whole_time).await?;
    let flush_us = counted.wal_ms.map(|milliseconds| counted.per_call_us(milliseconds));
    let function_us = counted.per_call_us(counted.function_ms);
    let whole_us = alone.mean_us();
    let lone = Lone {
        prepare_us,
        round_trip_us,
        function_us,
        flush_us,
        rest_us: whole_us - prepare_us - round_trip_us - function_us - flush_us.unwrap_or_default(),
        whole_us,
        whole_p50_us: alone.p50_us(),
        without_fsync_us,
        insert_us,
        commit_us,
        wal_bytes: counted.wal_bytes / whole(counted.commands),
    };

    let mut batches = Vec::with_capacity(callers.len());
    for &callers in callers.iter().filter(|callers| **callers > 1) {
        say(&format!("stages: batches of {callers} callers"));
        let (round, counted) = counted_round(server, &arena, &sample, callers, whole_time).await?;
        let commands = whole(counted.commands) / whole(counted.calls.unsigned_abs());
        let function_us = counted.per_call_us(counted.function_ms);
        batches.push(Batch {
            callers,
            commands,
            function_us,
            function_per_command_us: function_us / commands,
            flush_us: counted.wal_ms.map(|milliseconds| counted.per_call_us(milliseconds)),
            between_us: commands / round.per_second() * 1_000_000.0,
            wal_bytes: counted.wal_bytes / whole(counted.commands),
        });
    }

    for statement in [UNTRACK_WAL, RELOAD] {
        sqlx::raw_sql(statement).execute(owner).await?;
    }
    arena.log().close().await?;
    Ok(Figures {
        payload_bytes,
        lone,
        batches,
    })
}

async fn prepare(server: &Server, arena: &Arena, sample: &Sample) -> Result<Round> {
    let closed = arena.log().another_store(server, "annals benches, closed").await?;
    closed.close().await;
    let mut times = Vec::with_capacity(CALLS);
    for _ in 0..CALLS {
        let command = sample.command();
        let begin = Instant::now();
        let answer = closed.append(command).await;
        times.push(begin.elapsed());
        ensure!(
            matches!(answer, Err(AppendError::Unavailable(_))),
            "a closed store answered {answer:?}"
        );
    }
    closed.database().close().await?;
    Round::of_latencies(times)
}

async fn round_trips(pool: &PgPool) -> Result<Round> {
    let mut connection = pool.acquire().await?;
    let mut times = Vec::with_capacity(CALLS);
    for _ in 0..CALLS {
        let begin = Instant::now();
        let _: i32 = sqlx::query_scalar("select 1").fetch_one(&mut *connection).await?;
        times.push(begin.elapsed());
    }
    Round::of_latencies(times)
}

/// Mean latency of a lone append where a flush costs nothing.
async fn without_fsync(
    folder: &Path,
    server: &Server,
    begin_with: u64,
    payload_bytes: usize,
    duration: Duration,
) -> Result<f64> {
    let volatile = Server::start(folder, server.connections(), false).await?;
    let arena = Arena::open(&volatile, "volatile", begin_with).await?;
    let sample = arena.sample(payload_bytes)?;
    let round = arena.round(Contender::Annals, &sample, 1, duration).await?;
    arena.log().close().await?;
    volatile.stop().await?;
    Ok(round.mean_us())
}

/// A round of appends through a writer of its own, and what the server counted meanwhile, warming up included.
async fn counted_round(
    server: &Server,
    arena: &Arena,
    sample: &Sample,
    callers: usize,
    duration: Duration,
) -> Result<(Round, Counted)> {
    const NAME: &str = "annals benches, counted";
    let owner = arena.log().owner.pool();
    let store = arena.log().another_store(server, NAME).await?;
    let before = Counted::read(&store, owner).await?;
    let (asked, sample) = (store.clone(), sample.clone());
    let round = closed_loop(callers, duration, move |_| {
        let (store, sample) = (asked.clone(), sample.clone());
        async move { append(&store, &sample).await }
    })
    .await?;
    let commands = store.head().await?.position.get();
    store.close().await;
    store.database().close().await?;
    let begin = Instant::now();
    while sqlx::query_scalar(WRITING).bind(NAME).fetch_one(owner).await? {
        ensure!(begin.elapsed() < COUNTED_WITHIN, "the writer's session has not ended");
        tokio::time::sleep(COUNTED_PAUSE).await;
    }
    let mut counted = Counted::read(&arena.log().store, owner).await?.since(before);
    counted.commands = commands - before.commands;
    ensure!(counted.calls > 0, "the server has counted no calls of log.append");
    Ok((round, counted))
}

impl Counted {
    async fn read(store: &EventStore, owner: &PgPool) -> Result<Self> {
        let (calls, function_ms): (i64, f64) = sqlx::query_as(FUNCTION).fetch_one(owner).await?;
        let version: i32 = sqlx::query_scalar(VERSION).fetch_one(owner).await?;
        let (wal_ms, wal_bytes) = if version <= WAL_TIMES_UNTIL {
            let (milliseconds, bytes): (f64, f64) = sqlx::query_as(WAL).fetch_one(owner).await?;
            (Some(milliseconds), bytes)
        } else {
            (None, sqlx::query_scalar(WAL_BYTES).fetch_one(owner).await?)
        };
        Ok(Self {
            commands: store.head().await?.position.get(),
            calls,
            function_ms,
            wal_ms,
            wal_bytes,
        })
    }

    fn since(self, before: Self) -> Self {
        Self {
            commands: self.commands - before.commands,
            calls: self.calls - before.calls,
            function_ms: self.function_ms - before.function_ms,
            wal_ms: self.wal_ms.zip(before.wal_ms).map(|(after, before)| after - before),
            wal_bytes: self.wal_bytes - before.wal_bytes,
        }
    }

    fn per_call_us(&self, milliseconds: f64) -> f64 {
        milliseconds * 1000.0 / whole(self.calls.unsigned_abs())
    }
}

#[expect(clippy::cast_precision_loss, reason = "counts of a few seconds")]
fn whole(count: u64) -> f64 {
    count as f64
}
