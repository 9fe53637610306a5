//! How finely the words of a sum can be scaled if every institution adds noise: no sum may wrap around.
//! Owns the rule; encodes nothing and draws no noise.

use thiserror::Error;

use crate::params::MAX_SUMMANDS;

/// The exponents that are tried: those of an encoding's scales.
const SCALES: std::ops::RangeInclusive<i32> = -64..=95;
/// The largest sum that a word of 32 bits holds, in two's complement.
const LARGEST: f64 = 2_147_483_647.0;
/// A sum passes its tail with a probability of at most 2 to the minus this.
const TAIL_BITS: f64 = 64.0;
/// What each party's variance may be rounded up by, in squared units: noise is drawn with a rational one.
const VARIANCE_STEP: f64 = 1.0 / 1_024.0;

/// Why no scale is given.
#[derive(Clone, Copy, Debug, PartialEq, Error)]
pub enum HeadroomError {
    #[error(
        "a sum is over 1 to {MAX_SUMMANDS} institutions and of 1 value or more, not {n_max} and {dimension}"
    )]
    Shape { n_max: u32, dimension: u64 },
    #[error(
        "a bound of {largest} with noise of {deviation}: both must be finite, the bound above 0 and the noise not below"
    )]
    Summand { largest: f64, deviation: f64 },
    #[error("no scale from 2^-64 to 2^95 holds a bound of {largest} with noise of {deviation}")]
    Unreachable { largest: f64, deviation: f64 },
}

/// What one institution adds to each value of a sum, in the value's own units.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Summand {
    /// The most that its value is away from 0 before noise. Of integers that were clipped to norm c for
    /// each of L learners, L c.
    pub largest: f64,
    /// The standard deviation of its discrete Gaussian noise; 0 for none.
    pub deviation: f64,
}

/// How a sum fits its words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Headroom {
    /// A value v becomes the integer round(v * 2^scale_log2): the finest power of two that fits.
    pub scale_log2: i32,
    /// Bits of the longest sum, with its sign: at most 32.
    pub bits: u32,
}

/// What a sum of independent discrete Gaussians of total variance `variance` passes on either side, at any
/// of `dimension` places, with a probability of at most 2^-64: x with
/// 2 d exp(-x^2 / (2 variance)) = 2^-64. Discrete Gaussians are sub-Gaussian with their own variance
/// (Canonne, Kamath and Steinke 2020, arXiv:2004.00010), and so is their sum.
pub fn noise_tail(variance: f64, dimension: u64) -> f64 {
    let exponent = (TAIL_BITS + 1.0) * std::f64::consts::LN_2 + (dimension as f64).ln();
    (2.0 * variance * exponent).sqrt()
}

/// The finest scale at which no sum over up to `n_max` institutions, of `dimension` values, wraps around,
/// but for the noise's tail: n_max * largest + tail <= 2^31 - 1 in integer units.
pub fn headroom(n_max: u32, summand: Summand, dimension: u64) -> Result<Headroom, HeadroomError> {
    let Summand { largest, deviation } = summand;
    if !(1..=MAX_SUMMANDS).contains(&n_max) || dimension == 0 {
        return Err(HeadroomError::Shape { n_max, dimension });
    }
    let lawful = largest > 0.0 && deviation >= 0.0 && (largest + deviation).is_finite();
    if !lawful {
        return Err(HeadroomError::Summand { largest, deviation });
    }
    let farthest = |scale_log2| farthest_sum(n_max, summand, dimension, scale_log2);
    let scale_log2 = SCALES
        .rev()
        .find(|scale_log2| farthest(*scale_log2) <= LARGEST)
        .ok_or(HeadroomError::Unreachable { largest, deviation })?;
    // The least b with farthest <= 2^(b-1) - 1.
    let holds =
        |bits: &u32| farthest(scale_log2) < 2_f64.powi(31) / f64::from(1_u32 << (32 - bits));
    let bits = (1..32).find(holds).unwrap_or(32);
    Ok(Headroom { scale_log2, bits })
}

/// How far from 0 a sum may come, in integer units: a whole number.
fn farthest_sum(n_max: u32, summand: Summand, dimension: u64, scale_log2: i32) -> f64 {
    let scale = 2_f64.powi(scale_log2);
    let values = f64::from(n_max) * (summand.largest * scale).ceil();
    if summand.deviation == 0.0 {
        return values;
    }
    let each = (summand.deviation * scale).powi(2) + VARIANCE_STEP;
    values + noise_tail(f64::from(n_max) * each, dimension).ceil()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_tail_is_the_gaussian_one() {
        // 2 exp(-x^2/2) = 2^-64 at x = sqrt(130 ln 2).
        let one = noise_tail(1.0, 1);
        assert!((one - 9.492_6).abs() < 1e-3, "{one}");
        assert!((noise_tail(10_000.0, 1) - 100.0 * one).abs() < 1e-9);
        let left = 2.0 * 1e6 * (-noise_tail(1.0, 1_000_000).powi(2) / 2.0).exp();
        assert!((left * 2_f64.powi(64) - 1.0).abs() < 1e-6);
    }

    #[test]
    fn scales_are_as_by_hand() {
        let headroom =
            |n_max, largest, deviation| headroom(n_max, Summand { largest, deviation }, 1).unwrap();
        // 7 * 2^28 is below 2^31, 7 * 2^29 is not.
        assert_eq!(headroom(7, 1.0, 0.0), Headroom { scale_log2: 28, bits: 32 });
        assert_eq!(headroom(1, 1.0, 0.0), Headroom { scale_log2: 30, bits: 32 });
        // 9.49 deviations of 2^24 on top of 2^24.
        assert_eq!(headroom(1, 1.0, 1.0), Headroom { scale_log2: 27, bits: 32 });
        // 65536 values of one unit each; the next scale has 2^15 units, but a bound of 2^-95 has no more.
        let tiny = 2_f64.powi(-95);
        assert_eq!(headroom(65_536, tiny, 0.0), Headroom { scale_log2: 95, bits: 18 });
    }

    #[test]
    fn what_has_no_scale_is_refused() {
        let headroom = |n_max, largest, deviation, dimension| {
            headroom(n_max, Summand { largest, deviation }, dimension)
        };
        assert!(matches!(headroom(0, 1.0, 1.0, 1), Err(HeadroomError::Shape { .. })));
        assert!(matches!(headroom(65_537, 1.0, 1.0, 1), Err(HeadroomError::Shape { .. })));
        assert!(matches!(headroom(2, 1.0, 1.0, 0), Err(HeadroomError::Shape { .. })));
        for (largest, deviation) in
            [(0.0, 1.0), (-1.0, 1.0), (1.0, -1.0), (f64::NAN, 1.0), (1.0, f64::INFINITY)]
        {
            let refused = headroom(2, largest, deviation, 1);
            assert!(matches!(refused, Err(HeadroomError::Summand { .. })), "{refused:?}");
        }
        let refused = headroom(2, 1e300, 1.0, 1);
        assert!(matches!(refused, Err(HeadroomError::Unreachable { .. })));
        let refused = headroom(2, 1.0, 1e200, 1);
        assert!(matches!(refused, Err(HeadroomError::Unreachable { .. })), "its square overflows");
    }

    /// The words of so many institutions that are all at their bound, with noise at its tail, added as
    /// the secure sum adds them, modulo 2^32: their sign and size are what they would be without a modulus.
    fn survives(n_max: u32, summand: Summand, dimension: u64, scale_log2: i32) -> bool {
        let scale = 2_f64.powi(scale_log2);
        let each = (summand.largest * scale).ceil();
        let variance = (summand.deviation * scale).powi(2) + VARIANCE_STEP;
        let noise = noise_tail(f64::from(n_max) * variance, dimension).ceil();
        [1.0, -1.0].into_iter().all(|sign| {
            let mut word = modulo(sign * noise);
            (0..n_max).for_each(|_| word = word.wrapping_add(modulo(sign * each)));
            f64::from(word.cast_signed()) == sign * (f64::from(n_max) * each + noise)
        })
    }

    fn modulo(value: f64) -> u32 {
        let residue = value.rem_euclid(4_294_967_296.0);
        assert!(residue.fract() == 0.0);
        u32::try_from(format!("{residue:.0}").parse::<u64>().unwrap()).unwrap()
    }

    proptest! {
        #[test]
        fn the_worst_case_does_not_wrap_and_would_at_the_next_scale(
            n_max in 1..300_u32,
            largest in 1e-6..1e9_f64,
            share in 1e-6..10.0_f64,
            dimension in 1..1_u64 << 30,
        ) {
            let summand = Summand { largest, deviation: largest * share };
            let found = headroom(n_max, summand, dimension).unwrap();
            prop_assert!(survives(n_max, summand, dimension, found.scale_log2));
            prop_assert!(!survives(n_max, summand, dimension, found.scale_log2 + 1));
            let farthest = farthest_sum(n_max, summand, dimension, found.scale_log2);
            let most = |bits: u32| 2_f64.powi(i32::try_from(bits).unwrap() - 1) - 1.0;
            prop_assert!(farthest <= most(found.bits) && farthest > most(found.bits - 1));
        }
    }
}
