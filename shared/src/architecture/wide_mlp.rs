//! `wide-mlp/1`: will this learner complete this activity? A wide and deep network (Cheng et al. 2016,
//! DLRS) whose hidden layers are learned together while the wide part, the output and the bias of each
//! activity stay at each institution (FedRep: Collins et al. 2021, ICML). Its inputs, layout and the sums
//! that scale its inputs.

use serde::{Deserialize, Deserializer, Serialize, de};

use super::{
    Architecture, BadHyper, BadSums, Hyper, Layout, Local, Neural, Optimizer, SegmentSpec, Server,
    SharedSets, Sizes, Sums, TensorSpec,
    kt_logistic::{COUNT_BOUND, PRIVATE_BOUND},
    layout::uniform,
    sums::segment,
};

/// The identifier of the network.
pub const WIDE_MLP_1: &str = "wide-mlp/1";

/// Units of the hidden layers.
pub const HIDDEN: [usize; 2] = [64, 32];
/// Where the bins of a feature end, in standard deviations: eight bins of equal probability under a normal
/// distribution, the outer ones cut at 3.
pub const EDGES: [f64; 9] = [
    -3.0,
    -1.150_349_380_376_008,
    -0.674_489_750_196_082,
    -0.318_639_363_964_375,
    0.0,
    0.318_639_363_964_375,
    0.674_489_750_196_082,
    1.150_349_380_376_008,
    3.0,
];
/// Inputs for each feature: its z-score, its place in each bin, and whether it is missing.
pub const PER_FEATURE: usize = EDGES.len() + 1;
/// A z-score counts at most so much.
pub const MOST_DEVIATIONS: f64 = 5.0;
/// Standard deviations below this, of the feature's public range, are taken for this.
const LEAST_DEVIATION: f64 = 1e-4;
const MAX_FEATURES: usize = 256;

/// How a number becomes an input.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scale {
    #[default]
    Linear,
    /// ln(1 + x), of what is above 0.
    Log,
}

/// A number that institutions know before an answer, and its public range.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Feature {
    /// As institutions' mappings name it.
    pub name: String,
    #[serde(default)]
    pub scale: Scale,
    /// What is outside, after scaling, is cut off.
    #[serde(deserialize_with = "finite")]
    pub least: f64,
    #[serde(deserialize_with = "finite")]
    pub most: f64,
}

fn finite<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    let value = f64::deserialize(deserializer)?;
    if value.is_finite() { Ok(value) } else { Err(de::Error::custom("a range must be finite")) }
}

impl Feature {
    /// Where a number lies in the public range, in [0, 1].
    pub fn place(&self, value: f64) -> f64 {
        let scaled = match self.scale {
            Scale::Linear => value,
            Scale::Log => value.max(0.0).ln_1p(),
        };
        (scaled.clamp(self.least, self.most) - self.least) / (self.most - self.least)
    }
}

/// The mean and standard deviation of each feature's place, over all training answers that have it.
#[derive(Clone, Debug, PartialEq)]
pub struct Moments {
    pub answers: f64,
    pub features: Vec<(f64, f64)>,
}

impl Moments {
    /// Reads the opened sums of the stage of statistics, exact or with noise. A feature that nobody has
    /// lies around 1/2.
    pub fn from_sums(sums: &Sums, features: usize) -> Result<Self, BadSums> {
        let answers = segment(sums, "examples", 1)?[0].max(0.0);
        let count = segment(sums, "feature_n", features)?;
        let first = segment(sums, "feature_sum", features)?;
        let second = segment(sums, "feature_squares", features)?;
        let all = count.iter().zip(first).zip(second);
        let moments = all.map(|((n, sum), squares)| {
            if *n < 1.0 {
                return (0.5, 1.0);
            }
            let mean = (sum / n).clamp(0.0, 1.0);
            // Of numbers in [0, 1] no variance is above mean (1 - mean).
            let variance = (squares / n - mean * mean).min(mean * (1.0 - mean));
            (mean, variance.max(0.0).sqrt().max(LEAST_DEVIATION))
        });
        Ok(Self { answers, features: moments.collect() })
    }
}

/// The public facts of the network.
#[derive(Clone, Copy, Debug)]
pub struct WideMlp1;

/// Inputs over these features and so many shared competencies.
pub fn inputs(features: usize, competencies: usize) -> usize {
    features * PER_FEATURE + competencies
}

impl Neural for WideMlp1 {
    fn id(&self) -> &'static str {
        WIDE_MLP_1
    }

    fn statistics(&self, hyper: &Hyper, _: Sizes) -> Vec<SegmentSpec> {
        let bound = if hyper.privacy.is_some() { PRIVATE_BOUND } else { COUNT_BOUND };
        let features = u32::try_from(hyper.features.len()).unwrap_or(u32::MAX);
        let segment = |name: &str, len| SegmentSpec { name: name.to_owned(), len, bound };
        vec![
            segment("examples", 1),
            segment("feature_n", features),
            segment("feature_sum", features),
            segment("feature_squares", features),
        ]
    }

    fn answers(&self, statistics: &Sums) -> f64 {
        statistics.get("examples").and_then(|of| of.first()).map_or(0.0, |n| n.max(0.0))
    }

    /// Moments need little: each is a mean over all learners.
    fn statistics_share(&self) -> f64 {
        0.1
    }

    fn parameters(&self, hyper: &Hyper, Sizes { competencies, .. }: Sizes) -> u32 {
        let inputs = inputs(hyper.features.len(), competencies as usize);
        let [first, second] = HIDDEN;
        u32::try_from((inputs + 1) * first + (first + 1) * second).unwrap_or(u32::MAX)
    }

    /// Weights are uniform in +- sqrt(6 / inputs of the layer) (He et al. 2015, ICCV), biases 0. A matrix
    /// has one row for each input.
    fn layout(&self, hyper: &Hyper, shared: &SharedSets) -> Layout {
        let mut inputs = inputs(hyper.features.len(), shared.competencies.len());
        let mut tensors = Vec::new();
        for (layer, units) in (1..).zip(HIDDEN) {
            let weights = format!("weights_{layer}");
            let within = (6.0 / inputs as f64).sqrt();
            tensors.push(TensorSpec::drawn(WIDE_MLP_1, &weights, inputs * units, within));
            tensors.push(TensorSpec::zeros(&format!("biases_{layer}"), units));
            inputs = units;
        }
        Layout {
            architecture: Architecture::Neural(&Self),
            competencies: shared.competencies.clone(),
            tensors,
        }
    }

    fn optimizer(&self) -> Optimizer {
        let local = Local::Adam { learning_rate: 2e-3, batch: 256, decay_rounds: 40 };
        Optimizer { local, server: Server::Average, local_steps: 40, bound: 0.05, norm: 1.0 }
    }

    fn check(&self, hyper: &Hyper) -> Result<(), BadHyper> {
        let mut names: Vec<&str> = hyper.features.iter().map(|f| f.name.as_str()).collect();
        names.sort_unstable();
        if let Some(twice) = names.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(BadHyper::Feature { name: twice[0].to_owned(), what: "comes twice" });
        }
        if hyper.features.is_empty() || hyper.features.len() > MAX_FEATURES {
            let (given, most) = (hyper.features.len(), MAX_FEATURES);
            return Err(BadHyper::Features { given, most });
        }
        match hyper.features.iter().find(|f| f.least >= f.most || f.name.is_empty()) {
            Some(bad) => {
                let what = "needs a name, and a range from `least` up to `most`";
                Err(BadHyper::Feature { name: bad.name.clone(), what })
            }
            None => Ok(()),
        }
    }
}

/// The output weights that each institution starts from, in every round and when it fits its own: the
/// same everywhere, so that hidden units mean the same. Uniform with the variance 1 / units.
pub fn first_output() -> Vec<f32> {
    let units = HIDDEN[1];
    uniform(WIDE_MLP_1, "output", units, (3.0 / units as f64).sqrt())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(len: usize) -> u32 {
        u32::try_from(len).unwrap()
    }

    fn hyper() -> Hyper {
        let feature =
            |name: &str, scale, most| Feature { name: name.into(), scale, least: 0.0, most };
        let features =
            vec![feature("clicks", Scale::Log, 12.0), feature("weight", Scale::Linear, 100.0)];
        Hyper { features, optimizer: WideMlp1.optimizer(), ..Hyper::default() }
    }

    #[test]
    fn the_layout_is_the_same_everywhere() {
        let shared =
            SharedSets { items: Vec::new(), competencies: vec!["TMA".into(), "CMA".into()] };
        let layout = WideMlp1.layout(&hyper(), &shared);
        let inputs = 2 * 10 + 2;
        assert_eq!(layout.len(), (inputs + 1) * 64 + 65 * 32);
        assert_eq!(count(layout.len()), WideMlp1.parameters(&hyper(), shared.sizes()));
        let weights = layout.initial();
        let within = (6.0_f64 / 22.0).sqrt();
        assert!(weights.iter().all(|w| f64::from(w.abs()) <= within));
        let variance =
            weights[..22 * 64].iter().map(|w| f64::from(*w).powi(2)).sum::<f64>() / (22.0 * 64.0);
        assert!((variance * 22.0 / 2.0 - 1.0).abs() < 0.1, "{variance}");
        // Every machine draws the same: written down once.
        assert_eq!(weights[..3], [-0.480_312_44, 0.465_172_83, -0.383_711_8]);
        assert_eq!(first_output().len(), 32);
    }

    #[test]
    fn features_lie_in_their_range_whatever_they_are() {
        let [clicks, weight] = [&hyper().features[0], &hyper().features[1]].map(Clone::clone);
        assert_eq!((clicks.place(0.0), clicks.place(-5.0)), (0.0, 0.0));
        assert!((clicks.place(f64::from(f32::MAX)) - 1.0).abs() < 1e-12);
        assert!((clicks.place(1.0_f64.exp() - 1.0) - 1.0 / 12.0).abs() < 1e-12);
        assert_eq!((weight.place(25.0), weight.place(1e30), weight.place(-1e30)), (0.25, 1.0, 0.0));
    }

    #[test]
    fn moments_of_what_nobody_has_are_harmless() {
        let sums = |n: f64, sum, squares| {
            Sums::from([
                ("examples".to_owned(), vec![4.0]),
                ("feature_n".to_owned(), vec![n]),
                ("feature_sum".to_owned(), vec![sum]),
                ("feature_squares".to_owned(), vec![squares]),
            ])
        };
        let of =
            |n, sum, squares| Moments::from_sums(&sums(n, sum, squares), 1).unwrap().features[0];
        assert_eq!(of(0.0, 0.0, 0.0), (0.5, 1.0));
        assert_eq!(of(4.0, 2.0, 2.0), (0.5, 0.5));
        assert_eq!(of(4.0, 4.0, 4.0), (1.0, LEAST_DEVIATION));
        // With noise a sum of squares may be below what the mean allows.
        assert_eq!(of(4.0, 2.0, 0.1).1, LEAST_DEVIATION);
        assert!(Moments::from_sums(&sums(f64::NAN, 0.0, 0.0), 1).is_err());
    }

    #[test]
    fn settings_that_do_not_fit_are_named() {
        let check = |change: &dyn Fn(&mut Hyper)| {
            let mut hyper = hyper();
            change(&mut hyper);
            WideMlp1.check(&hyper).map_err(|error| error.to_string())
        };
        assert_eq!(check(&|_| {}), Ok(()));
        assert!(check(&|h| h.features.clear()).unwrap_err().contains("features"));
        assert!(check(&|h| h.features[1].most = 0.0).unwrap_err().contains("weight"));
        assert!(check(&|h| h.features[1].name = "clicks".into()).unwrap_err().contains("twice"));
    }
}
