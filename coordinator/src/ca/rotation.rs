//! Replacing the authority: a new one is made beside the old, both are in force for a while, and the
//! old one is let go. Owns the order of writes; who still depends on the old one is `authorities`'.
//!
//! ```text
//! keys/ca.next.key.pem   the new key, durable before anything names it
//! ca-cross.pem           the new authority certified by the old one, for agents that know only that
//! ca.pem                 new and old certificate: written whole, from here on the rotation counts
//! keys/ca.key.pem        then the new key takes its place, and the old one is gone
//! ```

use std::{fs, io, path::Path};

use collegium_shared::{
    clock::Timestamp,
    crypto::{self, Secret},
    durable,
};
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256, PublicKeyData};

use super::{
    CERTIFICATE_FILE, Ca, CaError, KEY_FILE, authority_params, certificate_spki, io_error,
    read_certificates, read_key,
};

const NEXT_KEY: &str = "keys/ca.next.key.pem";
/// The issuing authority, certified by the one before.
pub(super) const CROSS_FILE: &str = "ca-cross.pem";

impl Ca {
    /// Makes a new authority that issues from now on; the one before stays in force beside it. Its
    /// key goes, so that nobody can steal it later.
    pub fn rotate(&self, now: Timestamp) -> Result<Self, CaError> {
        if self.certificates.len() > 1 {
            return Err(CaError::Rotating);
        }
        let dir = &self.dir;
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let params = authority_params(now)?;
        let (own, cross) = (params.self_signed(&key)?, params.signed_by(&key, &self.issuer)?);
        let (next, keys) = (dir.join(NEXT_KEY), dir.join("keys"));
        remove(&next)?;
        crypto::write_secret(&next, Secret::new(key.serialize_pem()).expose().as_bytes())?;
        durable::sync_dir(&keys).map_err(io_error(&keys))?;
        write(&dir.join(CROSS_FILE), &cross.pem())?;
        write(&dir.join(CERTIFICATE_FILE), &format!("{}{}", own.pem(), self.pem))?;
        Self::load(dir)
    }

    /// Lets every authority but the issuing one go: certificates of theirs are refused from now on.
    pub fn retire(&self) -> Result<Self, CaError> {
        if self.certificates.len() < 2 {
            return Err(CaError::NothingToRetire);
        }
        let newest = self.certificate_pems().into_iter().next().unwrap_or_default();
        write(&self.dir.join(CERTIFICATE_FILE), &newest)?;
        remove(&self.dir.join(CROSS_FILE))?;
        Self::load(&self.dir)
    }
}

/// Ends a rotation that a crash interrupted: forward if `ca.pem` names the new key, else back.
pub(super) fn finish(dir: &Path) -> Result<(), CaError> {
    let next = dir.join(NEXT_KEY);
    if !next.exists() {
        return Ok(());
    }
    let issuing = read_certificates(&dir.join(CERTIFICATE_FILE))?.into_iter().next();
    let counts = read_key(&next).is_ok_and(|key| {
        let spki = issuing.as_ref().and_then(|certificate| certificate_spki(certificate));
        spki.is_some_and(|spki| spki == key.subject_public_key_info())
    });
    if !counts {
        return remove(&next);
    }
    let (key, keys) = (dir.join(KEY_FILE), dir.join("keys"));
    fs::rename(&next, &key).and_then(|()| durable::sync_dir(&keys)).map_err(io_error(&key))
}

fn write(path: &Path, pem: &str) -> Result<(), CaError> {
    durable::write(path, pem.as_bytes()).map_err(io_error(path))
}

fn remove(path: &Path) -> Result<(), CaError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(io_error(path)(error)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use rustls::{
        RootCertStore,
        client::WebPkiServerVerifier,
        client::danger::ServerCertVerifier,
        crypto::ring,
        pki_types::{CertificateDer, ServerName, UnixTime},
    };

    use super::*;
    use crate::ca::ServerCertificate;

    fn now() -> Timestamp {
        "2026-08-01T12:00:00Z".parse().unwrap()
    }

    /// Whether a client that knows `roots` takes the server's certificate.
    fn takes(roots: &[CertificateDer<'static>], server: &ServerCertificate) -> bool {
        let mut store = RootCertStore::empty();
        roots.iter().for_each(|root| store.add(root.clone()).unwrap());
        let provider = Arc::new(ring::default_provider());
        let verifier =
            WebPkiServerVerifier::builder_with_provider(Arc::new(store), provider).build().unwrap();
        let (leaf, rest) = server.chain.split_first().unwrap();
        let seconds = u64::try_from(now().as_seconds()).unwrap();
        let time = UnixTime::since_unix_epoch(std::time::Duration::from_secs(seconds));
        let name = ServerName::try_from("localhost").unwrap();
        verifier.verify_server_cert(leaf, rest, &name, &[], time).is_ok()
    }

    fn server(ca: &Ca) -> ServerCertificate {
        ca.issue_server(&["localhost".to_owned()], now()).unwrap()
    }

    #[test]
    fn during_a_rotation_everybody_takes_the_server() {
        let dir = tempfile::tempdir().unwrap();
        let first = Ca::create(dir.path(), now()).unwrap();
        let old_key = fs::read(dir.path().join(KEY_FILE)).unwrap();
        let both = first.rotate(now()).unwrap();
        assert_eq!(both.certificates().len(), 2);
        assert_eq!(both.certificates()[1], first.certificates()[0]);
        assert_ne!(fs::read(dir.path().join(KEY_FILE)).unwrap(), old_key, "the old key is gone");
        assert!(!dir.path().join(NEXT_KEY).exists());
        let shown = server(&both);
        assert!(takes(first.certificates(), &shown), "who knows the old one alone");
        assert!(takes(&both.certificates()[..1], &shown), "who knows the new one alone");
        assert!(takes(both.certificates(), &shown));
        assert!(matches!(both.rotate(now()), Err(CaError::Rotating)));

        let last = both.retire().unwrap();
        assert_eq!(last.certificates(), &both.certificates()[..1]);
        assert!(!takes(first.certificates(), &server(&last)));
        assert!(takes(last.certificates(), &server(&last)));
        assert!(matches!(last.retire(), Err(CaError::NothingToRetire)));
        assert_eq!(Ca::load(dir.path()).unwrap().pem(), last.pem());
        assert!(last.rotate(now()).is_ok(), "again, some day");
    }

    #[test]
    fn a_rotation_that_a_crash_interrupts_goes_forward_or_back() {
        for crash in 0..4 {
            let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
            let before = Ca::create(dir.path(), now()).unwrap();
            // The same rotation, done whole beside it.
            for name in ["ca.pem", KEY_FILE] {
                fs::create_dir_all(other.path().join("keys")).unwrap();
                fs::copy(dir.path().join(name), other.path().join(name)).unwrap();
            }
            let after = Ca::load(other.path()).unwrap().rotate(now()).unwrap();
            let take = |from: &str, to: &str| {
                fs::copy(other.path().join(from), dir.path().join(to)).map(drop).unwrap();
            };
            match crash {
                0 => fs::write(dir.path().join(NEXT_KEY), "torn").unwrap(),
                _ => take(KEY_FILE, NEXT_KEY),
            }
            if crash >= 2 {
                take(CROSS_FILE, CROSS_FILE);
            }
            if crash >= 3 {
                take("ca.pem", "ca.pem");
            }
            let loaded = Ca::load(dir.path()).unwrap();
            let wanted = if crash >= 3 { &after } else { &before };
            assert_eq!(loaded.certificates(), wanted.certificates(), "crash {crash}");
            assert!(takes(loaded.certificates(), &server(&loaded)), "crash {crash}");
            assert!(!dir.path().join(NEXT_KEY).exists());
        }
    }
}
