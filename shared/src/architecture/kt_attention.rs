//! `kt-attention/1`: will this learner answer this item correctly, from the learner's earlier answers? Causal
//! attention over competencies and outcomes (Pandey & Karypis 2019, EDM; Liu et al. 2023, ICLR: simpleKT)
//! beside the signals of `kt-logistic/1`, whose public start it has. Its layout, and the counts that its
//! signals need.

use super::{
    Architecture, BadHyper, BadSums, CountNoise, DENSE, FEATURE_SCALES, Hyper, Layout,
    LearnerPrivacy, Local, Neural, Optimizer, SegmentSpec, Server, SharedSets, SharedStatistics,
    Sizes, Stage, Sums, TensorSpec,
    kt_logistic::{self, PRIVATE_BOUND, single},
    optimizer::whole,
    sums::segment,
};

/// The identifier of the network.
pub const KT_ATTENTION_1: &str = "kt-attention/1";

/// Values of a token, and of each position between the layers.
pub const WIDTH: usize = 64;
/// Layers, each of attention and of two feed-forward layers.
pub const LAYERS: usize = 2;
/// Heads of each layer's attention.
pub const HEADS: usize = 4;
/// Units between a layer's two feed-forward layers.
pub const INNER: usize = 128;
/// The most answers of a learner that one attention looks over; longer histories are cut into such windows.
pub const WINDOW: usize = 128;

/// The most windows of a batch: an institution's memory is what bounds it.
const MAX_WINDOWS: u32 = 64;

/// A tensor of the network: rows for each input, columns for each output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Matrix {
    pub name: String,
    pub rows: usize,
    pub columns: usize,
}

/// The tensors of the network over so many shared competencies, in the order of the layout.
///
/// `competencies` has one row more than there are shared ones: that of all others. `signals` are the dense
/// features of `kt-logistic/1` divided by their public scales, `wide` their weights straight to the output.
pub fn matrices(competencies: usize) -> Vec<Matrix> {
    let matrix = |name: &str, rows, columns| Matrix { name: name.to_owned(), rows, columns };
    let mut all = vec![
        matrix("competencies", competencies + 1, WIDTH),
        matrix("signals", DENSE.len(), WIDTH),
        matrix("outcomes", 2, WIDTH),
    ];
    for layer in 1..=LAYERS {
        let of = |name: &str, rows, columns| matrix(&format!("{name}_{layer}"), rows, columns);
        all.extend([
            of("queries", WIDTH, WIDTH),
            of("keys", WIDTH, WIDTH),
            of("values", WIDTH, WIDTH),
            of("joined", WIDTH, WIDTH),
            of("inner", WIDTH, INNER),
            of("inner_biases", 1, INNER),
            of("outer", INNER, WIDTH),
            of("outer_biases", 1, WIDTH),
        ]);
    }
    all.extend([matrix("wide", DENSE.len(), 1), matrix("output", WIDTH, 1)]);
    all
}

/// Public first values: of the output and of biases 0, of `wide` the item response model, so that the
/// network begins where `kt-logistic/1` does; all else uniform with the variance 1 / inputs.
fn first(matrix: &Matrix) -> TensorSpec {
    let Matrix { name, rows, columns } = matrix;
    let len = rows * columns;
    let drawn = |inputs: f64| TensorSpec::drawn(KT_ATTENTION_1, name, len, (3.0 / inputs).sqrt());
    match name.as_str() {
        "wide" => {
            let start = DENSE.iter().zip(FEATURE_SCALES).map(|(name, scale)| match *name {
                "item_logit" | "theta" => single(scale),
                _ => 0.0,
            });
            TensorSpec::values(name, start.collect())
        }
        "output" => TensorSpec::zeros(name, len),
        biases if biases.contains("biases") => TensorSpec::zeros(name, len),
        // One row of each is looked up, not summed over.
        "competencies" | "outcomes" => drawn(TABLE_INPUTS),
        _ => drawn(*rows as f64),
    }
}

/// Values looked up are added to about so many that are summed.
const TABLE_INPUTS: f64 = 4.0;

/// The public facts of the network.
#[derive(Clone, Copy, Debug)]
pub struct KtAttention1;

impl KtAttention1 {
    /// The shared counts by the opened statistics. With privacy, how far they may be off is what
    /// [`LearnerPrivacy::parties`] institutions' noise makes of them.
    pub fn counts(
        sums: &Sums,
        shared: &SharedSets,
        hyper: &Hyper,
    ) -> Result<SharedStatistics, BadSums> {
        let Some(privacy) = &hyper.privacy else {
            return SharedStatistics::from_segments(sums, shared);
        };
        let SharedSets { items, competencies } = shared;
        let len = items.len() + competencies.len();
        let right = segment(sums, "all_right", len)?;
        let wrong = segment(sums, "all_wrong", len)?;
        let mut counts = right.iter().zip(wrong).map(|(right, wrong)| (right + wrong, *right));
        let skills = competencies.iter().cloned().zip(counts.by_ref()).collect();
        let items = items.iter().cloned().zip(counts).collect();
        let deviation = privacy.competencies.clip * privacy.competencies.noise;
        let clip = Self::part_clip(privacy);
        let noise = CountNoise { items: deviation, competencies: deviation, clip };
        Ok(SharedStatistics::with_noise(skills, items, noise))
    }

    /// The norm that a learner's answers to items are cut to before they are summed with noise, and that
    /// of the answers by competency: with the learner itself they are the whole part's norm.
    pub fn part_clip(privacy: &LearnerPrivacy) -> f64 {
        let square = privacy.competencies.clip * privacy.competencies.clip;
        ((square - 1.0).max(0.0) / 2.0).sqrt()
    }
}

impl Neural for KtAttention1 {
    fn id(&self) -> &'static str {
        KT_ATTENTION_1
    }

    /// As of `kt-logistic/1`; under learner-level privacy the learners, and the right and the wrong answers
    /// by competency and then by item.
    fn statistics(&self, hyper: &Hyper, sizes: Sizes) -> Vec<SegmentSpec> {
        if hyper.privacy.is_none() {
            return kt_logistic::segments(&Stage::Statistics, hyper, sizes);
        }
        let len = sizes.items.saturating_add(sizes.competencies);
        let segment =
            |name: &str, len| SegmentSpec { name: name.to_owned(), len, bound: PRIVATE_BOUND };
        vec![segment("examples", 1), segment("all_right", len), segment("all_wrong", len)]
    }

    fn answers(&self, statistics: &Sums) -> f64 {
        let first = |name| statistics.get(name).and_then(|of| of.first());
        first("base").or_else(|| first("examples")).map_or(0.0, |n| n.max(0.0))
    }

    /// The counts are what every signal begins with.
    fn statistics_share(&self) -> f64 {
        0.6
    }

    fn parameters(&self, _: &Hyper, Sizes { competencies, .. }: Sizes) -> u32 {
        let all = matrices(competencies as usize);
        let len = all.iter().map(|of| of.rows * of.columns).sum::<usize>();
        u32::try_from(len).unwrap_or(u32::MAX)
    }

    fn layout(&self, _: &Hyper, shared: &SharedSets) -> Layout {
        Layout {
            architecture: Architecture::Neural(&Self),
            competencies: shared.competencies.clone(),
            tensors: matrices(shared.competencies.len()).iter().map(first).collect(),
        }
    }

    /// A batch is of so many windows.
    fn optimizer(&self) -> Optimizer {
        let local = Local::Adam { learning_rate: 1e-3, batch: 8, decay_rounds: 30 };
        Optimizer { local, server: Server::Average, local_steps: 10, bound: 0.05, norm: 1.0 }
    }

    fn check(&self, hyper: &Hyper) -> Result<(), BadHyper> {
        if let Local::Adam { batch, .. } = hyper.optimizer.local {
            whole("batch", batch, MAX_WINDOWS)?;
        }
        match hyper.features.first() {
            None => Ok(()),
            Some(feature) => {
                let what = "is not for kt-attention/1, which takes answers alone; remove it";
                Err(BadHyper::Feature { name: feature.name.clone(), what })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::architecture::Target;

    fn shared(competencies: usize) -> SharedSets {
        let named = |of: &str, n| (0..n).map(|i| format!("{of}{i}")).collect();
        SharedSets { items: named("i", 3), competencies: named("k", competencies) }
    }

    #[test]
    fn the_layout_is_the_same_everywhere_and_begins_with_the_item_response_model() {
        let hyper = Hyper::default();
        for competencies in [0, 9, 110] {
            let shared = shared(competencies);
            let layout = KtAttention1.layout(&hyper, &shared);
            let len = u32::try_from(layout.len()).unwrap();
            assert_eq!(len, KtAttention1.parameters(&hyper, shared.sizes()));
            assert!((50_000..200_000).contains(&len), "{len}");
        }
        let weights = KtAttention1.layout(&hyper, &shared(2)).initial();
        let (wide, output) = weights[weights.len() - 17 - 64..].split_at(17);
        let item_logit = DENSE.iter().position(|name| *name == "item_logit").unwrap();
        assert!((f64::from(wide[item_logit]) - FEATURE_SCALES[item_logit]).abs() < 1e-6);
        assert_eq!(wide.iter().filter(|w| **w != 0.0).count(), 2);
        assert!(output.iter().all(|w| *w == 0.0));
    }

    #[test]
    fn counts_are_read_as_they_were_summed() {
        let shared = shared(2);
        let target = Target { epsilon: 4.0, delta: 1e-6 };
        let privacy = LearnerPrivacy::propose_for_network(target, 20, 2, &KtAttention1).unwrap();
        let hyper = Hyper { privacy: Some(privacy), ..Hyper::default() };
        let segments = KtAttention1.statistics(&hyper, shared.sizes());
        let values = [40.0, 3.0, 4.0, 5.0, 6.0, 7.0, 1.0, 2.0, 3.0, 4.0, 5.0];
        let sums = super::super::name_sums(&segments, &values).unwrap();
        assert_eq!(KtAttention1.answers(&sums), 40.0);
        let counts = KtAttention1::counts(&sums, &shared, &hyper).unwrap();
        assert_eq!(counts.skills["k1"], (6.0, 4.0));
        assert_eq!(counts.items["i0"], (8.0, 5.0));
        assert_eq!(counts.base, (10.0, 7.0));
        assert!(counts.noise.items > 0.0);
        // The learner and both halves together.
        let clip = counts.noise.clip;
        assert!((1.0 + 2.0 * clip * clip - 64.0).abs() < 1e-9);
    }

    #[test]
    fn settings_that_do_not_fit_are_named() {
        let feature = crate::architecture::Feature {
            name: "clicks".into(),
            scale: Default::default(),
            least: 0.0,
            most: 1.0,
        };
        let hyper = Hyper { features: vec![feature], ..Hyper::default() };
        let error = KtAttention1.check(&hyper).unwrap_err().to_string();
        assert!(error.contains("clicks") && error.contains("remove"), "{error}");
        let large = |batch| {
            let local = Local::Adam { learning_rate: 1e-3, batch, decay_rounds: 30 };
            let optimizer = Optimizer { local, ..KtAttention1.optimizer() };
            KtAttention1.check(&Hyper { optimizer, ..Hyper::default() })
        };
        assert_eq!(large(MAX_WINDOWS), Ok(()));
        let error = large(MAX_WINDOWS + 1).unwrap_err().to_string();
        assert!(error.contains("batch is 65") && error.contains("64"), "{error}");
        assert_eq!(KtAttention1.check(&Hyper::default()), Ok(()));
    }
}
