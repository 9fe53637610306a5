//! The runner's care for the coordinator's certificate authorities: it takes a list that is newer and
//! signed with the coordinator's key on the roster, and no other.

use std::{sync::Arc, time::Duration};

use collegium_shared::{
    credentials::Authorities, crypto::Digest, roster::VerifiedRoster, signed::Signed,
};
use thiserror::Error;
use tokio::time::Instant;

use super::{Failure, Runner};
use crate::{
    credentials::{self, CredentialsError},
    home::Home,
    identity,
    state::{InForce, LocalEvent},
};

/// No more than [`AT_ONCE`] lists are taken in such a time: each costs an entry, a connection and perhaps
/// a renewal.
const SPAN: Duration = Duration::from_secs(60);
/// A rotation is two lists: the new authority beside the old one, and alone.
const AT_ONCE: usize = 2;

/// When the last lists were taken.
#[derive(Debug, Default)]
pub(super) struct Taken([Option<Instant>; AT_ONCE]);

impl Taken {
    /// How long to wait before one more is taken.
    fn wait(&self, now: Instant) -> Duration {
        let since = |oldest: Instant| SPAN.saturating_sub(now.saturating_duration_since(oldest));
        self.0[0].map(since).unwrap_or_default()
    }

    fn note(&mut self, now: Instant) {
        self.0.rotate_left(1);
        self.0[AT_ONCE - 1] = Some(now);
    }
}

/// Why a list of authorities was not taken.
#[derive(Debug, Error, PartialEq, Eq)]
enum NotTaken {
    #[error("it is not signed with the coordinator's key on the roster")]
    Signature,
    #[error("it is version {given}, but version {seen} is in force")]
    Older { given: u64, seen: u64 },
    #[error("it holds no certificates that can be used, or too many")]
    Certificates,
}

impl Runner {
    /// Fetches the list that the coordinator announced, unless it is in force.
    pub(super) async fn follow_authorities(&mut self, announced: Digest) -> Result<(), Failure> {
        let seen = self.home.book.read(|state| state.authorities());
        if seen.is_some_and(|seen| seen.digest == announced) {
            return Ok(());
        }
        let Some(roster) = &self.roster else { return Ok(()) };
        let Some(signed) = self.stop.or(self.link.authorities()).await? else { return Ok(()) };
        match check(&signed, roster, seen) {
            Ok(pem) => {
                self.pause(self.taken.wait(Instant::now())).await;
                if self.stop.is_asked() {
                    return Err(Failure::Stopped);
                }
                self.take_authorities(&signed, pem).await?;
                self.taken.note(Instant::now());
                Ok(())
            }
            Err(reason) => {
                tracing::error!(%reason, "the coordinator's list of authorities is refused");
                Ok(())
            }
        }
    }

    async fn take_authorities(
        &self,
        signed: &Signed<Authorities>,
        pem: String,
    ) -> Result<(), Failure> {
        let home = Arc::clone(&self.home);
        Self::blocking(move || write(&home, &pem)).await?.map_err(|e| Failure::Fatal(e.into()))?;
        let version = signed.body.version;
        let certificates = signed.body.certificates.len();
        let event =
            LocalEvent::AuthoritiesAccepted { authorities: signed.digest(), version, certificates };
        self.record(vec![event.into()]).await?;
        tracing::info!(version, certificates, "the coordinator's certificate authorities changed");
        let route = identity::route(&self.home.config, &self.home.identity, &self.home.clock);
        self.link.reconnect(&route.map_err(|error| Failure::Fatal(error.into()))?);
        self.look.notify_one();
        Ok(())
    }
}

/// The certificates in PEM, if the list may take the place of the one in force.
fn check(
    signed: &Signed<Authorities>,
    roster: &VerifiedRoster,
    seen: Option<InForce>,
) -> Result<String, NotTaken> {
    let list = signed.verify(roster.coordinator()).map_err(|_| NotTaken::Signature)?;
    if let Some(seen) = seen.filter(|seen| list.version <= seen.version) {
        return Err(NotTaken::Older { given: list.version, seen: seen.version });
    }
    let pem = list.certificates.concat();
    let usable = credentials::authorities(&pem);
    if usable.is_some_and(|usable| usable.len() == list.certificates.len()) {
        Ok(pem)
    } else {
        Err(NotTaken::Certificates)
    }
}

fn write(home: &Home, pem: &str) -> Result<(), CredentialsError> {
    credentials::write_authorities(home.dir(), pem)?;
    home.identity.reload(home.dir())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use collegium_shared::{
        clock::Timestamp,
        crypto::SigningKey,
        roster::{RootKey, Roster},
    };
    use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair};

    use super::*;

    fn key() -> SigningKey {
        SigningKey::from_pkcs8(SigningKey::generate_pkcs8().unwrap().expose()).unwrap()
    }

    fn authority() -> String {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(1));
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().pem()
    }

    #[test]
    fn two_lists_are_taken_at_once_and_more_a_minute_later() {
        let (mut taken, begun) = (Taken::default(), Instant::now());
        let second = Duration::from_secs(1);
        for _ in 0..AT_ONCE {
            assert_eq!(taken.wait(begun), Duration::ZERO);
            taken.note(begun);
        }
        assert_eq!(taken.wait(begun + second), SPAN - second);
        assert_eq!(taken.wait(begun + SPAN), Duration::ZERO);
        taken.note(begun + SPAN);
        assert_eq!(taken.wait(begun + SPAN), Duration::ZERO, "the second of the next two");
        taken.note(begun + SPAN);
        assert_eq!(taken.wait(begun + SPAN), SPAN);
    }

    #[test]
    fn only_a_newer_list_by_the_coordinators_key_is_taken() {
        let (root, coordinator, middlebox) = (key(), key(), key());
        let roster = Roster {
            version: 1,
            previous: None,
            coordinator: coordinator.verifying_key(),
            issued_at: Timestamp::EPOCH,
            expires_at: Timestamp::EPOCH + Duration::from_secs(60),
            members: Vec::new(),
        };
        let public = root.verifying_key();
        let root_key = RootKey::pinned(public, &public.fingerprint()).unwrap();
        let roster = root_key.roster_at_rest(&Signed::sign(roster, &root)).unwrap();
        let (new, old) = (authority(), authority());
        let list = Authorities { version: 2, certificates: vec![new.clone(), old.clone()] };
        let signed = Signed::sign(list.clone(), &coordinator);
        assert_eq!(check(&signed, &roster, None), Ok(format!("{new}{old}")));
        let injected = Signed::sign(list.clone(), &middlebox);
        assert_eq!(check(&injected, &roster, None), Err(NotTaken::Signature));
        let mut changed = signed.clone();
        changed.body.certificates.push(authority());
        assert_eq!(check(&changed, &roster, None), Err(NotTaken::Signature));
        let seen = |version| Some(InForce { digest: Digest::of(b"x"), version });
        assert!(check(&signed, &roster, seen(1)).is_ok());
        for version in [2, 3] {
            let refused = Err(NotTaken::Older { given: 2, seen: version });
            assert_eq!(check(&signed, &roster, seen(version)), refused);
        }
        for certificates in [vec![], vec!["nonsense".to_owned()], vec![format!("{new}{old}")]] {
            let list = Authorities { version: 2, certificates };
            let signed = Signed::sign(list, &coordinator);
            assert_eq!(check(&signed, &roster, None), Err(NotTaken::Certificates));
        }
    }
}
