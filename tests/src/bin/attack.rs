//! `cargo run -p collegium-tests --release --bin attack`: carries out every attack against the real programs
//! and shows who refused it, with which words. Fails if one was not refused.

use std::process::ExitCode;

use clap::Parser;
use collegium_tests::attack;

/// Carries out the attacks of docs/PROTOCOL.md against the agent and the coordinator.
#[derive(Parser)]
struct Cli {
    /// The rows as one line of JSON at the end, instead of a table.
    #[arg(long)]
    json: bool,
}

fn main() -> ExitCode {
    let Cli { json } = Cli::parse();
    let progress = |row: &attack::Row| {
        eprintln!("{} {}", if row.refused { "refused:    " } else { "NOT REFUSED:" }, row.attack);
    };
    match attack::run(progress) {
        Ok(report) => {
            match json {
                true => println!("{}", report.json()),
                false => print!("{report}"),
            }
            if report.is_good() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
