//! What an institution says to replace its identity key. Owns form alone: whose signatures these are is
//! decided where the keys are known.

use collegium_shared::{crypto::Signature, hand_over::SignedHandOver};

use super::{Malformed, Reason, from_json, malformed, signature};
use crate::v1;

/// The most bytes of a hand-over: two keys, two signatures and a name.
const MAX_HAND_OVER: usize = 4 << 10;

/// One step of the way from one identity key to the next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum IdentityStep {
    /// The key in force vouches for the next one.
    HandOver(Box<SignedHandOver>),
    /// The next one is in use: see [`collegium_shared::hand_over::taken_digest`].
    Taken(Signature),
}

impl TryFrom<v1::ReplaceIdentityRequest> for IdentityStep {
    type Error = Malformed;

    fn try_from(message: v1::ReplaceIdentityRequest) -> Result<Self, Malformed> {
        let v1::ReplaceIdentityRequest { hand_over, taken } = message;
        match (hand_over.is_empty(), taken.is_empty()) {
            (false, true) => {
                let field = "ReplaceIdentityRequest.hand_over";
                from_json(field, &hand_over, MAX_HAND_OVER).map(Self::HandOver)
            }
            (true, false) => signature("ReplaceIdentityRequest.taken", &taken).map(Self::Taken),
            (true, true) => Err(malformed("ReplaceIdentityRequest", Reason::Missing)),
            (false, false) => Err(malformed("ReplaceIdentityRequest.taken", Reason::Surplus)),
        }
    }
}

impl From<&IdentityStep> for v1::ReplaceIdentityRequest {
    fn from(step: &IdentityStep) -> Self {
        match step {
            IdentityStep::HandOver(hand_over) => Self {
                hand_over: serde_json::to_vec(hand_over).unwrap_or_default(),
                taken: Vec::new(),
            },
            IdentityStep::Taken(taken) => {
                Self { hand_over: Vec::new(), taken: taken.as_bytes().to_vec() }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use collegium_shared::{clock::Timestamp, crypto::SigningKey, hand_over::Holder};

    use super::*;

    #[test]
    fn both_steps_survive_and_nothing_else_is_one() {
        let key =
            || SigningKey::from_pkcs8(SigningKey::generate_pkcs8().unwrap().expose()).unwrap();
        let holder = Holder::Institution("school-a".parse().unwrap());
        let statement = SignedHandOver::sign(holder, &key(), &key(), Timestamp::EPOCH);
        let steps =
            [IdentityStep::HandOver(Box::new(statement)), IdentityStep::Taken(key().sign(b"x"))];
        let wire = steps.each_ref().map(v1::ReplaceIdentityRequest::from);
        for (step, message) in steps.iter().zip(&wire) {
            assert_eq!(&IdentityStep::try_from(message.clone()).unwrap(), step);
        }
        let [
            v1::ReplaceIdentityRequest { hand_over, .. },
            v1::ReplaceIdentityRequest { taken, .. },
        ] = wire;
        let refused = |hand_over: Vec<u8>, taken: Vec<u8>| {
            IdentityStep::try_from(v1::ReplaceIdentityRequest { hand_over, taken })
                .unwrap_err()
                .reason
        };
        assert_eq!(refused(vec![], vec![]), Reason::Missing);
        assert_eq!(refused(hand_over, taken.clone()), Reason::Surplus);
        assert!(matches!(refused(vec![b' '; MAX_HAND_OVER + 1], vec![]), Reason::TooLong { .. }));
        assert!(matches!(refused(b"{}".to_vec(), vec![]), Reason::Json(_)));
        assert!(matches!(refused(vec![], taken[1..].to_vec()), Reason::Length { .. }));
    }
}
