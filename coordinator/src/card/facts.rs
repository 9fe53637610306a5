//! The figures of a model card that opened sums give: how the model does on held-out answers, with an
//! interval, and on how much it was trained. Reads sums; decides nothing.

use collegium_shared::{
    architecture::{Architecture, Evaluation, SharedSets, Stage},
    blobs::Blobs,
    roster::Registry,
    tensors::{self},
};
use serde::{Deserialize, Serialize};

use crate::{
    aggregate::{self, AggregateError, MAX_BLOB, whole},
    task::Task,
};

/// The two-sided 95 % quantile of the standard normal distribution.
const Z: f64 = 1.959_963_985;

/// How a model does on held-out answers, beside its metrics.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Judged {
    /// Right and wrong answers; about so many with noise.
    pub right: u64,
    pub wrong: u64,
    /// 95 % (Hanley & McNeil 1982, Radiology 143), answers taken for independent; none with noise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auc_interval: Option<[f64; 2]>,
    /// The mean squared error of the chance (Brier 1950), to the width of a bin.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub brier: Option<f64>,
    /// The expected calibration error over 16 equal bins; 20 with noise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ece: Option<f64>,
}

impl Judged {
    /// `noisy` counts have no interval: it would say nothing of the noise.
    pub fn of(evaluation: &Evaluation, noisy: bool) -> Self {
        let right = evaluation.positive.iter().sum::<f64>();
        let wrong = evaluation.negative.iter().sum::<f64>();
        let auc = evaluation.auc().filter(|_| !noisy);
        Self {
            right: whole(right),
            wrong: whole(wrong),
            auc_interval: auc.map(|auc| interval(auc, right, wrong)),
            brier: evaluation.brier(),
            ece: evaluation.ece(),
        }
    }
}

/// Hanley & McNeil 1982: the variance of the area under the curve, from the area and the numbers of both kinds.
fn interval(auc: f64, right: f64, wrong: f64) -> [f64; 2] {
    let (q1, q2) = (auc / (2.0 - auc), 2.0 * auc * auc / (1.0 + auc));
    let square = auc * auc;
    let scatter = auc * (1.0 - auc) + (right - 1.0) * (q1 - square) + (wrong - 1.0) * (q2 - square);
    let error = (scatter.max(0.0) / (right * wrong)).sqrt();
    [(auc - Z * error).max(0.0), (auc + Z * error).min(1.0)]
}

/// What a card needs beside the task and the manifest.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Facts {
    pub judged: Judged,
    pub parameters: u64,
    pub training_answers: Option<u64>,
    pub items: u64,
    pub competencies: u64,
    pub registry_version: u64,
}

impl Facts {
    /// Of the task's candidate, which `judged` is about.
    pub fn of(
        judged: Judged,
        task: &Task,
        registry: &Registry,
        blobs: &Blobs,
    ) -> Result<Self, AggregateError> {
        let SharedSets { items, competencies } = aggregate::shared_sets(task, registry, blobs)?;
        let parameters = aggregate::layout(task, registry, blobs)?.len();
        Ok(Self {
            judged,
            parameters: parameters as u64,
            training_answers: training_answers(task, blobs)?,
            items: items.len() as u64,
            competencies: competencies.len() as u64,
            registry_version: registry.version,
        })
    }
}

fn training_answers(task: &Task, blobs: &Blobs) -> Result<Option<u64>, AggregateError> {
    let hyper = &task.spec().hyper;
    let Some(statistics) = task.statistics().filter(|_| hyper.privacy.is_none()) else {
        return Ok(None);
    };
    let mut sums = tensors::read_sums(&blobs.read(&statistics, MAX_BLOB)?)?;
    let answers = match task.spec().architecture {
        Architecture::Neural(network) => {
            let none = collegium_shared::architecture::Sizes { items: 0, competencies: 0 };
            let architecture = task.spec().architecture;
            architecture.complete_sums(&mut sums, &Stage::Statistics, hyper, none);
            network.answers(&sums)
        }
        _ => sums.get("base").and_then(|of| of.first()).copied().unwrap_or_default(),
    };
    Ok(Some(whole(answers)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_interval_is_that_of_hanley_and_mcneil() {
        // By hand: A = .8, 50 right and 100 wrong: Q1 = .666667, Q2 = .711111; the variance is
        // (.16 + 49 x .026667 + 99 x .071111) / 5000 = .00170133, the standard error .0412472.
        let [low, high] = interval(0.8, 50.0, 100.0);
        assert!((low - (0.8 - 1.959_964 * 0.041_247)).abs() < 1e-5, "{low}");
        assert!((high - (0.8 + 1.959_964 * 0.041_247)).abs() < 1e-5, "{high}");
        assert_eq!(interval(1.0, 3.0, 3.0), [1.0, 1.0]);
    }

    #[test]
    fn one_class_and_noise_have_no_interval() {
        let mut evaluation = Evaluation::default();
        evaluation.observe(0.7, true);
        let judged = Judged::of(&evaluation, false);
        assert_eq!((judged.right, judged.wrong, judged.auc_interval), (1, 0, None));
        assert!((judged.brier.unwrap() - 0.09).abs() < 1e-2);
        evaluation.observe(0.2, false);
        assert!(Judged::of(&evaluation, false).auc_interval.is_some());
        assert_eq!(Judged::of(&evaluation, true).auc_interval, None);
        assert_eq!(Judged::of(&Evaluation::default(), false).brier, None);
    }
}
