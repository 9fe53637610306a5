//! The input of a load test: public numbers that no record has a part in. Checks that the plan asks for
//! nothing else. Never reads the vault.

use collegium_shared::{
    architecture::{
        Stage,
        load_test::{self, Moves},
    },
    ids::InstitutionId,
    protocol::Plan,
};

use super::{PrepareError, check_encoding};

/// The moves of this institution for the round of a plan of `load-test/1`.
pub fn moves(plan: &Plan, own: &InstitutionId) -> Result<Moves, PrepareError> {
    let Stage::Train { .. } = plan.stage else {
        return Err(PrepareError::Encoding("a load test has training rounds only".to_owned()));
    };
    let parameters = plan.encoding.segments().first().map_or(0, |segment| segment.len);
    let bound = plan.hyper.optimizer.bound;
    let expected = load_test::encoding(parameters, bound, plan.encoding.n_max())?;
    check_encoding(&plan.encoding, &expected)?;
    if load_test::layout(parameters).digest().ok() != plan.layout {
        return Err(PrepareError::Layout);
    }
    Ok(Moves::new(own, &plan.round, bound))
}

#[cfg(test)]
mod tests {
    use collegium_shared::{
        architecture::{self, LOAD_TEST_1, Sizes},
        crypto::Digest,
        params::Encoding,
    };

    use super::*;
    use crate::session::tests::World;

    fn plan() -> Plan {
        let mut plan = World::new().plan_body("load", 2, 0, Stage::Train { step: 3 });
        plan.architecture = LOAD_TEST_1.to_owned();
        plan.encoding = load_test::encoding(100, plan.hyper.optimizer.bound, 5).unwrap();
        plan.layout = load_test::layout(100).digest().ok();
        plan
    }

    fn own() -> InstitutionId {
        "school-1".parse().unwrap()
    }

    #[test]
    fn the_moves_are_the_public_ones() {
        let plan = plan();
        let expected = Moves::new(&own(), &plan.round, plan.hyper.optimizer.bound);
        let moves = moves(&plan, &own()).unwrap();
        assert!((0..100).all(|i| moves.value(i) == expected.value(i)));
    }

    #[test]
    fn a_plan_for_anything_else_is_refused() {
        let refused = |change: fn(&mut Plan)| {
            let mut plan = plan();
            change(&mut plan);
            moves(&plan, &own()).err().unwrap()
        };
        let stage = refused(|plan| plan.stage = Stage::Support);
        assert!(matches!(stage, PrepareError::Encoding(_)), "{stage}");
        let looser = refused(|plan| plan.encoding = load_test::encoding(100, 7.0, 5).unwrap());
        assert!(matches!(looser, PrepareError::Encoding(_)), "{looser}");
        let more = refused(|plan| {
            let segments = [("move", 100, 1.0), ("items", 1, 1.0)];
            plan.encoding = Encoding::new(segments, 5).unwrap();
        });
        assert!(matches!(more, PrepareError::Encoding(_)), "{more}");
        let trained = refused(|plan| {
            let (sizes, bound) = (Sizes { items: 9, competencies: 2 }, &plan.hyper);
            plan.encoding = architecture::encoding(&plan.stage, bound, sizes, 5).unwrap();
        });
        assert!(matches!(trained, PrepareError::Encoding(_)), "{trained}");
        let layout = refused(|plan| plan.layout = Some(Digest::of(b"other")));
        assert!(matches!(layout, PrepareError::Layout), "{layout}");
    }
}
