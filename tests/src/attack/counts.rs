//! What does not depend on the weights, asked for twice: two sums of the same counts over nearly the same
//! institutions would give away the one by which they differ.

use collegium_shared::{
    architecture::{self, KT_LOGISTIC_1, Stage as Work},
    protocol::{Inputs, Phase, Plan},
};

use super::{
    Attack,
    play::Play,
    stage::{Refused, Stage},
};

pub(super) const ATTACKS: [Attack; 2] = [
    Attack {
        name: "the same counts again under another name",
        does: "opens a sum of counts over everybody, and asks for one without the victim in another task",
        run: under_another_name,
    },
    Attack {
        name: "the same counts again in one task",
        does: "asks for the counts of a task once more, in its next round",
        run: once_more,
    },
];

/// A plan for the counts that a task begins with.
fn counts(stage: &Stage, task: &str, round: u32) -> anyhow::Result<Plan> {
    let plan = stage.plan(task, round, 0)?;
    let sizes = stage.registry()?.sizes();
    Ok(Plan {
        architecture: KT_LOGISTIC_1.to_owned(),
        layout: None,
        stage: Work::Support,
        encoding: architecture::encoding(&Work::Support, &plan.hyper.optimizer, sizes, 4)?,
        inputs: Inputs::default(),
        ..plan
    })
}

fn opened(stage: &Stage, task: &str) -> anyhow::Result<()> {
    let play = Play::up_to_the_vote(stage, counts(stage, task, 0)?)?;
    let sum = play.open_sum(&stage.everybody())?;
    anyhow::ensure!(sum.iter().any(|word| *word != 0), "there is nothing to count");
    Ok(())
}

fn under_another_name(stage: &Stage) -> anyhow::Result<Refused> {
    opened(stage, &stage.task())?;
    let play = Play::up_to_the_vote(stage, counts(stage, &stage.task(), 0)?)?;
    play.propose(&play.without(stage.victim()), &stage.agents)?;
    let words = "the sum would hold 1 institutions more or less";
    stage.expect_refused(&stage.agents, play.round(), words)
}

fn once_more(stage: &Stage) -> anyhow::Result<Refused> {
    let task = stage.task();
    opened(stage, &task)?;
    let again = Play::begin(stage, stage.sign(counts(stage, &task, 1)?))?;
    again.show(&stage.agents, Phase::Ready, |_| {});
    let words = "already gave this stage of task";
    stage.expect_refused(&stage.agents, again.round(), words)
}
