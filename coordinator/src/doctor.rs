//! What `doctor` looks at on the coordinator's machine: the directory, the port as an agent meets it, and
//! the state that `status` shows. Reads; opens the directory only as `status` does, and only for its own
//! user. Blobs are `store check`'s.

use std::{path::Path, time::Duration};

use collegium_shared::{
    clock::{Clock, Timestamp},
    config::ConfigError,
    control,
    doctor::{
        Finding, Report, clock as clocks,
        files::User,
        journal,
        machine::{self, Place},
    },
};
use serde_json::Value;

use crate::{
    SIGNING_KEY,
    admin::AdminRequest,
    ca,
    config::{CONFIG_FILE, Config},
    service, signing,
};

mod port;
mod standing;

pub(crate) const PROGRAM: &str = "collegium-coordinator";
pub(crate) const UNIT: &str = "collegium-coordinator.service";
/// Files beside the connections: journal, view, uploads, blobs.
const OTHER_FILES: u64 = 256;
/// A new authority needs some months to reach everybody.
const AUTHORITY_ENDS: Duration = Duration::from_secs(365 * 86_400);

/// Looks at everything.
///
/// # Errors
/// A configuration that does not hold; all else is in the report.
pub async fn examine(dir: &Path, clock: &Clock) -> Result<Report, ConfigError> {
    let config = Config::load(dir)?;
    let user = User::of(dir).map_err(|error| ConfigError::new(dir, error))?;
    let daemon = control::process(&service::control_socket(dir)).await;
    let now = clock.now();
    let mut findings = vec![
        Finding::ok("config", format!("{} is good", dir.join(CONFIG_FILE).display())),
        running(dir, daemon),
        user.files(dir, PROGRAM),
    ];
    let keys = [SIGNING_KEY, ca::KEY_FILE].map(|name| dir.join(name));
    findings.extend(user.keys(&dir.join("keys"), &keys));
    let places = ["home", "journal", "blobs", "rounds"].map(|name| match name {
        "home" => Place::new(name, dir),
        name => Place::new(name, dir.join(name)),
    });
    findings.extend(machine::disks(&places, user.is_owner()));
    let connections = u64::try_from(config.limits.listener().connections).unwrap_or(u64::MAX);
    let needed = connections.saturating_add(OTHER_FILES);
    findings.push(machine::open_files(daemon, needed, UNIT));
    match signing::log_key(dir) {
        Ok(key) => {
            let journal = dir.join("journal");
            findings.extend(journal::verified(&journal, &key, now));
        }
        Err(error) => {
            let what = "the signing key cannot be used";
            let fix =
                format!("put it right as is said there, or restore {SIGNING_KEY} from a backup");
            findings.push(Finding::fail("keys", what, error.to_string(), fix));
        }
    }
    findings.push(authority(dir, now));
    findings.extend(port::findings(dir, &config, daemon.is_some(), now).await);
    if may_ask(dir, daemon) {
        findings.extend(standing(dir, now).await);
    }
    let reason = "the coordinator calls nobody; agents compare theirs with this one";
    findings.push(Finding::ok("clock", format!("{now}; {reason}")));
    let version = env!("CARGO_PKG_VERSION");
    Ok(Report { program: PROGRAM, version, at: now, findings })
}

/// Whether the state can be asked for: of the daemon, or of the directory by its own user.
pub(crate) fn may_ask(dir: &Path, daemon: Option<i32>) -> bool {
    daemon.is_some() || User::of(dir).is_ok_and(|user| user.is_owner())
}

fn running(dir: &Path, daemon: Option<i32>) -> Finding {
    const CHECK: &str = "daemon";
    if let Some(pid) = daemon {
        return Finding::ok(CHECK, format!("runs as process {pid}"));
    }
    let fix = format!("systemctl start {UNIT}; or {PROGRAM} serve --dir {}", dir.display());
    Finding::warn(CHECK, "does not run", "no agent reaches it", fix)
}

fn authority(dir: &Path, now: Timestamp) -> Finding {
    const CHECK: &str = "authority";
    match ca::window(dir) {
        Ok(window) => {
            let what = "the certificate authority";
            let fix = format!(
                "{PROGRAM} ca rotate --dir {}, later ca retire, then a backup",
                dir.display()
            );
            clocks::validity(CHECK, what, window, now, AUTHORITY_ENDS, &fix)
        }
        Err(error) => {
            let fix = "restore ca.pem and keys/ca.key.pem from one backup";
            Finding::fail(CHECK, "ca.pem cannot be used", error.to_string(), fix)
        }
    }
}

/// What the daemon, or else the directory, says.
async fn standing(dir: &Path, now: Timestamp) -> Vec<Finding> {
    let status = match service::ask(dir, AdminRequest::Status).await {
        Ok(status) => status,
        Err(error) => {
            let fix =
                format!("what is named there; then {PROGRAM} store check --dir {}", dir.display());
            let what = "it cannot be opened";
            return vec![Finding::fail("directory", what, format!("{error:#}"), fix)];
        }
    };
    // Not answered while the storage is waited for, which the status says.
    let institutions = service::ask(dir, AdminRequest::Institutions).await.unwrap_or(Value::Null);
    standing::findings(dir, &status, &institutions, now)
}

#[cfg(test)]
mod tests;
