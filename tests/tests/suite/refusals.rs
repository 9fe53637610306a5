//! Messages that the coordinator refuses, what it keeps of them, and that the round goes on.

use collegium_coordinator::network::{Event, NetworkEvent};
use collegium_shared::{
    crypto::Digest,
    ids::InstitutionId,
    protocol::{Cohort, Ending, Phase},
    signed::Signed,
};
use collegium_tests::{
    participant::{Conduct, Participant, channel, transient},
    testbed::{LIMIT, Testbed},
};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tonic::Code;

use crate::{
    random::{seed, sensible},
    sum::check,
    table::{DIMENSION, finish, patient, play, refused, table},
};

/// The second statements that the log keeps, as `(institution, phase)`, with their JSON.
fn kept(bed: &Testbed) -> Vec<(InstitutionId, Phase, serde_json::Value)> {
    let events = bed.events().unwrap();
    let equivocated = events.into_iter().filter_map(|entry| match entry.event {
        Event::Network(NetworkEvent::Equivocated { institution, phase, statement, .. }) => {
            Some((institution, phase, statement))
        }
        _ => None,
    });
    equivocated.collect()
}

/// Whether the log holds this statement as an accepted one.
fn accepted<T: serde::Serialize>(bed: &Testbed, statement: &Signed<T>) -> bool {
    let wanted = serde_json::to_value(statement).unwrap();
    bed.events().unwrap().iter().any(|entry| match &entry.event {
        Event::Round(event) => {
            let event = serde_json::to_value(event).unwrap();
            event["ready"] == wanted || event["header"] == wanted
        }
        Event::Network(_) => false,
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn other_bytes_for_a_phase_are_refused_and_both_are_kept() {
    let (bed, mut seats) = table(4, 2, patient()).await;
    let who = seats[0].member.institution().clone();

    play(&mut seats[..1], Phase::Ready).await;
    let first = seats[0].attempt().unwrap().ready();
    let mut second = first.body.clone();
    second.commitment = Digest::of(b"another vector");
    let second = seats[0].member.sign(second);
    let answer = seats[0].member.send_ready(&second).await;
    refused(answer, Code::AlreadyExists, "other bytes in phase Ready");
    assert!(accepted(&bed, &first) && !accepted(&bed, &second));
    play(&mut seats, Phase::Ready).await;

    play(&mut seats[..1], Phase::Share).await;
    let view = seats[0].view().unwrap();
    let (header, mut body) = seats[0].attempt().unwrap().dealing(view).unwrap();
    body.sealed[1][0] ^= 1;
    let other = seats[0].attempt().unwrap().share_header(view, &body);
    let answer = seats[0].member.send_share(&other, &body).await;
    refused(answer, Code::AlreadyExists, "other bytes in phase Share");
    assert!(accepted(&bed, &header) && !accepted(&bed, &other));
    play(&mut seats, Phase::Share).await;

    play(&mut seats[..1], Phase::Upload).await;
    let (view, attempt) = (seats[0].view().unwrap(), seats[0].attempt().unwrap());
    let mut bytes = attempt.upload(view).unwrap();
    let sent = attempt.upload_header(view, Digest::of(&bytes));
    bytes[5] ^= 1;
    let changed = attempt.upload_header(view, Digest::of(&bytes));
    let answer = seats[0].member.send_upload(attempt.round(), &bytes, &changed).await;
    refused(answer, Code::AlreadyExists, "other bytes in phase Upload");
    assert!(accepted(&bed, &sent) && !accepted(&bed, &changed));

    let statements = [
        (who.clone(), Phase::Ready, serde_json::to_value(&second).unwrap()),
        (who.clone(), Phase::Share, serde_json::to_value(&other).unwrap()),
        (who.clone(), Phase::Upload, serde_json::to_value(&changed).unwrap()),
    ];
    assert_eq!(kept(&bed), statements);
    // Said once: a member cannot fill the log by saying it again.
    let again = seats[0].member.send_upload(attempt.round(), &bytes, &changed).await;
    refused(again, Code::AlreadyExists, "other bytes");
    assert_eq!(kept(&bed).len(), 3);

    let seats = finish(seats).await;
    let opened = bed.sum(0).await.unwrap();
    assert_eq!(opened.survivors.len(), 4);
    check(&opened, &seats);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_bytes_again_are_acknowledged_in_every_phase() {
    let (bed, mut seats) = table(4, 2, patient()).await;
    for phase in [Phase::Ready, Phase::Share, Phase::Upload, Phase::Vote] {
        // The last but one: with it a quorum would have voted.
        let most = if phase == Phase::Vote { 2 } else { 4 };
        play(&mut seats[..most], phase).await;
        let (member, attempt) = (&seats[0].member, seats[0].attempt().unwrap());
        let view = seats[0].view().unwrap();
        member.send_ready(&attempt.ready()).await.unwrap();
        if phase >= Phase::Share {
            let (header, body) = attempt.dealing(view).unwrap();
            member.send_share(&header, &body).await.unwrap();
        }
        if phase >= Phase::Upload {
            let bytes = attempt.upload(view).unwrap();
            let header = attempt.upload_header(view, Digest::of(&bytes));
            member.send_upload(attempt.round(), &bytes, &header).await.unwrap();
        }
        if phase >= Phase::Vote {
            member.send_vote(&attempt.vote(view).unwrap()).await.unwrap();
        }
    }
    assert!(kept(&bed).is_empty());
    let seats = finish(seats).await;
    check(&bed.sum(0).await.unwrap(), &seats);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn uploads_of_wrong_length_or_hash_are_refused_and_can_be_repaired() {
    let (bed, mut seats) = table(4, 2, patient()).await;
    play(&mut seats, Phase::Ready).await;
    play(&mut seats, Phase::Share).await;
    for seat in &mut seats {
        seat.see(Phase::Upload).await.unwrap();
    }
    {
        let (view, attempt) = (seats[0].view().unwrap(), seats[0].attempt().unwrap());
        let (member, round) = (&seats[0].member, attempt.round());
        let bytes = attempt.upload(view).unwrap();
        let short = &bytes[..bytes.len() - 4];
        let header = attempt.upload_header(view, Digest::of(short));
        let answer = member.send_upload(round, short, &header).await;
        refused(answer, Code::InvalidArgument, "has 160 bytes, but 156 arrived");
        let long = [bytes.as_slice(), &[0; 4]].concat();
        let header = attempt.upload_header(view, Digest::of(&long));
        let answer = member.send_upload(round, &long, &header).await;
        refused(answer, Code::InvalidArgument, "has 160 bytes; more arrived");
        let header = attempt.upload_header(view, Digest::of(b"something else"));
        let answer = member.send_upload(round, &bytes, &header).await;
        refused(answer, Code::InvalidArgument, "do not match what the signed header says");
        let elsewhere = attempt.upload_header(seats[1].view().unwrap(), Digest::of(&bytes));
        let mut body = elsewhere.body;
        body.context = Digest::of(b"another round");
        let answer = member.send_upload(round, &bytes, &member.sign(body)).await;
        refused(answer, Code::InvalidArgument, "another context");
    }
    let seats = finish(seats).await;
    let opened = bed.sum(0).await.unwrap();
    assert_eq!(opened.survivors.len(), 4);
    check(&opened, &seats);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_speaks_for_another_institution() {
    let (bed, mut seats) = table(4, 2, patient()).await;
    play(&mut seats[..2], Phase::Ready).await;
    let theirs = seats[1].attempt().unwrap().ready();
    let answer = seats[0].member.send_ready(&theirs).await;
    refused(answer, Code::InvalidArgument, "names school-001, but it came from school-000");
    let mut body = seats[0].attempt().unwrap().ready().body;
    body.commitment = Digest::of(b"forged");
    let forged = Signed { signature: theirs.signature, body };
    let answer = seats[0].member.send_ready(&forged).await;
    refused(answer, Code::InvalidArgument, "not by the institution's key on the roster");
    // The key of another member's would cancel what hides the two of them.
    let mut body = seats[2].see(Phase::Ready).await.map(|_| theirs.body.clone()).unwrap();
    body.institution = seats[2].member.institution().clone();
    let answer = seats[2].member.send_ready(&seats[2].member.sign(body)).await;
    refused(answer, Code::InvalidArgument, "keys");
    assert!(kept(&bed).is_empty(), "forged statements are no evidence");
    let seats = finish(seats).await;
    check(&bed.sum(0).await.unwrap(), &seats);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_enrolled_but_not_on_the_roster_sits_out() {
    let bed = Testbed::start(2, 9).await.unwrap();
    let invitation = bed.invite("late-school").await.unwrap();
    let late = Participant::enrol(&bed.url(), &invitation).await.unwrap();
    bed.start_task(1, None, patient()).await.unwrap();
    let mut seats = bed.seats(|place| crate::random::anything(1, place));
    play(&mut seats[..1], Phase::Ready).await;
    let polled = late.poll("").await.unwrap();
    assert!(polled.roster.is_some() && polled.round.is_none(), "it is shown no round");
    let mut body = seats[0].attempt().unwrap().ready().body;
    body.institution = late.institution().clone();
    let answer = late.send_ready(&late.sign(body)).await;
    refused(answer, Code::PermissionDenied, "late-school is not a member of the current roster");
    let seats = finish(seats).await;
    let opened = bed.sum(0).await.unwrap();
    assert_eq!(opened.survivors.len(), 2);
    check(&opened, &seats);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_the_current_certificate_of_this_networks_authority_counts() {
    let bed = Testbed::start(2, 9).await.unwrap();
    let old = &bed.members[0];
    let again = bed.invite(old.institution().as_str()).await.unwrap();
    let new = Participant::enrol(&bed.url(), &again).await.unwrap();
    let answer = old.poll("").await.map(drop);
    refused(answer, Code::PermissionDenied, "not, or no longer, the institution's current one");
    new.poll("").await.unwrap();

    let without = channel(&bed.url(), &again.ca_certificate, None).unwrap();
    let nobody = stranger(without);
    refused(nobody.poll("").await.map(drop), Code::Unauthenticated, "enrol first");

    let (certificate, key) = foreign_certificate("school-001");
    let foreign = channel(&bed.url(), &again.ca_certificate, Some((&certificate, &key))).unwrap();
    let refusal = stranger(foreign).poll("").await.unwrap_err();
    assert!(transient(&refusal), "refused by TLS, before any call: {refusal}");
    let other_ca = channel(&bed.url(), &foreign_authority().0, None).unwrap();
    let refusal = stranger(other_ca).poll("").await.unwrap_err();
    assert!(transient(&refusal), "and a client refuses a server of another authority: {refusal}");
    bed.members[1].poll("").await.unwrap();
}

fn stranger(channel: tonic::transport::Channel) -> Participant {
    let pkcs8 = collegium_shared::crypto::SigningKey::generate_pkcs8().unwrap();
    let key = collegium_shared::crypto::SigningKey::from_pkcs8(pkcs8.expose()).unwrap();
    Participant::over("school-001".parse().unwrap(), key, channel)
}

/// The certificate of an authority that nobody here knows, and the authority itself.
fn foreign_authority() -> (String, Issuer<'static, KeyPair>) {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let pem = params.self_signed(&key).unwrap().pem();
    (pem, Issuer::new(params, key))
}

fn foreign_certificate(name: &str) -> (String, String) {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    let certificate = params.signed_by(&key, &foreign_authority().1).unwrap();
    (certificate.pem(), key.serialize_pem())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garbage_at_the_port_does_not_disturb_a_round() {
    let (bed, seats) = table(4, 2, patient()).await;
    let port = bed.port();
    let noise = tokio::spawn(async move {
        let hello = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 and then no more of it";
        let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
        let noise = [&[0_u8; 4_096][..], hello, preface, b"GET / HTTP/1.1\r\n\r\n", b""];
        let mut silent = Vec::new();
        for bytes in noise.into_iter().cycle().take(60) {
            let mut stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
            // An error means that the coordinator hung up already, which is its right.
            let _ = stream.write_all(bytes).await;
            if bytes.len() % 2 == 1 {
                silent.push(stream);
            }
        }
        // Plain text is answered by hanging up.
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        stream.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
        let mut answer = Vec::new();
        let ended = tokio::time::timeout(LIMIT, stream.read_to_end(&mut answer)).await;
        assert!(ended.is_ok(), "a connection that speaks no TLS is left open");
        silent
    });
    let seats = finish(seats).await;
    let opened = bed.sum(0).await.unwrap();
    assert_eq!(opened.survivors.len(), 4);
    check(&opened, &seats);
    drop(noise.await.unwrap());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dealer_of_shares_that_do_not_fit_is_named_and_left_out() {
    for conduct in [
        Conduct { garbles_shares: true, ..Conduct::default() },
        Conduct { false_seed: true, ..Conduct::default() },
    ] {
        seed();
        let bed = Testbed::start(5, DIMENSION).await.unwrap();
        bed.start_task(1, Some(Cohort { c_max: 1, min_honest: 2 }), patient()).await.unwrap();
        let mut seats = bed.seats(sensible);
        // What is given once per task cannot be tried again without the dealer; training can.
        for _ in ["support", "statistics", "totals"] {
            seats = finish(seats).await;
            seats.iter_mut().for_each(|seat| seat.next_round());
        }
        seats[1].conduct(conduct);
        let culprit = seats[1].member.institution().clone();
        let mut seats = finish(seats).await;
        let ending = bed.ending(3).await.unwrap();
        assert_eq!(ending, Ending::Failed { dealer: culprit.clone() }, "{conduct:?}");
        seats.retain(|seat| *seat.member.institution() != culprit);
        seats.iter_mut().for_each(|seat| seat.next_round());
        let seats = finish(seats).await;
        let opened = bed.sum(4).await.unwrap();
        assert_eq!(opened.survivors.len(), 4);
        check(&opened, &seats);
    }
}
