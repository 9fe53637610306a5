//! The lives of the coordinator's certificate authorities: which are in force, the signed statement
//! by which agents learn of a new one, and who still depends on the old one. The keys and files are
//! `ca`'s.

use std::sync::Arc;

use collegium_shared::{
    credentials::Authorities, crypto::Digest, ids::InstitutionId, journal::JournalError,
    signed::Signed,
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::{
    ca::Ca,
    driver::Driver,
    network::{Event, Network, NetworkEvent},
};

/// The authorities in force, once the first one was replaced.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuthoritiesInForce {
    /// Of the statement; each change makes it one more.
    pub version: u64,
    /// SHA-256 of each certificate, the issuing one first.
    pub certificates: Vec<Digest>,
}

impl Network {
    /// The institutions that lose their connection when every authority but `issuing` goes.
    pub fn on_older_authority(&self, issuing: &Digest) -> Vec<InstitutionId> {
        let older = |(_, enrolled): &(&InstitutionId, &crate::network::Enrolled)| {
            enrolled.revoked.is_none() && enrolled.authority != Some(*issuing)
        };
        self.institutions().iter().filter(older).map(|(name, _)| name.clone()).collect()
    }
}

impl Driver {
    /// Makes a new authority beside the one in force.
    pub(crate) fn rotate_authority(&mut self) -> Result<Result<Value, String>, JournalError> {
        match self.ca.current().rotate(self.now()) {
            Ok(ca) => self.put_in_force(ca),
            Err(error) => Ok(Err(error.to_string())),
        }
    }

    /// Lets the older authority go. Refuses while somebody depends on it, unless `force`.
    pub(crate) fn retire_authority(
        &mut self,
        force: bool,
    ) -> Result<Result<Value, String>, JournalError> {
        let ca = self.ca.current();
        let waiting = self.state.network.on_older_authority(&ca.issuing());
        if !waiting.is_empty() && ca.certificates().len() > 1 && !force {
            let names: Vec<&str> = waiting.iter().map(InstitutionId::as_str).collect();
            return Ok(Err(format!(
                "these have no certificate of the new authority yet: {}. Wait until their agents have run, or let them go with --force: they then need a new invitation and reenrol",
                names.join(", ")
            )));
        }
        match ca.retire() {
            Ok(ca) => self.put_in_force(ca),
            Err(error) => Ok(Err(error.to_string())),
        }
    }

    fn put_in_force(&mut self, ca: Ca) -> Result<Result<Value, String>, JournalError> {
        self.ca.replace(ca);
        self.record_authorities()?;
        let ca = self.ca.current();
        let waiting = self.state.network.on_older_authority(&ca.issuing());
        Ok(Ok(json!({ "authorities": ca.digests(), "waiting_for": waiting })))
    }

    /// Records what is in force if the log does not say so yet: also after a crash between the files
    /// and the log.
    pub(crate) fn record_authorities(&mut self) -> Result<(), JournalError> {
        let certificates = self.ca.current().digests();
        let known = match self.state.network.authorities() {
            Some(in_force) => in_force.certificates == certificates,
            None => certificates.len() == 1,
        };
        if !known {
            self.record(Event::Network(NetworkEvent::AuthoritiesChanged { certificates }))?;
        }
        self.sign_authorities();
        Ok(())
    }

    /// Makes the statement for agents, with the key that is on the roster.
    pub(crate) fn sign_authorities(&mut self) {
        let in_force = self.state.network.authorities();
        self.state.authorities = in_force.map(|in_force| {
            let certificates = self.ca.current().certificate_pems();
            let statement = Authorities { version: in_force.version, certificates };
            Arc::new(Signed::sign(statement, &self.key))
        });
    }
}
