//! Reading files that people hand in, and setting up a directory in one step. Owns bounds on what
//! is read and the rule that a set-up that fails leaves nothing behind; writing single files is
//! `durable`'s.

use std::{
    fs, io,
    io::Read,
    path::{Path, PathBuf},
};

use thiserror::Error;

use crate::{crypto, durable};

/// How the name of a set-up that was not finished starts.
const UNFINISHED: &str = ".setup-";

/// Reads a file of at most `limit` bytes; a larger one is an error, not a shorter read.
pub fn read_bounded(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    fs::File::open(path)?.take(limit.saturating_add(1)).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit {
        let reason = format!("the file is larger than {limit} bytes");
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, reason));
    }
    Ok(bytes)
}

/// Why a directory was not set up.
#[derive(Debug, Error)]
pub enum SetupError {
    #[error(
        "{dir} is already initialised: it holds {marker}; choose another directory, or move this one away first"
    )]
    Initialised { dir: PathBuf, marker: &'static str },
    #[error(
        "{dir} is not empty: it holds {found}, but no {marker}; choose an empty or new directory, or move what is in it away"
    )]
    NotEmpty { dir: PathBuf, found: String, marker: &'static str },
    #[error("{path}: {source}")]
    Io { path: PathBuf, source: io::Error },
}

/// A directory that is being set up. Files are made under [`Setup::path`]; [`Setup::commit`] moves
/// them into place, the marker last, so that a directory with its marker is always complete.
/// Dropped before that, it removes what it made.
///
/// The work happens inside the directory rather than beside it, because the directory may be a
/// mount point or the only place that its owner can write to.
pub struct Setup {
    dir: PathBuf,
    staged: PathBuf,
    marker: &'static str,
    created: bool,
}

impl Setup {
    /// Starts to set up `dir`, which may exist but must be empty. `marker` is the file whose
    /// presence means that the directory is initialised.
    pub fn begin(dir: &Path, marker: &'static str) -> Result<Self, SetupError> {
        let at = |path: &Path| {
            let path = path.to_path_buf();
            move |source| SetupError::Io { path, source }
        };
        let created = !dir.exists();
        if !created {
            remove_leftovers(dir).map_err(at(dir))?;
            check_empty(dir, marker)?;
        }
        let name = crypto::random::<8>().map_err(|e| at(dir)(io::Error::other(e)))?;
        let staged = dir.join(format!("{UNFINISHED}{}", hex::encode(name)));
        let setup = Self { dir: dir.to_path_buf(), staged, marker, created };
        durable::create_dir(&setup.staged).map_err(at(&setup.staged))?;
        Ok(setup)
    }

    /// Where files are made until the set-up is committed.
    pub fn path(&self) -> &Path {
        &self.staged
    }

    /// Moves everything into place. Durable when this returns.
    pub fn commit(self) -> Result<(), SetupError> {
        self.move_into_place().map_err(|source| SetupError::Io { path: self.dir.clone(), source })
    }

    fn move_into_place(&self) -> io::Result<()> {
        sync_tree(&self.staged)?;
        for entry in fs::read_dir(&self.staged)? {
            let entry = entry?;
            if entry.file_name() != self.marker {
                fs::rename(entry.path(), self.dir.join(entry.file_name()))?;
            }
        }
        durable::sync_dir(&self.dir)?;
        fs::rename(self.staged.join(self.marker), self.dir.join(self.marker))?;
        durable::sync_dir(&self.dir)
    }
}

impl Drop for Setup {
    fn drop(&mut self) {
        // What cannot be removed here carries a name that the next attempt removes.
        let _ = fs::remove_dir_all(&self.staged);
        if self.created {
            // Fails, as it should, when the set-up was committed.
            let _ = fs::remove_dir(&self.dir);
        }
    }
}

fn remove_leftovers(dir: &Path) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with(UNFINISHED) {
            fs::remove_dir_all(entry.path())?;
        }
    }
    Ok(())
}

fn check_empty(dir: &Path, marker: &'static str) -> Result<(), SetupError> {
    let io_error = |source| SetupError::Io { path: dir.to_path_buf(), source };
    if dir.join(marker).exists() {
        return Err(SetupError::Initialised { dir: dir.to_path_buf(), marker });
    }
    // A new file system has its lost+found at the top: that is still empty.
    let names = fs::read_dir(dir).map_err(io_error)?.map(|e| e.map(|e| e.file_name()));
    for name in names {
        let name = name.map_err(io_error)?.to_string_lossy().into_owned();
        if name != "lost+found" {
            return Err(SetupError::NotEmpty { dir: dir.to_path_buf(), found: name, marker });
        }
    }
    Ok(())
}

fn sync_tree(dir: &Path) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            sync_tree(&entry.path())?;
        } else {
            fs::File::open(entry.path())?.sync_all()?;
        }
    }
    durable::sync_dir(dir)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn names(dir: &Path) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(dir)
            .unwrap()
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn a_file_over_the_limit_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        fs::write(&path, b"12345").unwrap();
        assert_eq!(read_bounded(&path, 5).unwrap(), b"12345");
        assert_eq!(read_bounded(&path, 4).unwrap_err().kind(), io::ErrorKind::FileTooLarge);
    }

    #[test]
    fn a_committed_setup_is_complete_and_private() {
        let parent = tempfile::tempdir().unwrap();
        let dir = parent.path().join("d");
        let setup = Setup::begin(&dir, "marker").unwrap();
        durable::create_dir(&setup.path().join("keys")).unwrap();
        fs::write(setup.path().join("keys/k"), b"k").unwrap();
        fs::write(setup.path().join("marker"), b"m").unwrap();
        assert!(!dir.join("marker").exists());
        setup.commit().unwrap();
        assert_eq!(names(&dir), ["keys", "marker"]);
        assert_eq!(fs::metadata(&dir).unwrap().permissions().mode() & 0o777, 0o700);
        let again = Setup::begin(&dir, "marker");
        assert!(matches!(again, Err(SetupError::Initialised { .. })));
        assert_eq!(names(&dir), ["keys", "marker"]);
    }

    #[test]
    fn a_setup_that_fails_leaves_nothing() {
        let parent = tempfile::tempdir().unwrap();
        let dir = parent.path().join("d");
        let setup = Setup::begin(&dir, "marker").unwrap();
        fs::write(setup.path().join("f"), b"x").unwrap();
        drop(setup);
        assert!(!dir.exists());
        fs::create_dir(&dir).unwrap();
        drop(Setup::begin(&dir, "marker").unwrap());
        assert!(names(&dir).is_empty(), "a directory that was there stays");
    }

    #[test]
    fn a_crashed_setup_is_cleared_and_foreign_files_are_left_alone() {
        let parent = tempfile::tempdir().unwrap();
        std::mem::forget(Setup::begin(parent.path(), "marker").unwrap());
        drop(Setup::begin(parent.path(), "marker").unwrap());
        assert!(names(parent.path()).is_empty());
        fs::write(parent.path().join("diary"), b"x").unwrap();
        let refused = Setup::begin(parent.path(), "marker");
        assert!(matches!(refused, Err(SetupError::NotEmpty { found, .. }) if found == "diary"));
    }
}
