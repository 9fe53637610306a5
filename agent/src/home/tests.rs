//! What opening the directory repairs after a crash, and what it refuses to go on with.

use std::{collections::BTreeMap, fs, sync::Arc};

use collegium_shared::{
    architecture::Stage, clock::Timestamp, documents::RootPublic, ids::RoundId, protocol::Ending,
};

use super::*;
use crate::{
    config,
    records::{Learner, Response},
    session::tests::{World, key},
};

/// An enrolled directory, made without a coordinator.
pub(crate) fn enrolled() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    for name in ["keys", "certs"] {
        durable::create_dir(&path(name)).unwrap();
    }
    SigningKey::create(&path(IDENTITY_KEY)).unwrap();
    for name in [VAULT_KEY, "keys/tls.key.pem"] {
        collegium_shared::crypto::write_secret(&path(name), &[b'k'; 32]).unwrap();
    }
    let certified = rcgen::generate_simple_self_signed(["b".to_owned()]).unwrap();
    for name in ["certs/client.pem", "certs/ca.pem"] {
        fs::write(path(name), certified.cert.pem()).unwrap();
    }
    documents::write(&path("root.json"), &RootPublic::new(key().verifying_key())).unwrap();
    let url = "https://localhost:8470".to_owned().try_into().unwrap();
    let sample = config::sample(&url, &"b".parse().unwrap(), &Default::default());
    fs::write(path(CONFIG_FILE), sample).unwrap();
    dir
}

pub(crate) fn open(dir: &tempfile::TempDir) -> Result<Home, HomeError> {
    Home::open(dir.path(), Clock::manual(Timestamp::EPOCH))
}

fn learner(id: &str) -> Learner {
    let response = Response { item: "x".into(), competencies: vec!["k".into()], correct: true };
    let attributes = BTreeMap::new();
    Learner {
        id: id.into(),
        held_out: false,
        attributes,
        responses: vec![response],
        features: Default::default(),
    }
}

fn write_input(home: &Home, round: &RoundId) -> Digest {
    let mut writer = home.rounds.input_writer(round, 3).unwrap();
    writer.append(&[1, 2, 3]).unwrap();
    writer.finish().unwrap()
}

/// A session in flight: accepted, input written, committed, secrets drawn.
fn in_flight(home: &Home) -> (RoundId, Digest) {
    let plan = World::new().plan_body("t", 0, 0, Stage::Evaluate);
    let round = plan.round.clone();
    let plan = Box::new(Signed::sign(plan, &key()));
    home.book.record([SessionEvent::PlanAccepted { plan }.into()]).unwrap();
    let commitment = write_input(home, &round);
    let committed = SessionEvent::Committed {
        round: round.clone(),
        commitment,
        snapshot: Digest::of(b"records"),
        permitted: None,
        charges: Vec::new(),
    };
    home.book.record([committed.into()]).unwrap();
    home.rounds.draw(&round, &commitment).unwrap();
    (round, commitment)
}

fn left(home: &Home) -> bool {
    home.book.read(|state| state.history().session().unwrap().over())
}

#[test]
fn a_session_in_flight_with_its_files_goes_on() {
    let dir = enrolled();
    let home = open(&dir).unwrap();
    let (round, commitment) = in_flight(&home);
    let rho = home.rounds.secrets(&round, &commitment).unwrap();
    let state = home.book.read(AgentState::clone);
    drop(home);
    let home = open(&dir).unwrap();
    assert!(home.book.read(AgentState::clone) == state);
    assert!(home.rounds.secrets(&round, &commitment).unwrap().expose() == rho.expose());
    assert!(home.rounds.input(&round, &commitment).is_ok());
}

#[test]
fn a_session_whose_files_are_missing_or_changed_is_left_and_erased() {
    let flip = |path: &Path| {
        let mut bytes = fs::read(path).unwrap();
        let last = bytes.len() - 1;
        bytes[last] ^= 1;
        fs::write(path, bytes).unwrap();
    };
    let remove = |path: &Path| fs::remove_file(path).unwrap();
    for damage in [&flip as &dyn Fn(&Path), &remove] {
        for name in ["input", "secrets"] {
            let dir = enrolled();
            let home = open(&dir).unwrap();
            let (round, _) = in_flight(&home);
            let institutions = Vec::new();
            let listed = SessionEvent::Listed { round, root: Digest::of(b"list"), institutions };
            home.book.record([listed.into()]).unwrap();
            drop(home);
            damage(&dir.path().join("rounds/t-0-0").join(name));
            let home = open(&dir).unwrap();
            assert!(left(&home), "{name}");
            assert!(!dir.path().join("rounds/t-0-0").exists());
        }
    }
}

#[test]
fn secrets_that_were_not_drawn_before_a_crash_are_drawn_at_the_next_start() {
    let dir = enrolled();
    let home = open(&dir).unwrap();
    let (round, commitment) = in_flight(&home);
    drop(home);
    fs::remove_file(dir.path().join("rounds/t-0-0/secrets")).unwrap();
    let home = open(&dir).unwrap();
    assert!(!left(&home));
    assert!(home.rounds.secrets(&round, &commitment).is_ok());
}

#[test]
fn an_input_of_another_commitment_is_left() {
    let dir = enrolled();
    let home = open(&dir).unwrap();
    let (round, _) = in_flight(&home);
    write_input(&home, &round);
    drop(home);
    assert!(left(&open(&dir).unwrap()));
}

#[test]
fn secrets_of_a_round_that_is_over_are_erased_and_its_input_waits_for_a_retry() {
    let dir = enrolled();
    let home = open(&dir).unwrap();
    let (round, commitment) = in_flight(&home);
    let ended = SessionEvent::RoundEnded { round: round.clone(), ending: Ending::Aborted };
    home.book.record([ended.into()]).unwrap();
    drop(home);
    let home = open(&dir).unwrap();
    assert!(home.rounds.secrets(&round, &commitment).is_err());
    assert!(home.rounds.input(&round, &commitment).is_ok());
}

#[test]
fn an_import_that_the_journal_missed_is_added_once() {
    let dir = enrolled();
    let home = open(&dir).unwrap();
    home.vault().import(&[learner("one")], Digest::of(b"file")).unwrap();
    assert_eq!(home.book.read(AgentState::imports), 0);
    drop(home);
    for _ in 0..2 {
        let home = open(&dir).unwrap();
        assert_eq!(home.book.read(AgentState::imports), 1);
        let snapshot = home.vault().snapshot().sha256;
        assert_eq!(home.book.read(AgentState::snapshot), Some(snapshot));
    }
    // A vault that held records is not replaced by an empty one.
    fs::remove_dir_all(dir.path().join("vault")).unwrap();
    assert!(matches!(open(&dir), Err(HomeError::Vault(VaultError::Missing { .. }))));
}

#[test]
fn one_process_owns_the_directory() {
    let dir = enrolled();
    let home = open(&dir).unwrap();
    let second = open(&dir).err().unwrap();
    assert!(matches!(second, HomeError::Journal(JournalError::InUse(_))), "{second}");
    assert!(second.to_string().contains("in use by another process"));
    drop(home);
    assert!(open(&dir).is_ok());
    let nowhere = tempfile::tempdir().unwrap();
    let error = open(&nowhere).err().unwrap();
    assert!(matches!(error, HomeError::NotEnrolled(_)) && error.to_string().contains("enroll"));
}

#[test]
fn an_accepted_roster_must_be_there_unchanged() {
    let dir = enrolled();
    let home = open(&dir).unwrap();
    assert!(home.roster().unwrap().is_none());
    let roster = Digest::of(b"roster");
    let accepted = LocalEvent::RosterAccepted { roster, version: 1, members: 2 };
    home.book.record([accepted.into()]).unwrap();
    let error = home.roster().err().unwrap();
    assert!(matches!(error, HomeError::Document { what: "roster", .. }), "{error}");
}

/// A directory whose root's key is at hand.
fn rooted() -> (tempfile::TempDir, SigningKey) {
    let (dir, root) = (enrolled(), key());
    documents::write(&dir.path().join("root.json"), &RootPublic::new(root.verifying_key()))
        .unwrap();
    (dir, root)
}

fn accept_registry(home: &Home, root: &SigningKey, version: u64, competency: &str) -> Digest {
    let names = [competency.to_owned()].into();
    let registry = Registry::new(version, names, ["x".to_owned()].into()).unwrap();
    let signed = Signed::sign(registry, root);
    let registry = signed.digest();
    home.keep_document(&registry, &signed).unwrap();
    let event = LocalEvent::RegistryAccepted { registry, version, competencies: 1, items: 1 };
    home.book.record([event.into()]).unwrap();
    registry
}

#[test]
fn a_registry_that_another_followed_is_still_held() {
    let (dir, root) = rooted();
    let home = open(&dir).unwrap();
    let first = accept_registry(&home, &root, 1, "k");
    let second = accept_registry(&home, &root, 2, "l");
    assert_eq!(home.registry().unwrap().unwrap().version, 2);
    assert_eq!(home.registry_named(&first).unwrap().version, 1);
    assert!(home.registry_named(&Digest::of(b"never")).is_err());
    let (one, two) = (home.document(&first), home.document(&second));
    fs::copy(two, one).unwrap();
    assert!(home.registry_named(&first).is_err(), "another document under its name");
}

#[test]
fn coverage_is_measured_again_when_records_or_registry_change() {
    let (dir, root) = rooted();
    let home = open(&dir).unwrap();
    assert_eq!(crate::coverage::in_force(&home).unwrap(), None, "no registry yet");
    home.vault().import(&[learner("a")], Digest::of(b"one")).unwrap();
    accept_registry(&home, &root, 1, "k");
    assert_eq!(crate::coverage::known(&home), None, "not measured yet");
    let measured = || crate::coverage::in_force(&home).unwrap().unwrap();
    let first = measured();
    assert_eq!((first.figures.answers.all, first.figures.answers.covered), (1, 1));
    assert!(Arc::ptr_eq(&first, &measured()), "kept");
    assert_eq!(crate::coverage::known(&home), Some(first.figures));
    home.vault().import(&[learner("b")], Digest::of(b"two")).unwrap();
    assert_eq!(crate::coverage::known(&home), None, "of other records");
    assert_eq!(measured().figures.answers.all, 2);
    accept_registry(&home, &root, 2, "l");
    assert_eq!(crate::coverage::known(&home), None, "of another registry");
    let second = measured();
    assert_eq!((second.figures.answers.covered, second.outside[0].answers), (0, 2));
}
