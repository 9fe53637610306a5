//! What the owner's key signs beside plans: the manifests of released models, and the log. Decides nothing
//! about models, nor when the key changes.

use std::path::Path;

use collegium_shared::{
    crypto::{Digest, SigningKey},
    hand_over::{SignedHandOver, countersigned_digest},
    journal::JournalError,
    protocol::{Manifest, Metrics},
    signed::Signed,
};

use super::Driver;
use crate::{
    aggregate::AggregateError,
    network::{Event, NetworkEvent},
    task::{Reference, Release, Withheld},
};

/// The most bytes of a manifest.
const MAX_MANIFEST: u64 = 1 << 20;

impl Driver {
    /// Signs and keeps the manifest of the candidate if it is good enough; the public start is only evaluated.
    pub(super) fn release(
        &self,
        step: u32,
        metrics: Metrics,
        noisy: Option<Reference>,
    ) -> Result<NetworkEvent, AggregateError> {
        let missing = AggregateError::Inconsistent("the candidate's lineage is incomplete");
        let task = self.state.network.task().ok_or(AggregateError::Inconsistent("no task"))?;
        if task.candidate().is_some_and(|candidate| candidate.made.is_none()) {
            return Ok(NetworkEvent::StartEvaluated { metrics });
        }
        if let Err(reason) = task.judge(&metrics, noisy) {
            tracing::warn!(task = %task.spec().task, step, reason, "the model is not released");
            return Ok(NetworkEvent::ModelWithheld {
                withheld: Withheld { step, metrics, reason },
            });
        }
        let version = task.version();
        let manifest = task.manifest(metrics, self.now()).ok_or(missing)?;
        let signed = Signed::sign(manifest, &self.key);
        let json = serde_json::to_vec(&signed)
            .map_err(|_| AggregateError::Inconsistent("the manifest cannot be written"))?;
        let manifest = self.workshop.blobs.put(&json)?;
        Ok(NetworkEvent::ModelReleased { release: Release { version, manifest, metrics } })
    }

    /// Vouches with the key in force for the newest release, if a key before it signed the manifest:
    /// agents that come late take it by that.
    pub(crate) fn countersign(&mut self) {
        let own = self.key.verifying_key();
        let by_earlier = |digest: &Digest| {
            let json = self.workshop.blobs.read(digest, MAX_MANIFEST).ok();
            let signed =
                json.and_then(|json| serde_json::from_slice::<Signed<Manifest>>(&json).ok());
            signed.is_some_and(|signed| signed.verify(&own).is_err())
        };
        let release = self.state.network.release().filter(by_earlier);
        self.state.countersigned =
            release.map(|digest| (digest, self.key.sign(countersigned_digest(&digest).as_bytes())));
    }

    /// Records that the log goes over to the key `next`, durably and after all that was recorded before.
    pub(crate) fn change_log_key(
        &mut self,
        hand_over: SignedHandOver,
        next: SigningKey,
    ) -> Result<(), JournalError> {
        let (at, hand_over) = (self.now(), Box::new(hand_over));
        let event = |taken| Event::Network(NetworkEvent::SigningKeyChanged { hand_over, taken });
        let entry = self.log.change_key(at, next, event)?;
        self.folded(&entry);
        Ok(())
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// The log's.
    pub(crate) fn origin(&self) -> &str {
        &self.origin
    }
}
