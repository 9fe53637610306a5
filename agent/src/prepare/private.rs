//! The input of a private plan: the same checks, then each learner's part clipped, and noise on the whole.
//! Whatever happens, what is handed on carries the plan's noise.

use collegium_shared::{
    architecture::{
        self, Architecture, LearnerPrivacy, Placed, SharedSets, SharedStatistics, Stage,
    },
    params::Encoding,
    protocol::Plan,
};

use super::{Basis, PrepareError, Values, neural};
use crate::{
    egress::{Clipping, Meter},
    model::{Effort, ModelError},
    privacy::{BoundedSum, NoiseError, RandomBits},
    trainer::{PrivateWork, Trainer},
};

/// A private input, in the order of the plan's encoding.
pub(super) fn input(
    basis: &Basis<'_>,
    privacy: &LearnerPrivacy,
    placed: &[Placed],
    trainer: &mut Trainer,
    effort: &Effort,
) -> Result<Values, PrepareError> {
    let shared = SharedSets::all(&basis.registry.items, &basis.registry.competencies);
    // Before room is made for a vector that only the plan asks for.
    basis.check_encoding(shared.sizes())?;
    let fresh = || {
        let sums = placed.iter().map(|placed| BoundedSum::new(*placed));
        sums.collect::<Result<Vec<_>, NoiseError>>()
    };
    let mut sums = fresh()?;
    match run(basis, (privacy, &shared), &mut sums, trainer, effort) {
        // As without noise: an institution that stayed away because of its records would tell of them.
        Err(PrepareError::Stage(
            error @ (ModelError::NotFinite { .. } | ModelError::NotConverged(_)),
        )) => {
            tracing::error!(round = %basis.plan.round, %error, "this institution contributes noise alone");
            sums = fresh()?;
        }
        other => other?,
    }
    let mut bits = RandomBits::system();
    let clipping = clipping(&basis.plan.encoding, &sums);
    let mut words = Vec::with_capacity(basis.plan.encoding.dimension());
    for sum in sums {
        words.extend(sum.noised(&mut bits)?);
    }
    Ok(Values::Noised { words, clipping })
}

/// By segment: learners are clipped over all segments of their group.
fn clipping(encoding: &Encoding, sums: &[BoundedSum]) -> Vec<Clipping> {
    let mut meter = Meter::new(encoding);
    sums.iter().for_each(|sum| meter.append(sum.unclipped()));
    let counts =
        sums.iter().flat_map(|sum| sum.placed().group.segments.iter().map(|_| sum.clipped()));
    let counted = meter.finish().into_iter().zip(counts);
    counted
        .map(|(segment, (clipped, of))| Clipping { clipped, learners: Some(of), ..segment })
        .collect()
}

fn run(
    basis: &Basis<'_>,
    (privacy, shared): (&LearnerPrivacy, &SharedSets),
    sums: &mut [BoundedSum],
    trainer: &mut Trainer,
    effort: &Effort,
) -> Result<(), PrepareError> {
    if let Architecture::Neural(_) = basis.architecture {
        neural::run(basis, basis.network()?, shared, Some(sums), trainer, effort)?;
        return Ok(());
    }
    let Plan { stage, inputs, .. } = basis.plan;
    let layout = architecture::layout(&shared.competencies);
    if layout.digest().ok() != basis.plan.layout {
        return Err(PrepareError::Layout);
    }
    match stage {
        Stage::Train { .. } => {
            let statistics = &published(basis, privacy, shared)?;
            let start = &basis.model("start", inputs.start, &layout)?;
            let work = PrivateWork::Gradient { shared, statistics, start };
            Ok(trainer.run_private(work, sums, effort)?)
        }
        Stage::Evaluate => {
            let statistics = &published(basis, privacy, shared)?;
            let candidate = &basis.model("candidate", inputs.candidate, &layout)?;
            let work = PrivateWork::Evaluate { shared, statistics, candidate };
            Ok(trainer.run_private(work, sums, effort)?)
        }
        // The others have no vector, which the encoding said already.
        Stage::Statistics | Stage::Support | Stage::Totals | Stage::Audit => {
            Ok(trainer.run_private(PrivateWork::Statistics { shared }, sums, effort)?)
        }
    }
}

fn published(
    basis: &Basis<'_>,
    privacy: &LearnerPrivacy,
    shared: &SharedSets,
) -> Result<SharedStatistics, PrepareError> {
    let what = "statistics sum";
    let sums = basis.sums(what, basis.plan.inputs.statistics)?;
    let n_max = basis.plan.encoding.n_max();
    super::noisy_statistics(sums, shared, privacy, n_max)
        .map_err(|reason| PrepareError::Sums { what, reason })
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, sync::Arc};

    use collegium_shared::{
        architecture::{Sums, Target},
        crypto::Digest,
        tensors,
    };

    use super::*;
    use crate::prepare::{
        self,
        tests::{Fixture, N, fixture},
    };

    /// So much may be spent that hardly any noise is left: what is below it shows.
    fn privacy(epsilon: f64) -> LearnerPrivacy {
        LearnerPrivacy::propose(Target { epsilon, delta: 1e-6 }, 1, 2).unwrap()
    }

    fn plan(fixture: &Fixture, epsilon: f64, stage: Stage) -> Plan {
        let mut plan = fixture.world.plan_body("t", 0, 0, stage);
        plan.hyper.privacy = Some(privacy(epsilon));
        let sizes = fixture.registry.sizes();
        plan.encoding = architecture::encoding(&plan.stage, &plan.hyper, sizes, N).unwrap();
        let layout = architecture::layout(&fixture.registry.competencies);
        plan.layout = Some(layout.digest().unwrap());
        let weights = tensors::write_model(&layout, &layout.initial()).unwrap();
        plan.inputs.start = Some(fixture.blobs.put(&weights).unwrap());
        plan.inputs.candidate = plan.inputs.start;
        plan
    }

    fn words(fixture: &Fixture, plan: &Plan) -> Result<Vec<u32>, PrepareError> {
        let mut trainer = Trainer::new(fixture.learners.clone());
        let go = Effort::new(Arc::default(), 100);
        match prepare::input(plan, &fixture.registry, &fixture.blobs, &mut trainer, &go)? {
            Values::Noised { words, .. } => Ok(words),
            _ => panic!("values without noise"),
        }
    }

    fn values(fixture: &Fixture, plan: &Plan) -> Sums {
        plan.encoding.decode_sum(&words(fixture, plan).unwrap()).unwrap()
    }

    /// Statistics as five such institutions would have opened them.
    fn published(fixture: &Fixture, epsilon: f64) -> Digest {
        let statistics = plan(fixture, epsilon, Stage::Statistics);
        let mut sums = values(fixture, &statistics);
        sums.values_mut().flatten().for_each(|value| *value *= f64::from(N));
        fixture.blobs.put(&tensors::write_sums(&sums).unwrap()).unwrap()
    }

    fn close(found: &[f64], expected: &[f64], plan: &Plan) {
        // 8 deviations: once in 10^15 values; and half a unit of rounding for each learner.
        let segment = &plan.encoding.segments()[0];
        let room = 8.0 * segment.deviation + 12.0 * 2_f64.powi(-segment.scale_log2);
        for (place, (found, expected)) in found.iter().zip(expected).enumerate() {
            assert!((found - expected).abs() < room, "{place}: {found}, not {expected}");
        }
    }

    #[test]
    fn counts_are_sums_of_clipped_learners() {
        let fixture = fixture();
        let plan = plan(&fixture, 1e6, Stage::Statistics);
        let found = values(&fixture, &plan);
        let mut expected: BTreeMap<(&str, bool), f64> = BTreeMap::new();
        let clip = privacy(1e6).items.clip;
        let mut cut = 0;
        for learner in fixture.learners.iter().filter(|learner| !learner.held_out) {
            let mut own: BTreeMap<(&str, bool), f64> = BTreeMap::new();
            for answer in &learner.responses {
                *own.entry((answer.item.as_str(), answer.correct)).or_default() += 1.0;
            }
            let norm = own.values().map(|n| n * n).sum::<f64>().sqrt();
            cut += usize::from(norm > clip);
            for (key, n) in own {
                *expected.entry(key).or_default() += n * (clip / norm).min(1.0);
            }
        }
        assert!(cut > 0, "somebody has to be clipped");
        for (name, right) in [("item_right", true), ("item_wrong", false)] {
            let items = fixture.registry.items.iter();
            let expected: Vec<f64> = items
                .map(|item| expected.get(&(item.as_str(), right)).copied().unwrap_or(0.0))
                .collect();
            close(&found[name], &expected, &plan);
        }
    }

    /// No number of the institution's enters but through its learners one by one: parts of two halves of
    /// them add up to that of all.
    #[test]
    fn gradients_and_evaluations_add_up_over_learners() {
        let mut whole = fixture();
        let statistics = published(&whole, 1e6);
        for (stage, segments) in [
            (Stage::Train { step: 1 }, &["gradient"][..]),
            (Stage::Evaluate, &["eval_positive", "eval_negative"][..]),
        ] {
            let mut plan = plan(&whole, 1e6, stage);
            plan.inputs.statistics = Some(statistics);
            let all = values(&whole, &plan);
            let learners = std::mem::take(&mut whole.learners);
            let mut parts = Vec::new();
            for half in learners.chunks(learners.len().div_ceil(2)) {
                whole.learners = half.to_vec();
                parts.push(values(&whole, &plan));
            }
            whole.learners = learners;
            for name in segments {
                let sum: Vec<f64> =
                    parts[0][*name].iter().zip(&parts[1][*name]).map(|(a, b)| a + b).collect();
                close(&all[*name], &sum, &plan);
                assert!(all[*name].iter().any(|value| value.abs() > 1.0), "{name} is all noise");
            }
        }
    }

    #[test]
    fn every_input_has_noise_of_its_own() {
        let fixture = fixture();
        let plan = plan(&fixture, 4.0, Stage::Statistics);
        let (first, second) = (words(&fixture, &plan).unwrap(), words(&fixture, &plan).unwrap());
        assert_eq!(first.len(), plan.encoding.dimension());
        let same = first.iter().zip(&second).filter(|(a, b)| a == b).count();
        assert!(same * 20 < first.len(), "{same} of {} words are the same", first.len());
    }

    #[test]
    fn a_plan_with_less_noise_than_it_says_is_refused() {
        let fixture = fixture();
        let good = plan(&fixture, 4.0, Stage::Statistics);
        let with = |noise: f64| {
            let segments = good.encoding.segments().iter();
            let named = segments.map(|s| (s.name.clone(), s.len, s.bound, s.deviation * noise));
            let encoding = Encoding::noisy(named, N).unwrap();
            words(&fixture, &Plan { encoding, ..good.clone() })
        };
        assert!(with(1.0).is_ok());
        for noise in [0.0, 0.5] {
            let refused = with(noise).unwrap_err().to_string();
            assert!(refused.contains("noise"), "{refused}");
        }
        let more = Plan { stage: Stage::Support, ..good.clone() };
        assert!(words(&fixture, &more).is_err(), "there is no such sum with noise");
    }
}
