//! A coordinator that serves whatever an attack wants, on the real wire and under the real one's
//! certificate authority: it shows every institution a view of its own and keeps every byte that it is sent.
//! Checks nothing, journals nothing, and keeps to no protocol.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::Path,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use anyhow::Context;
use collegium_coordinator::{
    ca::{Ca, InForce},
    listener::{self, Limits},
};
use collegium_proto::{
    MAX_MESSAGE,
    convert::{Documents, DownloadFrom, DownloadPiece, Polled, UploadPiece},
    v1::{
        self,
        federation_server::{Federation, FederationServer},
    },
};
use collegium_shared::{
    clock::Clock,
    crypto::Digest,
    ids::InstitutionId,
    protocol::{
        Decline, Ready, RevealHeader, RoundView, ShareBody, ShareHeader, UploadHeader, Vote,
    },
    secagg::SharePiece,
    signed::{Signed, Statement},
};
use tokio::{runtime::Runtime, sync::watch};
use tokio_stream::Stream;
use tonic::{Request, Response, Status, Streaming};

/// How long a poll without news stays open.
const PATIENCE: Duration = Duration::from_secs(20);

/// What one institution is shown.
#[derive(Clone, Default)]
pub(super) struct Shown {
    pub(super) documents: Documents,
    pub(super) round: Option<RoundView>,
    pub(super) release: Option<Digest>,
}

/// What the institutions sent, in the order of its arrival.
#[derive(Default)]
pub(super) struct Heard {
    pub(super) ready: Vec<Signed<Ready>>,
    pub(super) shares: Vec<(Signed<ShareHeader>, ShareBody)>,
    /// With the masked vector, as words.
    pub(super) uploads: Vec<(Signed<UploadHeader>, Vec<u32>)>,
    pub(super) votes: Vec<Signed<Vote>>,
    pub(super) reveals: Vec<(Signed<RevealHeader>, Vec<SharePiece>)>,
    pub(super) declines: Vec<Signed<Decline>>,
}

#[derive(Default)]
struct State {
    /// Each with the number of its last change.
    shown: BTreeMap<InstitutionId, (u64, Shown)>,
    changes: u64,
    blobs: BTreeMap<Digest, Vec<u8>>,
    heard: Heard,
}

/// The malicious coordinator; it ends when this is dropped.
pub(super) struct Malicious {
    state: Arc<Mutex<State>>,
    changed: watch::Sender<u64>,
    runtime: Runtime,
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Malicious {
    /// In place of the coordinator of `dir`, at its address.
    pub(super) fn start(dir: &Path, address: SocketAddr) -> anyhow::Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .context("no threads for the malicious coordinator")?;
        let (state, (changed, changes)) = (Arc::<Mutex<State>>::default(), watch::channel(0));
        let names = watch::channel(vec!["127.0.0.1".to_owned()]).1;
        let (ca, clock) = (InForce::new(Ca::load(dir)?), Clock::system());
        let entered = runtime.enter();
        let tls = listener::tls_config(ca, names, clock, Arc::new(|_| false))?;
        let incoming = runtime.block_on(listener::bind(address, tls, Limits::default()))?.1;
        let service = FederationServer::new(Service { state: Arc::clone(&state), changes })
            .max_decoding_message_size(MAX_MESSAGE)
            .max_encoding_message_size(MAX_MESSAGE);
        let server = tonic::transport::Server::builder().add_service(service);
        runtime.spawn(server.serve_with_incoming(incoming));
        drop(entered);
        Ok(Self { state, changed, runtime })
    }

    /// For what needs a runtime around it.
    pub(super) fn runtime(&self) -> &Runtime {
        &self.runtime
    }

    /// Changes what one institution is shown; its open poll is answered.
    pub(super) fn show(&self, to: &InstitutionId, change: impl FnOnce(&mut Shown)) {
        let mut state = lock(&self.state);
        state.changes += 1;
        let number = state.changes;
        let (changed, shown) = state.shown.entry(to.clone()).or_default();
        *changed = number;
        change(shown);
        drop(state);
        self.changed.send_replace(number);
    }

    /// Has these bytes ready for whoever asks.
    pub(super) fn put(&self, bytes: Vec<u8>) -> Digest {
        let digest = Digest::of(&bytes);
        lock(&self.state).blobs.insert(digest, bytes);
        digest
    }

    /// Looks at all that was sent so far.
    pub(super) fn heard<T>(&self, look: impl FnOnce(&Heard) -> T) -> T {
        look(&lock(&self.state).heard)
    }
}

/// The newest of `statements` by this institution that is as wanted.
pub(super) fn newest<'a, T: Statement + 'a>(
    mut statements: impl DoubleEndedIterator<Item = &'a Signed<T>>,
    wanted: impl Fn(&T) -> bool,
) -> Option<&'a Signed<T>> {
    statements.rfind(|statement| wanted(&statement.body))
}

struct Service {
    state: Arc<Mutex<State>>,
    changes: watch::Receiver<u64>,
}

type Answer<T> = Result<Response<T>, Status>;

fn malformed(error: impl std::fmt::Display) -> Status {
    Status::invalid_argument(error.to_string())
}

fn caller<T>(request: &Request<T>) -> Result<InstitutionId, Status> {
    let peer = listener::peer(request).ok_or_else(|| Status::unauthenticated("who is there?"))?;
    Ok(peer.institution)
}

impl Service {
    fn keep(&self, note: impl FnOnce(&mut Heard)) -> Answer<v1::Ack> {
        note(&mut lock(&self.state).heard);
        Ok(Response::new(v1::Ack {}))
    }

    fn shown(&self, to: &InstitutionId) -> (u64, Shown) {
        lock(&self.state).shown.get(to).cloned().unwrap_or_default()
    }
}

#[tonic::async_trait]
impl Federation for Service {
    type DownloadStream = Pin<Box<dyn Stream<Item = Result<v1::DownloadChunk, Status>> + Send>>;

    async fn poll(&self, request: Request<v1::PollRequest>) -> Answer<v1::PollReply> {
        let (who, cursor) = (caller(&request)?, request.into_inner().cursor);
        let news = async {
            let mut changes = self.changes.clone();
            loop {
                changes.mark_unchanged();
                let (number, shown) = self.shown(&who);
                if number.to_string() != cursor {
                    return Some((number, shown));
                }
                changes.changed().await.ok()?;
            }
        };
        let Ok(Some((number, shown))) = tokio::time::timeout(PATIENCE, news).await else {
            return Ok(Response::new(v1::PollReply::default()));
        };
        let Shown { documents, round, release } = shown;
        let polled = Polled {
            cursor: number.to_string(),
            roster: documents.roster.map(|roster| roster.digest()),
            release,
            round,
            ..Polled::default()
        };
        Ok(Response::new(v1::PollReply::from(&polled)))
    }

    async fn documents(
        &self,
        request: Request<v1::DocumentsRequest>,
    ) -> Answer<v1::DocumentsReply> {
        let (_, Shown { documents, .. }) = self.shown(&caller(&request)?);
        Ok(Response::new(v1::DocumentsReply::from(&documents)))
    }

    async fn submit_ready(&self, request: Request<v1::ReadyMessage>) -> Answer<v1::Ack> {
        let ready = request.into_inner().try_into().map_err(malformed)?;
        self.keep(|heard| heard.ready.push(ready))
    }

    async fn submit_share(&self, request: Request<v1::ShareMessage>) -> Answer<v1::Ack> {
        let share = request.into_inner().try_into().map_err(malformed)?;
        self.keep(|heard| heard.shares.push(share))
    }

    async fn decline(&self, request: Request<v1::DeclineMessage>) -> Answer<v1::Ack> {
        let decline = request.into_inner().try_into().map_err(malformed)?;
        self.keep(|heard| heard.declines.push(decline))
    }

    async fn submit_vote(&self, request: Request<v1::VoteMessage>) -> Answer<v1::Ack> {
        let vote = request.into_inner().try_into().map_err(malformed)?;
        self.keep(|heard| heard.votes.push(vote))
    }

    async fn submit_reveal(&self, request: Request<v1::RevealMessage>) -> Answer<v1::Ack> {
        let reveal = request.into_inner().try_into().map_err(malformed)?;
        self.keep(|heard| heard.reveals.push(reveal))
    }

    async fn upload_offset(
        &self,
        _: Request<v1::UploadOffsetRequest>,
    ) -> Answer<v1::UploadOffsetReply> {
        Ok(Response::new(v1::UploadOffsetReply { offset: 0 }))
    }

    async fn upload(&self, request: Request<Streaming<v1::UploadChunk>>) -> Answer<v1::Ack> {
        let (mut stream, mut bytes, mut header) = (request.into_inner(), Vec::new(), None);
        while let Some(message) = stream.message().await? {
            let piece = UploadPiece::try_from(message).map_err(malformed)?;
            bytes.extend_from_slice(&piece.data);
            header = piece.header.or(header);
        }
        let header = header.ok_or_else(|| malformed("an upload without a header"))?;
        let (words, _) = bytes.as_chunks::<4>();
        let words = words.iter().map(|word| u32::from_le_bytes(*word)).collect();
        self.keep(|heard| heard.uploads.push((header, words)))
    }

    async fn download(
        &self,
        request: Request<v1::DownloadRequest>,
    ) -> Answer<Self::DownloadStream> {
        let wanted = DownloadFrom::try_from(request.into_inner()).map_err(malformed)?;
        let found = lock(&self.state).blobs.get(&wanted.digest).cloned();
        let bytes = found.ok_or_else(|| Status::not_found("no such blob"))?;
        let total = bytes.len() as u64;
        let start = usize::try_from(wanted.offset).unwrap_or(usize::MAX).min(bytes.len());
        let piece = DownloadPiece { total, data: bytes[start..].to_vec().into() };
        Ok(Response::new(Box::pin(tokio_stream::once(Ok(v1::DownloadChunk::from(piece))))))
    }

    async fn renew_certificate(&self, _: Request<v1::RenewRequest>) -> Answer<v1::RenewReply> {
        Err(Status::unavailable("not here"))
    }

    async fn authorities(
        &self,
        _: Request<v1::AuthoritiesRequest>,
    ) -> Answer<v1::AuthoritiesReply> {
        Err(Status::unavailable("not here"))
    }

    async fn replace_identity(&self, _: Request<v1::ReplaceIdentityRequest>) -> Answer<v1::Ack> {
        Err(Status::unavailable("not here"))
    }
}
