//! Secrets that the service manager hands over (systemd.exec(5), "Credentials"): small files in a directory
//! that only this service sees and that is gone when it stops. The only place that reads
//! `CREDENTIALS_DIRECTORY`; writes nothing.

use std::{
    env, fs::File, io, io::Read, os::unix::fs::PermissionsExt, path::Component, path::Path,
    path::PathBuf,
};

use crate::crypto::{self, CryptoError, Secret};

const DIRECTORY: &str = "CREDENTIALS_DIRECTORY";
/// What stands before a credential's name where a configuration could name a file.
const PREFIX: &str = "credential:";
/// The most bytes of a credential here; systemd's own bound is 1 MiB for all.
const MAX_CREDENTIAL: u64 = 64 << 10;

/// Where the service manager put this service's credentials.
#[derive(Clone, Debug, Default)]
pub struct Handed(Option<PathBuf>);

impl Handed {
    /// What this process was handed.
    pub fn over() -> Self {
        Self(env::var_os(DIRECTORY).map(PathBuf::from))
    }

    /// Credentials in `directory`.
    pub fn in_directory(directory: &Path) -> Self {
        Self(Some(directory.to_owned()))
    }

    /// The credential `name`; None if there is none. One without text counts as none: the units give that
    /// as the default of a credential that a site need not have (`SetCredential=NAME:\n`).
    ///
    /// # Errors
    /// [`CryptoError::Exposed`] if everybody can read it, [`CryptoError::Io`].
    pub fn find(&self, name: &str) -> Result<Option<Secret<Vec<u8>>>, CryptoError> {
        let Some(directory) = &self.0 else { return Ok(None) };
        match read(&directory.join(name)) {
            Ok(secret) => {
                Ok(Some(secret).filter(|secret| !secret.expose().trim_ascii().is_empty()))
            }
            Err(CryptoError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// The secret that a configuration names: `credential:NAME`, or a file that nobody else can read.
    ///
    /// # Errors
    /// [`CryptoError::NoCredential`], [`CryptoError::Exposed`], [`CryptoError::Io`].
    pub fn secret(&self, place: &Path) -> Result<Secret<Vec<u8>>, CryptoError> {
        let Some(name) = named(place) else { return crypto::read_secret(place) };
        // A name, and not a way out of the directory.
        let plain =
            matches!(Path::new(name).components().collect::<Vec<_>>()[..], [Component::Normal(_)]);
        let found = if plain { self.find(name)? } else { None };
        found.ok_or_else(|| CryptoError::NoCredential(name.to_owned()))
    }
}

/// The credential's name in `place`, if it names one and no file.
pub fn named(place: &Path) -> Option<&str> {
    place.to_str()?.strip_prefix(PREFIX)
}

/// systemd grants the service's user access by an ACL, whose mask shows in the group's bits: unlike for
/// other secret files, only the bits of everybody else say anything here.
fn read(path: &Path) -> Result<Secret<Vec<u8>>, CryptoError> {
    let io_error = |source| CryptoError::Io { path: path.display().to_string(), source };
    let file = File::open(path).map_err(io_error)?;
    let mode = file.metadata().map_err(io_error)?.permissions().mode() & 0o777;
    if mode & 0o007 != 0 {
        return Err(CryptoError::Exposed { path: path.display().to_string(), mode });
    }
    let mut bytes = Vec::with_capacity(128);
    file.take(MAX_CREDENTIAL).read_to_end(&mut bytes).map_err(io_error)?;
    Ok(Secret::new(bytes))
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};

    use super::*;

    fn write(path: &Path, bytes: &[u8], mode: u32) {
        fs::write(path, bytes).unwrap();
        fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn a_secret_is_a_credential_or_a_private_file() {
        let dir = tempfile::tempdir().unwrap();
        let handed = Handed::in_directory(dir.path());
        write(&dir.path().join("password"), b"a:b", 0o440);
        let secret = handed.secret(Path::new("credential:password")).unwrap();
        assert_eq!(secret.expose(), b"a:b");
        let file = dir.path().join("file");
        write(&file, b"c:d", 0o600);
        assert_eq!(handed.secret(&file).unwrap().expose(), b"c:d");
        write(&file, b"c:d", 0o640);
        assert!(matches!(handed.secret(&file), Err(CryptoError::Exposed { .. })));
    }

    #[test]
    fn a_credential_that_is_missing_empty_or_elsewhere_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let inner = dir.path().join("inner");
        fs::create_dir(&inner).unwrap();
        write(&dir.path().join("outside"), b"x", 0o600);
        write(&inner.join("empty"), b"\n", 0o440);
        for handed in [Handed::in_directory(&inner), Handed::default()] {
            for name in ["none", "empty", "", "..", "../outside", "/etc/hostname"] {
                let place = PathBuf::from(format!("credential:{name}"));
                let error = handed.secret(&place).err().unwrap();
                assert!(matches!(&error, CryptoError::NoCredential(told) if told == name));
                assert!(error.to_string().contains("LoadCredential"), "{error}");
            }
            assert!(handed.find("empty").unwrap().is_none());
        }
    }

    #[test]
    fn a_credential_that_everybody_can_read_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        write(&dir.path().join("open"), b"x", 0o444);
        let found = Handed::in_directory(dir.path()).find("open");
        assert!(matches!(found, Err(CryptoError::Exposed { .. })));
    }
}
