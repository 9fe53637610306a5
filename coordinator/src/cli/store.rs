//! Commands about the directory as a whole: is it sound, make its view again, back it up, restore it.

use std::{io::Write, path::Path, path::PathBuf};

use anyhow::bail;
use clap::{Args, Subcommand};
use collegium_shared::{clock::Clock, journal::JournalError};

use super::{Home, log_key};
use crate::{
    archive::{Manifest, backup::backup, restore::restore},
    store::{
        check::{self, Report},
        rebuild::{self, Before, RebuildError},
    },
};

#[derive(Subcommand)]
pub(super) enum StoreCommand {
    /// Check journal, view and blobs; exit code 1 if anything is wrong.
    Check {
        #[command(flatten)]
        home: Home,
    },
    /// Delete the view and make it again from the journal. The coordinator must not run.
    Rebuild {
        #[command(flatten)]
        home: Home,
    },
}

#[derive(Args)]
pub(super) struct BackupArgs {
    #[command(flatten)]
    home: Home,
    /// The file to write (mode 0600); it must not exist.
    #[arg(long)]
    out: PathBuf,
    /// Leave out the private keys: they are backed up apart.
    #[arg(long)]
    without_keys: bool,
}

#[derive(Args)]
pub(super) struct RestoreArgs {
    /// The backup.
    archive: PathBuf,
    /// An empty or new directory.
    #[command(flatten)]
    home: Home,
}

pub(super) fn run(command: StoreCommand) -> anyhow::Result<()> {
    match command {
        StoreCommand::Check { home } => print_check(&check::check(&home.dir, &log_key(&home.dir)?)),
        StoreCommand::Rebuild { home } => run_rebuild(&home.dir),
    }
}

fn print_check(report: &Report) -> anyhow::Result<()> {
    say!("journal        {} entries", report.entries);
    if let Some((root, state)) = report.sound {
        say!("root           {root}");
        say!("state          {state}");
    }
    match (report.view, report.in_use) {
        (Some(position), _) => say!("view           sound, up to entry {position}"),
        (None, true) => say!("view           not looked at: the coordinator is running"),
        (None, false) => {}
    }
    say!("blobs          {} needed ({} bytes) are sound", report.blobs, report.blob_bytes);
    say!(
        "orphan blobs   {}: sums and models that nothing names; a start erases them",
        report.orphans
    );
    for finding in &report.findings {
        say!("finding        {}", finding.what);
        say!("  fix          {}", finding.fix);
    }
    match report.findings.len() {
        0 => Ok(()),
        1 => bail!("1 finding"),
        several => bail!("{several} findings"),
    }
}

fn run_rebuild(dir: &Path) -> anyhow::Result<()> {
    let clock = Clock::system();
    let start = clock.now();
    let rebuilt = match rebuild::rebuild(dir, &log_key(dir)?) {
        Err(RebuildError::Journal(JournalError::InUse(_))) => {
            bail!(
                "the coordinator is running; stop it first (a damaged view is made again at its start)"
            )
        }
        other => other?,
    };
    match &rebuilt.before {
        Before::Missing => say!("view before    there was none"),
        Before::Damaged(reason) => say!("view before    damaged: {reason}"),
        Before::Sound { position, state } => {
            say!("view before    sound: entry {position}, state {state}");
        }
        Before::Wrong { position, state } => {
            say!("view before    wrong: at entry {position} it held {state}");
        }
    }
    say!("entries        {}", rebuilt.entries);
    say!("root           {}", rebuilt.root);
    say!("state          {}", rebuilt.state);
    say!("took           {} ms", clock.now().since(start).as_millis());
    Ok(())
}

pub(super) fn run_backup(args: &BackupArgs) -> anyhow::Result<()> {
    let dir = &args.home.dir;
    let now = Clock::system().now();
    let manifest = backup(dir, &log_key(dir)?, &args.out, !args.without_keys, now)?;
    say!("backup         {} (readable by you alone)", args.out.display());
    print_manifest(&manifest);
    if manifest.keys {
        say!("It holds the private keys: whoever has it can speak for this coordinator.");
    } else {
        say!("The private keys are not in it: keep a copy of keys/ apart, or it is of no use.");
    }
    Ok(())
}

fn print_manifest(manifest: &Manifest) {
    let (files, blobs) = (manifest.files.len(), manifest.blobs());
    say!("files          {files} ({blobs} blobs), {} bytes", manifest.bytes());
    say!("log            {} entries", manifest.log.entries);
    say!("root           {}", manifest.log.root);
    say!("signing key    {}", manifest.log.key.fingerprint());
}

pub(super) fn run_restore(args: &RestoreArgs) -> anyhow::Result<()> {
    let dir = &args.home.dir;
    let manifest = restore(&args.archive, dir, Clock::system().now())?;
    say!("restored       {}", dir.display());
    say!("made at        {}", manifest.made_at);
    print_manifest(&manifest);
    if !manifest.keys {
        say!("keys           not in the backup: put keys/ back (mode 0600) before anything else");
    }
    say!("next           compare root and signing key with what the backup printed, then: serve;");
    say!("               import the newest signed roster and registry; revoke again who was");
    say!("               revoked since; invite again who enrolled since; start a new task");
    Ok(())
}
