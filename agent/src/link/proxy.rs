//! Which proxy leads to the coordinator, and the tunnel through it (HTTP CONNECT, RFC 9110 section
//! 9.3.6). TLS runs inside, so the proxy sees the coordinator's name and nothing of what is said.
//! The proxy's password is in no error and no log.

use std::{env, path::Path};

use http::{
    HeaderValue, Method, Request, StatusCode, Uri,
    header::{HOST, PROXY_AUTHORIZATION},
};
use hyper::{client::conn::http1, upgrade};
use hyper_util::{client::proxy::matcher::Matcher, rt::TokioIo};
use thiserror::Error;
use tokio::net::TcpStream;
use tonic::body::Body;

use collegium_shared::{crypto::CryptoError, service::credential::Handed};

use crate::config::network::{Network, Proxy as Setting, ProxyUrl};

/// The most bytes of a proxy's answer.
const MAX_ANSWER: usize = 16 << 10;

/// Why a configured proxy cannot be used at all.
#[derive(Debug, Error)]
pub enum ProxyError {
    #[error(
        "HTTPS_PROXY is not http://HOST:PORT; correct it, or set proxy in [network] of agent.toml"
    )]
    Environment,
    #[error(transparent)]
    PasswordFile(#[from] CryptoError),
    #[error("{0} does not hold user:password in one line of plain text")]
    Password(String),
}

/// Why a tunnel was not made.
#[derive(Debug, Error)]
pub(super) enum TunnelError {
    #[error(
        "the proxy {proxy} cannot be reached; check proxy in [network] of agent.toml, or HTTPS_PROXY"
    )]
    Unreachable { proxy: String, source: Box<dyn std::error::Error + Send + Sync> },
    #[error(
        "the proxy {0} asks for a user and a password (407); name a file with them as proxy_password_file in [network] of agent.toml"
    )]
    NoPassword(String),
    #[error(
        "the proxy {0} does not accept the user or the password (407); check both with its administrator"
    )]
    WrongPassword(String),
    #[error(
        "the proxy {proxy} refuses to connect to {target} ({status}); ask its administrator to allow CONNECT to this address"
    )]
    Refused { proxy: String, target: String, status: StatusCode },
    #[error("the proxy {proxy} does not speak HTTP as it should")]
    Confused { proxy: String, source: hyper::Error },
    #[error("the proxy {0} sent bytes of its own into the tunnel")]
    Surplus(String),
}

/// An HTTP proxy, and how to be let through.
pub(super) struct Proxy {
    uri: Uri,
    authorization: Option<HeaderValue>,
}

/// By which way connections are made, and what says so.
pub(super) enum Choice {
    Direct { because: String },
    Through { proxy: Proxy, from: &'static str },
}

impl Proxy {
    /// The proxy for connections to `coordinator`, if there is one. Relative paths in `network` are
    /// complete by now.
    pub(super) fn of(network: &Network, coordinator: &Uri) -> Result<Option<Self>, ProxyError> {
        Ok(match Self::choose(network, coordinator)? {
            Choice::Direct { .. } => None,
            Choice::Through { proxy, .. } => Some(proxy),
        })
    }

    /// The same, with what says so.
    pub(super) fn choose(network: &Network, coordinator: &Uri) -> Result<Choice, ProxyError> {
        const CONFIGURED: &str = "proxy in [network] of agent.toml";
        let direct = |because: String| Ok(Choice::Direct { because });
        match &network.proxy {
            Setting::Direct => direct(format!("{CONFIGURED} is \"none\"")),
            Setting::Environment => {
                let first = |names: [&'static str; 2]| {
                    names.into_iter().find_map(|name| Some((name, env::var(name).ok()?)))
                };
                let proxy = first(["HTTPS_PROXY", "https_proxy"]);
                let Some((from, proxy)) = proxy.filter(|(_, text)| !text.is_empty()) else {
                    return direct("HTTPS_PROXY is not set here".to_owned());
                };
                let (exempt, names) = first(["NO_PROXY", "no_proxy"]).unwrap_or_default();
                match Self::from_environment(proxy, names, coordinator)? {
                    Some(proxy) => Ok(Choice::Through { proxy, from }),
                    None => direct(format!("{exempt} says so")),
                }
            }
            Setting::Fixed(url) => {
                let password = network.proxy_password_file.as_deref();
                let authorization = password.map(|path| authorization(url, path)).transpose()?;
                let proxy = Self { uri: url.uri().clone(), authorization };
                Ok(Choice::Through { proxy, from: CONFIGURED })
            }
        }
    }

    /// As curl reads the two variables.
    fn from_environment(
        proxy: String,
        exempt: String,
        coordinator: &Uri,
    ) -> Result<Option<Self>, ProxyError> {
        let all = Matcher::builder().https(proxy.clone()).build();
        let usable = all.intercept(coordinator).filter(|found| {
            found.uri().scheme_str() == Some("http") && found.uri().host().is_some()
        });
        usable.ok_or(ProxyError::Environment)?;
        let some = Matcher::builder().https(proxy).no(exempt).build();
        Ok(some.intercept(coordinator).map(|found| Self {
            uri: found.uri().clone(),
            authorization: found.basic_auth().cloned(),
        }))
    }

    /// Where the proxy itself is.
    pub(super) fn uri(&self) -> &Uri {
        &self.uri
    }

    /// The proxy's address for messages.
    pub(super) fn name(&self) -> String {
        self.uri.authority().map(ToString::to_string).unwrap_or_default()
    }

    /// Asks the proxy at the other end of `line` to connect to `target`, `HOST:PORT`.
    pub(super) async fn tunnel(
        &self,
        line: TokioIo<TcpStream>,
        target: &str,
    ) -> Result<TokioIo<TcpStream>, TunnelError> {
        let confused = |source| TunnelError::Confused { proxy: self.name(), source };
        let (mut sender, connection) = http1::Builder::new()
            .max_buf_size(MAX_ANSWER)
            .handshake::<_, Body>(line)
            .await
            .map_err(confused)?;
        // Ends with the tunnel, or when the sender is dropped.
        tokio::spawn(connection.with_upgrades());
        let mut request = Request::new(Body::empty());
        *request.method_mut() = Method::CONNECT;
        *request.uri_mut() = target.parse().unwrap_or_default();
        if let Ok(host) = HeaderValue::from_str(target) {
            request.headers_mut().insert(HOST, host);
        }
        if let Some(authorization) = &self.authorization {
            request.headers_mut().insert(PROXY_AUTHORIZATION, authorization.clone());
        }
        let response = sender.send_request(request).await.map_err(confused)?;
        self.accepts(response.status(), target)?;
        let upgraded = upgrade::on(response).await.map_err(confused)?;
        match upgraded.downcast::<TokioIo<TcpStream>>() {
            Ok(parts) if parts.read_buf.is_empty() => Ok(parts.io),
            _ => Err(TunnelError::Surplus(self.name())),
        }
    }

    fn accepts(&self, status: StatusCode, target: &str) -> Result<(), TunnelError> {
        match status {
            status if status.is_success() => Ok(()),
            StatusCode::PROXY_AUTHENTICATION_REQUIRED => Err(match self.authorization {
                None => TunnelError::NoPassword(self.name()),
                Some(_) => TunnelError::WrongPassword(self.name()),
            }),
            status => {
                let (proxy, target) = (self.name(), target.to_owned());
                Err(TunnelError::Refused { proxy, target, status })
            }
        }
    }
}

/// The header for the `user:password` in a file that only its owner can read.
fn authorization(url: &ProxyUrl, path: &Path) -> Result<HeaderValue, ProxyError> {
    let bytes = Handed::over().secret(path)?;
    let bad = || ProxyError::Password(path.display().to_string());
    let text = std::str::from_utf8(bytes.expose()).map_err(|_| bad())?.trim_end();
    let (user, password) = text.split_once(':').ok_or_else(bad)?;
    if text.contains(char::is_control) {
        return Err(bad());
    }
    // The matcher reads a proxy as curl does: user and password are percent-encoded in its URL.
    let [user, password] = [user, password].map(percent_encoded);
    let authority = url.uri().authority().ok_or_else(bad)?;
    let matcher = Matcher::builder().https(format!("http://{user}:{password}@{authority}")).build();
    let found = matcher.intercept(&Uri::from_static("https://coordinator"));
    found.and_then(|found| found.basic_auth().cloned()).ok_or_else(bad)
}

fn percent_encoded(text: &str) -> String {
    let encoded = text.bytes().map(|byte| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' => char::from(byte).to_string(),
        other => format!("%{other:02X}"),
    });
    encoded.collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn coordinator() -> Uri {
        Uri::from_static("https://collegium.example:8470")
    }

    fn environment(proxy: &str, exempt: &str) -> Result<Option<Proxy>, ProxyError> {
        Proxy::from_environment(proxy.to_owned(), exempt.to_owned(), &coordinator())
    }

    #[test]
    fn the_environment_is_read_as_curl_reads_it() {
        let found = environment("http://proxy:3128", "").unwrap().unwrap();
        assert_eq!((found.name().as_str(), found.authorization), ("proxy:3128", None));
        let found = environment("proxy:3128", "other.example").unwrap().unwrap();
        assert_eq!(found.name(), "proxy:3128");
        let found = environment("http://Aladdin:open%20sesame@proxy:3128", "").unwrap().unwrap();
        assert_eq!(found.name(), "proxy:3128", "without the password");
        assert_eq!(found.authorization.unwrap(), "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==");
        for exempt in ["collegium.example", ".example", "a, collegium.example", "*"] {
            assert!(environment("http://proxy:3128", exempt).unwrap().is_none(), "{exempt}");
        }
        for bad in ["https://proxy:3128", "socks5://proxy:1080", "http://", "::"] {
            assert!(matches!(environment(bad, "*"), Err(ProxyError::Environment)), "{bad}");
        }
    }

    #[test]
    fn the_password_comes_from_a_private_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("password");
        let network = Network {
            proxy: Setting::Fixed("http://proxy:3128".parse().unwrap()),
            proxy_password_file: Some(path.clone()),
            ..Network::default()
        };
        let read = || Proxy::of(&network, &coordinator());
        assert!(matches!(read(), Err(ProxyError::PasswordFile(CryptoError::Io { .. }))));
        collegium_shared::crypto::write_secret(&path, b"Aladdin:open sesame\n").unwrap();
        let authorization = read().unwrap().unwrap().authorization.unwrap();
        assert_eq!(authorization, "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==");
        assert!(authorization.is_sensitive());
        std::fs::write(&path, "no colon").unwrap();
        assert!(matches!(read(), Err(ProxyError::Password(_))));
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        assert!(matches!(read(), Err(ProxyError::PasswordFile(CryptoError::Exposed { .. }))));
        let network =
            Network { proxy_password_file: Some("credential:proxy-password".into()), ..network };
        let Err(error) = Proxy::of(&network, &coordinator()) else {
            panic!("no service, no credential")
        };
        assert!(error.to_string().contains("no credential proxy-password"), "{error}");
    }
}
