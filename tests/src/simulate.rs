//! A whole federation in one thread, without processes, sockets or a clock: the real machines over a
//! simulated disk, line and time, driven by operations that a seed gives. Owns the run over many small
//! worlds, the report, and the repetition of a failure; the same seed gives the same run.
//!
//! What is real: the coordinator's `network`, `task`, `round`, `draft` and `views`, the shares' check and
//! the unmasking in `aggregate`; the agent's `state`, `session` and the statements of `rounds`; everything
//! in `shared`: rosters, signatures, certificates, dealing, masking, recovery. What is made again, thinly and
//! in the same order, because there it is sockets, threads and files: `driver`, `rpc` and `work`
//! (`coordinator`), `runner`, `home` and `session_file` (`agent`), `journal` and file systems (`disk`), gRPC
//! (`wire`). What is left out: certificates and enrolment, rotation of keys, training (any words stand for
//! an input of three), the optimiser, the running sum on disk, models at the agents, pauses.
//!
//! What must hold is in `invariants`; `mutations` shows that each of it is noticed when it is broken.

mod agent;
mod coordinator;
mod disk;
mod invariants;
pub mod mutations;
mod operation;
mod shrink;
mod wire;
mod world;

use std::{collections::BTreeMap, fmt};

use anyhow::Context;
use collegium_shared::crypto::Digest;
use serde::{Deserialize, Serialize};

pub use invariants::{Invariant, Violation};
pub use mutations::Mutation;
pub use operation::Operation;
use world::World;

/// Operations of one world before it is healed. Many small worlds meet more kinds of trouble than a long
/// one, and a failure of one of them is short.
const WORLD: usize = 400;
/// The stream of a world's seed that its operations come from.
const OPERATIONS: u64 = u64::MAX;

/// What a run does.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// At least so many, the end of the last world included.
    pub operations: u64,
    pub seed: u64,
    pub mutation: Option<Mutation>,
    /// Make the operations that failed fewer.
    pub shrink: bool,
}

/// One world that can be run again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Replay {
    pub world: u64,
    pub operations: Vec<Operation>,
}

/// What was found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Failure {
    pub violation: Violation,
    pub replay: Replay,
}

/// What came of a run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    pub seed: u64,
    pub operations: u64,
    pub worlds: u64,
    /// How rounds ended.
    pub rounds: BTreeMap<&'static str, u64>,
    /// Models that were released.
    pub releases: u64,
    /// How often what went wrong.
    pub seen: BTreeMap<&'static str, u64>,
    pub violations: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failure: Option<Failure>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { seed, operations, worlds, releases, .. } = self;
        writeln!(f, "seed {seed}: {operations} operations in {worlds} worlds")?;
        let list = |counts: &BTreeMap<&str, u64>| {
            let counts: Vec<_> = counts.iter().map(|(what, n)| format!("{what} {n}")).collect();
            counts.join(", ")
        };
        writeln!(f, "rounds: {}; models released {releases}", list(&self.rounds))?;
        writeln!(f, "{}", list(&self.seen))?;
        let Some(Failure { violation, replay }) = &self.failure else {
            return writeln!(f, "every invariant held");
        };
        writeln!(f, "VIOLATION of {}: {}", violation.invariant, violation.detail)?;
        let json = serde_json::to_string(replay).unwrap_or_default();
        writeln!(
            f,
            "{} operations do it; to repeat them, put this line into a file and run",
            replay.operations.len()
        )?;
        writeln!(f, "cargo run -p collegium-tests --bin simulate -- --replay FILE\n{json}")
    }
}

/// Says which world it was if something panics in it.
struct Named(u64);

impl Drop for Named {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("this was in the world {}", self.0);
        }
    }
}

/// Runs world after world until there were enough operations, or one violates an invariant.
pub fn run(options: &Options) -> anyhow::Result<Report> {
    let Options { seed, mutation, .. } = *options;
    let mut report = Report { seed, ..Report::default() };
    while report.operations < options.operations && report.failure.is_none() {
        let number = report.worlds.to_be_bytes();
        let named = Digest::of_parts("simulated world", &[&seed.to_be_bytes(), &number]);
        let world = named.0.iter().take(8).fold(0, |seed, byte| (seed << 8) | u64::from(*byte));
        let operations = operation::generate(&mut world::generator(world, OPERATIONS), WORLD);
        let replay = Replay { world, operations };
        let ran = run_world(&replay, mutation, &mut report)
            .with_context(|| format!("in the world {world}"))?;
        if let Some(violation) = ran.violation.clone() {
            let replay = if options.shrink { shrunk(replay, &ran, mutation)? } else { replay };
            report.violations += 1;
            report.failure = Some(Failure { violation, replay });
        }
    }
    Ok(report)
}

/// Runs one world again.
pub fn replay(replay: &Replay, mutation: Option<Mutation>) -> anyhow::Result<Report> {
    let mut report = Report { seed: replay.world, ..Report::default() };
    if let Some(violation) = run_world(replay, mutation, &mut report)?.violation {
        report.violations += 1;
        report.failure = Some(Failure { violation, replay: replay.clone() });
    }
    Ok(report)
}

/// What became of one world.
struct Ran {
    violation: Option<Violation>,
    /// Operations that it took, those at its end included.
    operations: usize,
}

/// Runs one world to its healed end, or to its first violation.
fn run_world(
    replay: &Replay,
    mutation: Option<Mutation>,
    report: &mut Report,
) -> anyhow::Result<Ran> {
    let _named = Named(replay.world);
    let mut world = World::new(replay.world, mutation)?;
    let mut violation = carry_out(&mut world, &replay.operations)?;
    if violation.is_none() {
        violation = world.finish()?.err();
    }
    report.worlds += 1;
    report.operations += world.operations;
    report.releases += world.watch.releases;
    let add = |to: &mut BTreeMap<_, u64>, from: &BTreeMap<&'static str, u64>| {
        from.iter().for_each(|(what, n)| *to.entry(*what).or_default() += n);
    };
    add(&mut report.rounds, &world.watch.endings);
    add(&mut report.seen, &world.seen);
    Ok(Ran { violation, operations: usize::try_from(world.operations)? })
}

fn carry_out(world: &mut World, operations: &[Operation]) -> anyhow::Result<Option<Violation>> {
    for operation in operations {
        if let Err(violation) = world.apply(*operation)? {
            return Ok(Some(violation));
        }
    }
    Ok(None)
}

/// Fewer operations that violate the same invariant. `ran` is how it was found.
fn shrunk(replay: Replay, ran: &Ran, mutation: Option<Mutation>) -> anyhow::Result<Replay> {
    let Replay { world, mut operations } = replay;
    let wanted = ran.violation.as_ref().map(|violation| violation.invariant);
    // What came after the violation has no part in it, nor has the end then.
    let at_end = ran.operations > operations.len();
    operations.truncate(ran.operations);
    let operations = shrink::shrink(&operations, |rest| {
        let found = if at_end {
            let rest = Replay { world, operations: rest.to_vec() };
            run_world(&rest, mutation, &mut Report::default()).map(|ran| ran.violation)
        } else {
            World::new(world, mutation).and_then(|mut world| carry_out(&mut world, rest))
        };
        // A list over which the simulation stumbles fails in another way.
        found.is_ok_and(|found| found.map(|found| found.invariant) == wanted)
    });
    Ok(Replay { world, operations })
}
