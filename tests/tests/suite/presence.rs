//! Who is there and who is not: rounds without institutions that are away, pauses of both sides, and
//! a copy of an agent's directory that runs beside it. Real agents and a real coordinator.

use std::{collections::BTreeSet, fs, path::Path, process::Command, time::Duration};

use collegium_coordinator::{network::Event, round::RoundEvent};
use collegium_shared::ids::InstitutionId;
use collegium_tests::{
    harness::{self, Process, eventually},
    network::Network,
    simulator::{Federation, Settings},
    testbed::{LIMIT, events},
};
use serde_json::Value;

/// How long a task of a few steps over a few learners may take on a slow machine.
const TASK: Duration = Duration::from_secs(120);

const POLICY: &str = "tasks = [\"kt*\"]\narchitectures = [\"kt-logistic/1\"]\nc_max = 0\n\
                      n_min = 2\nmin_honest = 2\n";

/// Whoever waits for a deadline of this task fails the test.
fn task(name: &str, rounds: u32, min_honest: u32) -> String {
    format!(
        "task = \"{name}\"\narchitecture = \"kt-logistic/1\"\nrounds = {rounds}\n\
         cohort = {{ c_max = 0, min_honest = {min_honest} }}\n[deadlines]\nready = 3600\n\
         share = 3600\nupload = 3600\nvote = 3600\nreveal = 3600\n"
    )
}

fn network(dir: &Path, institutions: usize) -> (Network, Vec<InstitutionId>) {
    let settings = Settings { institutions, size_percent: 3, ..Settings::default() };
    let federation = Federation::simulate(&settings);
    let network = Network::assemble(dir, &federation, POLICY).unwrap();
    (network, federation.institutions.into_iter().map(|i| i.name).collect())
}

/// The names in a list of the coordinator's status.
fn names_in(value: &Value) -> BTreeSet<String> {
    let names = value.as_array().into_iter().flatten();
    names.map(|name| name.as_str().unwrap().to_owned()).collect()
}

fn set(names: &[InstitutionId]) -> BTreeSet<String> {
    names.iter().map(ToString::to_string).collect()
}

/// For each round that was begun: who was not waited for, and whose upload came.
fn rounds(network: &Network) -> Vec<(BTreeSet<String>, BTreeSet<String>)> {
    let mut rounds = Vec::new();
    for entry in events(&network.coordinator_dir()).unwrap() {
        match entry.event {
            Event::Round(RoundEvent::Planned { away, .. }) => {
                let away: Vec<_> = away.into_iter().collect();
                rounds.push((set(&away), BTreeSet::new()));
            }
            Event::Round(RoundEvent::Uploaded { header }) => {
                rounds.last_mut().unwrap().1.insert(header.body.institution.to_string());
            }
            _ => {}
        }
    }
    rounds
}

/// Waits until the coordinator's status says of who is there what `found` wants.
fn presence(network: &mut Network, what: &str, found: impl Fn(&Value) -> bool) -> Value {
    let look = |status: &Value| Ok(found(&status["presence"]).then(|| status.clone()));
    network.wait_until(LIMIT, what, look).unwrap()
}

fn sums(network: &mut Network, count: u64) {
    let found =
        |s: &Value| Ok((s["task"]["rounds_completed"].as_u64() >= Some(count)).then_some(()));
    network.wait_until(TASK, "sums are open", found).unwrap();
}

#[test]
fn rounds_go_on_without_those_who_are_away_and_take_them_in_when_they_are_back() {
    let dir = tempfile::tempdir().unwrap();
    let (mut network, names) = network(dir.path(), 5);
    network.set_patience(1).unwrap();
    network.wait_for_agents(5).unwrap();
    for name in &names[..3] {
        network.kill_agent(name).unwrap();
    }
    let gone = set(&names[..3]);
    presence(&mut network, "three have gone", |p| names_in(&p["missing"]) == gone);

    network.start_task(&task("kt", 40, 3)).unwrap();
    let status = network.status().unwrap();
    let waiting = status["waiting"].as_str().unwrap();
    assert!(waiting.starts_with("waiting for institutions: 2 of 5 present"), "{status}");
    assert!(names[..3].iter().all(|name| waiting.contains(name.as_str())), "{status}");
    assert!(status["round"].is_null() && rounds(&network).is_empty(), "{status}");
    let shown = network.coordinator(&["status"]).unwrap().stdout;
    assert!(String::from_utf8(shown).unwrap().contains(waiting));

    for name in &names[1..3] {
        network.start_agent(name).unwrap();
    }
    sums(&mut network, 4);
    network.coordinator(&["task", "pause", "--reason", "somebody comes back"]).unwrap();
    let status = network
        .wait_until(LIMIT, "no round is open", |s| Ok(s["round"].is_null().then(|| s.clone())))
        .unwrap();
    let waiting = status["waiting"].as_str().unwrap();
    assert!(
        waiting.contains("paused since") && waiting.contains("somebody comes back"),
        "{status}"
    );
    let before = rounds(&network).len();
    network.start_agent(&names[0]).unwrap();
    presence(&mut network, "all are there", |p| p["present"] == 5);
    assert_eq!(rounds(&network).len(), before, "nothing begins while the task is paused");
    network.coordinator(&["task", "resume"]).unwrap();
    sums(&mut network, u64::try_from(before).unwrap() + 2);

    let status = network.status().unwrap();
    assert_eq!(status["task"]["rounds_failed"], 0, "{status}");
    let all = rounds(&network);
    let first = names[0].as_str();
    assert!(all[..before].iter().all(|(away, _)| away.contains(first)), "{all:?}");
    assert!(all[..before].iter().all(|(_, uploads)| !uploads.contains(first)), "{all:?}");
    let (away, uploads) = &all[before];
    assert!(away.is_empty() && *uploads == set(&names), "{all:?}");
}

#[test]
fn a_paused_agent_joins_no_round_says_so_after_a_restart_and_holds_nobody_up() {
    let dir = tempfile::tempdir().unwrap();
    let (mut network, names) = network(dir.path(), 3);
    let paused = &names[0];
    let said = network.agent(paused, &["pause", "--reason", "exam week"]).unwrap().stdout;
    assert!(String::from_utf8(said).unwrap().contains("exam week"));
    let away = set(&names[..1]);
    presence(&mut network, "the pause is known", |p| names_in(&p["away"]) == away);
    network.kill_agent(paused).unwrap();
    network.start_agent(paused).unwrap();
    presence(&mut network, "the pause is known again", |p| {
        names_in(&p["away"]) == away && p["connected"] == 3
    });
    let status = network.agent_status(paused).unwrap();
    assert_eq!(status["state"], "paused", "{status}");
    assert_eq!(status["availability"]["reason"], "exam week", "{status}");

    network.start_task(&task("kt", 40, 2)).unwrap();
    sums(&mut network, 5);
    assert!(rounds(&network).iter().all(|(away, uploads)| away.len() == 1 && uploads.len() <= 2));
    eventually(LIMIT, "it installs what the others made", || {
        let status = network.agent_status(paused)?;
        Ok(status["model"]["version"].is_number().then_some(()))
    })
    .unwrap();
    network.agent(paused, &["evaluate"]).unwrap();
    let listed = network.agent(paused, &["audit", "list", "--count", "1000"]).unwrap().stdout;
    let listed = String::from_utf8(listed).unwrap();
    let count = |kind: &str| {
        listed.lines().filter(|line| line.split_whitespace().nth(2) == Some(kind)).count()
    };
    let counts = [count("paused"), count("plan_accepted"), count("refused")];
    assert_eq!(counts, [1, 0, 0], "nothing is refused for each plan: {listed}");

    network.agent(paused, &["resume"]).unwrap();
    let everybody = set(&names);
    eventually(TASK, "a round is over all again", || {
        Ok(rounds(&network).iter().any(|(_, uploads)| *uploads == everybody).then_some(()))
    })
    .unwrap();
    let status = network.agent_status(paused).unwrap();
    assert_eq!(status["availability"]["state"], "available", "{status}");
    let again = harness::attempt(&mut network.agent_command(paused, &["resume"]), LIMIT).unwrap();
    assert!(String::from_utf8(again.stderr).unwrap().contains("not paused"));
}

/// Copies a directory as `cp -r` does, but for sockets.
fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let (path, kind) = entry.map(|e| (e.path(), e.file_type().unwrap())).unwrap();
        let target = to.join(path.file_name().unwrap());
        if kind.is_dir() {
            copy(&path, &target);
        } else if kind.is_file() {
            fs::copy(&path, &target).unwrap();
        }
    }
}

/// The agent of a directory that the network knows nothing of.
fn start_copy(network: &Network, dir: &Path) -> Process {
    let mut command = Command::new(&network.binaries().agent);
    command.args(["run", "--dir"]).arg(dir);
    Process::spawn("copy", &mut command, &network.logs()).unwrap()
}

fn copy_command(network: &Network, dir: &Path, words: &[&str]) -> String {
    let mut command = Command::new(&network.binaries().agent);
    command.args(words).arg("--dir").arg(dir);
    String::from_utf8(harness::run(&mut command, LIMIT).unwrap().stdout).unwrap()
}

/// Where this agent's own round stands.
fn phase(network: &Network, name: &InstitutionId) -> anyhow::Result<Option<String>> {
    let status = network.agent_status(name)?;
    Ok(status["round"]["phase"].as_str().map(str::to_owned))
}

#[test]
fn a_copied_directory_started_twice_is_named_and_no_round_is_spoiled() {
    let dir = tempfile::tempdir().unwrap();
    let (mut network, names) = network(dir.path(), 3);
    // One that stands still holds the first round in READY; the other two are ready.
    network.agent_process(&names[2]).unwrap().suspend().unwrap();
    network.start_task(&task("kt", 2, 3)).unwrap();
    let ready = || Ok((phase(&network, &names[0])?.as_deref() == Some("ready")).then_some(()));
    eventually(LIMIT, "the first agent is committed", ready).unwrap();
    network.kill_agent(&names[0]).unwrap();
    let twin = dir.path().join("twin");
    copy(&network.agent_dir(&names[0]), &twin);

    // The same secrets of the same attempt in two processes, over real sockets.
    network.start_agent(&names[0]).unwrap();
    let first = |network: &Network| network.agent_status(&names[0]);
    eventually(LIMIT, "the first is connected", || {
        Ok((first(&network)?["coordinator"]["reachable"] == true).then_some(()))
    })
    .unwrap();
    let mut copied = start_copy(&network, &twin);
    let words = "another agent of this institution has been connected since";
    eventually(LIMIT, "the copy is turned away", || {
        copied.expect_running()?;
        Ok(copied.stderr()?.contains(words).then_some(()))
    })
    .unwrap();
    let shown = copy_command(&network, &twin, &["status"]);
    assert!(shown.contains(words) && shown.contains("stop it"), "{shown}");
    let status = presence(&mut network, "the coordinator names it", |p| !p["copies"][0].is_null());
    assert_eq!(status["presence"]["copies"][0][0], names[0].as_str(), "{status}");
    let logged = network.coordinator_process().unwrap().stderr().unwrap();
    assert_eq!(logged.matches(words).count(), 1, "said once: {logged}");
    network.agent_process(&names[2]).unwrap().resume().unwrap();
    network.wait_for_task(TASK).unwrap();
    let notice = || Ok(first(&network)?["coordinator"]["notice"].as_str().map(str::to_owned));
    let notice = eventually(LIMIT, "the first one is told", notice).unwrap();
    assert!(notice.contains("a second agent of this institution was turned away"), "{notice}");
    let status = network.status().unwrap();
    assert_eq!(status["task"]["rounds_failed"], 0, "{status}");
    assert!(rounds(&network).iter().all(|(_, uploads)| *uploads == set(&names)));

    // The first one goes: the copy may take its place, and the way back is as open.
    network.kill_agent(&names[0]).unwrap();
    network.start_task(&task("kt-2", 1, 3)).unwrap();
    network.wait_for_task(TASK).unwrap();
    network.start_agent(&names[0]).unwrap();
    eventually(LIMIT, "now the first is the second", || {
        let status = first(&network)?;
        let error = status["coordinator"]["error"].as_str().unwrap_or_default();
        Ok(error.contains(words).then_some(()))
    })
    .unwrap();
    copied.terminate().unwrap();
    assert!(copied.wait(LIMIT).unwrap().success());
    network.start_task(&task("kt-3", 1, 3)).unwrap();
    network.wait_for_task(TASK).unwrap();

    // Between them, no attempt was sent for twice.
    let own = network.agent(&names[0], &["audit", "list", "--count", "1000"]).unwrap().stdout;
    let logs = [
        String::from_utf8(own).unwrap(),
        copy_command(&network, &twin, &["audit", "list", "--count", "1000"]),
    ];
    let sent = |log: &String| -> Vec<String> {
        let sending = log.lines().filter(|line| line.split_whitespace().nth(2) == Some("sending"));
        sending.map(|line| line.split_whitespace().skip(3).collect()).collect()
    };
    let (mine, its) = (sent(&logs[0]), sent(&logs[1]));
    assert!(!mine.is_empty() && !its.is_empty(), "both took part: {logs:?}");
    assert!(mine.iter().all(|round| !its.contains(round)), "{mine:?} {its:?}");
    let equivocated = events(&network.coordinator_dir()).unwrap();
    assert!(!format!("{equivocated:?}").contains("Equivocated"));
    network.agent(&names[0], &["audit", "verify"]).unwrap();
    copy_command(&network, &twin, &["audit", "verify"]);
}
