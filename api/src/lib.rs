//! Who may ask, and in what words: routes, extractors, contracts, OpenAPI, the HTTP server and the command line.
//!
//! [`App`] owns everything that runs; [`serve`] runs it behind the HTTP server until it is told to stop. Authorisation is not
//! decided here but in `commands` and `projections`.

pub mod app;
pub mod cli;
pub mod config;
pub mod contracts;
mod cookie;
pub mod extract;
pub mod middleware;
pub mod openapi;
pub mod problem;
mod router;
pub mod routes;
pub mod server;
pub mod settle;
mod sweeper;

pub use app::{App, AppState, StartError, serve};
pub use config::Config;
pub use problem::Problem;
