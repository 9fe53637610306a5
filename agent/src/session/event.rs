//! What happened in this institution's part of a round, as it is written down. Decides nothing.

use collegium_shared::{
    architecture::Charge,
    crypto::Digest,
    ids::{InstitutionId, RoundId},
    protocol::{Ending, Outcome, Plan},
    signed::Signed,
};
use serde::{Deserialize, Serialize};

/// What happened in a round, as leaves of the institution's audit log.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum SessionEvent {
    /// The plan passed every check that needs no computation.
    PlanAccepted {
        plan: Box<Signed<Plan>>,
    },
    /// The input is fixed: only its salted hash leaves before the masks exist.
    Committed {
        round: RoundId,
        commitment: Digest,
        /// The records that the input was made from.
        snapshot: Digest,
        /// Of what is asked of the model that serves: what of the policy decided who counts in it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        permitted: Option<Digest>,
        /// What it costs each learner; nothing for an input that was paid for in an earlier attempt.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        charges: Vec<Charge>,
    },
    /// The list L was checked and pinned.
    Listed {
        round: RoundId,
        root: Digest,
        institutions: Vec<InstitutionId>,
    },
    /// The dealers L1 were checked and pinned; from here on bytes of the upload may leave.
    Sending {
        round: RoundId,
        context: Digest,
    },
    Voted {
        round: RoundId,
        outcome: Outcome,
    },
    /// A quorum's word was checked; from here on no other outcome of this attempt is served.
    Revealing {
        round: RoundId,
        outcome: Outcome,
    },
    /// A quorum's word was checked after others had revealed: nothing else of this attempt was opened.
    Certified {
        round: RoundId,
        outcome: Outcome,
    },
    RoundEnded {
        round: RoundId,
        ending: Ending,
    },
    /// This institution will never vote or reveal in that attempt again.
    RoundLeft {
        round: RoundId,
        reason: String,
    },
}

impl SessionEvent {
    pub fn round(&self) -> &RoundId {
        match self {
            Self::PlanAccepted { plan } => &plan.body.round,
            Self::Committed { round, .. }
            | Self::Listed { round, .. }
            | Self::Sending { round, .. }
            | Self::Voted { round, .. }
            | Self::Revealing { round, .. }
            | Self::Certified { round, .. }
            | Self::RoundEnded { round, .. }
            | Self::RoundLeft { round, .. } => round,
        }
    }
}
