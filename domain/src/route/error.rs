//! Rules of routes.

use crate::registry::DomainError;

/// A broken rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RouteError {
    /// There is no such route, or it was deleted.
    #[error("there is no such route")]
    NotFound,
    /// An identifier is used once.
    #[error("the route already exists")]
    AlreadyExists,
    /// Text that cannot be stored; names the member.
    #[error("{0} must not contain the zero character")]
    TextInvalid(&'static str),
}

impl DomainError for RouteError {
    fn code(&self) -> &'static str {
        match self {
            Self::NotFound => "route.not_found",
            Self::AlreadyExists => "route.already_exists",
            Self::TextInvalid(_) => "route.text_invalid",
        }
    }

    fn field(&self) -> Option<&'static str> {
        match self {
            Self::TextInvalid(field) => Some(field),
            Self::NotFound | Self::AlreadyExists => None,
        }
    }
}
