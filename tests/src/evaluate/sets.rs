//! The records that are compared on: files in a directory that are known by their names, or any other with
//! its mapping. Changes nothing of them.

use std::path::Path;

use anyhow::{Context, bail};
use collegium_agent::{
    import::{self, Mapping},
    records::Learner,
};

use crate::demo::population::known_mapping;

/// Where known files are in a directory of real records.
const KNOWN: [&str; 2] = ["timss11_schools.parquet", "assist09.parquet"];

/// One set of records by institution.
pub(super) struct Set {
    pub(super) name: String,
    pub(super) institutions: Vec<Vec<Learner>>,
}

impl Set {
    /// Reads a file by its mapping, or by the known one of its name.
    pub(super) fn read(file: &Path, mapping: Option<&Path>) -> anyhow::Result<Self> {
        let mapping = match mapping {
            Some(mapping) => mapping.to_owned(),
            None => known_mapping(file)?,
        };
        let imported = import::read_all(file, &Mapping::load(&mapping)?)?;
        let name = file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let institutions: Vec<_> = imported.institutions.into_values().collect();
        if institutions.len() < 2 {
            bail!(
                "{}: {} institutions; learning together needs at least 2: check the mapping's column",
                file.display(),
                institutions.len()
            );
        }
        Ok(Self { name, institutions })
    }
}

/// The known files that are in `dir`.
pub(super) fn known(dir: &Path) -> anyhow::Result<Vec<Set>> {
    let present: Vec<_> = KNOWN.iter().map(|name| dir.join(name)).filter(|f| f.exists()).collect();
    if present.is_empty() {
        bail!("{} has none of {}", dir.display(), KNOWN.join(", "));
    }
    let read = |file: &std::path::PathBuf| {
        Set::read(file, None).with_context(|| format!("cannot use {}", file.display()))
    };
    present.iter().map(read).collect()
}
