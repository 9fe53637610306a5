//! The network on made-up learners: gradients against differences, that no answer is seen before it is given,
//! what it learns, and records that are hardly any.

use std::sync::Arc;

use collegium_shared::architecture::{
    Evaluation, Hyper, LearnerPrivacy, SharedSets, Target, kt_attention::WINDOW, name_sums,
};

use super::*;
use crate::{
    model::features::{Design, tests::synthetic},
    records::Response,
};

fn free() -> Effort {
    Effort::new(Arc::default(), 100)
}

fn hyper() -> Hyper {
    Hyper { optimizer: KtAttention1.optimizer(), ..Hyper::default() }
}

fn shared() -> SharedSets {
    let names = |some: &[&str]| some.iter().map(|name| (*name).to_owned()).collect();
    SharedSets { items: names(&["i00", "i03"]), competencies: names(&["add", "geometry"]) }
}

/// The opened statistics of one institution's records.
fn opened(learners: &[Learner], hyper: &Hyper) -> Sums {
    let shared = &shared();
    let values = KtAttention.statistics(learners, &Task { hyper, shared }).unwrap();
    name_sums(&KtAttention1.statistics(hyper, shared.sizes()), &values).unwrap()
}

fn loaded(learners: &[Learner]) -> Box<dyn Loaded> {
    let (hyper, shared) = (&hyper(), &shared());
    let task = Task { hyper, shared };
    KtAttention.load(learners, &task, &opened(learners, hyper), &free()).unwrap()
}

fn start() -> Vec<f32> {
    KtAttention1.layout(&hyper(), &shared()).initial()
}

/// Weights at which every part of the network matters.
fn stirred(seed: u64) -> Vec<f32> {
    let mut draws = ChaCha8Rng::seed_from_u64(seed);
    start().into_iter().map(|w| w + draws.random_range(-0.2..0.2)).collect()
}

fn weights(values: &[f32]) -> Result<Weights, ModelError> {
    Weights::new(values, shared().competencies.len())
}

fn histories(learners: &[Learner]) -> Histories {
    let statistics = Statistics::new(&training_counts(learners), &training_counts(learners));
    let competencies = shared().competencies;
    Histories::new(learners.iter(), &statistics, &competencies, &free()).unwrap()
}

fn log_loss(predicted: &[Vec<(f64, bool)>]) -> f64 {
    let all: Vec<_> = predicted.iter().flatten().collect();
    let loss = |(p, right): &&(f64, bool)| if *right { -p.ln() } else { -(1.0 - p).ln() };
    all.iter().map(loss).sum::<f64>() / all.len() as f64
}

#[test]
fn the_gradient_is_that_of_the_mean_log_loss() {
    let histories = histories(&synthetic());
    let batch = histories.batch(&[0, 2, 3]);
    let at = stirred(1);
    let gradient = weights(&at).unwrap().gradient(&batch).unwrap();
    let loss_at = |direction: &[f32], step: f32| {
        let moved: Vec<f32> = at.iter().zip(direction).map(|(w, d)| w + step * d).collect();
        log_loss(&weights(&moved).unwrap().predict(&batch).unwrap())
    };
    for seed in 0..4 {
        let mut draws = ChaCha8Rng::seed_from_u64(seed);
        let direction: Vec<f32> = at.iter().map(|_| draws.random_range(-1.0..1.0)).collect();
        let expected: f64 = gradient.iter().zip(&direction).map(|(g, d)| f64::from(g * d)).sum();
        let step = 1e-3_f32;
        let found = (loss_at(&direction, step) - loss_at(&direction, -step)) / 2e-3;
        assert!((found - expected).abs() < 0.02 * expected.abs().max(0.05), "{found} {expected}");
    }
    // Each tensor has a part in it.
    let mut first = 0;
    for matrix in collegium_shared::architecture::kt_attention::matrices(2) {
        let len = matrix.rows * matrix.columns;
        let own = &gradient[first..first + len];
        assert!(own.iter().any(|value| value.abs() > 1e-7), "{}", matrix.name);
        first += len;
    }
}

#[test]
fn no_answer_is_seen_before_it_is_given() {
    let learners = synthetic();
    let all = histories(&learners);
    let weights = weights(&stirred(2)).unwrap();
    let predict = |batch: &histories::Batch| weights.predict(batch).unwrap();
    let before = predict(&all.batch(&[0, 1]));
    for changed in 0..12 {
        let mut batch = all.batch(&[0, 1]);
        // The outcome, as the network is told it, of one answer of the first window.
        batch.outcomes.swap(changed * 2, changed * 2 + 1);
        let after = predict(&batch);
        let moved: Vec<_> = (0..12).filter(|at| before[0][*at].0 != after[0][*at].0).collect();
        let later: Vec<_> = (changed + 1..12).collect();
        assert_eq!(moved, later);
        assert_eq!(before[1], after[1]);
    }
}

#[test]
fn it_begins_with_the_item_response_model() {
    let learners = synthetic();
    let histories = histories(&learners);
    let predicted = weights(&start()).unwrap().predict(&histories.batch(&[0, 1, 2])).unwrap();
    let statistics = Statistics::new(&training_counts(&learners), &training_counts(&learners));
    let design = Design::new(&learners[..3], &statistics, &[]);
    let weights = collegium_shared::architecture::layout(&[]).initial();
    let weights: Vec<f64> = weights.into_iter().map(f64::from).collect();
    let expected = crate::model::kt_logistic::predict(&design, &weights);
    for ((p, _), expected) in predicted.iter().flatten().zip(expected) {
        assert!((p - expected).abs() < 1e-5, "{p} {expected}");
    }
}

#[test]
fn padding_and_company_change_nothing() {
    let mut learners = synthetic();
    learners[1].responses.truncate(5);
    let histories = histories(&learners);
    let weights = weights(&stirred(3)).unwrap();
    let together = weights.predict(&histories.batch(&[0, 1, 2])).unwrap();
    for (window, together) in together.iter().enumerate() {
        let alone = weights.predict(&histories.batch(&[window])).unwrap();
        for ((a, _), (b, _)) in alone[0].iter().zip(together) {
            assert!((a - b).abs() < 1e-5, "{a} {b}");
        }
    }
    assert_eq!(together[1].len(), 5);
}

#[test]
fn long_histories_are_cut_and_nothing_is_lost() {
    let mut learners = synthetic();
    let long: Vec<_> = learners[0].responses.iter().cycle().take(2 * WINDOW + 3).cloned().collect();
    learners[0].responses = long;
    learners.push(Learner { responses: Vec::new(), ..learners[1].clone() });
    let histories = histories(&learners);
    assert_eq!(histories.by_learner().next(), Some(0..3));
    assert_eq!(histories.by_learner().count(), learners.len() - 1);
    let lengths: Vec<_> = histories.batch(&[0, 1, 2]).right.iter().map(Vec::len).collect();
    assert_eq!(lengths, [WINDOW, WINDOW, 3]);
    assert_eq!(histories.answers(), learners.iter().map(|l| l.responses.len()).sum::<usize>());
}

/// Whether an answer is right is what the answer before the last one on the competency was: no signal of the
/// logistic model says it.
fn school(seed: u64, learners: usize) -> Vec<Learner> {
    let mut draws = ChaCha8Rng::seed_from_u64(seed);
    let learner = |number: usize| {
        let mut responses: Vec<Response> = Vec::new();
        for answer in 0..40 {
            let correct = match answer {
                0 | 1 => draws.random(),
                _ => responses[answer - 2].correct != (draws.random::<f32>() < 0.05),
            };
            let item = format!("i{:02}", draws.random_range(0..4));
            responses.push(Response { item, competencies: vec!["add".into()], correct });
        }
        let (id, held_out) = (format!("{seed}-{number}"), number.is_multiple_of(4));
        let attributes = Default::default();
        Learner { id, held_out, attributes, responses, features: Default::default() }
    };
    (0..learners).map(learner).collect()
}

#[test]
fn it_learns_what_signals_do_not_say() {
    let records = loaded(&school(5, 48));
    let auc = |weights: &[f32]| {
        let mut evaluation = Evaluation::default();
        let learners = records.held_out(weights, Keeps::Fitted, &free()).unwrap();
        learners.into_iter().flatten().for_each(|(p, right)| evaluation.observe(p, right));
        evaluation.auc().unwrap()
    };
    let mut weights = start();
    let before = auc(&weights);
    for round in 1..=12 {
        let moves = records.train(&weights, round, &free()).unwrap();
        weights.iter_mut().zip(moves).for_each(|(w, m)| *w += super::super::single(m));
    }
    let after = auc(&weights);
    assert!(after > before + 0.12, "{before} {after}");
}

#[test]
fn training_again_gives_the_same() {
    let records = loaded(&synthetic());
    let moves = records.train(&start(), 3, &free()).unwrap();
    assert_eq!(moves, records.train(&start(), 3, &free()).unwrap());
    assert_ne!(moves, records.train(&start(), 4, &free()).unwrap());
    assert!(moves.iter().all(|moved| moved.abs() <= 0.05));
}

#[test]
fn hardly_any_records_do_no_harm() {
    let one = vec![Learner { held_out: false, ..synthetic()[0].clone() }];
    let mut same = one.clone();
    same[0].responses.iter_mut().for_each(|response| response.correct = true);
    for learners in [Vec::new(), one, same] {
        let records = loaded(&learners);
        let moves = records.train(&start(), 1, &free()).unwrap();
        assert!(moves.iter().all(|moved| moved.is_finite()));
        assert!(records.held_out(&start(), Keeps::Fitted, &free()).unwrap().is_empty());
    }
    let short = weights(&start()[1..]).unwrap_err().to_string();
    assert!(short.contains("another model"), "{short}");
    // A network over fewer competencies has not all the rows that are looked up.
    let fewer = KtAttention1.layout(&hyper(), &SharedSets::default()).initial();
    let refused = loaded(&synthetic()).held_out(&fewer, Keeps::Fitted, &free());
    assert!(refused.unwrap_err().to_string().contains("another model"));
}

/// With privacy, a learner's part and gradient depend on no other learner but through what was published.
#[test]
fn what_leaves_with_privacy_depends_on_one_learner_and_the_published_counts() {
    let target = Target { epsilon: 4.0, delta: 1e-6 };
    let privacy = LearnerPrivacy::propose_for_network(target, 10, 2, &KtAttention1).unwrap();
    let hyper = Hyper { privacy: Some(privacy), ..hyper() };
    let shared = &shared();
    let task = Task { hyper: &hyper, shared };
    let learners = synthetic();
    let segments = KtAttention1.statistics(&hyper, shared.sizes());
    let len: usize = segments.iter().map(|segment| segment.len as usize).sum();
    let mut values = vec![0.0; len];
    for learner in learners.iter().filter(|learner| !learner.held_out) {
        let part = KtAttention.part(learner, &task);
        let norm = part.iter().map(|(_, value)| value * value).sum::<f64>().sqrt();
        assert!(norm <= privacy.competencies.clip + 1e-9, "{norm}");
        assert_eq!(part[0], (0, 1.0));
        part.into_iter().for_each(|(at, value)| values[at] += value);
    }
    let statistics = &name_sums(&segments, &values).unwrap();
    let gradients = |learners: &[Learner]| {
        let records = KtAttention.load(learners, &task, statistics, &free()).unwrap();
        let mut all = Vec::new();
        records.gradients(&start(), &free(), &mut |part| all.push(part.to_vec())).unwrap();
        all
    };
    let together = gradients(&learners);
    let training: Vec<_> = learners.iter().filter(|learner| !learner.held_out).collect();
    assert_eq!(together.len(), training.len());
    for (learner, expected) in training.into_iter().zip(together) {
        assert_eq!(gradients(std::slice::from_ref(learner)), [expected]);
    }
}

/// A learner's many windows are computed some at a time; the gradient is that of all together.
#[test]
fn a_long_history_has_the_gradient_of_the_whole() {
    let target = Target { epsilon: 4.0, delta: 1e-6 };
    let privacy = LearnerPrivacy::propose_for_network(target, 10, 2, &KtAttention1).unwrap();
    let hyper = Hyper { privacy: Some(privacy), ..hyper() };
    let mut learner = Learner { held_out: false, ..synthetic()[0].clone() };
    let answers = WINDOWS * WINDOW + 5;
    learner.responses = learner.responses.iter().cycle().take(answers).cloned().collect();
    let segments = KtAttention1.statistics(&hyper, shared().sizes());
    let len: usize = segments.iter().map(|segment| segment.len as usize).sum();
    let statistics = name_sums(&segments, &vec![1.0; len]).unwrap();
    let counts = KtAttention1::counts(&statistics, &shared(), &hyper).unwrap();
    let learners = [learner];
    let task = Task { hyper: &hyper, shared: &shared() };
    let records = KtAttention.load(&learners, &task, &statistics, &free()).unwrap();
    let mut found = vec![0.0; start().len()];
    let mut add = |part: &[(usize, f64)]| part.iter().for_each(|(at, value)| found[*at] += value);
    records.gradients(&stirred(4), &free(), &mut add).unwrap();
    let published = Statistics::published(&counts);
    let competencies = shared().competencies;
    let all = Histories::new(learners.iter(), &published, &competencies, &free()).unwrap();
    let windows: Vec<_> = (0..all.windows()).collect();
    assert_eq!(windows.len(), WINDOWS + 1);
    let expected = weights(&stirred(4)).unwrap().gradient(&all.batch(&windows)).unwrap();
    let largest = expected.iter().fold(0.0_f32, |most, value| most.max(value.abs()));
    for (found, expected) in found.iter().zip(expected) {
        assert!((found - f64::from(expected)).abs() < 1e-4 * f64::from(largest));
    }
}

/// What a limit on memory goes by grows with what is asked for.
#[test]
fn memory_is_estimated_by_windows_and_answers() {
    let usual = KtAttention.memory(&hyper(), 9);
    let local = Local::Adam { learning_rate: 1e-3, batch: 64, decay_rounds: 30 };
    let optimizer = Optimizer { local, ..KtAttention1.optimizer() };
    let large = KtAttention.memory(&Hyper { optimizer, ..hyper() }, 9);
    assert_eq!((usual.batch, large.batch), (64 << 20, 256 << 20));
    let target = Target { epsilon: 4.0, delta: 1e-6 };
    let privacy = LearnerPrivacy::propose_for_network(target, 10, 2, &KtAttention1).unwrap();
    let private = KtAttention.memory(&Hyper { privacy: Some(privacy), ..hyper() }, 9);
    assert_eq!(private.answer, 2 * usual.answer);
}
