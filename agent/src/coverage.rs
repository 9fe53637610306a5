//! How much of this institution's records the registry knows: the share of training answers that name one of
//! its competencies, and of competencies and items. Counts only; the names that are outside are shown on
//! this machine and never leave it. An answer counts as covered if at least one of its competencies is in
//! the registry: then the shared model has parameters for it.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::{Arc, Mutex},
};

use collegium_shared::{crypto::Digest, roster::Registry};
use serde::Serialize;

use crate::{
    home::{Home, HomeError, unpoisoned},
    records::Learner,
};

/// Competencies outside the registry that a report names, the most frequent first.
const LISTED: usize = 200;

/// How many there are, and how many of them the registry knows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Share {
    pub all: u64,
    pub covered: u64,
}

impl Share {
    /// From 0 to 1; 1 of nothing, of which nothing is missing.
    pub fn share(self) -> f64 {
        if self.all == 0 { 1.0 } else { self.covered as f64 / self.all as f64 }
    }
}

/// Rounded down, so that what is below a threshold never shows as reaching it.
impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let percent = (self.share() * 1000.0).floor() / 10.0;
        write!(f, "{} of {} ({percent:.1} %)", self.covered, self.all)
    }
}

/// The counts, which name nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Figures {
    /// The registry's version.
    pub registry: u64,
    /// Answers of learners who are trained on.
    pub answers: Share,
    /// Distinct competencies of those answers.
    pub competencies: Share,
    /// Distinct items of those answers.
    pub items: Share,
}

/// A competency that the registry does not have, as the records name it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Outside {
    pub competency: String,
    /// Training answers that name it.
    pub answers: u64,
}

/// The figures, and what is outside.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Coverage {
    #[serde(flatten)]
    pub figures: Figures,
    /// The most frequent ones.
    pub outside: Vec<Outside>,
}

/// Counts records, in any order and in any pieces of learners.
struct Counting<'r> {
    registry: &'r Registry,
    answers: Share,
    competencies: BTreeMap<String, u64>,
    items: BTreeSet<String>,
}

impl<'r> Counting<'r> {
    fn over(registry: &'r Registry) -> Self {
        let (competencies, items) = (BTreeMap::new(), BTreeSet::new());
        Self { registry, answers: Share::default(), competencies, items }
    }

    fn add(&mut self, learner: &Learner) {
        if learner.held_out {
            return;
        }
        for response in &learner.responses {
            let in_registry = |name: &String| self.registry.has_competency(name);
            let covered = response.competencies.iter().any(in_registry);
            self.answers.all += 1;
            self.answers.covered += u64::from(covered);
            for name in &response.competencies {
                match self.competencies.get_mut(name) {
                    Some(answers) => *answers += 1,
                    None => drop(self.competencies.insert(name.clone(), 1)),
                }
            }
            if !self.items.contains(&response.item) {
                self.items.insert(response.item.clone());
            }
        }
    }

    fn finish(self) -> Coverage {
        let registry = self.registry;
        let share = |all: usize, covered: usize| Share { all: all as u64, covered: covered as u64 };
        let items = self.items.iter().filter(|name| registry.has_item(name)).count();
        let all = self.competencies.len();
        let outside =
            self.competencies.into_iter().filter(|(name, _)| !registry.has_competency(name));
        let outside = outside.map(|(competency, answers)| Outside { competency, answers });
        let mut outside: Vec<Outside> = outside.collect();
        let figures = Figures {
            registry: registry.version,
            answers: self.answers,
            competencies: share(all, all - outside.len()),
            items: share(self.items.len(), items),
        };
        outside.sort_by_key(|outside| Reverse(outside.answers));
        outside.truncate(LISTED);
        Coverage { figures, outside }
    }
}

/// What was measured last, kept because it needs all records opened.
#[derive(Default)]
pub struct Measured(Mutex<Option<(Basis, Arc<Coverage>)>>);

/// Of which records, and of which registry.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Basis {
    snapshot: Digest,
    registry: Digest,
}

/// The coverage of the records as they are by this registry. Opens all records unless they were measured
/// before.
pub fn by(home: &Home, digest: Digest, registry: &Registry) -> Result<Arc<Coverage>, HomeError> {
    let vault = home.vault();
    let basis = Basis { snapshot: vault.snapshot().sha256, registry: digest };
    if let Some(known) = home.measured.of(basis) {
        return Ok(known);
    }
    let mut counting = Counting::over(registry);
    vault.each(|learner| counting.add(&learner))?;
    drop(vault);
    let coverage = Arc::new(counting.finish());
    *unpoisoned(&home.measured.0) = Some((basis, Arc::clone(&coverage)));
    Ok(coverage)
}

/// The same by the registry in force; none without one.
pub fn in_force(home: &Home) -> Result<Option<Arc<Coverage>>, HomeError> {
    let Some(digest) = home.book.read(|state| state.registry()).map(|known| known.digest) else {
        return Ok(None);
    };
    let Some(registry) = home.registry()? else { return Ok(None) };
    by(home, digest, &registry).map(Some)
}

/// The figures by the registry in force, if they were measured and the records are still those.
pub fn known(home: &Home) -> Option<Figures> {
    let registry = home.book.read(|state| state.registry())?.digest;
    let snapshot = home.vault().snapshot().sha256;
    home.measured.of(Basis { snapshot, registry }).map(|coverage| coverage.figures)
}

impl Measured {
    fn of(&self, basis: Basis) -> Option<Arc<Coverage>> {
        let held = unpoisoned(&self.0);
        held.as_ref().filter(|(of, _)| *of == basis).map(|(_, coverage)| Arc::clone(coverage))
    }
}

/// For people: the figures, and what is outside, a line each.
impl fmt::Display for Coverage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Figures { registry, answers, competencies, items } = self.figures;
        writeln!(f, "{:<15}version {registry}", "registry")?;
        for (name, share) in
            [("answers", answers), ("competencies", competencies), ("items", items)]
        {
            writeln!(f, "{name:<15}{share} in the registry")?;
        }
        for Outside { competency, answers } in &self.outside {
            writeln!(f, "{:<15}{competency}: {answers} answers", "outside")?;
        }
        match (competencies.all - competencies.covered).saturating_sub(self.outside.len() as u64) {
            0 => Ok(()),
            more => writeln!(f, "{:<15}and {more} more", "outside"),
        }
    }
}

#[cfg(test)]
mod outside;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::records::Response;

    fn learner(held_out: bool, answers: &[(&str, &[&str])]) -> Learner {
        let response = |(item, names): &(&str, &[&str])| Response {
            item: (*item).to_owned(),
            competencies: names.iter().map(|name| (*name).to_owned()).collect(),
            correct: true,
        };
        Learner {
            id: "l".into(),
            held_out,
            attributes: BTreeMap::new(),
            responses: answers.iter().map(response).collect(),
            features: Default::default(),
        }
    }

    fn registry(competencies: &[&str], items: &[&str]) -> Registry {
        let names = |all: &[&str]| all.iter().map(|name| (*name).to_owned()).collect();
        Registry::new(7, names(competencies), names(items)).unwrap()
    }

    fn measured(learners: &[Learner], registry: &Registry) -> Coverage {
        let mut counting = Counting::over(registry);
        learners.iter().for_each(|learner| counting.add(learner));
        counting.finish()
    }

    #[test]
    fn training_answers_competencies_and_items_are_counted() {
        let learners = [
            learner(false, &[("i1", &["a", "own"]), ("i2", &["own"]), ("i2", &["odd"])]),
            learner(false, &[("i1", &["b"]), ("i3", &["own"])]),
            learner(true, &[("i9", &["a"]), ("i9", &["held"])]),
        ];
        let found = measured(&learners, &registry(&["a", "b", "c"], &["i1", "i7"]));
        let share = |all, covered| Share { all, covered };
        assert_eq!(
            found.figures,
            Figures {
                registry: 7,
                answers: share(5, 2),
                competencies: share(4, 2),
                items: share(3, 1)
            }
        );
        let outside: Vec<(&str, u64)> =
            found.outside.iter().map(|o| (o.competency.as_str(), o.answers)).collect();
        assert_eq!(outside, [("own", 3), ("odd", 1)]);
        let text = found.to_string();
        assert!(text.contains("answers        2 of 5 (40.0 %) in the registry"), "{text}");
        assert!(text.contains("outside        own: 3 answers\n"), "{text}");
    }

    #[test]
    fn nothing_lacks_nothing_and_a_share_below_does_not_show_as_reaching() {
        assert_eq!(measured(&[], &registry(&["a"], &[])).figures.answers.share(), 1.0);
        let just_below = Share { all: 10_000, covered: 4_999 };
        assert_eq!(just_below.to_string(), "4999 of 10000 (49.9 %)");
    }

    #[test]
    fn a_long_list_is_cut_and_says_so() {
        let names: Vec<String> = (0..250).map(|n| format!("n{n}")).collect();
        let answers: Vec<(&str, &[&str])> = Vec::new();
        let mut many = learner(false, &answers);
        many.responses = names
            .iter()
            .map(|name| Response {
                item: "i".into(),
                competencies: vec![name.clone()],
                correct: false,
            })
            .collect();
        let found = measured(&[many], &registry(&["a"], &[]));
        assert_eq!((found.outside.len(), found.figures.competencies.all), (LISTED, 250));
        assert!(found.to_string().ends_with("and 50 more\n"));
    }

    proptest! {
        /// A larger registry covers no less, and what is outside adds up with what is covered.
        #[test]
        fn more_of_a_registry_covers_no_less(
            rows in prop::collection::vec(prop::collection::btree_set(0u8..9, 1..4), 1..30),
            some in prop::collection::btree_set(0u8..9, 1..5),
            more in prop::collection::btree_set(0u8..9, 0..5),
        ) {
            let names = |set: &BTreeSet<u8>| -> BTreeSet<String> {
                set.iter().map(|n| format!("c{n}")).collect()
            };
            let mut all = learner(false, &[]);
            all.responses = rows
                .iter()
                .map(|row| Response {
                    item: "i".into(),
                    competencies: names(row).into_iter().collect(),
                    correct: true,
                })
                .collect();
            let small = Registry::new(1, names(&some), BTreeSet::new()).unwrap();
            let large = &some | &more;
            let large = Registry::new(2, names(&large), BTreeSet::new()).unwrap();
            let (small, large) = (measured(&[all.clone()], &small), measured(&[all], &large));
            prop_assert!(small.figures.answers.covered <= large.figures.answers.covered);
            prop_assert_eq!(small.figures.answers.all, rows.len() as u64);
            for found in [small, large] {
                let Share { all, covered } = found.figures.competencies;
                prop_assert_eq!(all - covered, found.outside.len() as u64);
            }
        }
    }
}
