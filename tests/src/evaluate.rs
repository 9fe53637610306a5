//! What learning together is worth on real records: every institution alone, all records in one place, the
//! federated model, personal copies of it, and private tasks, on the same held-out learners. Trains in one
//! process with the product's own code for every part, over the product's encodings; no network.

mod beside;
mod networks;
mod outcome;
mod rounds;
mod sets;

use std::{path::PathBuf, process::ExitCode, sync::Arc};

use clap::{Args, Parser};
use collegium_agent::{
    evaluate::{self, Report},
    model::{Effort, Model, ModelError, features::training_counts, personal},
    records::Learner,
};
use collegium_shared::architecture::{Hyper, LearnerPrivacy, Target};
use serde_json::{Value, json};

use crate::bench::{DELTA, Trained, World};
use outcome::{Outcome, Row};
use sets::Set;
pub(crate) use sets::read_task;

/// Into so many parts institutions are divided, each of which is new to the model of the others.
const FOLDS: usize = 5;

/// Compares ways of learning on institutions' records.
#[derive(Debug, Parser)]
#[command(name = "evaluate")]
pub struct Cli {
    #[command(flatten)]
    source: Source,
    /// The mapping of `--file`.
    #[arg(long, value_name = "MAPPING", requires = "file")]
    mapping: Option<PathBuf>,
    /// The task file of `--file`; left out, that of the mapping's name in tests/tasks, if there is one.
    #[arg(long, value_name = "TASK", requires = "file")]
    task: Option<PathBuf>,
    /// The budgets of private tasks, at a delta of 1e-6.
    #[arg(long, value_name = "E", value_delimiter = ',', default_values_t = [8.0, 4.0, 2.0])]
    epsilons: Vec<f64>,
    /// How often what is random is repeated: with noise drawn anew, and with other institutions away.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=100))]
    repetitions: u64,
    /// Optimiser steps without noise.
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    steps: u32,
    /// Optimiser steps of private tasks.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    private_steps: u32,
    /// Items and competencies are shared from so many institutions on, whatever the product's rule says. To see what
    /// the rule costs; not of networks.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    share_from: Option<u32>,
    /// Times training beside NumPy as well, by this Python.
    #[arg(long, value_name = "PYTHON")]
    beside_numpy: Option<PathBuf>,
    /// Print one JSON object on the last line of standard output.
    #[arg(long)]
    json: bool,
}

/// Where the records are.
#[derive(Debug, Args)]
#[group(required = true, multiple = true)]
struct Source {
    /// A directory with real records, known by their files' names.
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// A further file, with a column that names the institution.
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
}

impl Cli {
    /// Compares and prints.
    pub fn run(&self) -> ExitCode {
        match self.compare() {
            Ok(found) if self.json => {
                println!("{found}");
                ExitCode::SUCCESS
            }
            Ok(_) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("error: {error:#}");
                ExitCode::FAILURE
            }
        }
    }

    /// Prints tables, and gives the same as one object.
    pub fn compare(&self) -> anyhow::Result<Value> {
        let mut found = Vec::new();
        if let Some(dir) = &self.source.data {
            found.extend(sets::known(dir)?);
        }
        if let Some(file) = &self.source.file {
            found.push(Set::read(file, self.mapping.as_deref(), self.task.as_deref())?);
        }
        let (mut rows, mut beside) = (Vec::new(), Vec::new());
        for set in found {
            if let Some(python) = self.beside_numpy.as_deref().filter(|_| set.task.is_none()) {
                beside.push(beside::measure(&set.name, &set.institutions, python)?);
                eprintln!("{}: beside NumPy", set.name);
            }
            rows.extend(self.measure(set)?);
        }
        println!("{}", outcome::table(&rows));
        if let Some(text) = rounds::text(&rows) {
            println!("{text}");
        }
        match self.beside_numpy {
            Some(_) => println!("{}", beside::text(&beside)),
            None => println!(
                "Training was not timed beside NumPy; name a Python that has it: --beside-numpy PYTHON"
            ),
        }
        Ok(json!({ "sets": rows, "beside_numpy": beside }))
    }

    /// All ways of learning on one set.
    fn measure(&self, mut set: Set) -> anyhow::Result<Vec<Row>> {
        if let Some(task) = set.task.take() {
            return networks::measure(self, set, task);
        }
        let hyper = &Hyper::default();
        let mut world = World::new(set.institutions).sharing_from(self.share_from);
        let records = world.records.clone();
        let alone = across(&records, |learners| evaluate::alone(learners, hyper, &free()))?;
        let outcome = |mode: &str, runs: &[Report]| {
            eprintln!("{}: {mode}", set.name);
            Row::new(&set.name, mode, Outcome::of(runs, &alone))
        };
        let mut rows = vec![outcome("alone", std::slice::from_ref(&alone))];
        let pooled = evaluate::pooled(&records, hyper, &free())?;
        let pooled = across(&records, |_| Ok(pooled.clone()))?;
        rows.push(outcome("pooled", std::slice::from_ref(&pooled)));
        let mut reached = Vec::new();
        let federated = world.followed(self.steps, &mut |step, model| {
            let report = across(&records, |_| Ok(model.clone()))?;
            reached.push((step, report.together.auc));
            Ok(())
        })?;
        let federated = federated.model;
        let reports = [across(&records, |_| Ok(federated.clone()))?];
        rows.push(outcome("federated", &reports).with_rounds(&reached, pooled.together.auc));
        let half = (1..=self.repetitions)
            .map(|seed| Ok(world.half(self.steps, seed)?.model))
            .collect::<anyhow::Result<Vec<_>>>()?;
        let half = half.iter().map(|model| across(&records, |_| Ok(model.clone())));
        rows.push(outcome("federated, half of them away", &half.collect::<Result<Vec<_>, _>>()?));
        rows.push(outcome("a new institution", &[self.newcomers(&records)?]));
        rows.push(outcome("personal", &[across(&records, |own| used(&federated, own))?]));
        for epsilon in &self.epsilons {
            let target = Target { epsilon: *epsilon, delta: DELTA };
            let privacy = LearnerPrivacy::propose(target, self.private_steps, world.parties())?;
            let runs = (0..self.repetitions)
                .map(|_| {
                    let Trained { model, .. } =
                        world.private(privacy, self.private_steps, &mut |_, _, _| Ok(()))?;
                    Ok(across(&records, |own| used(&model, own))?)
                })
                .collect::<anyhow::Result<Vec<_>>>()?;
            rows.push(outcome(&format!("epsilon {epsilon}"), &runs));
        }
        Ok(rows)
    }
}

impl Cli {
    /// What the model of the others is worth to an institution that has no records of its own yet: each is
    /// one of those that are left out of a task once.
    fn newcomers(&self, records: &[Vec<Learner>]) -> anyhow::Result<Report> {
        let mut models = Vec::with_capacity(FOLDS);
        for fold in 0..FOLDS.min(records.len()) {
            let others = records.iter().enumerate().filter(|(place, _)| place % FOLDS != fold);
            let others = others.map(|(_, own)| own.clone()).collect();
            let mut world = World::new(others).sharing_from(self.share_from);
            models.push(world.plain(self.steps)?.model);
        }
        let unlearned = records
            .iter()
            .map(|own| own.iter().filter(|learner| learner.held_out).cloned().collect::<Vec<_>>());
        let mut models = models.iter().cycle();
        let next = |_: &[Learner]| {
            let model = models.next().cloned();
            model.ok_or(ModelError::Settings("there is no institution"))
        };
        Ok(across(&unlearned.collect::<Vec<_>>(), next)?)
    }
}

/// One model for each institution, on its held-out learners.
fn across(
    records: &[Vec<Learner>],
    model: impl FnMut(&[Learner]) -> Result<Model, ModelError>,
) -> Result<Report, ModelError> {
    evaluate::across(records, model)
}

/// What an institution uses of a released model.
fn used(released: &Model, own: &[Learner]) -> Result<Model, ModelError> {
    let counts = training_counts(own);
    personal::choose(released, own, &counts, &free()).map(|(model, _)| model)
}

fn free() -> Effort {
    Effort::new(Arc::default(), 100)
}
