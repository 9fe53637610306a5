//! `evaluation/1`: what the newest released model is worth to institutions today, beside a model of each one's
//! own and beside what it uses, summed over institutions. Nothing is trained and nothing released. Holds
//! what is compared and where it stands in the one vector; figures are those of a bias audit's groups.

use serde::{Deserialize, Serialize};

use super::{
    BadSums, SegmentSpec, Sums,
    bias_audit::{Cell, cell_segments},
    sums::segment,
};
use crate::params::{EncodeError, Encoding};

/// The identifier of the federated evaluation.
pub const EVALUATION_1: &str = "evaluation/1";

/// Who predicts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Contender {
    /// A model of the institution's own training answers; where these train none, the share of right ones.
    Alone,
    /// The released model.
    Global,
    /// What recommendations use: the personal copy where that is better, else the released model.
    InUse,
}

/// Which answers of held-out learners.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Span {
    All,
    /// The last fifth of each learner's, when much is known of the learner.
    Later,
}

/// What is compared, in the order of the vector.
pub const COMPARED: [(Contender, Span); 6] = [
    (Contender::Alone, Span::All),
    (Contender::Global, Span::All),
    (Contender::InUse, Span::All),
    (Contender::Alone, Span::Later),
    (Contender::Global, Span::Later),
    (Contender::InUse, Span::Later),
];

const INSTITUTIONS: &str = "institutions";

/// What institutions add up.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Comparison {
    /// In the order of [`COMPARED`].
    pub cells: [Cell; COMPARED.len()],
    /// Institutions that have enough learners to add anything.
    pub counted: f64,
    /// Of these, where the released model is at least as good as a model of their own, by log loss.
    pub global_not_worse: f64,
    /// The same of what is used.
    pub in_use_not_worse: f64,
}

impl Comparison {
    /// Where what cell stands.
    pub fn place(contender: Contender, span: Span) -> usize {
        COMPARED.iter().position(|of| *of == (contender, span)).unwrap_or_default()
    }

    pub fn of(&self, contender: Contender, span: Span) -> &Cell {
        &self.cells[Self::place(contender, span)]
    }

    /// The vector, in the order of [`encoding`].
    pub fn values(&self) -> Vec<f64> {
        let mut values = Cell::vector(&self.cells);
        values.extend([self.counted, self.global_not_worse, self.in_use_not_worse]);
        values
    }

    /// Reads the opened sum.
    pub fn from_sums(sums: &Sums) -> Result<Self, BadSums> {
        let mut cells: [Cell; COMPARED.len()] = Default::default();
        for (cell, read) in cells.iter_mut().zip(Cell::from_sums(sums, COMPARED.len())?) {
            *cell = read;
        }
        let institutions = segment(sums, INSTITUTIONS, 3)?;
        let [counted, global_not_worse, in_use_not_worse] =
            [institutions[0], institutions[1], institutions[2]];
        Ok(Self { cells, counted, global_not_worse, in_use_not_worse })
    }
}

/// The encoding of the one sum, over at most `n_max` institutions.
pub fn encoding(n_max: u32) -> Result<Encoding, EncodeError> {
    let institutions = SegmentSpec { name: INSTITUTIONS.to_owned(), len: 3, bound: 1.0 };
    let all = cell_segments(COMPARED.len()).into_iter().chain([institutions]);
    Encoding::new(all.map(|s| (s.name, s.len, s.bound)), n_max)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::architecture::{
        bias_audit::{Figures, Measure},
        name_sums,
    };

    #[test]
    fn what_institutions_add_is_read_back() {
        let mut one = Comparison { counted: 1.0, in_use_not_worse: 1.0, ..Comparison::default() };
        for (place, cell) in one.cells.iter_mut().enumerate() {
            let p = 0.5 + 0.05 * place as f64;
            cell.observe(&[(p, true), (1.0 - p, false), (p, true)], [0.6, 0.8]);
            cell.observe(&[(p, true), (0.4, false)], [0.6, 0.8]);
        }
        let encoding = encoding(7).unwrap();
        let mut total = vec![0_u32; encoding.dimension()];
        for _ in 0..3 {
            let encoded = encoding.encode(&one.values()).unwrap();
            assert_eq!(encoded.clipped, 0);
            total.iter_mut().zip(encoded.words).for_each(|(sum, w)| *sum = sum.wrapping_add(w));
        }
        let read = Comparison::from_sums(&encoding.decode_sum(&total).unwrap()).unwrap();
        assert!((read.counted - 3.0).abs() < 1e-6 && read.global_not_worse.abs() < 1e-6);
        let figures = |of: &Comparison, contender| {
            let cell = of.of(contender, Span::Later).clone();
            Figures::of(&cell).measure(Measure::Brier).unwrap().value
        };
        for contender in [Contender::Alone, Contender::Global, Contender::InUse] {
            let gap = figures(&read, contender) - figures(&one, contender);
            // Sums of a few answers are rounded as those of millions are.
            assert!(gap.abs() < 5e-3, "{contender:?}: {gap}");
        }
        assert!(figures(&one, Contender::InUse) < figures(&one, Contender::Alone));
    }

    #[test]
    fn another_sum_is_refused() {
        let segments = cell_segments(2);
        let len: usize = segments.iter().map(|segment| segment.len as usize).sum();
        let sums = name_sums(&segments, &vec![0.0; len]).unwrap();
        assert!(Comparison::from_sums(&sums).is_err());
    }
}
