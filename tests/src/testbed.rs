//! A network of scripted members around one real coordinator, on this machine. The coordinator is
//! the library's own service over loopback TLS, in this process or, where it has to be killed, in one
//! of its own. Knows how to set it up and how to read what it recorded; asserts nothing.

use std::{
    collections::BTreeSet,
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, bail};
use collegium_coordinator::{
    SIGNING_KEY,
    admin::AdminRequest,
    network::Event,
    root,
    round::RoundEvent,
    service,
    task::{Aggregation, ReleaseRule, TaskSpec},
};
use collegium_shared::{
    architecture::{Architecture, Hyper, Sums},
    clock::Clock,
    crypto::{Digest, SigningKey},
    documents::{self, UnsignedDocument},
    ids::{InstitutionId, RoundId},
    journal::{Entry, Finding, History},
    protocol::{Cohort, Deadlines, Ending, Outcome},
    roster::Registry,
    tensors,
    token::TokenFile,
};
use serde_json::Value;
use tempfile::TempDir;
use tokio::{
    sync::oneshot,
    task::{JoinHandle, JoinSet},
};

use crate::{
    harness::{self, Process},
    participant::{Input, Participant, Seat},
};

/// Within this time everything that a test waits for has happened.
pub const LIMIT: Duration = Duration::from_secs(60);
/// How often a condition is looked at.
const POLL: Duration = Duration::from_millis(10);
const VALIDITY: Duration = Duration::from_secs(3_600);

enum Server {
    Here { stop: oneshot::Sender<()>, task: JoinHandle<anyhow::Result<()>> },
    Apart(Process),
}

/// One coordinator and its scripted members.
pub struct Testbed {
    dir: TempDir,
    port: u16,
    server: Option<Server>,
    /// The coordinator's, while it runs in this process.
    clock: Clock,
    /// Sorted by institution, as in every list.
    pub members: Vec<Arc<Participant>>,
}

/// A round that gave a sum.
pub struct Opened {
    /// The institutions whose vectors are in it.
    pub survivors: Vec<InstitutionId>,
    /// Of the blob, which may be gone: a training round's sum is erased as soon as its model is stored.
    pub sum: Digest,
}

impl Opened {
    /// Whether these are the values that were opened.
    pub fn is(&self, values: &Sums) -> anyhow::Result<bool> {
        Ok(self.sum == Digest::of(&tensors::write_sums(values)?))
    }
}

impl Testbed {
    /// A served coordinator without members, a roster or a registry. `items` and two competencies
    /// will be the registry, so `items + 2` is the dimension of the first sum.
    pub async fn empty() -> anyhow::Result<Self> {
        Self::empty_at(Clock::system()).await
    }

    /// The same, with a clock that the test may move.
    pub async fn empty_at(clock: Clock) -> anyhow::Result<Self> {
        let dir = tempfile::tempdir()?;
        let port = harness::free_port()?;
        let mut bed = Self { dir, port, server: None, clock, members: Vec::new() };
        let listen = SocketAddr::from(([127, 0, 0, 1], port));
        service::init(&bed.coordinator_dir(), listen, Clock::system().now())?;
        let public = root::init(&bed.root_dir())?;
        bed.serve().await?;
        bed.admin(AdminRequest::TrustRoot { public }).await?;
        Ok(bed)
    }

    /// A network of `members` institutions, ready for a task whose first sum has `dimension` values.
    pub async fn start(members: usize, dimension: usize) -> anyhow::Result<Self> {
        Self::start_at(Clock::system(), members, dimension).await
    }

    /// The same, with a clock that the test may move.
    pub async fn start_at(clock: Clock, members: usize, dimension: usize) -> anyhow::Result<Self> {
        let mut bed = Self::empty_at(clock).await?;
        let mut enrolling = JoinSet::new();
        for number in 0..members {
            let invitation = bed.invite(&format!("school-{number:03}")).await?;
            let url = bed.url();
            enrolling.spawn(async move { Participant::enrol(&url, &invitation).await });
        }
        while let Some(enrolled) = enrolling.join_next().await {
            bed.members.push(Arc::new(enrolled??));
        }
        bed.members.sort_by(|a, b| a.institution().cmp(b.institution()));
        bed.sign_roster().await?;
        bed.publish_registry(dimension).await?;
        Ok(bed)
    }

    pub fn coordinator_dir(&self) -> PathBuf {
        self.dir.path().join("coordinator")
    }

    fn root_dir(&self) -> PathBuf {
        self.dir.path().join("root")
    }

    /// The directory of everything, for files of the test's own.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn url(&self) -> String {
        format!("https://127.0.0.1:{}", self.port)
    }

    /// Carries out an operator's request.
    pub async fn admin(&self, request: AdminRequest) -> anyhow::Result<Value> {
        service::ask(&self.coordinator_dir(), request).await
    }

    pub async fn status(&self) -> anyhow::Result<Value> {
        self.admin(AdminRequest::Status).await
    }

    /// An invitation for an hour.
    pub async fn invite(&self, name: &str) -> anyhow::Result<TokenFile> {
        let ca = fs::read_to_string(self.coordinator_dir().join("ca.pem"))?;
        let expires_at = Clock::system().now() + VALIDITY;
        let invitation = TokenFile::new(name.parse()?, expires_at, ca, String::new())?;
        self.admin(AdminRequest::Invite {
            institution: invitation.institution.clone(),
            legal_entity: name.to_owned(),
            token_sha256: invitation.token_sha256(),
            expires_at,
        })
        .await?;
        Ok(invitation)
    }

    /// Carries the roster of everyone enrolled to the root and back.
    pub async fn sign_roster(&self) -> anyhow::Result<()> {
        let draft = self.admin(AdminRequest::ExportRoster).await?;
        let document = Box::new(self.signed(&serde_json::from_value(draft)?)?);
        self.admin(AdminRequest::ImportRoster { document }).await.map(drop)
    }

    async fn publish_registry(&self, dimension: usize) -> anyhow::Result<()> {
        // Short names, so that the longest vectors fit into a registry that can be sent.
        let items = (2..dimension).map(|i| format!("i{i:06}")).collect::<BTreeSet<_>>();
        let competencies = BTreeSet::from(["algebra".to_owned(), "fractions".to_owned()]);
        let registry = Registry::new(1, competencies, items)?;
        let document = Box::new(self.signed(&UnsignedDocument::Registry(registry))?);
        self.admin(AdminRequest::ImportRegistry { document }).await.map(drop)
    }

    fn signed(&self, draft: &UnsignedDocument) -> anyhow::Result<documents::SignedDocument> {
        let [input, output] = ["draft", "signed"].map(|name| self.dir.path().join(name));
        documents::write(&input, draft)?;
        Ok(root::sign(&self.root_dir(), &input, &output, Clock::system().now(), |_| true)?)
    }

    /// Starts a task of `rounds` optimiser steps.
    pub async fn start_task(
        &self,
        rounds: u32,
        cohort: Option<Cohort>,
        deadlines: Deadlines,
    ) -> anyhow::Result<()> {
        let spec = TaskSpec {
            task: "kt".parse()?,
            architecture: Architecture::KtLogistic1,
            purpose: None,
            parameters: None,
            rounds,
            hyper: Hyper::default(),
            privacy: None,
            audit: None,
            cohort,
            deadlines,
            release: ReleaseRule::default(),
            aggregation: Aggregation::default(),
        };
        self.admin(AdminRequest::StartTask { spec: Box::new(spec) }).await.map(drop)
    }

    /// A seat for every member, each with the input that `input` makes for its place.
    pub fn seats(&self, input: impl Fn(usize) -> Input) -> Vec<Seat> {
        let members = self.members.iter().enumerate();
        members.map(|(place, member)| Seat::new(Arc::clone(member), input(place))).collect()
    }
}

// --- The coordinator's life ----------------------------------------------------------------------

impl Testbed {
    /// Serves in this process, until `stop`.
    pub async fn serve(&mut self) -> anyhow::Result<()> {
        self.serve_by(self.clock.clone()).await
    }

    /// As [`Testbed::serve`], by another clock.
    pub async fn serve_by(&mut self, clock: Clock) -> anyhow::Result<()> {
        let address = self.forget_address()?;
        let (stop, stopped) = oneshot::channel();
        let dir = self.coordinator_dir();
        let task = tokio::spawn(async move {
            let stopped = async { drop(stopped.await) };
            service::serve_at(&dir, clock, stopped).await
        });
        while !address.exists() {
            if task.is_finished() {
                return task.await?.context("the coordinator does not serve");
            }
            tokio::time::sleep(POLL).await;
        }
        self.server = Some(Server::Here { stop, task });
        Ok(())
    }

    /// Serves in a process of its own, until it is killed.
    pub async fn serve_apart(&mut self) -> anyhow::Result<()> {
        let address = self.forget_address()?;
        let mut command = Command::new(&harness::binaries()?.coordinator);
        command.arg("serve").arg("--dir").arg(self.coordinator_dir());
        let mut process =
            Process::spawn("coordinator", &mut command, &self.dir.path().join("logs"))?;
        while !address.exists() {
            process.expect_running()?;
            tokio::time::sleep(POLL).await;
        }
        self.server = Some(Server::Apart(process));
        Ok(())
    }

    /// The most memory that the coordinator's own process has held in RAM so far, in bytes.
    pub fn peak_rss(&self) -> anyhow::Result<u64> {
        match &self.server {
            Some(Server::Apart(process)) => process.peak_rss(),
            _ => bail!("the coordinator has no process of its own"),
        }
    }

    fn forget_address(&self) -> anyhow::Result<PathBuf> {
        let address = self.coordinator_dir().join("run").join("address");
        if address.exists() {
            fs::remove_file(&address)?;
        }
        Ok(address)
    }

    /// Stops in good order.
    pub async fn stop(&mut self) -> anyhow::Result<()> {
        match self.server.take() {
            Some(Server::Here { stop, task }) => {
                drop(stop);
                task.await?
            }
            Some(Server::Apart(mut process)) => {
                process.terminate()?;
                process.wait(LIMIT).map(drop)
            }
            None => bail!("the coordinator is not running"),
        }
    }

    /// The process that serves, if it is one of its own.
    pub fn process_id(&self) -> anyhow::Result<u32> {
        match &self.server {
            Some(Server::Apart(process)) => Ok(process.id()),
            _ => bail!("the coordinator does not run in a process of its own"),
        }
    }

    /// SIGKILL.
    pub fn kill(&mut self) -> anyhow::Result<()> {
        match self.server.take() {
            Some(Server::Apart(mut process)) => process.kill(),
            _ => bail!("the coordinator runs in this process"),
        }
    }
}

// --- What was recorded -----------------------------------------------------------------------------

impl Testbed {
    /// Every durable event, read from the journal as an auditor reads it.
    pub fn events(&self) -> anyhow::Result<Vec<Entry<Event>>> {
        events(&self.coordinator_dir())
    }

    /// Waits until `found` sees what it wants in the log.
    pub async fn until<T>(
        &self,
        what: &str,
        found: impl Fn(&[Entry<Event>]) -> Option<T>,
    ) -> anyhow::Result<T> {
        let looking = async {
            loop {
                if let Some(found) = found(&self.events()?) {
                    return anyhow::Ok(found);
                }
                tokio::time::sleep(POLL).await;
            }
        };
        let found = tokio::time::timeout(LIMIT, looking).await;
        found.with_context(|| format!("waited in vain until {what}"))?
    }

    /// How the attempt at `place`, counted from 0 over the whole log, ended.
    pub async fn ending(&self, place: usize) -> anyhow::Result<Ending> {
        let what = format!("attempt {place} ends");
        self.until(&what, |events| endings(events).nth(place).cloned()).await
    }

    /// The sum that the attempt at `place` gave.
    pub async fn sum(&self, place: usize) -> anyhow::Result<Opened> {
        let ending = self.ending(place).await?;
        let Ending::Released { sum } = ending else { bail!("no sum: {ending:?}") };
        let survivors = survivors(&self.events()?, place).context("the log names no survivors")?;
        Ok(Opened { survivors, sum })
    }

    /// Every file below the coordinator's directory, with its content.
    pub fn files(&self) -> anyhow::Result<Vec<(PathBuf, Vec<u8>)>> {
        files(&self.coordinator_dir())
    }

    /// The folder of a round's perishable files.
    pub fn round_dir(&self, id: &RoundId) -> PathBuf {
        let name = format!("{}-{}-{}", id.task, id.round, id.attempt);
        self.coordinator_dir().join("rounds").join(name)
    }
}

/// Every durable event of the coordinator in `dir`.
pub fn events(dir: &Path) -> anyhow::Result<Vec<Entry<Event>>> {
    let key = SigningKey::load(&dir.join(SIGNING_KEY))?.verifying_key();
    let history = History::audit(&dir.join("journal"), &key)?;
    let mut events = Vec::new();
    history.replay(0, |_, payload| {
        events.push(serde_json::from_slice::<Entry<Event>>(payload));
        Ok::<(), Finding>(())
    })?;
    Ok(events.into_iter().collect::<Result<_, _>>()?)
}

/// Every file below `dir`, with its content.
pub fn files(dir: &Path) -> anyhow::Result<Vec<(PathBuf, Vec<u8>)>> {
    let mut files = Vec::new();
    collect(dir, &mut files)?;
    Ok(files)
}

fn round_events(events: &[Entry<Event>]) -> impl Iterator<Item = &RoundEvent> {
    events.iter().filter_map(|entry| match &entry.event {
        Event::Round(event) => Some(event),
        Event::Network(_) => None,
    })
}

/// How rounds ended, in order.
pub fn endings(events: &[Entry<Event>]) -> impl Iterator<Item = &Ending> {
    round_events(events).filter_map(|event| match event {
        RoundEvent::Ended { ending } => Some(ending),
        _ => None,
    })
}

/// U of the attempt at `place`: the uploads before its proposal, as many as the bitmap counts.
fn survivors(events: &[Entry<Event>], place: usize) -> Option<Vec<InstitutionId>> {
    let mut uploaded = BTreeSet::new();
    let planned = |event: &&RoundEvent| matches!(event, RoundEvent::Planned { .. });
    let mut starts = (0..).zip(round_events(events)).filter(|(_, event)| planned(event));
    let (start, _) = starts.nth(place)?;
    for event in round_events(events).skip(start) {
        match event {
            RoundEvent::Uploaded { header } => {
                uploaded.insert(header.body.institution.clone());
            }
            RoundEvent::Proposed { outcome: Outcome::Survivors { survivors, .. } } => {
                let same = survivors.count() == uploaded.len();
                return same.then(|| uploaded.into_iter().collect());
            }
            _ => {}
        }
    }
    None
}

fn collect(dir: &Path, files: &mut Vec<(PathBuf, Vec<u8>)>) -> anyhow::Result<()> {
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        let kind = fs::symlink_metadata(&path)?.file_type();
        if kind.is_dir() {
            collect(&path, files)?;
        } else if kind.is_file() {
            let bytes = fs::read(&path)?;
            files.push((path, bytes));
        }
    }
    Ok(())
}
