//! How a model did on held-out learners, in numbers that add up over institutions. Knows nothing of
//! the model.

use serde::{Deserialize, Serialize};

use super::{
    BadSums, SegmentSpec, Sums,
    kt_logistic::{COUNT_BOUND, PRIVATE_BOUND},
    sums::segment,
};

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

/// Equal bins over [0, 1] of an evaluation with noise, of which fewer bins carry less.
pub const PRIVATE_BINS: usize = 20;

const PRIVATE_BINS_LEN: u32 = 20;

/// The same with noise: no more than the histograms, which say the rest.
pub(super) fn private_segments() -> Vec<SegmentSpec> {
    let bound = PRIVATE_BOUND;
    let segment = |name: &str| SegmentSpec { name: name.to_owned(), len: PRIVATE_BINS_LEN, bound };
    vec![segment("eval_positive"), segment("eval_negative")]
}

/// How a model did on held-out learners: enough for log loss, AUC and calibration, additive over
/// institutions.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Evaluation {
    /// Held-out answers.
    pub n: f64,
    /// The sum of -ln of the probability given to what happened.
    pub loss_sum: f64,
    /// Right answers by predicted probability: equal bins over [0, 1], [`HISTOGRAM_BINS`] unless there is
    /// noise on them.
    pub positive: Vec<f64>,
    /// Wrong answers, the same bins.
    pub negative: Vec<f64>,
}

impl Default for Evaluation {
    fn default() -> Self {
        Self::over(HISTOGRAM_BINS)
    }
}

impl Evaluation {
    /// Nothing yet, over so many bins.
    pub fn over(bins: usize) -> Self {
        let empty = vec![0.0; bins];
        Self { n: 0.0, loss_sum: 0.0, positive: empty.clone(), negative: empty }
    }

    /// Reads the opened sum of an evaluation with noise. Learners with many answers were clipped, so that it
    /// is nearer to a mean over learners. The loss is that of the bins' middles.
    pub fn from_noisy_segments(sums: &Sums) -> Result<Self, BadSums> {
        let bins = |name| {
            let bins = segment(sums, name, PRIVATE_BINS)?;
            Ok::<Vec<f64>, BadSums>(bins.iter().map(|count| count.max(0.0)).collect())
        };
        let (positive, negative) = (bins("eval_positive")?, bins("eval_negative")?);
        let n = positive.iter().chain(&negative).sum();
        let middle = |bin: usize| (bin as f64 + 0.5) / PRIVATE_BINS as f64;
        let loss = |bin: usize| {
            -positive[bin] * middle(bin).ln() - negative[bin] * (1.0 - middle(bin)).ln()
        };
        let loss_sum = (0..PRIVATE_BINS).map(loss).sum();
        Ok(Self { n, loss_sum, positive, negative })
    }

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
        let count = bins.len();
        bins[bin(p, count)] += 1.0;
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

    /// The mean log loss in nats of a model that gives every answer the share of right ones: the entropy of
    /// that share. `None` without answers.
    pub fn base_rate_loss(&self) -> Option<f64> {
        let (right, wrong): (f64, f64) = (self.positive.iter().sum(), self.negative.iter().sum());
        let n = right + wrong;
        let part = |of: f64| if of > 0.0 { -of / n * (of / n).ln() } else { 0.0 };
        (n > 0.0).then(|| part(right) + part(wrong))
    }

    /// By how much the mean log loss of [`Self::from_noisy_segments`] may be too high because each count
    /// carries noise of standard deviation `deviation`, in nats: three deviations of the sum of counts
    /// times losses, and what cutting counts off at 0 adds to bins that hold nothing, sqrt(1 / 2 pi) of a
    /// deviation each.
    pub fn noise_in_loss(&self, deviation: f64) -> f64 {
        let bins = self.positive.len() as f64;
        // The same losses for right answers and, from the other end, for wrong ones.
        let losses = || (0..self.positive.len()).map(|bin| -((bin as f64 + 0.5) / bins).ln());
        let squares: f64 = 2.0 * losses().map(|loss| loss * loss).sum::<f64>();
        let cut = 2.0 * losses().sum::<f64>() / (2.0 * std::f64::consts::PI).sqrt();
        deviation * (3.0 * squares.sqrt() + cut) / self.n.max(1.0)
    }

    /// The mean log loss in nats; `None` without answers.
    pub fn log_loss(&self) -> Option<f64> {
        (self.n > 0.0).then(|| self.loss_sum / self.n)
    }
}

/// The most groups of bins that a calibration error is over; bins that are fewer stand for themselves.
const CALIBRATION_GROUPS: usize = 16;

impl Evaluation {
    /// The predicted probability, in the middle of each bin, with right and wrong answers.
    fn bins(&self) -> impl Iterator<Item = (f64, f64, f64)> {
        let count = self.positive.len() as f64;
        let bins = self.positive.iter().zip(&self.negative).enumerate();
        bins.map(move |(bin, (right, wrong))| ((bin as f64 + 0.5) / count, *right, *wrong))
    }

    /// The mean squared error of the predicted probability (Brier 1950, Monthly Weather Review), each taken
    /// for the middle of its bin. `None` without answers.
    pub fn brier(&self) -> Option<f64> {
        let mut n = 0.0;
        let mut squares = 0.0;
        for (p, right, wrong) in self.bins() {
            n += right + wrong;
            squares += right * (1.0 - p) * (1.0 - p) + wrong * p * p;
        }
        (n > 0.0).then(|| squares / n)
    }

    /// The expected calibration error: |mean predicted - share right| over at most 16 equal groups of bins (all
    /// where bins are few), weighted by answers (Naeini, Cooper and Hauskrecht 2015, AAAI). `None` without
    /// answers.
    pub fn ece(&self) -> Option<f64> {
        let all: Vec<_> = self.bins().collect();
        let n: f64 = all.iter().map(|(_, right, wrong)| right + wrong).sum();
        let each = (all.len() / CALIBRATION_GROUPS).max(1);
        let apart = |group: &[(f64, f64, f64)]| {
            group.iter().map(|(p, right, wrong)| p * (right + wrong) - right).sum::<f64>().abs()
        };
        (n > 0.0).then(|| all.chunks(each).map(apart).sum::<f64>() / n)
    }
}

/// The bin of a probability: bisection, because a float has no checked conversion to an index.
pub(super) fn bin(p: f64, bins: usize) -> usize {
    let (mut low, mut high) = (0, bins);
    while high - low > 1 {
        let middle = usize::midpoint(low, high);
        if p * bins as f64 >= middle as f64 {
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
        super::{Hyper, Sizes, Stage, name_sums, segments},
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
        let none = Sizes { items: 0, competencies: 0 };
        let specs = segments(&Stage::Evaluate, &Hyper::default(), none);
        let sums = name_sums(&specs, &evaluation.values()).unwrap();
        assert_eq!(Evaluation::from_segments(&sums).unwrap(), evaluation);
    }

    #[test]
    fn brier_and_calibration_are_as_by_hand() {
        let mut evaluation = Evaluation::default();
        assert_eq!((evaluation.brier(), evaluation.ece()), (None, None));
        for (p, correct) in [(0.9, true), (0.9, false), (0.2, false), (0.2, false)] {
            evaluation.observe(p, correct);
        }
        // (.01 + .81 + .04 + .04) / 4 and (2 x .4 + 2 x .2) / 4.
        assert!((evaluation.brier().unwrap() - 0.225).abs() < 2e-3);
        assert!((evaluation.ece().unwrap() - 0.3).abs() < 2e-3);
    }

    #[test]
    fn knowing_the_base_rate_costs_its_entropy_and_noise_is_allowed_for() {
        let mut evaluation = Evaluation::over(PRIVATE_BINS);
        assert_eq!(evaluation.base_rate_loss(), None);
        for correct in [true, true, true, false] {
            evaluation.observe(0.75, correct);
        }
        let entropy = -(0.75_f64 * 0.75_f64.ln() + 0.25 * 0.25_f64.ln());
        assert!((evaluation.base_rate_loss().unwrap() - entropy).abs() < 1e-12);
        let allowed = evaluation.noise_in_loss(2.0);
        // sqrt(2 x 36.3) = 8.5 and 2 x 19.6 x 0.399 = 15.6, by hand.
        assert!((allowed - 2.0 * (3.0 * 8.52 + 15.6) / 4.0).abs() < 0.1, "{allowed}");
        assert_eq!(evaluation.noise_in_loss(0.0), 0.0);
    }

    #[test]
    fn every_probability_has_a_bin() {
        for (p, expected) in [(0.0, 0), (0.5, 256), (1.0, 511), (1.0 / 512.0, 1), (f64::NAN, 0)] {
            assert_eq!(bin(p, HISTOGRAM_BINS), expected, "{p}");
        }
    }
}
