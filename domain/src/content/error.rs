//! Rules of content nodes.

use crate::registry::DomainError;

/// A broken rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ContentError {
    /// There is no such node, or it was deleted.
    #[error("there is no such content node")]
    NotFound,
    /// An identifier is used once.
    #[error("the content node already exists")]
    AlreadyExists,
    /// A node hangs neither under nor beside itself.
    #[error("a content node cannot be its own parent or neighbour")]
    OwnParent,
    /// The node has no value of this identifier.
    #[error("the content node has no such field value")]
    FieldNotFound,
    /// One request names a value twice.
    #[error("a field value is named more than once")]
    FieldRepeated,
    /// A value that cannot be stored.
    #[error("a field value must not contain the zero character")]
    FieldValueInvalid,
}

impl DomainError for ContentError {
    fn code(&self) -> &'static str {
        match self {
            Self::NotFound => "content.not_found",
            Self::AlreadyExists => "content.already_exists",
            Self::OwnParent => "content.own_parent",
            Self::FieldNotFound => "content.field_not_found",
            Self::FieldRepeated => "content.field_repeated",
            Self::FieldValueInvalid => "content.field_value_invalid",
        }
    }

    fn field(&self) -> Option<&'static str> {
        match self {
            Self::OwnParent => Some("parent_id"),
            Self::FieldNotFound | Self::FieldRepeated => Some("content_field_id"),
            Self::FieldValueInvalid => Some("field_value"),
            Self::NotFound | Self::AlreadyExists => None,
        }
    }
}
