//! Learner-level privacy, attacked: which learners a released model gives away, and how much epsilon must
//! at least be by what a coordinator sees of one learner made for it. What an attack finds is no proof that
//! there is no better one.

mod bounds;
mod canary;
mod counts;
mod curve;
mod inference;

use std::path::PathBuf;

use clap::Args;
use serde_json::{Value, json};

use super::{
    federation::{read, simulated},
    privacy::DELTA,
};

/// What is attacked, and how often.
#[derive(Clone, Debug, Args)]
pub(super) struct Options {
    /// Real records: a file with a column that says the institution, called like a mapping in
    /// tests/mappings. Without it, the simulator's. The canary has small institutions of its own.
    #[arg(long, value_name = "PATH")]
    data: Option<PathBuf>,
    /// The budgets of tasks whose learners are to be found.
    #[arg(long, value_name = "E", value_delimiter = ',', default_values_t = [8.0, 4.0, 2.0])]
    epsilons: Vec<f64>,
    /// Models for each budget, an even number; each learner is in half of them. 0 leaves the inference out.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(0..=4_096))]
    models: u32,
    /// Private optimiser steps.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    steps: u32,
    /// Steps of the task without noise.
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    plain_steps: u32,
    /// Decides who is in which model, and the resampling of intervals; noise has no seed.
    #[arg(long, default_value_t = 20_261_123)]
    seed: u64,
    /// The epsilon that is claimed to the canary.
    #[arg(long, value_name = "E", default_value_t = 4.0)]
    claim: f64,
    /// How much of the claimed noise the institutions add, as standard deviations. 1 is the product; less
    /// is a broken one, which must show.
    #[arg(long, value_name = "F", value_delimiter = ',', default_values_t = [1.0, 0.5, 0.25, 0.0])]
    noise: Vec<f64>,
    /// Tasks with the canary, and as many without, for each noise, an even number. 0 leaves it out.
    #[arg(long, default_value_t = 4_000, value_parser = clap::value_parser!(u32).range(0..=1_000_000))]
    trials: u32,
    /// Of the bound on the canary's epsilon.
    #[arg(long, default_value_t = 0.95)]
    confidence: f64,
}

pub(super) fn run(options: &Options) -> anyhow::Result<Value> {
    let inference = match (options.models, &options.data) {
        (0, _) => Vec::new(),
        (_, Some(file)) => inference::measure(&read(file)?, options)?,
        (_, None) => inference::measure(&simulated(), options)?,
    };
    let canary = match options.trials {
        0 => Vec::new(),
        _ => canary::measure(options)?,
    };
    Ok(json!({ "delta": DELTA, "seed": options.seed, "inference": inference, "canary": canary }))
}
