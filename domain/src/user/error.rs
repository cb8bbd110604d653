//! Rules of accounts.

use crate::registry::DomainError;

/// A broken rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum UserError {
    /// There is no such user.
    #[error("there is no such user")]
    NotFound,
    /// An identifier is registered once.
    #[error("the user has already registered")]
    AlreadyRegistered,
    /// A disabled user's profile stays as it is.
    #[error("the user is disabled")]
    Disabled,
    /// Text that cannot be stored; names the member.
    #[error("{0} must not contain the zero character")]
    TextInvalid(&'static str),
}

impl DomainError for UserError {
    fn code(&self) -> &'static str {
        match self {
            Self::NotFound => "user.not_found",
            Self::AlreadyRegistered => "user.already_registered",
            Self::Disabled => "user.disabled",
            Self::TextInvalid(_) => "user.text_invalid",
        }
    }

    fn field(&self) -> Option<&'static str> {
        match self {
            Self::TextInvalid(field) => Some(field),
            Self::NotFound | Self::AlreadyRegistered | Self::Disabled => None,
        }
    }
}
