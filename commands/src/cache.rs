//! States of aggregates that commands have read or made a moment ago, kept so that the next command need not read them.
//!
//! # The rule
//!
//! A kept state may be stale: another process may have written to the stream since. So nothing that is answered rests
//! on a kept state alone.
//!
//! 1. **Events**: the append names the version that they follow from, and conflicts when the stream has moved on. The
//!    entry is then dropped, the stream read and the command decided again. A stream that was only read is either relied
//!    on, which makes its version a condition of the append, or its version is asked for before the append.
//! 2. **No events** ("it is so already"): nothing is appended that could conflict, so the versions of all streams that
//!    came from here are asked for, in one statement, before the answer is given; one that has moved is a conflict.
//! 3. **A refusal**, be it a broken rule, a version that is not the one the client has seen, something missing or not
//!    allowed: the command is decided once more, on states read afresh, and that answer counts.
//! 4. **Security** never rests on it: credentials and sessions are not kept at all, and only a unit of work that was
//!    begun by [`Retry::unit`](crate::executor::Retry::unit), whose loop carries out 1 to 3, looks in here. A
//!    [`UnitOfWork::new`](crate::UnitOfWork::new) reads the log.
//! 5. **People**: a state that holds a personal value is not kept, so that none outlives the erasure of its subject.

use std::any::Any;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use annals_domain::EventSourced;
use annals_domain::personal::PERSONAL_MEMBER;
use annals_eventstore::{StreamId, Version};
use moka::sync::Cache;

/// Bytes of all kept states together, by estimate.
const MOST_BYTES: u64 = 64 << 20;
/// Kept states.
const MOST_ENTRIES: u64 = 20_000;
/// A state that is larger, by estimate, is not kept, in bytes.
const LARGEST_STATE: usize = 1 << 20;
/// What a state takes in memory for each byte that it takes as JSON: texts, maps and spare room beside them.
const MEMORY_PER_BYTE: usize = 3;

/// Aggregates whose states are not kept: they hold what opens doors, and are decided upon without an append.
const NEVER_KEPT: &[&str] = &["auth", "mfa", "session"];

/// How often kept states were of use, since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CacheCounts {
    /// Loads that were answered from memory.
    pub hits: u64,
    /// Loads that could have been, and read the log.
    pub misses: u64,
    /// Kept states that turned out to be stale.
    pub stale: u64,
}

/// The kept states of one process.
pub(crate) struct AggregateCache {
    entries: Cache<StreamId, Entry>,
    hits: AtomicU64,
    misses: AtomicU64,
    stale: AtomicU64,
}

#[derive(Clone)]
struct Entry {
    state: Arc<dyn Any + Send + Sync>,
    version: Version,
    size_bytes: u32,
}

/// A state on its way into the cache, whatever its type.
pub(crate) struct Keepsake {
    stream: StreamId,
    entry: Entry,
}

impl fmt::Debug for Keepsake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keepsake")
            .field("stream", &self.stream)
            .field("version", &self.entry.version)
            .finish_non_exhaustive()
    }
}

impl Keepsake {
    pub(crate) const fn stream(&self) -> StreamId {
        self.stream
    }

    /// The state of `stream` at `version`; absent for one that is not kept.
    pub(crate) fn of<A: EventSourced>(stream: StreamId, version: Version, state: &A) -> Option<Self> {
        if version == 0 || NEVER_KEPT.contains(&stream.aggregate_type) {
            return None;
        }
        let size_bytes = memory_of(state)?;
        Some(Self {
            stream,
            entry: Entry {
                state: Arc::new(state.clone()),
                version,
                size_bytes: u32::try_from(size_bytes).unwrap_or(u32::MAX),
            },
        })
    }
}

impl AggregateCache {
    pub(crate) fn new() -> Self {
        // An entry weighs as much as its share of all entries at least, so that the one bound holds for both.
        let share = u32::try_from(MOST_BYTES.div_ceil(MOST_ENTRIES)).unwrap_or(u32::MAX);
        Self {
            entries: Cache::builder()
                .max_capacity(MOST_BYTES)
                .weigher(move |_, entry: &Entry| entry.size_bytes.max(share))
                .build(),
            hits: AtomicU64::new(0),
            misses: AtomicU64::new(0),
            stale: AtomicU64::new(0),
        }
    }

    /// The state kept of `stream`, which may be stale, and its version.
    pub(crate) fn get<A: EventSourced>(&self, stream: StreamId) -> Option<(A, Version)> {
        if NEVER_KEPT.contains(&stream.aggregate_type) {
            return None;
        }
        let found = self.entries.get(&stream).and_then(|entry| {
            let state = entry.state.downcast_ref::<A>()?.clone();
            Some((state, entry.version))
        });
        let counter = if found.is_some() { &self.hits } else { &self.misses };
        counter.fetch_add(1, Ordering::Relaxed);
        found
    }

    /// Keeps a state, unless one of a later version is kept already.
    pub(crate) fn put(&self, keepsake: Keepsake) {
        let Keepsake { stream, entry } = keepsake;
        self.entries.entry(stream).and_upsert_with(|present| match present {
            Some(present) if present.value().version > entry.version => present.into_value(),
            _ => entry,
        });
    }

    /// Forgets what is kept of `stream`.
    pub(crate) fn forget(&self, stream: StreamId) {
        self.entries.invalidate(&stream);
    }

    /// Forgets a state that has turned out to be stale.
    pub(crate) fn forget_stale(&self, stream: StreamId) {
        if self.entries.remove(&stream).is_some() {
            self.stale.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(crate) fn counts(&self) -> CacheCounts {
        CacheCounts {
            hits: self.hits.load(Ordering::Relaxed),
            misses: self.misses.load(Ordering::Relaxed),
            stale: self.stale.load(Ordering::Relaxed),
        }
    }
}

/// The memory that a state takes, by the length of its JSON, in bytes; absent when it is too large to be kept, or holds
/// personal values.
fn memory_of<A: EventSourced>(state: &A) -> Option<usize> {
    let json = serde_json::to_string(state).ok()?;
    if json.contains(PERSONAL_MEMBER) {
        return None;
    }
    let size = size_of::<A>().saturating_add(json.len().saturating_mul(MEMORY_PER_BYTE));
    (size <= LARGEST_STATE).then_some(size)
}

#[cfg(test)]
mod tests {
    use annals_domain::{Content, Personal, Route, Session, User};
    use uuid::Uuid;

    use super::*;

    fn stream(number: u128) -> StreamId {
        StreamId::new("route", Uuid::from_u128(number))
    }

    fn route(title: &str) -> Route {
        Route {
            title: title.to_owned(),
            ..Route::default()
        }
    }

    fn put(cache: &AggregateCache, number: u128, version: Version, state: &Route) {
        cache.put(Keepsake::of(stream(number), version, state).unwrap());
    }

    /// Evicting goes in steps, of which a busy cache takes one now and then.
    fn settle(cache: &AggregateCache) {
        for _ in 0..100 {
            cache.entries.run_pending_tasks();
        }
    }

    #[test]
    fn a_state_is_kept_with_its_version() {
        let cache = AggregateCache::new();
        assert!(cache.get::<Route>(stream(1)).is_none());
        put(&cache, 1, 3, &route("seven"));
        let (state, version) = cache.get::<Route>(stream(1)).unwrap();
        assert_eq!((state.title.as_str(), version), ("seven", 3));
        assert!(cache.get::<Route>(stream(2)).is_none());
        cache.forget_stale(stream(1));
        cache.forget_stale(stream(2));
        assert!(cache.get::<Route>(stream(1)).is_none());
        let counts = cache.counts();
        assert_eq!((counts.hits, counts.misses, counts.stale), (1, 3, 1));
    }

    #[test]
    fn what_comes_late_does_not_displace_what_is_newer() {
        let cache = AggregateCache::new();
        put(&cache, 1, 3, &route("three"));
        put(&cache, 1, 2, &route("two"));
        assert_eq!(cache.get::<Route>(stream(1)).unwrap().1, 3);
        put(&cache, 1, 4, &route("four"));
        assert_eq!(cache.get::<Route>(stream(1)).unwrap().1, 4);
    }

    #[test]
    fn people_credentials_sessions_and_what_does_not_exist_are_not_kept() {
        let person = Uuid::from_u128(1);
        let user = User {
            name: Some(Personal::new(person, "Ada".to_owned())),
            ..User::default()
        };
        assert!(Keepsake::of(StreamId::new("user", person), 1, &user).is_none());
        let session = StreamId::new("session", person);
        assert!(Keepsake::of(session, 1, &Session::default()).is_none());
        assert!(NEVER_KEPT.contains(&"auth"));
        assert!(Keepsake::of(stream(1), 0, &route("none")).is_none());
        // Nor are they counted as missed.
        let cache = AggregateCache::new();
        assert!(cache.get::<Session>(session).is_none());
        assert_eq!(cache.counts(), CacheCounts::default());
    }

    #[test]
    fn the_bounds_hold_for_many_and_for_large_states() {
        let cache = AggregateCache::new();
        for number in 0..(u128::from(MOST_ENTRIES) + 5000) {
            put(&cache, number, 1, &route("small"));
        }
        settle(&cache);
        let entries = cache.entries.entry_count();
        assert!(entries > MOST_ENTRIES / 2 && entries <= MOST_ENTRIES, "{entries}");
        assert!(cache.entries.weighted_size() <= MOST_BYTES);

        assert!(Keepsake::of(stream(1), 1, &route(&"a".repeat(LARGEST_STATE))).is_none());
        let large = route(&"a".repeat(100_000));
        let kept = Keepsake::of(stream(1), 1, &large).unwrap();
        assert!(kept.entry.size_bytes > 300_000);
        let cache = AggregateCache::new();
        for number in 0..1000 {
            put(&cache, number, 1, &large);
        }
        settle(&cache);
        assert!(cache.entries.entry_count() < 300);
        assert!(cache.entries.weighted_size() <= MOST_BYTES);
    }

    #[test]
    fn a_state_of_another_type_is_not_given_out() {
        let cache = AggregateCache::new();
        put(&cache, 1, 1, &route("a route"));
        assert!(cache.get::<Content>(stream(1)).is_none());
    }
}
