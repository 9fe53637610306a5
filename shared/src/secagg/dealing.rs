//! Shares: a member's dealing, what a holder keeps of it, and what it reveals after the vote. Owns
//! the rule that no one ever reveals both shares of one dealer.

use std::fmt;

use curve25519_dalek::scalar::Scalar;
use thiserror::Error;
use zeroize::{Zeroize, ZeroizeOnDrop};

use super::{
    cohort::{Bitmap, MAX_MEMBERS},
    secrets::{Member, RoundSecrets, agree},
};
use crate::{
    crypto::{AgreementKey, Digest, Key, SEAL_OVERHEAD, Secret, derive, open, seal},
    merkle, shamir,
};

/// The length of one sealed message: two shares with their salts, and the tag.
pub const SEALED_SHARE_LEN: usize = 4 * 32 + SEAL_OVERHEAD;

/// A sealing key is derived for one (plan, list, threshold, from, to) and seals the one message that
/// these and the dealer's `rho` determine, so the nonce can be fixed (NIST SP 800-38D, section 8).
const NONCE: [u8; 12] = [0; 12];

/// Why shares were not made or not opened. Members are named by position in the list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum DealError {
    #[error("a list has 2 to {MAX_MEMBERS} members, not {0}")]
    Size(usize),
    #[error("a threshold of {threshold} does not fit a list of {members}")]
    Threshold { threshold: usize, members: usize },
    #[error("the member at position {0} carries another position")]
    Unordered(u16),
    #[error("the member at position {0} repeats a key or a commitment of another")]
    Repeated(u16),
    #[error("the list does not hold this institution's own keys at position {0}")]
    NotOwnEntry(u16),
    #[error("the key of the member at position {0} is of small order and can hide nothing")]
    WeakKey(u16),
    #[error("the share from the member at position {0} does not open")]
    Sealed(u16),
}

/// Where shares belong: everything that is sealed or derived for them is bound to all of this.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sharing {
    /// The digest of the plan.
    pub plan: Digest,
    /// R, the root of the frozen list.
    pub list_root: Digest,
    /// This institution's position in the list.
    pub own: u16,
    /// t, the shares that recover a secret: [`super::quorum`].
    pub threshold: usize,
}

/// What one member sends in the share phase; all of it may be seen by the coordinator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dealing {
    /// Salted share hashes, two for each holder in the order of the list: self share, mask share.
    pub leaves: Vec<Digest>,
    /// One message of [`SEALED_SHARE_LEN`] bytes for each holder in the order of the list, this
    /// institution itself among them.
    pub sealed: Vec<Vec<u8>>,
}

impl Dealing {
    /// The Merkle root (RFC 6962, section 2.1) over the leaves, which the dealer signs.
    pub fn root(&self) -> Digest {
        let hashes: Vec<Digest> =
            self.leaves.iter().map(|leaf| merkle::leaf_hash(leaf.as_bytes())).collect();
        merkle::root(&hashes)
    }
}

/// Which of a dealer's two secrets a share is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ShareKind {
    /// s_b, which opens the dealer's self mask.
    SelfMask,
    /// s_m, which opens the dealer's pairwise masks.
    PairMask,
}

impl ShareKind {
    const BOTH: [Self; 2] = [Self::SelfMask, Self::PairMask];

    /// The kind as one byte: 0 or 1.
    pub fn to_byte(self) -> u8 {
        match self {
            Self::SelfMask => 0,
            Self::PairMask => 1,
        }
    }

    /// Reads what [`Self::to_byte`] wrote.
    pub fn from_byte(byte: u8) -> Option<Self> {
        Self::BOTH.into_iter().find(|kind| kind.to_byte() == byte)
    }
}

/// One revealed share. Secret from all but the coordinator, so `Debug` does not show the value.
#[derive(Clone, PartialEq, Eq, Zeroize, ZeroizeOnDrop)]
pub struct SharePiece {
    /// The dealer's position in the list.
    pub dealer: u16,
    #[zeroize(skip)]
    pub kind: ShareKind,
    pub scalar: [u8; 32],
    pub salt: [u8; 32],
}

impl fmt::Debug for SharePiece {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = f.debug_struct("SharePiece");
        out.field("dealer", &self.dealer).field("kind", &self.kind).finish_non_exhaustive()
    }
}

impl SharePiece {
    /// The length of [`Self::to_bytes`].
    pub const LEN: usize = 67;

    /// Dealer (2 bytes, big-endian), kind (1), scalar (32), salt (32).
    pub fn to_bytes(&self) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        bytes[..2].copy_from_slice(&self.dealer.to_be_bytes());
        bytes[2] = self.kind.to_byte();
        bytes[3..35].copy_from_slice(&self.scalar);
        bytes[35..].copy_from_slice(&self.salt);
        bytes
    }

    /// Reads what [`Self::to_bytes`] wrote; none for an unknown kind.
    pub fn from_bytes(bytes: &[u8; Self::LEN]) -> Option<Self> {
        let mut piece = Self {
            dealer: u16::from_be_bytes([bytes[0], bytes[1]]),
            kind: ShareKind::from_byte(bytes[2])?,
            scalar: [0; 32],
            salt: [0; 32],
        };
        piece.scalar.copy_from_slice(&bytes[3..35]);
        piece.salt.copy_from_slice(&bytes[35..]);
        Some(piece)
    }
}

/// What a holder has of one dealer: a share of each secret, with its salt. Leaves only through
/// [`reveal`]. After a restart it is opened again from the sealed message.
#[derive(Zeroize, ZeroizeOnDrop)]
pub struct HeldShare {
    dealer: u16,
    own: Salted,
    pair: Salted,
}

/// A share as the dealer sent it. Kept as bytes: a dealer that sends what is no scalar is found by
/// the coordinator, with the dealer's own commitment as proof.
#[derive(Default, Zeroize, ZeroizeOnDrop)]
struct Salted {
    scalar: [u8; 32],
    salt: [u8; 32],
}

impl HeldShare {
    /// The dealer's position in the list.
    pub fn dealer(&self) -> u16 {
        self.dealer
    }

    fn piece(&self, kind: ShareKind) -> SharePiece {
        let share = match kind {
            ShareKind::SelfMask => &self.own,
            ShareKind::PairMask => &self.pair,
        };
        SharePiece { dealer: self.dealer, kind, scalar: share.scalar, salt: share.salt }
    }
}

/// Shares both secrets among `members`, the frozen list in its order, and seals each holder's part:
///
/// - coefficient k of the polynomial of a secret = HKDF(rho', kind, k, plan, R, t), 64 bytes reduced
///   modulo the field's order; the salt for a holder = HKDF(rho', kind, holder, plan, R, t);
/// - leaf = H(dealer, holder, kind, scalar, salt);
/// - sealed = AES-256-GCM under HKDF(X25519(sharing keys), plan, R, t, from, to), with the same five
///   as associated data, over self share, salt, mask share, salt (32 bytes each).
///
/// The same arguments give the same bytes.
pub fn deal(
    secrets: &RoundSecrets,
    sharing: &Sharing,
    members: &[Member],
) -> Result<Dealing, DealError> {
    let holders = check_list(secrets, sharing, members)?;
    let own = shares_of(secrets, sharing, ShareKind::SelfMask, holders)?;
    let pair = shares_of(secrets, sharing, ShareKind::PairMask, holders)?;
    let mut dealing = Dealing { leaves: Vec::new(), sealed: Vec::new() };
    for (holder, (own, pair)) in members.iter().zip(own.expose().iter().zip(pair.expose())) {
        let salted = |kind, share: &Scalar| Salted {
            scalar: share.to_bytes(),
            salt: *salt(secrets, sharing, kind, holder.index).expose(),
        };
        let held = HeldShare {
            dealer: sharing.own,
            own: salted(ShareKind::SelfMask, own),
            pair: salted(ShareKind::PairMask, pair),
        };
        let pieces = ShareKind::BOTH.map(|kind| held.piece(kind));
        dealing.leaves.extend(pieces.iter().map(|piece| leaf(holder.index, piece)));
        dealing.sealed.push(seal_to(secrets, sharing, holder, &held)?);
    }
    Ok(dealing)
}

/// Opens the message that `from` sealed to this institution (`sharing.own`).
pub fn open_share(
    secrets: &RoundSecrets,
    sharing: &Sharing,
    from: &Member,
    sealed: &[u8],
) -> Result<HeldShare, DealError> {
    if sealed.len() != SEALED_SHARE_LEN {
        return Err(DealError::Sealed(from.index));
    }
    let bound = sharing.bound(from.index, sharing.own);
    let key =
        sealing_key(secrets, &from.share_key, &bound).ok_or(DealError::WeakKey(from.index))?;
    let plain =
        open(&key, NONCE, bound.as_bytes(), sealed).map_err(|_| DealError::Sealed(from.index))?;
    let (parts, _) = plain.expose().as_chunks::<32>();
    let [own, own_salt, pair, pair_salt] = parts else {
        return Err(DealError::Sealed(from.index));
    };
    Ok(HeldShare {
        dealer: from.index,
        own: Salted { scalar: *own, salt: *own_salt },
        pair: Salted { scalar: *pair, salt: *pair_salt },
    })
}

/// Which share of `dealer` is revealed, given L1 (`sharers`) and U (`survivors`): of the self mask
/// for U, of the pairwise masks for the rest of L1, none for others.
pub fn wanted_kind(dealer: u16, sharers: &Bitmap, survivors: &Bitmap) -> Option<ShareKind> {
    match (sharers.contains(dealer), survivors.contains(dealer)) {
        (true, true) => Some(ShareKind::SelfMask),
        (true, false) => Some(ShareKind::PairMask),
        (false, _) => None,
    }
}

/// What a holder reveals once a quorum has signed `survivors`: at most one share of each dealer,
/// because the kind depends on the dealer and the two sets alone. The caller makes sure that it is
/// called for one pair of sets in an attempt.
pub fn reveal(held: &[HeldShare], sharers: &Bitmap, survivors: &Bitmap) -> Vec<SharePiece> {
    held.iter()
        .filter_map(|share| {
            wanted_kind(share.dealer, sharers, survivors).map(|kind| share.piece(kind))
        })
        .collect()
}

/// Whether `holder` revealed what the dealer committed to. `leaves` are the dealer's, already checked
/// against the root that it signed.
pub fn check_piece(leaves: &[Digest], holder: u16, piece: &SharePiece) -> bool {
    let position = 2 * usize::from(holder) + usize::from(piece.kind.to_byte());
    leaves.get(position).is_some_and(|committed| *committed == leaf(holder, piece))
}

impl Sharing {
    /// Binds a message to its place; the domain keeps it apart from every other digest.
    fn bound(&self, from: u16, to: u16) -> Digest {
        let [from, to] = [from, to].map(u16::to_be_bytes);
        let parts = [self.plan.as_bytes(), self.list_root.as_bytes(), &self.t()[..], &from, &to];
        Digest::of_parts("collegium/v1/sealed-share", &parts)
    }

    fn t(&self) -> [u8; 8] {
        (self.threshold as u64).to_be_bytes()
    }
}

/// The leaf of a share: hiding, because of the 32-byte salt, and bound to its place.
fn leaf(holder: u16, piece: &SharePiece) -> Digest {
    let [dealer, holder] = [piece.dealer, holder].map(u16::to_be_bytes);
    Digest::of_parts(
        "collegium/v1/share-leaf",
        &[&dealer, &holder, &[piece.kind.to_byte()], &piece.scalar, &piece.salt],
    )
}

fn check_list(
    secrets: &RoundSecrets,
    sharing: &Sharing,
    members: &[Member],
) -> Result<u16, DealError> {
    let size = members.len();
    let holders = match u16::try_from(size) {
        Ok(holders) if (2..=MAX_MEMBERS).contains(&size) => holders,
        _ => return Err(DealError::Size(size)),
    };
    if !(1..=size).contains(&sharing.threshold) {
        return Err(DealError::Threshold { threshold: sharing.threshold, members: size });
    }
    let mut seen = std::collections::BTreeSet::new();
    for (position, member) in (0..holders).zip(members) {
        if member.index != position {
            return Err(DealError::Unordered(position));
        }
        let public = [member.mask_key.0, member.share_key.0, member.self_commitment.0];
        if !public.into_iter().all(|bytes| seen.insert(bytes)) {
            return Err(DealError::Repeated(position));
        }
    }
    if members.get(usize::from(sharing.own)) != Some(&secrets.member(sharing.own)) {
        return Err(DealError::NotOwnEntry(sharing.own));
    }
    Ok(holders)
}

fn shares_of(
    secrets: &RoundSecrets,
    sharing: &Sharing,
    kind: ShareKind,
    holders: u16,
) -> Result<Secret<Vec<Scalar>>, DealError> {
    let secret = match kind {
        ShareKind::SelfMask => &secrets.self_scalar,
        ShareKind::PairMask => &secrets.mask_scalar,
    };
    let coefficient = |degree: usize| {
        let degree = (degree as u64).to_be_bytes();
        let wide: Secret<[u8; 64]> = dealt(secrets, sharing, "secagg/coefficient", kind, &degree);
        Scalar::from_bytes_mod_order_wide(wide.expose())
    };
    let coefficients = Secret::new((1..sharing.threshold).map(coefficient).collect::<Vec<_>>());
    let (threshold, members) = (sharing.threshold, holders.into());
    shamir::share(secret.expose(), coefficients.expose(), holders)
        .map_err(|_| DealError::Threshold { threshold, members })
}

fn salt(secrets: &RoundSecrets, sharing: &Sharing, kind: ShareKind, holder: u16) -> Key {
    dealt(secrets, sharing, "secagg/salt", kind, &holder.to_be_bytes())
}

/// Bytes for one place in one dealing. With another list or threshold, all of them change.
fn dealt<const N: usize>(
    secrets: &RoundSecrets,
    sharing: &Sharing,
    label: &str,
    kind: ShareKind,
    place: &[u8],
) -> Secret<[u8; N]> {
    let (plan, list, t) = (sharing.plan.as_bytes(), sharing.list_root.as_bytes(), sharing.t());
    derive(secrets.dealing.expose(), label, &[plan, list, &t, &[kind.to_byte()], place])
}

fn seal_to(
    secrets: &RoundSecrets,
    sharing: &Sharing,
    holder: &Member,
    held: &HeldShare,
) -> Result<Vec<u8>, DealError> {
    let bound = sharing.bound(sharing.own, holder.index);
    let key =
        sealing_key(secrets, &holder.share_key, &bound).ok_or(DealError::WeakKey(holder.index))?;
    let parts = [&held.own.scalar, &held.own.salt, &held.pair.scalar, &held.pair.salt];
    let plain = Secret::new(parts.map(|part| *part));
    seal(&key, NONCE, bound.as_bytes(), plain.expose().as_flattened())
        .map_err(|_| DealError::Sealed(sharing.own))
}

fn sealing_key(secrets: &RoundSecrets, other: &AgreementKey, bound: &Digest) -> Option<Key> {
    let shared = agree(&secrets.share_secret, other)?;
    Some(derive(shared.as_bytes(), "secagg/share", &[bound.as_bytes()]))
}
