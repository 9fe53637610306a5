//! A consortium for benchmarks: a coordinator and agents as people run them, without records, ready
//! for `load-test/1`.

use std::{fs, time::Duration};

use anyhow::{Context, bail};
use collegium_coordinator::{admin::AdminRequest, service};
use collegium_shared::{ids::InstitutionId, protocol::Cohort};
use serde_json::Value;
use tempfile::TempDir;
use tokio::runtime::Runtime;

use super::usage::{Usage, forget_peak};
use crate::network::Network;

/// How often the coordinator is asked how far it is: seldom, so that asking does not count.
const POLL: Duration = Duration::from_millis(250);
/// A round of the largest vectors on a small machine.
const ROUND_LIMIT: Duration = Duration::from_secs(300);

/// A running network of processes.
pub(super) struct Consortium {
    pub(super) network: Network,
    pub(super) institutions: Vec<InstitutionId>,
    runtime: Runtime,
    tasks: usize,
    _dir: TempDir,
}

impl Consortium {
    /// Everybody enrolled, on the roster, with a policy, and running.
    pub(super) fn start(institutions: usize) -> anyhow::Result<Self> {
        let dir = tempfile::tempdir()?;
        let mut network = Network::start(dir.path())?;
        let names = (0..institutions)
            .map(|number| Ok(format!("school-{number:04}").parse()?))
            .collect::<anyhow::Result<Vec<InstitutionId>>>()?;
        for name in &names {
            network.enrol(name, name.as_str())?;
        }
        network.sign_roster()?;
        let table = dir.path().join("registry.csv");
        fs::write(&table, "kind,id,title,competencies\ncompetency,none,None,\n")?;
        network.publish_registry(&table)?;
        let policy = policy(Cohort::proposed(institutions));
        for name in &names {
            network.set_policy(name, &policy)?;
            network.start_agent(name)?;
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        Ok(Self { network, institutions: names, runtime, tasks: 0, _dir: dir })
    }

    pub(super) fn coordinator_dir(&self) -> std::path::PathBuf {
        self.network.coordinator_dir()
    }

    /// Process ids: the coordinator's, and each agent's.
    pub(super) fn processes(&mut self) -> anyhow::Result<(u32, Vec<u32>)> {
        let coordinator = self.network.coordinator_process()?.id();
        let network = &mut self.network;
        let id = |name| network.agent_process(name).map(|process| process.id());
        Ok((coordinator, self.institutions.iter().map(id).collect::<anyhow::Result<_>>()?))
    }

    /// Starts a task of `rounds` rounds over `parameters` values.
    pub(super) fn start_task(&mut self, parameters: usize, rounds: u32) -> anyhow::Result<()> {
        self.tasks += 1;
        self.network.start_task(&format!(
            "task = \"benchmark-{}\"\narchitecture = \"load-test/1\"\nparameters = {parameters}\n\
             rounds = {rounds}\n",
            self.tasks
        ))
    }

    /// Waits until the newest task has ended well; `each` is called between two looks with the
    /// number of rounds that are behind it.
    pub(super) fn await_task(
        &mut self,
        mut each: impl FnMut(u64) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let mut last = (0, tokio::time::Instant::now());
        loop {
            self.network.expect_running()?;
            let status = self.status()?;
            let task = &status["task"];
            match task["ending"]["end"].as_str() {
                Some("completed") => return Ok(()),
                Some(_) => bail!("the task failed: {task}"),
                None => {}
            }
            let done = task["rounds_completed"].as_u64().unwrap_or(0);
            each(done)?;
            if done != last.0 {
                last = (done, tokio::time::Instant::now());
            }
            if last.1.elapsed() > ROUND_LIMIT {
                bail!("round {done} does not end: {status}");
            }
            std::thread::sleep(POLL);
        }
    }

    fn status(&self) -> anyhow::Result<Value> {
        let dir = self.coordinator_dir();
        self.runtime.block_on(service::ask(&dir, AdminRequest::Status))
    }

    /// What every agent sent as masked vectors: bytes and values.
    pub(super) fn uploaded(&self) -> anyhow::Result<(u64, u64)> {
        let mut sum = (0, 0);
        for name in &self.institutions {
            let status = self.network.agent_status(name)?;
            let count = |what: &str| {
                let value = status["traffic"][what].as_u64();
                value.with_context(|| format!("the status of {name} has no {what}"))
            };
            sum = (sum.0 + count("uploaded_bytes")?, sum.1 + count("uploaded_values")?);
        }
        Ok(sum)
    }
}

/// Lets the peaks of all processes begin anew; gives what each uses now.
pub(super) fn begin(processes: &[u32]) -> anyhow::Result<Vec<Usage>> {
    processes.iter().map(|pid| forget_peak(*pid).and_then(|()| Usage::of(*pid))).collect()
}

fn policy(cohort: Cohort) -> String {
    let (c_max, min_honest, n_min) = (cohort.c_max, cohort.min_honest, cohort.n_min());
    format!(
        "tasks = [\"benchmark-*\"]\narchitectures = [\"load-test/1\"]\nc_max = {c_max}\n\
         n_min = {n_min}\nmin_honest = {min_honest}\n"
    )
}
