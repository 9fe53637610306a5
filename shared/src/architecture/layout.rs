//! The parameters of a model: named tensors with their first values. Says nothing of what they are for.

use serde::{Deserialize, Serialize};

use super::Architecture;
use crate::crypto::Digest;

/// The first values of a model's parameters.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Init {
    Zeros,
    Values(Vec<f32>),
}

/// One tensor of a model: one-dimensional, f32.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TensorSpec {
    pub name: String,
    pub len: u32,
    pub init: Init,
}

/// The parameters of a model: tensors in order, and what the positions of the competency tensors
/// mean.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Layout {
    pub architecture: Architecture,
    /// The shared competencies, as the registry sorts them.
    pub competencies: Vec<String>,
    pub tensors: Vec<TensorSpec>,
}
impl Layout {
    /// Identifies the layout: two models can be summed only if it is equal.
    ///
    /// # Errors
    /// Only if the layout cannot be encoded, which no layout made by an architecture is.
    pub fn digest(&self) -> Result<Digest, postcard::Error> {
        let bytes = postcard::to_stdvec(self)?;
        Ok(Digest::of_parts("collegium/v1/layout", &[&bytes]))
    }

    /// The parameters before the first step, all tensors concatenated.
    pub fn initial(&self) -> Vec<f32> {
        let mut weights = Vec::with_capacity(self.len());
        for tensor in &self.tensors {
            match &tensor.init {
                Init::Zeros => weights.resize(weights.len() + tensor.len as usize, 0.0),
                Init::Values(values) => weights.extend_from_slice(values),
            }
        }
        weights
    }

    /// Parameters of all tensors together.
    pub fn len(&self) -> usize {
        self.tensors.iter().map(|t| t.len as usize).sum()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
