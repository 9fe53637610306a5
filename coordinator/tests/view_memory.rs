//! What the view holds in memory does not grow with the number of snapshots that were saved. A program
//! of its own, because it measures its own process.
#![expect(clippy::unwrap_used, reason = "a failed expectation is how a test says what it found")]

use std::fs;

use collegium_coordinator::{
    network::{Event, Network, NetworkEvent},
    store::{Snapshot, Store},
};
use collegium_shared::{clock::Timestamp, crypto::Digest};

/// Bytes of a snapshot, about: that of a round of some hundred institutions.
const SNAPSHOT: usize = 1 << 20;
/// Snapshots: fewer than the 64 after which sled's garbage of a thread goes anyhow.
const SAVES: u64 = 50;
/// sled keeps up to ten changes of a page beside it, and frees others a moment later.
const BOUND: usize = 20 * SNAPSHOT;

/// `VmRSS` of proc_pid_status(5), in bytes.
fn resident() -> usize {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<usize>().unwrap() * 1024
}

#[test]
fn saving_again_and_again_does_not_fill_the_memory() {
    let mut network = Network::default();
    let invited = NetworkEvent::Invited {
        institution: "school-a".parse().unwrap(),
        legal_entity: "x".repeat(SNAPSHOT),
        token_sha256: Digest::of(b"token"),
        expires_at: Timestamp::EPOCH,
    };
    network.apply(&Event::Network(invited), Timestamp::EPOCH);
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let root = Digest::of(b"root");
    let mut snapshot = Snapshot::new(0, root, network);
    store.save(&snapshot).unwrap();
    let before = resident();
    for position in 1..=SAVES {
        snapshot.position = position;
        store.save(&snapshot).unwrap();
    }
    let grown = resident().saturating_sub(before);
    assert!(grown < BOUND, "{SAVES} snapshots of {SNAPSHOT} bytes left {grown} bytes in memory");
    assert_eq!(store.load().unwrap().position, SAVES);
}
