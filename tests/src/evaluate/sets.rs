//! The records that are compared on: files in a directory that are known by their names, or any other with
//! its mapping. Changes nothing of them.

use std::{fs, path::Path};

use anyhow::{Context, bail};
use collegium_agent::{
    import::{self, Mapping},
    records::Learner,
};

use collegium_coordinator::task::TaskSpec;

use crate::{demo::population::known_mapping, harness::workspace};

/// Where known files are in a directory of real records.
const KNOWN: [&str; 3] =
    ["timss11_schools.parquet", "assist09.parquet", "oulad/task_assessment_completion.parquet"];

/// One set of records by institution.
pub(super) struct Set {
    pub(super) name: String,
    pub(super) institutions: Vec<Vec<Learner>>,
    /// What is trained on them, if it is not the logistic model with its usual settings.
    pub(super) task: Option<TaskSpec>,
}

impl Set {
    /// Reads a file by its mapping, or by the known one of its name; the same of its task.
    pub(super) fn read(
        file: &Path,
        mapping: Option<&Path>,
        task: Option<&Path>,
    ) -> anyhow::Result<Self> {
        let known = mapping.is_none();
        let mapping = match mapping {
            Some(mapping) => mapping.to_owned(),
            None => known_mapping(file)?,
        };
        let imported = import::read_all(file, &Mapping::load(&mapping)?)?;
        // Known files are called like their mappings.
        let called = if known { mapping.as_path() } else { file };
        let name = called.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let institutions: Vec<_> = imported.institutions.into_values().collect();
        if institutions.len() < 2 {
            bail!(
                "{}: {} institutions; learning together needs at least 2: check the mapping's column",
                file.display(),
                institutions.len()
            );
        }
        let task = match task {
            Some(task) => Some(read_task(task)?),
            None => known_task(&mapping)?,
        };
        Ok(Self { name, institutions, task })
    }
}

/// A task's file.
pub(crate) fn read_task(file: &Path) -> anyhow::Result<TaskSpec> {
    let text =
        fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    toml::from_str(&text).with_context(|| format!("{} is no task file", file.display()))
}

/// The task in tests/tasks that is called like the mapping.
fn known_task(mapping: &Path) -> anyhow::Result<Option<TaskSpec>> {
    let name = mapping.with_extension("toml");
    let file = workspace().join("tests/tasks").join(name.file_name().unwrap_or_default());
    file.exists().then(|| read_task(&file)).transpose()
}

/// The known files that are in `dir`.
pub(super) fn known(dir: &Path) -> anyhow::Result<Vec<Set>> {
    let present: Vec<_> = KNOWN.iter().map(|name| dir.join(name)).filter(|f| f.exists()).collect();
    if present.is_empty() {
        bail!("{} has none of {}", dir.display(), KNOWN.join(", "));
    }
    let read = |file: &std::path::PathBuf| {
        Set::read(file, None, None).with_context(|| format!("cannot use {}", file.display()))
    };
    present.iter().map(read).collect()
}
