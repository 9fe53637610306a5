//! What is summed of one group of learners: counts, and sums and squares over learners, so that intervals
//! know that the answers of one learner hang together. Adds; concludes nothing.

use super::super::{BadSums, Sums, evaluation::bin, sums::segment};

/// Equal bins over [0, 1] of the predicted chance.
pub const CALIBRATION_BINS: usize = 20;
/// The most answers of one learner that count, evenly spread over all: so that squares are bounded and nobody
/// is a group alone.
pub const LEARNER_ANSWERS: usize = 64;
/// Means over answers whose intervals are by learner.
pub const RATIOS: usize = 6;
/// Means over what learners would be recommended.
pub const EXPOSURES: usize = 3;
/// A loss of e^-7 and less is not told apart from it.
const MOST_LOSS: f64 = 7.0;

const COUNTS: f64 = 4_194_304.0;
const SQUARES: f64 = 16_777_216.0;
const ANSWERS_SQUARED: f64 = 67_108_864.0;
/// An answer is no further than half a bin from its middle.
const OFFSETS: f64 = COUNTS / 32.0;
const LEARNERS: f64 = 262_144.0;
/// No group has more exposed learners at one institution.
const EXPOSED: f64 = 1_024.0;

/// Each segment of a sum: its name, its values for each group, and the public bound of each value.
pub(super) const SEGMENTS: [(&str, usize, f64); 12] = [
    ("learners", 1, LEARNERS),
    ("answers", 1, COUNTS),
    ("answers_squared", 1, ANSWERS_SQUARED),
    ("sums", RATIOS, COUNTS),
    ("squares", RATIOS, SQUARES),
    ("products", RATIOS, SQUARES),
    ("right", CALIBRATION_BINS, COUNTS),
    ("wrong", CALIBRATION_BINS, COUNTS),
    ("predicted", CALIBRATION_BINS, OFFSETS),
    ("exposed", 1, EXPOSED),
    ("exposures", EXPOSURES, EXPOSED),
    ("exposures_squared", EXPOSURES, EXPOSED),
];

/// The sums of one group.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Cell {
    pub learners: f64,
    pub answers: f64,
    /// Over learners, of the square of their answers.
    pub answers_squared: f64,
    /// Over answers: right; predicted less right; its square; the log loss in nats; whether the chance lies
    /// in the band; whether it is at least one half.
    pub sums: [f64; RATIOS],
    /// Over learners, of the square of the sum over their answers.
    pub squares: [f64; RATIOS],
    /// Over learners, of that sum times their answers.
    pub products: [f64; RATIOS],
    /// Right answers by predicted chance.
    pub right: [f64; CALIBRATION_BINS],
    pub wrong: [f64; CALIBRATION_BINS],
    /// By how much the predicted chances in each bin exceed its middle, summed: finer than the chances.
    pub predicted: [f64; CALIBRATION_BINS],
    /// Learners of whom it was asked what they would be recommended.
    pub exposed: f64,
    /// Over them, of the means over their recommendations: the predicted chance, the item's difficulty, and
    /// whether the chance is above the band.
    pub exposures: [f64; EXPOSURES],
    pub exposures_squared: [f64; EXPOSURES],
}

/// The chance in the middle of a bin.
pub(super) fn middle(bin: usize) -> f64 {
    (bin as f64 + 0.5) / CALIBRATION_BINS as f64
}

/// A chance that is no number counts as one half: who counts does not depend on the model that was asked about,
/// or the difference between two models would be of those who count with one of them.
fn sound(p: f64) -> f64 {
    if p.is_finite() { p } else { 0.5 }
}

fn whether(is: bool) -> f64 {
    f64::from(u8::from(is))
}

impl Cell {
    /// Counts a learner by the chance that each answer was given, and whether it was right. `band` is the
    /// scope's.
    pub fn observe(&mut self, answers: &[(f64, bool)], [low, high]: [f64; 2]) {
        let mut own = [0.0; RATIOS];
        let stride = answers.len().div_ceil(LEARNER_ANSWERS).max(1);
        let counted = answers.iter().step_by(stride);
        let n = counted.len() as f64;
        for &(p, right) in counted {
            let p = sound(p);
            let (y, at) = (whether(right), bin(p, CALIBRATION_BINS));
            let loss = -(if right { p } else { 1.0 - p }).max(f64::MIN_POSITIVE).ln();
            let measured = [
                y,
                p - y,
                (p - y).powi(2),
                loss.min(MOST_LOSS),
                whether((low..=high).contains(&p)),
                whether(p >= 0.5),
            ];
            own.iter_mut().zip(measured).for_each(|(sum, value)| *sum += value);
            let bins = if right { &mut self.right } else { &mut self.wrong };
            bins[at] += 1.0;
            self.predicted[at] += p - middle(at);
        }
        self.learners += 1.0;
        self.answers += n;
        self.answers_squared += n * n;
        for (place, sum) in own.into_iter().enumerate() {
            self.sums[place] += sum;
            self.squares[place] += sum * sum;
            self.products[place] += sum * n;
        }
    }

    /// Counts what a learner would be recommended: means over the recommendations, each in [0, 1].
    pub fn expose(&mut self, means: [f64; EXPOSURES]) {
        self.exposed += 1.0;
        for (place, mean) in means.map(sound).into_iter().enumerate() {
            self.exposures[place] += mean;
            self.exposures_squared[place] += mean * mean;
        }
    }

    fn parts(&self) -> [&[f64]; SEGMENTS.len()] {
        use std::slice::from_ref;
        [
            from_ref(&self.learners),
            from_ref(&self.answers),
            from_ref(&self.answers_squared),
            &self.sums,
            &self.squares,
            &self.products,
            &self.right,
            &self.wrong,
            &self.predicted,
            from_ref(&self.exposed),
            &self.exposures,
            &self.exposures_squared,
        ]
    }

    /// All values, in the order of the segments.
    pub fn values(&self) -> Vec<f64> {
        self.parts().concat()
    }

    /// The vector of several groups: segment by segment, in each one group after the other.
    pub fn vector(cells: &[Self]) -> Vec<f64> {
        let parts: Vec<_> = cells.iter().map(Self::parts).collect();
        (0..SEGMENTS.len())
            .flat_map(|segment| parts.iter().flat_map(move |p| p[segment]))
            .copied()
            .collect()
    }

    /// Reads the opened sums over `count` groups.
    pub fn from_sums(sums: &Sums, count: usize) -> Result<Vec<Self>, BadSums> {
        let mut cells = vec![Self::default(); count];
        for (number, (name, each, _)) in SEGMENTS.into_iter().enumerate() {
            let values = segment(sums, name, each * count)?;
            for (cell, own) in cells.iter_mut().zip(values.chunks(each)) {
                cell.put(number, own);
            }
        }
        Ok(cells)
    }

    fn put(&mut self, segment: usize, values: &[f64]) {
        use std::slice::from_mut;
        let parts: [&mut [f64]; SEGMENTS.len()] = [
            from_mut(&mut self.learners),
            from_mut(&mut self.answers),
            from_mut(&mut self.answers_squared),
            &mut self.sums,
            &mut self.squares,
            &mut self.products,
            &mut self.right,
            &mut self.wrong,
            &mut self.predicted,
            from_mut(&mut self.exposed),
            &mut self.exposures,
            &mut self.exposures_squared,
        ];
        if let Some(part) = parts.into_iter().nth(segment) {
            part.copy_from_slice(values);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn some(more: f64) -> Cell {
        let mut cell = Cell::default();
        cell.observe(&[(0.7 + more, true), (0.2, false), (0.9, true)], [0.6, 0.8]);
        cell.observe(&[(0.4, true)], [0.6, 0.8]);
        cell.expose([0.7, 0.4, 0.0]);
        cell
    }

    #[test]
    fn a_learner_adds_sums_and_squares_of_sums() {
        let cell = some(0.0);
        assert_eq!((cell.learners, cell.answers, cell.answers_squared), (2.0, 4.0, 10.0));
        assert_eq!((cell.sums[0], cell.squares[0], cell.products[0]), (3.0, 5.0, 7.0));
        assert!((cell.sums[1] - (2.2 - 3.0)).abs() < 1e-12);
        assert_eq!((cell.sums[4], cell.sums[5]), (1.0, 2.0), "0.7 is in the band");
        assert_eq!((cell.right[14], cell.right[8], cell.wrong[4]), (1.0, 1.0, 1.0));
        // 0.7 and 0.2 begin their bins, 0.9 and 0.4 too.
        assert!((cell.predicted.iter().sum::<f64>() + 4.0 / 40.0).abs() < 1e-12);
        assert_eq!((cell.exposed, cell.exposures[0]), (1.0, 0.7));
    }

    #[test]
    fn of_a_learner_with_many_answers_some_count_from_first_to_last() {
        let mut cell = Cell::default();
        let answers: Vec<_> = (0..1_000).map(|n| (f64::from(n) / 1_000.0, n % 2 == 0)).collect();
        cell.observe(&answers, [0.6, 0.8]);
        assert_eq!(cell.answers, 63.0, "every 16th");
        assert!(cell.right.iter().zip(&cell.wrong).all(|(r, w)| r + w >= 3.0));
        cell.observe(&[], [0.6, 0.8]);
        assert_eq!((cell.learners, cell.answers), (2.0, 63.0));
    }

    #[test]
    fn a_model_without_numbers_leaves_nobody_out() {
        let (mut broken, mut even) = (Cell::default(), Cell::default());
        broken.observe(&[(f64::NAN, true), (f64::INFINITY, false), (0.7, true)], [0.6, 0.8]);
        even.observe(&[(0.5, true), (0.5, false), (0.7, true)], [0.6, 0.8]);
        broken.expose([f64::NAN, 0.3, 1.0]);
        even.expose([0.5, 0.3, 1.0]);
        assert_eq!(broken, even);
    }

    #[test]
    fn what_is_summed_is_read_back() {
        let cells = [some(0.0), Cell::default(), some(0.1)];
        let vector = Cell::vector(&cells);
        let mut sums = Sums::new();
        let mut rest = vector.as_slice();
        for (name, each, _) in SEGMENTS {
            let (own, after) = rest.split_at(each * 3);
            sums.insert(name.to_owned(), own.to_vec());
            rest = after;
        }
        assert!(rest.is_empty());
        assert_eq!(Cell::from_sums(&sums, 3).unwrap(), cells);
        assert!(Cell::from_sums(&sums, 2).is_err());
    }
}
