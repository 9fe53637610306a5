//! A whole network of real processes on this machine, set up through the commands that people type.
//! Plays every part in turn: consortium root, coordinator's operator, institutions' operators.
//! Knows the command line and nothing behind it.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    process::{Command, Output},
    time::Duration,
};

use anyhow::{Context, bail};
use collegium_shared::ids::InstitutionId;
use serde_json::Value;

use crate::{
    harness::{self, Binaries, Process, eventually},
    simulator::{Federation, Files},
};

/// Within this time a single command has ended and a started daemon answers.
pub const COMMAND_LIMIT: Duration = Duration::from_secs(60);

/// What the units and images of `deploy/` set for the daemons: one heap of glibc's for all threads, and no
/// caches of freed memory beside it.
pub const HEAPS: [(&str, &str); 2] =
    [("MALLOC_ARENA_MAX", "1"), ("GLIBC_TUNABLES", "glibc.malloc.tcache_count=0")];

/// One coordinator and its agents, each with a directory of its own below one directory.
pub struct Network {
    dir: PathBuf,
    binaries: &'static Binaries,
    port: u16,
    /// SHA-256 of the consortium root's key, hexadecimal.
    root_fingerprint: String,
    coordinator: Option<Process>,
    agents: BTreeMap<InstitutionId, Process>,
    /// Processes that run several agents each.
    hosts: Vec<Process>,
}

impl Network {
    /// A running coordinator with nobody enrolled: `root init`, `init`, `serve`, `root trust`.
    pub fn start(dir: &Path) -> anyhow::Result<Self> {
        let mut network = Self {
            dir: dir.to_owned(),
            binaries: harness::binaries()?,
            port: harness::free_port()?,
            root_fingerprint: String::new(),
            coordinator: None,
            agents: BTreeMap::new(),
            hosts: Vec::new(),
        };
        for part in ["agents", "exchange"] {
            fs::create_dir_all(dir.join(part)).with_context(|| format!("cannot make {part}"))?;
        }
        let init = &mut network.coordinator_command(&["root", "init", "--root-dir"]);
        let made = network.run(init.arg(network.root_dir()))?;
        network.root_fingerprint = fingerprint(&made)?;
        let listen = format!("127.0.0.1:{}", network.port);
        network.coordinator(&["init", "--listen", &listen])?;
        network.start_coordinator()?;
        let trust = &mut network.coordinator_command(&["root", "trust", "--dir"]);
        let public = network.root_dir().join("root.pub.json");
        network.run(trust.arg(network.coordinator_dir()).arg(public))?;
        Ok(network)
    }

    /// A network of the federation's institutions, ready for a task: everyone is enrolled and in the
    /// signed roster, has the signed registry, its own policy and its records; all agents run.
    pub fn assemble(dir: &Path, federation: &Federation, policy: &str) -> anyhow::Result<Self> {
        let mut network = Self::start(dir)?;
        let files = federation.write_to(&network.dir.join("data"))?;
        let names: Vec<_> = federation.institutions.iter().map(|i| i.name.clone()).collect();
        for institution in &federation.institutions {
            network.enrol(&institution.name, &institution.legal_entity)?;
        }
        network.sign_roster()?;
        network.publish_registry(&files.registry)?;
        for (name, records) in names.iter().zip(&files.records) {
            network.set_policy(name, policy)?;
            network.import_records(name, records, &files)?;
        }
        for name in &names {
            network.start_agent(name)?;
        }
        network.wait_for_agents(names.len())?;
        Ok(network)
    }

    /// Waits until so many members are connected.
    pub fn wait_for_agents(&mut self, count: usize) -> anyhow::Result<()> {
        self.wait_until(COMMAND_LIMIT, &format!("{count} agents are connected"), |status| {
            let connected = status["presence"]["connected"].as_u64();
            Ok((connected >= u64::try_from(count).ok()).then_some(()))
        })
    }

    /// Writes how long a poll stays open, by which the coordinator also knows who has gone, into its
    /// configuration, and starts it anew.
    pub fn set_patience(&mut self, seconds: u32) -> anyhow::Result<()> {
        stop(self.coordinator.iter_mut().collect())?;
        let path = self.coordinator_dir().join("coordinator.toml");
        let config = fs::read_to_string(&path).context("there is no coordinator.toml")?;
        let change = |line: &str| match line.starts_with("poll_patience_seconds") {
            true => format!("poll_patience_seconds = {seconds}\n"),
            false => format!("{line}\n"),
        };
        fs::write(&path, config.lines().map(change).collect::<String>())?;
        self.start_coordinator()
    }

    /// The directory that everything lies in.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    pub fn coordinator_dir(&self) -> PathBuf {
        self.dir.join("coordinator")
    }

    pub fn agent_dir(&self, institution: &InstitutionId) -> PathBuf {
        self.dir.join("agents").join(institution.as_str())
    }

    /// Where the consortium's root key lies, apart from the coordinator.
    pub fn root_dir(&self) -> PathBuf {
        self.dir.join("root")
    }

    /// Where all daemons write their output.
    pub fn logs(&self) -> PathBuf {
        self.dir.join("logs")
    }

    /// What every institution compares with the root's key: SHA-256, hexadecimal.
    pub fn root_fingerprint(&self) -> &str {
        &self.root_fingerprint
    }

    pub fn url(&self) -> String {
        format!("https://127.0.0.1:{}", self.port)
    }

    /// Files on their way from one party to another.
    fn exchange(&self) -> PathBuf {
        self.dir.join("exchange")
    }

    fn coordinator_command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(&self.binaries.coordinator);
        command.args(words).envs(HEAPS);
        command
    }

    /// The programs, for telling people what to type.
    pub fn binaries(&self) -> &Binaries {
        self.binaries
    }

    fn run(&self, command: &mut Command) -> anyhow::Result<Output> {
        harness::run(command, COMMAND_LIMIT)
    }

    /// Runs a coordinator command on its directory.
    pub fn coordinator(&self, words: &[&str]) -> anyhow::Result<Output> {
        self.run(self.coordinator_command(words).arg("--dir").arg(self.coordinator_dir()))
    }

    /// Runs an agent command on the institution's directory.
    pub fn agent(&self, institution: &InstitutionId, words: &[&str]) -> anyhow::Result<Output> {
        self.run(&mut self.agent_command(institution, words))
    }

    /// An agent command on the institution's directory, to be run by `harness::run` or `attempt`.
    pub fn agent_command(&self, institution: &InstitutionId, words: &[&str]) -> Command {
        let mut command = Command::new(&self.binaries.agent);
        command.args(words).arg("--dir").arg(self.agent_dir(institution)).envs(HEAPS);
        // The proxy of whoever runs the tests does not lead to the loopback.
        for name in ["HTTPS_PROXY", "https_proxy", "NO_PROXY", "no_proxy"] {
            command.env_remove(name);
        }
        command
    }

    /// Starts the coordinator and waits until it listens.
    pub fn start_coordinator(&mut self) -> anyhow::Result<()> {
        let mut command = self.coordinator_command(&["serve", "--dir"]);
        command.arg(self.coordinator_dir());
        let ready = self.coordinator_dir().join("run").join("address");
        self.coordinator = Some(start("coordinator", &mut command, &self.logs(), &ready)?);
        Ok(())
    }

    /// Starts the coordinator with more in its environment, and does not wait for it.
    pub fn launch_coordinator(&mut self, environment: &[(&str, String)]) -> anyhow::Result<()> {
        let mut command = self.coordinator_command(&["serve", "--dir"]);
        command.arg(self.coordinator_dir()).envs(environment.iter().cloned());
        self.coordinator = Some(Process::spawn("coordinator", &mut command, &self.logs())?);
        Ok(())
    }

    /// Starts an institution's agent with more in its environment, and does not wait for it.
    pub fn launch_agent(
        &mut self,
        institution: &InstitutionId,
        environment: &[(&str, String)],
    ) -> anyhow::Result<()> {
        let mut command = self.agent_command(institution, &["run"]);
        command.envs(environment.iter().cloned());
        let process = Process::spawn(institution.as_str(), &mut command, &self.logs())?;
        self.agents.insert(institution.clone(), process);
        Ok(())
    }

    /// The coordinator's daemon.
    pub fn coordinator_process(&mut self) -> anyhow::Result<&mut Process> {
        self.coordinator.as_mut().context("the coordinator was never started")
    }

    /// Invites an institution and enrols its agent.
    pub fn enrol(&self, institution: &InstitutionId, legal_entity: &str) -> anyhow::Result<()> {
        self.enrol_by(institution, legal_entity, &self.url(), &[])
    }

    /// The same by way of `url`, with more words on `enroll`'s command line.
    pub fn enrol_by(
        &self,
        institution: &InstitutionId,
        legal_entity: &str,
        url: &str,
        words: &[&str],
    ) -> anyhow::Result<()> {
        let token = self.exchange().join(format!("{institution}.token"));
        let name = institution.as_str();
        self.run(
            self.coordinator_command(&["invite", name, "--legal-entity", legal_entity, "--dir"])
                .arg(self.coordinator_dir())
                .arg("--out")
                .arg(&token),
        )?;
        self.run(
            self.agent_command(institution, &["enroll", "--coordinator", url])
                .args(["--root-fingerprint", &self.root_fingerprint])
                .args(words)
                .arg("--token-file")
                .arg(&token),
        )?;
        Ok(())
    }

    /// Carries the roster of everyone enrolled to the root and back.
    pub fn sign_roster(&self) -> anyhow::Result<()> {
        let draft = self.exchange().join("roster.draft");
        self.run(
            self.coordinator_command(&["roster", "export", "--dir"])
                .arg(self.coordinator_dir())
                .arg("--out")
                .arg(&draft),
        )?;
        self.sign_and_import("roster", &draft)
    }

    /// Builds, signs and imports the registry of competencies and shared items.
    pub fn publish_registry(&self, table: &Path) -> anyhow::Result<()> {
        self.publish_registry_version(table, 1)
    }

    /// The same under a version; agents take newer ones only.
    pub fn publish_registry_version(&self, table: &Path, version: u64) -> anyhow::Result<()> {
        let table = table.to_str().context("a path that is no text")?;
        self.publish_registry_of(&[table, "--version", &version.to_string()])
    }

    /// The same from whatever these words name to `registry build`.
    pub fn publish_registry_of(&self, sources: &[&str]) -> anyhow::Result<()> {
        let draft = self.exchange().join("registry.draft");
        let build = &mut self.coordinator_command(&["registry", "build"]);
        self.run(build.args(sources).arg("--out").arg(&draft))?;
        self.sign_and_import("registry", &draft)
    }

    fn sign_and_import(&self, kind: &str, draft: &Path) -> anyhow::Result<()> {
        let signed = draft.with_extension("signed");
        self.run(
            self.coordinator_command(&["root", "sign", "--yes", "--root-dir"])
                .arg(self.root_dir())
                .arg("--in")
                .arg(draft)
                .arg("--out")
                .arg(&signed),
        )?;
        let import = &mut self.coordinator_command(&[kind, "import", "--dir"]);
        self.run(import.arg(self.coordinator_dir()).arg(signed))?;
        Ok(())
    }

    /// Replaces the institution's sample policy, and signs it.
    pub fn set_policy(&self, institution: &InstitutionId, policy: &str) -> anyhow::Result<()> {
        self.agent(institution, &["policy", "init"])?;
        let path = self.agent_dir(institution).join("policy.toml");
        fs::write(&path, policy).with_context(|| format!("cannot write {}", path.display()))?;
        self.agent(institution, &["policy", "sign"]).map(drop)
    }

    /// Imports a table of records that the mapping beside it describes.
    pub fn import_records(
        &self,
        institution: &InstitutionId,
        records: &Path,
        files: &Files,
    ) -> anyhow::Result<()> {
        let import = &mut self.agent_command(institution, &["data", "import"]);
        self.run(import.arg(records).arg("--mapping").arg(&files.mapping))?;
        Ok(())
    }

    /// Starts an institution's agent and waits until it answers its command line: a command that
    /// finds no daemon yet opens the directory itself, and would stand in the daemon's way.
    pub fn start_agent(&mut self, institution: &InstitutionId) -> anyhow::Result<()> {
        self.start_agent_in(institution, &[])
    }

    /// The same with these variables in its environment.
    pub fn start_agent_in(
        &mut self,
        institution: &InstitutionId,
        environment: &[(&str, String)],
    ) -> anyhow::Result<()> {
        let mut command = self.agent_command(institution, &["run"]);
        command.envs(environment.iter().map(|(name, value)| (name, value)));
        let ready = self.agent_dir(institution).join("run").join("control.sock");
        let process = start(institution.as_str(), &mut command, &self.logs(), &ready)?;
        self.agents.insert(institution.clone(), process);
        Ok(())
    }

    /// Starts the agents of several institutions in one process: `program host DIR...`, which must
    /// run each as `collegium-agent run` does.
    pub fn start_host(
        &mut self,
        program: &Path,
        institutions: &[InstitutionId],
    ) -> anyhow::Result<()> {
        let mut command = Command::new(program);
        command.arg("host").args(institutions.iter().map(|name| self.agent_dir(name)));
        let name = format!("host-{}", self.hosts.len() + 1);
        self.hosts.push(Process::spawn(&name, &mut command, &self.logs())?);
        Ok(())
    }

    /// An institution's daemon.
    pub fn agent_process(&mut self, institution: &InstitutionId) -> anyhow::Result<&mut Process> {
        let found = self.agents.get_mut(institution);
        found.with_context(|| format!("the agent of {institution} was never started"))
    }

    /// SIGKILL to an institution's agent, which is not missed until it is started again.
    pub fn kill_agent(&mut self, institution: &InstitutionId) -> anyhow::Result<()> {
        self.agent_process(institution)?.kill()?;
        self.agents.remove(institution);
        Ok(())
    }

    /// Hands a task to the running coordinator.
    pub fn start_task(&self, task: &str) -> anyhow::Result<()> {
        let path = self.exchange().join("task.toml");
        fs::write(&path, task).with_context(|| format!("cannot write {}", path.display()))?;
        let start = &mut self.coordinator_command(&["task", "start", "--dir"]);
        self.run(start.arg(self.coordinator_dir()).arg(path))?;
        Ok(())
    }

    /// What `status --json` of the coordinator says.
    pub fn status(&self) -> anyhow::Result<Value> {
        let output = self.coordinator(&["status", "--json"])?;
        serde_json::from_slice(&output.stdout).context("the coordinator's status is not JSON")
    }

    /// What `status --json` of an agent says.
    pub fn agent_status(&self, institution: &InstitutionId) -> anyhow::Result<Value> {
        let output = self.agent(institution, &["status", "--json"])?;
        serde_json::from_slice(&output.stdout)
            .with_context(|| format!("the status of {institution} is not JSON"))
    }

    /// Every daemon that was started.
    fn daemons(&mut self) -> impl Iterator<Item = &mut Process> {
        let agents = self.agents.values_mut().chain(&mut self.hosts);
        self.coordinator.iter_mut().chain(agents)
    }

    /// An error with the end of its log if any daemon has ended.
    pub fn expect_running(&mut self) -> anyhow::Result<()> {
        self.daemons().try_for_each(Process::expect_running)
    }

    /// The end of the coordinator's log, if it was started.
    pub fn last_words(&self) -> Option<String> {
        self.coordinator.as_ref().map(Process::last_words)
    }

    /// Asks all daemons to end, agents first, and waits until they have; none may fail.
    pub fn stop(&mut self) -> anyhow::Result<()> {
        let agents = self.agents.values_mut().chain(&mut self.hosts);
        stop(agents.collect())?;
        stop(self.coordinator.iter_mut().collect())?;
        (self.agents, self.hosts, self.coordinator) = Default::default();
        Ok(())
    }

    /// Waits until `found` sees what it wants in the coordinator's status, at most `limit`; the end
    /// of any daemon ends the wait.
    pub fn wait_until<T>(
        &mut self,
        limit: Duration,
        what: &str,
        mut found: impl FnMut(&Value) -> anyhow::Result<Option<T>>,
    ) -> anyhow::Result<T> {
        eventually(limit, what, || {
            self.expect_running()?;
            found(&self.status()?)
        })
    }

    /// Waits until the newest task has ended well, at most `limit`; gives its entry in the status.
    pub fn wait_for_task(&mut self, limit: Duration) -> anyhow::Result<Value> {
        self.wait_until(limit, "the task is completed", |status| {
            let task = &status["task"];
            match task["ending"]["end"].as_str() {
                Some("completed") => Ok(Some(task.clone())),
                Some(_) => bail!("the task failed: {task}"),
                None => Ok(None),
            }
        })
    }
}

/// Starts a daemon that makes the file `ready` when it serves.
fn start(name: &str, command: &mut Command, logs: &Path, ready: &Path) -> anyhow::Result<Process> {
    // A daemon that was killed leaves its file behind.
    match fs::remove_file(ready) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(error).context(format!("cannot remove {}", ready.display()));
        }
        _ => {}
    }
    let mut process = Process::spawn(name, command, logs)?;
    eventually(COMMAND_LIMIT, &format!("{name} serves"), || {
        process.expect_running()?;
        Ok(ready.exists().then_some(()))
    })?;
    Ok(process)
}

fn stop(mut processes: Vec<&mut Process>) -> anyhow::Result<()> {
    processes.iter_mut().try_for_each(|process| process.terminate())?;
    for process in processes {
        let status = process.wait(COMMAND_LIMIT)?;
        if !status.success() {
            bail!(
                "{} did not end well ({status}); it said:\n{}",
                process.name(),
                process.last_words()
            );
        }
    }
    Ok(())
}

/// The 64 hexadecimal digits that `root init` prints.
fn fingerprint(made: &Output) -> anyhow::Result<String> {
    let said = String::from_utf8_lossy(&made.stdout);
    let words = said.split(|c: char| !c.is_ascii_alphanumeric());
    let mut digests = words.filter(|word| word.len() == 64 && hex::decode(word).is_ok());
    let found = digests.next().context("root init does not print the root's fingerprint")?;
    Ok(found.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simulator::Settings;

    #[test]
    fn a_coordinator_is_set_up_and_comes_back_after_a_kill() {
        let dir = tempfile::tempdir().unwrap();
        let mut network = Network::start(dir.path()).unwrap();
        // All but what it says of the process itself.
        let status = |network: &Network| {
            let mut status = network.status().unwrap();
            assert!(status["process"].take().is_object(), "{status}");
            status
        };
        let before = status(&network);
        assert_eq!(before["root_fingerprint"], network.root_fingerprint.as_str());
        network.coordinator_process().unwrap().kill().unwrap();
        assert!(network.wait_until(COMMAND_LIMIT, "never", |_| Ok(Some(()))).is_err());
        network.start_coordinator().unwrap();
        assert_eq!(status(&network), before);
    }

    #[test]
    fn a_federation_is_assembled_and_stops_in_order() {
        let dir = tempfile::tempdir().unwrap();
        let settings = Settings { institutions: 3, size_percent: 5, ..Settings::default() };
        let policy = "tasks = [\"*\"]\narchitectures = [\"kt-logistic/1\"]\n\
            c_max = 0\nn_min = 3\nmin_honest = 3\n";
        let federation = Federation::simulate(&settings);
        let mut network = Network::assemble(dir.path(), &federation, policy).unwrap();
        let status = network.status().unwrap();
        assert_eq!(status["roster"]["members"], 3, "{status}");
        assert_eq!(status["registry"]["competencies"], 12, "{status}");
        for institution in &federation.institutions {
            network.agent_status(&institution.name).unwrap();
        }
        network.expect_running().unwrap();
        network.stop().unwrap();
    }
}
