//! The input of a federated evaluation: checks that the plan asks for nothing else, and compares the model
//! that serves here. Trains nothing that is kept.

use collegium_shared::{
    architecture::{EVALUATION_1, Stage, comparison::encoding},
    crypto::Digest,
    protocol::Plan,
};

use super::{PrepareError, Values, check_encoding};
use crate::{
    evaluate::federated::comparison,
    model::{Effort, Released},
    records::Learner,
};

/// Whether this is the plan of a federated evaluation.
pub fn is_evaluation(plan: &Plan) -> bool {
    plan.architecture == EVALUATION_1
}

/// The manifest of the model that is evaluated; nothing else may ride in the plan.
pub(super) fn question(plan: &Plan) -> Result<Digest, PrepareError> {
    let form = |reason: &str| PrepareError::Encoding(reason.to_owned());
    if plan.layout.is_some() || plan.hyper.privacy.is_some() || plan.hyper.audit.is_some() {
        return Err(form("an evaluation has no parameters, no noise and no groups"));
    }
    if plan.stage != Stage::Audit {
        return Err(form("an evaluation has one sum: audit"));
    }
    plan.hyper.evaluation.as_deref().copied().ok_or(PrepareError::Missing("evaluation"))
}

/// This institution's part. `released` is the model that the plan names; `least` the fewest learners that the
/// policy lets a sum be about, and `snapshot` identifies the records.
pub fn input(
    plan: &Plan,
    (released, learners): (&Released, &[Learner]),
    (snapshot, least): (Digest, u32),
    effort: &Effort,
) -> Result<Values, PrepareError> {
    question(plan)?;
    check_encoding(&plan.encoding, &encoding(plan.encoding.n_max())?)?;
    Ok(Values::Computed(comparison(learners, released, (snapshot, least), effort)?.values()))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use collegium_shared::architecture::Hyper;

    use super::*;
    use crate::{
        model::Model,
        session::tests::World,
        trainer::tests::{federate, simulated},
    };

    #[test]
    fn only_what_an_evaluation_asks_is_given() {
        let world = simulated(5, 1, 60);
        let run = federate(world.clone(), &Hyper::default(), 2, 1);
        let model = Model::new(&run.shared.competencies, run.statistics, &run.weights).unwrap();
        let mut plan = World::new().plan_body("evaluation", 1, 0, Stage::Audit);
        plan.architecture = EVALUATION_1.to_owned();
        plan.layout = None;
        plan.encoding = encoding(5).unwrap();
        plan.hyper.evaluation = Some(Box::new(Digest::of(b"model")));
        let released = Released::Logistic(model);
        let run = |plan: &Plan| -> Result<Vec<f64>, String> {
            let go = Effort::new(Arc::default(), 100);
            let values = input(plan, (&released, &world[0]), (Digest::of(b"records"), 5), &go);
            match values.map_err(|error| error.to_string())? {
                Values::Computed(values) => Ok(values),
                _ => panic!("other values"),
            }
        };
        let values = run(&plan).unwrap();
        assert_eq!(values.len(), plan.encoding.dimension());
        assert!(values[0] >= 5.0);
        let refused = |change: &dyn Fn(&mut Plan)| {
            let mut plan = plan.clone();
            change(&mut plan);
            run(&plan).unwrap_err()
        };
        assert!(refused(&|plan| plan.hyper.evaluation = None).contains("evaluation"));
        assert!(refused(&|plan| plan.stage = Stage::Evaluate).contains("one sum"));
        assert!(refused(&|plan| plan.layout = Some(Digest::of(b"l"))).contains("no parameters"));
        assert!(
            refused(
                &|plan| plan.encoding = World::new().plan_body("t", 1, 0, Stage::Audit).encoding
            )
            .contains("segment")
        );
    }
}
