//! The numbers of a private task: what the sums with noise say, and the server's half of its optimiser.
//! All of it is arithmetic on what was opened already, so it costs no learner anything more.

use collegium_shared::{
    architecture::{
        Architecture, Evaluation, FEATURE_SCALES, Layout, Mechanism, SharedSets, SharedStatistics,
        Stage, descend, private_step,
    },
    blobs::Blobs,
    protocol::Metrics,
    roster::Registry,
    tensors::{self, TensorFile},
};

use crate::{
    aggregate::{AggregateError, MAX_BLOB, whole},
    card::Judged,
    task::{Candidate, Opened, Reference, Task, TaskSpec},
};

/// The only evaluation of the task's last model, and what it is compared with before it is released: the
/// public start is not evaluated, because that would have its price, so it is the model that gives everybody
/// the base rate, which the same counts tell; by more than their noise can explain.
pub fn metrics(
    sums: &TensorFile,
    task: &Task,
    opened: &Opened,
) -> Result<(Metrics, Judged, Option<Reference>), AggregateError> {
    let evaluation =
        Evaluation::from_noisy_segments(&sums.sums(["eval_positive", "eval_negative"])?)?;
    let metrics = Metrics {
        responses: whole(evaluation.n),
        auc: evaluation.auc(),
        log_loss: evaluation.log_loss(),
    };
    let deviation = task.spec().hyper.privacy.map_or(0.0, |privacy| {
        let Mechanism { clip, noise } = privacy.evaluation;
        clip * noise * privacy.beyond_claim(institutions(opened))
    });
    let reference = evaluation.base_rate_loss().map(|log_loss| Reference {
        what: "a model that gives everybody the base rate",
        log_loss,
        allowance: evaluation.noise_in_loss(deviation),
    });
    Ok((metrics, Judged::of(&evaluation, true), reference))
}

fn institutions(opened: &Opened) -> u32 {
    u32::try_from(opened.made.uploads.len()).unwrap_or(u32::MAX)
}

/// One step of a private task: the dense weights move against the sum of clipped gradients.
pub fn step(
    opened: &Opened,
    task: &Task,
    (layout, registry): (&Layout, &Registry),
    sums: &TensorFile,
    blobs: &Blobs,
) -> Result<Candidate, AggregateError> {
    let (Stage::Train { step }, Some(before)) = (&opened.stage, task.candidate()) else {
        return Err(AggregateError::Inconsistent("no optimiser step is due"));
    };
    let (Some(statistics), Some(privacy)) = (task.statistics(), task.spec().hyper.privacy) else {
        return Err(AggregateError::Inconsistent("there are no counts, or no noise"));
    };
    let read = |digest| blobs.read(&digest, MAX_BLOB);
    let shared = SharedSets::all(&registry.items, &registry.competencies);
    let institutions = institutions(opened);
    let mut counts = tensors::read_sums(&read(statistics)?)?;
    let TaskSpec { architecture, hyper, .. } = task.spec();
    architecture.complete_sums(&mut counts, &Stage::Statistics, hyper, shared.sizes());
    let gradient = sums.sums(["gradient"])?.remove("gradient").unwrap_or_default();
    let mut weights = tensors::read_model(&read(before.weights)?, layout)?;
    let expected = match architecture {
        Architecture::Neural(_) => weights.len(),
        _ => FEATURE_SCALES.len(),
    };
    if gradient.len() != expected {
        return Err(AggregateError::Inconsistent("the sum has no gradient of the weights"));
    }
    let rate = privacy.learning_rate;
    match architecture {
        Architecture::Neural(network) => {
            let learners = privacy.at_least(network.answers(&counts), institutions);
            descend(&mut weights, &gradient, rate / learners);
        }
        _ => {
            let statistics =
                SharedStatistics::from_noisy_segments(&counts, &shared, &privacy, institutions)?;
            let answers = statistics.answers(&privacy, institutions);
            private_step(&mut weights, &gradient, rate, answers);
        }
    }
    let weights = blobs.put(&tensors::write_model(layout, &weights)?)?;
    let made = Some(opened.made.clone());
    let (step, start, moments) = (*step, weights, Vec::new());
    Ok(Candidate { step, weights, start, moments, layout: before.layout, made })
}
