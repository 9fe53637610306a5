//! `cargo demo`: a whole consortium on this machine, real processes and real connections, from the
//! first key to verified logs. Plays every part itself, which nobody else should.
//!
//! Owns the order of the story; its chapters are the modules below. Everything lies in one fresh
//! directory that goes away at the end, unless it is wanted or something failed.

mod bias;
mod consortium;
mod evaluation;
mod follow;
pub mod hosts;
mod interruption;
pub(crate) mod population;
mod report;
mod rounds;
mod screen;
mod stop;
mod workers;

use std::{fs::Permissions, os::unix::fs::PermissionsExt, path::PathBuf, process::ExitCode};

use anyhow::{Context, bail};
use clap::Args;
use collegium_shared::{architecture::Architecture, clock::Clock};
use tempfile::TempDir;

use bias::Audit;
use consortium::Consortium;
use population::Population;
use report::{Summary, Traffic};
use screen::Screen;
use stop::Stop;

/// Training steps with simulated records, with real ones, and with noise, where each has its price.
const SIMULATED_ROUNDS: u32 = 12;
const REAL_ROUNDS: u32 = 30;
const NOISY_ROUNDS: u32 = 20;

/// What the demo is asked for.
#[derive(Clone, Debug, Args)]
pub struct Options {
    /// Real records instead of the simulator's: a CSV, JSON Lines or Parquet file with a column that
    /// says the institution. Copies lie in the demo's directory only.
    #[arg(long, value_name = "PATH")]
    data: Option<PathBuf>,
    /// What the file's columns mean; known for files called like a mapping in tests/mappings.
    #[arg(long, value_name = "M.TOML", requires = "data")]
    mapping: Option<PathBuf>,
    /// How many institutions; of real records the largest.
    #[arg(long, value_name = "N")]
    institutions: Option<usize>,
    /// Training steps [default: 12 with simulated records, 30 with real ones, 20 with --epsilon].
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    rounds: Option<u32>,
    /// Learner-level differential privacy: what the task may cost each learner at delta 1e-6. Then the sums
    /// and the model carry noise, and every agent keeps a budget of as much.
    #[arg(long, value_name = "E")]
    epsilon: Option<f64>,
    /// What is trained instead of kt-logistic/1: a task file, of which the name and the deadlines are the
    /// demo's own.
    #[arg(long, value_name = "TASK.TOML", requires = "data")]
    task: Option<PathBuf>,
    /// Then a bias audit by this task's file, whose attributes the institutions permit. A page and JSON.
    #[arg(long, value_name = "AUDIT.TOML", conflicts_with = "epsilon")]
    audit: Option<PathBuf>,
    /// Where the report of the audit goes [default: here].
    #[arg(long, value_name = "DIR", requires = "audit")]
    audit_out: Option<PathBuf>,
    /// What the simulator draws from; runs with equal seeds have equal records.
    #[arg(long, default_value_t = 7)]
    seed: u64,
    /// Keep the directory with everything that was made.
    #[arg(long)]
    keep: bool,
    /// Print one JSON object on the last line of standard output, and nothing else there.
    #[arg(long)]
    json: bool,
}

/// Plays the demo: exit code 0, or 1 with the reason on standard error.
pub fn run(options: &Options) -> ExitCode {
    match attempt(options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn attempt(options: &Options) -> anyhow::Result<()> {
    let screen = Screen::new(options.json);
    let stop = Stop::on_signals()?;
    crate::harness::binaries()?;
    // It may hold real records: nobody else on this machine looks inside.
    let private = Permissions::from_mode(0o700);
    let dir = tempfile::Builder::new().prefix("collegium-demo-").permissions(private).tempdir();
    let dir = dir.context("cannot make a directory for the demo")?;
    let result = play(options, &dir, &screen, &stop);
    screen.finished();
    let path = dir.path().to_owned();
    let interrupted = result.is_err() && stop.wanted();
    if options.keep || (result.is_err() && !interrupted) {
        let path = dir.keep();
        if result.is_err() {
            eprintln!("everything that was made so far lies in {}", path.display());
        }
    } else {
        dir.close().with_context(|| format!("cannot remove {}", path.display()))?;
    }
    if interrupted {
        bail!("interrupted");
    }
    screen.json(&serde_json::to_string(&result?)?);
    Ok(())
}

fn play(options: &Options, dir: &TempDir, screen: &Screen, stop: &Stop) -> anyhow::Result<Summary> {
    let clock = Clock::system();
    let start = clock.now();
    let task = options.task.as_deref().map(crate::evaluate::read_task).transpose()?;
    let trained = task.as_ref().map_or(Architecture::KtLogistic1, |task| task.architecture);
    let read = |file: &PathBuf| Audit::read(file, options.audit_out.as_deref(), trained);
    let audit = options.audit.as_ref().map(read).transpose()?;
    let dir = dir.path();
    screen.note(report::WELCOME);
    let data = dir.join("data");
    let population = match &options.data {
        None => Population::simulated(options.seed, options.institutions, &data)?,
        Some(file) => {
            Population::read(file, options.mapping.as_deref(), options.institutions, &data)?
        }
    };
    let usual = task.as_ref().map(|task| task.rounds).filter(|_| options.epsilon.is_none());
    let rounds =
        options.rounds.or(usual).unwrap_or(match (options.epsilon, population.is_real()) {
            (Some(_), _) => NOISY_ROUNDS,
            (None, true) => REAL_ROUNDS,
            (None, false) => SIMULATED_ROUNDS,
        });
    screen.note(&format!("\nSetting up in {} (records: {})", dir.display(), population.source));
    let asked = (options.epsilon, audit.as_ref(), task);
    let mut consortium = Consortium::set_up(dir, &population, asked, screen, stop)?;

    let result = tell(&mut consortium, rounds, screen, stop);
    let mut summary = result.inspect_err(|_| {
        if !stop.wanted() {
            screen.note(&consortium.last_words());
        }
    })?;
    summary.seconds = clock.now().since(start).as_secs_f32();
    screen.say(&report::ending(&consortium, &summary, options.keep));
    if !summary.resumed_after_kill {
        bail!("the killed agent was not seen to go on in its round");
    }
    Ok(summary)
}

/// From the task to the verified logs.
fn tell(
    consortium: &mut Consortium<'_>,
    steps: u32,
    screen: &Screen,
    stop: &Stop,
) -> anyhow::Result<Summary> {
    consortium.train(steps, screen)?;
    screen.note("\nRounds (each a secure sum of masked uploads; nothing else is ever opened)");
    let course = follow::follow(consortium, steps, screen, stop)?;
    let (version, metrics) = course.rounds.released().context("no model was released")?;
    consortium.await_model(version, stop)?;
    let traffic = Traffic::of(consortium, stop)?;
    let peak = consortium.network.coordinator_process()?.peak_rss()?;
    screen.note("\nEvaluating at every institution, and the pooled model here ...");
    let comparison = evaluation::compare(consortium, stop)?;
    screen.say(&report::table(
        &comparison,
        metrics.auc,
        consortium.population,
        consortium.epsilon.is_some(),
    ));
    // A network predicts, and recommends nothing.
    if consortium.network_task().is_none() {
        screen.say(&report::recommendations(consortium)?);
    }
    if let Some(audit) = consortium.audit {
        audit.run(consortium, screen, stop)?;
    }
    consortium.network.stop()?;
    let logs = consortium.verify_logs(stop)?;
    let mut summary = Summary::new(consortium, &course, &comparison, metrics, &traffic, peak, logs);
    if consortium.epsilon.is_some() {
        let (words, spent) = report::ledger(consortium)?;
        summary.epsilon_spent = Some(spent);
        screen.say(&words);
    }
    screen.say(&report::figures(&summary, &course));
    screen.say(&report::privacy(consortium)?);
    Ok(summary)
}
