//! The input of a bias audit: checks that the plan asks for nothing but what its scope says, over the model
//! that serves here, and runs it over the groups that the policy permits. Trains nothing.

use collegium_shared::{
    architecture::{
        BIAS_AUDIT_1, BiasQuestion, Stage,
        bias_audit::{encoding, shared_cells},
    },
    blobs::Blobs,
    crypto::Digest,
    protocol::Plan,
    tensors,
};

use super::{HEADER, PrepareError, Values, check_encoding, check_support};
use crate::{
    bias::{Audited, Permitted},
    model::{Effort, Released},
    records::Learner,
};

/// The most bytes of a support sum: one number for each of at most 512 groups.
const MAX_SUPPORT: u64 = 8 * 512 + HEADER;

/// Whether this is the plan of an audit.
pub fn is_audit(plan: &Plan) -> bool {
    plan.architecture == BIAS_AUDIT_1
}

/// What the plan asks; nothing else may ride in it.
pub fn question(plan: &Plan) -> Result<&BiasQuestion, PrepareError> {
    let form = |reason: &str| PrepareError::Encoding(reason.to_owned());
    if plan.layout.is_some() || plan.hyper.privacy.is_some() {
        return Err(form("an audit has no parameters and no noise"));
    }
    if !matches!(plan.stage, Stage::Support | Stage::Audit) {
        return Err(form("an audit has two sums: support and audit"));
    }
    plan.hyper.audit.as_deref().ok_or(PrepareError::Missing("audit"))
}

/// Which learners an audit counts and how it tells them apart: by its attributes, the smallest part, how many are
/// asked what they would be recommended, and the groups that are summed, which follow from the support sum and
/// the fewest institutions. None of any other plan. Two audits over the same records have to agree in it, or
/// their difference is of the learners whom only one counts.
pub fn groups(plan: &Plan) -> Option<Digest> {
    let scope = &plan.hyper.audit.as_ref()?.scope;
    // Names and lists of names always have a JSON form.
    let attributes = serde_json::to_vec(&scope.attributes).unwrap_or_default();
    let support = plan.inputs.support.map(|support| *support.as_bytes()).unwrap_or_default();
    let least = (plan.cohort.least() as u64).to_be_bytes();
    let [part, exposed] = [scope.smallest_part, scope.exposure_learners].map(u32::to_be_bytes);
    let parts = [attributes.as_slice(), &part, &exposed, &least, &support];
    Some(Digest::of_parts("collegium/v1/bias-audit/groups", &parts))
}

/// The opened sum that the stage goes by.
pub(super) fn inputs(plan: &Plan) -> Result<Vec<Digest>, PrepareError> {
    question(plan)?;
    match plan.stage {
        Stage::Audit => Ok(vec![plan.inputs.support.ok_or(PrepareError::Missing("support"))?]),
        _ => Ok(Vec::new()),
    }
}

/// This institution's part in the plan's stage. `model` is the one that the plan names, and `snapshot` identifies
/// the records.
pub fn input(
    plan: &Plan,
    blobs: &Blobs,
    permitted: &Permitted,
    (model, learners, snapshot): (&Released, &[Learner], Digest),
    effort: &Effort,
) -> Result<Values, PrepareError> {
    let scope = &question(plan)?.scope;
    let n_max = plan.encoding.n_max();
    let audited = Audited::new(scope, permitted, (learners, snapshot));
    if plan.stage == Stage::Support {
        check_encoding(&plan.encoding, &encoding(&plan.stage, scope, 0, n_max)?)?;
        return Ok(Values::Computed(audited.support()));
    }
    let shared = shared(plan, blobs)?;
    let count = shared.iter().filter(|shared| **shared).count();
    check_encoding(&plan.encoding, &encoding(&plan.stage, scope, count, n_max)?)?;
    Ok(Values::Computed(audited.sums(&shared, (model, learners), effort)?))
}

/// The groups that enough institutions support, by the sum that the plan names.
fn shared(plan: &Plan, blobs: &Blobs) -> Result<Vec<bool>, PrepareError> {
    let what = "support sum";
    let digest = plan.inputs.support.ok_or(PrepareError::Missing("support"))?;
    let bytes = blobs.read(&digest, MAX_SUPPORT)?;
    let sums =
        tensors::read_sums(&bytes).map_err(|reason| PrepareError::Tensors { what, reason })?;
    check_support(&sums)?;
    let shared = shared_cells(&question(plan)?.scope, &sums, plan.cohort.least());
    shared.ok_or(PrepareError::Support)
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, sync::Arc};

    use collegium_shared::{
        architecture::{Hyper, Sums, bias_audit::CELLS},
        params::Encoding,
    };

    use super::*;
    use crate::{
        model::Model,
        session::tests::World,
        trainer::tests::{federate, simulated},
    };

    const N: u32 = 5;

    struct Fixture {
        _dir: tempfile::TempDir,
        blobs: Blobs,
        learners: Vec<Learner>,
        model: Released,
    }

    impl Fixture {
        fn new() -> Self {
            let mut world = simulated(5, 1, 60);
            let run = federate(world.clone(), &Hyper::default(), 2, 1);
            let model = Model::new(&run.shared.competencies, run.statistics, &run.weights).unwrap();
            let model = Released::Logistic(model);
            let mut learners = world.remove(0);
            learners
                .iter_mut()
                .for_each(|l| l.attributes = BTreeMap::from([("sex".into(), "F".into())]));
            let dir = tempfile::tempdir().unwrap();
            let blobs = Blobs::open(&dir.path().join("blobs")).unwrap();
            Self { _dir: dir, blobs, learners, model }
        }

        fn support(&self, bits: [f64; 3]) -> Digest {
            let sums = Sums::from([(CELLS.to_owned(), bits.to_vec())]);
            self.blobs.put(&tensors::write_sums(&sums).unwrap()).unwrap()
        }

        fn plan(&self, stage: Stage, shared: usize) -> Plan {
            let mut plan = World::new().plan_body("audit", 1, 0, stage);
            let scope =
                toml::from_str("attributes.sex = [\"F\", \"M\"]\nsmallest_cell = 5").unwrap();
            plan.architecture = BIAS_AUDIT_1.to_owned();
            plan.layout = None;
            plan.encoding = encoding(&plan.stage, &scope, shared, N).unwrap();
            let model = Digest::of(b"model");
            plan.hyper.audit = Some(Box::new(BiasQuestion { model, scope }));
            plan.inputs.support = Some(self.support([f64::from(N), 0.0, 0.0]));
            plan
        }

        fn run(&self, plan: &Plan) -> Result<Vec<f64>, PrepareError> {
            let attributes = ["sex".to_owned()].into();
            let permitted = Permitted { attributes, smallest_part: 0 };
            let go = Effort::new(Arc::default(), 100);
            let of = (&self.model, self.learners.as_slice(), Digest::of(b"records"));
            match input(plan, &self.blobs, &permitted, of, &go)? {
                Values::Computed(values) => Ok(values),
                _ => panic!("other values"),
            }
        }
    }

    #[test]
    fn both_sums_have_the_plans_vector() {
        let fixture = Fixture::new();
        let support = fixture.plan(Stage::Support, 0);
        assert_eq!(fixture.run(&support).unwrap(), [1.0, 0.0, 0.0]);
        assert_eq!(inputs(&support).unwrap(), []);
        let audit = fixture.plan(Stage::Audit, 1);
        let values = fixture.run(&audit).unwrap();
        assert_eq!(values.len(), audit.encoding.dimension());
        assert!(values[0] >= 5.0);
        assert_eq!(inputs(&audit).unwrap(), [audit.inputs.support.unwrap()]);
        assert!(audit.encoding.encode(&values).is_ok_and(|q| q.clipped == 0));
    }

    #[test]
    fn a_plan_for_anything_else_is_refused() {
        let fixture = Fixture::new();
        let refused = |change: &dyn Fn(&mut Plan)| {
            let mut plan = fixture.plan(Stage::Audit, 1);
            change(&mut plan);
            fixture.run(&plan).unwrap_err().to_string()
        };
        assert!(refused(&|plan| plan.hyper.audit = None).contains("audit"));
        assert!(refused(&|plan| plan.stage = Stage::Totals).contains("two sums"));
        assert!(refused(&|plan| plan.layout = Some(Digest::of(b"l"))).contains("no parameters"));
        assert!(refused(&|plan| plan.inputs.support = None).contains("support"));
        let bits = |bits| Some(fixture.support(bits));
        assert!(refused(&|plan| plan.inputs.support = bits([5.0, 5.0, 0.0])).contains("segment"));
        assert!(refused(&|plan| plan.inputs.support = bits([257.0, 0.0, 0.0])).contains("support"));
        let more = refused(&|plan| {
            let own = plan.encoding.segments().iter().map(|s| (s.name.clone(), s.len, s.bound));
            let more = own.chain([("one-learner".to_owned(), 1, 1.0)]);
            plan.encoding = Encoding::new(more, N).unwrap();
        });
        assert!(more.contains("13 segments"), "{more}");
    }
}
