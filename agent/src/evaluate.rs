//! How good a model is on this institution's held-out learners, and what the comparisons are: the
//! institution alone, the installed model, and (where a demonstration has all records in one
//! place) the pooled model. Reports only; decides and installs nothing.

use std::collections::BTreeMap;

use collegium_shared::architecture::{Hyper, SharedStatistics};
use serde::Serialize;

use crate::{
    model::{
        Model, ModelError,
        features::{Counts, Design, Statistics, training_counts},
        fit::{fit_to_convergence, personal_copy},
        kt_logistic::predict,
    },
    records::Learner,
};

/// How one model does on some held-out answers.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Quality {
    /// Area under the ROC curve; absent with a `reason`.
    pub auc: Option<f64>,
    /// Mean log loss in nats; absent with a `reason`.
    pub log_loss: Option<f64>,
    /// Why a figure is absent, in words.
    pub reason: Option<String>,
}

impl Quality {
    fn absent(reason: &str) -> Self {
        Self { auc: None, log_loss: None, reason: Some(reason.to_owned()) }
    }

    /// The quality of `weights` on the rows of `held_out`.
    fn of(weights: &[f64], held_out: &Design) -> Self {
        Self::of_scored(scored(weights, held_out))
    }

    fn of_scored(scored: Vec<(f64, bool)>) -> Self {
        if scored.is_empty() {
            return Self::absent("no held-out answers");
        }
        let loss = |&(p, correct): &(f64, bool)| {
            -(if correct { p } else { 1.0 - p }).max(f64::MIN_POSITIVE).ln()
        };
        let log_loss = Some(scored.iter().map(loss).sum::<f64>() / scored.len() as f64);
        let auc = auc(scored);
        let reason =
            auc.is_none().then(|| "held-out answers are all right or all wrong".to_owned());
        Self { auc, log_loss, reason }
    }
}

/// Each row's predicted probability of a right answer, and whether it was right.
fn scored(weights: &[f64], held_out: &Design) -> Vec<(f64, bool)> {
    let answers = held_out.rows().map(|row| row.correct);
    predict(held_out, weights).into_iter().zip(answers).collect()
}

/// An institution's own report.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LocalReport {
    pub training_learners: usize,
    pub training_answers: usize,
    pub held_out_learners: usize,
    pub held_out_answers: usize,
    /// Counts and weights from this institution's own training answers only, to convergence.
    pub alone: Quality,
    /// The installed model.
    pub global: Quality,
}

/// Evaluates on the held-out learners; `installed` is the model that recommendations use, if any.
pub fn local(
    learners: &[Learner],
    installed: Option<&Model>,
    hyper: &Hyper,
) -> Result<LocalReport, ModelError> {
    let own = training_counts(learners);
    let (held_out, training): (Vec<_>, Vec<_>) = learners.iter().partition(|l| l.held_out);
    let answers = |of: &[&Learner]| of.iter().map(|l| l.responses.len()).sum();
    let global = match installed {
        None => Quality::absent("no model is installed yet"),
        Some(model) => {
            let statistics = Statistics::new(model.statistics(), &own);
            let design = Design::new(held_out.iter().copied(), &statistics, model.competencies());
            Quality::of(model.weights(), &design)
        }
    };
    Ok(LocalReport {
        training_learners: training.len(),
        training_answers: answers(&training),
        held_out_learners: held_out.len(),
        held_out_answers: answers(&held_out),
        alone: alone(&own, &training, &held_out, hyper)?,
        global,
    })
}

fn alone(
    own: &Counts,
    training: &[&Learner],
    held_out: &[&Learner],
    hyper: &Hyper,
) -> Result<Quality, ModelError> {
    let (n, right) = own.base;
    if n == 0.0 {
        return Ok(Quality::absent("no training answers"));
    }
    if right == 0.0 || right == n {
        return Ok(Quality::absent("training answers are all right or all wrong"));
    }
    let competencies: Vec<_> = own.skills.keys().cloned().collect();
    let statistics = Statistics::new(own, own);
    let design = |of: &[&Learner]| Design::new(of.iter().copied(), &statistics, &competencies);
    let weights = fit(&design(training), hyper)?;
    Ok(Quality::of(&weights, &design(held_out)))
}

fn fit(design: &Design, hyper: &Hyper) -> Result<Vec<f64>, ModelError> {
    let start = vec![0.0; design.parameters()];
    fit_to_convergence(design, &start, &hyper.ridge(design.competencies()))
}

/// What one place that held every record would reach.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PooledReport {
    /// Over all held-out answers together.
    pub together: Quality,
    /// On each institution's held-out answers, in the order given.
    pub institutions: Vec<Quality>,
}

/// Trains the same architecture on all institutions' records in one place, to convergence: every
/// item and competency shared, counts summed. For demonstrations and tests; an agent never has
/// another institution's records.
pub fn pooled(institutions: &[Vec<Learner>], hyper: &Hyper) -> Result<PooledReport, ModelError> {
    let mut counts = SharedStatistics::default();
    institutions.iter().for_each(|learners| merge(&mut counts, training_counts(learners)));
    let (n, right) = counts.base;
    if right == 0.0 || right == n {
        let none = Quality::absent("training answers are missing, all right or all wrong");
        return Ok(PooledReport {
            together: none.clone(),
            institutions: vec![none; institutions.len()],
        });
    }
    let competencies: Vec<_> = counts.skills.keys().cloned().collect();
    let statistics = Statistics::new(&counts, &counts);
    let design = |learners: &[Learner], held_out: bool| {
        let of = learners.iter().filter(|l| l.held_out == held_out);
        Design::new(of, &statistics, &competencies)
    };
    let mut training = design(&[], false);
    institutions.iter().for_each(|learners| training.append(&design(learners, false)));
    let weights = fit(&training, hyper)?;
    let mut all = design(&[], true);
    let mut qualities = Vec::with_capacity(institutions.len());
    for learners in institutions {
        let held_out = design(learners, true);
        qualities.push(Quality::of(&weights, &held_out));
        all.append(&held_out);
    }
    Ok(PooledReport { together: Quality::of(&weights, &all), institutions: qualities })
}

/// A released model as each institution would use it, with its own exact counts beside the shared ones: its
/// weights as they are, or the institution's personal copy of them. For benchmarks and tests.
pub fn served(
    institutions: &[Vec<Learner>],
    model: &Model,
    personal: bool,
) -> Result<PooledReport, ModelError> {
    let (mut all, mut qualities) = (Vec::new(), Vec::with_capacity(institutions.len()));
    for learners in institutions {
        let statistics = Statistics::new(model.statistics(), &training_counts(learners));
        let design = |held_out: bool| {
            let of = learners.iter().filter(|l| l.held_out == held_out);
            Design::new(of, &statistics, model.competencies())
        };
        let own = personal.then(|| personal_copy(&design(false), model.weights())).transpose()?;
        let scored = scored(own.as_deref().unwrap_or(model.weights()), &design(true));
        all.extend_from_slice(&scored);
        qualities.push(Quality::of_scored(scored));
    }
    Ok(PooledReport { together: Quality::of_scored(all), institutions: qualities })
}

fn merge(total: &mut SharedStatistics, own: Counts) {
    let add = |sum: &mut (f64, f64), (n, c): (f64, f64)| {
        sum.0 += n;
        sum.1 += c;
    };
    let tables = |total: &mut BTreeMap<String, _>, own: BTreeMap<_, _>| {
        own.into_iter().for_each(|(name, counts)| add(total.entry(name).or_default(), counts));
    };
    add(&mut total.base, own.base);
    tables(&mut total.items, own.items);
    tables(&mut total.skills, own.skills);
}

/// The area under the ROC curve of (probability, outcome) by the Mann-Whitney statistic, ties
/// counted half. `None` if all outcomes are equal.
fn auc(mut scored: Vec<(f64, bool)>) -> Option<f64> {
    scored.sort_by(|a, b| a.0.total_cmp(&b.0));
    let (mut below, mut ordered, mut positives) = (0.0, 0.0, 0.0);
    for ties in scored.chunk_by(|a, b| a.0 == b.0) {
        let right = ties.iter().filter(|(_, correct)| *correct).count() as f64;
        let wrong = ties.len() as f64 - right;
        ordered += right * (below + 0.5 * wrong);
        below += wrong;
        positives += right;
    }
    (positives > 0.0 && below > 0.0).then(|| ordered / (positives * below))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trainer::tests::{federate, simulated};

    #[test]
    fn auc_counts_ties_half() {
        let scored = vec![(0.9, true), (0.4, true), (0.4, false), (0.1, false)];
        assert_eq!(auc(scored), Some(0.875));
        assert_eq!(auc(vec![(0.9, true)]), None);
    }

    #[test]
    fn a_small_institution_gains_from_the_federation() {
        let mut world = simulated(11, 3, 150);
        world[0].truncate(20);
        let run = federate(world.clone(), &Hyper::default(), 15, 1);
        let model = Model::new(&run.shared.competencies, run.statistics, &run.weights).unwrap();
        let report = local(&world[0], Some(&model), &Hyper::default()).unwrap();
        assert_eq!((report.training_learners, report.held_out_learners), (16, 4));
        assert_eq!((report.training_answers, report.held_out_answers), (400, 100));
        let (alone, global) = (report.alone.log_loss.unwrap(), report.global.log_loss.unwrap());
        assert!(global < alone, "alone {alone}, global {global}");
    }

    #[test]
    fn missing_classes_are_said() {
        let mut world = simulated(11, 1, 10);
        let mut learners = world.remove(0);
        let report = local(&learners, None, &Hyper::default()).unwrap();
        assert_eq!(report.global.reason.as_deref(), Some("no model is installed yet"));
        let all = learners.iter_mut().flat_map(|l| &mut l.responses);
        all.for_each(|response| response.correct = true);
        let report = local(&learners, None, &Hyper::default()).unwrap();
        assert_eq!((report.alone.auc, report.alone.log_loss), (None, None));
        assert!(report.alone.reason.is_some());
        let pooled = pooled(&[learners], &Hyper::default()).unwrap();
        assert_eq!(pooled.together.auc, None);
    }
}
