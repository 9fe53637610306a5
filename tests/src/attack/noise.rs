//! Private plans that promise more noise than there would be: less of it in the vector, a value without any,
//! sums of too few who add it.

use anyhow::{bail, ensure};
use collegium_shared::{
    architecture::{self, KT_LOGISTIC_1, LearnerPrivacy, Stage as Work, Target},
    params::Encoding,
    protocol::{Inputs, Phase, Plan},
};

use super::{
    Attack,
    play::Play,
    stage::{Refused, Stage},
};

pub(super) const ATTACKS: [Attack; 5] = [
    Attack {
        name: "a plan with less noise than it says",
        does: "asks for counts with a quarter of the noise that the plan promises",
        run: less_noise,
    },
    Attack {
        name: "an exact value among noisy ones",
        does: "asks for one more number beside the noisy counts, without noise",
        run: exact_value,
    },
    Attack {
        name: "a sum with too little noise",
        does: "proposes a noisy sum of fewer honest institutions than the plan counts on",
        run: too_few_survivors,
    },
    Attack {
        name: "noise of more than there are",
        does: "counts on the noise of four honest institutions where one of four may collude",
        run: too_few_listed,
    },
    Attack {
        name: "a plan past the budget",
        does: "asks for noisy counts under one name after the other, to average their noise out",
        run: past_the_budget,
    },
];

/// Of the agents while their budget is attacked: for a few tasks more than they gave before.
const BUDGET: &str = "[privacy]\nepsilon = 8.0\n";
/// More tasks than the budget bears.
const TASKS: usize = 20;

/// A plan for noisy counts of at most `n_max`, with the noise of so many.
fn counts(stage: &Stage, parties: u16, n_max: u32) -> anyhow::Result<Plan> {
    let mut plan = stage.plan(&stage.task(), 0, 0)?;
    let target = Target { epsilon: 4.0, delta: 1e-6 };
    plan.hyper.privacy = Some(LearnerPrivacy::propose(target, 20, parties)?);
    let registry = stage.registry()?;
    Ok(Plan {
        architecture: KT_LOGISTIC_1.to_owned(),
        layout: Some(architecture::layout(&registry.competencies).digest()?),
        stage: Work::Statistics,
        encoding: architecture::encoding(&Work::Statistics, &plan.hyper, registry.sizes(), n_max)?,
        inputs: Inputs::default(),
        ..plan
    })
}

/// The plan's segments as `(name, len, bound, deviation)`.
fn segments(plan: &Plan) -> Vec<(String, u32, f64, f64)> {
    let segments = plan.encoding.segments().iter();
    segments.map(|s| (s.name.clone(), s.len, s.bound, s.deviation)).collect()
}

/// Shows it to everybody and waits until all refuse it.
fn shown(stage: &Stage, plan: Plan, words: &str) -> anyhow::Result<Refused> {
    let play = Play::begin(stage, stage.sign(plan))?;
    play.show(&stage.agents, Phase::Ready, |_| {});
    stage.expect_refused(&stage.agents, play.round(), words)
}

fn less_noise(stage: &Stage) -> anyhow::Result<Refused> {
    let mut plan = counts(stage, 3, 4)?;
    let mut less = segments(&plan);
    less.iter_mut().for_each(|(_, _, _, deviation)| *deviation /= 4.0);
    plan.encoding = Encoding::noisy(less, 4)?;
    shown(stage, plan, "the plan's vector is not the one that its stage has")
}

fn exact_value(stage: &Stage) -> anyhow::Result<Refused> {
    let mut plan = counts(stage, 3, 4)?;
    let mut more = segments(&plan);
    more.push(("one-learner".to_owned(), 1, 1.0, 0.0));
    plan.encoding = Encoding::noisy(more, 4)?;
    shown(stage, plan, "is in no group that noise is added to")
}

fn too_few_survivors(stage: &Stage) -> anyhow::Result<Refused> {
    let play = Play::up_to_the_vote(stage, counts(stage, 3, 4)?)?;
    let rest = play.without(stage.colluder.institution());
    play.propose(&rest, &stage.agents)?;
    let words = "the sum would hold 3 institutions of which 1 may collude; at least 3 honest";
    stage.expect_refused(&stage.agents, play.round(), words)
}

fn too_few_listed(stage: &Stage) -> anyhow::Result<Refused> {
    let play = Play::open(stage, counts(stage, 4, 5)?)?;
    play.show(&stage.agents, Phase::Share, |_| {});
    let words = "the list has 4 institutions; the plan and the policy need at least 5";
    stage.expect_refused(&stage.agents, play.round(), words)
}

fn past_the_budget(stage: &Stage) -> anyhow::Result<Refused> {
    stage.under_policy(BUDGET, || {
        for taken in 0..TASKS {
            let words = "past this institution's budget of 8";
            if let Err(refused) = Play::open_or_refused(stage, counts(stage, 3, 4)?, words)? {
                ensure!(taken > 0, "no task was within the budget");
                return Ok(refused);
            }
        }
        bail!("{TASKS} tasks were within the budget")
    })
}
