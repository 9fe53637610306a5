//! Which client certificates a TLS handshake lets in: those of the authorities in force, unless the
//! institution was revoked. Whether a certificate is the institution's current one is asked at each
//! call, because connections live long.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

use collegium_shared::clock::Clock;
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, RootCertStore,
    SignatureScheme,
    client::danger::HandshakeSignatureValid,
    crypto::ring,
    pki_types::{CertificateDer, UnixTime},
    server::{
        WebPkiClientVerifier,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
};

use super::{ListenerError, Peer, identify};
use crate::ca::{Ca, InForce};

/// Says whether an institution is shut out.
pub type IsRevoked = Arc<dyn Fn(&Peer) -> bool + Send + Sync>;

/// The check of client certificates, which follows the authorities as they change.
pub(super) struct Clients {
    ca: InForce,
    clock: Clock,
    is_revoked: IsRevoked,
    /// For the authorities that it was made for.
    verifier: Mutex<(Arc<Ca>, Arc<dyn ClientCertVerifier>)>,
}

impl Clients {
    pub(super) fn new(
        ca: InForce,
        clock: Clock,
        is_revoked: IsRevoked,
    ) -> Result<Self, ListenerError> {
        let now = ca.current();
        let verifier = Mutex::new((Arc::clone(&now), verifier(&now)?));
        Ok(Self { ca, clock, is_revoked, verifier })
    }

    /// The verifier for the authorities of this moment.
    fn verifier(&self) -> Arc<dyn ClientCertVerifier> {
        let ca = self.ca.current();
        let mut kept = self.verifier.lock().unwrap_or_else(PoisonError::into_inner);
        if !Arc::ptr_eq(&kept.0, &ca) {
            match verifier(&ca) {
                Ok(fresh) => *kept = (ca, fresh),
                Err(error) => tracing::error!(%error, "the new authorities are not in use"),
            }
        }
        Arc::clone(&kept.1)
    }
}

fn verifier(ca: &Ca) -> Result<Arc<dyn ClientCertVerifier>, ListenerError> {
    let mut roots = RootCertStore::empty();
    for certificate in ca.certificates() {
        roots.add(certificate.clone())?;
    }
    let provider = Arc::new(ring::default_provider());
    let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
    Ok(builder.allow_unauthenticated().build()?)
}

impl fmt::Debug for Clients {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Clients").finish_non_exhaustive()
    }
}

impl ClientCertVerifier for Clients {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    /// No hints: an agent has one certificate.
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let seconds = u64::try_from(self.clock.now().as_seconds()).unwrap_or(0);
        let now = UnixTime::since_unix_epoch(std::time::Duration::from_secs(seconds));
        let verified = self.verifier().verify_client_cert(end_entity, intermediates, now)?;
        match identify(end_entity) {
            Some(peer) if (self.is_revoked)(&peer) => {
                tracing::info!(institution = %peer.institution, "a revoked institution was refused");
                Err(Error::InvalidCertificate(CertificateError::Revoked))
            }
            _ => Ok(verified),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.verifier().verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.verifier().verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.verifier().supported_verify_schemes()
    }
}
