//! What follows from events outside the log, from a checkpoint of its own.

pub mod mail;
