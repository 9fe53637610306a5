//! The words and tables at the end, and the summary for programs. Computes nothing but sums of what
//! the agents reported.

use std::{fmt::Write, path::PathBuf, time::Duration};

use anyhow::Context;
use collegium_shared::protocol::{Cohort, Metrics};
use comfy_table::{CellAlignment, Table, presets};
use serde::Serialize;

use super::{
    consortium::{self, Consortium},
    evaluation::{Comparison, Line},
    follow::Course,
    population::Population,
    stop::Stop,
    workers,
};

pub(super) const WELCOME: &str = "\
Collegium demo: a consortium on one machine. This program plays every part: the consortium's root, the
coordinator's operator and all institutions. A real consortium keeps the root elsewhere, offline, and
every institution runs its agent on machines of its own.";

/// Items that are recommended.
const RECOMMENDED: &str = "3";
/// One recommendation may wait for the model to be read.
const LIMIT: Duration = Duration::from_secs(60);

/// What the agents sent as masked vectors since they were started.
pub(super) struct Traffic {
    pub(super) bytes: u64,
    pub(super) values: u64,
}

impl Traffic {
    /// Asks every agent.
    pub(super) fn of(consortium: &Consortium<'_>, stop: &Stop) -> anyhow::Result<Self> {
        let sent = workers::each(&consortium.population.sites, stop, |site| {
            let status = consortium.network.agent_status(&site.name)?;
            let count = |name: &str| {
                let value = status["traffic"][name].as_u64();
                value.with_context(|| format!("the status of {} has no {name}", site.name))
            };
            Ok((count("uploaded_bytes")?, count("uploaded_values")?))
        })?;
        let sum = |of: fn(&(u64, u64)) -> u64| sent.iter().map(of).sum();
        Ok(Self { bytes: sum(|sent| sent.0), values: sum(|sent| sent.1) })
    }

    fn per_value(&self) -> Option<f64> {
        (self.values > 0).then(|| self.bytes as f64 / self.values as f64)
    }
}

/// The demo in one JSON object.
#[derive(Debug, Serialize)]
pub(super) struct Summary {
    /// What the records were.
    data: String,
    seed: Option<u64>,
    steps: u32,
    /// What the task was allowed to cost each learner; none: exact sums. `auc_global` carries noise then.
    epsilon: Option<f64>,
    /// What the victim's ledger says that each training learner spent, and each held-out one.
    pub(super) epsilon_spent: Option<[f64; 2]>,
    institutions: usize,
    answers: usize,
    rounds_completed: usize,
    /// Rounds that ended without a sum.
    rounds_aborted: usize,
    pub(super) resumed_after_kill: bool,
    /// Over all held-out answers together: pooled records, and the released model.
    auc_pooled: Option<f64>,
    auc_global: Option<f64>,
    /// Means over `institutions_in_means`, which have enough held-out answers.
    institutions_in_means: usize,
    auc_alone_mean: Option<f64>,
    auc_global_mean: Option<f64>,
    auc_global_worst: Option<f64>,
    /// With personal copies where institutions use them.
    auc_personal_mean: Option<f64>,
    auc_pooled_mean: Option<f64>,
    held_out_answers: u64,
    /// Measured: encoded upload messages, divided by the values of the vectors in them.
    upload_bytes_per_parameter: Option<f64>,
    upload_bytes: u64,
    coordinator_peak_bytes: u64,
    /// All logs, the coordinator's and every institution's.
    logs_verified: bool,
    logs: usize,
    training_seconds: f32,
    pub(super) seconds: f32,
    directory: PathBuf,
}

impl Summary {
    pub(super) fn new(
        consortium: &Consortium<'_>,
        course: &Course,
        comparison: &Comparison,
        metrics: Metrics,
        traffic: &Traffic,
        coordinator_peak_bytes: u64,
        logs: usize,
    ) -> Self {
        let population = consortium.population;
        let (rounds_completed, rounds_aborted) = course.rounds.counts();
        Self {
            data: population.source.clone(),
            seed: population.seed,
            steps: course.steps,
            epsilon: consortium.epsilon,
            epsilon_spent: None,
            institutions: population.sites.len(),
            answers: population.sites.iter().map(|site| site.answers()).sum(),
            rounds_completed,
            rounds_aborted,
            resumed_after_kill: course.resumed,
            auc_pooled: comparison.pooled,
            auc_global: metrics.auc,
            institutions_in_means: comparison.counted,
            auc_alone_mean: comparison.alone_mean,
            auc_global_mean: comparison.global_mean,
            auc_global_worst: comparison.global_worst,
            auc_personal_mean: comparison.personal_mean,
            auc_pooled_mean: comparison.pooled_mean,
            held_out_answers: metrics.responses,
            upload_bytes_per_parameter: traffic.per_value(),
            upload_bytes: traffic.bytes,
            coordinator_peak_bytes,
            logs_verified: logs == population.sites.len() + 1,
            logs,
            training_seconds: course.rounds.seconds(),
            seconds: 0.0,
            directory: consortium.network.dir().to_owned(),
        }
    }
}

fn figure(value: Option<f64>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| format!("{value:.4}"))
}

/// The table per institution.
pub(super) fn table(
    comparison: &Comparison,
    global: Option<f64>,
    population: &Population,
    noisy: bool,
) -> String {
    let mut table = Table::new();
    table.load_style(presets::UTF8_FULL_CONDENSED);
    table.set_header(["institution", "answers", "held out", "alone", "global", "in use", "pooled"]);
    for line in &comparison.lines {
        let Line { institution, answers, held_out, alone, global, personal, pooled } = line;
        let counts = [institution.to_string(), answers.to_string(), held_out.to_string()];
        table.add_row(counts.into_iter().chain([*alone, *global, *personal, *pooled].map(figure)));
    }
    let name = format!("mean of {}", comparison.counted);
    let Comparison { alone_mean, global_mean, personal_mean, pooled_mean, .. } = *comparison;
    let means = [alone_mean, global_mean, personal_mean, pooled_mean];
    table.add_row([name, String::new(), String::new()].into_iter().chain(means.map(figure)));
    let answers: usize = population.sites.iter().map(|site| site.answers()).sum();
    let held_out: usize = comparison.lines.iter().map(|line| line.held_out).sum();
    let all = ["all answers together".to_owned(), answers.to_string(), held_out.to_string()];
    let overall = [None, global, None, comparison.pooled].map(figure);
    table.add_row(all.into_iter().chain(overall));
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    let noisy = match noisy {
        true => {
            "\nThe figure over all answers is the released one: with noise, and without anybody's own counts."
        }
        false => "",
    };
    format!(
        "\nAUC on held-out learners. alone: only the institution's own records; global: the network's \
         model;\nin use: the institution's personal copy where that is surely better, else the global \
         model;\npooled: all records in one place, to convergence (in this demo only). Means are over \
         institutions\nwith at least 50 held-out answers of both kinds.{noisy}\n{table}"
    )
}

/// What one held-out learner should do next, with the reasons that the agent gives.
pub(super) fn recommendations(consortium: &Consortium<'_>) -> anyhow::Result<String> {
    let sites = &consortium.population.sites;
    let site = consortium::middle(sites).context("there is no institution")?;
    let held_out = site.learners.iter().filter(|learner| learner.held_out);
    let Some(learner) = held_out.max_by_key(|learner| learner.responses.len()) else {
        return Ok(String::new());
    };
    let words = ["recommend", "--learner", &learner.id, "--count", RECOMMENDED, "--json"];
    let answer = consortium.agent_json(&site.name, &words, LIMIT)?;
    let shown = if consortium.population.is_real() { "one learner" } else { &learner.id };
    let mut text =
        format!("\nRecommendations of {}'s agent for {shown} (held out from training)", site.name);
    for (rank, item) in (1..).zip(answer.as_array().into_iter().flatten()) {
        let percent = |name: &str| 100.0 * item[name].as_f64().unwrap_or(0.0);
        let _ = write!(
            text,
            "\n  {rank}. {}: {:.0} % chance of a right answer, mastery {:.0} %",
            item["item"].as_str().unwrap_or_default(),
            percent("p_success"),
            percent("mastery"),
        );
        for reason in item["reasons"].as_array().into_iter().flatten() {
            let _ = write!(text, "\n     - {}", reason["text"].as_str().unwrap_or_default());
        }
    }
    Ok(text)
}

/// The other results.
pub(super) fn figures(summary: &Summary, course: &Course) -> String {
    let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    let resumed = match course.resumed {
        true => "yes: it went on in the same round, which lost no upload",
        false => "NOT SHOWN: see above",
    };
    format!(
        "\nrounds         {} with a sum, {} without, {:.1} s\n\
         kill           agent resumed: {resumed}\n\
         uploads        {:.2} MiB in all, {:.2} bytes for each value of a vector\n\
         coordinator    {:.1} MiB of memory at most\n\
         logs           {} verified: the coordinator's and every institution's",
        summary.rounds_completed,
        summary.rounds_aborted,
        summary.training_seconds,
        mib(summary.upload_bytes),
        summary.upload_bytes_per_parameter.unwrap_or(0.0),
        mib(summary.coordinator_peak_bytes),
        summary.logs,
    )
}

/// What the killed institution's ledger says, in its own words, and as figures.
pub(super) fn ledger(consortium: &Consortium<'_>) -> anyhow::Result<(String, [f64; 2])> {
    let site = &consortium.victim;
    let json = consortium.agent_json(site, &["privacy", "--json"], LIMIT)?;
    let spent = |place: usize| {
        let spent = json["populations"][place]["spent"].as_f64();
        spent.with_context(|| format!("the ledger of {site} says nothing: {json}"))
    };
    let spent = [spent(0)?, spent(1)?];
    let words = consortium.network.agent(site, &["privacy"])?.stdout;
    let words = String::from_utf8_lossy(&words);
    Ok((
        format!("\nThe privacy ledger of {site}, which only that institution keeps\n{words}"),
        spent,
    ))
}

/// What this run did not protect against.
pub(super) fn privacy(consortium: &Consortium<'_>) -> anyhow::Result<String> {
    let population = consortium.population;
    let copies = match population.is_real() {
        true => {
            "\n  - Real records were copied into the demo's directory (mode 0700), which goes away\n    \
         with them at the end unless --keep was given."
        }
        false => "",
    };
    let members = population.sites.len();
    let cohort = Cohort::proposed(members);
    let small = match (members, cohort.min_honest) {
        (2, _) => {
            "\n  - TWO INSTITUTIONS: only the coordinator is blind. Each can subtract itself from a sum and\n    \
             see the other's part."
        }
        (_, honest) if honest < 5 => {
            "\n  - FEW INSTITUTIONS: sums hold fewer than 5 honest ones, which real policies should refuse."
        }
        _ => "",
    };
    let learners = match consortium.epsilon {
        Some(_) => "",
        None => {
            "\n  - Learner-level differential privacy: OFF. The sums and the model are exact (see --epsilon)."
        }
    };
    Ok(format!(
        "\n!!! PRIVACY MODES THAT ARE OFF IN THIS RUN !!!{learners}\n  \
         - Institution-level noise: OFF. An opened sum hides each institution only among the others.\n  \
         - Separation: OFF. Root, coordinator and all institutions belong to one user of one machine.\
         {small}{copies}\n\
         On: TLS 1.3 with certificates on both sides, secure aggregation (the coordinator sees masked\n\
         vectors and opens sums only), a quorum's signatures on every sum, signed roster and registry."
    ))
}

/// How long it took, where everything lies, and how to look further.
pub(super) fn ending(consortium: &Consortium<'_>, summary: &Summary, keep: bool) -> String {
    let network = &consortium.network;
    let dir = network.dir().display();
    if !keep {
        return format!(
            "\nDone in {:.0} s. Everything lay in {dir} and is removed now; --keep leaves it there to look at.",
            summary.seconds
        );
    }
    let coordinator = network.binaries().coordinator.display();
    let agent = network.binaries().agent.display();
    let coordinator_dir = network.coordinator_dir();
    let site = consortium.victim.clone();
    let agent_dir = network.agent_dir(&site);
    let (home, own) = (coordinator_dir.display(), agent_dir.display());
    format!(
        "\nDone in {:.0} s. Everything lies in {dir} (daemons' output in logs). To look further:\n  \
         {coordinator} status --dir {home}\n  \
         {coordinator} model card --dir {home}\n  \
         {coordinator} audit list --dir {home}\n  \
         {coordinator} audit show 20 --dir {home}\n  \
         {agent} status --dir {own}\n  \
         {agent} audit list --dir {own}\n  \
         {agent} evaluate --dir {own}\n  \
         {agent} recommend --learner ID --dir {own}\n\
         Remove it with: rm -r {dir}",
        summary.seconds
    )
}
