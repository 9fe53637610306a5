//! `bias`: the reports of bias audits, and the reviews that a person closes.

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
};

use anyhow::{Context, bail};
use clap::Subcommand;
use collegium_shared::signed::Signed;
use serde_json::Value;

use super::{Home, ask};
use crate::{
    admin::AdminRequest,
    bias::{Review, page, report::BiasReport, text},
};

/// Bias audits and their reviews.
#[derive(Subcommand)]
pub(super) enum BiasCommand {
    /// List the audits, and the reviews with who closed them.
    List {
        #[command(flatten)]
        home: Home,
        #[arg(long)]
        json: bool,
    },
    /// Show the report of an audit: of the newest one, or of the task named.
    Show {
        task: Option<String>,
        #[command(flatten)]
        home: Home,
        /// The whole signed report.
        #[arg(long)]
        json: bool,
    },
    /// Write the report as a page with charts, in one file that needs nothing else.
    Page {
        task: Option<String>,
        #[command(flatten)]
        home: Home,
        /// The file to write; one that is there is replaced.
        #[arg(long)]
        out: PathBuf,
    },
    /// Close a review: somebody has looked at the gaps, and says what was found or done.
    Close {
        /// The review's number, as `bias list` shows it.
        number: u32,
        #[command(flatten)]
        home: Home,
        /// Who closes it.
        #[arg(long)]
        by: String,
        /// What was found, and what is done about it.
        #[arg(long)]
        note: String,
    },
}

pub(super) fn run(command: BiasCommand) -> anyhow::Result<()> {
    match command {
        BiasCommand::List { home, json } => list(&home.dir, json),
        BiasCommand::Show { task, home, json } => {
            let answer = ask(&home.dir, AdminRequest::AuditReport { task })?;
            if json {
                say!("{answer}");
            } else {
                let report: Signed<BiasReport> = serde_json::from_value(answer)?;
                say!("{}", text::report(&report.body));
            }
            Ok(())
        }
        BiasCommand::Page { task, home, out } => write_page(&home.dir, task, &out),
        BiasCommand::Close { number, home, by, note } => {
            let answer = ask(&home.dir, AdminRequest::CloseReview { number, by, note })?;
            let attribute = answer["attribute"].as_str().unwrap_or_default();
            say!("closed         review {number} ({attribute})");
            Ok(())
        }
    }
}

fn reviews(answer: &Value) -> anyhow::Result<Vec<Review>> {
    Ok(serde_json::from_value(answer["reviews"].clone())?)
}

fn list(dir: &Path, json: bool) -> anyhow::Result<()> {
    let answer = ask(dir, AdminRequest::Audits)?;
    if json {
        say!("{answer}");
        return Ok(());
    }
    let audits = answer["audits"].as_array().map(Vec::as_slice).unwrap_or_default();
    if audits.is_empty() {
        say!("there was no bias audit yet");
    }
    for audit in audits {
        let text = |key: &str| audit[key].as_str().unwrap_or_default().to_owned();
        say!("{:<24} {}  {} institutions", text("task"), text("at"), audit["institutions"]);
    }
    for review in reviews(&answer)? {
        say!("{}", text::review(&review));
    }
    Ok(())
}

fn write_page(dir: &Path, task: Option<String>, out: &Path) -> anyhow::Result<()> {
    let report = ask(dir, AdminRequest::AuditReport { task })?;
    let report: Signed<BiasReport> = serde_json::from_value(report)?;
    let all = reviews(&ask(dir, AdminRequest::Audits)?)?;
    let own: Vec<Review> = all.into_iter().filter(|r| r.task == report.body.task).collect();
    if out.is_dir() {
        bail!("{} is a directory; name a file", out.display());
    }
    fs::write(out, page::html(&report.body, &own)).with_context(|| out.display().to_string())?;
    say!("wrote          {}", out.display());
    Ok(())
}
