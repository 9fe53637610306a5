//! From the opened sums of a bias audit to its report: figures per group, gaps to the largest group, what
//! moved since the last audit, and nothing of a group that is too small. Pure but for the sums that it reads.

use std::collections::{BTreeMap, BTreeSet};

use collegium_shared::{
    architecture::{
        BiasScope, Stage, Sums,
        bias_audit::{
            Bin, CELLS, Cell, Estimate, Figures, Hidden, Measure, encoding, shared_cells, suppress,
        },
    },
    blobs::Blobs,
    clock::Timestamp,
    crypto::Digest,
    ids::{RoundId, TaskId},
    params::Encoding,
    signed::Statement,
    tensors,
};
use serde::{Deserialize, Serialize};

use super::Over;
use crate::{
    aggregate::{AggregateError, MAX_BLOB, whole},
    task::{Opened, Task},
};

/// What an audit found. Signed by the coordinator; the log names its digest.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BiasReport {
    pub task: TaskId,
    /// The manifest of the model that was audited.
    pub model: Digest,
    /// The round whose sum this is, and its plan.
    pub round: RoundId,
    pub plan: Digest,
    /// The institutions in the sum; of one that does not permit an attribute there are zeros in it.
    pub institutions: usize,
    pub scope: BiasScope,
    pub made_at: Timestamp,
    pub attributes: Vec<AttributeReport>,
    /// The audits that figures are compared with.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub compared: BTreeSet<TaskId>,
}

impl Statement for BiasReport {
    const CONTEXT: &'static str = "collegium/v1/bias-report";
}

/// One attribute's groups.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AttributeReport {
    pub attribute: String,
    /// The largest group that is shown, with which the others are compared.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reference: Option<String>,
    /// In the order of the scope, "other" last.
    pub groups: Vec<GroupReport>,
}

/// One group.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GroupReport {
    /// None: every value that the scope does not list, and none.
    pub value: Option<String>,
    /// Why there are no figures.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hidden: Option<Hidden>,
    /// How many institutions said that they have enough learners of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub institutions: Option<u64>,
    /// Held-out learners, and their answers that were counted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub learners: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answers: Option<u64>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub figures: BTreeMap<Measure, Estimate>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub calibration: Vec<Bin>,
    /// This group's figure less that of the reference.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub gaps: BTreeMap<Measure, Gap>,
    /// This figure less that of the last audit that has the group.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub moved: BTreeMap<Measure, Moved>,
}

/// A difference between two groups.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Gap {
    #[serde(flatten)]
    pub difference: Estimate,
    /// Whether it is over its threshold, if it has one.
    pub over: bool,
}

/// A difference between two audits.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Moved {
    pub from: f64,
    #[serde(flatten)]
    pub change: Estimate,
}

fn read(blobs: &Blobs, digest: Option<Digest>) -> Result<Sums, AggregateError> {
    let missing = AggregateError::Inconsistent("the support sum of the audit is not there yet");
    Ok(tensors::read_sums(&blobs.read(&digest.ok_or(missing)?, MAX_BLOB)?)?)
}

fn scope(task: &Task) -> Result<&BiasScope, AggregateError> {
    let question = task.spec().hyper.audit.as_ref();
    question.map(|q| &q.scope).ok_or(AggregateError::Inconsistent("the task is no audit"))
}

fn shared(task: &Task, blobs: &Blobs) -> Result<(Vec<bool>, Sums), AggregateError> {
    let support = read(blobs, task.support())?;
    let shared = shared_cells(scope(task)?, &support, task.cohort().least());
    let other = AggregateError::Inconsistent("the support sum is of another audit");
    Ok((shared.ok_or(other)?, support))
}

/// What the rounds of an audit sum, for at most `n_max` institutions.
pub fn vector(
    task: &Task,
    stage: &Stage,
    blobs: &Blobs,
    n_max: u32,
) -> Result<Encoding, AggregateError> {
    let count = match stage {
        Stage::Support => 0,
        _ => shared(task, blobs)?.0.into_iter().filter(|shared| *shared).count(),
    };
    if *stage == Stage::Audit && count == 0 {
        return Err(AggregateError::Inconsistent(
            "there is no group that enough institutions have enough learners of, and permit and import the \
             attribute of: see attributes and smallest_part of the audit, and the institutions' policies",
        ));
    }
    Ok(encoding(stage, scope(task)?, count, n_max)?)
}

/// The report of an audit whose sum was opened; `earlier` are reports before it, newest first. When it was
/// made is its signer's to say.
pub fn make(
    task: &Task,
    opened: &Opened,
    earlier: &[BiasReport],
    blobs: &Blobs,
) -> Result<BiasReport, AggregateError> {
    let question = task.spec().hyper.audit.as_deref().cloned();
    let question = question.ok_or(AggregateError::Inconsistent("the task is no audit"))?;
    let (shared, support) = shared(task, blobs)?;
    let sums = tensors::read_sums(&blobs.read(&opened.sum, MAX_BLOB)?)?;
    let count = shared.iter().filter(|shared| **shared).count();
    let mut summed = Cell::from_sums(&sums, count)?.into_iter();
    let cells: Vec<Option<Cell>> =
        shared.iter().map(|shared| if *shared { summed.next() } else { None }).collect();
    let had = support.get(CELLS).map(Vec::as_slice).unwrap_or_default();
    let mut compared = BTreeSet::new();
    // Models of another architecture predict something else.
    let earlier = earlier.iter().filter(|r| r.scope.audited() == question.scope.audited());
    let earlier: Vec<&BiasReport> = earlier.collect();
    let attributes = question.scope.places().map(|(first, attribute, values)| {
        let range = first..=first + values.len();
        let (cells, had) = (&cells[range.clone()], &had[range]);
        let mut report = attribute_report(attribute, values, cells, had, &question.scope);
        compared.extend(compare(&mut report, &earlier));
        report
    });
    let attributes = attributes.collect();
    Ok(BiasReport {
        task: task.spec().task.clone(),
        model: question.model,
        round: opened.made.round.clone(),
        plan: opened.made.plan,
        institutions: opened.made.uploads.len(),
        scope: question.scope,
        made_at: Timestamp::EPOCH,
        attributes,
        compared,
    })
}

fn attribute_report(
    attribute: &str,
    values: &[String],
    cells: &[Option<Cell>],
    had: &[f64],
    scope: &BiasScope,
) -> AttributeReport {
    let learners: Vec<_> = cells.iter().map(|cell| cell.as_ref().map(|c| c.learners)).collect();
    let hidden = suppress(&learners, scope.smallest_cell);
    let names = values.iter().cloned().map(Some).chain([None]);
    let groups = names.zip(cells).zip(hidden.into_iter().zip(had));
    let mut groups: Vec<GroupReport> = groups
        .map(|((value, cell), (hidden, had))| group(value, cell.as_ref(), hidden, *had))
        .collect();
    // "Other" is a mixture: others are compared with it only where there is nothing else.
    let size = |g: &&GroupReport| (g.value.is_some(), g.learners);
    let reference = groups.iter().filter(|g| g.hidden.is_none()).max_by_key(size).cloned();
    if let Some(reference) = &reference {
        groups.iter_mut().for_each(|group| gaps(group, reference, scope));
    }
    let reference = reference.and_then(|group| group.value);
    AttributeReport { attribute: attribute.to_owned(), reference, groups }
}

fn group(
    value: Option<String>,
    cell: Option<&Cell>,
    hidden: Option<Hidden>,
    had: f64,
) -> GroupReport {
    let mut report = GroupReport {
        value,
        hidden,
        institutions: None,
        learners: None,
        answers: None,
        figures: BTreeMap::new(),
        calibration: Vec::new(),
        gaps: BTreeMap::new(),
        moved: BTreeMap::new(),
    };
    let Some(cell) = cell.filter(|_| hidden.is_none()) else { return report };
    let figures = Figures::of(cell);
    report.institutions = Some(whole(had));
    report.learners = Some(whole(cell.learners));
    report.answers = Some(whole(cell.answers));
    let all = Measure::ALL.into_iter();
    report.figures = all.filter_map(|m| Some((m, figures.measure(m)?))).collect();
    report.calibration = figures.calibration();
    report
}

fn gaps(group: &mut GroupReport, reference: &GroupReport, scope: &BiasScope) {
    if group.value == reference.value {
        return;
    }
    let gap = |(measure, own): (&Measure, &Estimate)| {
        let difference = own.less(reference.figures.get(measure)?);
        let threshold = scope.thresholds.get(measure);
        let over = threshold.is_some_and(|most| difference.value.abs() > *most);
        Some((*measure, Gap { difference, over }))
    };
    group.gaps = group.figures.iter().filter_map(gap).collect();
}

/// Compares each group with the newest report that has it; gives the audits that were compared with. The same
/// learners may be in both, so the interval is rather too wide.
fn compare(report: &mut AttributeReport, earlier: &[&BiasReport]) -> BTreeSet<TaskId> {
    let mut compared = BTreeSet::new();
    let attribute = &report.attribute;
    for group in report.groups.iter_mut().filter(|group| group.hidden.is_none()) {
        let before = earlier.iter().find_map(|audit| {
            let of = audit.attributes.iter().find(|of| of.attribute == *attribute)?;
            let known = |g: &&GroupReport| g.value == group.value && g.hidden.is_none();
            Some((&audit.task, of.groups.iter().find(known)?))
        });
        let Some((task, before)) = before else { continue };
        compared.insert(task.clone());
        let moved = |(measure, now): (&Measure, &Estimate)| {
            let then = before.figures.get(measure)?;
            Some((*measure, Moved { from: then.value, change: now.less(then) }))
        };
        group.moved = group.figures.iter().filter_map(moved).collect();
    }
    compared
}

impl AttributeReport {
    /// Of each measure the largest gap that is over its threshold.
    pub fn over(&self, scope: &BiasScope) -> Vec<Over> {
        let largest = |(measure, threshold): (&Measure, &f64)| {
            let of = |group: &GroupReport| {
                let gap = group.gaps.get(measure).filter(|gap| gap.over)?;
                Some((group.value.clone(), gap.difference))
            };
            let size = |(_, gap): &(Option<String>, Estimate)| gap.value.abs();
            let all = self.groups.iter().filter_map(of);
            let (group, gap) = all.max_by(|a, b| size(a).total_cmp(&size(b)))?;
            let reference = self.reference.clone();
            Some(Over { measure: *measure, group, reference, gap, threshold: *threshold })
        };
        scope.thresholds.iter().filter_map(largest).collect()
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in crate::bias) fn scope() -> BiasScope {
        toml::from_str(
            "attributes.age = [\"young\", \"old\", \"oldest\"]\nattributes.sex = [\"F\", \"M\"]\n\
             [thresholds]\ncalibration = 0.05\nbase_rate = 0.9\n",
        )
        .unwrap()
    }

    /// Learners with ten answers each at a chance of 0.6, of whom so many are right.
    pub(in crate::bias) fn cell(learners: u32, right: usize) -> Cell {
        let mut cell = Cell::default();
        for number in 0..learners {
            // Some scatter, so that there is an interval.
            let right = if number % 2 == 0 { right } else { right.saturating_sub(1) };
            let answers: Vec<_> = (0..10).map(|n| (0.6, n < right)).collect();
            cell.observe(&answers, [0.6, 0.8]);
            cell.expose([0.7, 0.4, f64::from(number % 2)]);
        }
        cell
    }

    /// A report over these groups of `scope`: age and other, sex and other.
    pub(in crate::bias) fn report(
        task: &str,
        cells: [Option<Cell>; 7],
        earlier: &[BiasReport],
    ) -> BiasReport {
        let scope = scope();
        let mut compared = BTreeSet::new();
        let attributes = scope.places().map(|(first, attribute, values)| {
            let range = first..=first + values.len();
            let mut report = attribute_report(attribute, values, &cells[range], &[6.0; 4], &scope);
            compared.extend(compare(&mut report, &earlier.iter().collect::<Vec<_>>()));
            report
        });
        let attributes = attributes.collect();
        let task: TaskId = task.parse().unwrap();
        BiasReport {
            round: RoundId { task: task.clone(), round: 1, attempt: 0 },
            task,
            model: Digest::of(b"model"),
            plan: Digest::of(b"plan"),
            institutions: 7,
            scope: scope.clone(),
            made_at: Timestamp::EPOCH,
            attributes,
            compared,
        }
    }

    pub(in crate::bias) fn sample() -> [Option<Cell>; 7] {
        [
            Some(cell(40, 6)),
            Some(cell(30, 4)),
            Some(cell(3, 6)),
            None,
            Some(cell(35, 6)),
            Some(cell(38, 6)),
            None,
        ]
    }

    #[test]
    fn a_small_group_is_hidden_with_the_one_it_would_follow_from() {
        let report = report("one", sample(), &[]);
        let age = &report.attributes[0];
        let hidden: Vec<_> = age.groups.iter().map(|group| group.hidden).collect();
        use Hidden::*;
        assert_eq!(hidden, [None, Some(Protecting), Some(Small), Some(NotSummed)]);
        for group in age.groups.iter().filter(|group| group.hidden.is_some()) {
            let json = serde_json::to_value(group).unwrap();
            assert_eq!(json.as_object().unwrap().len(), 2, "value and why, no figure: {json}");
        }
        assert_eq!(age.reference.as_deref(), Some("young"));
    }

    #[test]
    fn gaps_are_to_the_largest_group_and_over_their_threshold() {
        let mut cells = sample();
        cells[2] = None;
        let report = report("one", cells, &[]);
        let [age, sex] = &report.attributes[..] else { panic!("two attributes") };
        let old = &age.groups[1];
        // 0.05 above and 0.25 above what was observed.
        let gap = old.gaps[&Measure::Calibration];
        assert!(gap.over && gap.difference.is_clear(), "{gap:?}");
        assert!((gap.difference.value - 0.2).abs() < 1e-9, "{gap:?}");
        assert!(!old.gaps[&Measure::BaseRate].over, "below its threshold");
        assert!(!old.gaps[&Measure::Auc].over, "without a threshold");
        assert!(age.groups[0].gaps.is_empty(), "the reference has no gap");
        let over = age.over(&report.scope);
        assert_eq!(over.len(), 1);
        let first = (over[0].measure, over[0].group.as_deref(), over[0].reference.as_deref());
        assert_eq!(first, (Measure::Calibration, Some("old"), Some("young")));
        assert_eq!(sex.reference.as_deref(), Some("M"));
        assert_eq!(sex.over(&report.scope), []);
    }

    #[test]
    fn what_moved_is_told_of_groups_that_were_there_before() {
        let mut cells = sample();
        let first = report("one", cells.clone(), &[]);
        assert!(first.compared.is_empty());
        cells[0] = Some(cell(40, 8));
        cells[2] = None;
        let second = report("two", cells.clone(), std::slice::from_ref(&first));
        let [young, old, ..] = &second.attributes[0].groups[..] else { panic!("groups") };
        let moved = young.moved[&Measure::BaseRate];
        assert!((moved.change.value - 0.2).abs() < 1e-9 && moved.change.is_clear(), "{moved:?}");
        assert!(old.moved.is_empty(), "it was hidden before");
        assert_eq!(second.compared, BTreeSet::from(["one".parse().unwrap()]));
        let third = report("three", cells, &[second, first]);
        assert_eq!(third.attributes[0].groups[0].moved[&Measure::BaseRate].change.value, 0.0);
    }

    #[test]
    fn a_report_keeps_its_meaning() {
        let report = report("one", sample(), &[]);
        let json = serde_json::to_string(&report).unwrap();
        assert_eq!(serde_json::from_str::<BiasReport>(&json).unwrap(), report);
    }
}
