//! Which groups count and which are shown. At an institution: learners of a group too small to tell of take
//! no part in the audit at all, so that no difference of two attributes' sums is theirs. In a report: what a
//! reader could compute from the rest is hidden with it.

use std::ops::Range;

use serde::{Deserialize, Serialize};

/// Why a group's figures are not shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Hidden {
    /// Too few institutions had enough learners of it, so it was not summed.
    NotSummed,
    /// It has fewer learners than are shown.
    Small,
    /// Another group's figures would follow from it.
    Protecting,
}

/// The groups of one learner, one of each attribute that counts.
pub type Counted = Vec<usize>;

/// Which learners take part: those whose groups all have at least `least` of them and are `allowed`. Leaving
/// some out makes other groups smaller, so it is asked until nothing changes. `learners` are the groups of
/// each learner; the answer is in their order.
pub fn taking_part(learners: &[Counted], allowed: &[bool], least: u32) -> Vec<bool> {
    let mut part = vec![true; learners.len()];
    loop {
        let mut sizes = vec![0_u32; allowed.len()];
        let counted = learners.iter().zip(&part).filter(|(_, part)| **part);
        counted.for_each(|(groups, _)| groups.iter().for_each(|group| sizes[*group] += 1));
        let stands = |group: &usize| allowed[*group] && sizes[*group] >= least;
        let mut changed = false;
        for (groups, part) in learners.iter().zip(&mut part) {
            let stays = *part && groups.iter().all(stands);
            changed |= stays != *part;
            *part = stays;
        }
        if !changed {
            return part;
        }
    }
}

/// What is hidden of one attribute's groups. `learners` has the learners of each group; none: not summed. The
/// number over all groups counts as known, because every other attribute tells it: so never is only one group
/// hidden that has learners, and those that are have `least` learners together.
pub fn suppress(learners: &[Option<f64>], least: u32) -> Vec<Option<Hidden>> {
    let least = f64::from(least) - 0.5;
    let small = |count: f64| count < least;
    let mut hidden: Vec<Option<Hidden>> = learners
        .iter()
        .map(|count| match count {
            None => Some(Hidden::NotSummed),
            Some(count) => small(*count).then_some(Hidden::Small),
        })
        .collect();
    loop {
        let places: Range<usize> = 0..learners.len();
        let secret: Vec<f64> = places
            .clone()
            .filter(|at| hidden[*at].is_some())
            .filter_map(|at| learners[at].filter(|count| *count >= 0.5))
            .collect();
        let told = secret.len() == 1 || small(secret.iter().sum());
        if secret.is_empty() || !told {
            return hidden;
        }
        let shown = places.filter(|at| hidden[*at].is_none());
        let size = |at: &usize| learners[*at].unwrap_or(0.0);
        match shown.min_by(|a, b| size(a).total_cmp(&size(b))) {
            Some(smallest) => hidden[smallest] = Some(Hidden::Protecting),
            None => return hidden,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Hidden::*, *};

    #[test]
    fn learners_of_small_groups_take_no_part_anywhere() {
        // Groups 0, 1 are of one attribute, 2, 3 of another.
        let mut learners: Vec<Counted> = vec![vec![0, 2]; 6];
        learners.extend(vec![vec![1, 2]; 5]);
        learners.extend(vec![vec![0, 3]; 2]);
        let all = [true; 4];
        let part = taking_part(&learners, &all, 5);
        assert_eq!(part, [vec![true; 11], vec![false; 2]].concat());
        // Without the two of group 3, group 0 has 6; asked for 7, it goes too, and then the rest.
        assert_eq!(taking_part(&learners, &all, 7), [false; 13]);
        assert_eq!(taking_part(&learners, &all, 1), [true; 13]);
    }

    #[test]
    fn groups_that_are_not_summed_take_their_learners_with_them() {
        let mut learners: Vec<Counted> = vec![vec![0, 2]; 6];
        learners.extend(vec![vec![1, 2]; 6]);
        let part = taking_part(&learners, &[true, false, true], 5);
        assert_eq!(part, [vec![true; 6], vec![false; 6]].concat());
        assert_eq!(taking_part(&[vec![], vec![]], &[], 5), [true; 2], "no attribute counts");
    }

    /// Whatever is left out, sums over two attributes of one institution are over the same learners.
    #[test]
    fn attributes_of_one_institution_count_the_same_learners() {
        let learners: Vec<Counted> = (0..200_usize)
            .map(|n| vec![n % 3, 3 + (n / 7) % 11, 14 + usize::from(n > 190)])
            .collect();
        let part = taking_part(&learners, &[true; 16], 8);
        let total = |groups: Range<usize>| {
            let counted = learners.iter().zip(&part).filter(|(_, part)| **part);
            counted.filter(|(own, _)| own.iter().any(|group| groups.contains(group))).count()
        };
        assert!(total(0..3) > 0);
        assert_eq!([total(0..3); 2], [total(3..14), total(14..16)]);
    }

    #[test]
    fn one_hidden_group_is_never_alone() {
        assert_eq!(suppress(&[Some(50.0), Some(40.0)], 10), [None, None]);
        assert_eq!(suppress(&[Some(50.0), Some(4.0)], 10), [Some(Protecting), Some(Small)]);
        let three = suppress(&[Some(50.0), Some(4.0), Some(30.0)], 10);
        assert_eq!(three, [None, Some(Small), Some(Protecting)]);
        // Two small ones of seven learners together still tell of seven.
        let four = suppress(&[Some(4.0), Some(50.0), Some(3.0), Some(12.0)], 10);
        assert_eq!(four, [Some(Small), None, Some(Small), Some(Protecting)]);
        let enough = suppress(&[Some(6.0), Some(50.0), Some(7.0)], 10);
        assert_eq!(enough, [Some(Small), None, Some(Small)]);
    }

    #[test]
    fn what_nobody_was_summed_for_needs_no_protection() {
        let hidden = suppress(&[Some(50.0), None, Some(0.0)], 10);
        assert_eq!(hidden, [None, Some(NotSummed), Some(Small)]);
        assert_eq!(suppress(&[None, None], 10), [Some(NotSummed); 2]);
        assert_eq!(suppress(&[Some(3.0)], 10), [Some(Small)]);
    }
}
