//! `status`, for people and for programs.

use std::{io::Write, path::Path};

use collegium_shared::architecture::{BIAS_AUDIT_1, EVALUATION_1};
use serde_json::Value;

use super::{ask, say};
use crate::admin::AdminRequest;

pub(super) fn show(dir: &Path, json: bool) -> anyhow::Result<()> {
    let answer = ask(dir, AdminRequest::Status)?;
    if json {
        say!("{answer}");
    } else {
        print_status(&answer);
    }
    Ok(())
}

fn print_status(answer: &Value) {
    let line = |name: &str, text: String| say!("{name:<15}{text}");
    let plain = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    match &answer["process"] {
        Value::Null => line("process", "not running".into()),
        p => line(
            "process",
            format!("version {}, up since {}", plain(&p["version"]), plain(&p["started_at"])),
        ),
    }
    line("root", plain(&answer["root_fingerprint"]));
    line("enrolled", plain(&answer["institutions"]));
    match &answer["roster"] {
        Value::Null => line("roster", "none yet".into()),
        r => line(
            "roster",
            format!(
                "version {}, {} members, until {}{}",
                r["version"],
                r["members"],
                plain(&r["expires_at"]),
                if r["expires_soon"] == true { ": have the root sign a new one" } else { "" }
            ),
        ),
    }
    match &answer["waiting_roster"] {
        Value::Null => {}
        w if w["error"].is_null() => {
            line("next roster", format!("version {}, when the open round has ended", w["version"]));
        }
        w => {
            let error = plain(&w["error"]);
            line(
                "next roster",
                format!("version {} cannot come into force: {error}", w["version"]),
            );
        }
    }
    match &answer["registry"] {
        Value::Null => line("registry", "none yet".into()),
        r => line(
            "registry",
            format!(
                "version {}, {} competencies, {} items",
                r["version"], r["competencies"], r["items"]
            ),
        ),
    }
    if let version @ Value::Number(_) = &answer["waiting_registry"]["version"] {
        line("next registry", format!("version {version}, when the task has ended"));
    }
    match &answer["task"] {
        Value::Null => line("task", "none yet".into()),
        t => {
            let ending = match &t["ending"] {
                Value::Null => "running".into(),
                ending if ending["reason"].is_string() => {
                    format!("{}: {}", plain(&ending["end"]), plain(&ending["reason"]))
                }
                ending => plain(&ending["end"]),
            };
            line("task", format!("{} ({ending})", plain(&t["task"])));
            if t["architecture"] != BIAS_AUDIT_1 && t["architecture"] != EVALUATION_1 {
                line(
                    "steps",
                    format!(
                        "{} of {}{}",
                        t["steps"].as_u64().unwrap_or_default(),
                        t["rounds"],
                        group(&t["group"])
                    ),
                );
            }
            line(
                "rounds",
                format!("{} with a sum, {} without", t["rounds_completed"], t["rounds_failed"]),
            );
            if !t["release"].is_null() {
                line(
                    "model",
                    format!(
                        "version {}, AUC {}",
                        t["release"]["version"], t["release"]["metrics"]["auc"]
                    ),
                );
            }
            let last = &t["last_withheld"];
            if !last.is_null() {
                let (step, reason) = (&last["step"], plain(&last["reason"]));
                line(
                    "not released",
                    format!("{} models; after step {step}: {reason}", t["withheld"]),
                );
            }
        }
    }
    for review in answer["open_reviews"].as_array().into_iter().flatten() {
        let (number, gaps) = (&review["number"], &review["gaps"]);
        let (audit, attribute) = (plain(&review["audit"]), plain(&review["attribute"]));
        line(
            "review",
            format!("{number} is open: {attribute} of audit {audit}, {gaps} gaps; see: bias list"),
        );
    }
    if let Some(proposal) = answer["training_proposed"].as_str() {
        line("proposal", proposal.to_owned());
    }
    print_presence(&answer["presence"]);
    if let Some(reason) = answer["waiting"].as_str() {
        line("round", reason.to_owned());
    }
    if !answer["round"].is_null() {
        let r = &answer["round"];
        let waiting = format!("{} done, waiting for {}", r["done"], r["waiting_for"]);
        line("round", format!("{} {}: {waiting}", plain(&r["id"]), plain(&r["phase"])));
        line("", plain(&r["account"]));
        print_declined(&r["declined"]);
    } else if !answer["last_round"].is_null() {
        print_declined(&answer["last_round"]["declined"]);
    }
}

/// Which group's sum is next in a step of several.
fn group(of: &Value) -> String {
    match of["group"].as_u64().zip(of["of"].as_u64()) {
        Some((group, of)) => format!(", group {group} of {of} is next"),
        None => String::new(),
    }
}

fn print_declined(declined: &Value) {
    for (name, reason) in declined.as_object().into_iter().flatten() {
        say!("{:<15}{name}: {}", "declined", reason.as_str().unwrap_or_default());
    }
}

fn print_presence(p: &Value) {
    let line = |name: &str, text: String| say!("{name:<15}{text}");
    let plain = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    line("present", format!("{} of {}", p["present"], p["expected"]));
    for (key, name) in [("missing", "missing"), ("away", "paused")] {
        let names: Vec<_> = p[key].as_array().into_iter().flatten().map(plain).collect();
        if !names.is_empty() {
            line(name, names.join(", "));
        }
    }
    for copy in p["copies"].as_array().into_iter().flatten() {
        let (who, at) = (plain(&copy[0]), plain(&copy[1]));
        line("copy", format!("a second agent of {who} was turned away at {at}"));
    }
}
