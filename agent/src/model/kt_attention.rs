//! `kt-attention/1` at one institution: learners' histories as windows, training on drawn windows, and
//! predictions. Keeps nothing to itself but its own counts of what is not shared. Sends nothing.

mod attention;
mod histories;

use collegium_shared::architecture::{
    Hyper, Local, Neural, Optimizer, SharedStatistics, Sums, kt_attention::KtAttention1,
};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use self::{attention::Weights, histories::Histories};
use super::{
    Effort, ModelError,
    adam::Adam,
    features::{Statistics, counted, training_counts},
    finite,
    neural::{Keeps, Loaded, Memory, Network, Predictions, Take, Task},
};
use crate::records::Learner;

/// Windows that are computed at once where all are: what this holds of memory, and when the thread may rest.
const WINDOWS: usize = 16;

/// Bytes of memory of one window in a gradient, and of an answer's signals.
const PER_WINDOW: u64 = 4 << 20;
const PER_ANSWER: u64 = 128;

/// The network's part at an institution.
#[derive(Clone, Copy, Debug)]
pub struct KtAttention;

/// An institution's histories, ready for the network.
#[derive(Debug)]
struct Records {
    optimizer: Optimizer,
    /// Shared competencies.
    competencies: usize,
    /// Signals by the shared counts and, where there are none, by the institution's own.
    own: Split,
    /// Signals by nothing but what was published; of a task with privacy only.
    published: Option<Split>,
}

#[derive(Debug)]
struct Split {
    train: Histories,
    held_out: Histories,
}

impl Split {
    fn new(
        learners: &[Learner],
        statistics: &Statistics,
        competencies: &[String],
        effort: &Effort,
    ) -> Result<Self, ModelError> {
        let of = |held_out: bool| {
            let some = learners.iter().filter(|learner| learner.held_out == held_out);
            Histories::new(some, statistics, competencies, effort)
        };
        Ok(Self { train: of(false)?, held_out: of(true)? })
    }
}

impl Network for KtAttention {
    fn facts(&self) -> &'static dyn Neural {
        &KtAttention1
    }

    fn statistics(&self, learners: &[Learner], task: &Task<'_>) -> Result<Vec<f64>, ModelError> {
        Ok(counted(&training_counts(learners), task.shared))
    }

    /// The learner, and its right and its wrong answers by competency and by item, each of the two cut to
    /// [`KtAttention1::part_clip`].
    fn part(&self, learner: &Learner, &Task { hyper, shared }: &Task<'_>) -> Vec<(usize, f64)> {
        let Some(privacy) = &hyper.privacy else { return Vec::new() };
        let clip = KtAttention1::part_clip(privacy);
        let alone = Learner { held_out: false, ..learner.clone() };
        let counts = training_counts([&alone]);
        let skills = counts.skills.iter().map(|(k, n)| (shared.competencies.binary_search(k), n));
        let items = counts.items.iter().map(|(i, n)| (shared.items.binary_search(i), n));
        let first = shared.competencies.len();
        let len = first + shared.items.len();
        let skills = cut(skills.filter_map(|(at, n)| Some((at.ok()?, *n))), clip);
        let items = cut(items.filter_map(|(at, n)| Some((first + at.ok()?, *n))), clip);
        let halves = skills.into_iter().chain(items);
        let both = halves.flat_map(|(at, right, wrong)| [(1 + at, right), (1 + len + at, wrong)]);
        std::iter::once((0, 1.0)).chain(both).filter(|(_, value)| *value != 0.0).collect()
    }

    /// As measured: a window's share of a gradient, and an answer's signals, twice with noise.
    fn memory(&self, hyper: &Hyper, _: usize) -> Memory {
        let windows = match hyper.optimizer.local {
            Local::Adam { batch, .. } => u64::from(batch).max(WINDOWS as u64),
            _ => WINDOWS as u64,
        };
        let sets = if hyper.privacy.is_some() { 2 } else { 1 };
        Memory { answer: sets * PER_ANSWER, batch: windows * PER_WINDOW }
    }

    fn load(
        &self,
        learners: &[Learner],
        &Task { hyper, shared }: &Task<'_>,
        statistics: &Sums,
        effort: &Effort,
    ) -> Result<Box<dyn Loaded>, ModelError> {
        let counts: SharedStatistics = KtAttention1::counts(statistics, shared, hyper)
            .map_err(|error| ModelError::Statistics(error.to_string()))?;
        let split = |statistics: &Statistics| {
            Split::new(learners, statistics, &shared.competencies, effort)
        };
        let own = split(&Statistics::new(&counts, &training_counts(learners)))?;
        let published = match &hyper.privacy {
            Some(_) => Some(split(&Statistics::published(&counts))?),
            None => None,
        };
        let (optimizer, competencies) = (hyper.optimizer.clone(), shared.competencies.len());
        Ok(Box::new(Records { optimizer, competencies, own, published }))
    }
}

/// Right and wrong answers by place, so that their norm is at most `clip`.
fn cut(counts: impl Iterator<Item = (usize, (f64, f64))>, clip: f64) -> Vec<(usize, f64, f64)> {
    let all: Vec<_> = counts.map(|(at, (n, right))| (at, right, n - right)).collect();
    let norm = all.iter().map(|(_, r, w)| r * r + w * w).sum::<f64>().sqrt();
    let scale = (clip / norm.max(f64::MIN_POSITIVE)).min(1.0);
    all.into_iter().map(|(at, right, wrong)| (at, scale * right, scale * wrong)).collect()
}

impl Loaded for Records {
    fn answers(&self) -> usize {
        self.own.train.answers()
    }

    fn train(&self, start: &[f32], round: u32, effort: &Effort) -> Result<Vec<f64>, ModelError> {
        let mut weights = self.weights(start)?;
        self.steps(&mut weights, (round, round.into()), effort)?;
        let moved = weights.values().iter().zip(start);
        finite("the update", moved.map(|(now, then)| f64::from(*now) - f64::from(*then)).collect())
    }

    fn held_out(
        &self,
        weights: &[f32],
        keeps: Keeps,
        effort: &Effort,
    ) -> Result<Predictions, ModelError> {
        let split = match keeps {
            Keeps::Fitted => &self.own,
            Keeps::Public => self.published()?,
        };
        predicted(&self.weights(weights)?, &split.held_out, effort)
    }

    fn alone(&self, start: &[f32], times: u32, effort: &Effort) -> Result<Predictions, ModelError> {
        let mut weights = self.weights(start)?;
        let Local::Adam { decay_rounds, .. } = self.optimizer.local else { return Err(NOT_ADAM) };
        let rounds = (1..=decay_rounds).flat_map(|round| (0..times).map(move |_| round));
        for (seed, round) in (1..).zip(rounds) {
            self.steps(&mut weights, (round, seed), effort)?;
        }
        predicted(&weights, &self.own.held_out, effort)
    }

    fn gradients(
        &self,
        start: &[f32],
        effort: &Effort,
        take: &mut Take<'_>,
    ) -> Result<(), ModelError> {
        let weights = self.weights(start)?;
        let train = &self.published()?.train;
        for windows in train.by_learner() {
            let mut all = vec![0.0; start.len()];
            let mut answers = 0.0;
            for some in windows.collect::<Vec<_>>().chunks(WINDOWS) {
                effort.step()?;
                let batch = train.batch(some);
                let own = batch.answers() as f64;
                let gradient = weights.gradient(&batch)?;
                for (sum, value) in all.iter_mut().zip(gradient) {
                    *sum += own * f64::from(value);
                }
                answers += own;
            }
            let mean = all.into_iter().map(|sum| sum / answers).enumerate();
            take(&mean.filter(|(_, value)| *value != 0.0).collect::<Vec<_>>());
        }
        Ok(())
    }
}

const NOT_ADAM: ModelError = ModelError::Settings("a network is trained with local-adam");

impl Records {
    fn weights(&self, values: &[f32]) -> Result<Weights, ModelError> {
        Weights::new(values, self.competencies)
    }

    fn published(&self) -> Result<&Split, ModelError> {
        let none = "what is public alone belongs to a task with learner-level privacy";
        self.published.as_ref().ok_or(ModelError::Settings(none))
    }

    /// One round's steps, on windows that the seed draws.
    fn steps(
        &self,
        weights: &mut Weights,
        (round, seed): (u32, u64),
        effort: &Effort,
    ) -> Result<(), ModelError> {
        let Local::Adam { batch, .. } = self.optimizer.local else { return Err(NOT_ADAM) };
        let train = &self.own.train;
        if train.windows() == 0 {
            return Ok(());
        }
        let rate = self.optimizer.local.rate(round);
        let mut draws = ChaCha8Rng::seed_from_u64(seed);
        let mut adam = Adam::new(weights.values().len());
        for _ in 0..self.optimizer.local_steps {
            effort.step()?;
            let drawn: Vec<_> =
                (0..batch).map(|_| draws.random_range(0..train.windows())).collect();
            let gradient = weights.gradient(&train.batch(&drawn))?;
            adam.step(weights.values_mut(), &gradient, rate);
        }
        Ok(())
    }
}

/// The answers of each learner, as they are predicted.
fn predicted(
    weights: &Weights,
    histories: &Histories,
    effort: &Effort,
) -> Result<Predictions, ModelError> {
    let mut by_window = Vec::with_capacity(histories.windows());
    let all: Vec<usize> = (0..histories.windows()).collect();
    for some in all.chunks(WINDOWS) {
        effort.step()?;
        by_window.extend(weights.predict(&histories.batch(some))?);
    }
    let of = |windows: std::ops::Range<usize>| by_window[windows].concat();
    Ok(histories.by_learner().map(of).collect())
}

#[cfg(test)]
mod tests;
