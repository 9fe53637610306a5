//! Real processes are killed, and have their disk filled, at edges that they pass, a few of each kind;
//! `cargo run -p collegium-tests --bin crash` does the same for as long as one likes.

use collegium_tests::crash::{self, During, Harm, Options, Return, Side};

use crate::random::seed;

fn survive(faults: usize, during: During, harm: Harm) {
    let options = Options {
        faults,
        during,
        seed: Some(seed()),
        side: Side::Both,
        harm,
        back: Return::AtOnce,
        institutions: 3,
        parameters: 300,
    };
    let report = crash::run(&options).unwrap();
    println!("{report}");
    assert!(report.violations.is_empty(), "{:?}", report.violations);
    assert!(report.faults >= faults);
}

#[test]
fn processes_that_are_killed_at_their_edges_lose_nothing() {
    survive(40, During::Rounds, Harm::Kill);
}

#[test]
fn processes_whose_disk_is_full_wait_and_lose_nothing() {
    survive(12, During::Rounds, Harm::Enospc);
}

#[test]
fn processes_whose_disk_fails_wait_and_lose_nothing() {
    survive(6, During::Rounds, Harm::Eio);
}

#[test]
fn processes_that_are_killed_at_their_first_start_start_again() {
    survive(8, During::FirstStarts, Harm::Kill);
}

#[test]
fn processes_that_are_killed_while_a_key_is_replaced_finish_it() {
    survive(4, During::Rotations, Harm::Kill);
}
