//! A lower bound on epsilon: a learner whose every part is as large as clipping lets it be, and a coordinator
//! that knows everybody else, colludes with nobody, sees every opened sum of the training learners and asks
//! for the likelihood ratio: were they of a task with the canary or without? Reads no records.

use anyhow::ensure;
use collegium_agent::records::{Learner, Response};
use collegium_shared::architecture::{Group, LearnerPrivacy, Population, Sums, Target};
use serde_json::{Value, json};

use super::{
    Options,
    bounds::{Guesses, gaussian_epsilon},
};
use crate::{
    bench::{
        federation::{World, registry},
        privacy::DELTA,
    },
    simulator::{Federation, Settings},
};

const INSTITUTIONS: usize = 2;
/// Learners of each that are not the canary.
const LEARNERS: usize = 3;
/// Of the canary: enough that every part of it is clipped.
const ANSWERS: usize = 100;

pub(super) fn measure(options: &Options) -> anyhow::Result<Vec<Value>> {
    let parties = u16::try_from(INSTITUTIONS)?;
    let target = Target { epsilon: options.claim, delta: DELTA };
    let privacy = LearnerPrivacy::propose(target, options.steps, parties)?;
    options.noise.iter().map(|noise| row(privacy, *noise, options)).collect()
}

/// All trials with so much of the claimed noise.
fn row(privacy: LearnerPrivacy, noise: f64, options: &Options) -> anyhow::Result<Value> {
    let mut stand = Stand::new(privacy, noise);
    let mut ratios = |present: bool| -> anyhow::Result<Vec<f64>> {
        (0..options.trials).map(|_| stand.trial(present, options.steps)).collect()
    };
    let (present, absent) = (ratios(true)?, ratios(false)?);
    let confidence = options.confidence;
    let epsilon = bound(&present, &absent, |guesses| guesses.epsilon(DELTA, confidence))?;
    let mu = bound(&present, &absent, |guesses| guesses.mu(confidence))?;
    Ok(json!({
        "noise": noise, "claimed_epsilon": options.claim, "claimed_mu": claimed_mu(&privacy, options.steps),
        "trials": options.trials, "confidence": confidence, "least_norm": stand.least_norm,
        "epsilon_at_least": epsilon, "mu_at_least": mu,
        "epsilon_at_least_if_gaussian": gaussian_epsilon(mu, DELTA),
    }))
}

/// The signal to noise ratio of a learner at every clip, over all releases.
fn claimed_mu(privacy: &LearnerPrivacy, steps: u32) -> f64 {
    let part = |noise: f64| 1.0 / (noise * noise);
    let gradients = f64::from(steps) * part(privacy.gradient.noise);
    (part(privacy.items.noise) + part(privacy.competencies.noise) + gradients).sqrt()
}

/// The same small institutions with the canary and without.
struct Stand {
    privacy: LearnerPrivacy,
    with: World,
    without: World,
    /// Everybody but the canary at one place, without noise: what the coordinator knows.
    others: World,
    /// The canary at one place, without noise.
    canary: World,
    /// Of all parts of the canary that were seen: the least norm, of its clip.
    least_norm: f64,
}

impl Stand {
    fn new(privacy: LearnerPrivacy, noise: f64) -> Self {
        let settings = Settings { institutions: INSTITUTIONS, ..Settings::default() };
        let federation = Federation::simulate(&settings);
        let some = |all: Vec<Learner>| -> Vec<Learner> {
            all.into_iter().filter(|learner| !learner.held_out).take(LEARNERS).collect()
        };
        let without: Vec<_> = federation.institutions.iter().map(|i| some(i.learners())).collect();
        let mut with = without.clone();
        with[0].push(canary());
        let names = registry(&with);
        let world = |records, noise| World::over(names.clone(), records).with_noise(noise);
        Self {
            privacy,
            others: world(vec![without.concat()], 0.0),
            canary: world(vec![vec![canary()]], 0.0),
            with: world(with, noise),
            without: world(without, noise),
            least_norm: f64::INFINITY,
        }
    }

    /// One task. The logarithm of the likelihood ratio of all its sums, for the claimed noise.
    fn trial(&mut self, present: bool, steps: u32) -> anyhow::Result<f64> {
        let Self { privacy, with, without, others, canary, least_norm } = self;
        let (privacy, mut ratio) = (*privacy, 0.0);
        let world = if present { with } else { without };
        world.private(privacy, steps, &mut |stage, work, sums| {
            let known = others.noisy(stage, &privacy, work)?;
            let own = canary.noisy(stage, &privacy, work)?;
            let here = |group: &Group| group.segments.iter().all(|name| sums.contains_key(*name));
            for group in privacy.groups(stage).into_iter().filter(here) {
                if group.population == Population::Training {
                    let (product, square) = along(group.segments, sums, &known, &own);
                    let clip = group.mechanism.clip;
                    ratio += product / (clip * group.mechanism.noise).powi(2);
                    *least_norm = least_norm.min(square.sqrt() / clip);
                }
            }
            Ok(())
        })?;
        Ok(ratio)
    }
}

/// (x - known - own / 2) . own, and own . own.
fn along(segments: &[&str], sums: &Sums, known: &Sums, own: &Sums) -> (f64, f64) {
    let (mut product, mut square) = (0.0, 0.0);
    for segment in segments {
        let values = sums[*segment].iter().zip(&known[*segment]).zip(&own[*segment]);
        for ((x, known), own) in values {
            product += (x - known - own / 2.0) * own;
            square += own * own;
        }
    }
    (product, square)
}

/// Answers an item that nobody else has, right and wrong in turn: no model learns to foresee that, so that
/// gradients stay large.
fn canary() -> Learner {
    let answer = |number: usize| Response {
        item: "canary".to_owned(),
        competencies: vec!["canary".to_owned()],
        correct: number % 2 == 1,
    };
    Learner {
        id: "canary".to_owned(),
        held_out: false,
        attributes: Default::default(),
        responses: (0..ANSWERS).map(answer).collect(),
        features: Default::default(),
    }
}

/// The best threshold of the first half of the trials, applied to the second.
fn bound(present: &[f64], absent: &[f64], value: impl Fn(&Guesses) -> f64) -> anyhow::Result<f64> {
    ensure!(
        present.len() >= 2 && absent.len() >= 2,
        "there are no two halves of fewer than 2 trials"
    );
    let ((chosen_on, measured_on), (absent_first, absent_second)) =
        (present.split_at(present.len() / 2), absent.split_at(absent.len() / 2));
    let mut thresholds = [chosen_on, absent_first].concat();
    thresholds.sort_by(f64::total_cmp);
    let best = thinned(&thresholds)
        .map(|threshold| (value(&guesses(chosen_on, absent_first, threshold)), threshold))
        .max_by(|a, b| a.0.total_cmp(&b.0));
    let threshold = best.map_or(0.0, |(_, threshold)| threshold);
    Ok(value(&guesses(measured_on, absent_second, threshold)))
}

/// Some hundred of sorted thresholds: all far out, where each guess counts, and fewer in between.
fn thinned(sorted: &[f64]) -> impl Iterator<Item = f64> {
    let (len, every) = (sorted.len(), (sorted.len() / 200).max(1));
    let keep = move |at: &usize| *at < 100 || len - at <= 100 || at.is_multiple_of(every);
    sorted.iter().enumerate().filter(move |(at, _)| keep(at)).map(|(_, threshold)| *threshold)
}

fn guesses(present: &[f64], absent: &[f64], threshold: f64) -> Guesses {
    let all = |of: &[f64]| u32::try_from(of.len()).unwrap_or(u32::MAX);
    let above = |of: &[f64]| {
        let above = of.iter().filter(|ratio| **ratio >= threshold).count();
        u32::try_from(above).unwrap_or(u32::MAX)
    };
    Guesses {
        present: above(present),
        of_present: all(present),
        absent: above(absent),
        of_absent: all(absent),
    }
}
