//! The comparison for a task whose model is a neural network. What an institution serves is always the shared
//! layers with what it keeps to itself, so that the federated model and the personal one are the same.

use collegium_agent::evaluate::{Report, network::report};
use collegium_coordinator::task::TaskSpec;
use collegium_shared::architecture::Target;

use super::{
    Cli,
    outcome::{Outcome, Row},
};
use crate::bench::{DELTA, Networks};

/// What stays at home is fitted anew for each look at the shared weights.
const LOOK_EVERY: u32 = 5;

/// All ways of learning on one set.
pub(super) fn measure(cli: &Cli, set: super::Set, spec: TaskSpec) -> anyhow::Result<Vec<Row>> {
    let name = set.name;
    let networks = &mut Networks::new(set.institutions, spec)?;
    let alone = report(&networks.alone()?);
    let outcome = |mode: &str, runs: &[Report]| {
        eprintln!("{name}: {mode}");
        Row::new(&name, mode, Outcome::of(runs, &alone))
    };
    let mut rows = vec![outcome("alone", std::slice::from_ref(&alone))];
    let pooled = report(&networks.pooled()?);
    rows.push(outcome("pooled", std::slice::from_ref(&pooled)));
    let mut reached = Vec::new();
    let trained = networks.followed(LOOK_EVERY, &mut |round, predicted| {
        reached.push((round, report(predicted).together.auc));
    })?;
    let federated = report(&networks.predicted(&trained)?);
    let row = outcome("federated", std::slice::from_ref(&federated));
    rows.push(row.with_rounds(&reached, pooled.together.auc));
    let half = (1..=cli.repetitions)
        .map(|seed| {
            let trained = networks.plain(0.5, seed)?;
            Ok(report(&networks.predicted(&trained)?))
        })
        .collect::<anyhow::Result<Vec<_>>>()?;
    rows.push(outcome("federated, half of them away", &half));
    rows.push(outcome("personal", &[federated]));
    for epsilon in &cli.epsilons {
        let target = Target { epsilon: *epsilon, delta: DELTA };
        let privacy = networks.propose(target, cli.private_steps)?;
        let runs = (0..cli.repetitions)
            .map(|_| {
                let trained = networks.private(privacy, cli.private_steps)?;
                Ok(report(&networks.predicted(&trained)?))
            })
            .collect::<anyhow::Result<Vec<_>>>()?;
        rows.push(outcome(&format!("epsilon {epsilon}"), &runs));
    }
    Ok(rows)
}
