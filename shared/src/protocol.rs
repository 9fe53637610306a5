//! The statements of one round, in the order in which they are made (docs/PROTOCOL.md). Plain data:
//! the coordinator's `round` and the agent's `session` decide what to do with them.

use std::{collections::BTreeSet, time::Duration};

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::{
    architecture::{Feature, Hyper, LearnerPrivacy, Stage},
    clock::Timestamp,
    crypto::{AgreementKey, Digest, Signature, VerifyingKey},
    ids::{InstitutionId, Purpose, RoundId},
    merkle,
    params::Encoding,
    secagg::{Bitmap, SharePiece, quorum},
    signed::{Signed, Statement},
};

/// What the coordinator asks for in one round. Its digest names the round in every later statement.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    pub round: RoundId,
    /// The identifier of a compiled-in architecture.
    pub architecture: String,
    /// What the model is for, by the coordinator's word.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub purpose: Option<Purpose>,
    /// The digest of the parameter layout; none before the shared competencies are known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub layout: Option<Digest>,
    pub stage: Stage,
    /// The institutions that it asks, if not all: one of the groups whose sums give a step's median.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<BTreeSet<InstitutionId>>,
    pub hyper: Hyper,
    pub encoding: Encoding,
    pub cohort: Cohort,
    pub roster: Digest,
    pub registry: Digest,
    pub inputs: Inputs,
    pub deadlines: Deadlines,
    /// For a further attempt: the quorum's word that the attempt before it was aborted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub aborted: Option<Certificate>,
    /// The round before, for the logs of members that did not see it end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<Before>,
    pub issued_at: Timestamp,
}

/// How an earlier round ended, by the coordinator's word.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Before {
    pub round: RoundId,
    pub ending: Ending,
}

impl Statement for Plan {
    const CONTEXT: &'static str = "collegium/v1/plan";
}

impl Plan {
    /// The fewest institutions that an opened sum may come from: with [`Cohort::least`], also as many honest
    /// ones as its noise needs.
    pub fn least(&self) -> usize {
        self.cohort.least().max(usize::from(self.cohort.c_max) + self.noise_parties())
    }

    /// Whether this institution is asked.
    pub fn asks(&self, institution: &InstitutionId) -> bool {
        self.group.as_ref().is_none_or(|group| group.contains(institution))
    }

    /// The honest institutions whose noise the plan counts on; 0 without noise.
    pub fn noise_parties(&self) -> usize {
        self.hyper.privacy.map_or(0, |privacy| privacy.parties.into())
    }
}

/// How many may collude, and how many honest institutions every opened sum holds at least.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cohort {
    pub c_max: u16,
    pub min_honest: u16,
}

impl Cohort {
    /// What is proposed for `n` institutions: that the larger of a tenth of them and half their
    /// square root may collude, and `min_honest` 5, or what fewer institutions allow.
    pub fn proposed(n: usize) -> Self {
        let n = u16::try_from(n).unwrap_or(u16::MAX);
        let c_max = (n / 10).max(n.isqrt() / 2);
        Self { c_max, min_honest: 5.min(n.saturating_sub(2 * c_max)).max(2.min(n)) }
    }

    /// The fewest institutions that an opened sum, or a shared coordinate, may come from.
    pub fn least(&self) -> usize {
        usize::from(self.c_max) + usize::from(self.min_honest)
    }

    /// The fewest institutions that may start a round.
    pub fn n_min(&self) -> usize {
        self.least().max(3 * usize::from(self.c_max) + 1).max(2)
    }
}

/// The blobs that a round starts from, by SHA-256; which ones depends on the stage.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Inputs {
    /// The opened sum of the support stage.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub support: Option<Digest>,
    /// The opened sum of the statistics stage.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub statistics: Option<Digest>,
    /// The opened sum of the totals stage.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub totals: Option<Digest>,
    /// The weights that local training starts from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub start: Option<Digest>,
    /// The model that is evaluated in this round.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub candidate: Option<Digest>,
}

impl Inputs {
    pub fn iter(&self) -> impl Iterator<Item = Digest> {
        [self.support, self.statistics, self.totals, self.start, self.candidate]
            .into_iter()
            .flatten()
    }
}

/// The longest time that each phase may take, in seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Deadlines {
    pub ready: u32,
    pub share: u32,
    pub upload: u32,
    pub vote: u32,
    pub reveal: u32,
}

impl Default for Deadlines {
    fn default() -> Self {
        Self { ready: 600, share: 120, upload: 600, vote: 120, reveal: 120 }
    }
}

impl Deadlines {
    /// The time that `phase` may take; none where nobody is waited for.
    pub fn of(&self, phase: Phase) -> Option<Duration> {
        let seconds = match phase {
            Phase::Ready => self.ready,
            Phase::Share => self.share,
            Phase::Upload => self.upload,
            Phase::Vote => self.vote,
            Phase::Reveal => self.reveal,
            Phase::Open | Phase::Ended => return None,
        };
        Some(Duration::from_secs(seconds.into()))
    }
}

/// Where a round stands. The order is the order of time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    Ready,
    Share,
    Upload,
    Vote,
    Reveal,
    /// The coordinator takes the masks off the sum.
    Open,
    Ended,
}

/// Phase 1: an institution takes part, bound to one input by its commitment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ready {
    pub plan: Digest,
    pub institution: InstitutionId,
    /// SHA-256 over a salt and the integer input x.
    pub commitment: Digest,
    pub mask_key: AgreementKey,
    pub share_key: AgreementKey,
    /// H(b): what the recovered self-mask seed must hash to.
    pub self_commitment: Digest,
    /// How far the institution's privacy ledger is, of a private round: a restored agent is shown it again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ledger: Option<LedgerHead>,
}

/// What an institution's privacy ledger holds, as one line for each population: what its learners ever spent
/// is nowhere above rho x order.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LedgerHead {
    /// Charged inputs.
    pub entries: u64,
    /// rho of training learners, in nats.
    pub training: f64,
    /// rho of held-out learners, in nats.
    pub held_out: f64,
}

impl Statement for Ready {
    const CONTEXT: &'static str = "collegium/v1/ready";
}

/// Phase 2: the signed head of a dealing. The sealed shares themselves travel beside it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ShareHeader {
    pub plan: Digest,
    /// R, the root of the frozen list.
    pub list: Digest,
    pub institution: InstitutionId,
    /// The Merkle root over the salted share hashes.
    pub shares: Digest,
    /// The digest of the sealed shares, in the order of the list.
    pub sealed: Digest,
}

impl Statement for ShareHeader {
    const CONTEXT: &'static str = "collegium/v1/share";
}

/// The body of a dealing: what the coordinator hands on, and what it checks revealed shares by.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ShareBody {
    /// Two salted hashes for each holder, in the order of the list: self share, mask share.
    pub leaves: Vec<Digest>,
    /// One sealed message for each holder, in the order of the list.
    pub sealed: Vec<Vec<u8>>,
}

impl ShareBody {
    /// What [`ShareHeader::shares`] must be.
    pub fn shares_root(&self) -> Digest {
        digest_root(self.leaves.iter().copied())
    }

    /// What [`ShareHeader::sealed`] must be.
    pub fn sealed_digest(&self) -> Digest {
        let parts: Vec<&[u8]> = self.sealed.iter().map(Vec::as_slice).collect();
        Digest::of_parts("collegium/v1/sealed-shares", &parts)
    }
}

/// Phase 3: the signed end of an upload.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UploadHeader {
    /// ctx: plan, list and headers in one digest.
    pub context: Digest,
    pub institution: InstitutionId,
    /// SHA-256 of the masked vector y as little-endian words.
    pub upload: Digest,
}

impl Statement for UploadHeader {
    const CONTEXT: &'static str = "collegium/v1/upload";
}

/// Phase 4: what is voted on. The coordinator proposes one of the two, once per attempt.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "snake_case", deny_unknown_fields)]
pub enum Outcome {
    /// Open the sum over exactly these.
    Survivors {
        context: Digest,
        /// U, over the positions of the list.
        survivors: Bitmap,
        /// The Merkle root over the upload headers of U.
        uploads: Digest,
    },
    /// Never open a sum in this attempt.
    Abort { context: Digest },
}

impl Outcome {
    pub fn context(&self) -> Digest {
        match self {
            Outcome::Survivors { context, .. } | Outcome::Abort { context } => *context,
        }
    }
}

/// The most bytes of the reason in a [`Decline`].
pub const MAX_DECLINE: usize = 300;

/// In any phase: this institution takes no part, or no further one, in the attempt of this plan. Says what
/// the coordinator's own documents lack, and nothing of records.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Decline {
    pub plan: Digest,
    pub institution: InstitutionId,
    /// In words; at most [`MAX_DECLINE`] bytes.
    pub reason: String,
}

impl Statement for Decline {
    const CONTEXT: &'static str = "collegium/v1/decline";
}

/// One member's vote for an outcome.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Vote {
    pub institution: InstitutionId,
    pub outcome: Outcome,
}

impl Statement for Vote {
    const CONTEXT: &'static str = "collegium/v1/vote";
}

/// A quorum's signatures over one outcome.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Certificate {
    pub outcome: Outcome,
    /// Sorted by institution.
    pub votes: Vec<(InstitutionId, Signature)>,
}

/// Why a certificate proves nothing.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum BadCertificate {
    #[error("{0} voted twice, or the votes are out of order")]
    Unordered(InstitutionId),
    #[error("{0} has no vote in this round")]
    NoVoter(InstitutionId),
    #[error("the vote of {0} does not verify")]
    BadSignature(InstitutionId),
    #[error("{given} votes, but {needed} are a quorum")]
    TooFew { given: usize, needed: usize },
}

/// An outcome with a quorum's checked signatures. Only [`Certificate::verify`] makes one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QuorumCertificate(Outcome);

impl QuorumCertificate {
    pub fn outcome(&self) -> &Outcome {
        &self.0
    }
}

impl Certificate {
    /// Checks that at least a quorum of `n` listed institutions with `c_max` colluders signed this
    /// outcome. `voter` gives the identity key of an institution that may vote.
    pub fn verify<'a>(
        &self,
        n: usize,
        c_max: u16,
        voter: impl Fn(&InstitutionId) -> Option<&'a VerifyingKey>,
    ) -> Result<QuorumCertificate, BadCertificate> {
        let needed = quorum(n, usize::from(c_max));
        if self.votes.len() < needed {
            return Err(BadCertificate::TooFew { given: self.votes.len(), needed });
        }
        for pair in self.votes.windows(2) {
            if pair[0].0 >= pair[1].0 {
                return Err(BadCertificate::Unordered(pair[1].0.clone()));
            }
        }
        for (institution, signature) in &self.votes {
            let key =
                voter(institution).ok_or_else(|| BadCertificate::NoVoter(institution.clone()))?;
            let vote = Vote { institution: institution.clone(), outcome: self.outcome.clone() };
            key.verify(vote.digest().as_bytes(), signature)
                .map_err(|_| BadCertificate::BadSignature(institution.clone()))?;
        }
        Ok(QuorumCertificate(self.outcome.clone()))
    }
}

/// Phase 5: a holder's shares, one for each dealer in L1: of b for members of U, of the masking
/// secret for the others. Signed over the digest of the pieces, because they are never logged.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RevealHeader {
    pub context: Digest,
    pub institution: InstitutionId,
    pub pieces: Digest,
}

impl Statement for RevealHeader {
    const CONTEXT: &'static str = "collegium/v1/reveal";
}

/// What [`RevealHeader::pieces`] must be.
pub fn pieces_digest(pieces: &[SharePiece]) -> Digest {
    let mut hasher = crate::crypto::Hasher::new();
    hasher.update(b"collegium/v1/share-pieces");
    for piece in pieces {
        hasher.update(&piece.to_bytes());
    }
    hasher.finish()
}

/// How a round ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "end", rename_all = "snake_case", deny_unknown_fields)]
pub enum Ending {
    /// The sum was opened; `sum` names the blob that holds it.
    Released { sum: Digest },
    /// A quorum signed ABORT: nothing was and nothing will be opened in this attempt.
    Aborted,
    /// A dealer's shares do not fit what it signed.
    Failed { dealer: InstitutionId },
    /// The round could not go on.
    Abandoned { reason: String },
}

/// The Merkle root (RFC 6962, 2.1) over statements, by digest: R, R1 and the root of the uploads.
pub fn digest_root(digests: impl IntoIterator<Item = Digest>) -> Digest {
    let leaves: Vec<Digest> =
        digests.into_iter().map(|d| merkle::leaf_hash(d.as_bytes())).collect();
    merkle::root(&leaves)
}

/// The root over signed statements.
pub fn statements_root<'a, T: Statement + 'a>(
    statements: impl IntoIterator<Item = &'a Signed<T>>,
) -> Digest {
    digest_root(statements.into_iter().map(Signed::digest))
}

/// A released model: what it is, what it came from, and how good it was found to be.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    pub architecture: String,
    /// 1 for the first released model of the task.
    pub version: u32,
    pub round: RoundId,
    /// SHA-256 of the weights (safetensors), of their layout, and of the opened sums they need.
    pub weights: Digest,
    pub layout: Digest,
    /// None with noise: then all of the registry is shared.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub support: Option<Digest>,
    pub statistics: Digest,
    /// Decides, with the support sum, what is shared.
    pub cohort: Cohort,
    /// The noise in every sum that the model was made from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub privacy: Option<LearnerPrivacy>,
    /// The numbers that a network takes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub features: Vec<Feature>,
    /// The manifest before this one in the same task.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<Digest>,
    pub plan: Digest,
    pub roster: Digest,
    pub registry: Digest,
    /// The digests of the masked uploads that were summed.
    pub uploads: Vec<Digest>,
    pub metrics: Metrics,
    pub released_at: Timestamp,
}

impl Statement for Manifest {
    const CONTEXT: &'static str = "collegium/v1/manifest";
}

/// Sums over held-out learners of all institutions that took part.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Metrics {
    /// Held-out responses.
    pub responses: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auc: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log_loss: Option<f64>,
}

/// What one member may know of the current round, as far as it asked for it.
#[derive(Clone, Debug, PartialEq)]
pub struct RoundView {
    pub phase: Phase,
    pub plan: Signed<Plan>,
    /// L, in order; from Share on.
    pub list: Vec<Signed<Ready>>,
    /// L1, in order, each with the shares sealed to the caller; from Upload on.
    pub headers: Vec<(Signed<ShareHeader>, Vec<u8>)>,
    /// From Vote on.
    pub proposal: Option<Outcome>,
    /// The upload headers of U, in order; from Vote on.
    pub uploads: Vec<Signed<UploadHeader>>,
    /// From Reveal on.
    pub certificate: Option<Certificate>,
    pub ending: Option<Ending>,
}

impl RoundView {
    pub fn id(&self) -> &RoundId {
        &self.plan.body.round
    }

    /// Fills in what the coordinator left out because an earlier view of the same round had it.
    pub fn complete_from(&mut self, earlier: &RoundView) {
        if earlier.plan != self.plan {
            return;
        }
        if self.list.is_empty() {
            self.list.clone_from(&earlier.list);
        }
        if self.headers.is_empty() {
            self.headers.clone_from(&earlier.headers);
        }
        if self.uploads.is_empty() {
            self.uploads.clone_from(&earlier.uploads);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::secagg::check_cohort;

    #[test]
    fn the_proposed_cohort_is_the_documented_one_and_always_possible() {
        for (n, c_max, min_honest) in [(2, 0, 2), (4, 1, 2), (7, 1, 5), (16, 2, 5), (158, 15, 5)] {
            assert_eq!(Cohort::proposed(n), Cohort { c_max, min_honest }, "{n} institutions");
        }
        for n in 2..=256 {
            let Cohort { c_max, min_honest } = Cohort::proposed(n);
            assert_eq!(check_cohort(n, c_max.into(), min_honest.into()), Ok(()), "{n}");
        }
    }
}
