//! The one owner of the coordinator's state. It drains its queue, steps the machines, makes the
//! events durable with one fsync, and only then answers, publishes the new state and starts work.
//! Everything else holds a [`Handle`]. If the journal refuses an event, the process stops: nothing
//! that is not durable is ever acknowledged.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    path::{Path, PathBuf},
    pin::Pin,
    sync::Arc,
    time::Duration,
};

use collegium_proto::convert::IdentityStep;
use collegium_shared::{
    architecture,
    blobs::Blobs,
    clock::{Clock, Timestamp},
    credentials::Authorities,
    crypto::{self, Digest, Signature, SigningKey, VerifyingKey},
    faults,
    ids::{InstitutionId, RoundId},
    journal::{Entry, JournalError, Log},
    protocol::{Cohort, Phase, Plan},
    roster::{Registry, VerifiedRoster},
    signed::Signed,
    storage::{self, Ended, Storage},
};
use thiserror::Error;
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::Instant,
};

use self::{erasure::Erasure, recovery::Recovered};
use crate::{
    accumulator::Accumulator,
    admin::{self, AdminRequest},
    aggregate::{self, AggregateError},
    ca::{Ca, InForce},
    config::Config,
    credentials::{NotHeard, RenewalError, RenewalRequest},
    draft,
    enrol::CheckedEnrolment,
    identities::IdentityError,
    listener::Peer,
    metrics::Meters,
    network::{Enrolled, Event, Network, NetworkEvent},
    presence::Presence,
    round::{Admission, Message, Refusal, RoundEvent},
    signing,
    spool::{Spool, SpoolError},
    status,
    store::{Snapshot, Store},
    task::{Asked, Next, TaskEnding},
    waiting,
    work::{Done, Workshop},
};

mod bias;
mod erasure;
mod errands;
mod evaluation;
mod recovery;
mod release;
mod restored;

/// Requests that wait for the owner at most; more callers wait in line.
const QUEUE: usize = 1_024;
/// Journal entries between two snapshots of the view. A snapshot holds the whole open round, a megabyte and
/// more with hundreds of institutions; a start reads every entry anyway, and folds those that came after.
const SNAPSHOT_EVERY: u64 = 4_096;

/// Why a request was not carried out.
#[derive(Debug, Error)]
pub enum DriverError {
    #[error("{0} is not a member of the current roster")]
    NotAMember(InstitutionId),
    #[error("there is no open round")]
    NoRound,
    #[error(transparent)]
    Refused(#[from] Refusal),
    #[error("the token is {0}; ask the coordinator's operator for a new invitation")]
    Token(&'static str),
    #[error("the consortium's root is not known here yet; run: collegium-coordinator root trust")]
    NoRoot,
    #[error("the certificate could not be issued: {0}")]
    Certificate(#[from] crate::ca::CaError),
    #[error(transparent)]
    NotHeard(#[from] NotHeard),
    #[error(transparent)]
    Renewal(#[from] RenewalError),
    #[error(transparent)]
    Identity(#[from] IdentityError),
    #[error("the coordinator is shutting down, or its storage is in trouble; ask again")]
    Stopping,
    #[error("the coordinator's storage is full or failing; its operator's log says where")]
    NoRoom,
}

/// What an institution gets for its token.
pub struct Enrolment {
    pub certificate_pem: String,
    pub root: VerifyingKey,
}

enum Command {
    Enrol(Box<CheckedEnrolment>, oneshot::Sender<Result<Enrolment, DriverError>>),
    Renew(Box<RenewalRequest>, oneshot::Sender<Result<String, RenewalError>>),
    CertificateUsed(Peer),
    ReplaceIdentity(InstitutionId, IdentityStep, oneshot::Sender<Result<(), IdentityError>>),
    Submit(InstitutionId, Box<Message>, oneshot::Sender<Result<(), DriverError>>),
    Admin(AdminRequest, oneshot::Sender<Result<serde_json::Value, String>>),
    Worked(Box<Done>),
    /// The files of all rounds but this one were to be erased.
    Erased(Option<RoundId>, Result<(), SpoolError>),
}

/// What everybody may read: the durable state and the documents in force.
#[derive(Clone, Default)]
pub struct Published {
    pub network: Arc<Network>,
    pub roster: Option<Arc<VerifiedRoster>>,
    pub registry: Option<Arc<Registry>>,
    /// The certificate authorities in force, once the first one was replaced.
    pub authorities: Option<Arc<Signed<Authorities>>>,
    /// By the signing key in force, for the newest release if a key before it signed that.
    pub countersigned: Option<(Digest, Signature)>,
}

/// The way to the owner. Cheap to clone.
#[derive(Clone)]
pub struct Handle {
    commands: mpsc::Sender<Command>,
    published: watch::Receiver<Published>,
    pub workshop: Workshop,
    /// Who is there.
    pub presence: Presence,
    pub ca: InForce,
    pub clock: Clock,
    pub meters: Meters,
}

impl Handle {
    pub fn published(&self) -> Published {
        self.published.borrow().clone()
    }

    /// Wakes whenever something durable has changed.
    pub fn watch(&self) -> watch::Receiver<Published> {
        self.published.clone()
    }

    pub async fn enrol(&self, request: CheckedEnrolment) -> Result<Enrolment, DriverError> {
        self.ask(|reply| Command::Enrol(Box::new(request), reply)).await?
    }

    /// A certificate in PEM in place of the caller's; recorded when this returns.
    pub async fn renew(&self, request: RenewalRequest) -> Result<String, DriverError> {
        Ok(self.ask(|reply| Command::Renew(Box::new(request), reply)).await??)
    }

    /// A renewed certificate was shown for the first time. If the owner is too busy to note it now,
    /// the next call says it again.
    pub fn certificate_used(&self, peer: Peer) {
        drop(self.commands.try_send(Command::CertificateUsed(peer)));
    }

    /// Takes a step of an institution towards another identity key; recorded when this returns.
    pub async fn replace_identity(
        &self,
        institution: InstitutionId,
        step: IdentityStep,
    ) -> Result<(), DriverError> {
        Ok(self.ask(|reply| Command::ReplaceIdentity(institution, step, reply)).await??)
    }

    /// Hands in a member's message; durable when this returns.
    pub async fn submit(&self, from: InstitutionId, message: Message) -> Result<(), DriverError> {
        self.ask(|reply| Command::Submit(from, Box::new(message), reply)).await?
    }

    /// Carries out an operator's request.
    pub async fn admin(&self, request: AdminRequest) -> Result<serde_json::Value, String> {
        let answer = self.ask(|reply| Command::Admin(request, reply)).await;
        answer.map_err(|error| error.to_string())?
    }

    async fn ask<T>(
        &self,
        command: impl FnOnce(oneshot::Sender<T>) -> Command,
    ) -> Result<T, DriverError> {
        let (reply, answer) = oneshot::channel();
        self.commands.send(command(reply)).await.map_err(|_| DriverError::Stopping)?;
        answer.await.map_err(|_| DriverError::Stopping)
    }
}

/// The owner.
pub struct Driver {
    dir: PathBuf,
    /// The log's.
    origin: String,
    pub(crate) clock: Clock,
    pub(crate) key: SigningKey,
    pub(crate) ca: InForce,
    log: Log<Event>,
    store: Option<Store>,
    snapshot_at: u64,
    /// Of the last entry, and when it was recorded: time never goes back nor stands still, whatever the
    /// clock does.
    last_at: Timestamp,
    recorded: Instant,
    pub(crate) state: Published,
    uncommitted: bool,
    publish: watch::Sender<Published>,
    commands: mpsc::Receiver<Command>,
    worker: mpsc::Sender<Command>,
    pub(crate) workshop: Workshop,
    pub(crate) presence: Presence,
    /// What the task was last seen to wait for.
    pub(crate) waiting: Option<String>,
    /// When each institution last handed its identity key over to another one.
    pub(crate) handed_over: BTreeMap<InstitutionId, Timestamp>,
    /// When each institution's certificate was last renewed.
    pub(crate) issued: BTreeMap<InstitutionId, Timestamp>,
    /// The version of the waiting roster of which it was logged that it cannot come into force.
    pub(crate) stuck_roster: Option<u64>,
    /// The waiting registry of which the same was logged.
    pub(crate) stuck_registry: Option<Digest>,
    meters: Meters,
    accumulator: Option<Accumulator>,
    working: bool,
    /// Files are being erased.
    erasing: bool,
    /// The open round when files were last erased, or were to be.
    tidied: Option<Option<RoundId>>,
    erasure: Erasure,
}

const NO_RANDOMNESS: &str = "the system gives no random numbers to draw groups by";

/// What a round begins with.
enum Draft {
    /// A plan, who is expected, and who of them is not waited for.
    Round(Box<Plan>, BTreeSet<InstitutionId>, BTreeSet<InstitutionId>),
    /// Who is summed with whom is drawn first.
    Groups(Vec<BTreeSet<InstitutionId>>),
}

/// Answers that wait until what they say is durable.
type Replies = Vec<Box<dyn FnOnce() + Send>>;

// --- Start and loop ----------------------------------------------------------------------------

impl Driver {
    /// Opens the directory: journal, view, blobs, keys. Replays what the view has not seen.
    pub fn open(dir: &Path, config: &Config, clock: Clock) -> anyhow::Result<(Self, Handle)> {
        signing::files(dir).finish(&dir.join("journal"))?;
        let key = SigningKey::load(&dir.join(crate::SIGNING_KEY))?;
        let signer = SigningKey::load(&dir.join(crate::SIGNING_KEY))?;
        let log = Log::open(&dir.join("journal"), &config.origin, signer)?;
        let store = Store::open(&dir.join("view"))
            .inspect_err(|error| tracing::warn!(%error, "going on without the view"))
            .ok();
        let Recovered { network, retention, last_at } = recovery::recover(&log, store.as_ref())?;
        let workshop = Workshop {
            blobs: Blobs::open(&dir.join("blobs"))?,
            spool: Spool::open(&dir.join("rounds"))?,
            kept: config.limits.uploads_kept(),
        };
        let (worker, commands) = mpsc::channel(QUEUE);
        let (publish, published) = watch::channel(Published::default());
        let presence = Presence::new(clock.clone(), config.poll_patience());
        let ca = InForce::new(Ca::load(dir)?);
        let meters = Meters::default();
        meters.opened(log.len());
        let handle = Handle {
            commands: worker.clone(),
            published,
            workshop: workshop.clone(),
            presence: presence.clone(),
            ca: ca.clone(),
            clock: clock.clone(),
            meters: meters.clone(),
        };
        let mut driver = Self {
            dir: dir.to_owned(),
            origin: config.origin.clone(),
            clock,
            key,
            ca,
            snapshot_at: log.len(),
            log,
            store,
            last_at,
            recorded: Instant::now(),
            state: Published { network: Arc::new(network), ..Published::default() },
            uncommitted: false,
            publish,
            commands,
            worker,
            workshop,
            presence,
            waiting: None,
            handed_over: BTreeMap::new(),
            issued: BTreeMap::new(),
            stuck_roster: None,
            stuck_registry: None,
            meters,
            accumulator: None,
            working: false,
            erasing: false,
            tidied: None,
            erasure: Erasure::new(retention),
        };
        driver.load_documents()?;
        restored::record(&mut driver, dir)?;
        signing::files(dir).destroy_previous()?;
        driver.go_over()?;
        driver.sign_authorities();
        driver.countersign();
        driver.publish.send_replace(driver.state.clone());
        Ok((driver, handle))
    }

    /// Serves requests until `shutdown`, or until the journal refuses an event. If that is for want of
    /// room, it ends when there is room again, so that everything is opened anew.
    pub async fn run(
        mut self,
        storage: Storage,
        shutdown: impl Future<Output = ()>,
    ) -> Result<Ended, JournalError> {
        tokio::pin!(shutdown);
        match self.serve(shutdown.as_mut()).await {
            Err(error) if storage::trouble(&error).is_some() => {
                tokio::select! {
                    () = self.stall(&storage, &error) => Ok(Ended::Recovered),
                    () = shutdown => Ok(Ended::Stopped),
                }
            }
            Err(error) => Err(error),
            Ok(()) => {
                self.save_view();
                self.log.publish().map(|()| Ended::Stopped)
            }
        }
    }

    async fn serve(
        &mut self,
        mut shutdown: Pin<&mut impl Future<Output = ()>>,
    ) -> Result<(), JournalError> {
        self.record_authorities()?;
        if self.state.network.open_round().is_some() {
            self.record(Event::Round(RoundEvent::Resumed))?;
        }
        self.settle(Vec::new())?;
        loop {
            let wait = self.until_deadline();
            let first = tokio::select! {
                command = self.commands.recv() => command,
                () = tokio::time::sleep(wait) => None,
                () = self.presence.arrived() => None,
                () = &mut shutdown => return Ok(()),
            };
            let mut replies = Replies::new();
            let mut next = first;
            let mut taken = 0;
            while let Some(command) = next {
                self.handle(command, &mut replies)?;
                taken += 1;
                next = if taken < QUEUE { self.commands.try_recv().ok() } else { None };
            }
            self.settle(replies)?;
        }
    }

    /// Answers what needs no writing from what is durable, and sends everybody else away to come back,
    /// until the storage takes data.
    async fn stall(&mut self, storage: &Storage, error: &JournalError) {
        self.state = self.publish.borrow().clone();
        let recovered = storage.recovered(error.to_string());
        tokio::pin!(recovered);
        loop {
            let command = tokio::select! {
                () = &mut recovered => return,
                command = self.commands.recv() => command,
            };
            match command {
                Some(Command::Admin(AdminRequest::Status, reply)) => {
                    drop(reply.send(Ok(status::of(self))));
                }
                Some(Command::Admin(_, reply)) => {
                    drop(reply.send(Err(DriverError::NoRoom.to_string())));
                }
                Some(Command::Enrol(_, reply)) => drop(reply.send(Err(DriverError::NoRoom))),
                Some(Command::Submit(_, _, reply)) => drop(reply.send(Err(DriverError::NoRoom))),
                Some(
                    Command::Renew(..)
                    | Command::CertificateUsed(_)
                    | Command::ReplaceIdentity(..)
                    | Command::Worked(_)
                    | Command::Erased(..),
                )
                | None => {}
            }
        }
    }

    /// What cannot be computed because the storage takes no data is computed when it does, not given up;
    /// any other error is given back.
    fn await_storage(&self, error: AggregateError) -> Result<AggregateError, JournalError> {
        if error.passes_with_storage() {
            let source = io::Error::other(error);
            return Err(JournalError::Io { path: self.dir.clone(), source });
        }
        Ok(error)
    }

    /// Carries out one operator's request on a directory that nobody serves, and nothing else: no
    /// round moves, no work starts.
    pub fn once(
        mut self,
        request: AdminRequest,
    ) -> Result<Result<serde_json::Value, String>, JournalError> {
        let answer = admin::carry_out(&mut self, request)?;
        if self.uncommitted {
            self.log.commit()?;
        }
        Ok(answer)
    }

    /// How long nothing happens by itself.
    fn until_deadline(&self) -> Duration {
        let idle = Duration::from_secs(3_600);
        let now = self.now();
        let round = self.state.network.open_round();
        // At most a second: the wall clock, which deadlines are set by, may be moved.
        round.and_then(|r| r.deadline()).map_or(idle, |d| d.since(now).min(Duration::from_secs(1)))
    }

    /// Steps everything that is due, commits, answers, publishes, and starts work.
    fn settle(&mut self, replies: Replies) -> Result<(), JournalError> {
        while self.advance()? {}
        if self.uncommitted {
            let begun = Instant::now();
            tokio::task::block_in_place(|| self.log.commit())?;
            self.meters.committed(self.log.len(), begun.elapsed());
            self.uncommitted = false;
            faults::edge("before publish");
            self.publish.send_replace(self.state.clone());
            faults::edge("after publish");
            if self.log.len() >= self.snapshot_at + SNAPSHOT_EVERY {
                self.save_view();
            }
        }
        let answering = !replies.is_empty();
        for reply in replies {
            reply();
        }
        if answering {
            faults::edge("after answer");
        }
        self.tidy();
        self.erase_superseded();
        self.start_work();
        Ok(())
    }

    /// One thing that completeness, the clock or the task makes happen; false if there is none.
    fn advance(&mut self) -> Result<bool, JournalError> {
        let now = self.now();
        if let Some(round) = self.state.network.open_round() {
            let due = round.due(now);
            return due.map_or(Ok(false), |event| self.record(Event::Round(event)).map(|()| true));
        }
        if self.take_waiting_roster()? || self.take_waiting_registry()? {
            return Ok(true);
        }
        waiting::note(self);
        match self.state.network.task().and_then(|task| task.next()) {
            Some(Next::End(ending)) => {
                self.record(Event::Network(NetworkEvent::TaskEnded { ending }))?;
                Ok(true)
            }
            Some(Next::Round(stage)) => match self.draft(stage, now) {
                Ok(Some(Draft::Groups(groups))) => {
                    self.record(Event::Network(NetworkEvent::GroupsDrawn { groups }))?;
                    Ok(true)
                }
                Ok(Some(Draft::Round(plan, expected, away))) => {
                    let plan = Box::new(Signed::sign(*plan, &self.key));
                    self.record(Event::Round(RoundEvent::Planned { plan, expected, away }))?;
                    Ok(true)
                }
                Ok(None) => Ok(false),
                Err(error) => {
                    let ending = TaskEnding::Failed { reason: error.to_string() };
                    self.record(Event::Network(NetworkEvent::TaskEnded { ending }))?;
                    Ok(true)
                }
            },
            _ => Ok(false),
        }
    }

    fn handle(&mut self, command: Command, replies: &mut Replies) -> Result<(), JournalError> {
        match command {
            Command::Enrol(request, reply) => {
                let answer = self.enrol(*request)?;
                replies.push(Box::new(move || drop(reply.send(answer))));
            }
            Command::Renew(request, reply) => {
                let answer = self.renew(&request)?;
                replies.push(Box::new(move || drop(reply.send(answer))));
            }
            Command::CertificateUsed(peer) => self.certificate_used(&peer)?,
            Command::ReplaceIdentity(institution, step, reply) => {
                let answer = self.replace_identity(institution, step)?;
                replies.push(Box::new(move || drop(reply.send(answer))));
            }
            Command::Submit(from, message, reply) => {
                let answer = self.submit(&from, &message)?;
                replies.push(Box::new(move || drop(reply.send(answer))));
            }
            Command::Admin(request, reply) => {
                let answer = admin::carry_out(self, request)?;
                replies.push(Box::new(move || drop(reply.send(answer))));
            }
            Command::Worked(done) => self.worked(*done)?,
            Command::Erased(open, done) => self.erased(open, done),
        }
        Ok(())
    }

    /// Appends an event and folds it. Visible to others only after the next commit.
    pub(crate) fn record(&mut self, event: Event) -> Result<(), JournalError> {
        let at = self.now();
        let entry = Entry { at, event };
        self.log.append(&entry)?;
        self.folded(&entry);
        Ok(())
    }

    fn folded(&mut self, entry: &Entry<Event>) {
        Arc::make_mut(&mut self.state.network).apply(&entry.event, entry.at);
        self.meters.recorded(&entry.event);
        self.erasure.note(&entry.event);
        self.last_at = entry.at;
        self.recorded = Instant::now();
        self.uncommitted = true;
    }

    /// Entries of the log that are durable.
    pub(crate) fn entries(&self) -> u64 {
        self.log.len()
    }

    pub(crate) fn now(&self) -> Timestamp {
        self.clock.now().max(self.last_at + self.recorded.elapsed())
    }

    fn save_view(&mut self) {
        let Some(store) = &self.store else { return };
        let network = Network::clone(&self.state.network);
        let snapshot = Snapshot::new(self.log.len(), self.log.root(), network);
        match store.save(&snapshot) {
            Ok(()) => self.snapshot_at = snapshot.position,
            Err(error) => tracing::warn!(%error, "the view was not saved"),
        }
    }
}

// --- Documents and plans -----------------------------------------------------------------------

impl Driver {
    /// What comes next; none while the documents or institutions that it needs are missing.
    fn draft(
        &self,
        stage: architecture::Stage,
        now: Timestamp,
    ) -> Result<Option<Draft>, AggregateError> {
        let (Some(task), Some(roster), Some(registry)) =
            (self.state.network.task(), &self.state.roster, &self.state.registry)
        else {
            return Ok(None);
        };
        if roster.expires_at() <= now {
            return Ok(None);
        }
        let network = &self.state.network;
        let missing = |expected: &_| self.presence.missing(expected);
        let asked = draft::asked(network, task, &stage, (roster, now), missing);
        if asked.expected.len() < asked.needed {
            // Only a new roster can bring more, except where dealers were left out for good.
            return if task.excluded().is_empty() {
                Ok(None)
            } else {
                Err(AggregateError::TooFewLeft)
            };
        }
        if !asked.enough() {
            return Ok(None);
        }
        let Asked { expected, away, draw, .. } = asked;
        if let Some(count) = draw {
            let seed = crypto::random().map_err(|_| AggregateError::Inconsistent(NO_RANDOMNESS))?;
            let present = expected.difference(&away).cloned().collect();
            let groups = architecture::deal(&present, &away, count, &Digest(seed));
            return Ok(Some(Draft::Groups(groups)));
        }
        let n_max = u32::try_from(expected.len().max(1)).unwrap_or(u32::MAX);
        let vector = aggregate::vector(task, &stage, registry, &self.workshop.blobs, n_max)?;
        let plan = draft::plan(network, task, roster, (stage, &expected), vector, now);
        Ok(Some(Draft::Round(Box::new(plan), expected, away)))
    }

    /// The cohort of a task: what was asked for, or what is proposed for the roster.
    pub(crate) fn cohort(&self, asked: Option<Cohort>) -> Option<(Cohort, usize)> {
        let network = &self.state.network;
        let active = self.state.roster.as_ref()?.active(self.now());
        let members = active.filter(|member| !network.is_revoked(&member.institution)).count();
        Some((asked.unwrap_or_else(|| Cohort::proposed(members)), members))
    }
}

// --- Requests ----------------------------------------------------------------------------------

impl Driver {
    fn submit(
        &mut self,
        from: &InstitutionId,
        message: &Message,
    ) -> Result<Result<(), DriverError>, JournalError> {
        // Again here: the call may have begun before the institution was revoked.
        let enrolled = self.state.network.institutions().get(from);
        if let Some(Err(refused)) = enrolled.map(Enrolled::not_revoked) {
            return Ok(Err(refused.into()));
        }
        let Some(round) = self.state.network.open_round() else {
            return Ok(Err(DriverError::NoRound));
        };
        let roster = self.state.roster.as_ref();
        let Some(member) = roster.and_then(|roster| roster.member(from, self.now())) else {
            return Ok(Err(DriverError::NotAMember(from.clone())));
        };
        match round.admit(from, &member.identity, message) {
            Ok(Admission::Known) => Ok(Ok(())),
            Ok(Admission::Accept(event)) => {
                if let RoundEvent::Declined { decline } = &*event {
                    let reason = &decline.body.reason;
                    tracing::warn!(institution = %from, reason, "an institution takes no part");
                }
                self.record(Event::Round(*event))?;
                Ok(Ok(()))
            }
            Err(refusal) => {
                match refusal {
                    // Usual: a quorum does not wait for the others.
                    Refusal::WrongPhase { wants, is } if wants < is => {
                        tracing::debug!(institution = %from, reason = %refusal, "message came late");
                    }
                    _ => tracing::warn!(institution = %from, reason = %refusal, "message refused"),
                }
                if let Refusal::Equivocation { phase, .. } = refusal {
                    self.keep_evidence(from, phase, message)?;
                }
                Ok(Err(refusal.into()))
            }
        }
    }

    /// Keeps the second signed statement; the first one is in the log already.
    fn keep_evidence(
        &mut self,
        from: &InstitutionId,
        phase: Phase,
        message: &Message,
    ) -> Result<(), JournalError> {
        let Some(round) = self.state.network.open_round().map(|r| r.plan().round.clone()) else {
            return Ok(());
        };
        if self.state.network.knows_equivocation(from, &round, phase) {
            return Ok(());
        }
        self.record(Event::Network(NetworkEvent::Equivocated {
            institution: from.clone(),
            round,
            phase,
            statement: message.statement(),
        }))
    }
}
