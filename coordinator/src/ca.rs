//! The coordinator's own certificate authority: ECDSA P-256, because every TLS library accepts it.
//! It authenticates channels only; who an institution is, and what it says in a round, rests on the
//! identity keys in the roster.

mod rotation;

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError, RwLock},
    time::Duration,
};

use base64::{Engine, engine::general_purpose::STANDARD};
use collegium_shared::{
    clock::Timestamp,
    crypto::{self, CryptoError, Digest, Secret},
    durable,
    files::read_bounded,
    ids::InstitutionId,
};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PublicKeyData, SanType, SerialNumber,
    SubjectPublicKeyInfo,
};
use rustls::pki_types::{
    CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, pem::PemObject,
};
use thiserror::Error;
use x509_parser::{
    certificate::X509Certificate, certification_request::X509CertificationRequest, prelude::FromDer,
};

/// The most bytes of a certificate signing request.
pub const MAX_CSR: usize = 16 << 10;
/// How the URI in a client certificate starts; the institution's name follows.
pub const INSTITUTION_URI: &str = "collegium:institution:";

pub(crate) const KEY_FILE: &str = "keys/ca.key.pem";
pub(crate) const CERTIFICATE_FILE: &str = "ca.pem";
const DAY: Duration = Duration::from_secs(86_400);
/// How long the authority's own certificate holds.
const CA_LIFETIME: Duration = DAY.saturating_mul(3_650);
/// How long the certificates of server and clients hold.
pub const LEAF_LIFETIME: Duration = DAY.saturating_mul(90);
/// Certificates hold from a little earlier, for clocks that are behind.
pub(crate) const CLOCK_SKEW: Duration = Duration::from_secs(3_600);

/// Why the authority cannot be used or will not sign.
#[derive(Debug, Error)]
pub enum CaError {
    #[error("the certificate signing request is refused: {0}")]
    BadCsr(&'static str),
    #[error("{0:?} is neither a host name nor an IP address: correct `names` in coordinator.toml")]
    BadName(String),
    #[error(transparent)]
    Key(#[from] CryptoError),
    #[error("{path}: {reason}; restore both ca.pem and keys/ca.key.pem from one backup")]
    Damaged { path: String, reason: &'static str },
    #[error("{path}: {source}")]
    Io { path: String, source: std::io::Error },
    #[error(
        "a rotation is under way: two authorities are in force; first let the old one go: ca retire"
    )]
    Rotating,
    #[error("one authority is in force alone; to replace it: ca rotate")]
    NothingToRetire,
    #[error("the certificate cannot be made: {0}")]
    Certificate(#[from] rcgen::Error),
}

/// The certificate authority with its private key.
pub struct Ca {
    dir: PathBuf,
    issuer: Issuer<'static, KeyPair>,
    /// Those in force, the issuing one first.
    certificates: Vec<CertificateDer<'static>>,
    /// The issuing one as the one before certified it, while that is in force too.
    cross: Option<CertificateDer<'static>>,
    pem: String,
    /// The end of the server's newest certificate.
    server_until: Mutex<Option<Timestamp>>,
}

/// The authority that is in force, for everybody who has to follow when it changes. Cheap to clone.
#[derive(Clone)]
pub struct InForce(Arc<RwLock<Arc<Ca>>>);

impl InForce {
    pub fn new(ca: Ca) -> Self {
        Self(Arc::new(RwLock::new(Arc::new(ca))))
    }

    /// The authority of this moment.
    pub fn current(&self) -> Arc<Ca> {
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Puts another in force.
    pub(crate) fn replace(&self, ca: Ca) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(ca);
    }
}

/// A certificate and key of the server's: `listener` makes them anew as time goes by.
pub struct ServerCertificate {
    /// The certificate first, then what leads to an authority that agents know.
    pub(crate) chain: Vec<CertificateDer<'static>>,
    pub(crate) key: PrivateKeyDer<'static>,
}

/// A certificate that was issued to an institution.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientCertificate {
    pub pem: String,
    /// [`key_digest`] of its key.
    pub key_digest: Digest,
    /// Hexadecimal.
    pub serial: String,
    pub not_after: Timestamp,
    /// [`Ca::issuing`] of the authority.
    pub authority: Digest,
}

/// The digest by which a TLS key is known: SHA-256 of its SubjectPublicKeyInfo in DER.
pub fn key_digest(spki_der: &[u8]) -> Digest {
    Digest::of(spki_der)
}

impl Ca {
    /// Makes an authority in `dir`: `keys/ca.key.pem` (mode 0600) and `ca.pem`. Refuses to
    /// overwrite a key.
    pub fn create(dir: &Path, now: Timestamp) -> Result<Self, CaError> {
        let key_path = dir.join(KEY_FILE);
        let keys = dir.join("keys");
        durable::create_dir(&keys).map_err(io_error(&keys))?;
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let certificate = authority_params(now)?.self_signed(&key)?;
        let key_pem = Secret::new(key.serialize_pem());
        crypto::write_secret(&key_path, key_pem.expose().as_bytes())?;
        durable::sync_dir(&keys).map_err(io_error(&keys))?;
        let path = dir.join(CERTIFICATE_FILE);
        durable::write(&path, certificate.pem().as_bytes()).map_err(io_error(&path))?;
        Self::load(dir)
    }

    /// Reads the authority in `dir`, and checks that key and certificate belong together. Ends a
    /// rotation that a crash interrupted, so only the directory's owner may call it.
    pub fn load(dir: &Path) -> Result<Self, CaError> {
        rotation::finish(dir)?;
        let path = dir.join(CERTIFICATE_FILE);
        let key = read_key(&dir.join(KEY_FILE))?;
        let certificates = read_certificates(&path)?;
        let spki = key.subject_public_key_info();
        let fits = |c: &CertificateDer<'_>| certificate_spki(c).is_some_and(|s| s == spki);
        let Some(issuing) = certificates.first().filter(|certificate| fits(certificate)) else {
            return Err(damaged(&path, "the certificate belongs to another key"));
        };
        let issuer = Issuer::from_ca_cert_der(issuing, key)?;
        let cross = dir.join(rotation::CROSS_FILE);
        let cross = if certificates.len() > 1 && cross.exists() {
            read_certificates(&cross)?.into_iter().next().filter(|cross| fits(cross))
        } else {
            None
        };
        let pem = certificates.iter().map(|certificate| to_pem(certificate)).collect();
        Ok(Self {
            dir: dir.to_owned(),
            issuer,
            certificates,
            cross,
            pem,
            server_until: Mutex::default(),
        })
    }

    /// The certificates of the authorities in force, as they go into invitations.
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// The same one by one, the issuing one first.
    pub(crate) fn certificate_pems(&self) -> Vec<String> {
        self.certificates.iter().map(|certificate| to_pem(certificate)).collect()
    }

    /// The authorities whose client certificates are taken, the issuing one first.
    pub(crate) fn certificates(&self) -> &[CertificateDer<'static>] {
        &self.certificates
    }

    /// SHA-256 of each certificate in force, the issuing one first.
    pub fn digests(&self) -> Vec<Digest> {
        self.certificates.iter().map(|certificate| Digest::of(certificate)).collect()
    }

    /// When the issuing authority's own certificate ends.
    pub fn expires_at(&self) -> Timestamp {
        let issuing = self.certificates.first();
        issuing.and_then(validity).map_or(Timestamp::EPOCH, |(_, until)| until)
    }

    /// SHA-256 of the issuing certificate.
    pub fn issuing(&self) -> Digest {
        self.certificates.first().map_or(Digest([0; 32]), |certificate| Digest::of(certificate))
    }

    /// A fresh key and certificate for a server that is reached under `names` (host names or IP
    /// addresses). Valid for 90 days.
    pub fn issue_server(
        &self,
        names: &[String],
        now: Timestamp,
    ) -> Result<ServerCertificate, CaError> {
        for name in names {
            ServerName::try_from(name.as_str()).map_err(|_| CaError::BadName(name.clone()))?;
        }
        let mut params = leaf_params("Collegium coordinator", now)?;
        params.subject_alt_names = CertificateParams::new(names)?.subject_alt_names;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let leaf = params.signed_by(&key, &self.issuer)?.into();
        let chain = [Some(leaf), self.cross.clone()].into_iter().flatten().collect();
        let key = PrivatePkcs8KeyDer::from(key.serialize_der()).into();
        *self.server_until.lock().unwrap_or_else(PoisonError::into_inner) = Some(not_after(now));
        Ok(ServerCertificate { chain, key })
    }

    /// When the server's newest certificate ends; none if this authority has issued none since it was
    /// loaded.
    pub fn server_expires_at(&self) -> Option<Timestamp> {
        *self.server_until.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A client certificate for `institution` over the key in `csr_der` (PKCS#10). Only the key is
    /// taken from the request; subject, extensions and validity are the authority's own.
    pub fn issue_client(
        &self,
        csr_der: &[u8],
        institution: &InstitutionId,
        now: Timestamp,
    ) -> Result<ClientCertificate, CaError> {
        let key = csr_key(csr_der)?;
        let mut params = leaf_params(institution.as_str(), now)?;
        let serial = serial()?;
        let uri = format!("{INSTITUTION_URI}{institution}");
        params.subject_alt_names = vec![SanType::URI(uri.try_into()?)];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        params.serial_number = Some(SerialNumber::from_slice(&serial));
        let pem = params.signed_by(&key, &self.issuer)?.pem();
        Ok(ClientCertificate {
            pem,
            key_digest: key_digest(&key.subject_public_key_info()),
            serial: hex::encode(serial),
            not_after: not_after(now),
            authority: self.issuing(),
        })
    }
}

/// The key in a certificate signing request, once the request is known to be signed with it.
pub fn csr_key(csr_der: &[u8]) -> Result<SubjectPublicKeyInfo, CaError> {
    if csr_der.len() > MAX_CSR {
        return Err(CaError::BadCsr("it has more than 16 KiB"));
    }
    let (rest, csr) = X509CertificationRequest::from_der(csr_der)
        .map_err(|_| CaError::BadCsr("it is not PKCS#10 in DER"))?;
    if !rest.is_empty() {
        return Err(CaError::BadCsr("bytes follow it"));
    }
    csr.verify_signature().map_err(|_| CaError::BadCsr("it is not signed with its own key"))?;
    let spki = csr.certification_request_info.subject_pki.raw;
    SubjectPublicKeyInfo::from_der(spki)
        .ok()
        .filter(|key| *key.algorithm() == PKCS_ECDSA_P256_SHA256)
        .ok_or(CaError::BadCsr("its key is not ECDSA P-256"))
}

fn authority_params(now: Timestamp) -> Result<CertificateParams, CaError> {
    let tag = hex::encode(crypto::random::<4>()?);
    let mut params = params(&format!("Collegium network CA {tag}"), now, CA_LIFETIME)?;
    // One more below it: the next authority, which it certifies when it is replaced.
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(1));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok(params)
}

fn leaf_params(name: &str, now: Timestamp) -> Result<CertificateParams, CaError> {
    let mut params = params(name, now, LEAF_LIFETIME)?;
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}

fn params(name: &str, now: Timestamp, life: Duration) -> Result<CertificateParams, CaError> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.serial_number = Some(SerialNumber::from_slice(&serial()?));
    // X.509 counts in whole seconds; rcgen's own date type is reached through its constructor.
    let at = |time: Timestamp| {
        rcgen::date_time_ymd(1970, 1, 1)
            + Duration::from_secs(time.since(Timestamp::EPOCH).as_secs())
    };
    params.not_before = at(now - CLOCK_SKEW);
    params.not_after = at(now + life);
    Ok(params)
}

/// The end of a leaf that is issued now, in whole seconds as X.509 has them.
fn not_after(now: Timestamp) -> Timestamp {
    Timestamp::from_millis((now + LEAF_LIFETIME).as_seconds() * 1_000)
}

/// A random positive serial number (RFC 5280, 4.1.2.2) that never starts with a zero byte.
fn serial() -> Result<[u8; 16], CryptoError> {
    let mut serial = crypto::random::<16>()?;
    serial[0] = serial[0] & 0x7f | 0x40;
    Ok(serial)
}

fn read_key(path: &Path) -> Result<KeyPair, CaError> {
    let bytes = crypto::read_secret(path)?;
    std::str::from_utf8(bytes.expose())
        .ok()
        .and_then(|pem| KeyPair::from_pem(pem).ok())
        .ok_or_else(|| damaged(path, "this is not a private key in PEM"))
}

/// From when until when the issuing authority's certificate in `dir` holds.
pub(crate) fn window(dir: &Path) -> Result<(Timestamp, Timestamp), CaError> {
    let path = dir.join(CERTIFICATE_FILE);
    let certificates = read_certificates(&path)?;
    let window = certificates.first().and_then(validity);
    window.ok_or_else(|| damaged(&path, "this is not a certificate in PEM"))
}

/// From when until when a certificate holds; none if it is not one.
pub(crate) fn validity(der: &CertificateDer<'_>) -> Option<(Timestamp, Timestamp)> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    let at = |seconds: i64| Timestamp::from_millis(seconds.saturating_mul(1_000));
    let validity = certificate.validity();
    Some((at(validity.not_before.timestamp()), at(validity.not_after.timestamp())))
}

/// One or more certificates in a file.
pub(crate) fn read_certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, CaError> {
    let bytes = read_bounded(path, 64 << 10).map_err(io_error(path))?;
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&bytes).collect();
    let found = certificates.ok().filter(|found| !found.is_empty());
    found.ok_or_else(|| damaged(path, "this is not a certificate in PEM"))
}

fn to_pem(certificate: &CertificateDer<'_>) -> String {
    let text = STANDARD.encode(certificate);
    let lines: Vec<&str> =
        (0..text.len()).step_by(64).map(|at| &text[at..text.len().min(at + 64)]).collect();
    format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", lines.join("\n"))
}

fn damaged(path: &Path, reason: &'static str) -> CaError {
    CaError::Damaged { path: path.display().to_string(), reason }
}

/// The SubjectPublicKeyInfo of a certificate, in DER.
fn certificate_spki(der: &[u8]) -> Option<Vec<u8>> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    Some(certificate.public_key().raw.to_vec())
}

fn io_error(path: &Path) -> impl Fn(std::io::Error) -> CaError {
    move |source| CaError::Io { path: path.display().to_string(), source }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt};

    use rcgen::PKCS_ED25519;

    use super::*;

    fn now() -> Timestamp {
        "2026-08-01T12:00:00Z".parse().unwrap()
    }

    fn csr(key: &KeyPair, name: &str) -> Vec<u8> {
        let mut params = CertificateParams::new([name.to_owned()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.serialize_request(key).unwrap().der().to_vec()
    }

    fn refused(csr: &[u8]) -> &'static str {
        match csr_key(csr) {
            Err(CaError::BadCsr(reason)) => reason,
            _ => panic!("not refused"),
        }
    }

    #[test]
    fn a_client_certificate_takes_only_the_key_from_the_request() {
        let dir = tempfile::tempdir().unwrap();
        let ca = Ca::create(dir.path(), now()).unwrap();
        let key = KeyPair::generate().unwrap();
        let institution = "school-a".parse().unwrap();
        let issued = ca.issue_client(&csr(&key, "evil.example"), &institution, now()).unwrap();
        let der = CertificateDer::from_pem_slice(issued.pem.as_bytes()).unwrap();
        let (_, certificate) = X509Certificate::from_der(&der).unwrap();
        assert_eq!(certificate.subject().to_string(), "CN=school-a");
        assert_eq!(certificate.public_key().raw, key.subject_public_key_info());
        assert_eq!(issued.key_digest, key_digest(&key.subject_public_key_info()));
        assert_eq!(certificate.raw_serial_as_string().replace(':', ""), issued.serial);
        let usage = certificate.extended_key_usage().unwrap().unwrap().value;
        assert!(usage.client_auth && !usage.server_auth);
        assert!(!certificate.is_ca());
        let names = &certificate.subject_alternative_name().unwrap().unwrap().value.general_names;
        assert_eq!(names.len(), 1);
        assert!(format!("{names:?}").contains("collegium:institution:school-a"));
        let end = certificate.validity().not_after.timestamp();
        assert_eq!(end, issued.not_after.as_seconds());
        assert_eq!(end, now().as_seconds() + 90 * 86_400);
    }

    #[test]
    fn bad_requests_are_refused() {
        let key = KeyPair::generate().unwrap();
        let good = csr(&key, "school-a");
        assert!(csr_key(&good).is_ok());
        assert_eq!(refused(b"garbage"), "it is not PKCS#10 in DER");
        assert_eq!(refused(&good[..good.len() - 1]), "it is not PKCS#10 in DER");
        assert_eq!(refused(&[&good[..], b"x"].concat()), "bytes follow it");
        assert_eq!(refused(&vec![0; MAX_CSR + 1]), "it has more than 16 KiB");
        let mut forged = good.clone();
        let at = forged.windows(8).position(|w| w == b"school-a").unwrap();
        forged[at] = b'x';
        assert_eq!(refused(&forged), "it is not signed with its own key");
        let other = KeyPair::generate_for(&PKCS_ED25519).unwrap();
        assert_eq!(refused(&csr(&other, "school-a")), "its key is not ECDSA P-256");
    }

    #[test]
    fn the_authority_is_read_back_and_never_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let made = Ca::create(dir.path(), now()).unwrap();
        assert_eq!(Ca::load(dir.path()).unwrap().pem(), made.pem());
        assert_eq!(made.expires_at().since(now()).as_secs(), CA_LIFETIME.as_secs());
        let key = dir.path().join(KEY_FILE);
        assert_eq!(fs::metadata(&key).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(matches!(Ca::create(dir.path(), now()), Err(CaError::Key(_))));
        assert_eq!(Ca::load(dir.path()).unwrap().pem(), made.pem());
        let other = tempfile::tempdir().unwrap();
        Ca::create(other.path(), now()).unwrap();
        fs::copy(other.path().join("ca.pem"), dir.path().join("ca.pem")).unwrap();
        assert!(matches!(Ca::load(dir.path()), Err(CaError::Damaged { .. })));
        fs::write(&key, "nonsense").unwrap();
        assert!(matches!(Ca::load(dir.path()), Err(CaError::Damaged { .. })));
        fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
        assert!(matches!(Ca::load(dir.path()), Err(CaError::Key(_))));
    }

    #[test]
    fn server_names_are_checked() {
        let dir = tempfile::tempdir().unwrap();
        let ca = Ca::create(dir.path(), now()).unwrap();
        let names = ["localhost", "127.0.0.1", "::1"].map(str::to_owned);
        assert!(ca.issue_server(&names, now()).is_ok());
        let bad = ca.issue_server(&["not a name".to_owned()], now());
        assert!(matches!(bad, Err(CaError::BadName(_))));
    }
}
