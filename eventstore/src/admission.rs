//! Which waiting commands may go into one batch.
//!
//! The append function judges all commands of a batch by the log as it was before the batch. That is right only if no
//! command reads or writes what an earlier one of the batch writes. A command that must wait for that reason also
//! holds back later ones that touch the same things, so that nobody overtakes.

use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash as _, Hasher};

use uuid::Uuid;

use annals_domain::ClaimScope;

use crate::append::StreamId;

/// Something that commands may meet at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Touched<'a> {
    Command(Uuid),
    IdempotencyKey(&'a str, &'a str),
    Stream(StreamId),
    Claim(ClaimScope, &'a [u8]),
}

impl Touched<'_> {
    /// Two things of one mark would only make a command wait that need not.
    fn mark(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.hash(&mut hasher);
        hasher.finish()
    }
}

/// What a command reads and writes.
#[derive(Debug, Clone, Default)]
pub(crate) struct Footprint {
    written: Vec<u64>,
    read: Vec<u64>,
    /// Scopes of which a stream gives up everything, whatever that is: known to the database alone.
    released: Vec<ClaimScope>,
    /// Scopes in which a claim must be held.
    held: Vec<ClaimScope>,
}

impl Footprint {
    pub(crate) fn writes(&mut self, thing: Touched<'_>) {
        self.written.push(thing.mark());
    }

    pub(crate) fn reads(&mut self, thing: Touched<'_>) {
        self.read.push(thing.mark());
    }

    pub(crate) fn releases_all(&mut self, scope: ClaimScope) {
        self.released.push(scope);
    }

    pub(crate) fn requires(&mut self, scope: ClaimScope, key: &[u8]) {
        self.reads(Touched::Claim(scope, key));
        self.held.push(scope);
    }
}

/// The footprints of a batch so far, and of those that were made to wait.
#[derive(Debug, Default)]
struct Gate {
    written: HashSet<u64>,
    released: HashSet<ClaimScope>,
    waiting_read: HashSet<u64>,
    waiting_held: HashSet<ClaimScope>,
}

impl Gate {
    fn admits(&self, footprint: &Footprint) -> bool {
        !footprint
            .written
            .iter()
            .any(|mark| self.written.contains(mark) || self.waiting_read.contains(mark))
            && !footprint.read.iter().any(|mark| self.written.contains(mark))
            && !footprint.held.iter().any(|scope| self.released.contains(scope))
            && !footprint.released.iter().any(|scope| self.waiting_held.contains(scope))
    }

    fn admit(&mut self, footprint: &Footprint) {
        self.written.extend(&footprint.written);
        self.released.extend(&footprint.released);
    }

    fn hold_back(&mut self, footprint: &Footprint) {
        self.admit(footprint);
        self.waiting_read.extend(&footprint.read);
        self.waiting_held.extend(&footprint.held);
    }
}

/// The bounds of a batch.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    pub(crate) commands: usize,
    pub(crate) bytes: usize,
}

/// Says of each waiting command, in order, whether it goes into the next batch. The first one always does.
pub(crate) fn choose<'a>(waiting: impl IntoIterator<Item = (&'a Footprint, usize)>, bounds: Bounds) -> Vec<bool> {
    let mut gate = Gate::default();
    let (mut commands, mut bytes) = (0, 0_usize);
    let mut chosen = Vec::new();
    for (footprint, size) in waiting {
        if commands == bounds.commands {
            break;
        }
        if commands > 0 && bytes.saturating_add(size) > bounds.bytes {
            break; // the next batch, rather than letting small ones overtake for ever
        }
        let admitted = gate.admits(footprint);
        if admitted {
            gate.admit(footprint);
            commands += 1;
            bytes = bytes.saturating_add(size);
        } else {
            gate.hold_back(footprint);
        }
        chosen.push(admitted);
    }
    chosen
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{Strategy, any, prop, prop_assert, proptest};

    use super::*;

    #[derive(Debug, Clone)]
    struct Command {
        written: Vec<u8>,
        read: Vec<u8>,
        released: Vec<ClaimScope>,
        held: Vec<ClaimScope>,
        size: usize,
    }

    impl Command {
        fn footprint(&self) -> Footprint {
            let mut footprint = Footprint::default();
            let stream = |number: &u8| Touched::Stream(StreamId::new("content", Uuid::from_u128(u128::from(*number))));
            self.written.iter().for_each(|number| footprint.writes(stream(number)));
            self.read.iter().for_each(|number| footprint.reads(stream(number)));
            self.released.iter().for_each(|scope| footprint.releases_all(*scope));
            footprint.held.clone_from(&self.held);
            footprint
        }

        /// Whether judging `self` before `earlier` is carried out could give another answer than after.
        fn depends_on(&self, earlier: &Self) -> bool {
            self.written
                .iter()
                .chain(&self.read)
                .any(|thing| earlier.written.contains(thing))
                || self.held.iter().any(|scope| earlier.released.contains(scope))
        }

        fn may_not_overtake(&self, earlier: &Self) -> bool {
            self.depends_on(earlier)
                || self.written.iter().any(|thing| earlier.read.contains(thing))
                || self.released.iter().any(|scope| earlier.held.contains(scope))
        }
    }

    fn command() -> impl Strategy<Value = Command> {
        let things = || prop::collection::vec(0_u8..12, 0..3);
        let scopes = || prop::collection::vec(prop::sample::select(&ClaimScope::ALL[..4]), 0..2);
        (things(), things(), scopes(), scopes(), 1_usize..100).prop_map(|(written, read, released, held, size)| {
            Command {
                written,
                read,
                released,
                held,
                size,
            }
        })
    }

    proptest! {
        #[test]
        fn a_batch_is_independent_and_nobody_overtakes(
            commands in prop::collection::vec(command(), 1..20),
            most in 1_usize..12,
            bytes in 1_usize..600,
        ) {
            let footprints: Vec<_> = commands.iter().map(Command::footprint).collect();
            let waiting = footprints.iter().zip(commands.iter().map(|command| command.size));
            let chosen = choose(waiting, Bounds { commands: most, bytes });
            prop_assert!(chosen[0]);
            let size: usize = commands.iter().zip(&chosen).filter(|(_, chosen)| **chosen).map(|(command, _)| command.size).sum();
            let count = chosen.iter().filter(|chosen| **chosen).count();
            prop_assert!(count <= most && (size <= bytes || count == 1));
            for (later, in_batch) in chosen.iter().enumerate() {
                if !in_batch {
                    continue;
                }
                for earlier in 0..later {
                    if chosen[earlier] {
                        prop_assert!(!commands[later].depends_on(&commands[earlier]));
                    } else {
                        prop_assert!(!commands[later].may_not_overtake(&commands[earlier]));
                    }
                }
            }
        }

        #[test]
        fn everything_waiting_gets_its_turn_in_order(commands in prop::collection::vec(command(), 1..20), seed in any::<u8>()) {
            let bounds = Bounds { commands: usize::from(seed % 5) + 1, bytes: 150 };
            let mut waiting: Vec<Command> = commands;
            let mut batches = 0;
            while !waiting.is_empty() {
                let footprints: Vec<_> = waiting.iter().map(Command::footprint).collect();
                let chosen = choose(footprints.iter().zip(waiting.iter().map(|command| command.size)), bounds);
                let mut number = 0;
                waiting.retain(|_| {
                    number += 1;
                    !chosen.get(number - 1).copied().unwrap_or(false)
                });
                batches += 1;
                prop_assert!(batches <= 20);
            }
        }
    }

    #[test]
    fn independent_commands_go_together() {
        let footprints: Vec<_> = (0..256_u128)
            .map(|number| {
                let mut footprint = Footprint::default();
                footprint.writes(Touched::Stream(StreamId::new("user", Uuid::from_u128(number))));
                footprint.requires(ClaimScope::User, b"the same author");
                footprint
            })
            .collect();
        let bounds = Bounds {
            commands: 256,
            bytes: 1 << 20,
        };
        assert!(
            choose(footprints.iter().map(|footprint| (footprint, 100)), bounds)
                .iter()
                .all(|chosen| *chosen)
        );
    }
}
