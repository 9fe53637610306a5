//! What institutions that poison the training achieve, and what the defences change of it: whole tasks in
//! memory, with the product's own training, clipping, check of the sum, gate and optimiser. Who poisons has a
//! seed; the quality is that of the released model at the honest institutions.

mod attack;
mod task;

use std::path::PathBuf;

use clap::Args;
use collegium_agent::records::Learner;
use serde_json::{Value, json};

use self::{
    attack::{Attack, Poisoning},
    task::Defence,
};
use super::federation::read;
use crate::simulator::{Federation, Settings};

/// Who attacks, and how.
#[derive(Clone, Debug, Args)]
pub(super) struct Options {
    /// Real records: files with a column that says the institution, called like a mapping in
    /// tests/mappings. Without any, the simulator's.
    #[arg(long, value_name = "PATH", value_delimiter = ',')]
    data: Vec<PathBuf>,
    /// Simulated institutions. From 64 on there are groups.
    #[arg(long, default_value_t = 70, value_parser = clap::value_parser!(u16).range(3..=256))]
    institutions: u16,
    /// The learners of a simulated institution, as a percentage of its usual number.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u16).range(1..=100))]
    size_percent: u16,
    /// The shares of institutions that poison.
    #[arg(long, value_name = "F", value_delimiter = ',', default_values_t = [0.1, 0.2])]
    shares: Vec<f64>,
    /// How many times an institution's own move is sent, turned around; and how many times longer than it
    /// the noise is.
    #[arg(long, value_name = "TIMES", default_value_t = 10.0)]
    strength: f64,
    /// The bound on the L2 norm of a move, where there is a defence. Without it, the default of tasks.
    #[arg(long, value_name = "NORM")]
    norm: Option<f64>,
    /// Optimiser steps.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    steps: u32,
    /// Decides who poisons, the noise, and the groups.
    #[arg(long, default_value_t = 20_261_123)]
    seed: u64,
}

pub(super) fn run(options: &Options) -> anyhow::Result<Value> {
    let mut rows = Vec::new();
    if options.data.is_empty() {
        rows.extend(measure("simulated", &simulated(options), options)?);
    }
    for file in &options.data {
        let name = file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        rows.extend(measure(&name, &read(file)?, options)?);
    }
    let (seed, steps, strength) = (options.seed, options.steps, options.strength);
    Ok(json!({ "seed": seed, "steps": steps, "strength": strength, "rows": rows }))
}

fn simulated(options: &Options) -> Vec<Vec<Learner>> {
    let settings = Settings {
        institutions: options.institutions.into(),
        size_percent: options.size_percent.into(),
        ..Settings::default()
    };
    Federation::simulate(&settings).institutions.iter().map(|one| one.learners()).collect()
}

fn measure(set: &str, records: &[Vec<Learner>], options: &Options) -> anyhow::Result<Vec<Value>> {
    let mut rows = Vec::new();
    let nobody = [(Attack::None, 0.0)];
    let attacks = [Attack::SignFlip, Attack::ScaledNoise, Attack::LabelFlip];
    let shares = || options.shares.iter().copied();
    let all = attacks.into_iter().flat_map(|attack| shares().map(move |share| (attack, share)));
    for (attack, share) in nobody.into_iter().chain(all) {
        let poisoning =
            Poisoning::draw(attack, share, records.len(), options.strength, options.seed);
        let mut task = task::Task::prepare(records, &poisoning)?;
        for defence in Defence::ALL {
            let Some(mut row) = task.run(defence, &poisoning, options)? else { continue };
            row["set"] = json!(set);
            row["institutions"] = json!(records.len());
            row["attack"] = json!(attack.name());
            row["share"] = json!(share);
            row["defence"] = json!(defence.name());
            eprintln!("{row}");
            rows.push(row);
        }
    }
    Ok(rows)
}
