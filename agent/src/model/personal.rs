//! An institution's personal copy of a released model: the same weights moved towards its own answers,
//! and a bias for each item of its catalogue. Makes it and decides whether it is used; it never leaves
//! the institution, and no stage of a task reads it.
//!
//! The copy is the maximum a posteriori under Gaussian priors around the released weights. It is used only
//! where it is better than the released model beyond doubt, on learners that it was not fitted to.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use collegium_shared::{
    architecture::{DENSE, SharedStatistics},
    crypto::Digest,
};
use serde::Serialize;

use super::{
    Effort, Model, ModelError,
    features::{Counts, Design, Statistics, training_counts},
    fit::{Answer, Point, Prior, fit, log_loss},
};
use crate::records::{Learner, Response};

/// The prior's precision: of the bias, the other dense weights, and the competencies' weights.
const PULL: [f64; 3] = [10.0, 100.0, 50.0];
/// The same of an item's bias, around 0.
const ITEM_PULL: f64 = 5.0;
/// Parts of the training learners, each judged by a copy that was fitted to the others.
const PARTS: u8 = 5;
/// The fewest answers to judge by.
const LEAST_ANSWERS: usize = 100;
/// How many standard errors the gain has to be above 0.
const SURE: f64 = 2.0;

/// Which model an institution uses, and why.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(tag = "use", rename_all = "snake_case")]
pub enum Choice {
    /// The released model: there are too few answers to tell.
    TooFew {
        answers: usize,
        learners: usize,
    },
    /// The released model: the copy is not better beyond doubt.
    Released(Trial),
    Personal(Trial),
}

/// A copy and the released model on the same answers, of learners whom the copy was not fitted to.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Trial {
    pub answers: usize,
    pub learners: usize,
    /// How much lower the copy's mean log loss is, in nats an answer.
    pub gain: f64,
    /// Of the gain; learners are independent, their answers are not.
    pub standard_error: f64,
}

impl fmt::Display for Choice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooFew { answers, learners } => write!(
                f,
                "the released model: {answers} answers of {learners} learners are too few to judge a \
                 personal copy by"
            ),
            Self::Released(trial) => {
                write!(f, "the released model: a personal copy is not surely better ({trial})")
            }
            Self::Personal(trial) => write!(f, "the personal copy, which is better ({trial})"),
        }
    }
}

impl fmt::Display for Trial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { answers, learners, gain, standard_error } = self;
        write!(
            f,
            "log loss lower by {gain:.4}, standard error {standard_error:.4}, on {answers} answers of \
             {learners} learners whom it was not fitted to"
        )
    }
}

/// The model for one institution: the personal copy of `released` if that is better, else `released`.
/// `learners` are its records and `own` their counts; only training learners are read. Six fits to
/// convergence: call it where blocking is allowed.
pub fn choose(
    released: &Model,
    learners: &[Learner],
    own: &Counts,
    effort: &Effort,
) -> Result<(Model, Choice), ModelError> {
    let records = Records::new(released, learners, own);
    let choice = records.judge(effort)?;
    let model = match choice {
        Choice::Personal(_) => records.copy(effort)?,
        Choice::TooFew { .. } | Choice::Released(_) => released.clone(),
    };
    Ok((model, choice))
}

/// The personal copy of `released`, better or not.
pub fn copy(
    released: &Model,
    learners: &[Learner],
    own: &Counts,
    effort: &Effort,
) -> Result<Model, ModelError> {
    Records::new(released, learners, own).copy(effort)
}

/// An institution's records beside one released model.
struct Records<'a> {
    released: &'a Model,
    learners: &'a [Learner],
    own: &'a Counts,
    /// The items that were answered, each with the number of its bias.
    items: BTreeMap<&'a str, u32>,
}

impl<'a> Records<'a> {
    fn new(released: &'a Model, learners: &'a [Learner], own: &'a Counts) -> Self {
        let items = own.items.keys().map(String::as_str).zip(0..).collect();
        Self { released, learners, own, items }
    }

    fn training(&self) -> impl Iterator<Item = &'a Learner> {
        self.learners.iter().filter(|learner| !learner.held_out)
    }

    /// The copy that fits the answers of `learners`.
    fn fit(
        &self,
        learners: &[&Learner],
        statistics: &Statistics,
        effort: &Effort,
    ) -> Result<Point, ModelError> {
        let [bias, dense, skill] = PULL;
        let pull = |j: usize| match j {
            0 => bias,
            _ if j < DENSE.len() => dense,
            _ => skill,
        };
        let centre = self.released.weights();
        let precision: Vec<f64> = (0..centre.len()).map(pull).collect();
        let items = self.items.len();
        let prior = Prior { centre, precision: &precision, items, item_precision: ITEM_PULL };
        let design =
            Design::new(learners.iter().copied(), statistics, self.released.competencies());
        let responses = learners.iter().flat_map(|learner| &learner.responses);
        let answers: Vec<_> = design
            .rows()
            .zip(responses)
            .map(|(row, response)| Answer { row, item: self.item(response) })
            .collect();
        fit(&answers, centre, &prior, effort)
    }

    fn item(&self, response: &Response) -> Option<u32> {
        self.items.get(response.item.as_str()).copied()
    }

    fn copy(&self, effort: &Effort) -> Result<Model, ModelError> {
        let statistics = Statistics::new(self.released.statistics(), self.own);
        let training: Vec<_> = self.training().collect();
        let Point { weights, items } = self.fit(&training, &statistics, effort)?;
        let biases = self.items.keys().map(|item| (*item).to_owned()).zip(items).collect();
        Ok(self.released.personal(weights, biases))
    }

    fn judge(&self, effort: &Effort) -> Result<Choice, ModelError> {
        let answers = self.training().map(|learner| learner.responses.len()).sum();
        let learners = self.training().count();
        let parts: BTreeSet<u8> = self.training().map(|learner| part(&learner.id)).collect();
        if answers < LEAST_ANSWERS || parts.len() < 2 {
            return Ok(Choice::TooFew { answers, learners });
        }
        let mut gains = Vec::with_capacity(learners);
        for away in parts {
            gains.extend(self.gains(away, effort)?);
        }
        let trial = Trial::of(&gains);
        Ok(if trial.gain > SURE * trial.standard_error {
            Choice::Personal(trial)
        } else {
            Choice::Released(trial)
        })
    }

    /// For each learner of the part `away`, answers and how much lower their summed log loss is under a copy
    /// that knows nothing of the part: not its answers, nor its share of any count.
    fn gains(&self, away: u8, effort: &Effort) -> Result<Vec<(usize, f64)>, ModelError> {
        let (away, rest): (Vec<_>, Vec<_>) =
            self.training().partition(|learner| part(&learner.id) == away);
        let away: Vec<Learner> =
            away.into_iter().map(|learner| Learner { held_out: true, ..learner.clone() }).collect();
        let shared = without(self.released.statistics(), &away);
        let statistics = Statistics::new(&shared, &training_counts(rest.iter().copied()));
        let copy = self.fit(&rest, &statistics, effort)?;
        let gain_of = |learner: &Learner| {
            let design = Design::new([learner], &statistics, self.released.competencies());
            let gains = design.rows().zip(&learner.responses).map(|(row, response)| {
                let bias = self.item(response).map_or(0.0, |item| copy.items[item as usize]);
                let own = row.logit(&copy.weights) + bias;
                let released = row.logit(self.released.weights());
                log_loss(released, row.correct) - log_loss(own, row.correct)
            });
            (learner.responses.len(), gains.sum())
        };
        Ok(away.iter().map(gain_of).collect())
    }
}

/// The shared counts without what `learners` put in, as far as that is known: where there is noise on
/// them, each learner's part was clipped, and what competencies got is left as it is.
fn without(shared: &SharedStatistics, learners: &[Learner]) -> SharedStatistics {
    let mut rest = shared.clone();
    let noisy = shared.noise.items > 0.0;
    for learner in learners {
        let own = training_counts([&Learner { held_out: false, ..learner.clone() }]);
        let square = |(n, c): &(f64, f64)| c * c + (n - c) * (n - c);
        let norm = own.items.values().map(square).sum::<f64>().sqrt();
        let share = if noisy { (shared.noise.clip / norm).min(1.0) } else { 1.0 };
        let take = |from: &mut (f64, f64), (n, c): (f64, f64)| {
            *from = (from.0 - share * n, from.1 - share * c);
            if !noisy {
                from.0 = from.0.max(0.0);
                from.1 = from.1.clamp(0.0, from.0);
            }
        };
        for (item, counts) in &own.items {
            rest.items.get_mut(item).into_iter().for_each(|from| take(from, *counts));
        }
        if noisy {
            continue;
        }
        take(&mut rest.base, own.base);
        for (competency, counts) in &own.skills {
            rest.skills.get_mut(competency).into_iter().for_each(|from| take(from, *counts));
        }
    }
    rest
}

impl Trial {
    /// The mean over answers of sums over learners, and its standard error as that of a ratio of means
    /// over independent learners (Cochran 1977, section 6.2).
    fn of(learners: &[(usize, f64)]) -> Self {
        let answers = learners.iter().map(|(n, _)| n).sum();
        let (n, count) = (answers as f64, learners.len() as f64);
        let gain = learners.iter().map(|(_, gain)| gain).sum::<f64>() / n;
        let apart = |(of, sum): &(usize, f64)| (sum - gain * *of as f64).powi(2);
        let squares: f64 = learners.iter().map(apart).sum();
        let standard_error = (squares * count / (count - 1.0)).sqrt() / n;
        Self { answers, learners: learners.len(), gain, standard_error }
    }
}

/// The part of the learners that this one is in: the same in every run, and not by the order of records.
fn part(learner: &str) -> u8 {
    let digest = Digest::of_parts("collegium/v1/personal-copy/part", &[learner.as_bytes()]);
    digest.as_bytes().first().copied().unwrap_or_default() % PARTS
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use collegium_shared::architecture::Hyper;

    use super::*;
    use crate::trainer::tests::{federate, simulated};

    fn free() -> Effort {
        Effort::new(Arc::default(), 100)
    }

    fn released(world: &[Vec<Learner>]) -> Model {
        let run = federate(world.to_vec(), &Hyper::default(), 10, 1);
        Model::new(&run.shared.competencies, run.statistics, &run.weights).unwrap()
    }

    fn chosen(model: &Model, learners: &[Learner]) -> (Model, Choice) {
        choose(model, learners, &training_counts(learners), &free()).unwrap()
    }

    #[test]
    fn an_institution_like_the_others_keeps_the_released_model() {
        let world = simulated(5, 3, 40);
        let model = released(&world);
        let (used, choice) = chosen(&model, &world[0]);
        assert!(matches!(choice, Choice::Released(trial) if trial.learners == 32), "{choice:?}");
        assert_eq!(used.weights(), model.weights());
        assert_eq!(used.item_bias("item-000"), 0.0);
    }

    #[test]
    fn an_institution_whose_items_are_otherwise_uses_its_copy() {
        let mut world = simulated(5, 3, 60);
        let model = released(&world);
        // At this institution half of the items were swapped for ones of the other kind.
        let odd = |item: &str| item.ends_with(['1', '3', '5', '7', '9']);
        for response in world[0].iter_mut().flat_map(|learner| &mut learner.responses) {
            response.correct ^= odd(&response.item);
        }
        let (used, choice) = chosen(&model, &world[0]);
        let Choice::Personal(trial) = choice else { panic!("{choice:?}") };
        assert!(trial.gain > SURE * trial.standard_error, "{trial:?}");
        let moved = used.weights().iter().zip(model.weights());
        assert!(moved.map(|(a, b)| (a - b).abs()).sum::<f64>() > 0.01);
        assert!(world[0].iter().flat_map(|l| &l.responses).any(|r| used.item_bias(&r.item) != 0.0));
        assert_eq!(chosen(&model, &world[0]).1, choice, "the same records, the same choice");
    }

    #[test]
    fn few_answers_are_not_judged() {
        let world = simulated(5, 2, 40);
        let model = released(&world);
        for few in [&world[0][..0], &world[0][1..3], &world[0][1..2]] {
            let (used, choice) = chosen(&model, few);
            assert!(matches!(choice, Choice::TooFew { .. }), "{choice:?}");
            assert_eq!(used.weights(), model.weights());
        }
        let nothing = copy(&model, &[], &Counts::default(), &free()).unwrap();
        assert_eq!(nothing.weights(), model.weights(), "nothing to learn from");
    }

    #[test]
    fn the_standard_error_is_between_learners() {
        let alike = Trial::of(&[(10, 1.0), (20, 2.0), (30, 3.0)]);
        assert_eq!((alike.gain, alike.answers), (0.1, 60));
        assert!(alike.standard_error < 1e-12);
        let apart = Trial::of(&[(10, 3.0), (10, -1.0)]);
        assert_eq!(apart.gain, 0.1);
        assert!((apart.standard_error - 0.2).abs() < 1e-12, "{apart:?}");
    }
}
