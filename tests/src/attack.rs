//! The adversary as code: a malicious coordinator and malicious members on the real wire, against the real
//! programs. Every attack of docs/PROTOCOL.md is carried out and must be refused, with the reason in the
//! journals; what aims at one institution's input must bring in nothing, and must succeed once the single
//! check that stands in its way is switched off, so that the attack is known to be one.

mod coordinator;
mod counts;
mod documents;
mod heists;
mod lists;
mod members;
mod noise;
mod outcomes;
mod plans;
mod play;
mod releases;
mod rewriting;
mod stage;

use std::{fmt, path::PathBuf};

use anyhow::{Context, bail, ensure};
use comfy_table::{ContentArrangement, Table, presets::UTF8_FULL_CONDENSED};
use serde::Serialize;
use serde_json::json;

use heists::{HEISTS, Haul, Heist};
use stage::{Refused, Stage};

/// An attack that the agents refuse before anything comes of it.
struct Attack {
    name: &'static str,
    does: &'static str,
    run: fn(&Stage) -> anyhow::Result<Refused>,
}

/// One attack and what came of it.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    pub attack: String,
    /// What the adversary does.
    pub does: String,
    pub refused: bool,
    pub refused_by: String,
    /// The reason, as it was written down.
    pub words: String,
    /// What is kept, or why the attack counts as not refused.
    pub evidence: String,
}

impl Row {
    fn of(attack: &str, does: &str, outcome: anyhow::Result<(Refused, String)>) -> Self {
        let (attack, does) = (attack.to_owned(), does.to_owned());
        match outcome {
            Ok((refused, evidence)) => {
                let refused_by = refused.by.join(", ");
                Self { attack, does, refused: true, refused_by, words: refused.words, evidence }
            }
            Err(error) => {
                let (refused_by, words) = Default::default();
                let evidence = format!("{error:#}");
                Self { attack, does, refused: false, refused_by, words, evidence }
            }
        }
    }
}

fn kept(files: &[PathBuf]) -> String {
    match files.len() {
        0 => "the reason is in the journal, a signed word of it at the coordinator".to_owned(),
        count => format!(
            "the reason is in the journal with {count} files of signed evidence, a signed word of it at the \
             coordinator"
        ),
    }
}

/// All rows.
#[derive(Debug, Default)]
pub struct Report {
    pub rows: Vec<Row>,
}

impl Report {
    /// Whether every attack was refused.
    pub fn is_good(&self) -> bool {
        !self.rows.is_empty() && self.rows.iter().all(|row| row.refused)
    }

    /// One line of JSON.
    pub fn json(&self) -> String {
        json!({ "attacks": self.rows }).to_string()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut table = Table::new();
        table.load_style(UTF8_FULL_CONDENSED);
        table.set_content_arrangement(ContentArrangement::Dynamic);
        table.set_header(["attack", "the adversary", "refused by", "with the words", "evidence"]);
        for row in &self.rows {
            let by = if row.refused { row.refused_by.as_str() } else { "NOBODY" };
            table.add_row([&row.attack, &row.does, by, &row.words, &row.evidence]);
        }
        writeln!(f, "{table}")
    }
}

/// Carries out all attacks; `progress` is told of each as it ends. An error means that the stage itself
/// could not be set.
pub fn run(mut progress: impl FnMut(&Row)) -> anyhow::Result<Report> {
    let mut report = Report::default();
    let mut note = |row: Row| {
        progress(&row);
        report.rows.push(row);
    };
    for attack in &members::ATTACKS {
        note(Row::of(attack.name, attack.does, attack.run().map(plain)));
    }
    let mut stage = Stage::set()?;
    let proven = rewriting::run(&stage).map(|refused| (refused, rewriting::EVIDENCE.to_owned()));
    note(Row::of(rewriting::NAME, rewriting::DOES, proven));
    let attacks = lists::ATTACKS.iter().chain(&outcomes::ATTACKS).chain(&plans::ATTACKS);
    let attacks = attacks.chain(&counts::ATTACKS).chain(&noise::ATTACKS).chain(&releases::ATTACKS);
    for attack in attacks.chain(&documents::ATTACKS) {
        note(Row::of(attack.name, attack.does, (attack.run)(&stage).map(plain)));
    }
    let hauls: Vec<_> = HEISTS.iter().map(|heist| in_vain(heist, &stage)).collect();
    for (heist, refused) in HEISTS.iter().zip(hauls) {
        let outcome = refused.and_then(|(refused, nothing)| {
            let bitten = bites(heist, &mut stage)?;
            let evidence = format!("{}; {nothing}; {bitten}", kept(&refused.evidence));
            Ok((refused, evidence))
        });
        note(Row::of(heist.name, heist.does, outcome));
    }
    Ok(report)
}

/// A refusal with nothing more to say of it.
fn plain(refused: Refused) -> (Refused, String) {
    let evidence = kept(&refused.evidence);
    (refused, evidence)
}

/// The attack is refused, and what it brings in is not the victim's x and looks like chance.
fn in_vain(heist: &Heist, stage: &Stage) -> anyhow::Result<(Refused, String)> {
    let Haul { refused, guess, x } = (heist.run)(stage)?;
    let refused = refused.context("no agent refused")?;
    let Some(guess) = guess else {
        return Ok((refused, "the victim sent nothing that its input is in".to_owned()));
    };
    let same = equal(&guess, &x);
    let difference: Vec<u32> = guess.iter().zip(&x).map(|(a, b)| a.wrapping_sub(*b)).collect();
    ensure!(same <= CHANCE, "{same} of {} words of x were recovered", x.len());
    for (what, words) in [("what was recovered", &guess), ("what hides x", &difference)] {
        let deviation = deviation(words);
        ensure!(deviation.abs() < MOST, "{what} is {deviation:.1} sigma from chance");
    }
    Ok((refused, format!("{same} of {} words recovered, the rest like chance", x.len())))
}

/// Without its one defence the same attack recovers x, all of it.
fn bites(heist: &Heist, stage: &mut Stage) -> anyhow::Result<String> {
    let check = heist.defence.name();
    stage.switch_off(heist.defence)?;
    let Haul { refused, guess, x } =
        (heist.run)(stage).with_context(|| format!("without {check}"))?;
    if let Some(refused) = refused {
        bail!("without {check} it is still refused: {}", refused.words);
    }
    let same = equal(&guess.unwrap_or_default(), &x);
    ensure!(same == x.len(), "without {check} only {same} of {} words are recovered", x.len());
    Ok(format!("without the check {check}: {same} of {same}"))
}

fn equal(a: &[u32], b: &[u32]) -> usize {
    a.iter().zip(b).filter(|(a, b)| a == b).count()
}

/// So many words may agree by chance: one in 2^32 does.
const CHANCE: usize = 1;
/// Further from the mean is no chance: about once in 10^7 samples (Wilson and Hilferty's approximation).
const MOST: f64 = 6.0;

/// How far the frequencies of bytes lie from those of random ones: Pearson's chi-square statistic over 256
/// values, in standard deviations from its mean.
fn deviation(words: &[u32]) -> f64 {
    let mut counts = [0_u32; 256];
    for byte in words.iter().flat_map(|word| word.to_le_bytes()) {
        counts[usize::from(byte)] += 1;
    }
    let total: u32 = counts.iter().sum();
    let expected = f64::from(total) / 256.0;
    let square = |count: &u32| (f64::from(*count) - expected).powi(2) / expected;
    let statistic: f64 = counts.iter().map(square).sum();
    (statistic - 255.0) / 510_f64.sqrt()
}

#[cfg(test)]
mod tests {
    use rand_chacha::{
        ChaCha12Rng,
        rand_core::{Rng, SeedableRng},
    };

    use super::*;

    #[test]
    fn chance_is_told_from_structure() {
        let mut generator = ChaCha12Rng::seed_from_u64(1);
        let random: Vec<u32> = (0..2_048).map(|_| generator.next_u32()).collect();
        assert!(deviation(&random).abs() < MOST, "{}", deviation(&random));
        // The numbers of a load test: their low bits are zeros.
        let x: Vec<u32> = random.iter().map(|word| word & 0xffe0_0000).collect();
        assert!(deviation(&x) > MOST);
    }
}
