//! Vectors out and blobs in, piece by piece: a few MiB of memory whatever their length, and a broken
//! transfer goes on where it stopped.

use std::{
    error::Error,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use collegium_proto::{
    CHUNK,
    convert::{DownloadFrom, DownloadPiece, Malformed, Reason, UploadPiece},
    v1,
};
use collegium_shared::{
    blobs::{BlobError, Blobs, Writer},
    crypto::Digest,
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
use tokio_stream::{StreamExt, wrappers::ReceiverStream};

use super::{CALL, Link, LinkError, call, unreachable};

/// Pieces that are made ahead of the network, or received ahead of the disk.
const AHEAD: usize = 2;
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
struct Production<S> {
    /// For the first message.
    round: Option<RoundId>,
    offset: u64,
    total: u64,
    source: S,
    header: Signed<UploadHeader>,
    traffic: Arc<Traffic>,
    /// The most bytes of one message.
    most: usize,
}

impl<S, E> Production<S>
where
    S: FnMut(u64, &mut Vec<u8>) -> Result<(), E>,
    E: Into<Box<dyn Error + Send + Sync>>,
{
    /// Sends what is left and then the header. Stops without an error when nobody listens any more:
    /// then the call is over, and its result says why.
    fn run(
        mut self,
        pieces: &mpsc::Sender<v1::UploadChunk>,
    ) -> Result<(), Box<dyn Error + Send + Sync>> {
        while self.offset < self.total {
            let mut data = self.piece()?;
            while !data.is_empty() {
                let part = data.split_to(self.most.min(data.len()));
                let length = part.len() as u64;
                if !self.send(part, None, pieces) {
                    return Ok(());
                }
                self.offset += length;
            }
        }
        let header = self.header.clone();
        self.send(Bytes::new(), Some(header), pieces);
        Ok(())
    }

    /// False if nobody listens any more.
    fn send(
        &mut self,
        data: Bytes,
        header: Option<Signed<UploadHeader>>,
        pieces: &mpsc::Sender<v1::UploadChunk>,
    ) -> bool {
        let what = if header.is_some() { "upload header" } else { "upload piece" };
        let message = self.message(data, header);
        self.traffic.count(&message);
        faults::edge(format_args!("before send {what}"));
        let taken = pieces.blocking_send(message).is_ok();
        faults::edge(format_args!("after send {what}"));
        taken
    }

    fn piece(&mut self) -> Result<Bytes, Box<dyn Error + Send + Sync>> {
        let most = usize::try_from(self.total - self.offset).unwrap_or(CHUNK).min(CHUNK);
        let mut data = Vec::with_capacity(most);
        (self.source)(self.offset, &mut data).map_err(Into::into)?;
        match data.len() {
            given if given == 0 || given > most => {
                Err(BadPiece { offset: self.offset, given, most }.into())
            }
            _ => Ok(data.into()),
        }
    }

    fn message(&mut self, data: Bytes, header: Option<Signed<UploadHeader>>) -> v1::UploadChunk {
        UploadPiece { round: self.round.take(), offset: self.offset, data, header }.into()
    }
}

impl Link {
    /// Phase 3: sends the masked vector of `total` bytes, from where an earlier try stopped, and its
    /// signed header at the end. After [`LinkError::Unreachable`], call it again.
    ///
    /// `source` is given an offset and an empty buffer, and fills in 1 to [`CHUNK`] bytes from there
    /// on, not past the end. It runs on a blocking thread and may be dropped at any time.
    pub async fn upload<S, E>(
        &self,
        round: &RoundId,
        total: u64,
        source: S,
        header: &Signed<UploadHeader>,
    ) -> Result<(), LinkError>
    where
        S: FnMut(u64, &mut Vec<u8>) -> Result<(), E> + Send + 'static,
        E: Into<Box<dyn Error + Send + Sync>> + 'static,
    {
        let offset = self.upload_offset(round, total).await?;
        let header = header.clone();
        let round = Some(round.clone());
        let traffic = Arc::clone(&self.traffic);
        let most = self.up.portion(CHUNK);
        let production = Production { round, offset, total, source, header, traffic, most };
        let (pieces, made) = mpsc::channel(AHEAD);
        let (tell, mut told) = oneshot::channel();
        task::spawn_blocking(move || {
            // Told before `pieces` is dropped, which ends the call. If nobody listens, the call has
            // ended already.
            let _ = tell.send(production.run(&pieces));
        });
        let slowest = self.up.rate().map_or(SLOWEST, |rate| rate.min(SLOWEST));
        let deadline = CALL + Duration::from_secs((total - offset) / slowest);
        let up = Arc::clone(&self.up);
        let stream = ReceiverStream::new(made).then(move |message| {
            let up = Arc::clone(&up);
            async move {
                up.pass(message.data.len() as u64).await;
                message
            }
        });
        let answer = call("upload", deadline, self.federation().upload(stream)).await;
        match told.try_recv() {
            Ok(Err(error)) => Err(LinkError::Source(error)),
            Ok(Ok(())) | Err(TryRecvError::Empty) => answer.map(drop),
            Err(TryRecvError::Closed) => Err(LinkError::Source("its thread panicked".into())),
        }
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
    /// there already is not fetched again. What arrives is kept only if it has the digest.
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
        let (pieces, arrived) = mpsc::channel(AHEAD);
        let (writer, expected) = (into.writer(limit)?, *digest);
        let stored = task::spawn_blocking(move || store(writer, arrived, expected));
        self.receive_all(digest, limit, pieces).await?;
        joined(stored).await?.map_err(LinkError::from)
    }

    /// Receives a whole blob, over several calls if need be.
    async fn receive_all(
        &self,
        digest: &Digest,
        limit: u64,
        pieces: mpsc::Sender<Bytes>,
    ) -> Result<(), LinkError> {
        let mut progress = Progress { offset: 0, total: None, limit };
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
        pieces: &mpsc::Sender<Bytes>,
    ) -> Result<(), LinkError> {
        let from = DownloadFrom { digest: *digest, offset: progress.offset };
        let request = v1::DownloadRequest::from(from);
        let mut stream = call("download", CALL, self.federation().download(request)).await?;
        loop {
            let message = tokio::time::timeout(CALL, stream.message())
                .await
                .map_err(|_| unreachable("the download stands still"))??
                .ok_or_else(|| unreachable("the download ended early"))?;
            let data = progress.admit(DownloadPiece::try_from(message)?)?;
            // While this waits, the coordinator sends no more than a window ahead.
            self.down.pass(data.len() as u64).await;
            let done = progress.total == Some(progress.offset);
            if pieces.send(data).await.is_err() || done {
                return Ok(());
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

/// Writes what arrives. A transfer that was given up ends like a finished one, and is refused here
/// because its content has another digest.
fn store(
    mut writer: Writer,
    mut arrived: mpsc::Receiver<Bytes>,
    expected: Digest,
) -> Result<u64, BlobError> {
    while let Some(piece) = arrived.blocking_recv() {
        writer.append(&piece)?;
    }
    let length = writer.length();
    writer.finish(Some(expected))?;
    Ok(length)
}

/// The result of work on a blocking thread.
async fn joined<T>(work: JoinHandle<T>) -> Result<T, LinkError> {
    match work.await.map_err(task::JoinError::try_into_panic) {
        Ok(result) => Ok(result),
        Err(Ok(panic)) => std::panic::resume_unwind(panic),
        Err(Err(_)) => Err(unreachable("the agent is stopping")),
    }
}
