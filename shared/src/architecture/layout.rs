//! The parameters of a model: named tensors with their first values. Says nothing of what they are for.

use serde::{Deserialize, Serialize};

use super::{Architecture, kt_logistic::single, load_test::splitmix64};
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

impl TensorSpec {
    /// `len` values of 0.
    pub fn zeros(name: &str, len: usize) -> Self {
        Self { name: name.to_owned(), len: count(len), init: Init::Zeros }
    }

    /// These values.
    pub fn values(name: &str, values: Vec<f32>) -> Self {
        Self { name: name.to_owned(), len: count(values.len()), init: Init::Values(values) }
    }

    /// `len` public values, uniform in +- `within`, alike on every machine.
    pub fn drawn(architecture: &str, name: &str, len: usize, within: f64) -> Self {
        let values = uniform(architecture, name, len, within);
        Self { name: name.to_owned(), len: count(len), init: Init::Values(values) }
    }
}

fn count(len: usize) -> u32 {
    u32::try_from(len).unwrap_or(u32::MAX)
}

/// `len` public values in [-within, within), alike on every machine: whole numbers of 24 bits from
/// SplitMix64, seeded by the names of the architecture and of the tensor, times a power of two times
/// `within`, rounded once.
pub(super) fn uniform(architecture: &str, tensor: &str, len: usize, within: f64) -> Vec<f32> {
    let parts = [architecture.as_bytes(), tensor.as_bytes()];
    let digest = Digest::of_parts("collegium/v1/first-values", &parts);
    let [a, b, c, d, e, f, g, h, ..] = *digest.as_bytes();
    let seed = u64::from_be_bytes([a, b, c, d, e, f, g, h]);
    let value = |index| {
        let [high, middle, low, ..] = splitmix64(seed, index).to_be_bytes();
        let whole = f64::from(u32::from_be_bytes([0, high, middle, low]));
        single((whole / 8_388_608.0 - 1.0) * within)
    };
    (0..len as u64).map(value).collect()
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
