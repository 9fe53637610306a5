//! Sums that a few institutions cannot move at will: random groups of members, and the coordinate-wise
//! median over the means of the groups. Decides nothing about when it is used; rounds do not carry it
//! yet (docs/adr/0031).

use crate::{crypto::Digest, ids::InstitutionId, protocol::Cohort};

/// The fewest institutions that are worth groups: with fewer, groups that each hide their members are too
/// few for a median.
pub const FROM_INSTITUTIONS: usize = 64;

/// What the members of one group moved, added up.
#[derive(Clone, Debug, PartialEq)]
pub struct GroupSum {
    pub members: usize,
    pub sum: Vec<f64>,
}

/// Splits `members` at random, by a `seed` that nobody controls alone, into as many groups as can each hold
/// `c_max` + `min_honest` of them: an odd number, so that a median is one of the groups' own values, and at
/// least 3. Sizes differ by 1 at most. None if there are fewer than [`FROM_INSTITUTIONS`] members, or too few
/// for 3 groups. The order of `members` does not matter.
pub fn groups(
    members: &[InstitutionId],
    cohort: Cohort,
    seed: &Digest,
) -> Option<Vec<Vec<InstitutionId>>> {
    let least = cohort.least().max(1);
    let most = members.len() / least;
    let count = most - usize::from(most.is_multiple_of(2) && most > 0);
    if members.len() < FROM_INSTITUTIONS || count < 3 {
        return None;
    }
    let place = |member: &InstitutionId| {
        Digest::of_parts("collegium/v1/group", &[seed.as_bytes(), member.as_str().as_bytes()])
    };
    let mut drawn: Vec<_> = members.iter().map(|member| (place(member), member)).collect();
    drawn.sort();
    let mut groups = vec![Vec::new(); count];
    for (number, (_, member)) in drawn.into_iter().enumerate() {
        groups[number % count].push(member.clone());
    }
    Some(groups)
}

/// What takes the place of the sum over all members: for each coordinate the median over the groups' means,
/// times the number of members. The rule of Yin et al. (2018, ICML, "Byzantine-Robust Distributed
/// Learning", definition 1: the coordinate-wise median) over means of groups instead of members, as Chen et
/// al. (2017, POMACS 1(2), section 1.3) group them; it bears fewer bad members than half the groups. Of an
/// even number of groups, the mean of the two in the middle. Empty without groups; all sums have one
/// length, or the shortest counts.
pub fn median_of_means(groups: &[GroupSum]) -> Vec<f64> {
    let members: usize = groups.iter().map(|group| group.members).sum();
    let len = groups.iter().map(|group| group.sum.len()).min().unwrap_or(0);
    let mut column = Vec::with_capacity(groups.len());
    let median = |coordinate: usize| {
        column.clear();
        let means = groups.iter().filter(|group| group.members > 0);
        column.extend(means.map(|group| group.sum[coordinate] / group.members as f64));
        column.sort_by(f64::total_cmp);
        let middle = column.len() / 2;
        let upper = column.get(middle).copied().unwrap_or(0.0);
        let value =
            if column.len() % 2 == 1 { upper } else { upper.midpoint(column[middle.max(1) - 1]) };
        value * members as f64
    };
    (0..len).map(median).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn members(count: usize) -> Vec<InstitutionId> {
        (0..count).map(|number| format!("school-{number}").parse().unwrap()).collect()
    }

    #[test]
    fn groups_hold_everybody_once_and_are_large_enough() {
        for count in [64, 70, 158, 256] {
            let (all, cohort) = (members(count), Cohort::proposed(count));
            let drawn = groups(&all, cohort, &Digest::of(b"seed")).unwrap();
            assert!(drawn.len() % 2 == 1 && drawn.len() >= 3, "{} groups of {count}", drawn.len());
            assert!(drawn.iter().all(|group| group.len() >= cohort.least()), "{count}");
            let sizes: BTreeSet<usize> = drawn.iter().map(Vec::len).collect();
            assert!(sizes.last().unwrap() - sizes.first().unwrap() <= 1);
            let found: BTreeSet<_> = drawn.iter().flatten().collect();
            assert_eq!((found.len(), drawn.iter().flatten().count()), (count, count));
            // The same for whoever has the seed, in whatever order; another one with another seed.
            let mut turned = all.clone();
            turned.reverse();
            assert_eq!(groups(&turned, cohort, &Digest::of(b"seed")), Some(drawn.clone()));
            assert_ne!(groups(&all, cohort, &Digest::of(b"other")), Some(drawn));
        }
    }

    #[test]
    fn too_few_make_no_groups() {
        let seed = Digest::of(b"seed");
        assert_eq!(groups(&members(63), Cohort::proposed(63), &seed), None);
        let large = Cohort { c_max: 20, min_honest: 10 };
        assert_eq!(groups(&members(64), large, &seed), None, "two groups of thirty");
        assert_eq!(groups(&members(90), large, &seed).unwrap().len(), 3);
    }

    #[test]
    fn a_minority_of_bad_groups_does_not_move_the_median() {
        let group = |members, sum: [f64; 2]| GroupSum { members, sum: sum.to_vec() };
        // Means 1, 2, 3 and -1, 0, 5; times 5 members.
        let groups = [group(1, [2.0, 5.0]), group(2, [2.0, -2.0]), group(2, [6.0, 0.0])];
        assert_eq!(median_of_means(&groups), [10.0, 0.0]);
        let poisoned = [group(1, [2.0, 5.0]), group(2, [-1e9, 1e9]), group(2, [6.0, 0.0])];
        assert_eq!(median_of_means(&poisoned), [10.0, 25.0], "within the range of the others");
        assert_eq!(median_of_means(&groups[..2]), [4.5, 6.0], "the mean of the two, of 3 members");
        assert!(median_of_means(&[]).is_empty());
    }
}
