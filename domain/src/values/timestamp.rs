//! Moments in UTC with microseconds, which is what PostgreSQL keeps: nothing is lost between log and model.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use time::format_description::well_known::Rfc3339;
use time::macros::datetime;
use time::{OffsetDateTime, UtcOffset};

use super::ValueError;

/// A moment in UTC, cut to whole microseconds, in the years 0000 to 9999 that RFC 3339 can write.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(OffsetDateTime);

impl Timestamp {
    /// The earliest moment that can be written.
    pub const MIN: Self = Self(datetime!(0000-01-01 00:00:00 UTC));
    /// The last moment that can be written.
    pub const MAX: Self = Self(datetime!(9999-12-31 23:59:59.999999 UTC));

    /// Converts to UTC and cuts to microseconds; what lies outside the years 0000 to 9999 becomes the nearest end.
    #[must_use]
    pub fn from_offset(moment: OffsetDateTime) -> Self {
        if moment < Self::MIN.0 {
            return Self::MIN;
        }
        if moment > Self::MAX.0 {
            return Self::MAX;
        }
        let utc = moment.to_offset(UtcOffset::UTC);
        Self(utc.replace_microsecond(utc.microsecond()).unwrap_or(utc))
    }

    /// The moment counted in microseconds from 1970; what lies outside the years 0000 to 9999 becomes the nearest end.
    #[must_use]
    pub fn from_unix_micros(micros: i64) -> Self {
        let nanos = i128::from(micros) * 1_000;
        match OffsetDateTime::from_unix_timestamp_nanos(nanos) {
            Ok(moment) => Self::from_offset(moment),
            Err(_) if micros < 0 => Self::MIN,
            Err(_) => Self::MAX,
        }
    }

    /// Reads RFC 3339 with a zone; an offset is converted, digits beyond microseconds are cut.
    ///
    /// # Errors
    /// [`ValueError`] for `timestamp`, naming the broken rule.
    pub fn parse_rfc3339(text: &str) -> Result<Self, ValueError> {
        let moment = OffsetDateTime::parse(text, &Rfc3339)
            .map_err(|_| ValueError::new("timestamp", "must be RFC 3339 with a time zone"))?;
        if moment < Self::MIN.0 || moment > Self::MAX.0.saturating_add(time::Duration::microseconds(1)) {
            return Err(ValueError::new("timestamp", "must lie in the years 0000 to 9999"));
        }
        Ok(Self::from_offset(moment))
    }

    /// `2026-02-15T12:00:00Z`, whole seconds.
    #[must_use]
    pub fn to_rfc3339_seconds(&self) -> String {
        format!("{}Z", Seconds(self.0))
    }

    /// `2026-02-15T12:00:00.123Z`, three fractional digits.
    #[must_use]
    pub fn to_rfc3339_millis(&self) -> String {
        format!("{}.{:03}Z", Seconds(self.0), self.0.millisecond())
    }

    /// The moment in the form that the `time` crate and the database drivers use.
    #[must_use]
    pub const fn to_offset(&self) -> OffsetDateTime {
        self.0
    }

    /// Microseconds since 1970; negative before.
    #[must_use]
    pub fn unix_micros(&self) -> i64 {
        self.0.unix_timestamp() * 1_000_000 + i64::from(self.0.microsecond())
    }

    /// Whole seconds since 1970, rounded down; negative before.
    #[must_use]
    pub const fn unix_seconds(&self) -> i64 {
        self.0.unix_timestamp()
    }

    /// The moment `seconds` later, or earlier when negative; stops at the ends.
    #[must_use]
    pub fn plus_seconds(&self, seconds: i64) -> Self {
        Self::from_offset(self.0.saturating_add(time::Duration::seconds(seconds)))
    }
}

/// Date and time without fraction and zone.
struct Seconds(OffsetDateTime);

impl fmt::Display for Seconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (date, time) = (self.0.date(), self.0.time());
        let (year, month, day) = (date.year(), u8::from(date.month()), date.day());
        let (hour, minute, second) = time.as_hms();
        write!(f, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}")
    }
}

impl fmt::Display for Timestamp {
    /// `2026-02-15T12:00:00.123456Z`, always six fractional digits, so that texts sort as moments do.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:06}Z", Seconds(self.0), self.0.microsecond())
    }
}

impl fmt::Debug for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Timestamp {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        Self::parse_rfc3339(text)
    }
}

impl From<OffsetDateTime> for Timestamp {
    fn from(moment: OffsetDateTime) -> Self {
        Self::from_offset(moment)
    }
}

impl From<Timestamp> for OffsetDateTime {
    fn from(moment: Timestamp) -> Self {
        moment.0
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(TimestampVisitor)
    }
}

struct TimestampVisitor;

impl de::Visitor<'_> for TimestampVisitor {
    type Value = Timestamp;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an RFC 3339 timestamp")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Timestamp, E> {
        Timestamp::parse_rfc3339(text).map_err(E::custom)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, prop_assert, prop_assert_eq, proptest};

    use super::Timestamp;

    fn parse(text: &str) -> Timestamp {
        Timestamp::parse_rfc3339(text).unwrap()
    }

    #[test]
    fn the_three_forms_differ_in_their_fraction() {
        let moment = parse("2026-02-15T13:30:00.1234567+01:30");
        assert_eq!(moment.to_string(), "2026-02-15T12:00:00.123456Z");
        assert_eq!(moment.to_rfc3339_seconds(), "2026-02-15T12:00:00Z");
        assert_eq!(moment.to_rfc3339_millis(), "2026-02-15T12:00:00.123Z");
    }

    #[test]
    fn json_always_has_six_fractional_digits() {
        let json = serde_json::to_string(&parse("2026-02-15T12:00:00Z")).unwrap();
        assert_eq!(json, "\"2026-02-15T12:00:00.000000Z\"");
    }

    #[test]
    fn what_is_no_moment_is_refused() {
        for text in [
            "",
            "2026-02-15",
            "2026-02-15T12:00:00",
            "2026-02-30T12:00:00Z",
            "2026-02-15T25:00:00Z",
            "1739620800",
            "0000-01-01T00:00:00+00:01",
            "9999-12-31T23:59:59-00:01",
            "2026-02-15T12:00:00Z\u{0}",
            "+10000-01-01T00:00:00Z",
        ] {
            assert!(Timestamp::parse_rfc3339(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn the_ends_of_time_hold() {
        assert_eq!(parse("9999-12-31T23:59:59.999999999Z"), Timestamp::MAX);
        assert_eq!(parse("0000-01-01T00:00:00Z"), Timestamp::MIN);
        assert_eq!(Timestamp::MAX.plus_seconds(i64::MAX), Timestamp::MAX);
        assert_eq!(Timestamp::MIN.plus_seconds(i64::MIN), Timestamp::MIN);
        assert_eq!(Timestamp::from_unix_micros(i64::MAX), Timestamp::MAX);
        assert_eq!(Timestamp::from_unix_micros(i64::MIN), Timestamp::MIN);
    }

    #[test]
    fn moments_before_1970_count_down() {
        let moment = parse("1969-12-31T23:59:59.999999Z");
        assert_eq!(moment.unix_micros(), -1);
        assert_eq!(Timestamp::from_unix_micros(-1), moment);
    }

    proptest! {
        #[test]
        fn a_moment_reads_back_from_every_form(micros in -62_167_219_200_000_000_i64..=253_402_300_799_999_999) {
            let moment = Timestamp::from_unix_micros(micros);
            prop_assert_eq!(moment.unix_micros(), micros);
            prop_assert_eq!(Timestamp::from_offset(moment.to_offset()), moment);
            prop_assert_eq!(parse(&moment.to_string()), moment);
            let json = serde_json::to_value(moment).unwrap();
            prop_assert_eq!(serde_json::from_value::<Timestamp>(json).unwrap(), moment);
            prop_assert_eq!(parse(&moment.to_rfc3339_seconds()).unix_seconds(), moment.unix_seconds());
            let millis = parse(&moment.to_rfc3339_millis()).unix_micros();
            prop_assert_eq!(millis.div_euclid(1_000), micros.div_euclid(1_000));
        }

        #[test]
        fn texts_sort_as_moments_do(a in any::<i64>(), b in any::<i64>()) {
            let (a, b) = (Timestamp::from_unix_micros(a), Timestamp::from_unix_micros(b));
            prop_assert_eq!(a.to_string().cmp(&b.to_string()), a.cmp(&b));
        }

        #[test]
        fn adding_seconds_goes_back_and_forth(micros in 0_i64..4_000_000_000_000_000, seconds in -1_000_000_i64..1_000_000) {
            let moment = Timestamp::from_unix_micros(micros);
            prop_assert_eq!(moment.plus_seconds(seconds).plus_seconds(-seconds), moment);
        }

        #[test]
        fn no_text_makes_parsing_panic(text in "\\PC{0,40}") {
            prop_assert!(Timestamp::parse_rfc3339(&text).map_or(true, |moment| moment <= Timestamp::MAX));
        }
    }
}
