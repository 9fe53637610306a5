//! What learner-level privacy costs: the quality of the model against epsilon, and the time of a private
//! step beside a plain one. The agents' own clipping, noise and training and the coordinator's own step, with
//! the sums added in memory; nothing of it is random but the noise, which is drawn anew for each repetition.

use std::{path::PathBuf, sync::Arc};

use anyhow::Context;
use clap::Args;
use collegium_agent::{
    evaluate,
    import::{self, Mapping},
    model::{Effort, Model},
    privacy::{BoundedSum, RandomBits},
    records::Learner,
    trainer::{PrivateWork, Trainer, Work},
};
use collegium_shared::{
    architecture::{
        self, Evaluation, Hyper, LearnerPrivacy, SharedSets, SharedStatistics, Stage, Sums, Target,
        Totals, private_step,
    },
    params::Encoding,
    protocol::Cohort,
};
use rustix::time::{ClockId, clock_gettime};
use serde_json::{Value, json};

use super::{plot, statistics::median};
use crate::{
    demo::population::known_mapping,
    simulator::{Federation, Settings},
};

const DELTA: f64 = 1e-6;

/// What is trained.
#[derive(Clone, Debug, Args)]
pub(super) struct Options {
    /// Real records: files with a column that says the institution, called like a mapping in
    /// tests/mappings. Without any, the simulator's.
    #[arg(long, value_name = "PATH", value_delimiter = ',')]
    data: Vec<PathBuf>,
    /// The budgets.
    #[arg(long, value_name = "E", value_delimiter = ',', default_values_t = [8.0, 4.0, 2.0])]
    epsilons: Vec<f64>,
    /// How often each is run, with noise drawn anew.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    repetitions: u32,
    /// Where pictures of the results go: one SVG for each set, called by its name.
    #[arg(long, value_name = "DIR")]
    plots: Option<PathBuf>,
    /// Private optimiser steps.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    steps: u32,
    /// Steps of the task without noise.
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    plain_steps: u32,
}

pub(super) fn run(options: &Options) -> anyhow::Result<Value> {
    let mut rows = Vec::new();
    if options.data.is_empty() {
        let federation = Federation::simulate(&Settings::default());
        let institutions = federation.institutions.iter().map(|one| one.learners()).collect();
        rows.extend(measure("simulated", institutions, options)?);
    }
    for file in &options.data {
        let name = file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let mapping = Mapping::load(&known_mapping(file)?)?;
        let all = import::read_all(file, &mapping)?;
        rows.extend(measure(&name, all.institutions.into_values().collect(), options)?);
    }
    let sets: std::collections::BTreeSet<&str> =
        rows.iter().filter_map(|row| row["set"].as_str()).collect();
    for (dir, set) in options.plots.iter().flat_map(|dir| sets.iter().map(move |set| (dir, set))) {
        let file = dir.join(format!("privacy-{set}.svg"));
        std::fs::write(&file, plot::svg(set, &rows))
            .with_context(|| format!("cannot write {}", file.display()))?;
    }
    Ok(json!({ "delta": DELTA, "repetitions": options.repetitions, "rows": rows }))
}

/// Whose noise is enough, as a task file has it.
const TOGETHER: &str = "together";
const EACH: &str = "each";

fn measure(
    set: &str,
    institutions: Vec<Vec<Learner>>,
    options: &Options,
) -> anyhow::Result<Vec<Value>> {
    let mut world = World::new(institutions)?;
    let plain = world.plain(options.plain_steps)?;
    let [global, personal] = quality(&world.records, &plain.model)?;
    let mut rows = vec![json!({
        "set": set, "institutions": world.records.len(), "noise": Value::Null, "epsilon": Value::Null,
        "auc_global": [global], "auc_personal": [personal], "step_s": median(&plain.seconds),
    })];
    for noise in [TOGETHER, EACH] {
        for epsilon in &options.epsilons {
            let parties = if noise == EACH { 1 } else { world.parties() };
            let target = Target { epsilon: *epsilon, delta: DELTA };
            let privacy = LearnerPrivacy::propose(target, options.steps, parties)?;
            let runs: Vec<Trained> = (0..options.repetitions)
                .map(|_| world.private(privacy, options.steps))
                .collect::<anyhow::Result<_>>()?;
            let mut row = figures(&world.records, &runs, &plain)?;
            for (name, value) in [("set", json!(set)), ("noise", json!(noise))] {
                row[name] = value;
            }
            row["epsilon"] = json!(epsilon);
            rows.push(row);
        }
    }
    Ok(rows)
}

/// What runs with one budget gave.
fn figures(records: &[Vec<Learner>], runs: &[Trained], plain: &Trained) -> anyhow::Result<Value> {
    let qualities: Vec<[f64; 2]> =
        runs.iter().map(|run| quality(records, &run.model)).collect::<anyhow::Result<_>>()?;
    let column = |at: usize| -> Vec<f64> { qualities.iter().map(|q| q[at]).collect() };
    let seconds: Vec<f64> = runs.iter().flat_map(|run| run.seconds.clone()).collect();
    let ratio = median(&seconds).zip(median(&plain.seconds)).map(|(own, plain)| own / plain);
    let published: Vec<_> = runs.iter().map(|run| run.published).collect();
    Ok(json!({
        "institutions": records.len(), "auc_global": column(0), "auc_personal": column(1),
        "auc_published": published, "step_s": median(&seconds), "step_over_plain": ratio,
    }))
}

/// The AUC of a model over all held-out answers, as institutions use it and with personal copies.
fn quality(records: &[Vec<Learner>], model: &Model) -> anyhow::Result<[f64; 2]> {
    let auc = |personal| -> anyhow::Result<f64> {
        let report = evaluate::served(records, model, personal)?;
        report.together.auc.context("held-out answers are all right or all wrong")
    };
    Ok([auc(false)?, auc(true)?])
}

/// All institutions, each with its trainer, and what the registry would name.
struct World {
    records: Vec<Vec<Learner>>,
    trainers: Vec<Trainer>,
    registry: SharedSets,
    effort: Effort,
}

/// What came of a task.
struct Trained {
    model: Model,
    /// The AUC that the model was released with, by its noisy evaluation.
    published: Option<f64>,
    /// Processor time of each training step, all institutions one after another.
    seconds: Vec<f64>,
}

impl World {
    fn new(records: Vec<Vec<Learner>>) -> anyhow::Result<Self> {
        let answers = || records.iter().flatten().flat_map(|learner| &learner.responses);
        let sorted = |names: Vec<String>| {
            let names: std::collections::BTreeSet<String> = names.into_iter().collect();
            names.into_iter().collect()
        };
        let registry = SharedSets {
            items: sorted(answers().map(|answer| answer.item.clone()).collect()),
            competencies: sorted(
                answers().flat_map(|answer| answer.competencies.clone()).collect(),
            ),
        };
        let trainers = records.iter().cloned().map(Trainer::new).collect();
        Ok(Self { records, trainers, registry, effort: Effort::new(Arc::default(), 100) })
    }

    fn n(&self) -> anyhow::Result<u32> {
        Ok(u32::try_from(self.trainers.len())?)
    }

    /// As a coordinator would count on them.
    fn parties(&self) -> u16 {
        let n = self.trainers.len();
        let honest = n.saturating_sub(usize::from(Cohort::proposed(n).c_max) + n.div_ceil(10));
        u16::try_from(honest.max(1)).unwrap_or(u16::MAX)
    }

    fn exact(
        &mut self,
        stage: &Stage,
        shared: &SharedSets,
        work: Work<'_>,
    ) -> anyhow::Result<Sums> {
        let hyper = Hyper::default();
        let encoding = architecture::encoding(stage, &hyper, shared.sizes(), self.n()?)?;
        let mut total = vec![0_u32; encoding.dimension()];
        for trainer in &mut self.trainers {
            add(&mut total, &encoding.encode(&trainer.run_stage(work, &self.effort)?)?.words);
        }
        opened(&encoding, &total, stage, &hyper, shared)
    }

    fn noisy(
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
            let sums = placed.iter().map(|placed| BoundedSum::new(*placed));
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

    /// A task without noise, over what the threshold of its cohort lets be shared.
    fn plain(&mut self, steps: u32) -> anyhow::Result<Trained> {
        let hyper = &Hyper::default();
        let registry = self.registry.clone();
        let SharedSets { items, competencies } = &registry;
        let work = Work::Support { items, competencies };
        let support = self.exact(&Stage::Support, &registry, work)?;
        let least = u32::try_from(Cohort::proposed(self.trainers.len()).least())?;
        let (by_item, by_skill) = (&support["items"], &support["competencies"]);
        let shared = &SharedSets::from_support(items, competencies, by_item, by_skill, least);
        let sums = self.exact(&Stage::Statistics, shared, Work::Statistics { shared })?;
        let statistics = &SharedStatistics::from_segments(&sums, shared)?;
        let sums = self.exact(&Stage::Totals, shared, Work::Totals { shared, statistics })?;
        let totals = &Totals::from_segments(&sums, shared)?;
        let mut start = architecture::layout(&shared.competencies).initial();
        let mut candidate = start.clone();
        let mut seconds = Vec::new();
        for step in 1..=steps {
            let (start_at, before) = (start.as_slice(), candidate.as_slice());
            let work = Work::Train {
                shared,
                statistics,
                totals,
                hyper,
                start: start_at,
                candidate: before,
            };
            let begun = processor_seconds();
            let sums = self.exact(&Stage::Train { step }, shared, work)?;
            seconds.push(processor_seconds() - begun);
            (start, candidate) = nesterov(&start, &candidate, &sums["move"], step);
        }
        let model = Model::new(&shared.competencies, statistics.clone(), &candidate)?;
        Ok(Trained { model, published: None, seconds })
    }

    /// A private task.
    fn private(&mut self, privacy: LearnerPrivacy, steps: u32) -> anyhow::Result<Trained> {
        let (n, shared) = (self.n()?, &self.registry.clone());
        let sums = self.noisy(&Stage::Statistics, &privacy, PrivateWork::Statistics { shared })?;
        let statistics = &SharedStatistics::from_noisy_segments(&sums, shared, &privacy, n)?;
        let answers = statistics.answers(&privacy, n);
        let mut weights = architecture::layout(&shared.competencies).initial();
        let mut seconds = Vec::new();
        for step in 1..=steps {
            let work = PrivateWork::Gradient { shared, statistics, start: &weights };
            let begun = processor_seconds();
            let sums = self.noisy(&Stage::Train { step }, &privacy, work)?;
            seconds.push(processor_seconds() - begun);
            private_step(&mut weights, &sums["gradient"], privacy.learning_rate, answers);
        }
        let work = PrivateWork::Evaluate { shared, statistics, candidate: &weights };
        let sums = self.noisy(&Stage::Evaluate, &privacy, work)?;
        let published = Evaluation::from_noisy_segments(&sums)?.auc();
        let model = Model::new(&shared.competencies, statistics.clone(), &weights)?;
        // The first step makes the features as well.
        Ok(Trained { model, published, seconds: seconds.split_off(1.min(seconds.len() - 1)) })
    }
}

fn add(total: &mut [u32], words: &[u32]) {
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

/// The coordinator's step: the next start, and the next candidate.
fn nesterov(start: &[f32], before: &[f32], moves: &[f64], step: u32) -> (Vec<f32>, Vec<f32>) {
    let momentum = f64::from(step - 1) / f64::from(step + 2);
    let moved = start.iter().zip(moves).map(|(w, z)| f64::from(*w) + z);
    let moved: Vec<f64> = moved.collect();
    let ahead = moved.iter().zip(before).map(|(new, old)| new + momentum * (new - f64::from(*old)));
    (ahead.map(single).collect(), moved.iter().copied().map(single).collect())
}

#[expect(clippy::cast_possible_truncation, reason = "parameters are kept in single precision")]
fn single(value: f64) -> f32 {
    value as f32
}

fn processor_seconds() -> f64 {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}
