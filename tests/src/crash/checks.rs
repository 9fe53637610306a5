//! What must hold after the harm, read off the logs and files of everybody: exact sums, endings with a
//! reason, one commitment and one upload for each attempt, nothing durable that was lost.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use anyhow::Context;
use collegium_agent::{session::SessionEvent, state::AgentEvent};
use collegium_coordinator::{
    SIGNING_KEY,
    network::{Event, NetworkEvent},
    round::RoundEvent,
    store::check,
};
use collegium_shared::{
    architecture::{
        self, Optimizer, Sizes, Sums,
        load_test::{self, Moves},
    },
    audit::{self, Finding},
    clock::Timestamp,
    crypto::{Digest, SigningKey},
    ids::{InstitutionId, RoundId},
    journal::{Checkpoint, Entry, History},
    protocol::{Ending, Outcome as Proposal, Plan, Ready},
    tensors,
};

use super::{
    Options, Return,
    stage::{Stage, UNDISTURBED},
    storm::Struck,
};

/// How a round ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Outcome {
    /// The sum over everybody.
    Full,
    /// The sum over some.
    Partial,
    Aborted,
    Failed,
    Abandoned,
    /// No round was open.
    Between,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Full => "full sum",
            Self::Partial => "partial sum",
            Self::Aborted => "aborted",
            Self::Failed => "failed",
            Self::Abandoned => "abandoned",
            Self::Between => "no round open",
        })
    }
}

/// What was found.
pub(super) struct Found {
    /// Of the round that each fault fell into.
    pub(super) outcomes: Vec<Outcome>,
    pub(super) endings: BTreeMap<Outcome, usize>,
    pub(super) violations: Vec<String>,
}

/// One attempt at a round, by the coordinator's log.
struct Attempt {
    plan: Plan,
    from: Timestamp,
    until: Option<Timestamp>,
    commitments: BTreeMap<InstitutionId, Digest>,
    summed: BTreeSet<InstitutionId>,
    ending: Option<Ending>,
}

impl Attempt {
    fn outcome(&self, everybody: usize) -> Outcome {
        match &self.ending {
            Some(Ending::Released { .. }) if self.summed.len() == everybody => Outcome::Full,
            Some(Ending::Released { .. }) => Outcome::Partial,
            Some(Ending::Aborted) => Outcome::Aborted,
            Some(Ending::Failed { .. }) => Outcome::Failed,
            Some(Ending::Abandoned { .. }) => Outcome::Abandoned,
            None => Outcome::Between,
        }
    }
}

/// The coordinator's log, by attempts and models.
#[derive(Default)]
struct Story {
    attempts: Vec<Attempt>,
    /// Task's number and step, and the weights.
    models: Vec<(u32, u32, Digest)>,
    equivocations: usize,
}

impl Story {
    fn read(events: &[Entry<Event>]) -> Self {
        let mut story = Self::default();
        let mut task = 0;
        for Entry { at, event } in events {
            match event {
                Event::Network(NetworkEvent::TaskStarted { .. }) => task += 1,
                Event::Network(NetworkEvent::ModelStepped { candidate }) => {
                    story.models.push((task, candidate.step, candidate.weights));
                }
                Event::Network(NetworkEvent::Equivocated { .. }) => story.equivocations += 1,
                Event::Network(_) => {}
                Event::Round(event) => story.round(event, *at),
            }
        }
        story
    }

    fn round(&mut self, event: &RoundEvent, at: Timestamp) {
        if let RoundEvent::Planned { plan, .. } = event {
            self.attempts.push(Attempt {
                plan: plan.body.clone(),
                from: at,
                until: None,
                commitments: BTreeMap::new(),
                summed: BTreeSet::new(),
                ending: None,
            });
            return;
        }
        let Some(attempt) = self.attempts.last_mut() else { return };
        match event {
            RoundEvent::Ready { ready } => {
                let Ready { institution, commitment, .. } = &ready.body;
                attempt.commitments.insert(institution.clone(), *commitment);
            }
            RoundEvent::Proposed { outcome: Proposal::Survivors { survivors, .. } } => {
                let listed = attempt.commitments.keys().zip(0u16..);
                let summed = listed.filter(|(_, place)| survivors.contains(*place));
                attempt.summed = summed.map(|(name, _)| name.clone()).collect();
            }
            RoundEvent::Ended { ending } => {
                attempt.until = Some(at);
                attempt.ending = Some(ending.clone());
            }
            _ => {}
        }
    }
}

/// The weights after each step of the first task.
pub(super) fn models(stage: &Stage) -> anyhow::Result<Vec<Digest>> {
    let story = Story::read(&stage.events()?);
    Ok(story.models.iter().map(|(_, _, weights)| *weights).collect())
}

/// Stops everybody and checks everything. `undisturbed` are the models of the run without faults.
pub(super) fn check(
    stage: &mut Stage,
    options: &Options,
    undisturbed: &[Digest],
    struck: &[Struck],
) -> anyhow::Result<Found> {
    let mut violations = Vec::new();
    stage.network.stop().unwrap_or_else(|error| violations.push(format!("{error:#}")));
    let story = Story::read(&stage.events()?);
    let everybody = stage.names.len();
    endings(&story, options.back, everybody, &mut violations);
    sums(&story, &mut violations)?;
    weights(stage, &story, undisturbed, &mut violations)?;
    blobs(stage, &mut violations)?;
    prefixes(stage, struck, &mut violations)?;
    for name in stage.names.clone() {
        agent(stage, &name, &story, &mut violations)?;
    }
    let mut counts: BTreeMap<Outcome, usize> = BTreeMap::new();
    for attempt in story.attempts.iter().filter(|attempt| attempt.ending.is_some()) {
        *counts.entry(attempt.outcome(everybody)).or_default() += 1;
    }
    let outcome = |fault: &Struck| {
        let open = |a: &&Attempt| a.from <= fault.at && a.until.is_none_or(|end| fault.at < end);
        story.attempts.iter().find(open).map_or(Outcome::Between, |a| a.outcome(everybody))
    };
    let outcomes = struck.iter().map(outcome).collect();
    Ok(Found { outcomes, endings: counts, violations })
}

/// Every attempt but the one at work has ended, and says why if it gave no sum. With everybody back at
/// once, every sum is over everybody.
fn endings(story: &Story, back: Return, everybody: usize, violations: &mut Vec<String>) {
    let last = story.attempts.len().saturating_sub(1);
    for (place, attempt) in story.attempts.iter().enumerate() {
        let round = &attempt.plan.round;
        match &attempt.ending {
            None if place < last => violations.push(format!("round {round} never ended")),
            Some(Ending::Abandoned { reason }) if reason.is_empty() => {
                violations.push(format!("round {round} was abandoned without a reason"));
            }
            Some(Ending::Failed { dealer }) => {
                violations.push(format!("round {round} blames {dealer}, who is honest"));
            }
            _ => {}
        }
        let outcome = attempt.outcome(everybody);
        if back == Return::AtOnce && !matches!(outcome, Outcome::Full | Outcome::Between) {
            violations.push(format!("round {round} ended as {outcome}: {:?}", attempt.ending));
        }
    }
    if story.equivocations > 0 {
        violations.push(format!("{} second messages in a phase", story.equivocations));
    }
}

/// Every opened sum is, value for value, that of the public inputs of those it names: the log has its
/// digest, though the file is erased.
fn sums(story: &Story, violations: &mut Vec<String>) -> anyhow::Result<()> {
    for attempt in &story.attempts {
        let Some(Ending::Released { sum }) = &attempt.ending else { continue };
        let Plan { round, stage, hyper, encoding, .. } = &attempt.plan;
        let mut sums = Sums::new();
        let none = Sizes { items: 0, competencies: 0 };
        architecture::complete_sums(&mut sums, stage, hyper, none);
        let values = expected(attempt.summed.iter(), round, encoding.dimension());
        sums.insert(load_test::MOVE.to_owned(), values);
        if *sum != Digest::of(&tensors::write_sums(&sums)?) {
            violations
                .push(format!("the sum of round {round} is not that of {:?}", attempt.summed));
        }
    }
    Ok(())
}

/// Blobs are those that the state needs, and what the stop cut off: of a sum and a model at most.
fn blobs(stage: &Stage, violations: &mut Vec<String>) -> anyhow::Result<()> {
    let dir = stage.network.coordinator_dir();
    let key = SigningKey::load(&dir.join(SIGNING_KEY))?.verifying_key();
    let report = check::check(&dir, &key);
    violations.extend(report.findings.into_iter().map(|finding| finding.what));
    if report.orphans > 2 {
        violations.push(format!("{} blobs that nothing names were not erased", report.orphans));
    }
    Ok(())
}

/// The sum of the public moves of `names`: exact in any order, for so few.
fn expected<'n>(
    names: impl Iterator<Item = &'n InstitutionId>,
    round: &RoundId,
    length: usize,
) -> Vec<f64> {
    let bound = Optimizer::default().bound;
    let moves: Vec<Moves> = names.map(|name| Moves::new(name, round, bound)).collect();
    (0..length as u64).map(|i| moves.iter().map(|moves| moves.value(i)).sum()).collect()
}

/// The first steps are those of the undisturbed run as long as sums were over everybody, and the last
/// model of each task is the sum of all its moves.
fn weights(
    stage: &Stage,
    story: &Story,
    undisturbed: &[Digest],
    violations: &mut Vec<String>,
) -> anyhow::Result<()> {
    let everybody = stage.names.len();
    let released = |attempt: &&Attempt| matches!(attempt.ending, Some(Ending::Released { .. }));
    let firsts = story.attempts.iter().filter(released).take(UNDISTURBED as usize);
    let full = firsts.take_while(|a| a.outcome(everybody) == Outcome::Full).count();
    let known = story.models.iter().map(|(_, _, weights)| weights).zip(undisturbed);
    if known.take(full + 1).any(|(given, undisturbed)| given != undisturbed) {
        violations.push("the model differs from the undisturbed one".into());
    }
    let Some((last, step, digest)) = story.models.last() else { return Ok(()) };
    let mut sum: Vec<f64> = Vec::new();
    let mut steps = 0;
    let task = format!("crash-{last}");
    for attempt in story.attempts.iter().filter(released) {
        if attempt.plan.round.task.as_str() == task && steps < *step {
            let length = attempt.plan.encoding.dimension();
            sum.resize(length, 0.0);
            let moves = expected(attempt.summed.iter(), &attempt.plan.round, length);
            sum.iter_mut().zip(moves).for_each(|(sum, value)| *sum += value);
            steps += 1;
        }
    }
    let layout = load_test::layout(u32::try_from(sum.len())?);
    #[expect(clippy::cast_possible_truncation, reason = "such sums are exact in single precision")]
    let model: Vec<f32> = sum.into_iter().map(|value| value as f32).collect();
    if steps > 0 && *digest != Digest::of(&tensors::write_model(&layout, &model)?) {
        violations.push(format!("the model after {step} steps is not the sum of its moves"));
    }
    Ok(())
}

/// What was durable at a fault is the beginning of the log as it is now.
fn prefixes(stage: &Stage, struck: &[Struck], violations: &mut Vec<String>) -> anyhow::Result<()> {
    let dir = stage.network.coordinator_dir();
    let key = SigningKey::load(&dir.join(SIGNING_KEY))?.verifying_key();
    let history = History::audit(&dir.join("journal"), &key)?;
    let mut seen = 0;
    for Struck { edge, checkpoint, .. } in struck {
        let Ok(old) = Checkpoint::open(checkpoint, &key) else { continue };
        seen += 1;
        let proof = history.consistency_proof(old.size, history.size())?;
        let kept = proof.is_some_and(|proof| {
            let (size, root) = (history.size(), history.root());
            audit::verify_consistency(old.size, &old.root, size, &root, &proof)
        });
        if !kept {
            violations.push(format!("what was durable at a fault {edge} is not in the log"));
        }
    }
    if seen < struck.len() / 2 {
        violations.push(format!("only {seen} of {} checkpoints could be read", struck.len()));
    }
    Ok(())
}

/// An agent's own log: sound, one commitment and one set of masks for each attempt, and what it
/// committed to is what the coordinator's log says.
fn agent(
    stage: &Stage,
    name: &InstitutionId,
    story: &Story,
    violations: &mut Vec<String>,
) -> anyhow::Result<()> {
    for verify in [
        stage.network.agent(name, &["audit", "verify"]),
        stage.network.coordinator(&["audit", "verify"]),
    ] {
        verify.map(drop).unwrap_or_else(|error| violations.push(format!("{error:#}")));
    }
    let dir = stage.network.agent_dir(name);
    let key = SigningKey::load(&dir.join("keys").join("identity.key"))?.verifying_key();
    let mut committed: BTreeMap<RoundId, Digest> = BTreeMap::new();
    let mut sent: BTreeMap<RoundId, Digest> = BTreeMap::new();
    let mut twice = Vec::new();
    let mut note = |known: &mut BTreeMap<RoundId, Digest>, round: &RoundId, digest: &Digest| {
        if known.insert(round.clone(), *digest).is_some_and(|before| before != *digest) {
            twice.push(format!("{name} did round {round} with two inputs or two sets of masks"));
        }
    };
    let history = History::audit(&dir.join("journal"), &key)?;
    let mut entries = Vec::new();
    history.replay(0, |_, payload| {
        entries.push(serde_json::from_slice::<Entry<AgentEvent>>(payload));
        Ok::<(), Finding>(())
    })?;
    for entry in entries {
        match entry.context("an agent's entry")?.event {
            AgentEvent::Session(SessionEvent::Committed { round, commitment, .. }) => {
                note(&mut committed, &round, &commitment);
            }
            AgentEvent::Session(SessionEvent::Sending { round, context }) => {
                note(&mut sent, &round, &context);
            }
            _ => {}
        }
    }
    violations.append(&mut twice);
    for attempt in &story.attempts {
        let round = &attempt.plan.round;
        let stated = attempt.commitments.get(name);
        if stated.is_some() && stated != committed.get(round) {
            violations.push(format!("{name} committed to something else in round {round}"));
        }
        if attempt.summed.contains(name) && !sent.contains_key(round) {
            violations.push(format!("{name} never said that it sends in round {round}"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{fixtures, testbed::events};

    /// A whole task, all of whose sums are over everybody.
    fn story() -> Story {
        let dir = tempfile::tempdir().unwrap();
        let copy = dir.path().join("coordinator");
        fixtures::copy(&fixtures::place("v1").join("coordinator"), &copy, &|_| true).unwrap();
        Story::read(&events(&copy).unwrap())
    }

    /// What is said after `harm`.
    fn said(back: Return, harm: impl FnOnce(&mut Story)) -> Vec<String> {
        let mut story = story();
        let everybody = story.attempts[0].summed.len();
        harm(&mut story);
        let mut violations = Vec::new();
        endings(&story, back, everybody, &mut violations);
        violations
    }

    #[test]
    fn endings_that_must_not_be_are_found() {
        assert!(story().attempts[0].summed.len() > 1);
        assert_eq!(said(Return::AtOnce, |_| {}), [""; 0]);
        let first =
            |ending: Option<Ending>| move |story: &mut Story| story.attempts[0].ending = ending;
        let dealer = story().attempts[0].summed.first().unwrap().clone();
        let abandoned = |reason: &str| Some(Ending::Abandoned { reason: reason.to_owned() });
        assert!(said(Return::Late, first(None))[0].contains("never ended"));
        assert!(said(Return::Late, first(Some(Ending::Failed { dealer })))[0].contains("honest"));
        assert!(said(Return::Late, first(abandoned("")))[0].contains("without a reason"));
        assert_eq!(said(Return::Late, first(abandoned("late"))), [""; 0]);
        assert!(said(Return::AtOnce, first(abandoned("late")))[0].contains("ended as abandoned"));
        let fewer = |story: &mut Story| drop(story.attempts[0].summed.pop_first());
        assert!(said(Return::AtOnce, fewer)[0].contains("partial sum"));
        assert!(said(Return::Late, |story| story.equivocations = 1)[0].contains("second message"));
    }

    #[test]
    fn a_sum_without_one_or_of_another_round_is_another() {
        let names: Vec<InstitutionId> = ["a", "b"].map(|name| name.parse().unwrap()).into();
        let round = |round| RoundId { task: "crash-1".parse().unwrap(), round, attempt: 0 };
        let sum = expected(names.iter(), &round(0), 20);
        assert_ne!(sum, expected(names[..1].iter(), &round(0), 20));
        assert_ne!(sum, expected(names.iter(), &round(1), 20));
        let retried = RoundId { attempt: 3, ..round(0) };
        assert_eq!(sum, expected(names.iter(), &retried, 20), "a retry uses the same input");
    }
}
