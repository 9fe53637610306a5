//! Real agents around a real coordinator, all in processes of their own: deaths, absences, missing
//! consent, and what the logs say of it afterwards.

use std::{collections::BTreeSet, fs, path::Path, time::Duration};

use collegium_agent::session::OWN_REASON;
use collegium_coordinator::{
    network::{Event, Network as State, NetworkEvent},
    round::RoundEvent,
};
use collegium_shared::{crypto::Digest, ids::InstitutionId};
use collegium_tests::{
    harness::eventually,
    network::Network,
    simulator::{Federation, Settings},
    testbed::{LIMIT, events, files},
};
use serde_json::Value;

/// How long a task of a few steps over a few learners may take on a slow machine.
const TASK: Duration = Duration::from_secs(120);

pub(crate) const POLICY: &str = "tasks = [\"kt*\"]\narchitectures = [\"kt-logistic/1\"]\nc_max = 0\n\
                      n_min = 2\nmin_honest = 2\n";

pub(crate) fn task(name: &str, rounds: u32, ready: u32) -> String {
    format!(
        "task = \"{name}\"\narchitecture = \"kt-logistic/1\"\nrounds = {rounds}\n\
         cohort = {{ c_max = 0, min_honest = 2 }}\n[deadlines]\nready = {ready}\n"
    )
}

/// Three small institutions with running agents.
fn three(dir: &Path) -> (Network, Vec<InstitutionId>) {
    let federation = federation();
    let network = Network::assemble(dir, &federation, POLICY).unwrap();
    (network, federation.institutions.into_iter().map(|i| i.name).collect())
}

pub(crate) fn federation() -> Federation {
    Federation::simulate(&Settings { institutions: 3, size_percent: 3, ..Settings::default() })
}

/// Which learners, and which items that are no business of the network's, are named below `dir`.
fn named_below(dir: &Path) -> BTreeSet<String> {
    let federation = federation();
    let shared: BTreeSet<&str> = federation.registry.items.iter().map(|i| i.id.as_str()).collect();
    let rows = || federation.institutions.iter().flat_map(|institution| &institution.rows);
    let learners = rows().map(|row| row.learner.as_str());
    let own_items = rows().map(|row| row.item.as_str()).filter(|item| !shared.contains(item));
    let private: BTreeSet<&str> = learners.chain(own_items).collect();
    assert!(private.len() > 20);
    let files = files(dir).unwrap();
    let holds = |bytes: &[u8], name: &str| bytes.windows(name.len()).any(|w| w == name.as_bytes());
    let named = |name: &&str| files.iter().any(|(_, bytes)| holds(bytes, name));
    private.into_iter().filter(named).map(str::to_owned).collect()
}

/// The types of all entries in an agent's own log.
fn kinds(network: &Network, agent: &InstitutionId) -> Vec<String> {
    let listed = network.agent(agent, &["audit", "list", "--count", "1000"]).unwrap();
    let text = String::from_utf8(listed.stdout).unwrap();
    text.lines().map(|line| line.split_whitespace().nth(2).unwrap().to_owned()).collect()
}

/// Runs a task to its end, until these institutions have installed its last model; gives what `status` says.
pub(crate) fn trained(network: &mut Network, names: &[InstitutionId], task: &str) -> Value {
    network.start_task(task).unwrap();
    let ended = network.wait_for_task(2 * TASK).unwrap();
    let (name, version) = (ended["task"].clone(), ended["release"]["version"].clone());
    assert!(version.is_number(), "{ended}");
    for of in names {
        let installed = || {
            let model = &network.agent_status(of)?["model"];
            Ok((model["task"] == name && model["version"] == version).then_some(()))
        };
        eventually(LIMIT, "the last model is installed", installed).unwrap();
    }
    ended
}

pub(crate) fn wait_for_sums(network: &mut Network, count: u64) {
    let found = |status: &Value| {
        let enough = status["task"]["rounds_completed"].as_u64() >= Some(count);
        assert!(status["task"]["ending"].is_null(), "over before {count} sums: {status}");
        Ok(enough.then_some(()))
    };
    network.wait_until(LIMIT, "sums are open", found).unwrap();
}

#[test]
fn agents_and_coordinator_are_killed_and_the_task_completes_without_a_lost_round() {
    let dir = tempfile::tempdir().unwrap();
    let (mut network, names) = three(dir.path());
    network.start_task(&task("kt", 4, 60)).unwrap();
    // With a quorum of two of three, a round waits at some phase for whoever was killed.
    for (victim, sums) in names.iter().zip([1, 3, 5]) {
        wait_for_sums(&mut network, sums);
        network.agent_process(victim).unwrap().kill().unwrap();
        network.start_agent(victim).unwrap();
    }
    network.coordinator_process().unwrap().kill().unwrap();
    network.start_coordinator().unwrap();
    let ended = network.wait_for_task(TASK).unwrap();
    assert_eq!(ended["rounds_completed"], 8, "{ended}");
    for name in &names {
        network.agent(name, &["audit", "verify"]).unwrap();
        let installed = |status: Value| status["model"]["version"] == 4;
        let probe = || Ok(installed(network.agent_status(name)?).then_some(()));
        eventually(LIMIT, "the last model is installed", probe).unwrap();
    }
    let status = network.status().unwrap();
    let live: Digest = status["state_sha256"].as_str().unwrap().parse().unwrap();
    network.stop().unwrap();
    // The same search finds them all in the tables that were imported.
    assert!(named_below(&dir.path().join("data")).len() > 20);
    for place in ["coordinator", "logs", "agents"] {
        assert!(named_below(&dir.path().join(place)).is_empty(), "records are readable in {place}");
    }

    let mut state = State::default();
    for entry in events(&network.coordinator_dir()).unwrap() {
        state.apply(&entry.event, entry.at);
    }
    assert_eq!(state.digest().unwrap(), live, "the journal, folded from its first entry");
    fs::remove_dir_all(network.coordinator_dir().join("view")).unwrap();
    let status = network.status().unwrap();
    assert_eq!(status["state_sha256"], live.to_string(), "opened without the view");
}

#[test]
fn agents_say_that_the_coordinator_is_gone_and_join_when_it_is_back() {
    let dir = tempfile::tempdir().unwrap();
    let (mut network, names) = three(dir.path());
    network.coordinator_process().unwrap().kill().unwrap();
    // One that starts while nobody is there has to be as patient as the others.
    network.agent_process(&names[0]).unwrap().kill().unwrap();
    network.start_agent(&names[0]).unwrap();
    for name in &names {
        let gone = |status: &Value| status["state"] == "coordinator_unreachable";
        let status = eventually(LIMIT, "the agent notices", || {
            let status = network.agent_status(name)?;
            Ok(gone(&status).then_some(status))
        });
        let status = status.unwrap();
        assert_eq!(status["coordinator"]["reachable"], false, "{status}");
        assert!(status["coordinator"]["error"].is_string(), "{status}");
        let shown = network.agent(name, &["status"]).unwrap().stdout;
        let shown = String::from_utf8(shown).unwrap();
        assert!(shown.contains("coordinator unreachable"), "{shown}");
    }
    network.start_coordinator().unwrap();
    network.start_task(&task("kt", 1, 60)).unwrap();
    let ended = network.wait_for_task(TASK).unwrap();
    assert_eq!(ended["rounds_failed"], 0, "all were back in time: {ended}");
    for name in &names {
        let status = network.agent_status(name).unwrap();
        assert_eq!(status["coordinator"]["reachable"], true, "{status}");
    }
}

#[test]
fn without_a_policy_an_institution_trains_nothing_and_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let (mut network, names) = three(dir.path());
    let (without, others) = (&names[0], &names[1..]);
    fs::remove_file(network.agent_dir(without).join("policy.toml")).unwrap();
    network.start_task(&task("kt", 1, 2)).unwrap();
    network.wait_for_task(TASK).unwrap();

    let status = network.agent_status(without).unwrap();
    assert_eq!(status["policy"]["state"], "missing", "{status}");
    let refusal = status["last_refusal"]["reason"].as_str().unwrap();
    assert!(refusal.contains("without a policy nothing is trained"), "{status}");
    let shown = network.agent(without, &["status"]).unwrap().stdout;
    let shown = String::from_utf8(shown).unwrap();
    assert!(shown.contains("missing: nothing is trained"), "{shown}");
    let logged = network.agent_process(without).unwrap().stderr().unwrap();
    assert!(logged.contains("without a policy nothing is trained"), "{logged}");
    let kinds_without = kinds(&network, without);
    assert!(kinds_without.iter().any(|kind| kind == "refused"), "{kinds_without:?}");
    let trained =
        |kind: &String| matches!(kind.as_str(), "plan_accepted" | "committed" | "sending");
    assert!(!kinds_without.iter().any(trained), "{kinds_without:?}");
    for name in others {
        assert!(kinds(&network, name).iter().any(trained), "{name} took part");
    }
    // The coordinator's log has its word for it, and not the reason, which is nobody else's affair.
    let events = events(&network.coordinator_dir()).unwrap();
    let declined = events.iter().find_map(|entry| match &entry.event {
        Event::Round(RoundEvent::Declined { decline }) => Some(&decline.body),
        _ => None,
    });
    let declined = declined.unwrap();
    assert_eq!((&declined.institution, declined.reason.as_str()), (without, OWN_REASON));
}

/// Needs all three institutions.
fn for_all(name: &str, ready: u32) -> String {
    task(name, 1, ready).replace("min_honest = 2", "min_honest = 3")
}

/// Waits until the agent refused something for this reason.
fn refused(network: &Network, name: &InstitutionId, reason: &str) {
    let refused = eventually(LIMIT, reason, || {
        let status = network.agent_status(name)?;
        let said = status["last_refusal"]["reason"].as_str().unwrap_or_default();
        Ok(said.contains(reason).then_some(()))
    });
    refused.unwrap();
}

/// Changes the institution's policy by one more setting.
fn set(network: &Network, name: &InstitutionId, setting: &str) {
    let policy = POLICY.replace("min_honest = 2", &format!("min_honest = 2\n{setting}"));
    fs::write(network.agent_dir(name).join("policy.toml"), policy).unwrap();
}

#[test]
fn a_policy_that_was_changed_is_not_gone_by_until_it_is_signed() {
    let dir = tempfile::tempdir().unwrap();
    let (mut network, names) = three(dir.path());
    let changed = &names[0];
    // Stricter, and still not signed: that is for the institution to say.
    set(&network, changed, "min_learners = 1");
    network.start_task(&for_all("kt", 2)).unwrap();
    refused(&network, changed, "is not as it was when it was signed");
    assert_eq!(network.agent_status(changed).unwrap()["policy"]["state"], "unsigned");
    assert!(!kinds(&network, changed).contains(&"committed".to_owned()));

    let diff = network.agent(changed, &["policy", "diff"]).unwrap().stdout;
    let diff = String::from_utf8(diff).unwrap();
    assert!(diff.contains("min_learners   0 -> 1\nsince "), "{diff}");
    let said = network.agent(changed, &["policy", "sign", "--json"]).unwrap().stdout;
    let said: Value = serde_json::from_slice(&said).unwrap();
    assert_eq!(said["changes"]["min_learners"]["to"], 1, "{said}");
    assert_eq!(network.agent_status(changed).unwrap()["policy"]["state"], "present");
    let signed = kinds(&network, changed);
    assert_eq!(signed.iter().filter(|kind| *kind == "policy_signed").count(), 2, "{signed:?}");
    network.wait_for_task(TASK).unwrap();
    assert!(kinds(&network, changed).contains(&"committed".to_owned()));

    set(&network, changed, "min_learners = 9999");
    network.agent(changed, &["policy", "sign"]).unwrap();
    network.start_task(&for_all("kt-2", 2)).unwrap();
    refused(&network, changed, "at least 9999 learners");
}

#[test]
fn what_the_policy_holds_leaves_when_a_person_approves_it() {
    let dir = tempfile::tempdir().unwrap();
    let (mut network, names) = three(dir.path());
    let holding = &names[0];
    set(&network, holding, "hold = true");
    network.agent(holding, &["policy", "sign"]).unwrap();
    let ask = |network: &Network, words: &[&str]| -> Value {
        serde_json::from_slice(&network.agent(holding, words).unwrap().stdout).unwrap()
    };
    let held = |network: &Network, before: &Value| {
        let held = eventually(LIMIT, "a round is held", || {
            let held = network.agent_status(holding)?["held"].clone();
            Ok((!held.is_null() && held != *before).then_some(held))
        });
        held.unwrap()
    };
    network.start_task(&for_all("kt", 3600)).unwrap();
    let round = held(&network, &Value::Null);
    let shown = ask(&network, &["preview-egress", "--json"]);
    assert_eq!((&shown["round"], &shown["standing"]["state"]), (&round, &"waiting".into()));
    let first = &shown["tensors"][0];
    assert!(first["norm"].as_f64().unwrap() > 0.0, "{shown}");
    assert!(first["before"]["norm"].as_f64().unwrap() > 0.0, "{shown}");
    // It is what is committed to, and nothing of the round has left.
    let before = kinds(&network, holding);
    assert!(before.contains(&"committed".to_owned()) && !before.contains(&"listed".to_owned()));
    let status = network.status().unwrap();
    assert_eq!(status["round"]["phase"], "ready", "{status}");

    // A restart forgets nothing and sends nothing.
    network.agent_process(holding).unwrap().kill().unwrap();
    network.start_agent(holding).unwrap();
    assert_eq!(held(&network, &Value::Null), round);
    assert_eq!(ask(&network, &["preview-egress", "--json"])["commitment"], shown["commitment"]);

    assert_eq!(ask(&network, &["approve", "--json"])["round"], round);
    // The next round of the task is held again; this one is not wanted.
    let next = held(&network, &round);
    let said = ask(&network, &["reject", "--reason", "not this one", "--json"]);
    assert_eq!(said["round"], next);
    let left = eventually(LIMIT, "the round is left", || {
        let kinds = kinds(&network, holding);
        Ok(kinds.contains(&"round_left".to_owned()).then_some(kinds))
    });
    let left = left.unwrap();
    let count = |kind: &str| left.iter().filter(|found| *found == kind).count();
    assert_eq!((count("egress_decided"), count("sending")), (2, 1), "{left:?}");
}

#[test]
fn other_optimisers_by_name_train_through_the_same_rounds() {
    let dir = tempfile::tempdir().unwrap();
    let (mut network, _) = three(dir.path());
    for (name, settings) in [
        ("fedavg", "local_steps = 10\nlearning_rate = 0.1\n"),
        ("fedadam", "local_steps = 10\nserver_learning_rate = 0.05\n"),
    ] {
        let optimizer = format!("[hyper.optimizer]\nname = \"{name}\"\n{settings}");
        // Steps over so few learners need not be better.
        let any = "[release]\ntolerance = 0.5\n";
        let task = format!("{}{optimizer}{any}", task(&format!("kt-{name}"), 3, 60));
        network.start_task(&task).unwrap();
        let ended = network.wait_for_task(TASK).unwrap();
        assert_eq!(ended["release"]["version"], 3, "{ended}");
        let start = ended["start_metrics"]["log_loss"].as_f64().unwrap();
        let last = ended["release"]["metrics"]["log_loss"].as_f64().unwrap();
        assert!(last.is_finite() && last != start, "{name}: {ended}");
    }
}

/// Each step goes as far as the bounds let it: nothing of that reaches a learner.
#[test]
fn a_model_that_diverges_is_stopped_said_and_not_released() {
    let dir = tempfile::tempdir().unwrap();
    let (mut network, names) = three(dir.path());
    let absurd = "[hyper.optimizer]\nname = \"fedavg\"\nlearning_rate = 100.0\nlocal_steps = 3\n\
                  bound = 100.0\nnorm = 1000.0\n";
    network.start_task(&format!("{}{absurd}", task("kt-absurd", 20, 60))).unwrap();
    let found = |status: &Value| Ok(status["task"]["ending"]["reason"].as_str().map(str::to_owned));
    let reason = network.wait_until(TASK, "the task has ended for a reason", found).unwrap();
    assert!(reason.contains("training diverges"), "{reason}");
    let status = network.status().unwrap();
    let ended = &status["task"];
    assert!(ended["release"].is_null() && ended["withheld"].as_u64() >= Some(3), "{ended}");
    assert!(ended["steps"].as_u64() < Some(20), "it was stopped: {ended}");
    let shown = network.coordinator(&["status"]).unwrap().stdout;
    let shown = String::from_utf8(shown).unwrap();
    assert!(shown.contains("not released") && shown.contains(&reason), "{shown}");
    let withheld =
        |event: &Event| matches!(event, Event::Network(NetworkEvent::ModelWithheld { .. }));
    let log = events(&network.coordinator_dir()).unwrap();
    let entries = log.iter().filter(|entry| withheld(&entry.event)).count() as u64;
    assert_eq!(Some(entries), ended["withheld"].as_u64());
    for name in &names {
        assert!(network.agent_status(name).unwrap()["model"].is_null(), "nothing to install");
    }
    // The next task is none the worse for it.
    network.start_task(&task("kt-sound", 1, 60)).unwrap();
    let ended = network.wait_for_task(TASK).unwrap();
    assert_eq!(
        (&ended["release"]["version"], &ended["withheld"]),
        (&1.into(), &0.into()),
        "{ended}"
    );
}
