//! What every call carries beside its message: the version that this agent speaks, and, where no
//! client certificate reaches the coordinator, the institution's signature over the call. Remembers
//! what the coordinator said of itself. Never looks into a message.

use std::{
    future::Future,
    mem,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll},
};

use collegium_proto::convert::{CallProof, Speaker, has_one_message, no_content, read_time};
use collegium_shared::{
    clock::{Clock, Timestamp},
    crypto::{self, CryptoError, Digest, SigningKey},
    ids::InstitutionId,
};
use http::{HeaderMap, Request, Response, header::DATE};
use http_body_util::{BodyExt, Full};
use tonic::{body::Body, transport::Channel};
use tower_service::Service;

use crate::home::unpoisoned;

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Signs calls in an institution's name.
pub struct CallSigner {
    pub key: Arc<SigningKey>,
    pub institution: InstitutionId,
    /// SHA-256 of the coordinator's CA certificate in DER.
    pub coordinator: Digest,
    pub clock: Clock,
}

impl CallSigner {
    /// Adds the signature over `request`, whose body is one message or not covered.
    async fn sign(&self, request: Request<Body>) -> Result<Request<Body>, BoxError> {
        let (mut head, mut body) = request.into_parts();
        let mut content = no_content();
        if has_one_message(head.uri.path()) {
            let message = body.collect().await?.to_bytes();
            content = Digest::of(&message);
            body = Body::new(Full::new(message));
        }
        let proof = self.proof(head.uri.path(), content)?;
        proof.write(&mut head.headers);
        Ok(Request::from_parts(head, body))
    }

    fn proof(&self, path: &str, content: Digest) -> Result<CallProof, CryptoError> {
        let when = (self.clock.now(), crypto::random::<16>()?);
        let institution = self.institution.clone();
        Ok(CallProof::sign(&self.key, &self.coordinator, path, institution, when, content))
    }
}

/// What the coordinator last said of itself.
#[derive(Default)]
pub struct Heard(Mutex<Said>);

#[derive(Clone, Default)]
struct Said {
    speaker: Option<Speaker>,
    time: Option<(Timestamp, &'static str)>,
}

impl Heard {
    /// Its protocol and build; none before the first answer.
    pub fn speaker(&self) -> Option<Speaker> {
        unpoisoned(&self.0).speaker.clone()
    }

    /// Its time when it answered, and where that stood; none if no answer had one.
    pub(super) fn time(&self) -> Option<(Timestamp, &'static str)> {
        unpoisoned(&self.0).time
    }

    fn hear(&self, headers: &HeaderMap) {
        let mut said = unpoisoned(&self.0);
        if let Ok(speaker) = Speaker::read(headers) {
            said.speaker = Some(speaker);
        }
        said.time = match read_time(headers) {
            Ok(Some(time)) => Some((time, "the coordinator's (collegium-time of its answer)")),
            // Of coordinators that say no more; behind a proxy that ends TLS it may be the proxy's.
            _ => date(headers).map(|time| (time, "the answer's (its date header)")),
        };
    }
}

/// The time in a Date header (RFC 9110, section 6.6.1).
fn date(headers: &HeaderMap) -> Option<Timestamp> {
    let text = headers.get(DATE)?.to_str().ok()?;
    let time = jiff::fmt::rfc2822::DateTimeParser::new().parse_timestamp(text).ok()?;
    Some(Timestamp::from_millis(time.as_millisecond()))
}

/// A channel whose calls carry what the coordinator wants to know.
#[derive(Clone)]
pub(crate) struct Courier {
    channel: Channel,
    signer: Option<Arc<CallSigner>>,
    heard: Arc<Heard>,
}

impl Courier {
    pub(super) fn new(channel: Channel, signer: Option<Arc<CallSigner>>) -> Self {
        Self { channel, signer, heard: Arc::default() }
    }

    /// The same, remembering what the coordinator says where it was remembered before.
    pub(super) fn hearing(self, heard: Arc<Heard>) -> Self {
        Self { heard, ..self }
    }

    pub(super) fn heard(&self) -> Arc<Heard> {
        Arc::clone(&self.heard)
    }
}

impl Service<Request<Body>> for Courier {
    type Response = Response<Body>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, BoxError>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.channel.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        // The channel that was found ready makes the call; a clone of it waits for the next one.
        let next = self.channel.clone();
        let mut channel = mem::replace(&mut self.channel, next);
        let (signer, heard) = (self.signer.clone(), Arc::clone(&self.heard));
        Box::pin(async move {
            Speaker::own(env!("CARGO_PKG_VERSION")).write(request.headers_mut());
            if let Some(signer) = signer {
                request = signer.sign(request).await?;
            }
            let response = channel.call(request).await?;
            heard.hear(response.headers());
            Ok(response)
        })
    }
}

#[cfg(test)]
mod tests {
    use collegium_proto::convert::write_time;
    use http::HeaderValue;

    use super::*;

    #[test]
    fn the_coordinators_own_time_goes_before_the_date() {
        let (heard, mut headers) = (Heard::default(), HeaderMap::new());
        heard.hear(&headers);
        assert_eq!(heard.time(), None);
        headers.insert(DATE, HeaderValue::from_static("Sun, 06 Nov 1994 08:49:37 GMT"));
        heard.hear(&headers);
        let (time, source) = heard.time().unwrap();
        assert_eq!(time.to_string(), "1994-11-06T08:49:37.000Z");
        assert!(source.contains("date"));
        write_time(&mut headers, Timestamp::EPOCH);
        heard.hear(&headers);
        assert_eq!(heard.time().unwrap().0, Timestamp::EPOCH);
        headers.insert(DATE, HeaderValue::from_static("yesterday"));
        headers.remove("collegium-time");
        heard.hear(&headers);
        assert_eq!(heard.time(), None);
    }
}
