//! What the coordinator counts for its operators, and how its state looks to Prometheus. Owns the
//! names of the metrics. No label names anything but institutions and phases, which the log has as well,
//! and no value is about one institution's data.

use std::{
    collections::{BTreeMap, BTreeSet},
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use collegium_shared::{
    clock::{Clock, Timestamp},
    ids::InstitutionId,
    ops::{Daemon, Pulse},
    protocol::{Ending, Phase},
};
use prometheus_client::{
    metrics::{
        counter::Counter,
        family::Family,
        gauge::{ConstGauge, Gauge},
        histogram::{Histogram, exponential_buckets},
    },
    registry::Registry,
};

use crate::{
    ca::Ca,
    driver::{Handle, Published},
    network::Event,
    round::{Round, RoundEvent},
    status,
};

/// A metric with one label.
type By<M> = Family<[(&'static str, String); 1], M>;

/// The phases that institutions are waited for in.
const PHASES: [Phase; 6] =
    [Phase::Ready, Phase::Share, Phase::Upload, Phase::Vote, Phase::Reveal, Phase::Open];

/// What is counted while the coordinator runs. Clones count together.
#[derive(Clone)]
pub struct Meters {
    rounds: By<Counter>,
    commit_seconds: Histogram,
    entries: Gauge,
    pub(crate) received_bytes: Counter,
    pub(crate) sent_bytes: Counter,
    connections: Gauge,
    uploads: Gauge,
    connected: Arc<Mutex<BTreeMap<InstitutionId, usize>>>,
}

impl Default for Meters {
    fn default() -> Self {
        let meters = Self {
            rounds: Family::default(),
            // From a tenth of a millisecond to 13 s.
            commit_seconds: Histogram::new(exponential_buckets(0.000_1, 2.0, 18)),
            entries: Gauge::default(),
            received_bytes: Counter::default(),
            sent_bytes: Counter::default(),
            connections: Gauge::default(),
            uploads: Gauge::default(),
            connected: Arc::default(),
        };
        // Present from the start, so that the first of its kind is seen as an increase.
        for ending in ["released", "aborted", "failed", "abandoned"] {
            drop(meters.rounds.get_or_create(&[("ending", ending.to_owned())]));
        }
        meters
    }
}

impl Meters {
    /// An event was appended to the journal.
    pub(crate) fn recorded(&self, event: &Event) {
        let Event::Round(RoundEvent::Ended { ending }) = event else { return };
        let ending = match ending {
            Ending::Released { .. } => "released",
            Ending::Aborted => "aborted",
            Ending::Failed { .. } => "failed",
            Ending::Abandoned { .. } => "abandoned",
        };
        self.rounds.get_or_create(&[("ending", ending.to_owned())]).inc();
    }

    /// The journal has `entries` entries; the newest became durable within `took`.
    pub(crate) fn committed(&self, entries: u64, took: Duration) {
        self.commit_seconds.observe(took.as_secs_f64());
        self.opened(entries);
    }

    /// The journal was opened with `entries` entries.
    pub(crate) fn opened(&self, entries: u64) {
        self.entries.set(i64::try_from(entries).unwrap_or(i64::MAX));
    }

    /// A connection was made; it counts until the guard goes.
    pub(crate) fn connected(&self, institution: Option<InstitutionId>) -> Connected {
        self.connections.inc();
        if let Some(institution) = &institution {
            *self.institutions().entry(institution.clone()).or_default() += 1;
        }
        Connected { meters: self.clone(), institution }
    }

    /// An upload began; it counts until the guard goes.
    pub(crate) fn uploading(&self) -> Uploading {
        self.uploads.inc();
        Uploading(self.uploads.clone())
    }

    fn institutions(&self) -> std::sync::MutexGuard<'_, BTreeMap<InstitutionId, usize>> {
        self.connected.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn measure(&self, registry: &mut Registry) {
        registry.register("rounds", "Rounds that ended", self.rounds.clone());
        registry.register(
            "journal_commit_seconds",
            "How long a batch of entries took to become durable",
            self.commit_seconds.clone(),
        );
        registry.register("journal_entries", "Entries of the journal", self.entries.clone());
        registry.register(
            "received_bytes",
            "Bytes received by the port, inside TLS",
            self.received_bytes.clone(),
        );
        registry.register(
            "sent_bytes",
            "Bytes sent by the port, inside TLS",
            self.sent_bytes.clone(),
        );
        registry.register("connections", "Open connections", self.connections.clone());
        registry.register("uploads_in_flight", "Uploads on their way", self.uploads.clone());
    }
}

/// An open connection.
pub(crate) struct Connected {
    meters: Meters,
    institution: Option<InstitutionId>,
}

impl Drop for Connected {
    fn drop(&mut self) {
        self.meters.connections.dec();
        let Some(institution) = &self.institution else { return };
        let mut institutions = self.meters.institutions();
        if let Some(open) = institutions.get_mut(institution) {
            *open -= 1;
            if *open == 0 {
                institutions.remove(institution);
            }
        }
    }
}

/// An upload on its way.
pub(crate) struct Uploading(Gauge);

impl Drop for Uploading {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// The running coordinator, as probes and Prometheus see it.
pub(crate) struct Monitor {
    handle: Handle,
    pulse: Pulse,
    clock: Clock,
}

impl Monitor {
    pub(crate) fn new(handle: Handle, pulse: Pulse, clock: Clock) -> Self {
        Self { handle, pulse, clock }
    }
}

impl Daemon for Monitor {
    fn answers(&self) -> Pin<Box<dyn Future<Output = bool> + Send + '_>> {
        Box::pin(self.pulse.felt())
    }

    fn summary(&self) -> String {
        status::headline(&self.handle.published().network)
    }

    fn measure(&self, registry: &mut Registry) {
        let registry = registry.sub_registry_with_prefix("collegium_coordinator");
        self.handle.meters.measure(registry);
        let published = self.handle.published();
        institutions(registry, &published, &self.handle, self.clock.now());
        expiries(registry, &published, &self.handle.ca.current());
        round(registry, published.network.open_round(), self.clock.now());
        task(registry, &published);
    }
}

fn count(registry: &mut Registry, name: &str, help: &str, value: usize) {
    registry.register(name, help, ConstGauge::new(value));
}

fn institutions(registry: &mut Registry, published: &Published, handle: &Handle, now: Timestamp) {
    let connected = handle.meters.institutions();
    let enrolled = published.network.institutions().len();
    count(registry, "institutions_enrolled", "Institutions that have a certificate", enrolled);
    let by_name: By<Gauge> = Family::default();
    let mut members = BTreeSet::new();
    for member in published.roster.iter().flat_map(|roster| roster.active(now)) {
        members.insert(member.institution.clone());
        let here = connected.contains_key(&member.institution);
        let label = [("institution", member.institution.to_string())];
        by_name.get_or_create(&label).set(i64::from(here));
    }
    count(registry, "institutions_on_roster", "Institutions on the roster in force", members.len());
    let report = handle.presence.report(&members);
    count(registry, "institutions_present", "Members that a round would wait for", report.present);
    let help = "Members that are there and take part in no new round for now";
    count(registry, "institutions_away", help, report.away.len());
    count(
        registry,
        "institutions_connected",
        "Institutions that hold a connection",
        connected.len(),
    );
    registry.register("institution_connected", "Whether this member holds a connection", by_name);
}

fn expiries(registry: &mut Registry, published: &Published, ca: &Ca) {
    let mut expiry = |name: &str, help: &str, at: Timestamp| {
        registry.register(name, help, ConstGauge::new(at.as_seconds()));
    };
    expiry(
        "authority_expiry_seconds",
        "When the authority's certificate ends, Unix time",
        ca.expires_at(),
    );
    if let Some(until) = ca.server_expires_at() {
        let help = "When the server's certificate ends, Unix time";
        expiry("server_certificate_expiry_seconds", help, until);
    }
    if let Some(roster) = &published.roster {
        expiry("roster_expiry_seconds", "When the roster ends, Unix time", roster.expires_at());
    }
    let certificates: By<Gauge> = Family::default();
    for (name, enrolled) in published.network.institutions() {
        let label = [("institution", name.to_string())];
        certificates.get_or_create(&label).set(enrolled.certificate_expires_at.as_seconds());
    }
    registry.register(
        "institution_certificate_expiry_seconds",
        "When the institution's certificate ends, Unix time",
        certificates,
    );
}

fn round(registry: &mut Registry, open: Option<&Round>, now: Timestamp) {
    let phases: By<Gauge> = Family::default();
    for phase in PHASES {
        let here = open.is_some_and(|round| round.phase() == phase);
        let label = [("phase", status::phase_name(phase))];
        phases.get_or_create(&label).set(i64::from(here));
    }
    registry.register("round_phase", "1 for the phase that the open round is in", phases);
    let Some(round) = open else { return };
    let (done, wanted) = round.progress();
    let age = now.since(round.since()).as_secs_f64();
    registry.register(
        "round_phase_age_seconds",
        "How long the phase is open",
        ConstGauge::new(age),
    );
    if let Some(deadline) = round.deadline() {
        let left = deadline.since(now).as_secs_f64();
        let help = "How long until the phase ends by itself";
        registry.register("round_phase_left_seconds", help, ConstGauge::new(left));
    }
    let expected = round.expected().len();
    count(registry, "round_institutions_expected", "Institutions that the plan asked", expected);
    count(registry, "round_institutions_done", "Institutions done with the open phase", done);
    let help = "Institutions that the open phase waits for";
    count(registry, "round_institutions_awaited", help, wanted.saturating_sub(done));
}

fn task(registry: &mut Registry, published: &Published) {
    let task = published.network.task();
    let running = task.is_some_and(|task| task.ending().is_none());
    count(registry, "task_running", "Whether a task is under way", usize::from(running));
    let Some(task) = task else { return };
    let paused = usize::from(running && task.paused().is_some());
    count(
        registry,
        "task_paused",
        "Whether the task begins no new round until it is resumed",
        paused,
    );
    let wanted = ConstGauge::new(i64::from(task.spec().rounds));
    registry.register("task_steps_wanted", "Steps that the newest task asks for", wanted);
    let done = task.candidate().map_or(0, |candidate| candidate.step);
    registry.register(
        "task_steps_done",
        "Steps of the newest task",
        ConstGauge::new(i64::from(done)),
    );
    let version = task.releases().last().map_or(0, |release| release.version);
    let help = "Version of the newest model that the newest task released; 0: none yet";
    registry.register("model_version", help, ConstGauge::new(i64::from(version)));
    let withheld = ConstGauge::new(i64::from(task.withheld().0));
    let help = "Models that the newest task evaluated and did not release";
    registry.register("models_withheld", help, withheld);
}

#[cfg(test)]
mod tests {
    use prometheus_client::encoding::text::encode;

    use super::*;

    fn text(meters: &Meters) -> String {
        let mut registry = Registry::default();
        meters.measure(&mut registry);
        let mut text = String::new();
        encode(&mut text, &registry).unwrap();
        text
    }

    #[test]
    fn endings_are_counted_apart_and_present_from_the_start() {
        let meters = Meters::default();
        assert!(text(&meters).contains("rounds_total{ending=\"failed\"} 0"));
        let ended = |ending| Event::Round(RoundEvent::Ended { ending });
        meters.recorded(&ended(Ending::Aborted));
        meters.recorded(&ended(Ending::Aborted));
        meters.recorded(&ended(Ending::Abandoned { reason: "r".into() }));
        meters.recorded(&Event::Round(RoundEvent::Resumed));
        let text = text(&meters);
        assert!(text.contains("rounds_total{ending=\"aborted\"} 2"), "{text}");
        assert!(text.contains("rounds_total{ending=\"abandoned\"} 1"), "{text}");
        assert!(text.contains("rounds_total{ending=\"released\"} 0"), "{text}");
    }

    #[test]
    fn what_is_open_counts_until_it_goes() {
        let meters = Meters::default();
        let name: InstitutionId = "school-a".parse().unwrap();
        let first = meters.connected(Some(name.clone()));
        let second = meters.connected(Some(name.clone()));
        let stranger = meters.connected(None);
        let upload = meters.uploading();
        assert!(text(&meters).contains("connections 3"));
        assert!(text(&meters).contains("uploads_in_flight 1"));
        drop((first, stranger, upload));
        assert!(meters.institutions().contains_key(&name));
        drop(second);
        assert!(meters.institutions().is_empty());
        assert!(text(&meters).contains("connections 0"));
        assert!(text(&meters).contains("uploads_in_flight 0"));
    }

    #[test]
    fn commits_are_measured() {
        let meters = Meters::default();
        meters.opened(3);
        assert!(text(&meters).contains("journal_entries 3"));
        meters.committed(5, Duration::from_millis(1));
        let text = text(&meters);
        assert!(text.contains("journal_entries 5"), "{text}");
        assert!(text.contains("journal_commit_seconds_count 1"), "{text}");
    }
}
