//! An institution that comes back long after: its roster, registry and model are old, and the round that
//! it was in is over. It catches up by itself and takes part. And one outside its training windows.

use std::{collections::BTreeSet, fs, time::Duration};

use collegium_coordinator::{network::Event, round::RoundEvent};
use collegium_shared::{clock::Clock, ids::InstitutionId};
use collegium_tests::{
    harness::eventually,
    network::Network,
    simulator::{Federation, Settings},
    testbed::{LIMIT, events},
};
use serde_json::Value;

const TASK: Duration = Duration::from_secs(120);

const POLICY: &str = "tasks = [\"kt*\"]\narchitectures = [\"kt-logistic/1\"]\nc_max = 0\n\
                      n_min = 2\nmin_honest = 2\n";

fn task(name: &str, rounds: u32, ready: u32, others: u32) -> String {
    format!(
        "task = \"{name}\"\narchitecture = \"kt-logistic/1\"\nrounds = {rounds}\n\
         cohort = {{ c_max = 0, min_honest = 2 }}\n[deadlines]\nready = {ready}\n\
         share = {others}\nupload = {others}\nvote = {others}\nreveal = {others}\n"
    )
}

fn three(dir: &std::path::Path) -> (Network, Vec<InstitutionId>) {
    let settings = Settings { institutions: 3, size_percent: 3, ..Settings::default() };
    let federation = Federation::simulate(&settings);
    let network = Network::assemble(dir, &federation, POLICY).unwrap();
    (network, federation.institutions.into_iter().map(|i| i.name).collect())
}

/// Whether some round holds an upload of each of these.
fn is_whole(network: &Network, names: &[InstitutionId]) -> bool {
    let (mut uploads, all) = (BTreeSet::new(), names.iter().cloned().collect::<BTreeSet<_>>());
    for entry in events(&network.coordinator_dir()).unwrap() {
        match entry.event {
            Event::Round(RoundEvent::Planned { .. }) => uploads.clear(),
            Event::Round(RoundEvent::Uploaded { header }) => {
                uploads.insert(header.body.institution);
                if uploads == all {
                    return true;
                }
            }
            _ => {}
        }
    }
    false
}

#[test]
fn one_that_missed_rosters_a_registry_models_and_the_end_of_its_round_catches_up() {
    let dir = tempfile::tempdir().unwrap();
    let (mut network, names) = three(dir.path());
    network.set_patience(1).unwrap();
    network.wait_for_agents(3).unwrap();
    // It dies in the middle of a round, committed and with its secrets drawn.
    network.agent_process(&names[2]).unwrap().suspend().unwrap();
    network.start_task(&task("kt-old", 1, 30, 3)).unwrap();
    eventually(LIMIT, "it is committed", || {
        let status = network.agent_status(&names[0])?;
        Ok((status["round"]["phase"] == "ready").then_some(()))
    })
    .unwrap();
    network.kill_agent(&names[0]).unwrap();
    network.agent_process(&names[2]).unwrap().resume().unwrap();
    network.wait_for_task(TASK).unwrap();

    // Meanwhile the others go on under newer documents.
    for _ in 0..3 {
        network.sign_roster().unwrap();
    }
    network.publish_registry_version(&dir.path().join("data").join("registry.csv"), 2).unwrap();
    network.start_task(&task("kt-new", 60, 3600, 3600)).unwrap();
    let released = |status: &Value| {
        let version = status["task"]["release"]["version"].as_u64();
        Ok((version >= Some(2)).then_some(()))
    };
    network.wait_until(TASK, "models are released", released).unwrap();
    assert!(!is_whole(&network, &names), "it is away");

    network.start_agent(&names[0]).unwrap();
    eventually(TASK, "it takes part", || {
        network.expect_running()?;
        Ok(is_whole(&network, &names).then_some(()))
    })
    .unwrap();
    let status = network.agent_status(&names[0]).unwrap();
    assert_eq!(status["roster"]["version"], 4, "{status}");
    assert_eq!(status["model"]["task"], "kt-new", "{status}");
    let listed = network.agent(&names[0], &["audit", "list", "--count", "1000"]).unwrap().stdout;
    let listed = String::from_utf8(listed).unwrap();
    let kinds = |kind: &str| {
        listed.lines().filter(|line| line.split_whitespace().nth(2) == Some(kind)).count()
    };
    assert_eq!(kinds("roster_accepted"), 2, "those in between are not needed: {listed}");
    assert_eq!(kinds("registry_accepted"), 2, "{listed}");
    assert!(kinds("round_left") == 1 && kinds("refused") == 0, "{listed}");
    assert_eq!(kinds("conflict_seen"), 0, "{listed}");
    network.agent(&names[0], &["audit", "verify"]).unwrap();
}

/// A window of one minute, three days from now.
fn another_day() -> String {
    let days = ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"];
    // 1 January 1970 was a Thursday.
    let today = Clock::system().now().as_seconds().div_euclid(86_400) + 3;
    let day = days[usize::try_from((today + 3).rem_euclid(7)).unwrap()];
    format!("training_windows = [\"{day} 12:00-12:01\"]\ntime_zone = \"UTC\"\n")
}

#[test]
fn outside_its_training_windows_an_agent_holds_nobody_up_and_says_when_it_is_back() {
    let dir = tempfile::tempdir().unwrap();
    let (mut network, names) = three(dir.path());
    network.kill_agent(&names[0]).unwrap();
    let path = network.agent_dir(&names[0]).join("agent.toml");
    let config = fs::read_to_string(&path).unwrap();
    let limited = config.replace("[limits]\n", &format!("[limits]\n{}", another_day()));
    assert_ne!(config, limited);
    fs::write(&path, limited).unwrap();
    network.start_agent(&names[0]).unwrap();
    let away = |status: &Value| {
        Ok((status["presence"]["away"][0] == names[0].as_str()).then(|| status.clone()))
    };
    network.wait_until(LIMIT, "the agent says that it is away", away).unwrap();
    let shown = network.coordinator(&["status"]).unwrap().stdout;
    assert!(String::from_utf8(shown).unwrap().contains(names[0].as_str()));
    network.start_task(&task("kt", 1, 3600, 3600)).unwrap();
    network.wait_for_task(TASK).unwrap();
    let status = network.agent_status(&names[0]).unwrap();
    assert_eq!(status["state"], "outside_windows", "{status}");
    let opens = status["availability"]["opens"].as_str().unwrap();
    assert!(opens.ends_with("T12:00:00.000Z"), "{status}");
    assert!(!is_whole(&network, &names));
}
