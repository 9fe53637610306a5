//! `cargo run -p collegium-tests --release --bin bench -- WHAT`: parses what was typed; everything else
//! is `collegium_tests::bench`.

use std::process::ExitCode;

use clap::Parser;
use collegium_tests::bench::{self, Benchmark};

/// Measures Collegium on this machine.
#[derive(Parser)]
#[command(name = "bench")]
struct Cli {
    #[command(subcommand)]
    benchmark: Benchmark,
    /// Print one JSON object on the last line of standard output, and nothing else there.
    #[arg(long, global = true)]
    json: bool,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    bench::run(&cli.benchmark, cli.json)
}
