//! What is known now: read models, each a table or two that can be thrown away and built anew from the log, and the
//! engine that keeps them in step with it.
//!
//! A module is one read model: its tables, how facts change them, and the questions that can be asked. Every question
//! names its caller first and is refused by default.

pub mod audit_trail;
pub mod content;
pub mod content_tree;
pub mod datatype;
pub mod engine;
mod error;
pub mod field;
pub mod history;
pub mod mfa;
pub mod order_key;
pub mod organization;
pub mod page;
pub mod route;
mod rows;
pub mod session;
pub mod user;

use std::sync::Arc;

pub use engine::{
    Behind, Engine, EngineOptions, Phase, Progress, Projection, ProjectionError, ProjectionState, ProjectionStatus,
    RebuildError, RebuildOptions, RebuildReport, compare, rebuild,
};
pub use error::QueryError;
pub use page::{Listed, Page};

/// Every read model there is, in the order that status and rebuilds show them.
#[must_use]
pub fn read_models() -> Vec<Arc<dyn Projection>> {
    vec![
        Arc::new(user::Users),
        Arc::new(session::Sessions),
        Arc::new(organization::Organizations),
        Arc::new(datatype::Datatypes),
        Arc::new(field::Fields),
        Arc::new(route::Routes),
        Arc::new(content::Contents),
        Arc::new(audit_trail::AuditTrail),
        Arc::new(mfa::SecondFactors),
    ]
}
