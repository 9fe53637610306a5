//! What the agent counts for its operators, and how its state looks to Prometheus. Owns the names of
//! the metrics. Says no more than `status` does, and nothing that is about learners or their answers.

use std::{pin::Pin, sync::Arc, time::Duration};

use collegium_shared::{
    ops::{Daemon, Pulse},
    protocol::Ending,
};
use prometheus_client::{
    metrics::{
        counter::{ConstCounter, Counter},
        family::Family,
        gauge::{ConstGauge, Gauge},
        histogram::{Histogram, exponential_buckets},
    },
    registry::Registry,
};
use tokio::task::spawn_blocking;

use crate::{
    availability::Availability,
    home::Home,
    session::SessionEvent,
    state::{AgentEvent, AgentState, LocalEvent},
    status::{Live, Status},
};

/// What is counted while the agent runs. Clones count together.
#[derive(Clone)]
pub struct Meters {
    rounds: Family<[(&'static str, &'static str); 1], Counter>,
    joined: Counter,
    refused: Counter,
    commit_seconds: Histogram,
    computing_seconds: Histogram,
    entries: Gauge,
}

impl Default for Meters {
    fn default() -> Self {
        let meters = Self {
            rounds: Family::default(),
            joined: Counter::default(),
            refused: Counter::default(),
            // From a tenth of a millisecond to 13 s.
            commit_seconds: Histogram::new(exponential_buckets(0.000_1, 2.0, 18)),
            // From 10 ms to 2.9 h.
            computing_seconds: Histogram::new(exponential_buckets(0.01, 4.0, 11)),
            entries: Gauge::default(),
        };
        // Present from the start, so that the first of its kind is seen as an increase.
        for ending in ["released", "aborted", "failed", "abandoned", "left"] {
            drop(meters.rounds.get_or_create(&[("ending", ending)]));
        }
        meters
    }
}

impl Meters {
    /// Events became durable within `took`; the journal has `entries` entries now.
    pub(crate) fn recorded<'a>(
        &self,
        events: impl IntoIterator<Item = &'a AgentEvent>,
        entries: u64,
        took: Duration,
    ) {
        self.commit_seconds.observe(took.as_secs_f64());
        self.opened(entries);
        events.into_iter().for_each(|event| self.count(event));
    }

    /// The journal was opened with `entries` entries.
    pub(crate) fn opened(&self, entries: u64) {
        self.entries.set(i64::try_from(entries).unwrap_or(i64::MAX));
    }

    /// This institution's part of a round was computed within `took`.
    pub(crate) fn computed(&self, took: Duration) {
        self.computing_seconds.observe(took.as_secs_f64());
    }

    fn count(&self, event: &AgentEvent) {
        let ending = match event {
            AgentEvent::Session(SessionEvent::PlanAccepted { .. }) => {
                self.joined.inc();
                return;
            }
            AgentEvent::Local(LocalEvent::Refused { .. }) => {
                self.refused.inc();
                return;
            }
            AgentEvent::Session(SessionEvent::RoundLeft { .. }) => "left",
            AgentEvent::Session(SessionEvent::RoundEnded { ending, .. }) => match ending {
                Ending::Released { .. } => "released",
                Ending::Aborted => "aborted",
                Ending::Failed { .. } => "failed",
                Ending::Abandoned { .. } => "abandoned",
            },
            _ => return,
        };
        self.rounds.get_or_create(&[("ending", ending)]).inc();
    }

    fn measure(&self, registry: &mut Registry) {
        registry.register("rounds", "Rounds that ended for this institution", self.rounds.clone());
        let help = "Rounds that this institution agreed to take part in";
        registry.register("rounds_joined", help, self.joined.clone());
        let help = "Requests of the coordinator that this institution refused";
        registry.register("refusals", help, self.refused.clone());
        let help = "How long a batch of entries took to become durable";
        registry.register("journal_commit_seconds", help, self.commit_seconds.clone());
        let help = "How long the institution's part of a round took to be computed";
        registry.register("computing_seconds", help, self.computing_seconds.clone());
        registry.register("journal_entries", "Entries of the journal", self.entries.clone());
    }
}

/// The running agent, as probes and Prometheus see it.
pub(crate) struct Monitor {
    pub(crate) home: Arc<Home>,
    pub(crate) live: Arc<Live>,
    pub(crate) pulse: Pulse,
}

impl Daemon for Monitor {
    fn answers(&self) -> Pin<Box<dyn Future<Output = bool> + Send + '_>> {
        let home = Arc::clone(&self.home);
        // The journal is written on other threads: a disk that hangs shows there.
        let journal = spawn_blocking(move || home.book.read(AgentState::enrolled));
        Box::pin(async { self.pulse.felt().await && journal.await.is_ok() })
    }

    fn summary(&self) -> String {
        let round = self.home.book.read(|state| {
            let session = state.history().session().filter(|session| !session.over());
            session.map(|session| format!("round {}: {}", session.id(), session.phase()))
        });
        let line =
            if self.live.reachable() == Some(false) { "coordinator unreachable; " } else { "" };
        format!("{line}{}", round.unwrap_or_else(|| "no round is under way".into()))
    }

    fn measure(&self, registry: &mut Registry) {
        let registry = registry.sub_registry_with_prefix("collegium_agent");
        self.home.meters.measure(registry);
        match Status::of(&self.home, Some(&self.live)) {
            Ok(status) => {
                of_status(registry, &status);
                let away = i64::from(!Availability::of(&self.home).is_available());
                let help =
                    "Whether no new round is joined: paused, or outside the training windows";
                registry.register("paused", help, ConstGauge::new(away));
            }
            Err(error) => tracing::warn!(%error, "the status cannot be measured"),
        }
    }
}

fn of_status(registry: &mut Registry, status: &Status) {
    let mut gauge = |name: &str, help: &str, value: i64| {
        registry.register(name, help, ConstGauge::new(value));
    };
    let coordinator = &status.coordinator;
    let reachable = i64::from(coordinator.reachable == Some(true));
    gauge("coordinator_reachable", "Whether the coordinator answered last", reachable);
    if let Some(last) = coordinator.last_contact {
        let help = "When the coordinator answered last, Unix time";
        gauge("coordinator_last_contact_seconds", help, last.as_seconds());
    }
    let until = status.certificate.expires_at.as_seconds();
    gauge("certificate_expiry_seconds", "When this agent's certificate ends, Unix time", until);
    let in_round = i64::from(status.round.is_some());
    gauge("round_open", "Whether this institution is in a round", in_round);
    if let Some(roster) = &status.roster {
        let member = i64::from(roster.member);
        gauge("roster_member", "Whether the roster has this institution on it", member);
        let at = roster.expires_at.as_seconds();
        gauge("roster_expiry_seconds", "When the roster ends, Unix time", at);
    }
    let version = status.model.as_ref().map_or(0, |model| i64::from(model.version));
    gauge("model_version", "Version of the installed model; 0: none yet", version);
    if let Some(drift) = &status.drift {
        let shifted = i64::try_from(drift.shifted.len()).unwrap_or(i64::MAX);
        gauge(
            "drift_alarms",
            "What has shifted since the newest model: inputs, calibration, outcomes",
            shifted,
        );
        let proposed = i64::from(drift.training_proposed);
        gauge(
            "training_proposed",
            "Whether the newest model does so much worse on new answers",
            proposed,
        );
    }
    if let Some(traffic) = &status.traffic {
        let help = "Bytes of masked uploads that were handed to the line";
        registry.register("uploaded_bytes", help, ConstCounter::new(traffic.uploaded_bytes));
    }
}

#[cfg(test)]
mod tests {
    use collegium_shared::{crypto::Digest, ids::RoundId};
    use prometheus_client::encoding::text::encode;

    use super::*;

    #[test]
    fn rounds_and_refusals_are_counted() {
        let meters = Meters::default();
        let round = || RoundId { task: "spring".parse().unwrap(), round: 1, attempt: 0 };
        let ended = |ending| AgentEvent::from(SessionEvent::RoundEnded { round: round(), ending });
        let events = [
            ended(Ending::Aborted),
            ended(Ending::Released { sum: Digest([0; 32]) }),
            SessionEvent::RoundLeft { round: round(), reason: "r".into() }.into(),
            LocalEvent::Refused { round: round(), plan: Digest([0; 32]), reason: "r".into() }
                .into(),
        ];
        meters.recorded(&events, 9, Duration::from_millis(1));
        let mut registry = Registry::default();
        meters.measure(&mut registry);
        let mut text = String::new();
        encode(&mut text, &registry).unwrap();
        for line in [
            "rounds_total{ending=\"aborted\"} 1",
            "rounds_total{ending=\"released\"} 1",
            "rounds_total{ending=\"left\"} 1",
            "rounds_total{ending=\"failed\"} 0",
            "refusals_total 1",
            "rounds_joined_total 0",
            "journal_entries 9",
            "journal_commit_seconds_count 1",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is not in {text}");
        }
    }
}
