//! What the vault seals and opens. Owns the key hierarchy and the associated data; touches no file.
//!
//! ```text
//! vault key -> tag key                learner id -> tag: no id stands on disk in the clear
//!           -> wrapping key (per log) seals each learner's random key, and the ends of imports
//! learner key                         seals that learner's records
//! ```
//! Everything is AES-256-GCM with a random 96-bit nonce. That is safe here because no key seals many
//! messages: a learner key one per import and compaction, the wrapping key (new with every log file) one
//! per learner and import; NIST SP 800-38D allows 2^32 random nonces per key. The associated data binds
//! log, kind, sequence and tag, so that an entry opens only where it was written. Sizes are not hidden: who
//! holds the disk sees how many learners there are and roughly how much each has answered.

use collegium_shared::crypto::{self, CryptoError, Digest, Key, Secret};
use serde::Serialize;

use super::{
    key::VaultKey,
    log::{Entry, Header, Kind, LogId, Tag},
};
use crate::records::{Features, Learner};

/// A learner's own key, and what must be known of a learner before any record is opened.
pub(super) struct LearnerKey {
    pub(super) key: Key,
    pub(super) held_out: bool,
}

/// One acknowledged import.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ImportRecord {
    /// SHA-256 of the imported file.
    pub source: Digest,
    /// Responses taken from it, less those erased since.
    pub rows: u64,
    /// Learners who had responses in it, less those erased since.
    pub learners: u64,
}

/// Seals and opens the entries of one log.
pub(super) struct Sealer {
    log: LogId,
    tags: Secret<[u8; 32]>,
    wrapping: Key,
}

impl Sealer {
    pub(super) fn new(key: &VaultKey, log: LogId) -> Self {
        let key = key.key().expose();
        Self {
            log,
            tags: crypto::derive(key, "collegium/v1/vault/tags", &[]),
            wrapping: crypto::derive(key, "collegium/v1/vault/wrapping", &[&log]),
        }
    }

    /// A header for a new log under this key.
    pub(super) fn header(key: &VaultKey) -> Result<Header, CryptoError> {
        let id = crypto::random()?;
        Ok(Header { id, key_check: key_check(key, &id) })
    }

    pub(super) fn fits(key: &VaultKey, header: &Header) -> bool {
        key_check(key, &header.id) == header.key_check
    }

    /// HKDF of the learner's id under a key of its own.
    pub(super) fn tag(&self, learner: &str) -> Tag {
        let tag = crypto::derive(
            self.tags.expose(),
            "collegium/v1/vault/learner-tag",
            &[learner.as_bytes()],
        );
        *tag.expose()
    }

    pub(super) fn seal_key(
        &self,
        sequence: u64,
        tag: Tag,
        learner: &LearnerKey,
    ) -> Result<Entry, CryptoError> {
        let mut plain = Vec::with_capacity(33);
        plain.extend_from_slice(learner.key.expose());
        plain.push(u8::from(learner.held_out));
        self.seal(Kind::Key, sequence, tag, &self.wrapping, &Secret::new(plain))
    }

    pub(super) fn open_key(&self, entry: &Entry) -> Result<LearnerKey, CryptoError> {
        let plain = self.open(Kind::Key, entry, &self.wrapping)?;
        match plain.expose().split_first_chunk() {
            Some((key, [held_out @ (0 | 1)])) => {
                Ok(LearnerKey { key: Key::new(*key), held_out: *held_out == 1 })
            }
            _ => Err(CryptoError::BadSeal),
        }
    }

    pub(super) fn seal_records(
        &self,
        sequence: u64,
        tag: Tag,
        key: &Key,
        records: &Learner,
    ) -> Result<Entry, CryptoError> {
        let mut plain = postcard::to_allocvec(records).map_err(|_| CryptoError::BadSeal)?;
        // Behind the rest, so that what was sealed before there were features is read as it was.
        if !records.features.is_empty() {
            let features = postcard::to_allocvec(&records.features);
            plain.extend(features.map_err(|_| CryptoError::BadSeal)?);
        }
        self.seal(Kind::Records, sequence, tag, key, &Secret::new(plain))
    }

    pub(super) fn open_records(&self, entry: &Entry, key: &Key) -> Result<Learner, CryptoError> {
        let plain = self.open(Kind::Records, entry, key)?;
        let read = || {
            let (records, rest) = postcard::take_from_bytes::<Learner>(plain.expose())?;
            let features = match rest {
                [] => Features::default(),
                rest => postcard::from_bytes(rest)?,
            };
            Ok::<_, postcard::Error>(Learner { features, ..records })
        };
        read().map_err(|_| CryptoError::BadSeal)
    }

    pub(super) fn seal_import(
        &self,
        sequence: u64,
        import: &ImportRecord,
    ) -> Result<Entry, CryptoError> {
        let mut plain = import.source.as_bytes().to_vec();
        plain.extend_from_slice(&import.rows.to_be_bytes());
        plain.extend_from_slice(&import.learners.to_be_bytes());
        self.seal(Kind::Import, sequence, [0; 32], &self.wrapping, &Secret::new(plain))
    }

    pub(super) fn open_import(&self, entry: &Entry) -> Result<ImportRecord, CryptoError> {
        let plain = self.open(Kind::Import, entry, &self.wrapping)?;
        let parts = || {
            let (source, rest) = plain.expose().split_first_chunk()?;
            let (rows, rest) = rest.split_first_chunk()?;
            let learners = rest.try_into().ok()?;
            Some(ImportRecord {
                source: Digest(*source),
                rows: u64::from_be_bytes(*rows),
                learners: u64::from_be_bytes(learners),
            })
        };
        parts().ok_or(CryptoError::BadSeal)
    }

    fn seal(
        &self,
        kind: Kind,
        sequence: u64,
        tag: Tag,
        key: &Key,
        plain: &Secret<Vec<u8>>,
    ) -> Result<Entry, CryptoError> {
        let nonce = crypto::random()?;
        let aad = self.associated(kind, sequence, &tag);
        let sealed = crypto::seal(key, nonce, &aad, plain.expose())?;
        Ok(Entry { kind, sequence, tag, nonce, sealed })
    }

    fn open(&self, kind: Kind, entry: &Entry, key: &Key) -> Result<Secret<Vec<u8>>, CryptoError> {
        // The kind comes from the caller: an entry never opens as another one.
        let aad = self.associated(kind, entry.sequence, &entry.tag);
        crypto::open(key, entry.nonce, &aad, &entry.sealed)
    }

    fn associated(&self, kind: Kind, sequence: u64, tag: &Tag) -> Vec<u8> {
        [b"collegium-vault/1".as_slice(), &self.log, &[kind.byte()], &sequence.to_be_bytes(), tag]
            .concat()
    }
}

/// Tells a wrong key from a damaged file, and nothing about the key.
fn key_check(key: &VaultKey, log: &LogId) -> [u8; 16] {
    *crypto::derive(key.key().expose(), "collegium/v1/vault/key-check", &[log]).expose()
}
