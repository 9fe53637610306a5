//! Files that survive a power cut: written beside their place, fsynced, renamed into it. Owns
//! this one recipe; knows nothing of what the files mean.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use crate::crypto;

/// How the name of an unfinished file starts.
const UNFINISHED: &str = ".unfinished-";

/// Creates `dir` and its missing parents, readable by the owner alone (mode 0700).
pub fn create_dir(dir: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir)
}

/// Makes names that were created, renamed or removed in `dir` durable.
pub fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

/// Replaces or creates `path` (mode 0600) so that after a crash it holds either what it held
/// before or all of `bytes`. Durable when this returns.
pub fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = Unfinished::create(parent(path))?;
    file.write_all(bytes)?;
    file.persist(path)
}

/// Removes what a crash left unfinished in `dir`. Only the directory's one owner may call it.
pub fn remove_unfinished(dir: &Path) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with(UNFINISHED) {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => dir,
        _ => Path::new("."),
    }
}

/// A file that has no name of its own yet; dropped before it is persisted, it is removed.
pub struct Unfinished {
    file: File,
    path: PathBuf,
    persisted: bool,
}

impl Unfinished {
    /// A new empty file (mode 0600) in `dir`.
    pub fn create(dir: &Path) -> io::Result<Self> {
        let name = crypto::random::<8>().map_err(io::Error::other)?;
        let path = dir.join(format!("{UNFINISHED}{}", hex::encode(name)));
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
        Ok(Self { file, path, persisted: false })
    }

    /// Appends `bytes`.
    pub fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all(bytes)
    }

    /// Makes the content durable and gives it the name `path`, in the same directory.
    pub fn persist(self, path: &Path) -> io::Result<()> {
        self.file.sync_all()?;
        self.rename(path)?;
        sync_dir(parent(path))
    }

    /// Gives the content the name `path` at once, to become durable when the system sees fit:
    /// after a power cut the file may be empty or an older one.
    pub fn rename(mut self, path: &Path) -> io::Result<()> {
        fs::rename(&self.path, path)?;
        self.persisted = true;
        Ok(())
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        if !self.persisted {
            // Nothing to do about a failure here: the next start removes what is left.
            let _ = fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn writes_whole_private_files_and_leaves_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        write(&path, b"one").unwrap();
        write(&path, b"two").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"two");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        drop(Unfinished::create(dir.path()).unwrap());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn leftovers_of_a_crash_are_removed() {
        let dir = tempfile::tempdir().unwrap();
        std::mem::forget(Unfinished::create(dir.path()).unwrap());
        write(&dir.path().join("kept"), b"x").unwrap();
        remove_unfinished(dir.path()).unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
