//! The computations that the owner hands to worker threads. What has to be done follows from the
//! state alone, so after a restart it is simply asked again; each computation may run twice.

use std::sync::Arc;

use collegium_shared::{
    architecture::{self, Architecture, Layout, Stage},
    blobs::Blobs,
    crypto::Digest,
    protocol::{Metrics, Phase},
    roster::Registry,
};

use crate::{
    accumulator::Accumulator,
    aggregate::{self, AggregateError, StepSums},
    bias::report::{self, BiasReport},
    card::{Facts, Judged},
    evaluation::{self, EvaluationReport},
    network::Network,
    noisy,
    round::Position,
    spool::Spool,
    task::{Candidate, Next, Opened, Reference, Task},
};

/// Uploads that may stay on disk although they are summed, however long: a file for the sum of fewer
/// would cost more than it frees.
const KEPT_UPLOADS: u64 = 4;

/// Something to compute.
pub enum Work {
    /// Add the uploads that are complete to the running sum of the round with this plan. None: as it
    /// was left on disk, or a new one.
    Fold { plan: Digest, accumulator: Option<Accumulator> },
    /// Take the masks off the sum and keep it as a blob.
    Open { accumulator: Accumulator },
    /// Make the public start.
    Initialise,
    /// Turn an opened sum into metrics and the next candidate.
    Digest { opened: Box<Opened> },
}

/// What came out; of rounds with the digest of the plan, because a round may end meanwhile.
pub enum Done {
    /// The computation itself failed: a defect, or no memory.
    Failed,
    Folded(Digest, Result<Accumulator, AggregateError>),
    Opened(Digest, Result<Digest, AggregateError>),
    Initialised(Result<Candidate, AggregateError>),
    Digested(Box<Opened>, Result<Box<Digested>, AggregateError>),
}

/// What an opened sum of training or evaluation says.
#[derive(Default)]
pub struct Digested {
    /// Of the candidate that the sum's round evaluated; a load test evaluates nothing.
    pub metrics: Option<Metrics>,
    /// For the card of that candidate, if it is released.
    pub facts: Option<Facts>,
    /// What noisy metrics are compared with.
    pub noisy: Option<Reference>,
    /// The next candidate, after an optimiser step.
    pub candidate: Option<Candidate>,
    /// What was found of a released model; nothing else then.
    pub report: Option<Found>,
}

/// What a task that trains nothing found.
pub enum Found {
    Audit(Box<BiasReport>),
    Evaluation(Box<EvaluationReport>),
}

/// What there is to do now, if anything. `accumulator` is taken only if it is needed.
pub fn pending(network: &Network, accumulator: &mut Option<Accumulator>) -> Option<Work> {
    if let Some(round) = network.open_round() {
        if round.phase() < Phase::Upload {
            return None;
        }
        let plan = round.plan_digest();
        // A round that ended without a sum leaves what was summed of it.
        accumulator.take_if(|sum| sum.plan() != plan);
        let folded = |p: &Position| accumulator.as_ref().is_some_and(|a| a.included().contains(p));
        return if !round.uploads().keys().all(folded) {
            Some(Work::Fold { plan, accumulator: accumulator.take() })
        } else if round.phase() == Phase::Open {
            accumulator.take().map(|accumulator| Work::Open { accumulator })
        } else {
            None
        };
    }
    match network.task()?.next()? {
        Next::Initialise => Some(Work::Initialise),
        Next::Digest(opened) => Some(Work::Digest { opened }),
        Next::Round(_) | Next::End(_) => None,
    }
}

/// Where the numbers are.
#[derive(Clone)]
pub struct Workshop {
    pub blobs: Blobs,
    pub spool: Spool,
    /// Bytes of uploads that stay on disk although they are summed; four of them always may.
    pub kept: u64,
}

impl Workshop {
    /// Does it; runs on a worker thread.
    pub fn run(&self, work: Work, network: &Network, registry: Option<Arc<Registry>>) -> Done {
        match work {
            Work::Fold { plan, accumulator } => Done::Folded(plan, self.fold(accumulator, network)),
            Work::Open { accumulator } => {
                Done::Opened(accumulator.plan(), self.open(accumulator, network))
            }
            Work::Initialise => Done::Initialised(
                self.layout(network, registry.as_deref())
                    .and_then(|layout| aggregate::initialise(&layout, &self.blobs)),
            ),
            Work::Digest { opened } => {
                let digested = self.digest(&opened, network, registry.as_deref());
                Done::Digested(opened, digested.map(Box::new))
            }
        }
    }

    fn fold(
        &self,
        accumulator: Option<Accumulator>,
        network: &Network,
    ) -> Result<Accumulator, AggregateError> {
        let round = network.open_round();
        let round = round.ok_or(AggregateError::Inconsistent("there is no round to sum"))?;
        let files = self.spool.round(&round.plan().round)?;
        let again = accumulator.is_none();
        let mut accumulator = match accumulator {
            Some(accumulator) => accumulator,
            None => Accumulator::resume(round, &files)?,
        };
        for (position, header) in round.uploads() {
            if accumulator.included().contains(position) {
                continue;
            }
            accumulator.fold(*position, &header.body, &files, again)?;
            if accumulator.kept_bytes() > self.kept.max(KEPT_UPLOADS * accumulator.upload_bytes())
                && let Err(error) = accumulator.save(&files)
            {
                // Nothing is lost: the uploads are still there.
                tracing::warn!(%error, "the running sum could not be saved");
            }
        }
        Ok(accumulator)
    }

    fn open(&self, accumulator: Accumulator, network: &Network) -> Result<Digest, AggregateError> {
        let (Some(round), Some(task)) = (network.open_round(), network.task()) else {
            return Err(AggregateError::Inconsistent("there is no round to open"));
        };
        let files = self.spool.round(&round.plan().round)?;
        // Sizes matter only for segments without a value, which later stages alone can have.
        let none = architecture::Sizes { items: 0, competencies: 0 };
        let hyper = &task.spec().hyper;
        let mut empty = architecture::Sums::new();
        // An audit has no such segments.
        if hyper.audit.is_none() {
            let architecture = task.spec().architecture;
            architecture.complete_sums(&mut empty, &round.plan().stage, hyper, none);
        }
        let empty = empty.keys().map(String::as_str);
        aggregate::open_sum(round, &files, accumulator, empty, &self.blobs)
    }

    fn layout(
        &self,
        network: &Network,
        registry: Option<&Registry>,
    ) -> Result<Layout, AggregateError> {
        let (Some(task), Some(registry)) = (network.task(), registry) else {
            return Err(AggregateError::Inconsistent("there is no task, or no registry"));
        };
        aggregate::layout(task, registry, &self.blobs)
    }

    fn digest(
        &self,
        opened: &Opened,
        network: &Network,
        registry: Option<&Registry>,
    ) -> Result<Digested, AggregateError> {
        let task = network.task().ok_or(AggregateError::Inconsistent("there is no task"))?;
        if task.spec().architecture == Architecture::BiasAudit1 {
            let earlier = network.audits().reports(&self.blobs)?;
            let report = report::make(task, opened, &earlier, &self.blobs)?;
            let report = Some(Found::Audit(Box::new(report)));
            return Ok(Digested { report, ..Digested::default() });
        }
        if let Some(model) = task.spec().hyper.evaluation.as_deref() {
            let releases = network.tasks().iter().flat_map(|task| task.releases());
            let of = releases.rev().find(|release| release.manifest == *model);
            let of = of.map(|release| (release.version, release.metrics));
            let report = evaluation::make(task, opened, of, &self.blobs)?;
            let report = Some(Found::Evaluation(Box::new(report)));
            return Ok(Digested { report, ..Digested::default() });
        }
        let sums = StepSums::open(opened, &self.blobs)?;
        let private = task.spec().hyper.privacy.is_some();
        let judged = judge(&sums, task, opened)?;
        let made = task.candidate().is_some_and(|candidate| candidate.made.is_some());
        let facts = match (&judged, registry) {
            (Some(Judgement { judged, .. }), Some(registry)) if made => {
                Some(Facts::of(*judged, task, registry, &self.blobs)?)
            }
            _ => None,
        };
        let (metrics, noisy) = judged.map(|of| (of.metrics, of.noisy)).unzip();
        let candidate = match opened.stage {
            Stage::Train { .. } => {
                let layout = self.layout(network, registry)?;
                Some(match registry.filter(|_| private) {
                    Some(registry) => {
                        noisy::step(opened, task, (&layout, registry), sums.whole()?, &self.blobs)?
                    }
                    None => aggregate::step(opened, task, &layout, &sums, &self.blobs)?,
                })
            }
            _ => None,
        };
        Ok(Digested { metrics, facts, noisy: noisy.flatten(), candidate, report: None })
    }
}

/// What a sum says of the candidate that it evaluated.
struct Judgement {
    metrics: Metrics,
    judged: Judged,
    /// What noisy metrics are compared with.
    noisy: Option<Reference>,
}

/// None of a sum that evaluated nothing.
fn judge(
    sums: &StepSums,
    task: &Task,
    opened: &Opened,
) -> Result<Option<Judgement>, AggregateError> {
    let private = task.spec().hyper.privacy.is_some();
    match (task.spec().architecture, &opened.stage) {
        (Architecture::LoadTest1 | Architecture::BiasAudit1 | Architecture::Evaluation1, _) => {
            Ok(None)
        }
        // With noise an evaluation has a budget of its own, and comes once.
        (_, Stage::Train { .. }) if private => Ok(None),
        (_, _) if private => {
            let (metrics, judged, noisy) = noisy::metrics(sums.whole()?, task, opened)?;
            Ok(Some(Judgement { metrics, judged, noisy }))
        }
        (_, _) => {
            let (metrics, judged) = aggregate::metrics(sums)?;
            Ok(Some(Judgement { metrics, judged, noisy: None }))
        }
    }
}
