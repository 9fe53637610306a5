//! Signing rosters and registries with a root in a directory of its own.

use std::os::unix::fs::PermissionsExt;

use collegium_shared::{
    hand_over::Holder,
    roster::{Registry, RootKey},
};

use std::collections::BTreeSet;

use super::*;

fn now() -> Timestamp {
    "2026-08-01T12:00:00Z".parse().unwrap()
}

fn key() -> VerifyingKey {
    let pkcs8 = SigningKey::generate_pkcs8().unwrap();
    SigningKey::from_pkcs8(pkcs8.expose()).unwrap().verifying_key()
}

fn member(name: &str) -> Member {
    Member {
        institution: name.parse().unwrap(),
        legal_entity: format!("Legal {name}"),
        identity: key(),
        valid_from: now(),
        valid_until: now() + ROSTER_LIFETIME,
    }
}

struct Consortium {
    dir: tempfile::TempDir,
    root: RootKey,
    coordinator: VerifyingKey,
}

impl Consortium {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let public = init(&dir.path().join("r")).unwrap();
        let root = RootKey::pinned(public.root, &public.fingerprint).unwrap();
        Self { dir, root, coordinator: key() }
    }

    fn sign(&self, document: &UnsignedDocument) -> Result<SignedDocument, RootError> {
        self.sign_if(document, |_| true)
    }

    fn sign_if(
        &self,
        document: &UnsignedDocument,
        confirm: impl FnOnce(&str) -> bool,
    ) -> Result<SignedDocument, RootError> {
        let (input, output) = (self.dir.path().join("in"), self.dir.path().join("out"));
        documents::write(&input, document).unwrap();
        let signed = sign(&self.dir.path().join("r"), &input, &output, now(), confirm)?;
        assert_eq!(documents::read::<SignedDocument>(&output).unwrap(), signed);
        Ok(signed)
    }

    fn proposal(&self, members: &[Member], previous: Option<&VerifiedRoster>) -> UnsignedDocument {
        unsigned_roster(members.to_vec(), self.coordinator, previous, Vec::new(), now())
    }

    fn signed(&self, members: &[Member], previous: Option<&VerifiedRoster>) -> VerifiedRoster {
        match self.sign(&self.proposal(members, previous)).unwrap() {
            SignedDocument::Roster { signed, .. } => self.root.roster(&signed, now()).unwrap(),
            SignedDocument::Registry { .. } => panic!("not a roster"),
        }
    }
}

#[test]
fn init_makes_a_private_key_once() {
    let parent = tempfile::tempdir().unwrap();
    let dir = parent.path().join("r");
    let public = init(&dir).unwrap();
    assert_eq!(public.fingerprint, public.root.fingerprint());
    assert_eq!(documents::read::<RootPublic>(&dir.join(PUBLIC_FILE)).unwrap(), public);
    let mode = fs::metadata(dir.join(KEY_FILE)).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode, 0o600);
    let again = init(&dir);
    assert!(matches!(again, Err(RootError::Setup(SetupError::Initialised { .. }))));
    assert_eq!(documents::read::<RootPublic>(&dir.join(PUBLIC_FILE)).unwrap(), public);
}

#[test]
fn rosters_form_one_chain() {
    let consortium = Consortium::new();
    let (a, b) = (member("a"), member("b"));
    let first = consortium.signed(&[b.clone(), a.clone()], None);
    assert_eq!((first.version(), first.members().len()), (1, 2));
    assert_eq!(consortium.signed(&[a.clone(), b.clone()], None), first, "the same again is fine");
    let forked = consortium.sign(&consortium.proposal(std::slice::from_ref(&a), None));
    assert!(matches!(forked, Err(RootError::Forked(1))));
    let second = consortium.signed(std::slice::from_ref(&a), Some(&first));
    second.follows(&first).unwrap();
    let forked = consortium.sign(&consortium.proposal(&[a.clone(), b.clone()], Some(&first)));
    assert!(matches!(forked, Err(RootError::Forked(2))));
    let older = consortium.sign(&consortium.proposal(&[a, b], None));
    assert!(matches!(older, Err(RootError::NotNext { given: 1, last: 2, .. })));
}

#[test]
fn a_chain_starts_at_one_and_does_not_skip() {
    let (consortium, other) = (Consortium::new(), Consortium::new());
    let a = member("a");
    let foreign = other.signed(std::slice::from_ref(&a), None);
    let later = consortium.proposal(std::slice::from_ref(&a), Some(&foreign));
    assert!(matches!(consortium.sign(&later), Err(RootError::NotFirst)));
    consortium.signed(&[a, member("b")], None);
    assert!(matches!(consortium.sign(&later), Err(RootError::NotNext { given: 2, .. })));
}

#[test]
fn the_words_name_who_is_signed_for() {
    let consortium = Consortium::new();
    let (a, mut b) = (member("a"), member("b"));
    let words = |document: &UnsignedDocument| {
        let mut seen = String::new();
        let refused = consortium.sign_if(document, |words| {
            seen = words.to_owned();
            false
        });
        assert!(matches!(refused, Err(RootError::Declined)));
        seen
    };
    let first = words(&consortium.proposal(&[a.clone(), b.clone()], None));
    for part in ["a: Legal a (NEW", &a.identity.fingerprint().to_string(), "2026-08-01"] {
        assert!(first.contains(part), "{first}");
    }
    assert!(!consortium.dir.path().join("out").exists(), "declined means nothing is written");
    let signed = consortium.signed(&[a.clone(), b.clone(), member("c")], None);
    b.identity = key();
    let second = words(&consortium.proposal(&[a, b], Some(&signed)));
    for part in ["a: Legal a (unchanged)", "b: Legal b (KEY CHANGED", "c: REMOVED"] {
        assert!(second.contains(part), "{second}");
    }
}

#[test]
fn what_is_not_well_formed_is_not_signed() {
    let consortium = Consortium::new();
    let refused = |change: fn(&mut Roster)| {
        let members = [member("a"), member("b")];
        let UnsignedDocument::Roster(mut roster) = consortium.proposal(&members, None) else {
            panic!("not a roster")
        };
        change(&mut roster);
        consortium.sign(&UnsignedDocument::Roster(roster)).unwrap_err()
    };
    assert!(matches!(refused(|r| r.members.reverse()), RootError::Roster(_)));
    assert!(matches!(
        refused(|r| r.members[1].legal_entity = r.members[0].legal_entity.clone()),
        RootError::Roster(RosterError::SplitEntity(_))
    ));
    assert!(matches!(
        refused(|r| r.members[1].identity = r.members[0].identity),
        RootError::Roster(RosterError::SharedIdentity)
    ));
    for entity in ["", "Real\nb: Forged", "\u{1b}[2A", "\u{202e}lleh"] {
        let members = [Member { legal_entity: entity.into(), ..member("a") }];
        let error = consortium.sign(&consortium.proposal(&members, None)).unwrap_err();
        assert!(matches!(error, RootError::BadEntity(_)), "{entity:?}");
    }
    assert!(matches!(
        refused(|r| r.members[0].valid_until = r.members[0].valid_from),
        RootError::BadMembership(_)
    ));
    assert!(matches!(refused(|r| r.expires_at = r.issued_at), RootError::Expired(_)));
    assert!(matches!(refused(|r| r.version = 2), RootError::NotFirst));
}

#[test]
fn registries_are_signed_and_a_foreign_history_is_refused() {
    let (consortium, other) = (Consortium::new(), Consortium::new());
    let names = BTreeSet::from(["a".to_owned()]);
    let registry = Registry::new(1, names.clone(), names).unwrap();
    match consortium.sign(&UnsignedDocument::Registry(registry.clone())).unwrap() {
        SignedDocument::Registry { signed, .. } => {
            assert_eq!(consortium.root.registry(&signed).unwrap(), registry);
        }
        SignedDocument::Roster { .. } => panic!("not a registry"),
    }
    other.signed(&[member("a")], None);
    let last = |c: &Consortium| c.dir.path().join("r").join(LAST_ROSTER);
    fs::copy(last(&other), last(&consortium)).unwrap();
    let refused = consortium.sign(&consortium.proposal(&[member("a")], None));
    assert!(matches!(refused, Err(RootError::ForeignHistory(_))));
}

// --- Keys that change ------------------------------------------------------------------------

fn signing_key() -> SigningKey {
    SigningKey::from_pkcs8(SigningKey::generate_pkcs8().unwrap().expose()).unwrap()
}

fn of(name: &str) -> Holder {
    Holder::Institution(name.parse().unwrap())
}

#[test]
fn the_keeper_sees_which_changes_the_key_before_vouches_for() {
    let consortium = Consortium::new();
    let [old, next, other] = [signing_key(), signing_key(), signing_key()];
    let [mut a, mut b] = [member("a"), member("b")];
    a.identity = old.verifying_key();
    let first = consortium.signed(&[a.clone(), b.clone()], None);
    let vouches =
        |name, by: &SigningKey, next: &SigningKey| SignedHandOver::sign(of(name), by, next, now());
    let draft = |members: &[Member], hand_overs: Vec<SignedHandOver>| {
        let (members, key) = (members.to_vec(), consortium.coordinator);
        unsigned_roster(members, key, Some(&first), hand_overs, now())
    };
    let words = |document: &UnsignedDocument| {
        let mut seen = String::new();
        let declined = consortium.sign_if(document, |words| {
            seen = words.to_owned();
            false
        });
        assert!(matches!(declined, Err(RootError::Declined)), "{declined:?}");
        seen
    };
    a.identity = next.verifying_key();
    b.identity = key();
    let good = vouches("a", &old, &next);
    let both = words(&draft(&[a.clone(), b.clone()], vec![good.clone()]));
    assert!(both.contains("a: Legal a (KEY CHANGED: handed over by the key before on 2026-08-01"));
    assert!(both.contains("b: Legal b (KEY CHANGED WITHOUT A HAND-OVER"), "{both}");

    // A coordinator that puts another key into the draft.
    a.identity = other.verifying_key();
    let alone = words(&draft(&[a.clone()], Vec::new()));
    assert!(alone.contains("a: Legal a (KEY CHANGED WITHOUT A HAND-OVER"), "{alone}");
    let alone_refused = |a: &Member, hand_over| {
        consortium.sign(&draft(std::slice::from_ref(a), vec![hand_over])).unwrap_err()
    };
    let refused = |hand_over| alone_refused(&a, hand_over);
    assert!(matches!(refused(good.clone()), RootError::StrayHandOver), "for another key");
    let forged = refused(vouches("a", &other, &other));
    assert!(matches!(forged, RootError::BadHandOver { reason: BadHandOver::SameKey, .. }));
    let forged = refused(vouches("a", &signing_key(), &other));
    assert!(matches!(forged, RootError::BadHandOver { reason: BadHandOver::OtherKey, .. }));
    let mut forged = vouches("a", &old, &other);
    forged.by_old = other.sign(b"something");
    assert!(matches!(refused(forged), RootError::BadHandOver { reason: BadHandOver::OldKey, .. }));
    assert!(matches!(refused(vouches("z", &old, &other)), RootError::StrayHandOver));

    // The coordinator's own key.
    let (holder, coordinator) = (Holder::Coordinator("example.org/log".into()), signing_key());
    let forged = SignedHandOver::sign(holder, &signing_key(), &coordinator, now());
    let (members, named) = (vec![b.clone()], coordinator.verifying_key());
    let changed = unsigned_roster(members.clone(), named, Some(&first), vec![forged], now());
    let refused = consortium.sign(&changed).unwrap_err();
    assert!(matches!(refused, RootError::BadHandOver { reason: BadHandOver::OtherKey, .. }));
    let alone = words(&unsigned_roster(members, named, Some(&first), Vec::new(), now()));
    assert!(alone.contains("(CHANGED WITHOUT A HAND-OVER BY THE KEY BEFORE"), "{alone}");

    // The good one is signed, and is no use a second time.
    a.identity = next.verifying_key();
    let document = draft(&[a.clone()], vec![good.clone()]);
    let signed = consortium.sign(&document).unwrap();
    assert_eq!(consortium.sign(&document).unwrap(), signed, "the same again is fine");
    let SignedDocument::Roster { signed, .. } = signed else { panic!("not a roster") };
    let second = consortium.root.roster(&signed, now()).unwrap();
    let replayed =
        unsigned_roster(vec![a], consortium.coordinator, Some(&second), vec![good], now());
    let refused = consortium.sign(&replayed).unwrap_err();
    assert!(matches!(refused, RootError::BadHandOver { reason: BadHandOver::OtherKey, .. }));
}
