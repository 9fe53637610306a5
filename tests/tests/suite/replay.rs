//! The journal is the truth: folding it again, with or without the view, gives the state that the
//! running coordinator had.

use std::fs;

use collegium_coordinator::{config::Config, driver::Driver, network::Network};
use collegium_shared::{
    clock::Clock,
    crypto::Digest,
    protocol::{Cohort, Deadlines, Ending, Phase},
};
use collegium_tests::testbed::{Testbed, endings};
use tokio::task::JoinSet;

use crate::random::sensible;

/// Plays rounds until the task is over.
async fn run_a_task(bed: &Testbed, rounds: u32) {
    let cohort = Cohort { c_max: 0, min_honest: 2 };
    bed.start_task(rounds, Some(cohort), Deadlines::default()).await.unwrap();
    let mut playing = JoinSet::new();
    for mut seat in bed.seats(sensible) {
        playing.spawn(async move {
            loop {
                seat.play(Phase::Ended).await.unwrap();
                seat.next_round();
            }
        });
    }
    let over = |status: &serde_json::Value| !status["task"]["ending"].is_null();
    let waiting = async {
        while !over(&bed.status().await.unwrap()) {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(collegium_tests::testbed::LIMIT, waiting).await.unwrap();
    playing.abort_all();
}

/// The state after opening the directory as a starting coordinator does.
fn reopened(bed: &Testbed) -> Digest {
    let dir = bed.coordinator_dir();
    let config = Config::load(&dir).unwrap();
    let (_driver, handle) = Driver::open(&dir, &config, Clock::system()).unwrap();
    handle.published().network.digest().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replaying_the_journal_gives_the_state_of_the_live_machine() {
    let mut bed = Testbed::start(3, 12).await.unwrap();
    run_a_task(&bed, 2).await;
    let status = bed.status().await.unwrap();
    assert_eq!(status["task"]["ending"]["end"], "completed", "{status}");
    let live: Digest = status["state_sha256"].as_str().unwrap().parse().unwrap();
    bed.stop().await.unwrap();

    let events = bed.events().unwrap();
    let released = endings(&events).filter(|e| matches!(e, Ending::Released { .. })).count();
    assert_eq!(released, 6, "support, statistics, totals, two steps, evaluation");
    let mut network = Network::default();
    for entry in &events {
        network.apply(&entry.event, entry.at);
    }
    assert_eq!(network.digest().unwrap(), live, "folded from the first entry");
    assert_eq!(network.round().map(|round| round.phase()), Some(Phase::Ended));

    let view = bed.coordinator_dir().join("view");
    assert!(view.is_dir());
    assert_eq!(reopened(&bed), live, "with the view intact");
    fs::remove_dir_all(&view).unwrap();
    assert_eq!(reopened(&bed), live, "with the view removed");
    for entry in fs::read_dir(&view).unwrap() {
        let path = entry.unwrap().path();
        if path.is_file() {
            fs::write(path, b"garbage, garbage").unwrap();
        }
    }
    assert_eq!(reopened(&bed), live, "with garbage in the view's files");
    fs::remove_dir_all(&view).unwrap();
    fs::write(&view, b"no directory at all").unwrap();
    assert_eq!(reopened(&bed), live, "with garbage in the view's place");
}
