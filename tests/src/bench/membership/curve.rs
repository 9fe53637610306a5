//! How well scores tell members from others, over all thresholds, with intervals. Knows no attack.

use rand_chacha::{
    ChaCha12Rng,
    rand_core::{Rng, SeedableRng},
};
use serde_json::{Value, json};

/// Resamples of an interval.
const RESAMPLES: usize = 400;
/// Rates of others taken for members at which the rate of found members is told.
const FALSE_RATES: [f64; 2] = [0.01, 0.001];

/// One learner and one model.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Guess {
    /// Larger for members, if the attack is good.
    pub(super) score: f64,
    pub(super) member: bool,
    pub(super) model: usize,
}

/// Area under the ROC curve, and true positive rates at [`FALSE_RATES`].
type Figures = [f64; 3];

/// The figures of all guesses with intervals of 95 %: models are resampled, each with all its guesses, as
/// those of one model are alike.
pub(super) fn figures(mut guesses: Vec<Guess>, models: usize, seed: u64) -> Value {
    guesses.sort_by(|a, b| b.score.total_cmp(&a.score));
    let whole = weighed(&guesses, &vec![1.0; models]);
    let mut random = ChaCha12Rng::seed_from_u64(seed);
    let mut resampled: Vec<Figures> = Vec::with_capacity(RESAMPLES);
    for _ in 0..RESAMPLES {
        let mut weights = vec![0.0; models];
        (0..models).for_each(|_| weights[below(&mut random, models)] += 1.0);
        resampled.push(weighed(&guesses, &weights));
    }
    let interval = |of: usize| {
        let mut values: Vec<f64> = resampled.iter().map(|figures| figures[of]).collect();
        values.sort_by(f64::total_cmp);
        [values[RESAMPLES / 40], values[RESAMPLES - 1 - RESAMPLES / 40]]
    };
    let told = |of: usize| json!({ "value": whole[of], "interval": interval(of) });
    json!({ "auc": told(0), "tpr_at_fpr_1pct": told(1), "tpr_at_fpr_0.1pct": told(2) })
}

/// A place below `count`, at random; the bias of the remainder is below 2^-50.
pub(super) fn below(random: &mut impl Rng, count: usize) -> usize {
    usize::try_from(random.next_u64() % count as u64).unwrap_or_default()
}

/// Of guesses in falling order, each counted as often as its model's weight says. Ties count half.
fn weighed(guesses: &[Guess], weights: &[f64]) -> Figures {
    let count = |of: &[Guess], member: bool| -> f64 {
        of.iter().filter(|g| g.member == member).map(|g| weights[g.model]).sum()
    };
    let (members, others) = (count(guesses, true), count(guesses, false));
    let (mut found, mut wrong, mut area) = (0.0, 0.0, 0.0);
    let mut rates = [0.0; 2];
    for ties in guesses.chunk_by(|a, b| a.score == b.score) {
        let (right, mistaken) = (count(ties, true), count(ties, false));
        area += mistaken * (found + 0.5 * right);
        found += right;
        wrong += mistaken;
        for (rate, limit) in rates.iter_mut().zip(FALSE_RATES) {
            if wrong <= limit * others {
                *rate = found / members;
            }
        }
    }
    [area / (members * others), rates[0], rates[1]]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guesses(scores: impl Fn(usize, bool) -> f64) -> Vec<Guess> {
        let all = (0..4_000).map(|i| (i, i % 2 == 0, i % 8));
        let mut all: Vec<Guess> = all
            .map(|(i, member, model)| Guess { score: scores(i, member), member, model })
            .collect();
        all.sort_by(|a, b| b.score.total_cmp(&a.score));
        all
    }

    #[test]
    fn curves_are_as_by_hand() {
        let perfect = guesses(|_, member| f64::from(u8::from(member)));
        assert_eq!(weighed(&perfect, &[1.0; 8]), [1.0, 1.0, 1.0]);
        assert_eq!(weighed(&guesses(|_, _| 0.0), &[1.0; 8]), [0.5, 0.0, 0.0]);
        // One member in ten is known, of the others nothing.
        let some = guesses(|i, member| if member && i % 20 == 0 { 1.0 } else { 0.0 });
        assert_eq!(weighed(&some, &[1.0; 8]), [0.55, 0.1, 0.1]);
        // Two members, two others, one pair the wrong way about.
        let order = [(3.0, true), (2.0, false), (1.0, true), (0.0, false)];
        let few = order.map(|(score, member)| Guess { score, member, model: 0 });
        assert_eq!(weighed(&few, &[1.0])[0], 0.75);
        assert_eq!(weighed(&few, &[3.0]), weighed(&few, &[1.0]));
    }

    #[test]
    fn intervals_hold_the_value_and_are_the_same_again() {
        let noisy = |i: usize, member: bool| {
            f64::from(u8::from(member)) * 0.3 + (i * 7_919 % 1_000) as f64 / 1_000.0
        };
        let first = figures(guesses(noisy), 8, 7);
        let (low, high) = (&first["auc"]["interval"][0], &first["auc"]["interval"][1]);
        let value = first["auc"]["value"].as_f64().unwrap();
        assert!(low.as_f64().unwrap() <= value && value <= high.as_f64().unwrap(), "{first}");
        assert!(value > 0.6, "{first}");
        assert_eq!(figures(guesses(noisy), 8, 7), first);
    }
}
