//! What the network was worth: each institution's own report, beside what one place with everybody's
//! records would reach. The latter exists in the demo only, which has all records at hand.

use std::{sync::Arc, thread, time::Duration};

use anyhow::Context;
use collegium_agent::{
    evaluate::{self, network},
    model::Effort,
    records::Learner,
};
use collegium_shared::ids::InstitutionId;
use serde::Deserialize;

use crate::bench::Networks;

use super::{consortium::Consortium, population::Site, stop::Stop, workers};

/// Held-out answers that an institution needs to count in means: fewer say nothing.
const ENOUGH: usize = 50;
/// Training alone to convergence takes long at the largest institutions of real data.
const LIMIT: Duration = Duration::from_secs(600);

/// The parts of `evaluate --json` that are used.
#[derive(Deserialize)]
struct Report {
    held_out_answers: usize,
    alone: Quality,
    global: Quality,
    personal: Quality,
}

#[derive(Deserialize)]
struct Quality {
    auc: Option<f64>,
}

/// One institution in the final table.
pub(super) struct Line {
    pub(super) institution: InstitutionId,
    pub(super) answers: usize,
    pub(super) held_out: usize,
    pub(super) alone: Option<f64>,
    pub(super) global: Option<f64>,
    /// Of the model that recommendations are made with.
    pub(super) personal: Option<f64>,
    pub(super) pooled: Option<f64>,
}

impl Line {
    /// The four figures, if there are enough held-out answers for them to mean something.
    fn figures(&self) -> Option<[f64; 4]> {
        let all = [self.alone?, self.global?, self.personal?, self.pooled?];
        (self.held_out >= ENOUGH).then_some(all)
    }
}

/// The comparison.
pub(super) struct Comparison {
    pub(super) lines: Vec<Line>,
    /// Over all held-out answers together, of the model trained on pooled records.
    pub(super) pooled: Option<f64>,
    /// The institutions that the means below are over.
    pub(super) counted: usize,
    pub(super) alone_mean: Option<f64>,
    pub(super) global_mean: Option<f64>,
    pub(super) global_worst: Option<f64>,
    pub(super) personal_mean: Option<f64>,
    pub(super) pooled_mean: Option<f64>,
}

/// Asks every agent, and trains the pooled model meanwhile.
pub(super) fn compare(consortium: &Consortium<'_>, stop: &Stop) -> anyhow::Result<Comparison> {
    let sites = &consortium.population.sites;
    let (reports, pooled) = thread::scope(|scope| {
        let pooled = scope.spawn(|| -> anyhow::Result<evaluate::Report> {
            let records: Vec<Vec<Learner>> = sites.iter().map(|s| s.learners.clone()).collect();
            if let Some(task) = consortium.network_task() {
                return Ok(network::report(&Networks::new(records, task.clone())?.pooled()?));
            }
            let hyper = consortium.task.as_ref().map(|task| task.hyper.clone());
            let effort = Effort::new(Arc::default(), 100);
            let model = evaluate::pooled(&records, &hyper.unwrap_or_default(), &effort)?;
            Ok(evaluate::across(&records, |_| Ok(model.clone()))?)
        });
        let reports = workers::each(sites, stop, |site| report(consortium, site));
        let pooled = pooled.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        (reports, pooled)
    });
    Ok(summarise(sites, reports?, &pooled.context("the pooled model")?))
}

fn report(consortium: &Consortium<'_>, site: &Site) -> anyhow::Result<Report> {
    let answer = consortium.agent_json(&site.name, &["evaluate", "--json"], LIMIT)?;
    serde_json::from_value(answer).with_context(|| format!("the evaluation of {}", site.name))
}

fn summarise(sites: &[Site], reports: Vec<Report>, pooled: &evaluate::Report) -> Comparison {
    let rows = sites.iter().zip(reports).zip(&pooled.institutions);
    let lines: Vec<Line> = rows
        .map(|((site, report), pooled)| Line {
            institution: site.name.clone(),
            answers: site.answers(),
            held_out: report.held_out_answers,
            alone: report.alone.auc,
            global: report.global.auc,
            personal: report.personal.auc,
            pooled: pooled.auc,
        })
        .collect();
    let counted: Vec<[f64; 4]> = lines.iter().filter_map(Line::figures).collect();
    let mean = |at: usize| {
        let n = counted.len();
        (n > 0).then(|| counted.iter().map(|figures| figures[at]).sum::<f64>() / n as f64)
    };
    Comparison {
        pooled: pooled.together.auc,
        counted: counted.len(),
        alone_mean: mean(0),
        global_mean: mean(1),
        global_worst: counted.iter().map(|figures| figures[1]).reduce(f64::min),
        personal_mean: mean(2),
        pooled_mean: mean(3),
        lines,
    }
}
