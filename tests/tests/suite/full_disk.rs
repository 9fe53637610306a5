//! The coordinator's disk is full while operators ask for things: what is not recorded is not acknowledged,
//! status answers all the while, and it goes on by itself.

use std::{collections::BTreeSet, path::Path};

use collegium_coordinator::network::{Event, NetworkEvent};
use collegium_shared::ids::InstitutionId;
use collegium_tests::{
    harness::{attempt, eventually},
    network::{COMMAND_LIMIT, Network},
    testbed::{LIMIT, events},
};

/// A coordinator that fails to write from about its fifth request on, `times` times.
fn short_of_space(dir: &Path, times: u32) -> Network {
    let mut network = Network::start(dir).unwrap();
    network.coordinator_process().unwrap().kill().unwrap();
    let fault = format!("enospc@40+{times}");
    network.launch_coordinator(&[("COLLEGIUM_FAULT", fault)]).unwrap();
    let socket = network.coordinator_dir().join("run").join("control.sock");
    let connected = || Ok(std::os::unix::net::UnixStream::connect(&socket).ok());
    eventually(LIMIT, "the coordinator answers", connected).unwrap();
    network
}

/// Asks for an invitation; the words of a refusal.
fn invite(network: &Network, name: &InstitutionId) -> Result<(), String> {
    let mut command = std::process::Command::new(&network.binaries().coordinator);
    command.args(["invite", name.as_str(), "--legal-entity", name.as_str(), "--dir"]);
    command.arg(network.coordinator_dir());
    command.arg("--out").arg(network.dir().join(format!("{name}.token")));
    let output = attempt(&mut command, COMMAND_LIMIT).unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    if output.status.success() { Ok(()) } else { Err(said) }
}

fn names() -> impl Iterator<Item = InstitutionId> {
    (0..).map(|i| format!("school-{i}").parse().unwrap())
}

#[test]
fn what_was_acknowledged_around_a_full_disk_is_recorded_and_work_goes_on_by_itself() {
    let dir = tempfile::tempdir().unwrap();
    let mut network = short_of_space(dir.path(), 3);
    let mut acknowledged = BTreeSet::new();
    let mut names = names();
    let refused = names.find(|name| match invite(&network, name) {
        Ok(()) => {
            acknowledged.insert(name.clone());
            false
        }
        Err(_) => true,
    });
    let refused = refused.unwrap();
    // The same request again: whether it was recorded or not does not show before the restart.
    eventually(LIMIT, "the coordinator goes on", || Ok(invite(&network, &refused).ok())).unwrap();
    acknowledged.insert(refused);
    for name in names.take(2) {
        invite(&network, &name).unwrap();
        acknowledged.insert(name);
    }
    let log = network.coordinator_process().unwrap().stderr().unwrap();
    assert!(log.contains("the storage is full or failing"), "{log}");
    network.stop().unwrap();
    let recorded: BTreeSet<InstitutionId> = events(&network.coordinator_dir())
        .unwrap()
        .into_iter()
        .filter_map(|entry| match entry.event {
            Event::Network(NetworkEvent::Invited { institution, .. }) => Some(institution),
            _ => None,
        })
        .collect();
    assert!(recorded.is_superset(&acknowledged), "{acknowledged:?}, but {recorded:?}");
}

#[test]
fn status_answers_while_the_disk_stays_full_and_a_restart_finds_everything() {
    let dir = tempfile::tempdir().unwrap();
    let mut network = short_of_space(dir.path(), 1_000_000);
    let mut acknowledged = 0;
    let said = names().find_map(|name| match invite(&network, &name) {
        Ok(()) => {
            acknowledged += 1;
            None
        }
        Err(said) => Some(said),
    });
    assert!(acknowledged > 0);
    assert!(said.unwrap().contains("storage is in trouble"));
    let again = invite(&network, &"one-more".parse().unwrap()).unwrap_err();
    assert!(again.contains("storage is full"), "{again}");
    let status = network.status().unwrap();
    assert!(status["process"]["storage_waiting"].is_string(), "{status}");
    let mut doctor = std::process::Command::new(&network.binaries().coordinator);
    doctor.arg("doctor").arg("--dir").arg(network.coordinator_dir());
    let found = attempt(&mut doctor, COMMAND_LIMIT).unwrap();
    let found = String::from_utf8_lossy(&found.stdout).into_owned();
    assert!(found.contains("FAIL  storage       the coordinator waits for its disk"), "{found}");
    network.expect_running().unwrap();
    network.coordinator_process().unwrap().kill().unwrap();
    network.start_coordinator().unwrap();
    let invited = |entry: &collegium_shared::journal::Entry<Event>| {
        matches!(entry.event, Event::Network(NetworkEvent::Invited { .. }))
    };
    let recorded =
        events(&network.coordinator_dir()).unwrap().iter().filter(|e| invited(e)).count();
    assert!(recorded >= acknowledged, "{recorded} of {acknowledged}");
    network.stop().unwrap();
}
