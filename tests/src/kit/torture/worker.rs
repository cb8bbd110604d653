//! What writers and readers have in common.

use std::str::FromStr;
use std::thread;
use std::time::Duration;

use annals_eventstore::database::DatabaseOptions;
use annals_eventstore::{Database, EventStore, MasterKey, Position, Vault, VaultError, WriterOptions};
use sqlx::postgres::PgConnectOptions;
use tokio::sync::watch;

use crate::kit::KitError;

/// The wait between two tries to reach the database.
const PAUSE: Duration = Duration::from_millis(100);
/// Connections in the pool of one worker.
const POOL_CONNECTIONS: u32 = 4;

/// The key of the vault: the same for every process of a run, and worth nothing.
pub(super) fn master_key() -> MasterKey {
    MasterKey::from_bytes([0x70; 32])
}

/// When a worker is to end: its standard input says so by a line, which may name the position to get to, or by being
/// closed, as it is when the driver dies.
#[derive(Debug, Clone)]
pub(super) struct Ending(watch::Receiver<Option<Position>>);

impl Ending {
    pub(super) fn on_stdin() -> Self {
        let (sender, receiver) = watch::channel(None);
        // A thread, because reading standard input cannot be given up; it ends with the process.
        thread::spawn(move || {
            let mut line = String::new();
            // An unreadable input is one that has ended.
            let _ = std::io::stdin().read_line(&mut line);
            sender.send_replace(Some(line.trim().parse().unwrap_or(Position::START)));
            // Waiters watch the value, and would take the end of the sender for an error.
            loop {
                thread::park();
            }
        });
        Self(receiver)
    }

    pub(super) fn has_come(&self) -> bool {
        self.0.borrow().is_some()
    }

    /// The position to get to, once the end has come.
    pub(super) fn position(&self) -> Option<Position> {
        *self.0.borrow()
    }

    pub(super) async fn comes(&self) {
        let _ = self.0.clone().wait_for(Option::is_some).await;
    }
}

/// Opens the store as soon as the database answers; none when the end comes first.
pub(super) async fn open_store(url: &str, ending: &Ending) -> Result<Option<EventStore>, KitError> {
    let connect = PgConnectOptions::from_str(url)?;
    let options = DatabaseOptions {
        max_connections: POOL_CONNECTIONS,
        ..DatabaseOptions::default()
    };
    while !ending.has_come() {
        let opened = async {
            let database = Database::connect_with(connect.clone(), options.clone()).await?;
            let vault = Vault::open(&database, &master_key()).await?;
            Ok::<_, KitError>(EventStore::start(database, vault, WriterOptions::default()))
        };
        match opened.await {
            Ok(store) => return Ok(Some(store)),
            Err(error)
                if error
                    .downcast_ref()
                    .is_some_and(|e| matches!(e, VaultError::WrongMasterKey)) =>
            {
                return Err(error);
            }
            Err(error) => {
                tracing::warn!(
                    error = &*error as &dyn std::error::Error,
                    "the store cannot be opened yet"
                );
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
    Ok(None)
}
