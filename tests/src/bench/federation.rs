//! Whole tasks in memory: the agents' own clipping, noise and training and the coordinator's own steps, with
//! the sums added up unmasked. Measures nothing and judges nothing; nothing of it is random but the noise.

use std::{collections::BTreeSet, path::Path, sync::Arc};

use collegium_agent::{
    import::{self, Mapping},
    model::{Effort, Model},
    privacy::{BoundedSum, RandomBits},
    records::Learner,
    trainer::{PrivateWork, Trainer, Work},
};
use collegium_shared::{
    architecture::{
        self, Coordinate, Evaluation, Hyper, LearnerPrivacy, Placed, SharedSets, SharedStatistics,
        Stage, Sums, Totals, private_step,
    },
    params::Encoding,
    protocol::Cohort,
};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha12Rng;
use rustix::time::{ClockId, clock_gettime};

use crate::{
    demo::population::known_mapping,
    simulator::{Federation, Settings},
};

/// The simulator's institutions, each with its learners.
pub(super) fn simulated() -> Vec<Vec<Learner>> {
    let federation = Federation::simulate(&Settings::default());
    federation.institutions.iter().map(|one| one.learners()).collect()
}

/// The institutions of a file with a column that names them, called like a mapping in tests/mappings.
pub(super) fn read(file: &Path) -> anyhow::Result<Vec<Vec<Learner>>> {
    let mapping = Mapping::load(&known_mapping(file)?)?;
    Ok(import::read_all(file, &mapping)?.institutions.into_values().collect())
}

/// All institutions, each with its trainer, and what the registry names.
pub(crate) struct World {
    pub(crate) records: Vec<Vec<Learner>>,
    trainers: Vec<Trainer>,
    registry: SharedSets,
    effort: Effort,
    /// What the institutions add of the noise that a plan asks for, as a standard deviation: 1, but where a
    /// benchmark breaks them.
    noise: f64,
    /// From how many institutions on items and competencies are shared; by the product's rule if none.
    least: Option<u32>,
}

/// Called with every opened sum of a private task.
pub(crate) type Watch<'w> = dyn FnMut(&Stage, PrivateWork<'_>, &Sums) -> anyhow::Result<()> + 'w;

/// Called with the number of each step, from 1, and the model after it.
pub(crate) type Follow<'f> = dyn FnMut(u32, &Model) -> anyhow::Result<()> + 'f;

/// The least noise of one institution, in integer units: the samplers know no variance of 0, and a draw of
/// this one is 0 but with probability below e^-500.
const SILENCE: f64 = 1.0 / 32.0;

/// What the steps of a task without noise go by.
pub(super) struct Basis {
    pub(super) shared: SharedSets,
    pub(super) statistics: SharedStatistics,
    pub(super) totals: Totals,
}

/// What came of a task.
pub(crate) struct Trained {
    pub(crate) model: Model,
    /// The AUC that the model was released with, by its noisy evaluation.
    pub(super) published: Option<f64>,
    /// Processor time of each training step, all institutions one after another.
    pub(super) seconds: Vec<f64>,
}

impl World {
    /// Over a registry that names everything that anybody answered.
    pub(crate) fn new(records: Vec<Vec<Learner>>) -> Self {
        let registry = registry(&records);
        Self::over(registry, records)
    }

    pub(super) fn over(registry: SharedSets, records: Vec<Vec<Learner>>) -> Self {
        let trainers = records.iter().cloned().map(Trainer::new).collect();
        let effort = Effort::new(Arc::default(), 100);
        Self { records, trainers, registry, effort, noise: 1.0, least: None }
    }

    /// Institutions that add so much of the noise that is asked for.
    pub(super) fn with_noise(self, noise: f64) -> Self {
        Self { noise, ..self }
    }

    /// Sharing what so many institutions have, whatever the product's rule is.
    pub(crate) fn sharing_from(self, least: Option<u32>) -> Self {
        Self { least, ..self }
    }

    fn n(&self) -> anyhow::Result<u32> {
        Ok(u32::try_from(self.trainers.len())?)
    }

    /// As a coordinator would count on them.
    pub(crate) fn parties(&self) -> u16 {
        parties(self.trainers.len())
    }

    fn exact(
        &mut self,
        stage: &Stage,
        shared: &SharedSets,
        work: Work<'_>,
        present: &mut dyn FnMut(&Stage) -> bool,
    ) -> anyhow::Result<Sums> {
        let hyper = Hyper::default();
        let encoding = architecture::encoding(stage, &hyper, shared.sizes(), self.n()?)?;
        let mut total = vec![0_u32; encoding.dimension()];
        for trainer in self.trainers.iter_mut().filter(|_| present(stage)) {
            add(&mut total, &encoding.encode(&trainer.run_stage(work, &self.effort)?)?.words);
        }
        opened(&encoding, &total, stage, &hyper, shared)
    }

    pub(super) fn noisy(
        &mut self,
        stage: &Stage,
        privacy: &LearnerPrivacy,
        work: PrivateWork<'_>,
    ) -> anyhow::Result<Sums> {
        let hyper = Hyper { privacy: Some(*privacy), ..Hyper::default() };
        let encoding = architecture::encoding(stage, &hyper, self.registry.sizes(), self.n()?)?;
        let placed = privacy.place(stage, &encoding)?;
        let mut total = vec![0_u32; encoding.dimension()];
        let mut bits = RandomBits::system();
        for trainer in &mut self.trainers {
            let sums = placed.iter().map(|placed| {
                let least = SILENCE / 2_f64.powi(placed.scale_log2);
                let deviation = (placed.deviation * self.noise).max(least);
                BoundedSum::new(Placed { deviation, ..*placed })
            });
            let mut sums = sums.collect::<Result<Vec<_>, _>>()?;
            trainer.run_private(work, &mut sums, &self.effort)?;
            let mut words = Vec::with_capacity(total.len());
            for sum in sums {
                words.extend(sum.noised(&mut bits)?);
            }
            add(&mut total, &words);
        }
        opened(&encoding, &total, stage, &hyper, &self.registry)
    }

    /// The counts of a task without noise, over what the threshold of its cohort lets be shared.
    pub(super) fn basis(&mut self) -> anyhow::Result<Basis> {
        let registry = self.registry.clone();
        let SharedSets { items, competencies } = &registry;
        let work = Work::Support { items, competencies };
        let all = &mut |_: &Stage| true;
        let support = self.exact(&Stage::Support, &registry, work, all)?;
        let proposed = u32::try_from(Cohort::proposed(self.trainers.len()).least())?;
        let least = self.least.unwrap_or(proposed);
        let (by_item, by_skill) = (&support["items"], &support["competencies"]);
        let shared = SharedSets::from_support(items, competencies, by_item, by_skill, least);
        let work = Work::Statistics { shared: &shared };
        let sums = self.exact(&Stage::Statistics, &shared, work, all)?;
        let statistics = SharedStatistics::from_segments(&sums, &shared)?;
        let work = Work::Totals { shared: &shared, statistics: &statistics };
        let sums = self.exact(&Stage::Totals, &shared, work, all)?;
        let totals = Totals::from_segments(&sums, &shared)?;
        Ok(Basis { shared, statistics, totals })
    }

    /// What each institution would encode for a stage.
    pub(super) fn each(&mut self, work: Work<'_>) -> anyhow::Result<Vec<Vec<f64>>> {
        let (trainers, effort) = (self.trainers.iter_mut(), &self.effort);
        trainers.map(|trainer| Ok(trainer.run_stage(work, effort)?)).collect()
    }

    /// A task without noise.
    pub(crate) fn plain(&mut self, steps: u32) -> anyhow::Result<Trained> {
        self.steps(steps, &mut |_| true, None)
    }

    /// The same; `follow` sees the model after each step.
    pub(crate) fn followed(
        &mut self,
        steps: u32,
        follow: &mut Follow<'_>,
    ) -> anyhow::Result<Trained> {
        self.steps(steps, &mut |_| true, Some(follow))
    }

    /// The same, with each institution away from every other training step, by chance.
    pub(crate) fn half(&mut self, steps: u32, seed: u64) -> anyhow::Result<Trained> {
        let mut random = ChaCha12Rng::seed_from_u64(seed);
        self.steps(steps, &mut |_| random.random_bool(0.5), None)
    }

    fn steps(
        &mut self,
        steps: u32,
        present: &mut dyn FnMut(&Stage) -> bool,
        mut follow: Option<&mut Follow<'_>>,
    ) -> anyhow::Result<Trained> {
        let hyper = &Hyper::default();
        let Basis { shared, statistics, totals } = &self.basis()?;
        let server = hyper.optimizer.server;
        let mut at = server.coordinates(&architecture::layout(&shared.competencies).initial());
        let mut seconds = Vec::new();
        for step in 1..=steps {
            let [start, candidate] = &Coordinate::models(&at);
            let work = Work::Train { shared, statistics, totals, hyper, start, candidate };
            let begun = processor_seconds();
            let sums = self.exact(&Stage::Train { step }, shared, work, present)?;
            seconds.push(processor_seconds() - begun);
            let moves = at.iter_mut().zip(&sums["move"]);
            moves.for_each(|(at, moved)| *at = server.advance(step, *at, *moved));
            if let Some(follow) = &mut follow {
                let [_, weights] = Coordinate::models(&at);
                follow(step, &Model::new(&shared.competencies, statistics.clone(), &weights)?)?;
            }
        }
        let [_, candidate] = Coordinate::models(&at);
        let model = Model::new(&shared.competencies, statistics.clone(), &candidate)?;
        Ok(Trained { model, published: None, seconds })
    }

    /// A private task.
    pub(crate) fn private(
        &mut self,
        privacy: LearnerPrivacy,
        steps: u32,
        watch: &mut Watch<'_>,
    ) -> anyhow::Result<Trained> {
        let (n, shared) = (self.n()?, &self.registry.clone());
        let work = PrivateWork::Statistics { shared };
        let sums = self.noisy(&Stage::Statistics, &privacy, work)?;
        watch(&Stage::Statistics, work, &sums)?;
        let statistics = &SharedStatistics::from_noisy_segments(&sums, shared, &privacy, n)?;
        let answers = statistics.answers(&privacy, n);
        let mut weights = architecture::layout(&shared.competencies).initial();
        let mut seconds = Vec::new();
        for step in 1..=steps {
            let work = PrivateWork::Gradient { shared, statistics, start: &weights };
            let begun = processor_seconds();
            let sums = self.noisy(&Stage::Train { step }, &privacy, work)?;
            seconds.push(processor_seconds() - begun);
            watch(&Stage::Train { step }, work, &sums)?;
            private_step(&mut weights, &sums["gradient"], privacy.learning_rate, answers);
        }
        let work = PrivateWork::Evaluate { shared, statistics, candidate: &weights };
        let sums = self.noisy(&Stage::Evaluate, &privacy, work)?;
        watch(&Stage::Evaluate, work, &sums)?;
        let published = Evaluation::from_noisy_segments(&sums)?.auc();
        let model = Model::new(&shared.competencies, statistics.clone(), &weights)?;
        // The first step makes the features as well.
        Ok(Trained { model, published, seconds: seconds.split_off(1.min(seconds.len() - 1)) })
    }
}

/// How many of `n` institutions a coordinator counts on to add noise.
pub(crate) fn parties(n: usize) -> u16 {
    let honest = n.saturating_sub(usize::from(Cohort::proposed(n).c_max) + n.div_ceil(10));
    u16::try_from(honest.max(1)).unwrap_or(u16::MAX)
}

/// Everything that is named in the records, sorted.
pub(super) fn registry(records: &[Vec<Learner>]) -> SharedSets {
    let answers = || records.iter().flatten().flat_map(|learner| &learner.responses);
    let items: BTreeSet<&String> = answers().map(|answer| &answer.item).collect();
    let competencies: BTreeSet<&String> = answers().flat_map(|a| &a.competencies).collect();
    let owned = |names: BTreeSet<&String>| names.into_iter().cloned().collect();
    SharedSets { items: owned(items), competencies: owned(competencies) }
}

pub(super) fn add(total: &mut [u32], words: &[u32]) {
    total.iter_mut().zip(words).for_each(|(sum, word)| *sum = sum.wrapping_add(*word));
}

fn opened(
    encoding: &Encoding,
    total: &[u32],
    stage: &Stage,
    hyper: &Hyper,
    shared: &SharedSets,
) -> anyhow::Result<Sums> {
    let mut sums = encoding.decode_sum(total)?;
    architecture::complete_sums(&mut sums, stage, hyper, shared.sizes());
    Ok(sums)
}

fn processor_seconds() -> f64 {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}
