//! The coordinator around its machines, without processes: what `driver`, `rpc` and `work` do with sockets,
//! threads and files is made again here over a simulated disk, in their order: step, one sync, then show,
//! answer, work. Decides nothing that the machines decide.

use std::{
    collections::{BTreeMap, BTreeSet},
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use anyhow::Context;
use collegium_coordinator::{
    aggregate::{self, AggregateError},
    draft,
    driver::Published,
    network::{Event, Network, NetworkEvent},
    round::{Admission, Message, Position, Refusal, Round, RoundEvent},
    task::{Candidate, Next, Opened, Release, TaskEnding, TaskSpec, Withheld},
    views,
};
use collegium_shared::{
    architecture::{self, Architecture, Sizes, Stage},
    clock::Timestamp,
    crypto::{Digest, SigningKey},
    ids::{InstitutionId, RoundId},
    params::Encoding,
    protocol::{Cohort, Ending, Manifest, Metrics, Phase, ShareBody},
    roster::{Member, RootKey, Roster},
    secagg::{self, SharePiece},
    signed::{Signed, Statement},
};

use super::{
    disk::{Disk, Halt, Journal},
    invariants::Invariants,
    mutations::Mutation,
    wire::{Request, Response, Said, bytes},
};

/// What the registry has, as far as private vectors depend on it.
const SIZES: Sizes = Sizes { items: 1, competencies: 1 };
/// The words of every other vector.
pub(super) const DIMENSION: u32 = 3;
/// How long an institution counts as there after it was heard.
const PRESENT: Duration = Duration::from_secs(60);

/// The cohort of every task.
pub(super) const COHORT: Cohort = Cohort { c_max: 1, min_honest: 2 };

/// A round's perishable files of one institution.
#[derive(Default)]
struct Spooled {
    share: Option<ShareBody>,
    upload: Option<Vec<u32>>,
    reveal: Option<Vec<SharePiece>>,
}

/// What a backup of the directory holds: a number of entries. Blobs are named by what they are and stay.
#[derive(Clone, Copy)]
pub(super) struct Backup(usize);

pub(super) struct Coordinator {
    key: SigningKey,
    root: RootKey,
    mutation: Option<Mutation>,
    // What lies on the disk.
    pub(super) disk: Disk,
    pub(super) journal: Journal<Event>,
    spool: BTreeMap<(RoundId, InstitutionId), Spooled>,
    rosters: BTreeMap<Digest, Arc<Signed<Roster>>>,
    pub(super) sums: BTreeMap<Digest, Vec<u32>>,
    pub(super) manifests: BTreeMap<Digest, Signed<Manifest>>,
    /// Entries of the backup that the directory was restored from and not started since.
    restored: Option<usize>,
    // What dies with the process.
    pub(super) published: Published,
    state: Published,
    uncommitted: bool,
    /// Of the last entry, and the clock's time when it was recorded.
    last_at: Timestamp,
    recorded: Timestamp,
    heard: BTreeMap<InstitutionId, Timestamp>,
    /// It waits for room.
    pub(super) stalled: bool,
    /// It did not come up, so that nobody is served.
    pub(super) closed: bool,
    // Around it.
    time: Timestamp,
    skew: i64,
}

/// A fault of the simulation itself, which nothing excuses.
pub(super) type Outcome<T> = anyhow::Result<Result<T, Halt>>;

/// Leaves a function on a halt of the node, as `?` does on an error.
macro_rules! go {
    ($done:expr) => {
        match $done {
            Ok(value) => value,
            Err(halt) => return Ok(Err(halt)),
        }
    };
}

// --- Its life ------------------------------------------------------------------------------------

impl Coordinator {
    pub(super) fn new(
        key: SigningKey,
        root: RootKey,
        time: Timestamp,
        mutation: Option<Mutation>,
    ) -> Self {
        Self {
            key,
            root,
            mutation,
            disk: Disk::default(),
            journal: Journal::default(),
            spool: BTreeMap::new(),
            rosters: BTreeMap::new(),
            sums: BTreeMap::new(),
            manifests: BTreeMap::new(),
            restored: None,
            published: Published::default(),
            state: Published::default(),
            uncommitted: false,
            last_at: Timestamp::EPOCH,
            recorded: time,
            heard: BTreeMap::new(),
            stalled: false,
            closed: false,
            time,
            skew: 0,
        }
    }

    /// The world's time moved on.
    pub(super) fn tell(&mut self, time: Timestamp) {
        self.time = time;
    }

    pub(super) fn set_skew(&mut self, seconds: i64) {
        self.skew = seconds;
    }

    /// Time never goes back nor stands still, whatever the clock does.
    fn now(&self) -> Timestamp {
        let clock = Timestamp::from_millis(self.time.as_millis() + 1_000 * self.skew);
        clock.max(self.last_at + self.time.since(self.recorded))
    }

    /// Starts after the process before it died, and goes on dying until it is up.
    pub(super) fn restart(&mut self, torn: u8) -> anyhow::Result<()> {
        let torn = torn.max(self.disk.torn());
        self.journal.reopen(torn);
        if self.is(Mutation::LosesEntry) {
            self.journal.go_back(self.journal.len().saturating_sub(1))?;
        }
        match self.start()? {
            Ok(()) => Ok(()),
            Err(Halt::Full) => {
                self.stall();
                Ok(())
            }
            Err(Halt::Died) => {
                let torn = self.disk.torn();
                self.restart(torn)
            }
        }
    }

    fn start(&mut self) -> Outcome<()> {
        (self.stalled, self.closed) = (false, true);
        go!(self.disk.edge());
        let mut network = Network::default();
        self.last_at = Timestamp::EPOCH;
        for entry in self.journal.read(0)? {
            network.apply(&entry.event, entry.at);
            self.last_at = entry.at;
        }
        (self.recorded, self.uncommitted) = (self.time, false);
        self.heard.clear();
        self.state = Published { network: Arc::new(network), ..Published::default() };
        self.load_roster()?;
        self.published = self.state.clone();
        if let Some(entries) = self.restored {
            if self.journal.len() == entries {
                self.record_restoration(entries)?;
                go!(self.journal.commit(&mut self.disk));
                self.uncommitted = false;
            }
            go!(self.disk.store());
            self.restored = None;
            self.published = self.state.clone();
        }
        if self.state.network.open_round().is_some() {
            self.record(Event::Round(RoundEvent::Resumed))?;
        }
        go!(self.settle()?);
        self.closed = false;
        Ok(Ok(()))
    }

    /// As `driver/restored.rs`: what was open is over.
    fn record_restoration(&mut self, entries: usize) -> anyhow::Result<()> {
        let restored =
            NetworkEvent::Restored { backup_root: Digest::of(b"backup"), size: entries as u64 };
        self.record(Event::Network(restored))?;
        let reason = "restored from a backup".to_owned();
        if self.state.network.open_round().is_some() {
            let ending = Ending::Abandoned { reason: reason.clone() };
            self.record(Event::Round(RoundEvent::Ended { ending }))?;
        }
        if self.state.network.task().is_some_and(|task| task.ending().is_none()) {
            let ending = TaskEnding::Failed { reason };
            self.record(Event::Network(NetworkEvent::TaskEnded { ending }))?;
        }
        Ok(())
    }

    fn load_roster(&mut self) -> anyhow::Result<()> {
        let Some(in_force) = self.state.network.roster() else { return Ok(()) };
        let signed = self.rosters.get(&in_force.document).context("a roster is missing")?;
        self.state.roster = Some(Arc::new(self.root.roster_at_rest(signed)?));
        Ok(())
    }

    /// There is no room: what is not durable is forgotten, what is durable is still shown.
    pub(super) fn stall(&mut self) {
        self.stalled = true;
        self.journal.reopen(0);
        self.state = self.published.clone();
        self.uncommitted = false;
    }

    pub(super) fn backup(&self) -> Backup {
        Backup(self.journal.len())
    }

    /// Puts a backup in the place of the directory; the next start says so.
    pub(super) fn restore(&mut self, Backup(entries): Backup) -> anyhow::Result<()> {
        self.journal.go_back(entries)?;
        self.spool.clear();
        self.restored = Some(entries);
        Ok(())
    }

    fn is(&self, mutation: Mutation) -> bool {
        self.mutation == Some(mutation)
    }

    // --- The owner -------------------------------------------------------------------------------

    /// Appends an event and folds it. Visible to others only after the next commit.
    fn record(&mut self, event: Event) -> anyhow::Result<()> {
        let at = self.now();
        self.disk.touch();
        self.journal.append(at, &event)?;
        let late = self.is(Mutation::FoldsAnotherTime);
        let at = if late { at + Duration::from_millis(1) } else { at };
        Arc::make_mut(&mut self.state.network).apply(&event, at);
        (self.last_at, self.recorded, self.uncommitted) = (at, self.time, true);
        if matches!(event, Event::Network(NetworkEvent::RosterImported { .. })) {
            self.load_roster()?;
        }
        Ok(())
    }

    /// Steps everything that is due, commits, and shows the new state.
    pub(super) fn settle(&mut self) -> Outcome<()> {
        while self.advance()? {}
        if self.uncommitted {
            if self.is(Mutation::ShowsBeforeSync) {
                self.published = self.state.clone();
                self.uncommitted = false;
                return Ok(Ok(()));
            }
            go!(self.journal.commit(&mut self.disk));
            self.uncommitted = false;
            self.published = self.state.clone();
            go!(self.disk.edge());
        }
        let open = self.state.network.open_round().map(|round| round.plan().round.clone());
        self.spool.retain(|(round, _), _| Some(round) == open.as_ref());
        Ok(Ok(()))
    }

    /// One thing that completeness, the clock or the task makes happen; false if there is none.
    fn advance(&mut self) -> anyhow::Result<bool> {
        let now = if self.is(Mutation::IgnoresClock) { Timestamp::EPOCH } else { self.now() };
        let network = &self.state.network;
        if let Some(round) = network.open_round() {
            let (votes, needed) = round.progress();
            let early = self.is(Mutation::CertifiesEarly)
                && round.phase() == Phase::Vote
                && votes + 1 == needed;
            let due = if early { Some(RoundEvent::Certified) } else { round.due(now) };
            let Some(event) = due else { return Ok(false) };
            let again = matches!(event, RoundEvent::Ended { .. }) && self.is(Mutation::EndsAgain);
            if again {
                self.record(Event::Round(event.clone()))?;
            }
            self.record(Event::Round(event))?;
            return Ok(true);
        }
        let event = match network.task().and_then(|task| task.next()) {
            Some(Next::End(ending)) => Event::Network(NetworkEvent::TaskEnded { ending }),
            Some(Next::Round(stage)) => match self.draft(stage)? {
                Some(event) => event,
                None => return Ok(false),
            },
            Some(Next::Initialise | Next::Digest(_)) | None => return Ok(false),
        };
        self.record(event)?;
        Ok(true)
    }

    /// As the owner's `draft`: the plan, once enough members are there.
    fn draft(&self, stage: Stage) -> anyhow::Result<Option<Event>> {
        let (network, now) = (&self.state.network, self.now());
        let (Some(task), Some(roster)) = (network.task(), &self.state.roster) else {
            return Ok(None);
        };
        if roster.expires_at() <= now {
            return Ok(None);
        }
        let expected = draft::expected(network, task, roster, now);
        let n_min = task.cohort().n_min();
        if expected.len() < n_min {
            if task.excluded().is_empty() {
                return Ok(None);
            }
            let ending = TaskEnding::Failed { reason: AggregateError::TooFewLeft.to_string() };
            return Ok(Some(Event::Network(NetworkEvent::TaskEnded { ending })));
        }
        let here = |name: &InstitutionId| {
            self.heard.get(name).is_some_and(|heard| self.time.since(*heard) < PRESENT)
        };
        let away: BTreeSet<_> = expected.iter().filter(|name| !here(name)).cloned().collect();
        if expected.len() - away.len() < n_min {
            return Ok(None);
        }
        let (hyper, most) = (&task.spec().hyper, u32::try_from(expected.len())?);
        let encoding = match hyper.privacy {
            Some(_) => architecture::encoding(&stage, hyper, SIZES, most)?,
            None => Encoding::new([("x", DIMENSION, 1.0)], most)?,
        };
        let plan = draft::plan(network, task, roster, (stage, &expected), (encoding, None), now);
        let plan = Box::new(Signed::sign(plan, &self.key));
        Ok(Some(Event::Round(RoundEvent::Planned { plan, expected, away })))
    }
}

// --- Calls ---------------------------------------------------------------------------------------

impl Coordinator {
    /// Answers one call that came over the channel of `from`.
    pub(super) fn serve(
        &mut self,
        from: &InstitutionId,
        request: &Request,
        watch: &mut Invariants,
    ) -> Outcome<Response> {
        match request {
            _ if self.closed => Ok(Ok(Response::Unavailable)),
            Request::Poll { cursor, held } => {
                self.heard.insert(from.clone(), self.time);
                if !self.stalled {
                    // Somebody who was waited for may be here.
                    go!(self.settle()?);
                }
                Ok(Ok(self.answer(from, cursor, held.as_ref())?))
            }
            Request::Submit(_) if self.stalled => Ok(Ok(Response::Unavailable)),
            Request::Submit(said) => {
                let trusting = self.is(Mutation::BelievesNames);
                let channel = if trusting { said.names().clone() } else { from.clone() };
                watch.arrived(from, said.mark());
                let taken = go!(self.take(&channel, said)?);
                if taken && self.is(Mutation::AnswersBeforeSync) {
                    watch.acknowledged(from, said.mark());
                    return Ok(Ok(Response::Taken));
                }
                go!(self.settle()?);
                if !taken {
                    return Ok(Ok(Response::Refused));
                }
                if !trusting {
                    watch.acknowledged(from, said.mark());
                }
                go!(self.disk.edge());
                Ok(Ok(Response::Taken))
            }
        }
    }

    fn answer(
        &self,
        from: &InstitutionId,
        cursor: &str,
        held: Option<&(RoundId, Phase)>,
    ) -> anyhow::Result<Response> {
        let published = &self.published;
        let dealings = match views::round_of(published, from) {
            Some(round) if views::needs_dealings(round, held) => Some(self.dealings(round)?),
            _ => None,
        };
        let mut polled = views::answer(published, from, held, dealings.as_ref());
        let planned = polled.round.as_ref().is_some_and(|round| round.phase == Phase::Ready);
        if cursor.is_empty() || planned {
            polled.ledger = published.network.ledger(from).cloned();
        }
        if polled.cursor == cursor {
            // The real call would wait; here it comes back with nothing new.
            polled.round = None;
        }
        let roster = published.network.roster();
        let roster = roster.and_then(|in_force| self.rosters.get(&in_force.document)).cloned();
        Ok(Response::Polled(Rc::new(polled), roster))
    }

    fn dealings(&self, round: &Round) -> anyhow::Result<views::Dealings> {
        let id = &round.plan().round;
        let body = |(position, header): (&Position, &Signed<_>)| {
            let header: &collegium_shared::protocol::ShareHeader = &header.body;
            let spooled = self.spool.get(&(id.clone(), header.institution.clone()));
            let body = spooled.and_then(|spooled| spooled.share.clone());
            Ok((*position, body.context("a dealing is missing")?))
        };
        Ok(Arc::new(round.dealt().iter().map(body).collect::<anyhow::Result<Vec<_>>>()?))
    }

    /// As `rpc`: what the shown state rules out is refused, a body is kept before its statement, and then
    /// the owner decides. True if the statement is in the log, or on its way.
    fn take(&mut self, from: &InstitutionId, said: &Said) -> Outcome<bool> {
        let Some(message) = self.message(from, said)? else { return Ok(Ok(false)) };
        let Some(round) = self.published.network.open_round() else { return Ok(Ok(false)) };
        let id = round.plan().round.clone();
        let members = self.published.roster.iter().flat_map(|roster| roster.members());
        let Some(key) = members.into_iter().find(|m| m.institution == *from).map(|m| m.identity)
        else {
            return Ok(Ok(false));
        };
        match round.admit(from, &key, &message) {
            Ok(Admission::Accept(_)) => go!(self.keep_body(id, from, said)),
            Ok(Admission::Known) | Err(Refusal::Equivocation { .. }) => {}
            Err(_) => return Ok(Ok(false)),
        }
        Ok(Ok(self.submit(from, &message)?))
    }

    fn message(&self, from: &InstitutionId, said: &Said) -> anyhow::Result<Option<Message>> {
        let Some(round) = self.published.network.open_round() else { return Ok(None) };
        Ok(Some(match said {
            Said::Ready(ready) => Message::Ready(ready.clone()),
            Said::Share { header, body } => {
                Message::Share { header: header.clone(), body: body.clone() }
            }
            Said::Upload { header, words } => {
                let taken = round.position(from).is_some_and(|p| round.uploads().contains_key(&p));
                let whole = Digest::of(&bytes(words));
                let upload = if taken { header.body.upload } else { whole };
                Message::Upload { header: header.clone(), upload }
            }
            Said::Vote(vote) => Message::Vote(vote.clone()),
            Said::Reveal { .. } if round.phase() < Phase::Reveal => return Ok(None),
            Said::Reveal { header, pieces } => {
                let dealings = self.dealings(round)?;
                let leaves = |dealer: Position| {
                    let found = dealings.iter().find(|(d, _)| *d == dealer);
                    found.map(|(_, body)| body.leaves.as_slice())
                };
                let fits = round.fits(from, pieces, leaves);
                Message::Reveal { header: header.clone(), pieces: pieces.clone(), fits }
            }
        }))
    }

    fn keep_body(&mut self, id: RoundId, from: &InstitutionId, said: &Said) -> Result<(), Halt> {
        let spooled = |spool: &mut BTreeMap<(RoundId, InstitutionId), Spooled>| {
            std::mem::take(spool.entry((id.clone(), from.clone())).or_default())
        };
        let mut files = match said {
            Said::Ready(_) | Said::Vote(_) => return Ok(()),
            _ => {
                self.disk.store()?;
                spooled(&mut self.spool)
            }
        };
        match said {
            Said::Ready(_) | Said::Vote(_) => {}
            Said::Share { body, .. } => files.share = Some(body.clone()),
            Said::Upload { words, .. } => files.upload = Some(words.clone()),
            Said::Reveal { pieces, .. } => files.reveal = Some(pieces.clone()),
        }
        self.spool.insert((id.clone(), from.clone()), files);
        self.disk.edge()
    }

    /// As the owner's `submit`.
    fn submit(&mut self, from: &InstitutionId, message: &Message) -> anyhow::Result<bool> {
        let Some(round) = self.state.network.open_round() else { return Ok(false) };
        let now = self.now();
        let roster = self.state.roster.as_ref();
        let Some(member) = roster.and_then(|roster| roster.member(from, now)) else {
            return Ok(false);
        };
        let event = match round.admit(from, &member.identity, message) {
            Ok(Admission::Known) => return Ok(true),
            Ok(Admission::Accept(event)) => Event::Round(*event),
            Err(Refusal::Equivocation { phase, .. }) => {
                let id = round.plan().round.clone();
                match (message, self.is(Mutation::TakesContradiction)) {
                    (Message::Ready(ready), true) => {
                        Event::Round(RoundEvent::Ready { ready: ready.clone() })
                    }
                    _ if self.state.network.knows_equivocation(from, &id, phase) => {
                        return Ok(false);
                    }
                    _ => {
                        self.record(Event::Network(NetworkEvent::Equivocated {
                            institution: from.clone(),
                            round: id,
                            phase,
                            statement: message.statement(),
                        }))?;
                        return Ok(false);
                    }
                }
            }
            Err(_) => return Ok(false),
        };
        self.record(event)?;
        Ok(true)
    }
}

// --- What is computed ------------------------------------------------------------------------------

impl Coordinator {
    /// What other threads compute is done, if there was anything.
    pub(super) fn work(&mut self) -> Outcome<()> {
        go!(self.disk.edge());
        if let Some(round) = self.state.network.open_round() {
            if round.phase() == Phase::Open {
                let ending = match self.open_sum(round) {
                    Ok(words) => {
                        let sum = Digest::of(&bytes(&words));
                        go!(self.disk.store());
                        self.sums.insert(sum, words);
                        Ending::Released { sum }
                    }
                    Err(AggregateError::BadDealer(dealer)) => Ending::Failed { dealer },
                    Err(error) => Ending::Abandoned { reason: error.to_string() },
                };
                self.record(Event::Round(RoundEvent::Ended { ending }))?;
            }
            return self.settle();
        }
        match self.state.network.task().and_then(|task| task.next()) {
            Some(Next::Initialise) => {
                let candidate = self.candidate(0, None);
                self.record(Event::Network(NetworkEvent::ModelStepped { candidate }))?;
            }
            Some(Next::Digest(opened)) => go!(self.digested(&opened)?),
            Some(Next::Round(_) | Next::End(_)) | None => {}
        }
        self.settle()
    }

    /// As `aggregate::open_sum`, from uploads in memory: folds them and takes the masks off.
    fn open_sum(&self, round: &Round) -> Result<Vec<u32>, AggregateError> {
        let gone = || AggregateError::Inconsistent("a file of the round is gone");
        let id = &round.plan().round;
        let file =
            |who: &InstitutionId| self.spool.get(&(id.clone(), who.clone())).ok_or_else(gone);
        let mut words = vec![0; round.plan().encoding.dimension()];
        let twice = usize::from(self.is(Mutation::FoldsTwice));
        for (place, header) in round.uploads().values().enumerate() {
            let upload = file(&header.body.institution)?.upload.as_ref().ok_or_else(gone)?;
            if Digest::of(&bytes(upload)) != header.body.upload {
                return Err(AggregateError::Inconsistent("an upload was changed"));
            }
            for _ in 0..=(if place == 0 { twice } else { 0 }) {
                let unequal = |_| AggregateError::Inconsistent("an upload of another length");
                secagg::fold(&mut words, upload).map_err(unequal)?;
            }
        }
        let leaves = |(&dealer, header): (&Position, &Signed<_>)| {
            let header: &collegium_shared::protocol::ShareHeader = &header.body;
            let share = file(&header.institution)?.share.as_ref().ok_or_else(gone)?;
            Ok((dealer, share.leaves.clone()))
        };
        let leaves =
            round.dealt().iter().map(leaves).collect::<Result<Vec<_>, AggregateError>>()?;
        let revealed = |(&holder, header): (&Position, &Signed<_>)| {
            let header: &collegium_shared::protocol::RevealHeader = &header.body;
            let pieces = file(&header.institution)?.reveal.clone().ok_or_else(gone)?;
            Ok((holder, pieces))
        };
        let revealed =
            round.reveals().iter().map(revealed).collect::<Result<Vec<_>, AggregateError>>()?;
        aggregate::unmasker(round, &leaves, revealed)?.unmask(0, &mut words);
        Ok(words)
    }

    fn candidate(&self, step: u32, opened: Option<&Opened>) -> Candidate {
        let task = self.state.network.task().map(|task| task.spec().task.to_string());
        let name = format!("{}-{step}", task.unwrap_or_default());
        Candidate {
            step,
            weights: Digest::of_parts("weights", &[name.as_bytes()]),
            start: Digest::of_parts("start", &[name.as_bytes()]),
            moments: Vec::new(),
            layout: Digest::of(b"layout"),
            made: opened.map(|opened| opened.made.clone()),
        }
    }

    /// As `driver/errands.rs`: the release of the model that the sum evaluated, and the next one.
    fn digested(&mut self, opened: &Opened) -> Outcome<()> {
        let Some(task) = self.state.network.task() else { return Ok(Ok(())) };
        let step = task.candidate().map_or(0, |candidate| candidate.step);
        let private = task.spec().hyper.privacy.is_some();
        let evaluates = task.spec().architecture == Architecture::KtLogistic1
            && !(private && matches!(opened.stage, Stage::Train { .. }));
        if evaluates && !task.evaluated(step) {
            // Now better, now worse than what was released before.
            let log_loss = Some(0.5 + f64::from(opened.sum.as_bytes()[0]) / 1_000.0);
            let metrics = Metrics { responses: 1, auc: Some(0.5), log_loss };
            let judged = task.judge(&metrics, None);
            let event = match (task.manifest(metrics, self.now()), judged) {
                (None, _) => NetworkEvent::StartEvaluated { metrics },
                (Some(_), Err(reason)) => {
                    NetworkEvent::ModelWithheld { withheld: Withheld { step, metrics, reason } }
                }
                (Some(mut manifest), Ok(())) => {
                    if self.is(Mutation::ForgetsLineage) && manifest.parent.take().is_none() {
                        manifest.uploads.pop();
                    }
                    let signed = Signed::sign(manifest, &self.key);
                    let (manifest, version) = (signed.body.digest(), signed.body.version);
                    go!(self.disk.store());
                    self.manifests.insert(manifest, signed);
                    NetworkEvent::ModelReleased {
                        release: Release { version, manifest, metrics, card: None },
                    }
                }
            };
            self.record(Event::Network(event))?;
        }
        let event = match opened.stage {
            Stage::Train { step } => {
                NetworkEvent::ModelStepped { candidate: self.candidate(step, Some(opened)) }
            }
            Stage::Evaluate => match self.state.network.task() {
                Some(task) => NetworkEvent::TaskEnded { ending: task.conclusion() },
                None => return Ok(Ok(())),
            },
            _ => return Ok(Ok(())),
        };
        self.record(Event::Network(event))?;
        Ok(Ok(()))
    }

    // --- Operators -------------------------------------------------------------------------------

    /// The operator starts a task, if none runs.
    pub(super) fn start_task(&mut self, spec: TaskSpec, registry: Digest) -> Outcome<bool> {
        let running = self.state.network.task().is_some_and(|task| task.ending().is_none());
        if running || self.stalled {
            return Ok(Ok(false));
        }
        self.record(Event::Network(NetworkEvent::TaskStarted { spec, cohort: COHORT, registry }))?;
        go!(self.settle()?);
        Ok(Ok(true))
    }

    /// The institutions enrol with their tokens spent, and the roster that the root signed comes into
    /// force. It adds members and changes no key, so it waits for nothing.
    pub(super) fn admit_members(
        &mut self,
        members: &[Member],
        signed: &Arc<Signed<Roster>>,
    ) -> Outcome<()> {
        for member in members {
            let institution = member.institution.clone();
            if self.state.network.institutions().contains_key(&institution) {
                continue;
            }
            let token_sha256 = Digest::of(institution.as_str().as_bytes());
            let (legal_entity, expires_at) = (member.legal_entity.clone(), member.valid_until);
            self.record(Event::Network(NetworkEvent::Invited {
                institution: institution.clone(),
                legal_entity,
                token_sha256,
                expires_at,
            }))?;
            self.record(Event::Network(NetworkEvent::Enrolled {
                institution,
                identity: member.identity,
                tls_key: token_sha256,
                token_sha256,
                certificate_expires_at: expires_at,
                authority: None,
            }))?;
        }
        let roster = self.root.roster_at_rest(signed)?;
        go!(self.disk.store());
        self.rosters.insert(roster.digest(), Arc::clone(signed));
        self.record(Event::Network(NetworkEvent::RosterImported {
            document: roster.digest(),
            roster: roster.digest(),
            version: roster.version(),
            members: members.len(),
            identities: BTreeMap::new(),
        }))?;
        self.settle()
    }

    /// The version of the roster in force; 0 without one.
    pub(super) fn roster_version(&self) -> u64 {
        self.state.network.roster().map_or(0, |in_force| in_force.version)
    }

    /// The newest task, if it is under way.
    pub(super) fn runs_a_task(&self) -> bool {
        self.state.network.task().is_some_and(|task| task.ending().is_none())
    }
}
