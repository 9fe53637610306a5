//! The coordinator is killed in the middle of every phase of a round and comes back: the round goes
//! on where it was, and the sum is exact.

use std::time::Duration;

use collegium_shared::{
    clock::Clock,
    protocol::{Deadlines, Ending, Phase},
};
use collegium_tests::{
    harness::eventually,
    participant::Seat,
    testbed::{LIMIT, Testbed},
};

use crate::{
    sum::check,
    table::{finish, patient, play, table},
};

/// Seconds; enough for the few messages that are missing after an outage.
const SHORT: u32 = 5;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_coordinator_that_is_killed_in_every_phase_completes_the_round() {
    let (mut bed, mut seats) = table(4, 2, patient()).await;
    bed.stop().await.unwrap();
    bed.serve_apart().await.unwrap();
    for phase in [Phase::Ready, Phase::Share, Phase::Upload, Phase::Vote, Phase::Reveal] {
        // Two of four: no phase is complete, and no quorum has voted or revealed.
        play(&mut seats[..2], phase).await;
        bed.kill().unwrap();
        let waiting = tokio::spawn({
            let mut seats = seats;
            async move {
                play(&mut seats[2..], phase).await;
                seats
            }
        });
        bed.serve_apart().await.unwrap();
        seats = waiting.await.unwrap();
    }
    let seats = finish(seats).await;
    let opened = bed.sum(0).await.unwrap();
    assert_eq!(opened.survivors.len(), 4);
    check(&opened, &seats);
    bed.stop().await.unwrap();
}

/// The time of the open phase is over when the coordinator comes back: nobody could have been in time,
/// so it begins anew.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_coordinator_that_is_gone_for_longer_than_a_deadline_completes_the_round() {
    let deadlines = Deadlines { upload: SHORT, vote: SHORT, ..patient() };
    for phase in [Phase::Upload, Phase::Vote] {
        let (mut bed, mut seats) = table(4, 2, deadlines).await;
        bed.stop().await.unwrap();
        bed.serve_apart().await.unwrap();
        for before in [Phase::Ready, Phase::Share, Phase::Upload] {
            if before < phase {
                play(&mut seats, before).await;
            }
        }
        // Two of four: too few for a sum, and no quorum.
        play(&mut seats[..2], phase).await;
        bed.kill().unwrap();
        let events = bed.events().unwrap();
        let deadline = events.last().unwrap().at + Duration::from_secs(SHORT.into());
        let clock = Clock::system();
        while clock.now() <= deadline {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        bed.serve_apart().await.unwrap();
        let seats = finish(seats).await;
        let opened = bed.sum(0).await.unwrap();
        assert_eq!(opened.survivors.len(), 4, "after an outage in {phase:?}");
        check(&opened, &seats);
        bed.stop().await.unwrap();
    }
}

/// A member that sends the first half of its upload, finds the coordinator gone, and goes on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn half_an_upload_survives_the_coordinators_death_or_is_sent_again() {
    let (mut bed, mut seats) = table(3, 2, patient()).await;
    bed.stop().await.unwrap();
    bed.serve_apart().await.unwrap();
    play(&mut seats, Phase::Ready).await;
    play(&mut seats, Phase::Share).await;
    for seat in &mut seats {
        seat.see(Phase::Upload).await.unwrap();
    }
    let (view, attempt) = (seats[0].view().unwrap(), seats[0].attempt().unwrap());
    let bytes = attempt.upload(view).unwrap();
    let half = &bytes[..bytes.len() / 2];
    let header = attempt.upload_header(view, collegium_shared::crypto::Digest::of(half));
    let refused = seats[0].member.send_upload(attempt.round(), half, &header).await;
    assert!(refused.is_err(), "half an upload is none");
    bed.kill().unwrap();
    bed.serve_apart().await.unwrap();
    let seats = finish(seats).await;
    let opened = bed.sum(0).await.unwrap();
    assert_eq!(opened.survivors.len(), 3);
    check(&opened, &seats);
}

/// Seven uploads are summed and kept; beyond four the running sum takes their place. The coordinator
/// is killed then, and has no upload left to begin again with.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_coordinator_that_is_killed_after_it_deleted_uploads_opens_the_same_sum() {
    let (bed, seats) = killed_after_uploads_were_deleted().await;
    let seats = finish(seats).await;
    let opened = bed.sum(0).await.unwrap();
    assert_eq!(opened.survivors.len(), 7);
    check(&opened, &seats);
}

/// The same with a flipped bit in the file of the running sum: the round ends, and says why.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_running_sum_ends_the_round_with_the_reason() {
    let (mut bed, mut seats) = killed_after_uploads_were_deleted().await;
    bed.kill().unwrap();
    let path = bed.round_dir(seats[0].attempt().unwrap().round()).join("accumulator");
    let mut bytes = std::fs::read(&path).unwrap();
    let at = bytes.len() - 40;
    bytes[at] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    bed.serve_apart().await.unwrap();
    let Ending::Abandoned { reason } = bed.ending(0).await.unwrap() else {
        panic!("there is no sum");
    };
    assert!(reason.contains("no running sum that holds it can be used"), "{reason}");
    seats.clear();
}

/// A coordinator in a process of its own that was killed when five of seven had uploaded and their
/// uploads were deleted, and serves again.
async fn killed_after_uploads_were_deleted() -> (Testbed, Vec<Seat>) {
    let (mut bed, mut seats) = table(7, 2, patient()).await;
    bed.stop().await.unwrap();
    let config = bed.coordinator_dir().join("coordinator.toml");
    let text = std::fs::read_to_string(&config).unwrap();
    let kept = text.replace("uploads_kept_mib = 64", "uploads_kept_mib = 0");
    assert_ne!(kept, text, "the sample names the limit");
    std::fs::write(&config, kept).unwrap();
    bed.serve_apart().await.unwrap();
    play(&mut seats, Phase::Ready).await;
    play(&mut seats, Phase::Share).await;
    play(&mut seats[..5], Phase::Upload).await;
    let round = bed.round_dir(seats[0].attempt().unwrap().round());
    let uploads = || {
        let names = std::fs::read_dir(&round).unwrap().map(|entry| entry.unwrap().file_name());
        names.filter(|name| name.to_string_lossy().starts_with("upload-")).count()
    };
    eventually(LIMIT, "the running sum takes the place of five uploads", || {
        let saved = round.join("accumulator").exists() && uploads() == 0;
        Ok(saved.then_some(()))
    })
    .unwrap();
    bed.kill().unwrap();
    bed.serve_apart().await.unwrap();
    (bed, seats)
}
