//! Seeded inputs for scripted members. Every test prints its seed; `COLLEGIUM_SEED` repeats it.

use std::sync::Arc;

use collegium_shared::{crypto, protocol::Plan};
use collegium_tests::participant::Input;
use rand_chacha::{
    ChaCha12Rng,
    rand_core::{Rng, SeedableRng},
};

/// The seed of this run, printed.
pub(crate) fn seed() -> u64 {
    let given = std::env::var("COLLEGIUM_SEED").ok().map(|seed| seed.parse().unwrap());
    let seed = given.unwrap_or_else(|| u64::from_le_bytes(crypto::random().unwrap()));
    println!("COLLEGIUM_SEED={seed}");
    seed
}

/// The generator of one purpose under a seed.
pub(crate) fn generator(seed: u64, stream: u64) -> ChaCha12Rng {
    let mut rng = ChaCha12Rng::seed_from_u64(seed);
    rng.set_stream(stream);
    rng
}

/// Uniform in `range`.
pub(crate) fn within(rng: &mut ChaCha12Rng, range: std::ops::RangeInclusive<usize>) -> usize {
    let span = (range.end() - range.start() + 1) as u64;
    range.start() + usize::try_from(rng.next_u64() % span).unwrap()
}

/// Words over all that the plan's encoding allows one institution: of 2^28 values or more each for
/// seven institutions, so that not even one word repeats by chance in places.
pub(crate) fn anything(seed: u64, place: usize) -> Input {
    Arc::new(move |plan: &Plan| {
        let mut rng = generator(seed, place as u64 + 1);
        let segments = plan.encoding.segments().iter();
        let bounds = segments.flat_map(|segment| vec![segment.bound; segment.len as usize]);
        let largest = plan.encoding.encode(&bounds.collect::<Vec<_>>()).unwrap().words;
        let draw = |largest: u32| {
            let most = i64::from(largest.cast_signed());
            let span = u64::try_from(2 * most + 1).unwrap();
            let value = i64::try_from(rng.next_u64() % span).unwrap() - most;
            i32::try_from(value).unwrap().cast_unsigned()
        };
        largest.into_iter().map(draw).collect()
    })
}

/// Every value a small positive part of what is allowed, so that all stages of a task make sense.
pub(crate) fn sensible(place: usize) -> Input {
    Arc::new(move |plan: &Plan| {
        let part = if plan.stage.label() == "support" { 1.0 } else { 0.001 };
        let segments = plan.encoding.segments().iter();
        let values: Vec<f64> = segments
            .flat_map(|segment| {
                let value = segment.bound * part / (1.0 + place as f64 / 10.0).powf(1.0 - part);
                vec![value; segment.len as usize]
            })
            .collect();
        plan.encoding.encode(&values).unwrap().words
    })
}
