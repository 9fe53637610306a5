//! Whether a request to enrol is well formed and signed by the keys that it names. Whether the
//! token is good, and what follows, is decided where the network's state is.

use collegium_proto::{PROTOCOL, v1};
use collegium_shared::{
    crypto::{Digest, Signature, VerifyingKey},
    ids::{BadName, InstitutionId},
    token::enrolment_digest,
};
use thiserror::Error;

use crate::ca::{self, CaError};

/// Bytes of an invitation's token.
const TOKEN: usize = 32;

/// Why a request to enrol is refused.
#[derive(Debug, Error)]
pub enum EnrolError {
    #[error(
        "this coordinator speaks protocol {PROTOCOL}, the agent {0}: install matching versions"
    )]
    Protocol(u32),
    #[error(transparent)]
    Institution(#[from] BadName),
    #[error("the token does not have {TOKEN} bytes")]
    Token,
    #[error("the identity key does not have the form of an Ed25519 public key")]
    Identity,
    #[error("the request is not signed by the identity key that it names")]
    Signature,
    #[error(transparent)]
    Csr(#[from] CaError),
}

/// A request whose keys are known to be in the hands of whoever sent it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckedEnrolment {
    pub institution: InstitutionId,
    pub token_sha256: Digest,
    /// A certificate signing request that [`ca::Ca::issue_client`] accepts.
    pub csr: Vec<u8>,
    pub identity: VerifyingKey,
}

/// Checks sizes, version, names and both signatures, cheap things first.
pub fn check(request: &v1::EnrolRequest) -> Result<CheckedEnrolment, EnrolError> {
    if request.protocol != PROTOCOL {
        return Err(EnrolError::Protocol(request.protocol));
    }
    let institution: InstitutionId = request.institution.parse()?;
    if request.token.len() != TOKEN {
        return Err(EnrolError::Token);
    }
    if request.csr.len() > ca::MAX_CSR {
        return Err(CaError::BadCsr("it has more than 16 KiB").into());
    }
    let identity =
        VerifyingKey::try_from(&request.identity[..]).map_err(|_| EnrolError::Identity)?;
    let signature =
        Signature::try_from(&request.signature[..]).map_err(|_| EnrolError::Signature)?;
    identity
        .verify(enrolment_digest(&institution, &request.csr).as_bytes(), &signature)
        .map_err(|_| EnrolError::Signature)?;
    ca::csr_key(&request.csr)?;
    Ok(CheckedEnrolment {
        institution,
        token_sha256: Digest::of(&request.token),
        csr: request.csr.clone(),
        identity,
    })
}

#[cfg(test)]
mod tests {
    use collegium_shared::crypto::SigningKey;
    use rcgen::{CertificateParams, KeyPair};

    use super::*;

    fn request() -> v1::EnrolRequest {
        let pkcs8 = SigningKey::generate_pkcs8().unwrap();
        let identity = SigningKey::from_pkcs8(pkcs8.expose()).unwrap();
        let tls = KeyPair::generate().unwrap();
        let csr = CertificateParams::default().serialize_request(&tls).unwrap().der().to_vec();
        let digest = enrolment_digest(&"school-a".parse().unwrap(), &csr);
        v1::EnrolRequest {
            protocol: PROTOCOL,
            institution: "school-a".into(),
            token: vec![7; TOKEN],
            identity: identity.verifying_key().as_bytes().to_vec(),
            signature: identity.sign(digest.as_bytes()).as_bytes().to_vec(),
            csr,
        }
    }

    #[test]
    fn a_good_request_passes() {
        let request = request();
        let checked = check(&request).unwrap();
        assert_eq!(checked.institution.as_str(), "school-a");
        assert_eq!(checked.token_sha256, Digest::of(&[7; TOKEN]));
        assert_eq!(checked.identity.as_bytes()[..], request.identity[..]);
        assert_eq!(checked.csr, request.csr);
    }

    #[test]
    fn every_changed_field_is_refused() {
        let changed = |change: fn(&mut v1::EnrolRequest)| {
            let mut request = request();
            change(&mut request);
            check(&request).unwrap_err()
        };
        assert!(matches!(changed(|r| r.protocol = 2), EnrolError::Protocol(2)));
        assert!(matches!(changed(|r| r.institution = "../a".into()), EnrolError::Institution(_)));
        assert!(matches!(changed(|r| r.institution = "school-b".into()), EnrolError::Signature));
        assert!(matches!(changed(|r| r.token = vec![7; 31]), EnrolError::Token));
        assert!(matches!(changed(|r| r.identity = vec![]), EnrolError::Identity));
        assert!(matches!(changed(|r| r.identity[0] ^= 1), EnrolError::Signature));
        assert!(matches!(changed(|r| r.signature[0] ^= 1), EnrolError::Signature));
        assert!(matches!(changed(|r| r.signature = vec![]), EnrolError::Signature));
        assert!(matches!(changed(|r| r.csr = vec![0; ca::MAX_CSR + 1]), EnrolError::Csr(_)));
        assert!(matches!(changed(|r| r.csr.push(0)), EnrolError::Signature));
    }

    #[test]
    fn a_csr_that_is_garbage_is_refused_even_when_signed() {
        let pkcs8 = SigningKey::generate_pkcs8().unwrap();
        let identity = SigningKey::from_pkcs8(pkcs8.expose()).unwrap();
        let mut request = request();
        request.csr = b"garbage".to_vec();
        let digest = enrolment_digest(&"school-a".parse().unwrap(), &request.csr);
        request.identity = identity.verifying_key().as_bytes().to_vec();
        request.signature = identity.sign(digest.as_bytes()).as_bytes().to_vec();
        assert!(matches!(check(&request), Err(EnrolError::Csr(CaError::BadCsr(_)))));
    }
}
