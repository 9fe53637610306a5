//! What it takes to add a network: this file has the public facts of one and its training. In the product the
//! facts are a file of the shared crate, the training is one of the agent, and each has a line in its register.

use collegium_agent::{
    model::{
        Effort, ModelError,
        features::sigmoid,
        neural::{Keeps, Loaded, Memory, Network, Predictions, Take, Task},
    },
    records::Learner,
};
use collegium_shared::architecture::{
    Architecture, BadHyper, Hyper, Init, Layout, LearnerPrivacy, Local, Neural, Optimizer,
    SegmentSpec, Server, SharedSets, Sizes, Sums, Target, TensorSpec,
};

use super::Networks;
use crate::simulator::{Federation, Settings};

/// One weight: the logit of the share of right answers.
#[derive(Clone, Copy, Debug)]
struct Share1;

static SHARE_1: Share1 = Share1;

impl Neural for Share1 {
    fn id(&self) -> &'static str {
        "share/1"
    }

    fn statistics(&self, _: &Hyper, _: Sizes) -> Vec<SegmentSpec> {
        vec![SegmentSpec { name: "examples".to_owned(), len: 1, bound: 65_536.0 }]
    }

    fn answers(&self, statistics: &Sums) -> f64 {
        statistics["examples"][0]
    }

    fn statistics_share(&self) -> f64 {
        0.1
    }

    fn parameters(&self, _: &Hyper, _: Sizes) -> u32 {
        1
    }

    fn layout(&self, _: &Hyper, shared: &SharedSets) -> Layout {
        Layout {
            architecture: Architecture::Neural(&SHARE_1),
            competencies: shared.competencies.clone(),
            tensors: vec![TensorSpec { name: "logit".to_owned(), len: 1, init: Init::Zeros }],
        }
    }

    fn optimizer(&self) -> Optimizer {
        let local = Local::Adam { learning_rate: 0.05, batch: 64, decay_rounds: 60 };
        Optimizer { local, server: Server::Average, local_steps: 1, bound: 1.0, norm: 1.0 }
    }

    fn check(&self, _: &Hyper) -> Result<(), BadHyper> {
        Ok(())
    }
}

impl Network for Share1 {
    fn facts(&self) -> &'static dyn Neural {
        &SHARE_1
    }

    fn statistics(&self, learners: &[Learner], _: &Task<'_>) -> Result<Vec<f64>, ModelError> {
        Ok(vec![answers(learners, false).iter().map(Vec::len).sum::<usize>() as f64])
    }

    fn part(&self, _: &Learner, _: &Task<'_>) -> Vec<(usize, f64)> {
        vec![(0, 1.0)]
    }

    fn memory(&self, _: &Hyper, _: usize) -> Memory {
        Memory::default()
    }

    fn load(
        &self,
        learners: &[Learner],
        _: &Task<'_>,
        _: &Sums,
        _: &Effort,
    ) -> Result<Box<dyn Loaded>, ModelError> {
        let [train, held_out] = [false, true].map(|held_out| answers(learners, held_out));
        Ok(Box::new(Answers { train, held_out }))
    }
}

fn answers(learners: &[Learner], held_out: bool) -> Vec<Vec<bool>> {
    let some = learners.iter().filter(|learner| learner.held_out == held_out);
    some.map(|learner| learner.responses.iter().map(|r| r.correct).collect()).collect()
}

#[derive(Debug)]
struct Answers {
    train: Vec<Vec<bool>>,
    held_out: Vec<Vec<bool>>,
}

fn slope(answers: &[bool], logit: f64) -> f64 {
    let residual = |right: &bool| sigmoid(logit) - f64::from(u8::from(*right));
    answers.iter().map(residual).sum::<f64>() / answers.len().max(1) as f64
}

impl Loaded for Answers {
    fn answers(&self) -> usize {
        self.train.iter().map(Vec::len).sum()
    }

    fn train(&self, start: &[f32], _: u32, effort: &Effort) -> Result<Vec<f64>, ModelError> {
        effort.step()?;
        Ok(vec![-slope(&self.train.concat(), start[0].into())])
    }

    fn held_out(&self, weights: &[f32], _: Keeps, _: &Effort) -> Result<Predictions, ModelError> {
        let p = sigmoid(weights[0].into());
        let of = |learner: &Vec<bool>| learner.iter().map(|right| (p, *right)).collect();
        Ok(self.held_out.iter().map(of).collect())
    }

    fn alone(&self, start: &[f32], _: u32, effort: &Effort) -> Result<Predictions, ModelError> {
        self.held_out(start, Keeps::Public, effort)
    }

    fn gradients(&self, start: &[f32], _: &Effort, take: &mut Take<'_>) -> Result<(), ModelError> {
        self.train.iter().for_each(|own| take(&[(0, slope(own, start[0].into()))]));
        Ok(())
    }
}

fn simulated() -> Vec<Vec<Learner>> {
    let federation = Federation::simulate(&Settings::default());
    federation.institutions.iter().map(|one| one.learners()).collect()
}

fn share_of_right(records: &[Vec<Learner>]) -> f64 {
    let all = answers(&records.concat(), false).concat();
    all.iter().filter(|right| **right).count() as f64 / all.len() as f64
}

#[test]
fn a_network_of_this_file_alone_is_trained_by_the_products_own_path() {
    let records = simulated();
    let hyper = Hyper { optimizer: SHARE_1.optimizer(), ..Hyper::default() };
    let networks = &mut Networks::over(records.clone(), &SHARE_1, hyper, 60);
    let trained = networks.plain(1.0, 0).unwrap();
    let found = sigmoid(trained.weights[0].into());
    let expected = share_of_right(&records);
    assert!((found - expected).abs() < 1e-3, "{found}, counted {expected}");
    let predicted = networks.predicted(&trained).unwrap();
    assert!(predicted.iter().flatten().flatten().all(|(p, _)| (p - found).abs() < 1e-9));
}

#[test]
fn and_with_noise() {
    let records = simulated();
    let hyper = Hyper { optimizer: SHARE_1.optimizer(), ..Hyper::default() };
    let networks = &mut Networks::over(records.clone(), &SHARE_1, hyper, 60);
    // So much may be spent that the noise is small.
    let target = Target { epsilon: 200.0, delta: 1e-6 };
    let privacy = LearnerPrivacy::propose_for_network(target, 40, 2, &SHARE_1).unwrap();
    let trained = networks.private(privacy, 40).unwrap();
    let (found, expected) = (sigmoid(trained.weights[0].into()), share_of_right(&records));
    assert!((found - expected).abs() < 0.05, "{found}, counted {expected}");
}
