//! Sums that a few institutions cannot move at will: random groups of them, and the coordinate-wise
//! median over the means of the groups. Decides nothing about when it is used (docs/adr/0031).

use std::collections::BTreeSet;

use crate::{crypto::Digest, ids::InstitutionId};

/// The fewest institutions that are worth groups: with fewer, groups that each hide their members are too
/// few for a median.
pub const FROM_INSTITUTIONS: usize = 64;
/// The fewest groups of which one bad one does not matter.
pub const LEAST_GROUPS: usize = 3;

/// What the members of one group moved, added up.
#[derive(Clone, Debug, PartialEq)]
pub struct GroupSum {
    pub members: usize,
    pub sum: Vec<f64>,
}

/// Into how many groups so many institutions are dealt that each has `least`: an odd number, so that a median is
/// one of the groups' own values. None if not even 3 are possible.
pub fn group_count(institutions: usize, least: usize) -> Option<usize> {
    let most = institutions / least.max(1);
    let count = most - usize::from(most.is_multiple_of(2) && most > 0);
    (count >= LEAST_GROUPS).then_some(count)
}

/// Deals institutions to `count` groups at random, by a `seed` that none of them knows: first those that are
/// present, then those that are away, so that every group has as many of both, give or take 1.
pub fn deal(
    present: &BTreeSet<InstitutionId>,
    away: &BTreeSet<InstitutionId>,
    count: usize,
    seed: &Digest,
) -> Vec<BTreeSet<InstitutionId>> {
    let place = |member: &InstitutionId| {
        Digest::of_parts("collegium/v1/group", &[seed.as_bytes(), member.as_str().as_bytes()])
    };
    let shuffled = |some: &BTreeSet<InstitutionId>| {
        let mut drawn: Vec<_> = some.iter().map(|m| (place(m), m.clone())).collect();
        drawn.sort();
        drawn.into_iter().map(|(_, member)| member)
    };
    let mut groups = vec![BTreeSet::new(); count.max(1)];
    for (number, member) in shuffled(present).chain(shuffled(away)).enumerate() {
        groups[number % count.max(1)].insert(member);
    }
    groups
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
    use super::*;

    fn members(names: std::ops::Range<usize>) -> BTreeSet<InstitutionId> {
        names.map(|number| format!("school-{number}").parse().unwrap()).collect()
    }

    #[test]
    fn groups_hold_everybody_once_and_as_many_present_ones() {
        for (present, away) in [(64, 0), (61, 3), (150, 8), (256, 0)] {
            let (here, gone) = (members(0..present), members(present..present + away));
            let drawn = deal(&here, &gone, 3, &Digest::of(b"seed"));
            assert_eq!(drawn.len(), 3);
            let of = |some: &BTreeSet<InstitutionId>| {
                let sizes = drawn.iter().map(|group| group.intersection(some).count());
                sizes.collect::<Vec<_>>()
            };
            for sizes in [of(&here), of(&gone)] {
                assert!(sizes.iter().max().unwrap() - sizes.iter().min().unwrap() <= 1);
            }
            assert_eq!(drawn.iter().map(BTreeSet::len).sum::<usize>(), present + away);
            let everybody: BTreeSet<_> = drawn.iter().flatten().cloned().collect();
            assert_eq!(everybody, here.union(&gone).cloned().collect());
            assert_eq!(deal(&here, &gone, 3, &Digest::of(b"seed")), drawn);
            assert_ne!(deal(&here, &gone, 3, &Digest::of(b"other")), drawn);
        }
    }

    #[test]
    fn the_number_of_groups_is_odd_and_each_is_large_enough() {
        let counts = [(64, 19), (158, 46), (64, 10), (64, 9), (64, 22), (0, 0), (256, 0)];
        let expected = [Some(3), Some(3), Some(5), Some(7), None, None, Some(255)];
        assert_eq!(counts.map(|(institutions, least)| group_count(institutions, least)), expected);
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
