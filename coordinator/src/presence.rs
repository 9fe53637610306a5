//! Who is there: which institutions have a call open or made one lately, and which process of an
//! institution speaks for it. Kept in memory, bounded by who is enrolled, and forgotten at a stop. An
//! observation and never an event: a round takes from it only whom it does not wait for.
//!
//! One institution is one agent. A second process with the same certificate, such as a copied directory
//! started on another machine, is turned away for as long as the first one is there; when the first has
//! gone, the second may take its place.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};

use collegium_proto::convert::Instance;
use collegium_shared::{
    clock::{Clock, Timestamp},
    ids::InstitutionId,
};
use thiserror::Error;
use tokio::{sync::Notify, time::Instant};

#[cfg(test)]
mod tests;

/// After a start, and after an enrolment, an institution that has not called yet counts as present for
/// so long: agents come back with a pause between their tries.
const GRACE: Duration = Duration::from_secs(60);

/// Another process of the institution is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error(
    "another agent of this institution has been connected since {since}; if this one is a copy, stop it: an institution runs one agent"
)]
pub struct Occupied {
    pub since: Timestamp,
}

/// What is known of who is there. Cheap to clone; clones share it.
#[derive(Clone)]
pub struct Presence(Arc<Shared>);

struct Shared {
    clock: Clock,
    /// How long after its last call an institution still counts as present.
    window: Duration,
    started: Instant,
    members: Mutex<BTreeMap<InstitutionId, Seen>>,
    /// Somebody came who was not there before.
    arrived: Notify,
}

#[derive(Default)]
struct Seen {
    enrolled: Option<Instant>,
    /// Calls that are open.
    open: usize,
    /// When the last call began or ended.
    last: Option<Instant>,
    /// It takes part in no new round for now, by its own word.
    away: bool,
    process: Option<Process>,
    /// The newest process that was turned away.
    turned_away: Option<(Instance, Timestamp)>,
}

/// The process that speaks for an institution.
struct Process {
    instance: Instance,
    since: Timestamp,
    /// Gone when its connection is closed.
    connection: Weak<()>,
    open: usize,
    last: Instant,
}

impl Process {
    /// A closed connection ends it at once, so that a restart costs nothing; behind a proxy that keeps
    /// the connection, silence does.
    fn is_there(&self, window: Duration, now: Instant) -> bool {
        let recent = self.open > 0 || now.duration_since(self.last) < window;
        self.connection.strong_count() > 0 && recent
    }
}

impl Seen {
    fn is_connected(&self, shared: &Shared, now: Instant) -> bool {
        let lately = |last| now.duration_since(last) < shared.window;
        self.open > 0 || self.last.is_some_and(lately)
    }

    fn counts(&self, shared: &Shared, now: Instant) -> bool {
        if self.last.is_none() {
            let since = self.enrolled.map_or(shared.started, |at| at.max(shared.started));
            return now.duration_since(since) < GRACE;
        }
        !self.away && self.is_connected(shared, now)
    }
}

/// What a status says of who is there.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Report {
    pub expected: usize,
    /// Members that a round would wait for.
    pub present: usize,
    /// Members that have a call open or made one lately, whatever they say of themselves.
    pub connected: usize,
    /// Members that are not there.
    pub missing: Vec<InstitutionId>,
    /// Members that are there and take part in no new round for now.
    pub away: Vec<InstitutionId>,
    /// Members of which a second process was turned away, and when last.
    pub copies: Vec<(InstitutionId, Timestamp)>,
}

impl Presence {
    /// `patience` is how long a poll stays open.
    pub fn new(clock: Clock, patience: Duration) -> Self {
        Self(Arc::new(Shared {
            clock,
            window: 2 * patience,
            started: Instant::now(),
            members: Mutex::default(),
            arrived: Notify::new(),
        }))
    }

    fn members(&self) -> MutexGuard<'_, BTreeMap<InstitutionId, Seen>> {
        self.0.members.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The institution was given a certificate.
    pub fn enrolled(&self, institution: &InstitutionId) {
        self.members().entry(institution.clone()).or_default().enrolled = Some(Instant::now());
    }

    /// A call of an institution that proved who it is; it lasts until what this returns is dropped.
    pub fn call(&self, institution: &InstitutionId) -> Call {
        self.call_at(institution, Instant::now())
    }

    fn call_at(&self, institution: &InstitutionId, now: Instant) -> Call {
        self.update(institution, now, |seen| {
            seen.open += 1;
            seen.last = Some(now);
        });
        Call { presence: self.clone(), institution: institution.clone(), instance: None }
    }

    /// Changes an entry, and wakes whoever waits for somebody to come.
    fn update(&self, institution: &InstitutionId, now: Instant, change: impl FnOnce(&mut Seen)) {
        let mut members = self.members();
        let seen = members.entry(institution.clone()).or_default();
        let before = seen.counts(&self.0, now);
        change(seen);
        if !before && seen.counts(&self.0, now) {
            self.0.arrived.notify_one();
        }
    }

    /// Turns `call` into a poll by this process. `away` is its own word.
    pub fn poll(
        &self,
        call: &mut Call,
        instance: Option<Instance>,
        away: bool,
        connection: Weak<()>,
    ) -> Result<(), Occupied> {
        self.poll_at(call, instance, away, connection, Instant::now())
    }

    fn poll_at(
        &self,
        call: &mut Call,
        instance: Option<Instance>,
        away: bool,
        connection: Weak<()>,
        now: Instant,
    ) -> Result<(), Occupied> {
        let (window, since) = (self.0.window, self.0.clock.now());
        let mut answer = Ok(());
        self.update(&call.institution, now, |seen| {
            let Some(instance) = instance else {
                seen.away = away;
                return;
            };
            let other = seen.process.as_ref().filter(|process| process.instance != instance);
            if let Some(other) = other.filter(|other| other.is_there(window, now)) {
                answer = Err(Occupied { since: other.since });
                return;
            }
            if other.is_some() || seen.process.is_none() {
                let (open, last) = (0, now);
                seen.process = Some(Process { instance, since, connection, open, last });
                seen.turned_away = None;
            } else if let Some(process) = &mut seen.process {
                process.connection = connection;
            }
            seen.away = away;
            if let Some(process) = &mut seen.process {
                process.open += 1;
                process.last = now;
                call.instance = Some(instance);
            }
        });
        answer
    }

    /// Notes that this process was turned away; true if that is news.
    pub fn turn_away(&self, institution: &InstitutionId, instance: Option<Instance>) -> bool {
        let (at, mut members) = (self.0.clock.now(), self.members());
        let (Some(seen), Some(instance)) = (members.get_mut(institution), instance) else {
            return false;
        };
        let earlier = seen.turned_away.replace((instance, at));
        earlier.is_none_or(|(earlier, _)| earlier != instance)
    }

    /// When a second process of this institution was turned away last, if that was since the first came.
    pub fn turned_away(&self, institution: &InstitutionId) -> Option<Timestamp> {
        let members = self.members();
        members.get(institution)?.turned_away.as_ref().map(|(_, at)| *at)
    }

    /// Waits until somebody comes who was not there before.
    pub async fn arrived(&self) {
        self.0.arrived.notified().await;
    }

    /// Those of `expected` that are not to be waited for.
    pub fn missing(&self, expected: &BTreeSet<InstitutionId>) -> BTreeSet<InstitutionId> {
        self.missing_at(expected, Instant::now())
    }

    fn missing_at(
        &self,
        expected: &BTreeSet<InstitutionId>,
        now: Instant,
    ) -> BTreeSet<InstitutionId> {
        let (members, unseen) = (self.members(), Seen::default());
        let missing =
            |name: &&InstitutionId| !members.get(*name).unwrap_or(&unseen).counts(&self.0, now);
        expected.iter().filter(missing).cloned().collect()
    }

    /// Who of `expected` is there.
    pub fn report(&self, expected: &BTreeSet<InstitutionId>) -> Report {
        let missing = self.missing(expected);
        let members = self.members();
        let is_away = |name: &InstitutionId| members.get(name).is_some_and(|seen| seen.away);
        let copies = members.iter().filter_map(|(name, seen)| {
            seen.turned_away.as_ref().map(|(_, at)| (name.clone(), *at))
        });
        let (away, missing): (Vec<_>, Vec<_>) = missing.into_iter().partition(is_away);
        let now = Instant::now();
        let connected = |name: &&InstitutionId| {
            members.get(*name).is_some_and(|seen| seen.is_connected(&self.0, now))
        };
        Report {
            expected: expected.len(),
            present: expected.len() - away.len() - missing.len(),
            connected: expected.iter().filter(connected).count(),
            missing,
            away,
            copies: copies.collect(),
        }
    }
}

/// An open call.
pub struct Call {
    presence: Presence,
    institution: InstitutionId,
    /// The process that polls.
    instance: Option<Instance>,
}

impl Drop for Call {
    fn drop(&mut self) {
        let now = Instant::now();
        let mut members = self.presence.members();
        let Some(seen) = members.get_mut(&self.institution) else { return };
        seen.open = seen.open.saturating_sub(1);
        seen.last = Some(now);
        let own = seen.process.as_mut().filter(|p| Some(&p.instance) == self.instance.as_ref());
        if let Some(process) = own {
            process.open = process.open.saturating_sub(1);
            process.last = now;
        }
    }
}
