//! Masks: keystreams over Z_2^32 that hide one vector and cancel in the sum. Works on pieces, so that
//! no mask is ever held whole.

use ring::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use thiserror::Error;
use x25519_dalek::StaticSecret;
use zeroize::Zeroizing;

use super::{
    cohort::Bitmap,
    secrets::{Member, RoundSecrets, agree},
};
use crate::crypto::{AgreementKey, Digest, Key, derive};

/// The words of one piece: 32 KiB, of one keystream nonce.
pub const PIECE_WORDS: usize = 8192;
const WORD: usize = size_of::<u32>();

/// Why a member cannot mask. Members are named by position in the list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum MaskError {
    #[error("this institution, at position {0}, is not among those that dealt shares")]
    NotSharer(u16),
    #[error("the list does not hold this institution's own keys at position {0}")]
    NotOwnEntry(u16),
    #[error("the list has no member at position {0}")]
    NoMember(u16),
    #[error("the key of the member at position {0} is of small order and can hide nothing")]
    WeakKey(u16),
}

/// Two vectors that should be summed differ in length.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("{given} words where the sum has {expected}")]
pub struct UnequalLengths {
    pub given: usize,
    pub expected: usize,
}

/// ctx = H(plan || R || R1): what every mask of the attempt is bound to. `list_root` is R, over the
/// frozen list; `header_root` is R1, over the accepted share headers.
pub fn round_context(plan: &Digest, list_root: &Digest, header_root: &Digest) -> Digest {
    let parts = [plan, list_root, header_root].map(|digest| &digest.as_bytes()[..]);
    Digest::of_parts("collegium/v1/round-context", &parts)
}

/// Adds `y` to `acc`, word by word modulo 2^32. Neither is changed if their lengths differ.
pub fn fold(acc: &mut [u32], y: &[u32]) -> Result<(), UnequalLengths> {
    if acc.len() != y.len() {
        return Err(UnequalLengths { given: y.len(), expected: acc.len() });
    }
    for (sum, word) in acc.iter_mut().zip(y) {
        *sum = sum.wrapping_add(*word);
    }
    Ok(())
}

/// Masks one member's vector for one attempt.
pub struct Masker(Vec<Stream>);

impl Masker {
    /// `members` is the frozen list, `sharers` is L1, and `own` this institution's position.
    ///
    /// The caller calls this for one input per `context`: the same masks over two inputs give their
    /// difference away.
    pub fn new(
        secrets: &RoundSecrets,
        context: &Digest,
        own: u16,
        members: &[Member],
        sharers: &Bitmap,
    ) -> Result<Self, MaskError> {
        if !sharers.contains(own) {
            return Err(MaskError::NotSharer(own));
        }
        if members.get(usize::from(own)) != Some(&secrets.member(own)) {
            return Err(MaskError::NotOwnEntry(own));
        }
        let mut streams =
            vec![Stream { key: self_key(&secrets.self_seed, context), sign: Sign::Plus }];
        for peer in sharers.iter().filter(|peer| *peer != own) {
            let member = members.get(usize::from(peer)).ok_or(MaskError::NoMember(peer))?;
            let key = pair_key(&secrets.mask_secret, &member.mask_key, context, own, peer)
                .ok_or(MaskError::WeakKey(peer))?;
            streams.push(Stream { key, sign: Sign::of(own, peer) });
        }
        Ok(Self(streams))
    }

    /// Turns x into y = x + PRG(self) +- PRG(pair) modulo 2^32, in place. `words` starts with piece
    /// `first_piece` of the vector (word `first_piece * PIECE_WORDS`) and holds whole pieces, but
    /// for the vector's last.
    pub fn mask(&self, first_piece: u64, words: &mut [u32]) {
        apply(&self.0, first_piece, words);
    }
}

/// One mask and whether it is added or subtracted.
pub(super) struct Stream {
    pub(super) key: Keystream,
    pub(super) sign: Sign,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Sign {
    Plus,
    Minus,
}

impl Sign {
    /// The sign of the mask between `own` and `peer` in the upload of `own`: the lower position adds.
    pub(super) fn of(own: u16, peer: u16) -> Self {
        if own < peer { Self::Plus } else { Self::Minus }
    }

    pub(super) fn opposite(self) -> Self {
        match self {
            Self::Plus => Self::Minus,
            Self::Minus => Self::Plus,
        }
    }
}

/// PRG: AES-256-GCM (NIST SP 800-38D) over zeros with the tag dropped, which is AES-256 in counter
/// mode from counter block nonce || 2. The nonce is the index of the piece, as 12 bytes big-endian.
pub(super) struct Keystream(LessSafeKey);

impl Keystream {
    #[expect(clippy::expect_used, reason = "the type of the key fixes its length")]
    fn new(key: &Key) -> Self {
        let unbound = UnboundKey::new(&AES_256_GCM, key.expose()).expect("a key of 32 bytes");
        Self(LessSafeKey::new(unbound))
    }

    /// Overwrites `out`, at most a piece long, with the keystream of one piece.
    #[expect(clippy::expect_used, reason = "a piece is far below the limit of 2^36 - 32 bytes")]
    fn fill(&self, piece: u64, out: &mut [u8]) {
        let mut nonce = [0; 12];
        nonce[4..].copy_from_slice(&piece.to_be_bytes());
        out.fill(0);
        let _tag = self
            .0
            .seal_in_place_separate_tag(Nonce::assume_unique_for_key(nonce), Aad::empty(), out)
            .expect("a piece fits one message");
    }
}

/// The key of the self mask: HKDF(b, "self" || ctx).
pub(super) fn self_key(self_seed: &Key, context: &Digest) -> Keystream {
    Keystream::new(&derive(self_seed.expose(), "secagg/self", &[context.as_bytes()]))
}

/// The key of the mask between two members: HKDF(X25519, "pair" || ctx || min || max); none if the
/// agreement is all zeros.
pub(super) fn pair_key(
    secret: &StaticSecret,
    other: &AgreementKey,
    context: &Digest,
    a: u16,
    b: u16,
) -> Option<Keystream> {
    let shared = agree(secret, other)?;
    let [min, max] = [a.min(b), a.max(b)].map(u16::to_be_bytes);
    let key = derive(shared.as_bytes(), "secagg/pair", &[context.as_bytes(), &min, &max]);
    Some(Keystream::new(&key))
}

/// Applies every stream to `words`, piece by piece: the words of a piece stay in the first-level
/// cache while all the streams pass over them.
pub(super) fn apply(streams: &[Stream], first_piece: u64, words: &mut [u32]) {
    let mut buffer = Zeroizing::new(vec![0; words.len().min(PIECE_WORDS) * WORD]);
    for (index, piece) in (first_piece..).zip(words.chunks_mut(PIECE_WORDS)) {
        let bytes = &mut buffer[..piece.len() * WORD];
        for stream in streams {
            stream.key.fill(index, bytes);
            let (masks, _) = bytes.as_chunks::<WORD>();
            let masks = masks.iter().map(|mask| u32::from_le_bytes(*mask));
            match stream.sign {
                Sign::Plus => piece.iter_mut().zip(masks).for_each(|(w, m)| *w = w.wrapping_add(m)),
                Sign::Minus => {
                    piece.iter_mut().zip(masks).for_each(|(w, m)| *w = w.wrapping_sub(m))
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// AES-256-CTR with initial counter block nonce || 00000002 and key 00 01 .. 1f, made with the
    /// `cryptography` package of Python.
    #[test]
    fn keystream_is_aes_256_counter_mode() {
        let mut key = [0; 32];
        key.iter_mut().zip(0..).for_each(|(byte, i)| *byte = i);
        let stream = Keystream::new(&Key::new(key));
        for (piece, first, last, all) in [
            (
                0,
                "0ebcb5deb52c83bd08a8a935182c9199d24356532881602f809eb383c5ff5d56",
                "0b5a0087fa3143a9346a51fb7ce08ebc",
                "61f874470cf8c6b72588652f6a243aa1cda2f70fe44df03b93feb1060a103610",
            ),
            (
                5,
                "98a1c262c3be954d685249f145f755e21b0427f6717b346d28df6d2206bf5aba",
                "741a3b72ff1feeca8e32820c3872a614",
                "0657b6d05c64811a865f715100bdae6f97cbc411a8faec4fb130ea853cad2801",
            ),
        ] {
            let mut out = vec![0xff; PIECE_WORDS * WORD];
            stream.fill(piece, &mut out);
            assert_eq!(hex::encode(&out[..32]), first);
            assert_eq!(hex::encode(&out[out.len() - 16..]), last);
            assert_eq!(Digest::of(&out).to_string(), all);
        }
    }

    #[test]
    fn words_are_little_endian_and_signs_undo_each_other() {
        let key = || Keystream::new(&Key::new([7; 32]));
        let mut bytes = [0; 8];
        key().fill(3, &mut bytes);
        let mut words = [0, 0];
        apply(&[Stream { key: key(), sign: Sign::Plus }], 3, &mut words);
        let [a, b, c, d, ..] = bytes;
        assert_eq!(words[0], u32::from_le_bytes([a, b, c, d]));
        apply(&[Stream { key: key(), sign: Sign::Plus.opposite() }], 3, &mut words);
        assert_eq!(words, [0, 0]);
    }

    #[test]
    fn pieces_can_be_masked_apart() {
        let streams = [Stream { key: Keystream::new(&Key::new([9; 32])), sign: Sign::Minus }];
        let mut whole = vec![1; 2 * PIECE_WORDS + 5];
        apply(&streams, 10, &mut whole);
        let mut apart = vec![1; 2 * PIECE_WORDS + 5];
        let (head, tail) = apart.split_at_mut(PIECE_WORDS);
        apply(&streams, 11, tail);
        apply(&streams, 10, head);
        assert!(whole == apart);
    }

    #[test]
    fn folding_wraps_and_refuses_unequal_lengths() {
        let mut acc = [u32::MAX, 1];
        fold(&mut acc, &[2, 3]).unwrap();
        assert_eq!(acc, [1, 4]);
        assert_eq!(fold(&mut acc, &[1]), Err(UnequalLengths { given: 1, expected: 2 }));
        assert_eq!(acc, [1, 4]);
    }
}
