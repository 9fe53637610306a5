//! The models that this agent can train and serve. Owns features, training and the installed
//! model; knows nothing of the network, of files and of who asks.

pub(crate) mod adam;
mod effort;
pub mod features;
pub mod fit;
pub mod kt_attention;
pub mod kt_logistic;
pub mod neural;
pub mod personal;
pub mod wide_mlp;

use std::collections::HashMap;

use collegium_shared::architecture::{KT_LOGISTIC_1, Layout, SharedStatistics, layout};
use thiserror::Error;

pub use effort::Effort;
pub use neural::NetworkModel;

/// Why a model cannot be trained or used.
#[derive(Debug, Error)]
pub enum ModelError {
    #[error("{what} has {found} values, expected {expected}; it belongs to another model")]
    WrongLength { what: &'static str, found: usize, expected: usize },
    #[error("{what} holds a value that is not a finite number; nothing was sent or installed")]
    NotFinite { what: &'static str },
    #[error("the tensor library failed: {0}")]
    Tensor(String),
    #[error("the fit did not converge within {0} steps; check the records for constant answers")]
    NotConverged(u32),
    #[error("the opened statistics do not fit the task: {0}")]
    Statistics(String),
    #[error("the task's settings cannot be used: {0}")]
    Settings(&'static str),
    #[error("training was cancelled")]
    Cancelled,
}

/// A model as it was released.
#[derive(Clone, Debug)]
pub enum Released {
    Logistic(Model),
    Network(NetworkModel),
}

impl Released {
    /// The model that recommendations and audits are made with.
    ///
    /// # Errors
    /// Of any other, what it is, in words.
    pub fn logistic(self) -> Result<Model, String> {
        match self {
            Self::Logistic(model) => Ok(model),
            Self::Network(network) => Err(format!(
                "the installed model is {}, which predicts and recommends nothing: `evaluate` says how good it \
                 is; recommendations are made with {KT_LOGISTIC_1}",
                network.id()
            )),
        }
    }
}

/// A trained `kt-logistic/1` model with the shared counts that its features need: as it was released, or
/// an institution's personal copy.
#[derive(Clone, Debug)]
pub struct Model {
    layout: Layout,
    statistics: SharedStatistics,
    weights: Vec<f64>,
    /// Of a personal copy only.
    item_biases: HashMap<String, f64>,
}

impl Model {
    /// `competencies` are the shared ones in the registry's order; `weights` are the tensors of
    /// their layout concatenated.
    pub fn new(
        competencies: &[String],
        statistics: SharedStatistics,
        weights: &[f32],
    ) -> Result<Self, ModelError> {
        let layout = layout(competencies);
        let weights = checked(weights, layout.len())?;
        Ok(Self { layout, statistics, weights, item_biases: HashMap::new() })
    }

    /// A model that was fitted in one place.
    pub(crate) fn fitted(
        competencies: &[String],
        statistics: SharedStatistics,
        weights: Vec<f64>,
    ) -> Self {
        let layout = layout(competencies);
        debug_assert_eq!(weights.len(), layout.len());
        Self { layout, statistics, weights, item_biases: HashMap::new() }
    }

    /// The same model with other weights, of the same number, and a bias in logits for each item.
    fn personal(&self, weights: Vec<f64>, item_biases: HashMap<String, f64>) -> Self {
        Self { weights, item_biases, ..self.clone() }
    }

    /// The competencies that have parameters.
    pub fn competencies(&self) -> &[String] {
        &self.layout.competencies
    }

    /// The shared counts.
    pub fn statistics(&self) -> &SharedStatistics {
        &self.statistics
    }

    /// The parameters: the layout's tensors concatenated.
    pub fn weights(&self) -> &[f64] {
        &self.weights
    }

    /// What an item adds to every logit; 0 but in a personal copy.
    pub fn item_bias(&self, item: &str) -> f64 {
        self.item_biases.get(item).copied().unwrap_or(0.0)
    }
}

/// Weights from outside, checked and widened.
pub(crate) fn checked(weights: &[f32], expected: usize) -> Result<Vec<f64>, ModelError> {
    let what = "the model";
    if weights.len() != expected {
        return Err(ModelError::WrongLength { what, found: weights.len(), expected });
    }
    let weights = weights.iter().copied().map(f64::from).collect();
    finite(what, weights)
}

#[expect(clippy::cast_possible_truncation, reason = "networks compute in single precision")]
pub(crate) fn single(value: f64) -> f32 {
    value as f32
}

/// Passes values on only if all are finite numbers.
pub(crate) fn finite(what: &'static str, values: Vec<f64>) -> Result<Vec<f64>, ModelError> {
    if values.iter().all(|v| v.is_finite()) {
        Ok(values)
    } else {
        Err(ModelError::NotFinite { what })
    }
}
