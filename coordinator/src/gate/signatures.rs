//! Whether a call that no client certificate came with is signed by an institution's identity key:
//! for this coordinator, now, and never before. Pure but for the memory of what came; bounded for each
//! institution, and keeps nothing of callers that are not one.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use collegium_proto::convert::CallProof;
use collegium_shared::{
    clock::Timestamp,
    crypto::{Digest, VerifyingKey},
    ids::InstitutionId,
};
use thiserror::Error;

/// How far the caller's clock may be from ours.
pub(crate) const WINDOW: Duration = Duration::from_secs(5 * 60);
/// Calls of one institution that may come at once, and how soon each counts no more.
const BURST: u32 = 256;
const REFILL: Duration = Duration::from_millis(100);
/// The most calls of one institution that are remembered: what [`REFILL`] lets through in twice the
/// window, and a burst.
const MAX_SEEN: usize = 8_192;

/// Why a signature does not count.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum SignatureError {
    #[error(
        "the caller's clock is {} s from the coordinator's, and at most {} s are allowed; correct the clock, and see that it stays correct (NTP)",
        .0.as_secs(), WINDOW.as_secs()
    )]
    Clock(Duration),
    #[error("the call was signed before this coordinator started; it has to be signed again")]
    Old,
    #[error("the call is not signed for this coordinator by the identity key of an institution")]
    Signature,
    #[error("a call with this signature came before")]
    Replayed,
    #[error("this institution calls too often; wait a little")]
    TooOften,
}

/// What signed calls came.
pub struct Signatures {
    /// Calls that were signed earlier may have come to this coordinator before it restarted.
    since: Timestamp,
    seen: BTreeMap<InstitutionId, Seen>,
}

struct Seen {
    calls: BTreeSet<(Timestamp, [u8; 16])>,
    /// How many calls may come now, and since when it is so.
    left: u32,
    at: Timestamp,
}

impl Signatures {
    /// A coordinator that started at `since`.
    pub fn new(since: Timestamp) -> Self {
        Self { since, seen: BTreeMap::new() }
    }

    /// Admits the call to `path` at `now`, once. `keys` are the identity keys of the institution that
    /// count now, `coordinators` are the digests by which this coordinator may be named.
    pub fn admit(
        &mut self,
        proof: &CallProof,
        keys: &[VerifyingKey],
        coordinators: &[Digest],
        path: &str,
        now: Timestamp,
    ) -> Result<(), SignatureError> {
        let off = now.since(proof.signed_at).max(proof.signed_at.since(now));
        if off > WINDOW {
            return Err(SignatureError::Clock(off));
        }
        if proof.signed_at < self.since {
            return Err(SignatureError::Old);
        }
        let signed = |key| coordinators.iter().any(|c| proof.verify(key, c, path).is_ok());
        if !keys.iter().any(signed) {
            return Err(SignatureError::Signature);
        }
        let fresh = || Seen { calls: BTreeSet::new(), left: BURST, at: now };
        self.seen.entry(proof.institution.clone()).or_insert_with(fresh).take(proof, now)
    }
}

impl Seen {
    fn take(&mut self, proof: &CallProof, now: Timestamp) -> Result<(), SignatureError> {
        self.calls = self.calls.split_off(&(now - WINDOW, [0; 16]));
        let call = (proof.signed_at, proof.nonce);
        if self.calls.contains(&call) {
            return Err(SignatureError::Replayed);
        }
        self.refill(now);
        if self.left == 0 || self.calls.len() >= MAX_SEEN {
            return Err(SignatureError::TooOften);
        }
        self.left -= 1;
        self.calls.insert(call);
        Ok(())
    }

    fn refill(&mut self, now: Timestamp) {
        let gained = now.since(self.at).as_millis() / REFILL.as_millis();
        let gained = u32::try_from(gained).unwrap_or(u32::MAX).min(BURST);
        self.left = self.left.saturating_add(gained).min(BURST);
        if gained > 0 || now < self.at {
            self.at = now;
        }
    }
}

#[cfg(test)]
mod tests {
    use collegium_shared::crypto::SigningKey;

    use super::*;

    const PATH: &str = "/collegium.v1.Federation/Poll";
    const HERE: Digest = Digest([1; 32]);
    const START: i64 = 1_800_000_000_000;

    fn at(millis: i64) -> Timestamp {
        Timestamp::from_millis(START + millis)
    }

    fn key() -> SigningKey {
        SigningKey::from_pkcs8(SigningKey::generate_pkcs8().unwrap().expose()).unwrap()
    }

    struct Bed {
        signatures: Signatures,
        key: SigningKey,
        nonce: u8,
    }

    impl Bed {
        fn new() -> Self {
            Self { signatures: Signatures::new(at(0)), key: key(), nonce: 0 }
        }

        fn proof(&mut self, signed_at: Timestamp) -> CallProof {
            self.nonce = self.nonce.wrapping_add(1);
            let (who, when) = ("school-a".parse().unwrap(), (signed_at, [self.nonce; 16]));
            CallProof::sign(&self.key, &HERE, PATH, who, when, Digest::of(b"message"))
        }

        fn admit(&mut self, proof: &CallProof, now: Timestamp) -> Result<(), SignatureError> {
            let key = self.key.verifying_key();
            self.signatures.admit(proof, &[key], &[HERE], PATH, now)
        }
    }

    #[test]
    fn a_signed_call_counts_once_here_and_for_its_path() {
        let mut bed = Bed::new();
        let (proof, public) = (bed.proof(at(0)), bed.key.verifying_key());
        let mut admit = |key: Option<&VerifyingKey>, here: Digest, path: &str| {
            bed.signatures.admit(
                &proof,
                key.map_or(&[], std::slice::from_ref),
                &[Digest([9; 32]), here],
                path,
                at(0),
            )
        };
        let bad = Err(SignatureError::Signature);
        assert_eq!(admit(None, HERE, PATH), bad, "an unknown institution");
        assert_eq!(admit(Some(&key().verifying_key()), HERE, PATH), bad, "another's key");
        assert_eq!(admit(Some(&public), Digest([2; 32]), PATH), bad, "another coordinator");
        let vote = "/collegium.v1.Federation/SubmitVote";
        assert_eq!(admit(Some(&public), HERE, vote), bad, "another call");
        assert_eq!(admit(Some(&public), HERE, PATH), Ok(()));
        assert_eq!(admit(Some(&public), HERE, PATH), Err(SignatureError::Replayed));
    }

    #[test]
    fn a_call_counts_only_near_the_time_when_it_was_signed() {
        let mut bed = Bed::new();
        let window = i64::try_from(WINDOW.as_millis()).unwrap();
        let now = at(10 * window);
        for (off, good) in [(0, true), (window, true), (window + 1, false)] {
            for signed_at in [at(10 * window - off), at(10 * window + off)] {
                let proof = bed.proof(signed_at);
                assert_eq!(bed.admit(&proof, now).is_ok(), good, "off by {off} ms");
            }
        }
        let proof = bed.proof(at(9 * window - 60_000));
        let error = bed.admit(&proof, now).unwrap_err();
        assert!(error.to_string().contains("360 s from the coordinator's"), "{error}");
        assert_eq!(bed.admit(&bed_proof_before_start(), at(0)), Err(SignatureError::Old));

        fn bed_proof_before_start() -> CallProof {
            Bed::new().proof(at(-1))
        }
    }

    #[test]
    fn a_replay_is_known_for_as_long_as_its_time_is_good() {
        let mut bed = Bed::new();
        let window = i64::try_from(WINDOW.as_millis()).unwrap();
        let ahead = bed.proof(at(window));
        bed.admit(&ahead, at(0)).unwrap();
        assert_eq!(bed.admit(&ahead, at(2 * window)), Err(SignatureError::Replayed));
        assert_eq!(
            bed.admit(&ahead, at(2 * window + 1)),
            Err(SignatureError::Clock(WINDOW + Duration::from_millis(1)))
        );
        let later = bed.proof(at(3 * window));
        bed.admit(&later, at(3 * window)).unwrap();
        assert_eq!(bed.signatures.seen.values().next().unwrap().calls.len(), 1, "it is forgotten");
    }

    #[test]
    fn one_institution_calls_only_so_often() {
        let mut bed = Bed::new();
        for millis in 0..i64::from(BURST) {
            let proof = bed.proof(at(millis % 50));
            bed.admit(&proof, at(50)).unwrap();
        }
        let proof = bed.proof(at(60));
        assert_eq!(bed.admit(&proof, at(60)), Err(SignatureError::TooOften));
        bed.admit(&proof, at(200)).unwrap();
        let proof = bed.proof(at(201));
        assert_eq!(bed.admit(&proof, at(201)), Err(SignatureError::TooOften));
    }
}
