//! Rules of organizations.

use crate::registry::DomainError;

/// A broken rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum OrganizationError {
    /// There is no such organization.
    #[error("there is no such organization")]
    NotFound,
    /// An organization is founded once.
    #[error("the organization already exists")]
    AlreadyExists,
    /// The user belongs to it in another role.
    #[error("the user is already a member in another role")]
    AlreadyMember,
    /// A name must show something and be storable.
    #[error("name must not be empty or contain the zero character")]
    NameInvalid,
    /// The short name has a form of its own.
    #[error("slug must be 1 to 64 of a-z, 0-9 and single hyphens between them")]
    SlugInvalid,
}

impl DomainError for OrganizationError {
    fn code(&self) -> &'static str {
        match self {
            Self::NotFound => "organization.not_found",
            Self::AlreadyExists => "organization.already_exists",
            Self::AlreadyMember => "organization.already_member",
            Self::NameInvalid => "organization.name_invalid",
            Self::SlugInvalid => "organization.slug_invalid",
        }
    }

    fn field(&self) -> Option<&'static str> {
        match self {
            Self::NameInvalid => Some("name"),
            Self::SlugInvalid => Some("slug"),
            Self::AlreadyMember => Some("user_id"),
            Self::NotFound | Self::AlreadyExists => None,
        }
    }
}
