//! The perishable files of open rounds: sealed shares, masked uploads, revealed shares. One folder a
//! round, erased when it ends. Nothing here is secret from the coordinator, and none of it outlives
//! the round: the journal keeps the digests.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Seek, SeekFrom},
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

/// Why bytes of a round were not taken or not found.
#[derive(Debug, Error)]
pub enum SpoolError {
    #[error("{path}: {source}; check the disk's space and the directory's permissions")]
    Io { path: PathBuf, source: io::Error },
    #[error(
        "bytes for offset {given} arrived, but {expected} is next; ask for the offset and go on there"
    )]
    Offset { given: u64, expected: u64 },
    #[error("an upload of this round has {limit} bytes; more arrived")]
    TooLong { limit: u64 },
    #[error("an upload of this round has {expected} bytes, but {given} arrived")]
    Incomplete { given: u64, expected: u64 },
    #[error("{path} is damaged")]
    Damaged { path: PathBuf },
}

fn at(path: &Path) -> impl Fn(io::Error) -> SpoolError {
    move |source| SpoolError::Io { path: path.to_owned(), source }
}

/// The folder of all rounds.
#[derive(Clone)]
pub struct Spool {
    dir: PathBuf,
}

impl Spool {
    pub fn open(dir: &Path) -> Result<Self, SpoolError> {
        durable::create_dir(dir).map_err(at(dir))?;
        Ok(Self { dir: dir.to_owned() })
    }

    /// The folder of one round, made if need be.
    pub fn round(&self, id: &RoundId) -> Result<RoundFiles, SpoolError> {
        let dir = self.dir.join(folder(id));
        if !dir.is_dir() {
            durable::create_dir(&dir).map_err(at(&dir))?;
            durable::sync_dir(&self.dir).map_err(at(&self.dir))?;
        }
        Ok(RoundFiles { dir })
    }

    /// Erases every round but `keep`.
    pub fn erase_except(&self, keep: Option<&RoundId>) -> Result<(), SpoolError> {
        let keep = keep.map(folder);
        let mut erased = false;
        for entry in fs::read_dir(&self.dir).map_err(at(&self.dir))? {
            let entry = entry.map_err(at(&self.dir))?;
            if keep.as_deref() != entry.file_name().to_str() {
                faults::step("remove round", || fs::remove_dir_all(entry.path()))
                    .map_err(at(&entry.path()))?;
                erased = true;
            }
        }
        if erased { durable::sync_dir(&self.dir).map_err(at(&self.dir)) } else { Ok(()) }
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
    fn upload_path(&self, from: &InstitutionId) -> PathBuf {
        self.dir.join(format!("upload-{from}"))
    }

    /// Keeps the dealing that `header` signs, under its digest, so that a second one never takes
    /// the place of the first; durable when this returns.
    pub fn write_share(&self, header: &ShareHeader, body: &ShareBody) -> Result<(), SpoolError> {
        let path = self.dir.join(format!("share-{}", header.digest()));
        let bytes = postcard::to_stdvec(body).map_err(io::Error::other).map_err(at(&path))?;
        durable::write(&path, &bytes).map_err(at(&path))
    }

    pub fn read_share(&self, header: &ShareHeader) -> Result<ShareBody, SpoolError> {
        let path = self.dir.join(format!("share-{}", header.digest()));
        let bytes = fs::read(&path).map_err(at(&path))?;
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
        durable::write(&path, &bytes).map_err(at(&path))
    }

    pub fn read_reveal(&self, header: &RevealHeader) -> Result<Vec<SharePiece>, SpoolError> {
        let path = self.dir.join(format!("reveal-{}", header.digest()));
        let bytes = fs::read(&path).map_err(at(&path))?;
        let (pieces, rest) = bytes.as_chunks::<{ SharePiece::LEN }>();
        let read: Option<Vec<SharePiece>> = pieces.iter().map(SharePiece::from_bytes).collect();
        read.filter(|_| rest.is_empty()).ok_or(SpoolError::Damaged { path })
    }

    /// How many bytes of an upload are here.
    pub fn received(&self, from: &InstitutionId) -> Result<u64, SpoolError> {
        let path = self.upload_path(from);
        match fs::metadata(&path) {
            Ok(metadata) => Ok(metadata.len()),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(0),
            Err(e) => Err(at(&path)(e)),
        }
    }

    /// Appends to an upload of `limit` bytes. Not durable before [`RoundFiles::finish_upload`].
    pub fn append_upload(
        &self,
        from: &InstitutionId,
        offset: u64,
        bytes: &[u8],
        limit: u64,
    ) -> Result<(), SpoolError> {
        let path = self.upload_path(from);
        let mut file = OpenOptions::new()
            .append(true)
            .create(true)
            .mode(0o600)
            .open(&path)
            .map_err(at(&path))?;
        let expected = file.seek(SeekFrom::End(0)).map_err(at(&path))?;
        if offset != expected {
            return Err(SpoolError::Offset { given: offset, expected });
        }
        if expected + bytes.len() as u64 > limit {
            return Err(SpoolError::TooLong { limit });
        }
        faults::write_all(&mut file, bytes, "write upload").map_err(at(&path))
    }

    /// Makes a complete upload durable and gives its SHA-256. An upload that does not hash to
    /// `announced` is erased, so that its sender can start again.
    pub fn finish_upload(
        &self,
        from: &InstitutionId,
        expected: u64,
        announced: &Digest,
    ) -> Result<Digest, SpoolError> {
        let path = self.upload_path(from);
        let given = self.received(from)?;
        if given != expected {
            return Err(SpoolError::Incomplete { given, expected });
        }
        let file = File::open(&path).map_err(at(&path))?;
        faults::step("sync upload", || file.sync_all()).map_err(at(&path))?;
        durable::sync_dir(&self.dir).map_err(at(&self.dir))?;
        let mut hasher = Hasher::new();
        read_chunks(file, |chunk| hasher.update(chunk)).map_err(at(&path))?;
        let digest = hasher.finish();
        if digest != *announced {
            faults::step("remove upload", || fs::remove_file(&path)).map_err(at(&path))?;
        }
        Ok(digest)
    }

    /// Calls `visit` with an upload, chunk by chunk; every chunk but the last has whole words.
    pub fn read_upload(
        &self,
        from: &InstitutionId,
        visit: impl FnMut(&[u8]),
    ) -> Result<(), SpoolError> {
        let path = self.upload_path(from);
        let file = File::open(&path).map_err(at(&path))?;
        read_chunks(file, visit).map_err(at(&path))
    }
}

fn read_chunks(mut file: File, mut visit: impl FnMut(&[u8])) -> io::Result<()> {
    let mut chunk = vec![0; 1 << 20];
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
    use super::*;

    fn files(dir: &Path) -> (RoundFiles, InstitutionId) {
        let id = RoundId { task: "t".parse().unwrap(), round: 0, attempt: 0 };
        (Spool::open(dir).unwrap().round(&id).unwrap(), "a".parse().unwrap())
    }

    #[test]
    fn an_upload_grows_in_order_and_to_its_length_only() {
        let dir = tempfile::tempdir().unwrap();
        let (files, a) = files(dir.path());
        files.append_upload(&a, 0, b"1234", 8).unwrap();
        assert_eq!(files.received(&a).unwrap(), 4);
        let skipped = files.append_upload(&a, 6, b"78", 8);
        assert!(matches!(skipped, Err(SpoolError::Offset { given: 6, expected: 4 })));
        let early = files.finish_upload(&a, 8, &Digest::of(b"12345678"));
        assert!(matches!(early, Err(SpoolError::Incomplete { given: 4, expected: 8 })));
        let long = files.append_upload(&a, 4, b"56789", 8);
        assert!(matches!(long, Err(SpoolError::TooLong { limit: 8 })));
        files.append_upload(&a, 4, b"5678", 8).unwrap();
        let digest = Digest::of(b"12345678");
        assert_eq!(files.finish_upload(&a, 8, &digest).unwrap(), digest);
    }

    #[test]
    fn an_upload_with_another_hash_is_erased() {
        let dir = tempfile::tempdir().unwrap();
        let (files, a) = files(dir.path());
        files.append_upload(&a, 0, b"1234", 4).unwrap();
        let found = files.finish_upload(&a, 4, &Digest::of(b"other")).unwrap();
        assert_eq!(found, Digest::of(b"1234"));
        assert_eq!(files.received(&a).unwrap(), 0);
    }

    #[test]
    fn rounds_are_erased_but_the_open_one() {
        let dir = tempfile::tempdir().unwrap();
        let spool = Spool::open(dir.path()).unwrap();
        let id = |round| RoundId { task: "t".parse().unwrap(), round, attempt: 0 };
        for round in 0..3 {
            spool.round(&id(round)).unwrap();
        }
        spool.erase_except(Some(&id(1))).unwrap();
        let left: Vec<_> =
            fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(left, ["t-1-0"]);
    }
}
