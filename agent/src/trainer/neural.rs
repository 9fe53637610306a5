//! The stages of a task whose model is a neural network, over this institution's snapshot. Weights moves by
//! n/N and clips them; how the network computes is the network's.

use collegium_shared::architecture::{Evaluation, Hyper, SharedSets, Sums};

use super::Trainer;
use crate::{
    model::{
        Effort, ModelError, finite,
        neural::{Keeps, Loaded, Network, Task},
    },
    privacy::BoundedSum,
};

/// A stage with everything that it needs. The order of the values that each returns is that of
/// [`collegium_shared::architecture::Architecture::segments`].
#[derive(Clone, Copy, Debug)]
pub enum NeuralWork<'a> {
    Statistics,
    Train {
        /// Opened.
        statistics: &'a Sums,
        /// Counted from 1.
        round: u32,
        start: &'a [f32],
        /// The model that is evaluated.
        candidate: &'a [f32],
    },
    Evaluate {
        statistics: &'a Sums,
        candidate: &'a [f32],
    },
}

/// The records, ready for a network, and what they were made ready by.
#[derive(Debug)]
pub(super) struct Ready {
    id: &'static str,
    hyper: Hyper,
    shared: SharedSets,
    statistics: Sums,
    loaded: Box<dyn Loaded>,
}

impl Trainer {
    /// As [`Self::run_stage`], for a network.
    pub fn run_network(
        &mut self,
        network: &dyn Network,
        task: &Task<'_>,
        work: NeuralWork<'_>,
        effort: &Effort,
    ) -> Result<Vec<f64>, ModelError> {
        let values = match work {
            NeuralWork::Statistics => network.statistics(&self.learners, task)?,
            NeuralWork::Train { statistics, round, start, candidate } => {
                let total = network.facts().answers(statistics);
                let loaded = self.load(network, task, statistics, effort)?;
                let answers = loaded.answers() as f64;
                // An institution that the statistics do not count would otherwise weigh more than all.
                let share = if answers > 0.0 { answers / total.max(answers) } else { 0.0 };
                let mut moves = loaded.train(start, round, effort)?;
                moves.iter_mut().for_each(|moved| *moved *= share);
                let mut values = finite("the update", moves)?;
                task.hyper.optimizer.clip(&mut values);
                values.extend(evaluation(loaded, candidate, effort)?.values());
                values
            }
            NeuralWork::Evaluate { statistics, candidate } => {
                let loaded = self.load(network, task, statistics, effort)?;
                evaluation(loaded, candidate, effort)?.values()
            }
        };
        effort.step()?;
        finite("the contribution", values)
    }

    /// Adds every learner's part to `sums`, the groups of the stage. As [`Self::run_private`].
    pub fn run_private_network(
        &mut self,
        network: &dyn Network,
        task: &Task<'_>,
        work: NeuralWork<'_>,
        sums: &mut [BoundedSum],
        effort: &Effort,
    ) -> Result<(), ModelError> {
        let mut add = |part: &[(usize, f64)]| {
            if let Some(sum) = sums.first_mut() {
                sum.add(part);
            }
        };
        match work {
            NeuralWork::Statistics => {
                for learner in self.learners.iter().filter(|learner| !learner.held_out) {
                    effort.step()?;
                    add(&network.part(learner, task));
                }
                Ok(())
            }
            NeuralWork::Train { statistics, start, .. } => {
                self.load(network, task, statistics, effort)?.gradients(start, effort, &mut add)
            }
            NeuralWork::Evaluate { statistics, candidate } => {
                let loaded = self.load(network, task, statistics, effort)?;
                for learner in loaded.held_out(candidate, Keeps::Public, effort)? {
                    add(&super::private::histograms(learner.into_iter()));
                }
                Ok(())
            }
        }
    }

    /// Makes the records ready, once for each set of opened statistics.
    fn load(
        &mut self,
        network: &dyn Network,
        task: &Task<'_>,
        statistics: &Sums,
        effort: &Effort,
    ) -> Result<&dyn Loaded, ModelError> {
        let id = network.facts().id();
        let same = |ready: &Ready| {
            ready.id == id
                && ready.hyper == *task.hyper
                && ready.shared == *task.shared
                && ready.statistics == *statistics
        };
        let ready = match self.network.take().filter(same) {
            Some(ready) => ready,
            None => Ready {
                id,
                hyper: task.hyper.clone(),
                shared: task.shared.clone(),
                statistics: statistics.clone(),
                loaded: network.load(&self.learners, task, statistics, effort)?,
            },
        };
        Ok(&*self.network.insert(ready).loaded)
    }
}

/// How `candidate` does on held-out learners, with what this institution keeps to itself.
fn evaluation(
    loaded: &dyn Loaded,
    candidate: &[f32],
    effort: &Effort,
) -> Result<Evaluation, ModelError> {
    let mut evaluation = Evaluation::default();
    let learners = loaded.held_out(candidate, Keeps::Fitted, effort)?;
    learners.into_iter().flatten().for_each(|(p, right)| evaluation.observe(p, right));
    Ok(evaluation)
}
