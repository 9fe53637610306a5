//! The accountant against other programs' figures, against divergences summed outright, and on bad input.

use proptest::prelude::*;
use serde::Deserialize;

use super::*;

/// `tests/fixtures/privacy/vectors.json`; the script that made it lies beside it.
#[derive(Deserialize)]
struct Vectors {
    settings: Vec<Setting>,
}

#[derive(Deserialize)]
struct Setting {
    parts: Vec<Part>,
    /// Order and divergence, summed with 60 digits.
    rdp: Vec<(u32, f64)>,
    /// Delta and epsilon, by the package.
    epsilon: Vec<(f64, f64)>,
    /// Epsilon and delta, by the package.
    delta: Vec<(f64, f64)>,
}

#[derive(Deserialize)]
struct Part {
    noise: f64,
    sampling: f64,
    steps: u64,
}

impl Setting {
    fn spent(&self) -> Spent {
        let parts = self.parts.iter().map(|part| {
            sampled_gaussian(part.noise, part.sampling).unwrap().times(part.steps).unwrap()
        });
        parts.fold(Spent::default(), |sum, part| sum.plus(&part).unwrap())
    }
}

fn vectors() -> Vec<Setting> {
    let text = include_str!("../../../tests/fixtures/privacy/vectors.json");
    serde_json::from_str::<Vectors>(text).unwrap().settings
}

/// |a - b| relative to b; 0 when both are 0.
fn off(a: f64, b: f64) -> f64 {
    if a == b { 0.0 } else { ((a - b) / b).abs() }
}

#[test]
fn divergences_are_those_summed_with_sixty_digits() {
    let settings = vectors();
    assert!(settings.len() >= 40);
    let mut worst: f64 = 0.0;
    for setting in &settings {
        let ours: Vec<_> = setting.spent().divergences().collect();
        for (order, exact) in &setting.rdp {
            let (at, value) = ours[usize::try_from(order - 2).unwrap()];
            assert_eq!(at, *order);
            worst = worst.max(off(value, *exact));
        }
    }
    println!("divergences are off by at most {worst:e} of themselves");
    assert!(worst < 1e-11, "{worst:e}");
}

#[test]
fn epsilon_and_delta_are_those_of_dp_accounting() {
    let mut worst: (f64, f64) = (0.0, 0.0);
    for setting in vectors() {
        let spent = setting.spent();
        for (delta, epsilon) in &setting.epsilon {
            let ours = spent.epsilon(*delta).unwrap().value();
            worst.0 = worst.0.max(off(ours, *epsilon));
        }
        for (epsilon, delta) in &setting.delta {
            let ours = spent.delta(*epsilon).unwrap();
            // Below the least double there stands 0.
            worst.1 = worst.1.max(if *delta < 1e-300 { ours } else { off(ours, *delta) });
        }
    }
    println!("off by at most {:e} (epsilon) and {:e} (delta) of themselves", worst.0, worst.1);
    assert!(worst.0 < 0.01 && worst.1 < 0.01, "{worst:?}");
}

/// The published guidance: noise multipliers for DP-SGD at delta 1e-6.
#[test]
fn calibration_gives_the_published_noise() {
    for (epsilon, batch, learners, published) in [
        (2.0, 256.0, 5_000.0, 5.55),
        (4.0, 256.0, 5_000.0, 3.03),
        (8.0, 256.0, 5_000.0, 1.76),
        (2.0, 512.0, 20_000.0, 2.86),
        (4.0, 512.0, 20_000.0, 1.65),
        (8.0, 512.0, 20_000.0, 1.06),
    ] {
        let budget = Budget::new(epsilon, 1e-6).unwrap();
        let sampling = batch / learners;
        let noise = calibrate(budget, 2_000, sampling).unwrap();
        assert!((noise - published).abs() < 0.01, "{epsilon} {learners}: {noise}");
        assert_least(budget, noise, |z| {
            sampled_gaussian(z, sampling).unwrap().times(2_000).unwrap()
        });
    }
}

fn assert_least(budget: Budget, noise: f64, spent: impl Fn(f64) -> Spent) {
    assert!(budget.covers(&spent(noise)).unwrap(), "{noise} is not enough");
    let less = noise - 1.0 / 1_048_576.0;
    assert!(!budget.covers(&spent(less)).unwrap(), "{less} would do too");
    assert_eq!((noise * 1_048_576.0).fract(), 0.0, "{noise} is no multiple of 2^-20");
}

/// Epsilon 8 at delta 1e-5 over 100 releases costs z = 6.4.
#[test]
fn calibration_reaches_both_ends() {
    let noise = calibrate(Budget::new(8.0, 1e-5).unwrap(), 100, 1.0).unwrap();
    assert!((noise - 6.4).abs() < 0.05, "{noise}");
    for (epsilon, delta, steps) in [(1e9, 0.5, 1), (0.1, 1e-9, 1), (0.1, 1e-9, MAX_STEPS)] {
        let budget = Budget::new(epsilon, delta).unwrap();
        let noise = calibrate(budget, steps, 1.0).unwrap();
        let spent = |z| gaussian(z).unwrap().times(steps).unwrap();
        if noise > *NOISE.start() {
            assert_least(budget, noise, spent);
        } else {
            assert!(budget.covers(&spent(noise)).unwrap());
        }
    }
    // Order 256 alone asks for more than (ln(1 / delta) - ln 256) / 255.
    for (epsilon, delta) in [(1e-3, 1e-12), (1e-300, 1e-300)] {
        let expected = AccountantError::Unreachable { epsilon, delta };
        assert_eq!(calibrate(Budget::new(epsilon, delta).unwrap(), 1, 1.0), Err(expected));
    }
}

#[test]
fn shares_together_are_the_budget() {
    let budget = Budget::new(4.0, 1e-6).unwrap();
    // Items and skills once, then 20 rounds.
    let shares =
        [(0.49, 1), (0.21, 1), (0.3, 20)].map(|(fraction, steps)| Share { fraction, steps });
    let noises = calibrate_shares(budget, &shares).unwrap();
    let cost = |z: f64, steps| gaussian(z).unwrap().times(steps).unwrap();
    let parts = noises.iter().zip(shares).map(|(z, share)| cost(*z, share.steps));
    let spent = parts.fold(Spent::default(), |sum, part| sum.plus(&part).unwrap());
    let epsilon = spent.epsilon(1e-6).unwrap().value();
    assert!(epsilon <= 4.0 && epsilon > 3.9999, "{epsilon} with {noises:?}");
    let [items, skills] =
        [&noises[0], &noises[1]].map(|z| cost(*z, 1).divergences().next().unwrap().1);
    assert!(off(items / skills, 0.7 / 0.3) < 1e-5);
    for fractions in [vec![0.6, 0.5], vec![0.5, 0.0], vec![-0.1, 0.2], vec![f64::NAN]] {
        let shares: Vec<_> =
            fractions.iter().map(|fraction| Share { fraction: *fraction, steps: 1 }).collect();
        let refused = calibrate_shares(budget, &shares);
        assert!(matches!(refused, Err(AccountantError::Shares(_))), "{refused:?}");
    }
}

/// The probabilities of N_Z(0, variance) at -reach to reach.
fn probabilities(variance: f64, reach: i32) -> Vec<f64> {
    let weight = |y: i32| (-f64::from(y).powi(2) / (2.0 * variance)).exp();
    let sum: f64 = (-reach..=reach).map(weight).sum();
    (-reach..=reach).map(|y| weight(y) / sum).collect()
}

fn convolved(a: &[f64], b: &[f64]) -> Vec<f64> {
    let mut sum = vec![0.0; a.len() + b.len() - 1];
    for (i, p) in a.iter().enumerate() {
        for (j, q) in b.iter().enumerate() {
            sum[i + j] += p * q;
        }
    }
    sum
}

/// D_order between `noise` and itself moved by `shift`, where both are known; terms outside are left out,
/// so it is too small if anything.
fn divergence(noise: &[f64], shift: usize, order: i32) -> f64 {
    let pairs = noise[shift..].iter().zip(noise);
    let terms =
        pairs.map(|(p, q)| (f64::from(order) * p.ln() - f64::from(order - 1) * q.ln()).exp());
    terms.sum::<f64>().ln() / f64::from(order - 1)
}

/// Sums of few discrete Gaussians of little variance, whose divergence is summed outright, cost at most
/// what is accounted for; and what is accounted for one Gaussian of the same variance is not enough then.
#[test]
fn sums_of_discrete_gaussians_cost_no_more_than_said() {
    let mut exceeded = 0;
    for (variance, parties, shift) in [
        (0.25, 2, 1),
        (0.25, 5, 1),
        (0.25, 3, 2),
        (0.4, 2, 1),
        (0.4, 4, 2),
        (1.0, 3, 1),
        (4.0, 2, 5),
    ] {
        let one = probabilities(variance, 40);
        let sum = (1..parties).fold(one.clone(), |sum, _| convolved(&sum, &one));
        let kept: Vec<f64> = sum.into_iter().filter(|p| *p > 1e-280).collect();
        let noise = DistributedNoise {
            sensitivity: shift as f64,
            parties,
            party_variance: variance,
            dimension: 1,
        };
        let said: Vec<_> = noise.spent().unwrap().divergences().collect();
        let plain = discrete_gaussian(shift as f64, f64::from(parties) * variance).unwrap();
        let plain: Vec<_> = plain.divergences().collect();
        for order in [2_u16, 3, 5, 8] {
            let real = divergence(&kept, shift, i32::from(order));
            let place = usize::from(order - 2);
            assert!(real <= said[place].1 * (1.0 + 1e-9), "{variance} {parties} {order}: {real}");
            exceeded += u32::from(real > plain[place].1 * (1.0 + 1e-9));
        }
    }
    assert!(exceeded > 0, "the sum is as good as one Gaussian in every case tried");
}

#[test]
fn one_discrete_gaussian_costs_no_more_than_a_continuous_one() {
    for (variance, shift) in [(0.05, 1), (0.25, 1), (0.3, 2), (1.0, 1), (2.5, 3), (30.0, 4)] {
        let noise: Vec<f64> =
            probabilities(variance, 60).into_iter().filter(|p| *p > 1e-280).collect();
        let spent = discrete_gaussian(shift as f64, variance).unwrap();
        for (order, said) in spent.divergences().take(6) {
            let real = divergence(&noise, shift, i32::try_from(order).unwrap());
            assert!(real <= said * (1.0 + 1e-9), "{variance} {shift} {order}: {real} {said}");
        }
    }
}

/// With some variance at each party the sum's distance from a Gaussian is nothing, whatever the length.
#[test]
fn enough_noise_at_each_party_costs_nothing_extra() {
    let noise = |party_variance: f64| DistributedNoise {
        sensitivity: 300.0,
        parties: 100,
        party_variance,
        dimension: 1_000_000,
    };
    let plain = discrete_gaussian(300.0, 100.0 * 1e4).unwrap();
    let shared = noise(1e4).spent().unwrap();
    for ((_, a), (_, b)) in shared.divergences().zip(plain.divergences()) {
        assert!(off(a, b) < 1e-12);
    }
    let little = noise(0.5).spent().unwrap().divergences().next().unwrap().1;
    assert!(
        little > 1.01 * discrete_gaussian(300.0, 50.0).unwrap().divergences().next().unwrap().1
    );
    // One party's noise is a discrete Gaussian, however little it is.
    let alone = DistributedNoise { parties: 1, party_variance: 0.25, ..noise(0.0) };
    let plain = discrete_gaussian(300.0, 0.25).unwrap();
    for ((_, a), (_, b)) in alone.spent().unwrap().divergences().zip(plain.divergences()) {
        assert!(off(a, b) < 1e-12);
    }
}

/// Integer units are chosen first, then the noise: too little at each party is never the answer.
#[test]
fn distributed_noise_can_be_calibrated() {
    let budget = Budget::new(4.0, 1e-6).unwrap();
    let spent = |z: f64| {
        let (sensitivity, parties) = (2.0, 50);
        let party_variance = (z * sensitivity).powi(2) / f64::from(parties);
        DistributedNoise { sensitivity, parties, party_variance, dimension: 5_000 }
            .spent()?
            .times(20)
    };
    let noise = least_noise(budget, spent).unwrap();
    assert!(budget.covers(&spent(noise).unwrap()).unwrap());
    assert!(noise >= calibrate(budget, 20, 1.0).unwrap());
}

#[test]
fn what_is_no_cost_is_refused() {
    use AccountantError::{
        Delta, Divergence, Epsilon, Length, Noise, PartyVariance, Sampling, Sensitivity, Shape,
        Steps,
    };
    for noise in [0.0, -1.0, f64::INFINITY, 1e-9, 1e10] {
        assert_eq!(gaussian(noise), Err(Noise(noise)));
        assert_eq!(sampled_gaussian(noise, 0.1), Err(Noise(noise)));
    }
    assert!(matches!(gaussian(f64::NAN), Err(Noise(_))));
    for sampling in [-0.1, 1.1, f64::INFINITY] {
        assert_eq!(sampled_gaussian(1.0, sampling), Err(Sampling(sampling)));
    }
    assert!(matches!(sampled_gaussian(1.0, f64::NAN), Err(Sampling(_))));
    let spent = gaussian(1.0).unwrap();
    for delta in [0.0, 1.0, -1.0] {
        assert_eq!(spent.epsilon(delta), Err(Delta(delta)));
        assert_eq!(Budget::new(1.0, delta), Err(Delta(delta)));
    }
    assert!(spent.epsilon(f64::NAN).is_err() && spent.delta(f64::NAN).is_err());
    assert_eq!(spent.delta(-1.0), Err(Epsilon(-1.0)));
    assert_eq!(Budget::new(0.0, 0.1), Err(Epsilon(0.0)));
    assert_eq!(spent.times(MAX_STEPS + 1), Err(Steps(MAX_STEPS + 1)));
    assert_eq!(discrete_gaussian(0.0, 1.0), Err(Sensitivity(0.0)));
    assert!(matches!(discrete_gaussian(1.0, -1.0), Err(Noise(_))));
    let noise =
        DistributedNoise { sensitivity: 1.0, parties: 2, party_variance: 1.0, dimension: 3 };
    let refused = |noise: DistributedNoise| noise.spent().unwrap_err();
    assert!(matches!(refused(DistributedNoise { parties: 0, ..noise }), Shape { .. }));
    assert!(matches!(refused(DistributedNoise { parties: 65_537, ..noise }), Shape { .. }));
    assert!(matches!(refused(DistributedNoise { dimension: 0, ..noise }), Shape { .. }));
    let little = DistributedNoise { party_variance: 0.2, ..noise };
    assert_eq!(refused(little), PartyVariance(0.2));
    assert_eq!(refused(DistributedNoise { sensitivity: -1.0, ..noise }), Sensitivity(-1.0));
    assert_eq!(Spent::try_from(vec![0.0; 254]), Err(Length(254)));
    let mut negative = vec![0.0; 255];
    negative[3] = -1.0;
    assert_eq!(Spent::try_from(negative), Err(Divergence { order: 5, value: -1.0 }));
    assert!(serde_json::from_str::<Spent>("[1.0]").is_err());
    let most = Spent::try_from(vec![f64::MAX; 255]).unwrap();
    assert!(most.plus(&most).is_err() && most.times(2).is_err());
    assert_eq!(sampled_gaussian(1.0, 0.0).unwrap(), Spent::default());
    assert_eq!(Spent::default().epsilon(1e-9).unwrap().value(), 0.0);
    assert_eq!(Spent::default().delta(0.0).unwrap(), 0.0);
}

proptest! {
    #[test]
    fn every_lawful_cost_is_finite_and_stored_to_the_bit(
        noise in prop_oneof![0.01..100.0_f64, Just(*NOISE.start()), Just(*NOISE.end())],
        sampling in prop_oneof![0.0..=1.0_f64, 1e-300..1e-6_f64, Just(1.0 - 1e-16)],
        steps in prop_oneof![1..1_000_u64, Just(MAX_STEPS)],
        delta in prop_oneof![1e-12..0.999_f64, Just(f64::MIN_POSITIVE)],
    ) {
        let spent = sampled_gaussian(noise, sampling).unwrap().times(steps).unwrap();
        let text = serde_json::to_string(&spent).unwrap();
        prop_assert_eq!(&serde_json::from_str::<Spent>(&text).unwrap(), &spent);
        let epsilon = spent.epsilon(delta).unwrap();
        prop_assert!(epsilon.value().is_finite() && epsilon.value() >= 0.0);
        prop_assert!((0.0..=1.0).contains(&spent.delta(epsilon.value()).unwrap()));
        // Never more than without sampling, and more with one more release.
        let all = gaussian(noise).unwrap().times(steps).unwrap();
        for ((_, part), (_, whole)) in spent.divergences().zip(all.divergences()) {
            prop_assert!(part <= whole * (1.0 + 1e-9));
        }
        prop_assert!(spent.plus(&all).unwrap().epsilon(delta).unwrap() >= epsilon);
    }

    #[test]
    fn epsilon_is_never_shown_as_less(value in prop_oneof![
        0.0..20.0_f64, 1e-12..1e-3_f64, any::<u32>().prop_map(|x| f64::from(x) / 8000.0), 1e9..1e300_f64,
    ]) {
        let shown = Epsilon(value).to_string();
        let read: f64 = shown.parse().unwrap();
        prop_assert!(read >= value, "{shown} for {value}");
        prop_assert!(read <= value.next_up() + 0.0016, "{shown} for {value}");
    }
}

#[test]
fn epsilon_is_shown_rounded_up() {
    let shown = [0.0, 1.5, 1.0001, 3.9996, 1e-9, 2.0].map(|value| Epsilon(value).to_string());
    assert_eq!(shown, ["0.000", "1.500", "1.001", "4.000", "0.001", "2.000"]);
}
