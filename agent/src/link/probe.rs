//! The way to the coordinator, tried step by step for `doctor` with the same code as the daemon's own
//! calls: names, proxy, TCP, TLS, one harmless call, and the clocks. Stops at the first step that leads
//! nowhere, and says what to do about it.

use std::{net::SocketAddr, time::Duration};

use collegium_shared::{
    clock::Clock,
    crypto::CryptoError,
    doctor::{Finding, clock as clocks},
};
use http::Uri;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use tokio::{
    net::{TcpStream, lookup_host},
    task::JoinSet,
    time::timeout,
};
use tower_service::Service;

use super::{
    Link, LinkError, Route,
    connector::{Connector, HTTPS},
    inspect::{Client, Inspected, Refusal, Shown, inspect},
    proxy::{Choice, Proxy, ProxyError, TunnelError},
    tls_advice, trust,
};
use crate::{
    config::{
        Config,
        network::{Proof, Trust},
    },
    credentials::Credentials,
};

/// How long a name may take to be resolved, and a connection to be made.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long a handshake, or a tunnel, may take: as long as the daemon waits for both.
const CONNECT: Duration = Duration::from_secs(10);
/// The most addresses of one name that are tried.
const MAX_ADDRESSES: usize = 16;
/// The certificates of coordinators are made anew long before they end.
const ENDS_SOON: Duration = Duration::from_secs(86_400);

/// What has to be known to try the way.
pub(crate) struct Way<'a> {
    pub(crate) config: &'a Config,
    /// None if they cannot be used.
    pub(crate) credentials: Option<&'a Credentials>,
    /// The way that the daemon takes, or why there is none.
    pub(crate) route: Result<Route, String>,
    pub(crate) clock: &'a Clock,
    /// The proxy of the running daemon, which has an environment of its own; none if none runs.
    pub(crate) daemons_proxy: Option<Option<String>>,
}

impl Way<'_> {
    /// Tries all of it.
    pub(crate) async fn findings(self) -> Vec<Finding> {
        let mut found = Vec::new();
        let clock_reason = match self.steps(&mut found).await {
            Ok(finding) => return [found, vec![finding]].concat(),
            Err(reason) => reason,
        };
        found.push(clock_reason);
        found
    }

    /// The finding about the clocks; in its place what stands for it if no clock was heard.
    async fn steps(&self, found: &mut Vec<Finding>) -> Result<Finding, Finding> {
        let unheard = || clocks::not_compared("the coordinator could not be asked");
        let uri: Uri = self.config.coordinator.as_str().parse().map_err(|_| unheard())?;
        let host = uri.host().unwrap_or_default().to_owned();
        let target = (host.clone(), uri.port_u16().unwrap_or(HTTPS));
        let proxy = self.proxy(&uri, found).ok_or_else(unheard)?;
        let first = proxy.as_ref().map_or(target, |proxy| {
            let port = proxy.uri().port_u16().unwrap_or(80);
            (proxy.uri().host().unwrap_or_default().to_owned(), port)
        });
        let addresses = resolved(&first, proxy.is_some(), found).await.ok_or_else(unheard)?;
        if !connected(&first, addresses, proxy.is_some(), found).await {
            return Err(unheard());
        }
        let shown = self.tls(&uri, proxy, found).await.ok_or_else(unheard)?;
        shown.map_err(|shown| self.by_certificate(shown).unwrap_or_else(unheard))?;
        Ok(self.call(found).await.unwrap_or_else(unheard))
    }

    /// Which proxy; none in the answer if it cannot be said.
    fn proxy(&self, uri: &Uri, found: &mut Vec<Finding>) -> Option<Option<Proxy>> {
        const CHECK: &str = "proxy";
        match Proxy::choose(&self.config.network, uri) {
            Ok(Choice::Direct { because }) => {
                found.push(Finding::ok(CHECK, format!("none: {because}")));
                found.extend(self.same_proxy(None));
                Some(None)
            }
            Ok(Choice::Through { proxy, from }) => {
                found.push(Finding::ok(CHECK, format!("{}, by {from}", proxy.name())));
                found.extend(self.same_proxy(Some(proxy.name())));
                Some(Some(proxy))
            }
            Err(ProxyError::PasswordFile(CryptoError::NoCredential(name))) => {
                let what = "this command does not know the proxy's password: the way was not tried";
                let why = format!("the service manager hands {name} to the daemon alone");
                let fix = "collegium-agent status says whether the daemon reaches the coordinator";
                found.push(Finding::warn(CHECK, what, why, fix));
                None
            }
            Err(error) => {
                let fix = "correct proxy and proxy_password_file in [network] of agent.toml, or HTTPS_PROXY";
                let what = "the proxy's address or password cannot be used";
                found.push(Finding::fail(CHECK, what, error.to_string(), fix));
                None
            }
        }
    }

    /// Whether the daemon's environment names the same proxy as this command's.
    fn same_proxy(&self, own: Option<String>) -> Option<Finding> {
        let daemons = self.daemons_proxy.as_ref().filter(|daemons| **daemons != own)?;
        let named = |proxy: &Option<String>| proxy.clone().unwrap_or_else(|| "none".into());
        let what = format!("here {}, for the daemon {}", named(&own), named(daemons));
        let why = "what follows here was tried by this command's way, and not by the daemon's";
        let fix =
            "proxy = \"http://HOST:PORT\", or \"none\", in [network] of agent.toml holds for both";
        Some(Finding::warn("proxy", what, why, fix))
    }

    /// The tunnel, if there is a proxy, and TLS. In the answer: nothing if TLS was not reached; else
    /// whether the certificate is believed, or what it says if not.
    async fn tls(
        &self,
        uri: &Uri,
        proxy: Option<Proxy>,
        found: &mut Vec<Finding>,
    ) -> Option<Result<(), Option<Shown>>> {
        let through = proxy.as_ref().map(Proxy::name);
        let mut connector = Connector::new(proxy);
        let line = match timeout(CONNECT, connector.call(uri.clone())).await {
            Ok(Ok(line)) => line,
            Ok(Err(error)) => {
                found.push(no_tunnel(error.as_ref()));
                return None;
            }
            Err(_) => {
                let what = format!("no tunnel within {} s", CONNECT.as_secs());
                let fix = "ask the proxy's administrator what it does with CONNECT to this address";
                found.push(Finding::fail("tunnel", what, "the proxy does not answer", fix));
                return None;
            }
        };
        if let Some(proxy) = through {
            let authority = uri.authority().map(ToString::to_string).unwrap_or_default();
            found.push(Finding::ok("tunnel", format!("{proxy} connects to {authority} (CONNECT)")));
        }
        let roots = match trust::roots(&self.config.network, self.pinned()) {
            Ok(roots) => roots.unwrap_or_else(rustls::RootCertStore::empty),
            Err(error) => {
                let fix = "correct trust and ca_file in [network] of agent.toml";
                let what = "there is nobody whose certificates are believed";
                found.push(Finding::fail("tls", what, error.to_string(), fix));
                return None;
            }
        };
        let host = uri.host().unwrap_or_default();
        let Ok(inspected) = timeout(CONNECT, inspect(line, host, roots, self.client())).await
        else {
            let what = format!("no handshake within {} s", CONNECT.as_secs());
            let fix = "ask the network's administrator what lies between; is it the right port?";
            found.push(Finding::fail("tls", what, "the other end is silent", fix));
            return None;
        };
        found.extend(self.handshake(host, &inspected));
        Some(inspected.outcome.map_err(|_| inspected.shown))
    }

    fn handshake(&self, host: &str, inspected: &Inspected) -> Vec<Finding> {
        const CHECK: &str = "tls";
        let shown = inspected.shown.as_ref();
        let said = shown.map_or_else(
            || "no certificate was shown".to_owned(),
            |shown| format!("certificate for {}, issued by {}", shown.names, shown.issuer),
        );
        match &inspected.outcome {
            Ok(()) => {
                let believed = format!("{said}, believed: {}", self.believed());
                let soon = shown.map(|shown| {
                    let (window, now) = ((shown.from, shown.until), self.clock.now());
                    let fix = "tell the coordinator's operator: its certificate is not renewed";
                    let what = "the coordinator's certificate";
                    clocks::validity("tls", what, window, now, ENDS_SOON, fix)
                });
                [Finding::ok(CHECK, believed)].into_iter().chain(soon).collect()
            }
            Err(refusal) => {
                let (why, fix) = self.refused(host, refusal, shown);
                let what = match refusal {
                    Refusal::OfOurs(_) => {
                        "the other end refuses this agent's certificate".to_owned()
                    }
                    _ => format!("not believed: {said}"),
                };
                vec![Finding::fail(CHECK, what, why, fix)]
            }
        }
    }

    /// The coordinator's authorities from the invitation, PEM.
    fn pinned(&self) -> &str {
        self.credentials.map(|credentials| credentials.ca.as_str()).unwrap_or_default()
    }

    /// What the daemon shows of itself in a handshake.
    fn client(&self) -> Option<Client> {
        let credentials = self.credentials?;
        let certificate = CertificateDer::from_pem_slice(credentials.certificate.as_bytes());
        let key = PrivateKeyDer::from_pem_slice(credentials.tls_key.expose().as_bytes());
        let shown = self.config.network.identity == Proof::Certificate;
        shown.then_some((vec![certificate.ok()?], key.ok()?))
    }

    /// Whose certificates are believed.
    fn believed(&self) -> String {
        let network = &self.config.network;
        match (network.trust, &network.ca_file) {
            (Trust::File, Some(path)) => format!("trust = \"file\", {}", path.display()),
            (Trust::System, _) => "trust = \"system\", this machine's CAs".into(),
            _ => "trust = \"pinned\", the authority from the invitation (certs/ca.pem)".into(),
        }
    }

    /// Why a handshake failed, in plain words, and what to do.
    fn refused(&self, host: &str, refusal: &Refusal, shown: Option<&Shown>) -> (String, String) {
        let now = self.clock.now();
        let window =
            shown.map(|shown| format!("it is valid from {} to {}", shown.from, shown.until));
        let window = window.unwrap_or_default();
        let names = shown.map(|shown| shown.names.as_str()).unwrap_or_default();
        let (why, fix) = match refusal {
            Refusal::UnknownIssuer => (
                format!("nobody who is believed issued it ({})", self.believed()),
                "if a proxy ends TLS: trust = \"file\" with ca_file, and identity = \"signature\", in \
                 [network] of agent.toml; if the coordinator's authority was replaced: ask for an \
                 invitation, then collegium-agent reenrol"
                    .into(),
            ),
            Refusal::Expired => (
                format!("it has expired: {window}; this machine's clock says {now}"),
                "timedatectl status; if the clock is right, the coordinator's operator restarts it".into(),
            ),
            Refusal::NotValidYet => (
                format!("it is not valid yet: {window}; this machine's clock says {now}"),
                "timedatectl set-ntp true; if the clock is right, the coordinator's is wrong".into(),
            ),
            Refusal::WrongName => (
                format!("{host} is not among its names"),
                format!(
                    "coordinator = \"https://NAME:PORT\" in agent.toml, with one of: {names}; or the \
                     coordinator's operator adds {host} to names in coordinator.toml"
                ),
            ),
            Refusal::NoHttp2 => (
                "the other end does not offer HTTP/2 inside TLS".into(),
                "coordinator in agent.toml has to name the coordinator's port; a proxy that ends TLS has to speak HTTP/2".into(),
            ),
            Refusal::OfOurs(alert) => (
                alert.clone(),
                tls_advice(alert)
                    .unwrap_or("ask for an invitation, then collegium-agent reenrol")
                    .into(),
            ),
            Refusal::Other(words) => (
                words.clone(),
                "coordinator in agent.toml has to name the coordinator's port; ask what lies between".into(),
            ),
        };
        (why, fix)
    }

    /// What a certificate that was not believed says of the clocks: nothing, unless it is its time.
    fn by_certificate(&self, shown: Option<Shown>) -> Option<Finding> {
        let (shown, now) = (shown?, self.clock.now());
        let outside = now < shown.from || shown.until <= now;
        outside.then(|| {
            let fix =
                "timedatectl set-ntp true; if this clock is right, tell the coordinator's operator";
            let what = format!("outside of the certificate's time: {now}");
            let why = format!(
                "the other end's certificate is valid from {} to {}",
                shown.from, shown.until
            );
            Finding::fail("clock", what, why, fix)
        })
    }

    /// One call as the daemon makes them, and the clocks by its answer; none if there was no answer.
    async fn call(&self, found: &mut Vec<Finding>) -> Option<Finding> {
        const CHECK: &str = "coordinator";
        let route = match &self.route {
            Ok(route) => route,
            Err(reason) => {
                let fix = "restore keys/ and certs/ from a backup, or: collegium-agent reenrol";
                let what = "no call can be made";
                found.push(Finding::fail(CHECK, what, reason, fix));
                return None;
            }
        };
        let link = Link::new(&route.clone().within(CONNECT), &self.config.limits);
        let heard = link.heard();
        // The first call pays for the connection; the second one is timed.
        let first = link.authorities().await;
        let begun = self.clock.now();
        let answered = match &first {
            Ok(_) => link.authorities().await.map(drop),
            Err(_) => first.map(drop),
        };
        let ended = self.clock.now();
        let speaker = heard.speaker().map(|speaker| {
            let build = if speaker.build.is_empty() { "unknown" } else { &speaker.build };
            format!("protocol {}, version {build}", speaker.protocol)
        });
        found.push(called(answered, speaker));
        let (theirs, source) = heard.time()?;
        Some(clocks::compared(begun + ended.since(begun) / 2, theirs, source))
    }
}

fn called(answered: Result<(), LinkError>, speaker: Option<String>) -> Finding {
    const CHECK: &str = "coordinator";
    let said = speaker.unwrap_or_else(|| "it does not say which protocol".into());
    let fix = "tell the coordinator's operator what is said here; see Proxies and firewalls in OPERATIONS.md";
    match answered {
        Ok(()) => Finding::ok(CHECK, format!("it answers: {said}")),
        // Reached, known and let in: an older one that knows no such call.
        Err(LinkError::Refused { code: tonic::Code::Unimplemented, .. }) => {
            Finding::ok(CHECK, format!("it answers: {said}"))
        }
        Err(LinkError::Refused { message, .. }) => {
            Finding::fail(CHECK, format!("it refuses this agent: {said}"), message, fix).quoting()
        }
        Err(error) => Finding::fail(CHECK, "no answer to a call", error.to_string(), fix).quoting(),
    }
}

/// All addresses of a name.
async fn resolved(
    (host, port): &(String, u16),
    of_proxy: bool,
    found: &mut Vec<Finding>,
) -> Option<Vec<SocketAddr>> {
    const CHECK: &str = "name";
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    let reason = match timeout(PATIENCE, lookup_host((bare, *port))).await {
        Ok(Ok(addresses)) => {
            let mut addresses: Vec<_> = addresses.take(MAX_ADDRESSES).collect();
            addresses.dedup();
            if !addresses.is_empty() {
                let shown: Vec<_> = addresses.iter().map(|at| at.ip().to_string()).collect();
                let whose =
                    if of_proxy { " (the proxy; it looks for the coordinator)" } else { "" };
                found.push(Finding::ok(CHECK, format!("{host} is {}{whose}", shown.join(", "))));
                return Some(addresses);
            }
            "it has no address".to_owned()
        }
        Ok(Err(error)) => error.to_string(),
        Err(_) => format!("no answer within {} s", PATIENCE.as_secs()),
    };
    let key = if of_proxy { "proxy in [network] (or HTTPS_PROXY)" } else { "coordinator" };
    let fix = format!("getent hosts {bare}; correct {key} of agent.toml, or /etc/resolv.conf");
    found.push(Finding::fail(CHECK, format!("{host} cannot be resolved"), reason, fix));
    None
}

/// Whether any of the addresses takes a connection.
async fn connected(
    (host, port): &(String, u16),
    addresses: Vec<SocketAddr>,
    of_proxy: bool,
    found: &mut Vec<Finding>,
) -> bool {
    const CHECK: &str = "tcp";
    let all = addresses.len();
    let mut tries = JoinSet::new();
    for address in addresses {
        tries.spawn(async move {
            let connecting = timeout(PATIENCE, TcpStream::connect(address)).await;
            match connecting {
                Ok(Ok(_)) => Ok(()),
                Ok(Err(error)) => Err(format!("{address}: {error}")),
                Err(_) => Err(format!("{address}: no answer within {} s", PATIENCE.as_secs())),
            }
        });
    }
    let outcomes = tries.join_all().await;
    let failed: Vec<_> = outcomes.into_iter().filter_map(Result::err).collect();
    let (well, why) = (all - failed.len(), failed.join("; "));
    let fix = if of_proxy {
        format!(
            "correct proxy in [network] of agent.toml, or HTTPS_PROXY; try: curl -v http://{host}:{port}"
        )
    } else {
        format!(
            "allow TCP from here to {host}:{port} in the firewall, or name a proxy in [network] of agent.toml"
        )
    };
    let what = format!("{well} of {all} addresses of {host}:{port} take connections");
    found.push(match (well, failed.len()) {
        (0, _) => Finding::fail(CHECK, what, why, fix),
        (_, 0) => Finding::ok(CHECK, what),
        _ => Finding::warn(CHECK, what, why, fix),
    });
    well > 0
}

/// Why there is no tunnel, or no connection.
fn no_tunnel(error: &(dyn std::error::Error + 'static)) -> Finding {
    const CHECK: &str = "tunnel";
    let Some(tunnel) = error.downcast_ref::<TunnelError>() else {
        let fix = "run this again; if it stays, ask the network's administrator";
        return Finding::fail(CHECK, "the connection broke", error.to_string(), fix);
    };
    let what = "the proxy makes no tunnel";
    let fix = match tunnel {
        TunnelError::Unreachable { .. } => {
            "correct proxy in [network] of agent.toml, or HTTPS_PROXY"
        }
        TunnelError::NoPassword(_) => {
            "proxy_password_file in [network] of agent.toml: a file (mode 0600) with user:password"
        }
        TunnelError::WrongPassword(_) => "correct the file proxy_password_file of agent.toml",
        TunnelError::Refused { .. } => {
            "ask the proxy's administrator to allow CONNECT to this address and port"
        }
        TunnelError::Confused { .. } | TunnelError::Surplus(_) => {
            "proxy in [network] of agent.toml has to name an HTTP proxy that knows CONNECT"
        }
    };
    Finding::fail(CHECK, what, tunnel.to_string(), fix)
}

#[cfg(test)]
mod tests;
