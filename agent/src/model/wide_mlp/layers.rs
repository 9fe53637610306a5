//! The hidden layers that all institutions share: forward, and the gradient by the tensor library's
//! automatic differentiation, or learner by learner where each one is bounded.

use burn::tensor::{Device, Tensor, TensorData, activation::relu};
use collegium_shared::architecture::wide_mlp::HIDDEN;

use super::{
    head::{Head, UNITS},
    inputs::Batch,
};
use crate::model::{ModelError, checked};

const FIRST: usize = HIDDEN[0];

/// The shared weights in the order of the layout: weights and biases of the first layer, then of the second.
#[derive(Clone, Debug)]
pub(super) struct Layers {
    values: Vec<f32>,
    width: usize,
}

/// The parts of the shared weights.
struct Parts<T> {
    weights: [T; 2],
    biases: [T; 2],
}

impl Layers {
    /// `width` are the inputs of each row.
    pub(super) fn new(values: &[f32], width: usize) -> Result<Self, ModelError> {
        checked(values, (width + 1) * FIRST + (FIRST + 1) * UNITS)?;
        Ok(Self { values: values.to_vec(), width })
    }

    pub(super) fn len(&self) -> usize {
        self.values.len()
    }

    pub(super) fn values(&self) -> &[f32] {
        &self.values
    }

    pub(super) fn values_mut(&mut self) -> &mut [f32] {
        &mut self.values
    }

    fn parts<T>(&self, tensor: impl Fn(&[f32], usize, usize) -> T) -> Parts<T> {
        let (first, rest) = self.values.split_at(self.width * FIRST);
        let (first_bias, rest) = rest.split_at(FIRST);
        let (second, second_bias) = rest.split_at(FIRST * UNITS);
        Parts {
            weights: [tensor(first, self.width, FIRST), tensor(second, FIRST, UNITS)],
            biases: [tensor(first_bias, 1, FIRST), tensor(second_bias, 1, UNITS)],
        }
    }

    /// The units of the last hidden layer, row by row.
    pub(super) fn hidden(&self, batch: &Batch) -> Result<Vec<f32>, ModelError> {
        let [_, last] =
            forward(&self.parts(matrix), matrix(&batch.values, batch.len(), self.width));
        values(last)
    }

    /// The gradient of the mean log loss over one learner's few rows, under a head that is public: values
    /// with their places. By hand, because a tensor for each learner would cost more than its numbers.
    pub(super) fn gradient_of(
        &self,
        batch: &Batch,
        head: &Head,
    ) -> Result<Vec<(usize, f64)>, ModelError> {
        let rows = matrix(&batch.values, batch.len(), self.width);
        let [first, last] = forward(&self.parts(matrix), rows);
        let (first, last) = (values(first)?, values(last)?);
        let residuals = head.residuals(batch, &last)?;
        let second_weights = &self.values[(self.width + 1) * FIRST..][..FIRST * UNITS];
        let mut gradient = vec![0.0_f64; self.len()];
        let (by_first, by_second) = gradient.split_at_mut((self.width + 1) * FIRST);
        for (row, residual) in residuals.into_iter().enumerate() {
            let x = &batch.values[row * self.width..][..self.width];
            let (h1, h2) = (&first[row * FIRST..][..FIRST], &last[row * UNITS..][..UNITS]);
            // What is not positive was cut off by the rectifier, and passes nothing back.
            let back =
                |unit: usize| if h2[unit] > 0.0 { residual * head.values()[unit] } else { 0.0 };
            let above: Vec<f32> = (0..UNITS).map(back).collect();
            let mut below = [0.0_f32; FIRST];
            for (unit, below) in below.iter_mut().enumerate().filter(|(unit, _)| h1[*unit] > 0.0) {
                let weights = &second_weights[unit * UNITS..][..UNITS];
                *below = weights.iter().zip(&above).map(|(w, a)| w * a).sum();
            }
            outer(by_second, h1, &above);
            outer(by_first, x, &below);
        }
        let all = gradient.into_iter().enumerate();
        Ok(all.filter(|(_, value)| *value != 0.0).collect())
    }
}

/// Adds inputs x slopes to a layer's weights, and the slopes to its biases behind them.
fn outer(gradient: &mut [f64], inputs: &[f32], slopes: &[f32]) {
    for (row, input) in gradient.chunks_mut(slopes.len()).zip(inputs.iter().chain([&1.0])) {
        if *input != 0.0 {
            row.iter_mut().zip(slopes).for_each(|(sum, slope)| *sum += f64::from(input * slope));
        }
    }
}

/// The units of both layers, row by row.
fn forward(parts: &Parts<Tensor<2>>, rows: Tensor<2>) -> [Tensor<2>; 2] {
    let Parts { weights: [first, second], biases: [first_bias, second_bias] } = parts;
    let below = relu(rows.matmul(first.clone()) + first_bias.clone());
    let above = relu(below.clone().matmul(second.clone()) + second_bias.clone());
    [below, above]
}

/// The gradient of a batch's mean log loss (and of the head's ridge) by the shared weights and by the head.
pub(super) fn gradient(
    layers: &Layers,
    head: &Head,
    batch: &Batch,
) -> Result<(Vec<f32>, Vec<f32>), ModelError> {
    let device = Device::flex().autodiff();
    let leaf = |values: &[f32], rows: usize, columns: usize| {
        let data = TensorData::new(values.to_vec(), [rows, columns]);
        Tensor::<2>::from_floats(data, &device).require_grad()
    };
    let parts = layers.parts(leaf);
    let rows = TensorData::new(batch.values.clone(), [batch.len(), batch.width]);
    let [_, last] = forward(&parts, Tensor::from_floats(rows, &device));
    let hidden = values(last.clone().detach())?;
    // The loss falls with each row's logit by its residual, and a logit is linear in the last units: what is
    // differentiated is their sum, weighted by what the residuals make of the output weights.
    let residuals = head.residuals(batch, &hidden)?;
    let output = &head.values()[..UNITS];
    let pull: Vec<f32> = residuals.iter().flat_map(|r| output.iter().map(move |w| r * w)).collect();
    let pull = TensorData::new(pull, [batch.len(), UNITS]);
    let mut gradients = (last * Tensor::from_floats(pull, &device)).sum().backward();
    let mut by_layers = Vec::with_capacity(layers.len());
    let Parts { weights: [first, second], biases: [first_bias, second_bias] } = parts;
    for part in [first, first_bias, second, second_bias] {
        let gradient = part.grad_remove(&mut gradients);
        let gradient = gradient.ok_or_else(|| ModelError::Tensor("no gradient".to_owned()))?;
        by_layers.extend(values(gradient)?);
    }
    Ok((by_layers, head.gradient_by(batch, &hidden, &residuals)?))
}

/// [rows, columns], from values row by row.
pub(super) fn matrix(values: &[f32], rows: usize, columns: usize) -> Tensor<2> {
    Tensor::from_floats(TensorData::new(values.to_vec(), [rows, columns]), &Device::flex())
}

/// [values, 1]
pub(super) fn column(values: &[f32]) -> Tensor<2> {
    matrix(values, values.len(), 1)
}

/// Row by row.
pub(super) fn values(tensor: Tensor<2>) -> Result<Vec<f32>, ModelError> {
    tensor.try_into_vec_as::<f32>().map_err(|error| ModelError::Tensor(error.to_string()))
}
