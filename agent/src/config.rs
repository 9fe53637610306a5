//! `agent.toml`: what the institution's operator decides about this process. Read at start and at a
//! reload; holds no secrets. What the institution consents to is `policy`'s.

pub mod network;

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use collegium_shared::{
    config::{self, ConfigError, Log, Ops},
    ids::InstitutionId,
    service::operations::Settings,
};
use serde::{Deserialize, Serialize};
use thiserror::Error;
use tonic::transport::Uri;

use crate::{
    drift::{self, Thresholds},
    limits::{self, Limits},
};
use network::Network;

/// The file's name in the agent's directory; present means enrolled.
pub const CONFIG_FILE: &str = "agent.toml";

/// Where the coordinator is reached: `https://HOST:PORT`, checked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct CoordinatorUrl(String);

/// A URL that was refused.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("{0:?} is no coordinator's address: write it as https://HOST:PORT")]
pub struct BadUrl(String);

impl TryFrom<String> for CoordinatorUrl {
    type Error = BadUrl;

    fn try_from(text: String) -> Result<Self, BadUrl> {
        let allowed = |uri: &Uri| {
            let plain = uri.authority().is_some_and(|a| !a.as_str().contains('@'));
            uri.scheme_str() == Some("https")
                && plain
                && uri.host().is_some_and(|host| !host.is_empty())
                && uri.path_and_query().is_none_or(|path| path.as_str() == "/")
        };
        match text.parse::<Uri>() {
            Ok(uri) if allowed(&uri) => Ok(Self(text)),
            _ => Err(BadUrl(text.chars().take(200).collect())),
        }
    }
}

impl From<CoordinatorUrl> for String {
    fn from(url: CoordinatorUrl) -> Self {
        url.0
    }
}

impl CoordinatorUrl {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The agent's configuration.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    pub coordinator: CoordinatorUrl,
    /// This institution, as the invitation named it.
    pub institution: InstitutionId,
    /// How long what is under way may take after a stop was asked for.
    #[serde(default = "config::default_shutdown_seconds")]
    shutdown_seconds: u64,
    #[serde(default)]
    pub directories: Directories,
    #[serde(default)]
    pub recommender: Recommender,
    #[serde(default)]
    pub network: Network,
    #[serde(default)]
    pub limits: Limits,
    /// When records count as shifted.
    #[serde(default)]
    pub drift: Thresholds,
    #[serde(default)]
    pub log: Log,
    #[serde(default)]
    pub ops: Ops,
}

impl Settings for Config {
    const LIVE: &'static [&'static str] = &["limits", "log", "ops", "shutdown_seconds"];

    fn log(&self) -> &Log {
        &self.log
    }

    fn ops(&self) -> &Ops {
        &self.ops
    }
}

/// Where things are kept; relative paths start at the agent's directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Directories {
    /// Learner records, sealed.
    pub vault: PathBuf,
    /// The journal, which is the institution's audit log.
    pub journal: PathBuf,
    /// Models, opened sums and uploads by their digests.
    pub blobs: PathBuf,
}

impl Default for Directories {
    fn default() -> Self {
        Self { vault: "vault".into(), journal: "journal".into(), blobs: "blobs".into() }
    }
}

/// The local recommender API.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Recommender {
    pub listen: SocketAddr,
}

impl Default for Recommender {
    fn default() -> Self {
        Self { listen: SocketAddr::from(([127, 0, 0, 1], 8471)) }
    }
}

impl Config {
    /// Reads `agent.toml` in `dir`; the directories in what it returns are complete paths.
    pub fn load(dir: &Path) -> Result<Self, ConfigError> {
        Self::read(&dir.join(CONFIG_FILE), dir)
    }

    /// Reads the file `path` as if it lay in `dir`.
    pub fn read(path: &Path, dir: &Path) -> Result<Self, ConfigError> {
        let mut config: Self = config::read(path)?;
        config.check().map_err(|reason| ConfigError::new(path, reason))?;
        let Directories { vault, journal, blobs } = &mut config.directories;
        for directory in [vault, journal, blobs] {
            if directory.as_os_str().is_empty() {
                return Err(ConfigError::new(path, "directories: a path is empty"));
            }
            *directory = dir.join(&directory);
        }
        config.network.complete(dir);
        Ok(config)
    }

    /// How long what is under way may take after a stop was asked for.
    pub fn shutdown_time(&self) -> Duration {
        Duration::from_secs(self.shutdown_seconds)
    }

    fn check(&self) -> Result<(), String> {
        self.log.check()?;
        self.ops.check()?;
        config::check_shutdown_seconds(self.shutdown_seconds)?;
        Ok(self.network.check()?)
    }
}

/// The commented file that `enroll` writes.
pub fn sample(
    coordinator: &CoordinatorUrl,
    institution: &InstitutionId,
    network: &Network,
) -> String {
    let Recommender { listen } = Recommender::default();
    format!(
        r#"# The Collegium agent of {institution}. Unknown keys are refused. Read at start, and again at
# `collegium-agent reload` or SIGHUP, which say what else needs a restart.

# Where the coordinator is reached. The agent calls out to this one address and nowhere else.
coordinator = "{url}"

# This institution, as the invitation named it. To change it, enrol again in a new directory.
institution = "{institution}"

# How long what is under way may take after a stop was asked for.
shutdown_seconds = {shutdown}

# Where things are kept; relative paths start at the directory of this file.
[directories]
# Learner records, sealed with keys/vault.key.
vault = "vault"
# The journal, which is this institution's audit log.
journal = "journal"
# Models, opened sums and uploads.
blobs = "blobs"

# For the recommender API of a later version: this one opens no port here. `collegium-agent recommend`
# recommends.
[recommender]
listen = "{listen}"

{network}
{limits}
{drift}
[log]
# error, warn, info, debug, trace, or directives such as "info,collegium_agent=debug".
level = "info"
# text or json
format = "text"

# Health and metrics for this machine's monitoring, over HTTP: /livez, /readyz, /metrics. Served only
# if `listen` is set. An address that other machines reach needs allow_remote = true.
[ops]
# listen = "127.0.0.1:8473"
allow_remote = false
"#,
        shutdown = config::default_shutdown_seconds(),
        url = coordinator.as_str(),
        network = network.sample(),
        limits = limits::sample(),
        drift = drift::sample(),
    )
}

#[cfg(test)]
mod tests {
    use std::fs;

    use collegium_shared::config::effective;

    use super::*;

    fn url(text: &str) -> Result<CoordinatorUrl, BadUrl> {
        text.to_owned().try_into()
    }

    fn load(text: &str) -> Result<Config, ConfigError> {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(CONFIG_FILE), text).unwrap();
        let mut config = Config::load(dir.path())?;
        assert_eq!(config.directories.vault, dir.path().join("vault"));
        config.directories = Directories::default();
        Ok(config)
    }

    #[test]
    fn the_sample_says_what_the_defaults_are() {
        let (url, name) = (url("https://host:8470").unwrap(), "school-a".parse().unwrap());
        let text = sample(&url, &name, &Network::default());
        let short = "coordinator = \"https://host:8470\"\ninstitution = \"school-a\"";
        assert_eq!(load(&text).unwrap(), load(short).unwrap());
    }

    #[test]
    fn the_published_sample_is_what_enroll_writes() {
        let url = url("https://collegium.example.org:8470").unwrap();
        let name = "north-school".parse().unwrap();
        let written = sample(&url, &name, &Network::default());
        assert_eq!(include_str!("../../deploy/agent.toml"), written);
    }

    #[test]
    fn what_is_shown_is_what_was_read() {
        let text = "coordinator = \"https://host:8470\"\ninstitution = \"school-a\"\n\
                    [network]\nproxy = \"http://proxy:3128\"\n\
                    [limits]\nmemory_mib = 512\ntraining_windows = [\"Mon-Fri 18:00-06:00\"]\n\
                    time_zone = \"Europe/Berlin\"\n";
        let read = load(text).unwrap();
        let shown = toml::to_string(&effective::table(&read).unwrap()).unwrap();
        assert_eq!(load(&shown).unwrap(), read, "{shown}");
    }

    #[test]
    fn bad_values_and_unknown_keys_are_refused_by_name() {
        let good = "coordinator = \"https://host:8470\"\ninstitution = \"school-a\"\n";
        let cases = [
            ("cordinator = 1\n", "cordinator"),
            ("[directories]\nvalut = \"v\"\n", "valut"),
            ("[directories]\nvault = \"\"\n", "empty"),
            ("[recommender]\nlisten = \"8471\"\n", "listen"),
            ("[limits]\nupload_kib_per_second = 31\n", "at least 32"),
            ("[network]\ntrust = \"file\"\n", "ca_file"),
            ("[network]\nca_file = \"ca.pem\"\n", "trust"),
            ("[network]\nproxy = \"ftp://p:1\"\n", "proxy"),
            ("[network]\nproxy_password_file = \"p\"\n", "network.proxy"),
            ("[network]\nidentity = \"password\"\n", "identity"),
            ("[log]\nlevle = \"debug\"\n", "levle"),
            ("[limits]\ntraining_windows = [\"noon\"]\n", "noon"),
            ("[log]\nlevel = \"=loud\"\n", "log.level"),
            ("[ops]\nlisten = \"0.0.0.0:8473\"\n", "allow_remote"),
            ("shutdown_seconds = 301\n", "shutdown_seconds"),
        ];
        for (line, named) in cases {
            let error = load(&format!("{good}{line}")).unwrap_err().to_string();
            assert!(error.contains(named) && error.contains(CONFIG_FILE), "{line}: {error}");
        }
        assert!(load("coordinator = \"https://host\"").is_err());
    }

    #[test]
    fn the_network_that_enrolment_was_told_of_is_written_and_read_again() {
        let network = Network {
            proxy: "http://proxy:3128".to_owned().try_into().unwrap(),
            proxy_password_file: Some("/etc/proxy \"password\"".into()),
            trust: network::Trust::File,
            ca_file: Some("/etc/ca.pem".into()),
            identity: network::Proof::Signature,
        };
        let (url, name) = (url("https://host:8470").unwrap(), "school-a".parse().unwrap());
        assert_eq!(load(&sample(&url, &name, &network)).unwrap().network, network);
    }

    #[test]
    fn only_plain_https_addresses_are_taken() {
        for good in ["https://host", "https://host:8470", "https://10.0.0.1:1/", "https://[::1]:2"]
        {
            assert!(url(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            "host:8470",
            "http://host",
            "https://",
            "https://h/x",
            "https://h?x",
            "https://a@h",
        ] {
            assert!(url(bad).is_err(), "{bad}");
        }
    }
}
