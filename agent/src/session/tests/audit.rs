//! Bias audits over the same records: of the same institutions and the same groups, or not at all.

use collegium_shared::architecture::BiasQuestion;

use super::*;

const FIVE: [&str; 5] = ["a", "b", "c", "d", "e"];

impl World {
    /// The plan of an audit's second sum.
    fn audit_body(&self, task: &str, scope: &str, support: &[u8]) -> Plan {
        let mut body = self.plan_body(task, 1, 0, Stage::Audit);
        body.architecture = "bias-audit/1".into();
        body.inputs.support = Some(Digest::of(support));
        let (model, scope) = (Digest::of(task.as_bytes()), toml::from_str(scope).unwrap());
        body.hyper.audit = Some(Box::new(BiasQuestion { model, scope }));
        body
    }
}

const SEX: &str = "attributes.sex = [\"F\", \"M\"]\n";

#[test]
fn an_audit_has_to_be_named_by_the_policy_and_has_no_part_in_a_budget() {
    let mut world = World::new();
    let ask = |world: &World| {
        let view = world.view(world.audit_body("t", SEX, b"support"));
        world.go(&mut History::default(), &view).map_err(|error| error.to_string())
    };
    assert!(ask(&world).unwrap_err().contains("architecture bias-audit/1"));
    world.policy.architectures.push("bias-audit/1".into());
    assert!(ask(&world).is_ok());
    let budget = crate::ledger::Budget { epsilon: 4.0, delta: 1e-6, days: 365, strict: false };
    world.policy.privacy = Some(budget);
    assert!(ask(&world).unwrap_err().contains("sums without noise"));
}

#[test]
fn audits_over_the_same_records_count_the_same_groups_of_the_same_institutions() {
    let mut world = World::new();
    world.policy.architectures.push("bias-audit/1".into());
    let round = |body: Plan, survivors: &[&str]| {
        let view = world.view(body);
        world.proposed(&world.dealt(&world.listed(&view, &FIVE), &FIVE), survivors)
    };
    let first = world.audit_body("one", SEX, b"support");
    let id = first.round.clone();
    let given = world.until(&round(first, &FIVE));
    let vote =
        |body: Plan, survivors: &[&str]| world.follow(&mut given.clone(), &round(body, survivors));
    // Another model, other thresholds.
    let more = format!("{SEX}thresholds.auc = 0.2");
    assert!(vote(world.audit_body("two", &more, b"support"), &FIVE).is_ok());
    let missing = vote(world.audit_body("two", SEX, b"support"), &FOUR).unwrap_err();
    assert_eq!(missing, Refusal::OtherInstitutions { round: id.clone() });
    // Fewer who are asked what they would be recommended: the difference is of those in between.
    let exposed = format!("{SEX}exposure_learners = 49");
    let refused = vote(world.audit_body("two", &exposed, b"support"), &FIVE).unwrap_err();
    assert_eq!(refused, Refusal::OtherGroups { round: id.clone() });
    // With another number of institutions that have to support a group, other groups are summed.
    let mut wary = world.audit_body("two", SEX, b"support");
    wary.cohort.min_honest += 1;
    let refused = vote(wary, &FIVE).unwrap_err();
    assert_eq!(refused, Refusal::OtherGroups { round: id.clone() });
    for (scope, support) in [
        (format!("{SEX}attributes.disability = [\"Y\"]"), "support"),
        ("attributes.sex = [\"F\"]".to_owned(), "support"),
        (format!("{SEX}smallest_part = 5"), "support"),
        (SEX.to_owned(), "another support"),
    ] {
        let refused = vote(world.audit_body("two", &scope, support.as_bytes()), &FIVE);
        assert_eq!(refused.unwrap_err(), Refusal::OtherGroups { round: id.clone() }, "{scope}");
    }
    // An audit is none of the sums of training.
    let mut history = given.clone();
    let training = world.view(world.plan_body("kt", 0, 0, Stage::Support));
    let dealt = world.dealt(&world.listed(&training, &FIVE), &FIVE);
    world.catch_up(&mut history, &dealt);
    assert!(world.go(&mut history, &world.proposed(&dealt, &FOUR)).is_ok());
    // By a stricter policy fewer learners count here: the difference would be this institution's own.
    world.permitted = Some(Digest::of(b"stricter"));
    let view = world.view(world.audit_body("two", SEX, b"support"));
    let refused = world.follow(&mut given.clone(), &world.listed(&view, &FIVE)).unwrap_err();
    assert_eq!(refused, Refusal::OtherGroups { round: id });
}

#[test]
fn evaluations_over_the_same_records_are_of_the_same_institutions() {
    let mut world = World::new();
    world.policy.architectures.push("evaluation/1".into());
    let body = |task: &str, registry: &[u8]| {
        let mut body = world.plan_body(task, 1, 0, Stage::Audit);
        body.architecture = "evaluation/1".into();
        body.hyper.evaluation = Some(Box::new(Digest::of(task.as_bytes())));
        body.registry = Digest::of(registry);
        body
    };
    let round = |body: Plan, survivors: &[&str]| {
        world.proposed(&world.dealt(&world.listed(&world.view(body), &FIVE), &FIVE), survivors)
    };
    let first = body("one", b"registry");
    let id = first.round.clone();
    let given = world.until(&round(first, &FIVE));
    let vote =
        |body: Plan, survivors: &[&str]| world.follow(&mut given.clone(), &round(body, survivors));
    // Of another model, and whatever registry is in force.
    for registry in [b"registry", b"another."] {
        assert!(vote(body("two", registry), &FIVE).is_ok());
        let missing = vote(body("two", registry), &FOUR).unwrap_err();
        assert_eq!(missing, Refusal::OtherInstitutions { round: id.clone() });
    }
    // An audit of fewer, less the evaluation, would be of those in between.
    world.policy.architectures.push("bias-audit/1".into());
    let audited = |listed: &[&str]| {
        let view = world.view(world.audit_body("audit", SEX, b"support"));
        world.follow(&mut given.clone(), &world.dealt(&world.listed(&view, listed), listed))
    };
    assert!(audited(&FIVE).is_ok());
    assert_eq!(audited(&FOUR).unwrap_err(), Refusal::OtherInstitutions { round: id });
}
