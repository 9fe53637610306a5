//! Trains `kt-logistic/1` at one institution: the gradient, in one pass over the answers (ADR 41), and the move
//! that an institution contributes to a round. The answers are held here and never leave; only moves do.

use collegium_shared::architecture::{DENSE, Hyper, Local, Optimizer, Totals};

use super::{
    Effort, ModelError,
    features::{Design, sigmoid},
    finite, single,
};

/// Answers whose parts of a gradient are added in single precision before they join the whole.
const CHUNK: usize = 1_024;

const WIDTH: usize = DENSE.len();

/// An institution's training answers, ready to be differentiated.
#[derive(Debug)]
pub struct Dataset {
    dense: Vec<[f32; WIDTH]>,
    /// The competency terms of all answers: positions among the competency parameters, and values.
    terms: Vec<(usize, f64)>,
    /// For each answer, the end of its run in `terms`.
    ends: Vec<usize>,
    right: Vec<bool>,
    parameters: usize,
    curvature: Vec<f64>,
}

impl Dataset {
    /// `base` is the shared base rate, for the curvature.
    pub fn new(design: &Design, base: f64) -> Self {
        let mut dataset = Self {
            dense: Vec::with_capacity(design.len()),
            terms: Vec::new(),
            ends: Vec::with_capacity(design.len()),
            right: Vec::with_capacity(design.len()),
            parameters: design.parameters(),
            curvature: design.curvature(base),
        };
        for row in design.rows() {
            dataset.dense.push(row.dense.map(single));
            let terms = row.values().skip(WIDTH).map(|(j, x)| (j - WIDTH, x));
            dataset.terms.extend(terms);
            dataset.ends.push(dataset.terms.len());
            dataset.right.push(row.correct);
        }
        dataset
    }

    /// Training answers.
    pub fn len(&self) -> usize {
        self.right.len()
    }

    pub fn is_empty(&self) -> bool {
        self.right.is_empty()
    }

    /// The curvature bound of each parameter (see [`Design::curvature`]).
    pub fn curvature(&self) -> &[f64] {
        &self.curvature
    }

    /// The gradient of the summed log loss at `weights`: X' (sigmoid(X w) - y).
    pub fn gradient(&self, weights: &[f64]) -> Result<Vec<f64>, ModelError> {
        self.check("the model", weights.len())?;
        let mut gradient = vec![0.0; self.parameters];
        let (dense, skills) = weights.split_at(WIDTH);
        let (by_dense, by_skills) = gradient.split_at_mut(WIDTH);
        let mut own = [0.0_f32; WIDTH];
        own.iter_mut().zip(dense).for_each(|(own, weight)| *own = single(*weight));
        let mut start = 0;
        let answers = self.ends.chunks(CHUNK).zip(self.right.chunks(CHUNK));
        for (rows, (ends, right)) in self.dense.chunks(CHUNK).zip(answers) {
            let mut part = [0.0_f32; WIDTH];
            for ((row, end), right) in rows.iter().zip(ends).zip(right) {
                let terms = &self.terms[start..*end];
                start = *end;
                let skilled: f64 = terms.iter().map(|(j, x)| skills[*j] * x).sum();
                let residual =
                    sigmoid(f64::from(dot(row, &own)) + skilled) - f64::from(u8::from(*right));
                terms.iter().for_each(|(j, x)| by_skills[*j] += residual * x);
                let residual = single(residual);
                part.iter_mut().zip(row).for_each(|(sum, x)| *sum += residual * x);
            }
            by_dense.iter_mut().zip(part).for_each(|(sum, part)| *sum += f64::from(part));
        }
        finite("the gradient", gradient)
    }

    /// The move that this institution contributes to one round from `weights`: already weighted
    /// and divided by the fixed totals, so that the server only adds. Deterministic.
    ///
    /// [`Local`] has the steps and the weights, over the local loss plus the local share n/N of the ridge.
    /// Clipped to the optimiser's bounds ([`Optimizer::clip`]).
    pub fn contribution(
        &self,
        weights: &[f64],
        totals: &Totals,
        hyper: &Hyper,
        effort: &Effort,
    ) -> Result<Vec<f64>, ModelError> {
        self.check("the model", weights.len())?;
        self.check("the total curvature", totals.curvature.len())?;
        if self.is_empty() {
            return Ok(vec![0.0; self.parameters]);
        }
        let rows = self.len() as f64;
        // An institution that the totals do not count would otherwise weigh more than all.
        let share = rows / totals.examples.max(rows);
        let ridge = hyper.ridge((self.parameters - DENSE.len()) / 3);
        let Optimizer { local: rule, local_steps, .. } = hyper.optimizer;
        let (scale, proximal): (Vec<f64>, f64) = match rule {
            Local::Curvature => {
                let steps = self.curvature.iter().zip(&ridge);
                (steps.map(|(h, r)| 1.0 / (h + share * r)).collect(), 0.0)
            }
            Local::Gradient { learning_rate, proximal } => {
                (vec![learning_rate / rows; ridge.len()], proximal * rows)
            }
            Local::Adam { .. } => {
                return Err(ModelError::Settings("local-adam is for neural networks"));
            }
        };
        let mut local = weights.to_vec();
        for _ in 0..local_steps {
            effort.step()?;
            let gradient = self.gradient(&local)?;
            for (j, w) in local.iter_mut().enumerate() {
                let pull = share * ridge[j] * *w + proximal * (*w - weights[j]);
                *w -= (gradient[j] + pull) * scale[j];
            }
        }
        let weigh = |j: usize| match rule {
            // The published total is rounded: one that vanished moves nothing, and no institution
            // weighs more than all.
            Local::Curvature if totals.curvature[j] > 0.0 => {
                let own = self.curvature[j];
                own / (totals.curvature[j].max(own) + ridge[j])
            }
            Local::Curvature => 0.0,
            Local::Gradient { .. } | Local::Adam { .. } => share,
        };
        let delta = local.iter().zip(weights).map(|(after, before)| after - before).enumerate();
        let moves = delta.map(|(j, d)| weigh(j) * d);
        let mut moves = finite("the update", moves.collect())?;
        hyper.optimizer.clip(&mut moves);
        Ok(moves)
    }

    fn check(&self, what: &'static str, found: usize) -> Result<(), ModelError> {
        if found == self.parameters {
            Ok(())
        } else {
            Err(ModelError::WrongLength { what, found, expected: self.parameters })
        }
    }
}

/// In four sums side by side, which a processor adds at once.
fn dot(row: &[f32; WIDTH], weights: &[f32; WIDTH]) -> f32 {
    let mut sums = [0.0_f32; 4];
    let (rows, rest) = row.as_chunks::<4>();
    let (others, last) = weights.as_chunks::<4>();
    for (four, with) in rows.iter().zip(others) {
        for lane in 0..4 {
            sums[lane] += four[lane] * with[lane];
        }
    }
    let rest: f32 = rest.iter().zip(last).map(|(x, w)| x * w).sum();
    sums.iter().sum::<f32>() + rest
}

/// The probability of a right answer for each row of `design`, in [0, 1].
pub fn predict(design: &Design, weights: &[f64]) -> Vec<f64> {
    design.rows().map(|row| sigmoid(row.logit(weights))).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use burn::tensor::{Device, Tensor, TensorData, activation::log_sigmoid};
    use collegium_shared::architecture::Server;

    use super::*;
    use crate::model::features::{Statistics, tests::*, training_counts};

    const GRADIENT: [f64; 26] = [
        -1.2131348367579053,
        -0.4371098024047919,
        -4.764832207440589,
        0.9627663323514724,
        0.7503980207964078,
        -0.37634201076660245,
        2.3896340595482832,
        3.571468253146318,
        1.4112616212839646,
        1.5622260057855135,
        -0.15425664797464014,
        -0.21540188382307995,
        -0.25030548264260377,
        -0.2653093501160301,
        -3.5637094171622774,
        0.002183252547153139,
        0.999891036387772,
        -0.5812630082076226,
        0.7239454369339925,
        0.2740255740390414,
        0.4781744027653787,
        2.323410862405607,
        0.7283319990866345,
        -2.3048506098663086,
        0.20878984628998493,
        -2.1295245224269856,
    ];
    const MOVE: [f64; 26] = [
        0.008454050373351674,
        -0.0018091865554026219,
        0.04191735574021269,
        -0.10124113315217868,
        -0.24461210354341228,
        0.13704172979693036,
        -0.08273969298218754,
        -0.13178853773330634,
        -0.08538232236912292,
        -0.10676127426988533,
        -0.0024591930290058534,
        -0.00024728963815912454,
        0.012147977662167776,
        0.03130657265333948,
        0.026930413085315987,
        0.012121913312403549,
        -0.06456318837717367,
        0.006642366500206894,
        -0.022485664511987226,
        -0.025286562823307025,
        -0.00609615553542622,
        -0.07223043736830007,
        -0.06084603876101839,
        0.032210969989096214,
        -0.020202135352938848,
        0.0699507376574033,
    ];

    fn fixture() -> (Design, Dataset) {
        let learners = synthetic();
        let own = training_counts(&learners);
        let statistics = Statistics::new(&own, &own);
        let training = learners.iter().filter(|l| !l.held_out);
        let design = Design::new(training, &statistics, &synthetic_competencies());
        let dataset = Dataset::new(&design, statistics.base());
        (design, dataset)
    }

    fn start() -> Vec<f64> {
        let mut weights = vec![0.0; 26];
        (weights[6], weights[7]) = (1.0, 1.0);
        weights
    }

    fn totals(dataset: &Dataset) -> Totals {
        let curvature = dataset.curvature().iter().map(|h| h * 2.5).collect();
        Totals { examples: 48.0 / 0.4, curvature }
    }

    /// X' (sigmoid(X w) - y), by hand.
    fn analytic(design: &Design, weights: &[f64]) -> Vec<f64> {
        let mut gradient = vec![0.0; weights.len()];
        for row in design.rows() {
            let residual = sigmoid(row.logit(weights)) - f64::from(u8::from(row.correct));
            row.values().for_each(|(j, x)| gradient[j] += residual * x);
        }
        gradient
    }

    /// The same by the tensor library's automatic differentiation.
    fn automatic(design: &Design, weights: &[f64]) -> Vec<f64> {
        let device = Device::flex().autodiff();
        let (rows, parameters) = (design.len(), weights.len());
        let (mut inputs, mut wrong) = (vec![0.0; rows * parameters], Vec::new());
        for (number, row) in design.rows().enumerate() {
            row.values().for_each(|(j, x)| inputs[number * parameters + j] += x);
            wrong.push(f64::from(u8::from(!row.correct)));
        }
        let matrix = |values, columns| {
            Tensor::<2>::from_floats(TensorData::new(values, [rows, columns]), &device)
        };
        let leaf = TensorData::new(weights.to_vec(), [parameters, 1]);
        let leaf = Tensor::<2>::from_floats(leaf, &device).require_grad();
        let logits = matrix(inputs, parameters).matmul(leaf.clone());
        // -ln p(outcome) = (1 - y) z - ln sigmoid(z)
        let loss = (matrix(wrong, 1) * logits.clone() - log_sigmoid(logits)).sum();
        leaf.grad_remove(&mut loss.backward()).unwrap().try_into_vec_as::<f64>().unwrap()
    }

    #[test]
    fn gradients_equal_automatic_and_analytic_ones() {
        let (design, dataset) = fixture();
        assert_close(&dataset.gradient(&start()).unwrap(), &GRADIENT, 1e-5);
        let uneven: Vec<_> = (0..26_i32).map(|j| f64::from((j * 7) % 5 - 2) * 0.3).collect();
        assert_close(&dataset.gradient(&uneven).unwrap(), &analytic(&design, &uneven), 1e-5);
        assert_close(&dataset.gradient(&uneven).unwrap(), &automatic(&design, &uneven), 1e-4);
        assert_close(&dataset.gradient(&[0.0; 26]).unwrap(), &analytic(&design, &[0.0; 26]), 1e-5);
    }

    #[test]
    fn gradients_add_over_chunks_and_do_not_overflow() {
        let (one, _) = fixture();
        let mut many = Design::new(
            [],
            &Statistics::new(&Default::default(), &Default::default()),
            &synthetic_competencies(),
        );
        for _ in 0..200 {
            many.append(&one);
        }
        let dataset = Dataset::new(&many, 0.5);
        assert_eq!(dataset.len(), 9_600);
        let expected: Vec<_> = GRADIENT.iter().map(|g| g * 200.0).collect();
        assert_close(&dataset.gradient(&start()).unwrap(), &expected, 1e-4);
        assert!(dataset.gradient(&[1e4; 26]).is_ok());
        assert!(matches!(dataset.gradient(&[f64::NAN; 26]), Err(ModelError::NotFinite { .. })));
    }

    #[test]
    fn the_move_matches_the_specification() {
        let (_, dataset) = fixture();
        let go = Effort::new(Arc::default(), 100);
        let hyper = Hyper::default();
        let found = dataset.contribution(&start(), &totals(&dataset), &hyper, &go).unwrap();
        assert_close(&found, &MOVE, 1e-5);
        let again = dataset.contribution(&start(), &totals(&dataset), &hyper, &go).unwrap();
        assert_eq!(found, again);
        let tight = Optimizer { bound: 0.05, ..Optimizer::default() };
        let hyper = Hyper { optimizer: tight, ..hyper };
        let clipped = dataset.contribution(&start(), &totals(&dataset), &hyper, &go).unwrap();
        let expected: Vec<_> = MOVE.iter().map(|z| z.clamp(-0.05, 0.05)).collect();
        assert_close(&clipped, &expected, 1e-5);
        let length = MOVE.iter().map(|z| z * z).sum::<f64>().sqrt();
        let short = Optimizer { norm: length / 4.0, ..Optimizer::default() };
        let hyper = Hyper { optimizer: short, ..hyper };
        let clipped = dataset.contribution(&start(), &totals(&dataset), &hyper, &go).unwrap();
        let expected: Vec<_> = MOVE.iter().map(|z| z / 4.0).collect();
        assert_close(&clipped, &expected, 1e-5);
    }

    #[test]
    fn totals_that_were_rounded_away_bound_the_move() {
        let (_, dataset) = fixture();
        let go = Effort::new(Arc::default(), 100);
        let (hyper, mut totals) = (Hyper::default(), totals(&dataset));
        let exact = dataset.contribution(&start(), &totals, &hyper, &go).unwrap();
        totals.curvature[4] = 0.0;
        totals.curvature[5] = 0.001;
        let rounded = dataset.contribution(&start(), &totals, &hyper, &go).unwrap();
        assert_eq!(rounded[4], 0.0);
        assert!((rounded[5] / exact[5] - 2.5).abs() < 0.01, "{} {}", rounded[5], exact[5]);
    }

    fn gradient_steps(local_steps: u32, proximal: f64) -> Hyper {
        let (local, server) = (Local::Gradient { learning_rate: 0.05, proximal }, Server::Average);
        let optimizer = Optimizer { local, server, local_steps, ..Optimizer::default() };
        Hyper { optimizer, ..Hyper::default() }
    }

    #[test]
    fn plain_averaging_sends_its_share_of_the_change() {
        let (design, dataset) = fixture();
        let hyper = gradient_steps(1, 0.0);
        let (weights, go) = (start(), Effort::new(Arc::default(), 100));
        let found = dataset.contribution(&weights, &totals(&dataset), &hyper, &go).unwrap();
        let (gradient, ridge) = (analytic(&design, &weights), hyper.ridge(3));
        let step = |j: usize| (gradient[j] + 0.4 * ridge[j] * weights[j]) / 48.0;
        let expected: Vec<_> = (0..26).map(|j| -0.4 * 0.05 * step(j)).collect();
        assert_close(&found, &expected, 1e-6);
    }

    #[test]
    fn the_proximal_term_pulls_the_second_step_back() {
        let (design, dataset) = fixture();
        let hyper = gradient_steps(2, 10.0);
        let (weights, go) = (start(), Effort::new(Arc::default(), 100));
        let found = dataset.contribution(&weights, &totals(&dataset), &hyper, &go).unwrap();
        let ridge = hyper.ridge(3);
        let mut local = weights.clone();
        for _ in 0..2 {
            let gradient = analytic(&design, &local);
            for j in 0..26 {
                let mean = (gradient[j] + 0.4 * ridge[j] * local[j]) / 48.0;
                local[j] -= 0.05 * (mean + 10.0 * (local[j] - weights[j]));
            }
        }
        let expected: Vec<_> = (0..26).map(|j| 0.4 * (local[j] - weights[j])).collect();
        assert_close(&found, &expected, 1e-6);
        let free = gradient_steps(2, 0.0);
        let free = dataset.contribution(&weights, &totals(&dataset), &free, &go).unwrap();
        assert!(free.iter().zip(&found).any(|(a, b)| (a - b).abs() > 1e-4), "the term is felt");
    }

    #[test]
    fn what_cannot_be_trained_is_an_error() {
        let (_, dataset) = fixture();
        let totals = totals(&dataset);
        let hyper = Hyper::default();
        let stop = Effort::new(Arc::new(true.into()), 100);
        let cancelled = dataset.contribution(&start(), &totals, &hyper, &stop);
        assert!(matches!(cancelled, Err(ModelError::Cancelled)));
        let short =
            dataset.contribution(&[0.0; 3], &totals, &hyper, &Effort::new(Arc::default(), 100));
        assert!(matches!(short, Err(ModelError::WrongLength { .. })));
    }
}
