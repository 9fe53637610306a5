//! Statements that somebody signs. What is signed is SHA-256 over a context label and the
//! statement's JSON (struct fields in declaration order), so a signature for one kind of statement
//! never serves as another, and a reader of the audit log sees exactly what was signed.

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::crypto::{Digest, Signature, SigningKey, VerifyingKey};

/// Something that can be signed.
pub trait Statement: Serialize {
    /// The label that separates this kind of statement from all others.
    const CONTEXT: &'static str;

    /// What is signed, and what other statements refer to.
    ///
    /// Statements are plain structs of names, numbers and digests, which always have a JSON form;
    /// one that had none would get a digest that nobody signed.
    fn digest(&self) -> Digest {
        let json = serde_json::to_vec(self).unwrap_or_default();
        Digest::of_parts(Self::CONTEXT, &[&json])
    }
}

/// A signature that does not belong to the key that it should.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("the signature on this {0} does not verify with the expected key")]
pub struct WrongSigner(pub &'static str);

/// A statement with its Ed25519 signature.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Signed<T> {
    pub body: T,
    pub signature: Signature,
}

impl<T: Statement> Signed<T> {
    pub fn sign(body: T, key: &SigningKey) -> Self {
        let signature = key.sign(body.digest().as_bytes());
        Self { body, signature }
    }

    /// The body, once `key` is known to have signed it.
    pub fn verify(&self, key: &VerifyingKey) -> Result<&T, WrongSigner> {
        key.verify(self.body.digest().as_bytes(), &self.signature)
            .map(|()| &self.body)
            .map_err(|_| WrongSigner(T::CONTEXT))
    }

    /// The digest of the body, by which other statements refer to this one.
    pub fn digest(&self) -> Digest {
        self.body.digest()
    }
}
