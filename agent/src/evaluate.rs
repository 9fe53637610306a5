//! How good models are on this institution's held-out learners, and what the comparisons are: the
//! institution alone, the released model, its personal copy, and (where a demonstration has all records
//! in one place) the pooled model. Reports only; installs nothing.

pub mod federated;
pub mod left_out;
pub mod network;
mod quality;

use std::collections::BTreeMap;

use collegium_shared::architecture::{Hyper, SharedStatistics};
use serde::Serialize;

use crate::{
    model::{
        Effort, Model, ModelError,
        features::{Counts, Design, Statistics, sigmoid, training_counts},
        fit::{Answer, Prior, fit},
        personal::{self, Choice},
    },
    records::Learner,
};

pub use quality::{Intervals, Quality, Scored};

/// Of each learner's answers, the part that counts as later ones: one in so many, the last.
const LATER: usize = 5;

/// An institution's own report.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LocalReport {
    pub training_learners: usize,
    pub training_answers: usize,
    pub held_out_learners: usize,
    pub held_out_answers: usize,
    /// Over all answers of the held-out learners.
    #[serde(flatten)]
    pub all: Compared,
    /// Over the last fifth of each held-out learner's answers, when much is known of the learner.
    pub later: Compared,
    /// Which model recommendations use, and why; none while nothing is installed.
    pub choice: Option<Choice>,
}

/// The models that an institution could use, on the same answers.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Compared {
    /// Counts and weights from this institution's own training answers only, to convergence.
    pub alone: Quality,
    /// The released model.
    pub global: Quality,
    /// What recommendations use: the personal copy where that is better, else the released model.
    pub personal: Quality,
}

/// Evaluates on the held-out learners; `installed` is the newest released model, if any. Several fits to
/// convergence: call it where blocking is allowed.
pub fn local(
    learners: &[Learner],
    installed: Option<&Model>,
    hyper: &Hyper,
    effort: &Effort,
) -> Result<LocalReport, ModelError> {
    let own = training_counts(learners);
    let missing = "no model is installed yet";
    let (personal, choice) = match installed {
        Some(model) => {
            let (model, choice) = personal::choose(model, learners, &own, effort)?;
            (Ok(model), Some(choice))
        }
        None => (Err(missing), None),
    };
    let alone = match trainable(&own) {
        Ok(()) => Ok(alone(learners, hyper, effort)?),
        Err(reason) => Err(reason),
    };
    let models = [alone, installed.cloned().ok_or(missing), personal];
    let rows = models.map(|model| model.map(|model| scored(&model, learners, &own)));
    let held_out = || learners.iter().filter(|learner| learner.held_out);
    let late: Vec<bool> = held_out().flat_map(late).collect();
    let training = learners.iter().filter(|learner| !learner.held_out);
    Ok(LocalReport {
        training_learners: training.count(),
        training_answers: learners.iter().map(|l| l.responses.len()).sum::<usize>() - late.len(),
        held_out_learners: held_out().count(),
        held_out_answers: late.len(),
        all: Compared::of(&rows, |_| true),
        later: Compared::of(&rows, |answer| late[answer]),
        choice,
    })
}

impl Compared {
    /// Over the answers that are wanted by their position; or why a model has none.
    fn of(rows: &[Result<Vec<Scored>, &str>; 3], wanted: impl Fn(usize) -> bool) -> Self {
        let [alone, global, personal] = rows.each_ref().map(|rows| match rows {
            Ok(rows) => {
                let some = rows.iter().enumerate().filter(|(place, _)| wanted(*place));
                Quality::of(&some.map(|(_, scored)| *scored).collect::<Vec<_>>())
            }
            Err(reason) => Quality::absent(reason),
        });
        Self { alone, global, personal }
    }
}

/// For each answer of a learner, whether it is one of the last.
fn late(learner: &Learner) -> impl Iterator<Item = bool> {
    let answers = learner.responses.len();
    (0..answers).map(move |place| place >= answers - answers / LATER)
}

/// The held-out learners' answers as `model` predicts them, given the institution's own counts.
pub(crate) fn scored(model: &Model, learners: &[Learner], own: &Counts) -> Vec<Scored> {
    let statistics = Statistics::new(model.statistics(), own);
    let held_out = || learners.iter().filter(|learner| learner.held_out);
    let design = Design::new(held_out(), &statistics, model.competencies());
    let answers = held_out().enumerate().flat_map(|(learner, of)| {
        of.responses.iter().map(move |response| (learner, response.item.as_str()))
    });
    let rows = design.rows().zip(answers);
    rows.map(|(row, (learner, item))| {
        let p = sigmoid(row.logit(model.weights()) + model.item_bias(item));
        Scored { learner, p, correct: row.correct }
    })
    .collect()
}

/// Whether a model can be trained on these counts alone; the reason if not.
fn trainable(own: &Counts) -> Result<(), &'static str> {
    let (n, right) = own.base;
    if n == 0.0 {
        Err("no training answers")
    } else if right == 0.0 || right == n {
        Err("training answers are all right or all wrong")
    } else {
        Ok(())
    }
}

/// The model of one institution's records alone, or of several in one place, to convergence: every item and
/// competency is shared.
fn in_one_place(
    institutions: &[&[Learner]],
    hyper: &Hyper,
    effort: &Effort,
) -> Result<Model, ModelError> {
    let mut counts = Counts::default();
    institutions.iter().for_each(|learners| merge(&mut counts, training_counts(*learners)));
    let competencies: Vec<_> = counts.skills.keys().cloned().collect();
    let statistics = Statistics::new(&counts, &counts);
    let designs: Vec<Design> = institutions
        .iter()
        .map(|learners| {
            let training = learners.iter().filter(|learner| !learner.held_out);
            Design::new(training, &statistics, &competencies)
        })
        .collect();
    let rows = designs.iter().flat_map(Design::rows);
    let answers: Vec<_> = rows.map(|row| Answer { row, item: None }).collect();
    let ridge = hyper.ridge(competencies.len());
    let zeros = vec![0.0; ridge.len()];
    let fitted = fit(&answers, &zeros, &Prior::ridge(&zeros, &ridge), effort)?;
    Ok(Model::fitted(&competencies, counts, fitted.weights))
}

/// The model that an institution reaches without any other.
pub fn alone(learners: &[Learner], hyper: &Hyper, effort: &Effort) -> Result<Model, ModelError> {
    in_one_place(&[learners], hyper, effort)
}

/// The model that one place with every record reaches. For demonstrations and tests; an agent never has
/// another institution's records.
pub fn pooled(
    institutions: &[Vec<Learner>],
    hyper: &Hyper,
    effort: &Effort,
) -> Result<Model, ModelError> {
    let all: Vec<&[Learner]> = institutions.iter().map(Vec::as_slice).collect();
    in_one_place(&all, hyper, effort)
}

/// What all institutions' held-out learners say about some models.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// Over all held-out answers together.
    pub together: Quality,
    /// On each institution's held-out answers, in the order given.
    pub institutions: Vec<Quality>,
}

/// Evaluates the model that `model` gives for each institution, which has its own exact counts beside the
/// shared ones. For demonstrations, benchmarks and tests.
pub fn across(
    institutions: &[Vec<Learner>],
    mut model: impl FnMut(&[Learner]) -> Result<Model, ModelError>,
) -> Result<Report, ModelError> {
    let (mut all, mut qualities) = (Vec::new(), Vec::with_capacity(institutions.len()));
    let mut learners_before = 0;
    for learners in institutions {
        let scored = scored(&model(learners)?, learners, &training_counts(learners));
        qualities.push(Quality::of(&scored));
        let moved = |s: Scored| Scored { learner: s.learner + learners_before, ..s };
        all.extend(scored.into_iter().map(moved));
        learners_before += learners.len();
    }
    Ok(Report { together: Quality::of(&all), institutions: qualities })
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::trainer::tests::{federate, simulated};

    fn free() -> Effort {
        Effort::new(Arc::default(), 100)
    }

    #[test]
    fn a_small_institution_gains_from_the_federation() {
        let mut world = simulated(11, 3, 150);
        world[0].truncate(20);
        let run = federate(world.clone(), &Hyper::default(), 15, 1);
        let model = Model::new(&run.shared.competencies, run.statistics, &run.weights).unwrap();
        let report = local(&world[0], Some(&model), &Hyper::default(), &free()).unwrap();
        assert_eq!((report.training_learners, report.held_out_learners), (16, 4));
        assert_eq!((report.training_answers, report.held_out_answers), (400, 100));
        assert_eq!((report.all.global.answers, report.later.global.answers), (100, 20));
        let (alone, global) = (report.all.alone.log_loss, report.all.global.log_loss);
        assert!(global < alone, "alone {alone:?}, global {global:?}");
        assert!(report.all.personal.log_loss < alone, "{report:?}");
        assert!(report.choice.is_some());
    }

    #[test]
    fn missing_classes_are_said() {
        let mut world = simulated(11, 1, 10);
        let mut learners = world.remove(0);
        let report = local(&learners, None, &Hyper::default(), &free()).unwrap();
        assert_eq!(report.all.global.reason.as_deref(), Some("no model is installed yet"));
        assert_eq!((report.all.personal.auc, report.choice), (None, None));
        let all = learners.iter_mut().flat_map(|l| &mut l.responses);
        all.for_each(|response| response.correct = true);
        let report = local(&learners, None, &Hyper::default(), &free()).unwrap();
        assert_eq!((report.all.alone.auc, report.all.alone.log_loss), (None, None));
        assert!(report.all.alone.reason.is_some());
        let world = [learners];
        let model = pooled(&world, &Hyper::default(), &free()).unwrap();
        assert_eq!(across(&world, |_| Ok(model.clone())).unwrap().together.auc, None);
        let nobody = alone(&[], &Hyper::default(), &free()).unwrap();
        assert_eq!(across(&world, |_| Ok(nobody.clone())).unwrap().together.brier, Some(0.25));
    }
}
