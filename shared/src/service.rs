//! What every daemon does the same way: where it writes about its work, and when it stops.

use std::io::{self, IsTerminal};

use thiserror::Error;
use tracing_subscriber::{EnvFilter, fmt};

use crate::config::{Log, LogFormat};

/// Why the log of the process cannot be set up.
#[derive(Debug, Error)]
pub enum LogError {
    #[error("log.level {0:?} is neither a level nor directives such as \"info,collegium=debug\"")]
    Level(String),
    #[error("the log of this process was set up before")]
    Twice,
}

/// Writes about the work of this process to standard error.
pub fn log_to_stderr(log: &Log) -> Result<(), LogError> {
    let filter = EnvFilter::try_new(&log.level).map_err(|_| LogError::Level(log.level.clone()))?;
    let builder =
        fmt().with_env_filter(filter).with_ansi(io::stderr().is_terminal()).with_writer(io::stderr);
    let done = match log.format {
        LogFormat::Text => builder.try_init(),
        LogFormat::Json => builder.json().try_init(),
    };
    done.map_err(|_| LogError::Twice)
}

/// Resolves when the process is asked to stop, by SIGTERM or SIGINT. If signals cannot be received,
/// that is said and counts as a stop.
pub async fn stop_signal() {
    use tokio::signal::unix::{SignalKind, signal};
    let both =
        signal(SignalKind::terminate()).and_then(|t| Ok((t, signal(SignalKind::interrupt())?)));
    match both {
        Ok((mut terminate, mut interrupt)) => {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        }
        Err(error) => tracing::error!(%error, "signals cannot be received; stopping"),
    }
}
