//! How registries come into force. A task goes by one registry from its first round to its last, so what is
//! imported meanwhile waits for its end: members see the registry that the open task goes by, also those
//! that come back in the middle of it.

use std::sync::Arc;

use collegium_shared::{documents::SignedDocument, journal::JournalError, roster::Registry};
use serde_json::{Value, json};

use crate::{
    admin::{MAX_REGISTRY_BYTES, keep, root_of, running},
    driver::Driver,
    network::{Event, InForce, NetworkEvent},
};

/// Puts a registry that the root signed into force, or has it wait for the end of the running task.
pub(crate) fn import(
    driver: &mut Driver,
    document: &SignedDocument,
) -> Result<Result<Value, String>, JournalError> {
    let (given, registry) = match check(driver, document) {
        Ok(checked) => checked,
        Err(reason) => return Ok(Err(reason)),
    };
    let (competencies, items) = (registry.competencies.len(), registry.items.len());
    let mut answer =
        json!({ "version": given.version, "competencies": competencies, "items": items });
    let known = driver.state.network.registry().is_some_and(|r| r.digest == given.digest);
    match running(driver).map(|task| task.spec().task.to_string()).filter(|_| !known) {
        None => put_in_force(driver, given, registry)?,
        Some(task) => {
            answer["waits_for"] = json!(task);
            let InForce { document, digest, version } = given;
            let waits = NetworkEvent::RegistryWaits { document, registry: digest, version };
            driver.record(Event::Network(waits))?;
        }
    }
    Ok(Ok(answer))
}

fn check(driver: &Driver, document: &SignedDocument) -> Result<(InForce, Registry), String> {
    let SignedDocument::Registry { signed, .. } = document else {
        return Err("this document is not a registry".to_owned());
    };
    // Roster and registry travel in one message.
    let bytes = serde_json::to_vec(signed).map_or(usize::MAX, |json| json.len());
    if bytes > MAX_REGISTRY_BYTES {
        return Err(format!(
            "the registry has {bytes} bytes; agents accept {MAX_REGISTRY_BYTES}: leave out items \
             that few institutions share"
        ));
    }
    let root = root_of(driver, document)?;
    let registry = root.registry(signed).map_err(|error| error.to_string())?;
    let (digest, version) = (document.digest(), registry.version);
    let network = &driver.state.network;
    for (known, stands) in
        [(network.registry(), "is in force"), (network.waiting_registry(), "waits")]
    {
        let Some(known) = known else { continue };
        if known.version > version {
            return Err(format!("registry {}, which is newer, {stands}", known.version));
        }
        // Agents take newer versions only, and would refuse every plan over another one.
        if known.version == version && known.digest != digest {
            return Err(format!(
                "another registry of version {version} {stands}: build it with --version {}",
                version.saturating_add(1)
            ));
        }
    }
    Ok((InForce { document: keep(driver, document)?, digest, version }, registry))
}

fn put_in_force(
    driver: &mut Driver,
    given: InForce,
    registry: Registry,
) -> Result<(), JournalError> {
    driver.record(Event::Network(NetworkEvent::RegistryImported {
        document: given.document,
        registry: given.digest,
        version: given.version,
        competencies: registry.competencies.len(),
        items: registry.items.len(),
    }))?;
    driver.state.registry = Some(Arc::new(registry));
    Ok(())
}

impl Driver {
    /// Puts the registry that waited for the end of a task into force; false if there is none, or if a task
    /// runs.
    pub(crate) fn take_waiting_registry(&mut self) -> Result<bool, JournalError> {
        let waiting = self.state.network.waiting_registry();
        let free = |waiting: &InForce| {
            running(self).is_none() && self.stuck_registry != Some(waiting.digest)
        };
        let Some(waiting) = waiting.filter(free) else { return Ok(false) };
        let (version, document) = (waiting.version, waiting.document);
        match self.read_registry(&document) {
            Ok(registry) => {
                put_in_force(self, waiting, registry)?;
                tracing::info!(
                    version,
                    "the registry that waited for the end of the task is in force"
                );
                Ok(true)
            }
            // The one before goes on counting. Importing the document again puts its blob back.
            Err(error) => {
                self.stuck_registry = Some(waiting.digest);
                tracing::error!(version, %document, error = format!("{error:#}"),
                    "the registry that waits cannot come into force; import it again");
                Ok(false)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use collegium_shared::documents::UnsignedDocument;

    use super::*;
    use crate::{admin::AdminRequest, archive::tests::Site, task::TaskEnding};

    fn signed(site: &Site, version: u64, competency: &str) -> Box<SignedDocument> {
        let competencies = [competency.to_owned()].into();
        let registry = Registry::new(version, competencies, ["i1".to_owned()].into()).unwrap();
        Box::new(site.sign(&UnsignedDocument::Registry(registry)))
    }

    fn import_into(driver: &mut Driver, document: &SignedDocument) -> Result<Value, String> {
        import(driver, document).unwrap()
    }

    #[test]
    fn a_registry_waits_for_the_end_of_the_task() {
        let site = Site::new();
        let next = signed(&site, 2, "c3");
        let answer = site.ask(AdminRequest::ImportRegistry { document: next.clone() });
        assert_eq!((&answer["version"], &answer["waits_for"]), (&json!(2), &json!("t")));

        // Also over a restart: the open task goes by the one that it began with.
        let mut driver = site.open(&site.dir);
        assert!(!driver.take_waiting_registry().unwrap());
        let began_with = driver.state.network.task().unwrap().registry();
        assert_eq!(driver.state.network.registry().unwrap().digest, began_with);
        assert_eq!(driver.state.registry.as_deref().unwrap().version, 1);
        assert_ne!(began_with, next.digest());
        let needed = driver.state.network.blobs();
        assert!(needed.values().any(|what| *what == "the next registry"), "kept, and in backups");

        let ending = TaskEnding::Failed { reason: "over".into() };
        driver.record(Event::Network(NetworkEvent::TaskEnded { ending })).unwrap();
        assert!(driver.take_waiting_registry().unwrap());
        assert!(!driver.take_waiting_registry().unwrap(), "once");
        let network = &driver.state.network;
        assert_eq!(network.registry().unwrap().digest, next.digest());
        assert_eq!(driver.state.registry.as_deref().unwrap().version, 2);
        assert_eq!(network.task().unwrap().registry(), began_with, "what was, stays");
    }

    #[test]
    fn the_next_task_takes_what_waited_even_where_no_daemon_runs() {
        let site = Site::new();
        let next = signed(&site, 2, "c3");
        site.ask(AdminRequest::ImportRegistry { document: next.clone() });
        let mut driver = site.open(&site.dir);
        let ending = TaskEnding::Failed { reason: "over".into() };
        driver.record(Event::Network(NetworkEvent::TaskEnded { ending })).unwrap();
        driver.once(AdminRequest::Status).unwrap().unwrap();
        let spec = "task = \"u\"\narchitecture = \"kt-logistic/1\"\n\
                    cohort = { c_max = 0, min_honest = 2 }\n";
        site.ask(AdminRequest::StartTask { spec: Box::new(toml::from_str(spec).unwrap()) });
        let driver = site.open(&site.dir);
        assert_eq!(driver.state.network.task().unwrap().registry(), next.digest());
    }

    #[test]
    fn versions_go_forward_and_mean_one_registry() {
        let site = Site::new();
        let (second, other) = (signed(&site, 2, "c3"), signed(&site, 2, "c4"));
        let (first, third) = (signed(&site, 1, "c9"), signed(&site, 3, "c4"));
        let mut driver = site.open(&site.dir);
        let refused = import_into(&mut driver, &first).unwrap_err();
        assert!(refused.contains("version 1 is in force") && refused.contains("--version 2"));
        import_into(&mut driver, &second).unwrap();
        let refused = import_into(&mut driver, &other).unwrap_err();
        assert!(refused.contains("version 2 waits"), "{refused}");
        import_into(&mut driver, &second).unwrap();
        import_into(&mut driver, &third).unwrap();
        assert_eq!(driver.state.network.waiting_registry().unwrap().digest, third.digest());
        let refused = import_into(&mut driver, &second).unwrap_err();
        assert!(refused.contains("registry 3, which is newer, waits"), "{refused}");
    }

    #[test]
    fn one_that_cannot_be_read_leaves_the_one_before_in_force_until_it_is_imported_again() {
        let site = Site::new();
        let next = signed(&site, 2, "c3");
        let mut driver = site.open(&site.dir);
        import_into(&mut driver, &next).unwrap();
        let ending = TaskEnding::Failed { reason: "over".into() };
        driver.record(Event::Network(NetworkEvent::TaskEnded { ending })).unwrap();
        let blob = driver.state.network.waiting_registry().unwrap().document;
        driver.workshop.blobs.remove(&blob).unwrap();
        assert!(!driver.take_waiting_registry().unwrap());
        assert_eq!(driver.state.registry.as_deref().unwrap().version, 1);
        let answer = import_into(&mut driver, &next).unwrap();
        assert!(answer["waits_for"].is_null());
        assert_eq!(driver.state.registry.as_deref().unwrap().version, 2);
        assert!(driver.state.network.waiting_registry().is_none());
    }
}
