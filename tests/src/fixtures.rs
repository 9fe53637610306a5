//! Fixtures: directories and messages that an earlier version left, and what that version read in
//! them. Owns where they lie, how one is made, and how this version reads it. A fixture is made once
//! and never again: see `tests/fixtures/README.md`.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use anyhow::{Context, bail, ensure};
use collegium_agent::home::Home;
use collegium_coordinator::{
    SIGNING_KEY,
    admin::AdminRequest,
    config::Config,
    driver::Driver,
    store::{check::check, rebuild},
};
use collegium_shared::{
    audit,
    clock::{Clock, Timestamp},
    crypto::{Digest, SigningKey},
    journal::History,
};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::harness::workspace;

pub mod make;
pub mod wire;

/// The file that says what was read.
pub const EXPECTED: &str = "expected.json";

/// Where the fixtures of one format lie: `v1`, and later ones beside it.
pub fn place(name: &str) -> PathBuf {
    workspace().join("tests").join("fixtures").join(name)
}

/// What is read in the two directories of a fixture.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub struct Expected {
    pub made_at: Timestamp,
    pub made_by: String,
    pub coordinator: Coordinator,
    pub agent: Agent,
}

/// A journal and the state that it gives.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub struct Folded {
    pub entries: u64,
    pub root: Digest,
    pub state: Value,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub struct Coordinator {
    pub log: Folded,
    /// Blobs that the state needs.
    pub blobs: usize,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub struct Agent {
    pub log: Folded,
    pub learners: usize,
    pub responses: usize,
    /// SHA-256 over the records as JSON, learners in order.
    pub records: Digest,
    /// The attempt under way, with the words of its sealed input.
    pub round: String,
    pub input_words: usize,
    /// Task and version of the installed model.
    pub model: String,
}

/// Reads everything in the directories below `dir`, as the programs do at their start; leaves marks of
/// that, as they do. At the time `at`, so that nothing there is out of date.
pub fn read(dir: &Path, at: Timestamp) -> anyhow::Result<Expected> {
    Ok(Expected {
        made_at: at,
        made_by: env!("CARGO_PKG_VERSION").to_owned(),
        coordinator: read_coordinator(&dir.join("coordinator"), at).context("coordinator")?,
        agent: read_agent(&dir.join("agent"), at).context("agent")?,
    })
}

fn read_coordinator(dir: &Path, at: Timestamp) -> anyhow::Result<Coordinator> {
    let key = SigningKey::load(&dir.join(SIGNING_KEY))?.verifying_key();
    let journal = dir.join("journal");
    let report = audit::verify(&journal, &key)?;
    let network = rebuild::fold(&History::audit(&journal, &key)?, None)?.network;
    let state = serde_json::to_value(&network)?;
    let checked = check(dir, &key);
    ensure!(checked.findings.is_empty(), "{:?}", checked.findings);
    // The program itself opens it, and reads the same.
    let (driver, _) = Driver::open(dir, &Config::load(dir)?, Clock::manual(at))?;
    let status = driver.once(AdminRequest::Status)?.map_err(anyhow::Error::msg)?;
    let digest = network.digest()?.to_string();
    ensure!(status["state_sha256"] == digest, "opened, it is another state: {status}");
    let log = Folded { entries: report.entries, root: report.root, state };
    Ok(Coordinator { log, blobs: checked.blobs })
}

fn read_agent(dir: &Path, at: Timestamp) -> anyhow::Result<Agent> {
    let key = SigningKey::load(&dir.join("keys/identity.key"))?;
    let report = audit::verify(&dir.join("journal"), &key.verifying_key())?;
    let home = Home::open(dir, Clock::manual(at))?;
    let state = home.book.read(|state| serde_json::to_value(state))?;
    let session = home.book.read(|state| {
        let session = state.history().session()?;
        Some((session.id().clone(), session.commitment()?, session.over()))
    });
    let Some((round, commitment, false)) = session else { bail!("no attempt is under way") };
    let files = Home::open_rounds(dir)?;
    files.secrets(&round, &commitment)?;
    let input_words = files.input(&round, &commitment)?.words();
    home.roster()?.context("there is no roster")?;
    home.registry()?.context("there is no registry")?;
    let (model, _) = home.model().context("no installed model can be read")?;
    let learners = home.vault().learners()?;
    Ok(Agent {
        log: Folded { entries: report.entries, root: report.root, state },
        learners: learners.len(),
        responses: learners.iter().map(|learner| learner.responses.len()).sum(),
        records: Digest::of(&serde_json::to_vec(&learners)?),
        round: round.to_string(),
        input_words,
        model: format!("{} {}", model.round.task, model.version),
    })
}

/// Copies a directory with the modes that the programs give and insist on: 0700 and 0600. What `keep`
/// does not want of paths relative to `from` is left out.
pub fn copy(from: &Path, to: &Path, keep: &dyn Fn(&Path) -> bool) -> anyhow::Result<()> {
    copy_below(from, Path::new(""), to, keep)
}

fn copy_below(
    from: &Path,
    below: &Path,
    to: &Path,
    keep: &dyn Fn(&Path) -> bool,
) -> anyhow::Result<()> {
    let made = to.join(below);
    fs::create_dir_all(&made).with_context(|| made.display().to_string())?;
    fs::set_permissions(&made, fs::Permissions::from_mode(0o700))?;
    let place = from.join(below);
    for entry in fs::read_dir(&place).with_context(|| place.display().to_string())? {
        let entry = entry?;
        let path = below.join(entry.file_name());
        if !keep(&path) {
            continue;
        }
        if entry.file_type()?.is_dir() {
            copy_below(from, &path, to, keep)?;
        } else if entry.file_type()?.is_file() {
            let copied = to.join(&path);
            fs::copy(entry.path(), &copied)?;
            fs::set_permissions(&copied, fs::Permissions::from_mode(0o600))?;
        }
    }
    Ok(())
}

/// Whether `now` says all that `then` said. What a later version says besides must be empty: an old
/// journal cannot have given it a value. The first difference is named.
pub fn still(then: &Value, now: &Value) -> Result<(), String> {
    compare(then, now, "state")
}

fn compare(then: &Value, now: &Value, place: &str) -> Result<(), String> {
    match (then, now) {
        (Value::Object(then), Value::Object(now)) => {
            for (name, value) in then {
                let place = format!("{place}.{name}");
                let found = now.get(name).unwrap_or(&Value::Null);
                compare(value, found, &place)?;
            }
            let added = now.iter().filter(|(name, _)| !then.contains_key(*name));
            match added.into_iter().find(|(_, value)| !is_empty(value)) {
                Some((name, value)) => Err(format!("{place}.{name} is {value}, and was unknown")),
                None => Ok(()),
            }
        }
        (Value::Array(then), Value::Array(now)) if then.len() == now.len() => {
            let mut pairs = then.iter().zip(now).enumerate();
            pairs.try_for_each(|(i, (then, now))| compare(then, now, &format!("{place}[{i}]")))
        }
        (then, now) if then == now || (is_empty(then) && is_empty(now)) => Ok(()),
        (then, now) => Err(format!("{place} was {then} and is {now}")),
    }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Bool(true) => false,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty(),
        Value::Array(values) => values.is_empty(),
        Value::Object(values) => values.values().all(is_empty),
    }
}
