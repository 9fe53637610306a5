//! Whether the keys before vouch for the keys that a draft changes. A draft comes from the coordinator,
//! which could put any key into it: what is believed here is the roster that the root signed last, and
//! signatures by the keys on it.

use std::collections::BTreeMap;

use collegium_shared::{
    clock::Timestamp,
    crypto::VerifyingKey,
    hand_over::{Holder, SignedHandOver},
    ids::InstitutionId,
    roster::Roster,
    signed::Statement,
};

use super::RootError;

/// The changes that the key before vouches for, and since when.
#[derive(Default)]
pub(super) struct Vouched {
    pub(super) members: BTreeMap<InstitutionId, Timestamp>,
    pub(super) coordinator: Option<Timestamp>,
}

/// Checks every hand-over in a draft: the key on `last` vouches for the one on `roster`.
pub(super) fn check(
    hand_overs: &[SignedHandOver],
    roster: &Roster,
    last: Option<&Roster>,
) -> Result<Vouched, RootError> {
    let mut vouched = Vouched::default();
    if last.is_some_and(|last| last.digest() == roster.digest()) {
        // Signed before, when they were checked: the same again, because the file was lost.
        return Ok(vouched);
    }
    for statement in hand_overs {
        let body = &statement.body;
        let last = last.ok_or(RootError::StrayHandOver)?;
        let (before, next) = match &body.holder {
            Holder::Institution(name) => (identity(last, name), identity(roster, name)),
            Holder::Coordinator(_) => (Some(last.coordinator), Some(roster.coordinator)),
        };
        let (Some(before), Some(next)) = (before, next) else {
            return Err(RootError::StrayHandOver);
        };
        let bad = |reason| RootError::BadHandOver { whose: whose(&body.holder), reason };
        let named = statement.replaces(&body.holder, &before).map_err(bad)?;
        if named != next {
            return Err(RootError::StrayHandOver);
        }
        match &body.holder {
            Holder::Institution(name) => drop(vouched.members.insert(name.clone(), body.at)),
            Holder::Coordinator(_) => vouched.coordinator = Some(body.at),
        }
    }
    Ok(vouched)
}

fn identity(roster: &Roster, name: &InstitutionId) -> Option<VerifyingKey> {
    roster.members.iter().find(|m| m.institution == *name).map(|member| member.identity)
}

fn whose(holder: &Holder) -> String {
    match holder {
        Holder::Institution(name) => name.to_string(),
        Holder::Coordinator(_) => "the coordinator".into(),
    }
}
