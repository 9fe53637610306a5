//! Who may read a daemon's keys, and whom its files belong to. Looks at names and modes, never inside.

use std::{
    fs, io,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
};

use rustix::process::geteuid;

use super::Finding;

/// The most files whose owner is looked at.
const MAX_FILES: usize = 20_000;
/// The most key files.
const MAX_KEYS: usize = 64;

/// The user that a directory belongs to, against the one who asks.
pub struct User {
    /// The directory's.
    pub owner: u32,
    group: u32,
    own: u32,
}

impl User {
    /// # Errors
    /// A directory that cannot be looked at.
    pub fn of(dir: &Path) -> io::Result<Self> {
        let found = fs::metadata(dir)?;
        Ok(Self { owner: found.uid(), group: found.gid(), own: geteuid().as_raw() })
    }

    /// Whether who asks is the directory's own user. Nobody else should open it: files that root makes in
    /// it are in the daemon's way afterwards.
    pub fn is_owner(&self) -> bool {
        self.own == self.owner
    }

    /// Whether everything below `dir` belongs to its owner.
    pub fn files(&self, dir: &Path, program: &str) -> Finding {
        const CHECK: &str = "owner";
        let mut left = MAX_FILES;
        if let Some(foreign) = foreign(dir, self.owner, &mut left) {
            let what = format!("{} does not belong to user {}", foreign.display(), self.owner);
            let why = "another user, perhaps root, ran a command here; the daemon cannot change it";
            let fix = format!("chown -R {}:{} {}", self.owner, self.group, dir.display());
            return Finding::fail(CHECK, what, why, fix);
        }
        let what = format!("{} belongs to user {}", dir.display(), self.owner);
        if self.is_owner() {
            return Finding::ok(CHECK, what);
        }
        let what = format!("{what}, and this command runs as user {}", self.own);
        let why = "what only the daemon's own user may open was not looked at, unless it runs";
        let fix = format!("sudo -u '#{}' {program} doctor --dir {}", self.owner, dir.display());
        Finding::warn(CHECK, what, why, fix)
    }

    /// Whether only the owner can read the directory of the keys, what lies in it, and `others`. Those that
    /// are not there are another check's.
    pub fn keys(&self, dir: &Path, others: &[PathBuf]) -> Vec<Finding> {
        let inside = fs::read_dir(dir).into_iter().flatten().flatten().take(MAX_KEYS);
        let mut there: Vec<PathBuf> = inside.map(|entry| entry.path()).collect();
        there.extend(others.iter().filter(|path| path.exists()).cloned());
        there.sort();
        there.dedup();
        let mut findings: Vec<_> =
            there.iter().filter_map(|path| self.exposed(path, 0o600)).collect();
        findings.extend(self.exposed(dir, 0o700));
        if findings.is_empty() {
            let what =
                format!("{} key files in {}, for their owner alone", there.len(), dir.display());
            findings.push(Finding::ok("keys", what));
        }
        findings
    }

    /// What is wrong with who may read `path`.
    fn exposed(&self, path: &Path, wanted: u32) -> Option<Finding> {
        const CHECK: &str = "keys";
        let shown = path.display();
        let found = match fs::metadata(path) {
            Ok(found) => found,
            Err(error) => {
                let what = format!("{shown} cannot be looked at");
                let fix = format!("ls -ld {shown}; if it is gone, restore it from a backup");
                return Some(Finding::fail(CHECK, what, error.to_string(), fix));
            }
        };
        let mode = found.permissions().mode() & 0o777;
        if found.uid() != self.owner {
            let what = format!("{shown} belongs to user {}", found.uid());
            let fix = format!("chown {}:{} {shown}", self.owner, self.group);
            return Some(Finding::fail(CHECK, what, "the daemon's user is another", fix));
        }
        (mode & 0o077 != 0).then(|| {
            let what = format!("others can reach {shown} (mode {mode:o})");
            let why = "the daemon does not use such a key; whoever copied it can use it";
            let fix = format!("chmod {wanted:o} {shown}; replace the key if others could read it");
            Finding::fail(CHECK, what, why, fix)
        })
    }
}

/// The first file below `dir` that is not `owner`'s. What cannot be read is passed over: its mode or its
/// owner shows elsewhere.
fn foreign(dir: &Path, owner: u32, left: &mut usize) -> Option<PathBuf> {
    for entry in fs::read_dir(dir).ok()?.flatten() {
        *left = left.checked_sub(1)?;
        let Ok(found) = entry.metadata() else { continue };
        if found.uid() != owner {
            return Some(entry.path());
        }
        if found.is_dir()
            && let Some(found) = foreign(&entry.path(), owner, left)
        {
            return Some(found);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_that_others_can_read_is_named_with_its_fix() {
        let dir = tempfile::tempdir().unwrap();
        let key = dir.path().join("signing.key");
        fs::write(&key, "k").unwrap();
        let mode = |path: &Path, mode| {
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        };
        mode(&key, 0o600);
        mode(dir.path(), 0o700);
        let user = User::of(dir.path()).unwrap();
        let found = |user: &User| -> String {
            let found = user.keys(dir.path(), &[key.clone(), dir.path().join("not there")]);
            found.iter().map(ToString::to_string).collect()
        };
        assert!(found(&user).starts_with("ok    keys          1 key files"), "{}", found(&user));
        mode(&key, 0o644);
        let said = found(&user);
        assert!(said.starts_with("FAIL  keys") && said.contains("mode 644"), "{said}");
        assert!(said.contains(&format!("chmod 600 {}", key.display())), "{said}");
        mode(&key, 0o600);
        mode(dir.path(), 0o755);
        assert!(found(&user).contains("fix: chmod 700"));
        mode(dir.path(), 0o700);
        let other = User { owner: user.owner + 1, ..user };
        assert!(found(&other).contains("fix: chown"), "{}", found(&other));
    }

    #[test]
    fn files_of_another_user_are_found() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("a/b")).unwrap();
        let user = User::of(dir.path()).unwrap();
        assert!(user.files(dir.path(), "p").to_string().starts_with("ok    owner"));
        let other = User { own: user.own + 1, ..user };
        let said = other.files(dir.path(), "program").to_string();
        assert!(said.starts_with("WARN") && said.contains("sudo -u '#"), "{said}");
        let other = User { owner: other.owner + 1, ..other };
        let said = other.files(dir.path(), "program").to_string();
        assert!(said.starts_with("FAIL") && said.contains("fix: chown -R"), "{said}");
        assert!(foreign(dir.path(), other.owner, &mut 0).is_none(), "no more than allowed");
    }
}
