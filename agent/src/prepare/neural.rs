//! The input of a plan whose model is a neural network: the same checks as of any plan, then the network's
//! own computation. With privacy each learner's part is clipped, and noise is on the whole.

use collegium_shared::architecture::{Layout, SharedSets, Stage, Sums};

use super::{Basis, PrepareError};
use crate::{
    model::{
        Effort,
        neural::{Network, Task},
    },
    privacy::BoundedSum,
    trainer::{NeuralWork, Trainer},
};

/// A stage after that of support, whose vector was checked. Where there is noise, the learners' parts go to
/// `sums`, and nothing is returned.
pub(super) fn run(
    basis: &Basis<'_>,
    network: &dyn Network,
    shared: &SharedSets,
    sums: Option<&mut [BoundedSum]>,
    trainer: &mut Trainer,
    effort: &Effort,
) -> Result<Vec<f64>, PrepareError> {
    let plan = basis.plan;
    let layout = network.facts().layout(&plan.hyper, shared);
    if layout.digest().ok() != plan.layout {
        return Err(PrepareError::Layout);
    }
    let task = Task { hyper: &plan.hyper, shared };
    let inputs = Inputs::read(basis, shared, &layout)?;
    let work = match (&plan.stage, &inputs.statistics) {
        (Stage::Train { step }, Some(statistics)) => NeuralWork::Train {
            statistics,
            round: *step,
            start: &inputs.start,
            candidate: &inputs.candidate,
        },
        (Stage::Evaluate, Some(statistics)) => {
            NeuralWork::Evaluate { statistics, candidate: &inputs.candidate }
        }
        // The others have no vector, which the encoding said already.
        _ => NeuralWork::Statistics,
    };
    match sums {
        Some(sums) => {
            trainer.run_private_network(network, &task, work, sums, effort)?;
            Ok(Vec::new())
        }
        None => Ok(trainer.run_network(network, &task, work, effort)?),
    }
}

/// What the stage reads, checked; empty of what it does not need.
#[derive(Default)]
struct Inputs {
    statistics: Option<Sums>,
    start: Vec<f32>,
    candidate: Vec<f32>,
}

impl Inputs {
    fn read(basis: &Basis<'_>, shared: &SharedSets, layout: &Layout) -> Result<Self, PrepareError> {
        let (plan, given) = (basis.plan, &basis.plan.inputs);
        if !matches!(plan.stage, Stage::Train { .. } | Stage::Evaluate) {
            return Ok(Self::default());
        }
        let mut statistics = basis.sums("statistics sum", given.statistics)?;
        let (hyper, sizes) = (&plan.hyper, shared.sizes());
        basis.architecture.complete_sums(&mut statistics, &Stage::Statistics, hyper, sizes);
        let train = matches!(plan.stage, Stage::Train { .. });
        // With noise the evaluation is a round of its own.
        let evaluates = !train || plan.hyper.privacy.is_none();
        let model = |wanted: bool, what, digest| match wanted {
            true => basis.model(what, digest, layout),
            false => Ok(Vec::new()),
        };
        Ok(Self {
            statistics: Some(statistics),
            start: model(train, "start", given.start)?,
            candidate: model(evaluates, "candidate", given.candidate)?,
        })
    }
}
