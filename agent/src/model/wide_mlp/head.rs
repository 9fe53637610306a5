//! What an institution keeps to itself: weights from the last hidden layer to the output, from the inputs
//! straight to the output, and a bias for each activity. A logistic regression on what the shared layers
//! make of an answer.

use burn::tensor::Tensor;
use collegium_shared::architecture::wide_mlp::{HIDDEN, first_output};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::{
    RIDGE,
    inputs::{Batch, Inputs},
    layers::{column, matrix, values},
};
use crate::model::{Effort, ModelError, adam::Adam, features::sigmoid, single};

/// Units of the last hidden layer.
pub(super) const UNITS: usize = HIDDEN[1];
/// A fit to convergence: so many steps of Adam on so many answers each, the rate falling by a cosine to 0.
const FIT_STEPS: u32 = 1_000;
const FIT_BATCH: usize = 1_024;
const FIT_RATE: f64 = 2e-2;

/// Output weights, wide weights, the bias, and the biases of activities, in this order.
#[derive(Clone, Debug)]
pub(super) struct Head {
    values: Vec<f32>,
    width: usize,
}

impl Head {
    /// The public one that everybody starts from.
    pub(super) fn first(width: usize, items: usize) -> Self {
        let mut values = first_output();
        values.resize(UNITS + width + 1 + items, 0.0);
        Self { values, width }
    }

    /// Fitted to all training answers, of which `hidden` are the last layer's units, row by row. The first one
    /// where there are none.
    pub(super) fn fit(train: &Inputs, hidden: &[f32], effort: &Effort) -> Result<Self, ModelError> {
        let mut head = Self::first(train.width(), train.items());
        if train.is_empty() {
            return Ok(head);
        }
        let mut adam = Adam::new(head.len());
        let mut draws = ChaCha8Rng::seed_from_u64(0);
        for step in 0..FIT_STEPS {
            effort.step()?;
            let rows: Vec<usize> =
                (0..FIT_BATCH).map(|_| draws.random_range(0..train.len())).collect();
            let of = |row: &usize| &hidden[row * UNITS..(row + 1) * UNITS];
            let drawn: Vec<f32> = rows.iter().flat_map(of).copied().collect();
            let gradient = head.gradient(&train.batch(&rows), &drawn)?;
            let part = std::f64::consts::PI * f64::from(step) / f64::from(FIT_STEPS);
            adam.step(&mut head.values, &gradient, FIT_RATE * 0.5 * (1.0 + part.cos()));
        }
        Ok(head)
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

    /// Where the biases of activities begin.
    pub(super) fn items(&self) -> usize {
        UNITS + self.width + 1
    }

    /// The logit of each row; `hidden` are the last layer's units, row by row.
    pub(super) fn logits(&self, batch: &Batch, hidden: &[f32]) -> Result<Vec<f64>, ModelError> {
        let (output, rest) = self.values.split_at(UNITS);
        let (wide, _) = rest.split_at(self.width);
        let logits = matrix(hidden, batch.len(), UNITS).matmul(column(output))
            + matrix(&batch.values, batch.len(), self.width).matmul(column(wide));
        let bias = self.values[self.items() - 1];
        let of = |item: &Option<u32>| {
            let place = item.map(|item| self.items() + item as usize);
            place.and_then(|place| self.values.get(place)).copied().unwrap_or(0.0)
        };
        let linear = values(logits)?;
        let all = linear.iter().zip(&batch.items);
        Ok(all.map(|(logit, item)| f64::from(logit + bias + of(item))).collect())
    }

    /// By how much the loss of each row falls with its logit: the probability less what happened, divided
    /// by the number of rows.
    pub(super) fn residuals(&self, batch: &Batch, hidden: &[f32]) -> Result<Vec<f32>, ModelError> {
        let logits = self.logits(batch, hidden)?;
        let rows = batch.len() as f64;
        let one = |(logit, right): (f64, &bool)| {
            single((sigmoid(logit) - f64::from(u8::from(*right))) / rows)
        };
        Ok(logits.into_iter().zip(&batch.right).map(one).collect())
    }

    /// The gradient of the mean log loss and of the ridge on wide weights and activity biases.
    pub(super) fn gradient(&self, batch: &Batch, hidden: &[f32]) -> Result<Vec<f32>, ModelError> {
        let residuals = self.residuals(batch, hidden)?;
        self.gradient_by(batch, hidden, &residuals)
    }

    /// The same, once the residuals are known.
    pub(super) fn gradient_by(
        &self,
        batch: &Batch,
        hidden: &[f32],
        residuals: &[f32],
    ) -> Result<Vec<f32>, ModelError> {
        let down = |rows: Tensor<2>| values(rows.transpose().matmul(column(residuals)));
        let mut gradient = down(matrix(hidden, batch.len(), UNITS))?;
        gradient.extend(down(matrix(&batch.values, batch.len(), self.width))?);
        gradient.push(residuals.iter().sum());
        gradient.resize(self.len(), 0.0);
        for (item, residual) in batch.items.iter().zip(residuals) {
            let place = item.map(|item| self.items() + item as usize);
            if let Some(slope) = place.and_then(|place| gradient.get_mut(place)) {
                *slope += residual;
            }
        }
        let bias = self.items() - 1;
        for (place, (slope, value)) in gradient.iter_mut().zip(&self.values).enumerate() {
            if place >= UNITS && place != bias {
                *slope += RIDGE * value;
            }
        }
        Ok(gradient)
    }
}
