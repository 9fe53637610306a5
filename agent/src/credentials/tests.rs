//! The files of a replacement, interrupted everywhere.

use std::{collections::BTreeSet, time::Duration};

use rcgen::{BasicConstraints, CertificateSigningRequestParams, IsCa, Issuer, KeyUsagePurpose};

use super::*;

const DAY: Duration = Duration::from_secs(86_400);

fn now() -> Timestamp {
    "2026-08-01T12:00:00Z".parse().unwrap()
}

fn name() -> InstitutionId {
    "school-a".parse().unwrap()
}

struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl Authority {
    fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Self { issuer: Issuer::new(params, key), pem }
    }

    fn certify(&self, csr: &[u8], name: &str, from: Timestamp) -> String {
        let csr = CertificateSigningRequestParams::from_der(&csr.into()).unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        let at = |time: Timestamp| rcgen::date_time_ymd(1970, 1, 1) + time.since(Timestamp::EPOCH);
        params.not_before = at(from);
        params.not_after = at(from + DAY * 90);
        params.signed_by(&csr.public_key, &self.issuer).unwrap().pem()
    }
}

/// An agent's directory with a certificate.
fn enrolled(authority: &Authority) -> (tempfile::TempDir, Credentials) {
    let dir = tempfile::tempdir().unwrap();
    for name in ["keys", "certs"] {
        fs::create_dir(dir.path().join(name)).unwrap();
    }
    write_authorities(dir.path(), &authority.pem).unwrap();
    renew(dir.path(), authority).unwrap();
    let credentials = Credentials::load(dir.path()).unwrap();
    (dir, credentials)
}

fn renew(dir: &Path, authority: &Authority) -> Result<(), CredentialsError> {
    let pending = Pending::prepare(dir, &name())?;
    let certificate = authority.certify(&pending.csr, "school-a", now());
    pending.install(dir, &name(), &certificate, &authority.pem, now())
}

fn fits(dir: &Path) -> bool {
    let credentials = Credentials::load(dir).unwrap();
    let key = KeyPair::from_pem(credentials.tls_key.expose()).unwrap();
    Digest::of(&key.subject_public_key_info()) == credentials.key_digest()
}

#[test]
fn a_renewal_replaces_key_and_certificate() {
    let authority = Authority::new("a");
    let (dir, before) = enrolled(&authority);
    renew(dir.path(), &authority).unwrap();
    let after = Credentials::load(dir.path()).unwrap();
    assert_ne!(after.key_digest(), before.key_digest());
    assert!(fits(dir.path()) && after.is_by_newest_authority());
    assert!(!dir.path().join(NEXT_KEY).exists() && !dir.path().join(NEXT_CERTIFICATE).exists());
}

#[test]
fn asking_again_asks_for_the_same_key_until_it_is_certified() {
    let authority = Authority::new("a");
    let (dir, _) = enrolled(&authority);
    let asked = |dir: &Path| Pending::prepare(dir, &name()).unwrap().spki;
    let first = asked(dir.path());
    assert_eq!(asked(dir.path()), first, "after a lost answer or a crash");
    renew(dir.path(), &authority).unwrap();
    assert_ne!(asked(dir.path()), first);
    fs::write(dir.path().join(NEXT_KEY), "torn").unwrap();
    let anew = asked(dir.path());
    assert_eq!(asked(dir.path()), anew, "a torn key is made anew, once");
}

#[test]
fn a_crash_between_any_two_writes_leaves_a_pair_that_fits() {
    let authority = Authority::new("a");
    for crash in 0..3 {
        let (dir, before) = enrolled(&authority);
        let dir = dir.path();
        let pending = Pending::prepare(dir, &name()).unwrap();
        let certificate = authority.certify(&pending.csr, "school-a", now());
        if crash >= 1 {
            durable::write(&dir.join(NEXT_CERTIFICATE), certificate.as_bytes()).unwrap();
        }
        if crash >= 2 {
            rename(&dir.join(NEXT_KEY), &dir.join(TLS_KEY)).unwrap();
        }
        finish(dir).unwrap();
        assert!(fits(dir), "crash {crash}");
        let renewed = Credentials::load(dir).unwrap().key_digest() != before.key_digest();
        assert_eq!(renewed, crash >= 1);
        renew(dir, &authority).unwrap();
        assert!(fits(dir));
    }
}

#[test]
fn a_certificate_that_does_not_fit_replaces_nothing() {
    let (ours, other) = (Authority::new("a"), Authority::new("a"));
    let (dir, before) = enrolled(&ours);
    let dir = dir.path();
    let pending = Pending::prepare(dir, &name()).unwrap();
    let stranger = tempfile::tempdir().unwrap();
    fs::create_dir(stranger.path().join("keys")).unwrap();
    let foreign = Pending::prepare(stranger.path(), &name()).unwrap();
    for (certificate, words) in [
        ("nonsense".to_owned(), "our key"),
        (ours.certify(&foreign.csr, "school-a", now()), "our key"),
        (ours.certify(&pending.csr, "school-b", now()), "our key"),
        (other.certify(&pending.csr, "school-a", now()), "authorities"),
        (ours.certify(&pending.csr, "school-a", now() - DAY * 91), "expired"),
    ] {
        let refused = pending.install(dir, &name(), &certificate, &ours.pem, now());
        assert!(refused.unwrap_err().to_string().contains(words), "{words}");
        assert_eq!(Credentials::load(dir).unwrap().key_digest(), before.key_digest());
    }
}

#[test]
fn renewals_are_spread_between_a_half_and_two_thirds_of_the_life() {
    let (_dir, credentials) = enrolled(&Authority::new("a"));
    let mut days = BTreeSet::new();
    // The TLS key is new in every run, and with it the days: a day is missed by 2,000 institutions once
    // in 10^58 runs.
    for number in 0..2_000_u16 {
        let fingerprint = Digest::of(&number.to_be_bytes());
        let at = credentials.renew_at(&fingerprint);
        assert_eq!(at, credentials.renew_at(&fingerprint), "the same every time");
        assert!(at >= now() + DAY * 45 && at < now() + DAY * 60, "{at}");
        days.insert(at.since(now()).as_secs() / 86_400);
    }
    assert_eq!(days.len(), 15, "every one of the 15 days");
    assert_eq!(credentials.expired(now() + DAY * 89), None);
    assert!(credentials.expired(now() + DAY * 90).is_some());
}

#[test]
fn a_newer_authority_makes_the_certificate_old() {
    let (old, new) = (Authority::new("a"), Authority::new("b"));
    let (dir, _) = enrolled(&old);
    write_authorities(dir.path(), &format!("{}{}", new.pem, old.pem)).unwrap();
    assert!(!Credentials::load(dir.path()).unwrap().is_by_newest_authority());
    assert_eq!(authorities(&format!("{}{}", new.pem, old.pem)).unwrap().len(), 2);
    assert!(authorities("").is_none());
    assert!(authorities(&new.pem.repeat(MAX_AUTHORITIES + 1)).is_none());
    let leaf = Credentials::load(dir.path()).unwrap().certificate;
    assert!(authorities(&leaf).is_none(), "not an authority");
}
