//! Runs one stage of a task over a snapshot of this institution's records and returns the values
//! that go into the secure sum. Owns the snapshot and what is derived from it; sends nothing, and
//! clips nothing but the moves (encoding clips to each segment's bound).

use std::sync::atomic::AtomicBool;

use collegium_shared::architecture::{Evaluation, Hyper, SharedSets, SharedStatistics, Totals};

use crate::{
    model::{
        ModelError, checked,
        features::{Counts, Design, Statistics, training_counts},
        finite,
        kt_logistic::{Dataset, predict},
    },
    records::Learner,
};

/// A stage of a task with everything that it needs. The order of the values that each returns is
/// that of `architecture::segments`.
#[derive(Clone, Copy, Debug)]
pub enum Work<'a> {
    /// The signed registry's items and competencies, in its order.
    Support {
        items: &'a [String],
        competencies: &'a [String],
    },
    Statistics {
        shared: &'a SharedSets,
    },
    Totals {
        shared: &'a SharedSets,
        statistics: &'a SharedStatistics,
    },
    Train {
        shared: &'a SharedSets,
        statistics: &'a SharedStatistics,
        totals: &'a Totals,
        hyper: &'a Hyper,
        /// Where this round's local steps start.
        start: &'a [f32],
        /// The model that is evaluated.
        candidate: &'a [f32],
    },
    Evaluate {
        shared: &'a SharedSets,
        statistics: &'a SharedStatistics,
        candidate: &'a [f32],
    },
}

/// An institution's records for the length of a task.
#[derive(Debug)]
pub struct Trainer {
    learners: Vec<Learner>,
    own: Counts,
    prepared: Option<Prepared>,
}

/// What depends on the published counts only, and so is the same in every round.
#[derive(Debug)]
struct Prepared {
    shared: SharedSets,
    statistics: SharedStatistics,
    train: Dataset,
    held_out: Design,
}

impl Trainer {
    /// `learners` are the snapshot that the whole task runs on.
    pub fn new(learners: Vec<Learner>) -> Self {
        let own = training_counts(&learners);
        Self { learners, own, prepared: None }
    }

    /// Training answers in the snapshot.
    pub fn examples(&self) -> f64 {
        self.own.base.0
    }

    /// Runs a stage. Long (seconds on 100,000 answers) and synchronous: call it where blocking is
    /// allowed. Setting `cancel` ends it with [`ModelError::Cancelled`] after the current step.
    /// The result is finite and, for the same snapshot and work, always the same.
    pub fn run_stage(
        &mut self,
        work: Work<'_>,
        cancel: &AtomicBool,
    ) -> Result<Vec<f64>, ModelError> {
        let values = match work {
            Work::Support { items, competencies } => self.support(items, competencies),
            Work::Statistics { shared } => self.statistics(shared),
            Work::Totals { shared, statistics } => {
                let train = &self.prepare(shared, statistics).train;
                let mut values = vec![train.len() as f64];
                values.extend_from_slice(train.curvature());
                values
            }
            Work::Train { shared, statistics, totals, hyper, start, candidate } => {
                let prepared = self.prepare(shared, statistics);
                let start = checked(start, prepared.held_out.parameters())?;
                let mut values = prepared.train.contribution(&start, totals, hyper, cancel)?;
                values.extend(prepared.evaluate(candidate)?.values());
                values
            }
            Work::Evaluate { shared, statistics, candidate } => {
                self.prepare(shared, statistics).evaluate(candidate)?.values()
            }
        };
        finite("the contribution", values)
    }

    fn support(&self, items: &[String], competencies: &[String]) -> Vec<f64> {
        let bit = |known: bool| f64::from(u8::from(known));
        let items = items.iter().map(|i| bit(self.own.items.contains_key(i)));
        let competencies = competencies.iter().map(|k| bit(self.own.skills.contains_key(k)));
        items.chain(competencies).collect()
    }

    fn statistics(&self, shared: &SharedSets) -> Vec<f64> {
        let SharedSets { items, competencies } = shared;
        let skill = |k: &String| self.own.skills.get(k).copied().unwrap_or_default();
        let item = |i: &String| self.own.items.get(i).copied().unwrap_or_default();
        let mut values = vec![self.own.base.0, self.own.base.1];
        values.extend(competencies.iter().map(|k| skill(k).0));
        values.extend(competencies.iter().map(|k| skill(k).1));
        values.extend(items.iter().map(|i| item(i).0));
        values.extend(items.iter().map(|i| item(i).1));
        values
    }

    /// Features and tensors, made once for each set of published counts.
    fn prepare(&mut self, shared: &SharedSets, statistics: &SharedStatistics) -> &Prepared {
        let same = |p: &Prepared| p.shared == *shared && p.statistics == *statistics;
        let prepared = match self.prepared.take().filter(same) {
            Some(prepared) => prepared,
            None => self.compute(shared, statistics),
        };
        self.prepared.insert(prepared)
    }

    fn compute(&self, shared: &SharedSets, counts: &SharedStatistics) -> Prepared {
        let statistics = Statistics::new(counts, &self.own);
        let of = |held_out: bool| {
            let learners = self.learners.iter().filter(|l| l.held_out == held_out);
            Design::new(learners, &statistics, &shared.competencies)
        };
        Prepared {
            shared: shared.clone(),
            statistics: counts.clone(),
            train: Dataset::new(&of(false), statistics.base()),
            held_out: of(true),
        }
    }
}

impl Prepared {
    fn evaluate(&self, candidate: &[f32]) -> Result<Evaluation, ModelError> {
        let weights = checked(candidate, self.held_out.parameters())?;
        let mut evaluation = Evaluation::default();
        let answers = self.held_out.rows().map(|row| row.correct);
        for (p, correct) in predict(&self.held_out, &weights).into_iter().zip(answers) {
            evaluation.observe(p, correct);
        }
        Ok(evaluation)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use collegium_shared::architecture::{Stage, Sums, layout, name_sums, segments};

    use super::*;

    /// What a coordinator knows after a task, without the wire: the sums are added in the clear.
    pub(crate) struct Run {
        pub(crate) shared: SharedSets,
        pub(crate) statistics: SharedStatistics,
        /// The evaluation of the start and of the model after each step.
        pub(crate) evaluations: Vec<Evaluation>,
        pub(crate) weights: Vec<f32>,
    }

    /// One institution's snapshot; the federation sums what their stages return.
    struct Federation(Vec<Trainer>);

    impl Federation {
        fn sum(
            &mut self,
            stage: &Stage,
            hyper: &Hyper,
            shared: &SharedSets,
            work: Work<'_>,
        ) -> Sums {
            let go = AtomicBool::new(false);
            let specs = segments(stage, &hyper.optimizer, shared.sizes());
            let mut total = vec![0.0; specs.iter().map(|s| s.len as usize).sum()];
            for trainer in &mut self.0 {
                let values = trainer.run_stage(work, &go).unwrap();
                assert_eq!(values.len(), total.len(), "{stage:?}");
                total.iter_mut().zip(values).for_each(|(sum, v)| *sum += v);
            }
            name_sums(&specs, &total).unwrap()
        }
    }

    /// A whole task in memory over everything that `threshold` institutions have.
    pub(crate) fn federate(
        institutions: Vec<Vec<Learner>>,
        hyper: &Hyper,
        rounds: u32,
        threshold: u32,
    ) -> Run {
        let registry = registry(&institutions);
        let mut all = Federation(institutions.into_iter().map(Trainer::new).collect());
        let SharedSets { items, competencies } = &registry;
        let work = Work::Support { items, competencies };
        let sums = all.sum(&Stage::Support, hyper, &registry, work);
        let (i, k) = (&sums["items"], &sums["competencies"]);
        let shared = SharedSets::from_support(items, competencies, i, k, threshold);
        let work = Work::Statistics { shared: &shared };
        let sums = all.sum(&Stage::Statistics, hyper, &shared, work);
        let statistics = SharedStatistics::from_segments(&sums, &shared).unwrap();
        let work = Work::Totals { shared: &shared, statistics: &statistics };
        let totals = all.sum(&Stage::Totals, hyper, &shared, work);
        let totals = Totals::from_segments(&totals, &shared).unwrap();

        let mut weights = layout(&shared.competencies).initial();
        let (mut candidate, mut evaluations) = (weights.clone(), Vec::new());
        let (shared, statistics, totals) = (&shared, &statistics, &totals);
        for step in 1..=rounds {
            let (start, before) = (weights.as_slice(), candidate.as_slice());
            let work = Work::Train { shared, statistics, totals, hyper, start, candidate: before };
            let sums = all.sum(&Stage::Train { step }, hyper, shared, work);
            evaluations.push(Evaluation::from_segments(&sums).unwrap());
            (weights, candidate) = advance(&weights, &candidate, &sums["move"], hyper, step);
        }
        let work = Work::Evaluate { shared, statistics, candidate: &candidate };
        let sums = all.sum(&Stage::Evaluate, hyper, shared, work);
        evaluations.push(Evaluation::from_segments(&sums).unwrap());
        let (shared, statistics) = (shared.clone(), statistics.clone());
        Run { shared, statistics, evaluations, weights: candidate }
    }

    /// The server's step: add the moves, then Nesterov's extrapolation.
    fn advance(
        weights: &[f32],
        previous: &[f32],
        moves: &[f64],
        hyper: &Hyper,
        step: u32,
    ) -> (Vec<f32>, Vec<f32>) {
        use collegium_shared::architecture::Optimizer;
        let r = f64::from(step);
        let momentum = match hyper.optimizer {
            Optimizer::CurvatureNesterov { .. } => (r - 1.0) / (r + 2.0),
            Optimizer::FedAvg { .. } => 0.0,
        };
        let moved = weights.iter().zip(moves).map(|(w, z)| f64::from(*w) + z);
        let moved: Vec<f64> = moved.collect();
        let ahead = moved.iter().zip(previous).map(|(s, p)| s + momentum * (s - f64::from(*p)));
        (narrow(ahead.collect()), narrow(moved))
    }

    fn narrow(values: Vec<f64>) -> Vec<f32> {
        let len = values.len();
        burn::tensor::TensorData::new(values, [len]).convert::<f32>().into_vec().unwrap()
    }

    fn registry(institutions: &[Vec<Learner>]) -> SharedSets {
        let responses = || institutions.iter().flatten().flat_map(|l| &l.responses);
        let items: std::collections::BTreeSet<_> = responses().map(|r| r.item.clone()).collect();
        let competencies: std::collections::BTreeSet<_> =
            responses().flat_map(|r| r.competencies.clone()).collect();
        SharedSets {
            items: items.into_iter().collect(),
            competencies: competencies.into_iter().collect(),
        }
    }

    /// Learners of a Rasch-like world with growth: item difficulty, ability by competency, and
    /// institutions of different level and catalogue. Seeded.
    pub(crate) fn simulated(seed: u64, institutions: usize, learners: usize) -> Vec<Vec<Learner>> {
        use rand::{RngExt, SeedableRng};
        let mut rng = rand_chacha::ChaCha20Rng::seed_from_u64(seed);
        let skills: Vec<_> = (0..6).map(|k| format!("skill-{k}")).collect();
        let easiness: Vec<f64> = (0..60).map(|_| rng.random_range(-2.0..2.0)).collect();
        let growth: Vec<f64> = (0..6).map(|_| rng.random_range(0.0..0.3)).collect();
        let mut world = Vec::new();
        for s in 0..institutions {
            let level = s as f64 * 0.5 - 0.5;
            let mut school = Vec::new();
            for u in 0..learners {
                let ability: Vec<f64> =
                    (0..6).map(|_| level + rng.random_range(-1.5..1.5)).collect();
                let mut practice = [0.0; 6];
                let mut responses = Vec::new();
                for _ in 0..25 {
                    // Catalogues overlap in the middle only.
                    let item: usize = rng.random_range(s * 10..s * 10 + 40);
                    let first = item % 6;
                    let second = (item * 7 + 1) % 6;
                    let of = if item % 5 == 0 && second != first {
                        vec![first, second]
                    } else {
                        vec![first]
                    };
                    let known: f64 =
                        of.iter().map(|k| ability[*k] + growth[*k] * practice[*k]).sum();
                    let z = easiness[item] + known / of.len() as f64;
                    let correct = rng.random::<f64>() < 1.0 / (1.0 + (-z).exp());
                    of.iter().for_each(|k| practice[*k] += 1.0);
                    responses.push(crate::records::Response {
                        item: format!("item-{item:02}"),
                        competencies: of.iter().map(|k| skills[*k].clone()).collect(),
                        correct,
                    });
                }
                school.push(Learner {
                    id: format!("s{s}-u{u}"),
                    held_out: u % 5 == 0,
                    attributes: Default::default(),
                    responses,
                });
            }
            world.push(school);
        }
        world
    }

    #[test]
    fn stages_return_what_they_promise() {
        let mut world = simulated(1, 1, 10);
        let registry = registry(&world);
        let mut trainer = Trainer::new(world.remove(0));
        let go = AtomicBool::new(false);
        let items = ["item-00".to_owned(), "nowhere".to_owned()];
        let competencies = ["nothing".to_owned(), "skill-0".to_owned()];
        let support = Work::Support { items: &items, competencies: &competencies };
        assert_eq!(trainer.run_stage(support, &go).unwrap(), [1.0, 0.0, 0.0, 1.0]);
        let counted = trainer.run_stage(Work::Statistics { shared: &registry }, &go).unwrap();
        // Two of ten learners are held out.
        assert_eq!(counted[0], 200.0);
        assert_eq!(trainer.examples(), 200.0);
        let items = &counted[2 + 2 * registry.competencies.len()..][..registry.items.len()];
        assert_eq!(items.iter().sum::<f64>(), 200.0);
    }

    #[test]
    fn federated_training_reaches_the_pooled_model() {
        let world = simulated(7, 3, 120);
        let run = federate(world.clone(), &Hyper::default(), 30, 1);
        let pooled = crate::evaluate::pooled(&world, &Hyper::default()).unwrap();
        let (first, last) = (run.evaluations.first().unwrap(), run.evaluations.last().unwrap());
        let (start, federated) = (first.auc().unwrap(), last.auc().unwrap());
        let central = pooled.together.auc.unwrap();
        assert!((federated - central).abs() < 0.004, "federated {federated}, pooled {central}");
        assert!(federated > start, "start {start}, federated {federated}");
        assert!(last.log_loss().unwrap() < first.log_loss().unwrap());
        let averaging = Hyper {
            optimizer: serde_json::from_str(r#"{"name":"fedavg"}"#).unwrap(),
            ..Hyper::default()
        };
        let run = federate(world, &averaging, 30, 1);
        let averaged = run.evaluations.last().unwrap();
        assert!(averaged.log_loss().unwrap() < first.log_loss().unwrap());
    }

    #[test]
    fn what_few_institutions_have_stays_out_of_the_sums() {
        let world = simulated(3, 3, 30);
        let run = federate(world, &Hyper::default(), 2, 3);
        assert_eq!(run.shared.items.len(), 20);
        assert_eq!(run.statistics.items.len(), 20);
        assert_eq!(run.weights.len(), 17 + 3 * run.shared.competencies.len());
    }

    #[test]
    fn an_institution_without_training_answers_contributes_nothing() {
        let mut world = simulated(5, 2, 20);
        world[1].iter_mut().for_each(|l| l.held_out = true);
        let run = federate(world, &Hyper::default(), 1, 1);
        assert_eq!(run.statistics.base.0, 16.0 * 25.0);
        assert_eq!(run.evaluations[0].n, 24.0 * 25.0);
    }
}
