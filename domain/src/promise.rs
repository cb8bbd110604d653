//! What a client promises with an idempotency key, and what has come of it within one request.
//!
//! The promise travels with the [`crate::Caller`], so that whatever a request commits first is marked with the key,
//! whichever handler and command function it takes. What the key means in the log is the event store's business.

use std::sync::OnceLock;

use uuid::Uuid;

use crate::ids::{SessionId, UserId};

/// A request under an idempotency key, as the log knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PromisedRequest {
    /// Whose key it is; keys of different principals never meet.
    pub principal: String,
    /// The key.
    pub key: String,
    /// Tells a repeated request from another one under the same key.
    pub request_hash: [u8; 32],
}

/// What the log has said to the first commit under the key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PromiseOutcome {
    /// Carried out, by this request.
    CarriedOut(PromisedCommit),
    /// Carried out before, by another request under the same key; this one has written nothing.
    CarriedOutBefore {
        /// Position of the last event of that commit.
        position: u64,
    },
    /// The key was used for another request; this one has written nothing.
    KeyReused,
}

/// The commit that carried a promised request out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PromisedCommit {
    /// Names the commit.
    pub command_id: Uuid,
    /// Position of its last event.
    pub position: u64,
    /// The users whom it is about: the one who acts and those whose accounts it changes; none twice.
    pub subjects: Vec<UserId>,
    /// The session that the request was made in, when the commit itself changes that session, as signing out does.
    pub session_id: Option<SessionId>,
}

/// A promise that starts out without a principal, for that is known only after authentication, and gets at most one
/// outcome. Shared by everybody who works on one request.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Promise {
    request: OnceLock<PromisedRequest>,
    outcome: OnceLock<PromiseOutcome>,
}

impl Promise {
    /// Says whose promise it is. The first to say so is right; false for everybody else.
    pub fn bind(&self, request: PromisedRequest) -> bool {
        self.request.set(request).is_ok()
    }

    /// What was promised; absent as long as nobody has said whose promise it is.
    #[must_use]
    pub fn request(&self) -> Option<&PromisedRequest> {
        self.request.get()
    }

    /// Notes what the log has said. The first word stays.
    pub fn settle(&self, outcome: PromiseOutcome) {
        // Commits of one request follow each other, and only the first is made under the key.
        let _ = self.outcome.set(outcome);
    }

    /// What the log has said; absent as long as nothing was committed.
    #[must_use]
    pub fn outcome(&self) -> Option<&PromiseOutcome> {
        self.outcome.get()
    }
}

#[cfg(test)]
mod tests {
    use super::{Promise, PromiseOutcome, PromisedRequest};

    #[test]
    fn the_first_word_stays() {
        let promise = Promise::default();
        let of = |principal: &str| PromisedRequest {
            principal: principal.to_owned(),
            key: "key".to_owned(),
            request_hash: [7; 32],
        };
        assert!(promise.request().is_none() && promise.outcome().is_none());
        assert!(promise.bind(of("first")));
        assert!(!promise.bind(of("second")));
        assert_eq!(promise.request(), Some(&of("first")));
        promise.settle(PromiseOutcome::KeyReused);
        promise.settle(PromiseOutcome::CarriedOutBefore { position: 1 });
        assert_eq!(promise.outcome(), Some(&PromiseOutcome::KeyReused));
    }
}
