//! From rows to learners: checks each row, keeps accepted ones compactly (48 bytes, its numbers and shared names), and
//! at the end sorts them by learner and order. Owns the counts; reads no file.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    path::Path,
};

use collegium_shared::crypto::Digest;

use super::{
    ImportError, ImportedAll, KEPT_REFUSALS, KEPT_TAGS, LISTED, Refused, Summary,
    cell::{Cell, Problem},
    columns::Shape,
    mapping::{Competencies, Layout, Mapping},
};
use crate::records::{Features, Learner, Response};

/// An accepted row; the numbers point into the collector's tables.
struct Row {
    learner: usize,
    item: usize,
    tags: usize,
    position: i64,
    period: u32,
    correct: bool,
    /// Where its numbers begin.
    features: usize,
}

/// A learner while rows still arrive.
struct Entry {
    institution: usize,
    id: String,
    held_out: bool,
    /// Some rows said held out, others not.
    conflict: bool,
    /// Per attribute of the mapping: the period and position of the latest row that had it, and its value.
    attributes: Vec<Option<((u32, i64), usize)>>,
}

/// What a row holds, once every cell was understood.
struct Parsed {
    learner: String,
    item: String,
    /// Competencies, or what the mapping's table says stands for some.
    tags: Vec<String>,
    /// What the position counts within, if the mapping says so.
    period: String,
    position: i64,
    correct: bool,
    held_out: bool,
    attributes: Vec<Option<String>>,
    features: Vec<Option<f32>>,
}

/// A refusal: the column among the layout's, and the problem.
type Reason = (usize, Problem);

/// Values numbered in the order they first appeared.
struct Names<T> {
    numbers: HashMap<T, usize>,
}

impl<T: std::hash::Hash + Eq> Names<T> {
    fn new() -> Self {
        Self { numbers: HashMap::new() }
    }

    fn number(&mut self, value: T) -> usize {
        let next = self.numbers.len();
        *self.numbers.entry(value).or_insert(next)
    }

    fn into_vec(self) -> Vec<T> {
        let mut pairs: Vec<(T, usize)> = self.numbers.into_iter().collect();
        pairs.sort_unstable_by_key(|(_, number)| *number);
        pairs.into_iter().map(|(value, _)| value).collect()
    }
}

/// What positions count within, in the order they first appeared; without any there is one without a name.
#[derive(Default)]
struct Periods {
    numbers: HashMap<String, u32>,
    names: Vec<String>,
}

impl Periods {
    fn number(&mut self, name: String) -> u32 {
        if let Some(number) = self.numbers.get(&name) {
            return *number;
        }
        // There are at most a billion rows.
        let number = u32::try_from(self.names.len()).unwrap_or(u32::MAX);
        self.numbers.insert(name.clone(), number);
        self.names.push(name);
        number
    }

    /// Whether the second row comes with the first or after it.
    fn is_ordered(&self, first: (u32, i64), second: (u32, i64)) -> bool {
        let key = |(period, position): (u32, i64)| (self.names.get(period as usize), position);
        key(first) <= key(second)
    }

    /// The place of each among all, by name.
    fn ranks(&self) -> Vec<usize> {
        let mut sorted: Vec<usize> = (0..self.names.len()).collect();
        sorted.sort_unstable_by_key(|number| &self.names[*number]);
        let mut ranks = vec![0; sorted.len()];
        sorted.into_iter().enumerate().for_each(|(rank, number)| ranks[number] = rank);
        ranks
    }
}

pub(super) struct Collector<'m> {
    path: &'m Path,
    mapping: &'m Mapping,
    layout: Layout,
    only: Option<&'m str>,
    ignored: Vec<String>,
    held_out_value: Option<String>,
    /// Institutions that rows were left out for, as far as an error lists them.
    elsewhere: BTreeSet<String>,
    institutions: Names<String>,
    /// Per institution: learner id to entry.
    learners: Vec<HashMap<String, usize>>,
    entries: Vec<Entry>,
    items: Names<String>,
    tags: Names<Vec<String>>,
    values: Names<String>,
    periods: Periods,
    /// Row by row; NaN where one is missing.
    features: Vec<f32>,
    rows: Vec<Row>,
    read: u64,
    ignored_rows: u64,
    elsewhere_rows: u64,
    refused_rows: u64,
    refused: Vec<Refused>,
}

impl<'m> Collector<'m> {
    pub(super) fn new(path: &'m Path, mapping: &'m Mapping, only: Option<&'m str>) -> Self {
        Self {
            path,
            mapping,
            layout: mapping.layout(),
            only,
            ignored: mapping.ignored_institutions(),
            held_out_value: mapping.held_out_value(),
            elsewhere: BTreeSet::new(),
            institutions: Names::new(),
            learners: Vec::new(),
            entries: Vec::new(),
            items: Names::new(),
            tags: Names::new(),
            values: Names::new(),
            periods: Periods::default(),
            features: Vec::new(),
            rows: Vec::new(),
            read: 0,
            ignored_rows: 0,
            elsewhere_rows: 0,
            refused_rows: 0,
            refused: Vec::new(),
        }
    }

    /// The columns whose cells [`Collector::row`] expects.
    pub(super) fn columns(&self) -> &[String] {
        &self.layout.columns
    }

    /// Takes the next row of the file.
    pub(super) fn row(&mut self, row: Result<&[Cell<'_>], Shape>) -> Result<(), ImportError> {
        self.read += 1;
        if self.read > self.mapping.max_rows {
            let limit = self.mapping.max_rows;
            return Err(ImportError::TooManyRows { path: self.path.to_owned(), limit });
        }
        match row {
            Ok(cells) => {
                if let Err((column, problem)) = self.accept(cells) {
                    self.refuse(format!("column `{}` {problem}", self.layout.columns[column]));
                }
            }
            Err(shape) => self.refuse(shape.to_string()),
        }
        Ok(())
    }

    fn refuse(&mut self, reason: String) {
        self.refused_rows += 1;
        if self.refused.len() < KEPT_REFUSALS {
            self.refused.push(Refused { row: self.read, reason });
        }
    }

    fn accept(&mut self, cells: &[Cell<'_>]) -> Result<(), Reason> {
        let institution = match self.layout.institution {
            None => String::new(),
            Some(at) => cells[at].identifier().map_err(|problem| (at, problem))?.into_owned(),
        };
        if self.ignored.contains(&institution) {
            self.ignored_rows += 1;
            return Ok(());
        }
        if self.only.is_some_and(|only| only != institution) {
            self.elsewhere_rows += 1;
            if self.elsewhere.len() <= LISTED && !self.elsewhere.contains(&institution) {
                self.elsewhere.insert(institution);
            }
            return Ok(());
        }
        let parsed = self.parse(cells)?;
        self.keep(institution, parsed);
        Ok(())
    }

    fn parse(&self, cells: &[Cell<'_>]) -> Result<Parsed, Reason> {
        let Layout { learner, item, competencies, order, outcome, .. } = self.layout;
        let mapping = self.mapping;
        let name = |at: usize| cells[at].identifier().map_err(|problem| (at, problem));
        let learner_id = name(learner)?.into_owned();
        let held_out = match (self.layout.held_out, &self.held_out_value) {
            (Some(at), Some(value)) => name(at)? == value.as_str(),
            _ => drawn(&learner_id, mapping.held_out_fraction()),
        };
        let attribute = |at: &usize| {
            let cell = cells[*at].attribute().map_err(|problem| (*at, problem))?;
            Ok(cell.map(|value| value.into_owned()))
        };
        let feature = |at: &usize| cells[*at].feature().map_err(|problem| (*at, problem));
        let period = self.layout.within.map(name).transpose()?.unwrap_or_default().into_owned();
        Ok(Parsed {
            learner: learner_id,
            period,
            item: name(item)?.into_owned(),
            tags: self.tags(&cells[competencies]).map_err(|problem| (competencies, problem))?,
            position: cells[order]
                .position(mapping.order.kind)
                .map_err(|problem| (order, problem))?,
            correct: cells[outcome]
                .outcome(mapping.outcome.threshold)
                .map_err(|problem| (outcome, problem))?,
            held_out,
            attributes: self.layout.attributes.iter().map(attribute).collect::<Result<_, _>>()?,
            features: self.layout.features.iter().map(feature).collect::<Result<_, _>>()?,
        })
    }

    /// The row's tags, if there are not too many competencies that they stand for.
    fn tags(&self, cell: &Cell<'_>) -> Result<Vec<String>, Problem> {
        let mapping = &self.mapping.competencies;
        let tags = cell.competencies(mapping)?;
        mapping.table.competencies(&tags)?;
        Ok(tags)
    }

    fn keep(&mut self, institution: String, parsed: Parsed) {
        let institution = self.institutions.number(institution);
        if institution == self.learners.len() {
            self.learners.push(HashMap::new());
        }
        let known = self.learners[institution].get(&parsed.learner).copied();
        let learner = known.unwrap_or(self.entries.len());
        if known.is_none() {
            self.learners[institution].insert(parsed.learner.clone(), learner);
            self.entries.push(Entry {
                institution,
                id: parsed.learner,
                held_out: parsed.held_out,
                conflict: false,
                attributes: vec![None; parsed.attributes.len()],
            });
        }
        let period = self.periods.number(parsed.period);
        let now = (period, parsed.position);
        let entry = &mut self.entries[learner];
        entry.conflict |= entry.held_out != parsed.held_out;
        for (kept, value) in entry.attributes.iter_mut().zip(parsed.attributes) {
            // What the latest row says holds; of rows at one position, the later in the file.
            if let Some(value) = value
                && kept.is_none_or(|(then, _)| self.periods.is_ordered(then, now))
            {
                *kept = Some((now, self.values.number(value)));
            }
        }
        self.rows.push(Row {
            learner,
            item: self.items.number(parsed.item),
            tags: self.tags.number(parsed.tags),
            position: parsed.position,
            period,
            correct: parsed.correct,
            features: self.features.len(),
        });
        self.features.extend(parsed.features.into_iter().map(|value| value.unwrap_or(f32::NAN)));
    }

    /// Checks the file as a whole and builds the learners.
    pub(super) fn finish(self, source: Digest) -> Result<ImportedAll, ImportError> {
        self.check()?;
        let Meant { competencies, unknown } = meant(self.tags, &self.mapping.competencies);
        let mut summary = Summary {
            source,
            rows_read: self.read,
            rows_accepted: self.rows.len() as u64,
            rows_ignored: self.ignored_rows,
            rows_elsewhere: self.elsewhere_rows,
            rows_refused: self.refused_rows,
            refused: self.refused,
            unknown_tags: unknown.len() as u64,
            first_unknown_tags: unknown.into_iter().take(KEPT_TAGS).collect(),
            institutions: self.learners.len() as u64,
            learners: self.entries.len() as u64,
            held_out_learners: self.entries.iter().filter(|e| e.held_out).count() as u64,
            single_response_learners: 0,
        };
        let attribute_names = self.mapping.attributes();
        let values = self.values.into_vec();
        let institutions = self.institutions.into_vec();
        let mut learners: Vec<(usize, Learner)> = self
            .entries
            .into_iter()
            .map(|entry| (entry.institution, learner(entry, attribute_names, &values)))
            .collect();
        let items = self.items.into_vec();
        let features = (&*self.mapping.features(), &*self.features);
        answer(&mut learners, self.rows, &self.periods.ranks(), (&items, &competencies), features);

        let mut by_institution: BTreeMap<String, Vec<Learner>> = BTreeMap::new();
        for (institution, learner) in learners {
            summary.single_response_learners += u64::from(learner.responses.len() == 1);
            by_institution.entry(institutions[institution].clone()).or_default().push(learner);
        }
        for learners in by_institution.values_mut() {
            learners.sort_unstable_by(|a, b| a.id.cmp(&b.id));
        }
        Ok(ImportedAll { institutions: by_institution, summary })
    }

    fn check(&self) -> Result<(), ImportError> {
        let path = || self.path.to_owned();
        if self.read == 0 {
            return Err(ImportError::Empty { path: path() });
        }
        let considered = self.read - self.ignored_rows - self.elsewhere_rows;
        let accepted = self.rows.len() as u64;
        let share = self.mapping.max_refused_share;
        let too_many = self.refused_rows as f64 > share * considered as f64;
        if too_many || (accepted == 0 && self.refused_rows > 0) {
            return Err(ImportError::TooManyRefused {
                path: path(),
                refused: self.refused_rows,
                rows: considered,
                share,
                examples: self.refused.clone(),
            });
        }
        if accepted == 0 {
            let Some(name) = self.only else { return Err(ImportError::Empty { path: path() }) };
            let existing = self.elsewhere.iter().cloned().collect();
            return Err(ImportError::UnknownInstitution {
                path: path(),
                name: name.to_owned(),
                existing,
            });
        }
        match self.entries.iter().filter(|entry| entry.conflict).count() as u64 {
            0 => Ok(()),
            learners => Err(ImportError::HeldOutConflict { path: path(), learners }),
        }
    }
}

/// The competencies of every list of tags, and the tags that a table of them does not know.
struct Meant {
    competencies: Vec<Vec<String>>,
    unknown: BTreeSet<String>,
}

fn meant(tags: Names<Vec<String>>, mapping: &Competencies) -> Meant {
    let tags = tags.into_vec();
    let Competencies { tags: named, table, .. } = mapping;
    let unknown = tags.iter().flatten().filter(|tag| named.is_some() && !table.knows(tag));
    let unknown = unknown.cloned().collect();
    // Each list was checked when its first row came.
    let all = |tags: Vec<String>| table.competencies(&tags).unwrap_or(tags);
    Meant { unknown, competencies: tags.into_iter().map(all).collect() }
}

fn learner(entry: Entry, names: &[String], values: &[String]) -> Learner {
    let attributes = names
        .iter()
        .zip(&entry.attributes)
        .filter_map(|(name, kept)| kept.map(|(_, value)| (name.clone(), values[value].clone())))
        .collect();
    Learner {
        id: entry.id,
        held_out: entry.held_out,
        attributes,
        responses: Vec::new(),
        features: Features::default(),
    }
}

/// Gives the learners their responses, oldest first; the file's order decides between equal positions.
fn answer(
    learners: &mut [(usize, Learner)],
    mut rows: Vec<Row>,
    ranks: &[usize],
    (items, competencies): (&[String], &[Vec<String>]),
    (names, features): (&[String], &[f32]),
) {
    let rank = |row: &Row| ranks.get(row.period as usize).copied().unwrap_or_default();
    rows.sort_by_key(|row| (row.learner, rank(row), row.position));
    for run in rows.chunk_by(|a, b| a.learner == b.learner) {
        let learner = &mut learners[run[0].learner].1;
        let of = |row: &Row| {
            let values = &features[row.features..row.features + names.len()];
            values.iter().map(|value| (!value.is_nan()).then_some(*value)).collect()
        };
        learner.features = Features::new(names, run.iter().map(of));
        learner.responses = run
            .iter()
            .map(|row| Response {
                item: items[row.item].clone(),
                competencies: competencies[row.tags].clone(),
                correct: row.correct,
            })
            .collect();
    }
}

/// The split for files without one: by the learner's id alone, see the head of `import`.
fn drawn(learner: &str, fraction: f64) -> bool {
    let digest = Digest::of_parts("collegium/v1/held-out", &[learner.as_bytes()]);
    let mut first = [0; 8];
    first.copy_from_slice(&digest.as_bytes()[..8]);
    let unit = (u64::from_be_bytes(first) >> 11) as f64 / 9_007_199_254_740_992.0;
    unit < fraction
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drawn_share_is_the_fraction_and_grows_with_it() {
        let ids: Vec<String> = (0..20_000).map(|n| format!("learner-{n}")).collect();
        let count = |fraction| ids.iter().filter(|id| drawn(id, fraction)).count();
        assert_eq!((count(0.0), count(1.0)), (0, 20_000));
        assert!((3_800..4_200).contains(&count(0.2)), "{}", count(0.2));
        assert!(ids.iter().all(|id| !drawn(id, 0.1) || drawn(id, 0.3)));
    }
}
