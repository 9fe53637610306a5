//! Discrete Gaussian noise: what one draw costs with the sampler for vectors, beside the exact one that it is
//! checked against, and beside the random bytes alone. One thread, in turn; its processor time, so that what
//! else the machine does hardly shows.

use anyhow::ensure;
use clap::Args;
use collegium_agent::privacy::{BulkSampler, ExactSampler, RandomBits, Variance};
use ring::rand::SystemRandom;
use rustix::time::{ClockId, clock_gettime};
use serde_json::{Value, json};

use super::statistics::median;

/// What is drawn.
#[derive(Clone, Debug, Args)]
pub(super) struct Options {
    /// Standard deviations, in integer units.
    #[arg(long, value_delimiter = ',', default_values_t = [1, 1_000, 1 << 24])]
    sigmas: Vec<u32>,
    /// Draws of the sampler for vectors in each turn. The exact one makes a sixteenth of them.
    #[arg(long, default_value_t = 1 << 20, value_parser = clap::value_parser!(u32).range(1_024..))]
    draws: u32,
    /// How often each is measured.
    #[arg(long, default_value_t = 7, value_parser = clap::value_parser!(u32).range(3..))]
    turns: u32,
}

pub(super) fn run(options: &Options) -> anyhow::Result<Value> {
    let sigmas = options.sigmas.iter().map(|sigma| measure(*sigma, options));
    Ok(json!({
        "sigmas": sigmas.collect::<anyhow::Result<Vec<_>>>()?,
        "draws": options.draws,
        "turns": options.turns,
    }))
}

fn measure(sigma: u32, options: &Options) -> anyhow::Result<Value> {
    let variance = Variance::new(u64::from(sigma).pow(2), 1)?;
    let mut noise = Noise {
        bulk: BulkSampler::new(variance),
        exact: ExactSampler::new(variance),
        bits: RandomBits::system(),
        values: vec![0; usize::try_from(options.draws)?],
    };
    let (mut bulk, mut exact, mut words) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..options.turns {
        bulk.push(noise.bulk()?);
        plausible(&noise.values, sigma)?;
        exact.push(noise.exact()?);
        words.push(noise.words()?);
    }
    let medians = (median(&bulk), median(&exact));
    Ok(json!({
        "sigma": sigma,
        "bulk_ns": medians.0,
        "exact_ns": medians.1,
        "exact_over_bulk": medians.0.zip(medians.1).map(|(bulk, exact)| exact / bulk),
        "random_word_ns": median(&words),
    }))
}

struct Noise {
    bulk: BulkSampler,
    exact: ExactSampler,
    bits: RandomBits<SystemRandom>,
    values: Vec<i64>,
}

/// Nanoseconds for each draw.
impl Noise {
    fn bulk(&mut self) -> anyhow::Result<f64> {
        let start = processor_ns();
        self.bulk.fill(&mut self.values, &mut self.bits)?;
        Ok(each(start, self.values.len()))
    }

    fn exact(&mut self) -> anyhow::Result<f64> {
        let fewer = self.values.len() / 16;
        let start = processor_ns();
        for value in &mut self.values[..fewer] {
            *value = self.exact.draw(&mut self.bits)?;
        }
        Ok(each(start, fewer))
    }

    /// 64 random bits; a draw of the sampler for vectors takes two of these and a little.
    fn words(&mut self) -> anyhow::Result<f64> {
        let start = processor_ns();
        for value in &mut self.values {
            *value = self.bits.word()?.cast_signed();
        }
        Ok(each(start, self.values.len()))
    }
}

fn each(start: f64, draws: usize) -> f64 {
    (processor_ns() - start) / draws as f64
}

/// What this thread has used of the processor.
fn processor_ns() -> f64 {
    let used = clock_gettime(ClockId::ThreadCPUTime);
    used.tv_sec as f64 * 1e9 + used.tv_nsec as f64
}

/// Whether the mean square is the variance to within seven standard errors.
fn plausible(values: &[i64], sigma: u32) -> anyhow::Result<()> {
    let square = |value: &i64| (*value as f64 / f64::from(sigma)).powi(2);
    let mean = values.iter().map(square).sum::<f64>() / values.len() as f64;
    let off = (mean - 1.0).abs() / (2.0 / values.len() as f64).sqrt();
    ensure!(off < 7.0, "noise of sigma {sigma} has {mean} of its variance");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_samplers_are_measured() {
        let found = run(&Options { sigmas: vec![1, 900], draws: 4_096, turns: 3 }).unwrap();
        for (place, sigma) in [1, 900].into_iter().enumerate() {
            let one = &found["sigmas"][place];
            assert_eq!(one["sigma"], sigma);
            for name in ["bulk_ns", "exact_ns", "exact_over_bulk", "random_word_ns"] {
                assert!(one[name].as_f64().unwrap() > 0.0, "{name}: {found}");
            }
        }
    }

    #[test]
    fn wrong_noise_is_no_figure() {
        assert!(plausible(&[1; 10_000], 1).is_ok());
        assert!(plausible(&[2; 10_000], 1).is_err());
    }
}
