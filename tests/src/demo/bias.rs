//! The demo's bias audit: asks every institution about the model that was just trained, and keeps the report
//! as a page and as JSON where it was wanted. Plays the operator; judges nothing.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Context;
use collegium_coordinator::task::TaskSpec;
use collegium_shared::architecture::Architecture;

use super::{consortium::Consortium, screen::Screen, stop::Stop};

/// How long the two sums of an audit may take on a small machine.
const LIMIT: Duration = Duration::from_secs(900);

/// An audit that is wanted, and where its report goes.
pub(super) struct Audit {
    text: String,
    spec: TaskSpec,
    out: PathBuf,
}

impl Audit {
    /// Reads the task's file, and refuses one that could not be started. What is audited is the model that
    /// was trained.
    pub(super) fn read(
        file: &Path,
        out: Option<&Path>,
        trained: Architecture,
    ) -> anyhow::Result<Self> {
        let at = || file.display().to_string();
        let text = fs::read_to_string(file).with_context(at)?;
        let mut spec: TaskSpec = toml::from_str(&text).with_context(at)?;
        let scope = spec.audit.as_mut().context("this task's file has no [audit]");
        scope.with_context(at)?.of = Some(trained);
        spec.check().with_context(at)?;
        let text = toml::to_string(&spec).with_context(at)?;
        let out = out.unwrap_or_else(|| Path::new(".")).to_owned();
        fs::create_dir_all(&out).with_context(|| format!("cannot make {}", out.display()))?;
        Ok(Self { text, spec, out })
    }

    pub(super) fn task(&self) -> &str {
        self.spec.task.as_str()
    }

    /// The attributes that it asks for, which the demo's institutions permit.
    pub(super) fn attributes(&self) -> Vec<&str> {
        self.spec
            .audit
            .iter()
            .flat_map(|scope| scope.attributes.keys())
            .map(String::as_str)
            .collect()
    }

    /// Starts it, waits for its end, and keeps the report.
    pub(super) fn run(
        &self,
        consortium: &mut Consortium<'_>,
        screen: &Screen,
        stop: &Stop,
    ) -> anyhow::Result<()> {
        stop.check()?;
        screen.note(&format!("\nAuditing the model by {} ...", self.attributes().join(", ")));
        let network = &mut consortium.network;
        network.start_task(&self.text)?;
        network.wait_for_task(LIMIT)?;
        let (page, json) = (self.out.join("bias-report.html"), self.out.join("bias-report.json"));
        let name = page.to_str().context("the directory's name is no text")?;
        network.coordinator(&["bias", "page", "--out", name])?;
        let report = network.coordinator(&["bias", "show", "--json"])?.stdout;
        fs::write(&json, report).with_context(|| json.display().to_string())?;
        let listed = network.coordinator(&["bias", "list"])?.stdout;
        screen.say(&format!(
            "\nBias audit: {} and {}\n{}",
            page.display(),
            json.display(),
            String::from_utf8_lossy(&listed)
        ));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use collegium_agent::import::Mapping;

    use super::*;
    use crate::harness::workspace;

    #[test]
    fn the_audit_of_the_real_records_asks_by_what_their_mapping_keeps() {
        let out = tempfile::tempdir().unwrap();
        let file = workspace().join("tests/audits/oulad.toml");
        let trained = Architecture::lookup("wide-mlp/1").unwrap();
        let audit = Audit::read(&file, Some(&out.path().join("reports")), trained).unwrap();
        let started: TaskSpec = toml::from_str(&audit.text).unwrap();
        assert_eq!(started.audit.unwrap().audited(), trained, "as it is started");
        assert!(out.path().join("reports").is_dir());
        let mapping = Mapping::load(&workspace().join("tests/mappings/oulad.toml")).unwrap();
        assert_eq!(
            audit.attributes().iter().collect::<std::collections::BTreeSet<_>>().len(),
            mapping.attributes().len()
        );
        assert!(
            mapping.attributes().iter().all(|name| audit.attributes().contains(&name.as_str()))
        );
        let training = workspace().join("deploy/task.toml");
        assert!(Audit::read(&training, None, trained).is_err(), "it audits nothing");
    }
}
