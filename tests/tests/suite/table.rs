//! Scripted members around one round whose phases do not end by themselves while a test looks.

use collegium_shared::{
    clock::Clock,
    protocol::{Cohort, Deadlines, Phase},
};
use collegium_tests::{participant::Seat, testbed::Testbed};
use tonic::{Code, Status};

use crate::random::{anything, seed};

/// Values of the first sum.
pub(crate) const DIMENSION: usize = 40;

/// Long enough for any machine, and for a member that is told to stay away.
pub(crate) fn patient() -> Deadlines {
    Deadlines { ready: 60, share: 60, upload: 60, vote: 60, reveal: 60 }
}

/// `n` seats with random inputs and a task of one step; at most one member may collude.
pub(crate) async fn table(n: usize, min_honest: u16, deadlines: Deadlines) -> (Testbed, Vec<Seat>) {
    table_at(Clock::system(), n, min_honest, deadlines).await
}

/// The same, with a clock of the coordinator's that the test may move.
pub(crate) async fn table_at(
    clock: Clock,
    n: usize,
    min_honest: u16,
    deadlines: Deadlines,
) -> (Testbed, Vec<Seat>) {
    let seed = seed();
    let bed = Testbed::start_at(clock, n, DIMENSION).await.unwrap();
    let cohort = Cohort { c_max: u16::from(n > 3), min_honest };
    bed.start_task(1, Some(cohort), deadlines).await.unwrap();
    let seats = bed.seats(|place| anything(seed, place));
    (bed, seats)
}

/// Plays seats one after the other up to `phase`; only phases that all of them see in turn.
pub(crate) async fn play(seats: &mut [Seat], phase: Phase) {
    for seat in seats {
        seat.play(phase).await.unwrap();
    }
}

/// Plays seats at the same time to the end of the round.
pub(crate) async fn finish(seats: Vec<Seat>) -> Vec<Seat> {
    let mut playing = tokio::task::JoinSet::new();
    for mut seat in seats {
        playing.spawn(async move {
            seat.play(Phase::Ended).await.unwrap();
            seat
        });
    }
    playing.join_all().await
}

/// Asserts that a call was refused with this code and in these words.
#[track_caller]
pub(crate) fn refused(answer: Result<(), Status>, code: Code, words: &str) {
    let status = answer.expect_err("this should have been refused");
    assert!(status.code() == code && status.message().contains(words), "{status}");
}
