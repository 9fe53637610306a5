//! The privacy ledger of real agents around a real coordinator: what is spent, what is refused, and what
//! becomes of it when a directory is restored from a backup.

use std::{fs, path::Path, process::Command, time::Duration};

use collegium_shared::ids::InstitutionId;
use collegium_tests::{harness::eventually, network::Network, testbed::LIMIT};
use serde_json::Value;

use crate::agents::{POLICY, federation};

/// How long a private task of a few steps may take on a slow machine.
const TASK: Duration = Duration::from_secs(120);

fn three(dir: &Path, policy: &str) -> (Network, Vec<InstitutionId>) {
    let federation = federation();
    let network = Network::assemble(dir, &federation, &format!("{POLICY}{policy}")).unwrap();
    (network, federation.institutions.into_iter().map(|i| i.name).collect())
}

fn task(name: &str, epsilon: f64) -> String {
    format!(
        "task = \"{name}\"\narchitecture = \"kt-logistic/1\"\nrounds = 2\n\
         cohort = {{ c_max = 0, min_honest = 2 }}\n\n[privacy]\nepsilon = {epsilon}\n\n\
         [deadlines]\nready = 60\n"
    )
}

fn ask(network: &Network, who: &InstitutionId, words: &[&str]) -> Value {
    serde_json::from_slice(&network.agent(who, words).unwrap().stdout).unwrap()
}

/// What each training learner ever spent.
fn spent(statement: &Value) -> f64 {
    assert_eq!(statement["populations"][0]["population"], "training", "{statement}");
    statement["populations"][0]["spent_ever"].as_f64().unwrap()
}

fn refused(network: &Network, who: &InstitutionId, words: &str) {
    let what = format!("{who} refuses with {words:?}");
    let seen = eventually(LIMIT, &what, || {
        let reason = network.agent_status(who)?["last_refusal"]["reason"].clone();
        Ok(reason.as_str().filter(|reason| reason.contains(words)).map(str::to_owned))
    });
    seen.unwrap();
}

fn copy(from: &Path, to: &Path) {
    let status = Command::new("cp").arg("-a").arg(from).arg(to).status().unwrap();
    assert!(status.success(), "{} cannot be copied", from.display());
}

#[test]
fn a_restored_agent_pays_for_what_its_backup_forgot() {
    let dir = tempfile::tempdir().unwrap();
    let (mut network, names) = three(dir.path(), "\n[privacy]\nepsilon = 4.0\n");
    let (one, other) = (&names[0], &names[1]);
    let home = network.agent_dir(one);
    let backup = dir.path().join("backup");

    network.start_task(&task("kt-1", 1.0)).unwrap();
    network.wait_for_task(TASK).unwrap();
    let first = ask(&network, one, &["privacy", "--json"]);
    assert!((0.9..=1.0).contains(&spent(&first)), "{first}");
    assert_eq!(first["tasks"]["kt-1"]["sums"], 4, "{first}");
    network.kill_agent(one).unwrap();
    copy(&home, &backup);
    network.start_agent(one).unwrap();
    network.wait_for_agents(3).unwrap();

    network.start_task(&task("kt-2", 2.0)).unwrap();
    network.wait_for_task(TASK).unwrap();
    let whole = ask(&network, one, &["privacy", "--json"]);
    assert!(spent(&whole) > 2.0, "{whole}");
    network.kill_agent(one).unwrap();
    fs::remove_dir_all(&home).unwrap();
    copy(&backup, &home);
    let lost = ask(&network, one, &["privacy", "--json"]);
    assert_eq!(lost["tasks"].as_object().unwrap().len(), 1, "the backup knows of one task: {lost}");

    network.start_agent(one).unwrap();
    let paid = eventually(LIMIT, "the gap is debited", || {
        let statement = ask(&network, one, &["privacy", "--json"]);
        Ok((statement["forgotten"] == 4).then_some(statement))
    })
    .unwrap();
    let (paid, owed) = (spent(&paid), spent(&whole));
    assert!(paid >= owed - 0.002 && paid < owed + 0.01, "debited {paid}, spent {owed}");
    // Both have the same left: a task that fits neither is refused by both.
    network.start_task(&task("kt-3", 3.9)).unwrap();
    for who in [one, other] {
        refused(&network, who, "past this institution's budget of 4");
    }
    let words = String::from_utf8(network.agent(one, &["privacy"]).unwrap().stdout).unwrap();
    assert!(words.contains("4 sums that a backup had forgotten are counted in full"), "{words}");
    let verified = network.agent(one, &["audit", "verify"]).unwrap();
    assert!(verified.status.success());
}

#[test]
fn what_leaves_in_a_private_round_is_shown_with_its_noise_and_its_price() {
    let dir = tempfile::tempdir().unwrap();
    let (network, names) = three(dir.path(), "hold = true\n\n[privacy]\nepsilon = 4.0\n");
    let one = &names[0];
    network.start_task(&task("kt", 4.0)).unwrap();
    let held = eventually(LIMIT, "a round is held", || {
        let held = network.agent_status(one)?["held"].clone();
        Ok((!held.is_null()).then_some(held))
    });
    let held = held.unwrap();
    let shown = ask(&network, one, &["preview-egress", "--json"]);
    assert_eq!((&shown["round"], &shown["standing"]["state"]), (&held, &"waiting".into()));
    for tensor in shown["tensors"].as_array().unwrap() {
        assert!(tensor["noise"].as_f64().unwrap() > 0.0, "{shown}");
        let (cut, of) = (&tensor["before"]["clipped"], &tensor["before"]["learners"]);
        assert!(cut.as_u64() <= of.as_u64() && of.as_u64() > Some(0), "{shown}");
    }
    let price = &shown["price"][0];
    assert_eq!((&price["population"], &price["round"]), (&"training".into(), &price["spent"]));
    let words = String::from_utf8(network.agent(one, &["preview-egress"]).unwrap().stdout).unwrap();
    assert!(words.contains("before noise and clipping") && words.contains("epsilon"), "{words}");
    // It is spent although nothing left, and is not given back.
    let spent_before = spent(&ask(&network, one, &["privacy", "--json"]));
    assert!(spent_before > 2.0);
    network.agent(one, &["reject", "--reason", "not today"]).unwrap();
    assert!(spent(&ask(&network, one, &["privacy", "--json"])) >= spent_before);
}

#[test]
fn with_a_budget_no_exact_sum_is_given() {
    let dir = tempfile::tempdir().unwrap();
    let (network, names) = three(dir.path(), "\n[privacy]\nepsilon = 4.0\n");
    network.start_task(&crate::agents::task("kt", 2, 60)).unwrap();
    for who in &names {
        refused(&network, who, "sums without noise: it keeps a privacy budget");
    }
    let statement = ask(&network, &names[0], &["privacy", "--json"]);
    assert_eq!((spent(&statement), &statement["without_bound"]), (0.0, &serde_json::json!({})));
    let words = String::from_utf8(network.agent(&names[0], &["privacy"]).unwrap().stdout).unwrap();
    assert!(words.contains("Nothing was spent"), "{words}");
}
