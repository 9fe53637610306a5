//! Fits a logistic regression to convergence on one machine: the yardstick that a federated model
//! is compared with. Damped Newton with an exact Hessian in f64; takes no part in any round.

use collegium_shared::architecture::DENSE;

use super::{
    ModelError,
    features::{Design, sigmoid},
};

const MAX_STEPS: u32 = 100;
const MAX_HALVINGS: u32 = 40;
/// Newton decrement, relative to the objective, below which the fit has converged.
const TOLERANCE: f64 = 1e-10;

/// The minimum of the log loss + 1/2 sum ridge_j w_j^2 over `design`, from `start`. All of `ridge`
/// must be above 0: that makes the minimum unique.
pub fn fit_to_convergence(
    design: &Design,
    start: &[f64],
    ridge: &[f64],
) -> Result<Vec<f64>, ModelError> {
    fit_near(design, start, &vec![0.0; start.len()], ridge)
}

/// How strongly a personal copy is pulled to the global model: the bias, the other dense weights, and
/// the competencies' weights.
const PULL: [f64; 3] = [10.0, 100.0, 50.0];

/// An institution's own copy of the `global` weights: the maximum a posteriori under a Gaussian prior
/// around them, over its own answers. It never leaves.
pub fn personal_copy(design: &Design, global: &[f64]) -> Result<Vec<f64>, ModelError> {
    let [bias, dense, skill] = PULL;
    let pull = |j: usize| match j {
        0 => bias,
        _ if j < DENSE.len() => dense,
        _ => skill,
    };
    let pull: Vec<f64> = (0..design.parameters()).map(pull).collect();
    fit_near(design, global, global, &pull)
}

/// The minimum of the log loss + 1/2 sum ridge_j (w_j - centre_j)^2 over `design`.
fn fit_near(
    design: &Design,
    start: &[f64],
    centre: &[f64],
    ridge: &[f64],
) -> Result<Vec<f64>, ModelError> {
    let prior = Prior { centre, ridge };
    let expected = design.parameters();
    for (what, values) in [
        ("the start of a fit", start),
        ("the centre of a fit", centre),
        ("the ridge of a fit", ridge),
    ] {
        if values.len() != expected {
            return Err(ModelError::WrongLength { what, found: values.len(), expected });
        }
    }
    let mut weights = start.to_vec();
    let mut value = prior.objective(design, &weights);
    for _ in 0..MAX_STEPS {
        let (gradient, mut hessian) = prior.derivatives(design, &weights);
        let step = hessian
            .solve(&gradient)
            .ok_or(ModelError::NotFinite { what: "the curvature of the fit" })?;
        let decrement: f64 = gradient.iter().zip(&step).map(|(g, s)| g * s).sum();
        if decrement <= TOLERANCE * (1.0 + value) {
            return super::finite("the fitted model", weights);
        }
        match prior.shorten(design, &weights, &step, value, decrement) {
            Some((next, lower)) => (weights, value) = (next, lower),
            // No shorter step is lower: rounding is all that is left.
            None => return super::finite("the fitted model", weights),
        }
    }
    Err(ModelError::NotConverged(MAX_STEPS))
}

/// The pull on each weight.
struct Prior<'a> {
    centre: &'a [f64],
    ridge: &'a [f64],
}

impl Prior<'_> {
    /// Halves the Newton step until the objective falls enough (Armijo's rule).
    fn shorten(
        &self,
        design: &Design,
        weights: &[f64],
        step: &[f64],
        value: f64,
        decrement: f64,
    ) -> Option<(Vec<f64>, f64)> {
        let mut length = 1.0;
        for _ in 0..MAX_HALVINGS {
            let next: Vec<_> = weights.iter().zip(step).map(|(w, s)| w - length * s).collect();
            let lower = self.objective(design, &next);
            if lower <= value - 1e-4 * length * decrement {
                return Some((next, lower));
            }
            length *= 0.5;
        }
        None
    }

    /// The penalised log loss of all rows, in nats.
    fn objective(&self, design: &Design, weights: &[f64]) -> f64 {
        let away = weights.iter().zip(self.centre).zip(self.ridge);
        let penalty: f64 = away.map(|((w, c), r)| 0.5 * r * (w - c) * (w - c)).sum();
        let loss: f64 = design.rows().map(|row| log_loss(row.logit(weights), row.correct)).sum();
        loss + penalty
    }

    fn derivatives(&self, design: &Design, weights: &[f64]) -> (Vec<f64>, Symmetric) {
        let away = weights.iter().zip(self.centre).zip(self.ridge);
        let mut gradient: Vec<_> = away.map(|((w, c), r)| (w - c) * r).collect();
        let mut hessian = Symmetric::diagonal(self.ridge);
        let mut values = Vec::new();
        for row in design.rows() {
            values.clear();
            values.extend(row.values().filter(|(_, x)| *x != 0.0));
            let p = sigmoid(row.logit(weights));
            let residual = p - f64::from(u8::from(row.correct));
            for &(j, x) in &values {
                gradient[j] += residual * x;
                hessian.add_row(j, p * (1.0 - p) * x, &values);
            }
        }
        (gradient, hessian)
    }
}

/// -ln of the probability that logit `z` gives to the outcome, without overflow.
fn log_loss(z: f64, correct: bool) -> f64 {
    let against = if correct { -z } else { z };
    against.max(0.0) + (-against.abs()).exp().ln_1p()
}

/// The lower triangle of a symmetric matrix, by rows.
struct Symmetric {
    size: usize,
    values: Vec<f64>,
}

impl Symmetric {
    fn diagonal(values: &[f64]) -> Self {
        let size = values.len();
        let mut matrix = Self { size, values: vec![0.0; size * size] };
        values.iter().enumerate().for_each(|(j, v)| matrix.values[j * size + j] = *v);
        matrix
    }

    /// Adds `scale` x values to row `j`, up to the diagonal.
    fn add_row(&mut self, j: usize, scale: f64, values: &[(usize, f64)]) {
        let row = &mut self.values[j * self.size..][..=j];
        values.iter().filter(|(k, _)| *k <= j).for_each(|&(k, x)| row[k] += scale * x);
    }

    /// Solves A x = b by Cholesky's factorisation in place; `None` if A is not positive definite.
    fn solve(&mut self, b: &[f64]) -> Option<Vec<f64>> {
        self.factorise()?;
        let (n, l) = (self.size, &self.values);
        let mut x = b.to_vec();
        for i in 0..n {
            let known: f64 = (0..i).map(|k| l[i * n + k] * x[k]).sum();
            x[i] = (x[i] - known) / l[i * n + i];
        }
        for i in (0..n).rev() {
            let known: f64 = (i + 1..n).map(|k| l[k * n + i] * x[k]).sum();
            x[i] = (x[i] - known) / l[i * n + i];
        }
        x.iter().all(|v| v.is_finite()).then_some(x)
    }

    fn factorise(&mut self) -> Option<()> {
        let n = self.size;
        for i in 0..n {
            let (before, row) = self.values.split_at_mut(i * n);
            for j in 0..i {
                let other = &before[j * n..][..=j];
                let known: f64 = row[..j].iter().zip(other).map(|(a, b)| a * b).sum();
                row[j] = (row[j] - known) / other[j];
            }
            let pivot = row[i] - row[..i].iter().map(|a| a * a).sum::<f64>();
            if pivot.is_nan() || pivot <= 0.0 {
                return None;
            }
            row[i] = pivot.sqrt();
        }
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::features::{Statistics, tests::*, training_counts};

    #[test]
    fn systems_are_solved() {
        let mut matrix = Symmetric { size: 2, values: vec![4.0, 0.0, 2.0, 3.0] };
        assert_close(&matrix.solve(&[10.0, 8.0]).unwrap(), &[1.75, 1.5], 1e-12);
        let mut indefinite = Symmetric { size: 2, values: vec![1.0, 0.0, 2.0, 1.0] };
        assert!(indefinite.solve(&[1.0, 1.0]).is_none());
    }

    #[test]
    fn the_fit_reaches_the_optimum_of_the_specification() {
        let learners = synthetic();
        let own = training_counts(&learners);
        let statistics = Statistics::new(&own, &own);
        let training = learners.iter().filter(|l| !l.held_out);
        let design = Design::new(training, &statistics, &synthetic_competencies());
        let mut ridge = vec![0.01; 17];
        ridge.resize(26, 1.0);
        let fitted = fit_to_convergence(&design, &[0.0; 26], &ridge).unwrap();
        // The specification stops at 19.727879; the exact minimum is not above it.
        let prior = Prior { centre: &[0.0; 26], ridge: &ridge };
        let reached = prior.objective(&design, &fitted);
        assert!((19.7..=19.72788).contains(&reached), "{reached}");
        let (gradient, _) = prior.derivatives(&design, &fitted);
        assert!(gradient.iter().all(|g| g.abs() < 1e-3), "{gradient:?}");
        assert!(fit_to_convergence(&design, &[0.0; 3], &ridge).is_err());

        let global: Vec<f64> = (0..26).map(|j| if j < 6 { 0.3 } else { 0.0 }).collect();
        let copy = personal_copy(&design, &global).unwrap();
        let none = Design::new([], &statistics, &synthetic_competencies());
        assert_eq!(personal_copy(&none, &global).unwrap(), global, "nothing to learn from");
        let distance = |to: &[f64]| copy.iter().zip(to).map(|(a, b)| (a - b).abs()).sum::<f64>();
        assert!(distance(&global) > 0.01 && distance(&global) < distance(&fitted));
    }
}
