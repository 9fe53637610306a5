//! Makes a backup of a coordinator's directory, whether a daemon runs on it or not: the log is
//! append-only, blobs never change, and both are read up to one seal; blobs that the daemon may erase
//! meanwhile are opened first. Reads the directory and never writes in it; checks the hash of all that has
//! one while copying.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, BufWriter, Read, Write},
    path::{Path, PathBuf},
};

use collegium_shared::{
    blobs::{BlobError, Blobs},
    clock::Timestamp,
    crypto::{Digest, Hasher, VerifyingKey},
    durable::Unfinished,
    files::read_bounded,
    journal::{self, Finding, History, JournalError},
};
use tar::{Builder, Header};
use thiserror::Error;

use super::{
    BLOBS, FORMAT, JOURNAL, KEYS, LEFT_OUT, Listed, LogEnd, MANIFEST, MAX_PATH, MAX_SMALL,
    MAX_SMALL_FILES, Manifest,
};
use crate::{
    card::CARD,
    network::Network,
    retention, signing,
    store::{check::references, rebuild::fold},
    task::RELEASED,
};

/// Bytes that are written at once.
const BUFFER: usize = 1 << 18;
/// How often the log is read anew because the daemon erased meanwhile what the state needed.
const READS: usize = 8;

/// Why no backup was made.
#[derive(Debug, Error)]
pub enum BackupError {
    #[error("{0} exists already; choose another file")]
    Exists(PathBuf),
    #[error(transparent)]
    Journal(#[from] JournalError),
    #[error("{what}: {source}; for all that is wrong run: collegium-coordinator store check")]
    Blob { what: &'static str, source: BlobError },
    #[error("{0}; for all that is wrong run: collegium-coordinator store check")]
    BadManifest(String),
    #[error("{0} changed while it was copied; make the backup again")]
    Changed(String),
    #[error("{0}: this is not a file of a coordinator's directory; move it elsewhere")]
    Foreign(PathBuf),
    #[error("the manifest cannot be written: {0}")]
    Form(#[from] serde_json::Error),
    #[error("{path}: {source}")]
    Io { path: PathBuf, source: io::Error },
}

impl From<Finding> for BackupError {
    fn from(finding: Finding) -> Self {
        Self::Journal(finding.into())
    }
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> BackupError {
    let path = path.to_owned();
    move |source| BackupError::Io { path, source }
}

/// Writes a backup of `dir`, whose log `key` signs, to the new file `out` (mode 0600), durably.
/// Without `keys`, the private keys are left out. Nothing of more than a megabyte is held in memory,
/// but for the state.
pub fn backup(
    dir: &Path,
    key: &VerifyingKey,
    out: &Path,
    keys: bool,
    now: Timestamp,
) -> Result<Manifest, BackupError> {
    let exists = || if out.exists() { Err(BackupError::Exists(out.to_owned())) } else { Ok(()) };
    exists()?;
    let Source { history, network, held } = read(dir, key)?;
    let mut archive = Archive::create(out, now)?;
    for path in small_files(dir, keys)? {
        archive.small(dir, &path)?;
    }
    if keys && signing::log_key(dir).is_ok_and(|now| now != *key) {
        return Err(BackupError::Changed("the signing key".into()));
    }
    archive.journal(dir, &history)?;
    archive.blobs(dir, &network, held)?;
    let log = LogEnd { entries: history.size(), root: history.root(), key: *key };
    let made_by = env!("CARGO_PKG_VERSION").to_owned();
    let files = std::mem::take(&mut archive.files);
    let format = FORMAT.to_owned();
    let manifest = Manifest { format, made_at: now, made_by, keys, log, files };
    let json = serde_json::to_vec_pretty(&manifest)?;
    archive.append(MANIFEST, json.len() as u64, json.as_slice())?;
    exists()?;
    archive.finish()?;
    Ok(manifest)
}

/// What is backed up of log and blobs.
struct Source {
    history: History,
    network: Network,
    /// The blobs that a later state may not need, open.
    held: Held,
}

/// Blobs at their start, and their lengths.
type Held = BTreeMap<Digest, (File, u64)>;

/// The log, the state it gives, and what of that a running daemon may erase: what its entries name was
/// durable before them, and stays until later entries name something else.
fn read(dir: &Path, key: &VerifyingKey) -> Result<Source, BackupError> {
    let blobs = Blobs::existing(&dir.join(BLOBS));
    let look = || {
        let history = History::read(&dir.join(JOURNAL), key)?;
        let network = fold(&history, None)?.network;
        let held = hold(&network, &blobs);
        Ok((history, network, held))
    };
    let vanished = |seen: &Result<_, BackupError>| {
        matches!(seen, Ok((_, _, Err(BackupError::Blob { source: BlobError::Missing(_), .. }))))
    };
    let counted = || {
        let seen = look();
        (seen.as_ref().map_or(0, |(history, ..): &(History, _, _)| history.size()), seen)
    };
    let (history, network, held) = retention::settled(READS, counted, vanished)?;
    Ok(Source { history, network, held: held? })
}

/// Opens what may be erased meanwhile: a few sums, models and documents, and nothing of releases.
fn hold(network: &Network, blobs: &Blobs) -> Result<Held, BackupError> {
    let mortal = network.blobs().into_iter().filter(|(_, what)| ![RELEASED, CARD].contains(what));
    let open = |(digest, what): (Digest, &'static str)| {
        let opened = blobs.open_blob(&digest);
        Ok((digest, opened.map_err(|source| BackupError::Blob { what, source })?))
    };
    mortal.map(open).collect()
}

/// The paths of configuration, certificates and keys, relative to `dir` and in order.
fn small_files(dir: &Path, keys: bool) -> Result<Vec<String>, BackupError> {
    let mut found = Vec::new();
    let mut left = vec![String::new()];
    while let Some(below) = left.pop() {
        let place = dir.join(&below);
        for entry in fs::read_dir(&place).map_err(at(&place))? {
            let entry = entry.map_err(at(&place))?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let skipped = [LEFT_OUT.as_slice(), &[JOURNAL, BLOBS]].concat();
            let own = below.is_empty() && skipped.contains(&name.as_str());
            // Unfinished files of a crash, and what people keep hidden.
            if own || name.starts_with('.') || (!keys && below.is_empty() && name == KEYS) {
                continue;
            }
            let path = if below.is_empty() { name } else { format!("{below}/{name}") };
            // Follows links: what a key file points to is the key.
            let kind = fs::metadata(entry.path()).map_err(at(&entry.path()))?;
            if kind.is_dir() {
                left.push(path);
            } else if kind.is_file() {
                found.push(path);
            }
            if found.len() + left.len() > MAX_SMALL_FILES {
                return Err(BackupError::Foreign(entry.path()));
            }
        }
    }
    found.sort();
    Ok(found)
}

/// The archive while it is written.
struct Archive {
    tar: Builder<BufWriter<Sink>>,
    out: PathBuf,
    now: Timestamp,
    files: Vec<Listed>,
}

impl Archive {
    fn create(out: &Path, now: Timestamp) -> Result<Self, BackupError> {
        let parent = out.parent().filter(|parent| !parent.as_os_str().is_empty());
        let sink = Sink(Unfinished::create(parent.unwrap_or(Path::new("."))).map_err(at(out))?);
        let tar = Builder::new(BufWriter::with_capacity(BUFFER, sink));
        Ok(Self { tar, out: out.to_owned(), now, files: Vec::new() })
    }

    /// A configuration, certificate or key file.
    fn small(&mut self, dir: &Path, path: &str) -> Result<(), BackupError> {
        let from = dir.join(path);
        if path.len() > MAX_PATH {
            return Err(BackupError::Foreign(from));
        }
        let bytes = match read_bounded(&from, MAX_SMALL) {
            Err(error) if error.kind() == io::ErrorKind::FileTooLarge => {
                return Err(BackupError::Foreign(from));
            }
            other => zeroize::Zeroizing::new(other.map_err(at(&from))?),
        };
        self.append(path, bytes.len() as u64, bytes.as_slice())?;
        Ok(())
    }

    /// The log as it was when it was read, whatever was appended since.
    fn journal(&mut self, dir: &Path, history: &History) -> Result<(), BackupError> {
        let path = format!("{JOURNAL}/{}", journal::LOG);
        self.append(&path, history.sealed_bytes(), history.sealed())?;
        let note = match history.checkpoint() {
            // Nothing was ever recorded: the seal of no entries is in this file alone.
            "" => {
                let path = dir.join(JOURNAL).join(journal::CHECKPOINT);
                read_bounded(&path, MAX_SMALL).map_err(at(&path))?
            }
            note => note.as_bytes().to_vec(),
        };
        let path = format!("{JOURNAL}/{}", journal::CHECKPOINT);
        self.append(&path, note.len() as u64, note.as_slice())?;
        Ok(())
    }

    fn blobs(&mut self, dir: &Path, network: &Network, mut held: Held) -> Result<(), BackupError> {
        let blobs = Blobs::existing(&dir.join(BLOBS));
        let (needed, faults) = references(network, &blobs);
        if let Some(fault) = faults.into_iter().next() {
            return Err(BackupError::BadManifest(fault));
        }
        for (digest, what) in needed {
            let bad = |source| BackupError::Blob { what, source };
            let (file, bytes) = match held.remove(&digest) {
                Some(open) => open,
                None => blobs.open_blob(&digest).map_err(bad)?,
            };
            let found = self.append(&format!("{BLOBS}/{digest}"), bytes, file)?;
            if found != digest {
                // Says the same again, with what to do about it.
                blobs.verify(&digest).map_err(bad)?;
                return Err(BackupError::Changed(format!("blob {digest}")));
            }
        }
        Ok(())
    }

    /// Adds a member of exactly `bytes` bytes and gives its hash.
    fn append(
        &mut self,
        path: &str,
        bytes: u64,
        content: impl Read,
    ) -> Result<Digest, BackupError> {
        let mut header = Header::new_gnu();
        header.set_size(bytes);
        header.set_mode(0o600);
        header.set_mtime(u64::try_from(self.now.as_seconds()).unwrap_or(0));
        let mut content = Hashed { inner: content.take(bytes), hasher: Hasher::new(), read: 0 };
        self.tar.append_data(&mut header, path, &mut content).map_err(at(&self.out))?;
        if content.read != bytes {
            return Err(BackupError::Changed(path.to_owned()));
        }
        let sha256 = content.hasher.finish();
        self.files.push(Listed { path: path.to_owned(), bytes, sha256 });
        Ok(sha256)
    }

    fn finish(self) -> Result<(), BackupError> {
        let Self { tar, out, .. } = self;
        let written = tar.into_inner().and_then(|buffer| Ok(buffer.into_inner()?));
        written.and_then(|Sink(file)| file.persist(&out)).map_err(at(&out))
    }
}

/// The file that becomes the archive once it is whole.
struct Sink(Unfinished);

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write_all(bytes)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Hashes and counts what is read through it.
pub(super) struct Hashed<R> {
    pub(super) inner: R,
    pub(super) hasher: Hasher,
    pub(super) read: u64,
}

impl<R: Read> Read for Hashed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.hasher.update(&buffer[..read]);
        self.read += read as u64;
        Ok(read)
    }
}
