//! The layout of a vector that is summed, and its fixed-point form in Z_2^32. Owns the promise that
//! a sum over at most `n_max` institutions never wraps around. Knows nothing of masks, and never
//! learns what a segment means.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::headroom::{HeadroomError, Summand, headroom};

/// The most values that one encoding may hold: 1 GiB of words.
pub const MAX_DIMENSION: usize = 1 << 28;
/// The most segments that one encoding may hold.
pub const MAX_SEGMENTS: usize = 256;
/// The longest name of a segment, in bytes.
pub const MAX_SEGMENT_NAME: usize = 64;
/// The most institutions that one encoding may be made for.
pub const MAX_SUMMANDS: u32 = 1 << 16;
/// The smallest and the largest bound of a segment: 2^-64 and 2^64.
pub const BOUNDS: (f64, f64) = (1.0 / 18_446_744_073_709_551_616.0, 18_446_744_073_709_551_616.0);

/// The largest magnitude that a sum may have as a signed 32-bit word.
const MAX_WORD: u32 = i32::MAX.cast_unsigned();
/// Between these lie the scales of every bound in [`BOUNDS`] for up to [`MAX_SUMMANDS`].
const SCALES: std::ops::RangeInclusive<i32> = -64..=95;

/// Why an encoding, or a vector for it, was refused. Holds names and positions, never values.
#[derive(Clone, Debug, PartialEq, Error)]
pub enum EncodeError {
    #[error("an encoding has 1 to {MAX_SEGMENTS} segments, not {0}")]
    Segments(usize),
    #[error(
        "segment name {0:?} is not allowed: use 1 to {MAX_SEGMENT_NAME} of a-z, 0-9, '.', '_' and '-'"
    )]
    Name(String),
    #[error("segment {0} is listed twice; give each segment a name of its own")]
    Repeated(String),
    #[error("segment {0} is empty; leave it out")]
    Empty(String),
    #[error("the encoding has more than {MAX_DIMENSION} values; split it over several rounds")]
    TooLong,
    #[error("segment {0}: the bound must be a number from 2^-64 to 2^64")]
    Bound(String),
    #[error("segment {segment}: {reason}")]
    Noise { segment: String, reason: HeadroomError },
    #[error("an encoding is for 1 to {MAX_SUMMANDS} institutions, not {0}")]
    Summands(u32),
    #[error("segment {segment}: scale 2^{given} is not the 2^{expected} that its bound gives")]
    Scale { segment: String, given: i32, expected: i32 },
    #[error("{given} values where the encoding has {expected}")]
    Length { given: usize, expected: usize },
    #[error("segment {segment}: value {index} is not a finite number")]
    NotFinite { segment: String, index: usize },
}

/// A named run of values with one bound and one scale.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Segment {
    pub name: String,
    /// How many values.
    pub len: u32,
    /// The public bound on |value| of one institution; what exceeds it is clipped.
    pub bound: f64,
    /// A value v becomes the integer round(v * 2^scale_log2). May be negative.
    pub scale_log2: i32,
    /// The standard deviation of the noise that each institution adds to each value; 0 for none.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub deviation: f64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the form that serde asks for")]
fn is_zero(deviation: &f64) -> bool {
    *deviation == 0.0
}

/// Segments, in order, of a vector that at most `n_max` institutions sum. A value of this type,
/// made here or received, is always valid.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Received")]
pub struct Encoding {
    segments: Vec<Segment>,
    n_max: u32,
}

/// The same from outside, not yet checked.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Received {
    segments: Vec<Segment>,
    n_max: u32,
}

/// One institution's vector as integers modulo 2^32 (two's complement). Not masked: as secret as the
/// values it was made from, so it has no `Debug`.
pub struct Quantised {
    /// One word per value, in the order of the segments.
    pub words: Vec<u32>,
    /// How many values were clipped to their bound.
    pub clipped: usize,
}

impl TryFrom<Received> for Encoding {
    type Error = EncodeError;

    fn try_from(received: Received) -> Result<Self, EncodeError> {
        let encoding = Self { segments: received.segments, n_max: received.n_max };
        encoding.check()?;
        Ok(encoding)
    }
}

impl Encoding {
    /// The finest encoding of `(name, len, bound)` segments for a sum over at most `n_max`
    /// institutions: each scale is the largest power of two that cannot wrap around.
    pub fn new<S: Into<String>>(
        segments: impl IntoIterator<Item = (S, u32, f64)>,
        n_max: u32,
    ) -> Result<Self, EncodeError> {
        Self::noisy(segments.into_iter().map(|(name, len, bound)| (name, len, bound, 0.0)), n_max)
    }

    /// The same for sums that each institution adds discrete Gaussian noise to, of the last of
    /// `(name, len, bound, deviation)`: scales leave room for its tail ([`headroom`]).
    pub fn noisy<S: Into<String>>(
        segments: impl IntoIterator<Item = (S, u32, f64, f64)>,
        n_max: u32,
    ) -> Result<Self, EncodeError> {
        let segments = segments
            .into_iter()
            .map(|(name, len, bound, deviation)| {
                let name = name.into();
                let scale_log2 = largest_scale(&name, len, bound, deviation, n_max)?;
                Ok(Segment { name, len, bound, scale_log2, deviation })
            })
            .collect::<Result<_, EncodeError>>()?;
        Self::try_from(Received { segments, n_max })
    }

    pub fn segments(&self) -> &[Segment] {
        &self.segments
    }

    /// The most institutions whose sum is sure not to wrap around.
    pub fn n_max(&self) -> u32 {
        self.n_max
    }

    /// How many values a vector has: the sum of the segments' lengths.
    pub fn dimension(&self) -> usize {
        self.segments.iter().map(Segment::size).sum()
    }

    /// Clips each value to its segment's bound and rounds it to the nearest multiple of
    /// 2^-scale_log2, ties to even.
    pub fn encode(&self, values: &[f64]) -> Result<Quantised, EncodeError> {
        self.check_length(values.len())?;
        let mut quantised = Quantised { words: Vec::with_capacity(values.len()), clipped: 0 };
        self.encoder().append(values, &mut quantised)?;
        Ok(quantised)
    }

    /// Encodes one vector piece by piece, from its first value on.
    pub fn encoder(&self) -> Encoder<'_> {
        Encoder { segments: &self.segments, within: 0 }
    }

    /// Reads an opened sum of at most `n_max` encoded vectors: the values by segment, in the units
    /// that went into [`Self::encode`].
    pub fn decode_sum(&self, words: &[u32]) -> Result<BTreeMap<String, Vec<f64>>, EncodeError> {
        self.check_length(words.len())?;
        let mut rest = words;
        let mut sums = BTreeMap::new();
        for segment in &self.segments {
            let (own, after) = rest.split_at(segment.size());
            rest = after;
            let mut values = vec![0.0; own.len()];
            segment.decode_sum(own, &mut values);
            sums.insert(segment.name.clone(), values);
        }
        Ok(sums)
    }

    fn check_length(&self, given: usize) -> Result<(), EncodeError> {
        let expected = self.dimension();
        if given == expected { Ok(()) } else { Err(EncodeError::Length { given, expected }) }
    }

    fn check(&self) -> Result<(), EncodeError> {
        if !(1..=MAX_SEGMENTS).contains(&self.segments.len()) {
            return Err(EncodeError::Segments(self.segments.len()));
        }
        let mut names = BTreeSet::new();
        let mut dimension = 0_usize;
        for segment in &self.segments {
            segment.check(self.n_max)?;
            if !names.insert(&segment.name) {
                return Err(EncodeError::Repeated(segment.name.clone()));
            }
            dimension = dimension.saturating_add(segment.size());
        }
        if dimension > MAX_DIMENSION { Err(EncodeError::TooLong) } else { Ok(()) }
    }
}

/// How far one vector is encoded.
pub struct Encoder<'a> {
    /// The segments that are not complete yet.
    segments: &'a [Segment],
    /// Values of the first of them that are.
    within: usize,
}

impl Encoder<'_> {
    /// Encodes the next values of the vector, as [`Encoding::encode`] does, onto the end of `out`.
    pub fn append(&mut self, values: &[f64], out: &mut Quantised) -> Result<(), EncodeError> {
        let mut rest = values;
        while !rest.is_empty() {
            let Some((segment, others)) = self.segments.split_first() else {
                return Err(EncodeError::Length { given: rest.len(), expected: 0 });
            };
            let left = segment.size() - self.within;
            let (own, after) = rest.split_at(left.min(rest.len()));
            segment.encode_into(self.within, own, out)?;
            self.within += own.len();
            if self.within == segment.size() {
                (self.segments, self.within) = (others, 0);
            }
            rest = after;
        }
        Ok(())
    }
}

impl Segment {
    fn size(&self) -> usize {
        self.len as usize
    }

    /// Reads any run of words of this segment of an opened sum into as many values, as
    /// [`Encoding::decode_sum`] does for all.
    pub fn decode_sum(&self, words: &[u32], values: &mut [f64]) {
        let unit = exp2(-self.scale_log2);
        for (value, word) in values.iter_mut().zip(words) {
            *value = f64::from(word.cast_signed()) * unit;
        }
    }

    fn check(&self, n_max: u32) -> Result<(), EncodeError> {
        let expected = largest_scale(&self.name, self.len, self.bound, self.deviation, n_max)?;
        if self.len == 0 {
            return Err(EncodeError::Empty(self.name.clone()));
        }
        if self.scale_log2 != expected {
            let (segment, given) = (self.name.clone(), self.scale_log2);
            return Err(EncodeError::Scale { segment, given, expected });
        }
        Ok(())
    }

    /// Encodes the values of this segment from `first` on.
    fn encode_into(
        &self,
        first: usize,
        values: &[f64],
        out: &mut Quantised,
    ) -> Result<(), EncodeError> {
        let (scale, bound, start) = (exp2(self.scale_log2), self.bound, out.words.len());
        let (mut finite, mut clipped) = (true, 0);
        out.words.resize(start + values.len(), 0);
        // Without a branch in it, the loop runs on several values at once.
        for (word, value) in out.words[start..].iter_mut().zip(values) {
            let kept = value.clamp(-bound, bound);
            finite &= value.is_finite();
            clipped += usize::from(kept != *value);
            *word = to_word(kept * scale);
        }
        if !finite {
            out.words.truncate(start);
            let at = values.iter().position(|value| !value.is_finite()).unwrap_or(0);
            let (segment, index) = (self.name.clone(), first + at);
            return Err(EncodeError::NotFinite { segment, index });
        }
        out.clipped += clipped;
        Ok(())
    }
}

/// The largest s with `bound * 2^s <= floor((2^31 - 1) / n_max)`. The right side is an integer, so
/// rounding to the nearest cannot pass it, and `n_max` such integers cannot pass 2^31 - 1. With noise,
/// [`headroom`]'s.
fn largest_scale(
    name: &str,
    len: u32,
    bound: f64,
    deviation: f64,
    n_max: u32,
) -> Result<i32, EncodeError> {
    let allowed = |b: u8| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'_' | b'-');
    if !(1..=MAX_SEGMENT_NAME).contains(&name.len()) || !name.bytes().all(allowed) {
        return Err(EncodeError::Name(name.chars().take(80).collect()));
    }
    if !(1..=MAX_SUMMANDS).contains(&n_max) {
        return Err(EncodeError::Summands(n_max));
    }
    // Not `bound < low || bound > high`: this form refuses NaN as well.
    if !(BOUNDS.0..=BOUNDS.1).contains(&bound) {
        return Err(EncodeError::Bound(name.to_owned()));
    }
    if deviation != 0.0 {
        let summand = Summand { largest: bound, deviation };
        let found = headroom(n_max, summand, u64::from(len).max(1));
        let error = |reason| EncodeError::Noise { segment: name.to_owned(), reason };
        return found.map(|headroom| headroom.scale_log2).map_err(error);
    }
    let largest = f64::from(MAX_WORD / n_max);
    SCALES
        .rev()
        .find(|scale| bound * exp2(*scale) <= largest)
        .ok_or_else(|| EncodeError::Bound(name.to_owned()))
}

/// 2^exponent; exact for the exponents in [`SCALES`].
fn exp2(exponent: i32) -> f64 {
    2_f64.powi(exponent)
}

/// Above this, doubles have a distance of 1 and as their last bits the integer itself, in two's
/// complement: 1.5 * 2^52.
const INTEGERS: f64 = 6_755_399_441_055_744.0;

/// The nearest integer, ties to even, as IEEE 754 adds. |scaled| <= 2^31 - 1 by the choice of scale.
#[expect(clippy::cast_possible_truncation, reason = "the last 32 bits are what is wanted")]
fn to_word(scaled: f64) -> u32 {
    (scaled + INTEGERS).to_bits() as u32
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    fn encoding(n_max: u32) -> Encoding {
        Encoding::new([("base", 2, 3.0), ("move", 3, 0.01), ("count", 1, 1e12)], n_max).unwrap()
    }

    proptest! {
        #[test]
        fn words_are_the_nearest_integers(scaled in -2_147_483_647.0..2_147_483_647.0_f64) {
            let [low, high] = [scaled.floor(), scaled.ceil()];
            for value in [scaled, low, high, low + 0.5, high - 0.5] {
                let expected = value.round_ties_even();
                prop_assert_eq!(f64::from(to_word(value).cast_signed()), expected);
            }
        }
    }

    #[test]
    fn scale_is_the_largest_that_cannot_wrap() {
        let limit = f64::from(i32::MAX);
        for n_max in [1, 2, 7, 158, MAX_SUMMANDS] {
            for segment in encoding(n_max).segments() {
                let at = |s| f64::from(n_max) * (segment.bound * exp2(s)).round();
                assert!(at(segment.scale_log2) <= limit, "{n_max} {segment:?}");
                assert!(
                    at(segment.scale_log2 + 1) > limit - f64::from(n_max),
                    "{n_max} {segment:?}"
                );
            }
        }
        assert!(encoding(16).segments()[2].scale_log2 < 0, "large values get a coarse scale");
        for bound in [BOUNDS.0, BOUNDS.1] {
            assert!(Encoding::new([("x", 1, bound)], MAX_SUMMANDS).is_ok());
            assert!(Encoding::new([("x", 1, bound)], 1).is_ok());
        }
    }

    #[test]
    fn extremes_of_all_institutions_do_not_wrap() {
        let encoding = Encoding::new([("x", 2, 1.0 / 3.0)], 158).unwrap();
        let one = encoding.encode(&[9.0, -9.0]).unwrap();
        assert_eq!(one.clipped, 2);
        let sum: Vec<u32> = one.words.iter().map(|w| w.wrapping_mul(158)).collect();
        let opened = &encoding.decode_sum(&sum).unwrap()["x"];
        assert!((opened[0] - 158.0 / 3.0).abs() < 1e-4 && (opened[1] + 158.0 / 3.0).abs() < 1e-4);
    }

    #[test]
    fn whole_numbers_within_range_stay_exact() {
        let encoding = Encoding::new([("n", 3, 1e6)], 100).unwrap();
        let words = encoding.encode(&[0.0, 1.0, -999_999.0]).unwrap().words;
        assert_eq!(encoding.decode_sum(&words).unwrap()["n"], [0.0, 1.0, -999_999.0]);
    }

    #[test]
    fn pieces_give_the_same_words() {
        let encoding = encoding(4);
        let values = [1.5, -7.0, 0.003, -0.02, 0.01, 9e11];
        let whole = encoding.encode(&values).unwrap();
        for size in 1..=values.len() {
            let mut encoder = encoding.encoder();
            let mut apart = Quantised { words: Vec::new(), clipped: 0 };
            for piece in values.chunks(size) {
                encoder.append(piece, &mut apart).unwrap();
            }
            assert_eq!((&apart.words, apart.clipped), (&whole.words, whole.clipped));
            assert!(encoder.append(&[0.0], &mut apart).is_err(), "past the end");
        }
        let mut encoder = encoding.encoder();
        let mut none = Quantised { words: Vec::new(), clipped: 0 };
        encoder.append(&[0.0; 3], &mut none).unwrap();
        let expected = EncodeError::NotFinite { segment: "move".into(), index: 2 };
        assert_eq!(encoder.append(&[0.0, f64::NAN], &mut none).unwrap_err(), expected);
    }

    #[test]
    fn bad_vectors_are_refused_by_place() {
        let encoding = encoding(4);
        let refused = |values: &[f64]| encoding.encode(values).err().unwrap();
        assert_eq!(refused(&[0.0; 5]), EncodeError::Length { given: 5, expected: 6 });
        for bad in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
            let expected = EncodeError::NotFinite { segment: "move".into(), index: 1 };
            assert_eq!(refused(&[0.0, 0.0, 0.0, bad, 0.0, 0.0]), expected);
        }
        assert!(encoding.decode_sum(&[0; 7]).is_err());
    }

    #[test]
    fn bad_encodings_are_refused() {
        let refused = |segments: &[(&str, u32, f64)], n_max| {
            Encoding::new(segments.iter().copied(), n_max).unwrap_err()
        };
        assert!(matches!(refused(&[], 1), EncodeError::Segments(0)));
        for name in ["", "A", "a b", &"x".repeat(65)] {
            assert!(matches!(refused(&[(name, 1, 1.0)], 1), EncodeError::Name(_)));
        }
        for bound in [0.0, -1.0, f64::NAN, f64::INFINITY, 1e300, 1e-300] {
            assert!(matches!(refused(&[("x", 1, bound)], 1), EncodeError::Bound(_)));
        }
        assert!(matches!(refused(&[("x", 1, 1.0), ("x", 1, 1.0)], 1), EncodeError::Repeated(_)));
        assert!(matches!(refused(&[("x", 0, 1.0)], 1), EncodeError::Empty(_)));
        assert!(matches!(refused(&[("x", 1, 1.0)], 0), EncodeError::Summands(0)));
        assert!(matches!(refused(&[("x", (1 << 28) + 1, 1.0)], 1), EncodeError::TooLong));
        let long = [("x", u32::MAX, 1.0), ("y", u32::MAX, 1.0)];
        assert!(matches!(refused(&long, 1), EncodeError::TooLong));
    }

    #[test]
    fn received_encodings_are_checked() {
        let good = serde_json::to_value(encoding(7)).unwrap();
        assert_eq!(serde_json::from_value::<Encoding>(good.clone()).unwrap(), encoding(7));
        for (path, value) in [
            ("/segments/0/scale_log2", serde_json::json!(31)),
            ("/segments/0/name", serde_json::json!("move")),
            ("/segments/0/bound", serde_json::json!(4.0e9)),
            ("/n_max", serde_json::json!(8000)),
        ] {
            let mut bad = good.clone();
            *bad.pointer_mut(path).unwrap() = value;
            assert!(serde_json::from_value::<Encoding>(bad).is_err(), "{path}");
        }
    }

    proptest! {
        /// Each of n roundings is off by at most half a unit, and clipping is per institution.
        #[test]
        fn sum_decodes_to_the_sum_of_clipped_values(
            bound in 1e-6..1e6_f64,
            rows in vec(vec(-2e6..2e6_f64, 5), 1..40),
        ) {
            let n = u32::try_from(rows.len()).unwrap();
            let encoding = Encoding::new([("a", 2, bound), ("b", 3, bound * 7.0)], n).unwrap();
            let mut sum = [0_u32; 5];
            let mut expected = [0.0; 5];
            for row in &rows {
                let words = encoding.encode(row).unwrap().words;
                for i in 0..5 {
                    sum[i] = sum[i].wrapping_add(words[i]);
                    let limit = if i < 2 { bound } else { bound * 7.0 };
                    expected[i] += row[i].clamp(-limit, limit);
                }
            }
            let opened = encoding.decode_sum(&sum).unwrap();
            let values: Vec<f64> = [&opened["a"][..], &opened["b"][..]].concat();
            for i in 0..5 {
                let scale = encoding.segments()[usize::from(i >= 2)].scale_log2;
                let slack = f64::from(n) * (exp2(-scale) / 2.0 + 1e-9 * bound);
                prop_assert!((values[i] - expected[i]).abs() <= slack);
            }
        }

        #[test]
        fn clipping_is_counted(values in vec(-10.0..10.0_f64, 8)) {
            let encoding = Encoding::new([("x", 8, 5.0)], 3).unwrap();
            let expected = values.iter().filter(|v| v.abs() > 5.0).count();
            prop_assert_eq!(encoding.encode(&values).unwrap().clipped, expected);
        }
    }
}
