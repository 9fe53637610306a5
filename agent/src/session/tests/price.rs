//! Private plans: what their noise asks of a sum, and what they may cost.

use collegium_shared::architecture::{self, LearnerPrivacy, Sizes, Target};

use super::*;
use crate::ledger::Budget;

impl World {
    /// A step of a private task of one step, with noise of so many.
    fn private_body(&self, round: u32, parties: u16, epsilon: f64) -> Plan {
        let mut body = self.plan_body("t", round, 0, Stage::Train { step: 1 });
        let target = Target { epsilon, delta: 1e-6 };
        body.hyper.privacy = Some(LearnerPrivacy::propose(target, 1, parties).unwrap());
        let sizes = Sizes { items: 3, competencies: 2 };
        body.encoding = architecture::encoding(&body.stage, &body.hyper, sizes, 5).unwrap();
        body
    }
}

/// The input of an attempt that came to nothing is the same release in the next one.
#[test]
fn a_retry_with_the_same_input_needs_no_room_in_the_budget() {
    let mut world = World::new();
    world.policy.privacy = Some(Budget { epsilon: 4.0, delta: 1e-6, days: 365, strict: false });
    let first = world.private_body(0, 2, 4.0);
    let mut history = History::default();
    world.go(&mut history, &world.view(first.clone())).unwrap();
    let charges = architecture::charges(&first).unwrap().unwrap();
    (0..3).for_each(|_| {
        world.ledger.charge((first.round.clone(), "train"), 1, charges.clone(), at(9))
    });
    let mut retry = first;
    retry.round.attempt = 1;
    assert!(history.reusable_input(&retry).is_some());
    assert!(world.go(&mut history.clone(), &world.view(retry.clone())).is_ok());
    let dearer = Plan { round: retry.round.clone(), ..world.private_body(0, 2, 5.0) };
    assert!(world.go(&mut history, &world.view(dearer)).is_err(), "another input");
    assert!(world.go(&mut History::default(), &world.view(retry)).is_err(), "it has none");
}

#[test]
fn a_plan_for_another_purpose_than_consented_to_is_refused() {
    let mut world = World::new();
    let ask = |world: &World, purpose: Option<&str>| {
        let purpose = purpose.map(|purpose| purpose.parse().unwrap());
        let body = world.plan_body("t", 0, 0, Stage::Train { step: 1 });
        let view = world.view(Plan { purpose, ..body });
        world.go(&mut History::default(), &view).map_err(|error| error.to_string())
    };
    assert!(ask(&world, None).is_ok() && ask(&world, Some("marketing")).is_ok());
    world.policy.purposes = Some(vec!["recommendation".parse().unwrap()]);
    assert!(ask(&world, Some("recommendation")).is_ok());
    assert!(ask(&world, Some("marketing")).unwrap_err().contains("the purpose marketing"));
    assert!(ask(&world, None).unwrap_err().contains("names no purpose"));
}

/// With noise that four institutions make together, three of which would be too few.
#[test]
fn a_sum_with_too_little_noise_gets_no_vote() {
    let world = World::new();
    let with = |parties| world.view(world.private_body(0, parties, 4.0));
    let vote = |parties, who: &[&str]| {
        let dealt = world.dealt(&world.listed(&with(parties), &FOUR), &FOUR);
        world.go(&mut world.until(&dealt), &world.proposed(&dealt, who))
    };
    let refused = Refusal::TooFewHonest { survivors: 3, c_max: 1, min_honest: 3 };
    assert_eq!(vote(3, &["a", "b", "c"]).unwrap_err(), refused, "one of the three may collude");
    assert!(vote(3, &FOUR).is_ok());
    assert!(vote(2, &["a", "b", "c"]).is_ok());
    let listed = world.listed(&with(4), &FOUR);
    let step =
        world.go(&mut world.until(&RoundView { phase: Phase::Ready, ..listed.clone() }), &listed);
    assert_eq!(
        step.unwrap_err(),
        Refusal::SmallCohort { given: 4, needed: 5 },
        "nobody deals in vain"
    );
}

#[test]
fn a_budget_lets_in_what_is_paid_for_and_nothing_without_noise() {
    let mut world = World::new();
    // The step costs a third of what the task may.
    let private = |parties, epsilon| world.private_body(0, parties, epsilon);
    let (fits, alone, dear) = (private(2, 4.0), private(1, 4.0), private(2, 400.0));
    let exact = world.plan_body("t", 0, 0, Stage::Train { step: 1 });
    world.policy.privacy = Some(Budget { epsilon: 4.0, delta: 1e-6, days: 365, strict: false });
    let ask = |world: &World, plan: &Plan| {
        world.go(&mut History::default(), &world.view(plan.clone())).map_err(|e| e.to_string())
    };
    assert!(ask(&world, &fits).is_ok());
    assert!(ask(&world, &exact).unwrap_err().contains("sums without noise"));
    assert!(ask(&world, &dear).unwrap_err().contains("past this institution's budget of 4"));
    let mut ledger = Ledger::default();
    let charges = architecture::charges(&fits).unwrap().unwrap();
    for round in 0..3 {
        assert!(ask(&world, &fits).is_ok(), "{round} were paid for");
        let round = RoundId { round, ..fits.round.clone() };
        ledger.charge((round, "train"), 1, charges.clone(), at(9));
        world.ledger = ledger.clone();
    }
    assert!(ask(&world, &fits).unwrap_err().contains("not paid for"));
    let mut load = exact;
    load.architecture = "load-test/1".into();
    world.policy.architectures.push("load-test/1".into());
    assert!(ask(&world, &load).is_ok(), "no records have any part in it");
    world.ledger = Ledger::default();
    world.policy.privacy = Some(Budget { epsilon: 4.0, delta: 1e-6, days: 365, strict: true });
    assert!(ask(&world, &alone).is_ok());
    assert!(ask(&world, &fits).unwrap_err().contains("make together"));
}
