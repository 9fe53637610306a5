//! Bias audits: what the network's log says of them. An audit's report is a signed blob; a gap over its
//! threshold opens a review, and only a person closes it. Folds events; computes no figure (`report`) and
//! draws none (`page`).

mod chart;
pub mod page;
pub mod report;
pub mod text;

use collegium_shared::{
    architecture::bias_audit::{Estimate, Measure},
    blobs::Blobs,
    clock::Timestamp,
    crypto::Digest,
    ids::TaskId,
    signed::Signed,
};
use serde::{Deserialize, Serialize};

use crate::aggregate::AggregateError;
use report::BiasReport;

/// The most bytes of a report.
pub const MAX_REPORT: u64 = 16 << 20;
/// What a report's blob is called among those that are needed.
pub const REPORT: &str = "the report of a bias audit";
/// Of so many audits before it a new one is compared with the last that has the group.
const COMPARED: usize = 16;

/// The largest gap of one measure in an attribute, over its threshold.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Over {
    pub measure: Measure,
    /// Of the group that it is largest for; none: "other".
    pub group: Option<String>,
    /// Of the group that it is compared with.
    pub reference: Option<String>,
    pub gap: Estimate,
    pub threshold: f64,
}

/// An audit that gave a report.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Audit {
    pub task: TaskId,
    /// The blob of the signed report.
    pub report: Digest,
    /// The manifest of the model that was audited.
    pub model: Digest,
    pub institutions: usize,
    pub at: Timestamp,
}

/// A person's word that ended a review.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Closed {
    pub by: String,
    pub note: String,
    pub at: Timestamp,
}

/// Gaps that somebody has to look at.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Review {
    /// From 1 on, over all audits.
    pub number: u32,
    pub task: TaskId,
    pub attribute: String,
    pub gaps: Vec<Over>,
    pub opened_at: Timestamp,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub closed: Option<Closed>,
}

/// All audits of the network and the reviews that they opened.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Audits {
    done: Vec<Audit>,
    reviews: Vec<Review>,
}

impl Audits {
    pub fn is_empty(&self) -> bool {
        self.done.is_empty() && self.reviews.is_empty()
    }

    /// Oldest first.
    pub fn done(&self) -> &[Audit] {
        &self.done
    }

    /// Oldest first, open and closed.
    pub fn reviews(&self) -> &[Review] {
        &self.reviews
    }

    /// Reviews that nobody has closed.
    pub fn open(&self) -> impl Iterator<Item = &Review> {
        self.reviews.iter().filter(|review| review.closed.is_none())
    }

    pub fn audited(&mut self, audit: Audit) {
        self.done.push(audit);
    }

    pub fn opened(&mut self, review: Review) {
        self.reviews.push(review);
    }

    pub fn close(&mut self, number: u32, closed: Closed) {
        let review = self.reviews.iter_mut().find(|review| review.number == number);
        if let Some(review) = review.filter(|review| review.closed.is_none()) {
            review.closed = Some(closed);
        }
    }

    /// The number of the next review.
    pub fn next_number(&self) -> u32 {
        u32::try_from(self.reviews.len()).unwrap_or(u32::MAX).saturating_add(1)
    }

    /// The reports of earlier audits, newest first.
    pub fn reports(&self, blobs: &Blobs) -> Result<Vec<BiasReport>, AggregateError> {
        let newest = self.done.iter().rev().take(COMPARED);
        newest.map(|audit| Ok(read(blobs, &audit.report)?.body)).collect()
    }
}

/// Reads a report as it was signed. What the log names by its digest needs no other word for it.
pub fn read(blobs: &Blobs, report: &Digest) -> Result<Signed<BiasReport>, AggregateError> {
    let json = blobs.read(report, MAX_REPORT)?;
    serde_json::from_slice(&json)
        .map_err(|_| AggregateError::Inconsistent("a blob is not the report of a bias audit"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_review_is_closed_once() {
        let mut audits = Audits::default();
        assert!(audits.is_empty() && audits.next_number() == 1);
        let review = Review {
            number: 1,
            task: "audit".parse().unwrap(),
            attribute: "sex".into(),
            gaps: Vec::new(),
            opened_at: Timestamp::EPOCH,
            closed: None,
        };
        audits.opened(review);
        let closed = |by: &str| Closed { by: by.into(), note: "seen".into(), at: Timestamp::EPOCH };
        audits.close(2, closed("nobody"));
        assert_eq!((audits.open().count(), audits.next_number()), (1, 2));
        audits.close(1, closed("first"));
        audits.close(1, closed("second"));
        assert_eq!(audits.open().count(), 0);
        assert_eq!(audits.reviews()[0].closed.as_ref().map(|c| c.by.as_str()), Some("first"));
    }
}
