//! Replacing the identity key, as files and entries of the log: a next key waits until a roster names it,
//! takes the place of the one before between rounds, and that one is destroyed once the new one was
//! used. Owns the order of writes by which a crash never leaves the log under a key that is not there;
//! talks to nobody.
//!
//! ```text
//! keys/identity.next.key      made first, durable before the log says that the key in force vouches
//!                             for it; then it waits for the roster
//! (the log: signing_key_changed, sealed by the old key: from here on the new one counts)
//! keys/identity.previous.key  the old key, moved away; then the next key takes its place
//! keys/identity.key
//! ```
//!
//! The old key is kept until the coordinator has heard the new one, and then removed.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use collegium_shared::{
    crypto::{CryptoError, SigningKey, VerifyingKey},
    durable,
    hand_over::{Holder, SignedHandOver},
    journal::{self, Finding, History, JournalError},
    roster::VerifiedRoster,
};
use thiserror::Error;

use crate::{
    home::{Home, unpoisoned},
    identity::IDENTITY_KEY,
    state::LocalEvent,
};

const NEXT_KEY: &str = "keys/identity.next.key";
const PREVIOUS_KEY: &str = "keys/identity.previous.key";

/// Why the identity key is not replaced.
#[derive(Debug, Error)]
pub enum RotationError {
    #[error(
        "the identity key was replaced a short while ago, and the coordinator has not heard the new one yet; run the agent until it has, then try again"
    )]
    Unconfirmed,
    #[error(transparent)]
    Key(#[from] CryptoError),
    #[error(transparent)]
    Journal(#[from] JournalError),
    #[error("{path}: {source}")]
    Io { path: PathBuf, source: io::Error },
}

fn at(path: &Path) -> impl Fn(io::Error) -> RotationError {
    move |source| RotationError::Io { path: path.to_owned(), source }
}

/// Makes the next key and has the one in force vouch for it. What was begun before is answered again.
pub fn begin(home: &Home) -> Result<SignedHandOver, RotationError> {
    let _alone = unpoisoned(&home.rotating);
    let dir = home.dir();
    if dir.join(PREVIOUS_KEY).exists() {
        return Err(RotationError::Unconfirmed);
    }
    let path = dir.join(NEXT_KEY);
    let waiting = SigningKey::load(&path).ok();
    let known = home.book.read(|state| state.hand_over().cloned());
    let is_next = |known: &SignedHandOver| {
        waiting.as_ref().is_some_and(|key| key.verifying_key() == known.body.new)
    };
    if let Some(known) = known.filter(is_next) {
        return Ok(known);
    }
    let next = match waiting {
        Some(key) => key,
        None => {
            let pkcs8 = SigningKey::generate_pkcs8()?;
            durable::write(&path, pkcs8.expose()).map_err(at(&path))?;
            SigningKey::from_pkcs8(pkcs8.expose())?
        }
    };
    let holder = Holder::Institution(home.institution().clone());
    let old = home.identity.signing_key();
    let hand_over = SignedHandOver::sign(holder, &old, &next, home.clock.now());
    let event = LocalEvent::IdentityHandedOver { hand_over: Box::new(hand_over.clone()) };
    home.book.record([event.into()])?;
    Ok(hand_over)
}

/// Goes over to the next key if `roster` names it. Only between rounds. Durable when this returns.
pub(crate) fn go_over(home: &Home, roster: &VerifiedRoster) -> Result<bool, RotationError> {
    let _alone = unpoisoned(&home.rotating);
    let Some(hand_over) = home.book.read(|state| state.hand_over().cloned()) else {
        return Ok(false);
    };
    let member = roster.member(home.institution(), home.clock.now());
    let next = hand_over.body.new;
    if member.is_none_or(|member| member.identity != next) {
        return Ok(false);
    }
    let load = || SigningKey::load(&home.dir().join(NEXT_KEY));
    let key = load()?;
    if key.verifying_key() != next {
        return Err(CryptoError::BadKey(NEXT_KEY.into()).into());
    }
    let event = LocalEvent::SigningKeyChanged { hand_over: Box::new(hand_over) };
    home.book.change_key(event, load()?)?;
    move_into_place(home.dir())?;
    home.identity.replace_signing_key(key);
    Ok(true)
}

/// Whether the key before is still there because the new one was not heard yet.
pub(crate) fn unconfirmed(home: &Home) -> bool {
    home.dir().join(PREVIOUS_KEY).exists()
}

/// Removes the key before: the new one was heard.
pub(crate) fn destroy_previous(home: &Home) -> Result<(), RotationError> {
    let _alone = unpoisoned(&home.rotating);
    let path = home.dir().join(PREVIOUS_KEY);
    fs::remove_file(&path).and_then(|()| durable::sync_dir(&keys(home.dir()))).map_err(at(&path))
}

/// Does what is left of a replacement that a crash interrupted: forward if the log says that the next
/// key counts, else nothing. Takes the log's lock meanwhile.
pub(crate) fn finish(dir: &Path, journal: &Path) -> Result<(), RotationError> {
    if !dir.join(NEXT_KEY).exists() {
        return Ok(());
    }
    let _held = journal::hold(journal)?;
    if counts(dir, journal) { move_into_place(dir) } else { Ok(()) }
}

/// The public key that verifies the log in `journal`, at any moment of a replacement.
pub fn log_key(dir: &Path, journal: &Path) -> Result<VerifyingKey, CryptoError> {
    let path = if counts(dir, journal) { NEXT_KEY } else { IDENTITY_KEY };
    Ok(SigningKey::load(&dir.join(path))?.verifying_key())
}

/// Whether the log is the next key's already.
fn counts(dir: &Path, journal: &Path) -> bool {
    let Ok(next) = SigningKey::load(&dir.join(NEXT_KEY)) else { return false };
    let Ok(current) = SigningKey::load(&dir.join(IDENTITY_KEY)) else { return true };
    let next = next.verifying_key();
    let read = History::read(journal, &current.verifying_key());
    matches!(read, Err(Finding::HandedOver { new, .. }) if new == next)
}

/// Moves the old key away and the next one into its place. May be repeated from any point.
fn move_into_place(dir: &Path) -> Result<(), RotationError> {
    let keys = keys(dir);
    let rename = |from: &str, to: &str| {
        let (from, to) = (dir.join(from), dir.join(to));
        collegium_shared::faults::step(format_args!("rename {}", to.display()), || {
            fs::rename(&from, &to).and_then(|()| durable::sync_dir(&keys))
        })
        .map_err(at(&to))
    };
    if dir.join(IDENTITY_KEY).exists() {
        rename(IDENTITY_KEY, PREVIOUS_KEY)?;
    }
    rename(NEXT_KEY, IDENTITY_KEY)
}

fn keys(dir: &Path) -> PathBuf {
    dir.join("keys")
}

#[cfg(test)]
mod tests;
