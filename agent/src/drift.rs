//! Whether what came in since the newest model was installed is still what the model was made for: what it
//! is given, how well its probabilities are meant, and what happens. Compares held-out learners' answers from
//! before and after, so that no answer was trained on. Stays on this machine; trains and sends nothing.

use std::{
    fmt,
    sync::{Arc, Mutex},
};

use collegium_shared::crypto::Digest;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::{
    background,
    evaluate::{self, Quality, Scored},
    home::{Home, unpoisoned},
    model::{Effort, ModelError, Released, features::training_counts, neural::Keeps},
    records::Learner,
};

/// Equal bins over [0, 1] of the predicted probability.
const BINS: u32 = 10;
/// Beside each bin's count, so that an empty one does not make all the difference.
const SMOOTHING: f64 = 0.5;

/// From when on a difference is a shift: it has to be both large and surely not by chance.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Thresholds {
    /// Population stability index of the predicted probabilities, over ten bins.
    pub inputs: f64,
    /// What happens less what was predicted, as a mean.
    pub calibration: f64,
    /// The share of right answers.
    pub outcomes: f64,
    /// The mean log loss less that of knowing the share of right answers, in nats: a rise by so much proposes to
    /// train again.
    pub log_loss: f64,
    /// Standard errors, between learners, that a difference must exceed as well.
    pub errors: f64,
    /// Held-out learners and answers, before and since, below which nothing is said.
    pub learners: usize,
    pub answers: usize,
}

impl Default for Thresholds {
    fn default() -> Self {
        Self {
            inputs: 0.2,
            calibration: 0.05,
            outcomes: 0.05,
            log_loss: 0.03,
            errors: 4.0,
            learners: 20,
            answers: 200,
        }
    }
}

/// The section of the sample configuration.
pub fn sample() -> String {
    let Thresholds { inputs, calibration, outcomes, log_loss, errors, learners, answers } =
        Thresholds::default();
    format!(
        r#"# When records count as shifted since the newest model (`collegium-agent drift`): a difference has to be as large as
# its threshold, and so many standard errors between learners.
[drift]
# Population stability index of the predicted probabilities, over ten bins.
inputs = {inputs}
# What happened less what was predicted; the share of right answers.
calibration = {calibration}
outcomes = {outcomes}
# A rise of the mean log loss beyond that of the share of right answers, in nats: then training again is proposed.
log_loss = {log_loss}
errors = {errors}
# Held-out learners and answers, before and since, below which nothing is said.
learners = {learners}
answers = {answers}
"#
    )
}

/// One figure before and since.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Compared {
    pub before: f64,
    pub since: f64,
    /// Of the difference, between learners.
    pub error: f64,
    pub shifted: bool,
}

/// What the model is given: how predicted probabilities are spread.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Inputs {
    /// Population stability index: the sum over bins of (q - p) ln(q / p), p before and q since.
    pub stability_index: f64,
    /// The largest difference of a bin's share, in standard errors.
    pub errors: f64,
    pub shifted: bool,
}

/// Answers and learners that something was compared over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counted {
    pub learners: usize,
    pub answers: usize,
}

/// What was found.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Drift {
    /// The model: its task and version.
    pub model: String,
    pub before: Counted,
    pub since: Counted,
    /// None where there is too little on either side.
    pub figures: Option<Figures>,
}

/// The figures, and what follows from them.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Figures {
    pub inputs: Inputs,
    pub calibration: Compared,
    pub outcomes: Compared,
    /// The mean log loss less that of one who knows the share of right answers, in nats: below 0 as long as
    /// the model is worth something. `shifted` if it rose.
    pub log_loss: Compared,
    pub auc_before: Option<f64>,
    pub auc_since: Option<f64>,
}

impl Drift {
    /// What raises the alarm, by name; nothing if all is steady or there is too little to tell.
    pub fn shifted(&self) -> Vec<&'static str> {
        let Some(figures) = &self.figures else { return Vec::new() };
        let Figures { inputs, calibration, outcomes, .. } = figures;
        let all = [
            ("inputs", inputs.shifted),
            ("calibration", calibration.shifted),
            ("outcomes", outcomes.shifted),
        ];
        all.into_iter().filter(|(_, shifted)| *shifted).map(|(name, _)| name).collect()
    }

    /// Whether the model does so much worse than before that it should be trained again.
    pub fn proposes_training(&self) -> bool {
        self.figures.as_ref().is_some_and(|figures| figures.log_loss.shifted)
    }
}

/// The short form, for `status` and monitoring.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Standing {
    /// Whether there was enough to tell.
    pub measured: bool,
    /// What raises the alarm: inputs, calibration, outcomes.
    pub shifted: Vec<&'static str>,
    /// Whether the model does so much worse than before that training again is proposed.
    pub training_proposed: bool,
}

impl fmt::Display for Standing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { measured, shifted, training_proposed } = self;
        match (measured, shifted.as_slice()) {
            (false, _) => f.write_str("too few new answers to tell"),
            (true, []) => f.write_str("steady"),
            (true, shifted) => write!(f, "SHIFTED: {}", shifted.join(", ")),
        }?;
        if *training_proposed {
            f.write_str("; the model does worse than before: training again is proposed")?;
        }
        Ok(())
    }
}

impl Drift {
    pub fn standing(&self) -> Standing {
        let (shifted, training_proposed) = (self.shifted(), self.proposes_training());
        Standing { measured: self.figures.is_some(), shifted, training_proposed }
    }

    /// Everything, with what follows from it.
    pub fn json(&self) -> serde_json::Value {
        json!({ "found": self, "standing": self.standing() })
    }
}

/// A held-out learner's answers in order, and how many of them are from before.
#[derive(Clone, Debug)]
struct Followed {
    answers: Vec<(f64, bool)>,
    before: usize,
}

/// Compares. `learners` are all of this institution, each with the number of answers from before.
pub fn compare(
    name: String,
    released: &Released,
    learners: &[(Learner, usize)],
    thresholds: &Thresholds,
    effort: &Effort,
) -> Result<Drift, ModelError> {
    let followed = followed(released, learners, effort)?;
    let counted = |of: fn(&Followed) -> usize| Counted {
        learners: followed.iter().filter(|learner| of(learner) > 0).count(),
        answers: followed.iter().map(of).sum(),
    };
    let (before, since) =
        (counted(|learner| learner.before), counted(|l| l.answers.len() - l.before));
    let enough = |of: Counted| {
        of.learners >= thresholds.learners.max(2) && of.answers >= thresholds.answers.max(1)
    };
    let figures = (enough(before) && enough(since)).then(|| Figures::of(&followed, thresholds));
    Ok(Drift { model: name, before, since, figures })
}

fn followed(
    released: &Released,
    learners: &[(Learner, usize)],
    effort: &Effort,
) -> Result<Vec<Followed>, ModelError> {
    effort.step()?;
    let all: Vec<Learner> = learners.iter().map(|(learner, _)| learner.clone()).collect();
    let predicted = match released {
        Released::Logistic(model) => {
            let scored = evaluate::scored(model, &all, &training_counts(&all));
            let runs = scored.chunk_by(|a, b| a.learner == b.learner);
            runs.map(|run| run.iter().map(|one| (one.p, one.correct)).collect()).collect()
        }
        Released::Network(network) => {
            network.load(&all, effort)?.held_out(network.weights(), Keeps::Fitted, effort)?
        }
    };
    let held_out = learners.iter().filter(|(l, _)| l.held_out && !l.responses.is_empty());
    let pairs = held_out.zip::<Vec<Vec<(f64, bool)>>>(predicted);
    Ok(pairs.map(|((_, before), answers)| Followed { answers, before: *before }).collect())
}

impl Figures {
    fn of(learners: &[Followed], thresholds: &Thresholds) -> Self {
        let Thresholds { errors, .. } = *thresholds;
        let figure = |value: &Value<'_>, least: f64| {
            let mut found = Compared::of(learners, value);
            let difference = (found.since - found.before).abs();
            found.shifted = difference >= least && difference >= errors * found.error;
            found
        };
        let right = |right: bool| f64::from(u8::from(right));
        // How much worse than one who knows only the share of right answers: a plain log loss would differ
        // wherever outcomes do. That this share is estimated changes nothing to first order, because it is the
        // one with the least loss.
        let shares = Compared::of(learners, &|_, _, happened| right(happened));
        let beyond = |before: bool, p: f64, happened: bool| {
            let share = if before { shares.before } else { shares.since };
            loss(p, happened) - loss(share, happened)
        };
        let mut log_loss = figure(&beyond, thresholds.log_loss);
        log_loss.shifted &= log_loss.since > log_loss.before;
        let [auc_before, auc_since] = [true, false].map(|before| auc(learners, before));
        Self {
            inputs: Inputs::of(learners, thresholds),
            calibration: figure(&|_, p, happened| right(happened) - p, thresholds.calibration),
            outcomes: figure(&|_, _, happened| right(happened), thresholds.outcomes),
            log_loss,
            auc_before,
            auc_since,
        }
    }
}

/// Of an answer, whether it is from before, the predicted probability, and whether it was right.
type Value<'a> = dyn Fn(bool, f64, bool) -> f64 + 'a;

fn loss(p: f64, right: bool) -> f64 {
    -(if right { p } else { 1.0 - p }).max(f64::MIN_POSITIVE).ln()
}

fn auc(learners: &[Followed], before: bool) -> Option<f64> {
    let of = |(learner, one): (usize, &Followed)| -> Vec<Scored> {
        let (first, rest) = one.answers.split_at(one.before);
        let some = if before { first } else { rest };
        some.iter().map(|(p, correct)| Scored { learner, p: *p, correct: *correct }).collect()
    };
    let scored: Vec<Scored> = learners.iter().enumerate().flat_map(of).collect();
    Quality::of(&scored).auc
}

impl Compared {
    /// The means of a value over the answers before and since, and the standard error of their difference by
    /// linearisation, learners being independent and the answers of one learner not (Cochran 1977, section
    /// 6.4, with learners as clusters). A learner may be on both sides.
    fn of(learners: &[Followed], value: &Value<'_>) -> Self {
        let sums: Vec<[(f64, f64); 2]> = learners
            .iter()
            .map(|learner| {
                let (first, rest) = learner.answers.split_at(learner.before);
                [(true, first), (false, rest)].map(|(before, some)| {
                    let values = some.iter().map(|(p, right)| value(before, *p, *right));
                    (some.len() as f64, values.sum())
                })
            })
            .collect();
        let total = |side: usize| {
            sums.iter().fold((0.0, 0.0), |(n, sum), own| (n + own[side].0, sum + own[side].1))
        };
        let [before, since] = [total(0), total(1)];
        let mean = |(n, sum): (f64, f64)| sum / n.max(1.0);
        let pull = |own: (f64, f64), all: (f64, f64)| (own.1 - mean(all) * own.0) / all.0.max(1.0);
        let squares: f64 =
            sums.iter().map(|own| (pull(own[1], since) - pull(own[0], before)).powi(2)).sum();
        let clusters = learners.len() as f64;
        let error = (squares * clusters / (clusters - 1.0).max(1.0)).sqrt();
        Self { before: mean(before), since: mean(since), error, shifted: false }
    }
}

impl Inputs {
    fn of(learners: &[Followed], thresholds: &Thresholds) -> Self {
        let count = |before: bool| -> f64 {
            let of = |learner: &Followed| match before {
                true => learner.before,
                false => learner.answers.len() - learner.before,
            };
            learners.iter().map(of).sum::<usize>() as f64
        };
        let (before, since) = (count(true), count(false));
        let (mut stability_index, mut errors) = (0.0, 0.0_f64);
        for bin in 0..BINS {
            let within = |_: bool, p: f64, _: bool| {
                let low = f64::from(bin) / f64::from(BINS);
                let high = f64::from(bin + 1) / f64::from(BINS);
                f64::from(u8::from(p >= low && (p < high || bin + 1 == BINS)))
            };
            let shares = Compared::of(learners, &within);
            let smooth =
                |share: f64, n: f64| (share * n + SMOOTHING) / (n + SMOOTHING * f64::from(BINS));
            let (p, q) = (smooth(shares.before, before), smooth(shares.since, since));
            stability_index += (q - p) * (q / p).ln();
            if shares.error > 0.0 {
                errors = errors.max((shares.since - shares.before).abs() / shares.error);
            }
        }
        let shifted = stability_index >= thresholds.inputs && errors >= thresholds.errors;
        Self { stability_index, errors, shifted }
    }
}

/// What was measured last, kept because it needs all records opened.
#[derive(Default)]
pub struct Measured(Mutex<Option<(Basis, Arc<Drift>)>>);

/// Of which records, and of which model.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Basis {
    snapshot: Digest,
    manifest: Digest,
}

impl Basis {
    fn now(home: &Home) -> Option<Self> {
        let manifest = home.book.read(|state| state.model().map(|(model, _)| model.manifest))?;
        Some(Self { snapshot: home.vault().snapshot().sha256, manifest })
    }
}

/// What came of the newest model and the records as they are; none without a model. Opens all records unless
/// they were measured before.
pub fn measure(home: &Home, effort: &Effort) -> anyhow::Result<Option<Arc<Drift>>> {
    let Some(basis) = Basis::now(home) else { return Ok(None) };
    if let Some(known) = home.drift.of(basis) {
        return Ok(Some(known));
    }
    let Some((installed, released)) = home.model() else { return Ok(None) };
    let imports = home.book.read(|state| state.imports_before_model());
    let learners = home.vault().learners_since(imports)?;
    let name = format!("{} {}", installed.round.task, installed.version);
    let thresholds = &home.config.drift;
    let drift = Arc::new(compare(name, &released, &learners, thresholds, effort)?);
    let before = unpoisoned(&home.drift.0).replace((basis, Arc::clone(&drift)));
    tell(before.map(|(_, drift)| drift).as_deref(), &drift);
    Ok(Some(drift))
}

/// Measures after other work, for `status` and monitoring.
pub fn measure_in_background(home: &Arc<Home>) {
    let (home, limits) = (Arc::clone(home), home.limits());
    let measuring = move || {
        let effort = Effort::new(Arc::default(), limits.training_cpu_percent);
        if let Err(error) = measure(&home, &effort) {
            tracing::warn!(%error, "whether records have shifted was not measured");
        }
    };
    if let Err(error) = background::spawn("drift", limits.training_nice, measuring) {
        tracing::warn!(%error, "whether records have shifted is measured when it is asked for");
    }
}

/// What was found of the newest model and the records as they are, if it was measured.
pub fn known(home: &Home) -> Option<Arc<Drift>> {
    home.drift.of(Basis::now(home)?)
}

/// An alarm that is raised, and one that is over, is a line of the log each.
fn tell(before: Option<&Drift>, now: &Drift) {
    let of = |drift: &Drift| (drift.shifted(), drift.proposes_training());
    let then = before.map(of).unwrap_or_default();
    let (shifted, training) = of(now);
    if then.0 != shifted {
        match shifted.is_empty() {
            true => tracing::info!(model = now.model, "records are as before again"),
            false => tracing::warn!(model = now.model, ?shifted, "records have shifted"),
        }
    }
    if training && !then.1 {
        tracing::warn!(model = now.model, "the model does worse: training again is proposed");
    }
}

impl Measured {
    fn of(&self, basis: Basis) -> Option<Arc<Drift>> {
        let held = unpoisoned(&self.0);
        held.as_ref().filter(|(of, _)| *of == basis).map(|(_, drift)| Arc::clone(drift))
    }
}

/// For people: what was found, in a line each.
impl fmt::Display for Drift {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { model, before, since, figures } = self;
        writeln!(f, "{:<15}{model}", "model")?;
        for (name, of) in [("before", before), ("since", since)] {
            let Counted { learners, answers } = of;
            writeln!(f, "{name:<15}{answers} answers of {learners} held-out learners")?;
        }
        let Some(figures) = figures else {
            return writeln!(f, "{:<15}too little to tell", "drift");
        };
        let Inputs { stability_index, errors, shifted } = figures.inputs;
        let word = |shifted: bool| if shifted { "SHIFTED" } else { "steady" };
        writeln!(
            f,
            "{:<15}{}: stability index {stability_index:.3}, a bin by {errors:.1} standard errors",
            "inputs",
            word(shifted)
        )?;
        let named = [
            ("calibration", figures.calibration),
            ("outcomes", figures.outcomes),
            ("loss beyond", figures.log_loss),
        ];
        for (name, Compared { before, since, error, shifted }) in named {
            let word = word(shifted);
            writeln!(f, "{name:<15}{word}: {before:.3} before, {since:.3} since ({error:.3})")?;
        }
        if let Some((before, since)) = figures.auc_before.zip(figures.auc_since) {
            writeln!(f, "{:<15}{before:.3} before, {since:.3} since", "AUC")?;
        }
        match self.proposes_training() {
            true => writeln!(f, "{:<15}proposed: the model does worse than before", "training"),
            false => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests;
