//! Messages that come twice, too early, too late, or from an attempt that is over: each is acknowledged
//! as known or refused, and leaves the coordinator's state as it was, bit for bit.

use collegium_shared::{
    crypto::Digest,
    protocol::{Cohort, Deadlines, Outcome, Phase},
};
use collegium_tests::{
    participant::Seat,
    testbed::{LIMIT, Testbed},
};
use tonic::{Code, Status};

use crate::{
    random::{anything, seed},
    sum::check,
    table::{DIMENSION, finish, play},
};

async fn state(bed: &Testbed) -> String {
    bed.status().await.unwrap()["state_sha256"].as_str().unwrap().to_owned()
}

/// Sends everything that this member can say of its attempt, in the wrong order, with what each is
/// answered.
async fn say_everything(seat: &Seat) -> Vec<(Phase, Result<(), Status>)> {
    let (attempt, member, view) = (seat.attempt().unwrap(), &seat.member, seat.view().unwrap());
    let mut answers = Vec::new();
    if view.phase >= Phase::Upload && view.phase < Phase::Ended && view.proposal.is_some() {
        let (header, pieces) = attempt.reveal(view).unwrap();
        answers.push((Phase::Reveal, member.send_reveal(&header, &pieces).await));
    }
    let outcome = view.proposal.clone();
    let outcome = outcome.unwrap_or(Outcome::Abort { context: attempt.context(view) });
    answers.push((Phase::Vote, member.send_vote(&attempt.vote_for(outcome)).await));
    if !view.headers.is_empty() {
        let bytes = attempt.upload(view).unwrap();
        let header = attempt.upload_header(view, Digest::of(&bytes));
        answers.push((Phase::Upload, member.send_upload(attempt.round(), &bytes, &header).await));
    }
    if !view.list.is_empty() {
        let (header, body) = attempt.dealing(view).unwrap();
        answers.push((Phase::Share, member.send_share(&header, &body).await));
    }
    answers.push((Phase::Ready, member.send_ready(&attempt.ready()).await));
    answers
}

/// Says everything again, which must change nothing: what was taken is known, the rest is refused.
async fn changes_nothing(bed: &Testbed, seat: &Seat, taken: Option<Phase>) {
    let before = state(bed).await;
    for (phase, answer) in say_everything(seat).await {
        match answer {
            Ok(()) => assert!(Some(phase) <= taken, "{phase:?} was taken, only {taken:?} was said"),
            Err(status) => {
                assert!(Some(phase) > taken, "{phase:?} is known: {status}");
                let code = status.code();
                let fair =
                    [Code::FailedPrecondition, Code::InvalidArgument, Code::PermissionDenied];
                assert!(fair.contains(&code), "{phase:?}: {status}");
            }
        }
    }
    assert_eq!(state(bed).await, before, "after {taken:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_comes_twice_early_late_or_from_an_old_attempt_changes_nothing() {
    let seed = seed();
    let bed = Testbed::start(4, DIMENSION).await.unwrap();
    // One member deals too late; the others are waited for.
    let deadlines = Deadlines { ready: 60, share: 2, upload: 60, vote: 60, reveal: 60 };
    let cohort = Cohort { c_max: 1, min_honest: 2 };
    bed.start_task(1, Some(cohort), deadlines).await.unwrap();
    let mut seats = bed.seats(|place| anything(seed, place));

    play(&mut seats[..3], Phase::Ready).await;
    seats[3].see(Phase::Ready).await.unwrap();
    changes_nothing(&bed, &seats[0], Some(Phase::Ready)).await;
    play(&mut seats[3..], Phase::Ready).await;
    for seat in &mut seats {
        seat.see(Phase::Share).await.unwrap();
    }
    let (header, body) = seats[3].attempt().unwrap().dealing(seats[3].view().unwrap()).unwrap();
    play(&mut seats[..3], Phase::Share).await;
    for seat in &mut seats {
        tokio::time::timeout(LIMIT, seat.see(Phase::Upload)).await.unwrap().unwrap();
    }
    let before = state(&bed).await;
    let late = seats[3].member.send_share(&header, &body).await.unwrap_err();
    assert_eq!(late.code(), Code::FailedPrecondition, "{late}");
    assert_eq!(state(&bed).await, before);

    play(&mut seats[..2], Phase::Upload).await;
    changes_nothing(&bed, &seats[1], Some(Phase::Upload)).await;
    play(&mut seats[2..3], Phase::Upload).await;
    for seat in &mut seats[..3] {
        seat.see(Phase::Vote).await.unwrap();
    }
    play(&mut seats[..1], Phase::Vote).await;
    changes_nothing(&bed, &seats[0], Some(Phase::Vote)).await;

    // It has no further part in this round.
    seats.remove(3);
    let mut seats = finish(seats).await;
    let opened = bed.sum(0).await.unwrap();
    assert_eq!(opened.survivors.len(), 3);
    check(&opened, &seats);

    // The next round stands at READY, and everything of the one before comes again.
    bed.until("the next round is planned", |events| {
        let planned =
            events.iter().filter(|e| format!("{:?}", e.event).starts_with("Round(Planned"));
        (planned.count() == 2).then_some(())
    })
    .await
    .unwrap();
    for seat in &mut seats {
        changes_nothing(&bed, seat, None).await;
    }
}
