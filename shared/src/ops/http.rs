//! The endpoint for this machine's monitoring: GET /livez, /readyz and /metrics, over HTTP/1.1 without
//! TLS. Bounded in connections, size and time; takes no body, changes nothing, and asks nobody who
//! they are, so that it belongs on a loopback address.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use axum::{
    Router,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto::Builder,
    service::TowerToHyperService,
};
use prometheus_client::encoding::text::encode;
use thiserror::Error;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    task::{AbortHandle, spawn_blocking},
    time::{sleep, timeout},
};

use super::Health;

/// Open connections at most; more are closed at once.
const CONNECTIONS: usize = 16;
/// How long the head of a request may take to arrive.
const HEAD: Duration = Duration::from_secs(5);
/// The most bytes of a request's head, and of what is buffered of an answer.
const BUFFER: usize = 16 << 10;
/// How long a connection may last, the answer included.
const CONNECTION: Duration = Duration::from_secs(30);

/// How long the metrics may take to be collected.
const COLLECT: Duration = Duration::from_secs(10);

/// What Prometheus calls the text format of OpenMetrics 1.0.
const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Why the endpoint cannot be opened.
#[derive(Debug, Error)]
#[error("{address} cannot be opened: {source}; choose another address (ops.listen), or none")]
pub struct EndpointError {
    address: SocketAddr,
    source: io::Error,
}

/// The endpoint, served until it is dropped.
pub struct Endpoint {
    health: Health,
    served: Option<Served>,
}

struct Served {
    asked: SocketAddr,
    bound: SocketAddr,
    task: AbortHandle,
}

impl Drop for Served {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Endpoint {
    /// Opens `listen` and serves it; none: serves nothing.
    pub async fn open(listen: Option<SocketAddr>, health: Health) -> Result<Self, EndpointError> {
        let mut endpoint = Self { health, served: None };
        endpoint.move_to(listen).await?;
        Ok(endpoint)
    }

    /// Serves another address instead. If that one cannot be opened, everything stays as it was.
    pub async fn move_to(&mut self, listen: Option<SocketAddr>) -> Result<(), EndpointError> {
        if self.served.as_ref().map(|served| served.asked) == listen {
            return Ok(());
        }
        let Some(asked) = listen else {
            self.served = None;
            return Ok(());
        };
        let refused = |source| EndpointError { address: asked, source };
        let listener = TcpListener::bind(asked).await.map_err(refused)?;
        let bound = listener.local_addr().map_err(refused)?;
        let task = tokio::spawn(accept_all(listener, self.health.clone())).abort_handle();
        tracing::info!(address = %bound, "health and metrics are served");
        self.served = Some(Served { asked, bound, task });
        Ok(())
    }

    /// Where it is served; port 0 in the configuration means any.
    pub fn address(&self) -> Option<SocketAddr> {
        self.served.as_ref().map(|served| served.bound)
    }
}

async fn accept_all(listener: TcpListener, health: Health) {
    let router = Router::new()
        .route("/livez", get(livez))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .with_state(health);
    let slots = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Out of file descriptors, perhaps: trying again at once would only spin.
                tracing::debug!(%error, "no connection to the endpoint");
                sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let Ok(slot) = Arc::clone(&slots).try_acquire_owned() else { continue };
        let router = router.clone();
        tokio::spawn(async move {
            if timeout(CONNECTION, serve(stream, router)).await.is_err() {
                tracing::debug!("a connection to the endpoint took too long");
            }
            drop(slot);
        });
    }
}

/// One connection, one request, one answer.
async fn serve(stream: TcpStream, router: Router) {
    let mut http = Builder::new(TokioExecutor::new()).http1_only();
    http.http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .max_buf_size(BUFFER)
        .keep_alive(false);
    let served = http.serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    if let Err(error) = served.await {
        tracing::debug!(%error, "a request to the endpoint");
    }
}

async fn livez(State(health): State<Health>) -> Response {
    match health.live().await {
        Ok(state) => (StatusCode::OK, format!("{state}\n")).into_response(),
        Err(reason) => (StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n")).into_response(),
    }
}

async fn readyz(State(health): State<Health>) -> Response {
    match health.ready().await {
        Ok(()) => (StatusCode::OK, "ready\n").into_response(),
        Err(reason) => (StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n")).into_response(),
    }
}

async fn metrics(State(health): State<Health>) -> Response {
    let text = spawn_blocking(move || {
        let mut text = String::new();
        encode(&mut text, &health.metrics()).map(|()| text)
    });
    match timeout(COLLECT, text).await {
        Ok(Ok(Ok(text))) => ([(header::CONTENT_TYPE, OPENMETRICS)], text).into_response(),
        _ => (StatusCode::SERVICE_UNAVAILABLE, "the metrics cannot be collected\n").into_response(),
    }
}
