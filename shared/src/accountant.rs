//! What releases cost in differential privacy: Renyi divergences at fixed orders, their sum over many
//! releases, and what that sum means as (epsilon, delta). The coordinator calibrates a task's noise
//! with it, an institution's ledger adds up what its learners spent. Draws no noise and keeps no ledger.
//!
//! Renyi differential privacy (Mironov 2017, "Rényi Differential Privacy", arXiv:1702.07476): a release
//! costs, at each order alpha, the divergence D_alpha between what it says with and without any one
//! learner. Costs add, whatever was chosen in between, and the best order gives epsilon at the end.
//!
//! Arithmetic is that of doubles: every figure is right to about 1e-12 of itself (the tests compare with
//! 60 digits), and where platforms differ in `exp` or `ln` it is by less.

mod calibrate;
mod mechanisms;
#[cfg(test)]
mod tests;

use std::{fmt, ops::RangeInclusive};

use serde::{Deserialize, Serialize};
use thiserror::Error;

pub use calibrate::{Budget, Share, calibrate, calibrate_shares, least_noise};
pub use mechanisms::{DistributedNoise, discrete_gaussian, gaussian, sampled_gaussian};

/// The orders alpha at which divergences are known. Integers, because the sampled Gaussian has a sum of
/// positive terms there; up to 256, because the best order of small budgets is large. With these, however
/// much noise there is, epsilon is not shown below (ln(1 / delta) - ln 256) / 255 (0.03 at delta 1e-6).
pub const ORDERS: RangeInclusive<u32> = 2..=256;
const COUNT: usize = 255;

/// The noise multipliers that are accounted for. Less noise than the least hides nothing; 2^32 is the
/// most that still is a multiple of 2^-20 in a double.
pub const NOISE: RangeInclusive<f64> = 1.0 / 1_048_576.0..=4_294_967_296.0;

/// The most times that one release may be repeated.
pub const MAX_STEPS: u64 = 1 << 32;

/// Why nothing can be said about a cost.
#[derive(Clone, Debug, PartialEq, Error)]
pub enum AccountantError {
    #[error(
        "a noise multiplier of {0} is not accounted for: it must be from 2^-20 to 2^32; add noise"
    )]
    Noise(f64),
    #[error("a sampling rate of {0} is no probability: it must be from 0 to 1")]
    Sampling(f64),
    #[error("delta {0} is no target: it must be above 0 and below 1")]
    Delta(f64),
    #[error("epsilon {0} is no target: it must be a finite number above 0")]
    Epsilon(f64),
    #[error("{0} steps are too many: the most is 2^32")]
    Steps(u64),
    #[error("a sensitivity of {0} is none: it must be a finite number above 0")]
    Sensitivity(f64),
    #[error("{parties} parties over {dimension} values: there must be from 1 to 65536 and from 1")]
    Shape { parties: u32, dimension: u64 },
    #[error(
        "a variance of {0} for each party is too little: their sum is close to Gaussian from 1/4 on"
    )]
    PartyVariance(f64),
    #[error("{0} divergences: a curve has one for each order from 2 to 256")]
    Length(usize),
    #[error("a divergence of {value} at order {order}: it must be a finite number and not below 0")]
    Divergence { order: usize, value: f64 },
    #[error("the shares of a budget must each be above 0 and together at most 1, not {0}")]
    Shares(f64),
    #[error("no noise multiplier up to 2^32 keeps to epsilon {epsilon} at delta {delta}")]
    Unreachable { epsilon: f64, delta: f64 },
}

/// What was spent: the Renyi divergence at each of [`ORDERS`], in nats. Costs of independent releases
/// add. As JSON a list of 255 numbers, which is read back to the bit.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Vec<f64>", into = "Vec<f64>")]
pub struct Spent(Vec<f64>);

impl Default for Spent {
    fn default() -> Self {
        Self(vec![0.0; COUNT])
    }
}

impl TryFrom<Vec<f64>> for Spent {
    type Error = AccountantError;

    fn try_from(divergences: Vec<f64>) -> Result<Self, AccountantError> {
        if divergences.len() != COUNT {
            return Err(AccountantError::Length(divergences.len()));
        }
        let lawful = |value: &f64| value.is_finite() && *value >= 0.0;
        match (2..).zip(&divergences).find(|(_, value)| !lawful(value)) {
            Some((order, value)) => Err(AccountantError::Divergence { order, value: *value }),
            None => Ok(Self(divergences)),
        }
    }
}

impl From<Spent> for Vec<f64> {
    fn from(spent: Spent) -> Self {
        spent.0
    }
}

impl Spent {
    /// One divergence for each order.
    fn of(divergence: impl FnMut(u32) -> f64) -> Result<Self, AccountantError> {
        Self::try_from(ORDERS.map(divergence).collect::<Vec<_>>())
    }

    /// What costs `rho` times the order at each order: no more than this was spent, where only that is known.
    pub fn linear(rho: f64) -> Result<Self, AccountantError> {
        Self::of(|order| rho * f64::from(order))
    }

    /// Pairs of order and divergence, in nats.
    pub fn divergences(&self) -> impl Iterator<Item = (u32, f64)> + '_ {
        ORDERS.zip(self.0.iter().copied())
    }

    /// What both cost together. Refused, and nothing is added, if a sum is no finite number.
    pub fn plus(&self, other: &Self) -> Result<Self, AccountantError> {
        Self::try_from(self.0.iter().zip(&other.0).map(|(a, b)| a + b).collect::<Vec<_>>())
    }

    /// What the same release costs when it is made `steps` times.
    pub fn times(&self, steps: u64) -> Result<Self, AccountantError> {
        if steps > MAX_STEPS {
            return Err(AccountantError::Steps(steps));
        }
        Self::try_from(self.0.iter().map(|one| one * steps as f64).collect::<Vec<_>>())
    }

    /// The least epsilon at which this is (epsilon, delta)-differentially private, as far as the orders
    /// tell. Canonne, Kamath and Steinke 2020, "The Discrete Gaussian for Differential Privacy"
    /// (arXiv:2004.00010), Proposition 12; and 0 where delta alone covers it, by Bretagnolle and Huber's
    /// bound on the total variation distance, sqrt(1 - exp(-D_1)).
    pub fn epsilon(&self, delta: f64) -> Result<Epsilon, AccountantError> {
        if !(delta > 0.0 && delta < 1.0) {
            return Err(AccountantError::Delta(delta));
        }
        let at = |(order, divergence): (u32, f64)| {
            if delta * delta + (-divergence).exp_m1() > 0.0 {
                return 0.0;
            }
            let order = f64::from(order);
            divergence + (-1.0 / order).ln_1p() - (delta.ln() + order.ln()) / (order - 1.0)
        };
        Ok(Epsilon(self.divergences().map(at).fold(f64::INFINITY, f64::min).max(0.0)))
    }

    /// The least delta at which this is (epsilon, delta)-differentially private, as far as the orders
    /// tell: the same two bounds. From 0 (only if nothing was spent) to 1.
    pub fn delta(&self, epsilon: f64) -> Result<f64, AccountantError> {
        if !(epsilon >= 0.0 && epsilon.is_finite()) {
            return Err(AccountantError::Epsilon(epsilon));
        }
        let log_at = |(order, divergence): (u32, f64)| {
            let order = f64::from(order);
            let distance = 0.5 * (-(-divergence).exp_m1()).ln();
            let tail = (order - 1.0) * (divergence - epsilon + (-1.0 / order).ln_1p());
            distance.min(tail - order.ln())
        };
        let nothing = self.0.contains(&0.0);
        let log = self.divergences().map(log_at).fold(0.0, f64::min);
        // What is too small for a double is not nothing.
        Ok(if nothing { 0.0 } else { log.exp().max(f64::MIN_POSITIVE) })
    }
}

/// An epsilon as it was computed. Shown with three decimals and never rounded down: what is printed
/// reads back as no less.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd)]
pub struct Epsilon(f64);

impl Epsilon {
    /// In nats.
    pub fn value(self) -> f64 {
        self.0
    }
}

impl fmt::Display for Epsilon {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nearest = format!("{:.3}", self.0);
        if nearest.parse::<f64>().is_ok_and(|shown| shown >= self.0) {
            return f.write_str(&nearest);
        }
        // One more thousandth, or the next double where doubles are farther apart than that.
        write!(f, "{:.3}", (self.0 + 0.001).max(self.0.next_up()))
    }
}
