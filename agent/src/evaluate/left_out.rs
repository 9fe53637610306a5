//! Some learners count in no bias audit, and others in no evaluation, always the same over the same records. Two
//! sums over nearly the same learners would tell of those in between, say the few whom an audit leaves out
//! because their group is small; so their difference is always of an unknown eighth of all others as well.

use collegium_shared::crypto::Digest;

use crate::records::Learner;

/// Of 256 learners so many are left out.
const LEFT_OUT: u8 = 32;

/// What is asked about the model that serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    Evaluation,
    Audit,
}

impl Asked {
    /// Whether the learner counts in it, over the records that `snapshot` identifies. The coordinator
    /// is not told the digest.
    pub fn counts(self, learner: &Learner, snapshot: Digest) -> bool {
        let context = match self {
            Self::Evaluation => "collegium/v1/evaluation/left-out",
            Self::Audit => "collegium/v1/bias-audit/left-out",
        };
        let parts = [snapshot.as_bytes().as_slice(), learner.id.as_bytes()];
        Digest::of_parts(context, &parts).as_bytes()[0] >= LEFT_OUT
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trainer::tests::simulated;

    #[test]
    fn an_eighth_counts_in_neither_and_they_are_different_learners() {
        let learners = simulated(3, 1, 2_000).remove(0);
        let (records, other) = (Digest::of(b"records"), Digest::of(b"other records"));
        let out = |asked: Asked, snapshot| -> Vec<&str> {
            let out = learners.iter().filter(|learner| !asked.counts(learner, snapshot));
            out.map(|learner| learner.id.as_str()).collect()
        };
        let evaluation = out(Asked::Evaluation, records);
        let audit = out(Asked::Audit, records);
        for of in [&evaluation, &audit] {
            // 250 are expected, with a standard deviation of 15.
            assert!((175..325).contains(&of.len()), "{}", of.len());
        }
        let both = evaluation.iter().filter(|id| audit.contains(id)).count();
        assert!(both < 70, "{both}");
        assert_eq!(evaluation, out(Asked::Evaluation, records), "always the same");
        assert_ne!(evaluation, out(Asked::Evaluation, other), "over the same records");
    }
}
