//! Another federation framework, measured in the same run: a script that a Python runs as
//! `PYTHON SCRIPT PARAMETERS CLIENTS ROUNDS` and that prints one JSON object with `round_wall_s`.

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
    /// Runs rounds of PARAMETERS CLIENTS ROUNDS and prints one JSON object with `round_wall_s`.
    #[arg(long, value_name = "SCRIPT", requires = "peer_python")]
    peer_script: Option<PathBuf>,
}

impl Peer {
    /// One run; none if no peer was named.
    pub(super) fn run(
        &self,
        parameters: usize,
        institutions: usize,
        rounds: u32,
    ) -> anyhow::Result<Option<Value>> {
        let (Some(python), Some(script)) = (&self.peer_python, &self.peer_script) else {
            return Ok(None);
        };
        let mut command = Command::new(python);
        let numbers = [parameters.to_string(), institutions.to_string(), rounds.to_string()];
        command.arg(script).args(numbers);
        let said = harness::run(&mut command, LIMIT)?;
        let text = String::from_utf8_lossy(&said.stdout);
        let last = text.lines().rev().find(|line| line.starts_with('{'));
        let found: Value = serde_json::from_str(last.context("the peer printed no JSON")?)?;
        if found["round_wall_s"].as_f64().is_none() {
            bail!("the peer's JSON has no round_wall_s: {found}");
        }
        Ok(Some(found))
    }
}
