//! The style and architecture rules that can be read off the source tree, as tests.
//! Looks at text only; what Cargo knows is checked in `dependencies`.

use std::{
    fs,
    path::{Path, PathBuf},
};

use crate::harness::workspace;

const LONGEST: usize = 800;

/// A Rust file of ours: path from the repository's root with '/', and its text.
struct Source {
    path: String,
    text: String,
}

impl Source {
    fn name(&self) -> &str {
        self.path.rsplit('/').next().unwrap_or(&self.path)
    }

    /// Lines of code: without those that are only a comment.
    fn code(&self) -> impl Iterator<Item = &str> {
        self.text.lines().map(str::trim_start).filter(|line| !line.starts_with("//"))
    }

    /// Whether a path into the crate is written anywhere.
    fn uses(&self, krate: &str) -> bool {
        let path = format!("{krate}::");
        let starts_word = |line: &str, at: usize| {
            let before = line[..at].chars().next_back();
            !before.is_some_and(|c| c.is_alphanumeric() || matches!(c, '_' | ':' | '"'))
        };
        let mut code = self.code();
        code.any(|line| line.match_indices(&path).any(|(at, _)| starts_word(line, at)))
    }
}

fn sources() -> Vec<Source> {
    let mut files = Vec::new();
    for member in ["proto", "shared", "coordinator", "agent", "tests"] {
        collect(&workspace().join(member), &mut files);
    }
    files.sort();
    let read = |file: PathBuf| Source {
        path: file.strip_prefix(workspace()).unwrap().to_str().unwrap().replace('\\', "/"),
        text: fs::read_to_string(&file).unwrap(),
    };
    files.into_iter().map(read).collect()
}

fn collect(dir: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            if !path.ends_with("target") {
                collect(&path, files);
            }
        } else if path.extension().is_some_and(|kind| kind == "rs") {
            files.push(path);
        }
    }
}

/// Paths of the files that break a rule.
fn offenders(broken: impl Fn(&Source) -> bool) -> Vec<String> {
    sources().into_iter().filter(|file| broken(file)).map(|file| file.path).collect()
}

fn none(paths: Vec<String>) -> Vec<String> {
    assert!(sources().len() > 10, "the source tree was not found");
    paths
}

#[test]
fn no_file_is_too_long() {
    let long = offenders(|file| file.text.lines().count() > LONGEST);
    assert_eq!(none(long), [""; 0], "over {LONGEST} lines: split by meaning");
}

#[test]
fn every_file_says_what_it_owns() {
    let silent = offenders(|file| {
        !matches!(file.name(), "main.rs" | "build.rs") && !file.text.starts_with("//!")
    });
    assert_eq!(none(silent), [""; 0], "must open with a //! comment");
}

#[test]
fn no_catch_all_modules_and_no_get() {
    let vague = offenders(|file| {
        let stem = file.name().trim_end_matches(".rs");
        matches!(stem, "utils" | "util" | "helpers" | "common" | "misc") || stem.contains("manager")
    });
    assert_eq!(none(vague), [""; 0], "name the file after what it owns");
    let getters = offenders(|file| file.code().any(|line| line.contains(concat!("fn ", "get_"))));
    assert_eq!(none(getters), [""; 0], "name the value, without get_");
}

#[test]
fn sled_has_one_door_on_each_side() {
    let doors = offenders(|file| file.uses("sled"));
    let behind = |start: &str| doors.iter().filter(|path| path.starts_with(start)).count();
    let counts = (behind("agent/src/vault"), behind("coordinator/src/store"), doors.len());
    assert_eq!(counts, (1, 1, 2), "{doors:?}");
}

#[test]
fn burn_is_used_by_the_trainer_and_the_models_alone() {
    let allowed = ["agent/src/trainer", "agent/src/model"];
    let others = offenders(|file| {
        file.uses("burn") && !allowed.iter().any(|start| file.path.starts_with(start))
    });
    assert_eq!(none(others), [""; 0]);
}

#[test]
fn the_wire_stays_at_the_edges() {
    // On the coordinator what accepts connections and serves them; on the agent the link, the
    // enrolment that comes before it, and what describes the connection (its URL and TLS identity).
    let allowed = [
        "proto/",
        "coordinator/src/gate",
        "coordinator/src/listener",
        "coordinator/src/rpc",
        "coordinator/src/service",
        "agent/src/config",
        "agent/src/enrol",
        "agent/src/identity",
        "agent/src/link",
        "tests/",
    ];
    let others = offenders(|file| {
        file.uses("tonic") && !allowed.iter().any(|start| file.path.starts_with(start))
    });
    assert_eq!(none(others), [""; 0], "tonic belongs at the edges only");
}
