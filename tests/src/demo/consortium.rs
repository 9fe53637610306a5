//! Sets the consortium up as its people would, step by step through the command line: root,
//! coordinator, institutions, documents, records, policies, daemons, task.

use std::{path::Path, time::Duration};

use anyhow::Context;
use collegium_coordinator::task::TaskSpec;
use collegium_shared::{
    architecture::{Architecture, BIAS_AUDIT_1, KT_LOGISTIC_1},
    ids::InstitutionId,
    protocol::Cohort,
};
use serde_json::Value;

use super::{
    bias::Audit,
    population::{Population, Site},
    screen::Screen,
    stop::Stop,
    workers,
};
use crate::network::{COMMAND_LIMIT, Network};

/// Up to so many institutions each agent is a process of its own.
const OWN_PROCESSES: usize = 16;
/// Agents in one process beyond that.
const PER_HOST: usize = 40;
/// How much of the coordinator's log is shown after a failure.
const LAST_LINES: usize = 12;
/// The task's name.
const TASK: &str = "demo";

/// A running consortium.
pub(super) struct Consortium<'a> {
    pub(super) network: Network,
    pub(super) population: &'a Population,
    /// Who is killed in the middle of a round: of middle size, in a process of its own.
    pub(super) victim: InstitutionId,
    /// What the task may cost each learner, if it is private.
    pub(super) epsilon: Option<f64>,
    /// What is trained, if it is not the logistic model with its usual settings.
    pub(super) task: Option<TaskSpec>,
    /// What is asked about the model in the end.
    pub(super) audit: Option<&'a Audit>,
}

impl<'a> Consortium<'a> {
    /// Everything up to and without the task.
    pub(super) fn set_up(
        dir: &Path,
        population: &'a Population,
        (epsilon, audit, task): (Option<f64>, Option<&'a Audit>, Option<TaskSpec>),
        screen: &Screen,
        stop: &Stop,
    ) -> anyhow::Result<Self> {
        let sites = &population.sites;
        let n = sites.len();
        let mut network = Network::start(dir)?;
        screen.note(&format!("  coordinator    serves at {} with its own CA", network.url()));
        let root = network.root_fingerprint();
        screen.note(&format!("  root           made in {}, {root}", network.root_dir().display()));
        workers::each(sites, stop, |site| network.enrol(&site.name, &site.legal_entity))?;
        screen
            .note(&format!("  institutions   {n} invited and enrolled, each with keys of its own"));
        network.sign_roster()?;
        network.publish_registry(&population.files.registry)?;
        screen.note("  documents      roster and registry signed by the root and imported");
        workers::each(sites, stop, |site| {
            network.import_records(&site.name, &site.records, &population.files)
        })?;
        let answers: usize = sites.iter().map(Site::answers).sum();
        screen.note(&format!("  records        {answers} answers imported: {}", sizes(sites)));
        let cohort = Cohort::proposed(n);
        let trained = task.as_ref().map_or(KT_LOGISTIC_1, |task| task.architecture.id());
        let policy = policy(cohort, trained, epsilon, audit);
        workers::each(sites, stop, |site| network.set_policy(&site.name, &policy))?;
        screen.note(&format!(
            "  policies       written: sums over {} at least, {} of them honest, {} may collude",
            cohort.n_min(),
            cohort.min_honest,
            cohort.c_max
        ));
        let victim = middle(sites).context("there is no institution")?.name.clone();
        let processes = start_agents(&mut network, sites, &victim)?;
        screen.note(&format!("  agents         {n} started in {processes} processes"));
        Ok(Self { network, population, victim, epsilon, task, audit })
    }

    /// The task of a neural network, if it is one.
    pub(super) fn network_task(&self) -> Option<&TaskSpec> {
        self.task.as_ref().filter(|task| matches!(task.architecture, Architecture::Neural(_)))
    }

    /// Starts the task.
    pub(super) fn train(&self, rounds: u32, screen: &Screen) -> anyhow::Result<()> {
        // Generous on a small or busy machine; only an agent that is gone is ever waited for so long.
        let factor = if self.population.sites.len() > OWN_PROCESSES { 2 } else { 1 };
        let [ready, others] = [60 * factor, 30 * factor];
        let mut task = toml::toml! {
            architecture = "kt-logistic/1"
        };
        if let Some(spec) = &self.task {
            task = toml::Table::try_from(spec).context("the task cannot be written")?;
        }
        let seconds = |seconds: i64| toml::Value::Integer(seconds);
        let phases = ["ready", "share", "upload", "vote", "reveal"];
        let deadlines = phases.map(|phase| {
            (phase.to_owned(), seconds(if phase == "ready" { ready } else { others }))
        });
        task.insert("task".to_owned(), TASK.into());
        task.insert("rounds".to_owned(), seconds(rounds.into()));
        task.insert("deadlines".to_owned(), toml::Table::from_iter(deadlines).into());
        if let Some(epsilon) = self.epsilon {
            let privacy = toml::Table::from_iter([("epsilon".to_owned(), epsilon.into())]);
            task.insert("privacy".to_owned(), privacy.into());
        }
        let architecture = task["architecture"].as_str().unwrap_or_default().to_owned();
        self.network.start_task(&toml::to_string(&task)?)?;
        let noise = self.epsilon.map(|epsilon| format!(", epsilon {epsilon}")).unwrap_or_default();
        screen.note(&format!(
            "  task           {TASK} started: {architecture}, {rounds} steps{noise}"
        ));
        Ok(())
    }

    /// The JSON that a command of an institution's agent prints.
    pub(super) fn agent_json(
        &self,
        institution: &InstitutionId,
        words: &[&str],
        limit: Duration,
    ) -> anyhow::Result<Value> {
        let output =
            crate::harness::run(&mut self.network.agent_command(institution, words), limit)?;
        serde_json::from_slice(&output.stdout)
            .with_context(|| format!("{institution}: {} gave no JSON", words.join(" ")))
    }

    /// Checks the coordinator's log and every institution's; gives how many are sound.
    pub(super) fn verify_logs(&self, stop: &Stop) -> anyhow::Result<usize> {
        self.network.coordinator(&["audit", "verify"])?;
        let sites = &self.population.sites;
        let verified = workers::each(sites, stop, |site| {
            self.network.agent(&site.name, &["audit", "verify"]).map(drop)
        })?;
        Ok(1 + verified.len())
    }

    /// The end of the coordinator's log, for people who look for what went wrong.
    pub(super) fn last_words(&self) -> String {
        let words = self.network.last_words().unwrap_or_default();
        let lines: Vec<&str> = words.lines().collect();
        let last = lines[lines.len().saturating_sub(LAST_LINES)..].join("\n");
        format!("\nThe coordinator's log ends with:\n{last}")
    }

    /// Waits until every agent serves the model of this version.
    pub(super) fn await_model(&self, version: u32, stop: &Stop) -> anyhow::Result<()> {
        workers::each(&self.population.sites, stop, |site| {
            let what = format!("{} has installed model {version}", site.name);
            crate::harness::eventually(COMMAND_LIMIT, &what, || {
                stop.check()?;
                let status = self.network.agent_status(&site.name)?;
                Ok((status["model"]["version"] == version).then_some(()))
            })
        })
        .map(drop)
    }
}

fn policy(
    Cohort { c_max, min_honest }: Cohort,
    trained: &'static str,
    epsilon: Option<f64>,
    audit: Option<&Audit>,
) -> String {
    let n_min = Cohort { c_max, min_honest }.n_min();
    let budget =
        epsilon.map(|epsilon| format!("\n[privacy]\nepsilon = {epsilon}\n")).unwrap_or_default();
    let mut tasks = vec![TASK];
    let mut architectures = vec![trained];
    let mut attributes = String::new();
    if let Some(audit) = audit {
        tasks.push(audit.task());
        architectures.push(BIAS_AUDIT_1);
        attributes = format!("attributes = {:?}\n", audit.attributes());
    }
    format!(
        "# Written by the demo: what the coordinator proposes for this many institutions.\n\
         tasks = {tasks:?}\narchitectures = {architectures:?}\n{attributes}c_max = {c_max}\n\
         n_min = {n_min}\nmin_honest = {min_honest}\n{budget}"
    )
}

fn sizes(sites: &[Site]) -> String {
    let shown = sites.iter().take(OWN_PROCESSES);
    let mut text = shown
        .map(|site| format!("{} {}", site.name, site.answers()))
        .collect::<Vec<_>>()
        .join(", ");
    if sites.len() > OWN_PROCESSES {
        text.push_str(", ...");
    }
    text
}

/// The institution of middle size.
pub(super) fn middle(sites: &[Site]) -> Option<&Site> {
    let mut by_size: Vec<&Site> = sites.iter().collect();
    by_size.sort_by_key(|site| site.answers());
    by_size.get(by_size.len() / 2).copied()
}

/// Starts every agent; gives the number of processes.
fn start_agents(
    network: &mut Network,
    sites: &[Site],
    victim: &InstitutionId,
) -> anyhow::Result<usize> {
    let names: Vec<InstitutionId> = sites.iter().map(|site| site.name.clone()).collect();
    if names.len() <= OWN_PROCESSES {
        names.iter().try_for_each(|name| network.start_agent(name))?;
        network.wait_for_agents(names.len())?;
        return Ok(names.len());
    }
    let count = names.len();
    network.start_agent(victim)?;
    // This very program, even if its file was built anew meanwhile.
    let program = Path::new("/proc/self/exe");
    let others: Vec<_> = names.into_iter().filter(|name| name != victim).collect();
    let hosts = others.chunks(PER_HOST);
    let processes = hosts.len() + 1;
    for institutions in hosts {
        network.start_host(program, institutions)?;
    }
    network.wait_for_agents(count)?;
    Ok(processes)
}
