//! What a neural network has to say to both sides before they can train it together: its parameters, what
//! is summed before training, and how it is trained if a task says nothing. The register of those that are
//! compiled in. How a network computes is the agent's.

use super::{
    BadHyper, Hyper, Layout, Optimizer, SegmentSpec, SharedSets, Sizes, Sums,
    kt_attention::KtAttention1, kt_logistic::single, wide_mlp::WideMlp1,
};

/// The networks of this build.
pub static NETWORKS: [&dyn Neural; 2] = [&WideMlp1, &KtAttention1];

/// The public facts of one network. Its task is made of the stages Support and Statistics, steps of
/// training, and an evaluation; institutions move by [`super::Local::Adam`], and the moves are weighted by
/// n/N, n being an institution's training answers and N those of all.
pub trait Neural: Sync {
    /// A name and a version: `name/1`.
    fn id(&self) -> &'static str;

    /// What [`super::Stage::Statistics`] sums; under learner-level privacy each segment belongs to a group of [`super::LearnerPrivacy::groups`].
    fn statistics(&self, hyper: &Hyper, sizes: Sizes) -> Vec<SegmentSpec>;

    /// The training answers of all institutions, by the opened statistics; learners, if each was bounded.
    fn answers(&self, statistics: &Sums) -> f64;

    /// With learner-level privacy, the fraction of the budget (as a sum of 1 / noise^2) that training
    /// learners spend on the statistics; the rest is for gradients.
    fn statistics_share(&self) -> f64;

    /// Parameters over so many shared competencies: as many as [`Self::layout`] has.
    fn parameters(&self, hyper: &Hyper, sizes: Sizes) -> u32;

    /// Tensors and their public first values.
    fn layout(&self, hyper: &Hyper, shared: &SharedSets) -> Layout;

    /// How it is trained where a task says nothing.
    fn optimizer(&self) -> Optimizer;

    /// What in the settings it cannot be trained with.
    ///
    /// # Errors
    /// [`BadHyper`], which names the setting.
    fn check(&self, hyper: &Hyper) -> Result<(), BadHyper>;
}

/// One step of gradient descent, from the noisy sum of clipped gradients.
pub fn descend(weights: &mut [f32], gradient: &[f64], rate: f64) {
    for (weight, slope) in weights.iter_mut().zip(gradient) {
        *weight = single(f64::from(*weight) - rate * slope);
    }
}

/// Finds a network by its identifier.
pub(super) fn lookup(id: &str) -> Option<&'static dyn Neural> {
    NETWORKS.into_iter().find(|network| network.id() == id)
}
