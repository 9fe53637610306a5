//! Whether a coordinator's directory is sound: the journal, the view against it, and every blob that
//! the state needs. Reads only; what it finds comes with what to do about it.

use std::{collections::BTreeMap, path::Path};

use collegium_shared::{
    blobs::{BlobError, Blobs},
    crypto::{Digest, VerifyingKey},
    journal::{self, History, JournalError},
};

use super::{
    Store,
    rebuild::{Before, Folded, fold},
};
use crate::{network::Network, retention, task::RELEASED};

/// How often a directory is looked at while its daemon erases what the state needed.
const LOOKS: usize = 3;

/// Something that is wrong, and what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    pub what: String,
    pub fix: String,
}

/// What was looked at.
#[derive(Debug, Default)]
pub struct Report {
    pub entries: u64,
    /// Root of the journal and digest of the state, if the journal is sound.
    pub sound: Option<(Digest, Digest)>,
    /// How far the view reflects the journal; none if there is no view, which is no finding.
    pub view: Option<u64>,
    /// A daemon runs on the directory, so its view was not looked at.
    pub in_use: bool,
    /// Blobs that the state needs, and their bytes.
    pub blobs: usize,
    pub blob_bytes: u64,
    /// Sums and models that nothing names any more: what a crash left, or is being erased.
    pub orphans: usize,
    /// A blob that the state needs was not there.
    missing: bool,
    pub findings: Vec<Finding>,
}

impl Report {
    fn found(&mut self, what: impl ToString, fix: &str) {
        self.findings.push(Finding { what: what.to_string(), fix: fix.to_owned() });
    }
}

/// Checks the directory whose log `key` signs. While a daemon runs, everything but the view.
pub fn check(dir: &Path, key: &VerifyingKey) -> Report {
    let look = || {
        let report = look(dir, key);
        (report.entries, report)
    };
    retention::settled(LOOKS, look, |report| report.in_use && report.missing)
}

fn look(dir: &Path, key: &VerifyingKey) -> Report {
    let mut report = Report::default();
    let journal = dir.join("journal");
    let held = match journal::hold(&journal) {
        Ok(held) => Some(held),
        Err(JournalError::InUse(_)) => None,
        Err(error) => {
            report.found(error, "check the directory's name and permissions");
            return report;
        }
    };
    report.in_use = held.is_none();
    let history = match History::audit(&journal, key) {
        Ok(history) => history,
        Err(finding) => {
            report.found(finding, "keep the directory as evidence and restore a backup");
            return report;
        }
    };
    report.entries = history.size();
    let folded = match check_state(&mut report, &history, held.is_some(), &dir.join("view")) {
        Ok(folded) => folded,
        Err(error) => {
            report.found(error, "run the version that wrote the journal, or a newer one");
            return report;
        }
    };
    check_blobs(&mut report, &Blobs::existing(&dir.join("blobs")), folded);
    report
}

/// Folds the journal and compares the view with it.
fn check_state(
    report: &mut Report,
    history: &History,
    alone: bool,
    view: &Path,
) -> anyhow::Result<Folded> {
    let found = alone.then(|| Store::look(view));
    let folded = fold(history, found.as_ref().and_then(Before::position))?;
    report.sound = Some((history.root(), folded.network.digest()?));
    let Some(found) = found else { return Ok(folded) };
    const FIX: &str = "run: collegium-coordinator store rebuild";
    match Before::judge(&found, history, &folded)? {
        Before::Missing => {}
        Before::Sound { position, .. } => report.view = Some(position),
        Before::Damaged(reason) => report.found(reason, FIX),
        Before::Wrong { position, state } => report.found(
            format!("the view at entry {position} holds {state}, which the journal does not give"),
            FIX,
        ),
    }
    Ok(folded)
}

fn check_blobs(report: &mut Report, blobs: &Blobs, folded: Folded) {
    let Folded { network, mut retention, .. } = folded;
    let (needed, faults) = references(&network, blobs);
    for (digest, what) in &needed {
        match blobs.verify(digest) {
            Ok(length) => {
                report.blobs += 1;
                report.blob_bytes += length;
            }
            Err(error) => {
                report.missing |= matches!(error, BlobError::Missing(_));
                report.found(
                    format!("{what}: {error}"),
                    "copy this blob from a backup of this network, or from an institution's blobs/",
                );
            }
        }
    }
    for fault in faults {
        report.found(fault, "restore a backup");
    }
    match retention.superseded(&network, blobs) {
        Ok(superseded) => report.orphans = superseded.len(),
        // A manifest that cannot be read has shown above.
        Err(_) if !report.findings.is_empty() => {}
        Err(error) => report.found(error, "check the directory's permissions"),
    }
}

/// Every blob that the state needs, those that manifests name among them, and what each is. The
/// manifests that say nothing are told apart; missing and damaged ones show by their own name.
pub fn references(
    network: &Network,
    blobs: &Blobs,
) -> (BTreeMap<Digest, &'static str>, Vec<String>) {
    let mut needed = network.blobs();
    let mut faults = Vec::new();
    let manifests: Vec<Digest> =
        needed.iter().filter(|(_, what)| **what == RELEASED).map(|(digest, _)| *digest).collect();
    for digest in manifests {
        match retention::parts(blobs, &digest) {
            Ok(Some(parts)) => {
                needed.extend(parts.into_iter().map(|part| (part, "a part of a released model")));
            }
            Ok(None) => faults.push(format!("blob {digest} is not a manifest")),
            Err(_) => {}
        }
    }
    (needed, faults)
}
