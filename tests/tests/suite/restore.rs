//! The restore drill: a coordinator's directory is lost, and its network goes on from a backup that is
//! older than what its agents have seen. All in processes of their own, through the command line.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Output,
    time::Duration,
};

use collegium_coordinator::{
    SIGNING_KEY,
    network::{Event, NetworkEvent},
};
use collegium_shared::{
    crypto::{Digest, SigningKey},
    ids::InstitutionId,
    journal::History,
};
use collegium_tests::{
    harness::{self, eventually},
    network::{COMMAND_LIMIT, Network},
    testbed::{LIMIT, events},
};

use crate::agents::{POLICY, federation, task, wait_for_sums};

const TASK: Duration = Duration::from_secs(120);

fn said(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// The log in a coordinator's directory, checked.
fn history(dir: &Path) -> History {
    let key = SigningKey::load(&dir.join(SIGNING_KEY)).unwrap().verifying_key();
    History::audit(&dir.join("journal"), &key).unwrap()
}

/// Makes a backup while a round is open and stays open, because one agent stands still.
fn backup_within_a_round(network: &mut Network, sleeper: &InstitutionId, out: &Path) {
    network.agent_process(sleeper).unwrap().suspend().unwrap();
    let open = |status: &serde_json::Value| Ok((!status["round"].is_null()).then_some(()));
    network.wait_until(LIMIT, "a round is open", open).unwrap();
    let made = network.coordinator(&["backup", "--out", out.to_str().unwrap()]).unwrap();
    assert!(said(&made).contains("holds the private keys"), "{}", said(&made));
    network.agent_process(sleeper).unwrap().resume().unwrap();
}

fn wait_for_model(network: &Network, name: &InstitutionId, task: &str, version: u64) {
    let installed = eventually(LIMIT, "a model is installed", || {
        let model = network.agent_status(name)?["model"].clone();
        Ok((model["task"] == task && model["version"].as_u64() >= Some(version)).then_some(()))
    });
    installed.unwrap_or_else(|error| panic!("{name}: {error:#}"));
}

#[test]
fn a_lost_coordinator_is_restored_and_the_same_agents_train_on() {
    let dir = tempfile::tempdir().unwrap();
    let federation = federation();
    let mut network = Network::assemble(dir.path(), &federation, POLICY).unwrap();
    let names: Vec<InstitutionId> =
        federation.institutions.iter().map(|institution| institution.name.clone()).collect();
    network.start_task(&task("kt-before", 200, 60)).unwrap();
    wait_for_sums(&mut network, 4);
    let archive = dir.path().join("backup.tar");
    backup_within_a_round(&mut network, &names[1], &archive);

    // All that the backup does not know: rounds, models, a roster, an institution.
    for name in &names {
        wait_for_model(&network, name, "kt-before", 3);
    }
    network.sign_roster().unwrap();
    let roster: PathBuf = dir.path().join("exchange/roster.signed");
    let late: InstitutionId = "late".parse().unwrap();
    network.enrol(&late, "Late").unwrap();
    for name in &names {
        let seen = eventually(LIMIT, "the new roster is accepted", || {
            Ok((network.agent_status(name)?["roster"]["version"] == 2).then_some(()))
        });
        seen.unwrap();
    }
    network.coordinator_process().unwrap().kill().unwrap();
    let lost = history(&network.coordinator_dir());
    let lost_root: Vec<Digest> =
        (1..=lost.size()).map(|size| lost.root_at(size).unwrap()).collect();
    fs::remove_dir_all(network.coordinator_dir()).unwrap();

    let made = network.coordinator(&["restore", archive.to_str().unwrap()]).unwrap();
    assert!(said(&made).contains("import the newest signed roster"), "{}", said(&made));
    let kept = history(&network.coordinator_dir());
    assert!(kept.size() < lost.size());
    assert_eq!(kept.root(), lost_root[usize::try_from(kept.size()).unwrap() - 1]);
    network.start_coordinator().unwrap();
    let status = network.status().unwrap();
    let reason = status["task"]["ending"]["reason"].as_str().unwrap();
    assert!(reason.contains("restored from a backup"), "{status}");
    network.start_agent(&late).unwrap();
    let error = eventually(LIMIT, "the late institution is told", || {
        Ok(network.agent_status(&late)?["coordinator"]["error"].as_str().map(str::to_owned))
    });
    assert!(error.as_ref().unwrap().contains("certificate"), "{error:?}");
    let import = ["roster", "import", roster.to_str().unwrap()];
    network.coordinator(&import).unwrap();
    network.start_task(&task("kt-after", 2, 60)).unwrap();
    let ended = network.wait_for_task(TASK).unwrap();
    assert_eq!((&ended["rounds_completed"], &ended["rounds_failed"]), (&6.into(), &0.into()));

    for name in &names {
        wait_for_model(&network, name, "kt-after", 2);
        network.agent(name, &["audit", "verify"]).unwrap();
    }
    network.coordinator(&["audit", "verify"]).unwrap();
    let checked = network.coordinator(&["store", "check"]).unwrap();
    assert!(said(&checked).contains("the coordinator is running"), "{}", said(&checked));
    let mut rebuild = std::process::Command::new(&network.binaries().coordinator);
    rebuild.args(["store", "rebuild", "--dir"]).arg(network.coordinator_dir());
    let refused = harness::attempt(&mut rebuild, COMMAND_LIMIT).unwrap();
    let words = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(refused.status.code() == Some(1) && words.contains("is running"), "{words}");
    network.stop().unwrap();
    let after = history(&network.coordinator_dir());
    assert_eq!(after.root_at(kept.size()).unwrap(), kept.root(), "goes on from the backup's log");
    let events = events(&network.coordinator_dir()).unwrap();
    let place = usize::try_from(kept.size()).unwrap();
    let (backup_root, size) = (kept.root(), kept.size());
    assert_eq!(events[place].event, Event::Network(NetworkEvent::Restored { backup_root, size }));
    check_and_rebuild(&network);
}

/// What operators see of a view that is sound, wrong and gone, with the same state each time.
fn check_and_rebuild(network: &Network) {
    let word = |output: &Output, name: &str| {
        let line = said(output).lines().find(|line| line.starts_with(name)).map(str::to_owned);
        line.unwrap_or_else(|| panic!("no {name} in {}", said(output)))
    };
    let sound = network.coordinator(&["store", "check"]).unwrap();
    let state = word(&sound, "state");
    let rebuilt = network.coordinator(&["store", "rebuild"]).unwrap();
    assert_eq!(word(&rebuilt, "state"), state);
    assert!(word(&rebuilt, "view before").contains("sound"), "{}", said(&rebuilt));
    for entry in fs::read_dir(network.coordinator_dir().join("view")).unwrap() {
        let path = entry.unwrap().path();
        if path.is_file() {
            fs::write(path, b"garbage").unwrap();
        }
    }
    let mut check = std::process::Command::new(&network.binaries().coordinator);
    check.args(["store", "check", "--dir"]).arg(network.coordinator_dir());
    let damaged = harness::attempt(&mut check, COMMAND_LIMIT).unwrap();
    assert_eq!(damaged.status.code(), Some(1), "{}", said(&damaged));
    assert!(word(&damaged, "  fix").contains("store rebuild"), "{}", said(&damaged));
    let rebuilt = network.coordinator(&["store", "rebuild"]).unwrap();
    assert!(word(&rebuilt, "view before").contains("damaged"), "{}", said(&rebuilt));
    assert_eq!(word(&rebuilt, "state"), state);
    network.coordinator(&["store", "check"]).unwrap();
}
