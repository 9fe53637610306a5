//! The computations that the owner hands to worker threads. What has to be done follows from the
//! state alone, so after a restart it is simply asked again; each computation may run twice.

use std::sync::Arc;

use collegium_shared::{
    architecture::{self, Architecture, Layout, Stage},
    blobs::Blobs,
    crypto::Digest,
    protocol::{Metrics, Phase},
    roster::Registry,
    tensors,
};

use crate::{
    aggregate::{self, Accumulator, AggregateError},
    network::Network,
    round::Position,
    spool::{Spool, SpoolError},
    task::{Candidate, Next, Opened},
};

/// Something to compute.
pub enum Work {
    /// Add these complete uploads to the running sum.
    Fold { accumulator: Accumulator, positions: Vec<Position> },
    /// Take the masks off the sum and keep it as a blob.
    Open { accumulator: Accumulator },
    /// Make the public start.
    Initialise,
    /// Turn an opened sum into metrics and the next candidate.
    Digest { opened: Box<Opened> },
}

/// What came out; of rounds with the digest of the plan, because a round may end meanwhile.
pub enum Done {
    /// The computation itself failed: a defect, or no memory.
    Failed,
    Folded(Digest, Result<Accumulator, SpoolError>),
    Opened(Digest, Result<Digest, AggregateError>),
    Initialised(Result<Candidate, AggregateError>),
    Digested(Box<Opened>, Result<Digested, AggregateError>),
}

/// What an opened sum of training or evaluation says.
pub struct Digested {
    /// Of the candidate that the sum's round evaluated; a load test evaluates nothing.
    pub metrics: Option<Metrics>,
    /// The next candidate, after an optimiser step.
    pub candidate: Option<Candidate>,
}

/// What there is to do now, if anything. `accumulator` is taken only if it is needed.
pub fn pending(network: &Network, accumulator: &mut Option<Accumulator>) -> Option<Work> {
    if let Some(round) = network.open_round() {
        if round.phase() < Phase::Upload {
            return None;
        }
        let (plan, dimension) = (round.plan_digest(), round.plan().encoding.dimension());
        // A round that ended without a sum leaves what was summed of it.
        accumulator.take_if(|sum| sum.plan() != plan);
        let current = accumulator.get_or_insert_with(|| Accumulator::new(plan, dimension));
        let missing = |p: &&Position| !current.included().contains(p);
        let positions: Vec<Position> = round.uploads().keys().filter(missing).copied().collect();
        return if !positions.is_empty() {
            accumulator.take().map(|accumulator| Work::Fold { accumulator, positions })
        } else if round.phase() == Phase::Open {
            accumulator.take().map(|accumulator| Work::Open { accumulator })
        } else {
            None
        };
    }
    match network.task()?.next()? {
        Next::Initialise => Some(Work::Initialise),
        Next::Digest(opened) => Some(Work::Digest { opened }),
        Next::Round(_) | Next::End(_) => None,
    }
}

/// Where the numbers are.
#[derive(Clone)]
pub struct Workshop {
    pub blobs: Blobs,
    pub spool: Spool,
}

impl Workshop {
    /// Does it; runs on a worker thread.
    pub fn run(&self, work: Work, network: &Network, registry: Option<Arc<Registry>>) -> Done {
        match work {
            Work::Fold { accumulator, positions } => {
                Done::Folded(accumulator.plan(), self.fold(accumulator, &positions, network))
            }
            Work::Open { accumulator } => {
                Done::Opened(accumulator.plan(), self.open(accumulator, network))
            }
            Work::Initialise => Done::Initialised(
                self.layout(network, registry.as_deref())
                    .and_then(|layout| aggregate::initialise(&layout, &self.blobs)),
            ),
            Work::Digest { opened } => {
                let digested = self.digest(&opened, network, registry.as_deref());
                Done::Digested(opened, digested)
            }
        }
    }

    fn fold(
        &self,
        mut accumulator: Accumulator,
        positions: &[Position],
        network: &Network,
    ) -> Result<Accumulator, SpoolError> {
        let Some(round) = network.open_round() else { return Ok(accumulator) };
        let files = self.spool.round(&round.plan().round)?;
        for position in positions {
            if let Some(header) = round.uploads().get(position) {
                accumulator.fold(*position, &files, &header.body.institution)?;
            }
        }
        Ok(accumulator)
    }

    fn open(&self, accumulator: Accumulator, network: &Network) -> Result<Digest, AggregateError> {
        let (Some(round), Some(task)) = (network.open_round(), network.task()) else {
            return Err(AggregateError::Inconsistent("there is no round to open"));
        };
        let files = self.spool.round(&round.plan().round)?;
        let mut sums = aggregate::open_sum(round, &files, accumulator)?;
        // Sizes matter only for segments without a value, which later stages alone can have.
        let none = architecture::Sizes { items: 0, competencies: 0 };
        let optimizer = &task.spec().hyper.optimizer;
        let mut empty = architecture::Sums::new();
        architecture::complete_sums(&mut empty, &round.plan().stage, optimizer, none);
        for (name, values) in empty {
            sums.entry(name).or_insert(values);
        }
        Ok(self.blobs.put(&tensors::write_sums(&sums)?)?)
    }

    fn layout(
        &self,
        network: &Network,
        registry: Option<&Registry>,
    ) -> Result<Layout, AggregateError> {
        let (Some(task), Some(registry)) = (network.task(), registry) else {
            return Err(AggregateError::Inconsistent("there is no task, or no registry"));
        };
        aggregate::layout(task, registry, &self.blobs)
    }

    fn digest(
        &self,
        opened: &Opened,
        network: &Network,
        registry: Option<&Registry>,
    ) -> Result<Digested, AggregateError> {
        let task = network.task().ok_or(AggregateError::Inconsistent("there is no task"))?;
        let sums = tensors::read_sums(&self.blobs.read(&opened.sum, aggregate::MAX_BLOB)?)?;
        let metrics = match task.spec().architecture {
            Architecture::KtLogistic1 => Some(aggregate::metrics(&sums)?),
            Architecture::LoadTest1 => None,
        };
        let candidate = match opened.stage {
            Stage::Train { .. } => {
                let layout = self.layout(network, registry)?;
                Some(aggregate::step(opened, task, &layout, &sums, &self.blobs)?)
            }
            _ => None,
        };
        Ok(Digested { metrics, candidate })
    }
}
