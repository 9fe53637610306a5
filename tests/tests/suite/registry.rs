//! A registry from a published framework, institutions' own tags, one that mapped none of them, and a
//! registry that comes in the middle of a task.

use std::{collections::BTreeSet, fs, path::Path, time::Duration};

use collegium_agent::session::LOW_COVERAGE;
use collegium_coordinator::{
    network::{Event, NetworkEvent},
    round::RoundEvent,
};
use collegium_shared::{crypto::Digest, ids::InstitutionId};
use collegium_tests::{
    harness::eventually,
    network::Network,
    simulator::{Federation, Files, Settings},
    testbed::{LIMIT, events},
};
use serde_json::{Value, json};

use crate::agents::{POLICY, task, wait_for_sums};

/// How long a task of a few steps over a few learners may take on a slow machine.
const TASK: Duration = Duration::from_secs(120);

/// The framework's identifier of the simulator's competency at this place.
fn identifier(place: usize) -> String {
    format!("{place:08x}-1edc-4a5e-8c1b-{place:012x}")
}

/// What people made of the federation: a framework in CASE, a table of the shared items, and the
/// institutions' table of tags. Returns the paths of framework and table.
fn publish(dir: &Path, federation: &Federation, files: &Files) -> (String, String) {
    let competencies = &federation.registry.competencies;
    let document = "0d0c0000-0000-4000-8000-0000000000dc";
    let item = |(place, title): (usize, &str)| {
        json!({ "identifier": identifier(place), "fullStatement": title, "CFItemType": "Standard",
            "humanCodingScheme": format!("S.{place}"), "uri": "https://example.org/item" })
    };
    let child = |(place, _): (usize, &str)| {
        json!({ "associationType": "isChildOf",
            "originNodeURI": { "identifier": identifier(place), "title": "", "uri": "" },
            "destinationNodeURI": { "identifier": document, "title": "", "uri": "" } })
    };
    let titles = || competencies.iter().map(|competency| competency.title).enumerate();
    let package = json!({
        "CFDocument": { "identifier": document, "title": "Arithmetic" },
        "CFItems": titles().map(item).collect::<Vec<_>>(),
        "CFAssociations": titles().map(child).collect::<Vec<_>>(),
    });
    let write = |name: &str, text: String| {
        let path = dir.join("data").join(name);
        fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let of = |id: &str| identifier(competencies.iter().position(|c| c.id == id).unwrap());
    let items = federation.registry.items.iter().map(|item| {
        let named: Vec<String> = item.competencies.iter().map(|id| of(id)).collect();
        format!("item,{},{}\n", item.id, named.join(";"))
    });
    let tags = competencies.iter().map(|c| format!("{},{}\n", c.id, of(c.id)));
    write("tags.csv", format!("tag,competency\n{}", tags.collect::<String>()));
    let mapping = fs::read_to_string(&files.mapping).unwrap();
    write("tagged.toml", mapping.replace("separator", "tags = \"tags.csv\", separator"));
    let table = format!("kind,id,competencies\n{}", items.collect::<String>());
    (write("framework.json", package.to_string()), write("items.csv", table))
}

fn said(network: &Network, institution: &InstitutionId, words: &[&str]) -> String {
    String::from_utf8(network.agent(institution, words).unwrap().stdout).unwrap()
}

/// Four institutions over the framework, of which the last has mapped none of its tags; agents run.
fn four(dir: &Path) -> (Network, Vec<InstitutionId>, [String; 2]) {
    let settings = Settings { institutions: 4, size_percent: 3, ..Settings::default() };
    let federation = Federation::simulate(&settings);
    let mut network = Network::start(dir).unwrap();
    let files = federation.write_to(&dir.join("data")).unwrap();
    let (framework, table) = publish(dir, &federation, &files);
    let names: Vec<_> = federation.institutions.iter().map(|i| i.name.clone()).collect();
    for institution in &federation.institutions {
        network.enrol(&institution.name, &institution.legal_entity).unwrap();
    }
    network.sign_roster().unwrap();
    network.publish_registry_of(&[&table, "--case", &framework]).unwrap();
    for (place, (name, records)) in names.iter().zip(&files.records).enumerate() {
        network.set_policy(name, POLICY).unwrap();
        let mapping = if place < 3 {
            files.mapping.with_file_name("tagged.toml")
        } else {
            files.mapping.clone()
        };
        let (records, mapping) = (records.to_str().unwrap(), mapping.to_str().unwrap().to_owned());
        said(&network, name, &["data", "import", records, "--mapping", &mapping]);
        network.start_agent(name).unwrap();
    }
    network.wait_for_agents(4).unwrap();
    (network, names, [framework, table])
}

/// The institution's first learner comes again, as another one.
fn one_more_learner(network: &Network, dir: &Path, institution: &InstitutionId) {
    let data = dir.join("data");
    let table = fs::read_to_string(data.join(format!("{institution}.csv"))).unwrap();
    let mut lines = table.lines();
    let (header, rows) = (lines.next().unwrap(), lines.collect::<Vec<_>>());
    let column = header.split(',').position(|name| name == "learner").unwrap();
    let of = |row: &str| row.split(',').nth(column).unwrap().to_owned();
    let first = of(rows[0]);
    let own = rows.iter().filter(|row| of(row) == first);
    let again = own.map(|row| row.replace(&first, &format!("{first}-again")));
    let later = data.join(format!("{institution}-later.csv"));
    let again = again.collect::<Vec<_>>().join("\n");
    fs::write(&later, format!("{header}\n{again}\n")).unwrap();
    let [later, mapping] =
        [later, data.join("tagged.toml")].map(|p| p.to_str().unwrap().to_owned());
    said(network, institution, &["data", "import", &later, "--mapping", &mapping]);
}

/// Waits until the agent has measured its records, and gives what `status` says of them.
fn coverage(network: &Network, institution: &InstitutionId) -> Value {
    eventually(LIMIT, "its records are measured", || {
        let status = network.agent_status(institution)?;
        Ok(status.get("coverage").cloned())
    })
    .unwrap()
}

/// The registries that came into force, oldest first, and those that each task's plans name.
fn registries(network: &Network) -> (Vec<Digest>, Vec<(String, BTreeSet<Digest>)>) {
    let (mut imported, mut planned) = (Vec::new(), Vec::<(String, BTreeSet<Digest>)>::new());
    for entry in events(&network.coordinator_dir()).unwrap() {
        match entry.event {
            Event::Network(NetworkEvent::RegistryImported { registry, .. }) => {
                imported.push(registry)
            }
            Event::Round(RoundEvent::Planned { plan, .. }) => {
                let task = plan.body.round.task.to_string();
                match planned.last_mut().filter(|(last, _)| *last == task) {
                    Some((_, named)) => drop(named.insert(plan.body.registry)),
                    None => planned.push((task, [plan.body.registry].into())),
                }
            }
            _ => {}
        }
    }
    (imported, planned)
}

#[test]
fn a_framework_tags_a_threshold_and_a_registry_in_the_middle_of_a_task() {
    let dir = tempfile::tempdir().unwrap();
    let (mut network, names, [framework, table]) = four(dir.path());
    let (mapped, without) = (&names[0], &names[3]);
    network.set_patience(1).unwrap();
    network.wait_for_agents(4).unwrap();

    // Each institution sees what the registry knows of its records.
    let known = coverage(&network, mapped);
    assert_eq!(known["answers"]["covered"], known["answers"]["all"], "{known}");
    let unknown = coverage(&network, without);
    assert_eq!(unknown["answers"]["covered"], 0, "{unknown}");
    assert!(unknown["items"]["covered"].as_u64() > Some(0), "{unknown}");
    let shown = said(&network, without, &["coverage"]);
    assert!(shown.contains("competencies   0 of ") && shown.contains("\noutside "), "{shown}");
    let shown = said(&network, mapped, &["coverage"]);
    assert!(shown.contains("(100.0 %) in the registry") && !shown.contains("outside"), "{shown}");
    let shown = said(&network, without, &["status"]);
    assert!(shown.contains("below 0.5, nothing is trained"), "{shown}");

    // The task goes on without the one that mapped nothing, and everybody knows why.
    network.start_task(&task("kt", 3, 60)).unwrap();
    wait_for_sums(&mut network, 3);
    let status = network.agent_status(without).unwrap();
    let refusal = status["last_refusal"]["reason"].as_str().unwrap();
    assert!(refusal.contains("0 of ") && refusal.contains("min_coverage"), "{status}");
    network.coordinator(&["task", "pause"]).unwrap();

    // In the middle of it comes another registry, and one of the institutions goes away.
    let mut package: Value = serde_json::from_slice(&fs::read(&framework).unwrap()).unwrap();
    let more = json!({ "identifier": identifier(500), "CFItemType": "Standard" });
    package["CFItems"].as_array_mut().unwrap().push(more);
    fs::write(&framework, package.to_string()).unwrap();
    network.publish_registry_of(&[&table, "--case", &framework, "--version", "2"]).unwrap();
    let status = network.status().unwrap();
    assert_eq!(
        (&status["registry"]["version"], &status["waiting_registry"]["version"]),
        (&json!(1), &json!(2))
    );
    let shown = network.coordinator(&["status"]).unwrap().stdout;
    assert!(
        String::from_utf8(shown)
            .unwrap()
            .contains("next registry  version 2, when the task has ended")
    );
    network.coordinator_process().unwrap().kill().unwrap();
    network.start_coordinator().unwrap();
    let no_round = |status: &Value| Ok(status["round"].is_null().then_some(()));
    network.wait_until(LIMIT, "the open round has ended", no_round).unwrap();
    let shown = String::from_utf8(network.coordinator(&["status"]).unwrap().stdout).unwrap();
    assert!(shown.contains(&format!("declined       {without}: {LOW_COVERAGE}")), "{shown}");
    network.wait_for_agents(4).unwrap();
    network.kill_agent(&names[2]).unwrap();
    let gone =
        |status: &Value| Ok((status["presence"]["missing"][0] == names[2].as_str()).then_some(()));
    network.wait_until(LIMIT, "it is missed", gone).unwrap();
    network.coordinator(&["task", "resume"]).unwrap();
    let ended = network.wait_for_task(TASK).unwrap();
    assert_eq!(ended["ending"]["end"], "completed", "{ended}");
    let in_force = |status: &Value| Ok((status["registry"]["version"] == 2).then_some(()));
    network.wait_until(LIMIT, "the waiting registry is in force", in_force).unwrap();

    // Who was away sees the newer registry first, and installs what was made over the one before.
    network.sign_roster().unwrap();
    network.start_agent(&names[2]).unwrap();
    eventually(LIMIT, "it has the newer registry and the model", || {
        let status = network.agent_status(&names[2])?;
        let newer = status["coverage"]["registry"] == 2;
        Ok((newer && status["model"]["task"] == "kt" && status["model"]["version"] == 3)
            .then_some(()))
    })
    .unwrap();

    // The next task is over the newer one, and has everybody who wants to be in it. Over the same records nobody
    // would add to a sum that one institution more is in, whatever the registry.
    names[..3].iter().for_each(|name| one_more_learner(&network, dir.path(), name));
    network.agent_process(without).unwrap().expect_running().unwrap();
    let path = network.agent_dir(without).join("policy.toml");
    fs::write(&path, format!("{POLICY}min_coverage = 0.0\n")).unwrap();
    said(&network, without, &["policy", "sign"]);
    network
        .start_task(&task("kt-next", 1, 60).replace("min_honest = 2", "min_honest = 4"))
        .unwrap();
    let ended = network.wait_for_task(TASK).unwrap();
    assert_eq!(ended["ending"]["end"], "completed", "{ended}");

    let (imported, planned) = registries(&network);
    let [first, second] = imported[..] else { panic!("{imported:?}") };
    let expected = [("kt".to_owned(), [first].into()), ("kt-next".to_owned(), [second].into())];
    assert_eq!(planned, expected);
    let log = events(&network.coordinator_dir()).unwrap();
    let declined: BTreeSet<(InstitutionId, String)> = log
        .into_iter()
        .filter_map(|entry| match entry.event {
            Event::Round(RoundEvent::Declined { decline }) => {
                Some((decline.body.institution, decline.body.reason))
            }
            _ => None,
        })
        .collect();
    assert_eq!(declined, [(without.clone(), LOW_COVERAGE.to_owned())].into(), "and no number");
    for name in &names {
        network.agent(name, &["audit", "verify"]).unwrap();
    }
}
