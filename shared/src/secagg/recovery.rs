//! The coordinator's half: from revealed shares to the masks that still hide the sum over the
//! survivors. Trusts no dealer: every recovered secret is compared with what its dealer announced.

use std::collections::BTreeMap;

use curve25519_dalek::scalar::Scalar;
use thiserror::Error;
use x25519_dalek::StaticSecret;

use super::{
    cohort::Bitmap,
    dealing::{ShareKind, SharePiece, wanted_kind},
    mask::{Sign, Stream, apply, pair_key, self_key},
    secrets::{Member, commitment, mask_secret, public, self_seed},
};
use crate::{
    crypto::{Digest, Secret},
    shamir,
};

/// Why the sum cannot be opened. Dealers are named by position in the list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum RecoverError {
    #[error("{given} of {needed} shares of the member at position {dealer}; wait for more holders")]
    TooFew { dealer: u16, given: usize, needed: usize },
    #[error(
        "what the member at position {dealer} shared does not fit what it signed; exclude it and start a new round"
    )]
    BadDealer { dealer: u16 },
    #[error("the sets of members do not fit the list of {members}, or there are no survivors")]
    Sets { members: usize },
}

/// Takes the masks off the sum over the survivors.
pub struct Unmasker(Vec<Stream>);

/// Shares by dealer and holder, of the kind that the vote decided.
type Points = BTreeMap<u16, BTreeMap<u16, Secret<[u8; 32]>>>;

impl Unmasker {
    /// Recovers b of every survivor (U) and the masking secret of every other member of L1
    /// (`sharers`), from `threshold` shares each.
    ///
    /// `pieces` are (holder, share), each already accepted by [`super::check_piece`]: only then is a
    /// secret that does not fit the dealer's fault. Shares that the sets do not ask for are ignored.
    pub fn recover(
        context: &Digest,
        members: &[Member],
        sharers: &Bitmap,
        survivors: &Bitmap,
        threshold: usize,
        pieces: &[(u16, SharePiece)],
    ) -> Result<Self, RecoverError> {
        let size = members.len();
        if sharers.size() != size || !survivors.is_subset(sharers) || survivors.count() == 0 {
            return Err(RecoverError::Sets { members: size });
        }
        let points = points(pieces, sharers, survivors);
        let mut streams = Vec::new();
        for (dealer, member) in (0..).zip(members) {
            let Some(kind) = wanted_kind(dealer, sharers, survivors) else { continue };
            let scalar = interpolate(dealer, points.get(&dealer), threshold)?;
            match kind {
                ShareKind::SelfMask => {
                    streams.push(self_stream(scalar.expose(), member, dealer, context)?);
                }
                ShareKind::PairMask => {
                    let secret = checked_mask_secret(scalar.expose(), member, dealer)?;
                    for survivor in survivors.iter() {
                        streams.push(pair_stream(&secret, members, dealer, survivor, context)?);
                    }
                }
            }
        }
        Ok(Self(streams))
    }

    /// Takes the masks off `words`, in place: the accumulated uploads of exactly the survivors, from
    /// piece `first_piece` on, in whole pieces but for the vector's last. Pieces are independent and
    /// may be done in any order or in parallel.
    pub fn unmask(&self, first_piece: u64, words: &mut [u32]) {
        apply(&self.0, first_piece, words);
    }
}

fn points(pieces: &[(u16, SharePiece)], sharers: &Bitmap, survivors: &Bitmap) -> Points {
    let mut points = Points::new();
    for (holder, piece) in pieces {
        let listed = usize::from(*holder) < sharers.size();
        if listed && wanted_kind(piece.dealer, sharers, survivors) == Some(piece.kind) {
            points.entry(piece.dealer).or_default().insert(*holder, Secret::new(piece.scalar));
        }
    }
    points
}

fn interpolate(
    dealer: u16,
    shares: Option<&BTreeMap<u16, Secret<[u8; 32]>>>,
    threshold: usize,
) -> Result<Secret<Scalar>, RecoverError> {
    let given = shares.map_or(0, BTreeMap::len);
    let shares = match shares {
        Some(shares) if given >= threshold => shares,
        _ => return Err(RecoverError::TooFew { dealer, given, needed: threshold }),
    };
    let bad = RecoverError::BadDealer { dealer };
    let points = shares
        .iter()
        .take(threshold)
        .map(|(holder, bytes)| {
            let scalar: Option<Scalar> = Scalar::from_canonical_bytes(*bytes.expose()).into();
            scalar.map(|scalar| (holder + 1, scalar)).ok_or(bad)
        })
        .collect::<Result<Vec<_>, _>>()?;
    shamir::recover(&points, threshold).map_err(|_| bad)
}

/// A survivor's upload holds its self mask: take it off.
fn self_stream(
    scalar: &Scalar,
    member: &Member,
    dealer: u16,
    context: &Digest,
) -> Result<Stream, RecoverError> {
    let seed = self_seed(scalar);
    if commitment(&seed) != member.self_commitment {
        return Err(RecoverError::BadDealer { dealer });
    }
    Ok(Stream { key: self_key(&seed, context), sign: Sign::Minus })
}

fn checked_mask_secret(
    scalar: &Scalar,
    member: &Member,
    dealer: u16,
) -> Result<StaticSecret, RecoverError> {
    let secret = mask_secret(scalar);
    if public(&secret) == member.mask_key {
        Ok(secret)
    } else {
        Err(RecoverError::BadDealer { dealer })
    }
}

/// A survivor's upload holds its mask with a member that uploaded nothing, so that no other upload
/// cancels it: take it off.
fn pair_stream(
    secret: &StaticSecret,
    members: &[Member],
    lost: u16,
    survivor: u16,
    context: &Digest,
) -> Result<Stream, RecoverError> {
    members
        .get(usize::from(survivor))
        .and_then(|member| pair_key(secret, &member.mask_key, context, lost, survivor))
        .map(|key| Stream { key, sign: Sign::of(survivor, lost).opposite() })
        .ok_or(RecoverError::BadDealer { dealer: survivor })
}
