//! How one long-lived key passes its place to the next: a statement that both keys sign. Owns what is
//! signed and whether it holds; whose word makes the new key count (the root's roster, a log's own
//! entry) is decided where that is known.

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::{
    clock::Timestamp,
    crypto::{Digest, Signature, SigningKey, VerifyingKey},
    ids::InstitutionId,
    signed::Statement,
};

/// Whose key it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Holder {
    /// An institution's identity key.
    Institution(InstitutionId),
    /// The signing key of the coordinator whose log has this origin.
    Coordinator(String),
}

/// What both keys sign.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HandOver {
    pub holder: Holder,
    pub old: VerifyingKey,
    pub new: VerifyingKey,
    pub at: Timestamp,
}

impl Statement for HandOver {
    const CONTEXT: &'static str = "collegium/v1/hand-over";
}

/// Why a hand-over does not count.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum BadHandOver {
    #[error("it names one key twice")]
    SameKey,
    #[error("it is not signed by the key that it replaces")]
    OldKey,
    #[error("it is not signed by the key that it names as the next")]
    NewKey,
    #[error("the next key did not sign that it takes over these entries")]
    OtherLog,
    #[error("another entry is in one batch with it")]
    NotAlone,
    #[error("it is about the key of somebody else")]
    OtherHolder,
    #[error("it replaces another key than the one in force")]
    OtherKey,
}

/// A hand-over with both signatures.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SignedHandOver {
    pub body: HandOver,
    pub by_old: Signature,
    pub by_new: Signature,
}

impl SignedHandOver {
    /// The statement that `old` passes its place to `new`.
    pub fn sign(holder: Holder, old: &SigningKey, new: &SigningKey, at: Timestamp) -> Self {
        let body = HandOver { holder, old: old.verifying_key(), new: new.verifying_key(), at };
        let digest = body.digest();
        let [by_old, by_new] = [old, new].map(|key| key.sign(digest.as_bytes()));
        Self { body, by_old, by_new }
    }

    /// The statement, once both keys that it names are known to have signed it.
    pub fn verify(&self) -> Result<&HandOver, BadHandOver> {
        let HandOver { old, new, .. } = &self.body;
        if old == new {
            return Err(BadHandOver::SameKey);
        }
        let digest = self.body.digest();
        old.verify(digest.as_bytes(), &self.by_old).map_err(|_| BadHandOver::OldKey)?;
        new.verify(digest.as_bytes(), &self.by_new).map_err(|_| BadHandOver::NewKey)?;
        Ok(&self.body)
    }

    /// The next key, if this is `holder`'s statement about the key `in_force`.
    pub fn replaces(
        &self,
        holder: &Holder,
        in_force: &VerifyingKey,
    ) -> Result<VerifyingKey, BadHandOver> {
        let body = self.verify()?;
        if body.holder != *holder {
            return Err(BadHandOver::OtherHolder);
        }
        if body.old != *in_force {
            return Err(BadHandOver::OtherKey);
        }
        Ok(body.new)
    }
}

/// What an institution's new identity key signs once it is in use, so that the old one is heard no
/// more.
pub fn taken_digest(institution: &InstitutionId, new: &VerifyingKey) -> Digest {
    let parts: [&[u8]; 2] = [institution.as_str().as_bytes(), new.as_bytes()];
    Digest::of_parts("collegium/v1/identity-taken", &parts)
}

/// What the next key of a log signs of the log that it takes over: the log's origin, and the number of its
/// entries and their root before the one that says so. Whoever has the old key only cannot have it vouch
/// for other entries.
pub fn log_taken_digest(origin: &str, size: u64, root: &Digest) -> Digest {
    let size = size.to_be_bytes();
    let parts: [&[u8]; 3] = [origin.as_bytes(), &size, root.as_bytes()];
    Digest::of_parts("collegium/v1/log-taken", &parts)
}

/// What the coordinator's key in force signs about a released model, by its manifest's digest, if a key
/// before it signed the manifest.
pub fn countersigned_digest(manifest: &Digest) -> Digest {
    Digest::of_parts("collegium/v1/release-countersigned", &[manifest.as_bytes()])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> SigningKey {
        SigningKey::from_pkcs8(SigningKey::generate_pkcs8().unwrap().expose()).unwrap()
    }

    fn holder(name: &str) -> Holder {
        Holder::Institution(name.parse().unwrap())
    }

    #[test]
    fn both_keys_sign_and_everything_is_covered() {
        let (old, new, other) = (key(), key(), key());
        let good = SignedHandOver::sign(holder("a"), &old, &new, Timestamp::EPOCH);
        let (public, next) = (old.verifying_key(), new.verifying_key());
        assert_eq!(good.replaces(&holder("a"), &public), Ok(next));
        assert_eq!(good.replaces(&holder("b"), &public), Err(BadHandOver::OtherHolder));
        assert_eq!(good.replaces(&holder("a"), &next), Err(BadHandOver::OtherKey));
        let coordinator = Holder::Coordinator("a".into());
        assert_eq!(good.replaces(&coordinator, &public), Err(BadHandOver::OtherHolder));
        let changed = |change: &dyn Fn(&mut SignedHandOver)| {
            let mut statement = good.clone();
            change(&mut statement);
            statement.verify().map(drop).unwrap_err()
        };
        assert_eq!(changed(&|s| s.body.holder = holder("b")), BadHandOver::OldKey);
        assert_eq!(
            changed(&|s| s.body.at = Timestamp::from_millis(1)),
            BadHandOver::OldKey,
            "the time"
        );
        assert_eq!(changed(&|s| s.body.old = other.verifying_key()), BadHandOver::OldKey);
        assert_eq!(changed(&|s| s.body.new = public), BadHandOver::SameKey);
        assert_eq!(changed(&|s| s.by_old = s.by_new), BadHandOver::OldKey);
        assert_eq!(changed(&|s| s.by_new = s.by_old), BadHandOver::NewKey);
        let forged = SignedHandOver::sign(holder("a"), &other, &new, Timestamp::EPOCH);
        assert_eq!(forged.replaces(&holder("a"), &public), Err(BadHandOver::OtherKey));
    }

    #[test]
    fn a_statement_survives_its_json() {
        for holder in [holder("a"), Holder::Coordinator("example.org/log".into())] {
            let statement = SignedHandOver::sign(holder, &key(), &key(), Timestamp::EPOCH);
            let json = serde_json::to_string(&statement).unwrap();
            let read: SignedHandOver = serde_json::from_str(&json).unwrap();
            assert_eq!(read, statement);
            assert!(read.verify().is_ok());
        }
    }
}
