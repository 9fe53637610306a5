//! The vault key: where it comes from. Owns its two sources and their checks; never writes it anywhere
//! but into the one file that `create` is given.

use std::{io, path::Path};

use collegium_shared::{
    crypto::{self, CryptoError, Key, Secret},
    service::credential::Handed,
};

use super::VaultError;

/// The credential's name: `LoadCredentialEncrypted=vault-key:...` in the unit (systemd.exec(5)).
pub(crate) const CREDENTIAL: &str = "vault-key";

/// The 256-bit key under which a vault's learner keys are wrapped.
pub struct VaultKey(Key);

impl From<Key> for VaultKey {
    fn from(key: Key) -> Self {
        Self(key)
    }
}

impl VaultKey {
    /// Makes a key and writes it to `path` (32 bytes, mode 0600); refuses to overwrite. Whoever loses it
    /// loses the vault: it belongs in a backup other than the vault's.
    ///
    /// # Errors
    /// [`VaultError::Crypto`].
    pub fn create(path: &Path) -> Result<Self, VaultError> {
        let key = Key::random()?;
        crypto::write_secret(path, key.expose())?;
        Ok(Self(key))
    }

    /// Takes the key from the systemd credential `vault-key` if there is one, and else from `path`.
    /// Either holds 32 bytes, or 64 hexadecimal digits.
    ///
    /// # Errors
    /// [`VaultError::Crypto`] (among them a file that others can read), [`VaultError::NoKey`],
    /// [`VaultError::BadKey`].
    pub fn load(path: &Path) -> Result<Self, VaultError> {
        Self::load_with(&Handed::over(), path)
    }

    pub(super) fn load_with(handed: &Handed, path: &Path) -> Result<Self, VaultError> {
        match handed.find(CREDENTIAL)? {
            Some(bytes) => Self::decode(&bytes, Path::new("the credential vault-key")),
            None => match crypto::read_secret(path) {
                Err(CryptoError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                    Err(VaultError::NoKey { path: path.to_owned() })
                }
                read => Self::decode(&read?, path),
            },
        }
    }

    fn decode(bytes: &Secret<Vec<u8>>, path: &Path) -> Result<Self, VaultError> {
        let bytes = bytes.expose().as_slice();
        if let Ok(raw) = <[u8; 32]>::try_from(bytes) {
            return Ok(Self(Key::new(raw)));
        }
        let mut raw = [0; 32];
        hex::decode_to_slice(bytes.trim_ascii_end(), &mut raw)
            .map_err(|_| VaultError::BadKey { path: path.to_owned() })?;
        Ok(Self(Key::new(raw)))
    }

    /// A key for another use (named by `label`), which tells nothing about this one.
    pub fn derive(&self, label: &str) -> Key {
        crypto::derive(self.0.expose(), label, &[])
    }

    pub(super) fn key(&self) -> &Key {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use std::{
        fs::{self, Permissions},
        os::unix::fs::PermissionsExt,
    };

    use super::*;

    fn write(path: &Path, bytes: &[u8], mode: u32) {
        fs::write(path, bytes).unwrap();
        fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn created_key_loads_and_is_never_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        let key = VaultKey::create(&path).unwrap();
        let loaded = VaultKey::load_with(&Handed::default(), &path).unwrap();
        assert!(key.key().expose() == loaded.key().expose());
        assert!(VaultKey::create(&path).is_err());
    }

    #[test]
    fn credential_goes_before_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("key");
        write(&file, &[1; 32], 0o600);
        let handed = Handed::in_directory(dir.path());
        let none_yet = VaultKey::load_with(&handed, &file).unwrap();
        assert!(none_yet.key().expose() == &[1; 32]);
        let credential = dir.path().join(CREDENTIAL);
        write(&credential, b"\n", 0o440);
        let empty = VaultKey::load_with(&handed, &file).unwrap();
        assert!(empty.key().expose() == &[1; 32]);
        write(&credential, format!("{}\n", "02".repeat(32)).as_bytes(), 0o440);
        let key = VaultKey::load_with(&handed, &file).unwrap();
        assert!(key.key().expose() == &[2; 32]);
        write(&credential, &[2; 32], 0o444);
        let error = VaultKey::load_with(&handed, &file).err().unwrap();
        assert!(matches!(error, VaultError::Crypto(CryptoError::Exposed { .. })));
        write(&credential, &[2; 31], 0o440);
        let error = VaultKey::load_with(&handed, &file).err().unwrap();
        assert!(error.to_string().contains("credential vault-key"), "{error}");
    }

    #[test]
    fn exposed_short_or_missing_keys_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        let load = || VaultKey::load_with(&Handed::default(), &path).err().unwrap();
        assert!(matches!(load(), VaultError::NoKey { .. }));
        write(&path, &[1; 31], 0o600);
        assert!(matches!(load(), VaultError::BadKey { .. }));
        write(&path, &[1; 32], 0o640);
        assert!(matches!(load(), VaultError::Crypto(CryptoError::Exposed { .. })));
    }
}
