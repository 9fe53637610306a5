//! Learner-level differential privacy of a task, as public numbers: by how much one learner may move each
//! sum, and how much noise each institution adds. Both sides derive the same mechanisms from a plan here.
//! Draws no noise and keeps no ledger.
//!
//! Neighbours differ by one learner, added or removed. A learner is either a training learner or held
//! out, for good, so that what either population spends is counted apart (parallel composition).

use serde::{Deserialize, Deserializer, Serialize, de};
use thiserror::Error;

use super::{Hyper, Neural, Stage, settings::within};
use crate::{
    accountant::{AccountantError, Budget, DistributedNoise, Share, Spent, calibrate_shares},
    params::Encoding,
    protocol::Plan,
    roster::MAX_INSTITUTIONS,
};

/// The largest norm of one learner's part in a sum.
const MAX_CLIP: f64 = 4_096.0;
/// The largest noise multiplier that a task may ask for.
const MAX_NOISE: f64 = 1_048_576.0;

/// Training answers count as no fewer than so many deviations of a gradient's noise: where there is little
/// else, steps stay small.
const LEAST_ANSWERS: f64 = 30.0;
/// The segments of a network's statistics: the learners, and then moments of features or counts of answers.
const NETWORK: [&str; 6] =
    ["examples", "feature_n", "feature_sum", "feature_squares", "all_right", "all_wrong"];

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
        parties if (1..=MAX_INSTITUTIONS).contains(&parties.into()) => Ok(parties),
        parties => Err(de::Error::custom(format!(
            "parties is {parties}; from 1 to {MAX_INSTITUTIONS} institutions add noise"
        ))),
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
    /// Of the counts of answers by competency, or of all statistics of a network.
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
    #[error("the segments of one group have different scales, bounds or noise")]
    Scales,
    #[error(transparent)]
    Accountant(#[from] AccountantError),
}

impl LearnerPrivacy {
    /// The fractions of the budget (as sums of 1 / noise^2) that training learners spend on counts by item,
    /// counts by competency, and gradients.
    const FRACTIONS: [f64; 3] = [0.49, 0.21, 0.30];

    /// Clips and rate that served two sets of real records alike, and noise that keeps a task of `steps` optimiser steps to the target, for training learners and for
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
            items: mechanism(5.0, training[0]),
            competencies: mechanism(12.0, training[1]),
            gradient: mechanism(10.0, training[2]),
            evaluation: mechanism(8.0, held_out[0]),
            learning_rate: 0.5,
        })
    }

    /// As [`Self::propose`], for a neural network: a learner's part of a gradient is a mean over the learner's
    /// answers, so that its clip is small, and a rate is in units of 1 / learners.
    pub fn propose_for_network(
        target: Target,
        steps: u32,
        parties: u16,
        network: &dyn Neural,
    ) -> Result<Self, AccountantError> {
        let budget = Budget::new(target.epsilon, target.delta)?;
        let once = network.statistics_share();
        let share = |fraction, steps| Share { fraction, steps };
        let training =
            calibrate_shares(budget, &[share(once, 1), share(1.0 - once, steps.into())])?;
        let usual = Self::propose(target, steps, parties)?;
        let statistics = Mechanism { clip: 8.0, noise: training[0] };
        let gradient = Mechanism { clip: 0.5, noise: training[1] };
        Ok(Self {
            items: statistics,
            competencies: statistics,
            gradient,
            learning_rate: 0.5,
            ..usual
        })
    }

    /// What the vector of `stage` consists of, in order.
    pub fn groups(&self, stage: &Stage) -> Vec<Group> {
        let group = |population, segments, mechanism| Group { population, segments, mechanism };
        match stage {
            Stage::Statistics => vec![
                group(Population::Training, &["skill_right", "skill_wrong"], self.competencies),
                group(Population::Training, &["item_right", "item_wrong"], self.items),
                group(Population::Training, &NETWORK, self.competencies),
            ],
            Stage::Train { .. } => vec![group(Population::Training, &["gradient"], self.gradient)],
            Stage::Evaluate => {
                let segments = &["eval_positive", "eval_negative"];
                vec![group(Population::HeldOut, segments, self.evaluation)]
            }
            Stage::Support | Stage::Totals | Stage::Audit => Vec::new(),
        }
    }

    /// By what the noise of so many institutions is larger than the claimed one, as a standard deviation: at
    /// least 1.
    pub fn beyond_claim(&self, institutions: u32) -> f64 {
        (f64::from(institutions) / f64::from(self.parties)).max(1.0).sqrt()
    }

    /// What a step is divided by where `answers` were counted: no fewer than so many deviations of the noise
    /// of `institutions`, and at least 1.
    pub fn at_least(&self, answers: f64, institutions: u32) -> f64 {
        let Mechanism { clip, noise } = self.gradient;
        answers.max(LEAST_ANSWERS * clip * noise * self.beyond_claim(institutions)).max(1.0)
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
    privacy.place(&plan.stage, &plan.encoding).map(Some)
}

impl LearnerPrivacy {
    /// The groups of a stage's vector, in order and without those that have no value.
    pub fn place(&self, stage: &Stage, encoding: &Encoding) -> Result<Vec<Placed>, BadPrivacy> {
        let groups = self.groups(stage);
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
                    let given = (segment.scale_log2, segment.bound, segment.deviation);
                    if (of.scale_log2, of.bound, of.deviation) != given {
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
}

/// What taking part in `plan` costs each learner: nothing where a stage reads no records. None if the plan
/// is not private.
pub fn charges(plan: &Plan) -> Result<Option<Vec<Charge>>, BadPrivacy> {
    let Some(privacy) = &plan.hyper.privacy else { return Ok(None) };
    charge(privacy, &plan.stage, &plan.encoding).map(Some)
}

fn charge(
    privacy: &LearnerPrivacy,
    stage: &Stage,
    encoding: &Encoding,
) -> Result<Vec<Charge>, BadPrivacy> {
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
    privacy.place(stage, encoding)?.iter().map(charge).collect()
}

#[cfg(test)]
mod tests {
    use super::{super::Sizes, *};
    use crate::architecture::encoding;

    const TARGET: Target = Target { epsilon: 4.0, delta: 1e-6 };
    const SIZES: Sizes = Sizes { items: 300, competencies: 20 };

    fn hyper(steps: u32, parties: u16) -> Hyper {
        let privacy = LearnerPrivacy::propose(TARGET, steps, parties).unwrap();
        Hyper { privacy: Some(privacy), ..Hyper::default() }
    }

    fn cost(hyper: &Hyper, stage: &Stage, n: u32) -> Vec<Charge> {
        let encoding = encoding(stage, hyper, SIZES, n).unwrap();
        charge(&hyper.privacy.unwrap(), stage, &encoding).unwrap()
    }

    /// Alone or together, few or many.
    #[test]
    fn a_whole_task_costs_its_target_and_hardly_less() {
        for (n, parties) in [(4, 2), (4, 1), (27, 21), (158, 126), (256, 1)] {
            let hyper = hyper(20, parties);
            let mut spent = [Spent::default(), Spent::default()];
            let mut pay = |stage, times| {
                for charge in cost(&hyper, &stage, n) {
                    assert_eq!(charge.noise.parties, u32::from(parties));
                    let of = usize::from(charge.population == Population::HeldOut);
                    let cost = charge.spent().unwrap().times(times).unwrap();
                    spent[of] = spent[of].plus(&cost).unwrap();
                }
            };
            pay(Stage::Statistics, 1);
            pay(Stage::Train { step: 1 }, 20);
            pay(Stage::Evaluate, 1);
            for spent in &spent {
                let epsilon = spent.epsilon(TARGET.delta).unwrap().value();
                assert!((3.99..=4.0).contains(&epsilon), "{n} and {parties}: {epsilon}");
            }
        }
    }

    #[test]
    fn each_institution_adds_its_part_of_the_variance() {
        for (parties, part) in [(1, 1.0), (4, 0.5), (100, 0.1)] {
            let hyper = hyper(20, parties);
            let privacy = hyper.privacy.unwrap();
            let encoding = encoding(&Stage::Train { step: 3 }, &hyper, SIZES, 200).unwrap();
            let [segment] = encoding.segments() else { panic!("one segment") };
            let whole = privacy.gradient.clip * privacy.gradient.noise;
            assert!((segment.deviation - part * whole).abs() < 1e-12 * whole);
        }
    }

    #[test]
    fn stages_without_noise_have_no_vector() {
        let hyper = hyper(20, 3);
        for stage in [Stage::Support, Stage::Totals] {
            assert!(encoding(&stage, &hyper, SIZES, 5).is_err(), "{stage:?}");
            assert_eq!(hyper.privacy.unwrap().groups(&stage), []);
        }
    }

    #[test]
    fn a_segment_without_noise_cannot_hide_among_the_others() {
        let hyper = hyper(20, 3);
        let privacy = hyper.privacy.unwrap();
        let deviation = privacy.deviation(&privacy.groups(&Stage::Train { step: 1 })[0]);
        let of = |segments: &[(&str, u32, f64, f64)]| {
            let encoding = Encoding::noisy(segments.iter().copied(), 5).unwrap();
            charge(&privacy, &Stage::Train { step: 1 }, &encoding)
        };
        let good = ("gradient", 17, 65_536.0, deviation);
        assert!(of(&[good]).is_ok());
        let more = of(&[good, ("one-learner", 1, 1.0, 0.0)]);
        assert_eq!(more.unwrap_err(), BadPrivacy::Ungrouped("one-learner".into()));
        let silent = of(&[("gradient", 17, 65_536.0, 0.0)]);
        assert!(matches!(silent, Err(BadPrivacy::Accountant(_))), "{silent:?}");
    }

    #[test]
    fn settings_keep_their_meaning_and_unusable_ones_are_refused() {
        let hyper = hyper(30, 7);
        let json = serde_json::to_string(&hyper).unwrap();
        assert_eq!(serde_json::from_str::<Hyper>(&json).unwrap(), hyper);
        let charge = cost(&hyper, &Stage::Evaluate, 9)[0];
        let json = serde_json::to_string(&charge).unwrap();
        assert_eq!(serde_json::from_str::<Charge>(&json).unwrap(), charge);
        let privacy = serde_json::to_value(hyper.privacy).unwrap();
        for (key, bad) in [
            ("parties", serde_json::json!(0)),
            ("items", serde_json::json!({ "clip": 0.0, "noise": 1.0 })),
            ("gradient", serde_json::json!({ "clip": 1.0, "noise": -1.0 })),
            ("learning_rate", serde_json::json!(0.0)),
        ] {
            let mut changed = privacy.clone();
            changed[key] = bad;
            assert!(serde_json::from_value::<LearnerPrivacy>(changed).is_err(), "{key}");
        }
    }
}
