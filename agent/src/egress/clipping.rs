//! What clipping takes from a vector, segment by segment: measured where the vector is fixed, kept sealed
//! beside it, shown to the institution's own people. Decides nothing, and never leaves.

use collegium_shared::{
    crypto::Digest,
    params::{Encoding, Segment},
};
use serde::{Deserialize, Serialize};

/// One segment, before it was clipped.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Clipping {
    /// The Euclidean norm, without noise too.
    pub norm: f64,
    /// Values that exceeded the bound; of a private sum, learners whose whole part exceeded the clip.
    pub clipped: u64,
    /// How many learners' parts a private sum has, each clipped by itself; none: values are clipped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub learners: Option<u64>,
}

/// What was measured of the input with this commitment, in the order of its encoding.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub struct Measured {
    pub commitment: Digest,
    pub segments: Vec<Clipping>,
}

/// Measures a vector that comes in runs.
pub struct Meter<'a> {
    /// The segments that are not complete yet.
    left: &'a [Segment],
    /// Values of the first of them that came.
    within: usize,
    /// Norms are squares until the end.
    measured: Vec<Clipping>,
}

impl<'a> Meter<'a> {
    pub fn new(encoding: &'a Encoding) -> Self {
        let left = encoding.segments();
        Self { left, within: 0, measured: Vec::with_capacity(left.len()) }
    }

    /// The next values; what is past the end is passed over.
    pub fn append(&mut self, values: &[f64]) {
        let mut rest = values;
        while let Some((segment, others)) = self.left.split_first().filter(|_| !rest.is_empty()) {
            if self.within == 0 {
                self.measured.push(Clipping { norm: 0.0, clipped: 0, learners: None });
            }
            let left = segment.len as usize - self.within;
            let (own, after) = rest.split_at(left.min(rest.len()));
            if let Some(measured) = self.measured.last_mut() {
                measured.norm += own.iter().map(|value| value * value).sum::<f64>();
                measured.clipped +=
                    own.iter().filter(|value| value.abs() > segment.bound).count() as u64;
            }
            self.within += own.len();
            if own.len() == left {
                (self.left, self.within) = (others, 0);
            }
            rest = after;
        }
    }

    /// Every segment that began.
    pub fn finish(mut self) -> Vec<Clipping> {
        self.measured.iter_mut().for_each(|measured| measured.norm = measured.norm.sqrt());
        self.measured
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_of_any_length_measure_the_same() {
        let encoding = Encoding::new([("a", 3, 1.0), ("b", 1, 2.0), ("c", 2, 8.0)], 4).unwrap();
        let values = [3.0, -4.0, 0.5, 2.0, 6.0, -8.0];
        let expected = [
            Clipping { norm: 25.25_f64.sqrt(), clipped: 2, learners: None },
            Clipping { norm: 2.0, clipped: 0, learners: None },
            Clipping { norm: 10.0, clipped: 0, learners: None },
        ];
        for run in 1..=values.len() {
            let mut meter = Meter::new(&encoding);
            values.chunks(run).for_each(|values| meter.append(values));
            meter.append(&[9.0]);
            assert_eq!(meter.finish(), expected, "runs of {run}");
        }
    }
}
