//! Who is waited for in the open phase, and in which words a round says that it ended because of it.
//! Decides nothing: the machine asks for the words only.

use std::collections::BTreeSet;

use collegium_shared::{ids::InstitutionId, protocol::Phase};

use super::{Round, State};

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
