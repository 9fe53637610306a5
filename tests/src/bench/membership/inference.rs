//! Membership inference on what is released, the weights and the published counts, with shadow models: which
//! training learners were in a model's records? The attacker has everybody's answers and trains as the
//! federation does. Sees no sum on the way to the model.

use std::collections::{BTreeMap, HashMap};

use anyhow::ensure;
use collegium_agent::{
    model::{
        Model,
        features::{Design, Statistics},
        kt_logistic::predict,
    },
    records::Learner,
};
use collegium_shared::architecture::{LearnerPrivacy, SharedSets, Target};
use rand_chacha::{ChaCha12Rng, rand_core::SeedableRng};
use serde_json::{Value, json};

use super::{
    Options,
    counts::{Counted, Places},
    curve::{Guess, below, figures},
};
use crate::bench::{
    federation::{World, registry},
    privacy::{DELTA, EACH, TOGETHER},
};

/// Sums of counts are exact up to the encoding's rounding.
const ONE_ANSWER: f64 = 0.5;

/// A learner whose membership is asked for.
struct Candidate {
    institution: usize,
    learner: Learner,
    /// In which models, by their number.
    member: Vec<bool>,
}

/// One value for each candidate (outer) and model (inner).
type Scores = Vec<Vec<f64>>;

pub(super) fn measure(
    institutions: &[Vec<Learner>],
    options: &Options,
) -> anyhow::Result<Vec<Value>> {
    let models = options.models;
    ensure!(
        models >= 6 && models.is_multiple_of(2),
        "--models is {models}: each learner is in half of them, and an attack needs 6 or more"
    );
    let field = Field::new(institutions, options);
    let mut rows = vec![field.attack(None, options)?];
    for noise in [TOGETHER, EACH] {
        for epsilon in &options.epsilons {
            rows.push(field.attack(Some((noise, *epsilon)), options)?);
        }
    }
    Ok(rows)
}

/// The records, and who is in which model.
struct Field {
    registry: SharedSets,
    candidates: Vec<Candidate>,
    /// By institution; in every model, as nobody trains on them.
    held_out: Vec<Vec<Learner>>,
    models: usize,
}

impl Field {
    fn new(institutions: &[Vec<Learner>], options: &Options) -> Self {
        let mut random = ChaCha12Rng::seed_from_u64(options.seed);
        let models = options.models as usize;
        let mut candidates = Vec::new();
        for (institution, learners) in institutions.iter().enumerate() {
            for learner in learners.iter().filter(|learner| !learner.held_out) {
                let mut member: Vec<bool> = (0..models).map(|model| model % 2 == 0).collect();
                (1..models).rev().for_each(|at| member.swap(at, below(&mut random, at + 1)));
                candidates.push(Candidate { institution, learner: learner.clone(), member });
            }
        }
        let held_out = |all: &Vec<Learner>| all.iter().filter(|l| l.held_out).cloned().collect();
        let held_out = institutions.iter().map(held_out).collect();
        Self { registry: registry(institutions), candidates, held_out, models }
    }

    /// All models of one budget, or without noise, and the attacks on them.
    fn attack(&self, budget: Option<(&str, f64)>, options: &Options) -> anyhow::Result<Value> {
        let mut privacy = None;
        let mut released = Vec::with_capacity(self.models);
        for model in 0..self.models {
            let mut world = World::over(self.registry.clone(), self.records(model));
            let trained = match budget {
                None => world.plain(options.plain_steps)?,
                Some((noise, epsilon)) => {
                    let parties = if noise == EACH { 1 } else { world.parties() };
                    let target = Target { epsilon, delta: DELTA };
                    let asked = LearnerPrivacy::propose(target, options.steps, parties)?;
                    privacy = Some(asked);
                    world.private(asked, options.steps, &mut |_, _, _| Ok(()))?
                }
            };
            released.push(trained.model);
        }
        let mut row = self.row(&released, privacy.as_ref(), options.seed);
        row["noise"] = json!(budget.map(|(noise, _)| noise));
        row["epsilon"] = json!(budget.map(|(_, epsilon)| epsilon));
        Ok(row)
    }

    /// The institutions' records with the members of one model.
    fn records(&self, model: usize) -> Vec<Vec<Learner>> {
        let mut records = self.held_out.clone();
        for candidate in self.candidates.iter().filter(|candidate| candidate.member[model]) {
            records[candidate.institution].push(candidate.learner.clone());
        }
        records
    }

    fn row(&self, released: &[Model], privacy: Option<&LearnerPrivacy>, seed: u64) -> Value {
        let told = |scores: &Scores| figures(self.guesses(scores), self.models, seed);
        let losses = [true, false].map(|left_out| self.losses(released, left_out));
        let mut row = json!({
            "learners": self.candidates.len(), "models": self.models,
            "counts": told(&self.counted(released, privacy)),
        });
        for (scores, of) in losses.iter().zip(["without_own_answers", "as_published"]) {
            row[format!("loss_threshold_{of}")] = told(scores);
            row[format!("loss_likelihood_{of}")] = told(&self.likelihood(scores));
        }
        if privacy.is_none() {
            let (known, wrong) = self.outright(released);
            row["known_outright"] = json!(known);
            row["known_wrongly"] = json!(wrong);
        }
        row
    }

    fn guesses(&self, scores: &Scores) -> Vec<Guess> {
        let of = |(candidate, scores): (&Candidate, &Vec<f64>)| -> Vec<Guess> {
            let pairs = scores.iter().zip(&candidate.member).enumerate();
            pairs
                .map(|(model, (score, member))| Guess { score: *score, member: *member, model })
                .collect()
        };
        self.candidates.iter().zip(scores).flat_map(of).collect()
    }

    /// Minus the mean log loss of each candidate's answers, with features from what was published alone;
    /// `left_out` takes the candidate's answers out of the counts first, as is done for training learners.
    fn losses(&self, released: &[Model], left_out: bool) -> Scores {
        let mut scores: Scores = vec![Vec::with_capacity(self.models); self.candidates.len()];
        let asked: Vec<Learner> = self
            .candidates
            .iter()
            .map(|candidate| Learner { held_out: !left_out, ..candidate.learner.clone() })
            .collect();
        for model in released {
            let statistics = Statistics::published(model.statistics());
            for (learner, scores) in asked.iter().zip(&mut scores) {
                let design = Design::new([learner], &statistics, model.competencies());
                let right = design.rows().map(|row| row.correct);
                let chances = predict(&design, model.weights()).into_iter().zip(right);
                let logs = chances.map(|(p, right)| {
                    (if right { p } else { 1.0 - p }).max(f64::MIN_POSITIVE).ln()
                });
                scores.push(logs.sum::<f64>() / design.len().max(1) as f64);
            }
        }
        scores
    }

    /// Who was counted, estimated for all at once from each model's counts.
    fn counted(&self, released: &[Model], privacy: Option<&LearnerPrivacy>) -> Scores {
        let places = Places::new(&self.registry);
        let own = self.candidates.iter().map(|one| places.own(&one.learner, privacy)).collect();
        let counted = Counted::new(own, places.len());
        let mut scores: Scores = vec![Vec::with_capacity(self.models); self.candidates.len()];
        for model in released {
            let estimate = counted.estimate(&places.shared(model.statistics()));
            scores.iter_mut().zip(estimate).for_each(|(scores, one)| scores.push(one));
        }
        scores
    }

    /// Carlini et al. 2022, "Membership Inference Attacks From First Principles" (arXiv:2112.03570), for a
    /// learner rather than an example: the logarithm of how much likelier a score is among the models with
    /// the candidate than among those without, both Gaussian with one variance, as there are few models. The
    /// model in question is in neither, nor is the next one of the other kind: arms of one size, or else a
    /// score that tells nothing would tell something.
    fn likelihood(&self, scores: &Scores) -> Scores {
        let of = |(candidate, scores): (&Candidate, &Vec<f64>)| {
            (0..scores.len()).map(|at| log_ratio(scores, &candidate.member, at)).collect()
        };
        self.candidates.iter().zip(scores).map(of).collect()
    }

    /// Where exact counts are published, an attacker who knows what everybody else answered has only to look:
    /// at a count that nobody but the candidate can have made. The share of pairs of candidate and model that
    /// are known from it, and the share of these that are wrong.
    fn outright(&self, released: &[Model]) -> (f64, f64) {
        let places = Places::new(&self.registry);
        let mut makers: HashMap<usize, Vec<usize>> = HashMap::new();
        for (number, candidate) in self.candidates.iter().enumerate() {
            for (at, _) in places.own(&candidate.learner, None) {
                makers.entry(at).or_default().push(number);
            }
        }
        let mut alone: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        for (at, makers) in makers {
            if let [one] = makers[..] {
                alone.entry(one).or_default().push(at);
            }
        }
        let (mut known, mut wrong) = (0.0, 0.0);
        for (model, released) in released.iter().enumerate() {
            let shared = places.shared(released.statistics());
            for (number, own) in &alone {
                let mut seen = own.iter().filter_map(|at| shared.get(at)).peekable();
                if seen.peek().is_some() {
                    known += 1.0;
                    let guess = seen.any(|(count, _)| *count > ONE_ANSWER);
                    wrong += f64::from(u8::from(guess != self.candidates[*number].member[model]));
                }
            }
        }
        let pairs = (self.candidates.len() * self.models) as f64;
        (known / pairs, if known > 0.0 { wrong / known } else { 0.0 })
    }
}

fn log_ratio(scores: &[f64], member: &[bool], at: usize) -> f64 {
    let after = |step: usize| (at + step) % scores.len();
    let arm = |which: bool| -> Vec<f64> {
        let of = (0..scores.len()).map(after).filter(|other| member[*other] == which);
        of.skip(1).map(|other| scores[other]).collect()
    };
    let arms = [arm(true), arm(false)];
    let means = arms.each_ref().map(|arm| arm.iter().sum::<f64>() / arm.len() as f64);
    let squares = |arm: &Vec<f64>, mean: f64| arm.iter().map(|x| (x - mean).powi(2)).sum::<f64>();
    let square = squares(&arms[0], means[0]) + squares(&arms[1], means[1]);
    let variance = (square / (scores.len() - 4) as f64).max(1e-12);
    let distance = means.map(|mean| (scores[at] - mean).powi(2));
    (distance[1] - distance[0]) / (2.0 * variance)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_likelihood_ratio_leaves_the_model_in_question_out() {
        let member = [true, true, true, false, false, false];
        let scores = [5.0, 3.0, 1.0, 0.0, 1.0, -1.0];
        // With: 3 and 1, mean 2; without: 1 and -1, mean 0; variance (1 + 1 + 1 + 1) / (6 - 4).
        let expected = (25.0 - 9.0) / (2.0 * 2.0);
        assert!((log_ratio(&scores, &member, 0) - expected).abs() < 1e-12);
        let moved = [500.0, 3.0, 1.0, 0.0, 1.0, -1.0];
        let grown = log_ratio(&moved, &member, 0);
        assert!((grown - (250_000.0 - 248_004.0) / 4.0).abs() < 1e-9, "{grown}");
    }
}
