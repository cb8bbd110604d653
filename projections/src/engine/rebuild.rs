//! Building a read model anew from the log, beside the one that serves, and putting it in its place.
//!
//! The new tables grow in a schema of their own while the daemon goes on with the old ones. They are compared in one
//! snapshot of the database, so nothing stands still for it. The switch is one short transaction that holds the
//! row of the checkpoint: the daemon takes the same row before it touches a table, so it never sees half a switch.

use std::time::{Duration, Instant};

use annals_domain::{Caller, Denied, Permission};
use annals_eventstore::checkpoint::{self, Checkpoint};
use annals_eventstore::database::Timeouts;
use annals_eventstore::{EventStore, Hash, Position, Record, StoreError};
use serde::Serialize;
use sqlx::{Connection, Executor, PgConnection};

use super::compare::{TEXT_SETTINGS, TableReport, compare as compare_tables};
use super::projection::{Projection, ProjectionError};

/// Events folded in one transaction. More would make statements large without making them fewer for each event.
const BATCH: usize = 1_000;
/// How often the switch is tried when somebody holds the tables; each waits as [`SWITCH_SETTINGS`] says.
const SWITCH_TRIES: u32 = 10;
/// Readers queue behind a switch that itself waits for a long reader, so it does not wait long. And it is durable
/// before it is reported, unlike the folding, which can be done again.
const SWITCH_SETTINGS: &str = "set local lock_timeout = '2s'; set local synchronous_commit = on";

/// The version of tables that no program has filled.
const NO_VERSION: i32 = 0;

const TABLES_EXIST: &str = "
select coalesce(bool_and(to_regclass('view.' || name) is not null), true)
  from unnest($1::text[]) name";

/// How to rebuild.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RebuildOptions {
    /// Compare with the served tables row for row, and leave those in place when they differ.
    pub verify: bool,
    /// Build and report, but leave the served tables in place whatever comes out.
    pub dry: bool,
}

/// How far a rebuild has come.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Progress {
    /// The read model.
    pub projection: &'static str,
    /// What is being done.
    pub phase: Phase,
    /// Events read so far; those that do not concern the model count too.
    pub events_done: u64,
    /// Events to read; may grow while the log does.
    pub events_total: u64,
    /// Events read a second since the start.
    pub events_per_second: f64,
}

/// The stages of a rebuild.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Events are read and folded.
    Folding,
    /// The new tables are summarised, and compared if that was asked for.
    Comparing,
    /// The new tables take the place of the old ones.
    Switching,
}

/// What a rebuild did.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RebuildReport {
    /// The read model.
    pub projection: &'static str,
    /// The version it was built by.
    pub version: i32,
    /// Events read.
    pub events: u64,
    /// The position that the report is about.
    pub position: Position,
    /// How long it took.
    #[serde(rename = "elapsed_ms", serialize_with = "milliseconds")]
    pub elapsed: Duration,
    /// Its tables, each with counts and digests.
    pub tables: Vec<TableReport>,
    /// Whether the tables were compared with the served ones: asked for, and those were built by the same version
    /// from the same log.
    pub compared: bool,
    /// Whether the new tables serve now.
    pub switched: bool,
}

impl RebuildReport {
    /// Whether no table differs from the one that served.
    #[must_use]
    pub fn is_equal(&self) -> bool {
        self.tables.iter().all(TableReport::is_equal)
    }
}

fn milliseconds<S: serde::Serializer>(elapsed: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u128(elapsed.as_millis())
}

/// Why a read model was not rebuilt. The served one is untouched.
#[derive(Debug, thiserror::Error)]
pub enum RebuildError {
    /// The caller may not.
    #[error(transparent)]
    Denied(#[from] Denied),
    /// Somebody is rebuilding the same model.
    #[error("read model {0} is being rebuilt already")]
    Busy(&'static str),
    /// The log could not be read.
    #[error("the log could not be read")]
    Log(#[from] StoreError),
    /// Events could not be folded.
    #[error("the events from position {from} to {to} could not be folded")]
    Fold {
        /// The first of them.
        from: Position,
        /// The last of them.
        to: Position,
        /// Why.
        #[source]
        source: ProjectionError,
    },
    /// The log has no event where it must have one.
    #[error("the log has no event at position {0}")]
    Gap(Position),
    /// The served model went back while it was to be compared with.
    #[error("read model {0} was set back during the rebuild; start again")]
    SetBack(&'static str),
    /// The database refused a statement.
    #[error("the database refused to {0}")]
    Database(&'static str, #[source] sqlx::Error),
}

fn cannot(what: &'static str) -> impl FnOnce(sqlx::Error) -> RebuildError {
    move |source| RebuildError::Database(what, source)
}

/// Rebuilds a read model from the first event, beside a running daemon or without one, and puts it in the place of
/// the old one. With `verify`, a model that differs is reported and stays as it is.
///
/// A model that was built by this version and is as good as the log knows is rebuilt to where it stands; any other
/// to the head. Of two rebuilds of one model at once, the second is refused.
///
/// # Errors
/// [`RebuildError::Denied`] without `projection.rebuild`; otherwise what went wrong.
pub async fn rebuild(
    caller: &Caller,
    store: &EventStore,
    projection: &dyn Projection,
    options: RebuildOptions,
    progress: impl Fn(Progress) + Send + Sync,
) -> Result<RebuildReport, RebuildError> {
    caller.require(Permission::ProjectionRebuild)?;
    let connection = store
        .database()
        .connect_dedicated(Timeouts::MAINTENANCE)
        .await
        .map_err(cannot("open a connection for the rebuild"))?;
    let mut rebuild = Rebuild {
        store,
        projection,
        schema: format!("rebuild_{}", projection.name()),
        connection,
        position: Position::START,
        entry_hash: Hash::ZERO,
        started: Instant::now(),
        progress,
    };
    rebuild.prepare().await?;
    let outcome = rebuild.run(options).await;
    // The schema is gone after a switch. Otherwise it is dropped now, or by the next rebuild if this fails too.
    let dropped = rebuild.drop_schema().await;
    let report = outcome?;
    dropped?;
    Ok(report)
}

/// Rebuilds a read model and compares it with the served one, which stays as it is.
///
/// # Errors
/// Those of [`rebuild`].
pub async fn compare(
    caller: &Caller,
    store: &EventStore,
    projection: &dyn Projection,
) -> Result<RebuildReport, RebuildError> {
    rebuild(
        caller,
        store,
        projection,
        RebuildOptions {
            verify: true,
            dry: true,
        },
        |_| {},
    )
    .await
}

struct Rebuild<'a, P> {
    store: &'a EventStore,
    projection: &'a dyn Projection,
    schema: String,
    connection: PgConnection,
    /// The last event that the new tables show.
    position: Position,
    entry_hash: Hash,
    started: Instant,
    progress: P,
}

const LOCK: &str = "select pg_try_advisory_lock(hashtextextended('annals rebuild ' || $1, 0))";

const INDEXES: &str = "
select i.relname::text as name,
       pg_get_indexdef(x.indexrelid) as definition,
       pg_get_constraintdef(c.oid) as as_constraint
  from pg_catalog.pg_index x
  join pg_catalog.pg_class i on i.oid = x.indexrelid
  left join pg_catalog.pg_constraint c on c.conindid = x.indexrelid and c.contype in ('p', 'u', 'x')
 where x.indrelid = $1::regclass
 order by i.relname";

/// What others were allowed to do with the served table, so that reports go on working after the switch.
const GRANTS: &str = "
select format('grant %s on table %s to %s', a.privilege_type, $2,
              case a.grantee when 0 then 'public' else quote_ident(pg_get_userbyid(a.grantee)) end)
  from pg_catalog.pg_class t, aclexplode(t.relacl) a
 where t.oid = $1::regclass
   and a.grantee <> t.relowner";

impl<P: Fn(Progress) + Send + Sync> Rebuild<'_, P> {
    /// Takes the lock that ends with this connection, and makes empty tables like the served ones.
    async fn prepare(&mut self) -> Result<(), RebuildError> {
        let name = self.projection.name();
        let locked: bool = sqlx::query_scalar(LOCK)
            .bind(name)
            .fetch_one(&mut self.connection)
            .await
            .map_err(cannot("lock the rebuild"))?;
        if !locked {
            return Err(RebuildError::Busy(name));
        }
        self.drop_schema().await?;
        self.restore_dropped().await?;
        let what = "make the tables of the rebuild";
        self.run_statement(&format!("create schema {}", self.schema))
            .await
            .map_err(cannot(what))?;
        for table in self.projection.tables() {
            self.copy_shape(table).await.map_err(cannot(what))?;
        }
        self.run_statement(&format!(
            "set search_path = {}; set synchronous_commit = off",
            self.schema
        ))
        .await
        .map_err(cannot(what))
    }

    /// Makes served tables that somebody has dropped, empty. The checkpoint goes back to where no program can take them
    /// for more than that.
    async fn restore_dropped(&mut self) -> Result<(), RebuildError> {
        let what = "make tables that were dropped";
        if tables_exist(&mut self.connection, self.projection)
            .await
            .map_err(cannot(what))?
        {
            return Ok(());
        }
        let name = self.projection.name();
        tracing::warn!(projection = name, "tables of the read model are gone; making them anew");
        let mut transaction = self.connection.begin().await.map_err(cannot(what))?;
        checkpoint::replace(&mut transaction, name, NO_VERSION, Position::START, Hash::ZERO).await?;
        for table in self.projection.tables() {
            let statement = format!("drop table if exists view.{table}");
            transaction.execute(statement.as_str()).await.map_err(cannot(what))?;
        }
        transaction
            .execute(self.projection.definition())
            .await
            .map_err(cannot(what))?;
        transaction.commit().await.map_err(cannot(what))
    }

    /// An empty table like the served one. Indexes keep their names, which `like` would not see to, since later
    /// migrations know them by name.
    async fn copy_shape(&mut self, table: &str) -> Result<(), sqlx::Error> {
        let schema = self.schema.clone();
        self.run_statement(&format!(
            "create table {schema}.{table} (like view.{table} including all excluding indexes)"
        ))
        .await?;
        let indexes: Vec<(String, String, Option<String>)> = sqlx::query_as(INDEXES)
            .bind(format!("view.{table}"))
            .fetch_all(&mut self.connection)
            .await?;
        for (name, definition, constraint) in indexes {
            let statement = match constraint {
                Some(constraint) => format!("alter table {schema}.{table} add constraint {name} {constraint}"),
                None => definition.replacen(&format!(" ON view.{table} "), &format!(" ON {schema}.{table} "), 1),
            };
            self.run_statement(&statement).await?;
        }
        let grants: Vec<(String,)> = sqlx::query_as(GRANTS)
            .bind(format!("view.{table}"))
            .bind(format!("{schema}.{table}"))
            .fetch_all(&mut self.connection)
            .await?;
        for (grant,) in grants {
            self.run_statement(&grant).await?;
        }
        Ok(())
    }

    async fn run_statement(&mut self, statement: &str) -> Result<(), sqlx::Error> {
        self.connection.execute(statement).await.map(drop)
    }

    async fn drop_schema(&mut self) -> Result<(), RebuildError> {
        let statement = format!("drop schema if exists {} cascade", self.schema);
        self.run_statement(&statement)
            .await
            .map_err(cannot("drop the tables of a rebuild"))
    }

    async fn run(&mut self, options: RebuildOptions) -> Result<RebuildReport, RebuildError> {
        // The served model moves while this one grows. What it moves during the last short round is folded later.
        let served = loop {
            let served = self.served().await?;
            let target = match &served {
                Some(served) => served.position,
                None => self.store.head().await?.position,
            };
            let lag = target.0.saturating_sub(self.position.0);
            self.fold_to(target).await?;
            if lag <= BATCH as u64 {
                break served;
            }
        };
        let compared = options.verify && served.is_some();
        let tables = self.summarise(compared).await?;
        let mut report = RebuildReport {
            projection: self.projection.name(),
            version: self.projection.version(),
            events: self.position.0,
            position: self.position,
            elapsed: self.started.elapsed(),
            tables,
            compared,
            switched: false,
        };
        if !options.dry && report.is_equal() {
            self.switch().await?;
            report.switched = true;
            report.events = self.position.0;
        }
        report.elapsed = self.started.elapsed();
        Ok(report)
    }

    /// The checkpoint of the served model, if that was built by this version and from this log.
    async fn served(&self) -> Result<Option<Checkpoint>, RebuildError> {
        let served = checkpoint::load(self.store.database().pool(), self.projection.name()).await?;
        match served {
            Some(served) if self.is_comparable(&served).await? => Ok(Some(served)),
            _ => Ok(None),
        }
    }

    async fn is_comparable(&self, served: &Checkpoint) -> Result<bool, RebuildError> {
        Ok(served.version == self.projection.version()
            && self.store.entry_hash_at(served.position).await? == Some(served.entry_hash))
    }

    /// Folds up to `target`, reading one batch ahead.
    async fn fold_to(&mut self, target: Position) -> Result<(), RebuildError> {
        self.tell(Phase::Folding, target);
        let mut next = self.read(self.position, target).await?;
        while !next.is_empty() {
            let batch = next;
            let last = batch.last().map_or(self.position, |record| record.position);
            let reading = self.store.clone();
            let (folded, read) = tokio::join!(
                fold(&mut self.connection, self.projection, &batch),
                read(&reading, last, target),
            );
            folded?;
            self.passed(&batch);
            self.tell(Phase::Folding, target);
            next = read?;
        }
        Ok(())
    }

    async fn read(&self, after: Position, target: Position) -> Result<Vec<Record>, RebuildError> {
        read(self.store, after, target).await
    }

    fn passed(&mut self, batch: &[Record]) {
        if let Some(last) = batch.last() {
            self.position = last.position;
            self.entry_hash = last.entry_hash;
        }
    }

    fn tell(&self, phase: Phase, total: Position) {
        let seconds = self.started.elapsed().as_secs_f64().max(0.001);
        #[expect(clippy::cast_precision_loss, reason = "a rate for people")]
        let events_per_second = self.position.0 as f64 / seconds;
        (self.progress)(Progress {
            projection: self.projection.name(),
            phase,
            events_done: self.position.0,
            events_total: total.0.max(self.position.0),
            events_per_second,
        });
    }

    /// Counts and digests of the new tables. To compare, the rest of the way is folded in a snapshot that shows the
    /// served tables and their checkpoint at one moment.
    async fn summarise(&mut self, compared: bool) -> Result<Vec<TableReport>, RebuildError> {
        self.tell(Phase::Comparing, self.position);
        let what = "compare the tables";
        let mut folded = Vec::new();
        let mut transaction = self
            .connection
            .begin_with("begin isolation level repeatable read")
            .await
            .map_err(cannot(what))?;
        transaction.execute(TEXT_SETTINGS).await.map_err(cannot(what))?;
        let mut live = None;
        if compared {
            let name = self.projection.name();
            let served = checkpoint::load_in(&mut transaction, name).await?;
            let served = served
                .filter(|served| served.position >= self.position)
                .ok_or(RebuildError::SetBack(name))?;
            folded = fold_rest(
                &mut transaction,
                self.store,
                self.projection,
                self.position,
                served.position,
            )
            .await?;
            live = Some("view");
        }
        let tables = compare_tables(&mut transaction, self.projection.tables(), &self.schema, live)
            .await
            .map_err(cannot(what))?;
        transaction.commit().await.map_err(cannot(what))?;
        self.passed(&folded);
        Ok(tables)
    }

    /// Puts the new tables in the place of the old ones, at the same position if that can be compared.
    async fn switch(&mut self) -> Result<(), RebuildError> {
        self.tell(Phase::Switching, self.position);
        let mut tries = 0;
        loop {
            tries += 1;
            match self.try_switch().await {
                Err(RebuildError::Database(_, source)) if tries < SWITCH_TRIES && is_lock_trouble(&source) => {
                    tracing::warn!(
                        projection = self.projection.name(),
                        tries,
                        "the tables are in use; switching again"
                    );
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
                outcome => return outcome,
            }
        }
    }

    async fn try_switch(&mut self) -> Result<(), RebuildError> {
        let what = "switch the tables";
        let name = self.projection.name();
        let version = self.projection.version();
        let mut transaction = self.connection.begin().await.map_err(cannot(what))?;
        transaction.execute(SWITCH_SETTINGS).await.map_err(cannot(what))?;
        let mut entry_hash = self.entry_hash;
        let mut folded = Vec::new();
        if let Some(served) = checkpoint::lock(&mut transaction, name).await?
            && served.version == version
            && served.position > self.position
            && self.store.entry_hash_at(served.position).await? == Some(served.entry_hash)
        {
            folded = fold_rest(
                &mut transaction,
                self.store,
                self.projection,
                self.position,
                served.position,
            )
            .await?;
        }
        let mut position = self.position;
        if let Some(last) = folded.last() {
            position = last.position;
            entry_hash = last.entry_hash;
        }
        for table in self.projection.tables() {
            let statement = format!(
                "drop table view.{table}; alter table {}.{table} set schema view",
                self.schema
            );
            transaction.execute(statement.as_str()).await.map_err(cannot(what))?;
        }
        checkpoint::replace(&mut transaction, name, version, position, entry_hash).await?;
        sqlx::query(super::NOTIFY)
            .execute(&mut *transaction)
            .await
            .map_err(cannot(what))?;
        transaction.commit().await.map_err(cannot(what))?;
        self.passed(&folded);
        Ok(())
    }
}

/// Whether all tables of a model are there to be served.
pub(super) async fn tables_exist(
    connection: &mut PgConnection,
    projection: &dyn Projection,
) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar(TABLES_EXIST)
        .bind(projection.tables())
        .fetch_one(connection)
        .await
}

async fn read(store: &EventStore, after: Position, target: Position) -> Result<Vec<Record>, RebuildError> {
    let wanted = target.0.saturating_sub(after.0).min(BATCH as u64);
    if wanted == 0 {
        return Ok(Vec::new());
    }
    let batch = store
        .read_after(after, usize::try_from(wanted).unwrap_or(BATCH))
        .await?;
    let dense = batch
        .iter()
        .zip(after.0 + 1..)
        .find(|(record, expected)| record.position.0 != *expected);
    match dense {
        Some((_, expected)) => Err(RebuildError::Gap(Position(expected))),
        None if batch.is_empty() => Err(RebuildError::Gap(after.next())),
        None => Ok(batch),
    }
}

/// Folds one batch in a transaction of its own.
async fn fold(
    connection: &mut PgConnection,
    projection: &dyn Projection,
    batch: &[Record],
) -> Result<(), RebuildError> {
    let what = "fold events";
    let mut transaction = connection.begin().await.map_err(cannot(what))?;
    apply(&mut transaction, projection, batch).await?;
    transaction.commit().await.map_err(cannot(what))
}

/// Folds what is left up to `target` in a transaction that is open, and returns the last batch of it.
async fn fold_rest(
    connection: &mut PgConnection,
    store: &EventStore,
    projection: &dyn Projection,
    from: Position,
    target: Position,
) -> Result<Vec<Record>, RebuildError> {
    let mut position = from;
    let mut last = Vec::new();
    while position < target {
        last = read(store, position, target).await?;
        apply(connection, projection, &last).await?;
        position = last.last().map_or(target, |record| record.position);
    }
    Ok(last)
}

async fn apply(
    connection: &mut PgConnection,
    projection: &dyn Projection,
    batch: &[Record],
) -> Result<(), RebuildError> {
    let ends = batch
        .first()
        .zip(batch.last())
        .map(|(first, last)| (first.position, last.position));
    projection.apply(connection, batch).await.map_err(|source| {
        let (from, to) = ends.unwrap_or_default();
        RebuildError::Fold { from, to, source }
    })
}

/// Whether another try may find the locks free.
fn is_lock_trouble(error: &sqlx::Error) -> bool {
    const LOCK_NOT_AVAILABLE: &str = "55P03";
    const DEADLOCK: &str = "40P01";
    error
        .as_database_error()
        .and_then(sqlx::error::DatabaseError::code)
        .is_some_and(|code| code == LOCK_NOT_AVAILABLE || code == DEADLOCK)
}
