//! The budget, by both logs: every input of a private plan is charged once, in full, where it is committed to
//! and within what the policy allows; and of what the coordinator ever accepted the institution's ledger
//! forgets nothing, whoever was restored since.

use std::collections::{BTreeMap, BTreeSet};

use collegium_agent::ledger::Budget;
use collegium_shared::{
    accountant::{AccountantError, Spent},
    architecture::{self, Charge, Population},
    clock::Timestamp,
    crypto::Digest,
    ids::InstitutionId,
    protocol::{Plan, Ready},
};

use super::{Invariant, Violation, broken, hold};

const POPULATIONS: [Population; 2] = [Population::Training, Population::HeldOut];
/// Relative, for sums in another order.
const SLACK: f64 = 1e-9;

/// What the plan costs each learner; nothing without noise.
fn price(plan: &Plan) -> Result<Vec<Charge>, Violation> {
    let charges = architecture::charges(plan);
    charges
        .map(Option::unwrap_or_default)
        .or_else(|error| broken(Invariant::Budget, error.to_string()))
}

fn sum<'c>(
    charges: impl IntoIterator<Item = &'c Charge>,
    population: Population,
) -> Result<Spent, AccountantError> {
    let own = charges.into_iter().filter(|charge| charge.population == population);
    own.map(Charge::spent).try_fold(Spent::default(), |sum, more| sum.plus(&more?))
}

/// What an agent's log says that it spent.
#[derive(Default)]
pub(super) struct Purse {
    price: Vec<Charge>,
    inputs: BTreeSet<Digest>,
    spent: Vec<(Timestamp, Charge)>,
}

impl Purse {
    pub(super) fn planned(&mut self, plan: &Plan) -> Result<(), Violation> {
        self.price = price(plan)?;
        Ok(())
    }

    /// An input was fixed: once in full, again for nothing, and never past the budget.
    pub(super) fn committed(
        &mut self,
        who: &InstitutionId,
        (input, charges): (Digest, &[Charge]),
        (at, budget): (Timestamp, Option<&Budget>),
    ) -> Result<(), Violation> {
        let again = !self.inputs.insert(input);
        let owed = if again { &[][..] } else { &self.price };
        hold(charges == owed, Invariant::Budget, || {
            format!("{who} charged {} times for what costs {}", charges.len(), owed.len())
        })?;
        self.spent.extend(charges.iter().map(|charge| (at, *charge)));
        let Some(budget) = budget.filter(|_| !charges.is_empty()) else { return Ok(()) };
        let since = at - budget.period();
        for population in POPULATIONS {
            let counts = self.spent.iter().filter(|(at, _)| *at > since).map(|(_, charge)| charge);
            let spent = sum(counts, population).and_then(|spent| spent.epsilon(budget.delta));
            let within =
                spent.is_ok_and(|epsilon| epsilon.value() <= budget.epsilon * (1.0 + SLACK));
            hold(within, Invariant::Budget, || format!("{who} went past its budget"))?;
        }
        Ok(())
    }
}

/// What the coordinator accepted of one institution, and the ledger that it stated with it.
#[derive(Default)]
struct Stated {
    inputs: BTreeSet<Digest>,
    entries: u64,
    charges: Vec<Charge>,
}

/// The same of all institutions.
#[derive(Default)]
pub(super) struct Heads(BTreeMap<InstitutionId, Stated>);

impl Heads {
    /// READY was accepted: its ledger has an entry more than any before for an input that is new, and
    /// covers the price of all.
    pub(super) fn accepted(&mut self, ready: &Ready, plan: &Plan) -> Result<(), Violation> {
        let price = price(plan)?;
        if price.is_empty() {
            return Ok(());
        }
        let who = &ready.institution;
        let Some(head) = ready.ledger else {
            return broken(Invariant::Budget, format!("{who} states no ledger in a private round"));
        };
        let stated = self.0.entry(who.clone()).or_default();
        let new = stated.inputs.insert(ready.commitment);
        let least = stated.entries + u64::from(new);
        hold(head.entries >= least, Invariant::Budget, || {
            format!("the ledger of {who} has {} entries, not {least}", head.entries)
        })?;
        stated.entries = head.entries;
        if new {
            stated.charges.extend(price);
        }
        for (population, rho) in POPULATIONS.into_iter().zip([head.training, head.held_out]) {
            let true_price = sum(&stated.charges, population);
            let covered = true_price.is_ok_and(|spent| {
                spent
                    .divergences()
                    .all(|(order, divergence)| rho * f64::from(order) * (1.0 + SLACK) >= divergence)
            });
            hold(covered, Invariant::Budget, || {
                format!("the ledger of {who} says less than what was accepted of it costs")
            })?;
        }
        Ok(())
    }
}
