//! Rules of credentials.

use crate::registry::DomainError;

/// A broken rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AuthError {
    /// The user has no password.
    #[error("the user has no password")]
    NotFound,
    /// A first password can be set only once.
    #[error("a password has already been set")]
    PasswordAlreadySet,
}

impl DomainError for AuthError {
    fn code(&self) -> &'static str {
        match self {
            Self::NotFound => "auth.not_found",
            Self::PasswordAlreadySet => "auth.password_already_set",
        }
    }

    fn field(&self) -> Option<&'static str> {
        match self {
            Self::NotFound | Self::PasswordAlreadySet => None,
        }
    }
}
