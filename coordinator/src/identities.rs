//! The lives of identity keys: an institution's key vouches for the next one, the root's roster names it,
//! and once it is used the one before is heard no more. The root alone decides which key counts in
//! rounds; this decides whose word the calls to this coordinator are.

use std::{collections::BTreeMap, time::Duration};

use collegium_proto::convert::IdentityStep;
use collegium_shared::{
    clock::Timestamp,
    crypto::{Signature, VerifyingKey},
    hand_over::{BadHandOver, Holder, SignedHandOver, taken_digest},
    ids::InstitutionId,
    journal::JournalError,
    roster::VerifiedRoster,
};
use thiserror::Error;

use crate::{
    driver::Driver,
    network::{Enrolled, Event, Network, NetworkEvent},
};

/// Between two hand-overs of one institution to different keys: nobody fills the log.
const PAUSE: Duration = Duration::from_secs(60);

/// How far ahead of this clock a hand-over may be dated: a date in a far future would make every later one
/// the older one.
const AHEAD: Duration = Duration::from_secs(300);

/// Why a step towards another identity key was not taken.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum IdentityError {
    #[error("the hand-over does not count: {0}")]
    HandOver(#[from] BadHandOver),
    #[error("the next key is another institution's: make another one")]
    Shared,
    #[error(
        "the hand-over is dated {0}, more than five minutes ahead of the coordinator's clock: correct the clock, then run identity rotate again"
    )]
    Ahead(Timestamp),
    #[error("a hand-over that was signed later is known already")]
    Older,
    #[error("a hand-over came less than a minute ago; try again later")]
    TooSoon,
    #[error("this institution is not enrolled")]
    NotEnrolled,
    #[error("no other identity key of this institution is on the roster in force")]
    NotNamed,
    #[error("this is not signed by the identity key that the roster names")]
    Signature,
}

impl Enrolled {
    /// The identity keys whose signature under a call counts: the one in use, and the one that the
    /// roster names after it.
    pub fn heard_identities(&self) -> impl Iterator<Item = &VerifyingKey> {
        std::iter::once(&self.identity).chain(&self.next_identity)
    }

    /// The key that the next roster has to name.
    pub(crate) fn drafted_identity(&self) -> VerifyingKey {
        let handed = self.hand_over.as_ref().map(|hand_over| hand_over.body.new);
        handed.or(self.next_identity).unwrap_or(self.identity)
    }

    /// The key that the roster names was used: it is the only one from here on.
    pub(crate) fn take_identity(&mut self, identity: VerifyingKey) {
        if self.next_identity.take_if(|next| *next == identity).is_some() {
            self.identity = identity;
            self.hand_over.take_if(|hand_over| hand_over.body.old != identity);
        }
    }

    fn may_hand_over(
        &self,
        institution: &InstitutionId,
        hand_over: &SignedHandOver,
        now: Timestamp,
        last: Option<Timestamp>,
    ) -> Result<(), IdentityError> {
        let holder = Holder::Institution(institution.clone());
        // Before the first use of the key that the roster names, that one may hand over already.
        let in_force = self.next_identity.filter(|next| *next == hand_over.body.old);
        hand_over.replaces(&holder, &in_force.unwrap_or(self.identity))?;
        if hand_over.body.at > now + AHEAD {
            return Err(IdentityError::Ahead(hand_over.body.at));
        }
        let Some(known) = &self.hand_over else { return Ok(()) };
        if hand_over.body.at <= known.body.at {
            return Err(IdentityError::Older);
        }
        if last.is_some_and(|last| now.since(last) < PAUSE) {
            return Err(IdentityError::TooSoon);
        }
        Ok(())
    }
}

impl Network {
    /// The keys on `roster` that take the place of the one in use: those that it vouches for, and those
    /// that the root names in place of the same key on the roster before. A key that an institution
    /// enrolled with since is never replaced by an older roster's.
    pub(crate) fn replaced_identities(
        &self,
        roster: &VerifiedRoster,
        before: Option<&VerifiedRoster>,
    ) -> BTreeMap<InstitutionId, VerifyingKey> {
        let follows = |institution: &InstitutionId, named: &VerifyingKey| {
            let enrolled = self.institutions().get(institution)?;
            let vouched = enrolled.hand_over.as_ref().is_some_and(|h| h.body.new == *named);
            let on = |m: &&collegium_shared::roster::Member| m.institution == *institution;
            let was = before.and_then(|before| before.members().iter().find(on));
            let replaced = was.is_some_and(|was| {
                was.identity == enrolled.identity || enrolled.next_identity == Some(*named)
            });
            (enrolled.identity != *named && (vouched || replaced)).then_some(*named)
        };
        let members = roster.members().iter();
        members
            .filter_map(|m| Some((m.institution.clone(), follows(&m.institution, &m.identity)?)))
            .collect()
    }
}

impl Driver {
    /// Takes a step of an institution towards another identity key, and records it before it is
    /// acknowledged. The same step again changes nothing.
    pub(crate) fn replace_identity(
        &mut self,
        institution: InstitutionId,
        step: IdentityStep,
    ) -> Result<Result<(), IdentityError>, JournalError> {
        let event = match step {
            IdentityStep::HandOver(hand_over) => self.hand_over(institution.clone(), hand_over),
            IdentityStep::Taken(signature) => self.identity_taken(institution.clone(), &signature),
        };
        match event {
            Ok(Some(event)) => self.record(Event::Network(event)).map(Ok),
            Ok(None) => Ok(Ok(())),
            Err(refused) => {
                tracing::warn!(%institution, reason = %refused, "a step towards another identity key is refused");
                Ok(Err(refused))
            }
        }
    }

    fn hand_over(
        &mut self,
        institution: InstitutionId,
        hand_over: Box<SignedHandOver>,
    ) -> Result<Option<NetworkEvent>, IdentityError> {
        let now = self.now();
        let institutions = self.state.network.institutions();
        let enrolled = institutions.get(&institution).ok_or(IdentityError::NotEnrolled)?;
        if enrolled.hand_over.as_ref() == Some(&hand_over) {
            return Ok(None);
        }
        let last = self.handed_over.get(&institution).copied();
        enrolled.may_hand_over(&institution, &hand_over, now, last)?;
        let new = hand_over.body.new;
        let of = |other: &Enrolled| {
            other.heard_identities().any(|key| *key == new) || other.drafted_identity() == new
        };
        if institutions.iter().any(|(name, other)| *name != institution && of(other)) {
            return Err(IdentityError::Shared);
        }
        self.handed_over.insert(institution.clone(), now);
        Ok(Some(NetworkEvent::IdentityHandedOver { institution, hand_over }))
    }

    fn identity_taken(
        &self,
        institution: InstitutionId,
        signature: &Signature,
    ) -> Result<Option<NetworkEvent>, IdentityError> {
        let enrolled = self.state.network.institutions().get(&institution);
        let enrolled = enrolled.ok_or(IdentityError::NotEnrolled)?;
        let signed = |key: &VerifyingKey| {
            key.verify(taken_digest(&institution, key).as_bytes(), signature).is_ok()
        };
        match enrolled.next_identity {
            Some(next) if signed(&next) => {
                Ok(Some(NetworkEvent::IdentityTaken { institution, identity: next }))
            }
            // The answer was lost.
            _ if signed(&enrolled.identity) => Ok(None),
            None => Err(IdentityError::NotNamed),
            Some(_) => Err(IdentityError::Signature),
        }
    }
}

#[cfg(test)]
mod tests {
    use collegium_shared::crypto::{Digest, SigningKey};
    use proptest::prelude::*;

    use super::*;

    fn key() -> SigningKey {
        SigningKey::from_pkcs8(SigningKey::generate_pkcs8().unwrap().expose()).unwrap()
    }

    fn school() -> InstitutionId {
        "school-a".parse().unwrap()
    }

    fn enrolled(identity: VerifyingKey) -> Enrolled {
        Enrolled {
            legal_entity: "School".into(),
            identity,
            tls_key: Digest::of(b"tls"),
            certificate_expires_at: Timestamp::EPOCH,
            authority: None,
            renewed: None,
            revoked: None,
            hand_over: None,
            next_identity: None,
        }
    }

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_millis(seconds * 1_000)
    }

    fn statement(old: &SigningKey, new: &SigningKey, seconds: i64) -> SignedHandOver {
        SignedHandOver::sign(Holder::Institution(school()), old, new, at(seconds))
    }

    #[test]
    fn only_the_key_in_force_hands_over_and_never_back() {
        let [a, b, c, thief] = [key(), key(), key(), key()];
        let mut enrolled = enrolled(a.verifying_key());
        let may = |enrolled: &Enrolled, statement: &SignedHandOver| {
            enrolled.may_hand_over(&school(), statement, at(1_000), None)
        };
        let bad = |reason| Err(IdentityError::HandOver(reason));
        let first = statement(&a, &b, 10);
        assert_eq!(may(&enrolled, &first), Ok(()));
        assert_eq!(
            may(&enrolled, &statement(&a, &b, 1_300)),
            Ok(()),
            "a clock that is a little ahead"
        );
        let ahead = statement(&a, &b, 1_301);
        assert_eq!(may(&enrolled, &ahead), Err(IdentityError::Ahead(at(1_301))));
        assert_eq!(may(&enrolled, &statement(&thief, &b, 10)), bad(BadHandOver::OtherKey));
        let mut forged = first.clone();
        forged.by_old = thief.sign(b"x");
        assert_eq!(may(&enrolled, &forged), bad(BadHandOver::OldKey));
        let holder = Holder::Institution("school-b".parse().unwrap());
        let others = SignedHandOver::sign(holder, &a, &b, at(10));
        assert_eq!(may(&enrolled, &others), bad(BadHandOver::OtherHolder));

        enrolled.hand_over = Some(Box::new(first.clone()));
        assert_eq!(enrolled.drafted_identity(), b.verifying_key());
        assert_eq!(may(&enrolled, &statement(&a, &c, 9)), Err(IdentityError::Older));
        assert_eq!(may(&enrolled, &statement(&a, &c, 11)), Ok(()), "a next key that was lost");
        let soon = enrolled.may_hand_over(&school(), &statement(&a, &c, 11), at(59), Some(at(0)));
        assert_eq!(soon, Err(IdentityError::TooSoon));

        enrolled.next_identity = Some(b.verifying_key());
        enrolled.take_identity(b.verifying_key());
        assert_eq!((enrolled.identity, enrolled.next_identity), (b.verifying_key(), None));
        assert_eq!(enrolled.hand_over, None);
        assert_eq!(may(&enrolled, &first), bad(BadHandOver::OtherKey), "a replay");
        assert_eq!(may(&enrolled, &statement(&a, &c, 20)), bad(BadHandOver::OtherKey));
        assert_eq!(may(&enrolled, &statement(&b, &c, 20)), Ok(()));
    }

    #[test]
    fn the_old_key_is_heard_until_the_new_one_was_used() {
        let [a, b] = [key().verifying_key(), key().verifying_key()];
        let mut enrolled = enrolled(a);
        let heard = |enrolled: &Enrolled| enrolled.heard_identities().copied().collect::<Vec<_>>();
        assert_eq!(heard(&enrolled), [a]);
        enrolled.next_identity = Some(b);
        assert_eq!(heard(&enrolled), [a, b]);
        enrolled.take_identity(a);
        assert_eq!(heard(&enrolled), [a, b], "not the one that the roster names");
        enrolled.take_identity(b);
        assert_eq!(heard(&enrolled), [b]);
    }

    proptest! {
        /// Whatever is lost on the way: an agent that goes over when a roster names its next key, and
        /// says so when it can, holds a key that is heard.
        #[test]
        fn nobody_is_locked_out(steps in prop::collection::vec(0u8..4, 0..40)) {
            let mut enrolled = enrolled(key().verifying_key());
            let (mut held, mut next) = (enrolled.identity, None);
            for step in steps {
                match step {
                    // Not before the coordinator has heard the key in use.
                    0 if next.is_none() && enrolled.identity == held => next = Some(key().verifying_key()),
                    1 => enrolled.next_identity = next.or(enrolled.next_identity),
                    // The agent sees the roster.
                    2 if next.is_some() && enrolled.next_identity == next => {
                        held = next.take().unwrap_or(held);
                    }
                    3 => enrolled.take_identity(held),
                    _ => {}
                }
                prop_assert!(enrolled.heard_identities().any(|key| *key == held));
            }
        }
    }
}
