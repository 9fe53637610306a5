//! Fits logistic regressions to convergence on one machine: the institution alone, its personal copy of
//! a federated model, and the yardstick of all records in one place. Damped Newton with an exact Hessian
//! in f64; takes no part in any round.

mod symmetric;

use symmetric::Symmetric;

use super::{
    Effort, ModelError,
    features::{Row, sigmoid},
};

const MAX_STEPS: u32 = 100;
const MAX_HALVINGS: u32 = 40;
/// Newton decrement, relative to the objective, below which the fit has converged.
const TOLERANCE: f64 = 1e-10;

/// An answer to fit to, and which item bias it has, if any.
#[derive(Clone, Copy, Debug)]
pub struct Answer<'a> {
    pub row: Row<'a>,
    pub item: Option<u32>,
}

/// Where parameters are believed to be before any answer: Gaussian, each on its own. The item biases are
/// believed to be 0.
#[derive(Clone, Copy, Debug)]
pub struct Prior<'a> {
    /// One for each weight.
    pub centre: &'a [f64],
    /// The precision of each weight, above 0.
    pub precision: &'a [f64],
    /// How many item biases there are.
    pub items: usize,
    /// Their precision, above 0.
    pub item_precision: f64,
}

impl<'a> Prior<'a> {
    /// No item biases, and weights around 0: a ridge.
    pub fn ridge(zeros: &'a [f64], precision: &'a [f64]) -> Self {
        Self { centre: zeros, precision, items: 0, item_precision: 1.0 }
    }
}

/// The parameters of a fit, or a step between two.
#[derive(Clone, Debug, PartialEq)]
pub struct Point {
    pub weights: Vec<f64>,
    /// One for each item.
    pub items: Vec<f64>,
}

/// The minimum of the log loss of `answers` + 1/2 sum precision_j (w_j - centre_j)^2, item biases
/// included: the maximum a posteriori. Unique, because every precision is above 0.
pub fn fit(
    answers: &[Answer<'_>],
    start: &[f64],
    prior: &Prior<'_>,
    effort: &Effort,
) -> Result<Point, ModelError> {
    let expected = prior.centre.len();
    for (what, found) in
        [("the start of a fit", start.len()), ("the prior of a fit", prior.precision.len())]
    {
        if found != expected {
            return Err(ModelError::WrongLength { what, found, expected });
        }
    }
    let problem = Problem::new(answers, prior);
    let mut at = Point { weights: start.to_vec(), items: vec![0.0; prior.items] };
    let mut value = problem.objective(&at);
    for _ in 0..MAX_STEPS {
        effort.step()?;
        let (step, decrement) =
            problem.step(&at).ok_or(ModelError::NotFinite { what: "the curvature of the fit" })?;
        if decrement <= TOLERANCE * (1.0 + value) {
            return finite(at);
        }
        match problem.shorten(&at, &step, value, decrement) {
            Some((next, lower)) => (at, value) = (next, lower),
            // No shorter step is lower: rounding is all that is left.
            None => return finite(at),
        }
    }
    Err(ModelError::NotConverged(MAX_STEPS))
}

fn finite(Point { weights, items }: Point) -> Result<Point, ModelError> {
    let what = "the fitted model";
    Ok(Point { weights: super::finite(what, weights)?, items: super::finite(what, items)? })
}

struct Problem<'a> {
    answers: &'a [Answer<'a>],
    prior: &'a Prior<'a>,
    /// The positions of `answers`, those of one item next to each other; first those of none.
    by_item: Vec<usize>,
}

impl<'a> Problem<'a> {
    fn new(answers: &'a [Answer<'a>], prior: &'a Prior<'a>) -> Self {
        let mut by_item: Vec<usize> = (0..answers.len()).collect();
        by_item.sort_by_key(|place| answers[*place].item);
        Self { answers, prior, by_item }
    }

    /// The penalised log loss of all answers, in nats.
    fn objective(&self, at: &Point) -> f64 {
        let Prior { centre, precision, item_precision, .. } = *self.prior;
        let away = at.weights.iter().zip(centre).zip(precision);
        let weights: f64 = away.map(|((w, c), r)| 0.5 * r * (w - c) * (w - c)).sum();
        let items: f64 = at.items.iter().map(|b| 0.5 * item_precision * b * b).sum();
        let loss = |answer: &Answer<'_>| log_loss(at.logit(answer), answer.row.correct);
        self.answers.iter().map(loss).sum::<f64>() + weights + items
    }

    /// The Newton step, to be subtracted, and the decrement g' H^-1 g. The items' part of the Hessian is
    /// diagonal: it is eliminated item by item (its Schur complement), so that the system to be solved
    /// has the weights only.
    fn step(&self, at: &Point) -> Option<(Point, f64)> {
        let Prior { centre, precision, .. } = *self.prior;
        let away = at.weights.iter().zip(centre).zip(precision);
        let mut gradient: Vec<f64> = away.map(|((w, c), r)| (w - c) * r).collect();
        let mut hessian = Symmetric::diagonal(precision);
        let mut items = Vec::with_capacity(at.items.len());
        let mut cross = Cross::new(gradient.len());
        let alike = |a: &usize, b: &usize| self.answers[*a].item == self.answers[*b].item;
        for group in self.by_item.chunk_by(alike) {
            let of_item = self.group(group, at, &mut gradient, &mut hessian, &mut cross);
            items.extend(of_item);
        }
        let mut reduced = gradient.clone();
        for item in &items {
            let share = item.gradient / item.curvature;
            for (place, &(j, x)) in item.cross.iter().enumerate() {
                reduced[j] -= share * x;
                hessian.add_row(j, -x / item.curvature, &item.cross[..=place]);
            }
        }
        let weights = hessian.solve(&reduced)?;
        let mut decrement: f64 = gradient.iter().zip(&weights).map(|(g, s)| g * s).sum();
        let mut biases = vec![0.0; at.items.len()];
        for item in &items {
            let known: f64 = item.cross.iter().map(|(j, x)| weights[*j] * x).sum();
            let step = (item.gradient - known) / item.curvature;
            biases[item.index] = step;
            decrement += item.gradient * step;
        }
        Some((Point { weights, items: biases }, decrement))
    }

    /// Adds the derivatives of the answers to one item to those by the weights; returns those by its bias.
    fn group(
        &self,
        group: &[usize],
        at: &Point,
        gradient: &mut [f64],
        hessian: &mut Symmetric,
        cross: &mut Cross,
    ) -> Option<OfItem> {
        let (mut own, mut curvature) = (0.0, self.prior.item_precision);
        let mut values = Vec::new();
        for place in group {
            let answer = &self.answers[*place];
            values.clear();
            values.extend(answer.row.values().filter(|(_, x)| *x != 0.0));
            let p = sigmoid(at.logit(answer));
            let residual = p - f64::from(u8::from(answer.row.correct));
            let spread = p * (1.0 - p);
            for &(j, x) in &values {
                gradient[j] += residual * x;
                hessian.add_row(j, spread * x, &values);
                cross.add(j, spread * x);
            }
            own += residual;
            curvature += spread;
        }
        let cross = cross.take();
        let index = self.answers[*group.first()?].item? as usize;
        let gradient = own + self.prior.item_precision * at.items[index];
        Some(OfItem { index, gradient, curvature, cross })
    }

    /// Halves the Newton step until the objective falls enough (Armijo's rule).
    fn shorten(
        &self,
        at: &Point,
        step: &Point,
        value: f64,
        decrement: f64,
    ) -> Option<(Point, f64)> {
        let mut length = 1.0;
        for _ in 0..MAX_HALVINGS {
            let less = |from: &[f64], step: &[f64]| -> Vec<f64> {
                from.iter().zip(step).map(|(w, s)| w - length * s).collect()
            };
            let next = Point {
                weights: less(&at.weights, &step.weights),
                items: less(&at.items, &step.items),
            };
            let lower = self.objective(&next);
            if lower <= value - 1e-4 * length * decrement {
                return Some((next, lower));
            }
            length *= 0.5;
        }
        None
    }
}

impl Point {
    fn logit(&self, answer: &Answer<'_>) -> f64 {
        let bias = answer.item.map_or(0.0, |item| self.items[item as usize]);
        answer.row.logit(&self.weights) + bias
    }
}

/// The derivatives by one item's bias.
struct OfItem {
    index: usize,
    gradient: f64,
    curvature: f64,
    /// The mixed second derivatives that are not 0, by weight in rising order.
    cross: Vec<(usize, f64)>,
}

/// Sums of a few of many values.
struct Cross {
    values: Vec<f64>,
    touched: Vec<usize>,
}

impl Cross {
    fn new(len: usize) -> Self {
        Self { values: vec![0.0; len], touched: Vec::new() }
    }

    fn add(&mut self, j: usize, x: f64) {
        if self.values[j] == 0.0 {
            self.touched.push(j);
        }
        self.values[j] += x;
    }

    /// What was added since the last time, each place once.
    fn take(&mut self) -> Vec<(usize, f64)> {
        self.touched.sort_unstable();
        let taken = self.touched.drain(..).map(|j| (j, std::mem::take(&mut self.values[j])));
        taken.filter(|(_, x)| *x != 0.0).collect()
    }
}

/// -ln of the probability that logit `z` gives to the outcome, without overflow.
pub(super) fn log_loss(z: f64, correct: bool) -> f64 {
    let against = if correct { -z } else { z };
    against.max(0.0) + (-against.abs()).exp().ln_1p()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::model::features::{Design, Statistics, tests::*, training_counts};

    fn free() -> Effort {
        Effort::new(Arc::default(), 100)
    }

    fn design() -> Design {
        let learners = synthetic();
        let own = training_counts(&learners);
        let statistics = Statistics::new(&own, &own);
        let training = learners.iter().filter(|l| !l.held_out);
        Design::new(training, &statistics, &synthetic_competencies())
    }

    fn without_items(design: &Design) -> Vec<Answer<'_>> {
        design.rows().map(|row| Answer { row, item: None }).collect()
    }

    #[test]
    fn the_fit_reaches_the_optimum_of_the_specification() {
        let design = design();
        let answers = without_items(&design);
        let mut ridge = vec![0.01; 17];
        ridge.resize(26, 1.0);
        let prior = Prior::ridge(&[0.0; 26], &ridge);
        let fitted = fit(&answers, &[0.0; 26], &prior, &free()).unwrap();
        // The specification stops at 19.727879; the exact minimum is not above it.
        let problem = Problem::new(&answers, &prior);
        let reached = problem.objective(&fitted);
        assert!((19.7..=19.72788).contains(&reached), "{reached}");
        let (step, decrement) = problem.step(&fitted).unwrap();
        assert!(decrement < 1e-8 && step.weights.iter().all(|s| s.abs() < 1e-3), "{step:?}");
        assert!(fit(&answers, &[0.0; 3], &prior, &free()).is_err());
        let cancelled = Effort::new(Arc::new(true.into()), 100);
        let stopped = fit(&answers, &[0.0; 26], &prior, &cancelled);
        assert!(matches!(stopped, Err(ModelError::Cancelled)));
    }

    /// Item biases are no more than weights of indicator features: the same problem written out as a
    /// dense Newton system has the same step.
    #[test]
    fn item_biases_are_eliminated_exactly() {
        let design = design();
        let items = 4_u32;
        let number = |n: usize| u32::try_from(n).unwrap();
        let of = |n: usize| (number(n) % 5 < items).then(|| number(n) % 5);
        let answers: Vec<_> =
            design.rows().enumerate().map(|(n, row)| Answer { row, item: of(n) }).collect();
        let (centre, precision) = (vec![0.1; 26], vec![3.0; 26]);
        let prior = Prior { centre: &centre, precision: &precision, items: 4, item_precision: 5.0 };
        let at = Point { weights: vec![0.05; 26], items: vec![0.3, -0.2, 0.1, 0.0] };
        let (step, decrement) = Problem::new(&answers, &prior).step(&at).unwrap();

        let mut all = vec![3.0; 26];
        all.resize(30, 5.0);
        let mut hessian = Symmetric::diagonal(&all);
        let mut gradient: Vec<f64> = at.weights.iter().map(|w| 3.0 * (w - 0.1)).collect();
        gradient.extend(at.items.iter().map(|b| 5.0 * b));
        for answer in &answers {
            let mut values: Vec<_> = answer.row.values().collect();
            values.extend(answer.item.map(|item| (26 + item as usize, 1.0)));
            let p = sigmoid(at.logit(answer));
            for &(j, x) in &values {
                gradient[j] += (p - f64::from(u8::from(answer.row.correct))) * x;
                hessian.add_row(j, p * (1.0 - p) * x, &values);
            }
        }
        let whole = hessian.solve(&gradient).unwrap();
        assert_close(&step.weights, &whole[..26], 1e-9);
        assert_close(&step.items, &whole[26..], 1e-9);
        let expected: f64 = whole.iter().zip(&gradient).map(|(s, g)| s * g).sum();
        assert!((decrement - expected).abs() < 1e-9, "{decrement} {expected}");
        let fitted = fit(&answers, &centre, &prior, &free()).unwrap();
        assert!(fitted.items.iter().any(|b| b.abs() > 0.01), "{fitted:?}");
    }
}
