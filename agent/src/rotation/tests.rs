//! The files and the log at every point at which a crash may stop a replacement.

use std::{fs, os::unix::fs::PermissionsExt, time::Duration};

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
        assert!(matches!(go_over(&home, &naming(other)).unwrap(), Standing::Unchanged));
    }
    assert_eq!(own(&home), old);
    assert!(matches!(go_over(&home, &naming(next)).unwrap(), Standing::Replaced));
    assert_eq!(own(&home), next);
    assert!(matches!(go_over(&home, &naming(next)).unwrap(), Standing::Unchanged), "once");
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

/// A key that others can read is not used, and nothing is moved on its account; a next key that the log does
/// not name yet is not needed.
fn exposed_keys_stop_what_needs_them(dir: &Path, crash: u32, wanted: VerifyingKey) {
    let (places, journal) = (files(dir), dir.join("journal"));
    let there = || [&places.key, &places.next, &places.previous].map(|path| path.exists());
    let before = there();
    for path in [&places.key, &places.next] {
        if !path.exists() {
            continue;
        }
        let unneeded = crash == 0 && *path == places.next;
        let mode = |mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        mode(0o644);
        assert_eq!(log_key(dir, &journal).ok(), unneeded.then_some(wanted), "crash {crash}");
        if crash < 2 {
            assert_eq!(finish(dir, &journal).is_ok(), unneeded, "crash {crash}");
        }
        assert_eq!(there(), before, "crash {crash}");
        mode(0o600);
    }
}

#[test]
fn a_next_key_that_the_roster_names_and_that_is_gone_leaves_the_agent_serving() {
    let dir = enrolled();
    let home = open(&dir).unwrap();
    let (old, next) = (own(&home), begin(&home).unwrap().body.new);
    assert!(next_key_error(&home).is_none());
    let place = files(dir.path()).next;
    fs::set_permissions(&place, fs::Permissions::from_mode(0o644)).unwrap();
    assert!(matches!(go_over(&home, &naming(next)).unwrap(), Standing::Unusable(_)));
    assert!(begin(&home).is_err(), "no other key in the place of one that may be good");
    fs::remove_file(&place).unwrap();
    assert!(matches!(go_over(&home, &naming(next)).unwrap(), Standing::Unusable(_)));
    assert_eq!(own(&home), old);
    assert!(!crate::status::is_member(&home, &naming(next)));
    let status = crate::status::Status::of(&home, None).unwrap();
    assert!(status.next_key_error.is_some());
    assert!(status.to_string().contains("run identity rotate"), "{status}");
    drop(home);
    let home = open(&dir).unwrap();
    assert_eq!(own(&home), old, "and it starts");
    let made = begin(&home).unwrap().body;
    assert_eq!(made.old, old);
    assert!(next_key_error(&home).is_none());
    assert!(matches!(go_over(&home, &naming(made.new)).unwrap(), Standing::Replaced));
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
            home.book.change_key(hand_over, key).unwrap();
        }
        drop(home);
        if crash >= 2 {
            fs::rename(&places.key, &places.previous).unwrap();
        }
        if crash >= 3 {
            fs::rename(&places.next, &places.key).unwrap();
        }
        let wanted = if crash >= 1 { next } else { old };
        exposed_keys_stop_what_needs_them(dir.path(), crash, wanted);
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
            assert!(matches!(go_over(&home, &naming(next)).unwrap(), Standing::Replaced));
        }
        destroy_previous(&home).unwrap();
        drop(home);
        assert_eq!(own(&open(&dir).unwrap()), next);
    }
}
