//! The owner's part in federated evaluations: signs and records a report.

use collegium_shared::journal::JournalError;
use serde_json::{Value, json};

use super::Driver;
use crate::{
    evaluation::{self, Evaluated, EvaluationReport},
    network::{Event, NetworkEvent},
};

impl Driver {
    /// Signs and keeps the report.
    pub(super) fn evaluated(&mut self, mut report: EvaluationReport) -> Result<(), JournalError> {
        report.made_at = self.now();
        let EvaluationReport { task, model, institutions, made_at: at, proposal, .. } =
            report.clone();
        let Some(report) = self.keep_report(report)? else { return Ok(()) };
        if let Some(proposal) = &proposal {
            tracing::warn!(%task, proposal, "the released model has become worse");
        }
        let evaluated = Evaluated { task, report, model, institutions, at, proposal };
        self.record(Event::Network(NetworkEvent::Evaluated { evaluated }))
    }

    /// All evaluations; the reports themselves are blobs.
    pub(crate) fn evaluations(&self) -> Value {
        json!({ "evaluations": self.state.network.evaluations() })
    }

    /// The signed report of an evaluation, of the newest one without a name.
    pub(crate) fn evaluation_report(&self, task: Option<&str>) -> Result<Value, String> {
        let mut done = self.state.network.evaluations().iter().rev();
        let found = match task {
            None => done.next().ok_or("there was no federated evaluation yet")?,
            Some(name) => {
                let named = done.find(|one| one.task.as_str() == name);
                named.ok_or_else(|| {
                    format!("there is no report of an evaluation {name}; see: evaluation list")
                })?
            }
        };
        let signed = evaluation::read(&self.workshop.blobs, &found.report);
        let signed = signed.map_err(|error| error.to_string())?;
        serde_json::to_value(signed).map_err(|error| error.to_string())
    }
}
