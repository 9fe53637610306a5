//! New records after a release: of learners like those before, and of learners for whom the same answers are
//! suddenly wrong. Only the second institution is alarmed.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
    time::Duration,
};

use collegium_shared::ids::InstitutionId;
use collegium_tests::{
    harness::eventually,
    network::Network,
    simulator::{Federation, MAPPING, Settings, SimulatedInstitution},
    testbed::LIMIT,
};
use serde_json::Value;

use crate::agents::{POLICY, task, trained};

/// How long a task of a few steps may take on a slow machine.
const TASK: Duration = Duration::from_secs(180);

/// Takes every other learner out of each institution, for later.
fn halve(federation: &mut Federation) -> Vec<SimulatedInstitution> {
    let halves = federation.institutions.iter_mut().map(|institution| {
        let mut learners = BTreeMap::new();
        for row in &institution.rows {
            let next = learners.len();
            learners.entry(row.learner.clone()).or_insert(next);
        }
        let mut later = institution.clone();
        institution.rows.retain(|row| learners[&row.learner] % 2 == 0);
        later.rows.retain(|row| learners[&row.learner] % 2 == 1);
        later
    });
    halves.collect()
}

fn import(network: &Network, dir: &Path, institution: &SimulatedInstitution) {
    let (table, mapping) = (dir.join("later.csv"), dir.join("later.toml"));
    fs::write(&table, institution.to_csv().unwrap()).unwrap();
    fs::write(&mapping, MAPPING).unwrap();
    let [table, mapping] = [&table, &mapping].map(|path| path.to_str().unwrap());
    network.agent(&institution.name, &["data", "import", table, "--mapping", mapping]).unwrap();
}

/// Waits until enough was measured to tell, and gives what `status` says.
fn standing(network: &Network, institution: &InstitutionId) -> Value {
    eventually(LIMIT, "its new records are measured", || {
        let status = network.agent_status(institution)?;
        Ok(status.get("drift").filter(|drift| drift["measured"] == true).cloned())
    })
    .unwrap()
}

/// What a federated evaluation makes the coordinator propose.
fn proposed(network: &mut Network, name: &str) -> Value {
    let text = format!(
        "task = \"{name}\"\narchitecture = \"evaluation/1\"\ncohort = {{ c_max = 0, min_honest = 2 }}\n"
    );
    network.start_task(&text).unwrap();
    network.wait_for_task(TASK).unwrap();
    network.status().unwrap()["training_proposed"].clone()
}

#[test]
fn an_institution_whose_records_shift_is_alarmed_and_another_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let mut federation = Federation::simulate(&Settings { institutions: 3, ..Settings::default() });
    let mut later = halve(&mut federation);
    let policy = POLICY.replace("\"kt*\"", "\"*\"");
    let policy = policy.replace("\"kt-logistic/1\"", "\"kt-logistic/1\", \"evaluation/1\"");
    let mut network = Network::assemble(dir.path(), &federation, &policy).unwrap();
    let names: Vec<InstitutionId> = later.iter().map(|one| one.name.clone()).collect();
    let none = network.agent_command(&names[0], &["drift"]).output().unwrap();
    assert!(String::from_utf8_lossy(&none.stderr).contains("no model is installed yet"));
    trained(&mut network, &names, &task("kt", 6, 60));
    // Nothing is new yet.
    let text = network.agent(&names[1], &["drift"]).unwrap().stdout;
    assert!(String::from_utf8(text).unwrap().contains("too little to tell"));

    assert!(proposed(&mut network, "evaluation-1").is_null());
    import(&network, dir.path(), &later[0]);
    let mut right = 0;
    for row in later[1].rows.iter_mut().filter(|row| row.correct) {
        right += 1;
        row.correct = right % 2 == 0;
    }
    import(&network, dir.path(), &later[1]);
    let (steady, shifted) = (standing(&network, &names[0]), standing(&network, &names[1]));
    assert_eq!(
        (&steady["shifted"], &steady["training_proposed"]),
        (&Value::Array(vec![]), &false.into()),
        "{steady}"
    );
    let named: BTreeSet<&str> =
        shifted["shifted"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
    assert!(named.contains("calibration") && named.contains("outcomes"), "{shifted}");
    assert_eq!(shifted["training_proposed"], true, "{shifted}");

    // All institutions together tell as well.
    let proposal = proposed(&mut network, "evaluation-2");
    assert!(proposal.as_str().is_some_and(|words| words.contains("train again")), "{proposal}");
    let words = String::from_utf8(network.coordinator(&["status"]).unwrap().stdout).unwrap();
    assert!(words.contains("proposal       the released model's log loss"), "{words}");

    // The same after a restart, from what lies on the disk alone, and for people.
    network.kill_agent(&names[1]).unwrap();
    network.start_agent(&names[1]).unwrap();
    assert_eq!(standing(&network, &names[1]), shifted);
    let text = network.agent(&names[1], &["drift"]).unwrap().stdout;
    let text = String::from_utf8(text).unwrap();
    println!("{text}");
    assert!(text.contains("SHIFTED") && text.contains("proposed"), "{text}");
}
