//! Runs one stage of a task over a snapshot of this institution's records and returns the values
//! that go into the secure sum. Owns the snapshot and what is derived from it; sends nothing, and
//! clips nothing but the moves (encoding clips to each segment's bound).

mod neural;
mod private;

use collegium_shared::architecture::{Evaluation, Hyper, SharedSets, SharedStatistics, Totals};

use crate::{
    model::{
        Effort, ModelError, checked,
        features::{Counts, Design, Statistics, counted, sigmoid, training_counts},
        finite,
        kt_logistic::Dataset,
    },
    records::Learner,
};

pub use neural::NeuralWork;
pub use private::PrivateWork;

/// Learners whose features are computed at once, and answers that are evaluated at once: between them
/// the thread may have to rest.
const LEARNERS: usize = 256;
const ANSWERS: usize = 8_192;

/// A stage of a task with everything that it needs. The order of the values that each returns is
/// that of `architecture::segments`.
#[derive(Clone, Copy, Debug)]
pub enum Work<'a> {
    /// The signed registry's items and competencies, in its order.
    Support {
        items: &'a [String],
        competencies: &'a [String],
    },
    Statistics {
        shared: &'a SharedSets,
    },
    Totals {
        shared: &'a SharedSets,
        statistics: &'a SharedStatistics,
    },
    Train {
        shared: &'a SharedSets,
        statistics: &'a SharedStatistics,
        totals: &'a Totals,
        hyper: &'a Hyper,
        /// Where this round's local steps start.
        start: &'a [f32],
        /// The model that is evaluated.
        candidate: &'a [f32],
    },
    Evaluate {
        shared: &'a SharedSets,
        statistics: &'a SharedStatistics,
        candidate: &'a [f32],
    },
}

/// An institution's records for the length of a task.
#[derive(Debug)]
pub struct Trainer {
    learners: Vec<Learner>,
    own: Counts,
    prepared: Option<Prepared>,
    apart: Option<private::Apart>,
    network: Option<neural::Ready>,
}

/// What depends on the published counts only, and so is the same in every round.
#[derive(Debug)]
struct Prepared {
    shared: SharedSets,
    statistics: SharedStatistics,
    train: Dataset,
    held_out: Design,
}

impl Trainer {
    /// `learners` are the snapshot that the whole task runs on.
    pub fn new(learners: Vec<Learner>) -> Self {
        let own = training_counts(&learners);
        Self { learners, own, prepared: None, apart: None, network: None }
    }

    /// Training answers in the snapshot.
    pub fn examples(&self) -> f64 {
        self.own.base.0
    }

    /// The snapshot.
    pub fn learners(&self) -> &[Learner] {
        &self.learners
    }

    /// Runs a stage. Long (seconds on 100,000 answers) and synchronous: call it where blocking is
    /// allowed. Cancelling `effort` ends it with [`ModelError::Cancelled`] after the current step.
    /// The result is finite and, for the same snapshot and work, always the same.
    pub fn run_stage(&mut self, work: Work<'_>, effort: &Effort) -> Result<Vec<f64>, ModelError> {
        let values = match work {
            Work::Support { items, competencies } => self.support(items, competencies),
            Work::Statistics { shared } => counted(&self.own, shared),
            Work::Totals { shared, statistics } => {
                let train = &self.prepare(shared, statistics, effort)?.train;
                let mut values = vec![train.len() as f64];
                values.extend_from_slice(train.curvature());
                values
            }
            Work::Train { shared, statistics, totals, hyper, start, candidate } => {
                let prepared = self.prepare(shared, statistics, effort)?;
                let start = checked(start, prepared.held_out.parameters())?;
                let mut values = prepared.train.contribution(&start, totals, hyper, effort)?;
                values.extend(prepared.evaluate(candidate, effort)?.values());
                values
            }
            Work::Evaluate { shared, statistics, candidate } => {
                self.prepare(shared, statistics, effort)?.evaluate(candidate, effort)?.values()
            }
        };
        effort.step()?;
        finite("the contribution", values)
    }

    fn support(&self, items: &[String], competencies: &[String]) -> Vec<f64> {
        let bit = |known: bool| f64::from(u8::from(known));
        let items = items.iter().map(|i| bit(self.own.items.contains_key(i)));
        let competencies = competencies.iter().map(|k| bit(self.own.skills.contains_key(k)));
        items.chain(competencies).collect()
    }

    /// Features and tensors, made once for each set of published counts.
    fn prepare(
        &mut self,
        shared: &SharedSets,
        statistics: &SharedStatistics,
        effort: &Effort,
    ) -> Result<&Prepared, ModelError> {
        let same = |p: &Prepared| p.shared == *shared && p.statistics == *statistics;
        let prepared = match self.prepared.take().filter(same) {
            Some(prepared) => prepared,
            None => self.compute(shared, statistics, effort)?,
        };
        Ok(self.prepared.insert(prepared))
    }

    fn compute(
        &self,
        shared: &SharedSets,
        counts: &SharedStatistics,
        effort: &Effort,
    ) -> Result<Prepared, ModelError> {
        let statistics = Statistics::new(counts, &self.own);
        let of = |held_out: bool| {
            let all: Vec<_> = self.learners.iter().filter(|l| l.held_out == held_out).collect();
            let mut design = Design::new([], &statistics, &shared.competencies);
            for some in all.chunks(LEARNERS) {
                effort.step()?;
                let some = some.iter().copied();
                design.append(&Design::new(some, &statistics, &shared.competencies));
            }
            Ok::<_, ModelError>(design)
        };
        Ok(Prepared {
            shared: shared.clone(),
            statistics: counts.clone(),
            train: Dataset::new(&of(false)?, statistics.base()),
            held_out: of(true)?,
        })
    }
}

impl Prepared {
    fn evaluate(&self, candidate: &[f32], effort: &Effort) -> Result<Evaluation, ModelError> {
        let weights = checked(candidate, self.held_out.parameters())?;
        let mut evaluation = Evaluation::default();
        for (number, row) in self.held_out.rows().enumerate() {
            if number % ANSWERS == 0 {
                effort.step()?;
            }
            evaluation.observe(sigmoid(row.logit(&weights)), row.correct);
        }
        Ok(evaluation)
    }
}

#[cfg(test)]
pub(crate) mod tests;
