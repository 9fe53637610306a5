//! Runs the simulated federation; parses what was typed, everything else is `collegium_tests::simulate`.

use std::{fs, path::PathBuf, process::ExitCode};

use anyhow::Context;
use clap::Parser;
use collegium_shared::{clock::Clock, crypto};
use collegium_tests::simulate::{self, Mutation, Options, Report, mutations};
use serde_json::json;

/// Runs a whole federation in one thread under operations that a seed gives, and checks every invariant
/// after each of them. Fails if one was violated, with the fewest operations found that do it.
#[derive(Parser)]
struct Cli {
    /// How many operations, at least.
    #[arg(long, default_value_t = 100_000)]
    operations: u64,
    /// Repeats a run, operation for operation.
    #[arg(long)]
    seed: Option<u64>,
    /// Print one line of JSON instead of words.
    #[arg(long)]
    json: bool,
    /// Runs a failure again, from a file with the line that was printed for it.
    #[arg(long, value_name = "FILE")]
    replay: Option<PathBuf>,
    /// Breaks one mechanism on purpose.
    #[arg(long, value_enum)]
    mutation: Option<Mutation>,
    /// Breaks one mechanism after the other, and fails unless each is noticed.
    #[arg(long, conflicts_with_all = ["replay", "mutation"])]
    mutations: bool,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let done = if cli.mutations { table(&cli) } else { run(&cli) };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn seed(cli: &Cli) -> anyhow::Result<u64> {
    Ok(match cli.seed {
        Some(seed) => seed,
        None => u64::from(u32::from_le_bytes(crypto::random()?)),
    })
}

fn run(cli: &Cli) -> anyhow::Result<bool> {
    let clock = Clock::system();
    let begun = clock.now();
    let report = match &cli.replay {
        Some(file) => {
            let line = fs::read_to_string(file)
                .with_context(|| format!("cannot read {}", file.display()))?;
            simulate::replay(&serde_json::from_str(&line)?, cli.mutation)?
        }
        None => {
            let Cli { operations, mutation, .. } = *cli;
            let options = Options { operations, seed: seed(cli)?, mutation, shrink: true };
            simulate::run(&options)?
        }
    };
    let seconds = clock.now().since(begun).as_secs_f64();
    print(cli, &report, seconds)?;
    Ok(report.failure.is_none())
}

fn print(cli: &Cli, report: &Report, seconds: f64) -> anyhow::Result<()> {
    if cli.json {
        let mut json = serde_json::to_value(report)?;
        json["seconds"] = json!(seconds);
        println!("{json}");
    } else {
        print!("{report}");
        println!("{seconds:.1} s");
    }
    Ok(())
}

fn table(cli: &Cli) -> anyhow::Result<bool> {
    let seed = seed(cli)?;
    let table = mutations::table(seed)?;
    if cli.json {
        println!("{}", json!({ "seed": seed, "mutations": table }));
    } else {
        println!("seed {seed}\n| mutation | breaks | noticed by | operations |\n|---|---|---|---|");
        table.iter().for_each(|caught| println!("{caught}"));
    }
    Ok(table.iter().all(mutations::Caught::right))
}
