//! The invariants, written once: what a simulated federation may never do, whatever happens to it. Watches
//! from outside, through what is durable, what is shown, and what leaves; after every operation it compares.
//! Repairs nothing and takes no part.
//!
//! The numbers are those of ARCHITECTURE's list.
//!
//! 1. *forward*: rounds and tasks only move forward; what is over stays as it ended; on both sides.
//! 2. *one message*: one accepted statement per institution and phase of an attempt; one vote.
//! 3. *durable first*: what was acknowledged, shown or sent is in the log of whoever did it, and stays.
//! 4. *quorum*: nothing is certified, revealed or opened without a quorum's votes over enough survivors;
//!    one kind of share per dealer.
//! 5. *lineage*: a released model names its parent, roster, plan, registry and uploads, and is in the log.
//! 6. *replay*: the fold over the durable entries is the state that the machine runs on.
//! 7. *identity*: an accepted statement came over its author's channel and has its author's signature.
//! 8. *masked*: what leaves as an upload is not the input, word by word.
//! 9. *budget*: an input of a private plan is charged once and in full where it is committed to, within the
//!    policy's budget, before anything of it leaves (under 3); what was accepted of an institution its ledger
//!    does not forget.
//! 10. *secrets*: no entry of a journal holds a secret of the institution that wrote it. (That secrets have
//!     no `Debug` is the compiler's to check.)
//!
//! Besides: *masks*, keys are drawn after the input is committed to, and no two inputs are ever hidden by the
//! same mask; *sum*, a released sum is the sum of
//! what its survivors committed to; *differences*, over the same records no institution votes for sums of different
//! institutions, or uploads where other institutions are listed than before; *ends*, a healed federation finishes its task.

mod budget;
mod coordinator_log;
mod sent;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::Arc,
};

use collegium_agent::{
    session::SessionEvent,
    state::{AgentEvent, AgentState},
};
use collegium_coordinator::network::Network;
use collegium_shared::{
    clock::Timestamp,
    crypto::{Digest, VerifyingKey},
    ids::{InstitutionId, RoundId},
    journal::Entry,
    protocol::{Outcome, RoundView},
    secagg::ShareKind,
};
use serde::{Serialize, de::DeserializeOwned};

use super::{
    agent::Agent,
    coordinator::Coordinator,
    disk::Journal,
    wire::{Mark, Said},
};
use budget::{Heads, Purse};
use coordinator_log::RoundTrace;

/// What may never be broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Invariant {
    Forward,
    OneMessage,
    DurableFirst,
    Quorum,
    Lineage,
    Replay,
    Identity,
    Masked,
    Budget,
    Secrets,
    Masks,
    Sum,
    Differences,
    Ends,
}

impl Invariant {
    pub const ALL: [Self; 14] = [
        Self::Forward,
        Self::OneMessage,
        Self::DurableFirst,
        Self::Quorum,
        Self::Lineage,
        Self::Replay,
        Self::Identity,
        Self::Masked,
        Self::Budget,
        Self::Secrets,
        Self::Masks,
        Self::Sum,
        Self::Differences,
        Self::Ends,
    ];
}

impl fmt::Display for Invariant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Forward => "forward",
            Self::OneMessage => "one message",
            Self::DurableFirst => "durable first",
            Self::Quorum => "quorum",
            Self::Lineage => "lineage",
            Self::Replay => "replay",
            Self::Identity => "identity",
            Self::Masked => "masked",
            Self::Budget => "budget",
            Self::Secrets => "secrets",
            Self::Masks => "masks",
            Self::Sum => "sum",
            Self::Differences => "differences",
            Self::Ends => "ends",
        })
    }
}

/// What was broken, and how.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Violation {
    pub invariant: Invariant,
    pub detail: String,
}

/// Words against an invariant.
fn broken<T>(invariant: Invariant, detail: impl Into<String>) -> Result<T, Violation> {
    Err(Violation { invariant, detail: detail.into() })
}

fn hold(right: bool, invariant: Invariant, detail: impl Fn() -> String) -> Result<(), Violation> {
    if right { Ok(()) } else { broken(invariant, detail()) }
}

/// What an agent sent, with what it had to go by.
pub(super) struct Sent {
    pub(super) agent: usize,
    /// Entries of its journal that were durable then.
    pub(super) durable: usize,
    /// Whether the secrets of the attempt were durable then.
    pub(super) has_secrets: bool,
    pub(super) said: Said,
    pub(super) view: Arc<RoundView>,
    /// The words behind an upload.
    pub(super) input: Vec<u32>,
}

/// What an agent drew for an attempt.
pub(super) struct Drawn {
    pub(super) agent: usize,
    /// Entries of its journal that were durable then.
    pub(super) durable: usize,
    pub(super) round: RoundId,
    pub(super) commitment: Digest,
    pub(super) rho: [u8; 32],
}

/// An institution's part in one attempt, by its own journal.
#[derive(Default)]
struct Facts {
    commitment: Option<Digest>,
    snapshot: Option<Digest>,
    list: Option<Digest>,
    context: Option<Digest>,
    vote: Option<Outcome>,
    revealing: Option<Outcome>,
    certified: Option<Outcome>,
    over: bool,
}

/// What an institution uploaded, or voted for, that does not depend on the weights.
struct Summed {
    subject: Digest,
    round: RoundId,
    listed: Vec<InstitutionId>,
    /// Whose sum it voted for.
    survivors: Option<Vec<InstitutionId>>,
}

/// One agent as its durable journal has it.
#[derive(Default)]
struct AgentTrace {
    state: AgentState,
    seen: usize,
    /// The bytes of the last entry of them.
    newest: Vec<u8>,
    facts: BTreeMap<RoundId, Facts>,
    last: BTreeMap<String, RoundId>,
    summed: Vec<Summed>,
    purse: Purse,
    /// What no entry may hold.
    secrets: Vec<String>,
}

/// The coordinator as its durable journal has it.
#[derive(Default)]
struct CoordinatorTrace {
    network: Network,
    seen: usize,
    /// The bytes of the last entry of them.
    newest: Vec<u8>,
    rounds: BTreeMap<RoundId, RoundTrace>,
    last: BTreeMap<String, RoundId>,
    accepted: BTreeSet<(InstitutionId, Mark)>,
    heads: Heads,
    /// The newest release of each task.
    released: BTreeMap<String, Digest>,
}

/// Everything that was seen so far.
pub(super) struct Invariants {
    coordinator_key: VerifyingKey,
    keys: BTreeMap<InstitutionId, VerifyingKey>,
    coordinator: CoordinatorTrace,
    agents: Vec<AgentTrace>,
    /// Statements that came in over each institution's channel.
    arrived: BTreeSet<(InstitutionId, Mark)>,
    acknowledged: Vec<(InstitutionId, Mark)>,
    drawn: Vec<Drawn>,
    sent: Vec<Sent>,
    /// By commitment, whoever made it.
    inputs: BTreeMap<Digest, Vec<u32>>,
    /// Mask and institution, and the digest of the input that it hid.
    masks: BTreeMap<(Digest, InstitutionId), Digest>,
    votes: BTreeMap<(Digest, InstitutionId), Outcome>,
    revealed: BTreeMap<(Digest, InstitutionId, u16), ShareKind>,
    pub(super) endings: BTreeMap<&'static str, u64>,
    pub(super) releases: u64,
}

// --- What is seen --------------------------------------------------------------------------------

impl Invariants {
    pub(super) fn new(
        coordinator_key: VerifyingKey,
        keys: BTreeMap<InstitutionId, VerifyingKey>,
    ) -> Self {
        let agents = keys.iter().map(|_| AgentTrace::default()).collect();
        Self {
            coordinator_key,
            keys,
            coordinator: CoordinatorTrace::default(),
            agents,
            arrived: BTreeSet::new(),
            acknowledged: Vec::new(),
            drawn: Vec::new(),
            sent: Vec::new(),
            inputs: BTreeMap::new(),
            masks: BTreeMap::new(),
            votes: BTreeMap::new(),
            revealed: BTreeMap::new(),
            endings: BTreeMap::new(),
            releases: 0,
        }
    }

    /// An agent fixed an input.
    pub(super) fn fixed(&mut self, commitment: Digest, words: &[u32]) {
        self.inputs.insert(commitment, words.to_vec());
    }

    /// An agent drew the secret of an attempt.
    pub(super) fn drawn(&mut self, drawn: Drawn) {
        self.agents[drawn.agent].secrets.push(hex::encode(drawn.rho));
        self.drawn.push(drawn);
    }

    pub(super) fn sent(&mut self, sent: Sent) {
        self.sent.push(sent);
    }

    /// The coordinator took in a statement over this institution's channel.
    pub(super) fn arrived(&mut self, channel: &InstitutionId, mark: Mark) {
        self.arrived.insert((channel.clone(), mark));
    }

    /// The coordinator told this institution that it has its statement.
    pub(super) fn acknowledged(&mut self, channel: &InstitutionId, mark: Mark) {
        self.acknowledged.push((channel.clone(), mark));
    }

    /// The coordinator's directory became that of a backup: what it knew after it is lost for good.
    pub(super) fn coordinator_restored(&mut self) {
        self.coordinator = CoordinatorTrace::default();
        self.acknowledged.clear();
    }

    /// The agent's directory became that of a backup.
    pub(super) fn agent_restored(&mut self, agent: usize) {
        let secrets = std::mem::take(&mut self.agents[agent].secrets);
        self.agents[agent] = AgentTrace { secrets, ..AgentTrace::default() };
    }
}

// --- What must hold ------------------------------------------------------------------------------

impl Invariants {
    /// To be called after every operation.
    pub(super) fn check(
        &mut self,
        coordinator: &mut Coordinator,
        agents: &mut [Agent],
    ) -> Result<(), Violation> {
        if coordinator.disk.take_touched() {
            self.check_coordinator(coordinator)?;
        }
        for said in std::mem::take(&mut self.acknowledged) {
            hold(self.coordinator.accepted.contains(&said), Invariant::DurableFirst, || {
                let (who, (phase, _)) = &said;
                format!("{who} was told that its {phase:?} statement is kept, but it is not")
            })?;
        }
        for Drawn { agent, durable, round, commitment, .. } in std::mem::take(&mut self.drawn) {
            self.read_agent(&agents[agent], agent, durable)?;
            let facts = self.agents[agent].facts.get(&round);
            let fixed = facts.is_some_and(|facts| facts.commitment == Some(commitment));
            hold(fixed, Invariant::Masks, || {
                format!("keys for round {round} were drawn before the input was committed to")
            })?;
        }
        for sent in std::mem::take(&mut self.sent) {
            self.read_agent(&agents[sent.agent], sent.agent, sent.durable)?;
            self.check_sent(&sent)?;
        }
        for (index, agent) in agents.iter_mut().enumerate() {
            if agent.disk.take_touched() {
                self.check_agent(agent, index)?;
            }
        }
        Ok(())
    }

    fn check_coordinator(&mut self, coordinator: &Coordinator) -> Result<(), Violation> {
        let (seen, len) = (self.coordinator.seen, coordinator.journal.len());
        keeps(&coordinator.journal, seen, &self.coordinator.newest, "the coordinator")?;
        for entry in read(&coordinator.journal, seen)? {
            self.check_event(&entry.event, coordinator)?;
            self.coordinator.network.apply(&entry.event, entry.at);
        }
        self.coordinator.seen = len;
        self.coordinator.newest = coordinator.journal.bytes(len.saturating_sub(1)).to_vec();
        let shown = &*coordinator.published.network;
        if coordinator.closed || *shown == self.coordinator.network {
            return Ok(());
        }
        let mut ahead = self.coordinator.network.clone();
        let pending = coordinator.journal.pending().unwrap_or_default();
        pending.iter().for_each(|entry| ahead.apply(&entry.event, entry.at));
        if *shown == ahead {
            broken(Invariant::DurableFirst, "the coordinator shows what is not durable")
        } else {
            broken(Invariant::Replay, "the coordinator's state is not the fold over its log")
        }
    }

    fn check_agent(&mut self, agent: &Agent, index: usize) -> Result<(), Violation> {
        self.read_agent(agent, index, agent.journal.len())?;
        // One that waits for room has no state.
        let same = agent.stalled || agent.state == self.agents[index].state;
        hold(same, Invariant::Replay, || {
            format!("the state of {} is not the fold over its log", agent.name)
        })
    }

    /// Folds the agent's durable entries up to `until`.
    fn read_agent(&mut self, agent: &Agent, index: usize, until: usize) -> Result<(), Violation> {
        let trace = &mut self.agents[index];
        let seen = trace.seen;
        keeps(&agent.journal, seen, &trace.newest, agent.name.as_str())?;
        let new = until.saturating_sub(seen);
        for (place, entry) in (seen..).zip(read(&agent.journal, seen)?).take(new) {
            let text = String::from_utf8_lossy(agent.journal.bytes(place));
            let holds = trace.secrets.iter().any(|secret| text.contains(secret.as_str()));
            hold(!holds, Invariant::Secrets, || {
                format!("an entry in the journal of {} holds a secret", agent.name)
            })?;
            if let AgentEvent::Session(event) = &entry.event {
                trace.note(&agent.name, event)?;
                trace.pay(agent, event, entry.at)?;
            }
            trace.state.apply(&entry.event, entry.at);
            trace.seen += 1;
            trace.newest = agent.journal.bytes(place).to_vec();
        }
        Ok(())
    }
}

/// What was durable once stays: `seen` entries, of which `newest` is the last.
fn keeps<E: Serialize + DeserializeOwned>(
    journal: &Journal<E>,
    seen: usize,
    newest: &[u8],
    whose: &str,
) -> Result<(), Violation> {
    let kept = seen == 0 || journal.bytes(seen - 1) == newest;
    hold(kept, Invariant::DurableFirst, || format!("{whose} lost an entry that was durable"))
}

fn read<E: Serialize + DeserializeOwned>(
    journal: &Journal<E>,
    first: usize,
) -> Result<Vec<Entry<E>>, Violation> {
    journal.read(first).or_else(|error| {
        broken(Invariant::Replay, format!("an entry cannot be read back: {error}"))
    })
}

impl AgentTrace {
    fn pay(&mut self, agent: &Agent, event: &SessionEvent, at: Timestamp) -> Result<(), Violation> {
        match event {
            SessionEvent::PlanAccepted { plan } => self.purse.planned(&plan.body),
            SessionEvent::Committed { commitment, charges, .. } => {
                let budget = (at, agent.budget());
                self.purse.committed(&agent.name, (*commitment, charges), budget)
            }
            _ => Ok(()),
        }
    }

    /// An institution's own log goes forward: newer rounds only, every fact once, nothing after the end.
    fn note(&mut self, who: &InstitutionId, event: &SessionEvent) -> Result<(), Violation> {
        let round = event.round();
        let forward = |right: bool, what: &str| {
            hold(right, Invariant::Forward, || format!("{who} {what}, in round {round}"))
        };
        if let SessionEvent::PlanAccepted { .. } = event {
            let last = self.last.insert(round.task.to_string(), round.clone());
            forward(last.is_none_or(|last| last < *round), "accepted an older plan")?;
            let before = self.facts.insert(round.clone(), Facts::default());
            return forward(before.is_none(), "accepted a second plan");
        }
        let Some(facts) = self.facts.get_mut(round) else {
            return forward(false, "noted something of a round without a plan");
        };
        forward(!facts.over, "went on after the end")?;
        let again = "changed what was pinned";
        match event {
            SessionEvent::PlanAccepted { .. } => Ok(()),
            SessionEvent::Committed { commitment, snapshot, .. } => {
                facts.snapshot = Some(*snapshot);
                forward(facts.commitment.replace(*commitment).is_none(), again)
            }
            SessionEvent::Listed { root, .. } => {
                forward(facts.list.replace(*root).is_none(), again)
            }
            SessionEvent::Sending { context, .. } => {
                forward(facts.context.replace(*context).is_none(), again)
            }
            SessionEvent::Voted { outcome, .. } => {
                forward(facts.vote.replace(outcome.clone()).is_none(), again)
            }
            SessionEvent::Revealing { outcome, .. } => {
                forward(facts.revealing.replace(outcome.clone()).is_none(), again)
            }
            SessionEvent::Certified { outcome, .. } => {
                forward(facts.certified.replace(outcome.clone()).is_none(), again)
            }
            SessionEvent::RoundEnded { .. } | SessionEvent::RoundLeft { .. } => {
                facts.over = true;
                Ok(())
            }
        }
    }
}
