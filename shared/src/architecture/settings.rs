//! How a task trains: the optimiser and the regularisation, as operators write them down. Only settings
//! that some run could use can be made.

use serde::{Deserialize, Deserializer, Serialize, de};
use thiserror::Error;

use super::{DENSE, LearnerPrivacy};

const MAX_LOCAL_STEPS: u32 = 1_000;

/// How the moves of institutions become the next model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "OptimizerFields", into = "OptimizerFields")]
pub enum Optimizer {
    /// `curvature-nesterov`: local steps scaled by each parameter's curvature, moves weighted by
    /// it over a fixed total, Nesterov momentum between rounds.
    CurvatureNesterov { local_steps: u32, bound: f64 },
    /// `fedavg` (McMahan et al. 2017, AISTATS), full local batches: moves weighted by training
    /// responses over a fixed total.
    FedAvg { local_steps: u32, learning_rate: f64, bound: f64 },
}

impl Default for Optimizer {
    fn default() -> Self {
        Self::CurvatureNesterov { local_steps: 5, bound: 1.0 }
    }
}

impl Optimizer {
    /// The public bound on the absolute value of each coordinate of one institution's move.
    pub fn bound(&self) -> f64 {
        match self {
            Self::CurvatureNesterov { bound, .. } | Self::FedAvg { bound, .. } => *bound,
        }
    }

    pub fn local_steps(&self) -> u32 {
        match self {
            Self::CurvatureNesterov { local_steps, .. } | Self::FedAvg { local_steps, .. } => {
                *local_steps
            }
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum OptimizerName {
    CurvatureNesterov,
    #[serde(rename = "fedavg")]
    FedAvg,
}

/// The written form of an [`Optimizer`]: flat, so that every serde format can carry it.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct OptimizerFields {
    name: OptimizerName,
    local_steps: Option<u32>,
    learning_rate: Option<f64>,
    bound: Option<f64>,
}

/// Settings of a task that no run could use.
#[derive(Clone, Debug, PartialEq, Error)]
pub enum BadHyper {
    #[error("{name} is {given}; it must be a number above 0 and at most {most}")]
    OutOfRange { name: &'static str, given: f64, most: f64 },
    #[error("local_steps is {0}; use 1 to {MAX_LOCAL_STEPS}")]
    LocalSteps(u32),
    #[error("learning_rate belongs to fedavg only; remove it")]
    LearningRate,
}

pub(super) fn within(name: &'static str, given: f64, most: f64) -> Result<f64, BadHyper> {
    if given > 0.0 && given <= most {
        Ok(given)
    } else {
        Err(BadHyper::OutOfRange { name, given, most })
    }
}

impl TryFrom<OptimizerFields> for Optimizer {
    type Error = BadHyper;
    fn try_from(fields: OptimizerFields) -> Result<Self, BadHyper> {
        let bound = within("bound", fields.bound.unwrap_or(1.0), 1_000.0)?;
        let steps = |default| match fields.local_steps.unwrap_or(default) {
            given @ 1..=MAX_LOCAL_STEPS => Ok(given),
            given => Err(BadHyper::LocalSteps(given)),
        };
        match (fields.name, fields.learning_rate) {
            (OptimizerName::CurvatureNesterov, Some(_)) => Err(BadHyper::LearningRate),
            (OptimizerName::CurvatureNesterov, None) => {
                Ok(Self::CurvatureNesterov { local_steps: steps(5)?, bound })
            }
            (OptimizerName::FedAvg, rate) => Ok(Self::FedAvg {
                local_steps: steps(30)?,
                learning_rate: within("learning_rate", rate.unwrap_or(0.05), 100.0)?,
                bound,
            }),
        }
    }
}

impl From<Optimizer> for OptimizerFields {
    fn from(optimizer: Optimizer) -> Self {
        let (name, learning_rate) = match optimizer {
            Optimizer::CurvatureNesterov { .. } => (OptimizerName::CurvatureNesterov, None),
            Optimizer::FedAvg { learning_rate, .. } => (OptimizerName::FedAvg, Some(learning_rate)),
        };
        Self {
            name,
            local_steps: Some(optimizer.local_steps()),
            learning_rate,
            bound: Some(optimizer.bound()),
        }
    }
}

/// The settings of a training task.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hyper {
    #[serde(default)]
    pub optimizer: Optimizer,
    /// L2 weight on each dense parameter, over the whole federation.
    #[serde(default = "default_ridge_dense", deserialize_with = "ridge_dense")]
    pub ridge_dense: f64,
    /// L2 weight on each competency's parameter, over the whole federation.
    #[serde(default = "default_ridge_skill", deserialize_with = "ridge_skill")]
    pub ridge_skill: f64,
    /// Bounds on each learner's part in every sum, and noise; none: sums are exact.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub privacy: Option<LearnerPrivacy>,
}

fn default_ridge_dense() -> f64 {
    0.01
}

fn default_ridge_skill() -> f64 {
    1.0
}

fn ridge_dense<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    within("ridge_dense", f64::deserialize(deserializer)?, 1e6).map_err(de::Error::custom)
}

fn ridge_skill<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    within("ridge_skill", f64::deserialize(deserializer)?, 1e6).map_err(de::Error::custom)
}

impl Default for Hyper {
    fn default() -> Self {
        Self {
            optimizer: Optimizer::default(),
            ridge_dense: default_ridge_dense(),
            ridge_skill: default_ridge_skill(),
            privacy: None,
        }
    }
}

impl Hyper {
    /// The L2 weight of each parameter in the order of the layout: 17 + 3 x `competencies`.
    pub fn ridge(&self, competencies: usize) -> Vec<f64> {
        let mut ridge = vec![self.ridge_dense; DENSE.len()];
        ridge.resize(DENSE.len() + 3 * competencies, self.ridge_skill);
        ridge
    }
}

#[cfg(test)]
mod tests {
    use super::{super::Stage, *};

    #[test]
    fn settings_keep_their_meaning_in_every_format() {
        let hyper: Hyper =
            serde_json::from_str(r#"{"optimizer":{"name":"fedavg","learning_rate":0.25}}"#)
                .unwrap();
        let expected = Optimizer::FedAvg { local_steps: 30, learning_rate: 0.25, bound: 1.0 };
        assert_eq!(hyper.optimizer, expected);
        let json = serde_json::to_string(&hyper).unwrap();
        assert_eq!(serde_json::from_str::<Hyper>(&json).unwrap(), hyper);
        assert_eq!(serde_json::from_str::<Hyper>("{}").unwrap(), Hyper::default());
        let stage = Stage::Train { step: 7 };
        assert_eq!(serde_json::to_string(&stage).unwrap(), r#"{"train":{"step":7}}"#);
        let bytes = postcard::to_stdvec(&stage).unwrap();
        assert_eq!(postcard::from_bytes::<Stage>(&bytes).unwrap(), stage);
    }

    #[test]
    fn unusable_settings_are_refused() {
        for bad in [
            r#"{"optimizer":{"name":"adam"}}"#,
            r#"{"optimizer":{"name":"curvature-nesterov","learning_rate":1}}"#,
            r#"{"optimizer":{"name":"fedavg","local_steps":0}}"#,
            r#"{"optimizer":{"name":"fedavg","bound":-1}}"#,
            r#"{"ridge_dense":0}"#,
            r#"{"ridge":1}"#,
        ] {
            assert!(serde_json::from_str::<Hyper>(bad).is_err(), "{bad}");
        }
    }
}
