//! Another federation framework, measured in the same run: a script that a Python runs as
//! `PYTHON SCRIPT NUMBERS` and that prints one JSON object with the figures that are asked for.

use std::{path::PathBuf, process::Command, time::Duration};

use anyhow::{Context, bail};
use clap::Args;
use serde_json::Value;

use crate::harness;

const LIMIT: Duration = Duration::from_secs(900);

/// Who is measured beside this project.
#[derive(Clone, Debug, Args)]
pub(super) struct Peer {
    /// A Python that has what the script needs.
    #[arg(long, value_name = "PYTHON", requires = "peer_script")]
    peer_python: Option<PathBuf>,
    /// Takes the benchmark's numbers as arguments, parameters and clients first, and prints one JSON object.
    #[arg(long, value_name = "SCRIPT", requires = "peer_python")]
    peer_script: Option<PathBuf>,
}

impl Peer {
    /// One run with these arguments, whose JSON must hold `needed` as numbers; none if no peer was named.
    pub(super) fn run(&self, numbers: &[usize], needed: &[&str]) -> anyhow::Result<Option<Value>> {
        let (Some(python), Some(script)) = (&self.peer_python, &self.peer_script) else {
            return Ok(None);
        };
        let mut command = Command::new(python);
        command.arg(script).args(numbers.iter().map(usize::to_string));
        let said = harness::run(&mut command, LIMIT)?;
        let text = String::from_utf8_lossy(&said.stdout);
        let last = text.lines().rev().find(|line| line.starts_with('{'));
        let found: Value = serde_json::from_str(last.context("the peer printed no JSON")?)?;
        if let Some(missing) = needed.iter().find(|name| found[**name].as_f64().is_none()) {
            bail!("the peer's JSON has no {missing}: {found}");
        }
        Ok(Some(found))
    }
}
