//! Rules of datatypes.

use crate::registry::DomainError;

/// A broken rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DatatypeError {
    /// There is no such datatype, or it was deleted.
    #[error("there is no such datatype")]
    NotFound,
    /// An identifier is used once.
    #[error("the datatype already exists")]
    AlreadyExists,
    /// The datatype has no such attachment.
    #[error("the datatype has no such attachment")]
    AttachmentNotFound,
    /// An attachment's identifier is used once.
    #[error("the attachment already exists")]
    AttachmentAlreadyExists,
    /// Text that cannot be stored; names the member.
    #[error("{0} must not contain the zero character")]
    TextInvalid(&'static str),
}

impl DomainError for DatatypeError {
    fn code(&self) -> &'static str {
        match self {
            Self::NotFound => "datatype.not_found",
            Self::AlreadyExists => "datatype.already_exists",
            Self::AttachmentNotFound => "datatype.attachment_not_found",
            Self::AttachmentAlreadyExists => "datatype.attachment_already_exists",
            Self::TextInvalid(_) => "datatype.text_invalid",
        }
    }

    fn field(&self) -> Option<&'static str> {
        match self {
            Self::AttachmentNotFound | Self::AttachmentAlreadyExists => Some("id"),
            Self::TextInvalid(field) => Some(field),
            Self::NotFound | Self::AlreadyExists => None,
        }
    }
}
