//! A database for one test.

use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{SystemTime, UNIX_EPOCH};

use annals_eventstore::database::{Database, DatabaseOptions, DatabaseRole};
use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{ConnectOptions, Connection, Executor};

use crate::server::{Server, TEST_PREFIX};

/// A database of a test's own, dropped with it.
#[derive(Debug)]
pub struct TestDatabase {
    server: &'static Server,
    name: String,
    database: Database,
}

impl TestDatabase {
    /// A migrated, empty database with the default options.
    pub async fn new() -> Self {
        Self::with_options(DatabaseOptions::default()).await
    }

    /// A migrated, empty database with a small pool of other options than the default.
    pub async fn with_options(options: DatabaseOptions) -> Self {
        let server = Server::get().await;
        Self::create(server, server.template(), options).await
    }

    /// An empty database that nothing has been migrated in.
    pub async fn unmigrated() -> Self {
        Self::create(Server::get().await, "template0", DatabaseOptions::default()).await
    }

    async fn create(server: &'static Server, template: &str, options: DatabaseOptions) -> Self {
        static DATABASES: AtomicU32 = AtomicU32::new(0);
        let second = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| since.as_secs());
        let number = DATABASES.fetch_add(1, Ordering::Relaxed);
        let name = format!("{TEST_PREFIX}{second}_{}_{number}", std::process::id());
        let mut connection = server.connect().await;
        let create = format!("create database {name} template {template}");
        connection.execute(&*create).await.expect("a database for the test");
        if template != "template0" {
            // What `migrate` grants on a database is the one thing that a clone does not inherit. Where the role
            // could not be made there is nothing to grant.
            let _ = connection
                .execute(&*format!(
                    "grant connect, create, temporary on database {name} to annals_app"
                ))
                .await;
        }
        connection.close().await.expect("the connection is closed");
        let database = Database::connect_with(server.connect_options(&name), options)
            .await
            .expect("the test's database opens");
        Self { server, name, database }
    }

    /// The database as the application uses it.
    #[must_use]
    pub fn database(&self) -> Database {
        self.database.clone()
    }

    /// The database as another process of the application uses it, by a pool of its own.
    #[must_use]
    pub fn another(&self) -> Database {
        self.database.with_options(DatabaseOptions::default())
    }

    /// The database as the owner of the log uses it, by another pool.
    #[must_use]
    pub fn owner(&self) -> Database {
        self.database.with_options(DatabaseOptions {
            role: DatabaseRole::Owner,
            ..DatabaseOptions::default()
        })
    }

    /// A connection as the owner of everything, whom only triggers hold back.
    pub async fn superuser(&self) -> PgConnection {
        self.connect_options()
            .connect()
            .await
            .expect("a connection as superuser")
    }

    /// A connection for which no trigger fires, so that it may falsify the log as no program of ours could.
    pub async fn tamperer(&self) -> PgConnection {
        let mut connection = self.superuser().await;
        let silence = "set session_replication_role = replica";
        connection
            .execute(silence)
            .await
            .expect("triggers are switched off by a superuser");
        connection
    }

    /// How to connect as the owner of everything.
    #[must_use]
    pub fn connect_options(&self) -> PgConnectOptions {
        self.server.connect_options(&self.name)
    }

    /// The name of the database on its server.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A `DATABASE_URL` for other processes.
    #[must_use]
    pub fn url(&self) -> String {
        self.server.url(&self.name)
    }
}

impl Drop for TestDatabase {
    /// Needs a thread and runtime of its own, for the test's runtime is busy dropping this.
    fn drop(&mut self) {
        let connect = self.server.maintenance().clone();
        let remove = format!("drop database if exists {} with (force)", self.name);
        let dropping = thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(async {
                let mut connection = connect.connect().await.map_err(std::io::Error::other)?;
                connection.execute(&*remove).await.map_err(std::io::Error::other)?;
                connection.close().await.map_err(std::io::Error::other)
            })
        });
        // What stays because this failed is dropped by the next run.
        let _ = dropping.join();
    }
}
