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
    let published = journal::published(dir)?;
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

/// Values at least this long are digests, keys and signatures: named last.
const LONG: usize = 64;
/// How deep an event is looked into.
const DEPTH: usize = 4;

/// The event's plain values, those nearest to the top first and those that say nothing to people
/// last.
fn summary(event: &Value) -> String {
    let mut level = vec![event];
    let mut fields = Vec::new();
    for _ in 0..DEPTH {
        let members = level.iter().filter_map(|value| value.as_object()).flatten();
        let mut deeper = Vec::new();
        for (name, value) in members.filter(|(name, _)| *name != "type") {
            match text(value) {
                Some(value) => fields.push((value.len() >= LONG, name, value)),
                None => deeper.push(value),
            }
        }
        level = deeper;
    }
    fields.sort_by_key(|(long, ..)| *long);
    let plain = fields.iter().map(|(_, name, value)| format!("{name}={}", shorten(value, VALUE)));
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

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::{crypto::SigningKey, journal::Journal};

    struct Site {
        dir: tempfile::TempDir,
        key: VerifyingKey,
        journal: Journal,
    }

    /// A journal that stays open, as under a running daemon.
    fn site(entries: u64) -> Site {
        let dir = tempfile::tempdir().unwrap();
        let pkcs8 = SigningKey::generate_pkcs8().unwrap();
        let signer = SigningKey::from_pkcs8(pkcs8.expose()).unwrap();
        let key = signer.verifying_key();
        let journal = Journal::open(dir.path(), "example.org/log", signer).unwrap();
        let mut site = Site { dir, key, journal };
        site.grow(entries);
        site
    }

    impl Site {
        fn grow(&mut self, by: u64) {
            for n in self.journal.len()..self.journal.len() + by {
                let entry = json!({
                    "v": 1,
                    "at": "2026-08-01T12:00:00.000Z",
                    "event": { "type": "task_started", "n": n, "task": "t", "list": [1], "text": "a\nb" },
                });
                self.journal.append(entry.to_string().as_bytes()).unwrap();
            }
            self.journal.commit().unwrap();
        }

        fn verify(&self) -> Result<Report, Finding> {
            verify(self.dir.path(), &self.key)
        }
    }

    #[test]
    fn a_sound_journal_verifies_while_it_is_written() {
        let mut site = site(0);
        assert_eq!(site.verify().unwrap().entries, 0);
        site.grow(300);
        let report = site.verify().unwrap();
        assert_eq!((report.entries, report.root), (300, site.journal.root()));
        assert_eq!((report.origin.as_str(), report.unsealed_bytes), ("example.org/log", 0));
        site.journal.publish().unwrap();
        site.grow(10);
        assert_eq!(site.verify().unwrap().entries, 310, "published tiles may be older");
        // A batch that is being written: no finding.
        let log = site.dir.path().join("journal.log");
        let mut bytes = fs::read(&log).unwrap();
        bytes.extend_from_slice(&[9; 50]);
        fs::write(&log, bytes).unwrap();
        assert_eq!(site.verify().unwrap().unsealed_bytes, 50);
    }

    #[test]
    fn a_changed_tile_is_named() {
        let site = site(300);
        site.journal.publish().unwrap();
        let tlog = site.dir.path().join("tlog");
        for name in ["tile/0/000", "tile/0/001.p/44", "tile/1/000.p/1", "tile/entries/000"] {
            let path = tlog.join(name);
            let sound = fs::read(&path).unwrap();
            let mut bytes = sound.clone();
            bytes[7] ^= 1;
            fs::write(&path, bytes).unwrap();
            assert!(matches!(site.verify(), Err(Finding::Tile(found)) if found == path));
            fs::remove_file(&path).unwrap();
            assert!(matches!(site.verify(), Err(Finding::Tile(found)) if found == path));
            fs::write(&path, sound).unwrap();
        }
        site.verify().unwrap();
        fs::write(tlog.join("checkpoint"), "no checkpoint").unwrap();
        assert!(matches!(site.verify(), Err(Finding::Checkpoint { .. })));
    }

    #[test]
    fn an_auditor_misses_a_missing_checkpoint_and_a_wrong_key() {
        let site = site(3);
        let other = self::site(0).key;
        assert!(matches!(verify(site.dir.path(), &other), Err(Finding::Checkpoint { .. })));
        fs::remove_file(site.dir.path().join("checkpoint")).unwrap();
        assert!(matches!(site.verify(), Err(Finding::NoCheckpoint(_))));
    }

    #[test]
    fn entries_are_listed_in_one_line_each() {
        let site = site(5);
        let lines = list(site.dir.path(), &site.key, 3, 10).unwrap();
        assert_eq!(lines.iter().map(|line| line.index).collect::<Vec<_>>(), [3, 4]);
        assert_eq!(lines[0].kind, "task_started");
        assert_eq!(lines[0].at, "2026-08-01T12:00:00.000Z");
        assert_eq!(lines[0].summary, "n=3 task=t text=a\u{fffd}b");
        assert_eq!(list(site.dir.path(), &site.key, 0, 2).unwrap().len(), 2);
        assert!(list(site.dir.path(), &site.key, 9, 2).unwrap().is_empty());
    }

    #[test]
    fn what_is_shown_can_be_checked_by_itself() {
        let site = site(300);
        assert!(show(site.dir.path(), &site.key, 300).unwrap().is_none());
        let shown = show(site.dir.path(), &site.key, 7).unwrap().unwrap();
        let shown: Value = serde_json::from_str(&shown).unwrap();
        assert_eq!(shown["entry"]["event"]["n"], 7);
        let digest = |value: &Value| value.as_str().unwrap().parse::<Digest>().unwrap();
        let path: Vec<Digest> =
            shown["audit_path"].as_array().unwrap().iter().map(digest).collect();
        let (leaf, root) = (digest(&shown["leaf_hash"]), digest(&shown["root"]));
        assert!(verify_inclusion(&leaf, 7, 300, &path, &root));
        assert_eq!(root, site.journal.root());
    }

    #[test]
    fn long_and_foreign_values_are_cut() {
        let entry = json!({ "event": { "type": 7, "text": "x".repeat(99) } }).to_string();
        let line = line(0, entry.as_bytes());
        assert_eq!((line.at.as_str(), line.kind.as_str()), ("?", "7"));
        assert_eq!(line.summary.chars().count(), "text=".len() + VALUE);
        assert_eq!(self::line(0, b"\xff").kind, "?");
    }
}
