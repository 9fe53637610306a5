//! What systemd is told (sd_notify(3)): ready, reloading, stopping, alive, and a line on what goes on.
//! Nothing if nobody asked for it (`NOTIFY_SOCKET`). The only place that reads the service manager's
//! variables; they are never written.

use std::{env, io, os::unix::net::UnixDatagram, time::Duration};

use sd_notify::NotifyState;

/// Where the service manager listens.
const SOCKET: &str = "NOTIFY_SOCKET";
/// How long it may take to take a message.
const TELLING: Duration = Duration::from_millis(200);
/// How often the status line is brought up to date where no watchdog asks for more.
const STATUS: Duration = Duration::from_secs(10);

/// How often there is something to tell: at half of the watchdog's time, as sd_watchdog_enabled(3)
/// advises. None if nobody listens.
pub(super) fn period() -> Option<Duration> {
    env::var_os(SOCKET)?;
    Some(sd_notify::watchdog_enabled().map_or(STATUS, |watchdog| (watchdog / 2).min(STATUS)))
}

pub(super) fn ready(status: &str) {
    tell(&[NotifyState::Ready, NotifyState::Status(&line(status))]);
}

pub(super) fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => tell(&[NotifyState::Reloading, now]),
        Err(error) => failed(&error),
    }
}

pub(super) fn stopping() {
    tell(&[NotifyState::Stopping, NotifyState::Status("stopping")]);
}

pub(super) fn alive() {
    if sd_notify::watchdog_enabled().is_some() {
        tell(&[NotifyState::Watchdog]);
    }
}

pub(super) fn status(status: &str) {
    tell(&[NotifyState::Status(&line(status))]);
}

/// A status is one line.
fn line(status: &str) -> String {
    status.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = send(states) {
        failed(&error);
    }
}

/// As `sd_notify::notify`, but a service manager that does not read holds nobody up for long.
fn send(states: &[NotifyState<'_>]) -> io::Result<()> {
    let Some(path) = env::var_os(SOCKET) else { return Ok(()) };
    let socket = UnixDatagram::unbound()?;
    socket.set_write_timeout(Some(TELLING))?;
    socket.connect(path)?;
    let message: String = states.iter().map(|state| format!("{state}\n")).collect();
    socket.send(message.as_bytes()).map(drop)
}

fn failed(error: &io::Error) {
    tracing::warn!(%error, "the service manager could not be told");
}
