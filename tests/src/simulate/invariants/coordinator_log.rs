//! What the network's log may say, entry by entry, judged by the entries before it alone.

use std::collections::{BTreeMap, BTreeSet};

use collegium_coordinator::{
    network::{Event, NetworkEvent},
    round::RoundEvent,
};
use collegium_shared::{
    crypto::{Digest, Signature},
    ids::{InstitutionId, RoundId},
    protocol::{Ending, Outcome, Phase, Plan, Ready, UploadHeader, Vote},
    secagg::quorum,
    signed::{Signed, Statement},
};

use super::{CoordinatorTrace, Invariant, Invariants, Violation, broken, hold};
use crate::simulate::{coordinator::Coordinator, wire::Mark};

/// One attempt, as the log tells it.
pub(super) struct RoundTrace {
    plan: Signed<Plan>,
    phase: Phase,
    ready: BTreeMap<InstitutionId, Ready>,
    list: Vec<InstitutionId>,
    dealt: BTreeSet<InstitutionId>,
    uploads: BTreeMap<InstitutionId, UploadHeader>,
    proposal: Option<Outcome>,
    votes: BTreeSet<InstitutionId>,
    reveals: BTreeSet<InstitutionId>,
    ending: Option<Ending>,
}

impl RoundTrace {
    fn new(plan: Signed<Plan>) -> Self {
        Self {
            plan,
            phase: Phase::Ready,
            ready: BTreeMap::new(),
            list: Vec::new(),
            dealt: BTreeSet::new(),
            uploads: BTreeMap::new(),
            proposal: None,
            votes: BTreeSet::new(),
            reveals: BTreeSet::new(),
            ending: None,
        }
    }

    fn quorum(&self) -> usize {
        quorum(self.list.len(), usize::from(self.plan.body.cohort.c_max))
    }

    /// The institutions in the sum that is proposed; none for ABORT.
    fn survivors(&self) -> Option<Vec<&InstitutionId>> {
        let Some(Outcome::Survivors { survivors, .. }) = &self.proposal else { return None };
        let named = self.list.iter().zip(0..).filter(|(_, place)| survivors.contains(*place));
        Some(named.map(|(who, _)| who).collect())
    }

    fn enter(&mut self, from: Phase, to: Phase) -> Result<(), Violation> {
        let (round, is) = (&self.plan.body.round, self.phase);
        hold(is == from, Invariant::Forward, || {
            format!("round {round} went from {is:?} to {to:?}")
        })?;
        self.phase = to;
        Ok(())
    }

    /// Takes in one statement, the only one of its author in this phase.
    fn take(&self, who: &InstitutionId, phase: Phase, new: bool) -> Result<(), Violation> {
        let (round, is) = (&self.plan.body.round, self.phase);
        hold(new, Invariant::OneMessage, || {
            format!("a second {phase:?} statement of {who} was accepted in round {round}")
        })?;
        hold(is == phase, Invariant::Forward, || {
            format!("round {round} took a statement for {phase:?} in {is:?}")
        })
    }

    /// A quorum's votes for a sum of enough.
    fn certify(&mut self) -> Result<(), Violation> {
        let (least, given) = (self.plan.body.cohort.least(), self.votes.len());
        let enough = given >= self.quorum()
            && self.survivors().is_some_and(|survivors| survivors.len() >= least);
        hold(enough, Invariant::Quorum, || {
            format!("round {} was certified by {given} votes", self.plan.body.round)
        })?;
        self.enter(Phase::Vote, Phase::Reveal)
    }

    fn open(&mut self) -> Result<(), Violation> {
        let given = self.reveals.len();
        hold(given >= self.quorum(), Invariant::Quorum, || {
            format!("round {} was opened with the shares of {given}", self.plan.body.round)
        })?;
        self.enter(Phase::Reveal, Phase::Open)
    }

    /// Folds one entry that is not the round's end.
    fn moved(&mut self, event: &RoundEvent) -> Result<(), Violation> {
        match event {
            RoundEvent::Planned { .. }
            | RoundEvent::Declined { .. }
            | RoundEvent::Resumed
            | RoundEvent::Ended { .. } => Ok(()),
            RoundEvent::Ready { ready } => {
                let who = &ready.body.institution;
                let before = self.ready.insert(who.clone(), ready.body.clone());
                self.take(who, Phase::Ready, before.is_none())
            }
            RoundEvent::Listed { .. } => {
                self.list = self.ready.keys().cloned().collect();
                self.enter(Phase::Ready, Phase::Share)
            }
            RoundEvent::Dealt { header } => {
                let who = &header.body.institution;
                let new = self.dealt.insert(who.clone());
                self.take(who, Phase::Share, new)
            }
            RoundEvent::Shared { .. } => self.enter(Phase::Share, Phase::Upload),
            RoundEvent::Uploaded { header } => {
                let who = &header.body.institution;
                let before = self.uploads.insert(who.clone(), header.body.clone());
                self.take(who, Phase::Upload, before.is_none())
            }
            RoundEvent::Proposed { outcome } => {
                self.proposal = Some(outcome.clone());
                self.enter(Phase::Upload, Phase::Vote)
            }
            RoundEvent::Voted { institution, .. } => {
                let new = self.votes.insert(institution.clone());
                self.take(institution, Phase::Vote, new)
            }
            RoundEvent::Certified => self.certify(),
            RoundEvent::Revealed { header, .. } => {
                let who = &header.body.institution;
                let new = self.reveals.insert(who.clone());
                self.take(who, Phase::Reveal, new)
            }
            RoundEvent::Opening => self.open(),
        }
    }

    fn end(&mut self, ending: &Ending) -> Result<(), Violation> {
        let round = &self.plan.body.round;
        let before = self.ending.replace(ending.clone());
        hold(before.is_none(), Invariant::Forward, || format!("round {round} ended twice"))?;
        let was = std::mem::replace(&mut self.phase, Phase::Ended);
        match ending {
            Ending::Released { .. } => hold(was == Phase::Open, Invariant::Quorum, || {
                format!("the sum of round {round} was never opened")
            }),
            Ending::Aborted => {
                let aborts = matches!(self.proposal, Some(Outcome::Abort { .. }));
                let enough = aborts && self.votes.len() >= self.quorum();
                hold(enough, Invariant::Quorum, || format!("round {round} was aborted by few"))
            }
            Ending::Failed { .. } | Ending::Abandoned { .. } => Ok(()),
        }
    }
}

impl CoordinatorTrace {
    /// The round that an entry is about: the newest one.
    fn newest(&self) -> Result<RoundId, Violation> {
        let round = self.network.round().map(|round| round.plan().round.clone());
        round.map_or_else(|| broken(Invariant::Forward, "a round's entry without a round"), Ok)
    }

    fn plan(&mut self, plan: &Signed<Plan>) -> Result<(), Violation> {
        let round = plan.body.round.clone();
        let open = self.network.open_round().is_some();
        hold(!open, Invariant::Forward, || format!("round {round} began while one was open"))?;
        let last = self.last.insert(round.task.to_string(), round.clone());
        hold(last.is_none_or(|last| last < round), Invariant::Forward, || {
            format!("round {round} came after a newer one")
        })?;
        self.rounds.insert(round, RoundTrace::new(plan.clone()));
        Ok(())
    }
}

impl Invariants {
    /// Judges the next durable entry of the coordinator, before it is folded.
    pub(super) fn check_event(
        &mut self,
        event: &Event,
        coordinator: &Coordinator,
    ) -> Result<(), Violation> {
        match event {
            Event::Round(RoundEvent::Planned { plan, .. }) => self.coordinator.plan(plan),
            Event::Round(event) => {
                let round = self.coordinator.newest()?;
                self.check_author(&round, event)?;
                let Some(trace) = self.coordinator.rounds.get_mut(&round) else {
                    return broken(Invariant::Forward, format!("round {round} has no plan"));
                };
                if let RoundEvent::Ready { ready } = event {
                    self.coordinator.heads.accepted(&ready.body, &trace.plan.body)?;
                }
                let RoundEvent::Ended { ending } = event else { return trace.moved(event) };
                trace.end(ending)?;
                *self.endings.entry(name(ending)).or_default() += 1;
                match ending {
                    Ending::Released { sum } => self.check_sum(&round, sum, coordinator),
                    _ => Ok(()),
                }
            }
            Event::Network(NetworkEvent::ModelReleased { release }) => {
                self.released(&release.manifest, coordinator)
            }
            Event::Network(_) => Ok(()),
        }
    }

    /// The opened sum is the sum of what its survivors committed to.
    fn check_sum(
        &mut self,
        round: &RoundId,
        sum: &Digest,
        coordinator: &Coordinator,
    ) -> Result<(), Violation> {
        let Some(trace) = self.coordinator.rounds.get(round) else { return Ok(()) };
        let survivors = trace.survivors().unwrap_or_default();
        let mut expected = vec![0_u32; trace.plan.body.encoding.dimension()];
        for who in &survivors {
            let commitment = trace.ready.get(*who).map(|ready| ready.commitment);
            let Some(input) = commitment.and_then(|c| self.inputs.get(&c)) else {
                return broken(Invariant::Sum, format!("{who} committed to nothing known"));
            };
            expected.iter_mut().zip(input).for_each(|(sum, word)| *sum = sum.wrapping_add(*word));
        }
        hold(coordinator.sums.get(sum) == Some(&expected), Invariant::Sum, || {
            format!("the sum of round {round} is not that of its {} survivors", survivors.len())
        })
    }

    /// Accepted over its author's channel, with its author's signature.
    fn check_author(&mut self, round: &RoundId, event: &RoundEvent) -> Result<(), Violation> {
        let trace = self.coordinator.rounds.get(round);
        let Some((who, mark, signed, signature)) = authored(event, trace) else { return Ok(()) };
        let came = self.arrived.contains(&(who.clone(), mark));
        let key = self.keys.get(&who);
        let right = key.is_some_and(|key| key.verify(signed.as_bytes(), &signature).is_ok());
        hold(came && right, Invariant::Identity, || {
            format!("a {:?} statement of {who} was accepted that it did not hand in", mark.0)
        })?;
        self.coordinator.accepted.insert((who, mark));
        Ok(())
    }

    /// What a manifest says is what the log says.
    fn released(&mut self, digest: &Digest, coordinator: &Coordinator) -> Result<(), Violation> {
        let Some(signed) = coordinator.manifests.get(digest) else {
            return broken(Invariant::Lineage, "a model was released without a manifest");
        };
        let manifest = &signed.body;
        let Some(trace) = self.coordinator.rounds.get(&manifest.round) else {
            return broken(Invariant::Lineage, "a model of no round was released");
        };
        let task = manifest.round.task.to_string();
        let parent = self.coordinator.released.insert(task, *digest);
        let plan = &trace.plan.body;
        let uploads: Vec<Digest> = trace.uploads.values().map(|header| header.upload).collect();
        let right = signed.verify(&self.coordinator_key).is_ok()
            && manifest.plan == plan.digest()
            && manifest.roster == plan.roster
            && manifest.registry == plan.registry
            && manifest.cohort == plan.cohort
            && manifest.support == plan.inputs.support
            && Some(manifest.statistics) == plan.inputs.statistics
            && manifest.uploads == uploads
            && manifest.parent == parent;
        self.releases += 1;
        hold(right, Invariant::Lineage, || {
            format!("the manifest of version {} is not what the log says", manifest.version)
        })
    }
}

fn name(ending: &Ending) -> &'static str {
    match ending {
        Ending::Released { .. } => "released",
        Ending::Aborted => "aborted",
        Ending::Failed { .. } => "failed",
        Ending::Abandoned { .. } => "abandoned",
    }
}

/// Who is said to have said what, if anybody.
fn authored(
    event: &RoundEvent,
    trace: Option<&RoundTrace>,
) -> Option<(InstitutionId, Mark, Digest, Signature)> {
    let of = |phase, who: &InstitutionId, digest, signature| {
        Some((who.clone(), (phase, digest), digest, signature))
    };
    match event {
        RoundEvent::Ready { ready } => {
            of(Phase::Ready, &ready.body.institution, ready.digest(), ready.signature)
        }
        RoundEvent::Dealt { header } => {
            of(Phase::Share, &header.body.institution, header.digest(), header.signature)
        }
        RoundEvent::Uploaded { header } => {
            of(Phase::Upload, &header.body.institution, header.digest(), header.signature)
        }
        RoundEvent::Revealed { header, .. } => {
            of(Phase::Reveal, &header.body.institution, header.digest(), header.signature)
        }
        RoundEvent::Voted { institution, signature } => {
            let outcome = trace?.proposal.clone()?;
            let vote = Vote { institution: institution.clone(), outcome };
            let mark = (Phase::Vote, Digest::of(&signature.0));
            Some((institution.clone(), mark, vote.digest(), *signature))
        }
        _ => None,
    }
}
