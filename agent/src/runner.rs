//! The daemon: one task that waits for news from the coordinator, asks the pure machines what to do,
//! makes the facts durable, and only then acts. Owns the order of these steps and how failures are
//! met: the line breaks (pause, again), the coordinator asks for what is not allowed (one entry in the
//! log, sit out), files of an attempt are damaged (leave it for good). Decides nothing about rounds.

mod authorities;
mod effort;
mod identity;
mod ledger;
mod models;
mod part;
mod registry;

use std::{
    path::Path,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use anyhow::Context;
use collegium_shared::{
    clock::Clock,
    control,
    crypto::Digest,
    faults,
    journal::JournalError,
    ops::{Health, pulse},
    protocol::RoundView,
    roster::{Registry, RosterError, VerifiedRoster},
    service::{catch, operations::Operations},
    signed::Signed,
    storage::{self, Ended, REOPEN_PAUSE, REOPENS, Storage},
};
use tokio::{
    signal::unix::SignalKind,
    sync::{Notify, watch},
    task,
};

use crate::{
    availability::Availability,
    config::Config,
    desk::{Answer, Desk, Request},
    drift,
    home::{Home, HomeError},
    limits::Limits,
    link::{Backoff, Link, LinkError, Polled},
    metrics::Monitor,
    renewal::Renewal,
    rounds::RoundError,
    session_file::SessionFileError,
    state::{InForce, LocalEvent},
    status::Live,
};
use part::CachedTrainer;

/// How long work that storage trouble interrupted may keep the directory open.
const CLOSING: Duration = Duration::from_secs(10);

/// Why a turn of the loop ended early.
#[derive(Debug)]
enum Failure {
    /// Pause, then look at everything again.
    Line(LinkError),
    /// The attempt cannot go on, for a reason that others may read.
    Leave(String),
    /// The process is stopping.
    Stopped,
    /// The daemon cannot go on.
    Fatal(anyhow::Error),
}

impl From<LinkError> for Failure {
    fn from(error: LinkError) -> Self {
        // What arrived cannot be kept: this side's affair, and none of the line.
        if storage::trouble(&error).is_some() {
            Self::Fatal(error.into())
        } else {
            Self::Line(error)
        }
    }
}

impl From<JournalError> for Failure {
    fn from(error: JournalError) -> Self {
        Self::Fatal(error.into())
    }
}

impl From<HomeError> for Failure {
    fn from(error: HomeError) -> Self {
        Self::Fatal(error.into())
    }
}

impl From<SessionFileError> for Failure {
    fn from(error: SessionFileError) -> Self {
        if error.burns() { Self::Leave(error.to_string()) } else { Self::Fatal(error.into()) }
    }
}

impl From<RoundError> for Failure {
    fn from(error: RoundError) -> Self {
        match error {
            RoundError::Link(error) => error.into(),
            RoundError::Files(error) => error.into(),
            RoundError::Computation(error) => Self::Fatal(error.into()),
            RoundError::Statement(error) => Self::Leave(error.to_string()),
        }
    }
}

/// Tells every part of the daemon to stop.
#[derive(Clone)]
struct Stop {
    asked: watch::Receiver<bool>,
    /// For work on blocking threads.
    cancel: Arc<AtomicBool>,
}

impl Stop {
    async fn wait(&self) {
        // An error means that the sender is gone, which is a stop as well.
        drop(self.asked.clone().wait_for(|asked| *asked).await);
    }

    fn is_asked(&self) -> bool {
        *self.asked.borrow()
    }

    /// Gives up on `work` when the daemon stops. Only for work that may be dropped.
    async fn or<T>(&self, work: impl Future<Output = Result<T, LinkError>>) -> Result<T, Failure> {
        tokio::select! {
            result = work => Ok(result?),
            () = self.wait() => Err(Failure::Stopped),
        }
    }
}

/// The running agent.
pub struct Runner {
    home: Arc<Home>,
    link: Link,
    live: Arc<Live>,
    stop: Stop,
    roster: Option<VerifiedRoster>,
    registry: Option<(Digest, Arc<Registry>)>,
    cursor: String,
    held: Option<Arc<RoundView>>,
    trainer: Option<CachedTrainer>,
    /// A new plan was passed over, or would have been.
    away: bool,
    desk: Arc<Desk>,
    /// Wakes the renewal of the certificate to look at the clock.
    look: Arc<Notify>,
    /// The plan of which the coordinator was last told that this institution takes no part, and why.
    declined: Option<(Digest, String)>,
    said: identity::Said,
    taken: authorities::Taken,
}

/// Runs the agent of `dir` until `shutdown`, with a control socket for its command line.
pub async fn run_agent(dir: &Path, shutdown: impl Future<Output = ()>) -> anyhow::Result<()> {
    run_agent_at(dir, Clock::system(), shutdown).await
}

/// As [`run_agent`], by another clock. When the storage is full or failing, everything is closed, and
/// opened anew as at a start once it takes data again.
pub async fn run_agent_at(
    dir: &Path,
    clock: Clock,
    shutdown: impl Future<Output = ()>,
) -> anyhow::Result<()> {
    let hangups = catch(SignalKind::hangup());
    if let Some(defence) = faults::switched_off() {
        let check = defence.name();
        tracing::error!(check, "THIS AGENT PROTECTS NOBODY: a check is switched off for a test");
    }
    let config = Home::config(dir)?;
    let places = config.directories.clone();
    let storage = Storage::new([dir.to_owned(), places.journal, places.vault, places.blobs]);
    let (program, version) = ("collegium-agent", env!("CARGO_PKG_VERSION"));
    let health = Health::starting(program, version, clock.clone(), storage.clone());
    let place = dir.to_owned();
    let read = Box::new(move || Config::load(&place));
    let operations = Arc::new(Operations::start(config, read, health).await?);
    let (stop, asked) = watch::channel(false);
    let work = run_and_recover(dir, &operations, &storage, clock, asked);
    let mut work = pin!(work);
    tokio::select! {
        result = &mut work => return result,
        () = operations.reload_at(hangups) => {}
        () = shutdown => {}
    }
    operations.health.stopping();
    stop.send_replace(true);
    work.await
}

async fn run_and_recover(
    dir: &Path,
    operations: &Arc<Operations<Config>>,
    storage: &Storage,
    clock: Clock,
    asked: watch::Receiver<bool>,
) -> anyhow::Result<()> {
    let stopped = Stop { asked, cancel: Arc::default() };
    let (mut again, mut reopens) = (false, REOPENS);
    loop {
        let stop = stopped.wait();
        let opened = std::mem::replace(&mut again, true);
        let error = match run_once(dir, operations, storage, clock.clone(), stop).await {
            Ok(Ended::Recovered) => continue,
            Ok(Ended::Stopped) => return Ok(()),
            Err(error) if opened && reopens > 0 && in_use(&error) => {
                if reopens == REOPENS {
                    tracing::warn!("a command has opened the directory; going on when it is done");
                }
                reopens -= 1;
                tokio::select! {
                    () = tokio::time::sleep(REOPEN_PAUSE) => continue,
                    () = stopped.wait() => return Ok(()),
                }
            }
            Err(error) if storage::trouble(error.as_ref()).is_some() => error,
            Err(error) => return Err(error),
        };
        tokio::select! {
            () = storage.recovered(format!("{error:#}")) => {}
            () = stopped.wait() => return Err(error),
        }
    }
}

fn in_use(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref(), Some(HomeError::Journal(JournalError::InUse(_))))
}

/// From opening everything to closing it. When the storage is in trouble, the command line is answered
/// until it takes data again.
async fn run_once(
    dir: &Path,
    operations: &Arc<Operations<Config>>,
    storage: &Storage,
    clock: Clock,
    shutdown: impl Future<Output = ()>,
) -> anyhow::Result<Ended> {
    operations.health.opening();
    let path = dir.to_owned();
    let home = task::spawn_blocking(move || Home::open(&path, clock)).await??;
    let home = Arc::new(home);
    let limits = operations.part(|config| config.limits.clone());
    home.keep_to(limits.borrow().clone());
    let (stop, asked) = watch::channel(false);
    let stopping = Stop { asked, cancel: Arc::new(AtomicBool::new(false)) };
    let runner = Runner::new(Arc::clone(&home), stopping.clone())?;
    let (pulse, beat) = pulse();
    let live = Arc::clone(&runner.live);
    let monitor = Arc::new(Monitor { home: Arc::clone(&home), live, pulse });
    let listener = control::Listener::bind(&Home::socket(dir)).await?;
    tracing::info!(institution = %home.institution(), "the agent runs");
    let (desk, operated) = (Arc::clone(&runner.desk), Arc::clone(operations));
    let answer = move |request| {
        let (desk, operations) = (Arc::clone(&desk), Arc::clone(&operated));
        async move { answer(&desk, &operations, request).await.map_err(|error| format!("{error:#}")) }
    };
    let until_stopped = stopping.clone();
    let control = tokio::spawn(listener.serve(answer, async move { until_stopped.wait().await }));
    let renewal = Renewal::new(Arc::clone(&home), runner.link.clone(), Arc::clone(&runner.look));
    let renewal = tokio::spawn(renewal.run());
    let live = Arc::clone(&runner.live);
    let limited = tokio::spawn(follow(limits, Arc::clone(&home), runner.link.clone(), live));
    let mut shutdown = pin!(shutdown);
    operations.health.serving(monitor);
    let (work, limit) = (beat.during(runner.run()), operations.config().shutdown_time());
    let result = drained(work, shutdown.as_mut(), &stop, &stopping, limit).await;
    let mut ended = Ended::Stopped;
    let trouble = result.as_ref().err().filter(|e| storage::trouble(e.as_ref()).is_some());
    // Work that is under way ends by itself; a stop that was asked for before is no time to wait.
    if let Some(error) = trouble.filter(|_| !stopping.cancel.swap(true, Ordering::Relaxed)) {
        tokio::select! {
            () = storage.recovered(format!("{error:#}")) => ended = Ended::Recovered,
            () = shutdown => {}
        }
    }
    let in_trouble = trouble.is_some();
    stop.send_replace(true);
    renewal.abort();
    limited.abort();
    drop(tokio::time::timeout(limit, control).await);
    if in_trouble {
        operations.health.opening();
        closed(home).await;
        return Ok(ended);
    }
    let published = task::spawn_blocking(move || home.book.publish()).await;
    published.context("the audit log was not published")??;
    result.map(|()| Ended::Stopped)
}

/// Puts the limits into force that a reload brings.
async fn follow(mut limits: watch::Receiver<Limits>, home: Arc<Home>, link: Link, live: Arc<Live>) {
    while limits.changed().await.is_ok() {
        let changed = limits.borrow_and_update().clone();
        link.keep_to(&changed);
        home.keep_to(changed);
        live.wake();
    }
}

/// Waits until nobody has the directory open any more, for a while.
async fn closed(home: Arc<Home>) {
    let home = Arc::downgrade(&{ home });
    let gone = async {
        while home.strong_count() > 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    if tokio::time::timeout(CLOSING, gone).await.is_err() {
        tracing::warn!("work that was under way keeps the directory open");
    }
}

/// Carries out one request of the control socket: by the process, or by the desk.
async fn answer(
    desk: &Arc<Desk>,
    operations: &Operations<Config>,
    request: Request,
) -> anyhow::Result<Answer> {
    match request {
        Request::Reload => {
            let reloaded = operations.reload().await?;
            Ok(Answer { text: reloaded.to_string(), json: serde_json::to_value(reloaded)? })
        }
        Request::Status => {
            let Answer { mut text, mut json } = desk.answer(Request::Status).await?;
            let process = operations.process().await;
            text += &process.to_string();
            json["process"] = serde_json::to_value(process)?;
            Ok(Answer { text, json })
        }
        other => desk.answer(other).await,
    }
}

/// Runs `work` until it ends or `shutdown`; then gives what is under way a little time.
async fn drained(
    work: impl Future<Output = anyhow::Result<()>>,
    shutdown: impl Future<Output = ()>,
    stop: &watch::Sender<bool>,
    stopping: &Stop,
    limit: Duration,
) -> anyhow::Result<()> {
    let mut work = pin!(work);
    tokio::select! {
        result = &mut work => return result,
        () = shutdown => {}
    }
    tracing::info!("stopping");
    stopping.cancel.store(true, Ordering::Relaxed);
    stop.send_replace(true);
    if let Ok(result) = tokio::time::timeout(limit, work).await {
        return result;
    }
    tracing::warn!("what was under way was cut off; it is taken up again at the next start");
    Ok(())
}

impl Runner {
    fn new(home: Arc<Home>, stop: Stop) -> anyhow::Result<Self> {
        let route = crate::identity::route(&home.config, &home.identity, &home.clock)?;
        let link = Link::new(&route, &home.limits());
        let live = Arc::new(Live::new(link.traffic(), link.heard(), route.proxy()));
        let registry = home.registry()?;
        let digest = home.book.read(|state| state.registry()).map(|in_force| in_force.digest);
        Ok(Self {
            link,
            roster: home.roster()?,
            registry: digest.zip(registry.map(Arc::new)),
            cursor: String::new(),
            held: None,
            trainer: None,
            away: false,
            desk: Arc::new(Desk::new(Arc::clone(&home), Some(Arc::clone(&live)))),
            home,
            live,
            stop,
            look: Arc::default(),
            declined: None,
            said: identity::Said::default(),
            taken: authorities::Taken::default(),
        })
    }

    async fn run(mut self) -> anyhow::Result<()> {
        if self.registry.is_some() {
            self.measure_coverage();
        }
        drift::measure_in_background(&self.home);
        let mut backoff = Backoff::default();
        while !self.stop.is_asked() {
            match Box::pin(self.turn()).await {
                Ok(()) => backoff.reset(),
                Err(Failure::Stopped) => break,
                Err(Failure::Fatal(error)) => return Err(error),
                Err(Failure::Leave(reason)) => self.leave(reason).await?,
                Err(Failure::Line(error)) => {
                    let now = self.home.clock.now();
                    if self.live.failed(now, error.to_string()) {
                        tracing::warn!(%error, "the coordinator is not available; trying again");
                    }
                    // Everything is shown again, so whatever was not done is found again; and said
                    // again, to a coordinator that may have been restored from a backup.
                    self.cursor.clear();
                    self.said = identity::Said::default();
                    self.pause(backoff.pause()).await;
                }
            }
        }
        Ok(())
    }

    async fn pause(&self, pause: Duration) {
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = self.stop.wait() => {}
        }
    }

    /// Waits for news and does what they ask for.
    async fn turn(&mut self) -> Result<(), Failure> {
        if Availability::of(&self.home).is_available() {
            // What was passed over is looked at again.
            if std::mem::take(&mut self.away) {
                self.cursor.clear();
            }
        } else {
            self.away = true;
        }
        self.look_after_identity().await?;
        let held = self.held.as_ref().map(|view| (view.id().clone(), view.phase));
        let polled = tokio::select! {
            polled = self.stop.or(self.link.poll(&self.cursor, held, self.away)) => polled?,
            () = self.live.woken() => {
                // What was passed over or held may go on now.
                self.cursor.clear();
                return Ok(());
            }
            () = self.link.swapped() => return Ok(()),
        };
        if self.live.answered(self.home.clock.now(), polled.notice.clone()) {
            tracing::warn!(notice = polled.notice, "the coordinator says");
        }
        self.look.notify_one();
        if polled.cursor == self.cursor {
            return Ok(());
        }
        let Polled { cursor, roster, release, release_signature, round, authorities, .. } = polled;
        if let Some(earlier) = polled.ledger {
            ledger::catch_up(&self.home, earlier).await?;
        }
        let other = roster != self.roster.as_ref().map(VerifiedRoster::digest);
        // The first registry is taken as soon as there is one: what it knows of the records can be seen
        // before the first plan.
        if roster.is_some() && (other || self.registry.is_none()) {
            self.fetch_documents().await?;
        }
        self.go_over(round.as_ref()).await?;
        if let Some(announced) = authorities {
            self.follow_authorities(announced).await?;
        }
        if let Some(view) = round {
            Box::pin(self.take_part(view)).await?;
        }
        if let Some(release) = release {
            Box::pin(self.take_release(release, release_signature)).await?;
        }
        self.cursor = cursor;
        Ok(())
    }

    /// Runs blocking work on another thread.
    async fn blocking<T: Send + 'static>(
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Failure> {
        task::spawn_blocking(work).await.map_err(|error| Failure::Fatal(error.into()))
    }

    async fn record(&self, events: Vec<crate::state::AgentEvent>) -> Result<(), Failure> {
        if events.is_empty() {
            return Ok(());
        }
        let home = Arc::clone(&self.home);
        Ok(Self::blocking(move || home.book.record(events)).await??)
    }

    // --- Documents of the root -----------------------------------------------------------------

    /// Fetches roster and registry and takes what the root signed and what does not go back.
    async fn fetch_documents(&mut self) -> Result<(), Failure> {
        let documents = self.stop.or(self.link.documents()).await?;
        if let Some(signed) = documents.roster {
            let now = self.home.clock.now();
            let checked = self.home.identity.root().roster(&signed, now);
            match checked.and_then(|given| self.follows(given)) {
                Ok(Some(roster)) => self.accept_roster(roster, signed).await?,
                Ok(None) => {}
                Err(error) => self.refuse_document(signed.digest(), error.to_string()).await?,
            }
        }
        if let Some(signed) = documents.registry {
            match self.home.identity.root().registry(&signed) {
                Ok(registry) if self.is_newer(&registry) => {
                    self.accept_registry(registry, signed).await?;
                }
                Ok(_) => {}
                Err(error) => self.refuse_document(signed.digest(), error.to_string()).await?,
            }
        }
        Ok(())
    }

    async fn refuse_document(&self, document: Digest, reason: String) -> Result<(), Failure> {
        tracing::error!(%document, %reason, "a document that the coordinator shows is refused");
        if self.home.book.read(|state| state.notes_document(&document)) {
            let event = LocalEvent::DocumentRefused { document, reason };
            self.record(vec![event.into()]).await?;
        }
        self.pause(part::AFTER_REFUSAL).await;
        Ok(())
    }

    /// The roster if it is a new one that follows the one in force.
    fn follows(&self, given: VerifiedRoster) -> Result<Option<VerifiedRoster>, RosterError> {
        let Some(seen) = &self.roster else { return Ok(Some(given)) };
        given.follows(seen)?;
        Ok((given.digest() != seen.digest()).then_some(given))
    }

    async fn accept_roster(
        &mut self,
        roster: VerifiedRoster,
        signed: Signed<collegium_shared::roster::Roster>,
    ) -> Result<(), Failure> {
        let (home, digest) = (Arc::clone(&self.home), roster.digest());
        Self::blocking(move || home.keep_document(&digest, &signed)).await??;
        let (version, members) = (roster.version(), roster.members().len());
        let event = LocalEvent::RosterAccepted { roster: digest, version, members };
        self.record(vec![event.into()]).await?;
        tracing::info!(version, members, "a roster that the root signed is in force");
        self.roster = Some(roster);
        Ok(())
    }

    /// A registry never goes back to an older version.
    fn is_newer(&self, given: &Registry) -> bool {
        let seen: Option<InForce> = self.home.book.read(|state| state.registry());
        seen.is_none_or(|seen| given.version > seen.version)
    }

    async fn accept_registry(
        &mut self,
        registry: Registry,
        signed: Signed<Registry>,
    ) -> Result<(), Failure> {
        let (home, digest) = (Arc::clone(&self.home), signed.digest());
        Self::blocking(move || home.keep_document(&digest, &signed)).await??;
        let (competencies, items) = (registry.competencies.len(), registry.items.len());
        let version = registry.version;
        let event = LocalEvent::RegistryAccepted { registry: digest, version, competencies, items };
        self.record(vec![event.into()]).await?;
        tracing::info!(version, competencies, items, "a registry that the root signed is in force");
        self.registry = Some((digest, Arc::new(registry)));
        self.measure_coverage();
        Ok(())
    }
}
