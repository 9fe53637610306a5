//! Whether memory grows with the number of rounds: what each process holds at each look, beside the files
//! that it has mapped, and how that drifts.

use clap::Args;
use serde_json::{Value, json};

use super::{
    consortium::Consortium,
    statistics::{Drift, Point},
    usage::Usage,
};

/// What is measured.
#[derive(Clone, Debug, Args)]
pub(super) struct Options {
    #[arg(long, default_value_t = 4)]
    institutions: usize,
    #[arg(long, default_value_t = 10_000)]
    parameters: usize,
    /// Rounds that count.
    #[arg(long, default_value_t = 300)]
    rounds: u32,
    /// Rounds before them: caches fill, and the allocator finds its size.
    #[arg(long, default_value_t = 50)]
    warm_up: u32,
}

pub(super) fn run(options: &Options) -> anyhow::Result<Value> {
    let mut consortium = Consortium::start(options.institutions)?;
    let (coordinator, agents) = consortium.processes()?;
    consortium.start_task(options.parameters, options.warm_up + options.rounds)?;
    let (mut coordinator_held, mut agents_held): (Vec<Point>, Vec<Point>) = Default::default();
    let mut last = u64::from(options.warm_up);
    consortium.await_task(|done| {
        if done > last {
            last = done;
            let round = done as f64;
            coordinator_held.push((round, Usage::of(coordinator)?.anonymous as f64));
            agents_held.push((round, mean_held(&agents)?));
        }
        Ok(())
    })?;
    consortium.network.stop()?;
    let ends = coordinator_held.first().zip(coordinator_held.last());
    Ok(json!({
        "institutions": options.institutions,
        "parameters": options.parameters,
        "rounds": ends.map(|(first, last)| last.0 - first.0),
        "looks": coordinator_held.len(),
        "coordinator": describe(&coordinator_held),
        "agent": describe(&agents_held),
    }))
}

/// What one of these processes holds on average, in bytes.
fn mean_held(processes: &[u32]) -> anyhow::Result<f64> {
    let mut sum = 0.0;
    for pid in processes {
        sum += Usage::of(*pid)?.anonymous as f64;
    }
    Ok(sum / processes.len() as f64)
}

fn describe(held: &[Point]) -> Value {
    let drift = Drift::of(held);
    json!({
        "first_bytes": held.first().map(|(_, held)| held),
        "last_bytes": held.last().map(|(_, held)| held),
        "slope_bytes_per_round": drift.map(|drift| drift.slope),
        "slope_error_bytes_per_round": drift.map(|drift| drift.error),
        "zero_within_noise": drift.map(|drift| drift.is_zero()),
    })
}
