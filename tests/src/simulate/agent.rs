//! An agent around its machine, without a process: what `runner`, `part`, `home` and `session_file` do with
//! files, threads and the link is made again here over a simulated disk, in their order: facts into the
//! journal, one sync, then files, then the wire. Decides nothing that the machine decides.

use std::{
    collections::{BTreeMap, BTreeSet},
    rc::Rc,
    sync::Arc,
};

use collegium_agent::{
    ledger::{Budget, Ledger},
    policy::Policy,
    rounds::{Speaker, StatementError},
    session::{Action, History, Refusal, SessionEvent, Step, Surroundings},
    state::{AgentEvent, AgentState, LocalEvent},
};
use collegium_proto::convert::Polled;
use collegium_shared::{
    architecture::{self, Charge},
    clock::Timestamp,
    crypto::{Digest, Key, SigningKey},
    ids::{InstitutionId, RoundId},
    protocol::{Ending, Outcome as Voted, Ready, RoundView, statements_root},
    roster::{RootKey, Roster, VerifiedRoster},
    secagg::{Bitmap, RoundSecrets},
    signed::Signed,
};
use rand_chacha::{ChaCha12Rng, rand_core::Rng};
use serde_json::json;

use super::{
    coordinator::{COHORT, Outcome},
    disk::{Disk, Halt, Journal},
    invariants::{Drawn, Invariants, Sent},
    mutations::Mutation,
    wire::{Request, Response, Said, bytes},
};

/// An input with the commitment to it.
#[derive(Clone)]
struct Input {
    words: Vec<u32>,
    commitment: Digest,
}

/// rho, bound to its attempt's commitment.
#[derive(Clone)]
struct Secrets {
    rho: [u8; 32],
    commitment: Digest,
}

/// The sealed files of rounds. That a changed file does not open is `session_file`'s to show.
#[derive(Clone, Default)]
struct Files {
    inputs: BTreeMap<RoundId, Input>,
    secrets: BTreeMap<RoundId, Secrets>,
}

impl Files {
    fn retain(&mut self, keep: Option<&RoundId>) {
        self.inputs.retain(|round, _| Some(round) == keep);
        self.secrets.retain(|round, _| Some(round) == keep);
    }

    /// Whether the files are what the journal says.
    fn fit(&self, round: &RoundId, commitment: &Digest) -> bool {
        self.inputs.get(round).is_some_and(|input| input.commitment == *commitment)
            && self.secrets.get(round).is_some_and(|secrets| secrets.commitment == *commitment)
    }
}

/// A copy of the whole directory.
#[derive(Clone)]
pub(super) struct Backup {
    journal: Journal<AgentEvent>,
    files: Files,
    documents: BTreeMap<Digest, Arc<Signed<Roster>>>,
}

/// Why an attempt, or the process, stopped.
enum Failure {
    Halt(Halt),
    /// The attempt cannot go on.
    Leave(String),
    /// The simulation itself is wrong.
    Defect(anyhow::Error),
}

impl From<Halt> for Failure {
    fn from(halt: Halt) -> Self {
        Self::Halt(halt)
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self::Defect(error)
    }
}

impl From<StatementError> for Failure {
    fn from(error: StatementError) -> Self {
        Self::Leave(error.to_string())
    }
}

/// An earlier attempt's input that serves the new one: its round, commitment and records.
type Reusable = Option<(RoundId, Digest, Digest)>;

/// The call that is open: of a submission with the cursor that holds after it.
struct Open {
    call: u64,
    cursor: Option<String>,
}

pub(super) struct Agent {
    pub(super) index: usize,
    pub(super) name: InstitutionId,
    key: SigningKey,
    root: RootKey,
    policy: Policy,
    rng: ChaCha12Rng,
    mutation: Option<Mutation>,
    // What lies on the disk.
    pub(super) disk: Disk,
    pub(super) journal: Journal<AgentEvent>,
    files: Files,
    documents: BTreeMap<Digest, Arc<Signed<Roster>>>,
    /// Names the records in the vault.
    records: Digest,
    // What dies with the process.
    pub(super) state: AgentState,
    roster: Option<VerifiedRoster>,
    cursor: String,
    held: Option<Arc<RoundView>>,
    open: Option<Open>,
    pub(super) stalled: bool,
    // Around it.
    calls: u64,
    time: Timestamp,
    skew: i64,
    /// What was sent for which context, whatever happened since. Only mutations ask for it.
    sent: BTreeSet<(&'static str, Digest)>,
}

/// What an institution that joins is given.
pub(super) struct Given {
    pub(super) key: SigningKey,
    pub(super) root: RootKey,
    pub(super) rng: ChaCha12Rng,
    /// Its budget, as epsilon; none where sums carry no noise.
    pub(super) epsilon: Option<f64>,
}

/// What every institution of the simulation consents to.
fn policy(epsilon: Option<f64>) -> anyhow::Result<Policy> {
    Ok(serde_json::from_value(json!({
        "privacy": epsilon.map(|epsilon| json!({ "epsilon": epsilon })),
        "tasks": ["*"],
        "architectures": ["kt-logistic/1", "load-test/1"],
        "c_max": COHORT.c_max,
        "n_min": COHORT.n_min(),
        "min_honest": COHORT.min_honest,
    }))?)
}

// --- Its life ------------------------------------------------------------------------------------

impl Agent {
    pub(super) fn new(
        index: usize,
        name: InstitutionId,
        Given { key, root, rng, epsilon }: Given,
        time: Timestamp,
        mutation: Option<Mutation>,
    ) -> anyhow::Result<Self> {
        Ok(Self {
            index,
            records: Digest::of(name.as_str().as_bytes()),
            name,
            key,
            root,
            policy: policy(epsilon)?,
            rng,
            mutation,
            disk: Disk::default(),
            journal: Journal::default(),
            files: Files::default(),
            documents: BTreeMap::new(),
            state: AgentState::default(),
            roster: None,
            cursor: String::new(),
            held: None,
            open: None,
            stalled: false,
            calls: 0,
            time,
            skew: 0,
            sent: BTreeSet::new(),
        })
    }

    pub(super) fn tell(&mut self, time: Timestamp) {
        self.time = time;
    }

    pub(super) fn set_skew(&mut self, seconds: i64) {
        self.skew = seconds;
    }

    /// Other records are in the vault.
    pub(super) fn import(&mut self) {
        self.records = Digest::of(self.records.as_bytes());
    }

    /// The institution's people allow more, if they set a budget at all.
    pub(super) fn grant(&mut self, epsilon: f64) {
        if let Some(budget) = &mut self.policy.privacy {
            budget.epsilon = epsilon;
        }
    }

    pub(super) fn budget(&self) -> Option<&Budget> {
        self.policy.privacy.as_ref()
    }

    fn now(&self) -> Timestamp {
        Timestamp::from_millis(self.time.as_millis() + 1_000 * self.skew)
    }

    /// Starts after the process before it died, and goes on dying until it is up.
    pub(super) fn restart(&mut self, torn: u8, watch: &mut Invariants) -> anyhow::Result<()> {
        let torn = torn.max(self.disk.torn());
        self.journal.reopen(torn);
        match self.start(watch) {
            Ok(()) => Ok(()),
            Err(Failure::Halt(Halt::Full)) => {
                self.stall();
                Ok(())
            }
            Err(Failure::Halt(Halt::Died)) => {
                let torn = self.disk.torn();
                self.restart(torn, watch)
            }
            Err(Failure::Leave(reason)) => anyhow::bail!("a start left a round: {reason}"),
            Err(Failure::Defect(error)) => Err(error),
        }
    }

    fn start(&mut self, watch: &mut Invariants) -> Result<(), Failure> {
        self.stalled = false;
        self.disk.edge()?;
        self.state = AgentState::default();
        for entry in self.journal.read(0)? {
            self.state.apply(&entry.event, entry.at);
        }
        (self.cursor, self.held, self.open) = (String::new(), None, None);
        self.roster = None;
        if let Some(in_force) = self.state.roster() {
            self.roster = Some(self.roster_named(&in_force.digest)?);
        }
        self.repair(watch)
    }

    /// As `home`: an attempt in flight goes on only if its files are whole and are what the journal says.
    fn repair(&mut self, watch: &mut Invariants) -> Result<(), Failure> {
        let Some(session) = self.state.history().session() else {
            self.files.retain(None);
            return Ok(());
        };
        let (round, over, listed) = (session.id().clone(), session.over(), session.listed());
        let Some(commitment) = session.commitment().filter(|_| !over) else {
            let keep = over.then_some(&round);
            self.files.secrets.clear();
            self.files.retain(keep);
            return Ok(());
        };
        let Files { inputs, secrets } = &self.files;
        if !listed && !secrets.contains_key(&round) && inputs.contains_key(&round) {
            self.draw(&round, commitment, watch)?;
        }
        if self.files.fit(&round, &commitment) {
            self.files.retain(Some(&round));
            return Ok(());
        }
        self.leave("the files do not fit the journal")
    }

    /// There is no room, so that everything is closed until there is.
    pub(super) fn stall(&mut self) {
        self.stalled = true;
        self.journal.reopen(0);
        self.open = None;
    }

    pub(super) fn backup(&self) -> Backup {
        let Self { journal, files, documents, .. } = self;
        Backup { journal: journal.clone(), files: files.clone(), documents: documents.clone() }
    }

    /// Puts a backup in the place of the directory.
    pub(super) fn restore(&mut self, backup: &Backup) {
        let Backup { journal, files, documents } = backup.clone();
        (self.journal, self.files, self.documents) = (journal, files, documents);
    }

    fn is(&self, mutation: Mutation) -> bool {
        self.mutation == Some(mutation)
    }

    fn roster_named(&self, digest: &Digest) -> anyhow::Result<VerifiedRoster> {
        let signed = self.documents.get(digest);
        let signed = signed.ok_or_else(|| anyhow::anyhow!("a roster is missing"))?;
        Ok(self.root.roster_at_rest(signed)?)
    }

    // --- What it keeps ---------------------------------------------------------------------------

    /// Makes events durable in one batch, then folds them.
    fn record(&mut self, events: &[AgentEvent]) -> Result<(), Failure> {
        let mut events = events.to_vec();
        if self.is(Mutation::LogsSecret) {
            events.iter_mut().for_each(|event| self.let_slip(event));
        }
        let at = self.now();
        self.disk.touch();
        for event in &events {
            self.journal.append(at, event)?;
        }
        self.journal.commit(&mut self.disk)?;
        events.iter().for_each(|event| self.state.apply(event, at));
        Ok(())
    }

    fn let_slip(&self, event: &mut AgentEvent) {
        if let AgentEvent::Session(SessionEvent::RoundLeft { round, reason }) = event
            && let Some(secrets) = self.files.secrets.get(round)
        {
            reason.push_str(&hex::encode(secrets.rho));
        }
    }

    fn leave(&mut self, reason: &str) -> Result<(), Failure> {
        let session = self.state.history().session().filter(|session| !session.over());
        let Some(round) = session.map(|session| session.id().clone()) else { return Ok(()) };
        let reason = reason.to_owned();
        self.record(&[SessionEvent::RoundLeft { round, reason }.into()])?;
        self.files.retain(None);
        Ok(())
    }

    /// What was drawn once may have been used, so it is not drawn again.
    fn draw(
        &mut self,
        round: &RoundId,
        commitment: Digest,
        watch: &mut Invariants,
    ) -> Result<(), Failure> {
        if let Some(drawn) = self.files.secrets.get(round) {
            let fits = drawn.commitment == commitment;
            return if fits { Ok(()) } else { Err(Failure::Leave("other secrets".into())) };
        }
        let mut rho = [0; 32];
        self.rng.fill_bytes(&mut rho);
        let (agent, durable) = (self.index, self.journal.len());
        watch.drawn(Drawn { agent, durable, round: round.clone(), commitment, rho });
        self.disk.store()?;
        self.files.secrets.insert(round.clone(), Secrets { rho, commitment });
        Ok(self.disk.edge()?)
    }

    /// Stands for training: any words.
    fn words(&mut self, count: usize) -> Vec<u32> {
        (0..count).map(|_| self.rng.next_u32()).collect()
    }
}

// --- Calls ---------------------------------------------------------------------------------------

impl Agent {
    pub(super) fn open_call(&self) -> Option<u64> {
        self.open.as_ref().map(|open| open.call)
    }

    /// Nothing came back: everything is shown again, so whatever was not done is found again.
    pub(super) fn give_up(&mut self) {
        self.open = None;
        self.cursor.clear();
    }

    /// Begins a call, if none is open: asks for news.
    pub(super) fn call(&mut self) -> Option<(u64, Request)> {
        if self.open.is_some() || self.stalled {
            return None;
        }
        let held = self.held.as_ref().map(|view| (view.id().clone(), view.phase));
        let request = Request::Poll { cursor: self.cursor.clone(), held };
        Some((self.begin(None), request))
    }

    fn begin(&mut self, cursor: Option<String>) -> u64 {
        self.calls += 1;
        self.open = Some(Open { call: self.calls, cursor });
        self.calls
    }

    /// Takes an answer, and gives the next call if it asks for one. An answer to a call that was given up
    /// is none.
    pub(super) fn receive(
        &mut self,
        call: u64,
        response: &Response,
        watch: &mut Invariants,
    ) -> Outcome<Option<(u64, Request)>> {
        let Some(open) = self.open.take_if(|open| open.call == call) else { return Ok(Ok(None)) };
        let done = match (response, open.cursor) {
            (Response::Polled(polled, roster), None) => self.news(polled, roster.as_ref(), watch),
            (Response::Taken | Response::Refused, Some(cursor)) => {
                self.cursor = cursor;
                Ok(None)
            }
            _ => {
                self.give_up();
                Ok(None)
            }
        };
        let failed = match done {
            Ok(None) => return Ok(Ok(None)),
            Ok(Some((said, cursor))) => {
                let call = self.begin(Some(cursor));
                return Ok(Ok(Some((call, Request::Submit(Rc::new(said))))));
            }
            Err(Failure::Leave(reason)) => self.leave(&reason).err(),
            Err(failure) => Some(failure),
        };
        match failed {
            None | Some(Failure::Leave(_)) => Ok(Ok(None)),
            Some(Failure::Halt(halt)) => Ok(Err(halt)),
            Some(Failure::Defect(error)) => Err(error),
        }
    }

    /// As the runner's turn: rosters first, then the round.
    fn news(
        &mut self,
        polled: &Polled,
        roster: Option<&Arc<Signed<Roster>>>,
        watch: &mut Invariants,
    ) -> Result<Option<(Said, String)>, Failure> {
        if polled.cursor == self.cursor {
            return Ok(None);
        }
        if let Some(earlier) = &polled.ledger {
            self.catch_up(earlier)?;
        }
        if let Some(signed) = roster.filter(|_| {
            polled.roster.is_some() && polled.roster != self.roster.as_ref().map(|r| r.digest())
        }) {
            self.take_roster(signed)?;
        }
        let said = match &polled.round {
            Some(view) => self.take_part(view.clone(), watch)?,
            None => None,
        };
        match said {
            Some(said) => Ok(Some((said, polled.cursor.clone()))),
            None => {
                self.cursor.clone_from(&polled.cursor);
                Ok(None)
            }
        }
    }

    /// As `runner/ledger.rs`: debits what an earlier READY knows and this directory does not.
    fn catch_up(&mut self, earlier: &Signed<Ready>) -> Result<(), Failure> {
        let own = earlier.verify(&self.key.verifying_key()).is_ok();
        let Some(head) = earlier.body.ledger.filter(|_| own) else { return Ok(()) };
        match self.state.ledger().gap(&head) {
            Ok(Some(rho)) if !self.is(Mutation::ForgetsLedger) => {
                let (round, entries) = (earlier.body.plan, head.entries);
                self.record(&[LocalEvent::LedgerBehind { round, entries, rho }.into()])
            }
            _ => Ok(()),
        }
    }

    fn take_roster(&mut self, signed: &Arc<Signed<Roster>>) -> Result<(), Failure> {
        let Ok(given) = self.root.roster(signed, self.now()) else { return Ok(()) };
        let follows = self.roster.as_ref().is_none_or(|seen| given.follows(seen).is_ok());
        if !follows {
            return Ok(());
        }
        self.disk.store()?;
        self.documents.insert(given.digest(), Arc::clone(signed));
        let (roster, version, members) = (given.digest(), given.version(), given.members().len());
        self.record(&[LocalEvent::RosterAccepted { roster, version, members }.into()])?;
        self.roster = Some(given);
        Ok(())
    }
}

// --- Its part in rounds --------------------------------------------------------------------------

impl Agent {
    /// Does everything that the view asks for and allows; gives what is to be sent.
    fn take_part(
        &mut self,
        mut view: RoundView,
        watch: &mut Invariants,
    ) -> Result<Option<Said>, Failure> {
        if let Some(earlier) = &self.held {
            view.complete_from(earlier);
        }
        let view = Arc::new(view);
        self.held = Some(Arc::clone(&view));
        loop {
            let Some(step) = self.step(&view)? else { return Ok(None) };
            let (Step { events, action }, reusable) = step;
            // Never written: what matters is that it is not when the statement leaves.
            let unwritten = self.is(Mutation::SendsBeforeSync)
                && !matches!(action, Action::Prepare | Action::Wait | Action::Finish);
            let mut adopted = None;
            if !unwritten {
                let noted: Vec<_> = events.iter().cloned().map(AgentEvent::from).collect();
                self.record(&noted)?;
                adopted = self.tidy(&events, reusable)?;
            }
            if action != Action::Prepare {
                return self.act(action, &view, watch);
            }
            self.prepare(&view, adopted, watch)?;
        }
    }

    /// Asks the machine; none if it refuses or this institution is not concerned.
    fn step(&mut self, view: &Arc<RoundView>) -> Result<Option<(Step, Reusable)>, Failure> {
        let Some(roster) = self.roster_for(view) else { return Ok(None) };
        let newest = self.roster.as_ref().map(VerifiedRoster::digest);
        let before = self.state.history().sent_roster(view.id().task.as_str());
        let before = before.filter(|named| Some(*named) != newest);
        let before = before.and_then(|named| self.roster_named(&named).ok());
        let (now, policy, empty) = (self.now(), &self.policy, Ledger::default());
        let overspends = self.is(Mutation::Overspends);
        let around = Surroundings {
            own: &self.name,
            roster: &roster,
            before: before.as_ref().unwrap_or(&roster),
            policy,
            ledger: if overspends { &empty } else { self.state.ledger() },
            now,
        };
        let old = self.state.history().reusable_input(&view.plan.body);
        let reusable =
            old.and_then(|old| Some((old.id().clone(), old.commitment()?, old.snapshot()?)));
        let stepped = match self.forgetful()? {
            Some(history) => history.step(view, around),
            None => self.state.history().step(view, around),
        };
        match stepped {
            Ok(step) => Ok(Some((step, reusable))),
            Err(refusal) => self.refuse(view, &refusal).map(|()| None),
        }
    }

    /// Everything but the sums that were voted for.
    fn forgetful(&self) -> Result<Option<History>, Failure> {
        if !self.is(Mutation::ForgetsSums) {
            return Ok(None);
        }
        let mut history =
            serde_json::to_value(self.state.history()).map_err(anyhow::Error::from)?;
        history["summed"] = json!([]);
        Ok(serde_json::from_value(history).map_err(anyhow::Error::from)?)
    }

    fn refuse(&mut self, view: &RoundView, refusal: &Refusal) -> Result<(), Failure> {
        let (round, plan, reason) = (view.id().clone(), view.plan.digest(), refusal.to_string());
        let conflict = matches!(refusal, Refusal::Conflict { .. });
        if conflict && self.state.knows_conflict(&round, &reason) {
            return Ok(());
        }
        if conflict && self.state.may_keep_conflict() {
            let evidence = Digest::of(reason.as_bytes());
            let seen = LocalEvent::ConflictSeen { round, plan, reason, evidence };
            return self.record(&[seen.into()]);
        }
        if self.state.knows_refusal(&plan, &reason) {
            return Ok(());
        }
        self.record(&[LocalEvent::Refused { round, plan, reason }.into()])
    }

    /// As the runner: the roster that the open attempt's plan names, or the newest; none if this
    /// institution is not on it.
    fn roster_for(&self, view: &RoundView) -> Option<VerifiedRoster> {
        let session = self.state.history().session();
        let session = session.filter(|session| !session.over() && session.id() == view.id());
        let named = session.map(|session| session.plan().roster);
        let named = named.and_then(|named| self.roster_named(&named).ok());
        let roster = named.or_else(|| self.roster.clone())?;
        let own = self.key.verifying_key();
        roster.member(&self.name, self.now()).is_some_and(|m| m.identity == own).then_some(roster)
    }

    /// As `part`: brings the files in line with what was just recorded.
    fn tidy(
        &mut self,
        events: &[SessionEvent],
        reusable: Reusable,
    ) -> Result<Option<(Digest, Digest)>, Failure> {
        let mut adopted = None;
        for event in events {
            self.disk.edge()?;
            match event {
                SessionEvent::PlanAccepted { plan } => {
                    let round = &plan.body.round;
                    if let Some((old, commitment, snapshot)) = &reusable
                        && let Some(input) = self.files.inputs.remove(old)
                        && input.commitment == *commitment
                    {
                        self.files.inputs.insert(round.clone(), input);
                        adopted = Some((*commitment, *snapshot));
                    }
                    self.files.retain(adopted.map(|_| round));
                }
                SessionEvent::RoundEnded {
                    round,
                    ending: Ending::Aborted | Ending::Abandoned { .. },
                }
                | SessionEvent::RoundLeft { round, .. } => {
                    self.files.secrets.remove(round);
                }
                SessionEvent::RoundEnded { .. } => self.files.retain(None),
                _ => {}
            }
        }
        Ok(adopted)
    }

    /// Fixes the input of the attempt: durable, then journaled, and only then its secrets drawn.
    fn prepare(
        &mut self,
        view: &RoundView,
        adopted: Option<(Digest, Digest)>,
        watch: &mut Invariants,
    ) -> Result<(), Failure> {
        let round = view.id().clone();
        let charges = self.charges(view, adopted.is_none())?;
        let (commitment, snapshot) = match adopted {
            Some(fixed) => fixed,
            None => {
                let words = self.words(view.plan.body.encoding.dimension());
                let mut salt = [0; 32];
                self.rng.fill_bytes(&mut salt);
                let commitment = Digest::of(&[&salt[..], &bytes(&words)].concat());
                watch.fixed(commitment, &words);
                self.disk.store()?;
                self.files.inputs.insert(round.clone(), Input { words, commitment });
                self.disk.edge()?;
                (commitment, self.records)
            }
        };
        if self.is(Mutation::DrawsFirst) {
            self.draw(&round, commitment, watch)?;
        }
        let round_of = round.clone();
        let committed = SessionEvent::Committed {
            round: round_of,
            commitment,
            snapshot,
            permitted: None,
            charges,
        };
        self.record(&[committed.into()])?;
        self.draw(&round, commitment, watch)
    }

    /// As `part`: what a fresh input costs, asked once more before it is made.
    fn charges(&self, view: &RoundView, fresh: bool) -> Result<Vec<Charge>, Failure> {
        let charges = architecture::charges(&view.plan.body);
        let charges = charges.map_err(|error| Failure::Leave(error.to_string()))?;
        let charges = charges.filter(|_| fresh).unwrap_or_default();
        if let Some(budget) = self.budget().filter(|_| !self.is(Mutation::Overspends)) {
            self.state.ledger().check(&charges, budget, self.now()).map_err(Failure::Leave)?;
        }
        Ok(if self.is(Mutation::ChargesNothing) { Vec::new() } else { charges })
    }

    /// Makes the statement that the action asks for, from the attempt's files.
    fn act(
        &mut self,
        action: Action,
        view: &Arc<RoundView>,
        watch: &mut Invariants,
    ) -> Result<Option<Said>, Failure> {
        if matches!(action, Action::Wait | Action::Finish) {
            return Ok(None);
        }
        let Some((plan, plan_digest, commitment)) = self.attempt() else { return Ok(None) };
        let round = plan.round.clone();
        let Some(rho) = self.files.secrets.get(&round).filter(|s| s.commitment == commitment)
        else {
            return Err(Failure::Leave("the secrets are missing or of another commitment".into()));
        };
        let secrets = RoundSecrets::derive(&Key::new(rho.rho), plan_digest.as_bytes());
        let (mut action, mut input) = (action, Vec::new());
        match &mut action {
            Action::Upload { context } => input = self.input(&round, commitment, *context)?,
            Action::Vote { outcome } => self.change_vote(outcome),
            _ => {}
        }
        let (institution, key, plan) = (&self.name, &self.key, &plan);
        let ledger = self.state.committed_head().copied();
        let speaker = Speaker { institution, key, plan, plan_digest, commitment };
        let said = match action {
            Action::Wait | Action::Finish | Action::Prepare => return Ok(None),
            Action::Ready => Said::Ready(speaker.ready(&secrets, ledger)),
            Action::Deal { list } => {
                let (header, body) = speaker.share(&secrets, view, list)?;
                Said::Share { header, body }
            }
            Action::Upload { context } => {
                let mut words = input.clone();
                if !self.is(Mutation::SendsBare) {
                    speaker.masker(&secrets, view, context)?.mask(0, &mut words);
                }
                let header = speaker.upload(context, Digest::of(&bytes(&words)));
                Said::Upload { header, words }
            }
            Action::Vote { outcome } => Said::Vote(speaker.vote(outcome)),
            Action::Reveal { certificate, context } => {
                let Voted::Survivors { survivors, .. } = certificate.outcome() else {
                    return Ok(None);
                };
                let survivors = self.revealed(*survivors);
                let list = statements_root(&view.list);
                let (header, pieces) = speaker.reveal(&secrets, view, list, context, &survivors)?;
                Said::Reveal { header, pieces }
            }
        };
        watch.sent(Sent {
            agent: self.index,
            durable: self.journal.len(),
            has_secrets: self.files.fit(&round, &commitment),
            said: said.clone(),
            view: Arc::clone(view),
            input,
        });
        self.disk.edge()?;
        Ok(Some(said))
    }

    fn attempt(&self) -> Option<(collegium_shared::protocol::Plan, Digest, Digest)> {
        let session = self.state.history().session()?;
        Some((session.plan().clone(), session.plan_digest(), session.commitment()?))
    }

    /// The input, if it is the one that was committed to.
    fn input(
        &mut self,
        round: &RoundId,
        commitment: Digest,
        context: Digest,
    ) -> Result<Vec<u32>, Failure> {
        let again = !self.sent.insert(("upload", context));
        let kept = self.files.inputs.get(round).filter(|input| input.commitment == commitment);
        let Some(words) = kept.map(|input| input.words.clone()) else {
            return Err(Failure::Leave("the input is missing or another".into()));
        };
        let anew = again && self.is(Mutation::ChangesInput);
        Ok(if anew { self.words(words.len()) } else { words })
    }

    fn change_vote(&mut self, outcome: &mut Voted) {
        let context = outcome.context();
        if !self.sent.insert(("vote", context)) && self.is(Mutation::VotesTwice) {
            *outcome = Voted::Abort { context };
        }
    }

    fn revealed(&self, survivors: Bitmap) -> Bitmap {
        let others = (0..u16::try_from(survivors.size()).unwrap_or(0))
            .filter(|place| !survivors.contains(*place));
        match Bitmap::of(survivors.size(), others) {
            Ok(others) if self.is(Mutation::RevealsOtherShare) => others,
            _ => survivors,
        }
    }
}
