//! A step whose moves are summed in groups: who sits in which, and which sums are opened already. The groups'
//! rounds follow one another, each with all checks of any round; a median over their means takes the place
//! of the sum (docs/adr/0031). Pure; who is present is the owner's to say.

use std::collections::BTreeSet;

use collegium_shared::{
    architecture::{LEAST_GROUPS, group_count},
    crypto::Digest,
    ids::InstitutionId,
};
use serde::{Deserialize, Serialize};

use super::{Opened, Task};

/// How the moves of a step become one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Aggregation {
    /// All are summed.
    #[default]
    Sum,
    /// Random groups are summed; what counts is the coordinate-wise median over the groups' means.
    GroupMedians,
}

impl Aggregation {
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// The groups of the step under way.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Groups {
    drawn: Vec<BTreeSet<InstitutionId>>,
    /// The sums of the first ones.
    opened: Vec<Opened>,
    /// Who was asked, and did not go READY the last time: away, or unwilling.
    silent: BTreeSet<InstitutionId>,
}

/// One group's opened sum.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupSum {
    pub sum: Digest,
    /// How many are in it.
    pub institutions: usize,
}

impl Groups {
    pub(super) fn is_new(&self) -> bool {
        *self == Self::default()
    }

    /// Groups whose sum is opened stay as they are; these are the others.
    pub(super) fn draw(&mut self, others: Vec<BTreeSet<InstitutionId>>) {
        self.drawn.truncate(self.opened.len());
        self.drawn.extend(others);
    }

    /// Takes a group's sum; gives all, once it is the last one.
    pub(super) fn take(&mut self, opened: Opened) -> Option<Opened> {
        self.opened.push(opened);
        if self.opened.len() < self.drawn.len() {
            return None;
        }
        self.drawn.clear();
        let all = std::mem::take(&mut self.opened);
        let of = |one: &Opened| GroupSum { sum: one.sum, institutions: one.made.uploads.len() };
        let groups = all.iter().map(of).collect();
        let uploads = all.iter().flat_map(|one| one.made.uploads.clone()).collect();
        let institutions = all.iter().flat_map(|one| one.institutions.clone()).collect();
        let mut last = all.into_iter().last()?;
        last.made.uploads = uploads;
        Some(Opened { institutions, groups, ..last })
    }

    /// The group whose sum is next.
    fn current(&self) -> Option<&BTreeSet<InstitutionId>> {
        self.drawn.get(self.opened.len())
    }

    pub(super) fn sums(&self) -> impl Iterator<Item = Digest> {
        self.opened.iter().map(|opened| opened.sum)
    }
}

/// Whom a round may ask, or who may be dealt to groups.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// Those who may be asked, and those of them who are away.
    pub expected: BTreeSet<InstitutionId>,
    pub away: BTreeSet<InstitutionId>,
    /// How many have to be present.
    pub needed: usize,
    /// How many groups have to be drawn of them first.
    pub draw: Option<usize>,
}

impl Asked {
    /// Whether enough are present.
    pub fn enough(&self) -> bool {
        self.expected.len() - self.away.len() >= self.needed
    }
}

impl Task {
    /// Of the `members` that a round may ask, whom the next one asks, if it is that of a group: the group, if
    /// enough of it are present, and else all who are in no sum of the step yet, to be dealt anew. Who did not
    /// answer the last time is not counted on, if the others are enough. If a few are missing for the groups that
    /// are left, as many who are in a sum already, drawn by chance, are asked once more.
    pub fn asked_of_group(
        &self,
        members: &BTreeSet<InstitutionId>,
        away: &BTreeSet<InstitutionId>,
    ) -> Asked {
        let silent = members.intersection(&self.groups.silent);
        let unheard = away.iter().chain(silent).cloned().collect();
        let willing = self.asked_but(members, &unheard);
        if willing.enough() { willing } else { self.asked_but(members, away) }
    }

    fn asked_but(
        &self,
        members: &BTreeSet<InstitutionId>,
        away: &BTreeSet<InstitutionId>,
    ) -> Asked {
        let among = |some: &BTreeSet<InstitutionId>, needed, draw| Asked {
            expected: members.intersection(some).cloned().collect(),
            away: away.intersection(some).cloned().collect(),
            needed,
            draw,
        };
        let n_min = self.n_min();
        if let Some(group) = self.groups.current().map(|group| among(group, n_min, None))
            && group.enough()
        {
            return group;
        }
        let summed = self.groups.opened.iter().flat_map(|opened| &opened.institutions);
        let summed: BTreeSet<_> = summed.cloned().collect();
        let left = match self.groups.drawn.len() {
            0 => group_count(members.len() - away.len(), n_min).unwrap_or(LEAST_GROUPS),
            drawn => drawn - self.groups.opened.len(),
        };
        let needed = left * n_min;
        let mut rest: BTreeSet<_> = members.difference(&summed).cloned().collect();
        let missing = needed.saturating_sub(rest.difference(away).count());
        if missing <= self.cohort.c_max.into() {
            rest.extend(self.again(&summed, away).into_iter().take(missing));
        }
        among(&rest, needed, Some(left))
    }

    /// Those who are in a sum of the step already, in an order that nobody knew before.
    fn again(
        &self,
        summed: &BTreeSet<InstitutionId>,
        away: &BTreeSet<InstitutionId>,
    ) -> Vec<InstitutionId> {
        let sum = self.groups.opened.first().map(|opened| opened.sum);
        let mut order: Vec<_> = summed.difference(away).cloned().collect();
        order.sort_by_cached_key(|name| {
            let sum = sum.as_ref().map_or(&[][..], |sum| sum.as_bytes());
            let parts = [sum, name.as_str().as_bytes()];
            *Digest::of_parts("collegium/v1/group/again", &parts).as_bytes()
        });
        order
    }

    /// A round asks these.
    pub fn asks(&mut self, expected: &BTreeSet<InstitutionId>) {
        if self.spec.aggregation == Aggregation::GroupMedians {
            self.groups.silent.extend(expected.iter().cloned());
        }
    }

    /// One of them went READY.
    pub fn answered(&mut self, institution: &InstitutionId) {
        self.groups.silent.remove(institution);
    }

    /// Groups are drawn, in place of those that have no sum yet.
    pub fn groups_drawn(&mut self, groups: Vec<BTreeSet<InstitutionId>>) {
        self.groups.draw(groups);
    }

    /// The group whose sum is next, from 1, and how many there are; none of a step that is summed whole.
    pub fn group(&self) -> Option<(usize, usize)> {
        let (opened, drawn) = (self.groups.opened.len(), self.groups.drawn.len());
        (drawn > 0).then_some((opened + 1, drawn))
    }
}

#[cfg(test)]
mod tests {
    use collegium_shared::{
        architecture::{Stage, deal},
        clock::Timestamp,
        ids::RoundId,
        protocol::Cohort,
    };

    use super::*;
    use crate::task::{Made, TaskSpec};

    fn names(range: std::ops::Range<usize>) -> BTreeSet<InstitutionId> {
        range.map(|number| format!("school-{number:02}").parse().unwrap()).collect()
    }

    fn task() -> Task {
        let spec: TaskSpec = toml::from_str(
            "task = \"t\"\narchitecture = \"kt-logistic/1\"\naggregation = \"group-medians\"\n",
        )
        .unwrap();
        Task::started(spec, Cohort::proposed(64), Digest::of(b""), Timestamp::EPOCH)
    }

    fn draw(task: &mut Task, asked: &Asked) {
        let present = asked.expected.difference(&asked.away).cloned().collect();
        task.groups_drawn(deal(&present, &asked.away, asked.draw.unwrap(), &Digest::of(b"s")));
    }

    fn opened(of: &BTreeSet<InstitutionId>, number: u8) -> Opened {
        let digest = Digest::of(&[number]);
        let round = RoundId { task: "t".parse().unwrap(), round: number.into(), attempt: 0 };
        let uploads = vec![digest; of.len()];
        Opened {
            stage: Stage::Train { step: 1 },
            sum: digest,
            made: Made { round, plan: digest, roster: digest, uploads },
            institutions: of.clone(),
            groups: Vec::new(),
        }
    }

    #[test]
    fn groups_are_asked_in_turn_and_give_one_step() {
        let (mut task, all, none) = (task(), names(0..64), BTreeSet::new());
        assert!(task.in_groups(&Stage::Train { step: 1 }) && !task.in_groups(&Stage::Evaluate));
        let first = task.asked_of_group(&all, &none);
        assert_eq!((first.needed, first.draw), (3 * 19, Some(3)));
        draw(&mut task, &first);
        let mut seen = BTreeSet::new();
        for number in 1..=3 {
            assert_eq!(task.group(), Some((number, 3)));
            let asked = task.asked_of_group(&all, &none);
            assert!(asked.draw.is_none() && asked.enough() && asked.expected.is_disjoint(&seen));
            seen.extend(asked.expected.clone());
            let whole = task.groups.take(opened(&asked.expected, u8::try_from(number).unwrap()));
            assert_eq!(whole.is_some(), number == 3);
            let Some(whole) = whole else { continue };
            let sums: Vec<_> = whole.groups.iter().map(|group| group.sum).collect();
            assert_eq!(sums, [1, 2, 3].map(|number| Digest::of(&[number])));
            assert_eq!(whole.groups.iter().map(|g| g.institutions).sum::<usize>(), 64);
            assert_eq!((whole.made.uploads.len(), whole.institutions), (64, all.clone()));
        }
        assert_eq!((seen, task.group()), (all, None), "the next step draws anew");
    }

    #[test]
    fn who_is_missing_is_dealt_anew_and_few_are_asked_again() {
        let (mut task, all, none) = (task(), names(0..64), BTreeSet::new());
        let asked = task.asked_of_group(&all, &none);
        draw(&mut task, &asked);
        let first = task.asked_of_group(&all, &none).expected;
        assert!(task.groups.take(opened(&first, 1)).is_none());
        let second = task.asked_of_group(&all, &none).expected;
        // Of the second group three have gone, which is more than it can spare.
        let away: BTreeSet<_> = second.iter().take(3).cloned().collect();
        let asked = task.asked_of_group(&all, &away);
        assert_eq!((asked.draw, asked.needed), (Some(2), 2 * 19));
        assert!(asked.enough() && asked.expected.is_disjoint(&first));
        draw(&mut task, &asked);
        assert_eq!(task.group(), Some((2, 3)), "the first group's sum stays");
        let asked = task.asked_of_group(&all, &away);
        assert!(asked.draw.is_none() && asked.enough() && asked.expected.is_disjoint(&first));
        // If a few are missing for two groups, as many of the first one are asked once more.
        let rest: BTreeSet<_> = all.difference(&first).cloned().collect();
        let away: BTreeSet<_> = asked.expected.iter().take(6).cloned().collect();
        let asked = task.asked_of_group(&all, &away);
        assert_eq!((asked.draw, asked.enough()), (Some(2), true));
        let again: BTreeSet<_> = asked.expected.intersection(&first).cloned().collect();
        assert_eq!((again.len(), asked.expected.len()), (2, rest.len() + 2));
        let present: BTreeSet<_> = asked.expected.difference(&away).cloned().collect();
        task.groups_drawn(deal(&present, &away, 2, &Digest::of(b"t")));
        let both = [task.asked_of_group(&all, &away), {
            let second = task.asked_of_group(&all, &away).expected;
            assert!(task.groups.take(opened(&second, 2)).is_none());
            task.asked_of_group(&all, &away)
        }];
        assert!(both.iter().all(|group| group.draw.is_none() && group.enough()));
        // If more are missing than may collude, the task waits for them.
        let away: BTreeSet<_> = both[1].expected.iter().take(15).cloned().collect();
        let asked = task.asked_of_group(&all, &away);
        assert_eq!((asked.draw, asked.enough()), (Some(1), false));
        // Whoever left the roster is not asked.
        let left = rest.iter().take(1).cloned().collect();
        let members: BTreeSet<_> = all.difference(&left).cloned().collect();
        assert!(task.asked_of_group(&members, &none).expected.is_disjoint(&left));
    }

    #[test]
    fn who_does_not_answer_is_not_counted_on_while_others_are_enough() {
        let (mut task, all, none) = (task(), names(0..64), BTreeSet::new());
        let answer = |task: &mut Task, asked: &BTreeSet<InstitutionId>, silent: &BTreeSet<_>| {
            task.asks(asked);
            asked.difference(silent).for_each(|institution| task.answered(institution));
        };
        let asked = task.asked_of_group(&all, &none);
        draw(&mut task, &asked);
        // Present all of them, but four of the first group take no part: too many for it.
        let first = task.asked_of_group(&all, &none).expected;
        let silent: BTreeSet<_> = first.iter().take(4).cloned().collect();
        answer(&mut task, &first, &silent);
        let asked = task.asked_of_group(&all, &none);
        assert_eq!((asked.draw, asked.enough(), &asked.away), (Some(3), true, &silent));
        draw(&mut task, &asked);
        let group = task.asked_of_group(&all, &none);
        assert!(group.draw.is_none() && group.expected.intersection(&silent).count() <= 2);
        // Who answers again counts again.
        answer(&mut task, &all, &none);
        assert_eq!(task.asked_of_group(&all, &none).away, none);
        // Where the others are too few, all who are there are asked.
        let silent: BTreeSet<_> = all.iter().take(10).cloned().collect();
        answer(&mut task, &all, &silent);
        task.groups.drawn.clear();
        let asked = task.asked_of_group(&all, &none);
        assert!(asked.enough() && asked.away.is_empty());
        // Other tasks keep no such list.
        let mut other = Task {
            spec: TaskSpec { aggregation: Aggregation::Sum, ..task.spec.clone() },
            ..task.clone()
        };
        other.groups = Groups::default();
        other.asks(&all);
        assert!(other.groups.is_new());
    }

    #[test]
    fn sums_are_kept_until_the_step_is_made() {
        let (mut task, all, none) = (task(), names(0..64), BTreeSet::new());
        let asked = task.asked_of_group(&all, &none);
        draw(&mut task, &asked);
        let needed = |task: &Task| {
            task.blobs().into_iter().map(|(blob, _)| blob).collect::<BTreeSet<Digest>>()
        };
        for number in 1..=3 {
            let group = task.asked_of_group(&all, &none).expected;
            if let Some(whole) = task.groups.take(opened(&group, number)) {
                task.opened = Some(whole);
            }
            assert!((1..=number).all(|sum| needed(&task).contains(&Digest::of(&[sum]))));
        }
        task.opened = None;
        assert!(!needed(&task).contains(&Digest::of(&[1])));
    }
}
