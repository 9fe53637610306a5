//! Plans that ask for more than they may: fewer honest institutions, other numbers, the same attempt twice,
//! an abort that nobody voted for, or in another's name.

use collegium_shared::{
    crypto::Digest,
    params::Encoding,
    protocol::{Certificate, Cohort, Outcome, Phase, Plan},
};

use super::{
    Attack,
    play::Play,
    stage::{DIMENSION, Refused, Stage},
};

pub(super) const ATTACKS: [Attack; 8] = [
    Attack {
        name: "a plan with less than min_honest",
        does: "plans for sums of one honest institution",
        run: few_honest,
    },
    Attack {
        name: "a plan with less than c_max",
        does: "plans as if nobody colluded",
        run: few_colluders,
    },
    Attack {
        name: "a plan by another key",
        does: "signs the plan with a member's key",
        run: other_key,
    },
    Attack {
        name: "a plan of another roster",
        does: "names a roster that the root never signed",
        run: other_roster,
    },
    Attack {
        name: "two plans for one attempt",
        does: "shows the agents a second plan of the attempt that they are in",
        run: two_plans,
    },
    Attack {
        name: "a trap vector",
        does: "asks for a vector with one number more than the architecture has",
        run: trap_vector,
    },
    Attack {
        name: "another layout",
        does: "names a parameter layout that the architecture does not have",
        run: other_layout,
    },
    Attack {
        name: "an abort that nobody signed",
        does: "begins the next attempt with an ABORT under the colluder's vote alone",
        run: forged_abort,
    },
];

/// Shows a changed plan to everybody and waits until all refuse it.
fn changed(
    stage: &Stage,
    words: &str,
    change: impl FnOnce(&mut Plan) -> anyhow::Result<()>,
) -> anyhow::Result<Refused> {
    let mut plan = stage.plan(&stage.task(), 0, 0)?;
    change(&mut plan)?;
    let play = Play::begin(stage, stage.sign(plan))?;
    play.show(&stage.agents, Phase::Ready, |_| {});
    stage.expect_refused(&stage.agents, play.round(), words)
}

fn few_honest(stage: &Stage) -> anyhow::Result<Refused> {
    changed(stage, "policy does not allow min_honest 1 (it needs 2)", |plan| {
        plan.cohort = Cohort { min_honest: 1, ..plan.cohort };
        Ok(())
    })
}

fn few_colluders(stage: &Stage) -> anyhow::Result<Refused> {
    changed(stage, "policy does not allow c_max 0 (it needs 1)", |plan| {
        plan.cohort = Cohort { c_max: 0, ..plan.cohort };
        Ok(())
    })
}

fn other_key(stage: &Stage) -> anyhow::Result<Refused> {
    let plan = stage.plan(&stage.task(), 0, 0)?;
    let play = Play::begin(stage, stage.colluder.sign(plan))?;
    play.show(&stage.agents, Phase::Ready, |_| {});
    let words = "the plan is not signed by the coordinator's key on the roster";
    stage.expect_refused(&stage.agents, play.round(), words)
}

fn other_roster(stage: &Stage) -> anyhow::Result<Refused> {
    changed(stage, "the plan names another roster", |plan| {
        plan.roster = Digest::of(b"a roster of its own");
        Ok(())
    })
}

fn two_plans(stage: &Stage) -> anyhow::Result<Refused> {
    let plan = stage.plan(&stage.task(), 0, 0)?;
    let first = Play::open(stage, plan.clone())?;
    let mut second = plan;
    second.deadlines.reveal += 1;
    let second = Play::begin(stage, stage.sign(second))?;
    second.show(&stage.agents, Phase::Ready, |_| {});
    stage.expect_refused(&stage.agents, first.round(), "the plan differs from the one pinned")
}

fn trap_vector(stage: &Stage) -> anyhow::Result<Refused> {
    changed(stage, "the plan's vector", |plan| {
        plan.encoding = Encoding::new([("move", DIMENSION, 1.0), ("one-learner", 1, 1.0)], 4)?;
        Ok(())
    })
}

fn other_layout(stage: &Stage) -> anyhow::Result<Refused> {
    changed(stage, "the plan's parameter layout is not the one", |plan| {
        plan.layout = Some(Digest::of(b"another layout"));
        Ok(())
    })
}

fn forged_abort(stage: &Stage) -> anyhow::Result<Refused> {
    let task = stage.task();
    let first = Play::up_to_the_vote(stage, stage.plan(&task, 0, 0)?)?;
    first.open_sum(&stage.everybody())?;
    let outcome = Outcome::Abort { context: first.context() };
    let signature = first.colluder.vote_for(outcome.clone()).signature;
    let votes = stage.everybody().into_iter().map(|who| (who, signature)).collect();
    let mut plan = stage.plan(&task, 0, 1)?;
    plan.aborted = Some(Certificate { outcome, votes });
    let play = Play::begin(stage, stage.sign(plan))?;
    play.show(&stage.agents, Phase::Ready, |_| {});
    stage.expect_refused(&stage.agents, play.round(), "the vote of aspen does not verify")
}
