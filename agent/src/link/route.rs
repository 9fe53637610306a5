//! The way to the coordinator, put together from configuration and keys: address, proxy, whom TLS
//! believes, and how the institution proves who it is. Connects only when asked to.

use std::{sync::Arc, time::Duration};

use thiserror::Error;
use tonic::transport::{self, Endpoint};

use super::{
    connector::Connector,
    courier::{CallSigner, Courier},
    proxy::{Proxy, ProxyError},
    trust::{self, TrustError},
};
use crate::config::{CoordinatorUrl, network::Network};

/// How long a connection may take to be made: TCP, the proxy's tunnel, and TLS.
const CONNECT: Duration = Duration::from_secs(10);
/// How often the connection is tried while nothing is sent, and how long the answer may take.
const PING: Duration = Duration::from_secs(20);
const PONG: Duration = Duration::from_secs(10);
/// How much of one download, and of all answers together, may be on its way unread, in bytes: enough to
/// fill a line of 300 Mbit/s at 50 ms.
const STREAM_WINDOW: u32 = 2 << 20;
const CONNECTION_WINDOW: u32 = 3 << 20;
/// The largest HTTP/2 frame that is accepted, in bytes: fewer of them than with the 16 KiB of RFC 9113.
const FRAME: u32 = 128 << 10;

/// Why there is no way to the coordinator.
#[derive(Debug, Error)]
pub enum RouteError {
    #[error(transparent)]
    Proxy(#[from] ProxyError),
    #[error(transparent)]
    Trust(#[from] TrustError),
    #[error(
        "the TLS material in keys/ and certs/ cannot be used: {0}; enrol again in a new directory"
    )]
    Tls(#[from] transport::Error),
}

/// How this agent proves who it is.
pub enum Credential {
    /// With nothing: enrolment.
    None,
    /// By a TLS client certificate.
    Certificate(transport::Identity),
    /// By a signature over each call.
    Signature(CallSigner),
}

/// How the coordinator is reached. Clones lead the same way over connections of their own.
#[derive(Clone)]
pub struct Route {
    endpoint: Endpoint,
    connector: Connector,
    signer: Option<Arc<CallSigner>>,
}

impl Route {
    /// The way to `coordinator`, whose CA from the invitation is `pinned` (PEM). Reads the files that
    /// `network` names, and the environment's proxy where it says so.
    pub fn new(
        network: &Network,
        coordinator: &CoordinatorUrl,
        pinned: &str,
        credential: Credential,
    ) -> Result<Self, RouteError> {
        let endpoint = Endpoint::from_shared(coordinator.as_str().to_owned())?;
        let proxy = Proxy::of(network, endpoint.uri())?;
        let mut tls = trust::tls(network, pinned)?.timeout(CONNECT);
        let mut signer = None;
        match credential {
            Credential::None => {}
            Credential::Certificate(client) => tls = tls.identity(client),
            Credential::Signature(calls) => signer = Some(Arc::new(calls)),
        }
        let endpoint = endpoint
            .tls_config(tls)?
            .connect_timeout(CONNECT)
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_frame_size(FRAME)
            .http2_keep_alive_interval(PING)
            .keep_alive_timeout(PONG)
            .keep_alive_while_idle(true);
        Ok(Self { endpoint, connector: Connector::new(proxy), signer })
    }

    /// The same way, on which each call ends within `deadline`.
    pub(crate) fn within(self, deadline: Duration) -> Self {
        Self { endpoint: self.endpoint.timeout(deadline), ..self }
    }

    /// Without TLS or a proxy.
    #[cfg(test)]
    pub(super) fn plain(coordinator: transport::Uri) -> Self {
        let endpoint = Endpoint::from(coordinator);
        Self { endpoint, connector: Connector::new(None), signer: None }
    }

    /// The proxy's `HOST:PORT`, if there is one.
    pub fn proxy(&self) -> Option<String> {
        self.connector.proxy()
    }

    /// Connects when something is sent, and again when the connection broke. Must be called inside a
    /// tokio runtime.
    pub(crate) fn lazy(&self) -> Courier {
        let channel = self.endpoint.connect_with_connector_lazy(self.connector.clone());
        Courier::new(channel, self.signer.clone())
    }

    /// Connects now.
    pub(crate) async fn connect(&self) -> Result<Courier, transport::Error> {
        let channel = self.endpoint.connect_with_connector(self.connector.clone()).await?;
        Ok(Courier::new(channel, self.signer.clone()))
    }
}
