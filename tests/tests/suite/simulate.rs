//! The simulated federation: many operations without a violation, and each broken mechanism noticed.
//! `cargo run -p collegium-tests --bin simulate` does the same for as long as one likes.

use std::collections::BTreeSet;

use collegium_tests::simulate::{self, Invariant, Mutation, Options, Report, mutations};

fn run(operations: u64, seed: u64, mutation: Option<Mutation>) -> Report {
    println!("seed {seed}");
    let report = simulate::run(&Options { operations, seed, mutation, shrink: true }).unwrap();
    println!("{report}");
    report
}

fn nothing_is_violated(operations: u64, seed: u64) {
    let report = run(operations, seed, None);
    assert_eq!(report.violations, 0);
    assert!(report.operations >= operations);
    // What does not happen is not tested.
    let harm: BTreeSet<_> = report.seen.keys().copied().collect();
    let expected = [
        "agent died",
        "agent had no room",
        "agent restored",
        "coordinator died",
        "coordinator had no room",
        "coordinator restored",
    ];
    assert_eq!(harm, BTreeSet::from(expected));
    let rounds: BTreeSet<_> = report.rounds.keys().copied().collect();
    assert_eq!(rounds, BTreeSet::from(["abandoned", "aborted", "released"]));
    assert!(report.releases > 0);
}

#[test]
fn fifty_thousand_operations_violate_nothing() {
    nothing_is_violated(50_000, 1);
}

#[test]
fn fifty_thousand_other_operations_violate_nothing() {
    nothing_is_violated(50_000, 2);
}

#[test]
fn every_broken_mechanism_is_noticed_by_the_invariant_that_it_breaks() {
    let table = mutations::table(4).unwrap();
    for caught in &table {
        println!("{caught}");
        assert!(caught.right(), "{caught}");
    }
    let broken: BTreeSet<Invariant> = table.iter().map(|caught| caught.breaks).collect();
    assert_eq!(broken, BTreeSet::from(Invariant::ALL), "an invariant that nothing breaks");
}

#[test]
fn a_failure_is_made_short_and_can_be_repeated() {
    let report = run(10_000, 5, Some(Mutation::ChangesInput));
    let failure = report.failure.unwrap();
    assert!(failure.replay.operations.len() < 60, "{}", failure.replay.operations.len());
    let line = serde_json::to_string(&failure.replay).unwrap();
    let again =
        simulate::replay(&serde_json::from_str(&line).unwrap(), Some(Mutation::ChangesInput));
    let again = again.unwrap().failure.unwrap();
    assert_eq!(again.violation.invariant, Invariant::Masks);
    let sound = simulate::replay(&failure.replay, None).unwrap();
    assert_eq!(sound.failure, None, "without the break nothing is violated");
}

#[test]
fn the_same_seed_gives_the_same_run() {
    assert_eq!(run(3_000, 6, None), run(3_000, 6, None));
}
