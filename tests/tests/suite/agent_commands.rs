//! What the agent's commands say when a file of the institution is wrong: records, mapping,
//! configuration, its own log. Nothing is half imported and nothing runs on a damaged log.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Output,
};

use collegium_shared::ids::InstitutionId;
use collegium_tests::{harness::attempt, network::Network, testbed::LIMIT};
use serde_json::Value;

const MAPPING: &str = "learner = \"student\"\nitem = \"question\"\n\
                       outcome = { column = \"correct\" }\n\
                       order = { column = \"position\", kind = \"number\" }\n\
                       competencies = { column = \"skill\" }\n";

/// An enrolled agent whose daemon does not run.
struct Agent {
    dir: tempfile::TempDir,
    network: Network,
    name: InstitutionId,
}

impl Agent {
    fn enrolled() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let network = Network::start(dir.path()).unwrap();
        let name: InstitutionId = "north-school".parse().unwrap();
        network.enrol(&name, "North School Trust").unwrap();
        Self { dir, network, name }
    }

    fn home(&self) -> PathBuf {
        self.network.agent_dir(&self.name)
    }

    fn run(&self, words: &[&str]) -> Output {
        attempt(&mut self.network.agent_command(&self.name, words), LIMIT).unwrap()
    }

    fn import(&self, name: &str, records: &str, mapping: &str) -> Output {
        let file = self.write(name, records);
        let mapping = self.write("mapping.toml", mapping);
        self.run(&["data", "import", text(&file), "--mapping", text(&mapping)])
    }

    fn write(&self, name: &str, content: &str) -> PathBuf {
        let path = self.dir.path().join(name);
        fs::write(&path, content).unwrap();
        path
    }

    fn answers(&self) -> u64 {
        let summary = self.run(&["data", "summary", "--json"]).stdout;
        let summary: Value = serde_json::from_slice(&summary).unwrap();
        summary["answers"].as_u64().unwrap_or_else(|| panic!("no answers in {summary}"))
    }
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[track_caller]
fn fails(output: &Output, code: i32, words: &[&str]) {
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{said}");
    for word in words {
        assert!(said.contains(word), "{word:?} is not in: {said}");
    }
}

#[test]
fn records_that_cannot_be_used_are_refused_by_file_and_reason() {
    let agent = Agent::enrolled();
    let header = "student,question,correct,position,skill\n";
    let row = "s1,q1,1,1,algebra\n";
    fails(&agent.import("empty.csv", "", MAPPING), 1, &["empty.csv"]);
    fails(&agent.import("header.csv", header, MAPPING), 1, &["header.csv", "holds no rows"]);
    let torn = format!("{header}{row}s2,\"q2,0\n");
    fails(&agent.import("torn.csv", &torn, MAPPING), 1, &["torn.csv"]);
    let nan = format!("{header}s1,q1,NaN,1,algebra\n");
    fails(&agent.import("nan.csv", &nan, MAPPING), 1, &["nan.csv", "1 of 1 rows cannot be used"]);
    let nan = format!("{header}s1,q1,1,NaN,algebra\n");
    fails(&agent.import("order.csv", &nan, MAPPING), 1, &["order.csv", "1 of 1 rows"]);
    fails(&agent.import("noise.parquet", "not a parquet file", MAPPING), 1, &["noise.parquet"]);
    fails(&agent.import("noise.jsonl", "{\"student\": \n", MAPPING), 1, &["noise.jsonl"]);
    let missing = MAPPING.replace("\"question\"", "\"item_number\"");
    let output = agent.import("columns.csv", &format!("{header}{row}"), &missing);
    fails(&output, 1, &["columns.csv", "item_number", "question"]);
    let misspelt = format!("lerner = \"student\"\n{MAPPING}");
    let output = agent.import("columns.csv", &format!("{header}{row}"), &misspelt);
    fails(&output, 1, &["mapping.toml", "lerner"]);
    let absent = agent.run(&["data", "import", "/nowhere.csv", "--mapping", "/nowhere.toml"]);
    fails(&absent, 1, &["/nowhere.csv"]);
    assert_eq!(agent.answers(), 0, "nothing of all that was imported");

    // A learner with one record is a learner.
    let output = agent.import("one.csv", &format!("{header}{row}"), MAPPING);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(agent.answers(), 1);
}

#[test]
fn attributes_that_the_policy_does_not_permit_are_not_imported() {
    let agent = Agent::enrolled();
    assert!(agent.run(&["policy", "init"]).status.success());
    let rows = "student,question,correct,position,skill,sex\ns1,q1,1,1,algebra,f\n";
    let mapping = format!("attributes = [\"sex\"]\n{MAPPING}");
    fails(&agent.import("one.csv", rows, &mapping), 1, &["\"sex\"", "policy.toml"]);
    assert_eq!(agent.answers(), 0);
    let path = agent.home().join("policy.toml");
    let policy = fs::read_to_string(&path).unwrap();
    fs::write(&path, policy.replace("attributes = []", "attributes = [\"sex\"]")).unwrap();
    assert!(agent.import("one.csv", rows, &mapping).status.success());
    assert_eq!(agent.answers(), 1);
}

#[test]
fn an_unknown_key_in_the_agents_configuration_is_named() {
    let agent = Agent::enrolled();
    let path = agent.home().join("agent.toml");
    let sound = fs::read_to_string(&path).unwrap();
    fs::write(&path, format!("colour = \"blue\"\n{sound}")).unwrap();
    for words in [&["run"][..], &["status"]] {
        fails(&agent.run(words), 78, &["agent.toml", "colour"]);
    }
    fs::write(&path, sound).unwrap();
    assert!(agent.run(&["status"]).status.success());
    fs::write(agent.home().join("policy.toml"), "trust_everyone = true\n").unwrap();
    let shown = agent.run(&["status"]).stdout;
    let shown = String::from_utf8(shown).unwrap();
    assert!(shown.contains("unusable") && shown.contains("trust_everyone"), "{shown}");
}

#[test]
fn an_agent_does_not_run_on_a_changed_or_truncated_log() {
    let agent = Agent::enrolled();
    let rows = "student,question,correct,position,skill\ns1,q1,1,1,algebra\n";
    assert!(agent.import("one.csv", rows, MAPPING).status.success());
    assert!(agent.run(&["audit", "verify"]).status.success());
    let log = agent.home().join("journal/journal.log");
    let sound = fs::read(&log).unwrap();
    let place = |word: &[u8]| sound.windows(word.len()).position(|w| w == word).unwrap();

    let mut changed = sound.clone();
    changed[place(b"\"data_imported\"") + 3] ^= 1;
    fs::write(&log, &changed).unwrap();
    for words in [&["audit", "verify"][..], &["run"], &["status"], &["data", "summary"]] {
        fails(
            &agent.run(words),
            1,
            &["entry 1 at byte", "journal.log", "restore it from a backup"],
        );
    }
    assert_eq!(fs::read(&log).unwrap(), changed, "and nothing is repaired by force");

    fs::write(&log, &sound[..place(b"\"data_imported\"")]).unwrap();
    for words in [&["audit", "verify"][..], &["run"], &["status"]] {
        fails(&agent.run(words), 1, &["journal.log is truncated: it holds 1 sealed entries"]);
    }
    fs::write(&log, &sound).unwrap();
    assert_eq!(agent.answers(), 1);
}

#[test]
fn a_second_daemon_and_a_directory_without_an_agent_are_named() {
    let mut agent = Agent::enrolled();
    let name = agent.name.clone();
    agent.network.start_agent(&name).unwrap();
    fails(&agent.run(&["run"]), 1, &["in use by another process"]);
    agent.network.agent_process(&name).unwrap().expect_running().unwrap();
    assert!(agent.run(&["status"]).status.success(), "the first one still answers");
    let nobody = agent.dir.path().join("nobody");
    let mut command = std::process::Command::new(&agent.network.binaries().agent);
    let output = attempt(command.arg("run").arg("--dir").arg(&nobody), LIMIT).unwrap();
    fails(&output, 1, &["holds no agent", "collegium-agent enroll"]);
}
