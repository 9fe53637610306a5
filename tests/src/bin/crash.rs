//! Kills, or denies disk space to, real processes at every edge; parses what was typed, everything else is
//! `collegium_tests::crash`.

use std::process::ExitCode;

use clap::Parser;
use collegium_tests::crash::{self, During, Harm, Options, Return, Side};

/// Runs a load test on a coordinator and its agents, harms them at every edge that they pass, and checks
/// the logs of everybody afterwards. Fails if anything that was promised did not hold.
#[derive(Parser)]
struct Cli {
    /// How many faults.
    #[arg(long, default_value_t = 500, alias = "kills")]
    faults: usize,
    /// What is going on meanwhile; outside of rounds every edge is struck by a kill, at the first and at
    /// the second time of passing it, and neither --side nor --fault nor --back counts.
    #[arg(long, value_enum, default_value = "rounds")]
    during: During,
    /// Repeats a run, as far as processes can be made to repeat one.
    #[arg(long)]
    seed: Option<u64>,
    #[arg(long, value_enum, default_value = "both")]
    side: Side,
    #[arg(long, value_enum, default_value = "kill")]
    fault: Harm,
    /// When those that were killed come back.
    #[arg(long, value_enum, default_value = "at-once")]
    back: Return,
    #[arg(long, default_value_t = 4)]
    institutions: usize,
    /// Of the vector that is summed.
    #[arg(long, default_value_t = 2_000)]
    parameters: u32,
}

fn main() -> ExitCode {
    let Cli { faults, during, seed, side, fault: harm, back, institutions, parameters } =
        Cli::parse();
    let options = Options { faults, during, seed, side, harm, back, institutions, parameters };
    match crash::run(&options) {
        Ok(report) => {
            print!("{report}");
            if report.violations.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
