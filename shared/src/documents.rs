//! The files by which the consortium's offline root and the two daemons exchange rosters and
//! registries. A signed document names the root that signed it, which proves nothing by itself:
//! readers compare that key with the one they pinned (`roster::RootKey`).

use std::{io, path::Path};

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use thiserror::Error;

use crate::{
    crypto::{Digest, VerifyingKey},
    durable,
    files::read_bounded,
    hand_over::SignedHandOver,
    roster::{Registry, Roster},
    signed::Signed,
};

/// The most bytes of a document: a registry of about half a million entries.
pub const MAX_DOCUMENT: u64 = 64 << 20;

/// What the root is asked to sign.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", content = "body", rename_all = "snake_case", deny_unknown_fields)]
pub enum UnsignedDocument {
    Roster(Roster),
    /// A roster with keys that the keys before them vouch for, for the root's keeper.
    RosterWithHandOvers {
        roster: Roster,
        hand_overs: Vec<SignedHandOver>,
    },
    Registry(Registry),
}

/// What the root signed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum SignedDocument {
    Roster { root: VerifyingKey, signed: Signed<Roster> },
    Registry { root: VerifyingKey, signed: Signed<Registry> },
}

impl SignedDocument {
    /// The root that the document says it is from.
    pub fn root(&self) -> &VerifyingKey {
        match self {
            Self::Roster { root, .. } | Self::Registry { root, .. } => root,
        }
    }

    /// The digest of what was signed.
    pub fn digest(&self) -> Digest {
        match self {
            Self::Roster { signed, .. } => signed.digest(),
            Self::Registry { signed, .. } => signed.digest(),
        }
    }
}

/// The root's public key, as `root init` publishes it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RootPublic {
    pub root: VerifyingKey,
    /// What people compare out of band.
    pub fingerprint: Digest,
}

impl RootPublic {
    pub fn new(root: VerifyingKey) -> Self {
        Self { root, fingerprint: root.fingerprint() }
    }
}

/// Why a document file was not read or written.
#[derive(Debug, Error)]
pub enum DocumentError {
    #[error("{path}: {source}")]
    Io { path: String, source: io::Error },
    #[error("{path} is not such a document: {reason}")]
    Malformed { path: String, reason: String },
}

/// Reads a JSON document of at most [`MAX_DOCUMENT`] bytes.
pub fn read<T: DeserializeOwned>(path: &Path) -> Result<T, DocumentError> {
    let name = || path.display().to_string();
    let bytes = read_bounded(path, MAX_DOCUMENT)
        .map_err(|source| DocumentError::Io { path: name(), source })?;
    serde_json::from_slice(&bytes)
        .map_err(|e| DocumentError::Malformed { path: name(), reason: e.to_string() })
}

/// Writes a document as JSON that people can read. Durable when this returns.
pub fn write<T: Serialize>(path: &Path, document: &T) -> Result<(), DocumentError> {
    let io_error = |source| DocumentError::Io { path: path.display().to_string(), source };
    let mut json =
        serde_json::to_vec_pretty(document).map_err(|e| io_error(io::Error::other(e)))?;
    json.push(b'\n');
    durable::write(path, &json).map_err(io_error)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::crypto::SigningKey;

    fn registry() -> Registry {
        let names = |names: [&str; 2]| names.map(str::to_owned).into();
        Registry::new(1, names(["a", "b"]), names(["x", "y"])).unwrap()
    }

    #[test]
    fn documents_survive_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("d.json");
        let key = SigningKey::create(&dir.path().join("k")).unwrap();
        let signed = Signed::sign(registry(), &key);
        let document = SignedDocument::Registry { root: key.verifying_key(), signed };
        write(&path, &document).unwrap();
        let read: SignedDocument = read(&path).unwrap();
        assert_eq!(read, document);
        let SignedDocument::Registry { root, signed } = read else { panic!("not a registry") };
        assert!(signed.verify(&root).is_ok());
    }

    #[test]
    fn the_kinds_are_told_apart_and_unknown_keys_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("d.json");
        write(&path, &UnsignedDocument::Registry(registry())).unwrap();
        assert!(matches!(read(&path).unwrap(), UnsignedDocument::Registry(_)));
        assert!(read::<SignedDocument>(&path).is_err(), "unsigned is not signed");
        let text = fs::read_to_string(&path).unwrap();
        for (from, to) in [("registry", "roster"), ("\"version\"", "\"extra\": 1, \"version\"")] {
            fs::write(&path, text.replace(from, to)).unwrap();
            assert!(read::<UnsignedDocument>(&path).is_err(), "{to}");
        }
    }
}
