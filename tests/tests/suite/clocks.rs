//! The coordinator's clock jumps by an hour in the middle of a round, in either direction: the round ends by
//! itself all the same, and the log's time never goes back.

use std::time::Duration;

use collegium_shared::{
    clock::Clock,
    protocol::{Deadlines, Ending, Phase},
};
use collegium_tests::testbed::Testbed;

use crate::{
    sum::check,
    table::{finish, patient, play, table},
};

const HOUR: Duration = Duration::from_secs(3_600);

fn assert_forward(bed: &Testbed) {
    let events = bed.events().unwrap();
    assert!(events.is_sorted_by_key(|entry| entry.at), "the log's time goes back");
}

/// The deadline of the open phase passes although the clock stands an hour before it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clock_that_is_set_back_neither_stops_a_round_nor_turns_the_log_back() {
    let (mut bed, mut seats) = table(4, 2, Deadlines { upload: 4, ..patient() }).await;
    play(&mut seats, Phase::Ready).await;
    play(&mut seats, Phase::Share).await;
    bed.stop().await.unwrap();
    bed.serve_by(Clock::manual(Clock::system().now() - HOUR)).await.unwrap();
    let silent = seats.pop().unwrap();
    let seats = finish(seats).await;
    let opened = bed.sum(0).await.unwrap();
    assert_eq!(opened.survivors.len(), 3);
    assert!(!opened.survivors.contains(silent.member.institution()));
    check(&opened, &seats);
    assert_forward(&bed);
    bed.stop().await.unwrap();
}

/// Whoever has not answered is late; the next attempt has its whole time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clock_that_jumps_ahead_ends_the_phase_and_the_next_attempt_gives_the_sum() {
    let (mut bed, mut seats) = table(4, 2, patient()).await;
    bed.stop().await.unwrap();
    let clock = Clock::manual(Clock::system().now());
    bed.serve_by(clock.clone()).await.unwrap();
    play(&mut seats[..1], Phase::Ready).await;
    clock.advance(HOUR);
    let Ending::Abandoned { reason } = bed.ending(0).await.unwrap() else {
        panic!("it cannot give a sum");
    };
    assert!(reason.contains("1 institutions were ready"), "{reason}");
    play(&mut seats[..1], Phase::Ended).await;
    seats[0].next_round();
    let seats = finish(seats).await;
    let opened = bed.sum(1).await.unwrap();
    assert_eq!(opened.survivors.len(), 4);
    check(&opened, &seats);
    assert_forward(&bed);
    bed.stop().await.unwrap();
}
