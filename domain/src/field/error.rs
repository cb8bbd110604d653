//! Rules of field definitions.

use crate::registry::DomainError;

/// A broken rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FieldError {
    /// There is no such field, or it was deleted.
    #[error("there is no such field")]
    NotFound,
    /// An identifier is used once.
    #[error("the field already exists")]
    AlreadyExists,
    /// Text that cannot be stored; names the member.
    #[error("{0} must not contain the zero character")]
    TextInvalid(&'static str),
}

impl DomainError for FieldError {
    fn code(&self) -> &'static str {
        match self {
            Self::NotFound => "field.not_found",
            Self::AlreadyExists => "field.already_exists",
            Self::TextInvalid(_) => "field.text_invalid",
        }
    }

    fn field(&self) -> Option<&'static str> {
        match self {
            Self::TextInvalid(field) => Some(field),
            Self::NotFound | Self::AlreadyExists => None,
        }
    }
}
