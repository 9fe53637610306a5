//! The least noise that keeps to a budget. What it returns is a multiple of 2^-20, so that a plan can
//! state it exactly and that doubles of another platform, off by their last bit, seldom matter.

use super::{AccountantError, MAX_STEPS, NOISE, Spent, gaussian, sampled_gaussian};

/// Noise multipliers are multiples of one over this.
const GRID: f64 = 1_048_576.0;
/// The largest noise multiplier, in those units.
const LARGEST: u64 = 1 << 52;

/// What may be spent.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Budget {
    epsilon: f64,
    delta: f64,
}

impl Budget {
    /// (epsilon, delta): epsilon in nats and above 0, delta above 0 and below 1.
    pub fn new(epsilon: f64, delta: f64) -> Result<Self, AccountantError> {
        if !(epsilon > 0.0 && epsilon.is_finite()) {
            return Err(AccountantError::Epsilon(epsilon));
        }
        if !(delta > 0.0 && delta < 1.0) {
            return Err(AccountantError::Delta(delta));
        }
        Ok(Self { epsilon, delta })
    }

    /// Whether `spent` keeps to it.
    pub fn covers(&self, spent: &Spent) -> Result<bool, AccountantError> {
        Ok(spent.epsilon(self.delta)?.value() <= self.epsilon)
    }
}

/// A part of a budget: a fraction of what may be spent, for so many Gaussian releases with everybody
/// taking part.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Share {
    pub fraction: f64,
    pub steps: u64,
}

/// The least noise multiplier with which `steps` releases, each over a Poisson sample at rate `sampling`
/// (1: everybody takes part), keep to the budget. Some tens of milliseconds.
pub fn calibrate(budget: Budget, steps: u64, sampling: f64) -> Result<f64, AccountantError> {
    least_noise(budget, |noise| sampled_gaussian(noise, sampling)?.times(steps))
}

/// The least multiple of 2^-20 at which what `spent` says keeps to the budget. `spent` takes a noise
/// multiplier and must not rise with it; where it says that there is too little noise to account for
/// ([`AccountantError::Noise`], [`AccountantError::PartyVariance`]), more is tried. By bisection.
pub fn least_noise(
    budget: Budget,
    spent: impl Fn(f64) -> Result<Spent, AccountantError>,
) -> Result<f64, AccountantError> {
    let enough = |units: u64| match spent(units as f64 / GRID) {
        Ok(spent) => budget.covers(&spent),
        Err(AccountantError::Noise(_) | AccountantError::PartyVariance(_)) => Ok(false),
        Err(other) => Err(other),
    };
    let (mut short, mut high) = (0, 1 << 20);
    while !enough(high)? {
        if high >= LARGEST {
            let Budget { epsilon, delta } = budget;
            return Err(AccountantError::Unreachable { epsilon, delta });
        }
        (short, high) = (high, 2 * high);
    }
    while high - short > 1 {
        let middle = short + (high - short) / 2;
        if enough(middle)? {
            high = middle;
        } else {
            short = middle;
        }
    }
    Ok(high as f64 / GRID)
}

/// A noise multiplier for each share, so that all their releases together keep to the budget. A Gaussian
/// release costs alpha / (2 z^2) at every order, so fractions are those of the sum of 1 / z^2 over all
/// releases that one budget allows. Multiples of 2^-20, rounded up.
pub fn calibrate_shares(budget: Budget, shares: &[Share]) -> Result<Vec<f64>, AccountantError> {
    let whole: f64 = shares.iter().map(|share| share.fraction).sum();
    let positive = shares.iter().all(|share| share.fraction > 0.0);
    // Fractions such as 0.49 + 0.21 + 0.3 may come out a last bit above 1.
    if !(positive && whole <= 1.0 + 1e-12) {
        return Err(AccountantError::Shares(whole));
    }
    let once = least_noise(budget, gaussian)?;
    let noise = |share: &Share| {
        if share.steps > MAX_STEPS {
            return Err(AccountantError::Steps(share.steps));
        }
        let exact = once * (share.steps as f64 * whole.max(1.0) / share.fraction).sqrt();
        let noise = ((exact * GRID).floor() + 1.0) / GRID;
        if NOISE.contains(&noise) { Ok(noise) } else { Err(AccountantError::Noise(noise)) }
    };
    shares.iter().map(noise).collect()
}
