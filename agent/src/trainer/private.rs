//! The stages of a private task: each learner's whole part in a sum, handed over one by one to be clipped.
//! What is computed here depends on learners only through the learner itself and through numbers that
//! carried noise when they were published; the institution's own exact counts have no part in it. Draws
//! no noise, and sends nothing.

use std::collections::BTreeMap;

use collegium_shared::architecture::{
    DENSE, Evaluation, FEATURE_SCALES, PRIVATE_BINS, SharedSets, SharedStatistics,
};

use super::{LEARNERS, Trainer};
use crate::{
    model::{
        Effort, ModelError, checked,
        features::{Design, Statistics, sigmoid},
    },
    privacy::BoundedSum,
    records::Learner,
};

/// A stage of a private task with everything that it needs.
#[derive(Clone, Copy, Debug)]
pub enum PrivateWork<'a> {
    Statistics { shared: &'a SharedSets },
    Gradient { shared: &'a SharedSets, statistics: &'a SharedStatistics, start: &'a [f32] },
    Evaluate { shared: &'a SharedSets, statistics: &'a SharedStatistics, candidate: &'a [f32] },
}

/// The features of some learners, all of one population.
#[derive(Debug)]
pub(super) struct Apart {
    shared: SharedSets,
    statistics: SharedStatistics,
    train: PerLearner,
    held_out: PerLearner,
}

/// Rows, and where each learner's end.
#[derive(Debug)]
struct PerLearner {
    design: Design,
    ends: Vec<usize>,
}

impl Trainer {
    /// Adds every learner's part to `sums`, the groups of the stage. Long and synchronous, as
    /// [`Self::run_stage`].
    pub fn run_private(
        &mut self,
        work: PrivateWork<'_>,
        sums: &mut [BoundedSum],
        effort: &Effort,
    ) -> Result<(), ModelError> {
        match work {
            PrivateWork::Statistics { shared } => self.count(shared, sums, effort),
            PrivateWork::Gradient { shared, statistics, start } => {
                let learners = &self.apart(shared, statistics, effort)?.train;
                let weights = checked(start, learners.design.parameters())?;
                learners.each("gradient", |rows| gradient(rows, &weights), sums, effort)
            }
            PrivateWork::Evaluate { shared, statistics, candidate } => {
                let learners = &self.apart(shared, statistics, effort)?.held_out;
                let weights = checked(candidate, learners.design.parameters())?;
                let part = |rows: &Rows<'_>| {
                    histograms(rows.iter().map(|row| (sigmoid(row.logit(&weights)), row.correct)))
                };
                learners.each("eval_positive", part, sums, effort)
            }
        }
    }

    fn count(
        &self,
        shared: &SharedSets,
        sums: &mut [BoundedSum],
        effort: &Effort,
    ) -> Result<(), ModelError> {
        let places = |names: &[String]| -> BTreeMap<String, usize> {
            names.iter().cloned().zip(0..).collect()
        };
        let (items, skills) = (places(&shared.items), places(&shared.competencies));
        let training = self.learners.iter().filter(|learner| !learner.held_out);
        for (number, learner) in training.enumerate() {
            if number % LEARNERS == 0 {
                effort.step()?;
            }
            let by_item = answers(learner, |r| std::slice::from_ref(&r.item), &items);
            let by_skill = answers(learner, |r| &r.competencies, &skills);
            add("item_right", &by_item, sums);
            add("skill_right", &by_skill, sums);
        }
        Ok(())
    }

    /// Features of each learner from the published counts alone, made once for each set of them.
    fn apart(
        &mut self,
        shared: &SharedSets,
        statistics: &SharedStatistics,
        effort: &Effort,
    ) -> Result<&Apart, ModelError> {
        let same = |a: &Apart| a.shared == *shared && a.statistics == *statistics;
        let apart = match self.apart.take().filter(same) {
            Some(apart) => apart,
            None => {
                let published = Statistics::published(statistics);
                let of = |held_out| PerLearner::new(self, held_out, shared, &published, effort);
                let (shared, statistics) = (shared.clone(), statistics.clone());
                Apart { train: of(false)?, held_out: of(true)?, shared, statistics }
            }
        };
        Ok(self.apart.insert(apart))
    }
}

/// How often the learner answered each of the named rightly, and after all of these how often wrongly.
fn answers<'a>(
    learner: &'a Learner,
    named: impl Fn(&'a crate::records::Response) -> &'a [String],
    places: &BTreeMap<String, usize>,
) -> Vec<(usize, f64)> {
    let mut counts: BTreeMap<usize, (f64, f64)> = BTreeMap::new();
    for response in &learner.responses {
        for place in named(response).iter().filter_map(|name| places.get(name)) {
            let (right, wrong) = counts.entry(*place).or_default();
            *(if response.correct { right } else { wrong }) += 1.0;
        }
    }
    let second = places.len();
    let pairs =
        counts.into_iter().flat_map(|(at, (right, wrong))| [(at, right), (second + at, wrong)]);
    pairs.filter(|(_, value)| *value != 0.0).collect()
}

/// Hands one learner's part to the group that begins with the segment `first`; there is none where the
/// registry has no such names.
fn add(first: &str, part: &[(usize, f64)], sums: &mut [BoundedSum]) {
    let mut group =
        sums.iter_mut().filter(|sum| sum.placed().group.segments.first() == Some(&first));
    if let Some(sum) = group.next() {
        sum.add(part);
    }
}

type Rows<'a> = [crate::model::features::Row<'a>];

/// The gradient of the summed log loss over a learner's answers, by the dense weights of features that are
/// divided by their public scales.
fn gradient(rows: &Rows<'_>, weights: &[f64]) -> Vec<(usize, f64)> {
    let mut gradient = vec![0.0; DENSE.len()];
    for row in rows {
        let residual = sigmoid(row.logit(weights)) - f64::from(u8::from(row.correct));
        let scaled = row.dense.iter().zip(FEATURE_SCALES);
        for (slope, (x, scale)) in gradient.iter_mut().zip(scaled) {
            *slope += residual * x / scale;
        }
    }
    gradient.into_iter().enumerate().collect()
}

/// One learner's answers by the predicted probability: right ones, and behind them wrong ones.
pub(super) fn histograms(answers: impl Iterator<Item = (f64, bool)>) -> Vec<(usize, f64)> {
    let mut evaluation = Evaluation::over(PRIVATE_BINS);
    answers.for_each(|(p, right)| evaluation.observe(p, right));
    let bins = evaluation.positive.into_iter().chain(evaluation.negative);
    bins.enumerate().filter(|(_, count)| *count != 0.0).collect()
}

impl PerLearner {
    fn new(
        trainer: &Trainer,
        held_out: bool,
        shared: &SharedSets,
        statistics: &Statistics,
        effort: &Effort,
    ) -> Result<Self, ModelError> {
        let mut design = Design::new([], statistics, &shared.competencies);
        let mut ends = Vec::new();
        for learner in trainer.learners.iter().filter(|learner| learner.held_out == held_out) {
            if ends.len() % LEARNERS == 0 {
                effort.step()?;
            }
            design.append(&Design::new([learner], statistics, &shared.competencies));
            ends.push(design.len());
        }
        Ok(Self { design, ends })
    }

    /// Hands every learner's part to the group that begins with `first`.
    fn each(
        &self,
        first: &str,
        part: impl Fn(&Rows<'_>) -> Vec<(usize, f64)>,
        sums: &mut [BoundedSum],
        effort: &Effort,
    ) -> Result<(), ModelError> {
        let mut rows = self.design.rows();
        let mut begun = 0;
        for (number, end) in self.ends.iter().enumerate() {
            if number % LEARNERS == 0 {
                effort.step()?;
            }
            let own: Vec<_> = rows.by_ref().take(end - begun).collect();
            begun = *end;
            add(first, &part(&own), sums);
        }
        Ok(())
    }
}
