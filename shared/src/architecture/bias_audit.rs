//! `bias-audit/1`: how a released model serves groups of learners, summed over institutions. Nothing is
//! trained and nothing released. Holds what an audit asks (the scope), where each group stands in its
//! vectors, and which groups enter a sum; the figures of one group are `cell`'s, what they say `estimate`'s.
//!
//! Two sums: [`Stage::Support`], one bit for each group of which an institution has enough learners to tell;
//! then [`Stage::Audit`], over the groups that enough institutions support.

mod cell;
mod estimate;
mod suppress;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use thiserror::Error;

pub use cell::{CALIBRATION_BINS, Cell, EXPOSURES, LEARNER_ANSWERS, RATIOS};
pub use estimate::{Bin, Estimate, Figures, Measure};
pub use suppress::{Counted, Hidden, suppress, taking_part};

use super::{Architecture, SegmentSpec, Stage, Sums};
use crate::{
    crypto::Digest,
    params::{EncodeError, Encoding},
};

/// The identifier of the bias audit.
pub const BIAS_AUDIT_1: &str = "bias-audit/1";

/// The one segment of its support sum.
pub const CELLS: &str = "cells";

const MOST_ATTRIBUTES: usize = 32;
const MOST_CELLS: usize = 512;
const LONGEST_NAME: usize = 64;
/// With fewer learners a figure is about persons.
const LEAST_CELL: u32 = 5;
const MOST_CELL: u32 = 1_000_000;
const MOST_EXPOSED: u32 = 1_000;

/// An audit that could not be asked.
#[derive(Clone, Debug, PartialEq, Error)]
pub enum BadScope {
    #[error("audit.attributes names {0} attributes; use 1 to {MOST_ATTRIBUTES}")]
    Attributes(usize),
    #[error("audit.attributes: {0:?} has no values; list those that are told apart")]
    NoValues(String),
    #[error("audit.attributes: {value:?} is listed twice for {attribute:?}")]
    Repeated { attribute: String, value: String },
    #[error(
        "audit.attributes: {0:?} is no name: use 1 to {LONGEST_NAME} bytes without control characters"
    )]
    Name(String),
    #[error("audit.attributes: {0} groups; an audit has at most {MOST_CELLS}")]
    Cells(usize),
    #[error("audit.smallest_cell is {0}; use {LEAST_CELL} to {MOST_CELL} learners")]
    SmallestCell(u32),
    #[error("audit.smallest_part is {0}; use 1 to smallest_cell learners")]
    SmallestPart(u32),
    #[error("audit.band must be two numbers from 0 to 1, the lower one first")]
    Band,
    #[error("audit.exposure_learners is {0}; use 0 to {MOST_EXPOSED}")]
    Exposed(u32),
    #[error("audit.of is {0}, of which there are no models; name the architecture of a model")]
    NoModel(&'static str),
    #[error("audit.thresholds: {measure} is {given}; use a number above 0")]
    Threshold { measure: Measure, given: f64 },
}

/// What an audit asks for: public, the same for everybody, and checked when it is read.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Given")]
pub struct BiasScope {
    /// The values of each attribute that are told apart; all others, and none, are "other".
    pub attributes: BTreeMap<String, Vec<String>>,
    /// With fewer learners nothing is shown of a group.
    pub smallest_cell: u32,
    /// With fewer learners of a group an institution adds nothing for it; its policy may ask for more.
    pub smallest_part: u32,
    /// The chances of a right answer that recommendations aim at.
    pub band: [f64; 2],
    /// Of so many learners of each group at most an institution asks what they would be recommended.
    pub exposure_learners: u32,
    /// A gap above it opens a review.
    pub thresholds: BTreeMap<Measure, f64>,
    /// Of which architecture the newest model is audited; of `kt-logistic/1`, which recommends, if left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub of: Option<Architecture>,
}

/// The same as it is written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Given {
    attributes: BTreeMap<String, Vec<String>>,
    #[serde(default = "default_cell")]
    smallest_cell: u32,
    smallest_part: Option<u32>,
    #[serde(default = "default_band")]
    band: [f64; 2],
    #[serde(default = "default_exposed")]
    exposure_learners: u32,
    #[serde(default = "default_thresholds")]
    thresholds: BTreeMap<Measure, f64>,
    of: Option<Architecture>,
}

fn default_cell() -> u32 {
    10
}

fn default_band() -> [f64; 2] {
    [0.6, 0.8]
}

fn default_exposed() -> u32 {
    50
}

fn default_thresholds() -> BTreeMap<Measure, f64> {
    BTreeMap::from([
        (Measure::Auc, 0.05),
        (Measure::Calibration, 0.03),
        (Measure::Ece, 0.03),
        (Measure::Selection, 0.10),
        (Measure::Exposure, 0.05),
        (Measure::Difficulty, 0.10),
    ])
}

impl TryFrom<Given> for BiasScope {
    type Error = BadScope;

    fn try_from(given: Given) -> Result<Self, BadScope> {
        let scope = Self {
            attributes: given.attributes,
            smallest_cell: given.smallest_cell,
            smallest_part: given.smallest_part.unwrap_or(given.smallest_cell),
            band: given.band,
            exposure_learners: given.exposure_learners,
            thresholds: given.thresholds,
            of: given.of,
        };
        scope.check()?;
        Ok(scope)
    }
}

fn name(text: &str) -> Result<(), BadScope> {
    let good = (1..=LONGEST_NAME).contains(&text.len()) && !text.chars().any(char::is_control);
    if good { Ok(()) } else { Err(BadScope::Name(text.chars().take(LONGEST_NAME).collect())) }
}

impl BiasScope {
    fn check(&self) -> Result<(), BadScope> {
        if !(1..=MOST_ATTRIBUTES).contains(&self.attributes.len()) {
            return Err(BadScope::Attributes(self.attributes.len()));
        }
        for (attribute, values) in &self.attributes {
            name(attribute)?;
            if values.is_empty() {
                return Err(BadScope::NoValues(attribute.clone()));
            }
            for (place, value) in values.iter().enumerate() {
                name(value)?;
                if values[..place].contains(value) {
                    let (attribute, value) = (attribute.clone(), value.clone());
                    return Err(BadScope::Repeated { attribute, value });
                }
            }
        }
        if self.cells() > MOST_CELLS {
            return Err(BadScope::Cells(self.cells()));
        }
        if !(LEAST_CELL..=MOST_CELL).contains(&self.smallest_cell) {
            return Err(BadScope::SmallestCell(self.smallest_cell));
        }
        if !(1..=self.smallest_cell).contains(&self.smallest_part) {
            return Err(BadScope::SmallestPart(self.smallest_part));
        }
        let [low, high] = self.band;
        if !(0.0 <= low && low < high && high <= 1.0) {
            return Err(BadScope::Band);
        }
        if self.exposure_learners > MOST_EXPOSED {
            return Err(BadScope::Exposed(self.exposure_learners));
        }
        match self.audited() {
            Architecture::KtLogistic1 | Architecture::Neural(_) => {}
            other => return Err(BadScope::NoModel(other.id())),
        }
        let bad = self.thresholds.iter().find(|(_, given)| !(given.is_finite() && **given > 0.0));
        bad.map_or(Ok(()), |(measure, given)| {
            Err(BadScope::Threshold { measure: *measure, given: *given })
        })
    }

    /// Of which architecture the newest model is audited.
    pub fn audited(&self) -> Architecture {
        self.of.unwrap_or(Architecture::KtLogistic1)
    }

    /// Groups of all attributes, "other" among them.
    pub fn cells(&self) -> usize {
        self.attributes.values().map(|values| values.len() + 1).sum()
    }

    /// Each attribute with its values and where its first group stands; "other" follows the values.
    pub fn places(&self) -> impl Iterator<Item = (usize, &String, &[String])> {
        self.attributes.iter().scan(0, |next, (attribute, values)| {
            let first = *next;
            *next += values.len() + 1;
            Some((first, attribute, values.as_slice()))
        })
    }
}

/// What the plan of an audit says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BiasQuestion {
    /// The manifest of the model that is audited: the one that serves.
    pub model: Digest,
    pub scope: BiasScope,
}

/// Whether each group is supported by at least `least` institutions, by the opened support sum; none if
/// the sum is of another audit.
pub fn shared_cells(scope: &BiasScope, support: &Sums, least: usize) -> Option<Vec<bool>> {
    let bits = support.get(CELLS).filter(|bits| bits.len() == scope.cells())?;
    // Sums of bits open as whole numbers up to the encoding's rounding.
    let least = least as f64 - 0.5;
    Some(bits.iter().map(|sum| sum.is_finite() && *sum >= least).collect())
}

fn length(len: usize) -> u32 {
    u32::try_from(len).unwrap_or(u32::MAX)
}

/// The segments of a sum over so many cells.
pub(super) fn cell_segments(count: usize) -> Vec<SegmentSpec> {
    let segment = |(name, each, bound): &(&str, usize, f64)| SegmentSpec {
        name: (*name).into(),
        len: length(each * count),
        bound: *bound,
    };
    cell::SEGMENTS.iter().map(segment).collect()
}

/// What `stage` sums: over all groups, or over as many as are `shared`.
fn segments(stage: &Stage, scope: &BiasScope, shared: usize) -> Vec<SegmentSpec> {
    match stage {
        Stage::Support => {
            vec![SegmentSpec { name: CELLS.into(), len: length(scope.cells()), bound: 1.0 }]
        }
        Stage::Audit => cell_segments(shared),
        Stage::Statistics | Stage::Totals | Stage::Train { .. } | Stage::Evaluate => Vec::new(),
    }
}

/// The encoding of a stage of an audit for sums over at most `n_max` institutions; `shared` groups enter
/// [`Stage::Audit`]. An error for stages that no audit has.
pub fn encoding(
    stage: &Stage,
    scope: &BiasScope,
    shared: usize,
    n_max: u32,
) -> Result<Encoding, EncodeError> {
    let all = segments(stage, scope, shared);
    Encoding::new(all.into_iter().map(|s| (s.name, s.len, s.bound)), n_max)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<BiasScope, String> {
        toml::from_str(text).map_err(|error| error.to_string())
    }

    #[test]
    fn a_scope_says_its_defaults_and_keeps_its_meaning() {
        let scope = read("attributes.sex = [\"F\", \"M\"]").unwrap();
        assert_eq!((scope.smallest_cell, scope.smallest_part), (10, 10));
        assert_eq!((scope.cells(), scope.band), (3, [0.6, 0.8]));
        assert_eq!(scope.thresholds[&Measure::Auc], 0.05);
        let json = serde_json::to_string(&scope).unwrap();
        assert_eq!(serde_json::from_str::<BiasScope>(&json).unwrap(), scope);
    }

    #[test]
    fn unusable_scopes_are_refused_by_name() {
        let sex = "attributes.sex = [\"F\", \"M\"]\n";
        for (text, words) in [
            ("attributes = {}", "0 attributes"),
            ("attributes.sex = []", "no values"),
            ("attributes.sex = [\"F\", \"F\"]", "listed twice"),
            ("attributes.sex = [\"\"]", "no name"),
            (&format!("{sex}smallest_cell = 2"), "smallest_cell"),
            (&format!("{sex}smallest_part = 11"), "smallest_part"),
            (&format!("{sex}band = [0.8, 0.6]"), "band"),
            (&format!("{sex}exposure_learners = 2000"), "exposure_learners"),
            (&format!("{sex}thresholds.auc = 0.0"), "auc"),
            (&format!("{sex}thresholds.luck = 0.1"), "luck"),
            (&format!("{sex}epsilon = 1"), "epsilon"),
            (&format!("{sex}of = \"load-test/1\""), "load-test/1, of which there are no models"),
            (&format!("{sex}of = \"wide-mlp/9\""), "wide-mlp/9"),
        ] {
            let error = read(text).unwrap_err();
            assert!(error.contains(words), "{text}: {error}");
        }
        let many: Vec<String> = (0..600).map(|n| format!("\"{n}\"")).collect();
        let error = read(&format!("attributes.a = [{}]", many.join(","))).unwrap_err();
        assert!(error.contains("601 groups"), "{error}");
    }

    #[test]
    fn groups_stand_in_the_order_of_names_and_other_last() {
        let scope = read("attributes.b = [\"x\"]\nattributes.a = [\"z\", \"y\"]").unwrap();
        let places: Vec<_> =
            scope.places().map(|(at, name, v)| (at, name.as_str(), v.len())).collect();
        assert_eq!(places, [(0, "a", 2), (3, "b", 1)]);
    }

    /// Numbers are rounded for the sum: with many small institutions as well figures stay what they are.
    #[test]
    fn figures_survive_the_encoding() {
        let scope = read("attributes.sex = [\"F\", \"M\"]").unwrap();
        for institutions in [7_u32, 158, 256] {
            let encoding = encoding(&Stage::Audit, &scope, 1, institutions).unwrap();
            let (mut words, mut whole) = (vec![0_u32; encoding.dimension()], Cell::default());
            for institution in 0..institutions {
                let mut cell = Cell::default();
                for learner in 0..10 {
                    let chance =
                        |n: u32| f64::from((7 * n + 3 * learner + institution) % 97) / 97.0;
                    let right =
                        |n: u32| (11 * n + 5 * learner + institution) % 89 < 10 + 6 * learner;
                    let answers: Vec<_> = (0..25).map(|n| (chance(n), right(n))).collect();
                    cell.observe(&answers, scope.band);
                    whole.observe(&answers, scope.band);
                    let means = [chance(1), chance(2), chance(3)];
                    cell.expose(means);
                    whole.expose(means);
                }
                let encoded = encoding.encode(&cell.values()).unwrap();
                assert_eq!(encoded.clipped, 0);
                words.iter_mut().zip(encoded.words).for_each(|(s, w)| *s = s.wrapping_add(w));
            }
            let sums = encoding.decode_sum(&words).unwrap();
            let summed = Cell::from_sums(&sums, 1).unwrap().remove(0);
            assert_eq!((summed.learners, summed.answers), (whole.learners, whole.answers));
            let (found, exact) = (Figures::of(&summed), Figures::of(&whole));
            for measure in Measure::ALL {
                let [found, exact] = [&found, &exact].map(|of| of.measure(measure).unwrap());
                let off = (found.value - exact.value).abs();
                assert!(
                    off < 0.1 * exact.error,
                    "{measure} of {institutions}: {found:?} {exact:?}"
                );
                let ratio = found.error / exact.error;
                assert!((0.95..1.05).contains(&ratio), "{measure} of {institutions}: {ratio}");
            }
        }
    }

    #[test]
    fn only_what_enough_institutions_support_is_summed() {
        let scope = read("attributes.sex = [\"F\", \"M\"]").unwrap();
        let support = |bits: &[f64]| Sums::from([(CELLS.to_owned(), bits.to_vec())]);
        let shared = shared_cells(&scope, &support(&[6.0, 5.99, 5.0]), 6);
        assert_eq!(shared, Some(vec![true, true, false]));
        assert_eq!(shared_cells(&scope, &support(&[6.0]), 6), None);
        let bits = encoding(&Stage::Support, &scope, 0, 7).unwrap();
        assert_eq!(bits.dimension(), 3);
        let sums = encoding(&Stage::Audit, &scope, 2, 7).unwrap();
        assert_eq!(sums.dimension(), 2 * Cell::default().values().len());
        assert!(encoding(&Stage::Audit, &scope, 0, 7).is_err(), "nothing to sum");
        assert!(encoding(&Stage::Totals, &scope, 2, 7).is_err());
    }
}
