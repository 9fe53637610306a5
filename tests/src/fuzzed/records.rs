//! Files that people write: mappings with records, policies, task files, configurations. What is taken is
//! within its own rules, and configurations mean the same when they are shown and read again.

use std::fs;

use anyhow::{Context, ensure};
use collegium_agent::{
    config::Config as Agent,
    import::{self, Imported, Mapping},
    policy::Policy,
};
use collegium_coordinator::{config::Config as Coordinator, task::TaskSpec};
use collegium_shared::config::{self, effective};

use super::{choose, scratch};

/// A mapping up to the first zero byte, and after it a file of records.
pub(super) fn mappings(bytes: &[u8]) -> anyhow::Result<()> {
    let Some((format, bytes)) = choose(bytes, 2) else { return Ok(()) };
    let mut parts = bytes.splitn(2, |byte| *byte == 0);
    let (text, records) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    let Ok(text) = str::from_utf8(text) else { return Ok(()) };
    let Ok(mapping) = Mapping::parse(text) else { return Ok(()) };
    let dir = scratch()?;
    let path = dir.path().join(["records.csv", "records.jsonl"][format]);
    fs::write(&path, records)?;
    if let Ok(imported) = import::read(&path, &mapping, None) {
        accounted(&imported)?;
    }
    if let Ok(all) = import::read_all(&path, &mapping) {
        let learners: usize = all.institutions.values().map(Vec::len).sum();
        ensure!(learners as u64 == all.summary.learners, "learners were lost");
    }
    Ok(())
}

/// Every row that was read is accounted for, and every learner has what the model needs.
fn accounted(Imported { learners, summary }: &Imported) -> anyhow::Result<()> {
    let counted = summary.rows_accepted
        + summary.rows_ignored
        + summary.rows_elsewhere
        + summary.rows_refused;
    ensure!(summary.rows_read == counted, "rows are not accounted for: {summary:?}");
    let responses: usize = learners.iter().map(|learner| learner.responses.len()).sum();
    ensure!(responses as u64 == summary.rows_accepted, "{responses} responses: {summary:?}");
    ensure!(learners.len() as u64 == summary.learners, "{} learners: {summary:?}", learners.len());
    ensure!(learners.iter().all(|learner| !learner.responses.is_empty()), "a learner of nothing");
    ensure!(learners.is_sorted_by(|a, b| a.id < b.id), "learners are out of order, or there twice");
    Ok(())
}

/// A configuration of either daemon, a policy or a task file.
pub(super) fn config(bytes: &[u8]) -> anyhow::Result<()> {
    let Some((kind, text)) = choose(bytes, 4) else { return Ok(()) };
    let dir = scratch()?;
    let name = ["coordinator.toml", "agent.toml", "policy.toml", "task.toml"][kind];
    let path = dir.path().join(name);
    fs::write(&path, text)?;
    match kind {
        0 => {
            let Ok(taken) = Coordinator::read(&path) else { return Ok(()) };
            fs::write(&path, toml::to_string(&effective::table(&taken)?)?)?;
            let read = Coordinator::read(&path).context("what is shown is refused")?;
            ensure!(read == taken, "what is shown means something else: {taken:?}");
        }
        1 => {
            let Ok(taken) = Agent::read(&path, dir.path()) else { return Ok(()) };
            fs::write(&path, toml::to_string(&effective::table(&taken)?)?)?;
            let read = Agent::read(&path, dir.path()).context("what is shown is refused")?;
            ensure!(read == taken, "what is shown means something else: {taken:?}");
        }
        2 => {
            let Ok(policy) = Policy::load(dir.path()) else { return Ok(()) };
            ensure!(policy.min_honest >= 2, "a sum of one is allowed");
            ensure!(!policy.settings().is_empty(), "a policy without settings");
        }
        _ => {
            let Ok(task) = config::read::<TaskSpec>(&path) else { return Ok(()) };
            let json = serde_json::to_vec(&task)?;
            let read: TaskSpec = serde_json::from_slice(&json)?;
            ensure!(read == task, "a task is another in the log: {task:?}");
        }
    }
    Ok(())
}
