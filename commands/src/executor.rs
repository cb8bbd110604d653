//! Load, decide, append: how every command runs, and what makes several streams one commit.
//!
//! A conflict means that somebody else was quicker; the command is decided again on the new state. A caller who
//! demanded a version is told instead, for the check is repeated on every load. States may come from memory, by the rule
//! of [`crate::cache`].

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use annals_domain::{
    Actor, ClaimKey, ClaimScope, EventSourced, Promise, PromiseOutcome, PromisedCommit, Session, SessionId, Timestamp,
    User, UserId,
};
use annals_eventstore::{
    Append, AppendError, Appended, Condition, Hash, Idempotency, Position, StreamAppend, StreamId, Version,
};
use cqrs_es::Aggregate as _;
use uuid::Uuid;

use crate::cache::Keepsake;
use crate::{CommandContext, CommandError};

/// How often a commit of unknown outcome is asked for again; the log carries it out once.
const OUTCOME_ATTEMPTS: u32 = 3;

/// Longest pause between two attempts, in milliseconds.
const MAX_PAUSE_MS: u64 = 64;

/// What a command has led to. Durable when the caller holds it.
#[derive(Debug, Clone)]
pub struct Committed<A: EventSourced> {
    /// Which aggregate.
    pub id: A::Id,
    /// Its state after the command.
    pub state: A,
    /// Its version after the command.
    pub version: Version,
    /// Read models that have reached this position show the command's effect.
    pub position: Position,
    /// Whether the command had been carried out before, and this is the answer given then.
    pub duplicate: bool,
}

/// A demand that something exists at the moment of the commit, and which member of the request makes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reference {
    /// What is referred to.
    pub scope: ClaimScope,
    /// Its claim.
    pub key: ClaimKey,
    /// The member that refers to it.
    pub field: Option<&'static str>,
}

impl Reference {
    /// A reference by identifier.
    #[must_use]
    pub fn to(scope: ClaimScope, id: impl Into<Uuid>, field: &'static str) -> Self {
        Self {
            scope,
            key: ClaimKey::id(id),
            field: Some(field),
        }
    }

    /// A reference that is demanded only when it is a new one: what was referred to before may have been deleted
    /// since, and must not keep the rest from being changed.
    #[must_use]
    pub fn if_changed<I: Into<Uuid> + Copy + PartialEq>(
        scope: ClaimScope,
        now: Option<I>,
        before: Option<I>,
        field: &'static str,
    ) -> Option<Self> {
        now.filter(|_| now != before).map(|id| Self::to(scope, id, field))
    }
}

/// An aggregate within a unit of work: its state as it will be.
#[derive(Debug, Clone)]
pub struct Staged<A: EventSourced> {
    /// Which aggregate.
    pub id: A::Id,
    /// Its state after the commit.
    pub state: A,
    /// Its version after the commit.
    pub version: Version,
}

impl<A: EventSourced> Staged<A> {
    pub(crate) fn committed(self, commit: Commit) -> Committed<A> {
        Committed {
            id: self.id,
            state: self.state,
            version: self.version,
            position: commit.position,
            duplicate: commit.duplicate,
        }
    }
}

/// Where a unit of work came to lie in the log.
#[derive(Debug, Clone, Copy)]
pub struct Commit {
    /// Position of its last event; the head of the log when there was nothing to write.
    pub position: Position,
    /// Whether it had been written before.
    pub duplicate: bool,
}

/// Events of several streams that happen together or not at all.
#[derive(Debug)]
pub struct UnitOfWork<'a> {
    cx: &'a CommandContext<'a>,
    actor: Actor,
    streams: Vec<StreamAppend>,
    seen: Vec<(StreamId, Version)>,
    references: Vec<Reference>,
    under_key: bool,
    memory: Option<Memory>,
}

/// What a unit of work has to do with kept states.
#[derive(Debug)]
struct Memory {
    /// Whether loads read the log all the same.
    reads_fresh: bool,
    /// Tells the loop around the unit that it rests on kept states.
    recalled_any: Arc<AtomicBool>,
    recalled: Mutex<Vec<(StreamId, Version)>>,
    /// States to keep once they are committed.
    keepsakes: Vec<Keepsake>,
}

impl<'a> UnitOfWork<'a> {
    /// An empty unit, in the name of the context's caller. It reads the log, whatever is kept in memory.
    #[must_use]
    pub fn new(cx: &'a CommandContext<'a>) -> Self {
        Self {
            cx,
            actor: cx.caller.actor.clone(),
            streams: Vec::new(),
            seen: Vec::new(),
            references: Vec::new(),
            under_key: true,
            memory: None,
        }
    }

    /// The same for what may be done again before the commit that decides: it is not made under the idempotency key of
    /// the request, which would count as carried out although the rest could still be refused.
    #[must_use]
    pub fn beforehand(cx: &'a CommandContext<'a>) -> Self {
        Self {
            under_key: false,
            ..Self::new(cx)
        }
    }

    pub(crate) const fn context(&self) -> &'a CommandContext<'a> {
        self.cx
    }

    pub(crate) fn now(&self) -> Timestamp {
        self.cx.now()
    }

    /// Names another actor, for commands by which somebody unknown becomes known.
    pub fn act_as(&mut self, actor: Actor) {
        self.actor = actor;
    }

    /// Stages the commands of a new aggregate. The commit conflicts when its stream exists.
    ///
    /// # Errors
    /// The rule that a command breaks.
    pub fn create<A: EventSourced>(
        &mut self,
        id: A::Id,
        commands: impl IntoIterator<Item = A::Command>,
    ) -> Result<Staged<A>, CommandError> {
        self.stage(
            Staged {
                id,
                state: A::default(),
                version: 0,
            },
            commands,
        )
    }

    /// Reads an aggregate to stage commands of it later; in a unit of [`Retry::unit`] it may come from memory.
    ///
    /// # Errors
    /// [`CommandError::Unavailable`], or [`CommandError::Internal`] when the stream is damaged.
    pub async fn load<A: EventSourced>(&self, id: A::Id) -> Result<Staged<A>, CommandError> {
        let stream = StreamId::new(A::TYPE, id);
        let cache = self.cx.commands.cache();
        if let Some(memory) = self.memory.as_ref().filter(|memory| !memory.reads_fresh)
            && let Some((state, version)) = cache.get::<A>(stream)
        {
            memory.recalled_any.store(true, Ordering::Relaxed);
            let mut recalled = memory.recalled.lock().unwrap_or_else(PoisonError::into_inner);
            recalled.push((stream, version));
            return Ok(Staged { id, state, version });
        }
        let loaded = self.cx.store().load::<A>(id).await?;
        if self.memory.is_some()
            && let Some(keepsake) = Keepsake::of(stream, loaded.version, &loaded.state)
        {
            cache.put(keepsake);
        }
        Ok(Staged {
            id,
            state: loaded.state,
            version: loaded.version,
        })
    }

    /// Stages `commands` of an aggregate as it was read, one after the other. An aggregate is staged at most once.
    ///
    /// # Errors
    /// The rule that a command breaks; nothing of this aggregate is staged then.
    pub fn stage<A: EventSourced>(
        &mut self,
        read: Staged<A>,
        commands: impl IntoIterator<Item = A::Command>,
    ) -> Result<Staged<A>, CommandError> {
        let Staged { id, mut state, version } = read;
        let stream = StreamId::new(A::TYPE, id);
        let mut events = Vec::new();
        for command in commands {
            let decided = state.decide(command).map_err(|error| CommandError::broken(&error))?;
            for event in decided {
                state.apply(event.clone());
                events.push(event.into());
            }
        }
        let count = events.len() as Version;
        if !events.is_empty() {
            if let Some(memory) = &mut self.memory {
                memory.keepsakes.extend(Keepsake::of(stream, version + count, &state));
            }
            self.streams.push(StreamAppend {
                stream,
                expected: version,
                events,
            });
        }
        Ok(Staged {
            id,
            state,
            version: version + count,
        })
    }

    /// Demands that what the references name exists at the moment of the commit.
    pub fn require(&mut self, references: impl IntoIterator<Item = Reference>) {
        for reference in references {
            if !self.references.contains(&reference) {
                self.references.push(reference);
            }
        }
    }

    /// Demands that a stream which is only read stays at the version it was read at. A stream that is relied on at
    /// two versions has moved while the unit was put together, and the commit conflicts.
    pub fn rely_on<A: EventSourced>(&mut self, read: &Staged<A>) {
        let seen = (StreamId::new(A::TYPE, read.id), read.version);
        if !self.seen.contains(&seen) {
            self.seen.push(seen);
        }
    }

    /// Writes everything in one commit. With nothing to write, nothing is checked either, except that states which came
    /// from memory are still the present ones.
    ///
    /// # Errors
    /// [`CommandError::Conflict`] when a stream has moved on: load and decide again. [`CommandError::Taken`],
    /// [`CommandError::Missing`], [`CommandError::Overloaded`], [`CommandError::Unavailable`],
    /// [`CommandError::OutcomeUnknown`]; [`CommandError::AlreadyCarriedOut`] and
    /// [`CommandError::IdempotencyKeyReused`] by the idempotency key of the request.
    pub async fn commit(mut self) -> Result<Commit, CommandError> {
        let store = self.cx.store();
        let written: Vec<StreamId> = self.streams.iter().map(|append| append.stream).collect();
        let keepsakes = self.confirm_recalled(&written).await?;
        if self.streams.is_empty() {
            return Ok(Commit {
                position: store.head().await?.position,
                duplicate: false,
            });
        }
        if moved_meanwhile(&self.seen) {
            return Err(CommandError::Conflict);
        }
        let under_key = UnderKey::of(&self, &written)?;
        let relied_on: Vec<StreamId> = self.seen.iter().map(|(stream, _)| *stream).collect();
        let versions = self
            .seen
            .into_iter()
            .filter(|(stream, _)| !written.contains(stream))
            .map(|(stream, version)| Condition::Version { stream, version });
        let held = self.references.iter().map(|reference| Condition::Held {
            scope: reference.scope,
            key: reference.key.clone(),
        });
        let append = Append {
            command_id: Uuid::now_v7(),
            actor: self.actor,
            correlation_id: self.cx.caller.correlation_id,
            causation_id: self.cx.caller.causation_id,
            idempotency: under_key.as_ref().map(UnderKey::idempotency),
            conditions: versions.chain(held).collect(),
            streams: self.streams,
        };
        let mut attempt = 1;
        let mut unknown = false;
        let error = loop {
            match store.append(append.clone()).await {
                Ok(appended) if appended.command_id != append.command_id => {
                    break CommandError::AlreadyCarriedOut {
                        position: appended.last_position,
                    };
                }
                Ok(appended) => {
                    if let Some(under_key) = under_key {
                        under_key.carried_out(&appended);
                    }
                    let repeated = attempt > 1; // then a duplicate is this very command
                    let duplicate = appended.duplicate && !repeated;
                    self.cx.remember(&written, keepsakes.filter(|_| !duplicate));
                    return Ok(Commit {
                        position: appended.last_position,
                        duplicate,
                    });
                }
                Err(AppendError::OutcomeUnknown) if attempt < OUTCOME_ATTEMPTS => {
                    unknown = true;
                    attempt += 1;
                    pause(attempt).await;
                }
                Err(error) => break answer(error, unknown, &self.references),
            }
        };
        let stale = matches!(error, CommandError::Conflict);
        for stream in written.iter().chain(&relied_on) {
            self.cx.forget(*stream, stale);
        }
        if let Some(under_key) = under_key {
            under_key.refused(&error);
        }
        Err(error)
    }

    /// Asks for the versions of those streams that came from memory and that the append will not check. Returns the
    /// states to keep after it.
    async fn confirm_recalled(&mut self, written: &[StreamId]) -> Result<Option<Vec<Keepsake>>, CommandError> {
        let Some(memory) = self.memory.take() else {
            return Ok(None);
        };
        let mut recalled = memory.recalled.into_inner().unwrap_or_else(PoisonError::into_inner);
        if !written.is_empty() {
            let relied_on = |stream: &StreamId| self.seen.iter().any(|(seen, _)| seen == stream);
            recalled.retain(|(stream, _)| !written.contains(stream) && !relied_on(stream));
        }
        if !recalled.is_empty() {
            let streams: Vec<StreamId> = recalled.iter().map(|(stream, _)| *stream).collect();
            let present = self.cx.store().versions_of(&streams).await?;
            let mut moved = false;
            for ((stream, version), present) in recalled.into_iter().zip(present) {
                if version != present {
                    self.cx.forget(stream, true);
                    moved = true;
                }
            }
            if moved {
                return Err(CommandError::Conflict);
            }
        }
        Ok(Some(memory.keepsakes))
    }
}

/// The first commit of a request whose client gave an idempotency key.
struct UnderKey<'a> {
    promise: &'a Promise,
    idempotency: Idempotency,
    subjects: Vec<UserId>,
    session_id: Option<SessionId>,
}

impl<'a> UnderKey<'a> {
    /// Nothing once a commit has succeeded under the key: what the same request commits later goes without.
    fn of(unit: &UnitOfWork<'a>, written: &[StreamId]) -> Result<Option<Self>, CommandError> {
        let caller = unit.cx.caller;
        let Some(promise) = caller.promise.as_deref().filter(|_| unit.under_key) else {
            return Ok(None);
        };
        if promise.outcome().is_some() {
            return Ok(None);
        }
        let Some(request) = promise.request() else {
            let text = "a commit under an idempotency key of which nobody said whose it is";
            return Err(CommandError::Internal(text.to_owned()));
        };
        let accounts = written.iter().filter(|stream| stream.aggregate_type == User::TYPE);
        let mut subjects: Vec<UserId> = accounts.map(|stream| UserId::new(stream.id)).collect();
        if let Actor::User(acting) = unit.actor
            && !subjects.contains(&acting)
        {
            subjects.push(acting);
        }
        Ok(Some(Self {
            promise,
            idempotency: Idempotency {
                principal: request.principal.clone(),
                key: request.key.clone(),
                request_hash: Hash(request.request_hash),
            },
            subjects,
            session_id: caller
                .session_id
                .filter(|id| written.contains(&StreamId::new(Session::TYPE, *id))),
        }))
    }

    fn idempotency(&self) -> Idempotency {
        self.idempotency.clone()
    }

    fn carried_out(self, appended: &Appended) {
        self.promise.settle(PromiseOutcome::CarriedOut(PromisedCommit {
            command_id: appended.command_id,
            position: appended.last_position.get(),
            subjects: self.subjects,
            session_id: self.session_id,
        }));
    }

    /// Other refusals leave the key free for another attempt.
    fn refused(self, error: &CommandError) {
        match error {
            CommandError::AlreadyCarriedOut { position } => self.promise.settle(PromiseOutcome::CarriedOutBefore {
                position: position.get(),
            }),
            CommandError::IdempotencyKeyReused => self.promise.settle(PromiseOutcome::KeyReused),
            _ => {}
        }
    }
}

impl CommandContext<'_> {
    /// Keeps what was committed; what was written without being kept is forgotten, for it is stale now.
    fn remember(&self, written: &[StreamId], keepsakes: Option<Vec<Keepsake>>) {
        let cache = self.commands.cache();
        match keepsakes {
            Some(keepsakes) => {
                for stream in written {
                    if !keepsakes.iter().any(|keepsake| keepsake.stream() == *stream) {
                        cache.forget(*stream);
                    }
                }
                keepsakes.into_iter().for_each(|keepsake| cache.put(keepsake));
            }
            None => written.iter().for_each(|stream| cache.forget(*stream)),
        }
    }

    fn forget(&self, stream: StreamId, stale: bool) {
        let cache = self.commands.cache();
        if stale {
            cache.forget_stale(stream);
        } else {
            cache.forget(stream);
        }
    }
}

/// Whether a stream was read at more than one version.
fn moved_meanwhile(seen: &[(StreamId, Version)]) -> bool {
    seen.iter()
        .enumerate()
        .any(|(index, (stream, version))| seen[..index].iter().any(|(other, at)| other == stream && at != version))
}

/// What the caller is told of a commit that failed. Once the outcome of an attempt was `unknown`, a later attempt
/// that did not get as far as the log tells nothing about it.
fn answer(error: AppendError, unknown: bool, references: &[Reference]) -> CommandError {
    match error {
        AppendError::Overloaded { .. } | AppendError::Unavailable(_) | AppendError::Refused(_) if unknown => {
            tracing::warn!(%error, "a commit of unknown outcome could not be asked for again");
            CommandError::OutcomeUnknown
        }
        AppendError::Conflict { .. } => CommandError::Conflict,
        AppendError::Taken { scopes } => CommandError::Taken { scopes },
        AppendError::Missing { scope, key } => CommandError::Missing {
            scope,
            field: references
                .iter()
                .find(|reference| reference.scope == scope && reference.key == key)
                .and_then(|reference| reference.field),
        },
        AppendError::Overloaded { retry_after } => CommandError::Overloaded { retry_after },
        AppendError::OutcomeUnknown => CommandError::OutcomeUnknown,
        AppendError::Unavailable(source) => source.into(),
        AppendError::IdempotencyKeyReused => CommandError::IdempotencyKeyReused,
        AppendError::NoStream { .. } | AppendError::Unregistered { .. } => CommandError::Internal(error.to_string()),
        AppendError::Refused(text) => CommandError::Internal(text),
    }
}

/// Counts the attempts of one command, and keeps answers from resting on states in memory alone: see [`crate::cache`].
#[derive(Debug)]
pub struct Retry {
    attempt: u32,
    limit: u32,
    reads_fresh: bool,
    recalled_any: Arc<AtomicBool>,
}

impl Retry {
    pub(crate) fn new(limit: u32) -> Self {
        Self {
            attempt: 0,
            limit,
            reads_fresh: false,
            recalled_any: Arc::default(),
        }
    }

    /// An empty unit for the next attempt, which may take states from memory until one of them has failed it. Every
    /// error of the attempt, whoever found it, must be given to [`Retry::after`].
    #[must_use]
    pub fn unit<'a>(&self, cx: &'a CommandContext<'a>) -> UnitOfWork<'a> {
        UnitOfWork {
            memory: Some(Memory {
                reads_fresh: self.reads_fresh,
                recalled_any: Arc::clone(&self.recalled_any),
                recalled: Mutex::default(),
                keepsakes: Vec::new(),
            }),
            ..UnitOfWork::new(cx)
        }
    }

    /// Returns, after a short pause of random length, when the command should be decided again; at once when it was
    /// decided on states from memory, and with nothing but the log from then on.
    ///
    /// # Errors
    /// `error` itself, when it is no conflict or the attempts are used up.
    pub async fn after(&mut self, error: CommandError) -> Result<(), CommandError> {
        if self.recalled_any.swap(false, Ordering::Relaxed) && rests_on_state(&error) {
            self.reads_fresh = true;
            return Ok(());
        }
        if !matches!(error, CommandError::Conflict) || self.attempt >= self.limit {
            return Err(error);
        }
        self.attempt += 1;
        pause(self.attempt).await;
        Ok(())
    }
}

/// Whether another state could have led to another answer, and nothing has been written or may have been.
fn rests_on_state(error: &CommandError) -> bool {
    matches!(
        error,
        CommandError::Conflict
            | CommandError::Denied(_)
            | CommandError::Domain { .. }
            | CommandError::Missing { .. }
            | CommandError::Stale { .. }
            | CommandError::Taken { .. }
    )
}

/// A random part of a span that doubles with every attempt, so that those who collided once part.
async fn pause(attempt: u32) {
    let span = 1_u64.checked_shl(attempt).unwrap_or(MAX_PAUSE_MS).min(MAX_PAUSE_MS);
    let mut random = [0; 8];
    // Without random numbers the pause is its longest.
    let part = getrandom::fill(&mut random).map_or(u64::MAX, |()| u64::from_le_bytes(random));
    let micros = part % (span * 1000);
    tokio::time::sleep(Duration::from_micros(micros)).await;
}

impl CommandContext<'_> {
    /// Runs one command of one aggregate: load, decide, append; again when somebody else was quicker.
    ///
    /// # Errors
    /// The broken rule; [`CommandError::Stale`] when `expected` is not the current version;
    /// [`CommandError::Missing`] naming the reference that does not exist; what [`UnitOfWork::commit`] reports.
    pub async fn execute<A: EventSourced>(
        &self,
        id: A::Id,
        command: A::Command,
        expected: Option<Version>,
        references: Vec<Reference>,
    ) -> Result<Committed<A>, CommandError> {
        self.execute_on::<A>(id, expected, |_| Ok((vec![command.clone()], references.clone())))
            .await
    }

    /// The same for commands and references that depend on the present state.
    ///
    /// # Errors
    /// As [`CommandContext::execute`], and what `plan` refuses.
    pub async fn execute_on<A: EventSourced>(
        &self,
        id: A::Id,
        expected: Option<Version>,
        plan: impl Fn(&A) -> Result<(Vec<A::Command>, Vec<Reference>), CommandError> + Send + Sync,
    ) -> Result<Committed<A>, CommandError> {
        let mut retry = self.retry();
        loop {
            let attempt = async {
                let mut unit = retry.unit(self);
                let read = unit.load::<A>(id).await?;
                read.must_be_at(expected)?;
                let (commands, references) = plan(&read.state)?;
                unit.require(references);
                let staged = unit.stage(read, commands)?;
                let commit = unit.commit().await?;
                Ok(staged.committed(commit))
            };
            match attempt.await {
                Ok(committed) => return Ok(committed),
                Err(error) => retry.after(error).await?,
            }
        }
    }

    /// Runs the first commands of a new aggregate without reading its stream first; reads it only when it turns out
    /// to exist, for the refusal that the aggregate itself gives.
    ///
    /// # Errors
    /// As [`CommandContext::execute`].
    pub async fn create<A: EventSourced>(
        &self,
        id: A::Id,
        commands: Vec<A::Command>,
        references: Vec<Reference>,
    ) -> Result<Committed<A>, CommandError> {
        let mut unit = self.retry().unit(self);
        unit.require(references.clone());
        let staged = unit.create::<A>(id, commands.clone())?;
        match unit.commit().await {
            Ok(commit) => Ok(staged.committed(commit)),
            // A deleted aggregate has given up its claims but not its stream; a live one still holds its own.
            Err(CommandError::Conflict | CommandError::Taken { .. }) => {
                self.execute_on::<A>(id, None, |_| Ok((commands.clone(), references.clone())))
                    .await
            }
            Err(error) => Err(error),
        }
    }

    /// The reference to an author, unless it is the caller, who is known to exist, or the author from before.
    pub(crate) fn author(&self, now: Option<UserId>, before: Option<UserId>) -> Option<Reference> {
        let other = now.filter(|author| self.caller.user_id() != Some(*author));
        Reference::if_changed(ClaimScope::User, other, before, "author_id")
    }

    pub(crate) fn retry(&self) -> Retry {
        Retry::new(self.commands.settings().conflict_retries)
    }
}

impl<A: EventSourced> Staged<A> {
    /// Refuses unless the aggregate is at the version that the caller has seen.
    ///
    /// # Errors
    /// [`CommandError::Stale`].
    pub fn must_be_at(&self, expected: Option<Version>) -> Result<(), CommandError> {
        match expected {
            Some(expected) if expected != self.version => Err(CommandError::Stale {
                expected,
                actual: self.version,
            }),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::Ordering;
    use std::time::Duration;

    use annals_eventstore::{AppendError, StoreError, StreamId};
    use uuid::Uuid;

    use annals_domain::ClaimScope;

    use super::{Retry, answer, moved_meanwhile};
    use crate::CommandError;

    #[test]
    fn what_is_unknown_stays_unknown_until_the_log_answers() {
        let errors = || {
            [
                AppendError::Overloaded {
                    retry_after: Duration::from_secs(1),
                },
                AppendError::Unavailable(Arc::new(StoreError::Closed)),
                AppendError::Refused("too long".to_owned()),
            ]
        };
        for error in errors() {
            assert!(matches!(answer(error, true, &[]), CommandError::OutcomeUnknown));
        }
        for error in errors() {
            assert!(!matches!(answer(error, false, &[]), CommandError::OutcomeUnknown));
        }
        let taken = AppendError::Taken { scopes: Vec::new() };
        assert!(matches!(answer(taken, true, &[]), CommandError::Taken { .. }));
    }

    #[tokio::test]
    async fn what_rests_on_memory_is_decided_once_more_and_what_does_not_is_final() {
        let refusals = || {
            [
                CommandError::Conflict,
                CommandError::rule("route.rule", None, "broken"),
                CommandError::not_found(ClaimScope::Route),
                CommandError::Taken { scopes: Vec::new() },
                CommandError::Stale { expected: 1, actual: 2 },
            ]
        };
        for refusal in refusals() {
            let mut retry = Retry::new(0);
            retry.recalled_any.store(true, Ordering::Relaxed);
            retry.after(refusal.clone()).await.unwrap();
            assert!(retry.reads_fresh);
            assert!(retry.after(refusal).await.is_err(), "the second answer counts");
        }
        for refusal in refusals() {
            assert!(Retry::new(0).after(refusal).await.is_err());
        }
        for outcome in [
            CommandError::OutcomeUnknown,
            CommandError::Internal("damage".to_owned()),
        ] {
            let mut retry = Retry::new(9);
            retry.recalled_any.store(true, Ordering::Relaxed);
            assert!(retry.after(outcome).await.is_err(), "it may have been carried out");
        }
    }

    #[test]
    fn a_stream_read_at_two_versions_has_moved() {
        let [one, other] = [Uuid::from_u128(1), Uuid::from_u128(2)].map(|id| StreamId::new("content", id));
        assert!(!moved_meanwhile(&[(one, 1), (other, 2)]));
        assert!(moved_meanwhile(&[(one, 1), (other, 2), (one, 2)]));
    }
}
