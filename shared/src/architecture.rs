//! The compiled-in model architectures: what each stage of a task sums, with the public bound of every
//! value, parameter layouts, and how published sums are read back. Both sides derive the same facts
//! from the same inputs here. Holds no training code and no institution's own numbers.

pub mod bias_audit;
mod evaluation;
mod kt_logistic;
mod layout;
pub mod load_test;
mod optimizer;
mod privacy;
mod robust;
mod settings;
mod sums;

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use thiserror::Error;

pub use bias_audit::{BIAS_AUDIT_1, BiasQuestion, BiasScope};
pub use evaluation::{Evaluation, HISTOGRAM_BINS, PRIVATE_BINS};
pub use kt_logistic::{
    CountNoise, DENSE, FEATURE_SCALES, KT_LOGISTIC_1, SharedSets, SharedStatistics, Sizes, Totals,
    belief, complete_sums, encoding, layout, private_step, segments,
};
pub use layout::{Init, Layout, TensorSpec};
pub use load_test::LOAD_TEST_1;
pub use optimizer::{Coordinate, Largest, Local, Moment, Optimizer, Second, Server};
pub use privacy::{
    BadPrivacy, Charge, Group, LearnerPrivacy, Mechanism, Placed, Population, Target, charges,
    placed,
};
pub use robust::{FROM_INSTITUTIONS, GroupSum, groups, median_of_means};
pub use settings::{BadHyper, Hyper};
pub use sums::{BadSums, SegmentSpec, Sums, name_sums};

/// An architecture that this build does not contain.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error(
    "architecture {given:?} is unknown here; this build knows {KT_LOGISTIC_1}, {BIAS_AUDIT_1} and {LOAD_TEST_1}"
)]
pub struct UnknownArchitecture {
    given: String,
}

/// An architecture of this build. Written as its identifier.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Architecture {
    /// Knowledge tracing.
    KtLogistic1,
    /// Public numbers through the whole path: no records, no training, nothing released.
    LoadTest1,
    /// How a released model serves groups of learners: nothing trained, nothing released.
    BiasAudit1,
}

impl Architecture {
    /// Finds an architecture by its identifier.
    pub fn lookup(id: &str) -> Result<Self, UnknownArchitecture> {
        match id {
            KT_LOGISTIC_1 => Ok(Self::KtLogistic1),
            LOAD_TEST_1 => Ok(Self::LoadTest1),
            BIAS_AUDIT_1 => Ok(Self::BiasAudit1),
            _ => Err(UnknownArchitecture { given: id.chars().take(80).collect() }),
        }
    }

    pub fn id(self) -> &'static str {
        match self {
            Self::KtLogistic1 => KT_LOGISTIC_1,
            Self::LoadTest1 => LOAD_TEST_1,
            Self::BiasAudit1 => BIAS_AUDIT_1,
        }
    }
}

impl fmt::Display for Architecture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.id())
    }
}

impl FromStr for Architecture {
    type Err = UnknownArchitecture;
    fn from_str(id: &str) -> Result<Self, UnknownArchitecture> {
        Self::lookup(id)
    }
}

impl TryFrom<String> for Architecture {
    type Error = UnknownArchitecture;
    fn try_from(id: String) -> Result<Self, UnknownArchitecture> {
        Self::lookup(&id)
    }
}

impl From<Architecture> for String {
    fn from(architecture: Architecture) -> Self {
        architecture.id().to_owned()
    }
}

/// What one secure sum of a task carries.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// One bit per item and competency of the registry: are there training responses for it?
    Support,
    /// Counts of training responses over what enough institutions support.
    Statistics,
    /// Training responses and the curvature of every parameter.
    Totals,
    /// The move of optimiser step `step` (from 1), and the evaluation of the model it starts from.
    Train { step: u32 },
    /// The evaluation of the last model.
    Evaluate,
    /// How a released model serves groups of learners.
    Audit,
}

impl Stage {
    /// A short name, the same for every step of training.
    pub fn label(&self) -> &'static str {
        match self {
            Self::Support => "support",
            Self::Statistics => "statistics",
            Self::Totals => "totals",
            Self::Train { .. } => "train",
            Self::Evaluate => "evaluate",
            Self::Audit => "audit",
        }
    }

    /// Whether an institution gives this stage only once per task, because its values do not depend
    /// on weights that change with the round: two sums of them over almost the same members would differ
    /// by one member's.
    pub fn once(&self) -> bool {
        matches!(self, Self::Support | Self::Statistics | Self::Totals | Self::Audit)
    }
}
#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_architectures_are_named_with_the_known_ones() {
        for known in [Architecture::KtLogistic1, Architecture::LoadTest1, Architecture::BiasAudit1]
        {
            assert_eq!(Architecture::lookup(known.id()), Ok(known));
        }
        let error = Architecture::lookup("gpt/9").unwrap_err().to_string();
        for name in ["gpt/9", KT_LOGISTIC_1, LOAD_TEST_1, BIAS_AUDIT_1] {
            assert!(error.contains(name), "{error}");
        }
    }
}
