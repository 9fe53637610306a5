//! Who takes part: how many votes decide, how many may be lost, and sets of members as bitmaps.
//! Holds no identity; a member is its position in the frozen list.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use thiserror::Error;

/// The most members of one round. The graph of pairs is complete up to here.
pub const MAX_MEMBERS: usize = 256;

/// Q = floor((n + c_max) / 2) + 1: the signatures that decide a vote among `n` listed members of
/// which `c_max` may collude, and the threshold t of the secret sharing. Two quorums share at least
/// 2Q - n > c_max members, so at least one honest member, and it signs only once.
pub fn quorum(n: usize, c_max: usize) -> usize {
    n.saturating_add(c_max) / 2 + 1
}

/// Why a number of members does not fit the bounds of a plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum BadCohort {
    #[error("a round has 2 to {MAX_MEMBERS} members, not {0}")]
    Size(usize),
    #[error("{n} members are too few for {c_max} colluders: at least {needed} are needed")]
    Colluders { n: usize, c_max: usize, needed: usize },
    #[error("{n} members cannot hold {min_honest} honest ones beside {c_max} colluders")]
    Honest { n: usize, c_max: usize, min_honest: usize },
}

/// Checks that a round of `n` members can keep its promises: n >= 3 c_max + 1, so that the honest
/// ones alone are a quorum, and n >= c_max + min_honest, so that a sum can be opened at all.
pub fn check_cohort(n: usize, c_max: usize, min_honest: usize) -> Result<(), BadCohort> {
    if !(2..=MAX_MEMBERS).contains(&n) {
        return Err(BadCohort::Size(n));
    }
    let needed = c_max.saturating_mul(3).saturating_add(1);
    if n < needed {
        return Err(BadCohort::Colluders { n, c_max, needed });
    }
    if n < c_max.saturating_add(min_honest) {
        return Err(BadCohort::Honest { n, c_max, min_honest });
    }
    Ok(())
}

/// How many of `n` members may be lost with the sum still opened: n - max(Q, c_max + min_honest).
pub fn dropouts_tolerated(n: usize, c_max: usize, min_honest: usize) -> Result<usize, BadCohort> {
    check_cohort(n, c_max, min_honest)?;
    Ok(n.saturating_sub(quorum(n, c_max).max(c_max + min_honest)))
}

/// Why a set of members was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum BadBitmap {
    #[error("a set of members is over 1 to {MAX_MEMBERS} positions, not {0}")]
    Size(usize),
    #[error("position {index} is outside a list of {size}")]
    Outside { index: u16, size: u16 },
    #[error("the bytes are not a set of members in its one form")]
    Malformed,
}

/// A set of positions in a list of 1 to [`MAX_MEMBERS`] members.
///
/// As bytes: the size of the list (2 bytes, big-endian), then ceil(size / 8) bytes in which bit i is
/// bit i mod 8, counted from the lowest, of byte i / 8; bits past the size are zero. People read it
/// as hexadecimal. A set has exactly one such form.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Bitmap {
    size: u16,
    bits: [u8; MAX_MEMBERS / 8],
}

impl Bitmap {
    /// The empty set over a list of `size` members.
    pub fn new(size: usize) -> Result<Self, BadBitmap> {
        match u16::try_from(size) {
            Ok(small) if (1..=MAX_MEMBERS).contains(&size) => {
                Ok(Self { size: small, bits: [0; MAX_MEMBERS / 8] })
            }
            _ => Err(BadBitmap::Size(size)),
        }
    }

    /// The set of `members` over a list of `size`.
    pub fn of(size: usize, members: impl IntoIterator<Item = u16>) -> Result<Self, BadBitmap> {
        let mut set = Self::new(size)?;
        for index in members {
            set.set(index)?;
        }
        Ok(set)
    }

    /// How many members the list has (not the set).
    pub fn size(&self) -> usize {
        self.size.into()
    }

    /// Adds a member.
    pub fn set(&mut self, index: u16) -> Result<(), BadBitmap> {
        if index >= self.size {
            return Err(BadBitmap::Outside { index, size: self.size });
        }
        self.bits[usize::from(index / 8)] |= 1 << (index % 8);
        Ok(())
    }

    /// Whether the set holds the member; false for a position outside the list.
    pub fn contains(&self, index: u16) -> bool {
        index < self.size && self.bits[usize::from(index / 8)] & (1 << (index % 8)) != 0
    }

    /// How many members the set holds.
    pub fn count(&self) -> usize {
        self.iter().count()
    }

    /// The members, in ascending order.
    pub fn iter(&self) -> impl Iterator<Item = u16> + '_ {
        (0..self.size).filter(|index| self.contains(*index))
    }

    /// Whether every member of this set is in `other`, over lists of the same size.
    pub fn is_subset(&self, other: &Self) -> bool {
        self.size == other.size && self.iter().all(|index| other.contains(index))
    }

    pub fn to_bytes(&self) -> Vec<u8> {
        let used = self.size().div_ceil(8);
        [&self.size.to_be_bytes()[..], &self.bits[..used]].concat()
    }

    /// Reads what [`Self::to_bytes`] wrote and refuses every other form.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, BadBitmap> {
        let (size, bits) = bytes.split_first_chunk::<2>().ok_or(BadBitmap::Malformed)?;
        let mut set = Self::new(u16::from_be_bytes(*size).into())?;
        if bits.len() != set.size().div_ceil(8) {
            return Err(BadBitmap::Malformed);
        }
        set.bits[..bits.len()].copy_from_slice(bits);
        let ones: u32 = bits.iter().map(|byte| byte.count_ones()).sum();
        if set.count() == ones as usize { Ok(set) } else { Err(BadBitmap::Malformed) }
    }
}

impl fmt::Debug for Bitmap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Bitmap({} of {}: ", self.count(), self.size)?;
        f.debug_set().entries(self.iter()).finish()?;
        f.write_str(")")
    }
}

impl Serialize for Bitmap {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let bytes = self.to_bytes();
        if serializer.is_human_readable() {
            serializer.serialize_str(&hex::encode(bytes))
        } else {
            serializer.serialize_bytes(&bytes)
        }
    }
}

impl<'de> Deserialize<'de> for Bitmap {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let bytes = if deserializer.is_human_readable() {
            hex::decode(String::deserialize(deserializer)?).map_err(de::Error::custom)?
        } else {
            <Vec<u8>>::deserialize(deserializer)?
        };
        Self::from_bytes(&bytes).map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::btree_set, prelude::*};

    use super::*;

    /// The table of docs/PROTOCOL.md: n, c_max, min_honest, Q, dropouts tolerated.
    #[test]
    fn the_protocols_table_holds() {
        for (n, c_max, min_honest, q, dropouts) in [
            (2, 0, 2, 2, 0),
            (4, 1, 2, 3, 1),
            (7, 1, 5, 5, 1),
            (16, 2, 5, 10, 6),
            (158, 15, 5, 87, 71),
        ] {
            assert_eq!(quorum(n, c_max), q, "n = {n}");
            assert_eq!(dropouts_tolerated(n, c_max, min_honest), Ok(dropouts), "n = {n}");
        }
    }

    #[test]
    fn every_allowed_cohort_has_one_quorum_and_can_reach_it() {
        for n in 2..=MAX_MEMBERS {
            for c_max in 0..n {
                if check_cohort(n, c_max, 1).is_ok() {
                    let q = quorum(n, c_max);
                    assert!(2 * q - n > c_max, "two quorums share an honest member");
                    assert!(n - c_max >= q, "the honest ones are a quorum");
                }
            }
        }
    }

    #[test]
    fn bad_cohorts_are_refused() {
        assert_eq!(check_cohort(1, 0, 1), Err(BadCohort::Size(1)));
        assert_eq!(check_cohort(257, 0, 1), Err(BadCohort::Size(257)));
        let few = BadCohort::Colluders { n: 6, c_max: 2, needed: 7 };
        assert_eq!(check_cohort(6, 2, 2), Err(few));
        let honest = BadCohort::Honest { n: 4, c_max: 1, min_honest: 4 };
        assert_eq!(dropouts_tolerated(4, 1, 4), Err(honest));
        assert!(check_cohort(9, usize::MAX, usize::MAX).is_err());
    }

    #[test]
    fn bitmaps_have_one_form() {
        let set = Bitmap::of(11, [0, 3, 10]).unwrap();
        assert_eq!(serde_json::to_string(&set).unwrap(), "\"000b0904\"");
        assert_eq!(format!("{set:?}"), "Bitmap(3 of 11: {0, 3, 10})");
        let outside = BadBitmap::Outside { index: 11, size: 11 };
        assert_eq!(Bitmap::of(11, [11]), Err(outside));
        for bad in ["", "00", "0000", "000b09", "000b090400", "000b0984", "010100", "ffff"] {
            assert!(Bitmap::from_bytes(&hex::decode(bad).unwrap()).is_err(), "{bad}");
        }
        assert!(!set.contains(11) && !set.contains(u16::MAX));
        assert!(Bitmap::new(0).is_err() && Bitmap::new(257).is_err());
    }

    proptest! {
        #[test]
        fn bitmaps_hold_what_was_set(members in btree_set(0_u16..256, 0..256)) {
            let set = Bitmap::of(256, members.iter().copied()).unwrap();
            prop_assert!(set.iter().eq(members.iter().copied()));
            prop_assert_eq!(set.count(), members.len());
            prop_assert_eq!(Bitmap::from_bytes(&set.to_bytes()).unwrap(), set);
            let packed = postcard::to_allocvec(&set).unwrap();
            prop_assert_eq!(postcard::from_bytes::<Bitmap>(&packed).unwrap(), set);
            let text = serde_json::to_string(&set).unwrap();
            prop_assert_eq!(serde_json::from_str::<Bitmap>(&text).unwrap(), set);
        }
    }
}
