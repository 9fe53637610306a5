//! What an institution computes for a neural network, whichever it is, and the register of those that are
//! compiled in. Owns no numbers; the public facts are the shared crate's.

use std::fmt::Debug;

use collegium_shared::architecture::{
    Architecture, BadSums, Hyper, Neural, SharedSets, Sums, name_sums,
};

use super::{Effort, ModelError, checked, kt_attention::KtAttention, wide_mlp::WideMlp};
use crate::records::Learner;

/// The networks that this agent can train.
pub static NETWORKS: [&dyn Network; 2] = [&WideMlp, &KtAttention];

/// One network's part at an institution.
pub trait Network: Sync + Debug {
    /// What everybody knows of it.
    fn facts(&self) -> &'static dyn Neural;

    /// What this institution's training answers add to the statistics, in the order of
    /// [`Neural::statistics`].
    fn statistics(&self, learners: &[Learner], task: &Task<'_>) -> Result<Vec<f64>, ModelError>;

    /// One learner's part of the same, for a task in which each is bounded: values that are not 0, with
    /// their places.
    fn part(&self, learner: &Learner, task: &Task<'_>) -> Vec<(usize, f64)>;

    /// What training takes of memory beside the records, with a registry of so many competencies. An estimate.
    fn memory(&self, hyper: &Hyper, competencies: usize) -> Memory;

    /// Makes the records ready for training, once the statistics are opened.
    fn load(
        &self,
        learners: &[Learner],
        task: &Task<'_>,
        statistics: &Sums,
        effort: &Effort,
    ) -> Result<Box<dyn Loaded>, ModelError>;
}

/// Bytes of memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    /// For each answer.
    pub answer: u64,
    /// However many answers there are: what one batch takes.
    pub batch: u64,
}

/// A released network with the public facts that its inputs need.
#[derive(Clone, Debug)]
pub struct NetworkModel {
    network: &'static dyn Network,
    hyper: Hyper,
    shared: SharedSets,
    statistics: Sums,
    weights: Vec<f32>,
}

impl NetworkModel {
    /// `hyper` are the settings that its inputs depend on; `statistics` were opened in its task.
    pub fn new(
        network: &'static dyn Network,
        hyper: Hyper,
        shared: SharedSets,
        statistics: Sums,
        weights: Vec<f32>,
    ) -> Result<Self, ModelError> {
        let facts = network.facts();
        checked(&weights, facts.layout(&hyper, &shared).len())?;
        let hyper = Hyper { optimizer: facts.optimizer(), ..hyper };
        Ok(Self { network, hyper, shared, statistics, weights })
    }

    pub fn id(&self) -> &'static str {
        self.network.facts().id()
    }

    /// The shared weights: the layout's tensors concatenated.
    pub fn weights(&self) -> &[f32] {
        &self.weights
    }

    /// The weights that its task began with.
    pub fn start(&self) -> Vec<f32> {
        self.network.facts().layout(&self.hyper, &self.shared).initial()
    }

    /// The held-out learners' answers as the same network predicts them that was trained here, from the first
    /// weights on, with this institution's own statistics.
    pub fn alone(&self, learners: &[Learner], effort: &Effort) -> Result<Predictions, ModelError> {
        let hyper = &Hyper { privacy: None, ..self.hyper.clone() };
        let task = Task { hyper, shared: &self.shared };
        let values = self.network.statistics(learners, &task)?;
        let segments = self.network.facts().statistics(hyper, self.shared.sizes());
        let unfit = |error: BadSums| ModelError::Statistics(error.to_string());
        let statistics = name_sums(&segments, &values).map_err(unfit)?;
        let loaded = self.network.load(learners, &task, &statistics, effort)?;
        loaded.alone(&self.start(), 1, effort)
    }

    /// An institution's records, ready for it.
    pub fn load(
        &self,
        learners: &[Learner],
        effort: &Effort,
    ) -> Result<Box<dyn Loaded>, ModelError> {
        let task = Task { hyper: &self.hyper, shared: &self.shared };
        self.network.load(learners, &task, &self.statistics, effort)
    }
}

/// What a task is about.
#[derive(Clone, Copy, Debug)]
pub struct Task<'a> {
    pub hyper: &'a Hyper,
    pub shared: &'a SharedSets,
}

/// An institution's records, ready for a network.
pub trait Loaded: Send + Sync + Debug {
    /// Training answers.
    fn answers(&self) -> usize;

    /// How the shared weights move in training round `round` (from 1), starting from `start`, before they
    /// are weighted. The same for the same records, start and round.
    fn train(&self, start: &[f32], round: u32, effort: &Effort) -> Result<Vec<f64>, ModelError>;

    /// The answers of each held-out learner as `weights` predict them.
    fn held_out(
        &self,
        weights: &[f32],
        keeps: Keeps,
        effort: &Effort,
    ) -> Result<Predictions, ModelError>;

    /// The same of a network that was trained here alone, from `start` on, with `times` as many steps as an
    /// institution makes in a task.
    fn alone(&self, start: &[f32], times: u32, effort: &Effort) -> Result<Predictions, ModelError>;

    /// Hands over each training learner's gradient of the mean loss at `start`. It depends on no other
    /// learner but through the opened statistics.
    fn gradients(
        &self,
        start: &[f32],
        effort: &Effort,
        take: &mut Take<'_>,
    ) -> Result<(), ModelError>;
}

/// Takes a learner's part of a sum: values that are not 0, with their places.
pub type Take<'a> = dyn FnMut(&[(usize, f64)]) + 'a;

/// A prediction: the probability that the answer is right, and whether it was.
pub type Predicted = (f64, bool);

/// The answers of some learners, as they were predicted.
pub type Predictions = Vec<Vec<Predicted>>;

/// What an institution adds to the shared weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keeps {
    /// What it keeps to itself, fitted to its training learners.
    Fitted,
    /// Only what is public: predictions then depend on no learner of its own but the one they are for.
    Public,
}

/// The training of an architecture; none of one that is no network, or that this agent has not.
pub fn of(architecture: Architecture) -> Option<&'static dyn Network> {
    NETWORKS.into_iter().find(|network| architecture.id() == network.facts().id())
}

#[cfg(test)]
mod tests {
    use collegium_shared::architecture;

    use super::*;

    #[test]
    fn every_network_that_both_sides_know_can_be_trained() {
        for facts in architecture::NETWORKS {
            assert!(of(Architecture::Neural(facts)).is_some(), "{}", facts.id());
        }
        assert_eq!(architecture::NETWORKS.len(), NETWORKS.len());
        assert!(of(Architecture::KtLogistic1).is_none());
    }
}
