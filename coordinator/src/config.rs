//! `coordinator.toml`: what the operator decides about this process. Read at start and at a reload;
//! holds no secrets. What the network decides (tasks, members) is never here.

use std::{net::SocketAddr, path::Path, time::Duration};

use collegium_shared::{
    config::{self, ConfigError, Log, Ops},
    service::operations::Settings,
};
use rustls::pki_types::ServerName;
use serde::{Deserialize, Serialize};

use crate::listener;

/// The file's name in the coordinator's directory; present means initialised.
pub const CONFIG_FILE: &str = "coordinator.toml";

/// The address that `init` proposes.
pub const DEFAULT_LISTEN: &str = "0.0.0.0:8470";

/// The longest that a poll may stay open: proxies commonly cut a silent request after a minute.
const MAX_PATIENCE: u64 = 55;

/// The longest that a peer may keep the coordinator waiting.
const MAX_STALL: u64 = 3_600;

/// The coordinator's configuration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Where agents connect.
    pub listen: SocketAddr,
    /// The host names and IP addresses that stand in the server's certificate.
    #[serde(default = "default_names")]
    pub names: Vec<String>,
    /// The first line of the network's log checkpoints; never changes once the log has begun.
    pub origin: String,
    /// How long a poll without news stays open.
    #[serde(default = "default_patience")]
    poll_patience_seconds: u64,
    /// How long what is under way may take after a stop was asked for.
    #[serde(default = "config::default_shutdown_seconds")]
    shutdown_seconds: u64,
    #[serde(default)]
    pub listener: Listener,
    #[serde(default)]
    pub limits: Limits,
    #[serde(default)]
    pub ops: Ops,
    #[serde(default)]
    pub log: Log,
}

impl Settings for Config {
    const LIVE: &'static [&'static str] =
        &["log", "names", "ops", "poll_patience_seconds", "shutdown_seconds"];

    fn log(&self) -> &Log {
        &self.log
    }

    fn ops(&self) -> &Ops {
        &self.ops
    }
}

/// What one process takes on at most.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    connections: usize,
    connections_per_institution: usize,
    strangers: usize,
    strangers_per_address: usize,
    handshakes: usize,
    handshakes_per_address: usize,
    uploads_kept_mib: u32,
    stall_seconds: u64,
}

impl Default for Limits {
    fn default() -> Self {
        let limits = listener::Limits::default();
        Self {
            connections: limits.connections,
            connections_per_institution: limits.connections_per_institution,
            strangers: limits.strangers,
            strangers_per_address: limits.strangers_per_address,
            handshakes: limits.handshakes,
            handshakes_per_address: limits.handshakes_per_address,
            uploads_kept_mib: 64,
            stall_seconds: limits.stall_time.as_secs(),
        }
    }
}

impl Limits {
    pub fn listener(&self) -> listener::Limits {
        listener::Limits {
            connections: self.connections,
            connections_per_institution: self.connections_per_institution,
            strangers: self.strangers,
            strangers_per_address: self.strangers_per_address,
            handshakes: self.handshakes,
            handshakes_per_address: self.handshakes_per_address,
            stall_time: self.stall_time(),
            ..listener::Limits::default()
        }
    }

    /// Bytes of summed uploads of the open round that stay on disk.
    pub fn uploads_kept(&self) -> u64 {
        u64::from(self.uploads_kept_mib) << 20
    }

    /// How long a peer may keep this side waiting before it is cut.
    pub fn stall_time(&self) -> Duration {
        Duration::from_secs(self.stall_seconds)
    }

    fn has_zero(&self) -> bool {
        let all = [
            self.connections,
            self.connections_per_institution,
            self.strangers,
            self.strangers_per_address,
            self.handshakes,
            self.handshakes_per_address,
        ];
        all.contains(&0)
    }
}

/// Whom the port lets in.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Listener {
    /// Calls that an institution's identity key signed are taken without a client certificate.
    pub signed_requests: bool,
}

fn default_patience() -> u64 {
    25
}

/// The names that work on the coordinator's own machine, and the machine's own.
pub fn default_names() -> Vec<String> {
    let mut names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
    let hostname = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let hostname = hostname.trim();
    if hostname != "localhost" && ServerName::try_from(hostname).is_ok() {
        names.push(hostname.to_owned());
    }
    names
}

impl Config {
    /// Reads `coordinator.toml` in `dir`.
    pub fn load(dir: &Path) -> Result<Self, ConfigError> {
        Self::read(&dir.join(CONFIG_FILE))
    }

    /// Reads the file `path`.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let config: Self = config::read(path)?;
        config.check().map_err(|reason| ConfigError::new(path, reason))?;
        Ok(config)
    }

    pub fn poll_patience(&self) -> Duration {
        Duration::from_secs(self.poll_patience_seconds)
    }

    /// How long what is under way may take after a stop was asked for.
    pub fn shutdown_time(&self) -> Duration {
        Duration::from_secs(self.shutdown_seconds)
    }

    fn check(&self) -> Result<(), String> {
        self.log.check()?;
        self.ops.check()?;
        config::check_shutdown_seconds(self.shutdown_seconds)?;
        for name in &self.names {
            ServerName::try_from(name.as_str())
                .map_err(|_| format!("names: {name:?} is neither a host name nor an IP address"))?;
        }
        let bad_origin = |c: char| c.is_whitespace() || c.is_control() || c == '+';
        if self.names.is_empty() {
            Err("names: give at least one, or agents cannot check the server".into())
        } else if self.origin.is_empty()
            || self.origin.len() > 255
            || self.origin.contains(bad_origin)
        {
            Err("origin: use 1 to 255 characters without spaces and '+'".into())
        } else if !(1..=MAX_PATIENCE).contains(&self.poll_patience_seconds) {
            Err(format!("poll_patience_seconds: use 1 to {MAX_PATIENCE}"))
        } else if self.limits.has_zero() {
            Err("limits: each must be at least 1".into())
        } else if !(1..=MAX_STALL).contains(&self.limits.stall_seconds) {
            Err(format!("limits: stall_seconds: use 1 to {MAX_STALL}"))
        } else {
            Ok(())
        }
    }
}

/// The commented file that `init` writes.
pub fn sample(listen: SocketAddr, names: &[String], origin: &str) -> String {
    let names: Vec<String> = names.iter().map(|name| format!("{name:?}")).collect();
    let names = names.join(", ");
    let Limits {
        connections,
        connections_per_institution,
        strangers,
        strangers_per_address,
        handshakes,
        handshakes_per_address,
        uploads_kept_mib,
        stall_seconds,
    } = Limits::default();
    let Listener { signed_requests } = Listener::default();
    format!(
        r#"# The Collegium coordinator. Unknown keys are refused. Read at start, and again at
# `collegium-coordinator reload` or SIGHUP, which say what else needs a restart.

# Where agents connect: one port, TLS 1.3.
listen = "{listen}"

# The host names and IP addresses by which agents reach it. They stand in the server's certificate,
# which is made anew at each start and reload.
names = [{names}]

# The name of the network's log, the first line of every checkpoint. Do not change it later.
origin = "{origin}"

# How long a poll without news stays open. Lower it if a proxy cuts silent requests earlier.
poll_patience_seconds = {patience}

# How long what is under way may take after a stop was asked for.
shutdown_seconds = {shutdown}

[listener]
# Whether institutions behind a proxy that ends TLS may prove who they are by signing each call:
# connections without a client certificate are then taken for more than enrolment.
signed_requests = {signed_requests}

[limits]
# Open connections, and how many of them one institution may have.
connections = {connections}
connections_per_institution = {connections_per_institution}
# Of these, connections without a client certificate (enrolment), and how many of them may come from
# one address.
strangers = {strangers}
strangers_per_address = {strangers_per_address}
# TLS handshakes at the same time, and how many of them with one address.
handshakes = {handshakes}
handshakes_per_address = {handshakes_per_address}
# MiB of masked uploads of the open round that stay on disk although they are summed; above that, and
# above four uploads, the running sum is written and they are deleted.
uploads_kept_mib = {uploads_kept_mib}
# How long a connection may keep the coordinator waiting before it is cut: for its first call, for the
# rest of a message, or for taking an answer (a second more for each 16 KiB of it).
stall_seconds = {stall_seconds}

[log]
# error, warn, info, debug, trace, or directives such as "info,collegium_coordinator=debug".
level = "info"
# text or json
format = "text"

# Health and metrics for this machine's monitoring, over HTTP: /livez, /readyz, /metrics. Served only
# if `listen` is set. An address that other machines reach needs allow_remote = true.
[ops]
# listen = "127.0.0.1:8472"
allow_remote = false
"#,
        patience = default_patience(),
        shutdown = config::default_shutdown_seconds(),
    )
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn load(text: &str) -> Result<Config, ConfigError> {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(CONFIG_FILE), text).unwrap();
        Config::load(dir.path())
    }

    #[test]
    fn the_sample_says_what_the_defaults_are() {
        let origin = "collegium.network/test";
        let config =
            load(&sample(DEFAULT_LISTEN.parse().unwrap(), &default_names(), origin)).unwrap();
        let short = format!("listen = \"0.0.0.0:8470\"\norigin = {origin:?}");
        assert_eq!(load(&short).unwrap(), config);
        assert_eq!(config.poll_patience(), Duration::from_secs(25));
        assert_eq!(config.limits.listener(), listener::Limits::default());
    }

    #[test]
    fn the_published_sample_is_what_init_writes() {
        let names = ["collegium.example.org".to_owned()];
        let written = sample(DEFAULT_LISTEN.parse().unwrap(), &names, "collegium.network/1f0c9a2e");
        assert_eq!(include_str!("../../deploy/coordinator.toml"), written);
    }

    #[test]
    fn bad_values_and_unknown_keys_are_refused_by_name() {
        let good = "listen = \"127.0.0.1:0\"\norigin = \"o\"\n";
        assert!(load(good).is_ok());
        let cases = [
            ("lisen = 1\n", "lisen"),
            ("names = []\n", "names"),
            ("names = [\"not a name\"]\n", "not a name"),
            ("poll_patience_seconds = 90\n", "poll_patience_seconds"),
            ("[limits]\nconnections = 0\n", "limits"),
            ("[limits]\nconections = 5\n", "conections"),
            ("[limits]\nstall_seconds = 0\n", "stall_seconds"),
            ("[log]\nformat = \"xml\"\n", "xml"),
            ("[log]\nlevel = \"=loud\"\n", "log.level"),
            ("[ops]\nlisten = \"0.0.0.0:8472\"\n", "allow_remote"),
            ("shutdown_seconds = 0\n", "shutdown_seconds"),
        ];
        for (line, named) in cases {
            let error = load(&format!("{good}{line}")).unwrap_err().to_string();
            assert!(error.contains(named) && error.contains(CONFIG_FILE), "{line}: {error}");
        }
        assert!(load("listen = \"8470\"\norigin = \"o\"").is_err());
        assert!(load("listen = \"127.0.0.1:0\"\norigin = \"a b\"").is_err());
        assert!(load("origin = \"o\"").is_err());
    }
}
