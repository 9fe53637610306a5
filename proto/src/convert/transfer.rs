//! Vectors and blobs on their way in pieces. Owns the bound on a piece; where a piece belongs is
//! checked by whoever stores it.

use bytes::Bytes;
use collegium_shared::{crypto::Digest, ids::RoundId, protocol::UploadHeader, signed::Signed};

use super::{Malformed, digest, required, within};
use crate::{CHUNK, v1};

/// One message of an upload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UploadPiece {
    /// In the first message.
    pub round: Option<RoundId>,
    /// Where `data` belongs, in bytes.
    pub offset: u64,
    /// At most [`CHUNK`] bytes; may be empty.
    pub data: Bytes,
    /// In the last message.
    pub header: Option<Signed<UploadHeader>>,
}

impl TryFrom<v1::UploadChunk> for UploadPiece {
    type Error = Malformed;

    fn try_from(message: v1::UploadChunk) -> Result<Self, Malformed> {
        within("UploadChunk.data", message.data.len(), CHUNK)?;
        Ok(Self {
            round: message.round.map(RoundId::try_from).transpose()?,
            offset: message.offset,
            data: message.data,
            header: message.header.map(Signed::try_from).transpose()?,
        })
    }
}

impl From<UploadPiece> for v1::UploadChunk {
    fn from(piece: UploadPiece) -> Self {
        Self {
            round: piece.round.as_ref().map(Into::into),
            offset: piece.offset,
            data: piece.data,
            header: piece.header.as_ref().map(Into::into),
        }
    }
}

impl TryFrom<v1::UploadOffsetRequest> for RoundId {
    type Error = Malformed;

    fn try_from(message: v1::UploadOffsetRequest) -> Result<Self, Malformed> {
        required("UploadOffsetRequest.round", message.round)?.try_into()
    }
}

impl From<&RoundId> for v1::UploadOffsetRequest {
    fn from(round: &RoundId) -> Self {
        Self { round: Some(round.into()) }
    }
}

/// A blob, from an offset in bytes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DownloadFrom {
    pub digest: Digest,
    pub offset: u64,
}

impl TryFrom<v1::DownloadRequest> for DownloadFrom {
    type Error = Malformed;

    fn try_from(message: v1::DownloadRequest) -> Result<Self, Malformed> {
        let digest = digest("DownloadRequest.sha256", &message.sha256)?;
        Ok(Self { digest, offset: message.offset })
    }
}

impl From<DownloadFrom> for v1::DownloadRequest {
    fn from(from: DownloadFrom) -> Self {
        Self { sha256: from.digest.0.to_vec(), offset: from.offset }
    }
}

/// One message of a download.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DownloadPiece {
    /// At most [`CHUNK`] bytes; empty only for an empty blob.
    pub data: Bytes,
    /// The whole length of the blob in bytes, in the first message.
    pub total: u64,
}

impl TryFrom<v1::DownloadChunk> for DownloadPiece {
    type Error = Malformed;

    fn try_from(message: v1::DownloadChunk) -> Result<Self, Malformed> {
        within("DownloadChunk.data", message.data.len(), CHUNK)?;
        Ok(Self { data: message.data, total: message.total })
    }
}

impl From<DownloadPiece> for v1::DownloadChunk {
    fn from(piece: DownloadPiece) -> Self {
        Self { data: piece.data, total: piece.total }
    }
}
