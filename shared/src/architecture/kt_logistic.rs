//! `kt-logistic/1`, the knowledge tracing model: what its stages sum and how its published sums are
//! read. Training is the agent's.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{
    Architecture, BadSums, Hyper, Init, Layout, LearnerPrivacy, Mechanism, SegmentSpec, Stage,
    Sums, TensorSpec, evaluation, sums::segment,
};
use crate::params::{EncodeError, Encoding};

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
const DENSE_LEN: u32 = 17;
/// What each dense feature is divided by where gradients are clipped: public numbers near its usual size,
/// so that no feature takes a gradient's norm for itself.
pub const FEATURE_SCALES: [f64; 17] =
    [1.0, 5.0, 4.0, 0.25, 1.5, 1.5, 1.3, 0.7, 0.6, 0.4, 0.5, 0.5, 0.4, 0.2, 2.3, 0.5, 0.3];
/// The bound on counts of responses, and on sums of losses, of one institution.
pub(super) const COUNT_BOUND: f64 = 4_194_304.0;
const DENSE_CURVATURE_BOUND: f64 = 67_108_864.0;
/// The bound on what the clipped parts of one institution's learners add up to: small, so that scales are
/// fine.
pub(super) const PRIVATE_BOUND: f64 = 65_536.0;

/// How many items and competencies a stage is about: the registry's for [`Stage::Support`], the
/// shared ones for every later stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sizes {
    pub items: u32,
    pub competencies: u32,
}
/// What `stage` of `kt-logistic/1` sums, in the order of the vector that each institution contributes.
pub fn segments(stage: &Stage, hyper: &Hyper, sizes: Sizes) -> Vec<SegmentSpec> {
    if hyper.privacy.is_some() {
        return private_segments(stage, sizes);
    }
    let Sizes { items, competencies } = sizes;
    let weights = competencies.saturating_mul(3);
    let segment = |name: &str, len, bound| SegmentSpec { name: name.to_owned(), len, bound };
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
            let mut all = vec![segment("move", len, hyper.optimizer.bound)];
            all.extend(evaluation::segments());
            all
        }
        Stage::Evaluate => evaluation::segments(),
        Stage::Audit => Vec::new(),
    }
}

/// Under learner-level privacy: nothing that is no sum of clipped parts of learners. There is no support
/// sum (one learner can decide a bit of it), and no curvature (it depends on records).
fn private_segments(stage: &Stage, Sizes { items, competencies }: Sizes) -> Vec<SegmentSpec> {
    let segment = |name: &str, len, bound| SegmentSpec { name: name.to_owned(), len, bound };
    match stage {
        Stage::Support | Stage::Totals | Stage::Audit => Vec::new(),
        Stage::Statistics => vec![
            segment("skill_right", competencies, PRIVATE_BOUND),
            segment("skill_wrong", competencies, PRIVATE_BOUND),
            segment("item_right", items, PRIVATE_BOUND),
            segment("item_wrong", items, PRIVATE_BOUND),
        ],
        Stage::Train { .. } => vec![segment("gradient", DENSE_LEN, PRIVATE_BOUND)],
        Stage::Evaluate => evaluation::private_segments(),
    }
}

/// The integer encoding of `stage` for sums over at most `n_max` institutions. Segments without a
/// value (no shared item, say) are left out of the vector.
pub fn encoding(
    stage: &Stage,
    hyper: &Hyper,
    sizes: Sizes,
    n_max: u32,
) -> Result<Encoding, EncodeError> {
    encode(segments(stage, hyper, sizes), stage, hyper, n_max)
}

/// The encoding of these segments of a stage.
pub(super) fn encode(
    segments: Vec<SegmentSpec>,
    stage: &Stage,
    hyper: &Hyper,
    n_max: u32,
) -> Result<Encoding, EncodeError> {
    let filled = segments.into_iter().filter(|s| s.len > 0).map(|s| {
        let deviation = hyper.deviation(stage, &s.name);
        (s.name, s.len, s.bound, deviation)
    });
    Encoding::noisy(filled, n_max)
}

/// Adds the segments of `stage` that have no value to the opened sum, so that readers find them.
pub fn complete_sums(sums: &mut Sums, stage: &Stage, hyper: &Hyper, sizes: Sizes) {
    complete(sums, segments(stage, hyper, sizes));
}

pub(super) fn complete(sums: &mut Sums, segments: Vec<SegmentSpec>) {
    for segment in segments.into_iter().filter(|s| s.len == 0) {
        sums.insert(segment.name, Vec::new());
    }
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
/// The items and competencies that enough institutions support to be summed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SharedSets {
    /// In the registry's order.
    pub items: Vec<String>,
    /// In the registry's order.
    pub competencies: Vec<String>,
}

impl SharedSets {
    /// Everything that the registry names.
    pub fn all(items: &[String], competencies: &[String]) -> Self {
        Self { items: items.to_vec(), competencies: competencies.to_vec() }
    }

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
    /// Of each count.
    #[serde(default)]
    pub noise: CountNoise,
}

/// How counts are off that carry noise; all 0 where they are exact.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct CountNoise {
    /// The standard deviation of the right answers to an item, and of the wrong ones.
    pub items: f64,
    /// The same of a competency.
    pub competencies: f64,
    /// The norm that each learner's answers to items, right and wrong, were clipped to.
    pub clip: f64,
}

/// How much of a count of answers is to be believed, from 0 to 1: `n` answers in all, noise of standard
/// deviation `deviation` on the right and on the wrong ones, and a rate of about `p`. Right answers beyond
/// n p then have a variance of n p (1 - p) and, of the noise, deviation^2 (p^2 + (1 - p)^2): n / (n + V)
/// makes the best linear estimate of it that of discounted counts. 1 without noise.
pub fn belief(n: f64, deviation: f64, p: f64) -> f64 {
    if deviation == 0.0 {
        return 1.0;
    }
    let n = n.max(0.0);
    let noise = deviation * deviation * (p * p + (1.0 - p) * (1.0 - p)) / (p * (1.0 - p));
    if n > 0.0 { n / (n + noise) } else { 0.0 }
}

impl SharedStatistics {
    /// Reads the opened sums of [`Stage::Statistics`] with noise that `institutions` added to. Counts stay
    /// as they are, also below 0: who uses them knows how far they may be off.
    pub fn from_noisy_segments(
        sums: &Sums,
        shared: &SharedSets,
        privacy: &LearnerPrivacy,
        institutions: u32,
    ) -> Result<Self, BadSums> {
        let table = |names: &[String], right: &'static str, wrong: &'static str| {
            let right = segment(sums, right, names.len())?;
            let wrong = segment(sums, wrong, names.len())?;
            let counts = right.iter().zip(wrong).map(|(right, wrong)| (right + wrong, *right));
            Ok::<BTreeMap<_, _>, BadSums>(names.iter().cloned().zip(counts).collect())
        };
        let items = table(&shared.items, "item_right", "item_wrong")?;
        let skills = table(&shared.competencies, "skill_right", "skill_wrong")?;
        let more = privacy.beyond_claim(institutions);
        let deviation = |of: Mechanism| of.clip * of.noise * more;
        let noise = CountNoise {
            items: deviation(privacy.items),
            competencies: deviation(privacy.competencies),
            clip: privacy.items.clip,
        };
        Ok(Self::with_noise(skills, items, noise))
    }

    /// Counts that may be off by so much; the base rate is what they say together.
    pub(super) fn with_noise(
        skills: BTreeMap<String, (f64, f64)>,
        items: BTreeMap<String, (f64, f64)>,
        noise: CountNoise,
    ) -> Self {
        let (n, c) = total(if skills.is_empty() { &items } else { &skills });
        let base = if n > 0.0 { (n, c.clamp(0.05 * n, 0.95 * n)) } else { (0.0, 0.0) };
        Self { base, skills, items, noise }
    }

    /// The training answers that a private step is divided by: as the noisy counts have it, and never so
    /// few that the noise of `institutions` would lead.
    pub fn answers(&self, privacy: &LearnerPrivacy, institutions: u32) -> f64 {
        privacy.at_least(total(&self.items).0.max(total(&self.skills).0), institutions)
    }

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
            noise: CountNoise::default(),
        })
    }

    /// The share of right answers; kept off 0 and 1 so that its logit is finite, and 1/2 without
    /// any answer.
    pub fn base_rate(&self) -> f64 {
        let (n, c) = self.base;
        if n > 0.0 { (c / n).clamp(0.001, 0.999) } else { 0.5 }
    }
}

fn total(counts: &BTreeMap<String, (f64, f64)>) -> (f64, f64) {
    counts.values().fold((0.0, 0.0), |(n, c), one| (n + one.0, c + one.1))
}

/// One step of gradient descent on the dense weights alone, from the noisy sum of clipped gradients: in
/// scaled weights u_j = s_j w_j it is u - rate G / N, N being [`SharedStatistics::answers`].
pub fn private_step(weights: &mut [f32], gradient: &[f64], rate: f64, answers: f64) {
    for ((weight, slope), scale) in weights.iter_mut().zip(gradient).zip(FEATURE_SCALES) {
        *weight = single(f64::from(*weight) - rate * slope / (scale * answers));
    }
}

#[expect(clippy::cast_possible_truncation, reason = "parameters are kept in single precision")]
pub(super) fn single(value: f64) -> f32 {
    value as f32
}

/// Rounding may push a count below 0 or right answers above all answers.
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

#[cfg(test)]
mod tests {
    use super::{super::name_sums, *};

    fn names(list: &[&str]) -> Vec<String> {
        list.iter().map(|s| (*s).to_owned()).collect()
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
    fn sums_are_cut_and_read_back() {
        let sizes = Sizes { items: 3, competencies: 2 };
        let hyper = Hyper::default();
        let support = segments(&Stage::Support, &hyper, sizes);
        let sums = name_sums(&support, &[3.0, 1.0, 2.0, 2.0, 0.0]).unwrap();
        let (items, skills) = (names(&["a", "b", "c"]), names(&["k", "l"]));
        let shared =
            SharedSets::from_support(&items, &skills, &sums["items"], &sums["competencies"], 2);
        assert_eq!(shared.items, ["a", "c"]);
        assert_eq!(shared.competencies, ["k"]);
        let statistics = segments(&Stage::Statistics, &hyper, shared.sizes());
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
}
