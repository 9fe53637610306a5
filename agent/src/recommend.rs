//! Which items a learner should get next, and why: ranks this institution's catalogue by the
//! model in use. Works offline, from memory; never trains, sends or stores anything.
//!
//! Score = fit of the chance of a right answer to the target band x competency gap x novelty.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::{
    model::{
        Model,
        features::{ItemHistory, LearnerState, Statistics, Vocabulary, sigmoid, training_counts},
    },
    records::Learner,
};

mod reasons;

pub use reasons::{Direction, Reason};

/// How far outside the band (in probability) the fit falls to 1/e.
const BAND_SLOPE: f64 = 0.15;
/// Answers within which a wrong answer counts as recent.
const RECENT: u32 = 10;

/// What to recommend.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Options {
    /// At most so many recommendations.
    pub count: usize,
    /// The wanted chance of a right answer, in [0, 1].
    pub target: (f64, f64),
}

impl Default for Options {
    fn default() -> Self {
        Self { count: 5, target: (0.6, 0.8) }
    }
}

/// An item to offer next.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Recommendation {
    pub item: String,
    pub competencies: Vec<String>,
    /// The predicted chance of a right answer, in [0, 1].
    pub p_success: f64,
    /// The estimated mastery of the item's competencies, in [0, 1].
    pub mastery: f64,
    /// What the ranking is by, in [0, 1].
    pub score: f64,
    /// The strongest terms of the model for this learner and item, strongest first.
    pub reasons: Vec<Reason>,
}

/// The model in use over one institution's catalogue: a released one, or the personal copy.
#[derive(Debug)]
pub struct Recommender {
    model: Model,
    statistics: Statistics,
    catalogue: BTreeMap<String, Vec<String>>,
}

impl Recommender {
    /// `learners` are the institution's records: they give the counts of what is not shared, and
    /// the catalogue (each distinct item with its competencies).
    pub fn new(model: Model, learners: &[Learner]) -> Self {
        let statistics = Statistics::new(model.statistics(), &training_counts(learners));
        let mut catalogue = BTreeMap::new();
        for response in learners.iter().flat_map(|l| &l.responses) {
            if !catalogue.contains_key(&response.item) {
                catalogue.insert(response.item.clone(), response.competencies.clone());
            }
        }
        Self { model, statistics, catalogue }
    }

    /// Ranks the catalogue for a learner, best first; equal scores by item. A learner without
    /// answers is ranked by the items alone.
    pub fn recommend(&self, learner: &Learner, options: &Options) -> Vec<Recommendation> {
        let state = LearnerState::after_all(learner, &self.statistics);
        let vocabulary = Vocabulary::new(self.model.competencies());
        let scoring = Scoring { recommender: self, state: &state, vocabulary: &vocabulary };
        let candidates = self.catalogue.iter();
        let mut ranked: Vec<_> =
            candidates.map(|(item, of)| scoring.score(item, of, options.target)).collect();
        ranked.sort_by(|a, b| b.score.total_cmp(&a.score).then_with(|| a.item.cmp(b.item)));
        ranked.truncate(options.count);
        ranked.into_iter().map(|candidate| scoring.explain(candidate)).collect()
    }
}

struct Candidate<'a> {
    item: &'a str,
    competencies: &'a [String],
    p_success: f64,
    mastery: f64,
    score: f64,
}

/// One learner's request: the state is computed once for all candidates.
struct Scoring<'a> {
    recommender: &'a Recommender,
    state: &'a LearnerState<'a>,
    vocabulary: &'a Vocabulary<'a>,
}

impl<'a> Scoring<'a> {
    fn score(&self, item: &'a str, of: &'a [String], target: (f64, f64)) -> Candidate<'a> {
        let Recommender { model, statistics, .. } = self.recommender;
        let weights = model.weights();
        let dense = self.state.dense(statistics, item, of);
        let mut z: f64 = dense.iter().zip(weights).map(|(x, w)| x * w).sum();
        z += model.item_bias(item);
        let k = model.competencies().len();
        for term in self.state.skill_terms(self.vocabulary, of) {
            let bias = dense.len() + term.index as usize;
            z += weights[bias];
            z += weights[bias + k] * term.log_wins + weights[bias + 2 * k] * term.log_fails;
        }
        let p_success = sigmoid(z);
        let mastery = of.iter().map(|k| self.state.mastery(statistics, k)).sum::<f64>()
            / of.len().max(1) as f64;
        let novelty = novelty(self.state.item(item), self.state.answers());
        let score = fit(p_success, target) * (1.0 - mastery) * novelty;
        Candidate { item, competencies: of, p_success, mastery, score }
    }

    fn explain(&self, candidate: Candidate<'_>) -> Recommendation {
        let Recommender { model, statistics, .. } = self.recommender;
        let of = candidate.competencies;
        let dense = self.state.dense(statistics, candidate.item, of);
        let terms = self.state.skill_terms(self.vocabulary, of);
        Recommendation {
            item: candidate.item.to_owned(),
            competencies: of.to_vec(),
            p_success: candidate.p_success,
            mastery: candidate.mastery,
            score: candidate.score,
            reasons: reasons::strongest(model, candidate.item, &dense, terms, of),
        }
    }
}

/// 1 inside the band, falling smoothly outside.
fn fit(p: f64, (low, high): (f64, f64)) -> f64 {
    let outside = (low - p).max(p - high).max(0.0);
    (-(outside / BAND_SLOPE).powi(2)).exp()
}

/// What was answered right is nearly left out; what was just answered wrong rests for a while.
fn novelty(history: Option<ItemHistory>, answers: u32) -> f64 {
    match history {
        None => 1.0,
        Some(history) if history.last_correct => 0.02,
        Some(history) if answers - history.last_at <= RECENT => 0.3,
        Some(history) if history.wins > 0 => 0.3,
        Some(_) => 0.8,
    }
}

#[cfg(test)]
mod tests {
    use collegium_shared::architecture::Hyper;

    use super::*;
    use crate::{
        records::{Features, Response},
        trainer::tests::{federate, simulated},
    };

    fn fixture() -> (Recommender, Vec<Learner>) {
        let world = simulated(21, 2, 60);
        let run = federate(world.clone(), &Hyper::default(), 10, 1);
        let model = Model::new(&run.shared.competencies, run.statistics, &run.weights).unwrap();
        (Recommender::new(model, &world[0]), world[0].clone())
    }

    fn new_learner() -> Learner {
        let attributes = BTreeMap::new();
        Learner {
            id: "new".to_owned(),
            held_out: true,
            attributes,
            responses: Vec::new(),
            features: Features::default(),
        }
    }

    #[test]
    fn the_best_fit_the_band_and_are_explained() {
        let (recommender, learners) = fixture();
        let options = Options::default();
        let found = recommender.recommend(&learners[1], &options);
        assert_eq!(found.len(), 5);
        assert_eq!(found, recommender.recommend(&learners[1], &options));
        assert!(found.windows(2).all(|pair| pair[0].score >= pair[1].score));
        for recommendation in &found {
            assert!((0.45..0.95).contains(&recommendation.p_success), "{recommendation:?}");
            assert!((0.0..=1.0).contains(&recommendation.mastery));
            assert!(!recommendation.reasons.is_empty());
        }
    }

    #[test]
    fn items_answered_right_are_not_offered_again() {
        let (recommender, learners) = fixture();
        let learner = &learners[2];
        let last: BTreeMap<_, _> =
            learner.responses.iter().map(|r| (r.item.as_str(), r.correct)).collect();
        let found = recommender.recommend(learner, &Options::default());
        assert!(found.iter().all(|r| last.get(r.item.as_str()) != Some(&true)), "{found:?}");
    }

    #[test]
    fn a_learner_without_answers_is_served() {
        let (recommender, _) = fixture();
        let found = recommender.recommend(&new_learner(), &Options::default());
        assert_eq!(found.len(), 5);
        assert!(found.iter().all(|r| r.p_success.is_finite() && !r.reasons.is_empty()));
    }

    #[test]
    fn weaker_competencies_come_first() {
        let (recommender, _) = fixture();
        let mut learner = new_learner();
        let skilled = |item: &String, of: &Vec<String>| Response {
            item: item.clone(),
            competencies: of.clone(),
            correct: of[0] != "skill-1",
        };
        let single = recommender.catalogue.iter().filter(|(_, of)| of.len() == 1);
        learner.responses = single.map(|(item, of)| skilled(item, of)).take(24).collect();
        let statistics = &recommender.statistics;
        let state = LearnerState::after_all(&learner, statistics);
        assert!(state.mastery(statistics, "skill-1") < state.mastery(statistics, "skill-2"));
        let gaps = fit(0.7, (0.6, 0.8)) * (1.0 - state.mastery(statistics, "skill-1"));
        assert!(gaps > 1.0 - state.mastery(statistics, "skill-2"));
    }

    #[test]
    fn the_band_is_flat_inside_and_falls_outside() {
        let band = (0.6, 0.8);
        assert_eq!((fit(0.6, band), fit(0.7, band), fit(0.8, band)), (1.0, 1.0, 1.0));
        assert!(fit(0.5, band) < 1.0 && fit(0.3, band) < fit(0.5, band));
        assert!((fit(0.5, band) - fit(0.9, band)).abs() < 1e-12);
    }

    #[test]
    fn every_one_of_a_thousand_candidates_is_ranked() {
        let (mut recommender, learners) = fixture();
        let competencies = vec!["skill-0".to_owned(), "skill-3".to_owned()];
        recommender.catalogue =
            (0..1_000).map(|i| (format!("item-{i:03}"), competencies.clone())).collect();
        let all = Options { count: usize::MAX, ..Options::default() };
        let ranked = recommender.recommend(&learners[0], &all);
        assert_eq!(ranked.len(), 1_000);
        assert!(ranked.windows(2).all(|pair| pair[0].score >= pair[1].score));
        let best = recommender.recommend(&learners[0], &Options::default());
        assert_eq!(best, ranked[..5]);
    }
}
