//! Why a task that is not over begins no round: which institutions it waits for. Words for people;
//! whether a round begins is decided by the owner, from the same facts.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::{
    draft,
    driver::Driver,
    round::named,
    task::{Next, Paused},
};

/// What the task waits for before its next round; none if there is no task or nothing is missing.
pub(crate) fn of(driver: &Driver) -> Option<String> {
    let network = &driver.state.network;
    let task = network.task().filter(|_| network.open_round().is_none())?;
    if let Some(Paused { since, reason }) = task.paused().filter(|_| task.ending().is_none()) {
        let reason = reason.as_ref().map(|reason| format!(": {reason}")).unwrap_or_default();
        return Some(format!("paused since {since}{reason}"));
    }
    let Some(Next::Round(stage)) = task.next() else { return None };
    let now = driver.now();
    let Some(roster) = driver.state.roster.as_deref().filter(|r| now < r.expires_at()) else {
        return Some("waiting for a roster that has not expired".to_owned());
    };
    let missing = |expected: &_| driver.presence.missing(expected);
    let asked = draft::asked(network, task, &stage, (roster, now), missing);
    let (members, needed) = (asked.expected.len(), asked.needed);
    // Where groups have to be drawn, they are of those who are in no sum of the step yet.
    let of = if asked.draw.is_some() { " of those who are in no group's sum yet" } else { "" };
    if members < needed && of.is_empty() {
        return Some(format!(
            "waiting for a roster of at least {needed} members: it has {members}"
        ));
    }
    let present = members - asked.away.len();
    (present < needed).then(|| {
        let names = named(&asked.away);
        format!(
            "waiting for institutions: {present} of {members} present{of}, {needed} are needed, missing: {names}"
        )
    })
}

/// Says once what the task begins to wait for.
pub(crate) fn note(driver: &mut Driver) {
    let waiting = of(driver);
    if waiting.is_some() && waiting != driver.waiting {
        tracing::info!(reason = waiting, "no round can begin");
    }
    driver.waiting = waiting;
}

/// Who of the roster is there, for a status.
pub(crate) fn presence(driver: &Driver) -> Value {
    let now = driver.now();
    let members = driver.state.roster.as_deref().map(|roster| {
        roster.active(now).map(|member| member.institution.clone()).collect::<BTreeSet<_>>()
    });
    json!(driver.presence.report(&members.unwrap_or_default()))
}
