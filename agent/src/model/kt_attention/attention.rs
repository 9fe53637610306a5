//! The network's computation: from windows to logits, and the gradient by the tensor library's automatic
//! differentiation. Each answer's question (its competencies and signals) looks at the earlier answers of the
//! window by their questions, and takes from them what was asked and how it went.

use burn::tensor::{
    Device, Int, Tensor, TensorData,
    activation::{log_sigmoid, relu, softmax},
};
use collegium_shared::architecture::{
    DENSE,
    kt_attention::{HEADS, LAYERS, WIDTH, matrices},
};

use super::histories::Batch;
use crate::model::{ModelError, checked, features::sigmoid, neural::Predicted, single};

/// Values of one head.
const HEAD: usize = WIDTH / HEADS;
/// What is added to the scores of answers that are not earlier.
const NEVER: f32 = -1e9;
/// Keeps the deviation of a token's values off 0.
const LEAST_VARIANCE: f32 = 1e-5;

/// The shared weights in the order of the layout.
#[derive(Clone, Debug)]
pub(super) struct Weights {
    values: Vec<f32>,
    /// The rows and columns of each tensor.
    shapes: Vec<[usize; 2]>,
}

/// The weights as tensors; each is [rows, columns].
struct Parts {
    competencies: Tensor<2>,
    signals: Tensor<2>,
    outcomes: Tensor<2>,
    layers: Vec<Layer>,
    wide: Tensor<2>,
    output: Tensor<2>,
}

struct Layer {
    queries: Tensor<2>,
    keys: Tensor<2>,
    values: Tensor<2>,
    joined: Tensor<2>,
    inner: [Tensor<2>; 2],
    outer: [Tensor<2>; 2],
}

impl Weights {
    /// Of the network over so many shared competencies.
    pub(super) fn new(values: &[f32], competencies: usize) -> Result<Self, ModelError> {
        let shapes: Vec<_> =
            matrices(competencies).into_iter().map(|m| [m.rows, m.columns]).collect();
        checked(values, shapes.iter().map(|[rows, columns]| rows * columns).sum())?;
        Ok(Self { values: values.to_vec(), shapes })
    }

    pub(super) fn values(&self) -> &[f32] {
        &self.values
    }

    pub(super) fn values_mut(&mut self) -> &mut [f32] {
        &mut self.values
    }

    /// In the order of the layout.
    fn tensors(&self, device: &Device) -> Vec<Tensor<2>> {
        let mut rest = &*self.values;
        let mut cut = |[rows, columns]: &[usize; 2]| {
            let (own, after) = rest.split_at(rows * columns);
            rest = after;
            Tensor::from_floats(TensorData::new(own.to_vec(), [*rows, *columns]), device)
        };
        self.shapes.iter().map(&mut cut).collect()
    }

    /// The probability of a right answer for each answer of each window, with what it was.
    pub(super) fn predict(&self, batch: &Batch) -> Result<Vec<Vec<Predicted>>, ModelError> {
        let device = Device::flex();
        let parts = Parts::of(self.tensors(&device))?;
        let logits = read(forward(&parts, batch, &device))?;
        let of = |(window, right): (usize, &Vec<bool>)| {
            let own = &logits[window * batch.longest..][..right.len()];
            own.iter().map(|z| sigmoid(f64::from(*z))).zip(right.iter().copied()).collect()
        };
        let all: Vec<Vec<Predicted>> = batch.right.iter().enumerate().map(of).collect();
        match all.iter().flatten().all(|(p, _)| p.is_finite()) {
            true => Ok(all),
            false => Err(ModelError::NotFinite { what: "the predictions" }),
        }
    }

    /// The gradient of the mean log loss over the answers of the windows.
    pub(super) fn gradient(&self, batch: &Batch) -> Result<Vec<f32>, ModelError> {
        let device = Device::flex().autodiff();
        let leaves = self.tensors(&device).into_iter().map(Tensor::require_grad);
        let leaves: Vec<_> = leaves.collect();
        let logits = forward(&Parts::of(leaves.clone())?, batch, &device);
        let rows = batch.windows * batch.longest;
        let share = single(1.0 / batch.answers().max(1) as f64);
        let mut wrong = vec![0.0_f32; rows];
        let mut counts = vec![0.0_f32; rows];
        for (window, right) in batch.right.iter().enumerate() {
            for (row, right) in (window * batch.longest..).zip(right) {
                wrong[row] = if *right { 0.0 } else { share };
                counts[row] = share;
            }
        }
        let column = |values| Tensor::<2>::from_floats(TensorData::new(values, [rows, 1]), &device);
        // -ln p(outcome) = (1 - y) z - ln sigmoid(z), stable for any z.
        let loss = (column(wrong) * logits.clone() - column(counts) * log_sigmoid(logits)).sum();
        let mut gradients = loss.backward();
        let mut all = Vec::with_capacity(self.values.len());
        for (leaf, [rows, columns]) in leaves.into_iter().zip(&self.shapes) {
            match leaf.grad_remove(&mut gradients) {
                Some(gradient) => all.extend(read(gradient)?),
                None => all.resize(all.len() + rows * columns, 0.0),
            }
        }
        match all.iter().all(|value| value.is_finite()) {
            true => Ok(all),
            false => Err(ModelError::NotFinite { what: "the gradient" }),
        }
    }
}

impl Parts {
    fn of(tensors: Vec<Tensor<2>>) -> Result<Self, ModelError> {
        let mut tensors = tensors.into_iter();
        let mut next =
            || tensors.next().ok_or_else(|| ModelError::Tensor("a tensor is missing".to_owned()));
        let [competencies, signals, outcomes] = [next()?, next()?, next()?];
        let mut layers = Vec::with_capacity(LAYERS);
        for _ in 0..LAYERS {
            layers.push(Layer {
                queries: next()?,
                keys: next()?,
                values: next()?,
                joined: next()?,
                inner: [next()?, next()?],
                outer: [next()?, next()?],
            });
        }
        let [wide, output] = [next()?, next()?];
        Ok(Self { competencies, signals, outcomes, layers, wide, output })
    }
}

/// The logit of each answer: [windows x longest, 1].
fn forward(parts: &Parts, batch: &Batch, device: &Device) -> Tensor<2> {
    let rows = batch.windows * batch.longest;
    let matrix = |values: &[f32], columns: usize| {
        Tensor::<2>::from_floats(TensorData::new(values.to_vec(), [rows, columns]), device)
    };
    let signals = matrix(&batch.signals, DENSE.len());
    let picked = TensorData::new(batch.competencies.clone(), [rows * batch.widest]);
    let picked = parts.competencies.clone().select(0, Tensor::<1, Int>::from_ints(picked, device));
    let shares = TensorData::new(batch.shares.clone(), [rows, batch.widest, 1]);
    let named = picked.reshape([rows, batch.widest, WIDTH])
        * Tensor::<3>::from_floats(shares, device).expand([rows, batch.widest, WIDTH]);
    let named = named.sum_dim(1).reshape([rows, WIDTH]);
    let questions = named + signals.clone().matmul(parts.signals.clone());
    let outcomes = matrix(&batch.outcomes, 2).matmul(parts.outcomes.clone());
    let answers = normalized(questions.clone() + outcomes);
    let earlier = Earlier::new(batch, device);
    let mut state = questions;
    for layer in &parts.layers {
        let seen = layer.look_back(normalized(state.clone()), answers.clone(), &earlier, batch);
        state = state + seen;
        let [inner, inner_biases] = layer.inner.clone();
        let [outer, outer_biases] = layer.outer.clone();
        let within = relu(normalized(state.clone()).matmul(inner) + inner_biases);
        state = state + within.matmul(outer) + outer_biases;
    }
    signals.matmul(parts.wide.clone()) + normalized(state).matmul(parts.output.clone())
}

impl Layer {
    /// What each question takes from the answers before it: [rows, WIDTH].
    fn look_back(
        &self,
        questions: Tensor<2>,
        answers: Tensor<2>,
        earlier: &Earlier,
        batch: &Batch,
    ) -> Tensor<2> {
        let heads = |tensor: Tensor<2>| -> Tensor<4> {
            let apart = tensor.reshape([batch.windows, batch.longest, HEADS, HEAD]);
            apart.swap_dims(1, 2)
        };
        let queries = heads(questions.clone().matmul(self.queries.clone()));
        let keys = heads(questions.matmul(self.keys.clone()));
        let values = heads(answers.matmul(self.values.clone()));
        let scale = single(1.0 / (HEAD as f64).sqrt());
        let scores = queries.matmul(keys.swap_dims(2, 3)).mul_scalar(scale);
        let weights = softmax(scores + earlier.bias.clone(), 3) * earlier.mask.clone();
        let taken = weights.matmul(values).swap_dims(1, 2);
        let rows = batch.windows * batch.longest;
        taken.reshape([rows, WIDTH]).matmul(self.joined.clone())
    }
}

/// Which answers are earlier, and how much less those count that are further back: head h's score falls by
/// 2^(-2h) an answer, h from 1 on (Press et al. 2022, ICLR: attention with linear biases).
struct Earlier {
    /// [1, HEADS, longest, longest]
    bias: Tensor<4>,
    /// [1, 1, longest, longest]: 1 for what is earlier. The first answer then sees nothing.
    mask: Tensor<4>,
}

impl Earlier {
    fn new(batch: &Batch, device: &Device) -> Self {
        let n = batch.longest;
        let mut bias = Vec::with_capacity(HEADS * n * n);
        for slope in (1..=HEADS).map(|head| single(0.25_f64.powi(head.try_into().unwrap_or(0)))) {
            for now in 0..n {
                let of = |then: usize| match now.checked_sub(then) {
                    Some(back @ 1..) => -slope * single(back as f64),
                    _ => NEVER,
                };
                bias.extend((0..n).map(of));
            }
        }
        let cells = (0..n).flat_map(|now| (0..n).map(move |then| then < now));
        let mask: Vec<f32> = cells.map(|earlier| if earlier { 1.0 } else { 0.0 }).collect();
        let expanded = |values, heads| {
            let one = Tensor::<4>::from_floats(TensorData::new(values, [1, heads, n, n]), device);
            one.expand([batch.windows, HEADS, n, n])
        };
        Self { bias: expanded(bias, HEADS), mask: expanded(mask, 1) }
    }
}

/// Each row with mean 0 and variance 1 (Ba et al. 2016, arXiv:1607.06450, without gain and bias).
fn normalized(rows: Tensor<2>) -> Tensor<2> {
    let centred = rows.clone() - rows.mean_dim(1);
    let variance = (centred.clone() * centred.clone()).mean_dim(1);
    centred / variance.add_scalar(LEAST_VARIANCE).sqrt()
}

/// Row by row.
fn read(tensor: Tensor<2>) -> Result<Vec<f32>, ModelError> {
    tensor.try_into_vec_as::<f32>().map_err(|error| ModelError::Tensor(error.to_string()))
}
