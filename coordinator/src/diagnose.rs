//! What `diagnose` puts into its archive on the coordinator's side: what the programs say of themselves.
//! No key and no entry's content is read for it.

use std::path::Path;

use collegium_shared::{
    clock::Clock,
    config::{ConfigError, effective, read},
    control,
    diagnose::{Bundle, Secrets},
};
use serde_json::{Value, json};
use toml::Table;

use crate::{
    admin::AdminRequest,
    config::{CONFIG_FILE, Config},
    doctor::{self, PROGRAM, UNIT},
    service, signing,
};

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
    bundle.add("doctor.txt", "what doctor found", &report.to_string());
    let daemon = control::process(&service::control_socket(dir)).await;
    if doctor::may_ask(dir, daemon) {
        match service::ask(dir, AdminRequest::Status).await {
            Ok(status) => {
                let status = format!("{:#}\n", without_reason(status));
                bundle.add(
                    "status.json",
                    "what status says, without the reason of a pause",
                    &status,
                );
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

/// The reason of a pause is free text, and may name a person although it should not.
fn without_reason(mut status: Value) -> Value {
    const LEFT_OUT: &str = "[left out]";
    if status["task"]["paused"]["reason"].is_string() {
        status["task"]["paused"]["reason"] = json!(LEFT_OUT);
        status["waiting"] = json!(LEFT_OUT);
    }
    status
}
