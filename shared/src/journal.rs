//! The one append-only journal: the truth that state is folded from, and at the same time the
//! audit log. Owns a directory:
//!
//! ```text
//! journal.log   entries, and after each batch a seal: a signed checkpoint of all before it
//! checkpoint    a copy of the newest seal (C2SP tlog-checkpoint), for witnesses and auditors
//! tlog/         a static C2SP tlog-tiles log, written by `publish`, for any third-party verifier
//! ```
//!
//! Why a crash cannot hurt: entries and their seal go to disk in one write and one fsync, and
//! the next batch is written only after that. So what follows the last seal was never
//! acknowledged and is cut off at the next start, while anything broken before it is damage, and
//! refused. The `checkpoint` file is written over after the fsync and is not itself synced:
//! it may be older than the log after a power cut, or empty on some file systems, but never
//! claims more than is durable. It is written over in its place, because a new file at each commit would
//! be metadata that the next fsync of every program on this disk waits for. Against someone who can write here it protects only as far as
//! they cannot sign: an older copy of the whole directory is caught by the checkpoints that
//! others have countersigned, not by this file.
//!
//! Tiles are not written at each commit: their small files would be carried along by every fsync
//! of the log, and a commit is on the path of every acknowledgement. `publish` writes them when
//! asked (at shutdown, before an export) with the cost of what is new.
//!
//! Never interprets a payload, but for the one that changes the signing key ([`Journal::change_key`]),
//! and holds no other secret.

mod checkpoint;
mod frames;
mod history;
mod keys;
mod log;
mod tiles;
mod tree;

use std::{
    fs::{File, OpenOptions, TryLockError},
    io, mem,
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use thiserror::Error;

pub use checkpoint::{BadCheckpoint, Checkpoint, MAX_NOTE, MAX_ORIGIN};
pub use frames::MAX_ENTRY;
pub use history::{CHECKPOINT, Finding, History, LOG};
pub use log::{Entry, Log, replay};
pub(crate) use tiles::{check as check_tiles, export as export_tiles, published};
pub use tree::{verify_consistency, verify_inclusion};

use crate::{
    crypto::{Digest, Signature, SigningKey},
    durable::{self, Unfinished},
    faults,
    hand_over::log_taken_digest,
    storage,
};
use frames::Kind;

/// The most that one batch may hold, in bytes, so that appending without committing is noticed.
pub const MAX_BATCH: usize = 64 << 20;
/// What disks write as a whole, in bytes.
const SECTOR: usize = 512;

/// Why the journal could not be opened, written or read.
#[derive(Debug, Error)]
pub enum JournalError {
    #[error(
        "{0} is in use by another process; stop the daemon that runs on it, or use the read-only commands"
    )]
    InUse(PathBuf),
    #[error(
        "{0:?} cannot name a log: use 1 to {MAX_ORIGIN} bytes without spaces or '+', such as example.org/audit"
    )]
    BadOrigin(String),
    #[error(
        "{dir} is the journal of {found}, not of {expected}; check the data directory and the configuration"
    )]
    OtherOrigin { dir: PathBuf, found: String, expected: String },
    #[error(transparent)]
    Damaged(#[from] Finding),
    #[error(
        "an entry of {0} bytes: at most {MAX_ENTRY} fit; keep large data as a blob and its hash here"
    )]
    TooLarge(usize),
    #[error("{0} bytes are waiting, more than a batch may hold; commit first")]
    BatchFull(usize),
    #[error(
        "nothing of this batch was recorded: {0}; free disk space or repair the disk, then repeat what was asked"
    )]
    NotRecorded(#[source] io::Error),
    #[error(
        "whether this batch is recorded shows at the next start: {0}; check the disk, then restart"
    )]
    Uncertain(#[source] io::Error),
    #[error("the journal stopped after a failed write; check the disk, then restart")]
    Stopped,
    #[error("this entry does not hand the log over from its key to the next one")]
    NoHandOver,
    #[error("there is no entry {index}; the journal has {size}")]
    NoEntry { index: u64, size: u64 },
    #[error(
        "entry {index} is not one that this version understands: {reason}; run the version that wrote it, or a newer one"
    )]
    Unreadable { index: u64, reason: String },
    #[error("this entry cannot be written as JSON: {0}")]
    Unwritable(serde_json::Error),
    #[error("{path}: {source}; check the disk's space and the directory's permissions")]
    Io { path: PathBuf, source: io::Error },
}

fn at(path: &Path) -> impl Fn(io::Error) -> JournalError {
    move |source| JournalError::Io { path: path.to_owned(), source }
}

/// An open journal. Dropping it drops the lock, and with it whatever was not committed.
pub struct Journal {
    dir: PathBuf,
    origin: String,
    signer: SigningKey,
    history: History,
    log: File,
    batch: Batch,
    stopped: bool,
    torn_bytes: u64,
    _lock: File,
}

/// Appended, not yet committed.
#[derive(Default)]
struct Batch {
    bytes: Vec<u8>,
    /// Leaf hashes, and where in `bytes` each entry starts.
    leaves: Vec<(Digest, usize)>,
}

impl Journal {
    /// Opens or creates the journal in `dir`, takes its lock, and reads and checks all of it.
    /// `origin` names the log in its checkpoints, `signer` signs them.
    pub fn open(dir: &Path, origin: &str, signer: SigningKey) -> Result<Self, JournalError> {
        if !checkpoint::is_origin(origin) {
            return Err(JournalError::BadOrigin(origin.to_owned()));
        }
        durable::create_dir(dir).map_err(at(dir))?;
        let lock = lock(dir)?;
        durable::remove_unfinished(dir).map_err(at(dir))?;
        let path = dir.join(LOG);
        let log = open_log(&path, true).map_err(at(&path))?;
        durable::sync_dir(dir).map_err(at(dir))?;
        let mut journal = Self {
            history: History::read(dir, &signer.verifying_key())?,
            dir: dir.to_owned(),
            origin: origin.to_owned(),
            signer,
            log,
            batch: Batch::default(),
            stopped: false,
            torn_bytes: 0,
            _lock: lock,
        };
        journal.check_origin()?;
        journal.cut_torn_batch()?;
        journal.seal_empty();
        journal.renew_checkpoint()?;
        Ok(journal)
    }

    fn check_origin(&self) -> Result<(), JournalError> {
        match Checkpoint::read_unverified(self.history.checkpoint()) {
            Ok(last) if last.origin != self.origin => Err(JournalError::OtherOrigin {
                dir: self.dir.clone(),
                found: last.origin,
                expected: self.origin.clone(),
            }),
            _ => Ok(()),
        }
    }

    /// Cuts off what follows the last seal: it was never acknowledged to anyone.
    fn cut_torn_batch(&mut self) -> Result<(), JournalError> {
        self.torn_bytes = self.history.unsealed_bytes();
        if self.torn_bytes == 0 {
            return Ok(());
        }
        tracing::warn!(
            bytes = self.torn_bytes,
            entries = self.history.size(),
            "cut an unfinished batch off the journal; it was never acknowledged"
        );
        let sound = self.history.sealed_bytes;
        faults::step("cut journal", || self.log.set_len(sound).and_then(|()| self.log.sync_data()))
            .map_err(at(&self.dir.join(LOG)))?;
        self.history.file_bytes = sound;
        Ok(())
    }

    /// A new journal has a checkpoint too, of no entries, so that one without is never right.
    fn seal_empty(&mut self) {
        if self.is_empty() {
            let note = self.seal(&mut Batch::default());
            self.history.seal_at(0, note);
        }
    }

    /// Brings the checkpoint file up to the last seal after a crash, durably.
    fn renew_checkpoint(&self) -> Result<(), JournalError> {
        let path = self.dir.join(CHECKPOINT);
        let note = self.history.checkpoint();
        if history::read_note(&path)? == note {
            return Ok(());
        }
        if !self.is_empty() {
            tracing::warn!(
                entries = self.len(),
                "the checkpoint was older than the journal; renewed"
            );
        }
        match durable::write(&path, note.as_bytes()).map_err(at(&path)) {
            // Only a copy: the next commit or start renews it.
            Err(error) if !self.is_empty() && storage::no_room(&error).is_some() => {
                tracing::warn!(%error, "there is no room to renew the checkpoint");
                Ok(())
            }
            other => other,
        }
    }

    /// Adds an entry to the batch and returns the index that it will have. Nothing is durable,
    /// and nobody may be told, before [`Journal::commit`] returns.
    pub fn append(&mut self, payload: &[u8]) -> Result<u64, JournalError> {
        if keys::said(payload).is_some() {
            return Err(JournalError::NoHandOver);
        }
        self.push(payload)
    }

    /// Commits, and has `next` sign that it takes over the log as it is then: what the entry for
    /// [`Journal::change_key`] has to hold.
    pub fn take_over(&mut self, next: &SigningKey) -> Result<Signature, JournalError> {
        let root = self.commit()?;
        Ok(next.sign(log_taken_digest(&self.origin, self.len(), &root).as_bytes()))
    }

    /// Records that the log goes over to the key `next`, durably and under the key before; every later
    /// seal is by `next`. `payload` is the entry that says it, with the hand-over that both keys signed
    /// and what [`Journal::take_over`] returned.
    pub fn change_key(&mut self, payload: &[u8], next: SigningKey) -> Result<Digest, JournalError> {
        let before = self.commit()?;
        let (old, new) = (self.signer.verifying_key(), next.verifying_key());
        let said = keys::said(payload).and_then(Result::ok);
        let good = said.is_some_and(|said| {
            (said.hand_over.old, said.hand_over.new) == (old, new)
                && said.takes(&self.origin, self.len(), &before).is_ok()
        });
        if !good {
            return Err(JournalError::NoHandOver);
        }
        self.push(payload)?;
        let root = self.commit()?;
        self.history.hand_over(new);
        self.signer = next;
        Ok(root)
    }

    fn push(&mut self, payload: &[u8]) -> Result<u64, JournalError> {
        if self.stopped {
            return Err(JournalError::Stopped);
        }
        if payload.len() > MAX_ENTRY {
            return Err(JournalError::TooLarge(payload.len()));
        }
        let start = self.batch.bytes.len();
        if start + payload.len() > MAX_BATCH {
            return Err(JournalError::BatchFull(start));
        }
        let leaf = frames::encode(&mut self.batch.bytes, Kind::Entry, payload);
        let index = self.len() + self.batch.leaves.len() as u64;
        self.batch.leaves.push((leaf, start));
        Ok(index)
    }

    /// Makes everything appended durable, in one write and one fsync, and returns the new root.
    /// After an error the batch is gone: [`JournalError::NotRecorded`] leaves the journal as it
    /// was before and usable, after any other it stays closed to writing.
    pub fn commit(&mut self) -> Result<Digest, JournalError> {
        if self.stopped {
            return Err(JournalError::Stopped);
        }
        if self.batch.leaves.is_empty() {
            return Ok(self.root());
        }
        let mut batch = mem::take(&mut self.batch);
        let note = self.seal(&mut batch);
        if let Err(error) = faults::write_all(&mut self.log, &batch.bytes, "write journal") {
            return Err(self.roll_back(error));
        }
        if let Err(error) = faults::step("sync journal", || self.log.sync_data()) {
            // The kernel may have dropped the unwritten pages and call a second fsync a success.
            self.stopped = true;
            return Err(JournalError::Uncertain(error));
        }
        let start = self.history.sealed_bytes;
        for (leaf, offset) in batch.leaves {
            self.history.push(leaf, start + offset as u64);
        }
        self.history.file_bytes = start + batch.bytes.len() as u64;
        self.history.seal_at(self.history.file_bytes, note);
        self.copy_checkpoint();
        Ok(self.root())
    }

    /// Ends the batch with a signed checkpoint over all entries including its own.
    fn seal(&self, batch: &mut Batch) -> String {
        let checkpoint = Checkpoint {
            origin: self.origin.clone(),
            size: self.len() + batch.leaves.len() as u64,
            root: self.history.tree.root_with(batch.leaves.iter().map(|(leaf, _)| *leaf)),
        };
        let note = checkpoint.sign(&self.signer);
        frames::encode(&mut batch.bytes, Kind::Seal, note.as_bytes());
        note
    }

    /// After a failed write: cuts the file back to the last seal, through a fresh handle.
    fn roll_back(&mut self, error: io::Error) -> JournalError {
        let cut = || {
            let log = open_log(&self.dir.join(LOG), false)?;
            faults::step("roll back journal", || {
                log.set_len(self.history.sealed_bytes)?;
                log.sync_data()
            })?;
            Ok::<_, io::Error>(log)
        };
        match cut() {
            Ok(log) => {
                self.log = log;
                JournalError::NotRecorded(error)
            }
            Err(_) => {
                self.stopped = true;
                JournalError::Uncertain(error)
            }
        }
    }

    /// Shows the newest seal to others. The seal in the log is what counts, so a failure here
    /// (a full disk) fails nothing: the next commit or start renews the copy.
    ///
    /// One write over the note before, if both fit a sector, which disks write as a whole; else a new
    /// file in its place. A note is never shorter than the one before: the size only grows, and the rest
    /// keeps its length.
    fn copy_checkpoint(&self) {
        let (path, note) = (self.dir.join(CHECKPOINT), self.history.checkpoint().as_bytes());
        let over = || {
            let file = OpenOptions::new().write(true).open(&path)?;
            faults::step("write checkpoint", || file.write_all_at(note, 0))
        };
        let anew = || {
            let mut file = Unfinished::create(&self.dir)?;
            file.write_all(note)?;
            file.rename(&path)
        };
        let copied = match note.len() {
            0..=SECTOR if path.exists() => over(),
            _ => anew(),
        };
        if let Err(error) = copied {
            tracing::warn!(%error, "the copy of the newest checkpoint could not be written");
        }
    }

    /// Writes the static log `tlog/` up to the newest checkpoint: tiles first, then the
    /// checkpoint that needs them, all durable.
    pub fn publish(&self) -> Result<(), JournalError> {
        Ok(tiles::export(&self.history, &self.dir.join(tiles::DIR))?)
    }

    /// Committed entries.
    pub fn len(&self) -> u64 {
        self.history.size()
    }

    /// Whether nothing was ever committed.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The RFC 6962 root over the committed entries.
    pub fn root(&self) -> Digest {
        self.history.root()
    }

    /// Bytes of an unfinished batch that were cut off when the journal was opened.
    pub fn torn_bytes(&self) -> u64 {
        self.torn_bytes
    }

    /// The committed entries, to be replayed, read and proved.
    pub fn history(&self) -> &History {
        &self.history
    }

    /// Calls `visit` with index and payload of every committed entry, in order.
    pub fn replay<E: From<JournalError>>(
        &self,
        mut visit: impl FnMut(u64, &[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        struct Stop<E>(E);
        impl<E: From<JournalError>> From<Finding> for Stop<E> {
            fn from(finding: Finding) -> Self {
                Self(JournalError::from(finding).into())
            }
        }
        let visit = |index, payload: &[u8]| visit(index, payload).map_err(Stop);
        self.history.replay(0, visit).map_err(|Stop(error)| error)
    }

    /// The payload of committed entry `index`.
    pub fn read(&self, index: u64) -> Result<Vec<u8>, JournalError> {
        self.history.read_entry(index)?.ok_or(JournalError::NoEntry { index, size: self.len() })
    }
}

/// The lock of a journal's directory without the journal: for what must not happen while a daemon
/// runs on it. Ends when dropped.
pub struct Held {
    _lock: File,
}

/// Takes the lock of the journal in `dir`; [`JournalError::InUse`] while another process has it.
pub fn hold(dir: &Path) -> Result<Held, JournalError> {
    Ok(Held { _lock: lock(dir)? })
}

/// Takes the directory's lock, which ends with the process.
fn lock(dir: &Path) -> Result<File, JournalError> {
    let handle = File::open(dir).map_err(at(dir))?;
    match handle.try_lock() {
        Ok(()) => Ok(handle),
        Err(TryLockError::WouldBlock) => Err(JournalError::InUse(dir.to_owned())),
        Err(TryLockError::Error(source)) => Err(at(dir)(source)),
    }
}

fn open_log(path: &Path, create: bool) -> io::Result<File> {
    OpenOptions::new().append(true).create(create).mode(0o600).open(path)
}

#[cfg(test)]
mod tests;
