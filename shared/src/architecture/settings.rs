//! How a task trains: the optimiser and the regularisation, as operators write them down. Only settings
//! that some run could use can be made.

use serde::{Deserialize, Deserializer, Serialize, de};
use thiserror::Error;

use crate::crypto::Digest;

use super::{BiasQuestion, DENSE, Feature, LearnerPrivacy, Optimizer};

/// Settings of a task that no run could use.
#[derive(Clone, Debug, PartialEq, Error)]
pub enum BadHyper {
    #[error("{name} is {given}; it must be a number above 0 and at most {most}")]
    OutOfRange { name: &'static str, given: f64, most: f64 },
    #[error("{name} is {given}; it must be a number from 0 on and below 1")]
    Fraction { name: &'static str, given: f64 },
    #[error("local_steps is {given}; use 1 to {most}")]
    LocalSteps { given: u32, most: u32 },
    #[error("{given} features are named; name 1 to {most} under [[hyper.features]]")]
    Features { given: usize, most: usize },
    #[error("the feature {name:?} {what}")]
    Feature { name: String, what: &'static str },
    #[error("{architecture} is trained with the optimizer local-adam; name it, or none")]
    NotForNetworks { architecture: &'static str },
    #[error("{0} belongs to neural networks; remove it")]
    ForNetworks(&'static str),
    #[error("{optimizer} has no {setting}; remove it")]
    Misplaced { setting: &'static str, optimizer: &'static str },
}

pub(super) fn within(name: &'static str, given: f64, most: f64) -> Result<f64, BadHyper> {
    if given > 0.0 && given <= most {
        Ok(given)
    } else {
        Err(BadHyper::OutOfRange { name, given, most })
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
    /// What a bias audit asks; none of any other task.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub audit: Option<Box<BiasQuestion>>,
    /// The manifest of the released model that an evaluation is about; none of any other task.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub evaluation: Option<Box<Digest>>,
    /// The numbers that a network takes; none of any other model.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub features: Vec<Feature>,
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
            audit: None,
            evaluation: None,
            features: Vec::new(),
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
    use super::{
        super::{Local, Server, Stage},
        *,
    };

    #[test]
    fn settings_keep_their_meaning_in_every_format() {
        let hyper: Hyper =
            serde_json::from_str(r#"{"optimizer":{"name":"fedavg","learning_rate":0.25}}"#)
                .unwrap();
        let local = Local::Gradient { learning_rate: 0.25, proximal: 0.0 };
        let (server, norm) = (Server::Average, Optimizer::default().norm);
        let expected = Optimizer { local, server, local_steps: 30, bound: 1.0, norm };
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
