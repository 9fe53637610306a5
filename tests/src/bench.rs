//! The benchmarks: real processes, mutual TLS, fsync on, but for those that say that they measure one thing
//! alone. Each prints what it measured, for people or as one JSON object on the last line. Asserts that the
//! results are right, never that they are fast.

mod consortium;
mod federation;
mod idle;
mod mask;
mod membership;
mod networks;
mod noise;
mod peer;
mod plot;
mod poisoning;
mod privacy;
mod round;
mod secagg;
mod slope;
mod statistics;
mod sums;
mod usage;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use serde_json::Value;

pub(crate) use federation::{Trained, World, parties};
pub(crate) use networks::Networks;
pub(crate) use privacy::DELTA;

/// Measures Collegium on this machine.
#[derive(Debug, Parser)]
#[command(name = "bench")]
pub struct Cli {
    #[command(subcommand)]
    benchmark: Benchmark,
    /// Print one JSON object on the last line of standard output, and nothing else there.
    #[arg(long, global = true)]
    json: bool,
}

/// What can be measured.
#[derive(Debug, Subcommand)]
enum Benchmark {
    /// Rounds without training: model down, masked update up, sum, next model.
    Round(round::Options),
    /// Masking beside raw AES-256-GCM over as many zeros.
    Mask(mask::Options),
    /// Secure aggregation alone, in one process: processor time and bytes of both sides.
    Secagg(secagg::Options),
    /// Discrete Gaussian noise: nanoseconds a draw, beside the exact sampler.
    Noise(noise::Options),
    /// What learner-level privacy costs: the model's quality against epsilon, and a step's time.
    Privacy(privacy::Options),
    /// What attacks on learners find out: membership inference, and a canary that bounds epsilon from below.
    Membership(membership::Options),
    /// What institutions that poison the training achieve, with and without the defences.
    Poisoning(poisoning::Options),
    /// What daemons need while nothing happens.
    Idle(idle::Options),
    /// Whether memory grows over many rounds.
    Slope(slope::Options),
}

impl Cli {
    /// Measures and prints.
    pub fn run(&self) -> ExitCode {
        match self.measure() {
            Ok(found) => {
                print(&found, self.json);
                ExitCode::SUCCESS
            }
            Err(error) => {
                eprintln!("error: {error:#}");
                ExitCode::FAILURE
            }
        }
    }

    /// What was found, as one object.
    pub fn measure(&self) -> anyhow::Result<Value> {
        match &self.benchmark {
            Benchmark::Round(options) => round::run(options),
            Benchmark::Mask(options) => mask::run(options),
            Benchmark::Secagg(options) => secagg::run(options),
            Benchmark::Noise(options) => noise::run(options),
            Benchmark::Privacy(options) => privacy::run(options),
            Benchmark::Membership(options) => membership::run(options),
            Benchmark::Poisoning(options) => poisoning::run(options),
            Benchmark::Idle(options) => idle::run(options),
            Benchmark::Slope(options) => slope::run(options),
        }
    }
}

fn print(found: &Value, json: bool) {
    if json {
        println!("{found}");
        return;
    }
    for (name, value) in found.as_object().into_iter().flatten() {
        println!("{name:<34} {value}");
    }
}
