//! A file system that is really full: a small one of memory (tmpfs), in a mount namespace of this test's
//! own. A coordinator that fills it while it works, and one that starts on it, wait and go on. Where such a
//! namespace cannot be made, the test says so and shows nothing.

use std::{
    env,
    fs::{self, File},
    io::Write,
    os::unix::{fs::symlink, net::UnixStream},
    path::{Path, PathBuf},
    process::Command,
};

use collegium_coordinator::network::{Event, NetworkEvent};
use collegium_shared::journal::hold;
use collegium_tests::{
    harness::{self, attempt, eventually},
    network::Network,
    testbed::{LIMIT, events},
};

/// Tells the process that has a namespace of its own where the small file system shall be.
const PLACE: &str = "COLLEGIUM_FULL_DEVICE";
const SIZE: &str = "size=32m";

fn mount(place: &Path) -> Command {
    let mut mount = Command::new("mount");
    mount.args(["-t", "tmpfs", "-o", SIZE, "none"]).arg(place);
    mount
}

/// `command` in a mount namespace of its own, as its root.
fn apart(command: &Command) -> Command {
    let mut apart = Command::new("unshare");
    apart.args(["--user", "--map-root-user", "--mount", "--propagation", "private", "--"]);
    apart.arg(command.get_program()).args(command.get_args());
    apart
}

#[test]
fn a_coordinator_on_a_full_file_system_waits_and_goes_on() {
    if let Some(place) = env::var_os(PLACE) {
        return within_a_small_file_system(Path::new(&place));
    }
    let dir = tempfile::tempdir().unwrap();
    let place = dir.path().join("small");
    fs::create_dir(&place).unwrap();
    let tried = attempt(&mut apart(&mount(&place)), LIMIT);
    if !tried.is_ok_and(|tried| tried.status.success()) {
        eprintln!("LEFT OUT: no namespace with a file system of its own can be made here");
        return;
    }
    let mut again = Command::new(env::current_exe().unwrap());
    let test = "full_device::a_coordinator_on_a_full_file_system_waits_and_goes_on";
    again.args(["--exact", test, "--nocapture"]);
    // Its own words come last, without a backtrace after them.
    let again = &mut apart(&again);
    let ended =
        harness::run(again.env(PLACE, &place).env("RUST_BACKTRACE", "0"), LIMIT * 3).unwrap();
    let said = String::from_utf8_lossy(&ended.stdout).into_owned();
    assert!(said.contains("1 passed"), "{said}");
}

/// Takes all the room that is left; gives what has to be removed.
fn fill(dir: &Path) -> PathBuf {
    let path = dir.join("ballast");
    let mut file = File::create(&path).unwrap();
    for step in [1 << 20, 4 << 10, 1] {
        while file.write_all(&vec![7; step]).is_ok() {}
    }
    path
}

fn invite(network: &Network, name: &str) -> anyhow::Result<()> {
    // Beside the small file system, so that the command itself has room.
    let out = network.dir().with_file_name(format!("{name}.token"));
    let _ = fs::remove_file(&out);
    let out = out.display().to_string();
    let words = ["invite", name, "--legal-entity", name, "--out", &out];
    network.coordinator(&words).map(drop)
}

fn within_a_small_file_system(dir: &Path) {
    harness::run(&mut mount(dir), LIMIT).unwrap();
    let logs = dir.with_file_name("logs");
    fs::create_dir(&logs).unwrap();
    symlink(&logs, dir.join("logs")).unwrap();
    let mut network = Network::start(dir).unwrap();
    invite(&network, "before").unwrap();

    let ballast = fill(dir);
    // The page that a file ends in has room.
    let mut names = (0..).map(|number| format!("meanwhile-{number:03}"));
    let refused = names.find_map(|name| Some((invite(&network, &name).err()?.to_string(), name)));
    let (said, refused) = refused.unwrap();
    assert!(said.contains("storage"), "{said}");
    let waiting = eventually(LIMIT, "it says what it waits for", || {
        let status = network.status()?;
        Ok(status["process"]["storage_waiting"].as_str().map(str::to_owned))
    })
    .unwrap();
    assert!(waiting.contains("No space left on device"), "{waiting}");
    fs::remove_file(ballast).unwrap();
    eventually(LIMIT, "it goes on", || Ok(invite(&network, &refused).ok())).unwrap();
    network.stop().unwrap();

    // The view is made anew from the journal: removing an old one would make room.
    fs::remove_dir_all(network.coordinator_dir().join("view")).unwrap();
    let ballast = fill(dir);
    let log = logs.join("coordinator.stderr");
    let before = fs::read_to_string(&log).unwrap().len();
    network.launch_coordinator(&[]).unwrap();
    let waits = eventually(LIMIT, "it waits at its start", || {
        network.expect_running()?;
        let said = fs::read_to_string(&log)?;
        Ok(said[before..].contains("the storage is full or failing").then_some(()))
    });
    assert!(waits.is_ok(), "{waits:?}: {}", network.last_words().unwrap());
    let started = network.coordinator_process().unwrap().id();
    // A command that finds no daemon opens the directory itself, just then.
    let held = hold(&network.coordinator_dir().join("journal")).unwrap();
    fs::remove_file(ballast).unwrap();
    eventually(LIMIT, "it waits for the command", || {
        network.expect_running()?;
        let said = fs::read_to_string(&log)?;
        Ok(said[before..].contains("a command has opened the directory").then_some(()))
    })
    .unwrap();
    drop(held);
    let socket = network.coordinator_dir().join("run").join("control.sock");
    eventually(LIMIT, "it serves", || Ok(UnixStream::connect(&socket).ok())).unwrap();
    invite(&network, "after").unwrap();
    assert_eq!(network.coordinator_process().unwrap().id(), started);
    network.stop().unwrap();

    network.coordinator(&["audit", "verify"]).unwrap();
    let recorded = events(&network.coordinator_dir()).unwrap();
    let invited = recorded.iter().filter_map(|entry| match &entry.event {
        Event::Network(NetworkEvent::Invited { institution, .. }) => Some(institution.as_str()),
        _ => None,
    });
    let mut invited: Vec<&str> = invited.collect();
    // The one that was refused may stand there twice.
    invited.dedup();
    let mut acknowledged = vec!["before".to_owned()];
    let meanwhile = (0..).map(|number| format!("meanwhile-{number:03}"));
    acknowledged.extend(meanwhile.take_while(|name| *name <= refused));
    acknowledged.push("after".to_owned());
    assert_eq!(invited, acknowledged);
}
