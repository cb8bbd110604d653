//! Streams that grow long: said aloud once when it happens, and listed for whoever asks.
//!
//! A stream is the life of one thing. One of thousands of events is loaded slowly without its snapshot, and often
//! means that two things share a stream, or that something is recorded that is not a fact about it.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde::Serialize;
use sqlx::{PgPool, Row};
use uuid::Uuid;

use crate::append::{StreamId, Version, aggregate_type_of};
use crate::error::StoreError;

/// A stream of so many events is long: it is listed, and said aloud when it becomes so.
pub const LONG_STREAM: Version = 1_000;
/// A stream of so many events is said aloud again, as an error.
pub const VERY_LONG_STREAM: Version = 10_000;

/// Alarms of one process within a minute; the rest are counted and told with the next one.
const ALARMS_PER_MINUTE: u32 = 10;
const MINUTE: Duration = Duration::from_mins(1);

/// Streams that are looked at for each power of two of their length.
const LOOKED_AT: i64 = 100;

/// A stream has one event of version 1000 if it is long, one of version 2000 if it is twice as long, and so on by powers
/// of two: some streams of each power are looked at, the very longest among them. The index knows only versions that
/// are multiples of 1000.
const LONGEST: &str = "
    select s.aggregate_type, s.aggregate_id, s.version
    from (
        select distinct e.aggregate_type, e.aggregate_id::uuid as aggregate_id
        from generate_series(0, 40) as power(n)
        cross join lateral (
            select m.aggregate_type, m.aggregate_id
            from log.events m
            where m.sequence % 1000 = 0 and m.sequence = 1000 * (1::bigint << power.n)
            limit $2
        ) e
    ) found
    join log.streams s on s.aggregate_type = found.aggregate_type and s.aggregate_id = found.aggregate_id
    order by s.version desc, s.aggregate_type, s.aggregate_id
    limit $1
";

/// A stream and how many events it has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct StreamLength {
    /// Which stream.
    pub stream: StreamId,
    /// Its events.
    pub events: Version,
}

/// The longest streams of at least [`LONG_STREAM`] events, longest first, at most `limit`. When more than a hundred are
/// long, some of those listed may be shorter than one that is not, by less than half.
pub(crate) async fn longest(pool: &PgPool, limit: usize) -> Result<Vec<StreamLength>, StoreError> {
    let rows = sqlx::query(LONGEST)
        .bind(i64::try_from(limit).unwrap_or(i64::MAX))
        .bind(LOOKED_AT)
        .fetch_all(pool)
        .await?;
    let mut streams = Vec::with_capacity(rows.len());
    for row in rows {
        // A newer program may know aggregates that this one does not.
        let Some(aggregate_type) = aggregate_type_of(row.try_get("aggregate_type")?) else {
            continue;
        };
        streams.push(StreamLength {
            stream: StreamId {
                aggregate_type,
                id: row.try_get::<Uuid, _>("aggregate_id")?,
            },
            events: row.try_get::<i64, _>("version")?.cast_unsigned(),
        });
    }
    Ok(streams)
}

/// The length that a stream passes by growing from `before` by `added` events; the greatest when there are two.
pub(crate) fn passed(before: Version, added: usize) -> Option<Version> {
    let after = before.saturating_add(added as Version);
    [VERY_LONG_STREAM, LONG_STREAM]
        .into_iter()
        .find(|length| (before + 1..=after).contains(length))
}

/// Says that streams have grown long: each stream once for each length, since it passes it only once, and not more than
/// some in a minute, since an import may bring many.
#[derive(Debug, Default)]
pub(crate) struct LengthAlarm(Mutex<Told>);

#[derive(Debug, Default)]
struct Told {
    since: Option<Instant>,
    count: u32,
    withheld: u32,
}

impl LengthAlarm {
    pub(crate) fn tell(&self, stream: StreamId, passed: Version) {
        let Some(withheld) = self.admit(Instant::now()) else {
            return;
        };
        if passed >= VERY_LONG_STREAM {
            tracing::error!(%stream, events = passed, withheld, "a stream has grown very long");
        } else {
            tracing::warn!(%stream, events = passed, withheld, "a stream has grown long");
        }
    }

    /// How many were withheld before this one; absent when this one is withheld too.
    fn admit(&self, now: Instant) -> Option<u32> {
        let mut told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if told.since.is_none_or(|since| now.duration_since(since) >= MINUTE) {
            told.since = Some(now);
            told.count = 0;
        }
        if told.count >= ALARMS_PER_MINUTE {
            told.withheld += 1;
            return None;
        }
        told.count += 1;
        Some(std::mem::take(&mut told.withheld))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_length_is_passed_by_the_event_that_reaches_it_and_by_no_other() {
        assert_eq!(passed(998, 1), None);
        assert_eq!(passed(999, 1), Some(LONG_STREAM));
        assert_eq!(passed(1_000, 1), None);
        assert_eq!(passed(0, 999), None);
        assert_eq!(passed(0, 1_500), Some(LONG_STREAM));
        assert_eq!(passed(9_000, 1_000), Some(VERY_LONG_STREAM));
        assert_eq!(passed(0, 20_000), Some(VERY_LONG_STREAM));
        assert_eq!(passed(10_000, 90_000), None);
        assert_eq!(passed(5, 0), None);
    }

    #[test]
    fn alarms_beyond_the_rate_are_counted_and_told_later() {
        let alarm = LengthAlarm::default();
        let start = Instant::now();
        for _ in 0..ALARMS_PER_MINUTE {
            assert_eq!(alarm.admit(start), Some(0));
        }
        assert_eq!(alarm.admit(start), None);
        assert_eq!(alarm.admit(start + MINUTE / 2), None);
        assert_eq!(alarm.admit(start + MINUTE), Some(2));
        assert_eq!(alarm.admit(start + MINUTE), Some(0));
    }
}
