//! Who takes part in the demo and with which records: the simulator's institutions, or those of a
//! file of real records. Writes one table for each, so that no agent ever sees another's records,
//! and the table of the registry. Real records are copied into the demo's directory only.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io::{BufWriter, Write},
    path::{Path, PathBuf},
};

use anyhow::{Context, bail};
use collegium_agent::{
    import::{self, Mapping},
    records::Learner,
};
use collegium_shared::ids::InstitutionId;
use serde_json::json;

use crate::{
    harness::workspace,
    simulator::{Federation, Files, Settings},
};

/// A sum over one institution is no secret.
const FEWEST: usize = 2;

/// One institution of the demo.
pub(super) struct Site {
    pub(super) name: InstitutionId,
    pub(super) legal_entity: String,
    pub(super) learners: Vec<Learner>,
    /// Its table.
    pub(super) records: PathBuf,
}

impl Site {
    /// All its answers.
    pub(super) fn answers(&self) -> usize {
        self.learners.iter().map(|learner| learner.responses.len()).sum()
    }
}

/// All institutions, and what their agents import.
pub(super) struct Population {
    /// Where the records come from, in words.
    pub(super) source: String,
    /// What the simulator drew from; none for real records.
    pub(super) seed: Option<u64>,
    pub(super) sites: Vec<Site>,
    pub(super) files: Files,
}

impl Population {
    /// Whether the records are people's.
    pub(super) fn is_real(&self) -> bool {
        self.seed.is_none()
    }

    /// The simulator's institutions, with their tables in `dir`.
    pub(super) fn simulated(
        seed: u64,
        institutions: Option<usize>,
        dir: &Path,
    ) -> anyhow::Result<Self> {
        let defaults = Settings::default();
        let institutions = institutions.unwrap_or(defaults.institutions);
        enough(institutions)?;
        let federation = Federation::simulate(&Settings { seed, institutions, ..defaults });
        let files = federation.write_to(dir)?;
        let sites =
            federation.institutions.iter().zip(&files.records).map(|(simulated, table)| Site {
                name: simulated.name.clone(),
                legal_entity: simulated.legal_entity.clone(),
                learners: simulated.learners(),
                records: table.clone(),
            });
        let sites = sites.collect();
        Ok(Self { source: format!("the simulator, seed {seed}"), seed: Some(seed), sites, files })
    }

    /// The institutions of a file, largest first; at most the `most` largest.
    pub(super) fn read(
        data: &Path,
        mapping: Option<&Path>,
        most: Option<usize>,
        dir: &Path,
    ) -> anyhow::Result<Self> {
        let mapping_file = mapping.map_or_else(|| known_mapping(data), |m| Ok(m.to_owned()))?;
        let mapping = Mapping::load(&mapping_file)?;
        let imported = import::read_all(data, &mapping)?;
        let prefix = prefix_of(&mapping_file)?;
        let mut found: Vec<_> = imported.institutions.into_iter().collect();
        let answers = |learners: &[Learner]| -> usize {
            learners.iter().map(|learner| learner.responses.len()).sum()
        };
        found.sort_by_key(|(_, learners)| std::cmp::Reverse(answers(learners)));
        found.truncate(most.unwrap_or(usize::MAX));
        enough(found.len())?;
        fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
        let mut names = BTreeSet::new();
        let mut sites = Vec::new();
        for (value, learners) in found {
            let name = institution_id(&prefix, &value, &mut names)?;
            let records = dir.join(format!("{name}.jsonl"));
            write_table(&records, &learners)?;
            let legal_entity = format!("{prefix} {value}");
            sites.push(Site { name, legal_entity, learners, records });
        }
        let files = Files {
            registry: write_registry(&dir.join("registry.csv"), &sites)?,
            mapping: write_mapping(
                &dir.join("records.toml"),
                mapping.attributes(),
                &mapping.features(),
            )?,
            records: sites.iter().map(|site| site.records.clone()).collect(),
        };
        Ok(Self { source: data.display().to_string(), seed: None, sites, files })
    }
}

fn enough(institutions: usize) -> anyhow::Result<()> {
    if institutions < FEWEST {
        bail!("a consortium needs at least {FEWEST} institutions, not {institutions}");
    }
    Ok(())
}

/// The mapping in `tests/mappings` that the file's name begins with.
pub(crate) fn known_mapping(data: &Path) -> anyhow::Result<PathBuf> {
    let dir = workspace().join("tests").join("mappings");
    let part =
        |part: Option<&std::ffi::OsStr>| part.unwrap_or_default().to_string_lossy().into_owned();
    let name = part(data.file_name());
    let directory = part(data.parent().and_then(Path::file_name));
    let mut known = Vec::new();
    for entry in fs::read_dir(&dir).with_context(|| format!("cannot read {}", dir.display()))? {
        let path = entry?.path();
        let stem = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        if name.starts_with(&stem) || directory == stem {
            return Ok(path);
        }
        known.push(stem);
    }
    known.sort();
    bail!("no mapping is known for {name}: give one with --mapping (known: {})", known.join(", "));
}

/// What the institutions are, after the mapping's column: "school" for "school_id".
fn prefix_of(mapping: &Path) -> anyhow::Result<String> {
    let text = fs::read_to_string(mapping).with_context(|| mapping.display().to_string())?;
    let table: toml::Table = text.parse().with_context(|| mapping.display().to_string())?;
    let column = table.get("institution").and_then(toml::Value::as_str).unwrap_or_default();
    let lower = column.to_lowercase();
    Ok(name_part(lower.strip_suffix("_id").unwrap_or(&lower)))
}

/// The characters that names allow; others become '-'.
fn name_part(text: &str) -> String {
    let allowed = |c: char| match c.to_ascii_lowercase() {
        c if c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '.' | '_') => c,
        _ => '-',
    };
    text.chars().map(allowed).collect::<String>().trim_matches('-').chars().take(40).collect()
}

/// A name of its own for each value of the file's column.
fn institution_id(
    prefix: &str,
    value: &str,
    taken: &mut BTreeSet<String>,
) -> anyhow::Result<InstitutionId> {
    let parts = [prefix, &name_part(value)].map(str::to_owned);
    let base = parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join("-");
    let base = if base.is_empty() { "institution".to_owned() } else { base };
    let numbered = (2..).map(|n: u32| format!("{base}-{n}"));
    let mut candidates = std::iter::once(base.clone()).chain(numbered);
    let name = candidates.find(|name| !taken.contains(name)).unwrap_or(base.clone());
    taken.insert(name.clone());
    Ok(name.parse()?)
}

/// Writes a file piece by piece.
fn write(
    path: &Path,
    fill: impl FnOnce(&mut BufWriter<File>) -> anyhow::Result<()>,
) -> anyhow::Result<PathBuf> {
    let at = || format!("cannot write {}", path.display());
    let mut file = BufWriter::new(File::create(path).with_context(at)?);
    fill(&mut file).with_context(at)?;
    file.flush().with_context(at)?;
    Ok(path.to_owned())
}

/// JSON Lines that [`write_mapping`]'s mapping reads.
fn write_table(path: &Path, learners: &[Learner]) -> anyhow::Result<PathBuf> {
    write(path, |file| {
        for learner in learners {
            for (order, response) in learner.responses.iter().enumerate() {
                let mut row = json!({
                    "learner": learner.id,
                    "item": response.item,
                    "competencies": response.competencies,
                    "order": order,
                    "correct": response.correct,
                    "held_out": learner.held_out,
                });
                for (name, value) in &learner.attributes {
                    row[attribute(name)] = json!(value);
                }
                for (column, name) in learner.features.names().iter().enumerate() {
                    row[feature(name)] = json!(learner.features.value(order, column));
                }
                serde_json::to_writer(&mut *file, &row)?;
                file.write_all(b"\n")?;
            }
        }
        Ok(())
    })
}

/// An attribute's column, which must not be taken for one of the others.
fn attribute(name: &str) -> String {
    match name {
        "learner" | "item" | "competencies" | "order" | "correct" | "held_out" => {
            format!("group_{name}")
        }
        name => name.to_owned(),
    }
}

/// A number's column.
fn feature(name: &str) -> String {
    format!("number_{name}")
}

fn write_mapping(
    path: &Path,
    attributes: &[String],
    features: &[String],
) -> anyhow::Result<PathBuf> {
    let features: toml::Table =
        features.iter().map(|name| (name.clone(), feature(name).into())).collect();
    let attributes: Vec<String> = attributes.iter().map(|name| attribute(name)).collect();
    let mut mapping = toml::toml! {
        format = "jsonl"
        learner = "learner"
        item = "item"
        competencies = { column = "competencies" }
        order = { column = "order", kind = "number" }
        outcome = { column = "correct" }
        held_out = { column = "held_out", equals = true }
        max_refused_share = 0.0
    };
    mapping.insert("attributes".to_owned(), attributes.into());
    mapping.insert("features".to_owned(), features.into());
    write(path, |file| Ok(file.write_all(toml::to_string(&mapping)?.as_bytes())?))
}

/// Every competency and item of the records: the demo plays the consortium that agreed on them.
fn write_registry(path: &Path, sites: &[Site]) -> anyhow::Result<PathBuf> {
    let learners = sites.iter().flat_map(|site| &site.learners);
    let responses = || learners.clone().flat_map(|learner| &learner.responses);
    let items: BTreeSet<&String> = responses().map(|response| &response.item).collect();
    let competencies: BTreeSet<&String> = responses().flat_map(|r| &r.competencies).collect();
    write(path, |file| {
        let mut table = csv::Writer::from_writer(file);
        table.write_record(["kind", "id", "title", "competencies"])?;
        for competency in competencies {
            table.write_record(["competency", competency, "", ""])?;
        }
        for item in items {
            // Which competencies an item exercises stands in each institution's own records.
            table.write_record(["item", item, "", ""])?;
        }
        Ok(table.flush()?)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use collegium_agent::records::{Features, Response};

    #[test]
    fn values_become_names_of_their_own() {
        let mut taken = BTreeSet::new();
        let mut name = |value| institution_id("school", value, &mut taken).unwrap().to_string();
        assert_eq!(name("17"), "school-17");
        assert_eq!(name("St. Mary's"), "school-st.-mary-s");
        assert_eq!(name("st. mary's"), "school-st.-mary-s-2");
        assert_eq!(name("/"), "school");
    }

    #[test]
    fn mappings_are_found_by_the_files_name() {
        let found = known_mapping(Path::new("/x/timss11_schools.parquet")).unwrap();
        assert!(found.ends_with("timss11.toml"));
        assert_eq!(prefix_of(&found).unwrap(), "school");
        let error = known_mapping(Path::new("/x/other.csv")).unwrap_err().to_string();
        assert!(error.contains("other.csv") && error.contains("assist09"), "{error}");
    }

    #[test]
    fn tables_are_imported_as_they_were_read() {
        let dir = tempfile::tempdir().unwrap();
        let answer = |item: &str, of: &[&str], correct| Response {
            item: item.to_owned(),
            competencies: of.iter().map(|k| (*k).to_owned()).collect(),
            correct,
        };
        let learner = |id: &str, held_out| Learner {
            id: id.to_owned(),
            held_out,
            attributes: [("learner".to_owned(), "b".to_owned())].into(),
            responses: vec![answer("1", &["a|b", "c;d"], true), answer("2", &["c;d"], false)],
            features: Features::new(&["clicks".to_owned()], [vec![Some(1.5)], vec![None]]),
        };
        let learners = vec![learner("x", false), learner("y", true)];
        let path = write_table(&dir.path().join("t.jsonl"), &learners).unwrap();
        let (names, numbers) = (["learner".to_owned()], ["clicks".to_owned()]);
        let mapping = write_mapping(&dir.path().join("m.toml"), &names, &numbers).unwrap();
        let mut read = import::read(&path, &Mapping::load(&mapping).unwrap(), None).unwrap();
        for learner in &mut read.learners {
            let group = learner.attributes.remove("group_learner").unwrap();
            learner.attributes.insert("learner".to_owned(), group);
        }
        assert_eq!(read.learners, learners);
    }
}
