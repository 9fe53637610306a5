//! Configuration files: one TOML file for each daemon, unknown keys refused, and the part that is
//! the same on both sides. Holds no secrets, so a message may quote the file.

pub mod effective;

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use thiserror::Error;
use tracing_subscriber::EnvFilter;

use crate::files::read_bounded;

/// The most bytes of a configuration file.
const MAX_CONFIG: u64 = 1 << 20;

/// A configuration that was refused, with the reason.
#[derive(Debug, Error)]
#[error("{path}: {reason}")]
pub struct ConfigError {
    path: PathBuf,
    reason: String,
}

impl ConfigError {
    pub fn new(path: &Path, reason: impl ToString) -> Self {
        Self { path: path.to_path_buf(), reason: reason.to_string().trim_end().to_owned() }
    }
}

/// Reads the TOML file `path`.
pub fn read<T: DeserializeOwned>(path: &Path) -> Result<T, ConfigError> {
    let bytes = read_bounded(path, MAX_CONFIG).map_err(|e| ConfigError::new(path, e))?;
    let text = std::str::from_utf8(&bytes).map_err(|e| ConfigError::new(path, e))?;
    toml::from_str(text).map_err(|e| ConfigError::new(path, e))
}

/// What the daemon writes about its work.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Log {
    /// A level, or directives as `tracing_subscriber::EnvFilter` reads them.
    pub level: String,
    pub format: LogFormat,
}

impl Default for Log {
    fn default() -> Self {
        Self { level: "info".into(), format: LogFormat::Text }
    }
}

impl Log {
    /// Refuses a level that is not understood.
    pub fn check(&self) -> Result<(), String> {
        self.filter().map(drop)
    }

    /// What is written.
    pub(crate) fn filter(&self) -> Result<EnvFilter, String> {
        EnvFilter::try_new(&self.level).map_err(|_| {
            let level = &self.level;
            format!("log.level {level:?} is neither a level nor directives such as \"info,collegium=debug\"")
        })
    }
}

/// How log lines are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    /// One line of text for each event.
    Text,
    /// One JSON object for each event.
    Json,
}

/// Where the daemon's health and metrics are served.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Ops {
    /// None: nowhere.
    pub listen: Option<SocketAddr>,
    /// Whether `listen` may be an address that other machines reach.
    pub allow_remote: bool,
}

impl Ops {
    /// Refuses an address that others reach, unless that is meant.
    pub fn check(&self) -> Result<(), String> {
        match self.listen {
            Some(address) if !address.ip().is_loopback() && !self.allow_remote => Err(format!(
                "ops.listen: {address} can be reached by other machines, and the endpoint asks nobody \
                 who they are; use a loopback address, or set ops.allow_remote = true"
            )),
            _ => Ok(()),
        }
    }
}

/// How long a stop may take: what `shutdown_seconds` may be.
pub const SHUTDOWN_SECONDS: std::ops::RangeInclusive<u64> = 1..=300;

/// The default of `shutdown_seconds`.
pub fn default_shutdown_seconds() -> u64 {
    10
}

/// Refuses a `shutdown_seconds` outside of [`SHUTDOWN_SECONDS`].
pub fn check_shutdown_seconds(seconds: u64) -> Result<(), String> {
    let (least, most) = (SHUTDOWN_SECONDS.start(), SHUTDOWN_SECONDS.end());
    if SHUTDOWN_SECONDS.contains(&seconds) {
        Ok(())
    } else {
        Err(format!("shutdown_seconds: use {least} to {most}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bad_file_is_named_with_the_reason() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("c.toml");
        assert!(read::<Log>(&path).unwrap_err().to_string().contains("c.toml"));
        std::fs::write(&path, "level = \"debug\"\n").unwrap();
        assert_eq!(read::<Log>(&path).unwrap(), Log { level: "debug".into(), ..Log::default() });
        for bad in ["levle = \"debug\"", "format = \"xml\"", "level = 3", "level ="] {
            std::fs::write(&path, bad).unwrap();
            assert!(read::<Log>(&path).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_endpoint_is_for_this_machine_unless_more_is_meant() {
        let ops = |listen: &str, allow_remote| Ops { listen: listen.parse().ok(), allow_remote };
        assert!(Ops::default().check().is_ok());
        assert!(ops("127.0.0.1:1", false).check().is_ok() && ops("[::1]:1", false).check().is_ok());
        assert!(ops("0.0.0.0:1", true).check().is_ok());
        for open in ["0.0.0.0:1", "[::]:1", "10.0.0.1:1"] {
            let reason = ops(open, false).check().unwrap_err();
            assert!(reason.contains(open) && reason.contains("allow_remote"), "{reason}");
        }
    }
}
