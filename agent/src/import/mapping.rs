//! The mapping: which columns of an institution's file mean what. Owns the TOML schema and its checks;
//! never looks at records.
//!
//! ```toml
//! format = "csv"                  # csv, jsonl or parquet; left out: by the file's extension
//! delimiter = ";"                 # csv only; left out: a comma
//! learner = "user_id"
//! item = "problem_id"
//! competencies = { column = "skills", separator = "|" }   # no separator: one competency (or a list)
//!                                                       # tags = "tags.csv": what local tags stand for (`tags`)
//! order = { column = "order", kind = "number" }           # or "time": RFC 3339; within = "term": first by that
//!                                                       # column's text, where the order begins anew in each
//! outcome = { column = "correct" }                        # 0/1, true/false; or threshold = 0.6: right from 0.6 on
//! attributes = ["sex"]            # group attributes to keep for the bias audit
//! features = { clicks = "clicks_7" }  # numbers known before the answer: the network's name, this file's column
//! institution = "school_id"       # files that hold several institutions
//! ignore_institution = ["-1"]     # values that stand for "unknown": such rows are left out
//! held_out = { column = "fold", equals = "0" }            # or held_out_fraction = 0.2
//! max_refused_share = 0.05        # more unusable rows than this: nothing is imported
//! max_rows = 50000000
//! ```

use std::{
    collections::BTreeMap,
    fs::File,
    io::Read,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use super::{ImportError, tags::Tags};

/// A mapping file is at most this long, in bytes.
const MAX_MAPPING: u64 = 65_536;
/// Rows per file unless the mapping says otherwise, and what it may say at most.
const DEFAULT_ROWS: u64 = 50_000_000;
const MOST_ROWS: u64 = 1_000_000_000;
/// Learners held out where the file does not say which.
const DEFAULT_HELD_OUT: f64 = 0.2;
/// Half of the learners must remain to train on.
const MOST_HELD_OUT: f64 = 0.5;
/// More would make records large without need.
const MOST_FEATURES: usize = 256;
const DEFAULT_REFUSED_SHARE: f64 = 0.05;

/// File formats that can be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// RFC 4180 with a header line, UTF-8.
    Csv,
    /// One JSON object per line.
    #[serde(alias = "ndjson")]
    Jsonl,
    Parquet,
}

/// A checked mapping; made by [`Mapping::parse`] and [`Mapping::load`] only.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mapping {
    format: Option<Format>,
    delimiter: Option<char>,
    learner: String,
    item: String,
    pub(super) competencies: Competencies,
    pub(super) order: Order,
    pub(super) outcome: Outcome,
    #[serde(default)]
    attributes: Vec<String>,
    #[serde(default)]
    features: BTreeMap<String, String>,
    institution: Option<String>,
    #[serde(default)]
    ignore_institution: Vec<Scalar>,
    held_out: Option<HeldOut>,
    held_out_fraction: Option<f64>,
    #[serde(default = "default_refused_share")]
    pub(super) max_refused_share: f64,
    #[serde(default = "default_rows")]
    pub(super) max_rows: u64,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Competencies {
    pub(super) column: String,
    pub(super) separator: Option<String>,
    /// The table of tags: a path from the mapping's own folder.
    pub(super) tags: Option<PathBuf>,
    /// What that table says; empty without one.
    #[serde(skip)]
    pub(super) table: Tags,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Order {
    pub(super) column: String,
    pub(super) kind: OrderKind,
    /// A column by whose text rows are ordered first.
    pub(super) within: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum OrderKind {
    /// Compared as 64-bit floating point: whole numbers are exact up to 2^53.
    Number,
    /// An RFC 3339 time or a Parquet timestamp (without a zone: UTC), compared to the microsecond.
    Time,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Outcome {
    pub(super) column: String,
    /// The lowest value that counts as right; without it only 0/1 and true/false are read.
    pub(super) threshold: Option<f64>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct HeldOut {
    pub(super) column: String,
    pub(super) equals: Scalar,
}

/// A value of a column, written in TOML as text, whole number or boolean.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub(super) enum Scalar {
    Boolean(bool),
    Integer(i64),
    Text(String),
}

impl Scalar {
    /// As an identifier of that value reads.
    pub(super) fn text(&self) -> String {
        match self {
            Self::Boolean(value) => value.to_string(),
            Self::Integer(value) => value.to_string(),
            Self::Text(value) => value.trim().to_owned(),
        }
    }
}

fn default_refused_share() -> f64 {
    DEFAULT_REFUSED_SHARE
}

fn default_rows() -> u64 {
    DEFAULT_ROWS
}

impl Mapping {
    /// Reads and checks a mapping file of at most 64 KiB, and the table of tags that it names.
    ///
    /// # Errors
    /// [`ImportError::Io`], [`ImportError::Mapping`] with the place in the file, or [`ImportError::Tags`].
    pub fn load(path: &Path) -> Result<Self, ImportError> {
        let io_error = |source| ImportError::Io { path: path.to_owned(), source };
        let mut text = String::new();
        File::open(path)
            .map_err(io_error)?
            .take(MAX_MAPPING + 1)
            .read_to_string(&mut text)
            .map_err(io_error)?;
        if text.len() as u64 > MAX_MAPPING {
            let reason = format!("it is longer than {MAX_MAPPING} bytes");
            return Err(ImportError::Mapping { path: path.to_owned(), reason });
        }
        let mut mapping = Self::checked(&text)
            .map_err(|reason| ImportError::Mapping { path: path.to_owned(), reason })?;
        if let Some(tags) = &mapping.competencies.tags {
            mapping.competencies.table = Tags::load(&path.with_file_name("").join(tags))?;
        }
        Ok(mapping)
    }

    /// Reads and checks a mapping that is at hand as text. It can name no table of tags: those lie beside a
    /// mapping's file.
    ///
    /// # Errors
    /// [`ImportError::Mapping`].
    pub fn parse(text: &str) -> Result<Self, ImportError> {
        let beside = |mapping: Self| match mapping.competencies.tags {
            Some(_) => Err("competencies.tags needs a mapping in a file".to_owned()),
            None => Ok(mapping),
        };
        Self::checked(text)
            .and_then(beside)
            .map_err(|reason| ImportError::Mapping { path: PathBuf::from("the mapping"), reason })
    }

    /// The columns that are read, each once; whatever else the file holds is never looked at.
    pub fn columns(&self) -> Vec<&str> {
        let mut columns: Vec<&str> = Vec::new();
        let all = [
            self.learner.as_str(),
            &self.item,
            &self.competencies.column,
            &self.order.column,
            &self.outcome.column,
        ]
        .into_iter()
        .chain(self.order.within.as_deref())
        .chain(self.attributes.iter().map(String::as_str))
        .chain(self.features.values().map(String::as_str))
        .chain(self.institution.as_deref())
        .chain(self.held_out.as_ref().map(|held_out| held_out.column.as_str()));
        for column in all {
            if !columns.contains(&column) {
                columns.push(column);
            }
        }
        columns
    }

    /// The group attributes that are kept.
    pub fn attributes(&self) -> &[String] {
        &self.attributes
    }

    /// The names of the numbers that are kept with each answer, sorted.
    pub fn features(&self) -> Vec<String> {
        self.features.keys().cloned().collect()
    }

    pub(super) fn format_of(&self, path: &Path) -> Result<Format, ImportError> {
        if let Some(format) = self.format {
            return Ok(format);
        }
        let extension = path.extension().and_then(|e| e.to_str()).map(str::to_ascii_lowercase);
        match extension.as_deref() {
            Some("csv") => Ok(Format::Csv),
            Some("jsonl" | "ndjson") => Ok(Format::Jsonl),
            Some("parquet") => Ok(Format::Parquet),
            _ => Err(ImportError::UnknownFormat { path: path.to_owned() }),
        }
    }

    pub(super) fn delimiter(&self) -> u8 {
        self.delimiter.and_then(|d| u8::try_from(d).ok()).unwrap_or(b',')
    }

    pub(super) fn has_institutions(&self) -> bool {
        self.institution.is_some()
    }

    pub(super) fn ignored_institutions(&self) -> Vec<String> {
        self.ignore_institution.iter().map(Scalar::text).collect()
    }

    /// The value that marks held-out learners, where a column says which they are.
    pub(super) fn held_out_value(&self) -> Option<String> {
        self.held_out.as_ref().map(|held_out| held_out.equals.text())
    }

    pub(super) fn held_out_fraction(&self) -> f64 {
        self.held_out_fraction.unwrap_or(DEFAULT_HELD_OUT)
    }

    /// Where each meaning stands among [`Mapping::columns`].
    pub(super) fn layout(&self) -> Layout {
        let columns = self.columns();
        let at = |name: &str| columns.iter().position(|c| *c == name).unwrap_or_default();
        Layout {
            learner: at(&self.learner),
            item: at(&self.item),
            competencies: at(&self.competencies.column),
            order: at(&self.order.column),
            within: self.order.within.as_deref().map(at),
            outcome: at(&self.outcome.column),
            attributes: self.attributes.iter().map(|name| at(name)).collect(),
            features: self.features.values().map(|column| at(column)).collect(),
            institution: self.institution.as_deref().map(at),
            held_out: self.held_out.as_ref().map(|held_out| at(&held_out.column)),
            columns: columns.into_iter().map(str::to_owned).collect(),
        }
    }

    fn checked(text: &str) -> Result<Self, String> {
        let mapping: Self = toml::from_str(text).map_err(|error| error.to_string())?;
        match mapping.contradiction() {
            None => Ok(mapping),
            Some(reason) => Err(reason.to_owned()),
        }
    }

    /// What the types alone do not rule out.
    fn contradiction(&self) -> Option<&'static str> {
        let fraction = self.held_out_fraction();
        let checks = [
            (self.columns().iter().any(|c| c.is_empty()), "a column's name is empty"),
            (self.features.keys().any(|name| name.is_empty()), "a feature's name is empty"),
            (self.features.len() > MOST_FEATURES, "there are more than 256 features"),
            (
                self.features.values().any(|column| *column == self.outcome.column),
                "the outcome's column is a feature: it would predict itself; remove it",
            ),
            (
                self.delimiter.is_some_and(|d| !d.is_ascii() || matches!(d, '"' | '\n' | '\r')),
                "delimiter must be one ASCII character other than a quote or a line break",
            ),
            (
                self.competencies.separator.as_deref() == Some(""),
                "competencies.separator is empty: leave it out if a row has one competency",
            ),
            (
                self.competencies.tags.as_deref() == Some(Path::new("")),
                "competencies.tags is empty: leave it out if there is no table",
            ),
            (
                self.outcome.threshold.is_some_and(|t| !t.is_finite()),
                "outcome.threshold must be a finite number",
            ),
            (
                !self.ignore_institution.is_empty() && self.institution.is_none(),
                "ignore_institution needs institution",
            ),
            (
                self.held_out.is_some() && self.held_out_fraction.is_some(),
                "held_out and held_out_fraction exclude each other",
            ),
            (!(0.0..=MOST_HELD_OUT).contains(&fraction), "held_out_fraction must be from 0 to 0.5"),
            (
                !(0.0..=1.0).contains(&self.max_refused_share),
                "max_refused_share must be from 0 to 1",
            ),
            (!(1..=MOST_ROWS).contains(&self.max_rows), "max_rows must be from 1 to 1000000000"),
        ];
        checks.into_iter().find(|(wrong, _)| *wrong).map(|(_, reason)| reason)
    }
}

/// Where the mapping's columns stand in the cells that a reader hands over.
#[derive(Debug)]
pub(super) struct Layout {
    pub(super) columns: Vec<String>,
    pub(super) learner: usize,
    pub(super) item: usize,
    pub(super) competencies: usize,
    pub(super) order: usize,
    pub(super) within: Option<usize>,
    pub(super) outcome: usize,
    pub(super) attributes: Vec<usize>,
    pub(super) features: Vec<usize>,
    pub(super) institution: Option<usize>,
    pub(super) held_out: Option<usize>,
}

#[cfg(test)]
mod tests {
    use super::*;

    const BASE: &str = r#"
        learner = "u"
        item = "i"
        competencies = { column = "k", separator = "|" }
        order = { column = "o", kind = "number" }
        outcome = { column = "c" }
    "#;

    fn reason(extra: &str) -> String {
        Mapping::parse(&format!("{BASE}\n{extra}")).unwrap_err().to_string()
    }

    #[test]
    fn columns_are_named_once() {
        let mapping = Mapping::parse(&format!(
            "{BASE}\ninstitution = \"s\"\nattributes = [\"s\", \"sex\"]\nheld_out = {{ column = \"f\", equals = 0 }}"
        ))
        .unwrap();
        assert_eq!(mapping.columns(), ["u", "i", "k", "o", "c", "s", "sex", "f"]);
        let layout = mapping.layout();
        assert_eq!(
            (layout.attributes, layout.institution, layout.held_out),
            (vec![5, 6], Some(5), Some(7))
        );
        assert_eq!(mapping.held_out_value().as_deref(), Some("0"));
    }

    #[test]
    fn unknown_keys_and_missing_keys_are_refused() {
        assert!(reason("learners = \"x\"").contains("learners"));
        assert!(reason("[limits]\nrows = 3").contains("limits"));
        let error = Mapping::parse("learner = \"u\"").unwrap_err().to_string();
        assert!(error.contains("item"), "{error}");
        assert!(Mapping::parse("learner = ").is_err());
    }

    #[test]
    fn contradictions_are_refused() {
        for (extra, expected) in [
            ("delimiter = \"é\"", "delimiter"),
            ("ignore_institution = [-1]", "needs institution"),
            ("held_out_fraction = 0.7", "held_out_fraction"),
            ("held_out_fraction = nan", "held_out_fraction"),
            ("held_out_fraction = 0.1\nheld_out = { column = \"f\", equals = true }", "exclude"),
            ("max_refused_share = 1.5", "max_refused_share"),
            ("max_rows = 0", "max_rows"),
            ("attributes = [\"\"]", "empty"),
        ] {
            assert!(reason(extra).contains(expected), "{extra}: {}", reason(extra));
        }
    }

    #[test]
    fn format_follows_the_extension_unless_given() {
        let mapping = Mapping::parse(BASE).unwrap();
        for (name, format) in
            [("a.csv", Format::Csv), ("a.NDJSON", Format::Jsonl), ("a.parquet", Format::Parquet)]
        {
            assert_eq!(mapping.format_of(Path::new(name)).unwrap(), format);
        }
        assert!(matches!(
            mapping.format_of(Path::new("a.xlsx")),
            Err(ImportError::UnknownFormat { .. })
        ));
        let explicit = Mapping::parse(&format!("{BASE}\nformat = \"csv\"")).unwrap();
        assert_eq!(explicit.format_of(Path::new("a.txt")).unwrap(), Format::Csv);
    }

    #[test]
    fn long_mapping_file_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("m.toml");
        std::fs::write(&path, "#".repeat(70_000)).unwrap();
        assert!(matches!(Mapping::load(&path), Err(ImportError::Mapping { .. })));
        assert!(matches!(Mapping::load(&dir.path().join("none")), Err(ImportError::Io { .. })));
    }
}
