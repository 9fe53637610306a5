//! What a starting owner reads back: the state after the whole journal, and the documents in force.
//! Changes nothing on disk.

use std::sync::Arc;

use collegium_shared::{
    audit,
    clock::Timestamp,
    crypto::Digest,
    documents::SignedDocument,
    journal::{JournalError, Log},
    roster::{Registry, RootKey, VerifiedRoster},
};

use super::{Driver, DriverError};
use crate::{
    admin,
    network::{Event, Network},
    retention::Retention,
    store::{Snapshot, Store},
};

/// What the whole journal gives.
pub(super) struct Recovered {
    pub network: Network,
    pub retention: Retention,
    /// Of the last entry.
    pub last_at: Timestamp,
}

/// Reads the whole journal. The state comes from the view if it can be used, else from the beginning.
pub(super) fn recover(log: &Log<Event>, store: Option<&Store>) -> Result<Recovered, JournalError> {
    let usable = |s: &Snapshot| {
        let proof = log.history().consistency_proof(s.position, log.len()).ok().flatten();
        let prefix = |proof: Vec<Digest>| {
            audit::verify_consistency(s.position, &s.root, log.len(), &log.root(), &proof)
        };
        proof.is_some_and(prefix)
    };
    let (mut network, position) = match store.and_then(Store::load).filter(usable) {
        Some(snapshot) => (snapshot.network, snapshot.position),
        None => (Network::default(), 0),
    };
    let mut retention = Retention::default();
    let mut last_at = Timestamp::EPOCH;
    log.replay(|index, entry| -> Result<(), JournalError> {
        if index >= position {
            network.apply(&entry.event, entry.at);
        }
        retention.note(&entry.event);
        last_at = entry.at;
        Ok(())
    })?;
    Ok(Recovered { network, retention, last_at })
}

impl Driver {
    /// Reads the documents in force back into memory.
    pub(crate) fn load_documents(&mut self) -> anyhow::Result<()> {
        if let Some(in_force) = self.state.network.roster() {
            self.state.roster = Some(Arc::new(self.read_roster(&in_force.document)?));
        }
        if let Some(in_force) = self.state.network.registry() {
            self.state.registry = Some(Arc::new(self.read_registry(&in_force.document)?));
        }
        Ok(())
    }

    /// A registry that was accepted before.
    pub(crate) fn read_registry(&self, blob: &Digest) -> anyhow::Result<Registry> {
        let SignedDocument::Registry { root, signed } = self.document(blob)? else {
            anyhow::bail!("blob {blob} is not a registry");
        };
        let root = RootKey::pinned(root, &self.root_fingerprint()?)?;
        Ok(root.registry(&signed)?)
    }

    /// A roster that was accepted before; its expiry is not looked at.
    pub(crate) fn read_roster(&self, blob: &Digest) -> anyhow::Result<VerifiedRoster> {
        let SignedDocument::Roster { root, signed } = self.document(blob)? else {
            anyhow::bail!("blob {blob} is not a roster");
        };
        let root = RootKey::pinned(root, &self.root_fingerprint()?)?;
        Ok(root.roster_at_rest(&signed)?)
    }

    fn document(&self, blob: &Digest) -> anyhow::Result<SignedDocument> {
        Ok(serde_json::from_slice(&self.workshop.blobs.read(blob, admin::MAX_DOCUMENT)?)?)
    }

    fn root_fingerprint(&self) -> Result<Digest, DriverError> {
        self.state.network.root().map(|root| root.fingerprint()).ok_or(DriverError::NoRoot)
    }
}
