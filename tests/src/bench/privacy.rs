//! What learner-level privacy costs: the quality of the model against epsilon, and the time of a private
//! step beside a plain one. Noise is drawn anew for each repetition.

use std::{path::PathBuf, sync::Arc};

use anyhow::Context;
use clap::Args;
use collegium_agent::{
    evaluate,
    model::{Effort, Model, features::training_counts, personal},
    records::Learner,
};
use collegium_shared::architecture::{LearnerPrivacy, Target};
use serde_json::{Value, json};

use super::{
    federation::{Trained, World, read, simulated},
    plot,
    statistics::median,
};

pub(crate) const DELTA: f64 = 1e-6;

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
        rows.extend(measure("simulated", simulated(), options)?);
    }
    for file in &options.data {
        let name = file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        rows.extend(measure(&name, read(file)?, options)?);
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
pub(super) const TOGETHER: &str = "together";
pub(super) const EACH: &str = "each";

fn measure(
    set: &str,
    institutions: Vec<Vec<Learner>>,
    options: &Options,
) -> anyhow::Result<Vec<Value>> {
    let mut world = World::new(institutions);
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
                .map(|_| world.private(privacy, options.steps, &mut |_, _, _| Ok(())))
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

/// The AUC of a model over all held-out answers: as it was released, and with the personal copies that
/// institutions use.
fn quality(records: &[Vec<Learner>], model: &Model) -> anyhow::Result<[f64; 2]> {
    let auc = |report: evaluate::Report| {
        report.together.auc.context("held-out answers are all right or all wrong")
    };
    let used = |learners: &[Learner]| {
        let effort = Effort::new(Arc::default(), 100);
        let own = training_counts(learners);
        personal::choose(model, learners, &own, &effort).map(|(model, _)| model)
    };
    let released = evaluate::across(records, |_| Ok(model.clone()))?;
    Ok([auc(released)?, auc(evaluate::across(records, used)?)?])
}
