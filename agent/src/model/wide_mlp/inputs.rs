//! From answers to the network's inputs: z-scores and bins of the features that a task names, what is
//! missing, and the competencies. Uses what was known before each answer, and never the answer.

use std::{collections::HashMap, ops::Range};

use collegium_shared::architecture::{
    Feature, Hyper, SharedSets,
    wide_mlp::{self, EDGES, MOST_DEVIATIONS, Moments, PER_FEATURE},
};

use crate::{
    model::{Effort, ModelError, features::Vocabulary, single},
    records::Learner,
};

/// Learners that are read at once.
const LEARNERS: usize = 256;

/// Adds a learner's answers to the sums of the stage of statistics: answers, and by feature how many have
/// it, the sum of their places in its range, and of the squares.
pub(super) fn count(learner: &Learner, features: &[Feature], sums: &mut [f64]) {
    let width = features.len();
    sums[0] += learner.responses.len() as f64;
    for (place, feature) in features.iter().enumerate() {
        let Some(column) = learner.features.column(&feature.name) else { continue };
        for answer in 0..learner.responses.len() {
            if let Some(value) = learner.features.value(answer, column) {
                let at = feature.place(value.into());
                sums[1 + place] += 1.0;
                sums[1 + width + place] += at;
                sums[1 + 2 * width + place] += at * at;
            }
        }
    }
}

/// How numbers and competencies become inputs, from public facts and opened sums alone.
pub(super) struct Scaling<'a> {
    features: &'a [Feature],
    moments: &'a [(f64, f64)],
    vocabulary: Vocabulary<'a>,
    width: usize,
}

impl<'a> Scaling<'a> {
    pub(super) fn new(hyper: &'a Hyper, shared: &'a SharedSets, moments: &'a Moments) -> Self {
        Self {
            features: &hyper.features,
            moments: &moments.features,
            vocabulary: Vocabulary::new(&shared.competencies),
            width: wide_mlp::inputs(hyper.features.len(), shared.competencies.len()),
        }
    }

    /// The inputs of a learner's answers, row by row.
    fn append(&self, learner: &Learner, out: &mut Vec<f32>) {
        let columns: Vec<Option<usize>> =
            self.features.iter().map(|f| learner.features.column(&f.name)).collect();
        let first_competency = self.features.len() * PER_FEATURE;
        for (answer, response) in learner.responses.iter().enumerate() {
            let begin = out.len();
            for ((feature, column), (mean, deviation)) in
                self.features.iter().zip(&columns).zip(self.moments)
            {
                let value = column.and_then(|column| learner.features.value(answer, column));
                let z = value.map_or(0.0, |value| {
                    let z = (feature.place(value.into()) - mean) / deviation;
                    z.clamp(-MOST_DEVIATIONS, MOST_DEVIATIONS)
                });
                out.push(single(z));
                let part = |bin: &[f64]| ((z - bin[0]) / (bin[1] - bin[0])).clamp(0.0, 1.0);
                out.extend(EDGES.windows(2).map(|bin| single(part(bin))));
                out.push(f32::from(u8::from(value.is_none())));
            }
            out.resize(begin + self.width, 0.0);
            for place in response.competencies.iter().filter_map(|k| self.vocabulary.index(k)) {
                out[begin + first_competency + place as usize] = 1.0;
            }
        }
    }
}

/// Some learners' answers as rows of inputs.
#[derive(Debug)]
pub(super) struct Inputs {
    width: usize,
    /// Row by row.
    values: Vec<f32>,
    right: Vec<bool>,
    names: Vec<String>,
    /// Which bias of its own an activity has, if any.
    items: Vec<Option<u32>>,
    biases: usize,
    /// Where each learner's rows end.
    ends: Vec<usize>,
}

/// Rows that are computed together.
#[derive(Debug)]
pub(super) struct Batch {
    pub(super) width: usize,
    /// Row by row.
    pub(super) values: Vec<f32>,
    pub(super) right: Vec<bool>,
    pub(super) items: Vec<Option<u32>>,
}

impl Inputs {
    pub(super) fn new<'l>(
        learners: impl Iterator<Item = &'l Learner>,
        scaling: &Scaling<'_>,
        effort: &Effort,
    ) -> Result<Self, ModelError> {
        let mut inputs = Self {
            width: scaling.width,
            values: Vec::new(),
            right: Vec::new(),
            names: Vec::new(),
            items: Vec::new(),
            biases: 0,
            ends: Vec::new(),
        };
        for learner in learners {
            if inputs.ends.len().is_multiple_of(LEARNERS) {
                effort.step()?;
            }
            scaling.append(learner, &mut inputs.values);
            inputs.right.extend(learner.responses.iter().map(|response| response.correct));
            inputs.names.extend(learner.responses.iter().map(|response| response.item.clone()));
            inputs.ends.push(inputs.right.len());
        }
        inputs.items = vec![None; inputs.right.len()];
        Ok(inputs)
    }

    /// Gives every activity a bias, in the order of their first rows.
    pub(super) fn number_items(&mut self) -> HashMap<String, u32> {
        let mut numbers = HashMap::new();
        for name in &self.names {
            let next = u32::try_from(numbers.len()).unwrap_or(u32::MAX);
            numbers.entry(name.clone()).or_insert(next);
        }
        self.name_items(&numbers);
        numbers
    }

    /// Gives activities the biases that others have by the same names.
    pub(super) fn name_items(&mut self, numbers: &HashMap<String, u32>) {
        self.items = self.names.drain(..).map(|name| numbers.get(&name).copied()).collect();
        self.biases = numbers.len();
    }

    pub(super) fn len(&self) -> usize {
        self.right.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.right.is_empty()
    }

    /// Inputs of each row.
    pub(super) fn width(&self) -> usize {
        self.width
    }

    /// Activities with a bias.
    pub(super) fn items(&self) -> usize {
        self.biases
    }

    pub(super) fn right(&self) -> &[bool] {
        &self.right
    }

    pub(super) fn batch(&self, rows: &[usize]) -> Batch {
        let mut values = Vec::with_capacity(rows.len() * self.width);
        for row in rows {
            values.extend_from_slice(&self.values[row * self.width..(row + 1) * self.width]);
        }
        let right = rows.iter().map(|row| self.right[*row]).collect();
        let items = rows.iter().map(|row| self.items[*row]).collect();
        Batch { width: self.width, values, right, items }
    }

    /// All rows, at most so many at once.
    pub(super) fn chunks(&self, most: usize) -> impl Iterator<Item = Range<usize>> {
        let rows = self.len();
        (0..rows).step_by(most).map(move |first| first..rows.min(first + most))
    }

    /// The rows of each learner that has any.
    pub(super) fn by_learner(&self) -> impl Iterator<Item = Range<usize>> {
        let begins = [0].into_iter().chain(self.ends.iter().copied());
        begins.zip(&self.ends).map(|(begin, end)| begin..*end).filter(|rows| !rows.is_empty())
    }
}

impl Batch {
    pub(super) fn len(&self) -> usize {
        self.right.len()
    }
}
