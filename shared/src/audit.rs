//! Reading a journal as an auditor does: verify all of it, list it, show one entry with its
//! proof, copy it out as a static log. Read-only, without a lock, while the daemon runs. Knows
//! the envelope of entries, and nothing of the domain behind an event's `type`.

use std::path::Path;

use serde::Serialize;
use serde_json::{Value, json};

pub use crate::journal::{Finding, verify_consistency, verify_inclusion};
use crate::{
    crypto::{Digest, VerifyingKey},
    journal::{self, Checkpoint, History},
    merkle,
};

/// What a sound journal holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    /// The name of the log in its checkpoints; empty if it has no entries.
    pub origin: String,
    /// Sealed entries.
    pub entries: u64,
    /// The RFC 6962 root over them.
    pub root: Digest,
    /// The newest checkpoint, to be compared with the copies that others countersigned.
    pub checkpoint: String,
    /// Bytes after the last seal: a batch being written now, or cut off by a crash.
    pub unsealed_bytes: u64,
}

/// Reads every byte of the journal in `dir` again and recomputes its tree; compares both with
/// the checkpoint that `key` signed, and with the published tiles if there are any. The error
/// is the first thing found wrong.
pub fn verify(dir: &Path, key: &VerifyingKey) -> Result<Report, Finding> {
    // Before the log, which may grow meanwhile, and the published part with it.
    let published = journal::published(dir, key)?;
    let history = History::audit(dir, key)?;
    if let Some(published) = published {
        journal::check_tiles(&history, dir, &published)?;
    }
    Ok(Report {
        origin: Checkpoint::read_unverified(history.checkpoint())
            .map(|last| last.origin)
            .unwrap_or_default(),
        entries: history.size(),
        root: history.root(),
        checkpoint: history.checkpoint().to_owned(),
        unsealed_bytes: history.unsealed_bytes(),
    })
}

/// Writes the journal in `dir` to `out` as a static C2SP `tlog-tiles` log.
pub fn export(dir: &Path, key: &VerifyingKey, out: &Path) -> Result<(), Finding> {
    journal::export_tiles(&History::audit(dir, key)?, out)
}

/// One entry in a list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Line {
    pub index: u64,
    /// RFC 3339, as written.
    pub at: String,
    /// The event's `type`.
    pub kind: String,
    /// The event's other plain fields as `name=value`, cut to a line's length.
    pub summary: String,
}

/// Up to `count` entries from entry `from` on.
pub fn list(dir: &Path, key: &VerifyingKey, from: u64, count: u64) -> Result<Vec<Line>, Finding> {
    enum Stop {
        Enough,
        Found(Finding),
    }
    impl From<Finding> for Stop {
        fn from(finding: Finding) -> Self {
            Self::Found(finding)
        }
    }
    let mut lines = Vec::new();
    let result = History::audit(dir, key)?.replay(from, |index, payload| {
        if index - from >= count {
            return Err(Stop::Enough);
        }
        lines.push(line(index, payload));
        Ok(())
    });
    match result {
        Err(Stop::Found(finding)) => Err(finding),
        Err(Stop::Enough) | Ok(()) => Ok(lines),
    }
}

/// Entry `index` as pretty JSON, with its leaf hash, and a proof that it is in the log: the audit
/// path (RFC 6962) to the root of the newest checkpoint. None if there is no such entry.
pub fn show(dir: &Path, key: &VerifyingKey, index: u64) -> Result<Option<String>, Finding> {
    let history = History::audit(dir, key)?;
    let Some(payload) = history.read_entry(index)? else { return Ok(None) };
    let proof = history.inclusion_proof(index, history.size())?.unwrap_or_default();
    let shown = json!({
        "index": index,
        "entry": parse(&payload),
        "leaf_hash": merkle::leaf_hash(&payload),
        "audit_path": proof,
        "tree_size": history.size(),
        "root": history.root(),
    });
    Ok(Some(format!("{shown:#}")))
}

/// An entry's JSON; bytes that are none are shown as hexadecimal.
fn parse(payload: &[u8]) -> Value {
    serde_json::from_slice(payload).unwrap_or_else(|_| json!({ "bytes": hex::encode(payload) }))
}

fn line(index: u64, payload: &[u8]) -> Line {
    let entry = parse(payload);
    let event = &entry["event"];
    Line {
        index,
        at: text(&entry["at"]).unwrap_or_else(|| "?".into()),
        kind: text(&event["type"]).unwrap_or_else(|| "?".into()),
        summary: summary(event),
    }
}

/// Longest value and longest summary, in characters.
const VALUE: usize = 24;
const SUMMARY: usize = 100;

fn summary(event: &Value) -> String {
    let fields = event.as_object().into_iter().flatten();
    let plain = fields.filter(|(name, _)| *name != "type").filter_map(|(name, value)| {
        text(value).map(|value| format!("{name}={}", shorten(&value, VALUE)))
    });
    shorten(&plain.collect::<Vec<_>>().join(" "), SUMMARY)
}

/// A string, number or truth value as text without control characters.
fn text(value: &Value) -> Option<String> {
    let text = match value {
        Value::String(text) => text.clone(),
        Value::Number(_) | Value::Bool(_) => value.to_string(),
        _ => return None,
    };
    Some(text.replace(char::is_control, "\u{fffd}"))
}

fn shorten(text: &str, most: usize) -> String {
    match text.char_indices().nth(most) {
        None => text.to_owned(),
        Some(_) => text.chars().take(most - 1).chain(['\u{2026}']).collect(),
    }
}
