//! The comparison by hand, how often it alarms for nothing, and what it notices.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::*;

/// Learners whose abilities differ, with as many answers before and since, from probabilities that are right
/// but for `off`; `since` is added to every logit of the later ones.
fn world(seed: u64, learners: usize, since: f64, off: f64) -> Vec<Followed> {
    let mut draws = ChaCha8Rng::seed_from_u64(seed);
    let mut normal = || (0..12).map(|_| draws.random::<f64>()).sum::<f64>() - 6.0;
    let abilities: Vec<(f64, Vec<f64>)> = (0..2 * learners)
        .map(|_| (0.8 * normal(), (0..20).map(|_| 0.8 * normal()).collect()))
        .collect();
    let learner = |(number, (ability, items)): (usize, (f64, Vec<f64>))| {
        let later = number >= learners;
        let shift = if later { since } else { 0.0 };
        let answer = |item: f64| {
            let logit = ability + item + shift;
            let chance = 1.0 / (1.0 + (-(logit + if later { off } else { 0.0 })).exp());
            (1.0 / (1.0 + (-logit).exp()), draws.random::<f64>() < chance)
        };
        let answers: Vec<_> = items.into_iter().map(answer).collect();
        let before = if later { 0 } else { answers.len() };
        Followed { answers, before }
    };
    abilities.into_iter().enumerate().map(learner).collect()
}

fn found(learners: &[Followed]) -> Drift {
    let figures = Figures::of(learners, &Thresholds::default());
    let none = Counted::default();
    Drift { model: "t 1".into(), before: none, since: none, figures: Some(figures) }
}

#[test]
fn a_difference_and_its_error_are_those_by_hand() {
    let of = |answers: &[bool], before: usize| Followed {
        answers: answers.iter().map(|right| (0.5, *right)).collect(),
        before,
    };
    // Before: 1 of 2, and 2 of 2; since: 0 of 1, and 1 of 3.
    let learners = [
        of(&[true, false], 2),
        of(&[true, true], 2),
        of(&[false], 0),
        of(&[true, false, false], 0),
    ];
    let right = |_: bool, _: f64, happened: bool| f64::from(u8::from(happened));
    let compared = Compared::of(&learners, &right);
    assert_eq!((compared.before, compared.since), (0.75, 0.25));
    // Pulls: -(1 - 1.5)/4, -(2 - 1.5)/4, (0 - 0.25)/4, (1 - 0.75)/4; times 4/3 for four clusters.
    let squares: f64 = [0.125, -0.125, -0.0625, 0.0625].iter().map(|pull: &f64| pull * pull).sum();
    assert!((compared.error - (squares * 4.0 / 3.0).sqrt()).abs() < 1e-12, "{compared:?}");
}

#[test]
fn the_stability_index_is_the_one_by_hand() {
    let of = |p: f64, n: usize, before: bool| Followed {
        answers: vec![(p, true); n],
        before: if before { n } else { 0 },
    };
    let learners =
        [of(0.05, 30, true), of(0.95, 70, true), of(0.05, 60, false), of(1.0, 40, false)];
    let inputs = Inputs::of(&learners, &Thresholds::default());
    let bin = |p: f64, q: f64| {
        let smooth = |share: f64| (share * 100.0 + 0.5) / 105.0;
        (smooth(q) - smooth(p)) * (smooth(q) / smooth(p)).ln()
    };
    let expected = bin(0.3, 0.6) + bin(0.7, 0.4);
    assert!((inputs.stability_index - expected).abs() < 1e-12, "{inputs:?}");
}

#[test]
fn nothing_alarms_where_nothing_shifted() {
    let mut alarms = 0;
    for seed in 0..400 {
        let learners = [20, 60][usize::from(seed % 2 == 0)];
        let drift = found(&world(seed, learners, 0.0, 0.0));
        if !drift.shifted().is_empty() || drift.proposes_training() {
            println!("seed {seed}: {drift:?}");
            alarms += 1;
        }
    }
    assert!(alarms <= 4, "{alarms} of 400 are more than one in a hundred");
}

#[test]
fn what_shifted_is_named() {
    for seed in 0..20 {
        // Later learners know more, and the model sees it.
        let able = found(&world(seed, 60, 1.5, 0.0));
        assert_eq!(able.shifted(), ["inputs", "outcomes"], "seed {seed}: {able}");
        assert!(!able.proposes_training(), "seed {seed}: {able}");
        // Later answers are worse than the model thinks.
        let off = found(&world(seed, 60, 0.0, -1.5));
        assert_eq!(off.shifted(), ["calibration", "outcomes"], "seed {seed}: {off}");
        assert!(
            off.proposes_training() && off.to_string().contains("proposed"),
            "seed {seed}: {off}"
        );
    }
}
