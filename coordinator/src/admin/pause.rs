//! The operator's pause of the running task: no new round begins, the open one is finished.

use collegium_shared::journal::JournalError;
use serde_json::{Value, json};

use super::running;
use crate::{
    driver::Driver,
    network::{Event, NetworkEvent},
};

/// The longest reason, in characters.
const MAX_REASON: usize = 200;

pub(super) fn pause_task(
    driver: &mut Driver,
    reason: Option<String>,
) -> Result<Result<Value, String>, JournalError> {
    if running(driver).is_none() {
        return Ok(Err("no task is running".into()));
    }
    let fits = |reason: &String| {
        (1..=MAX_REASON).contains(&reason.chars().count()) && !reason.contains(char::is_control)
    };
    if !reason.as_ref().is_none_or(fits) {
        return Ok(Err(format!("the reason has 1 to {MAX_REASON} characters in one line")));
    }
    driver.record(Event::Network(NetworkEvent::TaskPaused { reason }))?;
    Ok(Ok(answer(driver)))
}

pub(super) fn resume_task(driver: &mut Driver) -> Result<Result<Value, String>, JournalError> {
    if running(driver).is_none_or(|task| task.paused().is_none()) {
        return Ok(Err("no task is paused".into()));
    }
    driver.record(Event::Network(NetworkEvent::TaskResumed))?;
    Ok(Ok(answer(driver)))
}

fn answer(driver: &Driver) -> Value {
    let network = &driver.state.network;
    let task = running(driver);
    json!({
        "task": task.map(|task| &task.spec().task),
        "paused": task.and_then(|task| task.paused()),
        "open_round": network.open_round().map(|round| round.plan().round.to_string()),
    })
}
