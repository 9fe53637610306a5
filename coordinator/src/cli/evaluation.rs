//! `evaluation`: what federated evaluations found.

use std::io::Write;

use clap::Subcommand;
use collegium_shared::signed::Signed;

use super::{Home, ask};
use crate::{
    admin::AdminRequest,
    evaluation::{Evaluated, EvaluationReport, text},
};

/// Federated evaluations of released models.
#[derive(Subcommand)]
pub(super) enum EvaluationCommand {
    /// List the evaluations.
    List {
        #[command(flatten)]
        home: Home,
        #[arg(long)]
        json: bool,
    },
    /// Show the report of an evaluation: of the newest one, or of the task named.
    Show {
        task: Option<String>,
        #[command(flatten)]
        home: Home,
        /// The whole signed report.
        #[arg(long)]
        json: bool,
    },
}

pub(super) fn run(command: EvaluationCommand) -> anyhow::Result<()> {
    match command {
        EvaluationCommand::List { home, json } => {
            let answer = ask(&home.dir, AdminRequest::Evaluations)?;
            if json {
                say!("{answer}");
                return Ok(());
            }
            let all: Vec<Evaluated> = serde_json::from_value(answer["evaluations"].clone())?;
            if all.is_empty() {
                say!("there was no federated evaluation yet");
            }
            for one in all {
                let proposal = one.proposal.as_deref().unwrap_or("no clear fall");
                let (task, at, n) = (one.task, one.at, one.institutions);
                say!("{task:<24} {at}  {n} institutions  {proposal}");
            }
            Ok(())
        }
        EvaluationCommand::Show { task, home, json } => {
            let answer = ask(&home.dir, AdminRequest::EvaluationReport { task })?;
            if json {
                say!("{answer}");
            } else {
                let report: Signed<EvaluationReport> = serde_json::from_value(answer)?;
                say!("{}", text(&report.body));
            }
            Ok(())
        }
    }
}
