//! A blob that comes from somewhere else in pieces, and goes on where it stopped even after a restart.
//! What arrived so far lies beside the blobs under the name of what it shall become; it is hashed again
//! before anything is added, and becomes a blob only if all of it has the digest. There is at most one.

use std::{
    collections::BTreeSet,
    fs::{self, File, OpenOptions},
    io::{self, Read},
    os::unix::fs::OpenOptionsExt,
    path::PathBuf,
};

use super::{BlobError, Blobs, reading, writing};
use crate::{
    crypto::{Digest, Hasher},
    faults,
};

/// How the name of a part starts.
const PARTIAL: &str = ".partial-";
/// Bytes that are hashed at a time.
const PIECE: usize = 1 << 18;

/// A blob of which a part is here. Dropped before [`Partial::finish`], the part stays.
pub struct Partial {
    blobs: Blobs,
    digest: Digest,
    path: PathBuf,
    file: File,
    hasher: Hasher,
    length: u64,
    limit: u64,
}

impl Blobs {
    /// Goes on with the blob `digest` of at most `limit` bytes. Reads all that came before; parts of
    /// other blobs are removed.
    pub fn partial(&self, digest: &Digest, limit: u64) -> Result<Partial, BlobError> {
        self.retain_partials(&BTreeSet::from([*digest]))?;
        let path = self.partial_path(digest);
        let open = || {
            let mut options = OpenOptions::new();
            options.read(true).append(true).create(true).mode(0o600).open(&path)
        };
        let mut file = faults::step("open partial blob", open).map_err(writing(&path))?;
        if file.metadata().map_err(reading(&path))?.len() > limit {
            faults::step("cut partial blob", || file.set_len(0)).map_err(writing(&path))?;
        }
        let (mut hasher, mut length) = (Hasher::new(), 0);
        let mut piece = vec![0; PIECE];
        loop {
            match file.read(&mut piece).map_err(reading(&path))? {
                0 => break,
                read => {
                    hasher.update(&piece[..read]);
                    length += read as u64;
                }
            }
        }
        Ok(Partial { blobs: self.clone(), digest: *digest, path, file, hasher, length, limit })
    }

    /// Removes the parts of all blobs but these. Need not be durable: what comes back after a power cut
    /// is removed the next time.
    pub fn retain_partials(&self, keep: &BTreeSet<Digest>) -> Result<(), BlobError> {
        for entry in fs::read_dir(&self.dir).map_err(reading(&self.dir))? {
            let entry = entry.map_err(reading(&self.dir))?;
            let name = entry.file_name();
            let Some(of) = name.to_str().and_then(|name| name.strip_prefix(PARTIAL)) else {
                continue;
            };
            if !of.parse().is_ok_and(|digest| keep.contains(&digest)) {
                remove(&entry.path())?;
            }
        }
        Ok(())
    }

    fn partial_path(&self, digest: &Digest) -> PathBuf {
        self.dir.join(format!("{PARTIAL}{digest}"))
    }
}

fn remove(path: &std::path::Path) -> Result<(), BlobError> {
    match faults::step("remove partial blob", || fs::remove_file(path)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other.map_err(writing(path)),
    }
}

impl Partial {
    /// Bytes that are here: where the transfer goes on.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// Appends a piece; refused, with nothing written, if the blob would grow past its limit.
    pub fn append(&mut self, piece: &[u8]) -> Result<(), BlobError> {
        let length = self.length.saturating_add(piece.len() as u64);
        if length > self.limit {
            return Err(BlobError::TooLarge { limit: self.limit });
        }
        faults::write_all(&mut self.file, piece, "write partial blob")
            .map_err(writing(&self.path))?;
        self.hasher.update(piece);
        self.length = length;
        Ok(())
    }

    /// Makes it a blob, whose length this gives; something else than was announced is removed.
    ///
    /// Not durable: what came from somewhere else can come from there again, and if a power cut tears
    /// the file, its hash tells whoever reads it.
    pub fn finish(self) -> Result<u64, BlobError> {
        let (expected, found) = (self.digest, self.hasher.finish());
        if found != expected {
            remove(&self.path)?;
            return Err(BlobError::Unexpected { expected, found });
        }
        let path = self.blobs.path(&expected);
        faults::step("rename partial blob", || fs::rename(&self.path, &path))
            .map_err(writing(&path))?;
        Ok(self.length)
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

    fn entries(blobs: &Blobs) -> usize {
        fs::read_dir(&blobs.dir).unwrap().count()
    }

    #[test]
    fn a_blob_goes_on_after_a_restart() {
        let (_dir, blobs) = store();
        let digest = Digest::of(b"a model");
        let mut partial = blobs.partial(&digest, 7).unwrap();
        partial.append(b"a mo").unwrap();
        drop(partial);
        assert!(blobs.digests().unwrap().is_empty() && !blobs.contains(&digest));
        let again = Blobs::open(&blobs.dir).unwrap();
        let mut partial = again.partial(&digest, 7).unwrap();
        assert_eq!(partial.length(), 4);
        assert!(matches!(partial.append(b"dels"), Err(BlobError::TooLarge { limit: 7 })));
        partial.append(b"del").unwrap();
        assert_eq!(partial.finish().unwrap(), 7);
        assert_eq!(blobs.read(&digest, 7).unwrap(), b"a model");
        let mode = fs::metadata(blobs.path(&digest)).unwrap().permissions().mode();
        assert_eq!((mode & 0o777, entries(&blobs)), (0o600, 1));
    }

    #[test]
    fn a_part_of_something_else_is_removed_at_the_end() {
        let (_dir, blobs) = store();
        let digest = Digest::of(b"a model");
        fs::write(blobs.partial_path(&digest), b"poison").unwrap();
        let mut partial = blobs.partial(&digest, 100).unwrap();
        partial.append(b"l").unwrap();
        assert!(matches!(partial.finish(), Err(BlobError::Unexpected { .. })));
        assert_eq!(entries(&blobs), 0);
        assert_eq!(blobs.partial(&digest, 100).unwrap().length(), 0, "anew");
    }

    #[test]
    fn there_is_one_part_at_most_and_none_that_is_not_wanted() {
        let (_dir, blobs) = store();
        let [a, b] = [b"a", b"b"].map(|bytes| Digest::of(bytes));
        blobs.partial(&a, 9).unwrap().append(b"a").unwrap();
        blobs.partial(&b, 9).unwrap().append(b"b").unwrap();
        assert_eq!(entries(&blobs), 1);
        assert_eq!(blobs.partial(&b, 9).unwrap().length(), 1);
        fs::write(blobs.partial_path(&b), b"more than the limit").unwrap();
        assert_eq!(blobs.partial(&b, 9).unwrap().length(), 0);
        blobs.retain_partials(&BTreeSet::from([b])).unwrap();
        assert_eq!(entries(&blobs), 1);
        blobs.retain_partials(&BTreeSet::new()).unwrap();
        assert_eq!(entries(&blobs), 0);
    }
}
