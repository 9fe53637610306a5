//! What this institution adds to a federated evaluation: sums over its held-out learners of how a model of its
//! own, the released one and the one in use predict them. Some learners are left out (`left_out`).

use collegium_shared::{
    architecture::{
        Hyper,
        bias_audit::{Figures, Measure},
        comparison::{COMPARED, Comparison, Contender, Span},
    },
    crypto::Digest,
};

use super::{Scored, alone, late, left_out::Asked, network, scored, trainable};
use crate::{
    model::{
        Effort, ModelError, Released,
        features::{Counts, training_counts},
        neural::Keeps,
        personal,
    },
    records::Learner,
};

/// The band of a bias audit; nothing is concluded from it here.
const BAND: [f64; 2] = [0.6, 0.8];

/// The sums over the learners that count. Nothing if fewer than `least` do. `snapshot` identifies the records.
/// Several fits to convergence: call it where blocking is allowed.
pub fn comparison(
    learners: &[Learner],
    released: &Released,
    (snapshot, least): (Digest, u32),
    effort: &Effort,
) -> Result<Comparison, ModelError> {
    let mut comparison = Comparison::default();
    let held_out = || learners.iter().filter(|l| l.held_out && !l.responses.is_empty());
    let counts = |learner: &Learner| Asked::Evaluation.counts(learner, snapshot);
    let counted = u32::try_from(held_out().filter(|learner| counts(learner)).count());
    if counted.is_ok_and(|counted| counted < least.max(1)) {
        return Ok(comparison);
    }
    let predicted = predictions(learners, released, effort)?;
    let mut losses = [None; 3];
    for (number, (contender, rows)) in [Contender::Alone, Contender::Global, Contender::InUse]
        .into_iter()
        .zip(&predicted)
        .enumerate()
    {
        let mut rest = rows.as_slice();
        for learner in held_out() {
            let (own, after) = rest.split_at(learner.responses.len().min(rest.len()));
            rest = after;
            if !counts(learner) {
                continue;
            }
            let all: Vec<_> = own.iter().map(|one| (one.p, one.correct)).collect();
            let later = all.iter().zip(late(learner)).filter(|(_, late)| *late);
            let later: Vec<_> = later.map(|(one, _)| *one).collect();
            for (cell, (_, span)) in
                comparison.cells.iter_mut().zip(COMPARED).filter(|(_, of)| of.0 == contender)
            {
                match span {
                    Span::All => cell.observe(&all, BAND),
                    // Short histories have no later part.
                    Span::Later if later.is_empty() => {}
                    Span::Later => cell.observe(&later, BAND),
                }
            }
        }
        let figures = Figures::of(comparison.of(contender, Span::All));
        losses[number] = figures.measure(Measure::LogLoss).map(|loss| loss.value);
    }
    let [Some(alone), Some(global), Some(in_use)] = losses else { return Ok(comparison) };
    let whether = |is: bool| f64::from(u8::from(is));
    comparison.counted = 1.0;
    comparison.global_not_worse = whether(global <= alone);
    comparison.in_use_not_worse = whether(in_use <= alone);
    Ok(comparison)
}

/// The held-out learners' answers by the three that are compared, in the order of learners and answers.
fn predictions(
    learners: &[Learner],
    released: &Released,
    effort: &Effort,
) -> Result<[Vec<Scored>; 3], ModelError> {
    let own = training_counts(learners);
    let fitted = trainable(&own).is_ok();
    match released {
        Released::Logistic(model) => {
            let global = scored(model, learners, &own);
            let used = personal::choose(model, learners, &own, effort);
            let used = used.map(|(used, _)| scored(&used, learners, &own));
            let in_use = or_else(used, || global.clone())?;
            let alone = match fitted {
                true => {
                    let alone = alone(learners, &Hyper::default(), effort);
                    let alone = alone.map(|alone| scored(&alone, learners, &own));
                    or_else(alone, || constant(&global, &own))?
                }
                false => constant(&global, &own),
            };
            Ok([alone, global, in_use])
        }
        Released::Network(model) => {
            let loaded = model.load(learners, effort)?;
            let used = loaded.held_out(model.weights(), Keeps::Fitted, effort);
            let in_use = or_else(used.map(|used| network::scored(&used)), || even(learners))?;
            let alone = match fitted {
                true => {
                    let alone = model.alone(learners, effort);
                    let alone = alone.map(|alone| network::scored(&alone));
                    or_else(alone, || constant(&in_use, &own))?
                }
                false => constant(&in_use, &own),
            };
            Ok([alone, in_use.clone(), in_use])
        }
    }
}

/// Others where a model gave no numbers: who counts depends on the records alone, or the difference between two
/// models would be of those who count with one of them.
fn or_else(
    rows: Result<Vec<Scored>, ModelError>,
    others: impl FnOnce() -> Vec<Scored>,
) -> Result<Vec<Scored>, ModelError> {
    match rows {
        Err(error @ (ModelError::NotFinite { .. } | ModelError::NotConverged(_))) => {
            tracing::error!(%error, "a simpler prediction takes the place of a model's");
            Ok(others())
        }
        other => other,
    }
}

/// One half for every answer of the held-out learners.
fn even(learners: &[Learner]) -> Vec<Scored> {
    let held_out = learners.iter().filter(|learner| learner.held_out).enumerate();
    let answers = held_out.flat_map(|(learner, of)| of.responses.iter().map(move |r| (learner, r)));
    answers.map(|(learner, of)| Scored { learner, p: 0.5, correct: of.correct }).collect()
}

/// Everybody gets the share of right answers (Laplace's rule of succession).
fn constant(like: &[Scored], own: &Counts) -> Vec<Scored> {
    let p = (own.base.1 + 1.0) / (own.base.0 + 2.0);
    like.iter().map(|one| Scored { p, ..*one }).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{
        evaluate::local,
        model::Model,
        trainer::tests::{federate, simulated},
    };

    fn free() -> Effort {
        Effort::new(Arc::default(), 100)
    }

    fn world() -> (Vec<Vec<Learner>>, Released) {
        let world = simulated(11, 3, 150);
        let run = federate(world.clone(), &Hyper::default(), 15, 1);
        let model = Model::new(&run.shared.competencies, run.statistics, &run.weights).unwrap();
        (world, Released::Logistic(model))
    }

    fn records() -> Digest {
        Digest::of(b"records")
    }

    #[test]
    fn the_sums_say_what_the_report_at_home_says() {
        let (world, released) = world();
        let Released::Logistic(model) = &released else { panic!("another model") };
        let mut all = world[0].clone();
        // Those who are left out are taken away, so that both count the same.
        all.retain(|learner| !learner.held_out || Asked::Evaluation.counts(learner, records()));
        let report = local(&all, Some(model), &Hyper::default(), &free()).unwrap();
        let sums = comparison(&world[0], &released, (records(), 5), &free()).unwrap();
        for (contender, quality) in [
            (Contender::Alone, &report.all.alone),
            (Contender::Global, &report.all.global),
            (Contender::InUse, &report.all.personal),
        ] {
            let cell = sums.of(contender, Span::All);
            assert_eq!(cell.answers, quality.answers as f64);
            let brier = Figures::of(cell).measure(Measure::Brier).unwrap().value;
            assert!((brier - quality.brier.unwrap()).abs() < 1e-9, "{contender:?}");
        }
        let later = sums.of(Contender::Global, Span::Later);
        assert_eq!(later.answers, report.later.global.answers as f64);
        let better = report.all.global.log_loss <= report.all.alone.log_loss;
        assert_eq!((sums.counted, sums.global_not_worse), (1.0, f64::from(u8::from(better))));
    }

    #[test]
    fn the_same_learners_are_left_out_whatever_the_model() {
        let (world, released) = world();
        let learners: Vec<_> = world.concat();
        let held_out = learners.iter().filter(|learner| learner.held_out).count() as f64;
        let one = comparison(&learners, &released, (records(), 5), &free()).unwrap();
        let counted = one.of(Contender::Global, Span::All).learners;
        assert!(counted < held_out && counted > 0.6 * held_out, "{counted} of {held_out}");
        assert_eq!(one.of(Contender::Alone, Span::All).learners, counted);
        let other = comparison(&learners, &released, (Digest::of(b"other"), 5), &free()).unwrap();
        let right = |of: &Comparison| of.of(Contender::Global, Span::All).sums[0];
        assert_ne!(right(&one), right(&other), "other records leave others out");
    }

    #[test]
    fn too_few_learners_add_nothing_and_one_class_is_no_obstacle() {
        let (world, released) = world();
        let nothing = comparison(&world[0], &released, (records(), 1_000), &free()).unwrap();
        assert_eq!(nothing, Comparison::default());
        let none = comparison(&[], &released, (records(), 1), &free()).unwrap();
        assert_eq!(none, Comparison::default());
        let mut learners = world[0].clone();
        let responses = learners.iter_mut().flat_map(|learner| &mut learner.responses);
        responses.for_each(|response| response.correct = true);
        let sums = comparison(&learners, &released, (records(), 5), &free()).unwrap();
        assert!(sums.values().iter().all(|value| value.is_finite()));
        assert_eq!(sums.counted, 1.0);
    }
}
