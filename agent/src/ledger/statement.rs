//! What the ledger says, for people: what was spent, on what, what is left, on which assumptions, and which
//! sentence may be said of it. Reads; decides nothing.

use std::{collections::BTreeMap, fmt};

use collegium_shared::{
    accountant::{AccountantError, Spent},
    architecture::Population,
    clock::Timestamp,
    ids::TaskId,
};
use serde::Serialize;

use super::{Budget, DELTA, Ledger, POPULATIONS, What};
use crate::{consent::policy_in_force, home::Home};

/// The ledger of one institution, as of now.
#[derive(Clone, Debug, Serialize)]
pub struct Statement {
    pub budget: Option<Budget>,
    pub delta: f64,
    /// What each learner spent.
    pub populations: Vec<Account>,
    /// Private tasks, by name.
    pub tasks: BTreeMap<TaskId, Charged>,
    /// Rounds of tasks without noise, which no figure bounds.
    pub without_bound: BTreeMap<TaskId, u64>,
    /// Charges that a restored backup had forgotten, and that were debited.
    pub forgotten: u64,
    /// The fewest that may collude by any of the plans; none if one of them is not known any more.
    pub c_max: Option<u16>,
    /// The most honest institutions that any charge counts on; 1: nobody else.
    pub parties: Option<u32>,
    pub may_be_said: Option<String>,
    pub may_not_be_said: Vec<&'static str>,
}

/// What each learner of a population spent, as epsilon.
#[derive(Clone, Debug, Serialize)]
pub struct Account {
    pub population: Population,
    #[serde(skip)]
    name: &'static str,
    /// In the budget's period; ever, if there is no budget.
    pub spent: f64,
    pub spent_ever: f64,
    /// Of the budget.
    pub left: Option<f64>,
    /// How many more sums like the last one fit.
    pub more: Option<u64>,
}

/// What one task cost.
#[derive(Clone, Debug, Serialize)]
pub struct Charged {
    pub sums: u64,
    pub first: Timestamp,
    pub last: Timestamp,
    /// By population.
    pub epsilon: BTreeMap<Population, f64>,
}

const MAY_NOT: [&str; 4] = [
    "\"anonymous\", or \"no personal data\"",
    "\"the coordinator cannot spoil the model\"",
    "\"protects the institution's trade secrets\": the noise hides learners, not what they have in common",
    "any epsilon for tasks without noise",
];

/// Reads the ledger of the agent's directory.
pub fn statement(home: &Home) -> anyhow::Result<Statement> {
    let policy = policy_in_force(home).ok();
    let (budget, now) = (policy.and_then(|policy| policy.privacy), home.clock.now());
    home.book.read(|state| Statement::of(state.ledger(), budget, now))
}

impl Statement {
    fn of(ledger: &Ledger, budget: Option<Budget>, now: Timestamp) -> anyhow::Result<Self> {
        let delta = budget.map_or(DELTA, |budget| budget.delta);
        let since = budget.map(|budget| now - budget.period());
        let populations = POPULATIONS
            .iter()
            .map(|(population, name)| Account::of(ledger, *population, name, budget, since))
            .collect::<Result<Vec<_>, _>>()?;
        let mut statement = Self {
            budget,
            delta,
            populations,
            tasks: tasks(ledger, delta)?,
            without_bound: BTreeMap::new(),
            forgotten: 0,
            c_max: None,
            parties: None,
            may_be_said: None,
            may_not_be_said: MAY_NOT.to_vec(),
        };
        for line in ledger.lines() {
            match &line.what {
                What::Charged { charges, c_max, .. } => {
                    statement.c_max = statement.c_max.into_iter().chain([*c_max]).min();
                    let most = charges.iter().map(|charge| charge.noise.parties).max();
                    statement.parties = statement.parties.into_iter().chain(most).max();
                }
                What::Unbounded { task, rounds } => {
                    statement.without_bound.insert(task.clone(), *rounds);
                }
                What::Forgotten { entries, .. } => statement.forgotten += entries,
            }
        }
        if statement.forgotten > 0 {
            statement.c_max = None;
        }
        statement.may_be_said = statement.sentence();
        Ok(statement)
    }

    /// What may be said; nothing while there is nothing to say it of.
    fn sentence(&self) -> Option<String> {
        if self.parties.is_none() && self.forgotten == 0 {
            return None;
        }
        // Whose noise was in what was forgotten, nobody knows.
        let alone = self.parties == Some(1) && self.forgotten == 0;
        let most = self.populations.iter().map(|account| account.spent).fold(0.0, f64::max);
        let over = match self.budget {
            Some(budget) => format!("over {} days", budget.days),
            None => "so far".to_owned(),
        };
        let rest = match self.without_bound.is_empty() {
            true => "",
            false => " in the private tasks",
        };
        let assumption = match (alone, self.c_max) {
            (true, _) => "whoever else is malicious".to_owned(),
            (false, Some(c_max)) => format!("if no more than {c_max} of the institutions collude"),
            (false, None) => "if no more institutions collude than the plans assumed".to_owned(),
        };
        Some(format!(
            "Whatever anyone learns from what left us{rest}, any one learner changes it by no more than \
             (epsilon {most:.3}, delta {:e}) {over}, by our own ledger, {assumption}.",
            self.delta
        ))
    }
}

impl Account {
    fn of(
        ledger: &Ledger,
        population: Population,
        name: &'static str,
        budget: Option<Budget>,
        since: Option<Timestamp>,
    ) -> anyhow::Result<Self> {
        let delta = budget.map_or(DELTA, |budget| budget.delta);
        let epsilon = |spent: &Spent| spent.epsilon(delta).map(|epsilon| shown(epsilon.value()));
        let ever = ledger.ever(population)?;
        let spent = match since {
            Some(since) => ledger.spent(population, since)?,
            None => ever.clone(),
        };
        let last = ledger.lines().iter().rev().find_map(|line| match &line.what {
            What::Charged { charges, .. } => {
                let own: Vec<_> = charges.iter().filter(|c| c.population == population).collect();
                (!own.is_empty()).then_some(own)
            }
            _ => None,
        });
        let more = match (budget, last) {
            (Some(budget), Some(last)) => {
                let mut one = Spent::default();
                for charge in last {
                    one = one.plus(&charge.spent()?)?;
                }
                Some(room(&spent, &one, budget)?)
            }
            _ => None,
        };
        let figure = epsilon(&spent)?;
        Ok(Self {
            population,
            name,
            spent: figure,
            spent_ever: epsilon(&ever)?,
            left: budget.map(|budget| (budget.epsilon - figure).max(0.0)),
            more,
        })
    }
}

/// Rounded up to a thousandth: what is said is never less than what was spent.
fn shown(epsilon: f64) -> f64 {
    (epsilon * 1_000.0).ceil() / 1_000.0
}

/// How many times `one` fits on top of `spent`, by halving.
fn room(spent: &Spent, one: &Spent, budget: Budget) -> Result<u64, AccountantError> {
    let fits = |times: u64| -> Result<bool, AccountantError> {
        let total = spent.plus(&one.times(times)?)?;
        Ok(total.epsilon(budget.delta)?.value() <= budget.epsilon)
    };
    let (mut fit, mut too_many) = (0, 1 << 20);
    if !fits(1)? {
        return Ok(0);
    }
    while too_many - fit > 1 {
        let middle = fit + (too_many - fit) / 2;
        if fits(middle)? { fit = middle } else { too_many = middle }
    }
    Ok(fit)
}

fn tasks(ledger: &Ledger, delta: f64) -> Result<BTreeMap<TaskId, Charged>, AccountantError> {
    let mut spent: BTreeMap<TaskId, (Charged, BTreeMap<Population, Spent>)> = BTreeMap::new();
    for line in ledger.lines() {
        let What::Charged { round, charges, .. } = &line.what else { continue };
        let new = Charged { sums: 0, first: line.at, last: line.at, epsilon: BTreeMap::new() };
        let (task, curves) =
            spent.entry(round.task.clone()).or_insert_with(|| (new, BTreeMap::new()));
        (task.sums, task.last) = (task.sums + 1, line.at);
        for charge in charges {
            let curve = curves.entry(charge.population).or_default();
            *curve = curve.plus(&charge.spent()?)?;
        }
    }
    let mut tasks = BTreeMap::new();
    for (name, (mut task, curves)) in spent {
        for (population, curve) in curves {
            task.epsilon.insert(population, shown(curve.epsilon(delta)?.value()));
        }
        tasks.insert(name, task);
    }
    Ok(tasks)
}

impl fmt::Display for Statement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let line = |f: &mut fmt::Formatter<'_>, name: &str, value: String| {
            writeln!(f, "{name:<15}{value}")
        };
        match &self.budget {
            Some(budget) => {
                let Budget { epsilon, days, strict, .. } = budget;
                let own = if *strict { ", all noise our own" } else { "" };
                let words =
                    format!("epsilon {epsilon} at delta {:e} in {days} days{own}", self.delta);
                line(f, "budget", words)?;
            }
            None => line(f, "budget", "none: the policy has no [privacy]".to_owned())?,
        }
        for account in &self.populations {
            let Account { name, spent, left, more, .. } = account;
            let left = left.map(|left| format!(", {left:.3} left")).unwrap_or_default();
            let more = more.map(|more| format!(" (about {more} more sums like the last)"));
            let spent = format!("each spent epsilon {spent:.3}{left}{}", more.unwrap_or_default());
            line(f, if *name == "training learners" { "training" } else { "held out" }, spent)?;
        }
        for (name, task) in &self.tasks {
            let Charged { sums, first, last, epsilon } = task;
            let of = |population| epsilon.get(population).copied().unwrap_or(0.0);
            let (training, held_out) = (of(&Population::Training), of(&Population::HeldOut));
            line(
                f,
                "task",
                format!(
                    "{name}: {sums} sums from {first} to {last}; training {training:.3}, held out \
                     {held_out:.3}"
                ),
            )?;
        }
        if self.forgotten > 0 {
            let count = self.forgotten;
            let words = format!("{count} sums that a backup had forgotten are counted in full");
            line(f, "restored", words)?;
        }
        for (task, rounds) in &self.without_bound {
            line(
                f,
                "NO BOUND",
                format!("{task}: {rounds} sums without noise; no figure bounds them"),
            )?;
        }
        self.explain(f)
    }
}

impl Statement {
    fn explain(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(sentence) = &self.may_be_said else {
            writeln!(f, "Nothing was spent: this institution took part in no private task.")?;
            return self.not_to_be_said(f);
        };
        writeln!(
            f,
            "\nEpsilon measures how much any one learner's records can change what anyone learns"
        )?;
        writeln!(
            f,
            "from everything that left. At 0 nothing changes; at 1 any conclusion becomes at most"
        )?;
        writeln!(
            f,
            "2.7 times as likely, at 4 at most 55 times. Delta is the chance that this fails."
        )?;
        writeln!(f, "\nIt assumes that")?;
        writeln!(
            f,
            "- a learner is one person's records here, either trained on or held out, for good;"
        )?;
        match self.parties {
            Some(1) if self.forgotten == 0 => {
                writeln!(f, "- nobody else need be honest: all the noise was this agent's own;")?
            }
            Some(parties) => {
                writeln!(
                    f,
                    "- up to {parties} honest institutions were in each sum, as its plan asked for, and"
                )?;
                writeln!(f, "  kept their noise to themselves; the votes saw to the number;")?;
            }
            None => {}
        }
        writeln!(f, "- nobody reads this machine's memory, and its random numbers are random;")?;
        writeln!(f, "- a backup of this directory was not restored in secret.")?;
        writeln!(f, "\nMay be said:\n  {sentence}")?;
        self.not_to_be_said(f)
    }

    fn not_to_be_said(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "May not be said:")?;
        self.may_not_be_said.iter().try_for_each(|words| writeln!(f, "- {words}"))
    }
}

#[cfg(test)]
mod tests {
    use collegium_shared::{accountant::DistributedNoise, architecture::Charge, ids::RoundId};

    use super::*;

    fn charge(parties: u32) -> Charge {
        let noise =
            DistributedNoise { sensitivity: 1_000.0, parties, party_variance: 1e7, dimension: 9 };
        Charge { population: Population::Training, noise }
    }

    fn said(ledger: &Ledger) -> String {
        let budget = Budget { epsilon: 9.0, delta: DELTA, days: 10, strict: false };
        let now = Timestamp::from_millis(1_000);
        Statement::of(ledger, Some(budget), now).unwrap().to_string()
    }

    fn charged(of: &[u32]) -> Ledger {
        let mut ledger = Ledger::default();
        for (number, parties) in (0..).zip(of) {
            let round = RoundId { task: "t".parse().unwrap(), round: number, attempt: 0 };
            let charges = vec![charge(*parties)];
            ledger.charge((round, "train"), 2, charges, Timestamp::from_millis(9));
        }
        ledger
    }

    #[test]
    fn the_sentence_assumes_what_the_weakest_sum_did() {
        let alone = said(&charged(&[1, 1]));
        assert!(alone.contains("whoever else is malicious") && alone.contains("this agent's own"));
        for others in [&[3][..], &[1, 3], &[21, 3]] {
            let words = said(&charged(others));
            assert!(words.contains("if no more than 2 of the institutions collude"), "{words}");
            assert!(!words.contains("whoever else"), "{words}");
        }
        assert!(said(&charged(&[21, 3])).contains("up to 21 honest"));
        let mut restored = charged(&[1]);
        restored.behind(5, BTreeMap::from([(Population::Training, 0.1)]), Timestamp::EPOCH);
        let words = said(&restored);
        assert!(!words.contains("whoever else"), "nobody knows whose noise that was: {words}");
        assert!(words.contains("than the plans assumed"), "nor how many could collude: {words}");
    }

    #[test]
    fn nothing_is_said_to_be_nothing_that_was_forgotten() {
        let nothing = said(&Ledger::default());
        assert!(nothing.contains("Nothing was spent") && nothing.contains("May not be said"));
        let mut restored = Ledger::default();
        let rho = BTreeMap::from([(Population::Training, 0.1)]);
        restored.behind(5, rho, Timestamp::from_millis(9));
        let words = said(&restored);
        assert!(words.contains("5 sums that a backup had forgotten"), "{words}");
        assert!(!words.contains("Nothing was spent") && words.contains("May be said"), "{words}");
        let mut exact = Ledger::default();
        exact.unbounded(&"u".parse().unwrap(), Timestamp::from_millis(9));
        assert!(said(&exact).contains("NO BOUND       u: 1 sums without noise"));
    }
}
