//! The TLS key, the client certificate and the coordinator's authorities, as files, and how they are
//! replaced. Owns the order of writes by which a crash never leaves a key without its certificate;
//! talks to nobody, and signs no statement.
//!
//! A replacement goes through two files that are complete before anything old is touched:
//!
//! ```text
//! keys/tls.next.key.pem   made first and kept until it is certified, so that asking again, after a
//!                         crash or a lost answer, asks for the same key
//! certs/client.next.pem   written whole (temp, fsync, rename): from here on the replacement counts
//! ```
//!
//! Then the key takes its place, then the certificate. A start that finds `client.next.pem` does what
//! is left of that.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use collegium_shared::{
    clock::Timestamp,
    credentials::MAX_AUTHORITIES,
    crypto::{self, CryptoError, Digest, Secret},
    durable,
    files::read_bounded,
    ids::InstitutionId,
};
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, PublicKeyData};
use thiserror::Error;
use x509_parser::{certificate::X509Certificate, pem::Pem, prelude::FromDer};

use crate::identity::{CA_CERTIFICATE, CLIENT_CERTIFICATE, TLS_KEY};

/// A TLS key that waits for its certificate.
const NEXT_KEY: &str = "keys/tls.next.key.pem";
/// A certificate that is about to take its place.
const NEXT_CERTIFICATE: &str = "certs/client.next.pem";

/// The most bytes of a certificate in PEM.
pub(crate) const MAX_CERTIFICATE: usize = 64 << 10;

/// Why the TLS material cannot be used or replaced.
#[derive(Debug, Error)]
pub enum CredentialsError {
    #[error(transparent)]
    Key(#[from] CryptoError),
    #[error("{path}: {source}")]
    Io { path: String, source: io::Error },
    #[error("{0} is not text in PEM; restore the agent's directory from a backup, or enrol again")]
    NotPem(String),
    #[error("the TLS key cannot be made: {0}")]
    TlsKey(#[from] rcgen::Error),
    #[error("the certificate that the coordinator issued is not usable: {0}")]
    BadCertificate(&'static str),
}

/// What authenticates the channel.
pub struct Credentials {
    pub(crate) tls_key: Secret<String>,
    pub(crate) certificate: String,
    /// One or more authorities in PEM, the newest first.
    pub(crate) ca: String,
    /// Whether the newest of them issued the certificate.
    newest: bool,
    key_digest: Digest,
    not_before: Timestamp,
    not_after: Timestamp,
}

impl Credentials {
    /// Reads the files in `dir`; refuses a key that others can read.
    pub fn load(dir: &Path) -> Result<Self, CredentialsError> {
        let path = dir.join(TLS_KEY);
        let bytes = crypto::read_secret(&path)?;
        let not_pem = |path: &Path| CredentialsError::NotPem(path.display().to_string());
        let tls_key = std::str::from_utf8(bytes.expose()).map_err(|_| not_pem(&path))?;
        let path = dir.join(CLIENT_CERTIFICATE);
        let certificate = read_pem(&path)?;
        let block = pem_block(&certificate).ok_or_else(|| not_pem(&path))?;
        let parsed = parse(&block).ok_or_else(|| not_pem(&path))?;
        let at = |seconds: i64| Timestamp::from_millis(seconds.saturating_mul(1_000));
        let validity = parsed.validity();
        let ca = read_pem(&dir.join(CA_CERTIFICATE))?;
        let newest = pem_block(&ca);
        Ok(Self {
            newest: newest.is_some_and(|newest| is_signed_by(&certificate, &[newest])),
            tls_key: Secret::new(tls_key.to_owned()),
            key_digest: Digest::of(parsed.public_key().raw),
            not_before: at(validity.not_before.timestamp()),
            not_after: at(validity.not_after.timestamp()),
            certificate,
            ca,
        })
    }

    /// SHA-256 of the TLS key's SubjectPublicKeyInfo in DER.
    pub fn key_digest(&self) -> Digest {
        self.key_digest
    }

    /// The end of the certificate.
    pub fn expires_at(&self) -> Timestamp {
        self.not_after
    }

    /// From when, and until when, the certificate holds.
    pub(crate) fn window(&self) -> (Timestamp, Timestamp) {
        (self.not_before, self.not_after)
    }

    /// When the certificate is to be replaced: between a half and two thirds of its life, at a place
    /// that differs from institution to institution and from one certificate to the next, so that a
    /// network that enrolled in one day does not renew in one minute.
    pub fn renew_at(&self, fingerprint: &Digest) -> Timestamp {
        let drawn = Digest::of_parts(
            "collegium/v1/renew-at",
            &[fingerprint.as_bytes(), self.key_digest.as_bytes()],
        );
        let [a, b, ..] = drawn.0;
        let share = u32::from(u16::from_be_bytes([a, b]));
        let life = self.not_after.since(self.not_before);
        self.not_before + life / 2 + life / 6 * share / (1 << 16)
    }

    /// Whether the newest of the authorities issued the certificate.
    pub fn is_by_newest_authority(&self) -> bool {
        self.newest
    }

    /// When the certificate ended, if that is over.
    pub fn expired(&self, now: Timestamp) -> Option<Timestamp> {
        (self.not_after <= now).then_some(self.not_after)
    }
}

// --- Replacing -----------------------------------------------------------------------------------

/// A TLS key without a certificate, and the request for one (PKCS#10, DER).
pub(crate) struct Pending {
    spki: Vec<u8>,
    pub(crate) csr: Vec<u8>,
}

impl Pending {
    /// The key that waits in `dir`, or a new one. Durable when this returns.
    pub(crate) fn prepare(
        dir: &Path,
        institution: &InstitutionId,
    ) -> Result<Self, CredentialsError> {
        let path = dir.join(NEXT_KEY);
        let key = match pending_key(&path) {
            Some(key) => key,
            None => make_key(&path)?,
        };
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, institution.as_str());
        let csr = params.serialize_request(&key)?.der().to_vec();
        Ok(Self { spki: key.subject_public_key_info(), csr })
    }

    /// Checks the certificate and puts it and its key in place of the ones before. `ca` are the
    /// authorities that it must be from.
    pub(crate) fn install(
        &self,
        dir: &Path,
        institution: &InstitutionId,
        certificate: &str,
        ca: &str,
        now: Timestamp,
    ) -> Result<(), CredentialsError> {
        let bad = CredentialsError::BadCertificate;
        if certificate.len() > MAX_CERTIFICATE || !certifies(certificate, &self.spki, institution) {
            return Err(bad("it is not over our key"));
        }
        if !is_signed_by(certificate, &authorities(ca).unwrap_or_default()) {
            return Err(bad("none of the authorities known here issued it"));
        }
        if pem_block(certificate).is_none_or(|block| ends_before(&block, now)) {
            return Err(bad("it has expired already; check this machine's clock"));
        }
        let path = dir.join(NEXT_CERTIFICATE);
        durable::write(&path, certificate.as_bytes()).map_err(io_error(&path))?;
        finish(dir)
    }
}

/// Does what is left of a replacement that a crash interrupted. Only the directory's owner may.
pub(crate) fn finish(dir: &Path) -> Result<(), CredentialsError> {
    let (next_key, next) = (dir.join(NEXT_KEY), dir.join(NEXT_CERTIFICATE));
    if !next.exists() {
        return Ok(());
    }
    if next_key.exists() {
        rename(&next_key, &dir.join(TLS_KEY))?;
    }
    rename(&next, &dir.join(CLIENT_CERTIFICATE))
}

/// Durable when this returns, so that the certificate never comes before its key.
fn rename(from: &Path, to: &Path) -> Result<(), CredentialsError> {
    let parent = to.parent().map_or_else(|| PathBuf::from("."), Path::to_owned);
    fs::rename(from, to).and_then(|()| durable::sync_dir(&parent)).map_err(io_error(to))
}

fn pending_key(path: &Path) -> Option<KeyPair> {
    let bytes = crypto::read_secret(path).ok()?;
    KeyPair::from_pem(std::str::from_utf8(bytes.expose()).ok()?).ok()
}

fn make_key(path: &Path) -> Result<KeyPair, CredentialsError> {
    let key = KeyPair::generate()?;
    // A key that a crash left half written was never sent anywhere.
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(io_error(path)(error)),
        _ => {}
    }
    crypto::write_secret(path, Secret::new(key.serialize_pem()).expose().as_bytes())?;
    let keys = path.parent().unwrap_or(Path::new("."));
    durable::sync_dir(keys).map_err(io_error(keys))?;
    Ok(key)
}

/// Replaces the authorities that the coordinator is believed by.
pub(crate) fn write_authorities(dir: &Path, ca: &str) -> Result<(), CredentialsError> {
    let path = dir.join(CA_CERTIFICATE);
    durable::write(&path, ca.as_bytes()).map_err(io_error(&path))
}

// --- Certificates --------------------------------------------------------------------------------

/// Checks that `pem` is one certificate over the key `spki_der`, named after `institution`.
pub(crate) fn certifies(pem: &str, spki_der: &[u8], institution: &InstitutionId) -> bool {
    let Some(block) = pem_block(pem) else { return false };
    let Some(certificate) = parse(&block) else { return false };
    let name = certificate.subject().iter_common_name().next().and_then(|cn| cn.as_str().ok());
    certificate.public_key().raw == spki_der && name == Some(institution.as_str())
}

/// The certificates in `pem`, if there is at least one, not too many, and all may sign others.
pub(crate) fn authorities(pem: &str) -> Option<Vec<Pem>> {
    let blocks: Vec<Pem> = Pem::iter_from_buffer(pem.as_bytes())
        .take(MAX_AUTHORITIES + 1)
        .collect::<Result<_, _>>()
        .ok()?;
    let is_ca = |block: &Pem| parse(block).is_some_and(|certificate| certificate.is_ca());
    let fits = (1..=MAX_AUTHORITIES).contains(&blocks.len()) && blocks.iter().all(is_ca);
    fits.then_some(blocks)
}

fn is_signed_by(certificate: &str, authorities: &[Pem]) -> bool {
    let Some(block) = pem_block(certificate) else { return false };
    let Some(certificate) = parse(&block) else { return false };
    let signed = |authority: &Pem| {
        parse(authority).is_some_and(|authority| {
            certificate.issuer() == authority.subject()
                && certificate.verify_signature(Some(authority.public_key())).is_ok()
        })
    };
    authorities.iter().any(signed)
}

fn ends_before(block: &Pem, now: Timestamp) -> bool {
    parse(block).is_none_or(|c| c.validity().not_after.timestamp() <= now.as_seconds())
}

fn pem_block(pem: &str) -> Option<Pem> {
    Pem::iter_from_buffer(pem.as_bytes()).next()?.ok()
}

fn parse(block: &Pem) -> Option<X509Certificate<'_>> {
    X509Certificate::from_der(&block.contents).ok().map(|(_, certificate)| certificate)
}

fn read_pem(path: &Path) -> Result<String, CredentialsError> {
    let bytes = read_bounded(path, MAX_CERTIFICATE as u64).map_err(io_error(path))?;
    String::from_utf8(bytes).map_err(|_| CredentialsError::NotPem(path.display().to_string()))
}

fn io_error(path: &Path) -> impl Fn(io::Error) -> CredentialsError {
    move |source| CredentialsError::Io { path: path.display().to_string(), source }
}

#[cfg(test)]
mod tests;
