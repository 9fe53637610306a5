//! What a way of learning reached, in the figures that are compared: over all held-out answers together, and
//! over institutions. Trains nothing.

use collegium_agent::evaluate::{Quality, Report};
use comfy_table::{CellAlignment, Table, presets};
use serde::Serialize;

use super::rounds::Rounds;

/// Held-out answers that an institution needs to count in means: fewer say nothing.
const ENOUGH: usize = 50;

/// One line of the comparison. AUC, Brier score and calibration error are means over repetitions.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Row {
    set: String,
    mode: String,
    #[serde(flatten)]
    outcome: Outcome,
    /// Of the federated model, beside the pooled one.
    #[serde(skip_serializing_if = "Option::is_none")]
    rounds: Option<Rounds>,
}

/// The figures. Over all answers unless said.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Outcome {
    auc: Option<f64>,
    /// Lowest and highest over repetitions.
    auc_spread: Option<[f64; 2]>,
    /// 95 % of the first repetition, over learners.
    auc_interval: Option<[f64; 2]>,
    /// Over the `institutions` that have enough held-out answers of both kinds.
    auc_mean: Option<f64>,
    auc_worst: Option<f64>,
    log_loss: Option<f64>,
    brier: Option<f64>,
    ece: Option<f64>,
    /// Institutions in the mean and the worst.
    institutions: usize,
    /// How many of them do at least as well as alone, by AUC.
    personal_not_worse: usize,
    repetitions: usize,
}

impl Outcome {
    /// Of runs that differ in what is random; `alone` is what each institution reaches without the others.
    pub(super) fn of(runs: &[Report], alone: &Report) -> Self {
        let over = |figure: fn(&Quality) -> Option<f64>| -> Vec<f64> {
            runs.iter().filter_map(|run| figure(&run.together)).collect()
        };
        let aucs = over(|q| q.auc);
        let by_institution: Vec<Vec<(f64, f64)>> =
            runs.iter().map(|run| counted(run, alone)).collect();
        let of_runs = |figure: fn(&[(f64, f64)]) -> Option<f64>| {
            mean(&by_institution.iter().filter_map(|own| figure(own)).collect::<Vec<_>>())
        };
        Self {
            auc: mean(&aucs),
            auc_spread: aucs
                .iter()
                .copied()
                .reduce(f64::min)
                .zip(aucs.iter().copied().reduce(f64::max))
                .map(<[f64; 2]>::from),
            auc_interval: runs.first().and_then(|run| run.together.intervals.auc),
            auc_mean: of_runs(|own| mean(&own.iter().map(|(auc, _)| *auc).collect::<Vec<_>>())),
            auc_worst: of_runs(|own| own.iter().map(|(auc, _)| *auc).reduce(f64::min)),
            log_loss: mean(&over(|q| q.log_loss)),
            brier: mean(&over(|q| q.brier)),
            ece: mean(&over(|q| q.ece)),
            institutions: by_institution.first().map_or(0, Vec::len),
            personal_not_worse: by_institution
                .iter()
                .map(|own| own.iter().filter(|(auc, alone)| auc >= alone).count())
                .min()
                .unwrap_or(0),
            repetitions: runs.len(),
        }
    }
}

/// The AUC of each institution that counts, and what it reaches alone.
fn counted(run: &Report, alone: &Report) -> Vec<(f64, f64)> {
    let pairs = run.institutions.iter().zip(&alone.institutions);
    let enough = pairs.filter(|(own, _)| own.answers >= ENOUGH);
    enough.filter_map(|(own, alone)| own.auc.zip(alone.auc)).collect()
}

fn mean(values: &[f64]) -> Option<f64> {
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
}

impl Row {
    pub(super) fn new(set: &str, mode: &str, outcome: Outcome) -> Self {
        Self { set: set.to_owned(), mode: mode.to_owned(), outcome, rounds: None }
    }

    /// With how the AUC went by rounds, beside that of the pooled model.
    pub(super) fn with_rounds(self, reached: &[(u32, Option<f64>)], pooled: Option<f64>) -> Self {
        Self { rounds: Rounds::of(reached, pooled), ..self }
    }

    pub(super) fn rounds(&self) -> Option<(&str, &Rounds)> {
        Some((self.set.as_str(), self.rounds.as_ref()?))
    }
}

/// For people.
pub(super) fn table(rows: &[Row]) -> String {
    let mut table = Table::new();
    table.load_style(presets::UTF8_FULL_CONDENSED);
    table.set_header([
        "set",
        "mode",
        "AUC",
        "spread",
        "mean",
        "worst",
        "log loss",
        "Brier",
        "ECE",
        "not worse",
    ]);
    for Row { set, mode, outcome, .. } in rows {
        let figure = |value: Option<f64>| value.map_or("-".to_owned(), |v| format!("{v:.4}"));
        let spread = match outcome.auc_spread.filter(|_| outcome.repetitions > 1) {
            Some([low, high]) => format!("{low:.4} to {high:.4}"),
            None => String::new(),
        };
        table.add_row([
            set.clone(),
            mode.clone(),
            figure(outcome.auc),
            spread,
            figure(outcome.auc_mean),
            figure(outcome.auc_worst),
            figure(outcome.log_loss),
            figure(outcome.brier),
            figure(outcome.ece),
            format!("{} of {}", outcome.personal_not_worse, outcome.institutions),
        ]);
    }
    for column in table.column_iter_mut().skip(2) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    format!(
        "AUC, log loss, Brier score and calibration error (ECE, 15 bins) over all held-out answers together; \
         mean and\nworst AUC over institutions with at least {ENOUGH} held-out answers of both kinds; not \
         worse: how many of them\nreach at least the AUC that they reach alone. Spread: over repetitions.\n{table}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quality(answers: usize, auc: f64) -> Quality {
        Quality { answers, auc: Some(auc), brier: Some(0.2), ..Quality::default() }
    }

    #[test]
    fn institutions_with_few_answers_are_in_no_mean() {
        let report = |aucs: [f64; 3]| Report {
            together: quality(220, 0.7),
            institutions: [100, 100, 20]
                .into_iter()
                .zip(aucs)
                .map(|(n, a)| quality(n, a))
                .collect(),
        };
        let (alone, run) = (report([0.5, 0.8, 0.9]), report([0.6, 0.7, 0.1]));
        let outcome = Outcome::of(&[run], &alone);
        assert_eq!((outcome.institutions, outcome.personal_not_worse), (2, 1));
        assert_eq!((outcome.auc_worst, outcome.auc), (Some(0.6), Some(0.7)));
        assert!((outcome.auc_mean.unwrap() - 0.65).abs() < 1e-12);
        let text = table(&[Row::new("set", "mode", outcome)]);
        assert!(text.contains("1 of 2"), "{text}");
    }
}
