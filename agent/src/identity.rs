//! Who this agent is: the identity key, the TLS key with its certificate, and the pinned root. Made
//! by `enrol`, read by everything that signs or connects. The identity key signs what the
//! institution says in rounds; the TLS key only authenticates the channel.

use std::{
    fmt,
    path::Path,
    sync::{Arc, PoisonError, RwLock},
};

use collegium_shared::{
    clock::Clock,
    crypto::{CryptoError, Digest, SigningKey},
    documents::{self, DocumentError, RootPublic},
    roster::{RootKey, RosterError},
};
use thiserror::Error;
use tonic::transport;
use x509_parser::pem::parse_x509_pem;

use crate::{
    config::{Config, network::Proof},
    credentials::{Credentials, CredentialsError},
    link::{CallSigner, Credential, Route, RouteError},
};

pub(crate) const IDENTITY_KEY: &str = "keys/identity.key";
pub(crate) const TLS_KEY: &str = "keys/tls.key.pem";
/// The key of the vault, beside the others.
pub const VAULT_KEY: &str = "keys/vault.key";
pub(crate) const CLIENT_CERTIFICATE: &str = "certs/client.pem";
pub(crate) const CA_CERTIFICATE: &str = "certs/ca.pem";
pub(crate) const ROOT: &str = "root.json";

/// Why the agent does not know who it is.
#[derive(Debug, Error)]
pub enum IdentityError {
    #[error(transparent)]
    Key(#[from] CryptoError),
    #[error(transparent)]
    Root(#[from] DocumentError),
    #[error("the stored root key was changed: {0}")]
    ChangedRoot(#[from] RosterError),
    #[error(transparent)]
    Credentials(#[from] CredentialsError),
    #[error("{0} holds no certificate that can be read; restore it from a backup, or enrol again")]
    NoCertificate(&'static str),
    #[error(transparent)]
    Route(#[from] RouteError),
}

/// The keys and certificates of one institution.
pub struct Identity {
    /// Replaced when the roster names the next one.
    signing: RwLock<Arc<SigningKey>>,
    root: RootKey,
    /// Replaced when the certificate is renewed.
    credentials: RwLock<Arc<Credentials>>,
}

impl Identity {
    /// Reads what `enrol` left in `dir`; refuses keys that others can read.
    pub fn load(dir: &Path) -> Result<Self, IdentityError> {
        let public: RootPublic = documents::read(&dir.join(ROOT))?;
        Ok(Self {
            signing: RwLock::new(Arc::new(SigningKey::load(&dir.join(IDENTITY_KEY))?)),
            root: RootKey::pinned(public.root, &public.fingerprint)?,
            credentials: RwLock::new(Arc::new(Credentials::load(dir)?)),
        })
    }

    /// The TLS material of this moment.
    pub fn credentials(&self) -> Arc<Credentials> {
        Arc::clone(&self.credentials.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Reads the TLS material in `dir` again, after it was replaced.
    pub(crate) fn reload(&self, dir: &Path) -> Result<(), CredentialsError> {
        let fresh = Arc::new(Credentials::load(dir)?);
        *self.credentials.write().unwrap_or_else(PoisonError::into_inner) = fresh;
        Ok(())
    }

    /// The Ed25519 key that signs the institution's statements.
    pub fn signing_key(&self) -> Arc<SigningKey> {
        Arc::clone(&self.signing.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Signs with another key from here on: `rotation` has put it in place.
    pub(crate) fn replace_signing_key(&self, key: SigningKey) {
        *self.signing.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(key);
    }

    /// The consortium root that this institution pinned when it enrolled.
    pub fn root(&self) -> &RootKey {
        &self.root
    }

    /// What the root's keeper compares with the institution out of band.
    pub fn fingerprint(&self) -> Digest {
        self.signing_key().verifying_key().fingerprint()
    }
}

/// How the coordinator is called after enrolment: by the way that the configuration names, as the
/// institution that the keys prove.
pub fn route(config: &Config, identity: &Identity, clock: &Clock) -> Result<Route, IdentityError> {
    let credentials = identity.credentials();
    let credential = match config.network.identity {
        Proof::Certificate => Credential::Certificate(transport::Identity::from_pem(
            &credentials.certificate,
            credentials.tls_key.expose(),
        )),
        Proof::Signature => Credential::Signature(CallSigner {
            key: identity.signing_key(),
            institution: config.institution.clone(),
            coordinator: authority_digest(&credentials.ca)
                .ok_or(IdentityError::NoCertificate(CA_CERTIFICATE))?,
            clock: clock.clone(),
        }),
    };
    Ok(Route::new(&config.network, &config.coordinator, &credentials.ca, credential)?)
}

/// SHA-256 of the first certificate in `pem`, in DER: by this a signed call names its coordinator.
fn authority_digest(pem: &str) -> Option<Digest> {
    parse_x509_pem(pem.as_bytes()).ok().map(|(_, block)| Digest::of(&block.contents))
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
