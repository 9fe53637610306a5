//! How fast vectors leave and blobs arrive: a token bucket for each direction, by the institution's
//! limits. Counts what it is told of and nothing else; polls and statements are small and never wait.

use std::{
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::time::{Instant, sleep};

use crate::home::unpoisoned;

/// How long a bucket that nobody draws from fills up: what may come at once, in time.
const DEPTH: Duration = Duration::from_millis(500);

/// One direction's limit.
pub(super) struct Pace {
    /// Bytes per second; 0 if there is no limit.
    rate: AtomicU64,
    /// When all that was drawn so far is paid for.
    paid: Mutex<Option<Instant>>,
}

impl Pace {
    /// `kib_per_second` of 0 is no limit.
    pub(super) fn new(kib_per_second: u32) -> Self {
        let pace = Self { rate: AtomicU64::default(), paid: Mutex::default() };
        pace.set(kib_per_second);
        pace
    }

    /// From here on another limit holds, as in [`Pace::new`]. What was drawn before stays paid for as it was.
    pub(super) fn set(&self, kib_per_second: u32) {
        self.rate.store(u64::from(kib_per_second) << 10, Ordering::Relaxed);
    }

    /// Bytes per second; none if there is no limit.
    pub(super) fn rate(&self) -> Option<u64> {
        Some(self.rate.load(Ordering::Relaxed)).filter(|rate| *rate > 0)
    }

    /// The most bytes of one message, so that the other end hears something at least every second or
    /// so; whole values, and never more than `most`.
    pub(super) fn portion(&self, most: usize) -> usize {
        let quarter = self.rate().and_then(|rate| usize::try_from(rate / 4).ok());
        quarter.map_or(most, |bytes| bytes.min(most))
    }

    /// Waits until `bytes` more may pass.
    pub(super) async fn pass(&self, bytes: u64) {
        let wait = self.draw(bytes, Instant::now());
        if !wait.is_zero() {
            sleep(wait).await;
        }
    }

    /// Draws `bytes` and says how long to wait before they may pass.
    fn draw(&self, bytes: u64, now: Instant) -> Duration {
        let Some(rate) = self.rate() else { return Duration::ZERO };
        let nanos = u128::from(bytes) * 1_000_000_000 / u128::from(rate);
        let cost = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
        let mut paid = unpoisoned(&self.paid);
        let earliest = now.checked_sub(DEPTH).unwrap_or(now);
        let end = paid.map_or(earliest, |paid| paid.max(earliest)) + cost;
        *paid = Some(end);
        end.saturating_duration_since(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_passes_keeps_to_the_rate() {
        let pace = Pace::new(64);
        let start = Instant::now() + DEPTH;
        let (mut now, mut passed) = (start, 0);
        while passed < 10 * (64 << 10) {
            now += pace.draw(16 << 10, now);
            passed += 16 << 10;
        }
        assert_eq!(now - start, Duration::from_secs(10) - DEPTH, "less what came at once");
    }

    #[test]
    fn a_pause_is_made_up_for_only_a_little() {
        let pace = Pace::new(1);
        let start = Instant::now() + DEPTH;
        assert_eq!(pace.draw(512, start), Duration::ZERO);
        assert_eq!(pace.draw(512, start), Duration::from_millis(500));
        let later = start + Duration::from_secs(3_600);
        assert_eq!(pace.draw(1_024, later), Duration::from_millis(500));
    }

    #[test]
    fn another_limit_holds_at_once() {
        let (pace, start) = (Pace::new(0), Instant::now() + DEPTH);
        pace.set(64);
        assert_eq!(pace.draw(64 << 10, start), DEPTH);
        pace.set(128);
        assert_eq!(pace.draw(64 << 10, start), Duration::from_secs(1));
        pace.set(0);
        assert_eq!(pace.draw(u64::MAX, start), Duration::ZERO);
    }

    #[test]
    fn without_a_limit_nothing_waits() {
        let pace = Pace::new(0);
        assert_eq!(pace.draw(u64::MAX, Instant::now()), Duration::ZERO);
        assert_eq!(pace.rate(), None);
    }
}
