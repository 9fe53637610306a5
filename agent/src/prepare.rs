//! From an accepted plan to the integer input of a secure sum: checks everything that the plan says
//! against what this agent derives itself, runs the stage over the institution's records, encodes.
//! Sends nothing and keeps nothing; the coordinator's numbers are believed only as far as they fit.

pub mod bias_audit;
pub mod evaluation;
pub mod load_test;
mod neural;
mod private;

use std::collections::BTreeSet;

use collegium_shared::{
    architecture::{
        self, Architecture, BadHyper, BadPrivacy, BadSums, LOAD_TEST_1, LearnerPrivacy, SharedSets,
        SharedStatistics, Sizes, Stage, Sums, Totals, UnknownArchitecture, load_test::Moves,
        placed,
    },
    blobs::{BlobError, Blobs},
    crypto::Digest,
    params::{EncodeError, Encoding},
    protocol::Plan,
    roster::Registry,
    secagg::MAX_MEMBERS,
    tensors::{self, BadTensors},
};
use thiserror::Error;

use crate::{
    bias::Permitted,
    egress::Clipping,
    model::{self, Effort, ModelError, neural::Network},
    privacy::NoiseError,
    trainer::{Trainer, Work},
};

/// Room for a file's header beside its numbers, in bytes.
const HEADER: u64 = 1 << 16;

/// The most parameters of a model beside those that each competency has.
const MOST_NEURAL: u64 = 1 << 22;
/// The most values of each competency: a row of a network's table, or counts and weights.
const MOST_EACH: u64 = 96;

/// Why there is no input for a plan.
#[derive(Debug, Error)]
pub enum PrepareError {
    #[error(transparent)]
    Architecture(#[from] UnknownArchitecture),
    #[error("the plan's settings: {0}")]
    Settings(#[from] BadHyper),
    #[error("this agent cannot train {0}")]
    NoTraining(Architecture),
    #[error("the plan names no {0}, which its stage needs")]
    Missing(&'static str),
    #[error("learner records have no part in this architecture")]
    OtherArchitecture,
    #[error("the plan's vector is not the one that its stage has: {0}")]
    Encoding(String),
    #[error("the plan's parameter layout is not the one that the shared competencies give")]
    Layout,
    #[error("the support sum counts more institutions than a round can have, or fewer than none")]
    Support,
    #[error("the {what} does not fit the plan: {reason}")]
    Sums { what: &'static str, reason: BadSums },
    #[error("the {what} does not fit the plan: {reason}")]
    Tensors { what: &'static str, reason: BadTensors },
    #[error("the stage cannot be run: {0}")]
    Stage(#[from] ModelError),
    #[error("the stage's values cannot be encoded: {0}")]
    Encode(#[from] EncodeError),
    #[error("the plan's noise cannot be made: {0}")]
    Privacy(#[from] BadPrivacy),
    #[error("the plan's noise cannot be made: {0}")]
    Noise(#[from] NoiseError),
    #[error(transparent)]
    Blob(#[from] BlobError),
}

/// The blobs that the plan's stage reads.
pub fn inputs(plan: &Plan) -> Result<Vec<Digest>, PrepareError> {
    let given = &plan.inputs;
    let needs = |all: &[(&'static str, Option<Digest>)]| {
        all.iter().map(|(what, digest)| digest.ok_or(PrepareError::Missing(what))).collect()
    };
    let (support, statistics) = (("support", given.support), ("statistics", given.statistics));
    let candidate = ("candidate", given.candidate);
    match Architecture::lookup(&plan.architecture)? {
        Architecture::LoadTest1 => return needs(&[("start", given.start), candidate]),
        Architecture::BiasAudit1 => return bias_audit::inputs(plan),
        Architecture::Evaluation1 => return evaluation::question(plan).map(|_| Vec::new()),
        Architecture::KtLogistic1 | Architecture::Neural(_) => {}
    }
    let curved = Architecture::lookup(&plan.architecture)? == Architecture::KtLogistic1;
    if plan.hyper.privacy.is_some() {
        return match plan.stage {
            Stage::Train { .. } => needs(&[statistics, ("start", given.start)]),
            Stage::Evaluate => needs(&[statistics, candidate]),
            Stage::Support | Stage::Statistics | Stage::Totals | Stage::Audit => Ok(Vec::new()),
        };
    }
    match plan.stage {
        // No such plan is of an architecture that trains; its vector is refused.
        Stage::Support | Stage::Audit => Ok(Vec::new()),
        Stage::Statistics => needs(&[support]),
        Stage::Totals => needs(&[support, statistics]),
        Stage::Train { .. } if !curved => {
            needs(&[support, statistics, ("start", given.start), candidate])
        }
        Stage::Train { .. } => {
            let (totals, start) = (("totals", given.totals), ("start", given.start));
            needs(&[support, statistics, totals, start, candidate])
        }
        Stage::Evaluate => needs(&[support, statistics, candidate]),
    }
}

/// The most bytes that an opened sum or a model over this registry can have.
pub fn largest_blob(registry: &Registry) -> u64 {
    let Sizes { items, competencies } = registry.sizes();
    let values = 2 * u64::from(items) + MOST_EACH * u64::from(competencies) + MOST_NEURAL;
    8 * values + HEADER
}

/// The most bytes that an input of this plan can have.
pub fn largest_input(plan: &Plan, registry: &Registry) -> u64 {
    if reads_records(plan) && !asks_of_serving(plan) {
        largest_blob(registry)
    } else {
        4 * plan.encoding.dimension() as u64 + HEADER
    }
}

/// Of how many institutions the sum is, this plan does not say: it may ask fewer of them.
fn check_support(sums: &Sums) -> Result<(), PrepareError> {
    let possible = 0.0..=MAX_MEMBERS as f64;
    match sums.values().flatten().all(|support| possible.contains(support)) {
        true => Ok(()),
        false => Err(PrepareError::Support),
    }
}

/// Whether the plan asks about the model that serves here, and trains nothing.
pub fn asks_of_serving(plan: &Plan) -> bool {
    bias_audit::is_audit(plan) || evaluation::is_evaluation(plan)
}

/// What of the policy decides who counts in a bias audit or an evaluation; none of other plans.
pub fn decisive(plan: &Plan, permitted: &Permitted) -> Option<Digest> {
    match &plan.hyper.audit {
        Some(question) => Some(permitted.within(&question.scope).digest()),
        None => evaluation::is_evaluation(plan)
            .then(|| Permitted { attributes: BTreeSet::new(), ..permitted.clone() }.digest()),
    }
}

/// The manifest of the model that the plan asks about: it has to be the one that serves here.
pub fn asked_model(plan: &Plan) -> Option<Digest> {
    plan.hyper.audit.as_ref().map(|question| question.model).or(plan
        .hyper
        .evaluation
        .as_deref()
        .copied())
}

/// Whether learner records have any part in what the plan asks for.
pub fn reads_records(plan: &Plan) -> bool {
    plan.architecture != LOAD_TEST_1
}

/// The values of an input before they are encoded, in the order of the plan's encoding.
pub enum Values {
    Computed(Vec<f64>),
    Public(Moves),
    /// Clipped by learner, encoded, and with noise already; and what clipping took.
    Noised {
        words: Vec<u32>,
        clipping: Vec<Clipping>,
    },
}

impl Values {
    /// Appends the values from `first` to before `end`; of noised ones there are words only.
    pub fn append(&self, first: usize, end: usize, out: &mut Vec<f64>) {
        match self {
            Self::Computed(values) => {
                out.extend_from_slice(values.get(first..end).unwrap_or_default());
            }
            Self::Public(moves) => moves.append(first as u64, end.saturating_sub(first), out),
            Self::Noised { .. } => {}
        }
    }
}

/// The plan's inputs, read and checked.
struct Basis<'a> {
    architecture: Architecture,
    plan: &'a Plan,
    registry: &'a Registry,
    blobs: &'a Blobs,
}

/// Runs the plan's stage over the institution's records. `registry` is the one that the plan names, and
/// the plan's [`inputs`] are in `blobs`. Long and synchronous; ends early if `effort` is cancelled.
pub fn input(
    plan: &Plan,
    registry: &Registry,
    blobs: &Blobs,
    trainer: &mut Trainer,
    effort: &Effort,
) -> Result<Values, PrepareError> {
    let architecture = Architecture::lookup(&plan.architecture)?;
    if !matches!(architecture, Architecture::KtLogistic1 | Architecture::Neural(_)) {
        return Err(PrepareError::OtherArchitecture);
    }
    architecture.check(&plan.hyper)?;
    let basis = Basis { architecture, plan, registry, blobs };
    if let (Some(privacy), Some(placed)) = (&plan.hyper.privacy, placed(plan)?) {
        return private::input(&basis, privacy, &placed, trainer, effort);
    }
    match basis.run(trainer, effort) {
        // Whether the numbers come out finite depends on the records. An institution that stayed
        // away because of it would say something about them all by itself; zeros say nothing.
        Err(PrepareError::Stage(
            error @ (ModelError::NotFinite { .. } | ModelError::NotConverged(_)),
        )) => {
            tracing::error!(round = %plan.round, %error, "this institution contributes zeros");
            Ok(Values::Computed(vec![0.0; plan.encoding.dimension()]))
        }
        other => other.map(Values::Computed),
    }
}

/// Names, lengths and bounds must be those of the stage; scales follow from bounds.
fn check_encoding(given: &Encoding, expected: &Encoding) -> Result<(), PrepareError> {
    if given == expected {
        return Ok(());
    }
    let differs = given.segments().iter().zip(expected.segments()).find(|(g, e)| g != e);
    Err(PrepareError::Encoding(match differs {
        Some((given, expected)) => format!(
            "segment {} of {} values, bound {}, noise {}, where {} of {}, bound {}, noise {} is expected",
            given.name,
            given.len,
            given.bound,
            given.deviation,
            expected.name,
            expected.len,
            expected.bound,
            expected.deviation
        ),
        None => format!(
            "it has {} segments, expected {}",
            given.segments().len(),
            expected.segments().len()
        ),
    }))
}

impl Basis<'_> {
    fn run(&self, trainer: &mut Trainer, effort: &Effort) -> Result<Vec<f64>, PrepareError> {
        if self.plan.stage == Stage::Support {
            self.check_encoding(self.registry.sizes())?;
            let Registry { items, competencies, .. } = self.registry;
            return Ok(trainer.run_stage(Work::Support { items, competencies }, effort)?);
        }
        let shared = self.shared()?;
        self.check_encoding(shared.sizes())?;
        if let Architecture::Neural(_) = self.architecture {
            return neural::run(self, self.network()?, &shared, None, trainer, effort);
        }
        let layout = architecture::layout(&shared.competencies);
        if layout.digest().ok() != self.plan.layout {
            return Err(PrepareError::Layout);
        }
        let shared = &shared;
        if self.plan.stage == Stage::Statistics {
            return Ok(trainer.run_stage(Work::Statistics { shared }, effort)?);
        }
        let statistics = &self.statistics(shared)?;
        let values = match self.plan.stage {
            Stage::Train { .. } => {
                let (totals, hyper) = (&self.totals(shared)?, &self.plan.hyper);
                let start = &self.model("start", self.plan.inputs.start, &layout)?;
                let candidate = &self.model("candidate", self.plan.inputs.candidate, &layout)?;
                let work = Work::Train { shared, statistics, totals, hyper, start, candidate };
                trainer.run_stage(work, effort)?
            }
            Stage::Evaluate => {
                let candidate = &self.model("candidate", self.plan.inputs.candidate, &layout)?;
                trainer.run_stage(Work::Evaluate { shared, statistics, candidate }, effort)?
            }
            _ => trainer.run_stage(Work::Totals { shared, statistics }, effort)?,
        };
        Ok(values)
    }

    fn check_encoding(&self, sizes: Sizes) -> Result<(), PrepareError> {
        let Plan { stage, hyper, encoding: given, .. } = self.plan;
        let expected = self.architecture.encoding(stage, hyper, sizes, given.n_max())?;
        check_encoding(given, &expected)
    }

    /// The training of the plan's network.
    fn network(&self) -> Result<&'static dyn Network, PrepareError> {
        model::neural::of(self.architecture).ok_or(PrepareError::NoTraining(self.architecture))
    }

    fn read(&self, what: &'static str, digest: Option<Digest>) -> Result<Vec<u8>, PrepareError> {
        let digest = digest.ok_or(PrepareError::Missing(what))?;
        Ok(self.blobs.read(&digest, largest_blob(self.registry))?)
    }

    fn sums(&self, what: &'static str, digest: Option<Digest>) -> Result<Sums, PrepareError> {
        let bytes = self.read(what, digest)?;
        tensors::read_sums(&bytes).map_err(|reason| PrepareError::Tensors { what, reason })
    }

    fn shared(&self) -> Result<SharedSets, PrepareError> {
        let what = "support sum";
        let sums = self.sums(what, self.plan.inputs.support)?;
        check_support(&sums)?;
        let least = self.plan.cohort.least();
        shared_sets(self.registry, &sums, least)
            .map_err(|reason| PrepareError::Sums { what, reason })
    }

    fn statistics(&self, shared: &SharedSets) -> Result<SharedStatistics, PrepareError> {
        let what = "statistics sum";
        let sums = self.sums(what, self.plan.inputs.statistics)?;
        statistics(sums, shared).map_err(|reason| PrepareError::Sums { what, reason })
    }

    fn totals(&self, shared: &SharedSets) -> Result<Totals, PrepareError> {
        let what = "totals sum";
        let mut sums = self.sums(what, self.plan.inputs.totals)?;
        complete(&mut sums, &Stage::Totals, shared.sizes());
        Totals::from_segments(&sums, shared).map_err(|reason| PrepareError::Sums { what, reason })
    }

    fn model(
        &self,
        what: &'static str,
        digest: Option<Digest>,
        layout: &architecture::Layout,
    ) -> Result<Vec<f32>, PrepareError> {
        let bytes = self.read(what, digest)?;
        tensors::read_model(&bytes, layout).map_err(|reason| PrepareError::Tensors { what, reason })
    }
}

/// What at least `least` institutions support, by the opened support sum.
pub fn shared_sets(
    registry: &Registry,
    support: &Sums,
    least: usize,
) -> Result<SharedSets, BadSums> {
    let segment = |name: &'static str, expected: usize| {
        let values = support.get(name).map(Vec::as_slice).unwrap_or_default();
        let name = name.to_owned();
        let found = values.len();
        if found == expected { Ok(values) } else { Err(BadSums::Length { name, found, expected }) }
    };
    let Registry { items, competencies, .. } = registry;
    let by_item = segment("items", items.len())?;
    let by_competency = segment("competencies", competencies.len())?;
    let threshold = u32::try_from(least).unwrap_or(u32::MAX);
    Ok(SharedSets::from_support(items, competencies, by_item, by_competency, threshold))
}

/// The shared counts, by the opened statistics sum.
pub fn statistics(mut sums: Sums, shared: &SharedSets) -> Result<SharedStatistics, BadSums> {
    complete(&mut sums, &Stage::Statistics, shared.sizes());
    SharedStatistics::from_segments(&sums, shared)
}

/// The same of a private task: everything in the registry is shared.
pub fn noisy_statistics(
    mut sums: Sums,
    shared: &SharedSets,
    privacy: &LearnerPrivacy,
    institutions: u32,
) -> Result<SharedStatistics, BadSums> {
    complete(&mut sums, &Stage::Statistics, shared.sizes());
    SharedStatistics::from_noisy_segments(&sums, shared, privacy, institutions)
}

/// The settings of a task without noise decide nothing about which segments are empty.
fn complete(sums: &mut Sums, stage: &Stage, sizes: Sizes) {
    architecture::complete_sums(sums, stage, &architecture::Hyper::default(), sizes);
}

#[cfg(test)]
pub(crate) mod tests {
    use std::sync::Arc;

    use collegium_shared::{ids::RoundId, params::Encoding};

    use super::*;
    use crate::{records::Learner, session::tests::World, trainer::tests::simulated};

    pub(super) const N: u32 = 5;

    /// A registry over the simulated items, and what a coordinator with five copies of the same
    /// institution would have opened.
    pub(super) struct Fixture {
        _dir: tempfile::TempDir,
        pub(super) blobs: Blobs,
        pub(super) registry: Registry,
        pub(super) learners: Vec<Learner>,
        pub(super) world: World,
    }

    pub(super) fn fixture() -> Fixture {
        let dir = tempfile::tempdir().unwrap();
        let learners = simulated(3, 1, 12).remove(0);
        let responses = || learners.iter().flat_map(|l| &l.responses);
        let mut items: std::collections::BTreeSet<String> =
            responses().map(|r| r.item.clone()).collect();
        items.insert("unknown-here".into());
        let competencies = responses().flat_map(|r| r.competencies.clone()).collect();
        let registry = Registry::new(1, competencies, items).unwrap();
        let blobs = Blobs::open(&dir.path().join("blobs")).unwrap();
        Fixture { _dir: dir, blobs, registry, learners, world: World::new() }
    }

    impl Fixture {
        fn plan(&self, stage: Stage, sizes: Sizes) -> Plan {
            let mut plan = self.world.plan_body("t", 0, 0, stage);
            plan.encoding = architecture::encoding(&plan.stage, &plan.hyper, sizes, N).unwrap();
            plan
        }

        fn run(&self, plan: &Plan) -> Result<Vec<u32>, PrepareError> {
            let mut trainer = Trainer::new(self.learners.clone());
            let go = Effort::new(Arc::default(), 100);
            let values = input(plan, &self.registry, &self.blobs, &mut trainer, &go)?;
            let mut whole = Vec::new();
            values.append(0, plan.encoding.dimension(), &mut whole);
            Ok(plan.encoding.encode(&whole)?.words)
        }

        /// Runs the stage and opens the sum of five such inputs.
        fn open(&self, plan: &Plan) -> Digest {
            let words = self.run(plan).unwrap();
            let sum: Vec<u32> = words.iter().map(|w| w.wrapping_mul(N)).collect();
            let sums = plan.encoding.decode_sum(&sum).unwrap();
            self.blobs.put(&tensors::write_sums(&sums).unwrap()).unwrap()
        }

        /// Plans of every stage, in order, as an honest coordinator makes them.
        fn plans(&self) -> Vec<Plan> {
            let support = self.plan(Stage::Support, self.registry.sizes());
            let mut inputs = support.inputs.clone();
            inputs.support = Some(self.open(&support));
            let mut plans = vec![support];
            let items = self.registry.items.iter().filter(|i| i.starts_with("item")).count();
            let sizes = Sizes { items: items.try_into().unwrap(), ..self.registry.sizes() };
            let layout = architecture::layout(&self.registry.competencies);
            let weights = tensors::write_model(&layout, &layout.initial()).unwrap();
            inputs.start = Some(self.blobs.put(&weights).unwrap());
            inputs.candidate = inputs.start;
            for stage in
                [Stage::Statistics, Stage::Totals, Stage::Train { step: 1 }, Stage::Evaluate]
            {
                let mut plan = self.plan(stage, sizes);
                plan.layout = Some(layout.digest().unwrap());
                plan.inputs = inputs.clone();
                match plan.stage {
                    Stage::Statistics => inputs.statistics = Some(self.open(&plan)),
                    Stage::Totals => inputs.totals = Some(self.open(&plan)),
                    _ => {}
                }
                plans.push(plan);
            }
            plans
        }
    }

    #[test]
    fn every_stage_gives_the_plans_vector() {
        let fixture = fixture();
        for plan in fixture.plans() {
            let first = fixture.run(&plan).unwrap();
            assert_eq!(first.len(), plan.encoding.dimension(), "{:?}", plan.stage);
            assert!(first == fixture.run(&plan).unwrap(), "the same again");
            let limit = largest_blob(&fixture.registry);
            for digest in inputs(&plan).unwrap() {
                assert!(fixture.blobs.read(&digest, limit).is_ok());
            }
        }
    }

    #[test]
    fn a_plan_for_another_vector_is_refused() {
        let fixture = fixture();
        for plan in fixture.plans() {
            let segments: Vec<(String, u32, f64)> =
                plan.encoding.segments().iter().map(|s| (s.name.clone(), s.len, s.bound)).collect();
            let mut longer = segments.clone();
            longer[0].1 += 1;
            let mut looser = segments.clone();
            looser[0].2 *= 2.0;
            let mut renamed = segments.clone();
            renamed[0].0 = "other".into();
            let mut more = segments.clone();
            more.push(("secret".into(), 1, 1.0));
            for changed in [longer, looser, renamed, more] {
                let encoding = Encoding::new(changed, N).unwrap();
                let changed = Plan { encoding, ..plan.clone() };
                assert!(matches!(fixture.run(&changed), Err(PrepareError::Encoding(_))));
            }
        }
    }

    /// As that of a group does, and any after a member was excluded.
    #[test]
    fn a_plan_may_ask_fewer_institutions_than_support_was_counted_over() {
        let fixture = fixture();
        let mut plan = fixture.plans().remove(3);
        let segments = plan.encoding.segments().to_vec();
        let segments = segments.into_iter().map(|s| (s.name, s.len, s.bound));
        plan.encoding = Encoding::new(segments, N - 2).unwrap();
        assert!(fixture.run(&plan).is_ok());
        let mut sums = fixture.blobs.read(&plan.inputs.support.unwrap(), 1 << 20).unwrap();
        let mut support = tensors::read_sums(&sums).unwrap();
        for bad in [257.0, -1.0] {
            support.get_mut("items").unwrap()[0] = bad;
            sums = tensors::write_sums(&support).unwrap();
            plan.inputs.support = Some(fixture.blobs.put(&sums).unwrap());
            assert!(matches!(fixture.run(&plan), Err(PrepareError::Support)), "{bad}");
        }
    }

    #[test]
    fn inputs_that_do_not_fit_are_refused_by_name() {
        let fixture = fixture();
        let plans = fixture.plans();
        let train = &plans[3];
        let run = |change: &dyn Fn(&mut Plan)| {
            let mut plan = train.clone();
            change(&mut plan);
            fixture.run(&plan).err().unwrap().to_string()
        };
        assert!(run(&|p| p.inputs.totals = None).contains("totals"));
        assert!(run(&|p| p.inputs.totals = p.inputs.statistics).contains("totals"));
        assert!(run(&|p| p.inputs.support = p.inputs.statistics).contains("support"));
        assert!(run(&|p| p.inputs.start = p.inputs.support).contains("start"));
        assert!(run(&|p| p.inputs.candidate = Some(Digest::of(b"x"))).contains("not in the store"));
        assert!(run(&|p| p.layout = None).contains("layout"));
        assert!(run(&|p| p.cohort.min_honest = 5).contains("segment"), "another threshold");
        assert!(run(&|p| p.architecture = "gpt/9".into()).contains("gpt/9"));
        let nan = architecture::Sums::from([("examples".to_owned(), vec![f64::NAN])]);
        let nan = fixture.blobs.put(&tensors::write_sums(&nan).unwrap()).unwrap();
        assert!(run(&|p| p.inputs.totals = Some(nan)).contains("not a finite number"));
    }

    #[test]
    fn what_is_cancelled_gives_no_input() {
        let fixture = fixture();
        let train = &fixture.plans()[3];
        assert_eq!(train.round, RoundId { task: "t".parse().unwrap(), round: 0, attempt: 0 });
        let mut trainer = Trainer::new(fixture.learners.clone());
        let cancel = Effort::new(Arc::new(true.into()), 100);
        let result = input(train, &fixture.registry, &fixture.blobs, &mut trainer, &cancel);
        assert!(matches!(result, Err(PrepareError::Stage(ModelError::Cancelled))));
    }
}
