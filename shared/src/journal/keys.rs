//! Changes of the key that signs a log's seals. The one kind of entry that the journal itself reads:
//! `{"event":{"type":"signing_key_changed","hand_over":{...},"taken":"..."}}`, sealed by the old key and
//! alone in its batch; every later seal is the new key's, and `taken` is that key's word on all entries
//! before. Knows nothing of who has to agree to a change.

use serde::Deserialize;

use crate::{
    crypto::{Digest, Signature, VerifyingKey},
    hand_over::{BadHandOver, HandOver, SignedHandOver, log_taken_digest},
};

/// The event's type.
const TYPE: &str = "signing_key_changed";

/// A change that the log holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Change {
    /// Entries up to and with the one that says it.
    pub size: u64,
    pub old: VerifyingKey,
    pub new: VerifyingKey,
}

/// What an entry says that changes the key.
pub(super) struct Said {
    pub hand_over: HandOver,
    taken: Option<Signature>,
}

impl Said {
    /// Whether the new key takes over the log of `origin` with `size` entries and this root before.
    pub(super) fn takes(&self, origin: &str, size: u64, root: &Digest) -> Result<(), BadHandOver> {
        let digest = log_taken_digest(origin, size, root);
        let taken = self.taken.as_ref().ok_or(BadHandOver::OtherLog)?;
        let new = &self.hand_over.new;
        new.verify(digest.as_bytes(), taken).map_err(|_| BadHandOver::OtherLog)
    }
}

#[derive(Deserialize)]
struct Envelope {
    event: Event,
}

#[derive(Deserialize)]
#[serde(tag = "type")]
enum Event {
    #[serde(rename = "signing_key_changed")]
    Changed { hand_over: Box<SignedHandOver>, taken: Option<Signature> },
    #[serde(other)]
    Other,
}

/// What an entry says that changes the log's key; none of every other entry.
pub(super) fn said(payload: &[u8]) -> Option<Result<Said, BadHandOver>> {
    // Nearly every entry is another one, and not read for that.
    if !payload.windows(TYPE.len()).any(|part| part == TYPE.as_bytes()) {
        return None;
    }
    match serde_json::from_slice::<Envelope>(payload).ok()?.event {
        Event::Changed { hand_over, taken } => {
            Some(hand_over.verify().cloned().map(|hand_over| Said { hand_over, taken }))
        }
        Event::Other => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_event_itself_changes_the_key() {
        let none: [&[u8]; 4] = [
            b"",
            b"\xffsigning_key_changed",
            br#"{"event":{"type":"noted","text":"signing_key_changed"}}"#,
            br#"{"event":{"type":"noted","inner":{"type":"signing_key_changed"}}}"#,
        ];
        for payload in none {
            assert!(said(payload).is_none(), "{payload:?}");
        }
    }
}
