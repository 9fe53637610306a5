//! Explains a prediction by the model's own terms: the products w_j x_j, grouped by what they are
//! about and put in plain words. Adds nothing that the model does not compute.

use collegium_shared::architecture::DENSE;
use serde::Serialize;

use crate::model::{
    Model,
    features::{Dense, SkillTerm},
};

/// Reasons given for one recommendation.
const MOST: usize = 3;
/// Terms smaller than this (in logits) say nothing worth reading.
const LEAST: f64 = 0.02;

/// Which way a term moves the chance of a right answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    Raises,
    Lowers,
}

/// One group of the model's terms.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Reason {
    /// What the terms are about, as a stable identifier.
    pub signal: &'static str,
    pub direction: Direction,
    /// The sum of the terms in logits.
    pub contribution: f64,
    /// The same in plain words.
    pub text: String,
}

/// What a term of the model is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Signal {
    ItemDifficulty,
    CompetencyDifficulty,
    OverallAbility,
    CompetencyAbility,
    RecentAnswers,
    Practice,
    SameItem,
}

const SIGNALS: [Signal; 7] = [
    Signal::ItemDifficulty,
    Signal::CompetencyDifficulty,
    Signal::OverallAbility,
    Signal::CompetencyAbility,
    Signal::RecentAnswers,
    Signal::Practice,
    Signal::SameItem,
];

impl Signal {
    /// The signal of a dense feature; the constant term is about nothing.
    fn of(feature: &str) -> Option<Self> {
        match feature {
            "item_logit" => Some(Self::ItemDifficulty),
            "skill_logit" => Some(Self::CompetencyDifficulty),
            "theta" | "theta_fast" | "win_ratio" => Some(Self::OverallAbility),
            "theta_skill" | "theta_skill_fast" => Some(Self::CompetencyAbility),
            "last_residual" | "recent_residual" => Some(Self::RecentAnswers),
            "log_wins" | "log_fails" | "var_theta" | "var_skill" | "log_skill_count" => {
                Some(Self::Practice)
            }
            "log_item_wins" | "log_item_fails" => Some(Self::SameItem),
            _ => None,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::ItemDifficulty => "item_difficulty",
            Self::CompetencyDifficulty => "competency_difficulty",
            Self::OverallAbility => "overall_ability",
            Self::CompetencyAbility => "competency_ability",
            Self::RecentAnswers => "recent_answers",
            Self::Practice => "practice",
            Self::SameItem => "same_item",
        }
    }

    fn text(self, direction: Direction, competencies: &[String]) -> String {
        let on = competencies.join(", ");
        match (self, direction) {
            (Self::ItemDifficulty, Direction::Raises) => {
                "Most learners answer this item right.".to_owned()
            }
            (Self::ItemDifficulty, Direction::Lowers) => {
                "Many learners find this item hard.".to_owned()
            }
            (Self::CompetencyDifficulty, Direction::Raises) => {
                format!("{on}: learners find this easier than other topics.")
            }
            (Self::CompetencyDifficulty, Direction::Lowers) => {
                format!("{on}: learners find this harder than other topics.")
            }
            (Self::OverallAbility, Direction::Raises) => {
                "This learner's answers have been strong overall.".to_owned()
            }
            (Self::OverallAbility, Direction::Lowers) => {
                "This learner has found earlier items hard overall.".to_owned()
            }
            (Self::CompetencyAbility, Direction::Raises) => {
                format!("{on}: this learner has done well here before.")
            }
            (Self::CompetencyAbility, Direction::Lowers) => {
                format!("{on}: this learner has struggled here before.")
            }
            (Self::RecentAnswers, Direction::Raises) => {
                "The learner's latest answers point to a right answer.".to_owned()
            }
            (Self::RecentAnswers, Direction::Lowers) => {
                "The learner's latest answers point to a wrong answer.".to_owned()
            }
            (Self::Practice, Direction::Raises) => {
                "The amount of practice so far makes a right answer more likely.".to_owned()
            }
            (Self::Practice, Direction::Lowers) => {
                "The amount of practice so far makes a right answer less likely.".to_owned()
            }
            (Self::SameItem, Direction::Raises) => {
                "Having met this very item before makes a right answer more likely.".to_owned()
            }
            (Self::SameItem, Direction::Lowers) => {
                "Having met this very item before makes a right answer less likely.".to_owned()
            }
        }
    }
}

/// The strongest groups of terms of one prediction, strongest first.
pub(super) fn strongest(
    model: &Model,
    item: &str,
    dense: &Dense,
    terms: impl Iterator<Item = SkillTerm>,
    competencies: &[String],
) -> Vec<Reason> {
    let sums = contributions(model, item, dense, terms);
    let mut reasons: Vec<_> = SIGNALS
        .into_iter()
        .zip(sums)
        .filter(|(_, sum)| sum.abs() >= LEAST)
        .map(|(signal, contribution)| {
            let direction = if contribution > 0.0 { Direction::Raises } else { Direction::Lowers };
            let text = signal.text(direction, competencies);
            Reason { signal: signal.name(), direction, contribution, text }
        })
        .collect();
    reasons.sort_by(|a, b| b.contribution.abs().total_cmp(&a.contribution.abs()));
    reasons.truncate(MOST);
    reasons
}

/// The sum of w_j x_j of each signal, in the order of [`SIGNALS`].
fn contributions(
    model: &Model,
    item: &str,
    dense: &Dense,
    terms: impl Iterator<Item = SkillTerm>,
) -> [f64; SIGNALS.len()] {
    let weights = model.weights();
    let mut sums = [0.0; SIGNALS.len()];
    let mut add = |signal: Signal, value: f64| {
        let place = SIGNALS.iter().position(|s| *s == signal);
        place.into_iter().for_each(|i| sums[i] += value);
    };
    for ((feature, x), w) in DENSE.iter().zip(dense).zip(weights) {
        if let Some(signal) = Signal::of(feature) {
            add(signal, w * x);
        }
    }
    add(Signal::ItemDifficulty, model.item_bias(item));
    let k = model.competencies().len();
    for term in terms {
        let bias = DENSE.len() + term.index as usize;
        add(Signal::CompetencyDifficulty, weights[bias]);
        add(Signal::CompetencyAbility, weights[bias + k] * term.log_wins);
        add(Signal::CompetencyAbility, weights[bias + 2 * k] * term.log_fails);
    }
    sums
}

#[cfg(test)]
mod tests {
    use collegium_shared::architecture::{SharedStatistics, layout};

    use super::*;

    #[test]
    fn every_feature_but_the_constant_has_a_signal() {
        let without: Vec<_> = DENSE.into_iter().filter(|f| Signal::of(f).is_none()).collect();
        assert_eq!(without, ["bias"]);
    }

    #[test]
    fn the_largest_terms_come_first_with_their_direction() {
        let competencies = ["fractions".to_owned()];
        let mut weights = layout(&competencies).initial();
        weights[17] = 0.5;
        let model = Model::new(&competencies, SharedStatistics::default(), &weights).unwrap();
        let mut dense = [0.0; DENSE.len()];
        (dense[0], dense[6], dense[7]) = (1.0, -2.0, 1.0);
        let term = SkillTerm { index: 0, log_wins: 1.0, log_fails: 1.0 };
        let found = strongest(&model, "item", &dense, std::iter::once(term), &competencies);
        let read: Vec<_> = found.iter().map(|r| (r.signal, r.direction, r.contribution)).collect();
        assert_eq!(
            read,
            [
                ("item_difficulty", Direction::Lowers, -2.0),
                ("overall_ability", Direction::Raises, 1.0),
                ("competency_difficulty", Direction::Raises, 0.5),
            ]
        );
        assert!(found[2].text.contains("fractions"));
    }
}
