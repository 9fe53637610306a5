//! The discrete Gaussian N_Z(0, sigma^2): an integer y with probability proportional to
//! exp(-y^2 / (2 sigma^2)), drawn exactly. Slow, integers only; `bulk` is checked against it.

use thiserror::Error;

use super::random_bits::{Entropy, NoRandomness, RandomBits};

/// The largest denominator of a variance, and the one that [`Variance::at_least`] uses.
const DENOMINATOR: u64 = 1_024;
/// The largest variance: sigma = 2^24.
const LARGEST: u64 = 1 << 48;

/// Why there is no such noise.
#[derive(Clone, Copy, Debug, PartialEq, Error)]
pub enum VarianceError {
    #[error("a variance of {numerator}/{denominator}: the denominator must be from 1 to 1024")]
    Denominator { numerator: u64, denominator: u64 },
    #[error("a variance of {0}: it must be above 0 and at most 2^48; choose another scale")]
    Range(f64),
}

/// sigma^2 in squared integer units: a rational number above 0, at most 2^48.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Variance {
    numerator: u64,
    denominator: u64,
}

impl Variance {
    /// `numerator` / `denominator`.
    pub fn new(numerator: u64, denominator: u64) -> Result<Self, VarianceError> {
        if !(1..=DENOMINATOR).contains(&denominator) {
            return Err(VarianceError::Denominator { numerator, denominator });
        }
        let variance = Self { numerator, denominator };
        if numerator == 0 || numerator > LARGEST * denominator {
            return Err(VarianceError::Range(variance.value()));
        }
        Ok(variance)
    }

    /// The least multiple of 1/1024 that is not below `variance`.
    pub fn at_least(variance: f64) -> Result<Self, VarianceError> {
        if !(variance > 0.0 && variance <= LARGEST as f64) {
            return Err(VarianceError::Range(variance));
        }
        // A product with a power of two is exact, and 2^58 is far from the end of u64.
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "in range")]
        let numerator = (variance * DENOMINATOR as f64).ceil() as u64;
        Self::new(numerator, DENOMINATOR)
    }

    /// The nearest double; exact for multiples of 1/1024 up to 2^43.
    pub fn value(self) -> f64 {
        self.numerator as f64 / self.denominator as f64
    }

    /// Numerator and denominator.
    pub(super) fn ratio(self) -> (u128, u128) {
        (self.numerator.into(), self.denominator.into())
    }
}

/// Draws from N_Z(0, sigma^2): Canonne, Kamath and Steinke 2020, "The Discrete Gaussian for Differential
/// Privacy" (arXiv:2004.00010), Algorithms 1 to 3. Integers of 128 bits alone, so exact, but for one
/// thing: a candidate whose square does not fit is rejected, which the algorithm would have done too with
/// a probability of at least 1 - exp(-2000).
#[derive(Clone, Copy, Debug)]
pub struct ExactSampler {
    /// sigma^2 = `numerator` / `denominator`.
    numerator: u128,
    denominator: u128,
    /// t = floor(sigma) + 1, the scale of the discrete Laplace candidates.
    scale: u128,
}

impl ExactSampler {
    pub fn new(variance: Variance) -> Self {
        let (numerator, denominator) = variance.ratio();
        Self { numerator, denominator, scale: (numerator / denominator).isqrt() + 1 }
    }

    /// One draw (Algorithm 3). Some microseconds.
    pub fn draw<E: Entropy>(&self, bits: &mut RandomBits<E>) -> Result<i64, NoRandomness> {
        loop {
            let (magnitude, negative) = self.laplace(bits)?;
            let Ok(value) = i64::try_from(magnitude) else { continue };
            let Some((over, under)) = self.exponent(magnitude) else { continue };
            if bernoulli_exp(over, under, bits)? {
                return Ok(if negative { -value } else { value });
            }
        }
    }

    /// (y - sigma^2/t)^2 / (2 sigma^2) as a fraction; none if it does not fit. With sigma^2 = n/d it is
    /// (y d t - n)^2 / (2 n d t^2), whose lower part is below 2^118.
    fn exponent(&self, magnitude: u128) -> Option<(u128, u128)> {
        let Self { numerator, denominator, scale } = *self;
        let distance = magnitude.checked_mul(denominator * scale)?.abs_diff(numerator);
        Some((distance.checked_mul(distance)?, 2 * numerator * denominator * scale * scale))
    }

    /// |y| and whether y is negative, for y with probability proportional to exp(-|y| / t) (Algorithm 2
    /// with s = 1).
    fn laplace<E: Entropy>(&self, bits: &mut RandomBits<E>) -> Result<(u128, bool), NoRandomness> {
        loop {
            let offset = bits.below(self.scale)?;
            if !bernoulli_exp(offset, self.scale, bits)? {
                continue;
            }
            let mut whole = 0;
            while bernoulli_exp(1, 1, bits)? {
                whole += 1;
            }
            let magnitude = offset + self.scale * whole;
            let negative = bits.below(2)? == 1;
            if !(negative && magnitude == 0) {
                return Ok((magnitude, negative));
            }
        }
    }
}

/// True with probability exp(-`over` / `under`) (Algorithm 1).
fn bernoulli_exp<E: Entropy>(
    over: u128,
    under: u128,
    bits: &mut RandomBits<E>,
) -> Result<bool, NoRandomness> {
    let mut whole = over / under;
    let rest = over % under;
    // exp(-1) for each whole part; the first failure ends it.
    while whole > 0 {
        if !bernoulli_exp_of_part(1, 1, bits)? {
            return Ok(false);
        }
        whole -= 1;
    }
    bernoulli_exp_of_part(rest, under, bits)
}

/// The same for `over` <= `under`. True if the first k with no success of probability g / k is odd,
/// where g is the fraction; that success is one of probability g and one of probability 1 / k.
fn bernoulli_exp_of_part<E: Entropy>(
    over: u128,
    under: u128,
    bits: &mut RandomBits<E>,
) -> Result<bool, NoRandomness> {
    let mut k = 1;
    while bits.below(under)? < over && bits.below(k)? == 0 {
        k += 1;
    }
    Ok(k % 2 == 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variances_are_rational_and_rounded_up() {
        assert_eq!(Variance::at_least(0.25), Variance::new(256, 1_024));
        assert_eq!(Variance::at_least(0.250_1), Variance::new(257, 1_024));
        assert_eq!(Variance::at_least(1e-9), Variance::new(1, 1_024));
        assert_eq!(Variance::at_least(LARGEST as f64).unwrap().value(), LARGEST as f64);
        for bad in [0.0, -1.0, f64::NAN, f64::INFINITY, 2.0 * LARGEST as f64] {
            assert!(Variance::at_least(bad).is_err(), "{bad}");
        }
        assert!(Variance::new(0, 1).is_err() && Variance::new(LARGEST + 1, 1).is_err());
        assert!(Variance::new(1, 0).is_err() && Variance::new(1, 1_025).is_err());
    }

    /// Nothing overflows at the largest variance with the largest denominator, and what is refused there
    /// would have been accepted with probability exp(-2000) at most.
    #[test]
    fn the_largest_variance_fits() {
        let sampler = ExactSampler::new(Variance::new(LARGEST * 1_024, 1_024).unwrap());
        let (over, under) = sampler.exponent(1 << 28).unwrap();
        assert_eq!(over / under, (1_u128 << 56) / 2 / u128::from(LARGEST) - 16);
        let too_far = (1..128).map(|n| 1_u128 << n).find(|y| sampler.exponent(*y).is_none());
        let (over, under) = sampler.exponent(too_far.unwrap() / 2).unwrap();
        assert!(over / under > 500, "the square of twice that is four times as much");
    }
}
