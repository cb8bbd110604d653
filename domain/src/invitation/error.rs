//! Rules of invitations.

use crate::registry::DomainError;

/// A broken rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvitationError {
    /// There is no such invitation.
    #[error("there is no such invitation")]
    NotFound,
    /// An identifier is used once.
    #[error("the invitation has already been issued")]
    AlreadyIssued,
    /// An invitation is accepted once.
    #[error("the invitation has already been used")]
    AlreadyUsed,
    /// Its time is over.
    #[error("the invitation has expired")]
    Expired,
    /// Its time is not over yet.
    #[error("the invitation has not expired")]
    NotExpired,
    /// It was made out to another address.
    #[error("the invitation is for another address")]
    OtherAddress,
    /// Nobody is invited as an owner.
    #[error("nobody can be invited as an owner")]
    RoleInvalid,
}

impl DomainError for InvitationError {
    fn code(&self) -> &'static str {
        match self {
            Self::NotFound => "invitation.not_found",
            Self::AlreadyIssued => "invitation.already_issued",
            Self::AlreadyUsed => "invitation.already_used",
            Self::Expired => "invitation.expired",
            Self::NotExpired => "invitation.not_expired",
            Self::OtherAddress => "invitation.other_address",
            Self::RoleInvalid => "invitation.role_invalid",
        }
    }

    fn field(&self) -> Option<&'static str> {
        match self {
            Self::RoleInvalid => Some("role"),
            Self::NotFound
            | Self::AlreadyIssued
            | Self::AlreadyUsed
            | Self::Expired
            | Self::NotExpired
            | Self::OtherAddress => None,
        }
    }
}
