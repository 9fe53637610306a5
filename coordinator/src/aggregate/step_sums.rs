//! What the opened sums of one step say: the moves, by the sum over all or by the median over groups, and
//! the evaluation that rode along, which is a sum in either case. Reads in runs.

use collegium_shared::{
    architecture::{GroupSum, Sums, median_of_means},
    blobs::Blobs,
    tensors::TensorFile,
};

use super::{AggregateError, MAX_BLOB, MOVE};
use crate::task::Opened;

/// The opened sum of a step, or those of its groups.
pub struct StepSums {
    /// With how many institutions are in each.
    parts: Vec<(usize, TensorFile)>,
}

impl StepSums {
    pub fn open(opened: &Opened, blobs: &Blobs) -> Result<Self, AggregateError> {
        let of = |institutions, sum| {
            TensorFile::open(blobs, sum, MAX_BLOB).map(|file| (institutions, file))
        };
        let parts = match opened.groups.as_slice() {
            [] => vec![of(opened.made.uploads.len(), &opened.sum)?],
            groups => {
                let groups = groups.iter().map(|group| of(group.institutions, &group.sum));
                groups.collect::<Result<_, _>>()?
            }
        };
        Ok(Self { parts })
    }

    #[cfg(test)]
    pub(super) fn of(parts: Vec<(usize, TensorFile)>) -> Self {
        Self { parts }
    }

    /// The one sum of a step without groups.
    pub fn whole(&self) -> Result<&TensorFile, AggregateError> {
        match self.parts.as_slice() {
            [(_, whole)] => Ok(whole),
            _ => Err(AggregateError::Inconsistent("the step has not one sum over all")),
        }
    }

    /// The sums, with how many institutions are in each.
    pub(super) fn parts(&self) -> impl Iterator<Item = (usize, &TensorFile)> {
        self.parts.iter().map(|(institutions, sum)| (*institutions, sum))
    }

    /// Whether every sum has moves of so many coordinates.
    pub(super) fn has_moves(&self, len: usize) -> bool {
        self.parts.iter().all(|(_, sum)| sum.len_of(MOVE) == Some(len))
    }

    /// What takes the place of the moves' sum, from coordinate `first` on.
    pub(super) fn moves(&self, first: usize, moves: &mut [f64]) -> Result<(), AggregateError> {
        if let [(_, whole)] = self.parts.as_slice() {
            return Ok(whole.read(MOVE, first, moves)?);
        }
        let mut groups = Vec::with_capacity(self.parts.len());
        for (members, file) in &self.parts {
            let mut sum = vec![0.0; moves.len()];
            file.read(MOVE, first, &mut sum)?;
            groups.push(GroupSum { members: *members, sum });
        }
        moves.copy_from_slice(&median_of_means(&groups));
        Ok(())
    }

    /// These segments, summed over all institutions.
    pub(super) fn totals<const N: usize>(&self, names: [&str; N]) -> Result<Sums, AggregateError> {
        let mut totals = Sums::new();
        for (_, file) in &self.parts {
            for (name, values) in file.sums(names)? {
                let total = totals.entry(name).or_insert_with(|| vec![0.0; values.len()]);
                total.iter_mut().zip(values).for_each(|(total, value)| *total += value);
            }
        }
        Ok(totals)
    }
}
