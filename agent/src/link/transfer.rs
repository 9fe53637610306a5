//! Vectors out and blobs in, piece by piece: a few MiB of memory whatever their length, and a broken
//! transfer goes on where it stopped.

use std::{
    collections::BTreeSet,
    error::Error,
    mem,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use collegium_proto::{
    CHUNK, PORTION,
    convert::{DownloadFrom, DownloadPiece, Malformed, Reason, UploadPiece},
    v1,
};
use collegium_shared::{
    blobs::{BlobError, Blobs, Partial},
    crypto::{Digest, Hasher},
    faults,
    ids::RoundId,
    protocol::UploadHeader,
    signed::Signed,
};
use prost::Message;
use thiserror::Error;
use tokio::{
    sync::{
        mpsc,
        oneshot::{self, error::TryRecvError},
    },
    task::{self, JoinHandle},
};
use tokio_stream::{Stream, StreamExt};
use tonic::Streaming;

use super::{CALL, Link, LinkError, call, unreachable};

/// Pieces that are made ahead of the network, or received ahead of the disk: of up to [`CHUNK`] bytes, so
/// that two threads seldom wait for each other.
const AHEAD: usize = 1;
/// How much of a download is handed to the disk at once, in bytes.
const GATHERED: usize = 4 * PORTION;
const GATHERED_PIECES: usize = 16;
/// The slowest line that an upload waits for, in bytes per second.
const SLOWEST: u64 = 64 << 10;
/// What gRPC puts before each message: a flag and its length.
const GRPC_PREFIX: u64 = 5;
/// Bytes of one masked value.
const WORD: u64 = 4;
/// How often one download goes on by itself after the line broke.
const RESUMPTIONS: u32 = 8;

/// A source of an upload that broke its contract.
#[derive(Debug, Error)]
#[error("{given} bytes at offset {offset}, where 1 to {most} were asked for")]
struct BadPiece {
    offset: u64,
    given: usize,
    most: usize,
}

/// How much of masked vectors was handed to the line since this process started.
#[derive(Debug, Default)]
pub struct Traffic {
    bytes: AtomicU64,
    values: AtomicU64,
}

impl Traffic {
    fn count(&self, message: &v1::UploadChunk) {
        let bytes = GRPC_PREFIX + message.encoded_len() as u64;
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        let values = message.data.len() as u64 / WORD;
        self.values.fetch_add(values, Ordering::Relaxed);
    }

    /// Bytes of the upload messages as they are encoded for gRPC, without HTTP/2's and TLS's own.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Values of the vectors that these messages carried.
    pub fn values(&self) -> u64 {
        self.values.load(Ordering::Relaxed)
    }
}

/// An upload on its way, on a thread of its own.
struct Production<S, H> {
    /// For the first message.
    round: Option<RoundId>,
    /// Where the coordinator wants it to go on.
    resumed: u64,
    total: u64,
    source: S,
    sign: H,
}

/// What stopped a production; `None` is that nobody listens any more.
type Stopped = Option<Box<dyn Error + Send + Sync>>;

impl<S, E, H> Production<S, H>
where
    S: FnMut(u64, &mut Vec<u8>) -> Result<(), E>,
    E: Into<Box<dyn Error + Send + Sync>>,
    H: FnOnce(Digest) -> Signed<UploadHeader>,
{
    /// Makes the whole vector once, hashes all of it, sends what the coordinator does not have, and
    /// then the header over the hash.
    fn run(mut self, pieces: &mpsc::Sender<UploadPiece>) -> Result<(), Stopped> {
        let (mut hasher, mut offset) = (Hasher::new(), 0);
        while offset < self.total {
            let mut data = self.piece(offset)?;
            hasher.update(&data);
            let end = offset + data.len() as u64;
            let known = self.resumed.clamp(offset, end);
            drop(data.split_to(usize::try_from(known - offset).unwrap_or(CHUNK)));
            if !data.is_empty() {
                let round = self.round.take();
                hand_over(UploadPiece { round, offset: known, data, header: None }, pieces)?;
            }
            if pieces.is_closed() {
                return Err(None);
            }
            offset = end;
        }
        let Self { round, sign, .. } = self;
        let header = sign(hasher.finish());
        hand_over(UploadPiece { round, offset, data: Bytes::new(), header: Some(header) }, pieces)
    }

    fn piece(&mut self, offset: u64) -> Result<Bytes, Stopped> {
        let most = usize::try_from(self.total - offset).unwrap_or(CHUNK).min(CHUNK);
        let mut data = Vec::with_capacity(most);
        (self.source)(offset, &mut data).map_err(|error| Some(error.into()))?;
        match data.len() {
            given if given == 0 || given > most => {
                Err(Some(BadPiece { offset, given, most }.into()))
            }
            _ => Ok(data.into()),
        }
    }
}

/// Gives a piece to the line, once it takes one.
fn hand_over(piece: UploadPiece, pieces: &mpsc::Sender<UploadPiece>) -> Result<(), Stopped> {
    let what = if piece.header.is_some() { "upload header" } else { "upload piece" };
    faults::edge(format_args!("before send {what}"));
    let taken = pieces.blocking_send(piece);
    faults::edge(format_args!("after send {what}"));
    taken.map_err(|_| None)
}

/// The messages of an upload, cut from the pieces.
struct Messages {
    pieces: mpsc::Receiver<UploadPiece>,
    /// What is left of the newest piece.
    rest: Option<UploadPiece>,
    /// The most bytes of a vector in one message.
    most: usize,
    traffic: Arc<Traffic>,
}

impl Stream for Messages {
    type Item = v1::UploadChunk;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<v1::UploadChunk>> {
        let mut piece = match self.rest.take() {
            Some(rest) => rest,
            None => match ready!(self.pieces.poll_recv(cx)) {
                Some(piece) => piece,
                None => return Poll::Ready(None),
            },
        };
        if piece.data.len() > self.most {
            let rest = piece.data.split_off(self.most);
            let offset = piece.offset + piece.data.len() as u64;
            self.rest =
                Some(UploadPiece { round: None, offset, data: rest, header: piece.header.take() });
        }
        let message = v1::UploadChunk::from(piece);
        self.traffic.count(&message);
        Poll::Ready(Some(message))
    }
}

impl Link {
    /// Phase 3: sends the masked vector of `total` bytes, from where an earlier try stopped, and its
    /// header at the end. After [`LinkError::Unreachable`], call it again.
    ///
    /// `source` is given an offset and an empty buffer, and fills in 1 to [`CHUNK`] bytes from there
    /// on, not past the end. It is asked for the whole vector once, from the start, in order; `sign` is
    /// given the SHA-256 of what it gave. Both run on a blocking thread and may be dropped at any time.
    pub async fn upload<S, E>(
        &self,
        round: &RoundId,
        total: u64,
        source: S,
        sign: impl FnOnce(Digest) -> Signed<UploadHeader> + Send + 'static,
    ) -> Result<(), LinkError>
    where
        S: FnMut(u64, &mut Vec<u8>) -> Result<(), E> + Send + 'static,
        E: Into<Box<dyn Error + Send + Sync>> + 'static,
    {
        let resumed = self.upload_offset(round, total).await?;
        let production = Production { round: Some(round.clone()), resumed, total, source, sign };
        let (pieces, mut made) = mpsc::channel(AHEAD);
        let (tell, mut told) = oneshot::channel();
        task::spawn_blocking(move || {
            // Told before `pieces` is dropped, which ends the call. If nobody listens, the call has
            // ended already.
            let _ = tell.send(production.run(&pieces));
        });
        // What is only hashed again takes its time: the call begins with the first piece that is sent.
        let answer = match made.recv().await {
            Some(first) => {
                let slowest = self.up.rate().map_or(SLOWEST, |rate| rate.min(SLOWEST));
                let deadline = CALL + Duration::from_secs((total - resumed) / slowest);
                let (most, traffic) = (self.up.portion(PORTION), Arc::clone(&self.traffic));
                let messages = Messages { pieces: made, rest: Some(first), most, traffic };
                let stream = self.paced(messages);
                call("upload", deadline, self.federation().upload(stream)).await.map(drop)
            }
            None => Err(LinkError::Source("it ended without a header".into())),
        };
        match told.try_recv() {
            Ok(Err(Some(error))) => Err(LinkError::Source(error)),
            Ok(Ok(()) | Err(None)) | Err(TryRecvError::Empty) => answer,
            Err(TryRecvError::Closed) => Err(LinkError::Source("its thread panicked".into())),
        }
    }

    /// The messages of an upload, no faster than the institution allows.
    fn paced(
        &self,
        messages: impl Stream<Item = v1::UploadChunk> + Send + 'static,
    ) -> impl Stream<Item = v1::UploadChunk> + Send + 'static {
        let up = Arc::clone(&self.up);
        messages.then(move |message| {
            let up = Arc::clone(&up);
            async move {
                up.pass(message.data.len() as u64).await;
                message
            }
        })
    }

    /// How much of the upload arrived before; never more than `total`.
    async fn upload_offset(&self, round: &RoundId, total: u64) -> Result<u64, LinkError> {
        let request = v1::UploadOffsetRequest::from(round);
        let offset =
            call("upload offset", CALL, self.federation().upload_offset(request)).await?.offset;
        if offset <= total {
            Ok(offset)
        } else {
            let field = "UploadOffsetReply.offset";
            Err(Malformed { field, reason: Reason::Contradiction }.into())
        }
    }

    /// Brings a blob of at most `limit` bytes into the store and returns its length. A blob that is
    /// there already is not fetched again; one of which a part is there is fetched from there on, even
    /// by another process. What arrives becomes a blob only if it has the digest.
    ///
    /// A line that breaks is taken up again here as long as every try brings something;
    /// [`LinkError::Unreachable`] says that the last one did not.
    pub async fn download(
        &self,
        digest: &Digest,
        limit: u64,
        into: &Blobs,
    ) -> Result<u64, LinkError> {
        if into.contains(digest) {
            return Ok(into.open_blob(digest)?.1);
        }
        let partial = opened(into, digest, limit, false).await?;
        let resumed = partial.length() > 0;
        match self.complete(digest, limit, partial).await {
            // Perhaps only what lay here before was no part of it.
            Err(LinkError::Store(BlobError::Unexpected { .. }) | LinkError::Malformed(_))
                if resumed =>
            {
                tracing::warn!(blob = %digest, "what was here of it is useless; fetching all of it");
                let partial = opened(into, digest, limit, true).await?;
                self.complete(digest, limit, partial).await
            }
            done => done,
        }
    }

    /// Fetches what is missing of a blob.
    async fn complete(
        &self,
        digest: &Digest,
        limit: u64,
        partial: Partial,
    ) -> Result<u64, LinkError> {
        let progress = Progress { offset: partial.length(), total: None, limit };
        let (pieces, arrived) = mpsc::channel(AHEAD);
        let stored = task::spawn_blocking(move || store(partial, arrived));
        let received = self.receive_all(digest, progress, pieces).await;
        let partial = joined(stored).await??;
        received?;
        Ok(joined(task::spawn_blocking(move || partial.finish())).await??)
    }

    /// Receives a whole blob, over several calls if need be.
    async fn receive_all(
        &self,
        digest: &Digest,
        mut progress: Progress,
        pieces: mpsc::Sender<Vec<Bytes>>,
    ) -> Result<(), LinkError> {
        for _ in 0..RESUMPTIONS {
            let before = progress.offset;
            match self.receive(digest, &mut progress, &pieces).await {
                Err(LinkError::Unreachable { .. }) if progress.offset > before => {}
                result => return result,
            }
        }
        self.receive(digest, &mut progress, &pieces).await
    }

    /// Receives from where `progress` stands to the end. Also ends, without an error, when the
    /// store takes no more: it says why itself.
    async fn receive(
        &self,
        digest: &Digest,
        progress: &mut Progress,
        pieces: &mpsc::Sender<Vec<Bytes>>,
    ) -> Result<(), LinkError> {
        let from = DownloadFrom { digest: *digest, offset: progress.offset };
        let request = v1::DownloadRequest::from(from);
        let mut stream = call("download", CALL, self.federation().download(request)).await?;
        let mut gathered = Vec::new();
        let ended = self.gather(&mut stream, progress, pieces, &mut gathered).await;
        // What arrived counts, even if the line broke behind it. A store that takes no more says why.
        drop(pieces.send(gathered).await);
        ended
    }

    /// Receives as [`Link::receive`] does; what is not handed to the store yet is in `gathered`.
    async fn gather(
        &self,
        stream: &mut Streaming<v1::DownloadChunk>,
        progress: &mut Progress,
        pieces: &mpsc::Sender<Vec<Bytes>>,
        gathered: &mut Vec<Bytes>,
    ) -> Result<(), LinkError> {
        let mut bytes = 0;
        loop {
            let message = tokio::time::timeout(CALL, stream.message())
                .await
                .map_err(|_| unreachable("the download stands still"))??
                .ok_or_else(|| unreachable("the download ended early"))?;
            let data = progress.admit(DownloadPiece::try_from(message)?)?;
            // While this waits, the coordinator sends no more than a window ahead.
            self.down.pass(data.len() as u64).await;
            bytes += data.len();
            gathered.push(data);
            if progress.total == Some(progress.offset) {
                return Ok(());
            }
            if bytes >= GATHERED || gathered.len() >= GATHERED_PIECES {
                bytes = 0;
                if pieces.send(mem::take(gathered)).await.is_err() {
                    return Ok(());
                }
            }
        }
    }
}

/// How far a download is.
struct Progress {
    offset: u64,
    /// What the first piece said.
    total: Option<u64>,
    limit: u64,
}

impl Progress {
    /// Accepts the next piece if it keeps within the length that was announced.
    fn admit(&mut self, piece: DownloadPiece) -> Result<Bytes, LinkError> {
        let DownloadPiece { data, total: announced } = piece;
        let refused = |field| Malformed { field, reason: Reason::Contradiction };
        let total = self.total.unwrap_or(announced);
        if total > self.limit {
            return Err(BlobError::TooLarge { limit: self.limit }.into());
        }
        if announced != 0 && announced != total {
            return Err(refused("DownloadChunk.total").into());
        }
        let end = self.offset.saturating_add(data.len() as u64);
        // An empty piece is the whole of an empty blob and nothing else, so that every message counts.
        if end > total || (data.is_empty() && end < total) {
            return Err(refused("DownloadChunk.data").into());
        }
        (self.offset, self.total) = (end, Some(total));
        Ok(data)
    }
}

/// What is here of a blob, or nothing of it.
async fn opened(
    blobs: &Blobs,
    digest: &Digest,
    limit: u64,
    anew: bool,
) -> Result<Partial, LinkError> {
    let (blobs, digest) = (blobs.clone(), *digest);
    let open = task::spawn_blocking(move || {
        if anew {
            blobs.retain_partials(&BTreeSet::new())?;
        }
        blobs.partial(&digest, limit)
    });
    Ok(joined(open).await??)
}

/// Writes what arrives, until nothing more does.
fn store(
    mut partial: Partial,
    mut arrived: mpsc::Receiver<Vec<Bytes>>,
) -> Result<Partial, BlobError> {
    while let Some(pieces) = arrived.blocking_recv() {
        pieces.iter().try_for_each(|piece| partial.append(piece))?;
    }
    Ok(partial)
}

/// The result of work on a blocking thread.
async fn joined<T>(work: JoinHandle<T>) -> Result<T, LinkError> {
    match work.await.map_err(task::JoinError::try_into_panic) {
        Ok(result) => Ok(result),
        Err(Ok(panic)) => std::panic::resume_unwind(panic),
        Err(Err(_)) => Err(unreachable("the agent is stopping")),
    }
}
