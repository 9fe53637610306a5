//! Files of the coordinator that were changed or are gone: it says which and what to do, and does not run
//! on what it cannot trust.

use std::{collections::BTreeSet, fs, path::Path};

use collegium_coordinator::{
    SIGNING_KEY,
    network::{Event, NetworkEvent},
    round::RoundEvent,
};
use collegium_shared::{
    crypto::{Digest, SigningKey},
    ids::InstitutionId,
    protocol::Ending,
};
use collegium_tests::{
    harness::{attempt, eventually},
    network::{COMMAND_LIMIT, Network},
    simulator::{Federation, Settings},
    testbed::{LIMIT, events},
};

/// The exit code and the words of a start that fails.
fn refused(network: &Network) -> (Option<i32>, String) {
    let mut command = std::process::Command::new(&network.binaries().coordinator);
    command.arg("serve").arg("--dir").arg(network.coordinator_dir());
    let output = attempt(&mut command, COMMAND_LIMIT).unwrap();
    (output.status.code(), String::from_utf8(output.stderr).unwrap())
}

#[test]
fn a_flipped_byte_in_the_journal_is_named_and_nothing_is_served() {
    let dir = tempfile::tempdir().unwrap();
    let mut network = Network::start(dir.path()).unwrap();
    network.enrol(&"school-1".parse().unwrap(), "School 1").unwrap();
    network.stop().unwrap();
    let log = network.coordinator_dir().join("journal").join("journal.log");
    let sound = fs::read(&log).unwrap();
    let mut bytes = sound.clone();
    let word = b"\"invited\"";
    let entry = bytes.windows(word.len()).position(|part| part == word).unwrap();
    bytes[entry + 3] ^= 0x10;
    fs::write(&log, &bytes).unwrap();
    let (code, said) = refused(&network);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("journal.log") && said.contains("entry"), "{said}");
    assert!(said.contains("backup"), "it says what to do: {said}");
    fs::write(&log, &sound).unwrap();
    network.start_coordinator().unwrap();
}

#[test]
fn a_roster_that_is_gone_is_named_and_nothing_is_served() {
    let dir = tempfile::tempdir().unwrap();
    let mut network = Network::start(dir.path()).unwrap();
    network.enrol(&"school-1".parse().unwrap(), "School 1").unwrap();
    network.sign_roster().unwrap();
    network.stop().unwrap();
    let roster = events(&network.coordinator_dir()).unwrap().into_iter().find_map(|entry| {
        match entry.event {
            Event::Network(NetworkEvent::RosterImported { document, .. }) => Some(document),
            _ => None,
        }
    });
    let blob = blob(&network.coordinator_dir(), &roster.unwrap());
    let sound = fs::read(&blob).unwrap();
    fs::remove_file(&blob).unwrap();
    let (code, said) = refused(&network);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains(&roster.unwrap().to_string()) && said.contains("backup"), "{said}");
    fs::write(&blob, sound).unwrap();
    network.start_coordinator().unwrap();
}

fn blob(dir: &Path, digest: &Digest) -> std::path::PathBuf {
    dir.join("blobs").join(digest.to_string())
}

/// Three institutions that are not running yet.
fn three(dir: &Path) -> (Network, Vec<InstitutionId>) {
    let settings = Settings { institutions: 3, size_percent: 3, ..Settings::default() };
    let federation = Federation::simulate(&settings);
    let policy = "tasks = [\"*\"]\narchitectures = [\"load-test/1\"]\nc_max = 0\nn_min = 2\n\
                  min_honest = 2\n";
    let mut network = Network::assemble(dir, &federation, policy).unwrap();
    let names: Vec<_> = federation.institutions.into_iter().map(|i| i.name).collect();
    for name in &names {
        network.agent_process(name).unwrap().kill().unwrap();
    }
    (network, names)
}

/// What a round starts from is gone before anybody has fetched it: agents are told so and stay, and the
/// round ends by itself with the reason.
#[test]
fn a_round_without_its_start_ends_with_a_reason_and_nobody_stops() {
    let dir = tempfile::tempdir().unwrap();
    let (mut network, names) = three(dir.path());
    network
        .start_task(
            "task = \"load\"\narchitecture = \"load-test/1\"\nparameters = 100\nrounds = 1\n\
             cohort = { c_max = 0, min_honest = 2 }\n[deadlines]\nready = 3\n",
        )
        .unwrap();
    let dir = network.coordinator_dir();
    let start = eventually(LIMIT, "the start is made", || {
        Ok(events(&dir)?.into_iter().find_map(|entry| match entry.event {
            Event::Network(NetworkEvent::ModelStepped { candidate }) => Some(candidate.weights),
            _ => None,
        }))
    });
    fs::remove_file(blob(&dir, &start.unwrap())).unwrap();
    for name in &names {
        network.start_agent(name).unwrap();
    }
    let reason = eventually(LIMIT, "a round ends", || {
        network.expect_running()?;
        Ok(events(&dir)?.into_iter().find_map(|entry| match entry.event {
            Event::Round(RoundEvent::Ended { ending: Ending::Abandoned { reason } }) => {
                Some(reason)
            }
            _ => None,
        }))
    });
    assert!(reason.unwrap().contains("0 institutions were ready"));
    for name in &names {
        let told = eventually(LIMIT, "the agent says so", || {
            let status = network.agent_status(name)?;
            let error = status["coordinator"]["error"].as_str().unwrap_or_default().to_owned();
            Ok(error.contains("does not have it").then_some(()))
        });
        told.unwrap();
    }
    let key = SigningKey::load(&dir.join(SIGNING_KEY)).unwrap().verifying_key();
    collegium_shared::audit::verify(&dir.join("journal"), &key).unwrap();
    network.stop().unwrap();
}

/// An agent's input changes on its disk after it was committed to: what was sent of it stays without a
/// header, the agent says why it left, and the round goes on without it.
#[test]
fn an_input_that_was_changed_is_not_uploaded_and_the_round_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let (mut network, names) = three(dir.path());
    for name in &names {
        network.start_agent(name).unwrap();
    }
    network.wait_for_agents(3).unwrap();
    // While one is not ready, the others are committed and wait.
    network.agent_process(&names[2]).unwrap().suspend().unwrap();
    network
        .start_task(
            "task = \"load\"\narchitecture = \"load-test/1\"\nparameters = 300000\nrounds = 1\n\
             cohort = { c_max = 0, min_honest = 2 }\n[deadlines]\nupload = 4\n",
        )
        .unwrap();
    let round = network.agent_dir(&names[0]).join("rounds").join("load-0-0");
    let drawn = || Ok(round.join("secrets").exists().then_some(()));
    eventually(LIMIT, "the agent is committed", drawn).unwrap();
    let mut input = fs::read(round.join("input")).unwrap();
    let last = input.len() - 1_000;
    input[last] ^= 1;
    fs::write(round.join("input"), input).unwrap();
    network.agent_process(&names[2]).unwrap().resume().unwrap();
    let coordinator = network.coordinator_dir();
    let ended = network.wait_until(LIMIT, "the round ends", |_| {
        let all = events(&coordinator)?.into_iter().map(|entry| entry.event);
        let round: Vec<RoundEvent> = all
            .filter_map(|event| match event {
                Event::Round(event) => Some(event),
                Event::Network(_) => None,
            })
            .collect();
        Ok(matches!(round.last(), Some(RoundEvent::Ended { .. })).then_some(round))
    });
    let ended = ended.unwrap();
    let uploaded = ended.iter().filter_map(|event| match event {
        RoundEvent::Uploaded { header } => Some(&header.body.institution),
        _ => None,
    });
    assert_eq!(uploaded.collect::<BTreeSet<_>>(), names[1..].iter().collect());
    assert!(matches!(ended.last(), Some(RoundEvent::Ended { ending: Ending::Released { .. } })));
    let said = network.agent(&names[0], &["audit", "list"]).unwrap();
    let said = String::from_utf8(said.stdout).unwrap();
    let left = said.lines().find(|line| line.contains("round_left"));
    assert!(left.is_some_and(|line| line.contains("the input of round")), "{said}");
    network.stop().unwrap();
}
