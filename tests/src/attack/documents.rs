//! Documents that the consortium's root did not sign, or that do not follow from the one in force, and
//! different ones for different agents.

use anyhow::Context;
use collegium_shared::{
    crypto::SigningKey,
    protocol::Phase,
    roster::Roster,
    signed::{Signed, Statement},
};

use super::{
    Attack,
    play::Play,
    stage::{Refused, Stage},
};

pub(super) const ATTACKS: [Attack; 5] = [
    Attack {
        name: "a roster that the root did not sign",
        does: "adds a member and signs the roster with a root key of its own",
        run: other_root,
    },
    Attack {
        name: "one legal entity as two members",
        does: "has the root sign a roster in which two members are one legal entity",
        run: split_entity,
    },
    Attack {
        name: "two rosters of one version",
        does: "has the root sign a second roster of the version in force",
        run: forked_roster,
    },
    // These are the last, because newer rosters are in force after them.
    Attack {
        name: "a vote of a revoked member",
        does: "keeps a member on the list that the root's newest roster has left out, for its vote",
        run: revoked_member,
    },
    Attack {
        name: "different rosters for different agents",
        does: "shows one agent a newer roster, plans by either, and takes the newer one back",
        run: different_rosters,
    },
];

fn in_force(stage: &Stage) -> anyhow::Result<Roster> {
    let roster = stage.documents.borrow().roster.clone();
    Ok(roster.context("no roster is in force")?.body)
}

fn root(stage: &Stage) -> anyhow::Result<SigningKey> {
    Ok(SigningKey::load(&stage.network().root_dir().join("root.key"))?)
}

/// Shows the roster to all agents until they have refused it, and the one in force again.
fn refused(stage: &Stage, roster: &Signed<Roster>, words: &str) -> anyhow::Result<Refused> {
    for who in &stage.agents {
        stage.server.show(who, |shown| shown.documents.roster = Some(roster.clone()));
    }
    let refused = stage.expect_document_refused(&stage.agents, &roster.digest(), words);
    for who in &stage.agents {
        stage.server.show(who, |shown| shown.documents = stage.documents.borrow().clone());
    }
    refused
}

fn other_root(stage: &Stage) -> anyhow::Result<Refused> {
    let mut roster = in_force(stage)?;
    let mut invented = roster.members.last().context("an empty roster")?.clone();
    let key = || -> anyhow::Result<SigningKey> {
        Ok(SigningKey::from_pkcs8(SigningKey::generate_pkcs8()?.expose())?)
    };
    invented.institution = "zelkova".parse()?;
    invented.legal_entity = "zelkova e.V.".to_owned();
    invented.identity = key()?.verifying_key();
    (roster.previous, roster.version) = (Some(roster.digest()), roster.version + 1);
    roster.members.push(invented);
    refused(stage, &Signed::sign(roster, &key()?), "not signed by the consortium root")
}

fn split_entity(stage: &Stage) -> anyhow::Result<Refused> {
    let mut roster = in_force(stage)?;
    (roster.previous, roster.version) = (Some(roster.digest()), roster.version + 1);
    roster.members[2].legal_entity = roster.members[0].legal_entity.to_uppercase();
    refused(stage, &Signed::sign(roster, &root(stage)?), "one entity counts once")
}

fn forked_roster(stage: &Stage) -> anyhow::Result<Refused> {
    let mut roster = in_force(stage)?;
    roster.members.pop();
    refused(
        stage,
        &Signed::sign(roster, &root(stage)?),
        "does not follow from the roster before it",
    )
}

/// Puts the next roster into force with all agents.
fn put_into_force(stage: &Stage, change: impl FnOnce(&mut Roster)) -> anyhow::Result<()> {
    let mut next = in_force(stage)?;
    (next.previous, next.version) = (Some(next.digest()), next.version + 1);
    change(&mut next);
    stage.documents.borrow_mut().roster = Some(Signed::sign(next, &root(stage)?));
    for who in &stage.agents {
        stage.server.show(who, |shown| shown.documents = stage.documents.borrow().clone());
    }
    Ok(())
}

fn revoked_member(stage: &Stage) -> anyhow::Result<Refused> {
    let (before, colluder) = (in_force(stage)?, stage.colluder.institution());
    put_into_force(stage, |roster| {
        roster.members.retain(|member| member.institution != *colluder);
    })?;
    let play = Play::open(stage, stage.plan(&stage.task(), 0, 0)?)?;
    play.show(&stage.agents, Phase::Share, |_| {});
    let words = format!("{colluder} on the list is not on the roster");
    let refused = stage.expect_refused(&stage.agents, play.round(), &words)?;
    put_into_force(stage, |roster| roster.members = before.members)?;
    Ok(refused)
}

fn different_rosters(stage: &Stage) -> anyhow::Result<Refused> {
    let mut newer = in_force(stage)?;
    (newer.previous, newer.version) = (Some(newer.digest()), newer.version + 1);
    let newer = Signed::sign(newer, &root(stage)?);
    let (first, others) = stage.agents.split_at(1);
    let older = stage.documents.borrow().roster.clone().context("no roster is in force")?;

    let words = "the plan names another roster";
    stage.server.show(&first[0], |shown| shown.documents.roster = Some(newer.clone()));
    let mut plan = stage.plan(&stage.task(), 0, 0)?;
    plan.roster = newer.digest();
    let by_newer = Play::begin(stage, stage.sign(plan))?;
    by_newer.show(others, Phase::Ready, |_| {});
    let mut refused = stage.expect_refused(others, by_newer.round(), words)?;
    let by_older = Play::begin(stage, stage.sign(stage.plan(&stage.task(), 0, 0)?))?;
    by_older.show(first, Phase::Ready, |_| {});
    refused.by.splice(0..0, stage.expect_refused(first, by_older.round(), words)?.by);

    stage.server.show(&first[0], |shown| shown.documents.roster = Some(older.clone()));
    stage.expect_document_refused(first, &older.digest(), "is older than roster")?;
    stage.documents.borrow_mut().roster = Some(newer);
    for who in &stage.agents {
        stage.server.show(who, |shown| shown.documents = stage.documents.borrow().clone());
    }
    Ok(refused)
}
