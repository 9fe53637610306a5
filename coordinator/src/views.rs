//! What one member may see: the cursor that tells it whether anything changed, and the documents of
//! the open round up to its phase. Reads the published state only.

use std::sync::Arc;

use collegium_proto::convert::Polled;
use collegium_shared::{
    crypto::Digest,
    ids::{InstitutionId, RoundId},
    protocol::{Phase, RoundView, ShareBody},
};

use crate::{
    driver::Published,
    round::{Position, Round},
    spool::{RoundFiles, SpoolError},
};

/// The dealings of one round, read once and kept while the round lasts.
pub type Dealings = Arc<Vec<(Position, ShareBody)>>;

/// Reads every dealing of L1.
pub fn read_dealings(round: &Round, files: &RoundFiles) -> Result<Dealings, SpoolError> {
    let read = |(&dealer, header): (&Position, &collegium_shared::signed::Signed<_>)| {
        files.read_share(&header.body).map(|body| (dealer, body))
    };
    round.dealt().iter().map(read).collect::<Result<Vec<_>, _>>().map(Arc::new)
}

/// The round that this member has a part in, if any.
pub fn round_of<'a>(published: &'a Published, member: &InstitutionId) -> Option<&'a Round> {
    let round = published.network.round()?;
    let part = match round.phase() {
        Phase::Ready => round.expected().contains(member),
        _ => round.position(member).is_some(),
    };
    part.then_some(round)
}

/// Whether the root's roster names this institution: models are for members only.
pub fn is_on_roster(published: &Published, institution: &InstitutionId) -> bool {
    let roster = published.roster.as_deref();
    roster.is_some_and(|roster| roster.members().iter().any(|m| m.institution == *institution))
}

fn release_for(published: &Published, member: &InstitutionId) -> Option<Digest> {
    published.network.release().filter(|_| is_on_roster(published, member))
}

fn authorities(published: &Published) -> Option<Digest> {
    published.authorities.as_ref().map(|signed| signed.digest())
}

/// Changes exactly when this member has something new to look at.
pub fn cursor(published: &Published, member: &InstitutionId) -> String {
    let round = round_of(published, member);
    let state = (
        published.network.roster().map(|r| r.digest),
        published.network.registry().map(|r| r.digest),
        release_for(published, member),
        round.map(|round| (round.plan_digest(), round.phase())),
        authorities(published),
    );
    Digest::of_parts("collegium/v1/cursor", &[format!("{state:?}").as_bytes()]).short()
}

/// The answer to a member's poll. `held` is the round and phase whose lists it has already.
pub fn answer(
    published: &Published,
    member: &InstitutionId,
    held: Option<&(RoundId, Phase)>,
    dealings: Option<&Dealings>,
) -> Polled {
    let round = round_of(published, member);
    Polled {
        cursor: cursor(published, member),
        roster: published.network.roster().map(|r| r.digest),
        release: release_for(published, member),
        round: round.map(|round| round_view(round, member, held, dealings)),
        notice: None,
        authorities: authorities(published),
        release_signature: published
            .countersigned
            .filter(|(of, _)| release_for(published, member) == Some(*of))
            .map(|(_, signature)| signature),
        ledger: None,
    }
}

fn round_view(
    round: &Round,
    member: &InstitutionId,
    held: Option<&(RoundId, Phase)>,
    dealings: Option<&Dealings>,
) -> RoundView {
    let phase = round.phase();
    let held = held.filter(|(id, _)| *id == round.plan().round).map(|(_, phase)| *phase);
    let wants = |from: Phase| phase >= from && held.is_none_or(|held| held < from);
    let list = if wants(Phase::Share) { round.list().to_vec() } else { Vec::new() };
    let headers = match dealings {
        Some(dealings) if wants(Phase::Upload) => headers(round, member, dealings),
        _ => Vec::new(),
    };
    let uploads =
        if wants(Phase::Vote) { round.uploads().values().cloned().collect() } else { Vec::new() };
    RoundView {
        phase,
        plan: round.signed_plan().clone(),
        list,
        headers,
        proposal: round.proposal().cloned(),
        uploads,
        certificate: round.certificate(),
        ending: round.ending().cloned(),
    }
}

/// Whether the answer needs the dealings.
pub fn needs_dealings(round: &Round, held: Option<&(RoundId, Phase)>) -> bool {
    let held = held.filter(|(id, _)| *id == round.plan().round).map(|(_, phase)| *phase);
    (Phase::Upload..Phase::Ended).contains(&round.phase())
        && held.is_none_or(|held| held < Phase::Upload)
}

/// L1 with the shares that are sealed to this member.
fn headers(
    round: &Round,
    member: &InstitutionId,
    dealings: &Dealings,
) -> Vec<(collegium_shared::signed::Signed<collegium_shared::protocol::ShareHeader>, Vec<u8>)> {
    let Some(own) = round.position(member) else { return Vec::new() };
    dealings
        .iter()
        .filter_map(|(dealer, body)| {
            let header = round.dealt().get(dealer)?.clone();
            let sealed = body.sealed.get(usize::from(own))?.clone();
            Some((header, sealed))
        })
        .collect()
}
