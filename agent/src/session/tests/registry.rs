//! Which registry a task goes by here.

use super::*;

#[test]
fn a_task_goes_on_over_the_registry_that_it_began_with_and_no_other_task_does() {
    let world = World::new();
    let plan = |task: &str, round: u32, registry: &[u8]| {
        let mut plan = world.plan_body(task, round, 0, Stage::Train { step: 1 });
        plan.registry = Digest::of(registry);
        plan
    };
    let mut history = History::default();
    assert!(!history.goes_on_over(&plan("t", 0, b"one")), "nothing began");
    world.go(&mut history, &world.view(plan("t", 0, b"one"))).unwrap();
    assert!(history.goes_on_over(&plan("t", 1, b"one")));
    assert!(!history.goes_on_over(&plan("t", 1, b"two")), "not in the middle of a task");
    assert!(!history.goes_on_over(&plan("u", 0, b"one")), "an older registry begins nothing");
}
