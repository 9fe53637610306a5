//! The runner's part in rounds: from a view of the current round to facts in the journal and one
//! action, until there is nothing more to do with this view.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use collegium_shared::{
    architecture::{self, Architecture, Charge},
    blobs::BlobError,
    crypto::Digest,
    ids::{RoundId, TaskId},
    params::Quantised,
    protocol::{Decline, Ending, MAX_DECLINE, Phase, Plan, RoundView, statements_root},
    roster::VerifiedRoster,
    signed::Signed,
};
use serde_json::{Value, json};
use tokio::{task, time::Instant};

use super::{Failure, Runner, effort};
use crate::{
    availability::Availability,
    bias::Permitted,
    consent::policy_in_force,
    egress::{self, Clipping, Measured, Meter, Standing, Word},
    home::Home,
    link::LinkError,
    model::{Effort, ModelError, neural},
    policy::{Policy, PolicyError},
    prepare::{self, PrepareError, Values},
    records::Learner,
    rounds::{Attempt, RoundError},
    session::{Action, LOW_COVERAGE, OWN_REASON, Refusal, SessionEvent, Step, Surroundings},
    session_file::InputWriter,
    state::{AgentEvent, LocalEvent},
    trainer::Trainer,
};

/// A coordinator that asks for one refused thing after another fills the log no faster than this.
pub(super) const AFTER_REFUSAL: Duration = Duration::from_secs(1);

/// The records that a task runs on, with what was computed from them.
pub(super) struct CachedTrainer {
    task: TaskId,
    snapshot: Digest,
    trainer: Trainer,
}

/// A fixed input: its commitment, the records that it was made from, and, of what is asked of the model that
/// serves, what of the policy decided who counts.
#[derive(Clone, Copy)]
struct Fixed {
    commitment: Digest,
    snapshot: Digest,
    permitted: Option<Digest>,
}

/// An earlier attempt's input that serves the new one.
type Reusable = Option<(RoundId, Fixed)>;

/// What came of training.
struct Trained {
    trainer: CachedTrainer,
    fixed: Result<Fixed, Failure>,
}

impl Runner {
    /// Does everything that the view asks for and allows.
    pub(super) async fn take_part(&mut self, mut view: RoundView) -> Result<(), Failure> {
        if let Some(earlier) = &self.held {
            view.complete_from(earlier);
        }
        let view = Arc::new(view);
        self.held = Some(Arc::clone(&view));
        // On the heap, as below: what a round needs is large, and a worker's stack small.
        while Box::pin(self.step(&view)).await? {}
        Ok(())
    }

    /// One step; true if the same view has to be looked at again.
    async fn step(&mut self, view: &Arc<RoundView>) -> Result<bool, Failure> {
        let Some(roster) = self.roster_for(view).await? else {
            tracing::debug!("a round is open, but this institution is not on the roster");
            return Ok(false);
        };
        let home = Arc::clone(&self.home);
        let policy = match Self::blocking(move || policy_in_force(&home)).await? {
            Ok(policy) => policy,
            Err(error) => return self.without_policy(view, &error).await,
        };
        let (step, reusable) = match self.consult(view, roster, policy.clone()).await? {
            (Ok(step), reusable) => (step, reusable),
            (Err(refusal), _) => return self.refuse(view, &refusal).await,
        };
        if accepts(&step.events) {
            if !Availability::of(&self.home).is_available() {
                self.away = true;
                return Ok(false);
            }
            if let Some(obstacle) = self.obstacle(view, &policy).await? {
                return self.refuse_because(view, obstacle).await;
            }
            if let Some(reason) = self.uncovered(&view.plan.body, &policy).await? {
                return self.write_refusal(view, reason, LOW_COVERAGE).await;
            }
        }
        let events = step.events.iter().cloned().map(AgentEvent::from).collect();
        self.record(events).await?;
        let adopted = self.tidy(&step.events, reusable).await?;
        Box::pin(self.act(step.action, view, adopted, policy.hold)).await
    }

    /// Asks the machine; signatures of a whole list are checked there, so not on this thread.
    async fn consult(
        &self,
        view: &Arc<RoundView>,
        roster: VerifiedRoster,
        policy: Policy,
    ) -> Result<(Result<Step, Refusal>, Reusable), Failure> {
        let before = self.roster_before(view).await?;
        let (home, view) = (Arc::clone(&self.home), Arc::clone(view));
        Self::blocking(move || {
            let own = home.institution();
            let now = home.clock.now();
            let before = before.as_ref().unwrap_or(&roster);
            home.book.read(|state| {
                let (policy, ledger) = (&policy, state.ledger());
                let around = Surroundings { own, roster: &roster, before, policy, ledger, now };
                let history = state.history();
                let old = history.reusable_input(&view.plan.body);
                let reusable = old.and_then(|old| {
                    let (commitment, snapshot) = (old.commitment()?, old.snapshot()?);
                    let permitted = old.permitted();
                    Some((old.id().clone(), Fixed { commitment, snapshot, permitted }))
                });
                (history.step(&view, around), reusable)
            })
        })
        .await
    }

    async fn without_policy(
        &mut self,
        view: &RoundView,
        error: &PolicyError,
    ) -> Result<bool, Failure> {
        let concerned = self.home.book.read(|state| match state.history().session() {
            Some(session) if session.id() == view.id() => !session.over(),
            _ => view.phase == Phase::Ready,
        });
        if concerned { self.refuse_because(view, error.to_string()).await } else { Ok(false) }
    }

    /// What stands against a plan that the machine would accept, and that only this agent's files
    /// show.
    async fn obstacle(
        &mut self,
        view: &RoundView,
        policy: &Policy,
    ) -> Result<Option<String>, Failure> {
        let plan = &view.plan.body;
        let Some(registry) = self.registry_for(plan).await? else {
            return Ok(Some(Refusal::OtherRegistry.to_string()));
        };
        let home = Arc::clone(&self.home);
        let held = Self::blocking(move || home.vault().snapshot()).await?;
        let reads_records = prepare::reads_records(plan);
        if reads_records && held.learners == 0 {
            let reason =
                "there are no learner records; import some, with: collegium-agent data import";
            return Ok(Some(reason.to_owned()));
        }
        let learners = reads_records.then_some(held.learners);
        if let Some(reason) = policy.obstacle(learners, self.home.clock.now()) {
            return Ok(Some(reason));
        }
        if let Some(reason) = self.other_model(plan) {
            return Ok(Some(reason));
        }
        let limits = self.home.limits();
        let answers = if reads_records { held.rows } else { 0 };
        let network = Architecture::lookup(&plan.architecture).ok().and_then(neural::of);
        let memory = network.map(|of| of.memory(&plan.hyper, registry.competencies.len()));
        let values = plan.encoding.dimension();
        if let Some(reason) = limits.too_large(answers, values, memory.unwrap_or_default()) {
            return Ok(Some(reason));
        }
        Ok(prepare::inputs(plan).err().map(|error| error.to_string()))
    }

    /// What is audited or evaluated serves here, or the sum would not say how learners fare.
    fn other_model(&self, plan: &Plan) -> Option<String> {
        let asked = prepare::asked_model(plan)?;
        let serves = self.home.book.read(|state| {
            let newest = state.model().map(|(model, _)| model);
            newest.into_iter().chain(state.recommending()).any(|model| model.manifest == asked)
        });
        (!serves).then(|| {
            "the question is about another model than the one that serves here; ask for it again when the newest \
             release is installed".to_owned()
        })
    }

    // --- Refusals ------------------------------------------------------------------------------

    async fn refuse(&mut self, view: &RoundView, refusal: &Refusal) -> Result<bool, Failure> {
        let (reason, told) = (refusal.to_string(), refusal.told());
        let (round, plan) = (view.id().clone(), view.plan.digest());
        let (known, room) = self
            .home
            .book
            .read(|state| (state.knows_conflict(&round, &reason), state.may_keep_conflict()));
        let is_conflict = matches!(refusal, Refusal::Conflict { .. });
        if !is_conflict || !(known || room) {
            return self.write_refusal(view, reason, &told).await;
        }
        if !known {
            let (home, shown) = (Arc::clone(&self.home), shown(view));
            let evidence = Self::blocking(move || home.keep_evidence(&shown)).await??;
            tracing::error!(%round, %reason, %evidence, "what was shown before is contradicted");
            self.record(vec![LocalEvent::ConflictSeen { round, plan, reason, evidence }.into()])
                .await?;
        }
        self.decline(plan, &told).await?;
        self.pause(AFTER_REFUSAL).await;
        Ok(false)
    }

    /// Refuses for a reason that is this institution's own affair.
    async fn refuse_because(&mut self, view: &RoundView, reason: String) -> Result<bool, Failure> {
        self.write_refusal(view, reason, OWN_REASON).await
    }

    /// Tells the coordinator, once for each plan and reason, that this institution takes no part, so that
    /// nobody waits for it and its operator learns why. Whether that is heard changes nothing here.
    async fn decline(&mut self, plan: Digest, reason: &str) -> Result<(), Failure> {
        let reason = reason[..reason.floor_char_boundary(MAX_DECLINE)].to_owned();
        let told = (plan, reason);
        if self.declined.as_ref() == Some(&told) {
            return Ok(());
        }
        let (plan, reason) = told.clone();
        let institution = self.home.institution().clone();
        let decline = Decline { plan, institution, reason };
        let decline = Signed::sign(decline, &self.home.identity.signing_key());
        match self.stop.or(self.link.decline(&decline)).await {
            // The next view asks again.
            Err(Failure::Line(LinkError::Unreachable { reason })) => {
                tracing::debug!(reason, "the coordinator was not told");
            }
            // An older coordinator does not know the call; a round may have ended meanwhile.
            Err(Failure::Line(_)) | Ok(()) => self.declined = Some(told),
            Err(failure) => return Err(failure),
        }
        Ok(())
    }

    /// Writes the refusal down, once for each plan and reason, and sits this view out.
    async fn write_refusal(
        &mut self,
        view: &RoundView,
        reason: String,
        told: &str,
    ) -> Result<bool, Failure> {
        let (round, plan) = (view.id().clone(), view.plan.digest());
        let known = self.home.book.read(|state| state.knows_refusal(&plan, &reason));
        if !known {
            tracing::warn!(%round, %reason, "refused");
            self.record(vec![LocalEvent::Refused { round, plan, reason }.into()]).await?;
        }
        self.decline(plan, told).await?;
        if !known {
            self.pause(AFTER_REFUSAL).await;
        }
        Ok(false)
    }

    /// Leaves the attempt that is under way, if there is one.
    pub(super) async fn leave(&mut self, reason: String) -> anyhow::Result<()> {
        let open = self.home.book.read(|state| {
            let session = state.history().session().filter(|session| !session.over());
            session.map(|session| (session.id().clone(), session.plan_digest()))
        });
        let Some((round, plan)) = open else { return Ok(()) };
        let home = Arc::clone(&self.home);
        // Erasing what an attempt left takes as long as its files are large.
        task::spawn_blocking(move || home.leave(&round, &reason)).await??;
        // Only a stop keeps it from being told, and then the line ends anyway.
        let _ = self.decline(plan, OWN_REASON).await;
        Ok(())
    }

    // --- Files ---------------------------------------------------------------------------------

    /// Brings the files of rounds and blobs in line with what was just recorded. Gives the
    /// commitment of an input that was taken over.
    async fn tidy(
        &self,
        events: &[SessionEvent],
        reusable: Reusable,
    ) -> Result<Option<Fixed>, Failure> {
        if events.is_empty() {
            return Ok(None);
        }
        let (home, events) = (Arc::clone(&self.home), events.to_vec());
        Self::blocking(move || tidy(&home, &events, reusable)).await?
    }

    // --- Actions -------------------------------------------------------------------------------

    async fn act(
        &mut self,
        action: Action,
        view: &Arc<RoundView>,
        adopted: Option<Fixed>,
        hold: bool,
    ) -> Result<bool, Failure> {
        if let Action::Wait | Action::Finish = action {
            return Ok(false);
        }
        if action == Action::Prepare {
            return Box::pin(self.prepare(view, adopted)).await.map(|()| true);
        }
        let Some(attempt) = self.attempt() else { return Ok(false) };
        let list = statements_root(&view.list);
        let round = view.id().clone();
        if action == Action::Ready {
            match self.home.book.read(|state| egress::standing(state, &attempt.commitment, hold)) {
                Standing::Free | Standing::Decided(Word::Approved) => {}
                Standing::Waiting => {
                    tracing::warn!(%round, "held: see preview-egress, then approve or reject");
                    return Ok(false);
                }
                Standing::Decided(Word::Rejected { reason }) => {
                    return Err(Failure::Leave(format!("rejected on site: {reason}")));
                }
            }
        }
        tracing::info!(%round, phase = ?view.phase, "taking part");
        let done = match action {
            Action::Wait | Action::Finish | Action::Prepare => Ok(()),
            Action::Ready => attempt.ready().await,
            Action::Deal { list } => attempt.deal(view, list).await,
            Action::Upload { context } => attempt.upload(view, context).await,
            Action::Vote { outcome } => attempt.vote(outcome).await,
            Action::Reveal { certificate, context } => {
                attempt.reveal(view, list, &certificate, context).await
            }
        };
        match done {
            // The coordinator is further on, or does not want it: the next view shows which.
            Err(RoundError::Link(
                error @ (LinkError::Refused { .. } | LinkError::NotFound { .. }),
            )) => {
                tracing::info!(%round, %error, "the coordinator did not take this step");
                Ok(false)
            }
            done => Ok(done.map(|()| false)?),
        }
    }

    fn attempt(&self) -> Option<Attempt> {
        let (plan, plan_digest, commitment) = self.home.book.read(|state| {
            let session = state.history().session()?;
            Some((session.plan().clone(), session.plan_digest(), session.commitment()?))
        })?;
        let (home, link) = (Arc::clone(&self.home), self.link.clone());
        Some(Attempt { home, link, plan, plan_digest, commitment })
    }

    /// Fixes the input of the attempt: durable, then journaled, and only then its secrets drawn.
    async fn prepare(
        &mut self,
        view: &Arc<RoundView>,
        adopted: Option<Fixed>,
    ) -> Result<(), Failure> {
        let round = view.id().clone();
        // An input that was taken over from an aborted attempt is the same release, and was paid for.
        let fresh = adopted.is_none();
        let charges = architecture::charges(&view.plan.body).map_err(|error| error.to_string());
        let charges = charges.map(|charges| charges.filter(|_| fresh).unwrap_or_default());
        let charges = match self.affordable(charges).await? {
            Ok(charges) => charges,
            Err(reason) => {
                self.refuse_because(view, reason.clone()).await?;
                return Err(Failure::Leave(reason));
            }
        };
        let Fixed { commitment, snapshot, permitted } = match adopted {
            Some(fixed) => fixed,
            None => match Box::pin(self.train(view)).await {
                Err(Failure::Leave(reason)) => {
                    self.refuse_because(view, reason.clone()).await?;
                    return Err(Failure::Leave(reason));
                }
                other => other?,
            },
        };
        let round_of = round.clone();
        let committed =
            SessionEvent::Committed { round: round_of, commitment, snapshot, permitted, charges };
        self.record(vec![committed.into()]).await?;
        let home = Arc::clone(&self.home);
        Ok(Self::blocking(move || home.rounds.draw(&round, &commitment)).await??)
    }

    /// Whether what is about to be charged fits the budget: of an input that was to be taken over and had to
    /// be made anew this was not asked before.
    async fn affordable(
        &self,
        charges: Result<Vec<Charge>, String>,
    ) -> Result<Result<Vec<Charge>, String>, Failure> {
        let home = Arc::clone(&self.home);
        Self::blocking(move || {
            let charges = charges?;
            let policy = policy_in_force(&home).map_err(|error| error.to_string())?;
            if let Some(budget) = policy.privacy {
                let now = home.clock.now();
                home.book.read(|state| state.ledger().check(&charges, &budget, now))?;
            }
            Ok(charges)
        })
        .await
    }

    /// Downloads what the stage needs, runs it, and writes the input.
    async fn train(&mut self, view: &Arc<RoundView>) -> Result<Fixed, Failure> {
        let plan = &view.plan.body;
        let Some(registry) = self.held_registry(plan.registry).await? else {
            return Err(Failure::Leave(Refusal::OtherRegistry.to_string()));
        };
        let needed = prepare::inputs(plan).map_err(|error| Failure::Leave(error.to_string()))?;
        let limit = prepare::largest_input(plan, &registry);
        for digest in needed {
            match self.stop.or(self.link.download(&digest, limit, &self.home.blobs)).await {
                Err(Failure::Line(LinkError::Store(error @ BlobError::TooLarge { .. }))) => {
                    return Err(Failure::Leave(error.to_string()));
                }
                other => other?,
            };
        }
        tracing::info!(round = %view.id(), stage = plan.stage.label(), "computing this institution's part");
        let reads_records = prepare::reads_records(plan);
        let (home, view) = (Arc::clone(&self.home), Arc::clone(view));
        let (cached, cancel) = (self.trainer.take(), Arc::clone(&self.stop.cancel));
        let begun = Instant::now();
        if !reads_records {
            let fixed = Self::blocking(move || load_test(&home, &view.plan.body, &cancel)).await?;
            self.home.meters.computed(begun.elapsed());
            return fixed;
        }
        let nice = self.home.limits().training_nice;
        let trained = effort::run(nice, move || {
            let mut trainer = records(&home, &view.plan.body.round.task, cached)?;
            let fixed = compute(&home, &view, &registry, &mut trainer, cancel);
            Ok::<_, Failure>(Trained { trainer, fixed })
        });
        let Trained { trainer, fixed } = trained.await??;
        self.home.meters.computed(begun.elapsed());
        self.trainer = Some(trainer);
        fixed
    }
}

/// Values that are encoded at once: they stay in the processor's caches.
const RUN: usize = 1 << 14;

fn accepts(events: &[SessionEvent]) -> bool {
    events.iter().any(|event| matches!(event, SessionEvent::PlanAccepted { .. }))
}

/// The records for the task: those that its earlier rounds ran on, unless the vault has others now.
fn records(
    home: &Home,
    task: &TaskId,
    cached: Option<CachedTrainer>,
) -> Result<CachedTrainer, Failure> {
    let vault = home.vault();
    let snapshot = vault.snapshot().sha256;
    match cached.filter(|cached| cached.task == *task && cached.snapshot == snapshot) {
        Some(cached) => Ok(cached),
        None => {
            let learners = vault.learners().map_err(super::HomeError::from)?;
            Ok(CachedTrainer { task: task.clone(), snapshot, trainer: Trainer::new(learners) })
        }
    }
}

fn compute(
    home: &Home,
    view: &RoundView,
    registry: &collegium_shared::roster::Registry,
    CachedTrainer { trainer, snapshot, .. }: &mut CachedTrainer,
    cancel: Arc<AtomicBool>,
) -> Result<Fixed, Failure> {
    let plan = &view.plan.body;
    let effort = Effort::new(Arc::clone(&cancel), home.limits().training_cpu_percent);
    let (computed, permitted) = match prepare::asks_of_serving(plan) {
        true => {
            let policy =
                policy_in_force(home).map_err(|error| Failure::Leave(error.to_string()))?;
            let permitted = policy.audited();
            let of = (trainer.learners(), *snapshot);
            let computed = of_serving(home, plan, of, &permitted, &effort)?;
            (computed, prepare::decisive(plan, &permitted))
        }
        false => (prepare::input(plan, registry, &home.blobs, trainer, &effort), None),
    };
    let values = match computed {
        Ok(values) => values,
        Err(PrepareError::Stage(ModelError::Cancelled)) => return Err(Failure::Stopped),
        Err(PrepareError::Blob(error)) => return Err(unreadable(home, error)),
        Err(error) => return Err(Failure::Leave(error.to_string())),
    };
    let commitment = write_input(home, plan, &values, &cancel)?;
    Ok(Fixed { commitment, snapshot: *snapshot, permitted })
}

/// This institution's part in a bias audit or an evaluation, of the model that serves.
fn of_serving(
    home: &Home,
    plan: &Plan,
    (learners, snapshot): (&[Learner], Digest),
    permitted: &Permitted,
    effort: &Effort,
) -> Result<Result<Values, PrepareError>, Failure> {
    let asked = prepare::asked_model(plan);
    let serving = [home.model(), home.recommending()].into_iter().flatten();
    let mut serving = serving.filter(|(installed, _)| Some(installed.manifest) == asked);
    let Some((_, model)) = serving.next() else {
        return Err(Failure::Leave("the model that was asked about serves no more".to_owned()));
    };
    if prepare::evaluation::is_evaluation(plan) {
        let of = (snapshot, permitted.smallest_part);
        return Ok(prepare::evaluation::input(plan, (&model, learners), of, effort));
    }
    let of = (&model, learners, snapshot);
    Ok(prepare::bias_audit::input(plan, &home.blobs, permitted, of, effort))
}

/// Fixes the public numbers of a load test.
fn load_test(home: &Home, plan: &Plan, cancel: &AtomicBool) -> Result<Fixed, Failure> {
    let moves = prepare::load_test::moves(plan, home.institution())
        .map_err(|error| Failure::Leave(error.to_string()))?;
    let commitment = write_input(home, plan, &Values::Public(moves), cancel)?;
    let snapshot = architecture::load_test::snapshot();
    Ok(Fixed { commitment, snapshot, permitted: None })
}

/// Encodes and keeps the input, piece by piece; gives its commitment.
fn write_input(
    home: &Home,
    plan: &Plan,
    values: &Values,
    cancel: &AtomicBool,
) -> Result<Digest, Failure> {
    let dimension = plan.encoding.dimension();
    let mut writer = home.rounds.input_writer(&plan.round, dimension)?;
    if let Values::Noised { words, clipping } = values {
        words.chunks(RUN).try_for_each(|words| writer.append(words))?;
        return keep(home, plan, writer, clipping.clone());
    }
    let mut meter = Meter::new(&plan.encoding);
    let mut encoder = plan.encoding.encoder();
    let mut quantised = Quantised { words: Vec::with_capacity(RUN), clipped: 0 };
    let mut piece = Vec::with_capacity(RUN);
    for first in (0..dimension).step_by(RUN) {
        if cancel.load(Ordering::Relaxed) {
            return Err(Failure::Stopped);
        }
        piece.clear();
        quantised.words.clear();
        values.append(first, dimension.min(first + RUN), &mut piece);
        meter.append(&piece);
        encoder
            .append(&piece, &mut quantised)
            .map_err(|error| Failure::Leave(PrepareError::from(error).to_string()))?;
        writer.append(&quantised.words)?;
    }
    if quantised.clipped > 0 {
        tracing::info!(round = %plan.round, values = quantised.clipped, "values were clipped");
    }
    keep(home, plan, writer, meter.finish())
}

/// Fixes the input, and what is shown of how it came about.
fn keep(
    home: &Home,
    plan: &Plan,
    writer: InputWriter,
    segments: Vec<Clipping>,
) -> Result<Digest, Failure> {
    let commitment = writer.finish()?;
    home.rounds.keep_clipping(&plan.round, &Measured { commitment, segments })?;
    Ok(commitment)
}

/// A damaged blob is fetched again.
pub(super) fn unreadable(home: &Home, error: BlobError) -> Failure {
    let removed = match &error {
        BlobError::Damaged { expected, .. } => home.blobs.remove(expected).map(drop),
        _ => Ok(()),
    };
    if let Err(error) = removed {
        return Failure::Fatal(error.into());
    }
    Failure::Line(LinkError::Store(error))
}

fn tidy(
    home: &Home,
    events: &[SessionEvent],
    reusable: Reusable,
) -> Result<Option<Fixed>, Failure> {
    let mut adopted = None;
    for event in events {
        match event {
            SessionEvent::PlanAccepted { plan } => {
                let round = &plan.body.round;
                // Without the old input, training gives a new one.
                adopted = reusable.as_ref().and_then(|(old, fixed)| {
                    home.rounds.adopt_input(old, round).ok()?;
                    home.rounds.input(round, &fixed.commitment).ok().map(|_| *fixed)
                });
                home.rounds.retain(adopted.map(|_| round))?;
                let keep: BTreeSet<Digest> = plan.body.inputs.iter().collect();
                home.retain_blobs(&keep).map_err(|error| Failure::Fatal(error.into()))?;
            }
            // The next attempt may ask for the same input.
            SessionEvent::RoundEnded {
                round,
                ending: Ending::Aborted | Ending::Abandoned { .. },
            } => {
                home.rounds.erase_secrets(round)?;
            }
            SessionEvent::RoundEnded { .. } => home.rounds.retain(None)?,
            SessionEvent::RoundLeft { round, .. } => home.rounds.erase_secrets(round)?,
            _ => {}
        }
    }
    Ok(adopted)
}

/// What the coordinator showed, without the shares sealed to this institution.
fn shown(view: &RoundView) -> Value {
    let headers: Vec<_> = view.headers.iter().map(|(header, _)| header).collect();
    json!({
        "phase": view.phase,
        "plan": view.plan,
        "list": view.list,
        "headers": headers,
        "proposal": view.proposal,
        "uploads": view.uploads,
        "certificate": view.certificate,
    })
}
