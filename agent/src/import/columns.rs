//! Finding the mapping's columns in a file, and what can be wrong with a row as a whole.

use std::{fmt, path::Path};

use super::ImportError;

/// Columns that an error lists, and how much of each name.
const LISTED: usize = 64;
const LISTED_NAME: usize = 64;

/// Why a row could not even be cut into cells.
#[derive(Clone, Copy, Debug)]
pub(super) enum Shape {
    Width { expected: usize, found: usize },
    TooLong { limit: usize },
    NotUtf8,
    NotAnObject,
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Width { expected, found } => {
                write!(f, "the row has {found} columns, expected {expected} as in the header")
            }
            Self::TooLong { limit } => write!(f, "the row is longer than {limit} bytes"),
            Self::NotUtf8 => f.write_str("the row is not valid UTF-8"),
            Self::NotAnObject => f.write_str("the row is not one JSON object"),
        }
    }
}

/// The place of each wanted column among those that exist.
pub(super) fn locate(
    path: &Path,
    wanted: &[String],
    existing: &[&str],
) -> Result<Vec<usize>, ImportError> {
    let missing: Vec<String> =
        wanted.iter().filter(|w| !existing.contains(&w.as_str())).cloned().collect();
    if !missing.is_empty() {
        return Err(missing_columns(path, missing, existing.iter().copied()));
    }
    wanted
        .iter()
        .map(|name| {
            let mut places = (0..existing.len()).filter(|p| existing[*p] == name);
            match (places.next(), places.next()) {
                (Some(place), None) => Ok(place),
                _ => Err(ImportError::Malformed {
                    path: path.to_owned(),
                    reason: format!("it has more than one column `{name}`"),
                }),
            }
        })
        .collect()
}

/// The error that names what the mapping asked for and lists what there is.
pub(super) fn missing_columns<'a>(
    path: &Path,
    missing: Vec<String>,
    existing: impl Iterator<Item = &'a str>,
) -> ImportError {
    let mut listed: Vec<String> = existing
        .map(|name| name.chars().filter(|c| !c.is_control()).take(LISTED_NAME).collect())
        .take(LISTED + 1)
        .collect();
    if listed.len() > LISTED {
        listed[LISTED] = "...".to_owned();
    }
    ImportError::MissingColumns { path: path.to_owned(), missing, existing: listed }
}
