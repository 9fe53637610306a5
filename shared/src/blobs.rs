//! Large things named by their SHA-256: models, masked uploads, reports. Owns one flat directory
//! of files that never change; knows nothing of what they hold or who may read them. One process
//! writes (the owner of the journal beside it); any number may read.

mod hashing;
mod partial;

use std::{
    collections::VecDeque,
    fs::{self, File, Metadata},
    io::{self, Read},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use thiserror::Error;

use self::hashing::Hashing;
use crate::{
    crypto::{Digest, Hasher},
    durable::{self, Unfinished},
    faults,
};

/// Of how many blobs that this process wrote it is remembered.
const REMEMBERED: usize = 4;
/// Bytes that are read at once of a blob that is only checked.
const PIECE: usize = 1 << 18;

pub use partial::Partial;

/// Why a blob could not be stored or read.
#[derive(Debug, Error)]
pub enum BlobError {
    #[error(
        "blob {0} is not in the store; restore it from a backup or fetch it again from the sender"
    )]
    Missing(Digest),
    #[error(
        "blob {expected} is damaged: its content hashes to {found}; remove {path} and fetch it again or restore it from a backup"
    )]
    Damaged { expected: Digest, found: Digest, path: PathBuf },
    #[error("the content hashes to {found}, but {expected} was announced; send it again")]
    Unexpected { expected: Digest, found: Digest },
    #[error("blob of more than {limit} bytes; the limit here is {limit}")]
    TooLarge { limit: u64 },
    #[error("{path} cannot be read: {source}; check the disk and the directory's permissions")]
    Read { path: PathBuf, source: io::Error },
    /// Written, synced, renamed or removed.
    #[error(
        "{path} cannot be written: {source}; check the disk's space and the directory's permissions"
    )]
    Write { path: PathBuf, source: io::Error },
}

fn reading(path: &Path) -> impl Fn(io::Error) -> BlobError {
    move |source| BlobError::Read { path: path.to_owned(), source }
}

fn writing(path: &Path) -> impl Fn(io::Error) -> BlobError {
    move |source| BlobError::Write { path: path.to_owned(), source }
}

/// A content-addressed store in one directory (mode 0700, files 0600).
#[derive(Clone)]
pub struct Blobs {
    dir: PathBuf,
    /// The newest that this process wrote, and hashed while it wrote them.
    written: Arc<Mutex<VecDeque<(Digest, Version)>>>,
}

/// What changes when a file is replaced or written to: inode, length, and the times of the last change
/// of content and of anything, in nanoseconds.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Version([i128; 4]);

impl Version {
    fn of(file: &Metadata) -> Self {
        let nanos = |seconds, nanos| i128::from(seconds) * 1_000_000_000 + i128::from(nanos);
        Self([
            file.ino().into(),
            file.len().into(),
            nanos(file.mtime(), file.mtime_nsec()),
            nanos(file.ctime(), file.ctime_nsec()),
        ])
    }
}

impl Blobs {
    /// Opens or creates the store and removes what a crash left unfinished.
    pub fn open(dir: &Path) -> Result<Self, BlobError> {
        durable::create_dir(dir).map_err(writing(dir))?;
        durable::remove_unfinished(dir).map_err(writing(dir))?;
        Ok(Self::existing(dir))
    }

    /// The store in `dir` as it is, for reading beside the process that owns it.
    pub fn existing(dir: &Path) -> Self {
        Self { dir: dir.to_owned(), written: Arc::default() }
    }

    /// Stores `bytes`; durable when this returns. Storing the same bytes again does no work.
    pub fn put(&self, bytes: &[u8]) -> Result<Digest, BlobError> {
        let digest = Digest::of(bytes);
        // A present but damaged blob is replaced: putting is how it is healed.
        if self.read(&digest, bytes.len() as u64).is_ok() {
            return Ok(digest);
        }
        let path = self.path(&digest);
        durable::write(&path, bytes).map_err(writing(&path))?;
        Ok(digest)
    }

    /// Starts a blob of at most `limit` bytes that arrives in pieces.
    pub fn writer(&self, limit: u64) -> Result<Writer, BlobError> {
        let file = Unfinished::create(&self.dir).map_err(writing(&self.dir))?;
        Ok(Writer { blobs: self.clone(), file, hashing: Hashing::new(limit), length: 0, limit })
    }

    /// The blob's file, at its start, and its length in bytes. The content is not checked here:
    /// a reader that streams it checks the hash at the end.
    pub fn open_blob(&self, digest: &Digest) -> Result<(File, u64), BlobError> {
        let path = self.path(digest);
        let file = match File::open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(BlobError::Missing(*digest));
            }
            other => other.map_err(reading(&path))?,
        };
        let length = file.metadata().map_err(reading(&path))?.len();
        Ok((file, length))
    }

    /// The whole blob, its hash checked, if it has at most `limit` bytes.
    pub fn read(&self, digest: &Digest, limit: u64) -> Result<Vec<u8>, BlobError> {
        let (file, length) = self.open_blob(digest)?;
        if length > limit {
            return Err(BlobError::TooLarge { limit });
        }
        let path = self.path(digest);
        let mut bytes = Vec::with_capacity(usize::try_from(length).unwrap_or(0));
        file.take(length).read_to_end(&mut bytes).map_err(reading(&path))?;
        match Digest::of(&bytes) {
            found if found == *digest => Ok(bytes),
            found => Err(BlobError::Damaged { expected: *digest, found, path }),
        }
    }

    /// Reads the whole blob in pieces and checks its hash; gives its length in bytes.
    pub fn verify(&self, digest: &Digest) -> Result<u64, BlobError> {
        let (mut file, _) = self.open_blob(digest)?;
        let path = self.path(digest);
        let (mut hasher, mut length) = (Hasher::new(), 0);
        let mut piece = vec![0; PIECE];
        loop {
            let read = file.read(&mut piece).map_err(reading(&path))?;
            if read == 0 {
                break;
            }
            hasher.update(&piece[..read]);
            length += read as u64;
        }
        match hasher.finish() {
            found if found == *digest => Ok(length),
            found => Err(BlobError::Damaged { expected: *digest, found, path }),
        }
    }

    /// The blob's file, at its start, and its length, if it has at most `limit` bytes: one pass over
    /// it checked its hash, or this process wrote it just now and nobody touched it since. Takes
    /// little memory, however long the blob.
    pub fn open_checked(&self, digest: &Digest, limit: u64) -> Result<(File, u64), BlobError> {
        let (file, length) = self.open_blob(digest)?;
        if length > limit {
            return Err(BlobError::TooLarge { limit });
        }
        let version = Version::of(&file.metadata().map_err(reading(&self.path(digest)))?);
        if !self.written().contains(&(*digest, version)) {
            self.verify(digest)?;
        }
        Ok((file, length))
    }

    fn written(&self) -> MutexGuard<'_, VecDeque<(Digest, Version)>> {
        self.written.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a blob of this name is here (its content is not checked).
    pub fn contains(&self, digest: &Digest) -> bool {
        self.path(digest).is_file()
    }

    /// Removes a blob; false if there was none. Need not be durable: one that comes back after a power
    /// cut is what its name says.
    pub fn remove(&self, digest: &Digest) -> Result<bool, BlobError> {
        let path = self.path(digest);
        match faults::step("remove blob", || fs::remove_file(&path)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            other => other.map_err(writing(&path))?,
        }
        Ok(true)
    }

    /// Takes a blob out of the store at once and leaves the freeing of its room for later, because that
    /// takes its time for a long file; none if there was none. As with [`Blobs::remove`] it may come back
    /// after a power cut. What a crash keeps from being freed, [`Blobs::open`] frees.
    pub fn remove_later(&self, digest: &Digest) -> Result<Option<Removed>, BlobError> {
        let path = self.path(digest);
        match durable::set_aside(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            aside => Ok(Some(Removed(aside.map_err(writing(&path))?))),
        }
    }

    /// The names of all blobs here, in no order.
    pub fn digests(&self) -> Result<Vec<Digest>, BlobError> {
        let mut digests = Vec::new();
        for entry in fs::read_dir(&self.dir).map_err(reading(&self.dir))? {
            let name = entry.map_err(reading(&self.dir))?.file_name();
            digests.extend(name.to_str().and_then(|name| name.parse::<Digest>().ok()));
        }
        Ok(digests)
    }

    fn path(&self, digest: &Digest) -> PathBuf {
        self.dir.join(digest.to_string())
    }
}

/// A blob that is not in the store any more and still takes its room.
#[must_use = "its room is freed by `free`, or at the next start"]
pub struct Removed(PathBuf);

impl Removed {
    /// Frees its room.
    pub fn free(self) -> Result<(), BlobError> {
        match faults::step("free blob", || fs::remove_file(&self.0)) {
            // Freed by a start after the process that removed it.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other.map_err(writing(&self.0)),
        }
    }
}

/// A blob that arrives in pieces. Dropped before [`Writer::finish`], it leaves nothing behind.
pub struct Writer {
    blobs: Blobs,
    file: Unfinished,
    hashing: Hashing,
    length: u64,
    limit: u64,
}

impl Writer {
    /// Appends a piece; refused, with nothing written, if the blob would grow past its limit.
    pub fn append(&mut self, piece: &[u8]) -> Result<(), BlobError> {
        let length = self.length.saturating_add(piece.len() as u64);
        if length > self.limit {
            return Err(BlobError::TooLarge { limit: self.limit });
        }
        self.hashing.update(piece).map_err(writing(&self.blobs.dir))?;
        self.file.write_all(piece).map_err(writing(&self.blobs.dir))?;
        self.length = length;
        Ok(())
    }

    /// Bytes so far: where a resumed transfer goes on.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// Stores the blob under its digest, durably; refused if the sender announced another.
    pub fn finish(self, expected: Option<Digest>) -> Result<Digest, BlobError> {
        let found = self.hashing.finish().map_err(writing(&self.blobs.dir))?;
        if let Some(expected) = expected.filter(|expected| *expected != found) {
            return Err(BlobError::Unexpected { expected, found });
        }
        let path = self.blobs.path(&found);
        self.file.persist(&path).map_err(writing(&path))?;
        let version = Version::of(&fs::metadata(&path).map_err(reading(&path))?);
        let mut written = self.blobs.written();
        written.push_front((found, version));
        written.truncate(REMEMBERED);
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn store() -> (tempfile::TempDir, Blobs) {
        let dir = tempfile::tempdir().unwrap();
        let blobs = Blobs::open(&dir.path().join("blobs")).unwrap();
        (dir, blobs)
    }

    #[test]
    fn what_is_put_is_read_and_removed() {
        let (_dir, blobs) = store();
        let digest = blobs.put(b"model").unwrap();
        assert_eq!(digest, Digest::of(b"model"));
        assert_eq!(blobs.put(b"model").unwrap(), digest);
        assert_eq!(blobs.read(&digest, 5).unwrap(), b"model");
        assert!(matches!(blobs.read(&digest, 4), Err(BlobError::TooLarge { limit: 4 })));
        assert_eq!(blobs.open_blob(&digest).unwrap().1, 5);
        assert_eq!(blobs.digests().unwrap(), [digest]);
        assert!(blobs.contains(&digest));
        assert!(blobs.remove(&digest).unwrap());
        assert!(!blobs.remove(&digest).unwrap());
        let missing = blobs.read(&digest, 5).unwrap_err();
        assert!(missing.to_string().contains(&digest.to_string()));
    }

    #[test]
    fn what_is_removed_takes_its_room_until_it_is_freed_and_is_read_on_by_whoever_has_it_open() {
        let (_dir, blobs) = store();
        let digest = blobs.put(b"model").unwrap();
        let (mut open, _) = blobs.open_blob(&digest).unwrap();
        let removed = blobs.remove_later(&digest).unwrap().unwrap();
        assert!(!blobs.contains(&digest) && blobs.digests().unwrap().is_empty());
        assert!(blobs.remove_later(&digest).unwrap().is_none());
        // The same may come again meanwhile, and stays.
        blobs.put(b"model").unwrap();
        let files = || fs::read_dir(&blobs.dir).unwrap().count();
        assert_eq!(files(), 2);
        removed.free().unwrap();
        assert_eq!((files(), blobs.digests().unwrap()), (1, vec![digest]));
        let removed = blobs.remove_later(&digest).unwrap().unwrap();
        Blobs::open(&blobs.dir).unwrap();
        assert_eq!(files(), 0, "a start frees it");
        removed.free().unwrap();
        let mut bytes = Vec::new();
        open.read_to_end(&mut bytes).unwrap();
        assert_eq!(bytes, b"model");
    }

    #[test]
    fn pieces_give_the_same_blob_within_the_limit() {
        let (_dir, blobs) = store();
        let mut writer = blobs.writer(5).unwrap();
        writer.append(b"mo").unwrap();
        writer.append(b"del").unwrap();
        assert!(matches!(writer.append(b"s"), Err(BlobError::TooLarge { .. })));
        assert_eq!(writer.length(), 5);
        let digest = writer.finish(Some(Digest::of(b"model"))).unwrap();
        assert_eq!(blobs.read(&digest, 5).unwrap(), b"model");
    }

    #[test]
    fn an_unfinished_or_unexpected_blob_leaves_nothing() {
        let (_dir, blobs) = store();
        let mut writer = blobs.writer(10).unwrap();
        writer.append(b"x").unwrap();
        let refused = writer.finish(Some(Digest::of(b"y")));
        assert!(matches!(refused, Err(BlobError::Unexpected { .. })));
        std::mem::forget(blobs.writer(10).unwrap());
        let again = Blobs::open(&blobs.dir).unwrap();
        assert_eq!(fs::read_dir(&again.dir).unwrap().count(), 0);
    }

    #[test]
    fn damage_is_named_and_healed_by_putting_again() {
        let (_dir, blobs) = store();
        let digest = blobs.put(b"model").unwrap();
        fs::write(blobs.path(&digest), b"mo_el").unwrap();
        assert!(matches!(blobs.read(&digest, 9), Err(BlobError::Damaged { .. })));
        assert!(matches!(blobs.verify(&digest), Err(BlobError::Damaged { .. })));
        assert!(matches!(blobs.open_checked(&digest, 9), Err(BlobError::Damaged { .. })));
        blobs.put(b"model").unwrap();
        assert_eq!(blobs.read(&digest, 9).unwrap(), b"model");
        assert_eq!(blobs.verify(&digest).unwrap(), 5);
    }

    #[test]
    fn a_checked_blob_is_read_from_its_start() {
        let (_dir, blobs) = store();
        for length in [0, 1, PIECE, PIECE + 1] {
            let bytes = vec![7; length];
            let digest = blobs.put(&bytes).unwrap();
            let (mut file, found) = blobs.open_checked(&digest, length as u64).unwrap();
            let mut read = Vec::new();
            file.read_to_end(&mut read).unwrap();
            assert!(read == bytes && found == length as u64);
        }
        let digest = blobs.put(b"model").unwrap();
        let refused = blobs.open_checked(&digest, 4);
        assert!(matches!(refused, Err(BlobError::TooLarge { limit: 4 })));
    }

    #[test]
    fn what_this_process_wrote_is_believed_until_somebody_touches_it() {
        let (_dir, blobs) = store();
        let mut writer = blobs.writer(5).unwrap();
        writer.append(b"model").unwrap();
        let digest = writer.finish(None).unwrap();
        let version = blobs.written()[0].1;
        blobs.open_checked(&digest, 5).unwrap();
        fs::write(blobs.path(&digest), b"mo_el").unwrap();
        let damaged = |blobs: &Blobs| {
            matches!(blobs.open_checked(&digest, 5), Err(BlobError::Damaged { .. }))
        };
        assert!(damaged(&blobs), "written over");
        // Only what is remembered is believed.
        let touched = Version::of(&fs::metadata(blobs.path(&digest)).unwrap());
        assert!(touched != version);
        blobs.written()[0].1 = touched;
        assert!(!damaged(&blobs) && damaged(&Blobs::existing(&blobs.dir)));
        fs::remove_file(blobs.path(&digest)).unwrap();
        fs::write(blobs.path(&digest), b"mo_el").unwrap();
        assert!(damaged(&blobs), "replaced");
        for number in 0..9 {
            let mut writer = blobs.writer(1).unwrap();
            writer.append(&[number]).unwrap();
            writer.finish(None).unwrap();
        }
        assert_eq!(blobs.written().len(), REMEMBERED);
    }

    #[test]
    fn only_the_owner_may_read() {
        let (_dir, blobs) = store();
        let digest = blobs.put(b"model").unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&blobs.dir), 0o700);
        assert_eq!(mode(&blobs.path(&digest)), 0o600);
    }
}
