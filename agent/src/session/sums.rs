//! What does not depend on the weights is the same in every sum, so sums over other institutions, put together,
//! would tell of those in between: over the same records this institution is only ever in sums of equal ones. It
//! remembers from the moment that bytes of its input may leave, whether it sees the round's end or not. See
//! PROTOCOL, "Across rounds", and ADR 42.

use std::collections::BTreeSet;

use collegium_shared::{
    crypto::Digest,
    faults::{Defence, without},
    ids::{InstitutionId, RoundId},
    protocol::{Outcome, Plan},
};
use serde::{Deserialize, Serialize};

use super::{Refusal, Session};
use crate::prepare;

/// The sums that may have been opened, whatever the task.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Sums(Vec<Summed>);

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Summed {
    subject: Digest,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    counted: Option<(String, Digest)>,
    round: RoundId,
    /// L: nobody else can be in the sum.
    listed: BTreeSet<InstitutionId>,
    /// U, if this institution voted for it or saw a quorum's word.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    survivors: Option<BTreeSet<InstitutionId>>,
    /// Whether that was a quorum's word: then no other sum of this attempt can have been opened.
    certain: bool,
}

/// What makes two sums comparable: records and stage, and whether it is asked of what serves. Not the
/// registry: the same learners count whatever it names.
fn subject(session: &Session) -> Option<Digest> {
    let plan = session.plan();
    let snapshot = session.snapshot().filter(|_| plan.stage.once())?;
    let serving = [u8::from(prepare::asks_of_serving(plan))];
    let parts = [plan.stage.label().as_bytes(), snapshot.as_bytes(), &serving];
    Some(Digest::of_parts("collegium/v1/summed", &parts))
}

/// Of what is asked of the model that serves: what it is, and who counts in it and how they are told apart, by
/// the plan and by the policy that the input was made under.
fn counted(plan: &Plan, permitted: Option<Digest>) -> Option<(String, Digest)> {
    prepare::asks_of_serving(plan).then(|| {
        let of = [prepare::bias_audit::groups(plan), permitted];
        let parts = of.each_ref().map(|part| part.as_ref().map_or(&[][..], |part| part.as_bytes()));
        (plan.architecture.clone(), Digest::of_parts("collegium/v1/counted", &parts))
    })
}

/// The institutions of `listed` whose sum the outcome lets be opened; none of an ABORT.
fn survivors(
    listed: &BTreeSet<InstitutionId>,
    outcome: &Outcome,
) -> Option<BTreeSet<InstitutionId>> {
    let Outcome::Survivors { survivors, .. } = outcome else { return None };
    let named = listed.iter().zip(0u16..).filter(|(_, place)| survivors.contains(*place));
    Some(named.map(|(institution, _)| institution.clone()).collect())
}

impl Summed {
    /// Whether a sum over the same records may be of these institutions as well. An honest voter of this list
    /// votes for one sum only, so that over the same list no quorum is left for another; a shorter list will do if
    /// it is known to be all that was summed.
    fn allows(
        &self,
        listed: &BTreeSet<InstitutionId>,
        asked: Option<&BTreeSet<InstitutionId>>,
    ) -> bool {
        let known = self.survivors.as_ref();
        let bound = *listed == self.listed || (self.certain && known == Some(listed));
        bound && asked.is_none_or(|asked| known.is_none_or(|known| known == asked))
    }
}

impl Sums {
    /// Keeps that this attempt's input may be summed: by the outcome, if one was voted for, and for certain if a
    /// quorum did. A quorum's ABORT takes it back.
    pub(super) fn note(&mut self, session: &Session, outcome: Option<&Outcome>, certain: bool) {
        let Some(subject) = subject(session) else { return };
        let listed: BTreeSet<_> = session.institutions.iter().cloned().collect();
        let survivors = outcome.and_then(|outcome| survivors(&listed, outcome));
        if outcome.is_some() && survivors.is_none() {
            if certain {
                self.forget(session.id());
            }
            return;
        }
        if let Some(known) = self.0.iter_mut().find(|known| known.round == *session.id()) {
            known.survivors = survivors.or(known.survivors.take());
            known.certain |= certain;
            return;
        }
        let counted = counted(session.plan(), session.permitted);
        let round = session.id().clone();
        self.0.push(Summed { subject, counted, round, listed, survivors, certain });
    }

    /// Nothing of this attempt was summed: its ABORT was proven.
    pub(super) fn forget(&mut self, round: &RoundId) {
        self.0.retain(|summed| summed.round != *round);
    }

    /// Whether this attempt's input may be in a sum over `listed`, and in the one of the outcome, if that is known.
    pub(super) fn check(
        &self,
        session: &Session,
        listed: &BTreeSet<InstitutionId>,
        outcome: Option<&Outcome>,
    ) -> Result<(), Refusal> {
        let Some(subject) = subject(session).filter(|_| !without(Defence::DistinctSums)) else {
            return Ok(());
        };
        let counted = counted(session.plan(), session.permitted);
        let asked = outcome.and_then(|outcome| survivors(listed, outcome));
        let others = self.0.iter().filter(|earlier| earlier.round != *session.id());
        for earlier in others.filter(|earlier| earlier.subject == subject) {
            let round = || earlier.round.clone();
            let pair = earlier.counted.as_ref().zip(counted.as_ref());
            if pair.is_some_and(|((was, by), (is, now))| was == is && by != now) {
                return Err(Refusal::OtherGroups { round: round() });
            }
            if !earlier.allows(listed, asked.as_ref()) {
                return Err(Refusal::OtherInstitutions { round: round() });
            }
        }
        Ok(())
    }
}
