//! What poisoning institutions do to their records and to what they send. They run the product's agent on
//! their records, and evaluate honestly what they have.

use std::collections::BTreeSet;

use collegium_agent::records::Learner;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha12Rng;

/// A kind of poisoning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Attack {
    None,
    /// Sends its move turned around and many times as long.
    SignFlip,
    /// Sends Gaussian noise in place of its move, many times as long.
    ScaledNoise,
    /// Calls right answers wrong and wrong ones right, in everything that it counts and trains on.
    LabelFlip,
}

impl Attack {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::SignFlip => "sign flip",
            Self::ScaledNoise => "scaled noise",
            Self::LabelFlip => "label flip",
        }
    }
}

/// Who poisons, and how.
pub(super) struct Poisoning {
    attack: Attack,
    who: BTreeSet<usize>,
    strength: f64,
    seed: u64,
}

impl Poisoning {
    /// The same institutions for the same share, of so many, whatever the attack.
    pub(super) fn draw(attack: Attack, share: f64, of: usize, strength: f64, seed: u64) -> Self {
        let mut rng = ChaCha12Rng::seed_from_u64(seed);
        let mut drawn: Vec<(u64, usize)> = (0..of).map(|place| (rng.random(), place)).collect();
        drawn.sort_unstable();
        let number =
            |(place, _): &(usize, (u64, usize))| (*place as f64) < (share * of as f64).round();
        let who =
            drawn.into_iter().enumerate().take_while(number).map(|(_, (_, who))| who).collect();
        Self { attack, who, strength, seed }
    }

    pub(super) fn poisons(&self, place: usize) -> bool {
        self.who.contains(&place)
    }

    /// The records that everybody goes by.
    pub(super) fn records(&self, honest: &[Vec<Learner>]) -> Vec<Vec<Learner>> {
        let mut records = honest.to_vec();
        let flipped = records.iter_mut().enumerate();
        for (_, learners) in
            flipped.filter(|(p, _)| self.attack == Attack::LabelFlip && self.poisons(*p))
        {
            let answers = learners.iter_mut().flat_map(|learner| &mut learner.responses);
            answers.for_each(|answer| answer.correct = !answer.correct);
        }
        records
    }

    /// What the institution at `place` makes of its move in `step`.
    pub(super) fn poison(&self, place: usize, step: u32, moves: &mut [f64]) {
        if !self.poisons(place) {
            return;
        }
        match self.attack {
            Attack::None | Attack::LabelFlip => {}
            Attack::SignFlip => moves.iter_mut().for_each(|z| *z *= -self.strength),
            Attack::ScaledNoise => {
                let length = self.strength * norm(moves);
                let mut rng = ChaCha12Rng::seed_from_u64(self.seed ^ (place as u64 + 1));
                rng.set_stream(step.into());
                moves.iter_mut().for_each(|z| *z = gaussian(&mut rng));
                let scale = length / norm(moves).max(f64::MIN_POSITIVE);
                moves.iter_mut().for_each(|z| *z *= scale);
            }
        }
    }
}

pub(super) fn norm(values: &[f64]) -> f64 {
    values.iter().map(|z| z * z).sum::<f64>().sqrt()
}

/// Box and Muller (1958).
fn gaussian(rng: &mut ChaCha12Rng) -> f64 {
    let (radius, angle): (f64, f64) = (rng.random(), rng.random());
    (-2.0 * (1.0 - radius).ln()).sqrt() * (std::f64::consts::TAU * angle).cos()
}
