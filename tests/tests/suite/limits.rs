//! The largest documents that the protocol allows fit where they have to be written and sent.

use std::collections::BTreeSet;

use collegium_agent::{session::SessionEvent, state::AgentEvent};
use collegium_coordinator::{network::Event, round::RoundEvent};
use collegium_proto::convert::MAX_PLAN;
use collegium_shared::{
    architecture::{self, Hyper, KT_LOGISTIC_1, LEAST_GROUPS, Sizes, Stage},
    clock::Clock,
    crypto::{Digest, SigningKey},
    ids::{InstitutionId, RoundId},
    journal::MAX_ENTRY,
    protocol::{Certificate, Cohort, Deadlines, Inputs, Outcome, Plan, Vote},
    secagg::{Bitmap, MAX_MEMBERS, quorum},
    signed::Signed,
};

fn key() -> SigningKey {
    SigningKey::from_pkcs8(SigningKey::generate_pkcs8().unwrap().expose()).unwrap()
}

/// As many institutions as can be, with names as long as can be.
fn institutions() -> BTreeSet<InstitutionId> {
    (0..MAX_MEMBERS).map(|n| format!("{n:0>64}").parse().unwrap()).collect()
}

/// A quorum's ABORT with as many votes as one can need.
fn aborted(cohort: Cohort, key: &SigningKey) -> Certificate {
    let outcome = Outcome::Abort { context: Digest::of(b"context") };
    let votes = institutions().into_iter().take(quorum(MAX_MEMBERS, cohort.c_max.into()));
    let sign = |institution: InstitutionId| {
        let vote = Vote { institution: institution.clone(), outcome: outcome.clone() };
        (institution, Signed::sign(vote, key).signature)
    };
    let votes = votes.map(sign).collect();
    Certificate { outcome, votes }
}

/// The plan of another attempt at a training step in the largest network.
fn largest_plan(key: &SigningKey) -> Signed<Plan> {
    let (digest, hyper) = (Digest::of(b"document"), Hyper::default());
    let cohort = Cohort { c_max: 85, min_honest: 100 };
    let stage = Stage::Train { step: 10_000 };
    let sizes = Sizes { items: 100_000, competencies: 10_000 };
    let n_max = u32::try_from(MAX_MEMBERS).unwrap();
    let inputs = Inputs {
        support: Some(digest),
        statistics: Some(digest),
        totals: Some(digest),
        start: Some(digest),
        candidate: Some(digest),
    };
    let plan = Plan {
        round: RoundId {
            task: "t".repeat(64).parse().unwrap(),
            round: u32::MAX,
            attempt: u32::MAX,
        },
        architecture: KT_LOGISTIC_1.to_owned(),
        layout: Some(digest),
        inputs,
        encoding: architecture::encoding(&stage, &hyper, sizes, n_max).unwrap(),
        stage,
        group: Some(institutions().into_iter().take(MAX_MEMBERS.div_ceil(LEAST_GROUPS)).collect()),
        hyper,
        cohort,
        roster: digest,
        registry: digest,
        deadlines: Deadlines::default(),
        purpose: None,
        aborted: Some(aborted(cohort, key)),
        before: None,
        issued_at: Clock::system().now(),
    };
    Signed::sign(plan, key)
}

#[test]
fn the_largest_plan_fits_a_message_and_everybodys_journal() {
    let plan = largest_plan(&key());
    let bytes = serde_json::to_vec(&plan).unwrap().len();
    assert!(bytes <= MAX_PLAN, "a plan of {bytes} bytes");
    let round = plan.body.round.clone();
    let plan = Box::new(plan);
    let accepted = SessionEvent::PlanAccepted { plan: plan.clone() };
    let institutions: Vec<InstitutionId> = institutions().into_iter().collect();
    let expected = institutions.iter().cloned().collect();
    // Fewer than n_min present begin no round.
    let most = MAX_MEMBERS - plan.body.cohort.n_min();
    let away = institutions.iter().take(most).cloned().collect();
    let listed = SessionEvent::Listed { round, root: Digest::of(b"list"), institutions };
    let outcome = Outcome::Survivors {
        context: Digest::of(b"context"),
        survivors: Bitmap::of(MAX_MEMBERS, [0]).unwrap(),
        uploads: Digest::of(b"uploads"),
    };
    let entries = [
        serde_json::to_vec(&Event::Round(RoundEvent::Planned { plan, expected, away })),
        serde_json::to_vec(&Event::Round(RoundEvent::Proposed { outcome })),
        serde_json::to_vec(&AgentEvent::Session(accepted)),
        serde_json::to_vec(&AgentEvent::Session(listed)),
    ];
    // The time of an entry and its frame stand beside the event.
    let beside = 128;
    for entry in entries {
        let bytes = entry.unwrap().len();
        println!("an entry of {bytes} bytes");
        assert!(bytes + beside <= MAX_ENTRY, "an entry of {bytes} bytes");
    }
}
