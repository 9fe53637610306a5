//! What stands between an institution and the coordinator: an HTTP proxy that is asked to CONNECT,
//! and a proxy that ends TLS and calls on by itself. Both run on threads of their own, on the
//! loopback, and count what passes. Small, but real second hops: nothing of the programs under test
//! is in them.

use std::{
    convert::Infallible,
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
};

use anyhow::{Context as _, anyhow};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional},
    net::{TcpListener, TcpStream},
    runtime::Runtime,
};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{
    Status,
    body::Body,
    codegen::{Service, http},
    server::NamedService,
    transport::{Channel, Identity, Server, ServerTlsConfig},
};

use crate::participant::channel;

/// The most bytes of a request to CONNECT.
const MAX_HEAD: usize = 8 << 10;

fn runtime() -> anyhow::Result<Runtime> {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    builder.worker_threads(1).enable_all().build().context("no threads for a proxy")
}

/// What an HTTP proxy lets through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    Everybody,
    /// Only with this header: user and password in base64.
    Password(&'static str),
    Nobody,
}

/// An HTTP proxy that tunnels; it ends when this is dropped.
pub struct ConnectProxy {
    address: SocketAddr,
    tunnels: Arc<AtomicUsize>,
    _runtime: Runtime,
}

impl ConnectProxy {
    pub fn start(rule: Rule) -> anyhow::Result<Self> {
        let (runtime, tunnels) = (runtime()?, Arc::<AtomicUsize>::default());
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0"))?;
        let address = listener.local_addr()?;
        let counted = Arc::clone(&tunnels);
        runtime.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let counted = Arc::clone(&counted);
                // A line that breaks is what its ends find out by themselves.
                tokio::spawn(async move { drop(tunnel(stream, rule, &counted).await) });
            }
        });
        Ok(Self { address, tunnels, _runtime: runtime })
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// How many tunnels were made.
    pub fn tunnels(&self) -> usize {
        self.tunnels.load(Ordering::Relaxed)
    }
}

async fn tunnel(mut near: TcpStream, rule: Rule, tunnels: &AtomicUsize) -> anyhow::Result<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") && head.len() < MAX_HEAD {
        head.push(near.read_u8().await?);
    }
    let head = String::from_utf8(head)?;
    let mut lines = head.lines();
    let mut words = lines.next().unwrap_or_default().split(' ');
    let (method, target) = (words.next(), words.next().unwrap_or_default());
    let given = lines.filter_map(|line| line.split_once(": ")).find_map(|(name, value)| {
        name.eq_ignore_ascii_case("proxy-authorization").then(|| value.to_owned())
    });
    let answer = match rule {
        _ if method != Some("CONNECT") => "405 Method Not Allowed",
        Rule::Nobody => "403 Forbidden",
        Rule::Password(wanted) if given != Some(format!("Basic {wanted}")) => {
            "407 Proxy Authentication Required"
        }
        Rule::Everybody | Rule::Password(_) => "200 Connection Established",
    };
    if !answer.starts_with("200") {
        let refusal = format!("HTTP/1.1 {answer}\r\nContent-Length: 0\r\n\r\n");
        return Ok(near.write_all(refusal.as_bytes()).await?);
    }
    let mut far = TcpStream::connect(target).await?;
    near.write_all(format!("HTTP/1.1 {answer}\r\n\r\n").as_bytes()).await?;
    tunnels.fetch_add(1, Ordering::Relaxed);
    copy_bidirectional(&mut near, &mut far).await?;
    Ok(())
}

/// A proxy that ends TLS with an authority of its own and calls the coordinator over TLS of its own,
/// without any client certificate; it ends when this is dropped.
pub struct InspectingProxy {
    address: SocketAddr,
    /// Its authority's certificate, PEM.
    pub ca: String,
    calls: Arc<AtomicUsize>,
    _runtime: Runtime,
}

impl InspectingProxy {
    /// In front of the coordinator at `url`, whose authority is `coordinator_ca`.
    pub fn start(url: &str, coordinator_ca: &str) -> anyhow::Result<Self> {
        let (ca, identity) = authority()?;
        let (runtime, calls) = (runtime()?, Arc::<AtomicUsize>::default());
        let entered = runtime.enter();
        let far = channel(url, coordinator_ca, None)?;
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0"))?;
        let address = listener.local_addr()?;
        let server = Server::builder()
            .tls_config(ServerTlsConfig::new().identity(identity))?
            .add_service(Forward::<true> { far: far.clone(), calls: Arc::clone(&calls) })
            .add_service(Forward::<false> { far, calls: Arc::clone(&calls) });
        runtime.spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
        drop(entered);
        Ok(Self { address, ca, calls, _runtime: runtime })
    }

    pub fn url(&self) -> String {
        format!("https://{}", self.address)
    }

    /// How many calls came.
    pub fn calls(&self) -> usize {
        self.calls.load(Ordering::Relaxed)
    }
}

/// An authority, PEM, and a server of its own on the loopback.
fn authority() -> anyhow::Result<(String, Identity)> {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
    let key = KeyPair::generate()?;
    let server = CertificateParams::new(vec!["127.0.0.1".to_owned()])?.signed_by(&key, &issuer)?;
    Ok((issuer.pem(), Identity::from_pem(server.pem(), key.serialize_pem())))
}

/// Passes the calls of one service on as they are.
#[derive(Clone)]
struct Forward<const ENROLMENT: bool> {
    far: Channel,
    calls: Arc<AtomicUsize>,
}

impl NamedService for Forward<true> {
    const NAME: &'static str = "collegium.v1.Enrolment";
}

impl NamedService for Forward<false> {
    const NAME: &'static str = "collegium.v1.Federation";
}

type Answer = Result<http::Response<Body>, Infallible>;

impl<const ENROLMENT: bool> Service<http::Request<Body>> for Forward<ENROLMENT> {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Answer> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        self.calls.fetch_add(1, Ordering::Relaxed);
        let mut far = self.far.clone();
        Box::pin(async move {
            let answer = match std::future::poll_fn(|cx| far.poll_ready(cx)).await {
                Ok(()) => far.call(request).await,
                Err(error) => Err(error),
            };
            let unavailable = |error| Status::unavailable(anyhow!("{error}").to_string());
            Ok(answer.unwrap_or_else(|error| unavailable(error).into_http()))
        })
    }
}
