//! The comparison of ways of learning runs on a file with a column that names the institution, and says what
//! it promises to say. How good models are on real records is docs/EVALUATION.md's.

use std::{collections::BTreeMap, fmt::Write, fs};

use clap::Parser;
use collegium_tests::{
    evaluate::Cli,
    simulator::{Federation, Settings},
};
use serde_json::Value;

#[test]
fn ways_of_learning_are_compared_on_any_file() {
    let settings = Settings { institutions: 7, size_percent: 15, ..Settings::default() };
    let federation = Federation::simulate(&settings);
    let mut table = "place,who,task,skills,position,right,test\n".to_owned();
    for institution in &federation.institutions {
        for row in &institution.rows {
            let (skills, right, test) =
                (row.competencies.join("|"), u8::from(row.correct), u8::from(row.held_out));
            let (who, task, position) = (&row.learner, &row.item, row.order);
            let name = &institution.name;
            writeln!(table, "{name},{who},{task},{skills},{position},{right},{test}").unwrap();
        }
    }
    let dir = tempfile::tempdir().unwrap();
    let (file, mapping) = (dir.path().join("records.csv"), dir.path().join("records.toml"));
    fs::write(&file, table).unwrap();
    let text = "learner = \"who\"\nitem = \"task\"\ninstitution = \"place\"\n\
                competencies = { column = \"skills\", separator = \"|\" }\n\
                order = { column = \"position\", kind = \"number\" }\n\
                outcome = { column = \"right\" }\n\
                held_out = { column = \"test\", equals = \"1\" }\n";
    fs::write(&mapping, text).unwrap();
    let words =
        ["evaluate", "--file", file.to_str().unwrap(), "--mapping", mapping.to_str().unwrap()];
    let fast = ["--steps", "6", "--private-steps", "3", "--repetitions", "2", "--epsilons", "8,4"];
    let found = Cli::try_parse_from(words.iter().chain(&fast)).unwrap().compare().unwrap();
    let rows: BTreeMap<&str, &Value> = found["sets"]
        .as_array()
        .unwrap()
        .iter()
        .map(|row| {
            assert_eq!(row["set"], "records");
            (row["mode"].as_str().unwrap(), row)
        })
        .collect();
    let modes = [
        "a new institution",
        "alone",
        "epsilon 4",
        "epsilon 8",
        "federated",
        "federated, half of them away",
        "personal",
        "pooled",
    ];
    assert_eq!(rows.keys().copied().collect::<Vec<_>>(), modes);
    for (mode, row) in &rows {
        for figure in ["auc", "auc_mean", "auc_worst", "brier", "ece", "log_loss"] {
            assert!(row[figure].as_f64().is_some_and(|v| v > 0.0 && v < 1.0), "{mode}: {row}");
        }
        assert!(
            row["institutions"].as_u64() >= row["personal_not_worse"].as_u64(),
            "{mode}: {row}"
        );
    }
    let auc = |mode: &str| rows[mode]["auc"].as_f64().unwrap();
    assert!(auc("federated") > auc("alone"), "{} {}", auc("federated"), auc("alone"));
    assert!(
        (auc("federated") - auc("pooled")).abs() < 0.02,
        "{} {}",
        auc("federated"),
        auc("pooled")
    );
    // Without a record of its own it has the others' model, and knows its learners by their answers alone.
    assert!(auc("a new institution") > auc("alone") - 0.02, "{}", auc("a new institution"));
    let rounds = &rows["federated"]["rounds"];
    assert_eq!((&rounds["looked_at"], &rows["epsilon 4"]["repetitions"]), (&6.into(), &2.into()));
}
