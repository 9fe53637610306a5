//! Who is waited for in the open phase, who said that it takes no part, and in which words a round says
//! that it ended because of it.

use std::collections::{BTreeMap, BTreeSet};

use collegium_shared::{
    crypto::VerifyingKey,
    ids::InstitutionId,
    protocol::{Decline, Phase},
    signed::Signed,
};

use super::{Admission, Refusal, Round, RoundEvent, State, accept, check_signed, same};

/// Names in one account; more are counted.
const MAX_NAMES: usize = 8;

impl Round {
    /// The institutions whose part in the open phase is missing; none once the round opens or ends.
    pub fn silent(&self) -> BTreeSet<InstitutionId> {
        let positions = || (0u16..).zip(&self.list);
        let listed = |missing: &dyn Fn(u16) -> bool| {
            let names = positions().filter(|(position, _)| missing(*position));
            names.map(|(_, ready)| ready.body.institution.clone()).collect()
        };
        let dealt = |position: &u16| self.dealt.contains_key(position);
        match &self.state {
            State::Ready(gathered) => {
                let awaited = self.awaited();
                awaited.filter(|name| !gathered.contains_key(*name)).cloned().collect()
            }
            State::Share => listed(&|p| !dealt(&p)),
            State::Upload => listed(&|p| dealt(&p) && !self.uploads.contains_key(&p)),
            State::Vote => {
                let silent: BTreeSet<_> = listed(&|p| dealt(&p));
                silent.into_iter().filter(|name| !self.votes.contains_key(name)).collect()
            }
            State::Reveal => listed(&|p| dealt(&p) && !self.reveals.contains_key(&p)),
            State::Open | State::Ended(_) => BTreeSet::new(),
        }
    }

    /// Those that the READY phase waits for, if they are enough.
    pub(super) fn awaited(&self) -> impl Iterator<Item = &InstitutionId> {
        self.expected
            .iter()
            .filter(|name| !self.away.contains(*name) && !self.declined.contains_key(*name))
    }

    /// At most one in each phase; more are heard and not kept.
    pub(super) fn admit_decline(
        &self,
        from: &InstitutionId,
        key: &VerifyingKey,
        decline: &Signed<Decline>,
    ) -> Result<Admission, Refusal> {
        check_signed(from, &decline.body.institution, key, decline)?;
        same(decline.body.plan, self.plan_digest, "plan")?;
        if !self.expected.contains(from) {
            return Err(Refusal::NotExpected(from.clone()));
        }
        let phase = self.phase();
        if self.declined.get(from).is_some_and(|phases| phases.contains_key(&phase)) {
            return Ok(Admission::Known);
        }
        accept(RoundEvent::Declined { decline: decline.clone() })
    }

    /// Who takes no part, since which phase, and why in that institution's words.
    pub fn declined(&self) -> &BTreeMap<InstitutionId, BTreeMap<Phase, String>> {
        &self.declined
    }

    /// Why the open phase ended the round: what came, and who was silent.
    pub(super) fn account(&self, what: &str) -> String {
        let phase = match self.phase() {
            Phase::Ready => "ready",
            Phase::Share => "share",
            Phase::Upload => "upload",
            Phase::Vote => "vote",
            _ => "reveal",
        };
        let silent = self.silent();
        let names = if silent.is_empty() { "nobody".to_owned() } else { named(&silent) };
        let mut account = format!("phase {phase}: {what}; silent: {names}");
        if !self.declined.is_empty() {
            account += &format!("; declined: {}", named(self.declined.keys()));
        }
        account
    }
}

/// The names, or the first of many and how many more there are.
pub fn named<'a>(names: impl IntoIterator<Item = &'a InstitutionId>) -> String {
    let mut names = names.into_iter();
    let first: Vec<&str> = names.by_ref().take(MAX_NAMES).map(InstitutionId::as_str).collect();
    match (first.join(", "), names.count()) {
        (listed, 0) => listed,
        (listed, more) => format!("{listed} and {more} more"),
    }
}
