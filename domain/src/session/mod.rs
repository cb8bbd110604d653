//! One sign-in of a user on a device, from its start until it is revoked or expires.
//! Stream `session/<SessionId>`. Commands: [`SessionCommand`]; facts: [`SessionEvent`].

mod command;
mod error;
pub(crate) mod event;
#[cfg(test)]
mod tests;

use cqrs_es::Aggregate;
use cqrs_es::event_sink::EventSink;
use serde::{Deserialize, Serialize};

pub use command::SessionCommand;
pub use error::SessionError;
pub use event::{RevocationReason, SessionEvent};

use crate::ids::{SessionId, UserId};
use crate::registry::EventSourced;
use crate::values::{Timestamp, TokenDigest};

/// How often a session can be refreshed before its user must sign in again.
pub const MAX_REFRESHES: u32 = 1000;

/// Whether a session can still be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SessionStatus {
    /// Started and not ended.
    Live,
    /// Ended on purpose.
    Revoked,
    /// Ended by time.
    Expired,
}

/// A sign-in and the refresh token that continues it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Session {
    /// Whose session it is; absent before it has started.
    pub user_id: Option<UserId>,
    /// The digest of the refresh token accepted next; absent when the token is a signed one or there is none.
    pub refresh_digest: Option<TokenDigest>,
    /// The digest of the refresh token that was exchanged for the one accepted next, if one was.
    pub previous_digest: Option<TokenDigest>,
    /// When it ends unless refreshed.
    pub expires_at: Option<Timestamp>,
    /// When it started.
    pub started_at: Option<Timestamp>,
    /// When it was last refreshed, or else started.
    pub last_used_at: Option<Timestamp>,
    /// How often it was refreshed.
    pub refresh_count: u32,
    /// Absent before it has started. `Live` may be past its time: ask [`Session::is_live`].
    pub status: Option<SessionStatus>,
    /// Why it was revoked.
    pub revocation: Option<RevocationReason>,
}

impl Aggregate for Session {
    const TYPE: &'static str = "session";
    type Command = SessionCommand;
    type Event = SessionEvent;
    type Error = SessionError;
    type Services = ();

    async fn handle(&mut self, command: SessionCommand, (): &(), sink: &EventSink<Self>) -> Result<(), SessionError> {
        for event in self.decide(command)? {
            sink.write(event, self).await;
        }
        Ok(())
    }

    fn apply(&mut self, event: SessionEvent) {
        match event {
            SessionEvent::Started {
                user_id,
                refresh_digest,
                expires_at,
                at,
                ..
            } => {
                self.user_id = Some(user_id);
                self.refresh_digest = refresh_digest;
                self.expires_at = Some(expires_at);
                self.started_at = Some(at);
                self.last_used_at = Some(at);
                self.status = Some(SessionStatus::Live);
            }
            SessionEvent::Refreshed {
                refresh_digest,
                expires_at,
                at,
                ..
            } => {
                self.previous_digest = std::mem::replace(&mut self.refresh_digest, refresh_digest);
                self.expires_at = Some(expires_at);
                self.last_used_at = Some(at);
                self.refresh_count = self.refresh_count.saturating_add(1);
            }
            SessionEvent::Revoked { reason, .. } => {
                self.status = Some(SessionStatus::Revoked);
                self.revocation = Some(reason);
            }
            SessionEvent::Expired { .. } => self.status = Some(SessionStatus::Expired),
        }
    }
}

impl EventSourced for Session {
    type Id = SessionId;

    fn decide(&self, command: SessionCommand) -> Result<Vec<SessionEvent>, SessionError> {
        match command {
            SessionCommand::Start {
                user_id,
                refresh_digest,
                device,
                address,
                expires_at,
                at,
            } => {
                if self.status.is_some() {
                    return Err(SessionError::AlreadyStarted);
                }
                Ok(vec![SessionEvent::Started {
                    user_id,
                    refresh_digest,
                    device,
                    address,
                    expires_at,
                    at,
                }])
            }
            SessionCommand::Refresh {
                presented,
                generation,
                grace_seconds,
                next,
                expires_at,
                address,
                at,
            } => {
                self.must_not_have_ended()?;
                if self.is_past(at) {
                    return Ok(vec![SessionEvent::Expired { at }]);
                }
                if presented != self.refresh_digest {
                    let just_exchanged = presented.is_some() && presented == self.previous_digest;
                    if just_exchanged && self.was_used_within(grace_seconds, at) {
                        return Ok(vec![]);
                    }
                    if generation.is_some_and(|generation| generation < self.refresh_count) {
                        let reason = RevocationReason::RefreshReuse;
                        return Ok(vec![SessionEvent::Revoked { reason, at }]);
                    }
                    return Err(SessionError::RefreshTokenUnknown);
                }
                if self.refresh_count >= MAX_REFRESHES {
                    return Err(SessionError::RefreshLimit);
                }
                Ok(vec![SessionEvent::Refreshed {
                    refresh_digest: next,
                    expires_at,
                    address,
                    at,
                }])
            }
            SessionCommand::Revoke { reason, at } => {
                self.must_not_have_ended()?;
                Ok(vec![SessionEvent::Revoked { reason, at }])
            }
            SessionCommand::Expire { at } => match self.status {
                None => Err(SessionError::NotFound),
                Some(SessionStatus::Revoked | SessionStatus::Expired) => Ok(vec![]),
                Some(SessionStatus::Live) if self.is_past(at) => Ok(vec![SessionEvent::Expired { at }]),
                Some(SessionStatus::Live) => Err(SessionError::NotExpired),
            },
        }
    }
}

impl Session {
    /// Whether it can be used at this moment: started, not ended, and not past its time.
    #[must_use]
    pub fn is_live(&self, at: Timestamp) -> bool {
        self.status == Some(SessionStatus::Live) && !self.is_past(at)
    }

    fn was_used_within(&self, seconds: u32, at: Timestamp) -> bool {
        self.last_used_at
            .is_some_and(|used| at < used.plus_seconds(seconds.into()))
    }

    fn is_past(&self, at: Timestamp) -> bool {
        self.expires_at.is_some_and(|expires_at| at >= expires_at)
    }

    fn must_not_have_ended(&self) -> Result<(), SessionError> {
        match self.status {
            None => Err(SessionError::NotFound),
            Some(SessionStatus::Live) => Ok(()),
            Some(SessionStatus::Revoked | SessionStatus::Expired) => Err(SessionError::NotLive),
        }
    }
}
