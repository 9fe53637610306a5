//! Masking beside what it cannot do without: the keystreams alone. Both run on one thread over the
//! same number of streams and bytes, in turn, so that what else the machine does meets both.

use anyhow::Context;
use clap::Args;
use collegium_shared::{
    crypto::{Digest, Key},
    secagg::{Bitmap, Masker, PIECE_WORDS, RoundSecrets},
};
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::statistics::median;

/// What is masked.
#[derive(Clone, Debug, Args)]
pub(super) struct Options {
    /// Members of the round: one less pairwise mask, and the self mask.
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u16).range(2..=256))]
    institutions: u16,
    #[arg(long, default_value_t = 1_000_000)]
    parameters: usize,
    /// How often each is measured.
    #[arg(long, default_value_t = 21, value_parser = clap::value_parser!(u32).range(3..))]
    turns: u32,
}

pub(super) fn run(options: &Options) -> anyhow::Result<Value> {
    let masker = masker(options.institutions)?;
    let streams: Vec<LessSafeKey> =
        (0..options.institutions).map(raw_key).collect::<anyhow::Result<_>>()?;
    let mut words = vec![0; options.parameters];
    let mut zeros = vec![0; PIECE_WORDS * 4];
    let (mut raw, mut mask, mut shares) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..options.turns {
        let (alone, masked) = (
            timed(|| keystreams(&streams, options.parameters, &mut zeros))?,
            timed(|| {
                masker.mask(0, &mut words);
                Ok(())
            })?,
        );
        raw.push(alone);
        mask.push(masked);
        shares.push(alone / masked);
    }
    shares.sort_by(f64::total_cmp);
    let bytes = 4.0 * f64::from(options.institutions) * options.parameters as f64;
    let speed = |seconds: &[f64]| median(seconds).map(|seconds| bytes / seconds / 1e9);
    Ok(json!({
        "share_of_raw": median(&shares),
        "share_of_raw_spread": [shares.first(), shares.last()],
        "mask_s": median(&mask),
        "raw_s": median(&raw),
        "mask_gigabytes_per_s": speed(&mask),
        "raw_gigabytes_per_s": speed(&raw),
        "institutions": options.institutions,
        "parameters": options.parameters,
        "turns": options.turns,
    }))
}

fn masker(institutions: u16) -> anyhow::Result<Masker> {
    let secrets = (0..institutions)
        .map(|_| Ok(RoundSecrets::derive(&Key::random()?, b"benchmark")))
        .collect::<anyhow::Result<Vec<_>>>()?;
    let members: Vec<_> = secrets.iter().zip(0..).map(|(s, place)| s.member(place)).collect();
    let sharers = Bitmap::of(members.len(), 0..institutions)?;
    let own = secrets.first().context("there is nobody")?;
    Ok(Masker::new(own, &Digest::of(b"benchmark"), 0, &members, &sharers)?)
}

fn raw_key(stream: u16) -> anyhow::Result<LessSafeKey> {
    let mut key = [0; 32];
    key[..2].copy_from_slice(&stream.to_be_bytes());
    let key = UnboundKey::new(&AES_256_GCM, &key).ok().context("a key of 32 bytes")?;
    Ok(LessSafeKey::new(key))
}

/// Every stream over as many zeros as the vector is long, piece by piece as masking does it.
fn keystreams(streams: &[LessSafeKey], words: usize, zeros: &mut [u8]) -> anyhow::Result<()> {
    for (piece, start) in (0_u64..).zip((0..words).step_by(PIECE_WORDS)) {
        let bytes = &mut zeros[..4 * PIECE_WORDS.min(words - start)];
        let mut nonce = [0; 12];
        nonce[4..].copy_from_slice(&piece.to_be_bytes());
        for stream in streams {
            bytes.fill(0);
            let nonce = Nonce::assume_unique_for_key(nonce);
            let sealed = stream.seal_in_place_separate_tag(nonce, Aad::empty(), bytes);
            let _tag = sealed.ok().context("a piece fits one message")?;
        }
    }
    Ok(())
}

fn timed(work: impl FnOnce() -> anyhow::Result<()>) -> anyhow::Result<f64> {
    let start = Instant::now();
    work()?;
    Ok(start.elapsed().as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_are_measured() {
        let found = run(&Options { institutions: 3, parameters: 20_000, turns: 3 }).unwrap();
        for name in ["share_of_raw", "mask_s", "raw_s"] {
            assert!(found[name].as_f64().unwrap() > 0.0, "{name}: {found}");
        }
    }
}
