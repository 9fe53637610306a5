//! `cargo run -p collegium-tests --release --bin bench -- WHAT`: everything is `collegium_tests::bench`.

use std::process::ExitCode;

use clap::Parser;
use collegium_tests::bench::Cli;

fn main() -> ExitCode {
    Cli::parse().run()
}
