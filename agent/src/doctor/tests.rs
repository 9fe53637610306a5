//! An agent's directory with everything that can be wrong in it; nobody answers at the coordinator's
//! address.

use std::{fs, os::unix::fs::PermissionsExt, path::PathBuf};

use collegium_shared::crypto::{self, SigningKey};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};

use super::*;
use crate::{identity::CA_CERTIFICATE, identity::CLIENT_CERTIFICATE, vault::VaultKey};

const DAY: Duration = Duration::from_secs(86_400);

/// The directory of an agent whose certificate holds until day 90.
struct Site {
    dir: tempfile::TempDir,
    enrolled: Timestamp,
}

impl Site {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let enrolled = Clock::system().now();
        let site = Self { dir, enrolled };
        fs::set_permissions(site.dir.path(), fs::Permissions::from_mode(0o700)).unwrap();
        for name in ["keys", "certs"] {
            collegium_shared::durable::create_dir(&site.path(name)).unwrap();
        }
        let config = "coordinator = \"https://127.0.0.1:1\"\ninstitution = \"school-a\"\n\
                      [network]\nproxy = \"none\"\n";
        fs::write(site.path(CONFIG_FILE), config).unwrap();
        let own = SigningKey::create(&site.path(IDENTITY_KEY)).unwrap();
        let public = collegium_shared::documents::RootPublic::new(own.verifying_key());
        collegium_shared::documents::write(&site.path(identity::ROOT), &public).unwrap();
        VaultKey::create(&site.path(VAULT_KEY)).unwrap();
        site.certify();
        site
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn certify(&self) {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let at = |time: Timestamp| {
            let seconds = Duration::from_secs(time.since(Timestamp::EPOCH).as_secs());
            rcgen::date_time_ymd(1970, 1, 1) + seconds
        };
        let mut params = CertificateParams::default();
        params.not_before = at(self.enrolled);
        params.not_after = at(self.enrolled + DAY * 90);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &issuer).unwrap();
        crypto::write_secret(&self.path(TLS_KEY), key.serialize_pem().as_bytes()).unwrap();
        fs::write(self.path(CLIENT_CERTIFICATE), certificate.pem()).unwrap();
        fs::write(self.path(CA_CERTIFICATE), issuer.pem()).unwrap();
    }

    async fn found_on(&self, day: u32) -> String {
        let clock = Clock::manual(self.enrolled + DAY * day + Duration::from_secs(60));
        examine(self.dir.path(), &clock).await.unwrap().to_string()
    }
}

#[track_caller]
fn says(found: &str, words: &[&str]) {
    for word in words {
        assert!(found.contains(word), "{word:?} is not in:\n{found}");
    }
}

#[tokio::test]
async fn an_agent_that_does_not_run_is_looked_at_all_the_same() {
    let site = Site::new();
    let found = site.found_on(1).await;
    says(&found, &["WARN  daemon        does not run", "ok    owner", "ok    keys          3 key"]);
    says(&found, &["ok    disk", "ok    writes", "open files", "ok    certificate"]);
    says(&found, &["WARN  policy", "WARN  roster", "WARN  data", "ok    rounds", "FAIL  tcp"]);
    // The directory was opened for the status, which began the journal at today's date.
    says(&site.found_on(1).await, &["ok    journal       1 entries"]);
    let report = examine(site.dir.path(), &Clock::manual(Timestamp::EPOCH)).await.unwrap();
    says(&report.to_string(), &["behind the newest entry", "FAIL  certificate"]);
}

#[tokio::test]
async fn a_certificate_is_missed_before_it_ends() {
    let site = Site::new();
    says(&site.found_on(60).await, &["ok    certificate"]);
    says(
        &site.found_on(62).await,
        &["WARN  certificate", "27 days are left", "reenrol --token-file"],
    );
    says(&site.found_on(90).await, &["FAIL  certificate", "expired at", "reenrol --token-file"]);
    fs::write(site.path(CLIENT_CERTIFICATE), "no certificate").unwrap();
    says(&site.found_on(1).await, &["FAIL  certificate", "cannot be used", "FAIL  directory"]);
}

#[tokio::test]
async fn keys_that_others_can_read_or_that_are_gone_are_found() {
    let site = Site::new();
    fs::set_permissions(site.path(IDENTITY_KEY), fs::Permissions::from_mode(0o640)).unwrap();
    let found = site.found_on(1).await;
    says(&found, &["FAIL  keys", "identity.key (mode 640)", "fix: chmod 600", "FAIL  directory"]);
    fs::set_permissions(site.path(IDENTITY_KEY), fs::Permissions::from_mode(0o600)).unwrap();
    fs::remove_file(site.path(VAULT_KEY)).unwrap();
    says(
        &site.found_on(1).await,
        &["WARN  keys          keys/vault.key is not there", "LoadCredential"],
    );
}

#[tokio::test]
async fn a_configuration_that_is_refused_is_no_finding() {
    let site = Site::new();
    fs::write(site.path(CONFIG_FILE), "cordinator = 1").unwrap();
    let refused = examine(site.dir.path(), &Clock::system()).await;
    assert!(matches!(refused, Err(HomeError::Config(_))));
    fs::remove_file(site.path(CONFIG_FILE)).unwrap();
    let refused = examine(site.dir.path(), &Clock::system()).await;
    assert!(matches!(refused, Err(HomeError::NotEnrolled(_))));
}
