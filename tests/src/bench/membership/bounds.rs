//! What is sure about epsilon after so many right and wrong guesses: Clopper and Pearson's intervals, and
//! two bounds made of them. Knows no attack.

use std::f64::consts::SQRT_2;

/// How often a guess "present" was right and wrong, at one threshold.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Guesses {
    pub(super) present: u32,
    pub(super) of_present: u32,
    pub(super) absent: u32,
    pub(super) of_absent: u32,
}

/// Both at once with the confidence that was asked for.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Rates {
    /// The least rate of "present" where it is.
    right: f64,
    /// The largest rate of "present" where it is not.
    wrong: f64,
}

impl Guesses {
    fn rates(&self, confidence: f64) -> Rates {
        let tail = (1.0 - confidence) / 2.0;
        let right = 1.0 - upper(self.of_present - self.present, self.of_present, tail);
        Rates { right, wrong: upper(self.absent, self.of_absent, tail) }
    }

    /// The least epsilon with these guesses, whatever the mechanism is: (epsilon, delta) asks of both kinds
    /// of guesses for right <= e^epsilon wrong + delta. Jagielski, Ullman and Oprea 2020, "Auditing
    /// Differentially Private Machine Learning" (arXiv:2006.07709).
    pub(super) fn epsilon(&self, delta: f64, confidence: f64) -> f64 {
        let Rates { right, wrong } = self.rates(confidence);
        let ratio = |right: f64, wrong: f64| ((right - delta).max(0.0) / wrong).ln();
        ratio(right, wrong).max(ratio(1.0 - wrong, 1.0 - right)).max(0.0)
    }

    /// The least mu, if what is told apart is N(0, 1) and N(mu, 1), as under the Gaussian mechanism: any
    /// threshold tells all of it then, not only one far out. Nasr et al. 2023, "Tight Auditing of
    /// Differentially Private Machine Learning" (arXiv:2302.07956), section 4.
    pub(super) fn mu(&self, confidence: f64) -> f64 {
        let Rates { right, wrong } = self.rates(confidence);
        (quantile(right) - quantile(wrong)).max(0.0)
    }
}

/// The least delta at which telling N(0, 1) from N(mu, 1) is (epsilon, delta)-differentially private. Balle
/// and Wang 2018, "Improving the Gaussian Mechanism for Differential Privacy" (arXiv:1805.06530), Theorem 8.
fn gaussian_delta(epsilon: f64, mu: f64) -> f64 {
    let at = |sign: f64| normal(sign * mu / 2.0 - epsilon / mu);
    // e^epsilon times a tail that is far smaller: as one exponential, so that neither overflows.
    at(1.0) - (epsilon + at(-1.0).max(f64::MIN_POSITIVE).ln()).exp()
}

/// The epsilon of that `mu`.
pub(super) fn gaussian_epsilon(mu: f64, delta: f64) -> f64 {
    if mu == 0.0 || gaussian_delta(0.0, mu) <= delta {
        return 0.0;
    }
    let most = mu * mu / 2.0 + 10.0 * mu;
    bisect(0.0, most, |epsilon| gaussian_delta(epsilon, mu) > delta)
}

/// The least probability at which so few as `k` of `n` have a chance of `tail` at most. 1 where k is n.
fn upper(k: u32, n: u32, tail: f64) -> f64 {
    if k >= n {
        return 1.0;
    }
    bisect(0.0, 1.0, |p| at_most(k, n, p) > tail)
}

/// The chance of `k` or fewer of `n`.
fn at_most(k: u32, n: u32, p: f64) -> f64 {
    let (k, n) = (f64::from(k), f64::from(n));
    if k >= n * p {
        // The chance is large, and only small ones are asked for.
        return 1.0;
    }
    let choose = libm::lgamma(n + 1.0) - libm::lgamma(k + 1.0) - libm::lgamma(n - k + 1.0);
    let mut term = (choose + k * p.ln() + (n - k) * (-p).ln_1p()).exp();
    let (mut sum, mut j) = (0.0, k);
    while term > sum * 1e-16 {
        sum += term;
        term *= j / (n - j + 1.0) * (1.0 - p) / p;
        j -= 1.0;
    }
    sum
}

/// The standard normal distribution function.
fn normal(x: f64) -> f64 {
    0.5 * libm::erfc(-x / SQRT_2)
}

/// Its inverse; infinite at 0 and at 1.
fn quantile(p: f64) -> f64 {
    match p {
        0.0 => f64::NEG_INFINITY,
        1.0 => f64::INFINITY,
        // The lower tail is known to more digits.
        _ if p > 0.5 => -bisect(-40.0, 0.0, |x| normal(x) < 1.0 - p),
        _ => bisect(-40.0, 0.0, |x| normal(x) < p),
    }
}

/// Where `below` ends.
fn bisect(mut low: f64, mut high: f64, below: impl Fn(f64) -> bool) -> f64 {
    for _ in 0..200 {
        let middle = f64::midpoint(low, high);
        *if below(middle) { &mut low } else { &mut high } = middle;
    }
    high
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(found: f64, expected: f64) {
        assert!((found - expected).abs() < 1e-4 * expected.abs(), "{found}, expected {expected}");
    }

    /// Against scipy.stats: beta.ppf(1 - tail, k + 1, n - k) and norm.ppf.
    #[test]
    fn intervals_and_quantiles_are_the_known_ones() {
        close(upper(0, 100, 0.025), 1.0 - 0.025_f64.powf(0.01));
        close(upper(5, 50, 0.025), 0.218_135);
        close(upper(99, 100, 0.025), 0.999_747);
        assert_eq!(upper(7, 7, 0.025), 1.0);
        close(quantile(0.975), 1.959_964);
        close(quantile(0.001), -3.090_232);
        assert_eq!(quantile(0.0), f64::NEG_INFINITY);
    }

    /// Balle and Wang's curve: at mu 1 and epsilon 1, Phi(-1/2) - e Phi(-3/2).
    #[test]
    fn a_gaussians_epsilon_is_on_its_curve() {
        close(gaussian_delta(1.0, 1.0), 0.126_937);
        for (mu, delta) in [(0.1, 1e-6), (0.8, 1e-6), (3.0, 1e-6), (30.0, 1e-6), (1.0, 0.1)] {
            close(gaussian_delta(gaussian_epsilon(mu, delta), mu), delta);
        }
        assert_eq!(gaussian_epsilon(0.0, 1e-6), 0.0);
        assert_eq!(gaussian_epsilon(1e-7, 1e-6), 0.0);
    }

    #[test]
    fn guesses_bound_epsilon_by_their_rates() {
        let even = Guesses { present: 50, of_present: 100, absent: 50, of_absent: 100 };
        assert_eq!((even.epsilon(1e-6, 0.95), even.mu(0.95)), (0.0, 0.0));
        let sure = Guesses { present: 1_000, of_present: 1_000, absent: 0, of_absent: 1_000 };
        let rate = 1.0 - 0.025_f64.powf(0.001);
        close(sure.epsilon(0.0, 0.95), ((1.0 - rate) / rate).ln());
        close(sure.mu(0.95), -2.0 * quantile(rate));
        // Hardly ever right, but never wrong; and the other way about.
        let rare = Guesses { present: 80, of_present: 1_000, absent: 0, of_absent: 1_000 };
        let often = Guesses { present: 1_000, of_present: 1_000, absent: 920, of_absent: 1_000 };
        assert!(rare.epsilon(1e-6, 0.95) > 2.5, "{}", rare.epsilon(1e-6, 0.95));
        close(often.epsilon(0.0, 0.95), rare.epsilon(0.0, 0.95));
    }
}
