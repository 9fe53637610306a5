//! Files that survive a power cut: written beside their place, fsynced, renamed into it. Owns
//! this one recipe; knows nothing of what the files mean.

use std::{
    fmt,
    fs::{self, DirBuilder, File, OpenOptions},
    io,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use crate::{crypto, faults};

/// How the name of an unfinished file starts.
const UNFINISHED: &str = ".unfinished-";

/// Creates `dir` and its missing parents, readable by the owner alone (mode 0700).
pub fn create_dir(dir: &Path) -> io::Result<()> {
    if dir.is_dir() {
        return Ok(());
    }
    let create = || DirBuilder::new().recursive(true).mode(0o700).create(dir);
    faults::step("create directory", create)
}

/// Makes names that were created, renamed or removed in `dir` durable.
pub fn sync_dir(dir: &Path) -> io::Result<()> {
    faults::step("sync directory", || File::open(dir)?.sync_all())
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
            match faults::step("remove unfinished", || fs::remove_file(entry.path())) {
                // Whoever left it removed it just now.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                other => other?,
            }
        }
    }
    Ok(())
}

/// Takes a file's name away at once and gives the one that it has meanwhile: that of an unfinished file,
/// so that [`remove_unfinished`] removes what a crash leaves. Not durable.
pub fn set_aside(path: &Path) -> io::Result<PathBuf> {
    let aside = unfinished(parent(path))?;
    faults::step(format_args!("set aside {}", Kind(path)), || fs::rename(path, &aside))?;
    Ok(aside)
}

fn unfinished(dir: &Path) -> io::Result<PathBuf> {
    let name = crypto::random::<8>().map_err(io::Error::other)?;
    Ok(dir.join(format!("{UNFINISHED}{}", hex::encode(name))))
}

fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => dir,
        _ => Path::new("."),
    }
}

/// What kind of file a path names: its folder for those that are named by digest alone, else its name
/// up to what numbers it.
struct Kind<'a>(&'a Path);

impl fmt::Display for Kind<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.0.file_stem().unwrap_or_default().to_string_lossy();
        let folder = || parent(self.0).file_name().unwrap_or_default().to_string_lossy();
        let digest = name.len() == 64 && name.bytes().all(|b| b.is_ascii_hexdigit());
        let name = if digest { folder() } else { name.clone() };
        f.write_str(name.split('-').next().unwrap_or_default())
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
        let path = unfinished(dir)?;
        let create = || OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
        let file = faults::step("create file", create)?;
        Ok(Self { file, path, persisted: false })
    }

    /// Appends `bytes`.
    pub fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        faults::write_all(&mut self.file, bytes, "write file")
    }

    /// Makes the content durable, still without a name.
    pub fn sync(&self) -> io::Result<()> {
        faults::step("sync file", || self.file.sync_all())
    }

    /// Makes the content durable and gives it the name `path`, in the same directory.
    pub fn persist(self, path: &Path) -> io::Result<()> {
        faults::step(format_args!("sync {}", Kind(path)), || self.file.sync_all())?;
        self.rename(path)?;
        sync_dir(parent(path))
    }

    /// Gives the content the name `path` at once, to become durable when the system sees fit:
    /// after a power cut the file may be empty or an older one.
    pub fn rename(mut self, path: &Path) -> io::Result<()> {
        faults::step(format_args!("rename {}", Kind(path)), || fs::rename(&self.path, path))?;
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
    use std::os::{
        fd::OwnedFd,
        unix::{fs::PermissionsExt, net::UnixStream},
    };

    use super::*;

    #[test]
    fn files_are_named_by_kind() {
        let digest = crypto::Digest([7; 32]);
        let kind = |path: &str| Kind(Path::new(path)).to_string();
        assert_eq!(kind(&format!("/x/blobs/{digest}")), "blobs");
        assert_eq!(kind(&format!("documents/{digest}.json")), "documents");
        assert_eq!(kind(&format!("/r/t-1-2/share-{digest}")), "share");
        assert_eq!(kind("/x/journal/checkpoint"), "checkpoint");
    }

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
    fn what_could_not_be_synced_gets_no_name_and_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let mut unfinished = Unfinished::create(dir.path()).unwrap();
        // A socket cannot be synced.
        unfinished.file = File::from(OwnedFd::from(UnixStream::pair().unwrap().0));
        unfinished.persist(&dir.path().join("f")).unwrap_err();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn leftovers_of_a_crash_are_removed() {
        let dir = tempfile::tempdir().unwrap();
        std::mem::forget(Unfinished::create(dir.path()).unwrap());
        write(&dir.path().join("going"), b"x").unwrap();
        set_aside(&dir.path().join("going")).unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2);
        write(&dir.path().join("kept"), b"x").unwrap();
        remove_unfinished(dir.path()).unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
