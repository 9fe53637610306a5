//! A journal of typed events. Owns the envelope that every entry has on disk,
//! `{"v":1,"at":"<RFC 3339>","event":{...}}`; the events themselves belong to their domain.

use std::{marker::PhantomData, path::Path};

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::{Finding, History, Journal, JournalError};
use crate::{
    clock::Timestamp,
    crypto::{Digest, Signature, SigningKey},
};

/// The envelope's version. Events grow by optional fields; a new number is for a new envelope.
const VERSION: u32 = 1;

/// An event and when it happened.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Entry<E> {
    pub at: Timestamp,
    pub event: E,
}

#[derive(Serialize)]
struct Written<'a, E> {
    v: u32,
    at: Timestamp,
    event: &'a E,
}

/// A journal whose entries are events of type `E`, written as JSON.
pub struct Log<E> {
    journal: Journal,
    events: PhantomData<fn(E) -> E>,
}

impl<E: Serialize + DeserializeOwned> Log<E> {
    /// Opens or creates the journal in `dir`: see [`Journal::open`]. Events are read by
    /// [`Log::replay`].
    pub fn open(dir: &Path, origin: &str, signer: SigningKey) -> Result<Self, JournalError> {
        Ok(Self { journal: Journal::open(dir, origin, signer)?, events: PhantomData })
    }

    /// Adds an event to the batch and returns its index: see [`Journal::append`].
    pub fn append(&mut self, entry: &Entry<E>) -> Result<u64, JournalError> {
        self.journal.append(&encode(entry)?)
    }

    /// Records a change of the log's key: see [`Journal::change_key`]. The event is the variant
    /// `signing_key_changed` of `E`, with the fields `hand_over` and `taken`, the signature that `event`
    /// is called with. Returns the entry.
    pub fn change_key(
        &mut self,
        at: Timestamp,
        next: SigningKey,
        event: impl FnOnce(Signature) -> E,
    ) -> Result<Entry<E>, JournalError> {
        let taken = self.journal.take_over(&next)?;
        let entry = Entry { at, event: event(taken) };
        self.journal.change_key(&encode(&entry)?, next)?;
        Ok(entry)
    }

    /// Makes everything appended durable and returns the new root: see [`Journal::commit`].
    pub fn commit(&mut self) -> Result<Digest, JournalError> {
        self.journal.commit()
    }

    /// Calls `visit` with every committed entry, in order.
    pub fn replay<X: From<JournalError>>(
        &self,
        mut visit: impl FnMut(u64, Entry<E>) -> Result<(), X>,
    ) -> Result<(), X> {
        self.journal.replay(|index, payload| visit(index, decode(index, payload)?))
    }

    /// Committed entry `index`.
    pub fn read(&self, index: u64) -> Result<Entry<E>, JournalError> {
        decode(index, &self.journal.read(index)?)
    }

    /// Committed entries.
    pub fn len(&self) -> u64 {
        self.journal.len()
    }

    /// Whether nothing was ever committed.
    pub fn is_empty(&self) -> bool {
        self.journal.is_empty()
    }

    /// The RFC 6962 root over the committed entries.
    pub fn root(&self) -> Digest {
        self.journal.root()
    }

    /// Bytes of an unfinished batch that were cut off when the journal was opened.
    pub fn torn_bytes(&self) -> u64 {
        self.journal.torn_bytes()
    }

    /// The newest signed checkpoint as a note (C2SP).
    pub fn checkpoint(&self) -> &str {
        self.journal.history().checkpoint()
    }

    /// The committed entries as bytes, with proofs.
    pub fn history(&self) -> &History {
        self.journal.history()
    }

    /// Writes the static log for third-party verifiers: see [`Journal::publish`].
    pub fn publish(&self) -> Result<(), JournalError> {
        self.journal.publish()
    }
}

/// Calls `visit` with every entry of a journal that is only read, in order.
pub fn replay<E: DeserializeOwned, X: From<JournalError>>(
    history: &History,
    mut visit: impl FnMut(u64, Entry<E>) -> Result<(), X>,
) -> Result<(), X> {
    struct Stop<X>(X);
    impl<X: From<JournalError>> From<Finding> for Stop<X> {
        fn from(finding: Finding) -> Self {
            Self(JournalError::from(finding).into())
        }
    }
    let visit = |index, payload: &[u8]| {
        let entry = decode(index, payload).map_err(|error| Stop(error.into()))?;
        visit(index, entry).map_err(Stop)
    };
    history.replay(0, visit).map_err(|Stop(error)| error)
}

fn encode<E: Serialize>(entry: &Entry<E>) -> Result<Vec<u8>, JournalError> {
    let written = Written { v: VERSION, at: entry.at, event: &entry.event };
    serde_json::to_vec(&written).map_err(JournalError::Unwritable)
}

fn decode<E: DeserializeOwned>(index: u64, payload: &[u8]) -> Result<Entry<E>, JournalError> {
    // The version first: an envelope of another version may hold anything.
    #[derive(Deserialize)]
    struct Version {
        v: u32,
    }
    let unreadable = |reason: String| JournalError::Unreadable { index, reason };
    let syntax = |error: serde_json::Error| unreadable(error.to_string());
    match serde_json::from_slice::<Version>(payload).map_err(syntax)?.v {
        VERSION => {}
        other => return Err(unreadable(format!("version {other} of the envelope"))),
    }
    serde_json::from_slice(payload).map_err(syntax)
}
