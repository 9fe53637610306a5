//! One daemon's process as its operators see it: the configuration in force, health and metrics, and
//! the reload that changes them. Both daemons have one; it outlives whatever they open and close.

use std::{fmt, net::SocketAddr};

use serde::{Serialize, de::DeserializeOwned};
use thiserror::Error;
use tokio::{
    signal::unix::Signal,
    sync::{Mutex, watch},
    task::AbortHandle,
};

use super::{
    log::{LogError, change_log},
    received,
    reload::{InForce, ReloadError, Reloaded},
};
use crate::{
    clock::Timestamp,
    config::{ConfigError, Log, Ops},
    ops::{
        Health,
        http::{Endpoint, EndpointError},
    },
};

/// What every daemon's configuration has.
pub trait Settings: Clone + Serialize + DeserializeOwned + Send + Sync + 'static {
    /// Keys and sections that may change while the daemon runs.
    const LIVE: &'static [&'static str];

    fn log(&self) -> &Log;

    fn ops(&self) -> &Ops;
}

/// Why a configuration was not taken; the old one stays in force.
#[derive(Debug, Error)]
pub enum OperationsError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Endpoint(#[from] EndpointError),
    #[error(transparent)]
    Log(#[from] LogError),
    #[error(transparent)]
    Reload(#[from] ReloadError),
}

/// What is known of the process itself.
#[derive(Clone, Debug, Serialize)]
pub struct Process {
    pub version: &'static str,
    pub started_at: Timestamp,
    pub uptime_seconds: u64,
    /// Where health and metrics are served.
    pub ops: Option<SocketAddr>,
    /// Why nothing is acknowledged until the storage takes data again; none if all is well.
    pub storage_waiting: Option<String>,
}

/// For people: one line.
impl fmt::Display for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { version, started_at, .. } = self;
        writeln!(f, "{:<15}version {version}, up since {started_at}", "process")?;
        match &self.storage_waiting {
            None => Ok(()),
            Some(reason) => writeln!(f, "{:<15}waited for: {reason}", "storage"),
        }
    }
}

/// Reads the configuration file.
type Read<C> = Box<dyn Fn() -> Result<C, ConfigError> + Send + Sync>;

/// The process of one daemon.
pub struct Operations<C> {
    pub health: Health,
    read: Read<C>,
    in_force: InForce<C>,
    /// Locked for as long as a reload takes, so that there is one at a time.
    endpoint: Mutex<Endpoint>,
    reports: AbortHandle,
}

impl<C> Drop for Operations<C> {
    fn drop(&mut self) {
        self.reports.abort();
    }
}

impl<C: Settings> Operations<C> {
    /// Opens the endpoint that the configuration asks for; `read` reads it again. From here on the
    /// service manager hears of the daemon.
    pub async fn start(config: C, read: Read<C>, health: Health) -> Result<Self, OperationsError> {
        let endpoint = Endpoint::open(config.ops().listen, health.clone()).await?;
        let reports = tokio::spawn(health.clone().report()).abort_handle();
        let in_force = InForce::new(config, C::LIVE);
        Ok(Self { health, read, in_force, endpoint: Mutex::new(endpoint), reports })
    }

    /// The configuration in force.
    pub fn config(&self) -> C {
        self.in_force.config()
    }

    /// One part of the configuration in force, now and whenever it changes.
    pub fn part<T>(&self, of: impl Fn(&C) -> T + Send + Sync + 'static) -> watch::Receiver<T>
    where
        T: PartialEq + Send + Sync + 'static,
    {
        self.in_force.part(of)
    }

    /// What `status` says of the process.
    pub async fn process(&self) -> Process {
        Process {
            version: self.health.version(),
            started_at: self.health.started(),
            uptime_seconds: self.health.uptime().as_secs(),
            ops: self.endpoint.lock().await.address(),
            storage_waiting: self.health.storage_waiting(),
        }
    }

    /// Reads the configuration again and puts into force what may change now. After an error
    /// everything is as it was.
    pub async fn reload(&self) -> Result<Reloaded, OperationsError> {
        let mut endpoint = self.endpoint.lock().await;
        let reload = async {
            let (next, reloaded) = self.in_force.with(&(self.read)()?)?;
            endpoint.move_to(next.ops().listen).await?;
            change_log(next.log())?;
            self.in_force.put(next);
            Ok(reloaded)
        };
        let done: Result<Reloaded, OperationsError> = self.health.reloading(reload).await;
        match &done {
            Ok(Reloaded { applied, needs_restart }) => {
                let (applied, needs_restart) = (applied.join(", "), needs_restart.join(", "));
                tracing::info!(applied, needs_restart, "the configuration was read again");
            }
            Err(error) => {
                tracing::error!(%error, "the configuration is refused; the old one stays in force");
            }
        }
        done
    }

    /// Reloads at each of the signals; never ends.
    pub async fn reload_at(&self, mut signals: Option<Signal>) {
        loop {
            received(&mut signals).await;
            // What came of it was logged.
            drop(self.reload().await);
        }
    }
}
