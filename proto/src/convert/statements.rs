//! The statements of a round and how it ends: each checked field by field. Owns no policy.

use collegium_shared::{
    crypto::{AgreementKey, Digest},
    protocol::{
        Certificate, Decline, Ending, LedgerHead, MAX_DECLINE, Outcome, Ready, RevealHeader,
        ShareBody, ShareHeader, UploadHeader, Vote, pieces_digest,
    },
    roster::MAX_INSTITUTIONS,
    secagg::{Bitmap, SEALED_SHARE_LEN, ShareKind, SharePiece},
    signed::Signed,
};

use super::{
    MAX_REASON, Malformed, Reason, countable, digest, empty, fixed, institution, list, malformed,
    required, signature, within,
};
use crate::v1;

impl TryFrom<v1::ReadyMessage> for Signed<Ready> {
    type Error = Malformed;

    fn try_from(message: v1::ReadyMessage) -> Result<Self, Malformed> {
        let body = Ready {
            plan: digest("ReadyMessage.plan", &message.plan)?,
            institution: institution("ReadyMessage.institution", &message.institution)?,
            commitment: digest("ReadyMessage.commitment", &message.commitment)?,
            mask_key: fixed("ReadyMessage.mask_key", &message.mask_key).map(AgreementKey)?,
            share_key: fixed("ReadyMessage.share_key", &message.share_key).map(AgreementKey)?,
            self_commitment: digest("ReadyMessage.self_commitment", &message.self_commitment)?,
            ledger: message.ledger.map(ledger).transpose()?,
        };
        let signature = signature("ReadyMessage.signature", &message.signature)?;
        Ok(Self { body, signature })
    }
}

impl From<&Signed<Ready>> for v1::ReadyMessage {
    fn from(signed: &Signed<Ready>) -> Self {
        let Signed { body, signature } = signed;
        Self {
            plan: body.plan.0.to_vec(),
            institution: body.institution.to_string(),
            commitment: body.commitment.0.to_vec(),
            mask_key: body.mask_key.0.to_vec(),
            share_key: body.share_key.0.to_vec(),
            self_commitment: body.self_commitment.0.to_vec(),
            signature: signature.0.to_vec(),
            ledger: body.ledger.map(|LedgerHead { entries, training, held_out }| v1::LedgerHead {
                entries,
                training,
                held_out,
            }),
        }
    }
}

fn ledger(message: v1::LedgerHead) -> Result<LedgerHead, Malformed> {
    let v1::LedgerHead { entries, training, held_out } = message;
    for (field, rho) in [("LedgerHead.training", training), ("LedgerHead.held_out", held_out)] {
        if !(rho.is_finite() && rho >= 0.0) {
            return Err(malformed(field, Reason::Range));
        }
    }
    Ok(LedgerHead { entries, training, held_out })
}

impl TryFrom<v1::ShareHeaderMessage> for Signed<ShareHeader> {
    type Error = Malformed;

    fn try_from(message: v1::ShareHeaderMessage) -> Result<Self, Malformed> {
        let body = ShareHeader {
            plan: digest("ShareHeaderMessage.plan", &message.plan)?,
            list: digest("ShareHeaderMessage.list", &message.list)?,
            institution: institution("ShareHeaderMessage.institution", &message.institution)?,
            shares: digest("ShareHeaderMessage.shares", &message.shares)?,
            sealed: digest("ShareHeaderMessage.sealed", &message.sealed)?,
        };
        let signature = signature("ShareHeaderMessage.signature", &message.signature)?;
        Ok(Self { body, signature })
    }
}

impl From<&Signed<ShareHeader>> for v1::ShareHeaderMessage {
    fn from(signed: &Signed<ShareHeader>) -> Self {
        let Signed { body, signature } = signed;
        Self {
            plan: body.plan.0.to_vec(),
            list: body.list.0.to_vec(),
            institution: body.institution.to_string(),
            shares: body.shares.0.to_vec(),
            sealed: body.sealed.0.to_vec(),
            signature: signature.0.to_vec(),
        }
    }
}

/// Refuses a sealed share of another than the one possible length.
pub(super) fn check_sealed(field: &'static str, sealed: &[u8]) -> Result<(), Malformed> {
    match sealed.len() {
        SEALED_SHARE_LEN => Ok(()),
        given => Err(malformed(field, Reason::Length { given, expected: SEALED_SHARE_LEN })),
    }
}

/// Two leaves of 32 bytes for each of `holders`.
fn leaves(bytes: &[u8], holders: usize) -> Result<Vec<Digest>, Malformed> {
    const FIELD: &str = "ShareMessage.leaves";
    within(FIELD, bytes.len(), 2 * MAX_INSTITUTIONS * 32)?;
    let (leaves, rest) = bytes.as_chunks::<32>();
    if !rest.is_empty() {
        return Err(malformed(FIELD, Reason::Uneven { given: bytes.len(), unit: 32 }));
    }
    if leaves.len() != 2 * holders {
        let count = Reason::Count { given: leaves.len(), expected: 2 * holders };
        return Err(malformed(FIELD, count));
    }
    Ok(leaves.iter().copied().map(Digest).collect())
}

impl TryFrom<v1::ShareMessage> for (Signed<ShareHeader>, ShareBody) {
    type Error = Malformed;

    fn try_from(message: v1::ShareMessage) -> Result<Self, Malformed> {
        const SEALED: &str = "ShareMessage.sealed";
        let header = required("ShareMessage.header", message.header)?;
        countable(SEALED, &message.sealed)?;
        for sealed in &message.sealed {
            check_sealed(SEALED, sealed)?;
        }
        let leaves = leaves(&message.leaves, message.sealed.len())?;
        Ok((header.try_into()?, ShareBody { leaves, sealed: message.sealed }))
    }
}

impl From<(&Signed<ShareHeader>, &ShareBody)> for v1::ShareMessage {
    fn from((header, body): (&Signed<ShareHeader>, &ShareBody)) -> Self {
        Self {
            header: Some(header.into()),
            leaves: body.leaves.iter().flat_map(|leaf| leaf.0).collect(),
            sealed: body.sealed.clone(),
        }
    }
}

impl TryFrom<v1::UploadHeaderMessage> for Signed<UploadHeader> {
    type Error = Malformed;

    fn try_from(message: v1::UploadHeaderMessage) -> Result<Self, Malformed> {
        let body = UploadHeader {
            context: digest("UploadHeaderMessage.context", &message.context)?,
            institution: institution("UploadHeaderMessage.institution", &message.institution)?,
            upload: digest("UploadHeaderMessage.upload", &message.upload)?,
        };
        let signature = signature("UploadHeaderMessage.signature", &message.signature)?;
        Ok(Self { body, signature })
    }
}

impl From<&Signed<UploadHeader>> for v1::UploadHeaderMessage {
    fn from(signed: &Signed<UploadHeader>) -> Self {
        let Signed { body, signature } = signed;
        Self {
            context: body.context.0.to_vec(),
            institution: body.institution.to_string(),
            upload: body.upload.0.to_vec(),
            signature: signature.0.to_vec(),
        }
    }
}

impl TryFrom<v1::Outcome> for Outcome {
    type Error = Malformed;

    fn try_from(message: v1::Outcome) -> Result<Self, Malformed> {
        let context = digest("Outcome.context", &message.context)?;
        if message.abort {
            empty("Outcome.survivors", message.survivors.is_empty())?;
            empty("Outcome.uploads", message.uploads.is_empty())?;
            return Ok(Self::Abort { context });
        }
        let survivors = Bitmap::from_bytes(&message.survivors)
            .map_err(|bad| malformed("Outcome.survivors", Reason::Positions(bad)))?;
        let uploads = digest("Outcome.uploads", &message.uploads)?;
        Ok(Self::Survivors { context, survivors, uploads })
    }
}

impl From<&Outcome> for v1::Outcome {
    fn from(outcome: &Outcome) -> Self {
        let context = outcome.context().0.to_vec();
        match outcome {
            Outcome::Survivors { survivors, uploads, .. } => Self {
                context,
                abort: false,
                survivors: survivors.to_bytes(),
                uploads: uploads.0.to_vec(),
            },
            Outcome::Abort { .. } => Self { context, abort: true, ..Self::default() },
        }
    }
}

impl TryFrom<v1::VoteMessage> for Signed<Vote> {
    type Error = Malformed;

    fn try_from(message: v1::VoteMessage) -> Result<Self, Malformed> {
        let body = Vote {
            institution: institution("VoteMessage.institution", &message.institution)?,
            outcome: required("VoteMessage.outcome", message.outcome)?.try_into()?,
        };
        let signature = signature("VoteMessage.signature", &message.signature)?;
        Ok(Self { body, signature })
    }
}

impl From<&Signed<Vote>> for v1::VoteMessage {
    fn from(signed: &Signed<Vote>) -> Self {
        Self {
            institution: signed.body.institution.to_string(),
            outcome: Some((&signed.body.outcome).into()),
            signature: signed.signature.0.to_vec(),
        }
    }
}

impl TryFrom<v1::DeclineMessage> for Signed<Decline> {
    type Error = Malformed;

    fn try_from(message: v1::DeclineMessage) -> Result<Self, Malformed> {
        const REASON: &str = "DeclineMessage.reason";
        within(REASON, message.reason.len(), MAX_DECLINE)?;
        if message.reason.contains(char::is_control) {
            return Err(malformed(REASON, Reason::Text));
        }
        let body = Decline {
            plan: digest("DeclineMessage.plan", &message.plan)?,
            institution: institution("DeclineMessage.institution", &message.institution)?,
            reason: message.reason,
        };
        let signature = signature("DeclineMessage.signature", &message.signature)?;
        Ok(Self { body, signature })
    }
}

impl From<&Signed<Decline>> for v1::DeclineMessage {
    fn from(Signed { body, signature }: &Signed<Decline>) -> Self {
        Self {
            plan: body.plan.0.to_vec(),
            institution: body.institution.to_string(),
            reason: body.reason.clone(),
            signature: signature.0.to_vec(),
        }
    }
}

impl TryFrom<v1::Certificate> for Certificate {
    type Error = Malformed;

    fn try_from(message: v1::Certificate) -> Result<Self, Malformed> {
        let outcome = required("Certificate.outcome", message.outcome)?.try_into()?;
        countable("Certificate.votes", &message.votes)?;
        let vote = |vote: &v1::CertificateVote| {
            let institution = institution("CertificateVote.institution", &vote.institution)?;
            let signature = signature("CertificateVote.signature", &vote.signature)?;
            Ok((institution, signature))
        };
        let votes = message.votes.iter().map(vote).collect::<Result<_, Malformed>>()?;
        Ok(Self { outcome, votes })
    }
}

impl From<&Certificate> for v1::Certificate {
    fn from(certificate: &Certificate) -> Self {
        let votes = certificate.votes.iter().map(|(institution, signature)| v1::CertificateVote {
            institution: institution.to_string(),
            signature: signature.0.to_vec(),
        });
        Self { outcome: Some((&certificate.outcome).into()), votes: votes.collect() }
    }
}

impl TryFrom<v1::SharePiece> for SharePiece {
    type Error = Malformed;

    fn try_from(message: v1::SharePiece) -> Result<Self, Malformed> {
        let outside = || malformed("SharePiece.dealer", Reason::Value(message.dealer.into()));
        let dealer = u16::try_from(message.dealer).map_err(|_| outside())?;
        if usize::from(dealer) >= MAX_INSTITUTIONS {
            return Err(outside());
        }
        Ok(Self {
            dealer,
            kind: if message.pair_mask { ShareKind::PairMask } else { ShareKind::SelfMask },
            scalar: fixed("SharePiece.scalar", &message.scalar)?,
            salt: fixed("SharePiece.salt", &message.salt)?,
        })
    }
}

impl From<&SharePiece> for v1::SharePiece {
    fn from(piece: &SharePiece) -> Self {
        Self {
            dealer: piece.dealer.into(),
            pair_mask: piece.kind == ShareKind::PairMask,
            scalar: piece.scalar.to_vec(),
            salt: piece.salt.to_vec(),
        }
    }
}

/// The digest that the header signs is not sent: it is computed from the pieces that arrived, so a
/// signature that verifies proves that these are the pieces that were signed.
impl TryFrom<v1::RevealMessage> for (Signed<RevealHeader>, Vec<SharePiece>) {
    type Error = Malformed;

    fn try_from(message: v1::RevealMessage) -> Result<Self, Malformed> {
        let pieces: Vec<SharePiece> = list("RevealMessage.pieces", message.pieces)?;
        let body = RevealHeader {
            context: digest("RevealMessage.context", &message.context)?,
            institution: institution("RevealMessage.institution", &message.institution)?,
            pieces: pieces_digest(&pieces),
        };
        let signature = signature("RevealMessage.signature", &message.signature)?;
        Ok((Signed { body, signature }, pieces))
    }
}

impl From<(&Signed<RevealHeader>, &[SharePiece])> for v1::RevealMessage {
    fn from((header, pieces): (&Signed<RevealHeader>, &[SharePiece])) -> Self {
        Self {
            context: header.body.context.0.to_vec(),
            institution: header.body.institution.to_string(),
            signature: header.signature.0.to_vec(),
            pieces: pieces.iter().map(Into::into).collect(),
        }
    }
}

impl TryFrom<v1::Ending> for Ending {
    type Error = Malformed;

    fn try_from(message: v1::Ending) -> Result<Self, Malformed> {
        use v1::ending::Kind;
        let kind = Kind::try_from(message.kind)
            .map_err(|_| malformed("Ending.kind", Reason::Value(message.kind.into())))?;
        empty("Ending.sum", kind == Kind::Released || message.sum.is_empty())?;
        empty("Ending.dealer", kind == Kind::Failed || message.dealer.is_empty())?;
        empty("Ending.reason", kind == Kind::Abandoned || message.reason.is_empty())?;
        match kind {
            Kind::Unspecified => Err(malformed("Ending.kind", Reason::Missing)),
            Kind::Released => Ok(Self::Released { sum: digest("Ending.sum", &message.sum)? }),
            Kind::Aborted => Ok(Self::Aborted),
            Kind::Failed => {
                Ok(Self::Failed { dealer: institution("Ending.dealer", &message.dealer)? })
            }
            Kind::Abandoned => {
                within("Ending.reason", message.reason.len(), MAX_REASON)?;
                Ok(Self::Abandoned { reason: message.reason })
            }
        }
    }
}

impl From<&Ending> for v1::Ending {
    fn from(ending: &Ending) -> Self {
        use v1::ending::Kind;
        let mut message = Self::default();
        let kind = match ending {
            Ending::Released { sum } => {
                message.sum = sum.0.to_vec();
                Kind::Released
            }
            Ending::Aborted => Kind::Aborted,
            Ending::Failed { dealer } => {
                message.dealer = dealer.to_string();
                Kind::Failed
            }
            Ending::Abandoned { reason } => {
                message.reason = reason[..reason.floor_char_boundary(MAX_REASON)].to_owned();
                Kind::Abandoned
            }
        };
        message.set_kind(kind);
        message
    }
}
