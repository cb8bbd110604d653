//! End-to-end tests, one module per noun. One binary, so that they share a cluster and link once.

#![allow(
    clippy::unwrap_used,
    reason = "helpers are tests too; clippy knows only functions with an attribute"
)]

mod audit;
mod auth;
mod bad_input;
mod cli;
mod commands;
mod content;
mod database;
mod datatype;
mod delivery;
mod divergence;
mod django;
mod doctor;
mod durability;
mod embedded;
mod eventstore;
mod failover;
mod faults;
mod field;
mod freshness;
mod golden;
mod http;
mod idempotency;
mod invitation;
mod liveness;
mod mail;
mod me;
mod mfa;
mod password_reset;
mod projections;
mod route;
mod session;
mod sign_up;
mod site;
mod standby;
mod token;
mod user;
mod verification;
