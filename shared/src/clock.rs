//! The only place that reads the system's clock, and the type that every time in Collegium has.
//! It measures no durations and schedules nothing: time enters the machines inside their events.

use std::{
    fmt,
    ops::{Add, Sub},
    str::FromStr,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use thiserror::Error;

/// A text or number that is no point in time which RFC 3339 can write.
#[derive(Debug, Error)]
#[error("{0:?} is not a time: write it as RFC 3339, for example 2026-08-01T12:00:00Z")]
pub struct BadTime(String);

/// The first and last times that are accepted: the years 0000 to 9999, all that RFC 3339 can
/// write, less the last two days, which the calendar library keeps for time zones.
const FIRST: i64 = -62_167_219_200_000;
const LAST: i64 = 253_402_127_999_999;

/// A point in time: milliseconds since the Unix epoch, within the years 0000 to 9999.
///
/// Written as RFC 3339 in UTC with three decimals where people read, as an integer elsewhere.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(i64);

impl Timestamp {
    /// The Unix epoch.
    pub const EPOCH: Self = Self(0);

    /// Milliseconds since the Unix epoch; what lies outside the calendar becomes its nearest end.
    pub fn from_millis(millis: i64) -> Self {
        Self(millis.clamp(FIRST, LAST))
    }

    /// Milliseconds since the Unix epoch, negative before it.
    pub fn as_millis(self) -> i64 {
        self.0
    }

    /// Whole seconds since the Unix epoch, rounded down.
    pub fn as_seconds(self) -> i64 {
        self.0.div_euclid(1_000)
    }

    /// The time that has passed since `earlier`; zero if `earlier` is later.
    pub fn since(self, earlier: Self) -> Duration {
        let millis = self.0.saturating_sub(earlier.0);
        Duration::from_millis(u64::try_from(millis).unwrap_or(0))
    }
}

/// A duration in whole milliseconds, at the largest when it does not fit.
fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

impl Add<Duration> for Timestamp {
    type Output = Self;
    /// Stops at the end of the calendar.
    fn add(self, duration: Duration) -> Self {
        Self::from_millis(self.0.saturating_add(millis(duration)))
    }
}

impl Sub<Duration> for Timestamp {
    type Output = Self;
    /// Stops at the start of the calendar.
    fn sub(self, duration: Duration) -> Self {
        Self::from_millis(self.0.saturating_sub(millis(duration)))
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let time = jiff::Timestamp::from_millisecond(self.0).map_err(|_| fmt::Error)?;
        write!(f, "{time:.3}")
    }
}

impl fmt::Debug for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Timestamp {
    type Err = BadTime;
    /// Reads RFC 3339; digits below a millisecond are dropped.
    fn from_str(text: &str) -> Result<Self, BadTime> {
        text.parse::<jiff::Timestamp>()
            .ok()
            .map(jiff::Timestamp::as_millisecond)
            .filter(|millis| (FIRST..=LAST).contains(millis))
            .map(Self)
            .ok_or_else(|| BadTime(text.chars().take(40).collect()))
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            serializer.collect_str(self)
        } else {
            serializer.serialize_i64(self.0)
        }
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if deserializer.is_human_readable() {
            return String::deserialize(deserializer)?.parse().map_err(de::Error::custom);
        }
        let millis = i64::deserialize(deserializer)?;
        match Self::from_millis(millis) {
            time if time.0 == millis => Ok(time),
            _ => Err(de::Error::custom(BadTime(millis.to_string()))),
        }
    }
}

/// Tells the time. Clones of a manual clock share its hands.
#[derive(Clone)]
pub struct Clock(Source);

#[derive(Clone)]
enum Source {
    System,
    Manual(Arc<AtomicI64>),
}

impl Clock {
    /// The system's wall clock.
    pub fn system() -> Self {
        Self(Source::System)
    }

    /// A clock for tests and simulation that stands at `start` until it is advanced.
    pub fn manual(start: Timestamp) -> Self {
        Self(Source::Manual(Arc::new(AtomicI64::new(start.0))))
    }

    /// The time now.
    #[expect(clippy::disallowed_methods, reason = "the one place that reads the system's clock")]
    pub fn now(&self) -> Timestamp {
        match &self.0 {
            Source::System => Timestamp(jiff::Timestamp::now().as_millisecond()),
            Source::Manual(hands) => Timestamp::from_millis(hands.load(Ordering::SeqCst)),
        }
    }

    /// Moves a manual clock and all its clones forward. The system's clock is left alone.
    pub fn advance(&self, duration: Duration) {
        if let Source::Manual(hands) = &self.0 {
            hands.fetch_add(millis(duration), Ordering::SeqCst);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_travel_as_text_and_as_numbers() {
        let time = Timestamp::from_millis(1_785_585_600_007);
        assert_eq!(time.to_string(), "2026-08-01T12:00:00.007Z");
        assert_eq!(serde_json::to_string(&time).unwrap(), "\"2026-08-01T12:00:00.007Z\"");
        assert_eq!("2026-08-01T14:00:00.0079+02:00".parse::<Timestamp>().unwrap(), time);
        let bytes = postcard::to_allocvec(&time).unwrap();
        assert_eq!(postcard::from_bytes::<Timestamp>(&bytes).unwrap(), time);
        let outside = postcard::to_allocvec(&i64::MAX).unwrap();
        assert!(postcard::from_bytes::<Timestamp>(&outside).is_err());
        assert!("yesterday".parse::<Timestamp>().is_err());
    }

    #[test]
    fn arithmetic_stays_in_the_calendar() {
        let time = Timestamp::EPOCH + Duration::from_secs(5);
        assert_eq!(time.since(Timestamp::EPOCH), Duration::from_secs(5));
        assert_eq!(Timestamp::EPOCH.since(time), Duration::ZERO);
        assert_eq!((Timestamp::EPOCH - Duration::from_millis(1)).as_seconds(), -1);
        assert!("-000001-12-31T00:00:00Z".parse::<Timestamp>().is_err());
        for end in [Timestamp::EPOCH + Duration::MAX, Timestamp::EPOCH - Duration::MAX] {
            assert_eq!(end.to_string().parse::<Timestamp>().unwrap(), end);
        }
    }

    #[test]
    fn clones_of_a_manual_clock_move_together() {
        let clock = Clock::manual(Timestamp::EPOCH);
        let other = clock.clone();
        clock.advance(Duration::from_secs(60));
        assert_eq!(other.now().as_seconds(), 60);
    }
}
