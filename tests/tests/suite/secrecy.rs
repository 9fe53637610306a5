//! What the coordinator receives and stores holds no single institution's vector: not as bytes, not
//! as numbers, not as a small combination of what it holds. The same search finds the vectors when
//! a member sends them without masks, so it is a search that bites.

use collegium_shared::{
    crypto::Digest,
    protocol::{Cohort, Deadlines, Phase},
};
use collegium_tests::{
    participant::{Conduct, Seat},
    testbed::Testbed,
};

use crate::{
    random::{anything, seed},
    search::{Evidence, Search, WINDOW},
};

const MEMBERS: usize = 4;
const DIMENSION: usize = 96;
/// The vectors whose finding would give a member away: its own, and the sum of all others.
fn secrets(seats: &[Seat]) -> Vec<(String, Vec<u32>)> {
    let x = |seat: &Seat| seat.attempt().unwrap().x().to_vec();
    let zero = || vec![0_u32; DIMENSION];
    let add = |mut sum: Vec<u32>, x: Vec<u32>| {
        sum.iter_mut().zip(x).for_each(|(sum, word)| *sum = sum.wrapping_add(word));
        sum
    };
    let mut secrets = Vec::new();
    for (place, seat) in seats.iter().enumerate() {
        let others = seats.iter().enumerate().filter(|(other, _)| *other != place);
        let others = others.map(|(_, other)| x(other)).fold(zero(), add);
        secrets.push((format!("the vector of member {place}"), x(seat)));
        secrets.push((format!("the sum without member {place}"), others));
    }
    secrets
}

fn search(seats: &[Seat]) -> Search {
    let scale = seats[0].attempt().unwrap().plan().encoding.segments()[0].scale_log2;
    let secrets = secrets(seats);
    let named = secrets.iter().map(|(name, words)| (name.clone(), words.as_slice()));
    Search::new(named, 2_f64.powi(-scale))
}

fn files(bed: &Testbed, when: &str) -> Evidence {
    let dir = bed.coordinator_dir();
    let name = |path: &std::path::Path| path.strip_prefix(&dir).unwrap().display().to_string();
    let files = bed.files().unwrap();
    files.into_iter().map(|(path, bytes)| (format!("{} {when}", name(&path)), bytes)).collect()
}

async fn play(seats: &mut [Seat], phase: Phase) {
    for seat in seats {
        seat.play(phase).await.unwrap();
    }
}

/// A round in which nothing is erased before it was copied: the files of every phase, with the
/// perishable ones, and all messages.
async fn round(seed: u64, conduct: Conduct) -> (Testbed, Vec<Seat>, Evidence) {
    let mut bed = Testbed::start(MEMBERS, DIMENSION).await.unwrap();
    let cohort = Cohort { c_max: 1, min_honest: 2 };
    bed.start_task(1, Some(cohort), Deadlines::default()).await.unwrap();
    let mut seats = bed.seats(|place| anything(seed, place));
    seats.iter_mut().for_each(|seat| seat.conduct(conduct));
    let mut evidence = Evidence::new();
    for phase in [Phase::Ready, Phase::Share, Phase::Upload, Phase::Vote] {
        play(&mut seats, phase).await;
        evidence.extend(files(&bed, &format!("after {phase:?}")));
    }
    // One less than a quorum has revealed: the files of this round are still there.
    play(&mut seats[..2], Phase::Reveal).await;
    let name = bed.round_dir(seats[0].attempt().unwrap().round());
    let uploads = std::fs::read_dir(&name).unwrap().count();
    assert_eq!(uploads, MEMBERS + MEMBERS + 2, "shares, uploads and reveals lie in {name:?}");
    evidence.extend(files(&bed, "before the last reveal"));
    play(&mut seats[2..], Phase::Reveal).await;
    bed.ending(0).await.unwrap();
    bed.stop().await.unwrap();
    assert!(!name.exists(), "the files of a round go when it ends");
    evidence.extend(files(&bed, "at the end"));
    for (place, seat) in seats.iter().enumerate() {
        let sent = seat.member.sent();
        assert!((5..=6).contains(&sent.len()), "the last one need not reveal: {}", sent.len());
        evidence
            .extend(sent.into_iter().map(|bytes| (format!("a message of member {place}"), bytes)));
    }
    (bed, seats, evidence)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_that_the_coordinator_has_holds_one_institutions_vector() {
    let (bed, seats, evidence) = round(seed(), Conduct::default()).await;
    let opened = bed.sum(0).await.unwrap();
    assert_eq!(opened.survivors.len(), MEMBERS);
    assert_eq!(search(&seats).find(&evidence), [""; 0]);

    // The sum itself is found: the search reads what is stored in the form in which it is stored.
    let mut whole = vec![0_u32; DIMENSION];
    for seat in &seats {
        let x = seat.attempt().unwrap().x();
        whole.iter_mut().zip(x).for_each(|(sum, word)| *sum = sum.wrapping_add(*word));
    }
    let scale = seats[0].attempt().unwrap().plan().encoding.segments()[0].scale_log2;
    let sum = Search::new([("the sum".to_owned(), whole.as_slice())], 2_f64.powi(-scale));
    assert!(!sum.find(&evidence).is_empty(), "the published sum is not where it should be");
    assert!(evidence.iter().any(|(_, bytes)| Digest::of(bytes) == opened.sum));
    no_small_combination(&seats, &whole, &evidence);
}

/// No sum or difference of uploads and the opened sum agrees with a secret in a run of words.
fn no_small_combination(seats: &[Seat], sum: &[u32], evidence: &Evidence) {
    let uploads = evidence.iter().filter(|(place, bytes)| {
        place.contains("upload-") && place.contains("after Vote") && bytes.len() == 4 * DIMENSION
    });
    let words = |bytes: &[u8]| -> Vec<u32> {
        let (words, _) = bytes.as_chunks::<4>();
        words.iter().map(|word| u32::from_le_bytes(*word)).collect()
    };
    let mut known: Vec<Vec<u32>> = uploads.map(|(_, bytes)| words(bytes)).collect();
    assert_eq!(known.len(), MEMBERS);
    known.push(sum.to_vec());
    let secrets = secrets(seats);
    let combinations = 3_usize.pow(u32::try_from(known.len()).unwrap());
    for combination in 0..combinations {
        let mut total = vec![0_u32; DIMENSION];
        let mut rest = combination;
        for vector in &known {
            let sign = rest % 3;
            rest /= 3;
            for (total, word) in total.iter_mut().zip(vector) {
                *total = match sign {
                    0 => *total,
                    1 => total.wrapping_add(*word),
                    _ => total.wrapping_sub(*word),
                };
            }
        }
        for (name, secret) in &secrets {
            let same = |(a, b): (&[u32], &[u32])| a == b;
            let run = total.windows(WINDOW).zip(secret.windows(WINDOW)).any(same);
            assert!(!run, "{name} is combination {combination} of what the coordinator holds");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_search_finds_a_vector_that_is_sent_without_masks() {
    let (_bed, seats, evidence) =
        round(seed(), Conduct { unmasked: true, ..Conduct::default() }).await;
    let found = search(&seats).find(&evidence);
    for place in 0..MEMBERS {
        let here = |what: &str| {
            found
                .iter()
                .any(|f| f.contains(&format!("the vector of member {place} ")) && f.contains(what))
        };
        assert!(here("a message"), "not in the messages: {found:?}");
        assert!(here("rounds/"), "not in the round's files: {found:?}");
    }
}
