//! Kills real processes, or takes away their disk space, at every edge that they pass, and looks whether
//! what was promised held: every round ends with the exact sum of what was committed, or with a recorded
//! reason; nothing that was durable is lost; no mask is used twice. Owns the plan of a run and its report;
//! `storm` does the harm, `checks` reads the logs afterwards.

mod checks;
mod rare;
mod stage;
mod storm;

use std::{collections::BTreeMap, fmt};

use anyhow::Context;
use clap::ValueEnum;
use collegium_shared::{clock::Clock, crypto};
use rand_chacha::{ChaCha12Rng, rand_core::SeedableRng};

use checks::Outcome;
use stage::{Edges, Stage};
use storm::{Storm, Struck};

/// Whose processes are harmed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Side {
    Coordinator,
    Agent,
    Both,
}

/// What is done to them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Harm {
    /// SIGKILL.
    Kill,
    /// Writing fails for want of space.
    Enospc,
    /// Writing fails with an input/output error.
    Eio,
}

/// When a daemon that was killed comes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Return {
    AtOnce,
    /// Often only after the open phase's deadline.
    Late,
}

/// What is going on when they are harmed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum During {
    Rounds,
    /// A daemon's first start, each of them in a directory of its own.
    FirstStarts,
    /// The replacement of an agent's and of the coordinator's signing key.
    Rotations,
}

/// What a run does.
#[derive(Clone, Debug)]
pub struct Options {
    /// Faults in all. Outside of rounds there are two for each edge and kind of work at most.
    pub faults: usize,
    pub during: During,
    pub seed: Option<u64>,
    pub side: Side,
    pub harm: Harm,
    pub back: Return,
    pub institutions: usize,
    /// Of the load test's vector.
    pub parameters: u32,
}

/// Side and edge, and how often rounds ended in which way around it.
type Strikes = BTreeMap<(&'static str, String), BTreeMap<Outcome, usize>>;

/// What came of a run.
pub struct Report {
    pub seed: u64,
    pub seconds: f32,
    pub faults: usize,
    /// Edges that were found, and how many of them were struck.
    pub edges: usize,
    struck: Strikes,
    endings: BTreeMap<Outcome, usize>,
    /// Everything that must not be. Empty if all is well.
    pub violations: Vec<String>,
}

/// Plays one undisturbed task to learn the edges and the model that comes of it, then one with faults,
/// and checks what the logs say. Prints its seed first.
pub fn run(options: &Options) -> anyhow::Result<Report> {
    let seed = options.seed.map_or_else(|| crypto::random().map(u64::from_le_bytes), Ok)?;
    println!("seed {seed}");
    let clock = Clock::system();
    let start = clock.now();
    let dir = tempfile::tempdir()?;
    let mut rng = ChaCha12Rng::seed_from_u64(seed);
    if options.during != During::Rounds {
        let found = rare::run(dir.path(), options, &mut rng);
        let found = found.map_err(|error| error.context(leave(dir)))?;
        return Ok(Report {
            seed,
            seconds: clock.now().since(start).as_secs_f32(),
            faults: found.struck.values().map(|outcomes| outcomes.values().sum::<usize>()).sum(),
            edges: found.edges,
            struck: found.struck,
            endings: found.endings,
            violations: found.violations,
        });
    }
    let (edges, models) = undisturbed(&dir.path().join("undisturbed"), options)?;
    println!(
        "{} edges at the coordinator, {} at an agent",
        edges.coordinator.len(),
        edges.agent.len()
    );
    let mut stage = Stage::set_up(&dir.path().join("struck"), options)?;
    let result = Storm::new(&mut stage, &edges, options, rng).rage();
    let kept = || format!("what is left is in {}", dir.path().display());
    let struck = match result {
        Ok(struck) => struck,
        Err(error) => return Err(error.context(leave(dir))),
    };
    let found = checks::check(&mut stage, options, &models, &struck).with_context(kept)?;
    let mut report = Report {
        seed,
        seconds: clock.now().since(start).as_secs_f32(),
        faults: struck.len(),
        edges: edges.coordinator.len() + edges.agent.len(),
        struck: BTreeMap::new(),
        endings: found.endings,
        violations: found.violations,
    };
    for (Struck { side, edge, .. }, outcome) in struck.into_iter().zip(found.outcomes) {
        *report.struck.entry((side, edge)).or_default().entry(outcome).or_default() += 1;
    }
    if !report.violations.is_empty() {
        println!("{}", leave(dir));
    }
    Ok(report)
}

/// Keeps the directory, to be looked into.
fn leave(dir: tempfile::TempDir) -> String {
    format!("what is left is in {}", dir.keep().display())
}

/// The edges that each side passes from its start through a few rounds, and the models of these rounds.
fn undisturbed(
    dir: &std::path::Path,
    options: &Options,
) -> anyhow::Result<(Edges, Vec<crypto::Digest>)> {
    let mut stage = Stage::set_up(dir, options)?;
    let edges = stage.enumerate()?;
    let models = checks::models(&stage)?;
    Ok((edges, models))
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{:<12} {:<34} {:>6}  how the round ended", "side", "edge", "faults")?;
        for ((side, edge), outcomes) in &self.struck {
            let count: usize = outcomes.values().sum();
            let told: Vec<String> = outcomes.iter().map(|(o, n)| format!("{o} {n}")).collect();
            writeln!(f, "{side:<12} {edge:<34} {count:>6}  {}", told.join(", "))?;
        }
        let told: Vec<String> = self.endings.iter().map(|(o, n)| format!("{o} {n}")).collect();
        writeln!(f, "rounds: {}", told.join(", "))?;
        let Self { faults, edges, seed, seconds, .. } = self;
        let met = self.struck.keys().filter(|(_, edge)| edge != storm::ANY_MOMENT).count();
        writeln!(
            f,
            "{faults} faults at {met} of {edges} edges in {seconds:.0} s, seed {seed}, {} violations",
            self.violations.len()
        )?;
        self.violations.iter().try_for_each(|line| writeln!(f, "VIOLATION: {line}"))
    }
}
