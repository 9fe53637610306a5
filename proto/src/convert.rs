//! Wire to domain and back. This is the only place where a message from outside becomes something
//! that the rest trusts to be well formed: every length, count and name is checked, and bounded
//! before anything is copied. Owns form alone: whether a statement is signed by whom it names, and
//! whether it fits the round, is decided by the machines that receive it.
//!
//! Every message has one form for each domain value: what is empty by rule must be empty, so no two
//! different messages mean the same.
//!
//! | message | domain |
//! |---|---|
//! | `RoundRef`, `UploadOffsetRequest` | [`RoundId`] |
//! | `Phase` | [`Phase`] |
//! | `ReadyMessage` | [`Signed<Ready>`](collegium_shared::protocol::Ready) |
//! | `ShareHeaderMessage` | [`Signed<ShareHeader>`](collegium_shared::protocol::ShareHeader) |
//! | `ShareMessage` | signed header and [`ShareBody`](collegium_shared::protocol::ShareBody) |
//! | `UploadHeaderMessage` | [`Signed<UploadHeader>`](collegium_shared::protocol::UploadHeader) |
//! | `UploadChunk`, `DownloadChunk` | [`UploadPiece`], [`DownloadPiece`] |
//! | `Outcome`, `Certificate`, `Ending` | the same names in [`collegium_shared::protocol`] |
//! | `VoteMessage` | [`Signed<Vote>`](collegium_shared::protocol::Vote) |
//! | `DeclineMessage` | [`Signed<Decline>`](collegium_shared::protocol::Decline) |
//! | `RevealMessage` | signed [`RevealHeader`](collegium_shared::protocol::RevealHeader) and pieces |
//! | `RoundView` | [`RoundView`](collegium_shared::protocol::RoundView) |
//! | `PollRequest`, `PollReply` | [`PollQuery`], [`Polled`] |
//! | `DownloadRequest` | [`DownloadFrom`] |
//! | `DocumentsReply` | [`Documents`] |
//! | metadata of every call | [`Speaker`], [`CallProof`] |
//! | `ReplaceIdentityRequest` | [`IdentityStep`] |
//! | `AuthoritiesReply` | [`Signed<Authorities>`](collegium_shared::credentials::Authorities) |
//!
//! Enrolment comes from callers without an identity and is checked whole where it is decided, and so
//! are the requests for certificates, which hold another format.

mod call;
mod identity;
mod statements;
#[cfg(test)]
mod tests;
mod transfer;
mod view;

use std::str::FromStr;

use collegium_shared::{
    crypto::{Digest, Signature},
    ids::{InstitutionId, RoundId},
    protocol::Phase,
    roster::MAX_INSTITUTIONS,
    secagg::BadBitmap,
    signed::{Signed, Statement},
};
use serde::{Serialize, de::DeserializeOwned};
use thiserror::Error;

pub use call::{CallProof, Speaker, Version, has_one_message, no_content, read_time, write_time};
pub use identity::IdentityStep;
pub use transfer::{DownloadFrom, DownloadPiece, UploadPiece};
pub use view::{Documents, Instance, PollQuery, Polled, authorities, authorities_reply};

use crate::{PROTOCOL, v1};

/// The most bytes of a name or cursor.
pub const MAX_TEXT: usize = 64;
/// The most bytes of a signed plan as JSON: it has to fit a journal entry.
pub const MAX_PLAN: usize = 60 << 10;
/// The most bytes of the reason why a round was abandoned; longer ones are cut when sent.
pub const MAX_REASON: usize = 1 << 10;

/// A message that is not well formed.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{field} {reason}")]
pub struct Malformed {
    /// The message and its field, as the protocol definition names them.
    pub field: &'static str,
    pub reason: Reason,
}

/// What is wrong with a field. Quotes nothing of its content but numbers, and for JSON a short
/// account of the parser's.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Reason {
    #[error("is missing")]
    Missing,
    #[error("has {given} bytes; it must have {expected}")]
    Length { given: usize, expected: usize },
    #[error("has {given} bytes, which are not a whole number of {unit}")]
    Uneven { given: usize, unit: usize },
    #[error("has {given} bytes; at most {most} are allowed")]
    TooLong { given: usize, most: usize },
    #[error("has {given} entries; at most {most} are allowed")]
    TooMany { given: usize, most: usize },
    #[error("has {given} entries where the list beside it asks for {expected}")]
    Count { given: usize, expected: usize },
    #[error("is not a name of 1 to 64 of a-z, 0-9, '.', '_' and '-'")]
    Name,
    #[error("is {0}, which has no meaning here")]
    Value(i64),
    #[error("must be empty here")]
    Surplus,
    #[error("contradicts another field, or what was said before")]
    Contradiction,
    #[error("is not the JSON that it should be: {0}")]
    Json(String),
    #[error("is no set of positions: {0}")]
    Positions(BadBitmap),
    #[error("must be a finite number, and not below 0")]
    Range,
    #[error("is not plain text")]
    Text,
    #[error("is not {0} bytes in hexadecimal")]
    Hexadecimal(usize),
    #[error("is not a time in milliseconds since 1970")]
    Time,
    #[error("is not a version such as 1.0")]
    Version,
    #[error("is {0}, but this side speaks protocol {PROTOCOL}: update the older of the two")]
    Protocol(u32),
}

/// The error for `field`.
fn malformed(field: &'static str, reason: Reason) -> Malformed {
    Malformed { field, reason }
}

/// Exactly `N` bytes.
fn fixed<const N: usize>(field: &'static str, bytes: &[u8]) -> Result<[u8; N], Malformed> {
    bytes
        .try_into()
        .map_err(|_| malformed(field, Reason::Length { given: bytes.len(), expected: N }))
}

fn digest(field: &'static str, bytes: &[u8]) -> Result<Digest, Malformed> {
    fixed(field, bytes).map(Digest)
}

fn signature(field: &'static str, bytes: &[u8]) -> Result<Signature, Malformed> {
    fixed(field, bytes).map(Signature)
}

/// A digest, or none where the field is empty.
fn optional_digest(field: &'static str, bytes: &[u8]) -> Result<Option<Digest>, Malformed> {
    if bytes.is_empty() { Ok(None) } else { digest(field, bytes).map(Some) }
}

fn required<T>(field: &'static str, value: Option<T>) -> Result<T, Malformed> {
    value.ok_or(malformed(field, Reason::Missing))
}

/// Refuses more than `most` bytes.
fn within(field: &'static str, given: usize, most: usize) -> Result<(), Malformed> {
    if given <= most { Ok(()) } else { Err(malformed(field, Reason::TooLong { given, most })) }
}

/// Refuses a field that says something where the rest of the message leaves it no meaning.
fn empty(field: &'static str, is_empty: bool) -> Result<(), Malformed> {
    if is_empty { Ok(()) } else { Err(malformed(field, Reason::Surplus)) }
}

/// An institution's or a task's name.
fn name<T: FromStr>(field: &'static str, text: &str) -> Result<T, Malformed> {
    within(field, text.len(), MAX_TEXT)?;
    text.parse().map_err(|_| malformed(field, Reason::Name))
}

fn institution(field: &'static str, text: &str) -> Result<InstitutionId, Malformed> {
    name(field, text)
}

/// Refuses a list of more entries than a round has institutions.
fn countable<T>(field: &'static str, list: &[T]) -> Result<(), Malformed> {
    let (given, most) = (list.len(), MAX_INSTITUTIONS);
    if given <= most { Ok(()) } else { Err(malformed(field, Reason::TooMany { given, most })) }
}

/// A list with one entry for each of at most [`MAX_INSTITUTIONS`] institutions.
fn list<W, D>(field: &'static str, wire: Vec<W>) -> Result<Vec<D>, Malformed>
where
    D: TryFrom<W, Error = Malformed>,
{
    countable(field, &wire)?;
    wire.into_iter().map(D::try_from).collect()
}

/// A signed document of at most `most` bytes of JSON.
fn document<T: DeserializeOwned>(
    field: &'static str,
    json: &[u8],
    most: usize,
) -> Result<Signed<T>, Malformed> {
    from_json(field, json, most)
}

/// At most `most` bytes of JSON.
fn from_json<T: DeserializeOwned>(
    field: &'static str,
    json: &[u8],
    most: usize,
) -> Result<T, Malformed> {
    within(field, json.len(), most)?;
    serde_json::from_slice(json).map_err(|error| {
        // The parser quotes what it read, which may be long and is not ours.
        let account = error.to_string().chars().filter(|c| !c.is_control()).take(160).collect();
        malformed(field, Reason::Json(account))
    })
}

/// What [`document`] reads. Statements always have a JSON form (see [`Statement::digest`]); one that
/// had none would be refused by the receiver as empty.
fn document_json<T: Statement>(signed: &Signed<T>) -> Vec<u8>
where
    Signed<T>: Serialize,
{
    serde_json::to_vec(signed).unwrap_or_default()
}

impl TryFrom<v1::RoundRef> for RoundId {
    type Error = Malformed;

    fn try_from(message: v1::RoundRef) -> Result<Self, Malformed> {
        let task = name("RoundRef.task", &message.task)?;
        Ok(Self { task, round: message.round, attempt: message.attempt })
    }
}

impl From<&RoundId> for v1::RoundRef {
    fn from(id: &RoundId) -> Self {
        Self { task: id.task.to_string(), round: id.round, attempt: id.attempt }
    }
}

/// A phase, or none for the unspecified one.
fn optional_phase(field: &'static str, number: i32) -> Result<Option<Phase>, Malformed> {
    match v1::Phase::try_from(number) {
        Ok(v1::Phase::Unspecified) => Ok(None),
        Ok(v1::Phase::Ready) => Ok(Some(Phase::Ready)),
        Ok(v1::Phase::Share) => Ok(Some(Phase::Share)),
        Ok(v1::Phase::Upload) => Ok(Some(Phase::Upload)),
        Ok(v1::Phase::Vote) => Ok(Some(Phase::Vote)),
        Ok(v1::Phase::Reveal) => Ok(Some(Phase::Reveal)),
        Ok(v1::Phase::Open) => Ok(Some(Phase::Open)),
        Ok(v1::Phase::Ended) => Ok(Some(Phase::Ended)),
        Err(_) => Err(malformed(field, Reason::Value(number.into()))),
    }
}

impl TryFrom<v1::Phase> for Phase {
    type Error = Malformed;

    fn try_from(phase: v1::Phase) -> Result<Self, Malformed> {
        required("Phase", optional_phase("Phase", phase.into())?)
    }
}

impl From<Phase> for v1::Phase {
    fn from(phase: Phase) -> Self {
        match phase {
            Phase::Ready => Self::Ready,
            Phase::Share => Self::Share,
            Phase::Upload => Self::Upload,
            Phase::Vote => Self::Vote,
            Phase::Reveal => Self::Reveal,
            Phase::Open => Self::Open,
            Phase::Ended => Self::Ended,
        }
    }
}
