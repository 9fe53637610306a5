//! `wide-mlp/1` at one institution: the hidden layers that all institutions share, and what it keeps to
//! itself (output weights, wide weights, a bias for each activity). Trains both, fits the latter to the
//! former, and predicts. Sends nothing.

mod head;
mod inputs;
mod layers;

use collegium_shared::architecture::{
    Hyper, Local, Neural, Optimizer, Sums,
    wide_mlp::{self, HIDDEN, Moments, WideMlp1},
};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use self::{
    head::Head,
    inputs::{Inputs, Scaling},
    layers::Layers,
};
use super::{
    Effort, ModelError,
    adam::Adam,
    features::sigmoid,
    finite,
    neural::{Keeps, Loaded, Memory, Network, Predictions, Take, Task},
};
use crate::records::Learner;

/// Steps of the head alone before each round's steps of everything: the body's move is then not spent on
/// an output that fits nothing yet (Collins et al. 2021, algorithm 1).
const HEAD_STEPS: u32 = 10;
/// Weight of half the squared wide weights and activity biases, beside the mean loss.
const RIDGE: f32 = 1e-4;
/// Bytes of an activity's name, and copies of a batch that its gradient takes.
const NAME: u64 = 64;
const COPIES: u64 = 12;
/// Rows that are put through the layers at once, between which the thread may have to rest.
const ROWS: usize = 4_096;

/// The network's part at an institution.
#[derive(Clone, Copy, Debug)]
pub struct WideMlp;

/// An institution's records as inputs.
#[derive(Debug)]
struct Records {
    optimizer: Optimizer,
    train: Inputs,
    held_out: Inputs,
}

impl Network for WideMlp {
    fn facts(&self) -> &'static dyn Neural {
        &WideMlp1
    }

    fn statistics(&self, learners: &[Learner], task: &Task<'_>) -> Result<Vec<f64>, ModelError> {
        let mut values = vec![0.0; 1 + 3 * task.hyper.features.len()];
        for learner in learners.iter().filter(|learner| !learner.held_out) {
            inputs::count(learner, &task.hyper.features, &mut values);
        }
        Ok(values)
    }

    /// Each learner counts once, whatever the number of answers.
    fn part(&self, learner: &Learner, task: &Task<'_>) -> Vec<(usize, f64)> {
        let mut values = vec![0.0; 1 + 3 * task.hyper.features.len()];
        inputs::count(learner, &task.hyper.features, &mut values);
        let answers = values[0].max(1.0);
        let mean = values.into_iter().map(|value| value / answers).enumerate();
        mean.filter(|(_, value)| *value != 0.0).collect()
    }

    /// Inputs and a name for each answer; of a batch inputs and units, some copies of each.
    fn memory(&self, hyper: &Hyper, competencies: usize) -> Memory {
        let width = wide_mlp::inputs(hyper.features.len(), competencies);
        let row = 4 * (width + HIDDEN.iter().sum::<usize>()) as u64;
        let rows = match hyper.optimizer.local {
            Local::Adam { batch, .. } => batch.into(),
            _ => 0,
        };
        Memory {
            answer: 4 * width as u64 + NAME,
            batch: COPIES.saturating_mul(rows).saturating_mul(row),
        }
    }

    fn load(
        &self,
        learners: &[Learner],
        &Task { hyper, shared }: &Task<'_>,
        statistics: &Sums,
        effort: &Effort,
    ) -> Result<Box<dyn Loaded>, ModelError> {
        let moments = Moments::from_sums(statistics, hyper.features.len())
            .map_err(|error| ModelError::Statistics(error.to_string()))?;
        let scaling = Scaling::new(hyper, shared, &moments);
        let of = |held_out: bool| {
            let some = learners.iter().filter(|learner| learner.held_out == held_out);
            Inputs::new(some, &scaling, effort)
        };
        let mut train = of(false)?;
        let items = train.number_items();
        let mut held_out = of(true)?;
        held_out.name_items(&items);
        Ok(Box::new(Records { optimizer: hyper.optimizer.clone(), train, held_out }))
    }
}

impl Loaded for Records {
    fn answers(&self) -> usize {
        self.train.len()
    }

    fn train(&self, start: &[f32], round: u32, effort: &Effort) -> Result<Vec<f64>, ModelError> {
        let mut body = Layers::new(start, self.train.width())?;
        if self.train.is_empty() {
            return Ok(vec![0.0; start.len()]);
        }
        let mut head = Head::first(self.train.width(), self.train.items());
        let seed = round.into();
        self.steps((&mut body, &mut head), (round, seed), HEAD_STEPS, effort)?;
        let moved = body.values().iter().zip(start);
        finite("the update", moved.map(|(now, then)| f64::from(*now) - f64::from(*then)).collect())
    }

    fn held_out(
        &self,
        weights: &[f32],
        keeps: Keeps,
        effort: &Effort,
    ) -> Result<Predictions, ModelError> {
        let fitted = match keeps {
            Keeps::Fitted => Fitted::new(&self.train, weights, effort)?,
            Keeps::Public => Fitted {
                body: Layers::new(weights, self.held_out.width())?,
                head: Head::first(self.held_out.width(), 0),
            },
        };
        self.predicted(&fitted, effort)
    }

    fn alone(&self, start: &[f32], times: u32, effort: &Effort) -> Result<Predictions, ModelError> {
        let mut body = Layers::new(start, self.train.width())?;
        let mut head = Head::first(self.train.width(), self.train.items());
        let Local::Adam { decay_rounds, .. } = self.optimizer.local else { return Err(NOT_ADAM) };
        if !self.train.is_empty() {
            let rounds = (1..=decay_rounds).flat_map(|round| (0..times).map(move |_| round));
            for (seed, round) in (1..).zip(rounds) {
                self.steps((&mut body, &mut head), (round, seed), 0, effort)?;
            }
        }
        self.predicted(&Fitted { body, head }, effort)
    }

    fn gradients(
        &self,
        start: &[f32],
        effort: &Effort,
        take: &mut Take<'_>,
    ) -> Result<(), ModelError> {
        let body = Layers::new(start, self.train.width())?;
        let public = Head::first(self.train.width(), 0);
        for rows in self.train.by_learner() {
            effort.step()?;
            take(&body.gradient_of(&self.train.batch(&rows.collect::<Vec<_>>()), &public)?);
        }
        Ok(())
    }
}

const NOT_ADAM: ModelError = ModelError::Settings("a network is trained with local-adam");

impl Records {
    /// One round's steps, on batches that the seed draws: of the head alone, and then of everything.
    fn steps(
        &self,
        (body, head): (&mut Layers, &mut Head),
        (round, seed): (u32, u64),
        head_steps: u32,
        effort: &Effort,
    ) -> Result<(), ModelError> {
        let Local::Adam { batch, .. } = self.optimizer.local else { return Err(NOT_ADAM) };
        let rate = self.optimizer.local.rate(round);
        let mut draws = ChaCha8Rng::seed_from_u64(seed);
        let mut draw = || -> Vec<usize> {
            (0..batch).map(|_| draws.random_range(0..self.train.len())).collect()
        };
        let mut adam = Adam::new(head.len());
        for _ in 0..head_steps {
            effort.step()?;
            let rows = self.train.batch(&draw());
            let gradient = head.gradient(&rows, &body.hidden(&rows)?)?;
            adam.step(head.values_mut(), &gradient, rate);
        }
        let (mut of_body, mut of_head) = (Adam::new(body.len()), Adam::new(head.len()));
        for _ in 0..self.optimizer.local_steps {
            effort.step()?;
            let (by_body, by_head) = layers::gradient(body, head, &self.train.batch(&draw()))?;
            of_body.step(body.values_mut(), &by_body, rate);
            of_head.step(head.values_mut(), &by_head, rate);
        }
        Ok(())
    }

    fn predicted(&self, fitted: &Fitted, effort: &Effort) -> Result<Predictions, ModelError> {
        let all = fitted.predict(&self.held_out, effort)?;
        let right = self.held_out.right();
        let of = |rows: std::ops::Range<usize>| rows.map(|row| (all[row], right[row])).collect();
        Ok(self.held_out.by_learner().map(of).collect())
    }
}

/// The shared layers with what one institution's records make of them.
#[derive(Clone, Debug)]
pub(crate) struct Fitted {
    body: Layers,
    head: Head,
}

impl Fitted {
    fn new(train: &Inputs, weights: &[f32], effort: &Effort) -> Result<Self, ModelError> {
        let body = Layers::new(weights, train.width())?;
        let mut hidden = Vec::with_capacity(train.len());
        for rows in train.chunks(ROWS) {
            effort.step()?;
            hidden.extend(body.hidden(&train.batch(&rows.collect::<Vec<_>>()))?);
        }
        let head = Head::fit(train, &hidden, effort)?;
        Ok(Self { body, head })
    }

    /// The probability that each activity is completed.
    fn predict(&self, inputs: &Inputs, effort: &Effort) -> Result<Vec<f64>, ModelError> {
        let mut all = Vec::with_capacity(inputs.len());
        for rows in inputs.chunks(ROWS) {
            effort.step()?;
            let batch = inputs.batch(&rows.collect::<Vec<_>>());
            let hidden = self.body.hidden(&batch)?;
            all.extend(self.head.logits(&batch, &hidden)?.into_iter().map(sigmoid));
        }
        finite("the predictions", all)
    }
}

#[cfg(test)]
mod tests;
