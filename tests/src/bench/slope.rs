//! Whether memory grows with the number of rounds: what each process holds after each look, and the
//! slope of a line through that.

use clap::Args;
use serde_json::{Value, json};

use super::{consortium::Consortium, statistics::Line, usage::Usage};

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
    let agent = agents[0];
    consortium.start_task(options.parameters, options.warm_up + options.rounds)?;
    let (mut rounds, mut held) = (Vec::new(), [Vec::new(), Vec::new()]);
    consortium.await_task(|done| {
        if done > u64::from(options.warm_up) && rounds.last() != Some(&done) {
            rounds.push(done);
            for (pid, held) in [coordinator, agent].into_iter().zip(&mut held) {
                held.push(Usage::of(pid)?.resident as f64);
            }
        }
        Ok(())
    })?;
    consortium.network.stop()?;
    let looks = rounds.len();
    let span = rounds.last().zip(rounds.first()).map_or(0, |(last, first)| last - first);
    let per_look = span as f64 / (looks.max(2) - 1) as f64;
    let [coordinator, agent] = held.map(|held| describe(&held, per_look));
    Ok(json!({
        "institutions": options.institutions,
        "parameters": options.parameters,
        "rounds": span,
        "looks": looks,
        "coordinator": coordinator,
        "agent": agent,
    }))
}

fn describe(held: &[f64], rounds_per_look: f64) -> Value {
    let line = Line::through(held);
    json!({
        "first_bytes": held.first(),
        "last_bytes": held.last(),
        "slope_bytes_per_round": line.map(|line| line.slope / rounds_per_look),
        "slope_error_bytes_per_round": line.map(|line| line.error / rounds_per_look),
    })
}
