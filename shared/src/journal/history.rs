//! Reading and checking a journal: what both the daemon at its start and the auditor at any time
//! do. Never writes, takes no lock, and reads a journal that grows meanwhile.

use std::{
    fs::{self, File},
    io::{self, Read},
    mem,
    path::{Path, PathBuf},
};

use thiserror::Error;

use super::{
    checkpoint::{BadCheckpoint, Checkpoint, MAX_NOTE},
    frames::{Broken, Frame, Frames, Kind, Section, seal_within},
    keys::{self, Change, Said},
    tree::{BUNDLE, Ranges, Tree, index},
};
use crate::{
    crypto::{Digest, VerifyingKey},
    hand_over::{BadHandOver, HandOver},
};

/// The journal's file.
pub const LOG: &str = "journal.log";
/// A copy of the newest seal: the checkpoint that others see.
pub const CHECKPOINT: &str = "checkpoint";
/// How often a checkpoint that changes is read again.
const READINGS: usize = 8;

const RESTORE: &str =
    "keep this directory as evidence, restore it from a backup, then run: audit verify";

/// The first thing found wrong in a journal.
#[derive(Debug, Error)]
pub enum Finding {
    #[error("entry {index} at byte {offset} of journal.log {reason}; {RESTORE}")]
    Entry { index: u64, offset: u64, reason: &'static str },
    #[error("the seal after {size} entries, at byte {offset} of journal.log, {reason}; {RESTORE}")]
    Seal { size: u64, offset: u64, reason: &'static str },
    #[error(
        "journal.log is truncated: it holds {entries} sealed entries (sound up to byte {offset}), but the signed checkpoint says {checkpoint}; {RESTORE}"
    )]
    Truncated { entries: u64, checkpoint: u64, offset: u64 },
    #[error(
        "the Merkle tree of the first {size} entries has the root {computed}, but {signed} was signed; {RESTORE}"
    )]
    Root { size: u64, computed: Digest, signed: Digest },
    #[error("the checkpoint in {place} {reason}; {RESTORE}")]
    Checkpoint { place: PathBuf, reason: BadCheckpoint },
    #[error(
        "{0} is missing or empty; start the daemon once if this follows a power cut, otherwise {RESTORE}"
    )]
    NoCheckpoint(PathBuf),
    #[error("entry {index} changes the key of this log, but {reason}; {RESTORE}")]
    KeyChange { index: u64, reason: BadHandOver },
    #[error(
        "this log was handed over to the key {} by entry {index}; verify it with that key", .new.fingerprint()
    )]
    HandedOver { index: u64, new: VerifyingKey },
    #[error("{0} is not what the entries give; remove the directory tlog and publish it again")]
    Tile(PathBuf),
    #[error("{path}: {source}")]
    Io { path: PathBuf, source: io::Error },
}

pub(super) fn at(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Finding {
    let path = path.into();
    move |source| Finding::Io { path, source }
}

/// The sealed entries of a journal, checked, and where each lies.
pub struct History {
    pub(super) log: File,
    path: PathBuf,
    pub(super) tree: Tree,
    /// The byte at which each bundle of 256 entries starts.
    bundles: Vec<u64>,
    /// Bytes up to the end of the last seal.
    pub(super) sealed_bytes: u64,
    /// Bytes in the file when it was read.
    pub(super) file_bytes: u64,
    /// The last seal: a signed note.
    pub(super) note: String,
    /// The key that signs from here on.
    key: VerifyingKey,
    /// The changes of that key, in order.
    changes: Vec<Change>,
}

impl History {
    /// Reads and checks everything in `dir`: frames, seals, tree, the last seal's signature and
    /// the checkpoint. Entries after the last seal, never acknowledged, are left out.
    pub fn read(dir: &Path, key: &VerifyingKey) -> Result<Self, Finding> {
        // First the checkpoint, then the log, which may have grown since but not shrunk.
        let path = dir.join(CHECKPOINT);
        let note = read_note(&path)?;
        Self::check(dir, key, Anchor::read(path, note)?)
    }

    /// Like [`History::read`], but a journal without a checkpoint is a finding: to the daemon a
    /// trace of a power cut, which it repairs; to an auditor a missing piece of evidence.
    pub fn audit(dir: &Path, key: &VerifyingKey) -> Result<Self, Finding> {
        let path = dir.join(CHECKPOINT);
        let note = read_note(&path)?;
        match Anchor::read(path.clone(), note)? {
            None => Err(Finding::NoCheckpoint(path)),
            anchor => Self::check(dir, key, anchor),
        }
    }

    fn check(dir: &Path, key: &VerifyingKey, anchor: Option<Anchor>) -> Result<Self, Finding> {
        let scanned = Self::open_and_scan(dir, key, anchor.as_ref().map(|a| &a.checkpoint));
        if let Err(finding @ Finding::KeyChange { .. }) = scanned {
            return Err(finding);
        }
        let last = scanned.as_ref().ok().and_then(|read| read.changes.last());
        if let Some(last) = last.filter(|last| last.new != *key) {
            return Err(Finding::HandedOver { index: last.size - 1, new: last.new });
        }
        if let Some(anchor) = &anchor {
            let signer =
                scanned.as_ref().map_or(*key, |read| read.signer_of(anchor.checkpoint.size));
            anchor.verify(&signer)?;
        }
        let history = scanned?;
        if let Some(Anchor { checkpoint, .. }) =
            anchor.filter(|a| a.checkpoint.size > history.size())
        {
            return Err(Finding::Truncated {
                entries: history.size(),
                checkpoint: checkpoint.size,
                offset: history.sealed_bytes,
            });
        }
        if !history.note.is_empty() {
            Checkpoint::open(&history.note, &history.signer_of(history.size()))
                .map_err(|reason| Finding::Checkpoint { place: history.path.clone(), reason })?;
        }
        Ok(history)
    }

    fn open_and_scan(
        dir: &Path,
        key: &VerifyingKey,
        anchor: Option<&Checkpoint>,
    ) -> Result<Self, Finding> {
        let path = dir.join(LOG);
        let log = File::open(&path).map_err(at(&path))?;
        let file_bytes = log.metadata().map_err(at(&path))?.len();
        let history = Self {
            log,
            path,
            tree: Tree::default(),
            bundles: Vec::new(),
            sealed_bytes: 0,
            file_bytes,
            note: String::new(),
            key: *key,
            changes: Vec::new(),
        };
        history.scan(anchor)
    }

    /// The key that signs the checkpoint of the first `size` entries: the last one with which the log's
    /// key changes is still the old key's.
    fn signer_of(&self, size: u64) -> VerifyingKey {
        let until = self.changes.iter().find(|change| size <= change.size);
        until.map_or(self.key, |change| change.old)
    }

    /// Checks that a note that was made from this log is signed by the key that it had then.
    pub(super) fn open_note(&self, place: &Path, note: &str) -> Result<Checkpoint, Finding> {
        let found = |reason| Finding::Checkpoint { place: place.to_owned(), reason };
        let size = Checkpoint::read_unverified(note).map_err(found)?.size;
        Checkpoint::open(note, &self.signer_of(size)).map_err(found)
    }

    /// The log's key changed with the entry that was sealed last.
    pub(super) fn hand_over(&mut self, new: VerifyingKey) {
        self.changes.push(Change { size: self.size(), old: self.key, new });
        self.key = new;
    }

    /// Reads frame by frame to the last seal of the file.
    fn scan(mut self, anchor: Option<&Checkpoint>) -> Result<Self, Finding> {
        let log = self.log.try_clone().map_err(at(&self.path))?;
        let mut frames = Frames::new(&log, 0, self.file_bytes);
        let mut batch = Batch::default();
        loop {
            let offset = frames.offset();
            match frames.next() {
                Ok(None) => return Ok(self),
                Ok(Some(Frame { kind: Kind::Entry, hash, payload, .. })) => {
                    let index = self.size() + batch.leaves.len() as u64;
                    batch.push(hash, offset);
                    batch.note_change(index, &payload)?;
                }
                Ok(Some(Frame { kind: Kind::Seal, payload, .. })) => {
                    let note = String::from_utf8(payload).unwrap_or_default();
                    // A change is alone in its batch, so this is the root before it.
                    let before = batch.change.is_some().then(|| self.root());
                    let sealed = self.accept(&mut batch, offset, &note)?;
                    check_anchor(&sealed, anchor)?;
                    if let Some((change, before)) = batch.change.take().zip(before) {
                        self.accept_change(&change, &note, &sealed.origin, &before)?;
                    }
                    self.seal_at(frames.offset(), note);
                }
                Err((_, Broken::Io(source))) => return Err(at(&self.path)(source)),
                Err((kind, broken)) => {
                    let index = self.size() + batch.leaves.len() as u64;
                    return match self.judge(&log, offset, anchor, &broken)? {
                        None => Ok(self),
                        Some(reason) if kind == Kind::Seal => {
                            Err(Finding::Seal { size: index, offset, reason })
                        }
                        Some(reason) => Err(Finding::Entry { index, offset, reason }),
                    };
                }
            }
        }
    }

    /// Whether a frame that cannot be read at `offset` is damage (with the reason) or the rest of
    /// a write that a crash cut off. A batch goes to disk in one write and the next only after
    /// that is durable, so a sound seal further on, or a checkpoint that counts more entries,
    /// proves that this frame was once whole.
    fn judge(
        &self,
        log: &File,
        offset: u64,
        anchor: Option<&Checkpoint>,
        broken: &Broken,
    ) -> Result<Option<&'static str>, Finding> {
        let sealed_later = seal_within(log, offset + 1, self.file_bytes).map_err(at(&self.path))?;
        let counted = anchor.is_some_and(|anchor| anchor.size > self.size());
        Ok(match broken {
            Broken::Changed(reason) if sealed_later || counted => Some(reason),
            Broken::Short if sealed_later => Some("has a length that was changed"),
            _ => None,
        })
    }

    /// Takes a batch into the tree and checks it against the seal that follows it.
    fn accept(
        &mut self,
        batch: &mut Batch,
        offset: u64,
        note: &str,
    ) -> Result<Checkpoint, Finding> {
        for (leaf, start) in batch.leaves.drain(..) {
            self.push(leaf, start);
        }
        let size = self.size();
        let sealed = Checkpoint::read_unverified(note).map_err(|_| Finding::Seal {
            size,
            offset,
            reason: "is not a checkpoint",
        })?;
        if sealed.size != size {
            return Err(Finding::Seal { size, offset, reason: "states another number of entries" });
        }
        match self.root() {
            computed if computed == sealed.root => Ok(sealed),
            computed => Err(Finding::Root { size, computed, signed: sealed.root }),
        }
    }

    /// Takes a change of the log's key from the key before, which sealed it, if the new key signed that
    /// it takes over the entries with the root `before`. Without that, whoever stole an old key could
    /// put its public hand-over at the end of a log of their own.
    fn accept_change(
        &mut self,
        change: &Said,
        note: &str,
        origin: &str,
        before: &Digest,
    ) -> Result<(), Finding> {
        let (size, index) = (self.size(), self.size() - 1);
        let HandOver { old, new, .. } = change.hand_over;
        change
            .takes(origin, index, before)
            .map_err(|reason| Finding::KeyChange { index, reason })?;
        if self.changes.last().is_some_and(|before| before.new != old) {
            return Err(Finding::KeyChange { index, reason: BadHandOver::OtherKey });
        }
        // The seal before is that key's as well, or the one with which the log went over to it.
        let by_old = |note: &str| Checkpoint::open(note, &old).is_ok();
        let sealed = Checkpoint::read_unverified(&self.note).map_or(0, |sealed| sealed.size);
        let before = self.changes.last().map_or(0, |before| before.size);
        let follows = sealed == before || by_old(&self.note);
        if !follows || !by_old(note) {
            return Err(Finding::KeyChange { index, reason: BadHandOver::OldKey });
        }
        self.changes.push(Change { size, old, new });
        Ok(())
    }

    /// Notes that the file is sound and sealed up to `bytes`.
    pub(super) fn seal_at(&mut self, bytes: u64, note: String) {
        self.sealed_bytes = bytes;
        self.note = note;
    }

    /// Adds an entry that starts at byte `start`.
    pub(super) fn push(&mut self, leaf: Digest, start: u64) {
        if self.size().is_multiple_of(BUNDLE) {
            self.bundles.push(start);
        }
        self.tree.push(leaf);
    }

    /// Sealed entries.
    pub fn size(&self) -> u64 {
        self.tree.size()
    }

    /// The RFC 6962 root over them.
    pub fn root(&self) -> Digest {
        self.tree.root()
    }

    /// The newest signed checkpoint as a note; empty in a journal that is read before anything
    /// was committed.
    pub fn checkpoint(&self) -> &str {
        &self.note
    }

    /// Bytes up to the end of the last seal.
    pub fn sealed_bytes(&self) -> u64 {
        self.sealed_bytes
    }

    /// The journal's file up to the end of the last seal, as it lies on disk: a journal by itself.
    pub fn sealed(&self) -> impl Read + '_ {
        Section::new(&self.log, 0, self.sealed_bytes)
    }

    /// Bytes after the last seal: a batch that is being written, or one that a crash cut off.
    pub fn unsealed_bytes(&self) -> u64 {
        self.file_bytes - self.sealed_bytes
    }

    /// Calls `visit` with index and payload of every entry from `from` on, checked again.
    pub fn replay<E: From<Finding>>(
        &self,
        from: u64,
        mut visit: impl FnMut(u64, &[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        self.each(from, |index, frame| visit(index, &frame.payload).map(|()| true))
    }

    /// The payload of entry `index`; none if there is no such entry.
    pub fn read_entry(&self, entry: u64) -> Result<Option<Vec<u8>>, Finding> {
        let mut found = None;
        self.each(entry, |_, frame| {
            found = Some(frame.payload);
            Ok::<_, Finding>(false)
        })?;
        Ok(found)
    }

    /// The leaf hashes and payloads of the entries of bundle `bundle`.
    pub(super) fn bundle(&self, bundle: u64) -> Result<Vec<(Digest, Vec<u8>)>, Finding> {
        let from = bundle * BUNDLE;
        let mut entries = Vec::new();
        self.each(from, |index, frame| {
            entries.push((frame.hash, frame.payload));
            Ok::<_, Finding>(index + 1 < from + BUNDLE)
        })?;
        Ok(entries)
    }

    /// Hands entries from `from` on to `visit` until it returns false.
    fn each<E: From<Finding>>(
        &self,
        from: u64,
        mut visit: impl FnMut(u64, Frame) -> Result<bool, E>,
    ) -> Result<(), E> {
        let Some(start) = self.bundles.get(index(from / BUNDLE)) else { return Ok(()) };
        let mut next = from - from % BUNDLE;
        let mut frames = Frames::new(&self.log, *start, self.sealed_bytes);
        loop {
            let offset = frames.offset();
            match frames.next() {
                Ok(None) => return Ok(()),
                Ok(Some(frame)) if frame.kind == Kind::Seal => {}
                Ok(Some(frame)) => {
                    if next >= from && !visit(next, frame)? {
                        return Ok(());
                    }
                    next += 1;
                }
                Err((_, Broken::Io(source))) => return Err(at(&self.path)(source).into()),
                Err(_) => {
                    let reason = "changed since the journal was opened";
                    return Err(Finding::Entry { index: next, offset, reason }.into());
                }
            }
        }
    }

    /// The RFC 6962 audit path of entry `entry` in the tree of the first `size` entries; none if
    /// there are not that many.
    pub fn inclusion_proof(&self, entry: u64, size: u64) -> Result<Option<Vec<Digest>>, Finding> {
        if entry >= size || size > self.size() {
            return Ok(None);
        }
        self.ranges().inclusion(entry, size).map(Some).map_err(at(&self.path))
    }

    /// The RFC 6962 proof that the tree of the first `old` entries is a prefix of that of the
    /// first `size`; none unless 0 < `old` <= `size` <= the size.
    pub fn consistency_proof(&self, old: u64, size: u64) -> Result<Option<Vec<Digest>>, Finding> {
        if old == 0 || old > size || size > self.size() {
            return Ok(None);
        }
        self.ranges().consistency(old, size).map(Some).map_err(at(&self.path))
    }

    /// The root of the tree of the first `size` entries, which must be there.
    pub fn root_at(&self, size: u64) -> Result<Digest, Finding> {
        match size {
            0 => Ok(Tree::default().root()),
            size => self.ranges().hash(0, size).map_err(at(&self.path)),
        }
    }

    fn ranges(&self) -> Ranges<'_, impl FnMut(u64) -> io::Result<Vec<Digest>>> {
        let leaves = |bundle| {
            let entries = self.bundle(bundle).map_err(io::Error::other)?;
            Ok(entries.into_iter().map(|(leaf, _)| leaf).collect())
        };
        Ranges { tree: &self.tree, leaves }
    }
}

/// Entries since the last seal: leaf hashes and where they start.
#[derive(Default)]
struct Batch {
    leaves: Vec<(Digest, u64)>,
    /// The change of the log's key that one of them says.
    change: Option<Said>,
}

impl Batch {
    fn push(&mut self, leaf: Digest, start: u64) {
        self.leaves.push((leaf, start));
    }

    /// A change is the only entry of its batch: what follows would be under neither key, and what the new
    /// key takes over is what the seal before counts.
    fn note_change(&mut self, index: u64, payload: &[u8]) -> Result<(), Finding> {
        let found = |reason| Finding::KeyChange { index, reason };
        let said = keys::said(payload).transpose().map_err(found)?;
        if self.leaves.len() > 1 && (said.is_some() || self.change.is_some()) {
            return Err(found(BadHandOver::NotAlone));
        }
        self.change = said;
        Ok(())
    }
}

/// A copy of a seal that lies beside the log, not verified yet.
struct Anchor {
    place: PathBuf,
    note: String,
    checkpoint: Checkpoint,
}

impl Anchor {
    /// None of an empty note.
    fn read(place: PathBuf, note: String) -> Result<Option<Self>, Finding> {
        if note.is_empty() {
            return Ok(None);
        }
        match Checkpoint::read_unverified(&note) {
            Ok(checkpoint) => Ok(Some(Self { place, note, checkpoint })),
            Err(reason) => Err(Finding::Checkpoint { place, reason }),
        }
    }

    fn verify(&self, signer: &VerifyingKey) -> Result<(), Finding> {
        let found = |reason| Finding::Checkpoint { place: self.place.clone(), reason };
        Checkpoint::open(&self.note, signer).map(drop).map_err(found)
    }
}

/// The checkpoint was copied from a seal of this log, so the seal of its size is the same.
fn check_anchor(sealed: &Checkpoint, anchor: Option<&Checkpoint>) -> Result<(), Finding> {
    match anchor {
        Some(anchor) if anchor.size == sealed.size && anchor.root != sealed.root => {
            Err(Finding::Root { size: anchor.size, computed: sealed.root, signed: anchor.root })
        }
        _ => Ok(()),
    }
}

/// The text of a note file; empty if there is none.
pub(super) fn read_note(path: &Path) -> Result<String, Finding> {
    let mut bytes = read_start(path)?;
    // The daemon may be writing over it.
    for _ in 0..READINGS {
        let before = mem::replace(&mut bytes, read_start(path)?);
        if before == bytes {
            break;
        }
    }
    // After a power cut some file systems show a renamed file as empty or as zeros.
    if bytes.iter().all(|byte| *byte == 0) {
        return Ok(String::new());
    }
    // Bytes that are no text make no valid note either.
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// As much of a file as a note may be long and a byte more; nothing of one that is not there.
fn read_start(path: &Path) -> Result<Vec<u8>, Finding> {
    let mut bytes = Vec::new();
    match fs::File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        file => {
            let read = |file: File| file.take(MAX_NOTE as u64 + 1).read_to_end(&mut bytes);
            file.and_then(read).map_err(at(path))?;
        }
    }
    Ok(bytes)
}
