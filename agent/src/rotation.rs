//! Replacing the identity key: a next key waits until a roster names it, takes the place of the one before
//! between rounds, and that one is destroyed once the coordinator has heard the new one. Decides when a
//! step is allowed; the files are `next_key`'s, and the coordinator is told by the runner.

use std::path::Path;

use collegium_shared::{
    crypto::{CryptoError, VerifyingKey},
    hand_over::{Holder, SignedHandOver},
    journal::JournalError,
    next_key::{KeyFiles, KeyFilesError},
    roster::VerifiedRoster,
};
use thiserror::Error;

use crate::{
    home::{Home, unpoisoned},
    identity::IDENTITY_KEY,
    state::LocalEvent,
};

/// Why the identity key is not replaced.
#[derive(Debug, Error)]
pub enum RotationError {
    #[error(
        "the identity key was replaced a short while ago, and the coordinator has not heard the new one yet; run the agent until it has, then try again"
    )]
    Unconfirmed,
    #[error(transparent)]
    Files(#[from] KeyFilesError),
    #[error(transparent)]
    Journal(#[from] JournalError),
}

/// The identity key's files.
fn files(dir: &Path) -> KeyFiles {
    KeyFiles::beside(dir.join(IDENTITY_KEY))
}

/// Makes the next key and has the one in force vouch for it. What was begun before is answered again.
pub fn begin(home: &Home) -> Result<SignedHandOver, RotationError> {
    let _alone = unpoisoned(&home.rotating);
    let files = files(home.dir());
    if files.previous.exists() {
        return Err(RotationError::Unconfirmed);
    }
    let next = files.make_next()?;
    let known = home.book.read(|state| state.hand_over().cloned());
    if let Some(known) = known.filter(|known| known.body.new == next.verifying_key()) {
        return Ok(known);
    }
    let holder = Holder::Institution(home.institution().clone());
    let old = home.identity.signing_key();
    let hand_over = SignedHandOver::sign(holder, &old, &next, home.clock.now());
    let event = LocalEvent::IdentityHandedOver { hand_over: Box::new(hand_over.clone()) };
    home.book.record([event.into()])?;
    Ok(hand_over)
}

/// What became of the key that a roster may name.
#[derive(Debug)]
pub(crate) enum Standing {
    /// The roster names no next key of this institution's.
    Unchanged,
    /// The next key is in use.
    Replaced,
    /// The roster names a next key that cannot be read here: the key before stays, and is in no round.
    Unusable(KeyFilesError),
}

/// Goes over to the next key if `roster` names it. Only between rounds. Durable when this returns.
pub(crate) fn go_over(home: &Home, roster: &VerifiedRoster) -> Result<Standing, RotationError> {
    let _alone = unpoisoned(&home.rotating);
    let Some(hand_over) = home.book.read(|state| state.hand_over().cloned()) else {
        return Ok(Standing::Unchanged);
    };
    let member = roster.member(home.institution(), home.clock.now());
    let next = hand_over.body.new;
    if member.is_none_or(|member| member.identity != next) {
        return Ok(Standing::Unchanged);
    }
    let files = files(home.dir());
    let (key, signer) = match (files.next(&next), files.next(&next)) {
        (Ok(key), Ok(signer)) => (key, signer),
        (Err(error), _) | (_, Err(error)) => return Ok(Standing::Unusable(error)),
    };
    home.book.change_key(hand_over, signer)?;
    files.move_into_place()?;
    home.identity.replace_signing_key(key);
    Ok(Standing::Replaced)
}

/// Why the next key that this institution handed over to cannot be used; none if it can, or there is none.
pub(crate) fn next_key_error(home: &Home) -> Option<KeyFilesError> {
    let _alone = unpoisoned(&home.rotating);
    let next = home.book.read(|state| state.hand_over().map(|handed| handed.body.new))?;
    files(home.dir()).next(&next).err()
}

/// Whether the key before is still there because the new one was not heard yet.
pub(crate) fn unconfirmed(home: &Home) -> bool {
    files(home.dir()).previous.exists()
}

/// Removes the key before: the new one was heard.
pub(crate) fn destroy_previous(home: &Home) -> Result<(), RotationError> {
    let _alone = unpoisoned(&home.rotating);
    Ok(files(home.dir()).destroy_previous()?)
}

/// Does what is left of a replacement that a crash interrupted.
pub(crate) fn finish(dir: &Path, journal: &Path) -> Result<(), RotationError> {
    Ok(files(dir).finish(journal)?)
}

/// The public key that verifies the log in `journal`, at any moment of a replacement.
pub fn log_key(dir: &Path, journal: &Path) -> Result<VerifyingKey, CryptoError> {
    files(dir).log_key(journal)
}

#[cfg(test)]
mod tests;
