//! Uploads over lines that break: whoever comes back is not held up by the line that died.

use collegium_shared::{crypto::Digest, protocol::Phase};
use collegium_tests::{harness::eventually, testbed::LIMIT};
use tonic::Code;

use crate::{
    sum::check,
    table::{finish, patient, play, refused, table},
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_line_takes_over_from_a_dead_one() {
    let (bed, mut seats) = table(3, 2, patient()).await;
    play(&mut seats, Phase::Ready).await;
    play(&mut seats, Phase::Share).await;
    for seat in &mut seats {
        seat.see(Phase::Upload).await.unwrap();
    }
    let (view, attempt) = (seats[0].view().unwrap(), seats[0].attempt().unwrap());
    let bytes = attempt.upload(view).unwrap();
    let (member, round) = (seats[0].member.clone(), attempt.round().clone());
    let half = bytes[..bytes.len() / 2].to_vec();
    let file = bed.round_dir(&round).join(format!("incoming-{}", member.institution()));
    let dead = tokio::spawn({
        let (member, round, half) = (member.clone(), round.clone(), half.clone());
        async move { member.stall_upload(&round, &half).await }
    });
    eventually(LIMIT, "half of the upload is there", || {
        let arrived = std::fs::metadata(&file).is_ok_and(|file| file.len() == half.len() as u64);
        Ok(arrived.then_some(()))
    })
    .unwrap();
    assert!(!dead.is_finished(), "the first line is still open");
    let header = attempt.upload_header(view, Digest::of(&bytes));
    member.send_upload(&round, &bytes, &header).await.unwrap();
    refused(dead.await.unwrap(), Code::Aborted, "a newer stream of this institution took over");
    let seats = finish(seats).await;
    let opened = bed.sum(0).await.unwrap();
    assert_eq!(opened.survivors.len(), 3);
    check(&opened, &seats);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upload_that_is_not_what_its_header_says_is_refused_and_sent_again() {
    let (bed, mut seats) = table(3, 2, patient()).await;
    play(&mut seats, Phase::Ready).await;
    play(&mut seats, Phase::Share).await;
    for seat in &mut seats {
        seat.see(Phase::Upload).await.unwrap();
    }
    let (view, attempt) = (seats[0].view().unwrap(), seats[0].attempt().unwrap());
    let bytes = attempt.upload(view).unwrap();
    let (member, round) = (seats[0].member.clone(), attempt.round().clone());
    let other = attempt.upload_header(view, Digest::of(b"other"));
    let sent = member.send_upload(&round, &bytes, &other).await;
    refused(sent, Code::InvalidArgument, "uploaded bytes");
    let file = |name: &str| bed.round_dir(&round).join(format!("{name}-{}", member.institution()));
    assert!(!file("incoming").exists() && !file("upload").exists(), "it begins anew");
    let header = attempt.upload_header(view, Digest::of(&bytes));
    member.send_upload(&round, &bytes, &header).await.unwrap();
    // What was accepted stays, whatever its institution signs afterwards.
    let sent = member.send_upload(&round, &[], &other).await;
    refused(sent, Code::AlreadyExists, "already sent other bytes");
    assert!(file("upload").exists());
    let seats = finish(seats).await;
    let opened = bed.sum(0).await.unwrap();
    assert_eq!(opened.survivors.len(), 3);
    check(&opened, &seats);
}
