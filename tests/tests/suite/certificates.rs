//! Certificates are renewed in the middle of a round without touching it, whatever answer is lost;
//! a stolen TLS key renews nothing; an expired certificate is told so.

use std::time::Duration;

use collegium_coordinator::network::{Event, NetworkEvent};
use collegium_proto::v1;
use collegium_shared::{
    clock::Clock,
    crypto::{Digest, SigningKey},
    protocol::Phase,
};
use collegium_tests::{
    participant::{Participant, channel},
    testbed::Testbed,
};
use tonic::Code;

use crate::{
    sum::check,
    table::{finish, patient, play, refused, table, table_at},
};

/// How often certificates were renewed, and taken into use.
fn renewals(bed: &Testbed) -> (usize, usize) {
    let events = bed.events().unwrap();
    let count = |wanted: fn(&NetworkEvent) -> bool| {
        let found = |event: &Event| matches!(event, Event::Network(event) if wanted(event));
        events.iter().filter(|entry| found(&entry.event)).count()
    };
    (
        count(|event| matches!(event, NetworkEvent::CertificateRenewed { .. })),
        count(|event| matches!(event, NetworkEvent::CertificateTaken { .. })),
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_renewal_in_every_phase_leaves_the_sum_exact() {
    let (bed, mut seats) = table(4, 2, patient()).await;
    for (place, phase) in [Phase::Ready, Phase::Share, Phase::Upload].into_iter().enumerate() {
        play(&mut seats[..1 + place], phase).await;
        let mut before = seats[place].member.renew().await.unwrap();
        before.documents(v1::DocumentsRequest {}).await.unwrap();
        seats[place].member.poll("").await.unwrap();
        play(&mut seats, phase).await;
        bed.until("the renewed certificate is in use", |_| {
            (renewals(&bed).1 == place + 1).then_some(())
        })
        .await
        .unwrap();
        let old = before.documents(v1::DocumentsRequest {}).await.map(drop);
        refused(old, Code::PermissionDenied, "no longer, the institution's current one");
    }
    let seats = finish(seats).await;
    let opened = bed.sum(0).await.unwrap();
    assert_eq!(opened.survivors.len(), 4);
    check(&opened, &seats);
    assert_eq!(renewals(&bed), (3, 3));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_answer_or_a_restart_locks_nobody_out() {
    let clock = Clock::manual(Clock::system().now());
    let mut bed = Testbed::start_at(clock.clone(), 1, 4).await.unwrap();
    let member = std::sync::Arc::clone(&bed.members[0]);
    member.renew_in_vain().await.unwrap();
    member.poll("").await.unwrap();
    let soon = member.renew_in_vain().await.unwrap_err();
    assert!(soon.to_string().contains("less than a minute ago"), "{soon}");
    clock.advance(Duration::from_secs(61));
    member.renew().await.unwrap();
    bed.stop().await.unwrap();
    bed.serve().await.unwrap();
    // The renewed one, never shown before the restart.
    loop {
        match member.poll("").await {
            Err(status) if collegium_tests::participant::transient(&status) => {}
            answer => break answer.map(drop).unwrap(),
        }
    }
    bed.until("it is in use", |_| (renewals(&bed) == (2, 1)).then_some(())).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stolen_tls_key_renews_nothing() {
    let bed = Testbed::start(2, 4).await.unwrap();
    let member = &bed.members[0];
    let csr = |name: &str| {
        let tls = rcgen::KeyPair::generate().unwrap();
        let params = rcgen::CertificateParams::new([name.to_owned()]).unwrap();
        params.serialize_request(&tls).unwrap().der().to_vec()
    };
    // Signed for another key than the one that the channel shows.
    let answer = member.request_renewal(&csr("a"), &Digest::of(b"another")).await.map(drop);
    refused(answer, Code::PermissionDenied, "not signed by the institution's identity key");
    let answer = member.request_renewal(b"garbage", &Digest::of(b"x")).await.map(drop);
    refused(answer, Code::InvalidArgument, "not PKCS#10");
    // A connection without any certificate.
    let ca = std::fs::read_to_string(bed.coordinator_dir().join("ca.pem")).unwrap();
    let identity = SigningKey::from_pkcs8(SigningKey::generate_pkcs8().unwrap().expose()).unwrap();
    let line = channel(&bed.url(), &ca, None).unwrap();
    let stranger = Participant::over(member.institution().clone(), identity, line);
    let answer = stranger.request_renewal(&csr("a"), &Digest::of(b"x")).await.map(drop);
    refused(answer, Code::Unauthenticated, "needs a client certificate");
    assert_eq!(renewals(&bed), (0, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_expired_certificate_is_refused_with_the_next_step() {
    let clock = Clock::manual(Clock::system().now());
    let (bed, seats) = table_at(clock.clone(), 2, 2, patient()).await;
    let member = &seats[0].member;
    member.poll("").await.unwrap();
    seats[1].member.poll("").await.unwrap();
    clock.advance(Duration::from_secs(91 * 86_400));
    let answer = member.poll("").await.map(drop);
    refused(answer, Code::PermissionDenied, "expired at");
    let answer = seats[1].member.poll("").await.map(drop);
    refused(answer, Code::PermissionDenied, "run: collegium-agent reenrol");
    drop(bed);
}
