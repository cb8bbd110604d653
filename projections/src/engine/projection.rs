//! What a read model is to the engine.

use annals_eventstore::{Position, Record};
use futures::future::BoxFuture;
use sqlx::PgConnection;
use uuid::Uuid;

/// A read model: tables that are a pure function of the log, and the fold that keeps them.
///
/// Implementations hold no state of their own. The same log gives the same rows, however it is cut into batches;
/// `annals rebuild --verify` and the tests compare exactly that.
pub trait Projection: Send + Sync {
    /// The name in commands, status and checkpoint: a plural noun in snake case.
    fn name(&self) -> &'static str;

    /// Raised whenever `apply` or a table changes its meaning; the engine then rebuilds the model before it follows
    /// the log again.
    fn version(&self) -> i32;

    /// The tables in schema `view`, each with a primary key. Nobody else writes them.
    fn tables(&self) -> &'static [&'static str];

    /// The statements that make those tables and their indexes, named with their schema: the migration that last made
    /// them. A rebuild uses it when somebody has dropped a table.
    fn definition(&self) -> &'static str;

    /// Folds a batch, in order and without gaps, into the tables: a few statements for the whole batch.
    ///
    /// The transaction, the checkpoint and the schema are the engine's: statements name tables without a schema,
    /// read nothing but the model's own tables, and depend on nothing but them and the batch.
    fn apply<'a>(
        &'a self,
        connection: &'a mut PgConnection,
        batch: &'a [Record],
    ) -> BoxFuture<'a, Result<(), ProjectionError>>;
}

/// Why a batch could not be folded into a read model.
#[derive(Debug, thiserror::Error)]
pub enum ProjectionError {
    /// A statement failed.
    #[error("a statement failed")]
    Statement(#[from] sqlx::Error),
    /// A fact about something that no earlier fact created: the log or the rows are damaged.
    #[error("no row {key} in {table}, which the event at position {position} changes")]
    Absent {
        /// The table that should hold the row.
        table: &'static str,
        /// The row's id.
        key: Uuid,
        /// The event in question.
        position: Position,
    },
    /// A row could not be written as JSON.
    #[error("a row cannot be written as JSON")]
    Json(#[from] serde_json::Error),
    /// Whatever else keeps a model from going on.
    #[error("{0}")]
    Refused(String),
}
