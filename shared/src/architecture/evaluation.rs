//! How a model did on held-out learners, in numbers that add up over institutions. Knows nothing of
//! the model.

use serde::{Deserialize, Serialize};

use super::{BadSums, SegmentSpec, Sums, kt_logistic::COUNT_BOUND, sums::segment};

/// Equal bins over [0, 1] of the predicted probability in an [`Evaluation`].
pub const HISTOGRAM_BINS: usize = 512;

const BINS_LEN: u32 = 512;

/// What an evaluation adds to the vector of a stage, in the order of [`Evaluation::values`].
pub(super) fn segments() -> Vec<SegmentSpec> {
    let segment = |name: &str, len| SegmentSpec { name: name.to_owned(), len, bound: COUNT_BOUND };
    vec![
        segment("eval_n", 1),
        segment("eval_loss", 1),
        segment("eval_positive", BINS_LEN),
        segment("eval_negative", BINS_LEN),
    ]
}

/// How a model did on held-out learners: enough for log loss, AUC and calibration, additive over
/// institutions.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Evaluation {
    /// Held-out answers.
    pub n: f64,
    /// The sum of -ln of the probability given to what happened.
    pub loss_sum: f64,
    /// Right answers by predicted probability: [`HISTOGRAM_BINS`] equal bins over [0, 1].
    pub positive: Vec<f64>,
    /// Wrong answers, the same bins.
    pub negative: Vec<f64>,
}

impl Default for Evaluation {
    fn default() -> Self {
        let empty = vec![0.0; HISTOGRAM_BINS];
        Self { n: 0.0, loss_sum: 0.0, positive: empty.clone(), negative: empty }
    }
}

impl Evaluation {
    /// Reads the opened evaluation segments of the stages of training and evaluation.
    pub fn from_segments(sums: &Sums) -> Result<Self, BadSums> {
        let histogram = |name| {
            let bins = segment(sums, name, HISTOGRAM_BINS)?;
            Ok::<_, BadSums>(bins.iter().map(|count| count.max(0.0)).collect())
        };
        Ok(Self {
            n: segment(sums, "eval_n", 1)?[0].max(0.0),
            loss_sum: segment(sums, "eval_loss", 1)?[0].max(0.0),
            positive: histogram("eval_positive")?,
            negative: histogram("eval_negative")?,
        })
    }

    /// Counts one answer that was predicted right with probability `p`.
    pub fn observe(&mut self, p: f64, correct: bool) {
        let happened = if correct { p } else { 1.0 - p };
        self.n += 1.0;
        self.loss_sum -= happened.max(f64::MIN_POSITIVE).ln();
        let bins = if correct { &mut self.positive } else { &mut self.negative };
        bins[bin(p)] += 1.0;
    }

    /// The segments `eval_n`, `eval_loss`, `eval_positive`, `eval_negative` concatenated.
    pub fn values(&self) -> Vec<f64> {
        let mut values = vec![self.n, self.loss_sum];
        values.extend_from_slice(&self.positive);
        values.extend_from_slice(&self.negative);
        values
    }

    /// The area under the ROC curve by the Mann-Whitney statistic, answers in one bin counted as
    /// ties (half). `None` if all answers are right or all wrong.
    pub fn auc(&self) -> Option<f64> {
        let positives: f64 = self.positive.iter().sum();
        let negatives: f64 = self.negative.iter().sum();
        if positives <= 0.0 || negatives <= 0.0 {
            return None;
        }
        let mut below = 0.0;
        let mut ordered = 0.0;
        for (p, n) in self.positive.iter().zip(&self.negative) {
            ordered += p * (below + 0.5 * n);
            below += n;
        }
        Some(ordered / (positives * negatives))
    }

    /// The mean log loss in nats; `None` without answers.
    pub fn log_loss(&self) -> Option<f64> {
        (self.n > 0.0).then(|| self.loss_sum / self.n)
    }
}

/// The bin of a probability: bisection, because a float has no checked conversion to an index.
fn bin(p: f64) -> usize {
    let (mut low, mut high) = (0, HISTOGRAM_BINS);
    while high - low > 1 {
        let middle = usize::midpoint(low, high);
        if p * HISTOGRAM_BINS as f64 >= middle as f64 {
            low = middle;
        } else {
            high = middle;
        }
    }
    low
}

#[cfg(test)]
mod tests {
    use super::{
        super::{Optimizer, Sizes, Stage, name_sums, segments},
        *,
    };

    #[test]
    fn auc_counts_ties_half() {
        let mut evaluation = Evaluation::default();
        assert_eq!((evaluation.auc(), evaluation.log_loss()), (None, None));
        for (p, correct) in [(0.9, true), (0.4, true), (0.4, false), (0.1, false)] {
            evaluation.observe(p, correct);
        }
        assert_eq!(evaluation.auc(), Some(3.5 / 4.0));
        let optimizer = Optimizer::default();
        let none = Sizes { items: 0, competencies: 0 };
        let specs = segments(&Stage::Evaluate, &optimizer, none);
        let sums = name_sums(&specs, &evaluation.values()).unwrap();
        assert_eq!(Evaluation::from_segments(&sums).unwrap(), evaluation);
    }

    #[test]
    fn every_probability_has_a_bin() {
        for (p, expected) in [(0.0, 0), (0.5, 256), (1.0, 511), (1.0 / 512.0, 1), (f64::NAN, 0)] {
            assert_eq!(bin(p), expected, "{p}");
        }
    }
}
