//! What `doctor` looks at on an agent's machine: the directory, the state that `status` shows, and the way
//! to the coordinator. Reads; opens the directory only as `status` does, and only for its own user.

use std::{path::Path, time::Duration};

use collegium_shared::{
    clock::{Clock, Timestamp},
    control,
    doctor::{
        Finding, Report, clock as clocks,
        files::User,
        journal,
        machine::{self, Place},
    },
    service::credential::{self, Handed},
};
use serde_json::Value;

use crate::{
    config::{CONFIG_FILE, Config},
    credentials::Credentials,
    desk::{self, Request},
    home::{Home, HomeError},
    identity::{self, IDENTITY_KEY, Identity, TLS_KEY, VAULT_KEY},
    link::probe::Way,
    rotation,
    vault::VAULT_CREDENTIAL,
};

mod standing;

pub(crate) const PROGRAM: &str = "collegium-agent";
pub(crate) const UNIT: &str = "collegium-agent.service";
/// Connections, files of a round and of the vault.
const OPEN_FILES: u64 = 512;
/// Certificates of 90 days are renewed at day 60 at the latest.
const RENEWED: Duration = Duration::from_secs(29 * 86_400);

/// Looks at everything.
///
/// # Errors
/// [`HomeError`] if there is no configuration that holds; all else is in the report.
pub async fn examine(dir: &Path, clock: &Clock) -> Result<Report, HomeError> {
    let config = Home::config(dir)?;
    let user = User::of(dir).map_err(|source| HomeError::Io { path: dir.to_owned(), source })?;
    let daemon = control::process(&Home::socket(dir)).await;
    let mut findings = vec![
        Finding::ok("config", format!("{} is good", dir.join(CONFIG_FILE).display())),
        running(dir, daemon),
        user.files(dir, PROGRAM),
    ];
    findings.extend(keys(dir, &config, &user, daemon.is_some()));
    findings.extend(machine::disks(&places(dir, &config), user.is_owner()));
    findings.push(machine::open_files(daemon, OPEN_FILES, UNIT));
    let now = clock.now();
    let log = &config.directories.journal;
    match rotation::log_key(dir, log) {
        Ok(key) => findings.extend(journal::verified(log, &key, now)),
        Err(error) => {
            let what = "the identity key cannot be used";
            let fix =
                format!("put it right as is said there, or restore {IDENTITY_KEY} from a backup");
            findings.push(Finding::fail("keys", what, error.to_string(), fix));
        }
    }
    findings.push(certificate(dir, now));
    let mut proxy = None;
    if may_ask(dir, daemon) {
        match ask(dir).await {
            Ok((status, summary)) => {
                findings.extend(standing::findings(dir, &status, &summary));
                let of_daemon = status["coordinator"]["proxy"].as_str().map(str::to_owned);
                proxy = daemon.map(|_| of_daemon);
            }
            Err(error) => findings.push(closed(dir, &error)),
        }
    }
    findings.extend(network(dir, &config, clock, proxy).await);
    let version = env!("CARGO_PKG_VERSION");
    Ok(Report { program: PROGRAM, version, at: now, findings })
}

/// Whether the state can be asked for: of the daemon, or of the directory by its own user, who has the key.
pub(crate) fn may_ask(dir: &Path, daemon: Option<i32>) -> bool {
    let owner = || User::of(dir).is_ok_and(|user| user.is_owner());
    daemon.is_some() || (owner() && has_vault_key(dir))
}

fn running(dir: &Path, daemon: Option<i32>) -> Finding {
    const CHECK: &str = "daemon";
    if let Some(pid) = daemon {
        return Finding::ok(CHECK, format!("runs as process {pid}"));
    }
    let fix = format!("systemctl start {UNIT}; or {PROGRAM} run --dir {}", dir.display());
    Finding::warn(CHECK, "does not run", "it takes part in no round", fix)
}

fn places(dir: &Path, config: &Config) -> [Place; 4] {
    let places = &config.directories;
    [
        Place::new("home", dir),
        Place::new("journal", &places.journal),
        Place::new("vault", &places.vault),
        Place::new("blobs", &places.blobs),
    ]
}

fn keys(dir: &Path, config: &Config, user: &User, running: bool) -> Vec<Finding> {
    let own = [IDENTITY_KEY, TLS_KEY, VAULT_KEY].map(|name| dir.join(name));
    let password = config.network.proxy_password_file.clone();
    let password = password.filter(|path| credential::named(path).is_none());
    let files: Vec<_> = own.into_iter().chain(password).collect();
    let mut findings = user.keys(&dir.join("keys"), &files);
    if !has_vault_key(dir) {
        let what = format!("{VAULT_KEY} is not there");
        findings.push(if running {
            Finding::ok("keys", format!("{what}: the daemon has it from elsewhere"))
        } else {
            let why = "without it the vault is closed, unless the unit gives it as a credential";
            let fix = format!("systemctl cat {UNIT} shows LoadCredential; or restore the key");
            Finding::warn("keys", what, why, fix)
        });
    }
    findings
}

/// Whether this command has the vault key, beside the keys or handed over.
fn has_vault_key(dir: &Path) -> bool {
    dir.join(VAULT_KEY).exists() || matches!(Handed::over().find(VAULT_CREDENTIAL), Ok(Some(_)))
}

fn certificate(dir: &Path, now: Timestamp) -> Finding {
    const CHECK: &str = "certificate";
    let fix = format!(
        "start the agent, which renews it; if it has expired: ask for an invitation, then {PROGRAM} reenrol --token-file FILE --dir {}",
        dir.display()
    );
    match Credentials::load(dir) {
        Ok(credentials) => {
            let what = "this agent's certificate";
            clocks::validity(CHECK, what, credentials.window(), now, RENEWED, &fix)
        }
        Err(error) => {
            let what = "the TLS key or its certificate cannot be used";
            Finding::fail(CHECK, what, error.to_string(), fix)
        }
    }
}

/// What the daemon, or else the directory, says: its status, and a summary of its records.
async fn ask(dir: &Path) -> anyhow::Result<(Value, Value)> {
    let status = desk::ask(dir, Request::Status).await?.json;
    let summary = desk::ask(dir, Request::Summary).await?.json;
    Ok((status, summary))
}

fn closed(dir: &Path, error: &anyhow::Error) -> Finding {
    let fix = format!("what is named there; then {PROGRAM} status --dir {}", dir.display());
    Finding::fail("directory", "it cannot be opened", format!("{error:#}"), fix)
}

/// Whether the coordinator can be reached, step by step.
async fn network(
    dir: &Path,
    config: &Config,
    clock: &Clock,
    daemons_proxy: Option<Option<String>>,
) -> Vec<Finding> {
    let credentials = Credentials::load(dir);
    let route = Identity::load(dir).and_then(|own| identity::route(config, &own, clock));
    let route = route.map_err(|error| error.to_string());
    Way { config, credentials: credentials.as_ref().ok(), route, clock, daemons_proxy }
        .findings()
        .await
}

#[cfg(test)]
mod tests;
