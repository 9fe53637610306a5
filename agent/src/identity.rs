//! Who this agent is: the identity key, the TLS key with its certificate, and the pinned root. Made
//! by `enrol`, read by everything that signs or connects. The identity key signs what the
//! institution says in rounds; the TLS key only authenticates the channel.

use std::{fmt, path::Path, sync::Arc};

use collegium_shared::{
    clock::Clock,
    crypto::{self, CryptoError, Digest, Secret, SigningKey},
    documents::{self, DocumentError, RootPublic},
    files::read_bounded,
    ids::InstitutionId,
    roster::{RootKey, RosterError},
};
use thiserror::Error;
use tonic::transport;
use x509_parser::{certificate::X509Certificate, pem::parse_x509_pem, prelude::FromDer};

use crate::{
    config::{Config, network::Proof},
    link::{CallSigner, Credential, Route, RouteError},
};

pub(crate) const IDENTITY_KEY: &str = "keys/identity.key";
pub(crate) const TLS_KEY: &str = "keys/tls.key.pem";
/// The key of the vault, beside the others.
pub const VAULT_KEY: &str = "keys/vault.key";
pub(crate) const CLIENT_CERTIFICATE: &str = "certs/client.pem";
pub(crate) const CA_CERTIFICATE: &str = "certs/ca.pem";
pub(crate) const ROOT: &str = "root.json";

/// The most bytes of a certificate in PEM.
pub(crate) const MAX_CERTIFICATE: usize = 64 << 10;

/// Why the agent does not know who it is.
#[derive(Debug, Error)]
pub enum IdentityError {
    #[error(transparent)]
    Key(#[from] CryptoError),
    #[error(transparent)]
    Root(#[from] DocumentError),
    #[error("the stored root key was changed: {0}")]
    ChangedRoot(#[from] RosterError),
    #[error("{path}: {source}")]
    Io { path: String, source: std::io::Error },
    #[error("{0} is not text in PEM; restore the agent's directory from a backup, or enrol again")]
    NotPem(String),
    #[error("{0} holds no certificate that can be read; restore it from a backup, or enrol again")]
    NoCertificate(&'static str),
    #[error(transparent)]
    Route(#[from] RouteError),
}

/// The keys and certificates of one institution.
pub struct Identity {
    signing: Arc<SigningKey>,
    root: RootKey,
    tls_key: Secret<String>,
    certificate: String,
    ca: String,
}

impl Identity {
    /// Reads what `enrol` left in `dir`; refuses keys that others can read.
    pub fn load(dir: &Path) -> Result<Self, IdentityError> {
        let public: RootPublic = documents::read(&dir.join(ROOT))?;
        let tls_key = crypto::read_secret(&dir.join(TLS_KEY))?;
        let not_pem = || IdentityError::NotPem(dir.join(TLS_KEY).display().to_string());
        let tls_key = std::str::from_utf8(tls_key.expose()).map_err(|_| not_pem())?;
        Ok(Self {
            signing: Arc::new(SigningKey::load(&dir.join(IDENTITY_KEY))?),
            root: RootKey::pinned(public.root, &public.fingerprint)?,
            tls_key: Secret::new(tls_key.to_owned()),
            certificate: read_pem(&dir.join(CLIENT_CERTIFICATE))?,
            ca: read_pem(&dir.join(CA_CERTIFICATE))?,
        })
    }

    /// The Ed25519 key that signs the institution's statements.
    pub fn signing_key(&self) -> &SigningKey {
        &self.signing
    }

    /// The consortium root that this institution pinned when it enrolled.
    pub fn root(&self) -> &RootKey {
        &self.root
    }

    /// What the root's keeper compares with the institution out of band.
    pub fn fingerprint(&self) -> Digest {
        self.signing.verifying_key().fingerprint()
    }
}

/// How the coordinator is called after enrolment: by the way that the configuration names, as the
/// institution that the keys prove.
pub fn route(config: &Config, identity: &Identity, clock: &Clock) -> Result<Route, IdentityError> {
    let credential = match config.network.identity {
        Proof::Certificate => Credential::Certificate(transport::Identity::from_pem(
            &identity.certificate,
            identity.tls_key.expose(),
        )),
        Proof::Signature => Credential::Signature(CallSigner {
            key: Arc::clone(&identity.signing),
            institution: config.institution.clone(),
            coordinator: authority_digest(&identity.ca)
                .ok_or(IdentityError::NoCertificate(CA_CERTIFICATE))?,
            clock: clock.clone(),
        }),
    };
    Ok(Route::new(&config.network, &config.coordinator, &identity.ca, credential)?)
}

/// SHA-256 of the first certificate in `pem`, in DER: by this a signed call names its coordinator.
fn authority_digest(pem: &str) -> Option<Digest> {
    parse_x509_pem(pem.as_bytes()).ok().map(|(_, block)| Digest::of(&block.contents))
}

/// Checks that `pem` is one certificate over the key `spki_der`, named after `institution`. Whether
/// the coordinator's CA signed it shows at the first connection.
pub(crate) fn certifies(pem: &str, spki_der: &[u8], institution: &InstitutionId) -> bool {
    let Ok((_, block)) = parse_x509_pem(pem.as_bytes()) else { return false };
    let Ok((_, certificate)) = X509Certificate::from_der(&block.contents) else { return false };
    let name = certificate.subject().iter_common_name().next().and_then(|cn| cn.as_str().ok());
    certificate.public_key().raw == spki_der && name == Some(institution.as_str())
}

/// Whether `pem` holds a certificate that may sign others.
pub(crate) fn is_authority(pem: &str) -> bool {
    let Ok((_, block)) = parse_x509_pem(pem.as_bytes()) else { return false };
    X509Certificate::from_der(&block.contents).is_ok_and(|(_, certificate)| certificate.is_ca())
}

fn read_pem(path: &Path) -> Result<String, IdentityError> {
    let name = |path: &Path| path.display().to_string();
    let bytes = read_bounded(path, MAX_CERTIFICATE as u64)
        .map_err(|source| IdentityError::Io { path: name(path), source })?;
    String::from_utf8(bytes).map_err(|_| IdentityError::NotPem(name(path)))
}

/// An error with its causes, outermost first: tonic's own message stops at "transport error".
pub(crate) fn with_causes(error: &dyn std::error::Error) -> impl fmt::Display {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let words = cause.to_string();
        if !text.ends_with(&words) {
            text = format!("{text}: {words}");
        }
        source = cause.source();
    }
    text
}
