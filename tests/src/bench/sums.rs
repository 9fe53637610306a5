//! Whether the load test came out right: its weights must be the public moves of everybody who was
//! summed, bit by bit.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::Read,
    path::Path,
};

use anyhow::{Context, bail};
use collegium_coordinator::{
    network::{Event, NetworkEvent},
    round::RoundEvent,
};
use collegium_shared::{
    architecture::{Optimizer, load_test::Moves},
    blobs::Blobs,
    clock::Timestamp,
    crypto::Digest,
    ids::InstitutionId,
    journal::Entry,
    protocol::{Ending, Outcome, Plan},
};

use crate::testbed;

/// Values that are compared at once.
const CHUNK: usize = 1 << 16;

/// What the log says of the newest task.
#[derive(Default)]
pub(super) struct Course {
    /// When each round was planned, and when the task ended.
    turns: Vec<Timestamp>,
    /// When each phase of each round ended.
    phases: Vec<(&'static str, Timestamp)>,
    /// Plans, and who is in their sums.
    summed: Vec<(Plan, Vec<InstitutionId>)>,
    weights: Option<Digest>,
}

impl Course {
    /// Reads the log of the coordinator in `dir`; an error if a round gave no sum.
    pub(super) fn read(dir: &Path) -> anyhow::Result<Self> {
        let events = testbed::events(dir)?;
        let started = |entry: &Entry<Event>| {
            matches!(entry.event, Event::Network(NetworkEvent::TaskStarted { .. }))
        };
        let start = events.iter().rposition(started).context("there is no task")?;
        let mut course = Self::default();
        let mut round = Round::default();
        for entry in &events[start..] {
            match &entry.event {
                Event::Round(event) => {
                    if let RoundEvent::Planned { .. } = event {
                        course.turns.push(entry.at);
                    }
                    course.phases.extend(ended_phase(event).map(|phase| (phase, entry.at)));
                    course.summed.extend(round.follow(event)?);
                }
                Event::Network(NetworkEvent::ModelStepped { candidate }) => {
                    course.weights = Some(candidate.weights);
                }
                Event::Network(NetworkEvent::TaskEnded { .. }) => course.turns.push(entry.at),
                Event::Network(_) => {}
            }
        }
        Ok(course)
    }

    /// From each plan to the next, or to the end of the task, in seconds.
    pub(super) fn walls(&self) -> Vec<f64> {
        self.turns.windows(2).map(|pair| pair[1].since(pair[0]).as_secs_f64()).collect()
    }

    /// How long each phase took, in seconds: from the end of the one before it, in every round.
    pub(super) fn phase_walls(&self) -> BTreeMap<&'static str, Vec<f64>> {
        let mut walls: BTreeMap<_, Vec<f64>> = BTreeMap::new();
        for pair in self.phases.windows(2) {
            let [(_, begun), (phase, ended)] = pair else { continue };
            walls.entry(*phase).or_default().push(ended.since(*begun).as_secs_f64());
        }
        walls
    }

    /// Compares the last weights with the moves. Sums of so few moves are exact.
    pub(super) fn check(&self, dir: &Path) -> anyhow::Result<()> {
        let bound = Optimizer::default().bound;
        let all = self.summed.iter().flat_map(|(plan, names)| names.iter().map(move |n| (plan, n)));
        let moves: Vec<Moves> = all.map(|(plan, n)| Moves::new(n, &plan.round, bound)).collect();
        let weights = self.weights.context("the task made no weights")?;
        let (mut file, _) = Blobs::existing(&dir.join("blobs")).open_blob(&weights)?;
        let mut length = [0; 8];
        file.read_exact(&mut length)?;
        std::io::copy(&mut file.by_ref().take(u64::from_le_bytes(length)), &mut std::io::sink())?;
        let mut index = 0;
        loop {
            let mut bytes = Vec::with_capacity(4 * CHUNK);
            file.by_ref().take(4 * CHUNK as u64).read_to_end(&mut bytes)?;
            if bytes.is_empty() {
                break;
            }
            for weight in bytes.as_chunks::<4>().0 {
                let expected: f64 = moves.iter().map(|moves| moves.value(index)).sum();
                if f64::from(f32::from_le_bytes(*weight)) != expected {
                    bail!("weight {index} is not the sum of the moves: {expected} was expected");
                }
                index += 1;
            }
        }
        let expected = self.summed.first().map_or(0, |(plan, _)| plan.encoding.dimension());
        if index != expected as u64 {
            bail!("{index} weights, where {expected} were trained");
        }
        Ok(())
    }
}

/// The phase that ends with this event.
fn ended_phase(event: &RoundEvent) -> Option<&'static str> {
    match event {
        RoundEvent::Planned { .. } => Some("plan"),
        RoundEvent::Listed { .. } => Some("ready"),
        RoundEvent::Shared { .. } => Some("share"),
        RoundEvent::Proposed { .. } => Some("upload"),
        RoundEvent::Certified => Some("vote"),
        RoundEvent::Opening => Some("reveal"),
        RoundEvent::Ended { .. } => Some("open"),
        _ => None,
    }
}

/// One round, as its events pass.
#[derive(Default)]
struct Round {
    plan: Option<Plan>,
    /// Sorted, as L is.
    ready: BTreeSet<InstitutionId>,
    outcome: Option<Outcome>,
}

impl Round {
    /// The round's plan and who is in its sum, once there is one.
    fn follow(&mut self, event: &RoundEvent) -> anyhow::Result<Option<(Plan, Vec<InstitutionId>)>> {
        match event {
            RoundEvent::Planned { plan, .. } => {
                *self = Self { plan: Some(plan.body.clone()), ..Self::default() };
            }
            RoundEvent::Ready { ready } => {
                self.ready.insert(ready.body.institution.clone());
            }
            RoundEvent::Proposed { outcome } => self.outcome = Some(outcome.clone()),
            RoundEvent::Ended { ending: Ending::Released { .. } } => {
                let Some(Outcome::Survivors { survivors, .. }) = &self.outcome else {
                    bail!("a sum without survivors");
                };
                let places = self.ready.iter().zip(0_u16..);
                let named = places.filter(|(_, place)| survivors.contains(*place));
                let names = named.map(|(name, _)| name.clone()).collect();
                let plan = self.plan.clone().context("a round without a plan")?;
                return Ok(Some((plan, names)));
            }
            RoundEvent::Ended { ending } => bail!("a round gave no sum: {ending:?}"),
            _ => {}
        }
        Ok(None)
    }
}
