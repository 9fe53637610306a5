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
use serde_json::{Value, json};
use toml::Table;

use crate::{
    config::{CONFIG_FILE, Config},
    desk::{self, Request},
    doctor::{self, PROGRAM, UNIT},
    home::{Home, HomeError},
    rotation,
};

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
    bundle.add("doctor.txt", "what doctor found", &report.to_string());
    let daemon = control::process(&Home::socket(dir)).await;
    if doctor::may_ask(dir, daemon) {
        match desk::ask(dir, Request::Status).await {
            Ok(answer) => {
                let status = format!("{:#}\n", without_reason(answer.json));
                bundle.add(
                    "status.json",
                    "what status says, without the reason of a pause",
                    &status,
                );
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

/// The reason of a pause is free text, and may name a person although it should not.
fn without_reason(mut status: Value) -> Value {
    if status["availability"]["reason"].is_string() {
        status["availability"]["reason"] = json!("[left out]");
    }
    status
}
