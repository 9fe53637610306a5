//! What a member with a good certificate can do to the coordinator by being slow: it takes no answers,
//! reads nothing, says nothing, or sends byte by byte. It is cut, what it holds stays bounded, and the
//! others notice nothing.

use std::time::Duration;

use collegium_proto::{convert::PollQuery, v1};
use collegium_shared::protocol::Cohort;
use collegium_tests::{
    participant::Participant,
    raw_peer::{
        DATA, END_STREAM, Frame, HEADERS, RawPeer, Reading, WINDOW_UPDATE, frame, ping, preface,
    },
    testbed::{LIMIT, Testbed},
};
use prost::Message;

use crate::{random::seed, sum::a_round_completes};

const MEMBERS: usize = 3;
const COHORT: Cohort = Cohort { c_max: 0, min_honest: 2 };
/// Between the bytes of those that drip.
const PAUSE: Duration = Duration::from_millis(50);
/// What a member that holds as much as it can may make the coordinator's memory grow by.
const MOST_GROWTH: u64 = 192 << 20;
/// Calls of one institution.
const CALLS: usize = 16;

/// A network whose coordinator runs in a process of its own and waits so many seconds for anybody.
async fn bed(dimension: usize, stall_seconds: u32) -> Testbed {
    let mut bed = Testbed::start(MEMBERS, dimension).await.unwrap();
    bed.stop().await.unwrap();
    let config = bed.coordinator_dir().join("coordinator.toml");
    let text = std::fs::read_to_string(&config).unwrap();
    let impatient = text.replace("stall_seconds = 60", &format!("stall_seconds = {stall_seconds}"));
    std::fs::write(&config, impatient).unwrap();
    bed.serve_apart().await.unwrap();
    bed
}

async fn peer(bed: &Testbed, member: &Participant, reading: Reading) -> RawPeer {
    let ca = std::fs::read_to_string(bed.coordinator_dir().join("ca.pem")).unwrap();
    RawPeer::connect(bed.port(), &ca, member.first_credentials().unwrap(), reading).await.unwrap()
}

fn path(call: &str) -> String {
    format!("/collegium.v1.Federation/{call}")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_takes_no_answers_is_cut() {
    let bed = bed(1_000, 3).await;
    let poll = PollQuery { cursor: String::new(), held: None, instance: None, away: false };
    let poll = v1::PollRequest::from(&poll).encode_to_vec();
    let empty = Vec::new();
    for (call, message, window) in
        [("Documents", &empty, 0), ("Documents", &empty, 1), ("Poll", &poll, 1)]
    {
        let mut peer = peer(&bed, &bed.members[0], Reading::Answering).await;
        peer.greet(window).await.unwrap();
        for stream in [1, 3, 5] {
            peer.call(stream, &path(call), message).await.unwrap();
        }
        let arrived = peer.until_cut(LIMIT).await.unwrap();
        let of = |kind| arrived.iter().filter(move |frame| frame.kind == kind);
        assert_eq!(of(HEADERS).count(), 3, "answers begin: {arrived:?}");
        let taken: usize = of(DATA).map(|frame| frame.length).sum();
        assert_eq!(taken, 3 * usize::try_from(window).unwrap(), "and are not taken");
    }
    a_round_completes(&bed, COHORT, seed()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_reads_nothing_is_cut() {
    let bed = bed(2, 3).await;
    let peer = peer(&bed, &bed.members[0], Reading::Never).await;
    peer.greet(1).await.unwrap();
    let pings = ping().repeat(1_000);
    // Each is answered, until there is no room for another answer, and then no ping is read either.
    let pinging = async { while peer.send(&pings).await.is_ok() {} };
    tokio::time::timeout(LIMIT, pinging).await.expect("the connection is cut");
    a_round_completes(&bed, COHORT, seed()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_drips_its_bytes_or_says_nothing_is_cut() {
    // Pings have to be answered in a third of it, also by this test on a busy machine.
    let bed = bed(2, 6).await;
    let silent = async {
        let mut peer = peer(&bed, &bed.members[0], Reading::Answering).await;
        peer.until_cut(LIMIT).await.unwrap();
    };
    let hello = async {
        let mut peer = peer(&bed, &bed.members[0], Reading::Mute).await;
        // It would take a minute.
        let _cut = peer.drip(preface(), Duration::from_secs(3)).await;
        peer.until_cut(LIMIT).await.unwrap();
    };
    let between = async {
        let mut peer = peer(&bed, &bed.members[1], Reading::Mute).await;
        peer.greet(1 << 20).await.unwrap();
        peer.call(1, &path("Documents"), &[]).await.unwrap();
        // The head of a frame of 16 KiB, of which no byte in 10 s comes that would end it.
        let head = frame(HEADERS, 0, 3, &[0; 16_000]);
        tokio::time::timeout(LIMIT, peer.drip(head, PAUSE)).await.expect("cut").unwrap_err();
        let arrived = peer.until_cut(LIMIT).await.unwrap();
        let answered = |frame: &Frame| frame.stream == 1 && frame.flags & END_STREAM != 0;
        assert!(arrived.iter().any(answered), "a whole call before that was served: {arrived:?}");
    };
    let message = async {
        let mut peer = peer(&bed, &bed.members[2], Reading::Answering).await;
        peer.greet(1 << 20).await.unwrap();
        peer.open(1, &path("SubmitShare")).await.unwrap();
        let ended = loop {
            peer.data(1, &[0], false).await.unwrap();
            match tokio::time::timeout(PAUSE, peer.next()).await {
                Ok(Some(frame)) if frame.stream == 1 => break frame,
                Ok(Some(_)) | Err(_) => {}
                Ok(None) => panic!("only the call is given up"),
            }
        };
        assert!(ended.kind == HEADERS && ended.flags & END_STREAM != 0, "{ended:?}");
    };
    let all = async { tokio::join!(silent, hello, between, message) };
    tokio::time::timeout(LIMIT * 2, all).await.expect("all are cut");
    a_round_completes(&bed, COHORT, seed()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_member_can_hold_is_bounded() {
    // A registry of 3 MB, which is the answer.
    let bed = bed(300_000, 60).await;
    let before = bed.peak_rss().unwrap();
    let mut peers = Vec::new();
    for _ in 0..15 {
        let peer = peer(&bed, &bed.members[0], Reading::Answering).await;
        peer.greet(1).await.unwrap();
        for call in 0..60 {
            peer.call(2 * call + 1, &path("Documents"), &[]).await.unwrap();
        }
        peers.push(peer);
    }
    let (mut answered, mut refused) = (0, 0);
    for peer in &mut peers {
        for _ in 0..60 {
            let answer = loop {
                let next = tokio::time::timeout(LIMIT, peer.next()).await.unwrap().unwrap();
                if next.kind == HEADERS {
                    break next;
                }
            };
            if answer.flags & END_STREAM == 0 { answered += 1 } else { refused += 1 }
        }
    }
    assert_eq!((answered, refused), (CALLS, 15 * 60 - CALLS));
    let growth = bed.peak_rss().unwrap() - before;
    println!(
        "900 calls for 3 MB each and none taken: {answered} answered, the coordinator's memory grew by \
         {:.0} MiB",
        growth as f64 / f64::from(1 << 20)
    );
    assert!(growth <= MOST_GROWTH, "{growth} bytes");
    // Others have places of their own, and this one has its own again.
    bed.members[1].poll("").await.unwrap();
    assert_eq!(bed.members[0].poll("").await.unwrap_err().code(), tonic::Code::ResourceExhausted);
    drop(peers);
    let again = async {
        while bed.members[0].poll("").await.is_err() {
            tokio::time::sleep(PAUSE).await;
        }
    };
    tokio::time::timeout(LIMIT, again).await.expect("places are free again");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_that_never_end_take_a_members_places_and_nobody_elses() {
    let bed = bed(2, 60).await;
    let mut peers = Vec::new();
    for _ in 0..2 {
        let peer = peer(&bed, &bed.members[0], Reading::Answering).await;
        peer.greet(1 << 20).await.unwrap();
        for call in 0..20 {
            peer.open(2 * call + 1, &path("SubmitShare")).await.unwrap();
            peer.data(2 * call + 1, &[0; 1 << 10], false).await.unwrap();
        }
        peers.push(peer);
    }
    let mut refused = 0;
    while refused < 2 * 20 - CALLS {
        let [first, second] = &mut peers[..] else { panic!("two") };
        let next = async {
            tokio::select! { next = first.next() => next, next = second.next() => next }
        };
        let next = tokio::time::timeout(LIMIT, next).await.unwrap().unwrap();
        refused += usize::from(next.kind == HEADERS);
    }
    // More than shares for 256 institutions can have.
    let member = &bed.members[1];
    let peer = &mut peer(&bed, member, Reading::Answering).await;
    peer.greet(1 << 20).await.unwrap();
    peer.open(1, &path("SubmitShare")).await.unwrap();
    // The first bytes that a connection may send are fewer.
    while peer.next().await.unwrap().kind != WINDOW_UPDATE {}
    for _ in 0..9 {
        peer.data(1, &[0; 16 << 10], false).await.unwrap();
    }
    let answer = async { while peer.next().await.unwrap().kind != HEADERS {} };
    tokio::time::timeout(LIMIT, answer).await.expect("refused before it ends");
}
