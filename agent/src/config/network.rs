//! `[network]` of agent.toml: how this institution's network lets the agent reach the coordinator,
//! and how the agent proves there who it is. Parses; opens no file and no connection.

use std::{
    fmt,
    path::{Path, PathBuf},
};

use clap::ValueEnum;
use collegium_shared::service::credential;
use serde::{Deserialize, Serialize};
use thiserror::Error;
use tonic::transport::Uri;

/// By which way, and as whom, the coordinator is called.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Network {
    pub proxy: Proxy,
    /// `user:password` for the proxy: a file (mode 0600), or `credential:NAME`.
    pub proxy_password_file: Option<PathBuf>,
    pub trust: Trust,
    /// The CA certificates for `trust = "file"`, PEM.
    pub ca_file: Option<PathBuf>,
    pub identity: Proof,
}

/// Which HTTP proxy connections go through.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Proxy {
    /// What HTTPS_PROXY and NO_PROXY say at start.
    #[default]
    Environment,
    /// None, whatever the environment says.
    Direct,
    /// This one, always.
    Fixed(ProxyUrl),
}

impl fmt::Display for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Environment => f.write_str("environment"),
            Self::Direct => f.write_str("none"),
            Self::Fixed(ProxyUrl(uri)) => uri.fmt(f),
        }
    }
}

impl From<Proxy> for String {
    fn from(proxy: Proxy) -> Self {
        proxy.to_string()
    }
}

/// `http://HOST:PORT`, checked; carries no password.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProxyUrl(Uri);

impl ProxyUrl {
    pub fn uri(&self) -> &Uri {
        &self.0
    }
}

/// A proxy that was refused. Quotes nothing, because a password may stand in it.
#[derive(Debug, Error, PartialEq, Eq)]
#[error(
    "proxy: write \"environment\", \"none\" or http://HOST:PORT, with user and password in proxy_password_file"
)]
pub struct BadProxy;

impl TryFrom<String> for Proxy {
    type Error = BadProxy;

    fn try_from(text: String) -> Result<Self, BadProxy> {
        match text.as_str() {
            "environment" => Ok(Self::Environment),
            "none" => Ok(Self::Direct),
            url => url.parse().map(Self::Fixed),
        }
    }
}

impl std::str::FromStr for ProxyUrl {
    type Err = BadProxy;

    fn from_str(text: &str) -> Result<Self, BadProxy> {
        let uri: Uri = text.parse().map_err(|_| BadProxy)?;
        let plain = uri.authority().is_some_and(|a| !a.as_str().contains('@'));
        let root = uri.path_and_query().is_none_or(|path| path.as_str() == "/");
        let named = uri.host().is_some_and(|host| !host.is_empty()) && uri.port_u16().is_some();
        if uri.scheme_str() == Some("http") && plain && root && named {
            Ok(Self(uri))
        } else {
            Err(BadProxy)
        }
    }
}

/// Whose certificate the other end of the connection has to show.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum Trust {
    /// The coordinator's CA from the invitation, and no other.
    #[default]
    Pinned,
    /// The CAs in `ca_file`, and no other.
    File,
    /// The CAs that this machine's operating system trusts.
    System,
}

impl fmt::Display for Trust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Pinned => "pinned",
            Self::File => "file",
            Self::System => "system",
        })
    }
}

/// How the coordinator learns who calls.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum Proof {
    /// By the TLS client certificate.
    #[default]
    Certificate,
    /// By a signature over each call, where a proxy ends TLS.
    Signature,
}

impl fmt::Display for Proof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Certificate => "certificate",
            Self::Signature => "signature",
        })
    }
}

impl Network {
    /// Whether the keys fit together; the reason names the one to change.
    pub(crate) fn check(&self) -> Result<(), &'static str> {
        match (self.trust, &self.ca_file) {
            (Trust::File, None) => return Err("network.ca_file: trust = \"file\" needs it"),
            (Trust::Pinned | Trust::System, Some(_)) => {
                return Err("network.ca_file: it counts only with trust = \"file\"");
            }
            _ => {}
        }
        if self.proxy_password_file.is_some() && !matches!(self.proxy, Proxy::Fixed(_)) {
            return Err(
                "network.proxy_password_file: it belongs to a proxy named in network.proxy",
            );
        }
        Ok(())
    }

    /// Makes relative paths start at `dir`.
    pub(super) fn complete(&mut self, dir: &Path) {
        let password = self.proxy_password_file.as_mut();
        let password = password.filter(|path| credential::named(path).is_none());
        for path in [password, self.ca_file.as_mut()].into_iter().flatten() {
            *path = dir.join(&*path);
        }
    }

    /// The section of the commented file.
    pub(super) fn sample(&self) -> String {
        let Self { proxy, trust, identity, .. } = self;
        let quoted = |text: &str| toml::Value::from(text).to_string();
        let path = |name: &str, path: &Option<PathBuf>, example: &str| match path {
            Some(path) => format!("{name} = {}", quoted(&path.to_string_lossy())),
            None => format!("# {name} = {}", quoted(example)),
        };
        format!(
            r#"# How this institution's network lets the agent reach the coordinator.
[network]
# "environment": what HTTPS_PROXY and NO_PROXY say at start; "none"; or "http://HOST:PORT", an HTTP
# proxy that is asked to CONNECT.
proxy = {proxy}
# user:password for the proxy that is named above: a file (mode 0600), or "credential:NAME" for what
# the service manager hands over (LoadCredential=NAME:...).
{password}
# Whose certificate is believed: "pinned", the coordinator's CA from the invitation alone; "file", the
# CAs in ca_file, for a proxy that ends TLS; "system", what this machine's operating system trusts.
trust = "{trust}"
{ca}
# How the coordinator learns who calls: "certificate"; or "signature", where a proxy ends TLS and no
# client certificate comes through. The coordinator's operator has to allow it.
identity = "{identity}"
"#,
            proxy = quoted(&proxy.to_string()),
            password =
                path("proxy_password_file", &self.proxy_password_file, "keys/proxy.password"),
            ca = path("ca_file", &self.ca_file, "certs/inspection-ca.pem"),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proxy_is_a_plain_http_address_without_a_password() {
        let proxy = |text: &str| Proxy::try_from(text.to_owned());
        assert_eq!(proxy("none"), Ok(Proxy::Direct));
        assert_eq!(proxy("environment"), Ok(Proxy::Environment));
        for good in ["http://proxy:3128", "http://10.0.0.1:8080/", "http://[::1]:3128"] {
            assert!(matches!(proxy(good), Ok(Proxy::Fixed(_))), "{good}");
        }
        for bad in ["", "proxy:3128", "http://proxy", "https://p:1", "socks5://p:1", "http://p:1/x"]
        {
            assert_eq!(proxy(bad), Err(BadProxy), "{bad}");
        }
        let secret = proxy("http://user:hunter2@proxy:3128").unwrap_err();
        assert!(!secret.to_string().contains("hunter2"));
    }
}
