//! Releases of an honest and of a dishonest coordinator, and models that change on disk.

use std::collections::BTreeSet;

use collegium_shared::{
    architecture::{self, Sums},
    clock::Timestamp,
    crypto::SigningKey,
    ids::RoundId,
    protocol::{Cohort, Metrics},
    roster::{RootKey, Roster},
};

use super::*;
use crate::{session::tests::key, state::LocalEvent};

/// Two competencies and two items, of which three institutions support all but one item.
struct Fixture {
    dir: tempfile::TempDir,
    blobs: Blobs,
    store: ModelStore,
    coordinator: SigningKey,
    roster: VerifiedRoster,
    registry: Registry,
    state: AgentState,
    parts: [Digest; 3],
}

fn sums(of: &[(&str, &[f64])]) -> Vec<u8> {
    let sums: Sums = of.iter().map(|(name, v)| ((*name).to_owned(), v.to_vec())).collect();
    tensors::write_sums(&sums).unwrap()
}

fn registry_digest() -> Digest {
    Digest::of(b"registry")
}

impl Fixture {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (root, coordinator) = (key(), key());
        let roster = Roster {
            version: 1,
            previous: None,
            coordinator: coordinator.verifying_key(),
            issued_at: Timestamp::EPOCH,
            expires_at: Timestamp::from_millis(1_000),
            members: Vec::new(),
        };
        let public = root.verifying_key();
        let pinned = RootKey::pinned(public, &public.fingerprint()).unwrap();
        let names = |names: [&str; 2]| BTreeSet::from(names.map(str::to_owned));
        let registry = Registry::new(1, names(["k", "l"]), names(["x", "y"])).unwrap();
        let blobs = Blobs::open(&dir.path().join("blobs")).unwrap();
        let layout = architecture::layout(&registry.competencies);
        let weights = tensors::write_model(&layout, &layout.initial()).unwrap();
        let support = sums(&[("items", &[3.0, 1.0]), ("competencies", &[3.0, 3.0])]);
        let statistics = sums(&[
            ("base", &[9.0, 4.0]),
            ("skill_n", &[5.0, 4.0]),
            ("skill_c", &[2.0, 2.0]),
            ("item_n", &[9.0]),
            ("item_c", &[4.0]),
        ]);
        let parts = [&weights, &support, &statistics].map(|bytes| blobs.put(bytes).unwrap());
        Self {
            store: ModelStore::open(&dir.path().join("models")).unwrap(),
            roster: pinned.roster_at_rest(&Signed::sign(roster, &root)).unwrap(),
            state: AgentState::default(),
            dir,
            blobs,
            coordinator,
            registry,
            parts,
        }
    }

    fn manifest(&self, task: &str, version: u32, parent: Option<Digest>) -> Manifest {
        let layout = architecture::layout(&self.registry.competencies).digest().unwrap();
        let [weights, support, statistics] = self.parts;
        Manifest {
            architecture: "kt-logistic/1".into(),
            version,
            round: RoundId { task: task.parse().unwrap(), round: version, attempt: 0 },
            weights,
            layout,
            support: Some(support),
            statistics,
            privacy: None,
            cohort: Cohort { c_max: 1, min_honest: 2 },
            features: Vec::new(),
            parent,
            plan: Digest::of(b"plan"),
            roster: self.roster.digest(),
            registry: registry_digest(),
            uploads: vec![Digest::of(b"y")],
            metrics: Metrics { responses: 9, auc: Some(0.7), log_loss: Some(0.5) },
            released_at: Timestamp::from_millis(version.into()),
        }
    }

    fn check(&self, manifest: Manifest) -> Result<(Digest, Signed<Manifest>), InstallError> {
        let json = serde_json::to_vec(&Signed::sign(manifest, &self.coordinator)).unwrap();
        let digest = Digest::of(&json);
        check_manifest(
            &digest,
            &json,
            None,
            &self.roster,
            |digest| *digest == registry_digest(),
            &self.state,
        )
        .map(|signed| (digest, signed))
    }

    fn stage(&self, manifest: Manifest) -> Result<Installed, InstallError> {
        let (digest, signed) = self.check(manifest)?;
        let (installed, _) = self.store.stage(digest, &signed, &self.registry, &self.blobs)?;
        Ok(installed)
    }

    fn install(&mut self, manifest: Manifest) -> Installed {
        let model = self.stage(manifest).unwrap();
        let event = LocalEvent::ModelInstalled { model: model.clone() };
        self.state.apply(&event.into(), Timestamp::EPOCH);
        self.store.activate(&model, &self.state.standing_by()).unwrap();
        model
    }
}

#[test]
fn a_released_model_is_installed_and_the_one_before_is_kept() {
    let mut fixture = Fixture::new();
    let first = fixture.install(fixture.manifest("t", 1, None));
    let second = fixture.install(fixture.manifest("t", 2, Some(first.manifest)));
    let third = fixture.install(fixture.manifest("t", 3, Some(second.manifest)));
    let models = fixture.dir.path().join("models");
    let current = fs::read_to_string(models.join("current")).unwrap();
    assert_eq!(current, "t-3\n");
    assert!(fixture.store.load(&first).is_err(), "removed");
    let model = fixture.store.load(&third).unwrap().logistic().unwrap();
    assert_eq!(model.competencies(), ["k", "l"]);
    assert_eq!(model.statistics().items.keys().collect::<Vec<_>>(), ["x"]);
    assert!(fixture.store.load(&second).is_ok());
}

#[test]
fn releases_that_do_not_follow_are_refused() {
    let mut fixture = Fixture::new();
    let refused = |fixture: &Fixture, manifest| fixture.check(manifest).err().unwrap();
    let orphan = fixture.manifest("t", 2, None);
    assert!(matches!(refused(&fixture, orphan), InstallError::Lineage));
    let first = fixture.install(fixture.manifest("t", 1, None));
    let child = |version, parent| fixture.manifest("t", version, parent);
    assert!(matches!(refused(&fixture, child(1, None)), InstallError::NotNewer { .. }));
    let stranger = child(2, Some(Digest::of(b"other")));
    assert!(matches!(refused(&fixture, stranger), InstallError::Lineage));
    assert!(fixture.check(child(3, Some(Digest::of(b"missed")))).is_ok(), "a version was missed");
    let mut older = fixture.manifest("u", 1, None);
    older.released_at = Timestamp::EPOCH;
    assert!(matches!(refused(&fixture, older), InstallError::Older));
    // Another task in between does not make an old version new.
    let second = child(2, Some(first.manifest));
    fixture.install(second);
    let mut other = fixture.manifest("u", 1, None);
    other.released_at = Timestamp::from_millis(100);
    fixture.install(other);
    let mut again = fixture.manifest("t", 1, None);
    again.released_at = Timestamp::from_millis(200);
    assert!(matches!(refused(&fixture, again), InstallError::NotNewer { .. }));
}

#[test]
fn a_manifest_of_an_earlier_key_is_taken_by_the_word_of_the_one_on_the_roster() {
    let fixture = Fixture::new();
    let (earlier, thief) = (key(), key());
    let manifest = fixture.manifest("t", 1, None);
    let json = serde_json::to_vec(&Signed::sign(manifest.clone(), &earlier)).unwrap();
    let digest = Digest::of(&json);
    let (roster, registry, state) =
        (&fixture.roster, |digest: &Digest| *digest == registry_digest(), &fixture.state);
    let check = |digest: &Digest, json: &[u8], countersigned: Option<Signature>| {
        check_manifest(digest, json, countersigned.as_ref(), roster, registry, state)
    };
    let word =
        |key: &SigningKey, digest: &Digest| Some(key.sign(countersigned_digest(digest).as_bytes()));
    assert!(check(&digest, &json, word(&fixture.coordinator, &digest)).is_ok());
    let refused = |json: &[u8], countersigned| {
        let refused = check(&Digest::of(json), json, countersigned);
        assert!(matches!(refused, Err(InstallError::NotTheCoordinator)));
    };
    refused(&json, None);
    refused(&json, word(&earlier, &digest));
    refused(&json, word(&fixture.coordinator, &Digest::of(b"another release")));
    // What a stolen earlier key signs later has nobody's word.
    let other = fixture.manifest("t", 2, Some(digest));
    let forged = serde_json::to_vec(&Signed::sign(other, &thief)).unwrap();
    refused(&forged, word(&fixture.coordinator, &digest));
}

#[test]
fn releases_that_are_not_what_they_say_are_refused() {
    let fixture = Fixture::new();
    let manifest = fixture.manifest("t", 1, None);
    let json = serde_json::to_vec(&Signed::sign(manifest.clone(), &key())).unwrap();
    let (roster, registry, state) =
        (&fixture.roster, |digest: &Digest| *digest == registry_digest(), &fixture.state);
    let forged = check_manifest(&Digest::of(&json), &json, None, roster, registry, state);
    assert!(matches!(&forged, Err(error @ InstallError::NotTheCoordinator) if !error.is_refusal()));
    let other = check_manifest(&Digest::of(b"{}"), b"{}", None, roster, registry, state);
    assert!(matches!(other, Err(InstallError::Form(_))));
    let refused = |change: &dyn Fn(&mut Manifest)| {
        let mut changed = manifest.clone();
        change(&mut changed);
        fixture.stage(changed).err().unwrap()
    };
    assert!(matches!(refused(&|m| m.registry = m.plan), InstallError::OtherRegistry));
    assert!(refused(&|m| m.architecture = "gpt/9".into()).is_refusal());
    assert!(matches!(refused(&|m| m.layout = m.plan), InstallError::Layout));
    assert!(matches!(refused(&|m| m.weights = m.support.unwrap()), InstallError::Tensors { .. }));
    assert!(matches!(refused(&|m| m.support = Some(m.statistics)), InstallError::Sums { .. }));
    // With another threshold, other items are shared than the statistics are about.
    let threshold = refused(&|m| m.cohort.min_honest = 0);
    assert!(matches!(threshold, InstallError::Sums { .. }) && threshold.is_refusal());
    assert!(!refused(&|m| m.weights = Digest::of(b"not here")).is_refusal());
}

#[test]
fn a_model_that_changed_on_disk_is_not_used() {
    let mut fixture = Fixture::new();
    let model = fixture.install(fixture.manifest("t", 1, None));
    let dir = fixture.dir.path().join("models/t-1");
    for name in [WEIGHTS, STATISTICS, SHARED, MANIFEST] {
        let sound = fs::read(dir.join(name)).unwrap();
        let middle = sound.len() - 9;
        let mut changed = sound.clone();
        changed[middle] ^= 1;
        fs::write(dir.join(name), &changed).unwrap();
        let loaded = fixture.store.load(&model);
        // The manifest's signature was checked before; what it names is checked by digest.
        assert!(loaded.is_err() || name == MANIFEST, "{name}");
        fs::write(dir.join(name), &sound).unwrap();
    }
    assert!(fixture.store.load(&model).is_ok());
}
