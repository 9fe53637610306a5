//! The state folded anew from a journal that nobody writes, and the view made again from it. Reads
//! the journal and never changes it.

use std::path::Path;

use collegium_shared::{
    crypto::{Digest, VerifyingKey},
    journal::{self, History, JournalError},
};
use thiserror::Error;

use super::{Found, Snapshot, Store, StoreError, remove};
use crate::{
    network::{Event, Network},
    retention::Retention,
};

/// Why the view was not made again.
#[derive(Debug, Error)]
pub enum RebuildError {
    #[error(transparent)]
    Journal(#[from] JournalError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("the state cannot be written as JSON: {0}")]
    Form(#[from] serde_json::Error),
}

/// The state after all entries, and after the first `at` of them if there are as many.
pub struct Folded {
    pub network: Network,
    pub earlier: Option<Network>,
    /// Knows all entries.
    pub retention: Retention,
}

/// Folds the journal from its first entry.
pub fn fold(history: &History, at: Option<u64>) -> Result<Folded, JournalError> {
    let mut network = Network::default();
    let mut retention = Retention::default();
    let mut earlier = (at == Some(0)).then(Network::default);
    journal::replay::<Event, JournalError>(history, |index, entry| {
        network.apply(&entry.event, entry.at);
        retention.note(&entry.event);
        if at == Some(index + 1) {
            earlier = Some(network.clone());
        }
        Ok(())
    })?;
    Ok(Folded { network, earlier, retention })
}

/// The view as it was before.
#[derive(Debug, PartialEq, Eq)]
pub enum Before {
    Missing,
    /// With the reason.
    Damaged(String),
    /// It stood at an entry of this journal.
    Sound {
        position: u64,
        state: Digest,
    },
    /// It does not hold what the journal's first `position` entries give.
    Wrong {
        position: u64,
        state: Digest,
    },
}

impl Before {
    /// Judges what was found by the entries that it claims to reflect.
    pub fn judge(
        found: &Found,
        history: &History,
        folded: &Folded,
    ) -> Result<Self, serde_json::Error> {
        let snapshot = match found {
            Found::Nothing => return Ok(Self::Missing),
            Found::Damaged(reason) => return Ok(Self::Damaged(reason.clone())),
            Found::Snapshot(snapshot) => snapshot,
        };
        let (position, state) = (snapshot.position, snapshot.network.digest()?);
        let same_log = position <= history.size()
            && history.root_at(position).is_ok_and(|root| root == snapshot.root);
        let expected = folded.earlier.as_ref().map(Network::digest).transpose()?;
        Ok(if same_log && expected == Some(state) {
            Self::Sound { position, state }
        } else {
            Self::Wrong { position, state }
        })
    }

    /// The entry up to which a found view says that it reflects the journal.
    pub fn position(found: &Found) -> Option<u64> {
        match found {
            Found::Snapshot(snapshot) => Some(snapshot.position),
            Found::Nothing | Found::Damaged(_) => None,
        }
    }
}

/// What was rebuilt.
#[derive(Debug)]
pub struct Rebuilt {
    pub before: Before,
    pub entries: u64,
    pub root: Digest,
    /// Digest of the state.
    pub state: Digest,
}

/// Deletes the view in `dir` and makes it again from the journal beside it, whose log `key` signs.
/// Refused while a daemon runs on the directory.
pub fn rebuild(dir: &Path, key: &VerifyingKey) -> Result<Rebuilt, RebuildError> {
    let journal = dir.join("journal");
    let _held = journal::hold(&journal)?;
    let history = History::read(&journal, key).map_err(JournalError::from)?;
    let view = dir.join("view");
    let found = Store::look(&view);
    let folded = fold(&history, Before::position(&found))?;
    let before = Before::judge(&found, &history, &folded)?;
    let state = folded.network.digest()?;
    remove(&view)?;
    write(&view, &history, folded.network)?;
    Ok(Rebuilt { before, entries: history.size(), root: history.root(), state })
}

/// Writes a view of a state that was just folded, durably.
pub fn write(view: &Path, history: &History, network: Network) -> Result<(), StoreError> {
    let store = Store::open(view)?;
    store.save(&Snapshot::new(history.size(), history.root(), network))
}
