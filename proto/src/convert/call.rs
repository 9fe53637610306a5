//! What every call says beside its message, in its metadata: which protocol the caller speaks, and,
//! where no client certificate reaches the coordinator, who calls. Owns the names and forms of these
//! headers and what a signature covers; whose key it has to be, and whether it came before, is
//! decided where the institutions are known.

use std::{fmt, str::FromStr};

use collegium_shared::{
    clock::Timestamp,
    crypto::{CryptoError, Digest, Signature, SigningKey, VerifyingKey},
    ids::InstitutionId,
};
use http::{HeaderMap, HeaderName, HeaderValue};

use super::{Malformed, Reason, malformed};
use crate::{MINOR, PROTOCOL};

const SPOKEN: &str = "collegium-protocol";
const BUILD: &str = "collegium-version";
const TIME: &str = "collegium-time";
const INSTITUTION: &str = "collegium-institution";
const SIGNED_AT: &str = "collegium-signed-at";
const NONCE: &str = "collegium-nonce";
const CONTENT: &str = "collegium-content-sha256";
const SIGNATURE: &str = "collegium-signature";

/// The domain of a call's signature.
const LABEL: &str = "collegium/v1/call";
/// The most bytes of a program's version.
const MAX_BUILD: usize = 32;

/// A version of the wire protocol. Equal majors understand each other; a higher minor adds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Version {
    pub major: u32,
    pub minor: u32,
}

impl Version {
    /// What this side speaks.
    pub const OWN: Self = Self { major: PROTOCOL, minor: MINOR };
    /// What a caller speaks that does not say so: the first version had no such header.
    const FIRST: Self = Self { major: 1, minor: 0 };
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

impl FromStr for Version {
    type Err = Reason;

    fn from_str(text: &str) -> Result<Self, Reason> {
        let number = |digits: &str| {
            let plain = digits.bytes().all(|b| b.is_ascii_digit());
            digits.parse().ok().filter(|_| plain).ok_or(Reason::Version)
        };
        let (major, minor) = text.split_once('.').ok_or(Reason::Version)?;
        Ok(Self { major: number(major)?, minor: number(minor)? })
    }
}

/// Which protocol and which program one side of a call is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Speaker {
    pub protocol: Version,
    /// The program's own version, for people; empty if it was not said.
    pub build: String,
}

impl Speaker {
    /// This side, in a program of version `build`.
    pub fn own(build: &str) -> Self {
        Self { protocol: Version::OWN, build: build.to_owned() }
    }

    /// Writes the headers; what cannot stand in one is left out.
    pub fn write(&self, headers: &mut HeaderMap) {
        put(headers, SPOKEN, &self.protocol.to_string());
        put(headers, BUILD, &self.build);
    }

    /// Reads the headers. Without them it is the first version that speaks.
    pub fn read(headers: &HeaderMap) -> Result<Self, Malformed> {
        let protocol = match text(headers, SPOKEN)? {
            None => Version::FIRST,
            Some(version) => version.parse().map_err(|reason| malformed(SPOKEN, reason))?,
        };
        let build = text(headers, BUILD)?.unwrap_or_default();
        match build.len() {
            0..=MAX_BUILD => Ok(Self { protocol, build: build.to_owned() }),
            given => Err(malformed(BUILD, Reason::TooLong { given, most: MAX_BUILD })),
        }
    }
}

/// Writes the time of the side that answers.
pub fn write_time(headers: &mut HeaderMap, now: Timestamp) {
    put(headers, TIME, &now.as_millis().to_string());
}

/// The time of the side that answered. None if it did not say so: the first versions did not.
pub fn read_time(headers: &HeaderMap) -> Result<Option<Timestamp>, Malformed> {
    if !headers.contains_key(TIME) {
        return Ok(None);
    }
    let millis: i64 = parse(headers, TIME, Reason::Time)?;
    let time = Timestamp::from_millis(millis);
    let whole = time.as_millis() == millis;
    whole.then_some(Some(time)).ok_or_else(|| malformed(TIME, Reason::Time))
}

/// Whether a call to this path carries exactly one message, which its signature then covers. The
/// other kind is a stream; what an upload carries is bound by the signed header in its last message.
pub fn has_one_message(path: &str) -> bool {
    path != "/collegium.v1.Federation/Upload"
}

/// The content that a signature names where nothing is covered.
pub fn no_content() -> Digest {
    Digest::of(b"")
}

/// An institution's signature over one call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CallProof {
    pub institution: InstitutionId,
    pub signed_at: Timestamp,
    pub nonce: [u8; 16],
    /// SHA-256 of the request's body, gRPC's prefix included, if it is one message; [`no_content`]
    /// otherwise.
    pub content: Digest,
    signature: Signature,
}

impl CallProof {
    /// Signs a call to `path` of the coordinator whose CA certificate has the digest `coordinator`.
    pub fn sign(
        key: &SigningKey,
        coordinator: &Digest,
        path: &str,
        institution: InstitutionId,
        (signed_at, nonce): (Timestamp, [u8; 16]),
        content: Digest,
    ) -> Self {
        let signature = Signature([0; 64]);
        let mut proof = Self { institution, signed_at, nonce, content, signature };
        proof.signature = key.sign(proof.digest(coordinator, path).as_bytes());
        proof
    }

    /// Whether `key` signed exactly this call to this coordinator.
    pub fn verify(
        &self,
        key: &VerifyingKey,
        coordinator: &Digest,
        path: &str,
    ) -> Result<(), CryptoError> {
        key.verify(self.digest(coordinator, path).as_bytes(), &self.signature)
    }

    fn digest(&self, coordinator: &Digest, path: &str) -> Digest {
        let parts: [&[u8]; 6] = [
            coordinator.as_bytes(),
            path.as_bytes(),
            self.institution.as_str().as_bytes(),
            &self.signed_at.as_millis().to_be_bytes(),
            &self.nonce,
            self.content.as_bytes(),
        ];
        Digest::of_parts(LABEL, &parts)
    }

    /// Writes the headers.
    pub fn write(&self, headers: &mut HeaderMap) {
        put(headers, INSTITUTION, self.institution.as_str());
        put(headers, SIGNED_AT, &self.signed_at.as_millis().to_string());
        put(headers, NONCE, &hex::encode(self.nonce));
        put(headers, CONTENT, &self.content.to_string());
        put(headers, SIGNATURE, &self.signature.to_string());
    }

    /// Reads the headers; none if the call is not signed.
    pub fn read(headers: &HeaderMap) -> Result<Option<Self>, Malformed> {
        if !headers.contains_key(SIGNATURE) {
            return Ok(None);
        }
        let millis: i64 = parse(headers, SIGNED_AT, Reason::Time)?;
        let signed_at = Timestamp::from_millis(millis);
        if signed_at.as_millis() != millis {
            return Err(malformed(SIGNED_AT, Reason::Time));
        }
        let mut nonce = [0; 16];
        hex::decode_to_slice(required(headers, NONCE)?, &mut nonce)
            .map_err(|_| malformed(NONCE, Reason::Hexadecimal(nonce.len())))?;
        Ok(Some(Self {
            institution: parse(headers, INSTITUTION, Reason::Name)?,
            signed_at,
            nonce,
            content: parse(headers, CONTENT, Reason::Hexadecimal(32))?,
            signature: parse(headers, SIGNATURE, Reason::Hexadecimal(64))?,
        }))
    }
}

fn put(headers: &mut HeaderMap, name: &'static str, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.insert(HeaderName::from_static(name), value);
    }
}

/// The one value of a header, if it is there.
fn text<'a>(headers: &'a HeaderMap, name: &'static str) -> Result<Option<&'a str>, Malformed> {
    let mut values = headers.get_all(name).iter();
    let first = values.next();
    if values.next().is_some() {
        return Err(malformed(name, Reason::Surplus));
    }
    let text = |value: &'a HeaderValue| value.to_str().map_err(|_| malformed(name, Reason::Text));
    first.map(text).transpose()
}

fn required<'a>(headers: &'a HeaderMap, name: &'static str) -> Result<&'a str, Malformed> {
    text(headers, name)?.ok_or_else(|| malformed(name, Reason::Missing))
}

fn parse<T: FromStr>(
    headers: &HeaderMap,
    name: &'static str,
    reason: Reason,
) -> Result<T, Malformed> {
    required(headers, name)?.parse().map_err(|_| malformed(name, reason))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PATH: &str = "/collegium.v1.Federation/Poll";

    fn key() -> SigningKey {
        SigningKey::from_pkcs8(SigningKey::generate_pkcs8().unwrap().expose()).unwrap()
    }

    fn proof(key: &SigningKey) -> CallProof {
        let when = (Timestamp::from_millis(1_800_000_000_000), [7; 16]);
        let (coordinator, content) = (Digest([1; 32]), Digest::of(b"message"));
        CallProof::sign(key, &coordinator, PATH, "school-a".parse().unwrap(), when, content)
    }

    #[test]
    fn a_signature_covers_everything_that_a_call_says() {
        let key = key();
        let signed = proof(&key);
        let (coordinator, public) = (Digest([1; 32]), key.verifying_key());
        assert!(signed.verify(&public, &coordinator, PATH).is_ok());
        assert!(signed.verify(&public, &Digest([2; 32]), PATH).is_err(), "another coordinator");
        let vote = "/collegium.v1.Federation/SubmitVote";
        assert!(signed.verify(&public, &coordinator, vote).is_err(), "another call");
        let changes: [fn(&mut CallProof); 4] = [
            |p| p.institution = "school-b".parse().unwrap(),
            |p| p.signed_at = Timestamp::from_millis(1_800_000_000_001),
            |p| p.nonce[0] ^= 1,
            |p| p.content = Digest::of(b"another message"),
        ];
        for change in changes {
            let mut changed = signed.clone();
            change(&mut changed);
            assert!(changed.verify(&public, &coordinator, PATH).is_err());
        }
    }

    #[test]
    fn what_is_written_is_read_and_nothing_else() {
        let signed = proof(&key());
        let mut headers = HeaderMap::new();
        assert_eq!(CallProof::read(&headers).unwrap(), None);
        signed.write(&mut headers);
        assert_eq!(CallProof::read(&headers).unwrap(), Some(signed));
        for (name, bad) in [
            (INSTITUTION, "../school"),
            (SIGNED_AT, "9223372036854775807"),
            (SIGNED_AT, "now"),
            (NONCE, "0707"),
            (CONTENT, "07"),
            (SIGNATURE, "zz"),
        ] {
            let mut headers = headers.clone();
            put(&mut headers, name, bad);
            assert_eq!(CallProof::read(&headers).unwrap_err().field, name, "{bad}");
            headers.remove(name);
            assert!(name == SIGNATURE || CallProof::read(&headers).is_err(), "without {name}");
        }
        headers.append(NONCE, HeaderValue::from_static("00"));
        assert_eq!(CallProof::read(&headers).unwrap_err().reason, Reason::Surplus);
    }

    #[test]
    fn who_does_not_say_a_version_speaks_the_first() {
        let mut headers = HeaderMap::new();
        let first = Speaker::read(&headers).unwrap();
        assert_eq!((first.protocol.to_string(), first.build.as_str()), ("1.0".into(), ""));
        Speaker::own("0.9.1").write(&mut headers);
        assert_eq!(Speaker::read(&headers).unwrap(), Speaker::own("0.9.1"));
        for bad in ["1", "1.", "1.x", "+1.0", "1.0.0", "99999999999.0"] {
            put(&mut headers, SPOKEN, bad);
            assert_eq!(Speaker::read(&headers).unwrap_err().field, SPOKEN, "{bad}");
        }
    }

    #[test]
    fn a_time_travels_and_may_be_missing() {
        let mut headers = HeaderMap::new();
        assert_eq!(read_time(&headers).unwrap(), None);
        let now = Timestamp::from_millis(1_785_585_600_007);
        write_time(&mut headers, now);
        assert_eq!(read_time(&headers).unwrap(), Some(now));
        for bad in ["9223372036854775807", "now", ""] {
            put(&mut headers, TIME, bad);
            assert_eq!(read_time(&headers).unwrap_err().field, TIME, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn no_header_can_break_the_reader(
            name in prop::sample::select(vec![SPOKEN, BUILD, TIME, INSTITUTION, SIGNED_AT, NONCE, CONTENT]),
            value in prop::collection::vec(any::<u8>(), 0..80),
        ) {
            let mut headers = HeaderMap::new();
            proof(&key()).write(&mut headers);
            if let Ok(value) = HeaderValue::from_bytes(&value) {
                headers.insert(HeaderName::from_static(name), value);
            }
            let (_, _, _) =
                (Speaker::read(&headers), CallProof::read(&headers), read_time(&headers));
        }
    }
}
