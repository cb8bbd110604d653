//! The event store's test kit: a model to compare with, faults to inject, histories to write and to judge.
//!
//! [`model`] is the store in memory. [`proxy`] stands between a process and PostgreSQL and fails at named points.
//! [`history`] is what workers write down, [`checker`] judges it together with the log. [`torture`] puts them together:
//! processes that write and read while faults of every kind are injected, in an order that a seed decides.

pub mod checker;
pub mod history;
pub mod model;
pub mod proxy;
pub mod random;
pub mod torture;

/// Why the kit itself could not do its work, which says nothing about the store.
pub type KitError = Box<dyn std::error::Error + Send + Sync>;
