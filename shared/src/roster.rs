//! What the consortium's offline root signs: who belongs (the roster) and what is taught (the
//! registry). The coordinator carries these documents and cannot change them.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::{
    architecture::Sizes,
    clock::Timestamp,
    crypto::{Digest, VerifyingKey},
    ids::InstitutionId,
    signed::{Signed, Statement},
};

/// The most institutions that one complete graph carries (PROTOCOL.md, phase 2).
pub const MAX_INSTITUTIONS: usize = 256;
/// The most items or competencies in a registry.
pub const MAX_REGISTRY: usize = 1 << 20;

/// One institution, as the consortium knows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Member {
    pub institution: InstitutionId,
    /// The legal entity behind it: one entity counts once, so that nobody can split itself.
    pub legal_entity: String,
    /// The Ed25519 key that the institution made on site and that the root compared out of band.
    pub identity: VerifyingKey,
    pub valid_from: Timestamp,
    pub valid_until: Timestamp,
}

/// The members of the network and the coordinator's key: hash-chained, expiring.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Roster {
    /// 1 for the first; each next is one more.
    pub version: u64,
    /// The digest of the roster before; none for the first.
    pub previous: Option<Digest>,
    /// The key that signs plans and model manifests.
    pub coordinator: VerifyingKey,
    pub issued_at: Timestamp,
    pub expires_at: Timestamp,
    /// Sorted by institution.
    pub members: Vec<Member>,
}

impl Statement for Roster {
    const CONTEXT: &'static str = "collegium/v1/roster";
}

impl Roster {
    /// Checks the form: members in order, each entity and each key once.
    pub fn check(&self) -> Result<(), RosterError> {
        check_members(&self.members)
    }
}

/// Why a roster is not believed.
#[derive(Debug, Error)]
pub enum RosterError {
    #[error(
        "the roster is not signed by the consortium root {expected}: compare the root's fingerprint with the one that you were given, and do not go on"
    )]
    WrongRoot { expected: Digest },
    #[error("the root key in this document has fingerprint {given}, but {expected} was expected")]
    WrongFingerprint { given: Digest, expected: Digest },
    #[error("roster {given} is older than roster {seen}, which was seen before")]
    Older { given: u64, seen: u64 },
    #[error("roster {version} does not follow from the roster before it")]
    BrokenChain { version: u64 },
    #[error("roster {version} expired at {expires_at}: the consortium has to sign a new one")]
    Expired { version: u64, expires_at: Timestamp },
    #[error("{0} stands in the roster twice or out of order")]
    Unordered(InstitutionId),
    #[error("the legal entity {0:?} stands in the roster twice: one entity counts once")]
    SplitEntity(String),
    #[error("two members of the roster have one identity key")]
    SharedIdentity,
    #[error("the roster has {0} members; at most {MAX_INSTITUTIONS} are possible")]
    TooMany(usize),
}

/// A roster whose root signature, form and expiry were checked. Only [`RootKey::roster`] makes one,
/// so code that needs a checked roster cannot be given another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifiedRoster {
    roster: Roster,
    digest: Digest,
}

impl VerifiedRoster {
    pub fn digest(&self) -> Digest {
        self.digest
    }

    pub fn version(&self) -> u64 {
        self.roster.version
    }

    pub fn previous(&self) -> Option<Digest> {
        self.roster.previous
    }

    pub fn expires_at(&self) -> Timestamp {
        self.roster.expires_at
    }

    /// From when on people are warned of the end: two thirds of its life.
    pub fn warn_from(&self) -> Timestamp {
        let Roster { issued_at, expires_at, .. } = self.roster;
        issued_at + expires_at.since(issued_at) / 3 * 2
    }

    pub fn coordinator(&self) -> &VerifyingKey {
        &self.roster.coordinator
    }

    pub fn members(&self) -> &[Member] {
        &self.roster.members
    }

    /// The institution's entry, if it is a member at `now`.
    pub fn member(&self, institution: &InstitutionId, now: Timestamp) -> Option<&Member> {
        self.roster
            .members
            .iter()
            .find(|m| m.institution == *institution)
            .filter(|m| m.valid_from <= now && now < m.valid_until)
    }

    /// How many institutions are members at `now`.
    pub fn active(&self, now: Timestamp) -> impl Iterator<Item = &Member> {
        self.roster.members.iter().filter(move |m| m.valid_from <= now && now < m.valid_until)
    }

    /// Refuses to go back: a roster must be at least as new as the last one seen, and the direct
    /// successor must name it. Rosters that were missed in between cannot be chained and are
    /// believed on the root's signature.
    pub fn follows(&self, seen: &VerifiedRoster) -> Result<(), RosterError> {
        let (given, last) = (self.version(), seen.version());
        let broken = (given == last && self.digest != seen.digest)
            || (given == last + 1 && self.roster.previous != Some(seen.digest));
        if given < last {
            Err(RosterError::Older { given, seen: last })
        } else if broken {
            Err(RosterError::BrokenChain { version: given })
        } else {
            Ok(())
        }
    }
}

/// The consortium root's public key, pinned by its fingerprint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RootKey(VerifyingKey);

impl RootKey {
    /// Accepts `key` only if its fingerprint is the one that was given out of band.
    pub fn pinned(key: VerifyingKey, fingerprint: &Digest) -> Result<Self, RosterError> {
        let given = key.fingerprint();
        if given == *fingerprint {
            Ok(Self(key))
        } else {
            Err(RosterError::WrongFingerprint { given, expected: *fingerprint })
        }
    }

    pub fn key(&self) -> &VerifyingKey {
        &self.0
    }

    /// Checks signature and form, but not expiry: for reading back what was accepted before.
    pub fn roster_at_rest(&self, signed: &Signed<Roster>) -> Result<VerifiedRoster, RosterError> {
        let wrong_root = |_| RosterError::WrongRoot { expected: self.0.fingerprint() };
        let roster = signed.verify(&self.0).map_err(wrong_root)?;
        check_members(&roster.members)?;
        Ok(VerifiedRoster { roster: roster.clone(), digest: roster.digest() })
    }

    /// Checks signature, form and expiry.
    pub fn roster(
        &self,
        signed: &Signed<Roster>,
        now: Timestamp,
    ) -> Result<VerifiedRoster, RosterError> {
        let verified = self.roster_at_rest(signed)?;
        let Roster { version, expires_at, .. } = verified.roster;
        if now < expires_at {
            Ok(verified)
        } else {
            Err(RosterError::Expired { version, expires_at })
        }
    }

    /// Checks the registry's signature and form.
    pub fn registry(&self, signed: &Signed<Registry>) -> Result<Registry, RegistryError> {
        let registry = signed.verify(&self.0).map_err(|_| RegistryError::WrongRoot)?;
        registry.check()?;
        Ok(registry.clone())
    }
}

fn check_members(members: &[Member]) -> Result<(), RosterError> {
    if members.len() > MAX_INSTITUTIONS {
        return Err(RosterError::TooMany(members.len()));
    }
    for pair in members.windows(2) {
        if pair[0].institution >= pair[1].institution {
            return Err(RosterError::Unordered(pair[1].institution.clone()));
        }
    }
    let (mut entities, mut identities) = (BTreeSet::new(), BTreeSet::new());
    for member in members {
        if !entities.insert(member.legal_entity.trim().to_lowercase()) {
            return Err(RosterError::SplitEntity(member.legal_entity.clone()));
        }
        if !identities.insert(member.identity) {
            return Err(RosterError::SharedIdentity);
        }
    }
    Ok(())
}

/// The competencies and shared items that mean the same everywhere.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Registry {
    pub version: u64,
    /// Sorted, no repetitions.
    pub competencies: Vec<String>,
    /// Sorted, no repetitions.
    pub items: Vec<String>,
}

impl Statement for Registry {
    const CONTEXT: &'static str = "collegium/v1/registry";
}

/// Why a registry is not believed.
#[derive(Debug, Error)]
pub enum RegistryError {
    #[error("the registry is not signed by the consortium root")]
    WrongRoot,
    #[error("the registry has no competency")]
    Empty,
    #[error("the registry holds more than {MAX_REGISTRY} {0}")]
    TooLarge(&'static str),
    #[error("entry {index} of the registry's {kind} is empty, too long, repeated or out of order")]
    Unordered { kind: &'static str, index: usize },
}

impl Registry {
    /// Sorts and checks what was read from a table.
    pub fn new(
        version: u64,
        competencies: BTreeSet<String>,
        items: BTreeSet<String>,
    ) -> Result<Self, RegistryError> {
        let registry = Self {
            version,
            competencies: competencies.into_iter().collect(),
            items: items.into_iter().collect(),
        };
        registry.check()?;
        Ok(registry)
    }

    /// How many items and competencies there are.
    pub fn sizes(&self) -> Sizes {
        let count = |names: &[String]| u32::try_from(names.len()).unwrap_or(u32::MAX);
        Sizes { items: count(&self.items), competencies: count(&self.competencies) }
    }

    /// Whether the competency has this name everywhere.
    pub fn has_competency(&self, name: &str) -> bool {
        self.competencies.binary_search_by(|known| known.as_str().cmp(name)).is_ok()
    }

    /// Whether the item has this name everywhere.
    pub fn has_item(&self, name: &str) -> bool {
        self.items.binary_search_by(|known| known.as_str().cmp(name)).is_ok()
    }

    /// Checks the form.
    pub fn check(&self) -> Result<(), RegistryError> {
        if self.competencies.is_empty() {
            return Err(RegistryError::Empty);
        }
        for (kind, names) in [("competencies", &self.competencies), ("items", &self.items)] {
            if names.len() > MAX_REGISTRY {
                return Err(RegistryError::TooLarge(kind));
            }
            let bad = |i: usize| {
                let name = &names[i];
                name.is_empty() || name.len() > 256 || (i > 0 && names[i - 1] >= *name)
            };
            if let Some(index) = (0..names.len()).find(|&i| bad(i)) {
                return Err(RegistryError::Unordered { kind, index });
            }
        }
        Ok(())
    }
}
