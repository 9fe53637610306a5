//! The files of a signing key that is being replaced, beside a log that it signs. Owns the order of
//! writes by which a crash never leaves the log under a key that is not there; what has to happen before
//! the next key counts is its users'.
//!
//! ```text
//! NEXT       made first, durable before anything names it
//! (the log: signing_key_changed, sealed by the old key: from here on the next one counts)
//! PREVIOUS   the old key, moved away
//! KEY        then the next key takes its place; PREVIOUS goes when nobody needs it any more
//! ```

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use thiserror::Error;

use crate::{
    crypto::{CryptoError, SigningKey, VerifyingKey},
    durable, faults,
    journal::{self, Finding, History, JournalError},
};

/// Why the files of a key could not be read or moved.
#[derive(Debug, Error)]
pub enum KeyFilesError {
    #[error(transparent)]
    Key(#[from] CryptoError),
    #[error(transparent)]
    Journal(#[from] JournalError),
    #[error("{path} is not the key that the log names; restore it from a backup")]
    OtherKey { path: PathBuf },
    #[error("{path}: {source}")]
    Io { path: PathBuf, source: io::Error },
}

fn at(path: &Path) -> impl Fn(io::Error) -> KeyFilesError {
    move |source| KeyFilesError::Io { path: path.to_owned(), source }
}

/// Where a key, the next one and the one before lie: in one directory.
#[derive(Clone, Debug)]
pub struct KeyFiles {
    pub key: PathBuf,
    pub next: PathBuf,
    pub previous: PathBuf,
}

impl KeyFiles {
    /// The key `KEY.key`, with `KEY.next.key` and `KEY.previous.key` beside it.
    pub fn beside(key: PathBuf) -> Self {
        let [next, previous] =
            ["next.key", "previous.key"].map(|ending| key.with_extension(ending));
        Self { key, next, previous }
    }

    /// The next key, made now unless one waits already. Durable when this returns. One that is there and
    /// cannot be read is an error: a roster may name it.
    pub fn make_next(&self) -> Result<SigningKey, KeyFilesError> {
        if exists(&self.next)? {
            return Ok(SigningKey::load(&self.next)?);
        }
        let pkcs8 = SigningKey::generate_pkcs8()?;
        durable::write(&self.next, pkcs8.expose()).map_err(at(&self.next))?;
        Ok(SigningKey::from_pkcs8(pkcs8.expose())?)
    }

    /// The next key, which has to be `expected`.
    pub fn next(&self, expected: &VerifyingKey) -> Result<SigningKey, KeyFilesError> {
        let key = SigningKey::load(&self.next)?;
        if key.verifying_key() == *expected {
            Ok(key)
        } else {
            Err(KeyFilesError::OtherKey { path: self.next.clone() })
        }
    }

    /// Moves the old key away and the next one into its place. May be repeated from any point.
    pub fn move_into_place(&self) -> Result<(), KeyFilesError> {
        let rename = |from: &Path, to: &Path| {
            let rename = || fs::rename(from, to).and_then(|()| durable::sync_dir(folder(to)));
            faults::step("rename signing key", rename).map_err(at(to))
        };
        if exists(&self.key)? {
            rename(&self.key, &self.previous)?;
        }
        rename(&self.next, &self.key)
    }

    /// Removes the key before.
    pub fn destroy_previous(&self) -> Result<(), KeyFilesError> {
        let remove = || match fs::remove_file(&self.previous) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => durable::sync_dir(folder(&self.previous)),
        };
        faults::step("remove signing key", remove).map_err(at(&self.previous))
    }

    /// Does what is left of a replacement that a crash interrupted: forward if the log in `journal` says
    /// that the next key counts, else nothing. Takes the log's lock meanwhile. A key that is there and
    /// cannot be read is an error, and nothing is moved.
    pub fn finish(&self, journal: &Path) -> Result<(), KeyFilesError> {
        if !exists(&self.next)? {
            return Ok(());
        }
        let _held = journal::hold(journal)?;
        if self.next_counts(journal)? { self.move_into_place() } else { Ok(()) }
    }

    /// The public key that verifies the log in `journal`, at any moment of a replacement.
    pub fn log_key(&self, journal: &Path) -> Result<VerifyingKey, CryptoError> {
        let path = if self.next_counts(journal)? { &self.next } else { &self.key };
        Ok(SigningKey::load(path)?.verifying_key())
    }

    /// Whether the log is the next key's already: the old one was moved away, or the log says so.
    fn next_counts(&self, journal: &Path) -> Result<bool, CryptoError> {
        if !exists(&self.next)? {
            return Ok(false);
        }
        if !exists(&self.key)? && exists(&self.previous)? {
            return Ok(true);
        }
        let current = SigningKey::load(&self.key)?.verifying_key();
        match History::read(journal, &current) {
            // Only now is the next key needed: one that cannot be read stops nobody before.
            Err(Finding::HandedOver { new, .. }) => {
                Ok(SigningKey::load(&self.next)?.verifying_key() == new)
            }
            _ => Ok(false),
        }
    }
}

/// Whether there is a file, which is not known of a directory that cannot be looked into.
fn exists(path: &Path) -> Result<bool, CryptoError> {
    path.try_exists().map_err(|source| CryptoError::Io { path: path.display().to_string(), source })
}

fn folder(path: &Path) -> &Path {
    path.parent().unwrap_or(Path::new("."))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_next_key_is_made_once_and_moved_from_any_point() {
        let dir = tempfile::tempdir().unwrap();
        let files = KeyFiles::beside(dir.path().join("signing.key"));
        assert_eq!(files.next, dir.path().join("signing.next.key"));
        let old = SigningKey::create(&files.key).unwrap().verifying_key();
        let next = files.make_next().unwrap().verifying_key();
        assert_eq!(files.make_next().unwrap().verifying_key(), next);
        assert!(files.next(&next).is_ok());
        assert!(matches!(files.next(&old), Err(KeyFilesError::OtherKey { .. })));
        for moved_away in [false, true] {
            let dir = tempfile::tempdir().unwrap();
            let other = KeyFiles::beside(dir.path().join("signing.key"));
            fs::copy(&files.key, if moved_away { &other.previous } else { &other.key }).unwrap();
            fs::copy(&files.next, &other.next).unwrap();
            other.move_into_place().unwrap();
            assert_eq!(SigningKey::load(&other.key).unwrap().verifying_key(), next);
            assert_eq!(SigningKey::load(&other.previous).unwrap().verifying_key(), old);
            assert!(!other.next.exists());
            other.destroy_previous().unwrap();
            other.destroy_previous().unwrap();
            assert!(!other.previous.exists());
        }
    }

    #[test]
    fn a_key_that_cannot_be_read_is_neither_replaced_nor_moved() {
        let dir = tempfile::tempdir().unwrap();
        let files = KeyFiles::beside(dir.path().join("signing.key"));
        let journal = dir.path().join("journal");
        fs::create_dir(&journal).unwrap();
        let old = SigningKey::create(&files.key).unwrap().verifying_key();
        let next = files.make_next().unwrap().verifying_key();
        let mode = |path: &Path, mode| {
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        };
        mode(&files.next, 0o644);
        assert!(matches!(files.make_next(), Err(KeyFilesError::Key(CryptoError::Exposed { .. }))));
        // The log does not name it, so the old one goes on.
        files.finish(&journal).unwrap();
        assert_eq!(files.log_key(&journal).unwrap(), old);
        mode(&files.next, 0o600);
        assert_eq!(files.make_next().unwrap().verifying_key(), next, "the same one");

        mode(&files.key, 0o640);
        assert!(matches!(files.log_key(&journal), Err(CryptoError::Exposed { .. })));
        assert!(files.finish(&journal).is_err());
        mode(&files.key, 0o600);
        assert_eq!(SigningKey::load(&files.key).unwrap().verifying_key(), old);
        // Lost, and not moved away: nothing says that the next one counts.
        let lost = dir.path().join("lost");
        fs::rename(&files.key, &lost).unwrap();
        assert!(files.log_key(&journal).is_err() && files.finish(&journal).is_err());
        assert!(files.next.exists() && !files.key.exists());
        fs::rename(&lost, &files.previous).unwrap();
        assert_eq!(files.log_key(&journal).unwrap(), next);
        files.finish(&journal).unwrap();
        assert_eq!(SigningKey::load(&files.key).unwrap().verifying_key(), next);
    }
}
