//! Handlers, one file for each noun. Each file's `router` lists its routes; `crate::router` lists the files.

pub mod audit;
pub mod auth;
pub mod content;
pub mod content_field;
pub mod datatype;
pub mod datatype_field;
pub mod delivery;
pub mod email_verification;
pub mod event;
pub mod field;
pub mod health;
pub mod invitation;
pub mod me;
pub mod mfa;
pub mod organization;
pub mod password_reset;
pub mod route;
pub mod session;
pub mod session_overview;
pub mod sign_up;
pub mod stream;
pub mod token;
pub mod user;
