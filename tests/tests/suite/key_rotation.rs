//! The coordinator's signing key is replaced while an agent is away; it, and a new one, install what the
//! key before had released, train on under the new key, and both sides' logs verify.

use std::{fs, path::Path};

use collegium_shared::{crypto::SigningKey, ids::InstitutionId};
use collegium_tests::{
    harness::eventually,
    network::Network,
    simulator::{Federation, Settings},
    testbed::LIMIT,
};

use crate::agents::{POLICY, task};

fn installed(network: &Network, name: &InstitutionId) -> Option<String> {
    let model = network.agent_status(name).unwrap()["model"].clone();
    model["task"].as_str().map(|task| format!("{task} {}", model["version"]))
}

fn wait_for_model(network: &Network, name: &InstitutionId, wanted: &str) {
    eventually(LIMIT, &format!("{name} has {wanted}"), || {
        Ok((installed(network, name).as_deref() == Some(wanted)).then_some(()))
    })
    .unwrap();
}

fn key_in(dir: &Path) -> String {
    let key = SigningKey::load(&dir.join("keys/signing.key")).unwrap();
    key.verifying_key().fingerprint().to_string()
}

#[test]
fn the_signing_key_is_replaced_and_who_was_away_takes_what_the_old_one_released() {
    let dir = tempfile::tempdir().unwrap();
    let settings = Settings { institutions: 4, size_percent: 3, ..Settings::default() };
    let federation = Federation::simulate(&settings);
    let mut network = Network::start(dir.path()).unwrap();
    network.set_patience(1).unwrap();
    let files = federation.write_to(&dir.path().join("data")).unwrap();
    let names: Vec<InstitutionId> =
        federation.institutions.iter().map(|i| i.name.clone()).collect();
    let prepare = |network: &mut Network, place: usize| {
        network.set_policy(&names[place], POLICY).unwrap();
        network.import_records(&names[place], &files.records[place], &files).unwrap();
        network.start_agent(&names[place]).unwrap();
    };
    for institution in &federation.institutions[..3] {
        network.enrol(&institution.name, &institution.legal_entity).unwrap();
    }
    network.sign_roster().unwrap();
    network.publish_registry(&files.registry).unwrap();
    // The last rows of those who are summed twice come in later: over the same records they are in no sum of
    // others.
    let whole: Vec<String> =
        files.records[..2].iter().map(|file| fs::read_to_string(file).unwrap()).collect();
    for (file, rows) in files.records.iter().zip(&whole) {
        let first: Vec<&str> = rows.lines().take(rows.lines().count() - 20).collect();
        fs::write(file, first.join("\n")).unwrap();
    }
    (0..3).for_each(|place| prepare(&mut network, place));
    network.wait_for_agents(3).unwrap();
    // The third has the first roster, and then sees nothing of what follows.
    let (present, away, new) = (&names[..2], &names[2], &names[3]);
    eventually(LIMIT, "it is a member", || {
        Ok((network.agent_status(away)?["roster"]["member"] == true).then_some(()))
    })
    .unwrap();
    network.kill_agent(away).unwrap();
    let missed = |status: &serde_json::Value| {
        Ok((status["presence"]["missing"] == serde_json::json!([away])).then_some(()))
    };
    network.wait_until(LIMIT, "it is missed", missed).unwrap();
    network.start_task(&task("kt1", 1, 60)).unwrap();
    network.wait_for_task(LIMIT * 2).unwrap();
    present.iter().for_each(|name| wait_for_model(&network, name, "kt1 1"));
    assert_eq!(installed(&network, away), None);

    let before = key_in(&network.coordinator_dir());
    network.coordinator(&["key", "rotate"]).unwrap();
    network.coordinator_process().unwrap().kill().unwrap();
    network.start_coordinator().unwrap();
    assert_eq!(key_in(&network.coordinator_dir()), before, "nothing has changed yet");
    network.enrol(new, &federation.institutions[3].legal_entity).unwrap();
    network.sign_roster().unwrap();
    assert_ne!(key_in(&network.coordinator_dir()), before);
    let keys = network.coordinator_dir().join("keys");
    let left = |name: &str| keys.join(name).exists();
    assert!(!left("signing.next.key") && !left("signing.previous.key"));
    network.coordinator(&["audit", "verify"]).unwrap();

    network.start_agent(away).unwrap();
    prepare(&mut network, 3);
    for name in [away, new] {
        wait_for_model(&network, name, "kt1 1");
    }
    network.wait_for_agents(4).unwrap();
    // Over a restart: the word for the old release is given again.
    network.coordinator_process().unwrap().kill().unwrap();
    network.start_coordinator().unwrap();
    network.wait_for_agents(4).unwrap();
    for ((name, file), rows) in present.iter().zip(&files.records).zip(&whole) {
        fs::write(file, rows).unwrap();
        network.import_records(name, file, &files).unwrap();
    }
    network.start_task(&task("kt2", 1, 60)).unwrap();
    let ended = network.wait_for_task(LIMIT * 2).unwrap();
    assert_eq!(ended["rounds_failed"], 0, "{ended}");
    names.iter().for_each(|name| wait_for_model(&network, name, "kt2 1"));
    network.stop().unwrap();
    network.coordinator(&["audit", "verify"]).unwrap();
    network.coordinator(&["store", "check"]).unwrap();
    names.iter().for_each(|name| drop(network.agent(name, &["audit", "verify"]).unwrap()));
    let log = network.coordinator(&["audit", "list", "--count", "1000"]).unwrap();
    let log = String::from_utf8(log.stdout).unwrap();
    assert_eq!(log.matches("signing_key_changed").count(), 1, "{log}");
}
