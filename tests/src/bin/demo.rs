//! `cargo demo`: parses what was typed; everything else is `collegium_tests::demo`.

use std::{path::PathBuf, process::ExitCode};

use clap::{Parser, Subcommand};
use collegium_tests::demo::{self, Options, hosts};

/// Plays a whole consortium on this machine: a coordinator and its institutions' agents as separate
/// processes with mutual TLS, training one model that nobody's records leave home for.
#[derive(Parser)]
#[command(name = "cargo demo", args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(flatten)]
    options: Options,
    #[command(subcommand)]
    part: Option<Part>,
}

#[derive(Subcommand)]
enum Part {
    /// Runs the agents of several directories in this process.
    #[command(hide = true)]
    Host { dirs: Vec<PathBuf> },
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    match cli.part {
        None => demo::run(&cli.options),
        Some(Part::Host { dirs }) => match hosts::run(dirs) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("error: {error:#}");
                ExitCode::FAILURE
            }
        },
    }
}
