//! What somebody without a certificate can do to the coordinator while its members are at work: a
//! gigabyte in one message, a thousand connections, half of them stuck in their handshake. The
//! coordinator's memory stays bounded, and the round is not disturbed.

use std::{
    convert::Infallible,
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use collegium_shared::{protocol::Cohort, token::TokenFile};
use collegium_tests::{
    participant::channel,
    testbed::{LIMIT, Testbed},
};
use hyper::body::{Body as HttpBody, Frame};
use tokio::{
    io::AsyncWriteExt,
    net::{TcpSocket, TcpStream},
    task::JoinSet,
};
use tonic::{
    Code, Status,
    body::Body,
    codegen::{Service, http},
    transport::Channel,
};

use crate::{random::seed, sum::a_round_completes};

const GIB: u64 = 1 << 30;
/// What strangers together may make the coordinator's memory grow by.
const MOST_GROWTH: u64 = 64 << 20;
const MEMBERS: usize = 4;
const COHORT: Cohort = Cohort { c_max: 1, min_honest: 2 };
const DIMENSION: usize = 10_000;

/// One gRPC message of a gigabyte of zeros, made while it is sent.
struct Gigabyte {
    sent: Arc<AtomicU64>,
}

impl HttpBody for Gigabyte {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        static ZEROS: [u8; 32 << 10] = [0; 32 << 10];
        let sent = self.sent.load(Ordering::Relaxed);
        let data = match sent {
            // Not compressed, and how long it is.
            0 => Bytes::from_static(&[0, 0x40, 0, 0, 0]),
            sent if sent < GIB => Bytes::from_static(&ZEROS),
            _ => return Poll::Ready(None),
        };
        self.sent.fetch_add(data.len() as u64, Ordering::Relaxed);
        Poll::Ready(Some(Ok(Frame::data(data))))
    }
}

/// Sends a gigabyte to `path`; what the coordinator answers, and how much it let come.
async fn send_gigabyte(mut channel: Channel, path: &str) -> (Code, u64) {
    let sent = Arc::<AtomicU64>::default();
    let body = Body::new(Gigabyte { sent: Arc::clone(&sent) });
    let request = http::Request::post(path)
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(body)
        .unwrap();
    std::future::poll_fn(|cx| channel.poll_ready(cx)).await.unwrap();
    let answer = tokio::time::timeout(LIMIT, channel.call(request)).await.unwrap();
    let code = match answer {
        Ok(answer) => Status::from_header_map(answer.headers()).unwrap().code(),
        // The stream was reset before the answer was read.
        Err(error) => Status::from_error(error.into()).code(),
    };
    (code, sent.load(Ordering::Relaxed))
}

/// A connection from another address of the loopback, in the middle of its handshake for ever.
async fn stall(port: u16, number: u8) -> Option<TcpStream> {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::from(([127, 0, 1, number], 0))).unwrap();
    let mut stream = socket.connect(SocketAddr::from(([127, 0, 0, 1], port))).await.ok()?;
    // The start of a TLS record that says it has 512 bytes.
    stream.write_all(&[22, 3, 1, 2, 0, 1]).await.ok()?;
    Some(stream)
}

/// A network whose coordinator runs in a process of its own, and an invitation that shows its CA.
async fn bed_apart() -> (Testbed, TokenFile) {
    let mut bed = Testbed::start(MEMBERS, DIMENSION).await.unwrap();
    let invitation = bed.invite("stranger").await.unwrap();
    bed.stop().await.unwrap();
    bed.serve_apart().await.unwrap();
    (bed, invitation)
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gigabyte_from_a_stranger_is_refused_early() {
    let (bed, invitation) = bed_apart().await;
    let before = bed.peak_rss().unwrap();
    let stranger = channel(&bed.url(), &invitation.ca_certificate, None).unwrap();
    let (code, sent) = send_gigabyte(stranger.clone(), "/collegium.v1.Enrolment/Enrol").await;
    println!("enrolment: {code:?} after {:.2} MiB", mib(sent));
    assert!(matches!(code, Code::OutOfRange | Code::Cancelled | Code::Unknown), "{code:?}");
    assert!(sent < 8 << 20, "{sent} bytes were let in");
    for path in ["SubmitShare", "Upload", "Poll"] {
        let path = format!("/collegium.v1.Federation/{path}");
        let (code, sent) = send_gigabyte(stranger.clone(), &path).await;
        println!("{path}: {code:?} after {:.2} MiB", mib(sent));
        assert!(sent < 8 << 20, "{sent} bytes were let in");
    }
    let growth = bed.peak_rss().unwrap() - before;
    println!("the coordinator's memory grew by {:.1} MiB", mib(growth));
    assert!(growth <= MOST_GROWTH, "{growth} bytes");
    a_round_completes(&bed, COHORT, seed()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_strangers_do_not_disturb_a_round() {
    let (bed, invitation) = bed_apart().await;
    let before = bed.peak_rss().unwrap();
    let mut stalled = Vec::new();
    for number in 0..500_u16 {
        // Ten addresses, so that no limit for one address keeps them out.
        stalled.push(stall(bed.port(), u8::try_from(number % 10).unwrap() + 1).await);
    }
    let mut strangers = JoinSet::new();
    for _ in 0..500 {
        let channel = channel(&bed.url(), &invitation.ca_certificate, None).unwrap();
        strangers.spawn(send_empty(channel));
    }
    let seed = seed();
    tokio::time::timeout(LIMIT, a_round_completes(&bed, COHORT, seed))
        .await
        .expect("a round in time");
    let open = stalled.iter().flatten().count();
    let served = strangers.join_all().await.into_iter().filter(Option::is_some).count();
    let growth = bed.peak_rss().unwrap() - before;
    println!(
        "{open} stalled and 500 whole connections, {served} of them served: the coordinator's \
         memory grew by {:.1} MiB, a round included",
        mib(growth)
    );
    assert_eq!(open, 500);
    assert!(growth <= MOST_GROWTH, "{growth} bytes");
}

/// Asks for enrolment with nothing and keeps the connection; none if there was no answer.
async fn send_empty(channel: Channel) -> Option<(Channel, Status)> {
    use collegium_proto::v1::{EnrolRequest, enrolment_client::EnrolmentClient};
    let mut client = EnrolmentClient::new(channel.clone());
    let asked =
        tokio::time::timeout(Duration::from_secs(30), client.enrol(EnrolRequest::default()));
    match asked.await {
        Ok(Err(status)) if status.code() == Code::InvalidArgument => Some((channel, status)),
        _ => None,
    }
}
