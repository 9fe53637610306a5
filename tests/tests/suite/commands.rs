//! What the coordinator's commands say when something is wrong with their directory: the file, the
//! entry or the key, the reason, and what to do; and the exit code that a supervisor goes by.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use collegium_coordinator::{
    network::{Event, NetworkEvent},
    service,
};
use collegium_shared::clock::Clock;
use collegium_tests::{
    harness::{self, attempt},
    testbed::{LIMIT, Testbed},
};

fn coordinator(words: &[&str], dir: &Path) -> Output {
    let mut command = Command::new(&harness::binaries().unwrap().coordinator);
    attempt(command.args(words).arg("--dir").arg(dir), LIMIT).unwrap()
}

/// The command fails with `code` and says all of `words`.
#[track_caller]
fn fails(output: &Output, code: i32, words: &[&str]) {
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{said}");
    for word in words {
        assert!(said.contains(word), "{word:?} is not in: {said}");
    }
}

fn initialised() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let home = dir.path().join("coordinator");
    let port = harness::free_port().unwrap();
    service::init(&home, ([127, 0, 0, 1], port).into(), Clock::system().now()).unwrap();
    (dir, home)
}

#[test]
fn an_unknown_key_in_the_configuration_is_named() {
    let (_dir, home) = initialised();
    let path = home.join("coordinator.toml");
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, format!("round_robin = true\n{text}")).unwrap();
    fails(&coordinator(&["serve"], &home), 78, &["coordinator.toml", "round_robin"]);
    fails(&coordinator(&["status"], &home), 78, &["coordinator.toml", "round_robin"]);
}

#[test]
fn a_directory_is_initialised_once() {
    let (_dir, home) = initialised();
    let key = fs::read(home.join("keys/signing.key")).unwrap();
    fails(&coordinator(&["init"], &home), 1, &[home.to_str().unwrap(), "already"]);
    assert_eq!(fs::read(home.join("keys/signing.key")).unwrap(), key);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_port_or_directory_that_is_in_use_is_named() {
    let bed = Testbed::empty().await.unwrap();
    let (_dir, home) = initialised();
    let config = fs::read_to_string(home.join("coordinator.toml")).unwrap();
    let taken = format!("listen = \"127.0.0.1:{}\"", bed.port());
    let line = config.lines().find(|line| line.starts_with("listen")).unwrap();
    fs::write(home.join("coordinator.toml"), config.replace(line, &taken)).unwrap();
    let output = tokio::task::block_in_place(|| coordinator(&["serve"], &home));
    fails(&output, 1, &[&format!("127.0.0.1:{} is in use", bed.port()), "coordinator.toml"]);
    let dir = bed.coordinator_dir();
    let output = tokio::task::block_in_place(|| coordinator(&["serve"], &dir));
    fails(&output, 1, &["in use by another process", "stop the daemon"]);
    bed.status().await.unwrap();
}

/// A stopped coordinator with a log of some length, and the index of its first enrolment.
async fn with_a_log() -> (Testbed, PathBuf, usize) {
    let mut bed = Testbed::start(3, 9).await.unwrap();
    bed.stop().await.unwrap();
    let enrolled = |event: &Event| matches!(event, Event::Network(NetworkEvent::Enrolled { .. }));
    let index = bed.events().unwrap().iter().position(|entry| enrolled(&entry.event)).unwrap();
    let log = bed.coordinator_dir().join("journal/journal.log");
    (bed, log, index)
}

fn place(bytes: &[u8], word: &[u8]) -> usize {
    bytes.windows(word.len()).position(|window| window == word).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_changed_entry_of_the_log_is_named_and_nothing_is_served() {
    let (bed, log, index) = with_a_log().await;
    let dir = bed.coordinator_dir();
    tokio::task::block_in_place(|| {
        let sound = coordinator(&["audit", "verify"], &dir);
        assert!(sound.status.success(), "{}", String::from_utf8_lossy(&sound.stderr));
        let mut bytes = fs::read(&log).unwrap();
        let position = place(&bytes, b"\"enrolled\"");
        bytes[position + 3] ^= 1;
        fs::write(&log, &bytes).unwrap();
        let entry = format!("entry {index} at byte");
        let what_to_do = "restore";
        fails(&coordinator(&["audit", "verify"], &dir), 1, &[&entry, "journal.log", what_to_do]);
        fails(&coordinator(&["serve"], &dir), 1, &[&entry, "journal.log", what_to_do]);
        fails(&coordinator(&["status"], &dir), 1, &[&entry, "journal.log", what_to_do]);
        assert_eq!(fs::read(&log).unwrap(), bytes, "and nothing is repaired by force");
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_truncated_log_is_named_and_nothing_is_served() {
    let (bed, log, index) = with_a_log().await;
    let dir = bed.coordinator_dir();
    tokio::task::block_in_place(|| {
        let bytes = fs::read(&log).unwrap();
        let cut = place(&bytes, b"\"enrolled\"");
        fs::write(&log, &bytes[..cut]).unwrap();
        let held = format!("journal.log is truncated: it holds {index} sealed entries");
        fails(&coordinator(&["audit", "verify"], &dir), 1, &[&held, "restore"]);
        fails(&coordinator(&["serve"], &dir), 1, &[&held, "restore"]);
        fs::write(&log, b"").unwrap();
        fails(&coordinator(&["serve"], &dir), 1, &["journal.log is truncated"]);
    });
}
