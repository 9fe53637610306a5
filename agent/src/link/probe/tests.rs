//! The way to the coordinator with everything that can be wrong with it, over loopback TLS.

use std::{path::Path, sync::Arc};

use collegium_shared::clock::Timestamp;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::{ServerConfig, crypto::ring, pki_types::PrivatePkcs8KeyDer};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};
use tokio_rustls::TlsAcceptor;

use super::*;
use crate::{
    config::CONFIG_FILE,
    identity::{CA_CERTIFICATE, CLIENT_CERTIFICATE, TLS_KEY},
};

struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self { issuer: CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap() }
    }

    fn pem(&self) -> String {
        self.issuer.pem()
    }

    /// A TLS server on the loopback whose certificate names `name` and holds from and until so many days
    /// from now; it speaks `alpn` and says nothing inside.
    async fn serve(&self, name: &str, (from, until): (i64, i64), alpn: &[u8]) -> String {
        let at = |days: i64| {
            let time = Clock::system().now().as_seconds() + days * 86_400;
            let time = Timestamp::from_millis(time * 1_000).since(Timestamp::EPOCH);
            rcgen::date_time_ymd(1970, 1, 1) + time
        };
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        (params.not_before, params.not_after) = (at(from), at(until));
        let key = KeyPair::generate().unwrap();
        let leaf = params.signed_by(&key, &self.issuer).unwrap();
        let key = PrivatePkcs8KeyDer::from(key.serialize_der()).into();
        let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![leaf.der().clone()], key)
            .unwrap();
        config.alpn_protocols = vec![alpn.to_vec()];
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                drop(acceptor.accept(stream).await);
            }
        });
        format!("https://{address}")
    }
}

/// A server that answers every request with `answer`, and the address in front of which it stands.
async fn answering(answer: &'static str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut buffer = [0; 4_096];
                drop(stream.read(&mut buffer).await);
                drop(stream.write_all(answer.as_bytes()).await);
            });
        }
    });
    address.to_string()
}

/// What is found on the way to `url`, with these lines in `[network]`.
async fn found(url: &str, lines: &str, pinned: &str) -> String {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(CONFIG_FILE);
    let text = format!("coordinator = \"{url}\"\ninstitution = \"school-a\"\n[network]\n{lines}");
    std::fs::write(&path, text).unwrap();
    let config = Config::load(dir.path()).unwrap();
    let route = Err("there are no keys".to_owned());
    let credentials = credentials(dir.path(), pinned);
    let credentials = Some(&credentials);
    let clock = &Clock::system();
    let way = Way { config: &config, credentials, route, clock, daemons_proxy: None };
    way.findings().await.iter().map(ToString::to_string).collect()
}

/// An agent's, with these authorities.
fn credentials(dir: &Path, pinned: &str) -> Credentials {
    for name in ["keys", "certs"] {
        std::fs::create_dir(dir.join(name)).unwrap();
    }
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::default().self_signed(&key).unwrap();
    let key = key.serialize_pem();
    collegium_shared::crypto::write_secret(&dir.join(TLS_KEY), key.as_bytes()).unwrap();
    std::fs::write(dir.join(CLIENT_CERTIFICATE), certificate.pem()).unwrap();
    std::fs::write(dir.join(CA_CERTIFICATE), pinned).unwrap();
    Credentials::load(dir).unwrap()
}

const DIRECT: &str = "proxy = \"none\"";

#[track_caller]
fn says(found: &str, words: &[&str]) {
    for word in words {
        assert!(found.contains(word), "{word:?} is not in:\n{found}");
    }
}

#[tokio::test]
async fn a_name_or_a_host_that_is_not_there_is_named() {
    let unknown = found("https://coordinator.invalid:8470", DIRECT, "").await;
    says(&unknown, &["FAIL  name", "coordinator.invalid cannot be resolved", "getent hosts"]);
    says(
        &unknown,
        &["ok    proxy         none: proxy in [network]", "WARN  clock", "not compared"],
    );
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let unreachable = found(&format!("https://{closed}"), DIRECT, "").await;
    says(&unreachable, &["ok    name", "FAIL  tcp", "0 of 1 addresses", "refused", "firewall"]);
    assert!(!unreachable.contains("tls"), "{unreachable}");
}

#[tokio::test]
async fn a_proxy_that_is_wrong_is_named_with_what_to_change() {
    let authority = Authority::new();
    let url = authority.serve("127.0.0.1", (-1, 90), b"h2").await;
    let by = |address: &str| format!("proxy = \"http://{address}\"");
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let away = found(&url, &by(&closed.to_string()), "").await;
    says(&away, &[&format!("{closed}, by proxy in [network]"), "FAIL  tcp", "HTTPS_PROXY"]);
    let cases = [
        ("HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n", "(403 Forbidden)"),
        ("HTTP/1.1 407 Proxy\r\nContent-Length: 0\r\n\r\n", "proxy_password_file"),
        ("SSH-2.0-OpenSSH_9.9\r\n", "HTTP proxy that knows CONNECT"),
    ];
    for (answer, word) in cases {
        let proxy = answering(answer).await;
        let refused = found(&url, &by(&proxy), "").await;
        says(&refused, &["ok    tcp", "FAIL  tunnel", word, "WARN  clock"]);
    }
    let dir = tempfile::tempdir().unwrap();
    let password = dir.path().join("password");
    collegium_shared::crypto::write_secret(&password, b"school:hunter2").unwrap();
    let asks = answering("HTTP/1.1 407 Proxy\r\nContent-Length: 0\r\n\r\n").await;
    let lines = format!("{}\nproxy_password_file = {password:?}", by(&asks));
    let wrong = found(&url, &lines, "").await;
    says(&wrong, &["does not accept the user or the password (407)", "correct the file"]);
    assert!(!wrong.contains("hunter2"), "{wrong}");
    std::fs::write(&password, "no colon").unwrap();
    says(&found(&url, &lines, "").await, &["FAIL  proxy", "user:password in one line"]);
}

#[tokio::test]
async fn a_password_that_only_the_daemon_has_is_no_failure() {
    let lines = "proxy = \"http://127.0.0.1:1\"\nproxy_password_file = \"credential:proxy\"";
    let said = found("https://127.0.0.1:2", lines, "").await;
    says(&said, &["WARN  proxy", "hands proxy to the daemon alone", "WARN  clock"]);
    assert!(!said.contains("FAIL"), "{said}");
}

#[tokio::test]
async fn a_certificate_that_is_not_believed_is_explained() {
    let (authority, strange) = (Authority::new(), Authority::new());
    let pinned = authority.pem();
    let expired = authority.serve("127.0.0.1", (-90, -1), b"h2").await;
    let said = found(&expired, DIRECT, &pinned).await;
    says(
        &said,
        &["FAIL  tls", "it has expired", "FAIL  clock", "outside of the certificate's time"],
    );
    let early = authority.serve("127.0.0.1", (1, 90), b"h2").await;
    let said = found(&early, DIRECT, &pinned).await;
    says(&said, &["FAIL  tls", "not valid yet", "FAIL  clock", "set-ntp"]);
    let named = authority.serve("collegium.example", (-1, 90), b"h2").await;
    let said = found(&named, DIRECT, &pinned).await;
    says(&said, &["127.0.0.1 is not among its names", "with one of: collegium.example"]);
    let stranger = strange.serve("127.0.0.1", (-1, 90), b"h2").await;
    let said = found(&stranger, DIRECT, &pinned).await;
    says(
        &said,
        &["nobody who is believed issued it", "issued by CN=", "trust = \"file\"", "reenrol"],
    );
    says(&said, &["WARN  clock"]);
    let web = authority.serve("127.0.0.1", (-1, 90), b"http/1.1").await;
    says(&found(&web, DIRECT, &pinned).await, &["FAIL  tls", "HTTP/2"]);
    let plain = answering("HTTP/1.1 400 Bad Request\r\n\r\n").await;
    let said = found(&format!("https://{plain}"), DIRECT, &pinned).await;
    says(&said, &["FAIL  tls", "no certificate was shown", "coordinator's port"]);
}

#[tokio::test]
async fn whom_the_configuration_trusts_is_trusted_here() {
    let (authority, proxys) = (Authority::new(), Authority::new());
    let url = proxys.serve("127.0.0.1", (-1, 90), b"h2").await;
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("ca.pem");
    let lines = format!("{DIRECT}\ntrust = \"file\"\nca_file = {file:?}");
    says(&found(&url, &lines, &authority.pem()).await, &["FAIL  tls", "ca_file in [network]"]);
    std::fs::write(&file, proxys.pem()).unwrap();
    let said = found(&url, &lines, &authority.pem()).await;
    says(
        &said,
        &["ok    tls", "believed: trust = \"file\"", "FAIL  coordinator   no call can be made"],
    );
}
