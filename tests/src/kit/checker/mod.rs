//! Judges a finished run: the log, read once from its first event to its last, against what writers and readers wrote
//! down.
//!
//! Keeps one small entry for each command, stream and claim, and none for events, so that a log of many millions fits.
//! What is proved, and from what:
//!
//! - positions are dense, versions of every stream are 1, 2, 3 ..., and a claim has one owner at every position: from
//!   the events alone, by rules written here a second time;
//! - every acknowledged command is in the log exactly once, at the positions its caller was told, with the streams,
//!   versions and numbers of events it asked for; nothing else is there that nobody sent; nothing that was refused
//!   every time is there;
//! - commits are linearizable: a command that was answered before another one was made precedes it, and every refusal
//!   was true at some moment between call and answer;
//! - every reader, whatever its page size and however often it died, saw the same sequence; a projection that moved
//!   from process to process took every event in exactly once;
//! - the store's own check of chain, streams and claims agrees.

mod judge;
mod ledger;

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use annals_eventstore::{EventStore, Hash, Position, Record};
use serde::Serialize;
use sha2::{Digest as _, Sha256};

use self::judge::Judge;
use super::KitError;
use super::history::{self, Line};

/// Violations that are told; the rest is counted.
const TOLD: usize = 20;

/// Stands for a sequence of events as a reader saw it, whatever pages it came in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Digest(pub Hash);

impl Digest {
    /// Of nothing.
    pub const START: Self = Self(Hash::ZERO);

    /// With one more event.
    #[must_use]
    pub fn with(self, record: &Record) -> Self {
        let mut sha = Sha256::new();
        sha.update(self.0.as_bytes());
        sha.update(record.position.get().to_be_bytes());
        sha.update(record.stream.aggregate_type);
        sha.update(record.stream.id.as_bytes());
        sha.update(record.version.to_be_bytes());
        sha.update(record.event.event_type());
        sha.update(record.metadata.event_id.as_bytes());
        sha.update(record.entry_hash.as_bytes());
        Self(Hash(sha.finalize().into()))
    }
}

/// Where a projection has come to, by its own table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Projected {
    /// Events it has taken in.
    pub events: u64,
    /// Of those events, in the order it took them in.
    pub digest: Digest,
}

/// What a check is given.
#[derive(Debug, Clone, Default)]
pub struct Evidence {
    /// Histories of writers.
    pub writers: Vec<PathBuf>,
    /// Histories of readers.
    pub readers: Vec<PathBuf>,
    /// What the projection ended with, if there is one.
    pub projected: Option<Projected>,
}

/// What a check found.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Checked {
    /// Events of the log.
    pub events: u64,
    /// Commands in the log.
    pub commands: u64,
    /// Streams of the log.
    pub streams: u64,
    /// Claims held at the end.
    pub claims: u64,
    /// Calls made by writers.
    pub calls: u64,
    /// Answers by what was said; `none` counts calls that died with their process.
    pub answers: BTreeMap<String, u64>,
    /// Refusals whose truth at some moment between call and answer was checked.
    pub refusals_checked: u64,
    /// Commands in doubt to their callers that turned out to be in the log.
    pub doubtful_done: u64,
    /// Commands in doubt that did not.
    pub doubtful_undone: u64,
    /// Commands of which a repetition, too, was told that it had just happened.
    pub told_again: u64,
    /// Digests of readers that were compared.
    pub digests: u64,
    /// Stretches of time without any acknowledgement, longest first, at most a hundred: begin and length in
    /// microseconds.
    pub pauses_us: Vec<(u64, u64)>,
    /// First and last acknowledgement, in microseconds of the histories' clock.
    pub acknowledged_us: Option<(u64, u64)>,
    /// What does not hold, in words.
    pub violations: Vec<String>,
    /// Violations beyond those told.
    pub more_violations: u64,
}

impl Checked {
    /// Whether everything holds.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.violations.is_empty()
    }

    fn violated(&mut self, what: impl fmt::Display) {
        if self.violations.len() < TOLD {
            self.violations.push(what.to_string());
        } else {
            self.more_violations += 1;
        }
    }
}

/// Checks a log that nobody writes any more.
///
/// # Errors
/// When the evidence cannot be read, which is no verdict on the store.
pub async fn check(store: &EventStore, evidence: &Evidence) -> Result<Checked, KitError> {
    // Beside what follows, for it reads the whole log too.
    let verifying = tokio::spawn({
        let store = store.clone();
        async move { store.verify(Position(1), |_| {}).await }
    });
    let mut judge = Judge::default();
    for path in &evidence.writers {
        judge.writer(path)?;
    }
    let mut seen: BTreeMap<u64, Vec<(Hash, usize)>> = BTreeMap::new();
    for (reader, path) in evidence.readers.iter().enumerate() {
        history::read(path, |line| {
            match line {
                Line::Seen(at) => seen.entry(at.position).or_default().push((at.digest, reader)),
                Line::Found { what } => judge.checked.violated(what),
                Line::Call(_) | Line::Answer(_) => {}
            }
            Ok(())
        })?;
    }
    judge.log(store, seen, evidence).await?;
    judge.finish(evidence);
    let mut checked = judge.checked;
    match verifying.await? {
        Ok(report) if report.events == checked.events => {}
        Ok(report) => checked.violated(format!(
            "verify counts {} events, the readers' way through the log {}",
            report.events, checked.events
        )),
        Err(fault) => checked.violated(format!("verify: {fault}")),
    }
    Ok(checked)
}
