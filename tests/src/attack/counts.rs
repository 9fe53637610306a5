//! What does not depend on the weights, asked for twice: two sums of the same counts over nearly the same
//! institutions would give away the one by which they differ.

use collegium_shared::{
    architecture::{self, KT_LOGISTIC_1, Stage as Work, Sums},
    protocol::{Inputs, Phase, Plan},
    tensors,
};

use super::{
    Attack,
    heists::Haul,
    play::Play,
    stage::{Refused, Stage},
};

pub(super) const ATTACKS: [Attack; 2] = [
    Attack {
        name: "the same counts again in one task",
        does: "asks for the counts of a task once more, in its next round",
        run: once_more,
    },
    Attack {
        name: "counts of what too few have",
        does: "asks for the answers to an item that fewer institutions support than a sum must hold",
        run: below_the_threshold,
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
        encoding: architecture::encoding(&Work::Support, &plan.hyper, sizes, 4)?,
        inputs: Inputs::default(),
        ..plan
    })
}

fn opened(stage: &Stage, task: &str) -> anyhow::Result<Vec<u32>> {
    let play = Play::up_to_the_vote(stage, counts(stage, task, 0)?)?;
    let sum = play.open_sum(&stage.everybody())?;
    anyhow::ensure!(sum.iter().any(|word| *word != 0), "there is nothing to count");
    Ok(sum)
}

/// The difference of the two sums is x: which items and competencies the victim has responses for.
pub(super) fn under_another_name(stage: &Stage) -> anyhow::Result<Haul> {
    let sum = opened(stage, &stage.task())?;
    let play = Play::up_to_the_vote(stage, counts(stage, &stage.task(), 0)?)?;
    let x = stage.sealed_input(stage.victim())?;
    let rest = play.without(stage.victim());
    let outcome = play.propose(&rest, &stage.agents)?;
    let votes = || Ok(play.votes(&outcome, &stage.agents));
    let words = "the sum would be of other institutions";
    let voted = stage.done_or_refused(&stage.agents, play.round(), words, votes)?;
    Ok(match voted {
        Err(refused) => {
            let guess = Some(play.masked(stage.victim()));
            Haul { refused: Some(refused), guess, x }
        }
        Ok(certificate) => {
            let less = play.sum(&rest, &play.reveal(&rest, &certificate)?)?;
            let difference = sum.iter().zip(&less).map(|(a, b)| a.wrapping_sub(*b)).collect();
            Haul { refused: None, guess: Some(difference), x }
        }
    })
}

/// By the support sum one item has two institutions, one fewer than the threshold; the plan's vector counts
/// it all the same.
fn below_the_threshold(stage: &Stage) -> anyhow::Result<Refused> {
    let registry = stage.registry()?;
    let mut support = vec![2.0];
    support.resize(registry.items.len(), 4.0);
    let competencies = vec![4.0; registry.competencies.len()];
    let sums =
        Sums::from([("items".to_owned(), support), ("competencies".to_owned(), competencies)]);
    let plan = stage.plan(&stage.task(), 0, 0)?;
    let sizes = registry.sizes();
    let plan = Plan {
        architecture: KT_LOGISTIC_1.to_owned(),
        layout: Some(architecture::layout(&registry.competencies).digest()?),
        stage: Work::Statistics,
        encoding: architecture::encoding(&Work::Statistics, &plan.hyper, sizes, 4)?,
        inputs: Inputs {
            support: Some(stage.server.put(tensors::write_sums(&sums)?)),
            ..Inputs::default()
        },
        ..plan
    };
    let play = Play::begin(stage, stage.sign(plan))?;
    play.show(&stage.agents, Phase::Ready, |_| {});
    let words = "the plan's vector is not the one that its stage has: segment item_n";
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
