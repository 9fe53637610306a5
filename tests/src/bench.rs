//! The benchmarks: real processes, mutual TLS, fsync on. Each prints what it measured, for people or
//! as one JSON object on the last line. Asserts that the results are right, never that they are fast.

mod consortium;
mod idle;
mod mask;
mod peer;
mod round;
mod slope;
mod statistics;
mod usage;

use std::process::ExitCode;

use clap::Subcommand;
use serde_json::Value;

/// What can be measured.
#[derive(Clone, Debug, Subcommand)]
pub enum Benchmark {
    /// Rounds without training: model down, masked update up, sum, next model.
    Round(round::Options),
    /// Masking beside raw AES-256-GCM over as many zeros.
    Mask(mask::Options),
    /// What daemons need while nothing happens.
    Idle(idle::Options),
    /// Whether memory grows over many rounds.
    Slope(slope::Options),
}

/// Runs one benchmark and prints what it found; `json` leaves out the words for people.
pub fn run(benchmark: &Benchmark, json: bool) -> ExitCode {
    let found = match benchmark {
        Benchmark::Round(options) => round::run(options),
        Benchmark::Mask(options) => mask::run(options),
        Benchmark::Idle(options) => idle::run(options),
        Benchmark::Slope(options) => slope::run(options),
    };
    match found {
        Ok(found) => {
            print(&found, json);
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
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
