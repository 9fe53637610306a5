//! What the registry does not know stays local: records with further items and competencies give the same
//! sums by name as without them.

use std::{collections::BTreeMap, sync::Arc};

use collegium_shared::{
    architecture::{self, Sizes, Stage, Sums, name_sums},
    blobs::Blobs,
    roster::Registry,
    tensors,
};

use crate::{
    model::Effort,
    prepare::input,
    records::{Learner, Response},
    session::tests::World,
    trainer::{Trainer, tests::simulated},
};

const INSTITUTIONS: u32 = 5;

/// What an institution with these records gives to the stage, by the segments' names.
fn given(
    learners: &[Learner],
    registry: &Registry,
    blobs: &Blobs,
    stage: Stage,
    sizes: Sizes,
    support: Option<&Sums>,
) -> Sums {
    let mut plan = World::new().plan_body("t", 0, 0, stage);
    plan.encoding = architecture::encoding(&plan.stage, &plan.hyper, sizes, INSTITUTIONS).unwrap();
    plan.layout = architecture::layout(&registry.competencies).digest().ok();
    plan.inputs.support = support.map(|sums| {
        // As if all of them had the same records.
        let opened =
            |values: &Vec<f64>| values.iter().map(|v| v * f64::from(INSTITUTIONS)).collect();
        let opened: Sums = sums.iter().map(|(name, v)| (name.clone(), opened(v))).collect();
        blobs.put(&tensors::write_sums(&opened).unwrap()).unwrap()
    });
    let mut trainer = Trainer::new(learners.to_vec());
    let effort = Effort::new(Arc::default(), 100);
    let values = input(&plan, registry, blobs, &mut trainer, &effort).unwrap();
    let mut whole = Vec::new();
    values.append(0, plan.encoding.dimension(), &mut whole);
    name_sums(&architecture::segments(&plan.stage, &plan.hyper, sizes), &whole).unwrap()
}

#[test]
fn what_the_registry_does_not_know_is_in_no_sum_by_name() {
    let learners = simulated(3, 1, 12).remove(0);
    let responses = || learners.iter().flat_map(|learner| &learner.responses);
    let items = responses().map(|response| response.item.clone()).collect();
    let competencies = responses().flat_map(|r| r.competencies.clone()).collect();
    let registry = Registry::new(1, competencies, items).unwrap();

    let mut more = learners.clone();
    let mut added = 0.0;
    for learner in &mut more {
        let own = Response {
            item: "our own exercise".into(),
            competencies: vec!["our own topic".into()],
            correct: true,
        };
        learner.responses.extend([own.clone(), own]);
        added += if learner.held_out { 0.0 } else { 2.0 };
    }
    assert!(added > 0.0);

    let dir = tempfile::tempdir().unwrap();
    let blobs = Blobs::open(dir.path()).unwrap();
    let both = |stage: Stage, support: Option<&Sums>| {
        let sizes = registry.sizes();
        let one = |learners| given(learners, &registry, &blobs, stage.clone(), sizes, support);
        (one(&learners), one(&more))
    };
    let (support, with_more) = both(Stage::Support, None);
    assert_eq!(support, with_more);

    let (counts, mut with_more) = both(Stage::Statistics, Some(&support));
    let by_name: BTreeMap<_, _> = counts.iter().filter(|(name, _)| *name != "base").collect();
    assert_eq!(by_name.len(), 4);
    // How many answers there are in all has no name; theirs train what all answers share.
    let base = with_more.remove("base").unwrap();
    assert_eq!(base, [counts["base"][0] + added, counts["base"][1] + added]);
    assert_eq!(by_name, with_more.iter().collect());
}
