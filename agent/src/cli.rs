//! `collegium-agent`: what the institution's people type. Parses, asks the daemon or opens the directory,
//! prints; decides nothing.

mod config;
mod diagnose;
mod doctor;
mod network;

use std::{
    io::Write,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context, bail};
use clap::{Args, Parser, Subcommand};
use collegium_shared::{
    audit,
    clock::Clock,
    config::{ConfigError, Log, LogFormat},
    crypto::{Digest, VerifyingKey},
    service::{log::log_to_stderr, until_signals},
};

use crate::{
    desk::{self, Request},
    egress::Word,
    enrol,
    home::{Home, HomeError},
    policy::Policy,
    rotation, runner,
};

mod reenrol;

/// Trains on this institution's learner records, sends masked updates only, recommends locally.
#[derive(Parser)]
#[command(name = "collegium-agent", version, about)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Args)]
struct Place {
    /// The agent's directory.
    #[arg(long, env = "COLLEGIUM_AGENT_DIR", default_value = "/var/lib/collegium/agent")]
    dir: PathBuf,
}

#[derive(Subcommand)]
enum Command {
    /// Enrol this institution: make its keys, spend the invitation, pin the consortium's root.
    Enroll {
        #[command(flatten)]
        place: Place,
        /// Where the coordinator is: https://HOST:PORT.
        #[arg(long)]
        coordinator: String,
        /// The invitation that the coordinator's operator handed over.
        #[arg(long)]
        token_file: PathBuf,
        /// The root's fingerprint, from the consortium and not from the coordinator.
        #[arg(long)]
        root_fingerprint: Digest,
        #[command(flatten)]
        network: network::NetworkArgs,
    },
    /// Get a new certificate with a new invitation; keys, journal, records and models stay.
    Reenrol {
        #[command(flatten)]
        place: Place,
        /// The invitation that the coordinator's operator handed over.
        #[arg(long)]
        token_file: PathBuf,
    },
    /// What this institution consents to.
    #[command(subcommand)]
    Policy(PolicyCommand),
    /// Learner records.
    #[command(subcommand)]
    Data(DataCommand),
    /// Show how much of the records the registry knows, and which of their competencies it does not.
    Coverage {
        #[command(flatten)]
        place: Place,
        #[arg(long)]
        json: bool,
    },
    /// Show whether the records that came in since the newest model are still what it was made for.
    Drift {
        #[command(flatten)]
        place: Place,
        #[arg(long)]
        json: bool,
    },
    /// Run the agent.
    Run {
        #[command(flatten)]
        place: Place,
    },
    /// What is going on; answers whether or not the agent runs or the coordinator can be reached.
    Status {
        #[command(flatten)]
        place: Place,
        #[arg(long)]
        json: bool,
    },
    /// Look for everything that may be wrong here, with its fix; exit code 1 if a check fails.
    Doctor {
        #[command(flatten)]
        place: Place,
        #[arg(long)]
        json: bool,
    },
    /// Write one archive for whoever helps: no key, no record, no learner is in it.
    Diagnose(diagnose::DiagnoseArgs),
    /// Take part in no new round until `resume`; the round under way is finished.
    Pause {
        #[command(flatten)]
        place: Place,
        /// Why, for the status and the audit log; name no person.
        #[arg(long)]
        reason: Option<String>,
    },
    /// Take part in rounds again.
    Resume {
        #[command(flatten)]
        place: Place,
    },
    /// Show what taking part has cost learners, what is left, and what may be said of it.
    Privacy {
        #[command(flatten)]
        place: Place,
        #[arg(long)]
        json: bool,
    },
    /// Show exactly what the round under way would send.
    PreviewEgress {
        #[command(flatten)]
        place: Place,
        #[arg(long)]
        json: bool,
    },
    /// Let go what the policy holds.
    Approve {
        #[command(flatten)]
        place: Place,
        #[arg(long)]
        json: bool,
    },
    /// Keep what the policy holds: this institution leaves the round.
    Reject {
        #[command(flatten)]
        place: Place,
        /// Why, for the audit log; name no person.
        #[arg(long)]
        reason: String,
        #[arg(long)]
        json: bool,
    },
    /// Recommend items to a learner.
    Recommend {
        #[command(flatten)]
        place: Place,
        /// The institution's own id of the learner.
        #[arg(long)]
        learner: String,
        #[arg(long, default_value_t = 5)]
        count: usize,
        #[arg(long)]
        json: bool,
    },
    /// Test the installed model, and one from this institution alone, on held-out learners.
    Evaluate {
        #[command(flatten)]
        place: Place,
        #[arg(long)]
        json: bool,
    },
    /// The configuration file.
    #[command(subcommand)]
    Config(config::ConfigCommand),
    /// Let the running agent read its configuration again.
    Reload {
        #[command(flatten)]
        place: Place,
    },
    /// The institution's identity key.
    #[command(subcommand)]
    Identity(IdentityCommand),
    /// This institution's audit log.
    #[command(subcommand)]
    Audit(AuditCommand),
}

#[derive(Subcommand)]
enum PolicyCommand {
    /// Write a commented policy to edit.
    Init {
        #[command(flatten)]
        place: Place,
    },
    /// Show what differs between the file and what was signed.
    Diff {
        #[command(flatten)]
        place: Place,
        #[arg(long)]
        json: bool,
    },
    /// Sign the file as it is, with the institution's identity key; the agent goes by it from then on.
    Sign {
        #[command(flatten)]
        place: Place,
        #[arg(long)]
        json: bool,
    },
}

#[derive(Subcommand)]
enum DataCommand {
    /// Take a file of answers (CSV, JSON Lines or Parquet) into the vault.
    Import {
        file: PathBuf,
        #[command(flatten)]
        place: Place,
        /// Which columns mean what.
        #[arg(long)]
        mapping: PathBuf,
        /// Whose rows, if the file holds several institutions.
        #[arg(long)]
        institution: Option<String>,
        #[arg(long)]
        json: bool,
    },
    /// What the vault holds.
    Summary {
        #[command(flatten)]
        place: Place,
        #[arg(long)]
        json: bool,
    },
}

#[derive(Subcommand)]
enum IdentityCommand {
    /// Make the next identity key. The consortium's next roster puts it into force.
    Rotate {
        #[command(flatten)]
        place: Place,
        #[arg(long)]
        json: bool,
    },
}

#[derive(Subcommand)]
enum AuditCommand {
    /// List entries.
    List {
        #[command(flatten)]
        place: Place,
        #[arg(long, default_value_t = 0)]
        from: u64,
        #[arg(long, default_value_t = 50)]
        count: u64,
    },
    /// Show one entry with its proof.
    Show {
        index: u64,
        #[command(flatten)]
        place: Place,
    },
    /// Check every entry, the tree and the checkpoint's signature.
    Verify {
        #[command(flatten)]
        place: Place,
    },
}

impl Cli {
    /// Runs the command: exit code 0, 78 for a bad configuration (sysexits.h), 1 for all else.
    pub fn run(self) -> ExitCode {
        match run(self.command) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("error: {error:#}");
                ExitCode::from(if is_bad_config(&error) { 78 } else { 1 })
            }
        }
    }
}

fn is_bad_config(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        cause.is::<ConfigError>() || matches!(cause.downcast_ref(), Some(HomeError::Config(_)))
    })
}

fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Enroll { place, coordinator, token_file, root_fingerprint, network } => {
            let (dir, network) = (place.dir, network.network()?);
            enroll(enrol::Request { dir, coordinator, token_file, root_fingerprint, network })
        }
        Command::Reenrol { place, token_file } => reenrol::run(&place.dir, &token_file),
        Command::Policy(PolicyCommand::Init { place }) => policy_init(&place.dir),
        Command::Policy(PolicyCommand::Diff { place, json }) => {
            ask(&place.dir, Request::PolicyDiff, json)
        }
        Command::Policy(PolicyCommand::Sign { place, json }) => {
            ask(&place.dir, Request::SignPolicy, json)
        }
        Command::Data(command) => data(command),
        Command::Drift { place, json } => ask(&place.dir, Request::Drift, json),
        Command::Coverage { place, json } => ask(&place.dir, Request::Coverage, json),
        Command::Run { place } => serve(&place.dir),
        Command::Status { place, json } => ask(&place.dir, Request::Status, json),
        Command::Doctor { place, json } => doctor::run(&place.dir, json),
        Command::Diagnose(args) => diagnose::run(&args),
        Command::Pause { place, reason } => ask(&place.dir, Request::Pause { reason }, false),
        Command::Resume { place } => ask(&place.dir, Request::Resume, false),
        Command::Privacy { place, json } => ask(&place.dir, Request::Privacy, json),
        Command::PreviewEgress { place, json } => ask(&place.dir, Request::PreviewEgress, json),
        Command::Approve { place, json } => {
            ask(&place.dir, Request::DecideEgress(Word::Approved), json)
        }
        Command::Reject { place, reason, json } => {
            ask(&place.dir, Request::DecideEgress(Word::Rejected { reason }), json)
        }
        Command::Recommend { place, learner, count, json } => {
            ask(&place.dir, Request::Recommend { learner, count }, json)
        }
        Command::Evaluate { place, json } => ask(&place.dir, Request::Evaluate, json),
        Command::Config(command) => config::run(&command),
        Command::Reload { place } => config::reload(&place.dir),
        Command::Identity(IdentityCommand::Rotate { place, json }) => {
            ask(&place.dir, Request::RotateIdentity, json)
        }
        Command::Audit(command) => run_audit(command),
    }
}

/// One thread for all that waits: there is one coordinator to talk to, and what takes long runs on
/// threads of its own.
fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    runtime.worker_threads(1).enable_all().build().context("cannot start")
}

fn enroll(request: enrol::Request) -> anyhow::Result<()> {
    let enrolled = runtime()?.block_on(enrol::enrol(&request, Clock::system().now()))?;
    print(&format!("enrolled       {}\n", enrolled.institution))?;
    print(&format!("fingerprint    {}\n", enrolled.fingerprint))?;
    print("Tell the consortium this fingerprint by a channel that the coordinator does not\n")?;
    print("control: it is compared before the roster is signed.\n")?;
    print("next           policy init, policy sign, data import, run\n")?;
    Ok(())
}

fn policy_init(dir: &Path) -> anyhow::Result<()> {
    Home::config(dir)?;
    Policy::init(dir)?;
    print(&format!("wrote          {}\n", dir.join(crate::policy::FILE).display()))?;
    print("Read it and set what this institution consents to.\n")?;
    print("next           policy sign\n")?;
    Ok(())
}

fn data(command: DataCommand) -> anyhow::Result<()> {
    match command {
        DataCommand::Import { file, place, mapping, institution, json } => {
            let (file, mapping) = (complete(&file)?, complete(&mapping)?);
            ask(&place.dir, Request::Import { file, mapping, institution }, json)
        }
        DataCommand::Summary { place, json } => ask(&place.dir, Request::Summary, json),
    }
}

/// The path as another process sees it.
fn complete(path: &Path) -> anyhow::Result<PathBuf> {
    path.canonicalize().with_context(|| path.display().to_string())
}

fn ask(dir: &Path, request: Request, json: bool) -> anyhow::Result<()> {
    log_to_stderr(&Log { level: "warn".into(), format: LogFormat::Text })?;
    let answer = runtime()?.block_on(desk::ask(dir, request))?;
    if json { print(&format!("{}\n", answer.json)) } else { print(&answer.text) }
}

/// Prints an answer; a reader that has seen enough (`head`) is no failure.
fn print(text: &str) -> anyhow::Result<()> {
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}

fn serve(dir: &Path) -> anyhow::Result<()> {
    log_to_stderr(&Home::config(dir)?.log)?;
    let runtime = runtime()?;
    let dir = dir.to_owned();
    // On the runtime's own threads, beside the connection: this one would have to be woken for each
    // message.
    let served =
        runtime.spawn(until_signals(async move |stop| runner::run_agent(&dir, stop).await));
    let ended = runtime.block_on(served);
    // Work on blocking threads that did not stop in time must not keep the process.
    runtime.shutdown_background();
    ended
        .context("the agent failed")?
        .context("a second signal came before everything had ended")?
}

fn run_audit(command: AuditCommand) -> anyhow::Result<()> {
    match command {
        AuditCommand::List { place, from, count } => {
            let (journal, key) = log_of(&place.dir)?;
            for line in audit::list(&journal, &key, from, count)? {
                let audit::Line { index, at, kind, summary } = line;
                print(&format!("{index:>6}  {at}  {kind:<18} {summary}\n"))?;
            }
        }
        AuditCommand::Show { index, place } => {
            let (journal, key) = log_of(&place.dir)?;
            match audit::show(&journal, &key, index)? {
                Some(entry) => print(&format!("{entry}\n"))?,
                None => bail!("there is no entry {index}; see audit list"),
            }
        }
        AuditCommand::Verify { place } => {
            let (journal, key) = log_of(&place.dir)?;
            let report = audit::verify(&journal, &key)?;
            let audit::Report { entries, origin, root, .. } = report;
            print(&format!(
                "verified       {entries} entries of {origin}\nroot           {root}\n"
            ))?;
        }
    }
    Ok(())
}

/// The journal's directory, and the key that signs its checkpoints.
fn log_of(dir: &Path) -> anyhow::Result<(PathBuf, VerifyingKey)> {
    let journal = Home::config(dir)?.directories.journal;
    let key = rotation::log_key(dir, &journal)?;
    Ok((journal, key))
}
