//! The compiled-in model architectures: parameter layouts, what each stage of a task sums and the
//! public bound of every value, and how published sums are read back. Both sides derive the same
//! facts from the same inputs here. Holds no training code and no institution's own numbers.

use std::{collections::BTreeMap, fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, de};
use thiserror::Error;

use crate::{
    crypto::Digest,
    params::{EncodeError, Encoding},
};

/// The identifier of the knowledge tracing model.
pub const KT_LOGISTIC_1: &str = "kt-logistic/1";

/// The dense features of `kt-logistic/1`, in the order of the tensor `dense`.
pub const DENSE: [&str; 17] = [
    "bias",
    "log_wins",
    "log_fails",
    "win_ratio",
    "log_item_wins",
    "log_item_fails",
    "item_logit",
    "theta",
    "theta_fast",
    "theta_skill",
    "var_theta",
    "var_skill",
    "last_residual",
    "recent_residual",
    "log_skill_count",
    "skill_logit",
    "theta_skill_fast",
];

/// Equal bins over [0, 1] of the predicted probability in an [`Evaluation`].
pub const HISTOGRAM_BINS: usize = 512;

const DENSE_LEN: u32 = 17;
const BINS_LEN: u32 = 512;
const COUNT_BOUND: f64 = 4_194_304.0;
const DENSE_CURVATURE_BOUND: f64 = 67_108_864.0;
const MAX_LOCAL_STEPS: u32 = 1_000;

/// The opened sums of one stage by segment name.
pub type Sums = BTreeMap<String, Vec<f64>>;

/// An architecture that this build does not contain.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("architecture {given:?} is unknown here; this build knows {KT_LOGISTIC_1}")]
pub struct UnknownArchitecture {
    given: String,
}

/// An architecture of this build. Written as its identifier.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Architecture {
    KtLogistic1,
}

impl Architecture {
    /// Finds an architecture by its identifier.
    pub fn lookup(id: &str) -> Result<Self, UnknownArchitecture> {
        match id {
            KT_LOGISTIC_1 => Ok(Self::KtLogistic1),
            _ => Err(UnknownArchitecture { given: id.chars().take(80).collect() }),
        }
    }

    pub fn id(self) -> &'static str {
        match self {
            Self::KtLogistic1 => KT_LOGISTIC_1,
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
        }
    }

    /// Whether an institution gives this stage only once per task, because its values do not depend
    /// on the weights: two sums of them over almost the same members would differ by one member's.
    pub fn once(&self) -> bool {
        matches!(self, Self::Support | Self::Statistics | Self::Totals)
    }
}

/// How the moves of institutions become the next model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "OptimizerFields", into = "OptimizerFields")]
pub enum Optimizer {
    /// `curvature-nesterov`: local steps scaled by each parameter's curvature, moves weighted by
    /// it over a fixed total, Nesterov momentum between rounds.
    CurvatureNesterov { local_steps: u32, bound: f64 },
    /// `fedavg` (McMahan et al. 2017, AISTATS), full local batches: moves weighted by training
    /// responses over a fixed total.
    FedAvg { local_steps: u32, learning_rate: f64, bound: f64 },
}

impl Default for Optimizer {
    fn default() -> Self {
        Self::CurvatureNesterov { local_steps: 5, bound: 1.0 }
    }
}

impl Optimizer {
    /// The public bound on the absolute value of each coordinate of one institution's move.
    pub fn bound(&self) -> f64 {
        match self {
            Self::CurvatureNesterov { bound, .. } | Self::FedAvg { bound, .. } => *bound,
        }
    }

    pub fn local_steps(&self) -> u32 {
        match self {
            Self::CurvatureNesterov { local_steps, .. } | Self::FedAvg { local_steps, .. } => {
                *local_steps
            }
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum OptimizerName {
    CurvatureNesterov,
    #[serde(rename = "fedavg")]
    FedAvg,
}

/// The written form of an [`Optimizer`]: flat, so that every serde format can carry it.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct OptimizerFields {
    name: OptimizerName,
    local_steps: Option<u32>,
    learning_rate: Option<f64>,
    bound: Option<f64>,
}

/// Settings of a task that no run could use.
#[derive(Clone, Debug, PartialEq, Error)]
pub enum BadHyper {
    #[error("{name} is {given}; it must be a number above 0 and at most {most}")]
    OutOfRange { name: &'static str, given: f64, most: f64 },
    #[error("local_steps is {0}; use 1 to {MAX_LOCAL_STEPS}")]
    LocalSteps(u32),
    #[error("learning_rate belongs to fedavg only; remove it")]
    LearningRate,
}

fn within(name: &'static str, given: f64, most: f64) -> Result<f64, BadHyper> {
    if given > 0.0 && given <= most {
        Ok(given)
    } else {
        Err(BadHyper::OutOfRange { name, given, most })
    }
}

impl TryFrom<OptimizerFields> for Optimizer {
    type Error = BadHyper;
    fn try_from(fields: OptimizerFields) -> Result<Self, BadHyper> {
        let bound = within("bound", fields.bound.unwrap_or(1.0), 1_000.0)?;
        let steps = |default| match fields.local_steps.unwrap_or(default) {
            given @ 1..=MAX_LOCAL_STEPS => Ok(given),
            given => Err(BadHyper::LocalSteps(given)),
        };
        match (fields.name, fields.learning_rate) {
            (OptimizerName::CurvatureNesterov, Some(_)) => Err(BadHyper::LearningRate),
            (OptimizerName::CurvatureNesterov, None) => {
                Ok(Self::CurvatureNesterov { local_steps: steps(5)?, bound })
            }
            (OptimizerName::FedAvg, rate) => Ok(Self::FedAvg {
                local_steps: steps(30)?,
                learning_rate: within("learning_rate", rate.unwrap_or(0.05), 100.0)?,
                bound,
            }),
        }
    }
}

impl From<Optimizer> for OptimizerFields {
    fn from(optimizer: Optimizer) -> Self {
        let (name, learning_rate) = match optimizer {
            Optimizer::CurvatureNesterov { .. } => (OptimizerName::CurvatureNesterov, None),
            Optimizer::FedAvg { learning_rate, .. } => (OptimizerName::FedAvg, Some(learning_rate)),
        };
        Self {
            name,
            local_steps: Some(optimizer.local_steps()),
            learning_rate,
            bound: Some(optimizer.bound()),
        }
    }
}

/// The settings of a training task.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hyper {
    #[serde(default)]
    pub optimizer: Optimizer,
    /// L2 weight on each dense parameter, over the whole federation.
    #[serde(default = "default_ridge_dense", deserialize_with = "ridge_dense")]
    pub ridge_dense: f64,
    /// L2 weight on each competency's parameter, over the whole federation.
    #[serde(default = "default_ridge_skill", deserialize_with = "ridge_skill")]
    pub ridge_skill: f64,
}

fn default_ridge_dense() -> f64 {
    0.01
}

fn default_ridge_skill() -> f64 {
    1.0
}

fn ridge_dense<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    within("ridge_dense", f64::deserialize(deserializer)?, 1e6).map_err(de::Error::custom)
}

fn ridge_skill<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    within("ridge_skill", f64::deserialize(deserializer)?, 1e6).map_err(de::Error::custom)
}

impl Default for Hyper {
    fn default() -> Self {
        Self {
            optimizer: Optimizer::default(),
            ridge_dense: default_ridge_dense(),
            ridge_skill: default_ridge_skill(),
        }
    }
}

impl Hyper {
    /// The L2 weight of each parameter in the order of the [`Layout`]: 17 + 3 x `competencies`.
    pub fn ridge(&self, competencies: usize) -> Vec<f64> {
        let mut ridge = vec![self.ridge_dense; DENSE.len()];
        ridge.resize(DENSE.len() + 3 * competencies, self.ridge_skill);
        ridge
    }
}

/// How many items and competencies a stage is about: the registry's for [`Stage::Support`], the
/// shared ones for every later stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sizes {
    pub items: u32,
    pub competencies: u32,
}

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

/// What `stage` sums, in the order of the vector that each institution contributes.
pub fn segments(stage: &Stage, optimizer: &Optimizer, sizes: Sizes) -> Vec<SegmentSpec> {
    let Sizes { items, competencies } = sizes;
    let weights = competencies.saturating_mul(3);
    let segment = |name: &str, len, bound| SegmentSpec { name: name.to_owned(), len, bound };
    let evaluation = || {
        vec![
            segment("eval_n", 1, COUNT_BOUND),
            segment("eval_loss", 1, COUNT_BOUND),
            segment("eval_positive", BINS_LEN, COUNT_BOUND),
            segment("eval_negative", BINS_LEN, COUNT_BOUND),
        ]
    };
    match stage {
        Stage::Support => {
            vec![segment("items", items, 1.0), segment("competencies", competencies, 1.0)]
        }
        Stage::Statistics => vec![
            segment("base", 2, COUNT_BOUND),
            segment("skill_n", competencies, COUNT_BOUND),
            segment("skill_c", competencies, COUNT_BOUND),
            segment("item_n", items, COUNT_BOUND),
            segment("item_c", items, COUNT_BOUND),
        ],
        Stage::Totals => vec![
            segment("examples", 1, COUNT_BOUND),
            segment("dense_curvature", DENSE_LEN, DENSE_CURVATURE_BOUND),
            segment("skill_curvature", weights, COUNT_BOUND),
        ],
        Stage::Train { .. } => {
            let len = weights.saturating_add(DENSE_LEN);
            let mut all = vec![segment("move", len, optimizer.bound())];
            all.extend(evaluation());
            all
        }
        Stage::Evaluate => evaluation(),
    }
}

/// The integer encoding of `stage` for sums over at most `n_max` institutions. Segments without a
/// value (no shared item, say) are left out of the vector.
pub fn encoding(
    stage: &Stage,
    optimizer: &Optimizer,
    sizes: Sizes,
    n_max: u32,
) -> Result<Encoding, EncodeError> {
    let segments = segments(stage, optimizer, sizes);
    let filled = segments.into_iter().filter(|s| s.len > 0).map(|s| (s.name, s.len, s.bound));
    Encoding::new(filled, n_max)
}

/// Adds the segments of `stage` that have no value to the opened sum, so that readers find them.
pub fn complete_sums(sums: &mut Sums, stage: &Stage, optimizer: &Optimizer, sizes: Sizes) {
    for segment in segments(stage, optimizer, sizes).into_iter().filter(|s| s.len == 0) {
        sums.insert(segment.name, Vec::new());
    }
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

fn segment<'a>(sums: &'a Sums, name: &'static str, expected: usize) -> Result<&'a [f64], BadSums> {
    let values = sums.get(name).ok_or(BadSums::Missing(name))?;
    if values.len() != expected {
        return Err(BadSums::Length { name: name.to_owned(), found: values.len(), expected });
    }
    if values.iter().any(|v| !v.is_finite()) {
        return Err(BadSums::NotFinite(name.to_owned()));
    }
    Ok(values)
}

/// The first values of a model's parameters.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Init {
    Zeros,
    Values(Vec<f32>),
}

/// One tensor of a model: one-dimensional, f32.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TensorSpec {
    pub name: String,
    pub len: u32,
    pub init: Init,
}

/// The parameters of a model: tensors in order, and what the positions of the competency tensors
/// mean.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Layout {
    pub architecture: Architecture,
    /// The shared competencies, as the registry sorts them.
    pub competencies: Vec<String>,
    pub tensors: Vec<TensorSpec>,
}

/// The layout of `kt-logistic/1` over the shared competencies. It starts from the public item
/// response model: weight 1 on the item's logit and on the learner's ability, else 0.
pub fn layout(competencies: &[String]) -> Layout {
    let start = DENSE.map(|name| if matches!(name, "item_logit" | "theta") { 1.0 } else { 0.0 });
    let k = count(competencies.len());
    let skill = |name: &str| TensorSpec { name: name.to_owned(), len: k, init: Init::Zeros };
    let dense =
        TensorSpec { name: "dense".to_owned(), len: DENSE_LEN, init: Init::Values(start.to_vec()) };
    Layout {
        architecture: Architecture::KtLogistic1,
        competencies: competencies.to_vec(),
        tensors: vec![
            dense,
            skill("skill_bias"),
            skill("skill_log_wins"),
            skill("skill_log_fails"),
        ],
    }
}

/// Lengths on the wire are u32; the registry is bounded far below that.
fn count(len: usize) -> u32 {
    u32::try_from(len).unwrap_or(u32::MAX)
}

impl Layout {
    /// Identifies the layout: two models can be summed only if it is equal.
    ///
    /// # Errors
    /// Only if the layout cannot be encoded, which no layout made by [`layout`] is.
    pub fn digest(&self) -> Result<Digest, postcard::Error> {
        let bytes = postcard::to_stdvec(self)?;
        Ok(Digest::of_parts("collegium/v1/layout", &[&bytes]))
    }

    /// The parameters before the first step, all tensors concatenated.
    pub fn initial(&self) -> Vec<f32> {
        let mut weights = Vec::with_capacity(self.len());
        for tensor in &self.tensors {
            match &tensor.init {
                Init::Zeros => weights.resize(weights.len() + tensor.len as usize, 0.0),
                Init::Values(values) => weights.extend_from_slice(values),
            }
        }
        weights
    }

    /// Parameters of all tensors together.
    pub fn len(&self) -> usize {
        self.tensors.iter().map(|t| t.len as usize).sum()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// The items and competencies that enough institutions support to be summed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SharedSets {
    /// In the registry's order.
    pub items: Vec<String>,
    /// In the registry's order.
    pub competencies: Vec<String>,
}

impl SharedSets {
    /// Keeps what at least `threshold` institutions support. `item_support` and
    /// `competency_support` are the opened sums of [`Stage::Support`], one value per name; a name
    /// without a value is not shared.
    pub fn from_support(
        items: &[String],
        competencies: &[String],
        item_support: &[f64],
        competency_support: &[f64],
        threshold: u32,
    ) -> Self {
        // Sums of bits open as whole numbers up to the encoding's rounding.
        let least = f64::from(threshold) - 0.5;
        let keep = |names: &[String], support: &[f64]| {
            let supported = names.iter().zip(support).filter(|(_, sum)| **sum >= least);
            supported.map(|(name, _)| name.clone()).collect()
        };
        Self {
            items: keep(items, item_support),
            competencies: keep(competencies, competency_support),
        }
    }

    /// The sizes of every stage after [`Stage::Support`].
    pub fn sizes(&self) -> Sizes {
        Sizes { items: count(self.items.len()), competencies: count(self.competencies.len()) }
    }
}

/// Counts over the training responses of all institutions: (answers, right answers).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SharedStatistics {
    pub base: (f64, f64),
    pub skills: BTreeMap<String, (f64, f64)>,
    pub items: BTreeMap<String, (f64, f64)>,
}

impl SharedStatistics {
    /// Reads the opened sums of [`Stage::Statistics`].
    pub fn from_segments(sums: &Sums, shared: &SharedSets) -> Result<Self, BadSums> {
        let base = segment(sums, "base", 2)?;
        let table = |names: &[String], n: &'static str, c: &'static str| {
            let (n, c) = (segment(sums, n, names.len())?, segment(sums, c, names.len())?);
            let counts = n.iter().zip(c).map(|(n, c)| counts(*n, *c));
            Ok::<_, BadSums>(names.iter().cloned().zip(counts).collect())
        };
        Ok(Self {
            base: counts(base[0], base[1]),
            skills: table(&shared.competencies, "skill_n", "skill_c")?,
            items: table(&shared.items, "item_n", "item_c")?,
        })
    }

    /// The share of right answers; kept off 0 and 1 so that its logit is finite, and 1/2 without
    /// any answer.
    pub fn base_rate(&self) -> f64 {
        let (n, c) = self.base;
        if n > 0.0 { (c / n).clamp(0.001, 0.999) } else { 0.5 }
    }
}

/// Noise and rounding may push a count below 0 or right answers above all answers.
fn counts(n: f64, c: f64) -> (f64, f64) {
    let n = n.max(0.0);
    (n, c.clamp(0.0, n))
}

/// The fixed denominators of a task's training rounds.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Totals {
    /// Training responses of all institutions.
    pub examples: f64,
    /// The summed curvature of each parameter, in the order of the [`Layout`].
    pub curvature: Vec<f64>,
}

impl Totals {
    /// Reads the opened sums of [`Stage::Totals`].
    pub fn from_segments(sums: &Sums, shared: &SharedSets) -> Result<Self, BadSums> {
        let examples = segment(sums, "examples", 1)?[0].max(0.0);
        let dense = segment(sums, "dense_curvature", DENSE.len())?;
        let skill = segment(sums, "skill_curvature", 3 * shared.competencies.len())?;
        let curvature = dense.iter().chain(skill).map(|h| h.max(0.0)).collect();
        Ok(Self { examples, curvature })
    }
}

/// How a model did on held-out learners: enough for log loss, AUC and calibration, additive over
/// institutions.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Evaluation {
    /// Held-out answers.
    pub n: f64,
    /// The sum of -ln of the probability given to what happened.
    pub loss_sum: f64,
    /// Right answers by predicted probability: [`HISTOGRAM_BINS`] equal bins over [0, 1].
    pub positive: Vec<f64>,
    /// Wrong answers, the same bins.
    pub negative: Vec<f64>,
}

impl Default for Evaluation {
    fn default() -> Self {
        let empty = vec![0.0; HISTOGRAM_BINS];
        Self { n: 0.0, loss_sum: 0.0, positive: empty.clone(), negative: empty }
    }
}

impl Evaluation {
    /// Reads the opened evaluation segments of [`Stage::Train`] or [`Stage::Evaluate`].
    pub fn from_segments(sums: &Sums) -> Result<Self, BadSums> {
        let histogram = |name| {
            let bins = segment(sums, name, HISTOGRAM_BINS)?;
            Ok::<_, BadSums>(bins.iter().map(|count| count.max(0.0)).collect())
        };
        Ok(Self {
            n: segment(sums, "eval_n", 1)?[0].max(0.0),
            loss_sum: segment(sums, "eval_loss", 1)?[0].max(0.0),
            positive: histogram("eval_positive")?,
            negative: histogram("eval_negative")?,
        })
    }

    /// Counts one answer that was predicted right with probability `p`.
    pub fn observe(&mut self, p: f64, correct: bool) {
        let happened = if correct { p } else { 1.0 - p };
        self.n += 1.0;
        self.loss_sum -= happened.max(f64::MIN_POSITIVE).ln();
        let bins = if correct { &mut self.positive } else { &mut self.negative };
        bins[bin(p)] += 1.0;
    }

    /// The segments `eval_n`, `eval_loss`, `eval_positive`, `eval_negative` concatenated.
    pub fn values(&self) -> Vec<f64> {
        let mut values = vec![self.n, self.loss_sum];
        values.extend_from_slice(&self.positive);
        values.extend_from_slice(&self.negative);
        values
    }

    /// The area under the ROC curve by the Mann-Whitney statistic, answers in one bin counted as
    /// ties (half). `None` if all answers are right or all wrong.
    pub fn auc(&self) -> Option<f64> {
        let positives: f64 = self.positive.iter().sum();
        let negatives: f64 = self.negative.iter().sum();
        if positives <= 0.0 || negatives <= 0.0 {
            return None;
        }
        let mut below = 0.0;
        let mut ordered = 0.0;
        for (p, n) in self.positive.iter().zip(&self.negative) {
            ordered += p * (below + 0.5 * n);
            below += n;
        }
        Some(ordered / (positives * negatives))
    }

    /// The mean log loss in nats; `None` without answers.
    pub fn log_loss(&self) -> Option<f64> {
        (self.n > 0.0).then(|| self.loss_sum / self.n)
    }
}

/// The bin of a probability: bisection, because a float has no checked conversion to an index.
fn bin(p: f64) -> usize {
    let (mut low, mut high) = (0, HISTOGRAM_BINS);
    while high - low > 1 {
        let middle = usize::midpoint(low, high);
        if p * HISTOGRAM_BINS as f64 >= middle as f64 {
            low = middle;
        } else {
            high = middle;
        }
    }
    low
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(list: &[&str]) -> Vec<String> {
        list.iter().map(|s| (*s).to_owned()).collect()
    }

    #[test]
    fn unknown_architectures_are_named_with_the_known_ones() {
        assert_eq!(Architecture::lookup(KT_LOGISTIC_1), Ok(Architecture::KtLogistic1));
        let error = Architecture::lookup("gpt/9").unwrap_err().to_string();
        assert!(error.contains("gpt/9") && error.contains(KT_LOGISTIC_1), "{error}");
    }

    #[test]
    fn the_layout_starts_from_the_item_response_model() {
        let layout = layout(&names(&["add", "divide"]));
        let weights = layout.initial();
        assert_eq!((layout.len(), weights.len()), (23, 23));
        let ones: Vec<_> = (0..23).filter(|i| weights[*i] > 0.0).map(|i| DENSE[i]).collect();
        assert_eq!(ones, ["item_logit", "theta"]);
        let other = super::layout(&names(&["add", "multiply"]));
        assert_ne!(layout.digest().unwrap(), other.digest().unwrap());
    }

    #[test]
    fn settings_keep_their_meaning_in_every_format() {
        let hyper: Hyper =
            serde_json::from_str(r#"{"optimizer":{"name":"fedavg","learning_rate":0.25}}"#)
                .unwrap();
        let expected = Optimizer::FedAvg { local_steps: 30, learning_rate: 0.25, bound: 1.0 };
        assert_eq!(hyper.optimizer, expected);
        let json = serde_json::to_string(&hyper).unwrap();
        assert_eq!(serde_json::from_str::<Hyper>(&json).unwrap(), hyper);
        let bytes = postcard::to_stdvec(&hyper).unwrap();
        assert_eq!(postcard::from_bytes::<Hyper>(&bytes).unwrap(), hyper);
        assert_eq!(serde_json::from_str::<Hyper>("{}").unwrap(), Hyper::default());
        let stage = Stage::Train { step: 7 };
        assert_eq!(serde_json::to_string(&stage).unwrap(), r#"{"train":{"step":7}}"#);
        let bytes = postcard::to_stdvec(&stage).unwrap();
        assert_eq!(postcard::from_bytes::<Stage>(&bytes).unwrap(), stage);
    }

    #[test]
    fn unusable_settings_are_refused() {
        for bad in [
            r#"{"optimizer":{"name":"adam"}}"#,
            r#"{"optimizer":{"name":"curvature-nesterov","learning_rate":1}}"#,
            r#"{"optimizer":{"name":"fedavg","local_steps":0}}"#,
            r#"{"optimizer":{"name":"fedavg","bound":-1}}"#,
            r#"{"ridge_dense":0}"#,
            r#"{"ridge":1}"#,
        ] {
            assert!(serde_json::from_str::<Hyper>(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn sums_are_cut_and_read_back() {
        let sizes = Sizes { items: 3, competencies: 2 };
        let optimizer = Optimizer::default();
        let support = segments(&Stage::Support, &optimizer, sizes);
        let sums = name_sums(&support, &[3.0, 1.0, 2.0, 2.0, 0.0]).unwrap();
        let (items, skills) = (names(&["a", "b", "c"]), names(&["k", "l"]));
        let shared =
            SharedSets::from_support(&items, &skills, &sums["items"], &sums["competencies"], 2);
        assert_eq!(shared.items, ["a", "c"]);
        assert_eq!(shared.competencies, ["k"]);
        let statistics = segments(&Stage::Statistics, &optimizer, shared.sizes());
        let sums = name_sums(&statistics, &[10.0, 4.0, 6.0, 2.0, 5.0, 3.0, 5.0, 3.5]).unwrap();
        let read = SharedStatistics::from_segments(&sums, &shared).unwrap();
        assert_eq!(read.items["c"], (3.0, 3.0));
        assert_eq!((read.skills["k"], read.base_rate()), ((6.0, 2.0), 0.4));
        assert!(name_sums(&statistics, &[1.0]).is_err());
        assert_eq!(
            Totals::from_segments(&sums, &shared).unwrap_err(),
            BadSums::Missing("examples")
        );
    }

    #[test]
    fn auc_counts_ties_half() {
        let mut evaluation = Evaluation::default();
        assert_eq!((evaluation.auc(), evaluation.log_loss()), (None, None));
        for (p, correct) in [(0.9, true), (0.4, true), (0.4, false), (0.1, false)] {
            evaluation.observe(p, correct);
        }
        assert_eq!(evaluation.auc(), Some(3.5 / 4.0));
        let optimizer = Optimizer::default();
        let none = Sizes { items: 0, competencies: 0 };
        let specs = segments(&Stage::Evaluate, &optimizer, none);
        let sums = name_sums(&specs, &evaluation.values()).unwrap();
        assert_eq!(Evaluation::from_segments(&sums).unwrap(), evaluation);
    }

    #[test]
    fn every_probability_has_a_bin() {
        for (p, expected) in [(0.0, 0), (0.5, 256), (1.0, 511), (1.0 / 512.0, 1), (f64::NAN, 0)] {
            assert_eq!(bin(p), expected, "{p}");
        }
    }
}
