//! One TLS handshake that is looked at: which chain the other end shows, and whether it would be believed,
//! by the same rules as the agent's own calls. Sends nothing inside; decides nothing about what it saw.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use collegium_shared::clock::Timestamp;
use hyper_util::rt::TokioIo;
use rustls::{
    AlertDescription, CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore,
    SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime},
};
use tokio::{io::AsyncReadExt, net::TcpStream, time::timeout};
use tokio_rustls::TlsConnector;
use x509_parser::{certificate::X509Certificate, extensions::GeneralName, prelude::FromDer};

use crate::home::unpoisoned;

/// The most names of a certificate that are shown.
const MAX_NAMES: usize = 8;
/// What HTTP/2 is called in a handshake (RFC 7301).
const HTTP2: &[u8] = b"h2";
/// How long a server that says nothing has to refuse the client's certificate.
const VERDICT: Duration = Duration::from_secs(1);

/// What a server's certificate says, for people.
#[derive(Clone, Debug)]
pub(super) struct Shown {
    pub(super) issuer: String,
    pub(super) names: String,
    pub(super) from: Timestamp,
    pub(super) until: Timestamp,
}

impl Shown {
    fn read(der: &[u8]) -> Option<Self> {
        let (_, certificate) = X509Certificate::from_der(der).ok()?;
        let at = |seconds: i64| Timestamp::from_millis(seconds.saturating_mul(1_000));
        let validity = certificate.validity();
        let extension = certificate.subject_alternative_name().ok().flatten();
        let all = extension.map(|names| names.value.general_names.as_slice()).unwrap_or_default();
        let names: Vec<_> = all.iter().take(MAX_NAMES).map(name).collect();
        Some(Self {
            issuer: certificate.issuer().to_string(),
            names: if names.is_empty() { "no names".into() } else { names.join(", ") },
            from: at(validity.not_before.timestamp()),
            until: at(validity.not_after.timestamp()),
        })
    }
}

fn name(name: &GeneralName<'_>) -> String {
    let address = |bytes: &[u8]| {
        let four = <[u8; 4]>::try_from(bytes).map(std::net::IpAddr::from);
        four.or_else(|_| <[u8; 16]>::try_from(bytes).map(std::net::IpAddr::from)).ok()
    };
    match name {
        GeneralName::DNSName(name) => (*name).to_owned(),
        GeneralName::IPAddress(bytes) => {
            address(bytes).map_or_else(|| hex::encode(bytes), |ip| ip.to_string())
        }
        other => other.to_string(),
    }
}

/// How a handshake ended.
pub(super) struct Inspected {
    /// The server's own certificate, if it came to that.
    pub(super) shown: Option<Shown>,
    pub(super) outcome: Result<(), Refusal>,
}

/// Why the agent would not talk to this server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// Nobody who is believed issued the certificate.
    UnknownIssuer,
    Expired,
    NotValidYet,
    WrongName,
    /// It speaks TLS, and not HTTP/2 inside.
    NoHttp2,
    /// It is the other end that refuses this agent's certificate, with this alert.
    OfOurs(String),
    /// Any other reason, in rustls' words.
    Other(String),
}

/// A client certificate and its key.
pub(super) type Client = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

/// Does a handshake over `line` with a server that has to be `host`, believing `roots`, as `client`.
pub(super) async fn inspect(
    line: TokioIo<TcpStream>,
    host: &str,
    roots: RootCertStore,
    client: Option<Client>,
) -> Inspected {
    let seen = Arc::new(Mutex::new(None));
    let outcome = handshake(line, host, roots, client, &seen).await;
    let shown = unpoisoned(&seen).take();
    Inspected { shown, outcome }
}

async fn handshake(
    line: TokioIo<TcpStream>,
    host: &str,
    roots: RootCertStore,
    client: Option<Client>,
    seen: &Arc<Mutex<Option<Shown>>>,
) -> Result<(), Refusal> {
    let other = |error: &dyn std::error::Error| Refusal::Other(error.to_string());
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    let name = ServerName::try_from(bare.to_owned()).map_err(|error| other(&error))?;
    let provider = Arc::new(ring::default_provider());
    let believed =
        WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider));
    let believed = believed.build().map_err(|error| other(&error))?;
    let recorder = Recorder { believed, seen: Arc::clone(seen) };
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| other(&error))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(recorder));
    let mut config = match client {
        None => config.with_no_client_auth(),
        Some((chain, key)) => {
            config.with_client_auth_cert(chain, key).map_err(|error| other(&error))?
        }
    };
    config.alpn_protocols = vec![HTTP2.to_vec()];
    let connector = TlsConnector::from(Arc::new(config));
    let connected = connector.connect(name, line.into_inner()).await;
    let mut stream =
        connected.map_err(|error| tls_error(&error).map_or_else(|| other(&error), refusal))?;
    let (_, connection) = stream.get_ref();
    if connection.alpn_protocol() != Some(HTTP2) {
        return Err(Refusal::NoHttp2);
    }
    // In TLS 1.3 a server that refuses the client's certificate says so after the handshake.
    match timeout(VERDICT, stream.read_u8()).await {
        Ok(Err(error)) => match tls_error(&error) {
            Some(alert @ Error::AlertReceived(_)) => Err(Refusal::OfOurs(alert.to_string())),
            _ => Ok(()),
        },
        _ => Ok(()),
    }
}

fn tls_error(error: &std::io::Error) -> Option<&Error> {
    error.get_ref()?.downcast_ref()
}

fn refusal(error: &Error) -> Refusal {
    match error {
        // The second: an authority with the name of ours, and another key.
        Error::InvalidCertificate(
            CertificateError::UnknownIssuer | CertificateError::BadSignature,
        ) => Refusal::UnknownIssuer,
        Error::InvalidCertificate(
            CertificateError::Expired | CertificateError::ExpiredContext { .. },
        ) => Refusal::Expired,
        Error::InvalidCertificate(
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. },
        ) => Refusal::NotValidYet,
        Error::InvalidCertificate(
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
        ) => Refusal::WrongName,
        Error::NoApplicationProtocol
        | Error::AlertReceived(AlertDescription::NoApplicationProtocol) => Refusal::NoHttp2,
        other => Refusal::Other(other.to_string()),
    }
}

/// Believes whom the real verifier believes, and remembers what was shown to it.
#[derive(Debug)]
struct Recorder {
    believed: Arc<WebPkiServerVerifier>,
    seen: Arc<Mutex<Option<Shown>>>,
}

impl ServerCertVerifier for Recorder {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        *unpoisoned(&self.seen) = Shown::read(end_entity);
        self.believed.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.believed.verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.believed.verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.believed.supported_verify_schemes()
    }
}
