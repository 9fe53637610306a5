//! What the institution's own people ask for: status, recommendations, evaluation, imports. Answered by
//! the process that owns the directory, from memory and disk, whatever the network does. The answers
//! hold learner data and stay on this machine.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context, bail};
use collegium_shared::{architecture::Hyper, control};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::task;

use crate::{
    availability::{self, Availability},
    consent::{self, Change, Review},
    coverage::{self, Figures},
    drift,
    egress::{self, Word},
    evaluate::{self, Compared, LocalReport, Quality},
    home::Home,
    import::{self, KEPT_TAGS, Mapping},
    ledger::statement::statement,
    model::{Effort, Released},
    policy::{Policy, PolicyError},
    recommend::Options,
    rotation,
    serving::{Making, Serving},
    state::LocalEvent,
    status::{Live, Status},
};

/// The most recommendations of one answer.
const MAX_COUNT: usize = 1_000;

/// A request of the command line.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Request {
    Status,
    Recommend {
        learner: String,
        count: usize,
    },
    Evaluate,
    /// Paths as the daemon sees them: complete.
    Import {
        file: PathBuf,
        mapping: PathBuf,
        institution: Option<String>,
    },
    Summary,
    /// What the registry knows of the records.
    Coverage,
    Drift,
    /// Takes part in no new round until `Resume`.
    Pause {
        reason: Option<String>,
    },
    Resume,
    /// What differs between the policy's file and what was signed.
    PolicyDiff,
    /// Signs the policy's file as it is.
    SignPolicy,
    /// What the privacy ledger says.
    Privacy,
    /// What the round under way would send.
    PreviewEgress,
    /// A person's word on it.
    DecideEgress(Word),
    /// Makes the next identity key.
    RotateIdentity,
    /// Reads the configuration again; only a running agent can.
    Reload,
}

/// The same answer twice: for people and for programs.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Answer {
    pub text: String,
    pub json: Value,
}

/// Carries out a request: by the running daemon, or, if there is none, by opening the directory for
/// a moment.
pub async fn ask(dir: &Path, request: Request) -> anyhow::Result<Answer> {
    match control::call(&Home::socket(dir), &request).await {
        Err(control::ControlError::NotRunning { .. }) => {}
        other => return Ok(other?),
    }
    let path = dir.to_owned();
    let clock = collegium_shared::clock::Clock::system();
    let home = task::spawn_blocking(move || Home::open(&path, clock)).await??;
    Arc::new(Desk::new(Arc::new(home), None)).answer(request).await
}

/// Answers requests about one open directory.
pub struct Desk {
    home: Arc<Home>,
    /// Of the running daemon; none without one.
    live: Option<Arc<Live>>,
    serving: Arc<Serving>,
}

impl Desk {
    pub fn new(home: Arc<Home>, live: Option<Arc<Live>>) -> Self {
        let making = if live.is_some() { Making::InBackground } else { Making::First };
        let serving = Arc::new(Serving::new(Arc::clone(&home), making));
        Self { home, live, serving }
    }

    /// Answers one request on a blocking thread.
    pub async fn answer(self: &Arc<Self>, request: Request) -> anyhow::Result<Answer> {
        let desk = Arc::clone(self);
        task::spawn_blocking(move || match request {
            Request::Status => desk.status(),
            Request::Recommend { learner, count } => desk.recommend(&learner, count),
            Request::Evaluate => desk.evaluate(),
            Request::Import { file, mapping, institution } => {
                desk.import(&file, &mapping, institution.as_deref())
            }
            Request::Summary => desk.summary(),
            Request::Coverage => desk.coverage(),
            Request::Drift => desk.drift(),
            Request::Pause { reason } => desk.changed(availability::pause(&desk.home, reason)?),
            Request::Resume => desk.changed(availability::resume(&desk.home)?),
            Request::PolicyDiff => desk.policy_diff(),
            Request::SignPolicy => desk.sign_policy(),
            Request::Privacy => {
                let statement = statement(&desk.home)?;
                Ok(Answer { text: statement.to_string(), json: serde_json::to_value(&statement)? })
            }
            Request::PreviewEgress => {
                let preview = egress::preview(&desk.home)?;
                Ok(Answer { text: preview.to_string(), json: serde_json::to_value(&preview)? })
            }
            Request::DecideEgress(word) => desk.decide_egress(word),
            Request::RotateIdentity => desk.rotate_identity(),
            Request::Reload => {
                bail!("no agent runs here: it reads its configuration when it starts")
            }
        })
        .await?
    }

    fn status(&self) -> anyhow::Result<Answer> {
        // The daemon is asked all the time, and has it measured in the background.
        if self.live.is_none()
            && let Err(error) = coverage::in_force(&self.home)
        {
            tracing::warn!(%error, "what the registry knows of the records was not measured");
        }
        let mut status = Status::of(&self.home, self.live.as_deref())?;
        status.recommendations = self.serving.standing();
        Ok(Answer { text: status.to_string(), json: serde_json::to_value(&status)? })
    }

    /// After a change of what this institution takes part in: the daemon looks at once.
    fn changed(&self, availability: Availability) -> anyhow::Result<Answer> {
        if let Some(live) = &self.live {
            live.wake();
        }
        let mut text = format!("{:<15}{availability}\n", "rounds");
        let open = self.home.book.read(|state| {
            let session = state.history().session().filter(|session| !session.over());
            session.map(|session| session.id().to_string())
        });
        if let Some(round) = open.filter(|_| !availability.is_available()) {
            text += &format!("{:<15}{round} is finished first\n", "");
        }
        Ok(Answer { text, json: serde_json::to_value(&availability)? })
    }

    fn policy_diff(&self) -> anyhow::Result<Answer> {
        let review = Review::of(&self.home)?;
        let text = match &review.signed {
            None => format!("{}nothing was signed before\n", listed(&review)),
            Some(signed) if review.is_signed() => {
                format!("the policy is the one that was signed at {}\n", signed.signed_at)
            }
            Some(signed) if review.changes.is_empty() => {
                let at = signed.signed_at;
                format!("the settings are those signed at {at}, in another text: sign it again\n")
            }
            Some(signed) => format!("{}since {}\n", listed(&review), signed.signed_at),
        };
        Ok(Answer { text, json: reviewed(&review) })
    }

    fn sign_policy(&self) -> anyhow::Result<Answer> {
        let review = Review::of(&self.home)?;
        let mut text = listed(&review);
        if review.is_signed() {
            text += "the policy was signed already\n";
        } else {
            consent::sign(&self.home, &review)?;
            if let Some(live) = &self.live {
                live.wake();
            }
            text += &format!("{:<15}{}\n", "signed", review.policy.digest);
        }
        Ok(Answer { text, json: reviewed(&review) })
    }

    fn decide_egress(&self, word: Word) -> anyhow::Result<Answer> {
        let round = egress::decide(&self.home, word.clone())?;
        if let Some(live) = &self.live {
            live.wake();
        }
        let name = if word == Word::Approved { "approved" } else { "rejected" };
        let text = format!("{name:<15}round {round}\n");
        Ok(Answer { text, json: json!({ "round": round, "word": word }) })
    }

    fn rotate_identity(&self) -> anyhow::Result<Answer> {
        let hand_over = rotation::begin(&self.home)?;
        if let Some(live) = &self.live {
            live.wake();
        }
        let (key, next) = (hand_over.body.old.fingerprint(), hand_over.body.new.fingerprint());
        let mut text = format!("{:<15}{key}\n{:<15}{next}\n", "key in force", "next key");
        if self.live.is_none() {
            text += "The agent does not run: it tells the coordinator when it does.\n";
        }
        text += "Tell the consortium the next key's fingerprint. It is in use once the root has signed a\n\
                 roster that names it; until then the key in force stays.\n";
        Ok(Answer { text, json: json!({ "fingerprint": key, "next_fingerprint": next }) })
    }

    // --- Recommendations -----------------------------------------------------------------------

    fn recommend(&self, learner: &str, count: usize) -> anyhow::Result<Answer> {
        if !(1..=MAX_COUNT).contains(&count) {
            bail!("--count is {count}; use 1 to {MAX_COUNT}");
        }
        let recommender = self.serving.recommender()?;
        let Some(learner) = self.home.vault().learner(learner)? else {
            bail!(
                "this learner is not in the vault; check the id, or import the learner's records"
            );
        };
        let options = Options { count, ..Options::default() };
        let found = recommender.recommend(&learner, &options);
        let mut text = String::new();
        for (rank, item) in (1..).zip(&found) {
            let of = item.competencies.join(", ");
            text += &format!(
                "{rank:>3}  {:<32} chance {:.2}  mastery {:.2}  {of}\n",
                item.item, item.p_success, item.mastery
            );
            item.reasons.iter().for_each(|reason| text += &format!("     - {}\n", reason.text));
        }
        if found.is_empty() {
            text.push_str("there is no item to recommend\n");
        }
        Ok(Answer { text, json: serde_json::to_value(&found)? })
    }

    fn evaluate(&self) -> anyhow::Result<Answer> {
        let learners = self.home.vault().learners()?;
        let model = self.home.model();
        let effort = Effort::new(Arc::default(), self.home.limits().training_cpu_percent);
        let report = match model.map(|(_, model)| model) {
            Some(Released::Network(network)) => {
                evaluate::network::local(&learners, &network, &effort)?
            }
            Some(Released::Logistic(model)) => {
                evaluate::local(&learners, Some(&model), &Hyper::default(), &effort)?
            }
            None => evaluate::local(&learners, None, &Hyper::default(), &effort)?,
        };
        Ok(Answer { text: evaluated(&report), json: serde_json::to_value(&report)? })
    }

    // --- Records -------------------------------------------------------------------------------

    fn import(
        &self,
        file: &Path,
        mapping: &Path,
        institution: Option<&str>,
    ) -> anyhow::Result<Answer> {
        let mapping = Mapping::load(mapping)?;
        match Policy::load(self.home.dir()) {
            Ok(policy) => policy.permit(mapping.attributes()).map_err(anyhow::Error::msg)?,
            // Records alone train nothing.
            Err(PolicyError::Missing { .. }) => {}
            Err(error) => return Err(error.into()),
        }
        let imported = import::read(file, &mapping, institution)?;
        let summary = &imported.summary;
        {
            let mut vault = self.home.vault();
            let after = vault.import(&imported.learners, summary.source)?;
            let event = LocalEvent::DataImported {
                source: summary.source,
                rows: summary.rows_accepted,
                learners: summary.learners,
                refused: Some(summary.rows_refused),
                snapshot: after.sha256,
            };
            // Under the vault's lock, so that the log has imports in the order of the vault.
            self.home.book.record([event.into()])?;
        }
        if self.live.is_some() {
            drift::measure_in_background(&self.home);
        }
        let mut text = format!(
            "{:<15}{} of {} rows, {} learners ({} held out)\n{:<15}{}\n",
            "imported",
            summary.rows_accepted,
            summary.rows_read,
            summary.learners,
            summary.held_out_learners,
            "file",
            summary.source
        );
        if summary.rows_refused > 0 {
            text += &format!("{:<15}{} rows\n", "refused", summary.rows_refused);
        }
        summary.refused.iter().for_each(|refused| text += &format!("{:15}{refused}\n", ""));
        if summary.unknown_tags > 0 {
            let first = summary.first_unknown_tags.join(", ");
            let more = if summary.unknown_tags > KEPT_TAGS as u64 { ", ..." } else { "" };
            let count = summary.unknown_tags;
            text += &format!("{:<15}{count} without a line in the table: {first}{more}\n", "tags");
        }
        let mut json = serde_json::to_value(summary)?;
        if let Some(coverage) = coverage::in_force(&self.home)? {
            let Figures { registry, answers, .. } = coverage.figures;
            text += &format!(
                "{:<15}{answers} training answers are of registry {registry}\n",
                "coverage"
            );
            json["coverage"] = serde_json::to_value(coverage.figures)?;
        }
        Ok(Answer { text, json })
    }

    fn coverage(&self) -> anyhow::Result<Answer> {
        let Some(coverage) = coverage::in_force(&self.home)? else {
            bail!(
                "no registry is known here yet: it comes from the coordinator, once the root has signed one and this agent runs"
            );
        };
        Ok(Answer { text: coverage.to_string(), json: serde_json::to_value(&*coverage)? })
    }

    fn drift(&self) -> anyhow::Result<Answer> {
        let effort = Effort::new(Arc::default(), self.home.limits().training_cpu_percent);
        let Some(drift) = drift::measure(&self.home, &effort)? else {
            bail!("no model is installed yet: there is nothing that records could shift from");
        };
        Ok(Answer { text: drift.to_string(), json: drift.json() })
    }

    fn summary(&self) -> anyhow::Result<Answer> {
        let (snapshot, imports, learners) = {
            let vault = self.home.vault();
            (vault.snapshot(), vault.imports().to_vec(), vault.learners()?)
        };
        let responses = || learners.iter().flat_map(|learner| &learner.responses);
        let items: BTreeSet<&str> = responses().map(|r| r.item.as_str()).collect();
        let competencies: BTreeSet<&str> =
            responses().flat_map(|r| &r.competencies).map(String::as_str).collect();
        let held_out = learners.iter().filter(|learner| learner.held_out).count();
        let registry = self.home.registry().context("the registry cannot be read")?;
        let shared = registry.map(|registry| {
            let known = |names: &BTreeSet<&str>, has: &dyn Fn(&str) -> bool| {
                names.iter().filter(|name| has(name)).count()
            };
            let items = known(&items, &|name| registry.has_item(name));
            (items, known(&competencies, &|name| registry.has_competency(name)))
        });
        let mut text = format!(
            "{:<15}{} ({} held out)\n{:<15}{}\n{:<15}{}\n{:<15}{}\n",
            "learners",
            snapshot.learners,
            held_out,
            "answers",
            snapshot.rows,
            "items",
            with_known(items.len(), shared.map(|(items, _)| items)),
            "competencies",
            with_known(competencies.len(), shared.map(|(_, competencies)| competencies))
        );
        for import in &imports {
            let (rows, learners) = (import.rows, import.learners);
            text += &format!(
                "{:<15}{rows} answers, {learners} learners, file {}\n",
                "import", import.source
            );
        }
        let json = json!({
            "learners": snapshot.learners,
            "held_out_learners": held_out,
            "answers": snapshot.rows,
            "items": items.len(),
            "competencies": competencies.len(),
            "items_in_registry": shared.map(|(items, _)| items),
            "competencies_in_registry": shared.map(|(_, competencies)| competencies),
            "snapshot": snapshot.sha256,
            "imports": imports,
        });
        Ok(Answer { text, json })
    }
}

/// The changes of a policy, a line each.
fn listed(review: &Review) -> String {
    let shown = |value: &Value| if value.is_null() { "none".to_owned() } else { value.to_string() };
    let line = |(name, change): (&String, &Change)| {
        format!("{name:<15}{} -> {}\n", shown(&change.from), shown(&change.to))
    };
    review.changes.iter().map(line).collect()
}

fn reviewed(review: &Review) -> Value {
    json!({
        "policy": review.policy.digest,
        "signed": review.signed,
        "changes": review.changes,
    })
}

fn with_known(all: usize, in_registry: Option<usize>) -> String {
    match in_registry {
        Some(known) => format!("{all} ({known} in the registry)"),
        None => all.to_string(),
    }
}

/// A report as a page of text.
fn evaluated(report: &LocalReport) -> String {
    let line = |name: &str, learners: usize, answers: usize| {
        format!("{name:<15}{learners} learners, {answers} answers\n")
    };
    let mut text = line("trained on", report.training_learners, report.training_answers);
    text += &line("tested on", report.held_out_learners, report.held_out_answers);
    for (title, compared) in [
        ("all answers of the held-out learners", &report.all),
        ("the last fifth of each one's answers", &report.later),
    ] {
        text += &format!(
            "\n{:<38}{:<22}{:<22}{:<22}{}\n",
            title, "AUC", "log loss", "Brier score", "calibration error"
        );
        let Compared { alone, global, personal } = compared;
        for (name, of) in
            [("  alone", alone), ("  global model", global), ("  in use here", personal)]
        {
            text += &quality(name, of);
        }
    }
    text +=
        "\nIn brackets: 95 % intervals; learners are independent, one learner's answers are not.\n";
    if let Some(choice) = &report.choice {
        text += &format!("In use here: {choice}.\n");
    }
    text
}

fn quality(name: &str, quality: &Quality) -> String {
    let figure = |value: Option<f64>, interval: Option<[f64; 2]>| match (value, interval) {
        (Some(value), Some([low, high])) => format!("{value:.4} [{low:.3}, {high:.3}]"),
        (Some(value), None) => format!("{value:.4}"),
        (None, _) => "-".to_owned(),
    };
    let Quality { auc, log_loss, brier, ece, intervals, reason, .. } = quality;
    let figures = [
        figure(*auc, intervals.auc),
        figure(*log_loss, intervals.log_loss),
        figure(*brier, intervals.brier),
        figure(*ece, intervals.ece),
    ];
    let [auc, log_loss, brier, ece] = figures;
    let reason = reason.as_deref().map(|reason| format!("  ({reason})")).unwrap_or_default();
    format!("{name:<38}{auc:<22}{log_loss:<22}{brier:<22}{ece}{reason}\n")
}
