//! Rules of registrations.

use crate::registry::DomainError;

/// A broken rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RegistrationError {
    /// There is no such registration.
    #[error("there is no such registration")]
    NotFound,
    /// An identifier is used once.
    #[error("the registration has already been asked for")]
    AlreadyRequested,
    /// The account exists, or the registration has lapsed.
    #[error("the registration is not pending any more")]
    NotPending,
    /// Its time is not over yet.
    #[error("the registration has not expired")]
    NotExpired,
    /// Text that cannot be stored; names the member.
    #[error("{0} must not contain the zero character")]
    TextInvalid(&'static str),
}

impl DomainError for RegistrationError {
    fn code(&self) -> &'static str {
        match self {
            Self::NotFound => "registration.not_found",
            Self::AlreadyRequested => "registration.already_requested",
            Self::NotPending => "registration.not_pending",
            Self::NotExpired => "registration.not_expired",
            Self::TextInvalid(_) => "registration.text_invalid",
        }
    }

    fn field(&self) -> Option<&'static str> {
        match self {
            Self::TextInvalid(field) => Some(field),
            Self::NotFound | Self::AlreadyRequested | Self::NotPending | Self::NotExpired => None,
        }
    }
}
