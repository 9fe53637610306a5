//! Edges that no round passes: those of a daemon's first start, and those of a key's replacement. Kills a
//! daemon at each of them in turn, lets it come back, and sees that the work is done; what must hold of the
//! rounds afterwards is `checks`'.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    os::unix::{net::UnixStream, process::ExitStatusExt},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, ensure};
use collegium_coordinator::SIGNING_KEY;
use collegium_shared::crypto::{SigningKey, VerifyingKey};
use rand_chacha::{ChaCha12Rng, rand_core::Rng};
use serde_json::Value;

use super::{
    During, Options, Strikes,
    checks::{self, Outcome},
    stage::{Daemon, Stage, read_edges},
};
use crate::{
    fixtures,
    harness::{self, Process, eventually},
    network::COMMAND_LIMIT,
};

/// Within this time a key is replaced, whatever dies meanwhile.
const LIMIT: Duration = Duration::from_secs(120);
/// An edge that is passed several times is struck at its first and at its second.
const TIMES: u64 = 2;

/// What came of it.
pub(super) struct Found {
    pub(super) edges: usize,
    pub(super) struck: Strikes,
    pub(super) endings: BTreeMap<Outcome, usize>,
    pub(super) violations: Vec<String>,
}

/// Who is killed, at which edge, at which time of passing it, while whose key is replaced or who starts.
#[derive(Clone, Debug)]
struct Strike {
    target: Daemon,
    subject: Daemon,
    edge: String,
    time: u64,
}

impl Strike {
    fn environment(&self) -> (&'static str, String) {
        ("COLLEGIUM_FAULT", format!("kill@{}#{}", self.edge, self.time))
    }
}

pub(super) fn run(dir: &Path, options: &Options, rng: &mut ChaCha12Rng) -> anyhow::Result<Found> {
    let mut stage = Stage::set_up(&dir.join("network"), options)?;
    let subjects = [Daemon::Coordinator, Daemon::Agent(stage.names[0].clone())];
    let mut plan = Vec::new();
    for subject in &subjects {
        plan.extend(match options.during {
            During::Rotations => {
                start_agents(&mut stage)?;
                Rotation::new(&mut stage, subject).enumerate()?
            }
            _ => FirstStart::new(&stage, subject)?.enumerate()?,
        });
    }
    let names: BTreeSet<_> = plan.iter().map(|s| (s.target.side(), s.edge.clone())).collect();
    let edges = names.len();
    println!("{} places to strike, at {edges} edges", plan.len());
    let (mut struck, mut faults) = (Strikes::new(), 0);
    while faults < options.faults && !plan.is_empty() {
        let place = rng.next_u64() % plan.len() as u64;
        let strike = plan.swap_remove(usize::try_from(place)?);
        let met = match options.during {
            During::Rotations => Rotation::new(&mut stage, &strike.subject).strike(&strike),
            _ => FirstStart::new(&stage, &strike.subject)?.strike(&strike),
        };
        let met = met.with_context(|| format!("after {strike:?}"))?;
        let side = strike.target.side();
        if !met {
            println!("not passed this time: {} at the {side}", strike.edge);
            continue;
        }
        let outcomes = struck.entry((side, strike.edge)).or_default();
        *outcomes.entry(Outcome::Between).or_default() += 1;
        faults += 1;
        if faults.is_multiple_of(25) {
            println!("{faults} faults, {} places left", plan.len());
        }
    }
    start_agents(&mut stage)?;
    stage.start_task(Some(1))?;
    stage.network.wait_for_task(LIMIT)?;
    let found = checks::check(&mut stage, options, &[], &[])?;
    Ok(Found { edges, struck, endings: found.endings, violations: found.violations })
}

fn start_agents(stage: &mut Stage) -> anyhow::Result<()> {
    for name in stage.names.clone() {
        if stage.network.agent_process(&name).is_err() {
            stage.network.start_agent(&name)?;
        }
    }
    stage.network.wait_for_agents(stage.names.len())
}

/// The places to strike that a list of passed edges names.
fn strikes(target: &Daemon, subject: &Daemon, list: &Path) -> anyhow::Result<Vec<Strike>> {
    let mut strikes = Vec::new();
    for (edge, passed) in read_edges(list)? {
        strikes.extend((1..=passed.passed.min(TIMES)).map(|time| Strike {
            target: target.clone(),
            subject: subject.clone(),
            edge: edge.clone(),
            time,
        }));
    }
    Ok(strikes)
}

fn answers(dir: &Path) -> bool {
    UnixStream::connect(dir.join("run").join("control.sock")).is_ok()
}

// --- First starts --------------------------------------------------------------------------------

/// A directory that no daemon has run in, and copies of it that one does.
struct FirstStart {
    program: PathBuf,
    words: &'static [&'static str],
    daemon: Daemon,
    /// Nothing ever runs in it.
    origin: PathBuf,
    copy: PathBuf,
    logs: PathBuf,
}

impl FirstStart {
    fn new(stage: &Stage, daemon: &Daemon) -> anyhow::Result<Self> {
        let binaries = stage.network.binaries();
        let folder = stage.network.dir().join("first");
        let (program, words, origin): (_, &[&str], _) = match daemon {
            Daemon::Coordinator => (&binaries.coordinator, &["serve"], folder.join("coordinator")),
            Daemon::Agent(name) => (&binaries.agent, &["run"], stage.network.agent_dir(name)),
        };
        if !origin.exists() {
            fs::create_dir_all(&folder)?;
            let listen = format!("127.0.0.1:{}", harness::free_port()?);
            let mut init = Command::new(program);
            init.args(["init", "--listen", &listen, "--dir"]).arg(&origin);
            harness::run(&mut init, COMMAND_LIMIT)?;
        }
        let (copy, logs) = (folder.join("copy"), stage.network.logs());
        Ok(Self { program: program.clone(), words, daemon: daemon.clone(), origin, copy, logs })
    }

    fn start(&self, environment: &[(&str, String)]) -> anyhow::Result<Process> {
        let mut command = Command::new(&self.program);
        command.args(self.words).arg("--dir").arg(&self.copy).envs(environment.iter().cloned());
        Process::spawn(&format!("first-{}", self.daemon.name()), &mut command, &self.logs)
    }

    /// Whether everything that a first start does is done.
    fn is_done(&self) -> anyhow::Result<bool> {
        if !answers(&self.copy) {
            return Ok(false);
        }
        if self.daemon == Daemon::Coordinator {
            return Ok(self.copy.join("run").join("address").exists());
        }
        let mut status = Command::new(&self.program);
        status.args(["status", "--json", "--dir"]).arg(&self.copy);
        let said = harness::attempt(&mut status, COMMAND_LIMIT)?.stdout;
        let Ok(status) = serde_json::from_slice::<Value>(&said) else { return Ok(false) };
        Ok(status["roster"]["member"] == true && status["coordinator"]["reachable"] == true)
    }

    /// From a start to a stop; whether it was killed at an edge on the way.
    fn live(&self, environment: &[(&str, String)]) -> anyhow::Result<bool> {
        let mut process = self.start(environment)?;
        let mut asked = false;
        let status = eventually(LIMIT, "a first start is over", || {
            let ended = process.ended()?;
            if ended.is_none() && !asked && self.is_done()? {
                // One that was killed just now is not there to be asked.
                asked = process.terminate().is_ok();
            }
            Ok(ended)
        })?;
        let killed = status.signal() == Some(9);
        ensure!(killed || status.success(), "it ended: {status}: {}", process.last_words());
        Ok(killed)
    }

    fn fresh(&self) -> anyhow::Result<()> {
        if self.copy.exists() {
            fs::remove_dir_all(&self.copy)?;
        }
        fixtures::copy(&self.origin, &self.copy, &|_| true)
    }

    fn enumerate(&self) -> anyhow::Result<Vec<Strike>> {
        self.fresh()?;
        let list = self.copy.with_extension(format!("{}.edges", self.daemon.name()));
        self.live(&[("COLLEGIUM_EDGES", list.display().to_string())])?;
        strikes(&self.daemon, &self.daemon, &list)
    }

    /// Struck, started again and stopped, it has a sound log.
    fn strike(&self, strike: &Strike) -> anyhow::Result<bool> {
        self.fresh()?;
        let met = self.live(&[strike.environment()])?;
        ensure!(!self.live(&[])?, "killed by nobody");
        let mut verify = Command::new(&self.program);
        verify.args(["audit", "verify", "--dir"]).arg(&self.copy);
        harness::run(&mut verify, COMMAND_LIMIT)?;
        Ok(met)
    }
}

// --- Key replacements ----------------------------------------------------------------------------

/// The replacement of one daemon's signing key, from the operator's command to the new key's first round.
struct Rotation<'s> {
    stage: &'s mut Stage,
    subject: Daemon,
    /// The key that is to come, once the command was answered.
    next: Option<VerifyingKey>,
    /// The coordinator knows of it.
    known: bool,
    signed: bool,
}

impl<'s> Rotation<'s> {
    fn new(stage: &'s mut Stage, subject: &Daemon) -> Self {
        Self { stage, subject: subject.clone(), next: None, known: false, signed: false }
    }

    fn dir(&self, daemon: &Daemon) -> PathBuf {
        match daemon {
            Daemon::Coordinator => self.stage.network.coordinator_dir(),
            Daemon::Agent(name) => self.stage.network.agent_dir(name),
        }
    }

    /// The subject's key, the next, and the one before.
    fn keys(&self) -> [PathBuf; 3] {
        let key = match &self.subject {
            Daemon::Coordinator => self.dir(&self.subject).join(SIGNING_KEY),
            Daemon::Agent(_) => self.dir(&self.subject).join("keys").join("identity.key"),
        };
        let (next, previous) = (key.with_extension("next.key"), key.with_extension("previous.key"));
        [key, next, previous]
    }

    /// While this file is there, edges count.
    fn trigger(&self) -> PathBuf {
        self.stage.network.dir().join("rotating")
    }

    fn restart(&mut self, daemon: &Daemon, environment: &[(&str, String)]) -> anyhow::Result<()> {
        // One that is dead already needs no kill.
        let _ = self.stage.process(daemon)?.kill();
        let dir = self.dir(daemon);
        self.stage.launch(daemon, environment)?;
        eventually(COMMAND_LIMIT, "a daemon answers", || {
            self.stage.process(daemon)?.expect_running()?;
            Ok(answers(&dir).then_some(()))
        })
    }

    fn enumerate(mut self) -> anyhow::Result<Vec<Strike>> {
        let target = |name: &str| self.stage.network.dir().join(format!("{name}.rotation"));
        let agent = Daemon::Agent(self.stage.names[0].clone());
        let lists = [Daemon::Coordinator, agent].map(|daemon| (target(daemon.name()), daemon));
        let trigger = self.trigger().display().to_string();
        for (list, daemon) in &lists {
            let _ = fs::remove_file(list);
            let list = ("COLLEGIUM_EDGES", list.display().to_string());
            self.restart(daemon, &[list, ("COLLEGIUM_FAULT_WHILE", trigger.clone())])?;
        }
        let (target, subject) = (lists[0].1.clone(), self.subject.clone());
        self.replace(&target)?;
        let mut all = Vec::new();
        for (list, daemon) in &lists {
            all.extend(strikes(daemon, &subject, list)?);
        }
        Ok(all)
    }

    /// Whether the edge was met. Everybody takes part in a round afterwards.
    fn strike(mut self, strike: &Strike) -> anyhow::Result<bool> {
        let trigger = ("COLLEGIUM_FAULT_WHILE", self.trigger().display().to_string());
        self.restart(&strike.target, &[strike.environment(), trigger])?;
        self.replace(&strike.target)
    }

    /// Does what operators do until the key is replaced and a round has ended; says whether `target` was
    /// killed meanwhile.
    fn replace(&mut self, target: &Daemon) -> anyhow::Result<bool> {
        let everybody = self.stage.names.len();
        self.stage.network.wait_for_agents(everybody)?;
        fs::write(self.trigger(), b"")?;
        let (mut killed, mut trouble) = (false, None);
        let replaced = eventually(LIMIT, "the key is replaced", || {
            killed |= self.revive(target)?;
            // A command fails when the daemon dies under it, and is given again.
            let done = self.step().map_err(|error| trouble = Some(error));
            Ok(done.unwrap_or_default().then_some(()))
        });
        replaced.with_context(|| format!("what did not work last: {trouble:?}"))?;
        fs::remove_file(self.trigger())?;
        let mut started = false;
        eventually(LIMIT, "everybody is in a round", || {
            // The last edge may have been met a moment ago.
            killed |= self.revive(target)?;
            if !started {
                self.stage.network.wait_for_agents(everybody)?;
                self.stage.start_task(Some(1))?;
                started = true;
            }
            let task = self.stage.network.status()?["task"].clone();
            Ok((task["ending"]["end"] == "completed").then_some(()))
        })?;
        Ok(killed)
    }

    /// Starts a daemon that was killed at an edge; says whether it was.
    fn revive(&mut self, daemon: &Daemon) -> anyhow::Result<bool> {
        let Some(status) = self.stage.process(daemon)?.ended()? else { return Ok(false) };
        if status.signal() != Some(9) {
            self.stage.process(daemon)?.expect_running()?;
        }
        self.restart(daemon, &[])?;
        Ok(true)
    }

    /// The next thing that has not been done; whether all is.
    fn step(&mut self) -> anyhow::Result<bool> {
        let [key, next, previous] = self.keys();
        let subject = self.subject.clone();
        let network = &self.stage.network;
        let Some(wanted) = self.next else {
            match &subject {
                Daemon::Coordinator => network.coordinator(&["key", "rotate"])?,
                Daemon::Agent(name) => network.agent(name, &["identity", "rotate"])?,
            };
            self.next = Some(SigningKey::load(&next)?.verifying_key());
            return Ok(false);
        };
        if let (Daemon::Agent(name), false) = (&subject, self.known) {
            let listed = network.coordinator(&["institutions", "--json"])?;
            let listed: Value = serde_json::from_slice(&listed.stdout)?;
            let mut all = listed.as_array().into_iter().flatten();
            let own = all.find(|one| one["institution"] == name.as_str());
            let told = own.map(|own| own["next_identity_fingerprint"].clone());
            self.known = told == Some(Value::from(wanted.fingerprint().to_string()));
            return Ok(false);
        }
        let draft = network.dir().join("rotation.draft");
        let signed = draft.with_extension("signed");
        let [draft, signed] = [&draft, &signed].map(|path| path.display().to_string());
        // The root signs one roster of each version, so nothing is exported again.
        if !self.signed {
            network.coordinator(&["roster", "export", "--out", &draft])?;
            let mut sign = Command::new(&network.binaries().coordinator);
            sign.args(["root", "sign", "--yes", "--root-dir"]).arg(network.root_dir());
            harness::run(sign.args(["--in", &draft, "--out", &signed]), COMMAND_LIMIT)?;
            self.signed = true;
        }
        let imported = network.coordinator(&["roster", "import", &signed]);
        if SigningKey::load(&key)?.verifying_key() != wanted || next.exists() || previous.exists() {
            // Once it is recorded, it is refused as nothing new.
            return imported.map(|_| false);
        }
        let in_force = network.status()?["roster"]["version"].clone();
        for name in &self.stage.names {
            let status = network.agent_status(name)?;
            let member =
                status["roster"]["member"] == true && status["roster"]["version"] == in_force;
            if !member || status["coordinator"]["reachable"] != true {
                return Ok(false);
            }
        }
        Ok(true)
    }
}
