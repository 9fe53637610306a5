//! What `diagnose` puts into its archive on an agent's side: what the programs say of themselves. No
//! record, no key, no entry's content is read for it.

use std::path::Path;

use collegium_shared::{
    clock::Clock,
    config::{effective, read},
    control,
    diagnose::{Bundle, Secrets},
    service::credential,
};
use toml::Table;

use crate::{
    config::{CONFIG_FILE, Config},
    desk::{self, Request},
    doctor::{self, PROGRAM, UNIT},
    home::{Home, HomeError},
    rotation,
};

/// What of the status may leave: numbers, times, names and this program's own words. What people wrote
/// (the reason of a pause, of a revocation, of a refusal) may name a person although it should not.
const SHOWN: &[&str] = &[
    "institution",
    "fingerprint",
    "next_fingerprint",
    "state",
    "coordinator.url",
    "coordinator.proxy",
    "coordinator.protocol",
    "coordinator.version",
    "coordinator.reachable",
    "coordinator.last_contact",
    "coordinator.unreachable_since",
    "certificate",
    "roster",
    "policy.state",
    "availability.state",
    "availability.since",
    "availability.opens",
    "data",
    "round",
    "model",
    "last_refusal.round",
    "last_refusal.at",
    "traffic",
    "process",
];

/// Collects the archive of the agent in `dir`.
///
/// # Errors
/// [`HomeError`] if there is no configuration that holds; what else is missing is left out.
pub async fn bundle(dir: &Path, clock: &Clock) -> Result<Bundle, HomeError> {
    let config = Home::config(dir)?;
    let report = doctor::examine(dir, clock).await?;
    let version = env!("CARGO_PKG_VERSION");
    let mut bundle = Bundle::new(PROGRAM, version, clock.now(), secrets(dir, &config));
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
    let daemon = control::process(&Home::socket(dir)).await;
    if doctor::may_ask(dir, daemon) {
        match desk::ask(dir, Request::Status).await {
            Ok(answer) => {
                bundle.add_status(&answer.json, SHOWN);
            }
            Err(error) => bundle.leave_out("status.json", format!("{error:#}")),
        }
    } else {
        bundle.leave_out("status.json", "only the agent's own user may open its directory");
    }
    let log = &config.directories.journal;
    match rotation::log_key(dir, log) {
        Ok(key) => bundle.add_journal(log, &key),
        Err(error) => bundle.leave_out("journal.txt", error.to_string()),
    }
    bundle.add_metrics(config.ops.listen, daemon.is_some()).await;
    bundle.add_machine(daemon);
    bundle.leave_out("keys, records", "never in it: keys/, certs/, the vault, rounds, models");
    bundle.leave_out("policy.toml", "this institution's own affair; doctor says whether it holds");
    bundle.leave_out("entries", format!("the content of the audit log: {PROGRAM} audit list"));
    bundle.leave_out("log", format!("read it, then add it: journalctl -u {UNIT} --since -1day"));
    Ok(bundle)
}

/// What may not stand in the archive.
fn secrets(dir: &Path, config: &Config) -> Secrets {
    let mut secrets = Secrets::default();
    secrets.key_dir(&dir.join("keys"));
    let password = config.network.proxy_password_file.as_deref();
    if let Some(path) = password.filter(|path| credential::named(path).is_none()) {
        secrets.password_file(path);
    }
    secrets
}
