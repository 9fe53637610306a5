//! This institution's part in one attempt at one secure sum, as a pure, serialisable machine. It
//! sees what the coordinator shows (a view) and answers with facts to make durable and one action
//! to take after that. Every check of the protocol that protects the institution is here. Holds no
//! secret (they lie in the sealed session file), no clock, storage or wire.

mod event;
mod refusal;
mod sums;

use std::collections::BTreeMap;

use collegium_shared::{
    architecture::{Stage, charges},
    clock::Timestamp,
    crypto::{Digest, VerifyingKey},
    faults::{Defence, without},
    ids::{InstitutionId, RoundId},
    protocol::{
        BadCertificate, Before, Certificate, Inputs, Outcome, Phase, Plan, QuorumCertificate,
        RoundView, ShareHeader, UploadHeader, statements_root,
    },
    roster::VerifiedRoster,
    secagg::{self, MAX_MEMBERS, Member},
    signed::{Signed, Statement},
};
use serde::{Deserialize, Serialize};

use crate::{ledger::Ledger, policy::Policy};
use sums::Sums;

pub use event::SessionEvent;
pub use refusal::{LOW_COVERAGE, OWN_REASON, Refusal};

/// What to do once the facts are durable.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Nothing until the coordinator shows something new.
    Wait,
    /// Train, encode and commit to the input; then look at the same view again.
    Prepare,
    /// Send READY.
    Ready,
    /// Deal shares to the list.
    Deal { list: Digest },
    /// Mask the input and send it.
    Upload { context: Digest },
    /// Send the vote.
    Vote { outcome: Outcome },
    /// Send the shares that a quorum's certificate asks for.
    Reveal { certificate: QuorumCertificate, context: Digest },
    /// The round is over: erase its secrets.
    Finish,
}

/// Facts to make durable, in order, and what to do after that.
#[derive(Clone, Debug, PartialEq)]
pub struct Step {
    pub events: Vec<SessionEvent>,
    pub action: Action,
}

/// What the machine is told from outside besides the view.
#[derive(Clone, Copy)]
pub struct Surroundings<'a> {
    pub own: &'a InstitutionId,
    pub roster: &'a VerifiedRoster,
    /// The roster of the attempt before, whose input may have left ([`History::sent_roster`]).
    pub before: &'a VerifiedRoster,
    pub policy: &'a Policy,
    pub ledger: &'a Ledger,
    pub now: Timestamp,
}

/// One attempt, from the accepted plan on: pins, vote and how far things went.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Session {
    plan: Signed<Plan>,
    commitment: Option<Digest>,
    snapshot: Option<Digest>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    permitted: Option<Digest>,
    list: Option<Digest>,
    institutions: Vec<InstitutionId>,
    context: Option<Digest>,
    vote: Option<Outcome>,
    revealed: Option<Outcome>,
    over: bool,
}

impl Session {
    fn accepted(plan: Signed<Plan>) -> Self {
        Self {
            plan,
            commitment: None,
            snapshot: None,
            permitted: None,
            list: None,
            institutions: Vec::new(),
            context: None,
            vote: None,
            revealed: None,
            over: false,
        }
    }

    pub fn id(&self) -> &RoundId {
        &self.plan.body.round
    }

    pub fn plan(&self) -> &Plan {
        &self.plan.body
    }

    /// What every statement and every mask of this attempt is bound to.
    pub fn plan_digest(&self) -> Digest {
        match without(Defence::PlanBinding) {
            true => Digest::of(self.id().to_string().as_bytes()),
            false => self.plan.digest(),
        }
    }

    pub fn commitment(&self) -> Option<Digest> {
        self.commitment
    }

    pub fn over(&self) -> bool {
        self.over
    }

    /// The records that the input was made from.
    pub fn snapshot(&self) -> Option<Digest> {
        self.snapshot
    }

    /// What of the policy decided who counts in the input.
    pub fn permitted(&self) -> Option<Digest> {
        self.permitted
    }

    /// Whether the list was pinned, so that others hold this attempt's keys.
    pub fn listed(&self) -> bool {
        self.list.is_some()
    }

    /// Whether any byte of the masked input may have left.
    pub fn sent(&self) -> bool {
        self.context.is_some()
    }

    /// What is the most telling thing to say of it in a status line.
    pub fn phase(&self) -> &'static str {
        match self {
            Self { over: true, .. } => "ended",
            Self { revealed: Some(_), .. } => "revealing",
            Self { vote: Some(_), .. } => "voted",
            Self { context: Some(_), .. } => "uploading",
            Self { list: Some(_), .. } => "sharing",
            Self { commitment: Some(_), .. } => "ready",
            _ => "training",
        }
    }
}

/// What this institution remembers of all rounds: a fold over its own journal.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct History {
    session: Option<Session>,
    /// The newest round of each task that a plan was accepted for.
    last: BTreeMap<String, RoundId>,
    /// The attempt of each task whose input may have left, unless its ABORT was proven since. Kept
    /// apart from `session`, which another task's round may have replaced.
    sent: BTreeMap<String, Session>,
    /// Stages that do not depend on the weights, by "task stage", and where they were given.
    given: BTreeMap<String, RoundId>,
    /// The opened sums that each task goes by: the first ones named stay.
    basis: BTreeMap<String, Inputs>,
    /// Sums that do not depend on the weights.
    summed: Sums,
}

// --- What happened ---------------------------------------------------------------------------

impl History {
    pub fn session(&self) -> Option<&Session> {
        self.session.as_ref()
    }

    /// The roster that the attempt of this task went by whose input may have left.
    pub fn sent_roster(&self, task: &str) -> Option<Digest> {
        self.sent.get(task).map(|session| session.plan().roster)
    }

    /// Whether the newest round here was one of the plan's task, over the same registry: a task keeps to the
    /// one that it began with, whatever came into force here since.
    pub fn goes_on_over(&self, plan: &Plan) -> bool {
        self.session.as_ref().is_some_and(|session| {
            let newest = session.plan();
            newest.round.task == plan.round.task && newest.registry == plan.registry
        })
    }

    /// Folds one event.
    pub fn apply(&mut self, event: &SessionEvent) {
        if let SessionEvent::PlanAccepted { plan } = event {
            self.accepted(plan);
            return;
        }
        let Some(session) = self.session.as_mut().filter(|s| s.id() == event.round()) else {
            return;
        };
        match event {
            SessionEvent::PlanAccepted { .. } => {}
            SessionEvent::Committed { commitment, snapshot, permitted, .. } => {
                session.commitment = Some(*commitment);
                session.snapshot = Some(*snapshot);
                session.permitted = *permitted;
            }
            SessionEvent::Listed { root, institutions, .. } => {
                session.list = Some(*root);
                session.institutions.clone_from(institutions);
            }
            SessionEvent::Sending { round, context } => {
                session.context = Some(*context);
                self.summed.note(session, None, false);
                self.sent.insert(round.task.to_string(), session.clone());
                if let Some(key) = once(session.plan()) {
                    self.given.insert(key, round.clone());
                }
            }
            SessionEvent::Voted { outcome, .. } => {
                session.vote = Some(outcome.clone());
                self.summed.note(session, Some(outcome), false);
            }
            SessionEvent::Revealing { outcome, .. } | SessionEvent::Certified { outcome, .. } => {
                session.revealed = Some(outcome.clone());
                self.summed.note(session, Some(outcome), true);
            }
            SessionEvent::RoundEnded { .. } | SessionEvent::RoundLeft { .. } => session.over = true,
        }
    }

    /// A further attempt is accepted only after the ABORT of what was sent before was proven
    /// (`check_retry`), so nothing of that attempt counts as given any more.
    fn accepted(&mut self, plan: &Signed<Plan>) {
        let id = plan.body.round.clone();
        let sent = self.sent.remove(id.task.as_str()).filter(|old| same_round(old.id(), &id));
        if let Some(old) = sent {
            self.summed.forget(old.id());
            once(old.plan()).and_then(|key| self.given.remove(&key));
        }
        let Inputs { support, statistics, totals, .. } = plan.body.inputs;
        let basis = self.basis.entry(id.task.to_string()).or_default();
        basis.support = basis.support.or(support);
        basis.statistics = basis.statistics.or(statistics);
        basis.totals = basis.totals.or(totals);
        self.last.insert(id.task.to_string(), id);
        self.session = Some(Session::accepted(plan.clone()));
    }
}

/// The key under which a stage may be given only once; none for stages that follow the weights.
fn once(plan: &Plan) -> Option<String> {
    plan.stage.once().then(|| format!("{} {}", plan.round.task, plan.stage.label()))
}

// --- What may happen -------------------------------------------------------------------------

impl History {
    /// What this institution does about what the coordinator shows.
    pub fn step(&self, view: &RoundView, around: Surroundings<'_>) -> Result<Step, Refusal> {
        match &self.session {
            Some(session) if session.plan.body.round == *view.id() => {
                if session.plan != view.plan {
                    // Only what the coordinator signed is held against it.
                    let signed = view.plan.verify(around.roster.coordinator());
                    signed.map_err(|_| Refusal::NotTheCoordinator)?;
                    return Err(Refusal::Conflict { what: "the plan" });
                }
                let step = session.step(view, around)?;
                let outcome = match &step.action {
                    Action::Deal { .. } | Action::Upload { .. } => None,
                    Action::Vote { outcome } => Some(outcome),
                    Action::Reveal { certificate, .. } => Some(certificate.outcome()),
                    _ => return Ok(step),
                };
                let listed = view.list.iter().map(|ready| ready.body.institution.clone());
                self.summed.check(session, &listed.collect(), outcome)?;
                Ok(step)
            }
            _ if view.phase == Phase::Ready => self.consider(view, around),
            // The round goes on without this institution.
            _ => Ok(Step { events: self.leave(view.id(), None), action: Action::Wait }),
        }
    }

    /// Ends the session before, whose end this institution did not see; `before` is what the
    /// coordinator says of it.
    fn leave(&self, next: &RoundId, before: Option<&Before>) -> Vec<SessionEvent> {
        let open = self.session.iter().filter(|old| !old.over);
        let left = |old: &Session| {
            let round = old.id().clone();
            match before.filter(|before| before.round == round) {
                Some(before) => SessionEvent::RoundEnded { round, ending: before.ending.clone() },
                None => SessionEvent::RoundLeft { round, reason: format!("round {next} began") },
            }
        };
        open.map(left).collect()
    }

    /// A plan that is new: check it, leave what came before, accept. One that asks others is none of ours.
    fn consider(&self, view: &RoundView, around: Surroundings<'_>) -> Result<Step, Refusal> {
        if !view.plan.body.asks(around.own) {
            let signed = view.plan.verify(around.roster.coordinator());
            let plan = signed.map_err(|_| Refusal::NotTheCoordinator)?;
            let events = self.leave(view.id(), plan.before.as_ref());
            return Ok(Step { events, action: Action::Wait });
        }
        self.check_plan(&view.plan, around)?;
        let mut events = self.leave(view.id(), view.plan.body.before.as_ref());
        events.push(SessionEvent::PlanAccepted { plan: Box::new(view.plan.clone()) });
        Ok(Step { events, action: Action::Prepare })
    }

    fn check_plan(&self, signed: &Signed<Plan>, around: Surroundings<'_>) -> Result<(), Refusal> {
        let plan =
            signed.verify(around.roster.coordinator()).map_err(|_| Refusal::NotTheCoordinator)?;
        if plan.roster != around.roster.digest() {
            return Err(Refusal::OtherRoster);
        }
        if around.roster.expires_at() <= around.now {
            let (version, expires_at) = (around.roster.version(), around.roster.expires_at());
            return Err(Refusal::RosterExpired { version, expires_at });
        }
        around.policy.check(plan).map_err(Refusal::Policy)?;
        // What serves an aborted attempt's input once more was paid for.
        if self.reusable_input(plan).is_none() {
            check_price(plan, around)?;
        }
        check_form(plan)?;
        self.check_basis(plan)?;
        let last = self.last.get(plan.round.task.as_str());
        let back = |last: &&RoundId| plan.round <= **last && !without(Defence::ForwardOnly);
        if let Some(last) = last.filter(back) {
            let (given, last) = (plan.round.clone(), last.clone());
            return Err(Refusal::Replayed { given, last });
        }
        self.check_retry(plan, around.before)
    }

    /// What is shared in a task must not change from round to round.
    fn check_basis(&self, plan: &Plan) -> Result<(), Refusal> {
        let Some(basis) = self.basis.get(plan.round.task.as_str()) else { return Ok(()) };
        let changed = |first: Option<Digest>, named: Option<Digest>| {
            first.zip(named).is_some_and(|(first, named)| first != named)
        };
        if changed(basis.support, plan.inputs.support)
            || changed(basis.statistics, plan.inputs.statistics)
            || changed(basis.totals, plan.inputs.totals)
        {
            return Err(Refusal::Conflict { what: "an opened sum that this task goes by" });
        }
        Ok(())
    }

    /// At most one sum over one input: see PROTOCOL, "Crash safety" and "Across rounds".
    fn check_retry(&self, plan: &Plan, roster: &VerifiedRoster) -> Result<(), Refusal> {
        let given = once(plan).and_then(|key| self.given.get(&key));
        match self.sent.get(plan.round.task.as_str()) {
            Some(old) if same_round(old.id(), &plan.round) => {
                let before = old.plan();
                if before.stage != plan.stage || before.inputs != plan.inputs {
                    return Err(Refusal::Conflict { what: "what this round asks for" });
                }
                old.check_abort(plan, roster)
            }
            _ => match given {
                Some(round) => {
                    Err(Refusal::AlreadyGiven(plan.round.task.to_string(), round.clone()))
                }
                None => Ok(()),
            },
        }
    }

    /// The session before, if its input serves the new plan as well: the next attempt at the same
    /// round, asking for exactly the same. To be asked before the new plan is folded in.
    pub fn reusable_input(&self, plan: &Plan) -> Option<&Session> {
        let old = self.session.as_ref()?;
        let before = old.plan();
        let same = same_round(old.id(), &plan.round)
            && before.stage == plan.stage
            && before.hyper == plan.hyper
            && before.encoding == plan.encoding
            && before.inputs == plan.inputs
            && before.architecture == plan.architecture
            && before.layout == plan.layout
            && before.cohort == plan.cohort
            && before.registry == plan.registry;
        (same && old.commitment.is_some()).then_some(old)
    }
}

/// What the plan would cost learners, beside what was spent and what may be.
fn check_price(plan: &Plan, around: Surroundings<'_>) -> Result<(), Refusal> {
    let charges = charges(plan).map_err(|error| Refusal::Price(error.to_string()))?;
    let (Some(charges), Some(budget)) = (charges, &around.policy.privacy) else { return Ok(()) };
    around.ledger.check(&charges, budget, around.now).map_err(Refusal::Price)
}

fn same_round(a: &RoundId, b: &RoundId) -> bool {
    a.task == b.task && a.round == b.round
}

/// Bounds that hold for every plan, whatever the policy says. Encoding and settings were checked
/// when they were read.
fn check_form(plan: &Plan) -> Result<(), Refusal> {
    let d = &plan.deadlines;
    let week = 7 * 24 * 3600;
    if [d.ready, d.share, d.upload, d.vote, d.reveal].iter().any(|s| !(1..=week).contains(s)) {
        return Err(Refusal::Malformed("a deadline is not between a second and a week"));
    }
    if plan.least() > plan.encoding.n_max() as usize {
        return Err(Refusal::Malformed("it needs more institutions than its sums may hold"));
    }
    if let Some(group) = &plan.group {
        let possible = plan.cohort.n_min().max(plan.least())..=MAX_MEMBERS;
        if !matches!(plan.stage, Stage::Train { .. }) || !possible.contains(&group.len()) {
            return Err(Refusal::Malformed(
                "only a training step has groups, and none so small or large",
            ));
        }
    }
    Ok(())
}

impl Session {
    /// A quorum's ABORT of this attempt lets its input be used once more.
    fn check_abort(&self, plan: &Plan, roster: &VerifiedRoster) -> Result<(), Refusal> {
        if without(Defence::AbortProof) {
            return Ok(());
        }
        let missing = || Refusal::NoAbort(self.id().clone());
        let certificate = plan.aborted.as_ref().ok_or_else(missing)?;
        let proven = self.verify_certificate(certificate, roster)?;
        match (proven.outcome(), self.context) {
            (Outcome::Abort { context }, Some(own)) if *context == own => Ok(()),
            _ => Err(missing()),
        }
    }

    fn verify_certificate(
        &self,
        certificate: &Certificate,
        roster: &VerifiedRoster,
    ) -> Result<QuorumCertificate, BadCertificate> {
        let keys: BTreeMap<&InstitutionId, &VerifyingKey> =
            roster.members().iter().map(|m| (&m.institution, &m.identity)).collect();
        let voter = |who: &InstitutionId| {
            self.institutions.binary_search(who).ok().and_then(|_| keys.get(who).copied())
        };
        certificate.verify(self.institutions.len(), self.plan().cohort.c_max, voter)
    }

    fn step(&self, view: &RoundView, around: Surroundings<'_>) -> Result<Step, Refusal> {
        if self.over {
            return Ok(Step { events: Vec::new(), action: Action::Wait });
        }
        if let Some(ending) = &view.ending {
            let (round, ending) = (self.id().clone(), ending.clone());
            let ended = SessionEvent::RoundEnded { round, ending };
            let events = self.settled(view, around).into_iter().chain([ended]).collect();
            return Ok(Step { events, action: Action::Finish });
        }
        let Some(commitment) = self.commitment else {
            let action = if view.phase == Phase::Ready { Action::Prepare } else { Action::Wait };
            return Ok(Step { events: Vec::new(), action });
        };
        match view.phase {
            Phase::Ready => Ok(Step { events: Vec::new(), action: Action::Ready }),
            Phase::Share => self.step_share(view, around, commitment),
            Phase::Upload => self.step_upload(view, around, commitment),
            Phase::Vote => self.step_vote(view, around, commitment),
            Phase::Reveal => self.step_reveal(view, around, commitment),
            Phase::Open | Phase::Ended => {
                let events = self.settled(view, around).into_iter().collect();
                Ok(Step { events, action: Action::Wait })
            }
        }
    }

    /// A quorum's word that came too late to reveal by: it settles what was summed.
    fn settled(&self, view: &RoundView, around: Surroundings<'_>) -> Option<SessionEvent> {
        let unsettled = self.plan().stage.once() && self.revealed.is_none();
        let certificate = view.certificate.as_ref().filter(|_| unsettled)?;
        let proven = self.verify_certificate(certificate, around.roster).ok()?;
        let (round, outcome) = (self.id().clone(), proven.outcome().clone());
        let own = self.context == Some(outcome.context());
        own.then_some(SessionEvent::Certified { round, outcome })
    }

    fn step_share(
        &self,
        view: &RoundView,
        around: Surroundings<'_>,
        commitment: Digest,
    ) -> Result<Step, Refusal> {
        let Some((list, events)) = self.pin_list(view, around, commitment)? else {
            return Ok(Step { events: Vec::new(), action: Action::Wait });
        };
        Ok(Step { events, action: Action::Deal { list } })
    }

    fn step_upload(
        &self,
        view: &RoundView,
        around: Surroundings<'_>,
        commitment: Digest,
    ) -> Result<Step, Refusal> {
        let Some((list, mut events)) = self.pin_list(view, around, commitment)? else {
            return Ok(Step { events: Vec::new(), action: Action::Wait });
        };
        let Some(context) = self.check_headers(view, around, list)? else {
            return Ok(Step { events, action: Action::Wait });
        };
        if self.context.is_none() {
            events.push(SessionEvent::Sending { round: self.id().clone(), context });
        }
        Ok(Step { events, action: Action::Upload { context } })
    }

    fn step_vote(
        &self,
        view: &RoundView,
        around: Surroundings<'_>,
        commitment: Digest,
    ) -> Result<Step, Refusal> {
        let Some((list, mut events)) = self.pin_list(view, around, commitment)? else {
            return Ok(Step { events: Vec::new(), action: Action::Wait });
        };
        let Some(context) = self.check_headers(view, around, list)? else {
            return Ok(Step { events, action: Action::Wait });
        };
        let outcome = view.proposal.clone().ok_or(Refusal::Incomplete)?;
        self.check_outcome(&outcome, view, around, context)?;
        if self.contradicts(&outcome) {
            return Err(Refusal::Conflict { what: "the proposal" });
        }
        if self.vote.is_none() {
            let (round, outcome) = (self.id().clone(), outcome.clone());
            events.push(SessionEvent::Voted { round, outcome });
        }
        Ok(Step { events, action: Action::Vote { outcome } })
    }

    fn step_reveal(
        &self,
        view: &RoundView,
        around: Surroundings<'_>,
        commitment: Digest,
    ) -> Result<Step, Refusal> {
        // The pins below are only compared here: a round that reached its last phase without
        // this institution having seen the list before is not one to reveal in.
        let (Some(_), Some((list, mut events))) =
            (self.list, self.pin_list(view, around, commitment)?)
        else {
            return Ok(Step { events: Vec::new(), action: Action::Wait });
        };
        let Some(context) = self.check_headers(view, around, list)? else {
            return Ok(Step { events, action: Action::Wait });
        };
        let certificate = view.certificate.as_ref().ok_or(Refusal::Incomplete)?;
        let certificate = self.verify_certificate(certificate, around.roster)?;
        let outcome = certificate.outcome();
        if self.contradicts(outcome) {
            return Err(Refusal::Conflict { what: "the certified outcome" });
        }
        let Outcome::Survivors { .. } = outcome else {
            return Err(Refusal::BadProposal);
        };
        self.check_outcome(outcome, view, around, context)?;
        if self.revealed.is_none() {
            let (round, outcome) = (self.id().clone(), outcome.clone());
            events.push(SessionEvent::Revealing { round, outcome });
        }
        Ok(Step { events, action: Action::Reveal { certificate, context } })
    }
}

// --- The checks ------------------------------------------------------------------------------

/// Whether the institution signed this with its key on the roster.
fn is_signed<T: Statement>(
    signed: &Signed<T>,
    by: &InstitutionId,
    around: Surroundings<'_>,
) -> bool {
    let member = around.roster.member(by, around.now);
    member.is_some_and(|m| signed.verify(&m.identity).is_ok()) || without(Defence::MemberSignatures)
}

impl Session {
    /// Whether another outcome than this one was voted for or served in this attempt.
    fn contradicts(&self, outcome: &Outcome) -> bool {
        let mut pinned = self.vote.iter().chain(&self.revealed);
        pinned.any(|pinned| pinned != outcome) && !without(Defence::OneVote)
    }

    /// Checks L and pins its root. None if this institution is not on it.
    fn pin_list(
        &self,
        view: &RoundView,
        around: Surroundings<'_>,
        commitment: Digest,
    ) -> Result<Option<(Digest, Vec<SessionEvent>)>, Refusal> {
        if view.list.is_empty() {
            return Err(Refusal::Incomplete);
        }
        let root = statements_root(&view.list);
        if let Some(pinned) = self.list {
            if pinned == root {
                return Ok(Some((root, Vec::new())));
            }
            // What its members did not sign contradicts nothing.
            self.check_list(view, around)?;
            return Err(Refusal::Conflict { what: "the list" });
        }
        let Some(own) = view.list.iter().find(|r| r.body.institution == *around.own) else {
            return Ok(None);
        };
        if own.body.commitment != commitment {
            return Err(Refusal::OwnEntryChanged);
        }
        self.check_list(view, around)?;
        let institutions = view.list.iter().map(|r| r.body.institution.clone()).collect();
        let round = self.id().clone();
        Ok(Some((root, vec![SessionEvent::Listed { round, root, institutions }])))
    }

    fn check_list(&self, view: &RoundView, around: Surroundings<'_>) -> Result<(), Refusal> {
        let plan_digest = self.plan_digest();
        let (given, n_max) = (view.list.len(), self.plan().encoding.n_max() as usize);
        let ordered = view.list.windows(2).all(|p| p[0].body.institution < p[1].body.institution);
        if !ordered || given > n_max || view.list.iter().any(|r| r.body.plan != plan_digest) {
            return Err(Refusal::BadList);
        }
        let needed = self.plan().cohort.n_min().max(self.plan().least());
        let needed = needed.max(usize::from(around.policy.n_min));
        if given < needed {
            return Err(Refusal::SmallCohort { given, needed });
        }
        for ready in &view.list {
            let who = &ready.body.institution;
            if !is_signed(ready, who, around) {
                return Err(Refusal::BadMember(who.clone()));
            }
            if !self.plan().asks(who) {
                return Err(Refusal::NotAsked(who.clone()));
            }
        }
        Ok(())
    }

    /// Checks L1 against the pinned list and gives ctx. None if this institution dealt nothing.
    fn check_headers(
        &self,
        view: &RoundView,
        around: Surroundings<'_>,
        list: Digest,
    ) -> Result<Option<Digest>, Refusal> {
        let headers = || view.headers.iter().map(|(header, _)| header);
        let context =
            secagg::round_context(&self.plan_digest(), &list, &statements_root(headers()));
        if self.context == Some(context) {
            return Ok(Some(context));
        }
        if self.context.is_none() && !headers().any(|h| h.body.institution == *around.own) {
            return Ok(None);
        }
        let n = view.list.len();
        let quorum = secagg::quorum(n, usize::from(self.plan().cohort.c_max));
        let (given, needed) = (view.headers.len(), quorum.max(self.plan().least()));
        if given < needed {
            return Err(Refusal::SmallCohort { given, needed });
        }
        let ordered =
            view.headers.windows(2).all(|p| p[0].0.body.institution < p[1].0.body.institution);
        let right = |header: &Signed<ShareHeader>| {
            let listed = view.list.iter().any(|r| r.body.institution == header.body.institution);
            listed
                && header.body.list == list
                && header.body.plan == self.plan_digest()
                && is_signed(header, &header.body.institution, around)
        };
        if !ordered || !headers().all(right) {
            return Err(Refusal::BadHeaders);
        }
        match self.context {
            Some(_) if without(Defence::OneContext) => Ok(Some(context)),
            None => Ok(Some(context)),
            Some(_) => Err(Refusal::Conflict { what: "the set of dealers" }),
        }
    }

    /// Checks what is to be voted on, or what was voted for.
    fn check_outcome(
        &self,
        outcome: &Outcome,
        view: &RoundView,
        around: Surroundings<'_>,
        context: Digest,
    ) -> Result<(), Refusal> {
        if outcome.context() != context {
            return Err(Refusal::Conflict { what: "the context of the proposal" });
        }
        let Outcome::Survivors { survivors, uploads, .. } = outcome else {
            return Ok(());
        };
        let cohort = self.plan().cohort;
        let c_max = cohort.c_max.max(around.policy.c_max);
        let noise = u16::try_from(self.plan().noise_parties()).unwrap_or(u16::MAX);
        let min_honest = cohort.min_honest.max(around.policy.min_honest).max(noise);
        let count = survivors.count();
        let least = usize::from(c_max) + usize::from(min_honest);
        if count < least && !without(Defence::MinHonest) {
            return Err(Refusal::TooFewHonest { survivors: count, c_max, min_honest });
        }
        let named: Vec<&InstitutionId> = view
            .list
            .iter()
            .zip(0u16..)
            .filter(|(_, position)| survivors.contains(*position))
            .map(|(ready, _)| &ready.body.institution)
            .collect();
        let uploaded = view.uploads.iter().map(|u| &u.body.institution);
        let dealt =
            |who: &&InstitutionId| view.headers.iter().any(|(h, _)| h.body.institution == **who);
        let fits = survivors.size() == view.list.len()
            && named.len() == count
            && uploaded.eq(named.iter().copied())
            && named.iter().all(dealt)
            && statements_root(&view.uploads) == *uploads
            && view.uploads.iter().all(|u| u.body.context == context);
        let signed = |u: &Signed<UploadHeader>| is_signed(u, &u.body.institution, around);
        if fits && view.uploads.iter().all(signed) { Ok(()) } else { Err(Refusal::BadProposal) }
    }
}

/// The list as the secure aggregation's roles want it.
pub fn members(view: &RoundView) -> Vec<Member> {
    view.list
        .iter()
        .zip(0u16..)
        .map(|(ready, index)| Member {
            index,
            mask_key: ready.body.mask_key,
            share_key: ready.body.share_key,
            self_commitment: ready.body.self_commitment,
        })
        .collect()
}

#[cfg(test)]
pub(crate) mod tests;
