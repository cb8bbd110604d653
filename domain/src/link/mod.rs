//! The links of one purpose that were mailed for one subject: of them the newest is good, once, for a while.
//! Stream `link/<LinkId>`, where the identifier follows from purpose and subject. Commands: [`LinkCommand`]; facts:
//! [`LinkEvent`].

mod command;
mod error;
pub(crate) mod event;
#[cfg(test)]
mod tests;

use cqrs_es::Aggregate;
use cqrs_es::event_sink::EventSink;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

pub use command::LinkCommand;
pub use error::LinkError;
pub use event::{LinkEvent, LinkPurpose};

use crate::ids::LinkId;
use crate::personal::Personal;
use crate::registry::EventSourced;
use crate::values::{EmailAddress, Timestamp, TokenDigest};

/// The span in which links of one purpose for one subject are counted, in seconds.
pub const WINDOW_SECONDS: i64 = 3600;

/// What has become of the newest link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LinkStatus {
    /// Not used; it may be past its time.
    Open,
    /// Used.
    Redeemed,
    /// No longer wanted.
    Voided,
}

/// The newest link, and when the latest ones were made.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Link {
    /// What it is good for; absent before the first one.
    pub purpose: Option<LinkPurpose>,
    /// For which user, registration or invitation; absent before the first one.
    pub subject: Option<Uuid>,
    /// Where it was mailed to.
    pub email: Option<Personal<EmailAddress>>,
    /// The digest of its token, as long as that is known.
    pub digest: Option<TokenDigest>,
    /// When it ends.
    pub expires_at: Option<Timestamp>,
    /// What has become of it; absent before the first one.
    pub status: Option<LinkStatus>,
    /// When the links of the last [`WINDOW_SECONDS`] before the newest one were made, that one included.
    pub recent: Vec<Timestamp>,
}

impl Aggregate for Link {
    const TYPE: &'static str = "link";
    type Command = LinkCommand;
    type Event = LinkEvent;
    type Error = LinkError;
    type Services = ();

    async fn handle(&mut self, command: LinkCommand, (): &(), sink: &EventSink<Self>) -> Result<(), LinkError> {
        for event in self.decide(command)? {
            sink.write(event, self).await;
        }
        Ok(())
    }

    fn apply(&mut self, event: LinkEvent) {
        match event {
            LinkEvent::Issued {
                purpose,
                subject,
                email,
                digest,
                expires_at,
                at,
                ..
            } => {
                self.purpose = Some(purpose);
                self.subject = Some(subject);
                self.email = Some(email);
                self.digest = Some(digest);
                self.expires_at = Some(expires_at);
                self.status = Some(LinkStatus::Open);
                self.recent.retain(|made| counts(*made, at));
                self.recent.push(at);
            }
            LinkEvent::Redeemed { .. } => self.status = Some(LinkStatus::Redeemed),
            LinkEvent::Voided { .. } => {
                self.status = Some(LinkStatus::Voided);
                self.digest = None;
            }
        }
    }
}

impl EventSourced for Link {
    type Id = LinkId;

    fn decide(&self, command: LinkCommand) -> Result<Vec<LinkEvent>, LinkError> {
        match command {
            LinkCommand::Issue {
                purpose,
                subject,
                email,
                nonce,
                digest,
                expires_at,
                most,
                at,
            } => {
                if let Some(next_at) = self.next_issue_at(most, at) {
                    return Err(LinkError::TooMany(next_at));
                }
                Ok(vec![LinkEvent::Issued {
                    purpose,
                    subject,
                    email,
                    nonce,
                    digest,
                    replaces: self.digest,
                    expires_at,
                    at,
                }])
            }
            LinkCommand::Redeem { presented, at } => {
                self.must_open(presented, at)?;
                Ok(vec![LinkEvent::Redeemed { at }])
            }
            LinkCommand::Void { at } => match (self.status, self.digest) {
                (Some(LinkStatus::Open), Some(digest)) => Ok(vec![LinkEvent::Voided { digest, at }]),
                _ => Ok(vec![]),
            },
        }
    }
}

impl Link {
    /// Whether a token of this digest opens anything at this moment.
    ///
    /// # Errors
    /// [`LinkError::Invalid`], [`LinkError::AlreadyUsed`], [`LinkError::Expired`].
    pub fn must_open(&self, presented: TokenDigest, at: Timestamp) -> Result<(), LinkError> {
        if self.digest != Some(presented) {
            return Err(LinkError::Invalid);
        }
        match self.status {
            None | Some(LinkStatus::Voided) => Err(LinkError::Invalid),
            Some(LinkStatus::Redeemed) => Err(LinkError::AlreadyUsed),
            Some(LinkStatus::Open) if self.is_past(at) => Err(LinkError::Expired),
            Some(LinkStatus::Open) => Ok(()),
        }
    }

    /// Whether a link can be used at this moment.
    #[must_use]
    pub fn is_open(&self, at: Timestamp) -> bool {
        self.status == Some(LinkStatus::Open) && !self.is_past(at)
    }

    /// When the next link can be made, if not at this moment.
    #[must_use]
    pub fn next_issue_at(&self, most: u32, at: Timestamp) -> Option<Timestamp> {
        let recent: Vec<Timestamp> = self.recent.iter().copied().filter(|made| counts(*made, at)).collect();
        let over = recent.len().checked_sub(most as usize)?;
        let oldest = recent.get(over).or(recent.last()).copied().unwrap_or(at);
        Some(oldest.plus_seconds(WINDOW_SECONDS))
    }

    fn is_past(&self, at: Timestamp) -> bool {
        self.expires_at.is_some_and(|expires_at| at >= expires_at)
    }
}

fn counts(made: Timestamp, at: Timestamp) -> bool {
    made.plus_seconds(WINDOW_SECONDS) > at
}
