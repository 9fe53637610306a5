//! The input of a private plan: the same checks, then each learner's part clipped, and noise on the whole.
//! Whatever happens, what is handed on carries the plan's noise.

use collegium_shared::{
    architecture::{self, LearnerPrivacy, Placed, SharedSets, SharedStatistics, Stage},
    protocol::Plan,
};

use super::{Basis, PrepareError};
use crate::{
    model::{Effort, ModelError},
    privacy::{BoundedSum, NoiseError, RandomBits},
    trainer::{PrivateWork, Trainer},
};

/// The words of a private input, in the order of the plan's encoding.
pub(super) fn input(
    basis: &Basis<'_>,
    privacy: &LearnerPrivacy,
    placed: &[Placed],
    trainer: &mut Trainer,
    effort: &Effort,
) -> Result<Vec<u32>, PrepareError> {
    let fresh = || {
        let sums = placed.iter().map(|placed| BoundedSum::new(*placed));
        sums.collect::<Result<Vec<_>, NoiseError>>()
    };
    let mut sums = fresh()?;
    match run(basis, privacy, &mut sums, trainer, effort) {
        // As without noise: an institution that stayed away because of its records would tell of them.
        Err(PrepareError::Stage(
            error @ (ModelError::NotFinite { .. } | ModelError::NotConverged(_)),
        )) => {
            tracing::error!(round = %basis.plan.round, %error, "this institution contributes noise alone");
            sums = fresh()?;
        }
        other => other?,
    }
    let mut bits = RandomBits::system();
    let mut words = Vec::with_capacity(basis.plan.encoding.dimension());
    for sum in sums {
        words.extend(sum.noised(&mut bits)?);
    }
    Ok(words)
}

fn run(
    basis: &Basis<'_>,
    privacy: &LearnerPrivacy,
    sums: &mut [BoundedSum],
    trainer: &mut Trainer,
    effort: &Effort,
) -> Result<(), PrepareError> {
    let Plan { stage, inputs, .. } = basis.plan;
    let shared = &SharedSets::all(&basis.registry.items, &basis.registry.competencies);
    basis.check_encoding(shared.sizes())?;
    let layout = architecture::layout(&shared.competencies);
    if layout.digest().ok() != basis.plan.layout {
        return Err(PrepareError::Layout);
    }
    match stage {
        Stage::Train { .. } => {
            let statistics = &published(basis, privacy, shared)?;
            let start = &basis.model("start", inputs.start, &layout)?;
            let work = PrivateWork::Gradient { shared, statistics, start };
            Ok(trainer.run_private(work, sums, effort)?)
        }
        Stage::Evaluate => {
            let statistics = &published(basis, privacy, shared)?;
            let candidate = &basis.model("candidate", inputs.candidate, &layout)?;
            let work = PrivateWork::Evaluate { shared, statistics, candidate };
            Ok(trainer.run_private(work, sums, effort)?)
        }
        // The other two have no vector, which the encoding said already.
        Stage::Statistics | Stage::Support | Stage::Totals => {
            Ok(trainer.run_private(PrivateWork::Statistics { shared }, sums, effort)?)
        }
    }
}

fn published(
    basis: &Basis<'_>,
    privacy: &LearnerPrivacy,
    shared: &SharedSets,
) -> Result<SharedStatistics, PrepareError> {
    let what = "statistics sum";
    let sums = basis.sums(what, basis.plan.inputs.statistics)?;
    let n_max = basis.plan.encoding.n_max();
    super::noisy_statistics(sums, shared, privacy, n_max)
        .map_err(|reason| PrepareError::Sums { what, reason })
}
