//! The network port: TCP and TLS 1.3 in, authenticated connections out. Owns the limits on who may
//! hold a connection and for how long; never reads a request. A client certificate is optional
//! here, because enrolment has none yet: what needs one asks [`peer`].

mod admission;
mod clients;
mod conduct;
pub(crate) mod traffic;

use std::{
    fmt, io,
    net::{IpAddr, SocketAddr},
    pin::Pin,
    sync::{Arc, Mutex, PoisonError, Weak},
    task::{Context, Poll, ready},
    time::Duration,
};

use collegium_shared::{
    clock::{Clock, Timestamp},
    crypto::Digest,
    ids::InstitutionId,
};
use rustls::{
    ServerConfig,
    crypto::ring,
    server::{ClientHello, NoServerSessionStorage, ResolvesServerCert},
    sign::CertifiedKey,
};
use socket2::{SockRef, TcpKeepalive};
use thiserror::Error;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch},
    time::{Instant, Sleep, sleep, timeout},
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::server::Connected;
use x509_parser::{certificate::X509Certificate, extensions::GeneralName, prelude::FromDer};

use crate::ca::{self, Ca, CaError, INSTITUTION_URI, InForce, ServerCertificate};
pub use admission::Stay;
pub(crate) use admission::{Counted, Counts};
use admission::{Handshake, Handshakes, source};
use clients::Clients;
pub use clients::IsRevoked;
pub use conduct::Conduct;
use conduct::Watchdog;

/// Why the port cannot be opened.
#[derive(Debug, Error)]
pub enum ListenerError {
    #[error(
        "{0} is in use by another program: stop that program, or choose another address (`listen` in coordinator.toml)"
    )]
    InUse(SocketAddr),
    #[error("{0} cannot be opened: {1}; check `listen` in coordinator.toml")]
    Bind(SocketAddr, io::Error),
    #[error("TLS cannot be set up: {0}")]
    Tls(#[from] rustls::Error),
    #[error(transparent)]
    Certificate(#[from] CaError),
    #[error("client certificates cannot be checked: {0}")]
    Verifier(#[from] rustls::server::VerifierBuilderError),
}

/// What one process takes on at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Open connections.
    pub connections: usize,
    /// Of these, connections of one institution.
    pub connections_per_institution: usize,
    /// Open connections without a client certificate, so that strangers cannot keep members out.
    pub strangers: usize,
    /// Of these, connections from one address.
    pub strangers_per_address: usize,
    /// TLS handshakes at the same time.
    pub handshakes: usize,
    /// Of these, handshakes with one address.
    pub handshakes_per_address: usize,
    /// How long a handshake may take.
    pub handshake_time: Duration,
    /// How long a connection without a client certificate may stay: enrolment is one call.
    pub stranger_time: Duration,
    /// How long a connection may keep this side waiting: for its first call, for room to write, and,
    /// as long as its line is not slow, for the taking of a piece of an answer.
    pub stall_time: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 2_048,
            connections_per_institution: 16,
            strangers: 64,
            strangers_per_address: 16,
            handshakes: 256,
            handshakes_per_address: 128,
            handshake_time: Duration::from_secs(10),
            stranger_time: Duration::from_secs(60),
            stall_time: Duration::from_secs(60),
        }
    }
}

/// Who is at the other end, by the verified client certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    pub institution: InstitutionId,
    /// [`ca::key_digest`] of the certificate's key; none if the call itself is signed.
    pub key_digest: Option<Digest>,
}

/// What is known of a connection.
#[derive(Clone)]
pub struct ConnectionInfo {
    pub remote: SocketAddr,
    /// None without a client certificate.
    pub peer: Option<Peer>,
    /// What holds a connection without one back.
    pub stay: Option<Arc<Stay>>,
    /// Lives as long as the connection and the calls over it.
    pub alive: Arc<()>,
    pub conduct: Arc<Conduct>,
}

/// Who sent this request; none if the connection carries no client certificate.
pub fn peer<T>(request: &tonic::Request<T>) -> Option<Peer> {
    request.extensions().get::<ConnectionInfo>()?.peer.clone()
}

/// Gone when the connection that this request came over is closed and its calls have ended.
pub fn connection<T>(request: &tonic::Request<T>) -> Weak<()> {
    let info = request.extensions().get::<ConnectionInfo>();
    info.map(|info| Arc::downgrade(&info.alive)).unwrap_or_default()
}

/// The server's side of TLS with certificates for `names` that are renewed while it runs, and made
/// anew when the names change.
pub fn tls_config(
    ca: InForce,
    names: watch::Receiver<Vec<String>>,
    clock: Clock,
    is_revoked: IsRevoked,
) -> Result<Arc<ServerConfig>, ListenerError> {
    let renewing = Renewing::new(ca.clone(), names, clock.clone())?;
    server_config(Clients::new(ca, clock, is_revoked)?, Arc::new(renewing))
}

/// TLS 1.3 with HTTP/2. Sessions are never resumed, so that every connection proves the key anew.
fn server_config(
    clients: Clients,
    resolver: Arc<dyn ResolvesServerCert>,
) -> Result<Arc<ServerConfig>, ListenerError> {
    let provider = Arc::new(ring::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(Arc::new(clients))
        .with_cert_resolver(resolver);
    config.alpn_protocols = vec![b"h2".to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(Arc::new(config))
}

fn certified(certificate: ServerCertificate) -> Result<CertifiedKey, ListenerError> {
    let ServerCertificate { chain, key } = certificate;
    Ok(CertifiedKey::new(chain, ring::sign::any_ecdsa_type(&key)?))
}

/// The server's certificate, made at start and again long before it expires or when the authority
/// changes, so that a server may run for as long as it likes. Agents pin the authority and do not
/// notice.
struct Renewing {
    ca: InForce,
    names: watch::Receiver<Vec<String>>,
    clock: Clock,
    current: Mutex<Issued>,
}

/// A server's certificate, when it was made, by whom, and for which names.
struct Issued {
    at: Timestamp,
    by: Arc<Ca>,
    names: Vec<String>,
    key: Arc<CertifiedKey>,
}

impl Renewing {
    fn new(
        ca: InForce,
        names: watch::Receiver<Vec<String>>,
        clock: Clock,
    ) -> Result<Self, ListenerError> {
        let issued = certify(ca.current(), names.borrow().clone(), clock.now())?;
        Ok(Self { ca, names, clock, current: Mutex::new(issued) })
    }
}

impl fmt::Debug for Renewing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Renewing").field("names", &*self.names.borrow()).finish_non_exhaustive()
    }
}

impl ResolvesServerCert for Renewing {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let (now, ca) = (self.clock.now(), self.ca.current());
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        let names = self.names.borrow().clone();
        let same = Arc::ptr_eq(&ca, &current.by) && current.names == names;
        if now.since(current.at) > ca::LEAF_LIFETIME / 3 || !same {
            match certify(ca, names, now) {
                Ok(renewed) => *current = renewed,
                Err(error) => tracing::warn!(%error, "the server's certificate was not renewed"),
            }
        }
        Some(Arc::clone(&current.key))
    }
}

fn certify(by: Arc<Ca>, names: Vec<String>, at: Timestamp) -> Result<Issued, ListenerError> {
    let key = Arc::new(certified(by.issue_server(&names, at)?)?);
    Ok(Issued { at, by, names, key })
}

/// The address that was opened, and the stream of connections.
pub type Bound = (SocketAddr, ReceiverStream<io::Result<Connection>>);

/// Opens `address` and returns the address that was opened (port 0 means any) with the stream of
/// connections. Dropping the stream closes the port; the stream itself never ends nor fails.
pub async fn bind(
    address: SocketAddr,
    tls: Arc<ServerConfig>,
    limits: Limits,
) -> Result<Bound, ListenerError> {
    let refused = |error: io::Error| match error.kind() {
        io::ErrorKind::AddrInUse => ListenerError::InUse(address),
        _ => ListenerError::Bind(address, error),
    };
    let listener = TcpListener::bind(address).await.map_err(refused)?;
    let bound = listener.local_addr().map_err(refused)?;
    let (ready, incoming) = mpsc::channel(16);
    let door = Arc::new(Door {
        tls: TlsAcceptor::from(tls),
        connections: Arc::new(Semaphore::new(limits.connections)),
        members: Arc::new(Counts::new(limits.connections_per_institution)),
        strangers: Arc::new(Semaphore::new(limits.strangers)),
        strangers_by_address: Counts::new(limits.strangers_per_address),
        handshakes: Handshakes::new(limits.handshakes, limits.handshakes_per_address),
        limits,
        ready,
    });
    tokio::spawn(accept_all(listener, door));
    Ok((bound, ReceiverStream::new(incoming)))
}

/// What every handshake needs.
struct Door {
    tls: TlsAcceptor,
    connections: Arc<Semaphore>,
    members: Arc<Counts<InstitutionId>>,
    strangers: Arc<Semaphore>,
    strangers_by_address: Counts<IpAddr>,
    handshakes: Handshakes,
    limits: Limits,
    ready: mpsc::Sender<io::Result<Connection>>,
}

async fn accept_all(listener: TcpListener, door: Arc<Door>) {
    let mut pause = FIRST_PAUSE;
    loop {
        // While all handshakes are taken, newcomers wait in the kernel's queue.
        let accepting = async {
            door.handshakes.room().await;
            listener.accept().await
        };
        let accepted = tokio::select! {
            () = door.ready.closed() => return,
            accepted = accepting => accepted,
        };
        match accepted {
            Ok((stream, remote)) => {
                pause = FIRST_PAUSE;
                admit(&door, stream, remote);
            }
            Err(error) if concerns_one_connection(&error) => {
                tracing::debug!(%error, "a connection ended before it was accepted");
            }
            Err(error) => {
                // Out of file descriptors or memory: trying again at once would only spin.
                tracing::warn!(%error, "no connection can be accepted just now");
                sleep(pause).await;
                pause = (pause * 2).min(LAST_PAUSE);
            }
        }
    }
}

const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LAST_PAUSE: Duration = Duration::from_secs(1);

fn concerns_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted)
}

/// Starts the handshake of one connection, or drops it when too many are open.
fn admit(door: &Arc<Door>, stream: TcpStream, remote: SocketAddr) {
    let Ok(permit) = Arc::clone(&door.connections).try_acquire_owned() else {
        tracing::warn!(%remote, limit = door.limits.connections, "too many connections: refused");
        return;
    };
    let Some(slot) = door.handshakes.begin(source(remote), Instant::now()) else {
        tracing::debug!(%remote, "too many handshakes with this address: refused");
        return;
    };
    let door = Arc::clone(door);
    tokio::spawn(async move {
        let connection = within(&slot, handshake(&door, stream, remote, permit)).await;
        drop(slot);
        match connection {
            // Nobody takes it any more: the server is shutting down.
            Ok(connection) => drop(door.ready.send(Ok(connection)).await),
            Err(error) => tracing::debug!(%remote, %error, "no TLS connection"),
        }
    });
}

/// Gives up when others need the room.
async fn within(
    slot: &Handshake,
    handshake: impl Future<Output = io::Result<Connection>>,
) -> io::Result<Connection> {
    tokio::select! {
        result = handshake => result,
        () = slot.cut() => Err(io::Error::other("cut short for others")),
    }
}

async fn handshake(
    door: &Door,
    stream: TcpStream,
    remote: SocketAddr,
    permit: OwnedSemaphorePermit,
) -> io::Result<Connection> {
    stream.set_nodelay(true)?;
    let keepalive = TcpKeepalive::new()
        .with_time(Duration::from_secs(60))
        .with_interval(Duration::from_secs(20))
        .with_retries(3);
    SockRef::from(&stream).set_tcp_keepalive(&keepalive)?;
    let stream = timeout(door.limits.handshake_time, door.tls.accept(stream)).await??;
    let peer = match stream.get_ref().1.peer_certificates() {
        None => None,
        Some(chain) => Some(
            chain
                .first()
                .and_then(|certificate| identify(certificate))
                .ok_or_else(|| io::Error::other("the certificate names no institution"))?,
        ),
    };
    let standing = match &peer {
        Some(peer) => member(door, &peer.institution)?,
        None => stranger(door, remote)?,
    };
    let stay = match &standing {
        Standing::Member { .. } => None,
        Standing::Stranger { stay, .. } => Some(Arc::clone(stay)),
    };
    let conduct = Arc::new(Conduct::new(door.limits.stall_time));
    let watchdog = Watchdog::new(Arc::clone(&conduct));
    let info = ConnectionInfo { remote, peer, stay, alive: Arc::default(), conduct };
    Ok(Connection { stream, info, standing, watchdog, _permit: permit })
}

fn member(door: &Door, institution: &InstitutionId) -> io::Result<Standing> {
    let counted = door.members.take(institution.clone());
    counted.map(|_counted| Standing::Member { _counted }).ok_or_else(|| {
        let limit = door.limits.connections_per_institution;
        tracing::warn!(%institution, limit, "too many connections of one institution: refused");
        io::Error::other("too many connections of this institution")
    })
}

fn stranger(door: &Door, remote: SocketAddr) -> io::Result<Standing> {
    let too_many = || io::Error::other("too many connections without a client certificate");
    let address = door.strangers_by_address.take(source(remote)).ok_or_else(too_many)?;
    let permit = Arc::clone(&door.strangers).try_acquire_owned().map_err(|_| too_many())?;
    let stay = Arc::new(Stay::new(permit, address, Arc::clone(&door.members)));
    Ok(Standing::Stranger { until: Box::pin(sleep(door.limits.stranger_time)), stay })
}

/// Reads whom our own authority named in a certificate that was verified before.
fn identify(der: &[u8]) -> Option<Peer> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    let names = certificate.subject_alternative_name().ok()??;
    let [GeneralName::URI(uri)] = names.value.general_names[..] else { return None };
    let institution = uri.strip_prefix(INSTITUTION_URI)?.parse().ok()?;
    let key_digest = Some(ca::key_digest(certificate.public_key().raw));
    Some(Peer { institution, key_digest })
}

/// A TLS connection whose handshake is done. Counts against the limits until it is dropped.
pub struct Connection {
    stream: TlsStream<TcpStream>,
    info: ConnectionInfo,
    standing: Standing,
    watchdog: Watchdog,
    _permit: OwnedSemaphorePermit,
}

/// Whether a connection may stay.
enum Standing {
    /// It may: it counts among its institution's.
    Member { _counted: Counted<InstitutionId> },
    /// Until its time is over, if nobody proves an identity over it before.
    Stranger { until: Pin<Box<Sleep>>, stay: Arc<Stay> },
}

impl Connected for Connection {
    type ConnectInfo = ConnectionInfo;

    fn connect_info(&self) -> ConnectionInfo {
        self.info.clone()
    }
}

impl Connection {
    /// Ready with an error once the connection has to end.
    fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        if let Poll::Ready(reason) = self.watchdog.poll(cx) {
            let institution = self.info.peer.as_ref().map(|peer| peer.institution.as_str());
            tracing::debug!(remote = %self.info.remote, institution, reason, "a connection was cut");
            return Poll::Ready(io::Error::new(io::ErrorKind::TimedOut, reason));
        }
        self.poll_stay(cx)
    }

    /// Ready with an error once a stranger has stayed too long.
    fn poll_stay(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        let Standing::Stranger { until, stay } = &mut self.standing else { return Poll::Pending };
        if stay.is_proved() {
            return Poll::Pending;
        }
        ready!(until.as_mut().poll(cx));
        Poll::Ready(io::ErrorKind::TimedOut.into())
    }

    /// How a write went; one that has waited too long for room has failed.
    fn pending<T>(
        &mut self,
        outcome: Poll<io::Result<T>>,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<T>> {
        self.watchdog.written(&outcome);
        match outcome {
            Poll::Ready(outcome) => Poll::Ready(outcome),
            Poll::Pending => self.poll_end(cx).map(Err),
        }
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if let Poll::Ready(error) = self.poll_end(cx) {
            return Poll::Ready(Err(error));
        }
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if let Poll::Ready(error) = self.poll_end(cx) {
            return Poll::Ready(Err(error));
        }
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.pending(written, cx)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(cx);
        self.pending(flushed, cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let shut = Pin::new(&mut self.stream).poll_shutdown(cx);
        self.pending(shut, cx)
    }
}

#[cfg(test)]
mod tests;
