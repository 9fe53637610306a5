//! A federated evaluation through real agents and a real coordinator: what is summed agrees with what the
//! institutions see at home, and who does not permit it takes no part.

use std::{fs, time::Duration};

use collegium_coordinator::{
    SIGNING_KEY,
    card::ModelCard,
    network::{Event, NetworkEvent},
};
use collegium_shared::{crypto::SigningKey, signed::Signed};
use collegium_tests::{
    harness::attempt,
    network::Network,
    simulator::{Federation, Settings},
    testbed::{LIMIT, events},
};
use serde_json::Value;

/// How long a task of a few steps over a few learners may take on a slow machine.
const TASK: Duration = Duration::from_secs(240);

fn policy(more: &str) -> String {
    format!(
        "tasks = [\"*\"]\narchitectures = [\"kt-logistic/1\"{more}]\nc_max = 0\nn_min = 2\nmin_honest = 2\n"
    )
}

fn evaluation(name: &str) -> String {
    format!(
        "task = \"{name}\"\narchitecture = \"evaluation/1\"\ncohort = {{ c_max = 0, min_honest = 2 }}\n\
         [deadlines]\nready = 20\n"
    )
}

fn json(network: &Network, words: &[&str]) -> Value {
    serde_json::from_slice(&network.coordinator(words).unwrap().stdout).unwrap()
}

/// Whether the evaluation can be started, and what is said if not.
fn start(network: &Network, dir: &std::path::Path, task: &str) -> Result<(), String> {
    let file = dir.join("evaluation.toml");
    fs::write(&file, task).unwrap();
    let mut command = std::process::Command::new(&network.binaries().coordinator);
    command.args(["task", "start"]).arg(file).arg("--dir").arg(network.coordinator_dir());
    let done = attempt(&mut command, LIMIT).unwrap();
    match done.status.success() {
        true => Ok(()),
        false => Err(String::from_utf8(done.stderr).unwrap()),
    }
}

/// Each release has a card that says what its manifest and its task say, and beside it what was found since.
fn cards(network: &Network, dir: &std::path::Path) {
    let models = json(network, &["model", "list", "--json"]);
    let models = models["models"].as_array().unwrap();
    assert_eq!(models.len(), 2);
    let answer = json(network, &["model", "card", "kt", "--version", "2", "--json"]);
    let signed: Signed<ModelCard> = serde_json::from_value(answer["card"].clone()).unwrap();
    let key =
        SigningKey::load(&network.coordinator_dir().join(SIGNING_KEY)).unwrap().verifying_key();
    signed.verify(&key).unwrap();
    let card = signed.body;
    assert_eq!(serde_json::to_value(card.manifest).unwrap(), models[1]["manifest"]);
    assert_eq!(serde_json::to_value(card.quality.metrics).unwrap(), models[1]["metrics"]);
    let metrics = card.quality.metrics;
    assert_eq!(card.quality.judged.right + card.quality.judged.wrong, metrics.responses);
    let [low, high] = card.quality.judged.auc_interval.unwrap();
    assert!((low..high).contains(&metrics.auc.unwrap()));
    // Support, statistics, totals, two steps and the last evaluation.
    let participants = &card.participants;
    assert_eq!((participants.sums, participants.fewest, participants.most), (6, 4, 4));
    assert!(card.data.training_answers.unwrap() > metrics.responses);
    assert_eq!(card.parameters, 17 + 3 * card.data.shared_competencies);
    assert_eq!(answer["since"]["evaluations"].as_array().unwrap().len(), 2);
    let text = String::from_utf8(network.coordinator(&["model", "card"]).unwrap().stdout).unwrap();
    assert!(text.contains("kt, version 2") && text.contains("weekly at"), "{text}");
    let page = dir.join("card.html");
    network.coordinator(&["model", "page", "--out", page.to_str().unwrap()]).unwrap();
    assert!(fs::read_to_string(page).unwrap().contains("Known limits"));
    let words = ["model", "card", "kt", "--version", "9", "--dir"];
    let mut unknown = std::process::Command::new(&network.binaries().coordinator);
    let said = attempt(unknown.args(words).arg(network.coordinator_dir()), LIMIT).unwrap();
    assert!(String::from_utf8(said.stderr).unwrap().contains("kt 1 to 2"));
}

#[test]
fn an_evaluation_compares_the_released_model_with_what_institutions_have_alone() {
    let dir = tempfile::tempdir().unwrap();
    let settings = Settings { institutions: 4, size_percent: 50, ..Settings::default() };
    let federation = Federation::simulate(&settings);
    let names: Vec<_> = federation.institutions.iter().map(|i| i.name.clone()).collect();
    let mut network =
        Network::assemble(dir.path(), &federation, &policy(", \"evaluation/1\"")).unwrap();
    // The last one permits training only.
    fs::write(network.agent_dir(&names[3]).join("policy.toml"), policy("")).unwrap();
    network.agent(&names[3], &["policy", "sign"]).unwrap();
    let early = start(&network, dir.path(), &evaluation("early")).unwrap_err();
    assert!(early.contains("no released model"), "{early}");
    crate::agents::trained(&mut network, &names, &crate::agents::task("kt", 2, 60));
    let none = String::from_utf8(network.coordinator(&["evaluation", "list"]).unwrap().stdout);
    assert!(none.unwrap().contains("no federated evaluation yet"));

    let private = format!("{}[privacy]\nepsilon = 4.0\n", evaluation("noisy"));
    let refused = start(&network, dir.path(), &private).unwrap_err();
    assert!(refused.contains("evaluation/1") && refused.contains("remove [privacy]"), "{refused}");
    network.start_task(&evaluation("weekly")).unwrap();
    let ended = network.wait_for_task(TASK).unwrap();
    assert_eq!(
        (&ended["ending"]["end"], &ended["rounds_completed"]),
        (&"completed".into(), &1.into()),
        "{ended}"
    );
    let report = &json(&network, &["evaluation", "show", "--json"])["body"];
    assert_eq!((&report["institutions"], &report["counted"]), (&3.into(), &3.into()), "{report}");
    assert_eq!(report["version"], 2);
    let of = |contender: &str, span: &str| {
        let all = report["compared"].as_array().unwrap();
        let found = all.iter().find(|of| of["contender"] == contender && of["span"] == span);
        found.unwrap().clone()
    };
    let held_out = federation.institutions[..3].iter().flat_map(|one| one.learners());
    let held_out = held_out.filter(|learner| learner.held_out).count() as u64;
    let learners = of("global", "all")["learners"].as_u64().unwrap();
    assert!(learners < held_out && 2 * learners > held_out, "{learners} of {held_out}");
    // At home each sees figures of all of its held-out learners.
    let at_home: Vec<f64> = names[..3]
        .iter()
        .map(|name| {
            let printed = network.agent(name, &["evaluate", "--json"]).unwrap().stdout;
            let report: Value = serde_json::from_slice(&printed).unwrap();
            report["global"]["auc"].as_f64().unwrap()
        })
        .collect();
    let auc = &of("global", "all")["figures"]["auc"];
    let (low, high) = (auc["low"].as_f64().unwrap(), auc["high"].as_f64().unwrap());
    let mean = at_home.iter().sum::<f64>() / 3.0;
    assert!(low < mean && mean < high, "{at_home:?}: {auc}");
    for contender in ["alone", "global", "in_use"] {
        assert!(
            of(contender, "later")["answers"].as_u64() < of(contender, "all")["answers"].as_u64()
        );
    }
    let text = String::from_utf8(network.coordinator(&["evaluation", "show"]).unwrap().stdout);
    let text = text.unwrap();
    assert!(text.contains("what is used at") && text.contains("proposal"), "{text}");
    let declined = String::from_utf8(network.agent(&names[3], &["status"]).unwrap().stdout);
    assert!(declined.unwrap().contains("evaluation/1"), "the fourth says why it stays away");

    // Over the same records and institutions it may be asked again, and is the same.
    network.start_task(&evaluation("again")).unwrap();
    network.wait_for_task(TASK).unwrap();
    let again = &json(&network, &["evaluation", "show", "again", "--json"])["body"];
    assert_eq!(again["compared"], report["compared"]);
    cards(&network, dir.path());
    network.coordinator(&["audit", "verify"]).unwrap();
    network.coordinator(&["store", "check"]).unwrap();
    network.stop().unwrap();
    let all = events(&network.coordinator_dir()).unwrap();
    let evaluated = |entry: &&collegium_shared::journal::Entry<Event>| {
        matches!(&entry.event, Event::Network(NetworkEvent::Evaluated { .. }))
    };
    assert_eq!(all.iter().filter(evaluated).count(), 2);
}
