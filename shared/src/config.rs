//! Configuration files: one TOML file for each daemon, unknown keys refused, and the part that is
//! the same on both sides. Holds no secrets, so a message may quote the file.

use std::path::{Path, PathBuf};

use serde::{Deserialize, de::DeserializeOwned};
use thiserror::Error;

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
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
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

/// How log lines are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    /// One line of text for each event.
    Text,
    /// One JSON object for each event.
    Json,
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
}
