//! What commands need and the domain must not do: slow hashing and signing.

pub mod password;
pub mod refresh;
pub mod token;
