//! The discrete Gaussian N_Z(0, sigma^2) for whole vectors: a table of blocks proposes, a coin accepts.
//! Owns the table. Draws nothing that `discrete_gaussian` would not draw, but for the bound below.
//!
//! Magnitudes are cut into blocks of 2^b consecutive integers, at most 511 of them, which reach to 13.2
//! sigma. A block i is drawn with probability w_i / 2^63 (Walker 1977, Vose 1991, with integers alone), where the
//! integer w_i is at least u exp(-y_i^2 / (2 sigma^2)) for the block's first y_i and one common u; y is
//! uniform within the block; and it is accepted with probability u exp(-y^2 / (2 sigma^2)) / w_i, which
//! makes the product proportional to exp(-y^2 / (2 sigma^2)) whatever the w_i are. Doubles choose the
//! w_i, where no error matters, and decide a coin of 44 bits unless it lies within 2^-39 of their
//! probability. Then fixed-point integers decide it with 128 bits.
//!
//! **Distance.** One draw's total variation distance from N_Z(0, sigma^2) is below 2^-100: beyond 13.2 sigma
//! lies less than 2^-124 of it (2 exp(-x^2 / (2 sigma^2)), as N_Z is sub-Gaussian); the integers' error of
//! 2^-113 on each exponential moves the coin by less than 512 * 2^-113 over all blocks; and at least a
//! quarter of the proposals is accepted. So 2^30 values are within 2^-70 of exact ones, which adds
//! (1 + exp(epsilon)) 2^-70 to a delta. It asks of `exp` in doubles to be right to 2^-42 of itself, and of no more.

use std::array;

use super::{
    discrete_gaussian::Variance,
    exponential::{exp_minus, scaled},
    random_bits::{Entropy, NoRandomness, RandomBits},
};

/// Columns of the alias table.
const COLUMNS: usize = 512;
/// The block that stands for starting over: it takes what the others leave.
const NONE: usize = COLUMNS - 1;
/// What each column holds together, so that the table holds 2^63.
const COLUMN: u64 = 1 << 54;
/// How far the blocks reach, in sigma.
const REACH: f64 = 13.2;
/// Bits of the coin, and how far doubles are trusted to know its probability, in units of its last bit.
const COIN_BITS: u32 = 44;
const MARGIN: f64 = 32.0;

/// A column of the alias table: its own block below `threshold`, else `other`.
#[derive(Clone, Copy, Debug)]
struct Column {
    threshold: u64,
    other: u16,
}

#[derive(Clone, Copy, Debug)]
struct Block {
    /// w_i, of 2^63.
    weight: u64,
    /// u / w_i.
    ratio: f64,
    /// Coins below this are accepted wherever in the block y is.
    sure: u64,
}

/// Draws from N_Z(0, sigma^2), for sigma up to 2^24, in some nanoseconds each.
pub struct BulkSampler {
    columns: Box<[Column; COLUMNS]>,
    blocks: Box<[Block; COLUMNS]>,
    /// u, of 2^63.
    unit: u64,
    /// b.
    block_bits: u32,
    variance: Variance,
    /// -1 / (2 sigma^2).
    exponent: f64,
}

impl BulkSampler {
    /// Makes the table: some microseconds.
    pub fn new(variance: Variance) -> Self {
        let exponent = -0.5 / variance.value();
        let reach = REACH * variance.value().sqrt() + 1.0;
        // sigma is at most 2^24, so b is at most 19 and a coin's 44 bits fit above it.
        let mut block_bits = 0;
        while (NONE << block_bits) as f64 <= reach {
            block_bits += 1;
        }
        let gaussian = |magnitude: usize| (exponent * (magnitude as f64).powi(2)).exp();
        let heights: [f64; COLUMNS] = array::from_fn(|block| {
            let first = block << block_bits;
            if block != NONE && first as f64 <= reach { gaussian(first) } else { 0.0 }
        });
        let whole = 2_f64.powi(63) * (1.0 - 2_f64.powi(-10));
        let unit = floor(whole / heights.iter().sum::<f64>());
        let blocks = array::from_fn(|block| {
            let height = heights[block];
            if height == 0.0 {
                return Block { weight: 0, ratio: 0.0, sure: 0 };
            }
            // A little more than the height: rounding must not make it less.
            let weight = floor(unit as f64 * height * (1.0 + 2_f64.powi(-40))) + 2;
            let ratio = unit as f64 / weight as f64;
            let last = ((block + 1) << block_bits) - 1;
            let least = gaussian(last) * ratio * 2_f64.powi(44);
            Block { weight, ratio, sure: floor((least - MARGIN - 1.0).max(0.0)) }
        });
        let columns = Box::new(columns(&blocks));
        Self { columns, blocks: Box::new(blocks), unit, block_bits, variance, exponent }
    }

    /// One draw.
    pub fn draw<E: Entropy>(&self, bits: &mut RandomBits<E>) -> Result<i64, NoRandomness> {
        loop {
            // 9 bits for the column, 54 for its side, one for the sign.
            let word = bits.word()?;
            let negative = word >> 63 == 1;
            let own = (word & 0x1ff) as usize;
            let column = self.columns[own];
            let side = (word >> 9) & (COLUMN - 1);
            let block = if side < column.threshold { own } else { column.other.into() };
            if block == NONE {
                continue;
            }
            // Up to 20 bits for the place in the block, 44 for the coin.
            let word = bits.word()?;
            let place = word & ((1 << self.block_bits) - 1);
            let coin = word >> (64 - COIN_BITS);
            let magnitude = ((block as u64) << self.block_bits) | place;
            let accepted =
                coin < self.blocks[block].sure || self.accepts(block, magnitude, coin, bits)?;
            // Below 2^28, and zero is there once, not with both signs.
            if accepted && !(negative && magnitude == 0) {
                let value = magnitude.cast_signed();
                return Ok(if negative { -value } else { value });
            }
        }
    }

    /// Puts a draw of its own into each place of `values`; what was there is gone.
    pub fn fill<E: Entropy>(
        &self,
        values: &mut [i64],
        bits: &mut RandomBits<E>,
    ) -> Result<(), NoRandomness> {
        for value in values {
            *value = self.draw(bits)?;
        }
        Ok(())
    }

    /// Whether the coin, of which 44 bits are known, is below u exp(-y^2 / (2 sigma^2)) / w_i.
    fn accepts<E: Entropy>(
        &self,
        block: usize,
        magnitude: u64,
        coin: u64,
        bits: &mut RandomBits<E>,
    ) -> Result<bool, NoRandomness> {
        if let Some(decided) = self.decided(block, magnitude, coin) {
            return Ok(decided);
        }
        let rest = bits.wide()? >> COIN_BITS;
        let coin = (u128::from(coin) << (128 - COIN_BITS)) | rest;
        Ok(coin < self.acceptance(block, magnitude))
    }

    /// What doubles say; none if they cannot know.
    fn decided(&self, block: usize, magnitude: u64, coin: u64) -> Option<bool> {
        let square = magnitude as f64 * magnitude as f64;
        let likely = (self.exponent * square).exp() * self.blocks[block].ratio * 2_f64.powi(44);
        let coin = coin as f64;
        if coin + 1.0 + MARGIN <= likely {
            Some(true)
        } else if coin >= likely + MARGIN {
            Some(false)
        } else {
            None
        }
    }

    /// The acceptance probability with 128 bits after the point.
    fn acceptance(&self, block: usize, magnitude: u64) -> u128 {
        let (numerator, denominator) = self.variance.ratio();
        let square = u128::from(magnitude) * u128::from(magnitude);
        let exponential = exp_minus(square * denominator, 2 * numerator);
        scaled(exponential, self.unit, self.blocks[block].weight)
    }
}

/// The alias table in which block i has its weight of 2^63 and [`NONE`] what is left (Vose 1991, "A Linear
/// Algorithm for Generating Random Numbers with a Given Distribution"): exact, as all are integers.
fn columns(blocks: &[Block; COLUMNS]) -> [Column; COLUMNS] {
    let mut left = blocks.each_ref().map(|block| block.weight);
    left[NONE] = (COLUMN << 9) - left.iter().sum::<u64>();
    let mut columns = array::from_fn(|_| Column { threshold: COLUMN, other: 0 });
    let (mut poor, mut rich): (Vec<u16>, Vec<u16>) =
        (0..512).partition(|block| left[usize::from(*block)] < COLUMN);
    while let (Some(taker), Some(giver)) = (poor.pop(), rich.pop()) {
        let (own, from) = (left[usize::from(taker)], usize::from(giver));
        columns[usize::from(taker)] = Column { threshold: own, other: giver };
        left[from] -= COLUMN - own;
        if left[from] < COLUMN { poor.push(giver) } else { rich.push(giver) }
    }
    columns
}

/// The integer below a double that is not negative and below 2^64.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it fits")]
fn floor(value: f64) -> u64 {
    value as u64
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sampler(numerator: u64, denominator: u64) -> BulkSampler {
        BulkSampler::new(Variance::new(numerator, denominator).unwrap())
    }

    fn any_variance() -> impl Strategy<Value = Variance> {
        let numerator = (0..58_u32, any::<u64>())
            .prop_map(|(bits, random)| (1 << bits) | (random & ((1 << bits) - 1)));
        (numerator, 1..=1_024_u64).prop_filter_map("too large", |(n, d)| Variance::new(n, d).ok())
    }

    /// What the table gives each block, of 2^63.
    fn in_table(sampler: &BulkSampler) -> [u64; COLUMNS] {
        let mut sums = [0; COLUMNS];
        for (own, column) in sampler.columns.iter().enumerate() {
            sums[own] += column.threshold;
            sums[usize::from(column.other)] += COLUMN - column.threshold;
        }
        sums
    }

    proptest! {
        #[test]
        fn the_table_gives_each_block_its_weight(variance in any_variance()) {
            let sampler = BulkSampler::new(variance);
            let sums = in_table(&sampler);
            prop_assert!(sampler.columns.iter().all(|column| column.threshold <= COLUMN));
            for (block, sum) in sums.iter().enumerate().take(NONE) {
                prop_assert_eq!(*sum, sampler.blocks[block].weight);
            }
            prop_assert!(sums[NONE] < 1 << 54, "more than 1/512 of the proposals is none");
            // The blocks reach far enough, and a block's last places no farther than a coin's bits.
            let used = sampler.blocks.iter().filter(|block| block.weight > 0).count();
            let reach = (used << sampler.block_bits) as f64;
            prop_assert!(reach * reach / variance.value() >= 13.2 * 13.2);
            prop_assert!(sampler.block_bits <= 20);
        }

        /// With 2 w_i / 2^63 of the weight and this acceptance, each y comes as often as it should.
        #[test]
        fn weight_times_acceptance_is_gaussian(variance in any_variance(), at in 0.0..6.0_f64) {
            let sampler = BulkSampler::new(variance);
            let magnitude = floor(at * variance.value().sqrt());
            let block = usize::try_from(magnitude >> sampler.block_bits).unwrap();
            let weight = sampler.blocks[block].weight as f64;
            let acceptance = sampler.acceptance(block, magnitude) as f64 / 2_f64.powi(128);
            prop_assert!(acceptance <= 1.0);
            let exact = (-(magnitude as f64).powi(2) / (2.0 * variance.value())).exp();
            let found = weight * acceptance / sampler.unit as f64;
            prop_assert!((found - exact).abs() <= 1e-12 * exact + 1e-18, "{found} {exact}");
        }

        /// What doubles decide, the integers decide so too: for coins right beside the probability, and a
        /// margin away from it.
        #[test]
        fn doubles_never_decide_wrongly(
            variance in any_variance(),
            at in 0.0..9.0_f64,
            beside in -80_i64..80,
        ) {
            let sampler = BulkSampler::new(variance);
            let magnitude = floor(at * variance.value().sqrt());
            let block = usize::try_from(magnitude >> sampler.block_bits).unwrap();
            let acceptance = sampler.acceptance(block, magnitude);
            let near = u64::try_from(acceptance >> (128 - COIN_BITS)).unwrap();
            let coin = near.saturating_add_signed(beside).min((1 << COIN_BITS) - 1);
            let first = u128::from(coin) << (128 - COIN_BITS);
            let last = first | ((1 << (128 - COIN_BITS)) - 1);
            match sampler.decided(block, magnitude, coin) {
                Some(true) => prop_assert!(last < acceptance),
                Some(false) => prop_assert!(first >= acceptance),
                None => prop_assert!(coin.abs_diff(near) <= 36, "too often in doubt"),
            }
            if coin < sampler.blocks[block].sure {
                prop_assert_eq!(sampler.decided(block, magnitude, coin), Some(true));
            }
        }
    }

    /// Coins that doubles cannot decide are tossed on with 84 more bits.
    #[test]
    fn coins_in_doubt_are_decided_by_integers() {
        /// All bits one or all bits zero.
        struct Constant(u8);
        impl Entropy for Constant {
            fn fill(&mut self, bytes: &mut [u8]) -> Result<(), NoRandomness> {
                bytes.fill(self.0);
                Ok(())
            }
        }
        let sampler = sampler(9, 2);
        let acceptance = sampler.acceptance(3, 3);
        let coin = u64::try_from(acceptance >> (128 - COIN_BITS)).unwrap();
        assert_eq!(sampler.decided(3, 3, coin), None);
        let accepts =
            |byte| sampler.accepts(3, 3, coin, &mut RandomBits::over(Constant(byte))).unwrap();
        assert!(accepts(0) && !accepts(0xff));
    }
}
