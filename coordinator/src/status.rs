//! What the coordinator says of itself: the durable state at a glance, and why a round does not go on.
//! The sums, and nothing of one institution's data.

use collegium_shared::{clock::Timestamp, protocol::Phase};
use serde_json::{Value, json};

use crate::{
    driver::Driver,
    network::Network,
    rosters,
    round::{Round, named},
    task::Task,
    waiting,
};

/// What an operator wants to know at a glance; the sums, and nothing of one institution's data.
pub(crate) fn of(driver: &Driver) -> Value {
    let network = &driver.state.network;
    let roster = driver.state.roster.as_deref();
    let expired = |at: Timestamp| at <= driver.now();
    json!({
        "journal_entries": driver.entries(),
        "root_fingerprint": network.root().map(|root| root.fingerprint()),
        "institutions": network.institutions().len(),
        "roster": roster.map(|r| json!({
            "version": r.version(),
            "members": r.members().len(),
            "expires_at": r.expires_at(),
            "expired": expired(r.expires_at()),
            "expires_soon": expired(r.warn_from()),
        })),
        "waiting_roster": network.waiting_roster().map(|(version, _)| json!({
            "version": version,
            "error": rosters::waiting_error(driver),
        })),
        "registry": driver.state.registry.as_deref().map(|r| json!({
            "version": r.version,
            "competencies": r.competencies.len(),
            "items": r.items.len(),
        })),
        "waiting_registry": network.waiting_registry().map(|r| json!({ "version": r.version })),
        "certificates": certificates(driver),
        "presence": waiting::presence(driver),
        "waiting": waiting::of(driver),
        "task": network.task().map(task_status),
        "open_reviews": network.audits().open().map(|review| json!({
            "number": review.number,
            "audit": review.task,
            "attribute": review.attribute,
            "gaps": review.gaps.len(),
            "since": review.opened_at,
        })).collect::<Value>(),
        "training_proposed": network.evaluations().last()
            .filter(|last| Some(last.model) == network.release())
            .and_then(|last| last.proposal.as_deref()),
        "round": network.open_round().map(|round| {
            let (done, expected) = round.progress();
            json!({
                "id": round.plan().round.to_string(),
                "stage": round.plan().stage,
                "phase": round.phase(),
                "since": round.since(),
                "done": done,
                "waiting_for": expected.saturating_sub(done),
                "silent": round.silent(),
                "declined": declined(round),
                "deadline": round.deadline(),
                "account": account(round),
            })
        }),
        "last_round": network.round().filter(|r| r.phase() == Phase::Ended).map(|round| json!({
            "id": round.plan().round.to_string(),
            "stage": round.plan().stage,
            "ending": round.ending(),
            "uploads": round.uploads().len(),
            "declined": declined(round),
        })),
        "state_sha256": network.digest().ok(),
    })
}

/// When what connections rest on ends. The server has a certificate only while it runs.
fn certificates(driver: &Driver) -> Value {
    let ca = driver.ca.current();
    let enrolled = driver.state.network.institutions().iter();
    let in_force = enrolled.filter(|(_, enrolled)| enrolled.revoked.is_none());
    let institutions: Value = in_force
        .map(|(name, enrolled)| (name.to_string(), json!(enrolled.certificate_expires_at)))
        .collect();
    json!({
        "authority_expires_at": ca.expires_at(),
        "server_expires_at": ca.server_expires_at(),
        "institutions_expire_at": institutions,
    })
}

fn task_status(task: &Task) -> Value {
    let (completed, failed) = task.rounds();
    let (withheld, last_withheld) = task.withheld();
    json!({
        "task": task.spec().task,
        "architecture": task.spec().architecture,
        "rounds": task.spec().rounds,
        "steps": task.candidate().map(|candidate| candidate.step),
        "rounds_completed": completed,
        "rounds_failed": failed,
        "cohort": task.cohort(),
        "group": task.group().map(|(group, of)| json!({ "group": group, "of": of })),
        "excluded": task.excluded(),
        "start_metrics": task.baseline(),
        "release": task.releases().last(),
        "released": task.releases().len(),
        "withheld": withheld,
        "last_withheld": last_withheld,
        "paused": task.paused(),
        "ending": task.ending(),
    })
}

/// Who takes no part, and why by its last word.
fn declined(round: &Round) -> Value {
    let last = round.declined().iter().filter_map(|(name, phases)| {
        let (_, reason) = phases.last_key_value()?;
        Some((name.to_string(), json!(reason)))
    });
    Value::Object(last.collect())
}

/// Why the open round does not go on: for whom it waits, since when, and until when at most.
fn account(round: &Round) -> String {
    let (phase, since) = (phase_name(round.phase()), round.since());
    let until = round.deadline().map(|end| format!("; it ends by itself at {end}"));
    let silent = round.silent();
    let what = match round.phase() {
        Phase::Open => "the masks are taken off the sum".to_owned(),
        _ if silent.is_empty() => "nobody is waited for".to_owned(),
        _ => format!("waiting for {}", named(&silent)),
    };
    format!("phase {phase} since {since}: {what}{}", until.unwrap_or_default())
}

/// The phase as it is written elsewhere.
pub(crate) fn phase_name(phase: Phase) -> String {
    format!("{phase:?}").to_lowercase()
}

/// What goes on, in one line.
pub(crate) fn headline(network: &Network) -> String {
    if let Some(round) = network.open_round() {
        let (done, wanted) = round.progress();
        let (id, phase) = (&round.plan().round, phase_name(round.phase()));
        return format!("round {id}: {phase}, {done} of {wanted} done");
    }
    match network.task() {
        Some(task) if task.ending().is_none() => {
            format!("task {} is between rounds", task.spec().task)
        }
        _ => "no task is under way".into(),
    }
}
