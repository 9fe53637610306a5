//! Who this agent is: the identity key, the TLS key with its certificate, and the pinned root. Made
//! by `enrol`, read by everything that signs or connects. The identity key signs what the
//! institution says in rounds; the TLS key only authenticates the channel.

use std::{fmt, path::Path, time::Duration};

use collegium_shared::{
    crypto::{self, CryptoError, Digest, Secret, SigningKey},
    documents::{self, DocumentError, RootPublic},
    files::read_bounded,
    ids::InstitutionId,
    roster::{RootKey, RosterError},
};
use thiserror::Error;
use tonic::transport::{self, Certificate, ClientTlsConfig, Endpoint};
use x509_parser::{certificate::X509Certificate, pem::parse_x509_pem, prelude::FromDer};

use crate::config::{Config, CoordinatorUrl};

pub(crate) const IDENTITY_KEY: &str = "keys/identity.key";
pub(crate) const TLS_KEY: &str = "keys/tls.key.pem";
/// The key of the vault, beside the others.
pub const VAULT_KEY: &str = "keys/vault.key";
pub(crate) const CLIENT_CERTIFICATE: &str = "certs/client.pem";
pub(crate) const CA_CERTIFICATE: &str = "certs/ca.pem";
pub(crate) const ROOT: &str = "root.json";

/// The most bytes of a certificate in PEM.
pub(crate) const MAX_CERTIFICATE: usize = 64 << 10;

/// How long a connection may take to be made, TCP and TLS together.
const CONNECT: Duration = Duration::from_secs(10);
/// How often the connection is tried while nothing is sent, and how long the answer may take.
const PING: Duration = Duration::from_secs(20);
const PONG: Duration = Duration::from_secs(10);

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
    #[error(
        "the TLS material in keys/ and certs/ cannot be used: {0}; enrol again in a new directory"
    )]
    Tls(#[from] transport::Error),
}

/// The keys and certificates of one institution.
pub struct Identity {
    signing: SigningKey,
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
            signing: SigningKey::load(&dir.join(IDENTITY_KEY))?,
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

/// How the coordinator is called after enrolment: TLS with the client certificate, only the pinned
/// CA, and pings that notice a dead connection.
pub fn endpoint(config: &Config, identity: &Identity) -> Result<Endpoint, IdentityError> {
    let client = transport::Identity::from_pem(&identity.certificate, identity.tls_key.expose());
    let tls = pinned(&identity.ca).identity(client);
    Ok(connection(&config.coordinator, tls)?)
}

/// TLS that believes `ca` alone.
pub(crate) fn pinned(ca: &str) -> ClientTlsConfig {
    ClientTlsConfig::new().ca_certificate(Certificate::from_pem(ca)).timeout(CONNECT)
}

pub(crate) fn connection(
    url: &CoordinatorUrl,
    tls: ClientTlsConfig,
) -> Result<Endpoint, transport::Error> {
    let endpoint = Endpoint::from_shared(url.as_str().to_owned())?
        .tls_config(tls)?
        .connect_timeout(CONNECT)
        .tcp_nodelay(true)
        .tcp_keepalive(Some(Duration::from_secs(60)))
        .http2_keep_alive_interval(PING)
        .keep_alive_timeout(PONG)
        .keep_alive_while_idle(true);
    Ok(endpoint)
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
