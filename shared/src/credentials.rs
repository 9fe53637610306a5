//! What is signed about TLS certificates: requests to renew one, and the list of the coordinator's
//! certificate authorities. TLS itself only authenticates a channel; these statements rest on the
//! Ed25519 keys of the roster. Makes no certificate and reads none.

use serde::{Deserialize, Serialize};

use crate::{crypto::Digest, ids::InstitutionId, signed::Statement};

/// The most certificate authorities at a time: the one that issues, and those before it that some
/// institution still uses.
pub const MAX_AUTHORITIES: usize = 4;

/// What an institution's identity key signs to get a certificate over the key in `csr` (PKCS#10, DER)
/// in place of the one over the key with digest `replaces`. Naming the old key makes an overheard
/// request useless to whoever steals a later TLS key.
pub fn renewal_digest(institution: &InstitutionId, replaces: &Digest, csr: &[u8]) -> Digest {
    let parts: [&[u8]; 3] = [institution.as_str().as_bytes(), replaces.as_bytes(), csr];
    Digest::of_parts("collegium/v1/renew", &parts)
}

/// The certificate authorities that agents are to believe the coordinator by. Signed with the
/// coordinator's key on the roster, so that whoever sits in the channel cannot add one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Authorities {
    /// Each next is one more; agents never go back.
    pub version: u64,
    /// Certificates in PEM, the one that issues now first.
    pub certificates: Vec<String>,
}

impl Statement for Authorities {
    const CONTEXT: &'static str = "collegium/v1/authorities";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_renewal_names_who_asks_what_it_replaces_and_the_new_key() {
        let (a, b): (InstitutionId, InstitutionId) = ("a".parse().unwrap(), "b".parse().unwrap());
        let (old, other) = (Digest::of(b"old"), Digest::of(b"other"));
        let signed = renewal_digest(&a, &old, b"csr");
        assert_ne!(signed, renewal_digest(&b, &old, b"csr"));
        assert_ne!(signed, renewal_digest(&a, &other, b"csr"));
        assert_ne!(signed, renewal_digest(&a, &old, b"csr2"));
    }
}
