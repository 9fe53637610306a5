//! A training task as a fold over events: which secure sum comes next, what its result leads to,
//! when the task is over. Pure; the numbers themselves are blobs that `aggregate` computes with.

use std::collections::BTreeSet;

use collegium_shared::{
    accountant::AccountantError,
    architecture::{
        Architecture, BIAS_AUDIT_1, BadHyper, BiasScope, EVALUATION_1, FROM_INSTITUTIONS, Hyper,
        LEAST_GROUPS, LOAD_TEST_1, Layout, LearnerPrivacy, Optimizer, Stage, Target, group_count,
        load_test,
    },
    clock::Timestamp,
    crypto::Digest,
    ids::{InstitutionId, Purpose, RoundId, TaskId},
    params::MAX_DIMENSION,
    protocol::{Certificate, Cohort, Deadlines, Ending, Inputs, Manifest, Metrics, Phase},
};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::{card::CARD, round::Round};

mod gate;
mod groups;

pub use gate::{Gate, Reference, ReleaseRule, Withheld, sampling};
pub use groups::{Aggregation, Asked, GroupSum, Groups};

/// How many rounds in a row may end without a sum before the task is given up. Rounds for which too
/// few institutions were there do not count: the task waits for them.
const MAX_FAILURES: u32 = 5;

/// What a release's blob is called among those that are needed.
pub const RELEASED: &str = "the manifest of a released model";
/// The most optimiser steps of a task.
const MAX_ROUNDS: u32 = 10_000;

/// What an operator asks for: the content of a task file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TaskSpec {
    pub task: TaskId,
    pub architecture: Architecture,
    /// What the model is for: plans say it, and institutions' policies may ask for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub purpose: Option<Purpose>,
    /// How many parameters to move: of `load-test/1`, and of nothing else.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parameters: Option<u32>,
    /// Optimiser steps, each one secure sum.
    #[serde(default = "default_rounds")]
    pub rounds: u32,
    #[serde(default)]
    pub hyper: Hyper,
    /// What it may cost each learner; none: sums are exact. Noise is made of it when the task starts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub privacy: Option<PrivacySpec>,
    /// What a bias audit asks about the newest released model: of `bias-audit/1`, and of nothing else.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub audit: Option<Box<BiasScope>>,
    /// How many may collude and how many must be honest; proposed from the roster if left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cohort: Option<Cohort>,
    #[serde(default)]
    pub deadlines: Deadlines,
    /// Which models are released.
    #[serde(default, skip_serializing_if = "ReleaseRule::is_default")]
    pub release: ReleaseRule,
    /// How the moves of a step become one.
    #[serde(default, skip_serializing_if = "Aggregation::is_default")]
    pub aggregation: Aggregation,
}

/// The learner-level differential privacy that an operator asks for.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PrivacySpec {
    /// What the whole task may cost each learner, at `delta`.
    pub epsilon: f64,
    #[serde(default = "default_delta")]
    pub delta: f64,
    #[serde(default)]
    pub noise: NoiseFrom,
}

/// Whose noise the claim needs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NoiseFrom {
    /// Each institution adds a part, and the secure sum hides all but the whole.
    #[default]
    Together,
    /// Each institution adds all that its own learners need.
    Each,
}

fn default_delta() -> f64 {
    1e-6
}

fn default_rounds() -> u32 {
    30
}

/// A task file whose keys do not fit each other.
#[derive(Clone, Debug, PartialEq, Error)]
pub enum BadTask {
    #[error("rounds is {0}; use 1 to {MAX_ROUNDS}")]
    Rounds(u32),
    #[error("parameters is missing: {LOAD_TEST_1} needs a number from 1 to {MAX_DIMENSION}")]
    NoParameters,
    #[error("parameters is {0}; use 1 to {MAX_DIMENSION}")]
    Parameters(u32),
    #[error("parameters belongs to {LOAD_TEST_1} only; remove it")]
    FixedParameters,
    #[error("{LOAD_TEST_1} reads no records, so it has no privacy to keep; remove [privacy]")]
    NoRecords,
    #[error("{BIAS_AUDIT_1} needs [audit], and nothing else has it")]
    Audit,
    #[error("hyper.audit and hyper.evaluation are made when the task starts; remove them")]
    Question,
    #[error(
        "{BIAS_AUDIT_1} and {EVALUATION_1} give exact sums, without noise that hides a learner; remove [privacy]"
    )]
    ExactAudit,
    #[error(transparent)]
    Hyper(#[from] BadHyper),
    #[error("hyper.privacy is made of [privacy] when the task starts; remove it")]
    Noise,
    #[error("optimizer has no part in a task with [privacy], which has one of its own; remove it")]
    Optimizer,
    #[error(
        "group-medians is for tasks that train, and without [privacy], whose noise is in one sum; remove it"
    )]
    Medians,
    #[error(
        "group-medians needs {FROM_INSTITUTIONS} institutions or more, in {LEAST_GROUPS} groups of at least {n_min}; there are {members}"
    )]
    FewForMedians { members: usize, n_min: usize },
    #[error("[privacy]: {0}")]
    Privacy(#[from] AccountantError),
    #[error(
        "[privacy]: of {members} institutions {c_max} may collude and some will be missing: nobody is left to add noise"
    )]
    NoParties { members: usize, c_max: u16 },
}

impl TaskSpec {
    /// Whether a task can be run by it.
    pub fn check(&self) -> Result<(), BadTask> {
        if !(1..=MAX_ROUNDS).contains(&self.rounds) {
            return Err(BadTask::Rounds(self.rounds));
        }
        if self.hyper.privacy.is_some() {
            return Err(BadTask::Noise);
        }
        if self.hyper.audit.is_some() || self.hyper.evaluation.is_some() {
            return Err(BadTask::Question);
        }
        if self.audit.is_some() != (self.architecture == Architecture::BiasAudit1) {
            return Err(BadTask::Audit);
        }
        let asks = [Architecture::BiasAudit1, Architecture::Evaluation1];
        if self.privacy.is_some() && asks.contains(&self.architecture) {
            return Err(BadTask::ExactAudit);
        }
        if self.privacy.is_some() && self.architecture == Architecture::LoadTest1 {
            return Err(BadTask::NoRecords);
        }
        if self.privacy.is_some() && self.hyper.optimizer != Optimizer::default() {
            return Err(BadTask::Optimizer);
        }
        let medians = self.aggregation == Aggregation::GroupMedians;
        if medians && (self.privacy.is_some() || asks.contains(&self.architecture)) {
            return Err(BadTask::Medians);
        }
        match (self.architecture, self.parameters) {
            (Architecture::LoadTest1, None) => return Err(BadTask::NoParameters),
            (Architecture::LoadTest1, Some(given)) => match given as usize {
                1..=MAX_DIMENSION => {}
                _ => return Err(BadTask::Parameters(given)),
            },
            (_, Some(_)) => return Err(BadTask::FixedParameters),
            (_, None) => {}
        }
        Ok(self.architecture.check(&self.hyper)?)
    }

    /// Puts the architecture's own settings where the task file says none.
    pub fn fill_in(&mut self) {
        if let Architecture::Neural(network) = self.architecture
            && self.hyper.optimizer == Optimizer::default()
        {
            self.hyper.optimizer = network.optimizer();
        }
    }

    /// Whether so many `members` are enough for it.
    pub fn check_members(&self, members: usize, cohort: Cohort) -> Result<(), BadTask> {
        let n_min = cohort.n_min();
        let enough = members >= FROM_INSTITUTIONS && group_count(members, n_min).is_some();
        match self.aggregation {
            Aggregation::GroupMedians if !enough => Err(BadTask::FewForMedians { members, n_min }),
            _ => Ok(()),
        }
    }

    /// Turns what may be spent into noise for a consortium of so many `members`. Noise that institutions
    /// add together is sized so that a tenth of them, or the one of fewer, may be missing.
    pub fn calibrate(&mut self, members: usize, cohort: Cohort) -> Result<(), BadTask> {
        let Some(PrivacySpec { epsilon, delta, noise }) = self.privacy else { return Ok(()) };
        let c_max = cohort.c_max;
        let missing = members.div_ceil(10);
        let honest = members.saturating_sub(usize::from(c_max) + missing);
        let parties = match noise {
            NoiseFrom::Each => 1,
            NoiseFrom::Together => u16::try_from(honest).unwrap_or(u16::MAX),
        };
        if parties == 0 {
            return Err(BadTask::NoParties { members, c_max });
        }
        let target = Target { epsilon, delta };
        self.hyper.privacy = Some(match self.architecture {
            Architecture::Neural(network) => {
                LearnerPrivacy::propose_for_network(target, self.rounds, parties, network)
            }
            _ => LearnerPrivacy::propose(target, self.rounds, parties),
        }?);
        Ok(())
    }

    /// The layout of a load test; none for an architecture whose layout the shared sets give.
    pub fn load_test(&self) -> Option<Layout> {
        let parameters = self.parameters.filter(|_| self.architecture == Architecture::LoadTest1);
        parameters.map(load_test::layout)
    }
}

/// How a task ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "end", rename_all = "snake_case")]
pub enum TaskEnding {
    Completed,
    Failed { reason: String },
}

/// The round that made something, for the lineage of models.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Made {
    pub round: RoundId,
    pub plan: Digest,
    pub roster: Digest,
    pub uploads: Vec<Digest>,
}

/// An opened sum that something has to be computed from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Opened {
    pub stage: Stage,
    pub sum: Digest,
    pub made: Made,
    /// Whose uploads were summed.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub institutions: BTreeSet<InstitutionId>,
    /// The sums of a step's groups, of which `sum` is the last; none of a sum over all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<GroupSum>,
}

/// The model that the next sum starts from, and evaluates.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Candidate {
    /// Optimiser steps behind it; 0 is the public start.
    pub step: u32,
    pub weights: Digest,
    /// Where local training starts: the weights, or Nesterov's point beyond them.
    pub start: Digest,
    /// The optimiser's moments, each as a model of its own; none before the first step.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub moments: Vec<Digest>,
    pub layout: Digest,
    /// None for the public start, which nobody's data made.
    pub made: Option<Made>,
}

/// A released model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Release {
    pub version: u32,
    pub manifest: Digest,
    pub metrics: Metrics,
    /// The signed model card; none of a release that an earlier build made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub card: Option<Digest>,
}

/// A task under way, or over.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Task {
    spec: TaskSpec,
    cohort: Cohort,
    registry: Digest,
    started_at: Timestamp,
    inputs: Inputs,
    candidate: Option<Candidate>,
    /// What the sum of the last round still has to be turned into.
    opened: Option<Opened>,
    releases: Vec<Release>,
    /// Metrics of the public start.
    baseline: Option<Metrics>,
    round: u32,
    attempt: u32,
    /// The quorum's ABORT of the attempt before.
    aborted: Option<Certificate>,
    failures: u32,
    rounds_completed: u32,
    rounds_failed: u32,
    excluded: BTreeSet<InstitutionId>,
    /// Why no further round can help.
    stuck: Option<String>,
    ending: Option<TaskEnding>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    paused: Option<Paused>,
    #[serde(default, skip_serializing_if = "Gate::is_new")]
    gate: Gate,
    /// The report of a bias audit or an evaluation, once it is made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    report: Option<Digest>,
    /// Institutions in each opened sum, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    participants: Vec<u16>,
    #[serde(default, skip_serializing_if = "Groups::is_new")]
    groups: Groups,
}

/// An operator's pause.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Paused {
    pub since: Timestamp,
    pub reason: Option<String>,
}

// --- What happened ---------------------------------------------------------------------------

impl Task {
    pub fn started(spec: TaskSpec, cohort: Cohort, registry: Digest, at: Timestamp) -> Self {
        Self {
            spec,
            cohort,
            registry,
            started_at: at,
            inputs: Inputs::default(),
            candidate: None,
            opened: None,
            releases: Vec::new(),
            baseline: None,
            round: 0,
            attempt: 0,
            aborted: None,
            failures: 0,
            rounds_completed: 0,
            rounds_failed: 0,
            excluded: BTreeSet::new(),
            stuck: None,
            ending: None,
            paused: None,
            gate: Gate::default(),
            report: None,
            participants: Vec::new(),
            groups: Groups::default(),
        }
    }

    /// A round of this task ended; `before` is the phase in which it did.
    pub fn round_ended(&mut self, round: &Round, before: Phase, ending: &Ending) {
        match ending {
            Ending::Released { sum } => {
                self.take_sum(round, *sum);
                self.rounds_completed += 1;
                self.failures = 0;
                self.next_round();
            }
            Ending::Aborted => {
                self.count_failure();
                self.aborted = round.certificate();
                self.attempt += 1;
            }
            Ending::Failed { dealer } => {
                self.count_failure();
                self.excluded.insert(dealer.clone());
                self.given_in_vain(round);
                self.next_round();
            }
            Ending::Abandoned { .. } if before == Phase::Ready => {
                self.rounds_failed += 1;
                self.attempt += 1;
            }
            Ending::Abandoned { .. } => {
                self.count_failure();
                // Inputs that may have been sent are not used again without a quorum's ABORT.
                if round.context().is_some() {
                    self.given_in_vain(round);
                    self.next_round();
                } else {
                    self.attempt += 1;
                }
            }
        }
    }

    fn next_round(&mut self) {
        self.round += 1;
        self.attempt = 0;
        self.aborted = None;
    }

    /// What institutions give once per task, and have given, cannot be asked for again.
    fn given_in_vain(&mut self, round: &Round) {
        let stage = &round.plan().stage;
        if stage.once() {
            self.stuck = Some(format!(
                "the {} round ended without a sum after institutions had sent what they send once \
                 per task; start a new task",
                stage.label()
            ));
        }
    }

    fn count_failure(&mut self) {
        self.failures += 1;
        self.rounds_failed += 1;
    }

    fn take_sum(&mut self, round: &Round, sum: Digest) {
        let plan = round.plan();
        self.participants.push(u16::try_from(round.uploads().len()).unwrap_or(u16::MAX));
        match plan.stage {
            Stage::Support => self.inputs.support = Some(sum),
            Stage::Statistics => self.inputs.statistics = Some(sum),
            Stage::Totals => self.inputs.totals = Some(sum),
            Stage::Train { .. } | Stage::Evaluate | Stage::Audit => {
                let made = Made {
                    round: plan.round.clone(),
                    plan: round.plan_digest(),
                    roster: plan.roster,
                    uploads: round.uploads().values().map(|u| u.body.upload).collect(),
                };
                let by = round.uploads().values().map(|u| u.body.institution.clone());
                let (stage, institutions) = (plan.stage.clone(), by.collect());
                let opened = Opened { stage, sum, made, institutions, groups: Vec::new() };
                self.opened = match plan.group {
                    Some(_) => self.groups.take(opened),
                    None => Some(opened),
                };
            }
        }
    }

    pub fn stepped(&mut self, candidate: Candidate) {
        self.opened = None;
        self.candidate = Some(candidate);
    }

    /// The opened sum of an audit or an evaluation became a report.
    pub fn audited(&mut self, report: Digest) {
        self.opened = None;
        self.report = Some(report);
    }

    pub fn evaluated_start(&mut self, metrics: Metrics) {
        self.baseline = Some(metrics);
        self.gate.started(self.evaluators());
    }

    pub fn released(&mut self, release: Release) {
        self.gate.observe(self.baseline.as_ref(), &release.metrics);
        self.gate.released(self.evaluators());
        self.releases.push(release);
    }

    pub fn was_withheld(&mut self, withheld: Withheld) {
        self.gate.observe(self.baseline.as_ref(), &withheld.metrics);
        self.gate.withheld(withheld);
    }

    /// On whose learners the candidate was evaluated.
    fn evaluators(&self) -> BTreeSet<InstitutionId> {
        self.opened.as_ref().map(|opened| opened.institutions.clone()).unwrap_or_default()
    }

    /// Pausing again replaces the reason and keeps the time.
    pub fn pause(&mut self, reason: Option<String>, at: Timestamp) {
        let since = self.paused.take().map_or(at, |paused| paused.since);
        self.paused = Some(Paused { since, reason });
    }

    pub fn resume(&mut self) {
        self.paused = None;
    }

    pub fn ended(&mut self, ending: TaskEnding) {
        self.opened = None;
        self.groups = Groups::default();
        self.gate.over();
        self.ending = Some(ending);
    }
}

// --- What comes next -------------------------------------------------------------------------

/// What the task needs from its owner.
#[derive(Clone, Debug, PartialEq)]
pub enum Next {
    /// Make the public start from the shared competencies.
    Initialise,
    /// Turn an opened sum into metrics, a release and the next candidate.
    Digest(Box<Opened>),
    /// Begin a round for this stage.
    Round(Stage),
    /// End the task.
    End(TaskEnding),
}

impl Task {
    /// What to do while no round is open; none when the task is over, or paused before a round.
    pub fn next(&self) -> Option<Next> {
        self.coming().filter(|next| self.paused.is_none() || !matches!(next, Next::Round(_)))
    }

    fn coming(&self) -> Option<Next> {
        if self.ending.is_some() {
            return None;
        }
        if let Some(reason) = self.stuck.clone() {
            return Some(Next::End(TaskEnding::Failed { reason }));
        }
        if self.failures >= MAX_FAILURES {
            let reason = format!("{MAX_FAILURES} rounds in a row ended without a sum");
            return Some(Next::End(TaskEnding::Failed { reason }));
        }
        if let Some(opened) = &self.opened {
            return Some(Next::Digest(Box::new(opened.clone())));
        }
        if let Some(reason) = self.diverged() {
            return Some(Next::End(TaskEnding::Failed { reason }));
        }
        match self.spec.architecture {
            Architecture::LoadTest1 => return Some(self.next_of_load_test()),
            Architecture::BiasAudit1 => return Some(self.next_of_audit()),
            Architecture::Evaluation1 => {
                return Some(match self.report {
                    None => Next::Round(Stage::Audit),
                    Some(_) => Next::End(TaskEnding::Completed),
                });
            }
            Architecture::KtLogistic1 | Architecture::Neural(_) => {}
        }
        // With noise nothing decides what is shared, and no curvature is told.
        let exact = self.spec.hyper.privacy.is_none();
        let curved = exact && self.spec.architecture == Architecture::KtLogistic1;
        Some(match (&self.inputs, &self.candidate) {
            (Inputs { support: None, .. }, _) if exact => Next::Round(Stage::Support),
            (Inputs { statistics: None, .. }, _) => Next::Round(Stage::Statistics),
            (Inputs { totals: None, .. }, _) if curved => Next::Round(Stage::Totals),
            (_, None) => Next::Initialise,
            (_, Some(c)) if c.step < self.spec.rounds => {
                Next::Round(Stage::Train { step: c.step + 1 })
            }
            (_, Some(c)) if self.evaluated(c.step) => Next::End(self.conclusion()),
            _ => Next::Round(Stage::Evaluate),
        })
    }

    /// How the task ends once its last model is evaluated.
    pub fn conclusion(&self) -> TaskEnding {
        match self.diverged().or_else(|| self.fruitless()) {
            Some(reason) => TaskEnding::Failed { reason },
            None => TaskEnding::Completed,
        }
    }

    /// Nothing but steps: the numbers of a load test need no counts before and no evaluation after.
    fn next_of_load_test(&self) -> Next {
        match &self.candidate {
            None => Next::Initialise,
            Some(c) if c.step < self.spec.rounds => Next::Round(Stage::Train { step: c.step + 1 }),
            Some(_) => Next::End(TaskEnding::Completed),
        }
    }

    /// Which groups are told of, what is told, and no model.
    fn next_of_audit(&self) -> Next {
        match (self.inputs.support, self.report) {
            (None, _) => Next::Round(Stage::Support),
            (_, None) => Next::Round(Stage::Audit),
            _ => Next::End(TaskEnding::Completed),
        }
    }

    /// What is signed of the candidate when it is released; none while its lineage is incomplete.
    pub fn manifest(&self, metrics: Metrics, released_at: Timestamp) -> Option<Manifest> {
        let candidate = self.candidate()?;
        let made = candidate.made.as_ref()?;
        let privacy = self.spec.hyper.privacy;
        Some(Manifest {
            architecture: self.spec.architecture.id().to_owned(),
            version: self.version(),
            round: made.round.clone(),
            weights: candidate.weights,
            layout: candidate.layout,
            support: match privacy {
                Some(_) => None,
                None => Some(self.support()?),
            },
            statistics: self.statistics()?,
            cohort: self.cohort,
            privacy,
            features: self.spec.hyper.features.clone(),
            parent: self.releases.last().map(|release| release.manifest),
            plan: made.plan,
            roster: made.roster,
            registry: self.registry,
            uploads: made.uploads.clone(),
            metrics,
            released_at,
        })
    }

    /// Whether the metrics of the candidate after `step` are known. Each is evaluated once, in turn, and then
    /// released or withheld; with noise only the last one.
    pub fn evaluated(&self, step: u32) -> bool {
        match (step, self.spec.hyper.privacy) {
            (0, _) => self.baseline.is_some(),
            (_, Some(_)) => self.judged() > 0,
            (_, None) => self.judged() >= step as usize,
        }
    }

    /// How many models were released or withheld.
    fn judged(&self) -> usize {
        self.releases.len() + self.withheld().0 as usize
    }

    /// The version as which the candidate is released: what was withheld has none, so that agents see which
    /// one follows which.
    pub fn version(&self) -> u32 {
        u32::try_from(self.releases.len()).unwrap_or(u32::MAX).saturating_add(1)
    }

    /// The fewest institutions that may start a round.
    pub fn n_min(&self) -> usize {
        let parties = self.spec.hyper.privacy.map_or(0, |privacy| privacy.parties.into());
        self.cohort.n_min().max(usize::from(self.cohort.c_max) + parties)
    }

    /// Whether the sum of this stage is one of several over groups.
    pub fn in_groups(&self, stage: &Stage) -> bool {
        let steps = matches!(stage, Stage::Train { .. });
        steps && self.spec.aggregation == Aggregation::GroupMedians
    }

    /// The blobs that a round for `stage` starts from.
    pub fn inputs(&self, stage: &Stage) -> Inputs {
        let mut inputs = self.inputs.clone();
        if let Some(candidate) = &self.candidate {
            inputs.candidate = Some(candidate.weights);
            inputs.start = matches!(stage, Stage::Train { .. }).then_some(candidate.start);
        }
        inputs
    }
}

// --- What is ---------------------------------------------------------------------------------

impl Task {
    pub fn spec(&self) -> &TaskSpec {
        &self.spec
    }

    pub fn cohort(&self) -> Cohort {
        self.cohort
    }

    pub fn registry(&self) -> Digest {
        self.registry
    }

    pub fn candidate(&self) -> Option<&Candidate> {
        self.candidate.as_ref()
    }

    pub fn support(&self) -> Option<Digest> {
        self.inputs.support
    }

    pub fn statistics(&self) -> Option<Digest> {
        self.inputs.statistics
    }

    pub fn started_at(&self) -> Timestamp {
        self.started_at
    }

    /// Institutions in each opened sum, in order.
    pub fn participants(&self) -> &[u16] {
        &self.participants
    }

    pub fn releases(&self) -> &[Release] {
        &self.releases
    }

    pub fn baseline(&self) -> Option<&Metrics> {
        self.baseline.as_ref()
    }

    pub fn excluded(&self) -> &BTreeSet<InstitutionId> {
        &self.excluded
    }

    pub fn paused(&self) -> Option<&Paused> {
        self.paused.as_ref()
    }

    pub fn ending(&self) -> Option<&TaskEnding> {
        self.ending.as_ref()
    }

    /// Rounds that gave a sum, and rounds that ended without one.
    pub fn rounds(&self) -> (u32, u32) {
        (self.rounds_completed, self.rounds_failed)
    }

    /// The name of the round that would be planned now.
    pub fn round_id(&self) -> RoundId {
        RoundId { task: self.spec.task.clone(), round: self.round, attempt: self.attempt }
    }

    pub fn aborted(&self) -> Option<&Certificate> {
        self.aborted.as_ref()
    }

    /// The blobs that the task still needs, and what each is: of one that is over, its releases.
    pub fn blobs(&self) -> Vec<(Digest, &'static str)> {
        let mut blobs: Vec<_> =
            self.releases.iter().map(|release| (release.manifest, RELEASED)).collect();
        blobs.extend(self.releases.iter().filter_map(|release| Some((release.card?, CARD))));
        if self.ending.is_some() {
            return blobs;
        }
        let Inputs { support, statistics, totals, .. } = &self.inputs;
        let sums = [support, statistics, totals].into_iter().copied().flatten();
        let groups = self.opened.iter().flat_map(|opened| &opened.groups).map(|group| group.sum);
        let groups = groups.chain(self.groups.sums());
        let opened = self.opened.iter().map(|opened| opened.sum).chain(groups);
        blobs.extend(sums.chain(opened).map(|sum| (sum, "an opened sum")));
        let candidate = self.candidate.iter();
        let models = candidate.flat_map(|c| [&c.weights, &c.start].into_iter().chain(&c.moments));
        blobs.extend(models.map(|model| (*model, "the model under training")));
        blobs
    }
}
#[cfg(test)]
mod tests;
