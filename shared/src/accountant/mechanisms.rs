//! What one release by each mechanism costs. Neighbours differ by one learner, added or removed.

use std::f64::consts::PI;

use serde::{Deserialize, Serialize};

use super::{AccountantError, NOISE, Spent};

/// The Gaussian mechanism with everybody taking part: alpha / (2 z^2), where the noise multiplier z is
/// the standard deviation divided by the L2 sensitivity (Mironov 2017, Corollary 3).
pub fn gaussian(noise: f64) -> Result<Spent, AccountantError> {
    check_noise(noise)?;
    Spent::of(|order| f64::from(order) / (2.0 * noise * noise))
}

/// The discrete Gaussian N_Z(0, `variance`) on each coordinate of an integer vector whose L2 sensitivity
/// is `sensitivity`: no more than the continuous one (Canonne, Kamath and Steinke 2020, for vectors too).
pub fn discrete_gaussian(sensitivity: f64, variance: f64) -> Result<Spent, AccountantError> {
    check_sensitivity(sensitivity)?;
    gaussian(variance.sqrt() / sensitivity)
}

/// The Gaussian mechanism on a Poisson sample: each learner takes part with probability `sampling`,
/// independently of all else. Mironov, Talwar and Zhang 2019, "Rényi Differential Privacy of the Sampled
/// Gaussian Mechanism" (arXiv:1908.10530), section 3.3: ln(A) / (alpha - 1) with
/// A = sum_k C(alpha, k) (1 - q)^(alpha - k) q^k exp((k^2 - k) / (2 z^2)).
pub fn sampled_gaussian(noise: f64, sampling: f64) -> Result<Spent, AccountantError> {
    check_noise(noise)?;
    if !(0.0..=1.0).contains(&sampling) {
        return Err(AccountantError::Sampling(sampling));
    }
    if sampling == 0.0 {
        return Ok(Spent::default());
    }
    if sampling == 1.0 {
        return gaussian(noise);
    }
    // What is too small for a double is not nothing.
    let least = f64::MIN_POSITIVE;
    Spent::of(|order| (log_moment(noise, sampling, order) / (f64::from(order) - 1.0)).max(least))
}

/// ln(A). The weights of the sum are a binomial distribution's, so A - 1 is the same sum over
/// exp(..) - 1, whose terms are all positive, and zero for k below 2: nothing cancels, however small q is.
fn log_moment(noise: f64, sampling: f64, order: u32) -> f64 {
    let (log_in, log_out) = (sampling.ln(), (-sampling).ln_1p());
    let mut log_binomial = f64::from(order).ln();
    let log_terms = (2..=order).map(|k| {
        log_binomial += (f64::from(order - k + 1) / f64::from(k)).ln();
        let exponent = f64::from(k) * f64::from(k - 1) / (2.0 * noise * noise);
        let weight = log_binomial + f64::from(k) * log_in + f64::from(order - k) * log_out;
        weight + exponent + (-(-exponent).exp_m1()).ln()
    });
    let log_terms: Vec<f64> = log_terms.collect();
    let largest = log_terms.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let log_excess = largest + log_terms.iter().map(|log| (log - largest).exp()).sum::<f64>().ln();
    // ln(1 + e^x), without overflow.
    log_excess.max(0.0)
        + if log_excess > 0.0 { (-log_excess).exp() } else { log_excess.exp() }.ln_1p()
}

/// Discrete Gaussian noise that several parties add to one sum of integer vectors.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct DistributedNoise {
    /// By how much one learner moves the sum: L2, in integer units.
    pub sensitivity: f64,
    /// Parties that are sure to have added their noise, and kept it to themselves. More than these
    /// make nothing worse: independent noise on top is post-processing.
    pub parties: u32,
    /// Of the noise of each on each coordinate: sigma^2 / m, where sigma^2 is that of the sum of all m.
    pub party_variance: f64,
    /// Coordinates of the vector.
    pub dimension: u64,
}

impl DistributedNoise {
    /// A sum of discrete Gaussians is not quite one: Kairouz, Liu and Steinke 2021, "The Distributed
    /// Discrete Gaussian Mechanism for Federated Learning with Secure Aggregation" (arXiv:2102.06387),
    /// Proposition 14. The least of its three bounds, with each integer vector's L1 norm at most
    /// min(L2^2, sqrt(d) L2).
    pub fn spent(&self) -> Result<Spent, AccountantError> {
        let tau = self.distance()?;
        let parties = f64::from(self.parties);
        let deviation = (parties * self.party_variance).sqrt();
        let root = (self.dimension as f64).sqrt();
        let l2 = self.sensitivity / deviation;
        let l1 = self.sensitivity.min(root) * l2;
        check_noise(1.0 / l2)?;
        Spent::of(|order| {
            let half = f64::from(order) / 2.0;
            let bounds = [
                half * l2 * l2 + tau * root * root,
                half * (l2 * l2 + 2.0 * l1 * tau + (tau * root).powi(2)),
                half * (l2 + tau * root).powi(2),
            ];
            bounds.into_iter().fold(f64::INFINITY, f64::min)
        })
    }

    /// The paper's tau: how far the sum's probabilities are from a discrete Gaussian's, as a bound on the
    /// logarithm of their ratio. 10 sum_(k=1)^(m-1) exp(-2 pi^2 (sigma^2/m) k / (k + 1)); 0 for one party.
    fn distance(&self) -> Result<f64, AccountantError> {
        let Self { sensitivity, parties, party_variance, dimension } = *self;
        check_sensitivity(sensitivity)?;
        if !(1..=65_536).contains(&parties) || dimension == 0 {
            return Err(AccountantError::Shape { parties, dimension });
        }
        if !(party_variance >= 0.25 && party_variance.is_finite()) {
            return Err(AccountantError::PartyVariance(party_variance));
        }
        let smooth = 2.0 * PI * PI * party_variance;
        let term = |k: u32| (-smooth * f64::from(k) / f64::from(k + 1)).exp();
        Ok(10.0 * (1..parties).map(term).sum::<f64>())
    }
}

fn check_noise(noise: f64) -> Result<(), AccountantError> {
    if NOISE.contains(&noise) { Ok(()) } else { Err(AccountantError::Noise(noise)) }
}

fn check_sensitivity(sensitivity: f64) -> Result<(), AccountantError> {
    let lawful = sensitivity > 0.0 && sensitivity.is_finite();
    if lawful { Ok(()) } else { Err(AccountantError::Sensitivity(sensitivity)) }
}
