//! Why an institution does not do what the coordinator asks for, in words that its log keeps.

use collegium_shared::{
    clock::Timestamp,
    ids::{InstitutionId, RoundId},
    protocol::BadCertificate,
};
use thiserror::Error;

/// What the coordinator is told of reasons that are this institution's own.
pub const OWN_REASON: &str = "for a reason of its own, which its log names";

/// What the coordinator is told where the registry knows too little of the records: no number, and what can
/// be done about it there and here.
pub const LOW_COVERAGE: &str = "the registry knows less of its competencies than its policy wants (min_coverage): \
    its tags have to be mapped, or the registry extended; its log has the figures";

/// Why this institution does not do what the coordinator asks for.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum Refusal {
    #[error("the plan is not signed by the coordinator's key on the roster")]
    NotTheCoordinator,
    #[error("the plan names another roster than the one this institution holds")]
    OtherRoster,
    #[error("roster {version} expired at {expires_at}: the consortium has to sign a new one")]
    RosterExpired { version: u64, expires_at: Timestamp },
    #[error("the plan names another registry than the one this institution holds")]
    OtherRegistry,
    #[error("this institution's policy does not allow {0}")]
    Policy(String),
    #[error("round {given} is not newer than round {last}, in which this institution was before")]
    Replayed { given: RoundId, last: RoundId },
    #[error(
        "the input was already sent in round {0}; it is used again only with a quorum's ABORT of that attempt"
    )]
    NoAbort(RoundId),
    #[error(
        "this institution already gave this stage of task {0} in round {1}; sums that do not depend on the weights are given once"
    )]
    AlreadyGiven(String, RoundId),
    #[error(
        "the sum would be of other institutions than that of round {round}, over the same records: together they would tell of those in between. This institution takes part again with the same ones, or once its records have changed"
    )]
    OtherInstitutions { round: RoundId },
    #[error(
        "other learners or groups count, by the plan or this institution's policy, than in round {round}, over the same records: the difference would be of those in between"
    )]
    OtherGroups { round: RoundId },
    #[error("the plan is malformed: {0}")]
    Malformed(&'static str),
    #[error("{0} on the list is not on the roster, or its signature does not verify")]
    BadMember(InstitutionId),
    #[error("{0} on the list is not of the group that the plan asks")]
    NotAsked(InstitutionId),
    #[error("the list is out of order, has repetitions or statements about another round")]
    BadList,
    #[error("the list has {given} institutions; the plan and the policy need at least {needed}")]
    SmallCohort { given: usize, needed: usize },
    #[error("this institution's own entry was changed")]
    OwnEntryChanged,
    #[error("the dealers' headers are incomplete, out of order or not signed")]
    BadHeaders,
    #[error("{what} differs from the one pinned for this attempt")]
    Conflict { what: &'static str },
    #[error("the proposal does not fit the uploads, or names institutions that cannot be in it")]
    BadProposal,
    #[error(
        "the sum would hold {survivors} institutions of which {c_max} may collude; at least {min_honest} honest ones are needed"
    )]
    TooFewHonest { survivors: usize, c_max: u16, min_honest: u16 },
    #[error("the certificate is no quorum's word: {0}")]
    Certificate(#[from] BadCertificate),
    #[error("this plan is not paid for: {0}")]
    Price(String),
    #[error("a document that this phase needs is missing from the coordinator's answer")]
    Incomplete,
}

impl Refusal {
    /// What the coordinator is told: how its own documents fall short, and not what was spent of a budget. That
    /// records are as they were it learns where a sum over them is refused, so that it knows what to wait for.
    pub fn told(&self) -> String {
        match self {
            Self::Price(_) => "its privacy budget does not bear this plan".to_owned(),
            Self::OtherInstitutions { .. } => {
                "a sum over the same records was of other institutions: it takes part with the same ones, or once its records have changed"
                    .to_owned()
            }
            Self::OtherGroups { .. } => {
                "other learners or groups would count than in an earlier sum over the same records"
                    .to_owned()
            }
            other => other.to_string(),
        }
    }
}
