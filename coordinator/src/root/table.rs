//! A registry from a table: CSV with the columns `kind`, `id`, `title`, `competencies`; or from a published
//! framework (`case`), with or without a table of the items that are shared.

use std::{
    collections::BTreeSet,
    io,
    path::{Path, PathBuf},
};

use collegium_shared::{
    files::read_bounded,
    roster::{Registry, RegistryError},
};
use serde::Deserialize;
use thiserror::Error;

use super::case::{self, CaseError, Choice};

/// The most bytes of a table.
const MAX_TABLE: u64 = 256 << 20;

/// Why a table or a framework is no registry.
#[derive(Debug, Error)]
pub enum TableError {
    #[error("{path}: {source}")]
    Io { path: PathBuf, source: io::Error },
    #[error("{path}, line {line}: {reason}")]
    Row { path: PathBuf, line: u64, reason: String },
    #[error(transparent)]
    Case(#[from] CaseError),
    #[error("{path}: {source}")]
    Registry { path: PathBuf, source: RegistryError },
}

/// One row. An item lists its competencies, separated by ';'; a competency lists none. Titles are
/// for the people who keep the table and do not enter the registry.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Row {
    kind: Kind,
    id: String,
    #[serde(default, rename = "title")]
    _title: String,
    #[serde(default)]
    competencies: String,
}

#[derive(Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Kind {
    Competency,
    Item,
}

/// Reads the table in `path` into a registry of the given version. Every competency that an item
/// names must have a row of its own.
pub fn build_registry(path: &Path, version: u64) -> Result<Registry, TableError> {
    build(path, BTreeSet::new(), version)
}

/// The same of the framework in `case`, to whose competencies the table, if there is one, adds items and
/// further competencies.
pub fn build_from_case(
    case: &Path,
    choice: &Choice,
    table: Option<&Path>,
    version: u64,
) -> Result<Registry, TableError> {
    let published = case::read_competencies(case, choice)?;
    match table {
        Some(table) => build(table, published, version),
        None => Registry::new(version, published, BTreeSet::new())
            .map_err(|source| TableError::Registry { path: case.to_path_buf(), source }),
    }
}

fn build(path: &Path, published: BTreeSet<String>, version: u64) -> Result<Registry, TableError> {
    let bytes = read_bounded(path, MAX_TABLE)
        .map_err(|source| TableError::Io { path: path.to_path_buf(), source })?;
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&bytes);
    let table = Table { competencies: published, ..Table::default() };
    let table = read_rows(bytes, table).map_err(|(line, reason)| TableError::Row {
        path: path.to_path_buf(),
        line,
        reason,
    })?;
    Registry::new(version, table.competencies, table.items)
        .map_err(|source| TableError::Registry { path: path.to_path_buf(), source })
}

/// What is wrong, and on which line.
type BadLine = (u64, String);

fn read_rows(bytes: &[u8], mut table: Table) -> Result<Table, BadLine> {
    let mut reader = csv::ReaderBuilder::new().trim(csv::Trim::All).from_reader(bytes);
    let headers = reader.headers().map_err(|e| (1, explain(&e)))?.clone();
    let mut record = csv::StringRecord::new();
    loop {
        let next = reader.read_record(&mut record);
        let line = line_of(bytes, record.position().unwrap_or(reader.position()));
        if !next.map_err(|e| (e.position().map_or(line, |p| line_of(bytes, p)), explain(&e)))? {
            break;
        }
        let row: Row = record.deserialize(Some(&headers)).map_err(|e| (line, explain(&e)))?;
        table.add(line, row).map_err(|reason| (line, reason))?;
    }
    let known = &table.competencies;
    match table.named.iter().find(|(_, name)| !known.contains(name)) {
        Some((line, name)) => {
            Err((*line, format!("the competency {name:?} has no row of its own")))
        }
        None => Ok(table),
    }
}

/// The rows that were read.
#[derive(Default)]
struct Table {
    /// Those of a framework among them.
    competencies: BTreeSet<String>,
    items: BTreeSet<String>,
    /// The competencies that items list, with the line that does.
    named: Vec<(u64, String)>,
}

impl Table {
    fn add(&mut self, line: u64, row: Row) -> Result<(), String> {
        if row.id.is_empty() || row.id.len() > 256 {
            return Err("the id is empty or longer than 256 bytes".into());
        }
        if row.kind == Kind::Competency && !row.competencies.is_empty() {
            return Err("a competency lists no competencies".into());
        }
        let (ids, kind) = match row.kind {
            Kind::Competency => (&mut self.competencies, "competency"),
            Kind::Item => (&mut self.items, "item"),
        };
        if ids.contains(&row.id) {
            return Err(format!(
                "the {kind} {:?} stands in the table twice, or in the framework as well",
                row.id
            ));
        }
        ids.insert(row.id);
        let listed = row.competencies.split(';').map(str::trim).filter(|name| !name.is_empty());
        self.named.extend(listed.map(|name| (line, name.to_owned())));
        Ok(())
    }
}

/// The line on which a row begins: the csv crate's position stands before the empty lines that it
/// skips.
fn line_of(table: &[u8], position: &csv::Position) -> u64 {
    let start = usize::try_from(position.byte()).unwrap_or(usize::MAX);
    let skipped = table.iter().skip(start).take_while(|byte| matches!(byte, b'\r' | b'\n'));
    position.line() + skipped.filter(|byte| **byte == b'\n').count() as u64
}

/// The csv crate's reason without its own account of the position.
fn explain(error: &csv::Error) -> String {
    match error.kind() {
        csv::ErrorKind::Deserialize { err, .. } => err.kind().to_string(),
        csv::ErrorKind::Utf8 { .. } => "this is not UTF-8".into(),
        csv::ErrorKind::UnequalLengths { expected_len, len, .. } => {
            format!("the row has {len} columns, the header {expected_len}")
        }
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn build(text: &[u8]) -> Result<Registry, String> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("t.csv");
        std::fs::write(&path, text).unwrap();
        build_registry(&path, 3).map_err(|e| e.to_string())
    }

    #[test]
    fn a_table_becomes_a_sorted_registry() {
        let text = "\u{feff}kind,id,title,competencies\n\
            item,i2,\"Two, quoted\",c2; c1\ncompetency,c2,Second,\ncompetency,c1,,\nitem,i1,One,c1\n";
        let registry = build(text.as_bytes()).unwrap();
        assert_eq!(registry.version, 3);
        assert_eq!(registry.competencies, ["c1", "c2"]);
        assert_eq!(registry.items, ["i1", "i2"]);
        assert!(build(b"kind,id\ncompetency,c1\n").is_ok(), "titles may be left out");
    }

    #[test]
    fn a_table_adds_items_to_a_framework() {
        let dir = tempfile::tempdir().unwrap();
        let (case, table) = (dir.path().join("f.json"), dir.path().join("t.csv"));
        let id = "0a000000-0000-4000-8000-000000000001";
        std::fs::write(&case, format!("{{\"CFItems\": [{{\"identifier\": \"{id}\"}}]}}")).unwrap();
        let with = |rows: &str| {
            std::fs::write(&table, format!("kind,id,competencies\n{rows}")).unwrap();
            build_from_case(&case, &Choice::default(), Some(&table), 2).map_err(|e| e.to_string())
        };
        let registry = with(&format!("item,i,{id};own\ncompetency,own,")).unwrap();
        assert_eq!((registry.version, registry.items), (2, vec!["i".to_owned()]));
        assert_eq!(registry.competencies, [id, "own"]);
        assert!(with("item,i,other").unwrap_err().contains("\"other\" has no row"));
        assert!(with(&format!("competency,{id},")).unwrap_err().contains("in the framework"));
        let alone = build_from_case(&case, &Choice::default(), None, 1).unwrap();
        assert_eq!((alone.competencies, alone.items), (vec![id.to_owned()], Vec::new()));
        let missing = dir.path().join("none.json");
        let error = build_from_case(&missing, &Choice::default(), None, 1).unwrap_err();
        assert!(error.to_string().contains("none.json"), "{error}");
    }

    #[test]
    fn a_bad_row_is_named_by_its_line() {
        let cases: [(&str, &str); 10] = [
            ("competency,a,,\nskill,b,,", "line 3"),
            ("competency,a,,\ncompetency,a,,", "line 3: the competency \"a\""),
            ("competency,a,,\n\ncompetency,,,", "line 4: the id is empty"),
            ("competency,a,,\r\n\r\nitem,i,,\r\ncompetency,,,", "line 5: the id is empty"),
            ("item,i,,b\ncompetency,a,,", "line 2: the competency \"b\" has no row"),
            ("competency,a,,\nitem,i,,a,x", "line 3: the row has 5 columns"),
            ("competency,a,,b", "line 2: a competency lists no"),
            ("item,i,\"two\nlines\",\nitem,i,,", "line 4: the item \"i\""),
            ("", "no competency"),
            ("item,i,,", "no competency"),
        ];
        for (rows, reason) in cases {
            let error =
                build(format!("kind,id,title,competencies\n{rows}").as_bytes()).unwrap_err();
            assert!(error.contains(reason), "{rows:?}: {error}");
        }
        assert!(build(b"kind,id\ncompetency,\xff\n").unwrap_err().contains("not UTF-8"));
        assert!(build(b"kind,name\ncompetency,a\n").is_err(), "unknown column");
    }
}
