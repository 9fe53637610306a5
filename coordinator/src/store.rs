//! The view of the network's state on disk: a snapshot and the journal position that it reflects,
//! so that a start need not fold the whole journal. The only user of sled on this side, and never
//! the truth: a view that is missing, damaged or ahead of the journal is thrown away and made again.

use std::{fs, io, path::Path, sync::mpsc, thread, time::Duration};

use collegium_shared::crypto::Digest;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::network::Network;

pub mod check;
pub mod rebuild;

const KEY: &str = "network";
const MARK: &str = "view";
const VERSION: &str = env!("CARGO_PKG_VERSION");
/// How long closing the view may take.
const CLOSING: Duration = Duration::from_secs(5);

/// Why the view cannot be kept. Never fatal: the journal has everything.
#[derive(Debug, Error)]
pub enum StoreError {
    #[error("the view in {path} cannot be replaced: {source}")]
    Replace { path: String, source: io::Error },
    #[error("the view: {0}")]
    Sled(#[from] sled::Error),
    /// sled 0.34 panics on some damaged files.
    #[error("the view: sled stopped on damaged files")]
    Panicked,
    #[error("the view: a thread for sled cannot be started: {0}")]
    Thread(io::Error),
    #[error("the view is not in the expected form: {0}")]
    Form(#[from] serde_json::Error),
}

/// A snapshot of the state after `position` journal entries.
#[derive(Serialize, Deserialize)]
pub struct Snapshot {
    pub position: u64,
    /// The journal's root at that position.
    pub root: Digest,
    pub network: Network,
    /// The version that folded it: another one may fold the same events into more.
    #[serde(default)]
    made_by: String,
}

impl Snapshot {
    pub fn new(position: u64, root: Digest, network: Network) -> Self {
        Self { position, root, network, made_by: VERSION.to_owned() }
    }
}

/// What lies in the view's place.
pub enum Found {
    Nothing,
    /// With the reason.
    Damaged(String),
    Snapshot(Box<Snapshot>),
}

/// The view.
pub struct Store {
    db: Closing,
}

/// An open database. sled 0.34 flushes when it is dropped, and then waits for ever if a write of its
/// own went wrong (seen with its files gone): nothing that stops may wait for that.
struct Closing(Option<sled::Db>);

impl Closing {
    fn open(&self) -> sled::Result<&sled::Db> {
        self.0.as_ref().ok_or_else(|| sled::Error::Unsupported("the view is closed".into()))
    }
}

impl Drop for Closing {
    fn drop(&mut self) {
        let Some(db) = self.0.take() else { return };
        let (closed, told) = mpsc::channel();
        // Nobody waits for this thread but here.
        thread::spawn(move || {
            drop(db);
            // Heard by nobody after the time is up.
            let _ = closed.send(());
        });
        if told.recv_timeout(CLOSING).is_err() {
            tracing::warn!(
                "the view does not close; it is left as it is, the journal has everything"
            );
        }
    }
}

impl Store {
    /// Opens the view; one that will not open is removed first.
    pub fn open(dir: &Path) -> Result<Self, StoreError> {
        let db = match open_db(dir) {
            Ok(db) => db,
            Err(error) => {
                tracing::warn!(%error, "the view does not open; it is made again from the journal");
                remove(dir)?;
                open_db(dir)?
            }
        };
        let store = Self { db: Closing(Some(db)) };
        store.mark()?;
        Ok(store)
    }

    /// sled shows some damaged files as an empty database: one that is empty has at least this.
    fn mark(&self) -> Result<(), StoreError> {
        guarded(|| {
            let db = self.db.open()?;
            if db.insert(MARK, VERSION)?.is_none() {
                db.flush()?;
            }
            Ok(())
        })
    }

    /// Opens the view as it is and reads it, without repairing anything.
    pub fn look(dir: &Path) -> Found {
        if !dir.exists() {
            return Found::Nothing;
        }
        let looked = open_db(dir).and_then(|db| {
            let marked = guarded(|| db.contains_key(MARK))?;
            Ok((Self { db: Closing(Some(db)) }.read()?, marked))
        });
        match looked {
            Ok((Some(snapshot), _)) => Found::Snapshot(Box::new(snapshot)),
            Ok((None, true)) => Found::Nothing,
            Ok((None, false)) => Found::Damaged("the view's files hold nothing".into()),
            Err(error) => Found::Damaged(error.to_string()),
        }
    }

    /// The snapshot, unless there is none, it cannot be read, or another version made it.
    pub fn load(&self) -> Option<Snapshot> {
        let read = self.read().inspect_err(|error| {
            tracing::warn!(%error, "the view is unreadable; it is made again");
        });
        read.ok().flatten().filter(|snapshot| snapshot.made_by == VERSION)
    }

    fn read(&self) -> Result<Option<Snapshot>, StoreError> {
        let bytes = guarded(|| self.db.open()?.get(KEY))?;
        bytes.map(|bytes| Ok(serde_json::from_slice(&bytes)?)).transpose()
    }

    /// Replaces the snapshot, durably.
    pub fn save(&self, snapshot: &Snapshot) -> Result<(), StoreError> {
        let bytes = serde_json::to_vec(snapshot)?;
        guarded(|| {
            let db = self.db.open()?;
            db.insert(KEY, bytes)?;
            db.flush()
        })?;
        Ok(())
    }
}

/// Without sled's own flusher, which syncs twice a second whether there is anything to sync or not.
fn open_db(dir: &Path) -> Result<sled::Db, StoreError> {
    let config = sled::Config::new().path(dir).cache_capacity(1 << 20).flush_every_ms(None);
    guarded(|| config.open())
}

/// Calls sled on a thread that ends with the call. A thread keeps what sled replaced until it has 64
/// such things (crossbeam-epoch's bag), whatever their size, and gives them up when it ends: the threads
/// that this process keeps would each come to hold dozens of snapshots. A panic ends that thread only.
fn guarded<T: Send>(call: impl FnOnce() -> sled::Result<T> + Send) -> Result<T, StoreError> {
    thread::scope(|scope| {
        let thread = thread::Builder::new().name("view".to_owned()).spawn_scoped(scope, call);
        let called = thread.map_err(StoreError::Thread)?.join();
        Ok(called.map_err(|_| StoreError::Panicked)??)
    })
}

/// Removes a view; it need not be there.
fn remove(dir: &Path) -> Result<(), StoreError> {
    let removed = if dir.is_dir() { fs::remove_dir_all(dir) } else { fs::remove_file(dir) };
    match removed {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(StoreError::Replace { path: dir.display().to_string(), source })
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn snapshot(position: u64) -> Snapshot {
        Snapshot::new(position, Digest::of(b"root"), Network::default())
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
        assert!(matches!(Store::look(&path), Found::Damaged(_)));
        let store = Store::open(&path).unwrap();
        assert!(store.load().is_none_or(|s| s.position == 7));
        store.save(&snapshot(8)).unwrap();
        assert_eq!(store.load().unwrap().position, 8);
    }

    #[test]
    fn a_snapshot_of_another_version_is_not_gone_by() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        store.save(&Snapshot { made_by: "0.0.1".into(), ..snapshot(7) }).unwrap();
        assert!(store.load().is_none());
    }

    #[test]
    fn a_file_in_its_place_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("view");
        fs::write(&path, b"not a directory").unwrap();
        assert!(matches!(Store::look(&path), Found::Damaged(_)));
        assert!(Store::open(&path).unwrap().load().is_none());
        assert!(matches!(Store::look(&path), Found::Nothing));
    }
}
