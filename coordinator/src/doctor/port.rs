//! The coordinator's port as an agent on this machine meets it: names, TCP, TLS and the server's
//! certificate; or, if nobody serves, whether the port is free.

use std::{
    fs, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::Path,
    sync::Arc,
    time::Duration,
};

use collegium_shared::{
    clock::Timestamp,
    doctor::{Finding, clock as clocks},
};
use rustls::{
    ClientConfig, RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, ServerName},
};
use tokio::{
    net::{TcpListener, TcpStream, lookup_host},
    time::timeout,
};
use tokio_rustls::TlsConnector;

use crate::{ca, config::Config};

/// How long each step may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// The server's certificate is made anew when two thirds of its 90 days are over.
const ENDS_SOON: Duration = Duration::from_secs(20 * 86_400);

pub(super) async fn findings(
    dir: &Path,
    config: &Config,
    running: bool,
    now: Timestamp,
) -> Vec<Finding> {
    let mut found = names(&config.names).await;
    if running {
        found.push(served(dir, config, now).await);
    } else {
        found.push(free(config.listen).await);
    }
    found
}

/// Whether other machines can find this one by the names in its certificate.
async fn names(names: &[String]) -> Vec<Finding> {
    const CHECK: &str = "names";
    let here = |name: &String| {
        let address = name.parse::<IpAddr>();
        name == "localhost" || address.is_ok_and(|address| address.is_loopback())
    };
    if names.iter().all(here) {
        let why = "agents on other machines do not reach it by a name in its certificate";
        let fix = "names = [\"HOST\", ...] in coordinator.toml, then reload";
        return vec![Finding::warn(CHECK, names.join(", "), why, fix)];
    }
    let mut unknown = Vec::new();
    for name in names.iter().filter(|name| !here(name) && name.parse::<IpAddr>().is_err()) {
        let looked_up = timeout(PATIENCE, lookup_host((name.as_str(), 0))).await;
        let known = looked_up.is_ok_and(|found| found.is_ok_and(|mut at| at.next().is_some()));
        if !known {
            unknown.push(name.as_str());
        }
    }
    if unknown.is_empty() {
        return vec![Finding::ok(CHECK, names.join(", "))];
    }
    let what = format!("{} cannot be resolved here", unknown.join(", "));
    let why = "agents that use such a name may not find this machine";
    let fix = "correct names in coordinator.toml, or the DNS; then reload";
    vec![Finding::warn(CHECK, what, why, fix)]
}

/// Nobody serves: whether the port could be opened.
async fn free(listen: SocketAddr) -> Finding {
    const CHECK: &str = "port";
    match TcpListener::bind(listen).await {
        Ok(_) => Finding::ok(CHECK, format!("{listen} is free")),
        Err(error) => {
            let fix = match error.kind() {
                io::ErrorKind::AddrInUse => {
                    format!(
                        "ss -ltnp sport = :{} shows who has it; or another listen in coordinator.toml",
                        listen.port()
                    )
                }
                _ => {
                    "listen in coordinator.toml: an address of this machine, and a port above 1023"
                        .to_owned()
                }
            };
            Finding::fail(CHECK, format!("{listen} cannot be opened"), error.to_string(), fix)
        }
    }
}

async fn served(dir: &Path, config: &Config, now: Timestamp) -> Finding {
    const CHECK: &str = "port";
    let address = address(dir, config.listen);
    match timeout(PATIENCE, certificate(dir, config, address)).await {
        Ok(Ok((from, until))) => {
            let what = format!("{address} answers TLS; its certificate");
            let fix = "systemctl restart collegium-coordinator.service";
            clocks::validity(CHECK, &what, (from, until), now, ENDS_SOON, fix)
        }
        Ok(Err(error)) => {
            let what = format!("{address} does not answer as an agent needs it");
            let fix = "collegium-coordinator reload after a change of names; else restart it and read its log";
            Finding::fail(CHECK, what, format!("{error:#}"), fix)
        }
        Err(_) => {
            let what = format!("{address} does not answer within {} s", PATIENCE.as_secs());
            let fix = "look whether it is overloaded: top; limits in coordinator.toml";
            Finding::fail(CHECK, what, "agents wait as well", fix)
        }
    }
}

/// Where it really listens, from this machine.
fn address(dir: &Path, listen: SocketAddr) -> SocketAddr {
    let written = fs::read_to_string(dir.join("run").join("address")).unwrap_or_default();
    let mut address: SocketAddr = written.trim().parse().unwrap_or(listen);
    if address.ip().is_unspecified() {
        address.set_ip(match address {
            SocketAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
            SocketAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
        });
    }
    address
}

/// From when until when the server's certificate holds, once its chain and every name are accepted.
async fn certificate(
    dir: &Path,
    config: &Config,
    address: SocketAddr,
) -> anyhow::Result<(Timestamp, Timestamp)> {
    let mut roots = RootCertStore::empty();
    for authority in ca::read_certificates(&dir.join(ca::CERTIFICATE_FILE))? {
        roots.add(authority)?;
    }
    let mut client = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    client.alpn_protocols = vec![b"h2".to_vec()];
    let connector = TlsConnector::from(Arc::new(client));
    let mut window = None;
    for name in &config.names {
        let host = ServerName::try_from(name.clone())?;
        let stream = TcpStream::connect(address).await?;
        let stream = connector.connect(host, stream).await?;
        let (_, connection) = stream.get_ref();
        let shown = connection.peer_certificates().and_then(<[CertificateDer<'_>]>::first);
        window = shown.and_then(|shown| ca::validity(shown));
    }
    window.ok_or_else(|| anyhow::anyhow!("no certificate was shown"))
}
