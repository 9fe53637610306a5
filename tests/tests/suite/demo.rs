//! `cargo demo` as a newcomer runs it, and on real records.

use std::{
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{Mutex, PoisonError},
};

use collegium_tests::harness::workspace;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::Value;

/// One demo at a time: each starts many processes.
static ONE: Mutex<()> = Mutex::new(());

/// Runs the demo and gives its summary, the last line of its output.
fn demo(arguments: &[&str]) -> Value {
    let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    let output = Command::new(env!("CARGO_BIN_EXE_demo"))
        .args(arguments)
        .arg("--json")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "the demo failed:\n{told}");
    let printed = String::from_utf8(output.stdout).unwrap();
    serde_json::from_str(printed.lines().last().unwrap()).unwrap()
}

fn number(summary: &Value, name: &str) -> f64 {
    summary[name].as_f64().unwrap_or_else(|| panic!("{name} is not a number in {summary}"))
}

/// A file of the real data, or none with a word about it.
fn real(file: &str) -> Option<String> {
    match std::env::var_os("COLLEGIUM_DATA") {
        Some(dir) => Some(PathBuf::from(dir).join(file).to_str().unwrap().to_owned()),
        None => {
            println!("left out: COLLEGIUM_DATA does not name a directory with {file}");
            None
        }
    }
}

/// What holds for every run; `gap` is how far the federated AUC may be below the pooled one.
fn check(summary: &Value, gap: f64) {
    println!("{summary}");
    assert_eq!(summary["resumed_after_kill"], true);
    assert_eq!(summary["logs_verified"], true);
    assert_eq!(summary["rounds_aborted"], 0);
    assert!(number(summary, "upload_bytes_per_parameter") < 4.5);
    assert!(number(summary, "coordinator_peak_bytes") > 0.0);
    let below = number(summary, "auc_pooled") - number(summary, "auc_global");
    assert!(below <= gap, "federated is {below} below pooled");
    let (alone, global) = (number(summary, "auc_alone_mean"), number(summary, "auc_global_mean"));
    assert!(global > alone, "mean alone {alone}, with the global model {global}");
}

#[test]
fn seven_simulated_institutions_train_and_one_comes_back_from_a_kill() {
    let summary = demo(&[]);
    assert_eq!(summary["institutions"], 7);
    // Twelve steps, and most items are not shared by six of the seven.
    check(&summary, 0.008);
}

/// Less than it may cost was never spent, and more never can be; what the model lost to noise is little.
#[test]
fn a_private_task_spends_what_it_may_and_no_more() {
    let summary = demo(&["--epsilon", "4"]);
    println!("{summary}");
    assert_eq!(
        (&summary["resumed_after_kill"], &summary["logs_verified"]),
        (&true.into(), &true.into())
    );
    assert_eq!((number(&summary, "epsilon"), number(&summary, "rounds_completed")), (4.0, 22.0));
    for population in 0..2 {
        let spent = summary["epsilon_spent"][population].as_f64().unwrap();
        assert!((3.98..=4.0).contains(&spent), "population {population} spent {spent}");
    }
    let (alone, global) = (number(&summary, "auc_alone_mean"), number(&summary, "auc_global_mean"));
    assert!(global > alone, "mean alone {alone}, with the noisy model {global}");
}

#[test]
fn assist09_by_school_reaches_the_pooled_model() {
    let Some(file) = real("assist09.parquet") else { return };
    let summary = demo(&["--data", &file]);
    assert_eq!(summary["institutions"], 27);
    check(&summary, 0.004);
    assert!(number(&summary, "auc_global") >= 0.776);
}

#[test]
fn timss11_with_forty_schools_reaches_the_pooled_model() {
    let Some(file) = real("timss11_schools.parquet") else { return };
    let summary = demo(&["--data", &file, "--institutions", "40"]);
    assert_eq!(summary["institutions"], 40);
    check(&summary, 0.004);
}

/// Whether an activity is handed in depends on two numbers together, so that no linear model finds it.
fn activities(dir: &Path) -> [String; 3] {
    let mut draws = ChaCha8Rng::seed_from_u64(11);
    let mut table = "school,pupil,task,kind,order,done,clicks,weight\n".to_owned();
    for (school, pupil) in (0..6).flat_map(|s| (0..40).map(move |p| (s, p))) {
        for order in 0..12 {
            let (clicks, weight) = (draws.random::<f32>(), draws.random::<f32>());
            let certain = (clicks > 0.5) != (weight > 0.5);
            let done = u8::from((draws.random::<f32>() < 0.1) != certain);
            let kind = ["exam", "essay"][draws.random_range(0..2)];
            let (task, weight) = (draws.random_range(0..3), weight * 100.0);
            writeln!(
                table,
                "s{school},p{school}-{pupil},{kind}-{task},{kind},{order},{done},{clicks},{weight}"
            )
            .unwrap();
        }
    }
    let mapping = r#"
        learner = "pupil"
        item = "task"
        competencies = { column = "kind" }
        order = { column = "order", kind = "number" }
        outcome = { column = "done" }
        institution = "school"
        features = { opened = "clicks", worth = "weight" }
    "#;
    let task = r#"
        task = "completion"
        architecture = "wide-mlp/1"
        rounds = 6
        [hyper]
        features = [
            { name = "opened", least = 0.0, most = 1.0 },
            { name = "worth", least = 0.0, most = 100.0 },
        ]
    "#;
    [("a.csv", table.as_str()), ("m.toml", mapping), ("t.toml", task)].map(|(name, text)| {
        let path = dir.join(name);
        fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    })
}

#[test]
fn a_neural_network_takes_the_same_way() {
    let dir = tempfile::tempdir().unwrap();
    let [data, mapping, task] = activities(dir.path());
    let summary = demo(&["--data", &data, "--mapping", &mapping, "--task", &task]);
    println!("{summary}");
    assert_eq!(
        (&summary["resumed_after_kill"], &summary["logs_verified"]),
        (&true.into(), &true.into())
    );
    // Support, statistics, six steps and an evaluation.
    assert_eq!(number(&summary, "rounds_completed"), 9.0);
    assert!(number(&summary, "auc_global") > 0.8, "a linear model has about a half");
    assert!(number(&summary, "auc_pooled") - number(&summary, "auc_global") < 0.02);
}

#[test]
fn a_neural_network_is_trained_with_noise() {
    let dir = tempfile::tempdir().unwrap();
    let [data, mapping, task] = activities(dir.path());
    let given = ["--data", &data, "--mapping", &mapping, "--task", &task];
    let summary = demo(&[&given[..], &["--epsilon", "4", "--rounds", "4"]].concat());
    println!("{summary}");
    assert_eq!(number(&summary, "rounds_completed"), 6.0);
    for population in 0..2 {
        let spent = summary["epsilon_spent"][population].as_f64().unwrap();
        assert!((3.9..=4.0).contains(&spent), "population {population} spent {spent}");
    }
}

#[test]
fn oulad_by_module_helps_the_smallest() {
    let Some(file) = real("oulad/task_assessment_completion.parquet") else { return };
    let task = workspace().join("tests/tasks/oulad.toml");
    let task = task.to_str().unwrap();
    let summary = demo(&["--data", &file, "--task", task, "--rounds", "4"]);
    assert_eq!(summary["institutions"], 7);
    check(&summary, 0.004);
    assert!(number(&summary, "auc_global") >= 0.934);
}
