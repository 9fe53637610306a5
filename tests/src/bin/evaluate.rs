//! `cargo run -p collegium-tests --release --bin evaluate -- --data DIR`: everything is
//! `collegium_tests::evaluate`.

use std::process::ExitCode;

use clap::Parser;
use collegium_tests::evaluate::Cli;

fn main() -> ExitCode {
    Cli::parse().run()
}
