//! `cargo verify`: every check of the repository, one after another, and one line that sums it up.
//! Owns the list of steps and the counting; what a step checks belongs to the tool that it runs.

use std::{
    env,
    io::{BufRead, BufReader, Write},
    path::PathBuf,
    process::{Command, ExitCode, Stdio},
};

use anyhow::{Context, bail};
use clap::Parser;
use collegium_shared::clock::Clock;
use collegium_tests::{
    dependencies::Metadata,
    harness::{self, workspace},
};

/// Where `cargo install` puts the tools that the checks need, out of the user's way.
const TOOLS: &str = "target/tools";
const CARGO_DENY: (&str, &str) = ("cargo-deny", "0.20.2");
/// Makes the packages that `suite::packages` looks into.
const CARGO_DEB: (&str, &str) = ("cargo-deb", "3.8.0");
/// What tests use of the system, and the package that has it.
const SYSTEM_TOOLS: [(&str, &str); 5] = [
    ("systemd-analyze", "systemd"),
    ("systemd-sysusers", "systemd"),
    ("systemd-tmpfiles", "systemd"),
    ("dpkg", "dpkg"),
    ("dpkg-shlibdeps", "dpkg-dev"),
];

/// Formatting, lints, build, tests, documentation and dependencies.
#[derive(Parser)]
struct Options {}

/// One check.
enum Step {
    /// A cargo command that must succeed, with a variable for it.
    Cargo(&'static [&'static str], Option<(&'static str, &'static str)>),
    /// The programs that later steps need.
    Tools,
    /// `cargo test`, whose tests are counted one by one.
    Tests,
    /// The rules of `collegium_tests::dependencies`.
    Dependencies,
    /// Licences, sources and bans by deny.toml.
    Deny,
}

const STEPS: [(&str, Step); 8] = [
    ("formatting", Step::Cargo(&["fmt", "--all", "--check"], None)),
    (
        "lints",
        Step::Cargo(
            &["clippy", "--workspace", "--all-targets", "--locked", "--", "-D", "warnings"],
            None,
        ),
    ),
    ("build", Step::Cargo(&["build", "--workspace", "--all-targets", "--locked"], None)),
    ("tools", Step::Tools),
    ("tests", Step::Tests),
    (
        "documentation",
        Step::Cargo(
            &["doc", "--workspace", "--no-deps", "--locked"],
            Some(("RUSTDOCFLAGS", "-D warnings")),
        ),
    ),
    ("dependencies", Step::Dependencies),
    ("licences and sources", Step::Deny),
];

/// The tests that were run.
#[derive(Default)]
struct Tests {
    counts: Counts,
    /// Names of those that failed.
    broken: Vec<String>,
}

impl Tests {
    /// Learns from one line of the output of `cargo test`.
    fn read(&mut self, line: &str) {
        if let Some(counts) = Counts::of_line(line) {
            self.counts.add(counts);
        } else if let Some(name) = line.strip_suffix(" ... FAILED") {
            self.broken.push(name.trim_start_matches("test ").to_owned());
        }
    }
}

/// How many tests ended how.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Counts {
    passed: u64,
    failed: u64,
    ignored: u64,
}

impl Counts {
    /// Reads `test result: ok. 3 passed; 0 failed; 1 ignored; ...`.
    fn of_line(line: &str) -> Option<Self> {
        let (_, numbers) = line.strip_prefix("test result: ")?.split_once(". ")?;
        let mut counts = Self::default();
        for part in numbers.split(';') {
            let mut words = part.split_whitespace();
            let (Some(number), Some(word)) = (words.next(), words.next()) else { continue };
            let into = match word {
                "passed" => &mut counts.passed,
                "failed" => &mut counts.failed,
                "ignored" => &mut counts.ignored,
                _ => continue,
            };
            *into = number.parse().ok()?;
        }
        Some(counts)
    }

    fn add(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.ignored += other.ignored;
    }
}

fn main() -> ExitCode {
    let Options {} = Options::parse();
    let clock = Clock::system();
    let start = clock.now();
    match env::var_os("COLLEGIUM_DATA") {
        Some(dir) => println!("COLLEGIUM_DATA is {}", PathBuf::from(dir).display()),
        None => println!("COLLEGIUM_DATA is not set: tests on real data are left out"),
    }
    let mut tests = Tests::default();
    let mut broken = Vec::new();
    for (number, (name, step)) in STEPS.iter().enumerate() {
        println!("\n== {} of {}: {name}", number + 1, STEPS.len());
        let begun = clock.now();
        let outcome = step.run(&mut tests);
        let seconds = clock.now().since(begun).as_secs_f32();
        match outcome {
            Ok(()) => println!("-- {name}: passed in {seconds:.1} s"),
            Err(error) => {
                println!("-- {name}: FAILED in {seconds:.1} s: {error:#}");
                broken.push(*name);
            }
        }
    }
    println!(
        "\n{:.0} s in all; {} tests ignored",
        clock.now().since(start).as_secs_f32(),
        tests.counts.ignored
    );
    for name in &tests.broken {
        println!("failed test: {name}");
    }
    if !broken.is_empty() {
        println!("failed steps: {}", broken.join(", "));
    }
    let good = STEPS.len() - broken.len();
    let failed = tests.counts.failed + broken.len() as u64;
    println!("{} passed, {failed} failed", tests.counts.passed + good as u64);
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

impl Step {
    fn run(&self, tests: &mut Tests) -> anyhow::Result<()> {
        match self {
            Self::Cargo(words, variable) => {
                let mut command = cargo(words);
                if let Some((name, value)) = variable {
                    command.env(name, value);
                }
                succeed(&mut command)
            }
            Self::Tools => tools(),
            Self::Tests => run_tests(tests),
            Self::Dependencies => check_dependencies(),
            Self::Deny => deny(),
        }
    }
}

/// A cargo command in the repository's root, shown as it would be typed.
fn cargo(words: &[&str]) -> Command {
    println!("$ cargo {}", words.join(" "));
    harness::cargo(words)
}

fn succeed(command: &mut Command) -> anyhow::Result<()> {
    let status = command.status().context("cannot start it")?;
    if !status.success() {
        bail!("{status}");
    }
    Ok(())
}

/// Runs all tests, showing their output as it comes and counting the results in it.
fn run_tests(tests: &mut Tests) -> anyhow::Result<()> {
    let mut command = cargo(&["test", "--workspace", "--locked", "--no-fail-fast"]);
    let mut child = command.stdout(Stdio::piped()).spawn().context("cannot start it")?;
    let output = child.stdout.take().context("its output is missing")?;
    let mut shown = std::io::stdout();
    for line in BufReader::new(output).split(b'\n') {
        let line = line.context("cannot read its output")?;
        shown.write_all(&line)?;
        shown.write_all(b"\n")?;
        tests.read(&String::from_utf8_lossy(&line));
    }
    let status = child.wait().context("cannot wait for it")?;
    if !status.success() {
        bail!("{status}, {} tests failed", tests.counts.failed);
    }
    if tests.counts.passed == 0 {
        bail!("no test was run");
    }
    Ok(())
}

fn check_dependencies() -> anyhow::Result<()> {
    let violations = Metadata::read()?.violations();
    for line in &violations {
        println!("{line}");
    }
    if !violations.is_empty() {
        bail!("{} rules broken", violations.len());
    }
    println!(
        "one TLS provider; burn, sled and tonic only where they belong; Cargo.lock up to date"
    );
    Ok(())
}

/// Installs what can be, and says which tests are left out for want of what the system has to bring.
fn tools() -> anyhow::Result<()> {
    for (name, package) in SYSTEM_TOOLS {
        if Command::new(name).arg("--version").output().is_err() {
            println!("{name} is missing: its tests are left out; install the package {package}");
        }
    }
    [CARGO_DENY, CARGO_DEB].into_iter().try_for_each(install)
}

/// Where a tool of this repository's own is.
fn tool(name: &str) -> PathBuf {
    workspace().join(TOOLS).join("bin").join(format!("{name}{}", env::consts::EXE_SUFFIX))
}

/// Installs the version of a tool that this repository names, if need be.
fn install((name, version): (&str, &str)) -> anyhow::Result<()> {
    if tool(name).exists() {
        println!("{name} is in {TOOLS}");
        return Ok(());
    }
    println!("installing {name} {version} into {TOOLS}, once");
    let mut install = cargo(&["install", name, "--locked", "--version", version]);
    // It runs for a second: quick to build matters more than quick to run.
    install
        .args(["--root", TOOLS])
        .env("CARGO_PROFILE_RELEASE_LTO", "off")
        .env("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "16")
        .env("CARGO_PROFILE_RELEASE_OPT_LEVEL", "1");
    succeed(&mut install).with_context(|| format!("cannot install {name}"))
}

/// `cargo deny check`. Advisories are not among the checks: they change without the repository changing.
fn deny() -> anyhow::Result<()> {
    let checks = ["check", "--hide-inclusion-graph", "bans", "licenses", "sources"];
    println!("$ cargo deny {}", checks.join(" "));
    succeed(Command::new(tool(CARGO_DENY.0)).args(checks).current_dir(workspace()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_read() {
        let line = "test result: FAILED. 12 passed; 3 failed; 1 ignored; 0 measured; 7 filtered out; finished in 0.10s";
        let counts = Counts { passed: 12, failed: 3, ignored: 1 };
        assert_eq!(Counts::of_line(line), Some(counts));
        let mut tests = Tests::default();
        for line in ["running 3 tests", "test a::b ... ok", "test a::c ... FAILED", line] {
            tests.read(line);
        }
        assert_eq!((tests.counts, tests.broken), (counts, vec!["a::c".to_owned()]));
    }
}
