//! The numbers of a private task: what the sums with noise say, and the server's half of its optimiser.
//! All of it is arithmetic on what was opened already, so it costs no learner anything more.

use collegium_shared::{
    architecture::{Evaluation, FEATURE_SCALES, Layout, Stage},
    blobs::Blobs,
    protocol::Metrics,
    tensors::{self, TensorFile},
};

use crate::{
    aggregate::{AggregateError, MAX_BLOB, narrow, whole},
    task::{Candidate, Opened, Task},
};

/// The only evaluation of the task's last model.
pub fn metrics(sums: &TensorFile) -> Result<Metrics, AggregateError> {
    let evaluation =
        Evaluation::from_noisy_segments(&sums.sums(["eval_positive", "eval_negative"])?)?;
    Ok(Metrics {
        responses: whole(evaluation.n),
        auc: evaluation.auc(),
        log_loss: evaluation.log_loss(),
    })
}

/// One step of gradient descent with Nesterov's momentum (1983), on the dense weights alone: from the sum
/// of clipped gradients, with public feature scales s_j and a public rate. In scaled weights v_j = s_j w_j
/// the step is v - rate G / N, where N is how many answers the noisy counts give.
pub fn step(
    opened: &Opened,
    task: &Task,
    layout: &Layout,
    sums: &TensorFile,
    blobs: &Blobs,
) -> Result<Candidate, AggregateError> {
    let (Stage::Train { step }, Some(before)) = (&opened.stage, task.candidate()) else {
        return Err(AggregateError::Inconsistent("no optimiser step is due"));
    };
    let statistics =
        task.statistics().ok_or(AggregateError::Inconsistent("there are no counts"))?;
    let counts = tensors::read_sums(&blobs.read(&statistics, MAX_BLOB)?)?;
    let answers = counts.get("item_n").map_or(0.0, |counts| counts.iter().sum::<f64>()).max(1.0);
    let privacy = task.spec().hyper.privacy;
    let rate = privacy.map_or(0.0, |privacy| privacy.learning_rate) / answers;
    let gradient = sums.sums(["gradient"])?.remove("gradient").unwrap_or_default();
    if gradient.len() != FEATURE_SCALES.len() {
        return Err(AggregateError::Inconsistent("the sum has no gradient of the dense weights"));
    }
    let read = |model| {
        Ok::<_, AggregateError>(tensors::read_model(&blobs.read(&model, MAX_BLOB)?, layout)?)
    };
    let (mut weights, old) = (read(before.start)?, read(before.weights)?);
    for ((weight, slope), scale) in weights.iter_mut().zip(&gradient).zip(FEATURE_SCALES) {
        *weight = narrow(f64::from(*weight) - rate * slope / scale);
    }
    let momentum = f64::from(step - 1) / f64::from(step + 2);
    let ahead = |(new, old): (&f32, &f32)| {
        narrow(f64::from(*new) + momentum * (f64::from(*new) - f64::from(*old)))
    };
    let start: Vec<f32> = weights.iter().zip(&old).map(ahead).collect();
    let put =
        |model: &[f32]| Ok::<_, AggregateError>(blobs.put(&tensors::write_model(layout, model)?)?);
    Ok(Candidate {
        step: *step,
        weights: put(&weights)?,
        start: put(&start)?,
        layout: before.layout,
        made: Some(opened.made.clone()),
    })
}
