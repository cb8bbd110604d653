//! What a subcommand works on: the database of the settings, with the embedded cluster joined or started.

use annals_eventstore::EventStore;
use annals_eventstore::database::{Database, DatabaseKind, DatabaseOptions, Timeouts};
use anyhow::Context;

use crate::config::Config;

use super::Refusal;

/// Connections of a one-shot command: it does one thing at a time, and a server may be using the rest.
const CONNECTIONS: u32 = 4;

/// What a command does to the database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Access {
    /// It reads, so that a standby will do.
    Read,
    /// It writes, so that it takes the primary.
    Write,
}

/// An open database, to be closed by [`Workplace::close`] whatever the command's end.
pub(super) struct Workplace {
    database: Database,
}

impl Workplace {
    /// Does `work` on a log that is already there, and closes everything whatever comes of it.
    ///
    /// # Errors
    /// [`Refusal`] `data.none` where nothing was ever stored; what opening gives; what `work` gives.
    pub(super) async fn with_log<T>(
        config: &Config,
        access: Access,
        work: impl AsyncFnOnce(&Self, &EventStore) -> anyhow::Result<T>,
    ) -> anyhow::Result<T> {
        let workplace = Self::of_existing(config, access).await?;
        let answer = match crate::app::start_store(workplace.database.clone(), config).await {
            Ok(store) => {
                let answer = work(&workplace, &store).await;
                store.close().await;
                answer
            }
            Err(error) => Err(error.into()),
        };
        workplace.close(answer).await
    }

    /// Opens the database of a command that reads or repairs what is already there. A folder without data is not
    /// filled: it is far more often a wrong working folder than a wish.
    ///
    /// # Errors
    /// [`Refusal`] `data.none` where nothing was ever stored; else what opening gives.
    pub(super) async fn of_existing(config: &Config, access: Access) -> anyhow::Result<Self> {
        let options = DatabaseOptions {
            accept_standby: access == Access::Read,
            ..options()
        };
        Self::of_existing_with(config, options).await
    }

    /// The same with a pool of other options.
    ///
    /// # Errors
    /// Those of [`Workplace::of_existing`].
    pub(super) async fn of_existing_with(config: &Config, options: DatabaseOptions) -> anyhow::Result<Self> {
        if config.database_url().is_none() && !config.data_dir.join("postgres").is_dir() {
            return Err(no_data(&format!("{} holds no database", config.data_dir.display())));
        }
        let workplace = Self::open_with(config, options).await?;
        if workplace.database.has_log().await? {
            return Ok(workplace);
        }
        let address = workplace.database.address().to_owned();
        workplace
            .close(Err(no_data(&format!("the database at {address} has no log"))))
            .await
    }

    /// Opens the database, and makes the embedded one where it does not exist.
    ///
    /// # Errors
    /// What opening gives.
    pub(super) async fn open(config: &Config) -> anyhow::Result<Self> {
        Self::open_with(config, options()).await
    }

    async fn open_with(config: &Config, options: DatabaseOptions) -> anyhow::Result<Self> {
        let database = Database::open(crate::app::database_source(config), options)
            .await
            .context("opening the database")?;
        Ok(Self { database })
    }

    pub(super) fn database(&self) -> &Database {
        &self.database
    }

    /// The server in few words, for a result.
    pub(super) fn server(&self) -> String {
        match self.database.kind() {
            DatabaseKind::Embedded { folder, version, .. } => {
                format!("embedded PostgreSQL {version} in {}", folder.display())
            }
            DatabaseKind::External {
                address,
                database,
                version,
            } => {
                format!("PostgreSQL {version} at {address}, database {database}")
            }
        }
    }

    /// Closes the database after the command came to `answer`, which is handed on. A cluster that was started for this
    /// command ends with it.
    ///
    /// # Errors
    /// That of the command, else that of closing.
    pub(super) async fn close<T>(self, answer: anyhow::Result<T>) -> anyhow::Result<T> {
        let closed = self.database.close().await.context("closing the database");
        let answer = answer?;
        closed?;
        Ok(answer)
    }
}

/// Those of a one-shot command.
pub(super) fn options() -> DatabaseOptions {
    DatabaseOptions {
        max_connections: CONNECTIONS,
        timeouts: Timeouts::MAINTENANCE,
        application_name: "annals command".to_owned(),
        ..DatabaseOptions::default()
    }
}

fn no_data(what: &str) -> anyhow::Error {
    Refusal::new(
        "data.none",
        format!("{what}; `annals serve` or `annals migrate` makes one, --data-dir or DATABASE_URL names another"),
    )
    .into()
}
