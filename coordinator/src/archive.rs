//! A backup of the coordinator's directory as one file: what is in it and what it says of itself.
//! `backup` writes it, `restore` reads it; neither needs the daemon to stop.
//!
//! ```text
//! coordinator.toml, ca.pem, ...   every small file of the directory, keys/ among them if wanted
//! journal/journal.log             the log up to a seal, with its checkpoint beside it
//! journal/checkpoint
//! blobs/<SHA-256>                 every blob that the state at that seal needs
//! manifest.json                   last: all of the above with lengths and hashes
//! ```
//!
//! A plain tar file without compression: masked sums and weights do not compress. Not in it are the
//! view, which follows from the journal, and the files of the open round, which must never come back.

use std::path::{Component, Path};

use collegium_shared::{
    clock::Timestamp,
    crypto::{Digest, VerifyingKey},
};
use serde::{Deserialize, Serialize};

pub mod backup;
pub mod restore;
#[cfg(test)]
pub(crate) mod tests;

/// The last member of the archive.
const MANIFEST: &str = "manifest.json";
const FORMAT: &str = "collegium-coordinator-backup/1";
const JOURNAL: &str = "journal";
const BLOBS: &str = "blobs";
const KEYS: &str = "keys";
/// What a directory holds that is never backed up: made again, perishable, or of one process.
const LEFT_OUT: [&str; 5] = ["view", "rounds", "run", "lost+found", restore::MARKER];
/// The most bytes of a configuration, certificate or key file.
const MAX_SMALL: u64 = 1 << 20;
/// The most of these.
const MAX_SMALL_FILES: usize = 4_096;
/// The most bytes of the manifest: about a hundred thousand blobs.
const MAX_MANIFEST: u64 = 16 << 20;
/// The longest path that the header of a tar member holds.
const MAX_PATH: usize = 100;

/// What an archive says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    format: String,
    pub made_at: Timestamp,
    /// The version of the program that made it.
    pub made_by: String,
    /// Whether the private keys are in it.
    pub keys: bool,
    pub log: LogEnd,
    pub files: Vec<Listed>,
}

/// Where the log in an archive ends.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogEnd {
    pub entries: u64,
    /// The RFC 6962 root over them.
    pub root: Digest,
    /// The key that signs the log's checkpoints.
    pub key: VerifyingKey,
}

/// A file in an archive.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Listed {
    pub path: String,
    pub bytes: u64,
    pub sha256: Digest,
}

impl Manifest {
    /// Bytes of all files.
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.bytes).sum()
    }

    /// How many of the files are blobs.
    pub fn blobs(&self) -> usize {
        self.files.iter().filter(|file| blob_name(&file.path).is_some()).count()
    }
}

/// The blob that a member holds by its path.
fn blob_name(path: &str) -> Option<Digest> {
    path.strip_prefix("blobs/").and_then(|name| name.parse().ok())
}

/// Whether a member of this path may be in an archive: below the directory, and nothing that is left
/// out or would be hidden.
fn may_be_member(path: &str) -> bool {
    let plain = |part: Component<'_>| match part {
        Component::Normal(name) => !name.to_string_lossy().starts_with('.'),
        _ => false,
    };
    let path_of = Path::new(path);
    let first = path_of.components().next().map(|part| part.as_os_str().to_string_lossy());
    let left_out = first.is_none_or(|first| LEFT_OUT.contains(&first.as_ref()));
    let canonical = path_of.iter().map(|part| part.to_string_lossy()).collect::<Vec<_>>();
    path.len() <= MAX_PATH
        && !left_out
        && path_of.components().all(plain)
        && canonical.join("/") == path
        && (!path.starts_with("blobs/") || blob_name(path).is_some())
}
