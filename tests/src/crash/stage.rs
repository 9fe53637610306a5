//! The network that is harmed: a coordinator and agents that run a load test, whose sums anyone can
//! compute again. Owns its set-up and the start of daemons with a fault to come; decides no fault.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Context;
use collegium_coordinator::network::Event;
use collegium_shared::{ids::InstitutionId, journal::Entry};

use super::{Options, Return};
use crate::{harness::Process, network::Network, testbed};

/// Rounds of the undisturbed run.
pub(super) const UNDISTURBED: u32 = 3;
/// How long they may take on a slow machine.
const UNDISTURBED_TIME: Duration = Duration::from_secs(180);
/// Of a phase, in seconds, when everybody comes back at once, and when not.
const PATIENT: u32 = 120;
pub(super) const SHORT: u32 = 3;
/// As many as a task may have.
const ENDLESS: u32 = 10_000;

/// One daemon.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Daemon {
    Coordinator,
    Agent(InstitutionId),
}

impl Daemon {
    pub(super) fn side(&self) -> &'static str {
        match self {
            Self::Coordinator => "coordinator",
            Self::Agent(_) => "agent",
        }
    }

    pub(super) fn name(&self) -> &str {
        match self {
            Self::Coordinator => "coordinator",
            Self::Agent(name) => name.as_str(),
        }
    }
}

/// An edge: how often it was passed, and whether it stores something.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Edge {
    pub(super) passed: u64,
    pub(super) stores: bool,
}

/// What each side passes, by name.
pub(super) struct Edges {
    pub(super) coordinator: BTreeMap<String, Edge>,
    pub(super) agent: BTreeMap<String, Edge>,
}

impl Edges {
    pub(super) fn of(&self, daemon: &Daemon) -> &BTreeMap<String, Edge> {
        match daemon {
            Daemon::Coordinator => &self.coordinator,
            Daemon::Agent(_) => &self.agent,
        }
    }
}

/// The network.
pub(super) struct Stage {
    pub(super) network: Network,
    pub(super) names: Vec<InstitutionId>,
    parameters: u32,
    deadline: u32,
    tasks: u32,
}

impl Stage {
    /// Enrolled, in the roster, with a policy; nobody runs yet but the coordinator.
    pub(super) fn set_up(dir: &Path, options: &Options) -> anyhow::Result<Self> {
        fs::create_dir_all(dir)?;
        let network = Network::start(dir)?;
        let names: Vec<InstitutionId> = (1..=options.institutions)
            .map(|i| format!("school-{i}").parse())
            .collect::<Result<_, _>>()?;
        for name in &names {
            network.enrol(name, &format!("{name} e.V."))?;
        }
        network.sign_roster()?;
        let registry = dir.join("registry.csv");
        fs::write(&registry, "kind,id,title,competencies\ncompetency,k,K,\nitem,a,A,k\n")?;
        network.publish_registry(&registry)?;
        let policy = "tasks = [\"*\"]\narchitectures = [\"load-test/1\"]\nc_max = 0\nn_min = 2\nmin_honest = 2\n";
        for name in &names {
            network.set_policy(name, policy)?;
        }
        let deadline = if options.back == Return::Late { SHORT } else { PATIENT };
        Ok(Self { network, names, parameters: options.parameters, deadline, tasks: 0 })
    }

    pub(super) fn daemons(&self) -> Vec<Daemon> {
        let agents = self.names.iter().cloned().map(Daemon::Agent);
        [Daemon::Coordinator].into_iter().chain(agents).collect()
    }

    pub(super) fn process(&mut self, daemon: &Daemon) -> anyhow::Result<&mut Process> {
        match daemon {
            Daemon::Coordinator => self.network.coordinator_process(),
            Daemon::Agent(name) => self.network.agent_process(name),
        }
    }

    /// Starts a daemon that is not running, without waiting for it.
    pub(super) fn launch(
        &mut self,
        daemon: &Daemon,
        environment: &[(&str, String)],
    ) -> anyhow::Result<()> {
        match daemon {
            Daemon::Coordinator => self.network.launch_coordinator(environment),
            Daemon::Agent(name) => self.network.launch_agent(name, environment),
        }
    }

    /// Where a daemon says what happened to it.
    pub(super) fn log_of(&self, daemon: &Daemon) -> PathBuf {
        self.network.logs().join(format!("{}.stderr", daemon.name()))
    }

    /// Hands the next task to the running coordinator; each has the same name in every run.
    pub(super) fn start_task(&mut self, rounds: Option<u32>) -> anyhow::Result<()> {
        let (task, parameters, deadline) = (self.tasks + 1, self.parameters, self.deadline);
        let rounds = rounds.unwrap_or(ENDLESS);
        self.network.start_task(&format!(
            "task = \"crash-{task}\"\narchitecture = \"load-test/1\"\nparameters = {parameters}\n\
             rounds = {rounds}\ncohort = {{ c_max = 0, min_honest = 2 }}\n[deadlines]\n\
             ready = {deadline}\nshare = {deadline}\nupload = {deadline}\nvote = {deadline}\n\
             reveal = {deadline}\n"
        ))?;
        self.tasks = task;
        Ok(())
    }

    /// Every durable event of the coordinator.
    pub(super) fn events(&self) -> anyhow::Result<Vec<Entry<Event>>> {
        testbed::events(&self.network.coordinator_dir())
    }

    /// Runs a task of a few rounds and tells which edges were passed.
    pub(super) fn enumerate(&mut self) -> anyhow::Result<Edges> {
        let list = |daemon: &Daemon, dir: &Path| dir.join(format!("{}.edges", daemon.name()));
        let dir = self.network.dir().to_owned();
        self.network.coordinator_process()?.kill()?;
        for daemon in self.daemons() {
            let edges = list(&daemon, &dir).display().to_string();
            self.launch(&daemon, &[("COLLEGIUM_EDGES", edges)])?;
        }
        // A command that finds no daemon would open the directory itself.
        let socket = self.network.coordinator_dir().join("run").join("control.sock");
        crate::harness::eventually(UNDISTURBED_TIME, "the coordinator answers", || {
            Ok(std::os::unix::net::UnixStream::connect(&socket).ok())
        })?;
        self.start_task(Some(UNDISTURBED))?;
        self.network.wait_for_task(UNDISTURBED_TIME)?;
        self.network.stop()?;
        let agent = self.daemons().pop().context("there is no agent")?;
        Ok(Edges {
            coordinator: read_edges(&list(&Daemon::Coordinator, &dir))?,
            agent: read_edges(&list(&agent, &dir))?,
        })
    }
}

pub(super) fn read_edges(path: &Path) -> anyhow::Result<BTreeMap<String, Edge>> {
    let mut edges: BTreeMap<String, Edge> = BTreeMap::new();
    for line in fs::read_to_string(path)?.lines() {
        let (name, stores) = match line.strip_suffix(" (stores)") {
            Some(name) => (name, true),
            None => (line, false),
        };
        let edge = edges.entry(name.to_owned()).or_default();
        edge.passed += 1;
        edge.stores = stores;
    }
    Ok(edges)
}
