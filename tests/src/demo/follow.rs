//! Follows the task to its end: asks the coordinator where it stands, tells of each round that is
//! over, and lets the interruption happen on the way.

use std::{path::Path, thread, time::Duration};

use anyhow::{Context, bail};
use collegium_coordinator::{admin::AdminRequest, service::control_socket, task::TaskEnding};
use collegium_shared::{clock::Clock, control};
use serde_json::Value;

use super::{
    consortium::Consortium, interruption::Interruption, rounds::Rounds, screen::Screen, stop::Stop,
};

/// How often the coordinator is asked; often while the moment to strike is near.
const OFTEN: Duration = Duration::from_millis(3);
const SELDOM: Duration = Duration::from_millis(50);
/// When nothing at all has ended for so long, something is broken.
const PATIENCE: Duration = Duration::from_secs(300);
/// The first training step in which the agent is killed.
const STRIKE_FROM: u32 = 3;

/// What the rounds gave.
pub(super) struct Course {
    /// Training steps that were asked for.
    pub(super) steps: u32,
    pub(super) rounds: Rounds,
    pub(super) resumed: bool,
}

/// Follows a task of `steps` training steps until it is completed; its failure is an error.
pub(super) fn follow(
    consortium: &mut Consortium<'_>,
    steps: u32,
    screen: &Screen,
    stop: &Stop,
) -> anyhow::Result<Course> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let coordinator = consortium.network.coordinator_dir();
    let mut rounds = Rounds::of(&coordinator)?;
    let mut plan = Interruption::new(consortium.victim.clone(), STRIKE_FROM.min(steps));
    let clock = Clock::system();
    let (mut seen, mut since) = (Value::Null, clock.now());
    // Support, statistics and totals come before training (statistics alone with noise), one evaluation
    // after it.
    screen.expect(steps + if consortium.epsilon.is_some() { 2 } else { 4 });
    while rounds.ending.is_none() {
        stop.check()?;
        consortium.network.expect_running()?;
        let status = runtime.block_on(ask(&coordinator))?;
        plan.strike(&status, &mut consortium.network, screen)?;
        let standing =
            [&status["round"]["id"], &status["task"]["ending"], &status["task"]["rounds_failed"]];
        let standing = Value::from(standing.map(Value::clone).to_vec());
        if standing != seen {
            rounds.read()?;
            rounds.news().iter().for_each(|round| screen.note(&round.line()));
            plan.judge(&rounds, screen);
            (seen, since) = (standing, clock.now());
        } else if clock.now().since(since) > PATIENCE {
            bail!("no round has ended for {} s: {}", PATIENCE.as_secs(), status["round"]);
        }
        show(&status, screen);
        thread::sleep(if plan.lies_in_wait() { OFTEN } else { SELDOM });
    }
    screen.finished();
    if let Some(TaskEnding::Failed { reason }) = &rounds.ending {
        bail!("the task failed: {reason}");
    }
    Ok(Course { steps, resumed: plan.resumed(), rounds })
}

async fn ask(coordinator: &Path) -> anyhow::Result<Value> {
    let answer = control::call(&control_socket(coordinator), &AdminRequest::Status).await;
    answer.context("the coordinator does not answer")
}

fn show(status: &Value, screen: &Screen) {
    let round = &status["round"];
    let done = status["task"]["rounds_completed"].as_u64().unwrap_or(0);
    let doing = match round["phase"].as_str() {
        Some(phase) => {
            let waiting = &round["waiting_for"];
            format!("{}: {phase}, waiting for {waiting}", round["id"].as_str().unwrap_or_default())
        }
        None => "computing".to_owned(),
    };
    screen.progress(u32::try_from(done).unwrap_or(u32::MAX), doing);
}
