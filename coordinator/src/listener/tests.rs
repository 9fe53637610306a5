//! The port as clients, strangers and attackers on the loopback meet it.

use std::path::Path;

use collegium_proto::v1::{
    EnrolReply, EnrolRequest,
    enrolment_client::EnrolmentClient,
    enrolment_server::{Enrolment, EnrolmentServer},
};
use collegium_shared::clock::{Clock, Timestamp};
use rcgen::{CertificateParams, KeyPair, PublicKeyData};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::oneshot,
    task::JoinHandle,
};
use tonic::{
    Request, Response, Status,
    transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity, Server},
};

use super::*;

/// Answers with the caller's identity.
struct WhoAmI;

#[tonic::async_trait]
impl Enrolment for WhoAmI {
    async fn enrol(&self, request: Request<EnrolRequest>) -> Result<Response<EnrolReply>, Status> {
        let peer = peer(&request);
        let stay = request.extensions().get::<ConnectionInfo>().and_then(|info| info.stay.clone());
        if let (Some(stay), Ok(institution)) = (stay, request.get_ref().institution.parse())
            && !stay.proved(&institution)
        {
            return Err(Status::resource_exhausted("too many"));
        }
        let root_key =
            peer.as_ref().and_then(|p| Some(p.key_digest?.as_bytes().to_vec())).unwrap_or_default();
        let certificate = peer.map_or("stranger".into(), |p| p.institution.to_string());
        Ok(Response::new(EnrolReply { certificate, root_key }))
    }
}

struct Running {
    address: SocketAddr,
    ca: Arc<Ca>,
    clock: Clock,
    names: watch::Sender<Vec<String>>,
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

fn names() -> watch::Sender<Vec<String>> {
    watch::Sender::new(vec!["localhost".to_owned(), "127.0.0.1".to_owned()])
}

/// One institution is shut out.
fn is_revoked() -> IsRevoked {
    Arc::new(|peer: &Peer| peer.institution.as_str() == "revoked-school")
}

fn now() -> Timestamp {
    Clock::system().now()
}

impl Running {
    async fn start(dir: &Path, limits: Limits) -> Self {
        let ca = InForce::new(Ca::create(dir, now()).unwrap());
        let clock = Clock::manual(now());
        let names = names();
        let tls = tls_config(ca.clone(), names.subscribe(), clock.clone(), is_revoked()).unwrap();
        let (address, incoming) = bind("127.0.0.1:0".parse().unwrap(), tls, limits).await.unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let router = Server::builder().add_service(EnrolmentServer::new(WhoAmI));
        let task = tokio::spawn(async move {
            let signal = async { drop(stopped.await) };
            router.serve_with_incoming_shutdown(incoming, signal).await.unwrap();
        });
        Self { address, ca: ca.current(), clock, names, stop, task }
    }

    async fn connect(
        &self,
        identity: Option<Identity>,
    ) -> Result<Channel, tonic::transport::Error> {
        let mut tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(self.ca.pem()));
        if let Some(identity) = identity {
            tls = tls.identity(identity);
        }
        let url = format!("https://127.0.0.1:{}", self.address.port());
        Endpoint::from_shared(url).unwrap().tls_config(tls).unwrap().connect().await
    }

    async fn who_am_i(&self, identity: Option<Identity>) -> Option<EnrolReply> {
        ask(self.connect(identity).await.ok()?).await
    }

    async fn works(&self) -> bool {
        self.who_am_i(None).await.is_some_and(|reply| reply.certificate == "stranger")
    }
}

async fn ask(channel: Channel) -> Option<EnrolReply> {
    let reply = EnrolmentClient::new(channel).enrol(EnrolRequest::default()).await;
    reply.ok().map(Response::into_inner)
}

fn identity(ca: &Ca, name: &str) -> (Identity, Digest) {
    let key = KeyPair::generate().unwrap();
    let csr = CertificateParams::default().serialize_request(&key).unwrap();
    let issued = ca.issue_client(csr.der(), &name.parse().unwrap(), now()).unwrap();
    let digest = ca::key_digest(&key.subject_public_key_info());
    assert_eq!(issued.key_digest, digest);
    (Identity::from_pem(issued.pem, key.serialize_pem()), digest)
}

async fn closes(stream: &mut TcpStream) -> bool {
    let mut rest = Vec::new();
    timeout(Duration::from_secs(5), stream.read_to_end(&mut rest)).await.is_ok()
}

#[tokio::test]
async fn identity_comes_from_the_verified_certificate() {
    let dir = tempfile::tempdir().unwrap();
    let running = Running::start(dir.path(), Limits::default()).await;
    assert!(running.works().await);
    let (identity, digest) = identity(&running.ca, "school-a");
    let reply = running.who_am_i(Some(identity)).await.unwrap();
    assert_eq!(reply.certificate, "school-a");
    assert_eq!(reply.root_key, digest.as_bytes());
}

#[tokio::test]
async fn a_certificate_from_another_authority_is_refused() {
    let (dir, foreign) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let running = Running::start(dir.path(), Limits::default()).await;
    let impostor = Ca::create(foreign.path(), now()).unwrap();
    let (identity, _) = identity(&impostor, "school-a");
    assert!(running.who_am_i(Some(identity)).await.is_none());
    assert!(running.works().await);
}

#[tokio::test]
async fn a_revoked_institution_gets_no_connection() {
    let dir = tempfile::tempdir().unwrap();
    let running = Running::start(dir.path(), Limits::default()).await;
    let (revoked, _) = identity(&running.ca, "revoked-school");
    assert!(running.who_am_i(Some(revoked)).await.is_none());
    let (other, _) = identity(&running.ca, "school-a");
    assert!(running.who_am_i(Some(other)).await.is_some());
}

#[tokio::test]
async fn an_expired_client_certificate_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let running = Running::start(dir.path(), Limits::default()).await;
    let (member, _) = identity(&running.ca, "school-a");
    let expired = {
        let key = KeyPair::generate().unwrap();
        let csr = CertificateParams::default().serialize_request(&key).unwrap();
        let long_ago = now() - ca::LEAF_LIFETIME - Duration::from_secs(3_600);
        let name = "school-a".parse().unwrap();
        let issued = running.ca.issue_client(csr.der(), &name, long_ago).unwrap();
        Identity::from_pem(issued.pem, key.serialize_pem())
    };
    assert!(running.who_am_i(Some(expired)).await.is_none());
    assert!(running.who_am_i(Some(member)).await.is_some());
}

#[tokio::test]
async fn a_server_certificate_does_not_make_a_client() {
    let dir = tempfile::tempdir().unwrap();
    let running = Running::start(dir.path(), Limits::default()).await;
    let server = running.ca.issue_server(&["localhost".to_owned()], now()).unwrap();
    let roots = {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(running.ca.certificates()[0].clone()).unwrap();
        roots
    };
    let config = rustls::ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots)
        .with_client_auth_cert(server.chain, server.key)
        .unwrap();
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    let stream = TcpStream::connect(running.address).await.unwrap();
    let name = rustls::pki_types::ServerName::try_from("127.0.0.1").unwrap();
    let outcome = match connector.connect(name, stream).await {
        Ok(mut stream) => stream.read_u8().await.map(|_| ()),
        Err(error) => Err(error),
    };
    assert!(outcome.is_err(), "the server ends the connection");
}

#[tokio::test]
async fn garbage_and_stalled_handshakes_are_dropped_and_others_served() {
    let dir = tempfile::tempdir().unwrap();
    let handshake_time = Duration::from_millis(200);
    let limits = Limits { handshakes: 2, handshake_time, ..Limits::default() };
    let running = Running::start(dir.path(), limits).await;
    let mut garbage = TcpStream::connect(running.address).await.unwrap();
    garbage.write_all(&[0xff; 4_096]).await.unwrap();
    let mut stalled = Vec::new();
    for _ in 0..4 {
        stalled.push(TcpStream::connect(running.address).await.unwrap());
    }
    assert!(running.works().await, "though all handshakes were taken");
    assert!(closes(&mut garbage).await);
    for stream in &mut stalled {
        assert!(closes(stream).await);
    }
}

#[tokio::test]
async fn strangers_cannot_take_every_connection_nor_stay() {
    let dir = tempfile::tempdir().unwrap();
    let stranger_time = Duration::from_millis(1_500);
    let limits = Limits { strangers: 1, stranger_time, ..Limits::default() };
    let running = Running::start(dir.path(), limits).await;
    let first = running.connect(None).await.unwrap();
    assert!(ask(first.clone()).await.is_some());
    assert!(!running.works().await, "a second stranger is refused");
    let (member, _) = identity(&running.ca, "school-a");
    assert!(running.who_am_i(Some(member)).await.is_some(), "a member is not");
    sleep(stranger_time).await;
    assert!(running.works().await, "the first stranger was sent away");
}

/// A call as if it were signed in the name of `school-a`.
async fn prove(channel: Channel) -> Result<Response<EnrolReply>, Status> {
    let request = EnrolRequest { institution: "school-a".into(), ..EnrolRequest::default() };
    EnrolmentClient::new(channel).enrol(request).await
}

#[tokio::test]
async fn who_proves_an_identity_over_a_connection_may_stay_and_is_counted() {
    let dir = tempfile::tempdir().unwrap();
    let stranger_time = Duration::from_millis(1_500);
    let strangers = Limits { strangers: 2, strangers_per_address: 2, ..Limits::default() };
    let limits = Limits { connections_per_institution: 1, stranger_time, ..strangers };
    let running = Running::start(dir.path(), limits).await;
    let first = running.connect(None).await.unwrap();
    prove(first.clone()).await.unwrap();
    let second = running.connect(None).await.unwrap();
    assert_eq!(prove(second).await.unwrap_err().code(), tonic::Code::ResourceExhausted);
    assert!(running.works().await, "the first is no stranger any more");
    let (member, _) = identity(&running.ca, "school-a");
    assert!(running.who_am_i(Some(member)).await.is_none(), "it is the institution's only one");
    sleep(stranger_time).await;
    assert!(prove(first).await.is_ok(), "and stays");
}

#[tokio::test]
async fn connections_over_the_limit_are_closed() {
    let dir = tempfile::tempdir().unwrap();
    let running = Running::start(dir.path(), Limits { connections: 1, ..Limits::default() }).await;
    let first = running.connect(None).await.unwrap();
    let mut second = TcpStream::connect(running.address).await.unwrap();
    assert!(closes(&mut second).await);
    assert!(ask(first).await.is_some());
}

#[tokio::test]
async fn a_port_in_use_is_named_and_shutdown_frees_it() {
    let dir = tempfile::tempdir().unwrap();
    let running = Running::start(dir.path(), Limits::default()).await;
    let ca = InForce::new(Ca::load(dir.path()).unwrap());
    let names = names().subscribe();
    let tls = tls_config(ca, names, running.clock.clone(), is_revoked()).unwrap();
    let again = || bind(running.address, Arc::clone(&tls), Limits::default());
    let error = again().await.err().unwrap();
    assert!(matches!(error, ListenerError::InUse(address) if address == running.address));
    assert!(error.to_string().contains(&running.address.to_string()));
    running.stop.send(()).unwrap();
    running.task.await.unwrap();
    // The accept task notices a moment after the server has let go of the stream.
    let freed = async {
        while again().await.is_err() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), freed).await.unwrap();
}

#[tokio::test]
async fn the_servers_certificate_is_renewed_while_it_runs() {
    let dir = tempfile::tempdir().unwrap();
    let running = Running::start(dir.path(), Limits::default()).await;
    assert!(running.works().await);
    running.clock.advance(ca::LEAF_LIFETIME / 2);
    assert!(!running.works().await, "the new certificate is not valid yet by the client's clock");
}

#[tokio::test]
async fn the_servers_certificate_follows_its_names() {
    let dir = tempfile::tempdir().unwrap();
    let running = Running::start(dir.path(), Limits::default()).await;
    assert!(running.works().await);
    running.names.send_replace(vec!["elsewhere.example".to_owned()]);
    assert!(!running.works().await, "it no longer names this address");
    running.names.send_replace(vec!["127.0.0.1".to_owned(), "localhost".to_owned()]);
    assert!(running.works().await);
}
