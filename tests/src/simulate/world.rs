//! One federation: nodes, the line between them, time, and the people around. Carries out operations, one
//! at a time, and has the invariants checked after each.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use collegium_coordinator::task::{Aggregation, ReleaseRule, TaskSpec};
use collegium_shared::{
    architecture::{Architecture, Hyper, LearnerPrivacy, Target},
    clock::Timestamp,
    crypto::{Digest, SigningKey, VerifyingKey},
    ids::InstitutionId,
    protocol::Deadlines,
    roster::{Member, RootKey, Roster},
    signed::Signed,
};
use rand_chacha::{
    ChaCha12Rng,
    rand_core::{Rng, SeedableRng},
};

use super::{
    agent::{self, Agent, Given},
    coordinator::{self, COHORT, Coordinator, DIMENSION, Outcome},
    disk::Halt,
    invariants::{Invariant, Invariants, Violation},
    mutations::Mutation,
    operation::Operation,
    wire::{Content, Packet, Request, Response},
};

/// Packets under way at most; the oldest is lost for one more.
const LINE: usize = 48;
/// Packets of one exchange at most.
const PACKETS: usize = 12;
/// Turns of everybody within which a healed federation finishes its task.
const TURNS: usize = 1_000;
/// Seconds between two of them.
const TURN: u16 = 5;
/// Seconds that each phase may take.
const PHASE: u32 = 60;
/// 2026-01-01T00:00:00Z.
const BEGIN: i64 = 1_767_225_600_000;
/// What a private task costs, and how many institutions' noise it counts on.
const EPSILON: f64 = 4.0;
const DELTA: f64 = 1e-6;
const PARTIES: u16 = 2;
/// The budget of an institution: for one task, and some of the next.
const BUDGET: f64 = 5.0;
/// What it allows in the end, so that the task under way can be finished.
const ENOUGH: f64 = 200.0;
const DAY: Duration = Duration::from_secs(86_400);

/// Whether the invariants hold; an error is one of the simulation itself.
pub(super) type Checked = anyhow::Result<Result<(), Violation>>;

pub(super) struct World {
    time: Timestamp,
    root: SigningKey,
    signing: VerifyingKey,
    members: Vec<Member>,
    /// Institutions on the newest roster.
    joined: usize,
    roster: Option<Arc<Signed<Roster>>>,
    coordinator: Coordinator,
    agents: Vec<Agent>,
    line: Vec<Packet>,
    /// Agents whose line is cut.
    apart: BTreeSet<usize>,
    backups: BTreeMap<usize, agent::Backup>,
    backup: Option<coordinator::Backup>,
    tasks: u32,
    /// Whether tasks have noise, and institutions a budget.
    private: bool,
    pub(super) watch: Invariants,
    /// Operations that were carried out, those at the end included.
    pub(super) operations: u64,
    /// How often what happened.
    pub(super) seen: BTreeMap<&'static str, u64>,
}

/// The generator of one node, or one purpose, of a world.
pub(super) fn generator(seed: u64, stream: u64) -> ChaCha12Rng {
    let mut rng = ChaCha12Rng::seed_from_u64(seed);
    rng.set_stream(stream);
    rng
}

/// An Ed25519 key in PKCS#8 (RFC 8410) from the generator.
fn key(rng: &mut ChaCha12Rng) -> anyhow::Result<SigningKey> {
    let mut pkcs8 = hex::decode("302e020100300506032b657004220420")?;
    let mut secret = [0; 32];
    rng.fill_bytes(&mut secret);
    pkcs8.extend_from_slice(&secret);
    Ok(SigningKey::from_pkcs8(&pkcs8)?)
}

// --- Its life ------------------------------------------------------------------------------------

impl World {
    /// A coordinator, and four to six institutions on the roster of one more that there are.
    pub(super) fn new(seed: u64, mutation: Option<Mutation>) -> anyhow::Result<Self> {
        let mut rng = generator(seed, 0);
        let time = Timestamp::from_millis(BEGIN);
        let (root, signing) = (key(&mut rng)?, key(&mut rng)?);
        let (public, own) = (root.verifying_key(), signing.verifying_key());
        let pinned = RootKey::pinned(public, &public.fingerprint())?;
        let joined = usize::try_from(4 + rng.next_u64() % 3)?;
        let private = rng.next_u64().is_multiple_of(3);
        let epsilon = private.then_some(BUDGET);
        let (mut agents, mut members, mut keys) = (Vec::new(), Vec::new(), BTreeMap::new());
        for (index, stream) in (0..=joined).zip(1..) {
            let institution: InstitutionId = format!("school-{index}").parse()?;
            let own = key(&mut rng)?;
            keys.insert(institution.clone(), own.verifying_key());
            members.push(Member {
                institution: institution.clone(),
                legal_entity: institution.to_string(),
                identity: own.verifying_key(),
                valid_from: time - DAY,
                valid_until: time + 1_000 * DAY,
            });
            let rng = generator(seed, stream);
            let given = Given { key: own, root: pinned, rng, epsilon };
            agents.push(Agent::new(index, institution, given, time, mutation)?);
        }
        let mut world = Self {
            time,
            root,
            signing: own,
            members,
            joined,
            roster: None,
            coordinator: Coordinator::new(signing, pinned, time, mutation),
            agents,
            line: Vec::new(),
            apart: BTreeSet::new(),
            backups: BTreeMap::new(),
            backup: None,
            tasks: 0,
            private,
            watch: Invariants::new(own, keys),
            operations: 0,
            seen: BTreeMap::new(),
        };
        world.sign_roster()?;
        Ok(world)
    }

    /// Carries out one operation, and looks whether everything still holds.
    pub(super) fn apply(&mut self, operation: Operation) -> Checked {
        self.operations += 1;
        self.wake()?;
        self.carry_out(operation)?;
        Ok(self.watch.check(&mut self.coordinator, &mut self.agents))
    }

    /// When nothing goes wrong any more, the task under way comes to an end.
    pub(super) fn finish(&mut self) -> Checked {
        self.heal()?;
        for _ in 0..TURNS {
            self.wake()?;
            if !self.coordinator.runs_a_task() {
                return Ok(Ok(()));
            }
            let exchanges =
                (0..self.joined).map(|agent| Operation::Exchange { agent: byte(agent) });
            let rest = [Operation::Work, Operation::Work, Operation::Pass { seconds: TURN }];
            for operation in exchanges.chain(rest) {
                if let Err(violation) = self.apply(operation)? {
                    return Ok(Err(violation));
                }
            }
        }
        let detail = format!("the task had not ended {TURNS} turns after everything was healed");
        Ok(Err(Violation { invariant: Invariant::Ends, detail }))
    }

    fn heal(&mut self) -> anyhow::Result<()> {
        self.apart.clear();
        self.line.clear();
        self.coordinator.disk.heal();
        self.coordinator.set_skew(0);
        for agent in &mut self.agents {
            agent.disk.heal();
            agent.set_skew(0);
            agent.grant(ENOUGH);
            agent.give_up();
        }
        self.wake()?;
        self.import_roster()
    }

    /// Tells everybody the time, and opens again what waited for room and has some.
    fn wake(&mut self) -> anyhow::Result<()> {
        self.coordinator.tell(self.time);
        if self.coordinator.stalled && !self.coordinator.disk.is_full() {
            self.coordinator.restart(0)?;
        }
        for agent in &mut self.agents {
            agent.tell(self.time);
            if agent.stalled && !agent.disk.is_full() {
                agent.restart(0, &mut self.watch)?;
            }
        }
        Ok(())
    }

    /// What the coordinator gave; if it died it starts again, and if it has no room it waits.
    fn served<T>(&mut self, done: Outcome<T>) -> anyhow::Result<Option<T>> {
        match done? {
            Ok(given) => return Ok(Some(given)),
            Err(Halt::Died) => {
                self.count("coordinator died");
                self.coordinator.restart(0)?;
            }
            Err(Halt::Full) => {
                self.count("coordinator had no room");
                self.coordinator.stall();
            }
        }
        Ok(None)
    }

    fn count(&mut self, what: &'static str) {
        *self.seen.entry(what).or_default() += 1;
    }
}

fn byte(index: usize) -> u8 {
    u8::try_from(index).unwrap_or(u8::MAX)
}

// --- Operations ------------------------------------------------------------------------------------

impl World {
    fn agent(&self, number: u8) -> usize {
        usize::from(number) % self.joined
    }

    fn carry_out(&mut self, operation: Operation) -> anyhow::Result<()> {
        match operation {
            Operation::Exchange { agent } => self.exchange(self.agent(agent))?,
            Operation::Call { agent } => self.call(self.agent(agent)),
            Operation::Deliver { packet } => {
                if let Some(packet) = self.pick(packet) {
                    self.deliver(packet)?;
                }
            }
            Operation::Lose { packet } => drop(self.pick(packet)),
            Operation::Duplicate { packet } => {
                if let Some(packet) = self.pick(packet) {
                    self.send(packet.clone());
                    self.send(packet);
                }
            }
            Operation::Misdirect { packet, agent } => self.misdirect(packet, self.agent(agent))?,
            Operation::GiveUp { agent } => self.agents[usize::from(agent) % self.joined].give_up(),
            Operation::Partition { agent } => {
                self.apart.insert(self.agent(agent));
            }
            Operation::Heal { agent } => {
                self.apart.remove(&self.agent(agent));
            }
            Operation::Pass { seconds } => self.pass(seconds)?,
            Operation::Work => self.work()?,
            Operation::Join => self.join()?,
            Operation::Task { load_test } => self.start_task(load_test)?,
            Operation::Import { agent } => self.agents[usize::from(agent) % self.joined].import(),
            Operation::Restart { node, .. }
            | Operation::Crash { node, .. }
            | Operation::Backup { node }
            | Operation::Restore { node }
            | Operation::Fill { node }
            | Operation::Free { node }
            | Operation::Skew { node, .. } => {
                // 0 is the coordinator.
                match (usize::from(node) % (self.joined + 1)).checked_sub(1) {
                    None => self.harm_coordinator(operation)?,
                    Some(agent) => self.harm_agent(operation, agent)?,
                }
                self.wake()?;
            }
        }
        Ok(())
    }

    fn harm_coordinator(&mut self, operation: Operation) -> anyhow::Result<()> {
        let coordinator = &mut self.coordinator;
        match operation {
            Operation::Restart { torn, .. } => coordinator.restart(torn)?,
            Operation::Crash { edges, torn, .. } => coordinator.disk.arm(edges, torn),
            Operation::Backup { .. } => self.backup = Some(coordinator.backup()),
            Operation::Restore { .. } => {
                let Some(backup) = self.backup else { return Ok(()) };
                coordinator.restore(backup)?;
                self.count("coordinator restored");
                self.watch.coordinator_restored();
                self.coordinator.restart(0)?;
                // What came after the backup and is not in it, people bring again.
                self.import_roster()?;
            }
            Operation::Fill { .. } => coordinator.disk.fill(true),
            Operation::Free { .. } => coordinator.disk.fill(false),
            // Its time never goes back: one that is years ahead lets rosters run out until then.
            Operation::Skew { seconds, .. } => coordinator.set_skew(i64::from(seconds) % 86_400),
            _ => {}
        }
        Ok(())
    }

    fn harm_agent(&mut self, operation: Operation, index: usize) -> anyhow::Result<()> {
        let agent = &mut self.agents[index];
        match operation {
            Operation::Restart { torn, .. } => agent.restart(torn, &mut self.watch)?,
            Operation::Crash { edges, torn, .. } => agent.disk.arm(edges, torn),
            Operation::Backup { .. } => {
                self.backups.insert(index, agent.backup());
            }
            Operation::Restore { .. } => {
                let Some(backup) = self.backups.get(&index) else { return Ok(()) };
                agent.restore(backup);
                self.watch.agent_restored(index);
                agent.restart(0, &mut self.watch)?;
                self.count("agent restored");
            }
            Operation::Fill { .. } => agent.disk.fill(true),
            Operation::Free { .. } => agent.disk.fill(false),
            Operation::Skew { seconds, .. } => agent.set_skew(seconds.into()),
            _ => {}
        }
        Ok(())
    }

    fn pick(&mut self, packet: u8) -> Option<Packet> {
        let count = self.line.len();
        (count > 0).then(|| self.line.remove(usize::from(packet) % count))
    }

    fn send(&mut self, packet: Packet) {
        if self.line.len() >= LINE {
            self.line.remove(0);
        }
        self.line.push(packet);
    }

    fn call(&mut self, agent: usize) {
        if let Some((call, request)) = self.agents[agent].call() {
            self.send(Packet { agent, call, content: Content::Request(request) });
        }
    }

    fn deliver(&mut self, packet: Packet) -> anyhow::Result<()> {
        let Packet { agent, call, content } = packet;
        if self.apart.contains(&agent) {
            return Ok(());
        }
        match content {
            Content::Request(request) => {
                let from = self.agents[agent].name.clone();
                let done = self.coordinator.serve(&from, &request, &mut self.watch);
                if let Some(response) = self.served(done)? {
                    self.send(Packet { agent, call, content: Content::Response(response) });
                }
                Ok(())
            }
            Content::Response(response) => self.answer(agent, call, &response),
        }
    }

    fn answer(&mut self, agent: usize, call: u64, response: &Response) -> anyhow::Result<()> {
        if self.agents[agent].stalled {
            return Ok(());
        }
        match self.agents[agent].receive(call, response, &mut self.watch)? {
            Ok(Some((call, request))) => {
                self.send(Packet { agent, call, content: Content::Request(request) });
                Ok(())
            }
            Ok(None) => Ok(()),
            Err(Halt::Died) => {
                self.count("agent died");
                // A backup may be made while nothing runs, in the middle of a step.
                self.backups.insert(agent, self.agents[agent].backup());
                self.agents[agent].restart(0, &mut self.watch)
            }
            Err(Halt::Full) => {
                self.count("agent had no room");
                self.agents[agent].stall();
                Ok(())
            }
        }
    }

    /// Calls and answers of one agent, as long as they lead to one another.
    fn exchange(&mut self, agent: usize) -> anyhow::Result<()> {
        self.call(agent);
        for _ in 0..PACKETS {
            let Some(call) = self.agents[agent].open_call() else { return Ok(()) };
            let own = |packet: &Packet| packet.agent == agent && packet.call == call;
            match self.line.iter().position(own) {
                Some(place) => {
                    let packet = self.line.remove(place);
                    self.deliver(packet)?;
                }
                None => {
                    self.agents[agent].give_up();
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// Hands a copy of a statement in over the channel of `agent`; what comes back is lost.
    fn misdirect(&mut self, packet: u8, agent: usize) -> anyhow::Result<()> {
        let mut statements = self.line.iter().filter_map(|packet| match &packet.content {
            Content::Request(request @ Request::Submit(_)) => Some(request),
            _ => None,
        });
        let count = statements.clone().count().max(1);
        let Some(request) = statements.nth(usize::from(packet) % count).cloned() else {
            return Ok(());
        };
        let from = self.agents[agent].name.clone();
        let done = self.coordinator.serve(&from, &request, &mut self.watch);
        self.served(done).map(drop)
    }

    fn pass(&mut self, seconds: u16) -> anyhow::Result<()> {
        self.time = self.time + Duration::from_secs(seconds.into());
        self.wake()?;
        if self.coordinator.stalled {
            return Ok(());
        }
        let done = self.coordinator.settle();
        self.served(done).map(drop)
    }

    fn work(&mut self) -> anyhow::Result<()> {
        if self.coordinator.stalled {
            return Ok(());
        }
        let done = self.coordinator.work();
        self.served(done).map(drop)
    }

    // --- People ----------------------------------------------------------------------------------

    /// One more institution enrols, if there is one.
    fn join(&mut self) -> anyhow::Result<()> {
        if self.joined == self.members.len() {
            return Ok(());
        }
        self.joined += 1;
        self.sign_roster()
    }

    /// The root signs the roster of all who joined, and the operator imports it.
    fn sign_roster(&mut self) -> anyhow::Result<()> {
        let before = self.roster.as_ref().map(|signed| (signed.body.version, signed.digest()));
        let roster = Roster {
            version: before.map_or(1, |(version, _)| version + 1),
            previous: before.map(|(_, digest)| digest),
            coordinator: self.signing,
            issued_at: self.time,
            expires_at: self.time + 1_000 * DAY,
            members: self.members[..self.joined].to_vec(),
        };
        self.roster = Some(Arc::new(Signed::sign(roster, &self.root)));
        self.import_roster()
    }

    /// The operator imports the newest roster, if the coordinator has another.
    fn import_roster(&mut self) -> anyhow::Result<()> {
        let Some(newest) = self.roster.clone() else { return Ok(()) };
        if self.coordinator.stalled || self.coordinator.roster_version() >= newest.body.version {
            return Ok(());
        }
        let done = self.coordinator.admit_members(&self.members[..self.joined], &newest);
        self.served(done).map(drop)
    }

    /// Under a name that was never used.
    fn start_task(&mut self, load_test: bool) -> anyhow::Result<()> {
        self.import_roster()?;
        let architecture =
            if load_test { Architecture::LoadTest1 } else { Architecture::KtLogistic1 };
        let rounds = 1 + self.tasks % 2;
        let mut hyper = Hyper::default();
        if self.private && !load_test {
            let target = Target { epsilon: EPSILON, delta: DELTA };
            hyper.privacy = Some(LearnerPrivacy::propose(target, rounds, PARTIES)?);
        }
        let spec = TaskSpec {
            task: format!("task-{}", self.tasks).parse()?,
            architecture,
            purpose: None,
            parameters: load_test.then_some(DIMENSION),
            rounds,
            hyper,
            privacy: None,
            audit: None,
            cohort: Some(COHORT),
            deadlines: Deadlines {
                ready: PHASE,
                share: PHASE,
                upload: PHASE,
                vote: PHASE,
                reveal: PHASE,
            },
            release: ReleaseRule::default(),
            aggregation: Aggregation::default(),
        };
        let done = self.coordinator.start_task(spec, Digest::of(b"registry"));
        self.tasks += u32::from(self.served(done)?.is_none_or(|started| started));
        Ok(())
    }
}
