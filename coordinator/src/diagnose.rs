//! What `diagnose` puts into its archive on the coordinator's side: what the programs say of themselves.
//! No key and no entry's content is read for it.

use std::path::Path;

use collegium_shared::{
    clock::Clock,
    config::{ConfigError, effective, read},
    control,
    diagnose::{Bundle, Secrets},
};
use serde_json::Value;
use toml::Table;

use crate::{
    admin::AdminRequest,
    config::{CONFIG_FILE, Config},
    doctor::{self, PROGRAM, UNIT},
    service, signing,
};

/// What of the status may leave: numbers, times, names and this program's own words. What people wrote
/// (the reason of a pause) may name a person although it should not.
const SHOWN: &[&str] = &[
    "journal_entries",
    "root_fingerprint",
    "institutions",
    "roster",
    "registry",
    "certificates",
    "presence",
    "task.task",
    "task.architecture",
    "task.rounds",
    "task.steps",
    "task.rounds_completed",
    "task.rounds_failed",
    "task.cohort",
    "task.excluded",
    "task.start_metrics",
    "task.release",
    "task.released",
    "task.withheld",
    "task.last_withheld",
    "task.paused.since",
    "task.ending.end",
    "round",
    "last_round.id",
    "last_round.stage",
    "last_round.uploads",
    "last_round.ending.end",
    "last_round.ending.dealer",
    "state_sha256",
    "process",
];

/// Collects the archive of the coordinator in `dir`.
///
/// # Errors
/// A configuration that does not hold; what else is missing is left out.
pub async fn bundle(dir: &Path, clock: &Clock) -> Result<Bundle, ConfigError> {
    let config = Config::load(dir)?;
    let report = doctor::examine(dir, clock).await?;
    let mut secrets = Secrets::default();
    secrets.key_dir(&dir.join("keys"));
    let mut bundle = Bundle::new(PROGRAM, env!("CARGO_PKG_VERSION"), clock.now(), secrets);
    let written: Table = read(&dir.join(CONFIG_FILE))?;
    match effective::table(&config) {
        Ok(table) => {
            let shown = effective::show(&table, &written);
            bundle.add("config.toml", "every value in force, without comments", &shown);
        }
        Err(error) => bundle.leave_out("config.toml", error.to_string()),
    }
    let report = report.without_quotes().to_string();
    bundle.add("doctor.txt", "what doctor found, without people's own words", &report);
    let daemon = control::process(&service::control_socket(dir)).await;
    if doctor::may_ask(dir, daemon) {
        match service::ask(dir, AdminRequest::Status).await {
            Ok(status) => {
                bundle.add_status(&status, &shown(&status));
            }
            Err(error) => bundle.leave_out("status.json", format!("{error:#}")),
        }
    } else {
        bundle.leave_out("status.json", "only the coordinator's own user may open its directory");
    }
    match signing::log_key(dir) {
        Ok(key) => bundle.add_journal(&dir.join("journal"), &key),
        Err(error) => bundle.leave_out("journal.txt", error.to_string()),
    }
    bundle.add_metrics(config.ops.listen, daemon.is_some()).await;
    bundle.add_machine(daemon);
    bundle.leave_out("keys, uploads", "never in it: keys/, blobs, the files of rounds");
    bundle.leave_out("entries", format!("the content of the audit log: {PROGRAM} audit list"));
    bundle.leave_out("log", format!("read it, then add it: journalctl -u {UNIT} --since -1day"));
    Ok(bundle)
}

/// What the task waits for is this program's word, unless it is a pause, which its operator gives a
/// reason for.
fn shown(status: &Value) -> Vec<&'static str> {
    let waiting = status["task"]["paused"].is_null().then_some("waiting");
    SHOWN.iter().copied().chain(waiting).collect()
}
