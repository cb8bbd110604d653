//! The second factor of one user: an authenticator that shows codes by the time, and backup codes.
//! Stream `mfa/<UserId>`. Commands: [`MfaCommand`]; facts: [`MfaEvent`].
//!
//! That a code is accepted once, a sign-in completed once and a guess counted before the next one is decided by the
//! version of this stream: whoever comes second decides again, on what the first one has left.

mod command;
mod error;
pub(crate) mod event;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use cqrs_es::Aggregate;
use cqrs_es::event_sink::EventSink;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

pub use command::MfaCommand;
pub use error::MfaError;
pub use event::{ChallengeRef, MfaEvent};

use crate::ids::UserId;
use crate::personal::Personal;
use crate::registry::EventSourced;
use crate::values::{PasswordHash, Timestamp, TotpSecret};

/// Wrong codes that end one sign-in; its password must then be given again.
pub const WRONG_CODES_OF_A_CHALLENGE: u32 = 5;

/// Wrong codes in a row, and for how long after the last of them no code is looked at, in seconds; most first.
pub const LOCKS: [(u32, i64); 2] = [(15, 3600), (10, 15 * 60)];

/// How long a challenge is remembered beyond its end, in seconds: the clock of another process may be behind.
const REMEMBERED_BEYOND_SECONDS: i64 = 60;

/// What is needed to check a user's second factor.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mfa {
    /// A secret that was offered and not proven.
    pub offered_totp_secret: Option<Personal<TotpSecret>>,
    /// The secret in force; absent while there is no second factor.
    pub totp_secret: Option<Personal<TotpSecret>>,
    /// Since when.
    pub enabled_at: Option<Timestamp>,
    /// The latest time step of which a code was accepted.
    pub last_step: Option<u64>,
    /// The hashes of the present backup codes, used ones included.
    pub backup_codes: Option<Personal<Vec<PasswordHash>>>,
    /// How many backup codes the present set has, used ones included; known even when the hashes are erased.
    pub backup_codes_made: u8,
    /// Which of them were used.
    pub backup_codes_used: BTreeSet<u8>,
    /// Wrong codes since the last accepted one.
    pub failures: u32,
    /// When the last wrong code was shown.
    pub failed_at: Option<Timestamp>,
    /// Sign-ins of which a code was seen and whose tokens have not ended.
    pub challenges: BTreeMap<Uuid, Challenge>,
}

/// What is remembered of a sign-in that waits for its second factor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Challenge {
    /// Wrong codes shown for it.
    pub failures: u32,
    /// Whether it was completed.
    pub spent: bool,
    /// When its token ends.
    pub expires_at: Timestamp,
}

impl Aggregate for Mfa {
    const TYPE: &'static str = "mfa";
    type Command = MfaCommand;
    type Event = MfaEvent;
    type Error = MfaError;
    type Services = ();

    async fn handle(&mut self, command: MfaCommand, (): &(), sink: &EventSink<Self>) -> Result<(), MfaError> {
        for event in self.decide(command)? {
            sink.write(event, self).await;
        }
        Ok(())
    }

    fn apply(&mut self, event: MfaEvent) {
        match event {
            MfaEvent::SetupBegun { totp_secret, .. } => self.offered_totp_secret = Some(totp_secret),
            MfaEvent::Enabled { step, at } => {
                self.totp_secret = self.offered_totp_secret.take();
                self.enabled_at = Some(at);
                self.last_step = Some(step);
                self.failures = 0;
            }
            MfaEvent::BackupCodesMade { backup_codes, .. } => {
                let made = backup_codes.get().map_or(0, Vec::len);
                self.backup_codes_made = u8::try_from(made).unwrap_or(u8::MAX);
                self.backup_codes = Some(backup_codes);
                self.backup_codes_used.clear();
            }
            MfaEvent::CodeAccepted {
                step, challenge, at, ..
            } => {
                self.last_step = Some(step);
                self.accepted(challenge, at);
            }
            MfaEvent::BackupCodeUsed {
                index, challenge, at, ..
            } => {
                self.backup_codes_used.insert(index);
                self.accepted(challenge, at);
            }
            MfaEvent::CodeRefused { challenge, at, .. } => {
                self.failures = self.failures.saturating_add(1);
                self.failed_at = Some(at);
                if let Some(known) = self.remember(challenge, at) {
                    known.failures = known.failures.saturating_add(1);
                }
            }
            // Challenges are kept: a sign-in that was completed stays so, whatever is set up next.
            MfaEvent::Disabled { .. } => {
                *self = Self {
                    challenges: std::mem::take(&mut self.challenges),
                    ..Self::default()
                };
            }
        }
    }
}

impl EventSourced for Mfa {
    type Id = UserId;

    fn decide(&self, command: MfaCommand) -> Result<Vec<MfaEvent>, MfaError> {
        match command {
            MfaCommand::BeginSetup { totp_secret, at } => {
                self.must_not_be_enabled()?;
                Ok(vec![MfaEvent::SetupBegun { totp_secret, at }])
            }
            MfaCommand::Enable { step, backup_codes, at } => {
                self.must_not_be_enabled()?;
                if self.offered_totp_secret.is_none() {
                    return Err(MfaError::NotSetUp);
                }
                Ok(vec![
                    MfaEvent::Enabled { step, at },
                    MfaEvent::BackupCodesMade { backup_codes, at },
                ])
            }
            MfaCommand::AcceptCode {
                step,
                challenge,
                session_id,
                at,
            } => {
                self.must_take_a_code(challenge, at)?;
                if self.last_step.is_some_and(|last| step <= last) {
                    return Err(MfaError::CodeUsed);
                }
                Ok(vec![MfaEvent::CodeAccepted {
                    step,
                    challenge,
                    session_id,
                    at,
                }])
            }
            MfaCommand::UseBackupCode {
                index,
                challenge,
                session_id,
                at,
            } => {
                self.must_take_a_code(challenge, at)?;
                if index >= self.backup_codes_made || self.backup_codes_used.contains(&index) {
                    return Err(MfaError::CodeUsed);
                }
                Ok(vec![MfaEvent::BackupCodeUsed {
                    index,
                    challenge,
                    session_id,
                    at,
                }])
            }
            MfaCommand::RefuseCode { challenge, address, at } => {
                self.must_take_a_code(challenge, at)?;
                Ok(vec![MfaEvent::CodeRefused { challenge, address, at }])
            }
            MfaCommand::MakeBackupCodes { backup_codes, at } => {
                self.must_be_enabled()?;
                Ok(vec![MfaEvent::BackupCodesMade { backup_codes, at }])
            }
            MfaCommand::Disable { at } => {
                self.must_be_enabled()?;
                Ok(vec![MfaEvent::Disabled { at }])
            }
        }
    }
}

impl Mfa {
    /// Whether a second factor is asked for at sign-in. So it is when its secret was erased: nothing opens then.
    #[must_use]
    pub const fn is_enabled(&self) -> bool {
        self.enabled_at.is_some()
    }

    /// Backup codes that can still be used.
    #[must_use]
    pub fn backup_codes_left(&self) -> u8 {
        let used = u8::try_from(self.backup_codes_used.len()).unwrap_or(u8::MAX);
        self.backup_codes_made.saturating_sub(used)
    }

    /// Refuses unless a code would be looked at now.
    ///
    /// # Errors
    /// [`MfaError::NotEnabled`], [`MfaError::ChallengeSpent`], [`MfaError::ChallengeVoid`], [`MfaError::Locked`].
    pub fn must_take_a_code(&self, challenge: Option<ChallengeRef>, at: Timestamp) -> Result<(), MfaError> {
        self.must_be_enabled()?;
        if let Some(known) = challenge.and_then(|challenge| self.challenges.get(&challenge.id)) {
            if known.spent {
                return Err(MfaError::ChallengeSpent);
            }
            if known.failures >= WRONG_CODES_OF_A_CHALLENGE {
                return Err(MfaError::ChallengeVoid);
            }
        }
        match self.locked_until() {
            Some(until) if at < until => Err(MfaError::Locked { until }),
            _ => Ok(()),
        }
    }

    fn locked_until(&self) -> Option<Timestamp> {
        let (_, seconds) = LOCKS.into_iter().find(|(failures, _)| self.failures >= *failures)?;
        Some(self.failed_at?.plus_seconds(seconds))
    }

    fn must_be_enabled(&self) -> Result<(), MfaError> {
        if self.is_enabled() {
            Ok(())
        } else {
            Err(MfaError::NotEnabled)
        }
    }

    fn must_not_be_enabled(&self) -> Result<(), MfaError> {
        if self.is_enabled() {
            Err(MfaError::AlreadyEnabled)
        } else {
            Ok(())
        }
    }

    fn accepted(&mut self, challenge: Option<ChallengeRef>, at: Timestamp) {
        self.failures = 0;
        if let Some(known) = self.remember(challenge, at) {
            known.spent = true;
        }
    }

    /// The memory of a challenge; forgets those whose tokens have ended for everybody.
    fn remember(&mut self, challenge: Option<ChallengeRef>, at: Timestamp) -> Option<&mut Challenge> {
        self.challenges
            .retain(|_, known| known.expires_at.plus_seconds(REMEMBERED_BEYOND_SECONDS) > at);
        let challenge = challenge?;
        Some(self.challenges.entry(challenge.id).or_insert(Challenge {
            failures: 0,
            spent: false,
            expires_at: challenge.expires_at,
        }))
    }
}
