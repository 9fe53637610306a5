//! Enrolment against a coordinator in this process, honest and otherwise.

use std::{
    fs,
    net::SocketAddr,
    os::unix::fs::PermissionsExt,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

use collegium_shared::clock::Clock;
use rcgen::{
    BasicConstraints, CertificateSigningRequestParams, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyUsagePurpose,
};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{
    Response,
    transport::{Certificate, Identity as TlsIdentity, Server, ServerTlsConfig},
};
use v1::enrolment_server::{Enrolment, EnrolmentServer};

use super::*;
use crate::{
    config::{Config, network::Proxy},
    identity::Identity,
};

/// How the coordinator behaves.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mood {
    Honest,
    Refusing,
    /// The first answer is lost.
    Flaky,
    /// Certifies a key of its own, or under another name.
    OtherKey,
    OtherName,
}

struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Self { issuer: Issuer::new(params, key), pem }
    }

    fn server(&self) -> TlsIdentity {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(["127.0.0.1".to_owned()]).unwrap();
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        TlsIdentity::from_pem(certificate.pem(), key.serialize_pem())
    }

    fn client(&self, csr: &[u8], name: &str, mood: Mood) -> String {
        let csr = CertificateSigningRequestParams::from_der(&csr.into()).unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        let name = if mood == Mood::OtherName { "school-b" } else { name };
        params.distinguished_name.push(DnType::CommonName, name);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        if mood == Mood::OtherKey {
            return params.signed_by(&KeyPair::generate().unwrap(), &self.issuer).unwrap().pem();
        }
        params.signed_by(&csr.public_key, &self.issuer).unwrap().pem()
    }
}

struct Service {
    authority: Arc<Authority>,
    root: VerifyingKey,
    mood: Mood,
    calls: Arc<AtomicU32>,
}

#[tonic::async_trait]
impl Enrolment for Service {
    async fn enrol(
        &self,
        request: tonic::Request<v1::EnrolRequest>,
    ) -> Result<Response<v1::EnrolReply>, Status> {
        let first = self.calls.fetch_add(1, Ordering::SeqCst) == 0;
        let request = request.into_inner();
        let identity = VerifyingKey::try_from(&request.identity[..]).unwrap();
        let signature = (&request.signature[..]).try_into().unwrap();
        let digest = enrolment_digest(&request.institution.parse().unwrap(), &request.csr);
        identity.verify(digest.as_bytes(), &signature).unwrap();
        match self.mood {
            Mood::Refusing => return Err(Status::permission_denied("no such\ninvitation")),
            Mood::Flaky if first => return Err(Status::unavailable("gone")),
            _ => {}
        }
        let certificate = self.authority.client(&request.csr, &request.institution, self.mood);
        let root_key = self.root.as_bytes().to_vec();
        Ok(Response::new(v1::EnrolReply { certificate, root_key }))
    }
}

struct Coordinator {
    address: SocketAddr,
    authority: Arc<Authority>,
    root: VerifyingKey,
    calls: Arc<AtomicU32>,
    dir: tempfile::TempDir,
}

impl Coordinator {
    async fn start(mood: Mood) -> Self {
        let authority = Arc::new(Authority::new());
        let dir = tempfile::tempdir().unwrap();
        let root = SigningKey::create(&dir.path().join("root.key")).unwrap().verifying_key();
        let calls = Arc::new(AtomicU32::new(0));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let service =
            Service { authority: Arc::clone(&authority), root, mood, calls: Arc::clone(&calls) };
        let tls = ServerTlsConfig::new()
            .identity(authority.server())
            .client_ca_root(Certificate::from_pem(&authority.pem))
            .client_auth_optional(true);
        let router = Server::builder().tls_config(tls).unwrap();
        let serving = { router }
            .add_service(EnrolmentServer::new(service))
            .serve_with_incoming(TcpListenerStream::new(listener));
        tokio::spawn(serving);
        Self { address, authority, root, calls, dir }
    }

    fn invite(&self, ca: &str) -> Request {
        let token_file = self.dir.path().join("invitation.toml");
        let _ = fs::remove_file(&token_file);
        let expires_at = now() + Duration::from_secs(3_600);
        TokenFile::new("school-a".parse().unwrap(), expires_at, ca.to_owned(), String::new())
            .unwrap()
            .write(&token_file)
            .unwrap();
        Request {
            dir: self.dir.path().join("agent"),
            coordinator: format!("https://127.0.0.1:{}", self.address.port()),
            token_file,
            root_fingerprint: self.root.fingerprint(),
            network: Network { proxy: Proxy::Direct, ..Network::default() },
        }
    }

    fn request(&self) -> Request {
        self.invite(&self.authority.pem)
    }
}

fn now() -> Timestamp {
    Clock::system().now()
}

async fn refused(request: &Request) -> EnrolError {
    let error = enrol(request, now()).await.unwrap_err();
    assert!(!request.dir.exists(), "nothing is left behind");
    error
}

#[tokio::test]
async fn enrolment_makes_keys_and_pins_the_root() {
    let coordinator = Coordinator::start(Mood::Honest).await;
    let request = coordinator.request();
    let enrolled = enrol(&request, now()).await.unwrap();
    assert_eq!(enrolled.institution.as_str(), "school-a");
    let identity = Identity::load(&request.dir).unwrap();
    assert_eq!(identity.fingerprint(), enrolled.fingerprint);
    assert_eq!(*identity.root().key(), coordinator.root);
    let config = Config::load(&request.dir).unwrap();
    assert_eq!(config.institution, enrolled.institution);
    let route = identity::route(&config, &identity, &Clock::system()).unwrap();
    route.connect().await.unwrap();
    for key in [IDENTITY_KEY, TLS_KEY, VAULT_KEY] {
        let mode = fs::metadata(request.dir.join(key)).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o600, "{key}");
    }
    let again = enrol(&coordinator.request(), now()).await;
    assert!(matches!(again, Err(EnrolError::Directory(SetupError::Initialised { .. }))));
    assert_eq!(Identity::load(&request.dir).unwrap().fingerprint(), enrolled.fingerprint);
}

#[tokio::test]
async fn another_root_is_refused() {
    let coordinator = Coordinator::start(Mood::Honest).await;
    let request = Request { root_fingerprint: Digest::of(b"another"), ..coordinator.request() };
    let error = refused(&request).await;
    assert!(
        matches!(error, EnrolError::WrongRoot { given, .. } if given == coordinator.root.fingerprint())
    );
    assert!(error.to_string().contains("another consortium root"));
}

#[tokio::test]
async fn only_the_invitations_authority_is_believed() {
    let coordinator = Coordinator::start(Mood::Honest).await;
    let request = coordinator.invite(&Authority::new().pem);
    assert!(matches!(refused(&request).await, EnrolError::Unreachable { .. }));
    assert_eq!(coordinator.calls.load(Ordering::SeqCst), 0, "the token was not sent");
    let request =
        coordinator.invite("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----");
    assert!(matches!(refused(&request).await, EnrolError::BadAuthority));
}

#[tokio::test]
async fn a_refusal_is_told_in_the_coordinators_words() {
    let coordinator = Coordinator::start(Mood::Refusing).await;
    let error = refused(&coordinator.request()).await;
    assert!(matches!(error, EnrolError::Refused(words) if words == "no such invitation"));
}

#[tokio::test]
async fn a_lost_answer_is_asked_for_again() {
    let coordinator = Coordinator::start(Mood::Flaky).await;
    enrol(&coordinator.request(), now()).await.unwrap();
    assert_eq!(coordinator.calls.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn a_certificate_for_something_else_is_refused() {
    for mood in [Mood::OtherKey, Mood::OtherName] {
        let coordinator = Coordinator::start(mood).await;
        let error = refused(&coordinator.request()).await;
        assert!(matches!(error, EnrolError::BadReply(_)));
    }
}

#[tokio::test]
async fn what_can_be_known_before_connecting_is_refused_before() {
    let coordinator = Coordinator::start(Mood::Honest).await;
    let request = coordinator.request();
    let plain = Request { coordinator: "http://127.0.0.1:1".into(), ..request.clone() };
    assert!(matches!(refused(&plain).await, EnrolError::Coordinator(_)));
    let late = enrol(&request, now() + Duration::from_secs(7_200)).await;
    assert!(matches!(late, Err(EnrolError::Token(TokenError::Expired { .. }))));
    fs::set_permissions(&request.token_file, fs::Permissions::from_mode(0o644)).unwrap();
    assert!(matches!(refused(&request).await, EnrolError::Token(TokenError::File(_))));
    assert_eq!(coordinator.calls.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn a_closed_port_is_unreachable() {
    let coordinator = Coordinator::start(Mood::Honest).await;
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    drop(listener);
    let request =
        Request { coordinator: format!("https://127.0.0.1:{port}"), ..coordinator.request() };
    let error = refused(&request).await;
    assert!(matches!(&error, EnrolError::Unreachable { .. }));
    assert!(error.to_string().contains("refused"), "{error}");
}
