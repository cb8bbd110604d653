//! What can go wrong when reading the log; what can go wrong when writing it is [`crate::AppendError`].

use std::error::Error;

use crate::vault::VaultError;

/// Why the log, or something kept beside it, could not be read. `Display` is for the log and leaves the source out.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The database did not answer, or not as expected. Trying again may help.
    #[error("the database did not answer as it should")]
    Database(#[from] sqlx::Error),
    /// An event that this program cannot read: of a type it does not know, or written by a newer one.
    #[error("{place} cannot be decoded")]
    Decode {
        /// Which event, such as `position 7` or `user/<id> version 3`.
        place: String,
        /// Why.
        #[source]
        source: Box<dyn Error + Send + Sync>,
    },
    /// Something stored is not what was stored there once, or cannot have been.
    #[error("{place} is damaged: {what}")]
    Damaged {
        /// Where.
        place: String,
        /// What is wrong with it.
        what: String,
    },
    /// The database is a standby, which can be read but not written.
    #[error("this database is a standby; the log is written on its primary")]
    Standby,
    /// The store was closed.
    #[error("the event store is closed")]
    Closed,
    /// Keys made for a commit were lost with a crash of the database before the commit was written.
    #[error("keys were lost with the connection")]
    KeysLost,
    /// Keys could not be made, or a sealed value did not open. Never a [`VaultError::Database`].
    #[error(transparent)]
    Vault(VaultError),
}

/// A fault of the database is one wherever it was met: no event is to blame for it.
impl From<VaultError> for StoreError {
    fn from(error: VaultError) -> Self {
        match error {
            VaultError::Database(error) => Self::Database(error),
            error => Self::Vault(error),
        }
    }
}

impl StoreError {
    pub(crate) fn damaged(place: impl ToString, what: impl ToString) -> Self {
        Self::Damaged {
            place: place.to_string(),
            what: what.to_string(),
        }
    }
}

/// Whether an error means that the connection is gone, so that nobody can say what became of the statement.
pub(crate) fn is_lost_connection(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Database(error) => {
            // Class 08 is connection trouble, 57P a server that shuts down, crashes or cannot take connections yet.
            error
                .code()
                .is_some_and(|code| code.starts_with("08") || code.starts_with("57P"))
        }
        sqlx::Error::Io(_)
        | sqlx::Error::Tls(_)
        | sqlx::Error::Protocol(_)
        | sqlx::Error::PoolTimedOut
        | sqlx::Error::PoolClosed
        | sqlx::Error::WorkerCrashed => true,
        _ => false,
    }
}
