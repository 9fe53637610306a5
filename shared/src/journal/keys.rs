//! Changes of the key that signs a log's seals. The one kind of entry that the journal itself reads:
//! `{"event":{"type":"signing_key_changed","hand_over":{...}}}`, sealed by the old key and last in its
//! batch; every later seal is the new key's. Knows nothing of who has to agree to a change.

use serde::Deserialize;

use crate::{
    crypto::VerifyingKey,
    hand_over::{BadHandOver, HandOver, SignedHandOver},
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

#[derive(Deserialize)]
struct Envelope {
    event: Event,
}

#[derive(Deserialize)]
#[serde(tag = "type")]
enum Event {
    #[serde(rename = "signing_key_changed")]
    Changed { hand_over: Box<SignedHandOver> },
    #[serde(other)]
    Other,
}

/// The hand-over in an entry that says that the log's key changed; none in every other entry.
pub(super) fn hand_over(payload: &[u8]) -> Option<Result<HandOver, BadHandOver>> {
    // Nearly every entry is another one, and not read for that.
    if !payload.windows(TYPE.len()).any(|part| part == TYPE.as_bytes()) {
        return None;
    }
    match serde_json::from_slice::<Envelope>(payload).ok()?.event {
        Event::Changed { hand_over } => Some(hand_over.verify().cloned()),
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
            assert!(hand_over(payload).is_none(), "{payload:?}");
        }
    }
}
