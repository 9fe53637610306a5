//! How long to wait before a call is repeated. Pure: the caller sleeps.

use std::time::Duration;

use collegium_shared::crypto;

const BASE: Duration = Duration::from_millis(200);
const CAP: Duration = Duration::from_secs(30);

/// Exponential backoff with full jitter (Brooker, "Exponential Backoff And Jitter", AWS
/// Architecture Blog, 2015): the n-th pause is uniform over [0, min(30 s, 0.2 s x 2^n)], so that
/// agents that lost the coordinator together do not come back together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Backoff {
    failures: u32,
}

impl Backoff {
    /// The next pause. `random` is uniform over all of u64.
    pub fn next(&mut self, random: u64) -> Duration {
        let doubled = BASE.saturating_mul(2_u32.saturating_pow(self.failures));
        self.failures = self.failures.saturating_add(1);
        let micros = doubled.min(CAP).as_micros();
        // The high half of a product is below its first factor, which is at most 30 s.
        let scaled = (u128::from(random) * (micros + 1)) >> 64;
        Duration::from_micros(u64::try_from(scaled).unwrap_or(0))
    }

    /// The next pause, by the operating system's randomness; the longest one if there is none.
    pub fn pause(&mut self) -> Duration {
        self.next(crypto::random::<8>().map_or(u64::MAX, u64::from_le_bytes))
    }

    /// After a success: the next failure is the first again.
    pub fn reset(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_cap_and_start_again_after_a_success() {
        let mut backoff = Backoff::default();
        let longest: Vec<u128> = (0..10).map(|_| backoff.next(u64::MAX).as_millis()).collect();
        let expected = [200, 400, 800, 1_600, 3_200, 6_400, 12_800, 25_600, 30_000, 30_000];
        assert_eq!(longest, expected);
        backoff.reset();
        assert_eq!(backoff.next(u64::MAX), BASE);
    }

    #[test]
    fn jitter_covers_everything_from_zero_on() {
        for failures in [0, 3, 100, u32::MAX] {
            let pause = |random| Backoff { failures }.next(random);
            assert_eq!(pause(0), Duration::ZERO);
            let (half, whole) = (pause(1 << 63), pause(u64::MAX));
            assert!(half.abs_diff(whole / 2) <= Duration::from_micros(1), "{half:?} of {whole:?}");
            assert!(whole <= CAP);
        }
        assert!(Backoff::default().pause() <= BASE);
    }
}
