//! Random bits for the samplers, from a source that fills bytes: the operating system's generator, or in
//! tests a seeded one. Keeps them only until they are used or dropped, then wipes them: who knows the bits
//! can take the noise off.

use ring::rand::{SecureRandom, SystemRandom};
use thiserror::Error;
use zeroize::Zeroize;

/// The operating system gave no randomness.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("the operating system gave no random bytes, so no noise was drawn; nothing was sent")]
pub struct NoRandomness;

/// Where random bytes come from.
pub trait Entropy {
    /// Fills all of `bytes` with independent uniform bytes, or fails.
    fn fill(&mut self, bytes: &mut [u8]) -> Result<(), NoRandomness>;
}

impl Entropy for SystemRandom {
    fn fill(&mut self, bytes: &mut [u8]) -> Result<(), NoRandomness> {
        SecureRandom::fill(self, bytes).map_err(|_| NoRandomness)
    }
}

/// Words that are asked for at once: one system call for 4 KiB.
const WORDS: usize = 512;

/// A buffer of random words over a source of bytes.
pub struct RandomBits<E> {
    entropy: E,
    words: Box<[u64; WORDS]>,
    used: usize,
}

impl RandomBits<SystemRandom> {
    /// Over the operating system's generator.
    pub fn system() -> Self {
        Self::over(SystemRandom::new())
    }
}

impl<E: Entropy> RandomBits<E> {
    /// Over `entropy`.
    pub fn over(entropy: E) -> Self {
        Self { entropy, words: Box::new([0; WORDS]), used: WORDS }
    }

    /// 64 uniform bits.
    pub fn word(&mut self) -> Result<u64, NoRandomness> {
        if self.used == WORDS {
            self.refill()?;
        }
        let word = self.words[self.used];
        self.words[self.used] = 0;
        self.used += 1;
        Ok(word)
    }

    /// 128 uniform bits.
    pub(super) fn wide(&mut self) -> Result<u128, NoRandomness> {
        Ok((u128::from(self.word()?) << 64) | u128::from(self.word()?))
    }

    /// A uniform integer from 0 to `bound` - 1; 0 if `bound` is 0. Exactly uniform: what is too large is
    /// drawn again.
    pub(super) fn below(&mut self, bound: u128) -> Result<u128, NoRandomness> {
        let last = bound.saturating_sub(1);
        let needed = 128 - last.leading_zeros();
        if needed == 0 {
            return Ok(0);
        }
        loop {
            let drawn = match needed {
                ..=64 => u128::from(self.word()? >> (64 - needed)),
                _ => self.wide()? >> (128 - needed),
            };
            if drawn <= last {
                return Ok(drawn);
            }
        }
    }

    #[cold]
    fn refill(&mut self) -> Result<(), NoRandomness> {
        let mut bytes = [0; 8 * WORDS];
        self.entropy.fill(&mut bytes)?;
        let (chunks, _) = bytes.as_chunks();
        for (word, chunk) in self.words.iter_mut().zip(chunks) {
            *word = u64::from_le_bytes(*chunk);
        }
        bytes.zeroize();
        self.used = 0;
        Ok(())
    }
}

impl<E> Drop for RandomBits<E> {
    fn drop(&mut self) {
        self.words.zeroize();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Counts up: bytes 0, 1, 2, ...
    struct Counter(u8);

    impl Entropy for Counter {
        fn fill(&mut self, bytes: &mut [u8]) -> Result<(), NoRandomness> {
            for byte in bytes {
                *byte = self.0;
                self.0 = self.0.wrapping_add(1);
            }
            Ok(())
        }
    }

    struct Broken;

    impl Entropy for Broken {
        fn fill(&mut self, _: &mut [u8]) -> Result<(), NoRandomness> {
            Err(NoRandomness)
        }
    }

    #[test]
    fn every_byte_is_used_once_and_in_order() {
        let mut bits = RandomBits::over(Counter(0));
        for round in 0..3 * WORDS {
            let start = u8::try_from(round * 8 % 256).unwrap();
            let expected: [u8; 8] = std::array::from_fn(|i| start + u8::try_from(i).unwrap());
            assert_eq!(bits.word().unwrap(), u64::from_le_bytes(expected));
            assert_eq!(bits.words[bits.used - 1], 0, "a used word is still there");
        }
    }

    #[test]
    fn what_is_too_large_is_drawn_again() {
        // The first bytes of words 0, 1, 2 .. as numbers: tops 7, 15, 23 ..; 5 bits of them: 0, 1, 2, ..
        let mut bits = RandomBits::over(Counter(0));
        let drawn: Vec<u128> = (0..32).map(|_| bits.below(20).unwrap()).collect();
        let expected: Vec<u128> = (0..20).chain(0..12).collect();
        assert_eq!(drawn, expected);
        assert_eq!((bits.below(1).unwrap(), bits.below(0).unwrap()), (0, 0));
        assert!(bits.below(1 << 100).unwrap() < 1 << 100);
    }

    #[test]
    fn no_randomness_is_an_error_and_no_zeros() {
        let mut bits = RandomBits::over(Broken);
        assert_eq!(bits.word(), Err(NoRandomness));
        assert_eq!(bits.word(), Err(NoRandomness));
        assert_ne!(RandomBits::system().wide(), RandomBits::system().wide());
    }
}
