//! How `enroll` is told of the institution's network: the same choices as `[network]` of agent.toml,
//! which it writes.

use std::path::PathBuf;

use anyhow::Context;
use clap::Args;
use collegium_shared::service::credential;

use crate::config::network::{Network, Proof, Proxy, Trust};

#[derive(Args)]
pub(super) struct NetworkArgs {
    /// "environment" (HTTPS_PROXY, NO_PROXY), "none", or http://HOST:PORT.
    #[arg(long, default_value = "environment")]
    proxy: String,
    /// user:password for the proxy: a file (mode 0600), or credential:NAME.
    #[arg(long)]
    proxy_password_file: Option<PathBuf>,
    /// Whose certificate is believed.
    #[arg(long, value_enum, default_value_t = Trust::Pinned)]
    trust: Trust,
    /// The CA certificates for --trust file, PEM.
    #[arg(long)]
    ca_file: Option<PathBuf>,
    /// How the coordinator learns who calls: by signature where a proxy ends TLS.
    #[arg(long, value_enum, default_value_t = Proof::Certificate)]
    identity: Proof,
}

impl NetworkArgs {
    pub(super) fn network(self) -> anyhow::Result<Network> {
        let complete =
            |path: PathBuf| path.canonicalize().with_context(|| path.display().to_string());
        let password = match self.proxy_password_file {
            Some(path) if credential::named(&path).is_none() => Some(complete(path)?),
            named => named,
        };
        let network = Network {
            proxy: Proxy::try_from(self.proxy)?,
            proxy_password_file: password,
            trust: self.trust,
            ca_file: self.ca_file.map(complete).transpose()?,
            identity: self.identity,
        };
        network.check().map_err(anyhow::Error::msg)?;
        Ok(network)
    }
}
