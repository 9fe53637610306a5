//! A running coordinator: the owner, the wire and the control socket, from start to drained stop.

use std::{path::Path, sync::Arc, time::Duration};

use anyhow::Context;
use collegium_shared::{
    clock::{Clock, Timestamp},
    control, durable,
    journal::JournalError,
    ops::{Health, pulse},
    service::{catch, operations::Operations},
    storage::{self, Ended, REOPEN_PAUSE, REOPENS, Storage},
};
use rustls::ServerConfig;
use tokio::{signal::unix::SignalKind, sync::watch, time::sleep};
use tokio_stream::StreamExt;

use crate::{
    admin::AdminRequest,
    ca::Ca,
    config::Config,
    driver::{Driver, Handle},
    gate::{Gate, GateLayer},
    listener::{self, IsRevoked, ListenerError, traffic::Counted},
    metrics::Monitor,
    rpc::Rpc,
};

/// How long open calls may go on when everything else has ended: long polls end by themselves only
/// after their patience, and a stop does not wait for that.
const CALLS: Duration = Duration::from_secs(2);

/// HTTP/2 windows: what a peer may send before it is read, in bytes, for one call and for one
/// connection. More makes no upload faster on a line of up to 20 Mbit/s and 100 ms, and each
/// institution that sends may fill it.
const STREAM_WINDOW: u32 = 256 << 10;
const CONNECTION_WINDOW: u32 = 512 << 10;
/// The longest frame: fewer, larger ones cost less, and other calls wait for one at most.
const FRAME: u32 = 64 << 10;
/// Calls that may be open at the same time over one connection; half of them may be worked on.
const MAX_STREAMS: u32 = 64;
/// The most bytes of a call's metadata.
const MAX_HEADERS: u32 = 16 << 10;

/// What every call passes first.
fn gate(config: &Config, handle: &Handle, clock: &Clock) -> GateLayer {
    let signed = config.listener.signed_requests;
    let patience = config.limits.stall_time();
    GateLayer(Arc::new(Gate::new(handle.clone(), clock.clone(), signed, patience)))
}

/// How often, and after what pauses, a port that this process held before is asked for.
const REBINDS: u32 = 100;
const REBIND_PAUSE: Duration = Duration::from_millis(50);

/// Where the control socket lies.
pub fn control_socket(dir: &Path) -> std::path::PathBuf {
    dir.join("run").join("control.sock")
}

/// Serves the directory until `shutdown`. When the storage is full or failing, everything is closed, and
/// opened anew as at a start once it takes data again.
pub async fn serve(dir: &Path, shutdown: impl Future<Output = ()>) -> anyhow::Result<()> {
    serve_at(dir, Clock::system(), shutdown).await
}

/// As [`serve`], by another clock.
pub async fn serve_at(
    dir: &Path,
    clock: Clock,
    shutdown: impl Future<Output = ()>,
) -> anyhow::Result<()> {
    let hangups = catch(SignalKind::hangup());
    let config = Config::load(dir)?;
    let storage = Storage::new([dir.to_owned(), dir.join("journal")]);
    let (program, version) = ("collegium-coordinator", env!("CARGO_PKG_VERSION"));
    let health = Health::starting(program, version, clock.clone(), storage.clone());
    let home = dir.to_owned();
    let read = Box::new(move || Config::load(&home));
    let operations = Arc::new(Operations::start(config, read, health).await?);
    let (stop, stopped) = watch::channel(false);
    let work = serve_and_recover(dir, &operations, &storage, clock, stopped);
    tokio::pin!(work);
    tokio::select! {
        result = &mut work => return result,
        () = operations.reload_at(hangups) => {}
        () = shutdown => {}
    }
    operations.health.stopping();
    stop.send_replace(true);
    work.await
}

async fn serve_and_recover(
    dir: &Path,
    operations: &Arc<Operations<Config>>,
    storage: &Storage,
    clock: Clock,
    stopped: watch::Receiver<bool>,
) -> anyhow::Result<()> {
    let (mut again, mut reopens) = (false, REOPENS);
    loop {
        let stop = asked(stopped.clone());
        let run = serve_once(dir, operations, storage, clock.clone(), again, stop);
        let opened = std::mem::replace(&mut again, true);
        let error = match run.await {
            Ok(Ended::Recovered) => continue,
            Ok(Ended::Stopped) => return Ok(()),
            Err(error) if opened && reopens > 0 && in_use(&error) => {
                if reopens == REOPENS {
                    tracing::warn!("a command has opened the directory; going on when it is done");
                }
                reopens -= 1;
                tokio::select! {
                    () = sleep(REOPEN_PAUSE) => continue,
                    () = asked(stopped.clone()) => return Ok(()),
                }
            }
            Err(error) if storage::trouble(error.as_ref()).is_some() => error,
            Err(error) => return Err(error),
        };
        tokio::select! {
            () = storage.recovered(format!("{error:#}")) => {}
            () = asked(stopped.clone()) => return Err(error),
        }
    }
}

fn in_use(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref(), Some(JournalError::InUse(_)))
}

/// Resolves when a stop is asked for. A sender that is gone is a stop as well.
async fn asked(mut stopped: watch::Receiver<bool>) {
    drop(stopped.wait_for(|stop| *stop).await);
}

/// From opening everything to closing it. Writes the address that it listens on to `run/address`.
async fn serve_once(
    dir: &Path,
    operations: &Arc<Operations<Config>>,
    storage: &Storage,
    clock: Clock,
    again: bool,
    shutdown: impl Future<Output = ()>,
) -> anyhow::Result<Ended> {
    operations.health.opening();
    let config = operations.config();
    let (driver, handle) = Driver::open(dir, &config, clock.clone())?;
    let gate = gate(&config, &handle, &clock);
    let (pulse, beat) = pulse();
    let monitor = Monitor::new(handle.clone(), pulse, clock.clone());
    let names = operations.part(|config| config.names.clone());
    let tls = listener::tls_config(handle.ca.clone(), names, clock, is_revoked(&handle))?;
    let (address, incoming) = bind(&config, &tls, again).await?;
    let control = control::Listener::bind(&control_socket(dir)).await?;
    durable::write(&dir.join("run").join("address"), format!("{address}\n").as_bytes())
        .context("cannot write the address file")?;
    tracing::info!(%address, "serving");

    let (stop, stopped) = watch::channel(false);
    let owner = tokio::spawn(beat.during(driver.run(storage.clone(), asked(stopped.clone()))));
    let (admin, operated) = (handle.clone(), Arc::clone(operations));
    let answer = move |request: AdminRequest| {
        let (admin, operations) = (admin.clone(), Arc::clone(&operated));
        async move { answer(&admin, &operations, request).await }
    };
    let control = tokio::spawn(control.serve(answer, asked(stopped.clone())));
    let meters = handle.meters.clone();
    let incoming = incoming.map(move |made| made.map(|made| Counted::new(made, meters.clone())));
    let patience = operations.part(Config::poll_patience);
    let (enrolment, federation) = Rpc::new(handle, patience).services();
    // A frame that drips in keeps its sender from answering a ping.
    let stall = config.limits.stall_time();
    let server = tonic::transport::Server::builder()
        .http2_keepalive_interval(Some(stall / 2))
        .http2_keepalive_timeout(Some(stall / 3))
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_frame_size(FRAME)
        .concurrency_limit_per_connection(32)
        .max_concurrent_streams(MAX_STREAMS)
        .http2_max_header_list_size(MAX_HEADERS)
        .layer(gate)
        .add_service(enrolment)
        .add_service(federation)
        .serve_with_incoming_shutdown(incoming, asked(stopped));
    let mut server = tokio::spawn(server);
    operations.health.serving(Arc::new(monitor));

    let owner = wait(owner, shutdown, &stop, operations).await?;
    if tokio::time::timeout(CALLS, &mut server).await.is_err() {
        server.abort();
        drop(server.await);
        tracing::debug!("calls that were still open were cut off");
    }
    drop(tokio::time::timeout(operations.config().shutdown_time(), control).await);
    owner
}

fn is_revoked(handle: &Handle) -> IsRevoked {
    let handle = handle.clone();
    Arc::new(move |peer| handle.published().network.is_revoked(&peer.institution))
}

/// Opens the port.
async fn bind(
    config: &Config,
    tls: &Arc<ServerConfig>,
    again: bool,
) -> Result<listener::Bound, ListenerError> {
    let bind = || listener::bind(config.listen, Arc::clone(tls), config.limits.listener());
    let mut bound = bind().await;
    // The run before may hold the port for a moment.
    for _ in 0..REBINDS {
        if !(again && matches!(bound, Err(ListenerError::InUse(_)))) {
            break;
        }
        sleep(REBIND_PAUSE).await;
        bound = bind().await;
    }
    bound
}

/// Carries out one request of the control socket: by the process, or by the owner of the data.
async fn answer(
    admin: &Handle,
    operations: &Operations<Config>,
    request: AdminRequest,
) -> Result<serde_json::Value, String> {
    match request {
        AdminRequest::Reload => {
            let reloaded = operations.reload().await.map_err(|error| error.to_string())?;
            serde_json::to_value(reloaded).map_err(|error| error.to_string())
        }
        AdminRequest::Status => {
            let mut status = admin.admin(AdminRequest::Status).await?;
            status["process"] = serde_json::to_value(operations.process().await)
                .map_err(|error| error.to_string())?;
            Ok(status)
        }
        other => admin.admin(other).await,
    }
}

/// Waits for the stop or for the owner's failure; the owner always ends first, so that whatever was
/// acknowledged is durable.
async fn wait(
    mut owner: tokio::task::JoinHandle<Result<Ended, JournalError>>,
    shutdown: impl Future<Output = ()>,
    stop: &watch::Sender<bool>,
    operations: &Operations<Config>,
) -> anyhow::Result<anyhow::Result<Ended>> {
    let ended = tokio::select! {
        ended = &mut owner => Some(ended),
        () = shutdown => None,
    };
    stop.send_replace(true);
    let ended = match ended {
        Some(ended) => ended,
        None => tokio::time::timeout(operations.config().shutdown_time(), owner)
            .await
            .context("the journal did not close in time")?,
    };
    Ok(ended.context("the owner of the journal failed")?.context("the journal refused an event"))
}

/// Carries out one request: by the running coordinator, or, if there is none, by opening the
/// directory for a moment.
pub async fn ask(dir: &Path, request: AdminRequest) -> anyhow::Result<serde_json::Value> {
    match control::call(&control_socket(dir), &request).await {
        Err(control::ControlError::NotRunning { .. }) => {}
        other => return Ok(other?),
    }
    let config = Config::load(dir)?;
    let (driver, _) = Driver::open(dir, &config, Clock::system())?;
    driver.once(request)?.map_err(anyhow::Error::msg)
}

/// Makes a new coordinator directory: CA, signing key, commented config.
pub fn init(
    dir: &Path,
    listen: std::net::SocketAddr,
    now: Timestamp,
) -> anyhow::Result<collegium_shared::crypto::VerifyingKey> {
    use collegium_shared::{crypto, files::Setup};
    let setup = Setup::begin(dir, crate::config::CONFIG_FILE)?;
    Ca::create(setup.path(), now)?;
    let key = crypto::SigningKey::create(&setup.path().join(crate::SIGNING_KEY))?;
    let name = hex::encode(crypto::random::<4>()?);
    let config = {
        let origin = format!("collegium.network/{name}");
        crate::config::sample(listen, &crate::config::default_names(), &origin)
    };
    durable::write(&setup.path().join(crate::config::CONFIG_FILE), config.as_bytes())?;
    setup.commit()?;
    Ok(key.verifying_key())
}
