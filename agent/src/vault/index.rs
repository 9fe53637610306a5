//! The vault's index: learner tag to the places of that learner's entries. The agent's only use of sled.
//! A view: whatever happens to it, the log has it all, and `rebuild` makes it anew.
//!
//! sled 0.34 panics on some damaged files. Each call catches that and answers with an error; the index is
//! then thrown away as a whole.

use std::{
    collections::BTreeMap,
    fs, io,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
};

use collegium_shared::crypto::Digest;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::log::{LogId, Tag};

/// Beside the 32-byte tags.
const META: &[u8] = b"meta";
/// Learners written at once.
const BATCH: usize = 4_096;

#[derive(Debug, Error)]
pub(super) enum IndexError {
    #[error("sled: {0}")]
    Sled(#[from] sled::Error),
    #[error("sled stopped on damaged files")]
    Panicked,
    #[error("an entry is not in the expected form")]
    Malformed,
    #[error("it cannot be removed: {0}")]
    Stuck(io::Error),
}

/// The log that an index reflects, and how much of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Meta {
    pub(super) log: LogId,
    pub(super) length: u64,
    pub(super) chain: Digest,
    pub(super) learners: u64,
}

/// Offsets of a learner's entries: the key's, then those of records.
pub(super) type Places = Vec<u64>;

pub(super) struct Index {
    backing: Backing,
}

enum Backing {
    Sled(sled::Db),
    /// For as long as the process lives, where sled cannot be used at all.
    Memory(BTreeMap<Tag, Places>),
}

impl Index {
    /// Opens what is there, or an empty index.
    pub(super) fn open(dir: &Path) -> Result<Self, IndexError> {
        let config = sled::Config::new()
            .path(dir)
            .cache_capacity(32 << 20)
            .mode(sled::Mode::LowSpace)
            .flush_every_ms(None);
        let db = guarded(|| config.open())?;
        Ok(Self { backing: Backing::Sled(db) })
    }

    /// Removes the directory and writes the index again.
    pub(super) fn rebuild(
        dir: &Path,
        places: &BTreeMap<Tag, Places>,
        meta: &Meta,
    ) -> Result<Self, IndexError> {
        remove(dir).map_err(IndexError::Stuck)?;
        let index = Self::open(dir)?;
        index.write(places, meta)?;
        Ok(index)
    }

    pub(super) fn in_memory(places: BTreeMap<Tag, Places>) -> Self {
        Self { backing: Backing::Memory(places) }
    }

    /// What the index reflects; `None` for an index that was never finished.
    pub(super) fn meta(&self) -> Result<Option<Meta>, IndexError> {
        let Backing::Sled(db) = &self.backing else { return Ok(None) };
        guarded(|| db.get(META))?
            .map(|bytes| postcard::from_bytes(&bytes).map_err(|_| IndexError::Malformed))
            .transpose()
    }

    /// Learners in it, counted one by one.
    pub(super) fn count(&self) -> Result<u64, IndexError> {
        match &self.backing {
            Backing::Memory(places) => Ok(places.len() as u64),
            Backing::Sled(db) => guarded(|| {
                db.iter().keys().try_fold(0, |n, key| key.map(|k| n + u64::from(k.len() == 32)))
            }),
        }
    }

    pub(super) fn places(&self, tag: &Tag) -> Result<Option<Places>, IndexError> {
        match &self.backing {
            Backing::Memory(places) => Ok(places.get(tag).cloned()),
            Backing::Sled(db) => guarded(|| db.get(tag))?.map(|bytes| decode(&bytes)).transpose(),
        }
    }

    /// Sets the places of some learners, durably. A crash within leaves `meta` as it was, behind the log.
    pub(super) fn update(
        &mut self,
        places: BTreeMap<Tag, Places>,
        meta: &Meta,
    ) -> Result<(), IndexError> {
        match &mut self.backing {
            Backing::Memory(known) => {
                known.extend(places);
                Ok(())
            }
            Backing::Sled(_) => self.write(&places, meta),
        }
    }

    fn write(&self, places: &BTreeMap<Tag, Places>, meta: &Meta) -> Result<(), IndexError> {
        let Backing::Sled(db) = &self.backing else { return Ok(()) };
        let meta = postcard::to_allocvec(meta).map_err(|_| IndexError::Malformed)?;
        guarded(|| {
            let entries: Vec<(&Tag, &Places)> = places.iter().collect();
            for chunk in entries.chunks(BATCH) {
                let mut batch = sled::Batch::default();
                for (tag, places) in chunk {
                    batch.insert(tag.as_slice(), encode(places));
                }
                db.apply_batch(batch)?;
            }
            db.flush()?;
            db.insert(META, meta)?;
            db.flush()?;
            Ok(())
        })
    }
}

/// Removes an index; it need not be there.
pub(super) fn remove(dir: &Path) -> io::Result<()> {
    let removed = if dir.is_dir() { fs::remove_dir_all(dir) } else { fs::remove_file(dir) };
    match removed {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Where the index of a vault stands.
pub(super) fn path(vault: &Path) -> PathBuf {
    vault.join("index")
}

fn guarded<T>(call: impl FnOnce() -> sled::Result<T>) -> Result<T, IndexError> {
    catch_unwind(AssertUnwindSafe(call))
        .map_err(|_| IndexError::Panicked)?
        .map_err(IndexError::Sled)
}

fn encode(places: &[u64]) -> Vec<u8> {
    places.iter().flat_map(|offset| offset.to_be_bytes()).collect()
}

fn decode(bytes: &[u8]) -> Result<Places, IndexError> {
    let (chunks, rest) = bytes.as_chunks::<8>();
    if chunks.is_empty() || !rest.is_empty() {
        return Err(IndexError::Malformed);
    }
    Ok(chunks.iter().map(|chunk| u64::from_be_bytes(*chunk)).collect())
}
