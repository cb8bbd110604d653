//! Handlers, one file for each noun. Each file's `router` lists its routes; `crate::router` lists the files.

pub mod audit;
pub mod auth;
pub mod content;
pub mod content_field;
pub mod datatype;
pub mod datatype_field;
pub mod delivery;
pub mod event;
pub mod field;
pub mod health;
pub mod me;
pub mod organization;
pub mod route;
pub mod session;
pub mod session_overview;
pub mod stream;
pub mod token;
pub mod user;
