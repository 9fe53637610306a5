//! `collegium-agent`: see `cli`.

use std::process::ExitCode;

use clap::Parser;
use collegium_agent::cli::Cli;

fn main() -> ExitCode {
    Cli::parse().run()
}
