//! `collegium-coordinator`: see `cli`.

use std::process::ExitCode;

use clap::Parser;
use collegium_coordinator::cli::Cli;

fn main() -> ExitCode {
    Cli::parse().run()
}
