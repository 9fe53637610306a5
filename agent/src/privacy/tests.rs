//! Goodness of fit: both samplers against the probabilities themselves, and samplers that are wrong on
//! purpose, which the same checks must catch. Seeds are fixed and printed.
//!
//! Each check fails a right sampler with probability below 1e-9: a chi-square statistic of k degrees of
//! freedom passes k + 2 sqrt(k x) + 2 x with probability exp(-x) at most (Laurent and Massart 2000, Lemma
//! 1), here with x = 21.5, and a mean of many draws passes 6.5 of its standard errors with 8e-11.

use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha20Rng;

use super::*;

/// Chi-square bins hold this many draws or more, so that their counts are close to normal.
const LEAST_EXPECTED: f64 = 60.0;

struct Seeded(ChaCha20Rng);

impl Entropy for Seeded {
    fn fill(&mut self, bytes: &mut [u8]) -> Result<(), NoRandomness> {
        self.0.fill_bytes(bytes);
        Ok(())
    }
}

fn seeded(seed: u64) -> RandomBits<Seeded> {
    println!("seed {seed}");
    RandomBits::over(Seeded(ChaCha20Rng::seed_from_u64(seed)))
}

fn variance(numerator: u64, denominator: u64) -> Variance {
    Variance::new(numerator, denominator).unwrap()
}

/// Consecutive integers from `first` to below `end` with the probability of any of them.
struct Bin {
    first: i64,
    end: i64,
    probability: f64,
}

/// Bins of a quarter sigma or of one integer that cover 12 sigma, those with little in them put together.
fn bins(variance: f64, draws: usize) -> Vec<Bin> {
    let sigma = variance.sqrt();
    let width = floor(sigma / 4.0).max(1);
    let half = floor(12.0 * sigma) / width + 1;
    let density = |y: f64| (-y * y / (2.0 * variance)).exp();
    // Of few integers the sum; of many Simpson's rule over [first - 1/2, end - 1/2], which differs from it
    // by less than a rounding once sigma is large.
    let mass = |first: i64| {
        if width < 256 {
            return (first..first + width).map(|y| density(y as f64)).sum::<f64>();
        }
        let step = width as f64 / 64.0;
        let at = |i: i32| density(first as f64 - 0.5 + step * f64::from(i));
        let weight = |i: i32| if i % 64 == 0 { 1.0 } else { 2.0 + 2.0 * f64::from(i % 2) };
        (0..=64).map(|i| weight(i) * at(i)).sum::<f64>() * step / 3.0
    };
    let fine: Vec<(i64, f64)> = (-half..=half).map(|i| (i * width, mass(i * width))).collect();
    let whole: f64 = fine.iter().map(|(_, mass)| mass).sum();
    let mut bins: Vec<Bin> = Vec::new();
    for (first, mass) in fine {
        let probability = mass / whole;
        match bins.last_mut() {
            Some(last) if last.probability * (draws as f64) < LEAST_EXPECTED => {
                last.end = first + width;
                last.probability += probability;
            }
            _ => bins.push(Bin { first, end: first + width, probability }),
        }
    }
    // The last one may hold too little: it joins the one before.
    if bins.len() > 1 && bins.last().unwrap().probability * (draws as f64) < LEAST_EXPECTED {
        let last = bins.pop().unwrap();
        let before = bins.last_mut().unwrap();
        before.end = last.end;
        before.probability += last.probability;
    }
    bins.first_mut().unwrap().first = i64::MIN;
    bins.last_mut().unwrap().end = i64::MAX;
    bins
}

#[expect(clippy::cast_possible_truncation, reason = "small")]
fn floor(value: f64) -> i64 {
    value.floor() as i64
}

/// What k degrees of freedom pass with a probability below 1e-9.
fn limit(freedom: usize) -> f64 {
    let (k, x) = (freedom as f64, 21.5);
    k + 2.0 * (k * x).sqrt() + 2.0 * x
}

fn chi_square(counts: impl Iterator<Item = (usize, f64)>) -> f64 {
    counts.map(|(count, expected)| (count as f64 - expected).powi(2) / expected).sum()
}

/// The first of the checks that `draws` fail to be from N_Z(0, variance).
fn misfit(draws: &[i64], variance: f64) -> Option<String> {
    let n = draws.len() as f64;
    let mean = draws.iter().map(|y| *y as f64).sum::<f64>() / n / variance.sqrt();
    let ratio = draws.iter().map(|y| (*y as f64).powi(2)).sum::<f64>() / n / variance;
    // From sigma 1 on, N_Z has the variance and the fourth moment of the continuous one to 1e-6.
    if mean.abs() > 6.5 / n.sqrt() || (ratio - 1.0).abs() > 6.5 * (2.0 / n).sqrt() {
        return Some(format!("moments: mean {mean} sigma, {ratio} of the variance"));
    }
    let bins = bins(variance, draws.len());
    let mut counts = vec![0; bins.len()];
    for draw in draws {
        let bin = bins.partition_point(|bin| bin.end <= *draw);
        assert!(bins[bin].first <= *draw);
        counts[bin] += 1;
    }
    let pairs = counts.into_iter().zip(bins.iter().map(|bin| bin.probability * n));
    let (found, most) = (chi_square(pairs), limit(bins.len() - 1));
    if found > most {
        return Some(format!("bins: {found} over {most} with {}", bins.len()));
    }
    // Within the bins of a large sigma: the last six bits are uniform.
    if variance > 1e6 {
        let mut counts = [0; 64];
        draws.iter().for_each(|y| counts[usize::try_from(y & 63).unwrap()] += 1);
        let found = chi_square(counts.into_iter().map(|count| (count, n / 64.0)));
        if found > limit(63) {
            return Some(format!("last bits: {found}"));
        }
    }
    None
}

fn bulk(variance: Variance, draws: usize, seed: u64) -> Vec<i64> {
    let mut values = vec![0; draws];
    BulkSampler::new(variance).fill(&mut values, &mut seeded(seed)).unwrap();
    values
}

fn exact(variance: Variance, draws: usize, seed: u64) -> Vec<i64> {
    let (sampler, mut bits) = (ExactSampler::new(variance), seeded(seed));
    (0..draws).map(|_| sampler.draw(&mut bits).unwrap()).collect()
}

/// sigma from 1 to 2^24, through each way the table can be: one integer a block, few, many; whole and
/// fractional variances.
const VARIANCES: [(u64, u64); 9] = [
    (1, 1),
    (7, 3),
    (100, 1),
    (1_444, 1),
    (1_500, 1),
    (12_345_678, 1_000),
    (1 << 20, 1),
    (123_456_789_012, 7),
    (1 << 48, 1),
];

#[test]
fn bulk_draws_fit() {
    for (seed, (numerator, denominator)) in (1..).zip(VARIANCES) {
        let variance = variance(numerator, denominator);
        let draws = bulk(variance, 300_000, seed);
        assert_eq!(misfit(&draws, variance.value()), None, "{variance:?}, seed {seed}");
    }
}

#[test]
fn exact_draws_fit() {
    for (seed, (numerator, denominator)) in (101..).zip(VARIANCES) {
        let variance = variance(numerator, denominator);
        let draws = exact(variance, 40_000, seed);
        assert_eq!(misfit(&draws, variance.value()), None, "{variance:?}, seed {seed}");
    }
}

/// Below sigma 1 moments are not those of a continuous Gaussian: the probabilities one by one.
#[test]
fn little_noise_fits_too() {
    for (seed, (numerator, denominator)) in (201..).zip([(1, 4), (1, 3), (1, 20), (2, 3)]) {
        let variance = variance(numerator, denominator);
        for draws in [bulk(variance, 200_000, seed), exact(variance, 50_000, seed)] {
            let weight = |y: i64| (-(y * y) as f64 / (2.0 * variance.value())).exp();
            let whole: f64 = (-20..=20).map(weight).sum();
            let kept: Vec<i64> = (-20..=20)
                .filter(|y| weight(*y) / whole * draws.len() as f64 > LEAST_EXPECTED)
                .collect();
            let count = |y: i64| draws.iter().filter(|draw| **draw == y).count();
            let pairs = kept.iter().map(|y| (count(*y), weight(*y) / whole * draws.len() as f64));
            let found = chi_square(pairs);
            assert!(found < limit(kept.len()), "{variance:?}: {found} for {kept:?}");
        }
    }
}

/// Two samples of the same distribution: sum over bins of (a/m - b/n)^2 / ((a + b) / (m n)).
#[test]
fn bulk_draws_are_like_exact_ones() {
    for (seed, (numerator, denominator)) in (301..).zip([(2, 1), (900, 7), (1 << 40, 3)]) {
        let variance = variance(numerator, denominator);
        let both = [bulk(variance, 200_000, seed), exact(variance, 40_000, seed + 1_000)];
        let bins = bins(variance.value(), 40_000);
        let counted = both.each_ref().map(|draws| {
            let mut counts = vec![0.0; bins.len()];
            draws.iter().for_each(|y| counts[bins.partition_point(|bin| bin.end <= *y)] += 1.0);
            counts
        });
        let (m, n) = (both[0].len() as f64, both[1].len() as f64);
        let terms = counted[0].iter().zip(&counted[1]);
        let found: f64 =
            terms.map(|(a, b): (&f64, &f64)| (a / m - b / n).powi(2) / ((a + b) / (m * n))).sum();
        assert!(found < limit(bins.len() - 1), "{variance:?}, seed {seed}: {found}");
    }
}

/// A continuous Gaussian by Box and Muller, rounded: what must not be taken for discrete noise.
fn rounded_gaussian(sigma: f64, draws: usize, seed: u64) -> Vec<i64> {
    println!("seed {seed}");
    let mut random = ChaCha20Rng::seed_from_u64(seed);
    let mut one = || {
        let (u, v): (f64, f64) = (random.random(), random.random());
        let radius = sigma * (-2.0 * (1.0 - u).ln()).sqrt();
        floor((radius * (std::f64::consts::TAU * v).cos()).round())
    };
    (0..draws).map(|_| one()).collect()
}

#[test]
fn wrong_samplers_are_caught() {
    let small = rounded_gaussian(1.0, 300_000, 401);
    println!("{}", misfit(&small, 1.0).expect("a rounded Gaussian passes for a discrete one"));
    for (seed, (numerator, denominator)) in (403..).zip(VARIANCES) {
        let right = variance(numerator, denominator).value();
        for factor in [0.97_f64, 1.03] {
            let wrong = Variance::at_least((right * factor * factor).min(2_f64.powi(48)));
            let wrong = wrong.unwrap();
            if (wrong.value() / right - factor * factor).abs() > 0.01 {
                continue;
            }
            let draws = bulk(wrong, 300_000, seed);
            println!("{}", misfit(&draws, right).expect("sigma is 3 % off and nobody saw it"));
        }
    }
    // The right moments, another shape: eight coins have variance 2.
    println!("seed 499");
    let mut random = ChaCha20Rng::seed_from_u64(499);
    let coins = (0..300_000).map(|_| i64::from(random.random::<u8>().count_ones()) - 4);
    let found = misfit(&coins.collect::<Vec<_>>(), 2.0).expect("coins pass for noise");
    assert!(found.starts_with("bins"), "{found}");
    // The right sigma and shape, but even numbers alone.
    let even: Vec<i64> = bulk(variance(1 << 38, 1), 300_000, 500).iter().map(|y| 2 * y).collect();
    let found = misfit(&even, 2_f64.powi(40)).expect("all numbers are even and nobody saw it");
    assert!(found.starts_with("last bits"), "{found}");
}
