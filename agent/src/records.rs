//! Learner records as the trainer sees them: what one institution holds about its learners' answers.
//! Produced by `import`, kept by `vault`, read by `model`. Never crosses `link`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// One answer of one learner to one item.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Response {
    /// The item's identifier in the institution's catalogue.
    pub item: String,
    /// The competencies that the item exercises; never empty, no repetitions, in the order given.
    pub competencies: Vec<String>,
    /// Whether the answer was right.
    pub correct: bool,
}

/// A learner with all answers, oldest first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Learner {
    /// The institution's own identifier of the learner.
    pub id: String,
    /// Held out from training: used for evaluation only.
    pub held_out: bool,
    /// Group attributes that the mapping permits (for the bias audit), by name.
    pub attributes: BTreeMap<String, String>,
    pub responses: Vec<Response>,
    /// What was known before each answer, where the mapping names such columns.
    #[serde(skip)]
    pub features: Features,
}

/// Numbers that go with a learner's answers, one row for each answer. What an answer has no number of is
/// missing, as are rows that do not exist.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Features {
    names: Vec<String>,
    /// Row by row; NaN where a number is missing.
    values: Vec<f32>,
}

impl Features {
    /// `rows` have one number for each name, or none.
    pub fn new(names: &[String], rows: impl IntoIterator<Item = Vec<Option<f32>>>) -> Self {
        if names.is_empty() {
            return Self::default();
        }
        let mut values = Vec::new();
        for row in rows {
            debug_assert_eq!(row.len(), names.len());
            values.extend(row.into_iter().map(|value| value.unwrap_or(f32::NAN)));
        }
        Self { names: names.to_vec(), values }
    }

    /// The names of all columns.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    pub fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    /// Where a named number stands in each row.
    pub fn column(&self, name: &str) -> Option<usize> {
        self.names.iter().position(|known| known == name)
    }

    /// A number that goes with an answer, by the places of both.
    pub fn value(&self, answer: usize, column: usize) -> Option<f32> {
        let place = answer.checked_mul(self.names.len())?.checked_add(column)?;
        self.values.get(place).copied().filter(|value| value.is_finite())
    }

    /// Puts the rows of later answers behind those of the first `answers`. Either may have columns that the
    /// other lacks.
    pub fn append(&mut self, answers: usize, later: &Self, more: usize) {
        if self.is_empty() && later.is_empty() {
            return;
        }
        let mut names = self.names.clone();
        names.extend(later.names.iter().filter(|name| self.column(name).is_none()).cloned());
        let row = |of: &Self, answer: usize| {
            let value = |name: &String| of.value(answer, of.column(name)?);
            names.iter().map(value).collect::<Vec<_>>()
        };
        let before = (0..answers).map(|answer| row(self, answer));
        let all: Vec<_> = before.chain((0..more).map(|answer| row(later, answer))).collect();
        *self = Self::new(&names, all);
    }
}

/// Missing numbers are equal.
impl PartialEq for Features {
    fn eq(&self, other: &Self) -> bool {
        let bits = |of: &Self| of.values.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
        self.names == other.names && bits(self) == bits(other)
    }
}

impl Eq for Features {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn later_answers_may_come_with_other_columns() {
        let names = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>();
        let mut features =
            Features::new(&names(&["a", "b"]), [vec![Some(1.0), None], vec![Some(2.0), Some(3.0)]]);
        let later = Features::new(&names(&["c", "b"]), [vec![Some(4.0), Some(f32::INFINITY)]]);
        features.append(3, &later, 1);
        let all = names(&["a", "b", "c"]);
        let (one, two) = (vec![Some(1.0), None, None], vec![Some(2.0), Some(3.0), None]);
        // The third answer had no row; what is not finite is missing.
        let rows = [one, two, vec![None; 3], vec![None, None, Some(4.0)]];
        assert_eq!(features, Features::new(&all, rows));
        assert_eq!((features.value(1, 1), features.value(9, 0)), (Some(3.0), None));
        let mut none = Features::default();
        none.append(2, &Features::default(), 2);
        assert!(none.is_empty());
    }
}
