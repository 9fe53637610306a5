//! Makes a coordinator's directory from a backup, into an empty place only, and in one step: whatever
//! is wrong with the archive, nothing is left behind. Believes nothing in it: paths, lengths, hashes,
//! the log with its root and signatures, and that every blob is there.

use std::{
    collections::BTreeMap,
    fs::{File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use collegium_shared::{
    blobs::Blobs,
    clock::Timestamp,
    crypto::{CryptoError, Digest, Hasher},
    durable,
    files::{Setup, SetupError, read_bounded},
    journal::{Finding, History, JournalError},
};
use serde::{Deserialize, Serialize};
use tar::{Archive, EntryType};
use thiserror::Error;

use super::{
    BLOBS, FORMAT, JOURNAL, Listed, MANIFEST, MAX_MANIFEST, MAX_SMALL, MAX_SMALL_FILES, Manifest,
    backup::Hashed, blob_name, may_be_member,
};
use crate::{
    config::CONFIG_FILE,
    signing,
    store::{
        StoreError,
        check::references,
        rebuild::{fold, write},
    },
};

/// Present in a directory that was restored and not started since; the first start records it.
pub const MARKER: &str = "restored.json";

/// The most members of an archive: blobs, and a few thousand other files.
const MAX_MEMBERS: usize = 1 << 17;

/// Why nothing was restored.
#[derive(Debug, Error)]
pub enum RestoreError {
    #[error(transparent)]
    Setup(#[from] SetupError),
    #[error("{path} is not a whole backup of a coordinator: {reason}; use another backup")]
    NotABackup { path: PathBuf, reason: String },
    #[error("{path} was made in the format {format:?}; restore it with the version {made_by}")]
    OtherFormat { path: PathBuf, format: String, made_by: String },
    #[error("{member:?} in the backup is not a file that a backup has: it was not made by us")]
    Foreign { member: String },
    #[error("{member} in the backup is not what its manifest says; use another backup")]
    Changed { member: String },
    #[error("the log in the backup: {0}")]
    Journal(#[from] JournalError),
    #[error(
        "the log in the backup has {entries} entries with the root {root}, but its manifest says otherwise; use another backup"
    )]
    OtherLog { entries: u64, root: Digest },
    #[error("the signing key in the backup is not the one that signed its log; use another backup")]
    OtherKey,
    #[error("the backup lacks {what} ({digest}), which the log names; use another backup")]
    MissingBlob { digest: Digest, what: &'static str },
    #[error(transparent)]
    Key(#[from] CryptoError),
    #[error(transparent)]
    View(#[from] StoreError),
    #[error("{path}: {source}")]
    Io { path: PathBuf, source: io::Error },
}

impl From<Finding> for RestoreError {
    fn from(finding: Finding) -> Self {
        Self::Journal(finding.into())
    }
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> RestoreError {
    let path = path.to_owned();
    move |source| RestoreError::Io { path, source }
}

/// What the first start after a restoration has to record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Marker {
    /// Entries in the backup's log.
    pub entries: u64,
    pub root: Digest,
    pub restored_at: Timestamp,
}

/// Reads the marker in `dir`; none if the directory was not restored, or was started since.
pub fn marker(dir: &Path) -> io::Result<Option<Marker>> {
    match read_bounded(&dir.join(MARKER), MAX_SMALL) {
        Ok(json) => Ok(Some(serde_json::from_slice(&json)?)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Restores the backup in the file `archive` into `dir`, which must be empty or not exist, and makes
/// the view. Durable when this returns.
pub fn restore(archive: &Path, dir: &Path, now: Timestamp) -> Result<Manifest, RestoreError> {
    let file = File::open(archive).map_err(at(archive))?;
    let setup = Setup::begin(dir, CONFIG_FILE)?;
    let staged = setup.path();
    let (manifest, members) = unpack(archive, &file, staged)?;
    compare(&manifest, &members)?;
    if !members.contains_key(CONFIG_FILE) {
        let reason = format!("there is no {CONFIG_FILE} in it");
        return Err(RestoreError::NotABackup { path: archive.to_owned(), reason });
    }
    check_log(&manifest, staged)?;
    let log = &manifest.log;
    let marker = Marker { entries: log.entries, root: log.root, restored_at: now };
    let path = staged.join(MARKER);
    let json = serde_json::to_vec(&marker).map_err(io::Error::other).map_err(at(&path))?;
    durable::write(&path, &json).map_err(at(&path))?;
    setup.commit()?;
    Ok(manifest)
}

type Members = BTreeMap<String, Listed>;

/// Writes every member below `staged` and gives what was written, and the manifest that ends the
/// archive.
fn unpack(archive: &Path, file: &File, staged: &Path) -> Result<(Manifest, Members), RestoreError> {
    let not_a_backup =
        |reason: String| RestoreError::NotABackup { path: archive.to_owned(), reason };
    let unreadable = |error: io::Error| not_a_backup(error.to_string());
    let mut tar = Archive::new(file);
    let mut members = Members::new();
    let mut small = 0;
    // Raw: extensions that rename or link members are members like others, and refused as such.
    let mut entries = tar.entries().map_err(unreadable)?.raw(true);
    while let Some(entry) = entries.next() {
        let mut entry = entry.map_err(unreadable)?;
        let path = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        let foreign = || RestoreError::Foreign { member: path.chars().take(200).collect() };
        if entry.header().entry_type() != EntryType::Regular || members.contains_key(&path) {
            return Err(foreign());
        }
        if path == MANIFEST {
            let manifest = read_manifest(archive, &mut entry)?;
            return match entries.next() {
                None => Ok((manifest, members)),
                Some(_) => Err(not_a_backup("something follows its manifest".into())),
            };
        }
        let large = blob_name(&path).is_some() || path.starts_with("journal/");
        small += usize::from(!large);
        let too_large = !large && entry.size() > MAX_SMALL;
        let too_many = small > MAX_SMALL_FILES || members.len() >= MAX_MEMBERS;
        if !may_be_member(&path) || too_large || too_many {
            return Err(foreign());
        }
        let listed = write_member(staged, path, &mut entry)?;
        members.insert(listed.path.clone(), listed);
    }
    Err(not_a_backup("it is cut off, or never was one".into()))
}

fn read_manifest(archive: &Path, entry: &mut impl Read) -> Result<Manifest, RestoreError> {
    /// What every format has.
    #[derive(Deserialize)]
    struct Any {
        format: String,
        #[serde(default)]
        made_by: String,
    }
    let path = || archive.to_owned();
    let bad = |reason: String| RestoreError::NotABackup { path: path(), reason };
    let mut json = Vec::new();
    entry.take(MAX_MANIFEST + 1).read_to_end(&mut json).map_err(|e| bad(e.to_string()))?;
    if json.len() as u64 > MAX_MANIFEST {
        return Err(bad("its manifest is too long".into()));
    }
    let any: Any = serde_json::from_slice(&json).map_err(|e| bad(e.to_string()))?;
    if any.format != FORMAT {
        let (format, made_by) = (any.format, any.made_by);
        return Err(RestoreError::OtherFormat { path: path(), format, made_by });
    }
    serde_json::from_slice(&json).map_err(|e| bad(e.to_string()))
}

/// Writes one member to a new file (mode 0600) while hashing it.
fn write_member(
    staged: &Path,
    path: String,
    entry: &mut tar::Entry<'_, impl Read>,
) -> Result<Listed, RestoreError> {
    let to = staged.join(&path);
    if let Some(parent) = to.parent() {
        durable::create_dir(parent).map_err(at(parent))?;
    }
    let mut file =
        OpenOptions::new().write(true).create_new(true).mode(0o600).open(&to).map_err(at(&to))?;
    let bytes = entry.size();
    let mut content = Hashed { inner: entry, hasher: Hasher::new(), read: 0 };
    io::copy(&mut content, &mut file).and_then(|_| file.flush()).map_err(at(&to))?;
    if content.read != bytes {
        return Err(RestoreError::Changed { member: path });
    }
    Ok(Listed { path, bytes, sha256: content.hasher.finish() })
}

/// Every member is what the manifest says, and none is more or missing.
fn compare(manifest: &Manifest, members: &Members) -> Result<(), RestoreError> {
    let changed = |path: &str| RestoreError::Changed { member: path.to_owned() };
    for listed in &manifest.files {
        let same = members.get(&listed.path) == Some(listed);
        let named = blob_name(&listed.path).is_none_or(|digest| digest == listed.sha256);
        if !same || !named {
            return Err(changed(&listed.path));
        }
    }
    let listed: BTreeMap<&str, &Listed> =
        manifest.files.iter().map(|file| (file.path.as_str(), file)).collect();
    match members.keys().find(|path| !listed.contains_key(path.as_str())) {
        Some(path) => Err(changed(path)),
        None => Ok(()),
    }
}

/// The log is whole, ends where the manifest says, and every blob that it needs is there; then the
/// view is made from it.
fn check_log(manifest: &Manifest, staged: &Path) -> Result<(), RestoreError> {
    let log = &manifest.log;
    if manifest.keys && signing::log_key(staged)? != log.key {
        return Err(RestoreError::OtherKey);
    }
    let history = History::audit(&staged.join(JOURNAL), &log.key)?;
    let (entries, root) = (history.size(), history.root());
    if (entries, root) != (log.entries, log.root) || history.unsealed_bytes() != 0 {
        return Err(RestoreError::OtherLog { entries, root });
    }
    let network = fold(&history, None)?.network;
    let blobs = Blobs::existing(&staged.join(BLOBS));
    // Hashes were checked while unpacking, so a blob of the right name is the right one.
    let (needed, _) = references(&network, &blobs);
    if let Some((&digest, &what)) = needed.iter().find(|(digest, _)| !blobs.contains(digest)) {
        return Err(RestoreError::MissingBlob { digest, what });
    }
    write(&staged.join("view"), &history, network)?;
    Ok(())
}
