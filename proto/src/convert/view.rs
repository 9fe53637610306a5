//! What a member sees of the network: the answer to a poll, the view of the current round, and the
//! documents that the root signed. Owns no judgement of any of it.

use collegium_shared::{
    credentials::Authorities,
    crypto::{Digest, Signature},
    ids::RoundId,
    protocol::{Phase, Ready, RoundView, ShareHeader},
    roster::{Registry, Roster},
    signed::Signed,
};

use super::{
    MAX_PLAN, MAX_REASON, MAX_TEXT, Malformed, Reason, countable, document, document_json, fixed,
    list, malformed, optional_digest, optional_phase, required, signature,
    statements::check_sealed, within,
};
use crate::{MAX_MESSAGE, PROTOCOL, v1};

/// Names one run of one agent: random, drawn when the process starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Instance(pub [u8; 16]);

/// What a caller of `Poll` knows already, and says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PollQuery {
    /// From the last answer; empty at first.
    pub cursor: String,
    /// The round whose lists the caller holds, and up to which phase.
    pub held: Option<(RoundId, Phase)>,
    /// The calling process; callers of before this was said leave it out.
    pub instance: Option<Instance>,
    /// The caller accepts no new plan for now.
    pub away: bool,
}

impl TryFrom<v1::PollRequest> for PollQuery {
    type Error = Malformed;

    fn try_from(message: v1::PollRequest) -> Result<Self, Malformed> {
        const PHASE: &str = "PollRequest.held_phase";
        if message.protocol != PROTOCOL {
            let reason = Reason::Protocol(message.protocol);
            return Err(malformed("PollRequest.protocol", reason));
        }
        within("PollRequest.cursor", message.cursor.len(), MAX_TEXT)?;
        let phase = optional_phase(PHASE, message.held_phase)?;
        let held = match (message.held_round, phase) {
            (Some(round), phase) => Some((round.try_into()?, required(PHASE, phase)?)),
            (None, None) => None,
            (None, Some(_)) => return Err(malformed("PollRequest.held_round", Reason::Missing)),
        };
        let instance = match message.instance.as_slice() {
            [] => None,
            bytes => Some(Instance(fixed("PollRequest.instance", bytes)?)),
        };
        Ok(Self { cursor: message.cursor, held, instance, away: message.away })
    }
}

impl From<&PollQuery> for v1::PollRequest {
    fn from(query: &PollQuery) -> Self {
        let mut message = Self { protocol: PROTOCOL, ..Self::default() };
        message.cursor.clone_from(&query.cursor);
        message.instance = query.instance.map(|Instance(bytes)| bytes.to_vec()).unwrap_or_default();
        message.away = query.away;
        if let Some((round, phase)) = &query.held {
            message.held_round = Some(round.into());
            message.set_held_phase((*phase).into());
        }
        message
    }
}

/// The answer to a poll. With an empty cursor (nothing changed) everything else but the notice is none.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Polled {
    pub cursor: String,
    /// The digest of the current roster.
    pub roster: Option<Digest>,
    /// The manifest of the newest released model.
    pub release: Option<Digest>,
    /// The current round, as far as the caller does not hold it.
    pub round: Option<RoundView>,
    /// What the institution's operator should know, in words.
    pub notice: Option<String>,
    /// The digest of the list of the coordinator's certificate authorities.
    pub authorities: Option<Digest>,
    /// Of the coordinator's key in force under [`collegium_shared::hand_over::countersigned_digest`] of
    /// the release, if a key before it signed the manifest.
    pub release_signature: Option<Signature>,
    /// The READY in which the caller last said how far its privacy ledger is.
    pub ledger: Option<Signed<Ready>>,
}

impl TryFrom<v1::PollReply> for Polled {
    type Error = Malformed;

    fn try_from(message: v1::PollReply) -> Result<Self, Malformed> {
        within("PollReply.cursor", message.cursor.len(), MAX_TEXT)?;
        within("PollReply.notice", message.notice.len(), MAX_REASON)?;
        let changed = !message.cursor.is_empty();
        empty_unless(changed, "PollReply.roster", message.roster.is_empty())?;
        empty_unless(changed, "PollReply.release", message.release.is_empty())?;
        empty_unless(changed, "PollReply.round", message.round.is_none())?;
        empty_unless(changed, "PollReply.ledger", message.ledger.is_none())?;
        empty_unless(changed, "PollReply.authorities", message.authorities.is_empty())?;
        let released = !message.release.is_empty();
        let countersigned = Some(message.release_signature).filter(|bytes| !bytes.is_empty());
        empty_unless(released, "PollReply.release_signature", countersigned.is_none())?;
        let of_release = |bytes: Vec<u8>| signature("PollReply.release_signature", &bytes);
        Ok(Self {
            cursor: message.cursor,
            roster: optional_digest("PollReply.roster", &message.roster)?,
            release: optional_digest("PollReply.release", &message.release)?,
            round: message.round.map(RoundView::try_from).transpose()?,
            notice: Some(message.notice).filter(|notice| !notice.is_empty()),
            authorities: optional_digest("PollReply.authorities", &message.authorities)?,
            release_signature: countersigned.map(of_release).transpose()?,
            ledger: message.ledger.map(Signed::try_from).transpose()?,
        })
    }
}

fn empty_unless(allowed: bool, field: &'static str, is_empty: bool) -> Result<(), Malformed> {
    super::empty(field, allowed || is_empty)
}

impl From<&Polled> for v1::PollReply {
    fn from(polled: &Polled) -> Self {
        let bytes = |digest: Option<Digest>| digest.map(|d| d.0.to_vec()).unwrap_or_default();
        Self {
            cursor: polled.cursor.clone(),
            roster: bytes(polled.roster),
            release: bytes(polled.release),
            round: polled.round.as_ref().map(Into::into),
            notice: polled.notice.clone().unwrap_or_default(),
            authorities: bytes(polled.authorities),
            release_signature: polled
                .release_signature
                .map(|signature| signature.as_bytes().to_vec())
                .unwrap_or_default(),
            ledger: polled.ledger.as_ref().map(Into::into),
        }
    }
}

/// A header of L1 with the share that is sealed to the caller.
type Dealt = (Signed<ShareHeader>, Vec<u8>);

fn headers(
    headers: Vec<v1::ShareHeaderMessage>,
    sealed: Vec<Vec<u8>>,
) -> Result<Vec<Dealt>, Malformed> {
    const SEALED: &str = "RoundView.sealed";
    countable("RoundView.headers", &headers)?;
    if headers.len() != sealed.len() {
        let count = Reason::Count { given: sealed.len(), expected: headers.len() };
        return Err(malformed(SEALED, count));
    }
    headers
        .into_iter()
        .zip(sealed)
        .map(|(header, sealed)| {
            check_sealed(SEALED, &sealed)?;
            Ok((header.try_into()?, sealed))
        })
        .collect()
}

impl TryFrom<v1::RoundView> for RoundView {
    type Error = Malformed;

    fn try_from(message: v1::RoundView) -> Result<Self, Malformed> {
        const PHASE: &str = "RoundView.phase";
        let id: RoundId = required("RoundView.id", message.id)?.try_into()?;
        let view = Self {
            phase: required(PHASE, optional_phase(PHASE, message.phase)?)?,
            plan: document("RoundView.plan", &message.plan, MAX_PLAN)?,
            list: list("RoundView.list", message.list)?,
            headers: headers(message.headers, message.sealed)?,
            proposal: message.proposal.map(TryInto::try_into).transpose()?,
            uploads: list("RoundView.uploads", message.uploads)?,
            certificate: message.certificate.map(TryInto::try_into).transpose()?,
            ending: message.ending.map(TryInto::try_into).transpose()?,
        };
        if *view.id() == id {
            Ok(view)
        } else {
            Err(malformed("RoundView.id", Reason::Contradiction))
        }
    }
}

impl From<&RoundView> for v1::RoundView {
    fn from(view: &RoundView) -> Self {
        let (headers, sealed) = view.headers.iter().map(|(h, s)| (h.into(), s.clone())).unzip();
        Self {
            id: Some(view.id().into()),
            phase: v1::Phase::from(view.phase).into(),
            plan: document_json(&view.plan),
            list: view.list.iter().map(Into::into).collect(),
            headers,
            sealed,
            proposal: view.proposal.as_ref().map(Into::into),
            uploads: view.uploads.iter().map(Into::into).collect(),
            certificate: view.certificate.as_ref().map(Into::into),
            ending: view.ending.as_ref().map(Into::into),
        }
    }
}

/// The most bytes of the list of certificate authorities.
const MAX_AUTHORITIES: usize = 64 << 10;

/// The signed list of certificate authorities; none if the first one was never replaced. Not yet
/// verified.
pub fn authorities(
    message: &v1::AuthoritiesReply,
) -> Result<Option<Signed<Authorities>>, Malformed> {
    let json = Some(&message.authorities).filter(|json| !json.is_empty());
    let read = |json: &Vec<u8>| document("AuthoritiesReply.authorities", json, MAX_AUTHORITIES);
    json.map(read).transpose()
}

/// What [`authorities`] reads.
pub fn authorities_reply(signed: Option<&Signed<Authorities>>) -> v1::AuthoritiesReply {
    v1::AuthoritiesReply { authorities: signed.map(document_json).unwrap_or_default() }
}

/// The current documents of the consortium's root, as far as there are any. Not yet verified.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Documents {
    pub roster: Option<Signed<Roster>>,
    pub registry: Option<Signed<Registry>>,
}

impl TryFrom<v1::DocumentsReply> for Documents {
    type Error = Malformed;

    fn try_from(message: v1::DocumentsReply) -> Result<Self, Malformed> {
        let v1::DocumentsReply { roster, registry } = message;
        let held = |json: &Vec<u8>| !json.is_empty();
        let read_roster = |json: Vec<u8>| document("DocumentsReply.roster", &json, MAX_MESSAGE);
        let read_registry = |json: Vec<u8>| document("DocumentsReply.registry", &json, MAX_MESSAGE);
        Ok(Self {
            roster: Some(roster).filter(held).map(read_roster).transpose()?,
            registry: Some(registry).filter(held).map(read_registry).transpose()?,
        })
    }
}

impl From<&Documents> for v1::DocumentsReply {
    fn from(documents: &Documents) -> Self {
        Self {
            roster: documents.roster.as_ref().map(document_json).unwrap_or_default(),
            registry: documents.registry.as_ref().map(document_json).unwrap_or_default(),
        }
    }
}
