//! What the sums of one group say: each figure with its standard error. Pure arithmetic; decides neither what
//! is shown nor what is too much.
//!
//! Means over answers are ratios of sums over learners, with the variance of a ratio estimator (Cochran 1977,
//! Sampling Techniques, 6.4): answers of one learner may hang together as they like. The area under the curve
//! has the variance of DeLong et al. (Biometrics 1988) over bins, which takes answers for independent, and is
//! therefore widened by the design effect of the residuals; so is that of the expected calibration error.
//! Learners are taken for independent of one another, which pupils of one class are not quite.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::cell::{CALIBRATION_BINS, Cell, EXPOSURES, RATIOS, middle};

/// The quantile of the normal distribution for 95 %.
const Z: f64 = 1.959_963_985;

/// A figure of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Measure {
    /// The share of right answers.
    BaseRate,
    /// The area under the ROC curve, answers in one bin counted as ties.
    Auc,
    /// The mean squared difference of predicted chance and outcome.
    Brier,
    /// The mean of -ln of the chance given to what happened, in nats.
    LogLoss,
    /// The expected calibration error over equal bins.
    Ece,
    /// Predicted less observed, on average: above 0 the model thinks too well of the group.
    Calibration,
    /// How often the model gives at least an even chance.
    Selection,
    /// How often the chance lies in the band that recommendations aim at.
    InBand,
    /// The mean chance of a right answer of what would be recommended.
    Exposure,
    /// The mean difficulty of what would be recommended: the share of wrong answers to the item.
    Difficulty,
    /// The share of what would be recommended that is easier than the band.
    Easy,
}

impl Measure {
    pub const ALL: [Self; 11] = [
        Self::BaseRate,
        Self::Auc,
        Self::Brier,
        Self::LogLoss,
        Self::Ece,
        Self::Calibration,
        Self::Selection,
        Self::InBand,
        Self::Exposure,
        Self::Difficulty,
        Self::Easy,
    ];

    /// As it is written in files.
    pub fn name(self) -> &'static str {
        match self {
            Self::BaseRate => "base_rate",
            Self::Auc => "auc",
            Self::Brier => "brier",
            Self::LogLoss => "log_loss",
            Self::Ece => "ece",
            Self::Calibration => "calibration",
            Self::Selection => "selection",
            Self::InBand => "in_band",
            Self::Exposure => "exposure",
            Self::Difficulty => "difficulty",
            Self::Easy => "easy",
        }
    }

    /// Whether the interval is by learner; else it is an approximation from sums over answers.
    pub fn is_clustered(self) -> bool {
        !matches!(self, Self::Auc | Self::Ece)
    }

    /// Where a cell's ratios have it.
    fn ratio(self) -> Option<usize> {
        match self {
            Self::BaseRate => Some(0),
            Self::Calibration => Some(1),
            Self::Brier => Some(2),
            Self::LogLoss => Some(3),
            Self::InBand => Some(4),
            Self::Selection => Some(5),
            _ => None,
        }
    }

    fn exposure(self) -> Option<usize> {
        match self {
            Self::Exposure => Some(0),
            Self::Difficulty => Some(1),
            Self::Easy => Some(2),
            _ => None,
        }
    }

    /// The values that it can have.
    fn range(self) -> (f64, f64) {
        match self {
            Self::Calibration => (-1.0, 1.0),
            Self::LogLoss => (0.0, f64::INFINITY),
            _ => (0.0, 1.0),
        }
    }
}

impl fmt::Display for Measure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A figure with its 95 % interval.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Estimate {
    pub value: f64,
    /// Standard error.
    pub error: f64,
    pub low: f64,
    pub high: f64,
}

impl Estimate {
    fn of(value: f64, error: f64, (least, most): (f64, f64)) -> Self {
        let low = (value - Z * error).max(least);
        let high = (value + Z * error).min(most);
        Self { value, error, low, high }
    }

    /// By how much this exceeds `other`, the two taken for independent.
    pub fn less(&self, other: &Self) -> Self {
        let error = self.error.hypot(other.error);
        Self::of(self.value - other.value, error, (f64::NEG_INFINITY, f64::INFINITY))
    }

    /// Whether chance alone hardly explains a difference: the interval does not hold 0.
    pub fn is_clear(&self) -> bool {
        self.low > 0.0 || self.high < 0.0
    }
}

/// One bin of a calibration curve.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Bin {
    pub answers: f64,
    /// The mean predicted chance.
    pub predicted: f64,
    /// The share of right answers.
    pub observed: f64,
}

/// The figures of one group.
#[derive(Clone, Debug)]
pub struct Figures<'a> {
    cell: &'a Cell,
    /// How many times larger the variance of a mean over answers is than if they were independent.
    design_effect: f64,
}

impl<'a> Figures<'a> {
    pub fn of(cell: &'a Cell) -> Self {
        let mut figures = Self { cell, design_effect: 1.0 };
        figures.design_effect = figures.residual_effect().unwrap_or(1.0).max(1.0);
        figures
    }

    /// None where the group's answers do not give it, such as a curve over right answers alone.
    pub fn measure(&self, measure: Measure) -> Option<Estimate> {
        let (value, variance) = match (measure.ratio(), measure.exposure()) {
            (Some(place), _) => self.ratio(place)?,
            (_, Some(place)) => self.mean_exposure(place)?,
            (None, None) if measure == Measure::Auc => self.auc()?,
            (None, None) => self.ece()?,
        };
        let error = variance.max(0.0).sqrt();
        let sound = value.is_finite() && error.is_finite();
        sound.then(|| Estimate::of(value, error, measure.range()))
    }

    /// The bins that hold answers.
    pub fn calibration(&self) -> Vec<Bin> {
        let bin = |at: usize| {
            let answers = self.cell.right[at] + self.cell.wrong[at];
            let predicted = (middle(at) + self.cell.predicted[at] / answers).clamp(0.0, 1.0);
            (answers >= 0.5).then(|| Bin {
                answers,
                predicted,
                observed: self.cell.right[at] / answers,
            })
        };
        (0..CALIBRATION_BINS).filter_map(bin).collect()
    }

    /// A mean over answers and its variance.
    fn ratio(&self, place: usize) -> Option<(f64, f64)> {
        debug_assert!(place < RATIOS);
        let Cell { learners, answers, answers_squared, sums, squares, products, .. } = self.cell;
        if *answers < 0.5 || *learners < 1.5 {
            return None;
        }
        let ratio = sums[place] / answers;
        let scatter =
            squares[place] - 2.0 * ratio * products[place] + ratio * ratio * answers_squared;
        let variance = scatter.max(0.0) / (answers * answers) * learners / (learners - 1.0);
        Some((ratio, variance))
    }

    /// A mean over exposed learners and its variance.
    fn mean_exposure(&self, place: usize) -> Option<(f64, f64)> {
        debug_assert!(place < EXPOSURES);
        let Cell { exposed, exposures, exposures_squared, .. } = self.cell;
        if *exposed < 1.5 {
            return None;
        }
        let mean = exposures[place] / exposed;
        let scatter = (exposures_squared[place] - exposed * mean * mean).max(0.0);
        Some((mean, scatter / (exposed - 1.0) / exposed))
    }

    fn residual_effect(&self) -> Option<f64> {
        let (bias, clustered) = self.ratio(1)?;
        let brier = self.cell.sums[2] / self.cell.answers;
        let independent = (brier - bias * bias) / self.cell.answers;
        (independent > 0.0).then(|| clustered / independent)
    }

    /// The area under the curve by the Mann-Whitney statistic, and its variance.
    fn auc(&self) -> Option<(f64, f64)> {
        let Cell { right, wrong, .. } = self.cell;
        let (positives, negatives) = (right.iter().sum::<f64>(), wrong.iter().sum::<f64>());
        if positives < 1.5 || negatives < 1.5 {
            return None;
        }
        let (mut below, mut area) = (0.0, 0.0);
        // Of each right answer the share of wrong ones below it, and the other way round, by bin.
        let (mut by_right, mut by_wrong) = ([0.0; CALIBRATION_BINS], [0.0; CALIBRATION_BINS]);
        for bin in 0..CALIBRATION_BINS {
            by_right[bin] = (below + 0.5 * wrong[bin]) / negatives;
            area += right[bin] * by_right[bin];
            below += wrong[bin];
        }
        let auc = area / positives;
        let mut above = 0.0;
        for bin in (0..CALIBRATION_BINS).rev() {
            by_wrong[bin] = (above + 0.5 * right[bin]) / positives;
            above += right[bin];
        }
        let scatter = |counts: &[f64], placed: &[f64]| -> f64 {
            counts.iter().zip(placed).map(|(n, v)| n * (v - auc).powi(2)).sum()
        };
        let variance = scatter(right, &by_right) / (positives - 1.0) / positives
            + scatter(wrong, &by_wrong) / (negatives - 1.0) / negatives;
        Some((auc, variance * self.design_effect))
    }

    /// The error and its variance, to the first order in the observed rates of the bins.
    fn ece(&self) -> Option<(f64, f64)> {
        let bins = self.calibration();
        let answers: f64 = bins.iter().map(|bin| bin.answers).sum();
        if answers < 1.5 {
            return None;
        }
        let off = |bin: &Bin| bin.answers / answers * (bin.predicted - bin.observed).abs();
        let variance = |bin: &Bin| {
            let weight = bin.answers / answers;
            weight * weight * bin.observed * (1.0 - bin.observed) / bin.answers
        };
        let spread: f64 = bins.iter().map(variance).sum();
        Some((bins.iter().map(off).sum(), spread * self.design_effect))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BAND: [f64; 2] = [0.6, 0.8];

    fn cell(learners: &[&[(f64, bool)]]) -> Cell {
        let mut cell = Cell::default();
        learners.iter().for_each(|answers| cell.observe(answers, BAND));
        cell
    }

    fn near(found: f64, expected: f64) {
        assert!((found - expected).abs() < 1e-9, "{found}, not {expected}");
    }

    /// By hand: three learners with 2, 1 and 1 answers, of which 1, 1 and 0 are right.
    #[test]
    fn a_rate_has_the_variance_of_a_ratio() {
        let cell = cell(&[&[(0.5, true), (0.5, false)], &[(0.5, true)], &[(0.5, false)]]);
        let rate = Figures::of(&cell).measure(Measure::BaseRate).unwrap();
        near(rate.value, 0.5);
        // Residuals of the sums: 1 - 0.5 x 2 = 0, 0.5, -0.5; scatter 0.5 over 4^2, times 3/2.
        near(rate.error, (0.5 / 16.0 * 1.5_f64).sqrt());
        near(rate.high, (0.5 + 1.959_963_985 * rate.error).min(1.0));
    }

    #[test]
    fn learners_that_answer_alike_are_one_observation_each() {
        let spread: Vec<Vec<(f64, bool)>> = (0..40).map(|n| vec![(0.5, n % 2 == 0)]).collect();
        let alike: Vec<Vec<(f64, bool)>> = (0..4).map(|n| vec![(0.5, n % 2 == 0); 10]).collect();
        let error = |learners: &[Vec<(f64, bool)>]| {
            let slices: Vec<&[(f64, bool)]> = learners.iter().map(Vec::as_slice).collect();
            let cell = cell(&slices);
            let figures = Figures::of(&cell);
            (figures.measure(Measure::BaseRate).unwrap().error, figures.design_effect)
        };
        let ((single, one), (clustered, ten)) = (error(&spread), error(&alike));
        assert!(clustered > 3.0 * single, "{clustered} {single}");
        assert!(one < 1.1 && ten > 9.0, "{one} {ten}");
    }

    #[test]
    fn the_area_counts_ties_half_and_has_delongs_variance() {
        let cell = cell(&[&[(0.9, true), (0.4, true)], &[(0.4, false), (0.1, false)]]);
        let figures = Figures { cell: &cell, design_effect: 1.0 };
        let (auc, variance) = figures.auc().unwrap();
        near(auc, 0.875);
        // Placements 1, 0.75 of the right answers and 0.75, 1 of the wrong ones: variance 1/32 each.
        near(variance, 1.0 / 32.0 / 2.0 * 2.0);
        let one_sided = self::cell(&[&[(0.9, true)], &[(0.8, true)]]);
        assert_eq!(Figures::of(&one_sided).measure(Measure::Auc), None);
    }

    #[test]
    fn calibration_is_predicted_less_observed() {
        let sure: Vec<(f64, bool)> = (0..50).map(|n| (0.9, n % 5 != 0)).collect();
        let cell = cell(&[&sure, &sure]);
        let figures = Figures::of(&cell);
        let value = |measure| figures.measure(measure).unwrap().value;
        near(value(Measure::Calibration), 0.1);
        near(value(Measure::Ece), 0.1);
        near(value(Measure::Brier), 0.8 * 0.01 + 0.2 * 0.81);
        near(value(Measure::Selection), 1.0);
        near(value(Measure::InBand), 0.0);
        assert_eq!(figures.calibration().len(), 1);
    }

    #[test]
    fn what_would_be_recommended_is_a_mean_over_learners() {
        let mut cell = Cell::default();
        cell.expose([0.6, 0.3, 0.0]);
        assert_eq!(Figures::of(&cell).measure(Measure::Exposure), None, "no interval from one");
        cell.expose([0.8, 0.5, 1.0]);
        let figures = Figures::of(&cell);
        let exposure = figures.measure(Measure::Exposure).unwrap();
        near(exposure.value, 0.7);
        near(exposure.error, (0.02_f64 / 2.0).sqrt());
        near(figures.measure(Measure::Easy).unwrap().value, 0.5);
    }

    #[test]
    fn an_empty_group_has_no_figures() {
        let cell = Cell::default();
        let figures = Figures::of(&cell);
        assert!(Measure::ALL.iter().all(|measure| figures.measure(*measure).is_none()));
    }

    #[test]
    fn differences_add_their_variances() {
        let estimate = |value| Estimate::of(value, 0.03, (0.0, 1.0));
        let gap = estimate(0.5).less(&estimate(0.6));
        near(gap.value, -0.1);
        near(gap.error, 0.03 * 2_f64.sqrt());
        assert!(gap.is_clear() && !estimate(0.5).less(&estimate(0.52)).is_clear());
    }

    /// Intervals of drawn groups hold the true value about as often as they should.
    #[test]
    fn intervals_hold_what_they_promise() {
        let mut state = 7_u64;
        let mut unit = || {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            f64::from(u32::try_from(state >> 32).unwrap()) / 4_294_967_296.0
        };
        let mut held = 0;
        for _ in 0..400 {
            let mut cell = Cell::default();
            for _ in 0..60 {
                let ability = 0.3 + 0.4 * unit();
                let answers: Vec<_> = (0..12).map(|_| (0.5, unit() < ability)).collect();
                cell.observe(&answers, BAND);
            }
            let rate = Figures::of(&cell).measure(Measure::BaseRate).unwrap();
            held += u32::from(rate.low <= 0.5 && 0.5 <= rate.high);
        }
        assert!((366..=394).contains(&held), "{held} of 400, 380 expected");
    }
}
