//! `doctor`: what is found, for people or as JSON; exit code 1 if anything failed.

use std::path::Path;

use anyhow::bail;
use collegium_shared::clock::Clock;

use super::{print, runtime};
use crate::doctor;

pub(super) fn run(dir: &Path, json: bool) -> anyhow::Result<()> {
    let report = runtime()?.block_on(doctor::examine(dir, &Clock::system()))?;
    if json {
        print(&format!("{}\n", serde_json::to_string(&report)?))?;
    } else {
        print(&report.to_string())?;
    }
    match report.failures() {
        0 => Ok(()),
        1 => bail!("1 check failed"),
        several => bail!("{several} checks failed"),
    }
}
