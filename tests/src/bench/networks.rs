//! Whole tasks of neural networks in memory, as `federation` has them of the logistic model: the agents' own
//! statistics, training, clipping and noise, the coordinator's own steps, and the product's encodings.

#[cfg(test)]
mod another;

use std::{collections::BTreeSet, sync::Arc};

use collegium_agent::{
    model::{
        Effort,
        neural::{self, Keeps, Loaded, Network, Predictions, Task},
    },
    privacy::{BoundedSum, RandomBits},
    records::Learner,
    trainer::{NeuralWork, Trainer},
};
use collegium_coordinator::task::TaskSpec;
use collegium_shared::{
    architecture::{
        Architecture, Coordinate, Hyper, LearnerPrivacy, SharedSets, Stage, Sums, Target, descend,
    },
    protocol::Cohort,
};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha12Rng;

use super::federation::{add, registry};

/// All institutions with the task that they train.
pub(crate) struct Networks {
    records: Vec<Vec<Learner>>,
    trainers: Vec<Trainer>,
    registry: SharedSets,
    architecture: Architecture,
    network: &'static dyn Network,
    hyper: Hyper,
    rounds: u32,
    effort: Effort,
}

/// What came of a task.
pub(crate) struct TrainedNetwork {
    hyper: Hyper,
    shared: SharedSets,
    statistics: Sums,
    weights: Vec<f32>,
}

impl Networks {
    pub(crate) fn new(records: Vec<Vec<Learner>>, mut spec: TaskSpec) -> anyhow::Result<Self> {
        spec.check()?;
        spec.fill_in();
        let TaskSpec { architecture, hyper, rounds, .. } = spec;
        let network = neural::of(architecture);
        let network = network.ok_or_else(|| anyhow::anyhow!("{architecture} is no network"))?;
        Ok(Self::over(records, network, hyper, rounds))
    }

    fn over(
        records: Vec<Vec<Learner>>,
        network: &'static dyn Network,
        hyper: Hyper,
        rounds: u32,
    ) -> Self {
        Self {
            registry: registry(&records),
            trainers: records.iter().cloned().map(Trainer::new).collect(),
            records,
            architecture: Architecture::Neural(network.facts()),
            network,
            hyper,
            rounds,
            effort: Effort::new(Arc::default(), 100),
        }
    }

    fn n(&self) -> anyhow::Result<u32> {
        Ok(u32::try_from(self.trainers.len())?)
    }

    /// What enough institutions have answers to.
    fn shared(&self) -> SharedSets {
        let least = Cohort::proposed(self.records.len()).least();
        let answers = |own: &[Learner]| {
            own.iter().filter(|l| !l.held_out).flat_map(|l| l.responses.clone()).collect::<Vec<_>>()
        };
        let owned = self.records.iter().map(|own| {
            let all = answers(own);
            let items: BTreeSet<_> = all.iter().map(|answer| answer.item.clone()).collect();
            (items, all.into_iter().flat_map(|answer| answer.competencies).collect())
        });
        let (items, competencies): (Vec<_>, Vec<BTreeSet<_>>) = owned.unzip();
        let enough = |owned: &[BTreeSet<String>], names: &[String]| {
            let by = |name: &&String| owned.iter().filter(|own| own.contains(*name)).count();
            names.iter().filter(|name| by(name) >= least).cloned().collect()
        };
        SharedSets {
            items: enough(&items, &self.registry.items),
            competencies: enough(&competencies, &self.registry.competencies),
        }
    }

    fn exact(
        &mut self,
        stage: &Stage,
        shared: &SharedSets,
        work: NeuralWork<'_>,
        present: &mut dyn FnMut(&Stage) -> bool,
    ) -> anyhow::Result<Sums> {
        let encoding = self.architecture.encoding(stage, &self.hyper, shared.sizes(), self.n()?)?;
        let task = Task { hyper: &self.hyper, shared };
        let mut total = vec![0_u32; encoding.dimension()];
        for trainer in self.trainers.iter_mut().filter(|_| present(stage)) {
            let values = trainer.run_network(self.network, &task, work, &self.effort)?;
            add(&mut total, &encoding.encode(&values)?.words);
        }
        let mut sums = encoding.decode_sum(&total)?;
        self.architecture.complete_sums(&mut sums, stage, &self.hyper, shared.sizes());
        Ok(sums)
    }

    /// A task without noise, each institution taking part in each round with probability `part`.
    pub(crate) fn plain(&mut self, part: f64, seed: u64) -> anyhow::Result<TrainedNetwork> {
        self.train(part, seed, &mut |_, _, _| Ok(()))
    }

    /// The same with everybody; after every so many rounds `follow` sees what held-out learners are predicted.
    pub(crate) fn followed(
        &mut self,
        every: u32,
        follow: &mut dyn FnMut(u32, &[Predictions]),
    ) -> anyhow::Result<TrainedNetwork> {
        self.train(1.0, 0, &mut |networks, round, trained| {
            if round % every == 0 {
                follow(round, &networks.predicted(trained)?);
            }
            Ok(())
        })
    }

    fn train(
        &mut self,
        part: f64,
        seed: u64,
        follow: &mut dyn FnMut(&Self, u32, &TrainedNetwork) -> anyhow::Result<()>,
    ) -> anyhow::Result<TrainedNetwork> {
        let mut random = ChaCha12Rng::seed_from_u64(seed);
        let shared = self.shared();
        let all = &mut |_: &Stage| true;
        let statistics = self.exact(&Stage::Statistics, &shared, NeuralWork::Statistics, all)?;
        let first = self.network.facts().layout(&self.hyper, &shared).initial();
        let server = self.hyper.optimizer.server;
        let mut at = server.coordinates(&first);
        let mut trained =
            TrainedNetwork { hyper: self.hyper.clone(), shared, statistics, weights: first };
        for step in 1..=self.rounds {
            let (shared, statistics) = (&trained.shared, &trained.statistics);
            let [start, candidate] = Coordinate::models(&at);
            let (start, candidate) = (&*start, &*candidate);
            let work = NeuralWork::Train { statistics, round: step, start, candidate };
            let here = &mut |_: &Stage| part >= 1.0 || random.random_bool(part);
            let sums = self.exact(&Stage::Train { step }, shared, work, here)?;
            let moves = at.iter_mut().zip(&sums["move"]);
            moves.for_each(|(at, moved)| *at = server.advance(step, *at, *moved));
            [_, trained.weights] = Coordinate::models(&at);
            follow(self, step, &trained)?;
        }
        Ok(trained)
    }

    fn noisy(
        &mut self,
        stage: &Stage,
        privacy: &LearnerPrivacy,
        work: NeuralWork<'_>,
    ) -> anyhow::Result<Sums> {
        let hyper = Hyper { privacy: Some(*privacy), ..self.hyper.clone() };
        let sizes = self.registry.sizes();
        let encoding = self.architecture.encoding(stage, &hyper, sizes, self.n()?)?;
        let placed = privacy.place(stage, &encoding)?;
        let task = Task { hyper: &hyper, shared: &self.registry };
        let mut total = vec![0_u32; encoding.dimension()];
        let mut bits = RandomBits::system();
        for trainer in &mut self.trainers {
            let sums = placed.iter().map(|placed| BoundedSum::new(*placed));
            let mut sums = sums.collect::<Result<Vec<_>, _>>()?;
            trainer.run_private_network(self.network, &task, work, &mut sums, &self.effort)?;
            let mut words = Vec::with_capacity(total.len());
            for sum in sums {
                words.extend(sum.noised(&mut bits)?);
            }
            add(&mut total, &words);
        }
        let mut sums = encoding.decode_sum(&total)?;
        self.architecture.complete_sums(&mut sums, stage, &hyper, sizes);
        Ok(sums)
    }

    /// Noise that keeps a task of so many steps to the target.
    pub(crate) fn propose(&self, target: Target, steps: u32) -> anyhow::Result<LearnerPrivacy> {
        let parties = super::parties(self.records.len());
        Ok(LearnerPrivacy::propose_for_network(target, steps, parties, self.network.facts())?)
    }

    /// A private task of so many steps.
    pub(crate) fn private(
        &mut self,
        privacy: LearnerPrivacy,
        steps: u32,
    ) -> anyhow::Result<TrainedNetwork> {
        let statistics = &self.noisy(&Stage::Statistics, &privacy, NeuralWork::Statistics)?;
        let facts = self.network.facts();
        let learners = privacy.at_least(facts.answers(statistics), self.n()?);
        let mut weights = facts.layout(&self.hyper, &self.registry).initial();
        for step in 1..=steps {
            let (start, candidate) = (&*weights, &*weights);
            let work = NeuralWork::Train { statistics, round: step, start, candidate };
            let sums = self.noisy(&Stage::Train { step }, &privacy, work)?;
            descend(&mut weights, &sums["gradient"], privacy.learning_rate / learners);
        }
        let hyper = Hyper { privacy: Some(privacy), ..self.hyper.clone() };
        let (shared, statistics) = (self.registry.clone(), statistics.clone());
        Ok(TrainedNetwork { hyper, shared, statistics, weights })
    }

    /// How an institution's held-out learners are predicted by shared weights and what it keeps to itself.
    pub(crate) fn predicted(&self, trained: &TrainedNetwork) -> anyhow::Result<Vec<Predictions>> {
        let of = |own: &Vec<Learner>| {
            let task = Task { hyper: &trained.hyper, shared: &trained.shared };
            let loaded = self.load(own, &task, &trained.statistics)?;
            Ok(loaded.held_out(&trained.weights, Keeps::Fitted, &self.effort)?)
        };
        self.records.iter().map(of).collect()
    }

    /// The same of networks that each institution trains from its own records only.
    pub(crate) fn alone(&self) -> anyhow::Result<Vec<Predictions>> {
        self.records.iter().map(|own| self.by_itself(own, 1)).collect()
    }

    /// The same of one network trained where all records are in one place.
    pub(crate) fn pooled(&self) -> anyhow::Result<Vec<Predictions>> {
        // As many steps as all institutions make together.
        let times = self.n()?;
        let mut predicted = self.by_itself(&self.records.concat(), times)?.into_iter();
        let held_out = |own: &Vec<Learner>| {
            own.iter().filter(|l| l.held_out && !l.responses.is_empty()).count()
        };
        Ok(self
            .records
            .iter()
            .map(|own| predicted.by_ref().take(held_out(own)).collect())
            .collect())
    }

    fn by_itself(&self, own: &[Learner], times: u32) -> anyhow::Result<Predictions> {
        let shared = &self.registry;
        let task = Task { hyper: &self.hyper, shared };
        let values = self.network.statistics(own, &task)?;
        let segments = self.network.facts().statistics(&self.hyper, shared.sizes());
        let statistics = collegium_shared::architecture::name_sums(&segments, &values)?;
        let start = self.network.facts().layout(&self.hyper, shared).initial();
        Ok(self.load(own, &task, &statistics)?.alone(&start, times, &self.effort)?)
    }

    fn load(
        &self,
        own: &[Learner],
        task: &Task<'_>,
        statistics: &Sums,
    ) -> anyhow::Result<Box<dyn Loaded>> {
        Ok(self.network.load(own, task, statistics, &self.effort)?)
    }
}
