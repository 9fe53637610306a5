//! Whether a daemon's journal is sound, and whether its newest entry lies in the past.

use std::path::Path;

use super::{Finding, clock};
use crate::{
    audit::{self, Finding as Damage},
    clock::Timestamp,
    crypto::VerifyingKey,
};

/// Reads all of the journal in `dir`, as `audit verify` does. `now` is this machine's time.
pub fn verified(dir: &Path, key: &VerifyingKey, now: Timestamp) -> Vec<Finding> {
    const CHECK: &str = "journal";
    if !dir.join("journal.log").exists() {
        return vec![Finding::ok(CHECK, "not begun yet")];
    }
    let report = match audit::verify(dir, key) {
        Ok(report) => report,
        Err(damage) => {
            let fix = match &damage {
                Damage::NoCheckpoint(_) => "start the daemon once, then run this again".to_owned(),
                Damage::Tile(_) => {
                    format!("rm -r {}, then start the daemon", dir.join("tlog").display())
                }
                _ => "keep the directory as evidence, and restore a backup".to_owned(),
            };
            return vec![Finding::fail(CHECK, "the journal is not sound", damage.to_string(), fix)];
        }
    };
    let mut findings = vec![Finding::ok(CHECK, format!("{} entries, all sound", report.entries))];
    let last = audit::list(dir, key, report.entries.saturating_sub(1), 1).unwrap_or_default();
    let newest = last.last().and_then(|line| line.at.parse().ok());
    findings.extend(newest.and_then(|newest| clock::against_log(now, newest)));
    findings
}

#[cfg(test)]
mod tests {
    use std::{fs, time::Duration};

    use serde_json::json;

    use super::*;
    use crate::{crypto::SigningKey, journal::Journal};

    #[test]
    fn a_damaged_journal_and_one_from_the_future_are_seen() {
        let dir = tempfile::tempdir().unwrap();
        let pkcs8 = SigningKey::generate_pkcs8().unwrap();
        let signer = SigningKey::from_pkcs8(pkcs8.expose()).unwrap();
        let key = signer.verifying_key();
        let at = Timestamp::from_millis(1_785_585_600_000);
        let found = |now| -> String {
            verified(dir.path(), &key, now).iter().map(ToString::to_string).collect()
        };
        assert_eq!(found(at), "ok    journal       not begun yet\n");
        let mut journal = Journal::open(dir.path(), "example.org/log", signer).unwrap();
        let entry = json!({ "v": 1, "at": at, "event": { "type": "x" } });
        journal.append(entry.to_string().as_bytes()).unwrap();
        journal.commit().unwrap();
        assert_eq!(found(at), "ok    journal       1 entries, all sound\n");
        let behind = found(at - Duration::from_secs(3_600));
        assert!(behind.contains("FAIL  clock") && behind.contains("3600 s behind"), "{behind}");
        let log = dir.path().join("journal.log");
        let mut bytes = fs::read(&log).unwrap();
        bytes[12] ^= 1;
        fs::write(&log, bytes).unwrap();
        let damaged = found(at);
        assert!(damaged.starts_with("FAIL  journal") && damaged.contains("backup"), "{damaged}");
        fs::remove_file(dir.path().join("checkpoint")).unwrap();
        assert!(found(at).contains("start the daemon once"), "{}", found(at));
    }
}
