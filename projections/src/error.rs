//! Why a question about the present state was not answered.

use annals_domain::Denied;
use serde::de::DeserializeOwned;
use serde::de::IntoDeserializer;
use serde::de::value::Error;

/// Why a query gave no answer. That something is not there is an answer, never an error.
#[derive(Debug, thiserror::Error)]
pub enum QueryError {
    /// The caller may not ask this.
    #[error(transparent)]
    Denied(#[from] Denied),
    /// The database did not answer.
    #[error("the read models cannot be reached")]
    Unavailable(#[source] sqlx::Error),
    /// A row holds what its projection never writes: somebody else wrote the table, or the program is older than the rows.
    #[error("column {column} holds {value:?}, which is not known")]
    Unreadable {
        /// The column, with its table.
        column: &'static str,
        /// What it holds.
        value: String,
    },
}

impl From<sqlx::Error> for QueryError {
    fn from(error: sqlx::Error) -> Self {
        Self::Unavailable(error)
    }
}

/// Reads a text column whose values are the stored names of `T`.
pub(crate) fn known<T: DeserializeOwned>(column: &'static str, value: String) -> Result<T, QueryError> {
    T::deserialize(IntoDeserializer::<Error>::into_deserializer(value.as_str()))
        .map_err(|_| QueryError::Unreadable { column, value })
}
