//! Whose certificates the agent believes at the other end of its connection, by configuration: the
//! coordinator's own CA, a private file, or the operating system's. Beyond the first, TLS proves only
//! the proxy that ends it; what the coordinator says is then believed by its signatures alone.

use std::path::Path;

use collegium_shared::files::read_bounded;
use rustls::{
    RootCertStore,
    pki_types::{CertificateDer, pem::PemObject},
};
use thiserror::Error;
use tonic::transport::{Certificate, ClientTlsConfig};

use crate::config::network::{Network, Trust};

/// The most bytes of a file of CA certificates.
const MAX_BUNDLE: u64 = 4 << 20;

/// Why there is nobody to trust.
#[derive(Debug, Error)]
pub enum TrustError {
    #[error("{path}: {source}; check ca_file in [network] of agent.toml")]
    Io { path: String, source: std::io::Error },
    #[error("{0} holds no CA certificate in PEM; check ca_file in [network] of agent.toml")]
    Empty(String),
    #[error(
        "this machine's operating system trusts no CA that can be read; install its CA certificates, or use trust = \"file\" in [network] of agent.toml"
    )]
    NoSystem,
}

/// TLS that believes whom `network` says; `pinned` is the coordinator's CA in PEM.
pub(super) fn tls(network: &Network, pinned: &str) -> Result<ClientTlsConfig, TrustError> {
    let tls = ClientTlsConfig::new();
    match elsewhere(network)? {
        None => Ok(tls.ca_certificate(Certificate::from_pem(pinned))),
        Some(store) => Ok(tls.trust_anchors(store.roots)),
    }
}

/// Those that [`tls`] believes; none if `pinned` holds no certificate.
pub(super) fn roots(network: &Network, pinned: &str) -> Result<Option<RootCertStore>, TrustError> {
    let pinned = || CertificateDer::pem_slice_iter(pinned.as_bytes()).flatten().collect();
    Ok(elsewhere(network)?.or_else(|| store(pinned())))
}

/// Whom `network` names in the place of the coordinator's CA.
fn elsewhere(network: &Network) -> Result<Option<RootCertStore>, TrustError> {
    match (network.trust, &network.ca_file) {
        (Trust::Pinned, _) | (Trust::File, None) => Ok(None),
        (Trust::File, Some(path)) => in_file(path).map(Some),
        (Trust::System, _) => {
            let found = store(rustls_native_certs::load_native_certs().certs);
            found.ok_or(TrustError::NoSystem).map(Some)
        }
    }
}

fn in_file(path: &Path) -> Result<RootCertStore, TrustError> {
    let name = || path.display().to_string();
    let pem =
        read_bounded(path, MAX_BUNDLE).map_err(|source| TrustError::Io { path: name(), source })?;
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    certificates.ok().and_then(store).ok_or_else(|| TrustError::Empty(name()))
}

/// The certificates that can be used; none if there is not one.
fn store(certificates: Vec<CertificateDer<'static>>) -> Option<RootCertStore> {
    let mut store = RootCertStore::empty();
    let (usable, _) = store.add_parsable_certificates(certificates);
    (usable > 0).then_some(store)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_must_hold_a_certificate() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ca.pem");
        assert!(matches!(in_file(&path), Err(TrustError::Io { .. })));
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate = rcgen::CertificateParams::default().self_signed(&key).unwrap();
        let good = certificate.pem();
        for (text, roots) in [(good.repeat(2), 2), (String::new(), 0), (key.serialize_pem(), 0)] {
            std::fs::write(&path, text).unwrap();
            assert_eq!(in_file(&path).map(|found| found.roots.len()).unwrap_or(0), roots);
        }
        std::fs::write(&path, format!("{good}-----BEGIN CERTIFICATE-----\n???")).unwrap();
        assert!(matches!(in_file(&path), Err(TrustError::Empty(_))), "torn");
    }
}
