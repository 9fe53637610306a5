//! A bias audit through real agents and a real coordinator: what is counted, what is hidden, what an
//! institution's policy keeps back, and a review that only a person closes.

use std::{collections::BTreeMap, fs, path::Path, time::Duration};

use collegium_coordinator::network::{Event, NetworkEvent};
use collegium_shared::ids::InstitutionId;
use collegium_tests::{
    harness::attempt,
    network::Network,
    simulator::{Federation, Settings},
    testbed::{LIMIT, events},
};
use serde_json::Value;

/// How long a task of a few steps over a few learners may take on a slow machine.
const TASK: Duration = Duration::from_secs(240);
/// With fewer learners nothing is shown of a group.
const SMALLEST: usize = 8;

/// Three groups of like size, and three held-out learners of a fourth at each of the first two institutions.
fn federation() -> Federation {
    let settings = Settings { institutions: 4, size_percent: 60, ..Settings::default() };
    let mut federation = Federation::simulate(&settings);
    for (place, institution) in federation.institutions.iter_mut().enumerate() {
        let mut groups: BTreeMap<String, &str> = BTreeMap::new();
        let (mut rare, mut next) = (if place < 2 { 3 } else { 0 }, 0);
        for row in &mut institution.rows {
            row.group = groups.entry(row.learner.clone()).or_insert_with(|| {
                if row.held_out && rare > 0 {
                    rare -= 1;
                    return "rare";
                }
                next += 1;
                ["a", "b", "d"][next % 3]
            });
        }
    }
    federation
}

/// Held-out learners by group at the institutions that permit it.
fn expected(federation: &Federation) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for institution in &federation.institutions[..3] {
        for learner in institution.learners().iter().filter(|learner| learner.held_out) {
            *counts.entry(learner.attributes["group"].clone()).or_default() += 1;
        }
    }
    counts
}

fn policy(more: &str) -> String {
    format!(
        "tasks = [\"*\"]\narchitectures = [\"kt-logistic/1\", \"bias-audit/1\"]\nc_max = 0\nn_min = 2\n\
         min_honest = 2\nsmallest_cell = 1\n{more}"
    )
}

fn audit(name: &str) -> String {
    format!(
        "task = \"{name}\"\narchitecture = \"bias-audit/1\"\ncohort = {{ c_max = 0, min_honest = 2 }}\n\
         [deadlines]\nready = 60\n[audit]\nsmallest_cell = {SMALLEST}\nsmallest_part = 1\n\
         attributes.group = [\"a\", \"b\", \"d\", \"rare\"]\nattributes.sex = [\"F\", \"M\"]\n\
         [audit.thresholds]\ncalibration = 0.000001\n"
    )
}

fn json(network: &Network, words: &[&str]) -> Value {
    serde_json::from_slice(&network.coordinator(words).unwrap().stdout).unwrap()
}

fn four(dir: &Path, federation: &Federation) -> (Network, Vec<InstitutionId>) {
    let network =
        Network::assemble(dir, federation, &policy("attributes = [\"group\"]\n")).unwrap();
    let names: Vec<_> = federation.institutions.iter().map(|i| i.name.clone()).collect();
    // The last one imported the attribute and permits an audit, but no figure by it.
    let path = network.agent_dir(&names[3]).join("policy.toml");
    fs::write(&path, policy("attributes = []\n")).unwrap();
    network.agent(&names[3], &["policy", "sign"]).unwrap();
    (network, names)
}

/// The groups of the attribute in the report of `task`, by value; "" is other.
fn groups(network: &Network, task: &str, attribute: usize) -> BTreeMap<String, Value> {
    let report = json(network, &["bias", "show", task, "--json"]);
    let groups = report["body"]["attributes"][attribute]["groups"].as_array().unwrap().clone();
    let name = |group: &Value| group["value"].as_str().unwrap_or_default().to_owned();
    groups.into_iter().map(|group| (name(&group), group)).collect()
}

#[test]
fn an_audit_counts_what_is_permitted_hides_what_is_small_and_a_person_closes_its_review() {
    let dir = tempfile::tempdir().unwrap();
    let federation = federation();
    let (mut network, names) = four(dir.path(), &federation);
    let refused = attempt(
        std::process::Command::new(&network.binaries().coordinator)
            .args(["task", "start"])
            .arg(write(dir.path(), &audit("early")))
            .arg("--dir")
            .arg(network.coordinator_dir()),
        LIMIT,
    );
    let refused = String::from_utf8(refused.unwrap().stderr).unwrap();
    assert!(refused.contains("no released model to ask about"), "{refused}");
    crate::agents::trained(&mut network, &names, &crate::agents::task("kt", 2, 60));

    network.start_task(&audit("audit-1")).unwrap();
    let ended = network.wait_for_task(TASK).unwrap();
    assert_eq!(
        (&ended["ending"]["end"], &ended["rounds_completed"]),
        (&"completed".into(), &2.into())
    );
    let counts = expected(&federation);
    assert_eq!(counts["rare"], 6);
    let found = groups(&network, "audit-1", 0);
    // The smallest of the others is hidden as well, or the rare ones would follow from the sum.
    let hidden = |name: &str| found[name]["hidden"].as_str().unwrap_or_default().to_owned();
    let others = ["a", "b", "d"];
    let protecting: Vec<_> = others.into_iter().filter(|n| hidden(n) == "protecting").collect();
    // An eighth of all count in no audit. Without the rare ones of an institution they are not even summed.
    let summed = hidden("rare") == "small";
    assert!(summed || hidden("rare") == "not_summed", "{found:?}");
    assert_eq!(protecting.len(), usize::from(summed), "{found:?}");
    for (name, count) in &counts {
        let group = &found[name];
        match name.as_str() {
            "rare" => {}
            name if protecting.contains(&name) => {}
            _ => {
                // The fourth institution adds nothing.
                let learners = usize::try_from(group["learners"].as_u64().unwrap()).unwrap();
                assert!(learners <= *count && learners * 10 >= *count * 6, "{count}: {group}");
                assert_eq!(group["institutions"], 3);
                let auc = group["figures"]["auc"]["value"].as_f64().unwrap();
                assert!((0.5..1.0).contains(&auc), "{group}");
                assert!(group["figures"]["exposure"]["value"].as_f64() > Some(0.3), "{group}");
                assert!(group["moved"].is_null(), "there was no audit before: {group}");
            }
        }
        let hidden = group["hidden"].is_string();
        assert_eq!(hidden, group["figures"].is_null() && group["learners"].is_null(), "{group}");
    }
    // Nobody imported the other attribute.
    assert!(groups(&network, "audit-1", 1).values().all(|group| group["hidden"] == "not_summed"));

    closed_by_a_person(&network);
    let page = dir.path().join("bias.html");
    let write = ["bias", "page", "--out", page.to_str().unwrap()];
    network.coordinator(&write).unwrap();
    let page = fs::read_to_string(page).unwrap();
    assert!(page.contains("closed by R. Reviewer") && page.contains("<svg"), "{page}");

    // Again over the same records and the same institutions: nothing has moved.
    network.start_task(&audit("audit-2")).unwrap();
    network.wait_for_task(TASK).unwrap();
    let again = groups(&network, "audit-2", 0);
    let shown = again.values().find(|group| group["hidden"].is_null()).unwrap();
    assert_eq!(shown["moved"]["auc"]["value"], 0.0, "{shown}");
    assert_eq!(json(&network, &["status", "--json"])["open_reviews"][0]["number"], 2);
    recorded(&mut network);
}

fn write(dir: &Path, task: &str) -> std::path::PathBuf {
    let path = dir.join("early.toml");
    fs::write(&path, task).unwrap();
    path
}

fn closed_by_a_person(network: &Network) {
    let status = json(network, &["status", "--json"]);
    assert_eq!(status["open_reviews"][0]["attribute"], "group", "{status}");
    let words = String::from_utf8(network.coordinator(&["status"]).unwrap().stdout).unwrap();
    assert!(words.contains("review         1 is open"), "{words}");
    let close = |number: &str, note: &str| {
        let words = ["bias", "close", number, "--by", "R. Reviewer", "--note", note, "--dir"];
        let mut command = std::process::Command::new(&network.binaries().coordinator);
        attempt(command.args(words).arg(network.coordinator_dir()), LIMIT).unwrap()
    };
    assert!(!close("1", " ").status.success(), "without a note");
    assert!(!close("7", "none").status.success(), "there is no such review");
    assert!(close("1", "simulated groups, no difference meant").status.success());
    let twice = close("1", "again");
    let said = String::from_utf8_lossy(&twice.stderr);
    assert!(!twice.status.success() && said.contains("was closed by R. Reviewer"), "{said}");
    assert_eq!(json(network, &["status", "--json"])["open_reviews"], serde_json::json!([]));
    let listed = String::from_utf8(network.coordinator(&["bias", "list"]).unwrap().stdout).unwrap();
    assert!(listed.contains("closed by R. Reviewer") && listed.contains("no difference meant"));
}

/// The log has it all, and nothing of the opened sums is left.
fn recorded(network: &mut Network) {
    network.coordinator(&["audit", "verify"]).unwrap();
    network.coordinator(&["store", "check"]).unwrap();
    network.stop().unwrap();
    let all = events(&network.coordinator_dir()).unwrap();
    let of = |wanted: fn(&NetworkEvent) -> bool| {
        let network = all.iter().filter_map(|entry| match &entry.event {
            Event::Network(event) => Some(event),
            Event::Round(_) => None,
        });
        network.filter(|event| wanted(event)).count()
    };
    assert_eq!(of(|event| matches!(event, NetworkEvent::BiasAudited { .. })), 2);
    assert_eq!(of(|event| matches!(event, NetworkEvent::ReviewOpened { .. })), 2);
    assert_eq!(of(|event| matches!(event, NetworkEvent::ReviewClosed { .. })), 1);
}
