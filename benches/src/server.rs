//! The PostgreSQL that everything is measured on: one of our own in a temporary folder, and fresh databases in it.

use std::path::Path;
use std::time::Duration;

use annals_eventstore::database::{Database, DatabaseOptions, DatabaseRole, Timeouts};
use annals_eventstore::embedded::{Cluster, ClusterOptions};
use annals_eventstore::{EventStore, MasterKey, Vault, WriterOptions};
use anyhow::{Context, Result, ensure};
use sqlx::PgPool;
use tempfile::TempDir;

use crate::report::say;

/// The longest anybody waits for a connection of a pool; in an open loop more counts as refused.
const ACQUIRE: Duration = Duration::from_secs(5);

const DURABILITY: &str = "
    select current_setting('fsync'), current_setting('synchronous_commit'), current_setting('full_page_writes')
";

/// A server that lives as long as this.
pub(crate) struct Server {
    cluster: Cluster,
    master: MasterKey,
    connections: u32,
    durable: bool,
    folder: TempDir,
}

/// A fresh, migrated database with a log, without read models.
pub(crate) struct Log {
    /// The log.
    pub(crate) store: EventStore,
    /// The same database by a pool of the same size, as its owner: the other contenders need tables of their own.
    pub(crate) owner: Database,
}

impl Server {
    /// Starts a server below `folder`. Without `durable` it runs with fsync off.
    ///
    /// # Errors
    /// What keeps it from starting.
    pub(crate) async fn start(folder: &Path, connections: u32, durable: bool) -> Result<Self> {
        let folder = tempfile::Builder::new()
            .prefix("annals-benches-")
            .tempdir_in(folder)
            .context("a temporary folder")?;
        let options = ClusterOptions {
            durable,
            ..ClusterOptions::default()
        };
        let cluster = Cluster::open(&folder.path().join("data"), options)
            .await
            .context("PostgreSQL starts")?;
        Ok(Self {
            cluster,
            master: MasterKey::generate()?,
            connections,
            durable,
            folder,
        })
    }

    /// The folder of everything that belongs to this server.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Connections in each pool.
    pub(crate) fn connections(&self) -> u32 {
        self.connections
    }

    /// A new, empty database, as the application uses it.
    ///
    /// # Errors
    /// What the server says.
    pub(crate) async fn database(&self, name: &str) -> Result<Database> {
        let maintenance = PgPool::connect_with(self.cluster.connect_options()).await?;
        sqlx::raw_sql(&format!("create database {name}"))
            .execute(&maintenance)
            .await
            .with_context(|| format!("creating database {name}"))?;
        maintenance.close().await;
        let options = DatabaseOptions {
            max_connections: self.connections,
            acquire_timeout: ACQUIRE,
            application_name: "annals benches".to_owned(),
            ..DatabaseOptions::default()
        };
        Ok(Database::connect_with(self.cluster.connect_options().database(name), options).await?)
    }

    /// A new database with a log. On a durable server it is certain that every pool commits durably.
    ///
    /// # Errors
    /// What the server says, or that it is not durable.
    pub(crate) async fn log(&self, name: &str) -> Result<Log> {
        let database = self.database(name).await?;
        database.migrate().await?;
        let owner = database.with_options(DatabaseOptions {
            timeouts: Timeouts::MAINTENANCE,
            role: DatabaseRole::Owner,
            ..database.options().clone()
        });
        if self.durable {
            for pool in [database.pool(), owner.pool()] {
                must_be_durable(pool).await?;
            }
        }
        let vault = Vault::open(&database, &self.master).await?;
        Ok(Log {
            store: EventStore::start(database, vault, WriterOptions::default()),
            owner,
        })
    }

    /// Stops the server and removes its folder.
    ///
    /// # Errors
    /// What keeps it from stopping.
    pub(crate) async fn stop(self) -> Result<()> {
        self.cluster.close().await.context("PostgreSQL stops")?;
        Ok(self.folder.close()?)
    }
}

impl Log {
    /// Another writer on the same log, with a pool of its own, whose sessions go by `name`.
    ///
    /// # Errors
    /// What the server says.
    pub(crate) async fn another_store(&self, server: &Server, name: &str) -> Result<EventStore> {
        let database = self.store.database();
        let database = database.with_options(DatabaseOptions {
            application_name: name.to_owned(),
            ..database.options().clone()
        });
        let vault = Vault::open(&database, &server.master).await?;
        Ok(EventStore::start(database, vault, WriterOptions::default()))
    }

    /// Finishes what is being written and closes both pools.
    ///
    /// # Errors
    /// What closing reports.
    pub(crate) async fn close(&self) -> Result<()> {
        self.store.close().await;
        self.store.database().close().await?;
        Ok(self.owner.close().await?)
    }

    /// Waits until tables are vacuumed and analysed and a checkpoint is made, so that what filling left to do does not
    /// run on into the measurement.
    ///
    /// # Errors
    /// What the server says.
    pub(crate) async fn settle(&self) -> Result<()> {
        say("vacuuming, analysing and making a checkpoint");
        for statement in ["vacuum (analyze)", "checkpoint"] {
            sqlx::raw_sql(statement).execute(self.owner.pool()).await?;
        }
        Ok(())
    }
}

async fn must_be_durable(pool: &PgPool) -> Result<()> {
    let (fsync, commit, pages): (String, String, String) = sqlx::query_as(DURABILITY).fetch_one(pool).await?;
    ensure!(
        (fsync.as_str(), commit.as_str(), pages.as_str()) == ("on", "on", "on"),
        "fsync {fsync}, synchronous_commit {commit}, full_page_writes {pages}: all must be on"
    );
    Ok(())
}
