//! A signed statement of a log's size and Merkle root: C2SP `tlog-checkpoint` inside a C2SP
//! `signed-note` with an Ed25519 signature (type 0x01). Owns the text format; decides nothing
//! about which log or key to trust.
//!
//! Written here rather than taken from the `signed_note` and `tlog_tiles` crates, which bring a
//! second SHA-2, Ed25519 and curve25519 beside `ring`, and name tiles `tile/8/...` as Go's
//! checksum database does and C2SP does not. The tests check every note against those crates.

use base64::{Engine, engine::general_purpose::STANDARD};
use thiserror::Error;

use crate::crypto::{Digest, Hasher, Signature, SigningKey, VerifyingKey};

/// The longest note read, in bytes: room for over a hundred signatures.
pub const MAX_NOTE: usize = 16_384;
/// The longest origin accepted, in bytes.
pub const MAX_ORIGIN: usize = 256;

const ED25519: u8 = 0x01;

/// Why a note is not a checkpoint that the key signed.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum BadCheckpoint {
    #[error("is not a checkpoint: {0}")]
    Malformed(&'static str),
    #[error("carries no signature by the log's key (key id {key_id:08x}, origin {origin})")]
    NotSigned { origin: String, key_id: u32 },
    #[error("carries a signature that does not verify")]
    BadSignature,
}

/// The size and root of a log at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// Which log: also the name of its key.
    pub origin: String,
    /// Entries in the log.
    pub size: u64,
    /// RFC 6962 Merkle tree hash over them.
    pub root: Digest,
}

impl Checkpoint {
    /// The note's text: what is signed.
    fn text(&self) -> String {
        format!("{}\n{}\n{}\n", self.origin, self.size, STANDARD.encode(self.root.as_bytes()))
    }

    /// The signed note, ready to be published.
    pub fn sign(&self, signer: &SigningKey) -> String {
        let text = self.text();
        let mut signature = key_id(&self.origin, &signer.verifying_key()).to_be_bytes().to_vec();
        signature.extend_from_slice(signer.sign(text.as_bytes()).as_bytes());
        format!("{text}\n\u{2014} {} {}\n", self.origin, STANDARD.encode(signature))
    }

    /// Reads a note and checks that the log it names signed it with `key`. Signatures by others
    /// (witnesses) are ignored.
    pub fn open(note: &str, key: &VerifyingKey) -> Result<Self, BadCheckpoint> {
        let (checkpoint, signatures) = parse(note)?;
        let id = key_id(&checkpoint.origin, key);
        let mut signed = false;
        for line in signatures.lines() {
            let (name, signature) = parse_signature(line)?;
            if name != checkpoint.origin || signature.get(..4) != Some(&id.to_be_bytes()[..]) {
                continue;
            }
            Signature::try_from(&signature[4..])
                .and_then(|signature| key.verify(checkpoint.text().as_bytes(), &signature))
                .map_err(|_| BadCheckpoint::BadSignature)?;
            signed = true;
        }
        if signed {
            Ok(checkpoint)
        } else {
            Err(BadCheckpoint::NotSigned { origin: checkpoint.origin, key_id: id })
        }
    }

    /// Reads a note without checking any signature.
    pub fn read_unverified(note: &str) -> Result<Self, BadCheckpoint> {
        parse(note).map(|(checkpoint, _)| checkpoint)
    }

    /// The key as verifiers of signed notes take it: `<origin>+<key id>+<type and key>`.
    pub fn verifier_key(origin: &str, key: &VerifyingKey) -> String {
        let typed = [&[ED25519], key.as_bytes().as_slice()].concat();
        format!("{origin}+{:08x}+{}", key_id(origin, key), STANDARD.encode(typed))
    }
}

/// Whether `origin` can name a log and its key.
pub(super) fn is_origin(origin: &str) -> bool {
    (1..=MAX_ORIGIN).contains(&origin.len())
        && !origin.contains(|c: char| c.is_whitespace() || c.is_control() || c == '+')
}

/// The first four bytes of SHA-256(name || 0x0A || type || public key).
fn key_id(name: &str, key: &VerifyingKey) -> u32 {
    let mut hasher = Hasher::new();
    hasher.update(name.as_bytes());
    hasher.update(&[b'\n', ED25519]);
    hasher.update(key.as_bytes());
    let [a, b, c, d, ..] = hasher.finish().0;
    u32::from_be_bytes([a, b, c, d])
}

/// The checkpoint and its signature lines. Exactly the text that `Checkpoint::text` writes is
/// accepted, so that a checkpoint has one encoding.
fn parse(note: &str) -> Result<(Checkpoint, &str), BadCheckpoint> {
    use BadCheckpoint::Malformed;
    if note.len() > MAX_NOTE || note.contains(|c: char| c.is_ascii_control() && c != '\n') {
        return Err(Malformed("too long, or with control characters"));
    }
    let (text, signatures) = note.rsplit_once("\n\n").ok_or(Malformed("no signatures"))?;
    let mut lines = text.split('\n');
    let (origin, size, root) = match (lines.next(), lines.next(), lines.next(), lines.next()) {
        (Some(origin), Some(size), Some(root), None) => (origin, size, root),
        _ => return Err(Malformed("not three lines of text")),
    };
    if !is_origin(origin) {
        return Err(Malformed("a bad origin"));
    }
    let root = STANDARD.decode(root).map_err(|_| Malformed("a bad root hash"))?;
    let checkpoint = Checkpoint {
        origin: origin.to_owned(),
        size: size.parse().map_err(|_| Malformed("a bad tree size"))?,
        root: Digest::try_from(root.as_slice()).map_err(|_| Malformed("a bad root hash"))?,
    };
    if checkpoint.text().strip_suffix('\n') != Some(text) {
        return Err(Malformed("an unusual way to write the size or the root hash"));
    }
    if !signatures.ends_with('\n') {
        return Err(Malformed("no newline at the end"));
    }
    Ok((checkpoint, signatures))
}

/// A signature line's key name, and key id with signature.
fn parse_signature(line: &str) -> Result<(&str, Vec<u8>), BadCheckpoint> {
    let bad = BadCheckpoint::Malformed("a bad signature line");
    line.strip_prefix("\u{2014} ")
        .and_then(|line| line.split_once(' '))
        .and_then(|(name, encoded)| Some((name, STANDARD.decode(encoded).ok()?)))
        .filter(|(name, signature)| is_origin(name) && signature.len() > 4)
        .ok_or(bad)
}

#[cfg(test)]
mod tests {
    use signed_note::{Note, StandardVerifier, VerifierList};

    use super::*;

    fn key() -> SigningKey {
        SigningKey::from_pkcs8(SigningKey::generate_pkcs8().unwrap().expose()).unwrap()
    }

    fn checkpoint() -> Checkpoint {
        Checkpoint { origin: "example.org/log".into(), size: 42, root: Digest::of(b"root") }
    }

    #[test]
    fn another_implementation_accepts_our_notes() {
        let key = key();
        let note = checkpoint().sign(&key);
        let verifier_key = Checkpoint::verifier_key("example.org/log", &key.verifying_key());
        let verifier = StandardVerifier::new(&verifier_key).unwrap();
        let theirs = Note::from_bytes(note.as_bytes()).unwrap();
        let (verified, unverified) =
            theirs.verify(&VerifierList::new(vec![Box::new(verifier)])).unwrap();
        assert_eq!((verified.len(), unverified.len()), (1, 0));
        let read = tlog_tiles::Checkpoint::from_bytes(theirs.text()).unwrap();
        assert_eq!(read.origin(), "example.org/log");
        assert_eq!(read.size(), 42);
        assert_eq!(&read.hash().0, checkpoint().root.as_bytes());
    }

    #[test]
    fn the_published_example_of_the_specification_is_read() {
        // The note and key of https://c2sp.org/tlog-checkpoint; its key is not given there.
        let note = "example.com/behind-the-sofa\n20852163\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n\n\u{2014} example.com/behind-the-sofa Az3grlgtzPICa5OS8npVmf1Myq/5IZniMp+ZJurmRDeOoRDe4URYN7u5/Zhcyv2q1gGzGku9nTo+zyWE+xeMcTOAYQ8=\n";
        let read = Checkpoint::read_unverified(note).unwrap();
        assert_eq!((read.origin.as_str(), read.size), ("example.com/behind-the-sofa", 20_852_163));
        let other = Checkpoint::open(note, &key().verifying_key());
        assert!(matches!(other, Err(BadCheckpoint::NotSigned { .. })));
    }

    #[test]
    fn only_the_key_and_the_exact_text_are_accepted() {
        let key = key();
        let note = checkpoint().sign(&key);
        assert_eq!(Checkpoint::open(&note, &key.verifying_key()).unwrap(), checkpoint());
        let forged = note.replacen("42", "43", 1);
        let refused = Checkpoint::open(&forged, &key.verifying_key());
        assert_eq!(refused, Err(BadCheckpoint::BadSignature));
        for bad in [
            note.replacen("42", "042", 1),
            note.replacen("42\n", "42\nextension\n", 1),
            note.trim_end().to_owned(),
            note.replacen("\n\n", "\n", 1),
            String::new(),
            "\n\n".repeat(MAX_NOTE),
        ] {
            let refused = Checkpoint::open(&bad, &key.verifying_key());
            assert!(matches!(refused, Err(BadCheckpoint::Malformed(_))), "{bad:?}");
        }
    }

    #[test]
    fn signatures_of_witnesses_are_left_alone() {
        let (key, witness) = (key(), self::key());
        let mut note = checkpoint().sign(&key);
        let other = Checkpoint { origin: "witness".into(), ..checkpoint() }.sign(&witness);
        note.push_str(other.rsplit_once("\n\n").unwrap().1);
        assert!(Checkpoint::open(&note, &key.verifying_key()).is_ok());
        assert!(Checkpoint::open(&note, &witness.verifying_key()).is_err());
    }
}
