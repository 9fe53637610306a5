//! One learner's contribution as integers whose L2 norm is within a bound that integers were asked about:
//! the sensitivity that noise is calibrated to. Draws nothing and knows no other learner.

use thiserror::Error;

/// Exponents of the scales that clipping knows, those of an encoding's segments.
const SCALES: std::ops::RangeInclusive<i32> = -64..=95;

/// Why there is no such clipping.
#[derive(Clone, Copy, Debug, PartialEq, Error)]
pub enum ClipError {
    #[error("a scale of 2^{0}: the exponent must be from -64 to 95")]
    Scale(i32),
    #[error(
        "a norm of {clip} at scale 2^{scale_log2}: it must be from 1 to 2^31 - 1 units; choose another scale"
    )]
    Bound { clip: f64, scale_log2: i32 },
}

/// Scales by a public power of two, shrinks to the bound, rounds to the nearest integers.
///
/// To the nearest, not at random: privacy rests on the integer norm alone, which is checked, so rounding
/// need not be random for it; the same learner gives the same integers again after a crash; and what it
/// costs is half a unit for each value at most, where the noise of a sum is thousands of units. Values that
/// are always below half a unit do vanish: choose scales (`collegium_shared::headroom`) at which a
/// contribution's values are not that small.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct IntegerClip {
    scale_log2: i32,
    bound: u32,
}

impl IntegerClip {
    /// For contributions of L2 norm `clip` at most, where a value v becomes the integer v * 2^`scale_log2`.
    pub fn new(clip: f64, scale_log2: i32) -> Result<Self, ClipError> {
        if !SCALES.contains(&scale_log2) {
            return Err(ClipError::Scale(scale_log2));
        }
        let units = clip * 2_f64.powi(scale_log2);
        if !(1.0..=f64::from(i32::MAX)).contains(&units) {
            return Err(ClipError::Bound { clip, scale_log2 });
        }
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "in range")]
        let bound = units as u32;
        Ok(Self { scale_log2, bound })
    }

    /// The largest L2 norm that comes out, in integer units: the sensitivity to adding or removing a
    /// learner.
    pub fn bound(&self) -> u32 {
        self.bound
    }

    /// `vector`, scaled and clipped. Of any input the sum of squares of what comes out is at most
    /// [`Self::bound`] squared, as integers; each value is less than one unit from its share of the scaled and
    /// clipped vector.
    ///
    /// NaN and infinities become zeros: they have no direction that could be kept; zero is within every
    /// bound; and an error would stop the institution's round, or say something of one learner outside.
    pub fn clip(&self, vector: &[f64]) -> Vec<i64> {
        let finite = |value: &f64| if value.is_finite() { *value } else { 0.0 };
        let largest = vector.iter().map(|value| finite(value).abs()).fold(0.0, f64::max);
        if largest == 0.0 {
            return vec![0; vector.len()];
        }
        // Relative to the largest value nothing overflows; the norm is from 1 to the root of the length.
        let shape: Vec<f64> = vector.iter().map(|value| finite(value) / largest).collect();
        let norm = shape.iter().map(|value| value * value).sum::<f64>().sqrt();
        // Rounding in the norm and below is less than this, so that whole parts are within the bound.
        let slack = 1.0 - (shape.len() as f64 + 64.0) * 2_f64.powi(-50);
        let most = f64::from(self.bound) * slack.max(0.0) / norm;
        let mut height = (largest * 2_f64.powi(self.scale_log2)).min(most);
        loop {
            let mut rounded = Rounded::nearest(&shape, height);
            if rounded.keep_within(self.bound) {
                return rounded.integers;
            }
            // Not expected; at the end there are zeros.
            height /= 2.0;
        }
    }
}

/// Integers beside what they were rounded from.
struct Rounded<'a> {
    shape: &'a [f64],
    height: f64,
    integers: Vec<i64>,
    /// Sum of their squares. Each is below 2^64, so that of any vector fits.
    square: u128,
}

impl<'a> Rounded<'a> {
    fn nearest(shape: &'a [f64], height: f64) -> Self {
        #[expect(clippy::cast_possible_truncation, reason = "up to the bound, below 2^31")]
        let nearest = |value: &f64| (value * height).round_ties_even() as i64;
        let integers: Vec<i64> = shape.iter().map(nearest).collect();
        let square = integers.iter().map(|value| u128::from(value.unsigned_abs()).pow(2)).sum();
        Self { shape, height, integers, square }
    }

    /// If the norm is too large, rounds values that went up in size down instead, those that went farthest
    /// first, until it is not. Whether it is within the bound now.
    fn keep_within(&mut self, bound: u32) -> bool {
        let most = u128::from(bound).pow(2);
        if self.square <= most {
            return true;
        }
        let up = |place: usize| {
            (self.integers[place] as f64).abs() - (self.shape[place] * self.height).abs()
        };
        let places = 0..self.integers.len();
        let mut raised: Vec<(f64, usize)> =
            places.map(|place| (up(place), place)).filter(|(up, _)| *up > 0.0).collect();
        raised.sort_by(|a, b| b.0.total_cmp(&a.0));
        for (_, place) in raised {
            let size = u128::from(self.integers[place].unsigned_abs());
            self.integers[place] -= self.integers[place].signum();
            // size^2 - (size - 1)^2
            self.square -= 2 * size - 1;
            if self.square <= most {
                return true;
            }
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    fn square(values: &[i64]) -> u128 {
        values.iter().map(|value| u128::from(value.unsigned_abs()).pow(2)).sum()
    }

    fn within(clip: &IntegerClip, values: &[i64]) -> bool {
        square(values) <= u128::from(clip.bound()).pow(2)
    }

    #[test]
    fn small_vectors_are_as_by_hand() {
        let clip = IntegerClip::new(5.0, 0).unwrap();
        assert_eq!(clip.clip(&[3.0, 4.0]), [3, 4]);
        assert_eq!(clip.clip(&[-6.0, 8.0]), [-3, 4]);
        assert_eq!(clip.clip(&[0.4, -1.6]), [0, -2]);
        assert_eq!(clip.clip(&[0.0; 3]), [0; 3]);
        assert_eq!(clip.clip(&[]), [0; 0]);
        let fine = IntegerClip::new(1.0, 10).unwrap();
        assert_eq!((fine.bound(), fine.clip(&[0.5, -0.25])), (1_024, vec![512, -256]));
        let coarse = IntegerClip::new(64.0, -4).unwrap();
        assert_eq!((coarse.bound(), coarse.clip(&[33.0])), (4, vec![2]));
    }

    /// Ten thousand values of 0.6 round to ones of norm 100, above 60 and a bit.
    #[test]
    fn what_rounding_adds_is_taken_back() {
        let clip = IntegerClip::new(60.5, 0).unwrap();
        let rounded = clip.clip(&[0.6; 10_000]);
        assert!(within(&clip, &rounded));
        assert_eq!(square(&rounded), 3_600, "as many ones as the bound of 60 has room for");
    }

    #[test]
    fn what_is_not_finite_is_zero_and_the_rest_stays() {
        let clip = IntegerClip::new(10.0, 0).unwrap();
        let odd = [f64::NAN, 3.0, f64::INFINITY, -2.0, f64::NEG_INFINITY];
        assert_eq!(clip.clip(&odd), [0, 3, 0, -2, 0]);
        assert_eq!(clip.clip(&[f64::MAX, f64::MAX, f64::MIN_POSITIVE]), [7, 7, 0]);
        assert_eq!(clip.clip(&[5e-324]), [0]);
    }

    #[test]
    fn bounds_that_are_none_are_refused() {
        for clip in [0.0, 0.9, -3.0, f64::NAN, f64::INFINITY, 2_147_483_648.0] {
            assert!(IntegerClip::new(clip, 0).is_err(), "{clip}");
        }
        assert_eq!(IntegerClip::new(1.0, 96), Err(ClipError::Scale(96)));
        assert_eq!(IntegerClip::new(1.0, -65), Err(ClipError::Scale(-65)));
        assert_eq!(IntegerClip::new(f64::from(i32::MAX), 0).unwrap().bound(), u32::MAX >> 1);
    }

    fn any_clip() -> impl Strategy<Value = IntegerClip> {
        (-64..=95_i32, 0.0..31.0_f64).prop_map(|(scale_log2, log2)| {
            let units = 2_f64.powf(log2).min(f64::from(i32::MAX));
            IntegerClip::new(units * 2_f64.powi(-scale_log2), scale_log2).unwrap()
        })
    }

    proptest! {
        /// Every bit pattern of a double is an input.
        #[test]
        fn no_input_passes_the_bound(
            clip in any_clip(),
            words in vec(any::<u64>(), 0..80),
            copies in 1..200_usize,
        ) {
            let vector: Vec<f64> = words.into_iter().map(f64::from_bits).collect();
            prop_assert!(within(&clip, &clip.clip(&vector)));
            let repeated: Vec<f64> = vector.iter().copied().cycle().take(vector.len() * copies).collect();
            prop_assert!(within(&clip, &clip.clip(&repeated)));
        }

        #[test]
        fn direction_and_size_are_kept_within_a_unit(
            clip in any_clip(),
            mut vector in vec(-1.0..1.0_f64, 1..300),
            size in 0.01..100.0_f64,
        ) {
            let unit = 2_f64.powi(-clip.scale_log2);
            for value in &mut vector {
                *value *= size * f64::from(clip.bound()) * unit;
            }
            let norm = vector.iter().map(|v| v * v).sum::<f64>().sqrt() / unit;
            let shrink = (f64::from(clip.bound()) / norm).min(1.0);
            let rounded = clip.clip(&vector);
            prop_assert!(within(&clip, &rounded));
            for (integer, value) in rounded.iter().zip(&vector) {
                let exact = value / unit * shrink;
                prop_assert!((*integer as f64 - exact).abs() <= 1.0 + exact.abs() * 1e-9);
            }
            let lost = shrink * norm - (square(&rounded) as f64).sqrt();
            prop_assert!(lost <= (vector.len() as f64).sqrt() + 1e-9 * norm, "{lost} units");
        }
    }
}
