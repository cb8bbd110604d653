//! Contracts of foreign clients whose words and order of checks are not ours.

pub mod django;
pub(crate) mod modula;
