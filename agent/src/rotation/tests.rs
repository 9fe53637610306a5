//! The files and the log at every point at which a crash may stop a replacement.

use std::{fs, time::Duration};

use collegium_shared::{
    audit,
    clock::Timestamp,
    crypto::SigningKey,
    durable,
    roster::{Member, RootKey, Roster},
    signed::Signed,
};

use super::*;
use crate::{
    home::tests::{enrolled, open},
    session::tests::key,
};

/// A roster that names this key for the institution of `enrolled`.
fn naming(identity: VerifyingKey) -> VerifiedRoster {
    let root = key();
    let until = Timestamp::EPOCH + Duration::from_secs(1_000);
    let member = Member {
        institution: "b".parse().unwrap(),
        legal_entity: "B".into(),
        identity,
        valid_from: Timestamp::EPOCH,
        valid_until: until,
    };
    let roster = Roster {
        version: 1,
        previous: None,
        coordinator: key().verifying_key(),
        issued_at: Timestamp::EPOCH,
        expires_at: until,
        members: vec![member],
    };
    let public = root.verifying_key();
    let pinned = RootKey::pinned(public, &public.fingerprint()).unwrap();
    pinned.roster_at_rest(&Signed::sign(roster, &root)).unwrap()
}

fn verified(dir: &Path) -> u64 {
    let journal = dir.join("journal");
    let key = log_key(dir, &journal).unwrap();
    audit::verify(&journal, &key).unwrap().entries
}

fn own(home: &Home) -> VerifyingKey {
    home.identity.signing_key().verifying_key()
}

#[test]
fn a_key_waits_for_its_roster_and_then_takes_the_place_of_the_one_before() {
    let dir = enrolled();
    let home = open(&dir).unwrap();
    let old = own(&home);
    let hand_over = begin(&home).unwrap();
    assert_eq!(begin(&home).unwrap(), hand_over, "once");
    let holder = Holder::Institution(home.institution().clone());
    let next = hand_over.replaces(&holder, &old).unwrap();
    for other in [old, key().verifying_key()] {
        assert!(!go_over(&home, &naming(other)).unwrap());
    }
    assert_eq!(own(&home), old);
    assert!(go_over(&home, &naming(next)).unwrap());
    assert_eq!(own(&home), next);
    assert!(!go_over(&home, &naming(next)).unwrap(), "once");
    assert!(unconfirmed(&home));
    assert!(matches!(begin(&home), Err(RotationError::Unconfirmed)));
    home.book.record([LocalEvent::Resumed.into()]).unwrap();
    assert_eq!(verified(dir.path()), 4);
    destroy_previous(&home).unwrap();
    assert!(!unconfirmed(&home));
    let again = begin(&home).unwrap();
    assert_eq!(again.body.old, next);
    drop(home);
    let home = open(&dir).unwrap();
    assert_eq!(own(&home), next);
    assert_eq!(home.book.read(|state| state.hand_over().cloned()), Some(again));
}

#[test]
fn a_next_key_of_which_the_log_knows_nothing_is_used_when_asked_again() {
    let dir = enrolled();
    let home = open(&dir).unwrap();
    let pkcs8 = SigningKey::generate_pkcs8().unwrap();
    let path = files(dir.path()).next;
    durable::write(&path, pkcs8.expose()).unwrap();
    drop(home);
    let home = open(&dir).unwrap();
    let waiting = SigningKey::load(&path).unwrap().verifying_key();
    assert_ne!(own(&home), waiting);
    assert_eq!(begin(&home).unwrap().body.new, waiting);
    // And one that is gone is made again, with a statement of its own.
    fs::remove_file(&path).unwrap();
    let made = begin(&home).unwrap();
    assert_ne!(made.body.new, waiting);
    assert_eq!(home.book.read(|state| state.hand_over().cloned()), Some(made));
}

#[test]
fn whatever_a_crash_leaves_is_finished_or_goes_on_with_the_old_key() {
    for crash in 0..4 {
        let dir = enrolled();
        let home = open(&dir).unwrap();
        let old = own(&home);
        let hand_over = begin(&home).unwrap();
        let next = hand_over.body.new;
        let places = files(dir.path());
        if crash >= 1 {
            let key = SigningKey::load(&places.next).unwrap();
            let event = LocalEvent::SigningKeyChanged { hand_over: Box::new(hand_over) };
            home.book.change_key(event, key).unwrap();
        }
        drop(home);
        if crash >= 2 {
            fs::rename(&places.key, &places.previous).unwrap();
        }
        if crash >= 3 {
            fs::rename(&places.next, &places.key).unwrap();
        }
        let wanted = if crash >= 1 { next } else { old };
        // What the command line reads before the daemon is started again.
        verified(dir.path());
        assert_eq!(
            log_key(dir.path(), &dir.path().join("journal")).unwrap(),
            wanted,
            "crash {crash}"
        );
        let home = open(&dir).unwrap();
        assert_eq!(own(&home), wanted, "crash {crash}");
        assert_eq!(unconfirmed(&home), crash >= 1, "crash {crash}");
        assert_eq!(places.next.exists(), crash == 0);
        home.book.record([LocalEvent::Resumed.into()]).unwrap();
        verified(dir.path());
        if crash == 0 {
            assert!(go_over(&home, &naming(next)).unwrap());
        }
        destroy_previous(&home).unwrap();
        drop(home);
        assert_eq!(own(&open(&dir).unwrap()), next);
    }
}
