//! The next plan, from what is recorded: who may be asked, and what is asked for. Pure; whether a round
//! may begin now is the owner's to say.

use std::collections::BTreeSet;

use collegium_shared::{
    architecture::Stage, clock::Timestamp, crypto::Digest, ids::InstitutionId, params::Encoding,
    protocol::Plan, roster::VerifiedRoster,
};

use crate::{
    network::Network,
    round::Round,
    task::{Asked, Task},
};

/// The members that a round of this task may ask.
pub fn expected(
    network: &Network,
    task: &Task,
    roster: &VerifiedRoster,
    now: Timestamp,
) -> BTreeSet<InstitutionId> {
    roster
        .active(now)
        .map(|member| member.institution.clone())
        .filter(|institution| !task.excluded().contains(institution))
        .filter(|institution| !network.is_revoked(institution))
        .collect()
}

/// Whom the next round of a task asks, and how many of them have to be present; `away` says who is not.
pub fn asked(
    network: &Network,
    task: &Task,
    stage: &Stage,
    (roster, now): (&VerifiedRoster, Timestamp),
    away: impl FnOnce(&BTreeSet<InstitutionId>) -> BTreeSet<InstitutionId>,
) -> Asked {
    let expected = expected(network, task, roster, now);
    let away = away(&expected);
    match task.in_groups(stage) {
        true => task.asked_of_group(&expected, &away),
        false => Asked { expected, away, needed: task.n_min(), draw: None },
    }
}

/// The plan of the task's next round, for a stage whose sums have this encoding and layout, and those whom it
/// asks.
pub fn plan(
    network: &Network,
    task: &Task,
    roster: &VerifiedRoster,
    (stage, expected): (Stage, &BTreeSet<InstitutionId>),
    (encoding, layout): (Encoding, Option<Digest>),
    now: Timestamp,
) -> Plan {
    let spec = task.spec();
    Plan {
        round: task.round_id(),
        architecture: spec.architecture.id().to_owned(),
        purpose: spec.purpose.clone(),
        layout,
        inputs: task.inputs(&stage),
        group: task.in_groups(&stage).then(|| expected.clone()),
        stage,
        hyper: spec.hyper.clone(),
        encoding,
        cohort: task.cohort(),
        roster: roster.digest(),
        registry: task.registry(),
        deadlines: spec.deadlines,
        aborted: task.aborted().cloned(),
        before: network.round().and_then(Round::before),
        issued_at: now,
    }
}
