//! The network on made-up learners: gradients against differences, what it learns, and records that are
//! hardly any.

use std::sync::Arc;

use collegium_shared::architecture::{
    Evaluation, Feature, Hyper, SharedSets, name_sums, wide_mlp::Scale,
};

use super::*;
use crate::{
    model::{single, wide_mlp::inputs::Batch},
    records::{Features, Response},
};

fn free() -> Effort {
    Effort::new(Arc::default(), 100)
}

fn hyper() -> Hyper {
    let feature = |name: &str, scale, most| Feature { name: name.into(), scale, least: 0.0, most };
    let features =
        vec![feature("clicks", Scale::Log, 8.0), feature("weight", Scale::Linear, 100.0)];
    Hyper { features, optimizer: WideMlp1.optimizer(), ..Hyper::default() }
}

fn shared() -> SharedSets {
    SharedSets { items: Vec::new(), competencies: vec!["exam".into(), "essay".into()] }
}

/// Whether an activity is completed depends on clicks and weight together, so that no linear model finds it.
fn school(seed: u64, learners: usize) -> Vec<Learner> {
    let mut draws = ChaCha8Rng::seed_from_u64(seed);
    let names = ["clicks", "weight"].map(str::to_owned);
    let learner = |number: usize| {
        let mut responses = Vec::new();
        let mut rows = Vec::new();
        for _ in 0..12 {
            let (clicks, weight) = (draws.random::<f32>(), draws.random::<f32>());
            let certain = (clicks > 0.5) != (weight > 0.5);
            let correct = if draws.random::<f32>() < 0.1 { !certain } else { certain };
            let kind = if draws.random::<bool>() { "exam" } else { "essay" };
            let item = format!("{kind}-{}", draws.random_range(0..3));
            responses.push(Response { item, competencies: vec![kind.into()], correct });
            // exp(clicks x 8) - 1 is what a logarithmic scale evens out.
            let clicks = (draws.random::<f32>() > 0.02).then(|| (clicks * 8.0).exp_m1());
            rows.push(vec![clicks, Some(weight * 100.0)]);
        }
        let features = Features::new(&names, rows);
        let (id, held_out) = (format!("{seed}-{number}"), number.is_multiple_of(4));
        Learner { id, held_out, attributes: Default::default(), responses, features }
    };
    (0..learners).map(learner).collect()
}

/// The opened statistics of some institutions.
fn opened(schools: &[Vec<Learner>]) -> Sums {
    let (hyper, shared) = (hyper(), shared());
    let task = Task { hyper: &hyper, shared: &shared };
    let mut total = vec![0.0; 1 + 3 * hyper.features.len()];
    for school in schools {
        let own = WideMlp.statistics(school, &task).unwrap();
        total.iter_mut().zip(own).for_each(|(sum, value)| *sum += value);
    }
    name_sums(&WideMlp1.statistics(&hyper, shared.sizes()), &total).unwrap()
}

fn loaded(school: &[Learner], statistics: &Sums) -> Box<dyn Loaded> {
    let (hyper, shared) = (hyper(), shared());
    WideMlp.load(school, &Task { hyper: &hyper, shared: &shared }, statistics, &free()).unwrap()
}

fn evaluate(of: &dyn Loaded, weights: &[f32]) -> Result<Evaluation, ModelError> {
    let mut evaluation = Evaluation::default();
    let learners = of.held_out(weights, Keeps::Fitted, &free())?;
    learners.into_iter().flatten().for_each(|(p, right)| evaluation.observe(p, right));
    Ok(evaluation)
}

fn start() -> Vec<f32> {
    WideMlp1.layout(&hyper(), &shared()).initial()
}

fn inputs(school: &[Learner]) -> Inputs {
    let (hyper, shared) = (hyper(), shared());
    let statistics = opened(&[school.to_vec()]);
    let moments = Moments::from_sums(&statistics, 2).unwrap();
    let mut inputs =
        Inputs::new(school.iter(), &Scaling::new(&hyper, &shared, &moments), &free()).unwrap();
    inputs.number_items();
    inputs
}

fn loss(layers: &Layers, head: &Head, batch: &Batch) -> f64 {
    let logits = head.logits(batch, &layers.hidden(batch).unwrap()).unwrap();
    let one = |(z, right): (f64, &bool)| if *right { (-z).exp().ln_1p() } else { z.exp().ln_1p() };
    logits.into_iter().zip(&batch.right).map(one).sum::<f64>() / batch.len() as f64
}

#[test]
fn numbers_become_scores_bins_and_flags() {
    let school = school(1, 40);
    let inputs = inputs(&school);
    assert_eq!((inputs.width(), inputs.len(), inputs.items()), (22, 40 * 12, 6));
    let rows: Vec<usize> = (0..inputs.len()).collect();
    let batch = inputs.batch(&rows);
    let column = |place: usize| batch.values.iter().skip(place).step_by(22).copied();
    let (mut known, mut missing) = (0, 0);
    for (row, flag) in column(9).enumerate() {
        let x = &batch.values[row * 22..(row + 1) * 22];
        if flag > 0.0 {
            missing += 1;
            assert_eq!(x[0], 0.0);
        } else {
            known += 1;
            // Bins fill up from the lowest on: the piecewise linear encoding.
            assert!(x[1..9].windows(2).all(|pair| pair[1] == 0.0 || pair[0] == 1.0), "{x:?}");
        }
        assert_eq!(x[20] + x[21], 1.0, "one kind of activity");
    }
    assert!(known > missing && missing > 0);
    let mean = column(10).sum::<f32>() / inputs.len() as f32;
    // Scaled by training learners alone.
    assert!(mean.abs() < 0.1, "{mean}");
}

#[test]
fn gradients_are_those_of_the_loss() {
    let inputs = inputs(&school(2, 12));
    let rows: Vec<usize> = (0..48).collect();
    let batch = inputs.batch(&rows);
    let layers = Layers::new(&start(), inputs.width()).unwrap();
    let mut head = Head::first(inputs.width(), inputs.items());
    for (place, value) in head.values_mut().iter_mut().enumerate() {
        *value += 0.1 * (place as f32 * 0.7).sin();
    }
    let (by_layers, by_head) = layers::gradient(&layers, &head, &batch).unwrap();
    assert_eq!((by_layers.len(), by_head.len()), (layers.len(), head.len()));
    let h = 1e-2_f32;
    let difference = |change: &dyn Fn(f32) -> f64| (change(h) - change(-h)) / (2.0 * f64::from(h));
    for place in (0..layers.len()).step_by(173) {
        let slope = difference(&|by| {
            let mut moved = layers.clone();
            moved.values_mut()[place] += by;
            loss(&moved, &head, &batch)
        });
        let found = f64::from(by_layers[place]);
        assert!((slope - found).abs() < 2e-3 * (1.0 + slope.abs()), "{place}: {slope} {found}");
    }
    for (place, found) in by_head.into_iter().enumerate() {
        let slope = difference(&|by| {
            let mut moved = head.clone();
            moved.values_mut()[place] += by;
            loss(&layers, &moved, &batch)
        });
        let ridge = match place {
            place if place < 32 || place == 32 + inputs.width() => 0.0,
            place => RIDGE * head.values()[place],
        };
        let found = f64::from(found - ridge);
        assert!((slope - found).abs() < 1e-3, "{place}: {slope} {found}");
    }
}

#[test]
fn a_learners_gradient_is_the_same_by_hand() {
    let inputs = inputs(&school(3, 6));
    let layers = Layers::new(&start(), inputs.width()).unwrap();
    let head = Head::first(inputs.width(), 0);
    let mut learners = 0;
    for rows in inputs.by_learner() {
        let batch = inputs.batch(&rows.collect::<Vec<_>>());
        let (whole, _) = layers::gradient(&layers, &head, &batch).unwrap();
        let mut found = vec![0.0; layers.len()];
        for (place, value) in layers.gradient_of(&batch, &head).unwrap() {
            found[place] = value;
        }
        let furthest =
            whole.iter().zip(&found).map(|(a, b)| (f64::from(*a) - b).abs()).fold(0.0, f64::max);
        assert!(furthest < 1e-6, "{furthest}");
        learners += 1;
    }
    assert_eq!(learners, 6);
}

#[test]
fn institutions_learn_together_what_none_says() {
    let schools = [school(4, 60), school(5, 60), school(6, 60)];
    let statistics = opened(&schools);
    let loaded: Vec<_> = schools.iter().map(|school| loaded(school, &statistics)).collect();
    let total = WideMlp1.answers(&statistics);
    assert_eq!(total, 3.0 * 45.0 * 12.0);
    let mut weights = start();
    let before = evaluate(&*loaded[0], &weights).unwrap();
    for round in 1..=8 {
        let mut sum = vec![0.0; weights.len()];
        for of in &loaded {
            let moved = of.train(&weights, round, &free()).unwrap();
            assert_eq!(moved, of.train(&weights, round, &free()).unwrap(), "the same again");
            let share = of.answers() as f64 / total;
            sum.iter_mut().zip(moved).for_each(|(sum, moved)| *sum += share * moved);
        }
        weights.iter_mut().zip(sum).for_each(|(w, moved)| *w += single(moved));
    }
    let after = evaluate(&*loaded[0], &weights).unwrap();
    assert_eq!(after.n, 15.0 * 12.0);
    let (before, after) = (before.auc().unwrap(), after.auc().unwrap());
    assert!(after > 0.85 && after > before, "AUC {before} before, {after} after");
}

#[test]
fn hardly_any_records_are_no_trouble() {
    let statistics = opened(&[school(7, 40)]);
    let mut alike = school(8, 6);
    alike.iter_mut().flat_map(|l| &mut l.responses).for_each(|r| r.correct = true);
    let mut without = school(9, 6);
    without.iter_mut().for_each(|learner| learner.features = Features::default());
    let one = school(10, 2).split_off(1);
    for learners in [alike, without, one, Vec::new()] {
        let of = loaded(&learners, &statistics);
        let moved = of.train(&start(), 1, &free()).unwrap();
        assert_eq!(moved.len(), start().len());
        assert_eq!(moved.iter().all(|m| *m == 0.0), of.answers() == 0);
        let evaluation = evaluate(&*of, &start()).unwrap();
        let held_out = learners.iter().filter(|l| l.held_out).count();
        assert_eq!(evaluation.n, 12.0 * held_out as f64);
    }
    // What a broken model is made of is an error, and nothing is sent.
    let of = loaded(&school(11, 4), &statistics);
    let mut broken = start();
    broken[7] = f32::NAN;
    assert!(matches!(of.train(&broken, 1, &free()), Err(ModelError::NotFinite { .. })));
    assert!(matches!(of.train(&broken[1..], 1, &free()), Err(ModelError::WrongLength { .. })));
}

#[test]
fn training_ends_when_nobody_wants_it() {
    let school = school(12, 20);
    let of = loaded(&school, &opened(std::slice::from_ref(&school)));
    let cancelled = Effort::new(Arc::new(true.into()), 100);
    assert!(matches!(of.train(&start(), 1, &cancelled), Err(ModelError::Cancelled)));
    assert!(matches!(of.held_out(&start(), Keeps::Fitted, &cancelled), Err(ModelError::Cancelled)));
}
