//! The lives of client certificates: which of an institution's keys is heard now, when a renewed one
//! takes the place of the one before, and that a revoked institution is heard no more. Statements in
//! rounds rest on identity keys and are not judged here.

use std::time::Duration;

use collegium_shared::{
    clock::Timestamp,
    credentials::renewal_digest,
    crypto::{Digest, Signature, VerifyingKey},
    ids::InstitutionId,
    journal::JournalError,
};
use rcgen::PublicKeyData;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::{
    ca::{self, CaError},
    driver::{Driver, DriverError, Enrolment},
    enrol::CheckedEnrolment,
    listener::Peer,
    network::{Enrolled, Event, Network, NetworkEvent},
};

/// Misuses of one invitation that are logged.
const MAX_REFUSALS: u32 = 8;
/// Between two renewals of one institution: nobody fills the log.
const PAUSE: Duration = Duration::from_secs(60);
/// The longest reason of a revocation, in characters.
pub const MAX_REASON: usize = 200;

/// A certificate that was issued in place of another and not used yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Renewed {
    pub tls_key: Digest,
    pub certificate_expires_at: Timestamp,
    pub authority: Digest,
    pub at: Timestamp,
}

/// What a renewal that is allowed changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Renewal {
    New,
    /// Nothing: the same certificate was issued and recorded just now.
    Again,
}

/// Why and since when an institution is shut out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Revocation {
    pub reason: String,
    pub at: Timestamp,
}

/// Whose word counts, and with which certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// The certificate in use.
    Current,
    /// The renewed one, for the first time.
    Renewed,
}

/// Why a caller with a certificate of our authority is not heard.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum NotHeard {
    #[error(
        "this certificate is not, or no longer, the institution's current one; if this agent has no newer one, ask the coordinator's operator for a new invitation and run: collegium-agent reenrol"
    )]
    Superseded,
    #[error(
        "this certificate expired at {0}; ask the coordinator's operator for a new invitation and run: collegium-agent reenrol"
    )]
    Expired(Timestamp),
    #[error("this institution was revoked at {at}: {reason}. Ask the coordinator's operator")]
    Revoked { reason: String, at: Timestamp },
}

/// Why no certificate was issued in place of another.
#[derive(Debug, Error)]
pub enum RenewalError {
    #[error(transparent)]
    NotHeard(#[from] NotHeard),
    #[error("the request is not signed by the institution's identity key")]
    Signature,
    #[error(transparent)]
    Csr(#[from] CaError),
    #[error("a certificate is renewed over a connection that shows it")]
    NoCertificate,
    #[error("a certificate was renewed less than a minute ago; try again in {} s", .wait.as_secs() + 1)]
    TooSoon { wait: Duration },
}

/// A request whose form and possession of the new key were checked.
#[derive(Clone, Debug)]
pub struct RenewalRequest {
    /// Who asks, by the certificate that is to be replaced.
    pub peer: Peer,
    /// The digest of the TLS key that this connection shows.
    replaces: Digest,
    csr: Vec<u8>,
    tls_key: Digest,
    signature: Signature,
}

impl RenewalRequest {
    /// Checks sizes and the request's own signature, cheap things first.
    pub fn new(peer: Peer, csr: Vec<u8>, signature: &[u8]) -> Result<Self, RenewalError> {
        let signature = Signature::try_from(signature).map_err(|_| RenewalError::Signature)?;
        let replaces = peer.key_digest.ok_or(RenewalError::NoCertificate)?;
        let tls_key = ca::key_digest(&ca::csr_key(&csr)?.subject_public_key_info());
        Ok(Self { peer, replaces, csr, tls_key, signature })
    }
}

impl Enrolled {
    /// The same institution enrolled once more: what it said of its keys holds for as long as they are
    /// the same.
    pub(crate) fn keep(&mut self, before: Self) {
        if before.revoked.is_some() || before.identity != self.identity {
            return;
        }
        self.hand_over = before.hand_over;
        self.next_identity = before.next_identity;
        if before.tls_key == self.tls_key {
            self.renewed = before.renewed;
        }
    }

    /// A certificate was issued. Over the key in use it only holds longer.
    pub(crate) fn renew(&mut self, renewed: Renewed) {
        if self.tls_key == renewed.tls_key {
            self.certificate_expires_at = renewed.certificate_expires_at;
            self.authority = Some(renewed.authority);
        } else {
            self.renewed = Some(renewed);
        }
    }

    /// Whether a certificate over `tls_key` by `authority` may be issued already, `last` being when this
    /// process issued one.
    fn paced(
        &self,
        tls_key: &Digest,
        authority: Digest,
        last: Option<Timestamp>,
        now: Timestamp,
    ) -> Result<Renewal, RenewalError> {
        let last = last.max(self.renewed.map(|renewed| renewed.at));
        let wait = last.map(|last| PAUSE.saturating_sub(now.since(last))).unwrap_or_default();
        if wait.is_zero() {
            return Ok(Renewal::New);
        }
        match self.renewed {
            // The answer was lost.
            Some(renewed) if renewed.tls_key == *tls_key && renewed.authority == authority => {
                Ok(Renewal::Again)
            }
            // The operator replaced the authority meanwhile.
            None if self.authority.is_some_and(|by| by != authority) => Ok(Renewal::New),
            _ => Err(RenewalError::TooSoon { wait }),
        }
    }

    /// The renewed certificate was used: it is the only one from here on.
    pub(crate) fn take(&mut self, tls_key: &Digest) {
        if let Some(renewed) = self.renewed.take_if(|renewed| renewed.tls_key == *tls_key) {
            self.tls_key = renewed.tls_key;
            self.certificate_expires_at = renewed.certificate_expires_at;
            self.authority = Some(renewed.authority);
        }
    }

    /// Whether a caller with a verified certificate over `tls_key` is heard at `now`.
    pub fn standing(&self, tls_key: &Digest, now: Timestamp) -> Result<Standing, NotHeard> {
        self.not_revoked()?;
        let renewed = self.renewed.filter(|renewed| renewed.tls_key == *tls_key);
        let (standing, expires_at) = match renewed {
            Some(renewed) => (Standing::Renewed, renewed.certificate_expires_at),
            None if self.tls_key == *tls_key => (Standing::Current, self.certificate_expires_at),
            None => return Err(NotHeard::Superseded),
        };
        if now < expires_at { Ok(standing) } else { Err(NotHeard::Expired(expires_at)) }
    }

    /// Refuses a revoked institution, with the reason.
    pub fn not_revoked(&self) -> Result<(), NotHeard> {
        match self.revoked.clone() {
            None => Ok(()),
            Some(Revocation { reason, at }) => Err(NotHeard::Revoked { reason, at }),
        }
    }
}

impl Network {
    /// Whether a caller with this verified certificate is heard at `now`.
    pub fn standing(&self, peer: &Peer, now: Timestamp) -> Result<Standing, NotHeard> {
        let enrolled = self.institutions().get(&peer.institution).ok_or(NotHeard::Superseded)?;
        match &peer.key_digest {
            Some(tls_key) => enrolled.standing(tls_key, now),
            // The call is signed by the identity key: certificates do not matter.
            None => enrolled.not_revoked().map(|()| Standing::Current),
        }
    }

    /// Whether an operator shut this institution out.
    pub fn is_revoked(&self, institution: &InstitutionId) -> bool {
        self.institutions().get(institution).is_some_and(|enrolled| enrolled.revoked.is_some())
    }
}

impl Driver {
    /// Spends an invitation for a certificate, and records it before it is handed out.
    pub(crate) fn enrol(
        &mut self,
        request: CheckedEnrolment,
    ) -> Result<Result<Enrolment, DriverError>, JournalError> {
        let now = self.now();
        let CheckedEnrolment { institution, token_sha256, csr, identity } = request;
        let network = &self.state.network;
        // The same request again, because the answer was lost, gets a certificate over the same key.
        let again = network.institutions().get(&institution).is_some_and(|enrolled| {
            let key = ca::csr_key(&csr).map(|key| ca::key_digest(&key.subject_public_key_info()));
            let same = enrolled.identity == identity && enrolled.revoked.is_none();
            same && key.is_ok_and(|key| enrolled.tls_key == key)
        });
        let refused = match (network.root(), network.invitation(&token_sha256)) {
            (None, _) => return Ok(Err(DriverError::NoRoot)),
            (_, None) => Some("unknown"),
            (_, Some(i)) if i.institution != institution => Some("for another institution"),
            (_, Some(i)) if i.spent && !again => Some("already used"),
            (_, Some(i)) if i.expires_at <= now => Some("expired"),
            _ => None,
        };
        if let Some(reason) = refused {
            tracing::warn!(%institution, reason, "enrolment refused");
            // Only the first few misuses of a token that an operator made are worth a line in the
            // log: strangers cannot fill it.
            if network.invitation(&token_sha256).is_some_and(|i| i.refusals < MAX_REFUSALS) {
                let reason = format!("the token is {reason}");
                self.record(Event::Network(NetworkEvent::EnrolmentRefused {
                    institution,
                    token_sha256,
                    reason,
                }))?;
            }
            return Ok(Err(DriverError::Token(reason)));
        }
        let certificate = match self.ca.current().issue_client(&csr, &institution, now) {
            Ok(certificate) => certificate,
            Err(error) => return Ok(Err(error.into())),
        };
        let root = network.root();
        // Who is enrolled with this key needs no other entry: what the log says of it stays in force.
        let known =
            network.institutions().get(&institution).filter(|_| again).and_then(|e| e.authority);
        let spent = network.invitation(&token_sha256).is_some_and(|i| i.spent);
        if spent && known == Some(certificate.authority) {
            let enrolment = root.map(|root| Enrolment { certificate_pem: certificate.pem, root });
            return Ok(enrolment.ok_or(DriverError::NoRoot));
        }
        self.record(Event::Network(NetworkEvent::Enrolled {
            institution,
            identity,
            tls_key: certificate.key_digest,
            token_sha256,
            certificate_expires_at: certificate.not_after,
            authority: Some(certificate.authority),
        }))?;
        let enrolment = root.map(|root| Enrolment { certificate_pem: certificate.pem, root });
        Ok(enrolment.ok_or(DriverError::NoRoot))
    }

    /// Issues a certificate in place of another, and records it before it is handed out.
    pub(crate) fn renew(
        &mut self,
        request: &RenewalRequest,
    ) -> Result<Result<String, RenewalError>, JournalError> {
        let now = self.now();
        let renewal = match self.may_renew(request, now) {
            Ok(renewal) => renewal,
            Err(refused) => {
                let institution = &request.peer.institution;
                tracing::warn!(%institution, reason = %refused, "no renewal");
                return Ok(Err(refused));
            }
        };
        let institution = request.peer.institution.clone();
        let certificate = match self.ca.current().issue_client(&request.csr, &institution, now) {
            Ok(certificate) => certificate,
            Err(error) => return Ok(Err(error.into())),
        };
        if renewal == Renewal::Again {
            return Ok(Ok(certificate.pem));
        }
        self.issued.insert(institution.clone(), now);
        self.record(Event::Network(NetworkEvent::CertificateRenewed {
            institution,
            tls_key: certificate.key_digest,
            certificate_expires_at: certificate.not_after,
            authority: certificate.authority,
        }))?;
        Ok(Ok(certificate.pem))
    }

    fn may_renew(&self, request: &RenewalRequest, now: Timestamp) -> Result<Renewal, RenewalError> {
        let RenewalRequest { peer, replaces, csr, tls_key, signature } = request;
        let enrolled = self.state.network.institutions().get(&peer.institution);
        let enrolled = enrolled.ok_or(NotHeard::Superseded)?;
        enrolled.standing(replaces, now)?;
        let signed = renewal_digest(&peer.institution, replaces, csr);
        let is_theirs = |key: &VerifyingKey| key.verify(signed.as_bytes(), signature).is_ok();
        if !enrolled.heard_identities().any(is_theirs) {
            return Err(RenewalError::Signature);
        }
        let last = self.issued.get(&peer.institution).copied();
        enrolled.paced(tls_key, self.ca.current().issuing(), last, now)
    }

    /// A renewed certificate was used: from here on the one before is refused.
    pub(crate) fn certificate_used(&mut self, peer: &Peer) -> Result<(), JournalError> {
        let now = self.now();
        if self.state.network.standing(peer, now) != Ok(Standing::Renewed) {
            return Ok(());
        }
        let Peer { institution, key_digest: Some(tls_key) } = peer.clone() else { return Ok(()) };
        self.record(Event::Network(NetworkEvent::CertificateTaken { institution, tls_key }))
    }

    /// Shuts an institution out. The round that is open goes on without it.
    pub(crate) fn revoke(
        &mut self,
        institution: InstitutionId,
        reason: String,
    ) -> Result<Result<serde_json::Value, String>, JournalError> {
        let length = reason.chars().count();
        if !(1..=MAX_REASON).contains(&length) || reason.chars().any(char::is_control) {
            return Ok(Err(format!("--reason: use 1 to {MAX_REASON} characters that print")));
        }
        let Some(enrolled) = self.state.network.institutions().get(&institution) else {
            return Ok(Err(format!("{institution} is not enrolled; see: institutions")));
        };
        if let Err(known) = enrolled.not_revoked() {
            return Ok(Err(format!("{institution} is revoked already: {known}")));
        }
        let on_roster = self.is_on_roster(&institution);
        self.record(Event::Network(NetworkEvent::Revoked { institution, reason }))?;
        Ok(Ok(serde_json::json!({ "on_roster": on_roster })))
    }

    fn is_on_roster(&self, institution: &InstitutionId) -> bool {
        let roster = self.state.roster.as_deref();
        roster.is_some_and(|roster| roster.member(institution, self.now()).is_some())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const DAY: Duration = Duration::from_secs(86_400);
    const START: Timestamp = Timestamp::EPOCH;

    fn key(number: u8) -> Digest {
        Digest::of(&[number])
    }

    fn enrolled() -> Enrolled {
        Enrolled {
            legal_entity: "School".into(),
            identity: VerifyingKey([1; 32]),
            tls_key: key(0),
            certificate_expires_at: START + DAY * 90,
            authority: None,
            renewed: None,
            revoked: None,
            hand_over: None,
            next_identity: None,
        }
    }

    fn renewed(tls_key: Digest, certificate_expires_at: Timestamp, at: Timestamp) -> Renewed {
        Renewed { tls_key, certificate_expires_at, authority: Digest::of(b"ca"), at }
    }

    #[test]
    fn both_certificates_are_heard_until_the_new_one_is_used() {
        let mut enrolled = enrolled();
        let now = START + DAY * 50;
        enrolled.renew(renewed(key(1), now + DAY * 90, now));
        assert_eq!(enrolled.standing(&key(0), now), Ok(Standing::Current));
        assert_eq!(enrolled.standing(&key(1), now), Ok(Standing::Renewed));
        assert_eq!(enrolled.standing(&key(2), now), Err(NotHeard::Superseded));
        enrolled.take(&key(2));
        assert_eq!(enrolled.standing(&key(0), now), Ok(Standing::Current), "not the renewed one");
        enrolled.take(&key(1));
        assert_eq!(enrolled.standing(&key(0), now), Err(NotHeard::Superseded));
        assert_eq!(enrolled.standing(&key(1), now), Ok(Standing::Current));
    }

    #[test]
    fn each_certificate_is_heard_until_it_expires() {
        let mut enrolled = enrolled();
        let (end, now) = (enrolled.certificate_expires_at, START + DAY * 89);
        enrolled.renew(renewed(key(1), now + DAY * 90, now));
        assert_eq!(enrolled.standing(&key(0), end), Err(NotHeard::Expired(end)));
        assert_eq!(enrolled.standing(&key(1), end), Ok(Standing::Renewed));
        let later = now + DAY * 90;
        assert_eq!(enrolled.standing(&key(1), later), Err(NotHeard::Expired(later)));
    }

    #[test]
    fn who_enrols_again_with_the_same_keys_keeps_what_was_said_of_them() {
        let mut before = enrolled();
        before.next_identity = Some(VerifyingKey([2; 32]));
        before.renewed = Some(renewed(key(1), START + DAY * 90, START));
        let again = |before: &Enrolled, change: fn(&mut Enrolled)| {
            let mut again = enrolled();
            change(&mut again);
            again.keep(before.clone());
            (again.next_identity, again.renewed)
        };
        assert_eq!(again(&before, |_| {}), (before.next_identity, before.renewed));
        assert_eq!(again(&before, |e| e.tls_key = key(5)), (before.next_identity, None));
        assert_eq!(again(&before, |e| e.identity = VerifyingKey([3; 32])), (None, None));
        before.revoked = Some(Revocation { reason: "left".into(), at: START });
        assert_eq!(again(&before, |_| {}), (None, None));
    }

    #[test]
    fn certificates_are_issued_no_faster_than_one_a_minute() {
        let (ca, now) = (Digest::of(b"ca"), START + DAY);
        let seconds = |seconds| now + Duration::from_secs(seconds);
        let mut enrolled = enrolled();
        enrolled.authority = Some(ca);
        let paced =
            |enrolled: &Enrolled, number, last, at| enrolled.paced(&key(number), ca, last, at);
        let waits = |paced: Result<Renewal, RenewalError>| {
            let Err(RenewalError::TooSoon { wait }) = paced else { panic!("{paced:?}") };
            wait.as_secs()
        };
        assert_eq!(paced(&enrolled, 0, None, now).unwrap(), Renewal::New);
        // Over the key in use, as often as is asked for.
        assert_eq!(waits(paced(&enrolled, 0, Some(now), seconds(10))), 50);
        assert_eq!(paced(&enrolled, 0, Some(now), seconds(60)).unwrap(), Renewal::New);
        // Over the next key: the same answer again, and no other key.
        enrolled.renew(renewed(key(1), now + DAY * 90, now));
        assert_eq!(paced(&enrolled, 1, Some(now), seconds(10)).unwrap(), Renewal::Again);
        assert_eq!(waits(paced(&enrolled, 2, None, seconds(10))), 50);
        // Using each at once makes room for none.
        enrolled.take(&key(1));
        assert_eq!(waits(paced(&enrolled, 2, Some(now), seconds(10))), 50);
        let replaced = enrolled.paced(&key(2), Digest::of(b"next"), Some(now), seconds(10));
        assert_eq!(replaced.unwrap(), Renewal::New, "after ca rotate nobody has to wait");
    }

    #[test]
    fn a_renewal_over_the_same_key_prolongs_it() {
        let mut enrolled = enrolled();
        enrolled.renew(renewed(key(0), START + DAY * 140, START + DAY * 50));
        assert_eq!(enrolled.renewed, None);
        assert_eq!(enrolled.standing(&key(0), START + DAY * 139), Ok(Standing::Current));
    }

    #[test]
    fn a_revoked_institution_is_refused_with_the_reason() {
        let mut enrolled = enrolled();
        enrolled.revoked = Some(Revocation { reason: "left".into(), at: START });
        let refused = enrolled.standing(&key(0), START).unwrap_err();
        assert!(refused.to_string().contains("left"), "{refused}");
    }

    proptest! {
        /// Whatever was lost on the way: an agent that holds the key in use or the renewed one is
        /// heard, and never more than two keys are.
        #[test]
        fn nobody_is_locked_out(steps in prop::collection::vec((any::<bool>(), 0u8..6), 0..40)) {
            let mut enrolled = enrolled();
            for (renews, number) in steps {
                if renews {
                    enrolled.renew(renewed(key(number), START + DAY * 90, START));
                } else if enrolled.standing(&key(number), START) == Ok(Standing::Renewed) {
                    enrolled.take(&key(number));
                }
                let heard = (0..6).filter(|n| enrolled.standing(&key(*n), START).is_ok()).count();
                prop_assert!((1..=2).contains(&heard));
                prop_assert!(enrolled.standing(&enrolled.tls_key.clone(), START).is_ok());
            }
        }
    }
}
