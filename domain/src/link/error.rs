//! Rules of mailed links.

use crate::registry::DomainError;
use crate::values::Timestamp;

/// A broken rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LinkError {
    /// No link of that token is open: there was none, or a newer one has replaced it, or it was voided.
    #[error("the link is not valid")]
    Invalid,
    /// The link's time is over.
    #[error("the link has expired")]
    Expired,
    /// A link is used once.
    #[error("the link has already been used")]
    AlreadyUsed,
    /// Enough links were made lately.
    #[error("too many links were asked for; the next one can be at {0}")]
    TooMany(Timestamp),
}

impl DomainError for LinkError {
    fn code(&self) -> &'static str {
        match self {
            Self::Invalid => "link.invalid",
            Self::Expired => "link.expired",
            Self::AlreadyUsed => "link.already_used",
            Self::TooMany(_) => "link.too_many",
        }
    }

    fn field(&self) -> Option<&'static str> {
        match self {
            Self::Invalid | Self::Expired | Self::AlreadyUsed => Some("token"),
            Self::TooMany(_) => None,
        }
    }
}
