//! The TCP connection below a channel to the coordinator: made directly, or through a proxy's
//! tunnel. Knows nothing of TLS, which tonic puts on top of either.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use http::Uri;
use hyper_util::{client::legacy::connect::HttpConnector, rt::TokioIo};
use tokio::net::TcpStream;
use tower_service::Service;

use super::proxy::{Proxy, TunnelError};

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Silence on a connection after which the system asks whether the other end is still there.
const KEEPALIVE: Duration = Duration::from_secs(60);
/// Where the coordinator listens if its address does not say so.
pub(super) const HTTPS: u16 = 443;

/// Makes connections.
#[derive(Clone)]
pub(super) struct Connector {
    tcp: HttpConnector,
    proxy: Option<Arc<Proxy>>,
}

impl Connector {
    pub(super) fn new(proxy: Option<Proxy>) -> Self {
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        tcp.set_keepalive(Some(KEEPALIVE));
        Self { tcp, proxy: proxy.map(Arc::new) }
    }

    /// The proxy's address, for people.
    pub(super) fn proxy(&self) -> Option<String> {
        self.proxy.as_ref().map(|proxy| proxy.name())
    }
}

impl Service<Uri> for Connector {
    type Response = TokioIo<TcpStream>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<TokioIo<TcpStream>, BoxError>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.tcp.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, coordinator: Uri) -> Self::Future {
        let Some(proxy) = self.proxy.clone() else {
            let connecting = self.tcp.call(coordinator);
            return Box::pin(async move { Ok(connecting.await?) });
        };
        let connecting = self.tcp.call(proxy.uri().clone());
        Box::pin(async move {
            let line = connecting.await.map_err(|source| TunnelError::Unreachable {
                proxy: proxy.name(),
                source: source.into(),
            })?;
            let host = coordinator.host().unwrap_or_default();
            let target = format!("{host}:{}", coordinator.port_u16().unwrap_or(HTTPS));
            Ok(proxy.tunnel(line, &target).await?)
        })
    }
}
