//! The judgement itself: what callers say of every command, held against the log event by event.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::hash::{DefaultHasher, Hash as _, Hasher};
use std::path::Path;

use annals_domain::{AnyEvent, ClaimKey, ClaimScope, UserEvent};
use annals_eventstore::{EventStore, Hash, Position, Record, StreamId};
use uuid::Uuid;

use super::ledger::{ClaimIndex, Listed};
use super::{Checked, Digest, Evidence, Projected};
use crate::kit::KitError;
use crate::kit::history::{self, Answer, Call, Line, Told};

/// Events of one page.
const PAGE: usize = 5000;
/// The finest that a pause is measured, in microseconds.
const PAUSE_UNIT_US: u64 = 10_000;

/// What is known of one command from its callers.
#[derive(Debug, Default)]
struct Fate {
    /// Of streams, versions and numbers of events.
    asked: u64,
    called: u64,
    /// When it was first acknowledged; 0 when it never was.
    answered: u64,
    first: u64,
    last: u64,
    /// Calls that nobody answered, or with "unknown".
    open: u32,
    /// Times that its caller was told it had just happened.
    done: u32,
    is_in_log: bool,
    /// Answered as a repetition of another command, under its key.
    is_repetition: bool,
}

impl Fate {
    /// The last moment at which it may have happened.
    fn latest(&self) -> u64 {
        if self.answered == 0 { u64::MAX } else { self.answered }
    }
}

#[derive(Debug)]
struct Period {
    owner: StreamId,
    from: u64,
    until: u64,
}

#[derive(Debug)]
struct TakenRefusal {
    slug: String,
    stream: StreamId,
    called: u64,
    answered: u64,
}

#[derive(Debug, Default)]
pub(super) struct Judge {
    pub(super) checked: Checked,
    fates: HashMap<Uuid, Fate>,
    /// Commands with a key, and those that were told to be repetitions under one.
    keys: HashMap<String, Vec<(Uuid, u8)>>,
    key_of: HashMap<Uuid, (String, u8)>,
    repetitions: Vec<(Uuid, Uuid)>,
    reused: Vec<Uuid>,
    conflicts: HashMap<(StreamId, u64), Vec<(u64, u64)>>,
    taken: Vec<TakenRefusal>,
    slug_wanted: HashMap<Uuid, (String, StreamId)>,
    acknowledged: HashSet<u64>,
    versions: HashMap<StreamId, u64>,
    claims: ClaimIndex,
    periods: HashMap<ClaimKey, Vec<Period>>,
    /// The latest call among the commands so far, and which it was.
    latest_call: (u64, Uuid),
}

fn asked_digest(parts: impl IntoIterator<Item = (StreamId, u64, u64)>) -> u64 {
    let mut hasher = DefaultHasher::new();
    for part in parts {
        part.hash(&mut hasher);
    }
    hasher.finish()
}

impl Judge {
    pub(super) fn writer(&mut self, path: &Path) -> Result<(), KitError> {
        history::read(path, |line| match line {
            Line::Call(call) => self.call(call),
            Line::Answer(answer) => self.answer(answer),
            Line::Found { what } => {
                self.checked.violated(what);
                Ok(())
            }
            Line::Seen(_) => Ok(()),
        })?;
        Ok(())
    }

    fn call(&mut self, call: Call) -> std::io::Result<()> {
        self.checked.calls += 1;
        let mut parts = Vec::with_capacity(call.streams.len());
        for (stream, expected, events) in &call.streams {
            parts.push((history::stream_of(stream)?, *expected, *events));
        }
        if let (Some(slug), Some((stream, ..))) = (call.slug, parts.first()) {
            self.slug_wanted.insert(call.id, (slug, *stream));
        }
        let asked = asked_digest(parts);
        match self.fates.entry(call.id) {
            Entry::Vacant(place) => {
                place.insert(Fate {
                    asked,
                    called: call.at,
                    open: 1,
                    ..Fate::default()
                });
                if let Some((key, hash)) = call.key {
                    self.keys.entry(key.clone()).or_default().push((call.id, hash));
                    self.key_of.insert(call.id, (key, hash));
                }
            }
            Entry::Occupied(mut known) => {
                let known = known.get_mut();
                known.open += 1;
                if known.asked != asked {
                    self.checked
                        .violated(format!("the kit sent {} twice with different contents", call.id));
                }
            }
        }
        Ok(())
    }

    fn answer(&mut self, answer: Answer) -> std::io::Result<()> {
        *self.checked.answers.entry(answer.told.kind().to_owned()).or_default() += 1;
        let Some(fate) = self.fates.get_mut(&answer.id) else {
            self.checked
                .violated(format!("the kit has an answer to {}, which it never sent", answer.id));
            return Ok(());
        };
        match answer.told {
            Told::Unknown => return Ok(()), // still open
            Told::Done {
                by,
                first,
                last,
                duplicate,
            } => {
                self.acknowledged.insert(answer.at / PAUSE_UNIT_US);
                if by != answer.id {
                    fate.is_repetition = true;
                    self.repetitions.push((answer.id, by));
                } else if fate.answered == 0 {
                    fate.answered = answer.at;
                    (fate.first, fate.last) = (first, last);
                } else if (fate.first, fate.last) != (first, last) {
                    self.checked.violated(format!(
                        "{} was told to be at {first} to {last}, and at {} to {}",
                        answer.id, fate.first, fate.last
                    ));
                } else {
                    fate.answered = fate.answered.min(answer.at);
                }
                if !duplicate {
                    fate.done += 1;
                }
            }
            Told::Conflict { stream, actual } => {
                let stream = history::stream_of(&stream)?;
                self.conflicts
                    .entry((stream, actual))
                    .or_default()
                    .push((fate.called, answer.at));
                self.checked.refusals_checked += 1;
            }
            Told::Taken => match self.slug_wanted.get(&answer.id) {
                Some((slug, stream)) => {
                    self.taken.push(TakenRefusal {
                        slug: slug.clone(),
                        stream: *stream,
                        called: fate.called,
                        answered: answer.at,
                    });
                    self.checked.refusals_checked += 1;
                }
                None => self.checked.violated(format!(
                    "{} was refused for a claim that nobody competes for",
                    answer.id
                )),
            },
            Told::Reused => self.reused.push(answer.id),
            Told::Refused(why) => self
                .checked
                .violated(format!("{}, which is well formed, was refused: {why}", answer.id)),
            Told::Missing => self
                .checked
                .violated(format!("{} was refused for a claim that is always held", answer.id)),
            Told::Overloaded | Told::Unavailable => {}
        }
        fate.open -= 1;
        Ok(())
    }

    pub(super) async fn log(
        &mut self,
        store: &EventStore,
        seen: BTreeMap<u64, Vec<(Hash, usize)>>,
        evidence: &Evidence,
    ) -> Result<(), KitError> {
        let head = store.head().await?.position;
        let mut listed = Listed::new(store);
        let mut digest = Digest::START;
        let mut position = Position::START;
        let mut run: Vec<Record> = Vec::new();
        loop {
            let page = match store.read_after(position, PAGE).await {
                Ok(page) => page,
                Err(error) => {
                    let cause = std::error::Error::source(&error).map(ToString::to_string);
                    self.checked.violated(format!(
                        "the log cannot be read after {position}: {error} {}",
                        cause.unwrap_or_default()
                    ));
                    break;
                }
            };
            let Some(last) = page.last() else { break };
            let expected = position.get() + 1;
            position = last.position;
            for (expected, record) in (expected..).zip(page) {
                if record.position.get() != expected {
                    self.checked
                        .violated(format!("position {expected} is missing: {} follows", record.position));
                }
                digest = digest.with(&record);
                for (claimed, reader) in seen.get(&record.position.get()).into_iter().flatten() {
                    self.checked.digests += 1;
                    if *claimed != digest.0 {
                        self.checked.violated(format!(
                            "reader {} saw another sequence up to position {}",
                            evidence.readers[*reader].display(),
                            record.position
                        ));
                    }
                }
                self.event(&record);
                if run
                    .first()
                    .is_some_and(|first| first.metadata.command_id != record.metadata.command_id)
                {
                    self.command(&run, listed.next().await?);
                    run.clear();
                }
                run.push(record);
            }
        }
        if !run.is_empty() {
            self.command(&run, listed.next().await?);
        }
        if let Some((id, ..)) = listed.next().await? {
            self.checked
                .violated(format!("command {id} is listed, but the log has no event of it"));
        }
        self.checked.events = position.get();
        if position != head {
            self.checked
                .violated(format!("the log ends at {position}, but its head is {head}"));
        }
        if let Some((beyond, _)) = seen.range(position.get() + 1..).next() {
            self.checked
                .violated(format!("a reader has seen position {beyond}, which is beyond the end"));
        }
        if let Some(projected) = evidence.projected {
            let expected = Projected {
                events: position.get(),
                digest,
            };
            if projected != expected {
                self.checked.violated(format!(
                    "the projection has taken in {} events with digest {}; the log has {} with {}",
                    projected.events, projected.digest.0, expected.events, digest.0
                ));
            }
        }
        Ok(())
    }

    /// What one event must be by itself and by its stream.
    fn event(&mut self, record: &Record) {
        let stream = record.stream;
        let version = self.versions.entry(stream).or_default();
        *version += 1;
        if *version != record.version {
            self.checked.violated(format!(
                "position {} is version {} of {stream}, not {version}",
                record.position, record.version
            ));
        }
        if let AnyEvent::User(UserEvent::Registered { email, .. }) = &record.event
            && email.get().is_none()
        {
            self.checked.violated(format!(
                "position {}: the key of {stream} is lost, though nobody erased it",
                record.position
            ));
        }
        let fate = self.fates.get(&record.metadata.command_id);
        let (called, latest) = fate.map_or((0, u64::MAX), |fate| (fate.called, fate.latest()));
        // Whoever was told "it is at version n" was told so after n came about and before n + 1 was known to.
        for (_, answered) in self.conflicts.get(&(stream, record.version)).into_iter().flatten() {
            if called > *answered {
                self.checked.violated(format!(
                    "{stream} was said to be at version {} before that was even asked for",
                    record.version
                ));
            }
        }
        for (refused, _) in self.conflicts.get(&(stream, record.version - 1)).into_iter().flatten() {
            if latest < *refused {
                self.checked.violated(format!(
                    "{stream} was said to be at version {} after version {} had been acknowledged",
                    record.version - 1,
                    record.version
                ));
            }
        }
        for change in record.event.claims(stream.id) {
            let refused = self.claims.apply(stream, change, |scope, key, taken| {
                if scope == ClaimScope::Slug {
                    let periods = self.periods.entry(key.clone()).or_default();
                    if taken {
                        periods.push(Period {
                            owner: stream,
                            from: called,
                            until: u64::MAX,
                        });
                    } else if let Some(period) = periods.last_mut() {
                        period.until = latest;
                    }
                }
            });
            if let Some((scope, key, owner)) = refused {
                self.checked.violated(format!(
                    "position {}: {stream} takes {scope} {key:?}, which {owner} holds",
                    record.position
                ));
            }
        }
    }

    /// What the events of one command must be together.
    fn command(&mut self, run: &[Record], listed: Option<(Uuid, u64, u64)>) {
        let (Some(first), Some(last)) = (run.first(), run.last()) else {
            return;
        };
        self.checked.commands += 1;
        let id = first.metadata.command_id;
        let extent = (first.position.get(), last.position.get());
        if listed != Some((id, extent.0, extent.1)) {
            self.checked.violated(format!(
                "command {id} is at {} to {}, but listed as {listed:?}",
                extent.0, extent.1
            ));
        }
        let mut parts: Vec<(StreamId, u64, u64)> = Vec::new();
        for record in run {
            match parts.last_mut() {
                Some((stream, _, events)) if *stream == record.stream => *events += 1,
                _ => parts.push((record.stream, record.version - 1, 1)),
            }
        }
        let Some(fate) = self.fates.get_mut(&id) else {
            self.checked
                .violated(format!("command {id} at {} was sent by nobody", extent.0));
            return;
        };
        if fate.is_in_log {
            self.checked
                .violated(format!("command {id} is in the log twice, again at {}", extent.0));
        }
        fate.is_in_log = true;
        if fate.asked != asked_digest(parts) {
            self.checked.violated(format!(
                "command {id} at {} is not what was asked for: half of it, or more than it",
                extent.0
            ));
        }
        if fate.answered != 0 && (fate.first, fate.last) != extent {
            self.checked.violated(format!(
                "command {id} is at {} to {}, but was told to be at {} to {}",
                extent.0, extent.1, fate.first, fate.last
            ));
        }
        if fate.latest() < self.latest_call.0 {
            self.checked.violated(format!(
                "command {id} was acknowledged before {} was made, but comes after it in the log",
                self.latest_call.1
            ));
        }
        if fate.called > self.latest_call.0 {
            self.latest_call = (fate.called, id);
        }
    }

    /// What can be said only at the end.
    pub(super) fn finish(&mut self, evidence: &Evidence) {
        let checked = &mut self.checked;
        checked.streams = self.versions.len() as u64;
        checked.claims = self.claims.owners.len() as u64;
        let mut unanswered = 0;
        for (id, fate) in &self.fates {
            match (fate.is_in_log, fate.answered != 0, fate.open > 0) {
                (false, true, _) => checked.violated(format!(
                    "command {id} was acknowledged at {} and is not in the log",
                    fate.first
                )),
                (true, false, false) => {
                    checked.violated(format!("command {id} is in the log, though it was refused every time"));
                }
                (true, false, true) => checked.doubtful_done += 1,
                (false, false, true) => checked.doubtful_undone += 1,
                _ => {}
            }
            if fate.is_repetition && fate.is_in_log {
                checked.violated(format!("command {id} repeats another one and is in the log itself"));
            }
            if fate.done == 0 && fate.answered != 0 && fate.open == 0 {
                checked.violated(format!("nobody was told that command {id} had just happened"));
            }
            // A repetition whose connection was lost finds its command carried out, and cannot know by whom.
            checked.told_again += u64::from(fate.done > 1);
            unanswered += u64::from(fate.open);
        }
        let unknown = checked.answers.get("unknown").copied().unwrap_or(0);
        checked
            .answers
            .insert("none".to_owned(), unanswered.saturating_sub(unknown));
        for ((stream, actual), refusals) in &self.conflicts {
            if self.versions.get(stream).copied().unwrap_or(0) < *actual {
                checked.violated(format!(
                    "{stream} was said {} times to be at version {actual}, which it never came to",
                    refusals.len()
                ));
            }
        }
        self.check_keys();
        self.check_taken();
        self.pauses();
        if !evidence.readers.is_empty() && self.checked.digests == 0 {
            self.checked.violated("the readers have seen nothing");
        }
    }

    fn check_keys(&mut self) {
        let in_log = |id: &Uuid| self.fates.get(id).is_some_and(|fate| fate.is_in_log);
        let mut first_of: HashMap<&str, (Uuid, u8)> = HashMap::new();
        for (key, commands) in &self.keys {
            let mut done = commands.iter().filter(|(id, _)| in_log(id));
            if let Some(first) = done.next() {
                first_of.insert(key, *first);
            }
            if let Some((second, _)) = done.next() {
                self.checked
                    .violated(format!("key {key} was used by two commands; {second} is one of them"));
            }
        }
        for (id, by) in &self.repetitions {
            let known = self.key_of.get(id);
            let first = known.and_then(|(key, _)| first_of.get(key.as_str()));
            if first.is_none_or(|(first, hash)| first != by || known.is_none_or(|(_, own)| own != hash)) {
                self.checked
                    .violated(format!("{id} was said to repeat {by}, which has not its key and hash"));
            }
        }
        for id in &self.reused {
            let known = self.key_of.get(id);
            let first = known.and_then(|(key, _)| first_of.get(key.as_str()));
            if first.is_none_or(|(_, hash)| known.is_none_or(|(_, own)| own == hash)) {
                self.checked
                    .violated(format!("{id} was refused for a key that no other request has used"));
            }
        }
    }

    fn check_taken(&mut self) {
        for refusal in &self.taken {
            let Ok(slug) = annals_domain::Slug::parse(&refusal.slug) else {
                self.checked
                    .violated(format!("the kit made a slug that is none: {}", refusal.slug));
                continue;
            };
            let key = annals_domain::claims::slug_key(annals_domain::Realm::Site, &slug);
            let held = self.periods.get(&key).into_iter().flatten().any(|period| {
                period.owner != refusal.stream && period.from <= refusal.answered && period.until >= refusal.called
            });
            if !held {
                self.checked.violated(format!(
                    "{} was said to be taken at a moment when nobody else held it",
                    refusal.slug
                ));
            }
        }
    }

    fn pauses(&mut self) {
        let mut moments: Vec<u64> = self.acknowledged.iter().copied().collect();
        moments.sort_unstable();
        if let (Some(first), Some(last)) = (moments.first(), moments.last()) {
            self.checked.acknowledged_us = Some((first * PAUSE_UNIT_US, last * PAUSE_UNIT_US));
        }
        let mut pauses: Vec<(u64, u64)> = moments
            .windows(2)
            .map(|pair| (pair[0] * PAUSE_UNIT_US, (pair[1] - pair[0]) * PAUSE_UNIT_US))
            .collect();
        pauses.sort_unstable_by_key(|(_, length)| std::cmp::Reverse(*length));
        pauses.truncate(100);
        self.checked.pauses_us = pauses;
    }
}
