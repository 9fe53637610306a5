//! The pure roles of secure aggregation: what a member computes to hide its vector, and what the
//! coordinator computes to open the sum of many. Owns every formula of the protocol and no state of
//! it: signatures, phases, votes and storage live with the callers, and all randomness comes from
//! one 32-byte secret that the caller drew and stored (`rho`).
//!
//! The protocol is the double masking of Bonawitz et al. 2017 ("Practical Secure Aggregation for
//! Privacy-Preserving Machine Learning", CCS) in its malicious variant, over Z_2^32:
//!
//! - Member i holds two uniform scalars, s_b and s_m. From s_b comes the seed b = HKDF(s_b) of its
//!   self mask; from s_m its X25519 masking key. b is committed to by H(b), s_m by the public key.
//! - Both scalars are Shamir-shared with threshold t among all members ([`deal`], [`open_share`]).
//!   Scalars are shared, and not the seed and the key themselves, because those are strings of 32
//!   bytes that do not all fit the scalar field.
//! - The upload is y_i = x_i + PRG(self_i) + sum over j of +-PRG(pair_ij) modulo 2^32, where the lower
//!   position adds and the higher subtracts, so that pairs cancel in the sum ([`Masker`]).
//! - Given the survivors U among the members L1 that dealt shares, holders reveal shares of s_b for U
//!   and of s_m for L1 without U, never both for one dealer ([`reveal`]). From t shares each, the
//!   coordinator recovers what still hides the sum over U and takes it off ([`Unmasker`]).
//!
//! Key derivation is HKDF-SHA256 (RFC 5869), agreement X25519 (RFC 7748, all-zero results refused),
//! sealing and keystream AES-256-GCM (NIST SP 800-38D).

mod cohort;
mod dealing;
mod mask;
mod recovery;
mod secrets;
#[cfg(test)]
mod tests;

pub use cohort::{
    BadBitmap, BadCohort, Bitmap, MAX_MEMBERS, check_cohort, dropouts_tolerated, quorum,
};
pub use dealing::{
    DealError, Dealing, HeldShare, SEALED_SHARE_LEN, ShareKind, SharePiece, Sharing, check_piece,
    deal, open_share, reveal, wanted_kind,
};
pub use mask::{MaskError, Masker, PIECE_WORDS, UnequalLengths, fold, round_context};
pub use recovery::{RecoverError, Unmasker};
pub use secrets::{Member, RoundSecrets, is_usable};
