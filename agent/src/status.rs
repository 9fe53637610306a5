//! What the agent says of itself: folded state, the vault's size, and what the running daemon knows of
//! its line to the coordinator. Names no learner.

use std::{
    fmt,
    sync::{Arc, Mutex},
};

use collegium_shared::{
    clock::Timestamp,
    crypto::Digest,
    ids::{InstitutionId, RoundId},
    protocol::Metrics,
    roster::VerifiedRoster,
};
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

use crate::{
    availability::Availability,
    consent::policy_in_force,
    coverage::{self, Figures},
    drift, egress,
    home::{Home, HomeError, unpoisoned},
    link::{Heard, Speaker, Traffic},
    policy::{Policy, PolicyError},
    rotation,
    serving::Standing,
    state::LastRefusal,
};

/// What the daemon knows that no journal holds: how the last call to the coordinator went, and what
/// was uploaded since it started.
pub struct Live {
    contact: Mutex<Contact>,
    traffic: Arc<Traffic>,
    heard: Arc<Heard>,
    proxy: Option<String>,
    /// The operator changed something that the daemon must look at now.
    woken: Notify,
}

#[derive(Clone, Default)]
struct Contact {
    last: Option<Timestamp>,
    /// Since when, and why, the coordinator cannot be reached.
    failing: Option<(Timestamp, String)>,
    /// What the coordinator wants the operator to know.
    notice: Option<String>,
}

impl Live {
    /// `traffic` and `heard` are the link's, `proxy` its route's.
    pub fn new(traffic: Arc<Traffic>, heard: Arc<Heard>, proxy: Option<String>) -> Self {
        Self { contact: Mutex::default(), traffic, heard, proxy, woken: Notify::new() }
    }

    /// The coordinator answered, perhaps with something that the operator should know. True if that
    /// is news.
    pub fn answered(&self, now: Timestamp, notice: Option<String>) -> bool {
        let mut contact = unpoisoned(&self.contact);
        let news = notice.is_some() && notice != contact.notice;
        *contact = Contact { last: Some(now), failing: None, notice };
        news
    }

    /// Makes the daemon look at what the operator changed.
    pub fn wake(&self) {
        self.woken.notify_one();
    }

    /// Waits until the operator changed something.
    pub async fn woken(&self) {
        self.woken.notified().await;
    }

    /// Whether the coordinator answered last; none before the first answer.
    pub fn reachable(&self) -> Option<bool> {
        unpoisoned(&self.contact).reachable()
    }

    /// The coordinator did not answer, or not with sense. True if it did before.
    pub fn failed(&self, now: Timestamp, reason: String) -> bool {
        let mut contact = unpoisoned(&self.contact);
        let since = contact.failing.take().map(|(since, _)| since);
        contact.failing = Some((since.unwrap_or(now), reason));
        since.is_none()
    }
}

impl Contact {
    fn reachable(&self) -> Option<bool> {
        match self {
            Self { failing: Some(_), .. } => Some(false),
            Self { last: Some(_), .. } => Some(true),
            _ => None,
        }
    }
}

/// What the agent is doing, in one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Activity {
    NotRunning,
    CoordinatorUnreachable,
    EnrolledAwaitingRoster,
    InRound,
    Paused,
    OutsideWindows,
    Idle,
}

/// The answer to `status`.
#[derive(Clone, Debug, Serialize)]
pub struct Status {
    pub institution: InstitutionId,
    /// What the root's keeper compares before signing the roster.
    pub fingerprint: Digest,
    /// Of the identity key that waits for a roster that names it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_fingerprint: Option<Digest>,
    /// Why that key cannot be used: once a roster names it, this agent is in no round.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_key_error: Option<String>,
    pub state: Activity,
    pub coordinator: CoordinatorStatus,
    pub certificate: CertificateStatus,
    pub roster: Option<RosterStatus>,
    pub policy: PolicyStatus,
    /// Whether new rounds are joined, and if not, why.
    pub availability: Availability,
    pub data: DataStatus,
    /// What the registry knows of the records; not known until it was measured.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub coverage: Option<CoverageStatus>,
    /// Whether the records have shifted since the newest model; not known until it was measured.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub drift: Option<drift::Standing>,
    pub round: Option<RoundStatus>,
    /// The round that a person has to approve or reject.
    pub held: Option<RoundId>,
    pub model: Option<ModelStatus>,
    /// The model that recommendations are made with, where it is another one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub recommending: Option<Recommending>,
    /// Whether recommendations are made with a personal copy of it; not known before the first one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub recommendations: Option<Standing>,
    pub last_refusal: Option<LastRefusal>,
    /// Not known while the daemon does not run.
    pub traffic: Option<TrafficStatus>,
}

/// What was uploaded as masked vectors since the daemon started.
#[derive(Clone, Debug, Serialize)]
pub struct TrafficStatus {
    /// Of the messages as they are encoded for gRPC.
    pub uploaded_bytes: u64,
    /// Of the vectors in them.
    pub uploaded_values: u64,
}

#[derive(Clone, Debug, Serialize)]
pub struct CoordinatorStatus {
    pub url: String,
    /// `HOST:PORT` of the proxy that leads there.
    pub proxy: Option<String>,
    /// The protocol that it speaks, as `MAJOR.MINOR`, and its program's version; not known before its
    /// first answer.
    pub protocol: Option<String>,
    pub version: Option<String>,
    /// Not known while the daemon does not run.
    pub reachable: Option<bool>,
    pub last_contact: Option<Timestamp>,
    pub unreachable_since: Option<Timestamp>,
    pub error: Option<String>,
    /// What the coordinator wants the operator to know.
    pub notice: Option<String>,
}

/// The client certificate.
#[derive(Clone, Debug, Serialize)]
pub struct CertificateStatus {
    pub expires_at: Timestamp,
    /// When the running daemon replaces it.
    pub renew_at: Timestamp,
    pub expired: bool,
}

impl CertificateStatus {
    fn of(home: &Home) -> Self {
        let credentials = home.identity.credentials();
        Self {
            expires_at: credentials.expires_at(),
            renew_at: credentials.renew_at(&home.identity.fingerprint()),
            expired: credentials.expired(home.clock.now()).is_some(),
        }
    }
}

#[derive(Clone, Debug, Serialize)]
pub struct RosterStatus {
    pub version: u64,
    pub members: usize,
    pub expires_at: Timestamp,
    pub expired: bool,
    /// Two thirds of its life are over: the consortium has to sign another.
    pub expires_soon: bool,
    /// Whether this institution is on it, with its own key, now.
    pub member: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum PolicyStatus {
    Present,
    Missing,
    /// It was never signed, or changed since.
    Unsigned {
        reason: String,
    },
    Unusable {
        reason: String,
    },
}

#[derive(Clone, Debug, Serialize)]
pub struct DataStatus {
    /// Answers.
    pub rows: u64,
    pub learners: u64,
    pub imports: usize,
}

#[derive(Clone, Debug, Serialize)]
pub struct CoverageStatus {
    #[serde(flatten)]
    pub figures: Figures,
    /// The share of training answers below which the policy lets nothing be trained; not known without one.
    pub least: Option<f64>,
}

#[derive(Clone, Debug, Serialize)]
pub struct RoundStatus {
    pub id: RoundId,
    pub phase: &'static str,
}

/// A model that recommendations are made with.
#[derive(Clone, Debug, Serialize)]
pub struct Recommending {
    pub task: String,
    pub version: u32,
}

#[derive(Clone, Debug, Serialize)]
pub struct ModelStatus {
    pub task: String,
    pub version: u32,
    pub installed_at: Timestamp,
    /// Over held-out learners of all institutions that took part.
    pub metrics: Metrics,
}

/// Whether the roster has this institution on it, with the key that it holds.
pub fn is_member(home: &Home, roster: &VerifiedRoster) -> bool {
    let own = home.identity.signing_key().verifying_key();
    let member = roster.member(home.institution(), home.clock.now());
    member.is_some_and(|member| member.identity == own)
}

impl Status {
    /// `live` is the running daemon's; none if the directory was opened without it.
    pub fn of(home: &Home, live: Option<&Live>) -> Result<Self, HomeError> {
        let roster = home.roster()?.map(|roster| RosterStatus {
            version: roster.version(),
            members: roster.members().len(),
            expires_at: roster.expires_at(),
            expired: roster.expires_at() <= home.clock.now(),
            expires_soon: roster.warn_from() <= home.clock.now(),
            member: is_member(home, &roster),
        });
        let contact = live.map(|live| unpoisoned(&live.contact).clone());
        let (snapshot, imports) = {
            let vault = home.vault();
            (vault.snapshot(), vault.imports().len())
        };
        let (round, model, recommending, last_refusal) = home.book.read(|state| {
            let session = state.history().session().filter(|session| !session.over());
            let round = session.map(|s| RoundStatus { id: s.id().clone(), phase: s.phase() });
            let model = state.model().map(|(model, installed_at)| ModelStatus {
                task: model.round.task.to_string(),
                version: model.version,
                installed_at,
                metrics: model.metrics,
            });
            let newest = state.model().map(|(model, _)| model);
            let other = state.recommending().filter(|of| newest != Some(*of));
            let recommending = other
                .map(|of| Recommending { task: of.round.task.to_string(), version: of.version });
            (round, model, recommending, state.last_refusal().cloned())
        });
        let availability = Availability::of(home);
        let policy = policy_in_force(home);
        let least = policy.as_ref().ok().map(Policy::min_coverage);
        let measured = coverage::known(home).filter(|figures| figures.answers.all > 0);
        Ok(Self {
            institution: home.institution().clone(),
            fingerprint: home.identity.fingerprint(),
            next_fingerprint: home
                .book
                .read(|state| state.hand_over().map(|next| next.body.new.fingerprint())),
            next_key_error: rotation::next_key_error(home).map(|error| error.to_string()),
            state: match activity(contact.as_ref(), roster.as_ref(), round.is_some()) {
                Activity::Idle => idle(&availability),
                busy => busy,
            },
            availability,
            certificate: CertificateStatus::of(home),
            coordinator: coordinator(home.config.coordinator.as_str(), contact, live),
            roster,
            policy: match policy {
                Ok(_) => PolicyStatus::Present,
                Err(PolicyError::Missing { .. }) => PolicyStatus::Missing,
                Err(error @ (PolicyError::Unsigned { .. } | PolicyError::Changed { .. })) => {
                    PolicyStatus::Unsigned { reason: error.to_string() }
                }
                Err(error) => PolicyStatus::Unusable { reason: error.to_string() },
            },
            data: DataStatus { rows: snapshot.rows, learners: snapshot.learners, imports },
            coverage: measured.map(|figures| CoverageStatus { figures, least }),
            drift: drift::known(home).map(|drift| drift.standing()),
            round,
            held: egress::waiting(home),
            model,
            recommending,
            recommendations: None,
            last_refusal,
            traffic: live.map(|live| TrafficStatus {
                uploaded_bytes: live.traffic.bytes(),
                uploaded_values: live.traffic.values(),
            }),
        })
    }
}

fn activity(contact: Option<&Contact>, roster: Option<&RosterStatus>, in_round: bool) -> Activity {
    match contact {
        None => Activity::NotRunning,
        Some(Contact { failing: Some(_), .. }) => Activity::CoordinatorUnreachable,
        _ if !roster.is_some_and(|roster| roster.member) => Activity::EnrolledAwaitingRoster,
        _ if in_round => Activity::InRound,
        _ => Activity::Idle,
    }
}

/// What an agent that could join a round does.
fn idle(availability: &Availability) -> Activity {
    match availability {
        Availability::Available => Activity::Idle,
        Availability::Paused { .. } => Activity::Paused,
        Availability::OutsideWindows { .. } => Activity::OutsideWindows,
    }
}

fn coordinator(url: &str, contact: Option<Contact>, live: Option<&Live>) -> CoordinatorStatus {
    let url = url.to_owned();
    let proxy = live.and_then(|live| live.proxy.clone());
    let speaker = live.and_then(|live| live.heard.speaker());
    let (protocol, version) =
        speaker.map(|Speaker { protocol, build }| (protocol.to_string(), build)).unzip();
    let contact = contact.unwrap_or_default();
    let reachable = contact.reachable();
    let Contact { last: last_contact, failing, notice } = contact;
    let (unreachable_since, error) = failing.unzip();
    CoordinatorStatus {
        url,
        proxy,
        protocol,
        version,
        reachable,
        last_contact,
        unreachable_since,
        error,
        notice,
    }
}

impl fmt::Display for Activity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotRunning => "not running",
            Self::CoordinatorUnreachable => "coordinator unreachable",
            Self::EnrolledAwaitingRoster => "enrolled, awaiting roster",
            Self::InRound => "in a round",
            Self::Paused => "paused",
            Self::OutsideWindows => "outside the training windows",
            Self::Idle => "idle",
        })
    }
}

/// For people: one aligned line for each subject.
impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut line = |name: &str, text: String| writeln!(f, "{name:<15}{text}");
        line("institution", format!("{} (key {})", self.institution, self.fingerprint))?;
        if let Some(next) = &self.next_fingerprint {
            line("next key", format!("{next} (waits for a roster that names it)"))?;
        }
        if let Some(error) = &self.next_key_error {
            line("next key", format!("cannot be used: {error}; run identity rotate"))?;
        }
        line("state", self.state.to_string())?;
        let c = &self.coordinator;
        line("coordinator", coordinator_line(c))?;
        if let Some(last) = c.last_contact {
            line("last contact", last.to_string())?;
        }
        if let (Some(since), Some(error)) = (c.unreachable_since, &c.error) {
            line("unreachable", format!("since {since}: {error}"))?;
        }
        if let Some(notice) = &c.notice {
            line("notice", notice.clone())?;
        }
        line("certificate", certificate_line(&self.certificate))?;
        line("roster", self.roster.as_ref().map_or("none yet".into(), roster_line))?;
        line("policy", policy_line(&self.policy))?;
        line("rounds", self.availability.to_string())?;
        let data = &self.data;
        let (rows, learners) = (data.rows, data.learners);
        line("data", format!("{rows} answers of {learners} learners, {} imports", data.imports))?;
        if let Some(coverage) = &self.coverage {
            line("coverage", coverage_line(coverage))?;
        }
        if let Some(drift) = &self.drift {
            line("drift", drift.to_string())?;
        }
        if let Some(round) = &self.round {
            line("round", format!("{} ({})", round.id, round.phase))?;
        }
        if let Some(round) = &self.held {
            let what = "is held: see preview-egress, then approve or reject";
            line("approval", format!("round {round} {what}"))?;
        }
        line("model", self.model.as_ref().map_or("none yet".into(), model_line))?;
        if let Some(Recommending { task, version }) = &self.recommending {
            line(
                "recommends by",
                format!("{task} version {version}: the newest of kt-logistic/1"),
            )?;
        }
        if let Some(standing) = &self.recommendations {
            line("recommends by", standing.to_string())?;
        }
        if let Some(refusal) = &self.last_refusal {
            let LastRefusal { round, reason, at } = refusal;
            line("last refusal", format!("{at}, round {round}: {reason}"))?;
        }
        Ok(())
    }
}

fn coverage_line(coverage: &CoverageStatus) -> String {
    let Figures { registry, answers, .. } = coverage.figures;
    let known = format!("{answers} training answers are of registry {registry}");
    match coverage.least {
        Some(least) if answers.share() < least => {
            format!("{known}; below {least}, nothing is trained: see collegium-agent coverage")
        }
        _ => known,
    }
}

fn coordinator_line(coordinator: &CoordinatorStatus) -> String {
    let mut text = coordinator.url.clone();
    if let Some(proxy) = &coordinator.proxy {
        text += &format!(" through the proxy {proxy}");
    }
    if let Some(protocol) = &coordinator.protocol {
        text += &format!(", protocol {protocol}");
    }
    if let Some(version) = coordinator.version.as_deref().filter(|version| !version.is_empty()) {
        text += &format!(" (version {version})");
    }
    text
}

fn certificate_line(certificate: &CertificateStatus) -> String {
    let CertificateStatus { expires_at, renew_at, expired } = certificate;
    if *expired {
        return format!(
            "expired at {expires_at}: ask the coordinator's operator for a new invitation, then run reenrol"
        );
    }
    format!("until {expires_at}, renewed from {renew_at} on")
}

fn roster_line(roster: &RosterStatus) -> String {
    let standing = if roster.member { "member" } else { "this institution is not on it" };
    let RosterStatus { version, members, expires_at, .. } = roster;
    let soon = if roster.expires_soon { ": the consortium has to sign a new one" } else { "" };
    format!("version {version}, {members} members, until {expires_at}{soon} ({standing})")
}

fn policy_line(policy: &PolicyStatus) -> String {
    match policy {
        PolicyStatus::Present => "signed".into(),
        PolicyStatus::Missing => "missing: nothing is trained; write one with policy init".into(),
        PolicyStatus::Unsigned { reason } => format!("not in force: {reason}"),
        PolicyStatus::Unusable { reason } => format!("unusable: {reason}"),
    }
}

fn model_line(model: &ModelStatus) -> String {
    let figure = |value: Option<f64>| value.map_or("not known".into(), |v| format!("{v:.4}"));
    let (auc, log_loss) = (figure(model.metrics.auc), figure(model.metrics.log_loss));
    let ModelStatus { task, version, installed_at, .. } = model;
    format!(
        "{task} version {version}, installed {installed_at}, AUC {auc}, log loss {log_loss} over {} answers",
        model.metrics.responses
    )
}
