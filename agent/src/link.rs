//! The only door to the coordinator: every byte that leaves the institution for the network, and
//! every byte that comes from there, passes here. Learner records and unmasked updates never do.
//!
//! Each call has its own deadline and is safe to repeat: the coordinator acknowledges the same bytes
//! again. What arrives is well formed (`collegium_proto::convert`) and not yet believed: signatures
//! and sense are checked by the session. How the institution's network lets calls out is [`Route`]'s.

mod backoff;
mod connector;
mod courier;
mod inspect;
mod pace;
pub(crate) mod probe;
mod proxy;
mod route;
#[cfg(test)]
mod tests;
mod transfer;
mod trust;

use std::{
    error::Error,
    future::Future,
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use collegium_proto::{
    MAX_MESSAGE,
    convert::{self, IdentityStep, Instance, Malformed, PollQuery},
    v1::{self, federation_client::FederationClient},
};
use collegium_shared::{
    blobs::BlobError,
    credentials::Authorities,
    crypto::{self, Signature},
    faults,
    ids::RoundId,
    protocol::{Decline, Phase, Ready, RevealHeader, ShareBody, ShareHeader, Vote},
    secagg::SharePiece,
    signed::Signed,
};
use thiserror::Error;
use tokio::sync::Notify;
use tonic::{Code, Response, Status};

use crate::limits::Limits;

pub use backoff::Backoff;
pub use collegium_proto::convert::{Documents, Polled, Speaker};
use courier::Courier;
pub use courier::{CallSigner, Heard};
use pace::Pace;
pub use proxy::ProxyError;
pub use route::{Credential, Route, RouteError};
pub use transfer::Traffic;
pub use trust::TrustError;

/// How long one answer, or one piece of a download, may take.
const CALL: Duration = Duration::from_secs(60);
/// How long a poll may take; the coordinator answers after 25 seconds at the latest.
const POLL: Duration = Duration::from_secs(60);
/// The most characters of the coordinator's words in an error.
const MAX_ACCOUNT: usize = 400;

/// Why a call gave no result.
#[derive(Debug, Error)]
pub enum LinkError {
    /// Nothing was decided: repeat the same call after a pause ([`Backoff`]).
    #[error("the coordinator cannot be reached: {reason}")]
    Unreachable { reason: String },
    /// The coordinator decided against this request; repeating it unchanged is of no use.
    #[error("the coordinator refused ({code:?}): {message}")]
    Refused { code: Code, message: String },
    #[error("the coordinator does not have it: {message}")]
    NotFound { message: String },
    #[error("the coordinator's answer is malformed: {0}; its operator has to look into it")]
    Malformed(#[from] Malformed),
    /// What was downloaded could not be stored, or was not what its digest promised.
    #[error("{0}")]
    Store(#[from] BlobError),
    /// The masked vector could not be produced.
    #[error("the upload could not be produced: {0}")]
    Source(Box<dyn Error + Send + Sync>),
}

impl From<Status> for LinkError {
    fn from(status: Status) -> Self {
        // A status with a source was made on this side: the transport failed.
        let retry = status.source().is_some()
            || matches!(
                status.code(),
                Code::Unavailable
                    | Code::DeadlineExceeded
                    | Code::Cancelled
                    | Code::Aborted
                    | Code::ResourceExhausted
                    | Code::Internal
                    | Code::Unknown
                    | Code::Ok
            );
        match status.code() {
            _ if retry => Self::Unreachable { reason: account(&status) },
            Code::NotFound => Self::NotFound { message: account(&status) },
            code => Self::Refused { code, message: account(&status) },
        }
    }
}

/// What a status says, down to its first cause, in one bounded line that is safe to log.
fn account(status: &Status) -> String {
    let mut text = status.message().to_owned();
    let mut cause = status.source();
    while let Some(error) = cause {
        let words = error.to_string();
        if !text.contains(&words) {
            text = format!("{text}: {words}");
        }
        cause = error.source();
    }
    let mut account: String =
        text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(MAX_ACCOUNT).collect();
    if let Some(step) = tls_advice(&account) {
        account = format!("{account}. {step}");
    }
    account
}

/// What to do about a handshake that failed, by the names that rustls has for it.
fn tls_advice(account: &str) -> Option<&'static str> {
    const ADVICE: [(&str, &str); 4] = [
        (
            "alert: CertificateRevoked",
            "The coordinator's operator has revoked this institution: ask them why",
        ),
        (
            "alert: CertificateExpired",
            "This agent's certificate has expired: check this machine's clock, else ask the coordinator's operator for a new invitation and run: collegium-agent reenrol",
        ),
        (
            "alert: UnknownCA",
            "The authority of this agent's certificate is no longer in force: ask the coordinator's operator for a new invitation and run: collegium-agent reenrol",
        ),
        (
            "UnknownIssuer",
            "The coordinator shows a certificate of an authority that is not known here: if its operator has replaced the authority, ask them for a new invitation and run: collegium-agent reenrol",
        ),
    ];
    ADVICE.iter().find(|(name, _)| account.contains(name)).map(|(_, advice)| *advice)
}

fn unreachable(reason: impl Into<String>) -> LinkError {
    LinkError::Unreachable { reason: reason.into() }
}

/// One call, given up after `deadline`. `name` is for tests.
async fn call<T>(
    name: &str,
    deadline: Duration,
    answer: impl Future<Output = Result<Response<T>, Status>>,
) -> Result<T, LinkError> {
    faults::edge(format_args!("before send {name}"));
    let answered = tokio::time::timeout(deadline, answer).await;
    faults::edge(format_args!("after send {name}"));
    match answered {
        Ok(answer) => Ok(answer?.into_inner()),
        Err(_) => Err(unreachable(format!("no answer within {} s", deadline.as_secs()))),
    }
}

fn client(courier: Courier) -> FederationClient<Courier> {
    FederationClient::new(courier)
        .max_decoding_message_size(MAX_MESSAGE)
        .max_encoding_message_size(MAX_MESSAGE)
}

/// The coordinator, as the agent sees it. Cheap to clone; clones share one connection, which is made
/// when it is needed and made again when it breaks.
#[derive(Clone)]
pub struct Link {
    /// Swapped when the certificate is renewed; calls that are under way keep the one they have.
    federation: Arc<RwLock<FederationClient<Courier>>>,
    swapped: Arc<Notify>,
    traffic: Arc<Traffic>,
    heard: Arc<Heard>,
    up: Arc<Pace>,
    down: Arc<Pace>,
    /// Of this process, so that the coordinator tells a copy of this agent from the agent.
    instance: Option<Instance>,
}

impl Link {
    /// Connects to nothing yet. Must be called inside a tokio runtime.
    pub fn new(route: &Route, limits: &Limits) -> Self {
        let courier = route.lazy();
        Self {
            up: Arc::new(Pace::new(limits.upload_kib_per_second)),
            down: Arc::new(Pace::new(limits.download_kib_per_second)),
            traffic: Arc::default(),
            heard: courier.heard(),
            swapped: Arc::default(),
            federation: Arc::new(RwLock::new(client(courier))),
            instance: crypto::random().ok().map(Instance),
        }
    }

    /// Makes the calls from here on by `route`. Those under way end where they began.
    pub(crate) fn reconnect(&self, route: &Route) {
        let fresh = client(route.lazy().hearing(Arc::clone(&self.heard)));
        *self.federation.write().unwrap_or_else(PoisonError::into_inner) = fresh;
        self.swapped.notify_one();
    }

    /// Waits until calls go another way: a poll that waits for news is better made anew.
    pub(crate) async fn swapped(&self) {
        self.swapped.notified().await;
    }

    /// Keeps to other limits from here on.
    pub(crate) fn keep_to(&self, limits: &Limits) {
        self.up.set(limits.upload_kib_per_second);
        self.down.set(limits.download_kib_per_second);
    }

    fn federation(&self) -> FederationClient<Courier> {
        self.federation.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What the coordinator says of itself.
    pub fn heard(&self) -> Arc<Heard> {
        Arc::clone(&self.heard)
    }

    /// What was uploaded through this link and its clones.
    pub fn traffic(&self) -> Arc<Traffic> {
        Arc::clone(&self.traffic)
    }

    /// Waits for news. Answers at once if `cursor` (from the last answer, empty at first) is out of
    /// date, else when something changes, or after the coordinator's patience with the same cursor
    /// and nothing else. `held` is the round whose lists the caller holds, and up to which phase;
    /// they are left out of the view ([`collegium_shared::protocol::RoundView::complete_from`]). `away`
    /// says that this institution accepts no new plan for now, so that no round waits for it.
    pub async fn poll(
        &self,
        cursor: &str,
        held: Option<(RoundId, Phase)>,
        away: bool,
    ) -> Result<Polled, LinkError> {
        let query = PollQuery { cursor: cursor.to_owned(), held, instance: self.instance, away };
        let request = v1::PollRequest::from(&query);
        let mut polled =
            Polled::try_from(call("poll", POLL, self.federation().poll(request)).await?)?;
        if polled.cursor.is_empty() {
            polled.cursor = query.cursor;
        }
        Ok(polled)
    }

    /// Phase 1: takes part.
    pub async fn ready(&self, ready: &Signed<Ready>) -> Result<(), LinkError> {
        let request = v1::ReadyMessage::from(ready);
        call("ready", CALL, self.federation().submit_ready(request)).await.map(drop)
    }

    /// Phase 2: deals shares to the list.
    pub async fn share(
        &self,
        header: &Signed<ShareHeader>,
        body: &ShareBody,
    ) -> Result<(), LinkError> {
        let request = v1::ShareMessage::from((header, body));
        call("share", CALL, self.federation().submit_share(request)).await.map(drop)
    }

    /// Phase 4: votes.
    pub async fn vote(&self, vote: &Signed<Vote>) -> Result<(), LinkError> {
        let request = v1::VoteMessage::from(vote);
        call("vote", CALL, self.federation().submit_vote(request)).await.map(drop)
    }

    /// Takes no part, or no further one, in a round.
    pub async fn decline(&self, decline: &Signed<Decline>) -> Result<(), LinkError> {
        let request = v1::DeclineMessage::from(decline);
        call("decline", CALL, self.federation().decline(request)).await.map(drop)
    }

    /// Phase 5: reveals the shares that a quorum asked for.
    pub async fn reveal(
        &self,
        header: &Signed<RevealHeader>,
        pieces: &[SharePiece],
    ) -> Result<(), LinkError> {
        let request = v1::RevealMessage::from((header, pieces));
        call("reveal", CALL, self.federation().submit_reveal(request)).await.map(drop)
    }

    /// A certificate in PEM over the key of a signing request (PKCS#10, DER), in place of the one that
    /// this link shows. Not verified.
    pub(crate) async fn renew(
        &self,
        csr: &[u8],
        signature: &Signature,
    ) -> Result<String, LinkError> {
        let signature = signature.as_bytes().to_vec();
        let request = v1::RenewRequest { csr: csr.to_vec(), signature };
        let reply =
            call("renew certificate", CALL, self.federation().renew_certificate(request)).await?;
        Ok(reply.certificate)
    }

    /// The signed list of the coordinator's certificate authorities, if the first one was ever
    /// replaced. Not verified.
    pub(crate) async fn authorities(&self) -> Result<Option<Signed<Authorities>>, LinkError> {
        let request = v1::AuthoritiesRequest {};
        let reply = call("authorities", CALL, self.federation().authorities(request)).await?;
        Ok(convert::authorities(&reply)?)
    }

    /// One step towards another identity key of this institution.
    pub(crate) async fn replace_identity(&self, step: &IdentityStep) -> Result<(), LinkError> {
        let request = v1::ReplaceIdentityRequest::from(step);
        call("replace identity", CALL, self.federation().replace_identity(request)).await.map(drop)
    }

    /// The current roster and registry. Not verified: the caller holds the pinned root.
    pub async fn documents(&self) -> Result<Documents, LinkError> {
        let request = v1::DocumentsRequest {};
        let reply = call("documents", CALL, self.federation().documents(request)).await?;
        Ok(Documents::try_from(reply)?)
    }
}
