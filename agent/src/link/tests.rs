//! The link against a coordinator with canned answers, over plain loopback TCP.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use collegium_proto::{
    CHUNK, PORTION, PROTOCOL,
    convert::{DownloadFrom, DownloadPiece, UploadPiece},
    v1::federation_server::{Federation, FederationServer},
};
use collegium_shared::{
    blobs::{BlobError, Blobs},
    crypto::{Digest, Signature},
    protocol::UploadHeader,
};
use proptest::prelude::*;
use tokio::net::{TcpListener, TcpSocket};
use tokio_stream::{Stream, wrappers::TcpListenerStream};
use tonic::{Request, Streaming, transport::Server};

use super::*;

/// What the coordinator says, and what it was told.
#[derive(Default)]
struct Canned {
    poll: v1::PollReply,
    polled: Option<v1::PollRequest>,
    documents: v1::DocumentsReply,
    /// Answers every submission; `None` accepts it.
    refusal: Option<Status>,
    arrived: Vec<u8>,
    /// The length of each piece of an upload, over all calls.
    pieces: Vec<usize>,
    header: Option<Signed<UploadHeader>>,
    /// Breaks an upload or download when exactly this many bytes are through, so many times.
    breaks: BTreeMap<usize, u32>,
    /// How long an upload is left unread at first.
    stall: Duration,
    blob: Vec<u8>,
    /// The offsets that downloads asked for.
    asked: Vec<u64>,
}

impl Canned {
    /// The first place from `offset` to `end` where the line breaks now.
    fn breaks(&mut self, offset: usize, end: usize) -> Option<usize> {
        let (&at, times) = self.breaks.range_mut(offset..=end).next()?;
        *times -= 1;
        if *times == 0 {
            self.breaks.remove(&at);
        }
        Some(at)
    }

    fn acknowledge(&self) -> Result<Response<v1::Ack>, Status> {
        self.refusal.clone().map_or(Ok(Response::new(v1::Ack {})), Err)
    }

    /// The blob from `offset` on, in pieces, as far as the line holds.
    fn served(&mut self, offset: usize) -> Vec<Result<v1::DownloadChunk, Status>> {
        let total = self.blob.len();
        let broken = self.breaks(offset, total);
        let all = &self.blob[offset.min(total)..broken.unwrap_or(total)];
        let piece = |data: &[u8]| {
            let data = Bytes::copy_from_slice(data);
            Ok(DownloadPiece { data, total: total as u64 }.into())
        };
        let mut served: Vec<_> = all.chunks(CHUNK).map(piece).collect();
        if broken.is_some() {
            served.push(Err(Status::unavailable("the line broke")));
        } else if all.is_empty() {
            served.push(piece(&[]));
        }
        served
    }
}

#[derive(Clone, Default)]
struct Coordinator(Arc<Mutex<Canned>>);

impl Coordinator {
    fn canned(&self) -> std::sync::MutexGuard<'_, Canned> {
        self.0.lock().unwrap()
    }

    /// Serves on a port of its own and returns a link to it.
    async fn link(&self) -> Link {
        link_to(self.serve().await)
    }

    /// Serves on a port of its own.
    async fn serve(&self) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let service = FederationServer::new(self.clone());
        let server = Server::builder().add_service(service);
        tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
        address
    }
}

fn link_to(address: SocketAddr) -> Link {
    link_within(address, &Limits::default())
}

fn link_within(address: SocketAddr, limits: &Limits) -> Link {
    Link::new(&Route::plain(format!("http://{address}").parse().unwrap()), limits)
}

#[tonic::async_trait]
impl Federation for Coordinator {
    async fn poll(
        &self,
        poll: Request<v1::PollRequest>,
    ) -> Result<Response<v1::PollReply>, Status> {
        let mut canned = self.canned();
        canned.polled = Some(poll.into_inner());
        Ok(Response::new(canned.poll.clone()))
    }

    async fn submit_ready(
        &self,
        _: Request<v1::ReadyMessage>,
    ) -> Result<Response<v1::Ack>, Status> {
        self.canned().acknowledge()
    }

    async fn renew_certificate(
        &self,
        _: Request<v1::RenewRequest>,
    ) -> Result<Response<v1::RenewReply>, Status> {
        Err(Status::unimplemented("certificates do not matter here"))
    }

    async fn replace_identity(
        &self,
        _: Request<v1::ReplaceIdentityRequest>,
    ) -> Result<Response<v1::Ack>, Status> {
        Ok(Response::new(v1::Ack {}))
    }

    async fn authorities(
        &self,
        _: Request<v1::AuthoritiesRequest>,
    ) -> Result<Response<v1::AuthoritiesReply>, Status> {
        Ok(Response::new(v1::AuthoritiesReply::default()))
    }

    async fn submit_share(
        &self,
        _: Request<v1::ShareMessage>,
    ) -> Result<Response<v1::Ack>, Status> {
        self.canned().acknowledge()
    }

    async fn decline(&self, _: Request<v1::DeclineMessage>) -> Result<Response<v1::Ack>, Status> {
        self.canned().acknowledge()
    }

    async fn submit_vote(&self, _: Request<v1::VoteMessage>) -> Result<Response<v1::Ack>, Status> {
        self.canned().acknowledge()
    }

    async fn submit_reveal(
        &self,
        _: Request<v1::RevealMessage>,
    ) -> Result<Response<v1::Ack>, Status> {
        self.canned().acknowledge()
    }

    async fn upload_offset(
        &self,
        request: Request<v1::UploadOffsetRequest>,
    ) -> Result<Response<v1::UploadOffsetReply>, Status> {
        assert_eq!(RoundId::try_from(request.into_inner()).unwrap(), round());
        let offset = self.canned().arrived.len() as u64;
        Ok(Response::new(v1::UploadOffsetReply { offset }))
    }

    async fn upload(
        &self,
        request: Request<Streaming<v1::UploadChunk>>,
    ) -> Result<Response<v1::Ack>, Status> {
        let stall = self.canned().stall;
        tokio::time::sleep(stall).await;
        let mut stream = request.into_inner();
        let mut first = true;
        while let Some(message) = stream.message().await? {
            let piece = UploadPiece::try_from(message).unwrap();
            let mut canned = self.canned();
            assert_eq!(piece.round.is_some(), first, "the round is in the first message");
            assert_eq!(piece.offset, canned.arrived.len() as u64);
            first = false;
            let last = piece.data.len();
            canned.pieces.push(last);
            canned.arrived.extend_from_slice(&piece.data);
            if piece.header.is_some() {
                canned.header = piece.header;
                return canned.acknowledge();
            }
            let end = canned.arrived.len();
            if let Some(at) = canned.breaks(end - last, end) {
                canned.arrived.truncate(at);
                return Err(Status::unavailable("the line broke"));
            }
        }
        Err(Status::failed_precondition("no header"))
    }

    async fn documents(
        &self,
        _: Request<v1::DocumentsRequest>,
    ) -> Result<Response<v1::DocumentsReply>, Status> {
        Ok(Response::new(self.canned().documents.clone()))
    }

    type DownloadStream = Pin<Box<dyn Stream<Item = Result<v1::DownloadChunk, Status>> + Send>>;

    async fn download(
        &self,
        request: Request<v1::DownloadRequest>,
    ) -> Result<Response<Self::DownloadStream>, Status> {
        let DownloadFrom { digest, offset } = request.into_inner().try_into().unwrap();
        let mut canned = self.canned();
        if digest == Digest::of(b"nothing") {
            return Err(Status::not_found("no such blob"));
        }
        canned.asked.push(offset);
        let served = canned.served(usize::try_from(offset).unwrap());
        Ok(Response::new(Box::pin(tokio_stream::iter(served))))
    }
}

fn round() -> RoundId {
    RoundId { task: "kt".parse().unwrap(), round: 3, attempt: 1 }
}

fn signed<T>(body: T) -> Signed<T> {
    Signed { body, signature: Signature([7; 64]) }
}

fn upload_header(upload: Digest) -> Signed<UploadHeader> {
    let institution = "school-1".parse().unwrap();
    signed(UploadHeader { context: Digest([1; 32]), institution, upload })
}

fn vote() -> Signed<Vote> {
    let outcome = collegium_shared::protocol::Outcome::Abort { context: Digest([3; 32]) };
    signed(Vote { institution: "school-1".parse().unwrap(), outcome })
}

fn noise(length: usize) -> Vec<u8> {
    (0..length).map(|i| u8::try_from(i * i % 251).unwrap()).collect()
}

/// A source over `vector` that fills whole pieces.
fn pieces_of(
    vector: &[u8],
) -> impl FnMut(u64, &mut Vec<u8>) -> Result<(), std::io::Error> + Send + 'static {
    let vector = vector.to_vec();
    move |offset, piece| {
        let start = usize::try_from(offset).unwrap();
        piece.extend_from_slice(&vector[start..vector.len().min(start + CHUNK)]);
        Ok(())
    }
}

fn store() -> (tempfile::TempDir, Blobs) {
    let dir = tempfile::tempdir().unwrap();
    let blobs = Blobs::open(&dir.path().join("blobs")).unwrap();
    (dir, blobs)
}

#[tokio::test]
async fn an_upload_goes_on_where_it_stopped() {
    let coordinator = Coordinator::default();
    coordinator.canned().breaks = [(2 * CHUNK, 1)].into();
    let link = coordinator.link().await;
    let vector = noise(3 * CHUNK + 17);
    let total = vector.len() as u64;
    let round = round();
    let header = upload_header(Digest::of(&vector));
    let send = || link.upload(&round, total, pieces_of(&vector), upload_header);
    assert!(matches!(send().await, Err(LinkError::Unreachable { .. })));
    assert_eq!(coordinator.canned().arrived.len(), 2 * CHUNK);
    assert_eq!(coordinator.canned().header, None);
    send().await.unwrap();
    assert!(coordinator.canned().arrived == vector);
    let pieces = coordinator.canned().pieces.clone();
    assert_eq!(pieces[..3 * CHUNK / PORTION], [PORTION; 3 * CHUNK / PORTION]);
    assert_eq!(pieces[3 * CHUNK / PORTION..], [17, 0]);
    assert_eq!(coordinator.canned().header.as_ref(), Some(&header));
    // Everything is there already: the header alone is sent again.
    send().await.unwrap();
    assert_eq!(coordinator.canned().pieces[pieces.len()..], [0]);
}

#[tokio::test]
async fn an_upload_is_made_only_a_little_ahead_of_the_network() {
    let coordinator = Coordinator::default();
    coordinator.canned().stall = Duration::from_millis(300);
    let link = coordinator.link().await;
    let vector = noise(24 * CHUNK);
    let (made, seen) = (Arc::new(AtomicU64::new(0)), coordinator.clone());
    let most_ahead = made.clone();
    let mut pieces = pieces_of(&vector);
    let source = move |offset, piece: &mut Vec<u8>| {
        let ahead = offset - seen.canned().arrived.len() as u64;
        made.fetch_max(ahead, Ordering::Relaxed);
        pieces(offset, piece)
    };
    link.upload(&round(), vector.len() as u64, source, upload_header).await.unwrap();
    assert!(coordinator.canned().arrived == vector);
    assert!(most_ahead.load(Ordering::Relaxed) <= 8 * CHUNK as u64);
}

#[tokio::test]
async fn limits_slow_vectors_and_blobs_down_and_change_nothing_else() {
    let (_dir, blobs) = store();
    let coordinator = Coordinator::default();
    let address = coordinator.serve().await;
    let (upload_kib_per_second, download_kib_per_second) = (256, 512);
    let limits = Limits { upload_kib_per_second, download_kib_per_second, ..Limits::default() };
    let link = link_within(address, &limits);
    let vector = noise(384 << 10);
    let start = tokio::time::Instant::now();
    link.upload(&round(), vector.len() as u64, pieces_of(&vector), upload_header).await.unwrap();
    assert!(coordinator.canned().arrived == vector);
    assert!(coordinator.canned().pieces.iter().all(|piece| *piece <= 64 << 10), "small pieces");
    // Half a second's worth passes at once.
    assert!(start.elapsed() >= Duration::from_millis(999), "{:?}", start.elapsed());
    coordinator.canned().blob = noise(CHUNK);
    let start = tokio::time::Instant::now();
    link.download(&Digest::of(&noise(CHUNK)), 1 << 30, &blobs).await.unwrap();
    assert!(start.elapsed() >= Duration::from_millis(1_499), "{:?}", start.elapsed());
}

#[tokio::test]
async fn an_upload_that_cannot_be_made_sends_no_header() {
    let coordinator = Coordinator::default();
    let link = coordinator.link().await;
    let fails = |_, _: &mut Vec<u8>| Err(std::io::Error::other("the disk is gone"));
    let failed = link.upload(&round(), 5, fails, upload_header).await.unwrap_err();
    assert!(matches!(&failed, LinkError::Source(_)), "{failed}");
    assert!(failed.to_string().contains("the disk is gone"));
    for length in [0, 6] {
        let source = move |_, piece: &mut Vec<u8>| -> Result<(), std::io::Error> {
            piece.resize(length, 0);
            Ok(())
        };
        let failed = link.upload(&round(), 5, source, upload_header).await;
        assert!(matches!(failed, Err(LinkError::Source(_))), "a piece of {length} bytes");
    }
    assert_eq!(coordinator.canned().header, None);
    // More than there is to send cannot have arrived.
    coordinator.canned().arrived = vec![0; 6];
    let failed = link.upload(&round(), 5, pieces_of(&[0; 5]), upload_header).await;
    assert!(matches!(failed, Err(LinkError::Malformed(_))));
}

#[tokio::test]
async fn a_download_survives_a_broken_line_and_is_fetched_once() {
    let (_dir, blobs) = store();
    let coordinator = Coordinator::default();
    let blob = noise(2 * CHUNK + 5);
    let digest = Digest::of(&blob);
    coordinator.canned().blob = blob.clone();
    coordinator.canned().breaks = [(CHUNK, 1)].into();
    let link = coordinator.link().await;
    for _ in 0..2 {
        let length = link.download(&digest, 4 * CHUNK as u64, &blobs).await.unwrap();
        assert_eq!(length, blob.len() as u64);
    }
    assert_eq!(coordinator.canned().asked, [0, CHUNK as u64]);
    assert!(blobs.read(&digest, u64::MAX).unwrap() == blob);
    coordinator.canned().blob = Vec::new();
    assert_eq!(link.download(&Digest::of(b""), 0, &blobs).await.unwrap(), 0);
}

#[tokio::test]
async fn a_download_keeps_only_what_was_promised() {
    let (_dir, blobs) = store();
    let coordinator = Coordinator::default();
    coordinator.canned().blob = b"something else".to_vec();
    let link = coordinator.link().await;
    let digest = Digest::of(b"model");
    let wrong = link.download(&digest, 100, &blobs).await.unwrap_err();
    assert!(matches!(&wrong, LinkError::Store(BlobError::Unexpected { .. })), "{wrong}");
    assert!(wrong.to_string().contains(&digest.to_string()));
    let large = link.download(&digest, 5, &blobs).await;
    assert!(matches!(large, Err(LinkError::Store(BlobError::TooLarge { limit: 5 }))));
    let missing = link.download(&Digest::of(b"nothing"), 5, &blobs).await;
    assert!(matches!(missing, Err(LinkError::NotFound { .. })));
    assert!(blobs.digests().unwrap().is_empty());
}

#[tokio::test]
async fn what_was_here_and_was_no_part_of_the_blob_is_fetched_again() {
    let (_dir, blobs) = store();
    let coordinator = Coordinator::default();
    let blob = noise(CHUNK + 9);
    let digest = Digest::of(&blob);
    coordinator.canned().blob = blob.clone();
    let link = coordinator.link().await;
    for poison in [7, blob.len(), blob.len() + 5] {
        let mut partial = blobs.partial(&digest, u64::MAX).unwrap();
        partial.append(&vec![0; poison]).unwrap();
        drop(partial);
        coordinator.canned().asked.clear();
        let length = link.download(&digest, 2 * CHUNK as u64, &blobs).await.unwrap();
        assert_eq!(length, blob.len() as u64);
        assert_eq!(coordinator.canned().asked, [poison as u64, 0]);
        assert!(blobs.read(&digest, u64::MAX).unwrap() == blob);
        blobs.remove(&digest).unwrap();
    }
}

/// Places where the line breaks, and whether the agent starts anew there.
fn breaks(length: usize) -> impl Strategy<Value = BTreeMap<usize, u32>> {
    proptest::collection::btree_map(0..length, 1..=2_u32, 0..5)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// The second break in a row at one place, with nothing through in between, ends the call; the
    /// next one comes from another process.
    #[test]
    fn a_download_goes_on_wherever_the_line_breaks(
        (length, breaks) in (1..2 * CHUNK + 99).prop_flat_map(|l| (Just(l), breaks(l))),
    ) {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let (dir, _) = store();
        let blob = noise(length);
        let digest = Digest::of(&blob);
        let coordinator = Coordinator::default();
        coordinator.canned().blob = blob.clone();
        coordinator.canned().breaks = breaks.clone();
        let stored = runtime.block_on(async {
            loop {
                let blobs = Blobs::open(&dir.path().join("blobs")).unwrap();
                let link = coordinator.link().await;
                match link.download(&digest, length as u64, &blobs).await {
                    Ok(_) => break blobs,
                    Err(LinkError::Unreachable { .. }) => {}
                    Err(other) => panic!("{other}"),
                }
            }
        });
        prop_assert!(stored.read(&digest, u64::MAX).unwrap() == blob);
        let asked = coordinator.canned().asked.clone();
        prop_assert!(asked.is_sorted(), "nothing is fetched twice: {asked:?}");
        let expected = 1 + breaks.values().sum::<u32>() as usize;
        prop_assert_eq!(asked.len(), expected);
    }

    #[test]
    fn an_upload_goes_on_wherever_the_line_breaks(
        (length, breaks) in (1..2 * CHUNK + 99).prop_flat_map(|l| (Just(l), breaks(l))),
    ) {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let vector = noise(length);
        let coordinator = Coordinator::default();
        coordinator.canned().breaks = breaks;
        runtime.block_on(async {
            loop {
                let link = coordinator.link().await;
                let source = pieces_of(&vector);
                match link.upload(&round(), length as u64, source, upload_header).await {
                    Ok(()) => break,
                    Err(LinkError::Unreachable { .. }) => {}
                    Err(other) => panic!("{other}"),
                }
            }
        });
        let canned = coordinator.canned();
        prop_assert!(canned.arrived == vector);
        let header = upload_header(Digest::of(&vector));
        prop_assert_eq!(canned.header.as_ref(), Some(&header), "over all of it, sent or not");
    }
}

#[tokio::test]
async fn a_download_that_brings_nothing_is_given_up() {
    let (_dir, blobs) = store();
    let coordinator = Coordinator::default();
    coordinator.canned().blob = b"model".to_vec();
    coordinator.canned().breaks = [(0, 1)].into();
    let link = coordinator.link().await;
    let broken = link.download(&Digest::of(b"model"), 5, &blobs).await;
    assert!(matches!(broken, Err(LinkError::Unreachable { .. })));
    assert_eq!(coordinator.canned().asked, [0]);
}

#[tokio::test]
async fn a_poll_says_what_is_held_and_keeps_its_cursor_without_news() {
    let coordinator = Coordinator::default();
    let link = coordinator.link().await;
    let polled = link.poll("c7", Some((round(), Phase::Vote)), true).await.unwrap();
    assert_eq!(polled, Polled { cursor: "c7".into(), ..Polled::default() });
    let asked = coordinator.canned().polled.clone().unwrap();
    assert_eq!((asked.protocol, asked.cursor.as_str()), (PROTOCOL, "c7"));
    assert_eq!(asked.held_phase(), v1::Phase::Vote);
    let digest = Digest([9; 32]);
    coordinator.canned().poll =
        v1::PollReply { cursor: "c8".into(), roster: digest.0.to_vec(), ..Default::default() };
    let polled = link.poll("c7", None, false).await.unwrap();
    assert_eq!((polled.cursor.as_str(), polled.roster), ("c8", Some(digest)));
}

#[tokio::test]
async fn garbage_is_malformed() {
    let coordinator = Coordinator::default();
    coordinator.canned().poll =
        v1::PollReply { cursor: "c".into(), roster: vec![1, 2, 3], ..Default::default() };
    coordinator.canned().documents =
        v1::DocumentsReply { roster: b"{\"body\": 7}".to_vec(), registry: Vec::new() };
    let link = coordinator.link().await;
    let polled = link.poll("", None, false).await.unwrap_err();
    assert!(matches!(&polled, LinkError::Malformed(_)), "{polled}");
    assert!(polled.to_string().contains("PollReply.roster"));
    assert!(matches!(link.documents().await, Err(LinkError::Malformed(_))));
    coordinator.canned().documents = v1::DocumentsReply::default();
    assert_eq!(link.documents().await.unwrap(), Documents::default());
}

#[tokio::test]
async fn a_refusal_is_told_apart_from_trouble() {
    let coordinator = Coordinator::default();
    let link = coordinator.link().await;
    link.vote(&vote()).await.unwrap();
    let answer = |status| coordinator.canned().refusal = Some(status);
    answer(Status::failed_precondition("the vote\nis over"));
    let refused = link.vote(&vote()).await;
    let Err(LinkError::Refused { code, message }) = refused else { panic!("not refused") };
    assert_eq!((code, message.as_str()), (Code::FailedPrecondition, "the vote is over"));
    for trouble in [Status::unavailable("x"), Status::internal("x"), Status::unknown("x")] {
        answer(trouble);
        assert!(matches!(link.vote(&vote()).await, Err(LinkError::Unreachable { .. })));
    }
}

#[tokio::test]
async fn a_coordinator_that_is_away_is_unreachable_until_it_is_back() {
    // Holds the port without listening on it.
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = socket.local_addr().unwrap();
    let link = link_to(address);
    let away = link.poll("", None, false).await.unwrap_err();
    let LinkError::Unreachable { reason } = away else { panic!("{away}") };
    assert!(reason.contains("refused"), "{reason}");
    let listener = socket.listen(8).unwrap();
    let server = Server::builder().add_service(FederationServer::new(Coordinator::default()));
    tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
    assert!(link.poll("", None, false).await.is_ok());
}

#[tokio::test]
async fn a_call_without_an_answer_ends() {
    let never = std::future::pending::<Result<Response<()>, Status>>();
    let late = call("poll", Duration::from_secs(1), never).await.unwrap_err();
    assert_eq!(late.to_string(), "the coordinator cannot be reached: no answer within 1 s");
}
