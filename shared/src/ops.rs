//! How a daemon shows that it is well: to the service manager (systemd), to probes and to Prometheus.
//! Owns the daemon's state as others see it and asks the owner of its data whether it still
//! answers; knows nothing of what the daemon does.

pub mod http;
mod notify;
mod process;
mod pulse;

use std::{pin::Pin, sync::Arc, time::Duration};

use prometheus_client::{
    metrics::{gauge::ConstGauge, info::Info},
    registry::Registry,
};
use tokio::sync::watch;

pub use pulse::{Beat, Pulse, pulse};

use crate::{
    clock::{Clock, Timestamp},
    storage::Storage,
};

/// How long the owner of a daemon's data may take to answer: a slow disk may hold it up for seconds.
const PATIENCE: Duration = Duration::from_secs(10);

/// A daemon in service.
pub trait Daemon: Send + Sync + 'static {
    /// Resolves to whether the owner of the data goes about its work; may take for ever if it does not.
    fn answers(&self) -> Pin<Box<dyn Future<Output = bool> + Send + '_>>;

    /// What it does, in one line for an operator.
    fn summary(&self) -> String;

    /// Adds its metrics. May block for a moment.
    fn measure(&self, registry: &mut Registry);
}

/// What a daemon is at.
#[derive(Clone)]
enum State {
    /// The data are being opened, at the start or after trouble with the storage.
    Opening,
    Serving(Arc<dyn Daemon>),
    Stopping,
}

/// A daemon's state as others see it. Cheap to clone; clones are the same.
#[derive(Clone)]
pub struct Health {
    /// The program's name.
    program: &'static str,
    version: &'static str,
    started: Timestamp,
    clock: Clock,
    /// Within this time the owner of the data answers, or it counts as stuck.
    patience: Duration,
    storage: Storage,
    state: Arc<watch::Sender<State>>,
}

impl Health {
    /// A daemon that starts now and keeps its data in `storage`.
    pub fn starting(
        program: &'static str,
        version: &'static str,
        clock: Clock,
        storage: Storage,
    ) -> Self {
        let state = Arc::new(watch::Sender::new(State::Opening));
        let started = clock.now();
        Self { program, version, started, clock, patience: PATIENCE, storage, state }
    }

    pub fn version(&self) -> &'static str {
        self.version
    }

    /// When the process came to life.
    pub fn started(&self) -> Timestamp {
        self.started
    }

    /// What of the storage is waited for, if anything.
    pub fn storage_waiting(&self) -> Option<String> {
        self.storage.waiting()
    }

    pub fn uptime(&self) -> Duration {
        self.clock.now().since(self.started)
    }

    /// Everything is open and served.
    pub fn serving(&self, daemon: Arc<dyn Daemon>) {
        let status = daemon.summary();
        self.go_on(State::Serving(daemon), || notify::ready(&status));
    }

    /// The data are opened, at the start or after trouble with the storage.
    pub fn opening(&self) {
        self.go_on(State::Opening, || {});
    }

    /// Changes the state and tells of it, unless the daemon stops. Told while the state is held: nobody
    /// hears that the daemon is ready after hearing that it stops.
    fn go_on(&self, next: State, tell: impl FnOnce()) {
        self.state.send_if_modified(|state| {
            let goes_on = !matches!(state, State::Stopping);
            if goes_on {
                *state = next;
                tell();
            }
            goes_on
        });
    }

    /// The daemon was asked to stop, and drains.
    pub fn stopping(&self) {
        self.state.send_replace(State::Stopping);
        notify::stopping();
    }

    /// Tells the service manager of a reload for as long as `work` takes.
    pub async fn reloading<T>(&self, work: impl Future<Output = T>) -> T {
        notify::reloading();
        let done = work.await;
        let summary = self.summary();
        // Held while it is told, as in `go_on`.
        let state = self.state.borrow();
        if !matches!(*state, State::Stopping) {
            notify::ready(&summary);
        }
        drop(state);
        done
    }

    /// Tells the service manager that the daemon lives, as often as it wants to hear that, and what
    /// it does. Only while the owner of the data answers. Ends with the stop.
    pub async fn report(self) {
        if let Some(period) = notify::period() {
            self.report_every(period, notify::alive, notify::status).await;
        }
    }

    async fn report_every(self, period: Duration, alive: impl Fn(), say: impl Fn(&str)) {
        let (mut state, mut waiting) = (self.state.subscribe(), self.storage.watch());
        let mut said = String::new();
        loop {
            tokio::select! {
                () = tokio::time::sleep(period) => {}
                // Both senders live in `self`.
                _ = state.changed() => {}
                _ = waiting.changed() => {}
            }
            if matches!(*state.borrow_and_update(), State::Stopping) {
                return;
            }
            match self.live().await {
                Ok(_) => alive(),
                Err(reason) => {
                    tracing::error!(reason, "the service manager is not told that all is well");
                }
            }
            let summary = self.summary();
            if summary != said {
                say(&summary);
                said = summary;
            }
        }
    }

    fn state(&self) -> State {
        self.state.borrow().clone()
    }

    /// What the daemon does, in one line.
    pub fn summary(&self) -> String {
        match (self.storage.waiting(), self.state()) {
            (Some(reason), _) => format!("waiting for storage: {reason}"),
            (None, State::Opening) => "opening the data".into(),
            (None, State::Serving(daemon)) => daemon.summary(),
            (None, State::Stopping) => "stopping".into(),
        }
    }

    /// Whether the process should be left running, or why not.
    async fn live(&self) -> Result<String, &'static str> {
        match (self.storage.waiting(), self.state()) {
            (None, State::Serving(daemon)) => {
                match tokio::time::timeout(self.patience, daemon.answers()).await {
                    Ok(true) => Ok("live".into()),
                    _ => Err("the owner of the data does not answer"),
                }
            }
            _ => Ok(self.summary()),
        }
    }

    /// Whether requests are served, or why not.
    async fn ready(&self) -> Result<(), String> {
        match (self.storage.waiting(), self.state()) {
            (None, State::Serving(_)) => self.live().await.map(drop).map_err(str::to_owned),
            _ => Err(self.summary()),
        }
    }

    /// All metrics as of now. May block for a moment.
    fn metrics(&self) -> Registry {
        let mut registry = Registry::default();
        let state = self.state();
        let labels = vec![("program", self.program), ("version", self.version)];
        registry.register("collegium_build", "Which program this is", Info::new(labels));
        let flag = |on: bool| ConstGauge::new(i64::from(on));
        let waiting = self.storage.waiting().is_some();
        let serving = matches!(state, State::Serving(_)) && !waiting;
        registry.register("collegium_serving", "Whether requests are served", flag(serving));
        registry.register(
            "collegium_storage_waiting",
            "Whether the daemon waits because the storage is full or failing",
            flag(waiting),
        );
        process::measure(&mut registry, self.started);
        if let State::Serving(daemon) = state {
            daemon.measure(&mut registry);
        }
        registry
    }
}

#[cfg(test)]
mod tests;
