//! How rosters come into force: the draft for the root's keeper, and what the root signed. One that
//! changes a key of the open round waits for that round's end, because what was signed in a round is
//! checked with the keys of the roster that its plan names.

use std::{sync::Arc, time::Duration};

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
    signing,
};

/// How long a new member is one.
const MEMBERSHIP: Duration = Duration::from_secs(400 * 86_400);

/// The unsigned roster of everybody who is enrolled, with what the keys before say of new ones. It follows
/// the one in force.
pub(crate) fn export(driver: &Driver) -> Result<Value, String> {
    if let Some((version, _)) = driver.state.network.waiting_roster() {
        return Err(match waiting_error(driver) {
            None => format!(
                "roster {version} comes into force when the open round has ended; export again then"
            ),
            Some(error) => format!(
                "roster {version} waits and cannot come into force: {error}; to have the root sign the one after it, export with --after and its file"
            ),
        });
    }
    draft(driver, driver.state.roster.as_deref())
}

/// As [`export`], but the draft follows `document`, a roster that the root signed and that cannot come into
/// force here: the root never signs another one of that version.
pub(crate) fn export_after(driver: &Driver, document: &SignedDocument) -> Result<Value, String> {
    let SignedDocument::Roster { signed, .. } = document else {
        return Err("this document is not a roster".to_owned());
    };
    let root = root_of(driver, document)?;
    let after = root.roster_at_rest(signed).map_err(|error| error.to_string())?;
    if let Some(current) = &driver.state.roster {
        after.follows(current).map_err(|error| error.to_string())?;
    }
    let waiting = driver.state.network.waiting_roster();
    if let Some((version, _)) = waiting.filter(|(version, _)| after.version() < *version) {
        return Err(format!("roster {version}, which is newer, waits: export after that one"));
    }
    draft(driver, Some(&after))
}

fn draft(driver: &Driver, previous: Option<&VerifiedRoster>) -> Result<Value, String> {
    let now = driver.now();
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
        .chain(handed.filter(|handed| follows_on(previous, handed)).cloned())
        .collect();
    let document = root::unsigned_roster(members, key, previous, hand_overs, now);
    serde_json::to_value(document).map_err(|error| error.to_string())
}

/// Whether this is the word of the coordinator's key on the roster before.
fn follows_on(previous: Option<&VerifiedRoster>, handed: &SignedHandOver) -> bool {
    previous.is_some_and(|previous| *previous.coordinator() == handed.body.old)
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
    usable(driver, &roster)?;
    if let Some(current) = &driver.state.roster {
        roster.follows(current).map_err(|error| error.to_string())?;
    }
    let waiting = driver.state.network.waiting_roster();
    if let Some((version, _)) = waiting.filter(|(version, _)| roster.version() < *version) {
        return Err(format!("roster {version}, which is newer, waits for the end of the round"));
    }
    Ok((keep(driver, document)?, roster))
}

/// Whether the coordinator has the key that `roster` names for it: its own, or the next one.
fn usable(driver: &Driver, roster: &VerifiedRoster) -> Result<(), String> {
    let named = *roster.coordinator();
    if named == driver.key.verifying_key() {
        return Ok(());
    }
    let next = driver.state.network.hand_over().map(|handed| handed.body.new);
    if next != Some(named) {
        return Err("the roster names another coordinator's key than this one's".to_owned());
    }
    signing::files(driver.dir()).next(&named).map(drop).map_err(|error| {
        format!(
            "the roster names the next signing key, which cannot be used here: {error}. Put it back from a backup that was made after key rotate; if it is lost, see \"A lost next key\" in OPERATIONS.md"
        )
    })
}

/// Why the roster that waits cannot come into force; none if it can, or if none waits.
pub(crate) fn waiting_error(driver: &Driver) -> Option<String> {
    let (_, document) = driver.state.network.waiting_roster()?;
    read_usable(driver, &document).err()
}

fn read_usable(driver: &Driver, document: &Digest) -> Result<VerifiedRoster, String> {
    let roster = driver.read_roster(document).map_err(|error| format!("{error:#}"))?;
    usable(driver, &roster).map(|()| roster)
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
    /// Puts the roster that waited for the end of a round into force; false if there is none, or if it
    /// cannot be: then it goes on waiting, and the one in force counts.
    pub(crate) fn take_waiting_roster(&mut self) -> Result<bool, JournalError> {
        let Some((version, document)) = self.state.network.waiting_roster() else {
            return Ok(false);
        };
        let roster = match read_usable(self, &document) {
            Ok(roster) => roster,
            Err(reason) => {
                if self.stuck_roster.replace(version) != Some(version) {
                    tracing::error!(version, %reason, "the roster that waits cannot come into force");
                }
                return Ok(false);
            }
        };
        put_in_force(self, document, roster)?;
        tracing::info!(version, "the roster that waited for the end of the round is in force");
        Ok(true)
    }
}
