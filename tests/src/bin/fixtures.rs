//! `cargo run -p collegium-tests --bin fixtures -- OUT`: makes a fixture of this version's directories
//! and messages in the new directory OUT. Read `tests/fixtures/README.md` first.

use std::{path::PathBuf, process::ExitCode};

use clap::Parser;
use collegium_tests::fixtures::make::make;

/// Makes a fixture of this version's directories and messages.
#[derive(Parser)]
struct Cli {
    /// A directory that does not exist, such as tests/fixtures/v2.
    out: PathBuf,
}

fn main() -> ExitCode {
    match make(&Cli::parse().out) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
