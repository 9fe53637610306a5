//! A federation in memory, the encoded values added in the clear: what training must reach, on a
//! simulated world and (where COLLEGIUM_DATA says where it is) on real data.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use collegium_shared::architecture::{Coordinate, Stage, Sums, complete_sums, encoding, layout};
use rand::{RngExt, SeedableRng};

use super::*;
use crate::{
    evaluate::{Quality, across, pooled},
    import::{Mapping, read_all},
    model::features::tests::{assert_close, synthetic, synthetic_competencies},
};

/// What all records in one place reach, on all held-out answers.
fn central(institutions: &[Vec<Learner>], hyper: &Hyper) -> Quality {
    let model = pooled(institutions, hyper, &Effort::new(Arc::default(), 100)).unwrap();
    across(institutions, |_| Ok(model.clone())).unwrap().together
}

/// What a coordinator knows after a task.
pub(crate) struct Run {
    pub(crate) shared: SharedSets,
    pub(crate) statistics: SharedStatistics,
    /// The evaluation of the start and of the model after each step.
    pub(crate) evaluations: Vec<Evaluation>,
    pub(crate) weights: Vec<f32>,
}

/// One institution's snapshot; the federation sums what their stages return.
struct Federation {
    trainers: Vec<Trainer>,
    /// The share of institutions that take part in a training step.
    participation: f64,
    rng: rand_chacha::ChaCha20Rng,
}

impl Federation {
    fn sum(&mut self, stage: &Stage, hyper: &Hyper, shared: &SharedSets, work: Work<'_>) -> Sums {
        let go = Effort::new(Arc::default(), 100);
        let training = matches!(stage, Stage::Train { .. });
        let sizes = shared.sizes();
        let n_max = u32::try_from(self.trainers.len()).unwrap();
        let encoding = encoding(stage, hyper, sizes, n_max).unwrap();
        let mut total = vec![0_u32; encoding.dimension()];
        for trainer in &mut self.trainers {
            if training && self.rng.random::<f64>() >= self.participation {
                continue;
            }
            let encoded = encoding.encode(&trainer.run_stage(work, &go).unwrap()).unwrap();
            assert_eq!(encoded.clipped, 0, "{stage:?}");
            let words = total.iter_mut().zip(encoded.words);
            words.for_each(|(sum, word)| *sum = sum.wrapping_add(word));
        }
        let mut sums = encoding.decode_sum(&total).unwrap();
        complete_sums(&mut sums, stage, hyper, sizes);
        sums
    }
}

/// A whole task in memory over everything that `threshold` institutions have.
pub(crate) fn federate(
    institutions: Vec<Vec<Learner>>,
    hyper: &Hyper,
    rounds: u32,
    threshold: u32,
) -> Run {
    federate_some(institutions, hyper, rounds, threshold, 1.0)
}

/// [`federate`] with a share of the institutions in each training step, drawn with a fixed seed.
fn federate_some(
    institutions: Vec<Vec<Learner>>,
    hyper: &Hyper,
    rounds: u32,
    threshold: u32,
    participation: f64,
) -> Run {
    let registry = registry(&institutions);
    let trainers = institutions.into_iter().map(Trainer::new).collect();
    let rng = rand_chacha::ChaCha20Rng::seed_from_u64(0);
    let mut all = Federation { trainers, participation, rng };
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

    let server = hyper.optimizer.server;
    let mut at = server.coordinates(&layout(&shared.competencies).initial());
    let mut evaluations = Vec::new();
    let (shared, statistics, totals) = (&shared, &statistics, &totals);
    for step in 1..=rounds {
        let [start, candidate] = &Coordinate::models(&at);
        let work = Work::Train { shared, statistics, totals, hyper, start, candidate };
        let sums = all.sum(&Stage::Train { step }, hyper, shared, work);
        evaluations.push(Evaluation::from_segments(&sums).unwrap());
        let moves = at.iter_mut().zip(&sums["move"]);
        moves.for_each(|(at, moved)| *at = server.advance(step, *at, *moved));
    }
    let [_, candidate] = Coordinate::models(&at);
    let work = Work::Evaluate { shared, statistics, candidate: &candidate };
    let sums = all.sum(&Stage::Evaluate, hyper, shared, work);
    evaluations.push(Evaluation::from_segments(&sums).unwrap());
    let (shared, statistics) = (shared.clone(), statistics.clone());
    Run { shared, statistics, evaluations, weights: candidate }
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
    let mut rng = rand_chacha::ChaCha20Rng::seed_from_u64(seed);
    let skills: Vec<_> = (0..6).map(|k| format!("skill-{k}")).collect();
    let easiness: Vec<f64> = (0..60).map(|_| rng.random_range(-2.0..2.0)).collect();
    let growth: Vec<f64> = (0..6).map(|_| rng.random_range(0.0..0.3)).collect();
    let mut world = Vec::new();
    for s in 0..institutions {
        let kind = s % 3;
        let level = kind as f64 * 0.5 - 0.5;
        let mut school = Vec::new();
        for u in 0..learners {
            let ability: Vec<f64> = (0..6).map(|_| level + rng.random_range(-1.5..1.5)).collect();
            let mut practice = [0.0; 6];
            let mut responses = Vec::new();
            for _ in 0..25 {
                // Catalogues overlap in the middle only.
                let item: usize = rng.random_range(kind * 10..kind * 10 + 40);
                let first = item % 6;
                let second = (item * 7 + 1) % 6;
                let of = if item.is_multiple_of(5) && second != first {
                    vec![first, second]
                } else {
                    vec![first]
                };
                let known: f64 = of.iter().map(|k| ability[*k] + growth[*k] * practice[*k]).sum();
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
                features: Default::default(),
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
    let go = Effort::new(Arc::default(), 100);
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
    let central = central(&world, &Hyper::default()).auc.unwrap();
    let (first, last) = (run.evaluations.first().unwrap(), run.evaluations.last().unwrap());
    let (start, federated) = (first.auc().unwrap(), last.auc().unwrap());
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

/// The encoding is coarse where many institutions are summed; what each of them has little of must
/// survive it.
#[test]
fn many_small_institutions_reach_the_pooled_model() {
    let world = simulated(13, 200, 6);
    let run = federate(world.clone(), &Hyper::default(), 30, 1);
    let central = central(&world, &Hyper::default());
    let last = run.evaluations.last().unwrap();
    let (auc, loss) = (last.auc().unwrap(), last.log_loss().unwrap());
    assert!((auc - central.auc.unwrap()).abs() < 0.004, "{auc} {central:?}");
    assert!((loss - central.log_loss.unwrap()).abs() < 0.004, "{loss} {central:?}");
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
fn features_and_evaluations_end_with_the_stage() {
    let learners = synthetic();
    let shared = SharedSets { items: Vec::new(), competencies: synthetic_competencies() };
    let statistics = training_counts(&learners);
    let (go, stop) = (Effort::new(Arc::default(), 100), Effort::new(Arc::new(true.into()), 100));
    let mut trainer = Trainer::new(learners);
    let totals = Work::Totals { shared: &shared, statistics: &statistics };
    assert!(matches!(trainer.run_stage(totals, &stop), Err(ModelError::Cancelled)));
    assert!(trainer.prepared.is_none(), "no features were computed in vain");
    trainer.run_stage(totals, &go).unwrap();
    let prepared = trainer.prepared.unwrap();
    let candidate = vec![0.0; prepared.held_out.parameters()];
    assert!(matches!(prepared.evaluate(&candidate, &stop), Err(ModelError::Cancelled)));
    assert!(prepared.evaluate(&candidate, &go).is_ok());
}

#[test]
fn an_institution_without_training_answers_contributes_nothing() {
    let mut world = simulated(5, 2, 20);
    world[1].iter_mut().for_each(|l| l.held_out = true);
    let run = federate(world, &Hyper::default(), 1, 1);
    assert_eq!(run.statistics.base.0, 16.0 * 25.0);
    assert_eq!(run.evaluations[0].n, 24.0 * 25.0);
}

/// Every institution's learners of a real data set, or nothing where it is not at hand.
fn real(file: &str, mapping: &str) -> Option<Vec<Vec<Learner>>> {
    let Some(directory) = std::env::var_os("COLLEGIUM_DATA") else {
        println!("left out: COLLEGIUM_DATA does not say where {file} is");
        return None;
    };
    let mappings = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/mappings");
    let mapping = Mapping::load(&mappings.join(mapping)).unwrap();
    let all = read_all(&PathBuf::from(directory).join(file), &mapping).unwrap();
    Some(all.institutions.into_values().collect())
}

/// The means of the dense features over all answers, counts pooled.
fn feature_means(institutions: &[Vec<Learner>]) -> Vec<f64> {
    let counts = training_counts(institutions.iter().flatten());
    let statistics = Statistics::new(&counts, &counts);
    let design = Design::new(institutions.iter().flatten(), &statistics, &[]);
    let mut means = vec![0.0; 17];
    for row in design.rows() {
        row.dense.iter().zip(&mut means).for_each(|(x, sum)| *sum += x / design.len() as f64);
    }
    means
}

/// Trains federated, at half participation and pooled; returns the pooled AUC of the first.
fn compare(name: &str, institutions: Vec<Vec<Learner>>) -> f64 {
    let hyper = Hyper::default();
    let central = central(&institutions, &hyper).auc.unwrap();
    let last = |run: Run| run.evaluations.last().unwrap().auc().unwrap();
    let began = tokio::time::Instant::now();
    let full = last(federate(institutions.clone(), &hyper, 30, 1));
    let took = began.elapsed();
    let half = last(federate_some(institutions, &hyper, 30, 1, 0.5));
    println!("{name}: pooled {central:.4}, federated {full:.4} ({took:.1?}), half {half:.4}");
    assert!((full - central).abs() <= 0.002, "{full} {central}");
    assert!((half - central).abs() <= 0.003, "{half} {central}");
    full
}

#[test]
fn real_timss11() {
    let Some(institutions) = real("timss11_schools.parquet", "timss11.toml") else { return };
    let expected = [
        1.0,
        1.702731738276027,
        1.6538934500124622,
        0.009805945312851262,
        0.0,
        0.0,
        0.07030394765752068,
        0.016337383458315573,
        0.006588244923957488,
        0.0012361004574356277,
        0.38887205494792687,
        0.44320514712755027,
        -0.002250946631523906,
        -0.001470312064808507,
        0.7595180086079736,
        -0.0005507673611633568,
        0.0007802360711410566,
    ];
    assert_close(&feature_means(&institutions), &expected, 1e-9);
    assert!(compare("timss11", institutions) >= 0.793);
}

#[test]
fn real_assist09() {
    let Some(institutions) = real("assist09.parquet", "assist09.toml") else { return };
    let expected = [
        1.0,
        4.453923232357249,
        3.6182391119863166,
        0.185085756000236,
        0.007403926349014409,
        0.0037858452901055797,
        0.9627882033303121,
        0.008534991349617023,
        0.01877429828114492,
        -0.10366820058753858,
        0.09222750646394003,
        0.3146953381522732,
        0.004973837546395821,
        0.004466109555867878,
        1.9934664064953913,
        0.024804040351582967,
        -0.047568301224753966,
    ];
    assert_close(&feature_means(&institutions), &expected, 1e-9);
    assert!(compare("assist09", institutions) >= 0.778);
}

fn responses(learners: &mut [Vec<Learner>]) -> impl Iterator<Item = &mut crate::records::Response> {
    learners.iter_mut().flatten().flat_map(|learner| &mut learner.responses)
}

/// The first of them answered all rightly, and the second one all wrongly: nothing is infinite, and the
/// others learn as they would.
#[test]
fn institutions_whose_answers_are_all_of_one_kind_do_no_harm() {
    let mut institutions = simulated(7, 4, 40);
    for (place, correct) in [(0, true), (1, false)] {
        responses(&mut institutions[place..=place]).for_each(|answer| answer.correct = correct);
    }
    let run = federate(institutions, &Hyper::default(), 10, 2);
    let losses: Vec<f64> = run.evaluations.iter().map(|e| e.log_loss().unwrap()).collect();
    assert!(losses.iter().all(|loss| loss.is_finite()), "{losses:?}");
    assert!(losses[10] < losses[0], "{losses:?}");
    assert!(run.weights.iter().all(|w| w.is_finite() && w.abs() < 50.0));
}

/// Alone of its institution, in training or held out; and an institution without any.
#[test]
fn institutions_with_one_learner_or_none_take_part() {
    let mut institutions = simulated(7, 4, 40);
    for (place, held_out) in [(1, false), (2, true)] {
        institutions[place].truncate(1);
        institutions[place][0].held_out = held_out;
    }
    institutions[3].clear();
    let run = federate(institutions, &Hyper::default(), 5, 1);
    let start = layout(&run.shared.competencies).initial();
    assert!(run.weights.iter().all(|w| w.is_finite()) && run.weights != start);
    // Hardly anybody is held out, so that little is learned of how good the model is.
    let losses: Vec<f64> = run.evaluations.iter().map(|e| e.log_loss().unwrap()).collect();
    assert!(losses[5] < losses[0] + 0.02, "{losses:?}");
}

/// One learner answers the same item so often that no feature of counts is small any more, and published
/// counts come as large as they are summed at all.
#[test]
fn huge_counts_stay_finite() {
    let mut learners = simulated(7, 1, 8).remove(0);
    let learner = learners.iter_mut().find(|learner| !learner.held_out).unwrap();
    let answer = learner.responses[0].clone();
    learner.responses = vec![answer; 20_000];
    let mut trainer = Trainer::new(learners.clone());
    let shared = registry(&[learners]);
    let most = 4_194_304.0 * 256.0;
    let all = |names: &[String]| names.iter().map(|name| (name.clone(), (most, most))).collect();
    let statistics = SharedStatistics {
        base: (most, most),
        skills: all(&shared.competencies),
        items: all(&shared.items),
        ..SharedStatistics::default()
    };
    let go = Effort::new(Arc::default(), 100);
    let work = Work::Totals { shared: &shared, statistics: &statistics };
    let values = trainer.run_stage(work, &go).unwrap();
    let totals = Totals { examples: values[0], curvature: values[1..].to_vec() };
    let start = &layout(&shared.competencies).initial();
    let hyper = &Hyper::default();
    let (shared, statistics, totals) = (&shared, &statistics, &totals);
    let work = Work::Train { shared, statistics, totals, hyper, start, candidate: start };
    let values = trainer.run_stage(work, &go).unwrap();
    let moves = &values[..start.len()];
    assert!(moves.iter().all(|z| z.abs() <= hyper.optimizer.bound));
    assert!(moves.iter().map(|z| z * z).sum::<f64>().sqrt() <= hyper.optimizer.norm * 1.000_001);
}

/// Steps that are absurdly long: the move is clipped, and what cannot be evaluated any more is an error, which
/// makes the institution contribute zeros.
#[test]
fn a_model_that_diverges_moves_no_further_than_the_bounds() {
    let hyper: Hyper = serde_json::from_str(
        r#"{"optimizer":{"name":"fedavg","learning_rate":100,"local_steps":3,"bound":100,"norm":150}}"#,
    )
    .unwrap();
    let run = federate(simulated(7, 3, 30), &hyper, 4, 2);
    let losses: Vec<f64> = run.evaluations.iter().map(|e| e.log_loss().unwrap()).collect();
    assert!(losses[4] > losses[0] + 2.0 * std::f64::consts::LN_2, "{losses:?}");
    assert!(run.weights.iter().all(|w| w.abs() <= 4.0 * 3.0 * 100.0 + 1.0));
}
