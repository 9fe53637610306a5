//! How rosters come into force: the draft for the root's keeper, and what the root signed. One that
//! changes a key of the open round waits for that round's end, because what was signed in a round is
//! checked with the keys of the roster that its plan names.

use std::{io, sync::Arc, time::Duration};

use collegium_shared::{
    crypto::Digest,
    documents::SignedDocument,
    hand_over::SignedHandOver,
    ids::InstitutionId,
    journal::JournalError,
    protocol::{Ending, Phase},
    roster::{Member, VerifiedRoster},
};
use serde_json::{Value, json};

use crate::{
    admin::{keep, root_of},
    ca,
    driver::Driver,
    network::{Enrolled, Event, NetworkEvent},
    root,
    round::RoundEvent,
};

/// How long a new member is one.
const MEMBERSHIP: Duration = Duration::from_secs(400 * 86_400);

/// The unsigned roster of everybody who is enrolled, with what the keys before say of new ones.
pub(crate) fn export(driver: &Driver) -> Result<Value, String> {
    if let Some((version, _)) = driver.state.network.waiting_roster() {
        return Err(format!(
            "roster {version} comes into force when the open round has ended; export again then"
        ));
    }
    let now = driver.now();
    let previous = driver.state.roster.as_deref();
    let enrolled = driver.state.network.institutions().iter();
    let enrolled: Vec<_> = enrolled.filter(|(_, enrolled)| enrolled.revoked.is_none()).collect();
    if enrolled.is_empty() {
        return Err("nobody is enrolled yet: invite institutions first".into());
    }
    let member = |(name, enrolled): &(&InstitutionId, &Enrolled)| {
        let identity = enrolled.drafted_identity();
        let known = previous.and_then(|roster| roster.member(name, now));
        let known = known.filter(|m| m.identity == identity || hands_over(enrolled, m).is_some());
        let known = known.map(|member| Member { identity, ..member.clone() });
        known.unwrap_or_else(|| Member {
            institution: InstitutionId::clone(name),
            legal_entity: enrolled.legal_entity.clone(),
            identity,
            // As certificates: members' clocks need not be exact.
            valid_from: now - ca::CLOCK_SKEW,
            valid_until: now + MEMBERSHIP,
        })
    };
    let hand_over = |(name, enrolled): &(&InstitutionId, &Enrolled)| {
        let member = previous?.members().iter().find(|m| m.institution == **name)?;
        hands_over(enrolled, member).cloned()
    };
    let members = enrolled.iter().map(member).collect();
    let handed = driver.state.network.hand_over();
    let key = handed.map_or_else(|| driver.key.verifying_key(), |handed| handed.body.new);
    let hand_overs: Vec<_> = enrolled
        .iter()
        .filter_map(hand_over)
        .chain(handed.filter(|_| previous.is_some()).cloned())
        .collect();
    let document = root::unsigned_roster(members, key, previous, hand_overs, now);
    serde_json::to_value(document).map_err(|error| error.to_string())
}

/// What the key on the roster says of the one that is to follow it.
fn hands_over<'a>(enrolled: &'a Enrolled, member: &Member) -> Option<&'a SignedHandOver> {
    enrolled.hand_over.as_deref().filter(|hand_over| hand_over.body.old == member.identity)
}

/// Puts a roster that the root signed into force, or has it wait for the end of the open round.
pub(crate) fn import(
    driver: &mut Driver,
    document: &SignedDocument,
) -> Result<Result<Value, String>, JournalError> {
    let (blob, roster) = match check(driver, document) {
        Ok(checked) => checked,
        Err(reason) => return Ok(Err(reason)),
    };
    let (version, members) = (roster.version(), roster.members().len());
    let mut answer = json!({ "version": version, "members": members });
    if let Some(round) = concerned(driver, &roster) {
        answer["waits_for"] = json!(round);
        driver.record(Event::Network(NetworkEvent::RosterWaits { document: blob, version }))?;
    } else {
        put_in_force(driver, blob, roster)?;
    }
    Ok(Ok(answer))
}

fn check(driver: &Driver, document: &SignedDocument) -> Result<(Digest, VerifiedRoster), String> {
    let SignedDocument::Roster { signed, .. } = document else {
        return Err("this document is not a roster".to_owned());
    };
    let root = root_of(driver, document)?;
    let roster = root.roster(signed, driver.now()).map_err(|error| error.to_string())?;
    let next = driver.state.network.hand_over().map(|handed| handed.body.new);
    if ![Some(driver.key.verifying_key()), next].contains(&Some(*roster.coordinator())) {
        return Err("the roster names another coordinator's key than this one's".to_owned());
    }
    if let Some(current) = &driver.state.roster {
        roster.follows(current).map_err(|error| error.to_string())?;
    }
    let waiting = driver.state.network.waiting_roster();
    if let Some((version, _)) = waiting.filter(|(version, _)| roster.version() < *version) {
        return Err(format!("roster {version}, which is newer, waits for the end of the round"));
    }
    Ok((keep(driver, document)?, roster))
}

/// The open round, if somebody has signed something in it and `roster` names other keys than the one
/// in force.
fn concerned(driver: &Driver, roster: &VerifiedRoster) -> Option<String> {
    let round = driver.state.network.open_round().filter(|round| round.phase() > Phase::Ready)?;
    let current = driver.state.roster.as_deref()?;
    let key = |roster: &VerifiedRoster, who: &InstitutionId| {
        roster.members().iter().find(|m| m.institution == *who).map(|member| member.identity)
    };
    let changed = |member: &Member| {
        key(roster, &member.institution).is_some_and(|named| named != member.identity)
    };
    let other = roster.coordinator() != current.coordinator();
    (other || current.members().iter().any(changed)).then(|| round.plan().round.to_string())
}

fn put_in_force(
    driver: &mut Driver,
    document: Digest,
    roster: VerifiedRoster,
) -> Result<(), JournalError> {
    let before = driver.state.roster.as_deref();
    let identities = driver.state.network.replaced_identities(&roster, before);
    driver.record(Event::Network(NetworkEvent::RosterImported {
        document,
        roster: roster.digest(),
        version: roster.version(),
        members: roster.members().len(),
        identities,
    }))?;
    driver.state.roster = Some(Arc::new(roster));
    // Nobody has sent anything yet: better a new plan at once than one that every agent refuses.
    if driver.state.network.open_round().is_some_and(|round| round.phase() == Phase::Ready) {
        let reason = "another roster came into force".to_owned();
        let ending = Ending::Abandoned { reason };
        driver.record(Event::Round(RoundEvent::Ended { ending }))?;
    }
    driver.go_over()
}

impl Driver {
    /// Puts the roster that waited for the end of a round into force; false if there is none.
    pub(crate) fn take_waiting_roster(&mut self) -> Result<bool, JournalError> {
        let Some((version, document)) = self.state.network.waiting_roster() else {
            return Ok(false);
        };
        let roster = self.read_roster(&document).map_err(|error| JournalError::Io {
            path: self.dir().join("blobs").join(document.to_string()),
            source: io::Error::other(error),
        })?;
        put_in_force(self, document, roster)?;
        tracing::info!(version, "the roster that waited for the end of the round is in force");
        Ok(true)
    }
}
