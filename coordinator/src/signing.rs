//! The coordinator's signing key and how it is replaced: a next key waits until the root's roster names it,
//! and takes the place of the one before when that roster comes into force. Owns when each step happens;
//! the files are `next_key`'s.

use std::{io, path::Path};

use collegium_shared::{
    crypto::{CryptoError, VerifyingKey},
    hand_over::{Holder, SignedHandOver},
    journal::JournalError,
    next_key::{KeyFiles, KeyFilesError},
};
use serde_json::{Value, json};

use crate::{
    driver::Driver,
    network::{Event, NetworkEvent},
};

/// The signing key's files.
pub(crate) fn files(dir: &Path) -> KeyFiles {
    KeyFiles::beside(dir.join(crate::SIGNING_KEY))
}

/// The public key that verifies the log of the coordinator in `dir`, at any moment of a replacement.
pub fn log_key(dir: &Path) -> Result<VerifyingKey, CryptoError> {
    files(dir).log_key(&dir.join("journal"))
}

impl Driver {
    /// Makes the next key and has the one in force vouch for it. What was begun before is answered again.
    pub(crate) fn rotate_key(&mut self) -> Result<Result<Value, String>, JournalError> {
        let next = match files(self.dir()).make_next() {
            Ok(next) => next,
            Err(error) => return Ok(Err(error.to_string())),
        };
        let new = next.verifying_key();
        let known = self.state.network.hand_over();
        if known.is_none_or(|known| known.body.new != new) {
            let holder = Holder::Coordinator(self.origin().to_owned());
            let hand_over = SignedHandOver::sign(holder, &self.key, &next, self.now());
            let hand_over = Box::new(hand_over);
            self.record(Event::Network(NetworkEvent::KeyHandedOver { hand_over }))?;
        }
        let key = self.key.verifying_key().fingerprint();
        Ok(Ok(json!({ "fingerprint": key, "next_fingerprint": new.fingerprint() })))
    }

    /// Goes over to the next key if the roster in force names it. What was recorded before becomes
    /// durable under the key before.
    pub(crate) fn go_over(&mut self) -> Result<(), JournalError> {
        let Some(hand_over) = self.state.network.hand_over().cloned() else { return Ok(()) };
        let new = hand_over.body.new;
        let roster = self.state.roster.as_deref();
        if roster.is_none_or(|roster| *roster.coordinator() != new) {
            return Ok(());
        }
        let files = files(self.dir());
        let failed = |error: KeyFilesError| JournalError::Io {
            path: files.key.clone(),
            source: io::Error::other(error),
        };
        let (key, signer) = (files.next(&new).map_err(failed)?, files.next(&new).map_err(failed)?);
        self.change_log_key(hand_over, signer)?;
        files.move_into_place().map_err(failed)?;
        files.destroy_previous().map_err(failed)?;
        self.key = key;
        self.sign_authorities();
        self.countersign();
        tracing::info!(fingerprint = %new.fingerprint(), "the signing key that the roster names is in use");
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt};

    use collegium_shared::{
        audit,
        crypto::{Digest, SigningKey},
        documents::{SignedDocument, UnsignedDocument},
    };

    use super::*;
    use crate::{
        admin::AdminRequest,
        archive::{restore::restore, tests::Site},
        root::unsigned_roster,
    };

    fn verified(dir: &Path) {
        audit::verify(&dir.join("journal"), &log_key(dir).unwrap()).unwrap();
    }

    fn own(driver: &Driver) -> VerifyingKey {
        driver.key.verifying_key()
    }

    /// The roster in force again, signed for the next key.
    fn naming(site: &Site, next: VerifyingKey) -> SignedDocument {
        let driver = site.open(&site.dir);
        let current = driver.state.roster.as_deref().unwrap();
        let hand_overs = driver.state.network.hand_over().cloned().into_iter().collect();
        let members = current.members().to_vec();
        site.sign(&unsigned_roster(members, next, Some(current), hand_overs, driver.now()))
    }

    #[test]
    fn a_key_waits_for_its_roster_and_then_takes_the_place_of_the_one_before() {
        let site = Site::new();
        let old = site.key();
        let asked = site.ask(AdminRequest::RotateKey);
        assert_eq!(site.ask(AdminRequest::RotateKey), asked, "once");
        let driver = site.open(&site.dir);
        assert_eq!(own(&driver), old);
        let next = driver.state.network.hand_over().unwrap().body.new;
        drop(driver);
        // A backup of now knows both keys, whatever comes later.
        let (archive, _) = site.backup("before.tar", true);
        let document = Box::new(naming(&site, next));
        site.ask(AdminRequest::ImportRoster { document: document.clone() });
        let driver = site.open(&site.dir);
        assert_eq!((own(&driver), site.key()), (next, next));
        assert!(driver.state.network.hand_over().is_none());
        drop(driver);
        verified(&site.dir);
        let files = files(&site.dir);
        assert!(!files.next.exists() && !files.previous.exists());
        let (after, _) = site.backup("after.tar", true);
        let restored = site.path("after");
        restore(&after, &restored, site.open(&site.dir).now()).unwrap();
        verified(&restored);

        let restored = site.path("before");
        restore(&archive, &restored, site.open(&site.dir).now()).unwrap();
        let driver = site.open(&restored);
        assert_eq!(own(&driver), old);
        driver.once(AdminRequest::ImportRoster { document }).unwrap().unwrap();
        assert_eq!(own(&site.open(&restored)), next);
        verified(&restored);
        let again = site.ask(AdminRequest::RotateKey);
        assert_eq!(again["fingerprint"], next.fingerprint().to_string());
    }

    #[test]
    fn a_roster_that_names_a_key_of_nobodys_is_refused() {
        let site = Site::new();
        site.ask(AdminRequest::RotateKey);
        let stranger = SigningKey::create(&site.path("stranger")).unwrap().verifying_key();
        let driver = site.open(&site.dir);
        let current = driver.state.roster.as_deref().unwrap();
        let members = current.members().to_vec();
        let draft = unsigned_roster(members, stranger, Some(current), Vec::new(), driver.now());
        let document = Box::new(site.sign(&draft));
        let refused = driver.once(AdminRequest::ImportRoster { document }).unwrap();
        assert!(refused.unwrap_err().contains("another coordinator's key"));
    }

    /// A key that others can read is not used, and nothing is moved on its account; a next key that the
    /// log does not name is not needed.
    fn exposed_keys_stop_what_needs_them(dir: &Path, crash: u32) {
        let places = files(dir);
        let there = || [&places.key, &places.next, &places.previous].map(|path| path.exists());
        let before = there();
        for path in [&places.key, &places.next].into_iter().filter(|path| path.exists()) {
            let unneeded = crash == 0 && *path == places.next;
            let mode = |mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
            mode(0o644);
            assert_eq!(log_key(dir).is_ok(), unneeded, "crash {crash}");
            if crash < 2 {
                let finished = places.finish(&dir.join("journal"));
                assert_eq!(finished.is_ok(), unneeded, "crash {crash}");
            }
            assert_eq!(there(), before, "crash {crash}");
            mode(0o600);
        }
    }

    /// The member `a` of the roster, as if it had enrolled.
    fn enrol(site: &Site) {
        let mut driver = site.open(&site.dir);
        let member = driver.state.roster.as_deref().unwrap().members()[0].clone();
        let (token_sha256, expires_at) = (Digest::of(b"token"), driver.now());
        let invited = NetworkEvent::Invited {
            institution: member.institution.clone(),
            legal_entity: member.legal_entity,
            token_sha256,
            expires_at,
        };
        let enrolled = NetworkEvent::Enrolled {
            institution: member.institution,
            identity: member.identity,
            tls_key: Digest::of(b"tls"),
            token_sha256,
            certificate_expires_at: expires_at,
            authority: None,
        };
        for event in [invited, enrolled] {
            driver.record(Event::Network(event)).unwrap();
        }
        driver.once(AdminRequest::Status).unwrap().unwrap();
    }

    /// The root's roster for a next key that was lost since.
    fn naming_a_lost_key(site: &Site) -> SignedDocument {
        enrol(site);
        site.ask(AdminRequest::RotateKey);
        let next = files(&site.dir).next;
        let document = naming(site, SigningKey::load(&next).unwrap().verifying_key());
        fs::remove_file(next).unwrap();
        document
    }

    fn refusal(site: &Site, request: AdminRequest) -> String {
        site.open(&site.dir).once(request).unwrap().unwrap_err()
    }

    /// What OPERATIONS says to do when the next key is lost that a signed roster names.
    fn way_out(site: &Site, lost: SignedDocument) {
        site.ask(AdminRequest::RotateKey);
        let after = AdminRequest::ExportRosterAfter { document: Box::new(lost.clone()) };
        let draft = serde_json::from_value(site.ask(after)).unwrap();
        assert!(matches!(draft, UnsignedDocument::Roster(_)), "no hand-over by the lost key");
        let document = Box::new(site.sign(&draft));
        site.ask(AdminRequest::ImportRoster { document });
        let driver = site.open(&site.dir);
        assert_eq!(driver.state.roster.as_deref().unwrap().version(), 3);
        assert_eq!(*driver.state.roster.as_deref().unwrap().coordinator(), own(&driver));
        assert!(driver.state.network.waiting_roster().is_none());
        drop(driver);
        verified(&site.dir);
    }

    #[test]
    fn a_roster_that_names_a_lost_key_is_refused_and_the_one_after_it_is_not() {
        let site = Site::new();
        let old = site.key();
        let lost = naming_a_lost_key(&site);
        let before = site.open(&site.dir).entries();
        let import = || AdminRequest::ImportRoster { document: Box::new(lost.clone()) };
        assert!(refusal(&site, import()).contains("cannot be used here"));
        let driver = site.open(&site.dir);
        assert_eq!((own(&driver), driver.entries()), (old, before), "nothing is recorded");
        drop(driver);
        way_out(&site, lost);
    }

    #[test]
    fn a_waiting_roster_whose_key_is_lost_goes_on_waiting_and_says_so() {
        let site = Site::new();
        let old = site.key();
        let lost = naming_a_lost_key(&site);
        let mut driver = site.open(&site.dir);
        let document = crate::admin::keep(&driver, &lost).unwrap();
        driver.record(Event::Network(NetworkEvent::RosterWaits { document, version: 2 })).unwrap();
        assert!(!driver.take_waiting_roster().unwrap());
        assert!(!driver.take_waiting_roster().unwrap(), "and again");
        driver.once(AdminRequest::Status).unwrap().unwrap();
        let driver = site.open(&site.dir);
        assert_eq!(own(&driver), old);
        assert_eq!(driver.state.roster.as_deref().unwrap().version(), 1);
        drop(driver);
        let status = site.ask(AdminRequest::Status);
        assert!(status["waiting_roster"]["error"].as_str().unwrap().contains("cannot be used"));
        let refused = refusal(&site, AdminRequest::ExportRoster);
        assert!(refused.contains("--after"), "{refused}");
        way_out(&site, lost);
    }

    #[test]
    fn whatever_a_crash_leaves_is_finished_at_the_next_start() {
        for crash in 0..4 {
            let site = Site::new();
            site.ask(AdminRequest::RotateKey);
            let files = files(&site.dir);
            let keys =
                [&files.key, &files.next].map(|path| (path.clone(), fs::read(path).unwrap()));
            let next = SigningKey::load(&files.next).unwrap().verifying_key();
            let document = Box::new(naming(&site, next));
            site.ask(AdminRequest::ImportRoster { document });
            let log = site.dir.join("journal/journal.log");
            let whole = fs::read(&log).unwrap();
            fs::remove_file(&files.key).unwrap();
            let [(_, old), (_, new)] = &keys;
            let put = |path: &Path, bytes: &[u8]| {
                collegium_shared::durable::write(path, bytes).unwrap();
            };
            match crash {
                // The roster is in the log, and the change is not, or only in part.
                0 => {
                    let change = b"signing_key_changed";
                    let at = whole.windows(change.len()).position(|part| part == change).unwrap();
                    fs::write(&log, &whole[..at]).unwrap();
                    fs::remove_file(site.dir.join("journal/checkpoint")).unwrap();
                    put(&files.key, old);
                    put(&files.next, new);
                }
                1 => {
                    put(&files.key, old);
                    put(&files.next, new);
                }
                2 => {
                    put(&files.previous, old);
                    put(&files.next, new);
                }
                _ => {
                    put(&files.key, new);
                    put(&files.previous, old);
                }
            }
            exposed_keys_stop_what_needs_them(&site.dir, crash);
            if crash > 0 {
                verified(&site.dir);
            }
            let driver = site.open(&site.dir);
            assert_eq!(own(&driver), next, "crash {crash}");
            let roster = driver.state.roster.as_deref().unwrap();
            assert_eq!(*roster.coordinator(), next, "crash {crash}");
            drop(driver);
            verified(&site.dir);
            assert!(files.key.exists() && !files.next.exists() && !files.previous.exists());
            assert_eq!(site.key(), next);
        }
    }
}
