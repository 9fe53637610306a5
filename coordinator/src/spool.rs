//! The perishable files of open rounds: sealed shares, masked uploads and their running sum, revealed
//! shares. One folder a round, erased when it ends. Nothing here is secret from the coordinator, and none of it outlives
//! the round: the journal keeps the digests.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use collegium_shared::{
    crypto::{Digest, Hasher},
    durable, faults,
    ids::{InstitutionId, RoundId},
    protocol::{RevealHeader, ShareBody, ShareHeader},
    secagg::SharePiece,
    signed::Statement,
};
use thiserror::Error;

/// What is read of an upload at once, in bytes: whole words.
const CHUNK: usize = 1 << 20;

/// Why bytes of a round were not taken or not found.
#[derive(Debug, Error)]
pub enum SpoolError {
    #[error("{path} cannot be read: {source}; check the disk and the directory's permissions")]
    Read { path: PathBuf, source: io::Error },
    /// Written, synced or removed.
    #[error(
        "{path} cannot be written: {source}; check the disk's space and the directory's permissions"
    )]
    Write { path: PathBuf, source: io::Error },
    #[error(
        "bytes for offset {given} arrived, but {expected} is next; ask for the offset and go on there"
    )]
    Offset { given: u64, expected: u64 },
    #[error("an upload of this round has {limit} bytes; more arrived")]
    TooLong { limit: u64 },
    #[error("an upload of this round has {expected} bytes, but {given} arrived")]
    Incomplete { given: u64, expected: u64 },
    #[error(
        "the masked upload of {0} is not in the round's files any more, and no running sum that holds it can be used"
    )]
    Gone(InstitutionId),
    #[error("{path} is damaged")]
    Damaged { path: PathBuf },
}

fn reading(path: &Path) -> impl Fn(io::Error) -> SpoolError {
    move |source| SpoolError::Read { path: path.to_owned(), source }
}

fn writing(path: &Path) -> impl Fn(io::Error) -> SpoolError {
    move |source| SpoolError::Write { path: path.to_owned(), source }
}

/// The folder of all rounds.
#[derive(Clone)]
pub struct Spool {
    dir: PathBuf,
}

impl Spool {
    /// Opens or creates it, and removes what a crash left unfinished.
    pub fn open(dir: &Path) -> Result<Self, SpoolError> {
        durable::create_dir(dir).map_err(writing(dir))?;
        for round in fs::read_dir(dir).map_err(reading(dir))? {
            let round = round.map_err(reading(dir))?.path();
            match durable::remove_unfinished(&round) {
                // An erasure that was under way when the process before ended.
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                other => other.map_err(writing(&round))?,
            }
        }
        Ok(Self { dir: dir.to_owned() })
    }

    /// The folder of one round, made if need be.
    pub fn round(&self, id: &RoundId) -> Result<RoundFiles, SpoolError> {
        let dir = self.dir.join(folder(id));
        if !dir.is_dir() {
            durable::create_dir(&dir).map_err(writing(&dir))?;
            durable::sync_dir(&self.dir).map_err(writing(&self.dir))?;
        }
        Ok(RoundFiles { dir })
    }

    /// The folders of every round but `keep`.
    pub fn others(&self, keep: Option<&RoundId>) -> Result<Vec<PathBuf>, SpoolError> {
        let keep = keep.map(folder);
        let mut others = Vec::new();
        for entry in fs::read_dir(&self.dir).map_err(reading(&self.dir))? {
            let entry = entry.map_err(reading(&self.dir))?;
            if keep.as_deref() != entry.file_name().to_str() {
                others.push(entry.path());
            }
        }
        Ok(others)
    }

    /// Erases folders of rounds that are over. One that cannot be erased keeps none of the others;
    /// the first error is given.
    pub fn erase(&self, rounds: &[PathBuf]) -> Result<(), SpoolError> {
        let mut erased = Ok(());
        for round in rounds {
            let removed = match faults::step("remove round", || fs::remove_dir_all(round)) {
                Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
                other => other.map_err(writing(round)),
            };
            erased = erased.and(removed);
        }
        erased.and(durable::sync_dir(&self.dir).map_err(writing(&self.dir)))
    }
}

fn folder(id: &RoundId) -> String {
    format!("{}-{}-{}", id.task, id.round, id.attempt)
}

/// The files of one round.
#[derive(Clone)]
pub struct RoundFiles {
    dir: PathBuf,
}

impl RoundFiles {
    /// Where an institution's masked upload lies, whole and durable.
    pub fn upload_path(&self, from: &InstitutionId) -> PathBuf {
        self.dir.join(format!("upload-{from}"))
    }

    /// Where it lies before, as far as it came.
    fn incoming_path(&self, from: &InstitutionId) -> PathBuf {
        self.dir.join(format!("incoming-{from}"))
    }

    /// Where the running sum lies, once it took the place of uploads.
    pub fn accumulator_path(&self) -> PathBuf {
        self.dir.join("accumulator")
    }

    /// Keeps the dealing that `header` signs, under its digest, so that a second one never takes
    /// the place of the first; durable when this returns.
    pub fn write_share(&self, header: &ShareHeader, body: &ShareBody) -> Result<(), SpoolError> {
        let path = self.dir.join(format!("share-{}", header.digest()));
        let bytes = postcard::to_stdvec(body).map_err(io::Error::other).map_err(writing(&path))?;
        durable::write(&path, &bytes).map_err(writing(&path))
    }

    pub fn read_share(&self, header: &ShareHeader) -> Result<ShareBody, SpoolError> {
        let path = self.dir.join(format!("share-{}", header.digest()));
        let bytes = fs::read(&path).map_err(reading(&path))?;
        postcard::from_bytes(&bytes).map_err(|_| SpoolError::Damaged { path })
    }

    /// Keeps the revealed shares that `header` signs; durable when this returns.
    pub fn write_reveal(
        &self,
        header: &RevealHeader,
        pieces: &[SharePiece],
    ) -> Result<(), SpoolError> {
        let path = self.dir.join(format!("reveal-{}", header.digest()));
        let bytes: Vec<u8> = pieces.iter().flat_map(SharePiece::to_bytes).collect();
        durable::write(&path, &bytes).map_err(writing(&path))
    }

    pub fn read_reveal(&self, header: &RevealHeader) -> Result<Vec<SharePiece>, SpoolError> {
        let path = self.dir.join(format!("reveal-{}", header.digest()));
        let bytes = fs::read(&path).map_err(reading(&path))?;
        let (pieces, rest) = bytes.as_chunks::<{ SharePiece::LEN }>();
        let read: Option<Vec<SharePiece>> = pieces.iter().map(SharePiece::from_bytes).collect();
        read.filter(|_| rest.is_empty()).ok_or(SpoolError::Damaged { path })
    }

    /// How many bytes of an upload are here.
    pub fn received(&self, from: &InstitutionId) -> Result<u64, SpoolError> {
        for path in [self.upload_path(from), self.incoming_path(from)] {
            match fs::metadata(&path) {
                Ok(metadata) => return Ok(metadata.len()),
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                Err(e) => return Err(reading(&path)(e)),
            }
        }
        Ok(0)
    }

    /// Opens an upload to go on with it at `offset`. Whoever names another one than is next is told so
    /// before anything is read.
    pub fn open_upload_at(
        &self,
        from: &InstitutionId,
        length: u64,
        offset: u64,
    ) -> Result<UploadFile, SpoolError> {
        let expected = self.received(from)?;
        if offset != expected {
            return Err(SpoolError::Offset { given: offset, expected });
        }
        self.open_upload(from, length)
    }

    /// Opens an upload of `length` bytes to go on with it; what is there already is hashed. Only one
    /// may be open at a time.
    pub fn open_upload(&self, from: &InstitutionId, length: u64) -> Result<UploadFile, SpoolError> {
        let (whole, path) = (self.upload_path(from), self.incoming_path(from));
        let (mut file, unfinished) = match File::open(&whole) {
            Ok(file) => (file, None),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                let mut options = OpenOptions::new();
                options.read(true).write(true).create(true).truncate(false).mode(0o600);
                (options.open(&path).map_err(writing(&path))?, Some(path))
            }
            Err(e) => return Err(reading(&whole)(e)),
        };
        let mut hasher = Hasher::new();
        let mut received = 0;
        read_chunks(&mut file, |chunk| {
            hasher.update(chunk);
            received += chunk.len() as u64;
        })
        .map_err(reading(unfinished.as_ref().unwrap_or(&whole)))?;
        Ok(UploadFile { whole, unfinished, file, hasher, received, length })
    }

    /// Deletes an upload that is not needed any more, however much of it is here.
    pub fn remove_upload(&self, from: &InstitutionId) -> Result<(), SpoolError> {
        for path in [self.upload_path(from), self.incoming_path(from)] {
            match faults::step("remove upload", || fs::remove_file(&path)) {
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                other => other.map_err(writing(&path))?,
            }
        }
        Ok(())
    }

    /// Calls `visit` with an upload, chunk by chunk; every chunk but the last has whole words.
    pub fn read_upload(
        &self,
        from: &InstitutionId,
        visit: impl FnMut(&[u8]),
    ) -> Result<(), SpoolError> {
        let path = self.upload_path(from);
        let mut file = match File::open(&path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                return Err(SpoolError::Gone(from.clone()));
            }
            other => other.map_err(reading(&path))?,
        };
        read_chunks(&mut file, visit).map_err(reading(&path))
    }
}

/// An upload on its way in: the file, and the hash of what is in it.
pub struct UploadFile {
    /// Its name once it is whole and durable.
    whole: PathBuf,
    /// Its name until then.
    unfinished: Option<PathBuf>,
    file: File,
    hasher: Hasher,
    received: u64,
    length: u64,
}

impl UploadFile {
    /// Appends the bytes for `offset`. Not durable before [`UploadFile::finish`]; after an error of
    /// the disk it has to be opened again.
    pub fn append(&mut self, offset: u64, bytes: &[u8]) -> Result<(), SpoolError> {
        if offset != self.received {
            return Err(SpoolError::Offset { given: offset, expected: self.received });
        }
        let end = self.received + bytes.len() as u64;
        if end > self.length {
            return Err(SpoolError::TooLong { limit: self.length });
        }
        faults::write_all(&mut self.file, bytes, "write upload").map_err(writing(self.path()))?;
        self.hasher.update(bytes);
        self.received = end;
        Ok(())
    }

    fn path(&self) -> &Path {
        self.unfinished.as_ref().unwrap_or(&self.whole)
    }

    /// Gives the SHA-256 of a complete upload, and makes it whole and durable if that is `announced`.
    /// One that is durable already may have been accepted: whatever fails here, it stays.
    pub fn finish(self, announced: &Digest) -> Result<Digest, SpoolError> {
        let on_disk = self.file.metadata().map_err(reading(self.path()))?.len();
        if self.received != self.length || on_disk != self.length {
            return Err(SpoolError::Incomplete { given: on_disk, expected: self.length });
        }
        let Self { whole, unfinished, file, hasher, .. } = self;
        let digest = hasher.finish();
        if digest != *announced {
            return Ok(digest);
        }
        if let Some(path) = unfinished {
            if let Err(error) = faults::step("sync upload", || file.sync_data()) {
                // Its pages may be gone, and a second sync a success all the same: it is sent again.
                let _ = fs::remove_file(&path);
                return Err(writing(&path)(error));
            }
            faults::step("rename upload", || fs::rename(&path, &whole)).map_err(writing(&whole))?;
        }
        let dir = whole.parent().unwrap_or(&whole);
        durable::sync_dir(dir).map_err(writing(dir))?;
        Ok(digest)
    }
}

/// Reads to the end; every chunk but the last has [`CHUNK`] bytes.
fn read_chunks(file: &mut File, mut visit: impl FnMut(&[u8])) -> io::Result<()> {
    // A new upload has nothing yet, and many may begin at once.
    let length = usize::try_from(file.metadata()?.len()).unwrap_or(CHUNK).min(CHUNK);
    if length == 0 {
        return Ok(());
    }
    let mut chunk = vec![0; length];
    loop {
        let mut filled = 0;
        while filled < chunk.len() {
            match file.read(&mut chunk[filled..])? {
                0 => break,
                n => filled += n,
            }
        }
        if filled == 0 {
            return Ok(());
        }
        visit(&chunk[..filled]);
    }
}

#[cfg(test)]
mod tests {
    use std::os::{fd::OwnedFd, unix::net::UnixStream};

    use super::*;

    fn files(dir: &Path) -> (RoundFiles, InstitutionId) {
        let id = RoundId { task: "t".parse().unwrap(), round: 0, attempt: 0 };
        (Spool::open(dir).unwrap().round(&id).unwrap(), "a".parse().unwrap())
    }

    #[test]
    fn an_upload_grows_in_order_and_to_its_length_only() {
        let dir = tempfile::tempdir().unwrap();
        let (files, a) = files(dir.path());
        let digest = Digest::of(b"12345678");
        let mut file = files.open_upload(&a, 8).unwrap();
        file.append(0, b"1234").unwrap();
        assert_eq!(files.received(&a).unwrap(), 4);
        let skipped = file.append(6, b"78");
        assert!(matches!(skipped, Err(SpoolError::Offset { given: 6, expected: 4 })));
        let early = file.finish(&digest);
        assert!(matches!(early, Err(SpoolError::Incomplete { given: 4, expected: 8 })));
        let early = files.open_upload_at(&a, 8, 0).err();
        assert!(matches!(early, Some(SpoolError::Offset { given: 0, expected: 4 })), "{early:?}");
        assert_eq!(files.open_upload_at(&a, 8, 4).unwrap().received, 4);
        // What was there is hashed when it goes on.
        let mut file = files.open_upload(&a, 8).unwrap();
        let long = file.append(4, b"56789");
        assert!(matches!(long, Err(SpoolError::TooLong { limit: 8 })));
        file.append(4, b"5678").unwrap();
        assert_eq!(file.finish(&digest).unwrap(), digest);
        assert_eq!(files.open_upload(&a, 8).unwrap().finish(&digest).unwrap(), digest);
    }

    /// What cannot be synced.
    fn socket() -> File {
        File::from(OwnedFd::from(UnixStream::pair().unwrap().0))
    }

    #[test]
    fn an_upload_that_could_not_be_synced_is_not_trusted_again() {
        let dir = tempfile::tempdir().unwrap();
        let (files, a) = files(dir.path());
        let upload = UploadFile { file: socket(), ..files.open_upload(&a, 0).unwrap() };
        assert!(files.incoming_path(&a).exists());
        assert!(matches!(upload.finish(&Digest::of(b"")), Err(SpoolError::Write { .. })));
        assert!(!files.incoming_path(&a).exists() && !files.upload_path(&a).exists());
    }

    #[test]
    fn an_upload_that_may_have_been_accepted_stays() {
        let dir = tempfile::tempdir().unwrap();
        let (files, a) = files(dir.path());
        let mut file = files.open_upload(&a, 4).unwrap();
        file.append(0, b"1234").unwrap();
        let digest = Digest::of(b"1234");
        assert_eq!(file.finish(&digest).unwrap(), digest);
        assert_eq!(files.received(&a).unwrap(), 4);
        // Its header comes again, or another, and nothing of it can be written.
        let file = files.open_upload(&a, 4).unwrap();
        assert_eq!(file.finish(&Digest::of(b"other")).unwrap(), digest);
        let mut file = files.open_upload(&a, 4).unwrap();
        assert!(matches!(file.append(4, b"5"), Err(SpoolError::TooLong { limit: 4 })));
        assert_eq!(file.finish(&digest).unwrap(), digest);
        assert_eq!(fs::read(files.upload_path(&a)).unwrap(), b"1234");
    }

    #[test]
    fn an_upload_with_another_hash_is_neither_whole_nor_erased_before_it_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let (files, a) = files(dir.path());
        let mut file = files.open_upload(&a, 4).unwrap();
        file.append(0, b"1234").unwrap();
        assert_eq!(file.finish(&Digest::of(b"other")).unwrap(), Digest::of(b"1234"));
        assert!(!files.upload_path(&a).exists());
        assert_eq!(files.received(&a).unwrap(), 4);
        files.remove_upload(&a).unwrap();
        assert_eq!(files.received(&a).unwrap(), 0);
    }

    #[test]
    fn bytes_that_came_beside_the_hash_are_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let (files, a) = files(dir.path());
        let mut file = files.open_upload(&a, 4).unwrap();
        file.append(0, b"1234").unwrap();
        fs::write(files.incoming_path(&a), b"12345").unwrap();
        let refused = file.finish(&Digest::of(b"1234"));
        assert!(matches!(refused, Err(SpoolError::Incomplete { given: 5, expected: 4 })));
    }

    #[test]
    fn what_a_crash_left_unfinished_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let (files, _) = files(dir.path());
        std::mem::forget(durable::Unfinished::create(&files.dir).unwrap());
        Spool::open(dir.path()).unwrap();
        assert_eq!(fs::read_dir(&files.dir).unwrap().count(), 0);
    }

    #[test]
    fn rounds_are_erased_but_the_open_one() {
        let dir = tempfile::tempdir().unwrap();
        let spool = Spool::open(dir.path()).unwrap();
        let id = |round| RoundId { task: "t".parse().unwrap(), round, attempt: 0 };
        for round in 0..3 {
            spool.round(&id(round)).unwrap();
        }
        spool.erase(&spool.others(Some(&id(1))).unwrap()).unwrap();
        let left: Vec<_> =
            fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(left, ["t-1-0"]);
    }

    #[test]
    fn a_folder_that_cannot_be_erased_or_has_gone_keeps_no_other() {
        let dir = tempfile::tempdir().unwrap();
        let spool = Spool::open(dir.path()).unwrap();
        let (gone, wrong, last) =
            (dir.path().join("a"), dir.path().join("b"), dir.path().join("c"));
        fs::write(&wrong, b"no folder").unwrap();
        fs::create_dir(&last).unwrap();
        let erased = spool.erase(&[gone.clone(), wrong.clone(), last.clone()]);
        let Err(SpoolError::Write { path, .. }) = erased else { panic!("{erased:?}") };
        assert_eq!(path, wrong);
        assert!(!last.exists(), "what comes after it is erased");
        spool.erase(&[gone]).unwrap();
    }
}
