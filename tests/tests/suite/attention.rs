//! `kt-attention/1` through real agents and a real coordinator, beside `kt-logistic/1`: who recommends and what is
//! audited while a network is the newest release.

use std::time::Duration;

use collegium_shared::ids::InstitutionId;
use collegium_tests::{
    network::Network,
    simulator::{Federation, Settings},
};
use serde_json::Value;

/// How long a task of a few steps over a few learners may take on a slow machine.
const TASK: Duration = Duration::from_secs(240);

const POLICY: &str = "tasks = [\"*\"]\n\
    architectures = [\"kt-logistic/1\", \"kt-attention/1\", \"evaluation/1\", \"bias-audit/1\"]\n\
    attributes = [\"group\"]\nc_max = 0\nn_min = 2\nmin_honest = 2\n";

/// Few steps, so that a task is over soon.
const HASTY: &str = "[hyper.optimizer]\nname = \"local-adam\"\nlearning_rate = 1e-3\nlocal_steps = 2\nbatch = 4\n\
                     decay_rounds = 2\n";

fn attention(more: &str) -> String {
    format!(
        "task = \"attention\"\narchitecture = \"kt-attention/1\"\nrounds = 2\n\
         cohort = {{ c_max = 0, min_honest = 2 }}\n[deadlines]\nready = 60\n{more}"
    )
}

fn asking(task: &str, architecture: &str, more: &str) -> String {
    format!(
        "task = \"{task}\"\narchitecture = \"{architecture}\"\ncohort = {{ c_max = 0, min_honest = 2 }}\n{more}"
    )
}

fn agent(network: &Network, name: &InstitutionId, words: &[&str]) -> Value {
    serde_json::from_slice(&network.agent(name, words).unwrap().stdout).unwrap()
}

#[test]
fn attention_is_trained_evaluated_and_leaves_recommendations_to_the_logistic_model() {
    let dir = tempfile::tempdir().unwrap();
    let settings = Settings { institutions: 3, size_percent: 50, ..Settings::default() };
    let federation = Federation::simulate(&settings);
    let mut network = Network::assemble(dir.path(), &federation, POLICY).unwrap();
    let names: Vec<_> = federation.institutions.iter().map(|i| i.name.clone()).collect();
    crate::agents::trained(&mut network, &names, &crate::agents::task("kt", 1, 60));
    let learner = federation.institutions[0].learners()[0].id.clone();
    let recommend = ["recommend", "--learner", &learner, "--json"];
    let before = agent(&network, &names[0], &recommend);
    assert!(agent(&network, &names[0], &["status", "--json"])["recommending"].is_null());

    let ended = crate::agents::trained(&mut network, &names, &attention(HASTY));
    // Support, statistics, two steps, and the evaluation of the last model.
    assert_eq!(
        (&ended["ending"]["end"], &ended["rounds_completed"]),
        (&"completed".into(), &5.into())
    );
    assert!(ended["release"]["metrics"]["auc"].as_f64().unwrap() > 0.6, "{ended}");
    let status = agent(&network, &names[0], &["status", "--json"]);
    assert_eq!(status["model"]["task"], "attention");
    assert_eq!(status["recommending"]["task"], "kt", "{status}");
    let items = |found: &Value| -> Vec<Value> {
        found.as_array().unwrap().iter().map(|one| one["item"].clone()).collect()
    };
    let after = agent(&network, &names[0], &recommend);
    assert_eq!(items(&after), items(&before), "the same model recommends");
    let report = agent(&network, &names[0], &["evaluate", "--json"]);
    assert!(report["global"]["auc"].as_f64().unwrap() > 0.6, "{report}");
    assert!(report["alone"]["auc"].is_number(), "{report}");

    // An evaluation is of the newest model, an audit of the one that recommends.
    network.start_task(&asking("weekly", "evaluation/1", "")).unwrap();
    network.wait_for_task(TASK).unwrap();
    let of = |network: &Network, words: &[&str]| -> Value {
        serde_json::from_slice(&network.coordinator(words).unwrap().stdout).unwrap()
    };
    let models = of(&network, &["model", "list", "--json"])["models"].clone();
    let manifest = |task: &str| {
        let all = models.as_array().unwrap().iter();
        all.rev().find(|model| model["task"] == task).unwrap()["manifest"].clone()
    };
    let evaluated = of(&network, &["evaluation", "show", "--json"]);
    assert_eq!(evaluated["body"]["model"], manifest("attention"));
    assert_eq!(evaluated["body"]["counted"], 3, "{evaluated}");
    let groups = "[audit]\nsmallest_part = 1\nattributes.group = [\"a\", \"b\"]\n";
    network.start_task(&asking("audit", "bias-audit/1", groups)).unwrap();
    network.wait_for_task(TASK).unwrap();
    let audited = of(&network, &["bias", "show", "--json"]);
    assert_eq!(audited["body"]["model"], manifest("kt"));

    // Unless it names the network, which recommends nothing.
    let groups = groups.replace("[audit]", "[audit]\nof = \"kt-attention/1\"");
    network.start_task(&asking("audit-attention", "bias-audit/1", &groups)).unwrap();
    network.wait_for_task(TASK).unwrap();
    let audited = of(&network, &["bias", "show", "--json"]);
    assert_eq!(audited["body"]["model"], manifest("attention"));
    let figures = &audited["body"]["attributes"][0]["groups"][0]["figures"];
    assert!(figures["auc"]["value"].is_number() && figures["exposure"].is_null(), "{audited}");
    assert!(audited["body"]["compared"].is_null(), "not with another architecture's: {audited}");

    crate::agents::trained(&mut network, &names, &crate::agents::task("kt-again", 1, 60));
    let late = network.start_task(&asking("audit-late", "bias-audit/1", &groups)).unwrap_err();
    assert!(format!("{late:#}").contains("is no kt-attention/1 model"), "{late:#}");
    assert!(agent(&network, &names[0], &["status", "--json"])["recommending"].is_null());
    let installed = std::fs::read_dir(network.agent_dir(&names[0]).join("models")).unwrap();
    assert_eq!(installed.count(), 3, "the newest, the one before, and which is current");
    network.stop().unwrap();
}

#[test]
fn attention_is_trained_with_noise() {
    let dir = tempfile::tempdir().unwrap();
    let settings = Settings { institutions: 3, size_percent: 25, ..Settings::default() };
    let federation = Federation::simulate(&settings);
    let policy = format!("{POLICY}[privacy]\nepsilon = 5.0\ndelta = 1e-6\ndays = 365\n");
    let mut network = Network::assemble(dir.path(), &federation, &policy).unwrap();
    network.start_task(&attention("[privacy]\nepsilon = 4.0\n")).unwrap();
    let ended = network.wait_for_task(TASK);
    // So few learners may leave nothing worth releasing; the rounds are what is looked at.
    let status: Value =
        serde_json::from_slice(&network.coordinator(&["status", "--json"]).unwrap().stdout)
            .unwrap();
    let task = &status["task"];
    assert_eq!(task["rounds_completed"], 4, "{ended:?} {status}");
    network.stop().unwrap();
}
