//! Import: reads an institution's file of answers, as its mapping says, into learners. Owns the checks of
//! every row. Streams the file with bounds on all it holds; keeps nothing on disk (that is `vault`), and
//! neither errors nor refusals repeat a learner's data.
//!
//! A row that cannot be used is refused and counted; the first [`KEPT_REFUSALS`] are kept with their
//! reasons. More refused rows than the mapping's share (5 % unless it says otherwise) fail the import.
//! Surrounding blanks of names are dropped. Exact repetitions of a row are kept: a learner may answer the
//! same item twice.
//!
//! Where the mapping names no held-out column, a learner is held out iff the first 53 bits of
//! SHA-256(label, learner id), read as a number in [0, 1), are below the fraction (0.2 by default): the
//! same learners in every import, whatever else the file holds.

mod cell;
mod collect;
mod columns;
mod csv;
mod jsonl;
mod mapping;
mod parquet;
mod tags;

use std::{
    collections::BTreeMap,
    fmt,
    fs::File,
    io::{self, Read, Seek},
    path::{Path, PathBuf},
};

use collegium_shared::crypto::{Digest, Hasher};
use serde::Serialize;
use thiserror::Error;

use crate::records::Learner;
use cell::Cell;
use collect::Collector;
use columns::Shape;
pub use mapping::{Format, Mapping};
pub use tags::Tags;

/// Refused rows that a summary names.
pub const KEPT_REFUSALS: usize = 20;
/// Tags without a line in the mapping's table that a summary names.
pub const KEPT_TAGS: usize = 20;
/// A row of a text file is at most this long, in bytes.
const MAX_LINE: usize = 1 << 20;
/// Institutions that an error lists.
const LISTED: usize = 40;

/// Where a reader puts its rows, one call each, in the file's order; cells as in the mapping's columns.
type RowSink<'s> = dyn FnMut(Result<&[Cell<'_>], Shape>) -> Result<(), ImportError> + 's;

/// Why nothing was imported.
#[derive(Debug, Error)]
pub enum ImportError {
    #[error("{}: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error("{}: this is not a usable mapping: {reason}", path.display())]
    Mapping { path: PathBuf, reason: String },
    #[error("{}, line {line}: {reason}", path.display())]
    Tags { path: PathBuf, line: u64, reason: String },
    #[error(
        "{}: the format does not show from the name: use .csv, .jsonl, .ndjson or .parquet, or set `format` in the mapping",
        path.display()
    )]
    UnknownFormat { path: PathBuf },
    #[error(
        "{}: the mapping names columns that the file does not have: {}; it has: {}",
        path.display(), missing.join(", "), existing.join(", ")
    )]
    MissingColumns { path: PathBuf, missing: Vec<String>, existing: Vec<String> },
    #[error("{}: {reason}", path.display())]
    Malformed { path: PathBuf, reason: String },
    #[error("{}: the file holds no rows to import", path.display())]
    Empty { path: PathBuf },
    #[error("{}: more than {limit} rows: split the file, or raise max_rows in the mapping", path.display())]
    TooManyRows { path: PathBuf, limit: u64 },
    #[error(
        "{}: {refused} of {rows} rows cannot be used and the mapping allows {:.1} %; nothing was imported. First: {}",
        path.display(), share * 100.0, listed(examples, 3)
    )]
    TooManyRefused {
        path: PathBuf,
        refused: u64,
        rows: u64,
        /// The mapping's limit, from 0 to 1.
        share: f64,
        examples: Vec<Refused>,
    },
    #[error(
        "{}: {learners} learners are held out in some rows and not in others: one value per learner is needed, or a model would be tested on what it was trained on",
        path.display()
    )]
    HeldOutConflict { path: PathBuf, learners: u64 },
    #[error("{}: no rows of institution {name:?}; the file has: {}", path.display(), listed(existing, LISTED))]
    UnknownInstitution { path: PathBuf, name: String, existing: Vec<String> },
    #[error("{}: the file holds several institutions, say which to import: {}", path.display(), listed(existing, LISTED))]
    SeveralInstitutions { path: PathBuf, existing: Vec<String> },
    #[error(
        "an institution was asked for, but the mapping has no `institution` column: leave it out, or add the column"
    )]
    NoInstitutionColumn,
}

fn listed<T: fmt::Display>(items: &[T], most: usize) -> String {
    let mut text = items.iter().take(most).map(T::to_string).collect::<Vec<_>>().join(", ");
    if items.len() > most {
        text.push_str(", ...");
    }
    text
}

/// A row that was left out because it could not be used.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Refused {
    /// Counted from 1; a CSV header and blank lines do not count.
    pub row: u64,
    /// The column and what was expected of it; never the value.
    pub reason: String,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "row {}: {}", self.row, self.reason)
    }
}

/// What an import did with a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Summary {
    /// SHA-256 of the file.
    pub source: Digest,
    pub rows_read: u64,
    pub rows_accepted: u64,
    /// Rows of an institution that the mapping ignores.
    pub rows_ignored: u64,
    /// Rows of institutions other than the one asked for; only their institution was looked at.
    pub rows_elsewhere: u64,
    pub rows_refused: u64,
    /// The first [`KEPT_REFUSALS`] of them.
    pub refused: Vec<Refused>,
    /// Tags that the mapping's table has no line for: they kept their own text.
    pub unknown_tags: u64,
    /// The first [`KEPT_TAGS`] of them, by name.
    pub first_unknown_tags: Vec<String>,
    pub institutions: u64,
    pub learners: u64,
    pub held_out_learners: u64,
    /// Learners with one response only: usable, but their features come from no past.
    pub single_response_learners: u64,
}

/// One institution's learners, sorted by id, each with responses oldest first.
#[derive(Clone, Debug)]
pub struct Imported {
    pub learners: Vec<Learner>,
    pub summary: Summary,
}

/// Every institution's learners, as in [`Imported`].
#[derive(Clone, Debug)]
pub struct ImportedAll {
    pub institutions: BTreeMap<String, Vec<Learner>>,
    pub summary: Summary,
}

/// Reads the learners of one institution. `institution` says which, where the mapping has a column for it;
/// it may be left out if the file holds only one.
///
/// # Errors
/// Any [`ImportError`]; nothing is imported then.
pub fn read(
    path: &Path,
    mapping: &Mapping,
    institution: Option<&str>,
) -> Result<Imported, ImportError> {
    if institution.is_some() && !mapping.has_institutions() {
        return Err(ImportError::NoInstitutionColumn);
    }
    let mut all = collect(path, mapping, institution)?;
    if all.institutions.len() > 1 {
        let existing = all.institutions.into_keys().collect();
        return Err(ImportError::SeveralInstitutions { path: path.to_owned(), existing });
    }
    let learners = all.institutions.pop_first().map(|(_, learners)| learners).unwrap_or_default();
    Ok(Imported { learners, summary: all.summary })
}

/// Reads the learners of every institution in the file, for tools that split one.
///
/// # Errors
/// Any [`ImportError`], among them [`ImportError::NoInstitutionColumn`].
pub fn read_all(path: &Path, mapping: &Mapping) -> Result<ImportedAll, ImportError> {
    if !mapping.has_institutions() {
        return Err(ImportError::NoInstitutionColumn);
    }
    collect(path, mapping, None)
}

fn collect(
    path: &Path,
    mapping: &Mapping,
    institution: Option<&str>,
) -> Result<ImportedAll, ImportError> {
    let format = mapping.format_of(path)?;
    let (file, source) = open(path)?;
    let mut collector = Collector::new(path, mapping, institution);
    let columns = collector.columns().to_vec();
    let mut sink = |row: Result<&[Cell<'_>], Shape>| collector.row(row);
    match format {
        Format::Csv => csv::read(path, file, mapping.delimiter(), &columns, &mut sink)?,
        Format::Jsonl => jsonl::read(path, file, &columns, &mut sink)?,
        Format::Parquet => parquet::read(path, file, &columns, &mut sink)?,
    }
    collector.finish(source)
}

/// Opens the file and hashes it through the same handle, so that a file put in its place meanwhile is not
/// taken for it.
fn open(path: &Path) -> Result<(File, Digest), ImportError> {
    let io_error = |source| ImportError::Io { path: path.to_owned(), source };
    let mut file = File::open(path).map_err(io_error)?;
    let mut hasher = Hasher::new();
    let mut buffer = vec![0; 1 << 16];
    let mut length = 0;
    loop {
        let count = file.read(&mut buffer).map_err(io_error)?;
        if count == 0 {
            break;
        }
        length += count;
        hasher.update(&buffer[..count]);
    }
    if length == 0 {
        return Err(ImportError::Empty { path: path.to_owned() });
    }
    file.rewind().map_err(io_error)?;
    Ok((file, hasher.finish()))
}

#[cfg(test)]
mod tests;
