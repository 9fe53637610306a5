//! Where the attacks take place: three real agents, a fourth institution that colludes, and a malicious
//! coordinator with the keys of a real one. Knows how to set it up, what the agents' journals say, and what
//! each agent's input is; attacks nothing.

use std::{
    cell::{Cell, RefCell},
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, bail};
use collegium_agent::{
    home::Home,
    identity::{Identity, VAULT_KEY},
    session::SessionEvent,
    state::{AgentEvent, LocalEvent},
};
use collegium_coordinator::SIGNING_KEY;
use collegium_proto::convert::Documents;
use collegium_shared::{
    architecture::{
        Hyper, Stage as Work,
        load_test::{self, Moves},
    },
    clock::Clock,
    crypto::{Digest, SigningKey},
    documents::{self, SignedDocument},
    faults::Defence,
    ids::{InstitutionId, RoundId},
    journal::{Entry, Finding, History},
    params::Encoding,
    protocol::{Cohort, Deadlines, Decline, Inputs, Plan},
    roster::Registry,
    signed::Signed,
};
use serde_json::Value;
use tempfile::TempDir;

use super::coordinator::Malicious;
use crate::{
    harness::eventually,
    network::{COMMAND_LIMIT, Network},
    participant::{Participant, channel},
    simulator::{Federation, Settings},
    testbed::files,
};

/// The institutions with agents; the second one is the victim.
const AGENTS: [&str; 3] = ["aspen", "birch", "cedar"];
const COLLUDER: &str = "dogwood";
/// Of the vectors that are summed: enough for a test of randomness.
pub(super) const DIMENSION: u32 = 2_048;
/// Within this time an agent does what it will do.
pub(super) const LIMIT: Duration = Duration::from_secs(30);
const COHORT: Cohort = Cohort { c_max: 1, min_honest: 2 };
const POLICY: &str = "tasks = [\"*\"]\narchitectures = [\"load-test/1\", \"kt-logistic/1\"]\n\
                      c_max = 1\nn_min = 4\nmin_honest = 2\nmin_learners = 1\n";
/// The agent's switch: see `collegium_shared::faults`.
const WITHOUT: &str = "COLLEGIUM_WITHOUT";

/// Real agents before a malicious coordinator.
pub(super) struct Stage {
    network: Network,
    pub(super) server: Malicious,
    /// Sorted, as in every list.
    pub(super) agents: Vec<InstitutionId>,
    pub(super) colluder: Arc<Participant>,
    /// The coordinator's key on the roster.
    key: SigningKey,
    /// The root's, as they are in force with all agents.
    pub(super) documents: RefCell<Documents>,
    /// What every load test starts from.
    start: Digest,
    tasks: Cell<u32>,
    _dir: TempDir,
}

/// What agents wrote down about something that they would not do.
#[derive(Clone, Debug)]
pub(super) struct Refused {
    pub(super) by: Vec<String>,
    pub(super) words: String,
    /// Files of signed evidence, one for each agent that keeps some.
    pub(super) evidence: Vec<PathBuf>,
}

fn names(agents: &[InstitutionId]) -> Vec<String> {
    agents.iter().map(ToString::to_string).collect()
}

fn colluder() -> anyhow::Result<InstitutionId> {
    Ok(COLLUDER.parse()?)
}

impl Stage {
    /// A network that was set up in all honesty, and whose coordinator then turned.
    pub(super) fn set() -> anyhow::Result<Self> {
        let dir = tempfile::tempdir()?;
        let mut network = Network::start(dir.path())?;
        let agents: Vec<InstitutionId> =
            AGENTS.iter().map(|name| name.parse()).collect::<Result<_, _>>()?;
        for name in agents.iter().chain(&[colluder()?]) {
            network.enrol(name, &format!("{name} e.V."))?;
        }
        network.sign_roster()?;
        let settings = Settings { institutions: 3, size_percent: 3, ..Settings::default() };
        let files = Federation::simulate(&settings).write_to(&dir.path().join("data"))?;
        network.publish_registry(&files.registry)?;
        network.coordinator_process()?.terminate()?;
        network.coordinator_process()?.wait(COMMAND_LIMIT)?;

        let home = network.coordinator_dir();
        let address = network.url().trim_start_matches("https://").parse()?;
        let server = Malicious::start(&home, address)?;
        let documents = signed_documents(&dir.path().join("exchange"))?;
        let start = server.put(b"the weights that a load test does not read".to_vec());
        for (name, records) in agents.iter().zip(&files.records) {
            network.set_policy(name, POLICY)?;
            network.import_records(name, records, &files)?;
            server.show(name, |shown| shown.documents = documents.clone());
            network.start_agent(name)?;
        }
        let identity =
            SigningKey::load(&network.agent_dir(&colluder()?).join("keys/identity.key"))?;
        let entered = server.runtime().enter();
        let line = channel(&network.url(), &fs::read_to_string(home.join("ca.pem"))?, None)?;
        drop(entered);
        let colluder = Arc::new(Participant::over(colluder()?, identity, line));
        let key = SigningKey::load(&home.join(SIGNING_KEY))?;
        let tasks = Cell::new(0);
        let documents = RefCell::new(documents);
        Ok(Self { network, server, agents, colluder, key, documents, start, tasks, _dir: dir })
    }

    /// The institution that the attacks aim at.
    pub(super) fn victim(&self) -> &InstitutionId {
        &self.agents[1]
    }

    /// Everybody on the roster, in its order.
    pub(super) fn everybody(&self) -> Vec<InstitutionId> {
        let colluder = self.colluder.institution().clone();
        self.agents.iter().cloned().chain([colluder]).collect()
    }

    pub(super) fn network(&self) -> &Network {
        &self.network
    }

    /// Starts all agents anew, with one of their checks switched off.
    pub(super) fn switch_off(&mut self, defence: Defence) -> anyhow::Result<()> {
        for name in self.agents.clone() {
            self.network.kill_agent(&name)?;
            let said = self.network.logs().join(format!("{name}.stderr"));
            self.network.start_agent_in(&name, &[(WITHOUT, defence.name().to_owned())])?;
            let log = fs::read_to_string(&said).context("the agent wrote no log")?;
            if !log.contains("PROTECTS NOBODY") {
                bail!("the agent of {name} does not say that {defence:?} is switched off");
            }
        }
        Ok(())
    }

    /// Signs with the coordinator's key.
    pub(super) fn sign<T: collegium_shared::signed::Statement>(&self, body: T) -> Signed<T> {
        Signed::sign(body, &self.key)
    }

    /// A task that no agent knows.
    pub(super) fn task(&self) -> String {
        self.tasks.set(self.tasks.get() + 1);
        format!("attack-{}", self.tasks.get())
    }

    /// An honest plan for round `round` of a task, attempt `attempt`.
    pub(super) fn plan(&self, task: &str, round: u32, attempt: u32) -> anyhow::Result<Plan> {
        let hyper = Hyper::default();
        let encoding = load_test::encoding(DIMENSION, hyper.optimizer.bound, 4)?;
        let documents = self.documents.borrow();
        let digest = |document: Option<Digest>| document.context("a document is missing");
        Ok(Plan {
            round: RoundId { task: task.parse()?, round, attempt },
            architecture: load_test::LOAD_TEST_1.to_owned(),
            layout: Some(load_test::layout(DIMENSION).digest()?),
            stage: Work::Train { step: 1 },
            hyper,
            encoding,
            cohort: COHORT,
            roster: digest(documents.roster.as_ref().map(Signed::digest))?,
            registry: digest(documents.registry.as_ref().map(Signed::digest))?,
            inputs: Inputs {
                start: Some(self.start),
                candidate: Some(self.start),
                ..Inputs::default()
            },
            deadlines: Deadlines::default(),
            purpose: None,
            group: None,
            aborted: None,
            before: None,
            issued_at: Clock::system().now(),
        })
    }

    pub(super) fn registry(&self) -> anyhow::Result<Registry> {
        let registry = self.documents.borrow().registry.clone();
        Ok(registry.context("no registry is in force")?.body)
    }

    /// x of an agent: what the attacks are after. Made from what a load test is by definition; no attack
    /// may use it but to compare.
    pub(super) fn input(
        &self,
        who: &InstitutionId,
        plan: &Plan,
        encoding: &Encoding,
    ) -> anyhow::Result<Vec<u32>> {
        let moves = Moves::new(who, &plan.round, plan.hyper.optimizer.bound);
        let mut values = Vec::new();
        moves.append(0, encoding.dimension(), &mut values);
        Ok(encoding.encode(&values)?.words)
    }

    /// x of an agent in the attempt that it is in, from its own sealed file and with its own key. To compare
    /// with, as [`Stage::input`].
    pub(super) fn sealed_input(&self, who: &InstitutionId) -> anyhow::Result<Vec<u32>> {
        let (home, aside) = (self.network.agent_dir(who), tempfile::tempdir()?);
        let sealed = files(&home.join("rounds"))?.into_iter().map(|(path, _)| path);
        for path in sealed.chain([home.join(VAULT_KEY)]) {
            let copy = aside.path().join(path.strip_prefix(&home)?);
            fs::create_dir_all(copy.parent().context("a file without a folder")?)?;
            fs::copy(path, copy)?;
        }
        let committed = self.journal(who)?.into_iter().rev().find_map(|event| match event {
            AgentEvent::Session(SessionEvent::Committed { round, commitment, .. }) => {
                Some((round, commitment))
            }
            _ => None,
        });
        let (round, commitment) = committed.context("the agent committed to nothing")?;
        let mut input = Home::open_rounds(aside.path())?.input(&round, &commitment)?;
        let (mut all, mut piece) = (Vec::new(), Vec::new());
        for index in 0..input.chunks() {
            input.chunk(index, &mut piece)?;
            all.extend_from_slice(&piece);
        }
        Ok(all)
    }

    /// Has all agents go by their policy with these lines more, while `run` does its part.
    pub(super) fn under_policy<T>(
        &self,
        lines: &str,
        run: impl FnOnce() -> anyhow::Result<T>,
    ) -> anyhow::Result<T> {
        let sign = |policy: &str| {
            self.agents.iter().try_for_each(|who| {
                fs::write(self.network.agent_dir(who).join("policy.toml"), policy)?;
                self.network.agent(who, &["policy", "sign"]).map(drop)
            })
        };
        sign(&format!("{POLICY}{lines}"))?;
        let outcome = run();
        sign(POLICY)?;
        outcome
    }

    // --- What the agents wrote down --------------------------------------------------------------

    /// Every event of an agent's journal, read as an auditor reads it.
    pub(super) fn journal(&self, who: &InstitutionId) -> anyhow::Result<Vec<AgentEvent>> {
        journal(&self.network.agent_dir(who))
    }

    fn refusal(
        &self,
        who: &InstitutionId,
        round: &RoundId,
        words: &str,
    ) -> anyhow::Result<Option<(String, Option<Digest>)>> {
        let said = self.journal(who)?.into_iter().find_map(|event| match event {
            AgentEvent::Local(LocalEvent::Refused { round: of, plan, reason })
                if of == *round && reason.contains(words) =>
            {
                Some((plan, reason, None))
            }
            AgentEvent::Local(LocalEvent::ConflictSeen { round: of, plan, reason, evidence })
                if of == *round && reason.contains(words) =>
            {
                Some((plan, reason, Some(evidence)))
            }
            _ => None,
        });
        let Some((plan, reason, evidence)) = said else { return Ok(None) };
        Ok(self.declined(who, plan)?.then_some((reason, evidence)))
    }

    /// Whether the coordinator has the institution's signed word that it takes no part in this plan.
    fn declined(&self, who: &InstitutionId, plan: Digest) -> anyhow::Result<bool> {
        let key = Identity::load(&self.network.agent_dir(who))?.signing_key().verifying_key();
        Ok(self.server.heard(|heard| {
            heard.declines.iter().any(|decline| {
                let Decline { plan: of, institution, reason } = &decline.body;
                (of, institution) == (&plan, who)
                    && !reason.is_empty()
                    && decline.verify(&key).is_ok()
            })
        }))
    }

    /// The refusal of `round` with these words in the journals of all of `agents`, if all have it and said
    /// so to the coordinator. A conflict counts only with its evidence, which must hold the plan that the coordinator signed.
    pub(super) fn refused(
        &self,
        agents: &[InstitutionId],
        round: &RoundId,
        words: &str,
    ) -> anyhow::Result<Option<Refused>> {
        let mut refused = Refused { by: names(agents), words: String::new(), evidence: Vec::new() };
        for who in agents {
            let Some((reason, evidence)) = self.refusal(who, round, words)? else {
                return Ok(None);
            };
            refused.words = reason;
            if let Some(digest) = evidence {
                let dir = self.network.agent_dir(who).join("evidence");
                let path = dir.join(format!("{digest}.json"));
                self.check_evidence(&path, &digest)?;
                refused.evidence.push(path);
            }
        }
        Ok(Some(refused))
    }

    fn check_evidence(&self, path: &Path, digest: &Digest) -> anyhow::Result<()> {
        let bytes = fs::read(path).with_context(|| format!("no evidence in {}", path.display()))?;
        let shown: Value = serde_json::from_slice(&bytes)?;
        let plan: Signed<Plan> = serde_json::from_value(shown["plan"].clone())?;
        let signed = plan.verify(&self.key.verifying_key()).is_ok();
        if Digest::of(&bytes) != *digest || !signed {
            bail!("the evidence in {} proves nothing", path.display());
        }
        Ok(())
    }

    /// Waits for it.
    pub(super) fn expect_refused(
        &self,
        agents: &[InstitutionId],
        round: &RoundId,
        words: &str,
    ) -> anyhow::Result<Refused> {
        let what = format!("{round} is refused: {words:?}");
        eventually(LIMIT, &what, || self.refused(agents, round, words))
    }

    /// Waits until the journals of all of `agents` say that this document is refused, with these words.
    pub(super) fn expect_document_refused(
        &self,
        agents: &[InstitutionId],
        document: &Digest,
        words: &str,
    ) -> anyhow::Result<Refused> {
        let refusal = |who: &InstitutionId| -> anyhow::Result<Option<String>> {
            Ok(self.journal(who)?.into_iter().find_map(|event| match event {
                AgentEvent::Local(LocalEvent::DocumentRefused { document: of, reason }) => {
                    (of == *document && reason.contains(words)).then_some(reason)
                }
                _ => None,
            }))
        };
        let what = format!("a document is refused: {words:?}");
        let words = eventually(LIMIT, &what, || {
            let reasons = agents.iter().map(refusal).collect::<anyhow::Result<Option<Vec<_>>>>()?;
            Ok(reasons.and_then(|mut reasons| reasons.pop()))
        })?;
        Ok(Refused { by: names(agents), words, evidence: Vec::new() })
    }

    /// Waits until the agents either did what is asked, so that `done` finds it, or all refused.
    pub(super) fn done_or_refused<T>(
        &self,
        agents: &[InstitutionId],
        round: &RoundId,
        words: &str,
        done: impl Fn() -> anyhow::Result<Option<T>>,
    ) -> anyhow::Result<Result<T, Refused>> {
        let what = format!("{round} goes on or is refused: {words:?}");
        eventually(LIMIT, &what, || match done()? {
            Some(done) => Ok(Some(Ok(done))),
            None => Ok(self.refused(agents, round, words)?.map(Err)),
        })
    }
}

/// Every event of the agent in `dir`.
fn journal(dir: &Path) -> anyhow::Result<Vec<AgentEvent>> {
    let key = Identity::load(dir)?.signing_key().verifying_key();
    let mut events = Vec::new();
    History::audit(&dir.join("journal"), &key)?.replay(0, |_, payload| {
        events.push(serde_json::from_slice::<Entry<AgentEvent>>(payload));
        Ok::<(), Finding>(())
    })?;
    events.into_iter().map(|entry| Ok(entry?.event)).collect()
}

fn signed_documents(exchange: &Path) -> anyhow::Result<Documents> {
    let read = |name: &str| documents::read::<SignedDocument>(&exchange.join(name));
    match (read("roster.signed")?, read("registry.signed")?) {
        (
            SignedDocument::Roster { signed: roster, .. },
            SignedDocument::Registry { signed: registry, .. },
        ) => Ok(Documents { roster: Some(roster), registry: Some(registry) }),
        _ => bail!("the root signed other documents"),
    }
}
