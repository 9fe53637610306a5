//! Which evaluated models are released: those that are not worse than what learners have or could have
//! without any training, by the sums of held-out learners. Knows when training has come to nothing. Pure;
//! believes the evaluation, which members could falsify as they could their moves.

use std::{collections::BTreeSet, f64::consts::LN_2};

use collegium_shared::{ids::InstitutionId, protocol::Metrics};
use serde::{Deserialize, Deserializer, Serialize, de};

use super::Task;

/// The largest tolerance: more would let a model pass that knows nothing at all.
const MAX_TOLERANCE: f64 = 0.5;
/// What answers that only one of two evaluations counts can shift its mean by, in nats, for each such answer: a
/// model that is of any use costs between 0 and that of knowing nothing.
const SHIFT: f64 = LN_2;
/// Two standard errors of the mean difference of two models' losses over one answer, in nats: their losses of an
/// answer differ by 0.15 or so, as a standard deviation.
const SPREAD: f64 = 0.3;
/// How far above the start's a log loss is that no fluctuation explains, in nats: the probability given to
/// what happened is a quarter of the start's, over all answers.
const FAR: f64 = 2.0 * LN_2;
/// So many evaluations in a row that are far off, or of nothing, end the task.
const MAX_FAR: u32 = 3;

/// `[release]` of a task file.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReleaseRule {
    /// By how much the log loss of a model may be above that of the last released one and of the public
    /// start, in nats.
    #[serde(default = "default_tolerance", deserialize_with = "tolerance")]
    pub tolerance: f64,
}

impl Default for ReleaseRule {
    fn default() -> Self {
        Self { tolerance: default_tolerance() }
    }
}

impl ReleaseRule {
    /// Files of before there was a rule, and those that say nothing of it, are written alike.
    pub(super) fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

fn default_tolerance() -> f64 {
    0.002
}

fn tolerance<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    match f64::deserialize(deserializer)? {
        given if (0.0..=MAX_TOLERANCE).contains(&given) => Ok(given),
        given => Err(de::Error::custom(format!(
            "tolerance is {given}; it must be a number of nats from 0 to {MAX_TOLERANCE}"
        ))),
    }
}

/// An evaluation that a model's own is compared with.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Reference {
    pub what: &'static str,
    /// In nats.
    pub log_loss: f64,
    /// What may be above it for other reasons than the model, in nats.
    pub allowance: f64,
}

/// What the choice of held-out learners explains where so few `answers` are counted, in nats.
pub fn sampling(answers: f64) -> f64 {
    SPREAD / answers.max(1.0).sqrt()
}

/// A model that was evaluated and not released.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Withheld {
    /// Optimiser steps behind it.
    pub step: u32,
    pub metrics: Metrics,
    pub reason: String,
}

/// What the gate remembers of a task.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Gate {
    /// Whose learners the public start was evaluated on, and the last released model.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    start: BTreeSet<InstitutionId>,
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    released: BTreeSet<InstitutionId>,
    /// How many models were withheld, and the last of them.
    #[serde(default, skip_serializing_if = "is_zero")]
    withheld: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    last: Option<Withheld>,
    /// Evaluations in a row that were far off.
    #[serde(default, skip_serializing_if = "is_zero")]
    far: u32,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the form that serde asks for")]
fn is_zero(count: &u32) -> bool {
    *count == 0
}

impl Gate {
    pub(super) fn is_new(&self) -> bool {
        *self == Self::default()
    }

    pub(super) fn started(&mut self, by: BTreeSet<InstitutionId>) {
        self.start = by;
    }

    pub(super) fn released(&mut self, by: BTreeSet<InstitutionId>) {
        self.released = by;
    }

    pub(super) fn withheld(&mut self, withheld: Withheld) {
        self.withheld += 1;
        self.last = Some(withheld);
    }

    /// Takes note of how far the evaluation is from that of the start.
    pub(super) fn observe(&mut self, start: Option<&Metrics>, metrics: &Metrics) {
        // Where nobody keeps learners out, nothing is known of any model.
        let Some(start) = start.and_then(|start| start.log_loss) else { return };
        let near = metrics.log_loss.is_some_and(|loss| loss <= start + FAR);
        self.far = if near { 0 } else { self.far + 1 };
    }

    /// What is needed while the task goes on only.
    pub(super) fn over(&mut self) {
        (self.start, self.released) = (BTreeSet::new(), BTreeSet::new());
    }
}

impl ReleaseRule {
    /// Whether a model is released whose evaluation is compared with all of `references`, or why not.
    pub fn judge(&self, metrics: &Metrics, references: &[Reference]) -> Result<(), String> {
        let Some(log_loss) = metrics.log_loss.filter(|loss| loss.is_finite()) else {
            return Err("no held-out answer was counted, so nobody knows how good it is".to_owned());
        };
        let tolerance = self.tolerance;
        for Reference { what, log_loss: before, allowance } in references {
            let more = log_loss - before;
            if more > tolerance + allowance {
                return Err(format!(
                    "its log loss {log_loss:.4} is {more:.4} above that of {what}; {tolerance:.4} are \
                     tolerated, and {allowance:.4} for what else may differ"
                ));
            }
        }
        Ok(())
    }
}

impl Task {
    /// Whether the candidate is released, or the reason why not. `noisy`: what a private task's only
    /// evaluation is compared with.
    pub fn judge(&self, metrics: &Metrics, noisy: Option<Reference>) -> Result<(), String> {
        let references = noisy.map_or_else(|| self.references(metrics), |noisy| vec![noisy]);
        self.spec.release.judge(metrics, &references)
    }

    /// The public start and the last release, as far as they were evaluated.
    fn references(&self, metrics: &Metrics) -> Vec<Reference> {
        let none = BTreeSet::new();
        let by = self.opened.as_ref().map_or(&none, |opened| &opened.institutions);
        let start = (START, self.baseline.as_ref(), &self.gate.start);
        let last = self.releases.last().map(|release| &release.metrics);
        let last = ("the last released model", last, &self.gate.released);
        let of = |(what, then, then_by): (_, Option<&Metrics>, _)| {
            let then = then?;
            let changed = others(by, then_by).max(fewer(metrics.responses, then.responses));
            let few = sampling(metrics.responses.min(then.responses) as f64);
            Some(Reference { what, log_loss: then.log_loss?, allowance: SHIFT * changed + few })
        };
        [start, last].into_iter().filter_map(of).collect()
    }

    /// Why training further makes no sense.
    pub(super) fn diverged(&self) -> Option<String> {
        (self.gate.far >= MAX_FAR).then(|| {
            let found = self.gate.last.as_ref().and_then(|last| last.metrics.log_loss);
            let found = found.map_or("not a number".to_owned(), |loss| format!("{loss:.4}"));
            let start = self.baseline.and_then(|start| start.log_loss).unwrap_or_default();
            format!(
                "training diverges: the log loss is {found} where the public start's is {start:.4}, and \
                 {MAX_FAR} models in a row were more than {FAR:.2} above that; none of these was \
                 released; start a new task with smaller learning rates or bounds, or with the \
                 default optimizer"
            )
        })
    }

    /// Why there is nothing to show for the task, if it ends now.
    pub(super) fn fruitless(&self) -> Option<String> {
        let last = self.gate.last.as_ref().filter(|_| self.releases.is_empty())?;
        Some(format!(
            "no model was released; after step {}: {}; look at the log for the others, and start a new task \
             with smaller learning rates or more rounds, or with a larger [release] tolerance",
            last.step, last.reason
        ))
    }

    /// How many models were withheld, and the last of them.
    pub fn withheld(&self) -> (u32, Option<&Withheld>) {
        (self.gate.withheld, self.gate.last.as_ref())
    }
}

const START: &str = "the public start";

/// The share of institutions that only one of two evaluations counts; 0 if it is not known of one.
fn others(one: &BTreeSet<InstitutionId>, other: &BTreeSet<InstitutionId>) -> f64 {
    if one.is_empty() || other.is_empty() {
        return 0.0;
    }
    one.symmetric_difference(other).count() as f64 / one.union(other).count() as f64
}

/// The share of answers that the larger evaluation must have counted alone.
fn fewer(one: u64, other: u64) -> f64 {
    match one.max(other) {
        0 => 0.0,
        most => 1.0 - one.min(other) as f64 / most as f64,
    }
}

#[cfg(test)]
mod tests;
