//! One member's secrets of one attempt, all derived from `rho`, and their public halves. Never
//! stored: after a restart they are derived again, byte for byte.

use curve25519_dalek::scalar::Scalar;
use x25519_dalek::{PublicKey, SharedSecret, StaticSecret};

use crate::crypto::{AgreementKey, Digest, Key, Secret, derive};

/// What the others know of a member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// The position in the frozen list, which is sorted by institution; from 0. The member's shares
    /// lie at x = index + 1.
    pub index: u16,
    /// The X25519 key that pairwise masks come from.
    pub mask_key: AgreementKey,
    /// The X25519 key that shares are sealed to.
    pub share_key: AgreementKey,
    /// H(b), which the recovered seed of the self mask must hash to.
    pub self_commitment: Digest,
}

/// The secrets of one member in one attempt. Wiped when dropped.
pub struct RoundSecrets {
    /// s_b and s_m, which are Shamir-shared.
    pub(super) self_scalar: Secret<Scalar>,
    pub(super) mask_scalar: Secret<Scalar>,
    /// b, the seed of the self mask.
    pub(super) self_seed: Key,
    pub(super) mask_secret: StaticSecret,
    pub(super) share_secret: StaticSecret,
    /// The source of polynomial coefficients and salts.
    pub(super) dealing: Key,
}

impl RoundSecrets {
    /// Derives everything from `rho`, 32 random bytes drawn for this attempt alone, and `context`,
    /// bytes that name the attempt (the plan's digest).
    pub fn derive(rho: &Key, context: &[u8]) -> Self {
        let scalar = |label| {
            let wide = derive::<64>(rho.expose(), label, &[context]);
            Secret::new(Scalar::from_bytes_mod_order_wide(wide.expose()))
        };
        let key = |label| derive::<32>(rho.expose(), label, &[context]);
        let self_scalar = scalar("secagg/self-scalar");
        let mask_scalar = scalar("secagg/mask-scalar");
        Self {
            self_seed: self_seed(self_scalar.expose()),
            mask_secret: mask_secret(mask_scalar.expose()),
            share_secret: StaticSecret::from(*key("secagg/share-secret").expose()),
            dealing: key("secagg/dealing"),
            self_scalar,
            mask_scalar,
        }
    }

    /// The public half of the masking secret.
    pub fn mask_key(&self) -> AgreementKey {
        public(&self.mask_secret)
    }

    /// The public half of the secret that shares are opened with.
    pub fn share_key(&self) -> AgreementKey {
        public(&self.share_secret)
    }

    /// H(b).
    pub fn self_commitment(&self) -> Digest {
        commitment(&self.self_seed)
    }

    /// What the others know, at position `index` of the list.
    pub fn member(&self, index: u16) -> Member {
        Member {
            index,
            mask_key: self.mask_key(),
            share_key: self.share_key(),
            self_commitment: self.self_commitment(),
        }
    }
}

/// Whether a public key can agree on anything: false for the points of small order, with which every
/// agreement is all zeros (RFC 7748, section 6.1). Both sides refuse such a key when it is announced.
pub fn is_usable(key: &AgreementKey) -> bool {
    agree(&StaticSecret::from([1; 32]), key).is_some()
}

/// b = HKDF(s_b).
pub(super) fn self_seed(scalar: &Scalar) -> Key {
    derive::<32>(scalar.as_bytes(), "secagg/self-seed", &[])
}

/// The X25519 masking secret = HKDF(s_m).
pub(super) fn mask_secret(scalar: &Scalar) -> StaticSecret {
    StaticSecret::from(*derive::<32>(scalar.as_bytes(), "secagg/mask-secret", &[]).expose())
}

pub(super) fn public(secret: &StaticSecret) -> AgreementKey {
    AgreementKey(PublicKey::from(secret).to_bytes())
}

pub(super) fn commitment(self_seed: &Key) -> Digest {
    Digest::of_parts("collegium/v1/self-commitment", &[self_seed.expose()])
}

/// X25519 (RFC 7748); none if the result is all zeros.
pub(super) fn agree(secret: &StaticSecret, key: &AgreementKey) -> Option<SharedSecret> {
    let shared = secret.diffie_hellman(&PublicKey::from(*key.as_bytes()));
    shared.was_contributory().then_some(shared)
}
