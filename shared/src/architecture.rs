//! The compiled-in model architectures: what each stage of a task sums, with the public bound of every
//! value, parameter layouts, and how published sums are read back. Both sides derive the same facts
//! from the same inputs here. Holds no training code and no institution's own numbers.

pub mod bias_audit;
pub mod comparison;
mod evaluation;
pub mod kt_attention;
mod kt_logistic;
mod layout;
pub mod load_test;
mod neural;
mod optimizer;
mod privacy;
mod robust;
mod settings;
mod sums;
pub mod wide_mlp;

use std::{fmt, str::FromStr};

use crate::params::{EncodeError, Encoding};

use serde::{Deserialize, Serialize};
use thiserror::Error;

pub use bias_audit::{BIAS_AUDIT_1, BiasQuestion, BiasScope};
pub use comparison::EVALUATION_1;
pub use evaluation::{Evaluation, HISTOGRAM_BINS, PRIVATE_BINS};
pub use kt_attention::KT_ATTENTION_1;
pub use kt_logistic::{
    CountNoise, DENSE, FEATURE_SCALES, KT_LOGISTIC_1, SharedSets, SharedStatistics, Sizes, Totals,
    belief, complete_sums, encoding, layout, private_step, segments,
};
pub use layout::{Init, Layout, TensorSpec};
pub use load_test::LOAD_TEST_1;
pub use neural::{NETWORKS, Neural, descend};
pub use optimizer::{Coordinate, Largest, Local, Moment, Optimizer, Second, Server};
pub use privacy::{
    BadPrivacy, Charge, Group, LearnerPrivacy, Mechanism, Placed, Population, Target, charges,
    placed,
};
pub use robust::{FROM_INSTITUTIONS, GroupSum, LEAST_GROUPS, deal, group_count, median_of_means};
pub use settings::{BadHyper, Hyper};
pub use sums::{BadSums, SegmentSpec, Sums, name_sums};
pub use wide_mlp::{Feature, WIDE_MLP_1};

/// An architecture that this build does not contain.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("architecture {given:?} is unknown here; this build knows {}", known().join(", "))]
pub struct UnknownArchitecture {
    given: String,
}

/// The identifiers of all architectures of this build.
fn known() -> Vec<&'static str> {
    let networks = NETWORKS.iter().map(|network| network.id());
    [KT_LOGISTIC_1]
        .into_iter()
        .chain(networks)
        .chain([BIAS_AUDIT_1, EVALUATION_1, LOAD_TEST_1])
        .collect()
}

/// An architecture of this build. Written as its identifier.
#[derive(Clone, Copy, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Architecture {
    /// Knowledge tracing.
    KtLogistic1,
    /// Public numbers through the whole path: no records, no training, nothing released.
    LoadTest1,
    /// How a released model serves groups of learners: nothing trained, nothing released.
    BiasAudit1,
    /// What a released model is worth to institutions: nothing trained, nothing released.
    Evaluation1,
    /// A neural network.
    Neural(&'static dyn Neural),
}

impl Architecture {
    /// Finds an architecture by its identifier.
    pub fn lookup(id: &str) -> Result<Self, UnknownArchitecture> {
        match id {
            KT_LOGISTIC_1 => Ok(Self::KtLogistic1),
            LOAD_TEST_1 => Ok(Self::LoadTest1),
            BIAS_AUDIT_1 => Ok(Self::BiasAudit1),
            EVALUATION_1 => Ok(Self::Evaluation1),
            _ => neural::lookup(id)
                .map(Self::Neural)
                .ok_or_else(|| UnknownArchitecture { given: id.chars().take(80).collect() }),
        }
    }

    pub fn id(self) -> &'static str {
        match self {
            Self::KtLogistic1 => KT_LOGISTIC_1,
            Self::LoadTest1 => LOAD_TEST_1,
            Self::BiasAudit1 => BIAS_AUDIT_1,
            Self::Evaluation1 => EVALUATION_1,
            Self::Neural(network) => network.id(),
        }
    }

    /// What `stage` of a training task sums, in the order of the vector that each institution contributes;
    /// nothing of the architectures that train nothing.
    pub fn segments(self, stage: &Stage, hyper: &Hyper, sizes: Sizes) -> Vec<SegmentSpec> {
        let Self::Neural(network) = self else {
            return kt_logistic::segments(stage, hyper, sizes);
        };
        let private = hyper.privacy.is_some();
        let (name, bound) = match private {
            true => ("gradient", kt_logistic::PRIVATE_BOUND),
            false => ("move", hyper.optimizer.bound),
        };
        let len = network.parameters(hyper, sizes);
        let moves = SegmentSpec { name: name.to_owned(), len, bound };
        match stage {
            Stage::Statistics => network.statistics(hyper, sizes),
            Stage::Train { .. } if private => vec![moves],
            Stage::Train { .. } => [vec![moves], evaluation::segments()].concat(),
            Stage::Totals => Vec::new(),
            Stage::Support | Stage::Evaluate | Stage::Audit => {
                kt_logistic::segments(stage, hyper, sizes)
            }
        }
    }

    /// The integer encoding of `stage` for sums over at most `n_max` institutions. Segments without a
    /// value (no shared item, say) are left out of the vector.
    pub fn encoding(
        self,
        stage: &Stage,
        hyper: &Hyper,
        sizes: Sizes,
        n_max: u32,
    ) -> Result<Encoding, EncodeError> {
        kt_logistic::encode(self.segments(stage, hyper, sizes), stage, hyper, n_max)
    }

    /// Adds the segments of `stage` that have no value to the opened sum, so that readers find them.
    pub fn complete_sums(self, sums: &mut Sums, stage: &Stage, hyper: &Hyper, sizes: Sizes) {
        kt_logistic::complete(sums, self.segments(stage, hyper, sizes));
    }

    /// Whether a task can be run with these settings.
    ///
    /// # Errors
    /// [`BadHyper`], which names the setting.
    pub fn check(self, hyper: &Hyper) -> Result<(), BadHyper> {
        let adam = matches!(hyper.optimizer.local, Local::Adam { .. });
        match self {
            // Left out, it is the network's own.
            Self::Neural(network) if !adam && hyper.optimizer != Optimizer::default() => {
                Err(BadHyper::NotForNetworks { architecture: network.id() })
            }
            Self::Neural(network) => network.check(hyper),
            _ if adam => Err(BadHyper::ForNetworks("the optimizer local-adam")),
            _ if !hyper.features.is_empty() => Err(BadHyper::ForNetworks("features")),
            _ => Ok(()),
        }
    }

    /// The parameters over what is shared, of a model that is trained.
    pub fn layout(self, hyper: &Hyper, shared: &SharedSets) -> Layout {
        match self {
            Self::Neural(network) => network.layout(hyper, shared),
            _ => layout(&shared.competencies),
        }
    }
}

impl PartialEq for Architecture {
    fn eq(&self, other: &Self) -> bool {
        self.id() == other.id()
    }
}

impl Eq for Architecture {}

impl fmt::Debug for Architecture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.id())
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
    /// How a released model serves: groups of learners (a bias audit), or all of them (an evaluation).
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
        for id in known() {
            assert_eq!(Architecture::lookup(id).unwrap().id(), id);
        }
        let error = Architecture::lookup("gpt/9").unwrap_err().to_string();
        for name in ["gpt/9", KT_LOGISTIC_1, LOAD_TEST_1, BIAS_AUDIT_1, EVALUATION_1, WIDE_MLP_1] {
            assert!(error.contains(name), "{error}");
        }
    }
}
