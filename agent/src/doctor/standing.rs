//! What an agent's status means for its operator: which of it calls for doing something.

use std::path::Path;

use collegium_shared::doctor::Finding;
use serde_json::Value;

use super::PROGRAM;

/// Below this share of known names, little of the records is trained on.
const POOR_COVERAGE: f64 = 0.5;

/// Findings from the answers to `status` and `data summary`.
pub(super) fn findings(dir: &Path, status: &Value, summary: &Value) -> Vec<Finding> {
    let place = format!("--dir {}", dir.display());
    let mut found = vec![
        policy(&status["policy"], dir, &place),
        roster(&status["roster"]),
        data(&status["data"], &place),
    ];
    found.extend(coverage(summary, &place));
    found.extend(threshold(&status["coverage"], &place));
    found.push(rounds(&status["availability"], &place));
    found.extend(next_key(&status["next_key_error"], &place));
    found.extend(storage(&status["process"]));
    found.extend(notice(&status["coordinator"]));
    found
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn policy(policy: &Value, dir: &Path, place: &str) -> Finding {
    const CHECK: &str = "policy";
    let file = dir.join(crate::policy::FILE);
    match text(&policy["state"]) {
        "present" => Finding::ok(CHECK, format!("{} is good and signed", file.display())),
        "missing" => {
            let fix = format!("{PROGRAM} policy init {place}, then edit {}", file.display());
            Finding::warn(CHECK, "there is none", "without a policy nothing is trained", fix)
        }
        "unsigned" => {
            let fix = format!("read {}, then: {PROGRAM} policy sign {place}", file.display());
            let why = "nothing is trained until the file is as it was signed";
            Finding::warn(CHECK, "it is not signed", why, fix)
        }
        _ => {
            let fix = format!("correct {}", file.display());
            Finding::fail(CHECK, "it cannot be used", text(&policy["reason"]), fix).quoting()
        }
    }
}

fn roster(roster: &Value) -> Finding {
    const CHECK: &str = "roster";
    let sign = "tell the coordinator's operator: roster export, root sign, roster import";
    let what = format!(
        "version {}, {} members, until {}",
        roster["version"],
        roster["members"],
        text(&roster["expires_at"])
    );
    if roster.is_null() {
        let why = "this agent is enrolled, and no round asks it before the consortium signs";
        return Finding::warn(CHECK, "none yet", why, sign);
    }
    if roster["expired"] == true {
        return Finding::fail(CHECK, what, "it has expired: no round begins", sign);
    }
    if roster["member"] != true {
        let why = "this institution is not on it with the key that it has";
        return Finding::warn(CHECK, what, why, sign);
    }
    if roster["expires_soon"] == true {
        return Finding::warn(CHECK, what, "two thirds of its life are over", sign);
    }
    Finding::ok(CHECK, what)
}

fn data(data: &Value, place: &str) -> Finding {
    const CHECK: &str = "data";
    let what = format!("{} answers of {} learners", data["rows"], data["learners"]);
    if data["rows"].as_u64() > Some(0) {
        return Finding::ok(CHECK, what);
    }
    let fix = format!("{PROGRAM} data import FILE --mapping MAPPING.toml {place}");
    Finding::warn(CHECK, what, "there is nothing to train on and to recommend from", fix)
}

/// How many of the records' names the registry knows; nothing without records.
fn coverage(summary: &Value, place: &str) -> Vec<Finding> {
    const CHECK: &str = "registry";
    if summary["answers"].as_u64().unwrap_or_default() == 0 {
        return Vec::new();
    }
    let of = |what: &'static str, known: &str| match summary[known].as_u64() {
        None => Err(()),
        Some(known) => Ok((what, known, summary[what].as_u64().unwrap_or_default())),
    };
    let both = [of("items", "items_in_registry"), of("competencies", "competencies_in_registry")];
    let [Ok(items), Ok(competencies)] = both else {
        let why = "which names are shared is known when it arrives with the roster";
        let fix = "tell the coordinator's operator: registry build, root sign, registry import";
        return vec![Finding::warn(CHECK, "none yet", why, fix)];
    };
    let judged = |(what, known, all): (&str, u64, u64)| {
        let said = format!("{known} of {all} {what} of the records are in it");
        let fix = format!(
            "{PROGRAM} coverage {place} names competencies outside; correct the mapping, or its table of tags"
        );
        let share = known as f64 / all.max(1) as f64;
        if known == 0 && all > 0 {
            Finding::fail(CHECK, said, "nothing of it can be learned together", fix)
        } else if share < POOR_COVERAGE && all > 0 {
            Finding::warn(CHECK, said, "the rest is left out of what is learned together", fix)
        } else {
            Finding::ok(CHECK, said)
        }
    };
    vec![judged(items), judged(competencies)]
}

/// Whether the policy's threshold keeps these records from being trained on.
fn threshold(coverage: &Value, place: &str) -> Option<Finding> {
    let answers = &coverage["answers"];
    let (all, covered) = (answers["all"].as_u64()?, answers["covered"].as_u64()?);
    let least = coverage["least"].as_f64()?;
    let below = (covered as f64) < least * all as f64;
    below.then(|| {
        let said = format!("{covered} of {all} training answers are of competencies in it");
        let why = format!("the policy wants a share of {least} (min_coverage): nothing is trained");
        let fix = format!(
            "{PROGRAM} coverage {place} shows what is missing: map those tags (competencies.tags of the mapping) and import again, or have the registry extended"
        );
        Finding::warn("registry", said, why, fix)
    })
}

fn rounds(availability: &Value, place: &str) -> Finding {
    const CHECK: &str = "rounds";
    match text(&availability["state"]) {
        "paused" => {
            let what = format!("paused since {}", text(&availability["since"]));
            let fix = format!("{PROGRAM} resume {place}");
            Finding::warn(CHECK, what, "no new round is joined", fix)
        }
        "outside_windows" if availability["opens"].is_null() => {
            let fix = "training_windows in [limits] of agent.toml";
            Finding::warn(CHECK, "outside the training windows", "none opens any more", fix)
        }
        "outside_windows" => {
            let opens = text(&availability["opens"]);
            Finding::ok(CHECK, format!("outside the training windows until {opens}"))
        }
        _ => Finding::ok(CHECK, "new rounds are joined"),
    }
}

fn next_key(error: &Value, place: &str) -> Option<Finding> {
    let (what, reason) = ("the next identity key cannot be used", error.as_str()?);
    let fix = format!(
        "put the file right as is said there; if it is lost: {PROGRAM} identity rotate {place}, then a roster that names the new one"
    );
    Some(Finding::fail("identity", what, reason, fix))
}

fn storage(process: &Value) -> Option<Finding> {
    let reason = process["storage_waiting"].as_str()?;
    let fix = "df -h; df -i; dmesg: free space or repair the disk, the agent goes on by itself";
    Some(Finding::fail("storage", "the agent waits for its disk", reason, fix))
}

fn notice(coordinator: &Value) -> Option<Finding> {
    let notice = coordinator["notice"].as_str()?;
    let fix = "stop the other agent that runs on a copy of this directory";
    let what = "the coordinator has a word for the operator";
    Some(Finding::warn("notice", what, notice, fix).quoting())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn well() -> Value {
        json!({
            "policy": { "state": "present" },
            "roster": { "version": 1, "members": 3, "expires_at": "2027-01-01T00:00:00.000Z",
                        "expires_soon": false, "expired": false, "member": true },
            "data": { "rows": 10, "learners": 2, "imports": 1 },
            "availability": { "state": "available" },
            "process": { "storage_waiting": null },
            "coordinator": { "notice": null },
        })
    }

    fn records() -> Value {
        json!({ "answers": 10, "items": 4, "competencies": 2,
                "items_in_registry": 2, "competencies_in_registry": 1 })
    }

    fn said(status: &Value, summary: &Value) -> String {
        findings(Path::new("/a"), status, summary).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn what_is_well_calls_for_nothing() {
        let said = said(&well(), &records());
        assert!(said.lines().all(|line| line.starts_with("ok ")), "{said}");
        assert!(said.contains("2 of 4 items"), "{said}");
    }

    #[test]
    fn everything_that_calls_for_doing_something_is_found() {
        let cases = [
            ("next_key_error", json!("no file"), "FAIL  identity", "identity rotate --dir /a"),
            ("policy", json!({ "state": "missing" }), "WARN  policy", "policy init --dir /a"),
            (
                "policy",
                json!({ "state": "unusable", "reason": "line 3" }),
                "FAIL  policy",
                "line 3",
            ),
            ("roster", Value::Null, "WARN  roster", "roster export"),
            ("roster", json!({ "member": false }), "WARN  roster", "not on it"),
            (
                "roster",
                json!({ "member": true, "expires_soon": true }),
                "WARN  roster",
                "two thirds",
            ),
            ("roster", json!({ "member": true, "expired": true }), "FAIL  roster", "expired"),
            ("data", json!({ "rows": 0 }), "WARN  data", "data import"),
            (
                "availability",
                json!({ "state": "paused", "since": "s" }),
                "WARN  rounds",
                "resume --dir /a",
            ),
            (
                "availability",
                json!({ "state": "outside_windows", "opens": null }),
                "WARN  rounds",
                "training_windows",
            ),
            (
                "availability",
                json!({ "state": "outside_windows", "opens": "8 pm" }),
                "ok    rounds",
                "8 pm",
            ),
            ("process", json!({ "storage_waiting": "no space" }), "FAIL  storage", "no space"),
            ("coordinator", json!({ "notice": "a copy" }), "WARN  notice", "stop the other"),
        ];
        for (key, value, level, word) in cases {
            let mut status = well();
            status[key] = value;
            let said = said(&status, &records());
            assert!(said.contains(level) && said.contains(word), "{level}, {word}: {said}");
        }
    }

    #[test]
    fn records_that_the_registry_does_not_know_are_found() {
        let with = |key: &str, value: Value| {
            let mut summary = records();
            summary[key] = value;
            said(&well(), &summary)
        };
        assert!(with("items_in_registry", json!(1)).contains("WARN  registry      1 of 4 items"));
        let none = with("competencies_in_registry", json!(0));
        assert!(none.contains("FAIL  registry      0 of 2 competencies"), "{none}");
        assert!(with("items_in_registry", Value::Null).contains("WARN  registry      none yet"));
        assert!(!with("answers", json!(0)).contains("registry"));
        let measured = |covered: u64, least: f64| {
            let coverage = json!({ "answers": { "all": 10, "covered": covered }, "least": least });
            threshold(&coverage, "--dir d").map(|found| found.to_string())
        };
        assert_eq!(measured(5, 0.5), None);
        let below = measured(4, 0.5).unwrap();
        assert!(below.contains("4 of 10") && below.contains("coverage --dir d"), "{below}");
        assert!(threshold(&Value::Null, "").is_none(), "not measured");
    }
}
