//! How good predictions are: discrimination, log loss, Brier score and calibration, each with a 95 % interval
//! in which learners are independent and the answers of one learner are not. Knows no model.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha12Rng;
use serde::Serialize;

/// The two-sided 95 % quantile of the standard normal distribution.
const Z: f64 = 1.959_963_985;
/// Equal bins over [0, 1] of the calibration error.
const BINS: usize = 15;
/// Samples of learners that the interval of the calibration error is from.
const RESAMPLES: usize = 200;
const SEED: u64 = 1;

/// A prediction and what happened.
#[derive(Clone, Copy, Debug)]
pub struct Scored {
    /// Which learner, by any numbering from 0 in which equal learners are next to each other.
    pub learner: usize,
    /// The predicted chance of a right answer, in [0, 1].
    pub p: f64,
    pub correct: bool,
}

/// How one model does on some answers.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Quality {
    pub learners: usize,
    pub answers: usize,
    /// Area under the ROC curve; absent with a `reason`.
    pub auc: Option<f64>,
    /// Mean log loss in nats; absent with a `reason`.
    pub log_loss: Option<f64>,
    /// Mean squared error of the predicted chance (Brier 1950).
    pub brier: Option<f64>,
    /// Expected calibration error: |mean predicted - share right| over 15 equal bins of the prediction,
    /// weighted by answers (Naeini, Cooper and Hauskrecht 2015). Never below 0: chance alone makes some.
    pub ece: Option<f64>,
    pub intervals: Intervals,
    /// Why a figure is absent, in words.
    pub reason: Option<String>,
}

/// 95 % intervals of the figures, low and high; none with fewer than two learners.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Intervals {
    pub auc: Option<[f64; 2]>,
    pub log_loss: Option<[f64; 2]>,
    pub brier: Option<[f64; 2]>,
    pub ece: Option<[f64; 2]>,
}

impl Quality {
    /// No figures, and why.
    pub fn absent(reason: &str) -> Self {
        Self { reason: Some(reason.to_owned()), ..Self::default() }
    }

    pub fn of(scored: &[Scored]) -> Self {
        if scored.is_empty() {
            return Self::absent("no held-out answers");
        }
        let learners = scored.chunk_by(|a, b| a.learner == b.learner).count();
        let loss = |s: &Scored| -(happened(s)).max(f64::MIN_POSITIVE).ln();
        let (log_loss, log_loss_interval) = mean(scored, loss);
        let (brier, brier_interval) = mean(scored, |s| (1.0 - happened(s)).powi(2));
        let (ece, ece_interval) = calibration_error(scored);
        let (auc, auc_interval) = auc(scored).unzip();
        let reason =
            auc.is_none().then(|| "held-out answers are all right or all wrong".to_owned());
        Self {
            learners,
            answers: scored.len(),
            auc,
            log_loss: Some(log_loss),
            brier: Some(brier),
            ece: Some(ece),
            intervals: Intervals {
                auc: auc_interval.flatten(),
                log_loss: log_loss_interval,
                brier: brier_interval,
                ece: ece_interval,
            },
            reason,
        }
    }
}

/// The chance that was given to what happened.
fn happened(s: &Scored) -> f64 {
    if s.correct { s.p } else { 1.0 - s.p }
}

fn around(value: f64, standard_error: f64) -> [f64; 2] {
    [value - Z * standard_error, value + Z * standard_error]
}

/// The mean over answers, and its interval: that of a ratio of means over independent learners (Cochran
/// 1977, section 6.2).
fn mean(scored: &[Scored], value: impl Fn(&Scored) -> f64) -> (f64, Option<[f64; 2]>) {
    let n = scored.len() as f64;
    let mean = scored.iter().map(&value).sum::<f64>() / n;
    let (mut squares, mut learners) = (0.0, 0.0);
    for own in scored.chunk_by(|a, b| a.learner == b.learner) {
        let apart: f64 = own.iter().map(|s| value(s) - mean).sum();
        squares += apart * apart;
        learners += 1.0;
    }
    let error = || (squares * learners / (learners - 1.0)).sqrt() / n;
    (mean, (learners > 1.0).then(|| around(mean, error())))
}

/// Positives and negatives of one learner, and the sums of their placements.
#[derive(Clone, Copy, Default)]
struct Placements {
    positives: f64,
    negatives: f64,
    /// Over the positives: the share of all negatives that are predicted lower.
    above: f64,
    /// Over the negatives: the share of all positives that are predicted higher.
    below: f64,
}

/// The area under the ROC curve by the Mann-Whitney statistic, ties counted half, and its interval for
/// clustered data (Obuchowski 1997, Biometrics 53:567). `None` if all outcomes are equal.
fn auc(scored: &[Scored]) -> Option<(f64, Option<[f64; 2]>)> {
    let positives = scored.iter().filter(|s| s.correct).count() as f64;
    let negatives = scored.len() as f64 - positives;
    if positives == 0.0 || negatives == 0.0 {
        return None;
    }
    let mut learners = Vec::new();
    let mut order = Vec::with_capacity(scored.len());
    for own in scored.chunk_by(|a, b| a.learner == b.learner) {
        order.extend(own.iter().map(|s| (s.p, s.correct, learners.len())));
        learners.push(Placements::default());
    }
    order.sort_by(|a, b| a.0.total_cmp(&b.0));
    let (mut lower_positives, mut lower_negatives) = (0.0, 0.0);
    for ties in order.chunk_by(|a, b| a.0 == b.0) {
        let right = ties.iter().filter(|(_, correct, _)| *correct).count() as f64;
        let wrong = ties.len() as f64 - right;
        for &(_, correct, learner) in ties {
            let own = &mut learners[learner];
            if correct {
                own.positives += 1.0;
                own.above += (lower_negatives + 0.5 * wrong) / negatives;
            } else {
                own.negatives += 1.0;
                own.below += (positives - lower_positives - 0.5 * right) / positives;
            }
        }
        lower_positives += right;
        lower_negatives += wrong;
    }
    let auc = learners.iter().map(|l| l.above).sum::<f64>() / positives;
    Some((auc, auc_error(&learners, auc, positives, negatives).map(|error| around(auc, error))))
}

fn auc_error(learners: &[Placements], auc: f64, positives: f64, negatives: f64) -> Option<f64> {
    let count = |some: fn(&Placements) -> bool| learners.iter().filter(|l| some(l)).count() as f64;
    let with_positives = count(|l| l.positives > 0.0);
    let with_negatives = count(|l| l.negatives > 0.0);
    let all = learners.len() as f64;
    if with_positives < 2.0 || with_negatives < 2.0 {
        return None;
    }
    let (mut above, mut below, mut both) = (0.0, 0.0, 0.0);
    for l in learners {
        let (a, b) = (l.above - l.positives * auc, l.below - l.negatives * auc);
        above += a * a;
        below += b * b;
        both += a * b;
    }
    let above = above * with_positives / ((with_positives - 1.0) * positives * positives);
    let below = below * with_negatives / ((with_negatives - 1.0) * negatives * negatives);
    let both = 2.0 * both * all / ((all - 1.0) * positives * negatives);
    Some((above + below + both).max(0.0).sqrt())
}

/// For each bin: answers, the sum of predictions, right answers.
type Bins = [[f64; 3]; BINS];

fn error_of(bins: &Bins) -> f64 {
    let answers: f64 = bins.iter().map(|[n, _, _]| n).sum();
    bins.iter().map(|[_, predicted, right]| (predicted - right).abs()).sum::<f64>() / answers
}

/// The expected calibration error, and the interval of a basic bootstrap over learners (Davison and Hinkley
/// 1997, section 5.2), from below cut off at 0.
fn calibration_error(scored: &[Scored]) -> (f64, Option<[f64; 2]>) {
    let of = |own: &[Scored]| {
        let mut bins = Bins::default();
        for s in own {
            let [n, predicted, right] = &mut bins[bin(s.p)];
            *n += 1.0;
            *predicted += s.p;
            *right += f64::from(u8::from(s.correct));
        }
        bins
    };
    let error = error_of(&of(scored));
    let learners: Vec<Bins> = scored.chunk_by(|a, b| a.learner == b.learner).map(of).collect();
    if learners.len() < 2 {
        return (error, None);
    }
    let mut random = ChaCha12Rng::seed_from_u64(SEED);
    let mut errors: Vec<f64> = (0..RESAMPLES)
        .map(|_| {
            let mut sum = Bins::default();
            for _ in 0..learners.len() {
                let drawn = &learners[random.random_range(0..learners.len())];
                let values = sum.iter_mut().flatten().zip(drawn.iter().flatten());
                values.for_each(|(sum, value)| *sum += value);
            }
            error_of(&sum)
        })
        .collect();
    errors.sort_by(f64::total_cmp);
    let cut = RESAMPLES / 40;
    let (low, high) = (errors[cut], errors[RESAMPLES - 1 - cut]);
    (error, Some([(2.0 * error - high).max(0.0), (2.0 * error - low).max(0.0)]))
}

/// The bin of a probability; a float has no checked conversion to an index.
fn bin(p: f64) -> usize {
    (1..BINS).filter(|edge| p * BINS as f64 >= *edge as f64).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scored(list: &[(usize, f64, bool)]) -> Vec<Scored> {
        list.iter().map(|&(learner, p, correct)| Scored { learner, p, correct }).collect()
    }

    #[test]
    fn figures_are_those_of_their_definitions() {
        let answers = [(0, 0.9, true), (0, 0.4, true), (1, 0.4, false), (1, 0.1, false)];
        let found = Quality::of(&scored(&answers));
        assert_eq!((found.learners, found.answers, found.auc), (2, 4, Some(0.875)));
        let brier = (0.01 + 0.36 + 0.16 + 0.01) / 4.0;
        assert!((found.brier.unwrap() - brier).abs() < 1e-12);
        let loss = -(0.9_f64.ln() + 0.4_f64.ln() + 0.6_f64.ln() + 0.9_f64.ln()) / 4.0;
        assert!((found.log_loss.unwrap() - loss).abs() < 1e-12);
        // Three bins: .9 (one right), .4 (one of two right), .1 (none right).
        assert!((found.ece.unwrap() - (0.1 + 0.2 + 0.1) / 4.0).abs() < 1e-12);
        assert_eq!(found.reason, None);
    }

    #[test]
    fn what_cannot_be_said_is_absent_with_a_reason() {
        let one = Quality::of(&scored(&[(0, 0.9, true), (0, 0.8, true)]));
        assert_eq!((one.auc, one.intervals), (None, Intervals::default()));
        assert!(one.log_loss.is_some() && one.reason.unwrap().contains("all right"));
        assert_eq!(Quality::of(&[]).reason.as_deref(), Some("no held-out answers"));
    }

    /// The variance against one worked out by hand for two positives and two negatives, each a learner
    /// of its own: there it is DeLong's.
    #[test]
    fn the_interval_of_the_auc_is_that_of_independent_answers_where_each_is_a_learner() {
        let answers = [(0, 0.9, true), (1, 0.4, true), (2, 0.6, false), (3, 0.1, false)];
        let found = Quality::of(&scored(&answers));
        let (auc, [low, high]) = (found.auc.unwrap(), found.intervals.auc.unwrap());
        assert_eq!(auc, 0.75);
        // Placements 1 and 1/2 of the positives, 1/2 and 1 of the negatives: sample variances of 1/8.
        let error = (0.125_f64 / 2.0 + 0.125 / 2.0).sqrt();
        assert!((high - auc - Z * error).abs() < 1e-9 && (auc - low - Z * error).abs() < 1e-9);
    }

    /// Repeating every answer tells nothing new if the repetition is by the same learner.
    #[test]
    fn intervals_are_between_learners() {
        let mut random = ChaCha12Rng::seed_from_u64(7);
        let mut one = Vec::new();
        for learner in 0..200 {
            let p: f64 = random.random();
            one.push(Scored { learner, p, correct: random.random::<f64>() < p });
        }
        let many: Vec<_> = one.iter().flat_map(|s| [*s; 9]).collect();
        let (one, many) = (Quality::of(&one), Quality::of(&many));
        let width = |interval: Option<[f64; 2]>| interval.map(|[low, high]| high - low).unwrap();
        for (of_one, of_many) in [
            (one.intervals.auc, many.intervals.auc),
            (one.intervals.log_loss, many.intervals.log_loss),
            (one.intervals.brier, many.intervals.brier),
            (one.intervals.ece, many.intervals.ece),
        ] {
            assert!((width(of_one) / width(of_many) - 1.0).abs() < 1e-6, "{of_one:?} {of_many:?}");
        }
        assert!(one.intervals.ece.unwrap()[0] < 0.1, "calibrated by construction");
    }

    /// 95 % intervals of predictions that are right by construction hold the truth about that often.
    #[test]
    fn intervals_hold_what_they_say() {
        let mut held = [0_u32; 2];
        for seed in 0..200 {
            let mut random = ChaCha12Rng::seed_from_u64(seed);
            let mut answers = Vec::new();
            for learner in 0..60 {
                let ability: f64 = random.random_range(-0.2..0.2);
                for _ in 0..10 {
                    let p: f64 = random.random();
                    let correct = random.random::<f64>() < (p + ability).clamp(0.0, 1.0);
                    answers.push(Scored { learner, p, correct });
                }
            }
            let Intervals { auc, brier, .. } = Quality::of(&answers).intervals;
            // Of 400,000 such learners: AUC .8211, Brier .1728.
            held[0] += u32::from(holds(auc, 0.8211));
            held[1] += u32::from(holds(brier, 0.1728));
        }
        assert!(held.iter().all(|held| (180..=200).contains(held)), "{held:?} of 200");
    }

    fn holds(interval: Option<[f64; 2]>, value: f64) -> bool {
        interval.is_some_and(|[low, high]| (low..=high).contains(&value))
    }
}
