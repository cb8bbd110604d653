//! What the tests stand on: a PostgreSQL for the run, a database of its own for each test.
//!
//! [`TestDatabase`] is a clone of a migrated template, on a private cluster that all tests of a run share, or on the
//! server of `TEST_DATABASE_URL`. [`kit`] is what the event store is compared with and tortured by. The tests themselves
//! are in `tests/it`, one module per noun.

mod app;
mod client;
mod database;
pub mod kit;
pub mod mail;
mod neighbour;
mod server;

pub use app::{Answer, Caller, PASSWORD, Request, TestApp};
pub use client::client;
pub use database::TestDatabase;
pub use neighbour::Neighbour;
pub use server::reachable_folder;
