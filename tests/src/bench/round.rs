//! Rounds of `load-test/1` through real processes: the model down to every agent, a masked update of
//! every agent up, the sum opened, the next model made. No training, and nothing left out but that.

use std::collections::BTreeMap;

use clap::Args;
use serde_json::{Value, json};

use super::{
    consortium::{self, Consortium},
    peer::Peer,
    statistics::median,
    sums::Course,
    usage::Usage,
};

/// What is measured.
#[derive(Clone, Debug, Args)]
pub(super) struct Options {
    #[arg(long, default_value_t = 10)]
    institutions: usize,
    #[arg(long, default_value_t = 1_000_000)]
    parameters: usize,
    /// Rounds in each turn; the first does not count.
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(2..))]
    rounds: u32,
    /// How often this and the peer are measured, one after the other.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    turns: u32,
    #[command(flatten)]
    peer: Peer,
}

/// What one network of processes needed.
struct Measured {
    walls: Vec<f64>,
    phase_walls: BTreeMap<&'static str, Vec<f64>>,
    coordinator_cpu: f64,
    agent_cpu: f64,
    upload_bytes_per_parameter: f64,
    coordinator_idle: u64,
    coordinator_growth: u64,
    agent_peak: u64,
}

pub(super) fn run(options: &Options) -> anyhow::Result<Value> {
    let (mut own, mut peer) = (Vec::new(), Vec::new());
    for turn in 1..=options.turns {
        eprintln!("turn {turn} of {}", options.turns);
        own.push(measure(options)?);
        let rounds = usize::try_from(options.rounds)?;
        let numbers = [options.parameters, options.institutions, rounds];
        peer.extend(options.peer.run(&numbers, &["round_wall_s"])?);
    }
    Ok(report(options, &own, &peer))
}

fn measure(options: &Options) -> anyhow::Result<Measured> {
    let mut consortium = Consortium::start(options.institutions)?;
    let (coordinator, agents) = consortium.processes()?;
    let before = consortium::begin(&[&[coordinator], agents.as_slice()].concat())?;
    consortium.start_task(options.parameters, options.rounds)?;
    consortium.await_task(|_| Ok(()))?;
    let (after, agents_after) = (
        Usage::of(coordinator)?,
        agents.iter().map(|pid| Usage::of(*pid)).collect::<anyhow::Result<Vec<_>>>()?,
    );
    let course = Course::read(&consortium.coordinator_dir())?;
    course.check(&consortium.coordinator_dir())?;
    let (bytes, values) = consortium.uploaded()?;
    let rounds = f64::from(options.rounds);
    let agent_cpu: f64 = agents_after.iter().zip(&before[1..]).map(|(a, b)| a.cpu - b.cpu).sum();
    let measured = Measured {
        walls: course.walls().into_iter().skip(1).collect(),
        phase_walls: course.phase_walls(),
        coordinator_cpu: (after.cpu - before[0].cpu) / rounds,
        agent_cpu: agent_cpu / rounds / agents.len() as f64,
        upload_bytes_per_parameter: bytes as f64 / values as f64,
        coordinator_idle: before[0].resident,
        coordinator_growth: after.peak.saturating_sub(before[0].resident),
        agent_peak: agents_after.iter().map(|usage| usage.peak).max().unwrap_or(0),
    };
    consortium.network.stop()?;
    Ok(measured)
}

fn report(options: &Options, own: &[Measured], peer: &[Value]) -> Value {
    let walls: Vec<f64> = own.iter().flat_map(|m| m.walls.iter().copied()).collect();
    let middle = |of: fn(&Measured) -> f64| median(&own.iter().map(of).collect::<Vec<_>>());
    let most = |of: fn(&Measured) -> u64| own.iter().map(of).max();
    let wall = median(&walls);
    let mut phases: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
    for (phase, walls) in own.iter().flat_map(|m| &m.phase_walls) {
        phases.entry(phase).or_default().extend(walls);
    }
    let phases: BTreeMap<_, _> = phases.iter().map(|(phase, s)| (phase, median(s))).collect();
    let mut report = json!({
        "institutions": options.institutions,
        "parameters": options.parameters,
        "rounds": walls.len(),
        "exact": true,
        "round_wall_s": wall,
        "round_wall_spread_s": [
            walls.iter().copied().reduce(f64::min),
            walls.iter().copied().reduce(f64::max),
        ],
        "phase_wall_s": phases,
        "coordinator_cpu_s": middle(|m| m.coordinator_cpu),
        "agent_cpu_s": middle(|m| m.agent_cpu),
        "upload_bytes_per_parameter": middle(|m| m.upload_bytes_per_parameter),
        "coordinator_idle_bytes": most(|m| m.coordinator_idle),
        "coordinator_peak_growth_bytes": most(|m| m.coordinator_growth),
        "agent_peak_bytes": most(|m| m.agent_peak),
    });
    let theirs: Vec<f64> = peer.iter().filter_map(|p| p["round_wall_s"].as_f64()).collect();
    if let (Some(theirs), Some(ours)) = (median(&theirs), wall) {
        report["peer"] = peer[0]["peer"].clone();
        report["peer_round_wall_s"] = theirs.into();
        report["ratio"] = (ours / theirs).into();
        report["peer_runs"] = peer.into();
    }
    report
}
