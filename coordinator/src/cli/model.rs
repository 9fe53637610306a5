//! `model`: released models and their cards.

use std::{fs, io::Write, path::PathBuf};

use anyhow::{Context, bail};
use clap::{Args, Subcommand};
use collegium_shared::signed::Signed;
use serde_json::Value;

use super::{Home, ask};
use crate::{
    admin::AdminRequest,
    card::{
        ModelCard,
        show::{Since, html, text},
    },
};

/// Released models and their cards.
#[derive(Subcommand)]
pub(super) enum ModelCommand {
    /// List the released models, oldest first.
    List {
        #[command(flatten)]
        home: Home,
        #[arg(long)]
        json: bool,
    },
    /// Show a model's card: of the newest release, or of the one named.
    Card {
        #[command(flatten)]
        which: Which,
        #[command(flatten)]
        home: Home,
        /// The signed card, and what was found out since.
        #[arg(long)]
        json: bool,
    },
    /// Write a model's card as a page, in one file that needs nothing else.
    Page {
        #[command(flatten)]
        which: Which,
        #[command(flatten)]
        home: Home,
        /// The file to write; one that is there is replaced.
        #[arg(long)]
        out: PathBuf,
    },
}

/// A released model.
#[derive(Args)]
pub(super) struct Which {
    /// The task that it is of; the newest one without it.
    task: Option<String>,
    /// Its version in the task; the newest one without it.
    #[arg(long)]
    version: Option<u32>,
}

pub(super) fn run(command: ModelCommand) -> anyhow::Result<()> {
    match command {
        ModelCommand::List { home, json } => {
            let answer = ask(&home.dir, AdminRequest::Models)?;
            if json {
                say!("{answer}");
                return Ok(());
            }
            let all = answer["models"].as_array().map(Vec::as_slice).unwrap_or_default();
            if all.is_empty() {
                say!("there is no released model yet");
            }
            for one in all {
                let text = |key: &str| one[key].as_str().unwrap_or_default().to_owned();
                let auc = one["metrics"]["auc"].as_f64();
                let auc = auc.map_or_else(|| "-".to_owned(), |auc| format!("{auc:.4}"));
                let card = if one["card"].is_null() { "no card" } else { "card" };
                say!(
                    "{:<24} version {:<4} {:<16} AUC {auc}  {card}",
                    text("task"),
                    one["version"],
                    text("architecture")
                );
            }
            Ok(())
        }
        ModelCommand::Card { which, home, json } => {
            let answer = ask(&home.dir, which.request())?;
            if json {
                say!("{answer}");
            } else {
                let (card, since) = parts(&answer)?;
                say!("{}", text(&card.body, &since));
            }
            Ok(())
        }
        ModelCommand::Page { which, home, out } => {
            let (card, since) = parts(&ask(&home.dir, which.request())?)?;
            if out.is_dir() {
                bail!("{} is a directory; name a file", out.display());
            }
            fs::write(&out, html(&card.body, &since)).with_context(|| out.display().to_string())?;
            say!("wrote          {}", out.display());
            Ok(())
        }
    }
}

impl Which {
    fn request(self) -> AdminRequest {
        AdminRequest::ModelCard { task: self.task, version: self.version }
    }
}

fn parts(answer: &Value) -> anyhow::Result<(Signed<ModelCard>, Since)> {
    let card = serde_json::from_value(answer["card"].clone())?;
    Ok((card, serde_json::from_value(answer["since"].clone())?))
}
