//! `cargo demo`: parses what was typed; everything else is `collegium_tests::demo`.

use std::{
    ffi::{OsStr, OsString},
    path::PathBuf,
    process::ExitCode,
};

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
    let cli = Cli::parse_from(without_separator(std::env::args_os()));
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

/// The alias ends in `--` already; whoever is used to `cargo run -- ARGUMENTS` types another one.
fn without_separator(arguments: impl Iterator<Item = OsString>) -> impl Iterator<Item = OsString> {
    let typed = |(place, argument): &(usize, OsString)| *place != 1 || argument != OsStr::new("--");
    arguments.enumerate().filter(typed).map(|(_, argument)| argument)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_taken_with_and_without_a_separator() {
        let part = |line: &str| {
            let words = line.split(' ').map(OsString::from);
            Cli::try_parse_from(without_separator(words)).map(|cli| cli.part.is_some())
        };
        assert!(part("demo --json").is_ok_and(|part| !part));
        assert!(part("demo -- --json").is_ok_and(|part| !part));
        assert!(part("demo host a").is_ok_and(|part| part));
    }
}
