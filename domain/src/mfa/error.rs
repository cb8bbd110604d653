//! Rules of second factors.

use crate::registry::DomainError;
use crate::values::Timestamp;

/// A broken rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum MfaError {
    /// A second factor is in force; it must be taken away before another one is set up.
    #[error("MFA is already enabled")]
    AlreadyEnabled,
    /// No secret has been offered.
    #[error("MFA not set up. Call /api/auth/mfa/setup first")]
    NotSetUp,
    /// No second factor is in force.
    #[error("MFA is not enabled")]
    NotEnabled,
    /// The code, or a later one, was accepted before.
    #[error("Invalid MFA code")]
    CodeUsed,
    /// The sign-in that the code is to complete was completed before.
    #[error("Invalid or expired pending token")]
    ChallengeSpent,
    /// Too many wrong codes were shown for this sign-in.
    #[error("Too many wrong codes. Please sign in again.")]
    ChallengeVoid,
    /// Too many wrong codes were shown, in whatever sign-ins.
    #[error("Too many wrong codes. Please try again later.")]
    Locked {
        /// When the next code is looked at.
        until: Timestamp,
    },
}

impl DomainError for MfaError {
    fn code(&self) -> &'static str {
        match self {
            Self::AlreadyEnabled => "mfa.already_enabled",
            Self::NotSetUp => "mfa.not_set_up",
            Self::NotEnabled => "mfa.not_enabled",
            Self::CodeUsed => "mfa.code_used",
            Self::ChallengeSpent => "mfa.challenge_spent",
            Self::ChallengeVoid => "mfa.challenge_void",
            Self::Locked { .. } => "mfa.locked",
        }
    }

    fn field(&self) -> Option<&'static str> {
        match self {
            Self::CodeUsed => Some("code"),
            Self::AlreadyEnabled
            | Self::NotSetUp
            | Self::NotEnabled
            | Self::ChallengeSpent
            | Self::ChallengeVoid
            | Self::Locked { .. } => None,
        }
    }
}
