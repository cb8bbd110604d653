//! The connection to PostgreSQL: pool, session settings, role, server check and migrations.
//!
//! Whether the server is the embedded one ([`crate::embedded`]) or one named by `DATABASE_URL` makes no difference
//! to anybody behind [`Database`]. What the tables mean is the business of the other modules.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use secrecy::{ExposeSecret, SecretString};
use sqlx::migrate::{Migrate, MigrateError, Migrator};
use sqlx::postgres::{PgConnectOptions, PgConnection, PgListener, PgPool, PgPoolOptions};
use sqlx::{ConnectOptions, Connection, Executor};
use time::OffsetDateTime;
use tokio::sync::watch;

use annals_domain::registry;

use crate::embedded::{Cluster, ClusterError, ClusterOptions};

/// The role that reads everything, executes the append functions and owns schema `view`, but cannot write to `log`.
pub const APPLICATION_ROLE: &str = "annals_app";

/// The oldest PostgreSQL that Annals runs on, as `server_version_num` counts.
pub const OLDEST_SERVER_VERSION: u32 = 150_000;

/// Two-integer advisory key under which one process at a time migrates a database.
const MIGRATION_LOCK: (i32, i32) = (0x616e_6e61, 0x6d69_6772);

/// A connection that has idled longer than this is asked for a sign of life before it is lent again.
const TRUSTED_IDLE: Duration = Duration::from_millis(500);

/// How long [`Database::close`] waits for lent connections to come home.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a lost session may take to end before the connection in its place is given up.
const END_SESSION_TIMEOUT: Duration = Duration::from_secs(3);

static LOG_MIGRATIONS: Migrator = unlocked(sqlx::migrate!("../migrations/log"));
static VIEW_MIGRATIONS: Migrator = unlocked(sqlx::migrate!("../migrations/view"));

/// Both sets run under one lock of ours, because preparing roles and schemas must be inside it too.
const fn unlocked(mut migrator: Migrator) -> Migrator {
    migrator.locking = false;
    migrator
}

/// Settles one session in one round trip. The role goes last in effect, not in text: `set_config('role')` takes hold
/// of later statements only. PostgreSQL 16 split the right to `set role` from membership.
const SETTLE_SESSION: &str = "
select set_config('statement_timeout', $1, false),
       set_config('lock_timeout', $2, false),
       set_config('idle_in_transaction_session_timeout', $3, false),
       set_config('default_transaction_isolation', 'read committed', false),
       set_config('synchronous_commit',
                  case current_setting('synchronous_commit') when 'off' then 'on' else current_setting('synchronous_commit') end,
                  false),
       set_config('role',
                  coalesce((select rolname::text
                              from pg_catalog.pg_roles
                             where $4
                               and rolname = 'annals_app'
                               and pg_has_role(oid, case when current_setting('server_version_num')::int >= 160000
                                                         then 'SET' else 'MEMBER' end)), 'none'),
                  false)";

const DESCRIBE_SERVER: &str = "
select current_setting('server_version_num')::int,
       split_part(current_setting('server_version'), ' ', 1),
       current_database()::text,
       current_setting('server_encoding'),
       pg_is_in_recovery()";

const APPLICATION_ROLE_IN_USE: &str = "select current_user = 'annals_app'";

/// Tells a session from a later one that was given the same process number.
const THIS_SESSION: &str = "
select pid, backend_start
  from pg_catalog.pg_stat_activity
 where pid = pg_backend_pid()";

/// Waits for its end; none where it has ended already.
const END_SESSION: &str = "
select pg_terminate_backend(pid, $3)
  from pg_catalog.pg_stat_activity
 where pid = $1
   and backend_start = $2";

const TAKE_MIGRATION_LOCK: &str = "select pg_advisory_lock($1, $2)";

/// Roles belong to the whole server and outlive a restored or cloned database, so they cannot be left to a migration
/// that runs once for each database. Two databases of one server may get here at the same moment.
const PREPARE_ROLE: &str = "
do $prepare$
declare
    me pg_catalog.pg_roles%rowtype;
    kind text := case when current_setting('server_version_num')::int >= 160000 then 'SET' else 'MEMBER' end;
begin
    select * into strict me from pg_catalog.pg_roles where rolname = current_user;
    if not exists (select from pg_catalog.pg_roles where rolname = 'annals_app') and (me.rolsuper or me.rolcreaterole) then
        begin
            create role annals_app nologin;
        exception when duplicate_object or unique_violation then null;
        end;
    end if;
    if exists (select from pg_catalog.pg_roles where rolname = 'annals_app') and not pg_has_role('annals_app', kind) then
        begin
            grant annals_app to current_user;
        exception when insufficient_privilege then null;
        end;
    end if;
end
$prepare$";

const ROLE_IS_AVAILABLE: &str = "
select exists (select
                 from pg_catalog.pg_roles
                where rolname = 'annals_app'
                  and pg_has_role(oid, case when current_setting('server_version_num')::int >= 160000
                                            then 'SET' else 'MEMBER' end))";

/// Rebuilds make a schema of their own, hence `create` on the database, which a template does not hand down to its
/// clones. Where the right is not ours to give, the rebuild will say so; serving does not need it.
const GRANT_DATABASE: &str = "
do $grant$
begin
    execute format('grant connect, create, temporary on database %I to annals_app', current_database());
exception when insufficient_privilege then null;
end
$grant$";

/// Run after every migration, not once: the role may have come after the log, or the log from a dump without it.
const REGISTER_SCHEMAS: &str = "select log.register_schemas($1, $2, $3)";
const GRANT_LOG: &str = "call log.grant_application(); call log.grant_snapshots()";

const LOG_EXISTS: &str = "select to_regclass('log.events') is not null";

const SCHEMA_EXISTS: &str = "select to_regnamespace($1) is not null";

/// Schema `view` may have been made before the role could be; then everything in it changes hands.
const HAND_OVER_VIEW: &str = "
do $hand_over$
declare
    relation regclass;
begin
    if (select nspowner::regrole::text from pg_catalog.pg_namespace where nspname = 'view') <> 'annals_app' then
        alter schema view owner to annals_app;
    end if;
    for relation in
        select c.oid
          from pg_catalog.pg_class c
         where c.relnamespace = 'view'::regnamespace
           and c.relkind in ('r', 'p', 'v', 'm')
           and c.relowner <> 'annals_app'::regrole
    loop
        execute format('alter table %s owner to annals_app', relation);
    end loop;
end
$hand_over$";

/// Why the database cannot be used. `Display` is for the log and never shows a password.
#[derive(Debug, thiserror::Error)]
pub enum DatabaseError {
    /// `DATABASE_URL` is not an address of PostgreSQL.
    #[error("DATABASE_URL cannot be read; it looks like postgres://user:password@host:5432/database")]
    Address(#[source] sqlx::Error),
    /// The server did not answer, or turned us away.
    #[error("cannot connect to {0}")]
    Connect(String, #[source] sqlx::Error),
    /// The server is older than [`OLDEST_SERVER_VERSION`].
    #[error("{0} is PostgreSQL {1}; Annals needs 15 or newer")]
    ServerTooOld(String, String),
    /// The database's encoding is not UTF-8, so hashed bytes would not be the stored bytes.
    #[error(
        "the database at {0} is encoded in {1}; create it with: create database annals encoding 'UTF8' template template0"
    )]
    Encoding(String, String),
    /// The server only follows another one, and what is to be done needs to write.
    #[error("this database is a standby: {0} follows another server and cannot be written; connect to its primary")]
    Standby(String),
    /// The schema was made by a newer Annals than this one.
    #[error("schema {schema} has migration {version}, which this Annals does not know: it was migrated by a newer one")]
    NewerSchema {
        /// `log` or `view`.
        schema: &'static str,
        /// The unknown migration.
        version: i64,
    },
    /// A migration differs from the one of the same number that was applied.
    #[error("migration {version} of schema {schema} is not the one that was applied to this database")]
    ChangedMigration {
        /// `log` or `view`.
        schema: &'static str,
        /// The migration in question.
        version: i64,
    },
    /// A migration failed; its transaction was rolled back.
    #[error("migrating schema {0} failed")]
    Migration(&'static str, #[source] MigrateError),
    /// A statement that prepares or describes the database failed.
    #[error("{0} failed")]
    Statement(&'static str, #[source] sqlx::Error),
    /// The embedded cluster could not be brought up.
    #[error(transparent)]
    Cluster(#[from] ClusterError),
}

/// As whom the connections of a pool act.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DatabaseRole {
    /// As [`APPLICATION_ROLE`] where that role exists and may be taken, else as the connecting role.
    #[default]
    Application,
    /// As the connecting role, which owns the log: for migrating and for maintenance.
    Owner,
}

/// Session timeouts. Zero means none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    /// The longest a statement may run.
    pub statement: Duration,
    /// The longest a statement may wait for a lock.
    pub lock: Duration,
    /// The longest a transaction may wait for its client.
    pub idle_in_transaction: Duration,
}

impl Timeouts {
    /// For the connection of the writer, behind which every command queues.
    pub const APPEND: Self = Self::seconds(5, 2, 5);
    /// For reads and projections.
    pub const POOL: Self = Self::seconds(30, 5, 30);
    /// For migrations, verification, export and rebuilds: statements may take their time, locks may not.
    pub const MAINTENANCE: Self = Self::seconds(0, 60, 0);

    const fn seconds(statement: u64, lock: u64, idle_in_transaction: u64) -> Self {
        Self {
            statement: Duration::from_secs(statement),
            lock: Duration::from_secs(lock),
            idle_in_transaction: Duration::from_secs(idle_in_transaction),
        }
    }
}

/// How a [`Database`] uses its server.
#[derive(Debug, Clone)]
pub struct DatabaseOptions {
    /// Upper bound of the pool; connections of [`Database::connect_dedicated`] and [`Database::listener`] come on top.
    pub max_connections: u32,
    /// The longest anybody waits for a connection, including making one.
    pub acquire_timeout: Duration,
    /// Timeouts of pooled sessions.
    pub timeouts: Timeouts,
    /// Shown in `pg_stat_activity`.
    pub application_name: String,
    /// As whom pooled and dedicated connections act.
    pub role: DatabaseRole,
    /// Whether a hot standby will do, which can be read only. Unless told so, a standby is refused.
    pub accept_standby: bool,
}

impl Default for DatabaseOptions {
    fn default() -> Self {
        Self {
            max_connections: 16,
            acquire_timeout: Duration::from_secs(5),
            timeouts: Timeouts::POOL,
            application_name: "annals".to_owned(),
            role: DatabaseRole::Application,
            accept_standby: false,
        }
    }
}

/// Which server to use.
#[derive(Debug, Clone)]
pub enum DatabaseSource {
    /// The server that `DATABASE_URL` names.
    External(SecretString),
    /// The private cluster in a data folder, started or joined.
    Embedded {
        /// The data folder; the cluster lives in its folder `postgres`.
        data_dir: PathBuf,
        /// How to find, make and run the cluster.
        options: ClusterOptions,
    },
}

/// Which server is in use, in words for the start log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DatabaseKind {
    /// A private cluster in the data folder.
    Embedded {
        /// Where its files are.
        folder: PathBuf,
        /// Whether another process runs it and this one has joined.
        joined: bool,
        /// The server's version, such as `15.18`.
        version: String,
    },
    /// A server that somebody else runs.
    External {
        /// Host and port, or socket, without credentials.
        address: String,
        /// Name of the database.
        database: String,
        /// The server's version, such as `17.2`.
        version: String,
    },
}

impl fmt::Display for DatabaseKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Embedded {
                folder,
                joined,
                version,
            } => {
                let how = if *joined {
                    "run by another process"
                } else {
                    "run by this process"
                };
                write!(
                    f,
                    "embedded PostgreSQL {version} in {}, {how}; set DATABASE_URL for a server of your own \
                     (pg_dump moves the data)",
                    folder.display()
                )
            }
            Self::External {
                address,
                database,
                version,
            } => {
                write!(f, "PostgreSQL {version} at {address}, database {database}")
            }
        }
    }
}

/// What [`Database::migrate`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Migrated {
    /// Migrations of schema `log` that were applied now.
    pub log: usize,
    /// Migrations of schema `view` that were applied now.
    pub view: usize,
    /// Whether [`APPLICATION_ROLE`] is there to be used. Where it is not, triggers alone protect the log.
    pub application_role: bool,
}

/// A session of the server, by which it can be ended from another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Session {
    pid: i32,
    since: OffsetDateTime,
}

/// One PostgreSQL database: a bounded pool, dedicated connections beside it, and migrations. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Database {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    pool: PgPool,
    connect: PgConnectOptions,
    options: DatabaseOptions,
    kind: DatabaseKind,
    address: String,
    is_standby: bool,
    cluster: Option<Cluster>,
    /// Only the database that opened the cluster stops it; the ones made by [`Database::with_options`] do not.
    owns_cluster: bool,
    renewal: Renewal,
}

/// Tells pooled connections that missed a migration or belong to a server that is gone; they are not lent again.
#[derive(Debug, Clone)]
struct Renewal {
    migrated: Arc<Mutex<Option<Instant>>>,
    server_started: Option<watch::Receiver<Option<Instant>>>,
}

impl Renewal {
    fn of(cluster: Option<&Cluster>) -> Self {
        Self {
            migrated: Arc::default(),
            server_started: cluster.map(Cluster::starts),
        }
    }

    fn migrated(&self) {
        *self.migrated.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    fn is_current(&self, age: Duration) -> bool {
        let migrated = *self.migrated.lock().unwrap_or_else(PoisonError::into_inner);
        let started = self.server_started.as_ref().and_then(|started| *started.borrow());
        [migrated, started]
            .into_iter()
            .flatten()
            .all(|moment| moment.elapsed() >= age)
    }
}

impl Database {
    /// Opens the database of `source`: starts or joins the embedded cluster where that is meant, and checks the server.
    ///
    /// # Errors
    /// [`DatabaseError::Cluster`] for the embedded cluster, else those of [`Database::connect`].
    pub async fn open(source: DatabaseSource, options: DatabaseOptions) -> Result<Self, DatabaseError> {
        match source {
            DatabaseSource::External(url) => Self::connect(&url, options).await,
            DatabaseSource::Embedded {
                data_dir,
                options: cluster,
            } => {
                let cluster = Cluster::open(&data_dir, cluster).await?;
                Self::embedded(cluster, options).await
            }
        }
    }

    /// Connects to the server that `url` names.
    ///
    /// # Errors
    /// [`DatabaseError::Address`], [`DatabaseError::Connect`], or what is wrong with the server.
    pub async fn connect(url: &SecretString, options: DatabaseOptions) -> Result<Self, DatabaseError> {
        let connect = PgConnectOptions::from_str(url.expose_secret()).map_err(DatabaseError::Address)?;
        Self::connect_with(connect, options).await
    }

    /// Connects to a server that somebody else runs, by options already parsed.
    ///
    /// # Errors
    /// [`DatabaseError::Connect`], or what is wrong with the server.
    pub async fn connect_with(connect: PgConnectOptions, options: DatabaseOptions) -> Result<Self, DatabaseError> {
        let address = address_of(&connect);
        let server = Server::check(&connect, &address, &options).await?;
        let is_standby = server.is_standby;
        let kind = DatabaseKind::External {
            address: address.clone(),
            database: server.database,
            version: server.version,
        };
        Ok(Self::assemble(connect, options, kind, address, is_standby, None, false))
    }

    /// Uses a cluster that is open already; [`Database::close`] will close it.
    ///
    /// # Errors
    /// [`DatabaseError::Connect`], or what is wrong with the server.
    pub async fn embedded(cluster: Cluster, options: DatabaseOptions) -> Result<Self, DatabaseError> {
        let connect = cluster.connect_options();
        let address = address_of(&connect);
        let server = Server::check(&connect, &address, &options).await?;
        let is_standby = server.is_standby;
        let kind = DatabaseKind::Embedded {
            folder: cluster.folder().to_owned(),
            joined: !cluster.is_owner(),
            version: server.version,
        };
        Ok(Self::assemble(
            connect,
            options,
            kind,
            address,
            is_standby,
            Some(cluster),
            true,
        ))
    }

    /// The same database by a pool of its own, with other options: another role, other timeouts, another size.
    /// Closing it leaves the cluster running.
    #[must_use]
    pub fn with_options(&self, options: DatabaseOptions) -> Self {
        Self::assemble(
            self.inner.connect.clone(),
            options,
            self.inner.kind.clone(),
            self.inner.address.clone(),
            self.inner.is_standby,
            self.inner.cluster.clone(),
            false,
        )
    }

    fn assemble(
        connect: PgConnectOptions,
        options: DatabaseOptions,
        kind: DatabaseKind,
        address: String,
        is_standby: bool,
        cluster: Option<Cluster>,
        owns_cluster: bool,
    ) -> Self {
        let connect = connect.application_name(&options.application_name);
        let renewal = Renewal::of(cluster.as_ref());
        let pool = pool_options(&options, options.timeouts, &renewal)
            .max_connections(options.max_connections)
            .connect_lazy_with(connect.clone());
        Self {
            inner: Arc::new(Inner {
                pool,
                connect,
                options,
                kind,
                address,
                is_standby,
                cluster,
                owns_cluster,
                renewal,
            }),
        }
    }

    /// The pool. Acquiring waits at most [`DatabaseOptions::acquire_timeout`].
    #[must_use]
    pub fn pool(&self) -> &PgPool {
        &self.inner.pool
    }

    /// Which server this is, for the start log.
    #[must_use]
    pub fn kind(&self) -> &DatabaseKind {
        &self.inner.kind
    }

    /// Host and port, or socket folder, and database: never credentials.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.inner.address
    }

    /// The options in use.
    #[must_use]
    pub fn options(&self) -> &DatabaseOptions {
        &self.inner.options
    }

    /// Whether the server was a hot standby when this database was opened: it can be read, not written, and tells
    /// nobody of new events by itself.
    #[must_use]
    pub fn is_standby(&self) -> bool {
        self.inner.is_standby
    }

    /// How to connect to this database without role or timeouts, for tools that need a session of their own.
    #[must_use]
    pub fn connect_options(&self) -> &PgConnectOptions {
        &self.inner.connect
    }

    /// The embedded cluster behind this database, if it is one.
    #[must_use]
    pub fn cluster(&self) -> Option<&Cluster> {
        self.inner.cluster.as_ref()
    }

    /// One connection outside the pool, in the role of this database and with timeouts of its own.
    ///
    /// # Errors
    /// What connecting gives; [`sqlx::Error::PoolTimedOut`] after [`DatabaseOptions::acquire_timeout`].
    pub async fn connect_dedicated(&self, timeouts: Timeouts) -> Result<PgConnection, sqlx::Error> {
        self.dedicated(timeouts, self.inner.options.role).await
    }

    /// One connection outside the pool, as [`Database::connect_dedicated`] makes it, in the place of one that was lost.
    /// Once there is one, the session `former` has ended: nothing that was sent to it is carried out any more, however
    /// late it arrives. Where the role may not end it, that is left to the network.
    pub(crate) async fn connect_replacing(
        &self,
        timeouts: Timeouts,
        former: Option<Session>,
    ) -> Result<(PgConnection, Session), sqlx::Error> {
        tokio::time::timeout(self.inner.options.acquire_timeout, async {
            let mut connection = self.inner.connect.connect().await?;
            // Before a role is taken that may end nobody's session.
            let (pid, since) = sqlx::query_as(THIS_SESSION).fetch_one(&mut connection).await?;
            if let Some(former) = former {
                end_session(&mut connection, former).await?;
            }
            settle(&mut connection, timeouts, self.inner.options.role).await?;
            Ok((connection, Session { pid, since }))
        })
        .await
        .unwrap_or(Err(sqlx::Error::PoolTimedOut))
    }

    async fn dedicated(&self, timeouts: Timeouts, role: DatabaseRole) -> Result<PgConnection, sqlx::Error> {
        tokio::time::timeout(self.inner.options.acquire_timeout, async {
            let mut connection = self.inner.connect.connect().await?;
            settle(&mut connection, timeouts, role).await?;
            Ok(connection)
        })
        .await
        .unwrap_or(Err(sqlx::Error::PoolTimedOut))
    }

    /// A listener with a connection outside the pool. It reconnects by itself and then has lost what came in between,
    /// so `try_recv` returning none means: look.
    ///
    /// # Errors
    /// What connecting gives.
    pub async fn listener(&self) -> Result<PgListener, sqlx::Error> {
        let pool = pool_options(&self.inner.options, self.inner.options.timeouts, &Renewal::of(None))
            .max_connections(1)
            .max_lifetime(None)
            .idle_timeout(None)
            .connect_lazy_with(self.inner.connect.clone());
        let mut listener = PgListener::connect_with(&pool).await?;
        listener.ignore_pool_close_event(true);
        Ok(listener)
    }

    /// Whether connections act as [`APPLICATION_ROLE`]. False on servers that let nobody make that role, where
    /// triggers alone protect the log.
    ///
    /// # Errors
    /// [`DatabaseError::Statement`].
    pub async fn acts_as_application(&self) -> Result<bool, DatabaseError> {
        sqlx::query_scalar(APPLICATION_ROLE_IN_USE)
            .fetch_one(self.pool())
            .await
            .map_err(|source| DatabaseError::Statement("asking for the current role", source))
    }

    /// Whether this database was ever migrated, so that there is a log to read.
    ///
    /// # Errors
    /// [`DatabaseError::Statement`].
    pub async fn has_log(&self) -> Result<bool, DatabaseError> {
        sqlx::query_scalar(LOG_EXISTS)
            .fetch_one(self.pool())
            .await
            .map_err(statement("looking for a log"))
    }

    /// Brings schemas `log` and `view` up to date. Repeating changes nothing; processes that do it at once take turns.
    ///
    /// Schema `log` is migrated by the connecting role, which owns it. Schema `view` is migrated by
    /// [`APPLICATION_ROLE`] where that can be used, so that rebuilds may replace its tables.
    /// Each schema holds the history of its own migrations.
    ///
    /// # Errors
    /// [`DatabaseError::Standby`], [`DatabaseError::NewerSchema`], [`DatabaseError::ChangedMigration`],
    /// [`DatabaseError::Migration`], [`DatabaseError::Statement`]. Migrations that were complete before the error stay applied.
    pub async fn migrate(&self) -> Result<Migrated, DatabaseError> {
        if self.is_standby() {
            return Err(DatabaseError::Standby(self.inner.address.clone()));
        }
        let mut connection = self
            .dedicated(Timeouts::MAINTENANCE, DatabaseRole::Owner)
            .await
            .map_err(|source| DatabaseError::Connect(self.inner.address.clone(), source))?;
        sqlx::query(TAKE_MIGRATION_LOCK)
            .bind(MIGRATION_LOCK.0)
            .bind(MIGRATION_LOCK.1)
            .execute(&mut connection)
            .await
            .map_err(statement("waiting for another process to finish migrating"))?;

        let application_role = prepare_role(&mut connection).await?;
        create_schema(&mut connection, "log", "create schema log").await?;
        let log = run(&LOG_MIGRATIONS, "log", "set search_path to log", &mut connection).await?;

        let kinds = registry::event_kinds();
        sqlx::query(REGISTER_SCHEMAS)
            .bind(kinds.iter().map(|kind| kind.aggregate_type).collect::<Vec<_>>())
            .bind(kinds.iter().map(|kind| kind.event_type).collect::<Vec<_>>())
            .bind(kinds.iter().map(|kind| kind.version).collect::<Vec<_>>())
            .execute(&mut connection)
            .await
            .map_err(statement("registering the events of this program"))?;

        if application_role {
            connection
                .execute(GRANT_LOG)
                .await
                .map_err(statement("granting schema log to annals_app"))?;
            create_schema(&mut connection, "view", "create schema view authorization annals_app").await?;
            connection
                .execute(HAND_OVER_VIEW)
                .await
                .map_err(statement("handing schema view to annals_app"))?;
            connection
                .execute("set role annals_app")
                .await
                .map_err(statement("taking the role annals_app"))?;
        } else {
            create_schema(&mut connection, "view", "create schema view").await?;
        }
        let view = run(&VIEW_MIGRATIONS, "view", "set search_path to view", &mut connection).await?;

        self.inner.renewal.migrated();
        // Ends the session, and with it the lock. A failure to say goodbye changes nothing that was committed.
        let _ = connection.close().await;
        Ok(Migrated {
            log,
            view,
            application_role,
        })
    }

    /// Closes the pool, waiting a bounded time for lent connections, and then the cluster if this database opened it.
    ///
    /// # Errors
    /// [`DatabaseError::Cluster`] when the cluster could not be stopped.
    pub async fn close(&self) -> Result<(), DatabaseError> {
        if tokio::time::timeout(CLOSE_TIMEOUT, self.inner.pool.close())
            .await
            .is_err()
        {
            tracing::warn!(
                timeout_s = CLOSE_TIMEOUT.as_secs(),
                "connections are still in use; closing without them"
            );
        }
        if let (Some(cluster), true) = (&self.inner.cluster, self.inner.owns_cluster) {
            cluster.close().await?;
        }
        Ok(())
    }
}

/// A migration that this program knows: the schema it belongs to, its number, its checksum and its text.
pub(crate) struct KnownMigration {
    pub(crate) schema: &'static str,
    pub(crate) version: i64,
    pub(crate) checksum: &'static [u8],
    pub(crate) sql: &'static str,
}

pub(crate) fn known_migrations() -> impl Iterator<Item = KnownMigration> {
    [("log", &LOG_MIGRATIONS), ("view", &VIEW_MIGRATIONS)]
        .into_iter()
        .flat_map(|(schema, migrator)| {
            migrator.iter().map(move |migration| KnownMigration {
                schema,
                version: migration.version,
                checksum: &migration.checksum,
                sql: &migration.sql,
            })
        })
}

/// The checksums of all migrations in order, by which a migrated template database can be told to be current.
pub fn migration_checksums() -> impl Iterator<Item = &'static [u8]> {
    LOG_MIGRATIONS
        .iter()
        .chain(VIEW_MIGRATIONS.iter())
        .map(|migration| &*migration.checksum)
}

struct Server {
    version: String,
    database: String,
    is_standby: bool,
}

impl Server {
    async fn check(
        connect: &PgConnectOptions,
        address: &str,
        options: &DatabaseOptions,
    ) -> Result<Self, DatabaseError> {
        let described = tokio::time::timeout(options.acquire_timeout, async {
            let mut connection = connect.connect().await?;
            let row: (i32, String, String, String, bool) =
                sqlx::query_as(DESCRIBE_SERVER).fetch_one(&mut connection).await?;
            let _ = connection.close().await;
            Ok(row)
        })
        .await
        .unwrap_or(Err(sqlx::Error::PoolTimedOut));
        let (number, version, database, encoding, standby) =
            described.map_err(|source| DatabaseError::Connect(address.to_owned(), source))?;
        judge_server(address, number, &version, &encoding, standby && !options.accept_standby)?;
        Ok(Self {
            version,
            database,
            is_standby: standby,
        })
    }
}

fn judge_server(address: &str, number: i32, version: &str, encoding: &str, standby: bool) -> Result<(), DatabaseError> {
    if u32::try_from(number).unwrap_or(0) < OLDEST_SERVER_VERSION {
        return Err(DatabaseError::ServerTooOld(address.to_owned(), version.to_owned()));
    }
    if encoding != "UTF8" {
        return Err(DatabaseError::Encoding(address.to_owned(), encoding.to_owned()));
    }
    if standby {
        return Err(DatabaseError::Standby(address.to_owned()));
    }
    Ok(())
}

fn address_of(connect: &PgConnectOptions) -> String {
    let database = connect.get_database().unwrap_or_else(|| connect.get_username());
    match connect.get_socket() {
        Some(socket) => format!("{}/{database}", socket.display()),
        None => format!("{}:{}/{database}", connect.get_host(), connect.get_port()),
    }
}

fn pool_options(options: &DatabaseOptions, timeouts: Timeouts, renewal: &Renewal) -> PgPoolOptions {
    let (role, renewal) = (options.role, renewal.clone());
    PgPoolOptions::new()
        .acquire_timeout(options.acquire_timeout)
        // Our own check below spares busy connections the round trip.
        .test_before_acquire(false)
        .before_acquire(move |connection, meta| {
            let current = renewal.is_current(meta.age);
            Box::pin(async move {
                if !current {
                    return Ok(false);
                }
                if meta.idle_for > TRUSTED_IDLE {
                    connection.ping().await?;
                }
                Ok(true)
            })
        })
        .after_connect(move |connection, _| Box::pin(settle(connection, timeouts, role)))
}

async fn end_session(connection: &mut PgConnection, former: Session) -> Result<(), sqlx::Error> {
    let patience_ms = i64::try_from(END_SESSION_TIMEOUT.as_millis()).unwrap_or(i64::MAX);
    let ended = sqlx::query_scalar::<_, bool>(END_SESSION)
        .bind(former.pid)
        .bind(former.since)
        .bind(patience_ms)
        .fetch_optional(connection)
        .await;
    match ended {
        Ok(None | Some(true)) => Ok(()),
        Ok(Some(false)) => Err(sqlx::Error::PoolTimedOut),
        Err(sqlx::Error::Database(error)) if error.code().is_some_and(|code| code == "42501") => {
            tracing::warn!(pid = former.pid, "the former session may not be ended by this role");
            Ok(())
        }
        Err(error) => Err(error),
    }
}

async fn settle(connection: &mut PgConnection, timeouts: Timeouts, role: DatabaseRole) -> Result<(), sqlx::Error> {
    let milliseconds = |duration: Duration| format!("{}ms", duration.as_millis());
    sqlx::query(SETTLE_SESSION)
        .bind(milliseconds(timeouts.statement))
        .bind(milliseconds(timeouts.lock))
        .bind(milliseconds(timeouts.idle_in_transaction))
        .bind(role == DatabaseRole::Application)
        .persistent(false)
        .execute(connection)
        .await?;
    Ok(())
}

async fn prepare_role(connection: &mut PgConnection) -> Result<bool, DatabaseError> {
    connection
        .execute(PREPARE_ROLE)
        .await
        .map_err(statement("preparing the role annals_app"))?;
    let available: bool = sqlx::query_scalar(ROLE_IS_AVAILABLE)
        .fetch_one(&mut *connection)
        .await
        .map_err(statement("looking for the role annals_app"))?;
    if available {
        connection
            .execute(GRANT_DATABASE)
            .await
            .map_err(statement("granting the database to annals_app"))?;
    }
    Ok(available)
}

async fn create_schema(
    connection: &mut PgConnection,
    schema: &'static str,
    create: &'static str,
) -> Result<(), DatabaseError> {
    // `if not exists` would still demand the right to create, which a restricted role need not have any more.
    let exists: bool = sqlx::query_scalar(SCHEMA_EXISTS)
        .bind(schema)
        .fetch_one(&mut *connection)
        .await
        .map_err(statement("looking for a schema"))?;
    if !exists {
        connection
            .execute(create)
            .await
            .map_err(statement("creating a schema"))?;
    }
    Ok(())
}

/// sqlx keeps its history in a table of a fixed name without a schema; the search path decides where that is.
async fn run(
    migrator: &Migrator,
    schema: &'static str,
    set_search_path: &'static str,
    connection: &mut PgConnection,
) -> Result<usize, DatabaseError> {
    connection
        .execute(set_search_path)
        .await
        .map_err(statement("setting the search path"))?;
    let failed = |source| match source {
        MigrateError::VersionMissing(version) => DatabaseError::NewerSchema { schema, version },
        MigrateError::VersionMismatch(version) => DatabaseError::ChangedMigration { schema, version },
        source => DatabaseError::Migration(schema, source),
    };
    connection.ensure_migrations_table().await.map_err(failed)?;
    let before = connection.list_applied_migrations().await.map_err(failed)?.len();
    migrator.run_direct(connection).await.map_err(failed)?;
    Ok(migrator.iter().len().saturating_sub(before))
}

fn statement(what: &'static str) -> impl FnOnce(sqlx::Error) -> DatabaseError {
    move |source| DatabaseError::Statement(what, source)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_old_server_is_refused_by_name() {
        let error = judge_server("db:5432/annals", 140_011, "14.11", "UTF8", false).unwrap_err();
        assert_eq!(
            error.to_string(),
            "db:5432/annals is PostgreSQL 14.11; Annals needs 15 or newer"
        );
        assert!(judge_server("db:5432/annals", 150_000, "15.0", "UTF8", false).is_ok());
    }

    #[test]
    fn another_encoding_and_a_standby_are_refused() {
        assert!(matches!(
            judge_server("db", 170_002, "17.2", "LATIN1", false),
            Err(DatabaseError::Encoding(..))
        ));
        assert!(matches!(
            judge_server("db", 170_002, "17.2", "UTF8", true),
            Err(DatabaseError::Standby(_))
        ));
    }

    #[test]
    fn an_address_shows_no_credentials() {
        let connect = PgConnectOptions::from_str("postgres://someone:secret@db.example:6543/annals").unwrap();
        assert_eq!(address_of(&connect), "db.example:6543/annals");
    }
}
