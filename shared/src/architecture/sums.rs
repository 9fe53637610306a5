//! The vector of one stage as named runs of values, and the opened sum read back by their names.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// The opened sums of one stage by segment name.
pub type Sums = BTreeMap<String, Vec<f64>>;

/// One named run of values in a secure sum.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SegmentSpec {
    pub name: String,
    /// Values.
    pub len: u32,
    /// Public bound on the absolute value of each value of one institution: what is larger is
    /// clipped before it is masked.
    pub bound: f64,
}

/// A published sum that does not fit the stage it claims to be of.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum BadSums {
    #[error("the published sum has no segment {0:?}; the file belongs to another stage")]
    Missing(&'static str),
    #[error("segment {name:?} of the published sum has {found} values, expected {expected}")]
    Length { name: String, found: usize, expected: usize },
    #[error("segment {0:?} of the published sum holds a value that is not a finite number")]
    NotFinite(String),
}

/// Cuts an opened vector into its segments by name.
pub fn name_sums(segments: &[SegmentSpec], values: &[f64]) -> Result<Sums, BadSums> {
    let expected = segments.iter().map(|s| s.len as usize).sum();
    if values.len() != expected {
        let name = "all segments".to_owned();
        return Err(BadSums::Length { name, found: values.len(), expected });
    }
    let mut rest = values;
    let mut sums = Sums::new();
    for segment in segments {
        let (own, after) = rest.split_at(segment.len as usize);
        sums.insert(segment.name.clone(), own.to_vec());
        rest = after;
    }
    Ok(sums)
}

/// The `expected` finite values of a segment.
pub(super) fn segment<'a>(
    sums: &'a Sums,
    name: &'static str,
    expected: usize,
) -> Result<&'a [f64], BadSums> {
    let values = sums.get(name).ok_or(BadSums::Missing(name))?;
    if values.len() != expected {
        return Err(BadSums::Length { name: name.to_owned(), found: values.len(), expected });
    }
    if values.iter().any(|v| !v.is_finite()) {
        return Err(BadSums::NotFinite(name.to_owned()));
    }
    Ok(values)
}
