//! What commands need and the domain must not do: slow hashing, signing and mail.

pub mod mail;
pub mod password;
pub mod refresh;
pub mod token;
pub mod totp;
