//! The optimisers by name: how an institution moves away from the global weights, and how the sum of these
//! moves becomes the next ones. Both sides take the settings from here; the arithmetic of the server is
//! here too, coordinate by coordinate, so that whoever has the opened sums can repeat it.

use serde::{Deserialize, Serialize};

use super::{
    kt_logistic::single,
    settings::{BadHyper, within},
};
use crate::roster::MAX_INSTITUTIONS;

const MAX_LOCAL_STEPS: u32 = 1_000;
const MAX_BATCH: u32 = 8_192;
/// The public bound on the L2 norm of a move, where a task says none: five times the longest that was seen on
/// real records (docs/ROBUSTNESS.md).
const NORM: f64 = 1.0;
const MAX_NORM: f64 = 1e6;

/// How the moves of institutions become the next model. Written as a table with a `name`; whatever the
/// name, an institution's move is weighted at the institution over a total that is fixed for the task, so
/// that who is missing in a round does not change the weight of those who are there.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "OptimizerFields", into = "OptimizerFields")]
pub struct Optimizer {
    pub local: Local,
    pub server: Server,
    /// Steps that an institution makes in each round.
    pub local_steps: u32,
    /// The public bound on the absolute value of each coordinate of one institution's move.
    pub bound: f64,
    /// The public bound on the L2 norm of one institution's move.
    pub norm: f64,
}

/// What a sum of moves cannot go beyond if every institution clipped its own.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Largest {
    /// Of each coordinate's absolute value.
    pub coordinate: f64,
    /// The L2 norm of the whole.
    pub norm: f64,
}

impl Optimizer {
    /// Cuts each coordinate of one institution's move at `bound`, and then, if it is still longer, scales all of
    /// it to the L2 norm `norm`. Expects finite numbers.
    pub fn clip(&self, moves: &mut [f64]) {
        let Self { bound, norm, .. } = *self;
        moves.iter_mut().for_each(|z| *z = z.clamp(-bound, bound));
        let length = moves.iter().map(|z| z * z).sum::<f64>().sqrt();
        if length > norm {
            moves.iter_mut().for_each(|z| *z *= norm / length);
        }
    }

    /// The largest sum of the clipped and encoded moves of so many `institutions`, each of `parameters`
    /// coordinates. Encoding rounds each coordinate by half a unit at most, and the unit of the coarsest
    /// encoding of moves, for [`MAX_INSTITUTIONS`], is below 2 bound / floor((2^31 - 1) / MAX_INSTITUTIONS).
    pub fn largest_sum(&self, institutions: usize, parameters: usize) -> Largest {
        let rounding = self.bound / f64::from(i32::MAX) * (MAX_INSTITUTIONS + 1) as f64;
        let (institutions, parameters) = (institutions as f64, parameters as f64);
        Largest {
            coordinate: institutions * (self.bound + rounding),
            norm: institutions * (self.norm + rounding * parameters.sqrt()),
        }
    }
}

/// What an institution does in a round, over all of its training answers in each step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Local {
    /// Steps of 1/(h_j + lambda_j n/N), h_j bounding the curvature of parameter j at home; the move is
    /// h_j delta_j / (H_j + lambda_j), H_j being the sum of all h_j.
    Curvature,
    /// Gradient descent on the mean loss plus `proximal`/2 ||w - w_global||^2; the move is n/N delta
    /// (McMahan et al. 2017, AISTATS, algorithm 1; with `proximal` above 0: Li et al. 2020, MLSys,
    /// algorithm 2).
    Gradient { learning_rate: f64, proximal: f64 },
    /// Steps of Adam (Kingma & Ba 2015, ICLR, algorithm 1, with the usual 0.9, 0.999 and 1e-8) on drawn
    /// batches of so many answers, anew in each round; the rate falls by a cosine to 0 over so many
    /// rounds. The move is n/N delta. Of neural networks.
    Adam { learning_rate: f64, batch: u32, decay_rounds: u32 },
}

impl Local {
    /// The rate of Adam in a round, counted from 1: `learning_rate` (1 + cos(pi (r - 1) / `decay_rounds`))
    /// / 2; 0 afterwards, and of the others.
    pub fn rate(&self, round: u32) -> f64 {
        let Self::Adam { learning_rate, decay_rounds, .. } = *self else { return 0.0 };
        let part = f64::from(round.max(1) - 1) / f64::from(decay_rounds);
        learning_rate * 0.5 * (1.0 + (std::f64::consts::PI * part.min(1.0)).cos())
    }
}

/// What the coordinator does with the sum of the moves.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Server {
    /// The sum is added; training goes on from a point beyond (Nesterov 1983; Sutskever et al. 2013 for
    /// the form), by (r - 1)/(r + 2) of the step, r counting steps from 1.
    Nesterov,
    /// The sum is added.
    Average,
    /// m' = `momentum` m + sum, w' = w + `learning_rate` m' (Hsu et al. 2019, arXiv:1909.06335,
    /// section 4: FedAvgM).
    Momentum { learning_rate: f64, momentum: f64 },
    /// m' = `momentum` m + (1 - `momentum`) sum, w' = w + `learning_rate` m' / (sqrt(v') + `adaptivity`),
    /// v' by [`Second`] and `adaptivity`^2 at first (Reddi et al. 2021, ICLR, algorithm 2).
    Adaptive { second: Second, learning_rate: f64, momentum: f64, adaptivity: f64 },
}

/// How the second moment v follows the square of m' (Reddi et al. 2021, algorithm 2).
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Second {
    /// v' = v + m'^2.
    Adagrad,
    /// v' = `decay` v + (1 - `decay`) m'^2.
    Adam { decay: f64 },
    /// v' = v - (1 - `decay`) m'^2 sign(v - m'^2).
    Yogi { decay: f64 },
}

/// One parameter between two rounds.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Coordinate {
    /// Of the model that is evaluated and released.
    pub weight: f64,
    /// Where institutions start from.
    pub start: f64,
    /// The server's moments, as far as its optimiser has them.
    pub moments: [f64; 2],
}

impl Coordinate {
    /// Where institutions start from, and what is evaluated, in single precision as on the wire.
    pub fn models(all: &[Self]) -> [Vec<f32>; 2] {
        let parts: [fn(&Self) -> f64; 2] = [|at| at.start, |at| at.weight];
        parts.map(|part| all.iter().map(|at| single(part(at))).collect())
    }
}

impl Server {
    /// All coordinates before the first step.
    pub fn coordinates(&self, start: &[f32]) -> Vec<Coordinate> {
        let mut moments = [0.0; 2];
        for (which, moment) in self.moments().iter().enumerate() {
            moments[which] = self.initial(*moment);
        }
        let at = |start: &f32| f64::from(*start);
        start.iter().map(|w| Coordinate { weight: at(w), start: at(w), moments }).collect()
    }

    /// What the moments are before the first step; as many as the optimiser keeps.
    pub fn moments(&self) -> &'static [Moment] {
        match self {
            Self::Nesterov | Self::Average => &[],
            Self::Momentum { .. } => &[Moment::First],
            Self::Adaptive { .. } => &[Moment::First, Moment::Second],
        }
    }

    /// The value of a moment before the first step.
    pub fn initial(&self, moment: Moment) -> f64 {
        match (self, moment) {
            (Self::Adaptive { adaptivity, .. }, Moment::Second) => adaptivity * adaptivity,
            _ => 0.0,
        }
    }

    /// One coordinate after step `step` (from 1), of which institutions' moves add up to `moved`.
    pub fn advance(&self, step: u32, at: Coordinate, moved: f64) -> Coordinate {
        let [first, second] = at.moments;
        let reached = |weight: f64, moments| Coordinate { weight, start: weight, moments };
        match *self {
            Self::Nesterov => {
                let weight = at.start + moved;
                let beyond = f64::from(step.max(1) - 1) / (f64::from(step) + 2.0);
                let start = weight + beyond * (weight - at.weight);
                Coordinate { weight, start, moments: at.moments }
            }
            Self::Average => reached(at.start + moved, at.moments),
            Self::Momentum { learning_rate, momentum } => {
                let first = momentum * first + moved;
                reached(at.start + learning_rate * first, [first, second])
            }
            Self::Adaptive { second: rule, learning_rate, momentum, adaptivity } => {
                let first = momentum * first + (1.0 - momentum) * moved;
                let square = first * first;
                let second = match rule {
                    Second::Adagrad => second + square,
                    Second::Adam { decay } => decay * second + (1.0 - decay) * square,
                    Second::Yogi { decay } => {
                        let sign = if second > square { 1.0 } else { -1.0 };
                        second - (1.0 - decay) * square * sign
                    }
                };
                let length = second.max(0.0).sqrt() + adaptivity;
                reached(at.start + learning_rate * first / length, [first, second])
            }
        }
    }
}

/// What a server optimiser remembers of earlier rounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    First,
    Second,
}

impl Default for Optimizer {
    fn default() -> Self {
        let (local, server) = (Local::Curvature, Server::Nesterov);
        Self { local, server, local_steps: 5, bound: 1.0, norm: NORM }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Name {
    CurvatureNesterov,
    #[serde(rename = "fedavg")]
    FedAvg,
    #[serde(rename = "fedprox")]
    FedProx,
    #[serde(rename = "fedavgm")]
    FedAvgM,
    #[serde(rename = "fedadagrad")]
    FedAdagrad,
    #[serde(rename = "fedadam")]
    FedAdam,
    #[serde(rename = "fedyogi")]
    FedYogi,
    LocalAdam,
}

/// The written form of an [`Optimizer`]: flat, so that every serde format can carry it.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct OptimizerFields {
    name: Name,
    local_steps: Option<u32>,
    learning_rate: Option<f64>,
    bound: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    proximal: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    server_learning_rate: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    momentum: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    second_momentum: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    adaptivity: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    batch: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    decay_rounds: Option<u32>,
    /// Not written where it is the usual one, which agents of before do not know.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    norm: Option<f64>,
}

/// A setting that was given to an optimiser that has none of it is an error, and not passed over.
struct Given(Option<&'static str>);

impl Given {
    fn nowhere<T>(&mut self, name: &'static str, given: Option<T>) {
        if given.is_some() {
            self.0.get_or_insert(name);
        }
    }
}

impl TryFrom<OptimizerFields> for Optimizer {
    type Error = BadHyper;
    fn try_from(fields: OptimizerFields) -> Result<Self, BadHyper> {
        let OptimizerFields { name, local_steps, learning_rate, bound, .. } = fields;
        let mut spare = Given(None);
        if name == Name::CurvatureNesterov {
            spare.nowhere("learning_rate", learning_rate);
        }
        if name != Name::FedProx {
            spare.nowhere("proximal", fields.proximal);
        }
        if !matches!(name, Name::FedAvgM | Name::FedAdagrad | Name::FedAdam | Name::FedYogi) {
            spare.nowhere("server_learning_rate", fields.server_learning_rate);
            spare.nowhere("momentum", fields.momentum);
        }
        if !matches!(name, Name::FedAdam | Name::FedYogi) {
            spare.nowhere("second_momentum", fields.second_momentum);
        }
        if !matches!(name, Name::FedAdagrad | Name::FedAdam | Name::FedYogi) {
            spare.nowhere("adaptivity", fields.adaptivity);
        }
        if name != Name::LocalAdam {
            spare.nowhere("batch", fields.batch);
            spare.nowhere("decay_rounds", fields.decay_rounds);
        }
        if let Some(setting) = spare.0 {
            return Err(BadHyper::Misplaced { setting, optimizer: name.text() });
        }
        let rate =
            |name, given: Option<f64>, default| within(name, given.unwrap_or(default), 100.0);
        let local = match name {
            Name::CurvatureNesterov => Local::Curvature,
            Name::LocalAdam => Local::Adam {
                learning_rate: rate("learning_rate", learning_rate, 2e-3)?,
                batch: whole("batch", fields.batch.unwrap_or(256), MAX_BATCH)?,
                decay_rounds: whole("decay_rounds", fields.decay_rounds.unwrap_or(40), 10_000)?,
            },
            _ => Local::Gradient {
                learning_rate: rate("learning_rate", learning_rate, 0.05)?,
                proximal: match name {
                    Name::FedProx => rate("proximal", fields.proximal, 0.01)?,
                    _ => 0.0,
                },
            },
        };
        let below_one =
            |name, given: Option<f64>, default| fraction(name, given.unwrap_or(default));
        let adaptive = |second, momentum| {
            Ok::<_, BadHyper>(Server::Adaptive {
                second,
                learning_rate: rate("server_learning_rate", fields.server_learning_rate, 0.1)?,
                momentum: below_one("momentum", fields.momentum, momentum)?,
                adaptivity: within("adaptivity", fields.adaptivity.unwrap_or(1e-3), 1.0)?,
            })
        };
        let decay = || below_one("second_momentum", fields.second_momentum, 0.99);
        let server = match name {
            Name::CurvatureNesterov => Server::Nesterov,
            Name::FedAvg | Name::FedProx | Name::LocalAdam => Server::Average,
            Name::FedAvgM => Server::Momentum {
                learning_rate: rate("server_learning_rate", fields.server_learning_rate, 1.0)?,
                momentum: below_one("momentum", fields.momentum, 0.9)?,
            },
            Name::FedAdagrad => adaptive(Second::Adagrad, 0.0)?,
            Name::FedAdam => adaptive(Second::Adam { decay: decay()? }, 0.9)?,
            Name::FedYogi => adaptive(Second::Yogi { decay: decay()? }, 0.9)?,
        };
        let (default, usual) = match name {
            Name::CurvatureNesterov => (5, 1.0),
            Name::LocalAdam => (40, 0.05),
            _ => (30, 1.0),
        };
        let local_steps = match local_steps.unwrap_or(default) {
            given @ 1..=MAX_LOCAL_STEPS => given,
            given => return Err(BadHyper::LocalSteps { given, most: MAX_LOCAL_STEPS }),
        };
        let bound = within("bound", bound.unwrap_or(usual), 1_000.0)?;
        let norm = within("norm", fields.norm.unwrap_or(NORM), MAX_NORM)?;
        Ok(Self { local, server, local_steps, bound, norm })
    }
}

/// A number from 0 on and below 1.
fn fraction(name: &'static str, given: f64) -> Result<f64, BadHyper> {
    if (0.0..1.0).contains(&given) { Ok(given) } else { Err(BadHyper::Fraction { name, given }) }
}

/// A number from 1 on.
pub(super) fn whole(name: &'static str, given: u32, most: u32) -> Result<u32, BadHyper> {
    match given {
        1.. if given <= most => Ok(given),
        _ => Err(BadHyper::OutOfRange { name, given: given.into(), most: most.into() }),
    }
}

impl Name {
    fn text(self) -> &'static str {
        match self {
            Self::CurvatureNesterov => "curvature-nesterov",
            Self::FedAvg => "fedavg",
            Self::FedProx => "fedprox",
            Self::FedAvgM => "fedavgm",
            Self::FedAdagrad => "fedadagrad",
            Self::FedAdam => "fedadam",
            Self::FedYogi => "fedyogi",
            Self::LocalAdam => "local-adam",
        }
    }
}

impl From<Optimizer> for OptimizerFields {
    fn from(optimizer: Optimizer) -> Self {
        let Optimizer { local, server, local_steps, bound, norm } = optimizer;
        let (learning_rate, proximal) = match local {
            Local::Curvature => (None, None),
            Local::Gradient { learning_rate, proximal } => {
                (Some(learning_rate), (proximal > 0.0).then_some(proximal))
            }
            Local::Adam { learning_rate, .. } => (Some(learning_rate), None),
        };
        let (batch, decay_rounds) = match local {
            Local::Adam { batch, decay_rounds, .. } => (Some(batch), Some(decay_rounds)),
            _ => (None, None),
        };
        let name = match server {
            _ if batch.is_some() => Name::LocalAdam,
            Server::Nesterov => Name::CurvatureNesterov,
            Server::Average if proximal.is_some() => Name::FedProx,
            Server::Average => Name::FedAvg,
            Server::Momentum { .. } => Name::FedAvgM,
            Server::Adaptive { second: Second::Adagrad, .. } => Name::FedAdagrad,
            Server::Adaptive { second: Second::Adam { .. }, .. } => Name::FedAdam,
            Server::Adaptive { second: Second::Yogi { .. }, .. } => Name::FedYogi,
        };
        let (server_learning_rate, momentum) = match server {
            Server::Nesterov | Server::Average => (None, None),
            Server::Momentum { learning_rate, momentum }
            | Server::Adaptive { learning_rate, momentum, .. } => {
                (Some(learning_rate), Some(momentum))
            }
        };
        let (second_momentum, adaptivity) = match server {
            Server::Adaptive { second, adaptivity, .. } => match second {
                Second::Adagrad => (None, Some(adaptivity)),
                Second::Adam { decay } | Second::Yogi { decay } => (Some(decay), Some(adaptivity)),
            },
            _ => (None, None),
        };
        Self {
            name,
            local_steps: Some(local_steps),
            learning_rate,
            bound: Some(bound),
            proximal,
            server_learning_rate,
            momentum,
            second_momentum,
            adaptivity,
            batch,
            decay_rounds,
            norm: (norm.to_bits() != NORM.to_bits()).then_some(norm),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> Optimizer {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn every_name_is_read_and_written_again() {
        for name in [
            "curvature-nesterov",
            "fedavg",
            "fedprox",
            "fedavgm",
            "fedadagrad",
            "fedadam",
            "fedyogi",
            "local-adam",
        ] {
            let optimizer = read(&format!(r#"{{"name":"{name}"}}"#));
            let written = serde_json::to_value(&optimizer).unwrap();
            assert_eq!(written["name"], name);
            assert_eq!(serde_json::from_value::<Optimizer>(written).unwrap(), optimizer);
        }
        assert_eq!(read(r#"{"name":"curvature-nesterov"}"#), Optimizer::default());
        // What agents of the first builds read has not changed.
        let written = serde_json::to_string(&Optimizer::default()).unwrap();
        let before =
            r#"{"name":"curvature-nesterov","local_steps":5,"learning_rate":null,"bound":1.0}"#;
        assert_eq!(written, before);
    }

    #[test]
    fn settings_of_another_optimiser_are_named() {
        for (json, named) in [
            (r#"{"name":"fedavg","momentum":0.5}"#, "momentum"),
            (r#"{"name":"fedavg","proximal":0.5}"#, "proximal"),
            (r#"{"name":"fedavgm","adaptivity":0.5}"#, "adaptivity"),
            (r#"{"name":"fedadagrad","second_momentum":0.5}"#, "second_momentum"),
            (r#"{"name":"curvature-nesterov","learning_rate":1}"#, "learning_rate"),
            (r#"{"name":"fedadam","momentum":1.0}"#, "momentum"),
            (r#"{"name":"fedyogi","second_momentum":-0.1}"#, "second_momentum"),
            (r#"{"name":"fedadam","adaptivity":0}"#, "adaptivity"),
            (r#"{"name":"fedprox","proximal":0}"#, "proximal"),
            (r#"{"name":"fedavg","local_steps":0}"#, "local_steps"),
            (r#"{"name":"fedavg","norm":0}"#, "norm"),
        ] {
            let error = serde_json::from_str::<Optimizer>(json).unwrap_err().to_string();
            assert!(error.contains(named), "{json}: {error}");
        }
    }

    #[test]
    fn moves_are_cut_at_both_bounds_and_so_is_what_they_add_up_to() {
        let optimizer = read(r#"{"name":"fedavg","bound":4,"norm":5}"#);
        assert_eq!(serde_json::to_value(&optimizer).unwrap()["norm"], 5.0);
        let clipped = |moves: [f64; 3]| {
            let mut moves = moves;
            optimizer.clip(&mut moves);
            moves
        };
        assert_eq!(clipped([3.0, -4.0, 0.0]), [3.0, -4.0, 0.0], "5 is not above 5");
        assert_eq!(clipped([9.0, -3.0, 0.0]), [4.0, -3.0, 0.0], "the coordinate first");
        // 4, 4, 2 has the norm 6.
        let scaled = clipped([7.0, 4.0, 2.0]);
        assert!(
            scaled
                .iter()
                .zip([4.0, 4.0, 2.0])
                .all(|(z, whole)| (z - whole * 5.0 / 6.0).abs() < 1e-12)
        );
        // Moves at their bounds, as they are encoded for the largest federation, are not beyond it.
        let n = u32::try_from(MAX_INSTITUTIONS).unwrap();
        let encoding = crate::params::Encoding::new([("move", 2, 4.0)], n).unwrap();
        let words = encoding.encode(&[3.0, 4.0 - 1e-7]).unwrap().words;
        let sum: Vec<u32> = words.iter().map(|word| word.wrapping_mul(n)).collect();
        let sum = &encoding.decode_sum(&sum).unwrap()["move"];
        let largest = optimizer.largest_sum(MAX_INSTITUTIONS, 2);
        assert!(sum.iter().all(|z| z.abs() <= largest.coordinate), "{sum:?}");
        assert!(sum[0].hypot(sum[1]) <= largest.norm && largest.norm < 256.0 * 5.000_01);
        assert!(largest.coordinate < 256.0 * 4.000_01, "{largest:?}");
    }

    fn at(weight: f64, start: f64, moments: [f64; 2]) -> Coordinate {
        Coordinate { weight, start, moments }
    }

    /// Steps of halves and quarters: every figure is exact.
    #[test]
    fn steps_are_those_computed_by_hand() {
        let nesterov = Server::Nesterov.advance(4, at(1.5, 2.0, [0.0; 2]), 0.5);
        // 2 + 0.5; beyond it by (4 - 1)/(4 + 2) of 2.5 - 1.5.
        assert_eq!(nesterov, at(2.5, 3.0, [0.0; 2]));
        let first = Server::Nesterov.advance(1, at(1.0, 1.0, [0.0; 2]), -0.25);
        assert_eq!(first, at(0.75, 0.75, [0.0; 2]), "the first step has no momentum");
        let average = Server::Average.advance(4, at(2.0, 2.0, [0.0; 2]), 0.5);
        assert_eq!(average, at(2.5, 2.5, [0.0; 2]));
        let momentum = Server::Momentum { learning_rate: 0.5, momentum: 0.75 };
        // m' = 0.75 x 2 + 0.5 = 2; w' = 1 + 0.5 x 2.
        assert_eq!(momentum.advance(9, at(1.0, 1.0, [2.0, 0.0]), 0.5), at(2.0, 2.0, [2.0, 0.0]));
        let adaptive = |second, momentum| Server::Adaptive {
            second,
            learning_rate: 0.5,
            momentum,
            adaptivity: 0.5,
        };
        // m' = 2, v' = 5 + 4 = 9; w' = 1 + 0.5 x 2 / (3 + 0.5).
        let adagrad = adaptive(Second::Adagrad, 0.0).advance(2, at(1.0, 1.0, [7.0, 5.0]), 2.0);
        assert_eq!(adagrad, at(1.0 + 1.0 / 3.5, 1.0 + 1.0 / 3.5, [2.0, 9.0]));
        // m' = 0.5 x 1 + 0.5 x 3 = 2, v' = 0.75 x 4 + 0.25 x 4 = 4; w' = 1 + 0.5 x 2 / 2.5.
        let adam = adaptive(Second::Adam { decay: 0.75 }, 0.5);
        assert_eq!(adam.advance(2, at(1.0, 1.0, [1.0, 4.0]), 3.0), at(1.4, 1.4, [2.0, 4.0]));
        // v = 10 is above m'^2 = 4: v' = 10 - 0.25 x 4 = 9.
        let yogi = adaptive(Second::Yogi { decay: 0.75 }, 0.5);
        let above = yogi.advance(2, at(1.0, 1.0, [1.0, 10.0]), 3.0);
        assert_eq!(above, at(1.0 + 1.0 / 3.5, 1.0 + 1.0 / 3.5, [2.0, 9.0]));
        // v = 3 is below it: v' = 3 + 1 = 4.
        assert_eq!(yogi.advance(2, at(1.0, 1.0, [1.0, 3.0]), 3.0), at(1.4, 1.4, [2.0, 4.0]));
    }

    #[test]
    fn moments_start_where_the_paper_has_them() {
        let adam = read(r#"{"name":"fedadam","adaptivity":0.25}"#).server;
        let initial: Vec<f64> = adam.moments().iter().map(|of| adam.initial(*of)).collect();
        assert_eq!(initial, [0.0, 0.0625]);
        let momentum = read(r#"{"name":"fedavgm"}"#).server;
        assert_eq!(
            (momentum.moments(), momentum.initial(Moment::First)),
            (&[Moment::First][..], 0.0)
        );
        assert!(Server::Nesterov.moments().is_empty());
    }
}
