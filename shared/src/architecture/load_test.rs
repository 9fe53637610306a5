//! `load-test/1`: any number of parameters through the whole path of a training task, without training
//! and without a learner record. Every institution's moves are public numbers that anyone can compute
//! again, so the sum over any set of institutions is known beforehand, bit by bit. No model comes of it.

use super::{Architecture, Init, Layout, TensorSpec};
use crate::{
    crypto::Digest,
    ids::{InstitutionId, RoundId},
    params::{EncodeError, Encoding, MAX_DIMENSION},
};

/// The identifier of the load test.
pub const LOAD_TEST_1: &str = "load-test/1";

/// The one segment of its sums.
pub const MOVE: &str = "move";
/// The one tensor of its layout.
pub const WEIGHTS: &str = "weights";

/// A move is one of 2^12 multiples of a power of two: it survives every encoding exactly, and sums of
/// up to 2^12 of them are exact in single precision.
const MOVE_BITS: u32 = 12;

/// The parameters as one tensor of `parameters` zeros.
pub fn layout(parameters: u32) -> Layout {
    let weights = TensorSpec { name: WEIGHTS.to_owned(), len: parameters, init: Init::Zeros };
    Layout {
        architecture: Architecture::LoadTest1,
        competencies: Vec::new(),
        tensors: vec![weights],
    }
}

/// The encoding of its moves for sums over at most `n_max` institutions.
pub fn encoding(parameters: u32, bound: f64, n_max: u32) -> Result<Encoding, EncodeError> {
    if parameters as usize > MAX_DIMENSION {
        return Err(EncodeError::TooLong);
    }
    Encoding::new([(MOVE, parameters, bound)], n_max)
}

/// What stands for the records that an input was made from: there were none.
pub fn snapshot() -> Digest {
    Digest::of_parts("collegium/v1/load-test/no-records", &[])
}

/// The moves of one institution in one round, by position. Every attempt at the round has the same.
#[derive(Clone, Copy, Debug)]
pub struct Moves {
    seed: u64,
    unit: f64,
}

impl Moves {
    /// `bound` is the public bound of the task's optimiser, at least 2^-64; no move exceeds it.
    pub fn new(institution: &InstitutionId, round: &RoundId, bound: f64) -> Self {
        let (task, number) = (round.task.as_str().as_bytes(), round.round.to_be_bytes());
        let parts = [institution.as_str().as_bytes(), task, &number];
        let digest = Digest::of_parts("collegium/v1/load-test/moves", &parts);
        let [a, b, c, d, e, f, g, h, ..] = *digest.as_bytes();
        let seed = u64::from_be_bytes([a, b, c, d, e, f, g, h]);
        // 2^floor(log2(bound)) from the exponent alone: exact, and alike on every machine.
        let power = f64::from_bits(bound.to_bits() & !((1 << (f64::MANTISSA_DIGITS - 1)) - 1));
        Self { seed, unit: power / f64::from(1_u32 << (MOVE_BITS - 1)) }
    }

    /// The move of parameter `index`: a multiple of 2^(floor(log2(bound)) - 11) in
    /// [-2^floor(log2(bound)), 2^floor(log2(bound))).
    pub fn value(&self, index: u64) -> f64 {
        let [high, low, ..] = splitmix64(self.seed, index).to_be_bytes();
        let level = u16::from_be_bytes([high, low]) >> (u16::BITS - MOVE_BITS);
        let half = f64::from(1_u16 << (MOVE_BITS - 1));
        (f64::from(level) - half) * self.unit
    }

    /// Appends the moves of `count` parameters from `first` on.
    pub fn append(&self, first: u64, count: usize, out: &mut Vec<f64>) {
        out.extend((first..first + count as u64).map(|index| self.value(index)));
    }
}

/// Output `index` of SplitMix64 (Steele, Lea, Flood 2014, OOPSLA, figure 17; constants by Stafford's
/// variant 13): its state is a counter, so any position can be had at once.
pub(super) fn splitmix64(seed: u64, index: u64) -> u64 {
    const GOLDEN_GAMMA: u64 = 0x9e37_79b9_7f4a_7c15;
    let mut z = seed.wrapping_add(index.wrapping_add(1).wrapping_mul(GOLDEN_GAMMA));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn round(round: u32, attempt: u32) -> RoundId {
        RoundId { task: "load".parse().unwrap(), round, attempt }
    }

    fn moves(institution: &str, round: &RoundId, bound: f64) -> Moves {
        Moves::new(&institution.parse().unwrap(), round, bound)
    }

    /// The first outputs for seed 1234567, as the reference implementation in C gives them.
    #[test]
    fn the_generator_is_splitmix64() {
        let expected = [
            6_457_827_717_110_365_317,
            3_203_168_211_198_807_973,
            9_817_491_932_198_370_423,
            4_593_380_528_125_082_431,
            16_408_922_859_458_223_821,
        ];
        assert_eq!([0, 1, 2, 3, 4].map(|index| splitmix64(1_234_567, index)), expected);
    }

    #[test]
    fn moves_differ_by_institution_and_round_but_not_by_attempt() {
        let all = |moves: Moves| {
            let mut values = Vec::new();
            moves.append(0, 1000, &mut values);
            values
        };
        let own = all(moves("school-1", &round(0, 0), 1.0));
        assert_ne!(own, all(moves("school-2", &round(0, 0), 1.0)));
        assert_ne!(own, all(moves("school-1", &round(1, 0), 1.0)));
        assert_eq!(own, all(moves("school-1", &round(0, 3), 1.0)));
        assert!(own.iter().any(|v| *v > 0.9) && own.iter().any(|v| *v < -0.9));
        let mut part = Vec::new();
        moves("school-1", &round(0, 0), 1.0).append(300, 20, &mut part);
        assert_eq!(part, own[300..320]);
    }

    #[test]
    fn a_layout_belongs_to_its_number_of_parameters() {
        assert_eq!(layout(5).initial(), [0.0; 5]);
        assert_ne!(layout(5).digest().unwrap(), layout(6).digest().unwrap());
        assert_ne!(layout(17).digest().unwrap(), super::super::layout(&[]).digest().unwrap());
        assert!(encoding(u32::MAX, 1.0, 4).is_err());
        assert!(encoding(0, 1.0, 4).is_err());
    }

    proptest! {
        #[test]
        fn moves_keep_the_bound_and_encode_exactly(
            bound in 1e-9..1000.0_f64,
            n_max in 1..=65_536_u32,
            first in any::<u32>(),
        ) {
            let moves = moves("school-1", &round(2, 0), bound);
            let mut values = Vec::new();
            moves.append(first.into(), 50, &mut values);
            let encoding = encoding(50, bound, n_max).unwrap();
            let quantised = encoding.encode(&values).unwrap();
            prop_assert_eq!(quantised.clipped, 0);
            prop_assert_eq!(&encoding.decode_sum(&quantised.words).unwrap()[MOVE], &values);
        }
    }
}
