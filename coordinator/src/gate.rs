//! What every call passes before its message is decoded: whether both sides speak the same protocol,
//! whether the caller has an identity at all, and how large and slow one message may be. Without an
//! identity there is only enrolment, and nothing else is read. What a member may say is `rpc`'s.

pub mod signatures;

use std::{
    convert::Infallible,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use collegium_proto::convert::{CallProof, Malformed, Speaker, has_one_message, write_time};
use collegium_shared::{clock::Clock, crypto::Digest, ids::InstitutionId};
use http::{Request, Response};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use tonic::{Status, body::Body};
use tower::{Layer, Service};

use crate::{
    driver::Handle,
    listener::{ConnectionInfo, Counted, Counts, Peer},
};
use signatures::{SignatureError, Signatures};

/// The most bytes of a request to enrol, of which the certificate signing request may be 16 KiB.
pub const MAX_ENROLMENT: usize = 24 << 10;
/// The most bytes of a message that does not grow with the number of institutions.
const MAX_SHORT: usize = 64 << 10;
/// The most bytes of shares for 256 institutions, or of them: less than half of it is used.
const MAX_SHARES: usize = 128 << 10;
/// Calls of one institution at the same time, over all its connections, until their answers are taken:
/// an agent has one that waits and a few that do not.
const CALLS: usize = 16;
/// What gRPC puts before each message: a flag and its length.
const GRPC_PREFIX: usize = 5;
/// Calls that need no identity.
const ENROLMENT: &str = "/collegium.v1.Enrolment/";

/// How calls are let in.
pub struct Gate {
    handle: Handle,
    clock: Clock,
    /// None if calls without a client certificate are not taken.
    signatures: Option<Mutex<Signatures>>,
    calls: Counts<InstitutionId>,
    /// How long one message may take to arrive.
    patience: Duration,
}

/// One of the calls that an institution may have open.
type Open = Counted<InstitutionId>;

impl Gate {
    /// `signed_requests` lets calls in that are signed, over connections without a certificate. A
    /// message may take `patience` to arrive.
    pub fn new(handle: Handle, clock: Clock, signed_requests: bool, patience: Duration) -> Self {
        let signatures = signed_requests.then(|| Mutex::new(Signatures::new(clock.now())));
        Self { handle, clock, signatures, calls: Counts::new(CALLS), patience }
    }

    /// The request as it may go on to be decoded, and its place among its institution's calls.
    async fn pass(&self, request: Request<Body>) -> Result<(Request<Body>, Option<Open>), Status> {
        speaks_our_protocol(&request)?;
        let (mut head, body) = request.into_parts();
        let path = head.uri.path().to_owned();
        let info = head.extensions.get::<ConnectionInfo>().cloned();
        let (limit, proof) = match &info {
            _ if path.starts_with(ENROLMENT) => (MAX_ENROLMENT, None),
            Some(ConnectionInfo { peer: Some(_), .. }) => (longest(&path), None),
            _ => (longest(&path), Some(self.signed(&head.headers, &path, info.as_ref())?)),
        };
        let caller = proof.as_ref().map(|(_, info)| info).or(info.as_ref());
        let open = match caller.and_then(|info| info.peer.as_ref()) {
            Some(peer) => Some(self.calls.take(peer.institution.clone()).ok_or_else(too_many)?),
            None => None,
        };
        if !has_one_message(&path) {
            if let Some((_, info)) = proof {
                head.extensions.insert(info);
            }
            return Ok((Request::from_parts(head, body), open));
        }
        let message = read(body, limit, self.patience).await?;
        if let Some((content, info)) = proof {
            if Digest::of(&message) != content {
                return Err(Status::unauthenticated("the message is not the one that was signed"));
            }
            head.extensions.insert(info);
        }
        Ok((Request::from_parts(head, Body::new(Full::new(message))), open))
    }

    /// Who signed this call: the digest of what was signed, and the connection as one of this
    /// institution's.
    fn signed(
        &self,
        headers: &http::HeaderMap,
        path: &str,
        info: Option<&ConnectionInfo>,
    ) -> Result<(Digest, ConnectionInfo), Status> {
        let proof = CallProof::read(headers).map_err(|error| malformed(&error))?;
        let (Some(proof), Some(info)) = (proof, info) else {
            return Err(Status::unauthenticated(
                "this call needs a client certificate: enrol first",
            ));
        };
        let Some(signatures) = &self.signatures else {
            return Err(Status::unauthenticated(
                "this coordinator takes no signed calls; its operator can allow them: signed_requests in [listener] of coordinator.toml",
            ));
        };
        let network = self.handle.published().network;
        let enrolled = network.institutions().get(&proof.institution);
        let keys: Vec<_> =
            enrolled.iter().flat_map(|enrolled| enrolled.heard_identities()).copied().collect();
        // By the certificate of one of our authorities a signed call names this coordinator.
        let names = self.handle.ca.current().digests();
        signatures
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .admit(&proof, &keys, &names, path, self.clock.now())
            .map_err(|error| refused(&error))?;
        let institution = proof.institution.clone();
        if info.stay.as_ref().is_some_and(|stay| !stay.proved(&institution)) {
            return Err(Status::resource_exhausted("this institution has too many connections"));
        }
        let peer = Some(Peer { institution, key_digest: None });
        Ok((proof.content, ConnectionInfo { peer, ..info.clone() }))
    }
}

/// The most bytes of a call's message: only shares grow with the number of institutions.
fn longest(path: &str) -> usize {
    let method = path.rsplit('/').next().unwrap_or_default();
    if matches!(method, "SubmitShare" | "SubmitReveal") { MAX_SHARES } else { MAX_SHORT }
}

fn too_many() -> Status {
    Status::resource_exhausted(format!(
        "this institution has {CALLS} open calls, or answers that it has not taken, which is the most here"
    ))
}

/// Refuses another major version: the two would misunderstand each other.
fn speaks_our_protocol(request: &Request<Body>) -> Result<(), Status> {
    let caller = Speaker::read(request.headers()).map_err(|error| malformed(&error))?;
    let own = own();
    let newer = match caller.protocol.major.cmp(&own.protocol.major) {
        std::cmp::Ordering::Equal => return Ok(()),
        std::cmp::Ordering::Less => "agent",
        std::cmp::Ordering::Greater => "coordinator",
    };
    Err(Status::failed_precondition(format!(
        "this coordinator (version {}) speaks protocol {}, the agent (version {}) {}: update the {newer}",
        own.build,
        own.protocol,
        if caller.build.is_empty() { "unknown" } else { &caller.build },
        caller.protocol,
    )))
}

fn own() -> Speaker {
    Speaker::own(env!("CARGO_PKG_VERSION"))
}

/// One message of at most `limit` bytes, in reasonable time.
async fn read(body: Body, limit: usize, patience: Duration) -> Result<Bytes, Status> {
    let body = Limited::new(body, limit + GRPC_PREFIX).collect();
    match tokio::time::timeout(patience, body).await {
        Ok(Ok(message)) => Ok(message.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(Status::out_of_range(format!(
            "the message has more than {limit} bytes, which is the most here"
        ))),
        Ok(Err(error)) => Err(Status::aborted(format!("the message broke off: {error}"))),
        Err(_) => Err(Status::deadline_exceeded("the message did not arrive in time")),
    }
}

fn malformed(error: &Malformed) -> Status {
    Status::invalid_argument(error.to_string())
}

fn refused(error: &SignatureError) -> Status {
    let message = error.to_string();
    match error {
        SignatureError::TooOften => Status::resource_exhausted(message),
        SignatureError::Old => Status::unavailable(message),
        _ => Status::unauthenticated(message),
    }
}

/// Puts the gate in front of the services.
#[derive(Clone)]
pub struct GateLayer(pub Arc<Gate>);

impl<S> Layer<S> for GateLayer {
    type Service = Gated<S>;

    fn layer(&self, inner: S) -> Gated<S> {
        Gated { inner, gate: Arc::clone(&self.0) }
    }
}

/// Services behind the gate.
#[derive(Clone)]
pub struct Gated<S> {
    inner: S,
    gate: Arc<Gate>,
}

impl<S> Service<Request<Body>> for Gated<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>
        + Clone
        + Send
        + 'static,
    S::Future: Send,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        // The service that was found ready answers; a clone of it waits for the next call.
        let next = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, next);
        let gate = Arc::clone(&self.gate);
        let conduct = request.extensions().get::<ConnectionInfo>().map(|info| info.conduct.clone());
        Box::pin(async move {
            if let Some(conduct) = &conduct {
                conduct.called();
            }
            let (mut response, open) = match gate.pass(request).await {
                Ok((request, open)) => (inner.call(request).await?, open.map(Arc::new)),
                Err(status) => (status.into_http(), None),
            };
            if let Some(conduct) = conduct {
                response = response.map(|body| conduct.watch(body, open));
            }
            own().write(response.headers_mut());
            write_time(response.headers_mut(), gate.clock.now());
            Ok(response)
        })
    }
}

#[cfg(test)]
mod tests {
    use collegium_proto::convert::Version;
    use http_body_util::StreamBody;
    use tokio_stream::StreamExt;
    use tonic::Code;

    use super::*;

    fn call_by(protocol: Option<Version>) -> Request<Body> {
        let mut request = Request::new(Body::empty());
        if let Some(protocol) = protocol {
            Speaker { protocol, build: "9.9.9".into() }.write(request.headers_mut());
        }
        request
    }

    #[test]
    fn another_major_protocol_is_refused_with_what_to_update() {
        let Version { major, minor } = Version::OWN;
        let same = [Version { major, minor: 0 }, Version { major, minor: minor + 1 }];
        for good in [None, Some(same[0]), Some(same[1])] {
            assert!(speaks_our_protocol(&call_by(good)).is_ok(), "{good:?}");
        }
        for (major, update) in
            [(major - 1, "update the agent"), (major + 1, "update the coordinator")]
        {
            let refused = speaks_our_protocol(&call_by(Some(Version { major, minor: 7 })));
            let status = refused.unwrap_err();
            assert_eq!(status.code(), Code::FailedPrecondition);
            let both = [format!("{major}.7"), Version::OWN.to_string(), "9.9.9".to_owned()];
            assert!(both.iter().all(|words| status.message().contains(words)), "{status}");
            assert!(status.message().ends_with(update), "{status}");
        }
    }

    #[test]
    fn only_shares_may_be_long() {
        for method in ["SubmitShare", "SubmitReveal"] {
            assert_eq!(longest(&format!("/collegium.v1.Federation/{method}")), MAX_SHARES);
        }
        for path in ["/collegium.v1.Federation/Poll", "/collegium.v1.Federation/SubmitReady", ""] {
            assert_eq!(longest(path), MAX_SHORT);
        }
    }

    #[tokio::test]
    async fn a_message_is_read_up_to_its_limit() {
        let body = |length: usize| Body::new(Full::new(Bytes::from(vec![7; length])));
        let patience = Duration::from_secs(60);
        assert_eq!(read(body(10 + GRPC_PREFIX), 10, patience).await.unwrap().len(), 15);
        let status = read(body(11 + GRPC_PREFIX), 10, patience).await.unwrap_err();
        assert_eq!(status.code(), Code::OutOfRange);
    }

    #[tokio::test]
    async fn a_message_that_drips_is_given_up() {
        let drops = tokio_stream::iter(0..).then(async |_| {
            tokio::time::sleep(Duration::from_millis(5)).await;
            Full::new(Bytes::from_static(b"x")).frame().await.unwrap()
        });
        let body = Body::new(StreamBody::new(Box::pin(drops)));
        let status = read(body, usize::MAX >> 1, Duration::from_millis(100)).await.unwrap_err();
        assert_eq!(status.code(), Code::DeadlineExceeded);
    }
}
