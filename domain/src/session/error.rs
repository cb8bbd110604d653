//! Rules of sessions.

use crate::registry::DomainError;

/// A broken rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SessionError {
    /// There is no such session.
    #[error("there is no such session")]
    NotFound,
    /// A session starts once.
    #[error("the session has already started")]
    AlreadyStarted,
    /// The session was revoked or has expired.
    #[error("the session has ended")]
    NotLive,
    /// The session still has time left.
    #[error("the session has not expired")]
    NotExpired,
    /// The refresh token is not the one that the session accepts next.
    #[error("the refresh token is not the current one of this session")]
    RefreshTokenUnknown,
    /// The session was refreshed [`MAX_REFRESHES`](crate::session::MAX_REFRESHES) times.
    #[error("the session cannot be refreshed any more")]
    RefreshLimit,
}

impl DomainError for SessionError {
    fn code(&self) -> &'static str {
        match self {
            Self::NotFound => "session.not_found",
            Self::AlreadyStarted => "session.already_started",
            Self::NotLive => "session.not_live",
            Self::NotExpired => "session.not_expired",
            Self::RefreshTokenUnknown => "session.refresh_token_unknown",
            Self::RefreshLimit => "session.refresh_limit",
        }
    }

    fn field(&self) -> Option<&'static str> {
        match self {
            Self::RefreshTokenUnknown => Some("refresh_token"),
            Self::NotFound | Self::AlreadyStarted | Self::NotLive | Self::NotExpired | Self::RefreshLimit => None,
        }
    }
}
