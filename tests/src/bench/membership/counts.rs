//! Membership from published counts alone: whose answers do they hold? The attacker knows everybody's
//! answers and the noise's deviation, and trains nothing.

use std::collections::{BTreeMap, HashMap};

use collegium_agent::records::Learner;
use collegium_shared::architecture::{LearnerPrivacy, SharedSets, SharedStatistics};

/// Steps of the conjugate gradients; fewer if they have come close before.
const STEPS: usize = 300;
/// Where they have: the square of what is left, of what there was.
const CLOSE: f64 = 1e-16;
/// The variance that exact counts are taken to have: the encoding rounds.
const LEAST_VARIANCE: f64 = 0.01;
/// Of being a member or not with even chances, as a number from 0 to 1.
const PRIOR_VARIANCE: f64 = 0.25;

/// Published counts by place, each with the standard deviation of its noise.
pub(super) type Published = HashMap<usize, (f64, f64)>;

/// Where each count lies in one list: right answers to each item, wrong ones, and the same by competency.
pub(super) struct Places<'a> {
    items: HashMap<&'a str, usize>,
    competencies: HashMap<&'a str, usize>,
}

impl<'a> Places<'a> {
    pub(super) fn new(registry: &'a SharedSets) -> Self {
        let places = |names: &'a [String]| names.iter().map(String::as_str).zip(0..).collect();
        Self { items: places(&registry.items), competencies: places(&registry.competencies) }
    }

    pub(super) fn len(&self) -> usize {
        2 * (self.items.len() + self.competencies.len())
    }

    fn item(&self, name: &str, right: bool) -> Option<usize> {
        let wrong = usize::from(!right) * self.items.len();
        Some(self.items.get(name)? + wrong)
    }

    fn competency(&self, name: &str, right: bool) -> Option<usize> {
        let wrong = usize::from(!right) * self.competencies.len();
        Some(2 * self.items.len() + self.competencies.get(name)? + wrong)
    }

    /// What is published, by place, with the standard deviation of its noise.
    pub(super) fn shared(&self, statistics: &SharedStatistics) -> Published {
        let mut shared = HashMap::new();
        let mut put = |places: [Option<usize>; 2], (n, c): (f64, f64), deviation: f64| {
            let counts = places.into_iter().zip([c, n - c]);
            shared.extend(counts.filter_map(|(at, count)| Some((at?, (count, deviation)))));
        };
        let noise = statistics.noise;
        for (name, counts) in &statistics.items {
            put([true, false].map(|right| self.item(name, right)), *counts, noise.items);
        }
        for (name, counts) in &statistics.skills {
            let places = [true, false].map(|right| self.competency(name, right));
            put(places, *counts, noise.competencies);
        }
        shared
    }

    /// A learner's own counts, clipped as the sums are.
    pub(super) fn own(
        &self,
        learner: &Learner,
        privacy: Option<&LearnerPrivacy>,
    ) -> Vec<(usize, f64)> {
        let mut counts: [BTreeMap<usize, f64>; 2] = Default::default();
        for answer in &learner.responses {
            let item = self.item(&answer.item, answer.correct);
            let competencies =
                answer.competencies.iter().filter_map(|k| self.competency(k, answer.correct));
            item.into_iter().for_each(|at| *counts[0].entry(at).or_default() += 1.0);
            competencies.for_each(|at| *counts[1].entry(at).or_default() += 1.0);
        }
        let clips = privacy.map(|privacy| [privacy.items.clip, privacy.competencies.clip]);
        let clips = clips.unwrap_or([f64::INFINITY; 2]);
        let clipped = counts.into_iter().zip(clips).flat_map(|(counts, clip)| {
            let norm = counts.values().map(|count| count * count).sum::<f64>().sqrt();
            counts.into_iter().map(move |(at, count)| (at, count * (clip / norm).min(1.0)))
        });
        clipped.collect()
    }
}

/// Each candidate's own counts, by place.
pub(super) struct Counted {
    own: Vec<Vec<(usize, f64)>>,
    places: usize,
}

impl Counted {
    pub(super) fn new(own: Vec<Vec<(usize, f64)>>, places: usize) -> Self {
        Self { own, places }
    }

    /// The best linear estimate of every candidate's membership, less a half: published counts are the sum
    /// of the members' own and of noise. With b for who is a member, C for their counts (candidates x places)
    /// and D for the inverse variances it solves (C D C' + 4) (b - 1/2) = C D (published - C' 1/2), by
    /// conjugate gradients, as there may be far more places than candidates.
    pub(super) fn estimate(&self, published: &Published) -> Vec<f64> {
        let mut precision = vec![0.0; self.places];
        let mut rest = vec![0.0; self.places];
        let all = self.summed(&vec![0.5; self.own.len()]);
        for (at, (count, deviation)) in published {
            precision[*at] = 1.0 / (deviation * deviation).max(LEAST_VARIANCE);
            rest[*at] = count - all[*at];
        }
        let apply = |v: &[f64]| -> Vec<f64> {
            let product = self.along(&self.summed(v), &precision);
            product.iter().zip(v).map(|(p, v)| p + v / PRIOR_VARIANCE).collect()
        };
        let scale = self.own.iter().map(|own| {
            let square: f64 = own.iter().map(|(at, c)| c * c * precision[*at]).sum();
            square + 1.0 / PRIOR_VARIANCE
        });
        let scale: Vec<f64> = scale.collect();
        conjugate_gradients(apply, &scale, self.along(&rest, &precision))
    }

    /// C' v
    fn summed(&self, v: &[f64]) -> Vec<f64> {
        let mut sums = vec![0.0; self.places];
        for (own, v) in self.own.iter().zip(v) {
            own.iter().for_each(|(at, count)| sums[*at] += count * v);
        }
        sums
    }

    /// C D v
    fn along(&self, v: &[f64], precision: &[f64]) -> Vec<f64> {
        let product = |own: &Vec<(usize, f64)>| {
            own.iter().map(|(at, count)| count * precision[*at] * v[*at]).sum()
        };
        self.own.iter().map(product).collect()
    }
}

/// Solves A x = b for a positive definite A, whose diagonal is `scale`. Hestenes and Stiefel 1952, with
/// Jacobi's preconditioner.
fn conjugate_gradients(apply: impl Fn(&[f64]) -> Vec<f64>, scale: &[f64], b: Vec<f64>) -> Vec<f64> {
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    let scaled = |r: &[f64]| -> Vec<f64> { r.iter().zip(scale).map(|(r, s)| r / s).collect() };
    let mut x = vec![0.0; b.len()];
    let mut left = b;
    let mut direction = scaled(&left);
    let mut size = dot(&left, &direction);
    let enough = size * CLOSE;
    for _ in 0..STEPS {
        if size <= enough {
            break;
        }
        let applied = apply(&direction);
        let length = size / dot(&direction, &applied);
        x.iter_mut().zip(&direction).for_each(|(x, d)| *x += length * d);
        left.iter_mut().zip(&applied).for_each(|(r, a)| *r -= length * a);
        let next = scaled(&left);
        let new = dot(&left, &next);
        direction.iter_mut().zip(&next).for_each(|(d, n)| *d = n + new / size * *d);
        size = new;
    }
    x
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Four candidates of whom the first and the last were counted.
    fn counted() -> (Counted, [f64; 4]) {
        let own = vec![
            vec![(0, 2.0), (1, 1.0)],
            vec![(0, 1.0), (3, 1.0)],
            vec![(1, 3.0), (2, 1.0)],
            vec![(2, 5.0)],
        ];
        (Counted::new(own, 4), [2.0, 1.0, 5.0, 0.0])
    }

    #[test]
    fn exact_counts_give_members_away_and_noise_hides_them() {
        let (counted, counts) = counted();
        let published =
            |deviation: f64| (0..).zip(counts).map(|(at, c)| (at, (c, deviation))).collect();
        let exact = counted.estimate(&published(0.0));
        for (estimate, expected) in exact.iter().zip([0.5, -0.5, -0.5, 0.5]) {
            assert!((estimate - expected).abs() < 0.1, "{exact:?}");
        }
        let noisy = counted.estimate(&published(1_000.0));
        assert!(noisy.iter().all(|estimate| estimate.abs() < 1e-4), "{noisy:?}");
        assert_eq!(counted.estimate(&Published::new()), [0.0; 4]);
    }

    #[test]
    fn the_estimate_solves_its_equation() {
        let (counted, counts) = counted();
        let published: Published = (0..).zip(counts).map(|(at, c)| (at, (c, 2.0))).collect();
        let found = counted.estimate(&published);
        let expected = counted.summed(&[0.5; 4]);
        let residual: Vec<f64> = counts
            .iter()
            .zip(&expected)
            .zip(counted.summed(&found))
            .map(|((c, e), f)| c - e - f)
            .collect();
        for (one, slope) in found.iter().zip(counted.along(&residual, &[0.25; 4])) {
            assert!((one * 4.0 - slope).abs() < 1e-9, "{found:?}");
        }
    }
}
