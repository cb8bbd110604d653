//! The event store in its plainest form, in memory: one command after the other, each judged by maps.
//!
//! It shares nothing with the store but the domain's own words for what an event does to claims. Two things are judged
//! in the order of the store's documentation: a commit whose own streams want one claim is refused before anything is
//! looked up; then repetition, key, versions, claims, conditions, and the first of them that does not hold is the
//! answer.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use annals_domain::{AnyEvent, ClaimChange, ClaimKey, ClaimScope};
use annals_eventstore::{Append, AppendError, Appended, Condition, Hash, StreamId};
use uuid::Uuid;

/// Who holds what.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Claims {
    owners: BTreeMap<(ClaimScope, ClaimKey), StreamId>,
}

impl Claims {
    /// Who holds a claim.
    #[must_use]
    pub fn owner(&self, scope: ClaimScope, key: &ClaimKey) -> Option<StreamId> {
        self.owners.get(&(scope, key.clone())).copied()
    }

    /// All claims with their owners, in order.
    pub fn iter(&self) -> impl Iterator<Item = (ClaimScope, &ClaimKey, StreamId)> {
        self.owners.iter().map(|((scope, key), owner)| (*scope, key, *owner))
    }

    /// How many claims are held.
    #[must_use]
    pub fn len(&self) -> usize {
        self.owners.len()
    }

    /// Whether nobody holds anything.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.owners.is_empty()
    }

    /// What one event of `stream` does.
    ///
    /// # Errors
    /// The scopes of claims that other streams hold, none twice; the rest is done nevertheless.
    pub fn apply(&mut self, stream: StreamId, event: &AnyEvent) -> Result<(), BTreeSet<ClaimScope>> {
        let mut taken = BTreeSet::new();
        for change in event.claims(stream.id) {
            match change {
                ClaimChange::Take { scope, key } => {
                    let owner = *self.owners.entry((scope, key)).or_insert(stream);
                    if owner != stream {
                        taken.insert(scope);
                    }
                }
                ClaimChange::Release { scope, key } => {
                    let place = (scope, key);
                    if self.owners.get(&place) == Some(&stream) {
                        self.owners.remove(&place);
                    }
                }
                // A look at every claim; the checker, which has millions of events to get through, keeps an index.
                ClaimChange::ReleaseAll { scope } => self
                    .owners
                    .retain(|(held, _), owner| *held != scope || *owner != stream),
            }
        }
        if taken.is_empty() { Ok(()) } else { Err(taken) }
    }
}

/// What a command is answered with, short of hashes and times, which the model does not compute.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It is in the log.
    Done {
        /// The command that wrote the events.
        command: Uuid,
        /// Position of the first event.
        first: u64,
        /// Position of the last event.
        last: u64,
        /// Whether it had been carried out before.
        duplicate: bool,
    },
    /// A stream is at another version.
    Conflict {
        /// The first such stream.
        stream: StreamId,
        /// Its version.
        actual: u64,
    },
    /// Other streams hold claims in these scopes.
    Taken(Vec<ClaimScope>),
    /// Nobody holds a claim that somebody must hold.
    Missing(ClaimScope, ClaimKey),
    /// The key belongs to another request.
    Reused,
}

impl Verdict {
    /// What the store's answer says.
    ///
    /// # Errors
    /// An answer that a healthy store does not give.
    pub fn of(answer: Result<Appended, AppendError>) -> Result<Self, AppendError> {
        Ok(match answer {
            Ok(appended) => Self::Done {
                command: appended.command_id,
                first: appended.first_position.get(),
                last: appended.last_position.get(),
                duplicate: appended.duplicate,
            },
            Err(AppendError::Conflict { stream, actual, .. }) => Self::Conflict { stream, actual },
            Err(AppendError::Taken { scopes }) => Self::Taken(scopes),
            Err(AppendError::Missing { scope, key }) => Self::Missing(scope, key),
            Err(AppendError::IdempotencyKeyReused) => Self::Reused,
            Err(error) => return Err(error),
        })
    }
}

/// One event as the model has it.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// Whose event.
    pub stream: StreamId,
    /// Its number within the stream.
    pub version: u64,
    /// What happened.
    pub event: AnyEvent,
    /// Which command wrote it.
    pub command: Uuid,
}

/// The whole store.
#[derive(Debug, Clone, Default)]
pub struct Model {
    log: Vec<Entry>,
    versions: HashMap<StreamId, u64>,
    claims: Claims,
    commands: HashMap<Uuid, (u64, u64)>,
    keys: HashMap<(String, String), (Uuid, Hash)>,
}

impl Model {
    /// Every event, in the order of positions from 1.
    #[must_use]
    pub fn log(&self) -> &[Entry] {
        &self.log
    }

    /// Who holds what.
    #[must_use]
    pub fn claims(&self) -> &Claims {
        &self.claims
    }

    /// How many events a stream has.
    #[must_use]
    pub fn version(&self, stream: StreamId) -> u64 {
        self.versions.get(&stream).copied().unwrap_or(0)
    }

    /// Every stream with its version.
    pub fn versions(&self) -> impl Iterator<Item = (StreamId, u64)> {
        self.versions.iter().map(|(stream, version)| (*stream, *version))
    }

    /// First and last position of every command.
    pub fn commands(&self) -> impl Iterator<Item = (Uuid, (u64, u64))> {
        self.commands.iter().map(|(id, extent)| (*id, *extent))
    }

    /// Judges a command and carries it out if it may be.
    pub fn append(&mut self, append: &Append) -> Verdict {
        match self.judge(append) {
            Ok(claims) => self.carry_out(append, claims),
            Err(refusal) => refusal,
        }
    }

    fn judge(&self, append: &Append) -> Result<Claims, Verdict> {
        let mut alone = Claims::default();
        let mut taken = BTreeSet::new();
        for of in &append.streams {
            for event in &of.events {
                taken.extend(alone.apply(of.stream, event).err().unwrap_or_default());
            }
        }
        if !taken.is_empty() {
            return Err(Verdict::Taken(taken.into_iter().collect()));
        }
        if let Some(repeated) = self.repeated(append.command_id) {
            return Err(repeated);
        }
        if let Some(key) = &append.idempotency
            && let Some((command, hash)) = self.keys.get(&(key.principal.clone(), key.key.clone()))
        {
            let same = *hash == key.request_hash;
            return Err(self.repeated(*command).filter(|_| same).unwrap_or(Verdict::Reused));
        }
        let written = append.streams.iter().map(|of| (of.stream, of.expected));
        let read = append.conditions.iter().filter_map(|condition| match condition {
            Condition::Version { stream, version } => Some((*stream, *version)),
            Condition::Held { .. } => None,
        });
        for (stream, expected) in written.chain(read) {
            let actual = self.version(stream);
            if actual != expected {
                return Err(Verdict::Conflict { stream, actual });
            }
        }
        let mut claims = self.claims.clone();
        for of in &append.streams {
            for event in &of.events {
                taken.extend(claims.apply(of.stream, event).err().unwrap_or_default());
            }
        }
        if !taken.is_empty() {
            return Err(Verdict::Taken(taken.into_iter().collect()));
        }
        for condition in &append.conditions {
            if let Condition::Held { scope, key } = condition
                && self.claims.owner(*scope, key).is_none()
            {
                return Err(Verdict::Missing(*scope, key.clone()));
            }
        }
        Ok(claims)
    }

    fn repeated(&self, command: Uuid) -> Option<Verdict> {
        let (first, last) = *self.commands.get(&command)?;
        Some(Verdict::Done {
            command,
            first,
            last,
            duplicate: true,
        })
    }

    fn carry_out(&mut self, append: &Append, claims: Claims) -> Verdict {
        self.claims = claims;
        let first = self.log.len() as u64 + 1;
        for of in &append.streams {
            for (version, event) in (of.expected + 1..).zip(&of.events) {
                self.log.push(Entry {
                    stream: of.stream,
                    version,
                    event: event.clone(),
                    command: append.command_id,
                });
                self.versions.insert(of.stream, version);
            }
        }
        let last = self.log.len() as u64;
        self.commands.insert(append.command_id, (first, last));
        if let Some(key) = &append.idempotency {
            self.keys.insert(
                (key.principal.clone(), key.key.clone()),
                (append.command_id, key.request_hash),
            );
        }
        Verdict::Done {
            command: append.command_id,
            first,
            last,
            duplicate: false,
        }
    }
}
