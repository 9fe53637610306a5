//! `invite`, `institution revoke` and `institution readmit`: who may enrol, and who may no longer.

use std::{
    io::Write,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, bail};
use clap::Subcommand;
use collegium_shared::{
    clock::{Clock, Timestamp},
    crypto::Digest,
    files,
    ids::InstitutionId,
    token::TokenFile,
};

use super::{Home, ask};
use crate::admin::AdminRequest;

/// One institution's standing.
#[derive(Subcommand)]
pub(super) enum InstitutionCommand {
    /// Shut an institution out at once: every call and connection of it is refused, with the reason.
    Revoke {
        institution: InstitutionId,
        /// Why; the institution is told, and the log keeps it.
        #[arg(long)]
        reason: String,
        #[command(flatten)]
        home: Home,
    },
    /// Write a new invitation for an institution that was revoked.
    Readmit {
        institution: InstitutionId,
        #[command(flatten)]
        home: Home,
        /// The file to write (mode 0600); hand it over on a channel that both sides trust.
        #[arg(long)]
        out: PathBuf,
        /// How long the invitation is valid.
        #[arg(long, default_value_t = 24)]
        valid_hours: u32,
    },
}

pub(super) fn run(command: InstitutionCommand) -> anyhow::Result<()> {
    match command {
        InstitutionCommand::Revoke { institution, reason, home } => {
            revoke(&home.dir, institution, reason)
        }
        InstitutionCommand::Readmit { institution, home, out, valid_hours } => {
            let name = institution.clone();
            write_invitation(&home.dir, &name, valid_hours, &out, |token_sha256, expires_at| {
                AdminRequest::Readmit { institution, token_sha256, expires_at }
            })
        }
    }
}

fn revoke(dir: &Path, institution: InstitutionId, reason: String) -> anyhow::Result<()> {
    let request = AdminRequest::Revoke { institution: institution.clone(), reason };
    let answer = ask(dir, request)?;
    say!("revoked        {institution}: refused from now on");
    if answer["on_roster"] == true {
        say!("next           roster export, root sign, roster import: until then the others'");
        say!("               roster still names it, and rounds go on without it");
    }
    Ok(())
}

/// Writes a fresh token to `out` and tells the coordinator of it by the request that `of` makes.
pub(super) fn write_invitation(
    dir: &Path,
    institution: &InstitutionId,
    valid_hours: u32,
    out: &Path,
    of: impl FnOnce(Digest, Timestamp) -> AdminRequest,
) -> anyhow::Result<()> {
    if out.exists() {
        bail!("{} exists already; choose another file", out.display());
    }
    let ca = files::read_bounded(&dir.join("ca.pem"), 64 << 10)
        .with_context(|| format!("{} is not a coordinator's directory", dir.display()))?;
    let expires_at = Clock::system().now() + Duration::from_secs(u64::from(valid_hours) * 3_600);
    let ca = String::from_utf8(ca).context("ca.pem is damaged")?;
    let token = TokenFile::new(institution.clone(), expires_at, ca, String::new())?;
    let request = of(token.token_sha256(), expires_at);
    // First the file: an invitation in the log that nobody can read would be lost.
    token.write(out)?;
    if let Err(error) = ask(dir, request) {
        std::fs::remove_file(out).with_context(|| out.display().to_string())?;
        return Err(error);
    }
    say!("invited        {institution}");
    say!("file           {} (readable by you alone)", out.display());
    say!("valid until    {expires_at}, once");
    Ok(())
}
