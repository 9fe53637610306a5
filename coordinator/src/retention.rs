//! Which blobs stay: what the state needs, every document and manifest that the log ever named, what the
//! open round starts from, and the last model of the newest task. All else in `blobs/` is a sum or a model
//! that was superseded, or that a crash left before an event named it. Decides; erases nothing (ADR 23).

use std::collections::{BTreeMap, BTreeSet};

use collegium_shared::{
    blobs::{BlobError, Blobs},
    crypto::Digest,
    protocol::Manifest,
    signed::Signed,
};
use thiserror::Error;

use crate::{
    network::{Event, Network, NetworkEvent},
    task::RELEASED,
};

/// The most bytes of a manifest: it names at most 256 uploads.
const MAX_MANIFEST: u64 = 1 << 20;

/// The blobs of a released model: weights, statistics and, without noise, support.
pub type Parts = Vec<Digest>;

/// Why it cannot be told what is needed. Then nothing may be erased.
#[derive(Debug, Error)]
pub enum Unsure {
    #[error(transparent)]
    Blob(#[from] BlobError),
    #[error("blob {0} is not a manifest; restore a backup")]
    NotAManifest(Digest),
}

/// What the manifest of a release names; none if the blob is something else.
pub fn parts(blobs: &Blobs, manifest: &Digest) -> Result<Option<Parts>, BlobError> {
    let json = blobs.read(manifest, MAX_MANIFEST)?;
    let signed = serde_json::from_slice::<Signed<Manifest>>(&json).ok();
    Ok(signed.map(|Signed { body, .. }| {
        [body.weights, body.statistics].into_iter().chain(body.support).collect()
    }))
}

/// What is seen of a directory whose daemon erases meanwhile what an earlier state needed: looks again, up
/// to `looks` times, while something had `vanished` and the log has grown since. `look` gives the number of
/// the log's entries first.
pub fn settled<T>(
    looks: usize,
    mut look: impl FnMut() -> (u64, T),
    vanished: impl Fn(&T) -> bool,
) -> T {
    let (mut entries, mut seen) = look();
    for _ in 1..looks {
        if !vanished(&seen) {
            break;
        }
        let before = entries;
        (entries, seen) = look();
        if entries == before {
            break;
        }
    }
    seen
}

/// What is known of the log beside the state it gives.
#[derive(Default)]
pub struct Retention {
    /// Rosters, registries and manifests, in force or not: small, and auditors may ask for them.
    documents: BTreeSet<Digest>,
    /// Of the manifests that were read.
    parts: BTreeMap<Digest, Parts>,
}

impl Retention {
    /// Every event of the log has to come by here.
    pub fn note(&mut self, event: &Event) {
        let Event::Network(event) = event else { return };
        match event {
            NetworkEvent::RosterImported { document, .. }
            | NetworkEvent::RosterWaits { document, .. }
            | NetworkEvent::RegistryWaits { document, .. }
            | NetworkEvent::RegistryImported { document, .. } => self.documents.insert(*document),
            NetworkEvent::ModelReleased { release } => {
                self.documents.extend(release.card);
                self.documents.insert(release.manifest)
            }
            _ => return,
        };
    }

    /// The blobs here that nobody needs, in no order, by the state after all events that came by. Only
    /// while nothing is being written that no event names yet.
    pub fn superseded(&mut self, network: &Network, blobs: &Blobs) -> Result<Vec<Digest>, Unsure> {
        let mut stays = BTreeSet::new();
        for (digest, what) in network.blobs() {
            stays.insert(digest);
            if what == RELEASED {
                stays.extend(self.parts(&digest, blobs)?);
            }
        }
        let open = network.open_round().map(|round| &round.plan().inputs);
        stays.extend(open.into_iter().flat_map(|inputs| inputs.iter()));
        let last = network.task().and_then(|task| task.candidate());
        stays.extend(last.map(|candidate| candidate.weights));
        let mut found = blobs.digests()?;
        found.retain(|digest| !stays.contains(digest) && !self.documents.contains(digest));
        Ok(found)
    }

    fn parts(&mut self, manifest: &Digest, blobs: &Blobs) -> Result<Parts, Unsure> {
        if let Some(parts) = self.parts.get(manifest) {
            return Ok(parts.clone());
        }
        let parts = parts(blobs, manifest)?.ok_or(Unsure::NotAManifest(*manifest))?;
        self.parts.insert(*manifest, parts.clone());
        Ok(parts)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use collegium_shared::{
        clock::Timestamp,
        crypto::SigningKey,
        ids::RoundId,
        protocol::{Cohort, Metrics},
    };

    use super::*;
    use crate::task::{Release, TaskEnding};

    struct Place {
        dir: tempfile::TempDir,
        blobs: Blobs,
        network: Network,
        retention: Retention,
    }

    impl Place {
        /// With a task under way.
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let blobs = Blobs::open(&dir.path().join("blobs")).unwrap();
            let (network, retention) = Default::default();
            let mut place = Self { dir, blobs, network, retention };
            let spec = toml::from_str("task = \"t\"\narchitecture = \"kt-logistic/1\"").unwrap();
            let (cohort, registry) = (Cohort::proposed(4), Digest::of(b"registry"));
            place.add(NetworkEvent::TaskStarted { spec, cohort, registry });
            place
        }

        fn add(&mut self, event: NetworkEvent) {
            let event = Event::Network(event);
            self.network.apply(&event, Timestamp::EPOCH);
            self.retention.note(&event);
        }

        fn release(&mut self, manifest: Digest) {
            let metrics = Metrics { responses: 1, auc: None, log_loss: None };
            let card = Some(self.put("a card"));
            let release = Release { version: 1, manifest, metrics, card };
            self.add(NetworkEvent::ModelReleased { release });
        }

        fn put(&self, what: &str) -> Digest {
            self.blobs.put(what.as_bytes()).unwrap()
        }

        fn superseded(&mut self) -> Result<Vec<Digest>, Unsure> {
            self.retention.superseded(&self.network, &self.blobs)
        }
    }

    fn manifest(place: &Place) -> (Digest, Parts) {
        let parts = ["weights", "support", "statistics"].map(|part| place.put(part));
        let [weights, support, statistics] = parts;
        let other = Digest::of(b"other");
        let manifest = Manifest {
            architecture: "kt-logistic/1".into(),
            version: 1,
            round: RoundId { task: "t".parse().unwrap(), round: 0, attempt: 0 },
            weights,
            layout: other,
            support: Some(support),
            statistics,
            privacy: None,
            cohort: Cohort::proposed(4),
            features: Vec::new(),
            parent: None,
            plan: other,
            roster: other,
            registry: other,
            uploads: Vec::new(),
            metrics: Metrics { responses: 1, auc: None, log_loss: None },
            released_at: Timestamp::EPOCH,
        };
        let key = SigningKey::from_pkcs8(SigningKey::generate_pkcs8().unwrap().expose()).unwrap();
        let json = serde_json::to_vec(&Signed::sign(manifest, &key)).unwrap();
        (place.blobs.put(&json).unwrap(), parts.to_vec())
    }

    #[test]
    fn what_a_release_names_and_its_card_stay_after_its_task_and_without_being_read_again() {
        let mut place = Place::new();
        let (released, parts) = manifest(&place);
        let sum = place.put("a sum");
        place.release(released);
        let ending = TaskEnding::Completed;
        place.add(NetworkEvent::TaskEnded { ending });
        assert_eq!(place.superseded().unwrap(), [sum]);
        fs::remove_file(place.dir.path().join("blobs").join(released.to_string())).unwrap();
        assert_eq!(place.superseded().unwrap(), [sum], "manifests never change");
        assert!(parts.iter().all(|part| place.blobs.contains(part)));
    }

    #[test]
    fn nothing_is_superseded_while_a_manifest_cannot_be_read() {
        for damaged in [false, true] {
            let mut place = Place::new();
            let (released, _) = manifest(&place);
            place.put("a sum");
            place.release(released);
            let path = place.dir.path().join("blobs").join(released.to_string());
            if damaged {
                fs::write(path, b"{}").unwrap();
            } else {
                fs::remove_file(path).unwrap();
            }
            assert!(matches!(place.superseded(), Err(Unsure::Blob(_))), "damaged: {damaged}");
        }
        let mut place = Place::new();
        let other = place.put("no manifest");
        place.release(other);
        place.put("a sum");
        assert!(matches!(place.superseded(), Err(Unsure::NotAManifest(named)) if named == other));
    }

    #[test]
    fn documents_stay_when_they_are_replaced() {
        let mut place = Place::new();
        let (registry, competencies, items) = (Digest::of(b"registry"), 1, 1);
        for version in 1..3 {
            let document = place.put(&format!("registry {version}"));
            place.add(NetworkEvent::RegistryImported {
                document,
                registry,
                version,
                competencies,
                items,
            });
            let document = place.put(&format!("roster {version}"));
            place.add(NetworkEvent::RosterWaits { document, version });
            let document = place.put(&format!("registry {}", version + 2));
            place.add(NetworkEvent::RegistryWaits { document, registry, version });
        }
        assert_eq!(place.superseded().unwrap(), []);
    }

    #[test]
    fn a_directory_is_looked_at_again_while_its_log_grows() {
        let looks = |entries: &[u64], there: usize| {
            let mut count = 0;
            let look = || {
                count += 1;
                (entries[count - 1], count > there)
            };
            let seen = settled(3, look, |found| !found);
            (count, seen)
        };
        assert_eq!(looks(&[4], 0), (1, true));
        assert_eq!(looks(&[4, 5, 6], 2), (3, true));
        assert_eq!(looks(&[4, 4], 9), (2, false), "it is missing");
        assert_eq!(looks(&[4, 5, 6], 9), (3, false), "bounded");
    }
}
