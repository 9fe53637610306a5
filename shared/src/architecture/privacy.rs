//! Learner-level differential privacy of a task, as public numbers: by how much one learner may move each
//! sum, and how much noise each institution adds. Both sides derive the same mechanisms from a plan here.
//! Draws no noise and keeps no ledger.
//!
//! Neighbours differ by one learner, added or removed. A learner is either a training learner or held
//! out, for good, so that what either population spends is counted apart (parallel composition).

use serde::{Deserialize, Deserializer, Serialize, de};
use thiserror::Error;

use super::{BadHyper, Hyper, Stage, settings::within};
use crate::{
    accountant::{AccountantError, Budget, DistributedNoise, Share, Spent, calibrate_shares},
    params::{Encoding, MAX_SUMMANDS},
    protocol::Plan,
};

/// The largest norm of one learner's part in a sum.
const MAX_CLIP: f64 = 4_096.0;
/// The largest noise multiplier that a task may ask for.
const MAX_NOISE: f64 = 1_048_576.0;

/// Which learners a sum is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Population {
    Training,
    HeldOut,
}

/// The Gaussian mechanism on one group of segments.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mechanism {
    /// The largest L2 norm of one learner's part, over all segments of the group.
    #[serde(deserialize_with = "clip")]
    pub clip: f64,
    /// The noise multiplier: the standard deviation of the sum's noise, divided by `clip`.
    #[serde(deserialize_with = "noise")]
    pub noise: f64,
}

fn clip<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    within("clip", f64::deserialize(deserializer)?, MAX_CLIP).map_err(de::Error::custom)
}

fn noise<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    within("noise", f64::deserialize(deserializer)?, MAX_NOISE).map_err(de::Error::custom)
}

fn rate<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    within("learning_rate", f64::deserialize(deserializer)?, 100.0).map_err(de::Error::custom)
}

fn parties<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u16, D::Error> {
    match u16::deserialize(deserializer)? {
        0 => Err(de::Error::custom("parties is 0; at least 1 adds noise")),
        parties => Ok(parties),
    }
}

/// What a private task asks for: every sum that depends on learners' records carries noise.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LearnerPrivacy {
    /// m: the institutions whose noise together makes the claim. Each adds a variance of
    /// (noise x clip)^2 / m; with 1 each adds all of it, and its claim needs nobody else.
    #[serde(deserialize_with = "parties")]
    pub parties: u16,
    /// Of the counts of answers by item.
    pub items: Mechanism,
    /// Of the counts of answers by competency.
    pub competencies: Mechanism,
    /// Of each step's gradient.
    pub gradient: Mechanism,
    /// Of the last model's evaluation.
    pub evaluation: Mechanism,
    /// The public step size, in units of 1 / answers.
    #[serde(deserialize_with = "rate")]
    pub learning_rate: f64,
}

/// The epsilon and delta that a task is to keep to, for each learner.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Target {
    pub epsilon: f64,
    pub delta: f64,
}

/// Segments of one stage that are clipped together: consecutive ones of the vector.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Group {
    pub population: Population,
    pub segments: &'static [&'static str],
    pub mechanism: Mechanism,
}

/// Why a plan's noise cannot be accounted for.
#[derive(Clone, Debug, PartialEq, Error)]
pub enum BadPrivacy {
    #[error("segment {0} of the plan is in no group that noise is added to")]
    Ungrouped(String),
    #[error("the segments of the plan are not those that noise is added to")]
    Segments,
    #[error("the segments of one group have different scales")]
    Scales,
    #[error(transparent)]
    Accountant(#[from] AccountantError),
}

impl LearnerPrivacy {
    /// The fractions of the budget (as sums of 1 / noise^2) that training learners spend on counts by item,
    /// counts by competency, and gradients.
    const FRACTIONS: [f64; 3] = [0.49, 0.21, 0.30];

    /// Noise that keeps a task of `steps` optimiser steps to the target, for training learners and for
    /// held-out ones.
    pub fn propose(target: Target, steps: u32, parties: u16) -> Result<Self, AccountantError> {
        let budget = Budget::new(target.epsilon, target.delta)?;
        let [items, competencies, gradients] = Self::FRACTIONS;
        let share = |fraction, steps| Share { fraction, steps };
        let shares = [share(items, 1), share(competencies, 1), share(gradients, steps.into())];
        let training = calibrate_shares(budget, &shares)?;
        let held_out = calibrate_shares(budget, &[share(1.0, 1)])?;
        let mechanism = |clip, noise| Mechanism { clip, noise };
        Ok(Self {
            parties: parties.max(1),
            items: mechanism(8.0, training[0]),
            competencies: mechanism(10.0, training[1]),
            gradient: mechanism(3.0, training[2]),
            evaluation: mechanism(6.0, held_out[0]),
            learning_rate: 1.0,
        })
    }

    /// What the vector of `stage` consists of, in order.
    pub fn groups(&self, stage: &Stage) -> Vec<Group> {
        let group = |population, segments, mechanism| Group { population, segments, mechanism };
        match stage {
            Stage::Statistics => vec![
                group(Population::Training, &["skill_n", "skill_c"], self.competencies),
                group(Population::Training, &["item_n", "item_c"], self.items),
            ],
            Stage::Train { .. } => vec![group(Population::Training, &["gradient"], self.gradient)],
            Stage::Evaluate => {
                let segments = &["eval_positive", "eval_negative"];
                vec![group(Population::HeldOut, segments, self.evaluation)]
            }
            Stage::Support | Stage::Totals => Vec::new(),
        }
    }

    /// The standard deviation of the noise that each institution adds to each value of a group.
    pub fn deviation(&self, group: &Group) -> f64 {
        let Mechanism { clip, noise } = group.mechanism;
        noise * clip / f64::from(self.parties).sqrt()
    }
}

impl Hyper {
    /// The standard deviation of the noise that each institution adds to each value of a segment; 0 for
    /// none.
    pub(super) fn deviation(&self, stage: &Stage, segment: &str) -> f64 {
        let groups = self.privacy.iter().flat_map(|privacy| {
            privacy.groups(stage).into_iter().map(|group| (privacy.deviation(&group), group))
        });
        let mut of = groups.filter(|(_, group)| group.segments.contains(&segment));
        of.next().map_or(0.0, |(deviation, _)| deviation)
    }
}

/// What one release of a plan costs each learner of a population, whoever the learner is.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Charge {
    pub population: Population,
    #[serde(flatten)]
    pub noise: DistributedNoise,
}

impl Charge {
    pub fn spent(&self) -> Result<Spent, AccountantError> {
        self.noise.spent()
    }
}

/// How a group lies in its vector, in integer units.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Placed {
    pub group: Group,
    /// Of all its segments.
    pub scale_log2: i32,
    /// The largest absolute value of an institution's part before noise.
    pub bound: f64,
    /// Of the noise of one institution.
    pub deviation: f64,
    /// Values, over all its segments.
    pub len: usize,
}

/// The groups of a private plan's vector, in order and without those that have no value; none for a plan
/// without privacy.
pub fn placed(plan: &Plan) -> Result<Option<Vec<Placed>>, BadPrivacy> {
    let Some(privacy) = &plan.hyper.privacy else { return Ok(None) };
    place(privacy, &plan.stage, &plan.encoding).map(Some)
}

fn place(
    privacy: &LearnerPrivacy,
    stage: &Stage,
    encoding: &Encoding,
) -> Result<Vec<Placed>, BadPrivacy> {
    let groups = privacy.groups(stage);
    let mut placed: Vec<Placed> = Vec::new();
    let mut last = 0;
    for segment in encoding.segments() {
        let found = groups.iter().position(|g| g.segments.contains(&segment.name.as_str()));
        let index = found.ok_or_else(|| BadPrivacy::Ungrouped(segment.name.clone()))?;
        if index < last {
            return Err(BadPrivacy::Segments);
        }
        match placed.last_mut().filter(|_| index == last) {
            Some(of) if of.group == groups[index] => {
                if (of.scale_log2, of.bound) != (segment.scale_log2, segment.bound) {
                    return Err(BadPrivacy::Scales);
                }
                of.len += segment.len as usize;
            }
            _ => placed.push(Placed {
                group: groups[index],
                scale_log2: segment.scale_log2,
                bound: segment.bound,
                deviation: segment.deviation,
                len: segment.len as usize,
            }),
        }
        last = index;
    }
    Ok(placed)
}

/// What taking part in `plan` costs each learner: nothing where a stage reads no records. None if the plan
/// is not private.
pub fn charges(plan: &Plan) -> Result<Option<Vec<Charge>>, BadPrivacy> {
    let (Some(privacy), Some(placed)) = (&plan.hyper.privacy, placed(plan)?) else {
        return Ok(None);
    };
    let charge = |placed: &Placed| {
        let scale = 2_f64.powi(placed.scale_log2);
        let noise = DistributedNoise {
            sensitivity: (placed.group.mechanism.clip * scale).floor(),
            parties: privacy.parties.into(),
            party_variance: (placed.deviation * scale).powi(2),
            dimension: placed.len as u64,
        };
        noise.spent()?;
        Ok(Charge { population: placed.group.population, noise })
    };
    placed.iter().map(charge).collect::<Result<_, BadPrivacy>>().map(Some)
}

const _: () = assert!(MAX_SUMMANDS >= u16::MAX as u32);

impl LearnerPrivacy {
    /// Whether a consortium of `n` with `c_max` colluders can have so many honest parties in each sum.
    pub fn check_parties(&self, n: usize, c_max: u16) -> Result<(), BadHyper> {
        let most = n.saturating_sub(c_max.into());
        if usize::from(self.parties) <= most {
            return Ok(());
        }
        Err(BadHyper::Parties { given: self.parties, most })
    }
}
