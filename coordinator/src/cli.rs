//! `collegium-coordinator`: what operators type. Parses, asks the owner, prints; decides nothing.

mod config;
mod diagnose;
mod doctor;
mod status;

use std::{
    io::{BufRead, IsTerminal, Write},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context, bail};
use clap::{Args, Parser, Subcommand};
use collegium_shared::{
    audit,
    clock::Clock,
    config::ConfigError,
    crypto::VerifyingKey,
    documents::{self, UnsignedDocument},
    files,
    ids::InstitutionId,
    service::{log::log_to_stderr, until_signals},
};
use serde_json::Value;

use crate::{
    admin::AdminRequest,
    config::{Config, DEFAULT_LISTEN},
    root, service, signing,
};

/// Prints a line; a reader that has gone away (`| head`) is no error.
macro_rules! say {
    ($($text:tt)*) => {
        drop(writeln!(std::io::stdout().lock(), $($text)*))
    };
}
use say;

mod bias;
mod ca;
mod evaluation;
mod institution;
mod key;
mod model;
mod registry;
mod store;

use ca::CaCommand;
use institution::InstitutionCommand;

/// Leads a Collegium network: enrols institutions, sums their masked updates, releases models.
#[derive(Parser)]
#[command(name = "collegium-coordinator", version, about)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Args)]
struct Home {
    /// The coordinator's directory.
    #[arg(
        long,
        env = "COLLEGIUM_COORDINATOR_DIR",
        default_value = "/var/lib/collegium/coordinator"
    )]
    dir: PathBuf,
}

#[derive(Subcommand)]
enum Command {
    /// Make a new directory: certificate authority, signing key, commented config.
    Init {
        #[command(flatten)]
        home: Home,
        /// Where agents will connect.
        #[arg(long, default_value = DEFAULT_LISTEN)]
        listen: SocketAddr,
    },
    /// Run the coordinator.
    Serve {
        #[command(flatten)]
        home: Home,
    },
    /// Write a one-off invitation for one institution.
    Invite {
        institution: InstitutionId,
        #[command(flatten)]
        home: Home,
        /// The file to write (mode 0600); hand it over on a channel that both sides trust.
        #[arg(long)]
        out: PathBuf,
        /// The legal entity behind the institution; its name if left out.
        #[arg(long)]
        legal_entity: Option<String>,
        /// How long the invitation is valid.
        #[arg(long, default_value_t = 24)]
        valid_hours: u32,
    },
    /// List who is enrolled, with fingerprints to compare.
    Institutions {
        #[command(flatten)]
        home: Home,
        #[arg(long)]
        json: bool,
    },
    /// Shut an institution out, or let it in again.
    #[command(subcommand)]
    Institution(InstitutionCommand),
    /// The coordinator's certificate authority.
    #[command(subcommand)]
    Ca(CaCommand),
    /// The coordinator's signing key.
    #[command(subcommand)]
    Key(key::KeyCommand),
    /// The consortium's root: make it and sign with it offline, name it to the coordinator.
    #[command(subcommand)]
    Root(RootCommand),
    /// The roster of members.
    #[command(subcommand)]
    Roster(RosterCommand),
    /// The registry of competencies and shared items.
    #[command(subcommand)]
    Registry(RegistryCommand),
    /// Training tasks.
    #[command(subcommand)]
    Task(TaskCommand),
    /// Released models and their cards.
    #[command(subcommand)]
    Model(model::ModelCommand),
    /// Bias audits: reports, pages, and reviews that a person closes.
    #[command(subcommand)]
    Bias(bias::BiasCommand),
    /// Federated evaluations of released models: their reports.
    #[command(subcommand)]
    Evaluation(evaluation::EvaluationCommand),
    /// What is going on.
    Status {
        #[command(flatten)]
        home: Home,
        #[arg(long)]
        json: bool,
    },
    /// Look for everything that may be wrong here, with its fix; exit code 1 if a check fails.
    Doctor {
        #[command(flatten)]
        home: Home,
        #[arg(long)]
        json: bool,
    },
    /// Write one archive for whoever helps: no key, no record, no learner is in it.
    Diagnose(diagnose::DiagnoseArgs),
    /// The configuration file.
    #[command(subcommand)]
    Config(config::ConfigCommand),
    /// Let the running coordinator read its configuration again.
    Reload {
        #[command(flatten)]
        home: Home,
    },
    /// The network's audit log.
    #[command(subcommand)]
    Audit(AuditCommand),
    /// The directory: is it sound, make the view again.
    #[command(subcommand)]
    Store(store::StoreCommand),
    /// Write a backup of the directory to one file; the coordinator may run.
    Backup(store::BackupArgs),
    /// Make a directory from a backup.
    Restore(store::RestoreArgs),
}

#[derive(Subcommand)]
enum RootCommand {
    /// Make the root key. Do this away from the coordinator.
    Init {
        #[arg(long)]
        root_dir: PathBuf,
    },
    /// Sign a roster or a registry. Shows what is signed first.
    Sign {
        #[arg(long)]
        root_dir: PathBuf,
        #[arg(long = "in")]
        input: PathBuf,
        #[arg(long)]
        out: PathBuf,
        /// Do not ask; for scripts that have compared already.
        #[arg(long)]
        yes: bool,
    },
    /// Name the root to the coordinator, once.
    Trust {
        /// The file root.pub.json that `root init` made.
        public: PathBuf,
        #[command(flatten)]
        home: Home,
    },
}

#[derive(Subcommand)]
enum RosterCommand {
    /// Write the unsigned roster of everybody who is enrolled.
    Export {
        #[command(flatten)]
        home: Home,
        #[arg(long)]
        out: PathBuf,
        /// A signed roster that cannot come into force: the draft takes the version after it.
        #[arg(long, value_name = "FILE")]
        after: Option<PathBuf>,
    },
    /// Put a signed roster into force.
    Import {
        file: PathBuf,
        #[command(flatten)]
        home: Home,
    },
}

#[derive(Subcommand)]
enum RegistryCommand {
    /// Make an unsigned registry from a table, from a published framework, or from both.
    Build(registry::BuildArgs),
    /// Put a signed registry into force.
    Import {
        file: PathBuf,
        #[command(flatten)]
        home: Home,
    },
}

#[derive(Subcommand)]
enum TaskCommand {
    /// Start a training task from a file.
    Start {
        file: PathBuf,
        #[command(flatten)]
        home: Home,
    },
    /// Begin no new round of the running task; the open one is finished.
    Pause {
        #[command(flatten)]
        home: Home,
        /// Why, for the status and the audit log.
        #[arg(long)]
        reason: Option<String>,
    },
    /// Begin rounds again.
    Resume {
        #[command(flatten)]
        home: Home,
    },
}

#[derive(Subcommand)]
enum AuditCommand {
    /// List entries.
    List {
        #[command(flatten)]
        home: Home,
        #[arg(long, default_value_t = 0)]
        from: u64,
        #[arg(long, default_value_t = 50)]
        count: u64,
    },
    /// Show one entry with its proof.
    Show {
        index: u64,
        #[command(flatten)]
        home: Home,
    },
    /// Check every entry, the tree and the checkpoint's signature.
    Verify {
        #[command(flatten)]
        home: Home,
    },
}

impl Cli {
    /// Runs the command: exit code 0, 78 for a bad config (sysexits.h), 1 for everything else.
    pub fn run(self) -> ExitCode {
        match run(self.command) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("error: {error:#}");
                let bad_config = error.chain().any(|cause| cause.is::<ConfigError>());
                ExitCode::from(if bad_config { 78 } else { 1 })
            }
        }
    }
}

fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Init { home, listen } => {
            let key = service::init(&home.dir, listen, Clock::system().now())?;
            say!("initialised    {}", home.dir.display());
            say!("signing key    {}", key.fingerprint());
            say!("next           root init (elsewhere), root trust, serve, invite");
            Ok(())
        }
        Command::Serve { home } => serve(&home.dir),
        Command::Invite { institution, home, out, legal_entity, valid_hours } => {
            invite(&home.dir, institution, legal_entity, valid_hours, &out)
        }
        Command::Institutions { home, json } => institutions(&home.dir, json),
        Command::Institution(command) => institution::run(command),
        Command::Ca(command) => ca::run(command),
        Command::Key(command) => key::run(command),
        Command::Root(command) => run_root(command),
        Command::Roster(command) => run_roster(command),
        Command::Registry(command) => run_registry(command),
        Command::Task(TaskCommand::Start { file, home }) => start_task(&home.dir, &file),
        Command::Task(TaskCommand::Pause { home, reason }) => {
            pause(&home.dir, AdminRequest::PauseTask { reason })
        }
        Command::Task(TaskCommand::Resume { home }) => pause(&home.dir, AdminRequest::ResumeTask),
        Command::Model(command) => model::run(command),
        Command::Bias(command) => bias::run(command),
        Command::Evaluation(command) => evaluation::run(command),
        Command::Status { home, json } => status::show(&home.dir, json),
        Command::Doctor { home, json } => doctor::run(&home.dir, json),
        Command::Diagnose(args) => diagnose::run(&args),
        Command::Config(command) => config::run(&command),
        Command::Reload { home } => config::reload(&home.dir),
        Command::Audit(command) => run_audit(command),
        Command::Store(command) => store::run(command),
        Command::Backup(args) => store::run_backup(&args),
        Command::Restore(args) => store::run_restore(&args),
    }
}

/// Threads for work that blocks: more would only wait for the same disk, and each holds on to memory.
const BLOCKING_THREADS: usize = 8;

fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    runtime.max_blocking_threads(BLOCKING_THREADS);
    runtime.enable_all().build().context("cannot start")
}

fn ask(dir: &Path, request: AdminRequest) -> anyhow::Result<Value> {
    runtime()?.block_on(service::ask(dir, request))
}

fn serve(dir: &Path) -> anyhow::Result<()> {
    log_to_stderr(&Config::load(dir)?.log)?;
    let runtime = runtime()?;
    let ended = runtime.block_on(until_signals(|stop| service::serve(dir, stop)));
    // Work on blocking threads that did not stop in time must not keep the process.
    runtime.shutdown_background();
    ended.context("a second signal came before everything had ended")?
}

fn invite(
    dir: &Path,
    institution: InstitutionId,
    legal_entity: Option<String>,
    valid_hours: u32,
    out: &Path,
) -> anyhow::Result<()> {
    let legal_entity = legal_entity.unwrap_or_else(|| institution.to_string());
    let name = institution.clone();
    institution::write_invitation(dir, &name, valid_hours, out, |token_sha256, expires_at| {
        AdminRequest::Invite { institution, legal_entity, token_sha256, expires_at }
    })
}

fn institutions(dir: &Path, json: bool) -> anyhow::Result<()> {
    let answer = ask(dir, AdminRequest::Institutions)?;
    if json {
        say!("{answer}");
        return Ok(());
    }
    for entry in answer.as_array().into_iter().flatten() {
        let text = |key: &str| entry[key].as_str().unwrap_or_default().to_owned();
        let state = match (&entry["revoked"], &entry["on_roster"]) {
            (Value::Object(_), _) => "revoked",
            (_, Value::Bool(true)) => "on the roster",
            _ => "awaiting roster",
        };
        say!("{:<28} {:<16} {}", text("institution"), state, text("identity_fingerprint"));
    }
    Ok(())
}

fn run_root(command: RootCommand) -> anyhow::Result<()> {
    match command {
        RootCommand::Init { root_dir } => {
            let public = root::init(&root_dir)?;
            say!("root made in   {}", root_dir.display());
            say!("fingerprint    {}", public.fingerprint);
            say!("Keep this directory offline. Give the fingerprint to every institution by a");
            say!("channel that the coordinator does not control.");
        }
        RootCommand::Sign { root_dir, input, out, yes } => {
            if !yes && !std::io::stdin().is_terminal() {
                bail!(
                    "nobody can be asked here: compare every fingerprint out of band, then pass --yes"
                );
            }
            let confirm = |words: &str| {
                say!("{words}");
                yes || confirmed()
            };
            let document = root::sign(&root_dir, &input, &out, Clock::system().now(), confirm)?;
            say!("signed         {} ({})", out.display(), document.digest());
        }
        RootCommand::Trust { public, home } => {
            let public = documents::read(&public)?;
            let answer = ask(&home.dir, AdminRequest::TrustRoot { public })?;
            say!("root           {}", answer["fingerprint"].as_str().unwrap_or_default());
        }
    }
    Ok(())
}

/// Asks the person at the terminal.
fn confirmed() -> bool {
    print!("Compare every fingerprint out of band. Sign? [yes/no] ");
    let mut answer = String::new();
    std::io::stdout().flush().is_ok()
        && std::io::stdin().lock().read_line(&mut answer).is_ok()
        && answer.trim() == "yes"
}

fn run_roster(command: RosterCommand) -> anyhow::Result<()> {
    match command {
        RosterCommand::Export { home, out, after } => {
            let request = match after {
                None => AdminRequest::ExportRoster,
                Some(file) => {
                    AdminRequest::ExportRosterAfter { document: Box::new(documents::read(&file)?) }
                }
            };
            let answer = ask(&home.dir, request)?;
            let document: UnsignedDocument = serde_json::from_value(answer)?;
            documents::write(&out, &document)?;
            say!("wrote          {}; have the consortium's root sign it", out.display());
        }
        RosterCommand::Import { file, home } => {
            let document = Box::new(documents::read(&file)?);
            let answer = ask(&home.dir, AdminRequest::ImportRoster { document })?;
            say!("roster         version {}, {} members", answer["version"], answer["members"]);
            if let Some(round) = answer["waits_for"].as_str() {
                say!("in force       when round {round} has ended: it changes keys");
            }
        }
    }
    Ok(())
}

fn run_registry(command: RegistryCommand) -> anyhow::Result<()> {
    match command {
        RegistryCommand::Build(args) => registry::build(&args),
        RegistryCommand::Import { file, home } => {
            let document = Box::new(documents::read(&file)?);
            let answer = ask(&home.dir, AdminRequest::ImportRegistry { document })?;
            registry::imported(&answer);
            Ok(())
        }
    }
}

fn start_task(dir: &Path, file: &Path) -> anyhow::Result<()> {
    let text = files::read_bounded(file, 64 << 10).with_context(|| file.display().to_string())?;
    let text = String::from_utf8(text).with_context(|| file.display().to_string())?;
    let spec = toml::from_str(&text).with_context(|| file.display().to_string())?;
    let answer = ask(dir, AdminRequest::StartTask { spec: Box::new(spec) })?;
    say!("task           {}", answer["task"].as_str().unwrap_or_default());
    say!("rounds         {}", answer["rounds"]);
    say!(
        "cohort         c_max {}, min_honest {}",
        answer["cohort"]["c_max"],
        answer["cohort"]["min_honest"]
    );
    Ok(())
}

/// Asks for a pause or its end.
fn pause(dir: &Path, request: AdminRequest) -> anyhow::Result<()> {
    let answer = ask(dir, request)?;
    let state = if answer["paused"].is_null() { "goes on" } else { "paused" };
    say!("task           {} ({state})", answer["task"].as_str().unwrap_or_default());
    if let Some(round) = answer["open_round"].as_str() {
        say!("round          {round} is open");
    }
    Ok(())
}

fn log_key(dir: &Path) -> anyhow::Result<VerifyingKey> {
    Ok(signing::log_key(dir)?)
}

fn run_audit(command: AuditCommand) -> anyhow::Result<()> {
    match command {
        AuditCommand::List { home, from, count } => {
            for line in audit::list(&home.dir.join("journal"), &log_key(&home.dir)?, from, count)? {
                say!("{:>6}  {}  {:<20} {}", line.index, line.at, line.kind, line.summary);
            }
        }
        AuditCommand::Show { index, home } => {
            match audit::show(&home.dir.join("journal"), &log_key(&home.dir)?, index)? {
                Some(entry) => say!("{entry}"),
                None => bail!("there is no entry {index}"),
            }
        }
        AuditCommand::Verify { home } => {
            let report = audit::verify(&home.dir.join("journal"), &log_key(&home.dir)?)?;
            say!("verified       {} entries of {}", report.entries, report.origin);
            say!("root           {}", report.root);
        }
    }
    Ok(())
}
