//! The simulator's bytes are pinned, and what it generates is worth learning together.

use std::collections::BTreeSet;

use collegium_agent::import::{self, Mapping};
use collegium_shared::crypto::Hasher;

use super::*;

/// Area under the ROC curve by ranks, ties at half.
fn auc(scored: &[(f64, bool)]) -> f64 {
    let mut sorted = scored.to_vec();
    sorted.sort_by(|a, b| a.0.total_cmp(&b.0));
    let (mut wins, mut negatives, mut positives) = (0.0, 0.0, 0.0);
    for tied in sorted.chunk_by(|a, b| a.0 == b.0) {
        let up = tied.iter().filter(|(_, y)| *y).count() as f64;
        let down = tied.len() as f64 - up;
        wins += up * (negatives + down / 2.0);
        positives += up;
        negatives += down;
    }
    wins / (positives * negatives)
}

/// Item counts over the training learners of some institutions.
fn counts<'a>(institutions: &[&'a SimulatedInstitution]) -> BTreeMap<&'a str, (f64, f64)> {
    let mut counts = BTreeMap::new();
    let rows = institutions.iter().flat_map(|i| &i.rows);
    for row in rows.filter(|row| !row.held_out) {
        let (n, c) = counts.entry(row.item.as_str()).or_insert((0.0, 0.0));
        *n += 1.0;
        *c += f64::from(u8::from(row.correct));
    }
    counts
}

/// The public prior of kt-logistic/1 (item logit plus running ability) over held-out learners.
fn prior_auc(counts: &BTreeMap<&str, (f64, f64)>, at: &[&SimulatedInstitution]) -> f64 {
    let mut learners: BTreeMap<&str, (f64, f64)> = BTreeMap::new();
    let mut scored = Vec::new();
    let rows = at.iter().flat_map(|i| &i.rows);
    for row in rows.filter(|row| row.held_out) {
        let (n, c) = counts.get(row.item.as_str()).copied().unwrap_or_default();
        let p0 = ((c + 3.0) / (n + 5.0)).clamp(0.02, 0.98);
        let (theta, variance) = learners.entry(&row.learner).or_insert((0.0, 1.0));
        let p = logistic((p0 / (1.0 - p0)).ln() + *theta);
        scored.push((p, row.correct));
        *variance = 1.0 / (1.0 / *variance + p * (1.0 - p));
        *theta += *variance * (f64::from(u8::from(row.correct)) - p);
    }
    auc(&scored)
}

fn generating_auc(rows: impl Iterator<Item = Row>) -> f64 {
    let held_out = rows.filter(|row| row.held_out);
    auc(&held_out.map(|r| (r.probability, r.correct)).collect::<Vec<_>>())
}

fn digest(federation: &Federation) -> String {
    let dir = tempfile::tempdir().unwrap();
    let files = federation.write_to(dir.path()).unwrap();
    let mut hasher = Hasher::new();
    for path in files.records.iter().chain([&files.registry]) {
        hasher.update(&fs::read(path).unwrap());
    }
    hasher.finish().to_string()
}

#[test]
fn the_default_federation_is_pinned() {
    let federation = Federation::simulate(&Settings::default());
    assert_eq!(
        digest(&federation),
        "c515503caf75ac235bf33c7c480972c61d364d2fb69fa0e8adfc9d8adce76dd6"
    );
}

#[test]
fn another_seed_gives_other_answers_and_more_institutions_change_nobody() {
    let small = |seed, institutions| {
        Federation::simulate(&Settings { seed, institutions, size_percent: 10 })
    };
    let (one, other, more) = (small(1, 2), small(2, 2), small(1, 9));
    assert_ne!(digest(&one), digest(&other));
    let csv = |f: &Federation, i: usize| f.institutions[i].to_csv().unwrap();
    assert_eq!(csv(&one, 1), csv(&more, 1));
    assert_eq!(more.institutions[8].name.as_str(), "institution-9");
}

#[test]
fn sizes_and_held_out_learners() {
    let federation = Federation::simulate(&Settings::default());
    let responses = federation.responses();
    assert!((40_000..60_000).contains(&responses), "{responses}");
    for (institution, site) in federation.institutions.iter().zip(&SITES) {
        let of = |held_out: bool| {
            let rows = institution.rows.iter().filter(|r| r.held_out == held_out);
            rows.map(|r| &r.learner).collect::<BTreeSet<_>>().len()
        };
        assert_eq!(of(true) + of(false), site.learners);
        assert_eq!(of(true), (site.learners / 5).max(1), "{}", institution.name);
        let order = institution.rows.iter().map(|r| r.order);
        assert!(order.eq(0..institution.rows.len()));
    }
}

#[test]
fn an_import_gives_the_same_learners() {
    let dir = tempfile::tempdir().unwrap();
    let settings = Settings { size_percent: 10, ..Settings::default() };
    let federation = Federation::simulate(&settings);
    let files = federation.write_to(dir.path()).unwrap();
    let mapping = Mapping::load(&files.mapping).unwrap();
    for (institution, path) in federation.institutions.iter().zip(&files.records) {
        let imported = import::read(path, &mapping, None).unwrap();
        assert_eq!(imported.learners, institution.learners(), "{}", institution.name);
    }
}

#[test]
fn catalogues_overlap_in_part() {
    let federation = Federation::simulate(&Settings::default());
    let registered: BTreeSet<_> = federation.registry.items.iter().map(|i| &i.id).collect();
    let mut support: BTreeMap<&String, usize> = BTreeMap::new();
    for institution in &federation.institutions {
        let items: BTreeSet<_> = institution.rows.iter().map(|r| &r.item).collect();
        for item in items {
            *support.entry(item).or_default() += 1;
        }
    }
    let with = |low, high| {
        let found = support.iter().filter(|(id, _)| registered.contains(**id));
        found.filter(|(_, n)| (low..=high).contains(*n)).count()
    };
    assert!(with(6, 7) >= 80, "core: {}", with(6, 7));
    assert!(with(2, 5) >= 50, "in part: {}", with(2, 5));
    let local = support.iter().filter(|(id, _)| !registered.contains(**id));
    let local: Vec<_> = local.map(|(_, n)| *n).collect();
    assert!(local.len() > 150 && local.iter().all(|n| *n == 1));
}

#[test]
fn learnable_together_and_not_by_the_small_alone() {
    let federation = Federation::simulate(&Settings::default());
    let all: Vec<_> = federation.institutions.iter().collect();
    let rows = all.iter().flat_map(|i| i.rows.clone());
    let best = generating_auc(rows);
    assert!((0.78..=0.82).contains(&best), "generating AUC {best}");
    let together = prior_auc(&counts(&all), &all);
    assert!(best - together < 0.06, "{best} against {together}");
    // Each of the two smallest, from its own answers alone, about the registry's items.
    for own in &all[5..] {
        let alone = prior_auc(&counts(&[own]), &all);
        assert!(together - alone > 0.03, "{}: {alone} against {together}", own.name);
    }
}

#[test]
fn practice_helps() {
    let federation = Federation::simulate(&Settings::default());
    // The first and the last answer of a learner who met the same item again.
    let mut answers: BTreeMap<(&str, &str), Vec<bool>> = BTreeMap::new();
    for row in federation.institutions.iter().flat_map(|i| &i.rows) {
        let of = answers.entry((&row.learner, &row.item)).or_default();
        of.push(row.correct);
    }
    let repeated = || answers.values().filter(|of| of.len() > 1);
    let first = repeated().filter(|of| of[0]).count();
    let last = repeated().filter(|of| of[of.len() - 1]).count();
    let rise = (last as f64 - first as f64) / repeated().count() as f64;
    assert!(rise > 0.03, "{rise}");
}
