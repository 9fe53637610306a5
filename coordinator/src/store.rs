//! The view of the network's state on disk: a snapshot and the journal position that it reflects,
//! so that a start need not fold the whole journal. The only user of sled on this side, and never
//! the truth: a view that is missing, damaged or ahead of the journal is thrown away and made again.

use std::{fs, io, path::Path};

use collegium_shared::crypto::Digest;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::network::Network;

const KEY: &str = "network";

/// Why the view cannot be kept. Never fatal: the journal has everything.
#[derive(Debug, Error)]
pub enum StoreError {
    #[error("the view in {path} cannot be replaced: {source}")]
    Replace { path: String, source: io::Error },
    #[error("the view: {0}")]
    Sled(#[from] sled::Error),
    #[error("the view cannot be written: {0}")]
    Encode(#[from] serde_json::Error),
}

/// A snapshot of the state after `position` journal entries.
#[derive(Serialize, Deserialize)]
pub struct Snapshot {
    pub position: u64,
    /// The journal's root at that position.
    pub root: Digest,
    pub network: Network,
}

/// The view.
pub struct Store {
    db: sled::Db,
}

impl Store {
    /// Opens the view; one that will not open is removed first.
    pub fn open(dir: &Path) -> Result<Self, StoreError> {
        match open_db(dir) {
            Ok(db) => Ok(Self { db }),
            Err(error) => {
                tracing::warn!(%error, "the view does not open; it is made again from the journal");
                let replace =
                    |source| StoreError::Replace { path: dir.display().to_string(), source };
                let removed =
                    if dir.is_dir() { fs::remove_dir_all(dir) } else { fs::remove_file(dir) };
                removed.map_err(replace)?;
                Ok(Self { db: open_db(dir)? })
            }
        }
    }

    /// The snapshot, unless there is none or it cannot be read.
    pub fn load(&self) -> Option<Snapshot> {
        let bytes = self.db.get(KEY).ok().flatten()?;
        serde_json::from_slice(&bytes)
            .inspect_err(|error| tracing::warn!(%error, "the view is unreadable; it is made again"))
            .ok()
    }

    /// Replaces the snapshot. Not flushed at once: losing it costs a longer start.
    pub fn save(&self, snapshot: &Snapshot) -> Result<(), StoreError> {
        self.db.insert(KEY, serde_json::to_vec(snapshot)?)?;
        Ok(())
    }
}

fn open_db(dir: &Path) -> Result<sled::Db, sled::Error> {
    sled::Config::new().path(dir).cache_capacity(1 << 20).open()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn snapshot(position: u64) -> Snapshot {
        Snapshot { position, root: Digest::of(b"root"), network: Network::default() }
    }

    #[test]
    fn a_snapshot_survives_and_damage_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("view");
        Store::open(&path).unwrap().save(&snapshot(7)).unwrap();
        assert_eq!(Store::open(&path).unwrap().load().unwrap().position, 7);
        for entry in fs::read_dir(&path).unwrap() {
            let file = entry.unwrap().path();
            if file.is_file() {
                fs::write(file, b"garbage").unwrap();
            }
        }
        let store = Store::open(&path).unwrap();
        assert!(store.load().is_none_or(|s| s.position == 7));
        store.save(&snapshot(8)).unwrap();
        assert_eq!(store.load().unwrap().position, 8);
    }

    #[test]
    fn a_file_in_its_place_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("view");
        fs::write(&path, b"not a directory").unwrap();
        assert!(Store::open(&path).unwrap().load().is_none());
    }
}
