//! Federated evaluations: what the network's log says of them, the report that is signed, and its words. A
//! report is a signed blob; one that finds the released model clearly worse than at its release proposes to
//! train again. Folds events and computes figures; starts nothing.

use std::{collections::BTreeMap, fmt::Write};

use collegium_shared::{
    architecture::{
        Stage,
        bias_audit::{Estimate, Figures, Measure},
        comparison::{COMPARED, Comparison, Contender, Span},
    },
    blobs::Blobs,
    clock::Timestamp,
    crypto::Digest,
    ids::{RoundId, TaskId},
    protocol::Metrics,
    signed::{Signed, Statement},
    tensors,
};
use serde::{Deserialize, Serialize};

use crate::{
    aggregate::{AggregateError, MAX_BLOB, whole},
    bias::MAX_REPORT,
    task::{Opened, Task},
};

/// What a report's blob is called among those that are needed.
pub const REPORT: &str = "the report of an evaluation";
/// With fewer learners nothing is shown.
const SMALLEST: f64 = 10.0;
/// The model has become worse if its mean log loss has risen by more than so much, in nats, and chance does not
/// explain it.
const RISE: f64 = 0.01;
/// The figures that are told.
const TOLD: [Measure; 6] = [
    Measure::Auc,
    Measure::LogLoss,
    Measure::Brier,
    Measure::Ece,
    Measure::Calibration,
    Measure::BaseRate,
];

/// An evaluation that gave a report.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Evaluated {
    pub task: TaskId,
    /// The blob of the signed report.
    pub report: Digest,
    /// The manifest of the model.
    pub model: Digest,
    pub institutions: usize,
    pub at: Timestamp,
    /// Why to train again, if so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proposal: Option<String>,
}

/// What an evaluation found. Signed by the coordinator; the log names its digest.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EvaluationReport {
    pub task: TaskId,
    /// The manifest of the model that was evaluated, and its version.
    pub model: Digest,
    pub version: Option<u32>,
    /// The round whose sum this is, and its plan.
    pub round: RoundId,
    pub plan: Digest,
    /// The institutions in the sum, and how many of them have enough held-out learners to add anything.
    pub institutions: usize,
    pub counted: u64,
    /// Of these, where the released model is at least as good as a model of their own, by log loss; and where
    /// what recommendations use is.
    pub global_not_worse: u64,
    pub in_use_not_worse: u64,
    pub made_at: Timestamp,
    /// In the order of [`COMPARED`].
    pub compared: Vec<ContenderReport>,
    /// As the model was released, over all answers.
    pub at_release: Option<Metrics>,
    /// Why to train again, if so.
    pub proposal: Option<String>,
}

impl Statement for EvaluationReport {
    const CONTEXT: &'static str = "collegium/v1/evaluation-report";
}

/// One who predicts, on some answers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ContenderReport {
    pub contender: Contender,
    pub span: Span,
    /// Held-out learners and their answers, at most 64 each; absent, as all figures, where they are too few.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub learners: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answers: Option<u64>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub figures: BTreeMap<Measure, Estimate>,
}

/// Reads the opened sum of an evaluation.
pub fn make(
    task: &Task,
    opened: &Opened,
    released: Option<(u32, Metrics)>,
    blobs: &Blobs,
) -> Result<EvaluationReport, AggregateError> {
    let asked = task.spec().hyper.evaluation.as_deref();
    let (Stage::Audit, Some(model)) = (&opened.stage, asked) else {
        return Err(AggregateError::Inconsistent("the opened sum is of no evaluation"));
    };
    let sums = tensors::read_sums(&blobs.read(&opened.sum, MAX_BLOB)?)?;
    let sums = Comparison::from_sums(&sums)?;
    let at_release = released.map(|(_, metrics)| metrics);
    let compared: Vec<_> = COMPARED.iter().map(|of| contender(&sums, *of)).collect();
    let now =
        compared[Comparison::place(Contender::Global, Span::All)].figures.get(&Measure::LogLoss);
    let proposal = now.zip(at_release).and_then(|(now, then)| worse(now, then.log_loss));
    Ok(EvaluationReport {
        task: task.spec().task.clone(),
        model: *model,
        version: released.map(|(version, _)| version),
        round: opened.made.round.clone(),
        plan: opened.made.plan,
        institutions: opened.institutions.len(),
        counted: whole(sums.counted),
        global_not_worse: whole(sums.global_not_worse),
        in_use_not_worse: whole(sums.in_use_not_worse),
        made_at: Timestamp::EPOCH,
        compared,
        at_release,
        proposal,
    })
}

fn contender(sums: &Comparison, (contender, span): (Contender, Span)) -> ContenderReport {
    let cell = sums.of(contender, span);
    if cell.learners < SMALLEST - 0.5 {
        let (learners, answers, figures) = (None, None, BTreeMap::new());
        return ContenderReport { contender, span, learners, answers, figures };
    }
    let figures = Figures::of(cell);
    let told = TOLD.into_iter().filter_map(|m| Some((m, figures.measure(m)?)));
    ContenderReport {
        contender,
        span,
        learners: Some(whole(cell.learners)),
        answers: Some(whole(cell.answers)),
        figures: told.collect(),
    }
}

/// Why to train again: the loss is higher than at the release by more than is tolerated, even at the low end
/// of its interval.
fn worse(now: &Estimate, then: Option<f64>) -> Option<String> {
    let then = then?;
    (now.low > then + RISE).then(|| {
        format!(
            "the released model's log loss is {:.4} ({:.4} to {:.4}), and was {then:.4} at its release: train again",
            now.value, now.low, now.high
        )
    })
}

/// Reads a report as it was signed. What the log names by its digest needs no other word for it.
pub fn read(blobs: &Blobs, report: &Digest) -> Result<Signed<EvaluationReport>, AggregateError> {
    let json = blobs.read(report, MAX_REPORT)?;
    serde_json::from_slice(&json)
        .map_err(|_| AggregateError::Inconsistent("a blob is not the report of an evaluation"))
}

/// The report for a terminal.
pub fn text(report: &EvaluationReport) -> String {
    let mut out = String::new();
    let mut line = |name: &str, value: String| {
        // Writing to a string cannot fail.
        let _ = writeln!(out, "{name:<14} {value}");
    };
    line("evaluation", report.task.to_string());
    let version = report.version.map_or_else(|| "unknown".to_owned(), |v| v.to_string());
    line("model", format!("version {version}, manifest {}", report.model));
    line("made", report.made_at.to_string());
    let EvaluationReport { institutions, counted, .. } = report;
    line(
        "institutions",
        format!("{institutions} in the sum, {counted} with enough held-out learners"),
    );
    line(
        "as good as alone",
        format!(
            "the released model at {} of {counted}, what is used at {} of {counted}",
            report.global_not_worse, report.in_use_not_worse
        ),
    );
    for span in [Span::All, Span::Later] {
        line("", String::new());
        line(
            match span {
                Span::All => "all answers",
                Span::Later => "later answers",
            },
            "AUC [95 %]              log loss [95 %]         Brier   ECE".to_owned(),
        );
        for of in report.compared.iter().filter(|of| of.span == span) {
            line(name(of.contender), figures(of));
        }
    }
    line("", String::new());
    if let Some(Metrics { auc, log_loss, .. }) = report.at_release {
        let shown =
            |value: Option<f64>| value.map_or_else(|| "-".to_owned(), |v| format!("{v:.4}"));
        line("at its release", format!("AUC {}, log loss {}", shown(auc), shown(log_loss)));
    }
    line("proposal", report.proposal.clone().unwrap_or_else(|| "none: no clear fall".to_owned()));
    out.lines().map(str::trim_end).collect::<Vec<_>>().join("\n")
}

fn name(contender: Contender) -> &'static str {
    match contender {
        Contender::Alone => "  alone",
        Contender::Global => "  released",
        Contender::InUse => "  in use",
    }
}

fn figures(of: &ContenderReport) -> String {
    if of.figures.is_empty() {
        return "too few learners to show".to_owned();
    }
    let with_interval = |measure| {
        of.figures.get(&measure).map_or_else(
            || format!("{:<24}", "-"),
            |e: &Estimate| format!("{:.4} [{:.4}, {:.4}]", e.value, e.low, e.high),
        )
    };
    let plain = |measure| {
        let found = of.figures.get(&measure);
        found.map_or_else(|| "-".to_owned(), |e| format!("{:.4}", e.value))
    };
    format!(
        "{} {} {} {}",
        with_interval(Measure::Auc),
        with_interval(Measure::LogLoss),
        plain(Measure::Brier),
        plain(Measure::Ece)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sums(learners: usize) -> Comparison {
        let mut sums = Comparison { counted: 5.0, in_use_not_worse: 4.0, ..Comparison::default() };
        for (place, cell) in sums.cells.iter_mut().enumerate() {
            let p = 0.6 + 0.05 * (place % 3) as f64;
            for _ in 0..learners {
                cell.observe(&[(p, true), (p, true), (1.0 - p, false), (p, false)], [0.6, 0.8]);
            }
        }
        sums
    }

    fn report(learners: usize, log_loss: f64) -> EvaluationReport {
        let sums = sums(learners);
        let compared: Vec<_> = COMPARED.iter().map(|of| contender(&sums, *of)).collect();
        let now = compared[1].figures.get(&Measure::LogLoss);
        let proposal = now.and_then(|now| worse(now, Some(log_loss)));
        EvaluationReport {
            task: "weekly".parse().unwrap(),
            model: Digest::of(b"m"),
            version: Some(3),
            round: RoundId { task: "weekly".parse().unwrap(), round: 0, attempt: 0 },
            plan: Digest::of(b"p"),
            institutions: 6,
            counted: 5,
            global_not_worse: 3,
            in_use_not_worse: 4,
            made_at: Timestamp::EPOCH,
            compared,
            at_release: Some(Metrics { responses: 100, auc: Some(0.8), log_loss: Some(log_loss) }),
            proposal,
        }
    }

    #[test]
    fn a_clear_rise_of_the_loss_proposes_to_train_again() {
        let now = contender(&sums(40), (Contender::Global, Span::All)).figures[&Measure::LogLoss];
        assert!(report(40, now.value - 0.1).proposal.unwrap().contains("train again"));
        assert_eq!(report(40, now.value - 0.005).proposal, None, "so small a rise is tolerated");
        assert_eq!(report(40, now.value + 0.1).proposal, None);
        // The same rise over few learners may be chance.
        let wide = Estimate { low: now.value - 0.2, high: now.value + 0.2, ..now };
        assert_eq!(worse(&wide, Some(now.value - 0.1)), None);
        assert_eq!(worse(&now, None), None);
    }

    #[test]
    fn few_learners_are_not_shown() {
        let few = report(9, 0.6);
        assert!(few.compared.iter().all(|of| of.learners.is_none() && of.figures.is_empty()));
        assert!(text(&few).contains("too few learners"));
        assert_eq!(report(10, 0.6).compared[0].learners, Some(10));
    }

    #[test]
    fn the_text_says_who_is_compared_and_the_report_keeps_its_meaning() {
        let report = report(40, 0.6);
        let text = text(&report);
        for words in ["weekly", "version 3", "4 of 5", "released", "in use", "later answers", "AUC"]
        {
            assert!(text.contains(words), "{words}: {text}");
        }
        let json = serde_json::to_string(&report).unwrap();
        assert_eq!(serde_json::from_str::<EvaluationReport>(&json).unwrap(), report);
    }
}
