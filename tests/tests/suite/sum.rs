//! The sum that is opened is the sum of what was committed to, over exactly the survivors, whoever
//! drops out where, as long as no more do than the protocol tolerates.

use collegium_proto::MAX_MESSAGE;
use collegium_shared::{
    architecture::{self, Sizes, Sums},
    journal::MAX_ENTRY,
    params::Encoding,
    protocol::{Cohort, Deadlines, Phase},
    secagg::{MAX_MEMBERS, dropouts_tolerated},
};
use collegium_tests::{
    participant::Seat,
    testbed::{Opened, Testbed},
};
use tokio::task::JoinSet;

use crate::random::{anything, generator, seed, within};

/// A phase in which somebody is missed ends by itself after this many seconds.
const MISSED: u32 = 2;
const LONG: u32 = 60;

/// How many members leave after each of the first four phases, and so are missed in the next one.
#[derive(Clone, Copy, Debug, Default)]
struct Dropouts {
    ready: usize,
    share: usize,
    upload: usize,
    vote: usize,
}

impl Dropouts {
    fn deadlines(self) -> Deadlines {
        let limit = |missed: bool| if missed { MISSED } else { LONG };
        Deadlines {
            ready: LONG,
            share: limit(self.ready > 0),
            upload: limit(self.share > 0),
            vote: LONG,
            reveal: LONG,
        }
    }

    /// The last phase of each of `n` members; who leaves is spread over the list.
    fn last_phases(self, n: usize) -> Vec<Phase> {
        let mut last = vec![Phase::Ended; n];
        let leaving = [
            (Phase::Ready, self.ready),
            (Phase::Share, self.share),
            (Phase::Upload, self.upload),
            (Phase::Vote, self.vote),
        ];
        let phases = leaving.iter().flat_map(|(phase, count)| vec![*phase; *count]);
        for (k, phase) in phases.enumerate() {
            last[(k * 2 + 1) % n] = phase;
        }
        last
    }
}

/// All members play a round, and the sum is exact. Every phase has time enough for anybody.
pub(crate) async fn a_round_completes(bed: &Testbed, cohort: Cohort, seed: u64) {
    let deadlines = Dropouts::default().deadlines();
    bed.start_task(1, Some(cohort), deadlines).await.unwrap();
    let mut playing = JoinSet::new();
    for mut seat in bed.seats(|place| anything(seed, place)) {
        playing.spawn(async move {
            seat.play(Phase::Ended).await.unwrap();
            seat
        });
    }
    let seats = playing.join_all().await;
    let opened = bed.sum(0).await.unwrap();
    assert_eq!(opened.survivors.len(), bed.members.len());
    check(&opened, &seats);
}

/// Plays every seat as far as its phase and gives the seats back in order.
async fn play_all(seats: Vec<Seat>, last: &[Phase]) -> Vec<Seat> {
    let mut playing = JoinSet::new();
    for ((place, mut seat), last) in seats.into_iter().enumerate().zip(last.to_vec()) {
        playing.spawn(async move {
            let played = seat.play(last).await;
            (place, seat, played)
        });
    }
    let mut seats = playing.join_all().await;
    seats.sort_by_key(|(place, ..)| *place);
    let told = |(place, seat, played): (usize, Seat, anyhow::Result<()>)| {
        if let Err(error) = played {
            // A member that was too slow is one more dropout; too many show in the result.
            println!("member {place}: {error:#}");
        }
        seat
    };
    seats.into_iter().map(told).collect()
}

pub(crate) fn check(opened: &Opened, seats: &[Seat]) {
    let encoding: &Encoding = &seats[0].attempt().unwrap().plan().encoding;
    let inside = |seat: &&Seat| opened.survivors.contains(seat.member.institution());
    let mut sum = vec![0_i64; encoding.dimension()];
    for seat in seats.iter().filter(inside) {
        for (sum, word) in sum.iter_mut().zip(seat.attempt().unwrap().x()) {
            *sum += i64::from(word.cast_signed());
        }
    }
    let words: Vec<u32> =
        sum.iter().map(|sum| i32::try_from(*sum).unwrap().cast_unsigned()).collect();
    let plan = seats[0].attempt().unwrap().plan();
    // What is opened names the segments without a value as well.
    let (mut expected, none) = (Sums::new(), Sizes { items: 0, competencies: 0 });
    architecture::complete_sums(&mut expected, &plan.stage, &plan.hyper, none);
    expected.extend(encoding.decode_sum(&words).unwrap());
    assert!(sum.iter().any(|value| *value != 0));
    assert!(opened.is(&expected).unwrap(), "what was opened is not the sum of the inputs");
}

async fn sum_is_exact(
    n: usize,
    cohort: Cohort,
    dimension: usize,
    seed: u64,
    out: Dropouts,
) -> (Testbed, Vec<Seat>) {
    println!("n {n}, dimension {dimension}, {out:?}");
    let bed = Testbed::start(n, dimension).await.unwrap();
    bed.start_task(1, Some(cohort), out.deadlines()).await.unwrap();
    let mut seats = play_first_round(&bed, n, seed, out).await;
    let opened = bed.sum(0).await.unwrap();
    seats.retain(|seat| seat.attempt().is_ok());
    assert!(opened.survivors.len() >= n - out.ready - out.share - out.upload);
    check(&opened, &seats);
    (bed, seats)
}

async fn play_first_round(bed: &Testbed, n: usize, seed: u64, out: Dropouts) -> Vec<Seat> {
    let seats = bed.seats(|place| anything(seed, place));
    play_all(seats, &out.last_phases(n)).await
}

/// No dropouts, then the tolerated number at each place, then spread over all places.
async fn every_place(n: usize, c_max: u16, min_honest: u16) {
    let seed = seed();
    let mut rng = generator(seed, 0);
    let cohort = Cohort { c_max, min_honest };
    let most = dropouts_tolerated(n, c_max.into(), min_honest.into()).unwrap();
    let mut cases = vec![Dropouts::default()];
    if most > 0 {
        cases.push(Dropouts { ready: most, ..Dropouts::default() });
        cases.push(Dropouts { share: most, ..Dropouts::default() });
        cases.push(Dropouts { upload: most, ..Dropouts::default() });
        cases.push(Dropouts { vote: most, ..Dropouts::default() });
    }
    if most > 2 {
        let each = most / 4;
        let (share, upload) = (each.max(1), each.max(1));
        let vote = most - each - share - upload;
        cases.push(Dropouts { ready: each, share, upload, vote });
    }
    for out in cases {
        let dimension = within(&mut rng, 3..=3_000);
        sum_is_exact(n, cohort, dimension, seed, out).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_opened_sum_is_exact_for_two() {
    every_place(2, 0, 2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_opened_sum_is_exact_for_three() {
    every_place(3, 0, 2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_opened_sum_is_exact_for_four() {
    every_place(4, 1, 2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_opened_sum_is_exact_for_seven() {
    every_place(7, 1, 5).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_opened_sum_is_exact_for_sixteen() {
    every_place(16, 2, 5).await;
}

/// More than one piece of a mask and more than one message of an upload.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_opened_sum_is_exact_for_vectors_of_many_pieces() {
    let cohort = Cohort { c_max: 0, min_honest: 2 };
    sum_is_exact(3, cohort, 300_001, seed(), Dropouts::default()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_opened_sum_is_exact_for_sixty_four() {
    let cohort = Cohort::proposed(64);
    let out = Dropouts { ready: 0, share: 3, upload: 6, vote: 4 };
    sum_is_exact(64, cohort, 1_000, seed(), out).await;
}

/// The largest network that the protocol allows; nothing in it comes near a limit of the wire or of
/// the journal.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_opened_sum_is_exact_for_two_hundred_and_fifty_six() {
    let cohort = Cohort::proposed(MAX_MEMBERS);
    let out = Dropouts { ready: 0, share: 0, upload: 20, vote: 20 };
    let (bed, seats) = sum_is_exact(MAX_MEMBERS, cohort, 64, seed(), out).await;
    let sent = seats.iter().flat_map(|seat| seat.member.sent()).map(|message| message.len()).max();
    let shown = seats.iter().map(|seat| seat.member.longest_poll()).max();
    let events = bed.events().unwrap();
    let entry = events.iter().map(|entry| serde_json::to_vec(&entry.event).unwrap().len()).max();
    println!("the most bytes of a message: {sent:?}, of a view: {shown:?}, of an entry: {entry:?}");
    assert!(sent < Some(MAX_MESSAGE / 2) && shown < Some(MAX_MESSAGE / 2));
    assert!(entry < Some(MAX_ENTRY / 2));
}
