//! What travels between the nodes: calls and their answers, as values. Owns no order and loses nothing;
//! that is the world's.

use std::{rc::Rc, sync::Arc};

use collegium_proto::convert::Polled;
use collegium_shared::{
    crypto::Digest,
    ids::{InstitutionId, RoundId},
    protocol::{Phase, Ready, RevealHeader, ShareBody, ShareHeader, UploadHeader, Vote},
    roster::Roster,
    secagg::SharePiece,
    signed::Signed,
};

/// A member's message with its body.
#[derive(Clone)]
pub(super) enum Said {
    Ready(Signed<Ready>),
    Share { header: Signed<ShareHeader>, body: ShareBody },
    Upload { header: Signed<UploadHeader>, words: Vec<u32> },
    Vote(Signed<Vote>),
    Reveal { header: Signed<RevealHeader>, pieces: Vec<SharePiece> },
}

impl Said {
    /// Who the message says that it is from.
    pub(super) fn names(&self) -> &InstitutionId {
        match self {
            Self::Ready(ready) => &ready.body.institution,
            Self::Share { header, .. } => &header.body.institution,
            Self::Upload { header, .. } => &header.body.institution,
            Self::Vote(vote) => &vote.body.institution,
            Self::Reveal { header, .. } => &header.body.institution,
        }
    }

    /// The statement's kind and what tells it from all others of that kind.
    pub(super) fn mark(&self) -> Mark {
        match self {
            Self::Ready(ready) => (Phase::Ready, ready.digest()),
            Self::Share { header, .. } => (Phase::Share, header.digest()),
            Self::Upload { header, .. } => (Phase::Upload, header.digest()),
            Self::Vote(vote) => (Phase::Vote, Digest::of(&vote.signature.0)),
            Self::Reveal { header, .. } => (Phase::Reveal, header.digest()),
        }
    }
}

/// A statement, by phase and digest; of a vote the digest of its signature, which is what the log has.
pub(super) type Mark = (Phase, Digest);

#[derive(Clone)]
pub(super) enum Request {
    Poll { cursor: String, held: Option<(RoundId, Phase)> },
    Submit(Rc<Said>),
}

#[derive(Clone)]
pub(super) enum Response {
    /// News, with the roster in force.
    Polled(Rc<Polled>, Option<Arc<Signed<Roster>>>),
    Taken,
    Refused,
    /// The coordinator cannot answer now.
    Unavailable,
}

#[derive(Clone)]
pub(super) enum Content {
    Request(Request),
    Response(Response),
}

/// One call, or the answer to it, on the channel of one agent.
#[derive(Clone)]
pub(super) struct Packet {
    pub(super) agent: usize,
    pub(super) call: u64,
    pub(super) content: Content,
}

/// Little-endian bytes of words, as they are hashed.
pub(super) fn bytes(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}
