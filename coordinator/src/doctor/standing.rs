//! What the coordinator's status means for its operator: which of it calls for doing something.

use std::{path::Path, time::Duration};

use collegium_shared::{clock::Timestamp, doctor::Finding};
use serde_json::Value;

use super::PROGRAM;

/// Agents that run renew their certificates before so little is left.
const RENEWED: Duration = Duration::from_secs(29 * 86_400);
/// The most institutions that are named in one finding.
const MAX_NAMED: usize = 10;

/// Findings from the answers to `status` and `institutions`.
pub(super) fn findings(
    dir: &Path,
    status: &Value,
    institutions: &Value,
    now: Timestamp,
) -> Vec<Finding> {
    let place = format!("--dir {}", dir.display());
    let mut found = vec![
        root(&status["root_fingerprint"], &place),
        roster(&status["roster"], &place),
        registry(&status["registry"], &place),
    ];
    found.extend(waiting_roster(&status["waiting_roster"], &place));
    found.extend(certificates(institutions, now, &place));
    found.push(task(status, &place));
    found.extend(storage(&status["process"]));
    found.extend(copies(&status["presence"]));
    found
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn root(fingerprint: &Value, place: &str) -> Finding {
    const CHECK: &str = "root";
    if fingerprint.is_null() {
        let fix = format!("{PROGRAM} root trust root.pub.json {place}");
        return Finding::warn(CHECK, "none yet", "no institution can enrol without it", fix);
    }
    Finding::ok(CHECK, text(fingerprint))
}

fn roster(roster: &Value, place: &str) -> Finding {
    const CHECK: &str = "roster";
    let fix = format!("{PROGRAM} roster export {place} --out F; root sign; roster import");
    if roster.is_null() {
        return Finding::warn(CHECK, "none yet", "no round begins without it", fix);
    }
    let (version, members) = (&roster["version"], &roster["members"]);
    let what =
        format!("version {version}, {members} members, until {}", text(&roster["expires_at"]));
    if roster["expired"] == true {
        Finding::fail(CHECK, what, "it has expired: no round begins", fix)
    } else if roster["expires_soon"] == true {
        Finding::warn(CHECK, what, "two thirds of its life are over", fix)
    } else {
        Finding::ok(CHECK, what)
    }
}

fn waiting_roster(waiting: &Value, place: &str) -> Option<Finding> {
    let reason = waiting["error"].as_str()?;
    let what = format!("version {} waits and cannot come into force", waiting["version"]);
    let fix = format!(
        "put right what is said there; or {PROGRAM} roster export {place} --after FILE --out F; root sign; roster import"
    );
    Some(Finding::fail("roster", what, reason, fix))
}

fn registry(registry: &Value, place: &str) -> Finding {
    const CHECK: &str = "registry";
    if registry.is_null() {
        let fix = format!(
            "{PROGRAM} registry build TABLE.csv --out F; root sign; registry import {place}"
        );
        return Finding::warn(CHECK, "none yet", "no task can start without it", fix);
    }
    let (competencies, items) = (&registry["competencies"], &registry["items"]);
    Finding::ok(CHECK, format!("{competencies} competencies, {items} items"))
}

/// Institutions whose certificates end soon or have ended; the revoked ones have no use for them.
fn certificates(institutions: &Value, now: Timestamp, place: &str) -> Vec<Finding> {
    const CHECK: &str = "certificates";
    let (mut ended, mut ending, mut all) = (Vec::new(), Vec::new(), 0);
    for entry in institutions.as_array().into_iter().flatten() {
        let Ok(until) = text(&entry["certificate_expires_at"]).parse::<Timestamp>() else {
            continue;
        };
        if !entry["revoked"].is_null() {
            continue;
        }
        all += 1;
        let name = text(&entry["institution"]);
        if until <= now {
            ended.push(name);
        } else if until.since(now) < RENEWED {
            ending.push(name);
        }
    }
    let mut found = Vec::new();
    let named = |names: &[&str]| {
        let more = names.len().saturating_sub(MAX_NAMED);
        let shown = names[..names.len().min(MAX_NAMED)].join(", ");
        if more == 0 { shown } else { format!("{shown} and {more} more") }
    };
    if !ended.is_empty() {
        let what = format!("expired: {}", named(&ended));
        let why = "these institutions cannot connect";
        let fix = format!(
            "{PROGRAM} invite NAME --legal-entity ENTITY --out FILE {place}; there: reenrol"
        );
        found.push(Finding::fail(CHECK, what, why, fix));
    }
    if !ending.is_empty() {
        let what = format!("not renewed in time: {}", named(&ending));
        let why = "an agent that runs renews its own 30 days before; these seem to be off";
        let fix = "ask them to start the agent; collegium-agent doctor there says more";
        found.push(Finding::warn(CHECK, what, why, fix));
    }
    if found.is_empty() && all > 0 {
        found.push(Finding::ok(CHECK, format!("those of {all} institutions are in time")));
    }
    found
}

fn task(status: &Value, place: &str) -> Finding {
    const CHECK: &str = "task";
    let task = &status["task"];
    if task.is_null() || !task["ending"].is_null() {
        return Finding::ok(CHECK, "none is under way");
    }
    let name = text(&task["task"]);
    if let Some(since) = task["paused"]["since"].as_str() {
        let fix = format!("{PROGRAM} task resume {place}");
        let what = format!("{name} is paused since {since}");
        return Finding::warn(CHECK, what, "no new round begins", fix);
    }
    if let Some(waiting) = status["waiting"].as_str() {
        let fix = "ask those who are missing; collegium-agent doctor there says why";
        return Finding::warn(CHECK, format!("{name} waits"), waiting, fix);
    }
    Finding::ok(CHECK, format!("{name} is under way"))
}

fn storage(process: &Value) -> Option<Finding> {
    let reason = process["storage_waiting"].as_str()?;
    let fix =
        "df -h; df -i; dmesg: free space or repair the disk, the coordinator goes on by itself";
    Some(Finding::fail("storage", "the coordinator waits for its disk", reason, fix))
}

fn copies(presence: &Value) -> Vec<Finding> {
    let copies = presence["copies"].as_array().into_iter().flatten();
    let found = copies.map(|copy| {
        let what = format!("a second agent of {} was turned away", text(&copy[0]));
        let why = "a copy of its directory runs somewhere";
        let fix = format!("ask {} to stop one of the two", text(&copy[0]));
        Finding::warn("copies", what, why, fix)
    });
    found.collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn now() -> Timestamp {
        "2026-08-01T12:00:00Z".parse().unwrap()
    }

    fn well() -> Value {
        json!({
            "root_fingerprint": "00",
            "roster": { "version": 1, "members": 3, "expires_at": "x", "expired": false, "expires_soon": false },
            "registry": { "version": 1, "competencies": 2, "items": 3 },
            "task": { "task": "spring", "ending": null, "paused": null },
            "waiting": null,
            "presence": { "copies": [] },
            "process": { "storage_waiting": null },
        })
    }

    fn enrolled(until: &str) -> Value {
        json!([{ "institution": "school-a", "certificate_expires_at": until, "revoked": null }])
    }

    fn said(status: &Value, institutions: &Value) -> String {
        let found = findings(Path::new("/c"), status, institutions, now());
        found.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn what_is_well_calls_for_nothing() {
        let said = said(&well(), &enrolled("2026-10-01T12:00:00Z"));
        assert!(said.lines().all(|line| line.starts_with("ok ")), "{said}");
        assert!(said.contains("those of 1 institutions") && said.contains("spring is under way"));
    }

    #[test]
    fn everything_that_calls_for_doing_something_is_found() {
        let paused = json!({ "task": "spring", "ending": null, "paused": { "since": "noon" } });
        let cases = [
            ("root_fingerprint", Value::Null, "WARN  root", "root trust"),
            ("roster", Value::Null, "WARN  roster", "roster export --dir /c"),
            ("roster", json!({ "expired": true }), "FAIL  roster", "root sign"),
            ("waiting_roster", json!({ "error": "lost" }), "FAIL  roster", "--after FILE"),
            ("roster", json!({ "expires_soon": true }), "WARN  roster", "two thirds"),
            ("registry", Value::Null, "WARN  registry", "registry build TABLE.csv"),
            ("task", paused, "WARN  task", "task resume --dir /c"),
            ("waiting", json!("2 of 5 present"), "WARN  task", "2 of 5 present"),
            ("process", json!({ "storage_waiting": "full" }), "FAIL  storage", "full"),
            ("presence", json!({ "copies": [["school-a", "t"]] }), "WARN  copies", "school-a"),
        ];
        for (key, value, level, word) in cases {
            let mut status = well();
            status[key] = value;
            let said = said(&status, &Value::Null);
            assert!(said.contains(level) && said.contains(word), "{level}, {word}: {said}");
        }
    }

    #[test]
    fn certificates_that_end_are_found_and_revoked_ones_are_not() {
        let ended = said(&well(), &enrolled("2026-08-01T12:00:00Z"));
        assert!(ended.contains("FAIL  certificates  expired: school-a"), "{ended}");
        let ending = said(&well(), &enrolled("2026-08-30T11:59:59Z"));
        assert!(ending.contains("WARN  certificates  not renewed in time: school-a"), "{ending}");
        let mut revoked = enrolled("2026-08-01T12:00:00Z");
        revoked[0]["revoked"] = json!({ "reason": "r" });
        assert!(!said(&well(), &revoked).contains("certificates"));
        let many: Vec<_> = (0..12)
            .map(|i| json!({ "institution": format!("s{i}"), "certificate_expires_at": now() }))
            .collect();
        assert!(said(&well(), &json!(many)).contains("s9 and 2 more"));
    }
}
