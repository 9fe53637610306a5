//! One task under attack: its steps, what is released of them, and how good that is at the honest
//! institutions.

use std::collections::BTreeSet;

use collegium_agent::{records::Learner, trainer::Work};
use collegium_coordinator::task::{Reference, ReleaseRule, sampling};
use collegium_shared::{
    architecture::{
        self, Coordinate, Evaluation, FROM_INSTITUTIONS, GroupSum, Hyper, Optimizer, deal,
        group_count, median_of_means, name_sums, segments,
    },
    crypto::Digest,
    ids::InstitutionId,
    protocol::{Cohort, Metrics},
};
use serde_json::{Value, json};

use super::{
    super::federation::{Basis, World},
    Options,
    attack::{Poisoning, norm},
};

/// What stands in the way of poison.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Defence {
    /// No bounds, and every model is released.
    None,
    /// The bounds on each institution's move.
    Clipping,
    /// The same, and the gate before each release.
    ClippingAndGate,
    /// The same, and medians over the means of random groups in place of the sum.
    GroupMedians,
}

impl Defence {
    pub(super) const ALL: [Self; 4] =
        [Self::None, Self::Clipping, Self::ClippingAndGate, Self::GroupMedians];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Clipping => "clipping",
            Self::ClippingAndGate => "clipping + gate",
            Self::GroupMedians => "clipping + gate + group medians",
        }
    }

    fn gated(self) -> bool {
        matches!(self, Self::ClippingAndGate | Self::GroupMedians)
    }
}

/// The institutions after their counts were summed.
pub(super) struct Task {
    world: World,
    basis: Basis,
    names: Vec<InstitutionId>,
}

/// A model's evaluation over all institutions, as it would be published, and over the honest ones.
struct Judged {
    all: Evaluation,
    honest: Evaluation,
}

impl Task {
    pub(super) fn prepare(records: &[Vec<Learner>], poisoning: &Poisoning) -> anyhow::Result<Self> {
        let mut world = World::new(poisoning.records(records));
        let basis = world.basis()?;
        let names = (0..records.len()).map(|place| format!("institution-{place}").parse());
        Ok(Self { basis, names: names.collect::<Result<_, _>>()?, world })
    }

    /// Runs all steps; none if there are too few institutions for the defence.
    pub(super) fn run(
        &mut self,
        defence: Defence,
        poisoning: &Poisoning,
        options: &Options,
    ) -> anyhow::Result<Option<Value>> {
        let cohort = Cohort::proposed(self.names.len());
        let seed = |step: u32| {
            let parts = [options.seed.to_be_bytes(), u64::from(step).to_be_bytes()];
            Digest::of_parts("collegium/bench/groups", &parts.each_ref().map(|part| &part[..]))
        };
        let medians = defence == Defence::GroupMedians;
        let count = group_count(self.names.len(), cohort.n_min());
        if medians && (self.names.len() < FROM_INSTITUTIONS || count.is_none()) {
            return Ok(None);
        }
        let everybody: BTreeSet<_> = self.names.iter().cloned().collect();
        let draw = |step| deal(&everybody, &BTreeSet::new(), count.unwrap_or(1), &seed(step));
        let mut optimizer = Optimizer::default();
        optimizer.norm = options.norm.unwrap_or(optimizer.norm);
        let train = match defence {
            // As large as a task can ask for.
            Defence::None => Optimizer { bound: 1e3, norm: 1e6, ..optimizer.clone() },
            _ => optimizer.clone(),
        };
        let hyper = Hyper { optimizer: train, ..Hyper::default() };
        let (mut gate, mut largest) = (Released::default(), Vec::new());
        let layout = architecture::layout(&self.basis.shared.competencies);
        let mut at = hyper.optimizer.server.coordinates(&layout.initial());
        for step in 1..=options.steps {
            let (mut moves, judged) = self.step(&hyper, &at, poisoning)?;
            gate.judge(step - 1, judged, defence);
            let honest = moves.iter().enumerate().filter(|(place, _)| !poisoning.poisons(*place));
            largest.extend(honest.map(|(_, own)| norm(own)).max_by(f64::total_cmp));
            for (place, own) in moves.iter_mut().enumerate() {
                poisoning.poison(place, step, own);
                // Their agents clip, whoever they are.
                hyper.optimizer.clip(own);
            }
            let moved = self.combined(&moves, medians.then(|| draw(step)));
            let server = hyper.optimizer.server;
            at.iter_mut().zip(moved).for_each(|(at, moved)| *at = server.advance(step, *at, moved));
        }
        let (_, judged) = self.step(&hyper, &at, poisoning)?;
        gate.judge(options.steps, judged, defence);
        let norm = largest.into_iter().max_by(f64::total_cmp);
        Ok(Some(gate.row(norm)))
    }

    /// The moves of all, honest so far, and the evaluation of the candidate.
    fn step(
        &mut self,
        hyper: &Hyper,
        at: &[Coordinate],
        poisoning: &Poisoning,
    ) -> anyhow::Result<(Vec<Vec<f64>>, Judged)> {
        let Basis { shared, statistics, totals } = &self.basis;
        let [start, candidate] = &Coordinate::models(at);
        let specs = segments(&architecture::Stage::Train { step: 1 }, hyper, shared.sizes());
        let work = Work::Train { shared, statistics, totals, hyper, start, candidate };
        let mut judged = Judged { all: Evaluation::default(), honest: Evaluation::default() };
        let mut moves = Vec::new();
        for (place, values) in self.world.each(work)?.into_iter().enumerate() {
            let mut sums = name_sums(&specs, &values)?;
            let own = Evaluation::from_segments(&sums)?;
            add(&mut judged.all, &own);
            if !poisoning.poisons(place) {
                add(&mut judged.honest, &own);
            }
            moves.push(sums.remove("move").unwrap_or_default());
        }
        Ok((moves, judged))
    }

    /// The sum, or what takes its place.
    fn combined(
        &self,
        moves: &[Vec<f64>],
        groups: Option<Vec<BTreeSet<InstitutionId>>>,
    ) -> Vec<f64> {
        let sum = |group: &BTreeSet<InstitutionId>| {
            let places = group.iter().filter_map(|m| self.names.iter().position(|name| name == m));
            let mut sum = vec![0.0; moves.first().map_or(0, Vec::len)];
            for place in places {
                sum.iter_mut().zip(&moves[place]).for_each(|(sum, own)| *sum += own);
            }
            GroupSum { members: group.len(), sum }
        };
        match groups {
            None => sum(&self.names.iter().cloned().collect()).sum,
            Some(groups) => median_of_means(&groups.iter().map(sum).collect::<Vec<_>>()),
        }
    }
}

fn add(total: &mut Evaluation, own: &Evaluation) {
    total.n += own.n;
    total.loss_sum += own.loss_sum;
    let bins = total.positive.iter_mut().zip(&own.positive);
    bins.chain(total.negative.iter_mut().zip(&own.negative)).for_each(|(sum, own)| *sum += own);
}

/// What was released so far.
#[derive(Default)]
struct Released {
    start: Option<Judged>,
    last: Option<Judged>,
    released: Vec<u32>,
    withheld: u32,
}

impl Released {
    fn judge(&mut self, step: u32, judged: Judged, defence: Defence) {
        if step == 0 {
            self.start = Some(judged);
            return;
        }
        let before = [("the start", &self.start), ("the last", &self.last)];
        let references = before.into_iter().filter_map(|(what, judged)| {
            let then = &judged.as_ref()?.all;
            Some(Reference { what, log_loss: then.log_loss()?, allowance: sampling(then.n) })
        });
        let references: Vec<_> = references.collect();
        let (auc, log_loss) = (judged.all.auc(), judged.all.log_loss());
        let metrics = Metrics { responses: 0, auc, log_loss };
        if defence.gated() && ReleaseRule::default().judge(&metrics, &references).is_err() {
            self.withheld += 1;
            return;
        }
        self.released.push(step);
        self.last = Some(judged);
    }

    fn row(&self, largest_norm: Option<f64>) -> Value {
        let quality = |judged: &Option<Judged>| {
            let honest = judged.as_ref().map(|judged| &judged.honest);
            json!({
                "auc": honest.and_then(Evaluation::auc),
                "log_loss": honest.and_then(Evaluation::log_loss),
            })
        };
        json!({
            "start": quality(&self.start), "released": quality(&self.last),
            "models_released": self.released.len(), "models_withheld": self.withheld,
            "last_released_step": self.released.last(), "largest_honest_norm": largest_norm,
        })
    }
}
