//! Keeps the client certificate fresh while the daemon runs: a new TLS key made on site, a request
//! signed by the identity key, and a swap of the connection for the calls that come next. Never
//! touches a round: calls that are under way end on the connection that they began on.

use std::{sync::Arc, time::Duration};

use anyhow::Context;
use collegium_shared::{clock::Timestamp, credentials::renewal_digest};
use tokio::{sync::Notify, task};

use crate::{
    config::network::Proof,
    credentials::Pending,
    home::Home,
    identity,
    link::{Backoff, Link},
    state::LocalEvent,
};

/// How often the clock is looked at when nothing else happens.
const LOOK: Duration = Duration::from_secs(60);
/// Between two renewals, whatever the clocks say: a clock that is far ahead must not renew for ever.
const REST: Duration = Duration::from_secs(86_400);

/// The task that renews.
pub(crate) struct Renewal {
    home: Arc<Home>,
    link: Link,
    /// Wakes it to look again now.
    look: Arc<Notify>,
}

impl Renewal {
    pub(crate) fn new(home: Arc<Home>, link: Link, look: Arc<Notify>) -> Self {
        Self { home, link, look }
    }

    /// Renews whenever it is due, until it is dropped.
    pub(crate) async fn run(self) {
        let mut backoff = Backoff::default();
        let mut last: Option<Timestamp> = None;
        loop {
            let pause = if self.is_due(last) {
                match self.renew().await {
                    Ok(()) => {
                        last = Some(self.home.clock.now());
                        backoff.reset();
                        LOOK
                    }
                    Err(error) => {
                        tracing::warn!(error = %format!("{error:#}"), "the certificate was not renewed; trying again");
                        tokio::time::sleep(backoff.pause()).await;
                        continue;
                    }
                }
            } else {
                LOOK
            };
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.look.notified() => {}
            }
        }
    }

    fn is_due(&self, last: Option<Timestamp>) -> bool {
        let now = self.home.clock.now();
        let credentials = self.home.identity.credentials();
        let shown = self.home.config.network.identity == Proof::Certificate;
        // With an expired one no connection can be made any more: only a new invitation helps.
        if !shown || credentials.expired(now).is_some() {
            return false;
        }
        if !credentials.is_by_newest_authority() {
            return true;
        }
        let rested = last.is_none_or(|last| now.since(last) >= REST);
        rested && credentials.renew_at(&self.home.identity.fingerprint()) <= now
    }

    async fn renew(&self) -> anyhow::Result<()> {
        let home = Arc::clone(&self.home);
        let (pending, signature) = task::spawn_blocking(move || {
            let pending = Pending::prepare(home.dir(), home.institution())?;
            let replaces = home.identity.credentials().key_digest();
            let digest = renewal_digest(home.institution(), &replaces, &pending.csr);
            let signature = home.identity.signing_key().sign(digest.as_bytes());
            anyhow::Ok((pending, signature))
        })
        .await??;
        let certificate = self.link.renew(&pending.csr, &signature).await?;
        let home = Arc::clone(&self.home);
        task::spawn_blocking(move || replace(&home, &pending, &certificate)).await??;
        let route = identity::route(&self.home.config, &self.home.identity, &self.home.clock)?;
        self.link.reconnect(&route);
        let expires_at = self.home.identity.credentials().expires_at();
        tracing::info!(%expires_at, "the certificate was renewed");
        Ok(())
    }
}

/// Puts a certificate in place, and into the institution's log.
pub(crate) fn replace(home: &Home, pending: &Pending, certificate: &str) -> anyhow::Result<()> {
    let ca = home.identity.credentials().ca.clone();
    pending.install(home.dir(), home.institution(), certificate, &ca, home.clock.now())?;
    home.identity.reload(home.dir())?;
    let credentials = home.identity.credentials();
    let event = LocalEvent::CertificateReplaced {
        tls_key: credentials.key_digest(),
        expires_at: credentials.expires_at(),
    };
    home.book.record([event.into()]).context("the certificate is in place, but not in the log")
}
