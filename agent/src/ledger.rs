//! What taking part in private tasks has cost this institution's learners, as a fold over its own log: spent
//! when an input is fixed, before anything leaves, and never given back. Knows the sums, and whether one
//! more fits a budget; decides no round and reads no clock.
//!
//! Every charge counts against any period that it lies in. A budget for `days` is kept in every stretch of
//! that length, not only in calendar years, because what is older than `days` is all that is left out.

pub mod statement;

use std::{collections::BTreeMap, time::Duration};

use collegium_shared::{
    accountant::{AccountantError, DistributedNoise, Spent},
    architecture::{Charge, Population},
    clock::Timestamp,
    ids::{RoundId, TaskId},
    protocol::LedgerHead,
};
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// The two populations, with the words for people.
pub const POPULATIONS: [(Population, &str); 2] =
    [(Population::Training, "training learners"), (Population::HeldOut, "held-out learners")];

/// One day, in seconds.
const DAY: u64 = 86_400;

/// A policy's budget for each learner of a population.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Budget {
    pub epsilon: f64,
    #[serde(default = "default_delta")]
    pub delta: f64,
    /// What is spent counts for so long.
    #[serde(default = "default_days")]
    pub days: u32,
    /// Whether all the noise has to be this institution's own.
    #[serde(default)]
    pub strict: bool,
}

/// What delta is where nobody says another.
pub const DELTA: f64 = 1e-6;

fn default_delta() -> f64 {
    DELTA
}

fn default_days() -> u32 {
    365
}

impl Budget {
    /// Whether a ledger can be kept by it; the reason if not.
    pub fn check(&self) -> Result<(), String> {
        collegium_shared::accountant::Budget::new(self.epsilon, self.delta)
            .map_err(|error| error.to_string())?;
        if !(1..=36_500).contains(&self.days) {
            return Err(format!("days is {}; use 1 to 36500", self.days));
        }
        Ok(())
    }

    /// How long a charge counts.
    pub fn period(&self) -> Duration {
        Duration::from_secs(u64::from(self.days) * DAY)
    }
}

/// The ledger cannot be added up: a charge in it was more than any figure says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("the ledger cannot be added up: what was charged passes every figure; no budget covers it")]
pub struct LedgerError;

/// One entry.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Line {
    pub at: Timestamp,
    pub what: What,
}

/// What learners' records were used for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "what", rename_all = "snake_case")]
pub enum What {
    /// One sum of a private task.
    Charged {
        round: RoundId,
        stage: String,
        /// How many may collude by the plan.
        c_max: u16,
        charges: Vec<Charge>,
    },
    /// Sums without noise: no figure bounds what they tell. One line for each task.
    Unbounded { task: TaskId, rounds: u64 },
    /// What an older backup had forgotten of the ledger, at most.
    Forgotten { entries: u64, rho: BTreeMap<Population, f64> },
}

/// The ledger.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Ledger {
    lines: Vec<Line>,
    /// Charged inputs, whether this directory remembers them or not.
    entries: u64,
    /// What each population ever spent, added up as it was; none once it cannot be added up.
    ever: Option<BTreeMap<Population, Spent>>,
}

impl Default for Ledger {
    fn default() -> Self {
        Self { lines: Vec::new(), entries: 0, ever: Some(BTreeMap::new()) }
    }
}

// --- What happened ---------------------------------------------------------------------------

impl Ledger {
    /// An input of a private task was fixed.
    pub fn charge(
        &mut self,
        (round, stage): (RoundId, &str),
        c_max: u16,
        charges: Vec<Charge>,
        at: Timestamp,
    ) {
        self.entries += 1;
        for charge in &charges {
            self.add(charge.population, charge.spent());
        }
        let what = What::Charged { round, stage: stage.to_owned(), c_max, charges };
        self.lines.push(Line { at, what });
    }

    fn add(&mut self, population: Population, more: Result<Spent, AccountantError>) {
        let added = self.ever.take().zip(more.ok()).and_then(|(mut ever, more)| {
            let sum = ever.entry(population).or_default().plus(&more).ok()?;
            ever.insert(population, sum);
            Some(ever)
        });
        self.ever = added;
    }

    /// An input without noise was fixed that was made of records.
    pub fn unbounded(&mut self, of: &TaskId, at: Timestamp) {
        for line in &mut self.lines {
            match &mut line.what {
                What::Unbounded { task, rounds } if task == of => {
                    (*rounds, line.at) = (*rounds + 1, at);
                    return;
                }
                _ => {}
            }
        }
        self.lines.push(Line { at, what: What::Unbounded { task: of.clone(), rounds: 1 } });
    }

    /// The coordinator showed a head that this institution had signed, and that is ahead.
    pub fn behind(&mut self, entries: u64, rho: BTreeMap<Population, f64>, at: Timestamp) {
        rho.iter().for_each(|(population, rho)| self.add(*population, Spent::linear(*rho)));
        let forgotten = entries.saturating_sub(self.entries);
        self.entries = self.entries.max(entries);
        self.lines.push(Line { at, what: What::Forgotten { entries: forgotten, rho } });
    }
}

// --- What is ---------------------------------------------------------------------------------

impl Ledger {
    pub fn lines(&self) -> &[Line] {
        &self.lines
    }

    /// What each learner of a population ever spent.
    pub fn ever(&self, population: Population) -> Result<Spent, LedgerError> {
        let ever = self.ever.as_ref().ok_or(LedgerError)?;
        Ok(ever.get(&population).cloned().unwrap_or_default())
    }

    /// What each learner of a population spent after `since`.
    pub fn spent(
        &self,
        population: Population,
        since: Timestamp,
    ) -> Result<Spent, AccountantError> {
        // Steps of one task cost the same.
        let mut alike: BTreeMap<[u64; 4], (&Charge, u64)> = BTreeMap::new();
        let mut spent = Spent::default();
        for line in self.lines.iter().filter(|line| line.at > since) {
            match &line.what {
                What::Charged { charges, .. } => {
                    for charge in charges.iter().filter(|c| c.population == population) {
                        alike.entry(bits(charge)).or_insert((charge, 0)).1 += 1;
                    }
                }
                What::Forgotten { rho, .. } => {
                    let rho = rho.get(&population).copied().unwrap_or(0.0);
                    spent = spent.plus(&Spent::linear(rho)?)?;
                }
                What::Unbounded { .. } => {}
            }
        }
        for (charge, times) in alike.into_values() {
            spent = spent.plus(&charge.spent()?.times(times)?)?;
        }
        Ok(spent)
    }

    /// Everything since the beginning, as this institution signs it with each READY.
    pub fn head(&self) -> Result<LedgerHead, LedgerError> {
        let rho = |population| -> Result<f64, LedgerError> {
            let spent = self.ever(population)?;
            // The least slope of a line through 0 that is nowhere below the curve.
            Ok(spent.divergences().map(|(order, d)| d / f64::from(order)).fold(0.0, f64::max))
        };
        let (training, held_out) = (rho(Population::Training)?, rho(Population::HeldOut)?);
        Ok(LedgerHead { entries: self.entries, training, held_out })
    }

    /// What this ledger has forgotten by a head that this institution signed; none if nothing.
    pub fn gap(&self, seen: &LedgerHead) -> Result<Option<BTreeMap<Population, f64>>, LedgerError> {
        if seen.entries <= self.entries {
            return Ok(None);
        }
        let own = self.head()?;
        let gap = [
            (Population::Training, seen.training - own.training),
            (Population::HeldOut, seen.held_out - own.held_out),
        ];
        Ok(Some(gap.into_iter().map(|(population, rho)| (population, rho.max(0.0))).collect()))
    }

    /// Whether `charges` fit a budget now; the reason if not, in words.
    pub fn check(&self, charges: &[Charge], budget: &Budget, now: Timestamp) -> Result<(), String> {
        let words = |error: AccountantError| error.to_string();
        for (population, name) in POPULATIONS {
            let own: Vec<&Charge> = charges.iter().filter(|c| c.population == population).collect();
            if own.is_empty() {
                continue;
            }
            let mut more = Spent::default();
            for charge in own {
                more = more.plus(&charge.spent().map_err(words)?).map_err(words)?;
            }
            let after = |since| -> Result<f64, AccountantError> {
                let spent = self.spent(population, since)?.plus(&more)?;
                Ok(spent.epsilon(budget.delta)?.value())
            };
            let since = now - budget.period();
            let (total, most) = (after(since).map_err(words)?, budget.epsilon);
            if total > most {
                let days = budget.days;
                let room = self.room(budget, |since| after(since).is_ok_and(|total| total <= most));
                return Err(format!(
                    "it would bring what {name} spend in {days} days to epsilon {total:.3}, past this \
                     institution's budget of {most}; {room}"
                ));
            }
        }
        Ok(())
    }

    /// When enough of what was spent is over, in words.
    fn room(&self, budget: &Budget, fits: impl Fn(Timestamp) -> bool) -> String {
        let mut times: Vec<Timestamp> = self.lines.iter().map(|line| line.at).collect();
        times.sort();
        // The later, the less counts.
        let over = times.get(times.partition_point(|at| !fits(*at)));
        match over {
            Some(at) => format!("there is room for it from {} on", *at + budget.period()),
            None => "the budget alone is too small for it".to_owned(),
        }
    }
}

/// The charge's parameters, to know equal ones by.
fn bits(charge: &Charge) -> [u64; 4] {
    let DistributedNoise { sensitivity, parties, party_variance, dimension } = charge.noise;
    [sensitivity.to_bits(), parties.into(), party_variance.to_bits(), dimension]
}

#[cfg(test)]
mod tests {
    use collegium_shared::accountant::{DistributedNoise, gaussian};
    use proptest::{collection::vec, prelude::*};

    use super::*;

    fn round(task: &str, number: u32) -> RoundId {
        RoundId { task: task.parse().unwrap(), round: number, attempt: 0 }
    }

    /// With a noise multiplier of `noise`.
    fn charge(population: Population, noise: f64) -> Charge {
        let party_variance = (1_000.0 * noise).powi(2) / 3.0;
        let noise =
            DistributedNoise { sensitivity: 1_000.0, parties: 3, party_variance, dimension: 17 };
        Charge { population, noise }
    }

    fn budget(epsilon: f64) -> Budget {
        Budget { epsilon, delta: DELTA, days: 10, strict: false }
    }

    fn day(day: i64) -> Timestamp {
        Timestamp::from_millis(day * 86_400_000)
    }

    fn epsilon(ledger: &Ledger, population: Population, since: Option<Timestamp>) -> f64 {
        let spent = match since {
            Some(since) => ledger.spent(population, since).unwrap(),
            None => ledger.ever(population).unwrap(),
        };
        spent.epsilon(DELTA).unwrap().value()
    }

    #[test]
    fn charges_add_up_over_tasks_and_populations_are_apart() {
        let mut ledger = Ledger::default();
        ledger.charge(
            (round("a", 0), "statistics"),
            1,
            vec![charge(Population::Training, 2.0)],
            day(1),
        );
        ledger.charge((round("b", 0), "train"), 1, vec![charge(Population::Training, 2.0)], day(2));
        ledger.charge(
            (round("b", 1), "evaluate"),
            1,
            vec![charge(Population::HeldOut, 2.0)],
            day(3),
        );
        let once = gaussian(2.0).unwrap();
        let twice = once.times(2).unwrap();
        let close = |a: f64, b: f64| assert!((a - b).abs() < 1e-9, "{a} {b}");
        close(epsilon(&ledger, Population::Training, None), twice.epsilon(DELTA).unwrap().value());
        close(epsilon(&ledger, Population::HeldOut, None), once.epsilon(DELTA).unwrap().value());
        let later = epsilon(&ledger, Population::Training, Some(day(1)));
        close(later, once.epsilon(DELTA).unwrap().value());
        let head = ledger.head().unwrap();
        assert_eq!(head.entries, 3);
        close(head.training, 0.25);
        close(head.held_out, 0.125);
    }

    #[test]
    fn a_plan_past_the_budget_is_refused_with_both_numbers_and_a_date() {
        let mut ledger = Ledger::default();
        let asked = [charge(Population::Training, 2.0)];
        let one = gaussian(2.0).unwrap().epsilon(DELTA).unwrap().value();
        let two = gaussian(2.0).unwrap().times(2).unwrap().epsilon(DELTA).unwrap().value();
        let budget = budget(f64::midpoint(one, two));
        assert_eq!(ledger.check(&asked, &budget, day(3)), Ok(()));
        ledger.charge((round("a", 0), "train"), 1, asked.to_vec(), day(3));
        let refused = ledger.check(&asked, &budget, day(4)).unwrap_err();
        let (total, most) = (format!("{two:.3}"), budget.epsilon.to_string());
        for words in ["training learners", "in 10 days", &total, &most, "1970-01-14"] {
            assert!(refused.contains(words), "{words:?} is not in: {refused}");
        }
        // Held-out learners have spent nothing; and after ten days it is over.
        assert_eq!(ledger.check(&[charge(Population::HeldOut, 2.0)], &budget, day(4)), Ok(()));
        assert!(ledger.check(&asked, &budget, day(12)).is_err());
        assert_eq!(ledger.check(&asked, &budget, day(14)), Ok(()));
        let large = [charge(Population::Training, 0.01)];
        let never = Ledger::default().check(&large, &budget, day(1)).unwrap_err();
        assert!(never.contains("too small"), "{never}");
    }

    #[test]
    fn what_a_backup_forgot_is_debited_at_least_in_full() {
        let mut whole = Ledger::default();
        let both = || vec![charge(Population::Training, 3.0), charge(Population::HeldOut, 5.0)];
        whole.charge((round("a", 0), "train"), 1, both(), day(1));
        let mut restored = whole.clone();
        whole.charge((round("a", 1), "train"), 1, both(), day(2));
        whole.charge((round("a", 2), "train"), 1, vec![charge(Population::Training, 1.0)], day(3));
        let seen = whole.head().unwrap();
        assert_eq!(whole.gap(&seen).unwrap(), None);
        assert_eq!(whole.gap(&restored.head().unwrap()).unwrap(), None, "older words say nothing");
        let gap = restored.gap(&seen).unwrap().unwrap();
        restored.behind(seen.entries, gap, day(9));
        for (population, _) in POPULATIONS {
            let (lost, kept) =
                (epsilon(&restored, population, None), epsilon(&whole, population, None));
            assert!(lost >= kept - 1e-9 && lost < kept + 1e-6, "{population:?}: {lost} {kept}");
        }
        assert_eq!(restored.head().unwrap().entries, 3);
        assert_eq!(restored.gap(&seen).unwrap(), None, "once");
        // It counts from the day on which it was found, not from a day that nobody knows.
        assert!(restored.check(&both(), &budget(1.0), day(12)).is_err());
    }

    #[test]
    fn rounds_without_noise_are_one_line_for_each_task() {
        let mut ledger = Ledger::default();
        for (task, at) in [("a", 1), ("b", 2), ("a", 3)] {
            ledger.unbounded(&task.parse().unwrap(), day(at));
        }
        let lines: Vec<_> = ledger.lines().iter().map(|line| (line.at, &line.what)).collect();
        assert!(matches!(lines[..], [
            (first, What::Unbounded { rounds: 2, .. }),
            (_, What::Unbounded { rounds: 1, .. }),
        ] if first == day(3)));
        assert_eq!(epsilon(&ledger, Population::Training, None), 0.0);
    }

    #[test]
    fn budgets_that_are_none_are_refused() {
        for bad in [budget(0.0), budget(f64::NAN), Budget { delta: 1.0, ..budget(1.0) }] {
            assert!(bad.check().is_err(), "{bad:?}");
        }
        assert!(Budget { days: 0, ..budget(1.0) }.check().unwrap_err().contains("days"));
        assert_eq!(budget(4.0).check(), Ok(()));
    }

    proptest! {
        /// Whatever happens, nothing is given back: within its period every charge counts.
        #[test]
        fn what_is_spent_never_falls(noises in vec((0.5..50.0_f64, any::<bool>(), 0..5_i64), 1..20)) {
            let mut ledger = Ledger::default();
            let (mut before, mut charged) = ([0.0; 2], Vec::new());
            let mut at = 0;
            for (number, (noise, held_out, days)) in (0..).zip(noises) {
                at += days;
                let population =
                    if held_out { Population::HeldOut } else { Population::Training };
                ledger.charge((round("t", number), "train"), 1, vec![charge(population, noise)], day(at));
                for ((population, _), before) in POPULATIONS.into_iter().zip(&mut before) {
                    let spent = epsilon(&ledger, population, None);
                    prop_assert!(spent >= *before);
                    *before = spent;
                    prop_assert!(epsilon(&ledger, population, Some(day(at - 10))) <= spent + 1e-9);
                }
                charged.push((day(at), charge(population, noise)));
                for since in [at - 10, at - 3] {
                    let within = charged
                        .iter()
                        .filter(|(at, one)| *at > day(since) && one.population == population);
                    let expected = within.fold(Spent::default(), |sum, (_, one)| {
                        sum.plus(&one.spent().unwrap()).unwrap()
                    });
                    let expected = expected.epsilon(DELTA).unwrap().value();
                    let found = epsilon(&ledger, population, Some(day(since)));
                    prop_assert!((found - expected).abs() < 1e-9, "{found}, not {expected}");
                }
                let json = serde_json::to_string(&ledger).unwrap();
                prop_assert_eq!(&serde_json::from_str::<Ledger>(&json).unwrap(), &ledger);
            }
        }
    }
}
