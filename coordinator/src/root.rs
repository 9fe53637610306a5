//! The consortium root's offline tool: makes the root key and signs rosters and registries with it.
//! Pure file work in a directory that only the root's keeper has; never talks to a network. It
//! keeps the last roster that it signed, so that the chain of rosters cannot fork.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use collegium_shared::{
    clock::Timestamp,
    crypto::{CryptoError, Digest, SigningKey, VerifyingKey},
    documents::{self, DocumentError, RootPublic, SignedDocument, UnsignedDocument},
    files::{Setup, SetupError},
    hand_over::SignedHandOver,
    ids::InstitutionId,
    roster::{Member, RegistryError, Roster, RosterError, VerifiedRoster},
    signed::{Signed, Statement},
};
use thiserror::Error;

pub mod case;
mod hand_overs;
mod summary;
mod table;

use collegium_shared::hand_over::BadHandOver;
use hand_overs::Vouched;

pub use table::{TableError, build_from_case, build_registry};

const KEY_FILE: &str = "root.key";
/// The root's public key; present means initialised.
pub const PUBLIC_FILE: &str = "root.pub.json";
const LAST_ROSTER: &str = "last-roster.json";

/// How long a roster holds that the coordinator proposes.
const ROSTER_LIFETIME: Duration = Duration::from_secs(365 * 86_400);

/// Why the root did not sign.
#[derive(Debug, Error)]
pub enum RootError {
    #[error(transparent)]
    Setup(#[from] SetupError),
    #[error(transparent)]
    Key(#[from] CryptoError),
    #[error(transparent)]
    Document(#[from] DocumentError),
    #[error("the roster is not well formed: {0}")]
    Roster(#[from] RosterError),
    #[error("the registry is not well formed: {0}")]
    Registry(#[from] RegistryError),
    #[error(
        "the legal entity of {0} is empty, longer than 200 characters or holds characters that do not print"
    )]
    BadEntity(InstitutionId),
    #[error("the time in which {0} is a member ends before it begins")]
    BadMembership(InstitutionId),
    #[error("the roster expires at {0}, which is past or before it was issued")]
    Expired(Timestamp),
    #[error(
        "this roster has version {given}, but the root signed version {last} before: it must be {}, and name {digest} as the one before it. Export the roster again from a coordinator that has imported version {last}",
        last + 1
    )]
    NotNext { given: u64, last: u64, digest: Digest },
    #[error(
        "the root has signed another roster of version {0} before: two of them would split the network"
    )]
    Forked(u64),
    #[error("the root has signed no roster yet, so this must be version 1 and follow none")]
    NotFirst,
    #[error(
        "{LAST_ROSTER} in {0} was not signed by this root: restore the directory from a backup"
    )]
    ForeignHistory(PathBuf),
    #[error(
        "the draft changes the key of {whose}, and the hand-over beside it does not vouch for that: {reason}. Do not sign it; ask whoever made the draft"
    )]
    BadHandOver { whose: String, reason: BadHandOver },
    #[error(
        "the draft holds a hand-over of a key that is not on the roster signed last, or not the next one on this one: do not sign it; ask whoever made the draft"
    )]
    StrayHandOver,
    #[error("nothing was signed")]
    Declined,
    #[error("{path}: {source}")]
    Io { path: PathBuf, source: io::Error },
}

/// Makes the root key in `root_dir`: `root.key` (mode 0600) and `root.pub.json`. Refuses a
/// directory that is initialised already.
pub fn init(root_dir: &Path) -> Result<RootPublic, RootError> {
    let setup = Setup::begin(root_dir, PUBLIC_FILE)?;
    let key = SigningKey::create(&setup.path().join(KEY_FILE))?;
    let public = RootPublic::new(key.verifying_key());
    documents::write(&setup.path().join(PUBLIC_FILE), &public)?;
    setup.commit()?;
    Ok(public)
}

/// Signs the document in `input` and writes it to `output`, once `confirm` has seen in plain words
/// what is being signed and agreed. Signing the same roster again gives the same document; a
/// different one of the same version, or one that skips a version, is refused.
pub fn sign(
    root_dir: &Path,
    input: &Path,
    output: &Path,
    now: Timestamp,
    confirm: impl FnOnce(&str) -> bool,
) -> Result<SignedDocument, RootError> {
    let key = SigningKey::load(&root_dir.join(KEY_FILE))?;
    let _lock = lock(root_dir)?;
    let unsigned: UnsignedDocument = documents::read(input)?;
    let last = last_roster(root_dir, &key.verifying_key())?;
    let words = match &unsigned {
        UnsignedDocument::Roster(roster) => {
            check_roster(roster, last.as_ref(), now)?;
            summary::roster(roster, last.as_ref(), &Vouched::default())
        }
        UnsignedDocument::RosterWithHandOvers { roster, hand_overs } => {
            check_roster(roster, last.as_ref(), now)?;
            let vouched = hand_overs::check(hand_overs, roster, last.as_ref())?;
            summary::roster(roster, last.as_ref(), &vouched)
        }
        UnsignedDocument::Registry(registry) => {
            registry.check()?;
            summary::registry(registry)
        }
    };
    if !confirm(&words) {
        return Err(RootError::Declined);
    }
    let root = key.verifying_key();
    let document = match unsigned {
        UnsignedDocument::Roster(roster) | UnsignedDocument::RosterWithHandOvers { roster, .. } => {
            let document = SignedDocument::Roster { root, signed: Signed::sign(roster, &key) };
            // Remembered before it is handed out: a signature that left is never forgotten.
            documents::write(&root_dir.join(LAST_ROSTER), &document)?;
            document
        }
        UnsignedDocument::Registry(registry) => {
            SignedDocument::Registry { root, signed: Signed::sign(registry, &key) }
        }
    };
    documents::write(output, &document)?;
    Ok(document)
}

/// The roster that the coordinator asks the root to sign: `members` in order, following `previous`,
/// valid for a year from `now`. `hand_overs` vouch for keys that are others than on `previous`.
pub fn unsigned_roster(
    mut members: Vec<Member>,
    coordinator: VerifyingKey,
    previous: Option<&VerifiedRoster>,
    hand_overs: Vec<SignedHandOver>,
    now: Timestamp,
) -> UnsignedDocument {
    members.sort_by(|a, b| a.institution.cmp(&b.institution));
    let roster = Roster {
        version: previous.map_or(0, VerifiedRoster::version) + 1,
        previous: previous.map(VerifiedRoster::digest),
        coordinator,
        issued_at: now,
        expires_at: now + ROSTER_LIFETIME,
        members,
    };
    if hand_overs.is_empty() {
        UnsignedDocument::Roster(roster)
    } else {
        UnsignedDocument::RosterWithHandOvers { roster, hand_overs }
    }
}

/// Keeps a second `sign` in the same directory waiting, so that two cannot both be the next.
fn lock(root_dir: &Path) -> Result<fs::File, RootError> {
    let path = root_dir.join(KEY_FILE);
    let locked = fs::File::open(&path).and_then(|file| file.lock().map(|()| file));
    locked.map_err(|source| RootError::Io { path, source })
}

fn last_roster(root_dir: &Path, root: &VerifyingKey) -> Result<Option<Roster>, RootError> {
    let path = root_dir.join(LAST_ROSTER);
    if !path.exists() {
        return Ok(None);
    }
    match documents::read(&path)? {
        SignedDocument::Roster { signed, .. } if signed.verify(root).is_ok() => {
            Ok(Some(signed.body))
        }
        _ => Err(RootError::ForeignHistory(root_dir.to_path_buf())),
    }
}

fn check_roster(roster: &Roster, last: Option<&Roster>, now: Timestamp) -> Result<(), RootError> {
    roster.check()?;
    for member in &roster.members {
        if !is_printable(&member.legal_entity) {
            return Err(RootError::BadEntity(member.institution.clone()));
        }
        if member.valid_until <= member.valid_from {
            return Err(RootError::BadMembership(member.institution.clone()));
        }
    }
    if roster.expires_at <= roster.issued_at || roster.expires_at <= now {
        return Err(RootError::Expired(roster.expires_at));
    }
    let given = roster.version;
    match last {
        None if given == 1 && roster.previous.is_none() => Ok(()),
        None => Err(RootError::NotFirst),
        Some(last) if last.digest() == roster.digest() => Ok(()),
        Some(last) if last.version == given => Err(RootError::Forked(given)),
        Some(last) if given == last.version + 1 && roster.previous == Some(last.digest()) => Ok(()),
        Some(last) => Err(RootError::NotNext { given, last: last.version, digest: last.digest() }),
    }
}

/// Whether a person who reads the text on a terminal sees what it says: nothing that moves the
/// cursor, reorders the line or is invisible.
fn is_printable(text: &str) -> bool {
    let hidden = |c: char| {
        c.is_control()
            || matches!(c, '\u{ad}' | '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
                | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{e0000}'..='\u{e0fff}')
    };
    let length = text.chars().count();
    !text.trim().is_empty() && length <= 200 && !text.chars().any(hidden)
}

#[cfg(test)]
mod tests;
