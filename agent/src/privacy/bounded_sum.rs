//! The sum over one institution's learners that leaves it: each learner's part clipped as integers, noise
//! on top. Owns the order: clip, add up, bound, noise. What comes out may leave under a mask; nothing else
//! of it may.

use collegium_shared::{architecture::Placed, params::MAX_DIMENSION};
use thiserror::Error;
use zeroize::Zeroize;

use super::{
    BulkSampler, Entropy, IntegerClip, NoRandomness, RandomBits, Variance, clip::ClipError,
    discrete_gaussian::VarianceError,
};

/// Why a plan's noise cannot be added.
#[derive(Debug, Error)]
pub enum NoiseError {
    #[error(transparent)]
    Clip(#[from] ClipError),
    #[error(transparent)]
    Variance(#[from] VarianceError),
    #[error(transparent)]
    Randomness(#[from] NoRandomness),
    #[error("a sum of {0} values; the most is {MAX_DIMENSION}")]
    Length(usize),
    #[error("the plan's sums are not those of its stage: {0} is missing")]
    Missing(&'static str),
}

/// One group of a private sum, before noise.
pub struct BoundedSum {
    placed: Placed,
    clip: IntegerClip,
    sums: Vec<i64>,
    /// The same without clipping, for the institution's own eyes.
    unclipped: Vec<f64>,
    learners: u64,
    clipped: u64,
}

impl BoundedSum {
    pub fn new(placed: Placed) -> Result<Self, NoiseError> {
        if placed.len > MAX_DIMENSION {
            return Err(NoiseError::Length(placed.len));
        }
        let clip = IntegerClip::new(placed.group.mechanism.clip, placed.scale_log2)?;
        let (sums, unclipped) = (vec![0; placed.len], vec![0.0; placed.len]);
        Ok(Self { placed, clip, sums, unclipped, learners: 0, clipped: 0 })
    }

    pub fn placed(&self) -> &Placed {
        &self.placed
    }

    /// Adds one learner's whole part, clipped: its values that are not 0, each with its place. Once for
    /// each learner.
    pub fn add(&mut self, part: &[(usize, f64)]) {
        let values: Vec<f64> = part.iter().map(|(_, value)| *value).collect();
        let norm = values.iter().map(|value| value * value).sum::<f64>().sqrt();
        self.learners += 1;
        self.clipped += u64::from(norm > self.placed.group.mechanism.clip);
        for (place, value) in part {
            if let Some(sum) = self.unclipped.get_mut(*place) {
                *sum += value;
            }
        }
        for ((place, _), value) in part.iter().zip(self.clip.clip(&values)) {
            if let Some(sum) = self.sums.get_mut(*place) {
                *sum = sum.saturating_add(value);
            }
        }
    }

    /// The sum as it would be if nobody was clipped, without noise. Must not leave.
    pub fn unclipped(&self) -> &[f64] {
        &self.unclipped
    }

    /// Learners whose part was clipped, and all.
    pub fn clipped(&self) -> (u64, u64) {
        (self.clipped, self.learners)
    }

    /// The words that may leave, masked. The bound on the whole keeps what one learner moves: cutting off
    /// at a public number brings two sums no farther apart.
    pub fn noised<E: Entropy>(self, bits: &mut RandomBits<E>) -> Result<Vec<u32>, NoiseError> {
        let scale = 2_f64.powi(self.placed.scale_log2);
        let variance = Variance::at_least((self.placed.deviation * scale).powi(2))?;
        let sampler = BulkSampler::new(variance);
        #[expect(clippy::cast_possible_truncation, reason = "headroom keeps it below 2^31")]
        let bound = (self.placed.bound * scale).ceil() as i64;
        let mut words = Vec::with_capacity(self.sums.len());
        for sum in &self.sums {
            let noised = (*sum).clamp(-bound, bound) + sampler.draw(bits)?;
            words.push(modulo(noised));
        }
        Ok(words)
    }
}

impl Drop for BoundedSum {
    fn drop(&mut self) {
        self.sums.zeroize();
        self.unclipped.zeroize();
    }
}

/// The residue modulo 2^32, in two's complement.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the residue is meant")]
fn modulo(value: i64) -> u32 {
    value as u32
}

#[cfg(test)]
mod tests {
    use collegium_shared::architecture::{Group, Mechanism, Population};

    use super::*;

    fn placed(clip: f64, deviation: f64, bound: f64) -> Placed {
        let mechanism = Mechanism { clip, noise: deviation / clip };
        let group = Group { population: Population::Training, segments: &["x"], mechanism };
        Placed { group, scale_log2: 10, bound, deviation, len: 4 }
    }

    fn mean_of(sum: impl Fn() -> BoundedSum, place: usize) -> f64 {
        let mut bits = RandomBits::system();
        let value = |bits: &mut _| f64::from(sum().noised(bits).unwrap()[place].cast_signed());
        (0..400).map(|_| value(&mut bits)).sum::<f64>() / 400.0 / 1024.0
    }

    #[test]
    fn a_learner_moves_the_sum_by_no_more_than_the_clip() {
        let with = || {
            let mut sum = BoundedSum::new(placed(2.0, 0.01, 100.0)).unwrap();
            sum.add(&[(0, 3.0), (2, 4.0)]);
            sum.add(&[(0, -0.5)]);
            sum
        };
        // 2 (3, 4) / 5, and the second learner as it is.
        for (place, expected) in [1.2 - 0.5, 0.0, 1.6, 0.0].into_iter().enumerate() {
            let found = mean_of(with, place);
            assert!((found - expected).abs() < 0.005, "place {place}: {found}");
        }
        assert_eq!(with().placed().len, 4);
        assert_eq!((with().clipped(), with().unclipped()), ((1, 2), &[2.5, 0.0, 4.0, 0.0][..]));
    }

    #[test]
    fn the_whole_is_cut_at_the_institutions_bound_before_noise() {
        let many = || {
            let mut sum = BoundedSum::new(placed(2.0, 0.01, 3.0)).unwrap();
            (0..10).for_each(|_| sum.add(&[(1, 2.0), (9, 1.0)]));
            sum
        };
        let found = mean_of(many, 1);
        assert!((found - 3.0).abs() < 0.005, "{found}");
    }

    #[test]
    fn noise_has_the_plans_deviation() {
        let mut bits = RandomBits::system();
        let mut squares = 0.0;
        for _ in 0..1_000 {
            let words =
                BoundedSum::new(placed(1.0, 0.25, 10.0)).unwrap().noised(&mut bits).unwrap();
            squares +=
                words.iter().map(|w| (f64::from(w.cast_signed()) / 1024.0).powi(2)).sum::<f64>();
        }
        // 4,000 squares: their mean is within 10 % of the variance but once in 10^5.
        let ratio = squares / 4_000.0 / 0.0625;
        assert!((0.9..1.1).contains(&ratio), "{ratio}");
    }

    #[test]
    fn unusable_noise_is_refused() {
        assert!(BoundedSum::new(placed(1e-9, 1.0, 1.0)).is_err());
        assert!(BoundedSum::new(Placed { len: usize::MAX, ..placed(1.0, 1.0, 1.0) }).is_err());
        let silent = BoundedSum::new(placed(1.0, 0.0, 1.0)).unwrap();
        assert!(silent.noised(&mut RandomBits::system()).is_err());
    }
}
