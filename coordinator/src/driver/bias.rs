//! The owner's part in bias audits: signs and records a report and the reviews that it opens, and a person's
//! word that closes one.

use collegium_shared::journal::JournalError;
use serde_json::{Value, json};

use super::Driver;
use crate::{
    bias::{self, Audit, Closed, Review, report::BiasReport},
    network::{Event, NetworkEvent},
};

/// The longest name and note of who closes a review, in characters.
const MAX_NAME: usize = 200;
const MAX_NOTE: usize = 2_000;

impl Driver {
    /// Signs and keeps the report, and opens a review for each attribute with a gap over its threshold.
    pub(super) fn audited(&mut self, mut report: BiasReport) -> Result<(), JournalError> {
        report.made_at = self.now();
        let (task, scope) = (report.task.clone(), report.scope.clone());
        let over = report.attributes.iter().map(|of| (of.attribute.clone(), of.over(&scope)));
        let over: Vec<_> = over.filter(|(_, gaps)| !gaps.is_empty()).collect();
        let (model, institutions, at) = (report.model, report.institutions, report.made_at);
        let Some(report) = self.keep_report(report)? else { return Ok(()) };
        let audit = Audit { task: task.clone(), report, model, institutions, at };
        self.record(Event::Network(NetworkEvent::BiasAudited { audit }))?;
        for (attribute, gaps) in over {
            let number = self.state.network.audits().next_number();
            tracing::warn!(%task, attribute, number, "a gap over its threshold: a review is open");
            let task = task.clone();
            let review = Review { number, task, attribute, gaps, opened_at: at, closed: None };
            self.record(Event::Network(NetworkEvent::ReviewOpened { review }))?;
        }
        Ok(())
    }

    /// Closes a review by a person's word; a second time is refused.
    pub(crate) fn close_review(
        &mut self,
        number: u32,
        by: String,
        note: String,
    ) -> Result<Result<Value, String>, JournalError> {
        let line = |text: &str, most: usize| {
            !text.trim().is_empty()
                && text.chars().count() <= most
                && !text.contains(|c: char| c.is_control() && c != '\n')
        };
        if !line(&by, MAX_NAME) || by.contains('\n') {
            return Ok(Err(format!("say who closes it, in 1 to {MAX_NAME} characters")));
        }
        if !line(&note, MAX_NOTE) {
            return Ok(Err(format!("say what was found, in 1 to {MAX_NOTE} characters")));
        }
        let reviews = self.state.network.audits().reviews();
        let Some(review) = reviews.iter().find(|review| review.number == number) else {
            return Ok(Err(format!("there is no review {number}; see: bias list")));
        };
        if let Some(Closed { by, at, .. }) = &review.closed {
            return Ok(Err(format!("review {number} was closed by {by} at {at}")));
        }
        let closed = Closed { by, note, at: self.now() };
        let answer = json!({ "number": number, "attribute": review.attribute, "closed": closed });
        self.record(Event::Network(NetworkEvent::ReviewClosed { number, closed }))?;
        Ok(Ok(answer))
    }

    /// All audits and reviews; the reports themselves are blobs.
    pub(crate) fn audits(&self) -> Value {
        let audits = self.state.network.audits();
        json!({ "audits": audits.done(), "reviews": audits.reviews() })
    }

    /// The signed report of an audit, of the newest one without a name.
    pub(crate) fn audit_report(&self, task: Option<&str>) -> Result<Value, String> {
        let mut done = self.state.network.audits().done().iter().rev();
        let audit = match task {
            None => done.next().ok_or("there was no bias audit yet")?,
            Some(name) => {
                let named = done.find(|audit| audit.task.as_str() == name);
                named.ok_or_else(|| {
                    format!("there is no report of an audit {name}; see: bias list")
                })?
            }
        };
        let signed = bias::read(&self.workshop.blobs, &audit.report);
        let signed = signed.map_err(|error| error.to_string())?;
        serde_json::to_value(signed).map_err(|error| error.to_string())
    }
}
